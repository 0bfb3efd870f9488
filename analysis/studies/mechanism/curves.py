"""Figures of the mechanism: a metric against the training step, and effects through mediators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from analysis import figures
from analysis.tables import LABELS

_FURTHER_COLOURS = figures.OTHER_COLOURS
_FURTHER_MARKERS = ("s", "D", "P", "X", "p")


def _arm_looks(arms: Sequence[str], control: str) -> dict[str, tuple[str, str, Any]]:
    """Colour, marker and line of each arm: those of its groups where it is named after them, and a
    dashed black line for the control."""
    looks: dict[str, tuple[str, str, Any]] = {}
    number = 0
    for arm in arms:
        if arm == control:
            looks[arm] = (figures.COLOURS["vanilla"], "", (0, (4, 2)))
        elif arm in figures.COLOURS:
            symbol = figures.MARKERS.get(arm, "D" if arm == "All" else "s")
            looks[arm] = (figures.COLOURS[arm], symbol, "-")
        else:
            place = number % len(_FURTHER_COLOURS)
            looks[arm] = (_FURTHER_COLOURS[place], _FURTHER_MARKERS[place], "-")
            number += 1
    return looks


def metric_curves(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    metric: str,
    log: bool = False,
    level: float | None = None,
    control: str = "",
) -> Axes:
    """One metric against the training step, a curve an arm, with intervals over runs.

    table: from `measured.metric_table`. Arms stand a little beside one another at each step. log:
    a logarithmic axis, where an interval that reaches 0 or below goes on to the edge. level: a
    value to compare with, dotted. control: the arm that the others are compared with, dashed.
    """
    shown = table[table["metric"] == metric]
    if shown.empty:
        raise ValueError(f"unknown metric {metric!r}; known: {', '.join(table['metric'].unique())}")
    ax = figures.given_or_new(ax, figures.ONE_COLUMN, 60)
    text, width, marker = figures.sizes(ax)
    looks = _arm_looks([str(arm) for arm in shown["arm"].unique()], control)
    apart = 0.011 * float(np.ptp(shown["step"])) if len(looks) > 1 else 0.0
    for place, (arm, (colour, symbol, line)) in enumerate(looks.items()):
        curve = shown[shown["arm"] == arm].sort_values("step")
        steps = curve["step"] + apart * (place - (len(looks) - 1) / 2)
        low, high = (curve[f"mean_{end}"].to_numpy(np.float64) for end in ("low", "high"))
        low = np.where(low > 0, low, 1e-30) if log else low
        ax.vlines(steps, low, high, color=colour, lw=0.9 * width, zorder=2)
        ax.plot(
            steps, curve["mean"], color=colour, ls=line, marker=symbol or "o", lw=0.9 * width,
            mfc=colour if symbol else "white", ms=0.75 * marker, label=arm, zorder=3,
        )  # fmt: skip
    if level is not None:
        ax.axhline(level, color="0.35", lw=0.8 * width, ls=(0, (1, 2)), zorder=1)
    if log:
        ax.set_yscale("log")
        bottom, top = _positive_range(shown)
        ax.set_ylim(bottom, top)
        few = np.log10(top / bottom) < 2
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    elif shown["mean_low"].min() < -1e-9:
        ax.axhline(0, color="black", lw=0.6 * width, zorder=0)
    ax.set_xlabel("Training step")
    ax.set_ylabel(
        figures.wrapped(LABELS.get(metric, metric), 0.7 * figures.panel_size(ax)[1], text, 2)
    )
    return ax


def _positive_range(table: pd.DataFrame) -> tuple[float, float]:
    """Limits of a logarithmic axis: all means and upper ends, lower ends within a tenth of them."""
    mean, low, high = (table[f"mean{end}"].to_numpy(np.float64) for end in ("", "_low", "_high"))
    near = low[np.isfinite(low) & (low > 0.1 * mean)]
    shown = np.concatenate([mean, high, near])
    shown = shown[np.isfinite(shown) & (shown > 0)]
    return (0.8 * shown.min(), 1.25 * shown.max()) if shown.size else (0.1, 1.0)


def metric_panels(
    table: pd.DataFrame,
    metrics: Sequence[str],
    width: str = "double",
    *,
    log: bool = False,
    share: bool = True,
    levels: Sequence[float] = (),
    control: str = "",
) -> Figure:
    """`metric_curves` for several metrics, up to three beside one another, with one legend above.

    share: one scale for all panels. levels: one a metric, or none.
    """
    columns = 1 if width == "single" else min(len(metrics), 2 if len(metrics) == 4 else 3)
    rows = -(-len(metrics) // columns)
    shared = {"sharex": True, "sharey": share}
    figure, axes = figures.panels(width, 52.0 * rows + 10, rows, columns, **shared)
    for number, (ax, metric) in enumerate(zip(axes.flat, metrics, strict=False)):
        level = levels[number] if levels else None
        metric_curves(table, ax, metric=metric, log=log, level=level, control=control)
        ax.tick_params(labelleft=True)
        if ax.get_subplotspec().rowspan.stop < rows:
            ax.set_xlabel("")
    for ax in axes.flat[len(metrics) :]:
        ax.set_visible(False)
    if log and share:
        axes[0, 0].set_ylim(_positive_range(table[table["metric"].isin(list(metrics))]))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=3 if width == "single" else len(labels),
        fontsize=0.875 * figures.sizes(axes[0, 0])[0],
        frameon=False,
        columnspacing=1.2,
    )
    return figure


def mediation_plot(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Indirect effect of every arm through every mediator, with its interval, in points.

    table: from `measured.mediation_table`. Filled: consistent with mediation. The short upright
    line is the whole effect of the arm.
    """
    ax = figures.given_or_new(ax, figures.ONE_COLUMN, mediation_height(table))
    text, width, marker = figures.sizes(ax)
    mediators = list(dict.fromkeys(table["mediator"]))
    looks = _arm_looks([str(arm) for arm in table["arm"].unique()], "")
    limits = figures.limits_of(table, ["indirect", "total"]) or (-1.0, 1.0)
    limits = min(limits[0], 0.0), max(limits[1], 0.0)
    step = len(looks) + 1.0
    for block, mediator in enumerate(mediators):
        for place, (arm, (colour, symbol, _)) in enumerate(looks.items()):
            pair = table[(table["mediator"] == mediator) & (table["arm"] == arm)]
            if pair.empty or not np.isfinite(pair.iloc[0]["indirect"]):
                continue
            row, y = pair.iloc[0], -(block * step + place)
            ends = row["indirect_low"], row["indirect_high"]
            figures.interval_line(ax, y, *ends, limits, color=colour, lw=1.2 * width)
            consistent = row["verdict"] == "consistent with mediation"
            face = colour if consistent else "white"
            ax.plot(row["indirect"], y, symbol or "o", mfc=face, mec=colour, ms=0.9 * marker)
            ax.plot(row["total"], y, "|", color="0.35", ms=1.6 * marker, mew=1.2 * width)
        if block:
            ax.axhline(-(block * step - 1), color="0.9", lw=0.5 * width, zorder=-1)
    ax.axvline(0, color="black", lw=0.6 * width, zorder=0)
    ax.set_xlim(limits)
    ax.set_ylim(-(len(mediators) * step - 1), 1)
    names = [figures.wrapped(name, 0.36 * figures.panel_size(ax)[0], text, 3) for name in mediators]
    ax.set_yticks([-(b * step + (len(looks) - 1) / 2) for b in range(len(mediators))], names)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("Indirect effect (points)")
    handles = [
        Line2D([], [], color=c, marker=m or "o", mfc="white", ms=0.9 * marker, lw=width, label=arm)
        for arm, (c, m, _) in looks.items()
    ]
    whole = {"color": "0.35", "marker": "|", "ms": 1.6 * marker, "mew": 1.2 * width, "ls": "none"}
    handles.append(Line2D([], [], label="Whole effect", **whole))  # type: ignore[arg-type]
    figures.legend_above(ax, handles, ncols=2)
    return ax


def mediation_height(table: pd.DataFrame) -> float:
    """Height in mm at which `mediation_plot` can show every pair, on paper."""
    return 30.0 + 3.2 * table["mediator"].nunique() * (table["arm"].nunique() + 1)
