"""Curves behind the report cards of single models, as figures.

What is drawn comes from `aba_core.card.Card.curves`, handed in by the notebook, so that this file
needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import binomtest

from analysis import figures

if TYPE_CHECKING:
    from analysis.reports import Page

Curves = Mapping[str, pd.DataFrame]
Look = tuple[str, str, str]  # colour, line, mark
_LOOKS: tuple[Look, ...] = (
    ("#0072B2", "-", "o"),
    ("#D55E00", "--", "s"),
    ("#009E73", "-.", "^"),
    ("#7A7A7A", ":", "v"),
)


def _reliability(ax: Axes, table: pd.DataFrame, look: Look) -> None:
    """A mark for each bin, with a Wilson interval of 95 % for its accuracy."""
    _, width, size = figures.sizes(ax)
    colour, _, mark = look
    for _, row in table.iterrows():
        samples = int(row["samples"])
        right = round(row["accuracy"] / 100 * samples)
        low, high = binomtest(right, samples).proportion_ci(method="wilson")
        ax.plot([row["confidence"]] * 2, [100 * low, 100 * high], color=colour, lw=0.6 * width)
    ax.plot(table["confidence"], table["accuracy"], mark, color=colour, ms=0.8 * size)


def _lines(x: str, y: str, steps: bool) -> Callable[..., None]:
    def draw(ax: Axes, table: pd.DataFrame, look: Look) -> None:
        _, width, size = figures.sizes(ax)
        colour, line, mark = look
        marked: dict[str, Any] = {} if steps else {"marker": mark, "ms": 0.8 * size}
        ax.plot(table[x], table[y], color=colour, ls=line, lw=width, **marked)

    return draw


# {curve: (title, label across, label up, how one model is drawn)}
_PANELS: dict[str, tuple[str, str, str, Callable[..., None]]] = {
    "reliability": ("Reliability", "Confidence (%)", "Accuracy (%)", _reliability),
    "risk_coverage": (
        *("Selective prediction", "Coverage (%)", "Error among the surest (%)"),
        _lines("coverage", "error", True),
    ),
    "attacks": (
        *("PGD-20 in L∞", "ε (part of the range, or standardised units)", "Accuracy (%)"),
        _lines("epsilon", "accuracy", False),
    ),
    "margins": (
        *("Distance to the boundary, first order", "Distance (L2)", "Samples at most so far (%)"),
        _lines("distance", "share", True),
    ),
}  # fmt: skip


def curves_plot(cards: Mapping[str, Curves], width: str = "double") -> Figure:
    """Reliability, risk–coverage, accuracy by ε and the distribution of margins, a line a model.

    cards: {model: `Card.curves()`}, up to four models. A curve that no card has is left out.
    Raises ValueError where none has any, and for more models.
    """
    if len(cards) > len(_LOOKS):
        raise ValueError(f"{len(cards)} models; allowed: up to {len(_LOOKS)}")
    names = [name for name in _PANELS if any(name in curves for curves in cards.values())]
    if not names:
        raise ValueError(f"no curves to draw; needed: any of {', '.join(_PANELS)}")
    rows = -(-len(names) // 2)
    figure, axes = figures.panels(width, 14.0 + 56.0 * rows, rows, min(2, len(names)))
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    for ax, name in zip(axes.flat, names, strict=False):
        title, across, up, draw = _PANELS[name]
        for curves, look in zip(cards.values(), _LOOKS, strict=False):
            if name in curves:
                draw(ax, curves[name], look)
        ax.set_title(title)
        ax.set_xlabel(across)
        ax.set_ylabel(up)
        if name == "reliability":
            ax.plot([0, 100], [0, 100], color="0.6", lw=0.6 * figures.sizes(ax)[1], zorder=-1)
        if name == "margins":
            ax.axvline(0, color="0.6", lw=0.6 * figures.sizes(ax)[1], zorder=-1)
    text, thickness, marker = figures.sizes(axes.flat[0])
    handles = [
        Line2D(
            [], [], color=colour, ls=line, marker=mark, ms=0.8 * marker, lw=thickness, label=name
        )
        for name, (colour, line, mark) in zip(cards, _LOOKS, strict=False)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False,
                  fontsize=0.875 * text)  # fmt: skip
    return figure


def adjustments_table(cards: Mapping[str, Curves]) -> pd.DataFrame:
    """Changes of EL2N and GraNd under each of the 27, a row each, two columns a model."""
    found = {
        name: curves["adjustments"] for name, curves in cards.items() if "adjustments" in curves
    }
    rows: pd.DataFrame | None = None
    for name, table in found.items():
        own = table.rename(columns={"el2n": f"EL2N, {name}", "grand": f"GraNd, {name}"})
        rows = own if rows is None else rows.merge(own, on=["adjustment", "group"])
    return pd.DataFrame() if rows is None else rows


def show(page: Page, cards: Mapping[str, Curves]) -> None:
    """The figure and the table on a notebook's page."""
    with figures.style("paper"):
        figure = curves_plot(cards)
    page.figure(
        "card-curves", figure,
        "What the numbers of a card are made from, one model each. Marks of reliability are the "
        "bins that have samples, with a Wilson interval of 95 %; a calibrated model lies on the "
        "diagonal.",
    )  # fmt: skip
    page.table("card-adjustments", adjustments_table(cards), digits=3)
