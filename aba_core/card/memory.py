"""Memory: what a model learns by heart, and which samples it finds hard.

Models are trained anew on wrong labels. Sources: Zhang et al. 2017 (random labels); Paul, Ganguli
and Dziugaite 2021 (EL2N, GraNd); Pleiss et al. 2020 (area under the margin); Toneva et al. 2019
(forgetting events).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.func import functional_call, grad, vmap

from aba_core.adjustments import ADJUSTMENTS, Adjustment, Group
from aba_core.card.attacks import _margin
from aba_core.card.ood import auroc
from aba_core.card.subject import Measured, Subject, drawn, percent, relabelled
from aba_core.methods.aba import adjust
from aba_core.replicas import Replicas
from aba_core.selection import Percentiles

NOISES = (10, 20, 40)  # percent of labels that are wrong
WATCHED = 20  # of them, where margins are watched while training
LOOKS = 25  # evenly spaced over a training
TRAIN_SAMPLES = 500  # that are looked at
STRENGTH = 0.5  # of the adjustments whose change of EL2N is measured


def el2n(
    logits: Float[Tensor, "*lead sample class_"], y: Int64[Tensor, "sample"]
) -> Float[Tensor, "*lead sample"]:
    """Norm of each sample's error: probabilities less the true class."""
    p = torch.softmax(logits.double(), -1)
    return (p - torch.nn.functional.one_hot(y, p.shape[-1])).norm(dim=-1)


def grand(subject: Subject, x: Tensor, y: Tensor) -> Float[Tensor, "replica sample"]:
    """Norm of each sample's gradient with respect to all weights; one replica after another."""
    replicas = subject.replicas
    template, loss = replicas.template, subject.loss

    def single(values: dict, buffers: dict, x: Tensor, y: Tensor) -> Tensor:
        x = x[None].clone() if replicas.habits.changes_inputs else x[None]
        return loss(functional_call(template, (values, buffers), (x,)), y[None])[0]

    norms = []
    for number in range(len(replicas)):
        row = replicas.parameters.detach()[number : number + 1]
        values = {name: value[0] for name, value in replicas.named_parameters(row).items()}
        buffers = {name: value[number] for name, value in replicas.buffers.items()}
        if replicas.together is False:  # what vmap cannot run
            pieces = [grad(single)(values, buffers, *one) for one in zip(x, y, strict=True)]
            squares = [sum(g.square().sum() for g in one.values()) for one in pieces]
            norms.append(torch.stack(squares).sqrt())
            continue
        own = vmap(grad(single), (None, None, 0, 0))(values, buffers, x, y)
        norms.append(sum(g.flatten(1).square().sum(1) for g in own.values()).sqrt())
    return torch.stack(norms).double()


def changed_el2n(subject: Subject, x: Tensor, y: Tensor, group: Group) -> Float[Tensor, "replica"]:
    """Mean change of EL2N of training samples, over the adjustments of a group, magnitude 1."""
    before = el2n(subject.logits(x), y).mean(-1)
    own = [one for one in ADJUSTMENTS if one.group is group]
    changes = [
        el2n(subject.own_logits(moved), y).mean(-1) - before
        for _, moved in adjusted(subject, x, y, own)
    ]
    return torch.stack(changes).mean(0)


def adjusted(
    subject: Subject, x: Tensor, y: Tensor, adjustments: Iterable[Adjustment]
) -> Iterator[tuple[Adjustment, Float[Tensor, "replica sample *feature"]]]:
    """The samples as each adjustment moves them, by every replica's own map of the loss."""
    own = x.expand(len(subject.replicas), *x.shape)
    maps = subject.gradient(own, y)
    masks = Percentiles(0.1, 0.9).masks(maps.flatten(0, 1).flatten(1))
    masks = masks.unflatten(2, x.shape[1:])
    flat, ones = own.flatten(0, 1), torch.ones(maps.shape[0] * maps.shape[1], device=x.device)
    for adjustment in adjustments:
        table = torch.tensor([tuple(adjustment)], device=x.device, dtype=x.dtype)
        moved = adjust(flat, masks, table.expand(len(flat), 3), STRENGTH, ones)
        yield adjustment, moved.unflatten(0, own.shape[:2])


def by_adjustment(subject: Subject) -> list[dict[str, Any]]:
    """What each of the 27 does to EL2N and GraNd of one model, magnitude 1: a row each, with
    adjustment, group, el2n and grand, mean changes over `probed` training samples."""
    assert len(subject.replicas) == 1
    settings = subject.settings
    x, y = drawn(subject.splits.train, settings.probed, settings.seed, subject.x.dtype)
    errors, norms = el2n(subject.logits(x), y).mean(), grand(subject, x, y).mean()
    return [
        {
            "adjustment": str(adjustment),
            "group": adjustment.group.value,
            "el2n": float(el2n(subject.own_logits(moved), y).mean() - errors),
            "grand": float(grand(subject, moved[0], y).mean() - norms),
        }
        for adjustment, moved in adjusted(subject, x, y, ADJUSTMENTS)
    ]


