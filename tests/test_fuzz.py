"""Whatever is typed, written in a study file or found in results: it works, or one line says why.

Every case runs a command in this process, by the function behind `aba`, in a folder of its own.
Held for each: exit code 0, or another one and a line that begins with "aba:"; never a traceback;
nothing outside the folders for results and reports; nothing half-written in them. Training and
notebooks themselves are replaced by something instant; all before and after is the real thing.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis.strategies as st
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from oracles.made_results import make_study

from aba_core.arms import Arm
from analysis import reports, results, runner, terminal
from analysis.cli import app
from analysis.plan import load_splits
from analysis.reports import batch
from analysis.results import SHIPPED
from analysis.store import files
from analysis.study import Study

QUICK, SLOW = 50, 525  # cases of each of the four kinds
LIMIT = 60  # seconds for a case


def cases(number: int) -> Any:
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=number, suppress_health_check=checks)


NASTY_TEXT = st.one_of(
    st.sampled_from(
        [
         '', ' ', '-', '--', '-1', '0', '1',
         '2', 'nan', 'inf', '-inf', '1e400', '1e-400', '1e12',
         '9223372036854775808', '18446744073709551616', '-0.0', 'true', 'null', '~', '.',
         '..', '../up', '/', '/dev/null', '/dev/zero', 'a/b', 'a=b',
         '=', '=1', 'a=', ',', ',,', 'x,y', 'isolation',
         'digits', 'mlp', 'mendaba', 'mnist', "x" * 300, '\xe9', '\u65e5\u672c',
         '\u202e', '\u200b', '%s', '{}', '{0.__class__}', '$HOME', '`ls`',
         '[1, 2', '{a: b', '!!python/object:os.system', '&a [*a]', 'nowhere:thing', ':', 'a:',
         "'", '"', '\n', '\t', 'a\nb', 'quick', 'validation_accuracy',
         'test_loss', 'own.yaml',
         ]
    ),
    st.text(max_size=12),
)  # fmt: skip
NASTY_NUMBER = st.one_of(
    st.sampled_from(
        [0, 1, -1, 2, 10**6, 10**9, 2**31, 2**63, 2**64, -(2**63), 0.0, -0.5, 0.5, 1e-300, 1e300,
         float("nan"), float("inf"), -float("inf")]
    ),
    st.integers(-5, 50),
    st.floats(allow_nan=True),
)  # fmt: skip
NASTY = st.recursive(
    st.one_of(st.none(), st.booleans(), NASTY_NUMBER, NASTY_TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(NASTY_TEXT, inner, max_size=3)
    ),
    max_leaves=5,
)
# Nothing that is tried may name code that exists: it would be run, as it should be.
BASE: dict[str, Any] = {
    "name": "own",
    "dataset": "digits",
    "config": {
        "model": "mlp", "epochs": 1, "batch_size": 20, "learning_rate": 0.1, "optimizer": "sgd",
        "schedule": "cosine", "curve_every": 0, "mechanism": 0, "subset": "tiny",
    },
    "arms": [
        {"name": "vanilla"},
        {"name": "a", "adjustments": "3,4", "strength": 0.3, "target": "loss"},
        {"name": "m", "method": {"kind": "mixup", "alpha": 0.2}},
    ],
    "seeds": 2,
    "hypotheses": [
        {
            "name": "h", "statement": "s", "estimand": "e", "n": 2, "rule": "all", "margin": 0.5,
            "comparisons": [{"label": "a", "weights": {"a": 1, "vanilla": -1}}],
        }
    ],
    "note": "tried",
}  # fmt: skip


def instant(chunks: Any, report: Any) -> Iterator[tuple[Any, Any]]:
    """An engine whose training takes no time, with rows as the real one has them."""
    for chunk in chunks:
        rows = []
        for arm, seed, key in chunk.runs:
            row = {"study": chunk.study, "arm": arm, "seed": seed, "key": key, "status": "finished"}
            row |= {**chunk.config.row(), "seconds": 1.0, "chunk": chunk.name}
            row |= {"data": load_splits(chunk.config).fingerprint, "hypotheses": chunk.hypotheses}
            for part in ("train", "validation", "test"):
                row |= {f"{part}_accuracy": 0.5, f"{part}_loss": 1.0}
            rows.append(row)
        yield chunk, {chunk.kind: rows}


def shown(job: Any, processes: Any) -> batch.Outcome:
    """A notebook that takes no time: its parameters are checked by then."""
    page = reports.page(**job.parameters)
    assert str(page.results)
    path = job.out / f"{job.stem}.ipynb"
    path.write_text("{}")
    path.unlink()
    return batch.Outcome(job.notebook.stem, job.values, 0.0, "finished", (path,))


class Room:
    """A folder in which commands are tried, and what may change in it."""

    def __init__(self, top: Path) -> None:
        self.top, self.work = top, top / "above" / "work"
        shutil.rmtree(top, ignore_errors=True)
        self.work.mkdir(parents=True)
        (top / "above" / "precious.txt").write_text("kept")
        (self.work / "own.yaml").write_text(yaml.safe_dump(BASE, sort_keys=False))

    def outside(self) -> dict[str, bytes | None]:
        """Everything but what is in the folders that commands may write to."""
        return {
            str(path.relative_to(self.top)): path.read_bytes() if path.is_file() else None
            for path in self.top.rglob("*")
            if not {"results", "reports"} & set(path.relative_to(self.top).parts)
        }

    def call(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command and hold what must hold for each; exit code and what it printed."""
        before = self.outside()
        printed, said = io.StringIO(), io.StringIO()
        at, path, environment = Path.cwd(), list(sys.path), dict(os.environ)
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(LIMIT)
        try:
            os.chdir(self.work)
            with (
                warnings.catch_warnings(),
                contextlib.redirect_stdout(printed),
                contextlib.redirect_stderr(said),
                mock.patch.object(
                    runner, "choose_engine", lambda engine, device, n=None: (instant, "cpu")
                ),
                mock.patch.object(batch, "_run", shown),
            ):
                warnings.simplefilter("ignore")  # as for a user
                code = terminal.exit_code(lambda: app(list(arguments), standalone_mode=False))
        finally:
            signal.alarm(0)
            os.chdir(at)
            sys.path[:] = path
            os.environ.clear()
            os.environ.update(environment)
        out, err = printed.getvalue(), said.getvalue()
        assert isinstance(code, int)
        assert "Traceback" not in out + err, err
        if code:
            lines = [line for line in err.splitlines() if line.startswith("aba: ")]
            spoken = lines or (code == 1 and out.strip())  # what verify and doctor find is no error
            assert spoken, (code, out, err)
            if code == 2:
                assert len(lines) == 1 and len(err) < 3000, err
        assert self.outside() == before
        left = [path for path in self.work.rglob("*") if _half_written(path.name)]
        assert not left, left
        return code, out, err


