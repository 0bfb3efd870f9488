"""Stacked models do what the same models do alone."""

import copy
from dataclasses import replace

import pytest
import torch
from oracles.tiny_data import make_splits
from torch import nn

from aba_core import convolutions, layers, replicas
from aba_core.architecture import initial_model
from aba_core.arms import Arm, TrainConfig
from aba_core.models import MODELS, build_model
from aba_core.precision import products_in
from aba_core.replicas import Habits, Replicas
from aba_core.training import train

SHAPES = {"text_cnn": (6, 4)}
CASES = [(name, norm) for name in MODELS if name != "vgg16" for norm in (False, True)]


def models(name: str, batch_norm: bool, count: int = 2) -> list[nn.Module]:
    return [
        build_model(name, SHAPES.get(name, (1, 4, 5)), 3, batch_norm).double() for _ in range(count)
    ]


def inputs(name: str, replicas: int = 2, batch: int = 4) -> torch.Tensor:
    return torch.randn(replicas, batch, *SHAPES.get(name, (1, 4, 5)), dtype=torch.float64)


@pytest.mark.parametrize(("name", "batch_norm"), CASES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_a_stacked_forward_pass_equals_separate_ones(name, batch_norm, together, training):
    alone, x = models(name, batch_norm), inputs(name)
    stack = replace(Replicas.stack(alone), together=together)
    with stack.mode(training):
        logits = stack.forward(stack.parameters)(x)
    for replica, model in enumerate(alone):
        expected = model.train(training)(x[replica])
        torch.testing.assert_close(logits[replica], expected, rtol=1e-10, atol=1e-12)
        for buffer, value in model.named_buffers():  # running statistics moved alike
            torch.testing.assert_close(stack.buffers[buffer][replica], value)


@pytest.mark.parametrize(("name", "batch_norm"), CASES)
@pytest.mark.parametrize("together", [False, True])
def test_the_gradient_of_the_summed_losses_holds_each_replicas_own(name, batch_norm, together):
    alone, x = models(name, batch_norm), inputs(name)
    stack = replace(Replicas.stack(alone), together=together)
    parameters = stack.parameters.requires_grad_()
    with stack.mode(True):
        loss = stack.forward(parameters)(x).pow(2).mean((1, 2)).sum()
    (gradient,) = torch.autograd.grad(loss, parameters)
    for replica, model in enumerate(alone):
        model.train()(x[replica]).pow(2).mean().backward()
        expected = torch.cat([value.grad.flatten() for value in model.parameters()])
        torch.testing.assert_close(gradient[replica], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "batch_norm"), CASES)
@pytest.mark.parametrize("together", [False, True])
def test_passes_give_each_replica_its_own_gradient_and_statistics(name, batch_norm, together):
    alone, x = models(name, batch_norm), inputs(name)
    stack = replace(Replicas.stack(alone), together=together)
    for _ in range(2):  # the second time after values have changed in place
        seen = []
        with stack.mode(True):
            for some, parameters, forward in stack.passes(x, differentiable=True):
                logits = forward(x[some])
                pieces = torch.autograd.grad(logits.pow(2).mean((1, 2)).sum(), parameters)
                gradients = torch.cat([p.reshape(len(logits), -1) for p in pieces], dim=1)
                seen += zip(logits, gradients, strict=True)
        assert len(seen) == len(alone)
        for replica, (model, (logits, gradient)) in enumerate(zip(alone, seen, strict=True)):
            expected = model.train()(x[replica])
            torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
            found = torch.autograd.grad(expected.pow(2).mean(), list(model.parameters()))
            flat = torch.cat([value.flatten() for value in found])
            torch.testing.assert_close(gradient, flat, rtol=1e-9, atol=1e-12)
            for buffer, value in model.named_buffers():
                torch.testing.assert_close(stack.buffers[buffer][replica], value)
        stack.parameters.mul_(1.5)
        with torch.no_grad():
            for model in alone:
                for value in model.parameters():
                    value.mul_(1.5)


OPTIONS = (
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 2), "stride": (2, 1), "bias": False},
    {"kernel_size": (2, 5), "stride": (1, 3), "padding": (0, 2)},
    {"kernel_size": 1, "stride": 2},
)


