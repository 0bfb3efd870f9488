"""Regimes: where the gain over Vanilla holds. With more training samples, with batch norm, and not
on average but in how far runs lie apart.

The strength of every arm that augments is tuned by itself, on seeds that are never reported.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from aba_core.arms import METHODS, PUBLISHED_METHODS, VANILLA, Arm
from analysis import figures, statistics, tables
from analysis.exhibits import Collector, Exhibits, Look
from analysis.hypothesis import Contrast, Hypothesis, minus
from analysis.results import StudyResult
from analysis.studies import hypotheses
from analysis.study import FRESH_SEED, Settings, Study, TunedClass, Tuning, settings_of
from analysis.study import on_fresh_subsets as fresh

ALL = "All"
BATCH_NORM = "batch norm"


def declare(settings: Settings) -> Study:
    """Vanilla, All and the published methods; Vanilla and All on larger subsets, and with batch
    norm."""
    every: dict[str, Any] = {"adjustments": "all", **settings.loss}
    arms = [
        Arm.of(VANILLA, method="vanilla"),
        Arm.of(ALL, **every),
        *(Arm.of(METHODS[m].title, method=m, top_k=settings.top_k) for m in PUBLISHED_METHODS),
    ]
    others = [(on(size), {"subset": str(size)}) for size in settings.sizes[1:]]
    for condition, config in (*others, (BATCH_NORM, {"batch_norm": True})):
        arms.append(Arm.of(under(VANILLA, condition), method="vanilla", config=config))
        arms.append(Arm.of(under(ALL, condition), config=config, **every))
    n = settings.seeds["regimes"]
    return settings.study(
        "regimes",
        fresh(arms),
        hypotheses=declared(settings),
        seeds=tuple(range(FRESH_SEED, FRESH_SEED + n)),
        room="analysis.studies.regimes:exhibits",
        tuning=Tuning(
            strengths=settings.strength["benchmark"],
            seeds=settings.seeds["tuning"],
            classes=tuple(TunedClass(name=a.name, arms=(a.name,)) for a in arms if not a.vanilla),
        ),
    )


def on(size: int) -> str:
    """The condition of so many training samples, in words."""
    return f"{size} samples"


def under(arm: str, condition: str) -> str:
    """An arm's name under a condition; "" for that of all other studies."""
    return f"{arm}, {condition}" if condition else arm


# --- what is claimed -----------------------------------------------------------------------------


def declared(settings: Settings) -> tuple[Hypothesis, ...]:
    """What the study is to decide."""
    return tuple(
        Hypothesis(n=settings.planned["regimes"], **said)
        for said in (*_of_size(settings.sizes), *_of_batch_norm(settings.pictures), *_of_methods())
    )


def slope_of_gain(sizes: tuple[int, ...]) -> dict[str, float]:
    """Weights of the arms whose sum is the least-squares slope of the gain over doublings."""
    doublings = np.log2(np.array(sizes, dtype=np.float64))
    centred = doublings - doublings.mean()
    weights: dict[str, float] = {}
    for size, weight in zip(sizes, centred / (centred**2).sum(), strict=True):
        condition = on(size) if size != sizes[0] else ""
        weights[under(ALL, condition)] = float(weight)
        weights[under(VANILLA, condition)] = -float(weight)
    return weights


