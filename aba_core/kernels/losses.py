"""Cross-entropy and its gradient in one call of C, in place of a dozen small operations."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from aba_core.kernels import in_use, loaded
from aba_core.kernels.blocks import NUMBERS, computable


def cross_entropy(
    logits: Float[Tensor, "*lead class_"], labels: Int64[Tensor, "*lead"]
) -> Float[Tensor, "*lead"] | None:
    """Each sample's loss; None where PyTorch must make it, or refuse labels that are no classes."""
    if (
        labels.dtype is not torch.int64
        or labels.shape != logits.shape[:-1]
        or not logits.numel()
        or not computable((logits,), levels=0)
        or labels.device.type != "cpu"
        or not in_use()
    ):
        return None
    library = loaded()
    assert library is not None
    given, classes = logits.detach().contiguous(), labels.contiguous()
    losses, slopes = given.new_empty(labels.shape), torch.empty_like(given)
    sizes = (ctypes.c_int64 * 2)(labels.numel(), logits.shape[-1])
    tensors = (tensor.data_ptr() for tensor in (given, classes, losses, slopes))
    if getattr(library, f"cross_entropy_{NUMBERS[logits.dtype]}")(sizes, *tensors):
        return None
    return _Loss.apply(logits, labels, losses, slopes) if logits.requires_grad else losses


class _Loss(torch.autograd.Function):
    """Losses that were computed with their slopes."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, losses: Tensor, slopes: Tensor) -> Tensor:
        ctx.save_for_backward(logits, labels, slopes)
        return losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, slopes = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated once more
            ones = functional.one_hot(labels, logits.shape[-1]).to(logits.dtype)
            slopes = logits.softmax(-1) - ones
        return gradient[..., None] * slopes, None, None, None
