"""Report cards as the command asks for them: which study, what it will cost, what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from aba_core.aspects import CardSettings
from aba_core.quantities import ASPECTS
from analysis import plan
from analysis.exhibits import Look
from analysis.studies import card as room
from analysis.studies import find_study
from analysis.study import Study, StudyError, settings_of

LOOK = Look("test_accuracy")


class Asked(NamedTuple):
    """Names, separated by commas, as the command takes them; None for the usual ones."""

    arms: str | None = None
    aspects: str | None = None
    others: str | None = None


def declared(
    study: str | None,
    dataset: str | None,
    preset: str | None,
    seeds: int | None,
    overrides: Sequence[str],
    asked: Asked,
) -> Study:
    """The study of cards that a command asks for: a study's own arms, or those that it names.

    Raises StudyError, one line that names the value and what is allowed.
    """
    settings = settings_of(dataset or "digits", preset or "quick")
    try:
        named = tuple(_words(asked.aspects) or ASPECTS)
        card = CardSettings(named, **{**settings.card, "others": tuple(_words(asked.others))})
    except ValueError as error:
        raise StudyError(str(error)) from error
    arms = _words(asked.arms)
    if study is not None and study != "card":
        found = find_study(study, dataset, preset, seeds, overrides)
        made = room.with_card(found, card, arms)
    else:
        if any(override.startswith("strength=") for override in overrides):
            raise StudyError("--set strength does not go with a card, whose arms are tuned")
        usual = find_study("card", dataset, preset, seeds, overrides)
        made = room.declare(settings, arms, card)
        config = {**usual.config, "card": made.config["card"]}
        changes = {"config": config, "seeds": usual.seeds, "preset": usual.preset}
        made = made.model_copy(update=changes)
    if len(made.arms) < 2:
        raise StudyError(
            f"{made.name} has one arm, {made.arms[0].name!r}; needed: Vanilla and at least one more"
        )
    return made


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def estimate(study: Study) -> str:
    """What the card will cost, in a line."""
    seconds = plan.card_cost(study)
    runs = len(study.arms) * len(study.seeds)
    each = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    total = sum(seconds.values())
    return (
        f"Estimated seconds a run by itself on one core: {each}; in all {total:.0f}, so at most "
        f"{total * runs / 60:.0f} minutes of one core for {runs} runs, less where arms train side "
        "by side."
    )


def spent(cost: pd.DataFrame) -> str:
    """What the card did cost, in a line. cost: `card.cost_table`."""
    each = ", ".join(f"{row['aspect']} {row['seconds']:.1f}" for _, row in cost.iterrows())
    return f"Seconds spent a run: {each}; in all {cost['seconds'].sum():.1f}."
