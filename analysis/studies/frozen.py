"""Frozen: what each adjustment does to a trained model, before and after ABA training."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aba_core.adjustments import ADJUSTMENTS, Group
from aba_core.arms import Arm
from aba_core.identity import short_hash
from analysis import figures, statistics, tables
from analysis.exhibits import Collector, Exhibits, ExportError, Look
from analysis.results import ResultsError, StudyResult
from analysis.statistics import CONFIDENCE
from analysis.studies.isolation import arm_name
from analysis.study import Frozen, Settings, Study

VALUES = {
    "loss": "Loss (nats)",
    "accuracy": "Accuracy (%)",
    "class_score": "Score of the class",
    "loss_change": "Change of loss (nats)",
    "accuracy_change": "Change of accuracy (points)",
    "class_score_change": "Change of class score",
}
_GROUP_OF = {adjustment.index: str(adjustment.group) for adjustment in ADJUSTMENTS}


def declare(settings: Settings) -> Study:
    """Vanilla and MendABA, each evaluated under every adjustment and strength."""
    arms = [
        Arm.of("Vanilla", method="vanilla"),
        Arm.of("MendABA", method="mendaba", **settings.loss),
    ]
    return settings.study("frozen", arms, frozen=Frozen(strengths=settings.strength["frozen"]))


# --- tables --------------------------------------------------------------------------------------


def frozen_runs(frozen: pd.DataFrame, strength: float) -> pd.DataFrame:
    """Changes at one strength, averaged over the adjustments of a group.

    Rows: (arm, group, seed); columns accuracy_change, loss_change, class_score_change.
    """
    names = ["accuracy_change", "loss_change", "class_score_change"]
    tables.require(frozen, ("arm", "seed", "adjustment", "strength", *names), "frozen results")
    here = frozen[np.isclose(frozen["strength"].astype(float), strength)]
    here = here.assign(group=here["adjustment"].map(_GROUP_OF))
    return here.groupby(["arm", "group", "seed"])[names].mean()


def frozen_group_table(
    frozen: pd.DataFrame,
    rng: np.random.Generator,
    *,
    strength: float,
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """What the groups do to frozen models at one strength: one row per (arm, group).

    Columns: arm, group, n (models), and with intervals over models accuracy_change (points),
    loss_change (nats), class_score_change (logits).
    """
    by_run = frozen_runs(frozen, strength)
    rows = []
    for arm in frozen["arm"].unique():
        for group in figures.LEGEND_ORDER:
            models = by_run.loc[(arm, group)]
            row: dict[str, object] = {"arm": arm, "group": group, "n": len(models)}
            for name in by_run.columns:
                values = models[name].to_numpy(np.float64)
                interval = statistics.mean_interval(
                    values[np.isfinite(values)], rng, confidence=confidence
                )
                row |= tables.with_interval(str(name), interval)
            rows.append(row)
    return pd.DataFrame(rows)


def curve_table(
    frozen: pd.DataFrame,
    rng: np.random.Generator,
    *,
    values: Sequence[str] = ("accuracy", "loss", "class_score"),
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """Means of the groups against the strength, the adjustment being the unit.

    frozen: one row per (arm, seed, adjustment, strength), or their means over seeds. One row per
    (arm, group, strength). Columns: those, n_adjustments, and the values with intervals over the
    adjustments of a group.
    """
    arm = ["arm"] if "arm" in frozen else []
    means = frozen.groupby([*arm, "adjustment", "strength"], sort=False)[list(values)].mean()
    means = means.reset_index()
    means["group"] = means["adjustment"].map(_GROUP_OF)
    rows = []
    for key, part in means.groupby([*arm, "group", "strength"], sort=False):
        row: dict[str, object] = dict(zip([*arm, "group", "strength"], key, strict=True))
        row["n_adjustments"] = len(part)
        for value in values:
            numbers = part[value].dropna().to_numpy(np.float64)
            interval = statistics.mean_interval(numbers, rng, confidence=confidence)
            row |= tables.with_interval(value, interval)
        rows.append(row)
    return pd.DataFrame(rows)


def frozen_of_one_arm(frozen: pd.DataFrame, arm: str | None = None) -> pd.DataFrame:
    """The rows of one arm; `arm` may be left out where there is one, or no column "arm"."""
    if "arm" not in frozen.columns:
        return frozen
    arms = [str(name) for name in frozen["arm"].unique()]
    if arm is None and len(arms) > 1:
        raise ValueError(f"frozen results hold several arms ({', '.join(arms)}); choose one")
    if arm is not None and arm not in arms:
        raise ValueError(f"unknown arm {arm!r}; frozen results hold {', '.join(arms)}")
    return frozen if arm is None else frozen[frozen["arm"] == arm]


def measured_group_table(
    frozen: pd.DataFrame,
    rng: np.random.Generator,
    *,
    strength: float,
    arm: str | None = None,
    threshold: float = 0.0,
    metric: str = "loss_change",
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """Group of each adjustment by what it does to a frozen model's loss. 27 rows.

    frozen: one row per (arm, seed, adjustment, strength) with the change of the loss against the
    unadjusted input; `arm` may be left out where there is one. An adjustment is Epsilon where the
    whole interval over seeds lies above `threshold`, Delta where it lies below −threshold, Neutral
    otherwise, and "" where there is no interval (one seed).

    threshold is the change of loss that counts as none, in the unit of `metric`. With 0 the label
    depends on the number of seeds: with many, the smallest change stops being Neutral; with few,
    Neutral may only mean too few. Choose it beforehand, for example as 5 % of the unadjusted loss.
    `equivalent` tells the Neutral adjustments whose whole interval lies within ±threshold.

    Columns: index, low, middle, high, group (nominal), n, n_missing, change (with interval),
    measured_group, equivalent, agrees.
    """
    tables.require(frozen, ("seed", "adjustment", "strength", metric), "frozen results")
    if threshold < 0:
        raise ValueError(f"threshold {threshold} is negative; give the size of a change, 0 or more")
    chosen = frozen_of_one_arm(frozen, arm)
    strengths = np.sort(chosen["strength"].dropna().unique())
    if not np.isclose(strengths, strength).any():
        known = ", ".join(f"{value:g}" for value in strengths)
        raise ValueError(f"no frozen results at strength {strength:g}; known: {known}")
    chosen = chosen[np.isclose(chosen["strength"].astype(float), strength)]
    if chosen.duplicated(["seed", "adjustment"]).any():
        raise ValueError("frozen results repeat a (seed, adjustment); choose one dataset and model")

    rows = []
    for stream, entry in zip(
        rng.spawn(27), tables.adjustment_table().to_dict("records"), strict=True
    ):
        values = chosen.loc[chosen["adjustment"] == entry["index"], metric].to_numpy(np.float64)
        finite = values[np.isfinite(values)]
        interval = statistics.mean_interval(finite, stream, confidence=confidence)
        if interval.low > threshold:
            label = "Epsilon"
        elif interval.high < -threshold:
            label = "Delta"
        else:
            label = "Neutral" if math.isfinite(interval.low) else ""
        row = {key: entry[key] for key in ("index", "low", "middle", "high", "group")}
        row |= {"n": finite.size, "n_missing": values.size - finite.size}
        row |= tables.with_interval("change", interval)
        row["measured_group"] = label
        row["equivalent"] = interval.low >= -threshold and interval.high <= threshold
        row["agrees"] = label == entry["group"]
        rows.append(row)
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Agreement:
    """Share of adjustments with equal labels, Cohen's kappa, and the number compared.

    kappa is NaN where both give one and the same label to all: chance would agree as well.
    """

    share: float
    kappa: float
    n: int


def agreement(table: pd.DataFrame) -> Agreement:
    """Agreement of nominal and measured groups in a `measured_group_table`; undecided left out.

    Chance gives a share of about 1/3 and a kappa of 0.
    """
    tables.require(table, ("group", "measured_group"), "measured group table")
    decided = table[table["measured_group"] != ""]
    if decided.empty:
        return Agreement(math.nan, math.nan, 0)
    from sklearn.metrics import cohen_kappa_score

    nominal = decided["group"].to_numpy(dtype=str)
    measured = decided["measured_group"].to_numpy(dtype=str)
    defined = np.union1d(nominal, measured).size > 1
    return Agreement(
        float((nominal == measured).mean()),
        float(cohen_kappa_score(nominal, measured)) if defined else math.nan,
        len(decided),
    )


# --- words ---------------------------------------------------------------------------------------


def agreement_sentence(arm: str, table: pd.DataFrame, strength: float) -> str:
    """How far nominal and measured groups of a `measured_group_table` agree, in words."""
    same = agreement(table)
    if not same.n:
        return f"{arm}: one run gives no interval, so no measured group."
    return (
        f"{arm}: measured and nominal group agree for {round(same.share * same.n)} of {same.n} "
        f"adjustments (κ = {same.kappa:.2f}) at strength {strength:g}."
    )


def robustness_sentences(
    frozen: pd.DataFrame,
    rng: np.random.Generator,
    *,
    strength: float,
    confidence: float = CONFIDENCE,
) -> list[str]:
    """What Epsilon does to the accuracy of each arm's models, against those of the first arm."""
    by_run = frozen_runs(frozen, strength)["accuracy_change"]
    first, *others = [str(arm) for arm in frozen["arm"].unique()]
    sentences = []
    for arm in others:
        a, b = (by_run.loc[(name, "Epsilon")].dropna() for name in (arm, first))
        change = statistics.difference_interval(a, b, deepcopy(rng), confidence=confidence)
        text = tables.comparison_sentence(arm, first, change.estimate, change.low, change.high)
        sentences.append(f"Change of accuracy under Epsilon at strength {strength:g}: {text}.")
    return sentences


