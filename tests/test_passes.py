"""A chain's whole passes in one call of C against PyTorch's own layers, and where they are used."""

import copy
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from aba_core import Arm, Augmentation, TrainConfig, build_model, kernels
from aba_core.adjustments import AdjustmentSet
from aba_core.attribution import cross_entropy
from aba_core.datasets import load_dataset
from aba_core.kernels import blocks, compiling, passes
from aba_core.methods.base import method_of
from aba_core.replicas import Pass, Replicas
from aba_core.training import train

COMPILER = any(map(shutil.which, compiling.COMPILERS))
pytestmark = [
    pytest.mark.skipif(not COMPILER, reason="no C compiler"),
    pytest.mark.usefixtures("kernels_on_one_thread"),
]
CLOSE = {torch.float64: 1e-10, torch.float32: 2e-4}


@pytest.fixture
def calls(monkeypatch):
    """Every call for a whole pass."""
    made = []
    call = passes.Program._call
    monkeypatch.setattr(
        passes.Program, "_call", staticmethod(lambda *a: (made.append(1), call(*a))[1])
    )
    return made


def block(channels, outputs, kernel, padding, biased):
    convolution = nn.Conv2d(channels, outputs, kernel, padding=padding, bias=biased)
    return [convolution, nn.MaxPool2d(2), nn.ReLU()]


