"""Verdicts as figures: the effect that decided each, in the colour of the verdict."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from analysis import figures, rules, tables

_VERDICT_MARKERS = {"supported": "o", "refuted": "X", "harm": "v", "inconclusive": "D"}
VERDICT_LOOKS = {
    verdict: (figures.VERDICT_COLOURS[verdict], marker)
    for verdict, marker in _VERDICT_MARKERS.items()
}


POINTS = "points"  # of accuracy, the unit of the axis
VERDICT_WORDS = {"harm": "refuted: a harm"}
READING = (
    "Supported: the interval lies above 0 and does not end below the margin, the right edge of the "
    "shaded band. Refuted: it ends below the margin. That two things are alike is supported where "
    "the interval lies within the band. n counts blocks, runs, adjustments or sets."
)


def verdict_plot(table: pd.DataFrame, ax: Axes | None = None, *, names: str = "hypothesis") -> Axes:
    """Effects with their intervals, coloured and marked by verdict, in the table's order.

    table: from `rules.verdict_table` or `rules.comparison_table`: the column `names`, estimate
    with interval, margin, measure, verdict, effect. Shaded: effects too small to be worth having.
    Effects in another unit than points are written, not drawn. A claim that is refuted because the
    effect is reversed is marked as a harm. A hypothesis that was not tested
    has its name and nothing else.
    """
    reversed_ = (table["verdict"] == "refuted") & (table["effect"] == "reversed")
    table = table.assign(verdict=table["verdict"].mask(reversed_, "harm"))
    ax = figures.given_or_new(ax, figures.TWO_COLUMNS, verdict_height(table, names))
    text, width, marker = figures.sizes(ax)
    limits = _limits(table)
    lines = 2 if table[names].str.len().max() > 24 else 1
    room = 0.75 * figures.panel_size(ax)[1] / max(len(table), 3)
    size = min(0.875 * text, 0.8 * room / lines)
    across = 0.45 * figures.panel_size(ax)[0]
    # Clear of the arrow head that `figures.interval_line` draws at the edge, its minus sign too.
    past_arrow = 0.012 * figures.panel_size(ax)[0] + 3 * width + 0.5 * text
    for y, (_, row) in enumerate(table.iterrows()):
        place = len(table) - 1 - y
        ax.axhline(place, color="0.92", lw=0.5 * width, zorder=-2)
        if row["verdict"] not in VERDICT_LOOKS:
            ax.text(
                limits[1], place, f"{row['verdict']} ", ha="right", va="center", size=0.75 * text
            )
            continue
        colour, symbol = VERDICT_LOOKS[row["verdict"]]
        if row.get("measure", POINTS) != POINTS:  # not to be drawn on this axis
            ends = row["estimate_low"], row["estimate_high"]
            told = rules.effect_text(row["estimate"], *ends, row["measure"])
            ax.text(limits[0], place, f" {told}", va="center", size=0.9 * size, color=colour)
            continue
        band = Rectangle(
            (-row["margin"], place - 0.42), 2 * row["margin"], 0.84, color="0.9", lw=0, zorder=-1
        )
        ax.add_patch(band)
        ends = row["estimate_low"], row["estimate_high"]
        figures.interval_line(ax, place, *ends, limits, color=colour, lw=1.3 * width)
        if limits[0] <= row["estimate"] <= limits[1]:
            ax.plot(row["estimate"], place, symbol, color=colour, ms=0.9 * marker)
        else:
            side, at, way = ("left", 0, 1) if row["estimate"] < 0 else ("right", 1, -1)
            ax.annotate(
                tables.interval_text(row["estimate"], *ends),
                (limits[at], place),
                xytext=(way * past_arrow, 0),
                textcoords="offset points",
                ha=side,
                va="center",
                size=0.9 * size,
                color=colour,
            )
        beside = ax.get_yaxis_transform()
        ax.text(1.01, place, f"n = {int(row['n'])}", transform=beside, va="center", size=0.9 * size)
    ax.axvline(0, color="0.4", lw=0.6 * width, zorder=0)
    ax.set_xlim(limits)
    ax.set_ylim(-0.6, len(table) - 0.4)
    shown = [figures.wrapped(str(name), across, size, lines) for name in table[names]]
    ax.set_yticks(range(len(table) - 1, -1, -1), shown)
    ax.tick_params(axis="y", length=0, labelsize=size)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("Effect (points of accuracy)")
    figures.legend_above(ax, _legend(table, ax), ncols=2)
    return ax


def _legend(table: pd.DataFrame, ax: Axes) -> list[Any]:
    _, width, marker = figures.sizes(ax)
    handles: list[Any] = [
        Line2D(
            [],
            [],
            color=colour,
            marker=symbol,
            ms=0.9 * marker,
            lw=1.3 * width,
            label=VERDICT_WORDS.get(verdict, verdict),
        )
        for verdict, (colour, symbol) in VERDICT_LOOKS.items()
        if verdict in set(table["verdict"])
    ]
    handles.append(Rectangle((0, 0), 1, 1, color="0.9", label="not worth having"))
    return handles


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    """A range with all effects but those that would flatten the rest."""
    if "estimate" not in table:  # no hypothesis was tested
        return -1.0, 1.0
    if "measure" in table:
        table = table[table["measure"] == POINTS]
    known = table["estimate"].abs().dropna()
    usual = known <= 2.5 * known.quantile(0.85) if len(known) > 3 else known <= known.max()
    shown = table.loc[usual[usual].index].assign(zero=0.0)
    return figures.limits_of(shown, ["estimate", "zero"]) or (-1.0, 1.0)


def verdict_height(table: pd.DataFrame, names: str = "hypothesis") -> float:
    """Height in mm at which `verdict_plot` can name every row, on paper."""
    return 26.0 + (4.6 if table[names].str.len().max() <= 24 else 6.1) * max(len(table), 3)
