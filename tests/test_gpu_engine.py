"""The engine of a GPU cuts chunks to memory and to two minutes and starts afresh where the device
failed: tried with a pretend device that fails on purpose (`oracles.small_device`)."""

from dataclasses import replace

import pytest
from oracles import small_device

from aba_core.demand import UNKNOWN
from analysis import engines, gpu, plan
from analysis.study import Study


@pytest.fixture(scope="module")
def chunk():
    study = Study(
        name="mine", dataset="digits", seeds=(0, 1),
        arms=[{"name": "vanilla"}, {"name": "x", "method": "mendaba"},
              {"name": "y", "method": "challenger"}, {"name": "z", "method": "fastaba"}],
        config={"epochs": 1, "batch_size": 20},
    )  # fmt: skip
    (chunk,) = plan.resolve(study, "cuda").chunks
    assert len(chunk.runs) == 8
    return chunk


def trained(chunk, trains, report=lambda steps: None):
    return list(gpu.Engine(trains, small_device.named)([chunk], report))


def test_what_fails_in_a_recording_begins_again_in_a_fresh_process(chunk, capsys):
    reported: list[int] = []
    chunk = replace(chunk, runs=chunk.runs[:4])
    parts = trained(chunk, small_device.train_in_little_room, reported.append)
    assert [run for part, _ in parts for run in part.runs] == list(chunk.runs)
    assert [len(part.runs) for part, _ in parts] == [2, 2]
    # 4 fail: the second process does all the rest.
    assert len({row["pid"] for _, rows in parts for row in rows["runs"]}) == 1
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "4 runs: CUDA error: operation failed due to a previous error during capture; "
        "trying halves in a fresh process"
    ]
    assert reported[-1] == 40 and reported == sorted(reported)


def test_a_process_that_ends_by_itself_is_replaced(chunk, capsys):
    parts = trained(replace(chunk, runs=chunk.runs[:2]), small_device.end_in_the_middle)
    assert [len(part.runs) for part, _ in parts] == [1, 1]
    assert capsys.readouterr().err.count("the process ended by itself") == 1


def test_a_single_run_that_does_not_fit_is_an_error(chunk):
    alone = replace(chunk, runs=chunk.runs[:1])
    with pytest.raises(MemoryError, match="a single run does not fit on made up: CUDA out of mem"):
        trained(alone, small_device.never_fit)


def test_what_is_no_matter_of_memory_is_raised_as_it_is(chunk):
    with pytest.raises(ValueError, match="learning_rate is 'much'"):
        trained(chunk, small_device.find_nothing_wrong_with_memory)


@pytest.mark.parametrize(
    ("trains", "sizes"),
    [(small_device.take_long, [2, 2, 2, 2]), (small_device.be_quick, [2, 6])],
    ids=["50 s a run", "in no time"],
)
def test_parts_are_cut_to_the_time_that_the_part_before_took(chunk, monkeypatch, trains, sizes):
    """The first to what is predicted: 3 runs, of which 2 are the seeds of one arm."""
    monkeypatch.setattr(gpu, "FIRST", gpu.demand_of(chunk).seconds(3, UNKNOWN, False))
    assert [len(part.runs) for part, _ in trained(chunk, trains)] == sizes


@pytest.mark.parametrize(
    ("fitting", "runs", "seeds", "first"),
    [(100, 8, 2, 8), (3, 8, 2, 2), (7, 8, 2, 4), (1, 8, 2, 1), (5, 9, 3, 3), (3, 8, 4, 3)],
)
def test_parts_are_even_and_keep_seeds_together_where_they_can(fitting, runs, seeds, first):
    assert gpu.evenly(fitting, runs, seeds) == first


def test_the_engine_by_name_trains_chunks_like_any_other(chunk, monkeypatch):
    """On the CPU, whose numbers it then gives."""
    on_cpu = replace(chunk, device="cpu", arms=chunk.arms[:2], runs=chunk.runs[:4])
    engine = gpu.Engine(engines.train_chunk, small_device.named)
    ((part, rows),) = engine([on_cpu], lambda steps: None)
    expected = engines.train_chunk(on_cpu)
    assert part.runs == on_cpu.runs
    for row, own in zip(rows["runs"], expected["runs"], strict=True):
        assert row["validation_loss"] == own["validation_loss"] and row["key"] == own["key"]


@pytest.fixture(scope="module")
def large():
    study = Study(
        name="large", dataset="digits", seeds=(0,), arms=[{"name": "vanilla"}],
        config={"epochs": 1, "batch_size": 20, "trainer": "single"},
    )  # fmt: skip
    (chunk,) = plan.resolve(study, "cuda").chunks
    return chunk


def test_one_large_model_is_a_part_whatever_replicas_would_demand(large, monkeypatch):
    monkeypatch.setattr(gpu, "demand_of", lambda chunk: pytest.fail("it is no replica"))
    ((part, rows),) = trained(large, small_device.be_quick)
    assert part.runs == large.runs and len(rows["runs"]) == 1


def test_one_large_model_that_does_not_fit_is_an_error(large):
    with pytest.raises(MemoryError, match="a single run does not fit on made up: CUDA out of mem"):
        trained(large, small_device.never_fit)
