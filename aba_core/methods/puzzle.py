"""Puzzle-like mixing: each tile of a picture comes from the sample that a map thinks more of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aba_core.identity import Use
from aba_core.methods.areas import check_tile, picture_sides, tiles_as_pixels
from aba_core.methods.guided import Guided
from aba_core.methods.mixing import mixed_labels, of_partners
from aba_core.randomness import Draws
from aba_core.sites import Tail


@dataclass(frozen=True)
class PuzzleMix(Guided):
    """A share 1 − λ of a picture's tiles of `tile` × `tile` pixels, λ ~ Beta(alpha, alpha), comes
    from another sample: those where the other's saliency exceeds the picture's own by most. Labels
    are weighted by the share of pixels that stayed.

    Saliency is the absolute map, divided by its sum over the picture. Pixels beyond the last whole
    tile stay. The number of tiles is exact, rounded. This is a short form: the source also moves
    tiles of the other picture and asks for masks that are smooth, which takes a solver a step.
    Source: Kim, Choo and Song 2020, "Puzzle Mix: Exploiting saliency and local statistics for
    optimal mixup".
    """

    kind: ClassVar[str] = "puzzlemix"
    purposes: ClassVar[tuple[str, ...]] = (*Guided.purposes, "puzzlemix")
    mixes: ClassVar[bool] = True

    attribution: str | Use = "gradient"
    alpha: float = 1.0
    tile: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(alpha=(1e-3, 1e3))
        if not 1 <= self.tile <= 10**6:
            raise ValueError(f"tile is {self.tile!r}; allowed: whole numbers from 1")

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        height, width = picture_sides(h, draws, self.kind)
        check_tile(self.tile, (height, width))
        partners = draws.partners(self.kind)
        saliency = self.importance(tail, h, y, draws)
        total = saliency.sum((-2, -1), keepdim=True)
        saliency = saliency / torch.where(total > 0, total, 1.0)
        excess = of_partners(saliency, partners) - saliency
        tiles = functional.avg_pool2d(excess.reshape(-1, 1, height, width), self.tile)
        scores = tiles.reshape(*partners.shape, -1)
        count = torch.floor((1 - draws.beta(self.kind, self.alpha)) * scores.shape[-1] + 0.5)
        rank = scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        taken = (rank < count[..., None]).reshape(*partners.shape, *tiles.shape[-2:])
        inside = tiles_as_pixels(taken, self.tile, height, width)
        mixed = torch.where(inside[..., None, :, :], of_partners(h, partners), h)
        kept = 1 - inside.double().mean((-2, -1))
        return mixed, mixed_labels(tail, y, partners, kept, h.dtype)
