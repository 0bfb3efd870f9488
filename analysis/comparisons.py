"""Comparisons of arms: what runs say of one contrast or slope, as bounds at any level.

    runs → grid [(subset, seed), arm] → Means of the arms → Bounds of a contrast

The replicate is a block. Where arms were trained on the same several subsets, the contrast is taken
within each subset and the subsets are the sample: the interval holds for other subsets and seeds.
Where all runs share one subset, the interval is over seeds and holds for that subset only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from analysis import statistics
from analysis.statistics import Interval

Array = NDArray[np.float64]

SUBSETS_AND_SEEDS = "subsets and seeds"
SEEDS_ONLY = "seeds only, one training subset"
LEAST_BLOCKS = 3  # below, no interval: two blocks give Student's t one degree of freedom
LEAST_EQUAL = 8  # so many equal differences of one sign have chance .5 ** 8 where there is nothing
LEAST_GROUP = 4  # adjustments on each side
MOST_SELECTIONS = 20_000  # choices of one candidate from each list that are gone through singly


class ComparisonError(ValueError):
    """A comparison that the runs cannot make; one line saying why."""


@dataclass(frozen=True)
class Bounds:
    """An estimate with its bounds at any level.

    low, high: from the share that is left out on that side (as .025) to the bound. n: the units:
    blocks or runs, adjustments, sets. scope: what the bounds hold beyond. left_out: blocks without
    a run of some arm. correlation: within blocks, of the two sides of the contrast.
    p_permutation: of a slope, by exchanging sets. notes: what a reader must know of it.
    share_below: the share that is left out below a value, where there is a formula for it.
    """

    estimate: float
    low: Callable[[float], float]
    high: Callable[[float], float]
    n: int
    unit: str
    scope: str = ""
    left_out: int = 0
    correlation: float = math.nan
    method: str = "t"
    p_permutation: float = math.nan
    notes: tuple[str, ...] = ()
    share_below: Callable[[float], float] | None = None

    def interval(self, confidence: float = statistics.CONFIDENCE) -> Interval:
        """The two-sided interval."""
        tail = (1 - confidence) / 2
        low, high = self.low(tail), self.high(tail)
        return Interval(self.estimate, low, high, self.n, confidence, self.method)


def t_quantile(tail: float, freedom: float | Array) -> Array:
    """What Student's t exceeds in a share `tail`; `scipy.stats.t.isf` takes ten times as long."""
    most = np.minimum(freedom, 1e9)
    if np.ndim(tail) == 0 and np.size(most) > 1 and np.all(most == most.flat[0]):  # as in blocks
        return np.full(most.shape, -special.stdtrit(most.flat[0], tail))
    return np.asarray(-special.stdtrit(most, tail))


def student(estimate: float, error: float, freedom: float, n: int, unit: str) -> Bounds:
    """Bounds of an estimate with a standard error, by Student's t. Few differences that are all the
    same and not 0 tell nothing of their spread: they have no bounds."""

    def reach(tail: float) -> float:
        if not error and estimate and n < LEAST_EQUAL:
            return math.inf
        if freedom > 0:  # as `t_quantile`, which is slower for single numbers
            return float(-special.stdtrit(min(freedom, 1e9), tail)) * error
        return math.nan

    def share_below(value: float) -> float:
        if not math.isfinite(reach(0.25)):
            return math.nan
        if not error:
            return float(value > estimate)
        return float(special.stdtr(min(freedom, 1e9), (value - estimate) / error))

    return Bounds(
        estimate,
        lambda tail: estimate - reach(tail),
        lambda tail: estimate + reach(tail),
        n,
        unit,
        method="t" if error else "constant",
        share_below=share_below,
    )


