"""When a GPU does draws, selection and Adam by the kernels of `fused_triton`, and the calls.

They are used on CUDA where Triton is installed, `ABA_KERNELS` is not off, and all three agree with
the tensor code on a small example, tried once. Untried on a GPU.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
from jaxtyping import Float, Int64
from torch import Tensor

MOST_FEATURES = 16_384  # of a sample, which one program holds in registers
BLOCK = 1024


def applies(*values: Tensor) -> bool:
    """Whether the kernels may take these."""
    return (
        all(value.device.type == "cuda" for value in values)
        and os.environ.get("ABA_KERNELS", "") != "off"
        and torch._C._functorch.peek_interpreter_stack() is None  # inside vmap, nothing has rows
        and trusted()
    )


@cache
def trusted() -> bool:
    """Whether the kernels are there and agree with the tensor code. Warns where they do not."""
    if find_spec("triton") is None:
        return False
    try:
        differing = disagreements("cuda")
    except Exception as error:  # whatever a compiler says
        said = " ".join(str(error).split())
        differing = [f"{type(error).__name__}: {said[:100]}"]
    if differing:
        warnings.warn(
            f"Triton's kernels are not used, they fail on a small example: {differing}",
            stacklevel=2,
        )
    return not differing


def disagreements(device: str) -> list[str]:
    """The kernels that differ from the tensor code on a small example."""
    from aba_core.methods.aba import adjust
    from aba_core.randomness import _bits, _unit_interval
    from aba_core.selection import _smallest_by_key, order_of_ties

    numbers = torch.arange(300, device=device)
    differing = []
    expected = _unit_interval(_bits(numbers * 2**40 - 5, 3, numbers))
    if not torch.equal(uniforms(numbers * 2**40 - 5, 3, numbers), expected):
        differing.append("draws")

    x = torch.sin(numbers * 1.7).float().reshape(5, 60)
    maps = torch.cos(numbers * 2.3).float().reshape(5, 60).round(decimals=1)
    changes = torch.sin(numbers[:15] * 0.9).float().reshape(5, 3)
    below = _smallest_by_key(maps, (6, 54))
    masks = torch.stack([below[0], below[1] & ~below[0], ~below[1]])
    expected = adjust(x, masks, changes, 1.0, torch.ones(5, device=device))
    if not torch.equal(moved(x, maps, order_of_ties(60, x.device)[1], changes, (6, 54)), expected):
        differing.append("selection")

    for dtype, near in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        vectors = [torch.cos(numbers * f).to(dtype).reshape(3, 100) for f in (0.3, 0.7, 1.1, 1.3)]
        vectors[3] = vectors[3].abs()
        rates = torch.tensor([[0.1], [0.01], [0.3]], device=device, dtype=dtype)
        correction = torch.tensor(0.7, device=device, dtype=dtype)
        own, other = ([v.clone() for v in vectors] for _ in range(2))
        for step, of in ((adam, own), (plain_adam, other)):
            step(of[0], of[1], of[2], of[3], rates, correction, 0.01, (0.1, 0.001, 1e-8))
        pairs = zip(own, other, strict=True)
        if not all(torch.allclose(a, b, rtol=near, atol=near / 10) for a, b in pairs):
            differing.append(f"Adam in {dtype}".replace("torch.", ""))
    return differing


def uniforms(
    stream: Int64[Tensor, "*#any"], step: int | Tensor, index: Int64[Tensor, "*#any"]
) -> Tensor:
    """As `randomness` draws of these counters."""
    from aba_core.kernels import fused_triton

    if not isinstance(step, Tensor):
        step = torch.full((), step, dtype=torch.int64, device=index.device)
    counters = [value.contiguous() for value in torch.broadcast_tensors(stream, step, index)]
    to = torch.empty(counters[0].shape, dtype=torch.float64, device=index.device)
    if to.numel():
        grid = (-(-to.numel() // BLOCK),)
        fused_triton.uniforms[grid](*counters, to, to.numel(), BLOCK=BLOCK)
    return to


def selects(x: Tensor, attribution: Tensor) -> bool:
    """Whether `moved` may take these, one sample a row. It has no way back: the activations of a
    hidden layer have one."""
    return (
        x.dtype == attribution.dtype == torch.float32
        and not (torch.is_grad_enabled() and (x.requires_grad or attribution.requires_grad))
        and 0 < attribution.shape[1] <= MOST_FEATURES
        and applies(x, attribution)
    )


def moved(
    x: Float[Tensor, "batch feature"],
    attribution: Float[Tensor, "batch feature"],
    ranks: Int64[Tensor, "feature"],
    changes: Float[Tensor, "batch category"],
    counts: Sequence[int],
) -> Float[Tensor, "batch feature"]:
    """x plus the change of each feature's category. counts: features below each cut. ranks: each
    feature's place among equal values."""
    from aba_core.kernels import fused_triton

    features = x.shape[1]
    to = torch.empty_like(x, memory_format=torch.contiguous_format)
    packed = sum(count << (32 * cut) for cut, count in enumerate(counts))
    block = 1 << (features - 1).bit_length()
    # 16 features a thread: their keys stay in registers (`tests/oracles/triton_compiled.py`).
    warps = min(32, max(4, block // 512))
    if len(x):
        fused_triton.moved[(len(x),)](
            x.contiguous(), attribution.contiguous(), ranks, changes.contiguous(), to, features,
            COUNTS=packed, CUTS=len(counts), BITS=32 + max(1, (features - 1).bit_length()),
            BLOCK=block, num_warps=warps,
        )  # fmt: skip
    return to


def adam(
    parameters: Float[Tensor, "replica parameter"],
    gradient: Float[Tensor, "replica parameter"],
    first: Float[Tensor, "replica parameter"],
    second: Float[Tensor, "replica parameter"],
    rates: Float[Tensor, "replica 1"],
    correction: Float[Tensor, ""],
    decay: float,
    constants: tuple[float, float, float],
) -> None:
    """One step in place. rates: with the first moment's correction; correction: of the second's
    root. constants: the shares of the gradient and of its square in the moments, and what is added
    to the root."""
    from aba_core.kernels import fused_triton

    replicas, width = parameters.shape
    grid = (-(-width // BLOCK), replicas)  # the second may be 65,535 at most
    share_1, share_2, small = constants
    fused_triton.adam[grid](
        parameters, gradient.contiguous(), first, second, rates.to(parameters.dtype).contiguous(),
        correction.to(parameters.dtype), width, DECAY=decay, SHARE_1=share_1, SHARE_2=share_2,
        SMALL=small, BLOCK=BLOCK,
    )  # fmt: skip


def plain_adam(
    parameters: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    rates: Tensor,
    correction: Tensor,
    decay: float,
    constants: tuple[float, float, float],
) -> None:
    """The same by tensors."""
    *shares, small = constants
    gradient = gradient.add(parameters, alpha=decay)
    first.lerp_(gradient, shares[0])
    second.mul_(1 - shares[1]).addcmul_(gradient, gradient, value=shares[1])
    parameters.sub_(rates * first / ((second.sqrt() / correction).add_(small)))