@st.composite
def models(draw):
    """A chain, and a shape of inputs that fits it."""
    channels, sides = draw(st.integers(1, 6)), [draw(st.integers(1, 14)) for _ in "ab"]
    shape, layers = (channels, *sides), []
    for _ in range(draw(st.integers(0, 2))):
        kernel, outputs = draw(st.sampled_from(blocks.KERNELS)), draw(st.integers(1, 21))
        padding = draw(st.integers(0, 2))
        after = [(side + 2 * padding - kernel + 1) // 2 for side in sides]
        if min(after) < 1:
            break
        layers += block(channels, outputs, kernel, padding, draw(st.booleans()))
        layers += [nn.ReLU()] if draw(st.booleans()) else []
        channels, sides = outputs, after
    layers.append(nn.Flatten())
    width = channels * sides[0] * sides[1]
    for _ in range(draw(st.integers(1, 2))):
        outputs = draw(st.integers(1, 70))
        layers.append(nn.Linear(width, outputs, bias=draw(st.booleans())))
        layers += [nn.ReLU()] if draw(st.booleans()) else []
        width = outputs
    return nn.Sequential(*layers), shape


def stack_of(model, replicas, dtype=torch.float64):
    torch.manual_seed(0)
    copies = [copy.deepcopy(model).to(dtype) for _ in range(replicas)]
    for one in copies:
        for parameter in one.parameters():
            nn.init.normal_(parameter, std=0.4)
    stack = Replicas.stack(copies)
    stack.together = True
    return stack


def by_pytorch(stack, x, labels, divisor):
    """Losses, and gradients of their sum over `divisor`, one replica after the other."""
    losses, to_flat, to_x = [], [], []
    for replica in range(len(stack)):
        model = stack.model(replica)
        at = x[replica].detach().clone().requires_grad_()
        loss = functional.cross_entropy(model(at), labels[replica], reduction="none")
        inputs = [*model.parameters(), at]
        *pieces, mine = torch.autograd.grad(loss.sum() / divisor, inputs)
        losses.append(loss.detach())
        to_flat.append(torch.cat([piece.flatten() for piece in pieces]))
        to_x.append(mine)
    return [torch.stack(values) for values in (losses, to_flat, to_x)]


def gives_what_is_asked_for(whole, x, labels, divisor, expected):
    """expected: losses, and the gradients to parameters and to inputs."""
    for asked in ((True, True), (True, False), (False, True)):
        losses, *gradients = whole.slopes(x, labels, cross_entropy, divisor, asked)
        close(losses, expected[0])
        for wish, gradient, other in zip(asked, gradients, expected[1:], strict=True):
            assert (gradient is None) == (not wish)
            if wish:
                close(gradient, other)


def close(mine, other):
    scale = other.abs().max().clamp_min(1)
    assert mine.shape == other.shape
    assert (mine - other).abs().max() <= CLOSE[other.dtype] * scale


@settings(max_examples=120, deadline=None)
@given(
    drawn=models(),
    replicas=st.integers(1, 3),
    batch=st.integers(1, 7),
    layout=st.sampled_from(["plain", "channels last", "shared", "sliced"]),
    divisor=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_losses_and_gradients_are_those_of_pytorch(drawn, replicas, batch, layout, divisor, dtype):
    model, shape = drawn
    stack = stack_of(model, replicas, dtype)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(replicas, batch, *shape, generator=generator, dtype=dtype)
    if layout == "channels last":
        x = x.movedim(2, -1).contiguous().movedim(-1, 2)
    elif layout == "shared":
        x = x[:1].expand(replicas, *x.shape[1:])
    elif layout == "sliced":
        x = x.repeat_interleave(2, 1)[:, ::2]
    classes = stack.model(0)(x[0]).shape[1]
    labels = torch.randint(classes, (replicas, batch), generator=generator)
    whole = Pass(stack, stack.parameters.detach())
    expected = by_pytorch(stack, x, labels, divisor)
    gives_what_is_asked_for(whole, x, labels, divisor, expected)
    # Each way by itself, as with any other loss, and forward alone, in parts of the batch.
    flat, at = stack.parameters.detach().requires_grad_(), x.detach().requires_grad_()
    logits = stack.forward(flat)(at)
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    made = torch.autograd.grad(loss / divisor, [flat, at])
    for gradient, other in zip(made, expected[1:], strict=True):
        close(gradient, other)
    many = x[:, torch.arange(150) % batch]
    with torch.no_grad():
        close(stack.forward(flat)(many), logits.detach()[:, torch.arange(150) % batch])


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(1, 20),
    elements=st.integers(1, 9),
    batch=st.integers(1, 4),
    layout=st.sampled_from(["plain", "padded", "shared", "sliced"]),
    biased=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_text_cnns_losses_and_gradients_are_those_of_pytorch(
    tokens, elements, batch, layout, biased, dtype
):
    model = build_model("text_cnn", (tokens, elements), 5)
    if not biased:
        model.convolutions[0][0].bias = None
    stack, generator = stack_of(model, 2, dtype), torch.Generator().manual_seed(1)
    stack.together = None
    x = torch.randn(2, batch, tokens, elements, generator=generator, dtype=dtype)
    if layout == "padded":  # windows that are all alike share the gradient
        x[:, :, tokens // 3 :] = 0
    elif layout == "shared":
        x = x[:1].expand_as(x)
    elif layout == "sliced":
        x = x.repeat_interleave(2, 1)[:, ::2]
    labels = torch.randint(5, (2, batch), generator=generator)
    expected = by_pytorch(stack, x, labels, 3)
    ((_, _, whole),) = stack.passes(x, differentiable=False)
    gives_what_is_asked_for(whole, x, labels, 3, expected)
    flat, at = stack.parameters.detach().requires_grad_(), x.detach().requires_grad_()
    loss = cross_entropy(stack.forward(flat)(at), labels).sum() / 3
    for again in (True, False):  # to be differentiated once more, by PyTorch, and by C
        made = torch.autograd.grad(loss, [flat, at], create_graph=again, retain_graph=again)
        for gradient, other in zip(made, expected[1:], strict=True):
            close(gradient.detach(), other)


def small(*more):
    return nn.Sequential(*block(2, 5, 3, 1, True), *more, nn.Flatten(), nn.Linear(5 * 12, 4))


def test_labels_that_are_no_classes_are_pytorchs_to_refuse():
    stack, x = stack_of(small(), 2), torch.randn(2, 3, 2, 6, 8, dtype=torch.float64)
    whole = Pass(stack, stack.parameters)
    for labels in (torch.tensor([[0, 1, 4]] * 2), torch.tensor([[0, -1, 2]] * 2)):
        assert whole.slopes(x, labels, cross_entropy) is None
    labels = torch.tensor([[0, 1, 3]] * 2)
    assert whole.slopes(x, labels, cross_entropy) is not None
    assert whole.slopes(x, labels, lambda logits, y: cross_entropy(logits, y)) is None
    assert whole.slopes(x, labels.int(), cross_entropy) is None
    assert whole.slopes(x, functional.one_hot(labels, 4).double(), cross_entropy) is None
    assert whole.slopes(x[:, :0], labels[:, :0], cross_entropy) is None
    with kernels.unfused():
        assert whole.slopes(x, labels, cross_entropy) is None


@pytest.mark.parametrize(
    "change",
    ["batch norm", "dropout", "frozen", "average pooling", "convolution alone", "own forward"],
)
def test_chains_with_something_else_in_them_go_layer_by_layer(change, calls):
    model = small()
    if change == "batch norm":
        model = small(nn.BatchNorm2d(5))
    elif change == "dropout":
        model = small(nn.Dropout(0.5))
    elif change == "frozen":
        model[0].requires_grad_(False)
    elif change == "average pooling":
        model[1] = nn.AvgPool2d(2)
    elif change == "convolution alone":
        model.insert(0, nn.Conv2d(2, 2, 3, padding=1))
    else:
        model[2].forward = functional.relu
    stack, x = stack_of(model, 3), torch.randn(3, 3, 2, 6, 8, dtype=torch.float64)
    labels = torch.tensor([[0, 1, 3]] * 3)
    assert Pass(stack, stack.parameters).slopes(x, labels, cross_entropy) is None
    stack.forward(stack.parameters)(x)
    assert not calls


@pytest.mark.parametrize("change", ["batch norm", "frozen", "stride", "hook", "own forward"])
def test_text_cnns_that_are_otherwise_are_pytorchs(change, calls):
    model = build_model("text_cnn", (9, 5), 4, batch_norm=change == "batch norm")
    if change == "frozen":
        model.convolutions[1].requires_grad_(False)
    elif change == "stride":
        model.convolutions[1][0].stride = (2,)
    elif change == "hook":
        model.convolutions.register_forward_hook(lambda *_: None)
    elif change == "own forward":
        model.convolutions[0][1].forward = functional.relu
    stack, x = stack_of(model, 3), torch.randn(3, 3, 9, 5, dtype=torch.float64)
    labels = torch.tensor([[0, 1, 3]] * 3)
    assert Pass(stack, stack.parameters).slopes(x, labels, cross_entropy) is None
    mine = stack.forward(stack.parameters)(x)
    with kernels.unfused():
        close(mine, stack.forward(stack.parameters)(x))
    assert not calls


def test_a_run_that_is_no_number_leaves_the_others_bits():
    stack, x = stack_of(small(), 3, torch.float32), torch.randn(3, 3, 2, 6, 8)
    labels = torch.tensor([[0, 1, 3]] * 3)
    whole = Pass(stack, stack.parameters)
    before = whole.slopes(x, labels, cross_entropy, 3, (True, True))
    stack.parameters[1] = float("nan")
    after = whole.slopes(x, labels, cross_entropy, 3, (True, True))
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one[[0, 2]], other[[0, 2]]) and other[1].isnan().any()


def with_dropout():
    return nn.Sequential(*block(1, 5, 3, 1, True), nn.Dropout(0.3), nn.Flatten(), nn.Linear(80, 10))


def as_texts(splits):
    parts = {
        name: replace(part, data=part.data[:, 0])
        for name, part in vars(splits).items()
        if name in ("train", "validation", "test")
    }
    return replace(splits, **parts, input_shape=splits.input_shape[1:])


MENDABA = Augmentation(AdjustmentSet.parse("1,2,3,4,5,6"), strength=0.5, target="loss")
# What a training is asked for: the arm's method, further settings, and whether whole passes by C
# make all of its gradients, some of them, or none.
TRAININGS = {
    "vanilla": (None, {}, "all"),
    "mendaba": (MENDABA, {}, "all"),
    "lagged": (Augmentation("all", strength=0.5, target="loss", lagged=True), {}, "all"),
    "class score": (Augmentation("all", strength=0.5), {}, "all"),
    "smoothgrad": (
        Augmentation("all", target="loss", attribution="smoothgrad", attribution_samples=2),
        {},
        "all",
    ),
    "map x input": (Augmentation("all", target="loss", attribution="gradient_x_input"), {}, "all"),
    "hidden layer": (Augmentation("all", target="loss", site="2"), {}, "some"),
    "mlp": (MENDABA, {"model": "mlp"}, "all"),
    "batch norm": (MENDABA, {"batch_norm": True}, "none"),
    "soft labels": ({"kind": "mixup"}, {}, "all"),
    "smoothed labels": ({"kind": "label-smoothing"}, {}, "all"),
    "dropout at a layer": ({"kind": "dropout", "site": "2"}, {}, "some"),
    "layers of dropout": (MENDABA, {"build": with_dropout}, "none"),
    "weights of samples": ({"kind": "example-weighing"}, {"batch_norm": True}, "none"),
    "sharpness": ({"kind": "sam"}, {}, "all"),
    "momentum": (MENDABA, {"optimizer": "sgd", "momentum": 0.9}, "all"),
    "measured": (MENDABA, {"mechanism": 2, "curve_every": 2}, "all"),
    "texts": (MENDABA, {"model": "text_cnn"}, "all"),
    "texts, lagged": (replace(MENDABA, lagged=True), {"model": "text_cnn"}, "all"),
    "texts, class score": (replace(MENDABA, target="class_score"), {"model": "text_cnn"}, "all"),
    "texts, soft labels": ({"kind": "mixup"}, {"model": "text_cnn"}, "all"),
    "texts, batch norm": (MENDABA, {"model": "text_cnn", "batch_norm": True}, "none"),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_each_training_comes_to_the_same_with_and_without(name, calls):
    method, changes, taken = TRAININGS[name]
    method = method_of(method) if isinstance(method, dict) else method
    splits = load_dataset("digits")
    if changes.get("model") == "text_cnn":  # a row of a picture as a word
        splits = as_texts(splits)
    steps, batch = 4, 20
    settings = {
        "model": "small_cnn", "optimizer": "adam", "learning_rate": 0.002, "batch_size": batch,
        "epochs": steps * batch / len(splits.train), "dtype": "float64", **changes,
    }  # fmt: skip

    build = settings.pop("build", None)

    def run():
        config, arms, seeds = TrainConfig(**settings), [Arm("a", method)], [0, 1, 2]
        runs = train(config, arms, seeds, splits=splits, build=build)
        models = [runs.model("a", seed) for seed in seeds]
        parameters = [nn.utils.parameters_to_vector(m.parameters()) for m in models]
        rows = [*runs.rows, *runs.curve_rows, *runs.mechanism_rows]
        numbers = [
            value
            for row in rows
            for column, value in sorted(row.items())
            if isinstance(value, float) and column != "seconds"
        ]
        return torch.stack(parameters), torch.tensor(numbers, dtype=torch.float64)

    fused = run()
    assert bool(calls) == (taken != "none")
    del calls[:]
    with kernels.unfused():
        unfused = run()
    assert not calls
    for one, other in zip(fused, unfused, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8, equal_nan=True)


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_gradients_at_once_have_the_bits_of_each_alone(channels, dtype):
    """Of a block with few channels, one loop makes both."""
    torch.manual_seed(channels)
    layers = nn.Conv2d(channels, 7, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(7 * 4 * 3, 4)).to(dtype)
    replicas = Replicas.stack([model, model])
    x, labels = torch.randn(2, 5, channels, 8, 7, dtype=dtype), torch.arange(10).reshape(2, 5) % 4
    made = [
        replicas._chain.slopes(replicas.parameters, x, labels, 5, asked)
        for asked in ((True, True), (True, False), (False, True))
    ]
    assert all(one is not None for one in made)
    assert torch.equal(made[0][1], made[1][1]) and made[0][1].abs().max() > 0
    assert torch.equal(made[0][2], made[2][2]) and made[0][2].abs().max() > 0