# --- runs to means -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """A metric of runs as a table. values: [run, arm], NaN where there is none; subset: [run], the
    training subset that a row was drawn from. A row is a seed within a subset."""

    arms: tuple[str, ...]
    subset: NDArray[np.int64]
    values: Array

    @cached_property
    def place(self) -> dict[str, int]:
        """{arm: column}."""
        return {arm: number for number, arm in enumerate(self.arms)}

    @cached_property
    def by_subset(self) -> Array:
        """Means over the seeds of each subset, NaN where there are none. [subset, arm]"""
        subsets, code = np.unique(self.subset, return_inverse=True)
        there = np.isfinite(self.values)
        counts = np.zeros((len(subsets), len(self.arms)))
        sums = np.zeros_like(counts)
        np.add.at(counts, code, there)
        np.add.at(sums, code, np.where(there, self.values, 0.0))
        return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)

    def columns(self, arms: Sequence[str]) -> list[int]:
        """Where arms are. Raises ComparisonError for one without runs."""
        absent = [arm for arm in arms if arm not in self.place]
        if absent:
            raise ComparisonError(f"no runs of {absent[0]!r}")
        return [self.place[arm] for arm in arms]

    def blocks(self, arms: Sequence[str]) -> int:
        """Blocks that the arm with fewest has: subsets where arms ran on several, else seeds."""
        columns = self.columns(arms)
        subsets = np.isfinite(self.by_subset[:, columns]).sum(axis=0)
        if subsets.max() > 1:
            return int(subsets.min())
        return int(np.isfinite(self.values[:, columns]).sum(axis=0).min())


def grid_of(runs: pd.DataFrame, metric: str) -> Grid:
    """Runs as a grid, without those that lack the metric. Runs without the column subset_seed share
    one subset."""
    finite = np.isfinite(runs[metric].astype(np.float64))
    subset = runs.loc[finite, "subset_seed"] if "subset_seed" in runs else 0
    keyed = runs.loc[finite, ["arm", "seed", metric]].assign(subset=subset)
    wide = keyed.pivot_table(index=["subset", "seed"], columns="arm", values=metric)
    subsets = wide.index.get_level_values("subset").to_numpy(np.int64)
    return Grid(tuple(map(str, wide.columns)), subsets, wide.to_numpy(np.float64))


@dataclass(frozen=True)
class Means:
    """Means of some arms and how they err.

    mean: [arm]; variance of the means and their third moment: [arm]; counts: units of each arm.
    blocks: [block, arm] where arms are compared within blocks, which then are the sample; else arms
    are independent.
    """

    arms: tuple[str, ...]
    mean: Array
    variance: Array
    third: Array
    counts: Array
    blocks: Array | None
    scope: str
    left_out: int

    @property
    def n(self) -> int:
        """Blocks, or runs of all arms."""
        return int(self.counts.sum()) if self.blocks is None else len(self.blocks)

    @property
    def unit(self) -> str:
        """What n counts."""
        if self.blocks is None:
            return "run"
        return "subset" if self.scope == SUBSETS_AND_SEEDS else "seed"

    def errors(self, weights: Array) -> tuple[Array, Array]:
        """Standard errors and degrees of freedom of contrasts. weights: [contrast, arm]."""
        if self.blocks is not None:
            spread = (self.blocks @ weights.T).std(axis=0, ddof=1)
            return spread / math.sqrt(self.n), np.full(len(weights), self.n - 1.0)
        parts = weights**2 * self.variance
        total = parts.sum(axis=1)
        smaller = (parts**2 / (self.counts - 1)).sum(axis=1)
        freedom = np.divide(total**2, smaller, out=np.full(len(total), np.inf), where=smaller > 0)
        return np.sqrt(total), freedom

    def skewness(self, weights: Array) -> tuple[float, float]:
        """Of a contrast's error, and the standard error that normal runs would give it."""
        if self.blocks is not None:
            values, n = self.blocks @ weights, self.n
            spread = values.std(ddof=1)
            skew = _third(values) / spread**3 if spread else 0.0
            return float(skew) / math.sqrt(n), math.sqrt(6 / n**2)
        total = float((weights**2 * self.variance).sum()) ** 1.5
        if not total:
            return 0.0, 1.0
        own = np.sqrt(6 * (weights**2 * self.variance) ** 3 / self.counts**2)
        return float((weights**3 * self.third).sum()) / total, float(
            np.sqrt((own**2).sum())
        ) / total

    def draws(self, rng: np.random.Generator, resamples: int) -> Array:
        """How the means might have erred, with Student's tails. [resample, arm]"""
        if self.blocks is not None:
            n = self.n
            centred = (self.blocks - self.mean) / math.sqrt(n * (n - 1))
            scale = np.sqrt(rng.chisquare(n - 1, resamples) / (n - 1))
            return np.asarray(rng.standard_normal((resamples, n)) @ centred / scale[:, None])
        size = (resamples, len(self.arms))
        return rng.standard_t(self.counts - 1, size) * np.sqrt(self.variance)


