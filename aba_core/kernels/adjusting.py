"""Inputs moved by ABA in one call of C for all replicas: each sample's adjustment by its draws, the
category of each feature, the formula.

The tensor code of `methods.aba` is its twin: the same bits. What parts the categories of a map is
found by counting how many values are not above a few guesses, or by NumPy's vectorised sort, where
there are few features or values tie.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor

from aba_core.kernels import in_use, loaded
from aba_core.kernels.blocks import NUMBERS, computable
from aba_core.selection import Percentiles, Selection, order_of_ties

MOST_CATEGORIES = 64
# Sorting fewer features takes less time than guessing (64: half, 784: twice; benchmarks/README.md).
SORTED_BELOW = 128
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
    x = x.detach().contiguous()
    sizes, order = _sizes(x.shape, drawn.table.shape[-2:], _magnitudes(drawn), split)
    to = torch.empty_like(x)
    held = [*_held(drawn), order, to]
    _by_order(f"adjust_{NUMBERS[x.dtype]}", (sizes, x.data_ptr()), maps, _pointers(held), order)
    return to


def moved_by_categories(
    x: Float[Tensor, "replica sample *feature"],
    categories: UInt8[Tensor, "row *feature"],
    rows: Int64[Tensor, "replica sample"],
    split: Selection,
    drawn: Drawn,
) -> Float[Tensor, "replica sample *feature"]:
    """The same by categories that lie in rows of a longer list: 1 is the lowest, 0 is none."""
    library = loaded()
    assert library is not None
    x = x.detach().contiguous()
    sizes, _ = _sizes(x.shape, drawn.table.shape[-2:], _magnitudes(drawn), split)
    to = torch.empty_like(x)
    held = x, categories, rows.contiguous(), *_held(drawn), to
    getattr(library, f"moved_{NUMBERS[x.dtype]}")(sizes, *_pointers(held))
    return to


def categorise(
    maps: Float[Tensor, "replica sample *feature"],
    split: Selection,
    rows: Int64[Tensor, "replica sample"],
    to: UInt8[Tensor, "row *feature"],
) -> None:
    """Writes each feature's category into rows of a longer list."""
    maps = maps.detach().contiguous()
    sizes, order = _sizes(maps.shape, torch.Size((0, split.categories)), _FIXED, split)
    held = rows.contiguous(), order, to
    _by_order(f"categories_{NUMBERS[maps.dtype]}", (sizes,), maps, _pointers(held), order)


def _by_order(
    name: str,
    before: Sequence[Any],
    maps: Float[Tensor, "replica sample *feature"],
    after: Sequence[int | None],
    order: Tensor | None,
) -> None:
    """One call of C for all samples, and one more, with their maps in order, for those that cannot
    do without. before, after: what it is given around the maps."""
    library = loaded()
    assert library is not None
    function = getattr(library, name)
    flat = maps.detach().reshape(-1, maps.shape[2:].numel())
    some, left = None, len(flat)
    if order is None or flat.shape[1] >= SORTED_BELOW:
        some = torch.empty(len(flat), dtype=torch.int64)
        left = function(*before, flat.data_ptr(), None, some.data_ptr(), left, *after)
    if left > 0:
        ordered = _in_order(flat.clone() if some is None else flat[some[:left]])
        chosen = None if some is None else some.data_ptr()
        left = function(*before, flat.data_ptr(), ordered.data_ptr(), chosen, left, *after)
    if left < 0:
        raise RuntimeError(
            "inputs could not be moved: no memory; needed: smaller batches or ABA_KERNELS=off"
        )


def _in_order(maps: Float[Tensor, "sample feature"]) -> Float[Tensor, "sample feature"]:
    """Each sample's attributions in order, NaN last, in place."""
    maps.numpy().sort(axis=1)
    return maps


def _held(drawn: Drawn) -> list[Tensor | None]:
    """What was drawn, in C's order."""
    given = drawn.chosen, drawn.magnitude, drawn.edges, drawn.table, drawn.strength
    return [None if value is None else value.contiguous() for value in given]


def _pointers(values: Sequence[Tensor | None]) -> list[int | None]:
    return [None if value is None else value.data_ptr() for value in values]


def _magnitudes(drawn: Drawn) -> int:
    return _FIXED if drawn.magnitude is None else _SIGNED if drawn.signed else _FOLDED


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
