"""Tables: what every study's tables share. Runs to samples, samples to numbers with intervals, and
data frames to text, LaTeX, Markdown and CSV.

A runs frame has one row per (arm, seed) at the final step, with the columns arm, seed, status
("finished" or "diverged") and the metrics. Accuracies are in percent, differences in points. A
number NAME with an interval has the columns NAME, NAME_low and NAME_high; `present` joins them.
Diverged runs stay in the means with the accuracy they have, and are counted in n_diverged; runs
without an accuracy (NaN) cannot enter a mean and are counted in n_missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from aba_core.adjustments import ADJUSTMENTS
from aba_core.quantities import metric_label, metrics_in, quantity_of
from analysis import statistics
from analysis.statistics import Interval


def adjustment_table() -> pd.DataFrame:
    """The 27 adjustments in the published order, with their offset form.

    Columns: index, low, middle, high (each −1, 0 or 1), group, offset (= middle), low_offset
    (= low − middle), high_offset (= high − middle).
    """
    rows = []
    for one in ADJUSTMENTS:
        row: dict[str, object] = {
            "index": one.index,
            "low": one.low,
            "middle": one.middle,
            "high": one.high,
            "group": one.group.value,
        }
        row |= zip(("offset", "low_offset", "high_offset"), one.offset_form, strict=True)
        rows.append(row)
    return pd.DataFrame(rows)


# --- runs to samples -----------------------------------------------------------------------------


def require(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """Raise ValueError where columns are absent, naming them and those there are."""
    absent = [name for name in columns if name not in frame.columns]
    if absent:
        raise ValueError(
            f"{what} lack the columns {', '.join(absent)}; they have {', '.join(frame.columns)}"
        )


def check_runs(runs: pd.DataFrame, metric: str, what: str = "runs") -> None:
    """Raise ValueError unless runs are of one experiment, with one row per (arm, seed)."""
    require(runs, ("arm", "seed", "status", metric), what)
    for column in ("dataset", "subset", "model", "batch_norm", "target"):
        if column in runs.columns and runs[column].nunique() > 1:
            values = ", ".join(str(value) for value in runs[column].dropna().unique())
            raise ValueError(f"{what} mix several values of {column} ({values}); choose one first")
    repeated = runs[runs.duplicated(["arm", "seed"])]
    if len(repeated):
        arm, seed = repeated.iloc[0][["arm", "seed"]]
        raise ValueError(
            f"{what} have several rows for arm {arm!r}, seed {seed}; keep the last step"
        )


def values_of(runs: pd.DataFrame, arm: str, metric: str) -> np.ndarray:
    """The finite values of one arm's runs. Returns [run]."""
    values = runs.loc[runs["arm"] == arm, metric].to_numpy(dtype=np.float64)
    return values[np.isfinite(values)]


def units(values: pd.Series, subsets: pd.Series | None) -> np.ndarray:
    """What an interval of a mean rests on: the finite values, or, where seeds share one of several
    training subsets, the mean of each subset, since its seeds are no independent draws.

    values: of runs. subsets: the training subset of each, with values' index; None or one subset
    for all leaves the runs, and the interval is then over seeds. Returns [unit].
    """
    finite = values[np.isfinite(values.astype(np.float64))]
    shared = None if subsets is None else subsets.loc[finite.index]
    if shared is not None and shared.nunique() > 1 and shared.duplicated().any():
        finite = finite.groupby(shared, sort=False).mean()
    return finite.to_numpy(dtype=np.float64)


def counts(runs: pd.DataFrame, metric: str) -> dict[str, int]:
    """Columns n, n_diverged and n_missing of some runs."""
    finite = np.isfinite(runs[metric].to_numpy(dtype=np.float64))
    return {
        "n": int(finite.sum()),
        "n_diverged": int((runs["status"] == "diverged").sum()),
        "n_missing": int((~finite).sum()),
    }


