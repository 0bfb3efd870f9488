"""Several processes, one model: what `torchrun` says, and sums over all ranks.

Each rank takes a contiguous slice of every batch. Draws go by place in the whole batch, so that a
sample is changed alike however many ranks there are. Without `torchrun` there is one rank.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Ranks:
    """This process's number, and how many there are."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def slice(self, size: int) -> slice:
        """This rank's share of so many samples: contiguous, as even as can be."""
        return slice(size * self.rank // self.count, size * (self.rank + 1) // self.count)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def everywhere(self, values: Iterable[Tensor]) -> None:
        """The first rank's values on all, in place."""
        for value in values if self.count > 1 else ():
            distributed.broadcast(value, 0)

    def joined(self, rows: Tensor, size: int) -> Tensor:
        """All ranks' slices, one after the other, on every rank. rows: this rank's, of so many in
        all."""
        if self.count == 1:
            return rows
        whole = rows.new_zeros(size, *rows.shape[1:])
        whole[self.slice(size)] = rows
        distributed.all_reduce(whole)
        return whole

    def same(self, value: Any) -> Any:
        """The first rank's value on all: any picklable thing."""
        if self.count == 1:
            return value
        held = [value]
        distributed.broadcast_object_list(held, 0)
        return held[0]


def leave() -> None:
    """End the group once all ranks are here, while the interpreter still runs.

    A precaution: a rank once aborted at its exit on a busy machine, and why was not found. The
    first rank keeps the store that others ask, so it must not go before them."""
    if distributed.is_initialized():
        distributed.barrier()
        _end()


def _end() -> None:
    """At exit, of a rank that never left, as after an error: it does not wait for the others."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


@cache
def ranks(device: str) -> Ranks:
    """The ranks of this process, which joins the others at the first call.

    With NCCL on CUDA, where each process takes the GPU that LOCAL_RANK says; otherwise with gloo.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Ranks()
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if cuda else "gloo")
        atexit.register(_end)
    return Ranks(distributed.get_rank(), distributed.get_world_size())
