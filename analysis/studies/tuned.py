"""Tuned: the standard hypotheses again, every class of arms at the strength that suits it best.

Each class is tried with as many values on the same tuning seeds, which draw training subsets of
their own; see `analysis.tuning`. `responses` shows what was tried.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from aba_core.adjustments import PAIRS
from aba_core.arms import METHODS, PLACEBO_TITLES, VANILLA, Arm
from aba_core.quantities import measured_as
from analysis import figures, statistics, tuning
from analysis.exhibits import Collector, Exhibits, Look
from analysis.hypothesis import Contrast, Hypothesis
from analysis.results import StudyResult
from analysis.statistics import CONFIDENCE
from analysis.studies import hypotheses
from analysis.studies.hypotheses import pair_name, placebo_name
from analysis.studies.isolation import arm_name
from analysis.study import FRESH_SEED, Settings, Study, TunedClass, Tuning
from analysis.study import on_fresh_subsets as fresh

# What comparators are tried with; the first so many as there are strengths.
COMPARATORS: dict[str, tuple[str, tuple[float, ...]]] = {
    "mixup": ("alpha", (0.2, 0.5, 1.0, 0.1, 2.0, 4.0)),
    "cutmix": ("alpha", (0.2, 0.5, 1.0, 0.1, 2.0, 4.0)),
    "cutout": ("side", (0.2, 0.3, 0.5, 0.1, 0.4, 0.7)),
    "label-smoothing": ("epsilon", (0.05, 0.1, 0.2, 0.02, 0.3, 0.4)),
    "dropout": ("p", (0.1, 0.2, 0.3, 0.05, 0.4, 0.5)),
    "sam": ("rho", (0.02, 0.05, 0.1, 0.01, 0.2, 0.5)),
}
OF_PICTURES = ("cutmix", "cutout")


def declare(settings: Settings) -> Study:
    """The arms of `hypotheses` and the comparators, each class with its own best strength."""
    compared = [m for m in COMPARATORS if settings.pictures or m not in OF_PICTURES]
    standard = hypotheses.arms(settings.strength["isolation"], settings.top_k, settings.pictures)
    strengths = settings.strength["benchmark"]
    n = settings.planned["tuned"]
    return settings.study(
        "tuned",
        fresh([*standard, *(Arm.of(METHODS[m].title, method=m) for m in compared)]),
        hypotheses=(*hypotheses.standard(n, settings.pictures), *_of_comparators(compared, n)),
        seeds=tuple(range(FRESH_SEED, FRESH_SEED + settings.seeds["tuned"])),
        tuning=Tuning(
            strengths=strengths,
            seeds=settings.seeds["tuning"],
            classes=classes(compared, len(strengths), settings.pictures),
        ),
    )


def classes(compared: list[str], values: int, pictures: bool = True) -> tuple[TunedClass, ...]:
    """Arms that are tuned together. compared: comparators; values: how many each is tried with."""
    of_methods = {
        "single adjustments": [arm_name(i) for i in range(1, 27)],
        "groups": list(hypotheses.GROUPS),
        "joined sets": [
            *("Eps. & Neu.", "Eps. & Del.", "Del. & Neu.", "All"),
            *("All, middle left alone", "MendABA, loss"),
        ],
        "opposed pairs": [pair_name(pair) for pair in PAIRS],
        "placebos": [
            placebo_name(of, placebo)
            for of in ("All", "Epsilon")
            for placebo in PLACEBO_TITLES
            if placebo != "gaussian"
        ],
        "noise": [placebo_name(of, "gaussian") for of in ("All", "Epsilon")],
        "class score": ["All, class score", "MendABA, class score"],
        "fixed magnitude": ["All, fixed magnitude"],
    }
    tuned = [TunedClass(name=name, arms=tuple(arms)) for name, arms in of_methods.items()]
    for kind in compared:
        field, tried = COMPARATORS[kind]
        title = METHODS[kind].title
        tuned.append(
            TunedClass(name=title, arms=(title,), values={field: tuple(sorted(tried[:values]))})
        )
    shares = tuple(sorted((0.05, 0.1, 0.2, 0.02, 0.3, 0.4)[:values]))
    tuned += [
        TunedClass(name="guided dropout", arms=arms, values={"p": shares})
        for arms in (tuple(name for name in hypotheses.HIDING if "Guided" in name),)
    ]
    tuned.append(
        TunedClass(
            name="random dropout",
            arms=tuple(name for name in hypotheses.HIDING if "Random" in name),
            values={"p": shares},
        )
    )
    if pictures:
        sides = tuple(round(share**0.5, 3) for share in shares)
        tuned.append(
            TunedClass(name="cutout by area", arms=("Cutout of a tenth",), values={"side": sides})
        )
    return tuple(tuned)


def _of_comparators(compared: list[str], n: int) -> tuple[Hypothesis, ...]:
    titles = [METHODS[kind].title for kind in compared]
    return (
        Hypothesis(
            name="comparators-help",
            statement="Some other regulariser beats training without.",
            estimand="mean accuracy of each comparator less that of Vanilla",
            comparisons=tuple(
                Contrast(label=f"{title} − {VANILLA}", weights={title: 1.0, VANILLA: -1.0})
                for title in titles
            ),
            rule="any",
            n=n,
        ),
        Hypothesis(
            name="beats-comparators",
            statement="All adjustments beat every other regulariser, all tuned alike.",
            estimand="mean accuracy of All less that of each comparator",
            comparisons=tuple(
                Contrast(label=f"All − {title}", weights={"All": 1.0, title: -1.0})
                for title in titles
            ),
            n=n,
        ),
    )


# --- what was tried ------------------------------------------------------------------------------


def response_table(
    study: StudyResult,
    rng: np.random.Generator,
    metric: str = "validation_accuracy",
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """`tuning.response_table` with an interval over tuning seeds: mean, mean_low, mean_high. A
    class's value on one seed is the mean over its arms."""
    declared = study.declaration.study
    table = tuning.response_table(declared, study.frame, metric)
    assert declared.tuning is not None
    intervals: list[dict[str, Any]] = []
    streams = iter(rng.spawn(len(table)))
    for tuned in tuning.classes_of(declared):
        for values in tuning.candidates(declared.tuning, tuned):
            names = [tuning.candidate_name(arm, values) for arm in tuned.arms]
            by_seed = study.frame[study.frame["arm"].isin(names)].groupby("seed")[metric].mean()
            sample = by_seed.dropna().to_numpy(np.float64)
            interval = statistics.mean_interval(sample, next(streams), confidence=confidence)
            intervals.append({"mean_low": interval.low, "mean_high": interval.high})
    table = pd.concat([table, pd.DataFrame(intervals)], axis=1)
    return table[["class", "values", "n", "mean", "mean_low", "mean_high", "chosen"]]


