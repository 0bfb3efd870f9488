"""Maps by a changed way back: guided backpropagation, deconvnet, layer-wise relevance propagation.

Guided backpropagation and deconvnet keep positive signals and drop negative ones, so that the map
of a score is not that of minus the score turned round. Both explain the score, which is minus the
objective (for target "loss" the log-probability of the true class), and the result is turned
round: what speaks for the class is negative, as everywhere in this package.

LRP is linear in what it begins with, the gradient of the objective at the logits times the logits.
Its sense is that of gradient × input: positive where what stands in the input raises the loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from aba_core.randomness import Draws
from aba_core.rewriting import GuidedReLU, Relevance, Rule

if TYPE_CHECKING:
    from aba_core.attribution import Attribution, Objective


def guided_backpropagation(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws
) -> Tensor:
    return -objective.rewritten(GuidedReLU(both=True)).gradient(x, of_score=True)


def deconvnet(objective: Objective, x: Tensor, attribution: Attribution, draws: Draws) -> Tensor:
    return -objective.rewritten(GuidedReLU(both=False)).gradient(x, of_score=True)


def lrp(
    objective: Objective,
    x: Tensor,
    attribution: Attribution,
    draws: Draws,
    rule: Rule = "epsilon",
    dense: Rule | None = None,
    **numbers: float,
) -> Tensor:
    """Layer-wise relevance propagation (Bach et al. 2015; Montavon et al. 2019).

    rule: of convolutions, "zero", "epsilon", "gamma", "z_plus" or "alpha_beta" (β = α − 1), see
    `Relevance`. dense: of linear layers; by default the same. numbers: its epsilon, gamma, alpha.
    """
    unknown = sorted(set(numbers) - {"epsilon", "gamma", "alpha"})
    if unknown:
        raise ValueError(
            f"unknown option {unknown[0]!r} of LRP; known: rule, dense, epsilon, gamma, alpha"
        )
    how = Relevance(rule, dense, **{name: float(value) for name, value in numbers.items()})
    return objective.rewritten(how).gradient(x) * x


def lrp_gamma(objective: Objective, x: Tensor, attribution: Attribution, draws: Draws) -> Tensor:
    return lrp(objective, x, attribution, draws, "gamma")


def lrp_z_plus(objective: Objective, x: Tensor, attribution: Attribution, draws: Draws) -> Tensor:
    return lrp(objective, x, attribution, draws, "z_plus")


def lrp_alpha_beta(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws
) -> Tensor:
    return lrp(objective, x, attribution, draws, "alpha_beta")


def lrp_composite(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws
) -> Tensor:
    """z⁺ for convolutions and ε for linear layers, the composite ε-z⁺."""
    return lrp(objective, x, attribution, draws, "z_plus", "epsilon")


for _function in (guided_backpropagation, deconvnet, lrp):
    _function.version = 1  # type: ignore[attr-defined]
