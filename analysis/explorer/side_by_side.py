"""The maps of all methods of one sample, side by side."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import figures
from analysis.explorer.choice import Choice, View
from analysis.explorer.drawing import picture

COLUMNS = 7


def spaced(method: str) -> str:
    """A method's name as people write it; that of your own, "module:function", as it is."""
    if ":" in method:
        return method
    return method.replace("_x_", " × ").replace("_plus_plus", "++").replace("_", " ")


def draw_maps(choice: Choice, view: View, maps: Mapping[str, np.ndarray | str]) -> Figure:
    """The sample and its map by every method, each by its largest size; the chosen one is framed.

    maps: {method: array shaped like the input, or why there is none}.
    """
    lines = -(-(len(maps) + 1) // COLUMNS)
    width = figures.TWO_COLUMNS / figures.MILLIMETRES_PER_INCH
    with figures.style("paper"):
        figure = Figure(figsize=(width, 1.25 * lines + 0.2), layout="constrained")
        axes = list(figure.subplots(lines, COLUMNS, squeeze=False).flat)
        _empty(axes)
        axes[0].imshow(picture(view.x), cmap="gray", aspect=_aspect(view))
        axes[0].set_title(f"input: {view.class_names[view.label]}", fontsize=6)
        for ax, (method, values) in zip(axes[1:], maps.items(), strict=False):
            ax.set_title(figures.wrapped(spaced(method), 66, 6, 2), fontsize=6)
            if isinstance(values, str):
                ax.imshow(np.zeros_like(picture(view.x)), cmap="gray_r", aspect=_aspect(view))
                ax.text(
                    *(0.5, 0.5, figures.wrapped(values, 60, 5, 6)),
                    transform=ax.transAxes, ha="center", va="center", fontsize=4.5, color="0.4",
                )  # fmt: skip
                continue
            shown = picture(values)
            largest = float(np.abs(shown).max()) or 1.0
            ax.imshow(shown / largest, cmap="PuOr_r", vmin=-1, vmax=1, aspect=_aspect(view))
            if method == choice.method:
                for spine in ax.spines.values():
                    spine.set(visible=True, color="black", linewidth=1.2)
        for ax in axes[len(maps) + 1 :]:
            ax.set_visible(False)
    return figure


def _empty(axes: list[Axes]) -> None:
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set(visible=True, color="0.8", linewidth=0.4)


def _aspect(view: View) -> str:
    return "equal" if view.x.ndim == 3 else "auto"
