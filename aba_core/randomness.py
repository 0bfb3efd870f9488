"""Randomness as data: every draw is a function of (seed, purpose, step, index).

A counter-based hash takes the place of a generator's state, so a run's draws depend neither on how
many runs train beside it, nor on chunking, resuming or device. Integer arithmetic is exact on
every device; uniforms are made of its bits in float64.

Mixing function: the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable
pseudorandom number generators", OOPSLA), applied once for each of the four counters.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from aba_core.kernels import draws as in_c
from aba_core.kernels import on_gpu

# Of noise made at a time, so that what is made on the way stays in a core's cache.
_AT_ONCE = 2**15

# One stream per purpose. The numbers are part of every result: append, never renumber.
PURPOSES = {
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


def purpose_seeds(
    seed: int, held: Mapping[str, int] | None = None, more: Iterable[str] = ()
) -> dict[str, int]:
    """One seed per purpose: all at `seed`, but those `held` at a seed of their own, so that one
    source of randomness can vary while the others hold. more: a method's own purposes."""
    known = (*PURPOSES, *(name for name in more if name not in PURPOSES))
    unknown = sorted(set(held or ()) - set(known))
    if unknown:
        raise ValueError(f"unknown purpose {unknown[0]!r}; known: {', '.join(known)}")
    return {name: check_seed((held or {}).get(name, seed)) for name in known}


def check_seed(seed: int) -> int:
    """The seed as a Python int; refused unless a whole number from 0 to 2⁶³ − 1."""
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if isinstance(seed, bool) or not 0 <= number < 2**63:
        raise ValueError(f"seed {seed!r}; allowed: whole numbers from 0 to 2**63 - 1")
    return number


def _signed(constant: int) -> int:
    """The int64 with the same 64 bits: torch has no full unsigned arithmetic."""
    return constant - 2**64 if constant >= 2**63 else constant


_GOLDEN = _signed(0x9E3779B97F4A7C15)


@lru_cache(maxsize=256)
def _stream(purpose: str) -> int:
    """What keeps the draws of one purpose from those of another: of a method's own purposes, which
    have no number, a hash of the name."""
    if purpose in PURPOSES:
        return _signed(PURPOSES[purpose] * 0x9E3779B97F4A7C15 % 2**64)
    return _signed(int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "big"))