# --- figures -------------------------------------------------------------------------------------


def frozen_curves(
    frozen: pd.DataFrame,
    groups: pd.DataFrame,
    ax: Axes | None = None,
    *,
    value: str = "loss_change",
    arm: str | None = None,
) -> Axes:
    """What the adjustments do to a frozen model, against the strength.

    frozen: one row per (arm, seed, adjustment, strength). groups: from `curve_table`. Thin lines
    are adjustments (means over seeds), thick lines the groups' means, bands their intervals over
    the adjustments of a group.
    """
    if value not in VALUES:
        raise ValueError(f"unknown value {value!r}; known: {', '.join(VALUES)}")
    frozen, groups = frozen_of_one_arm(frozen, arm), frozen_of_one_arm(groups, arm)
    ax = figures.given_or_new(ax, figures.ONE_COLUMN, 62)
    text, width, marker = figures.sizes(ax)
    means = frozen.groupby(["adjustment", "strength"])[value].mean().unstack("strength")
    strengths = means.columns.to_numpy(np.float64)
    for index, curve in means.iterrows():
        colour = figures.COLOURS[_GROUP_OF[int(index)]]  # type: ignore[call-overload]
        ax.plot(strengths, curve.to_numpy(), color=colour, lw=0.5 * width, alpha=0.45, zorder=1)
    for group in map(str, Group):
        of_group = groups[groups["group"] == group].sort_values("strength")
        if of_group.empty:
            continue
        colour = figures.COLOURS[group]
        low, high = of_group[f"{value}_low"], of_group[f"{value}_high"]
        ax.fill_between(of_group["strength"], low, high, color=colour, alpha=0.2, lw=0, zorder=2)
        ax.plot(
            of_group["strength"], of_group[value], color=colour, lw=1.5 * width,
            marker=figures.MARKERS[group], ms=0.9 * marker, label=group, zorder=3,
        )  # fmt: skip
    if value.endswith("_change"):
        ax.axhline(0, color="black", lw=0.6 * width, zorder=0)
    if strengths.size and strengths.min() > 0 and strengths.max() >= 20 * strengths.min():
        ax.set_xscale("log")
    if strengths.size <= 7:
        shown = _apart(strengths, ax)
        ax.set_xticks(shown, [f"{s:g}" for s in shown])
        ax.set_xticks([], minor=True)
    ax.set_xlabel("Strength s (input SD)")
    ax.set_ylabel(VALUES[value])
    handles, labels = ax.get_legend_handles_labels()
    order = [labels.index(g) for g in figures.LEGEND_ORDER if g in labels]
    ax.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="best",
        fontsize=0.875 * text,
        frameon=False,
    )
    return ax


