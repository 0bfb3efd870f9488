"""Mixed examples: two samples of the batch become one, and their labels with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from aba_core.methods.areas import picture_sides, rectangle
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
    mixes: ClassVar[bool] = True

    alpha: float = 1.0

    def __post_init__(self) -> None:
        self.check(alpha=(1e-3, 1e3))

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        share = draws.beta("mixup", self.alpha)
        partners = draws.partners("mixup")
        weight = column(share, h)
        mixed = weight * h + (1 - weight) * of_partners(h, partners)
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
    mixes: ClassVar[bool] = True

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
        mixed = torch.where(inside[..., None, :, :], of_partners(h, partners), h)
        kept = 1 - inside.double().mean((-2, -1))
        return mixed, mixed_labels(tail, y, partners, kept, h.dtype)


@dataclass(frozen=True)
class Mixed(Method):
    """Two samples of the batch become one, `how` being one of the ways in `MIXES`; y' = w y +
    (1 − w) y₂, where w is the share of pixels that stay the sample's own.

    λ, λ₂, λ₃ ~ Beta(alpha, alpha), a sample. Sources weigh labels by λ while they take ⌊λ · height⌋
    rows; here w is the share taken, so that labels say what the picture shows. bc+ has w = λ.
    Tokens of a text are its rows, and its pixels; features of a table are its elements. Source:
    Summers and Dinneen 2019, "Improved mixed-example data augmentation"; bc+: Tokozume, Ushiku and
    Harada 2018, "Between-class learning for image classification".
    """

    kind: ClassVar[str] = "mixed"
    purposes: ClassVar[tuple[str, ...]] = ("mixed", "mixed-columns", "mixed-blend")
    mixes: ClassVar[bool] = True

    how: str = "vh-mixup"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if self.how not in MIXES:
            raise ValueError(f"unknown how {self.how!r}; known: {', '.join(MIXES)}")
        self.check(alpha=(1e-3, 1e3))

    @property
    def irrelevant(self) -> frozenset[str]:
        return frozenset() if MIXES[self.how].by_share else frozenset({"alpha"})

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        canvas = _Canvas(draws, self.alpha, *self._sides(h.shape[draws.index.dim() :]))
        partners = draws.partners("mixed")
        mixed, share = MIXES[self.how].mix(canvas, h, of_partners(h, partners))
        return mixed, mixed_labels(tail, y, partners, share, h.dtype)

    def _sides(self, shape: torch.Size) -> tuple[int, int]:
        """Rows and columns of a sample. Raises ValueError where it has none to be mixed by."""
        allowed = MIXES[self.how].dimensions
        if len(shape) not in allowed:
            why = _WHY_NOT.get(len(shape), "no such data are known")
            needed = " or ".join(_LAYOUTS[dimensions] for dimensions in allowed)
            raise ValueError(f"{self.how!r} needs {needed}, got {tuple(shape)} a sample: {why}")
        return (shape[1], shape[2]) if len(shape) == 3 else (shape[0], 1)


_LAYOUTS = {
    3: "pictures [channel, height, width]",
    2: "texts [token, embedding]",
    1: "tables [feature]",
}
_WHY_NOT = {
    2: "columns of a text are parts of its words' vectors",
    1: "features of a table have neither order nor a common scale",
}


class _Canvas(NamedTuple):
    """Where a sample's own pixels may stay: rows and columns, and what is drawn for them."""

    draws: Draws
    alpha: float | Tensor
    height: int
    width: int

    def share(self, purpose: str = "mixed") -> Float64[Tensor, "*lead"]:
        return self.draws.beta(purpose, self.alpha)

    def above(self, share: Tensor) -> Float64[Tensor, "*lead height 1"]:
        """1 in the first rows, a share of them rounded down; 0 in the others."""
        return self._first(share, self.height)[..., :, None]

    def left(self, share: Tensor) -> Float64[Tensor, "*lead 1 width"]:
        return self._first(share, self.width)[..., None, :]

    def _first(self, share: Tensor, length: int) -> Tensor:
        place = torch.arange(length, device=share.device)
        return (place < torch.floor(share * length)[..., None]).double()

    def interval(self, length: int) -> Float64[Tensor, "*lead length"]:
        """0 from a to b, 1 elsewhere."""
        first = whole(self.draws.uniform("mixed", 300), length)
        last = first + whole(self.draws.uniform("mixed", 301), length - first)
        place = torch.arange(length, device=first.device)
        return ((place < first[..., None]) | (place > last[..., None])).double()

    def line(self, copy: int, length: int) -> Tensor:
        """A place within the middle half, as a share of the length."""
        low, high = math.ceil(length / 4), math.floor(3 * length / 4)
        # Half a pixel keeps what is rounded down from falling short.
        return (low + whole(self.draws.uniform("mixed", copy), high - low + 1) + 0.5) / length

    def coins(self, rows: int, columns: int) -> Float64[Tensor, "*lead row column"]:
        """One uniform number for each place."""
        return self.draws.uniforms("mixed", rows * columns, 310).unflatten(-1, (rows, columns))

    def shaped(self, weights: Tensor, like: Tensor) -> Tensor:
        """Weights [*lead, height or 1, width or 1] so that they broadcast against samples."""
        dimensions = like.dim() - self.draws.index.dim()
        if dimensions == 1:
            weights = weights.squeeze(-1)
        return (weights[..., None, :, :] if dimensions == 3 else weights).to(like.dtype)