def means_of(grid: Grid, arms: Sequence[str], paired: bool = False) -> Means:
    """The arms' means, over blocks where they have some in common.

    Of several subsets that all arms were trained on, each is a block: its seeds are averaged first.
    One subset: seeds are blocks where `paired`, else arms are independent samples. Arms that share
    no subset are independent where each has several. Raises ComparisonError where no interval can
    be had.
    """
    columns = grid.columns(arms)
    names = tuple(arms)
    by_subset = grid.by_subset[:, columns]
    there = np.isfinite(by_subset)
    shared = there.all(axis=1)
    if shared.sum() > 1:
        left_out = int(there.any(axis=1).sum() - shared.sum())
        return _in_blocks(names, by_subset[shared], SUBSETS_AND_SEEDS, left_out)
    if shared.any():
        own = grid.values[grid.subset == np.unique(grid.subset)[shared][0]][:, columns]
        if not paired:
            return _independent(names, own, SEEDS_ONLY)
        there = np.isfinite(own)
        whole = there.all(axis=1)
        left_out = int(there.any(axis=1).sum() - whole.sum())
        return _in_blocks(names, own[whole], SEEDS_ONLY, left_out)
    counts = there.sum(axis=0)
    if (counts > 1).all():
        return _independent(names, by_subset, SUBSETS_AND_SEEDS)
    few = int(counts.argmin())
    raise ComparisonError(
        f"no training subset has runs of all arms, and {names[few]!r} ran on {counts[few]} only"
    )


def _in_blocks(arms: tuple[str, ...], blocks: Array, scope: str, left_out: int) -> Means:
    n = len(blocks)
    if n < LEAST_BLOCKS:
        what = "subsets" if scope == SUBSETS_AND_SEEDS else "seeds"
        raise ComparisonError(f"{n} {what} have runs of all arms; needed: {LEAST_BLOCKS} or more")
    counts = np.full(len(arms), float(n))
    variance, third = blocks.var(axis=0, ddof=1) / n, _third(blocks) / n**2
    return Means(arms, blocks.mean(axis=0), variance, third, counts, blocks, scope, left_out)


def _third(values: Array) -> Array:
    return np.asarray(((values - values.mean(axis=0)) ** 3).mean(axis=0))


def _independent(arms: tuple[str, ...], values: Array, scope: str) -> Means:
    samples = [column[np.isfinite(column)] for column in values.T]
    counts = np.array([float(sample.size) for sample in samples])
    few = int(counts.argmin())
    if counts[few] < LEAST_BLOCKS:
        raise ComparisonError(
            f"{arms[few]!r} has {counts[few]:g} runs; needed: {LEAST_BLOCKS} or more"
        )
    mean = np.array([sample.mean() for sample in samples])
    variance = np.array([sample.var(ddof=1) / sample.size for sample in samples])
    third = np.array([_third(sample) / sample.size**2 for sample in samples])
    return Means(arms, mean, variance, third, counts, None, scope, 0)


# --- spreads of runs --------------------------------------------------------------------------


