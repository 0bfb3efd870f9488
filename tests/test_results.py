"""Results are append-only: whole files or none, damage reported, nothing edited or deleted."""

import json
import os

import pytest

from aba_core.arms import Arm
from analysis import results as store
from analysis.results import ResultsError
from analysis.study import Study


def study(**changes):
    fields = dict(name="s", dataset="digits", arms=(Arm.of("a"), Arm.of("b")), seeds=2)
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


def test_rows_with_different_columns_keep_all_of_them(tmp_path):
    rows = [row("k0", "c0"), {**row("k1", "c0", seed=1), "rate": 0.5, "sites": 3}]
    store.write_chunk(tmp_path, "runs", "c0", rows)
    store.write_chunk(tmp_path, "runs", "c1", [{**row("k2", "c1"), "mixing": "beta"}])
    frame = store.read_rows(tmp_path, "runs")[0].set_index("key")
    assert list(frame.columns) == [*list(row("", ""))[1:], "rate", "sites", "mixing"]
    assert frame.loc["k1", "rate"] == 0.5 and frame.loc["k1", "sites"] == 3
    assert frame.loc["k2", "mixing"] == "beta"
    assert frame.isna().sum().sum() == 2 + 2 + 2


def test_a_finished_chunk_is_never_rewritten(tmp_path):
    path = store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0", accuracy=90.0)])
    before = path.read_bytes()
    store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0", accuracy=10.0)])
    assert path.read_bytes() == before


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full_disk)
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


def test_a_run_with_several_keys_counts_once_by_the_first_that_has_rows(tmp_path):
    keys = {"new0": ("a", 0), "k0": ("a", 0), "new1": ("a", 1), "k1": ("a", 1), "k2": ("b", 0)}
    rows = [row("k0", "c0", accuracy=1.0), row("k1", "c0", seed=1, accuracy=2.0)]
    store.write_chunk(tmp_path, "runs", "c0", rows)
    store.write_chunk(tmp_path, "runs", "c1", [row("new1", "c1", seed=1, accuracy=3.0)])
    declaration = store.declare(tmp_path, study(), keys)
    assert declaration.runs == (("a", 0), ("a", 1), ("b", 0))
    result = store.collect(declaration, *store.read_rows(tmp_path, "runs"))
    assert result.frame["key"].tolist() == ["k0", "new1"]
    assert result.frame["validation_accuracy"].tolist() == [1.0, 3.0]
    assert result.missing == (("b", 0),) and "2 of 3 runs" in result.summary()


def test_new_keys_of_declared_runs_are_added_without_declaring_them_again(tmp_path):
    store.declare(tmp_path, study(), KEYS)
    both = {f"new-{key}": run for key, run in KEYS.items()} | KEYS
    renewed = store.declare(tmp_path, study(), both)
    assert len(renewed.declared) == 1
    (declaration,) = store.declarations(tmp_path)
    assert declaration.keys == both and len(declaration.runs) == 4


def test_runs_of_other_data_are_declared_anew_and_those_before_are_not_shown(tmp_path):
    store.write_chunk(tmp_path, "runs", "c0", [row("k0", "c0"), row("k1", "c0", seed=1)])
    store.declare(tmp_path, study(), KEYS)
    other = {f"other-{key}": run for key, run in KEYS.items()}
    declaration = store.declare(tmp_path, study(), other)
    assert declaration.keys == other and len(declaration.declared) == 2
    result = store.collect(declaration, *store.read_rows(tmp_path, "runs"))
    assert not len(result.frame) and len(result.missing) == 4


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


@pytest.mark.parametrize("named", [("s", ""), ("", "digits")])
def test_an_empty_name_does_not_stand_for_any_study_or_data_set(tmp_path, named):
    store.declare(tmp_path, study(), KEYS)
    with pytest.raises(ResultsError, match="needed: a name of each"):
        store.load(tmp_path, *named)
