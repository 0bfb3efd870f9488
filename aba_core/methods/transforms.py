"""Hand-crafted augmentation of pictures: shift, crop, flip, rotation, and several drawn at once.

Every picture is moved by draws of its own, in standard units; what comes from outside is 0, the
data set's mean. Which of them keep classes apart is for whoever chooses them to know: a flipped 2
and a 6 turned upside down are other digits, or none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn import functional

from aba_core.methods.areas import crossed, picture_sides, span
from aba_core.methods.base import Method, column
from aba_core.methods.mixing import rolled, whole
from aba_core.randomness import Draws
from aba_core.sites import Tail


@dataclass(frozen=True)
class Shift(Method):
    """Moved by whole pixels down and right, each uniform from −most to most of the side, rounded:
    the same as padding with 0 and cropping at random, 4 of 32 pixels for CIFAR-10 at 0.125.

    Source: He et al. 2016, "Deep residual learning for image recognition", section 4.2.
    """

    kind: ClassVar[str] = "shift"
    purposes: ClassVar[tuple[str, ...]] = ("shift",)

    most: float = 0.125

    def __post_init__(self) -> None:
        self.check(most=(0.0, 0.5))

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        moves, inside = [], []
        for copy, length in enumerate(picture_sides(h, draws, self.kind)):
            drawn = draws.uniform("shift", copy)
            most = torch.floor(torch.as_tensor(self.most, device=h.device) * length + 0.5)
            move = whole(drawn, 2 * most + 1) - most.long()
            moves.append(move)
            inside.append(span(move, torch.full_like(move, length), length))
        shown = crossed(*inside)
        return rolled(h, *moves).masked_fill(~shown[..., None, :, :], 0.0), y


@dataclass(frozen=True)
class Crop(Method):
    """A part of the picture, its area uniform from `smallest` to all and its sides' ratio kept,
    anywhere inside, brought to full size.

    Source: Szegedy et al. 2015, "Going deeper with convolutions", section 6, without its change of
    the sides' ratio.
    """

    kind: ClassVar[str] = "crop"
    purposes: ClassVar[tuple[str, ...]] = ("crop",)

    smallest: float = 0.64

    def __post_init__(self) -> None:
        self.check(smallest=(0.01, 1.0))

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        sides = picture_sides(h, draws, self.kind)
        area = self.smallest + (1 - self.smallest) * draws.uniform("crop", 0)
        side = torch.sqrt(area)
        away = [
            (1 - side) * length * (draws.uniform("crop", 1 + number) - 0.5)
            for number, length in enumerate(sides)
        ]
        zero = torch.zeros_like(side)
        return resampled(h, _matrix(((side, zero, away[0]), (zero, side, away[1])))), y


@dataclass(frozen=True)
class Flip(Method):
    """With probability p, left and right change places; axis "vertical", top and bottom.

    Meant for pictures whose classes stay what they are; for digits they do not.
    """

    kind: ClassVar[str] = "flip"
    purposes: ClassVar[tuple[str, ...]] = ("flip",)

    p: float = 0.5
    axis: str = "horizontal"

    def __post_init__(self) -> None:
        self.check(p=(0.0, 1.0))
        if self.axis not in ("horizontal", "vertical"):
            raise ValueError(f"unknown axis {self.axis!r}; known: horizontal, vertical")

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        picture_sides(h, draws, self.kind)
        chosen = draws.uniform("flip") < self.p
        flipped = h.flip(-1 if self.axis == "horizontal" else -2)
        return torch.where(chosen[..., None, None, None], flipped, h), y


@dataclass(frozen=True)
class Rotation(Method):
    """Turned about the middle by an angle uniform from −degrees to degrees, interpolated between
    the four pixels around."""

    kind: ClassVar[str] = "rotation"
    purposes: ClassVar[tuple[str, ...]] = ("rotation",)

    degrees: float = 15.0

    def __post_init__(self) -> None:
        self.check(degrees=(0.0, 180.0))

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        picture_sides(h, draws, self.kind)
        angle = (2 * draws.uniform("rotation") - 1) * self.degrees * (math.pi / 180)
        return resampled(h, _turned(angle)), y


# What an operation does at magnitude 30: turns by degrees, slants by a share, moves by a share of
# the side, adds in standard units, or stretches the distance from the picture's mean by a share.
OPERATIONS = {
    "nothing": 0.0,
    "rotate": 30.0,
    "slant across": 0.3,
    "slant down": 0.3,
    "move across": 0.3,
    "move down": 0.3,
    "brightness": 0.9,
    "contrast": 0.9,
}


@dataclass(frozen=True)
class RandAugment(Method):
    """`operations` of those in `OPERATIONS`, drawn with equal chances and each with either sign, at
    `magnitude` out of 30; pictures are resampled once, by all movements together.

    In the manner of the source, whose operations on bytes (posterise, solarise, equalise and their
    like) standard units do not know. Source: Cubuk et al. 2020, "RandAugment: Practical automated
    data augmentation with a reduced search space".
    """

    kind: ClassVar[str] = "randaugment"
    purposes: ClassVar[tuple[str, ...]] = ("randaugment",)

    operations: int = 2
    magnitude: float = 9.0

    def __post_init__(self) -> None:
        self.check(magnitude=(0.0, 30.0))
        if not 1 <= self.operations <= 16:
            raise ValueError(f"operations is {self.operations!r}; allowed: 1 to 16")

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        height, width = picture_sides(h, draws, self.kind)
        zero = torch.zeros_like(draws.uniform("randaugment", 0))
        one = torch.ones_like(zero)
        turn = torch.eye(3, dtype=torch.float64, device=h.device).expand(*zero.shape, 3, 3)
        added, contrast = zero, one
        for number in range(self.operations):
            drawn = whole(draws.uniform("randaugment", 2 * number), len(OPERATIONS))
            sign = torch.where(draws.uniform("randaugment", 2 * number + 1) < 0.5, -one, one)

            def strength(name: str, drawn: Tensor = drawn, sign: Tensor = sign) -> Tensor:
                size = sign * (OPERATIONS[name] / 30) * self.magnitude
                return torch.where(drawn == list(OPERATIONS).index(name), size, zero)

            slanted = _matrix(
                (
                    (one, strength("slant down"), strength("move down") * height),
                    (strength("slant across"), one, strength("move across") * width),
                )
            )
            turn = turn @ _turned(strength("rotate") * (math.pi / 180)) @ slanted
            added = added + strength("brightness")
            contrast = contrast * (1 + strength("contrast"))
        moved = resampled(h, turn)
        mean = moved.mean((-3, -2, -1), keepdim=True)
        return mean + column(contrast, h) * (moved - mean) + column(added, h), y


def _matrix(rows: tuple[tuple[Tensor, ...], ...]) -> Float64[Tensor, "*lead 3 3"]:
    """From a pixel's place (down, right, 1) from the middle to where its value comes from."""
    zero = torch.zeros_like(rows[0][0])
    last = torch.stack([zero, zero, zero + 1], -1)
    return torch.stack([*(torch.stack(row, -1) for row in rows), last], -2)


