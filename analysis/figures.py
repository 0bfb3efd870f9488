"""Figures of results. Every function draws into `ax` (a new one by default) and returns it.

    with style("paper"):
        ax = isolation_plot(table)
    save_figure(ax.figure, "reports/figures/isolation")

Sizes are in millimetres, for one (85) or two (175) printed columns. Intervals are drawn wherever
the table has them. One colour and one marker per group everywhere: Neutral grey circles, Delta blue
triangles pointing down (the loss falls), Epsilon orange triangles pointing up (the loss rises).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from analysis import statistics
from analysis.tables import GROUPS, adjustment_table, frozen_of_one_arm

ONE_COLUMN, TWO_COLUMNS = 85.0, 175.0  # mm
SLIDE = (254.0, 143.0)  # mm, 16:9
WIDTHS = ("single", "double", "slide")
MILLIMETRES_PER_INCH = 25.4

# Okabe and Ito's palette; a joined set has a colour between those of its groups.
COLOURS = {
    "Neutral": "#7A7A7A",
    "Delta": "#0072B2",
    "Epsilon": "#D55E00",
    "Eps. & Neu.": "#E69F00",
    "Eps. & Del.": "#AA4499",
    "Del. & Neu.": "#56B4E9",
    "All": "#000000",
    "vanilla": "#000000",
}
MARKERS = {"Neutral": "o", "Delta": "v", "Epsilon": "^"}
_LEGEND_ORDER = ("Epsilon", "Neutral", "Delta")

STYLES = ("paper", "talk")
_TEXT_SIZE = {"paper": 8.0, "talk": 14.0}
_FILE_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "aba", "pdf.fonttype": 42}


def style(kind: str = "paper") -> Any:
    """A context with text sizes and lines for "paper" or "talk"; nothing changes outside it."""
    if kind not in _TEXT_SIZE:
        raise ValueError(f"unknown style {kind!r}; known: {', '.join(_TEXT_SIZE)}")
    size = _TEXT_SIZE[kind]
    scale = size / 8
    return mpl.rc_context(
        {
            "font.family": "sans-serif",
            # Matplotlib's own font comes first, on every machine.
            "font.sans-serif": mpl.rcParamsDefault["font.sans-serif"],
            "font.size": size,
            "axes.titlesize": size,
            "axes.labelsize": size,
            "xtick.labelsize": 0.875 * size,
            "ytick.labelsize": 0.875 * size,
            "legend.fontsize": 0.875 * size,
            "legend.frameon": False,
            "legend.handlelength": 1.4,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.6 * scale,
            "xtick.major.width": 0.6 * scale,
            "ytick.major.width": 0.6 * scale,
            "xtick.major.size": 2.5 * scale,
            "ytick.major.size": 2.5 * scale,
            "lines.linewidth": 1.0 * scale,
            "lines.markersize": 4.0 * scale,
            "axes.unicode_minus": True,
            "figure.dpi": 100,
            **_FILE_STYLE,
        }
    )


def new_axes(width: float = ONE_COLUMN, height: float = 60.0) -> Axes:
    """Axes of a new figure of the given size in mm, in the style in force."""
    size = (width / MILLIMETRES_PER_INCH, height / MILLIMETRES_PER_INCH)
    return plt.subplots(figsize=size, layout="constrained")[1]


def sized_axes(width: str, height: float) -> Axes:
    """Axes of a new figure for a printed column ("single", "double") or a "slide".

    height: in mm at the paper's text size; larger text makes a column's figure higher, a slide has
    its own height.
    """
    return new_axes(*size_of(width, height))


def size_of(width: str, height: float) -> tuple[float, float]:
    """Width and height in mm. See `sized_axes`."""
    if width not in WIDTHS:
        raise ValueError(f"unknown width {width!r}; known: {', '.join(WIDTHS)}")
    if width == "slide":
        return SLIDE
    scale = float(mpl.rcParams["font.size"]) / _TEXT_SIZE["paper"]
    return (ONE_COLUMN if width == "single" else TWO_COLUMNS), height * scale


def save_figure(
    figure: Figure | SubFigure,
    stem: str | Path,
    formats: Sequence[str] = ("pdf", "svg", "png"),
    *,
    dpi: int = 300,
) -> list[Path]:
    """Write STEM.pdf, STEM.svg and STEM.png at the figure's size; return the paths.

    Text stays text, and equal figures give equal bytes: no dates, no random identifiers.
    """
    metadata: dict[str, dict[str, Any]] = {
        "pdf": {"CreationDate": None},
        "svg": {"Date": None},
        "png": {},
    }
    unknown = [name for name in formats if name not in metadata]
    if unknown:
        raise ValueError(f"unknown format {unknown[0]!r}; known: {', '.join(metadata)}")
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    with mpl.rc_context(_FILE_STYLE):
        for name in formats:
            path = stem.with_name(f"{stem.name}.{name}")
            figure.savefig(path, format=name, dpi=dpi, metadata=metadata[name])  # type: ignore[union-attr]
            paths.append(path)
    return paths


# --- shared parts --------------------------------------------------------------------------------


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    return new_axes(width, height) if ax is None else ax


def _sizes(ax: Axes) -> tuple[float, float, float]:
    """Text size, line width and marker size that suit the axes, whatever style made them."""
    text = float(ax.xaxis.label.get_fontsize())
    return text, text / 8, text / 2


def _panel_size(ax: Axes) -> tuple[float, float]:
    """Width and height in points that the figure has for these axes and what stands around them."""
    place = ax.get_subplotspec()
    rows, columns = place.get_gridspec().get_geometry() if place else (1, 1)
    width, height = ax.figure.get_size_inches()  # type: ignore[union-attr]
    return 72 * width / columns, 72 * height / rows


def _wrapped(text: str, width: float, size: float, lines: int = 3) -> str:
    """Text of `size` points broken to fit a width in points; what is too long loses its middle."""
    characters = max(6, int(width / (0.55 * size)))
    shown, keep = text, len(text)
    while len(parts := textwrap.wrap(shown, characters) or [""]) > lines:
        keep -= 1
        tail = keep // 3
        shown = text[: keep - tail].rstrip() + "…" + text[len(text) - tail :].lstrip()
    return "\n".join(parts)


def _adjustment_label(row: pd.Series) -> str:
    numbers = ", ".join(str(int(row[name])) for name in ("low", "middle", "high"))
    return f"{int(row['index'])} [{numbers}]".replace("-", "−")


def _group_handles(groups: Sequence[str], marker_size: float) -> list[Line2D]:
    return [
        Line2D([], [], color=COLOURS[g], marker=MARKERS[g], ms=marker_size, ls="none", label=g)
        for g in groups
    ]


def _legend_above(ax: Axes, handles: Sequence[Any], ncols: int) -> None:
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=ncols,
        fontsize=0.875 * _sizes(ax)[0],
        frameon=False,
        borderaxespad=0.2,
        columnspacing=1.2,
    )


def _limits(table: pd.DataFrame, names: Sequence[str]) -> tuple[float, float] | None:
    """A range with all means, and all intervals but those that would flatten the rest."""
    values, ends, half_widths = [], [], []
    for name in names:
        if name not in table:
            continue
        mean = table[name].to_numpy(np.float64)
        values.append(mean)
        if f"{name}_low" in table:
            low, high = (table[f"{name}_{end}"].to_numpy(np.float64) for end in ("low", "high"))
            ends += [np.stack([low, high])]
            half_widths.append((high - low) / 2)
    known = np.concatenate(values) if values else np.array([])
    known = known[np.isfinite(known)]
    if not known.size:
        return None
    if half_widths:
        half, pair = np.concatenate(half_widths), np.concatenate(ends, axis=1)
        usual = np.isfinite(half)
        if usual.any():
            usual &= half <= max(4 * np.median(half[usual]), np.ptp(known) / 2)
            known = np.concatenate([known, pair[:, usual].ravel()])
    left, right = float(known.min()), float(known.max())
    margin = 0.04 * (right - left) or 1.0
    return left - margin, right + margin


def _interval_line(
    ax: Axes, y: float, low: float, high: float, limits: tuple[float, float], **line: Any
) -> None:
    """A horizontal interval; an arrow head at the edge where it goes on outside the limits."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return
    left, right = limits
    ax.plot([max(low, left), min(high, right)], [y, y], solid_capstyle="butt", **line)
    width, colour = line.get("lw", 1.0), line.get("color", "black")
    inset = 0.012 * (right - left)
    for end, marker, outside in (
        (left + inset, "<", low < left),
        (right - inset, ">", high > right),
    ):
        if outside:
            ax.plot([end], [y], marker=marker, ms=3 * width, color=colour)