@pytest.mark.parametrize("shared_inputs", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("channels", "how"), [(1, "grouped"), (3, "grouped"), (6, "matmul")])
def test_convolutions_by_matrix_products_are_convolutions(
    channels, how, options, shared_inputs, monkeypatch
):
    alone = [nn.Conv2d(channels, 4, **options).double() for _ in range(3)]
    x = torch.randn(3, 5, channels, 6, 7, dtype=torch.float64)
    x = x[0] if shared_inputs else x
    monkeypatch.setattr(layers, "STACKED_CONVOLUTION", how)
    stack = Replicas.stack(alone)
    parameters, at = stack.parameters.requires_grad_(), x.clone().requires_grad_()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "conv2d", None)  # nobody else does them
        found = stack.forward(parameters, shared_inputs)(at)
        gradients = torch.autograd.grad(found.pow(2).sum(), (parameters, at))
    to_inputs = []
    for replica, model in enumerate(alone):
        own = (x if shared_inputs else x[replica]).clone().requires_grad_()
        expected = model(own)
        torch.testing.assert_close(found[replica], expected)
        first, *pieces = torch.autograd.grad(expected.pow(2).sum(), [own, *model.parameters()])
        torch.testing.assert_close(
            gradients[0][replica], torch.cat([piece.flatten() for piece in pieces])
        )
        to_inputs.append(first)
    stacked = torch.stack(to_inputs)
    torch.testing.assert_close(gradients[1], stacked.sum(0) if shared_inputs else stacked)


@pytest.mark.parametrize("options", OPTIONS)
def test_products_of_patches_can_be_differentiated_twice(options):
    """Curvature needs the gradient's gradient."""
    model = nn.Conv2d(2, 3, **options).double()
    x, weight, bias = (
        None if value is None else value.detach()[None].requires_grad_()
        for value in (torch.randn(2, 2, 5, 6).double(), model.weight, model.bias)
    )

    def product(*values):
        return convolutions._ProductOfPatches.apply(*values, model.stride, model.padding)

    assert torch.autograd.gradcheck(product, (x, weight, bias))
    assert torch.autograd.gradgradcheck(product, (x, weight, bias))


@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_single_replicas_gradient_to_its_inputs_is_that_of_its_convolution(channels, options):
    model = nn.Sequential(nn.Conv2d(channels, 4, **options), nn.Tanh()).double()
    stack = replace(Replicas.stack([model]), together=False)
    at = torch.randn(1, 5, channels, 6, 7, dtype=torch.float64, requires_grad=True)
    for differentiable in (False, True):  # with and without gradients to the parameters
        ((_, parameters, forward),) = stack.passes(at, differentiable)
        found, expected = forward(at), model(at[0])
        torch.testing.assert_close(found[0], expected)
        wanted = [at, *parameters] if differentiable else [at]
        own = [at, *model.parameters()] if differentiable else [at]
        for one, other in zip(
            torch.autograd.grad(found.pow(2).sum(), wanted),
            torch.autograd.grad(expected.pow(2).sum(), own),
            strict=True,
        ):
            torch.testing.assert_close(one, other)


