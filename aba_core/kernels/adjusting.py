"""Inputs moved by category in one call of C, which makes no masks."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from aba_core.kernels import in_use, loaded
from aba_core.kernels.blocks import NUMBERS, computable


def applies(x: Tensor, attribution: Tensor) -> bool:
    """Whether C may adjust these. It has no way back: activations of a hidden layer have one."""
    if x.requires_grad and torch.is_grad_enabled():
        return False
    return x.numel() > 0 and computable((x, attribution), levels=0) and in_use()


def adjusted(
    x: Float[Tensor, "batch feature"],
    attribution: Float[Tensor, "batch feature"],
    cuts: Float[Tensor, "batch cut"],
    changes: Float[Tensor, "batch category"],
) -> Float[Tensor, "batch feature"]:
    """x plus the change of each feature's category: the first one whose cut its attribution is not
    above. Differentiable in x: activations of a hidden layer belong to the layers before it."""
    if x.requires_grad:
        return _Moved.apply(x, attribution, cuts, changes)  # type: ignore[no-any-return]
    return _in_c(x, attribution, cuts, changes)


class _Moved(torch.autograd.Function):
    """The changes do not depend on x, so its gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, attribution: Tensor, cuts: Tensor, changes: Tensor) -> Tensor:
        return _in_c(x, attribution, cuts, changes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], None, None, None


def _in_c(x: Tensor, attribution: Tensor, cuts: Tensor, changes: Tensor) -> Tensor:
    library = loaded()
    assert library is not None
    x, attribution = x.contiguous(), attribution.contiguous()
    to = x.new_empty(x.shape)
    sizes = (ctypes.c_int64 * 3)(*x.shape, cuts.shape[1])
    tensors = x, attribution, cuts.to(x.dtype).contiguous(), changes.to(x.dtype).contiguous(), to
    pointers = (tensor.data_ptr() for tensor in tensors)
    getattr(library, f"adjust_{NUMBERS[x.dtype]}")(sizes, *pointers)
    return to
