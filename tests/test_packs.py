"""Packs and the index change nothing that is read, whatever they are interrupted by."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from aba_core.arms import Arm
from analysis import results as store
from analysis.results import SHIPPED, ResultsError
from analysis.store import chunks, files, index, packs
from analysis.store.leases import Leases
from analysis.store.verify import adopt, verify
from analysis.study import Study


def row(key: str, chunk: str, **changes: object) -> dict[str, object]:
    return {
        "key": key, "chunk": chunk, "arm": "a", "seed": 0, "status": "finished",
        "validation_accuracy": 90.0, "validation_loss": 0.5, "seconds": 1.0, **changes,
    }  # fmt: skip


def written(folder: Path, number: int = 6, shipped: bool = True) -> Path:
    """Chunk files of every kind, of two sorts of columns; a shipped table of many chunks."""
    if shipped:
        (folder / "runs").mkdir(parents=True)
        shutil.copy(SHIPPED / "runs" / "digits.parquet", folder / "runs" / "digits.parquet")
        adopt(folder)
    keys = {f"k{n}": ("a", n) for n in range(number)}
    study = Study(name="s", dataset="digits", arms=(Arm.of("a"),), seeds=number)
    store.declare(folder, study, keys)
    for n in range(number):
        more = {} if n % 2 else {"test_accuracy": 80.5, "metric": float("nan"), "curve": b"\0\1"}
        rows = [row(f"k{n}", f"c{n}", seed=n, validation_loss=0.1 * n, **more)]
        store.write_chunk(folder, "runs", f"c{n}", rows)
        steps = [row(f"k{n}", f"c{n}", seed=n, step=step) for step in (0, 5)]
        store.write_chunk(folder, "mechanism", f"c{n}", steps)
    return folder


def rows_of(folder: Path) -> dict[str, pd.DataFrame]:
    """Every row as it is read, in an order of its own."""
    read = {}
    for kind in chunks.KINDS:
        frame, passed_over = store.read_rows(folder, kind)
        assert not passed_over
        order = [name for name in ("key", "step") if name in frame]
        read[kind] = frame.sort_values(order).reset_index(drop=True).sort_index(axis=1)
    return read


def same(folder: Path, before: dict[str, pd.DataFrame]) -> None:
    after = rows_of(folder)
    for kind, frame in before.items():
        pd.testing.assert_frame_equal(after[kind], frame, check_exact=True)


def pack(folder: Path) -> packs.Packed:
    with Leases(folder) as leases:
        return packs.pack(folder, leases)


def test_packs_have_the_rows_of_the_files_that_they_replace(tmp_path):
    folder = written(tmp_path)
    before = rows_of(folder)
    packed = pack(folder)
    assert packed.files == 12 and len(packed.packs) == 3
    assert sorted(path.name[:5] for path in (folder / "runs").iterdir()) == [
        "digit",
        "pack-",
        "pack-",
    ]
    same(folder, before)
    findings = verify(folder)
    assert findings.problems == findings.notes == () and findings.files == 5
    assert len(list((folder / "manifest").iterdir())) == 5  # three packs, one event, one adopted
    assert pack(folder) == packs.Packed(0, ()) and not list((folder / "leases").iterdir())
    again = row("k1", "c1", seed=1, validation_loss=0.1, seconds=9.0)
    store.write_chunk(folder, "runs", "c1", [again])  # as of a runner that did not look
    assert len(store.read_rows(folder, "runs")[0]) == len(before["runs"])


class Killed(BaseException):
    pass


def dying(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Ends this process's work before its n-th change of the file system; how many there were."""
    count = 0
    real = {name: getattr(os, name) for name in ("replace", "unlink", "open", "fsync")}

    def stepping(name):
        def do(*arguments, **options):
            nonlocal count
            count += 1
            if count == step:
                raise Killed
            return real[name](*arguments, **options)

        return do

    for name in real:
        monkeypatch.setattr(os, name, stepping(name))
    return lambda: count


def test_a_packing_that_ends_at_any_step_loses_nothing_and_doubles_nothing(tmp_path, monkeypatch):
    original = written(tmp_path / "original", 3, shipped=False)
    before = rows_of(original)
    step, ended = 0, False
    while not ended:
        step += 1
        folder = tmp_path / str(step)
        shutil.copytree(original, folder)
        with Leases(folder) as leases, monkeypatch.context() as patch:
            dying(step, patch)
            try:
                packs.pack(folder, leases)
                ended = True
            except Killed:
                pass
        same(folder, before)
        assert verify(folder).problems == ()
        shutil.rmtree(folder / "leases")  # whose owner lives on in this test
        store.sweep(folder)
        pack(folder)
        same(folder, before)
        findings = verify(folder)
        assert findings.problems == findings.notes == ()
        # What two packings hold twice is dropped; what one alone has left over stays a file.
        assert len(list((folder / "mechanism").iterdir())) == 1
        shutil.rmtree(folder)
    assert step > 25


