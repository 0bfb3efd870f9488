"""Inspection: one sample before and after one adjustment, with everything in between."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from aba_core.adjustments import ADJUSTMENTS, AdjustmentSet
from aba_core.attribution import Loss, attribute, check_inputs, cross_entropy, undisturbed
from aba_core.methods.aba import ABA, Augmentation, adjust
from aba_core.randomness import Draws
from aba_core.selection import categorize


@dataclass(frozen=True, eq=False)
class Inspection:
    """What an augmentation did to one sample of one model, and what each of the 27 would do.

    changes: those applied, low category first. loss_changes: loss under each of the 27, in the
    published order, less the loss before; NaN where the split cannot express the adjustment.
    versions: the sample under each adjustment that it can express, by index.
    """

    x: Float[Tensor, "*feature"]
    attribution: Float[Tensor, "*feature"]
    categories: Bool[Tensor, "category *feature"]
    changes: tuple[float, ...]
    augmented: Float[Tensor, "*feature"]
    scores_before: Float[Tensor, "class_"]
    scores_after: Float[Tensor, "class_"]
    loss_before: float
    loss_after: float
    loss_changes: tuple[float, ...]
    versions: dict[int, Float[Tensor, "*feature"]]


def inspect_sample(
    model: nn.Module,
    x: Float[Tensor, "*feature"],
    y: Tensor,
    augmentation: Augmentation | str,
    magnitude: float = 1.0,
    draw: int = 0,
    loss: Loss = cross_entropy,
) -> Inspection:
    """Apply an augmentation to one sample, at a given magnitude, in eval mode.

    augmentation: an `Augmentation` or a preset's name, as `ABA` takes them.
    draw: which draw of the set's member (and of the class, for target "class_score") is shown.
    Raises ValueError for a magnitude below 0 or not finite, and for what `attribute` refuses.
    """
    if not 0 <= magnitude < float("inf"):
        raise ValueError(f"magnitude is {magnitude!r}; allowed: finite and not below 0")
    if not isinstance(augmentation, Augmentation):
        augmentation = ABA(augmentation).augmentation  # by name, or refused
    split = augmentation.split
    xs, ys = x.detach()[None], y[None]
    check_inputs(xs, ys)
    draws = Draws.single(0, draw, 1, x.device)
    changes, _ = augmentation.changes(draws, xs)
    attribution = attribute(model, xs, ys, draws=draws, loss=loss, **vars(augmentation.maps))
    categories = categorize(attribution, split)

    expressed = [
        adjustment
        for adjustment in ADJUSTMENTS
        if split.categories == 3 or (split.categories == 2 and not adjustment.middle)
    ]
    every = [AdjustmentSet((each,)).table(split.categories)[0] for each in expressed]
    # One batch: the sample itself, the sample augmented, the sample under each of the 27.
    applied = torch.cat([torch.zeros_like(changes), changes, changes.new_tensor(every)])
    count = len(applied)
    moved = adjust(
        xs.expand(count, *x.shape),
        categories.expand(split.categories, count, *x.shape),
        applied,
        augmentation.strength,
        torch.full((count,), magnitude, device=x.device),
    )
    with torch.no_grad(), undisturbed(model, "eval"):
        scores = model(moved)
        losses = loss(scores, ys.expand(count, *ys.shape[1:]))
    loss_changes = dict.fromkeys(range(len(ADJUSTMENTS)), float("nan"))
    for adjustment, change in zip(expressed, (losses[2:] - losses[0]).tolist(), strict=True):
        loss_changes[adjustment.index] = change
    return Inspection(
        x=xs[0],
        attribution=attribution[0],
        categories=categories[:, 0],
        changes=tuple(changes[0].tolist()),
        augmented=moved[1],
        scores_before=scores[0],
        scores_after=scores[1],
        loss_before=float(losses[0]),
        loss_after=float(losses[1]),
        loss_changes=tuple(loss_changes.values()),
        versions={adjustment.index: x for adjustment, x in zip(expressed, moved[2:], strict=True)},
    )
