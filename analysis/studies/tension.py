"""Tension: unions of groups against their members."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from aba_core.adjustments import GROUP_SETS, Group, group_set_text, members
from aba_core.arms import Arm
from analysis import comparisons, design, figures, reference, statistics, tables
from analysis.comparisons import ComparisonError, Grid
from analysis.exhibits import Collector, Exhibits, Look
from analysis.results import StudyResult
from analysis.statistics import CONFIDENCE, Interval
from analysis.studies.isolation import arm_name
from analysis.study import Settings, Study
from analysis.wording import published_title


def declare(settings: Settings) -> Study:
    """One arm a union of groups: the six published ones, and Delta with Neutral."""
    arms = [
        Arm.of(title, adjustments=group_set_text(title), **settings.loss) for title in GROUP_SETS
    ]
    return settings.study("tension", arms)


# --- tables --------------------------------------------------------------------------------------


def hypothesis_table(
    isolation_runs: pd.DataFrame,
    tension_runs: pd.DataFrame,
    rng: np.random.Generator,
    *,
    metric: str = "validation_accuracy",
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """Each set of groups against the mean of its members, its best member and its best group.

    isolation_runs: arms "adjustment 0" to "adjustment 26". tension_runs: arms named as in
    `GROUP_SETS`. One row per set, also where runs are missing. Columns (percent, points):

    - set, n, n_diverged, n_missing: runs of the set; n_members, n_members_diverged: adjustments
      with runs, and diverged runs among them.
    - all_of_group: mean over the set's runs. mean_of_members: mean of the members' means.
      difference: the published measure. It rises by itself where poor members lower the mean.
    - best_member (index), best_member_mean: the winner among the members, its mean inflated by
      the choice.
    - best_member_corrected: accuracy of the truly best member, without that inflation.
      difference_to_best_member: all_of_group minus that. Both by `comparisons.best_of_bounds`.
    - best_group, difference_to_best_group: for sets that join groups, the set against the best of
      the joined groups' own sets, in the same way.

    All with intervals (NAME_low, NAME_high) over runs, arms taken as independent. Source: the
    hypothesis experiment of the slides; the last two comparisons are ours.
    """
    tables.check_runs(isolation_runs, metric, "isolation runs")
    tables.check_runs(tension_runs, metric, "tension runs")
    isolated = {i: tables.values_of(isolation_runs, arm_name(i), metric) for i in range(27)}
    means = {
        group: tables.values_of(tension_runs, group, metric).mean()
        for group in map(str, Group)
        if tables.values_of(tension_runs, group, metric).size
    }
    both = pd.concat(
        [
            isolation_runs[isolation_runs["arm"].isin([arm_name(i) for i in range(27)])],
            tension_runs[tension_runs["arm"].isin(list(GROUP_SETS))],
        ]
    )
    grid = comparisons.grid_of(both, metric)
    rows = []
    for name, stream in zip(GROUP_SETS, rng.spawn(len(GROUP_SETS)), strict=True):
        of_set = tables.values_of(tension_runs, name, metric)
        arms = [arm_name(i) for i in members(name)]
        ran = [i for i in members(name) if isolated[i].size]
        diverged = tables.counts(isolation_runs[isolation_runs["arm"].isin(arms)], metric)
        interval = tables.mean_interval(of_set, metric, stream, confidence)
        best = max(ran, key=lambda i: isolated[i].mean(), default=None)
        row: dict[str, object] = {"set": name}
        row |= tables.counts(tension_runs[tension_runs["arm"] == name], metric)
        row |= {"n_members": len(ran), "n_members_diverged": diverged["n_diverged"]}
        row |= tables.with_interval("all_of_group", interval)
        row |= _against_members(of_set, [isolated[i] for i in ran], stream, confidence)
        row["best_member"] = math.nan if best is None else best
        row["best_member_mean"] = math.nan if best is None else isolated[best].mean()
        best_arms = [arm_name(i) for i in ran]
        row |= _against_best(grid, name, best_arms, "best_member", stream, confidence)
        joined = [group for group in GROUP_SETS[name] if group in means]
        joined = joined if len(GROUP_SETS[name]) > 1 else []
        row["best_group"] = str(max(joined, key=means.__getitem__, default=""))
        row |= _against_best(grid, name, joined, "best_group", stream, confidence)
        rows.append(row)
    table = pd.DataFrame(rows)
    table["best_member"] = table["best_member"].astype("Int64")
    return table


def _against_members(
    of_set: np.ndarray, samples: list[np.ndarray], rng: np.random.Generator, confidence: float
) -> dict[str, float]:
    """A set's runs against those of its members: columns mean_of_members and difference."""
    samples = samples or [np.array([])]
    share = np.full(len(samples), 1 / len(samples))
    mean = statistics.contrast_interval(samples, share, rng, confidence=confidence)
    difference = statistics.contrast_interval(
        [of_set, *samples], [1.0, *-share], rng, confidence=confidence
    )
    return tables.with_interval("mean_of_members", mean) | tables.with_interval(
        "difference", difference
    )


