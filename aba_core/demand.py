"""What a training demands of a GPU, predicted without one: bytes and seconds, for each replica.

A step and an evaluation are run on PyTorch's meta device, which has shapes and no values, with two
replicas and with five, while every operation is counted: bytes that are held at once, bytes read
and written, floating-point operations. What the two counts share is needed once, the rest by each
replica. Products in bf16 count as full precision: their memory is an upper bound.

On a GPU none of this has been tried. `analysis.gpu` corrects the seconds by those of the chunks
that it has trained.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aba_core.arms import Arm, Precision, TrainConfig
from aba_core.datasets import Splits
from aba_core.evaluation import AT_ONCE, evaluation_batch
from aba_core.replicas import Replicas
from aba_core.steps import Step

GRAIN = 512  # bytes; PyTorch's allocator rounds up to so many
# Share of what an allocator holds that lies between tensors; none was measured.
FRAGMENTS = 1.1
COUNTED = (2, 5)  # replicas
SAMPLE_BATCH = 32  # samples of the evaluation that is counted


class Counter(TorchDispatchMode):
    """Counts what is done inside: `peak` bytes held at once of tensors made inside, bytes `moved`
    and `flops` of products and convolutions, and the number of `operations`."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = self.operations = 0
        self.moved = self.flops = 0.0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        storages = {id(leaf.untyped_storage()) for leaf in given}
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for tensor in made:
            storage = tensor.untyped_storage()
            if id(storage) not in storages and id(storage) not in self._known:
                self._hold(storage)
        if (
            any(id(tensor.untyped_storage()) not in storages for tensor in made)
            or func._schema.is_mutable
        ):
            self.operations += 1
            self.moved += sum(tensor.numel() * tensor.element_size() for tensor in (*given, *made))
            self.flops += _flops(func.overloadpacket.__name__, args, made)
        return result

    def _hold(self, storage: Any) -> None:
        size, key = math.ceil(storage.nbytes() / GRAIN) * GRAIN, id(storage)
        self._known.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)

        def released() -> None:
            self.held -= size
            self._known.discard(key)

        weakref.finalize(storage, released)


def _flops(name: str, args: Sequence[Any], made: Sequence[Tensor]) -> float:
    """Of one operation; 0 for one that is no product."""
    if name in ("mm", "bmm"):
        return 2.0 * made[0].numel() * args[0].shape[-1]
    if name in ("addmm", "baddbmm"):
        return 2.0 * made[0].numel() * args[1].shape[-1]
    if name == "convolution":
        return 2.0 * made[0].numel() * args[1].shape[1:].numel()
    if name == "convolution_backward":
        wanted = sum(map(bool, args[-1][:2]))
        return 2.0 * wanted * args[0].numel() * args[2].shape[1:].numel()
    return 0.0


@dataclass(frozen=True)
class Share:
    """An amount that is needed once, and one for each replica."""

    once: float
    each: float

    def of(self, replicas: int) -> float:
        return self.once + self.each * replicas

    @classmethod
    def between(cls, few: float, many: float) -> Share:
        """From two counts, with `COUNTED` replicas."""
        each = max(0.0, (many - few) / (COUNTED[1] - COUNTED[0]))
        return cls(max(0.0, few - each * COUNTED[0]), each)


@dataclass(frozen=True)
class Work:
    """What one call does. held: bytes at once beyond what stays. moved: bytes. operations: a
    number that hardly depends on the replicas."""

    held: Share
    moved: Share
    flops: Share
    operations: float


@dataclass(frozen=True)
class Rates:
    """What a device does in a second, as far as this toolkit's work can expect. launch: seconds an
    operation takes at least, started from Python; replayed: in a recorded step."""

    bandwidth: float
    flops: dict[Precision, float]
    launch: float = 15e-6
    replayed: float = 2e-6


# A third of the peaks that such cards reach in large products, and two thirds of their bandwidth.
RATES = {
    "H200": Rates(2.9e12, {"full": 17e12, "tf32": 130e12, "bf16": 260e12}),
    "H100": Rates(2.0e12, {"full": 17e12, "tf32": 130e12, "bf16": 260e12}),
    "A100": Rates(1.0e12, {"full": 6e12, "tf32": 50e12, "bf16": 100e12}),
}
UNKNOWN = Rates(0.2e12, {"full": 3e12, "tf32": 6e12, "bf16": 12e12})


def rates_of(device: str) -> Rates:
    """By the name that the driver gives the device."""
    return next((rates for name, rates in RATES.items() if name in device), UNKNOWN)


