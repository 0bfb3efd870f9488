"""The peers of `make bench` do the engine's work: three steps of each against the oracle."""

import multiprocessing
from dataclasses import replace

import jaxtyping
import pytest
import torch
from oracles import counter_hash
from oracles.plain_loop import plain_train
from oracles.slow_augmentation import drawn_changes, drawn_magnitude

from aba_core.architecture import initial_model
from aba_core.arms import Arm
from aba_core.datasets import Splits
from aba_core.models import build_model
from benchmarks import gpu, tables, turns
from benchmarks.peers import PEERS, Unavailable
from benchmarks.tables import Raced
from benchmarks.workloads import MENDABA, Work, Workload, bytes_touched, flops, made_up

SEEDS = (0, 1)
STEPS = 3
SMALL = (
    Workload("pictures", "small_cnn", (1, 6, 6), 5, 2),
    Workload("flat", "mlp", (1, 4, 4), 5, 2),
    Workload("words", "text_cnn", (8, 5), 5, 2),
    Workload("deep", "vgg11", (3, 8, 8), 2, 2),
)


def work_of_the_oracle(workload: Workload, splits: Splits) -> Work:
    """The same initial models, samples, changes and magnitudes that the oracle draws."""

    def model(seed: int) -> torch.nn.Module:
        def build() -> torch.nn.Module:
            return build_model(workload.model, workload.shape, 10)

        return initial_model(build, seed, torch.float64)

    def drawn(one) -> torch.Tensor:
        return torch.tensor(
            [
                [[one(seed, step, i) for i in range(workload.batch)] for seed in SEEDS]
                for step in range(STEPS)
            ],
            dtype=torch.float64,
        )

    purposes = {seed: dict.fromkeys(counter_hash.STREAM, seed) for seed in SEEDS}
    rows = [
        [counter_hash.batch(seed, step, workload.batch, len(splits.train)) for seed in SEEDS]
        for step in range(STEPS)
    ]
    return Work(
        [model(seed) for seed in SEEDS],
        splits.train.x.double(),
        splits.train.y,
        torch.tensor(rows),
        drawn(lambda seed, step, i: drawn_changes(MENDABA, i, purposes[seed], step)),
        MENDABA.strength
        * drawn(lambda seed, step, i: drawn_magnitude(MENDABA, i, purposes[seed], step)),
    )


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(one, id=one.model, marks=[pytest.mark.slow] if one.model == "vgg11" else [])
        for one in SMALL
    ],
)
def expected(request) -> tuple[Workload, Splits, torch.Tensor]:
    workload = request.param
    splits = made_up(workload.shape, 10)
    epochs = STEPS * workload.batch / len(splits.train)
    config = replace(workload.config(STEPS), epochs=epochs, dtype="float64")
    runs = [plain_train(config, Arm("a", MENDABA), seed, splits) for seed in SEEDS]
    assert all(len(run.parameters) == STEPS for run in runs)
    return workload, splits, torch.stack([run.parameters[-1] for run in runs])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "torch.compile" else [])
        for name in PEERS
    ],
)
def test_a_peer_makes_the_parameters_that_the_oracle_makes(name, expected, monkeypatch):
    # Compiled code does not know the sizes that a checked call remembers.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", name == "torch.compile")
    workload, splits, parameters = expected
    work = work_of_the_oracle(workload, splits)
    start = torch.stack(
        [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in work.models]
    )
    try:
        ready = PEERS[name][0](work)
    except Unavailable as reason:
        pytest.skip(str(reason))
    ready.run(0, 1)
    ready.run(1, STEPS)
    torch.testing.assert_close(ready.parameters(), parameters, rtol=1e-7, atol=1e-9)
    assert (parameters - start).abs().max() > 1e-3  # there was something to get wrong


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
def test_the_peer_of_a_gpu_makes_them_as_well(expected, monkeypatch):
    """Of one model; on a CPU its step is called and not recorded."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    workload, splits, parameters = expected
    ready = gpu.compiled_and_captured(work_of_the_oracle(workload, splits))
    ready.run(0, STEPS)
    torch.testing.assert_close(ready.parameters(), parameters[:1], rtol=1e-7, atol=1e-9)


def test_a_race_has_everybody_take_turns_and_says_who_could_not(monkeypatch):
    """Processes of its own for each, here a peer, the engine, and a peer that there is not."""
    workload = Workload("pictures, 6×6", "small_cnn", (1, 6, 6), 5, 2)
    names = {turns.ENGINE: True, "careful loop": True, "no such": False}
    monkeypatch.setattr(turns, "usable_cores", lambda: 1)
    rates, absent = turns.compete(workload, names, rounds=2, seconds=0.01)
    assert list(rates) == [turns.ENGINE, "careful loop"]
    assert all(len(each) == 2 and min(each) > 0 for each in rates.values())
    assert absent == {"no such": "'no such'"}


def test_who_takes_too_long_or_dies_drops_out_and_says_so(monkeypatch):
    contestant = turns.Contestant("slow", SMALL[0])
    ours, theirs = multiprocessing.Pipe()
    contestant.connections.append(ours)
    monkeypatch.setattr(turns, "TURN_LIMIT", 0.01)
    assert contestant.turn(1.0) is None
    assert contestant.reason == "took more than 0 s" and not contestant.connections
    contestant = turns.Contestant("dead", SMALL[0])
    ours, dead = multiprocessing.Pipe()
    contestant.connections.append(ours)
    dead.send(2.0)
    assert contestant.turn(1.0) == 2.0
    dead.close()
    assert contestant.turn(1.0) is None and contestant.reason == "its process ended"


def test_tables_name_the_fastest_peer_and_say_why_others_are_not_there(tmp_path):
    rates = {"engine": [20.0, 30.0], "engine, fused": [60.0] * 2, "a": [10.0] * 2, "b": [40.0] * 2}
    one = Raced(SMALL[0], rates, {"c": "not installed"}, 2e9, 1e9)
    table = tables.race_table([one], ["a", "b", "c"])
    row = "| pictures | small_cnn | 5 | 2 | 25 | 60 | 10 | 40 | – | b | **0.62** [0.50, 0.75] |"
    assert row in table and "**1.50** [1.50, 1.50]" in table
    assert "- c took no part (pictures 5): not installed" in table
    assert "0.62 times (pictures, batch 5: b)" in tables.sentence([one], "engine")
    assert "| 50% | 120% | 25% | 60% |" in tables.roofline_table([one], 1e11, 1e11)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- x: begin -->\nold\n<!-- x: end -->\nafter\n")
    tables.write_between_marks(page, "x", "new")
    assert page.read_text() == "before\n<!-- x: begin -->\nnew\n<!-- x: end -->\nafter\n"
    with pytest.raises(ValueError, match="lacks the marks <!-- y: begin -->"):
        tables.write_between_marks(page, "y", "new")


def test_operations_and_bytes_of_a_step_are_those_counted_by_hand():
    # One hidden size: 16 to 64 to 64 to 10. Forward twice, to the weights once; to the inputs in
    # full for the map, and down to the first hidden layer in training.
    workload = Workload("", "mlp", (1, 4, 4), 5, 1)
    products = [16 * 64, 64 * 64, 64 * 10]
    passes = 2 * sum(products) + sum(products) + sum(products) + sum(products[1:])
    assert flops(workload) == 2 * 5 * passes
    weights = sum(products) + 64 + 64 + 10
    values = 5 * ((16 + 64) + 3 * (64 + 64) + (64 + 10))  # linear, ReLU, linear, ReLU, linear
    assert bytes_touched(workload) == 4 * (5 * (values + weights) + 7 * weights)