def _turned(angle: Tensor) -> Float64[Tensor, "*lead 3 3"]:
    sine, cosine, zero = torch.sin(angle), torch.cos(angle), torch.zeros_like(angle)
    return _matrix(((cosine, -sine, zero), (sine, cosine, zero)))


def resampled(h: Tensor, matrix: Float64[Tensor, "*lead 3 3"]) -> Tensor:
    """Pictures [*lead, channel, height, width] whose pixels come from where the matrix says, in
    pixels from the middle; between the four around, 0 outside."""
    height, width = h.shape[-2:]
    down = torch.arange(height, device=h.device, dtype=torch.float64) - (height - 1) / 2
    right = torch.arange(width, device=h.device, dtype=torch.float64) - (width - 1) / 2
    place = torch.stack(
        [
            down[:, None].expand(height, width),
            right.expand(height, width),
            torch.ones(height, width, dtype=torch.float64, device=h.device),
        ]
    ).flatten(1)
    source = (matrix @ place)[..., :2, :].flatten(0, -3)  # [picture, 2, pixel]
    grid = torch.stack([source[:, 1] * (2 / width), source[:, 0] * (2 / height)], -1)
    grid = grid.unflatten(1, (height, width)).to(h.dtype)
    pictures = h.reshape(-1, *h.shape[-3:])
    moved = functional.grid_sample(pictures, grid, mode="bilinear", align_corners=False)
    return moved.reshape(h.shape)
