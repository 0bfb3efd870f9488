"""How much runs of one arm differ, source of randomness by source of randomness.

A run draws its initialisation, the order of its samples and what its augmentation does; each can be
left free alone while the others are held. Measured on the validation samples: the spread of
accuracy and cross-entropy, and how pairs of runs differ in what they predict. Protocol and
definitions: Summers and Dinneen, "Nondeterminism and instability in neural network optimization"
(2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from analysis import statistics
from analysis.statistics import CONFIDENCE, Interval
from analysis.tables import interval_text

Array = NDArray[np.float64]

PAIRS = ("disagreement", "logit_correlation", "ensemble_gain")
METRICS = ("accuracy_sd", "loss_sd", *PAIRS)
# Where more is less variable: the reduction is then of 1 − value.
LIKENESS = ("logit_correlation",)


class VariabilityError(ValueError):
    """Runs whose variability cannot be measured; one line saying why and what to do."""


# --- pairs of runs -------------------------------------------------------------------------------


def disagreement(logits: ArrayLike) -> Array:
    """Share of samples (%) on which two runs predict another class. [run, sample, class] → [run,
    run]"""
    array = _checked(logits)
    chosen = array.argmax(2)
    equal = np.zeros((len(array), len(array)))
    for name in range(array.shape[2]):
        member = (chosen == name).astype(np.float64)
        equal += member @ member.T
    return 100 * (1 - equal / array.shape[1])


def logit_correlation(logits: ArrayLike) -> Array:
    """Spearman's ρ of two runs' flattened logits. [run, sample, class] → [run, run]; NaN where all
    logits of a run are equal."""
    array = _checked(logits)
    ranks = stats.rankdata(array.reshape(len(array), -1), axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    length = np.linalg.norm(ranks, axis=1)
    ranks /= np.where(length > 0, length, np.nan)[:, None]
    return np.clip(ranks @ ranks.T, -1, 1)


def ensemble_gain(logits: ArrayLike, labels: ArrayLike) -> Array:
    """What two runs gain by averaging their class probabilities, in points of accuracy.

    f((Si + Sj)/2) − (f(Si) + f(Sj))/2, where S are softmax probabilities and f is the accuracy (%).
    logits: [run, sample, class]; labels: [sample] → [run, run].
    """
    array, truth = _checked(logits), np.asarray(labels)
    if truth.shape != array.shape[1:2]:
        raise ValueError(f"{array.shape[1]} samples need as many labels, got shape {truth.shape}")
    shares = special.softmax(array, axis=2)
    single = 100 * (shares.argmax(2) == truth).mean(1)
    gain = np.zeros((len(array), len(array)))
    for first in range(len(array)):  # all pairs at once would hold runs² × samples × classes
        together = shares[first] + shares[first + 1 :]
        accuracy = 100 * (together.argmax(2) == truth).mean(1)
        gain[first, first + 1 :] = accuracy - (single[first] + single[first + 1 :]) / 2
    return gain + gain.T


def over_pairs(matrix: ArrayLike, *, confidence: float = CONFIDENCE) -> Interval:
    """Mean over pairs of different runs, with the jackknife's interval over *runs*. [run, run]

    Pairs share runs, so they are not the unit: each run is left out with all its pairs (Arvesen
    1969), and Student's t has runs − 1 degrees of freedom. Measured coverage of nominal 95 % where
    some runs are worse than others, 5, 10, 20 runs: .923, .948, .942 (2000 samples, standard error
    .005). No interval below three runs.
    """
    array = np.asarray(matrix, dtype=np.float64)
    n = len(array)
    if n < 2:
        return Interval(np.nan, np.nan, np.nan, n, confidence, "none")
    rows = (array.sum(1) + array.sum(0) - 2 * np.diag(array)) / 2
    pairs = n * (n - 1) / 2
    estimate = float(rows.sum() / 2 / pairs)
    if n == 2 or not np.isfinite(estimate):
        return Interval(estimate, np.nan, np.nan, n, confidence, "none")
    without = (rows.sum() / 2 - rows) / ((n - 1) * (n - 2) / 2)
    reach = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * _jackknife_error(without)
    method = "constant" if reach <= 1e-12 * max(1.0, abs(estimate)) else "jackknife"
    return Interval(estimate, estimate - reach, estimate + reach, n, confidence, method)


def _jackknife_error(without: Array) -> float:
    """Standard error from the values with each unit left out. [unit]"""
    n = len(without)
    return float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))


def _checked(logits: ArrayLike) -> Array:
    array = np.asarray(logits, dtype=np.float64)
    if array.ndim != 3 or not np.isfinite(array).all():
        raise ValueError(f"logits must be finite, [run, sample, class]; got shape {array.shape}")
    return array


# --- the runs of one arm -------------------------------------------------------------------------


@dataclass(frozen=True)
class Runs:
    """Finished runs of one arm. accuracy (%), loss (nats): [run]; logits: [run, sample, class];
    labels: [sample]."""

    accuracy: Array
    loss: Array
    logits: Array
    labels: NDArray[np.int64]

    @cached_property
    def pairs(self) -> dict[str, Array]:
        """The [run, run] metrics by name."""
        if not len(self.logits):
            return dict.fromkeys(PAIRS, np.empty((0, 0)))
        return {
            "disagreement": disagreement(self.logits),
            "logit_correlation": logit_correlation(self.logits),
            "ensemble_gain": ensemble_gain(self.logits, self.labels),
        }

    def values(self, chosen: NDArray[np.int64] | None = None) -> Array:
        """The five of METRICS for some of the runs (all). [metric]"""
        rows = np.arange(len(self.accuracy)) if chosen is None else chosen
        upper = np.triu_indices(len(rows), 1)
        spreads = [values[rows].std(ddof=1) for values in (self.accuracy, self.loss)]
        return np.array(
            [*spreads, *(m[np.ix_(rows, rows)][upper].mean() for m in self.pairs.values())]
        )


def runs_of(frame: pd.DataFrame, metric: str = "validation_accuracy") -> Runs:
    """The finished runs of one arm, with their logits on the validation samples.

    frame: rows of a study with `keep_logits`. Raises VariabilityError where logits are missing or
    runs were judged on different samples.
    """
    if not {"validation_logits", "validation_labels", "logit_classes"} <= set(frame.columns):
        raise VariabilityError(
            "these runs kept no logits; needed: keep_logits: true, as in aba run variability"
        )
    done = frame[frame["status"] == "finished"]
    if done["validation_labels"].isna().any() or done["validation_labels"].nunique() > 1:
        raise VariabilityError("runs were judged on different samples, or without logits")
    logits = [
        np.frombuffer(row, "<f2").reshape(-1, int(classes))
        for row, classes in zip(done["validation_logits"], done["logit_classes"], strict=True)
    ]
    labels = np.frombuffer(done["validation_labels"].iloc[0] if len(done) else b"", "<i2")
    return Runs(
        done[metric].to_numpy(np.float64),
        done[metric.replace("accuracy", "loss")].to_numpy(np.float64),
        np.array(logits, dtype=np.float64).reshape(len(done), len(labels), -1)
        if logits
        else np.empty((0, 0, 0)),
        np.asarray(labels, dtype=np.int64),
    )


# --- tables --------------------------------------------------------------------------------------


def variability_table(
    frame: pd.DataFrame,
    rng: np.random.Generator,
    *,
    metric: str = "validation_accuracy",
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """The protocol's table: one row an arm, named "method: source".

    Columns: method, source, n, n_diverged, and with intervals accuracy_sd (points), loss_sd (nats;
    both by `statistics.sd_interval`'s bootstrap, with their standard error in …_error),
    disagreement (%), logit_correlation, ensemble_gain (points; by `over_pairs`), and ratio, the
    accuracy's SD over that of the method's source "all" (F distribution of normal runs).
    """
    rows = []
    arms = [str(arm) for arm in frame["arm"].unique()]
    for arm, stream in zip(arms, rng.spawn(len(arms)), strict=True):
        part = frame[frame["arm"] == arm]
        runs = runs_of(part, metric)
        method, _, source = arm.partition(": ")
        row: dict[str, object] = {"method": method, "source": source, "n": len(runs.accuracy)}
        row["n_diverged"] = int((part["status"] != "finished").sum())
        for name, values in (("accuracy_sd", runs.accuracy), ("loss_sd", runs.loss)):
            found = statistics.sd_interval(
                values, stream, confidence=confidence, method="bootstrap"
            )
            row |= _triple(name, found)
            row[f"{name}_error"] = statistics.sd_error(values, stream)
        for name, matrix in runs.pairs.items():
            row |= _triple(name, over_pairs(matrix, confidence=confidence))
        rows.append(row)
    table = pd.DataFrame(rows)
    base = table[table["source"] == "all"].set_index("method")
    ratios = [_ratio(row, base, confidence) for row in table.to_dict("records")]
    for place, name in enumerate(("ratio", "ratio_low", "ratio_high")):
        table[name] = [ratio[place] for ratio in ratios]
    return table


def _triple(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _ratio(row: dict, base: pd.DataFrame, confidence: float) -> tuple[float, float, float]:
    """SD of accuracy over that of source "all", with the interval of the ratio of variances."""
    unknown = math.nan, math.nan, math.nan
    if row["method"] not in base.index or row["source"] == "all":
        return unknown
    other = base.loc[row["method"]]
    if not min(row["n"], other["n"]) > 1 or not other["accuracy_sd"] > 0:
        return unknown
    ratio = row["accuracy_sd"] / other["accuracy_sd"]
    tails = stats.f.ppf(
        [(1 + confidence) / 2, (1 - confidence) / 2], row["n"] - 1, int(other["n"]) - 1
    )
    return ratio, float(ratio / np.sqrt(tails[0])), float(ratio / np.sqrt(tails[1]))


def reduction(values: ArrayLike, base: ArrayLike) -> float:
    """Variability reduction: the mean over the five metrics of 1 − v/v_base, of 1 − ρ for the
    correlation.

    values, base: [metric] as METRICS. NaN where a metric of the base is not above 0; near 0 the
    result is unstable.
    """
    own, other = (np.array(x, dtype=np.float64) for x in (values, base))
    for name in LIKENESS:
        place = METRICS.index(name)
        own[place], other[place] = 1 - own[place], 1 - other[place]
    if own.shape != (len(METRICS),) or other.shape != own.shape or not (other > 0).all():
        return math.nan
    return float(np.mean(1 - own / other))


def reduction_table(
    frame: pd.DataFrame,
    *,
    base: str = "Vanilla",
    metric: str = "validation_accuracy",
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """How much less the runs of each method vary than those of `base`, source by source.

    Columns: method, source, n, reduction (%) with the jackknife's interval over the runs of both
    arms.
    """
    rows = []
    arms = [str(arm) for arm in frame["arm"].unique()]
    for arm in arms:
        method, _, source = arm.partition(": ")
        other = f"{base}: {source}"
        if method == base or other not in arms:
            continue
        own, bases = (runs_of(frame[frame["arm"] == name], metric) for name in (arm, other))
        row: dict[str, object] = {"method": method, "source": source, "n": len(own.accuracy)}
        rows.append(row | _triple("reduction", _reduction_interval(own, bases, confidence)))
    return pd.DataFrame(rows)


def _reduction_interval(own: Runs, base: Runs, confidence: float) -> Interval:
    n, m = len(own.accuracy), len(base.accuracy)
    if min(n, m) < 2:
        return Interval(np.nan, np.nan, np.nan, n + m, confidence, "none")
    here, there = own.values(), base.values()
    estimate = 100 * reduction(here, there)
    if min(n, m) < 4 or not np.isfinite(estimate):
        return Interval(estimate, np.nan, np.nan, n + m, confidence, "none")

    def without(runs: Runs, value: Callable[[Array], float]) -> Array:
        rest = [np.delete(np.arange(len(runs.accuracy)), i) for i in range(len(runs.accuracy))]
        return np.array([value(runs.values(chosen)) for chosen in rest])

    errors = (
        _jackknife_error(without(own, lambda v: 100 * reduction(v, there))),
        _jackknife_error(without(base, lambda v: 100 * reduction(here, v))),
    )
    reach = float(stats.t.ppf((1 + confidence) / 2, min(n, m) - 1)) * math.hypot(*errors)
    return Interval(estimate, estimate - reach, estimate + reach, n + m, confidence, "jackknife")


def variability_sentences(table: pd.DataFrame) -> list[str]:
    """What the spreads say, in words: all sources, each alone, and one bit."""
    sentences = []
    for method, part in table.groupby("method", sort=False):
        rows = {row["source"]: row for row in part.to_dict("records")}
        every, bit = rows.get("all"), rows.get("one bit")
        if every is None or not np.isfinite(every["accuracy_sd"]):
            continue
        alone = [s for s in rows if s not in ("all", "subset", "all and subset", "one bit")]
        parts = [f"{source} {_spread(rows[source])}" for source in alone]
        sentences.append(
            f"{method}: runs that differ in every draw have an SD of {_spread(every)} points of "
            f"accuracy; in one alone: {', '.join(parts)}."
        )
        if bit is not None:
            sentences.append(
                f"{method}: runs that differ in the last bit of one weight have an SD of "
                f"{_spread(bit)} points, and disagree on {bit['disagreement']:.2g} % of the "
                f"samples (all draws: {every['disagreement']:.2g} %)."
            )
    return sentences


def _spread(row: dict) -> str:
    if row["accuracy_sd"] == 0:
        return "0"
    return interval_text(row["accuracy_sd"], row["accuracy_sd_low"], row["accuracy_sd_high"], 2)
