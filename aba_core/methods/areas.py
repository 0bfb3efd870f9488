"""Areas of pictures: which pixels lie in a rectangle, in the most important square, in tiles."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from aba_core.randomness import Draws


def picture_sides(h: Tensor, draws: Draws, kind: str) -> tuple[int, int]:
    """Height and width. Raises ValueError where h is no pictures."""
    shape = h.shape[draws.index.dim() :]
    if len(shape) != 3:
        raise ValueError(
            f"{kind!r} needs pictures [channel, height, width], got {tuple(shape)} a sample"
        )
    return shape[1], shape[2]


def span(start: Tensor, size: Tensor, length: int) -> Tensor:
    """Which of `length` places [*lead, place] lie in the `size` ones from `start`."""
    place = torch.arange(length, device=start.device)
    return (place >= start[..., None]) & (place < (start + size)[..., None])


def crossed(rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels [*lead, row, column] that lie in rows [*lead, row] and columns [*lead, column]."""
    return rows[..., :, None] & columns[..., None, :]


def rectangle(
    centre: tuple[Tensor, Tensor], sides: tuple[Tensor, Tensor], height: int, width: int
) -> Tensor:
    """Which pixels [*lead, height, width] lie in a rectangle cut at the picture's edges. centre: in
    shares of the sides, in (0, 1); sides: in shares of the picture's, whole pixels below them."""
    lines = []
    for middle, share, length in zip(centre, sides, (height, width), strict=True):
        size = torch.floor(length * share)
        lines.append(centred(torch.floor(middle * length), size, length))
    return crossed(*lines)


def centred(middle: Tensor, size: Tensor, length: int) -> Tensor:
    """Which of `length` places lie in the `size` ones with this one in the middle; of an even
    number, the first one after it."""
    return span(middle - torch.div(size, 2, rounding_mode="floor"), size, length)


# --- of a drawn size -----------------------------------------------------------------------------


class OfDrawnSize(Protocol):
    """A method whose rectangles cover `smallest` to `largest` of the area; their sides' ratio is
    `aspect` to 1 / aspect."""

    @property
    def smallest(self) -> float: ...
    @property
    def largest(self) -> float: ...
    @property
    def aspect(self) -> float: ...
    def check(self, **ranges: tuple[float, float]) -> None: ...


def check_sizes(method: OfDrawnSize) -> None:
    """Raises ValueError for areas and ratios that cannot be."""
    method.check(smallest=(0.0, 1.0), largest=(0.0, 1.0), aspect=(0.01, 1.0))
    if method.smallest > method.largest:
        raise ValueError(
            f"smallest is {method.smallest!r}; allowed: to largest, {method.largest!r}"
        )


def drawn_sides(
    method: OfDrawnSize, draws: Draws, purpose: str, sides: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Height and width [*lead] of rectangles, in pixels: their share of the area is uniform, and so
    is the logarithm of their sides' ratio."""
    height, width = sides
    smallest, largest = method.smallest, method.largest
    area = smallest + (largest - smallest) * draws.uniform(purpose, 2)
    logarithm = torch.log(torch.as_tensor(method.aspect, dtype=torch.float64, device=area.device))
    ratio = torch.exp((1 - 2 * draws.uniform(purpose, 3)) * logarithm)
    high = torch.floor(torch.sqrt(area * (height * width) * ratio) + 0.5).clamp(1, height)
    wide = torch.floor(torch.sqrt(area * (height * width) / ratio) + 0.5).clamp(1, width)
    return high.long(), wide.long()


# --- chosen by importance ------------------------------------------------------------------------


def top_square(
    importance: Float[Tensor, "*lead height width"], sides: tuple[int, int], share: float
) -> Tensor:
    """Which pixels lie in the window with the largest sum, `share` of the sides and at least a
    pixel."""
    height, width = sides
    size = max(1, int(height * share)), max(1, int(width * share))
    lead = importance.shape[:-2]
    flat = importance.reshape(-1, 1, height, width)
    sums = functional.avg_pool2d(flat, size, stride=1)
    place = sums.flatten(1).argmax(1).reshape(lead)
    columns = sums.shape[-1]
    row = torch.div(place, columns, rounding_mode="floor")
    rows = span(row, torch.full_like(row, size[0]), height)
    across = span(place % columns, torch.full_like(row, size[1]), width)
    return crossed(rows, across)


def check_tile(tile: int, sides: tuple[int, int]) -> None:
    """Raises ValueError where a tile is larger than the picture."""
    height, width = sides
    if tile > min(height, width):
        raise ValueError(f"tile is {tile}; allowed: up to the sides, {height} and {width}")


def tiles_as_pixels(
    tiles: Bool[Tensor, "*lead row column"], tile: int, height: int, width: int
) -> Bool[Tensor, "*lead height width"]:
    """Which pixels lie in the chosen tiles of `tile` × `tile`; none beyond the last whole tile."""
    pixels = tiles.repeat_interleave(tile, -2).repeat_interleave(tile, -1)
    beyond = 0, width - pixels.shape[-1], 0, height - pixels.shape[-2]
    return functional.pad(pixels, beyond)