# --- isolation -----------------------------------------------------------------------------------


def isolation_plot(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    baseline: float | None = None,
    label: str = "Validation accuracy (%)",
) -> Axes:
    """Mean and interval of each adjustment trained alone, in order of the mean, coloured by group.

    table: from `tables.isolation_table`. The dashed line is `baseline` (percent), by default the
    mean of adjustment 0, which is training without augmentation. Adjustments without runs stand
    at the bottom; diverged runs are counted beside their adjustment.
    """
    ax = _axes(ax, ONE_COLUMN, 118)
    text, width, marker = _sizes(ax)
    ordered = table.sort_values("mean", na_position="first", kind="stable").reset_index(drop=True)
    limits = _limits(ordered, ["mean"]) or (0.0, 100.0)
    if baseline is None:
        zero = table.loc[table["index"] == 0, "mean"]
        baseline = float(zero.iloc[0]) if len(zero) else float("nan")
    if np.isfinite(baseline):
        limits = min(limits[0], baseline), max(limits[1], baseline)
        ax.axvline(baseline, color=COLOURS["vanilla"], lw=0.8 * width, ls=(0, (4, 2)), zorder=0)
    for y, row in ordered.iterrows():
        place, colour = float(y), COLOURS[row["group"]]  # type: ignore[arg-type]
        ax.axhline(place, color="0.92", lw=0.5 * width, zorder=-1)
        if not np.isfinite(row["mean"]):
            note = "no runs" if row["n"] == 0 and not row["n_missing"] else "no accuracy"
            ax.text(
                0.01, place, note, transform=ax.get_yaxis_transform(), va="center", size=0.75 * text
            )
            continue
        _interval_line(
            ax, place, row["mean_low"], row["mean_high"], limits, color=colour, lw=1.2 * width
        )
        ax.plot(row["mean"], place, MARKERS[row["group"]], color=colour, ms=marker)
        if row["n_diverged"]:
            on_left = row["mean"] > sum(limits) / 2
            ax.text(
                0.01 if on_left else 0.97,
                place,
                f"{int(row['n_diverged'])} diverged",
                transform=ax.get_yaxis_transform(),
                ha="left" if on_left else "right",
                va="center",
                size=0.75 * text,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3},
            )
    ax.set_xlim(limits)
    ax.set_ylim(-0.8, len(ordered) - 0.2)
    ax.set_yticks(range(len(ordered)), [_adjustment_label(row) for _, row in ordered.iterrows()])
    # On a slide the lines are closer than the text is high.
    room = 0.75 * _panel_size(ax)[1] / len(ordered)
    ax.tick_params(axis="y", length=0, labelsize=min(0.8 * text, 0.8 * room))
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(label)
    ax.set_ylabel("Adjustment: index [low, middle, high]")
    handles = _group_handles(_LEGEND_ORDER, marker)
    if np.isfinite(baseline):
        dashes = (0, (4, 2))
        line = Line2D([], [], color="black", lw=0.8 * width, ls=dashes, label="No augmentation")
        handles.append(line)
    _legend_above(ax, handles, ncols=2)
    return ax