_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift_right(bits: Tensor, places: int) -> Tensor:
    """Logical shift: >> on int64 keeps the sign, the mask removes it."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(bits: Tensor) -> Tensor:
    bits = bits + _GOLDEN
    bits = (bits ^ _shift_right(bits, 30)) * _MIX_1
    bits = (bits ^ _shift_right(bits, 27)) * _MIX_2
    return bits ^ _shift_right(bits, 31)


def random_bits(
    seed: Int64[Tensor, "*#any"], purpose: str, step: int | Tensor, index: Int64[Tensor, "*#any"]
) -> Int64[Tensor, "*any"]:
    """64 random bits per element of the broadcast of seed, step and index."""
    return _bits(seed + _stream(purpose), step, index)


def _bits(stream: Tensor, step: int | Tensor, index: Tensor) -> Tensor:
    return _mix(_mix(_mix(stream) ^ step) ^ index)


def uniform(
    seed: Tensor, purpose: str, step: int | Tensor, index: Tensor
) -> Float64[Tensor, "*any"]:
    """Uniform draws in the open interval (0, 1), 53 bits each."""
    return _uniforms(seed + _stream(purpose), step, index)


def _uniforms(stream: Tensor, step: int | Tensor, index: Tensor) -> Tensor:
    if on_gpu.applies(stream, index):
        return on_gpu.uniforms(stream, step, index)
    heads = _mix(_mix(stream) ^ step)
    if in_c.applies(heads, index):
        return in_c.uniforms(heads, index)
    return _unit_interval(_mix(heads ^ index))


def _unit_interval(bits: Tensor) -> Tensor:
    # The topmost number would round to 1.
    return ((_shift_right(bits, 11).double() + 0.5) * 2.0**-53).clamp_max_(1.0 - 2.0**-53)


def normal(
    seed: Tensor, purpose: str, step: int | Tensor, index: Tensor
) -> Float64[Tensor, "*any"]:
    """Standard normal draws: one for each pair of uniforms."""
    return _box_muller(
        uniform(seed, purpose, step, 2 * index), uniform(seed, purpose, step, 2 * index + 1)
    )


def _box_muller(radius: Tensor, angle: Tensor) -> Tensor:
    """Box and Muller 1958, the cosine alone."""
    return torch.sqrt(-2.0 * torch.log(radius)) * torch.cos(2.0 * math.pi * angle)


# The step of draws that last for a whole training: none has so many.
ALWAYS = 2**40

# What an ordinary step draws: two uniforms and the pair of a normal draw, which follows.
_USUAL = ("adjustment", "target", "magnitude", "magnitude")


@dataclass(frozen=True)
class Draws:
    """What one training step may draw, for every sample of its batch.

    seeds: one tensor a purpose, broadcast against index. index: [*lead], a sample's place in its
    batch, where lead is [batch] for one model and [replica, batch] for stacked ones. step: its
    number, or a tensor of it; steps: how many the training has, 0 if unknown. made:
    `usual`, where it was made beforehand. rows: each sample's place in the training set, None if
    unknown.
    """

    seeds: Mapping[str, Int64[Tensor, "*any"]]
    step: int | Int64[Tensor, "*steps"]
    index: Int64[Tensor, "*lead"]
    made: Float64[Tensor, "5 *lead"] | None = None
    steps: int = 0
    rows: Int64[Tensor, "*lead"] | None = None

    @classmethod
    def single(
        cls,
        seed: int,
        step: int,
        batch: int,
        device: torch.device | str,
        purposes: Iterable[str] = (),
        steps: int = 0,
    ) -> Draws:
        """Draws of one model trained with one seed. purposes: a method's own."""
        names = (*PURPOSES, *purposes)
        # Filled on the device: an upload would wait for it.
        number = torch.full((), check_seed(seed), dtype=torch.int64, device=device)
        seeds = dict.fromkeys(names, number)
        return cls(seeds, step, torch.arange(batch, device=device), steps=steps)

    def subset(self, chosen: Tensor | slice) -> Draws:
        """The same draws for some samples of the batch (one model only)."""
        return self._part(chosen, self.seeds)

    def of(self, replicas: slice) -> Draws:
        """The same draws for some replicas of the stack."""
        if replicas == slice(0, len(self.index)):
            return self
        return self._part(replicas, {name: seed[replicas] for name, seed in self.seeds.items()})

    def _part(self, chosen: Tensor | slice, seeds: Mapping[str, Tensor]) -> Draws:
        rows = None if self.rows is None else self.rows[chosen]
        return Draws(seeds, self.step, self.index[chosen], self.usual[:, chosen], self.steps, rows)

    @cached_property
    def usual(self) -> Float64[Tensor, "5 *lead"]:
        """What an ordinary step draws, all at once: on so few numbers, what takes time is the
        number of operations."""
        if self.made is not None:
            return self.made
        lead = self.index.dim()
        seeds = [self.seeds[name] + _stream(name) for name in _USUAL]
        streams = torch.stack(
            [seed.reshape((1,) * (lead - seed.dim()) + seed.shape) for seed in seeds]
        )
        even = 2 * self.index
        places = torch.stack([self.index, self.index, even, even + 1])
        drawn = _uniforms(streams, self.step, places)
        return torch.cat([drawn, _box_muller(drawn[2], drawn[3])[None]])

    @cached_property
    def _rows(self) -> tuple[Float64[Tensor, "*lead"], ...]:
        return self.usual.unbind()

    def shared(self, per: str) -> Draws:
        """These draws, or one for the whole batch where `per` is "batch"."""
        return (
            replace(self, index=torch.zeros_like(self.index), made=None) if per == "batch" else self
        )

    @property
    def progress(self) -> float | Tensor:
        """How much of the training is done, from 0 to 1; ValueError where nobody knows."""
        if not self.steps:
            raise ValueError("draws know no number of steps; give `steps`")
        return self.step / self.steps

    def uniform(self, purpose: str, copy: int = 0) -> Float64[Tensor, "*lead"]:
        """One number in (0, 1) a sample; copies are independent of one another."""
        if purpose in ("adjustment", "target") and copy == 0:
            return self._rows[_USUAL.index(purpose)]
        return uniform(self._seed(purpose), purpose, self._counter(copy), self.index)

    def lasting(self, purpose: str, of_run: bool = False) -> Float64[Tensor, "*lead"]:
        """One number in (0, 1) for each training sample, or one for the whole run: the same at
        every step. ValueError where nobody knows which sample is which."""
        if of_run:
            return uniform(self._seed(purpose), purpose, ALWAYS + 1, torch.zeros_like(self.index))
        if self.rows is None:
            raise ValueError("draws know no places in the training set; give `rows`")
        return uniform(self._seed(purpose), purpose, ALWAYS, self.rows)

    def uniforms(
        self, purpose: str, features: int, copy: int = 0
    ) -> Float64[Tensor, "*lead feature"]:
        """One number in (0, 1) for every feature of each sample."""
        places = self.index[..., None] * features + torch.arange(features, device=self.index.device)
        return uniform(self._seed(purpose)[..., None], purpose, self._counter(copy), places)

    def partners(self, purpose: str) -> Int64[Tensor, "*lead"]:
        """A fresh order of the batch: whom each sample is mixed with."""
        return self.uniform(purpose, 1).argsort(dim=-1, stable=True)

    def beta(self, purpose: str, alpha: float | Tensor) -> Float64[Tensor, "*lead"]:
        """Beta(alpha, alpha) draws, one a sample; alpha: a number, or a tensor [*#lead].

        The share of one of two gamma draws in their sum; alpha 1 is uniform. Source of the gamma
        draws: Marsaglia and Tsang 2000, the first accepted of eight tries (one sample in 10⁹ has
        none, and takes the last).
        """
        tries, lead = 8, (1,) * self.index.dim()
        number = torch.arange(tries, device=self.index.device)
        # Of each gamma: radius and angle of a normal draw and a chance a try, and one number more;
        # all at once, since on so few numbers the number of operations is what takes time.
        copies = torch.cat([2 * number, 2 * number, 2 * number + 1, number[:1] + 100])
        copies = torch.stack([copies + 16, copies + 32]).reshape(2, -1, *lead)
        even = (2 * self.index).expand(tries, *self.index.shape)
        one = self.index.expand(tries + 1, *self.index.shape)
        places = torch.cat([even, even + 1, one])
        counter = self.step * 2**20 + copies
        drawn = uniform(self._seed(purpose), purpose, counter, places)
        radius, angle, chance, power = drawn.split([tries, tries, tries, 1], dim=1)
        shape = torch.as_tensor(alpha, dtype=torch.float64, device=self.index.device)
        d = (shape + 1.0) - 1.0 / 3.0  # of alpha + 1, which a power of a uniform brings to alpha
        x = _box_muller(radius, angle)
        v = (1.0 + x / torch.sqrt(9.0 * d)) ** 3
        positive = v.clamp(min=1e-300)
        bound = 0.5 * x**2 + d - d * v + d * torch.log(positive)
        good = (v > 0) & (torch.log(chance) < bound)
        first_good = torch.where(good.any(1), good.long().argmax(1), tries - 1)
        value = (d * positive).gather(1, first_good[:, None])
        first, second = (value * power ** (1.0 / shape))[:, 0]
        return first / (first + second)

    def normal(self, purpose: str, copy: int = 0) -> Float64[Tensor, "*lead"]:
        """One standard normal number a sample."""
        return normal(self._seed(purpose), purpose, self._counter(copy), self.index)

    def _seed(self, purpose: str) -> Tensor:
        if purpose not in self.seeds:
            raise ValueError(
                f"purpose {purpose!r} was not declared; declared: {', '.join(self.seeds)}"
            )
        return self.seeds[purpose]

    def _counter(self, copy: int) -> int | Tensor:
        """A copy counts as a step of its own; 2**20 keeps copies of neighbouring steps apart."""
        return self.step * 2**20 + copy

    def magnitude(self, signed: bool = False) -> Float64[Tensor, "*lead"]:
        """|N(0, 1)| a sample: mean √(2/π) ≈ 0.798. signed: the same numbers with their signs."""
        return self._rows[4] if signed else self._rows[4].abs()

    def noise(self, purpose: str, copy: int, features: int) -> Float64[Tensor, "*lead feature"]:
        """Standard normal noise for every feature of the `copy`-th noisy copy of each sample."""
        counter = self._counter(copy)
        if isinstance(counter, int) or counter.numel() == 1:
            keys = _mix(_mix(self._seed(purpose) + _stream(purpose)) ^ counter)
            if in_c.applies_along(keys):
                return self._noise_in_c(keys.expand_as(self.index), features)
        place = torch.arange(features, device=self.index.device)
        return normal(
            self._seed(purpose)[..., None],
            purpose,
            counter,
            self.index[..., None] * features + place,
        )

    def _noise_in_c(self, keys: Int64[Tensor, "*lead"], features: int) -> Float64[Tensor, "..."]:
        """The same numbers, bit by bit, a few rows at a time."""
        noise = torch.empty(self.index.numel(), features, dtype=torch.float64)
        begins, keys = 2 * features * self.index.flatten(), keys.flatten()
        rows = max(1, _AT_ONCE // features)
        for at in (slice(first, first + rows) for first in range(0, len(noise), rows)):
            pairs = [in_c.uniforms_along(keys[at], begins[at] + odd, features, 2) for odd in (0, 1)]
            noise[at] = _box_muller(*pairs)
        return noise.reshape(*self.index.shape, features)


def edges_of(probabilities: Float64[Tensor, "*any option"]) -> Float64[Tensor, "*any edge"]:
    """Where options begin in the unit interval, but for the first."""
    return probabilities.cumsum(-1)[..., :-1]


def choice(
    probabilities: Float64[Tensor, "*#any option"], uniforms: Float64[Tensor, "*#any"]
) -> Int64[Tensor, "*any"]:
    """The option whose share of the unit interval holds the uniform draw."""
    return (uniforms[..., None] >= edges_of(probabilities)).sum(-1)


def epoch_order(
    seed: Int64[Tensor, "replica"], epoch: int, samples: int
) -> Int64[Tensor, "replica sample"]:
    """A fresh permutation of all samples for each replica and epoch."""
    everyone = torch.arange(samples, device=seed.device)
    return random_bits(seed[:, None], "order", epoch, everyone).argsort(dim=1, stable=True)


def batch_order(
    epoch_orders: Callable[[int], Int64[Tensor, "replica sample"]],
    step: int,
    batch: int,
    samples: int,
) -> Int64[Tensor, "replica batch"]:
    """Which samples step `step` trains on: the next piece of the stream of shuffled epochs.

    Every batch is full, one may straddle two epochs, and no sample is ever dropped.
    """
    pieces = []
    position, end = step * batch, (step + 1) * batch
    while position < end:
        epoch, place = divmod(position, samples)
        taken = min(end - position, samples - place)
        pieces.append(epoch_orders(epoch)[:, place : place + taken])
        position += taken
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
