"""Explorer: one sample under any adjustment, with widgets to turn, or as one still figure.

    choice → look (given by the notebook, it knows the models) → View → draw → picture

`look` is handed in, so that this file needs neither torch nor `aba_core`. With a reader there is a
panel, without one the same drawing of the first choice (see `interactive.attended`).
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
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

    @classmethod
    def of(cls, inspection: Any, **more: Any) -> View:
        """From `aba_core.inspection.Inspection`, whose tensors become arrays."""
        names = {field.name for field in fields(cls)} - set(more)
        found = {name: getattr(inspection, name) for name in names if hasattr(inspection, name)}
        for name in ("x", "attribution", "categories", "augmented", "scores_before"):
            found[name] = np.asarray(found[name])
        found["scores_after"] = np.asarray(found["scores_after"])
        found["loss_changes"] = np.asarray(found["loss_changes"], dtype=np.float64)
        return cls(**found, **more)

    @property
    def applied(self) -> int | None:
        """Index of the adjustment applied, None where it is none of the 27."""
        low, *middle, high = self.changes
        wanted = (low, middle[0] if middle else 0.0, high)
        rows = _adjustments()[["low", "middle", "high"]].to_numpy()
        matching = np.flatnonzero((rows == wanted).all(1))
        return int(matching[0]) if len(matching) else None


Look = Callable[[Choice], View]
Standing = Callable[[str], pd.DataFrame | None]


# --- drawing -------------------------------------------------------------------------------------


def draw(choice: Choice, view: View, standing: pd.DataFrame | None = None) -> Figure:
    """The sample, its map, the categories and the augmented sample; class scores before and after;
    where the adjustment stands among the 27.

    standing: from `tables.isolation_table`, None where there is no isolation study.
    """
    with figures.style("paper"):
        figure = Figure(figsize=_SIZE)
        top = figure.add_gridspec(1, 4, left=0.03, right=0.97, top=0.9, bottom=0.54, wspace=0.12)
        _pictures([figure.add_subplot(top[0, column]) for column in range(4)], choice, view)
        right = 3 if standing is not None else 2
        longest = max(len(_short(name)) for name in view.class_names)
        bottom = figure.add_gridspec(
            *(1, right), left=0.07 + 0.008 * longest, right=0.97, top=0.41, bottom=0.11, wspace=0.32
        )
        axes = [figure.add_subplot(bottom[0, column]) for column in range(right)]
        _scores(axes[0], view)
        _loss_changes(axes[1], view)
        if standing is not None:
            _trained_alone(axes[2], view, standing)
    return figure


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


def _pictures(axes: Sequence[Axes], choice: Choice, view: View) -> None:
    aspect: Literal["equal", "auto"] = "equal" if view.x.ndim == 3 else "auto"
    colour = view.x.ndim == 3 and view.x.shape[0] == 3 and view.display is not None
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set(visible=True, color="0.75", linewidth=0.5)
    usual = picture(view.x)
    # A scale that does not move with the strength, or the change could not be seen.
    low, high = np.quantile(usual, (0.02, 0.98)) if view.x.ndim == 2 else (usual.min(), usual.max())
    margin = 0.35 * (high - low)
    for ax, values in ((axes[0], view.x), (axes[3], view.augmented)):
        if colour and view.display is not None:
            ax.imshow(np.moveaxis(view.display(values).clip(0, 1), 0, -1))
        else:
            ax.imshow(
                picture(values), cmap="gray", vmin=low - margin, vmax=high + margin, aspect=aspect
            )
    before, after = (
        view.class_names[int(s.argmax())] for s in (view.scores_before, view.scores_after)
    )
    truth = view.class_names[view.label]
    axes[0].set_title(f"Input: {truth}\ntaken for {_short(before)}", **_TITLE)
    axes[3].set_title(f"{_named(view)}\ntaken for {_short(after)}", **_TITLE)
    axes[0].set_xlabel(f"Loss {view.loss_before:.2f}")
    axes[3].set_xlabel(f"Loss {view.loss_after:.2f}")

    summed = picture(view.attribution)
    limit = float(np.abs(summed).max()) or 1.0
    axes[1].imshow(summed / limit, cmap=_MAPS, vmin=-1, vmax=1, aspect=aspect)
    axes[1].set_title(
        f"Attribution of the {choice.target.replace('_', ' ')}\n(sense of the loss)", **_TITLE
    )
    axes[1].set_xlabel("Orange: raising it raises the loss", fontsize=6.5)
    signs = view.categories[-1].astype(float) - view.categories[0]
    parts = picture(signs)
    several = view.x.ndim == 3 and view.x.shape[0] > 1
    limit = view.x.shape[0] if several else 1
    shades: Any = colormaps[_MAPS] if several else ListedColormap(CATEGORY_COLOURS)
    axes[2].imshow(parts, cmap=shades, vmin=-limit, vmax=limit, aspect=aspect)
    sizes = [int(mask.sum()) for mask in (view.categories[0], view.categories[-1])]
    cut = "by sign" if choice.split == "sign" else "at {:.0%} and {:.0%}".format(*choice.quantiles)
    axes[2].set_title(f"Categories{', summed over channels' * several}\ncut {cut}", **_TITLE)
    axes[2].text(
        *(0.0, -0.05, f"low: {sizes[0]}"),
        transform=axes[2].transAxes, va="top", size=7, color=CATEGORY_COLOURS[0],
    )  # fmt: skip
    axes[2].text(
        *(1.0, -0.05, f"high: {sizes[1]}"),
        transform=axes[2].transAxes, va="top", ha="right", size=7, color=CATEGORY_COLOURS[2],
    )  # fmt: skip


def _short(text: str, length: int = 16) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _scores(ax: Axes, view: View, most: int = 10) -> None:
    """Class scores before and after: all classes, or those that matter."""
    highest = np.maximum(view.scores_before, view.scores_after)
    highest[view.label] = np.inf
    shown = np.sort(np.argsort(-highest, kind="stable")[:most])
    places = np.arange(len(shown))[::-1]
    before, after = view.scores_before[shown], view.scores_after[shown]
    ax.hlines(places, before, after, color="0.75", lw=1.2, zorder=1)
    ax.plot(before, places, "o", ms=3.5, mfc="white", mec="0.3", ls="none", zorder=2)
    ax.plot(after, places, "o", ms=3.5, color="0.2", ls="none", zorder=3)
    ax.set_yticks(places, [_short(view.class_names[number]) for number in shown], fontsize=6.5)
    for label, number in zip(ax.get_yticklabels(), shown, strict=True):
        label.set_fontweight("bold" if number == view.label else "normal")
    ax.set_ylim(-0.6, len(shown) - 0.4)
    ax.set_title("Class scores: before ○, after ●", fontsize=7, **_TITLE)
    ax.set_xlabel("Score (logit); true class bold", fontsize=7)
    ax.tick_params(axis="y", length=0)


def _loss_changes(ax: Axes, view: View) -> None:
    """Change of loss of this sample under each of the 27, at this strength and magnitude."""
    group_of = _adjustments()["group"]
    known = np.isfinite(view.loss_changes)
    ax.axhline(0, color="0.6", lw=0.6, zorder=0)
    for group, colour in ((g, COLOURS[g]) for g in MARKERS):
        own = np.flatnonzero(known & (group_of == group).to_numpy())
        ax.vlines(own, 0, view.loss_changes[own], color=colour, lw=0.9)
        ax.plot(own, view.loss_changes[own], MARKERS[group], color=colour, ms=3, ls="none")
    if (~known).any():
        missing = np.flatnonzero(~known)
        ax.plot(missing, np.zeros(len(missing)), "x", color="0.75", ms=3, ls="none", zorder=1)
    if view.applied is not None and known[view.applied]:
        place = view.applied, view.loss_changes[view.applied]
        ax.plot(*place, "o", mfc="none", mec="black", ms=8, mew=1.0)
    ax.set_xlim(-1, 27)
    ax.set_xticks(range(0, 27, 3))
    ax.set_xlabel("Adjustment (× not with this split)" if (~known).any() else "Adjustment", size=7)
    ax.set_title("Change of loss, this sample (nats)", fontsize=7, **_TITLE)


def _trained_alone(ax: Axes, view: View, standing: pd.DataFrame) -> None:
    """Mean accuracy of each adjustment trained alone, with its interval, from the results."""
    ordered = standing.sort_values("mean", kind="stable").reset_index(drop=True)
    for group, marker in MARKERS.items():
        own = ordered[ordered["group"] == group]
        ax.vlines(own.index, own["mean_low"], own["mean_high"], color=COLOURS[group], lw=0.9)
        ax.plot(own.index, own["mean"], marker, color=COLOURS[group], ms=3, ls="none")
    chosen = ordered.index[ordered["index"] == view.applied]
    if len(chosen):
        place = float(chosen[0]), float(ordered["mean"][chosen[0]])
        ax.plot(*place, "o", mfc="none", mec="black", ms=8, mew=1.0)
    ax.set_xticks([0, 13, 26], ["worst", "", "best"])
    ax.set_xlabel("The 27, trained alone, in order", fontsize=7)
    ax.set_title("Validation accuracy (%)", fontsize=7, **_TITLE)
    handles = [
        Line2D([], [], color=COLOURS[g], marker=m, ms=3, ls="none", label=g)
        for g, m in MARKERS.items()
    ]
    ax.legend(handles=handles, loc="lower right", fontsize=6, handletextpad=0.1, borderpad=0)


def png(figure: Figure, pixels_per_inch: int = PIXELS_PER_INCH) -> bytes:
    """The figure as a picture for the screen."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=pixels_per_inch, pil_kwargs={"compress_level": 1})
    return file.getvalue()


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
        made = Panel(start, look, samples, models, standing)
        still = base64.b64encode(made.image.value).decode()
        interactive.show_widget(made.box, {"image/png": still})
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
        self.image.value = png(draw(choice, view, standing))
        self.image.layout.visibility = "visible"

    def _say(self, text: str, colour: str) -> None:
        self.message.value = f'<span style="color:{colour}">{html.escape(text)}</span>'

    def _mark(self, wanted: set[int], applied: int | None, by_sign: bool) -> None:
        """The chosen button in full colour; those that the split cannot express greyed out."""
        for row, button in zip(_adjustments().to_dict("records"), self.buttons, strict=True):
            index = int(row["index"])
            here = index == applied or index in wanted
            colour = COLOURS[row["group"]]
            button.disabled = bool(by_sign and row["middle"])
            button.style.button_color = colour if here else _tint(colour)
            button.style.text_color = "white" if here else "black"
            button.style.font_weight = "bold" if here else "normal"


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
