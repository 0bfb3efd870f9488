"""Convolution over tokens, ReLU and the maximum over the text, as PyTorch sees them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from aba_core.kernels import in_use, loaded
from aba_core.kernels.blocks import NUMBERS, computable, watched


def applies(layers: Sequence[nn.Module], x: Tensor) -> bool:
    """Whether C may do these layers, a convolution and ReLU, and the maximum over the text after
    them. x: [text, token, element]."""
    if len(layers) != 2 or any("forward" in vars(layer) for layer in layers):
        return False
    convolution, rectifier = layers
    if type(convolution) is not nn.Conv1d or type(rectifier) is not nn.ReLU:
        return False
    usual = (
        (convolution.stride, convolution.dilation, convolution.padding) == ((1,), (1,), (0,))
        and convolution.groups == 1
        and not isinstance(convolution.padding, str)
    )
    values = [x, *(v for v in (convolution.weight, convolution.bias) if v is not None)]
    return (
        usual
        and x.dim() == 3
        and x.shape[2] == convolution.in_channels
        and x.shape[1] >= convolution.kernel_size[0]
        and computable(values, levels=0)
        and not watched(layers)
        and in_use()
    )


def largest(x: Float[Tensor, "text token element"], convolution: nn.Conv1d) -> Tensor:
    """relu(convolution) at its largest over the tokens: [text, output]."""
    return _Largest.apply(x, convolution.weight, convolution.bias)


class _Largest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        y = x.new_empty(len(x), len(weight))
        returning = any(ctx.needs_input_grad)
        winners, ties = torch.empty((2, *y.shape), dtype=torch.int32) if returning else (None, None)
        bias = None if bias is None else bias.contiguous()
        _call("forward", x, weight, bias, y, winners, ties)
        ctx.save_for_backward(x, weight, bias, y, winners, ties)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, y, winners, ties = ctx.saved_tensors
        asked = ctx.needs_input_grad
        if torch.is_grad_enabled():  # to be differentiated once more, which C cannot be
            again = functional.conv1d(x.transpose(1, 2), weight, bias).relu().amax(2)
            inputs = [v for v, wish in zip((x, weight, bias), asked, strict=True) if wish]
            made = iter(torch.autograd.grad(again, inputs, gradient, create_graph=True))
            return tuple(next(made) if wish else None for wish in asked)
        gradients = [
            value.new_empty(value.shape) if wish else None
            for value, wish in zip((x, weight, bias), asked, strict=True)
        ]
        _call(
            "backward", x, weight, bias, gradient.contiguous(), y, winners, ties, *gradients
        )  # fmt: skip
        return tuple(gradients)


def _call(way: str, x: Tensor, weight: Tensor, *others: Tensor | None) -> None:
    library = loaded()
    assert library is not None
    sizes = (ctypes.c_int64 * 5)(*x.shape, weight.shape[0], weight.shape[2])
    pointers = (None if v is None else v.data_ptr() for v in (x, weight, *others))
    if getattr(library, f"tokens_{way}_{NUMBERS[x.dtype]}")(sizes, *pointers):
        raise RuntimeError(
            "no memory for the fused convolution over tokens; needed: smaller batches"
        )
