"""Sharpness: gradients taken where the loss nearby is worst."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from aba_core.methods.base import At, Method, column


@dataclass(frozen=True)
class SAM(Method):
    """Sharpness-aware minimisation: the gradient at parameters + rho · g / ‖g‖.

    Batch norm's running statistics move in the first of the two passes alone. Source: Foret,
    Kleiner, Mobahi and Neyshabur 2021, "Sharpness-aware minimization for efficiently improving
    generalization", algorithm 1.
    """

    kind: ClassVar[str] = "sam"

    rho: float = 0.05

    def __post_init__(self) -> None:
        self.check(rho=(0.0, 100.0))

    def passes(self) -> float:
        return 2.0

    def gradient(self, at: At, parameters: Tensor) -> tuple:
        losses, gradient = at(parameters)
        length = gradient.norm(dim=1, keepdim=True).clamp(min=1e-12)
        _, sharp = at(parameters + column(self.rho, gradient) * gradient / length)
        return losses, sharp


@dataclass(frozen=True)
class ASAM(Method):
    """Adaptive sharpness-aware minimisation: the gradient at w + rho · T² g / ‖T g‖, where T is
    |w| + eta, for each parameter.

    The authors' code leaves T at 1 for biases; the paper, and this, does not. Source: Kwon, Kim,
    Park and Choi 2021, "ASAM: Adaptive sharpness-aware minimization", equation 8.
    """

    kind: ClassVar[str] = "asam"

    rho: float = 0.5
    eta: float = 0.01

    def __post_init__(self) -> None:
        self.check(rho=(0.0, 100.0), eta=(0.0, 100.0))

    def passes(self) -> float:
        return 2.0

    def gradient(self, at: At, parameters: Tensor) -> tuple:
        losses, gradient = at(parameters)
        rho, eta = column(self.rho, gradient), column(self.eta, gradient)
        scale = parameters.abs() + eta
        scaled = scale * gradient
        length = scaled.norm(dim=1, keepdim=True).clamp(min=1e-12)
        _, sharp = at(parameters + rho * scale * scaled / length)
        return losses, sharp
