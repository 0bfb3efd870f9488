"""Methods that a map guides: what the model takes for important is hidden, kept or mixed.

Each takes the fields of `Guided`: how the map is made, and a placebo in its place, so that guidance
can be compared with the same change at places of no importance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from aba_core.arms import Target
from aba_core.attribution import Attribution
from aba_core.identity import Use
from aba_core.methods.areas import (
    centred,
    check_sizes,
    check_tile,
    crossed,
    drawn_sides,
    picture_sides,
    rectangle,
    tiles_as_pixels,
    top_square,
)
from aba_core.methods.around import Around
from aba_core.methods.base import Method, column
from aba_core.methods.mixing import mixed_labels, of_partners
from aba_core.methods.placebos import Placebo, selecting_map
from aba_core.randomness import Draws
from aba_core.selection import Percentiles
from aba_core.sites import Tail

_OF_MAPS = ("target", "smoothing", "placebo")


@dataclass(frozen=True)
class Guided(Method):
    """Where the map comes from. attribution and target: as those of ABA. placebo: "" for the
    model's own map; permuted, other_sample, untrained or random in its place."""

    kind: ClassVar[str] = "guided"
    purposes: ClassVar[tuple[str, ...]] = _OF_MAPS

    attribution: str | Use = "gradient_x_input"
    target: Target = "loss"
    placebo: Placebo = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "attribution", Use.read(self.attribution) or self.attribution)
        known = ("permuted", "other_sample", "untrained", "random")
        if self.placebo not in ("", *known):
            raise ValueError(
                f"unknown placebo {self.placebo!r}; known: {', '.join(known)}, or '' for none"
            )
        _ = self.maps

    @property
    def maps(self) -> Attribution:
        return Attribution(self.attribution, self.target)

    @property
    def irrelevant(self) -> frozenset[str]:
        return frozenset({"attribution", "target"} if self.placebo == "random" else ())

    @property
    def needs_untrained(self) -> bool:
        return self.placebo == "untrained"

    @property
    def mixes(self) -> bool:  # type: ignore[override]
        return self.placebo == "other_sample"

    def passes(self) -> float:
        return 1.0 if self.placebo == "random" else 1.0 + self.maps.passes()

    def map(
        self, tail: Tail, h: Tensor, y: Tensor, draws: Draws
    ) -> Float[Tensor, "*lead_and_feature"]:
        """The map that guides, in the sense of the loss, shaped like h."""
        return selecting_map(
            self.placebo,
            lambda: tail.map(h, y, self.maps, draws),
            lambda: tail.map(h, y, self.maps, draws, untrained=True),
            draws,
            h.shape,
        )

    def importance(
        self, tail: Tail, h: Tensor, y: Tensor, draws: Draws
    ) -> Float[Tensor, "*lead height width"]:
        """The absolute map of each pixel, summed over channels."""
        return self.map(tail, h, y, draws).abs().sum(-3)


@dataclass(frozen=True)
class RelDropBlock(Guided):
    """With probability p, a rectangle around the most relevant pixel is set to 0, the data set's
    mean; its area is `smallest` to `largest` of the picture's, its sides' ratio `aspect` to 1 /
    aspect, and what lies outside is cut.

    Relevance is minus the map in the sense of the loss, summed over channels: what speaks for the
    class. Here it is gradient × input; the source has LRP ε-z⁺, here the kinds `reldrop-block-lrp`
    and `reldrop-pixel-lrp`, and decides for whole batches. Source: Gururaj et al. 2025,
    "Relevance-driven input dropout".
    """

    kind: ClassVar[str] = "reldrop-block"
    purposes: ClassVar[tuple[str, ...]] = (*_OF_MAPS, "reldrop-block")

    target: Target = "true_class"
    p: float = 0.5
    smallest: float = 0.02
    largest: float = 0.4
    aspect: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(p=(0.0, 1.0))
        check_sizes(self)

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        sides = picture_sides(h, draws, self.kind)
        relevance = -self.map(tail, h, y, draws).sum(-3)
        cut = drawn_sides(self, draws, self.kind, sides)
        place = relevance.flatten(-2).argmax(-1)
        centre = torch.div(place, sides[1], rounding_mode="floor"), place % sides[1]
        lines = (centred(*line) for line in zip(centre, cut, sides, strict=True))
        chosen = draws.uniform(self.kind, 1) < self.p
        hidden = crossed(*lines) & chosen[..., None, None]
        return h.masked_fill(hidden[..., None, :, :], 0.0), y


