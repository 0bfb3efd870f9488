"""Uniforms of many places of each sample in one call of C, which makes no tensors of bits."""

from __future__ import annotations

import ctypes

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from aba_core.kernels import in_use, loaded
from aba_core.kernels.blocks import computable


def applies(keys: Tensor) -> bool:
    """Whether C may draw with these keys."""
    return keys.numel() > 0 and computable((keys.new_empty(0).double(),), levels=0) and in_use()


def uniforms(
    keys: Int64[Tensor, "row"], begins: Int64[Tensor, "row"], places: int, stride: int
) -> Float64[Tensor, "row place"]:
    """The draws of the counters begin + stride · place, a row with each key."""
    library = loaded()
    assert library is not None
    keys, begins = keys.contiguous(), begins.contiguous()
    to = torch.empty((len(keys), places), dtype=torch.float64)
    sizes = (ctypes.c_int64 * 3)(len(keys), places, stride)
    library.uniforms(sizes, keys.data_ptr(), begins.data_ptr(), to.data_ptr())
    return to
