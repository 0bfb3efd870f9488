"""Frames of made-up runs, as tables take them: no training, no folder."""

import numpy as np
import pandas as pd

from aba_core.adjustments import GROUP_SETS
from analysis import reference, tables
from analysis.studies.isolation import arm_name, isolation_table
from analysis.studies.tension import hypothesis_table

TRUTH = {"Neutral": 47.0, "Delta": 42.0, "Epsilon": 54.0}
SETS = {**TRUTH, "Eps. & Neu.": 56.0, "Eps. & Del.": 57.0, "Del. & Neu.": 45.0, "All": 59.0}

COMPLETE, ONE_SEED, MISSING, DIVERGED, PUBLISHED = (
    "complete",
    "one seed",
    "missing runs",
    "diverged runs",
    "published",
)
KINDS = (COMPLETE, ONE_SEED, MISSING, DIVERGED, PUBLISHED)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def make_runs(
    means: dict[str, float], seeds: int = 5, sd: float = 1.0, seed: int = 1
) -> pd.DataFrame:
    """One finished run per (arm, seed), normal around the mean. Vanilla has no adjustments."""
    noise = rng(seed)
    rows = [
        {
            "dataset": "digits",
            "arm": arm,
            "seed": number,
            "adjustments": "" if arm == "Vanilla" else "3,4",
            "strength": 0.0 if arm == "Vanilla" else 0.1,
            "status": "finished",
            "validation_accuracy": mean + sd * noise.normal(),
            "test_accuracy": mean - 1 + sd * noise.normal(),
        }
        for arm, mean in means.items()
        for number in range(seeds)
    ]
    return pd.DataFrame(rows)


def isolation_runs(seeds: int = 5, sd: float = 1.0) -> pd.DataFrame:
    groups = tables.adjustment_table()["group"]
    return make_runs({arm_name(i): TRUTH[g] for i, g in enumerate(groups)}, seeds, sd)


def make_frozen(
    seeds: int = 4,
    arms: tuple[str, ...] = ("Vanilla",),
    strengths: tuple[float, ...] = (0.1, 0.5),
) -> pd.DataFrame:
    """A change of loss of (high − low) · strength, with noise between seeds."""
    noise, table = rng(2), tables.adjustment_table()
    return pd.DataFrame(
        [
            {"arm": arm, "seed": number, "adjustment": row["index"], "strength": strength}
            | {"loss_change": (row["high"] - row["low"]) * strength + 0.001 * noise.normal()}
            | {"accuracy": 60.0 - strength, "class_score_change": 0.0}
            for arm in arms
            for number in range(seeds)
            for row in table.to_dict("records")
            for strength in strengths
        ]
    )


def make_tables(kind: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """An isolation table and a hypothesis table of one of `KINDS`."""
    name = "20newsgroups-tiny"
    if kind == PUBLISHED:
        return reference.published_isolation_table(name), reference.published_hypothesis_table(name)
    published = reference.published_isolation_table(name)["mean"]
    seeds = 1 if kind == ONE_SEED else 5
    isolation = make_runs({arm_name(i): mean for i, mean in enumerate(published)}, seeds, 2.0)
    sets = make_runs(dict.fromkeys(GROUP_SETS, 50.0), seeds, 2.0)
    if kind == MISSING:
        isolation = isolation[~isolation["arm"].isin(["adjustment 3", "adjustment 20"])]
        sets = sets[sets["arm"] != "All"]
    if kind == DIVERGED:
        for index, accuracy in ((0, 5.0), (20, np.nan)):
            isolation.loc[index, ["status", "validation_accuracy"]] = ["diverged", accuracy]
    stream = rng()
    return isolation_table(isolation, stream), hypothesis_table(isolation, sets, stream)
