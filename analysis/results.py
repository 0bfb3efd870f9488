"""Results on disk: append-only tables of runs, and the declarations of the studies that want them.

    results/studies/<study>-<dataset>-<identity>.json   what was declared, when, with which keys
    results/runs/<chunk>.parquet                        finished runs, one row a run
    results/frozen/<chunk>.parquet                      frozen evaluations, many rows a run
    results/mechanism/<chunk>.parquet                   measured on the way, one row a run and step

A run is known by its key, a hash of everything that defines it; a study finds its runs by key, so
two studies that want the same run share it. A run may have several keys, the later ones from older
versions: its rows are those under the first that has any. Chunks are written once, under a
temporary name first, and never edited. A damaged file is reported and left alone; its runs count
as missing.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from aba_core.identity import Use
from analysis.study import Study

# The results that come with the repository.
SHIPPED = Path(__file__).resolve().parents[1] / "data" / "results"


class ResultsError(ValueError):
    """Results that are not there or cannot be read; one line saying what to do."""


def _write_atomically(path: Path, content: bytes) -> None:
    """The whole file or none of it, also across a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_chunk(results: Path, kind: str, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """One finished chunk of rows as results/<kind>/<name>.parquet; an existing file is kept.

    The columns are those of all rows together; a row that lacks one has nothing there.
    """
    path = Path(results) / kind / f"{name}.parquet"
    if path.exists() and read_chunk(path) is not None:
        return path
    columns = dict.fromkeys(column for row in rows for column in row)
    table = pa.table({column: [row.get(column) for row in rows] for column in columns})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    _write_atomically(path, sink.getvalue().to_pybytes())
    return path


def read_chunk(path: Path) -> pd.DataFrame | None:
    """The rows of a chunk, None where the file is damaged."""
    try:
        frame = pq.read_table(path).to_pandas()
    except (pa.ArrowException, OSError, ValueError):
        return None
    return frame if "key" in frame.columns and len(frame) else None


def read_rows(results: Path, kind: str) -> tuple[pd.DataFrame, list[Path]]:
    """All rows of a kind ("runs", "frozen", "mechanism"), and the damaged files passed over."""
    frames, damaged = [], []
    for path in sorted((Path(results) / kind).glob("*.parquet")):
        frame = read_chunk(path)
        if frame is None:
            damaged.append(path)
        else:
            frames.append(frame)
    if not frames:
        return pd.DataFrame({"key": pd.Series(dtype=str)}), damaged
    rows = pd.concat(frames, ignore_index=True)
    # A run that two studies computed at the same time stands in two chunks: the first one counts.
    first = rows.groupby("key", sort=False)["chunk"].transform("first")
    return rows[rows["chunk"] == first].reset_index(drop=True), damaged


@dataclass(frozen=True)
class Declaration:
    """A study as it was declared: before its runs, with the key of every run it wants."""

    study: Study
    keys: Mapping[str, tuple[str, int]]  # key: (arm, seed); a run's first key is the newest
    declared: Sequence[Mapping[str, Any]] = ()  # when, with how many seeds, under which preset
    path: Path | None = None

    @property
    def kind(self) -> str:
        return "frozen" if self.study.frozen else "runs"

    @property
    def runs(self) -> tuple[tuple[str, int], ...]:
        """(arm, seed) of every run wanted."""
        return tuple(dict.fromkeys(self.keys.values()))


def declare(results: Path, study: Study, keys: Mapping[str, tuple[str, int]]) -> Declaration:
    """Write down what a study will run, or add seeds to what it declared before.

    A run that was declared under other keys (of other data, say) is now known by these alone.
    """
    path = _declared_at(results, study)
    declared: list[Mapping[str, Any]] = []
    seeds = len(study.seeds)
    all_keys = dict(keys)
    undeclared = set(keys.values())
    if path.exists():
        before = _read_declaration(path)
        if set(before.keys) >= set(keys):
            return before
        declared = list(before.declared)
        undeclared -= {run for key, run in keys.items() if key in before.keys}
        rest = {key: run for key, run in before.keys.items() if run not in set(keys.values())}
        all_keys = rest | all_keys
        study = study.model_copy(
            update={"seeds": tuple(sorted({*before.study.seeds, *study.seeds}))}
        )
    if undeclared:  # not where only keys are new
        now = datetime.now(UTC).isoformat(timespec="seconds")
        declared.append({"at": now, "preset": study.preset, "seeds": seeds})
    content = {
        "study": study.model_dump(mode="json", exclude_none=True),
        "declared": declared,
        "keys": {key: list(value) for key, value in all_keys.items()},
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    _write_atomically(path, text.encode("utf-8"))
    return Declaration(study, all_keys, declared, path)


def _declared_at(results: Path, study: Study) -> Path:
    """Where a study is declared, or will be: known by what it says and not by the file's name,
    which older versions chose by other rules."""
    folder = Path(results) / "studies"
    for path in sorted(folder.glob(f"{study.name}-{study.dataset}-*.json")):
        if _read_declaration(path).study.identity == study.identity:
            return path
    return folder / f"{study.name}-{study.dataset}-{study.identity}.json"


def _read_declaration(path: Path) -> Declaration:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        keys = {key: (str(arm), int(seed)) for key, (arm, seed) in content["keys"].items()}
        study = Study.model_validate(content["study"], context={"declared": True})
        return Declaration(study, keys, content["declared"], path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(
            f"{path} is damaged ({type(error).__name__}); move it away and run the study again: "
            "finished runs are kept"
        ) from error


def declarations(results: Path) -> list[Declaration]:
    """Every study declared in a results folder, by name."""
    folder = Path(results) / "studies"
    return [_read_declaration(path) for path in sorted(folder.glob("*.json"))]


@dataclass(frozen=True)
class StudyResult:
    """The finished part of a declared study.

    frame: one row a run (frozen studies: one a run, adjustment and strength), with the declared
    arm names. missing: declared runs that have no row. damaged: files passed over.
    others: further declarations of the same study and data set that were not chosen.
    """

    frame: pd.DataFrame
    declaration: Declaration
    missing: tuple[tuple[str, int], ...]
    damaged: tuple[Path, ...]
    others: tuple[Declaration, ...] = field(default=())

    def summary(self) -> str:
        """One line: what this is and whether it is all there."""
        study = self.declaration.study
        config = study.config
        runs = self.frame["key"].nunique()
        diverged = 0
        if "status" in self.frame:
            diverged = self.frame.loc[self.frame["status"] != "finished", "key"].nunique()
        parts = [
            f"{study.name} on {study.dataset} ({config.get('subset', 'tiny')}, "
            f"{_model(config)}"
            f"{' with batch norm' * bool(config.get('batch_norm'))}, "
            f"{config.get('epochs', '?')} epochs)",
            f"{runs} of {len(self.declaration.runs)} runs, {len(study.seeds)} seeds",
        ]
        parts += [f"{diverged} diverged"] * bool(diverged)
        parts += [f"{len(self.damaged)} damaged files passed over"] * bool(self.damaged)
        parts += [f"{len(self.others)} other settings of this study not shown"] * bool(self.others)
        return "; ".join(parts) + "."


def collect(
    declaration: Declaration, rows: pd.DataFrame, damaged: Iterable[Path] = ()
) -> StudyResult:
    """The rows a declaration asks for, under its own arm names."""
    keys = declaration.keys
    present = set(rows["key"])
    chosen: dict[tuple[str, int], str] = {}
    for key, run in keys.items():
        if key in present:
            chosen.setdefault(run, key)
    frame = rows[rows["key"].isin(list(chosen.values()))].copy()
    frame["arm"] = [keys[key][0] for key in frame["key"]]
    frame["study"] = declaration.study.name
    arm_place = {arm.name: number for number, arm in enumerate(declaration.study.arms)}
    order = [arm_place[arm] for arm in frame["arm"]]
    if len(frame):
        frame = frame.assign(_place=order).sort_values(["_place", "seed"], kind="stable")
        frame = frame.drop(columns="_place").reset_index(drop=True)
    missing = tuple(run for run in declaration.runs if run not in chosen)
    return StudyResult(frame, declaration, missing, tuple(damaged))


def load(results: Path | str, study: str, dataset: str, preset: str = "") -> StudyResult:
    """The results of one study on one data set.

    Where it was run with several settings, the one with most finished runs is chosen, or the one
    declared under `preset`; `others` names the rest. Raises ResultsError where there is none.
    """
    results = Path(results)
    ran = [
        (declaration, {entry["preset"] for entry in declaration.declared})
        for declaration in declarations(results)
        if (declaration.study.name, declaration.study.dataset) == (study, dataset)
    ]
    matching = [declaration for declaration, presets in ran if not preset or preset in presets]
    if ran and not matching:
        raise ResultsError(
            f"the {study} study on {dataset} in {results} was not run with preset {preset!r}; "
            f"there: {', '.join(sorted(set().union(*(presets for _, presets in ran))))}"
        )
    if not matching:
        names = sorted({f"{d.study.name} on {d.study.dataset}" for d in declarations(results)})
        raise ResultsError(
            f"no {study} study on {dataset}{f' with preset {preset}' * bool(preset)} in {results}; "
            f"there: {', '.join(names) or 'nothing'}; run: aba run {study} --dataset {dataset}"
            f"{f' --preset {preset}' * bool(preset)} --results {results}"
        )
    rows, damaged = read_rows(results, matching[0].kind)
    collected = [collect(declaration, rows, damaged) for declaration in matching]
    best = max(collected, key=lambda result: result.frame["key"].nunique())
    others = tuple(r.declaration for r in collected if r is not best)
    if not len(best.frame):
        raise ResultsError(
            f"{study} on {dataset} is declared in {results} but none of its runs is finished; "
            f"run: aba run {study} --dataset {dataset} --results {results}"
        )
    return StudyResult(best.frame, best.declaration, best.missing, best.damaged, others)


def overview(results: Path) -> tuple[tuple[str, ...], list[tuple], list[Path]]:
    """Titles and a row for every study declared in a folder, and the damaged files."""
    head = ("study", "dataset", "model", "epochs", "strength", "preset", "arms", "seeds", "runs")
    rows: list[tuple] = []
    damaged: set[Path] = set()
    tables = {kind: read_rows(results, kind) for kind in ("runs", "frozen")}
    for declaration in declarations(results):
        result = collect(declaration, *tables[declaration.kind])
        damaged |= set(result.damaged)
        runs = result.frame.drop_duplicates("key")
        study, config = declaration.study, declaration.study.config
        strengths = sorted({s for arm in study.arms if (s := arm.setting("strength"))})
        rows.append(
            (
                study.name,
                study.dataset,
                _model(config) + "+bn" * bool(config.get("batch_norm")),
                config.get("epochs", "?"),
                "–".join(f"{s:g}" for s in dict.fromkeys((*strengths[:1], *strengths[-1:]))),
                "+".join(sorted({entry["preset"] for entry in declaration.declared})),
                len(study.arms),
                len(study.seeds),
                f"{len(runs)}/{len(declaration.runs)}",
                int((runs["status"] != "finished").sum()) if len(runs) else 0,
                f"{runs['seconds'].sum():.0f}" if len(runs) else "0",
                declaration.declared[0]["at"][:10],
            )
        )
    return (*head, "diverged", "core s", "declared"), rows, sorted(damaged)


def _model(config: Mapping[str, Any]) -> str:
    model = config.get("model", "small_cnn")
    return str(Use.read(model) or model)


def measured(result: StudyResult) -> StudyResult:
    """What was measured while a study's runs trained: one row a run and step.

    result: as `load` returns it. Raises ResultsError where its config asks for no measurements or
    none is there.
    """
    study, path = result.declaration.study, result.declaration.path
    if not study.config.get("mechanism") or path is None:
        raise ResultsError(
            f"{study.name} on {study.dataset} measured nothing on the way; give its config "
            "mechanism: 5, or run: aba run mechanism"
        )
    rows, damaged = read_rows(path.parent.parent, "mechanism")
    measurements = collect(result.declaration, rows, damaged)
    if not len(measurements.frame):
        raise ResultsError(f"{study.name} on {study.dataset} has runs but no measurements")
    return measurements
