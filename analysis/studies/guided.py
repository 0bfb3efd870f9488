"""Guided: whether other map-guided methods gain from their map.

`comparators` shows each beside a method that does much the same without a map, on which it claims
nothing. Here each is beside itself, led by another sample's map and by random features, all tuned
alike, and hypotheses are declared. That table had been seen, so that the study draws training
subsets that no other study draws.
"""

from __future__ import annotations

from typing import Any

from aba_core.arms import VANILLA, Arm
from analysis.exhibits import Exhibits, Look
from analysis.hypothesis import Hypothesis, mean_minus, minus, minus_best
from analysis.results import StudyResult
from analysis.studies.attributions import Words, placebo_of, random_of, shown
from analysis.studies.tried import ALL, compared, title_of
from analysis.study import Settings, Study, TunedClass, Tuning
from analysis.study import on_fresh_subsets as fresh

# Subsets from here on belong to this study alone: `attacks` begins at 300, `landscape` at 700.
UNSEEN_SEED = 500
LED = ("guided-cutout", "guided-dropout", "reldrop-block", "reldrop-pixel", "saliencymix", "icd")
# Hides what the map finds unimportant, where ICD hides what it finds important.
AICD = "aicd"
TUNING_SEEDS = 3
OF_GUIDED = Words(
    "What map-guided methods gain with their map, and with placebos in its place",
    "Gain over Vanilla of map-guided methods, and their cost",
    "each tuned by itself, the placebos too",
    "arm",
)
PLACEBOS = {"other_sample": placebo_of, "random": random_of}


def led(settings: Settings) -> tuple[str, ...]:
    """The methods that fit the data."""
    return tuple(kind for kind in LED if kind in compared(settings))


def declare(settings: Settings) -> Study:
    """Vanilla, All, and each guided method led by the model's own map, another sample's and none,
    each tuned by itself on fresh subsets."""
    strengths = settings.strength["benchmark"]
    arms = [
        Arm.of(VANILLA, method="vanilla"),
        Arm.of(ALL, adjustments="all", **settings.loss),
    ]
    tuned = [TunedClass(name=ALL, arms=(ALL,))]
    there = compared(settings)
    for kind in (*LED, AICD):
        if kind not in there:
            continue
        field, values = there[kind]
        tried: dict[str, tuple[str | float | int, ...]] = {
            field: tuple(sorted(values[: len(strengths)]))
        }
        names = {title_of(kind): ""}
        if kind != AICD:
            names |= {of(title_of(kind)): placebo for placebo, of in PLACEBOS.items()}
        for name, placebo in names.items():
            arms.append(Arm.of(name, method=kind, **({"placebo": placebo} if placebo else {})))
            tuned.append(TunedClass(name=name, arms=(name,), values=tried))
    n = settings.planned["guided"]
    return settings.study(
        "guided",
        fresh(arms),
        hypotheses=tuple(
            Hypothesis(n=n, **said)
            for said in _of_guided([title_of(kind) for kind in led(settings)], AICD in there)
        ),
        seeds=tuple(range(UNSEEN_SEED, UNSEEN_SEED + settings.seeds["guided"])),
        tuning=Tuning(
            strengths=strengths,
            seeds=min(TUNING_SEEDS, settings.seeds["tuning"]),
            classes=tuple(tuned),
        ),
        room="analysis.studies.guided:exhibits",
    )


def _of_guided(titles: list[str], hides_the_rest: bool) -> list[dict[str, Any]]:
    """titles: of methods. hides_the_rest: whether AICD is there."""
    cutout, icd, aicd = map(title_of, ("guided-cutout", "icd", AICD))
    said: list[dict[str, Any]] = [
        dict(
            name="guided-methods-gain-from-their-map",
            statement="Other map-guided methods gain from their map, on average.",
            estimand="mean over methods of the accuracy with the model's own map less that with "
            "another sample's, and less that with random features, each tuned by itself",
            comparisons=(
                mean_minus("own map − another sample's", [(t, placebo_of(t)) for t in titles]),
                mean_minus("own map − random features", [(t, random_of(t)) for t in titles]),
            ),
        ),
        dict(
            name="some-guided-method-gains-from-its-map",
            statement="Some other map-guided method gains from its map.",
            estimand="mean accuracy of each method with the model's own map less that with random "
            "features, a family",
            comparisons=tuple(minus(title, random_of(title)) for title in titles),
            rule="any",
        ),
        dict(
            name="guided-methods-help",
            statement="Some other map-guided method beats training without.",
            estimand="mean accuracy of each method less that of Vanilla, a family",
            comparisons=tuple(minus(title, VANILLA) for title in titles),
            rule="any",
        ),
        dict(
            name="aba-beats-guided-methods",
            statement="All adjustments beat the best of the other map-guided methods.",
            estimand="mean accuracy of All less that of the best of them, whichever that is",
            comparisons=(minus_best(ALL, "the best guided one", titles),),
        ),
    ]
    if cutout in titles:
        said.append(
            dict(
                name="cutting-out-what-matters-is-better",
                statement="Cutting out the area that matters most beats cutting out a random one.",
                estimand="mean accuracy of cutout of the area of largest attribution less that of "
                "one of random features, as large",
                comparisons=(minus(cutout, random_of(cutout)),),
            )
        )
    if hides_the_rest and icd in titles:
        said.append(
            dict(
                name="hiding-what-matters-differs",
                statement="Hiding what matters and hiding what does not matter differ in accuracy.",
                estimand="mean accuracy of ICD less that of AICD",
                comparisons=(minus(icd, aicd),),
                direction="different",
            )
        )
    return said


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    """The verdicts, and figure and table guided."""
    titles = [ALL, *map(title_of, (*LED, AICD))]
    return shown(study, look, "guided", titles, ["gain", "placebo", "random"], OF_GUIDED)
