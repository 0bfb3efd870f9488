"""Rank correlations of two quantities over units, as bounds at any level. The unit is repeated."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.comparisons import Bounds, ComparisonError, Grid
from analysis.hypothesis import Correlation

LEAST_UNITS = 5
Array = NDArray[np.float64]


def bounds(declared: Correlation, first: Grid, second: Grid, rng: np.random.Generator) -> Bounds:
    """Spearman's correlation over units, times 100; each unit counts by its arms' means.

    first, second: grids of the two quantities. What runs scatter makes a correlation smaller and is
    not taken out. p_permutation: two-sided, by exchanging units. Raises ComparisonError.
    """
    arms, others = zip(*declared.pairs.values(), strict=True)
    means = []
    for grid, names in ((first, arms), (second, others)):
        columns = grid.columns(list(dict.fromkeys(names)))
        whole = dict(zip(dict.fromkeys(names), np.nanmean(grid.values[:, columns], 0), strict=True))
        means.append(np.array([whole[name] for name in names]))
    one, other = means
    if len(one) < LEAST_UNITS or min(np.ptp(one), np.ptp(other)) == 0:
        raise ComparisonError(
            f"{len(one)} units with {len(set(one))} and {len(set(other))} values; needed: "
            f"{LEAST_UNITS} units that differ"
        )
    found = spearman(one, other)
    return replace(found, p_permutation=permutation_p(one, other, rng))


def spearman(one: Array, other: Array) -> Bounds:
    """Spearman's correlation times 100, with bounds by Fisher's z. Source of its standard error:
    Bonett and Wright 2000."""
    estimate, n = float(stats.spearmanr(one, other).statistic), len(one)
    z = math.atanh(max(-1 + 1e-9, min(1 - 1e-9, estimate)))
    error = math.sqrt((1 + estimate**2 / 2) / (n - 3))

    def end(tail: float, side: int) -> float:
        return 100 * math.tanh(z + side * float(stats.norm.isf(tail)) * error)

    return Bounds(
        100 * estimate, lambda tail: end(tail, -1), lambda tail: end(tail, 1), n, "map", "maps",
        method="Fisher's z",
    )  # fmt: skip


def permutation_p(
    one: Array, other: Array, rng: np.random.Generator, resamples: int = 1_999
) -> float:
    """How often exchanged units correlate as much, on either side."""
    a, b = stats.rankdata(one), stats.rankdata(other)
    a, b = a - a.mean(), b - b.mean()
    orders = rng.permuted(np.tile(np.arange(len(a)), (resamples, 1)), axis=1)
    drawn = np.abs(b[orders] @ a)
    return float((1 + (drawn >= abs(a @ b) * (1 - 1e-12)).sum()) / (1 + resamples))
