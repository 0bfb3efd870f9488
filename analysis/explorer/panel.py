"""The explorer with a reader, as widgets to turn, and without one, as a still picture."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.colors import to_rgb

from analysis import interactive
from analysis.explorer.choice import (
    METHODS,
    SPLITS,
    TARGETS,
    Choice,
    View,
    cached_adjustments,
    is_set,
    sentence,
)
from analysis.explorer.drawing import PIXELS_PER_INCH, Drawing, draw
from analysis.explorer.side_by_side import draw_maps
from analysis.figures import COLOURS

if TYPE_CHECKING:
    import numpy as np

    from analysis.reports import Page

Look = Callable[[Choice], View]
# Every method's map of what is looked at, or why it has none.
Maps = Callable[[Choice], Mapping[str, "np.ndarray | str"]]
ALL_MAPS = "The sample, and its attribution map by every method, each by its largest size"
Standing = Callable[[str], pd.DataFrame | None]


def show(
    page: Page,
    start: Choice,
    look: Look,
    samples: Mapping[str, int],
    models: Sequence[str],
    standing: Standing = lambda dataset: None,
    maps: Maps | None = None,
) -> None:
    """The panel where somebody can turn it; otherwise its first picture as a figure of the page,
    and that of all maps where they are given.

    samples: the data sets to choose from and their numbers of samples. models: what `look` knows.
    """
    if interactive.attended():
        panel = Panel(start, look, samples, models, standing, maps)
        picture = base64.b64encode(panel.image.value).decode()
        interactive.show_widget(panel.box, {"image/png": picture})
        return
    first = standing(start.dataset)
    view = look(start)
    page.figure("explorer", draw(start, view, first), sentence(start, view, first))
    if maps is not None:
        page.figure("all-maps", draw_maps(start, view, maps(start)), ALL_MAPS)


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
        maps: Maps | None = None,
    ) -> None:
        import ipywidgets as widgets

        self.look, self.samples, self.standing, self.maps = look, samples, standing, maps
        self.known: set[tuple[str, str]] = set()
        self.drawing: Drawing | None = None
        self.controls = _controls(start, samples, models)
        for name, text in _HELP.items():
            self.controls[name].tooltip = text
        table = cached_adjustments()
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
        self.all_maps = widgets.ToggleButton(
            description="All maps", tooltip="the maps of all methods side by side"
        )
        self.all_maps.layout.display = "none" if maps is None else ""
        self.side_by_side = widgets.Image(format="png")
        self.side_by_side.layout.max_width = "100%"
        self.side_by_side.layout.align_self = "flex-start"
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
                self.all_maps,
                self.side_by_side,
            ]
        )
        self.box.add_class("aba-explorer")
        for control in self.controls.values():
            control.observe(self._turned, names="value")
        self.all_maps.observe(lambda _: self.redraw(), names="value")
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
        self.controls["draw"].disabled = not (is_set(choice) or choice.target == "class_score")
        place = (choice.dataset, choice.model)
        if place not in self.known:
            self._say(f"{choice.model} on {choice.dataset}: trained now, some seconds …", "#888")
        try:
            view = self.look(choice)
        except ValueError as problem:  # what the core refuses, in its own words
            self._mark({int(choice.adjustments)} if not is_set(choice) else set(), None, by_sign)
            self._say(f"Not possible: {problem}", "#c62828")
            self.image.layout.visibility = "hidden"
            self.side_by_side.layout.display = "none"
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
        self._show_all_maps(choice, view)

    def _show_all_maps(self, choice: Choice, view: View) -> None:
        """The maps of all methods below the picture, where they are asked for."""
        asked = self.maps is not None and self.all_maps.value
        self.side_by_side.layout.display = "" if asked else "none"
        if asked and self.maps is not None:
            figure, file = draw_maps(choice, view, self.maps(choice)), io.BytesIO()
            figure.savefig(file, format="png", dpi=PIXELS_PER_INCH)
            self.side_by_side.value = file.getvalue()

    def _say(self, text: str, colour: str) -> None:
        self.message.value = f'<span style="color:{colour}">{html.escape(text)}</span>'

    def _mark(self, refused: set[int], applied: int | None, by_sign: bool) -> None:
        """The chosen button in full colour; those that the split cannot express greyed out."""
        for row, button in zip(cached_adjustments().to_dict("records"), self.buttons, strict=True):
            index = int(row["index"])
            chosen = index == applied or index in refused
            colour = COLOURS[row["group"]]
            button.disabled = bool(by_sign and row["middle"])
            button.style.button_color = colour if chosen else _tint(colour)
            button.style.text_color = "white" if chosen else "black"
            button.style.font_weight = "bold" if chosen else "normal"


def _controls(start: Choice, samples: Mapping[str, int], models: Sequence[str]) -> dict[str, Any]:
    """The widgets that say what is looked at, by the names of `Choice`; its quantiles are two."""
    import ipywidgets as widgets

    wide: dict[str, Any] = {
        "layout": widgets.Layout(width="19.5rem"), "style": {"description_width": "6.2rem"}
    }  # fmt: skip
    spaced = {name: name.replace("_x_", " × ").replace("_", " ") for name in (*METHODS, *TARGETS)}

    def menu(name: str, options: Sequence[str]) -> Any:
        pairs = [(spaced.get(option, option), option) for option in options]
        return widgets.Dropdown(
            options=pairs, value=getattr(start, name), description=name.capitalize(), **wide
        )

    def slider(name: str, low: float, high: float, step: float, value: float) -> Any:
        return widgets.FloatSlider(
            value, min=low, max=high, step=step, description=name, readout_format=".2f", **wide
        )

    return {
        "dataset": menu("dataset", tuple(samples)),
        "sample": widgets.IntSlider(
            start.sample, 0, samples[start.dataset] - 1, description="Sample", **wide
        ),
        "model": menu("model", tuple(models)),
        "method": menu("method", tuple(dict.fromkeys((*METHODS, start.method)))),  # or your own
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