def group_plot(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    confidence: float = statistics.CONFIDENCE,
    label: str = "Validation accuracy (%)",
) -> Axes:
    """The adjustments' means by group, and each group's mean with its interval over adjustments.

    table: from `tables.isolation_table`. The interval is Student's t with the adjustment as unit,
    so that the figure needs no random numbers.
    """
    ax = _axes(ax, ONE_COLUMN, 60)
    text, width, marker = _sizes(ax)
    for x, group in enumerate(GROUPS):
        values = np.sort(table.loc[table["group"] == group, "mean"].dropna().to_numpy(np.float64))
        if not values.size:
            ax.text(x, 0.5, "no runs", transform=ax.get_xaxis_transform(), ha="center")
            continue
        # Neighbouring values go to different places, always the same ones.
        places = x - 0.22 + 0.09 * (np.arange(values.size) % 3)
        ax.plot(places, values, MARKERS[group], color=COLOURS[group], ms=0.9 * marker, mew=0)
        interval = statistics.mean_interval(values, confidence=confidence, method="t")
        if np.isfinite(interval.low):
            ax.plot([x + 0.18] * 2, [interval.low, interval.high], color="black", lw=1.4 * width)
        ax.plot(x + 0.18, interval.estimate, "D", color="black", ms=marker)
    ax.set_xticks(range(len(GROUPS)), list(GROUPS))
    ax.set_xlim(-0.5, len(GROUPS) - 0.5)
    ax.set_xlabel("Group")
    ax.set_ylabel(label)
    return ax