def _against_best(
    grid: Grid,
    of_set: str,
    arms: Sequence[str],
    name: str,
    rng: np.random.Generator,
    confidence: float,
) -> dict[str, float]:
    """A set against the truly best of some arms: columns NAME_corrected and difference_to_NAME."""
    nothing = Interval(math.nan, math.nan, math.nan, 0, confidence, "none")
    best, less = nothing, nothing
    if arms:
        lists = [list(map(str, arms))]
        with suppress(ComparisonError):  # too few runs for an interval
            taken = comparisons.contrast(grid, {}, lists, rng=rng).interval(confidence)
            best = replace(taken, estimate=-taken.estimate, low=-taken.high, high=-taken.low)
            less = comparisons.contrast(grid, {of_set: 1.0}, lists, rng=rng).interval(confidence)
    return tables.with_interval(f"{name}_corrected", best) | tables.with_interval(
        f"difference_to_{name}", less
    )


def published_difference_table(table: pd.DataFrame) -> pd.DataFrame:
    """Set minus mean of its members, here (with interval) and in each published experiment.

    table: from `hypothesis_table`. Columns: set, here, "Published NAME" (points).
    """
    names = ["difference", "difference_low", "difference_high"]
    beside = table[["set", *names]].rename(columns=lambda name: name.replace("difference", "here"))
    for name in reference.published_table("hypothesis")["dataset"].unique():
        printed = reference.published_hypothesis_table(name).set_index("set")["difference"]
        beside[f"Published {published_title(name)}"] = beside["set"].map(printed)
    return beside


# --- words ---------------------------------------------------------------------------------------


def hypothesis_sentences(table: pd.DataFrame) -> list[str]:
    """One sentence per set of a `hypothesis_table`: against its mean, best member, best group."""
    sentences = []
    for row in table.to_dict("records"):
        pairs = [
            ("difference", "the mean of its members"),
            ("difference_to_best_member", "its best member"),
        ]
        if len(GROUP_SETS[row["set"]]) > 1:
            pairs.append(("difference_to_best_group", "its best group"))
        parts = [
            tables.comparison_sentence(
                "it" if i else row["set"], other, row[key], row[f"{key}_low"], row[f"{key}_high"]
            )
            for i, (key, other) in enumerate(pairs)
        ]
        sentences.append("; ".join(parts) + ".")
    return sentences


def set_sentences(hypothesis: pd.DataFrame) -> list[str]:
    """Three sentences from a hypothesis table: which sets are above what they are compared with,
    which below, and for which it stays inconclusive."""
    single = [name for name, groups in GROUP_SETS.items() if len(groups) == 1]
    joined = [name for name, groups in GROUP_SETS.items() if len(groups) > 1]
    questions: tuple[tuple[str, Sequence[str], str], ...] = (
        (
            "Sets compared with the mean of their members, the published measure",
            hypothesis["set"].tolist(),
            "difference",
        ),
        ("Variety, groups compared with their best member", single, "difference_to_best_member"),
        ("Tension, joined groups compared with the best", joined, "difference_to_best_group"),
    )
    sentences = []
    for question, sets, column in questions:
        rows = hypothesis[hypothesis["set"].isin(sets)]
        low, high = rows[f"{column}_low"], rows[f"{column}_high"]
        kinds = {"above": low > 0, "below": high < 0, "inconclusive": ~((low > 0) | (high < 0))}
        parts = []
        for kind, of in kinds.items():
            names = rows["set"][of].tolist()
            if names:
                parts.append(f"{tables.listed(names)} {'is' if len(names) == 1 else 'are'} {kind}")
        sentences.append(f"{question}: {'; '.join(parts)}.")
    return sentences


def detectable(runs: pd.DataFrame, metric: str, hypothesis: pd.DataFrame) -> str:
    """The difference of two arms that so many runs would mostly detect; "" for a single run or
    where runs do not differ."""
    spread = runs.groupby("arm")[metric].std().median()
    fewest = int(hypothesis.loc[hypothesis["n"] > 0, "n"].min())
    if not (fewest > 1 and spread > 0):
        return ""
    least = design.smallest_detectable_difference(spread, fewest)
    return (
        f"With {fewest} runs an arm and a median standard deviation of {spread:.1f} points, a true "
        f"difference of {least:.1f} points between two arms would be found in four of five such "
        "studies; smaller ones mostly stay inconclusive."
    )


