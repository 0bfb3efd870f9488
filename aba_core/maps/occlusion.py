"""Occlusion: what the objective loses when a patch of the input is hidden.

Linear in the objective, so that it has its sense: positive where what stands in the patch raises
the loss. As in gradient × input, that is a statement on the patch as it is, against its filling.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aba_core.maps.gradients import baseline_of
from aba_core.randomness import Draws

if TYPE_CHECKING:
    from aba_core.attribution import Attribution, Objective


def occlusion(
    objective: Objective,
    x: Tensor,
    attribution: Attribution,
    draws: Draws,
    size: int = 0,
    stride: int = 0,
    baseline: str = "zero",
    at_once: int = 16,
) -> Tensor:
    """The objective of the input less that of the input with a patch hidden, for the patch's
    features; the mean where patches overlap (Zeiler and Fergus 2014).

    size: of the patch, in pixels of a side (all channels), tokens (all of the embedding), or
    features; 0 is a quarter of the side, rounded up. stride: from patch to patch; 0 is the size.
    baseline: what the patch is filled with, as in `integrated_gradients`. at_once: patches that go
    through the model together, where samples of a batch do not act on one another.
    """
    for name, value, low in (("size", size, 0), ("stride", stride, 0), ("at_once", at_once, 1)):
        if type(value) is not int or value < low:
            raise ValueError(f"{name} is {value!r}; allowed: whole numbers from {low}")
    lead = draws.index.dim()
    masks = _patches(x.shape[lead:], size, stride, x.device)
    filling = baseline_of(x, baseline, draws)
    total = torch.zeros_like(x)
    with torch.no_grad():
        before = objective(x)
        shape = *before.shape, *(1,) * (x.dim() - lead)
        for some in masks.split(1 if objective.samples_meet else at_once):
            hidden = [torch.where(mask, filling, x) for mask in some]
            for mask, after in zip(some, objective.of_copies(hidden), strict=True):
                total += mask * (before - after).reshape(shape)
    return total / masks.sum(0)


occlusion.passes = 17 / 3  # type: ignore[attr-defined]  # forward alone, 16 patches as it is told nothing
occlusion.version = 1  # type: ignore[attr-defined]


def _patches(features: torch.Size, size: int, stride: int, device: torch.device) -> Tensor:
    """Which features each patch hides: [patch, *feature]. The last one of a row begins where it
    must to end with it."""
    axes = range(1, 3) if len(features) == 3 else range(1)
    rows = torch.ones(1, *features, dtype=torch.bool, device=device)
    for axis in axes:
        side = features[axis]
        length = min(size or math.ceil(side / 4), side)
        if stride > length:
            raise ValueError(f"stride is {stride}; allowed: up to the size, which is {length} here")
        starts = [*range(0, side - length, stride or length), side - length]
        place = torch.arange(side, device=device)
        inside = torch.stack([(place >= start) & (place < start + length) for start in starts])
        shape = [len(starts), *(1,) * len(features)]
        shape[1 + axis] = side
        rows = (rows[:, None] & inside.reshape(shape)[None]).flatten(0, 1)
    return rows
