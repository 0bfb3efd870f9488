"""Gains: what each regulariser gains over training without it, what it costs, and which may be
best.

The figures and tables of `comparators` and of the two studies beside it: gains alone and with All,
multiple comparisons with the best, gain against cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from aba_core.arms import PUBLISHED_METHODS, VANILLA
from analysis import across, comparisons, figures, statistics, tables
from analysis import results as store
from analysis.exhibits import Collector, Exhibit, Exhibits, Look
from analysis.results import ResultsError, StudyResult
from analysis.studies import baselines
from analysis.studies.tried import ALL, NOISE, VANILLA_NORM, title_of, with_all

# Symbol and colour; the symbols tell them apart in print without colours.
OURS, OTHERS = ("s", figures.OTHER_COLOURS[0]), ("o", "#333333")


def gain_table(
    runs: pd.DataFrame,
    rng: np.random.Generator,
    metric: str = "validation_accuracy",
    confidence: float = statistics.CONFIDENCE,
    tuned: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """One row a method: its gain over Vanilla within subsets, alone and with All, and its cost.

    tuned: further runs of Vanilla on the same subsets, from `tuned_vanilla`. Columns: arm, gain and
    with_all (points) with intervals, over_tuned and over_larger (points, alone, over those of
    `tuned`) where they are given, passes a step, gain_per_pass (points for each pass beyond
    Vanilla's one; NaN where there is none), epochs, seconds (of a run, over Vanilla's), n; the
    largest gain first. Arms with batch norm are compared with Vanilla with it, and with no other.
    """
    values = runs.pivot(index="seed", columns="arm", values=metric)
    if tuned is not None:
        values = values.join(tuned.pivot(index="seed", columns="arm", values=metric))
    by_arm = runs.groupby("arm")
    passes = (by_arm["passes"].mean() / by_arm["step"].mean()).to_dict()
    seconds, epochs = by_arm["seconds"].mean().to_dict(), by_arm["epochs"].first().to_dict()
    with_norm = by_arm["batch_norm"].first().to_dict()
    names = sorted(alone(runs))
    rows = []
    for name, stream in zip(names, rng.spawn(len(names)), strict=True):
        row: dict[str, Any] = {"arm": name}
        base = VANILLA_NORM if with_norm[name] and VANILLA_NORM in values else VANILLA
        for column, arm in (("gain", name), ("with_all", with_all(str(name)))):
            if arm in values:
                gained = (values[arm] - values[base]).dropna()
                interval = statistics.mean_interval(gained, stream, confidence=confidence)
                row |= tables.with_interval(column, interval)
        for column, arm in TUNED.items():  # last, so that the others have the draws they had
            if base == VANILLA and arm in values and arm not in by_arm.groups:
                gained = (values[name] - values[arm]).dropna()
                interval = statistics.mean_interval(gained, stream, confidence=confidence)
                row |= tables.with_interval(column, interval)
        extra = passes[name] - 1
        row["passes"] = passes[name]
        row["gain_per_pass"] = row["gain"] / extra if extra > 0 else np.nan
        row["epochs"] = epochs[name]
        row["seconds"] = seconds[name] / seconds[base]
        row["n"] = int(values[[name, base]].notna().all(axis=1).sum())
        rows.append(row)
    return pd.DataFrame(rows).sort_values("gain", ascending=False, ignore_index=True)


# Columns of gains over Vanilla with another training, and its arms in study `baselines`.
TUNED = {
    "over_tuned": f"{VANILLA}, tuned",
    "over_larger": f"{VANILLA}, {baselines.LARGER}, tuned",
}


def tuned_vanilla(study: StudyResult) -> pd.DataFrame | None:
    """Runs of Vanilla with a tuned training, and of a larger model, from study `baselines` of the
    same folder and data set. Of the subsets alone where both studies have the same run of
    Vanilla; None where there are none."""
    path, dataset = study.declaration.path, study.declaration.study.dataset
    if path is None:
        return None
    try:
        found = store.load(path.parent.parent, "baselines", dataset).frame
    except ResultsError:
        return None
    own, there = (
        frame.loc[frame["arm"] == VANILLA, ["seed", "key"]] for frame in (study.frame, found)
    )
    both = own.merge(there, on=["seed", "key"])["seed"]
    chosen = found[found["arm"].isin(list(TUNED.values())) & found["seed"].isin(both)]
    return chosen if len(chosen) else None


def alone(runs: pd.DataFrame) -> list[str]:
    """The methods' arms, without All beside them and without training as usual."""
    names = map(str, dict.fromkeys(runs["arm"]))
    return [name for name in names if _apart(name) and not _usual(name)]


def _apart(name: str) -> bool:
    return not name.endswith(with_all(""))


def _usual(name: str) -> bool:
    return name in (VANILLA, VANILLA_NORM)