def _apart(values: np.ndarray, ax: Axes) -> np.ndarray:
    """The ends, and from the left those between whose tick labels would not touch."""
    width = 0.6 * figures.panel_size(ax)[0]
    scale = np.log if ax.get_xscale() == "log" else np.asarray
    places = width * (scale(values) - scale(values[0])) / (np.ptp(scale(values)) or 1.0)
    room = 2.6 * figures.sizes(ax)[0]
    kept = [0]
    for i in range(1, values.size - 1):
        if places[i] - places[kept[-1]] >= room and places[-1] - places[i] >= room:
            kept.append(i)
    return values[[*kept, values.size - 1]] if values.size > 1 else values


def frozen_panels(
    frozen: pd.DataFrame,
    groups: pd.DataFrame,
    arms: Sequence[str],
    *,
    width: str = "double",
    values: Sequence[str] = ("accuracy", "loss", "class_score"),
) -> Figure:
    """`frozen_curves` for several values (down) and arms (across), each value on a common scale.

    On a slide the other way round, since it is wide.
    """
    across = width != "slide"
    rows, columns = (len(values), len(arms)) if across else (len(arms), len(values))
    shared = {"sharex": True, "sharey": "row" if across else "col"}
    figure, axes = figures.panels(width, 56.0 * rows, rows, columns, **shared)
    grid = axes if across else axes.T
    for line, value in zip(grid, values, strict=True):
        for ax, arm in zip(line, arms, strict=True):
            frozen_curves(frozen, groups, ax, value=value, arm=arm)
            if ax is not grid[0, 0]:
                ax.get_legend().remove()
            if across:
                ax.label_outer()
            elif ax is not line[-1]:
                ax.set_xlabel("")
    for ax, arm in zip(grid[0], arms, strict=True):
        text = figures.sizes(ax)[0]
        if across:
            ax.set_title(
                figures.wrapped(f"Trained with {arm}", 0.75 * figures.panel_size(ax)[0], text)
            )
        else:
            room = 0.9 * figures.panel_size(ax)[1]
            name = figures.wrapped(arm, room, text, lines=2)
            ax.set_ylabel(f"{name}\n{ax.get_ylabel()}")
    return figure


