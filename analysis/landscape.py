"""The loss around models, as figures: spectra of Hessians, and planes of weights.

What is drawn comes from `aba_core.card.landscape`, handed in by the notebook, so that this file
needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import figures

if TYPE_CHECKING:
    from analysis.reports import Page

# Densities below this share of the largest are left out: a node's Gaussian never ends.
_SHOWN = 1e-5
_LOOKS = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#7A7A7A", ":"))


def spectrum_plot(curves: Mapping[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """Density of each model's Hessian eigenvalues, on a logarithmic axis.

    curves: {model: columns eigenvalue and density}, from `aba_core.card.landscape.density`. Up to
    four models.
    """
    ax = figures.given_or_new(ax, figures.TWO_COLUMNS, 60.0)
    text, width, _ = figures.sizes(ax)
    highest = max(curve["density"].max() for curve in curves.values())
    for (name, curve), (colour, line) in zip(curves.items(), _LOOKS, strict=False):
        ax.plot(curve["eigenvalue"], curve["density"], line, color=colour, lw=width, label=name)
    ax.set_yscale("log")
    ax.set_ylim(_SHOWN * highest, 3 * highest)
    ax.set_xlabel("Eigenvalue of the Hessian")
    ax.set_ylabel("Density")
    ax.legend(frameon=False, fontsize=0.875 * text)
    return ax


def planes_plot(planes: Mapping[str, Any]) -> Figure:
    """The loss on planes of weights side by side, on one logarithmic scale of colours.

    planes: {title: `aba_core.card.landscape.Plane`}. Crosses are the models that span a plane.
    """
    width = figures.TWO_COLUMNS / figures.MILLIMETRES_PER_INCH
    figure, axes = plt.subplots(
        1, len(planes), figsize=(width, 0.9 * width / len(planes) + 0.3), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    losses = np.concatenate([one.loss["loss"] for one in planes.values()])
    low, high = np.log10(np.maximum([losses.min(), losses.max()], 1e-6))
    levels = np.linspace(low, max(high, low + 1e-3), 16)
    for ax, (title, one) in zip(axes[0], planes.items(), strict=True):
        grid = one.loss.pivot(index="up", columns="across", values="loss")
        filled = ax.contourf(
            grid.columns, grid.index, np.log10(np.maximum(grid, 1e-6)), levels, cmap="cividis",
            extend="both",
        )  # fmt: skip
        ax.set_aspect("equal")
        ax.set_title(title, fontsize=figures.sizes(ax)[0])
        ax.set_xlabel(f"× {one.unit}", size=0.875 * figures.sizes(ax)[0])
        for across, up in one.places:
            ax.plot(across, up, "x", color="white", ms=1.6 * figures.sizes(ax)[2])
    bar = figure.colorbar(filled, ax=axes[0], shrink=0.8, label="Training loss (nats)")
    shown = [n for n in range(-6, 7) if low <= n <= high] or [low, high]
    bar.set_ticks(shown, labels=[f"{10.0**n:.3g}" for n in shown])
    return figure


def show(page: Page, curves: Mapping[str, pd.DataFrame], planes: Mapping[str, Any]) -> None:
    """Both figures on a notebook's page."""
    with figures.style("paper"):
        ax = spectrum_plot(curves)
        figure = planes_plot(planes)
    page.figure("spectrum", ax, "Eigenvalues of the Hessian of the training loss")
    page.figure("planes", figure, "Training loss on planes of weights through models (crosses)")