@dataclass(frozen=True)
class RelDropPixel(Guided):
    """With probability p, each pixel with alpha · U(0, 1) + (1 − alpha) · relevance ≥ 1 − beta is
    set to 0, its relevance brought to 0 to 1 within the sample; what is no picture, each feature.

    Relevance and source as for reldrop-block.
    """

    kind: ClassVar[str] = "reldrop-pixel"
    purposes: ClassVar[tuple[str, ...]] = (*_OF_MAPS, "reldrop-pixel")

    target: Target = "true_class"
    p: float = 0.3
    alpha: float = 0.3
    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(p=(0.0, 1.0), alpha=(0.0, 1.0), beta=(0.0, 1.0))

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        lead = draws.index.dim()
        relevance = -self.map(tail, h, y, draws).double()
        if h.dim() - lead == 3:
            relevance = relevance.sum(-3, keepdim=True)
        inside = tuple(range(lead, h.dim()))
        low = relevance.amin(inside, keepdim=True)
        spread = relevance.amax(inside, keepdim=True) - low
        relevance = (relevance - low) / torch.where(spread > 1e-6, spread, torch.inf)
        places = relevance.shape[lead:]
        drawn = draws.uniforms(self.kind, places.numel(), 2).unflatten(-1, places)
        alpha, beta = column(self.alpha, drawn), column(self.beta, drawn)
        chosen = draws.uniform(self.kind, 1) < self.p
        hidden = alpha * drawn + (1 - alpha) * relevance >= 1 - beta
        hidden = hidden & chosen.reshape(*chosen.shape, *(1,) * len(places))
        return h.masked_fill(hidden, 0.0), y


@dataclass(frozen=True)
class GuidedCutout(Guided):
    """A square of `side` of a picture's sides, the one with the largest sum of the absolute map, is
    set to 0; it lies inside. With placebo "random" it is a random area of the same size.
    """

    kind: ClassVar[str] = "guided-cutout"

    side: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(side=(0.0, 1.0))

    @classmethod
    def per_replica(cls) -> tuple[str, ...]:
        return ()  # the size of a window is no tensor

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        sides = picture_sides(h, draws, self.kind)
        hidden = top_square(self.importance(tail, h, y, draws), sides, self.side)
        return h.masked_fill(hidden[..., None, :, :], 0.0), y


@dataclass(frozen=True)
class ICD(Guided):
    """Intelligent coarse dropout: with probability p, the share of a picture's tiles of `tile` ×
    `tile` pixels with the largest mean of the absolute map is hidden; region "other" (AICD), with
    the smallest.

    fill: "blur", the picture blurred by a Gaussian as wide as 0.15 of the longer side; "mean", 0.
    Pixels beyond the last whole tile stay. The number of tiles is exact, rounded. The source has
    tiles of 8 pixels and maps by Opti-CAM. Source: the package bnnr, "ICD" and "AICD".
    """

    kind: ClassVar[str] = "icd"
    purposes: ClassVar[tuple[str, ...]] = (*_OF_MAPS, "icd")

    p: float = 0.5
    share: float = 0.3
    tile: int = 2
    region: str = "salient"
    fill: str = "blur"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(p=(0.0, 1.0), share=(0.01, 0.99))
        if not 1 <= self.tile <= 10**6:
            raise ValueError(f"tile is {self.tile!r}; allowed: whole numbers from 1")
        for name, known in (("region", ("salient", "other")), ("fill", ("blur", "mean"))):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")

    @classmethod
    def per_replica(cls) -> tuple[str, ...]:
        return ("p",)

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        height, width = picture_sides(h, draws, self.kind)
        check_tile(self.tile, (height, width))
        lead = draws.index.dim()
        importance = self.importance(tail, h, y, draws).flatten(0, lead - 1)
        scores = functional.avg_pool2d(importance[:, None], self.tile)
        flat = scores.flatten(1)
        salient = self.region == "salient"
        cut = Percentiles(1 - self.share) if salient else Percentiles(self.share)
        tiles = cut.masks(flat)[1 if salient else 0].reshape(scores.shape)[:, 0]
        hidden = tiles_as_pixels(tiles, self.tile, height, width)
        chosen = draws.uniform("icd", 1) < self.p
        hidden = hidden.unflatten(0, h.shape[:lead]) & chosen[..., None, None]
        other = blurred(h) if self.fill == "blur" else torch.zeros_like(h)
        return torch.where(hidden[..., None, :, :], other, h), y


