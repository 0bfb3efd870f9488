"""Cascade: how much of each map is left when the layers of its model are randomised, one after the
other from the output to the input, and each one alone (Adebayo et al. 2018).

A map that shows what a model has learnt must change. An arm trains as Vanilla does and then
compares one map of its model (`aba_core.cascade`). What is not changed by randomised layers was
drawn from the input and the architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aba_core.arms import WITH_SAMPLES, Arm
from analysis import figures, statistics, tables
from analysis.exhibits import Collector, Exhibits, Look
from analysis.hypothesis import Contrast, Hypothesis, minus
from analysis.results import StudyResult
from analysis.studies import attributions, hypotheses
from analysis.studies.attributions import GRADIENT, MAPS, SAMPLES, SHARE
from analysis.study import FRESH_SEED, Settings, Study
from analysis.study import on_fresh_subsets as fresh

FAMILIES = {
    "Gradients": (
        *("gradient", "gradient_x_input", "absolute_gradient", "absolute_gradient_x_input"),
    ),
    "Several inputs": (
        *("smoothgrad", "smoothgrad_x_input", "vargrad", "integrated_gradients"),
        *("expected_gradients", "occlusion"),
    ),
    "Changed ReLU": ("guided_backpropagation", "deconvnet"),
    "LRP": attributions.LRP,
    "At a layer": attributions.AT_A_CONVOLUTION,
}
# What is drawn, in rows of panels: which layers, which measure.
SHOWN = {
    ("to", ""): "all layers so far",
    ("to", "_size"): "all so far, sizes",
    ("only", ""): "this layer alone",
}
MEASURES = {"": "rank", "_size": "size", "_ssim": "ssim"}
# Maps that Sixt et al. 2020 show to converge to one that does not depend on later layers, and those
# that Adebayo et al. 2018 found to change least.
LITTLE = ("guided_backpropagation", "deconvnet", "lrp_z_plus", "lrp_alpha_beta")


def cascaded(title: str) -> str:
    return f"{title}, layers randomised"


def declare(settings: Settings) -> Study:
    """Every map with the layers of its model randomised, on fresh subsets, which seeds share."""
    samples = SAMPLES.get(settings.preset, SAMPLES["standard"])
    maps = attributions.compared(settings)
    arms = [
        Arm.of(
            cascaded(title),
            method={
                **{"use": "aba_core.cascade:Cascaded", "attribution": method},
                **({"attribution_samples": samples} if method in WITH_SAMPLES else {}),
            },
        )
        for method, title in maps.items()
    ]
    n = settings.planned["quality"]
    return settings.study(
        "cascade",
        fresh(arms, SHARE.get(settings.preset, SHARE["standard"])),
        hypotheses=tuple(Hypothesis(n=n, **said) for said in declared(maps)),
        seeds=tuple(range(FRESH_SEED, FRESH_SEED + settings.seeds["quality"])),
        room="analysis.studies.cascade:exhibits",
        note=attributions.left_out(settings),
    )


def declared(maps: Mapping[str, str]) -> list[dict[str, Any]]:
    """What the study is to decide."""
    every = [title for method, title in maps.items() if method != "gradient"]
    less = [maps[method] for method in LITTLE if method in maps]
    return [
        dict(
            name="some-map-keeps-more",
            statement="Some map depends less on the last layer than the gradient does.",
            estimand="rank correlation of the trained model's map with that of the model whose "
            "last layer is randomised, times 100, of each map less that of the gradient",
            comparisons=tuple(minus(cascaded(title), cascaded(GRADIENT)) for title in every),
            quantity="map_to_1",
            rule="any",
            margin=10.0,
        ),
        dict(
            name="changed-ways-back-keep-more",
            statement="Maps with a changed backward pass that keeps one sign depend less on the "
            "last layer than the gradient does.",
            estimand="rank correlation of the sizes of attributions of the trained model and of "
            "the model whose last layer is randomised, times 100, of each map less that of the "
            "gradient",
            comparisons=tuple(minus(cascaded(title), cascaded(GRADIENT)) for title in less),
            quantity="map_to_1_size",
            margin=10.0,
        ),
        dict(
            name="no-order-without-the-last-layer",
            statement="Where the last layer is randomised, nothing is left of the order of the "
            "gradient's attributions.",
            estimand="rank correlation of the gradient of the trained model with that of the model "
            "whose last layer is randomised, times 100",
            comparisons=(Contrast(label=GRADIENT, weights={cascaded(GRADIENT): 1.0}),),
            quantity="map_to_1",
            direction="equivalent",
            margin=10.0,
        ),
    ]


# --- what is shown -------------------------------------------------------------------------------


def cascade_table(
    runs: pd.DataFrame,
    rng: np.random.Generator,
    confidence: float = statistics.CONFIDENCE,
) -> pd.DataFrame:
    """One row for each map, way ("to", "only"), number of the layer from the output, and measure.

    Columns: map, family, way, layer, measure ("rank", "size", "ssim"), left (times 100) with an
    interval over training subsets, n (subsets).
    """
    rows = []
    for family, methods in FAMILIES.items():
        for title in (MAPS[method] for method in methods):
            of_map = runs[runs["arm"] == cascaded(title)]
            by_subset = of_map.groupby("subset_seed")
            columns = (str(name) for name in of_map)
            for column in (one for one in columns if one.startswith(("map_to_", "map_only_"))):
                _, way, layer, *measure = column.split("_")
                values = by_subset[column].mean().dropna().to_numpy(np.float64)
                if not len(values):
                    continue
                interval = statistics.mean_interval(values, rng.spawn(1)[0], confidence=confidence)
                what = {"map": title, "family": family, "way": way, "layer": int(layer)}
                what["measure"] = MEASURES["".join(f"_{one}" for one in measure)]
                rows.append(what | tables.with_interval("left", interval) | {"n": len(values)})
    names = ["map", "family", "way", "layer", "measure", "left", "left_low", "left_high", "n"]
    return pd.DataFrame(rows, columns=names)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row a map: what is left after each step of the cascade, with intervals of the rank
    correlation; of the last step also that of sizes and the structural similarity.

    Columns: map; one for each step, "1 layer", "2 layers", ...; "sizes, 1 layer"; sizes and ssim
    after the last step. table: from `cascade_table`.
    """
    rows = []
    for title, of_map in table.groupby("map", sort=False):
        row: dict[str, Any] = {"map": title}
        cascade = of_map[of_map["way"] == "to"].sort_values("layer")
        last = cascade["layer"].max()
        for one in cascade.to_dict("records"):
            steps = f"{one['layer']} layer{'s' * (one['layer'] > 1)}"
            if one["measure"] == "rank":
                row |= {f"{steps}{end}": one[f"left{end}"] for end in ("", "_low", "_high")}
            elif one["layer"] in (1, last):
                name = "sizes" if one["measure"] == "size" else "SSIM"
                row[f"{name}, {steps}"] = one["left"]
        rows.append(row)
    return pd.DataFrame(rows)


