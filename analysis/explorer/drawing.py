"""The explorer's picture: drawn once for a data set, and set to whatever is looked at."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import figures
from analysis.explorer.choice import Choice, View, cached_adjustments, named
from analysis.figures import CATEGORY_COLOURS, COLOURS, MAP_COLOURS, MARKERS

PIXELS_PER_INCH = 130
_SIZE = (figures.TWO_COLUMNS / figures.MILLIMETRES_PER_INCH, 4.4)
_TITLE: dict[str, Any] = {"y": 1.03, "pad": 0}  # placed here: matplotlib's own search costs 30 ms

Update = Callable[[Choice, View], None]  # sets a part of a drawing to what is looked at


class Drawing:
    """The sample, its map, the categories and the augmented sample; class scores before and after;
    where the adjustment stands among the 27.

    Axes, ticks and artists are made once, for the samples of one data set: making them costs as
    much as drawing them. `show` sets all that a choice or view decides, whatever was shown before.

    like: any view of the data set. standing: from `tables.isolation_table`, None where there is no
    isolation study.
    """

    def __init__(self, like: View, standing: pd.DataFrame | None = None) -> None:
        self._kind, self._standing = _kind(like), standing
        with figures.style("paper"):
            self.figure = Figure(figsize=_SIZE, dpi=PIXELS_PER_INCH)
            self._canvas = FigureCanvasAgg(self.figure)  # kept, for it remembers how wide texts are
            add, grid = self.figure.add_subplot, self.figure.add_gridspec
            top = grid(1, 4, left=0.03, right=0.97, top=0.9, bottom=0.54, wspace=0.12)
            longest = max(len(_short(name)) for name in like.class_names)
            left, count = 0.07 + 0.008 * longest, 3 if standing is not None else 2
            low = grid(1, count, left=left, right=0.97, top=0.41, bottom=0.11, wspace=0.32)
            self._updates = [
                _pictures([add(top[0, column]) for column in range(4)], like),
                _scores(add(low[0, 0]), like),
                _loss_changes(add(low[0, 1])),
            ]
            if standing is not None:
                self._updates.append(_trained_alone(add(low[0, 2]), standing))

    def fits(self, view: View, standing: pd.DataFrame | None) -> bool:
        """Whether this can be shown, or another drawing has to be made."""
        return self._kind == _kind(view) and self._standing is standing

    def show(self, choice: Choice, view: View) -> Figure:
        with figures.style("paper"):
            for update in self._updates:
                update(choice, view)
        return self.figure

    def png(self) -> bytes:
        """What is shown, for the screen."""
        file = io.BytesIO()
        # Not `savefig`, which goes through all artists once more before it draws them.
        self._canvas.print_png(file, pil_kwargs={"compress_level": 1})
        return file.getvalue()


def _kind(view: View) -> tuple[object, ...]:
    return view.x.shape, view.class_names, view.display is None


def draw(choice: Choice, view: View, standing: pd.DataFrame | None = None) -> Figure:
    """One `Drawing`, shown once."""
    return Drawing(view, standing).show(choice, view)


def picture(values: np.ndarray) -> np.ndarray:
    """One input-shaped array as something that `imshow` takes: of a text its first words and
    dimensions, of channels the sum, of a row of features the row."""
    if values.ndim == 1:
        return values[None]
    if values.ndim == 2:
        return values[:30, :30]
    return values.sum(0) if values.shape[0] != 1 else values[0]


def _pictures(axes: Sequence[Axes], like: View) -> Update:
    aspect: Literal["equal", "auto"] = "equal" if like.x.ndim == 3 else "auto"
    channels = like.x.shape[0] if like.x.ndim == 3 else 1
    shades: Any = colormaps[MAP_COLOURS] if channels > 1 else ListedColormap(CATEGORY_COLOURS)
    images = []
    for ax, colours in zip(axes, ("gray", MAP_COLOURS, shades, "gray"), strict=True):
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set(visible=True, color="0.75", linewidth=0.5)
        ax.set_title("", **_TITLE)
        images.append(ax.imshow(picture(like.x), cmap=colours, aspect=aspect))
    images[1].set_clim(-1, 1)
    images[2].set_clim(-channels, channels)
    axes[1].set_xlabel("Brown: raising it raises the loss", fontsize=6.5)
    counts = [
        axes[2].text(
            *(place, -0.05, ""),
            transform=axes[2].transAxes, va="top", ha=side, size=7, color=CATEGORY_COLOURS[number],
        )
        for place, side, number in ((0.0, "left", 0), (1.0, "right", 2))
    ]  # fmt: skip

    def update(choice: Choice, view: View) -> None:
        usual = picture(view.x)
        # A scale that does not move with the strength, or the change could not be seen.
        ends = np.quantile(usual, (0.02, 0.98) if view.x.ndim == 2 else (0, 1))
        margin = 0.35 * (ends[1] - ends[0])
        truth = view.class_names[view.label]
        for number, values, name, scores, loss in (
            (0, view.x, f"Input: {truth}", view.scores_before, view.loss_before),
            (3, view.augmented, named(view), view.scores_after, view.loss_after),
        ):
            if channels == 3 and view.display is not None:
                images[number].set_data(np.moveaxis(view.display(values).clip(0, 1), 0, -1))
            else:
                images[number].set_data(picture(values))
                images[number].set_clim(ends[0] - margin, ends[1] + margin)
            guess = _short(view.class_names[int(scores.argmax())])
            axes[number].title.set_text(f"{name}\ntaken for {guess}")
            axes[number].set_xlabel(f"Loss {loss:.2f}")

        summed = picture(view.attribution)
        images[1].set_data(summed / (float(np.abs(summed).max()) or 1.0))
        target = choice.target.replace("_", " ")
        axes[1].title.set_text(f"Attribution of the {target}\n(sense of the loss)")
        images[2].set_data(picture(view.categories[-1].astype(float) - view.categories[0]))
        cut = "at {:.0%} and {:.0%}".format(*choice.quantiles)
        axes[2].title.set_text(
            f"Categories{', summed over channels' * (channels > 1)}\n"
            f"cut {'by sign' if choice.split == 'sign' else cut}"
        )
        counts[0].set_text(f"low: {int(view.categories[0].sum())}")
        counts[1].set_text(f"high: {int(view.categories[-1].sum())}")

    return update


def _short(text: str, length: int = 16) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _scores(ax: Axes, like: View) -> Update:
    """Class scores before and after: all classes, or those that matter."""
    count = min(10, len(like.class_names))
    places = np.arange(count)[::-1]
    ways = ax.hlines([], [], [], color="0.75", lw=1.2, zorder=1)
    (befores,) = ax.plot([], [], "o", ms=3.5, mfc="white", mec="0.3", ls="none", zorder=2)
    (afters,) = ax.plot([], [], "o", ms=3.5, color="0.2", ls="none", zorder=3)
    ax.set_ylim(-0.6, count - 0.4)
    ax.set_title("Class scores: before ○, after ●", fontsize=7, **_TITLE)
    ax.set_xlabel("Score (logit); true class bold", fontsize=7)
    ax.tick_params(axis="y", length=0)

    def update(choice: Choice, view: View) -> None:
        highest = np.maximum(view.scores_before, view.scores_after)
        highest[view.label] = np.inf
        shown = np.sort(np.argsort(-highest, kind="stable")[:count])
        before, after = view.scores_before[shown], view.scores_after[shown]
        rows = zip(before, after, places, strict=True)
        ways.set_segments([[(start, y), (end, y)] for start, end, y in rows])
        befores.set_data(before, places)
        afters.set_data(after, places)
        ax.dataLim.update_from_data_x(np.append(before, after), ignore=True)
        ax.autoscale_view()
        ax.set_yticks(places, [_short(view.class_names[number]) for number in shown], fontsize=6.5)
        for label, number in zip(ax.get_yticklabels(), shown, strict=True):
            label.set_fontweight("bold" if number == view.label else "normal")

    return update


def _loss_changes(ax: Axes) -> Update:
    """Change of loss of this sample under each of the 27, at this strength and magnitude."""
    group_of = cached_adjustments()["group"]
    ax.axhline(0, color="0.6", lw=0.6, zorder=0)
    marks = {
        group: (
            ax.vlines([], [], [], color=COLOURS[group], lw=0.9),
            ax.plot([], [], marker, color=COLOURS[group], ms=3, ls="none")[0],
        )
        for group, marker in MARKERS.items()
    }
    (crosses,) = ax.plot([], [], "x", color="0.75", ms=3, ls="none", zorder=1)
    ring = _ring(ax)
    ax.set_xlim(-1, 27)
    ax.set_xticks(range(0, 27, 3))
    ax.set_title("Change of loss, this sample (nats)", fontsize=7, **_TITLE)

    def update(choice: Choice, view: View) -> None:
        changes, known = view.loss_changes, np.isfinite(view.loss_changes)
        for group, (stems, ends) in marks.items():
            members = np.flatnonzero(known & (group_of == group).to_numpy())
            stems.set_segments([[(x, 0), (x, changes[x])] for x in members])
            ends.set_data(members, changes[members])
        missing = np.flatnonzero(~known)
        crosses.set_data(missing, np.zeros(len(missing)))
        here = [view.applied] if view.applied is not None else []
        ring.set_data(here, changes[here])  # NaN is not drawn
        # Not `relim`: it is out by rounding at the last limits, and gives a range of 0 as 1e-16.
        ax.dataLim.update_from_data_y(np.append(changes[known], 0), ignore=True)
        ax.autoscale_view()
        ax.set_xlabel(f"Adjustment{' (× not with this split)' * (not known.all())}", size=7)

    return update


def _trained_alone(ax: Axes, standing: pd.DataFrame) -> Update:
    """Mean accuracy of each adjustment trained alone, with its interval, from the results."""
    ordered = standing.sort_values("mean", kind="stable").reset_index(drop=True)
    for group, marker in MARKERS.items():
        rows = ordered[ordered["group"] == group]
        ax.vlines(rows.index, rows["mean_low"], rows["mean_high"], color=COLOURS[group], lw=0.9)
        ax.plot(rows.index, rows["mean"], marker, color=COLOURS[group], ms=3, ls="none")
    ring = _ring(ax)
    ax.set_xticks([0, 13, 26], ["worst", "", "best"])
    ax.set_xlabel("The 27, trained alone, in order", fontsize=7)
    ax.set_title("Validation accuracy (%)", fontsize=7, **_TITLE)
    handles = [
        Line2D([], [], color=COLOURS[g], marker=m, ms=3, ls="none", label=g)
        for g, m in MARKERS.items()
    ]
    ax.legend(handles=handles, loc="lower right", fontsize=6, handletextpad=0.1, borderpad=0)

    def update(choice: Choice, view: View) -> None:
        chosen = ordered[ordered["index"] == view.applied]
        ring.set_data(chosen.index, chosen["mean"])

    return update


def _ring(ax: Axes) -> Line2D:
    """Marks the adjustment applied."""
    return ax.plot([], [], "o", mfc="none", mec="black", ms=8, mew=1.0)[0]
