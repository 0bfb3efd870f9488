"""Agreement with the published tables: orders, groups, sets and methods, each by intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from statistics import NormalDist

import numpy as np
import pandas as pd

from aba_core.adjustments import GROUP_SETS, members
from aba_core.arms import METHODS, PUBLISHED_METHODS, VANILLA
from analysis import reference, statistics, tables
from analysis.statistics import CONFIDENCE, Interval
from analysis.studies.isolation import CONTRASTS, group_table

# What data/reference/published_benchmark.csv calls each experiment.
_BENCHMARKS = {"mnist-tiny": "mnist", "cifar10-tiny": "cifar", "20newsgroups-tiny": "news"}
_RATINGS = [*(rating for rating, _ in reference.RATINGS), "Bad"]
# The methods of the published benchmark, as there and as in our arms.
_TITLES = {"vanilla": VANILLA, **{kind: METHODS[kind].title for kind in PUBLISHED_METHODS}}
_DIFFERENCE = ("here", "here_low", "here_high", "there", "there_low", "there_high")


def verdict(low: float, high: float) -> str:
    """ "above" or "below" 0 where the whole interval is, "inconclusive" otherwise."""
    return "above" if low > 0 else "below" if high < 0 else "inconclusive"


def _agreement(here: str, there: str) -> str:
    if "inconclusive" in (here, there):
        return "inconclusive"
    return "same" if here == there else "opposite"


def _normal(estimate: float, error: float, confidence: float) -> tuple[float, float]:
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * error
    return estimate - half, estimate + half


def beside_published(table: pd.DataFrame, published: str) -> pd.DataFrame:
    """The 27 means here (with interval) and published, with both ratings.

    table: from `isolation_table`.
    """
    names = ["index", "low", "middle", "high", "group", "mean", "mean_low", "mean_high", "rating"]
    result = table[names].copy()
    other = reference.published_isolation_table(published)
    result["published_mean"] = other["mean"].to_numpy()
    result["published_rating"] = other["published_rating"].to_numpy()
    return result


def order_agreement_table(
    table: pd.DataFrame,
    published: Sequence[str],
    rng: np.random.Generator,
    *,
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """How far the 27 stand in the published order; the adjustment is the unit.

    table: from `isolation_table`. One row per experiment. Columns: published, n_adjustments, and
    with BCa intervals over adjustments spearman, kendall (tau-b), rating_share (equal ratings among
    the n_ratings adjustments rated in both, the baseline left out) and rating_kappa.

    Every experiment has the same resamples, Spearman's correlation first, so that equal generators
    give it the interval that it has in `isolation.published_order_table`.
    """
    rows = []
    for name in published:
        stream = deepcopy(rng)
        both = beside_published(table, name)
        known = both[np.isfinite(both["mean"]) & np.isfinite(both["published_mean"])]
        row: dict[str, object] = {"published": name, "n_adjustments": len(known)}
        for kind in ("spearman", "kendall"):
            correlation = statistics.correlation(
                known["mean"], known["published_mean"], stream, kind=kind, confidence=confidence
            )
            row |= tables.with_interval(kind, correlation)
        scale = {rating: number for number, rating in enumerate(_RATINGS)}
        rated = known[known["rating"].isin(scale) & known["published_rating"].isin(scale)]
        pair = [rated[c].map(scale).to_numpy(np.float64) for c in ("rating", "published_rating")]
        row["n_ratings"] = len(rated)
        for measure, statistic in (("rating_share", _share), ("rating_kappa", _kappa)):
            interval = Interval(math.nan, math.nan, math.nan, len(rated), confidence, "none")
            if len(rated) >= 5:
                interval = statistics.bootstrap_interval(
                    pair, statistic, stream, confidence=confidence, resamples=1_999, paired=True
                )
            row |= tables.with_interval(measure, interval)
        rows.append(row)
    return pd.DataFrame(rows)


def _share(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray((a == b).mean(axis))


def _kappa(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    """Cohen's kappa along an axis; 1 where both give one and the same label to all."""
    observed = (a == b).mean(axis)
    expected = sum((a == k).mean(axis) * (b == k).mean(axis) for k in range(len(_RATINGS)))
    rest = 1 - np.asarray(expected)
    return np.asarray(np.where(rest > 0, (observed - expected) / np.where(rest > 0, rest, 1), 1.0))