def test_damage_is_not_packed(tmp_path):
    folder = written(tmp_path)
    path = folder / "runs" / "c1.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"2")
    (folder / "runs" / "unlisted.parquet").write_bytes(
        (folder / "runs" / "c0.parquet").read_bytes()
    )
    pack(folder)
    assert path.exists() and (folder / "runs" / "unlisted.parquet").exists()
    problems = verify(folder).problems
    assert len(problems) == 2 and all("changed" in p or "manifest" in p for p in problems)


def test_a_file_that_is_written_anew_while_it_is_packed_stays(tmp_path, monkeypatch):
    folder = written(tmp_path)
    publish = files.publish

    def slow(results, path, content, **options):
        done = publish(results, path, content, **options)
        if "runs/pack" in path:
            (folder / "runs" / "c1.parquet").unlink(missing_ok=True)
            store.write_chunk(folder, "runs", "c1", [row("k1", "c1", seed=1, validation_loss=0.1)])
        return done

    monkeypatch.setattr(files, "publish", slow)
    pack(folder)
    assert (folder / "runs" / "c1.parquet").exists()
    assert store.read_rows(folder, "runs")[1] == []


def test_a_reader_that_meets_a_packing_starts_over(tmp_path, monkeypatch):
    folder = written(tmp_path)
    before = rows_of(folder)
    index._kinds.clear()
    read, packed = chunks._read, []
    monkeypatch.setattr(index, "_KEPT_BYTES", 0)

    def meanwhile(path, known):
        if not packed:
            packed.append(pack(folder))
        return read(path, known)

    monkeypatch.setattr(chunks, "_read", meanwhile)
    same(folder, before)
    assert packed[0].files == 12


def test_only_one_packs(tmp_path):
    folder = written(tmp_path)
    with Leases(folder) as one, Leases(folder) as other:
        assert one.claim("pack")
        with pytest.raises(ResultsError, match="is being packed by process"):
            packs.pack(folder, other)


# --- the index -----------------------------------------------------------------------------------


@pytest.fixture
def indexed(tmp_path, monkeypatch) -> Path:
    """A folder with an index, and nothing of it in memory."""
    monkeypatch.setattr(index, "_FROM_FILES", 2)
    monkeypatch.setattr(index, "_SETTLED_NS", -(10**12))
    folder = written(tmp_path)
    rows_of(folder)
    assert sorted(path.name for path in (folder / "index").iterdir()) == [
        "mechanism.index", "runs.index",
    ]  # fmt: skip
    index._kinds.clear()
    return folder


def test_files_that_the_index_knows_are_not_hashed_again(indexed, monkeypatch):
    expected = rows_of(indexed)
    index._kinds.clear()
    hashed: list[str] = []
    real = index.rows.examined
    monkeypatch.setattr(
        index.rows, "examined", lambda c, kind: hashed.append(kind) or real(c, kind)
    )
    assert store.runs_in_short(indexed, "runs")[0]["key"].nunique() == len(expected["runs"])
    assert hashed == []
    same(indexed, expected)
    assert hashed == []
    verify(indexed)
    assert len(hashed) >= 13  # every file again


def test_of_what_is_asked_for_only_its_files_are_read(indexed, monkeypatch):
    read: list[str] = []
    real = chunks._read
    monkeypatch.setattr(
        chunks, "_read", lambda path, known: read.append(path.name) or real(path, known)
    )
    frame, _ = store.read_rows(indexed, "runs", ["k3"])
    assert frame["key"].tolist() == ["k3"] and read == ["c3.parquet"]


def test_a_file_changed_behind_the_index_is_noticed(indexed):
    path = indexed / "runs" / "c1.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"2")
    assert store.read_rows(indexed, "runs")[1] == [path]


def test_lost_bits_under_the_same_stamp_are_noticed_by_reader_and_verify(indexed):
    path = indexed / "runs" / "c1.parquet"
    before, content = path.stat(), bytearray(path.read_bytes())
    content[40] ^= 1  # in the first page, whose checksum stands before it
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert files.stamp(path) == (before.st_size, before.st_mtime_ns, before.st_ino)
    frame, passed_over = store.read_rows(indexed, "runs", ["k1", "k3"])
    assert passed_over == [path] and frame["key"].tolist() == ["k3"]
    assert str(path) in verify(indexed).problems[0]


def test_a_young_file_is_not_trusted_to_keep_its_stamp(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_FROM_FILES", 2)
    folder = written(tmp_path)
    rows_of(folder)
    assert index._loaded(folder, "runs").files == {}


@pytest.mark.parametrize("place", range(0, 3000, 250))
def test_a_damaged_index_is_made_anew(indexed, place):
    expected = rows_of(indexed)
    path = indexed / "index" / "runs.index"
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 4
    path.write_bytes(content)
    index._kinds.clear()
    assert index._loaded(indexed, "runs").files == {}
    same(indexed, expected)


def test_an_index_of_other_rules_says_nothing(indexed, monkeypatch):
    assert index._loaded(indexed, "runs").files
    monkeypatch.setattr(index, "_rules", lambda: "others")
    assert not index._loaded(indexed, "runs").files


def test_small_folders_have_no_index(tmp_path):
    rows_of(written(tmp_path))
    assert not (tmp_path / "index").exists()
