"""Figures: what every study's figures share. Each study draws in its own file, always the same way:
into `ax` (a new one by default), which is returned.

    with figures.style("paper"):
        ax = isolation.isolation_plot(table)
    figures.save_figure(ax.figure, "reports/figures/isolation")

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
from matplotlib.ticker import LogLocator, NullFormatter

from analysis import statistics
from analysis.studies.variability import SOURCES
from analysis.tables import LABELS

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
LEGEND_ORDER = ("Epsilon", "Neutral", "Delta")

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


def given_or_new(ax: Axes | None, width: float, height: float) -> Axes:
    """The given axes, or those of a new figure of a size in mm."""
    return new_axes(width, height) if ax is None else ax


def sizes(ax: Axes) -> tuple[float, float, float]:
    """Text size, line width and marker size that suit the axes, whatever style made them."""
    text = float(ax.xaxis.label.get_fontsize())
    return text, text / 8, text / 2


def panel_size(ax: Axes) -> tuple[float, float]:
    """Width and height in points that the figure has for these axes and what stands around them."""
    place = ax.get_subplotspec()
    rows, columns = place.get_gridspec().get_geometry() if place else (1, 1)
    width, height = ax.figure.get_size_inches()  # type: ignore[union-attr]
    return 72 * width / columns, 72 * height / rows


def wrapped(text: str, width: float, size: float, lines: int = 3) -> str:
    """Text of `size` points broken to fit a width in points; what is too long loses its middle."""
    characters = max(6, int(width / (0.55 * size)))
    shown, keep = text, len(text)
    while len(parts := textwrap.wrap(shown, characters) or [""]) > lines:
        keep -= 1
        tail = keep // 3
        shown = text[: keep - tail].rstrip() + "…" + text[len(text) - tail :].lstrip()
    return "\n".join(parts)


def group_handles(groups: Sequence[str], marker_size: float) -> list[Line2D]:
    """What a legend of groups shows."""
    return [
        Line2D([], [], color=COLOURS[g], marker=MARKERS[g], ms=marker_size, ls="none", label=g)
        for g in groups
    ]


def legend_above(ax: Axes, handles: Sequence[Any], ncols: int) -> None:
    """A legend on top of the axes, from their left edge."""
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=ncols,
        fontsize=0.875 * sizes(ax)[0],
        frameon=False,
        borderaxespad=0.2,
        columnspacing=1.2,
    )


def limits_of(table: pd.DataFrame, names: Sequence[str]) -> tuple[float, float] | None:
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


def interval_line(
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


# Shared by figures with one line of marks a row: isolation, tension, arms.


def note_diverged(ax: Axes, y: float, count: float, on_left: bool, size: float) -> None:
    """How many runs of a row diverged, at the edge where there is room."""
    if not count:
        return
    ax.text(
        0.01 if on_left else 0.97,
        y,
        f"{int(count)} diverged",
        transform=ax.get_yaxis_transform(),
        ha="left" if on_left else "right",
        va="center",
        size=size,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3},
    )


def figure_of(ax: Axes) -> Figure:
    """The whole figure that axes stand in."""
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


# --- the 27 --------------------------------------------------------------------------------------

_GAP, _BLOCK = 0.35, 3.0  # between the blocks of a square, and across one


def adjustment_heatmap(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    value: str = "mean",
    label: str = "Validation accuracy (%)",
    digits: int = 1,
) -> Axes:
    """The 27 adjustments as a square of blocks, low across and high upwards, middle inside a block.

    table: from `isolation.isolation_table`; value: the column to show. So arranged, the blocks
    above the diagonal are Epsilon (high > low), those on it Neutral, those below it Delta; each
    frame has the group's colour. The second line in a cell is half the width of the interval.
    """
    if value not in table:
        raise ValueError(f"unknown column {value!r}; the table has {', '.join(table.columns)}")
    ax = given_or_new(ax, ONE_COLUMN, 78)
    text, width, _ = sizes(ax)
    numbers = table[value].to_numpy(np.float64)
    known = numbers[np.isfinite(numbers)]
    norm = Normalize(known.min(), known.max()) if known.size else Normalize(0, 1)
    for _, row in table.iterrows():
        _heatmap_cell(ax, row, value, norm, digits)
    for low in (-1, 0, 1):
        for high in (-1, 0, 1):
            group = "Epsilon" if high > low else "Delta" if high < low else "Neutral"
            corner = ((low + 1) * (_BLOCK + _GAP), (high + 1) * (1.0 + _GAP / 2))
            ax.add_patch(
                Rectangle(corner, _BLOCK, 1, fill=False, edgecolor=COLOURS[group], lw=1.6 * width)
            )
    ax.set_xlim(-0.15, 3 * _BLOCK + 2 * _GAP + 0.15)
    ax.set_ylim(-0.08, 3 + _GAP + 0.08)
    _heatmap_axes(ax)
    widths = table.get(f"{value}_low", pd.Series(dtype=float))
    title = f"{label}, ± half its interval" if widths.notna().any() else label
    title = wrapped(title, 0.92 * panel_size(ax)[0], text)
    ax.set_title(title, size=text, pad=0.9 * text)
    frames: list[Any] = [
        Rectangle((0, 0), 1, 1, fill=False, edgecolor=COLOURS[g], lw=1.4 * width, label=g)
        for g in LEGEND_ORDER
    ]
    if "n_diverged" in table and table["n_diverged"].sum():
        dagger: dict[str, Any] = {"marker": r"$\dagger$", "ls": "none", "color": "black"}
        frames.append(Line2D([], [], label="Diverged runs", ms=0.6 * text, **dagger))
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


def _heatmap_cell(ax: Axes, row: pd.Series, value: str, norm: Normalize, digits: int) -> None:
    """One adjustment: its number on a shade of grey, and half the width of its interval."""
    text = sizes(ax)[0]
    x = (row["low"] + 1) * (_BLOCK + _GAP) + row["middle"] + 1
    bottom = (row["high"] + 1) * (1.0 + _GAP / 2)
    number = float(row[value])
    shade = 0.05 + 0.75 * float(norm(number)) if np.isfinite(number) else 0.0
    grey = mpl.colormaps["Greys"](shade)
    ax.add_patch(Rectangle((x, bottom), 1, 1, facecolor=grey, edgecolor="white", lw=0.5))
    cell = "–"
    if np.isfinite(number):
        dagger = "†" if row.get("n_diverged", 0) else ""
        rounded = round(number, digits) + 0.0  # no −0.0
        cell = f"{rounded:.{digits}f}{dagger}".replace("-", "−")
    half = np.nan
    if f"{value}_low" in row:
        half = (row[f"{value}_high"] - row[f"{value}_low"]) / 2
    up = 0.13 if np.isfinite(half) else 0.0
    ink = "white" if shade > 0.62 else "black"  # either is read at 4:1
    centre: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
    ax.text(x + 0.5, bottom + 0.5 + up, cell, size=0.78 * text, **centre)
    if np.isfinite(half):
        ax.text(x + 0.5, bottom + 0.31, f"±{half:.{digits}f}", size=0.68 * text, **centre)


def _heatmap_axes(ax: Axes) -> None:
    """What stands along a square: middle below, low above, high on the left."""
    text = sizes(ax)[0]
    centres = [(low + 1) * (_BLOCK + _GAP) + _BLOCK / 2 for low in (-1, 0, 1)]
    ticks = [c + m for c in centres for m in (-1, 0, 1)]
    ax.set_xticks(ticks, ["−1", "0", "1"] * 3)
    ax.set_yticks([0.5 + i * (1 + _GAP / 2) for i in range(3)], ["−1", "0", "1"])
    ax.tick_params(length=0, labelsize=0.8 * text)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel("Middle (within a block)")
    ax.set_ylabel("High")
    top = ax.secondary_xaxis("top")
    top.set_xticks(centres, [f"Low = {name}" for name in ("−1", "0", "1")])
    top.tick_params(length=0, labelsize=0.875 * text)
    top.spines["top"].set_visible(False)


# Names that the functions below have for those above; they go with them.
_axes = given_or_new
_sizes = sizes
_panel_size = panel_size
_wrapped = wrapped
_legend_above = legend_above
_limits = limits_of
_interval_line = interval_line

# --- verdicts ------------------------------------------------------------------------------------

VERDICT_LOOKS = {
    "supported": ("#0072B2", "o"),
    "refuted": ("#D55E00", "X"),
    "inconclusive": ("#7A7A7A", "D"),
}


def verdict_plot(table: pd.DataFrame, ax: Axes | None = None, *, names: str = "hypothesis") -> Axes:
    """Effects with their intervals, coloured and marked by verdict, in the table's order.

    table: from `hypotheses.verdict_table` or `hypotheses.comparison_table`: the column `names`,
    estimate (points) with interval, margin, verdict. Shaded: effects too small to be worth having.
    A hypothesis that was not tested has its name and nothing else.
    """
    ax = _axes(ax, TWO_COLUMNS, verdict_height(table, names))
    text, width, marker = _sizes(ax)
    limits = _limits(table.assign(zero=0.0), ["estimate", "zero"]) or (-1.0, 1.0)
    lines = 2 if table[names].str.len().max() > 24 else 1
    room = 0.75 * _panel_size(ax)[1] / max(len(table), 3)
    size = min(0.875 * text, 0.8 * room / lines)
    across = 0.4 * _panel_size(ax)[0]
    for y, (_, row) in enumerate(table.iterrows()):
        place = len(table) - 1 - y
        ax.axhline(place, color="0.92", lw=0.5 * width, zorder=-2)
        if row["verdict"] not in VERDICT_LOOKS:
            ax.text(
                limits[1], place, f"{row['verdict']} ", ha="right", va="center", size=0.75 * text
            )
            continue
        colour, symbol = VERDICT_LOOKS[row["verdict"]]
        band = Rectangle(
            (-row["margin"], place - 0.42), 2 * row["margin"], 0.84, color="0.9", lw=0, zorder=-1
        )
        ax.add_patch(band)
        ends = row["estimate_low"], row["estimate_high"]
        _interval_line(ax, place, *ends, limits, color=colour, lw=1.3 * width)
        ax.plot(row["estimate"], place, symbol, color=colour, ms=0.9 * marker)
    ax.axvline(0, color="0.4", lw=0.6 * width, zorder=0)
    ax.set_xlim(limits)
    ax.set_ylim(-0.6, len(table) - 0.4)
    shown = [_wrapped(str(name), across, size, lines) for name in table[names]]
    ax.set_yticks(range(len(table) - 1, -1, -1), shown)
    ax.tick_params(axis="y", length=0, labelsize=size)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("Effect (points of accuracy)")
    handles: list[Any] = [
        Line2D([], [], color=colour, marker=symbol, ms=0.9 * marker, lw=1.3 * width, label=verdict)
        for verdict, (colour, symbol) in VERDICT_LOOKS.items()
        if verdict in set(table["verdict"])
    ]
    handles.append(Rectangle((0, 0), 1, 1, color="0.9", label="not worth having"))
    _legend_above(ax, handles, ncols=2)
    return ax


def verdict_height(table: pd.DataFrame, names: str = "hypothesis") -> float:
    """Height in mm at which `verdict_plot` can name every row, on paper."""
    return 26.0 + (4.6 if table[names].str.len().max() <= 24 else 7.0) * max(len(table), 3)


def sets_plot(
    table: pd.DataFrame, ax: Axes | None = None, *, label: str = "Validation accuracy (%)"
) -> Axes:
    """Accuracy of random sets against their size, by the share of members with their opposite.

    table: one row a set with size (doublings), opposition (0 to 1) and accuracy (percent), the mean
    over its runs. Small marks are sets, large ones the means of their kind with a 95 % interval
    over sets (Student's t).
    """
    ax = _axes(ax, ONE_COLUMN, 66)
    text, width, marker = _sizes(ax)
    looks = {
        0.0: ("#0072B2", "o", "none"),
        0.5: ("#7A7A7A", "s", "half"),
        1.0: ("#D55E00", "^", "all"),
    }
    sizes = sorted(table["size"].unique())
    handles = []
    for number, (opposition, (colour, symbol, name)) in enumerate(looks.items()):
        own = table[np.isclose(table["opposition"], opposition)]
        shift = 0.24 * (number - 1)
        places = []
        for size in sizes:
            values = own.loc[own["size"] == size, "accuracy"].to_numpy(np.float64)
            if not values.size:
                continue
            place = size + shift
            spread = 0.16 * (np.arange(values.size) / max(1, values.size - 1) - 0.5)
            ax.plot(
                place + spread, np.sort(values), symbol, color=colour, ms=0.35 * marker, alpha=0.45
            )
            found = statistics.mean_interval(values, method="t")
            ax.plot([place] * 2, [found.low, found.high], color=colour, lw=1.4 * width)
            places.append((place, found.estimate))
        if places:
            line = {"color": colour, "marker": symbol, "ms": 0.9 * marker, "lw": 0.8 * width}
            ax.plot(*zip(*places, strict=True), **line)  # type: ignore[arg-type]
            handles.append(Line2D([], [], **line, label=f"{name} opposed"))  # type: ignore[arg-type]
    ax.set_xticks(sizes, [f"{2**size:g}" for size in sizes])
    ax.set_xlabel("Adjustments in the set")
    ax.set_ylabel(label)
    _legend_above(ax, handles, ncols=3)
    return ax


# --- mechanism -----------------------------------------------------------------------------------

_FURTHER_COLOURS = ("#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#8C564B")
_FURTHER_MARKERS = ("s", "D", "P", "X", "p")


def _arm_looks(arms: Sequence[str]) -> dict[str, tuple[str, str, Any]]:
    """Colour, marker and line of each arm: those of its groups where it is named after them."""
    looks: dict[str, tuple[str, str, Any]] = {}
    own = [arm for arm in arms if arm not in COLOURS and arm.lower() != "vanilla"]
    for number, arm in enumerate(own):
        place = number % len(_FURTHER_COLOURS)
        looks[arm] = (_FURTHER_COLOURS[place], _FURTHER_MARKERS[place], "-")
    for arm in arms:
        if arm.lower() == "vanilla":
            looks[arm] = (COLOURS["vanilla"], "", (0, (4, 2)))
        elif arm in COLOURS:
            looks[arm] = (COLOURS[arm], MARKERS.get(arm, "D" if arm == "All" else "s"), "-")
    return {arm: looks[arm] for arm in arms}


def metric_curves(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    metric: str,
    log: bool = False,
    level: float | None = None,
) -> Axes:
    """One metric against the training step, a curve an arm, with intervals over runs.

    table: from `mechanism.metric_table`. Arms stand a little beside one another at each step. log:
    a logarithmic axis, where an interval that reaches 0 or below goes on to the edge. level: a
    value to compare with, dotted.
    """
    own = table[table["metric"] == metric]
    if own.empty:
        raise ValueError(f"unknown metric {metric!r}; known: {', '.join(table['metric'].unique())}")
    ax = _axes(ax, ONE_COLUMN, 60)
    text, width, marker = _sizes(ax)
    looks = _arm_looks([str(arm) for arm in own["arm"].unique()])
    apart = 0.011 * float(np.ptp(own["step"])) if len(looks) > 1 else 0.0
    for place, (arm, (colour, symbol, line)) in enumerate(looks.items()):
        curve = own[own["arm"] == arm].sort_values("step")
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
        bottom, top = _positive_range(own)
        ax.set_ylim(bottom, top)
        few = np.log10(top / bottom) < 2
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    elif own["mean_low"].min() < -1e-9:
        ax.axhline(0, color="black", lw=0.6 * width, zorder=0)
    ax.set_xlabel("Training step")
    ax.set_ylabel(_wrapped(LABELS.get(metric, metric), 0.7 * _panel_size(ax)[1], text, 2))
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
    *,
    width: str = "double",
    log: bool = False,
    share: bool = True,
    levels: Sequence[float] = (),
) -> Figure:
    """`metric_curves` for several metrics, up to three beside one another, with one legend above.

    share: one scale for all panels. levels: one a metric, or none.
    """
    columns = 1 if width == "single" else min(len(metrics), 2 if len(metrics) == 4 else 3)
    rows = -(-len(metrics) // columns)
    size = np.array(size_of(width, 52.0 * rows + 10)) / MILLIMETRES_PER_INCH
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=tuple(size),
        layout="constrained",
        sharex=True,
        sharey=share,
        squeeze=False,
    )
    for number, (ax, metric) in enumerate(zip(axes.flat, metrics, strict=False)):
        level = levels[number] if levels else None
        metric_curves(table, ax, metric=metric, log=log, level=level)
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
        fontsize=0.875 * _sizes(axes[0, 0])[0],
        frameon=False,
        columnspacing=1.2,
    )
    return figure


def mediation_plot(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Indirect effect of every arm through every mediator, with its interval, in points.

    table: from `mechanism.mediation_table`. Filled: consistent with mediation. The short upright
    line is the whole effect of the arm.
    """
    ax = _axes(ax, ONE_COLUMN, mediation_height(table))
    text, width, marker = _sizes(ax)
    mediators = list(dict.fromkeys(table["mediator"]))
    looks = _arm_looks([str(arm) for arm in table["arm"].unique()])
    limits = _limits(table, ["indirect", "total"]) or (-1.0, 1.0)
    limits = min(limits[0], 0.0), max(limits[1], 0.0)
    step = len(looks) + 1.0
    for block, mediator in enumerate(mediators):
        for place, (arm, (colour, symbol, _)) in enumerate(looks.items()):
            own = table[(table["mediator"] == mediator) & (table["arm"] == arm)]
            if own.empty or not np.isfinite(own.iloc[0]["indirect"]):
                continue
            row, y = own.iloc[0], -(block * step + place)
            ends = row["indirect_low"], row["indirect_high"]
            _interval_line(ax, y, *ends, limits, color=colour, lw=1.2 * width)
            consistent = row["verdict"] == "consistent with mediation"
            face = colour if consistent else "white"
            ax.plot(row["indirect"], y, symbol or "o", mfc=face, mec=colour, ms=0.9 * marker)
            ax.plot(row["total"], y, "|", color="0.35", ms=1.6 * marker, mew=1.2 * width)
        if block:
            ax.axhline(-(block * step - 1), color="0.9", lw=0.5 * width, zorder=-1)
    ax.axvline(0, color="black", lw=0.6 * width, zorder=0)
    ax.set_xlim(limits)
    ax.set_ylim(-(len(mediators) * step - 1), 1)
    names = [_wrapped(name, 0.36 * _panel_size(ax)[0], text, 3) for name in mediators]
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
    _legend_above(ax, handles, ncols=2)
    return ax


def mediation_height(table: pd.DataFrame) -> float:
    """Height in mm at which `mediation_plot` can show every pair, on paper."""
    return 30.0 + 3.2 * table["mediator"].nunique() * (table["arm"].nunique() + 1)


# --- variability ---------------------------------------------------------------------------------

# Neither is the colour of a group.
_METHOD_LOOKS = (("o", "black", "black"), ("s", "white", "#009E73"))


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
    ax = _axes(ax, ONE_COLUMN, variability_height(table))
    text, width, marker = _sizes(ax)
    known = list(SOURCES)
    sources = sorted(table["source"].unique(), key=lambda s: known.index(s) if s in known else 99)
    methods = list(table["method"].unique())
    limits = _limits(table, [value]) or (0.0, 1.0)
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
            _interval_line(ax, place + shift, *ends, limits, color=colour, lw=0.9 * width)
            ax.plot(row[value], place + shift, symbol, mfc=face, mec=colour, ms=0.8 * marker)
            if row["source"] == "all":
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
    _legend_above(ax, handles, ncols=2)
    return ax


def variability_height(table: pd.DataFrame) -> float:
    """Height in mm at which `variability_plot` can show every source, on paper."""
    return 22.0 + 6.5 * table["source"].nunique()