def adjustment_heatmap(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    value: str = "mean",
    label: str = "Validation accuracy (%)",
    digits: int = 1,
) -> Axes:
    """The 27 adjustments as a square of blocks, low across and high upwards, middle inside a block.

    table: from `tables.isolation_table`; value: the column to show. So arranged, the blocks above
    the diagonal are Epsilon (high > low), those on it Neutral, those below it Delta; each frame has
    the group's colour. The second line in a cell is half the width of the interval.
    """
    if value not in table:
        raise ValueError(f"unknown column {value!r}; the table has {', '.join(table.columns)}")
    ax = _axes(ax, ONE_COLUMN, 78)
    text, width, _ = _sizes(ax)
    numbers = table[value].to_numpy(np.float64)
    known = numbers[np.isfinite(numbers)]
    norm = Normalize(known.min(), known.max()) if known.size else Normalize(0, 1)
    colours = mpl.colormaps["Greys"]
    gap, block = 0.35, 3.0
    for _, row in table.iterrows():
        left = (row["low"] + 1) * (block + gap)
        bottom = (row["high"] + 1) * (1.0 + gap / 2)
        x = left + row["middle"] + 1
        number = float(row[value])
        shade = 0.05 + 0.75 * float(norm(number)) if np.isfinite(number) else 0.0
        ax.add_patch(
            Rectangle((x, bottom), 1, 1, facecolor=colours(shade), edgecolor="white", lw=0.5)
        )
        ink = "white" if shade > 0.62 else "black"  # either is read at 4:1
        diverged = "†" if row.get("n_diverged", 0) else ""
        rounded = round(number, digits) + 0.0 if np.isfinite(number) else 0.0  # no −0.0
        cell = (
            "–" if not np.isfinite(number) else f"{rounded:.{digits}f}{diverged}".replace("-", "−")
        )
        half = np.nan
        if f"{value}_low" in table:
            half = (row[f"{value}_high"] - row[f"{value}_low"]) / 2
        up = 0.13 if np.isfinite(half) else 0.0
        centre: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
        ax.text(x + 0.5, bottom + 0.5 + up, cell, size=0.78 * text, **centre)
        if np.isfinite(half):
            ax.text(x + 0.5, bottom + 0.31, f"±{half:.{digits}f}", size=0.68 * text, **centre)
    for low in (-1, 0, 1):
        for high in (-1, 0, 1):
            group = "Epsilon" if high > low else "Delta" if high < low else "Neutral"
            corner = ((low + 1) * (block + gap), (high + 1) * (1.0 + gap / 2))
            ax.add_patch(
                Rectangle(corner, block, 1, fill=False, edgecolor=COLOURS[group], lw=1.6 * width)
            )
    ax.set_xlim(-0.15, 3 * block + 2 * gap + 0.15)
    ax.set_ylim(-0.08, 3 + gap + 0.08)
    centres = [(low + 1) * (block + gap) + block / 2 for low in (-1, 0, 1)]
    ticks = [c + m for c in centres for m in (-1, 0, 1)]
    ax.set_xticks(ticks, ["−1", "0", "1"] * 3)
    ax.set_yticks([0.5 + i * (1 + gap / 2) for i in range(3)], ["−1", "0", "1"])
    ax.tick_params(length=0, labelsize=0.8 * text)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel("Middle (within a block)")
    ax.set_ylabel("High")
    top = ax.secondary_xaxis("top")
    top.set_xticks(centres, [f"Low = {name}" for name in ("−1", "0", "1")])
    top.tick_params(length=0, labelsize=0.875 * text)
    top.spines["top"].set_visible(False)
    widths = table.get(f"{value}_low", pd.Series(dtype=float))
    title = f"{label}, ± half its interval" if widths.notna().any() else label
    title = _wrapped(title, 0.92 * _panel_size(ax)[0], text)
    ax.set_title(title, size=text, pad=0.9 * text)
    frames: list[Any] = [
        Rectangle((0, 0), 1, 1, fill=False, edgecolor=COLOURS[g], lw=1.4 * width, label=g)
        for g in _LEGEND_ORDER
    ]
    if "n_diverged" in table and table["n_diverged"].sum():
        dagger: dict[str, Any] = {
            "marker": r"$\dagger$",
            "ls": "none",
            "color": "black",
            "ms": 0.6 * text,
        }
        frames.append(Line2D([], [], label="Diverged runs", **dagger))
    ax.legend(
        handles=frames,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.17),
        ncols=len(frames),
        fontsize=0.875 * text,
        frameon=False,
        columnspacing=1.2,
        handlelength=1.0,
        handleheight=1.0,
    )
    return ax