def _half_written(name: str) -> bool:
    return name.startswith(".") and name not in (".", "..") and not name.startswith(".gitignore")


def _too_long(*_: object) -> None:
    raise TimeoutError(f"a case took more than {LIMIT} s")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# --- the command line ----------------------------------------------------------------------------

COMMANDS = {
    "adjustments": ["--csv"],
    "datasets": [],
    "methods": [],
    "run": ["--dataset", "--preset", "--seeds", "--set", "--device", "--processes", "--graphs"],
    "plan": ["--effect", "--power", "--comparisons", "--dataset", "--preset", "--metric"],
    "status": ["--results"],
    "verify": ["--results", "--adopt"],
    "report": ["--dataset", "-p", "--over", "--parameters", "--jobs", "--force", "--format"],
    "compare": ["--dataset", "--metric", "--confidence", "--preset"],
    "figures": ["--dataset", "--format", "--width", "--style", "--metric", "--seed", "--preset"],
    "nonsense": [],
}
PARAMETER = st.tuples(
    st.sampled_from(["dataset", "confidence", "seed", "metric", "preset", "results", "out",
                     "strength", "study", "nonsense", "sample"]),
    NASTY_TEXT,
).map("=".join)  # fmt: skip
FIELD = st.tuples(st.sampled_from([*BASE["config"], "strength", "momentum", "x"]), NASTY_TEXT).map(
    "=".join
)
SHOWN = st.sampled_from(["02_isolation", "13_any_study", "6", "mechanism", "own.yaml", "nonsense"])


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    command = draw(st.sampled_from([*COMMANDS]))
    line = [command]
    if command in ("run", "plan"):
        line.append(draw(st.one_of(st.sampled_from(["own.yaml", "tension"]), NASTY_TEXT)))
    if command == "report":
        line.append(draw(st.one_of(SHOWN, NASTY_TEXT)))
    for _ in range(draw(st.integers(0, 3))):
        option = draw(st.one_of(st.sampled_from(COMMANDS[command] or ["-x"]), NASTY_TEXT))
        line.append(option)
        if option in ("-p", "--over"):
            line.append(draw(PARAMETER))
        elif option == "--set":
            line.append(draw(FIELD))
        elif option not in ("--csv", "--adopt", "--force", "--graphs") and draw(st.booleans()):
            line.append(draw(NASTY_TEXT))
    return [part.replace("\0", "") for part in line]