def ours(name: str) -> bool:
    """Whether an arm is ABA in some form, or its noise."""
    own = {NOISE, *map(title_of, PUBLISHED_METHODS)}
    return name in own or ALL in name.replace(",", " ").split()


def gain_plot(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    of: pd.DataFrame | None = None,
    label: str = "Gain over Vanilla (points)",
) -> Axes:
    """Gains over Vanilla with intervals, alone (filled) and with All (open), the best on top.

    table: from `gain_table`. ABA's own arms are dark blue squares. of: the table whose range the
    axis has, where this is a part of one.
    """
    ax = figures.given_or_new(ax, figures.TWO_COLUMNS, gain_height(table))
    columns = [name for name in ("gain", "with_all") if name in table]
    whole = table if of is None else of
    limits = _limits(whole, columns)
    places = figures.named_rows(ax, table["arm"], limits, label)
    for place, row in zip(places, table.to_dict("records"), strict=True):
        symbol, colour = OURS if ours(row["arm"]) else OTHERS
        beside = 0.14 if "with_all" in table else 0.0
        figures.mark_in_row(ax, place + beside, row, "gain", (symbol, colour, colour))
        figures.mark_in_row(ax, place - 0.22, row, "with_all", (symbol, colour, "white"))
    handles = [
        figures.legend_key(ax, "alone", *OTHERS, OTHERS[1]),
        *[figures.legend_key(ax, "with All", *OTHERS, "white")] * ("with_all" in table),
        *[figures.legend_key(ax, "ABA, alone", *OURS, OURS[1])] * any(map(ours, whole["arm"])),
    ]
    if len(handles) > 1:
        figures.legend_above(ax, handles, ncols=len(handles))
    return ax


def _limits(table: pd.DataFrame, columns: Sequence[str]) -> tuple[float, float]:
    found = figures.limits_of(table.assign(zero=0.0), [*columns, "zero"])
    return found or (-1.0, 1.0)


def gain_height(table: pd.DataFrame) -> float:
    """Height in mm at which `gain_plot` names every method, on paper."""
    return 22.0 + 4.2 * len(table)


# --- the best ------------------------------------------------------------------------------------


def best_table(
    runs: pd.DataFrame,
    metric: str = "validation_accuracy",
    confidence: float = statistics.CONFIDENCE,
) -> pd.DataFrame:
    """One row a method alone, and Vanilla: its mean less the best of the others, with intervals
    that hold for all methods at once (`comparisons.against_best`).

    Columns: arm, mean, behind (points; above 0 for the best) with its interval, may_be_best ("yes",
    "no", "surely"), n; the best first. Models with batch norm are others, and are left out. Raises
    `comparisons.ComparisonError` where runs are too few.
    """
    without = runs[~runs["batch_norm"].astype(bool)]
    arms = [*alone(without), VANILLA]
    means = comparisons.means_of(comparisons.grid_of(without, metric), arms)
    against = comparisons.against_best(means, confidence)
    words = np.where(against.low >= 0, "surely", np.where(against.may_be_best, "yes", "no"))
    table = pd.DataFrame(
        {
            "arm": arms,
            "mean": means.mean,
            "behind": against.estimate,
            "behind_low": against.low,
            "behind_high": against.high,
            "may_be_best": words,
            "n": against.n,
        }
    )
    return table.sort_values("mean", ascending=False, kind="stable", ignore_index=True)


def best_plot(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    of: pd.DataFrame | None = None,
    label: str = "Difference to the best other (points)",
) -> Axes:
    """Each method less the best of the others; filled where it may be the best, the best on top.

    table: from `best_table`. ABA's own arms are dark blue squares. of: the table whose range the
    axis has, where this is a part of one.
    """
    ax = figures.given_or_new(ax, figures.TWO_COLUMNS, gain_height(table))
    limits = _limits(table if of is None else of, ["behind"])
    places = figures.named_rows(ax, table["arm"], limits, label)
    for place, row in zip(places, table.to_dict("records"), strict=True):
        symbol, colour = OURS if ours(row["arm"]) else OTHERS
        face = colour if row["may_be_best"] != "no" else "white"
        figures.mark_in_row(ax, place, row, "behind", (symbol, colour, face))
    handles = [
        figures.legend_key(ax, "may be the best", *OTHERS, OTHERS[1]),
        figures.legend_key(ax, "is not", *OTHERS, "white"),
        figures.legend_key(ax, "ABA", *OURS, OURS[1]),
    ]
    figures.legend_above(ax, handles, ncols=3)
    return ax


# --- whether the map is what helps ---------------------------------------------------------------

# Methods that a map leads, each with the same change led by none, or by the map's other end.
LED = {
    "guided-cutout": "random-cutout",
    "guided-dropout": "input-dropout",
    "reldrop-block": "random-erasing",
    "reldrop-pixel": "input-dropout",
    "saliencymix": "cutmix",
    "icd": "aicd",
}


