"""Labels: targets that are less certain than the data's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from aba_core.methods.base import Method, column, soft
from aba_core.randomness import Draws
from aba_core.sites import Tail


@dataclass(frozen=True)
class LabelSmoothing(Method):
    """y' = (1 − ε) y + ε / classes: weight ε is spread over all classes, the true one included.

    Source: Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision",
    section 7; the convention of PyTorch's CrossEntropyLoss.
    """

    kind: ClassVar[str] = "label-smoothing"

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        self.check(epsilon=(0.0, 1.0))

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        labels = soft(y, tail.outputs, h.dtype)
        epsilon = column(self.epsilon, labels)
        return h, (1 - epsilon) * labels + epsilon / tail.outputs