def cascade_panels(table: pd.DataFrame, width: str = "double") -> Figure:
    """What is left of each map by the number of randomised layers, one column a family of maps.

    table: from `cascade_table`. The rows of panels are those of `SHOWN`; the trained model's own
    map is at 0 layers. Bars: intervals.
    """
    families = [name for name in FAMILIES if (table["family"] == name).any()]
    shared = {"sharex": True, "sharey": True}
    figure, axes = figures.panels(width, 150, len(SHOWN), len(families), **shared)
    for line, ((way, measure), words) in zip(axes, SHOWN.items(), strict=True):
        chosen = table[(table["way"] == way) & (table["measure"] == MEASURES[measure])]
        for ax, family in zip(line, families, strict=True):
            _lines(ax, chosen[chosen["family"] == family], start=way == "to")
        line[0].set_ylabel(f"Rank correlation × 100,\n{words}")
    drawn = table[table["measure"].isin({MEASURES[measure] for _, measure in SHOWN})]
    axes[0, 0].set_ylim(min(-35.0, 1.1 * drawn["left"].min()), 105)
    axes[0, 0].set_xticks(range(int(drawn["layer"].max()) + 1))
    for ax, family in zip(axes[0], families, strict=True):
        ax.set_title(family)
    for ax in axes[-1]:
        ax.legend(
            loc="upper center", bbox_to_anchor=(0.45, -0.32), frameon=False, handlelength=0.9,
            fontsize=0.75 * figures.sizes(ax)[0], borderaxespad=0.0, labelspacing=0.3,
        )  # fmt: skip
    figure.supxlabel("Randomised layer, counted from the output", size=figures.sizes(axes[0, 0])[0])
    return figure


_LOOKS = tuple(zip((*figures.OTHER_COLOURS, "#999999"), "osDv^P", strict=True))


def _lines(ax: Axes, rows: pd.DataFrame, start: bool) -> None:
    """A line a map; start: from the trained model's own map."""
    _, width, marker = figures.sizes(ax)
    ax.axhline(0, color="0.6", lw=0.6 * width, zorder=-1)
    for (colour, symbol), (title, of_map) in zip(
        _LOOKS, rows.groupby("map", sort=False), strict=False
    ):
        of_map = of_map.sort_values("layer")
        layers, left = of_map["layer"].to_list(), of_map["left"].to_list()
        ends = of_map[["left_low", "left_high"]].to_numpy(np.float64)
        if start:
            ax.plot([0, *layers], [100, *left], "-", color=colour, lw=0.9 * width)
        else:
            ax.plot(layers, left, "-", color=colour, lw=0.9 * width)
        ax.plot(layers, left, symbol, color=colour, ms=0.6 * marker, label=title)
        ax.vlines(layers, ends[:, 0], ends[:, 1], color=colour, lw=1.4 * width, alpha=0.6)


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    """The verdicts, and figure and table cascade."""
    shown = hypotheses.exhibits(study, look, hypotheses.judge(study, look))
    collector = Collector(study, look)
    table = cascade_table(study.frame, look.rng(), look.confidence)
    over = f"{collector.level}, studentised bootstrap over training subsets"
    what = (
        "Compared with the trained model's map of the same inputs, of the score of the class that "
        "the trained model predicts"
    )
    if len(table):
        collector.figure(
            "cascade",
            "What is left of each attribution map when the layers of its model are randomised",
            table,
            partial(cascade_panels, table),
            note=f"{what}. Top: layers are randomised one after the other from the output; middle: "
            "the same, by the sizes of attributions; bottom: each layer alone.",
            interval=over,
            width="double",
        )
        collector.table(
            "cascade",
            "Rank correlation with the trained model's map, times 100, as layers are randomised "
            "from the output on",
            summary_table(table),
            note=f"{what}. Sizes: of the sizes of attributions; SSIM: structural similarity of the "
            "sizes, of pictures.",
            interval=over,
        )
    return Exhibits(
        {**collector.exhibits.figures, **shown.figures},
        {**collector.exhibits.tables, **shown.tables},
    )
