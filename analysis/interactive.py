"""What a notebook shows to somebody who sits before it: tables to sort, filter and open.

Plain ipywidgets with HTML and CSS inside, for JupyterLab and VS Code. Executed headlessly, a
notebook has nobody to turn anything: `attended` tells, and the plain table or figure is shown.
"""

from __future__ import annotations

import html
import importlib.util
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd

from aba_core.adjustments import Group
from analysis.figures import COLOURS
from analysis.studies.isolation import arm_name
from analysis.tables import present, shown_columns

SYMBOLS = {"Neutral": "●", "Delta": "▼", "Epsilon": "▲"}


def attended() -> bool:
    """Whether somebody can answer: so in JupyterLab and VS Code, not so under papermill or
    nbconvert, nor where there is no kernel or no ipywidgets."""
    from IPython import get_ipython

    # Frontends with a reader allow input(), executors of whole notebooks do not.
    kernel = getattr(get_ipython(), "kernel", None)
    answered = bool(getattr(kernel, "_allow_stdin", False))
    return answered and importlib.util.find_spec("ipywidgets") is not None


def show_widget(widget: Any, fallback: Mapping[str, Any]) -> None:
    """Show a widget; a page made of the saved notebook, without a kernel, shows `fallback`."""
    from IPython.display import display

    display({**widget._repr_mimebundle_(), **fallback}, raw=True)