def guidance_table(
    runs: pd.DataFrame,
    rng: np.random.Generator,
    metric: str = "validation_accuracy",
    confidence: float = statistics.CONFIDENCE,
) -> pd.DataFrame:
    """One row for each method of `LED` whose runs are there: its mean less that of the method that
    does the same without the map, within subsets, each tuned by itself.

    Columns: arm, without_map, difference (points) with an interval, n. Intervals hold for all rows
    at once (Bonferroni).
    """
    values = runs.pivot(index="seed", columns="arm", values=metric)
    pairs = [(title_of(led), title_of(other)) for led, other in LED.items()]
    pairs = [pair for pair in pairs if {*pair} <= {*values.columns}]
    each = 1 - (1 - confidence) / max(len(pairs), 1)
    rows = []
    for (led, other), stream in zip(pairs, rng.spawn(len(pairs)), strict=True):
        differences = (values[led] - values[other]).dropna()
        interval = statistics.mean_interval(differences, stream, confidence=each)
        row: dict[str, Any] = {"arm": led, "without_map": other, "n": len(differences)}
        rows.append(row | tables.with_interval("difference", interval))
    return pd.DataFrame(rows)


def _add_guidance(collector: Collector, study: StudyResult, look: Look) -> None:
    table = guidance_table(study.frame, look.rng(), look.metric, look.confidence)
    if table.empty:
        return
    collector.table(
        f"{study.declaration.study.name}-guidance",
        "Methods that a map leads, less the same change without it",
        table,
        ["arm", "without_map", "difference", "n"],
        note=f"{look.label}, points; each tuned by itself; AICD hides what the map finds "
        "unimportant. No hypothesis was declared about these differences.",
        interval=f"{collector.level} for all rows at once (Bonferroni), studentised bootstrap over "
        "training subsets, arms paired within",
        digits=2,
    )


# --- what it costs -------------------------------------------------------------------------------


def cost_plot(
    table: pd.DataFrame, ax: Axes | None = None, *, label: str = "Gain over Vanilla (points)"
) -> Axes:
    """Gains by the number of passes a step, sorted within each; the best of each number is named,
    and All.

    table: from `gain_table`. Passes are counted, so that they are the same on every machine. ABA's
    own arms are dark blue squares.
    """
    ax = figures.given_or_new(ax, figures.TWO_COLUMNS, COST_HEIGHT)
    text, width, marker = figures.sizes(ax)
    start, ticks, named = 0.0, {}, []
    for passes, group in table.sort_values("gain").groupby(table["passes"].round(2)):
        for place, (_, row) in enumerate(group.iterrows()):
            at, (symbol, colour) = start + place, OURS if ours(row["arm"]) else OTHERS
            ends = [row["gain_low"], row["gain_high"]]
            ax.plot([at, at], ends, color=colour, lw=0.6 * width, alpha=0.6)
            ax.plot(at, row["gain"], symbol, color=colour, ms=0.6 * marker)
            last = place == len(group) - 1
            if not last and row["arm"] != ALL:
                continue
            # Above its interval; All, which has neighbours on both sides, below.
            y, lift, side = row["gain_low"], -2, "top"
            if last:
                y, lift, side = row["gain_high"], 2, "bottom"
            name = ax.annotate(
                row["arm"],
                (at, y),
                (0, lift),
                textcoords="offset points",
                size=0.8 * text,
                ha="right" if place else "center",
                va=side,
            )
            named += [name] * last
        ticks[start + (len(group) - 1) / 2] = f"{passes:g}"
        start += len(group) + 3
    ax.axhline(0, color="0.4", lw=0.6 * width, zorder=-1)
    ax.set_xlim(-2, start - 2)
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.tick_params(axis="x", length=0)
    ax.set_xlabel("Passes per step; within each, methods sorted by gain")
    ax.set_ylabel(label)
    _lift_apart(named, ax)
    return ax


