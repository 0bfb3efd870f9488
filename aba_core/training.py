"""Training: R replicas, one per (arm, seed), by one loop.

    draws → method: (tail, h, y, draws) → (h, labels) → loss → optimiser → metrics

A method is the seam for everything that changes inputs, labels, activations or gradients
(`aba_core.methods.base`). Arms whose methods have the same structure train side by side; the loop
itself knows none of them.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import groupby
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from aba_core.arms import Arm, TrainConfig
from aba_core.attribution import Loss
from aba_core.datasets import Splits, load_dataset
from aba_core.evaluation import stacked_logits
from aba_core.identity import Use, plain
from aba_core.mechanism import Probe, measure, measured_steps
from aba_core.methods.base import Method, method_of
from aba_core.models import build_model
from aba_core.randomness import batch_order, epoch_order, purpose_seeds, random_bits
from aba_core.replicas import Replicas
from aba_core.sites import StackedSite
from aba_core.steps import Recorded, Step
from aba_core.tasks import Task, own, task_of


@dataclass
class Runs:
    """What a training left: metrics, curves and the trained models."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    curve_rows: list[dict[str, Any]] = field(default_factory=list)
    mechanism_rows: list[dict[str, Any]] = field(default_factory=list)
    logits: dict[tuple[str, int], Float[Tensor, "sample class_"]] = field(default_factory=dict)
    _models: dict[tuple[str, int], Callable[[], nn.Module]] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """One row per (arm, seed) with the metrics of the final step; accuracies in percent.

        Columns that only some methods have come last."""
        frame = pd.DataFrame(self.rows)
        common = [str(name) for name in frame if all(name in row for row in self.rows)]
        return frame[[*common, *sorted({str(name) for name in frame} - set(common))]]

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


@dataclass(frozen=True)
class _Setting:
    """What all groups of a training share."""

    config: TrainConfig
    splits: Splits
    build: Callable[[], nn.Module]
    task: Task
    loss: Loss
    device: str
    study: str
    keep_logits: bool
    graphs: bool
    progress: Callable[[int], None] | None

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.config.dtype)


@dataclass(frozen=True)
class _Member:
    """One run: its arm, the arm's method and the run's seed."""

    arm: Arm
    method: Method | None
    seed: int

    @property
    def seeds(self) -> dict[str, int]:
        """One seed a purpose."""
        more = self.method.names_of_purposes() if self.method else ()
        return purpose_seeds(self.seed + self.arm.seed_offset, dict(self.arm.held), more)


