"""Maps from gradients alone, for any model.

All but two are linear in the objective, so that they have its sense. The absolute forms and
`vargrad` have none: they are not below 0, and high is where the objective changes or varies most.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from aba_core.randomness import Draws

if TYPE_CHECKING:
    from aba_core.attribution import Attribution, Objective

Baseline = Literal["zero", "mean", "blurred", "sample"]

# Draws of uniforms begin at this copy, past all copies of noise.
_PAST_NOISE = 2**19


def gradient(objective: Objective, x: Tensor, attribution: Attribution, draws: Draws) -> Tensor:
    return objective.gradient(x)


def gradient_x_input(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws
) -> Tensor:
    return objective.gradient(x) * x


def noisy(x: Tensor, attribution: Attribution, draws: Draws) -> Iterator[Tensor]:
    """Copies of the inputs, with noise of standard deviation `noise` times each sample's range."""
    lead = draws.index.dim()
    features = x.shape[lead:]
    inside = tuple(range(lead, x.dim()))
    spread = x.amax(inside, keepdim=True) - x.amin(inside, keepdim=True)
    for copy in range(attribution.samples):
        noise = draws.noise("smoothing", copy, features.numel()).to(x.dtype)
        yield x + attribution.noise * spread * noise.unflatten(-1, features)


def smoothgrad(objective: Objective, x: Tensor, attribution: Attribution, draws: Draws) -> Tensor:
    objective.choose(x)
    total = torch.zeros_like(x)
    for at in noisy(x, attribution, draws):
        total += objective.gradient(at)
    return total / attribution.samples


def smoothgrad_x_input(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws
) -> Tensor:
    return smoothgrad(objective, x, attribution, draws) * x


def vargrad(objective: Objective, x: Tensor, attribution: Attribution, draws: Draws) -> Tensor:
    """The variance of the gradient over noisy copies (Adebayo et al. 2018)."""
    objective.choose(x)
    gradients = [objective.gradient(at) for at in noisy(x, attribution, draws)]
    # PyTorch's variance over the first axis takes eight times as long.
    mean, total = torch.zeros_like(x), torch.zeros_like(x)
    for one in gradients:
        mean += one / len(gradients)
    for one in gradients:
        total += (one - mean) ** 2
    return total / len(gradients)


def integrated_gradients(
    objective: Objective,
    x: Tensor,
    attribution: Attribution,
    draws: Draws,
    baseline: Baseline = "zero",
) -> Tensor:
    """The mean gradient on the way from a baseline to the input, times their difference.

    baseline: "zero", the data set's mean in standardised units; "mean", the mean of the sample's
    features; "blurred", the sample blurred; "sample", another sample of the batch.
    """
    objective.choose(x)
    total = torch.zeros_like(x)
    if baseline == "zero":
        for step in range(attribution.samples):
            total += objective.gradient(x * ((step + 0.5) / attribution.samples))
        return x * total / attribution.samples
    start = baseline_of(x, baseline, draws)
    for step in range(attribution.samples):
        share = (step + 0.5) / attribution.samples
        total += objective.gradient(start + share * (x - start))
    return (x - start) * total / attribution.samples


def expected_gradients(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws
) -> Tensor:
    """Integrated gradients expected over baselines, the other samples of the batch: each of
    `samples` gradients stands at a random share of the way from a random one (Erion et al. 2021).
    """
    objective.choose(x)
    total = torch.zeros_like(x)
    for copy in range(attribution.samples):
        start = _another(x, draws, copy)
        share = draws.uniform("smoothing", _PAST_NOISE + 2 * copy + 1).to(x.dtype)
        share = share.reshape(*share.shape, *(1,) * (x.dim() - share.dim()))
        total += (x - start) * objective.gradient(start + share * (x - start))
    return total / attribution.samples


def baseline_of(x: Tensor, baseline: str, draws: Draws) -> Tensor:
    """Where a path begins, shaped like x."""
    lead = draws.index.dim()
    if baseline == "zero":
        return torch.zeros_like(x)
    if baseline == "mean":
        return x.mean(tuple(range(lead, x.dim())), keepdim=True).expand_as(x)
    if baseline == "blurred":
        return _blurred(x, lead)
    if baseline == "sample":
        return _another(x, draws, 0)
    raise ValueError(f"unknown baseline {baseline!r}; known: {', '.join(get_args(Baseline))}")


def _another(x: Tensor, draws: Draws, copy: int) -> Tensor:
    """A random other sample of the batch, for each."""
    batch = draws.index.shape[-1]
    if batch < 2:
        raise ValueError("a batch of 1 sample has no other one for a baseline; needed: 2 or more")
    drawn = draws.uniform("smoothing", _PAST_NOISE + 2 * copy)
    place = torch.arange(batch, device=x.device)
    other = (place + 1 + (drawn * (batch - 1)).long()) % batch
    if other.dim() == 1:
        return x[other]
    return x.gather(1, other.reshape(*other.shape, *(1,) * (x.dim() - 2)).expand_as(x))


def _blurred(x: Tensor, lead: int) -> Tensor:
    """Blurred along rows and columns, or along tokens, by Gaussians whose standard deviation is an
    eighth of the side. At the edges the weights inside add up to 1."""
    features = x.dim() - lead
    if features not in (2, 3):
        raise ValueError(
            f"inputs of {features} dimensions cannot be blurred; needed: [channel, height, width] "
            "or [token, embedding]"
        )
    for axis in (lead + 1, lead + 2) if features == 3 else (lead,):
        side = x.shape[axis]
        place = torch.arange(side, device=x.device, dtype=x.dtype)
        weights = torch.exp(-0.5 * ((place[:, None] - place) / (side / 8)) ** 2)
        weights = weights / weights.sum(1, keepdim=True)
        x = (x.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return x


def absolute_gradient(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws
) -> Tensor:
    return gradient(objective, x, attribution, draws).abs()


def absolute_gradient_x_input(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws
) -> Tensor:
    return gradient_x_input(objective, x, attribution, draws).abs()


def absolute_smoothgrad(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws
) -> Tensor:
    return smoothgrad(objective, x, attribution, draws).abs()


def absolute_integrated_gradients(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws
) -> Tensor:
    return integrated_gradients(objective, x, attribution, draws).abs()


def _passes_with_samples(attribution: Attribution) -> float:
    return 1.0 + attribution.samples


# What functions named with options cost (`Attribution.passes`), and the version in a run's key.
for _function in (
    *(smoothgrad, smoothgrad_x_input, vargrad, integrated_gradients, expected_gradients),
    *(absolute_smoothgrad, absolute_integrated_gradients),
):
    _function.passes = _passes_with_samples  # type: ignore[attr-defined]
    _function.version = 1  # type: ignore[attr-defined]
