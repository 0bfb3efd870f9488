"""The last step of the hash that makes uniform draws, in one call of C: the same bits as tensors
give (`randomness`)."""

from __future__ import annotations

import ctypes

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from aba_core.kernels import in_use, loaded
from aba_core.kernels.blocks import computable


def applies(heads: Tensor, places: Tensor) -> bool:
    """Whether C may draw: one head a row of places."""
    return (
        places.dim() > 0
        and (heads.dim() == 0 or heads.shape[-1] == 1)
        and places.numel() > 0
        and heads.device.type == places.device.type == "cpu"
        and heads.dtype == places.dtype == torch.int64
        and type(heads) is type(places) is Tensor
        and not torch.compiler.is_compiling()
        and torch._C._functorch.maybe_current_level() is None
        and not torch._C._len_torch_dispatch_stack()
        and in_use()
    )


def uniforms(
    heads: Int64[Tensor, "*#any"], places: Int64[Tensor, "*#any"]
) -> Float64[Tensor, "*any"]:
    """Numbers in (0, 1), of heads, which mix seeds, purposes and steps, and places."""
    library = loaded()
    assert library is not None
    heads, places = torch.broadcast_tensors(heads, places)
    heads, places = heads[..., :1].contiguous(), places.contiguous()
    to = torch.empty(places.shape, dtype=torch.float64)
    sizes = (ctypes.c_int64 * 2)(heads.numel(), places.shape[-1])
    library.uniforms(sizes, heads.data_ptr(), places.data_ptr(), to.data_ptr())
    return to


def applies_along(heads: Tensor) -> bool:
    """Whether C may draw for many places of each of these."""
    return heads.numel() > 0 and computable((heads.new_empty(0).double(),), levels=0) and in_use()


def uniforms_along(
    heads: Int64[Tensor, "row"], begins: Int64[Tensor, "row"], places: int, stride: int
) -> Float64[Tensor, "row place"]:
    """The draws of the places begin + stride · n, a row with each head, which no tensor holds."""
    library = loaded()
    assert library is not None
    heads, begins = heads.contiguous(), begins.contiguous()
    to = torch.empty((len(heads), places), dtype=torch.float64)
    sizes = (ctypes.c_int64 * 3)(len(heads), places, stride)
    library.uniforms_along(sizes, heads.data_ptr(), begins.data_ptr(), to.data_ptr())
    return to
