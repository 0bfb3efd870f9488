"""Lessons: small models trained when asked for, and what they make of one sample and of the 27.

For notebooks. What comes out is for `analysis.teaching` to draw and to tabulate, which needs no
torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from aba_core.adjustments import ADJUSTMENTS, AdjustmentSet
from aba_core.architecture import first_line
from aba_core.arms import Arm, TrainConfig
from aba_core.attribution import MAPS, attribute
from aba_core.card import Card, SuspectAttackWarning, card, landscape
from aba_core.datasets import DATASETS, Split, Splits, dataset_status, load_dataset
from aba_core.evaluation import frozen
from aba_core.identity import load
from aba_core.inspection import Inspection, inspect_sample
from aba_core.methods.aba import MENDABA, Augmentation
from aba_core.randomness import Draws
from aba_core.selection import Percentiles, Selection, SignSplit
from aba_core.training import Runs, train

CURVED = ("calibration", "selective", "attacks", "geometry", "memory")  # aspects that have curves
ARMS = {"Vanilla": None, "MendABA": replace(MENDABA, strength=0.5, target="loss")}


def each_alone(strength: float, split: Selection = Percentiles(0.1, 0.9)) -> list[Arm]:
    """27 arms, each with one adjustment as its only augmentation; number 0 changes nothing."""
    sets = {a.index: AdjustmentSet((a,)) for a in ADJUSTMENTS}
    return [
        Arm(f"adjustment {index}", Augmentation(alone, strength, split=split, target="loss"))
        for index, alone in sets.items()
    ]


def frozen_rows(runs: Runs, arm: str, split: Split, strength: float) -> list[dict[str, Any]]:
    """`frozen` of every model of an arm: one row per (seed, adjustment)."""
    return [
        {"seed": run["seed"], **row}
        for run in runs.rows
        if run["arm"] == arm
        for row in frozen(runs.model(arm, run["seed"]), split, [strength])
    ]


def batches(split: Split, size: int, steps: int) -> Iterator[list[torch.Tensor]]:
    """Shuffled (x, y) of a split, in whole epochs of at most so many steps, but one at least."""
    loader = DataLoader(TensorDataset(split.x, split.y), size, shuffle=True)
    for _ in range(max(1, steps // len(loader))):
        yield from loader


def accuracy(model: nn.Module, split: Split) -> float:
    """Share of samples that a model gets right, in percent."""
    with torch.no_grad():
        return 100 * (model(split.x).argmax(1) == split.y).double().mean().item()


class SmallModels:
    """Small models of one data set, and of any other that is asked for, each trained when it is
    first needed, in some seconds.

    settings: from a data set's name to the fields of its `TrainConfig`. steps: training steps of
    each model. models: how many are trained without augmentation on `dataset`; their spread gives
    intervals. own_map: an attribution method of your own that `maps` shows beside all others, as
    "my_maps:occlusion"; "" for none. Raises ValueError for one that cannot be imported.
    """

    def __init__(
        self,
        dataset: str,
        settings: Callable[[str], Mapping[str, Any]],
        steps: int,
        models: int = 1,
        own_map: str = "",
    ) -> None:
        self.dataset, self.settings, self.steps, self.models = dataset, settings, steps, models
        self.own_map = own_map
        if own_map:
            load(own_map)
        self._splits: dict[str, Splits] = {}
        self._trained: dict[tuple[str, str], nn.Module] = {}

    def splits(self, dataset: str) -> Splits:
        if dataset not in self._splits:
            self._splits[dataset] = load_dataset(dataset, self.settings(dataset)["subset"])
        return self._splits[dataset]

    @property
    def judged_on(self) -> Split:
        """Enough to judge a small model by, and quick: the first 300 pictures, or 30 texts."""
        splits = self.splits(self.dataset)
        count = 300 if splits.train.embedding is None else 30
        part = splits.validation
        return replace(part, data=part.data[:count], y=part.y[:count], index=None)

    def _train(self, dataset: str, kind: str, arm: str, seeds: Sequence[int], part: Split) -> Runs:
        splits, settings = self.splits(dataset), dict(self.settings(dataset))
        settings["model"] = kind or settings["model"]
        settings["epochs"] = self.steps * settings["batch_size"] / len(splits.train)
        splits = replace(splits, validation=part, test=part)
        return train(TrainConfig(**settings), [Arm(arm, ARMS[arm])], seeds, splits=splits)

    @cached_property
    def runs(self) -> Runs:
        """The models without augmentation, arm "Vanilla", seeds from 0."""
        return self._train(self.dataset, "", "Vanilla", range(self.models), self.judged_on)

    def summary(self) -> str:
        """What the first model is and how well it does, in a sentence."""
        accuracy = self.runs.frame()["validation_accuracy"][0]
        return (
            f"{self.settings(self.dataset)['model']} after {self.steps} steps on "
            f"{len(self.splits(self.dataset).train)} samples: accuracy {accuracy:.0f} % on "
            f"{len(self.judged_on)} validation samples."
        )

    def frozen_rows(self, strength: float) -> list[dict[str, Any]]:
        """What each adjustment does to these models: one row per (seed, adjustment)."""
        return frozen_rows(self.runs, "Vanilla", self.judged_on, strength)

    def samples(self) -> dict[str, int]:
        """Data sets of pictures that need no download, and this one: their validation samples."""
        samples = {self.dataset: len(self.splits(self.dataset).validation)}
        for status in dataset_status():
            small = status.name in DATASETS and len(status.shape) == 3
            if small and "not here" not in status.present:
                samples[status.name] = DATASETS[status.name].validation
        return samples

    def names(self) -> list[str]:
        """The models that `view` knows, as "small_cnn, MendABA"; first the one of `runs`."""
        if self.splits(self.dataset).train.embedding is not None:
            return [f"{self.settings(self.dataset)['model']}, Vanilla"]
        return [f"{kind}, {arm}" for kind in ("small_cnn", "mlp") for arm in ARMS]

    def model(self, dataset: str, name: str) -> nn.Module:
        """One of `names` on any data set."""
        if (dataset, name) == (self.dataset, self.names()[0]):
            return self.runs.model("Vanilla", 0)
        if (dataset, name) not in self._trained:
            kind, arm = name.split(", ")
            runs = self._train(dataset, kind, arm, [0], self.splits(dataset).train)
            self._trained[dataset, name] = runs.model(arm, 0)
        return self._trained[dataset, name]

    def landscapes(self) -> tuple[dict[str, Any], dict[str, landscape.Plane]]:
        """The loss around a model of each of `ARMS`, and around three without augmentation, which
        must be there: ({arm: density of the Hessian's eigenvalues}, {title: plane of weights})."""
        splits, names = self.splits(self.dataset), self.names()
        pair = {arm: self.model(self.dataset, n) for arm, n in zip(ARMS, names, strict=False)}
        found = {arm: landscape.spectrum(model, splits) for arm, model in pair.items()}
        planes = {arm: landscape.plane(model, splits) for arm, model in pair.items()}
        first, *others = (self.runs.model("Vanilla", seed) for seed in range(3))
        planes["Three runs of Vanilla"] = landscape.plane(first, splits, others)
        return {arm: landscape.density(one) for arm, one in found.items()}, planes

    def cards(self) -> dict[str, Card]:
        """The report card of a model of each of `ARMS`, by arm, of what one model has alone. Long
        attacks, which are there to raise an alarm, are left to studies."""
        splits, found = self.splits(self.dataset), {}
        for arm, name in zip(ARMS, self.names(), strict=False):
            with warnings.catch_warnings():  # the card's notes say the same
                warnings.simplefilter("ignore", SuspectAttackWarning)
                found[arm] = card(self.model(self.dataset, name), splits, aspects=CURVED,
                                  alarm=1, long_steps=20, spsa_steps=1)  # fmt: skip
        return found

    def view(self, choice: Any) -> dict[str, Any]:
        """The fields of `analysis.explorer.View` for one of its choices, as arrays.

        Raises ValueError for a sample that the data set does not have and for what
        `inspect_sample` refuses.
        """
        splits = self.splits(choice.dataset)
        samples, sample = splits.validation, choice.sample
        if sample >= len(samples):
            raise ValueError(
                f"sample is {sample}; allowed for {choice.dataset}: 0 to {len(samples) - 1}"
            )
        augmentation = Augmentation(
            choice.adjustments,
            choice.strength,
            split=SignSplit() if choice.split == "sign" else Percentiles(*choice.quantiles),
            attribution=choice.method,
            target=choice.target,
        )
        model = self.model(choice.dataset, choice.model)
        with _in_one_line(choice.method):
            inspection = inspect_sample(
                model,
                samples.batch(torch.tensor(sample)),
                samples.y[sample],
                augmentation,
                choice.magnitude,
                choice.draw,
            )
        values = {field.name: getattr(inspection, field.name) for field in fields(Inspection)}
        mean, std = splits.mean.numpy(), splits.std.numpy()
        return {
            name: value.numpy() if isinstance(value, torch.Tensor) else value
            for name, value in values.items()
        } | {
            "loss_changes": np.array(inspection.loss_changes),
            "versions": {index: x.numpy() for index, x in inspection.versions.items()},
            "label": int(samples.y[sample]),
            "class_names": splits.class_names,
            "display": (lambda x: (x * std + mean) / 255) if splits.input_shape[0] == 3 else None,
        }

    def maps(self, choice: Any) -> dict[str, np.ndarray | str]:
        """The sample's map by every method, for the choice's target, or why there is none. Nine
        more samples are the others of its batch, of which some methods make baselines."""
        samples = self.splits(choice.dataset).validation
        rows = (choice.sample + torch.arange(min(10, len(samples)))) % len(samples)
        x, y = samples.batch(rows), samples.y[rows]
        model = self.model(choice.dataset, choice.model)
        draws = Draws.single(0, choice.draw, len(x), x.device)
        found: dict[str, np.ndarray | str] = {}
        for method in (*MAPS, *[self.own_map] * bool(self.own_map)):
            try:
                with _in_one_line(method):
                    made = attribute(model, x, y, method, choice.target, draws=draws)
                found[method] = made[0].numpy()
            except ValueError as error:
                found[method] = str(error).partition(";")[0]
        return found


@contextmanager
def _in_one_line(method: str) -> Iterator[None]:
    """Whatever goes wrong in a map of somebody's own, as a ValueError of one line."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        if ":" not in method:
            raise
        raise ValueError(f"{method}: {type(error).__name__}: {first_line(error)}") from error
