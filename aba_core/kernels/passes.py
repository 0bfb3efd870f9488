"""Whole passes of a chain in one call of C each: forward, back, or both with cross-entropy between
them, for all replicas.

`chain` decides where they apply; what they cannot do, it does layer by layer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from aba_core.kernels import loaded
from aba_core.kernels.blocks import NUMBERS, Block
from aba_core.kernels.near import Near
from aba_core.kernels.texts import Branches

_BLOCK, _LINEAR, _RELU, _FLATTEN, _READ = range(5)  # kinds of steps, as chain.c has them
_NO_CLASS = 3
_WHY = {1: "no memory", 2: "a picture has more than 2³¹ numbers"}

Flat = Float[Tensor, "replica parameter"]
Inputs = Float[Tensor, "replica batch *feature"]


@dataclass
class Program:
    """A chain's steps as C reads them, for inputs [*feature] of one shape. outputs: how many logits
    it gives. A pass of one that reads texts may leave sums for another, or begin at them (`near`).
    """

    steps: tuple[int, ...]
    count: int
    outputs: int
    reads: bool = False
    _sizes: dict[tuple[int, ...], ctypes.Array[ctypes.c_int64]] = field(default_factory=dict)

    def forward(
        self, flat: Flat, x: Inputs, returning: bool, near: Near | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits, and what the way back needs where there is to be one."""
        sizes = self._sizes_of(flat, x)
        logits = x.new_empty(*x.shape[:2], self.outputs)
        kept = None
        if returning:
            count = getattr(_library(), f"chain_keeps_{NUMBERS[x.dtype]}")(sizes)
            kept = x.new_empty(len(x), count)
        self._call_near(near, sizes, x, flat, kept, logits, None, None, None, None, None)
        return logits, kept

    def backward(
        self, flat: Flat, x: Inputs, kept: Tensor, slopes: Tensor, asked: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients to parameters and inputs, each where it is asked for. slopes: of the logits."""
        to_flat, to_x = (
            torch.empty_like(value, memory_format=torch.contiguous_format) if wish else None
            for value, wish in zip((flat, x), asked, strict=True)
        )
        sizes = self._sizes_of(flat, x)
        self._call(sizes, x, flat, kept, None, slopes.contiguous(), None, None, to_flat, to_x)
        return to_flat, to_x

    def slopes(
        self,
        flat: Flat,
        x: Inputs,
        labels: Int64[Tensor, "replica batch"],
        divisor: int,
        asked: Sequence[bool],
        to_x: Tensor | None = None,
        near: Near | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None] | None:
        """Each sample's cross-entropy, and the gradients of their sum, divided, to parameters and
        inputs, each where it is asked for. to_x: where the last is written, contiguous (default: a
        new tensor). None where a label is no class."""
        losses = x.new_empty(labels.shape)
        to_flat = torch.empty_like(flat) if asked[0] else None
        if not asked[1]:
            to_x = None
        elif to_x is None:
            to_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        sizes, classes = self._sizes_of(flat, x, divisor), labels.contiguous()
        given = None, None, None, classes, losses, to_flat, to_x
        known = self._call_near(near, sizes, x, flat, *given)
        return (losses, to_flat, to_x) if known else None

    def _sizes_of(self, flat: Tensor, x: Tensor, divisor: int = 1) -> ctypes.Array[ctypes.c_int64]:
        head = (*x.shape[:2], self.count, x.stride(0), flat.shape[1], divisor)
        if head not in self._sizes:
            values = *head, *self.steps
            self._sizes[head] = (ctypes.c_int64 * len(values))(*values)
        return self._sizes[head]

    def _call_near(
        self,
        near: Near | None,
        sizes: ctypes.Array[ctypes.c_int64],
        x: Inputs,
        flat: Flat,
        *tensors: Tensor | None,
    ) -> bool:
        """`_call` that leaves sums for another pass or begins at them, where it may."""
        kept = None
        if near is not None and self.reads:
            sums = getattr(_library(), f"chain_sums_{NUMBERS[x.dtype]}")(sizes)
            kept = near.room(flat, x, sums)
        if near is None or kept is None:
            return self._call(sizes, x, flat, *tensors)
        known = self._call(sizes, x, flat, *tensors, *kept)
        if known and kept.base is None:
            near.keep(flat)
        return known

    @staticmethod
    def _call(sizes: ctypes.Array[ctypes.c_int64], x: Tensor, *tensors: Tensor | None) -> bool:
        """Whether all labels are classes."""
        tensors = *tensors, *(None,) * (11 - len(tensors))
        outcome = getattr(_library(), f"chain_{NUMBERS[x.dtype]}")(
            sizes, x.data_ptr(), *(None if t is None else t.data_ptr() for t in tensors)
        )
        if outcome in _WHY:
            raise RuntimeError(
                f"a chain's pass failed: {_WHY[outcome]}; needed: smaller batches or "
                "ABA_KERNELS=off"
            )
        return outcome != _NO_CLASS


def in_one_piece(x: Inputs) -> Inputs:
    """Inputs as C takes them: each replica's contiguous, all replicas' the same or one by one."""
    return x if x[0].is_contiguous() else x.contiguous()


def program(
    steps: Sequence[tuple[tuple[str, ...], nn.Module | Block | Branches]],
    places: Mapping[str, int],
    shape: Sequence[int],
) -> Program | None:
    """A chain's steps for inputs of this shape [*feature], if C has all of them. steps: with the
    names of their weight and bias. places: where parameters begin in a row, by name."""
    made: list[int] = []
    behind: list[int] = []  # the branches of a text CNN
    count, last = 0, False  # last: whether pictures are channels last in memory
    shape = tuple(shape)
    for names, step in steps:
        if isinstance(step, Branches):
            begins = [places.get(name, -1) for name in names]
            pairs = zip(step.convolutions, begins[::2], begins[1::2], strict=True)
            for branch, *begin in pairs:
                behind += (0, *(0,) * 3, branch.out_channels, branch.kernel_size[0], 0, 0, *begin)
            outputs = sum(branch.out_channels for branch in step.convolutions)
            made += (_READ, *shape[::-1], len(step.convolutions), outputs, *(0,) * 3, begins[0], -1)
            shape, count = (outputs,), count + 1
            continue
        layer = step.layers[0] if isinstance(step, Block) else step
        own = {part for part, _ in layer.named_parameters()}
        if any(name not in places for name in names if name.rpartition(".")[2] in own):
            return None  # frozen
        begin = [places.get(name, -1) for name in names]
        if isinstance(step, Block):
            kernel, outputs = step.layers[0].kernel_size[0], step.layers[0].out_channels
            made += (_BLOCK, *shape, outputs, kernel, *step.padding, *begin)
            shape, last = (outputs, *step.sides(shape[1:])), True
        elif isinstance(step, nn.Linear) and len(shape) == 1:
            made += (_LINEAR, *shape, 0, 0, step.out_features, 0, 0, 0, *begin)
            shape = (step.out_features,)
        elif isinstance(step, nn.ReLU):
            made += (_RELU, torch.Size(shape).numel(), *(0,) * 6, -1, -1)
        elif isinstance(step, nn.Flatten):
            if last and shape[0] > 1 and shape[1:] != (1, 1):
                made += (_FLATTEN, *shape, *(0,) * 4, -1, -1)
            else:
                count -= 1
            shape, last = (torch.Size(shape).numel(),), False
        else:
            return None
        count += 1
    if not count or len(shape) != 1:
        return None
    return Program((*made, *behind), count, shape[0], bool(behind))


def _library() -> ctypes.CDLL:
    library = loaded()
    assert library is not None
    return library