def try_command_line(room: Path, line: list[str]) -> None:
    # Figures of all shipped results take minutes; and nothing here may run code by "module:name".
    Room(room).call(*line)


@cases(QUICK)
@given(line=command_lines())
def test_any_command_line_works_or_is_one_clear_line(room, line):
    try_command_line(room, line)


@pytest.mark.slow
@cases(SLOW)
@given(line=command_lines())
def test_any_of_many_command_lines(room, line):
    try_command_line(room, line)


# --- study files ---------------------------------------------------------------------------------


def places(value: Any, at: tuple = ()) -> list[tuple]:
    """Where something can be changed in plain data."""
    if not isinstance(value, dict | list):
        return [at] * bool(at)
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    return [at] * bool(at) + [p for name, one in inner for p in places(one, (*at, name))]


@st.composite
def changed(draw: st.DrawFn, base: Any) -> Any:
    """Plain data with one to three things in it changed, taken out or added."""
    data = json.loads(json.dumps(base))
    for _ in range(draw(st.integers(1, 3))):
        every = places(data)
        if not every:
            break
        *way, last = draw(st.sampled_from(every))
        holder = data
        for step in way:
            holder = holder[step]
        what = draw(st.sampled_from(["change", "change", "remove", "add"]))
        if what == "change":
            holder[last] = draw(NASTY)
        elif what == "remove":
            del holder[last]
        elif isinstance(holder, dict):
            holder[draw(NASTY_TEXT)] = draw(NASTY)
        else:
            holder.append(draw(NASTY))
    return data


def damaged(content: bytes, draws: list[tuple[int, int, int]]) -> bytes:
    """Bytes changed, cut out or put in, at places counted from the front."""
    for where, kind, byte in draws:
        at = where % (len(content) + 1)
        content = (
            content[:at] + bytes([byte]) + content[at + (kind != 1) :]
            if kind < 2
            else content[:at] + content[at + byte :]
            if kind == 2
            else content[:at]
        )
    return content


DAMAGE = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(0, 3), st.integers(0, 255)), min_size=1, max_size=4
)


@st.composite
def study_files(draw: st.DrawFn) -> bytes:
    text = yaml.safe_dump(draw(changed(BASE)), sort_keys=False, allow_unicode=True).encode(
        "utf-8", "replace"
    )
    return damaged(text, draw(DAMAGE)) if draw(st.integers(0, 3)) == 0 else text


def try_study_file(room: Path, content: bytes) -> None:
    tried = Room(room)
    (tried.work / "mine.yaml").write_bytes(content)
    code, _, _ = tried.call("run", "mine.yaml", "--device", "cpu")
    declared = [*(tried.work / "results").rglob("studies/*.json")]
    assert bool(declared) == (code == 0), "declared what cannot run, or ran what was not declared"
    if code == 0:
        assert tried.call("status")[0] == tried.call("verify")[0] == 0


