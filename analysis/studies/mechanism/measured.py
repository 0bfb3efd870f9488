"""Tables and sentences of what was measured while models trained.

measured: one row a run and step, with arm, seed, step and the metrics of `aba_core.mechanism`, as
`results.measured` has them. control: the arm that the others are compared with, "" where there is
none. The run is the unit of every interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis import statistics
from analysis.mediation import mediation, verdict
from analysis.statistics import CONFIDENCE, Interval
from analysis.tables import MEASURES, interval_text, with_interval

RESAMPLES = 1_999

# Candidates for the path of an effect, at the last step: short name, and whether a logarithm is
# taken, as of those with a scale of their own and a long tail.
MEDIATORS = {
    "eigenvalue_clean": ("Eigenvalue (log)", True),
    "trace_clean": ("Trace (log)", True),
    "first_layer_clean": ("First layer (log)", True),
    "coherence_all": ("Coherence", False),
    "cosine_epsilon_delta": ("Cosine Eps., Del.", False),
}


def metric_table(
    measured: pd.DataFrame,
    rng: np.random.Generator,
    *,
    metrics: Sequence[str] = tuple(MEASURES),
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """Mean over runs of every metric, with its interval: one row per (metric, arm, step).

    Columns: metric, arm, step, n, mean (with interval). Intervals end where the metric does, as a
    cosine at 1. Runs that diverged have no numbers and are left out; n counts the others. Raises
    ValueError for an unknown metric.
    """
    unknown = [name for name in metrics if name not in measured.columns]
    if unknown:
        raise ValueError(f"unknown metric {unknown[0]!r}; known: {', '.join(MEASURES)}")
    groups = list(measured.groupby(["arm", "step"], sort=False))
    rows = []
    for metric, stream in zip(metrics, rng.spawn(len(metrics)), strict=True):
        for (arm, step), part in groups:
            values = _finite(part[metric])
            mean = statistics.mean_interval(
                values, stream, confidence=confidence, resamples=RESAMPLES
            )
            low, high = np.clip([mean.low, mean.high], *_range(metric))
            rows.append(
                {"metric": metric, "arm": arm, "step": step, "n": values.size}
                | {"mean": mean.estimate, "mean_low": low, "mean_high": high}
            )
    return pd.DataFrame(rows)


def _range(metric: str) -> tuple[float, float]:
    """The values that a metric can have."""
    kind = metric.partition("_")[0]
    if kind in ("eigenvalue", "trace"):
        return -math.inf, math.inf
    return (-1.0 if kind == "cosine" else 0.0), (
        1.0 if kind in ("cosine", "coherence", "violation") else math.inf
    )


def _finite(values: pd.Series) -> np.ndarray:
    array = values.to_numpy(dtype=np.float64)
    return array[np.isfinite(array)]


def last_table(table: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """The means after the last step, one row an arm, one column (with interval) a metric.

    table: from `metric_table`.
    """
    last = table[table["step"] == table["step"].max()]
    rows = []
    for arm in last["arm"].unique():
        of_arm = last[last["arm"] == arm].set_index("metric")
        row: dict[str, object] = {"arm": arm, "n": int(of_arm["n"].loc[list(metrics)].min())}
        for metric in metrics:
            for end in ("", "_low", "_high"):
                row[metric + end] = of_arm[f"mean{end}"][metric]
        rows.append(row)
    return pd.DataFrame(rows)


def difference_table(
    measured: pd.DataFrame,
    rng: np.random.Generator,
    *,
    control: str,
    metrics: Sequence[str] = tuple(MEASURES),
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """Every other arm less the control after the last step: one row per (metric, arm).

    Columns: metric, arm, difference (with interval, not corrected for their number), and `side`:
    "above", "below", or "inconclusive" where the interval contains 0. Empty without the control.
    """
    last = measured[measured["step"] == measured["step"].max()]
    rows = []
    for metric in metrics:
        base = _finite(last.loc[last["arm"] == control, metric])
        for arm in _others(last, control):
            values = _finite(last.loc[last["arm"] == arm, metric])
            difference = statistics.difference_interval(
                values, base, rng, confidence=confidence, resamples=RESAMPLES
            )
            side = "inconclusive"
            if difference.excludes():
                side = "above" if difference.estimate > 0 else "below"
            rows.append(
                {"metric": metric, "arm": arm, "side": side}
                | with_interval("difference", difference)
            )
    return pd.DataFrame(rows)


def _others(frame: pd.DataFrame, control: str) -> list[str]:
    """The arms but the control, or none where it is not among them."""
    arms = [str(arm) for arm in frame["arm"].unique()]
    return [arm for arm in arms if arm != control] if control in arms else []


def mediation_table(
    runs: pd.DataFrame,
    measured: pd.DataFrame,
    rng: np.random.Generator,
    *,
    control: str,
    metric: str = "validation_accuracy",
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """Does an arm's effect on accuracy against the control go through a mediator?

    One row per (mediator, arm). Columns: mediator, arm, n (runs of both arms), a (SD), b (points
    per SD), indirect (points, with interval), total (points, with interval), p, p_holm (Holm over
    the whole table), verdict. Runs without a number, or with a mediator not above 0 where it enters
    as a logarithm, are left out. Empty without the control. See `mediation.mediation`.
    """
    last = measured[measured["step"] == measured["step"].max()]
    merged = runs[["arm", "seed", metric]].merge(last, on=["arm", "seed"], suffixes=("", "_probe"))
    arms = _others(runs, control)
    # The same draws for every mediator of an arm, so that the arm's effect has one interval.
    seeds = dict(zip(arms, rng.integers(2**63, size=len(arms)).tolist(), strict=True))
    tested = {}
    for mediator, (label, logarithm) in MEDIATORS.items():
        for arm in arms:
            pairs = []
            for name in (arm, control):
                part = merged.loc[merged["arm"] == name, [mediator, metric]].to_numpy(np.float64)
                part = part[np.isfinite(part).all(1)]
                if logarithm:
                    part = part[part[:, 0] > 0]
                    part[:, 0] = np.log10(part[:, 0])
                pairs.append(part)
            tested[label, arm] = mediation(
                (pairs[0][:, 0], pairs[1][:, 0]),
                (pairs[0][:, 1], pairs[1][:, 1]),
                np.random.default_rng(seeds[arm]),
                confidence=confidence,
            )
    corrected = statistics.holm([effect.p for effect in tested.values()])
    return pd.DataFrame(
        {"mediator": label, "arm": arm, "n": effect.indirect.n, "a": effect.a, "b": effect.b}
        | with_interval("indirect", effect.indirect)
        | with_interval("total", effect.total)
        | {"p": effect.p, "p_holm": float(p), "verdict": verdict(effect, float(p))}
        for ((label, arm), effect), p in zip(tested.items(), corrected, strict=True)
    )


# --- sentences -----------------------------------------------------------------------------------


def sentences(
    table: pd.DataFrame, differences: pd.DataFrame, mediated: pd.DataFrame, control: str
) -> list[str]:
    """What `metric_table`, `difference_table` and `mediation_table` say, in words."""
    first, last = table["step"].min(), table["step"].max()

    def mean(metric: str, arm: str, step: float) -> Interval:
        row = table[(table["metric"] == metric) & (table["arm"] == arm) & (table["step"] == step)]
        one = row.iloc[0]
        return Interval(one["mean"], one["mean_low"], one["mean_high"], one["n"], math.nan, "")

    def text(metric: str, arm: str, step: float = last, scale: float = 1, digits: int = 2) -> str:
        interval = mean(metric, arm, step)
        return interval_text(
            scale * interval.estimate, scale * interval.low, scale * interval.high, digits
        )

    arms = [str(arm) for arm in table["arm"].unique()]
    shown = control if control in arms else arms[0]
    opposed = [arm for arm in arms if mean("cosine_epsilon_delta", arm, last).high < 0]
    direction = (
        f"They pull in opposite directions under {', '.join(opposed)}."
        if opposed
        else "Under no arm does the interval lie below 0, where they would pull in opposite "
        "directions."
    )
    values = {arm: mean("cosine_epsilon_delta", arm, last).estimate for arm in arms}
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    lines = [
        "Opposed gradients: the mean gradients of Epsilon- and Delta-adjusted samples have cosine "
        f"{text('cosine_epsilon_delta', shown, first)} before training; after it from "
        f"{text('cosine_epsilon_delta', low)} ({low}) to {text('cosine_epsilon_delta', high)} "
        f"({high}). {direction} {_sides(differences, 'cosine_epsilon_delta', control)}".rstrip()
    ]
    rates = {
        arm: [text(f"violation_{group}", arm, last, 100, 1) for group in ("epsilon", "delta")]
        for arm in dict.fromkeys((shown, arms[-1]))
    }
    lines.append(
        "Nominal groups after training: "
        + "; ".join(
            f"under {arm} {fell} % of Epsilon adjustments lowered the loss and {rose} % of Delta "
            "adjustments raised it"
            for arm, (fell, rose) in rates.items()
        )
        + "."
    )
    error = {arm: mean("linearity_error", arm, last).estimate for arm in arms}
    low, high = min(error, key=error.__getitem__), max(error, key=error.__getitem__)
    lines.append(
        "First-order predictions of the change of loss are off by a median share of "
        f"{text('linearity_error', shown, first)} before training; after it by "
        f"{text('linearity_error', low)} ({low}) to {text('linearity_error', high)} ({high})."
    )
    lines.append(
        f"Curvature of the clean loss after training: largest eigenvalue "
        f"{text('eigenvalue_clean', shown)} under {shown}. "
        + _sides(differences, "eigenvalue_clean", control)
    )
    return lines + mediation_sentences(mediated)


def _sides(differences: pd.DataFrame, metric: str, control: str) -> str:
    """Such as: Against Vanilla: above for Delta; inconclusive for All."""
    if differences.empty:
        return ""
    sides = differences[differences["metric"] == metric].set_index("arm")["side"]
    parts = [
        f"{side} for {', '.join(sides.index[sides == side])}"
        for side in ("above", "below", "inconclusive")
        if (sides == side).any()
    ]
    return f"Against {control}: {'; '.join(parts)}."


def mediation_sentences(mediated: pd.DataFrame) -> list[str]:
    """The verdicts of a `mediation_table` in words, with the caveat that belongs to them."""
    if mediated.empty:
        return ["Mediation is not tested: it needs an arm without augmentation and others."]
    counts = mediated["verdict"].value_counts()
    paths = [
        f"{row['mediator']} under {row['arm']}: {name}, "
        f"{interval_text(row['indirect'], row['indirect_low'], row['indirect_high'])} of "
        f"{interval_text(row['total'], row['total_low'], row['total_high'])} points "
        f"(p = {row['p_holm']:.3f} by Holm)."
        for name in ("consistent with mediation", "opposed")
        for row in mediated[mediated["verdict"] == name].to_dict("records")
    ]
    rest = [f"{counts[name]} {name}" for name in counts.index]
    return [
        *paths,
        f"Mediation, {len(mediated)} pairs of arm and mediator: {', '.join(rest)}. Mediator and "
        "accuracy are not randomised: even a consistent pair may share a cause.",
    ]
