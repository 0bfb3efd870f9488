"""Comparisons the slow way: loops over blocks and selections, one formula at a time."""

from itertools import product

import numpy as np
import pandas as pd
from scipy import stats


def block_interval(runs: pd.DataFrame, weights: dict[str, float], tail: float):
    """Σ weight · mean with Student's bounds over subsets that have runs of all arms."""
    contrasts = []
    for _, block in runs.groupby("subset_seed"):
        means = block.groupby("arm")["validation_accuracy"].mean()
        if set(weights) <= set(means.index):
            contrasts.append(sum(weight * means[arm] for arm, weight in weights.items()))
    mean, error = np.mean(contrasts), stats.sem(contrasts)
    reach = stats.t.ppf(1 - tail, len(contrasts) - 1) * error
    return mean, mean - reach, mean + reach, len(contrasts)


def welch_bounds(samples: dict[str, np.ndarray], weights: dict[str, float], tail: float):
    """Σ weight · mean of independent samples, with Welch's degrees of freedom."""
    parts = {a: w**2 * np.var(samples[a], ddof=1) / len(samples[a]) for a, w in weights.items()}
    total = sum(parts.values())
    freedom = total**2 / sum(part**2 / (len(samples[a]) - 1) for a, part in parts.items())
    mean = sum(w * np.mean(samples[a]) for a, w in weights.items())
    reach = stats.t.ppf(1 - tail, freedom) * np.sqrt(total)
    return mean, mean - reach, mean + reach


def lower_bound_over_the_best(samples, weights, lists, tail: float) -> float:
    """The smallest lower bound of a contrast with one candidate of each list."""
    bounds = []
    for chosen in product(*lists):
        full = dict(weights)
        for arm in chosen:
            full[arm] = full.get(arm, 0.0) - 1 / len(lists)
        bounds.append(welch_bounds(samples, full, tail)[1])
    return min(bounds)


def against_best(values: np.ndarray, confidence: float) -> list[tuple[float, float, float]]:
    """Each arm less the best of the others with Hsu's bounds, by Bonferroni. [block, arm]"""
    blocks, arms = values.shape
    tail = (1 - confidence) / (arms - 1)

    def difference(one: int, other: int) -> tuple[float, float]:
        apart = values[:, one] - values[:, other]
        return apart.mean(), stats.t.ppf(1 - tail, blocks - 1) * stats.sem(apart)

    others = {one: [arm for arm in range(arms) if arm != one] for one in range(arms)}
    upper = {
        one: max(0.0, min(sum(difference(one, other)) for other in others[one]))
        for one in range(arms)
    }
    bounds = []
    for one in range(arms):
        rivals = [difference(one, other) for other in others[one] if upper[other] > 0]
        lower = min((mean - reach for mean, reach in rivals), default=0.0)
        estimate = min(difference(one, other)[0] for other in others[one])
        bounds.append((estimate, min(0.0, lower), upper[one]))
    return bounds


def mediated_part(mediator: np.ndarray, outcome: np.ndarray, weights: np.ndarray) -> float:
    """Contrast of the mediator times the outcome's slope over it, by least squares with a dummy for
    each arm and for each side of each subset. [subset, arm]"""
    columns, m, y = [], [], []
    subsets, arms = mediator.shape
    for subset in range(subsets):
        for arm in range(arms):
            dummies = np.zeros(arms + 2 * subsets)
            dummies[arm] = dummies[arms + 2 * subset + (weights[arm] > 0)] = 1.0
            columns.append(np.append(dummies, mediator[subset, arm]))
            m.append(mediator[subset, arm])
            y.append(outcome[subset, arm])
    slope = np.linalg.lstsq(np.array(columns), np.array(y), rcond=None)[0][-1]
    return float(slope * (mediator.mean(0) @ weights))
