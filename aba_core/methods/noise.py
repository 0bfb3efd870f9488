"""Noise: each feature is moved or replaced by chance, whatever it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aba_core.methods.base import Method, column
from aba_core.randomness import Draws
from aba_core.sites import Tail


@dataclass(frozen=True)
class GaussianNoise(Method):
    """x' = x + sd · N(0, 1), each feature by itself; on tables, jitter.

    Source: Bishop 1995, "Training with noise is equivalent to Tikhonov regularization".
    """

    kind: ClassVar[str] = "gaussian-noise"
    purposes: ClassVar[tuple[str, ...]] = ("gaussian-noise",)

    sd: float = 0.1

    def __post_init__(self) -> None:
        self.check(sd=(0.0, 1e3))

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        noise = draws.noise("gaussian-noise", 0, h.shape[draws.index.dim() :].numel())
        return h + column(self.sd, h) * noise.reshape(h.shape).to(h.dtype), y


@dataclass(frozen=True)
class UniformNoise(Method):
    """x' = x + U(−width, width), each feature by itself. Its standard deviation is width / √3."""

    kind: ClassVar[str] = "uniform-noise"
    purposes: ClassVar[tuple[str, ...]] = ("uniform-noise",)

    width: float = 0.2

    def __post_init__(self) -> None:
        self.check(width=(0.0, 1e3))

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        drawn = draws.uniforms("uniform-noise", h.shape[draws.index.dim() :].numel())
        noise = (2 * drawn - 1).reshape(h.shape).to(h.dtype)
        return h + column(self.width, h) * noise, y


@dataclass(frozen=True)
class SaltAndPepper(Method):
    """Each pixel, with all its channels, becomes with probability p / 2 the smallest number of its
    sample, and with probability p / 2 the largest; what is no picture, each feature.

    The extremes are the sample's own, in place of black and white, which standard units do not
    know. Source: Gonzalez and Woods 2008, "Digital image processing", section 5.2.
    """

    kind: ClassVar[str] = "salt-and-pepper"
    purposes: ClassVar[tuple[str, ...]] = ("salt-and-pepper",)

    p: float = 0.05

    def __post_init__(self) -> None:
        self.check(p=(0.0, 1.0))

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        lead = draws.index.dim()
        shape = h.shape[lead:]
        places = torch.Size((1, *shape[1:])) if len(shape) == 3 else shape
        drawn = draws.uniforms("salt-and-pepper", places.numel()).unflatten(-1, places)
        half = column(self.p, drawn) / 2
        inside = tuple(range(lead, h.dim()))
        low, high = h.amin(inside, keepdim=True), h.amax(inside, keepdim=True)
        return torch.where(drawn < half, low, torch.where(drawn >= 1 - half, high, h)), y
