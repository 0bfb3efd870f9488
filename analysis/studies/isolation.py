"""Isolation: the 27 adjustments, each trained alone."""

from __future__ import annotations

import math
from copy import deepcopy
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from aba_core.adjustments import ADJUSTMENTS, Group
from aba_core.arms import Arm
from analysis import figures, reference, statistics, tables
from analysis.exhibits import Collector, Exhibits, Look
from analysis.results import StudyResult
from analysis.statistics import CONFIDENCE, Interval
from analysis.study import Settings, Study
from analysis.wording import published_title

CONTRASTS = (("Epsilon", "Neutral"), ("Neutral", "Delta"), ("Epsilon", "Delta"))


def arm_name(index: int) -> str:
    """The arm that trains with one adjustment alone."""
    return f"adjustment {index}"


def declare(settings: Settings) -> Study:
    """One arm an adjustment."""
    arms = [
        Arm.of(arm_name(a.index), adjustments=str(a.index), **settings.loss) for a in ADJUSTMENTS
    ]
    return settings.study("isolation", arms)


# --- tables --------------------------------------------------------------------------------------


def isolation_table(
    runs: pd.DataFrame,
    rng: np.random.Generator,
    *,
    metric: str = "validation_accuracy",
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """Each adjustment trained alone: 27 rows in the published order, whatever is missing.

    runs: the arms "adjustment 0" to "adjustment 26" (others are ignored). Columns: index, low,
    middle, high, group, n, n_diverged, n_missing, max, mean (with interval), sd, gain, rating.
    An adjustment without runs has n = 0 and NaN. Gain and rating refer to adjustment 0, or where it
    has no runs to those without augmentation (see `unaugmented`), and take more for better. The
    maximum only rebuilds the published column.
    """
    tables.check_runs(runs, metric)
    rows = []
    entries = tables.adjustment_table().to_dict("records")
    for stream, entry in zip(rng.spawn(27), entries, strict=True):
        name = arm_name(int(entry["index"]))
        values = tables.values_of(runs, name, metric)
        row = {key: entry[key] for key in ("index", "low", "middle", "high", "group")}
        row |= tables.counts(runs[runs["arm"] == name], metric)
        row["max"] = values.max() if values.size else math.nan
        row |= tables.with_interval(
            "mean", tables.mean_interval(values, metric, stream, confidence)
        )
        row["sd"] = values.std(ddof=1) if values.size > 1 else math.nan
        rows.append(row)
    table = pd.DataFrame(rows)
    baseline = float(table["mean"].iloc[0])
    if not math.isfinite(baseline):
        baseline = float(runs.loc[unaugmented(runs), metric].mean())
    return reference.rate(table, baseline)


def unaugmented(runs: pd.DataFrame) -> pd.Series:
    """Which runs trained without augmentation, by what they did and not by their arm's name.

    Their rows name no adjustments and have strength 0. None where runs do not say what they did.
    """
    if not {"adjustments", "strength"} <= set(runs.columns):
        return pd.Series(False, runs.index)
    return (runs["adjustments"].fillna("") == "") & (runs["strength"].fillna(0.0) == 0)


def group_table(
    table: pd.DataFrame, rng: np.random.Generator, *, confidence: float = CONFIDENCE
) -> pd.DataFrame:
    """Means of the three groups and their contrasts, the adjustment being the unit (9 per group).

    table: from `isolation_table`. Rows: the three groups, then Epsilon − Neutral, Neutral − Delta
    and Epsilon − Delta. Columns: name, n_adjustments, estimate (percent, points; with interval),
    effect (Hedges' g), p_welch, p_permutation and p_holm (of the permutation p, three contrasts).
    The interval says how far the result would carry to other adjustments of the group; runs
    narrow it only as far as they sharpen each adjustment's mean.
    """
    tables.require(table, ("group", "mean"), "isolation table")
    known = table[np.isfinite(table["mean"])]
    groups = [str(group) for group in Group]
    means = {g: known.loc[known["group"] == g, "mean"].to_numpy(dtype=np.float64) for g in groups}
    rows: list[dict[str, object]] = []
    for group in groups:
        interval = statistics.mean_interval(means[group], rng, confidence=confidence)
        rows.append(
            {"name": group, "n_adjustments": interval.n}
            | tables.with_interval("estimate", interval)
            | dict.fromkeys(("hedges_g", "p_welch", "p_permutation"), math.nan)
        )
    for first, second in CONTRASTS:
        a, b = means[first], means[second]
        interval = statistics.difference_interval(a, b, rng, confidence=confidence)
        rows.append(
            {
                "name": f"{first} − {second}",
                "n_adjustments": interval.n,
                **tables.with_interval("estimate", interval),
                "hedges_g": statistics.hedges_g(a, b),
                "p_welch": statistics.welch_p(a, b),
                "p_permutation": statistics.permutation_p(a, b, rng),
            }
        )
    result = pd.DataFrame(rows)
    result["p_holm"] = statistics.holm(result["p_permutation"])
    return result


def association_table(
    table: pd.DataFrame, rng: np.random.Generator, *, confidence: float = CONFIDENCE
) -> pd.DataFrame:
    """How well the group, and high − low, account for the 27 mean accuracies.

    table: from `isolation_table`. Rows: eta squared of the group (with a permutation p, no
    interval), Pearson's and Spearman's correlation of high − low with the mean. Columns: name,
    n_adjustments, estimate (with interval), p_permutation.
    """
    tables.require(table, ("group", "mean", "low", "high"), "isolation table")
    known = table[np.isfinite(table["mean"])]
    mean = known["mean"].to_numpy(dtype=np.float64)
    slope = (known["high"] - known["low"]).to_numpy(dtype=np.float64)
    group = known["group"].to_numpy(dtype=str)
    count = len(known)
    eta = Interval(
        statistics.eta_squared(mean, group) if count else math.nan,
        math.nan,
        math.nan,
        count,
        confidence,
        "none",
    )
    p = statistics.eta_squared_p(mean, group, rng) if count else math.nan
    rows: list[dict[str, object]] = [
        {"name": "η² of the group", "n_adjustments": count, **tables.with_interval("estimate", eta)}
        | {"p_permutation": p}
    ]
    for kind, label in (("pearson", "Pearson"), ("spearman", "Spearman")):
        interval = statistics.correlation(slope, mean, rng, kind=kind, confidence=confidence)
        rows.append(
            {"name": f"{label} of high − low", "n_adjustments": count}
            | tables.with_interval("estimate", interval)
            | {"p_permutation": math.nan}
        )
    return pd.DataFrame(rows)


def published_order_table(
    table: pd.DataFrame, rng: np.random.Generator, *, confidence: float = CONFIDENCE
) -> pd.DataFrame:
    """Spearman's rank correlation of the 27 means with the published ones, and of those.

    table: from `isolation_table`. One row per pair of experiments: first ("this study" or
    "published NAME"), second, n_adjustments, spearman (with interval over adjustments). Every pair
    has the same resamples, so that its interval depends on no other pair.
    """
    means = {"this study": table["mean"]}
    for name in reference.published_table("isolation")["dataset"].unique():
        means[f"published {published_title(name)}"] = reference.published_isolation_table(name)[
            "mean"
        ]
    rows = []
    for first, second in combinations(means, 2):
        both = np.isfinite(means[first]) & np.isfinite(means[second])
        correlation = statistics.correlation(
            means[first][both], means[second][both], deepcopy(rng), confidence=confidence
        )
        rows.append(
            {"first": first, "second": second, "n_adjustments": correlation.n}
            | tables.with_interval("spearman", correlation)
        )
    return pd.DataFrame(rows)


# --- words ---------------------------------------------------------------------------------------


def isolation_sentence(table: pd.DataFrame) -> str:
    """The three contrasts of a `group_table` in words."""
    rows = {row["name"]: row for row in table.to_dict("records")}
    parts = []
    for first, second in CONTRASTS:
        row = rows[f"{first} − {second}"]
        numbers = (row["estimate"], row["estimate_low"], row["estimate_high"])
        parts.append(tables.comparison_sentence(first, second, *numbers))
    return ". ".join(parts) + "."


def highest_mean(isolation: pd.DataFrame) -> str:
    """The best adjustment of an isolation table beside the baseline; "" where none has a mean."""
    if not isolation["mean"].notna().any():
        return ""
    best = isolation.iloc[int(isolation["mean"].argmax())]
    numbers = tables.interval_text(best["mean"], best["mean_low"], best["mean_high"])
    changes = ", ".join(str(best[name]).replace("-", "−") for name in ("low", "middle", "high"))
    return (
        f"Adjustment {best['index']} [{changes}] of group {best['group']} has the highest mean, "
        f"{numbers.replace(' [', ' % [')}. Training without augmentation reaches "
        f"{isolation['mean'][0]:.1f} %. The best of 27 looks better than it is."
    )


def rank_correlations(published_order: pd.DataFrame) -> str:
    """How the order of this study's 27 means correlates with that of each published one."""
    rows = published_order[published_order["first"] == "this study"]
    parts = [
        f"{row['spearman']:.2f} with {row['second'].removeprefix('published ')}"
        for _, row in rows.iterrows()
    ]
    return f"Rank correlation with the published means: {', '.join(parts)}.".replace("-0", "−0")


# --- figures -------------------------------------------------------------------------------------


def isolation_plot(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    baseline: float | None = None,
    label: str = "Validation accuracy (%)",
) -> Axes:
    """Mean and interval of each adjustment trained alone, in order of the mean, coloured by group.

    table: from `isolation_table`. The dashed line is `baseline` (percent), by default the
    mean of adjustment 0, which is training without augmentation. Adjustments without runs stand
    at the bottom; diverged runs are counted beside their adjustment.
    """
    ax = figures.given_or_new(ax, figures.ONE_COLUMN, 118)
    text, width, marker = figures.sizes(ax)
    ordered = table.sort_values("mean", na_position="first", kind="stable").reset_index(drop=True)
    limits = figures.limits_of(ordered, ["mean"]) or (0.0, 100.0)
    if baseline is None:
        zero = table.loc[table["index"] == 0, "mean"]
        baseline = float(zero.iloc[0]) if len(zero) else float("nan")
    if np.isfinite(baseline):
        limits = min(limits[0], baseline), max(limits[1], baseline)
        ax.axvline(
            baseline, color=figures.COLOURS["vanilla"], lw=0.8 * width, ls=(0, (4, 2)), zorder=0
        )
    for y, row in ordered.iterrows():
        place, colour = float(y), figures.COLOURS[row["group"]]  # type: ignore[arg-type]
        ax.axhline(place, color="0.92", lw=0.5 * width, zorder=-1)
        if not np.isfinite(row["mean"]):
            note = "no runs" if row["n"] == 0 and not row["n_missing"] else "no accuracy"
            ax.text(
                0.01, place, note, transform=ax.get_yaxis_transform(), va="center", size=0.75 * text
            )
            continue
        figures.interval_line(
            ax, place, row["mean_low"], row["mean_high"], limits, color=colour, lw=1.2 * width
        )
        ax.plot(row["mean"], place, figures.MARKERS[row["group"]], color=colour, ms=marker)
        figures.note_diverged(
            ax, place, row["n_diverged"], row["mean"] > sum(limits) / 2, 0.75 * text
        )
    ax.set_xlim(limits)
    ax.set_ylim(-0.8, len(ordered) - 0.2)
    ax.set_yticks(range(len(ordered)), [_label(row) for _, row in ordered.iterrows()])
    # On a slide the lines are closer than the text is high.
    room = 0.75 * figures.panel_size(ax)[1] / len(ordered)
    ax.tick_params(axis="y", length=0, labelsize=min(0.8 * text, 0.8 * room))
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(label)
    ax.set_ylabel("Adjustment: index [low, middle, high]")
    handles = figures.group_handles(figures.LEGEND_ORDER, marker)
    if np.isfinite(baseline):
        dashes = (0, (4, 2))
        line = Line2D([], [], color="black", lw=0.8 * width, ls=dashes, label="No augmentation")
        handles.append(line)
    figures.legend_above(ax, handles, ncols=2)
    return ax


def _label(row: pd.Series) -> str:
    numbers = ", ".join(str(int(row[name])) for name in ("low", "middle", "high"))
    return f"{int(row['index'])} [{numbers}]".replace("-", "−")


def group_plot(
    table: pd.DataFrame,
    groups: pd.DataFrame,
    ax: Axes | None = None,
    *,
    label: str = "Validation accuracy (%)",
) -> Axes:
    """The adjustments' means by group, and each group's mean with its interval over adjustments.

    table: from `isolation_table`. groups: from `group_table`.
    """
    ax = figures.given_or_new(ax, figures.ONE_COLUMN, 60)
    _, width, marker = figures.sizes(ax)
    rows = groups.set_index("name")
    for x, group in enumerate(map(str, Group)):
        values = np.sort(table.loc[table["group"] == group, "mean"].dropna().to_numpy(np.float64))
        if not values.size:
            ax.text(x, 0.5, "no runs", transform=ax.get_xaxis_transform(), ha="center")
            continue
        # Neighbouring values go to different places, always the same ones.
        places = x - 0.22 + 0.09 * (np.arange(values.size) % 3)
        colour = figures.COLOURS[group]
        ax.plot(places, values, figures.MARKERS[group], color=colour, ms=0.9 * marker, mew=0)
        mean, low, high = (float(rows[f"estimate{end}"][group]) for end in ("", "_low", "_high"))
        if np.isfinite(low):
            ax.plot([x + 0.18] * 2, [low, high], color="black", lw=1.4 * width)
        ax.plot(x + 0.18, mean, "D", color="black", ms=marker)
    ax.set_xticks(range(len(Group)), list(Group))
    ax.set_xlim(-0.5, len(Group) - 0.5)
    ax.set_xlabel("Group")
    ax.set_ylabel(label)
    return ax


# --- exhibits ------------------------------------------------------------------------------------


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    """Figures isolation, groups, isolation-square; tables isolation, groups, association,
    published-order."""
    collected = Collector(study, look)
    table = isolation_table(study.frame, look.rng(), metric=look.metric, confidence=look.confidence)
    groups = group_table(table, look.rng(), confidence=look.confidence)
    columns = ["index", "low", "middle", "high", "group", "n", "max", "mean", "rating"]
    columns += tables.shown_counts(table, "n_diverged", "n_missing")
    collected.figure(
        "isolation",
        "Mean accuracy of each adjustment in order, coloured by group",
        table,
        partial(isolation_plot, table, label=look.label),
        height=118,
        note=f"{look.label}; the dashed line is training without augmentation.",
        interval=collected.over_runs,
    )
    collected.figure(
        "groups",
        "Mean accuracy of the adjustments of each group",
        table,
        partial(group_plot, table, groups, label=look.label),
        height=60,
        note=f"{look.label}; small marks are adjustments, diamonds the means of groups.",
        interval=collected.over_adjustments,
    )
    collected.figure(
        "isolation-square",
        "Mean accuracy of each adjustment, arranged by low and high",
        table,
        partial(figures.adjustment_heatmap, table, label=look.label),
        height=78,
        note=f"{look.label}; above the diagonal Epsilon, on it Neutral, below it Delta.",
        interval=f"half of them after ±; {collected.over_runs}",
    )
    collected.table(
        "isolation",
        "Each adjustment trained alone, in the published form",
        table,
        columns,
        note=f"{look.label}; the maximum grows with the number of runs.",
        interval=collected.over_runs,
    )
    collected.table(
        "groups",
        "Means of the groups and their differences",
        groups,
        note=f"{look.label}; the unit is the adjustment, p by permutation and Holm's correction.",
        interval=collected.over_adjustments,
    )
    collected.table(
        "association",
        "How much of the spread of the 27 means the group explains",
        association_table(table, look.rng(), confidence=look.confidence),
        note=f"{look.label}.",
        interval=collected.ranks,
    )
    collected.table(
        "published-order",
        "Rank correlation of the 27 means with the published ones, and of those with one another",
        published_order_table(table, look.rng(), confidence=look.confidence),
        note=f"{look.label}; published: means of five runs, other data, models and epochs.",
        interval=collected.ranks,
        digits=2,
    )
    return collected.exhibits
