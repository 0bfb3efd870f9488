"""Calibration: whether a model that says 80 % is right in 80 % of such cases.

Errors are in percent. Sources: Guo et al. 2017 (ECE, temperature); Nixon et al. 2019 (equal mass,
classwise); Kumar, Liang and Ma 2019 (debiased).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from aba_core.card.subject import Measured, Subject, drawn

BINS = 15
_TEMPERATURES = (0.02, 50.0)  # what is searched, on a logarithmic scale
_STEPS = 60  # of golden section: an error of 1e-12 of the range


def log_probabilities(logits: Float[Tensor, "*lead class_"]) -> Float[Tensor, "*lead class_"]:
    """In float64."""
    return torch.log_softmax(logits.double(), -1)


def nll(logits: Float[Tensor, "*lead sample class_"], y: Int64[Tensor, "sample"]) -> Tensor:
    """Mean negative log-likelihood of the true class, in nats. Returns [*lead]."""
    labels = y.expand(logits.shape[:-1])[..., None]
    return -log_probabilities(logits).gather(-1, labels)[..., 0].mean(-1)


def brier(logits: Float[Tensor, "*lead sample class_"], y: Int64[Tensor, "sample"]) -> Tensor:
    """Mean squared distance of the probabilities to the true class: 0 to 2. Returns [*lead]."""
    p = log_probabilities(logits).exp()
    truth = torch.nn.functional.one_hot(y, p.shape[-1]).to(p)
    return (p - truth).square().sum(-1).mean(-1)


def _binned(
    confidence: Float[Tensor, "*lead sample"], correct: Tensor, mass: bool, bins: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each bin: samples, sum of confidence, samples that are right. Each [*lead, bin]."""
    if mass:
        order = confidence.argsort(dim=-1, stable=True).argsort(dim=-1)
        place = (order * bins) // confidence.shape[-1]
    else:
        # Upper edges belong to the bin below, as in torchmetrics.
        edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=confidence.device)
        place = (torch.bucketize(confidence.contiguous(), edges) - 1).clamp(0, bins - 1)
    shape = (*confidence.shape[:-1], bins)
    sums = [confidence.new_zeros(shape) for _ in range(3)]
    for total, values in zip(
        sums, (torch.ones_like(confidence), confidence, correct.double()), strict=True
    ):
        total.scatter_add_(-1, place, values)
    return sums[0], sums[1], sums[2]


def calibration_error(
    confidence: Float[Tensor, "*lead sample"], correct: Tensor, mass: bool = False, bins: int = BINS
) -> Tensor:
    """Expected calibration error in percent: mean |accuracy − confidence| over bins, weighted.

    mass: bins with as many samples each, in place of equal widths. Returns [*lead].
    """
    count, total, right = _binned(confidence, correct, mass, bins)
    return 100.0 * (right - total).abs().sum(-1) / confidence.shape[-1]


def debiased(
    confidence: Float[Tensor, "*lead sample"], correct: Tensor, bins: int = BINS
) -> Tensor:
    """Root of the mean squared calibration error in percent, over bins of equal mass, less what
    chance adds: acc (1 − acc) / (n − 1) a bin. 0 where that is more. Returns [*lead]."""
    count, total, right = _binned(confidence, correct, True, bins)
    n = count.clamp(min=1)
    accuracy = right / n
    chance = accuracy * (1 - accuracy) / (n - 1).clamp(min=1)
    squared = (count * ((accuracy - total / n).square() - chance)).sum(-1) / confidence.shape[-1]
    return 100.0 * squared.clamp(min=0).sqrt()


def classwise(logits: Float[Tensor, "*lead sample class_"], y: Int64[Tensor, "sample"]) -> Tensor:
    """The calibration error of each class's probability, in percent, mean over classes."""
    p = log_probabilities(logits).exp()
    each = [
        calibration_error(p[..., label], (y == label).expand(p.shape[:-1]))
        for label in range(p.shape[-1])
    ]
    return torch.stack(each).mean(0)


def temperature(
    logits: Float[Tensor, "replica sample class_"], y: Int64[Tensor, "sample"]
) -> Float[Tensor, "replica"]:
    """What to divide logits by for the least negative log-likelihood, by golden section on its
    logarithm: as a function of the inverse temperature it has one minimum."""
    low, high = (
        torch.full((len(logits),), value, dtype=torch.float64, device=logits.device).log()
        for value in _TEMPERATURES
    )
    ratio = (5**0.5 - 1) / 2

    def at(t: Tensor) -> Tensor:
        return nll(logits.double() / t.exp()[:, None, None], y)

    for _ in range(_STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        better = at(left) < at(right)
        low, high = torch.where(better, low, left), torch.where(better, right, high)
    return ((low + high) / 2).exp()


def measure(subject: Subject) -> Measured:
    """Calibration on the test samples; the temperature is that of the validation samples."""
    logits, y = subject.logits(subject.x), subject.y
    validation = subject.splits.validation
    x, labels = drawn(validation, subject.settings.samples, subject.settings.seed, subject.x.dtype)
    warm = temperature(subject.logits(x), labels)
    tempered = logits.double() / warm[:, None, None]
    for name, given in {"reliability": logits, "reliability_tempered": tempered}.items():
        count, total, right = _binned(*_surest(given, y), False, BINS)
        subject.details[name] = {
            "samples": count, "confidence": total / count, "accuracy": right / count
        }  # fmt: skip
    after = {f"{name}_tempered": value for name, value in errors(tempered, y).items()}
    return {**errors(logits, y), **after, "temperature": warm}


def errors(
    logits: Float[Tensor, "*lead sample class_"], y: Int64[Tensor, "sample"]
) -> dict[str, Tensor]:
    """Every measure of calibration by its name in `quantities`, each [*lead]."""
    confidence, correct = _surest(logits, y)
    return {
        "nll": nll(logits, y),
        "brier": brier(logits, y),
        "ece": calibration_error(confidence, correct),
        "ece_mass": calibration_error(confidence, correct, mass=True),
        "rmsce_debiased": debiased(confidence, correct),
        "ece_classwise": classwise(logits, y),
    }


def _surest(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The largest probability of each sample, and whether it is that of the true class."""
    confidence, predicted = log_probabilities(logits).exp().max(-1)
    return confidence, predicted == y
