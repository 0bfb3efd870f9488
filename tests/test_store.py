"""What is read from a results folder was written there: damage, changes and strangers are named."""

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aba_core.arms import Arm
from analysis import results as store
from analysis.results import SHIPPED, ResultsError
from analysis.store import chunks, files
from analysis.store.verify import adopt, verify
from analysis.study import Study

KINDS = chunks.KINDS


def row(key: str, chunk: str, **changes: object) -> dict[str, object]:
    return {
        "key": key, "chunk": chunk, "arm": "a", "seed": 0, "status": "finished",
        "validation_accuracy": 90.0, "validation_loss": 0.5, "seconds": 1.0, "epochs": 5.0,
        **changes,
    }  # fmt: skip


def copied(folder: Path) -> Path:
    """Two shipped studies as they are, in one chunk each, with their manifest."""
    for name in (
        "studies/benchmark-bn-mnist-772dd4f3fd7e.json",
        "runs/mnist-benchmark-bn.parquet",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SHIPPED / name, folder / name)
    return folder


def written(folder: Path) -> Path:
    """A results folder with something of everything."""
    adopt(copied(folder))
    study = Study(name="s", dataset="digits", arms=(Arm.of("a"),), seeds=2)
    store.declare(folder, study, {"k0": ("a", 0), "k1": ("a", 1)})
    store.write_chunk(folder, "runs", "c0", [row("k0", "c0"), row("k1", "c0", seed=1)])
    store.write_chunk(folder, "mechanism", "c0", [row("k0", "c0", step=3)])
    store.write_chunk(folder, "frozen", "c1", [row("k2", "c1", adjustment=3)])
    return folder


def content(folder: Path) -> tuple[dict[str, set[frozenset]], list[object]]:
    """Everything that is read: what the rows of every kind say, and what is declared."""
    rows = {}
    for kind in KINDS:
        entries = store.read_rows(folder, kind)[0].to_dict("records")
        rows[kind] = {
            frozenset((name, value) for name, value in entry.items() if not pd.isna(value))
            for entry in entries
        }
    declared = [(d.study, d.keys, d.declared) for d in store.declarations(folder)]
    return rows, declared


def test_the_shipped_results_are_as_they_were_written():
    findings = verify(SHIPPED)
    assert findings.problems == ()
    # Where the files of a data set are absent, the keys of its runs cannot be made again.
    assert [note for note in findings.notes if not note.endswith(", not here")] == []
    assert not findings.notes or not os.environ.get("ABA_DATA_MIRROR")
    assert (findings.files, findings.runs) == (533, 113794)


def test_the_manifest_is_one_that_sha256sum_reads(tmp_path):
    folder = written(tmp_path)
    listed = sorted(path.relative_to(folder) for path in (folder / "manifest").iterdir())
    checked = subprocess.run(["sha256sum", "-c", *map(str, listed)], cwd=folder)
    assert checked.returncode == 0 and len(listed) == 5


# --- damage --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = written(tmp_path_factory.mktemp("whole"))
    assert verify(folder).problems == ()
    return folder


def flip_and_check(original: Path, scratch: Path, place: int, bit: int) -> None:
    """Flip a bit of one file. It is named, and nothing is read but what was written."""
    rows, declared = content(original)
    folder = scratch / str(next(_numbers))
    shutil.copytree(original, folder)
    every = sorted(path for path in folder.rglob("*.*") if path.is_file())
    path = every[place % len(every)]
    damaged = bytearray(path.read_bytes())
    bit %= 8 * len(damaged)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    findings = verify(folder)
    assert any(str(path) in line for line in findings.problems), (path, bit)
    try:
        read, still = content(folder)
    except ResultsError as error:
        assert path.name in str(error) and path.parent.name == "studies"
    else:
        assert all(read[kind] <= rows[kind] for kind in KINDS) and still == declared
    shutil.rmtree(folder)


_numbers = itertools.count()
FLIPS = given(place=st.integers(0, 10**6), bit=st.integers(0, 10**9))


@FLIPS
@settings(max_examples=200)
def test_a_flipped_bit_anywhere_is_named_and_never_read(whole, tmp_path_factory, place, bit):
    flip_and_check(whole, tmp_path_factory.getbasetemp() / "flipped", place, bit)


@pytest.mark.slow
@FLIPS
@settings(max_examples=2000)
def test_two_thousand_flipped_bits_are_named_and_never_read(whole, tmp_path_factory, place, bit):
    flip_and_check(whole, tmp_path_factory.getbasetemp() / "flipped", place, bit)


def test_a_file_that_changes_while_we_look_is_noticed(tmp_path):
    folder = written(tmp_path)
    path = folder / "runs" / "c0.parquet"
    assert len(store.read_rows(folder, "runs")[0]) == 52
    path.write_bytes(path.read_bytes()[:-1] + b"2")
    os.utime(path, ns=(1, 1))
    frame, passed_over = store.read_rows(folder, "runs")
    assert passed_over == [path] and len(frame) == 50