# --- figures -------------------------------------------------------------------------------------


def hypothesis_plot(
    table: pd.DataFrame, ax: Axes | None = None, *, label: str = "Validation accuracy (%)"
) -> Axes:
    """Each set of groups against the mean of its members and its best member, with intervals.

    table: from `hypothesis_table`. The best member is the corrected one where the table
    has it, else the plain maximum of the means (without an interval, and named so in the legend).
    Diverged runs of the set and its members are counted below its name.
    """
    ax = figures.given_or_new(ax, figures.ONE_COLUMN, 82)
    text, width, marker = figures.sizes(ax)
    table = table.reset_index(drop=True)
    fitted = bool(table["best_member_corrected"].notna().any())
    best = "best_member_corrected" if fitted else "best_member_mean"
    kinds = (
        ("all_of_group", "The set", "D", 0.0, None),
        ("mean_of_members", "Mean of its members", "o", 0.26, "0.35"),
        (
            best,
            "Best member" + (", corrected for choice" if fitted else ", maximum of means"),
            "s",
            -0.26,
            "0.35",
        ),
    )
    limits = figures.limits_of(table, [kind[0] for kind in kinds]) or (0.0, 100.0)
    for y, row in table.iterrows():
        base = len(table) - 1 - float(y)  # type: ignore[arg-type]
        for column, _, symbol, shift, fixed in kinds:
            colour = fixed or figures.COLOURS[row["set"]]
            if not np.isfinite(row[column]):
                if column == "all_of_group":
                    ax.text(limits[0], base, " no runs", va="center", size=0.75 * text)
                continue
            low, high = row.get(f"{column}_low", np.nan), row.get(f"{column}_high", np.nan)
            line = {"color": colour, "lw": (1.6 if fixed is None else 0.9) * width}
            figures.interval_line(ax, base + shift, low, high, limits, **line)
            face = colour if fixed is None else "white"
            ax.plot(
                row[column],
                base + shift,
                symbol,
                mfc=face,
                mec=colour,
                ms=(1.0 if fixed is None else 0.8) * marker,
            )
        if base > 0:
            ax.axhline(base - 0.5, color="0.9", lw=0.5 * width, zorder=-1)
    ax.set_xlim(limits)
    ax.set_ylim(-0.55, len(table) - 0.45)
    diverged = table["n_diverged"] + table["n_members_diverged"]
    names = [
        f"{name}\n{count} diverged" if count else name
        for name, count in zip(table["set"], diverged, strict=True)
    ]
    ax.set_yticks(range(len(table) - 1, -1, -1), names)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(label)
    handles = [
        figures.legend_key(ax, name, symbol, fixed or "black", "white" if fixed else "black")
        for _, name, symbol, _, fixed in kinds
    ]
    figures.legend_above(ax, [handles[1], handles[0], handles[2]], ncols=1)
    return ax


# --- exhibits ------------------------------------------------------------------------------------


def exhibits(study: StudyResult, look: Look, alone: StudyResult) -> Exhibits:
    """Figure hypothesis; tables hypothesis, hypothesis-best, published-differences.

    alone: the isolation study, whose arms are the members of the sets.
    """
    collected = Collector(study, look, alone)
    table = hypothesis_table(
        alone.frame, study.frame, look.rng(), metric=look.metric, confidence=look.confidence
    )
    collected.figure(
        "hypothesis",
        "Each set against the mean of its members and its best member",
        table,
        partial(hypothesis_plot, table, label=look.label),
        height=82,
        note=f"{look.label}; the best member's mean is corrected for its being chosen.",
        interval=collected.over_runs,
    )
    counts = tables.shown_counts(table, "n_diverged", "n_missing", "n_members_diverged")
    collected.table(
        "hypothesis",
        "All of a set against the mean of its members, the published form",
        table,
        ["set", "n", "n_members", *counts, "all_of_group", "mean_of_members", "difference"],
        note=f"{look.label}; poor members raise the difference by themselves.",
        interval=collected.over_runs,
    )
    collected.table(
        "hypothesis-best",
        "All of a set against its best member and its best group",
        table,
        [
            "set",
            "best_member",
            "best_member_corrected",
            "difference_to_best_member",
            "best_group",
            "best_group_corrected",
            "difference_to_best_group",
        ],
        note=f"{look.label}; corrected: without what choosing the highest mean adds.",
        interval=f"{100 * look.confidence:g} %, multiple comparisons with the best",
    )
    collected.table(
        "published-differences",
        "All of a set less the mean of its members, here and published",
        published_difference_table(table),
        note=f"{look.label}, points; published: means of five runs, without intervals.",
        interval=collected.over_runs,
        digits=2,
    )
    return collected.exhibits
