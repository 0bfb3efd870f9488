"""Dropout at the input or at a named layer, its masks a function of seed, step and place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from aba_core.methods.base import Method, column
from aba_core.randomness import Draws
from aba_core.sites import Tail


@dataclass(frozen=True)
class Dropout(Method):
    """Each feature is set to 0 with probability p, and the others are divided by 1 − p.

    Source: Srivastava et al. 2014, "Dropout: A simple way to prevent neural networks from
    overfitting", in the scaled form of PyTorch's Dropout.
    """

    kind: ClassVar[str] = "dropout"
    # Not "dropout", which is that of dropout layers inside a model.
    purposes: ClassVar[tuple[str, ...]] = ("dropout-method",)

    p: float = 0.5

    def __post_init__(self) -> None:
        self.check(p=(0.0, 0.999))

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        lead = draws.index.dim()
        drawn = draws.uniforms("dropout-method", h.shape[lead:].numel()).reshape(h.shape)
        kept = (drawn >= column(self.p, drawn)).to(h.dtype)
        return h * kept / (1 - column(self.p, h)), y
