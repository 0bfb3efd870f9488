"""Convolutions of many channels as products of patches, and chains that hold them, against
PyTorch's own layers."""

import copy
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from aba_core import Arm, Augmentation, TrainConfig, chain, kernels
from aba_core.datasets import Split, load_dataset
from aba_core.kernels import compiling, patches
from aba_core.replicas import Replicas
from aba_core.training import train

COMPILER = any(map(shutil.which, compiling.COMPILERS))
pytestmark = [
    pytest.mark.skipif(not COMPILER, reason="no C compiler"),
    pytest.mark.usefixtures("kernels_on_one_thread"),
]
CLOSE = {torch.float64: 1e-10, torch.float32: 2e-4}


def laid_out(x, layout):
    """The same values in other strides."""
    if layout == "channels last":
        return x.movedim(2, -1).contiguous().movedim(-1, 2)
    if layout == "part of a larger one":
        larger = torch.zeros(*x.shape[:-1], 2 * x.shape[-1] + 1, dtype=x.dtype)
        larger[..., 1::2] = x
        return larger[..., 1::2]
    return x[:1].expand_as(x) if layout == "the same for all replicas" else x


@settings(max_examples=120, deadline=None)
@given(
    replicas=st.integers(1, 3), batch=st.integers(0, 3), channels=st.integers(1, 9),
    outputs=st.integers(1, 20), height=st.integers(1, 7), width=st.integers(1, 7),
    kernel=st.integers(1, 5), padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    with_bias=st.booleans(), dtype=st.sampled_from(list(CLOSE)),
    layout=st.sampled_from(
        ["usual", "channels last", "part of a larger one", "the same for all replicas"]
    ),
    to_inputs=st.booleans(), to_weights=st.booleans(), few=st.booleans(),
)  # fmt: skip
def test_outputs_and_gradients_are_those_of_pytorch(
    replicas, batch, channels, outputs, height, width, kernel, padding, with_bias, dtype, layout,
    to_inputs, to_weights, few,
):  # fmt: skip
    if min(patches.sides((height, width), kernel, padding)) < 1:
        return
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    x = laid_out(normal(replicas, batch, channels, height, width), layout)
    weight = normal(replicas, outputs, channels, kernel, kernel)
    bias = normal(replicas, outputs) if with_bias else None
    singles = [
        [None if v is None else v[r].clone().requires_grad_() for v in (x, weight, bias)]
        for r in range(replicas)
    ]
    expected = torch.stack([functional.conv2d(*single, padding=padding) for single in singles])
    gradient = laid_out(normal(*expected.shape), layout)
    expected.backward(gradient)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "PLACES_PER_OUTPUT", 10**9 if few else 0)
        y, kept = patches.forward(x, weight, bias, padding, to_weights)
        to = [
            None if v is None or not to_weights else torch.full_like(v, 7) for v in (weight, bias)
        ]
        to_x = patches.backward(to_inputs, gradient, kept, x.shape, weight, padding, tuple(to))
    pairs = [(y, expected)]
    for made, place in ((to_x, 0), (to[0], 1), (to[1], 2)):
        if made is not None:
            pairs.append((made, torch.stack([single[place].grad for single in singles])))
    assert len(pairs) == 1 + to_inputs + to_weights * (1 + with_bias)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=CLOSE[dtype], atol=CLOSE[dtype])


def deep():
    """As a VGG: blocks, convolutions with a pooling and without one, linear layers."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(6, 40, 3, padding=1), nn.ReLU(),
        nn.Conv2d(40, 50, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.ReLU(),
        nn.Sequential(nn.Conv2d(50, 50, 2), nn.ReLU()),
        nn.Flatten(), nn.Linear(50, 7), nn.ReLU(), nn.Linear(7, 4),
    )  # fmt: skip


def stack_of(model, frozen):
    torch.manual_seed(0)
    copies = [copy.deepcopy(model).double() for _ in range(3)]
    for one in copies:
        for parameter in one.parameters():
            nn.init.normal_(parameter, std=0.3)
        if frozen:
            one.get_submodule(frozen).requires_grad_(False)
    return Replicas.stack(copies)


@pytest.fixture
def runs(monkeypatch):
    """Every run of a chain."""
    made = []
    run = chain._Run.apply
    monkeypatch.setattr(chain._Run, "apply", lambda *a: (made.append(1), run(*a))[1])
    return made


@pytest.mark.parametrize("by_patches", [True, False])
@pytest.mark.parametrize("frozen", ["", "0", "3", "5"])
@pytest.mark.parametrize("shared", [True, False])
def test_a_deep_chain_is_the_same_with_and_without(shared, frozen, by_patches, runs, monkeypatch):
    monkeypatch.setattr(patches, "PLACES_PER_OUTPUT", 10**9 if by_patches else 0)
    monkeypatch.setattr(chain.Chain, "takes", lambda *_: True)
    stack = stack_of(deep(), frozen)
    x = torch.randn(*([] if shared else [3]), 4, 3, 8, 9, dtype=torch.float64).requires_grad_()
    flat = stack.parameters.detach().requires_grad_()

    def results():
        y = stack.forward(flat, shared_inputs=shared)(x)
        total = y.square().sum()
        alone = [torch.autograd.grad(total, at, retain_graph=True)[0] for at in (x, flat)]
        first = torch.autograd.grad(total, [x, flat], create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), [x, flat])
        return [y, *alone, *first, *second]

    mine = results()
    assert len(runs) == 1
    with kernels.unfused():
        expected = results()
    assert len(runs) == 1
    for one, other in zip(mine, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_chain_is_taken_where_patches_save_more_than_it_costs(runs):
    stack = stack_of(deep(), "")
    x = torch.randn(3, 4, 3, 8, 8, dtype=torch.float64)
    stack.forward(stack.parameters)(x)
    assert len(runs) == 1
    stack.forward(stack.parameters)(x.repeat(1, 40, 1, 1, 1))  # of many places
    assert len(runs) == 1
    with pytest.raises(RuntimeError):  # of another number of channels: PyTorch's to refuse
        stack.forward(stack.parameters)(x[:, :, :2])


def test_vgg_trains_alike_with_and_without(runs):
    digits = load_dataset("digits")
    few = Split(digits.train.x[:40], digits.train.y[:40])
    splits = replace(digits, train=few, validation=few, test=few)
    setting = TrainConfig(
        model="vgg11", optimizer="adam", learning_rate=0.0005, batch_size=20, epochs=1,
        dtype="float64",
    )  # fmt: skip
    arm = Arm("a", Augmentation("epsilon", target="loss", strength=0.5))

    def trained():
        model = train(setting, [arm], [0], splits=splits).model("a", 0)
        return nn.utils.parameters_to_vector(model.parameters())

    mine = trained()
    assert runs
    with kernels.unfused():
        expected = trained()
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-9)
