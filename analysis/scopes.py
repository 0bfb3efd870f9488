"""What a comparison's interval holds beyond: other seeds, other training subsets, other images.

`comparisons` gives the interval that verdicts rest on. Beside it stand a narrower one, for the same
training subsets and other seeds only, and a wider one, for other evaluation images too; and how
much each of these spreads, from which a study's budget follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.comparisons import SEEDS_ONLY, SUBSETS_AND_SEEDS, ComparisonError, Grid
from analysis.statistics import CONFIDENCE, Interval

Array = NDArray[np.float64]


# {scope or unit of a comparison: what its interval is over}
_SOURCES = {
    SUBSETS_AND_SEEDS: ("training subsets", "seeds"),
    SEEDS_ONLY: ("seeds",),
    "seeds on one subset, over subsets": ("training subsets", "seeds"),
    "sets": ("sets", "seeds"),
    f"sets, {SUBSETS_AND_SEEDS}": ("sets", "training subsets", "seeds"),
    "maps": ("maps",),
    "adjustment": ("adjustments",),
}
IMAGES = "evaluation images"


def sources_of(unit: str, scope: str) -> tuple[str, ...]:
    """What a comparison's interval is over, in words: what was drawn anew for each unit. Evaluation
    images never are; `images` has the interval over them."""
    return _SOURCES.get(scope) or _SOURCES.get(unit) or (unit,)


def _by_subset(grid: Grid, weights: Mapping[str, float]) -> list[Array]:
    """The contrast of every run (seed) of each subset that has runs of all arms."""
    values = grid.values[:, grid.columns(list(weights))] @ np.array(list(weights.values()))
    whole = np.isfinite(values)
    parts = [values[whole & (grid.subset == subset)] for subset in np.unique(grid.subset)]
    return [part for part in parts if part.size]


def seeds_only(
    grid: Grid, weights: Mapping[str, float], confidence: float = CONFIDENCE
) -> Interval:
    """Interval of Σ weight · mean for *these* training subsets and other seeds.

    Runs of one (subset, seed) are pairs. Each subset needs two seeds or more; raises
    ComparisonError else.
    """
    parts = _by_subset(grid, weights)
    if not parts or min(part.size for part in parts) < 2:
        raise ComparisonError("an interval for these subsets needs two seeds in each")
    own = np.array([part.var(ddof=1) / part.size for part in parts]) / len(parts) ** 2
    freedom = np.array([part.size - 1 for part in parts])
    estimate = float(np.mean([part.mean() for part in parts]))
    n = sum(part.size for part in parts)
    return interval_of_parts(estimate, float(own.sum()), own, freedom, n, confidence)


def spreads(grid: Grid, weights: Mapping[str, float]) -> dict[str, float]:
    """SDs (points) of a contrast: "subset", between training subsets over ever more seeds, and
    "seed", between seeds of one subset. NaN where the design cannot tell.

    With B subsets of r seeds the contrast's standard error is √(subset² / B + seed² / (B · r)).
    """
    parts = _by_subset(grid, weights)
    freedom = sum(part.size - 1 for part in parts)
    if not freedom:
        return {"subset": math.nan, "seed": math.nan}
    seed = sum(((part - part.mean()) ** 2).sum() for part in parts) / freedom
    if len(parts) < 2:
        return {"subset": math.nan, "seed": math.sqrt(seed)}
    between = float(np.var([part.mean() for part in parts], ddof=1))
    noise = seed * float(np.mean([1 / part.size for part in parts]))
    return {"subset": math.sqrt(max(0.0, between - noise)), "seed": math.sqrt(seed)}


def over_images(differences: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Interval of a mean difference for other blocks *and* other evaluation images.

    differences: [block, image], the contrast of each image's correctness in points (100 · Σ weight
    · right, averaged over a block's seeds). Both are random and crossed: the variance of the mean
    is σ²_block / B + σ²_image / I + σ²_rest / (B · I), estimated by (MS_block + MS_image − MS_rest)
    / (B · I) and never taken below either one-way variance. Degrees of freedom are Satterthwaite's.
    Raises ValueError below two blocks or images. Sources: Cornfield and Tukey 1956; Owen 2007, "The
    pigeonhole bootstrap".
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 2 or min(values.shape) < 2 or not np.isfinite(values).all():
        raise ValueError(
            f"differences must be finite, [block, image] with two or more each, got {values.shape}"
        )
    blocks, images = values.shape
    grand = float(values.mean())
    by_block, by_image = values.mean(axis=1) - grand, values.mean(axis=0) - grand
    rest = values - grand - by_block[:, None] - by_image
    freedom = np.array([blocks - 1, images - 1, (blocks - 1) * (images - 1)])
    squares = (images * (by_block**2).sum(), blocks * (by_image**2).sum(), (rest**2).sum())
    parts = np.array(squares) / freedom / values.size
    variance = max(float(parts[0] + parts[1] - parts[2]), float(parts[0]), float(parts[1]))
    return interval_of_parts(grand, variance, parts, freedom, blocks, confidence)


def interval_of_parts(
    estimate: float, variance: float, parts: Array, freedom: Array, n: int, confidence: float
) -> Interval:
    """Student's t with Satterthwaite's degrees of freedom of a variance from several parts."""
    if not variance:
        return Interval(estimate, estimate, estimate, n, confidence, "constant")
    effective = variance**2 / float((parts**2 / freedom).sum())
    reach = float(stats.t.isf((1 - confidence) / 2, effective)) * math.sqrt(variance)
    return Interval(estimate, estimate - reach, estimate + reach, n, confidence, "t")
