"""Subject: what a report card examines. Stacked models in evaluation, their data, and how to train
them anew."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from aba_core.aspects import CardSettings
from aba_core.attribution import Loss, cross_entropy
from aba_core.datasets import Split, Splits
from aba_core.replicas import Replicas
from aba_core.streams import Stream

OTHER = 500_000  # is added to the seeds of runs that are to be independent of the examined ones
BATCH = 250  # samples in a pass: what a pass remembers stays in the cache

# What an aspect measures: columns, one number a replica.
Measured = dict[str, Float[Tensor, "replica"]]


class Retrain(Protocol):
    """Trains every model anew, in the same order, on changed data, with other seeds or another
    schedule.

    observe: called after each step with the steps done, of how many, and the replicas. usual:
    without the models' methods.
    """

    def __call__(
        self,
        splits: Splits,
        offset: int = 0,
        observe: Callable[[int, int, Replicas], None] | None = None,
        schedule: str = "",
        usual: bool = False,
    ) -> Replicas: ...


@dataclass(frozen=True)
class Subject:
    """What is examined.

    replicas: in eval mode; their numbers do not depend on one another. x, y: the test samples that
    the card is about. details: what an aspect tells beyond its columns, for `Card`.
    retrain: None where there is no way to train anew. watches: whether it calls `observe`;
    schedules: whether it takes a schedule.
    """

    replicas: Replicas
    splits: Splits
    settings: CardSettings
    x: Float[Tensor, "sample *feature"]
    y: Int64[Tensor, "sample"]
    retrain: Retrain | None = None
    others: dict[str, Tensor] = field(default_factory=dict)
    loss: Loss = cross_entropy
    watches: bool = True
    schedules: bool = True
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        replicas: Replicas,
        splits: Splits,
        settings: CardSettings,
        retrain: Retrain | None = None,
        others: dict[str, Tensor] | None = None,
    ) -> Subject:
        """Raises ValueError for data without one class a sample, and for data on disk."""
        check_data(splits)
        x, y = drawn(splits.test, settings.samples, settings.seed, replicas.parameters.dtype)
        return cls(replicas, splits, settings, x, y, retrain, others or {})

    @property
    def pictures(self) -> bool:
        """Whether a sample is a picture: channels, rows, columns."""
        return self.x.dim() == 4

    def generator(self, purpose: str) -> torch.Generator:
        """Draws of one purpose, the same for every model."""
        seed = zlib.crc32(f"{purpose}/{self.settings.seed}".encode())
        return torch.Generator().manual_seed(seed)

    def normal(self, shape: Sequence[int], purpose: str) -> Tensor:
        """Standard normal numbers of one purpose, made on the CPU."""
        made = torch.randn(tuple(shape), generator=self.generator(purpose), dtype=torch.float64)
        return made.to(self.x)

    def uniform(self, shape: Sequence[int], purpose: str) -> Tensor:
        """Numbers evenly between 0 and 1 of one purpose, made on the CPU."""
        made = torch.rand(tuple(shape), generator=self.generator(purpose), dtype=torch.float64)
        return made.to(self.x)

    @torch.no_grad()
    def logits(
        self, x: Float[Tensor, "sample *feature"], replicas: Replicas | None = None
    ) -> Float[Tensor, "replica sample class_"]:
        """Logits of every replica on the same inputs."""
        replicas = replicas or self.replicas
        forward = replicas.forward(replicas.parameters.detach(), shared_inputs=True)
        return torch.cat([forward(part) for part in x.split(BATCH)], dim=1)

    @torch.no_grad()
    def own_logits(
        self, x: Float[Tensor, "replica sample *feature"]
    ) -> Float[Tensor, "replica sample class_"]:
        """Logits of every replica on inputs of its own."""
        forward = self.replicas.forward(self.replicas.parameters.detach())
        return torch.cat([forward(part.contiguous()) for part in x.split(BATCH, dim=1)], dim=1)

    def gradient(
        self,
        x: Float[Tensor, "replica sample *feature"],
        y: Tensor,
        replicas: Replicas | None = None,
    ) -> Float[Tensor, "replica sample *feature"]:
        """Gradient of each sample's loss with respect to the sample."""
        replicas = replicas or self.replicas
        forward = replicas.forward(replicas.parameters.detach())
        pieces = []
        for part, labels in zip(x.split(BATCH, dim=1), y.split(BATCH), strict=True):
            at = part.detach().clone().requires_grad_()
            losses = self.loss(forward(at), labels.expand(len(x), -1))
            pieces.append(torch.autograd.grad(losses.sum(), at)[0])
        return torch.cat(pieces, dim=1)

    def bounds(self) -> tuple[Tensor, Tensor] | None:
        """What inputs of pictures can be, a channel: the smallest and largest that training has."""
        if not self.pictures:
            return None
        x = self.splits.train.x.to(self.x.dtype)
        low = x.amin((0, 2, 3), keepdim=True)[0]
        high = x.amax((0, 2, 3), keepdim=True)[0]
        return low, high

    @cached_property
    def twin(self) -> Replicas | None:
        """The same runs with other seeds."""
        return self.retrain(self.splits, offset=OTHER) if self.retrain else None

    @cached_property
    def usual(self) -> Replicas | None:
        """Models trained without method and with other seeds."""
        return self.retrain(self.splits, offset=OTHER, usual=True) if self.retrain else None

    def absent(self, names: Iterable[str]) -> Measured:
        """Quantities that cannot be measured, as NaN."""
        missing = torch.full((len(self.replicas),), float("nan"), dtype=torch.float64)
        return {name: missing.clone() for name in names}

    def models(self) -> list[nn.Module]:
        """The replicas as ordinary modules."""
        return [self.replicas.model(number) for number in range(len(self.replicas))]


def check_data(splits: Splits) -> None:
    """Raises ValueError for data that have no report card."""
    if splits.task != "multiclass" or splits.test.y.dim() != 1:
        raise ValueError(f"a report card of {splits.task} data; allowed: one class a sample")
    if isinstance(splits.train, Stream):
        raise ValueError("a report card of data on disk; needed: splits in memory")


def drawn(split: Split, most: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """At most so many samples of a split, the same ones for every model."""
    if len(split) > most:
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
        index = order[:most].sort().values.to(split.y.device)
    else:
        index = torch.arange(len(split), device=split.y.device)
    return split.batch(index).to(dtype), split.y[index]


def relabelled(splits: Splits, y: Tensor) -> Splits:
    """The same data with other labels to train on."""
    return replace(splits, train=replace(splits.train, y=y))


def percent(correct: Tensor) -> Float[Tensor, "replica"]:
    """Share of what is true along the last axis, in percent."""
    return 100.0 * correct.double().mean(-1)
