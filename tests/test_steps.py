"""A step depends on tensors alone: recorded once and replayed, it does what it does when called.

CUDA graphs need a GPU. What they demand of a step does not: `make_fx` writes down the operations of
one step, on the tensors they were done on, and refuses where Python asks for a value. What is baked
in by mistake makes the replay differ.
"""

from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from aba_core import (
    METHODS,
    AdjustmentSet,
    Arm,
    Augmentation,
    TrainConfig,
    method_of,
    selection,
    steps,
    train,
    training,
)
from aba_core.architecture import initial_model
from aba_core.attribution import cross_entropy
from aba_core.methods.base import stand_ins
from aba_core.models import build_model
from aba_core.randomness import PURPOSES, Draws, batch_order, epoch_order, normal, uniform
from aba_core.replicas import Replicas
from aba_core.selection import Percentiles, SignSplit
from aba_core.sites import StackedSite
from aba_core.steps import Recorded, Step

ALL = Augmentation(AdjustmentSet.parse("all"), strength=0.5, target="loss")
CONFIG = TrainConfig(
    batch_size=6, epochs=3, optimizer="adam", learning_rate=0.01, schedule="cosine"
)
CASES = {
    "vanilla": (CONFIG, None),
    "all, target loss": (CONFIG, ALL),
    "class score, drawn for the batch": (
        CONFIG, replace(ALL, target="class_score", top_k=2, draw_per="batch", target_per="batch")
    ),
    "five categories": (CONFIG, replace(
        ALL, split=Percentiles(0.1, 0.3, 0.6, 0.8), adjustments=AdjustmentSet(((1, 0, -1, 1, 0),))
    )),
    "sign": (CONFIG, replace(ALL, split=SignSplit(), adjustments=AdjustmentSet(((-1, 1),)))),
    "smoothgrad": (CONFIG, replace(ALL, attribution="smoothgrad", attribution_samples=2)),
    "batch norm, maps in train mode": (
        replace(CONFIG, batch_norm=True), replace(ALL, attribution_mode="train")
    ),
    "batch norm moved by maps": (
        replace(CONFIG, batch_norm=True),
        replace(ALL, attribution_mode="train", update_statistics=True),
    ),
    "momentum, weight decay": (
        replace(CONFIG, optimizer="sgd", weight_decay=0.01, schedule="step"), ALL
    ),
    "bf16": (replace(CONFIG, precision="bf16"), ALL),
    **{f"placebo {name}": (CONFIG, replace(ALL, placebo=name))
       for name in ("permuted", "other_sample", "untrained", "random", "gaussian")},
}  # fmt: skip


def step_of(config, augmentation, splits, seeds=(3, 4)):
    """A step as `train` makes it, and what `set` needs."""

    def build():
        model = build_model("small_cnn", splits.input_shape, splits.classes, config.batch_norm)
        return augmentation.architecture(model) if augmentation else model

    models = [initial_model(build, seed, torch.float32) for seed in seeds]
    replicas = Replicas.stack(models)
    replicas.together = True  # as on a GPU
    method = site = None
    if augmentation is not None:
        untrained = replicas.copy() if augmentation.needs_untrained else None
        other = {"strength": 0.1} if isinstance(augmentation, Augmentation) else {}
        both = [augmentation, replace(augmentation, **other)]
        method = type(both[0]).stack(both, "cpu", torch.float32).fitted(replicas.template)
        site = StackedSite(replicas, method.site, cross_entropy, splits.classes, untrained)
    purposes = (*PURPOSES, *(method.names_of_purposes() if method else ()))
    by_purpose = {name: torch.tensor([[seed] for seed in seeds]) for name in purposes}
    rate = torch.full((len(seeds), 1), config.learning_rate)
    step = Step(config, replicas, method, site, cross_entropy, splits.train, by_purpose, rate)

    def rows(number):
        samples = len(splits.train)
        orders = lambda epoch: epoch_order(by_purpose["order"][:, 0], epoch, samples)  # noqa: E731
        return batch_order(orders, number, config.batch_size, samples)

    return step, rows


def state(step):
    return [
        step.replicas.parameters, *step.replicas.buffers.values(), *step._moments, step.finite
    ]  # fmt: skip


