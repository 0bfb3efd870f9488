"""Comparators: ABA beside every other regulariser, each tuned alike, alone and with ABA.

Every class of arms is tried with as many values on the same tuning seeds. Arms are compared within
fresh training subsets. A method's passes a step stand beside what it gains, since methods that
attack or that make a map cost more than those that mix.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from aba_core.arms import METHODS, PUBLISHED_METHODS, VANILLA, Arm
from analysis import figures, statistics, tables
from analysis.exhibits import Collector, Exhibits, Look
from analysis.results import StudyResult
from analysis.studies import hypotheses
from analysis.studies.hypotheses import placebo_name
from analysis.study import FRESH_SEED, Contrast, Hypothesis, Settings, Study, TunedClass, Tuning
from analysis.study import on_fresh_subsets as fresh

ALL, NOISE = "All", placebo_name("All", "gaussian")

_SHARES = (0.1, 0.25, 0.5, 0.05, 0.75, 0.9)
_SIDES = (0.2, 0.3, 0.5, 0.1, 0.4, 0.7)
_ALPHAS = (0.2, 0.5, 1.0, 0.1, 2.0, 4.0)
_SMALL = (0.05, 0.1, 0.2, 0.02, 0.3, 0.4)
_NOISES = (0.1, 0.2, 0.5, 0.05, 1.0, 2.0)
_BETAS = (3e-4, 1e-3, 3e-3, 1e-4, 1e-2, 3e-2)
_MIXES = (
    *("bc+", "vertical-concat", "horizontal-concat", "mixed-concat", "random-2x2", "vh-mixup"),
    *("vh-bc+", "random-square", "row-interval", "column-interval", "rows", "columns", "pixels"),
    *("elements", "noisy-mixup"),
)
# The field that is tuned and what it is tried with; the first so many as there are strengths.
ANYWHERE: dict[str, tuple[str, tuple[float, ...]]] = {
    "mixup": ("alpha", _ALPHAS),
    "elements": ("alpha", _ALPHAS),
    "gaussian-noise": ("sd", _NOISES),
    "uniform-noise": ("width", _NOISES),
    "salt-and-pepper": ("p", (0.02, 0.05, 0.1, 0.01, 0.2, 0.3)),
    "label-smoothing": ("epsilon", _SMALL),
    "label-smoothing-others": ("epsilon", _SMALL),
    "logit-squeezing": ("beta", _BETAS),
    "maxsup": ("alpha", (0.05, 0.1, 0.2, 0.02, 0.5, 1.0)),
    "confidence-penalty": ("beta", (0.05, 0.1, 0.2, 0.02, 0.5, 1.0)),
    "input-dropout": ("p", _SMALL),
    "guided-dropout": ("p", _SMALL),
    "reldrop-pixel": ("p", _SHARES),
    "fgsm": ("epsilon", (0.05, 0.1, 0.2, 0.02, 0.3, 0.5)),
    "pgd": ("epsilon", (0.05, 0.1, 0.2, 0.02, 0.3, 0.5)),
    "alp": ("epsilon", (0.05, 0.1, 0.2, 0.02, 0.3, 0.5)),
    "lrm": ("epsilon", (0.05, 0.1, 0.2, 0.02, 0.3, 0.5)),
    "sam": ("rho", (0.02, 0.05, 0.1, 0.01, 0.2, 0.5)),
    "asam": ("rho", (0.2, 0.5, 1.0, 0.1, 2.0, 4.0)),
    "weight-decay": ("rate", (*_BETAS[:5], 0.1)),
    "early-stopping": ("every", (5, 10, 20, 2, 50, 100)),
}
OF_PICTURES: dict[str, tuple[str, tuple[float, ...]]] = {
    "cutmix": ("alpha", _ALPHAS),
    **{kind: ("alpha", _ALPHAS) for kind in _MIXES if kind not in ANYWHERE},
    "cutout": ("side", _SIDES),
    "random-erasing": ("p", _SHARES),
    "guided-cutout": ("side", _SIDES),
    "random-cutout": ("side", _SIDES),
    "reldrop-block": ("p", _SHARES),
    "icd": ("share", _SMALL),
    "aicd": ("share", _SMALL),
    "saliencymix": ("alpha", _ALPHAS),
    "shift": ("most", (0.0625, 0.125, 0.2, 0.03, 0.25, 0.3)),
    "crop": ("smallest", (0.8, 0.64, 0.5, 0.9, 0.4, 0.3)),
    "flip": ("p", _SHARES),
    "rotation": ("degrees", (5.0, 15.0, 30.0, 2.0, 20.0, 45.0)),
    "randaugment": ("magnitude", (3.0, 6.0, 9.0, 1.0, 12.0, 15.0)),
}
OF_TEXTS: dict[str, tuple[str, tuple[float, ...]]] = {"word-dropout": ("p", _SMALL)}
HAND_CRAFTED = ("shift", "crop", "flip", "rotation", "randaugment")
# Neither a map nor a second pass, and nothing that is made for pictures by hand.
CHEAP = ("mixup", "gaussian-noise", "label-smoothing", "input-dropout", "weight-decay")
# Runs for each value of each class; there are a hundred classes.
TUNING_SEEDS = 3
# What these mix follows from the picture's sides alone: there is nothing to tune.
UNTUNED = ("random-2x2", "random-square", "row-interval", "column-interval")
# Layers of the small CNN after which ABA acts as well: the outputs of its two blocks.
HIDDEN = {"small_cnn": ("2", "5")}


def compared(settings: Settings) -> dict[str, tuple[str, tuple[float, ...]]]:
    """The comparators that fit the data, each with what it is tried with."""
    return {**ANYWHERE, **(OF_PICTURES if settings.pictures else OF_TEXTS)}


def title_of(kind: str) -> str:
    return METHODS[kind].title


def with_all(title: str) -> str:
    return f"{title}, with All"


def layers_of(settings: Settings) -> tuple[str, ...]:
    return HIDDEN.get(settings.config["model"], ())


def at_layer(name: str, site: str) -> str:
    return f"{name} at layer {site}"


def declare(settings: Settings) -> Study:
    """Vanilla, ABA as published and as All, and every comparator alone and with All."""
    tried = compared(settings)
    # First in a chain: its maps are those of real inputs and their own labels.
    aba = {"kind": "aba", "adjustments": "all", **settings.loss}
    layers = layers_of(settings)
    arms = [
        Arm.of(VANILLA, method="vanilla"),
        Arm.of(ALL, method=aba),
        Arm.of(NOISE, method={**aba, "placebo": "gaussian"}),
        *(Arm.of(title_of(m), method=m, top_k=settings.top_k) for m in PUBLISHED_METHODS),
        *(Arm.of(title_of(kind), method=kind) for kind in tried),
        *(Arm.of(with_all(title_of(kind)), method=[aba, {"kind": kind}]) for kind in tried),
    ]
    for site in layers:
        arms.append(Arm.of(at_layer(ALL, site), method={**aba, "site": site}))
        noise = {**aba, "site": site, "placebo": "gaussian"}
        arms.append(Arm.of(at_layer("Noise", site), method=noise))
    strengths = settings.strength["benchmark"]
    n = settings.planned["comparators"]
    return settings.study(
        "comparators",
        fresh(arms),
        hypotheses=declared(list(tried), layers, n),
        seeds=tuple(range(FRESH_SEED, FRESH_SEED + settings.seeds["comparators"])),
        room="analysis.studies.comparators:exhibits",
        tuning=Tuning(
            strengths=strengths,
            seeds=min(TUNING_SEEDS, settings.seeds["tuning"]),
            classes=classes(tried, layers, len(strengths)),
        ),
    )


def classes(
    tried: dict[str, tuple[str, tuple[float, ...]]], layers: tuple[str, ...], values: int
) -> tuple[TunedClass, ...]:
    """Every arm with something to tune is a class of its own, tried with so many values."""
    by_strength = [ALL, NOISE, *map(title_of, PUBLISHED_METHODS)]
    by_strength += [at_layer(name, site) for site in layers for name in (ALL, "Noise")]
    tuned = [TunedClass(name=name, arms=(name,)) for name in by_strength]
    for kind, (field, given) in tried.items():
        if kind in UNTUNED:
            continue
        chosen = tuple(sorted(given[:values]))
        title = title_of(kind)
        tuned.append(TunedClass(name=title, arms=(title,), values={field: chosen}))
        both = with_all(title)
        tuned.append(TunedClass(name=both, arms=(both,), values={f"1.{field}": chosen}))
    return tuple(tuned)


# --- what is claimed -----------------------------------------------------------------------------


def _minus(a: str, b: str) -> Contrast:
    return Contrast(label=f"{a} − {b}", weights={a: 1.0, b: -1.0})


def declared(kinds: list[str], layers: tuple[str, ...], n: int) -> tuple[Hypothesis, ...]:
    """What the study is to decide, on n subsets. kinds: of the comparators."""
    parts = (
        *_of_published(),
        *_of_comparators(kinds),
        *_of_layers(layers),
    )
    return tuple(Hypothesis(n=n, **said) for said in parts)


def _of_published() -> list[dict[str, Any]]:
    names = {kind: title_of(kind) for kind in PUBLISHED_METHODS}
    return [
        dict(
            name="published-methods-help",
            statement="Each published method beats training without it.",
            estimand="mean accuracy of each of the four published methods less that of Vanilla",
            comparisons=tuple(_minus(name, VANILLA) for name in names.values()),
        ),
        dict(
            name="mendaba-beats-challenger",
            statement="MendABA beats Challenger.",
            estimand="mean accuracy of MendABA less that of Challenger",
            comparisons=(_minus(names["mendaba"], names["challenger"]),),
        ),
        dict(
            name="fastaba-is-as-good",
            statement="FastABA is as good as MendABA.",
            estimand="mean accuracy of FastABA less that of MendABA",
            comparisons=(_minus(names["fastaba"], names["mendaba"]),),
            direction="equivalent",
        ),
        dict(
            name="fastaba-ce-is-better",
            statement="FastABA with the loss as target beats FastABA with a class score.",
            estimand="mean accuracy of FastABA-CE less that of FastABA",
            comparisons=(_minus(names["fastaba-ce"], names["fastaba"]),),
        ),
    ]


def _of_comparators(kinds: list[str]) -> list[dict[str, Any]]:
    titles = [title_of(kind) for kind in kinds]
    cheap = [title_of(kind) for kind in CHEAP]
    hand_crafted = [title_of(kind) for kind in HAND_CRAFTED if kind in kinds]
    said = [
        dict(
            name="comparators-help",
            statement="Some other regulariser beats training without.",
            estimand="mean accuracy of each comparator less that of Vanilla, a family",
            comparisons=tuple(_minus(title, VANILLA) for title in titles),
            rule="any",
        ),
        dict(
            name="beats-cheap-comparators",
            statement="All adjustments beat the best of the cheap comparators, tuned alike.",
            estimand="mean accuracy of All less that of the best of mixup, Gaussian noise, label "
            "smoothing, input dropout and weight decay, whichever that is",
            comparisons=(
                Contrast(
                    label="All − the best cheap one",
                    weights={ALL: 1.0},
                    minus_best_of=(tuple(cheap),),
                ),
            ),
        ),
        dict(
            name="beats-every-comparator",
            statement="All adjustments beat the best of all comparators, tuned alike.",
            estimand="mean accuracy of All less that of the best comparator, whichever that is",
            comparisons=(
                Contrast(
                    label="All − the best comparator",
                    weights={ALL: 1.0},
                    minus_best_of=(tuple(titles),),
                ),
            ),
        ),
        dict(
            name="adds-to-comparators",
            statement="All adjustments still help where another regulariser is used, on average.",
            estimand="mean over comparators of the accuracy with All less that without",
            comparisons=(_average("with All − without", titles, gained=False),),
        ),
        dict(
            name="closes-the-same-gap",
            statement="All adjustments add less where another regulariser is used.",
            estimand="mean over comparators of the gain of All beside them, less that over Vanilla",
            comparisons=(_average("gain beside others − gain alone", titles, gained=True),),
            direction="less",
        ),
    ]
    if hand_crafted:
        said.append(
            dict(
                name="hand-crafted-is-better",
                statement="Hand-crafted augmentation beats all adjustments.",
                estimand="mean accuracy of each hand-crafted augmentation less that of All",
                comparisons=tuple(_minus(title, ALL) for title in hand_crafted),
                rule="any",
            )
        )
    return said


def _average(label: str, titles: list[str], gained: bool) -> Contrast:
    weights = {with_all(title): 1 / len(titles) for title in titles}
    weights |= {title: -1 / len(titles) for title in titles}
    return Contrast(label=label, weights=weights | ({ALL: -1.0, VANILLA: 1.0} if gained else {}))


def _of_layers(layers: tuple[str, ...]) -> list[dict[str, Any]]:
    if not layers:
        return []
    return [
        dict(
            name="hidden-layers-help",
            statement="Augmenting a hidden layer beats training without.",
            estimand="mean accuracy of All at a layer less that of Vanilla",
            comparisons=tuple(_minus(at_layer(ALL, site), VANILLA) for site in layers),
            rule="any",
        ),
        dict(
            name="hidden-layers-beat-noise",
            statement="Augmenting a hidden layer beats noise of the same norm there.",
            estimand="mean accuracy of All at a layer less that of Gaussian noise there",
            comparisons=tuple(
                _minus(at_layer(ALL, site), at_layer("Noise", site)) for site in layers
            ),
            rule="any",
        ),
    ]


# --- what is shown -------------------------------------------------------------------------------


def gain_table(
    runs: pd.DataFrame,
    rng: np.random.Generator,
    metric: str = "validation_accuracy",
    confidence: float = statistics.CONFIDENCE,
) -> pd.DataFrame:
    """One row a method: its gain over Vanilla within subsets, alone and with All, and its cost.

    Columns: arm, gain and with_all (points) with intervals, passes a step, gain_per_pass (points
    for each pass beyond Vanilla's one; NaN where there is none), seconds (of a run, over
    Vanilla's), n; the largest gain first.
    """
    values = runs.pivot(index="seed", columns="arm", values=metric)
    by_arm = runs.groupby("arm")
    passes = (by_arm["passes"].mean() / by_arm["step"].mean()).to_dict()
    seconds = by_arm["seconds"].mean().to_dict()
    names = [name for name in values if not str(name).endswith(with_all("")) and name != VANILLA]
    rows = []
    for name, stream in zip(names, rng.spawn(len(names)), strict=True):
        row: dict[str, Any] = {"arm": name}
        for column, arm in (("gain", name), ("with_all", with_all(str(name)))):
            if arm in values:
                gained = (values[arm] - values[VANILLA]).dropna()
                interval = statistics.mean_interval(gained, stream, confidence=confidence)
                row |= tables.with_interval(column, interval)
        extra = passes[name] - 1
        row["passes"] = passes[name]
        row["gain_per_pass"] = row["gain"] / extra if extra > 0 else np.nan
        row["seconds"] = seconds[name] / seconds[VANILLA]
        row["n"] = int(values[[name, VANILLA]].notna().all(axis=1).sum())
        rows.append(row)
    return pd.DataFrame(rows).sort_values("gain", ascending=False, ignore_index=True)


def gain_plot(
    table: pd.DataFrame, ax: Axes | None = None, *, label: str = "Gain over Vanilla (points)"
) -> Axes:
    """Gains over Vanilla with intervals, alone (filled) and with All (open), the best on top.

    table: from `gain_table`. ABA's own arms are orange.
    """
    ax = figures.given_or_new(ax, figures.TWO_COLUMNS, gain_height(table))
    text, width, marker = figures.sizes(ax)
    limits = figures.limits_of(table.assign(zero=0.0), ["gain", "with_all", "zero"]) or (-1.0, 1.0)
    own = {ALL, NOISE, *map(title_of, PUBLISHED_METHODS)}
    for y, (_, row) in enumerate(table.iterrows()):
        place = len(table) - 1 - y
        ax.axhline(place, color="0.94", lw=0.5 * width, zorder=-2)
        colour = figures.OTHER_COLOURS[0] if row["arm"] in own else "#333333"
        for column, shift, face in (("gain", 0.14, colour), ("with_all", -0.22, "white")):
            if np.isfinite(row.get(column, np.nan)):
                ends = row[f"{column}_low"], row[f"{column}_high"]
                at = place + shift
                figures.interval_line(ax, at, *ends, limits, color=colour, lw=0.9 * width)
                ax.plot(row[column], at, "o", mfc=face, mec=colour, ms=0.7 * marker)
    ax.axvline(0, color="0.4", lw=0.6 * width, zorder=-1)
    ax.set_xlim(limits)
    ax.set_ylim(-0.7, len(table) - 0.3)
    ax.set_yticks(range(len(table) - 1, -1, -1), list(table["arm"]))
    ax.tick_params(axis="y", length=0, labelsize=0.8 * text)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(label)
    handles = [
        figures.legend_key(ax, "alone", "o", "#333333", "#333333"),
        figures.legend_key(ax, "with All", "o", "#333333", "white"),
        figures.legend_key(ax, "ABA, alone", "o", *2 * figures.OTHER_COLOURS[:1]),
    ]
    figures.legend_above(ax, handles, ncols=3)
    return ax


def gain_height(table: pd.DataFrame) -> float:
    """Height in mm at which `gain_plot` names every method, on paper."""
    return 22.0 + 4.2 * len(table)


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    """The verdicts, and figure and table comparators."""
    shown = hypotheses.exhibits(study, look, hypotheses.judge(study, look))
    collector = Collector(study, look)
    table = gain_table(study.frame, look.rng(), look.metric, look.confidence)
    over = f"{collector.level}, studentised bootstrap over training subsets, arms paired within"
    collector.figure(
        "comparators",
        "What each method gains over training without it, alone and with all adjustments",
        table,
        partial(gain_plot, table),
        height=gain_height(table),
        note=f"{look.label}; every method is tuned with as many values on the same seeds.",
        interval=over,
        width="double",
    )
    collector.table(
        "comparators",
        "Gain over Vanilla, alone and with all adjustments, and cost",
        table,
        ["arm", "gain", "with_all", "passes", "gain_per_pass", "seconds", "n"],
        note="Gains in points; passes: forward and backward, a step; gain per pass: for each pass "
        "beyond the one of Vanilla; seconds: of a run, over those of Vanilla.",
        interval=over,
        digits=2,
    )
    return Exhibits(
        {**collector.exhibits.figures, **shown.figures},
        {**collector.exhibits.tables, **shown.tables},
    )
