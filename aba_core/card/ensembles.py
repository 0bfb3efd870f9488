"""Ensembles: what is gained by averaging, and how different two runs of one kind are.

Gains are in points of accuracy; probabilities are averaged. Sources: Huang et al. 2017 (snapshots);
Kornblith et al. 2019 (linear CKA); Summers and Dinneen 2021 (one bit of one weight).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from aba_core.card.ood import _finite, penultimate
from aba_core.card.subject import Measured, Subject, percent
from aba_core.quantities import ASPECTS
from aba_core.replicas import Replicas

CYCLES = 5
ONSETS = (0, 50, 90)  # percent of the training after which a bit is flipped
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def averaged(logits: Float[Tensor, "member *lead sample class_"]) -> Tensor:
    """Classes that the members' mean probability chooses."""
    return torch.softmax(logits.double(), -1).mean(0).argmax(-1)


def pair_gain(
    first: Float[Tensor, "*lead sample class_"],
    second: Float[Tensor, "*lead sample class_"],
    y: Int64[Tensor, "sample"],
) -> Tensor:
    """Accuracy of the pair's mean probabilities less the mean of their accuracies, in points."""
    together = percent(averaged(torch.stack([first, second])) == y)
    alone = [percent(one.argmax(-1) == y) for one in (first, second)]
    return together - (alone[0] + alone[1]) / 2


def linear_cka(
    a: Float[Tensor, "sample unit"], b: Float[Tensor, "sample other"]
) -> Float[Tensor, ""]:
    """‖aᵀb‖² / (‖aᵀa‖ ‖bᵀb‖) of centred features (Frobenius): 1 for features that are equal up to
    rotation and scale."""
    a, b = a.double() - a.double().mean(0), b.double() - b.double().mean(0)
    return (a.T @ b).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())


def flip_bit_of_all(replicas: Replicas, place: int) -> None:
    """Change the last bit of one weight of every replica, in place."""
    with torch.no_grad():
        replicas.parameters.view(_INTEGERS[replicas.parameters.dtype])[:, place] ^= 1


def measure(subject: Subject) -> Measured:
    """Gains of averaging; and differences to a second run, where models can be trained anew."""
    logits, y = subject.logits(subject.x), subject.y
    alone = percent(logits.argmax(-1) == y)
    measured = subject.absent(ASPECTS["ensembles"])
    if subject.pictures:
        flipped = subject.logits(subject.x.flip(-1))
        measured["flip_gain"] = percent(averaged(torch.stack([logits, flipped])) == y) - alone
    twin = subject.twin
    if twin is None:
        return measured
    other = subject.logits(subject.x, twin)
    measured["pair_gain"] = pair_gain(logits, other, y)
    measured["disagreement"] = percent(logits.argmax(-1) != other.argmax(-1))
    measured["cka"] = _cka(subject, twin)
    if subject.watches and subject.schedules:
        measured["snapshot_gain"] = _snapshots(subject) - alone
    if subject.watches:
        for onset in ONSETS:
            again = subject.logits(subject.x, _flipped(subject, onset))
            measured[f"onset_{onset}"] = percent(again.argmax(-1) != logits.argmax(-1))
    return measured


def _cka(subject: Subject, twin: Replicas) -> Tensor:
    values = []
    for number, (model, healthy) in enumerate(zip(subject.models(), _finite(subject), strict=True)):
        features = [penultimate(one, subject.x) for one in (model, twin.model(number))]
        values.append(linear_cka(*features) if healthy else torch.tensor(float("nan")).double())
    return torch.stack(values)


def _snapshots(subject: Subject) -> Tensor:
    """Accuracy in percent of the models at the ends of the cycles of one training."""
    kept: list[Tensor] = []

    def look(step: int, steps: int, replicas: Replicas) -> None:
        if step == steps or step % -(-steps // CYCLES) == 0:
            with replicas.undisturbed("eval") as evaluated:
                kept.append(subject.logits(subject.x, evaluated))

    assert subject.retrain is not None
    subject.retrain(subject.splits, observe=look, schedule="cycles")
    return percent(averaged(torch.stack(kept)) == subject.y)


def _flipped(subject: Subject, onset: int) -> Replicas:
    """The same run, one bit of one weight flipped after a part of the training."""
    place = -1  # a bias of the last layer: it always has a gradient

    def change(step: int, steps: int, replicas: Replicas) -> None:
        if step == max(1, round(steps * onset / 100)):
            flip_bit_of_all(replicas, place)

    assert subject.retrain is not None
    return subject.retrain(subject.splits, observe=change)
