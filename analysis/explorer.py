"""Explorer: one sample under any adjustment, with widgets to turn, or as one still figure.

    choice → look (from `teaching`, it knows the models) → View → draw → picture

`look` is handed in, so that this file needs neither torch nor `aba_core`. With a reader there is a
panel, without one the same drawing of the first choice (see `interactive.attended`).
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import figures, interactive
from analysis.figures import COLOURS, MARKERS
from analysis.tables import adjustment_table

if TYPE_CHECKING:
    from analysis.reports import Page

METHODS = ("gradient", "gradient_x_input", "smoothgrad", "integrated_gradients")
TARGETS = ("loss", "true_class", "predicted_class", "class_score")
SPLITS = ("percentiles", "sign")
CATEGORY_COLOURS = ("#0072B2", "#E6E6E6", "#D55E00")  # low, middle or none, high
PIXELS_PER_INCH = 130
_SIZE = (figures.TWO_COLUMNS / figures.MILLIMETRES_PER_INCH, 4.4)
_MAPS = "PuOr_r"
_TITLE: dict[str, Any] = {"y": 1.03, "pad": 0}  # placed here: matplotlib's own search costs 30 ms
_adjustments = cache(adjustment_table)  # read from its file once, not at every turn


@dataclass(frozen=True)
class Choice:
    """What is looked at. quantiles: where a map is cut, with split "percentiles". adjustments: an
    index ("3"), a set ("3,4,0x2") or groups ("epsilon+delta"). draw: which draw of a set's member,
    and of the class of target "class_score". magnitude: what |N(0, 1)| is in training."""

    dataset: str = "digits"
    sample: int = 0
    model: str = ""
    method: str = "gradient"
    target: str = "loss"
    split: str = "percentiles"
    quantiles: tuple[float, float] = (0.1, 0.9)
    adjustments: str = "3"
    strength: float = 0.5
    magnitude: float = 1.0
    draw: int = 0


@dataclass(frozen=True, eq=False)
class View:
    """What is seen: arrays without a batch axis.

    x, augmented, attribution: shaped like the input. categories: boolean, low first, [category,
    *feature]. changes: those applied, low first. loss_changes: of the 27, NaN where the split
    cannot express one. display: from input units to what is shown (colour pictures need it).
    versions: the sample under each adjustment, by index, where they are to be seen.
    """

    x: np.ndarray
    attribution: np.ndarray
    categories: np.ndarray
    changes: tuple[float, ...]
    augmented: np.ndarray
    scores_before: np.ndarray
    scores_after: np.ndarray
    loss_before: float
    loss_after: float
    loss_changes: np.ndarray
    label: int
    class_names: tuple[str, ...]
    display: Callable[[np.ndarray], np.ndarray] | None = None
    versions: Mapping[int, np.ndarray] = field(default_factory=dict)

    @cached_property
    def applied(self) -> int | None:
        """Index of the adjustment applied, None where it is none of the 27."""
        low, *middle, high = self.changes
        applied = (low, middle[0] if middle else 0.0, high)
        rows = _adjustments()[["low", "middle", "high"]].to_numpy()
        matching = np.flatnonzero((rows == applied).all(1))
        return int(matching[0]) if len(matching) else None


Look = Callable[[Choice], View]
Standing = Callable[[str], pd.DataFrame | None]
Update = Callable[[Choice, View], None]  # sets a part of a drawing to what is looked at


# --- drawing -------------------------------------------------------------------------------------


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


def sentence(choice: Choice, view: View, standing: pd.DataFrame | None = None) -> str:
    """What the drawing shows, in words."""
    name = _named(view)
    applied = f"{name} drawn from {{{choice.adjustments}}}" if _is_set(choice) else name
    change = round(view.loss_after - view.loss_before, 2) + 0.0  # no −0.00
    text = f"{applied}: loss {view.loss_before:.2f} → {view.loss_after:.2f} ({change:+.2f})"
    index = view.applied
    if index is not None and np.isfinite(view.loss_changes[index]):
        known = view.loss_changes[np.isfinite(view.loss_changes)]
        rank = 1 + int((known > view.loss_changes[index]).sum())
        text += f", place {rank} of {len(known)} from the highest loss on this sample"
    if standing is not None and index is not None:
        row = standing.set_index("index").loc[index]
        if np.isfinite(row["mean"]):
            rank = 1 + int((standing["mean"] > row["mean"]).sum())
            text += f"; trained alone {row['mean']:.1f} %, place {rank} of 27"
    return (text + ".").replace("-", "−")


def _is_set(choice: Choice) -> bool:
    return not choice.adjustments.strip().isdigit()


def _named(view: View) -> str:
    changes = ", ".join(f"{value:g}" for value in view.changes).replace("-", "−")
    if view.applied is None:
        return f"[{changes}]"
    group = _adjustments()["group"][view.applied]
    return f"{view.applied} [{changes}], {group}"


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
    shades: Any = colormaps[_MAPS] if channels > 1 else ListedColormap(CATEGORY_COLOURS)
    images = []
    for ax, colours in zip(axes, ("gray", _MAPS, shades, "gray"), strict=True):
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set(visible=True, color="0.75", linewidth=0.5)
        ax.set_title("", **_TITLE)
        images.append(ax.imshow(picture(like.x), cmap=colours, aspect=aspect))
    images[1].set_clim(-1, 1)
    images[2].set_clim(-channels, channels)
    axes[1].set_xlabel("Orange: raising it raises the loss", fontsize=6.5)
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
            (3, view.augmented, _named(view), view.scores_after, view.loss_after),
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


def _scores(ax: Axes, like: View, most: int = 10) -> Update:
    """Class scores before and after: all classes, or those that matter."""
    count = min(most, len(like.class_names))
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
    group_of = _adjustments()["group"]
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


# --- with a reader, and without ------------------------------------------------------------------


def show(
    page: Page,
    start: Choice,
    look: Look,
    samples: Mapping[str, int],
    models: Sequence[str],
    standing: Standing = lambda dataset: None,
) -> None:
    """The panel where somebody can turn it; otherwise its first picture as a figure of the page.

    samples: the data sets to choose from and their numbers of samples. models: what `look` knows.
    """
    if interactive.attended():
        panel = Panel(start, look, samples, models, standing)
        picture = base64.b64encode(panel.image.value).decode()
        interactive.show_widget(panel.box, {"image/png": picture})
        return
    first = standing(start.dataset)
    view = look(start)
    page.figure("explorer", draw(start, view, first), sentence(start, view, first))


class Panel:
    """The widgets of one explorer, in `box`; `choice` is what they say. Plain ipywidgets and a PNG:
    nothing that a frontend would have to install."""

    def __init__(
        self,
        start: Choice,
        look: Look,
        samples: Mapping[str, int],
        models: Sequence[str],
        standing: Standing,
    ) -> None:
        import ipywidgets as widgets

        self.look, self.samples, self.standing = look, samples, standing
        self.known: set[tuple[str, str]] = set()
        self.drawing: Drawing | None = None
        wide: dict[str, Any] = {
            "layout": widgets.Layout(width="19.5rem"), "style": {"description_width": "6.2rem"}
        }  # fmt: skip
        spaced = {
            name: name.replace("_x_", " × ").replace("_", " ") for name in (*METHODS, *TARGETS)
        }

        def menu(name: str, options: Sequence[str]) -> Any:
            pairs = [(spaced.get(option, option), option) for option in options]
            return widgets.Dropdown(
                options=pairs, value=getattr(start, name), description=name.capitalize(), **wide
            )

        def slider(name: str, low: float, high: float, step: float, value: float) -> Any:
            return widgets.FloatSlider(
                value, min=low, max=high, step=step, description=name, readout_format=".2f", **wide
            )

        self.controls = {
            "dataset": menu("dataset", tuple(samples)),
            "sample": widgets.IntSlider(
                start.sample, 0, samples[start.dataset] - 1, description="Sample", **wide
            ),
            "model": menu("model", tuple(models)),
            "method": menu("method", METHODS),
            "target": menu("target", TARGETS),
            "split": menu("split", SPLITS),
            "low": slider("Low below", 0.01, 0.49, 0.01, start.quantiles[0]),
            "high": slider("High above", 0.51, 0.99, 0.01, start.quantiles[1]),
            "strength": slider("Strength", 0.0, 3.0, 0.05, start.strength),
            "magnitude": slider("Magnitude", 0.0, 3.0, 0.05, start.magnitude),
            "adjustments": widgets.Text(
                start.adjustments,
                description="Set",
                placeholder="3,4,0x2 or epsilon+delta",
                continuous_update=False,
                **wide,
            ),
            "draw": widgets.IntSlider(start.draw, 0, 30, description="Draw", **wide),
        }
        for name, text in _HELP.items():
            self.controls[name].tooltip = text
        table = _adjustments()
        self.buttons = [self._button(widgets, row) for row in table.to_dict("records")]
        rows = [
            widgets.HBox(
                [self.buttons[i] for i in table["index"] if table["group"][i] == group]
                + [widgets.HTML(f"<b style='color:{COLOURS[group]}'>&nbsp;{group}</b>")]
            )
            for group in ("Epsilon", "Neutral", "Delta")
        ]
        self.message = widgets.HTML()
        self.image = widgets.Image(format="png")
        self.image.layout.max_width = "100%"
        self.image.layout.align_self = "flex-start"  # or it would be stretched
        places = (
            ("dataset", "sample", "model", "method"),
            ("target", "split", "low", "high"),
            ("strength", "magnitude", "adjustments", "draw"),
        )
        columns = [widgets.VBox([self.controls[name] for name in column]) for column in places]
        self.box = widgets.VBox(
            [
                widgets.HBox(columns, layout=widgets.Layout(flex_flow="row wrap")),
                *rows,
                self.message,
                self.image,
            ]
        )
        self.box.add_class("aba-explorer")
        for control in self.controls.values():
            control.observe(self._turned, names="value")
        self.redraw()

    def _button(self, widgets: Any, row: Mapping[Any, Any]) -> Any:
        changes = [int(row[name]) for name in ("low", "middle", "high")]
        text = " ".join({-1: "−", 0: "0", 1: "+"}[change] for change in changes)
        said = ", ".join(map(str, changes)).replace("-", "−")
        button = widgets.Button(
            description=f"{row['index']}: {text}",
            tooltip=f"adjustment {row['index']} [{said}], {row['group']}: low, middle, high",
            layout=widgets.Layout(width="5.3rem", height="1.6rem", padding="0", margin="1px"),
        )
        button.on_click(
            lambda _, index=row["index"]: self.controls["adjustments"].set_trait(
                "value", str(index)
            )
        )
        return button

    @property
    def choice(self) -> Choice:
        values = {name: control.value for name, control in self.controls.items()}
        values["quantiles"] = (values.pop("low"), values.pop("high"))
        return Choice(**values)

    def _turned(self, change: Mapping[str, Any]) -> None:
        if change["owner"] is self.controls["dataset"]:
            sample = self.controls["sample"]
            sample.unobserve(self._turned, names="value")
            sample.max = self.samples[change["new"]] - 1
            sample.observe(self._turned, names="value")
        self.redraw()

    def redraw(self) -> None:
        """Show what the widgets say, or in one line why it cannot be shown."""
        choice = self.choice
        by_sign = choice.split == "sign"
        for name in ("low", "high"):
            self.controls[name].disabled = by_sign
        self.controls["draw"].disabled = not (_is_set(choice) or choice.target == "class_score")
        place = (choice.dataset, choice.model)
        if place not in self.known:
            self._say(f"{choice.model} on {choice.dataset}: trained now, some seconds …", "#888")
        try:
            view = self.look(choice)
        except ValueError as problem:  # what the core refuses, in its own words
            self._mark({int(choice.adjustments)} if not _is_set(choice) else set(), None, by_sign)
            self._say(f"Not possible: {problem}", "#c62828")
            self.image.layout.visibility = "hidden"
            return
        self.known.add(place)
        standing = self.standing(choice.dataset)
        self._mark(set(), view.applied, by_sign)
        self._say(sentence(choice, view, standing), "inherit")
        if self.drawing is None or not self.drawing.fits(view, standing):
            self.drawing = Drawing(view, standing)
        self.drawing.show(choice, view)
        self.image.value = self.drawing.png()
        self.image.layout.visibility = "visible"

    def _say(self, text: str, colour: str) -> None:
        self.message.value = f'<span style="color:{colour}">{html.escape(text)}</span>'

    def _mark(self, refused: set[int], applied: int | None, by_sign: bool) -> None:
        """The chosen button in full colour; those that the split cannot express greyed out."""
        for row, button in zip(_adjustments().to_dict("records"), self.buttons, strict=True):
            index = int(row["index"])
            chosen = index == applied or index in refused
            colour = COLOURS[row["group"]]
            button.disabled = bool(by_sign and row["middle"])
            button.style.button_color = colour if chosen else _tint(colour)
            button.style.text_color = "white" if chosen else "black"
            button.style.font_weight = "bold" if chosen else "normal"


_HELP = {
    "target": "what the map is of; the groups have their meaning with the loss",
    "split": "percentiles: lowest, middle, highest share; sign: low and high, no middle",
    "low": "share of the features with the lowest attribution",
    "high": "the features above this share",
    "strength": "s, in standard deviations of the input",
    "magnitude": "the factor that is |N(0, 1)| in MendABA and FastABA, 1 in Challenger",
    "adjustments": "an index, a set as 3,4,0x2, or groups as epsilon+delta",
    "draw": "another member of the set, and another class with target class score",
}


def _tint(colour: str) -> str:
    """A colour so light that black text stands on it."""
    red, green, blue = (round(255 * (0.75 + 0.25 * part)) for part in to_rgb(colour))
    return f"#{red:02x}{green:02x}{blue:02x}"
