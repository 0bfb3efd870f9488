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
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from aba_core.architecture import flip_bit, initial_model
from aba_core.arms import Arm, TrainConfig
from aba_core.attribution import Loss
from aba_core.checks import (
    check_build,
    check_labels,
    check_sequence,
    warn_of_emulation,
    warn_of_units,
)
from aba_core.datasets import Splits, load_dataset
from aba_core.evaluation import evaluation_batch, stacked_logits
from aba_core.identity import Use, plain
from aba_core.kernels.compiling import features
from aba_core.mechanism import Probe, measure, measured_steps
from aba_core.methods.base import Method, method_of
from aba_core.methods.decay import Best
from aba_core.models import build_model
from aba_core.precision import products_in
from aba_core.probing import probe, try_evaluation
from aba_core.randomness import batch_order, epoch_order, purpose_seeds
from aba_core.replicas import Replicas
from aba_core.runs import Runs
from aba_core.sites import StackedSite
from aba_core.steps import Recorded, Step
from aba_core.tasks import Task, task_of, used
from aba_core.threads import choose_threads, threads_restored


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
    observe: Callable[[int, int, Replicas], None] | None
    subsets: Mapping[int, Tensor] | None = None

    def places(self, members: Sequence[_Member]) -> Int64[Tensor, "replica taken"] | None:
        """Which training samples each run has; None for all of them."""
        if self.subsets is None:
            return None
        return torch.stack([self.subsets[member.seed] for member in members]).to(self.device)

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.config.dtype)

    def measure(self, logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What the task measures, by name, for each replica."""
        return self.task.measure(logits, y, self.loss, self.config.metrics)


@dataclass(frozen=True)
class _Member:
    """One run: its arm, the arm's method and the run's seed."""

    arm: Arm
    method: Method | None
    seed: int

    @cached_property
    def seeds(self) -> dict[str, int]:
        """One seed a purpose."""
        more = self.method.names_of_purposes() if self.method else ()
        return purpose_seeds(self.seed + self.arm.seed_offset, dict(self.arm.held), more)


# Fifteen arguments: what is trained, then what of your own takes a standard part's place.
def train(
    config: TrainConfig,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    device: str = "cpu",
    *,
    splits: Splits | None = None,
    subsets: Mapping[int, Int64[Tensor, "sample"]] | None = None,
    study: str = "",
    build: Callable[[], nn.Module] | None = None,
    loss: Loss | None = None,
    keep_logits: bool = False,
    graphs: bool = False,
    progress: Callable[[int], None] | None = None,
    observe: Callable[[int, int, Replicas], None] | None = None,
    checkpoints: Mapping[tuple[str, int], Path] | None = None,
    watch: Callable[[dict[str, Any]], None] | None = None,
) -> Runs:
    """Train every arm with every seed, side by side where their structure allows.

    splits: data in place of `load_dataset(config.dataset, config.subset)`; subsets: by seed, the
    training samples that its runs have, by their places, equally many; build: a freshly initialised
    model in place of `build_model(config.model, ...)`; loss: one number a sample, in
    place of that of the data's task. keep_logits: keep validation logits in `Runs.logits`. graphs:
    record the step as a CUDA graph and replay it (CUDA only). progress: called with the number of
    model-steps just done; observe: with steps done, of how many, and what trains side by side.
    checkpoints, watch: of trainer "single", where {(arm, seed): file} keeps each run's checkpoints,
    and what sees its metrics at the steps of `curve_every`.
    A run whose loss ceased to be finite has status "diverged" and NaN metrics; the others are
    untouched by it. On a CPU the number of PyTorch's threads, which can change the last bits of
    results, is chosen by timing a few steps (`threads`), and restored. Raises ValueError for
    repeated arm names or seeds, a batch larger than the training set, and whatever the parts
    refuse.
    """
    members = _members(config, arms, seeds, subsets)
    if splits is None:
        splits = load_splits(config)
    elif not isinstance(splits, Splits):
        raise ValueError(
            f"splits is a {type(splits).__name__}; needed: Splits, as splits_from(x, y)"
        )
    elif splits.train.embedding is None and any(member.method for member in members):
        warn_of_units(splits.train.batch(torch.arange(min(256, len(splits.train)))))
    samples = len(splits.train) if subsets is None else len(subsets[members[0].seed])
    _check_device(config, samples, device, graphs)
    task = task_of(splits.task)
    task.check_metrics(config.metrics)
    for member in members:
        task.check_targets(member.arm.name, member.method)
        if graphs:
            _check_recorded(member)
    build = builder(config, splits) if build is None else build
    check_build(build)
    check_labels(splits, loss or task.loss)
    single = config.single is not None  # whose batches move to the device one by one
    splits = splits if single else splits.to(device)
    setting = _Setting(
        config, splits, build, task, loss or task.loss, device, study,
        keep_logits, graphs, progress, observe, subsets,
    )  # fmt: skip
    runs = Runs(task=splits.task, majority=_uneven(splits))
    if single:
        from aba_core.single.training import train_members

        train_members(setting, members, runs, checkpoints, watch)
    for group in () if single else _alike(members):
        with threads_restored():
            _train_group(setting, group, runs)
    place = {(member.arm.name, member.seed): number for number, member in enumerate(members)}

    def declared(row: dict[str, Any]) -> int:
        return place[row["arm"], row["seed"]]

    runs.rows.sort(key=declared)
    for rows in (runs.curve_rows, runs.mechanism_rows):
        rows.sort(key=lambda row: (row["step"], declared(row)))
    return runs


def _check_recorded(member: _Member) -> None:
    """Raises ValueError for a method that a CUDA graph cannot hold."""
    if member.method is not None and member.method.varies:
        raise ValueError(
            f"graphs is True; arm {member.arm.name!r} changes from step to step, which a "
            "recording cannot; allowed: False"
        )


def _uneven(splits: Splits) -> dict[str, float]:
    """The most frequent class's share of validation and test, in percent, where it is half as large
    again as even classes would have it."""
    shares = {part: splits.majority(part) for part in ("validation", "test")}
    return {
        part: share
        for part, share in shares.items()
        if share is not None and share > 150 / splits.classes
    }


def _check_device(config: TrainConfig, samples: int, device: str, graphs: bool) -> None:
    """Raises ValueError for what so many samples, or a device, do not have."""
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}; known: cpu, cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} is not available here; allowed here: cpu")
    if config.batch_size > samples:
        raise ValueError(
            f"batch_size is {config.batch_size}; allowed: up to the {samples} training samples"
        )
    if config.precision == "tf32" and kind != "cuda":
        raise ValueError(
            f"precision is 'tf32', which {device!r} does not have; allowed: full, bf16"
        )
    if config.precision == "bf16" and kind == "cpu":
        warn_of_emulation(features())
    if graphs and kind != "cuda":
        raise ValueError(f"graphs is True on {device!r}; allowed: on CUDA only")


def _members(
    config: TrainConfig,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    subsets: Mapping[int, Tensor] | None,
) -> list[_Member]:
    """Every run that is asked for. Raises ValueError for what can be known to be wrong before
    anything is read."""
    if not isinstance(config, TrainConfig):
        raise ValueError(f"config is {config!r}; needed: a TrainConfig, as TrainConfig('digits')")
    check_sequence("arms", arms, "[Arm('vanilla')]")
    check_sequence("seeds", seeds, f"[{seeds}] or range({seeds})")
    other = next((arm for arm in arms if not isinstance(arm, Arm)), None)
    if other is not None:
        raise ValueError(
            f"an arm is {other!r}; needed: an Arm, as Arm.of('MendABA', method='mendaba')"
        )
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
        _ = member.seeds  # refuses unknown purposes
    for arm in arms:
        if arm.trained_by(config) != config:
            raise ValueError(
                f"arm {arm.name!r} has a training of its own ({dict(arm.config)}); give that "
                "config, or let `aba run` do it"
            )
    if subsets is not None:
        _check_subsets(config, seeds, subsets)
        return members
    for arm, seed in ((arm, seed) for arm in arms for seed in seeds):
        if arm.subset_of(seed) not in (None, config.subset_seed):
            raise ValueError(
                f"arm {arm.name!r} draws its training samples by the run's seed; train the seeds "
                f"of one subset at a time, with that subset_seed ({arm.subset_of(seed)} for seed "
                f"{seed}), or let `aba run` do it"
            )
    return members


def _check_subsets(
    config: TrainConfig, seeds: Sequence[int], subsets: Mapping[int, Tensor]
) -> None:
    """Raises ValueError for subsets that do not fit the seeds or one another."""
    lacking = [seed for seed in seeds if seed not in subsets]
    if lacking:
        raise ValueError(f"subsets has none for seed {lacking[0]}; needed: one for each seed")
    sizes = sorted({len(subsets[seed]) for seed in seeds})
    if len(sizes) > 1:
        raise ValueError(f"subsets have {sizes[0]} to {sizes[-1]} samples; needed: equally many")
    if config.mechanism:
        raise ValueError("subsets are given; mechanism is measured on one training set: leave it")


def _method_of(arm: Arm) -> Method | None:
    try:
        return method_of(arm.method)
    except ValueError as error:
        raise ValueError(f"arm {arm.name!r}: {error}") from error


def load_splits(config: TrainConfig) -> Splits:
    """The data that a configuration names. Raises ValueError (DatasetError) where they cannot be
    had, and where a function of your own gives no `Splits`."""
    if not isinstance(config.dataset, Use):
        return load_dataset(
            config.dataset, str(config.subset), subset_seed=config.subset_seed, tokens=config.tokens
        )
    given = used(
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
        used,
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


def _train_group(setting: _Setting, members: Sequence[_Member], runs: Runs) -> None:
    """Train runs whose methods share their structure side by side."""
    started = time.perf_counter()
    config, splits = setting.config, setting.splits
    replicas, setting = _started(setting, members)
    seeds = {
        name: torch.tensor([[member.seeds[name]] for member in members], device=setting.device)
        for name in members[0].seeds
    }
    step = _step(setting, members, replicas, seeds)
    take_step = Recorded(step) if setting.graphs else step
    probed_on = None
    if config.mechanism:
        probed_on = Probe.of(
            [member.method for member in members], seeds["probe"], splits.train, setting.dtype,
            config.probe_strength, setting.loss,
        )  # fmt: skip

    samples, batch = step.samples, config.batch_size
    steps = config.steps(samples)
    measured = measured_steps(config.mechanism, steps)
    epoch_orders = lru_cache(maxsize=2)(
        lambda epoch: epoch_order(seeds["order"][:, 0], epoch, samples)
    )

    def rehearsal() -> Step:
        other = _step(setting, members, replicas.copy(), seeds)
        other.set(0, batch_order(epoch_orders, 0, batch, samples))
        return other

    def look(number: int) -> None:
        if probed_on is not None:
            take_step.release()
            with products_in("full", setting.device):
                metrics = measure(replicas, probed_on, setting.loss)
            _record(runs.mechanism_rows, members, setting, number, metrics)

    every = members[0].method.looks_every if members[0].method else 0
    best = Best([replicas.parameters, *replicas.buffers.values()])
    choose_threads(rehearsal, setting.device)
    for number in range(steps):
        if number in measured:
            look(number)
        step.set(number, batch_order(epoch_orders, number, batch, samples))
        take_step()
        if every and ((number + 1) % every == 0 or number + 1 == steps):
            take_step.release()
            best.look(_validation_loss(replicas, setting))
        if config.curve_every and (number + 1) % config.curve_every == 0 and number + 1 < steps:
            take_step.release()
            metrics, *_ = _metrics(replicas, setting, step.places)
            _record(runs.curve_rows, members, setting, number + 1, metrics)
        if setting.progress is not None:
            setting.progress(len(members))
        if setting.observe is not None:
            setting.observe(number + 1, steps, replicas)
    best.restore()
    take_step.release()  # metrics need the memory
    look(steps)
    _finish(setting, members, runs, step, steps, started)


def _started(setting: _Setting, members: Sequence[_Member]) -> tuple[Replicas, _Setting]:
    """Freshly initialised replicas, tried out; and the setting with the loss fit for them."""
    models = []
    for member in members:
        model = initial_model(setting.build, member.seeds["initialisation"], setting.dtype)
        if member.method is not None:
            model = member.method.architecture(model)
        if member.arm.flip_bit:
            flip_bit(model, member.seeds["bit"])
        models.append(model)
    config, splits = setting.config, setting.splits
    replicas = Replicas.stack(
        models, setting.device, [member.seeds["dropout"] for member in members]
    )
    first = torch.arange(config.batch_size, device=setting.device)
    x, y = splits.train.batch(first), splits.train.y[first]
    loss = probe(replicas, x, y, splits.classes, setting.loss)
    setting = replace(setting, loss=loss)
    try_evaluation(replicas, splits.validation, setting.measure, config.batch_size)
    if setting.graphs and replicas.habits.draws:
        raise ValueError(
            "graphs is True; the model draws from PyTorch's generator, which a "
            "recording cannot; allowed: False"
        )
    return replicas, setting


def _step(
    setting: _Setting,
    members: Sequence[_Member],
    replicas: Replicas,
    seeds: dict[str, Tensor],
) -> Step:
    """The step of a group: its methods as one, and the replicas cut where it acts."""
    config, device = setting.config, setting.device
    rates = [member.arm.learning_rate or config.learning_rate for member in members]
    learning_rate = torch.tensor(rates, device=device, dtype=setting.dtype)[:, None]
    methods = [member.method for member in members if member.method is not None]
    train, method = setting.splits.train, None
    sites: dict[str, StackedSite] = {}
    if methods:
        untrained = replicas.copy() if methods[0].needs_untrained else None
        method = type(methods[0]).stack(methods, device, setting.dtype).fitted(replicas.template)
        outputs = setting.splits.classes
        sites = {
            place: StackedSite(replicas, place, setting.loss, outputs, untrained)
            for place in dict.fromkeys((method.site, *method.places()))
        }
    site = sites[method.site] if method else None
    return Step(
        config, replicas, method, site, setting.loss, train, seeds, learning_rate, sites,
        setting.places(members),
    )  # fmt: skip


def _finish(
    setting: _Setting,
    members: Sequence[_Member],
    runs: Runs,
    step: Step,
    steps: int,
    started: float,
) -> None:
    """Metrics of the last step, and what is kept of each run."""
    replicas = step.replicas
    metrics, logits, correct = _metrics(replicas, setting, step.places)
    finite = step.finite & torch.isfinite(replicas.parameters).all(1)
    for name in ("validation_loss", "test_loss", "train_loss"):
        finite &= torch.isfinite(metrics[name])
    for values in metrics.values():
        values[~finite] = float("nan")
    if setting.config.curve_every:
        _record(runs.curve_rows, members, setting, steps, metrics)
    share = (time.perf_counter() - started) / len(members)
    extra: dict[str, list] = {
        "passes": [_whole(steps * (m.method.passes() if m.method else 1)) for m in members],
        "seconds": [share] * len(members),
        "status": ["finished" if good else "diverged" for good in finite.tolist()],
    }
    if setting.config.card is not None:
        from aba_core.card import columns  # which trains as well

        extra |= columns(setting, members, replicas)
    _record(runs.rows, members, setting, steps, metrics, extra)
    for number, (member, row) in enumerate(zip(members, runs.rows[-len(members) :], strict=True)):
        if member.method is not None and finite[number]:
            row |= member.method.measured(
                replicas.model(number), setting.config, setting.splits, member.seed
            )
        runs._models[member.arm.name, member.seed] = partial(replicas.model, number)
        if setting.keep_logits:
            runs.logits[member.arm.name, member.seed] = logits[number].cpu()
        runs.correct[member.arm.name, member.seed] = {
            split: hits[number].cpu() for split, hits in correct.items()
        }


def _whole(number: float) -> float:
    """Whole numbers as such: passes are counted where they can be."""
    return int(number) if float(number).is_integer() else number


def _metrics(
    replicas: Replicas, setting: _Setting, places: Int64[Tensor, "replica taken"] | None
) -> tuple[
    dict[str, Tensor],
    Float[Tensor, "replica sample class_"],
    dict[str, Bool[Tensor, "replica sample"]],
]:
    """What the task measures on every split, the validation logits, and which samples of validation
    and test are classified correctly, where each has one class."""
    metrics: dict[str, Tensor] = {}
    correct: dict[str, Tensor] = {}
    kept: list[Tensor] = []
    # Whatever the training's precision is: on CUDA, PyTorch's own is lower.
    full = products_in("full", setting.device)
    with full, replicas.undisturbed("eval") as evaluated:
        forward = evaluated.forward(replicas.parameters.detach(), shared_inputs=True)
        batch = evaluation_batch(len(replicas), setting.device)
        for name in ("validation", "test", "train"):
            split = getattr(setting.splits, name)
            logits = stacked_logits(forward, split, replicas.parameters.dtype, batch)
            kept += [logits] if name == "validation" else []
            if places is not None and name == "train":
                values = _each_on_its_own(logits, split.y, places, setting)
            else:
                values = setting.measure(logits, split.y)
            metrics |= {f"{name}_{quantity}": value for quantity, value in values.items()}
            if setting.task.name == "multiclass" and split.y.dim() == 1 and name != "train":
                correct[name] = logits.argmax(-1) == split.y
    return metrics, kept[0], correct


def _each_on_its_own(
    logits: Float[Tensor, "replica sample class_"],
    y: Tensor,
    places: Int64[Tensor, "replica taken"],
    setting: _Setting,
) -> dict[str, Float[Tensor, "replica"]]:
    """What the task measures, of each replica on its own samples."""
    measured = [
        setting.measure(own[chosen][None], y[chosen])
        for own, chosen in zip(logits, places, strict=True)
    ]
    return {name: torch.cat([one[name] for one in measured]) for name in measured[0]}


def _validation_loss(replicas: Replicas, setting: _Setting) -> Float[Tensor, "replica"]:
    split = setting.splits.validation
    with products_in("full", setting.device), replicas.undisturbed("eval") as evaluated:
        forward = evaluated.forward(replicas.parameters.detach(), shared_inputs=True)
        batch = evaluation_batch(len(replicas), setting.device)
        logits = stacked_logits(forward, split, replicas.parameters.dtype, batch)
    return setting.loss(logits, split.y.expand(len(logits), *split.y.shape)).double().mean(1)


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
        if setting.subsets is not None:
            row["subset"] = f"{len(setting.subsets[member.seed])} of {len(splits.train)}"
            row["subset_seed"] = member.seed
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
