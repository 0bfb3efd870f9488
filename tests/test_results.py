"""Results are append-only: whole files or none, damage reported, nothing edited or deleted."""

import json

import pytest

from analysis import results as store
from analysis.results import ResultsError
from analysis.study import ArmSpec, Study


def study(**changes):
    fields = dict(name="s", dataset="digits", arms=(ArmSpec(name="a"), ArmSpec(name="b")), seeds=2)
    return Study(**{**fields, **changes})


def row(key, chunk, arm="a", seed=0, accuracy=90.0):
    return {
        "key": key, "chunk": chunk, "arm": arm, "seed": seed, "study": "other",
        "status": "finished", "validation_accuracy": accuracy, "seconds": 1.0,
    }  # fmt: skip


KEYS = {"k0": ("a", 0), "k1": ("a", 1), "k2": ("b", 0), "k3": ("b", 1)}


def test_a_written_chunk_is_read_back_and_leaves_no_temporary_file(tmp_path):
    path = store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0")])
    assert path.name == "c0.parquet"
    frame, damaged = store.read_rows(tmp_path, "runs")
    assert frame["key"].tolist() == ["k0"] and not damaged
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["c0.parquet"]


def test_a_finished_chunk_is_never_rewritten(tmp_path):
    path = store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0", accuracy=90.0)])
    before = path.read_bytes()
    store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0", accuracy=10.0)])
    assert path.read_bytes() == before


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(store.os, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0")])
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"rubbish" * 100])
def test_a_damaged_file_is_reported_and_left_alone(tmp_path, damage):
    store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0")])
    bad = tmp_path / "runs" / "c1.parquet"
    bad.write_bytes(damage)
    frame, damaged = store.read_rows(tmp_path, "runs")
    assert frame["key"].tolist() == ["k0"]
    assert damaged == [bad] and bad.read_bytes() == damage


def test_a_truncated_chunk_counts_as_missing_and_its_recomputation_replaces_it(tmp_path):
    path = store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0")])
    path.write_bytes(path.read_bytes()[:-20])
    assert store.read_rows(tmp_path, "runs")[1] == [path]
    store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0")])
    assert store.read_rows(tmp_path, "runs")[1] == []


def test_a_run_in_two_chunks_counts_once(tmp_path):
    store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0", accuracy=1.0)])
    store.write_chunk(tmp_path, "runs", "c1", [row("k0", "c1", accuracy=2.0), row("k1", "c1")])
    frame, _ = store.read_rows(tmp_path, "runs")
    assert sorted(frame["key"]) == ["k0", "k1"]


def test_a_study_finds_its_runs_by_key_under_its_own_arm_names(tmp_path):
    store.write_chunk(tmp_path, "runs", "c0", [row("k2", "c0", arm="elsewhere"), row("kx", "c0")])
    declaration = store.declare(tmp_path, study(), KEYS)
    rows, _ = store.read_rows(tmp_path, "runs")
    result = store.collect(declaration, rows)
    assert result.frame[["study", "arm", "seed"]].values.tolist() == [["s", "b", 0]]
    assert set(result.missing) == {("a", 0), ("a", 1), ("b", 1)}
    assert "1 of 4 runs" in result.summary()


def test_a_declaration_grows_by_seeds_and_says_when(tmp_path):
    first = store.declare(tmp_path, study(seeds=1), {"k0": ("a", 0), "k2": ("b", 0)})
    second = store.declare(tmp_path, study(seeds=2, preset="more"), KEYS)
    assert first.path == second.path
    assert [entry["seeds"] for entry in second.declared] == [1, 2]
    again = store.declare(tmp_path, study(seeds=1), {"k0": ("a", 0), "k2": ("b", 0)})
    assert len(again.declared) == 2 and again.study.seeds == (0, 1)


def test_a_damaged_declaration_is_named(tmp_path):
    path = store.declare(tmp_path, study(), KEYS).path
    path.write_text(json.dumps({"study": {}}))
    with pytest.raises(ResultsError, match=path.name):
        store.declarations(tmp_path)


def test_results_that_are_not_there_say_which_command_makes_them(tmp_path):
    with pytest.raises(ResultsError, match="aba run isolation --dataset mnist"):
        store.load(tmp_path, "isolation", "mnist")
    store.declare(tmp_path, study(), KEYS)
    with pytest.raises(ResultsError, match="none of its runs is finished"):
        store.load(tmp_path, "s", "digits")
    with pytest.raises(ResultsError, match="there: s on digits"):
        store.load(tmp_path, "t", "digits")


def test_of_several_settings_the_one_with_most_runs_is_shown_and_the_others_named(tmp_path):
    store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0"), row("k1", "c0", seed=1)])
    store.write_chunk(tmp_path, "runs", "c1", [row("j0", "c1")])
    store.declare(tmp_path, study(), KEYS)
    store.declare(tmp_path, study(config={"epochs": 1}, preset="quick"), {"j0": ("a", 0)})
    result = store.load(tmp_path, "s", "digits")
    assert sorted(result.frame["key"]) == ["k0", "k1"] and len(result.others) == 1
    assert store.load(tmp_path, "s", "digits", "quick").frame["key"].tolist() == ["j0"]
    with pytest.raises(ResultsError, match="not run with preset 'any'; there: own, quick"):
        store.load(tmp_path, "s", "digits", "any")


def test_diverged_runs_are_counted_in_the_summary(tmp_path):
    store.write_chunk(tmp_path, "runs", "c0", [{**row("k0", "c0"), "status": "diverged"}])
    store.declare(tmp_path, study(), KEYS)
    assert "1 diverged" in store.load(tmp_path, "s", "digits").summary()
