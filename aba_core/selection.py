"""Selection: split the features of an attribution map into categories, low first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from aba_core.architecture import check_tensor


@dataclass(frozen=True, init=False)
class Percentiles:
    """Categories by rank within each sample, cut at the given quantiles.

    `Percentiles(0.1, 0.9)` makes three: the lowest tenth, the middle, the highest tenth. The sizes
    are exact for all values: `quantile · features`, rounded half up from the nearer end,
    so that `Percentiles(q, 1 − q)` has low and high categories of one size. Equal values on a cut
    are told apart by a fixed pseudo-random order of the features: a constant map then selects
    scattered features and no corner of the picture.
    """

    kind: ClassVar[str] = "percentiles"

    quantiles: tuple[float, ...]

    def __init__(self, *quantiles: float) -> None:
        values = tuple(float(q) for q in quantiles)
        inside = all(0.0 < q < 1.0 for q in values)
        if not values or not inside or list(values) != sorted(set(values)):
            raise ValueError(
                f"percentiles {values}; allowed: increasing numbers between 0 and 1, as (0.1, 0.9)"
            )
        object.__setattr__(self, "quantiles", values)

    @property
    def categories(self) -> int:
        return len(self.quantiles) + 1

    @property
    def covers(self) -> bool:
        """Whether every feature belongs to a category."""
        return True

    def boundaries(self, features: int) -> tuple[int, ...]:
        """How many features lie below each cut."""
        # 1e-9: products such as 0.3 · 15 = 4.499… are meant to be halves.
        cuts = (
            math.floor(features * q + 0.5 + 1e-9)
            if q <= 0.5
            else features - math.floor(features * (1.0 - q) + 0.5 + 1e-9)
            for q in self.quantiles
        )
        return tuple(
            accumulate(cuts, max)
        )  # halves round outwards: cuts a hair apart must not cross

    def commonest(self, features: int) -> int:
        """The category that holds most of so many features."""
        cuts = (0, *self.boundaries(features), features)
        sizes = [above - below for below, above in pairwise(cuts)]
        return sizes.index(max(sizes))

    def masks(self, flat: Float[Tensor, "batch feature"]) -> Bool[Tensor, "category batch feature"]:
        below = _smallest(flat, self.boundaries(flat.shape[1]))
        between = [upper & ~lower for lower, upper in zip(below, below[1:], strict=False)]
        return torch.stack([below[0], *between, ~below[-1]])

    def __str__(self) -> str:
        return "percentiles " + "/".join(f"{100 * q:g}" for q in self.quantiles)


@dataclass(frozen=True)
class SignSplit:
    """Two categories: features with negative (low) and with positive (high) attribution.

    A feature with attribution exactly 0 is in neither: so {[−1, 1]} with target "loss" is
    x + s · sign(∇loss), the fast gradient sign method, exactly.
    """

    kind: ClassVar[str] = "sign"

    @property
    def categories(self) -> int:
        return 2

    @property
    def covers(self) -> bool:
        """Whether every feature belongs to a category."""
        return False

    def commonest(self, features: int) -> int:
        """Either: which of the two holds more is seen from a map alone."""
        return 0

    def masks(self, flat: Float[Tensor, "batch feature"]) -> Bool[Tensor, "category batch feature"]:
        return torch.stack([flat < 0, flat > 0])

    def __str__(self) -> str:
        return "sign"


Selection = Percentiles | SignSplit


def _smallest(
    flat: Float[Tensor, "batch feature"], counts: Sequence[int]
) -> list[Bool[Tensor, "batch feature"]]:
    """The `count` smallest features of each sample, for each count; ties by a fixed pseudo-random
    order."""
    features = flat.shape[1]
    if not _on_cpu(flat) and flat.dtype != torch.float64:
        return _smallest_by_key(flat, counts)
    ordered = None
    if _on_cpu(flat) and flat.dtype in (torch.float32, torch.float64):
        # NumPy's vectorised sort takes a tenth of the time of selecting one value in torch.
        ordered = torch.from_numpy(np.sort(flat.detach().numpy(), axis=1))
    below = []
    for count in counts:
        if count in (0, features):
            below.append(torch.full_like(flat, count == features, dtype=torch.bool))
            continue
        if ordered is None:
            below.append(_up_to(flat, flat.kthvalue(count, dim=1, keepdim=True).values, count))
            continue
        cut, following = ordered[:, count - 1 : count], ordered[:, count : count + 1]
        # Without ties on the cut, the usual case, comparing is enough. To ask is cheap on a CPU; on
        # other devices it would halt the stream of work.
        clear = bool((cut < following).all())
        below.append(flat <= cut if clear else _up_to(flat, cut, count))
    return below


def _smallest_by_key(
    flat: Float[Tensor, "batch feature"], counts: Sequence[int]
) -> list[Bool[Tensor, "batch feature"]]:
    """As `_smallest`, by one whole number a feature, so that a cut is one selection and one
    comparison: four and twelve operations on a device that waits for none. NaN counts as the
    largest values."""
    keys, features = _keys(flat), flat.shape[1]
    return [
        torch.full_like(flat, count == features, dtype=torch.bool)
        if count in (0, features)
        else keys <= keys.kthvalue(count, dim=1, keepdim=True).values
        for count in counts
    ]


def _keys(flat: Float[Tensor, "batch feature"]) -> Int64[Tensor, "batch feature"]:
    """Distinct numbers in the order of the values, ties in their fixed pseudo-random order: the
    float's bits, which for negative ones run the other way, above the place in that order."""
    bits = (flat.float() + 0.0).view(torch.int32).long()  # −0 becomes 0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered << 32) | order_of_ties(flat.shape[1], flat.device)[1]