ODD = "name: own\ndataset: digits\narms: [{{name: a, method: {{kind: {}}}}}]\nseeds: 1\n{}\n"


@example(content=ODD.format("[]", "").encode())
@example(content=ODD.format("{a: 1}", "").encode())
@example(content=ODD.format("mixup", "1: 2").encode())
@cases(QUICK)
@given(content=study_files())
def test_any_study_file_runs_or_is_one_clear_line(room, content):
    try_study_file(room, content)


@pytest.mark.slow
@cases(SLOW)
@given(content=study_files())
def test_any_of_many_study_files(room, content):
    try_study_file(room, content)


# --- parameters of reports -----------------------------------------------------------------------

GIVEN: dict[str, Any] = {"dataset": "digits", "confidence": [0.9, 0.95], "seed": 3, "preset": ""}


@st.composite
def parameter_files(draw: st.DrawFn) -> tuple[bytes, list[str]]:
    base = draw(st.sampled_from([GIVEN, [GIVEN | {"confidence": 0.9}, {"seed": 1}]]))
    text = yaml.safe_dump(draw(changed(base)), allow_unicode=True).encode("utf-8", "replace")
    if draw(st.integers(0, 3)) == 0:
        text = damaged(text, draw(DAMAGE))
    typed = [part for one in draw(st.lists(PARAMETER, max_size=2)) for part in ("-p", one)]
    return text, [part.replace("\0", "") for part in typed]


def try_parameters(room: Path, given: tuple[bytes, list[str]]) -> None:
    tried = Room(room)
    (tried.work / "given.yaml").write_bytes(given[0])
    line = ["report", "02_isolation", "13_any_study", "--parameters", "given.yaml", *given[1]]
    tried.call(*line)


@cases(QUICK)
@given(given=parameter_files())
def test_any_parameters_are_taken_or_refused_in_one_clear_line(room, given):
    try_parameters(room, given)


@pytest.mark.slow
@cases(SLOW)
@given(given=parameter_files())
def test_any_of_many_parameters(room, given):
    try_parameters(room, given)


# --- stored files --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of two small studies."""
    folder = tmp_path_factory.mktemp("sound") / "results"
    arms = (Arm.of("vanilla"), Arm.of("a", adjustments="3", strength=0.3, target="loss"))
    config = {"dataset": "digits", "model": "mlp", "epochs": 1}
    for name in ("own", "other"):
        make_study(folder, Study(name=name, dataset="digits", config=config, arms=arms, seeds=3))
    return folder


@st.composite
def harms(draw: st.DrawFn) -> tuple[str, int, Any]:
    kind = draw(st.sampled_from(["bytes", "declaration", "rows", "listed", "place", "manifest"]))
    which = draw(st.integers(0, 20))
    if kind == "rows":
        column = draw(st.sampled_from(["key", "arm", "seed", "status", "validation_accuracy",
                                       "seconds", "study", "data", "strength"]))  # fmt: skip
        return kind, which, (column, draw(st.one_of(NASTY_NUMBER, NASTY_TEXT)))
    if kind == "place":
        return kind, which, draw(st.sampled_from(["folder", "link", "gone", "empty", "stranger"]))
    if kind == "declaration":
        return kind, which, (draw(NASTY), draw(st.integers(0, 10**6)))
    return kind, which, draw(DAMAGE)


