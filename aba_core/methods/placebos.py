"""Placebos: what stands in for a model's own map, to see whether attribution matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from aba_core.randomness import Draws

Placebo = Literal["", "permuted", "other_sample", "untrained", "random", "gaussian"]


def selecting_map(
    placebo: Placebo,
    of_model: Callable[[], Float[Tensor, "*lead_and_feature"]],
    untrained: Callable[[], Float[Tensor, "*lead_and_feature"]],
    draws: Draws,
    shape: torch.Size,
) -> Float[Tensor, "*lead_and_feature"]:
    """The map by which features are selected: the model's own, or a placebo of the same size.

    permuted: the own map, its features shuffled within each sample. other_sample: the map of the
    sample before in the batch, which is another one at each step. untrained: the map of the model
    as it was initialised. random and gaussian: noise, hence random categories of equal area.
    shape: [*lead, *feature]; draws: where the noise comes from.
    """
    lead = draws.index.dim()
    noise = (
        draws.noise("placebo", 0, shape[lead:].numel())
        if placebo in ("random", "gaussian", "permuted")
        else None
    )
    if noise is not None and placebo != "permuted":
        return noise.reshape(shape)
    attribution = untrained() if placebo == "untrained" else of_model()
    if noise is not None:
        return attribution.flatten(lead).gather(-1, noise.argsort(-1)).reshape(shape)
    if placebo == "other_sample":
        if shape[lead - 1] < 2:
            raise ValueError("placebo 'other_sample' needs batches of two samples or more, got 1")
        return attribution.roll(1, lead - 1)
    return attribution


def in_random_direction(
    x: Float[Tensor, "*lead_and_feature"],
    augmented: Float[Tensor, "*lead_and_feature"],
    draws: Draws,
) -> Float[Tensor, "*lead_and_feature"]:
    """Each sample moved as far (Euclidean norm) as it was, but along Gaussian noise."""
    lead = draws.index.dim()
    noise = draws.noise("placebo", 1, x.shape[lead:].numel()).to(x.dtype)
    distance = (augmented - x).flatten(lead).norm(dim=-1, keepdim=True)
    return x + (noise * (distance / noise.norm(dim=-1, keepdim=True))).reshape(x.shape)