def spread(grid: Grid, weights: Mapping[str, float]) -> Bounds:
    """Bounds of Σ weight · 100 ln(SD of an arm's runs), by the jackknife over blocks.

    Where subsets have several seeds each, SDs are those within subsets, and subsets are the blocks.
    Else a run is a block, and the SD is over subsets and seeds (or over the seeds of the one
    subset). Blocks that lack a run of some arm are left out. Raises ComparisonError.
    """
    values = grid.values[:, grid.columns(list(weights))]
    whole = np.isfinite(values).all(axis=1)
    left_out = int(np.isfinite(values).any(axis=1).sum() - whole.sum())
    values, subset = values[whole], grid.subset[whole]
    subsets, counts = np.unique(subset, return_counts=True)
    if len(subsets) > 1 and counts.min() > 1:
        variances = np.stack([values[subset == one].var(axis=0, ddof=1) for one in subsets])
        unit, scope, n = "subset", "seeds on one subset, over subsets", len(subsets)
        leave = (variances.sum(axis=0) - variances) / max(n - 1, 1)
        together = variances.mean(axis=0)
    else:
        unit, scope = ("subset", SUBSETS_AND_SEEDS) if len(subsets) > 1 else ("seed", SEEDS_ONLY)
        n = len(values)
        together = values.var(axis=0, ddof=1) if n > 1 else np.zeros(values.shape[1])
        leave = np.array([np.delete(values, i, axis=0).var(axis=0, ddof=1) for i in range(n)])
    if n < LEAST_BLOCKS + 1:
        raise ComparisonError(f"{n} blocks have runs of all arms; needed: {LEAST_BLOCKS + 1}")
    for arm, variance in zip(weights, leave.min(axis=0), strict=True):
        if not variance > 0:
            raise ComparisonError(f"the runs of {arm!r} are all alike")
    weight = 50.0 * np.array(list(weights.values()))  # half of 100: SDs from variances
    without = np.log(leave) @ weight
    error = math.sqrt((n - 1) * without.var())
    estimate = float(np.log(together) @ weight)
    return replace(student(estimate, error, n - 1.0, n, unit), scope=scope, left_out=left_out)


# --- contrasts of runs ---------------------------------------------------------------------------


def contrast(
    grid: Grid,
    weights: Mapping[str, float],
    best_of: Sequence[Sequence[str]] = (),
    *,
    paired: bool = False,
    rng: np.random.Generator | None = None,
) -> Bounds:
    """Bounds of Σ weight · mean, less the best arm of each list (averaged over the lists).

    grid: from `grid_of`. rng: for several lists. Raises ComparisonError.
    """
    arms = list(dict.fromkeys([*weights, *(arm for some in best_of for arm in some)]))
    means = means_of(grid, arms, paired)
    weight = np.array([weights.get(arm, 0.0) for arm in arms])
    if best_of:
        lists = [[arms.index(arm) for arm in some] for some in best_of]
        bounds = best_of_bounds(means, weight, lists, rng)
    else:
        error, freedom = means.errors(weight[None])
        estimate = float(means.mean @ weight)
        bounds = student(estimate, float(error[0]), float(freedom[0]), means.n, means.unit)
    together = _correlation(grid, arms, weight, means)
    notes = () if best_of else _skewed(means, weight)
    return replace(
        bounds,
        n=means.n,
        unit=means.unit,
        scope=means.scope,
        left_out=means.left_out,
        correlation=together,
        notes=notes,
    )


def _skewed(means: Means, weight: Array) -> tuple[str, ...]:
    """A note where runs are so one-sided that Student's t errs: by Edgeworth's first term a bound
    that leaves out .025 is wrong in .025 + .084 · skewness (Hall 1992, ch. 2)."""
    skewness, error = means.skewness(weight)
    wrong = 0.025 + 0.0845 * abs(skewness)
    if wrong < 0.035 or abs(skewness) < 2.5 * error:
        return ()
    which = "lower" if skewness < 0 else "upper"
    return (f"the runs are skewed, so that the {which} bound is wrong in about {wrong:.3f}",)


def _correlation(grid: Grid, arms: Sequence[str], weight: Array, means: Means) -> float:
    """Within blocks (or seeds), of what is added and what is taken away. NaN where there are too
    few, or arms that do not vary."""
    values = means.blocks
    if values is None:
        values = grid.values[:, grid.columns(arms)]
        values = values[np.isfinite(values).all(axis=1)]
    taken = np.where(weight == 0, -1.0, np.minimum(weight, 0.0))  # weight 0: a candidate
    sides = values @ np.maximum(weight, 0.0), values @ taken
    if len(values) < LEAST_BLOCKS or min(side.std() for side in sides) < 1e-9:
        return math.nan
    return float(-np.corrcoef(*sides)[0, 1])


# --- the best of several -------------------------------------------------------------------------

SURELY_WORSE = 0.1  # of the share left out above goes to telling which candidates are worse
BIAS = 1.5  # bootstrapped bias falls short where candidates tie: drawn means lie further apart
DRAWS = {False: 999, True: 9_999}  # for the bias alone, and for bounds over several lists