def contrast_agreement_table(
    table: pd.DataFrame,
    published: Sequence[str],
    rng: np.random.Generator,
    *,
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """The three group contrasts here and published, both with the adjustment as the unit.

    table: from `isolation_table`. One row per (contrast, experiment). Columns: contrast, published,
    here and there (points, with intervals), verdict_here, verdict_there (see `verdict`), agreement:
    "same" or "opposite" sign, "inconclusive" where either interval includes 0.
    """
    groups = group_table(table, rng, confidence=confidence).set_index("name")
    rows = []
    for name in published:
        other = group_table(reference.published_isolation_table(name), rng, confidence=confidence)
        other = other.set_index("name")
        for first, second in CONTRASTS:
            contrast = f"{first} − {second}"
            row: dict[str, object] = {"contrast": contrast, "published": name}
            for key, source in (("here", groups), ("there", other)):
                ends = ("estimate", "estimate_low", "estimate_high")
                numbers = [float(source[end][contrast]) for end in ends]
                row |= dict(zip((key, f"{key}_low", f"{key}_high"), numbers, strict=True))
                row[f"verdict_{key}"] = verdict(*numbers[1:])
            row["agreement"] = _agreement(str(row["verdict_here"]), str(row["verdict_there"]))
            rows.append(row)
    result = pd.DataFrame(rows)
    order = [f"{first} − {second}" for first, second in CONTRASTS]
    return result.sort_values(
        "contrast", key=lambda c: c.map(order.index), kind="stable"
    ).reset_index(drop=True)


def set_agreement_table(
    table: pd.DataFrame, published: Sequence[str], *, confidence: float = CONFIDENCE
) -> pd.DataFrame:
    """Set minus mean of its members here and published.

    table: from `hypothesis_table`. One row per (set, experiment). Columns: set, published, here
    (points, with interval over runs), there (as published, with an approximate interval: normal,
    five runs an arm, their deviation by `reference.published_sd`), verdict_here, verdict_there,
    agreement: of the signs, "inconclusive" where either interval includes 0.
    """
    sets = table.set_index("set")
    rows = []
    for name in published:
        printed = reference.published_hypothesis_table(name).set_index("set")["difference"]
        for group_set, number in zip(map(str, printed.index), printed.tolist(), strict=True):
            numbers = [float(sets[f"difference{e}"][group_set]) for e in ("", "_low", "_high")]
            runs = reference.PUBLISHED_RUNS * np.array([1, len(members(group_set))])
            error = reference.published_sd(name) * math.sqrt((1 / runs).sum())
            low, high = _normal(number, error, confidence)
            here, there = verdict(*numbers[1:]), verdict(low, high)
            row: dict[str, object] = {"set": group_set, "published": name}
            row |= dict(zip(("here", "here_low", "here_high"), numbers, strict=True))
            row |= {"there": number, "there_low": low, "there_high": high}
            row |= {"verdict_here": here, "verdict_there": there}
            row["agreement"] = _agreement(here, there)
            rows.append(row)
    result = pd.DataFrame(rows)
    order = list(GROUP_SETS)
    return result.sort_values("set", key=lambda c: c.map(order.index), kind="stable").reset_index(
        drop=True
    )


def benchmark_agreement_table(
    runs: pd.DataFrame,
    published: Sequence[str],
    rng: np.random.Generator,
    *,
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """Medians of the methods, and their means less Vanilla's, here and published (tiny subsets).

    runs: a benchmark study's. One row per (experiment, split, method). Columns: published, split
    ("validation", "test with batch norm", ...), method, n, here_median, here_sd, there_median,
    there_sd (percent), there_strength, here (mean less Vanilla's mean, points, with interval over
    runs), there (median less Vanilla's median, with an approximate interval: normal, from the
    published deviations of what are taken to be five runs), verdict_here, verdict_there, agreement:
    of the signs, "inconclusive" where either interval includes 0.
    """
    tables.require(runs, ("arm", "seed", "status", "batch_norm"), "runs")
    norm = "yes" if bool(runs["batch_norm"].iloc[0]) else "no"
    table = reference.published_table("benchmark")
    rows = []
    for name in published:
        chosen = table[
            (table["dataset"] == _BENCHMARKS[name])
            & (table["subset"] == "tiny")
            & (table["batch_norm"] == norm)
        ]
        for split, short in (("validation", "val"), ("test", "test")):
            printed = chosen[chosen["split"] == short].set_index("method")
            vanilla = tables.values_of(runs, VANILLA, f"{split}_accuracy")
            for method, title in _TITLES.items():
                values = tables.values_of(runs, title, f"{split}_accuracy")
                median, sd = (float(printed[column][method]) for column in ("median", "std"))
                row: dict[str, object] = {"published": name, "method": title}
                row["split"] = split + " with batch norm" * (norm == "yes")
                row |= {
                    "n": values.size,
                    "here_median": float(np.median(values)) if values.size else math.nan,
                    "here_sd": values.std(ddof=1) if values.size > 1 else math.nan,
                    "there_median": median,
                    "there_sd": sd,
                    "there_strength": float(printed["strength"][method]),
                }
                row |= dict.fromkeys(_DIFFERENCE, math.nan)
                row |= dict.fromkeys(("verdict_here", "verdict_there", "agreement"), "")
                if method != "vanilla":
                    here = statistics.difference_interval(
                        values, vanilla, rng, confidence=confidence
                    )
                    less = median - float(printed["median"]["vanilla"])
                    # The median of normal values varies √(π/2) times as much as their mean.
                    spread = math.hypot(sd, float(printed["std"]["vanilla"]))
                    error = spread * math.sqrt(math.pi / 2 / reference.PUBLISHED_RUNS)
                    low, high = _normal(less, error, confidence)
                    row |= tables.with_interval("here", here)
                    row |= {"there": less, "there_low": low, "there_high": high}
                    row["verdict_there"] = verdict(low, high)
                    if values.size:
                        row["verdict_here"] = verdict(here.low, here.high)
                        row["agreement"] = _agreement(
                            str(row["verdict_here"]), str(row["verdict_there"])
                        )
                rows.append(row)
    return pd.DataFrame(rows)
