"""The fused block against PyTorch's own layers, and what decides which of them runs."""

import copy
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from aba_core import Arm, Augmentation, TrainConfig, build_model, chain, kernels
from aba_core.adjustments import AdjustmentSet
from aba_core.attribution import cross_entropy
from aba_core.datasets import load_dataset
from aba_core.kernels import blocks, compiling, draws, losses, optimizer, passes
from aba_core.kernels import texts as largest
from aba_core.layers import for_single
from aba_core.randomness import Draws
from aba_core.replicas import Replicas
from aba_core.steps import optimizer_step, schedule
from aba_core.training import train

ROOT = Path(__file__).parents[1]
COMPILER = any(map(shutil.which, compiling.COMPILERS))
needs_compiler = pytest.mark.skipif(not COMPILER, reason="no C compiler")
CLOSE = {torch.float64: 1e-10, torch.float32: 1e-4}


@pytest.fixture(scope="module", autouse=True)
def one_cache(tmp_path_factory):
    """Whatever a test compiles is compiled once, and not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABA_KERNELS", "on")
        if "ABA_KERNELS_CACHE" not in os.environ:
            patch.setenv("ABA_KERNELS_CACHE", str(tmp_path_factory.mktemp("kernels")))
        kernels._found.cache_clear()
        yield
    kernels._found.cache_clear()


def twin(x, weight, bias, padding):
    """One replica after the other by PyTorch."""
    outputs = [
        functional.max_pool2d(
            functional.conv2d(x[r], weight[r], None if bias is None else bias[r], padding=padding),
            2,
        ).relu()
        for r in range(len(x))
    ]
    return torch.stack(outputs)


def compare(x, weight, bias, padding, gradient_strides=None):
    """Outputs and all gradients, each within the type's tolerance of its largest number."""
    inputs = [value for value in (x, weight, bias) if value is not None]
    for value in inputs:
        value.requires_grad_()
    y, expected = blocks._Fused.apply(x, weight, bias, padding), twin(x, weight, bias, padding)
    assert y.shape == expected.shape
    gradient = torch.randn(expected.shape, dtype=x.dtype)
    if gradient_strides:
        gradient = gradient.movedim(2, -1).contiguous().movedim(-1, 2)
    pairs = [(y, expected)]
    pairs += zip(
        torch.autograd.grad(y, inputs, gradient),
        torch.autograd.grad(expected, inputs, gradient),
        strict=True,
    )
    for mine, other in pairs:
        if other.numel():
            scale = other.abs().max().clamp_min(1)
            assert (mine - other).abs().max() <= CLOSE[x.dtype] * scale


