"""Convolutions over tokens, ReLU and the maximum over the text, as PyTorch sees them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from aba_core.kernels import in_use, loaded
from aba_core.kernels.blocks import NUMBERS, computable, watched

MOST_BRANCHES = 16  # that chain.c takes


@dataclass(frozen=True)
class Branches:
    """Convolutions that see the same texts, with ReLU and the maximum over the text behind each;
    their outputs stand side by side."""

    convolutions: tuple[nn.Conv1d, ...]
    watched: tuple[nn.Module, ...]  # whose hooks ask for PyTorch's layers

    def applies(self, x: Tensor) -> bool:
        """Whether C may do this. x: [text, token, element]."""
        values = [x, *(v for v in self.values() if v is not None)]
        return (
            x.dim() == 3
            and self.fits(x.shape[1:])
            and computable(values, levels=0)
            and not watched(self.watched)
            and in_use()
        )

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether texts of this shape, [token, element], are long enough and of the right width."""
        return all(
            shape[1] == layer.in_channels and shape[0] >= layer.kernel_size[0]
            for layer in self.convolutions
        )

    def values(self) -> list[Tensor | None]:
        """Each branch's weight and bias."""
        return [value for layer in self.convolutions for value in (layer.weight, layer.bias)]

    def __call__(self, x: Float[Tensor, "text token element"]) -> Float[Tensor, "text output"]:
        """relu(convolution) at its largest over the tokens, of all branches."""
        return _Largest.apply(x, *self.values())


def branches(rows: Sequence[nn.Module]) -> Branches | None:
    """What C may do of layers that each are a convolution and ReLU in a row."""
    pairs = [list(row) if type(row) is nn.Sequential else [] for row in rows]
    if not 0 < len(pairs) <= MOST_BRANCHES or not all(map(_usual, rows, pairs)):
        return None
    first = tuple(pair[0] for pair in pairs)
    return Branches(first, (*rows, *(layer for pair in pairs for layer in pair)))  # type: ignore[arg-type]


def _usual(row: nn.Module, layers: Sequence[nn.Module]) -> bool:
    if len(layers) != 2 or any("forward" in vars(module) for module in (row, *layers)):
        return False
    convolution, rectifier = layers
    return (
        type(convolution) is nn.Conv1d
        and type(rectifier) is nn.ReLU
        and not isinstance(convolution.padding, str)
        and (convolution.stride, convolution.dilation, convolution.padding) == ((1,), (1,), (0,))
        and convolution.groups == 1
    )


class _Largest(torch.autograd.Function):
    """x and each branch's weight and bias to [text, output of all branches]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *values: Tensor | None) -> Tensor:
        outputs = sum(len(weight) for weight in values[::2] if weight is not None)
        y = x.new_empty(len(x), outputs)
        returning = any(ctx.needs_input_grad)
        winners, ties = torch.empty((2, *y.shape), dtype=torch.int32) if returning else (None, None)
        _call("forward", x, values, y, winners, ties, None)
        ctx.save_for_backward(x, winners, ties, *values)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, winners, ties, *values = ctx.saved_tensors
        asked = ctx.needs_input_grad
        if torch.is_grad_enabled():  # to be differentiated once more, which C cannot be
            again = by_pytorch(x, values)
            inputs = [v for v, wish in zip((x, *values), asked, strict=True) if wish]
            made = iter(torch.autograd.grad(again, inputs, gradient, create_graph=True))
            return tuple(next(made) if wish else None for wish in asked)
        to_x, *to = (
            value.new_empty(value.shape) if wish else None
            for value, wish in zip((x, *values), asked, strict=True)
        )
        _call("backward", x, values, gradient.contiguous(), winners, ties, to_x, _pointers(to))
        return to_x, *to


def by_pytorch(
    x: Float[Tensor, "text token element"], values: Sequence[Tensor | None]
) -> Float[Tensor, "text output"]:
    """The same by operations that autograd knows. values: each branch's weight and bias."""
    turned = x.transpose(1, 2)
    pairs = zip(values[::2], values[1::2], strict=True)
    made = [functional.conv1d(turned, weight, bias).relu().amax(2) for weight, bias in pairs]  # type: ignore[arg-type]
    return torch.cat(made, 1)


def _call(
    way: str, x: Tensor, values: Sequence[Tensor | None], *others: Tensor | ctypes.Array[Any] | None
) -> None:
    library = loaded()
    assert library is not None
    shapes = [weight.shape for weight in values[::2] if weight is not None]
    head = *x.shape, len(shapes), *(side for shape in shapes for side in (shape[0], shape[2]))
    sizes = (ctypes.c_int64 * len(head))(*head)
    x, *values = (None if v is None else v.contiguous() for v in (x, *values))  # type: ignore[assignment]
    given = (v.data_ptr() if isinstance(v, Tensor) else v for v in others)
    function = getattr(library, f"tokens_{way}_{NUMBERS[x.dtype]}")
    if function(sizes, x.data_ptr(), _pointers(values), *given):
        raise RuntimeError(
            "no memory for the fused convolutions over tokens; needed: smaller batches"
        )


def _pointers(values: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    held = [None if value is None else value.data_ptr() for value in values]
    return (ctypes.c_void_p * len(held))(*held)