def by_seed(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The single runs behind a table of the 27: columns index, seed, value.

    frame: isolation runs (arms "adjustment 0" to "adjustment 26"; others are left out) or frozen
    results of one arm and strength (column "adjustment").
    """
    if "adjustment" in frame:
        index = frame["adjustment"]
    else:
        index = frame["arm"].map({arm_name(number): number for number in range(27)})
    runs = pd.DataFrame({"index": index, "seed": frame["seed"], "value": frame[metric]})
    runs = runs.dropna().astype({"index": int, "seed": int})
    return runs.sort_values(["index", "seed"]).reset_index(drop=True)


def sorted_and_filtered(
    table: pd.DataFrame,
    by: str,
    descending: bool,
    groups: Sequence[str] = tuple(Group),
    text: str = "",
    columns: Sequence[str] | None = None,
    digits: int = 1,
) -> pd.DataFrame:
    """The rows of some groups that show a text in some cell, by one column; missing last."""
    rows = table[table["group"].isin(list(groups))] if "group" in table else table
    if text.strip() and len(rows):
        shown = present(table, digits, columns).set_axis(table.index).loc[rows.index]
        sought = text.strip().lower().replace("-", "−")
        cells = shown.apply(lambda column: column.str.lower().str.replace("-", "−"))
        rows = rows[(cells == sought).any(axis=1) | cells.apply(_contains, text=sought).any(axis=1)]
    return rows.sort_values(by, ascending=not descending, kind="stable", na_position="last")


def _contains(column: pd.Series, text: str) -> pd.Series:
    """Words are found anywhere in a cell; a number only as the whole cell: 1 is not 21."""
    whole = text.removeprefix("−").replace(".", "").isdigit()
    return pd.Series(False, column.index) if whole else column.str.contains(text, regex=False)


def rows_html(
    table: pd.DataFrame,
    columns: Sequence[str] | None = None,
    digits: int = 1,
    seeds: pd.DataFrame | None = None,
) -> str:
    """A table as HTML. With `seeds` (from `by_seed`) a column of dots, one a run, each with its
    number when pointed at; a click on it lists them all."""
    shown = present(table, digits, columns)
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in shown_columns(table, columns)]
    align = ["right" if right else "left" for right in numeric]
    heads = [
        f'<th style="text-align:{a}">{html.escape(name)}</th>'
        for name, a in zip(shown.columns, align, strict=True)
    ]
    heads += ['<th style="text-align:left">Each run</th>'] if seeds is not None else []
    scale = (math.nan, math.nan)
    runs: dict[int, pd.DataFrame] = {}
    if seeds is not None and len(seeds):
        scale = float(seeds["value"].min()), float(seeds["value"].max())
        runs = {i: seeds[seeds["index"] == i] for i in seeds["index"].unique().tolist()}
    body = []
    for place, cells in enumerate(shown.to_numpy()):
        row = [
            f'<td style="text-align:{a}">{_cell(text)}</td>'
            for text, a in zip(cells, align, strict=True)
        ]
        if seeds is not None:
            behind = runs.get(int(table["index"].iloc[place]))
            group = str(table["group"].iloc[place]) if "group" in table else ""
            colour = COLOURS.get(group, "#000000")
            row.append(
                f"<td>{_strip(behind, scale, colour, digits) if behind is not None else '–'}</td>"
            )
        body.append(f"<tr>{''.join(row)}</tr>")
    return (
        f'<style>{_style()}</style><table class="aba-rows"><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )


@cache
def _style() -> str:
    """The style of the rows, which goes with every table: a notebook has no page to hold it."""
    return resources.files("analysis").joinpath("interactive.css").read_text(encoding="utf-8")


def _cell(text: str) -> str:
    safe = html.escape(text)
    if text not in SYMBOLS:
        return safe
    return f'<span style="color:{COLOURS[text]}">{SYMBOLS[text]}</span> {safe}'


def _strip(runs: pd.DataFrame, scale: tuple[float, float], colour: str, digits: int) -> str:
    """The runs of one row as dots on a common scale, and behind a click as numbers."""
    left, width = scale[0], (scale[1] - scale[0]) or 1.0
    texts = [
        f"seed {seed}: {value:.{digits}f}".replace("-", "−")
        for seed, value in zip(runs["seed"], runs["value"], strict=True)
    ]
    dots = "".join(
        f'<circle cx="{5 + 130 * (value - left) / width:.1f}" cy="8" r="3" fill="{colour}" '
        f'fill-opacity="0.45"><title>{text}</title></circle>'
        for value, text in zip(runs["value"], texts, strict=True)
    )
    picture = f'<svg width="140" height="16" role="img" aria-label="{len(texts)} runs">{dots}</svg>'
    return f"<details><summary>{picture}</summary><div>{'; '.join(texts)}</div></details>"


def table_widget(
    table: pd.DataFrame,
    columns: Sequence[str] | None = None,
    digits: int = 1,
    seeds: pd.DataFrame | None = None,
) -> Any:
    """A table with controls: sort by a column, show some groups, keep rows with a text."""
    import ipywidgets as widgets

    names = shown_columns(table, columns)
    labels = list(present(table.head(0), digits, columns).columns)
    numeric = [name for name in names if pd.api.types.is_numeric_dtype(table[name])]
    by = widgets.Dropdown(
        options=list(zip(labels, names, strict=True)),
        value="index" if "index" in names else names[0],
        description="Sort by",
        layout=widgets.Layout(width="14rem"),
    )
    descending = widgets.ToggleButton(
        False, description="Descending", icon="arrow-down", layout=widgets.Layout(width="7.5rem")
    )
    text = widgets.Text(
        description="Containing",
        placeholder="Top, 94.1 …",
        continuous_update=True,
        layout=widgets.Layout(width="14.5rem"),
    )
    groups = [
        widgets.ToggleButton(True, description=f"{SYMBOLS[g]} {g}", tooltip=f"show {g}")
        for g in Group
    ]
    for toggle in groups:
        toggle.layout.width = "6rem"
    shown = widgets.HTML()

    def redraw(*_: object) -> None:
        chosen = [g for g, toggle in zip(Group, groups, strict=True) if toggle.value]
        rows = sorted_and_filtered(
            table, by.value, descending.value, chosen, text.value, columns, digits
        )
        shown.value = rows_html(rows, columns, digits, seeds) + (
            f"<small>{len(rows)} of {len(table)} rows"
            f"{'; point at a dot for its run, click it for all' * (seeds is not None)}</small>"
        )

    def turn_round(change: Mapping[str, Any]) -> None:
        # Numbers are mostly wanted from the top; the index and the changes are read upwards.
        upwards = change["new"] in ("index", "low", "middle", "high")
        descending.value = change["new"] in numeric and not upwards

    by.observe(turn_round, names="value")  # before `redraw`, so that it is drawn once
    for control in (by, descending, text, *groups):
        control.observe(redraw, names="value")
    redraw()
    controls = [by, descending, text]
    if "group" in table:
        controls += groups
    bar = widgets.HBox(controls, layout=widgets.Layout(flex_flow="row wrap"))
    return widgets.VBox([bar, shown])
