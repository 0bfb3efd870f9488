"""A text CNN's pass from what another pass left against the pass in full, and when it is taken."""

import copy
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from aba_core import Arm, Augmentation, Percentiles, SignSplit, TrainConfig, build_model
from aba_core.adjustments import AdjustmentSet
from aba_core.attribution import cross_entropy
from aba_core.datasets import load_dataset
from aba_core.kernels import compiling
from aba_core.kernels.near import Near
from aba_core.methods.base import method_of
from aba_core.replicas import Pass, Replicas
from aba_core.steps import optimizer_step
from aba_core.training import train

COMPILER = any(map(shutil.which, compiling.COMPILERS))
pytestmark = [
    pytest.mark.skipif(not COMPILER, reason="no C compiler"),
    pytest.mark.usefixtures("kernels_on_one_thread"),
]
MENDABA = Augmentation(AdjustmentSet.parse("1,2,3,4,5,6"), strength=0.5, target="loss")


def text_cnns(tokens, elements, branches, dtype=torch.float64, replicas=2):
    """branches: outputs, taps and whether there is a bias, of each."""
    model = build_model("text_cnn", (tokens, elements), 5)
    model.convolutions = nn.ModuleList(
        nn.Sequential(nn.Conv1d(elements, outputs, taps, bias=biased), nn.ReLU())
        for outputs, taps, biased in branches
    )
    model.classifier = nn.Linear(sum(outputs for outputs, _, _ in branches), 5)
    torch.manual_seed(0)
    models = [copy.deepcopy(model).to(dtype) for _ in range(replicas)]
    for parameter in (p for one in models for p in one.parameters()):
        nn.init.normal_(parameter, std=0.4)
    return Replicas.stack(models)


