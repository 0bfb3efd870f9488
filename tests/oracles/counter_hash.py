"""The package's random numbers again, in plain Python integers and one at a time.

SplitMix64's finaliser as published (Steele, Lea and Flood 2014), on unsigned 64-bit integers.
"""

import hashlib
import math
from functools import cache

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
STREAM = {
    "initialisation": 1,
    "order": 2,
    "adjustment": 3,
    "magnitude": 4,
    "target": 5,
    "dropout": 6,
    "subset": 7,
    "smoothing": 8,
    "bit": 9,
    "placebo": 10,
    "probe": 11,
}


def splitmix64(state: int) -> int:
    """The output that SplitMix64 gives from this state: advance, then mix."""
    z = (state + GOLDEN) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def bits(seed: int, purpose: str, step: int, index: int) -> int:
    """64 random bits, from 0 to 2**64 - 1."""
    if purpose in STREAM:
        stream = STREAM[purpose] * GOLDEN
    else:  # a method's own purpose, known by its name
        stream = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "big")
    hashed = splitmix64((seed + stream) & MASK)
    hashed = splitmix64(hashed ^ step)
    return splitmix64(hashed ^ index)


def uniform(seed: int, purpose: str, step: int, index: int) -> float:
    return ((bits(seed, purpose, step, index) >> 11) + 0.5) / 2**53


def normal(seed: int, purpose: str, step: int, index: int) -> float:
    first = uniform(seed, purpose, step, 2 * index)
    second = uniform(seed, purpose, step, 2 * index + 1)
    return math.sqrt(-2 * math.log(first)) * math.cos(2 * math.pi * second)


def weighted_choice(weights: list[float], draw: float) -> int:
    """The first option whose summed share exceeds the draw."""
    total = 0.0
    for option, weight in enumerate(weights):
        total += weight / sum(weights)
        if draw < total:
            return option
    return len(weights) - 1


@cache
def shuffled(seed: int, epoch: int, samples: int) -> list[int]:
    """All samples, sorted by their random bits read as signed integers."""

    def key(sample: int) -> int:
        number = bits(seed, "order", epoch, sample)
        return number - 2**64 if number >= 2**63 else number

    return sorted(range(samples), key=key)


def batch(seed: int, step: int, size: int, samples: int) -> list[int]:
    """The samples of one step: places step·size … of the endless stream of shuffled epochs."""
    places = range(step * size, (step + 1) * size)
    return [shuffled(seed, place // samples, samples)[place % samples] for place in places]