def responses(study: StudyResult, look: Look) -> Exhibits:
    """Figure and table NAME: what each class reaches with each value that it was tried with."""
    collector = Collector(study, look)
    name = study.declaration.study.name
    table = response_table(study, look.rng(), look.metric, look.confidence)
    over = f"{collector.level}, studentised bootstrap over tuning seeds"
    note = "Filled: the value that is kept. Seeds and training subsets are never reported."
    collector.figure(
        name,
        "What each class of arms reaches with each value that it was tried with",
        table,
        partial(response_plot, table, label=measured_as(look.metric)),
        height=response_height(table),
        note=note,
        interval=over,
        width="double",
    )
    collector.table(
        name,
        "Values tried for each class of arms on tuning seeds",
        table,
        ["class", "values", "n", "mean", "chosen"],
        note=note,
        interval=over,
    )
    return collector.exhibits


def response_plot(
    table: pd.DataFrame, ax: Axes | None = None, *, label: str = "Validation accuracy (%)"
) -> Axes:
    """Values of every class beside one another with their intervals; the one kept is filled.

    table: from `response_table`. Values of a class are evenly spaced, in their order, and named
    where there is room.
    """
    ax = figures.given_or_new(ax, figures.TWO_COLUMNS, response_height(table))
    text, width, marker = figures.sizes(ax)
    limits = figures.limits_of(table, ["mean"]) or (0.0, 100.0)
    names = list(dict.fromkeys(table["class"]))
    for y, name in enumerate(names):
        base = len(names) - 1 - y
        ax.axhline(base - 0.5, color="0.92", lw=0.5 * width, zorder=-2)
        part = table[table["class"] == name].reset_index(drop=True)
        step = 0.8 / max(1, len(part) - 1)
        for number, row in part.iterrows():
            place = base + 0.4 - step * int(str(number))
            ends = row["mean_low"], row["mean_high"]
            figures.interval_line(ax, place, *ends, limits, color="black", lw=0.7 * width)
            face = "black" if row["chosen"] else "white"
            ax.plot(row["mean"], place, "o", mfc=face, mec="black", ms=0.5 * marker)
            if len(part) <= 8:
                side = limits[1] if row["mean"] < sum(limits) / 2 else limits[0]
                aligned = "right" if side == limits[1] else "left"
                ax.text(side, place, f" {row['values']} ", size=0.6 * text, ha=aligned, va="center")
    ax.set_xlim(limits)
    ax.set_ylim(-0.6, len(names) - 0.4)
    across = 0.3 * figures.panel_size(ax)[0]
    shown = [figures.wrapped(name, across, 0.8 * text, 2) for name in names]
    ax.set_yticks(range(len(names) - 1, -1, -1), shown)
    ax.tick_params(axis="y", length=0, labelsize=0.8 * text)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(label)
    return ax


def response_height(table: pd.DataFrame) -> float:
    """Height in mm at which `response_plot` can show every class, on paper."""
    return 20.0 + 13.0 * table["class"].nunique()
