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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backend_bases import get_registered_canvas_class
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

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
# Each colour has one meaning: none of these is a group's.
VERDICT_COLOURS = {
    "supported": "#117733",
    "refuted": "#882255",
    "inconclusive": "#999933",
    "harm": "#000000",
}
CATEGORY_COLOURS = ("#35978F", "#E6E6E6", "#8C510A")  # low, middle or none, high
MAP_COLOURS = "BrBG_r"  # negative teal, positive brown: the categories are its ends
OTHER_COLOURS = ("#332288", "#44AA99", "#DDCC77", "#CC6677", "#661100")
MARKERS = {"Neutral": "o", "Delta": "v", "Epsilon": "^"}
LEGEND_ORDER = ("Epsilon", "Neutral", "Delta")

STYLES = ("paper", "talk")
_TEXT_SIZE = {"paper": 8.0, "talk": 14.0}
_COMPOSING = ("GDEF", "GPOS", "GSUB", "MATH")  # tables of fonts
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


def panels(width: str, height: float, rows: int, columns: int, **shared: Any) -> tuple[Figure, Any]:
    """A new figure, sized as by `sized_axes`, and its axes [row, column]. shared: sharex, ..."""
    size = tuple(np.array(size_of(width, height)) / MILLIMETRES_PER_INCH)
    return plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **shared)


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
    whole = figure if isinstance(figure, Figure) else figure.get_figure(root=True)
    assert isinstance(whole, Figure)
    paths = []
    with mpl.rc_context(_FILE_STYLE):
        for name in formats:  # each laid out anew: text has other widths
            path = stem.with_name(f"{stem.name}.{name}")
            with _drawn_by(name, whole, dpi) as canvas:
                getattr(canvas, f"print_{name}")(path, metadata=metadata[name])
            paths.append(path)
    return paths


@contextmanager
def _drawn_by(name: str, figure: Figure, dpi: int) -> Iterator[Any]:
    """The figure's canvas for a format. Its own method draws once, and lays out as it does;
    `savefig` would draw everything once more for the layout, to the same bytes."""
    before, own = figure.canvas, figure.dpi
    with _fonts_as_drawn() if name == "pdf" else nullcontext():
        try:
            figure.dpi = dpi
            yield get_registered_canvas_class(name)(figure)
        finally:
            figure.set_canvas(before)
            figure.dpi = own


@contextmanager
def _fonts_as_drawn() -> Iterator[None]:
    """Embeds fonts in PDF files without the tables that say how characters are composed: Matplotlib
    has placed every glyph, and to cut these tables takes longer than all else of a file."""
    from fontTools.subset import Options  # as Matplotlib does, when there is a font to embed

    kept = Options._drop_tables_default
    Options._drop_tables_default = [*kept, *_COMPOSING]
    try:
        yield
    finally:
        Options._drop_tables_default = kept


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
    """Text of `size` points broken to fit a width in points, in lines of about equal length. What
    is too long loses words of its middle, or letters where there are too few words."""
    characters = max(6, int(width / (0.55 * size)))
    shown, keep, words = text, len(text), text.split()
    for kept in range(len(words), 2, -1):
        tail = kept // 3
        gap = ["…"] * (kept < len(words))
        shorter = " ".join([*words[: kept - tail], *gap, *words[len(words) - tail :]])
        parts = textwrap.wrap(shorter, characters)
        if len(parts) <= lines:
            return "\n".join(_evened(parts, characters))
    while len(parts := textwrap.wrap(shown, characters) or [""]) > lines:
        keep -= 1
        tail = keep // 3
        shown = text[: keep - tail].rstrip() + "…" + text[len(text) - tail :].lstrip()
    return "\n".join(parts)


def _evened(parts: list[str], characters: int) -> list[str]:
    """The same lines, broken earlier where no more of them come of it: no word ends alone."""
    text = " ".join(parts)
    while characters > 1:
        characters -= 1
        narrower = textwrap.wrap(text, characters, break_long_words=False)
        if len(narrower) > len(parts) or max(map(len, narrower)) > characters:
            break
        parts = narrower
    return parts


def group_handles(groups: Sequence[str], marker_size: float) -> list[Line2D]:
    """What a legend of groups shows."""
    return [
        Line2D([], [], color=COLOURS[g], marker=MARKERS[g], ms=marker_size, ls="none", label=g)
        for g in groups
    ]