class Halved(nn.Conv2d):
    """Somebody's own convolution."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / 2


class OneByOne(nn.Module):
    """Convolves pictures without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.convolution(picture) for picture in x])


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("build", [lambda: Halved(1, 3, 3), OneByOne], ids=["derived", "no batch"])
def test_unusual_convolutions_stay_as_they_are(build, together):
    alone = [build().double() for _ in range(3)]
    stack = replace(Replicas.stack(alone), together=together)
    at = torch.randn(3, 2, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    for some, _, forward in stack.passes(at, differentiable=False):
        found = forward(at[some])
        (gradient,) = torch.autograd.grad(found.pow(2).sum(), at)
        for row, replica in enumerate(range(3)[some]):
            expected = alone[replica](at[replica])
            torch.testing.assert_close(found[row], expected)
            (own,) = torch.autograd.grad(expected.pow(2).sum(), at)
            torch.testing.assert_close(gradient[replica], own[replica])


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", ["small_cnn", "text_cnn"])
def test_half_precision_reaches_every_convolution(name, together):
    """vmap hides convolutions from autocast, so stacked ones are cast by hand."""
    stack = replace(Replicas.stack([m.float() for m in models(name, False)]), together=together)
    x = inputs(name).float()
    full = stack.forward(stack.parameters)(x)
    seen = []
    for model in (stack._whole, stack._stacked):
        for module in model.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d):
                module.register_forward_hook(lambda module, x, y: seen.append(y.dtype))
    with products_in("bf16", "cpu"):
        half = stack.forward(stack.parameters)(x)
    assert seen and set(seen) == {torch.bfloat16}
    assert not torch.equal(half.float(), full)
    torch.testing.assert_close(half.float(), full, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("together", [False, True])
def test_passes_that_are_not_differentiable_ask_no_gradient_of_parameters(together):
    stack, x = replace(Replicas.stack(models("mlp", False)), together=together), inputs("mlp")
    for differentiable in (True, False, True):
        for some, _, forward in stack.passes(x, differentiable):
            assert forward(x[some]).requires_grad is differentiable
    assert not stack.parameters.requires_grad


class Tied(nn.Module):
    """The same weight twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).tanh())


@pytest.mark.parametrize("together", [False, True])
def test_a_shared_weight_stays_shared(together):
    alone, x = [Tied().double() for _ in range(2)], torch.randn(2, 4, 3, dtype=torch.float64)
    stack = replace(Replicas.stack(alone), together=together)
    assert stack.parameters.shape == (2, 9)
    for some, parameters, forward in stack.passes(x, differentiable=True):
        logits = forward(x[some])
        (gradient,) = torch.autograd.grad(logits.sum(), parameters)
        for row, replica in enumerate(range(2)[some]):
            expected = alone[replica](x[replica])
            torch.testing.assert_close(logits[row], expected)
            (own,) = torch.autograd.grad(expected.sum(), alone[replica].first.weight)
            torch.testing.assert_close(gradient.reshape(-1, 9)[row], own.flatten())


def test_shared_inputs_reach_every_replica():
    alone, x = models("small_cnn", False), inputs("small_cnn")[0]
    stack = Replicas.stack(alone)
    together = stack.forward(stack.parameters, shared_inputs=True)(x)
    for replica, model in enumerate(alone):
        torch.testing.assert_close(together[replica], model(x))


@pytest.mark.parametrize(("name", "batch_norm"), CASES)
def test_a_replica_comes_out_as_it_went_in(name, batch_norm):
    alone = models(name, batch_norm)
    stack = Replicas.stack(alone)
    assert len(stack) == 2
    for replica, model in enumerate(alone):
        out = stack.model(replica)
        assert not any(module.training for module in out.modules())
        assert out.state_dict().keys() == model.state_dict().keys()
        for key, value in model.state_dict().items():
            assert torch.equal(out.state_dict()[key], value), key


def test_a_replica_taken_out_is_independent_of_the_stack():
    stack = Replicas.stack(models("mlp", True))
    first = stack.model(0)
    before = copy.deepcopy(first.state_dict())
    with torch.no_grad():
        stack.parameters.add_(1)
        for buffer in stack.buffers.values():
            buffer.add_(1)
    assert all(torch.equal(value, before[key]) for key, value in first.state_dict().items())
    with torch.no_grad():
        for value in first.parameters():
            value.zero_()
    assert bool((stack.parameters != 0).any())


def test_stacking_leaves_the_models_alone():
    alone = models("mlp", True)
    before = [copy.deepcopy(model.state_dict()) for model in alone]
    stack = Replicas.stack(alone)
    with stack.mode(True), torch.no_grad():
        stack.forward(stack.parameters)(inputs("mlp"))
        stack.parameters.zero_()
    for model, state in zip(alone, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_a_mode_lasts_as_long_as_its_block(before, inside):
    stack = Replicas.stack(models("mlp", True))
    stack.template.train(before)
    with stack.mode(inside):
        assert stack.template.training is inside
    assert stack.template.training is before
    with pytest.raises(RuntimeError), stack.mode(inside):
        raise RuntimeError
    assert stack.template.training is before


@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_an_undisturbed_pass_moves_statistics_only_where_asked(mode, update):
    stack, x = Replicas.stack(models("small_cnn", True)), inputs("small_cnn")
    before = {name: buffer.clone() for name, buffer in stack.buffers.items()}
    with stack.undisturbed(mode, update) as still:
        logits = still.forward(still.parameters.detach())(x)
    assert not logits.requires_grad
    moved = any(not torch.equal(stack.buffers[name], value) for name, value in before.items())
    assert moved is (mode == "train" and update)


def test_a_single_replica_is_a_stack_too():
    (alone,), x = models("small_cnn", True, count=1), inputs("small_cnn", replicas=1)
    stack = Replicas.stack([alone])
    with stack.mode(False):
        together = stack.forward(stack.parameters)(x)
    torch.testing.assert_close(together[0], alone.eval()(x[0]))


def test_large_inputs_run_one_by_one_and_small_ones_together(monkeypatch):
    monkeypatch.setenv("ABA_KERNELS", "off")  # chains of kernels stack more
    calls = []

    def noted(name):
        real = getattr(Replicas, name)

        def run(self, *arguments):
            calls.append(name)
            return real(self, *arguments)

        monkeypatch.setattr(Replicas, name, run)

    noted("_together")
    noted("_one_by_one")
    stack, x = Replicas.stack(models("mlp", False, count=3)), inputs("mlp", replicas=3)
    stack.forward(stack.parameters)(x)
    pair = Replicas.stack(models("mlp", False, count=2))  # too few to be worth it
    pair.forward(pair.parameters)(x[:2])
    monkeypatch.setattr(replicas, "STACKED_UP_TO", x[0].numel() - 1)
    stack.forward(stack.parameters)(x)
    assert calls == ["_together", "_one_by_one", "_one_by_one"]


def frozen_models(count: int) -> list[nn.Module]:
    made = [
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)) for _ in range(count)
    ]
    for model in made:
        model.double()[0].requires_grad_(False)
    return made


@pytest.mark.parametrize("together", [False, True])
def test_frozen_parameters_are_each_replicas_own_and_never_trained(together):
    alone, x = frozen_models(3), torch.randn(3, 5, 3, dtype=torch.float64)
    stack = replace(Replicas.stack(alone), together=together)
    assert stack.parameters.shape == (3, 4 + 4 + 8 + 2)
    with stack.mode(True):
        for rows, parameters, forward in stack.passes(x, differentiable=True):
            logits = forward(x[rows])
            gradients = torch.autograd.grad(logits.sum(), parameters)
            for row, replica in enumerate(range(3)[rows]):
                expected = alone[replica].train()(x[replica])
                torch.testing.assert_close(logits[row], expected)
                own = [value for value in alone[replica].parameters() if value.requires_grad]
                pieces = [g.reshape(len(logits), -1)[row] for g in gradients]
                flat = torch.cat([g.flatten() for g in torch.autograd.grad(expected.sum(), own)])
                torch.testing.assert_close(torch.cat(pieces), flat)
    for replica, model in enumerate(alone):
        out = stack.model(replica)
        assert [v.requires_grad for v in out.parameters()] == [False] * 2 + [True] * 4
        for key, value in model.named_parameters():
            assert torch.equal(out.get_parameter(key), value), key


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weight_decay_leaves_frozen_parameters_alone(optimizer):
    config = TrainConfig(epochs=3, batch_size=5, optimizer=optimizer, weight_decay=0.1)
    runs = train(
        config, [Arm("a")], [0, 1, 2], splits=make_splits((3,), 2),
        build=lambda: frozen_models(1)[0],
    )  # fmt: skip
    for seed in range(3):
        start = initial_model(lambda: frozen_models(1)[0], seed, torch.float32)
        end = runs.model("a", seed)
        assert torch.equal(end[0].weight, start[0].weight)
        assert not torch.equal(end[2].weight, start[2].weight)


def test_masks_are_no_part_of_a_model_or_of_its_buffers():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    stack = Replicas.stack([model, copy.deepcopy(model)], dropout_seeds=[5, 6])
    assert not stack.buffers and stack.masks["dropout_seed"].tolist() == [5, 6]
    assert not list(stack.model(1).buffers()) and not list(stack.template.buffers())
    stack.begin(3)
    assert stack.masks["dropout_step"].tolist() == [3, 3]
    stack.begin(torch.tensor([7]))
    assert stack.masks["dropout_step"].tolist() == [7, 7]


@pytest.mark.parametrize("together", [False, True])
def test_attention_takes_its_fast_path_again_afterwards(together):
    layer = nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True).double()
    habits = Habits(attends=True)
    stack = replace(Replicas.stack([layer, copy.deepcopy(layer)]), together=together, habits=habits)
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    with stack.mode(False), torch.no_grad():
        outputs = stack.forward(stack.parameters)(x)
        torch.testing.assert_close(outputs[1], layer.eval()(x[1]))
    assert torch.backends.mha.get_fastpath_enabled()
