"""Training: R replicas, one per (arm, seed), by one loop.

    draws → method: (model, x, y, draws) → (x, labels) → loss → optimiser → metrics

A method is the seam for everything that changes inputs or labels; ABA is one. Arms whose methods
have the same structure train side by side; the loop itself knows none of them.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from itertools import groupby
from typing import Any, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from aba_core.architecture import flip_bit, initial_model
from aba_core.attribution import Loss, cross_entropy
from aba_core.augmentation import Augmentation, StackedABA
from aba_core.checks import check_build, check_labels, check_sequence
from aba_core.datasets import Splits, load_dataset
from aba_core.evaluation import accuracy_and_loss, stacked_logits
from aba_core.mechanism import Probe, measure, measured_steps
from aba_core.models import build_model
from aba_core.probing import probe, try_evaluation
from aba_core.randomness import (
    PURPOSES,
    batch_order,
    epoch_order,
    purpose_seeds,
)
from aba_core.replicas import Replicas
from aba_core.steps import Recorded, ReplicaMethod, Step
from aba_core.threads import choose_threads, threads_restored

Optimizer = Literal["sgd", "adam"]
Schedule = Literal["constant", "step", "cosine"]
Precision = Literal["full", "bf16", "tf32"]


@dataclass(frozen=True)
class TrainConfig:
    """What all replicas of a training share.

    epochs may be fractional; a run has round(epochs · samples / batch_size) steps, at least 1.
    schedule: "step" divides the learning rate by 10 at half and again at three quarters of the
    steps, "cosine" brings it to 0. curve_every: metrics also every so many steps (0: only final).
    tokens: texts are cut to their first so many (0: all).
    mechanism: at how many evenly spaced steps gradients and curvature are measured, the first
    before the first step, the last after the last one (0: never; see `aba_core.mechanism`).
    probe_strength: of the adjustments that arms without augmentation are measured with.
    dtype: "float32", or "float64" for comparisons. precision of products and convolutions while
    training: "full", that of dtype; "bf16", 8 bits of fraction (autocast; parameters, optimiser and
    metrics stay in dtype); "tf32", 10 bits, on CUDA only. benchmarks/README.md has the effect.
    """

    dataset: str = "digits"
    subset: str = "tiny"
    model: str = "small_cnn"
    batch_norm: bool = False
    epochs: float = 100
    batch_size: int = 50
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    subset_seed: int = 0
    tokens: int = 0
    curve_every: int = 0
    dtype: Literal["float32", "float64"] = "float32"
    precision: Precision = "full"
    mechanism: int = 0
    probe_strength: float = 0.5

    def __post_init__(self) -> None:
        for name, allowed in (
            ("optimizer", get_args(Optimizer)),
            ("schedule", get_args(Schedule)),
            ("dtype", ("float32", "float64")),
            ("precision", get_args(Precision)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}; known: {', '.join(allowed)}"
                )
        for name, low, strict in (
            ("epochs", 0, True),
            ("learning_rate", 0, True),
            ("momentum", 0, False),
            ("weight_decay", 0, False),
            ("probe_strength", 0, False),
        ):
            value = getattr(self, name)
            if not math.isfinite(value) or value < low or (strict and value == low):
                raise ValueError(
                    f"{name} is {value!r}; allowed: finite numbers "
                    f"{'above' if strict else 'not below'} {low}"
                )
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size!r}; allowed: whole numbers from 1")
        if not isinstance(self.curve_every, int) or self.curve_every < 0:
            raise ValueError(f"curve_every is {self.curve_every!r}; allowed: 0 or more steps")
        if not isinstance(self.mechanism, int) or self.mechanism < 0:
            raise ValueError(f"mechanism is {self.mechanism!r}; allowed: whole numbers from 0")

    def steps(self, samples: int) -> int:
        """Number of optimiser steps on a training set of so many samples."""
        return max(1, round(self.epochs * samples / self.batch_size))

    def learning_rate_factor(self, step: int, steps: int) -> float:
        """What the schedule multiplies the learning rate by at a step."""
        if self.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * step / steps))
        if self.schedule == "step":
            return 0.1 ** ((step >= 0.5 * steps) + (step >= 0.75 * steps))
        return 1.0


@dataclass(frozen=True)
class Arm:
    """One training condition.

    augmentation: None for vanilla training. learning_rate: in place of the config's.
    held: purposes of randomness (see `randomness.PURPOSES`) held at a seed in all runs of the arm,
    as (("initialisation", 0),); the others follow the run's seed plus seed_offset. flip_bit: change
    the last bit of one weight, drawn by purpose "bit", before training: the smallest change there
    is.
    """

    name: str
    augmentation: Augmentation | None = None
    learning_rate: float | None = None
    held: tuple[tuple[str, int], ...] = ()
    flip_bit: bool = False
    seed_offset: int = 0

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("an arm needs a name")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate!r}; allowed: finite, above 0")
        object.__setattr__(self, "held", tuple((name, int(seed)) for name, seed in self.held))
        purpose_seeds(self.seed_offset, dict(self.held))  # refuses unknown purposes

    def describe(self) -> dict[str, object]:
        """The arm's columns in a table of runs."""
        aug = self.augmentation
        if aug is None:
            return {
                "arm": self.name, "adjustments": "", "strength": 0.0, "randomize": False,
                "split": "", "attribution": "", "target": "", "top_k": 0, "placebo": "",
                "flip_bit": self.flip_bit,
            }  # fmt: skip
        return {
            "arm": self.name,
            "adjustments": aug.adjustments.text,
            "strength": aug.strength,
            "randomize": aug.randomize,
            "split": str(aug.split),
            "attribution": aug.attribution,
            "target": aug.target,
            "top_k": aug.top_k if aug.target == "class_score" else 0,
            "placebo": aug.placebo,
            "flip_bit": self.flip_bit,
        }

    @property
    def passes(self) -> int:
        """Forward-and-backward passes through the model per training step."""
        if self.augmentation is None or self.augmentation.placebo in ("random", "gaussian"):
            return 1
        maps = self.augmentation.maps
        single = maps.method in ("gradient", "gradient_x_input")
        return 2 if single else 2 + maps.samples


