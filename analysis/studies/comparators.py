"""Comparators: ABA beside every other regulariser, each tuned alike, alone and with ABA.

Every class of arms is tried with as many values on the same tuning seeds. Arms are compared within
fresh training subsets. A method's passes a step stand beside what it gains, since methods that
attack or that make a map cost more than those that mix; in `comparators-equal-passes` each trains
for as many epochs as its passes leave it, in `comparators-equal-time` for as many as its measured
time does. `comparators-more` has the methods that are about a part
of the training, a layer, several copies or batch norm, and those that came later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aba_core.arms import PUBLISHED_METHODS, VANILLA, Arm
from analysis.exhibits import Exhibits, Look
from analysis.hypothesis import Contrast, Hypothesis, mean_minus, minus, minus_best
from analysis.results import StudyResult
from analysis.studies import costs, hypotheses
from analysis.studies.tried import (
    ALL,
    ALL_NORM,
    CHEAP,
    HAND_CRAFTED,
    NOISE,
    PASSES,
    UNTUNED,
    VANILLA_NORM,
    Rest,
    Tried,
    compared,
    layers_of,
    left_out,
    left_out_of_rest,
    rest,
    title_of,
    with_all,
)
from analysis.study import FRESH_SEED, Settings, Study, TunedClass, Tuning
from analysis.study import on_fresh_subsets as fresh

# Runs for each value of each class; there are a hundred classes.
TUNING_SEEDS = 3


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
        **_shared(settings, classes(tried, layers, len(strengths)), left_out(settings)),
    )


def _shared(settings: Settings, tuned: tuple[TunedClass, ...], note: str) -> dict[str, Any]:
    """What the three studies have in common: subsets, room, tuning. note: what does not apply."""
    return dict(
        seeds=tuple(range(FRESH_SEED, FRESH_SEED + settings.seeds["comparators"])),
        room="analysis.studies.comparators:exhibits",
        note=note,
        tuning=Tuning(
            strengths=settings.strength["benchmark"],
            seeds=min(TUNING_SEEDS, settings.seeds["tuning"]),
            classes=tuned,
        ),
    )


def declare_equal_passes(settings: Settings) -> Study:
    """The arms of `comparators` without All beside them, each with the passes of Vanilla: a method
    of p passes a step has 1/p of the epochs, and is tuned so. Methods of one pass share their runs
    with `comparators`.

    Passes are counted, so that the study can be declared before it runs; its table says what wall
    time came of them.
    """
    return _at_equal(settings, "passes", "with as many passes as training without", PASSES)


def declare_equal_time(settings: Settings) -> Study:
    """The same arms, each with the processor time of Vanilla, by the costs of a step that were
    measured (`costs`): a method of 1.9 times a step of Vanilla has 1/1.9 of the epochs."""
    return _at_equal(settings, "time", "in as much time as training without", costs.OF_METHODS)


def _at_equal(settings: Settings, what: str, words: str, each: Mapping[str, float]) -> Study:
    """each: what a step costs over Vanilla's, by kind."""
    whole = declare(settings)
    assert whole.tuning is not None
    arms = [arm for arm in whole.arms if not arm.name.endswith(with_all(""))]
    names = {arm.name for arm in arms}
    tuned = tuple(one for one in whole.tuning.classes if one.name in names)
    kinds = list(compared(settings))
    claims = [
        {
            **said,
            "name": f"{said['name']}-at-equal-{what}",
            "statement": f"{words.capitalize()}: {said['statement']}",
        }
        for said in (
            *_of_published()[:1],
            *_of_comparators(kinds),
            *_of_layers(layers_of(settings)),
        )
        if names >= Hypothesis(n=2, **said).arms
    ]
    n = settings.planned["comparators"]
    return settings.study(
        f"comparators-equal-{what}",
        [_shortened(arm, settings.config["epochs"], each) for arm in arms],
        hypotheses=tuple(Hypothesis(n=n, **said) for said in claims),
        **_shared(settings, tuned, left_out(settings)),
    )


def _shortened(arm: Arm, epochs: float, each: Mapping[str, float]) -> Arm:
    """The arm with so many fewer epochs as a step of it costs more."""
    kind = "gaussian-noise" if arm.setting("placebo") == "gaussian" else arm.setting("kind")
    cost = each.get(kind, 1.0)
    return arm.trained_with({"epochs": epochs / cost}) if cost > 1 else arm