def _lift_apart(names: Sequence[Annotation], ax: Axes) -> None:
    """Lifts each name, from the left, above those that it would cover."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    taken: list[Bbox] = []
    for name in names:
        while any(name.get_window_extent().overlaps(box) for box in taken):
            along, up = name.xyann
            name.xyann = (along, up + 1)
        taken.append(name.get_window_extent())


COST_HEIGHT = 90.0  # mm, on paper
# What arms have alike in studies where epochs differ.
EQUAL = {"comparators-equal-time": "in as much time", "attributions-equal-time": "trained as long"}


# --- all of a study ------------------------------------------------------------------------------


_OF_TUNED = (
    "tuned Vanilla, and the same of a larger model: with learning rate, weight decay and epochs of "
    "their own, by study baselines, on the same subsets; "
)


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    """Figures and tables NAME and NAME-best of a study, and figure NAME-cost."""
    collector, name = Collector(study, look), study.declaration.study.name
    tuned_runs = tuned_vanilla(study)
    table = gain_table(study.frame, look.rng(), look.metric, look.confidence, tuned_runs)
    over = f"{collector.level}, studentised bootstrap over training subsets, arms paired within"
    joined = "with_all" in table
    words = EQUAL.get(name, "with as many passes")
    tuned = "; every method is tuned with as many values on the same seeds"
    collector.figure(
        name,
        "What each method gains over training without it, alone and with all adjustments"
        if joined
        else f"What each method gains over training without it, {words}",
        table,
        partial(figures.in_halves, table, gain_plot, gain_height),
        note=f"{look.label}{tuned if study.declaration.study.tuning else ''}.",
        interval=over,
        width="double",
    )
    equal = table["epochs"].nunique() > 1
    beside = [column for column in TUNED if column in table]
    collector.table(
        name,
        "Gain over Vanilla, alone and with all adjustments, and cost"
        if joined
        else f"Gain over Vanilla, {words}",
        table,
        ["arm", "gain", *["with_all"] * joined, *beside, "passes", *["epochs"] * equal,
         *["gain_per_pass"] * (not equal), "seconds", "n"],
        note="Gains in points; passes: forward and backward, a step; "
        + _OF_TUNED * bool(beside)
        + ("" if equal else "gain per pass: for each pass beyond the one of Vanilla; ")
        + "seconds: of a run, over those of Vanilla, as the runs took them beside others.",
        interval=over,
        digits=2,
    )  # fmt: skip
    if not equal:
        collector.figure(
            f"{name}-cost",
            "What each method gains, and the passes that it takes",
            table,
            partial(cost_plot, table),
            height=COST_HEIGHT,
            note="Passes: forward and backward, per step. Squares: forms of ABA, or their noise.",
            interval=over,
            width="double",
        )
    _add_best(collector, study, look)
    _add_guidance(collector, study, look)
    return collector.exhibits


def _add_best(collector: Collector, study: StudyResult, look: Look) -> None:
    name = f"{study.declaration.study.name}-best"
    try:
        best = best_table(study.frame, look.metric, look.confidence)
    except comparisons.ComparisonError:
        return  # fewer than three subsets: nothing can be said of the best
    over = (
        f"{collector.level} for all methods at once, multiple comparisons with the best, over "
        "training subsets"
    )
    words = "A method whose interval ends at 0 from below is surely not the best."
    title = "Each method compared with the best of the others"
    collector.figure(
        name,
        title,
        best,
        partial(figures.in_halves, best, best_plot, gain_height),
        note=f"{look.label}. {words}",
        interval=over,
        width="double",
    )
    collector.table(
        name,
        title,
        best,
        ["arm", "mean", "behind", "may_be_best", "n"],
        note=words,
        interval=over,
        digits=2,
    )


# --- for the notebook ----------------------------------------------------------------------------

MANY = 5  # names in a sentence


def answers(shown: Exhibits, study: str = "comparators") -> list[str]:
    """What the figures of a study say, in sentences. shown: its exhibits."""
    table = shown.tables[study].data.set_index("arm")
    gained = _gain_text(table, ALL)
    place = 1 + int((table["gain"] > table.at[ALL, "gain"]).sum())
    said = [f"All adjustments gain {gained} points over Vanilla: place {place} of {len(table)}."]
    for name in best_names(shown, study):
        best = shown.figures[name].data
        may = list(best.loc[best["may_be_best"] != "no", "arm"])
        if len(may) > MANY:
            said.append(f"{len(may)} of {len(best)} arms may be the best, {may[0]} among them.")
        else:
            said.append(f"Of {len(best)} arms, only {tables.listed(may)} may be the best.")
    single = table[table["passes"].round(2) == 1]
    if len(single):
        most = _gain_text(single, single.index[0])
        said.append(f"Of the methods of one pass a step, {single.index[0]} gains most: {most}.")
    return said


def _gain_text(table: pd.DataFrame, arm: str) -> str:
    gain, low, high = table.loc[arm, ["gain", "gain_low", "gain_high"]].to_numpy(np.float64)
    return tables.interval_text(float(gain), float(low), float(high))


def best_names(shown: Exhibits, study: str = "comparators") -> list[str]:
    """The figure of multiple comparisons with the best; none where subsets are too few."""
    return [name for name in (f"{study}-best",) if name in shown.figures]


def ranks(results: Path | str, look: Look, study: str = "comparators") -> tuple[Exhibit, ...]:
    """Mean ranks of the methods alone over the data sets that have the study; () where they are
    fewer than two."""
    try:
        return across.shown(results, study, VANILLA, look, _apart)
    except ResultsError:
        return ()
