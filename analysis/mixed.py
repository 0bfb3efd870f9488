"""Mixed models, for questions like size × opposition of sets: many runs of many sets, where the
*set* is the unit.

`mixed_model` is statsmodels'. `freedman_lane_p` tests one coefficient on the sets' means, and
assumes only that the sets are exchangeable.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.statistics import CONFIDENCE, RESAMPLES

Array = NDArray[np.float64]


class MixedError(ValueError):
    """A model that cannot be fitted; one line saying why and what to do."""


@dataclass(frozen=True)
class MixedFit:
    """A fitted mixed model.

    fixed: one row a term, with estimate, error, its interval (low, high), freedom and p. random:
    the SD of each random effect and of the residual, in units of the response. n: runs; levels: how
    many values each random effect has. notes: what the optimiser complained of, such as a variance
    at 0.
    """

    fixed: pd.DataFrame
    random: dict[str, float]
    n: int
    levels: dict[str, int]
    notes: tuple[str, ...] = field(default=())


def mixed_model(
    frame: pd.DataFrame,
    formula: str,
    random: Sequence[str],
    *,
    unit: str = "",
    confidence: float = CONFIDENCE,
) -> MixedFit:
    """Fixed effects with random intercepts, by REML.

    frame: one row a run. formula: as "accuracy ~ size * opposition" (patsy's). random: columns
    whose values shift the response, crossed with one another: "set", "seed", "subset", "dataset".
    unit: the random effect that the fixed effects vary between (the first by default): estimates
    are judged by Student's t with its levels less the number of fixed effects as degrees of
    freedom. The usual normal reference is too sure with few sets.

    Rows without a response are left out. Raises MixedError for unknown columns, for random effects
    with one level.
    """
    import statsmodels.formula.api as smf

    unit = unit or (random[0] if random else "")
    named = set(re.findall(r"[A-Za-z_]\w*", formula)) & set(frame.columns)
    response = formula.split("~")[0].strip()
    _known(frame, [response, *random])
    if unit not in random:
        raise MixedError(f"unit {unit!r} is not a random effect; known: {', '.join(random)}")
    data = frame[sorted(named | set(random))].dropna().reset_index(drop=True)
    levels = {name: int(data[name].nunique()) for name in random}
    for name, count in levels.items():
        if count < 2 or count == len(data):
            raise MixedError(
                f"random effect {name!r} has {count} values in {len(data)} runs; needed: at least "
                "two, and fewer than runs"
            )
    # Crossed effects are variance components of one group that holds everything.
    parts = {name: f"0 + C({name})" for name in random}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = smf.mixedlm(
            formula, data, groups=np.zeros(len(data)), vc_formula=parts, re_formula="0"
        )
        fit = model.fit(reml=True)
    terms = list(model.exog_names)
    freedom = levels[unit] - len(terms)
    if freedom < 1:
        raise MixedError(
            f"{len(terms)} fixed effects need more than {len(terms)} values of {unit!r}, "
            f"got {levels[unit]}"
        )
    estimate = np.asarray(fit.fe_params, dtype=np.float64)
    error = np.asarray(fit.bse_fe, dtype=np.float64)
    reach = stats.t.ppf((1 + confidence) / 2, freedom) * error
    fixed = pd.DataFrame(
        {
            "term": terms,
            "estimate": estimate,
            "error": error,
            "estimate_low": estimate - reach,
            "estimate_high": estimate + reach,
            "freedom": freedom,
            "p_value": 2 * stats.t.sf(np.abs(estimate) / error, freedom),
        }
    )
    spreads = dict(zip(model.exog_vc.names, np.sqrt(np.maximum(fit.vcomp, 0)), strict=True))
    spreads = {name: float(spreads[name]) for name in random}
    notes = tuple(dict.fromkeys(" ".join(str(entry.message).split()) for entry in caught))
    return MixedFit(
        fixed, {**spreads, "residual": float(np.sqrt(fit.scale))}, len(data), levels, notes
    )


def freedman_lane_p(
    response: ArrayLike,
    tested: ArrayLike,
    nuisance: ArrayLike | None,
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
) -> float:
    """Two-sided p of one regressor beside others, by permuting residuals of the model without it.

    response, tested: [unit]; nuisance: [unit, regressor], to which a constant is added. Give the
    means of sets, not runs: counting runs as exchangeable would make any set's own effect look like
    the coefficient's. Statistic: the coefficient's t. NaN where the regressor follows from the
    others or no degree of freedom is left. Source: Freedman and Lane 1983; Winkler et al. 2014,
    "Permutation inference for the general linear model".
    """
    y, x = np.asarray(response, dtype=np.float64), np.asarray(tested, dtype=np.float64)
    n = y.size
    columns = [np.ones((n, 1))]
    if nuisance is not None and np.size(nuisance):
        columns.append(np.asarray(nuisance, dtype=np.float64).reshape(n, -1))
    others = np.concatenate(columns, axis=1)
    if x.shape != y.shape or not all(np.isfinite(part).all() for part in (y, x, others)):
        raise ValueError("response, tested and nuisance must be finite, one row a unit")
    basis, size, _ = np.linalg.svd(others, full_matrices=False)
    basis = basis[:, size > 1e-10 * size[0]]
    rest = x - basis @ (basis.T @ x)
    freedom = n - basis.shape[1] - 1
    if freedom < 1 or np.linalg.norm(rest) <= 1e-9 * max(1.0, float(np.linalg.norm(x))):
        return float("nan")
    direction = rest / np.linalg.norm(rest)
    fitted = basis @ (basis.T @ y)

    def statistic(values: Array) -> Array:  # [resample, unit] → |t|
        residual = values - (values @ basis) @ basis.T
        along = residual @ direction
        noise = np.maximum((residual**2).sum(1) - along**2, 1e-300)
        return np.abs(along) / np.sqrt(noise / freedom)

    observed = statistic(y[None])[0]
    permuted = rng.random((resamples, n)).argsort(axis=1)
    extreme = statistic(fitted + (y - fitted)[permuted]) >= observed * (1 - 1e-9)
    return float((1 + extreme.sum()) / (resamples + 1))


def _known(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    for name in columns:
        if name not in frame.columns:
            raise MixedError(
                f"unknown column {name!r}; known: {', '.join(map(str, frame.columns))}"
            )