def declare_more(settings: Settings) -> Study:
    """Vanilla, All, and the methods that `comparators` leaves out, alone and with All; those of
    batch norm beside both with batch norm."""
    layers = layers_of(settings)
    aba = {"kind": "aba", "adjustments": "all", **settings.loss}
    found = rest(aba, layers, settings.inputs)
    strengths = settings.strength["benchmark"]
    arms, tuned = [Arm.of(VANILLA, method="vanilla"), Arm.of(ALL, method=aba)], [_by_strength(ALL)]
    norm = {"batch_norm": True}
    arms += [Arm.of(VANILLA_NORM, method="vanilla", config=norm)]
    arms += [Arm.of(ALL_NORM, method=aba, config=norm)]
    tuned += [_by_strength(ALL_NORM)]
    for one in found:
        own = {"config": norm} if one.norm else {}
        arms.append(Arm.of(one.title, method=one.method, **own))
        values = tuple(sorted((one.values or strengths)[: len(strengths)]))
        tuned.append(TunedClass(name=one.title, arms=(one.title,), values={one.field: values}))
        if one.joins:
            both = with_all(one.title)
            arms.append(Arm.of(both, method=[aba, one.method], **own))
            tuned.append(TunedClass(name=both, arms=(both,), values={f"1.{one.field}": values}))
    n = settings.planned["comparators"]
    return settings.study(
        "comparators-more",
        fresh(arms),
        hypotheses=tuple(Hypothesis(n=n, **said) for said in _of_rest(found)),
        **_shared(settings, tuple(tuned), left_out_of_rest(settings)),
    )


def _by_strength(name: str) -> TunedClass:
    return TunedClass(name=name, arms=(name,))


def classes(tried: Tried, layers: tuple[str, ...], values: int) -> tuple[TunedClass, ...]:
    """Every arm with something to tune is a class of its own, tried with so many values."""
    by_strength = [ALL, NOISE, *map(title_of, PUBLISHED_METHODS)]
    by_strength += [at_layer(name, site) for site in layers for name in (ALL, "Noise")]
    tuned = [_by_strength(name) for name in by_strength]
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
            comparisons=tuple(minus(name, VANILLA) for name in names.values()),
        ),
        dict(
            name="mendaba-beats-challenger",
            statement="MendABA beats Challenger.",
            estimand="mean accuracy of MendABA less that of Challenger",
            comparisons=(minus(names["mendaba"], names["challenger"]),),
        ),
        dict(
            name="fastaba-is-as-good",
            statement="FastABA is as good as MendABA.",
            estimand="mean accuracy of FastABA less that of MendABA",
            comparisons=(minus(names["fastaba"], names["mendaba"]),),
            direction="equivalent",
        ),
        dict(
            name="fastaba-ce-is-better",
            statement="FastABA with the loss as target beats FastABA with a class score.",
            estimand="mean accuracy of FastABA-CE less that of FastABA",
            comparisons=(minus(names["fastaba-ce"], names["fastaba"]),),
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
            comparisons=tuple(minus(title, VANILLA) for title in titles),
            rule="any",
        ),
        dict(
            name="beats-cheap-comparators",
            statement="All adjustments beat the best of the cheap comparators, tuned alike.",
            estimand="mean accuracy of All less that of the best of mixup, Gaussian noise, label "
            "smoothing, input dropout and weight decay, whichever that is",
            comparisons=(minus_best(ALL, "the best cheap one", cheap),),
        ),
        dict(
            name="beats-every-comparator",
            statement="All adjustments beat the best of all comparators, tuned alike.",
            estimand="mean accuracy of All less that of the best comparator, whichever that is",
            comparisons=(minus_best(ALL, "the best comparator", titles),),
        ),
        dict(
            name="adds-to-comparators",
            statement="All adjustments still help where another regulariser is used, on average.",
            estimand="mean over comparators of the accuracy with All less that without",
            comparisons=(_added(titles),),
        ),
        dict(
            name="closes-the-same-gap",
            statement="All adjustments add less where another regulariser is used.",
            estimand="mean over comparators of the gain of All beside them, less that over Vanilla",
            comparisons=(
                Contrast(
                    label="gain beside others − gain alone",
                    weights={**_added(titles).weights, ALL: -1.0, VANILLA: 1.0},
                ),
            ),
            direction="less",
        ),
    ]
    if hand_crafted:
        said.append(
            dict(
                name="hand-crafted-is-better",
                statement="Hand-crafted augmentation beats all adjustments.",
                estimand="mean accuracy of each hand-crafted augmentation less that of All",
                comparisons=tuple(minus(title, ALL) for title in hand_crafted),
                rule="any",
            )
        )
    return said