def best_of_bounds(
    means: Means, weight: Array, lists: Sequence[Sequence[int]], rng: np.random.Generator | None
) -> Bounds:
    """Σ weight · mean less the truly best arm of each list, averaged over the lists.

    The true value is the smallest of the contrasts with one candidate chosen from each list (a
    selection). Hence the lower bound is the smallest of their lower bounds, each at the full level
    (intersection–union: the right selection's bound alone suffices). From above, every selection's
    contrast bounds the value; the smallest upper bound is taken, at a level that holds for all
    candidates together that are not surely worse than another: Bonferroni's for one list, for
    several the largest error of any selection, drawn with Student's tails.

    The estimate takes away the highest observed means less `BIAS` times their bootstrapped bias. In
    simulations of 2 to 27 candidates it is off by −0.7 (27 ties) to 0.5 standard errors of a mean;
    the plain maximum by −2.0 to 0, choosing on other blocks (cross-fitting) by 0 to 0.6 with a
    root-mean-square error a quarter larger.

    Sources: Hsu 1984, multiple comparisons with the best; Berger 1982, intersection–union tests;
    Chernozhukov, Lee and Rosen 2013, intersection bounds.
    """
    selections = _selections(means, weight, lists)
    values = selections @ means.mean
    error, freedom = means.errors(selections)
    plug_in = float(values.min())
    noise = means.draws(rng or np.random.default_rng(0), DRAWS[len(lists) > 1])
    rivals = [_rivals(means, some) for some in lists]

    @cache
    def drawn(near: tuple[tuple[int, ...], ...]) -> Array:
        erring = -(noise @ weight)
        for some in near:
            erring = erring + noise[:, some].max(axis=1) / len(lists)
        return erring

    @cache
    def low(tail: float) -> float:
        return float((values - t_quantile(tail, freedom) * error).min())

    @cache
    def high(tail: float) -> float:
        near = tuple(some.near(SURELY_WORSE * tail / len(lists)) for some in rivals)
        left = (1 - SURELY_WORSE) * tail
        if len(lists) == 1:
            kept = np.array([some in near[0] for some in lists[0]])
            reach = t_quantile(left / kept.sum(), freedom[kept]) * error[kept]
            return float((values[kept] + reach).min())
        return float(plug_in + np.quantile(drawn(near), 1 - left))

    estimate = plug_in + BIAS * _bias(means, lists, noise)
    return Bounds(estimate, low, high, means.n, means.unit, method="best")


@dataclass(frozen=True)
class AgainstBest:
    """Each arm's mean less the best of the others, with bounds that hold for all arms at once.

    arms: their names; estimate, low, high: [arm]. n, unit, scope: as of `Bounds`. An arm whose
    upper bound is 0 is surely not the best; one whose lower bound is 0 surely is.
    """

    arms: tuple[str, ...]
    estimate: Array
    low: Array
    high: Array
    n: int
    unit: str
    scope: str

    @property
    def may_be_best(self) -> NDArray[np.bool_]:
        return self.high > 0


def against_best(means: Means, confidence: float = statistics.CONFIDENCE) -> AgainstBest:
    """Multiple comparisons with the best: which arms may be the best, and by how much others fail.

    With the truly best arm as the control, all others lie below what was seen of them by at most
    Bonferroni's one-sided t; where that holds, all intervals hold. It needs no equal variances or
    correlations, unlike Dunnett's quantiles. Raises ComparisonError for fewer than two arms.
    Source: Hsu 1984, "Constrained simultaneous confidence intervals for multiple comparisons with
    the best"; Edwards and Hsu 1983 for any covariance.
    """
    count = len(means.arms)
    if count < 2:
        raise ComparisonError(f"{count} arm; needed: two or more, to find the best of")
    others = np.arange(count)[:, None] != np.arange(count)
    one, other = np.nonzero(others)
    weights = np.zeros((len(one), count))
    weights[np.arange(len(one)), one] = 1.0
    weights[np.arange(len(one)), other] = -1.0
    error, freedom = means.errors(weights)
    reach = (t_quantile((1 - confidence) / (count - 1), freedom) * error).reshape(count, -1)
    ahead = (weights @ means.mean).reshape(count, -1)  # [one, other]
    estimate = ahead.min(axis=1)
    upper = np.maximum((ahead + reach).min(axis=1), 0.0)
    rivals = (upper > 0)[other].reshape(count, -1)
    lower = np.where(rivals, ahead - reach, np.inf).min(axis=1)
    lower = np.minimum(np.where(rivals.any(axis=1), lower, 0.0), 0.0)
    return AgainstBest(means.arms, estimate, lower, upper, means.n, means.unit, means.scope)


