"""Attributions: ABA with every map, at equal steps and at equal cost, beside placebos of each.

All arms have one set, one strength and one split, so that arms of one target differ in nothing but
the map. At equal cost each map is trained for as many passes as another, by more or fewer epochs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from aba_core.arms import PLACEBO_TITLES, VANILLA, WITH_SAMPLES, Arm
from analysis import figures, statistics, tables
from analysis.exhibits import Collector, Exhibits, Look
from analysis.hypothesis import Hypothesis, mean_minus, minus, minus_best
from analysis.results import StudyResult
from analysis.studies import costs, hypotheses
from analysis.study import FRESH_SEED, Settings, Study
from analysis.study import on_fresh_subsets as fresh

# Every map but those whose question others answer at less cost: what a map loses with its sign,
# and what noise does to a map at a layer.
MAPS = {
    "gradient": "Gradient",
    "gradient_x_input": "Gradient × input",
    "absolute_gradient": "Absolute gradient",
    "absolute_gradient_x_input": "Absolute gradient × input",
    "smoothgrad": "SmoothGrad",
    "smoothgrad_x_input": "SmoothGrad × input",
    "vargrad": "VarGrad",
    "integrated_gradients": "Integrated gradients",
    "expected_gradients": "Expected gradients",
    "occlusion": "Occlusion",
    "guided_backpropagation": "Guided backpropagation",
    "deconvnet": "Deconvnet",
    "lrp_epsilon": "LRP-ε",
    "lrp_gamma": "LRP-γ",
    "lrp_z_plus": "LRP-z⁺",
    "lrp_alpha_beta": "LRP-αβ",
    "lrp_composite": "LRP composite",
    "grad_cam": "Grad-CAM",
    "grad_cam_plus_plus": "Grad-CAM++",
    "layer_cam": "Layer-CAM",
    "norm_grad": "NormGrad",
}
# One of each family: all that preset quick has, and what is also asked of the class score.
FEW = (
    *("gradient", "gradient_x_input", "smoothgrad", "smoothgrad_x_input", "integrated_gradients"),
    *("guided_backpropagation", "lrp_composite", "grad_cam"),
)
# Made at a convolution, which these models lack.
AT_A_CONVOLUTION = ("grad_cam", "grad_cam_plus_plus", "layer_cam", "norm_grad")
WITHOUT_CONVOLUTION = ("linear", "mlp")
# Seeds that share a fresh training subset. Arms with different maps cannot train side by side, but
# seeds of one subset can: a run of four takes a third of the time of a run alone. With "reduced",
# of texts, steps are as long as their arithmetic, and more subsets say more.
SHARE = {"quick": 1, "standard": 4, "reduced": 2, "published": 4}
GRADIENT, GRADIENT_X_INPUT = MAPS["gradient"], MAPS["gradient_x_input"]
CHEAP = (GRADIENT, GRADIENT_X_INPUT)
LAGGED = "Lagged gradient"
# Copies, steps or baselines of maps that average over them: a pass each, at every training step.
# With 8, the study on digits takes three to four processor minutes for four seeds of a subset.
SAMPLES = {"quick": 4, "standard": 8, "published": 16}
# What has no map at all, and moves the same number of features or the same distance.
MAPLESS = ("random", "gaussian")
# What a map gains over gradients must pay for: each with the cheap map that it refines.
REFINED = {
    "smoothgrad": "gradient",
    "smoothgrad_x_input": "gradient_x_input",
    "integrated_gradients": "gradient",
}
LRP = ("lrp_epsilon", "lrp_gamma", "lrp_z_plus", "lrp_alpha_beta", "lrp_composite")


def passes(method: str, samples: int) -> float:
    """Forward-and-backward passes that one map takes, as `Attribution.passes` counts them."""
    if method == "occlusion":
        return 17 / 3
    return samples + 1.0 if method in WITH_SAMPLES else 1.0


def scored(title: str) -> str:
    return f"{title}, class score"


def placebo_of(title: str) -> str:
    return f"{title}, {PLACEBO_TITLES['other_sample']}"


def random_of(title: str) -> str:
    return f"{title}, {PLACEBO_TITLES['random']}"


def at_cost_of(title: str, other: str) -> str:
    return f"{title}, as many passes as {other}"


def as_long_as(title: str, other: str) -> str:
    return f"{title}, as long as {other}"


def mapless(placebo: str) -> str:
    return PLACEBO_TITLES[placebo].capitalize() if placebo != "gaussian" else "Gaussian noise"


def declare(settings: Settings) -> Study:
    """Every map, its placebo, some with target class score, and the comparisons at equal cost, on
    fresh subsets, which seeds share."""
    samples = SAMPLES.get(settings.preset, SAMPLES["standard"])
    maps = compared(settings)
    n = settings.planned["attributions"]
    return settings.study(
        "attributions",
        fresh(arms(settings, maps, samples), SHARE.get(settings.preset, SHARE["standard"])),
        hypotheses=declared(maps, n, samples),
        seeds=tuple(range(FRESH_SEED, FRESH_SEED + settings.seeds["attributions"])),
        room="analysis.studies.attributions:exhibits",
        note=left_out(settings),
    )


def compared(settings: Settings) -> dict[str, str]:
    """{method: title} of the maps that the preset has and the model allows."""
    chosen = FEW if settings.preset == "quick" else MAPS
    without = AT_A_CONVOLUTION if settings.config["model"] in WITHOUT_CONVOLUTION else ()
    return {method: MAPS[method] for method in chosen if method not in without}


def left_out(settings: Settings) -> str:
    """Which maps the model does not allow, and why; "" where it allows all."""
    model = settings.config["model"]
    if model not in WITHOUT_CONVOLUTION:
        return ""
    titles = ", ".join(MAPS[method] for method in AT_A_CONVOLUTION)
    return f"Not compared, since made at a convolution, which {model} does not have: {titles}."


def declare_equal_time(settings: Settings) -> Study:
    """The maps, each trained in the processor time of the gradient, by the costs of a step that
    were measured on the data (`costs`): a map whose step takes twice as long has half the
    epochs."""
    samples, maps = SAMPLES.get(settings.preset, SAMPLES["standard"]), compared(settings)
    every = {arm.name: arm for arm in arms(settings, maps, samples)}
    of_maps = costs.of_maps(settings.dataset)

    def cost(method: str) -> float:
        measured = of_maps[method]
        if method in WITH_SAMPLES:  # beyond a step of training, so much for each sample
            measured = 1 + (measured - 1) * passes(method, samples) / passes(method, costs.SAMPLES)
        return measured

    def in_time_of(title: str, other: str, times: float) -> Arm:
        renamed = every[title].renamed(as_long_as(title, MAPS[other]))
        return renamed.trained_with({"epochs": settings.config["epochs"] * times})

    refined = [method for method in REFINED if method in maps]
    chosen = (
        *(every[name] for name in (VANILLA, GRADIENT, *(maps[method] for method in refined))),
        in_time_of(LAGGED, "gradient", cost("gradient") / cost("lagged")),
        *(
            in_time_of(title, "gradient", cost("gradient") / cost(method))
            for method, title in maps.items()
            if method != "gradient"
        ),
        *(
            in_time_of(MAPS[method], "smoothgrad", cost("smoothgrad") / cost(method))
            for method in ("gradient", "gradient_x_input")
        ),
    )
    n = settings.planned["attributions"]
    return settings.study(
        "attributions-equal-time",
        fresh(chosen, SHARE.get(settings.preset, SHARE["standard"])),
        hypotheses=tuple(Hypothesis(n=n, **said) for said in _of_time(maps)),
        seeds=tuple(range(FRESH_SEED, FRESH_SEED + settings.seeds["attributions"])),
        room="analysis.studies.comparators:exhibits",
        note=" ".join(filter(None, (left_out(settings), costs_of(settings)))),
    )


def costs_of(settings: Settings) -> str:
    """Where the costs of a step were measured, where that is not the data and model at hand."""
    dataset, model = settings.dataset, settings.config["model"]
    if dataset not in costs.MODELS:
        return f"What a step costs was measured on digits, and not on {dataset}."
    if model != costs.MODELS[dataset]:
        return f"What a step costs was measured with {costs.MODELS[dataset]}, and not with {model}."
    return ""


# --- arms ----------------------------------------------------------------------------------------


def arms(settings: Settings, maps: Mapping[str, str], samples: int) -> tuple[Arm, ...]:
    """All arms, with one set and strength. maps: {method: title}. samples: of maps that average
    over them."""

    def of(name: str, method: str, **further: Any) -> Arm:
        given = {"adjustments": "all", **settings.loss, "attribution": method, **further}
        if method in WITH_SAMPLES:
            given["attribution_samples"] = samples
        return Arm.of(name, **given)

    def trained(arm: Arm, times: float) -> Arm:
        return arm.trained_with({"epochs": settings.config["epochs"] * times})

    def step(method: str) -> float:
        return 1 + passes(method, samples)

    score = {"target": "class_score", "top_k": settings.top_k}
    sign = {"adjustments": "0x2,3,4,5,6,16,17", "split": "sign"}
    return (
        Arm.of(VANILLA, method="vanilla"),
        *(of(title, method) for method, title in maps.items()),
        *(of(scored(MAPS[method]), method, **score) for method in FEW if method in maps),
        *(of(placebo_of(title), m, placebo="other_sample") for m, title in maps.items()),
        *(of(mapless(placebo), "gradient", placebo=placebo) for placebo in MAPLESS),
        of(LAGGED, "gradient", lagged=True),
        of("FastABA-CE", "gradient", **sign),
        of("FastABA-CE, lagged", "gradient", lagged=True, **sign),
        trained(of(at_cost_of(LAGGED, GRADIENT), "gradient", lagged=True), 2.0),
        *(
            trained(of(at_cost_of(title, GRADIENT), method), step("gradient") / step(method))
            for method, title in maps.items()
            if step(method) > step("gradient")
        ),
        *(
            trained(of(at_cost_of(title, MAPS["smoothgrad"]), method), step("smoothgrad") / 2)
            for method, title in (("gradient", GRADIENT), ("gradient_x_input", GRADIENT_X_INPUT))
        ),
    )


def at_equal_cost(maps: Mapping[str, str], samples: int) -> dict[str, str]:
    """{title: the arm that trains with this map for as many passes as with the gradient}."""
    return {
        title: title if passes(method, samples) == 1 else at_cost_of(title, GRADIENT)
        for method, title in maps.items()
    }


# --- what is claimed -----------------------------------------------------------------------------


def declared(maps: Mapping[str, str], n: int, samples: int) -> tuple[Hypothesis, ...]:
    """What the study is to decide, on n runs an arm."""
    parts = (*_of_maps(maps), *_of_cost(maps, samples), *_of_lagged())
    return tuple(Hypothesis(n=n, **said) for said in parts)


def _of_maps(maps: Mapping[str, str]) -> list[dict[str, Any]]:
    titles = list(maps.values())
    finer = [maps[method] for method in ("integrated_gradients", *LRP) if method in maps]
    both = [maps[method] for method in FEW if method in maps]
    return [
        dict(
            name="every-map-helps",
            statement="All adjustments beat training without, whichever map they are led by.",
            estimand="mean accuracy of All with each map less that of Vanilla",
            comparisons=tuple(minus(title, VANILLA) for title in titles),
        ),
        dict(
            name="maps-beat-placebos",
            statement="Some map beats the same map of another sample.",
            estimand="mean accuracy of All with each map less that with another sample's, a family",
            comparisons=tuple(minus(title, placebo_of(title)) for title in titles),
            rule="any",
        ),
        dict(
            name="maps-beat-random-features",
            statement="Some map beats random features.",
            estimand="mean accuracy of All with each map less that with random features, a family",
            comparisons=tuple(minus(title, mapless("random")) for title in titles),
            rule="any",
        ),
        dict(
            name="some-map-beats-gradient",
            statement="Some map beats the gradient, at as many steps.",
            estimand="mean accuracy of All with each other map less that with the gradient",
            comparisons=tuple(minus(title, GRADIENT) for title in titles if title != GRADIENT),
            rule="any",
        ),
        dict(
            name="finer-maps-beat-gradient",
            statement="LRP or integrated gradients beat the gradient, at as many steps.",
            estimand="mean accuracy of All with each less that with the gradient, a family",
            comparisons=tuple(minus(title, GRADIENT) for title in finer),
            rule="any",
        ),
        dict(
            name="more-passes-help",
            statement="SmoothGrad, alone or times the input, and integrated gradients beat the "
            "maps of one pass that they refine, at as many steps.",
            estimand="mean accuracy of All with each less that with the gradient or the gradient "
            "times the input",
            comparisons=tuple(
                minus(MAPS[method], MAPS[cheap]) for method, cheap in REFINED.items()
            ),
        ),
        dict(
            name="class-score-with-maps",
            statement="The class score is a better target than the loss, on average over maps.",
            estimand="mean over one map of each family of the accuracy with target class score "
            "less that with loss",
            comparisons=(mean_minus("class score − loss", [(scored(t), t) for t in both]),),
        ),
    ]


def _of_cost(maps: Mapping[str, str], samples: int) -> list[dict[str, Any]]:
    longer = {title: at_cost_of(title, MAPS["smoothgrad"]) for title in CHEAP}
    return _of_equal(at_equal_cost(maps, samples), longer, "passes are", "for as many passes")


def _of_time(maps: Mapping[str, str]) -> list[dict[str, Any]]:
    equal = {title: as_long_as(title, GRADIENT) for title in maps.values()} | {GRADIENT: GRADIENT}
    longer = {title: as_long_as(title, MAPS["smoothgrad"]) for title in CHEAP}
    said = _of_equal(equal, longer, "time is", "as long")
    said += [
        dict(
            name="lagged-is-better",
            statement="Lagged maps beat exact ones where both train as long.",
            estimand="mean accuracy of All with lagged maps less that with exact ones, both "
            "trained as long",
            comparisons=(minus(as_long_as(LAGGED, GRADIENT), GRADIENT),),
        )
    ]
    return [
        {**one, "name": f"{one['name'].removesuffix('-at-equal-cost')}-at-equal-time"}
        for one in said
    ]


def _of_equal(
    equal: Mapping[str, str], longer: Mapping[str, str], limited: str, alike: str
) -> list[dict[str, Any]]:
    """equal: the arm with each map that costs as much as the gradient; longer: those of cheap maps
    that cost as much as SmoothGrad."""
    cheap = [equal[title] for title in CHEAP]
    others = [arm for title, arm in equal.items() if title not in CHEAP]
    return [
        dict(
            name="cheap-maps-are-best",
            statement=f"Where {limited} limited, the gradient and the gradient times the input "
            "beat the best of all other maps.",
            estimand="mean accuracy of All with either less that with the best other map, "
            f"whichever that is, each trained {alike} as the gradient",
            comparisons=tuple(minus_best(name, "the best other map", others) for name in cheap),
        ),
        dict(
            name="some-map-beats-gradient-at-equal-cost",
            statement=f"Where {limited} limited, some map beats the gradient.",
            estimand=f"mean accuracy of All with each other map, trained {alike}, less "
            "that with the gradient",
            comparisons=tuple(
                minus(arm, GRADIENT) for title, arm in equal.items() if title != GRADIENT
            ),
            rule="any",
        ),
        dict(
            name="gradient-x-input-is-best",
            statement=f"Where {limited} limited, the gradient times the input beats the best of "
            "all other maps.",
            estimand="mean accuracy of All with the gradient times the input less that with the "
            f"best other map, whichever that is, each trained {alike}",
            comparisons=(
                minus_best(
                    equal[GRADIENT_X_INPUT],
                    "the best other map",
                    [arm for title, arm in equal.items() if title != GRADIENT_X_INPUT],
                ),
            ),
        ),
        dict(
            name="more-passes-help-at-equal-cost",
            statement="SmoothGrad, alone or times the input, and integrated gradients beat the "
            f"maps of one pass that they refine, when these train {alike}.",
            estimand="mean accuracy of All with each less that with the gradient or the gradient "
            f"times the input, trained {alike} as SmoothGrad takes",
            comparisons=tuple(
                minus(MAPS[method], longer[MAPS[refined]]) for method, refined in REFINED.items()
            ),
        ),
    ]


def _of_lagged() -> list[dict[str, Any]]:
    return [
        dict(
            name="lagged-is-as-good",
            statement="Maps that the sample's last training step left are as good as exact ones.",
            estimand="mean accuracy with lagged maps less that with exact ones, of All and of "
            "FastABA-CE, at as many steps",
            comparisons=(minus(LAGGED, GRADIENT), minus("FastABA-CE, lagged", "FastABA-CE")),
            direction="equivalent",
        ),
        dict(
            name="lagged-is-better-at-equal-cost",
            statement="Lagged maps beat exact ones where both train for as many passes.",
            estimand="mean accuracy of All with lagged maps, trained twice as long, less that with "
            "exact ones",
            comparisons=(minus(at_cost_of(LAGGED, GRADIENT), GRADIENT),),
        ),
    ]


# --- what is shown -------------------------------------------------------------------------------

# What All gains with a map, and with what differs in one thing.
COLUMNS = ("gain", "score", "placebo", "equal_cost")


def map_table(
    runs: pd.DataFrame,
    rng: np.random.Generator,
    metric: str = "validation_accuracy",
    confidence: float = statistics.CONFIDENCE,
    titles: Sequence[str] = (*MAPS.values(), LAGGED),
    columns: Sequence[str] = COLUMNS,
) -> pd.DataFrame:
    """One row a map: what All gains with it over Vanilla within subsets, and what it costs.

    titles: of maps; those without an arm are left out. Columns: map; those asked for of gain, score
    (target class score), placebo (another sample's map), random (random features) and equal_cost
    (as many passes as the gradient), each in points with an interval; passes (a step); seconds (of
    a run, over Vanilla's); n_subsets and n (runs). The largest gain first; arms without runs are
    NaN.
    Seeds that share a training subset count as one unit of the interval.
    """
    values = runs.pivot(index="seed", columns="arm", values=metric)
    subsets = runs.groupby("seed")["subset_seed"].first() if "subset_seed" in runs else None
    by_arm = runs.groupby("arm")
    cost = (by_arm["passes"].mean() / by_arm["step"].mean()).to_dict()
    seconds = by_arm["seconds"].median().to_dict()
    titles = [title for title in titles if title in values]
    rows = []
    for title, stream in zip(titles, rng.spawn(len(titles)), strict=True):
        row: dict[str, Any] = {"map": title}
        costly = at_cost_of(title, GRADIENT)
        named = {
            "gain": title,
            "score": scored(title),
            "placebo": placebo_of(title),
            "random": random_of(title),
            "equal_cost": costly if costly in values else title,
        }
        for column, arm in ((column, named[column]) for column in columns):
            gained = values[arm] - values[VANILLA] if arm in values else values[VANILLA][:0]
            sample = tables.units(gained, subsets)
            interval = statistics.mean_interval(sample, stream, confidence=confidence)
            row |= tables.with_interval(column, interval)
        row |= {"passes": cost[title], "seconds": seconds[title] / seconds[VANILLA]}
        paired = values[[title, VANILLA]].notna().all(axis=1)
        row["n_subsets"] = 1 if subsets is None else subsets[paired].nunique()
        row["n"] = int(paired.sum())
        rows.append(row)
    table = pd.DataFrame(rows, columns=None if rows else ["map", "gain"])
    return table.sort_values("gain", ascending=False, ignore_index=True)


# What is drawn of each map: its words, and its symbol, colour and colour inside.
_DARK = "#333333"
_SHOWN = {
    "gain": ("target loss", ("o", _DARK, _DARK)),
    "score": ("target class score", ("s", *2 * figures.OTHER_COLOURS[1:2])),
    "equal_cost": ("as many passes as the gradient", ("D", *2 * figures.OTHER_COLOURS[:1])),
    "placebo": ("another sample's map", ("o", _DARK, "white")),
    "random": ("random features", ("D", *2 * figures.OTHER_COLOURS[:1])),
}


def map_plot(
    table: pd.DataFrame, ax: Axes | None = None, *, label: str = "Gain over Vanilla (points)"
) -> Axes:
    """Gains over Vanilla with each map, with intervals, the best on top.

    table: from `map_table`. Open: with another sample's map in place of the sample's own.
    """
    ax = figures.given_or_new(ax, figures.TWO_COLUMNS, map_height(table))
    drawn = {column: said for column, said in _SHOWN.items() if column in table}
    limits = figures.limits_of(table.assign(zero=0.0), [*drawn, "zero"]) or (-1.0, 1.0)
    places = figures.named_rows(ax, table["map"], limits, label, shift=-0.5)
    for place, row in zip(places, table.to_dict("records"), strict=True):
        for number, (column, (_, look)) in enumerate(drawn.items()):
            shift = 0.1 * (len(drawn) - 1) - 0.2 * number
            figures.mark_in_row(ax, place + shift, row, column, look, 0.87)
    if "score" not in drawn:  # of one target, which need not be named
        drawn["gain"] = "the sample's own map", drawn["gain"][1]
    handles = [figures.legend_key(ax, words, *look) for words, look in drawn.values()]
    figures.legend_above(ax, handles, ncols=2)
    return ax


def map_height(table: pd.DataFrame) -> float:
    """Height in mm at which `map_plot` names every map, on paper."""
    return 28.0 + 6.0 * len(table)


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    """The verdicts, and figure and table attributions."""
    return shown(study, look, "attributions", [*MAPS.values(), LAGGED], COLUMNS)


@dataclass(frozen=True)
class Words:
    """What `shown` says: the descriptions of its figure and its table, the figure's note, and what
    the table calls a row."""

    figure: str
    table: str
    note: str
    row: str


OF_MAPS = Words(
    "What all adjustments gain with each attribution map",
    "Gain over Vanilla with each attribution map, and its cost",
    "one set, strength and split throughout",
    "map",
)


def shown(
    study: StudyResult,
    look: Look,
    name: str,
    titles: Sequence[str],
    columns: Sequence[str],
    words: Words = OF_MAPS,
) -> Exhibits:
    """The verdicts, and a figure and a table of the name. titles: of maps, or of what maps lead.
    columns: those of `map_table` that the study has arms for."""
    verdicts = hypotheses.exhibits(study, look, hypotheses.judge(study, look))
    collector = Collector(study, look)
    table = map_table(study.frame, look.rng(), look.metric, look.confidence, titles, columns)
    over = f"{collector.level}, studentised bootstrap over training subsets, arms paired within"
    collector.figure(
        name,
        words.figure,
        table,
        partial(map_plot, table),
        height=map_height(table),
        note=f"{look.label}; {words.note}.",
        interval=over,
        width="double",
    )
    meant = {
        "score": "score: of target class score, otherwise loss",
        "placebo": "placebo: with another sample's map",
        "random": "random: with random features",
        "equal_cost": "equal cost: trained for as many passes as with the gradient",
    }
    said = [meant[column] for column in meant if column in columns]
    collector.table(
        name,
        words.table,
        table.rename(columns={"map": words.row}),
        [words.row, *columns, "passes", "seconds", "n_subsets", "n"],
        note=f"Gains in points. {'; '.join(said).capitalize()}; passes: forward and backward, a "
        "step; seconds: of a run, over those of Vanilla.",
        interval=over,
        digits=2,
    )
    return Exhibits(
        {**collector.exhibits.figures, **verdicts.figures},
        {**collector.exhibits.tables, **verdicts.tables},
    )