def with_interval(name: str, interval: Interval) -> dict[str, float]:
    """Columns NAME, NAME_low and NAME_high."""
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def mean_interval(
    values: np.ndarray, metric: str, rng: np.random.Generator, confidence: float
) -> Interval:
    """Interval of the mean, within what the metric can be: an accuracy from 0 to 100."""
    interval = statistics.mean_interval(values, rng, confidence=confidence)
    quantity = quantity_of(metric)
    if not math.isfinite(interval.low):
        return interval
    low, high = max(interval.low, quantity.low), min(interval.high, quantity.high)
    return replace(interval, low=low, high=high)


# --- words ---------------------------------------------------------------------------------------


def _minus(text: str) -> str:
    return text.replace("-", "−")


def interval_text(estimate: float, low: float, high: float, digits: int = 1) -> str:
    """Text such as 55.3 [53.1, 57.2]; without an interval 55.3, without a number "–"."""
    if not math.isfinite(estimate):
        return "–"
    text = f"{_rounded(estimate, digits)}"
    if math.isfinite(low) and math.isfinite(high):
        text += f" [{_rounded(low, digits)}, {_rounded(high, digits)}]"
    return text


def _rounded(value: float, digits: int) -> str:
    return _minus(f"{round(value, digits) + 0.0:.{digits}f}")


def comparison_sentence(
    first: str,
    second: str,
    estimate: float,
    low: float,
    high: float,
    digits: int = 1,
    unit: str = " points",
) -> str:
    """Such as: Epsilon is above Neutral by 3.1 points [2.0, 4.2]; inconclusive where 0 is inside.

    One more digit where an end would be rounded to 0, since the sentence says where 0 lies.
    """
    if not math.isfinite(estimate):
        return f"{first} cannot be compared with {second}: one of them has no run with a number"
    ends = [end for end in (low, high) if math.isfinite(end)]
    digits += _rounds_to_0(ends, digits)
    numbers = interval_text(estimate, low, high, digits).replace(" [", f"{unit} [")
    open_ = f"{first} is not shown to differ from {second}"
    if len(ends) < 2:
        return f"{open_} (inconclusive without an interval): {numbers}{unit}"
    if low <= 0 <= high:
        return f"{open_} (inconclusive): {numbers}"
    near, far = sorted((abs(low), abs(high)))
    numbers = interval_text(abs(estimate), near, far, digits).replace(" [", f"{unit} [")
    return f"{first} is {'above' if estimate > 0 else 'below'} {second} by {numbers}"


def _rounds_to_0(ends: Sequence[float], digits: int) -> bool:
    return any(math.isfinite(end) and end != 0 == round(end, digits) for end in ends)


