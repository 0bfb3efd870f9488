"""Convolutions of many channels for stacked replicas: as matrix products of patches and weights
where pictures are small, and by oneDNN otherwise.

oneDNN brings a convolution's weights into an order of its own at every call. Where a picture has
few places that takes longer than the convolution. In a product of patches the weights stay as they
are, and their gradient is written where the optimiser takes it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from aba_core.kernels import loaded
from aba_core.kernels.blocks import NUMBERS

# Patches up to so many places an output, of all pictures of a batch: to make them takes as long as
# reading them once, what oneDNN does with weights several times that (benchmarks/README.md).
PLACES_PER_OUTPUT = 3

Pictures = Float[Tensor, "replica batch channel height width"]
Weights = Float[Tensor, "replica output channel kernel kernel"]


def by_patches(shape: Sequence[int], weight: Weights, padding: Sequence[int]) -> bool:
    """Whether pictures of this shape are convolved by patches."""
    rows, columns = sides(shape[3:], weight.shape[-1], padding)
    return shape[1] * rows * columns <= PLACES_PER_OUTPUT * weight.shape[1]


def sides(shape: Sequence[int], kernel: int, padding: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a convolution's outputs (below 1: nothing)."""
    rows, columns = (s + 2 * border - kernel + 1 for s, border in zip(shape, padding, strict=True))
    return rows, columns


def forward(
    x: Pictures, weight: Weights, bias: Tensor | None, padding: tuple[int, int], returning: bool
) -> tuple[Tensor, Tensor | None]:
    """Outputs, channels last in memory, and what the way back to the weights needs: patches or
    pictures, where there is to be one."""
    if not by_patches(x.shape, weight, padding):
        made = [
            functional.conv2d(_channels_last(x[r]), w, b, padding=padding)
            for r, (w, b) in enumerate(zip(weight, _each(bias, weight), strict=True))
        ]
        return _stacked(made), x
    rows, columns = sides(x.shape[3:], weight.shape[-1], padding)
    batch = x.shape[1]
    patches = x.new_empty(len(x), batch * rows * columns, weight[0, 0].numel())
    _call("patches", x, weight, padding, x, patches)
    matrix = weight.flatten(2).transpose(1, 2)
    y = patches @ matrix if bias is None else torch.baddbmm(bias[:, None], patches, matrix)
    y = y.view(len(x), batch, rows, columns, weight.shape[1]).movedim(-1, 2)
    return y, patches if returning else None


def backward(
    asked: bool,
    gradient: Tensor,
    kept: Tensor,
    shape: Sequence[int],
    weight: Weights,
    padding: tuple[int, int],
    to: tuple[Tensor | None, Tensor | None],
) -> Tensor | None:
    """The gradient to the pictures, where it is asked for. shape: theirs. gradient: of the outputs.
    to: filled with the gradients to weights and bias, where they are tensors."""
    to_weight, to_bias = to
    places = gradient.permute(0, 1, 3, 4, 2).flatten(1, 3)
    if to_bias is not None:
        torch.sum(places, 1, out=to_bias)
    if not by_patches(shape, weight, padding):
        return _by_onednn(asked, gradient, kept, weight, padding, to_weight)
    if to_weight is not None:
        torch.bmm(places.transpose(1, 2), kept, out=to_weight.flatten(2))
    if not asked:
        return None
    patches = torch.bmm(places, weight.flatten(2))
    replicas, batch, channels, *pixels = shape
    to_x = gradient.new_empty(replicas, batch, *pixels, channels)
    _call("unpatched", to_x.movedim(-1, 2), weight, padding, patches, to_x)
    return to_x.movedim(-1, 2)


def _by_onednn(
    asked: bool,
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    padding: tuple[int, int],
    to_weight: Tensor | None,
) -> Tensor | None:
    to_x = []
    for r in range(len(x)):
        mine, to, _ = torch.ops.aten.convolution_backward(
            _channels_last(gradient[r]), _channels_last(x[r]), weight[r], [weight.shape[1]],
            [1, 1], padding, [1, 1], False, [0, 0], 1, [asked, to_weight is not None, False],
        )  # fmt: skip
        to_x.append(mine)
        if to_weight is not None:
            to_weight[r].copy_(to)
    return _stacked(to_x) if asked else None


def _stacked(pictures: Sequence[Float[Tensor, "batch channel height width"]]) -> Tensor:
    """Of all replicas, channels last in memory."""
    last = [_channels_last(each).movedim(1, -1) for each in pictures]
    return (last[0][None] if len(last) == 1 else torch.stack(last)).movedim(-1, 2)


def _channels_last(values: Tensor) -> Tensor:
    return values.contiguous(memory_format=torch.channels_last)


def _each(bias: Tensor | None, weight: Tensor) -> Sequence[Tensor | None]:
    return [None] * len(weight) if bias is None else list(bias)


def _call(name: str, x: Tensor, weight: Tensor, padding: tuple[int, int], *tensors: Tensor) -> None:
    library = loaded()
    assert library is not None
    sizes = (*x.shape, weight.shape[-1], *padding, *x.stride())
    failed = getattr(library, f"{name}_{NUMBERS[x.dtype]}")(
        (ctypes.c_int64 * len(sizes))(*sizes), *(tensor.data_ptr() for tensor in tensors)
    )
    if failed:
        raise RuntimeError("no memory for a picture's patches; needed: smaller pictures")