def texts(tokens=9, elements=5, batch=4, dtype=torch.float64, replicas=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(replicas, batch, tokens, elements, generator=generator, dtype=dtype)


def shifted(x, shifts, share, by=1.0):
    """Some elements of each text moved by `by`, all others by its shift."""
    chosen = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < share
    return torch.where(chosen, x + by, x + shifts[..., None, None])


def passed(stack, x, labels, asked=(True, True)):
    return Pass(stack, stack.parameters).slopes(x, labels, cross_entropy, 3, asked)


def begun(stack, base, labels):
    """A map's pass at these inputs."""
    stack.near.begin(base)
    return passed(stack, base, labels, (False, True))


def labels_of(x):
    return torch.arange(x.shape[0] * x.shape[1]).reshape(x.shape[:2]) % 5


@settings(max_examples=80, deadline=None)
@given(
    tokens=st.integers(1, 30),
    elements=st.integers(1, 19),
    branches=st.lists(
        st.tuples(st.sampled_from([1, 3, 8, 16, 17, 40, 64, 70]), st.integers(1, 5), st.booleans()),
        min_size=1,
        max_size=4,
    ),
    batch=st.integers(1, 4),
    share=st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0]),
    padded=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_pass_from_anothers_equals_the_pass_in_full(
    tokens, elements, branches, batch, share, padded, dtype
):
    branches = [(outputs, min(taps, tokens), biased) for outputs, taps, biased in branches]
    stack = text_cnns(tokens, elements, branches, dtype)
    x = texts(tokens, elements, batch, dtype)
    if padded:
        x[:, :, tokens // 3 :] = 0
    shifts = torch.linspace(-1, 1, 2 * batch, dtype=dtype).reshape(2, batch).relu()
    moved, labels = shifted(x, shifts, share), labels_of(x)
    if padded:  # copies of the padding stay alike, or differ
        moved[:, :, tokens // 3 : 2 * tokens // 3] = shifts[..., None, None]
    expected = passed(stack, moved, labels)
    before = begun(stack, x, labels)
    assert torch.equal(before[2], passed(stack, x.clone(), labels, (False, True))[2])
    stack.near.lead(moved, shifts)
    made = passed(stack, moved, labels)
    bound = 1e-4 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(made[0], expected[0], rtol=bound, atol=bound)
    if dtype == torch.float64:  # otherwise another window may win by rounding
        for one, other in zip(made[1:], expected[1:], strict=True):
            torch.testing.assert_close(one, other, rtol=bound, atol=bound)
    with torch.no_grad():  # without a way back
        logits = stack.forward(stack.parameters)(moved)
    stack.near.clear()
    full = stack.forward(stack.parameters)(moved)
    torch.testing.assert_close(logits, full, rtol=bound, atol=bound)


USUAL = [(17, 3, True), (8, 4, False)]


def test_the_hint_may_be_wrong():
    """Shifts say where to look; whatever differs from them is multiplied."""
    stack, x = text_cnns(9, 5, USUAL), texts()
    shifts, labels = torch.full((2, 4), 0.3, dtype=torch.float64), labels_of(x)
    moved = shifted(x, shifts, 0.2)
    expected = passed(stack, moved, labels)
    for hint in (shifts, shifts + 1, -shifts, 0 * shifts):
        begun(stack, x, labels)
        stack.near.lead(moved, hint)
        for one, other in zip(passed(stack, moved, labels), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def changed_parameters(stack, x, moved):
    stack.parameters[0, 0] += 1
    return moved


def after_adam(stack, x, moved):
    config = TrainConfig(optimizer="adam")
    rates = torch.full((2, 1), 0.1, dtype=torch.float64)
    moments = [torch.zeros_like(stack.parameters) for _ in "12"]
    now = torch.ones(3, dtype=torch.float64)
    gradient = torch.ones_like(stack.parameters)
    optimizer_step(config, stack.parameters, gradient, moments, rates, now)
    return moved


def other_parameters(stack, x, moved):
    stack.parameters = stack.parameters + 1
    return moved


def changed_base(stack, x, moved):
    x[0, 0, 0, 0] += 1
    return moved


def changed_inputs(stack, x, moved):
    return moved.mul_(2)


def other_inputs(stack, x, moved):
    return moved.clone()


def some_inputs(stack, x, moved):
    return moved[:, :2]


def another_pass_that_failed(stack, x, moved):
    with pytest.raises(TypeError):  # a label that is no class: `None` in place of gradients
        begun(stack, x, torch.full((2, 4), 9))[0]
    stack.near.lead(moved, torch.zeros(2, 4))
    return moved


def another_beginning(stack, x, moved):
    stack.near.begin(x.clone())
    stack.near.lead(moved, torch.zeros(2, 4))
    return moved


def cleared(stack, x, moved):
    stack.near.clear()
    return moved


CHANGES = [
    *(changed_parameters, after_adam, other_parameters, changed_base, changed_inputs),
    *(other_inputs, some_inputs, another_pass_that_failed, another_beginning, cleared),
]


@pytest.mark.parametrize("change", [None, *CHANGES])
def test_what_was_left_serves_these_inputs_and_parameters_alone(change):
    """It is poisoned with NaN: a pass without any took nothing of it."""
    stack, x = text_cnns(9, 5, USUAL), texts()
    shifts, labels = torch.zeros(2, 4, dtype=torch.float64), labels_of(x)
    moved = shifted(x, shifts, 0.2)
    begun(stack, x, labels)
    stack.near.lead(moved, shifts)
    stack.near._sums.fill_(float("nan"))
    if change is not None:
        moved = change(stack, x, moved)
    losses, gradient, _ = passed(stack, moved, labels[:, : moved.shape[1]])
    assert bool(losses.isnan().any()) == bool(gradient.isnan().any()) == (change is None)


def test_a_replica_that_is_no_number_leaves_the_others_bits():
    stack, x = text_cnns(9, 5, USUAL, replicas=3), texts(replicas=3)
    shifts, labels = torch.full((3, 4), 0.5, dtype=torch.float64), labels_of(x)
    moved = shifted(x, shifts, 0.2)

    def made():
        begun(stack, x, labels)
        stack.near.lead(moved, shifts)
        return passed(stack, moved, labels)

    before = made()
    stack.parameters[1] = float("nan")
    for one, other in zip(before, made(), strict=True):
        assert torch.equal(one[[0, 2]], other[[0, 2]]) and other[1].isnan().any()
    stack = text_cnns(9, 5, USUAL, replicas=3)
    moved[1], x[1] = float("nan"), float("nan")
    for one, other in zip(before, made(), strict=True):
        assert torch.equal(one[[0, 2]], other[[0, 2]])


# The arm's method, and whether its training passes begin at those of its maps.
METHODS = {
    "MendABA": (MENDABA, True),
    "class score": (replace(MENDABA, target="class_score"), True),
    "all 27, fixed": (Augmentation("all", strength=0.5, target="loss", randomize=False), True),
    "identity": (Augmentation("0", strength=0.5, target="loss"), True),
    "strength 0": (replace(MENDABA, strength=0.0), True),
    "sign": (Augmentation("3,4,16,17", strength=0.5, target="loss", split=SignSplit()), True),
    "empty categories": (replace(MENDABA, split=Percentiles(0.001, 0.999)), True),
    "many categories": (Augmentation("1x1", split=Percentiles(0.3, 0.6), target="loss"), True),
    "a draw a batch": (replace(MENDABA, draw_per="batch"), True),
    "signed": (replace(MENDABA, signed=True), True),
    "in train mode": (replace(MENDABA, attribution_mode="train"), True),
    "map x input": (replace(MENDABA, attribution="gradient_x_input"), True),
    "smoothgrad": (replace(MENDABA, attribution="smoothgrad", attribution_samples=2), True),
    "placebo": (replace(MENDABA, placebo="random"), False),
    "another's map": (replace(MENDABA, placebo="other_sample"), False),
    "lagged": (replace(MENDABA, lagged=True), False),
    "vanilla": (None, False),
    "noise after it": (
        [{"kind": "mendaba"}, {"kind": "gaussian-noise"}],
        False,
    ),
    "noise before it": (
        [{"kind": "gaussian-noise"}, {"kind": "mendaba"}],
        True,
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_trainings_come_to_the_same_with_and_without(name, monkeypatch):
    method, expected = METHODS[name]
    method = method_of(method)
    splits, steps, batch = load_dataset("digits"), 30, 20
    parts = {  # a row of a picture as a word
        part: replace(getattr(splits, part), data=getattr(splits, part).data[:, 0])
        for part in ("train", "validation", "test")
    }
    splits = replace(splits, **parts, input_shape=splits.input_shape[1:])
    config = TrainConfig(
        model="text_cnn", optimizer="adam", learning_rate=0.002, batch_size=batch,
        epochs=steps * batch / len(splits.train), dtype="float64",
    )  # fmt: skip
    taken = []
    room = Near.room

    def watched(near, flat, x, sums):
        kept = room(near, flat, x, sums)
        taken.append(kept is not None and kept.base is not None)
        return kept

    def run():
        runs = train(config, [Arm("a", method)], [0, 1], splits=splits)
        models = [runs.model("a", seed) for seed in (0, 1)]
        return torch.stack([nn.utils.parameters_to_vector(m.parameters()) for m in models])

    monkeypatch.setattr(Near, "room", watched)
    mine = run()
    assert sum(taken) == (steps if expected else 0)
    monkeypatch.setattr(Near, "room", lambda *_: None)
    torch.testing.assert_close(mine, run(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("split", [Percentiles(0.1, 0.9), Percentiles(0.8), SignSplit()])
def test_little_differs_from_the_hint(split, monkeypatch):
    """The hint has the bits of what most elements are moved by."""
    shares = []
    lead = Near.lead

    def watched(near, moved, shifts):
        lead(near, moved, shifts)
        usual = near._base.value + near._shifts[..., None, None]
        shares.append((moved != usual).double().mean((2, 3)))

    monkeypatch.setattr(Near, "lead", watched)
    splits = load_dataset("digits")
    parts = {
        part: replace(getattr(splits, part), data=getattr(splits, part).data[:, 0])
        for part in ("train", "validation", "test")
    }
    splits = replace(splits, **parts, input_shape=splits.input_shape[1:])
    config = TrainConfig(model="text_cnn", batch_size=20, epochs=100 / len(splits.train))
    two = split.categories == 2
    method = Augmentation("all" if not two else "3,4,5,6", split=split, target="loss")
    train(config, [Arm("a", method)], [0, 1], splits=splits)
    most = 0.75 if split == SignSplit() else 1 - 51 / 64 if not two else 13 / 64
    assert len(shares) == 5 and torch.stack(shares).max() <= most
