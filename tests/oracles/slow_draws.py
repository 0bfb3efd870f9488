"""Draws again, one number at a time, by `counter_hash`."""

import math

from oracles import counter_hash


def uniform(seed: int, purpose: str, step: int, copy_: int, index: int) -> float:
    return counter_hash.uniform(seed, purpose, step * 2**20 + copy_, index)


def normal(seed: int, purpose: str, step: int, copy_: int, index: int) -> float:
    radius = uniform(seed, purpose, step, copy_, 2 * index)
    angle = uniform(seed, purpose, step, copy_, 2 * index + 1)
    return math.sqrt(-2 * math.log(radius)) * math.cos(2 * math.pi * angle)


def gamma(seed: int, purpose: str, step: int, first: int, index: int, alpha: float) -> float:
    """Marsaglia and Tsang: propose until one is accepted."""
    d = alpha + 1 - 1 / 3
    for attempt in range(8):
        x = normal(seed, purpose, step, first + 2 * attempt, index)
        v = (1 + x / math.sqrt(9 * d)) ** 3
        if v > 0:
            u = uniform(seed, purpose, step, first + 2 * attempt + 1, index)
            if math.log(u) < x * x / 2 + d - d * v + d * math.log(v):
                break
    power = uniform(seed, purpose, step, first + 100, index)
    return d * v * power ** (1 / alpha)


def beta(seed: int, purpose: str, step: int, index: int, alpha: float) -> float:
    a = gamma(seed, purpose, step, 16, index, alpha)
    b = gamma(seed, purpose, step, 32, index, alpha)
    return a / (a + b)


def partners(seed: int, purpose: str, step: int, batch: int) -> list[int]:
    return sorted(range(batch), key=lambda i: uniform(seed, purpose, step, 1, i))
