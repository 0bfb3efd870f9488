"""Declarations as events: each is a file that is never changed; reading merges them.

    results/studies/<study>-<dataset>-<identity>.<hash>.json     one event, named by its content
    results/studies/<study>-<dataset>-<identity>.json            all of them in one, as once written

Whoever declares writes a file of its own and touches no other, so that runners in one folder
cannot lose one another's seeds. A study's declaration is what its events say together, in the order
of their time: the seeds of all, every run under its latest keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from analysis.store import files
from analysis.store.files import ResultsError
from analysis.study import Study
from analysis.yaml_text import first_problem

_EVENT = re.compile(r".+\.([0-9a-f]{16})\.json")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True)
class Declaration:
    """A study as it was declared: before its runs, with the key of every run it wants."""

    study: Study
    keys: Mapping[str, tuple[str, int]]  # key: (arm, seed); a run's first key is the newest
    declared: Sequence[Mapping[str, Any]] = ()  # when, with how many seeds, under which preset
    path: Path | None = None  # the first of its files

    @property
    def kind(self) -> str:
        return "frozen" if self.study.frozen else "runs"

    @property
    def runs(self) -> tuple[tuple[str, int], ...]:
        """(arm, seed) of every run wanted."""
        return tuple(dict.fromkeys(self.keys.values()))


@dataclass(frozen=True)
class Event:
    """One file: what somebody declared at a time."""

    at: str
    declaration: Declaration

    @cached_property
    def identity(self) -> str:
        """The study's, which takes longer than reading it: once for each file."""
        return self.declaration.study.identity

    @property
    def order(self) -> tuple[str, str]:
        """By time; by name what was declared at the same."""
        return self.at, str(self.declaration.path)


def declare(results: Path, study: Study, keys: Mapping[str, tuple[str, int]]) -> Declaration:
    """Write down what a study will run, or add seeds to what was declared before.

    A run that was declared under other keys (of other data, say) is now known by these alone.
    """
    earlier = _events_of(results, study)
    undeclared = set(keys.values())
    if earlier:
        before = merged(earlier)
        if set(before.keys) >= set(keys):
            return before
        undeclared -= {run for key, run in keys.items() if key in before.keys}
    now = _after(earlier)
    declared = {
        "at": now.isoformat(timespec="seconds"),
        "preset": study.preset,
        "seeds": len(study.seeds),
    }
    content = {
        "at": now.isoformat(timespec="microseconds"),
        "study": study.model_dump(mode="json", exclude_none=True),
        "declared": [declared] if undeclared else [],  # not where only keys are new
    }
    # A line a run: indented like the rest, the keys of a large study would take twice the room.
    rows = (
        f"{json.dumps(key)}: {json.dumps(run, ensure_ascii=False)}" for key, run in keys.items()
    )
    readable = json.dumps(content, indent=1, ensure_ascii=False).removesuffix("\n}")
    text = (readable + ',\n "keys": {\n' + ",\n".join(rows) + "\n }\n}\n").encode()
    name = f"{study.name}-{study.dataset}-{study.identity}.{files.digest(text)[:16]}.json"
    files.publish(results, f"studies/{name}", text, line_first=False)
    return merged(_events_of(results, study))


def _after(earlier: Iterable[Event]) -> datetime:
    """Now, or where clocks disagree just after what was declared before."""
    now = datetime.now(UTC)
    for event in earlier:
        try:
            now = max(now, datetime.fromisoformat(event.at) + timedelta(microseconds=1))
        except (ValueError, TypeError, OverflowError):
            continue
    return now


def declarations(results: Path, study: str = "", dataset: str = "") -> list[Declaration]:
    """Every study declared in a results folder, by name; or those on one data set; or the settings
    that one study was declared with on it. Raises ResultsError where a file is damaged."""
    studies: dict[tuple[str, str, str], list[Event]] = {}
    for event in _events(results, study, dataset):
        of_event = event.declaration.study
        if (study and of_event.name != study) or (dataset and of_event.dataset != dataset):
            continue
        known_as = (of_event.name, of_event.dataset, event.identity)
        studies.setdefault(known_as, []).append(event)
    return [merged(events) for events in studies.values()]


