"""Batches in the order of the training, read here or in worker processes.

One piece of work for a worker is one whole batch. Which samples a step takes is known beforehand
from (seed, epoch), so loading can begin at any step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aba_core.single.transforms import Transforms
from aba_core.streams import Stream


class Batch(NamedTuple):
    """Samples of one step: their rows in the split, inputs and labels, all on the CPU."""

    step: int
    rows: Int64[Tensor, " batch"]
    x: Float[Tensor, "batch *feature"]
    y: Tensor


class Samples(Dataset):
    """A split by (step, rows, place of the first row in its batch): one item is one batch.

    mean, std: the data's units, which transforms of data in memory need.
    """

    def __init__(
        self,
        split: Any,
        transforms: Transforms | None = None,
        units: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.split, self.transforms, self.units = split, transforms, units

    def __getitem__(self, key: tuple[int, list[int], int]) -> Batch:
        step, rows, first = key
        index = torch.tensor(rows, dtype=torch.int64)
        return Batch(step, index, self._inputs(step, index, first), self.split.y[index])

    def _inputs(self, step: int, index: Tensor, first: int) -> Tensor:
        if self.transforms is None:
            return self.split.batch(index)
        if isinstance(self.split, Stream):
            raw = self.split.raw(index)
            return self.split.standard(self._changed(raw, step, first))
        mean, std = self.units or (torch.zeros(()), torch.ones(()))
        raw = list(self.split.batch(index) * std + mean)
        return (torch.stack(self._changed(raw, step, first)) - mean) / std

    def _changed(self, raw: Sequence[Tensor], step: int, first: int) -> list[Tensor]:
        change = self.transforms
        assert change is not None
        return [change(picture, step, first + place) for place, picture in enumerate(raw)]


def batches(
    samples: Samples,
    keys: Iterable[tuple[int, list[int], int]],
    workers: int = 0,
    pinned: bool = False,
) -> Iterator[Batch]:
    """The batches of these keys, in their order. pinned: for copies to a GPU."""
    if not workers:
        yield from (samples[key] for key in keys)
        return
    loader: DataLoader = DataLoader(
        samples,
        sampler=keys,
        batch_size=None,
        num_workers=workers,
        pin_memory=pinned,
        worker_init_fn=_one_thread,
    )
    for step, rows, x, y in loader:
        yield Batch(int(step), rows, x, y)


def _one_thread(number: int) -> None:
    torch.set_num_threads(1)


def in_order(size: int, batch: int, first: int = 0) -> Iterator[tuple[int, list[int], int]]:
    """Keys of all samples from first to size, one after the other."""
    for number, start in enumerate(range(first, size, batch)):
        yield number, list(range(start, min(start + batch, size))), 0