def legend_key(ax: Axes, label: str, symbol: str, colour: str, face: str) -> Line2D:
    """What a legend shows of marks with intervals."""
    _, width, marker = sizes(ax)
    mark: dict[str, Any] = {"marker": symbol, "mfc": face, "ms": 0.8 * marker}
    return Line2D([], [], color=colour, lw=0.9 * width, label=label, **mark)


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


def named_rows(
    ax: Axes, names: Iterable[str], limits: tuple[float, float], label: str, *, shift: float = 0.0
) -> range:
    """The frame of a figure with a name a row, the first on top, and a line at 0; the places of
    the rows. shift: of the thin line of each row from its place."""
    text, width, _ = sizes(ax)
    names = list(names)
    places = range(len(names) - 1, -1, -1)
    for place in places:
        ax.axhline(place + shift, color="0.93", lw=0.5 * width, zorder=-2)
    ax.axvline(0, color="0.4", lw=0.6 * width, zorder=-1)
    ax.set_xlim(limits)
    ax.set_ylim(-0.7, len(names) - 0.3)
    ax.set_yticks(places, names)
    ax.tick_params(axis="y", length=0, labelsize=0.8 * text)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(label)
    return places


MOST_ROWS = 36  # of named rows that fit a page, one below the other


def in_halves(
    table: pd.DataFrame,
    plot: Callable[..., Axes],
    height_of: Callable[[pd.DataFrame], float],
    width: str,
) -> Figure:
    """The figure of a table with a row a line: two panels side by side, on one scale, where all
    lines below one another would be higher than a page.

    plot: draws some of the rows into `ax`, with the limits of the table `of`. height_of: the height
    in mm that some rows need. width: as of `sized_axes`.
    """
    if width == "single" or len(table) <= MOST_ROWS:
        return figure_of(plot(table, sized_axes(width, height_of(table)), of=table))
    half = -(-len(table) // 2)
    whole, ((left, right),) = panels(width, height_of(table[:half]), 1, 2)
    for ax, part in zip((left, right), (table[:half], table[half:]), strict=True):
        plot(part.reset_index(drop=True), ax, of=table)
    low, high = left.get_ylim()
    top = right.get_ylim()[1]
    right.set_ylim(top - (high - low), top)  # lines as far apart, also where there is one less
    right.get_legend().remove()
    return whole


def mark_in_row(
    ax: Axes, y: float, row: Mapping[Any, Any], column: str, look: tuple[str, str, str],
    scale: float = 1.0,
) -> None:  # fmt: skip
    """A number with its interval as a mark on a line; nothing where there is none. look: symbol,
    colour, colour inside."""
    if not np.isfinite(row.get(column, np.nan)):
        return
    _, width, marker = sizes(ax)
    symbol, colour, face = look
    ends = row[f"{column}_low"], row[f"{column}_high"]
    interval_line(ax, y, *ends, ax.get_xlim(), color=colour, lw=0.9 * scale * width)
    ax.plot(row[column], y, symbol, mfc=face, mec=colour, ms=0.7 * scale * marker)


def numbers_beside(ax: Axes, points: np.ndarray, size: float) -> None:
    """Numbers from 1 beside marks, where they hide neither a mark nor another number; at limits
    that are set. points: [mark, (x, y)]; size: of the text, in points."""
    figure_of(ax).draw_without_rendering()  # the layout decides how long an axis is
    scale = 72 / figure_of(ax).dpi
    marks = ax.transData.transform(points) * scale
    taken = [*marks]
    # In each direction first near the mark, then further away.
    around = [(x, y) for reach in (1.0, 1.9) for x, y in ((1, 1), (-1, 1), (1, -1), (-1, -1))]
    for number, (point, mark) in enumerate(zip(points, marks, strict=True), 1):
        half = 0.3 * size * len(str(number))
        offsets = [(x * (half + 2), y * 0.9 * size) for x, y in around]
        room = [
            min(
                max(abs(mark[0] + x - other[0]) / half, abs(mark[1] + y - other[1]) / size)
                for other in taken
            )
            for x, y in offsets
        ]
        best = next((n for n, free in enumerate(room) if free > 1.2), int(np.argmax(room)))
        x, y = offsets[best]
        taken.append(mark + offsets[best])
        ax.annotate(
            str(number), point, (x, y), textcoords="offset points", size=size, ha="center",
            va="center", zorder=4,
        )  # fmt: skip


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