def merged(events: Sequence[Event]) -> Declaration:
    """What the events of one study say together, in whatever order they are read."""
    events = sorted(events, key=lambda event: event.order)
    keys: dict[str, tuple[str, int]] = {}
    for event in events:
        again = set(event.declaration.keys.values())
        kept = {key: run for key, run in keys.items() if run not in again}
        keys = kept | dict(event.declaration.keys)
    studies = [event.declaration.study for event in events]
    seeds = tuple(sorted({seed for study in studies for seed in study.seeds}))
    declared = [entry for event in events for entry in event.declaration.declared]
    return Declaration(
        studies[-1].model_copy(update={"seeds": seeds}),
        keys,
        sorted(declared, key=lambda entry: str(entry["at"])),
        events[0].declaration.path,
    )


def _events_of(results: Path, study: Study) -> list[Event]:
    """A study is known by what it says and not by the file's name, which older versions chose by
    other rules."""
    identity = study.identity
    return [
        event
        for event in _events(results, study.name, study.dataset)
        if (event.declaration.study.name, event.declaration.study.dataset)
        == (study.name, study.dataset)
        and event.identity == identity
    ]


def _events(results: Path, study: str = "", dataset: str = "") -> list[Event]:
    """Events of files whose names begin with study and data set, or may be of the data set."""
    folder, within = Path(results) / "studies", f"-{dataset}-" if dataset else ""
    start = f"{study}{within}" if dataset else ""
    listed = [
        name
        for name in files.names(folder, ".json")
        if (name.startswith(start) if study else within in name)
    ]
    manifest = files.read_manifest(results) if listed else files.Manifest({})
    return [read_event(folder / name, manifest) for name in listed]


# {file: (its stamp, its hash, what it says)}: files are written once, and read once by a process.
_read: dict[Path, tuple[files.Stamp, str, Event]] = {}


def read_event(path: Path, manifest: files.Manifest) -> Event:
    """What a file declares. Raises ResultsError where it is not what was written."""
    try:
        now = files.stamp(path)
        known = _read.get(path)
        if known is None or known[0] != now:
            content = path.read_bytes()
            _read[path] = known = now, files.digest(content), _parsed(path, content)
    except ValidationError as error:
        raise _damaged(path, first_problem(error)) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    _, sha, event = known
    named = _EVENT.fullmatch(path.name)
    listed = f"studies/{path.name}" in manifest.hashes
    if named and not sha.startswith(named[1]):
        raise _damaged(path, "its content is not that of its name")
    if listed and manifest.problem(f"studies/{path.name}", sha):
        raise _damaged(path, "it has changed since it was written")
    return event


def _damaged(path: Path, reason: str) -> ResultsError:
    return ResultsError(
        f"{path} is damaged ({' '.join(reason.split())[:200]}); move it away and run the study "
        "again: finished runs are kept"
    )


def _parsed(path: Path, content: bytes) -> Event:
    """Raises ValueError, KeyError or TypeError for what no declaration says."""
    said = json.loads(content.decode())
    study = Study.model_validate(said["study"], context={"declared": True})
    arms, seeds = {arm.name for arm in study.arms}, set(study.seeds)
    keys = {}
    for key, (arm, seed) in said["keys"].items():
        if not _KEY.fullmatch(key) or not isinstance(seed, int) or isinstance(seed, bool):
            raise ValueError(f"{key!r} is no key of a run")
        if arm not in arms or seed not in seeds:
            raise ValueError(f"key {key!r} is of arm {arm!r}, seed {seed}, which the study lacks")
        keys[key] = (arm, seed)
    for entry in said["declared"]:
        if not (isinstance(entry["at"], str) and isinstance(entry["preset"], str)):
            raise ValueError(f"{entry!r} says neither when nor how it was declared")
    at = said.get("at") or max((entry["at"] for entry in said["declared"]), default="")
    if not isinstance(at, str):
        raise ValueError(f"at is {at!r}")
    return Event(at, Declaration(study, keys, said["declared"], path))