# --- frozen models -------------------------------------------------------------------------------

_FROZEN_LABELS = {
    "loss": "Loss (nats)",
    "accuracy": "Accuracy (%)",
    "class_score": "Score of the class",
    "loss_change": "Change of loss (nats)",
    "accuracy_change": "Change of accuracy (points)",
    "class_score_change": "Change of class score",
}


def frozen_curves(
    frozen: pd.DataFrame,
    ax: Axes | None = None,
    *,
    value: str = "loss_change",
    arm: str | None = None,
    confidence: float = statistics.CONFIDENCE,
) -> Axes:
    """What the adjustments do to a frozen model, against the strength.

    frozen: one row per (arm, seed, adjustment, strength). Thin lines are adjustments (means over
    seeds), thick lines the groups' means, bands their t interval over the adjustments of a group.
    """
    if value not in _FROZEN_LABELS:
        raise ValueError(f"unknown value {value!r}; known: {', '.join(_FROZEN_LABELS)}")
    frozen = frozen_of_one_arm(frozen, arm)
    ax = _axes(ax, ONE_COLUMN, 62)
    text, width, marker = _sizes(ax)
    means = frozen.groupby(["adjustment", "strength"])[value].mean().unstack("strength")
    strengths = means.columns.to_numpy(np.float64)
    groups = _group_of()
    for index, curve in means.iterrows():
        colour = COLOURS[groups[int(index)]]  # type: ignore[call-overload]
        ax.plot(strengths, curve.to_numpy(), color=colour, lw=0.5 * width, alpha=0.45, zorder=1)
    for group in GROUPS:
        members = means[[groups[int(i)] == group for i in means.index]]
        if members.empty:
            continue
        intervals = [
            statistics.mean_interval(
                members[s].dropna().to_numpy(np.float64), confidence=confidence, method="t"
            )
            for s in means.columns
        ]
        colour = COLOURS[group]
        ax.fill_between(
            strengths,
            [i.low for i in intervals],
            [i.high for i in intervals],
            color=colour,
            alpha=0.2,
            lw=0,
            zorder=2,
        )
        ax.plot(
            strengths,
            [i.estimate for i in intervals],
            color=colour,
            lw=1.5 * width,
            marker=MARKERS[group],
            ms=0.9 * marker,
            label=group,
            zorder=3,
        )
    if value.endswith("_change"):
        ax.axhline(0, color="black", lw=0.6 * width, zorder=0)
    if strengths.size and strengths.min() > 0 and strengths.max() >= 20 * strengths.min():
        ax.set_xscale("log")
    if strengths.size <= 7:
        shown = _apart(strengths, ax)
        ax.set_xticks(shown, [f"{s:g}" for s in shown])
        ax.set_xticks([], minor=True)
    ax.set_xlabel("Strength s (input SD)")
    ax.set_ylabel(_FROZEN_LABELS[value])
    handles, labels = ax.get_legend_handles_labels()
    order = [labels.index(g) for g in _LEGEND_ORDER if g in labels]
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
    width = 0.6 * _panel_size(ax)[0]
    scale = np.log if ax.get_xscale() == "log" else np.asarray
    places = width * (scale(values) - scale(values[0])) / (np.ptp(scale(values)) or 1.0)
    room = 2.6 * _sizes(ax)[0]
    kept = [0]
    for i in range(1, values.size - 1):
        if places[i] - places[kept[-1]] >= room and places[-1] - places[i] >= room:
            kept.append(i)
    return values[[*kept, values.size - 1]] if values.size > 1 else values


