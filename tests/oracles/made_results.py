"""Results folders with made-up numbers, written through the real store: no training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aba_core.adjustments import GROUP_SETS
from aba_core.arms import Arm
from aba_core.identity import short_hash
from analysis import results as store
from analysis import tables
from analysis.studies import standard_study
from analysis.study import Study

# Near enough to what training gives: accuracies of groups, and of the benchmark's methods.
ADJUSTMENTS = tables.adjustment_table().to_dict("records")
MEANS = {"Neutral": 60.0, "Delta": 55.0, "Epsilon": 66.0}
METHODS = {
    "Vanilla": 60.0,
    "Challenger": 66.0,
    "MendABA": 68.0,
    "FastABA": 66.5,
    "FastABA-CE": 67.0,
}


def mean_of(arm: str) -> float:
    """The true accuracy of an arm of a standard study; 62 for any other."""
    if arm.startswith("adjustment "):
        index = int(arm.split()[1])
        return MEANS[ADJUSTMENTS[index]["group"]] + 0.1 * index
    groups = GROUP_SETS.get(arm)
    if groups:
        return float(np.mean([MEANS[g] for g in groups])) + 2.0 * len(groups)
    return METHODS.get(arm, 62.0)


def make_study(
    folder: Path,
    study: Study,
    *,
    mean: Callable[[str], float] = mean_of,
    sd: float = 0.8,
    missing: Sequence[tuple[str, int]] = (),
    diverged: Sequence[tuple[str, int]] = (),
) -> None:
    """Declare a study and write its runs, but the missing ones; diverged ones have no accuracy."""
    noise = np.random.default_rng(len(study.name))
    keys, rows, measured = {}, [], []
    for arm in study.arms:
        for seed in study.seeds:
            key = short_hash([study.name, study.dataset, arm.name, seed])
            keys[key] = (arm.name, seed)
            finished = (arm.name, seed) not in diverged
            common = {
                "study": study.name,
                "dataset": study.dataset,
                "subset": study.config.get("subset", "tiny"),
                "subset_seed": arm.subset_of(seed) or 0,
                "model": study.config.get("model", "small_cnn"),
                "batch_norm": bool(study.config.get("batch_norm", False)),
                "epochs": float({**study.config, **dict(arm.config)}.get("epochs", 100)),
                "arm": arm.name,
                "seed": seed,
                "strength": arm.setting("strength"),
                "target": arm.setting("target", ""),
                "seconds": 1.0,
                "step": 10,
                "passes": 10.0,
                "status": "finished" if finished else "diverged",
                "key": key,
                "finished_at": "2030-01-01T00:00:00+00:00",  # after it was declared
                "chunk": study.name,
            }
            for row in (
                _frozen(study, noise) if study.frozen else [_accuracies(noise, arm, mean, sd)]
            ):
                lost = {} if finished or study.frozen else dict.fromkeys(row, float("nan"))
                if (arm.name, seed) not in missing:
                    rows.append({**common, **row, **lost})
                    measured += [
                        {**common, **one, **dict.fromkeys(one.keys() & lost.keys(), float("nan"))}
                        for one in _measurements(study, noise, arm)
                    ]
    store.declare(folder, study, keys)
    if measured:
        store.write_chunk(folder, "mechanism", f"{study.name}-{study.dataset}", measured)
    if rows:
        store.write_chunk(
            folder, "frozen" if study.frozen else "runs", f"{study.name}-{study.dataset}", rows
        )


def _measurements(
    study: Study, noise: np.random.Generator, arm: Arm
) -> list[dict[str, float | int]]:
    """Where a study measures on the way: numbers that fall from step to step, all above 0 but a
    cosine and the first trace."""
    rows: list[dict[str, float | int]] = []
    for number in range(int(study.config.get("mechanism", 0))):
        row: dict[str, float | int] = {"step": 125 * number, "probe_samples": 25}
        row["probe_strength"] = float(study.config["probe_strength"])
        for metric in tables.MEASURES:
            row[metric] = 0.5**number * float(np.exp(0.3 * noise.normal()))
        row["cosine_epsilon_delta"] -= 0.2 * number
        if number == 0:
            row["trace_clean"] = 5 * noise.normal()
        rows.append(row)
    return rows


def _accuracies(
    noise: np.random.Generator, arm: Arm, mean: Callable[[str], float], sd: float
) -> dict[str, Any]:
    accuracy = mean(arm.name) + sd * noise.normal()
    return {
        "validation_accuracy": accuracy,
        "test_accuracy": accuracy - 1 + sd * noise.normal(),
        "train_accuracy": 100.0,
    }


def _frozen(study: Study, noise: np.random.Generator) -> list[dict[str, Any]]:
    assert study.frozen is not None
    rows = []
    shift = 0.02 * noise.normal()
    for entry in ADJUSTMENTS:
        for strength in study.frozen.strengths:
            change = (entry["high"] - entry["low"] + shift) * strength
            rows.append(
                {"adjustment": int(entry["index"]), "strength": strength}
                | {"loss": 0.4 + change, "loss_change": change}
                | {"accuracy": min(100.0, 90 - 20 * change), "accuracy_change": -20 * change}
                | {"class_score": 5 - change, "class_score_change": -change}
            )
    return rows


def standard(name: str, dataset: str = "digits", seeds: int = 5) -> Study:
    """A standard study with the given number of seeds, strengths as if tuned."""
    study = standard_study(name, dataset).model_copy(
        update={"seeds": tuple(range(seeds)), "tuning": None}
    )
    arms = [
        arm if arm.setting("strength") or arm.vanilla else arm.with_settings(strength=0.5)
        for arm in study.arms
    ]
    return study.model_copy(update={"arms": tuple(arms)})


NAMES = ("isolation", "tension", "frozen", "benchmark", "mechanism")


def make_results(
    folder: Path,
    dataset: str = "digits",
    seeds: int = 5,
    names: Sequence[str] = NAMES,
    **changes: Any,
) -> Path:
    """Standard studies on one data set. changes: see `make_study`."""
    for name in names:
        make_study(folder, standard(name, dataset, seeds), **changes)
    return folder
