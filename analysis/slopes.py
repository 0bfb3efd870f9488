"""Slopes: how accuracy changes with a property of sets, others held. The set is the unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis import mixed
from analysis.comparisons import (
    LEAST_BLOCKS,
    SUBSETS_AND_SEEDS,
    Bounds,
    ComparisonError,
    Grid,
    student,
)
from analysis.hypothesis import Slope

Array = NDArray[np.float64]


def set_frame(slope: Slope, runs: pd.DataFrame, metric: str, by_run: bool = False) -> pd.DataFrame:
    """Properties and accuracy of a slope's arms: one row an arm (its mean) or, by_run, a run."""
    of_sets = runs[runs["arm"].isin(list(slope.covariates)) & runs[metric].notna()]
    if not by_run:
        of_sets = of_sets.groupby("arm", sort=False)[[metric]].mean().reset_index()
    columns = ["arm", *(["seed"] if by_run else []), metric]
    covariates = pd.DataFrame(slope.covariates).T
    return (
        of_sets[columns]
        .rename(columns={"arm": "set"})
        .join(covariates, on="set")
        .reset_index(drop=True)
    )


def bounds(declared: Slope, grid: Grid, rng: np.random.Generator) -> Bounds:
    """Least squares on the sets' means, with Student's t over sets.

    Where all sets ran on several subsets, the slope's own spread between subsets is added to its
    error, so that the bounds hold beyond them. Notes tell a lack of fit: where squares of the
    properties held, if not declared, explain the means better, and whether the slope depends on
    them. Raises ComparisonError.
    """
    arms = list(declared.covariates)
    columns = grid.columns(arms)
    by_subset = grid.by_subset[:, columns]
    whole = by_subset[np.isfinite(by_subset).all(axis=1)]
    crossed = len(whole) >= LEAST_BLOCKS
    means = whole.mean(axis=0) if crossed else np.nanmean(grid.values[:, columns], axis=0)
    held = [name for name in next(iter(declared.covariates.values())) if name != declared.term]
    values = {
        name: np.array([declared.covariates[arm][name] for arm in arms])
        for name in (declared.term, *held)
    }
    beside = [values[name] for name in held] + [values[name] ** 2 for name in declared.squares]
    fit = _fit(means, values[declared.term], beside)
    if not math.isfinite(fit.error):
        raise ComparisonError(
            f"{len(arms)} sets cannot tell {declared.term!r} from {', '.join(held)}"
        )
    error, freedom, scope = fit.error, float(fit.freedom), "sets"
    if crossed:
        error, freedom = _beyond_subsets(whole, fit)
        scope = f"sets, {SUBSETS_AND_SEEDS}"
    p = mixed.freedman_lane_p(
        means, values[declared.term], np.array(beside).T, rng, resamples=1_999
    )
    found = student(fit.estimate, error, freedom, len(arms), "set")
    more = [values[name] ** 2 for name in held if name not in declared.squares]
    notes = _lack_of_fit(means, values[declared.term], beside, more, fit)
    return replace(found, scope=scope, p_permutation=p, notes=notes)


def adjusted(slope: Slope, runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """What remains of a property and of accuracy when all that the slope holds is taken out of
    both: one row a set with the columns set, property and accuracy (points).

    A line through them has the slope of the model with all properties (Frisch, Waugh and Lovell).
    """
    frame = set_frame(slope, runs, metric)
    held = [name for name in next(iter(slope.covariates.values())) if name != slope.term]
    squares = frame[list(slope.squares)] ** 2
    known = [part.to_numpy(np.float64) for part in (frame[held], squares)]
    beside: Array = np.hstack([np.ones((len(frame), 1)), *known])

    def rest(values: Array) -> Array:
        found: Array = values - beside @ np.linalg.lstsq(beside, values)[0]
        return found

    of = {"property": slope.term, "accuracy": metric}
    values = {name: rest(frame[column].to_numpy(np.float64)) for name, column in of.items()}
    return pd.DataFrame({"set": frame["set"], **values})


@dataclass(frozen=True)
class _Fit:
    estimate: float
    error: float
    freedom: int
    along: Array  # [set]: estimate = along @ means
    squares: float  # sum of the residuals' squares


def _fit(means: Array, tested: Array, columns: Sequence[Array]) -> _Fit:
    """Least squares of the means on one regressor beside others and a constant. The error is NaN
    where the regressor follows from the others or nothing is left to judge it by."""
    others = np.column_stack([np.ones(len(means)), *columns])
    others = others / np.maximum(np.abs(others).max(axis=0), 1e-300)
    basis, size, _ = np.linalg.svd(others, full_matrices=False)
    basis = basis[:, size > 1e-10 * size[0]]
    rest = tested - basis @ (basis.T @ tested)
    freedom = len(means) - basis.shape[1] - 1
    if freedom < 1 or np.linalg.norm(rest) <= 1e-9 * max(1.0, float(np.linalg.norm(tested))):
        return _Fit(math.nan, math.nan, freedom, rest, math.nan)
    along = rest / (rest @ rest)
    estimate = float(along @ means)
    residual = means - basis @ (basis.T @ means) - estimate * rest
    squares = float(residual @ residual)
    return _Fit(estimate, math.sqrt(squares / freedom / (rest @ rest)), freedom, along, squares)


def _beyond_subsets(values: Array, fit: _Fit) -> tuple[float, float]:
    """Error and degrees of freedom with the slope's own spread between subsets. values: [subset,
    set]. What runs scatter is in the sets' residuals already and counted once."""
    subsets, sets = values.shape
    slopes = values @ fit.along
    apart = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    scatter = (apart**2).sum() / ((subsets - 1) * (sets - 1)) * (fit.along @ fit.along)
    own = max(0.0, float(slopes.var(ddof=1) - scatter)) / subsets
    parts = np.array([fit.error**2, own])
    freedoms = np.array([fit.freedom, subsets - 1])
    total = float(parts.sum())
    return math.sqrt(total), total**2 / float((parts**2 / freedoms).sum()) if total else math.inf


def _lack_of_fit(
    means: Array, tested: Array, columns: Sequence[Array], more: Sequence[Array], fit: _Fit
) -> tuple[str, ...]:
    """What squares of the other properties would change, in words."""
    if not more:
        return ()
    wider = _fit(means, tested, [*columns, *more])
    added = fit.freedom - wider.freedom
    if added < 1 or not math.isfinite(wider.error):
        return ()
    ratio = (fit.squares - wider.squares) / added / (wider.squares / wider.freedom)
    p = float(stats.f.sf(ratio, added, wider.freedom))
    interval = student(wider.estimate, wider.error, wider.freedom, len(means), "set").interval()
    ends = (f"{value:.2f}".replace("-", "−") for value in (interval.low, interval.high))
    said = f"lack of fit p = {p:.3g}; with squares {interval.estimate:.2f} [{', '.join(ends)}]"
    said = said.replace("squares -", "squares −")
    if interval.low <= 0 <= interval.high and abs(fit.estimate) > 1.96 * fit.error:
        said = "not robust to squares: " + said
    return (said,)
