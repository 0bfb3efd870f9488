"""Occlusion: parts of a picture are hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aba_core.methods.base import Method
from aba_core.methods.mixing import picture_sides, rectangle
from aba_core.randomness import Draws
from aba_core.sites import Tail


@dataclass(frozen=True)
class Cutout(Method):
    """A square of `side` of a picture's sides is set to 0, the data set's mean in standard units;
    its centre is anywhere, so that parts of it may lie outside.

    Source: DeVries and Taylor 2017, "Improved regularization of convolutional neural networks with
    cutout" (there, side is 16 of 32 pixels for CIFAR-10).
    """

    kind: ClassVar[str] = "cutout"
    purposes: ClassVar[tuple[str, ...]] = ("cutout",)

    side: float = 0.5

    def __post_init__(self) -> None:
        self.check(side=(0.0, 1.0))

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        height, width = picture_sides(h, draws, self.kind)
        centre = draws.uniform("cutout", 1), draws.uniform("cutout", 2)
        share = torch.as_tensor(self.side, dtype=torch.float64, device=h.device)
        share = share.expand(centre[0].shape)
        hidden = rectangle(centre, (share, share), height, width)
        return h.masked_fill(hidden[..., None, :, :], 0.0), y
