"""Inputs moved by ABA in one call of C for all replicas: each sample's adjustment by its draws, the
category of each feature, the formula.

The tensor code of `methods.aba` is its twin: the same bits. What parts the categories of a map is
found by counting how many values are not above a few guesses, or by NumPy's vectorised sort, where
there are few features or values tie.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from aba_core.kernels import in_use, loaded
from aba_core.kernels.blocks import NUMBERS, computable
from aba_core.selection import Percentiles, Selection, order_of_ties

MOST_CATEGORIES = 64
# Sorting fewer features takes less time than guessing (64: half, 784: twice; benchmarks/README.md).
SORTED_BELOW = 128
_NEEDS_ORDER = 3
_FIXED, _FOLDED, _SIGNED = range(3)  # magnitudes, as adjusting.c has them


class Drawn(NamedTuple):
    """What was drawn for each sample of each replica, and what from. [replica, sample] all through.

    chosen: the number in (0, 1) that chooses a member of the set. edges: where members begin in the
    unit interval, but for the first. magnitude: normal draws, or None for 1; signed: with their
    signs.
    """

    chosen: Float64[Tensor, "replica sample"]
    edges: Float64[Tensor, "replica edge"]
    table: Float[Tensor, "replica member category"]
    strength: Float64[Tensor, "replica"]
    magnitude: Float64[Tensor, "replica sample"] | None
    signed: bool = False


class Maps(NamedTuple):
    """Attribution maps: those of a batch in order, or rows of a longer list. known: which of these
    there are; samples without one stay as they are."""

    values: Float[Tensor, "row *feature"]
    rows: Int64[Tensor, "replica sample"] | None = None
    known: Bool[Tensor, "row"] | None = None


def applies(x: Tensor, maps: Maps, split: Selection) -> bool:
    """Whether C may move these. It has no way back: activations of a hidden layer have one."""
    values = maps.values
    return (
        not (x.requires_grad and torch.is_grad_enabled())
        and x.numel() > 0
        and split.categories <= MOST_CATEGORIES
        and values.is_contiguous()
        and computable((x, values), levels=0)
        and in_use()
    )


def moved(
    x: Float[Tensor, "replica sample *feature"], maps: Maps, split: Selection, drawn: Drawn
) -> Float[Tensor, "replica sample *feature"]:
    """x plus strength · magnitude · the change of each feature's category."""
    library = loaded()
    assert library is not None
    x = x.detach().contiguous()
    magnitudes = _FIXED if drawn.magnitude is None else _SIGNED if drawn.signed else _FOLDED
    sizes, order = _sizes(x.shape, drawn.table.shape[-2:], magnitudes, split)
    given = (
        *(x, maps.values, maps.rows, maps.known, drawn.chosen, drawn.magnitude),
        *(drawn.edges, drawn.table, drawn.strength, order),
    )
    held = [None if value is None else value.contiguous() for value in given]
    to = torch.empty_like(x)
    pointers = [None if value is None else value.data_ptr() for value in (*held, to)]
    adjust = getattr(library, f"adjust_{NUMBERS[x.dtype]}")
    features = x[0, 0].numel()
    failed = _NEEDS_ORDER
    if order is None or features >= SORTED_BELOW:
        failed = adjust(sizes, *pointers[:2], None, *pointers[2:])
    if failed == _NEEDS_ORDER:
        ordered = _ordered(maps, features)
        failed = adjust(sizes, *pointers[:2], ordered.data_ptr(), *pointers[2:])
    if failed:
        raise RuntimeError(
            "inputs could not be moved: no memory; needed: smaller batches or ABA_KERNELS=off"
        )
    return to


@lru_cache(maxsize=64)
def _sizes(
    shape: torch.Size, table: torch.Size, magnitudes: int, split: Selection
) -> tuple[ctypes.Array[ctypes.c_int64], Tensor | None]:
    """Sizes as C reads them, and the order of features that tie, where categories go by rank."""
    features = shape[2:].numel()
    counts = split.boundaries(features) if isinstance(split, Percentiles) else ()
    values = *shape[:2], features, *table, magnitudes, len(counts), *counts
    order = order_of_ties(features, torch.device("cpu"))[0] if counts else None
    return (ctypes.c_int64 * len(values))(*values), order


def keep(
    to: Float[Tensor, "row *feature"],
    known: Bool[Tensor, "row"],
    rows: Int64[Tensor, "replica sample"],
    values: Float[Tensor, "replica sample *feature"],
) -> bool:
    """Writes values into rows of a longer list, which are known from now on; False where tensors
    must do it."""
    if not (to.is_contiguous() and computable((to, values), levels=0) and in_use()):
        return False
    library = loaded()
    assert library is not None
    rows, values = rows.contiguous(), values.contiguous()
    sizes = (ctypes.c_int64 * 2)(rows.numel(), to[0].numel() * to.element_size())
    pointers = (value.data_ptr() for value in (values, rows, to, known))
    library.keep(sizes, *pointers)
    return True


def _ordered(maps: Maps, features: int) -> Tensor:
    """Each sample's attributions in order, NaN last."""
    values = maps.values.detach()
    if maps.rows is None:
        ordered = values.reshape(-1, features).clone()
    else:
        ordered = values.index_select(0, maps.rows.flatten()).reshape(-1, features)
    ordered.numpy().sort(axis=1)
    return ordered
