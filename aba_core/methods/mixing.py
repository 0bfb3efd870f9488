"""Mixed examples: two samples of the batch become one, and their labels with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aba_core.methods.base import Method, column, soft
from aba_core.randomness import Draws
from aba_core.sites import Tail


@dataclass(frozen=True)
class Mixup(Method):
    """x' = λ x + (1 − λ) x₂ and y' = λ y + (1 − λ) y₂, with λ ~ Beta(alpha, alpha) a sample and x₂
    another sample of the batch.

    Source: Zhang, Cisse, Dauphin and Lopez-Paz 2018, "mixup: Beyond empirical risk minimization";
    at a hidden layer: Verma et al. 2019, "Manifold mixup".
    """

    kind: ClassVar[str] = "mixup"
    purposes: ClassVar[tuple[str, ...]] = ("mixup",)

    alpha: float = 1.0

    def __post_init__(self) -> None:
        self.check(alpha=(1e-3, 1e3))

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        share = draws.beta("mixup", self.alpha)
        partners = draws.partners("mixup")
        weight = column(share, h)
        mixed = weight * h + (1 - weight) * _of_partners(h, partners)
        return mixed, mixed_labels(tail, y, partners, share, h.dtype)


@dataclass(frozen=True)
class CutMix(Method):
    """A rectangle of another sample's picture, of a share 1 − λ of the area, λ ~ Beta(alpha,
    alpha); labels are weighted by the share of pixels that stayed.

    Pictures [*lead, channel, height, width] alone. Source: Yun et al. 2019, "CutMix: Regularization
    strategy to train strong classifiers with localizable features", algorithm A1.
    """

    kind: ClassVar[str] = "cutmix"
    purposes: ClassVar[tuple[str, ...]] = ("cutmix",)

    alpha: float = 1.0

    def __post_init__(self) -> None:
        self.check(alpha=(1e-3, 1e3))

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        height, width = picture_sides(h, draws, self.kind)
        side = torch.sqrt(1 - draws.beta("cutmix", self.alpha))
        inside = rectangle(
            (draws.uniform("cutmix", 300), draws.uniform("cutmix", 301)),
            (side, side),
            height,
            width,
        )
        partners = draws.partners("cutmix")
        mixed = torch.where(inside[..., None, :, :], _of_partners(h, partners), h)
        kept = 1 - inside.double().mean((-2, -1))
        return mixed, mixed_labels(tail, y, partners, kept, h.dtype)


def _of_partners(values: Tensor, partners: Tensor) -> Tensor:
    """Each sample's partner's values: [*lead, ...] taken along the batch."""
    lead = partners.dim()
    index = partners.reshape(*partners.shape, *(1,) * (values.dim() - lead))
    return values.gather(lead - 1, index.expand_as(values))


def mixed_labels(
    tail: Tail, y: Tensor, partners: Tensor, share: Tensor, dtype: torch.dtype
) -> Tensor:
    """share · y + (1 − share) · y of the partners, as weights of classes [*lead, class]."""
    labels = soft(y, tail.outputs, dtype)
    weight = column(share, labels)
    return weight * labels + (1 - weight) * _of_partners(labels, partners)


def picture_sides(h: Tensor, draws: Draws, kind: str) -> tuple[int, int]:
    """Height and width. Raises ValueError where h is no pictures."""
    shape = h.shape[draws.index.dim() :]
    if len(shape) != 3:
        raise ValueError(
            f"{kind!r} needs pictures [channel, height, width], got {tuple(shape)} a sample"
        )
    return shape[1], shape[2]


def rectangle(
    centre: tuple[Tensor, Tensor], sides: tuple[Tensor, Tensor], height: int, width: int
) -> Tensor:
    """Which pixels [*lead, height, width] lie in a rectangle cut at the picture's edges. centre: in
    shares of the sides, in (0, 1); sides: in shares of the picture's, whole pixels below them."""

    def along(middle: Tensor, share: Tensor, length: int) -> Tensor:
        place = torch.arange(length, device=middle.device)
        cut = torch.floor(length * share)
        start = torch.floor(middle * length) - torch.div(cut, 2, rounding_mode="floor")
        return (place >= start[..., None]) & (place < (start + cut)[..., None])

    rows = along(centre[0], sides[0], height)
    columns = along(centre[1], sides[1], width)
    return rows[..., :, None] & columns[..., None, :]