def ramp(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@needs_compiler
@settings(max_examples=150, deadline=None)
@given(
    replicas=st.integers(1, 3),
    batch=st.integers(0, 4),
    channels=st.integers(1, 33),
    outputs=st.integers(1, 35),
    kernel=st.sampled_from(blocks.KERNELS),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    extra=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    biased=st.booleans(),
    layout=st.sampled_from(["plain", "channels last", "shared", "sliced"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_outputs_and_all_gradients_are_those_of_pytorch(
    replicas, batch, channels, outputs, kernel, padding, extra, biased, layout, dtype
):
    sides = [max(1, kernel - 2 * p) + e for p, e in zip(padding, extra, strict=True)]
    x = ramp(replicas, batch, channels, *sides, dtype=dtype)
    weight = ramp(replicas, outputs, channels, kernel, kernel, seed=1, dtype=dtype)
    bias = ramp(replicas, outputs, seed=2, dtype=dtype) if biased else None
    if layout == "channels last":
        x = x.movedim(2, -1).contiguous().movedim(-1, 2)
    elif layout == "shared":
        x = x[:1].expand_as(x)
    elif layout == "sliced":
        x = ramp(replicas, batch, channels, sides[1] + 3, 2 * sides[0], dtype=dtype)
        x = x.transpose(3, 4)[..., ::2, 2 : 2 + sides[1]]
        weight = weight.transpose(3, 4).flip(0)
    compare(x.detach(), weight.detach(), bias, padding, layout == "channels last")


@needs_compiler
@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 16, 20])
def test_of_equal_numbers_the_first_wins(dtype, channels):
    x = torch.randint(-1, 2, (2, 3, channels, 8, 8)).to(dtype)
    weight = torch.randint(-1, 2, (2, 17, channels, 3, 3)).to(dtype)
    assert (twin(x, weight, None, (1, 1)) == 0).any()
    compare(x, weight, torch.zeros(2, 17, dtype=dtype), (1, 1))
    compare(torch.ones_like(x), weight, None, (1, 1))


@needs_compiler
@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinite_values_go_through_as_in_pytorch(value, channels):
    x, weight = ramp(2, 2, channels, 9, 7), ramp(2, 18, channels, 3, 3, seed=1)
    x[0, 1, 0, 4, 3] = value
    y = blocks._Fused.apply(x, weight, None, (1, 1))
    torch.testing.assert_close(y, twin(x, weight, None, (1, 1)), equal_nan=True)
    assert y[1].isfinite().all() and y[0, 0].isfinite().all()


@needs_compiler
def test_where_all_is_nan_the_last_one_gets_the_gradient_as_in_pytorch():
    x = ramp(1, 1, 5, 4, 4)
    bias = torch.full((1, 2), float("nan"), dtype=torch.float64, requires_grad=True)
    weight = ramp(1, 2, 5, 3, 3, seed=1).requires_grad_()
    gradients = [
        torch.autograd.grad(run(x, weight, bias, (1, 1)).sum(), (weight, bias))
        for run in (blocks._Fused.apply, twin)
    ]
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected)


@needs_compiler
def test_negative_zeros_are_no_positive_numbers():
    x = torch.full((1, 1, 1, 4, 4), -0.0, dtype=torch.float64, requires_grad=True)
    weight = torch.ones(1, 1, 1, 3, 3, dtype=torch.float64)
    y = blocks._Fused.apply(x, weight, None, (1, 1))
    assert (y == 0).all()
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert (gradient == 0).all()


@needs_compiler
def test_differentiated_twice_it_is_pytorchs_own():
    x, weight, bias = ramp(2, 2, 2, 6, 6), ramp(2, 3, 2, 3, 3, seed=1), ramp(2, 3, seed=2)
    inputs = [value.requires_grad_() for value in (x, weight, bias)]

    def function(*values):
        return blocks._Fused.apply(*values, (1, 1)).square()

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
    single = [value.detach()[0].requires_grad_() for value in inputs]
    assert torch.autograd.gradgradcheck(function, single)


@needs_compiler
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("dtype", CLOSE, ids=str)
def test_the_optimiser_is_adam(dtype, decay, monkeypatch):
    config = TrainConfig(optimizer="adam", learning_rate=0.01, weight_decay=decay)
    rates = torch.tensor([[0.01], [0.03]], dtype=dtype)
    steps = torch.tensor(schedule(config, 20), dtype=torch.float64)
    mine, others = ([ramp(2, 37, dtype=dtype), *torch.zeros(2, 2, 37, dtype=dtype)] for _ in "12")
    taken = []
    adam = optimizer.adam
    monkeypatch.setattr(optimizer, "adam", lambda *a: (taken.append(1), adam(*a)))
    for number, now in enumerate(steps):
        gradient = ramp(2, 37, seed=number, dtype=dtype)
        optimizer_step(config, mine[0], gradient, mine[1:], rates, now)
        with kernels.unfused():
            optimizer_step(config, others[0], gradient, others[1:], rates, now)
    assert len(taken) == 20
    for one, other in zip(mine, others, strict=True):
        bound = 1e-14 if dtype == torch.float64 else 1e-6
        torch.testing.assert_close(one, other, rtol=bound, atol=bound)


@needs_compiler
@pytest.mark.slow
def test_bits_do_not_depend_on_the_processor(tmp_path):
    code = """
import torch
from aba_core import build_model, kernels
from aba_core.attribution import cross_entropy
from aba_core.kernels import blocks, compiling, optimizer
from aba_core.replicas import Pass, Replicas
from hashlib import sha256
torch.set_num_threads(1)
seen = sha256()
for channels, outputs, side in (1, 16, 8), (3, 17, 10), (16, 32, 14), (20, 33, 9):
    draw = torch.Generator().manual_seed(channels)
    shapes = (2, 5, channels, side, side), (2, outputs, channels, 3, 3), (2, outputs)
    values = [torch.randn(shape, generator=draw).requires_grad_() for shape in shapes]
    y = blocks._Fused.apply(*values, (1, 1))
    gradients = torch.autograd.grad(y, values, torch.randn(y.shape, generator=draw))
    moments = [torch.rand(2, 1003, generator=draw) for _ in range(4)]
    rates = torch.full((2, 1), 0.01)
    optimizer.adam(*moments, rates, 0.01, (0.1, 0.001), (1.3, 1e-8))
    for made in (y, *gradients, *moments):
        seen.update(made.detach().contiguous().numpy().tobytes())
for shape in (1, 8, 8), (2, 9, 11), (50,), (9, 6):
    torch.manual_seed(0)
    name = ["mlp", "text_cnn", "small_cnn"][len(shape) - 1]
    models = [build_model(name, shape, 7) for _ in "abc"]
    stack, x = Replicas.stack(models), torch.randn(3, 5, *shape)
    whole, labels = Pass(stack, stack.parameters), torch.arange(15).reshape(3, 5) % 7
    moved, shifts = torch.where(torch.rand_like(x) < 0.2, x + 1, x + 0.5), torch.full((3, 5), 0.5)
    stack.near.begin(x)
    makes = [whole.slopes(x, labels, cross_entropy, 5, (True, True))]
    stack.near.lead(moved, shifts)
    makes.append(whole.slopes(moved, labels, cross_entropy, 5, (True, True)))
    for made in (value for values in makes for value in values):
        seen.update(made.contiguous().numpy().tobytes())
print(seen.hexdigest(), kernels.path_taken())
"""
    command, processor, macros = compiling.compiler()
    tunings = "-mtune=generic", "-mtune=znver3"  # the second splits products and sums where it may
    probe = [*command, *processor, *tunings, "-mno-fma", "-E", "-x", "c", os.devnull]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no x86 compiler")
    if b"__FMA__" not in macros:
        pytest.skip("a processor without fused products and sums")
    narrower = ["-mno-avx512f"] if b"__AVX512F__" in macros else []
    told = {
        flags: python(code, CC=f"{shlex.join(command)} {flags}", ABA_KERNELS_CACHE=str(tmp_path))
        for flags in ("", *tunings, *narrower, "-mno-avx512f -mno-fma")
    }
    *fused, rounded = told.values()
    wide = fused[0]
    assert set(fused) == {wide} and wide.endswith(" fused")
    assert rounded.split()[0] != wide.split()[0] and rounded.endswith(" fused without fma")


@needs_compiler
@settings(max_examples=60, deadline=None)
@given(
    lead=st.sampled_from([(1,), (7,), (3, 5)]),
    classes=st.integers(1, 40),
    spread=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    strange=st.sampled_from([0.0, float("nan"), float("inf"), -float("inf")]),
    dtype=st.sampled_from(list(CLOSE)),
)
def test_cross_entropy_is_pytorchs(lead, classes, spread, strange, dtype):
    logits = spread * ramp(*lead, classes, dtype=dtype)
    logits.flatten(0, -2)[0, -1] += strange
    logits.requires_grad_()
    labels = (7 * torch.arange(logits[..., 0].numel()) % classes).view(lead)
    weights = ramp(*lead, seed=1, dtype=dtype)

    def results():
        each = cross_entropy(logits, labels)
        given = torch.autograd.grad((weights * each).sum(), logits, retain_graph=True)
        slopes = torch.autograd.grad((weights * each).sum(), logits, create_graph=True)
        return [each, *given, *slopes, *torch.autograd.grad(slopes[0].square().sum(), logits)]

    with pytest.MonkeyPatch.context() as patch:
        calls, apply = [], losses._Loss.apply
        patch.setattr(losses._Loss, "apply", lambda *a: (calls.append(1), apply(*a))[1])
        mine = results()
    assert calls == ([1] if torch.get_num_threads() == 1 else [])
    with kernels.unfused():
        expected = results()
    for one, other in zip(mine, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, equal_nan=True)


@needs_compiler
def test_a_sample_that_is_no_number_leaves_the_others_bits(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    logits, labels = ramp(9, 10, dtype=torch.float32), torch.arange(9)
    alone = cross_entropy(logits, labels)
    logits[4, 2] = float("nan")
    beside = cross_entropy(logits, labels)
    assert beside[4].isnan() and torch.equal(beside[[0, 1, 2, 3, 5]], alone[[0, 1, 2, 3, 5]])
    for wrong in (-1, 10):
        with pytest.raises(RuntimeError):
            cross_entropy(logits, torch.full((9,), wrong))


@needs_compiler
@settings(max_examples=60, deadline=None)
@given(
    texts=st.integers(0, 3),
    tokens=st.integers(5, 20),
    elements=st.integers(1, 9),
    outputs=st.integers(1, 70),
    taps=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    biased=st.booleans(),
    layout=st.sampled_from(["plain", "sliced", "padded", "shared", "repeated", "tied"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_largest_over_a_text_is_pytorchs(
    texts, tokens, elements, outputs, taps, biased, layout, dtype
):
    x = ramp(texts, tokens, elements, dtype=dtype)
    if layout == "sliced":
        x = ramp(texts, elements, 2 * tokens, dtype=dtype).transpose(1, 2)[:, ::2]
    elif layout == "padded":  # windows that are all alike share the gradient
        x[:, tokens // 3 :] = 0
    elif layout == "shared":
        x = x[:1].expand_as(x)
    elif layout == "repeated":  # whole numbers: PyTorch may round equal windows differently
        x = x[:, :1].round().expand_as(x)
    elif layout == "tied":  # windows that differ and have one sum
        x = (2 * x).round().clamp(-1, 1)
    rows = nn.ModuleList(
        nn.Sequential(nn.Conv1d(elements, outputs + place, width, bias=biased), nn.ReLU())
        for place, width in enumerate(taps)
    ).to(dtype)
    if layout in ("repeated", "tied"):
        for value in rows.parameters():
            value.data.mul_(20 if layout == "repeated" else 2).round_()
    at = x.detach().requires_grad_()
    branches = largest.branches(list(rows))
    assert branches.applies(at)
    nothing = at.sum() + ramp(0, sum(outputs + place for place in range(len(taps))))
    by_pytorch = [row(at.transpose(1, 2)).amax(2) for row in rows] if texts else [nothing]
    pair = branches(at), torch.cat(by_pytorch, 1)
    for mine, other in zip(*(given_back(y, at, rows) for y in pair), strict=True):
        torch.testing.assert_close(mine, other, rtol=CLOSE[dtype], atol=CLOSE[dtype])


def given_back(y, x, layers):
    """Outputs, and gradients to inputs and parameters."""
    direction = ramp(*y.shape, seed=3, dtype=x.dtype)
    parameters = list(layers.parameters())
    gradients = torch.autograd.grad(
        y, [x, *parameters], direction.to(y.dtype), allow_unused=True, materialize_grads=True
    )
    return [y.to(x.dtype), *gradients]


@needs_compiler
def test_over_texts_nan_stays_and_twice_differentiated_it_is_pytorchs_own():
    x, convolution = ramp(2, 7, 3).requires_grad_(), nn.Conv1d(3, 4, 2).double()
    function = largest.branches([nn.Sequential(convolution, nn.ReLU())])
    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(lambda x: function(x).square(), x)
    with torch.no_grad():
        x[1, 3, 0] = float("nan")
        assert function(x)[1].isnan().all() and function(x)[0].isfinite().all()


@needs_compiler
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_text_cnn_is_the_same_with_and_without(batch_norm, monkeypatch):
    taken = []
    call = largest._call
    monkeypatch.setattr(largest, "_call", lambda *a: (taken.append(a[0]), call(*a))[1])
    stack = stack_of(build_model("text_cnn", (9, 5), 3, batch_norm), together=False)
    x = ramp(3, 4, 9, 5)
    mine = outcome(stack, x)
    assert len(taken) == (0 if batch_norm else 6)
    with kernels.unfused():
        expected = outcome(stack, x)
    for one, other in zip(mine, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def models():
    def cnn(*between):
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), *between,
            nn.Conv2d(6, 5, 5, padding=2, bias=False), nn.ReLU(), nn.MaxPool2d(2, 2),
            nn.Flatten(), nn.Linear(5 * 2 * 3, 4),
        )  # fmt: skip

    return {
        "chain": cnn(),
        "nested": nn.Sequential(nn.Sequential(*cnn()[:3]), *cnn()[3:]),
        "batch norm between": cnn(nn.BatchNorm2d(6)),
        "dropout between": cnn(nn.Dropout(0.3)),
        "wrapped": Wrapped(cnn()),
        "layers that come twice": twice(),
        "no bias": cnn_without_bias(),
    }


def cnn_without_bias():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * 3 * 5, 6, bias=False), nn.ReLU(), nn.Linear(6, 4),
    )  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("frozen", ["", "1", "3"])
def test_a_chain_of_linear_layers_is_the_same_with_and_without(frozen, shared, monkeypatch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 4, bias=False))
    if frozen:
        model.get_submodule(frozen).requires_grad_(False)
    taken = []
    run = chain._Run.apply
    monkeypatch.setattr(chain._Run, "apply", lambda *a: (taken.append(1), run(*a))[1])
    stack, x = stack_of(model, together=True), ramp(3, 5, 3, 4)
    if shared:
        x = x[0].requires_grad_()
        flat = stack.parameters.detach().requires_grad_()
        function = stack.forward(flat, shared_inputs=True)

    def results():
        if not shared:
            return outcome(stack, x)
        y = function(x)
        first = torch.autograd.grad(y.square().sum(), [x, flat], create_graph=True)
        return [y, *first, *torch.autograd.grad(first[0].square().sum(), [x, flat])]

    mine = results()
    assert len(taken) == 1
    with kernels.unfused():
        expected = results()
    assert len(taken) == 1
    for one, other in zip(mine, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def twice():
    layers = [nn.Conv2d(3, 3, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
    return nn.Sequential(*layers, *layers, nn.Flatten(), nn.Linear(3 * 2 * 3, 4))


class Wrapped(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return self.layers(x * 2)


def stack_of(model, together, dtype=torch.float64):
    torch.manual_seed(0)
    copies = [copy.deepcopy(model).to(dtype) for _ in range(3)]
    for one in copies:
        for parameter in one.parameters():
            nn.init.normal_(parameter, std=0.3)
    stack = Replicas.stack(copies)
    stack.together = together
    return stack


def outcome(stack, x):
    """Outputs in training, and gradients to parameters and inputs, of each pass."""
    results = []
    at = x.clone().requires_grad_()
    for rows, parameters, forward in stack.passes(at, differentiable=True):
        y = forward(at[rows])
        results += [y, *torch.autograd.grad(y.square().sum(), [at, *parameters])]
    return results


@needs_compiler
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("name", models())
def test_replicas_are_the_same_with_and_without(name, together, calls):
    stack = stack_of(models()[name], together)
    x = ramp(3, 4, 3, 9, 13)
    mine = outcome(stack, x)
    blocks = 1 if name == "no bias" else 2
    whole = together and name in ("chain", "nested", "no bias")  # one call each way
    expected_calls = 2 if whole else 2 * blocks * (1 if together else 3)
    assert len(calls) == expected_calls
    with kernels.unfused():
        expected = outcome(stack, x)
    assert len(calls) == expected_calls
    for one, other in zip(mine, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.fixture
def calls(monkeypatch):
    """Every call of C."""
    made = []
    call, whole = blocks._call, passes.Program._call
    monkeypatch.setattr(blocks, "_call", lambda *a: (made.append(a[0]), call(*a))[1])
    counted = staticmethod(lambda *a: (made.append("chain"), whole(*a))[1])
    monkeypatch.setattr(passes.Program, "_call", counted)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield made
    torch.set_num_threads(threads)


BLOCK = (nn.Conv2d(2, 3, 3, padding=1), nn.MaxPool2d(2), nn.ReLU())


@needs_compiler
@pytest.mark.parametrize(
    "change",
    [
        {"stride": 2},
        {"dilation": 2},
        {"kernel_size": 2},
        {"groups": 1, "padding": "same"},
        {"padding_mode": "circular"},
        {"kernel_size": (3, 5)},
    ],
    ids=str,
)
def test_other_convolutions_stay_with_pytorch(change, calls):
    options = {"kernel_size": 3, "padding": 1, **change}
    if "padding" not in change and options["kernel_size"] != 3:
        options["padding"] = 2
    model = nn.Sequential(nn.Conv2d(2, 4, **options), *BLOCK[1:])
    x = torch.randn(2, 2, 12, 12)
    torch.testing.assert_close(for_single(model)(x), model(x))
    assert not calls


@needs_compiler
@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3),
        nn.MaxPool2d(2, stride=1),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(2, dilation=2),
        nn.AvgPool2d(2),
    ],
    ids=str,
)
def test_other_poolings_stay_with_pytorch(pool, calls):
    model = nn.Sequential(BLOCK[0], pool, BLOCK[2])
    x = torch.randn(2, 2, 9, 9)
    torch.testing.assert_close(for_single(model)(x), model(x))
    assert not calls


@needs_compiler
def test_a_layer_with_a_forward_of_its_own_keeps_it(calls):
    model = nn.Sequential(*copy.deepcopy(BLOCK))
    model[1].forward = lambda x: functional.max_pool2d(x, 2) - 1
    x = torch.randn(2, 2, 9, 8)
    torch.testing.assert_close(for_single(model)(x), model(x))
    assert not calls


@needs_compiler
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch.func.jvp's own
def test_the_block_is_used_where_it_applies_and_nowhere_else(calls):
    model = nn.Sequential(*BLOCK)
    fused = for_single(model)
    x = torch.randn(2, 2, 9, 8)
    torch.testing.assert_close(fused(x), model(x))
    assert calls == ["forward"]
    torch.testing.assert_close(fused(x[0]), model(x[0]))  # no batch
    with torch.autocast("cpu", torch.bfloat16):
        assert fused(x).dtype == torch.bfloat16
    assert for_single(copy.deepcopy(model).bfloat16())(x.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(RuntimeError):
        fused(x[:, :1])
    with pytest.raises(RuntimeError):
        fused(x[:, :, :1])
    torch.set_num_threads(2)
    fused(x)
    torch.set_num_threads(1)
    torch.func.grad(lambda at: fused(at).sum())(x)
    torch.func.jvp(fused, (x,), (x,))
    assert len(calls) == 1


@needs_compiler
def test_somebody_who_looks_at_a_layer_sees_what_it_computes(calls):
    fused = for_single(nn.Sequential(*BLOCK))
    x, seen = torch.randn(2, 2, 8, 8), []
    handle = fused[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    expected = fused(x)
    handle.remove()
    assert seen[0].shape == (2, 3, 4, 4) and not calls
    torch.testing.assert_close(fused(x), expected)
    assert fused[0](x).shape == (2, 3, 8, 8)  # layers of one's own choice are themselves
    torch.testing.assert_close(fused[:2](x), seen[0])
    assert calls == ["forward"]


@needs_compiler
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("arm", ["vanilla", "all"])
def test_five_steps_of_training_agree_in_float64(arm, together, monkeypatch, calls):
    monkeypatch.setattr("aba_core.replicas.STACKED_UP_TO", 10**9 if together else 0)
    splits = load_dataset("digits")
    method = {"vanilla": None, "all": Augmentation(AdjustmentSet.parse("all"), strength=0.5)}[arm]
    steps, batch = 5, 20
    setting = TrainConfig(
        model="small_cnn", optimizer="adam", learning_rate=0.002, batch_size=batch,
        epochs=steps * batch / len(splits.train), dtype="float64",
    )  # fmt: skip

    def run():
        runs = train(setting, [Arm("a", method)], [0, 1, 2], splits=splits)
        models = [runs.model("a", seed) for seed in (0, 1, 2)]
        return torch.stack([nn.utils.parameters_to_vector(m.parameters()) for m in models])

    fused = run()
    assert calls
    with kernels.unfused():
        unfused = run()
    torch.testing.assert_close(fused, unfused, rtol=0, atol=1e-9)


def python(code, **changes):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **changes}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


STATUS = "from aba_core import kernels; s = kernels.status(); print(s.used, s.why, s.path, sep='|')"


@needs_compiler
def test_it_is_used_unless_the_environment_says_no():
    assert python(STATUS, ABA_KERNELS="").startswith("True|compiled by ")
    assert python(STATUS, ABA_KERNELS="off") == "False|ABA_KERNELS=off|"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABA_KERNELS", "maybe")
        with pytest.raises(ValueError, match="'maybe'; allowed: on, off"):
            kernels.status()


def test_without_a_compiler_pytorch_does_it(tmp_path):
    code = f"""
import torch
from torch import nn
from aba_core.layers import for_single
model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.ReLU())
x = torch.randn(1, 1, 6, 6)
assert torch.equal(for_single(model)(x), model(x))
{STATUS}"""
    told = python(code, PATH=str(tmp_path), CC="", ABA_KERNELS_CACHE=str(tmp_path))
    assert told == "False|no C compiler (cc, gcc, clang) on the path|"


def test_a_compiler_that_fails_is_told_and_leaves_nothing(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text(
        "#!/bin/sh\n"
        'for word in "$@"; do [ "$word" = -dM ] && exit 0; done\n'
        "echo 'error: no' >&2\n"
        "exit 1\n"
    )
    compiler.chmod(0o755)
    cache = tmp_path / "cache"
    told = python(STATUS, CC=str(compiler), ABA_KERNELS_CACHE=str(cache))
    assert told.startswith("False|") and "could not compile the kernels: error: no" in told
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


@needs_compiler
@pytest.mark.slow
def test_a_library_that_is_wrong_is_not_used(tmp_path):
    compiler = tmp_path / "cc"
    real = compiling.compiler()[0][0]
    # As a compiler would be that takes a maximum for a minimum.
    compiler.write_text(
        "#!/bin/sh\n"
        f"cp {compiling.SOURCES[0].parent}/*.h {tmp_path}\n"
        f"""sed 's/best > zero/best < zero/' {compiling.SOURCES[0]} > {tmp_path}/fused.c\n"""
        f"""for word; do shift; [ "$word" = {compiling.SOURCES[0]} ] && word={tmp_path}/fused.c\n"""
        f"""set -- "$@" "$word"; done\nexec {real} "$@"\n"""
    )
    compiler.chmod(0o755)
    told = python(STATUS, CC=str(compiler), ABA_KERNELS_CACHE=str(tmp_path / "cache"))
    assert told == "False|the compiled block is wrong: outputs of 1 channels, float|"


@needs_compiler
@pytest.mark.slow
def test_a_cache_that_cannot_be_written_costs_a_compilation_a_process(tmp_path):
    (tmp_path / "file").write_text("")
    told = python(STATUS, ABA_KERNELS_CACHE=str(tmp_path / "file" / "cache"))
    assert told.startswith("True|") and "for this process alone" in told


@needs_compiler
@pytest.mark.slow
def test_a_library_built_with_the_package_is_taken_where_processor_and_files_fit(
    tmp_path, monkeypatch
):
    kind = next((k for k in KINDS if k.features <= compiling.features()), None)
    if kind is None:
        pytest.skip("a processor that no library is built for")
    assert compiling.prebuilt(tmp_path) is None
    monkeypatch.setitem(compiling.KINDS, platform.machine(), (kind, ELSEWHERE))
    made = compiling.build(tmp_path)
    assert [path.name for path in made] == [f"{kind.name}-{compiling.sources_key()}.so"]
    assert compiling.prebuilt(tmp_path) == (made[0], kind.name)
    code = f"""
from pathlib import Path
from aba_core import kernels
from aba_core.kernels import compiling
compiling.prebuilt.__defaults__ = Path({str(tmp_path)!r}),
{STATUS}"""
    told = python(code, PATH="/nowhere")
    assert told == f"True|built with the package for {kind.name}|{made[0]}"
    monkeypatch.setattr(compiling, "features", lambda: frozenset({"sse2"}))
    expected = (made[0], kind.name) if not kind.features else None
    assert compiling.prebuilt(tmp_path) == expected
    monkeypatch.setattr(compiling, "sources_key", lambda: "of other files")
    assert compiling.prebuilt(tmp_path) is None


KINDS = compiling.KINDS.get(platform.machine(), ())
# What no compiler knows costs its library and nothing else.
ELSEWHERE = compiling.Kind("elsewhere", ("-march=elsewhere",), frozenset({"elsewhere"}))


@needs_compiler
@pytest.mark.slow
def test_many_processes_at_once_compile_one_library(tmp_path):
    environment = {**os.environ, "ABA_KERNELS_CACHE": str(tmp_path)}
    environment["ABA_KERNELS"] = "on"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STATUS],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(6)
    ]  # fmt: skip
    told = {process.communicate(timeout=300)[0] for process in processes}
    assert len(told) == 1 and told.pop().startswith("True|compiled by ")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".so"]


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("flags", [["-march=native"], []], ids=["native", "plain"])
def test_sanitizers_find_nothing(tmp_path, flags):
    compiler, _, _ = compiling.compiler()
    driver = tmp_path / "driver"
    empty = tmp_path / "empty.c"
    empty.write_text("int main(void) { return 0; }\n")
    probe = [*compiler, "-fsanitize=address,undefined", str(empty), "-o", str(driver)]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("the compiler has no sanitizers")
    build = [
        *compiler, "-std=gnu11", "-g", "-O1", *flags, "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all", "-I", str(compiling.SOURCES[0].parent),
        str(Path(__file__).with_name("kernels_driver.c")),
        *(str(source) for source in compiling.SOURCES[1:] if source.suffix == ".c"),
        "-o", str(driver), "-lm",
    ]  # fmt: skip
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([str(driver)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        done.stdout.strip()
        == "400 shapes, 200 patches, 400 chains and 400 moved inputs agree, 200 texts and "
        "optimisers ran"
    )


@needs_compiler
@pytest.mark.parametrize("features", [1, 7, 40_000])
@pytest.mark.parametrize("step", [3, torch.tensor([2**30])], ids=["number", "tensor"])
def test_noise_has_the_bits_of_the_tensor_code(features, step, monkeypatch):
    taken, call = [], draws.uniforms_along
    monkeypatch.setattr(draws, "uniforms_along", lambda *a: (taken.append(1), call(*a))[1])
    seeds = {"smoothing": torch.tensor([[5], [2**62]])}
    of_step = Draws(seeds, step, torch.tensor([[0, 1, 2], [0, 1, 2**33]]))
    mine = of_step.noise("smoothing", 4, features)
    assert taken and mine.shape == (2, 3, features)
    taken.clear()
    with kernels.unfused():
        assert torch.equal(mine, of_step.noise("smoothing", 4, features)) and not taken
