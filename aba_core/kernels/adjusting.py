"""Inputs moved by ABA in one call of C for all replicas: each sample's adjustment by its draws, the
category of each feature, the formula.

The tensor code of `methods.aba` is its twin: the same bits. What parts the categories of a map is
found by counting how many values are not above a few guesses.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor

from aba_core.kernels import in_use, loaded
from aba_core.kernels.blocks import NUMBERS, computable
from aba_core.selection import Percentiles, Selection, order_of_ties

MOST_CATEGORIES = 64
_FIXED, _FOLDED, _SIGNED = range(3)  # magnitudes, as adjusting.c has them
_WHY = {1: "no memory", 2: "a sample has more than 2³¹ features"}


class Drawn(NamedTuple):
    """What was drawn for each sample of each replica, and what from. [replica, sample] all through.

    chosen: the number in (0, 1) that chooses a member of the set. magnitude: normal draws, or None
    for 1; signed: with their signs. edges: where members begin in the unit interval, but for the
    first. The last three are made ready for C once: the same tensors are to be given at each step.
    """

    chosen: Float64[Tensor, "replica sample"]
    magnitude: Float64[Tensor, "replica sample"] | None
    edges: Float64[Tensor, "replica edge"]
    table: Float[Tensor, "replica member category"]
    strength: Float64[Tensor, "*replica"] | float
    signed: bool = False


def applies(x: Tensor, split: Selection, maps: Tensor | None = None) -> bool:
    """Whether C may move these. It has no way back: activations of a hidden layer have one."""
    return (
        not (x.requires_grad and torch.is_grad_enabled())
        and x.numel() > 0
        and split.categories <= MOST_CATEGORIES
        and (maps is None or maps.is_contiguous())
        and computable((x,) if maps is None else (x, maps), levels=0)
        and in_use()
    )


def moved(
    x: Float[Tensor, "replica sample *feature"],
    maps: Float[Tensor, "replica sample *feature"],
    split: Selection,
    drawn: Drawn,
) -> Float[Tensor, "replica sample *feature"]:
    """x plus strength · magnitude · the change of each feature's category."""
    x, to = x.contiguous(), torch.empty(x.shape, dtype=x.dtype)
    ready = _ready_for(x, split, drawn)
    _call("adjust", x, ready.sizes, maps, *_given(ready, drawn), ready.order, to)
    return to


def moved_by_categories(
    x: Float[Tensor, "replica sample *feature"],
    categories: UInt8[Tensor, "row *feature"],
    rows: Int64[Tensor, "replica sample"],
    split: Selection,
    drawn: Drawn,
    in_place: bool = False,
) -> Float[Tensor, "replica sample *feature"]:
    """The same by categories that lie in rows of a longer list: 1 is the lowest, 0 is none."""
    x = x.contiguous()
    to = x if in_place else torch.empty(x.shape, dtype=x.dtype)
    ready = _ready_for(x, split, drawn)
    _call("moved", x, ready.sizes, categories, rows.contiguous(), *_given(ready, drawn), to)
    return to


def categorise(
    maps: Float[Tensor, "replica sample *feature"],
    split: Selection,
    rows: Int64[Tensor, "replica sample"],
    to: UInt8[Tensor, "row *feature"],
) -> None:
    """Writes each feature's category into rows of a longer list."""
    maps = maps.contiguous()
    sizes, order = _sizes(maps.shape, (0, split.categories), _FIXED, split)
    _call("categories", maps, sizes, rows.contiguous(), order, to)


def _call(
    name: str, first: Tensor, sizes: ctypes.Array[ctypes.c_int64], *others: Tensor | None
) -> None:
    """One call of C for all samples, which are contiguous."""
    outcome = getattr(loaded(), f"{name}_{NUMBERS[first.dtype]}")(
        sizes, first.data_ptr(), *[None if value is None else value.data_ptr() for value in others]
    )
    if outcome:
        raise RuntimeError(
            f"inputs could not be moved: {_WHY[outcome]}; needed: smaller batches or "
            "ABA_KERNELS=off"
        )


class _Ready(NamedTuple):
    """What C is given at each step of a training."""

    sizes: ctypes.Array[ctypes.c_int64]
    order: Int64[Tensor, "feature"] | None
    edges: Tensor
    table: Tensor
    strength: Tensor


def _ready_for(x: Tensor, split: Selection, drawn: Drawn) -> _Ready:
    magnitudes = _FIXED if drawn.magnitude is None else _SIGNED if drawn.signed else _FOLDED
    return _ready(x.shape, x.dtype, split, magnitudes, drawn.edges, drawn.table, drawn.strength)


@lru_cache(maxsize=64, typed=True)  # tensors are keys by what they are, not by their values
def _ready(
    shape: torch.Size,
    dtype: torch.dtype,
    split: Selection,
    magnitudes: int,
    edges: Tensor,
    table: Tensor,
    strength: Tensor | float,
) -> _Ready:
    sizes, order = _sizes(shape, tuple(table.shape[-2:]), magnitudes, split)
    strengths = torch.as_tensor(strength, dtype=torch.float64).flatten()
    return _Ready(sizes, order, edges.contiguous(), table.to(dtype).contiguous(), strengths)


def _given(ready: _Ready, drawn: Drawn) -> tuple[Tensor | None, ...]:
    """Draws and what they are from, in C's order."""
    magnitude = None if drawn.magnitude is None else drawn.magnitude.contiguous()
    return drawn.chosen.contiguous(), magnitude, ready.edges, ready.table, ready.strength


@lru_cache(maxsize=64)
def _sizes(
    shape: torch.Size, table: tuple[int, ...], magnitudes: int, split: Selection
) -> tuple[ctypes.Array[ctypes.c_int64], Tensor | None]:
    """Sizes as C reads them, and the order of features that tie, where categories go by rank."""
    features = shape[2:].numel()
    counts = split.boundaries(features) if isinstance(split, Percentiles) else ()
    values = *shape[:2], features, *table, magnitudes, len(counts), *counts
    order = order_of_ties(features, torch.device("cpu"))[0] if counts else None
    return (ctypes.c_int64 * len(values))(*values), order