def _added(titles: list[str]) -> Contrast:
    return mean_minus("with All − without", [(with_all(title), title) for title in titles])


def _of_layers(layers: tuple[str, ...]) -> list[dict[str, Any]]:
    if not layers:
        return []
    return [
        dict(
            name="hidden-layers-help",
            statement="Augmenting a hidden layer beats training without.",
            estimand="mean accuracy of All at a layer less that of Vanilla",
            comparisons=tuple(minus(at_layer(ALL, site), VANILLA) for site in layers),
            rule="any",
        ),
        dict(
            name="hidden-layers-beat-noise",
            statement="Augmenting a hidden layer beats noise of the same norm there.",
            estimand="mean accuracy of All at a layer less that of Gaussian noise there",
            comparisons=tuple(
                minus(at_layer(ALL, site), at_layer("Noise", site)) for site in layers
            ),
            rule="any",
        ),
    ]


def _of_rest(found: tuple[Rest, ...]) -> list[dict[str, Any]]:
    alike = [one.title for one in found if not one.norm and not one.title.endswith(ALL)]
    others = [title for title in alike if not title.startswith(ALL)]
    joined = [one.title for one in found if one.joins and not one.norm]
    said = [
        dict(
            name="more-comparators-help",
            statement="Some further regulariser beats training without.",
            estimand="mean accuracy of each method less that of Vanilla; of batch norm, with it",
            comparisons=(
                *(minus(title, VANILLA) for title in others),
                *(minus(one.title, VANILLA_NORM) for one in found if one.norm),
            ),
            rule="any",
        ),
        dict(
            name="beats-further-comparators",
            statement="All adjustments beat the best of the further comparators, tuned alike.",
            estimand="mean accuracy of All less that of the best one without batch norm, whichever",
            comparisons=(minus_best(ALL, "the best further one", others),),
        ),
        dict(
            name="adds-to-further-comparators",
            statement="All adjustments still help where a further regulariser is used, on average.",
            estimand="mean over comparators of the accuracy with All less that without",
            comparisons=(_added(joined),),
        ),
        dict(
            name="helps-with-batch-norm",
            statement="All adjustments help a model with batch norm.",
            estimand="mean accuracy of All less that of Vanilla, both with batch norm",
            comparisons=(minus(ALL_NORM, VANILLA_NORM),),
        ),
        dict(
            name="early-is-as-good",
            statement="All adjustments in the first half of training are as good as throughout.",
            estimand="mean accuracy of All in the first half of the steps less that of All",
            comparisons=(minus("Early All", ALL),),
            direction="equivalent",
        ),
        dict(
            name="early-is-not-late",
            statement="All adjustments early and late in the training differ.",
            estimand="mean accuracy of All in the first half less that in the second half",
            comparisons=(minus("Early All", "Late All"),),
            direction="different",
        ),
        dict(
            name="copies-help",
            statement="Two changed copies of each sample beat one.",
            estimand="mean accuracy of All with two copies a step less that of All",
            comparisons=(minus("All, two copies", ALL),),
        ),
    ]
    drawn = "All at a layer drawn at each step"
    if any(one.title == drawn for one in found):
        said.append(
            dict(
                name="drawn-layers-help",
                statement="Augmenting a layer drawn at each step beats augmenting the input.",
                estimand="mean accuracy of All at a drawn layer less that of All at the input",
                comparisons=(minus(drawn, ALL),),
            )
        )
    return said


# --- what is shown -------------------------------------------------------------------------------


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    """The verdicts, and what `gains` shows."""
    from analysis.studies import gains

    shown = hypotheses.exhibits(study, look, hypotheses.judge(study, look))
    own = gains.exhibits(study, look)
    return Exhibits({**own.figures, **shown.figures}, {**own.tables, **shown.tables})
