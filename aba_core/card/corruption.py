"""Corruption: accuracy on damaged test samples, at five severities.

Pictures have the 15 kinds of Hendrycks and Dietterich 2019 (`pictures`); texts lose, swap and blur
their words; tables and signals are jittered and lose values. Every model sees the same damage.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from aba_core.card.picture_corruptions import PICTURES
from aba_core.card.subject import Measured, Subject, percent
from aba_core.quantities import ASPECTS

SEVERITIES = (1, 2, 3, 4, 5)
# Shares of words or values, and standard deviations in standardised units, by severity.
DROPPED = (0.1, 0.2, 0.3, 0.4, 0.5)
SWAPPED = (0.1, 0.2, 0.3, 0.4, 0.5)
SYNONYMS = (0.2, 0.4, 0.6, 0.8, 1.0)
JITTERED = (0.1, 0.2, 0.4, 0.6, 0.8)
MISSING = (0.05, 0.1, 0.2, 0.3, 0.5)

Corruption = Callable[[Subject, int], Float[Tensor, "sample *feature"]]


def dropped(subject: Subject, severity: int) -> Tensor:
    """Words replaced by padding, which is zero."""
    x = subject.x
    kept = subject.uniform(x.shape[:2], "dropped") >= DROPPED[severity - 1]
    return x * kept[..., None]


def swapped(subject: Subject, severity: int) -> Tensor:
    """Neighbouring words exchanged: disjoint pairs, each with the severity's chance."""
    x = subject.x
    tokens = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
    partner = (tokens ^ 1).clamp(max=x.shape[1] - 1)
    chance = subject.uniform((len(x), x.shape[1] // 2 + 1), "swapped").gather(1, tokens // 2)
    place = torch.where(chance < SWAPPED[severity - 1], partner, tokens)
    return x.gather(1, place[..., None].expand_as(x))


def synonyms(subject: Subject, severity: int) -> Tensor:
    """Words moved in the space of their vectors; padding stays."""
    x = subject.x
    words = (x != 0).any(-1, keepdim=True)
    return x + words * SYNONYMS[severity - 1] * subject.normal(x.shape, "synonyms")


def jittered(subject: Subject, severity: int) -> Tensor:
    """Gaussian noise in standardised units."""
    x = subject.x
    return x + JITTERED[severity - 1] * subject.normal(x.shape, "jittered")


def missing(subject: Subject, severity: int) -> Tensor:
    """Values replaced by zero, which is their mean in standardised units."""
    x = subject.x
    return x * (subject.uniform(x.shape, "missing") >= MISSING[severity - 1])


def pictures(subject: Subject, kind: str, severity: int) -> Tensor:
    """Pictures damaged in [0, 1], where 0 and 1 are the ends of what training pictures have."""
    bounds = subject.bounds()
    assert bounds is not None
    low, high = bounds
    span = (high - low).clamp(min=1e-12)
    units = ((subject.x - low) / span).clamp(0, 1)
    damaged = PICTURES[kind](units.double().cpu(), severity, subject.generator(kind))
    return damaged.clamp(0, 1).to(subject.x) * span + low


def corruptions(subject: Subject) -> dict[str, Corruption]:
    """The kinds that fit the data: pictures, texts, or anything else."""
    if subject.pictures:
        return {
            kind: lambda one, severity, kind=kind: pictures(one, kind, severity)  # type: ignore[misc]
            for kind in PICTURES
        }
    if subject.splits.test.embedding is not None:
        return {"dropped": dropped, "swapped": swapped, "synonyms": synonyms}
    return {"jittered": jittered, "missing": missing}


def measure(subject: Subject) -> Measured:
    """Accuracy in percent of each kind (mean over severities), each severity (mean over kinds), and
    of all; 100 less the last is the mean corruption error."""
    table = torch.stack([
        torch.stack([
            percent(subject.logits(damage(subject, severity)).argmax(-1) == subject.y)
            for severity in SEVERITIES
        ])
        for damage in corruptions(subject).values()
    ])  # fmt: skip
    kinds = list(corruptions(subject))
    subject.details["corruption"] = {"kinds": kinds, "accuracy": table}
    absent = torch.full((len(subject.replicas),), float("nan"), dtype=torch.float64)
    measured = {name: absent.clone() for name in ASPECTS["corruption"]}
    measured["corrupted_accuracy"] = table.mean((0, 1))
    for place, severity in enumerate(SEVERITIES):
        measured[f"corrupted_{severity}_accuracy"] = table[:, place].mean(0)
    for place, kind in enumerate(kinds):
        measured[f"{kind}_accuracy"] = table[place].mean(0)
    return measured