def test_a_file_is_hashed_once_by_a_process(tmp_path, monkeypatch):
    folder = written(tmp_path)
    store.read_rows(folder, "runs")
    hashed: list[bytes] = []
    monkeypatch.setattr(files, "digest", lambda content: hashed.append(content) or "")
    assert len(store.read_rows(folder, "runs")[0]) == 52 and not hashed


# --- strangers -----------------------------------------------------------------------------------


def _unlisted(folder: Path) -> Path:
    path = folder / "runs" / "a.parquet"
    pd.DataFrame([row("k0", "c0", validation_accuracy=99.0)]).to_parquet(path)
    return path


def _shadowing(folder: Path) -> Path:
    """As somebody writes it who knows of the manifest."""
    path = _unlisted(folder)
    files.enlist(folder, {"runs/a.parquet": path.read_bytes()})
    return path


def _of_another_kind(folder: Path) -> Path:
    path = folder / "runs" / "notes.txt"
    path.write_text("not a result")
    return path


def _absent(folder: Path) -> Path:
    path = folder / "runs" / "mnist-benchmark-bn.parquet"
    path.unlink()
    return path


def _of_other_data(folder: Path) -> Path:
    """Real rows under real keys, as if computed on other data."""
    path = folder / "runs" / "mnist-benchmark-bn.parquet"
    pd.read_parquet(path).assign(data="f" * 64).to_parquet(path)
    files.enlist(folder, {"runs/mnist-benchmark-bn.parquet": path.read_bytes()})
    return folder / "studies" / "benchmark-bn-mnist-772dd4f3fd7e.json"


@pytest.mark.parametrize(
    ("change", "reason", "runs"),
    [
        (_unlisted, "is not in the manifest; if it is yours, take it in with: aba verify", 52),
        (_shadowing, "run k0 has other numbers in a.parquet and c0.parquet; move one away", 51),
        (_of_another_kind, "is no file of results", 52),
        (_absent, "is in the manifest but not there; run its study again", 2),
        (_of_other_data, "50 of its runs have keys of other settings or data", 52),
    ],
)
def test_what_is_not_of_the_folder_is_named_with_the_reason(
    tmp_path, change: Callable[[Path], Path], reason: str, runs: int
):
    folder = written(tmp_path)
    path = change(folder)
    findings = verify(folder)
    assert [line for line in findings.problems if line.startswith(f"{path}: {reason}")]
    assert store.read_rows(folder, "runs")[0]["key"].nunique() == runs


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"validation_accuracy": 250.0}, "validation_accuracy is 250; allowed: 0 to 100"),
        ({"validation_accuracy": -1.0}, "validation_accuracy is -1"),
        ({"validation_accuracy": "high"}, "validation_accuracy is string; needed: a number"),
        ({"validation_loss": float("nan")}, "validation_loss is missing of a run that finished"),
        ({"seed": -1}, "seed is -1; allowed: whole numbers from 0"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"seed": None}, "seed is empty"),
        ({"seed": "0"}, "seed is string; needed: a number"),
        ({"key": "../k0"}, "key has another form"),
        ({"key": "k0\n"}, "key has another form"),
        ({"chunk": ""}, "chunk has another form"),
        ({"status": "fine"}, "status is none of finished, diverged"),
        ({"seconds": -1.0}, "seconds is -1; allowed: finite numbers not below 0"),
        ({"epochs": float("inf")}, "epochs is inf"),
        ({"data": 3}, "data is int64; needed: text"),
        ({"batch_norm": 1}, "batch_norm is int64; needed: true or false"),
        ({"more": [1, 2]}, "more is list<item: int64>; needed: plain values"),
    ],
)
def test_rows_that_say_what_none_can_are_refused_by_writer_and_reader(tmp_path, change, reason):
    rows = [row("k0", "c0") | change]
    with pytest.raises(ResultsError, match="rows of chunk c0 cannot be kept: ") as error:
        store.write_chunk(tmp_path, "runs", "c0", rows)
    assert reason in str(error.value) and not list(tmp_path.rglob("*.*"))
    path = tmp_path / "runs" / "c0.parquet"
    path.parent.mkdir()
    pd.DataFrame(rows).to_parquet(path)
    files.enlist(tmp_path, {"runs/c0.parquet": path.read_bytes()})
    frame, (problem,) = chunks.examine_rows(tmp_path, "runs")
    assert not len(frame) and problem.path == path
    assert problem.reason.startswith(reason.split()[0])


def test_diverged_runs_and_labels_without_accuracy_have_none(tmp_path):
    nothing = {"validation_accuracy": float("nan"), "validation_loss": float("nan")}
    store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0", status="diverged", **nothing)])
    soft = {"validation_accuracy": float("nan")}
    store.write_chunk(tmp_path, "runs", "c1", [row("k1", "c1", **soft), row("k2", "c1", **soft)])
    assert len(store.read_rows(tmp_path, "runs")[0]) == 3
    with pytest.raises(ResultsError, match="validation_accuracy is missing of a run that finished"):
        store.write_chunk(tmp_path, "runs", "c2", [row("k3", "c2", **soft), row("k4", "c2")])