@dataclass(frozen=True)
class Demand:
    """Of a training: what stays all along, a step, and the evaluation of a `SAMPLE_BATCH` of
    samples. steps: of one run. samples: of all splits. logits: bytes of one replica's on the
    largest. precision: of the products."""

    stays: Share
    step: Work
    evaluation: Work
    steps: int
    samples: int
    logits: float
    precision: Precision

    def evaluating(self, replicas: int) -> float:
        """Bytes that an evaluation holds beyond what stays."""
        batch = min(evaluation_batch(replicas, "cuda"), self.samples) / SAMPLE_BATCH
        return 2 * self.logits * replicas + batch * self.evaluation.held.of(replicas)

    def memory(self, replicas: int) -> float:
        """Bytes at the fullest moment. A recorded step holds as much as an ordinary one, and is
        given back before the evaluation."""
        passing = max(self.step.held.of(replicas), self.evaluating(replicas))
        return FRAGMENTS * (self.stays.of(replicas) + passing)

    def seconds(self, replicas: int, rates: Rates, graphs: bool) -> float:
        """Of the whole training."""
        once, each = self.seconds_shared(rates, graphs)
        return once + each * replicas

    def seconds_shared(self, rates: Rates, graphs: bool) -> tuple[float, float]:
        """(once, for each replica) of the whole training. Without other kernels on the device, an
        operation takes its launch at least, however small it is."""

        def of(work: Work, launch: float) -> tuple[float, float]:
            speed = rates.flops[self.precision]
            by_bytes, by_flops = work.moved.each / rates.bandwidth, work.flops.each / speed
            return launch * work.operations, max(by_bytes, by_flops)

        step = of(self.step, rates.replayed if graphs else rates.launch)
        evaluation = of(self.evaluation, rates.launch)
        batches = self.samples / SAMPLE_BATCH
        return (
            self.steps * step[0] + evaluation[0] * self.samples / AT_ONCE,
            self.steps * step[1] + batches * evaluation[1],
        )

    def fitting(self, free: float) -> int:
        """How many replicas fit into so many bytes together; at least 1."""
        low, high = 1, 2**20
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.memory(middle) <= free else (low, middle - 1)
        return low

    def within(self, limit: float, rates: Rates, graphs: bool) -> int:
        """How many replicas train together within so many seconds; at least 1. Where a single one
        takes longer, as many as double its time: starting its operations is what takes it."""
        once, each = self.seconds_shared(rates, graphs)
        spare = limit - once if once + each <= limit else once
        return max(1, int(spare / max(each, 1e-12)))


def meta_step(config: TrainConfig, arm: Arm, splits: Splits, replicas: int) -> Step:
    """The step that `train` would take on a GPU with so many replicas of an arm, on the meta
    device, where it has been called once: what is kept from the first step on is there."""
    from aba_core import training

    members = training._members(config, [arm], [0], None)
    task = training.task_of(splits.task)
    setting = training._Setting(
        config, splits, training.builder(config, splits), task, task.loss, "cpu", "", False,
        False, None, None,
    )  # fmt: skip
    one, setting = training._started(setting, members)
    setting = replace(setting, device="meta", splits=splits.to("meta"))
    members = list(members) * replicas
    seeds = {
        name: torch.zeros(replicas, 1, dtype=torch.int64, device="meta")
        for name in members[0].seeds
    }
    step = training._step(setting, members, on_meta(one, replicas), seeds)
    step.set(0, torch.zeros(replicas, config.batch_size, dtype=torch.int64, device="meta"))
    step()
    return step


def on_meta(one: Replicas, replicas: int) -> Replicas:
    """So many replicas like the first of these, without values."""

    def stacked(values: Tensor) -> Tensor:
        return torch.empty(replicas, *values.shape[1:], dtype=values.dtype, device="meta")

    return Replicas(
        one.template.to("meta"),
        stacked(one.parameters),
        {name: stacked(buffer) for name, buffer in one.buffers.items()},
        one.together,
        {name: stacked(mask) for name, mask in one.masks.items()},
        one.habits,
    )


def count(step: Step, splits: Splits) -> tuple[Counter, Counter, float]:
    """Counts of a step on the meta device and of an evaluation of `SAMPLE_BATCH` samples, and the
    bytes that stay."""
    with Counter() as stepping:
        step()
    replicas, parts = step.replicas, splits.to("meta")
    seen = torch.zeros(SAMPLE_BATCH, dtype=torch.int64, device="meta")
    with Counter() as evaluating, torch.no_grad(), replicas.undisturbed("eval") as evaluated:
        forward = evaluated.forward(replicas.parameters, shared_inputs=True)
        logits = forward(parts.validation.batch(seen).to(replicas.parameters.dtype))
        del logits
    last = () if step._last is None else step._last.kept.values()
    kept = (replicas.parameters, *replicas.buffers.values(), *step._moments, *last)
    data = [part.data for part in (parts.train, parts.validation, parts.test)]
    data += [] if parts.train.embedding is None else [parts.train.embedding]
    stays = sum(value.numel() * value.element_size() for value in (*kept, *data))
    return stepping, evaluating, float(stays)


def demand_of(config: TrainConfig, arm: Arm, splits: Splits) -> Demand:
    """What a training of this arm demands, by counting a step of a few replicas and of more."""
    plain = replace(config, precision="full", mechanism=0)
    few, many = (count(meta_step(plain, arm, splits, n), splits) for n in COUNTED)

    def work(at: int) -> Work:
        less, more = few[at], many[at]
        assert isinstance(less, Counter) and isinstance(more, Counter)
        return Work(
            Share.between(less.peak, more.peak),
            Share.between(less.moved, more.moved),
            Share.between(less.flops, more.flops),
            more.operations,
        )

    sizes = [len(part) for part in (splits.train, splits.validation, splits.test)]
    number = 8 if config.dtype == "float64" else 4
    return Demand(
        Share.between(few[2], many[2]),
        work(0),
        work(1),
        config.steps(sizes[0]),
        sum(sizes),
        float(number * max(sizes) * splits.classes),
        config.precision,
    )