@dataclass(frozen=True)
class SaliencyMix(Guided):
    """A rectangle of another sample's picture around its most salient pixel, of a share 1 − λ of
    the area, λ ~ Beta(alpha, alpha), is put at the same place; labels are weighted by the share of
    pixels that stayed.

    Saliency is the absolute map; the source has a detector that knows no model. Source: Uddin et
    al. 2021, "SaliencyMix: A saliency guided data augmentation strategy for better regularization".
    """

    kind: ClassVar[str] = "saliencymix"
    purposes: ClassVar[tuple[str, ...]] = (*_OF_MAPS, "saliencymix")
    mixes: ClassVar[bool] = True

    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(alpha=(1e-3, 1e3))

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        height, width = picture_sides(h, draws, self.kind)
        partners = draws.partners("saliencymix")
        place = self.importance(tail, h, y, draws).flatten(-2).argmax(-1)
        place = place.gather(-1, partners)
        centre = torch.div(place, width, rounding_mode="floor") + 0.5, place % width + 0.5
        side = torch.sqrt(1 - draws.beta("saliencymix", self.alpha))
        middle = centre[0].double() / height, centre[1].double() / width
        inside = rectangle(middle, (side, side), height, width)
        mixed = torch.where(inside[..., None, :, :], of_partners(h, partners), h)
        kept = 1 - inside.double().mean((-2, -1))
        return mixed, mixed_labels(tail, y, partners, kept, h.dtype)


@dataclass(frozen=True)
class GuidedDropout(Guided):
    """The share p of features with the highest map, in the sense of the loss, is set to 0 and the
    others are divided by 1 − p; category "low", the lowest. With placebo "random", dropout at
    exactly the same rate.
    """

    kind: ClassVar[str] = "guided-dropout"

    attribution: str | Use = "gradient"
    p: float = 0.1
    category: str = "high"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(p=(0.001, 0.999))
        if self.category not in ("high", "low"):
            raise ValueError(f"unknown category {self.category!r}; known: high, low")

    @classmethod
    def per_replica(cls) -> tuple[str, ...]:
        return ()  # ranks are whole numbers

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        lead = draws.index.dim()
        flat = self.map(tail, h, y, draws).flatten(0, lead - 1).flatten(1)
        high = self.category == "high"
        split = Percentiles(1 - self.p) if high else Percentiles(self.p)
        dropped = split.masks(flat)[1 if high else 0].reshape(h.shape)
        return h.masked_fill(dropped, 0.0) / (1 - self.p), y


@dataclass(frozen=True)
class KeepAugment(Around):
    """Another method, after which the sample's most important square, `side` of its sides, is put
    back as it was ("selective paste").

    attribution, target: of the map. The method held keeps its labels. Source: Gong et al. 2021,
    "KeepAugment: A simple information-preserving data augmentation approach".
    """

    kind: ClassVar[str] = "keepaugment"
    purposes: ClassVar[tuple[str, ...]] = _OF_MAPS

    side: float = 0.5
    attribution: str | Use = "gradient"
    target: Target = "loss"
    placebo: Placebo = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(side=(0.0, 1.0))
        _ = self._guide
        if self.method.enlarges:
            raise ValueError(f"{self.method.kind!r} enlarges the batch; its pictures have no place")

    @property
    def _guide(self) -> GuidedCutout:
        return GuidedCutout(
            attribution=self.attribution, target=self.target, placebo=self.placebo, side=self.side
        )

    @classmethod
    def per_replica(cls) -> tuple[str, ...]:
        return ()

    @property
    def irrelevant(self) -> frozenset[str]:
        return super().irrelevant | self._guide.irrelevant

    @property
    def needs_untrained(self) -> bool:
        return self.placebo == "untrained" or self.method.needs_untrained

    def passes(self) -> float:
        return self.method.passes() + self._guide.passes() - 1.0

    def parts(self) -> tuple[Method, ...]:
        return (self._guide, *self.method.parts())

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        sides = picture_sides(h, draws, self.kind)
        kept = top_square(self._guide.importance(tail, h, y, draws), sides, self.side)
        changed, labels = self.method.batch(tail, h, y, draws)
        return torch.where(kept[..., None, :, :], h, changed), labels


def blurred(h: Float[Tensor, "*lead channel height width"]) -> Tensor:
    """Pictures blurred by a Gaussian whose kernel is as wide as 0.15 of the longer side, three
    pixels at least; edges are mirrored. Width to standard deviation: as OpenCV does it."""
    height, width = h.shape[-2:]
    kernel = max(3, int(max(height, width) * 0.15)) | 1
    sd = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    place = torch.arange(kernel, device=h.device, dtype=torch.float64) - kernel // 2
    weights = torch.exp(-0.5 * (place / sd) ** 2)
    weights = (weights / weights.sum()).to(h.dtype)
    border = kernel // 2
    flat = functional.pad(h.reshape(-1, 1, height, width), (border,) * 4, mode="reflect")
    flat = functional.conv2d(flat, weights[None, None, :, None])
    return functional.conv2d(flat, weights[None, None, None, :]).reshape(h.shape)
