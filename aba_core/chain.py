"""Chains: models that are nothing but fused blocks, convolutions, poolings, flattening, linear
layers and ReLU in a row, and the text CNN.

Stacked replicas run a chain as one operation, forward and back, without `vmap`, whose own work is
a third of a small step, and without a node of autograd a layer. Gradients of all parameters are
written into one matrix [replica, parameter], where the optimiser takes them.

A chain of blocks, flattening, linear layers and ReLU, all of them trained, is one call of C each
way (`kernels.passes`), and with cross-entropy one call in all. Others go layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional

from aba_core import kernels
from aba_core.architecture import trained_parameters
from aba_core.kernels import passes, patches, texts
from aba_core.kernels.blocks import (
    NUMBERS,
    Block,
    backward,
    blocks,
    computable,
    forward,
    plain,
    pools,
    watched,
)
from aba_core.kernels.near import Near
from aba_core.kernels.texts import Branches
from aba_core.models import TextCNN

Step = nn.Module | Block | Branches

# Cuts rows of parameters into the architecture's tensors, by name.
Cut = Callable[[Tensor], Mapping[str, Tensor]]


class Chain:
    """A model's layers as steps that stacked replicas take together, if it is a chain."""

    def __init__(self, model: nn.Module) -> None:
        named = _chained("", model)
        self.modules = [module for _, module in named]
        # What a step's weights and biases are called, and the step.
        self.steps: list[tuple[tuple[str, ...], Step]] = _reading(model)
        self.reads = bool(self.steps)
        self._taken: dict[tuple[int, ...], bool] = {}
        self._programs: dict[tuple[int, ...], passes.Program | None] = {}
        if self.reads:
            self.modules = list(model.modules())
        else:
            self._row_up(named)
        parameters = dict(model.named_parameters())  # without those that are another layer's too
        self._places: dict[str, int] = {}  # where they begin in a row of `flat`
        begin = 0
        for name, value in trained_parameters(model).items():
            self._places[name] = begin
            begin += value.numel()
        self.known = all(
            _simple(step) and all(name in parameters for name in self._names(names, step))
            for names, step in self.steps
        ) and not (self.reads and parameters.keys() - self._places.keys())  # as in one call of C

    def _row_up(self, named: Sequence[tuple[str, nn.Module]]) -> None:
        places = blocks(self.modules)
        while (place := self._place()) < len(named):
            name, module = named[place]
            names = _parameter(name, "weight"), _parameter(name, "bias")
            self.steps.append((names, places.get(place, module)))

    @staticmethod
    def _names(names: tuple[str, ...], step: Step) -> list[str]:
        """Of the parameters that a step has."""
        if isinstance(step, Branches):
            held = zip(names, step.values(), strict=True)
            return [name for name, value in held if value is not None]
        parts = {part for part, _ in _first(step).named_parameters()}
        return [name for name in names if name.rpartition(".")[2] in parts]

    def ready(self, dtype: torch.dtype) -> bool:
        """Whether it can run numbers of this type here and now."""
        return (
            self.known
            and dtype in NUMBERS
            and torch.get_num_threads() == 1
            and not torch.is_autocast_enabled("cpu")
            and not watched(self.modules)
            and kernels.in_use()
        )

    def _place(self) -> int:
        """How many layers the steps so far hold."""
        return sum(len(s.layers) if isinstance(s, Block) else 1 for _, s in self.steps)

    def __call__(
        self,
        flat: Float[Tensor, "replica parameter"],
        x: Float[Tensor, "replica batch *feature"],
        cut: Cut,
        fixed: Mapping[str, Tensor],
        near: Near | None = None,
    ) -> Tensor | None:
        """Logits of all replicas; None where vmap must do it. fixed: what is not trained, stacked,
        by name. near: what passes leave to one another."""
        if not (self.ready(x.dtype) and computable((flat, x), levels=0) and self.takes(x.shape)):
            return None
        if self.reads and self.program(flat, x) is None:
            return None
        return _Run.apply(flat, x, self, cut, fixed, near)

    def slopes(
        self,
        flat: Float[Tensor, "replica parameter"],
        x: Float[Tensor, "replica batch *feature"],
        labels: Tensor,
        divisor: int,
        asked: tuple[bool, bool],
        to_x: Tensor | None = None,
        near: Near | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None] | None:
        """Each sample's cross-entropy [replica, batch], and the gradients of their sum over
        `divisor` to parameters and inputs, each where it is asked for; None where that is no one
        call of C. to_x: where the last is written (default: a new tensor)."""
        if (
            labels.dtype is not torch.int64
            or labels.shape != x.shape[:2]
            or not x.numel()
            or not (self.ready(x.dtype) and computable((flat, x), levels=0) and self.takes(x.shape))
        ):
            return None
        program = self.program(flat, x)
        if program is None:
            return None
        return program.slopes(flat, passes.in_one_piece(x), labels, divisor, asked, to_x, near)

    def program(self, flat: Tensor, x: Tensor) -> passes.Program | None:
        """This chain as C runs it, if it does, on what it takes."""
        shape = tuple(x.shape[2:])
        if shape not in self._programs:
            self._programs[shape] = passes.program(self.steps, self._places, shape)
        return self._programs[shape] if flat.is_contiguous() and x.numel() else None

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether every layer can take what the one before gives, what does not fit being PyTorch's
        to refuse; and whether it pays: without patches, convolutions without a pooling are faster
        one replica after the other. shape: of inputs [replica, batch, *feature]."""
        shape = tuple(shape)
        if shape not in self._taken:
            self._taken[shape] = self._fits(shape)
        return self._taken[shape]

    def _fits(self, shape: tuple[int, ...]) -> bool:
        gain = 0  # weights of convolutions by patches, less those of others
        for _, step in self.steps:
            if isinstance(step, Branches):
                if len(shape) != 4 or not step.fits(shape[2:]):
                    return False
                shape = (*shape[:2], sum(layer.out_channels for layer in step.convolutions))
                continue
            layer = _first(step)
            if isinstance(layer, nn.Conv2d):
                if len(shape) != 5 or shape[2] != layer.in_channels:
                    return False
                if isinstance(step, Block):
                    pixels = step.sides(shape[3:])
                else:
                    border: Any = layer.padding
                    pixels = patches.sides(shape[3:], layer.kernel_size[0], border)
                    saves = patches.by_patches(shape, layer.weight[None], border)
                    gain += layer.weight.numel() * (1 if saves else -1)
                shape = (*shape[:2], layer.out_channels, *pixels)
                if min(pixels) < 1:
                    return False
            elif isinstance(layer, nn.MaxPool2d):
                if len(shape) != 5 or min(shape[3:]) < 2:
                    return False
                shape = (*shape[:3], shape[3] // 2, shape[4] // 2)
            elif isinstance(step, nn.Linear):
                if len(shape) != 3 or shape[2] != step.in_features:
                    return False
                shape = (*shape[:2], step.out_features)
            elif isinstance(step, nn.Flatten):
                shape = (*shape[:2], math.prod(shape[2:]))
        return gain >= 0

    def by_layers(
        self, values: Mapping[str, Tensor], x: Float[Tensor, "replica batch *feature"]
    ) -> Tensor:
        """The same by operations that autograd knows, which can be differentiated again."""
        for names, step in self.steps:
            if isinstance(step, Branches):
                x = _read(x, [values.get(name) for name in names])
                continue
            weight, bias = map(values.get, names)
            if isinstance(step, Block):
                x = step(x, weight, bias)  # type: ignore[arg-type]
            elif isinstance(step, nn.Linear):
                x = _linear(x, weight, bias)  # type: ignore[arg-type]
            elif isinstance(step, nn.Conv2d):
                x = _convolution(x, weight, bias, step.padding)  # type: ignore[arg-type]
            elif isinstance(step, nn.MaxPool2d):
                x = functional.max_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])
            else:
                x = x.relu() if isinstance(step, nn.ReLU) else x.flatten(2)
        return x


class _Run(torch.autograd.Function):
    """A whole chain: flat [replica, parameter], x [replica, batch, *feature] to logits."""

    @staticmethod
    def forward(
        ctx: Any,
        flat: Tensor,
        x: Tensor,
        chain: Chain,
        cut: Cut,
        fixed: Mapping[str, Tensor],
        near: Near | None,
    ) -> Tensor:
        returning, to_flat = any(ctx.needs_input_grad), ctx.needs_input_grad[0]
        ctx.chain, ctx.cut, ctx.fixed = chain, cut, fixed
        ctx.program = chain.program(flat, x)
        if ctx.program is not None:
            inputs = passes.in_one_piece(x)
            logits, remembered = ctx.program.forward(flat, inputs, returning, near)
            if returning:
                ctx.save_for_backward(flat, x, remembered)
            return logits
        values = {**cut(flat), **fixed}
        kept: list[Tensor | None] = [flat, x]
        shapes = []
        for names, step in chain.steps:
            weight, bias = map(values.get, names)
            shapes.append(x.shape)
            before, winners = x, None
            if isinstance(step, Block):
                assert weight is not None
                x, winners = forward(x, weight, bias, step.padding, returning)
            elif isinstance(step, nn.Conv2d):
                assert weight is not None
                x, before = patches.forward(x, weight, bias, step.padding, to_flat)  # type: ignore[arg-type, assignment]
            elif isinstance(step, nn.MaxPool2d):
                pictures = x.flatten(0, 1)
                pooled, winners = functional.max_pool2d_with_indices(pictures, (2, 2))
                before, x = pictures, pooled.unflatten(0, x.shape[:2])
            elif isinstance(step, nn.Linear):
                assert weight is not None
                x = _linear(x, weight, bias)
            elif isinstance(step, nn.ReLU):
                before = x = x.relu()
            else:
                before, x = None, x.flatten(2)  # type: ignore[assignment]
            kept += before, winners
        if returning:
            ctx.save_for_backward(*kept)
            ctx.shapes, ctx.values = shapes, values
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        flat, x, *kept = ctx.saved_tensors
        chain: Chain = ctx.chain
        to_flat, to_x = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # to be differentiated once more, which C cannot be
            y = chain.by_layers({**ctx.cut(flat), **ctx.fixed}, x)
            inputs = [value for value, asked in ((flat, to_flat), (x, to_x)) if asked]
            again = iter(torch.autograd.grad(y, inputs, gradient, create_graph=True))
            made = [next(again) if asked else None for asked in (to_flat, to_x)]
            return *made, None, None, None, None
        if ctx.program is not None:
            x = passes.in_one_piece(x)  # only now: what was saved can be differentiated again
            made = ctx.program.backward(flat, x, *kept, gradient, (to_flat, to_x))  # type: ignore[assignment]
            return *made, None, None, None, None
        total = torch.empty_like(flat) if to_flat else None
        parts = {} if total is None else ctx.cut(total)
        values = ctx.values
        trained = [any(name in parts for name in names) for names, _ in chain.steps]
        last = 0 if to_x else trained.index(True)
        for place in reversed(range(last, len(chain.steps))):
            names, step = chain.steps[place]
            before, winners = kept[2 * place : 2 * place + 2]
            weight, bias = map(values.get, names)
            to_weight, to_bias = map(parts.get, names)
            on = to_x or place > last
            if isinstance(step, Block):
                asked = on, to_weight is not None, to_bias is not None
                given = gradient, before, weight, bias, winners, step.padding
                gradient, *_ = backward(asked, *given, (to_weight, to_bias))  # type: ignore[assignment, arg-type]
            elif isinstance(step, nn.Conv2d):
                assert weight is not None
                gradient = patches.backward(  # type: ignore[assignment]
                    on, gradient, before, ctx.shapes[place], weight, step.padding,  # type: ignore[arg-type]
                    (to_weight, to_bias),
                )  # fmt: skip
            elif isinstance(step, nn.MaxPool2d):
                gradient = torch.ops.aten.max_pool2d_with_indices_backward(
                    gradient.flatten(0, 1), before, [2, 2], [2, 2], [0, 0], [1, 1], False, winners
                ).unflatten(0, gradient.shape[:2])
            elif isinstance(step, nn.Linear):
                assert weight is not None
                if to_weight is not None:
                    torch.bmm(gradient.transpose(1, 2), before, out=to_weight)
                if to_bias is not None:
                    torch.sum(gradient, 1, out=to_bias)
                gradient = torch.bmm(gradient, weight) if on else gradient
            elif isinstance(step, nn.ReLU):
                gradient = torch.ops.aten.threshold_backward(gradient, before, 0)
            else:
                gradient = gradient.reshape(ctx.shapes[place])
        return total, gradient if to_x else None, None, None, None, None


def _parameter(layer: str, part: str) -> str:
    return f"{layer}.{part}".lstrip(".")


def _linear(
    x: Float[Tensor, "replica batch input"],
    weight: Float[Tensor, "replica output input"],
    bias: Float[Tensor, "replica output"] | None,
) -> Float[Tensor, "replica batch output"]:
    product = x, weight.transpose(1, 2)
    return torch.bmm(*product) if bias is None else torch.baddbmm(bias[:, None], *product)


def _convolution(
    x: Float[Tensor, "replica batch channel height width"],
    weight: Float[Tensor, "replica output channel kernel kernel"],
    bias: Float[Tensor, "replica output"] | None,
    padding: tuple[int, int],
) -> Float[Tensor, "replica batch output row column"]:
    axes = 0, 0, None if bias is None else 0
    return vmap(partial(functional.conv2d, padding=padding), axes)(x, weight, bias)


def _read(
    x: Float[Tensor, "replica text token element"], values: Sequence[Tensor | None]
) -> Float[Tensor, "replica text output"]:
    stacked = [value for value in values if value is not None]

    def one(x: Tensor, *held: Tensor) -> Tensor:
        left = iter(held)
        return texts.by_pytorch(x, [None if v is None else next(left) for v in values])

    return vmap(one)(x, *stacked)


def _first(step: nn.Module | Block) -> nn.Module:
    """The layer that has the step's parameters, if it has any."""
    return step.layers[0] if isinstance(step, Block) else step


