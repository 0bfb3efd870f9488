"""The precision of products: full, tf32 or bf16, and nothing else by chance.

Whatever trains, is measured or evaluated does its products inside `products_in`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    cudnn: Any = torch.backends.cudnn
    try:
        if kind == "cuda":
            benchmark = cudnn.benchmark
            restore_matmul = _put_by(matmul, lambda: [matmul])
            restore_cudnn = _put_by(cudnn, lambda: [cudnn.conv, cudnn.rnn])
            matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
            cudnn.benchmark = repeated and not cudnn.deterministic
        # Without the cache of cast weights: a recording would hold on to those of its first run.
        with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
            yield
    finally:
        if kind == "cuda":
            cudnn.benchmark = benchmark
            restore_matmul()
            restore_cudnn()


def _put_by(library: Any, parts: Callable[[], Sequence[Any]]) -> Callable[[], None]:
    """What puts a library's precision back as it is now. PyTorch 2.9 has two ways to set it, and
    refuses to read by the older where the newer was used."""
    try:
        allowed = library.allow_tf32
    except RuntimeError:
        precisions = [(part, part.fp32_precision) for part in parts()]

        def restore() -> None:
            for part, precision in precisions:
                part.fp32_precision = precision

        return restore
    return lambda: setattr(library, "allow_tf32", allowed)


def tf32_convolutions() -> bool:
    """Whether convolutions may be done in tf32 now, whichever way it was set."""
    cudnn: Any = torch.backends.cudnn
    try:
        return bool(cudnn.allow_tf32)
    except RuntimeError:
        return cudnn.conv.fp32_precision == "tf32"
