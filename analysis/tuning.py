"""Tuning: what every class of arms is tried with, and which value it keeps.

All classes have the same number of values, tried on the same seeds, which are never reported; the
training subsets that such seeds draw are not either. A class has one value for all its arms, that
with the highest mean over them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import pandas as pd

from aba_core.arms import OWN_CONFIG, Arm
from aba_core.quantities import quantity_of
from analysis.study import TUNING_SEED, Study, TunedClass, Tuning

Values = tuple[tuple[str, Any], ...]  # ((field, value), ...), what a class is tried with


def classes_of(study: Study) -> tuple[TunedClass, ...]:
    """The declared classes; without any, each arm but vanilla is one of its own."""
    assert study.tuning is not None
    return study.tuning.classes or tuple(
        TunedClass(name=arm.name, arms=(arm.name,)) for arm in study.arms if not arm.vanilla
    )


def candidates(tuning: Tuning, tuned: TunedClass) -> Iterator[Values]:
    """What a class is tried with, one after the other."""
    grid: Mapping[str, tuple[Any, ...]] = tuned.values or {"strength": tuning.strengths}
    for values in product(*grid.values()):
        yield tuple(zip(grid, values, strict=True))


def with_values(arm: Arm, values: Values) -> Arm:
    """The arm with these values of its method, or of its training."""
    own = {name: value for name, value in values if name in OWN_CONFIG}
    of_method = {name: value for name, value in values if name not in OWN_CONFIG}
    changed = arm.with_settings(**of_method) if of_method else arm
    return changed.trained_with(own) if own else changed


def candidate_name(arm: str, values: Values) -> str:
    """ "All at 0.5"; of several fields each is named."""
    if len(values) == 1:
        return f"{arm} at {_text(values[0][1])}"
    return f"{arm} at " + ", ".join(f"{name.replace('_', ' ')} {_text(v)}" for name, v in values)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def trial(study: Study) -> Study:
    """The study that tries every arm with every value of its class."""
    assert study.tuning is not None
    by_name = {arm.name: arm for arm in study.arms}
    declared = study.tuning.classes
    return study.model_copy(
        update={
            "name": f"{study.name}-tuning",
            # Without classes nothing needs to be said of them.
            "tuning": study.tuning if declared else None,
            "hypotheses": study.hypotheses if not declared else (),
            "room": "analysis.studies.tuned:responses" if declared else study.room,
            "seeds": tuple(range(TUNING_SEED, TUNING_SEED + study.tuning.seeds)),
            # Arms are tuned for their accuracy, and a card costs more than a training.
            "config": {n: value for n, value in study.config.items() if n != "card"},
            "arms": tuple(
                with_values(by_name[arm], values).renamed(candidate_name(arm, values))
                for tuned in classes_of(study)
                for arm in tuned.arms
                for values in candidates(study.tuning, tuned)
            ),
        }
    )


def response_table(study: Study, frame: pd.DataFrame, primary: str) -> pd.DataFrame:
    """What each class reaches with each value: one row a class and value, in the declared order.

    frame: runs of `trial(study)`. Columns: class, values (text), one a field, n (runs), mean of the
    arms' means, chosen: the highest mean of the class, the first in a tie. Runs that diverged count
    as the worst there is.
    """
    assert study.tuning is not None
    means = frame.fillna({primary: quantity_of(primary).low}).groupby("arm")[primary].mean()
    runs = frame.groupby("arm").size()
    rows = []
    for tuned in classes_of(study):
        of_class = []
        for values in candidates(study.tuning, tuned):
            names = [candidate_name(arm, values) for arm in tuned.arms]
            label = candidate_name("", values).removeprefix(" at ")
            row = {"class": tuned.name, "values": label, **dict(values)}
            of_class.append({**row, "n": int(runs[names].sum()), "mean": means[names].mean()})
        best = max(range(len(of_class)), key=lambda i: (of_class[i]["mean"], -i))
        rows += [{**row, "chosen": i == best} for i, row in enumerate(of_class)]
    return pd.DataFrame(rows)


def settled(study: Study, frame: pd.DataFrame, primary: str) -> Study:
    """The study with every class at its best value."""
    assert study.tuning is not None
    table = response_table(study, frame, primary)
    chosen: dict[str, Values] = {}
    for tuned in classes_of(study):
        tried = list(candidates(study.tuning, tuned))
        place = table.loc[table["class"] == tuned.name, "chosen"].to_numpy().argmax()
        chosen |= dict.fromkeys(tuned.arms, tried[place])
    arms = tuple(
        with_values(arm, chosen[arm.name]) if arm.name in chosen else arm for arm in study.arms
    )
    return study.model_copy(update={"arms": arms, "tuning": None})