def _up_to(
    flat: Float[Tensor, "batch feature"], cut: Float[Tensor, "batch 1"], count: int
) -> Bool[Tensor, "batch feature"]:
    """The `count` smallest features, `cut` being the largest of them, with or without ties."""
    less, equal = flat < cut, flat == cut
    left = count - less.sum(1, keepdim=True)
    shuffled, back = order_of_ties(flat.shape[1], flat.device)
    if not _on_cpu(flat):
        return less | (equal & (equal[:, shuffled].cumsum(1)[:, back] <= left))
    # The place, in the fixed order, of the last equal value that still belongs: NumPy lists all
    # equal ones in a tenth of the time that counting along each sample takes.
    ordered = equal.numpy()[:, shuffled.numpy()]
    places, found = np.flatnonzero(ordered), ordered.sum(1)
    last = np.full(len(ordered), -1)
    some = found > 0
    numbers = (found.cumsum() - found + np.minimum(left[:, 0].numpy(), found) - 1)[some]
    last[some] = places[numbers] % flat.shape[1]
    return less | (equal & (back <= torch.from_numpy(last)[:, None]))


def _on_cpu(values: Tensor) -> bool:
    return values.device.type == "cpu"


@lru_cache(maxsize=8)
def order_of_ties(features: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A fixed pseudo-random order of the features, and where each feature stands in it."""
    shuffled = torch.randperm(features, generator=torch.Generator().manual_seed(features))
    return shuffled.to(device), shuffled.argsort().to(device)


def categorize(
    attribution: Float[Tensor, "batch *feature"], split: Selection = Percentiles(0.1, 0.9)
) -> Bool[Tensor, "category batch *feature"]:
    """Which features of each sample are in which category, low category first.

    attribution: a map in the sense of the loss (as `attribute` returns it), any feature shape.
    Raises ValueError where the map is no tensor, holds NaN or infinite values, or has no features.
    """
    check_tensor("attribution", attribution)
    if not hasattr(split, "masks"):
        raise ValueError(
            f"split is {split!r}; needed: Percentiles(0.1, 0.9) or another split, as SignSplit()"
        )
    if attribution.dim() < 2 or attribution.shape[1:].numel() == 0:
        raise ValueError(
            f"attribution of shape {tuple(attribution.shape)}; "
            "needed: [batch, *feature] with at least one feature"
        )
    finite = torch.isfinite(attribution).flatten(1).all(1)
    if not bool(finite.all()):
        first = int((~finite).nonzero()[0])
        raise ValueError(
            f"the attribution map of {int((~finite).sum())} of {len(finite)} samples "
            f"(first: sample {first}) holds NaN or infinite values; allowed: finite numbers"
        )
    return split.masks(attribution.flatten(1)).unflatten(2, attribution.shape[1:])
