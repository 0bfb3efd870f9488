"""Variability: runs that differ by one source of randomness alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from aba_core.arms import METHODS, VANILLA, Arm
from analysis import figures, statistics
from analysis.chance import control_arm
from analysis.exhibits import Collector, Exhibits, Look
from analysis.results import StudyResult
from analysis.statistics import CONFIDENCE, Interval
from analysis.study import Settings, Study
from analysis.tables import interval_text, shown_counts, with_interval
from analysis.variability import PAIRS, Sample, over_pairs, ratio_interval, reduction_interval

# What is left free in each arm: purposes of randomness, a flipped bit, the training subset. All
# else is held at a seed that no run has. "all" is what differs between runs of every other study.
SOURCES: dict[str, tuple[str, ...]] = {
    "initialisation": ("initialisation",),
    "order": ("order",),
    "adjustment": ("adjustment",),
    "magnitude": ("magnitude",),
    "target": ("target",),
    "one bit": ("bit",),
    "all": ("initialisation", "order", "adjustment", "magnitude", "target"),
    "subset": ("subset",),
    "all and subset": ("initialisation", "order", "adjustment", "magnitude", "target", "subset"),
}
EVERY_DRAW = "all"
HELD_SEED = 2000


class VariabilityError(ValueError):
    """Runs whose variability cannot be measured; one line saying why and what to do."""


def declare(settings: Settings) -> Study:
    """Every source for Vanilla and MendABA."""
    # The class score has a target to draw, the loss has none.
    mendaba = {
        "method": "mendaba",
        "strength": settings.strength["isolation"],
        "target": "class_score",
        "top_k": settings.top_k,
    }
    arms = [*_arms("Vanilla", {"method": "vanilla"}), *_arms("MendABA", mendaba)]
    return settings.study("variability", arms, keep_logits=True)


def declare_linear(settings: Settings) -> Study:
    """The same for Vanilla with a linear model, which has one minimum."""
    return settings.study(
        "variability-linear",
        _arms("Vanilla", {"method": "vanilla"}),
        config={"model": "linear"},
        seeds=settings.seeds["variability"],
        keep_logits=True,
    )


def _purposes(vanilla: bool) -> tuple[str, ...]:
    """Purposes of randomness that a run has."""
    drawn = () if vanilla else ("adjustment", "magnitude", "target")
    return ("initialisation", "order", *drawn)


def _arms(title: str, definition: dict[str, Any]) -> list[Arm]:
    """One arm a source, whose runs differ by it alone."""
    purposes = _purposes(definition["method"] == "vanilla")
    return [
        Arm.of(
            name=f"{title}: {source}",
            **definition,
            held={purpose: HELD_SEED for purpose in purposes if purpose not in free},
            flip_bit="bit" in free,
            subset_per_run="subset" in free,
        )
        for source, free in SOURCES.items()
        if any(name in (*purposes, "bit", "subset") for name in free)
    ]


# --- what differs between the runs of an arm -----------------------------------------------------


def sources_of(study: Study) -> dict[str, tuple[str, str]]:
    """{arm: (method, source)}: what its runs train with, and what alone differs between them.

    Arms that differ in what is held, in the flipped bit and in the subset alone have one method. A
    source that is none of SOURCES is told by what is left free.
    """
    return {arm.name: (_method_of(arm), _source_of(arm)) for arm in study.arms}


def _method_of(arm: Arm) -> str:
    if arm.vanilla:
        return VANILLA
    kind = arm.setting("kind")
    return (
        METHODS[kind].title
        if kind in METHODS and kind != "aba"
        else (arm.setting("adjustments") or arm.name)
    )


def _source_of(arm: Arm) -> str:
    free = [purpose for purpose in _purposes(arm.vanilla) if purpose not in dict(arm.held)]
    free += ["bit"] * arm.flip_bit + ["subset"] * arm.subset_per_run
    for source, differs in SOURCES.items():
        of_arm = [name for name in differs if name in (*_purposes(arm.vanilla), "bit", "subset")]
        if free and of_arm == free:
            return source
    return " and ".join(free) or "nothing"


def runs_of(frame: pd.DataFrame, metric: str = "validation_accuracy") -> Sample:
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
    return Sample(
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
    sources: Mapping[str, tuple[str, str]],
    rng: np.random.Generator,
    *,
    metric: str = "validation_accuracy",
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """The protocol's table: one row an arm. sources: {arm: (method, source)}, see `sources_of`.

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
        method, source = sources[arm]
        row: dict[str, Any] = {"method": method, "source": source, "n": len(runs.accuracy)}
        row["n_diverged"] = int((part["status"] != "finished").sum())
        for name, values in (("accuracy_sd", runs.accuracy), ("loss_sd", runs.loss)):
            spread = statistics.sd_interval(
                values, stream, confidence=confidence, method="bootstrap"
            )
            row |= with_interval(name, spread)
            row[f"{name}_error"] = statistics.sd_error(values, stream)
        for name, matrix in runs.pairs.items():
            row |= with_interval(name, over_pairs(matrix, confidence=confidence))
        rows.append(row)
    bases = {row["method"]: row for row in rows if row["source"] == EVERY_DRAW}
    unknown = Interval(math.nan, math.nan, math.nan, 0, confidence, "none")
    for row in rows:
        base, ratio = bases.get(row["method"], row), unknown
        if base is not row:
            ratio = ratio_interval(
                row["accuracy_sd"], row["n"], base["accuracy_sd"], base["n"], confidence=confidence
            )
        row |= with_interval("ratio", ratio)
    return pd.DataFrame(rows)