# --- exhibits ------------------------------------------------------------------------------------


def exhibits(
    study: StudyResult, look: Look, *, strength: float = 0.0, neutral: float = 0.05
) -> Exhibits:
    """Figures frozen and measured-groups-ARM; tables frozen-groups and measured-groups-ARM.

    strength: see `frozen_strength`. neutral: see `frozen_threshold`.
    """
    collected = Collector(study, look)
    frame = _evaluated(study)
    at = frozen_strength(study, strength)
    name = study.declaration.study.name
    prefix = "" if name == "frozen" else f"{name}-"
    _add_curves(collected, frame, prefix)
    collected.table(
        f"{prefix}frozen-groups",
        f"What the groups do to frozen models at strength {at:g}",
        frozen_group_table(frame, look.rng(), strength=at, confidence=look.confidence),
        note="Accuracy in points, loss in nats, score in logits.",
        interval=collected.over_runs,
        digits=2,
    )
    for arm in map(str, frame["arm"].unique()):
        of_arm = frame[frame["arm"] == arm]
        threshold = frozen_threshold(of_arm, neutral)
        measured = measured_group_table(
            of_arm, look.rng(), strength=at, threshold=threshold, confidence=look.confidence
        )
        note = f"Strength {at:g}; a change of loss within ±{threshold:.2g} counts as none."
        collected.figure(
            prefix + measured_name(arm),
            f"Change of loss per adjustment, {arm}",
            measured,
            partial(
                figures.adjustment_heatmap,
                measured,
                value="change",
                label=f"{arm}: change of loss (nats)",
                digits=2,
            ),
            height=78,
            note=note,
            interval=f"half of them after ±; {collected.over_runs}",
        )
        collected.table(
            prefix + measured_name(arm),
            f"Measured group of each adjustment, {arm}",
            measured,
            ["index", "low", "middle", "high", "group", "n", "change", "measured_group", "agrees"],
            note=note,
            interval=collected.over_runs,
            digits=2,
        )
    return collected.exhibits