def harm(folder: Path, kind: str, which: int, how: Any) -> None:
    every = sorted(path for path in folder.rglob("*") if path.is_file())
    path = every[which % len(every)]
    if kind == "rows":
        chunk = sorted(folder.glob("runs/*.parquet"))[which % 2]
        table = pd.read_parquet(chunk)
        column, value = how
        table[column] = table.get(column, pd.Series(index=table.index)).astype(object)
        table.loc[0, column] = value
        with contextlib.suppress(Exception):  # what Parquet itself cannot hold
            changed_file = folder.parent / "changed.parquet"
            table.to_parquet(changed_file)
            assert pq.read_metadata(changed_file).num_rows == len(table)
            content = changed_file.read_bytes()
            changed_file.unlink()
            files.publish(folder, f"runs/{which}.parquet", content)
        (folder.parent / "changed.parquet").unlink(missing_ok=True)
    elif kind == "declaration":
        declared = sorted(folder.glob("studies/*.json"))[which % 2]
        if not declared.is_file():  # a link to what has no end, from the harm before
            return
        said = json.loads(declared.read_text())
        ways = places(said)
        *way, last = ways[how[1] % len(ways)]
        holder = said
        for step in way:
            holder = holder[step]
        holder[last] = how[0]
        text = json.dumps(said, default=str)
        (folder / "studies" / f"own-digits-{which:012x}.json").write_text(text)
    elif kind == "listed":
        with contextlib.suppress(OSError, ValueError):
            name = f"{path.parent.name}/{which}{path.suffix}"
            files.publish(folder, name, damaged(path.read_bytes(), how))
    elif kind == "place":
        path.unlink()
        if how == "folder":
            path.mkdir()
        elif how == "link":
            path.symlink_to("/dev/zero" if which % 2 else "nowhere")
        elif how == "empty":
            path.write_bytes(b"")
        elif how == "stranger":
            shutil.copy(next((SHIPPED / "runs").glob("*.parquet")), path)
    else:
        target = path if kind == "bytes" else min(every, key=lambda p: (p.suffix != ".txt", str(p)))
        target.write_bytes(damaged(target.read_bytes(), how))


def try_stored(
    room: Path, sound: Path, harmed: list[tuple[str, int, Any]], beside: str = "run"
) -> None:
    tried = Room(room)
    folder = tried.work / "results"
    shutil.copytree(sound, folder)
    for kind, which, how in harmed:
        with contextlib.suppress(OSError, ValueError, TypeError, IndexError):
            harm(folder, kind, which, how)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}
    for command in ("status", "verify", beside if beside != "run" else "status"):
        tried.call(*command.split())
    # Reading changes nothing.
    assert before == {
        p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink()
    }
    if beside == "run":
        tried.call("run", "own.yaml", "--device", "cpu")
    for path, content in before.items():
        if re.search(r"\.(parquet|json)$", path.name):
            assert path.read_bytes() == content, "a file was edited"


HARMED = st.lists(harms(), min_size=1, max_size=2)
# After status and verify, one of these. Figures take a second each, and are left to the slow form.
BESIDE = st.sampled_from(["run", "run", "compare", "plan own.yaml"])
ALL_BESIDE = st.sampled_from(["run", "plan own.yaml", "figures own --format svg", "figures other"])


@cases(QUICK)
@given(harmed=HARMED, beside=BESIDE)
def test_any_stored_files_are_read_or_named(room, sound, harmed, beside):
    try_stored(room, sound, harmed, beside)


@pytest.mark.slow
@cases(SLOW)
@given(harmed=HARMED, beside=ALL_BESIDE)
def test_any_of_many_stored_files(room, sound, harmed, beside):
    try_stored(room, sound, harmed, beside)


def test_the_checks_find_what_they_look_for(room, monkeypatch):
    """A command with a traceback, one that writes elsewhere, and one that leaves half a file."""
    tried = Room(room)

    def fails(problem: object) -> None:
        def overview(folder: Path) -> None:
            if isinstance(problem, str):
                (tried.work / problem).parent.mkdir(exist_ok=True)
                (tried.work / problem).write_text("x")
                raise results.ResultsError("said")
            raise problem  # type: ignore[misc]

        monkeypatch.setattr(results, "overview", overview)
        tried.call("status")

    with pytest.raises(KeyError):
        fails(KeyError("x"))
    for written in ("../escaped", "results/.half"):
        with pytest.raises(AssertionError):
            fails(written)
