"""Tasks: whether ABA helps where a model predicts a number or several labels and not one class.

Every arm but Vanilla is tried with as many values on the same tuning seeds: with as many lengths of
training, and with as many strengths, or learning rates where there is no method (Tuned Vanilla).
Verdicts are in the units of what the task measures, R² or macro AUC. Maps explain the loss, which
every task has.
"""

from __future__ import annotations

from typing import Any

from aba_core.arms import METHODS, VANILLA, Arm
from analysis.hypothesis import Hypothesis, minus
from analysis.studies.hypotheses import placebo_name
from analysis.studies.tried import ANYWHERE
from analysis.study import FRESH_SEED, Settings, Study, TunedClass, Tuning
from analysis.study import on_fresh_subsets as fresh

ALL, TUNED = "All", "Tuned Vanilla"
MENDABA, MIXUP = METHODS["mendaba"].title, METHODS["mixup"].title
NOISE, PLACEBO = placebo_name(ALL, "gaussian"), placebo_name(ALL, "permuted")
SEEDS_PER_SUBSET = 2
LENGTHS, RATES = (0.5, 1.0, 2.0), (0.5, 1.0, 2.0, 0.25, 4.0)  # times the common epochs and rate
# By the task's primary quantity: the unit of effects, and what is worth having of it.
MARGINS = {"r2": ("R²", 0.01), "macro_auc": ("points", 0.5)}


def declare(settings: Settings) -> Study:
    """Vanilla as set and tuned, All and MendABA, their placebos, and mixup, on fresh subsets."""
    aba: dict[str, Any] = {"adjustments": "all", "target": "loss"}
    arms = (
        Arm.of(VANILLA),
        Arm(TUNED, config=(("weight_decay", 0.0),)),  # of its own, so that it may be tuned
        Arm.of(ALL, **aba),
        Arm.of(MENDABA, method="mendaba", target="loss"),
        Arm.of(NOISE, placebo="gaussian", **aba),
        Arm.of(PLACEBO, placebo="permuted", **aba),
        Arm.of(MIXUP, method="mixup"),
    )
    first = FRESH_SEED
    return settings.study(
        "tasks",
        fresh(arms, SEEDS_PER_SUBSET),
        hypotheses=declared(settings.quantity, settings.planned["tasks"]),
        seeds=tuple(range(first, first + settings.seeds["tasks"])),
        tuning=Tuning(
            strengths=settings.strength["benchmark"],
            seeds=settings.seeds["tuning"],
            classes=classes(settings),
        ),
    )


def classes(settings: Settings) -> tuple[TunedClass, ...]:
    """Every arm but Vanilla, each tried with as many values."""
    strengths = settings.strength["benchmark"]
    rate, epochs = settings.config["learning_rate"], settings.config["epochs"]
    lengths = tuple(epochs * factor for factor in LENGTHS)
    others = {
        TUNED: ("learning_rate", tuple(rate * factor for factor in RATES)),
        MIXUP: ANYWHERE["mixup"],
    }
    tuned = []
    for name in (TUNED, ALL, MENDABA, NOISE, PLACEBO, MIXUP):
        field, values = others.get(name, ("strength", tuple(strengths)))
        chosen = tuple(sorted(values[: len(strengths)]))
        grid: dict[str, tuple[str | float | int, ...]] = {field: chosen, "epochs": lengths}
        tuned.append(TunedClass(name=name, arms=(name,), values=grid))
    return tuple(tuned)


def declared(quantity: str, n: int) -> tuple[Hypothesis, ...]:
    """What the study is to decide of a task that is measured so."""
    measure, margin = MARGINS[quantity]
    methods = (ALL, MENDABA)

    def of(name: str, statement: str, other: str, of: tuple[str, ...] = methods) -> Hypothesis:
        return Hypothesis(
            name=name,
            statement=statement,
            estimand=f"mean validation {measure} of {' and of '.join(of)} less that of {other}",
            comparisons=tuple(minus(arm, other) for arm in of),
            rule="any",
            margin=margin,
            n=n,
            quantity=f"validation_{quantity}",
            measure=measure,
        )

    return (
        of(
            "helps-beyond-classes",
            "ABA helps where the task is no classification, against training tuned alike.",
            TUNED,
        ),
        of(
            "beats-noise-beyond-classes",
            "There ABA beats Gaussian noise of the same norm.",
            NOISE,
        ),
        of(
            "map-matters-beyond-classes",
            "There all adjustments on real maps beat those on permuted maps.",
            PLACEBO,
            (ALL,),
        ),
        of("beats-mixup-beyond-classes", "There ABA beats mixup.", MIXUP),
        of(
            "tuning-helps-beyond-classes",
            "There tuned training beats the common one, without augmentation.",
            VANILLA,
            (TUNED,),
        ),
    )
