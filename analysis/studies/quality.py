"""Quality: whether maps find the features that matter, agree with themselves, and whether maps of
better quality make ABA gain more.

A judged arm trains as Vanilla does and then measures one map of its model (`aba_core.quality`);
beside it stands ABA with that map, as in `attributions`, whose runs these are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from aba_core.arms import VANILLA, WITH_SAMPLES, Arm
from analysis import figures, statistics, tables
from analysis.exhibits import Collector, Exhibits, Look
from analysis.hypothesis import Contrast, Correlation, Hypothesis
from analysis.results import StudyResult
from analysis.studies import attributions, hypotheses
from analysis.studies.attributions import GRADIENT, MAPS, SAMPLES, SHARE
from analysis.study import FRESH_SEED, Settings, Study
from analysis.study import on_fresh_subsets as fresh

# Measures of whether a map finds what matters, in the order of tables; all in percent or points.
FINDING = {
    "diffroar": "DiffROAR",
    "roar": "ROAR",
    "insertion": "insertion",
    "deletion": "deletion",
    "pointing": "pointing game",
    "mass": "mass in signal",
}
# Of whether it is the same map where it should be (but for the untrained model's).
AGREEING = {
    "seeds": "another seed",
    "strength": "trained with ABA",
    "samples": "4 × samples",
    "noise": "2 × noise",
    "randomised": "untrained model",
}
CHANGING = {
    "changed": "another seed",
    "changed_20": "another seed, cut at 20 and 80 %",
    "changed_strength": "trained with ABA",
    "changed_samples": "4 × samples",
    "changed_noise": "2 × noise",
}
# What the slides call finer maps than the gradient (C23).
FINER = ("integrated_gradients", "lrp_epsilon", "lrp_composite")
# By which a map's quality may predict what ABA gains with it: high is good in each.
PREDICTING = ("diffroar", "insertion", "pointing")


def judged(title: str) -> str:
    return f"{title}, judged"


def declare(settings: Settings) -> Study:
    """Every map judged, and ABA with it, on fresh subsets, which seeds share."""
    samples = SAMPLES.get(settings.preset, SAMPLES["standard"])
    maps = attributions.compared(settings)
    with_maps = attributions.arms(settings, maps, samples)
    wanted = {VANILLA, *maps.values()}
    judging = [
        Arm.of(
            judged(title),
            method={
                **{"use": "aba_core.quality:Judged", "attribution": method},
                **({"attribution_samples": samples} if method in WITH_SAMPLES else {}),
                "strength": settings.strength["isolation"],
                "new_start": True,
            },
        )
        for method, title in maps.items()
    ]
    arms = [*(arm for arm in with_maps if arm.name in wanted), *judging]
    return settings.study(
        "quality",
        fresh(arms, SHARE.get(settings.preset, SHARE["standard"])),
        hypotheses=declared(maps, settings.planned["quality"], settings.pictures),
        seeds=tuple(range(FRESH_SEED, FRESH_SEED + settings.seeds["quality"])),
        room="analysis.studies.quality:exhibits",
        note=attributions.left_out(settings),
    )


# --- what is claimed -----------------------------------------------------------------------------


def declared(maps: Mapping[str, str], n: int, pictures: bool = True) -> tuple[Hypothesis, ...]:
    """What the study is to decide, on n runs an arm."""
    finer = [maps[method] for method in FINER if method in maps]

    def than_gradient(names: list[str]) -> tuple[Contrast, ...]:
        return tuple(
            Contrast(
                label=f"{title} − {GRADIENT}", weights={judged(title): 1.0, judged(GRADIENT): -1.0}
            )
            for title in names
        )

    said: list[dict[str, Any]] = [
        dict(
            name="maps-find-features",
            statement="The features that a map is largest at tell more of the class than those "
            "that it is smallest at, for every map.",
            estimand="DiffROAR: accuracy of models trained on the most important features alone "
            "less that of models trained on the least important ones",
            comparisons=tuple(
                Contrast(label=title, weights={judged(title): 1.0}) for title in maps.values()
            ),
            quantity="map_diffroar",
            margin=2.0,
        ),
        dict(
            name="finer-maps-find-more",
            statement="Integrated gradients and LRP find features that tell more of the class than "
            "those that the gradient finds.",
            estimand="DiffROAR of each map less that of the gradient",
            comparisons=than_gradient(finer),
            quantity="map_diffroar",
            margin=2.0,
        ),
        dict(
            name="finer-maps-delete-better",
            statement="Integrated gradients and LRP name features without which the predicted "
            "class becomes less likely than without those that the gradient names.",
            estimand="mean probability of the predicted class while features go, the most "
            "important first, of each map less that of the gradient",
            comparisons=than_gradient(finer),
            quantity="map_deletion",
            direction="less",
            margin=2.0,
        ),
        dict(
            name="finer-maps-agree-more",
            statement="Maps by integrated gradients and LRP agree more between seeds than those "
            "by the gradient.",
            estimand="rank correlation of the maps of two models that differ in their seeds, "
            "times 100, less that of the gradient's",
            comparisons=than_gradient(finer),
            quantity="map_seeds",
            margin=2.0,
        ),
    ]
    measures = PREDICTING if pictures else PREDICTING[:2]
    said.append(
        dict(
            name="quality-predicts-gain",
            statement="Maps of better quality make All gain more.",
            estimand="rank correlation over maps, times 100, of a measure of quality with the mean "
            "accuracy of All that is led by the map; the map is the unit",
            comparisons=tuple(
                Correlation(
                    label=FINDING[measure],
                    pairs={title: (judged(title), title) for title in maps.values()},
                    of=f"map_{measure}",
                )
                for measure in measures
            ),
            rule="any",
            margin=30.0,
        )
    )
    return tuple(Hypothesis(n=n, **one) for one in said)


# --- what is shown -------------------------------------------------------------------------------


def quality_table(
    runs: pd.DataFrame,
    rng: np.random.Generator,
    metric: str = "validation_accuracy",
    confidence: float = statistics.CONFIDENCE,
) -> pd.DataFrame:
    """One row a map: the mean over runs of each measure, and what All gains with it over Vanilla.

    Columns: map; diffroar and gain with intervals over training subsets; the other measures of
    `FINDING`, `AGREEING` and `CHANGING`, NaN where one has no sense; n. The best DiffROAR first.
    """
    titles = [t for t in MAPS.values() if judged(t) in set(runs["arm"])]
    by_subset = runs.groupby(["arm", "subset_seed"], sort=False)
    accuracy = by_subset[metric].mean()
    rows = []
    for title, stream in zip(titles, rng.spawn(len(titles)), strict=True):
        of_map = runs[runs["arm"] == judged(title)]
        row: dict[str, Any] = {"map": title, "n": len(of_map)}
        found = of_map.groupby("subset_seed")["map_diffroar"].mean()
        gained = accuracy.get(title, pd.Series(dtype=float)) - accuracy.get(VANILLA, np.nan)
        first, second = stream.spawn(2)
        for name, values, drawn in (("diffroar", found, first), ("gain", gained, second)):
            sample = values.dropna().to_numpy(np.float64)
            interval = statistics.mean_interval(sample, drawn, confidence=confidence)
            row |= tables.with_interval(name, interval)
        for name in (*FINDING, *AGREEING, *CHANGING):
            if name != "diffroar":
                column = f"map_{name}"
                row[name] = of_map[column].mean() if column in of_map else np.nan
        rows.append(row)
    table = pd.DataFrame(rows, columns=None if rows else ["map", "diffroar"])
    return table.sort_values("diffroar", ascending=False, ignore_index=True)


def quality_plot(
    table: pd.DataFrame, ax: Axes | None = None, *, label: str = "Gain over Vanilla (points)"
) -> Axes:
    """What All gains with each map, by the map's DiffROAR, with intervals of both. Marks have the
    maps' numbers, whose names stand beside the axes.

    table: from `quality_table`.
    """
    ax = figures.given_or_new(ax, figures.TWO_COLUMNS, 110)
    text, width, marker = figures.sizes(ax)
    known = table.dropna(subset=["diffroar", "gain"])
    across = figures.limits_of(known.assign(zero=0.0), ["diffroar", "zero"]) or (-1.0, 1.0)
    up = figures.limits_of(known.assign(zero=0.0), ["gain", "zero"]) or (-1.0, 1.0)
    names = []
    for number, row in enumerate(known.to_dict("records"), 1):
        names.append(f"{number}  {row['map']}")
        ends = np.clip([row["diffroar_low"], row["diffroar_high"]], *across)
        ax.plot(ends, [row["gain"]] * 2, color="0.8", lw=0.7 * width, zorder=1)
        ends = np.clip([row["gain_low"], row["gain_high"]], *up)
        ax.plot([row["diffroar"]] * 2, ends, color="0.8", lw=0.7 * width, zorder=1)
        ax.plot(row["diffroar"], row["gain"], "o", color="black", ms=0.5 * marker, zorder=3)
    ax.set_xlim(across)
    ax.set_ylim(up)
    ax.text(1.02, 1, "\n".join(names), transform=ax.transAxes, size=0.75 * text, va="top")
    figures.numbers_beside(ax, known[["diffroar", "gain"]].to_numpy(np.float64), 0.75 * text)
    ax.axhline(0, color="0.4", lw=0.6 * width, zorder=0)
    ax.axvline(0, color="0.4", lw=0.6 * width, zorder=0)
    ax.set_xlabel("DiffROAR (points)")
    ax.set_ylabel(label)
    return ax


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    """The verdicts, figure and table quality, and the tables agreement and changes."""
    shown = hypotheses.exhibits(study, look, hypotheses.judge(study, look))
    collector = Collector(study, look)
    table = quality_table(study.frame, look.rng(), look.metric, look.confidence)
    over = f"{collector.level}, studentised bootstrap over training subsets"
    collector.figure(
        "quality",
        "What all adjustments gain with a map, by how well it finds the features that matter",
        table,
        partial(quality_plot, table),
        height=110,
        note=f"{look.label}; one mark a map.",
        interval=over,
        width="double",
    )
    collector.table(
        "quality",
        "Whether each map finds the features that matter",
        table,
        ["map", *FINDING, "gain", "n"],
        note="DiffROAR: accuracy of models trained on the most important features less that on the "
        "least important ones, points; ROAR: without random features less without the most "
        "important ones, points; insertion and deletion: mean probability of the predicted class, "
        "percent; pointing game and mass: largest attribution and all of it in the signal block, "
        "percent, 50 by chance; gain: of All led by the map over Vanilla, points.",
        interval=over,
        digits=1,
    )
    for name, title, columns in (
        ("agreement", "Rank correlation of each map with itself elsewhere, times 100", AGREEING),
        ("changes", "Share of features whose category changes, percent", CHANGING),
    ):
        collector.table(
            name,
            title,
            table[["map", *columns]].rename(columns=columns),
            note="Means over runs and samples; categories are cut at 10 and 90 % but where said.",
            digits=1,
        )
    return Exhibits(
        {**collector.exhibits.figures, **shown.figures},
        {**collector.exhibits.tables, **shown.tables},
    )
