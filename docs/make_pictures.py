"""Draw the pictures of the documentation anew: `python docs/make_pictures.py [--results DIR]`.

concepts.svg trains a small model for a few seconds. The others show the digits studies of a results
folder (hypotheses, isolation and frozen with preset standard), by default the shipped ones,
and are left as they are where it has none.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from aba_core import (
    ADJUSTMENTS,
    Arm,
    Percentiles,
    TrainConfig,
    adjust,
    attribute,
    categorize,
    load_dataset,
    train,
)
from analysis import claims, exhibits, figures, results, rooms
from analysis.studies.frozen import curve_table, frozen_curves
from analysis.studies.isolation import isolation_plot, isolation_table

IMAGES = Path(__file__).resolve().parent / "images"
STRENGTH = 0.5
SHOWN = (17, 16, 15)  # an Epsilon, a Delta and a Neutral adjustment


def picture(ax: Axes, values: np.ndarray, title: str, **show: object) -> None:
    """One 8×8 picture without axes."""
    ax.imshow(values, interpolation="nearest", **show)  # type: ignore[arg-type]
    ax.set_title(title)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def concepts() -> plt.Figure:
    """A digit, its attribution map, the three categories, and three augmented versions."""
    splits = load_dataset("digits")
    config = TrainConfig(epochs=40, batch_size=20, optimizer="adam", learning_rate=0.005)
    model = train(config, [Arm("vanilla")], [0]).model("vanilla", 0)
    x, y = splits.validation.x, splits.validation.y
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(model(x), y, reduction="none")
    # The first one that is neither trivial nor hopeless: there both directions can be seen.
    sample = int(((losses > 0.2) & (losses < 0.5)).nonzero()[0])
    x, y = x[sample : sample + 1], y[sample : sample + 1]
    attribution = attribute(model, x, y, target="loss")
    categories = categorize(attribution, Percentiles(0.1, 0.9))

    def loss(inputs: torch.Tensor) -> float:
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(model(inputs), y))

    grey = {"cmap": "gray_r", "vmin": float(x.min()) - STRENGTH, "vmax": float(x.max()) + STRENGTH}
    inches = 1 / figures.MILLIMETRES_PER_INCH
    size = (figures.TWO_COLUMNS * inches, 40 * inches)
    figure, axes = plt.subplots(1, 6, figsize=size, layout="constrained")
    picture(axes[0], x[0, 0].numpy(), f"1 input, loss {loss(x):.2f}", **grey)
    reach = float(attribution.abs().max())
    picture(
        axes[1],
        attribution[0, 0].numpy(),
        "2 attribution map",
        cmap=figures.MAP_COLOURS,
        vmin=-reach,
        vmax=reach,
    )
    low, _, high = figures.CATEGORY_COLOURS
    number = categories[:, 0, 0].int().argmax(0).numpy()
    picture(axes[2], number, "3 categories", cmap=ListedColormap([low, "0.9", high]))
    for ax, index in zip(axes[3:], SHOWN, strict=True):
        adjustment = ADJUSTMENTS[index]
        changes = torch.tensor([tuple(adjustment)], dtype=x.dtype)
        moved = adjust(x, categories, changes, STRENGTH, torch.ones(1))
        picture(ax, moved[0, 0].numpy(), f"{adjustment.group}, loss {loss(moved):.2f}", **grey)
        signs = (" −0+"[change + 2] for change in adjustment)
        told = "low {}, middle {}, high {}".format(*signs).replace("middle 0, ", "")
        ax.set_xlabel(told, color=figures.COLOURS[adjustment.group.value])
    axes[0].set_xlabel("8×8 features")
    axes[1].set_xlabel("brown: raises loss")
    axes[2].set_xlabel("low, middle, high")
    return figure


def of_results(folder: Path) -> dict[str, plt.Figure]:
    """The figures of the digits studies in a results folder."""
    isolation = results.load(folder, "isolation", "digits").frame
    declared = results.load(folder, "hypotheses", "digits").frame
    alone = declared[declared["arm"].str.startswith("adjustment ")]  # on fresh subsets
    frozen = results.load(folder, "frozen", "digits").frame
    table = isolation_table(alone, np.random.default_rng(0))
    of_one = isolation_table(isolation, np.random.default_rng(0))
    changes = curve_table(frozen, np.random.default_rng(0), values=["loss_change"])
    axes = {
        "isolation-digits": isolation_plot(table),
        "square-digits": figures.adjustment_heatmap(table),
        "isolation-one-subset-digits": isolation_plot(of_one),
        "frozen-digits": frozen_curves(frozen, changes, arm="Vanilla"),
    }
    drawn = {name: ax.figure for name, ax in axes.items()}
    look = exhibits.Look("test_accuracy")
    shown = {
        "verdicts-digits": rooms.of_study("hypotheses", folder, "digits").figures["verdicts"],
        "guided-digits": rooms.of_study("guided", folder, "digits", look).figures["guided"],
        "regimes-digits": rooms.of_study("regimes", folder, "digits", look).figures["regimes"],
        **{
            f"card-{name}": rooms.of_study("card", folder, name, look).figures["card"]
            for name in ("digits", "mnist", "cifar10")
        },
        "claims": claims.shown(claims.ledger(folder), exhibits.Look())[0],
    }
    more = {name: one.draw(one.width) for name, one in shown.items() if one.draw is not None}
    return {**drawn, **more}  # type: ignore[dict-item]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=results.SHIPPED)
    folder = parser.parse_args().results
    torch.set_num_threads(1)
    with figures.style("paper"):
        drawn = {"concepts": concepts()}
        try:
            drawn |= of_results(folder)
        except results.ResultsError as error:
            print(f"pictures of results are left as they are: {error}")
        for name, figure in drawn.items():
            (path,) = figures.save_figure(figure, IMAGES / name, ["svg"])
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