def _simple(step: Step) -> bool:
    """Whether `Chain` knows how to do it."""
    return isinstance(step, Block | Branches) or (
        "forward" not in vars(step)
        and (
            type(step) in (nn.Linear, nn.ReLU)
            or plain(step)
            or pools(step)
            or (type(step) is nn.Flatten and (step.start_dim, step.end_dim) == (1, -1))
        )
    )


def _reading(model: nn.Module) -> list[tuple[tuple[str, ...], Step]]:
    """A text CNN's two steps; none of any other model."""
    if type(model) is not TextCNN or "forward" in vars(model):
        return []
    first = texts.branches(list(model.convolutions))
    if first is None or type(model.classifier) is not nn.Linear:
        return []
    names = [
        f"convolutions.{place}.0.{part}"
        for place in range(len(first.convolutions))
        for part in ("weight", "bias")
    ]
    return [(tuple(names), first), (("classifier.weight", "classifier.bias"), model.classifier)]


def _chained(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers of nested `nn.Sequential`s in their order, by name."""
    if type(module) is not nn.Sequential or "forward" in vars(module) or watched([module]):
        return [(name, module)]
    # `named_children` would leave out a layer that comes twice.
    children = [(part, m) for part, m in module._modules.items() if m is not None]
    parts = [_chained(f"{name}.{part}".lstrip("."), child) for part, child in children]
    return [layer for part in parts for layer in part]