def _of_size(sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    largest = on(sizes[-1])
    return [
        dict(
            name="gain-shrinks-with-size",
            statement="The gain over Vanilla shrinks as the training set grows.",
            estimand="slope of the gain of All over Vanilla, over doublings of the training set",
            comparisons=(
                Contrast(label="gain of All, a doubling of size", weights=slope_of_gain(sizes)),
            ),
            direction="less",
            margin=0.25,
        ),
        dict(
            name="augmentation-helps-with-most-samples",
            statement=f"All adjustments still beat Vanilla on {largest}.",
            estimand="mean accuracy of All less that of Vanilla on the largest subset",
            comparisons=(_gain(largest),),
        ),
    ]


def _gain(condition: str) -> Contrast:
    arm = under(ALL, condition)
    return minus(arm, under(VANILLA, condition), f"{arm} − {VANILLA}")


def _of_batch_norm(pictures: bool) -> list[dict[str, Any]]:
    normed = _gain(BATCH_NORM)
    shrinks = {ALL: 1.0, VANILLA: -1.0, **{arm: -w for arm, w in normed.weights.items()}}
    published: dict[str, Any] = (
        dict(statement="With batch norm the gain over Vanilla vanishes.", direction="equivalent")
        if pictures
        else dict(statement="With batch norm there is still a gain over Vanilla.")
    )
    return [
        dict(
            name="batch-norm-shrinks-the-gain",
            statement="The gain over Vanilla is smaller with batch norm than without.",
            estimand="gain of All over Vanilla without batch norm, less the same with it",
            comparisons=(Contrast(label="gain without − gain with", weights=shrinks),),
        ),
        dict(
            name="batch-norm-as-published",
            estimand="mean accuracy of All less that of Vanilla, both with batch norm",
            comparisons=(normed,),
            **published,
        ),
    ]


def _of_methods() -> list[dict[str, Any]]:
    methods = [ALL, *(METHODS[kind].title for kind in PUBLISHED_METHODS)]
    challenger, mendaba = METHODS["challenger"].title, METHODS["mendaba"].title
    return [
        dict(
            name="runs-lie-closer-together",
            statement="Accuracies of runs vary less with augmentation than without.",
            estimand="100 ln of the ratio of two SDs of runs, each run on a fresh subset: that of "
            "each method and that of Vanilla",
            comparisons=tuple(
                Contrast(
                    label=f"SD of {name} / SD of {VANILLA}",
                    weights={name: 1.0, VANILLA: -1.0},
                    of="spread",
                )
                for name in methods
            ),
            direction="less",
            margin=10.0,
            measure="log %",
        ),
        dict(
            name="mendaba-is-not-worse",
            statement="MendABA is at least as good as Challenger.",
            estimand="mean accuracy of MendABA less that of Challenger",
            comparisons=(minus(mendaba, challenger),),
            direction="not worse",
        ),
    ]


# --- what is shown -------------------------------------------------------------------------------


def gain_table(
    runs: pd.DataFrame,
    sizes: tuple[int, ...],
    rng: np.random.Generator,
    metric: str = "validation_accuracy",
    confidence: float = statistics.CONFIDENCE,
) -> pd.DataFrame:
    """Vanilla's accuracy and the gain of All over it in each regime, within subsets.

    Columns: regime, size (training samples; NaN with batch norm), vanilla (percent) and gain
    (points) with intervals, n. A regime without runs of both is left out.
    """
    values = runs.pivot_table(index="seed", columns="arm", values=metric)
    conditions = [("", sizes[0]), *((on(size), size) for size in sizes[1:]), (BATCH_NORM, math.nan)]
    rows = []
    for (condition, size), stream in zip(conditions, rng.spawn(len(conditions)), strict=True):
        names = [under(VANILLA, condition), under(ALL, condition)]
        if not set(names) <= set(values):
            continue
        vanilla, augmented = (values[name] for name in names)
        row: dict[str, Any] = {"regime": condition or on(sizes[0]), "size": size}
        for column, numbers in (("vanilla", vanilla), ("gain", augmented - vanilla)):
            given = numbers.dropna().to_numpy(np.float64)
            interval = statistics.mean_interval(given, stream, confidence=confidence)
            row |= tables.with_interval(column, interval)
        row["n"] = int((augmented - vanilla).notna().sum())
        rows.append(row)
    return pd.DataFrame(rows)


def gain_plot(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The gain over Vanilla against the number of training samples; batch norm beside it.

    table: from `gain_table`.
    """
    ax = figures.given_or_new(ax, figures.ONE_COLUMN, 58)
    _, width, marker = figures.sizes(ax)
    sized = table[table["size"].notna()]
    normed = table[table["size"].isna()].assign(size=sized["size"].min() * 2**-0.5)
    for part, colour, symbol, label in (
        (sized, figures.OTHER_COLOURS[0], "o", "without batch norm"),
        (normed, figures.OTHER_COLOURS[1], "s", "with batch norm"),
    ):
        if part.empty:
            continue
        below, above = part["gain"] - part["gain_low"], part["gain_high"] - part["gain"]
        ax.errorbar(
            part["size"], part["gain"], (below, above), fmt=f"{symbol}-", color=colour,
            ms=marker, lw=width, elinewidth=width, label=label,
        )  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(sized["size"]), [f"{size:g}" for size in sized["size"]])
    ax.set_xticks([], minor=True)
    ax.axhline(0, color="0.4", lw=0.6 * width, zorder=-1)
    ax.set_xlabel("Training samples")
    ax.set_ylabel("Gain of All over Vanilla (points)")
    ax.legend(frameon=False)
    return ax


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    """The verdicts, and figure and table regimes."""
    shown = hypotheses.exhibits(study, look, hypotheses.judge(study, look))
    collector = Collector(study, look)
    declared_as = study.declaration.study
    sizes = settings_of(declared_as.dataset, _preset(declared_as)).sizes
    table = gain_table(study.frame, sizes, look.rng(), look.metric, look.confidence)
    over = f"{collector.level}, studentised bootstrap over training subsets, arms paired within"
    if len(table):
        collector.figure(
            "regimes",
            "What augmentation gains with more training samples, and with batch norm",
            table,
            partial(gain_plot, table),
            height=58,
            note=f"{look.label}; All and Vanilla of one seed share their training samples, and the "
            "strength is tuned in each regime.",
            interval=over,
        )
        collector.table(
            "regimes",
            "Accuracy of Vanilla (%) and gain of All over it (points), by regime",
            table,
            ["regime", "vanilla", "gain", "n"],
            interval=over,
        )
    return Exhibits(
        {**collector.exhibits.figures, **shown.figures},
        {**collector.exhibits.tables, **shown.tables},
    )


def _preset(study: Study) -> str:
    """The preset whose sizes a study has; one that was changed by hand has those of "quick"."""
    return study.preset.split("+")[0] if study.preset != "own" else "quick"