@pytest.fixture
def like_a_gpu(monkeypatch):
    monkeypatch.setattr(selection, "_on_cpu", lambda values: False)
    monkeypatch.setenv("ABA_KERNELS", "off")
    selection.order_of_ties.cache_clear()


@pytest.mark.parametrize("case", CASES)
def test_a_recorded_step_replays_as_it_runs(case, tiny_splits, like_a_gpu):
    config, augmentation = CASES[case]
    count = config.steps(len(tiny_splits.train))
    assert count > 5
    called, rows = step_of(config, augmentation, tiny_splits)
    recorded, _ = step_of(config, augmentation, tiny_splits)
    replay = None
    for number in range(count):
        called.set(number, rows(number))
        called()
        recorded.set(number, rows(number))
        if number < 2:
            recorded()
        else:
            if replay is None:
                before = [value.clone() for value in state(recorded)]
                replay = make_fx(lambda: recorded())()
                for value, kept in zip(state(recorded), before, strict=True):
                    value.copy_(kept)
            replay()
        for value, other in zip(state(called), state(recorded), strict=True):
            # Called, the loss may come from C and differ in its last bits.
            torch.testing.assert_close(value, other)
    assert bool((called.replicas.parameters[0] != called.replicas.parameters[1]).any())


# A kind of each family in every run of the tests; the others with the slow ones.
OFTEN = {"vh-mixup", "random-square", "aicd", "crop"}
# What changes from step to step is no recording; the data are pictures.
NEVER = {"during", "any-site", "word-dropout", "aba", "challenger", "mendaba", "fastaba"}


@pytest.mark.parametrize(
    "kind",
    [
        k if k in OFTEN else pytest.param(k, marks=pytest.mark.slow)
        for k in METHODS
        if k not in NEVER
    ],
)
def test_a_step_of_any_method_is_recorded(kind, tiny_splits, like_a_gpu):
    config = replace(CONFIG, batch_norm=True, epochs=1)
    given = {"size": 2} if kind == "ghost-batch-norm" else stand_ins(kind)
    method = method_of({"kind": kind, **given})
    called, rows = step_of(config, method, tiny_splits)
    recorded, _ = step_of(config, method, tiny_splits)
    recorded.set(0, rows(0))
    before = [value.clone() for value in state(recorded)]
    recorded()  # a recording begins after a first step, which makes what is kept
    replay = make_fx(lambda: recorded())()
    for value, kept in zip(state(recorded), before, strict=True):
        value.copy_(kept)
    for number in range(2):
        for one in (called, recorded):
            one.set(number, rows(number))
        called()
        replay()
        for value, other in zip(state(called), state(recorded), strict=True):
            assert torch.equal(value, other), number


def test_a_step_that_asks_for_a_value_cannot_be_recorded(tiny_splits):
    step, rows = step_of(CONFIG, ALL, tiny_splits)  # a CPU asks whether there are ties
    step.set(0, rows(0))
    with pytest.raises(RuntimeError, match=r"tracing|numpy"):
        make_fx(lambda: step())()


def test_what_is_baked_in_shows(tiny_splits, like_a_gpu):
    """The check can fail: a step whose number is a Python value replays differently."""
    called, rows = step_of(CONFIG, ALL, tiny_splits)
    step, _ = step_of(CONFIG, ALL, tiny_splits)
    before = [value.clone() for value in state(step)]
    step.set(0, rows(0))
    step()  # which makes what is kept
    real, step.number = step.number, torch.zeros(1, dtype=torch.int64)
    replay = make_fx(lambda: step())()
    step.number = real
    for value, kept in zip(state(step), before, strict=True):
        value.copy_(kept)
    for number in range(2):
        for one in (called, step):
            one.set(number, rows(number))
        called()
        replay()
    assert not torch.equal(called.replicas.parameters, step.replicas.parameters)


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_draws_made_ahead_are_those_of_each_step(ahead, tiny_splits, monkeypatch):
    """However many are made at once, and wherever the steps start."""
    monkeypatch.setattr(steps, "AHEAD", ahead)
    step, rows = step_of(CONFIG, ALL, tiny_splits)
    for number in (0, 1, 2, 3, 4, 9, 10, 3, 2):
        step.set(number, rows(number))
        own = Draws(step.seeds, number, step._place)
        for purpose in ("adjustment", "target"):
            drawn = uniform(step.seeds[purpose], purpose, number, step._place)
            assert torch.equal(replace(own, made=step.drawn).uniform(purpose), drawn)
            assert torch.equal(own.uniform(purpose), drawn)
        drawn = normal(step.seeds["magnitude"], "magnitude", number, step._place).abs()
        assert torch.equal(replace(own, made=step.drawn).magnitude(), drawn)


