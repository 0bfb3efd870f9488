"""Variance: what moves an accuracy, and a difference of two arms: training subset, seed, images.

A few arms on some subsets × several seeds each, with what every run classifies correctly. Source of
the budget: Bouthillier et al. 2021, "Accounting for variance in machine learning benchmarks".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy import stats

from aba_core.arms import VANILLA
from analysis import figures, tables
from analysis.exhibits import Collector, Exhibits, Look
from analysis.results import ResultsError, StudyResult
from analysis.statistics import CONFIDENCE, Interval
from analysis.studies import hypotheses
from analysis.study import CONFIRMING_SEED, Settings, Study
from analysis.study import on_fresh_subsets as fresh

SEEDS_PER_SUBSET = 4
ARMS = (VANILLA, "All", "Epsilon", "Neutral", "Delta", hypotheses.placebo_name("All", "gaussian"))
COMPONENTS = {
    "subset": "training subset",
    "seed": "seed",
    "images": "evaluation images",
    "residual": "seed × image",
}
Array = NDArray[np.float64]


def declare(settings: Settings) -> Study:
    """Six arms, four seeds on each subset, what each run gets right kept."""
    arms = hypotheses.arms(settings.strength["isolation"], settings.top_k)
    first = SEEDS_PER_SUBSET * CONFIRMING_SEED
    return settings.study(
        "variance",
        fresh([arm for arm in arms if arm.name in ARMS], SEEDS_PER_SUBSET),
        seeds=tuple(range(first, first + settings.seeds["variance"])),
        keep_correct=True,
        room="analysis.studies.variance:exhibits",
    )


# --- numbers -------------------------------------------------------------------------------------


def correct_of(frame: pd.DataFrame, arm: str, split: str) -> Array:
    """What an arm's runs get right, 100 or 0 (percent): [subset, seed, sample], by subset and seed.

    Only subsets with all their seeds count. Raises ResultsError where the runs did not keep it.
    """
    name = f"{split}_correct"
    if name not in frame:
        raise ResultsError(f"these runs did not keep what they get right; needed: {name}")
    part = frame[(frame["arm"] == arm) & (frame["status"] == "finished")]
    by_subset = dict(iter(part.sort_values("seed").groupby("subset_seed")))
    most = max((len(rows) for rows in by_subset.values()), default=0)
    runs = [
        [
            np.unpackbits(np.frombuffer(bits, np.uint8))[: int(samples)]
            for bits, samples in zip(rows[name], rows[f"{split}_samples"], strict=True)
        ]
        for rows in by_subset.values()
        if len(rows) == most
    ]
    return 100.0 * np.array(runs, dtype=np.float64)


def variance_components(correct: Array) -> dict[str, float]:
    """Variances (points²) of one run's accuracy by where they come from.

    correct: [subset, seed, sample], percent; of a difference of two arms, the difference. subset:
    between training subsets. seed: between seeds on one subset. images: of the mean over all runs,
    by the choice of the evaluation samples. residual: what seeds change from sample to sample, over
    so many samples. Negative estimates are 0. By the mean squares of subset / seed × sample.
    """
    return {name: max(0.0, value) for name, value in _unbounded(correct).items()}


def _unbounded(correct: Array) -> dict[str, float]:
    """`variance_components`, with negative estimates as they are."""
    subsets, seeds, samples = correct.shape
    if subsets < 2 or seeds < 2:
        raise ValueError(f"{subsets} subsets of {seeds} seeds; needed: two of each or more")
    means = correct.mean(2)
    within = float(means.var(axis=1, ddof=1).mean())
    of_subsets = float(means.mean(1).var(ddof=1))
    by_sample = float(correct.var(axis=1, ddof=1).mean())
    residual = max(0.0, (by_sample - within) / (samples - 1))
    # What subsets change from sample to sample blurs the mean that images are judged by.
    blur = float(correct.mean(1).var(axis=0, ddof=1).mean()) - of_subsets
    of_images = float(correct.mean((0, 1)).var(ddof=1)) - blur / subsets
    return {
        "subset": of_subsets - within / seeds,
        "seed": within - residual,
        "images": of_images / samples,
        "residual": residual,
    }


def component_intervals(correct: Array, confidence: float = CONFIDENCE) -> dict[str, Interval]:
    """Each component as an SD (points) with the delete-one-subset jackknife's interval, Student's t
    on subsets less one; without an interval where there are two subsets. Also one_run, of all.

    The upper end is the larger one of two jackknives, of SDs and of variances: where an estimate is
    below 0, and so is 0 without most subsets as well, SDs alone would make it seem to be known.
    """

    def variances(part: Array) -> Array:
        found = _unbounded(part)
        return np.array([*found.values(), sum(max(0.0, value) for value in found.values())])

    subsets = len(correct)
    estimate = np.sqrt(np.maximum(0.0, variances(correct)))
    low = high = np.full(len(estimate), math.nan)
    if subsets > 2:
        without = np.array([variances(np.delete(correct, i, axis=0)) for i in range(subsets)])
        t = stats.t.ppf((1 + confidence) / 2, subsets - 1) * math.sqrt(subsets - 1)
        reach, squared = t * np.sqrt(np.maximum(0.0, without)).std(axis=0), t * without.std(axis=0)
        low = np.maximum(0.0, estimate - reach)
        high = np.maximum(estimate + reach, np.sqrt(estimate**2 + squared))
    return {
        name: Interval(float(e), float(a), float(b), subsets, confidence, "jackknife")
        for name, e, a, b in zip((*COMPONENTS, "one_run"), estimate, low, high, strict=True)
    }


def variance_table(
    frame: pd.DataFrame,
    arms: Sequence[str],
    split: str = "validation",
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """The variance budget: one row an arm, then one a difference to the first arm.

    Columns: what, n_subsets, n_seeds (on each), n_samples, and SDs (points) with intervals subset,
    seed, images, residual, one_run; then the standard error (points) of the mean over these runs as
    intervals over seeds alone see it (error_seeds), with other subsets (error_subsets) and with
    other images too (error_all).
    """
    correct = {arm: correct_of(frame, arm, split) for arm in arms}
    contents = {arm: correct[arm] for arm in arms}
    contents |= {
        f"{arm} − {arms[0]}": correct[arm] - correct[arms[0]]
        for arm in arms[1:]
        if correct[arm].shape == correct[arms[0]].shape
    }
    rows = []
    for what, values in contents.items():
        if values.ndim != 3 or min(values.shape[:2]) < 2:
            continue
        subsets, seeds, samples = values.shape
        row: dict[str, Any] = {"what": what, "n_subsets": subsets, "n_seeds": seeds}
        row["n_samples"] = samples
        for name, interval in component_intervals(values, confidence).items():
            row |= tables.with_interval(name, interval)
        found = variance_components(values)
        over_seeds = (found["seed"] + found["residual"]) / (subsets * seeds)
        over_subsets = over_seeds + found["subset"] / subsets
        row["error_seeds"] = math.sqrt(over_seeds)
        row["error_subsets"] = math.sqrt(over_subsets)
        row["error_all"] = math.sqrt(over_subsets + found["images"])
        rows.append(row)
    if not rows:
        raise ResultsError("fewer than two subsets with two seeds each are finished")
    return pd.DataFrame(rows)


# --- what is shown -------------------------------------------------------------------------------


def sentences(table: pd.DataFrame) -> list[str]:
    """What each difference of arms owes to subsets, seeds and images, in words."""
    lines = []
    for row in table[table["what"].str.contains(" − ")].to_dict("records"):
        shares = {
            title: 100 * row[name] ** 2 / row["one_run"] ** 2 if row["one_run"] else 0.0
            for name, title in COMPONENTS.items()
        }
        most = max(shares, key=shares.__getitem__)
        lines.append(
            f"{row['what']}: one pair of runs has an SD of {row['one_run']:.1f} points; "
            f"{shares[most]:.0f} % of its variance comes from the {most}. Over {row['n_subsets']} "
            f"subsets × {row['n_seeds']} seeds the standard error is {row['error_seeds']:.2f} over "
            f"seeds alone, {row['error_subsets']:.2f} with other subsets and "
            f"{row['error_all']:.2f} with other images."
        )
    return lines


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    """Figure and table variance (validation), table variance-test."""
    collector = Collector(study, look)
    arms = [arm.name for arm in study.declaration.study.arms]
    way = f"{collector.level}, jackknife over subsets"
    table = variance_table(study.frame, arms, "validation", look.confidence)
    collector.figure(
        "variance",
        "What moves the accuracy of one run, and the difference of two",
        table,
        partial(variance_plot, table),
        height=variance_height(table),
        note="Validation accuracy; differences are of runs with one subset and one seed.",
        interval=way,
    )
    for name, part in (("variance", table), ("variance-test", None)):
        shown = variance_table(study.frame, arms, "test", look.confidence) if part is None else part
        split = "validation" if part is not None else "test"
        collector.table(
            name,
            f"Variance budget of the {split} accuracy: SDs of one run (points), and the standard "
            "error of the mean of all",
            shown,
            note="Errors: over seeds alone, with other subsets, and with other images too.",
            interval=way,
            digits=2,
        )
    return collector.exhibits


_LOOKS = {
    "subset": ("o", figures.OTHER_COLOURS[0]),
    "seed": ("s", "black"),
    "images": ("^", figures.OTHER_COLOURS[3]),
    "residual": ("D", "#7A7A7A"),
}


def variance_plot(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """SDs of every component with their intervals, a row for each arm and difference.

    table: from `variance_table`.
    """
    ax = figures.given_or_new(ax, figures.ONE_COLUMN, variance_height(table))
    text, width, marker = figures.sizes(ax)
    limits = figures.limits_of(table, list(COMPONENTS)) or (0.0, 1.0)
    limits = min(0.0, limits[0]), limits[1]
    for y, (_, row) in enumerate(table.iterrows()):
        base = len(table) - 1 - y
        ax.axhline(base - 0.5, color="0.92", lw=0.5 * width, zorder=-1)
        for number, (name, (symbol, colour)) in enumerate(_LOOKS.items()):
            place = base + 0.27 - 0.18 * number
            ends = row[f"{name}_low"], row[f"{name}_high"]
            figures.interval_line(ax, place, *ends, limits, color=colour, lw=0.9 * width)
            ax.plot(row[name], place, symbol, color=colour, ms=0.6 * marker)
    ax.set_xlim(limits)
    ax.set_ylim(-0.6, len(table) - 0.4)
    across = 0.38 * figures.panel_size(ax)[0]
    names = [figures.wrapped(str(name), across, 0.8 * text, 2) for name in table["what"]]
    ax.set_yticks(range(len(table) - 1, -1, -1), names)
    ax.tick_params(axis="y", length=0, labelsize=0.8 * text)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("SD of a run or of a difference (points)")
    handles = [
        Line2D([], [], color=colour, marker=symbol, ms=0.7 * marker, label=COMPONENTS[name])
        for name, (symbol, colour) in _LOOKS.items()
    ]
    figures.legend_above(ax, handles, ncols=2)
    return ax


def variance_height(table: pd.DataFrame) -> float:
    """Height in mm at which `variance_plot` can name every row, on paper."""
    return 26.0 + 8.5 * len(table)