def frozen_panels(
    frozen: pd.DataFrame,
    arms: Sequence[str],
    *,
    width: str = "double",
    values: Sequence[str] = ("accuracy", "loss", "class_score"),
    confidence: float = statistics.CONFIDENCE,
) -> Figure:
    """`frozen_curves` for several values (down) and arms (across), each value on a common scale.

    On a slide the other way round, since it is wide.
    """
    across = width != "slide"
    rows, columns = (len(values), len(arms)) if across else (len(arms), len(values))
    size = np.array(size_of(width, 61.0 * rows)) / MILLIMETRES_PER_INCH
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=tuple(size),
        layout="constrained",
        sharex=True,
        sharey="row" if across else "col",
        squeeze=False,
    )
    grid = axes if across else axes.T
    for line, value in zip(grid, values, strict=True):
        for ax, arm in zip(line, arms, strict=True):
            frozen_curves(frozen, ax, value=value, arm=arm, confidence=confidence)
            if ax is not grid[0, 0]:
                ax.get_legend().remove()
            if across:
                ax.label_outer()
            elif ax is not line[-1]:
                ax.set_xlabel("")
    for ax, arm in zip(grid[0], arms, strict=True):
        text = _sizes(ax)[0]
        if across:
            ax.set_title(_wrapped(f"Trained with {arm}", 0.75 * _panel_size(ax)[0], text))
        else:
            room = 0.9 * _panel_size(ax)[1]
            name = _wrapped(arm, room, text, lines=2)
            ax.set_ylabel(f"{name}\n{ax.get_ylabel()}")
    return figure


def _group_of() -> dict[int, str]:
    table = adjustment_table()
    return dict(zip(table["index"].tolist(), table["group"].tolist(), strict=True))


# --- sets of adjustments -------------------------------------------------------------------------


def hypothesis_plot(
    table: pd.DataFrame, ax: Axes | None = None, *, label: str = "Validation accuracy (%)"
) -> Axes:
    """Each set of groups against the mean of its members and its best member, with intervals.

    table: from `tables.hypothesis_table`. The best member is the cross-fitted one where the table
    has it, else the plain maximum of the means (without an interval, and named so in the legend).
    Diverged runs of the set and its members are counted below its name.
    """
    ax = _axes(ax, ONE_COLUMN, 82)
    text, width, marker = _sizes(ax)
    table = table.reset_index(drop=True)
    fitted = bool(table["best_member_crossfitted"].notna().any())
    best = "best_member_crossfitted" if fitted else "best_member_mean"
    kinds = (
        ("all_of_group", "The set", "D", 0.0, None),
        ("mean_of_members", "Mean of its members", "o", 0.26, "0.35"),
        (
            best,
            "Best member" + (", chosen on other runs" if fitted else ", maximum of means"),
            "s",
            -0.26,
            "0.35",
        ),
    )
    limits = _limits(table, [kind[0] for kind in kinds]) or (0.0, 100.0)
    for y, row in table.iterrows():
        base = len(table) - 1 - float(y)  # type: ignore[arg-type]
        for column, _, symbol, shift, fixed in kinds:
            colour = fixed or COLOURS[row["set"]]
            if not np.isfinite(row[column]):
                if column == "all_of_group":
                    ax.text(limits[0], base, " no runs", va="center", size=0.75 * text)
                continue
            low, high = row.get(f"{column}_low", np.nan), row.get(f"{column}_high", np.nan)
            line = {"color": colour, "lw": (1.6 if fixed is None else 0.9) * width}
            _interval_line(ax, base + shift, low, high, limits, **line)
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
        Line2D(
            [],
            [],
            color=fixed or "black",
            mfc="white" if fixed else "black",
            marker=symbol,
            ms=0.8 * marker,
            lw=0.9 * width,
            label=name,
        )
        for _, name, symbol, _, fixed in kinds
    ]
    _legend_above(ax, [handles[1], handles[0], handles[2]], ncols=1)
    return ax


# --- verdicts ------------------------------------------------------------------------------------

# --- arms ----------------------------------------------------------------------------------------