Mixing = Callable[[_Canvas, Tensor, Tensor], tuple[Tensor, Float64[Tensor, "*lead"]]]


def _weighted(weights_of: Callable[[_Canvas], Tensor]) -> Mixing:
    """w · x + (1 − w) · x₂ with a weight for each pixel; the share is the weights' mean."""

    def mix(canvas: _Canvas, h: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        weights = weights_of(canvas)
        weight = canvas.shaped(weights, h)
        return weight * h + (1 - weight) * other, weights.mean((-2, -1))

    return mix


def _elements(canvas: _Canvas, h: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    lead = canvas.draws.index.dim()
    drawn = canvas.coins(1, h.shape[lead:].numel())[..., 0, :]
    own = drawn < canvas.share()[..., None]
    return torch.where(own.reshape(h.shape), h, other), own.double().mean(-1)


def _noisy(canvas: _Canvas) -> Tensor:
    noise = canvas.draws.noise("mixed", 320, canvas.height * canvas.width)
    weights = (canvas.share()[..., None] + 0.158 * noise).clamp(0.0, 1.0)
    return weights.unflatten(-1, (canvas.height, canvas.width))


def _cells(canvas: _Canvas) -> Tensor:
    above = canvas.above(canvas.line(302, canvas.height))
    left = canvas.left(canvas.line(303, canvas.width))
    own = (canvas.coins(2, 2) < 0.5).double()

    def row(number: int) -> Tensor:
        cell = own[..., number, :, None, None]
        return cell[..., 0, :, :] * left + cell[..., 1, :, :] * (1 - left)

    return above * row(0) + (1 - above) * row(1)


def _opposite(canvas: _Canvas) -> Tensor:
    above, left = canvas.above(canvas.share()), canvas.left(canvas.share("mixed-columns"))
    return above * left + (1 - above) * (1 - left)


def _both_concats(canvas: _Canvas) -> Tensor:
    above, left = canvas.above(canvas.share()), canvas.left(canvas.share("mixed-columns"))
    blend = canvas.share("mixed-blend")[..., None, None]
    return blend * above + (1 - blend) * left


def _square(canvas: _Canvas, h: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    own, taken = [], []
    for number, length in enumerate((canvas.height, canvas.width)):
        side = max(1, length // 2)
        start, source = (
            whole(canvas.draws.uniform("mixed", 304 + 2 * number + k), length - side + 1)
            for k in (0, 1)
        )
        place = torch.arange(length, device=h.device)
        inside = (place >= start[..., None]) & (place < (start + side)[..., None])
        own.append(~inside)
        taken.append(start - source)
    outside = own[0][..., :, None] | own[1][..., None, :]
    mixed = torch.where(outside[..., None, :, :], h, rolled(other, *taken))
    return mixed, outside.double().mean((-2, -1))


def _between_classes(canvas: _Canvas, h: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    share = canvas.share()
    lead = share.dim()
    return _equalised(_centred(h, lead), _centred(other, lead), share), share


def _between_concats(canvas: _Canvas, h: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    blend = canvas.share("mixed-blend")
    lead = blend.dim()
    h, other = _centred(h, lead), _centred(other, lead)
    above, left = canvas.above(canvas.share()), canvas.left(canvas.share("mixed-columns"))
    vertical, horizontal = (
        torch.where(canvas.shaped(own, h) > 0.5, h, other) for own in (above, left)
    )
    share = blend * above.mean((-2, -1)) + (1 - blend) * left.mean((-2, -1))
    return _equalised(vertical, horizontal, blend), share


def _centred(h: Tensor, lead: int) -> Tensor:
    return h - h.flatten(lead).mean(-1).reshape(*h.shape[:lead], *(1,) * (h.dim() - lead))


def _equalised(one: Tensor, two: Tensor, share: Tensor) -> Tensor:
    """Both mixed so that each is as loud as its share says."""
    lead = share.dim()
    first, second = (h.flatten(lead).double().std(-1, correction=0) + 1e-6 for h in (one, two))
    p = 1 / (1 + first / second * (1 - share) / share)
    length = torch.sqrt(p**2 + (1 - p) ** 2)
    return column(p / length, one) * one + column((1 - p) / length, two) * two


class Mix(NamedTuple):
    """A way of mixing: what it does, for samples of how many dimensions, in words, and whether by
    shares λ."""

    mix: Mixing
    dimensions: tuple[int, ...]
    definition: str
    by_share: bool = True


MIXES: dict[str, Mix] = {
    "bc+": Mix(
        _between_classes,
        (3, 2),
        "(p (x − μ) + (1 − p) (x₂ − μ₂)) / √(p² + (1 − p)²), where p = 1 / (1 + (σ / σ₂) (1 − λ) / "
        "λ); μ and σ are a sample's mean and standard deviation, the latter plus 1e-6.",
    ),
    "vertical-concat": Mix(
        _weighted(lambda c: c.above(c.share())), (3, 2), "The first ⌊λ · height⌋ rows stay."
    ),
    "horizontal-concat": Mix(
        _weighted(lambda c: c.left(c.share())), (3,), "The first ⌊λ · width⌋ columns stay."
    ),
    "mixed-concat": Mix(
        _weighted(_opposite),
        (3,),
        "Lines at ⌊λ · height⌋ and ⌊λ₂ · width⌋ make four cells; the top left and the bottom right "
        "stay.",
    ),
    "random-2x2": Mix(
        _weighted(_cells),
        (3,),
        "Two lines, anywhere in the middle half, make four cells; each stays with probability ½.",
        by_share=False,
    ),
    "vh-mixup": Mix(
        _weighted(_both_concats),
        (3,),
        "λ₃ · the vertical concat by λ + (1 − λ₃) · the horizontal concat by λ₂.",
    ),
    "vh-bc+": Mix(
        _between_concats,
        (3,),
        "BC+ by λ₃ of both concats; their samples have their means taken off before.",
    ),
    "random-square": Mix(
        _square,
        (3,),
        "A patch of half the sides is replaced by a patch of x₂; each lies anywhere inside.",
        by_share=False,
    ),
    "row-interval": Mix(
        _weighted(lambda c: c.interval(c.height)[..., :, None]),
        (3, 2),
        "Rows a to b are those of x₂; a is uniform, and b from a on.",
        by_share=False,
    ),
    "column-interval": Mix(
        _weighted(lambda c: c.interval(c.width)[..., None, :]),
        (3,),
        "Columns a to b are those of x₂; a is uniform, and b from a on.",
        by_share=False,
    ),
    "rows": Mix(
        _weighted(lambda c: _kept(c, c.height, 1)), (3, 2), "Each row stays with probability λ."
    ),
    "columns": Mix(
        _weighted(lambda c: _kept(c, 1, c.width)), (3,), "Each column stays with probability λ."
    ),
    "pixels": Mix(
        _weighted(lambda c: _kept(c, c.height, c.width)),
        (3, 2),
        "Each pixel, all its channels, stays with probability λ.",
    ),
    "elements": Mix(_elements, (3, 2, 1), "Each element stays with probability λ."),
    "noisy-mixup": Mix(
        _weighted(_noisy),
        (3, 2, 1),
        "Mixup with a weight for each pixel: λ + N(0, 0.158²), cut to 0 to 1.",
    ),
}


def _kept(canvas: _Canvas, rows: int, columns: int) -> Tensor:
    """1 with the probability of the share, for each place."""
    return (canvas.coins(rows, columns) < canvas.share()[..., None, None]).double()


def whole(drawn: Tensor, options: int | Tensor) -> Tensor:
    """A whole number from 0, below `options`, of a uniform one."""
    return torch.floor(drawn * options).long()


def rolled(pictures: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pictures [*lead, channel, height, width] moved down and right by whole pixels [*lead], those
    that leave coming in at the other side."""
    height, width = pictures.shape[-2:]
    from_row = (torch.arange(height, device=rows.device) - rows[..., None]) % height
    from_column = (torch.arange(width, device=rows.device) - columns[..., None]) % width
    moved = pictures.gather(-2, from_row[..., None, :, None].expand_as(pictures))
    return moved.gather(-1, from_column[..., None, None, :].expand_as(pictures))


def of_partners(values: Tensor, partners: Tensor) -> Tensor:
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
    return weight * labels + (1 - weight) * of_partners(labels, partners)
