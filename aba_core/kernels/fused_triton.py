"""Kernels for a GPU, in Triton: hashed draws, selection with moving, Adam; each in one pass.

Importable without Triton, where nothing of it can be called. `on_gpu` decides when they are used;
tests run them in Triton's interpreter on a CPU, and compile them for GPUs. Untried on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:
    triton = tl = None


def _jit(function: Callable[..., Any]) -> Any:
    return function if triton is None else triton.jit(function)


def _constant(value: Any) -> Any:
    return value if tl is None else tl.constexpr(value)


# SplitMix64's, as in `randomness`.
GOLDEN = _constant(0x9E3779B97F4A7C15)
MIX_1 = _constant(0xBF58476D1CE4E5B9)
MIX_2 = _constant(0x94D049BB133111EB)
LARGEST = _constant(1.0 - 2.0**-53)
HIGHEST_BIT = _constant(0x80000000)


@_jit
def mixed(bits):  # type: ignore[no-untyped-def]
    """The finaliser of SplitMix64."""
    bits = bits + GOLDEN
    bits = (bits ^ (bits >> 30)) * MIX_1
    bits = (bits ^ (bits >> 27)) * MIX_2
    return bits ^ (bits >> 31)


@_jit
def uniforms(stream, step, index, to, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Draws in (0, 1) of three counters each."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    first = tl.load(stream + at, mask=inside, other=0).to(tl.uint64, bitcast=True)
    second = tl.load(step + at, mask=inside, other=0).to(tl.uint64, bitcast=True)
    third = tl.load(index + at, mask=inside, other=0).to(tl.uint64, bitcast=True)
    bits = mixed(mixed(mixed(first) ^ second) ^ third)
    drawn = ((bits >> 11).to(tl.float64) + 0.5) * 1.1102230246251565e-16
    tl.store(to + at, tl.minimum(drawn, LARGEST), mask=inside)


@_jit
def moved(  # type: ignore[no-untyped-def]
    x, map_, ranks, changes, to, features, COUNTS: tl.constexpr, CUTS: tl.constexpr,
    BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One sample: its categories by rank, and the change of each added. A number's order is that of
    its bits; ties by ranks. COUNTS: how many features lie below each cut, one after the other in 32
    bits each. BITS: of a key."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < features
    value = tl.load(map_ + row * features + at, mask=inside, other=0.0) + 0.0
    bits = value.to(tl.uint32, bitcast=True)
    ordered = tl.where((bits & HIGHEST_BIT) != 0, bits ^ 0xFFFFFFFF, bits | HIGHEST_BIT)
    rank = tl.load(ranks + at, mask=inside, other=0)
    key = (ordered.to(tl.int64) << (BITS - 32)) | rank
    key = tl.where(inside, key, 1 << BITS)
    change = tl.load(changes + row * (CUTS + 1) + CUTS)
    change = tl.zeros([BLOCK], dtype=tl.float32) + change
    for cut in tl.static_range(CUTS - 1, -1, -1):
        count = (COUNTS >> (32 * cut)) & 0xFFFFFFFF
        # The largest number that fewer than `count` keys are below: the count-th smallest key.
        threshold = tl.zeros([1], dtype=tl.int64)
        for step in range(BITS):
            tried = threshold | (tl.full([1], 1, dtype=tl.int64) << (BITS - 1 - step))
            below = tl.sum((key < tried).to(tl.int32), axis=0)
            threshold = tl.where(below < count, tried, threshold)
        own = tl.load(changes + row * (CUTS + 1) + cut)
        change = tl.where(key <= threshold, own, change)
    old = tl.load(x + row * features + at, mask=inside, other=0.0)
    tl.store(to + row * features + at, old + change, mask=inside)


@_jit
def adam(  # type: ignore[no-untyped-def]
    parameters, gradient, first, second, rates, correction, width, DECAY: tl.constexpr,
    SHARE_1: tl.constexpr, SHARE_2: tl.constexpr, SMALL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One step of a part of one replica's parameters, in place. Numbers that are no constants would
    come in single precision, whatever the parameters are in."""
    row = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    place = row * width + at
    value = tl.load(parameters + place, mask=inside, other=0.0)
    slope = tl.load(gradient + place, mask=inside, other=0.0) + DECAY * value
    one = tl.load(first + place, mask=inside, other=0.0)
    two = tl.load(second + place, mask=inside, other=0.0)
    one = one + SHARE_1 * (slope - one)
    two = two - SHARE_2 * two + SHARE_2 * slope * slope
    tl.store(first + place, one, mask=inside)
    tl.store(second + place, two, mask=inside)
    scale = tl.sqrt(two) / tl.load(correction) + SMALL
    tl.store(parameters + place, value - tl.load(rates + row) * one / scale, mask=inside)
