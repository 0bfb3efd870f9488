"""Adversarial training: inputs moved to where the loss is higher, within a small box.

The box and the steps are in units of the inputs, which are standardised: 0.03 of a pixel's range
of [0, 1] is 0.03 / standard deviation here, about 0.12 on CIFAR-10. Nothing is cut to a range of
pixels. Gradients are those of the model in eval mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from aba_core.attribution import Loss
from aba_core.methods.base import Method, column
from aba_core.methods.norms import SplitNorm, norms_replaced, require
from aba_core.randomness import Draws
from aba_core.sites import Tail


@dataclass(frozen=True)
class FGSM(Method):
    """Fast gradient sign method: training on x + epsilon · sign(∇x loss) alone.

    Source: Goodfellow, Shlens and Szegedy 2015, "Explaining and harnessing adversarial examples".
    """

    kind: ClassVar[str] = "fgsm"

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        self.check(epsilon=(0.0, 1e3))

    def passes(self) -> float:
        return 2.0

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        return h + column(self.epsilon, h) * tail.gradient(h, y, draws).sign(), y


@dataclass(frozen=True)
class PGD(Method):
    """Projected gradient descent: training on x' alone, where x' starts anywhere in the box x ±
    epsilon and takes `iterations` steps of step_size · sign(∇x loss), each cut to the box.

    Source: Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks".
    """

    kind: ClassVar[str] = "pgd"
    purposes: ClassVar[tuple[str, ...]] = ("attack",)

    epsilon: float = 0.1
    step_size: float = 0.025
    iterations: int = 5

    def __post_init__(self) -> None:
        self.check(epsilon=(0.0, 1e3), step_size=(0.0, 1e3))
        if not 1 <= self.iterations <= 1000:
            raise ValueError(f"iterations is {self.iterations!r}; allowed: 1 to 1000")

    def passes(self) -> float:
        return 1.0 + self.iterations

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        epsilon, step = column(self.epsilon, h), column(self.step_size, h)
        drawn = draws.uniforms("attack", h.shape[draws.index.dim() :].numel())
        away = epsilon * (2 * drawn - 1).reshape(h.shape).to(h.dtype)
        for _ in range(self.iterations):
            away = away + step * tail.gradient(h + away, y, draws).sign()
            away = away.sign() * torch.minimum(away.abs(), epsilon * torch.ones_like(away))
        return h + away, y


@dataclass(frozen=True)
class _Both(PGD):
    """Each batch with its attacked copy behind it."""

    enlarges: ClassVar[bool] = True

    def passes(self) -> float:
        return 2.0 + self.iterations

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        attacked, _ = super().batch(tail, h, y, draws)
        along = draws.index.dim() - 1
        return torch.cat([h, attacked], along), torch.cat([y, y], along)


@dataclass(frozen=True)
class ALP(_Both):
    """Adversarial logit pairing: ½ (loss(x) + loss(x')) + weight · ‖f(x) − f(x')‖², x' by PGD.

    Source: Kannan, Kurakin and Goodfellow 2018, "Adversarial logit pairing", with mixed batches.
    """

    kind: ClassVar[str] = "alp"

    weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(weight=(0.0, 1e3))

    def loss(self, logits: Tensor, y: Tensor, loss: Loss) -> Tensor:
        clean, attacked = logits.chunk(2, -2)
        first, second = loss(logits, y).chunk(2, -1)
        each = (first + second) / 2
        return each + column(self.weight, each) * (clean - attacked).square().sum(-1)


@dataclass(frozen=True)
class LRM(_Both):
    """Logit regularisation: (1 − ratio) ½ (loss(x) + loss(x')) + ratio · H(p(x), p(x')) + beta
    (‖f(x)‖² + ‖f(x')‖²), x' by PGD, p the predicted distribution and H the cross-entropy.

    Published with label smoothing 0.1 and VH-mixup before it in a chain. What the published "loss
    ratio" weighs is our reading. Source: Summers and Dinneen 2019, "Improved adversarial robustness
    via logit regularization methods".
    """

    kind: ClassVar[str] = "lrm"
    tasks: ClassVar[tuple[str, ...]] = ("multiclass",)

    beta: float = 1e-3
    ratio: float = 0.125

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(beta=(0.0, 1e3), ratio=(0.0, 1.0))

    def loss(self, logits: Tensor, y: Tensor, loss: Loss) -> Tensor:
        clean, attacked = logits.chunk(2, -2)
        first, second = loss(logits, y).chunk(2, -1)
        each = (first + second) / 2
        pair = -(clean.softmax(-1) * functional.log_softmax(attacked, dim=-1)).sum(-1)
        small = clean.square().sum(-1) + attacked.square().sum(-1)
        ratio, beta = column(self.ratio, each), column(self.beta, each)
        return (1 - ratio) * each + ratio * pair + beta * small


@dataclass(frozen=True)
class AdvProp(_Both):
    """½ (loss(x) + loss(x')), x' as PGD has it, where x' goes through batch norms of its own: other
    statistics, γ and β. Evaluation and attack use those of x; the source attacks with the others.

    Source: Xie et al. 2020, "Adversarial examples improve image recognition", algorithm 1.
    """

    kind: ClassVar[str] = "advprop"

    def architecture(self, model: nn.Module) -> nn.Module:
        return norms_replaced(model, SplitNorm, self.kind)

    def fitted(self, model: nn.Module) -> AdvProp:
        require(model, SplitNorm, self.kind)
        return self