def reduction_table(
    frame: pd.DataFrame,
    sources: Mapping[str, tuple[str, str]],
    *,
    base: str,
    metric: str = "validation_accuracy",
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """How much less the runs of each method vary than those of `base`, source by source.

    sources: {arm: (method, source)}; base: a method. Columns: method, source, n, reduction (%) with
    the jackknife's interval over the runs of both arms.
    """
    rows = []
    arms = [str(arm) for arm in frame["arm"].unique()]
    arm_of = {sources[arm]: arm for arm in arms}
    for arm in arms:
        method, source = sources[arm]
        if method == base or (base, source) not in arm_of:
            continue
        runs, of_base = (
            runs_of(frame[frame["arm"] == name], metric) for name in (arm, arm_of[base, source])
        )
        row: dict[str, Any] = {"method": method, "source": source, "n": len(runs.accuracy)}
        reduced = reduction_interval(runs, of_base, confidence=confidence)
        rows.append(row | with_interval("reduction", reduced))
    return pd.DataFrame(rows)


# --- sentences -----------------------------------------------------------------------------------


def sentences(table: pd.DataFrame) -> list[str]:
    """What the spreads say, in words: all draws, each alone, one bit, other training samples."""
    lines = []
    for method, part in table.groupby("method", sort=False):
        rows = {row["source"]: row for row in part.to_dict("records")}
        every, bit, subset = (rows.get(name) for name in ("all", "one bit", "subset"))
        if every is None or not np.isfinite(every["accuracy_sd"]):
            continue
        alone = [s for s in rows if s not in ("all", "subset", "all and subset", "one bit")]
        parts = [f"{source} {_spread(rows[source])}" for source in alone]
        lines.append(
            f"{method}: runs that differ in every draw have an SD of {_spread(every)} points of "
            f"accuracy; in one alone: {', '.join(parts)}."
        )
        if bit is not None:
            lines.append(
                f"{method}: runs that differ in the last bit of one weight have an SD of "
                f"{_spread(bit)} points, and disagree on {bit['disagreement']:.2g} % of the "
                f"samples (all draws: {every['disagreement']:.2g} %)."
            )
        if subset is not None and np.isfinite(subset["accuracy_sd"]):
            lines.append(
                f"{method}: runs that differ in their training samples alone have an SD of "
                f"{_spread(subset)} points, which intervals over seeds do not know of."
            )
    return lines


def _spread(row: dict) -> str:
    if row["accuracy_sd"] == 0:
        return "0"
    return interval_text(row["accuracy_sd"], row["accuracy_sd_low"], row["accuracy_sd_high"], 2)


# --- what is shown -------------------------------------------------------------------------------


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    """Figures variability and variability-disagreement; tables variability, variability-pairs and
    variability-reduction. Of the linear model: tables variability-linear and -linear-pairs."""
    collector = Collector(study, look)
    declared = study.declaration.study
    name, sources = declared.name, sources_of(declared)
    options: dict[str, Any] = {"metric": look.metric, "confidence": look.confidence}
    table = variability_table(study.frame, sources, look.rng(), **options)
    jackknife = f"{collector.level}, jackknife over runs"
    what = f"{look.label[0].lower()}{look.label[1:]}".replace(" (%)", "")
    if name != "variability-linear":
        for stem, value, label, interval in (
            ("variability", "accuracy_sd", f"SD of {what} (points)", collector.over_runs),
            ("variability-disagreement", "disagreement", "Samples disagreed on (%)", jackknife),
        ):
            collector.figure(
                stem,
                f"{label.split(' (')[0]} between runs that differ in one thing alone",
                table,
                partial(variability_plot, table, value=value, label=label),
                height=variability_height(table),
                note="Everything else is held at one seed; dashed: runs that differ in every draw.",
                interval=interval,
            )
    counts = ["method", "source", "n", *shown_counts(table, "n_diverged")]
    collector.table(
        name,
        "Spread of accuracy and cross-entropy, by what differs between runs",
        table,
        [*counts, "accuracy_sd", "accuracy_sd_error", "loss_sd", "loss_sd_error", "ratio"],
        note=f"{look.label}; errors by bootstrap.",
        interval=f"{collector.over_runs}; of the ratio by F",
        digits=2,
    )
    collector.table(
        f"{name}-pairs",
        "How pairs of runs differ, by what differs between them",
        table,
        [*counts, *PAIRS],
        note="Predictions of two runs on the validation samples; the gain is in accuracy, by "
        "averaging their probabilities.",
        interval=jackknife,
        digits=2,
    )
    base = sources.get(control_arm(declared), ("", ""))[0]
    reduced = reduction_table(study.frame, sources, base=base, **options)
    if len(reduced):
        collector.table(
            "variability-reduction",
            "How much less runs with augmentation vary than runs without",
            reduced,
            note=f"Mean over the five metrics of 1 − v/v of {base}, for the correlation of 1 − ρ.",
            interval=f"{collector.level}, jackknife over the runs of both",
        )
    return collector.exhibits


# Neither is the colour of a group.
_METHOD_LOOKS = (("o", "black", "black"), ("s", "white", figures.OTHER_COLOURS[1]))


def variability_plot(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    value: str = "accuracy_sd",
    label: str = "SD of validation accuracy (points)",
) -> Axes:
    """One metric of runs that differ by one source, with its interval, source by source.

    table: from `variability.variability_table`, at most two methods. The dashed lines are each
    method's runs that differ in every draw.
    """
    ax = figures.given_or_new(ax, figures.ONE_COLUMN, variability_height(table))
    text, width, marker = figures.sizes(ax)
    known = list(SOURCES)
    sources = sorted(table["source"].unique(), key=lambda s: known.index(s) if s in known else 99)
    methods = list(table["method"].unique())
    limits = figures.limits_of(table, [value]) or (0.0, 1.0)
    if (table[value].dropna() >= 0).all():
        limits = min(0.0, limits[0]), limits[1]
    ax.set_xlim(limits)
    handles = []
    for number, method in enumerate(methods):
        symbol, face, colour = _METHOD_LOOKS[number % 2]
        shift = 0.17 * (len(methods) - 1 - 2 * number)
        for _, row in table[table["method"] == method].iterrows():
            place = len(sources) - 1 - sources.index(row["source"])
            if not np.isfinite(row[value]):
                continue
            ends = row[f"{value}_low"], row[f"{value}_high"]
            figures.interval_line(ax, place + shift, *ends, limits, color=colour, lw=0.9 * width)
            ax.plot(row[value], place + shift, symbol, mfc=face, mec=colour, ms=0.8 * marker)
            if row["source"] == EVERY_DRAW:
                ax.axvline(row[value], color=colour, lw=0.6 * width, ls=(0, (4, 2)), zorder=-1)
        handles.append(
            Line2D([], [], color=colour, mfc=face, marker=symbol, ms=0.8 * marker, label=method)
        )
    for place in range(len(sources)):
        ax.axhline(place, color="0.92", lw=0.5 * width, zorder=-2)
    ax.set_ylim(-0.6, len(sources) - 0.4)
    ax.set_yticks(range(len(sources) - 1, -1, -1), [s.capitalize() for s in sources])
    ax.tick_params(axis="y", length=0, labelsize=0.875 * text)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(label)
    figures.legend_above(ax, handles, ncols=2)
    return ax


def variability_height(table: pd.DataFrame) -> float:
    """Height in mm at which `variability_plot` can show every source, on paper."""
    return 22.0 + 6.5 * table["source"].nunique()
