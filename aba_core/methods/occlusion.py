"""Occlusion: parts of a picture are hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from aba_core.attribution import Attribution, Target
from aba_core.methods.base import Method
from aba_core.methods.mixing import picture_sides, rectangle
from aba_core.methods.placebos import Placebo, selecting_map
from aba_core.randomness import Draws
from aba_core.selection import Percentiles
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
class GuidedDropout(Method):
    """The share p of a sample's features with the highest or lowest attribution is set to 0, the
    data set's mean in standard units: ABA with a category emptied in place of shifted.

    target: what the map explains (see `Attribution`), in the sense of the loss. placebo: what
    stands in for the map; "random" hides as many features wherever they are.
    """

    kind: ClassVar[str] = "guided-dropout"

    p: float = 0.1
    of: Literal["high", "low"] = "high"
    target: Target = "loss"
    placebo: Placebo = ""

    def __post_init__(self) -> None:
        self.check(p=(0.0, 0.5))
        for name, kind in (("of", ("high", "low")), ("placebo", get_args(Placebo))):
            if getattr(self, name) not in kind:
                known = ", ".join(one for one in kind if one)
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; known: {known}")
        if self.placebo == "gaussian":
            raise ValueError("placebo is 'gaussian', which changes features instead of hiding them")
        _ = self.maps

    @classmethod
    def per_replica(cls) -> tuple[str, ...]:
        return ()  # p is a number of features, which all must share

    @property
    def irrelevant(self) -> frozenset[str]:
        return frozenset({"target", "of"} if self.placebo == "random" else ())

    @property
    def maps(self) -> Attribution:
        return Attribution("gradient", self.target)

    @property
    def needs_untrained(self) -> bool:
        return self.placebo == "untrained"

    def passes(self) -> float:
        return 1.0 if self.placebo == "random" else 1.0 + self.maps.passes()

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        lead = draws.index.dim()
        attribution = selecting_map(
            self.placebo,
            lambda: tail.map(h, y, self.maps, draws),
            lambda: tail.map(h, y, self.maps, draws, untrained=True),
            draws,
            h.shape,
        )
        masks = Percentiles(self.p, 1.0 - self.p).masks(attribution.flatten(0, lead - 1).flatten(1))
        hidden = masks[-1] if self.of == "high" else masks[0]
        return h.masked_fill(hidden.reshape(h.shape), 0.0), y