def _selections(means: Means, weight: Array, lists: Sequence[Sequence[int]]) -> Array:
    """Weights of the contrast for each choice of one candidate from each list. [selection, arm]"""
    count = math.prod(len(some) for some in lists)
    if count > MOST_SELECTIONS:
        raise ComparisonError(
            f"{len(lists)} lists of candidates have {count:,} selections; "
            f"allowed: up to {MOST_SELECTIONS:,}"
        )
    rows = np.tile(weight, (count, 1))
    chosen = np.indices([len(some) for some in lists]).reshape(len(lists), count)
    for some, which in zip(lists, chosen, strict=True):
        rows[np.arange(count), np.asarray(some)[which]] -= 1 / len(lists)
    return rows


@dataclass(frozen=True)
class _Rivals:
    """The candidates of a list, by how far each of them is ahead of each other. ahead, error,
    freedom: [other, one]; freedom may be the same for all."""

    candidates: tuple[int, ...]
    ahead: Array
    error: Array
    freedom: float | Array

    def near(self, tail: float) -> tuple[int, ...]:
        """Those that no other surely beats, wrong about any of them in a share `tail`."""
        if len(self.candidates) < 2:
            return self.candidates
        reach = t_quantile(tail / (len(self.candidates) - 1), self.freedom) * self.error
        beaten = np.any(self.ahead > reach, axis=0).tolist()  # none is ahead of itself
        return tuple(one for one, lost in zip(self.candidates, beaten, strict=True) if not lost)


def _rivals(means: Means, candidates: Sequence[int]) -> _Rivals:
    chosen = list(candidates)
    ahead = means.mean[chosen][:, None] - means.mean[chosen]
    if means.blocks is not None:
        own = means.blocks[:, chosen]
        own = own - own.mean(axis=0)
        cross = own.T @ own / (means.n - 1) / means.n
        variance = np.diag(cross)[:, None] + np.diag(cross) - 2 * cross
        freedom: float | Array = means.n - 1.0
    else:
        parts = means.variance[chosen]
        variance = parts[:, None] + parts
        smaller = parts**2 / (means.counts[chosen] - 1)
        smaller = smaller[:, None] + smaller
        freedom = np.divide(
            variance**2, smaller, out=np.full_like(variance, 1e9), where=smaller > 0
        )
    return _Rivals(tuple(chosen), ahead, np.sqrt(np.maximum(variance, 0.0)), freedom)


def _bias(means: Means, lists: Sequence[Sequence[int]], noise: Array) -> float:
    """By how much the highest of the observed means lies too high, on average over the lists."""
    rise = 0.0
    for some in lists:
        own = means.mean[list(some)]
        rise += float(((own + noise[:, list(some)]).max(axis=1) - own.max()).mean())
    return rise / len(lists)


# --- adjustments and sets as units ---------------------------------------------------------------


def groups(first: Sequence[float], second: Sequence[float]) -> Bounds:
    """Difference of two groups' means with the adjustment as the unit (Welch). Raises
    ComparisonError for small groups: of 2 against 13 the interval covers .86 where .95 is said."""
    sizes = len(first), len(second)
    if min(sizes) < LEAST_GROUP:
        raise ComparisonError(
            f"groups of {sizes[0]} and {sizes[1]} adjustments; needed: {LEAST_GROUP} or more each"
        )
    a, b = (np.asarray(group, dtype=np.float64) for group in (first, second))
    parts = np.array([a.var(ddof=1) / a.size, b.var(ddof=1) / b.size])
    freedom = (
        float(parts.sum() ** 2 / (parts**2 / (np.array(sizes) - 1)).sum())
        if parts.any()
        else np.inf
    )
    return student(
        float(a.mean() - b.mean()), math.sqrt(parts.sum()), freedom, sum(sizes), "adjustment"
    )
