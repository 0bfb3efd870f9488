"""Baselines: training without augmentation as published and tuned, with two models, and what
augmentation gains over each where it is tuned alike."""

from __future__ import annotations

from typing import Any

from aba_core.arms import VANILLA, Arm
from analysis.hypothesis import Contrast, Hypothesis, minus
from analysis.studies.hypotheses import placebo_name
from analysis.study import FRESH_SEED, Settings, Study, TunedClass, Tuning
from analysis.study import on_fresh_subsets as fresh

NOISE = placebo_name("All", "gaussian")
METHODS = (VANILLA, "All", NOISE)
LARGER = "larger CNN"


def declare(settings: Settings) -> Study:
    """Three methods with the training of all other studies, with a tuned one, and with a tuned one
    of a larger model; every tuned arm is tried with the same trainings."""
    models = {"tuned": {}, **({f"{LARGER}, tuned": {"model": "larger_cnn"}} if settings.pictures
                              else {})}  # fmt: skip
    given: dict[str, dict[str, Any]] = {
        VANILLA: {"method": "vanilla"},
        "All": {"adjustments": "all", **settings.loss},
        NOISE: {"adjustments": "all", "placebo": "gaussian", **settings.loss},
    }
    arms = [Arm.of(name, **given[name]) for name in METHODS]
    arms += [
        Arm.of(f"{name}, {title}", config=config, **given[name])
        for title, config in models.items()
        for name in METHODS
    ]
    n = settings.seeds["baselines"]
    grid = grid_of(settings.config)
    return settings.study(
        "baselines",
        fresh(arms),
        hypotheses=_declared(list(models), settings.planned["hypotheses"]),
        seeds=tuple(range(FRESH_SEED, FRESH_SEED + n)),
        tuning=Tuning(
            strengths=(settings.strength["isolation"],),
            seeds=settings.seeds["tuning"],
            classes=tuple(
                TunedClass(name=arm.name, arms=(arm.name,), values=grid)
                for arm in arms[len(METHODS) :]
            ),
        ),
    )


def grid_of(config: dict[str, Any]) -> dict[str, tuple[str | float | int, ...]]:
    """What is tried: around the training of all other studies, by factors."""
    rate, epochs = config["learning_rate"], config["epochs"]
    return {
        "learning_rate": tuple(float(f"{rate * factor:.3g}") for factor in (0.2, 0.5, 1.0, 2.0)),
        "weight_decay": (0.0, 0.0005, 0.005),
        "epochs": (epochs, 2 * epochs),
    }


def _declared(trainings: list[str], n: int) -> tuple[Hypothesis, ...]:
    def gains(of: str) -> tuple[Contrast, ...]:
        return tuple(
            minus(f"{of}, {title}", f"{VANILLA}, {title}", f"{title}: {of} − {VANILLA}")
            for title in trainings
        )

    better = f"{VANILLA}, {trainings[0]}"
    return (
        Hypothesis(
            name="tuning-helps",
            statement="Tuning the training improves training without augmentation.",
            estimand="mean accuracy of Vanilla with its own training less that with the common one",
            comparisons=tuple(minus(f"{VANILLA}, {title}", VANILLA) for title in trainings),
            rule="any",
            n=n,
        ),
        Hypothesis(
            name="augmentation-beats-tuned-vanilla",
            statement="All adjustments with the common training beat Vanilla with a tuned one.",
            estimand="mean accuracy of All less that of tuned Vanilla, same model",
            comparisons=(minus("All", better),),
            n=n,
        ),
        Hypothesis(
            name="augmentation-helps-where-both-are-tuned",
            statement="All adjustments help where both trainings are tuned alike.",
            estimand="mean accuracy of tuned All less that of tuned Vanilla, for each model",
            comparisons=gains("All"),
            n=n,
        ),
        Hypothesis(
            name="noise-helps-where-both-are-tuned",
            statement="Gaussian noise of the same norm helps where both trainings are tuned alike.",
            estimand="mean accuracy of tuned noise less that of tuned Vanilla, for each model",
            comparisons=gains(NOISE),
            n=n,
        ),
    )
