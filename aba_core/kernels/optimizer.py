"""Adam in one call of C: parameters, gradient and moments of all replicas, each read once."""

from __future__ import annotations

import ctypes

from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import increment_version

from aba_core.kernels import in_use, loaded
from aba_core.kernels.blocks import NUMBERS, computable


def applies(*values: Tensor) -> bool:
    """Whether C may do the step on these: parameters, gradient, moments."""
    return all(v.is_contiguous() for v in values) and computable(values, levels=0) and in_use()


def adam(
    parameters: Float[Tensor, "replica parameter"],
    gradient: Float[Tensor, "replica parameter"],
    first: Float[Tensor, "replica parameter"],
    second: Float[Tensor, "replica parameter"],
    rates: Float[Tensor, "replica 1"],
    decay: float,
    shares: tuple[float, float],
    root: tuple[float, float],
) -> None:
    """One step in place. rates: with the first moment's correction. decay: of the weights. shares:
    of the gradient and of its square in the moments. root: what the second moment's root is
    multiplied by, and what is added to it."""
    library = loaded()
    assert library is not None
    sizes = (ctypes.c_int64 * 2)(*parameters.shape)
    numbers = (ctypes.c_double * 5)(decay, *shares, *root)
    rates = rates.to(parameters.dtype).contiguous()
    tensors = (value.data_ptr() for value in (parameters, gradient, first, second, rates))
    getattr(library, f"adam_{NUMBERS[parameters.dtype]}")(sizes, *tensors, numbers)
    increment_version((parameters, first, second))  # as PyTorch's own operations in place do