def test_a_row_of_another_seed_is_not_the_run_of_its_key(tmp_path):
    study = Study(name="s", dataset="digits", arms=(Arm.of("a"),), seeds=2)
    declaration = store.declare(tmp_path, study, {"k0": ("a", 0), "k1": ("a", 1)})
    store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0"), row("k1", "c0")])
    result = store.collect(declaration, *store.read_rows(tmp_path, "runs"))
    assert result.frame["key"].tolist() == ["k0"] and result.missing == (("a", 1),)


def test_numbers_in_other_units_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(chunks.rows.UNITS, "accuracy", "fraction")
    store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0")])
    monkeypatch.undo()
    _, (problem,) = chunks.examine_rows(tmp_path, "runs")
    assert problem.reason == "is in other units"


def test_a_run_of_two_chunks_with_other_numbers_is_noted(tmp_path):
    store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0")])
    store.write_chunk(tmp_path, "runs", "c1", [row("k0", "c1", validation_loss=0.6)])
    findings = verify(tmp_path)
    assert findings.problems == ()
    assert "run k0 has other numbers in c0.parquet, c1.parquet" in findings.notes[0]
    assert store.read_rows(tmp_path, "runs")[0]["validation_loss"].tolist() == [0.5]


def test_the_same_chunk_in_two_files_counts_once(tmp_path):
    for name in ("c0", "copy"):
        store.write_chunk(tmp_path, "mechanism", name, [row("k0", "c0", step=s) for s in (0, 1)])
    frame, passed_over = store.read_rows(tmp_path, "mechanism")
    assert frame["step"].tolist() == [0, 1] and not passed_over


# --- what is there already -----------------------------------------------------------------------


def test_older_results_are_taken_in_when_somebody_says_so(tmp_path):
    folder = copied(tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    with pytest.raises(ResultsError, match="no manifest, .* aba verify --adopt --results"):
        store.check_listed(folder)
    assert len(verify(folder).problems) == 2 and not len(store.read_rows(folder, "runs")[0])
    assert len(adopt(folder)) == 2
    store.check_listed(folder)
    assert verify(folder).problems == () and len(store.read_rows(folder, "runs")[0]) == 50
    assert {path: path.read_bytes() for path in before} == before and adopt(folder) == []


def test_what_is_damaged_or_contradicts_is_not_taken_in(tmp_path):
    folder = written(tmp_path)
    _unlisted(folder)
    (folder / "runs" / "b.parquet").write_bytes(b"rubbish")
    (folder / "studies" / "x.json").write_text("{}")
    changed = folder / "runs" / "c0.parquet"
    changed.write_bytes(b"changed")
    assert [name for name in adopt(folder) if name != "runs/a.parquet"] == []
    assert len(verify(folder).problems) >= 3


def test_a_file_in_the_way_is_set_aside(tmp_path):
    path = tmp_path / "runs" / "c0.parquet"
    path.parent.mkdir()
    path.write_bytes(b"of somebody else")
    store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0")])
    (aside,) = path.parent.glob("*.aside")
    assert aside.read_bytes() == b"of somebody else"
    assert len(store.read_rows(tmp_path, "runs")[0]) == 1 and verify(tmp_path).problems == ()


def test_what_killed_writers_left_is_swept_after_an_hour(tmp_path):
    folder = written(tmp_path)
    old, new = folder / "runs" / ".x1.part", folder / "studies" / ".x2.part"
    for path in (old, new):
        path.write_text("half a file")
    os.utime(old, (time.time() - 3700,) * 2)
    store.sweep(folder)
    assert not old.exists() and new.exists()
    assert verify(folder).problems == ()


def test_a_write_that_fails_between_manifest_and_file_is_made_good_by_the_next(
    tmp_path, monkeypatch
):
    move = files.move

    def stops(staged, path):
        if path.suffix == ".parquet":
            raise OSError("no power")
        move(staged, path)

    monkeypatch.setattr(files, "move", stops)
    with pytest.raises(OSError, match="no power"):
        store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0")])
    monkeypatch.undo()
    assert not list((tmp_path / "runs").iterdir())
    assert "not there" in verify(tmp_path).problems[0]
    store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0", seconds=2.0)])
    assert verify(tmp_path).problems == () and len(store.read_rows(tmp_path, "runs")[0]) == 1


# --- the command ---------------------------------------------------------------------------------


def aba(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "analysis.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])


def test_aba_verify_says_what_is_wrong_and_exits_with_1(tmp_path):
    folder = copied(tmp_path / "r")
    done = aba("verify", "--results", str(folder))
    assert done.returncode == 1 and done.stdout.count("is not in the manifest") == 2
    done = aba("verify", "--results", str(folder), "--adopt")
    assert done.returncode == 0 and done.stdout.count("taken in: ") == 2
    assert "2 files with 50 runs are as they were written" in done.stdout
    done = aba("verify", "--results", str(tmp_path / "none"))
    assert done.returncode == 1 and done.stderr == f"aba: {tmp_path / 'none'} is not there\n"
