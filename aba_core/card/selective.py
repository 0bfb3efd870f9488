"""Selective prediction: the error among the samples that a model is most confident of.

Source: Geifman, Uziel and El-Yaniv 2019 (AURC and its excess over the best order of the samples).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from aba_core.card.calibration import log_probabilities
from aba_core.card.subject import Measured, Subject


def risk_coverage(
    confidence: Float[Tensor, "*lead sample"], correct: Tensor
) -> Float[Tensor, "*lead sample"]:
    """Error in percent among the k samples of highest confidence, for k = 1, 2, ...

    Samples of the same confidence share their errors, so that their order in the data does not
    matter.
    """
    n = confidence.shape[-1]
    order = confidence.argsort(dim=-1, descending=True, stable=True)
    wrong = (~correct).double().gather(-1, order)
    ordered = confidence.gather(-1, order)
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    tie = fresh.long().cumsum(-1) - 1
    errors, counts = torch.zeros_like(wrong), torch.zeros_like(wrong)
    errors.scatter_add_(-1, tie, wrong)
    counts.scatter_add_(-1, tie, torch.ones_like(wrong))
    shared = (errors / counts.clamp(min=1)).gather(-1, tie)
    return 100.0 * shared.cumsum(-1) / torch.arange(1, n + 1, device=wrong.device)


def best_area(wrong: Tensor, samples: int) -> Tensor:
    """The least area under risk–coverage that so many wrong samples allow, in percent: they come
    last. wrong: [*lead]."""
    k = torch.arange(1, samples + 1, dtype=torch.float64, device=wrong.device)
    right = samples - wrong.double()[..., None]
    return (100.0 * (k - right).clamp(min=0) / k).mean(-1)


def measure(subject: Subject) -> Measured:
    """Areas under risk–coverage by the highest probability, in percent."""
    logits = subject.logits(subject.x)
    confidence, predicted = log_probabilities(logits).max(-1)
    correct = predicted == subject.y
    curve = risk_coverage(confidence, correct)
    area = curve.mean(-1)
    subject.details["risk_coverage"] = curve
    return {"aurc": area, "e_aurc": area - best_area((~correct).sum(-1), correct.shape[-1])}
