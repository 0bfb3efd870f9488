"""Lagged maps in anybody's own loop: each sample's map is the gradient that its last training step
left at the batch that ABA returned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class OfBatch(NamedTuple):
    """The maps of a batch, and which of its samples have one."""

    maps: Float[Tensor, "batch *feature"]
    known: Bool[Tensor, "batch"]


@dataclass
class Kept:
    """The gradient of each sample, and whether it was ever trained on."""

    values: Float[Tensor, "row *feature"]
    known: Bool[Tensor, "row"]

    @classmethod
    def none(cls, samples: int, like: Float[Tensor, "batch *feature"]) -> Kept:
        """Of samples that were not trained on yet."""
        known = torch.zeros(samples, dtype=torch.bool, device=like.device)
        return cls(like.new_zeros(samples, *like.shape[1:]), known)


class LaggedMaps:
    """One gradient of every sample, in the type and on the device of the inputs.

    A call of `of` first keeps the `.grad` of the batch that was handed out before it.
    """

    def __init__(self) -> None:
        self.last: Kept | None = None
        self._rows = torch.empty(0, dtype=torch.int64)  # of the batch that was handed out
        self._handed_out: Tensor | None = None
        self._strange: Tensor | None = None  # whether a gradient was, on a device that waits

    def of(
        self,
        x: Float[Tensor, "batch *feature"],
        rows: Tensor | None,
        look: bool = True,
    ) -> OfBatch:
        """The maps of a batch. rows: each sample's place in the training set, [batch]. look:
        whether to look at values. Raises ValueError where the batch before has no gradient, or a
        strange one."""
        rows = self._checked(x, rows)
        self._take_in()
        if look and self._strange is not None and bool(self._strange):
            raise ValueError(
                "the gradient to a batch that was trained on held NaN or infinite values; allowed: "
                "finite numbers"
            )
        self._make_room(x, int(rows.max()) + 1)
        assert self.last is not None
        self._rows = rows.to(x.device)
        return OfBatch(self.last.values[self._rows], self.last.known[self._rows])

    def hand_out(self, batch: Float[Tensor, "batch *feature"]) -> Float[Tensor, "batch *feature"]:
        """The same batch, which will have a gradient once it was trained on."""
        self._handed_out = batch.requires_grad_()
        return batch

    def _checked(self, x: Tensor, rows: Tensor | None) -> Tensor:
        if isinstance(rows, Tensor) and rows.shape == x.shape[:1]:
            places = rows.long()
            if not (rows.is_floating_point() or rows.is_complex() or (places < 0).any()):
                return places
        given = tuple(rows.shape) if isinstance(rows, Tensor) else rows
        raise ValueError(
            f"rows is {given}; needed with lagged maps: each sample's place in the training set, "
            f"({len(x)},) whole numbers from 0"
        )

    def _take_in(self) -> None:
        trained, self._handed_out = self._handed_out, None
        if trained is None:
            return
        assert self.last is not None
        if trained.grad is None:
            raise ValueError(
                "the batch of the last call has no gradient; needed with lagged maps: "
                "loss.backward() through what ABA returned, before the next call"
            )
        strange = ~torch.isfinite(trained.grad).all()
        self._strange = strange if self._strange is None else self._strange | strange
        self.last.values.index_copy_(0, self._rows, trained.grad)
        self.last.known.index_fill_(0, self._rows, True)

    def _make_room(self, x: Tensor, samples: int) -> None:
        """For so many samples at least; twice as many as before, where there are too few."""
        last = self.last
        if last is None:
            self.last = Kept.none(samples, x)
            return
        if last.values.shape[1:] != x.shape[1:] or last.values.dtype != x.dtype:
            raise ValueError(
                f"x is {tuple(x.shape[1:])} of {x.dtype}; needed, as in the calls before: "
                f"{tuple(last.values.shape[1:])} of {last.values.dtype}"
            )
        if samples > len(last.known):
            wider = Kept.none(max(samples, 2 * len(last.known)), x)
            wider.values[: len(last.known)] = last.values
            wider.known[: len(last.known)] = last.known
            self.last = wider