@dataclass
class Watch:
    """Margins of training samples at evenly spaced steps of a training."""

    subject: Subject
    x: Float[Tensor, "sample *feature"]
    y: Int64[Tensor, "sample"]
    margins: list[Float[Tensor, "replica sample"]] = field(default_factory=list)

    def __call__(self, step: int, steps: int, replicas: Replicas) -> None:
        looks = min(LOOKS, steps)
        if step * looks // steps > (step - 1) * looks // steps:
            with replicas.undisturbed("eval") as evaluated:
                logits = self.subject.logits(self.x, evaluated)
            self.margins.append(_margin(logits.double(), self.y))

    @property
    def area(self) -> Float[Tensor, "replica sample"]:
        """Area under the margin: its mean over the looks."""
        return torch.stack(self.margins).mean(0)

    @property
    def forgotten(self) -> Float[Tensor, "replica sample"]:
        """How often a sample was right at one look and wrong at the next."""
        right = torch.stack(self.margins) > 0
        return (right[:-1] & ~right[1:]).double().sum(0)


def wrong_labels(
    subject: Subject, share: float
) -> tuple[Int64[Tensor, "train"], Bool[Tensor, "train"]]:
    """Training labels of which a share is replaced by another class, and which ones are. Of a
    larger share, the same samples and more."""
    y = subject.splits.train.y
    generator = subject.generator("label noise")
    order = torch.randperm(len(y), generator=generator)
    shift = torch.randint(1, subject.splits.classes, (len(y),), generator=generator).to(y.device)
    chosen = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    chosen[order[: round(share * len(y))].to(y.device)] = True
    return torch.where(chosen, (y + shift) % subject.splits.classes, y), chosen


def random_labels(subject: Subject) -> Int64[Tensor, "train"]:
    """The training labels in random order: as many of each class, none told by its sample."""
    y = subject.splits.train.y
    order = torch.randperm(len(y), generator=subject.generator("random labels"))
    return y[order.to(y.device)]


def measure(subject: Subject) -> Measured:
    """Scores of training samples; and of models trained on wrong labels, where any can be."""
    splits, settings = subject.splits, subject.settings
    x, y = drawn(splits.train, TRAIN_SAMPLES, settings.seed, subject.x.dtype)
    own = el2n(subject.logits(x), y)
    norms = grand(subject, x[: settings.probed], y[: settings.probed])
    subject.details["el2n"], subject.details["grand"] = own, norms
    measured = {
        "el2n": own.mean(1),
        "grand": norms.mean(1),
        "el2n_epsilon": changed_el2n(subject, x, y, Group.EPSILON),
        "el2n_delta": changed_el2n(subject, x, y, Group.DELTA),
    }
    noisy = [*(f"noisy_{n}_accuracy" for n in NOISES), "random_labels_accuracy"]
    measured |= subject.absent([*noisy, "mislabelled_auroc", "aum", "forgotten"])
    return measured | (_retrained(subject, x, y) if subject.retrain else {})


def _retrained(subject: Subject, x: Tensor, y: Tensor) -> Measured:
    assert subject.retrain is not None
    splits, settings = subject.splits, subject.settings
    measured: Measured = {}
    for noise in NOISES:
        labels, chosen = wrong_labels(subject, noise / 100)
        watch = None
        if noise == WATCHED and subject.watches:
            wrong = relabelled(splits, labels)
            seen, shown = drawn(wrong.train, TRAIN_SAMPLES, settings.seed, subject.x.dtype)
            watch = Watch(subject, seen, shown)
        models = subject.retrain(relabelled(splits, labels), observe=watch)
        hits = subject.logits(subject.x, models).argmax(-1) == subject.y
        measured[f"noisy_{noise}_accuracy"] = percent(hits)
        if watch is not None:
            changed = shown != y
            area = watch.area
            measured["mislabelled_auroc"] = (
                auroc(area[:, ~changed], area[:, changed])
                if bool(changed.any())
                else torch.full((len(area),), float("nan"), dtype=torch.float64)
            )
    labels = random_labels(subject)
    models = subject.retrain(relabelled(splits, labels))
    seen, shown = drawn(
        relabelled(splits, labels).train, TRAIN_SAMPLES, settings.seed, subject.x.dtype
    )
    measured["random_labels_accuracy"] = percent(subject.logits(seen, models).argmax(-1) == shown)
    if not subject.watches:
        return measured
    watch = Watch(subject, x, y)
    subject.retrain(splits, observe=watch)
    subject.details["aum"], subject.details["forgotten"] = watch.area, watch.forgotten
    measured["aum"] = watch.area.mean(1)
    measured["forgotten"] = watch.forgotten.mean(1)
    return measured