def test_ties_are_broken_alike_where_nobody_asks_for_them(monkeypatch):
    flat = torch.randint(0, 4, (50, 30)).double()  # many ties
    for split in (Percentiles(0.1, 0.9), Percentiles(0.2, 0.5, 0.6)):
        expected = split.masks(flat)
        with monkeypatch.context() as patch:
            patch.setattr(selection, "_on_cpu", lambda values: False)
            assert torch.equal(split.masks(flat), expected)


def test_graphs_are_refused_where_there_is_no_gpu(tiny_splits):
    with pytest.raises(ValueError, match="graphs is True on 'cpu'; allowed: on CUDA only"):
        train(CONFIG, [Arm("vanilla")], [0], "cpu", splits=tiny_splits, graphs=True)


@pytest.fixture
def notes(monkeypatch):
    """What a pretended CUDA is asked for, in order, on which stream."""
    notes = []

    class Stream:
        made = 0

        def __init__(self, device=None):
            self.name = "usual" if device is None else "aside"
            Stream.made += self.name == "aside"

        def wait_stream(self, other):
            notes.append(f"{self.name} waits for {other.name}")

        def __enter__(self):
            notes.append(f"on {self.name}")

        def __exit__(self, *error):
            pass

    class Graph:
        def replay(self):
            notes.append("replay")

        def reset(self):
            notes.append("reset")

    @contextmanager
    def graph(graph, stream):
        notes.append(f"record on {stream.name}")
        yield

    for name, value in {
        "Stream": Stream, "current_stream": Stream, "stream": lambda stream: stream,
        "CUDAGraph": Graph, "graph": graph, "current_device": lambda: 0,
        "empty_cache": lambda: notes.append("empty"),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    steps._aside.cache_clear()
    yield notes
    assert Stream.made <= 1
    steps._aside.cache_clear()


FIRST = ["aside waits for usual", "on aside", "step", "usual waits for aside"]


def test_a_recorded_step_runs_first_and_is_then_replayed(notes):
    """On one stream: what others leave cannot be had back in a recording."""
    step = Recorded(lambda: notes.append("step"))
    for _ in range(Recorded.ordinary + 2):
        step()
    assert notes == FIRST * 3 + ["record on aside", "step", "replay", "replay"]


def test_a_recording_gives_its_memory_back_and_is_made_anew(notes):
    step = Recorded(lambda: notes.append("step"))
    for _ in range(Recorded.ordinary + 1):
        step()
    notes.clear()
    step.release()
    step.release()
    step()
    assert notes == ["reset", "empty", "record on aside", "step", "replay"]


def test_a_recording_that_fails_is_no_recording(notes):
    def fail():
        raise RuntimeError("CUDA error: out of memory")

    step = Recorded(lambda: notes.append("step"))
    for _ in range(Recorded.ordinary):
        step()
    step.step = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        step()
    assert step.graph is None


def test_metrics_on_the_way_find_the_recording_gone(tiny_splits, monkeypatch):
    """Once a curve's and early stopping's needed memory beside it, which `demand` counts not."""
    order = []
    monkeypatch.setattr(Step, "release", lambda self: order.append("release"))
    for name in ("_metrics", "_validation_loss"):
        made = getattr(training, name)
        monkeypatch.setattr(
            training, name, lambda *given, n=name, made=made: order.append(n) or made(*given)
        )
    arms = [Arm("stopped", {"kind": "early-stopping"})]
    config = replace(CONFIG, epochs=1, curve_every=1, mechanism=1)
    train(config, arms, [0], splits=tiny_splits)
    assert order.count("_metrics") >= 2 and order.count("_validation_loss") >= 1
    for before, now in pairwise(order):
        assert "release" in (before, now)