def _add_curves(collected: Collector, frame: pd.DataFrame, prefix: str) -> None:
    """Figures of accuracy, loss and class score against strength, two arms a figure."""
    names = [
        f"{value}{change}"
        for value in ("accuracy", "loss", "class_score")
        for change in ("", "_change")
    ]
    curves = frame.groupby(["arm", "adjustment", "strength"], sort=False)[names].mean()
    curves = curves.reset_index()
    look = collected.look
    groups = curve_table(curves, look.rng(), confidence=look.confidence)
    arms = [str(arm) for arm in frame["arm"].unique()]
    for number in range(0, len(arms), 2):  # a pair fits one printed column
        pair = arms[number : number + 2]
        collected.figure(
            f"{prefix}frozen" + (f"-{number // 2 + 1}" if number else ""),
            "Accuracy, loss and class score of frozen models against strength",
            curves[curves["arm"].isin(pair)],
            lambda width, pair=pair: frozen_panels(  # type: ignore[misc]
                curves, groups, pair, width=width
            ),
            note="Thin lines are adjustments, thick lines the means of groups.",
            interval=collected.over_adjustments,
            width="double",
        )


def frozen_strength(study: StudyResult, strength: float = 0.0) -> float:
    """The evaluated strength to judge groups at: the one given, or for 0 the one nearest to that
    which the models were trained with."""
    evaluated = np.sort(_evaluated(study)["strength"].unique())
    trained = [s for arm in study.declaration.study.arms if (s := arm.setting("strength"))]
    near = strength or (trained or [float(np.median(evaluated))])[0]
    at = float(evaluated[np.abs(evaluated - near).argmin()])
    if strength and not np.isclose(at, strength):
        known = ", ".join(f"{value:g}" for value in evaluated)
        raise ExportError(f"strength is {strength:g}; allowed in this study: {known}, 0")
    return at


def frozen_threshold(frame: pd.DataFrame, neutral: float) -> float:
    """The change of loss that counts as none: a share of the unadjusted loss."""
    return neutral * float((frame["loss"] - frame["loss_change"]).mean())


def measured_name(arm: str) -> str:
    """The name of the exhibits with an arm's measured groups."""
    slug = re.sub(r"[^\w.-]+", "-", arm.lower()).strip("-.") or "arm"
    if len(slug) > 60:  # file names have an end
        slug = f"{slug[:50]}-{short_hash(arm)[:6]}"
    return f"measured-groups-{slug}"


def measured_groups(study: StudyResult, neutral: float = 0.05) -> dict[str, list[str]]:
    """{group: arms "adjustment i"} as the change of loss of frozen models, trained without
    augmentation, sorts them."""
    frame = _evaluated(study)
    vanilla = [arm.name for arm in study.declaration.study.arms if arm.vanilla]
    models = frame[frame["arm"].isin(vanilla)]
    table = measured_group_table(
        models,
        np.random.default_rng(0),
        strength=frozen_strength(study),
        threshold=frozen_threshold(models, neutral),
    )
    return {
        str(group): [arm_name(i) for i in part["index"]]
        for group, part in table.groupby("measured_group")
        if group
    }


def _evaluated(study: StudyResult) -> pd.DataFrame:
    frame = study.frame[study.frame["status"] == "finished"]
    if frame.empty:
        raise ResultsError(f"every run of {study.declaration.study.name} diverged; nothing to show")
    return frame
