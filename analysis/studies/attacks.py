"""Attacks: whether models trained with ABA are harder to attack (claim C29), on subsets of its own.

Cards of digits were seen before anything was claimed. The study therefore draws training subsets
that no other study draws, and declares its hypotheses before them. All and its noise have one
strength, so that their changes have equal norms. Vanilla is there with the training of all other
studies, which was tuned for it, and with one tuned over a wider grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from aba_core.arms import METHODS, VANILLA, Arm
from aba_core.aspects import CardSettings
from analysis import statistics, tables
from analysis.exhibits import Collector, Exhibits, Look
from analysis.hypothesis import Contrast, Hypothesis, minus
from analysis.results import StudyResult
from analysis.studies import card, hypotheses
from analysis.studies.baselines import grid_of
from analysis.studies.hypotheses import placebo_name
from analysis.studies.tried import ALL, ANYWHERE
from analysis.study import Settings, Study, StudyError, TunedClass, Tuning
from analysis.study import on_fresh_subsets as fresh

# Subsets from here on belong to this study alone; those of all others end below.
UNSEEN_SEED = 300
TUNED, NOISE = f"{VANILLA}, tuned", placebo_name(ALL, "gaussian")
MENDABA, FGSM = METHODS["mendaba"].title, METHODS["fgsm"].title
# A point is one of the hundred samples that are attacked.
MARGIN = 1.0


def declare(settings: Settings) -> Study:
    """Vanilla twice, All, MendABA, noise and FGSM training, each run with its attacks.

    Raises StudyError for texts: what is attacked would be vectors, not words.
    """
    if settings.inputs == "texts":
        raise StudyError(
            f"attacks does not go with {settings.dataset}: a small change of word vectors is no "
            "text; allowed: pictures and tables"
        )
    field, values = ANYWHERE["fgsm"]
    strength = settings.strength["isolation"]
    arms = (
        Arm.of(VANILLA, method="vanilla"),
        Arm.of(TUNED, method="vanilla"),
        Arm.of(ALL, adjustments="all", **settings.loss),
        Arm.of(MENDABA, method="mendaba", strength=strength, top_k=settings.top_k),
        Arm.of(NOISE, adjustments="all", placebo="gaussian", **settings.loss),
        Arm.of(FGSM, method="fgsm"),
    )
    tried: dict[str, tuple[str | float | int, ...]] = {
        field: tuple(sorted(values[: len(settings.strength["benchmark"])]))
    }
    attacked = CardSettings(("attacks",), **settings.card)
    n = settings.seeds["attacks"]
    return settings.study(
        "attacks",
        fresh(arms),
        config={"card": card.as_data(attacked)},
        hypotheses=declared(settings.planned["attacks"]),
        seeds=tuple(range(UNSEEN_SEED, UNSEEN_SEED + n)),
        tuning=Tuning(
            strengths=(strength,),
            seeds=settings.seeds["tuning"],
            classes=(
                TunedClass(name=TUNED, arms=(TUNED,), values=grid_of(settings.config)),
                TunedClass(name=FGSM, arms=(FGSM,), values=tried),
            ),
        ),
        room="analysis.studies.attacks:exhibits",
    )


# --- what is claimed -----------------------------------------------------------------------------


def declared(n: int) -> tuple[Hypothesis, ...]:
    """What the study is to decide, on n subsets."""

    def than_vanilla(*trainings: str) -> tuple[Contrast, ...]:
        return tuple(minus(arm, vanilla) for arm in (ALL, MENDABA) for vanilla in trainings)

    said: list[dict[str, Any]] = [
        dict(
            name="aba-is-harder-to-attack",
            statement="All and MendABA are right more often than Vanilla under PGD-20.",
            estimand="mean test accuracy under PGD-20 of All and of MendABA less that of Vanilla "
            "and of tuned Vanilla",
            comparisons=than_vanilla(VANILLA, TUNED),
            quantity="test_pgd20_accuracy",
        ),
        dict(
            name="aba-is-harder-to-attack-in-one-step",
            statement="All and MendABA are right more often than Vanilla under FGSM.",
            estimand="mean test accuracy under FGSM of All and of MendABA less that of Vanilla "
            "and of tuned Vanilla",
            comparisons=than_vanilla(VANILLA, TUNED),
            quantity="test_fgsm_accuracy",
        ),
        dict(
            name="aba-resists-transferred-attacks",
            statement="All and MendABA are right more often than Vanilla under attacks on another "
            "Vanilla model.",
            # Tuned Vanilla has a training of its own, and so would the model that is attacked.
            estimand="mean test accuracy of All and of MendABA less that of Vanilla, under PGD-10 "
            "on a Vanilla model with other seeds, the same for all three",
            comparisons=than_vanilla(VANILLA),
            quantity="test_transfer_accuracy",
        ),
        dict(
            name="aba-resists-more-than-noise",
            statement="All is right more often under PGD-20 than Gaussian noise of the same norm.",
            estimand="mean test accuracy under PGD-20 of All less that of All as Gaussian noise",
            comparisons=(minus(ALL, NOISE),),
            quantity="test_pgd20_accuracy",
        ),
        dict(
            name="fgsm-training-resists-more",
            statement="FGSM training is right more often under PGD-20 than All and than MendABA.",
            estimand="mean test accuracy under PGD-20 of FGSM training, its radius tuned for "
            "accuracy without attack, less that of All and of MendABA",
            comparisons=tuple(minus(FGSM, arm) for arm in (ALL, MENDABA)),
            quantity="test_pgd20_accuracy",
        ),
    ]
    return tuple(Hypothesis(n=n, margin=MARGIN, **one) for one in said)


# --- what is shown -------------------------------------------------------------------------------


def alarm_table(
    runs: pd.DataFrame,
    arms: tuple[str, ...],
    rng: np.random.Generator,
    confidence: float = statistics.CONFIDENCE,
) -> pd.DataFrame:
    """Whether the attacks can be trusted: one row an arm.

    Columns: arm, n; accuracy without attack; on the alarm's few samples, accuracy under PGD-20,
    under long PGD and under SPSA (percent, means over runs); gap, SPSA less PGD-20 (points) with
    its interval over runs; failed (checks a run); suspect (runs with a failed check, percent). A
    gap below 0 says that outputs alone beat gradients, as they do where gradients are masked.
    """
    rows = []
    for arm, stream in zip(arms, rng.spawn(len(arms)), strict=True):
        part = runs[(runs["arm"] == arm) & (runs["status"] == "finished")]
        gap = (part["test_alarm_spsa_accuracy"] - part["test_alarm_pgd20_accuracy"]).dropna()
        interval = statistics.mean_interval(gap.to_numpy(), stream, confidence=confidence)
        failed = part["test_attack_suspect"]
        row: dict[str, Any] = {"arm": arm, "n": len(part), "accuracy": part["test_accuracy"].mean()}
        for name in ("pgd20", "long", "spsa"):
            row[name] = part[f"test_alarm_{name}_accuracy"].mean()
        row |= tables.with_interval("gap", interval)
        rows.append({**row, "failed": failed.mean(), "suspect": 100.0 * (failed > 0).mean()})
    return pd.DataFrame(rows)


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    """The verdicts, the part of a card that is about attacks, and the table attacks-alarm."""
    verdicts = hypotheses.exhibits(study, look, hypotheses.judge(study, look))
    shown = card.exhibits(study, look)
    collected = Collector(study, look)
    arms = tuple(arm.name for arm in study.declaration.study.arms)
    collected.table(
        "attacks-alarm",
        "Whether the attacks can be trusted",
        alarm_table(study.frame, arms, look.rng(), look.confidence),
        note="Accuracies in percent, the alarm's on a few samples; gap: SPSA less PGD-20, in "
        "points, below 0 where gradients are masked; failed: checks that failed, a run; suspect: "
        "runs with a failed check, in percent, whose accuracies under attack are upper bounds.",
        interval=collected.over_runs,
    )
    every = (verdicts, shown, collected.exhibits)
    return Exhibits(
        {name: one for part in every for name, one in part.figures.items()},
        {name: one for part in every for name, one in part.tables.items()},
    )