# Ten arguments: what is trained, then what of one's own takes a standard part's place.
def train(
    config: TrainConfig,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    device: str = "cpu",
    *,
    splits: Splits | None = None,
    study: str = "",
    build: Callable[[], nn.Module] | None = None,
    loss: Loss | None = None,
    keep_logits: bool = False,
    graphs: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Runs:
    """Train every arm with every seed, side by side where their structure allows.

    splits: data in place of `load_dataset(config.dataset, config.subset)`; build: a freshly
    initialised model in place of `build_model(config.model, ...)`; loss: one number a sample, in
    place of that of the data's task. keep_logits: keep validation logits in `Runs.logits`. graphs:
    record the step as a CUDA graph and replay it (CUDA only). progress: called with the number of
    model-steps just done.
    A run whose loss ceased to be finite has status "diverged" and NaN metrics; the others are
    untouched by it. Raises ValueError for repeated arm names or seeds, a batch larger than the
    training set, and whatever the parts refuse.
    """
    names = [arm.name for arm in arms]
    for what, values in (("arm name", Counter(names)), ("seed", Counter(map(str, seeds)))):
        repeated = [value for value, times in values.items() if times > 1]
        if repeated:
            raise ValueError(f"{what} {repeated[0]!r} is repeated")
        if not values:
            raise ValueError(f"nothing to train: no {what}s")
    members = [
        _Member(arm, method, seed)
        for arm, method in [(arm, _method_of(arm)) for arm in arms]
        for seed in seeds
    ]
    for member in members:
        _ = member.seeds  # refuses unknown purposes before anything is read
    if splits is None:
        splits = load_splits(config)
    if config.batch_size > len(splits.train):
        raise ValueError(
            f"batch_size is {config.batch_size}; allowed: up to the {len(splits.train)} "
            "training samples"
        )
    if config.precision == "tf32" and torch.device(device).type != "cuda":
        raise ValueError(
            f"precision is 'tf32', which {device!r} does not have; allowed: full, bf16"
        )
    if graphs and torch.device(device).type != "cuda":
        raise ValueError(f"graphs is True on {device!r}; allowed: on CUDA only")
    task = task_of(splits.task)
    task.check_metrics(config.metrics)
    splits = splits.to(device)
    setting = _Setting(
        config, splits, build or builder(config, splits), task, loss or task.loss, device, study,
        keep_logits, graphs, progress,
    )  # fmt: skip
    runs = Runs()
    for group in _alike(members):
        _train_group(setting, group, runs)
    place = {(member.arm.name, member.seed): number for number, member in enumerate(members)}

    def declared(row: dict[str, Any]) -> int:
        return place[row["arm"], row["seed"]]

    runs.rows.sort(key=declared)
    for rows in (runs.curve_rows, runs.mechanism_rows):
        rows.sort(key=lambda row: (row["step"], declared(row)))
    return runs


def _method_of(arm: Arm) -> Method | None:
    try:
        return method_of(arm.method)
    except ValueError as error:
        raise ValueError(f"arm {arm.name!r}: {error}") from error


def load_splits(config: TrainConfig) -> Splits:
    """The data that a configuration names. Raises ValueError (DatasetError) where they cannot be
    had, and where a function of one's own gives no `Splits`."""
    if not isinstance(config.dataset, Use):
        return load_dataset(
            config.dataset, config.subset, subset_seed=config.subset_seed, tokens=config.tokens
        )
    given = own(
        config.dataset, subset=config.subset, subset_seed=config.subset_seed, tokens=config.tokens
    )
    if not isinstance(given, Splits):
        raise ValueError(
            f"{config.dataset} gave a {type(given).__name__}; needed: Splits, as splits_from makes"
        )
    return given


def builder(config: TrainConfig, splits: Splits) -> Callable[[], nn.Module]:
    """What builds the model that a configuration names, for the shapes of the data."""
    if not isinstance(config.model, Use):
        return partial(
            build_model, config.model, splits.input_shape, splits.classes, config.batch_norm
        )
    return partial(
        own,
        config.model,
        input_shape=splits.input_shape,
        classes=splits.classes,
        batch_norm=config.batch_norm,
    )


def _alike(members: Sequence[_Member]) -> Iterator[list[_Member]]:
    """Runs that may train side by side: those whose methods share their structure."""

    def structure(member: _Member) -> str:
        return member.method.structure if member.method else ""

    for _, group in groupby(sorted(members, key=structure), key=structure):
        yield list(group)


def initial_model(build: Callable[[], nn.Module], seed: int, dtype: torch.dtype) -> nn.Module:
    """A model initialised from its seed alone, on the CPU: the same whatever trains it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().to(dtype)


def flip_bit(model: nn.Module, seed: int) -> None:
    """Change the last bit of one weight in place, drawn among those that are not 0.

    The smallest change that a model can suffer. Source: Summers and Dinneen, "Nondeterminism and
    instability in neural network optimization" (2021).
    """
    with torch.no_grad():
        weights = torch.cat([value.flatten() for value in model.parameters()])
        candidates = weights.nonzero()[:, 0]
        zero = torch.zeros((), dtype=torch.int64)
        place = int(candidates[random_bits(torch.tensor(seed), "bit", 0, zero) % len(candidates)])
        integers = {torch.float32: torch.int32, torch.float64: torch.int64}[weights.dtype]
        for value in model.parameters():
            if place < value.numel():
                value.view(integers).view(-1)[place] ^= 1
                return
            place -= value.numel()


def _train_group(setting: _Setting, members: Sequence[_Member], runs: Runs) -> None:
    started = time.perf_counter()
    config, splits, device = setting.config, setting.splits, setting.device
    seeds_of = [member.seeds for member in members]
    models = [initial_model(setting.build, s["initialisation"], setting.dtype) for s in seeds_of]
    for model, seeds_of_run, member in zip(models, seeds_of, members, strict=True):
        if member.arm.flip_bit:
            flip_bit(model, seeds_of_run["bit"])
    replicas = Replicas.stack(models, device)
    seeds = {
        name: torch.tensor([[one[name]] for one in seeds_of], device=device) for name in seeds_of[0]
    }
    method, site = _stacked(setting, members, replicas)
    rates = [member.arm.learning_rate or config.learning_rate for member in members]
    learning_rate = torch.tensor(rates, device=device, dtype=setting.dtype)[:, None]
    step = Step(config, replicas, method, site, setting.loss, splits.train, seeds, learning_rate)
    take_step = Recorded(step) if setting.graphs else step

    samples, batch = len(splits.train), config.batch_size
    steps = config.steps(samples)
    epoch_orders = lru_cache(maxsize=2)(
        lambda epoch: epoch_order(seeds["order"][:, 0], epoch, samples)
    )
    probe = None
    if config.mechanism:
        probe = Probe.of(
            [member.method for member in members], seeds["probe"], splits.train, setting.dtype,
            config.probe_strength, setting.loss,
        )  # fmt: skip
    measured = measured_steps(config.mechanism, steps)

    for number in range(steps):
        if probe is not None and number in measured:
            _record(
                runs.mechanism_rows,
                members,
                setting,
                number,
                measure(replicas, probe, setting.loss),
            )
        step.set(number, batch_order(epoch_orders, number, batch, samples))
        take_step()
        if config.curve_every and (number + 1) % config.curve_every == 0 and number + 1 < steps:
            metrics, _ = _metrics(replicas, setting)
            _record(runs.curve_rows, members, setting, number + 1, metrics)
        if setting.progress is not None:
            setting.progress(len(members))

    if probe is not None:
        _record(
            runs.mechanism_rows, members, setting, steps, measure(replicas, probe, setting.loss)
        )
    metrics, logits = _metrics(replicas, setting)
    finite = step.finite & torch.isfinite(replicas.parameters).all(1)
    for name in ("validation_loss", "test_loss", "train_loss"):
        finite &= torch.isfinite(metrics[name])
    for values in metrics.values():
        values[~finite] = float("nan")
    if config.curve_every:
        _record(runs.curve_rows, members, setting, steps, metrics)
    share = (time.perf_counter() - started) / len(members)
    extra: dict[str, list] = {
        "passes": [_whole(steps * (m.method.passes() if m.method else 1)) for m in members],
        "seconds": [share] * len(members),
        "status": ["finished" if good else "diverged" for good in finite.tolist()],
    }
    _record(runs.rows, members, setting, steps, metrics, extra)
    for number, member in enumerate(members):
        runs._models[member.arm.name, member.seed] = partial(replicas.model, number)
        if setting.keep_logits:
            runs.logits[member.arm.name, member.seed] = logits[number].cpu()


def _whole(number: float) -> float:
    """Whole numbers as such: passes are counted where they can be."""
    return int(number) if float(number).is_integer() else number


def _stacked(
    setting: _Setting, members: Sequence[_Member], replicas: Replicas
) -> tuple[Method | None, StackedSite | None]:
    """The methods of a group as one, and the replicas cut where it acts."""
    methods = [member.method for member in members if member.method is not None]
    if not methods:
        return None, None
    untrained = replicas.copy() if methods[0].needs_untrained else None
    parameters = replicas.parameters
    stacked = type(methods[0]).stack(methods, parameters.device, parameters.dtype)
    outputs = setting.splits.classes
    return stacked, StackedSite(replicas, stacked.site, setting.loss, outputs, untrained)


def _metrics(
    replicas: Replicas, setting: _Setting
) -> tuple[dict[str, Tensor], Float[Tensor, "replica sample class_"]]:
    """What the task measures on every split, and the validation logits."""
    metrics: dict[str, Tensor] = {}
    kept = torch.empty(0)
    with replicas.mode(training=False):
        forward = replicas.forward(replicas.parameters.detach(), shared_inputs=True)
        for name in ("validation", "test", "train"):
            split = getattr(setting.splits, name)
            logits = stacked_logits(forward, split, replicas.parameters.dtype)
            kept = logits if name == "validation" else kept
            values = setting.task.measure(logits, split.y, setting.loss, setting.config.metrics)
            metrics |= {f"{name}_{quantity}": value for quantity, value in values.items()}
    return metrics, kept


def _record(
    table: list[dict[str, Any]],
    members: Sequence[_Member],
    setting: _Setting,
    step: int,
    metrics: dict[str, Tensor],
    extra: Mapping[str, list] | None = None,
) -> None:
    columns = {**{name: values.tolist() for name, values in metrics.items()}, **(extra or {})}
    splits = setting.splits
    shared = {"study": setting.study, **setting.config.row()}
    shared |= {"dataset": splits.name, "subset": splits.subset, "embedding": splits.embedding}
    for number, member in enumerate(members):
        row = {**shared, **describe(member.arm, member.method), "seed": member.seed, "step": step}
        if member.arm.learning_rate is not None:
            row["learning_rate"] = member.arm.learning_rate
        row |= {name: values[number] for name, values in columns.items()}
        further = member.method.columns() if member.method else {}
        # A method's field that is called as a column is already takes nothing from it.
        table.append(row | {name: further[name] for name in sorted(further) if name not in row})


def describe(arm: Arm, method: Method | None) -> dict[str, Any]:
    """An arm's columns in a table of runs: two arms that differ have columns that differ.

    method: the arm's, resolved. Its fields are columns; "" and 0 stand for ABA's where there is
    none.
    """
    content = {name: value for name, value in plain(arm).items() if name not in ("name", "method")}
    absent = {
        "adjustments": "", "strength": 0.0, "randomize": False, "split": "", "attribution": "",
        "target": "", "top_k": 0, "placebo": "",
    }  # fmt: skip
    fields = method.columns() if method else {}
    return {
        "arm": arm.name,
        "method": method.kind if method else "",
        **{name: fields.get(name, value) for name, value in absent.items()},
        "flip_bit": arm.flip_bit,
        "seed_offset": arm.seed_offset,
        "held": ", ".join(f"{purpose} {seed}" for purpose, seed in arm.held),
        "definition": json.dumps({**content, "method": plain(method)}, sort_keys=True),
    }