def arms_plot(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    splits: Sequence[str] = ("validation", "test"),
) -> Axes:
    """Mean accuracy of each arm with its interval, on validation and on test, in the table's order.

    table: from `tables.benchmark_table`. Diverged runs are counted beside their arm.
    """
    ax = _axes(ax, ONE_COLUMN, arms_height(table))
    text, width, marker = _sizes(ax)
    room = 0.75 * _panel_size(ax)[1] / max(len(table), 3)
    size = min(0.875 * text, 0.72 * room / _name_lines(table))
    across = max(14 * text, 0.3 * _panel_size(ax)[0])
    names = [_wrapped(str(name), across, size, _name_lines(table)) for name in table["arm"]]
    limits = _limits(table, [f"{split}_mean" for split in splits]) or (0.0, 100.0)
    looks = {"validation": ("o", "black", 0.16), "test": ("s", "white", -0.16)}
    for y, (_, row) in enumerate(table.iterrows()):
        base = len(table) - 1 - y
        ax.axhline(base, color="0.92", lw=0.5 * width, zorder=-1)
        for split in splits:
            symbol, face, shift = looks[split]
            mean = row[f"{split}_mean"]
            if not np.isfinite(mean):
                if split == splits[0]:
                    ax.text(limits[0], base, " no runs", va="center", size=0.75 * text)
                continue
            ends = row[f"{split}_mean_low"], row[f"{split}_mean_high"]
            _interval_line(ax, base + shift, *ends, limits, color="black", lw=0.9 * width)
            ax.plot(mean, base + shift, symbol, mfc=face, mec="black", ms=0.8 * marker)
        if row["n_diverged"]:
            on_left = row[f"{splits[0]}_mean"] > sum(limits) / 2
            ax.text(
                0.01 if on_left else 0.97,
                base,
                f"{int(row['n_diverged'])} diverged",
                transform=ax.get_yaxis_transform(),
                ha="left" if on_left else "right",
                va="center",
                size=min(0.75 * text, 0.8 * room),
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3},
            )
    ax.set_xlim(limits)
    ax.set_ylim(-0.6, len(table) - 0.4)
    ax.set_yticks(range(len(table) - 1, -1, -1), names)
    ax.tick_params(axis="y", length=0, labelsize=size)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("Accuracy (%)")
    handles = [
        Line2D(
            [],
            [],
            color="black",
            mfc=looks[split][1],
            marker=looks[split][0],
            ms=0.8 * marker,
            lw=0.9 * width,
            label=split.capitalize(),
        )
        for split in splits
    ]
    _legend_above(ax, handles, ncols=2)
    return ax


def arms_height(table: pd.DataFrame) -> float:
    """Height in mm at which `arms_plot` can name every arm, on paper."""
    return 24.0 + (8.0 if _name_lines(table) == 2 else 5.4) * max(len(table), 3)


def _name_lines(table: pd.DataFrame) -> int:
    """Lines that a name in `arms_plot` may have: two for long ones, unless there are many."""
    return 2 if len(table) <= 14 and max(len(str(name)) for name in table["arm"]) > 24 else 1


# --- mechanism -----------------------------------------------------------------------------------

# --- variability ---------------------------------------------------------------------------------

# --- beside the published tables -----------------------------------------------------------------


def published_plot(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    published: str = "published",
    label: str = "Here: validation accuracy (%)",
) -> Axes:
    """The 27 adjustments, published mean across and own mean upwards, coloured by group.

    table: from `tables.beside_published`. Bars are the intervals of the own means; the published
    means of five runs have none. Equal orders would rise from left to right throughout.
    """
    ax = _axes(ax, ONE_COLUMN, 72)
    _, width, marker = _sizes(ax)
    known = table[np.isfinite(table["mean"]) & np.isfinite(table["published_mean"])]
    for group in _LEGEND_ORDER:
        part = known[known["group"] == group]
        x = part["published_mean"].to_numpy(np.float64)
        ends = [part[f"mean_{end}"].to_numpy(np.float64) for end in ("low", "high")]
        ax.vlines(x, *ends, color=COLOURS[group], lw=0.8 * width, alpha=0.7)
        ax.plot(x, part["mean"], MARKERS[group], color=COLOURS[group], ms=marker, mew=0)
    if known.empty:
        ax.text(0.5, 0.5, "no runs", transform=ax.transAxes, ha="center")
    ax.set_xlabel(f"{published}: accuracy (%)")
    ax.set_ylabel(label)
    _legend_above(ax, _group_handles(_LEGEND_ORDER, marker), ncols=3)
    return ax


given_or_new, sizes, panel_size, wrapped = _axes, _sizes, _panel_size, _wrapped
legend_above, limits_of, interval_line = _legend_above, _limits, _interval_line