def listed(names: Sequence[str]) -> str:
    """Such as: A, B and C."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


# --- presentation --------------------------------------------------------------------------------

# What `aba_core.mechanism` measures: column and label.
MEASURES = {
    "cosine_epsilon_delta": "Cosine: Epsilon, Delta",
    "cosine_epsilon_neutral": "Cosine: Epsilon, Neutral",
    "cosine_delta_neutral": "Cosine: Delta, Neutral",
    "cosine_epsilon_clean": "Cosine: Epsilon, clean",
    "cosine_delta_clean": "Cosine: Delta, clean",
    "cosine_neutral_clean": "Cosine: Neutral, clean",
    "coherence_epsilon": "Coherence: Epsilon",
    "coherence_delta": "Coherence: Delta",
    "coherence_neutral": "Coherence: Neutral",
    "coherence_all": "Coherence: all three",
    "violation_epsilon": "Epsilon, loss fell (share)",
    "violation_delta": "Delta, loss rose (share)",
    "linearity_error": "Linearity error (ratio)",
    "eigenvalue_clean": "Largest eigenvalue, clean",
    "eigenvalue_augmented": "Largest eigenvalue, augmented",
    "trace_clean": "Trace, clean",
    "trace_augmented": "Trace, augmented",
    "first_layer_clean": "First-layer gradient, clean",
    "first_layer_epsilon": "First-layer gradient, Epsilon",
    "first_layer_delta": "First-layer gradient, Delta",
    "first_layer_neutral": "First-layer gradient, Neutral",
    "loss_clean": "Loss on the probe, clean (nats)",
    "loss_augmented": "Loss on the probe, augmented (nats)",
}
LABELS = {
    **MEASURES,
    "n": "Runs",
    "n_diverged": "Diverged",
    "n_missing": "No accuracy",
    "what": "Accuracy of",
    "n_subsets": "Subsets",
    "n_seeds": "Seeds on each",
    "n_samples": "Evaluation images",
    "images": "Images",
    "residual": "Seed × image",
    "error_seeds": "Error: seeds alone",
    "error_subsets": "Error: other subsets too",
    "error_all": "Error: other images too",
    "n_adjustments": "Adjustments",
    "n_members": "Members",
    "n_members_diverged": "Members' diverged runs",
    "max": "Maximum (%)",
    "mean": "Mean (%)",
    "sd": "SD",
    "all_of_group": "All of group (%)",
    "mean_of_members": "Mean of members (%)",
    "difference": "Difference (points)",
    "best_member": "Best member",
    "best_member_mean": "Its mean (%)",
    "best_member_corrected": "Best member, corrected (%)",
    "difference_to_best_member": "Difference to best member (points)",
    "best_group_corrected": "Best group, corrected (%)",
    "difference_to_best_group": "Difference to best group (points)",
    "change": "Change of loss",
    "smallest_detectable": "Detectable (points)",
    "hypothesis": "Hypothesis",
    "comparison": "Deciding comparison",
    "label": "Comparison",
    "holds": "Over all",
    "scope": "Holds for",
    "over": "Interval over",
    "over_seeds": "Over seeds alone",
    "over_images": "Over images too",
    "left_out": "Blocks left out",
    "p_value": "p",
    "without_map": "Without the map",
    "over_tuned": "Over tuned Vanilla",
    "over_larger": "Over tuned larger Vanilla",
    "here": "Here (points)",
    "there": "Published (points)",
    "verdict_here": "Sign here",
    "verdict_there": "Sign published",
    "spearman": "Spearman",
    "kendall": "Kendall",
    "n_ratings": "Rated in both",
    "rating_share": "Equal ratings",
    "rating_kappa": "κ of ratings",
    "here_median": "Median here (%)",
    "here_sd": "SD here",
    "there_median": "Median published (%)",
    "there_sd": "SD published",
    "there_strength": "Strength published",
    "published_mean": "Published mean (%)",
    "published_rating": "Published rating",
    "hedges_g": "Hedges' g",
    "effect": "Effect is",
    "chance_above": "Chance: worth having",
    "chance_within": "Chance: negligible",
    "chance_below": "Chance: reversed",
    "p_welch": "p (Welch)",
    "p_permutation": "p (permutation)",
    "p_holm": "p (Holm)",
    "a": "a (SD)",
    "b": "b (points)",
    "indirect": "Indirect (points)",
    "total": "Effect (points)",
    "batch_norm": "Batch norm",
    "validation_sd": "Validation SD",
    "test_sd": "Test SD",
    "validation_median": "Validation median (%)",
    "test_median": "Test median (%)",
    "validation_mean": "Validation mean (%)",
    "test_mean": "Test mean (%)",
    "source": "What differs",
    "accuracy_sd": "SD of accuracy (points)",
    "accuracy_sd_error": "Its error",
    "loss_sd": "SD of cross-entropy (nats)",
    "loss_sd_error": "Its error (nats)",
    "disagreement": "Disagreement (%)",
    "logit_correlation": "ρ of logits",
    "ensemble_gain": "Ensemble gain (points)",
    "ratio": "SD over that of all",
    "reduction": "Reduction (%)",
}


def present(
    table: pd.DataFrame, digits: int = 1, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """A table of text for readers: intervals joined to their number, rounded, columns labelled.

    digits: decimals of percents and points. Columns within ±1.5 (correlations, losses), gains and
    effect sizes get at least two; p-values three; strengths are printed as they are. columns: the
    ones to show, in order (all).
    """
    result: dict[str, list[str]] = {}
    for name in shown_columns(table, columns):
        places = _digits(table[name], digits)
        if f"{name}_low" in table and f"{name}_high" in table:
            ends = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
            # Beside a verdict, one more digit where an end would round to 0.
            finer = name == "difference" and "verdict" in table
            texts = [
                interval_text(x, low, high, places + (finer and _rounds_to_0((low, high), places)))
                for x, low, high in (map(float, row) for row in ends)
            ]
        else:
            texts = [_cell(name, value, places) for value in table[name]]
        result[_label(name)] = texts
    return pd.DataFrame(result)


def _label(column: str) -> str:
    """A column in words, also where it sums up a metric: validation_macro_auc_mean."""
    metric, _, what = column.rpartition("_")
    if column not in LABELS and what in ("mean", "median", "sd") and metrics_in([metric]):
        return f"{metric_label(metric)}, {'SD' if what == 'sd' else what}"
    if column[:1].isupper():  # the name of an arm
        return column
    return LABELS.get(column, column.replace("_", " ").capitalize())


def shown_counts(table: pd.DataFrame, *names: str) -> list[str]:
    """The columns of counts that say something."""
    return [name for name in names if table[name].any()]


def shown_columns(table: pd.DataFrame, columns: Sequence[str] | None) -> list[str]:
    """The columns asked for, or all, except the ends of intervals."""
    if columns is not None:
        require(table, columns, "table")
        return list(columns)
    ends = {f"{name}_{end}" for name in table.columns for end in ("low", "high")}
    return [str(name) for name in table.columns if name not in ends]


def _digits(values: pd.Series, digits: int) -> int:
    """At least two decimals for correlations, gains, effect sizes and losses."""
    if values.name in ("gain", "hedges_g"):
        return max(digits, 2)
    if values.name in ("logit_correlation", "loss_sd", "loss_sd_error"):
        return max(digits, 3)
    small = pd.api.types.is_numeric_dtype(values) and values.abs().max() <= 1.5
    return max(digits, 2) if small else digits


def _cell(column: str, value: object, digits: int) -> str:
    if isinstance(value, str):
        return value or "–"
    if value is None or bool(pd.isna(value)):  # type: ignore[call-overload]
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return _minus(str(value))
    number = float(value)  # type: ignore[arg-type]
    if column.startswith("p_"):
        return "<0.001" if number < 0.001 else f"{number:.3f}"
    return f"{number:g}" if column.endswith("strength") else _rounded(number, digits)


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "−": "$-$",
    "–": "--",
    "η": r"$\eta$",
    "κ": r"$\kappa$",
    "±": r"$\pm$",
    "²": r"$^2$",
    "ρ": r"$\rho$",
}


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def latex(table: pd.DataFrame, digits: int = 1, columns: Sequence[str] | None = None) -> str:
    """A booktabs tabular (needs \\usepackage{booktabs}); numbers to the right. See `present`."""
    shown = present(table, digits, columns)
    numeric = [
        pd.api.types.is_numeric_dtype(table[name]) and not pd.api.types.is_bool_dtype(table[name])
        for name in shown_columns(table, columns)
    ]
    lines = [
        rf"\begin{{tabular}}{{{''.join('r' if right else 'l' for right in numeric)}}}",
        r"\toprule",
        " & ".join(_escape(name) for name in shown.columns) + r" \\",
        r"\midrule",
        *(" & ".join(_escape(cell) for cell in row) + r" \\" for row in shown.to_numpy()),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def markdown(table: pd.DataFrame, digits: int = 1, columns: Sequence[str] | None = None) -> str:
    """A Markdown table. See `present`."""
    shown = present(table, digits, columns)
    rows = [list(shown.columns), ["---"] * shown.shape[1], *shown.to_numpy().tolist()]
    return "".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |\n" for row in rows
    )


def save_table(
    table: pd.DataFrame,
    stem: str | Path,
    digits: int = 1,
    columns: Sequence[str] | None = None,
) -> list[Path]:
    """Write STEM.csv (full precision, all columns), STEM.tex and STEM.md; return the paths."""
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    texts = {
        "csv": csv_text(table),
        "tex": latex(table, digits, columns),
        "md": markdown(table, digits, columns),
    }
    paths = []
    for ending, text in texts.items():
        paths.append(stem.with_name(f"{stem.name}.{ending}"))
        paths[-1].write_text(text, encoding="utf-8")
    return paths


def csv_text(table: pd.DataFrame) -> str:
    """Comma-separated, full precision, all columns."""
    return table.to_csv(index=False, lineterminator="\n")
