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
from matplotlib.figure import Figure

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
from analysis.studies.tried import FEW, HIDDEN_SHARES, OF_PICTURES
from analysis.study import FRESH_SEED, Settings, Study, TunedClass, Tuning
from analysis.study import on_fresh_subsets as fresh


def declare(settings: Settings) -> Study:
    """The arms of `hypotheses` and the comparators, each class with its own best strength."""
    compared = [m for m in FEW if settings.pictures or m not in OF_PICTURES]
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
        field, tried = FEW[kind]
        title = METHODS[kind].title
        tuned.append(
            TunedClass(name=title, arms=(title,), values={field: tuple(sorted(tried[:values]))})
        )
    shares = tuple(sorted(HIDDEN_SHARES[:values]))
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
    note = (
        "Filled: the value that is kept; arrow heads: what lies below the scale, with its mean. "
        "Seeds and training subsets of tuning are in no other result."
    )
    collector.figure(
        name,
        "What each class of arms reaches with each value that it was tried with",
        table,
        partial(response_plot, table, label=measured_as(look.metric)),
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
    table: pd.DataFrame, width: str = "double", *, label: str = "Validation accuracy (%)"
) -> Figure:
    """A curve for each class: what it reaches with each value, with its interval; the one kept is
    filled.

    table: from `response_table`. Values of a class are evenly spaced, in their order. All panels
    have one scale, that of the classes at their best: an arrow head marks what lies outside.
    """
    names = list(dict.fromkeys(table["class"]))
    columns = {"single": 2, "double": 4, "slide": 6}[width]
    rows = -(-len(names) // columns)
    figure, axes = figures.panels(width, response_height(rows), rows, columns, sharey=True)
    axes[0, 0].set_ylim(_scale(table))
    for ax, name in zip(axes.flat, names, strict=False):
        _response(ax, table[table["class"] == name].reset_index(drop=True))
        text = figures.sizes(ax)[0]
        ax.set_title(figures.wrapped(name, 0.95 * figures.panel_size(ax)[0], text, 2), size=text)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    figure.supylabel(label, size=figures.sizes(axes[0, 0])[0])
    figure.supxlabel("Value tried", size=figures.sizes(axes[0, 0])[0])
    return figure


def _scale(table: pd.DataFrame) -> tuple[float, float]:
    """From below the values near the kept ones, to above all intervals of these."""
    kept = table[table["chosen"]]
    reach = max(2.0, 2.0 * float(kept["mean"].max() - kept["mean"].min()))
    near = table[table["mean"] >= kept["mean"].min() - reach]
    ends = near[["mean", "mean_low", "mean_high"]].to_numpy(np.float64)
    low = max(float(np.nanmin(ends)), float(kept["mean"].min()) - 2 * reach)
    high = float(np.nanmax(ends))
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def _response(ax: Axes, part: pd.DataFrame) -> None:
    """One class's values from the left to the right."""
    text, width, marker = figures.sizes(ax)
    bottom, top = ax.get_ylim()
    places = np.arange(len(part))
    means = part["mean"].to_numpy(np.float64)
    ax.plot(places, np.where(means >= bottom, means, np.nan), "-", color="0.6", lw=0.7 * width)
    for place, row in zip(places, part.to_dict("records"), strict=True):
        low, high = np.clip([row["mean_low"], row["mean_high"]], bottom, top)
        ax.plot([place] * 2, [low, high], color="black", lw=0.7 * width)
        face = "black" if row["chosen"] else "white"
        if row["mean"] >= bottom:
            ax.plot(place, row["mean"], "o", mfc=face, mec="black", ms=0.6 * marker)
            continue
        edge = bottom + 0.04 * (top - bottom)
        ax.plot(place, edge, "v", color="black", ms=0.7 * marker)
        number = f"{row['mean']:.0f}"
        ax.annotate(number, (place, edge), (0, 3), textcoords="offset points", ha="center",
                    va="bottom", size=0.75 * text)  # fmt: skip
    few = places if len(part) <= 8 else places[:: -(-len(part) // 6)]
    ax.set_xticks(few, [str(part["values"][int(place)]) for place in few])
    long = sum(len(str(part["values"][int(place)])) for place in few) > 24
    ax.tick_params(axis="x", labelsize=0.75 * text, labelrotation=90 if long else 0)


def response_height(rows: int) -> float:
    """Height in mm at which `response_plot` can show so many rows of panels, on paper."""
    return 12.0 + 36.0 * rows
