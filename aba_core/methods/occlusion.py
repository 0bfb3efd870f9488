"""Occlusion: parts of a picture, or words of a text, are hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aba_core.methods.areas import (
    check_sizes,
    crossed,
    drawn_sides,
    picture_sides,
    rectangle,
    span,
)
from aba_core.methods.base import Method, column
from aba_core.methods.mixing import whole
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


@dataclass(frozen=True)
class RandomErasing(Method):
    """With probability p, a rectangle of `smallest` to `largest` of a picture's area is filled with
    noise N(0, 1), the spread of standard units; its sides' ratio is `aspect` to 1 / aspect, uniform
    in the logarithm, and it lies inside.

    Sides are rounded and at most the picture's, where the source draws again. Source: Zhong et al.
    2020, "Random erasing data augmentation", with random values.
    """

    kind: ClassVar[str] = "random-erasing"
    purposes: ClassVar[tuple[str, ...]] = ("random-erasing",)

    p: float = 0.5
    smallest: float = 0.02
    largest: float = 0.4
    aspect: float = 0.3

    def __post_init__(self) -> None:
        self.check(p=(0.0, 1.0))
        check_sizes(self)

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        sides = picture_sides(h, draws, self.kind)
        cut = drawn_sides(self, draws, "random-erasing", sides)
        hidden = []
        for number, (side, length) in enumerate(zip(cut, sides, strict=True)):
            start = whole(draws.uniform("random-erasing", 4 + number), length - side + 1)
            hidden.append(span(start, side, length))
        chosen = draws.uniform("random-erasing", 1) < self.p
        inside = crossed(*hidden) & chosen[..., None, None]
        noise = draws.noise("random-erasing", 6, h.shape[draws.index.dim() :].numel())
        return torch.where(inside[..., None, :, :], noise.reshape(h.shape).to(h.dtype), h), y


@dataclass(frozen=True)
class WordDropout(Method):
    """Each token of a text is, with probability p, replaced by padding: its vector by 0.

    Source: Iyyer et al. 2015, "Deep unordered composition rivals syntactic methods for text
    classification", section 3.1.
    """

    kind: ClassVar[str] = "word-dropout"
    purposes: ClassVar[tuple[str, ...]] = ("word-dropout",)

    p: float = 0.1

    def __post_init__(self) -> None:
        self.check(p=(0.0, 1.0))

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        shape = h.shape[draws.index.dim() :]
        if len(shape) != 2:
            raise ValueError(
                f"{self.kind!r} needs texts [token, embedding], got {tuple(shape)} a sample"
            )
        drawn = draws.uniforms("word-dropout", shape[0])
        return h.masked_fill((drawn < column(self.p, drawn))[..., None], 0.0), y
