"""The precision of products: full, tf32 or bf16, and nothing else by chance.

Whatever trains, is measured or evaluated does its products inside `products_in`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from aba_core.arms import Precision


def cast_to(device: str) -> torch.dtype | None:
    """The number type that autocast does products in on this kind of device; None where it is
    off."""
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


@contextmanager
def products_in(
    precision: Precision, device: torch.device | str, repeated: bool = False
) -> Iterator[None]:
    """Matrix products and convolutions with this precision, inside the block.

    PyTorch's own default on CUDA is tf32 for convolutions: here it is asked for or it is off.
    repeated: the block comes again and again with the same shapes, so that cuDNN may time its
    algorithms at the first.
    """
    kind = torch.device(device).type
    if kind == "meta":  # which has no products, nor autocast
        yield
        return
    matmul: Any = torch.backends.cuda.matmul
    convolution: Any = torch.backends.cudnn
    before = matmul.allow_tf32, convolution.allow_tf32, convolution.benchmark
    try:
        if kind == "cuda":
            matmul.allow_tf32 = convolution.allow_tf32 = precision == "tf32"
            convolution.benchmark = repeated and not convolution.deterministic
        # Without the cache of cast weights: a recording would hold on to those of its first run.
        with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
            yield
    finally:
        if kind == "cuda":
            matmul.allow_tf32, convolution.allow_tf32, convolution.benchmark = before