@dataclass
class Runs:
    """What a training left: metrics, curves and the trained models."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    curve_rows: list[dict[str, Any]] = field(default_factory=list)
    mechanism_rows: list[dict[str, Any]] = field(default_factory=list)
    logits: dict[tuple[str, int], Float[Tensor, "sample class_"]] = field(default_factory=dict)
    _models: dict[tuple[str, int], Callable[[], nn.Module]] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """One row per (arm, seed) with the metrics of the final step; accuracies in percent."""
        return pd.DataFrame(self.rows)

    def curves(self) -> pd.DataFrame:
        """One row per (arm, seed, step) at the steps chosen by `curve_every`."""
        return pd.DataFrame(self.curve_rows)

    def mechanism(self) -> pd.DataFrame:
        """One row per (arm, seed, step) at the steps chosen by `TrainConfig.mechanism`, with the
        metrics of `mechanism.measure`."""
        return pd.DataFrame(self.mechanism_rows)

    def model(self, arm: str, seed: int) -> nn.Module:
        """The trained model of one run, in eval mode."""
        if (arm, seed) not in self._models:
            known = ", ".join(sorted({name for name, _ in self._models}))
            raise KeyError(f"no run of arm {arm!r} with seed {seed}; arms: {known}")
        return self._models[arm, seed]()


def train(
    config: TrainConfig,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    device: str = "cpu",
    *,
    splits: Splits | None = None,
    study: str = "",
    build: Callable[[], nn.Module] | None = None,
    loss: Loss = cross_entropy,
    keep_logits: bool = False,
    graphs: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Runs:
    """Train every arm with every seed, side by side where their structure allows.

    splits: data in place of `load_dataset(config.dataset, config.subset)`; build: a freshly
    initialised model in place of `build_model(config.model, ...)`. keep_logits: keep validation
    logits in `Runs.logits`. graphs: record the step as a CUDA graph and replay it
    (CUDA only). progress: called with the number of model-steps just done.
    A run whose loss ceased to be finite has status "diverged" and NaN metrics; the others are
    untouched by it. On a CPU the number of PyTorch's threads, which can change the last bits of
    results, is chosen by timing a few steps (`threads`), and restored. Raises ValueError for
    repeated arm names or seeds, a batch larger than the training set, and whatever the parts
    refuse.
    """
    check_sequence("arms", arms, "[Arm('vanilla')]")
    check_sequence("seeds", seeds, f"[{seeds}] or range({seeds})")
    names = [arm.name for arm in arms]
    for what, values in (("arm name", Counter(names)), ("seed", Counter(map(str, seeds)))):
        repeated = [value for value, times in values.items() if times > 1]
        if repeated:
            raise ValueError(f"{what} {repeated[0]!r} is repeated")
        if not values:
            raise ValueError(f"nothing to train: no {what}s")
    dtype = getattr(torch, config.dtype)
    if splits is None:
        splits = load_dataset(
            config.dataset, config.subset, subset_seed=config.subset_seed, tokens=config.tokens
        )
    if config.batch_size > len(splits.train):
        raise ValueError(
            f"batch_size is {config.batch_size}; allowed: up to the {len(splits.train)} "
            "training samples"
        )
    if build is None:
        build = partial(
            build_model, config.model, splits.input_shape, splits.classes, config.batch_norm
        )
    check_build(build)
    check_labels(splits, loss)
    if config.precision == "tf32" and torch.device(device).type != "cuda":
        raise ValueError(
            f"precision is 'tf32', which {device!r} does not have; allowed: full, bf16"
        )
    if graphs and torch.device(device).type != "cuda":
        raise ValueError(f"graphs is True on {device!r}; allowed: on CUDA only")
    splits = splits.to(device)
    runs = Runs()
    members = [(arm, seed) for arm in arms for seed in seeds]
    for group in _alike(members):
        with threads_restored():
            _train_group(
                config, group, splits, build, loss, device, dtype, runs, study, keep_logits, graphs,
                progress,
            )  # fmt: skip
    place = {(arm.name, seed): number for number, (arm, seed) in enumerate(members)}

    def declared(row: dict[str, Any]) -> int:
        return place[row["arm"], row["seed"]]

    runs.rows.sort(key=declared)
    for rows in (runs.curve_rows, runs.mechanism_rows):
        rows.sort(key=lambda row: (row["step"], declared(row)))
    for row in runs.rows + runs.curve_rows + runs.mechanism_rows:
        row.update(dataset=splits.name, subset=splits.subset, embedding=splits.embedding)
    return runs


def _alike(members: Sequence[tuple[Arm, int]]) -> Iterator[list[tuple[Arm, int]]]:
    """Runs that may train side by side: those whose augmentations share their structure."""

    def structure(member: tuple[Arm, int]) -> tuple[str, str]:
        augmentation = member[0].augmentation
        if augmentation is None:
            return "", ""
        return repr(augmentation.structure), augmentation.placebo

    for _, group in groupby(sorted(members, key=structure), key=structure):
        yield list(group)


def _train_group(
    config: TrainConfig,
    members: Sequence[tuple[Arm, int]],
    splits: Splits,
    build: Callable[[], nn.Module],
    loss: Loss,
    device: str,
    dtype: torch.dtype,
    runs: Runs,
    study: str,
    keep_logits: bool,
    graphs: bool,
    progress: Callable[[int], None] | None,
) -> None:
    started = time.perf_counter()
    seeds_of = [purpose_seeds(seed + arm.seed_offset, dict(arm.held)) for arm, seed in members]
    models = [initial_model(build, seeds["initialisation"], dtype) for seeds in seeds_of]
    for model, own, (arm, _) in zip(models, seeds_of, members, strict=True):
        if arm.flip_bit:
            flip_bit(model, own["bit"])
    replicas = Replicas.stack(models, device, [own["dropout"] for own in seeds_of])
    first = torch.arange(config.batch_size, device=device)
    loss = probe(replicas, splits.train.batch(first), splits.train.y[first], splits.classes, loss)
    try_evaluation(replicas, splits.validation, loss, config.batch_size)
    if graphs and replicas.habits.draws:
        raise ValueError(
            "graphs is True; the model draws from PyTorch's generator, which a "
            "recording cannot; allowed: False"
        )
    seeds = {
        name: torch.tensor([[one[name]] for one in seeds_of], device=device) for name in PURPOSES
    }
    method = _method(members, replicas, loss)
    rates = [arm.learning_rate or config.learning_rate for arm, _ in members]
    learning_rate = torch.tensor(rates, device=device, dtype=dtype)[:, None]
    step = Step(config, replicas, method, loss, splits.train, seeds, learning_rate)
    take_step = Recorded(step) if graphs else step

    samples, batch = len(splits.train), config.batch_size
    steps = config.steps(samples)
    epoch_orders = lru_cache(maxsize=2)(
        lambda epoch: epoch_order(seeds["order"][:, 0], epoch, samples)
    )

    def rehearsal() -> Step:
        copied = replicas.copy()
        other = Step(config, copied, method, loss, splits.train, seeds, learning_rate)
        other.set(0, batch_order(epoch_orders, 0, batch, samples))
        return other

    choose_threads(rehearsal, device)
    probed_on = None
    if config.mechanism:
        probed = [arm.augmentation for arm, _ in members]
        strength = config.probe_strength
        probed_on = Probe.of(probed, seeds["probe"], splits.train, dtype, strength, loss)
    measured = measured_steps(config.mechanism, steps)

    for number in range(steps):
        if probed_on is not None and number in measured:
            found = measure(replicas, probed_on, loss)
            _record(runs.mechanism_rows, members, config, study, number, found)
        step.set(number, batch_order(epoch_orders, number, batch, samples))
        take_step()
        if config.curve_every and (number + 1) % config.curve_every == 0 and number + 1 < steps:
            metrics, _ = _metrics(replicas, splits, loss)
            _record(runs.curve_rows, members, config, study, number + 1, metrics)
        if progress is not None:
            progress(len(members))

    finite = step.finite
    if probed_on is not None:
        found = measure(replicas, probed_on, loss)
        _record(runs.mechanism_rows, members, config, study, steps, found)
    metrics, logits = _metrics(replicas, splits, loss)
    finite &= torch.isfinite(replicas.parameters).all(1)
    for name in ("validation_loss", "test_loss", "train_loss"):
        finite &= torch.isfinite(metrics[name])
    for values in metrics.values():
        values[~finite] = float("nan")
    if config.curve_every:
        _record(runs.curve_rows, members, config, study, steps, metrics)
    share = (time.perf_counter() - started) / len(members)
    extra: dict[str, list] = {
        "passes": [steps * arm.passes for arm, _ in members],
        "seconds": [share] * len(members),
        "status": ["finished" if good else "diverged" for good in finite.tolist()],
    }
    _record(runs.rows, members, config, study, steps, metrics, extra)
    for number, (arm, seed) in enumerate(members):
        runs._models[arm.name, seed] = partial(replicas.model, number)
        if keep_logits:
            runs.logits[arm.name, seed] = logits[number].cpu()


def _method(
    members: Sequence[tuple[Arm, int]], replicas: Replicas, loss: Loss
) -> ReplicaMethod | None:
    augmentations = [arm.augmentation for arm, _ in members if arm.augmentation is not None]
    if not augmentations:
        return None
    untrained = replicas.copy() if augmentations[0].placebo == "untrained" else None
    parameters = replicas.parameters
    return StackedABA.of(augmentations, parameters.device, parameters.dtype, loss, untrained)


def _metrics(
    replicas: Replicas, splits: Splits, loss: Loss
) -> tuple[dict[str, Tensor], Float[Tensor, "replica sample class_"]]:
    """Accuracy and loss on every split, and the validation logits."""
    metrics: dict[str, Tensor] = {}
    kept = torch.empty(0)
    with replicas.undisturbed("eval") as evaluated:
        forward = evaluated.forward(replicas.parameters.detach(), shared_inputs=True)
        for name, split in (
            ("validation", splits.validation),
            ("test", splits.test),
            ("train", splits.train),
        ):
            logits = stacked_logits(forward, split, replicas.parameters.dtype)
            kept = logits if name == "validation" else kept
            metrics[f"{name}_accuracy"], metrics[f"{name}_loss"] = accuracy_and_loss(
                logits, split.y, loss
            )
    return metrics, kept


def _record(
    table: list[dict[str, Any]],
    members: Sequence[tuple[Arm, int]],
    config: TrainConfig,
    study: str,
    step: int,
    metrics: dict[str, Tensor],
    extra: Mapping[str, list] | None = None,
) -> None:
    columns = {**{name: values.tolist() for name, values in metrics.items()}, **(extra or {})}
    shared = {"study": study, **asdict(config)}
    for number, (arm, seed) in enumerate(members):
        row = {**shared, **arm.describe(), "seed": seed, "step": step}
        if arm.learning_rate is not None:
            row["learning_rate"] = arm.learning_rate
        table.append(row | {name: values[number] for name, values in columns.items()})
