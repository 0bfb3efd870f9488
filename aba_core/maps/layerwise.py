"""Maps from a layer's activations and gradients, brought to the input's size.

A channel of activations A with gradients g of the score. CAMs keep what speaks for the score, by
ReLU. As in `backward`, the score is minus the objective, and the result is turned round: no value
is above 0, and the region that speaks most for the class has the lowest. NormGrad has no sense: it
is not below 0, and high where the layer matters most.

The layer is the last convolution, or one by name. Maps go to the input's rows and columns by
bilinear interpolation, to tokens by linear interpolation, and are alike for all channels of a pixel
and all of a token's embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from aba_core.maps.gradients import noisy
from aba_core.models import TextCNN
from aba_core.randomness import Draws

if TYPE_CHECKING:
    from aba_core.attribution import Attribution, Objective

# Activations and gradients of the score, [*lead, channel, *place], to a map [*lead, *place].
Combine = Callable[[Tensor, Tensor], Tensor]


def grad_cam(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws, layer: str = ""
) -> Tensor:
    """ReLU of the sum of channels, each times its mean gradient (Selvaraju et al. 2017)."""

    def combine(a: Tensor, g: Tensor) -> Tensor:
        inside = _places(a, draws)
        return (g.mean(inside, keepdim=True) * a).sum(draws.index.dim()).clamp(min=0)

    return -_at_layer(objective, x, draws, layer, combine)


def grad_cam_plus_plus(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws, layer: str = ""
) -> Tensor:
    """Grad-CAM with a channel's positive gradients weighted by g² / (2g² + ΣA·g³), the sum over
    places (Chattopadhay et al. 2018)."""

    def combine(a: Tensor, g: Tensor) -> Tensor:
        return _plus_plus(draws, a, g, g**2, g**3)

    return -_at_layer(objective, x, draws, layer, combine)


def smooth_grad_cam_plus_plus(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws, layer: str = ""
) -> Tensor:
    """Grad-CAM++ with the means of g, g² and g³ over noisy inputs (Omeiza et al. 2019). Activations
    are those of the input itself."""
    objective.choose(x)
    name = layer or _last_convolution(objective)
    powers: list[Tensor] = []
    for at in noisy(x, attribution, draws):
        _, g = objective.at_layer(at, name)
        new = [g, g**2, g**3]
        powers = [a + b for a, b in zip(powers, new, strict=True)] if powers else new
    means = [power / attribution.samples for power in powers]

    def combine(a: Tensor, g: Tensor) -> Tensor:
        return _plus_plus(draws, a, *means)

    return -_at_layer(objective, x, draws, name, combine)


def layer_cam(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws, layer: str = ""
) -> Tensor:
    """ReLU of the sum of channels, each place times its positive gradient (Jiang et al. 2021)."""

    def combine(a: Tensor, g: Tensor) -> Tensor:
        return (g.clamp(min=0) * a).sum(draws.index.dim()).clamp(min=0)

    return -_at_layer(objective, x, draws, layer, combine)


def norm_grad(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws, layer: str = ""
) -> Tensor:
    """The norm of a place's activations times that of their gradients (Rebuffi et al. 2020)."""

    def combine(a: Tensor, g: Tensor) -> Tensor:
        channel = draws.index.dim()
        return a.norm(dim=channel) * g.norm(dim=channel)

    return _at_layer(objective, x, draws, layer, combine)


def _smooth_passes(attribution: Attribution) -> float:
    return 2.0 + attribution.samples


smooth_grad_cam_plus_plus.passes = _smooth_passes  # type: ignore[attr-defined]
for _function in (grad_cam, grad_cam_plus_plus, smooth_grad_cam_plus_plus, layer_cam, norm_grad):
    _function.version = 1  # type: ignore[attr-defined]


def _places(a: Tensor, draws: Draws) -> tuple[int, ...]:
    return tuple(range(draws.index.dim() + 1, a.dim()))


def _plus_plus(draws: Draws, a: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    inside = _places(a, draws)
    below = 2 * second + (a * third).sum(inside, keepdim=True)
    share = torch.where(below == 0, 0, second / torch.where(below == 0, 1, below))
    weights = (share * first.clamp(min=0)).sum(inside, keepdim=True)
    return (weights * a).sum(draws.index.dim()).clamp(min=0)


def _last_convolution(objective: Objective) -> str:
    architecture = objective.maker.architecture
    kinds = (nn.Conv1d, nn.Conv2d)
    names = [name for name, module in architecture.named_modules() if isinstance(module, kinds)]
    if not names:
        raise ValueError(
            "the model has no convolution that a map could be made at; needed: one, or the name of "
            "a layer, as {use: 'aba_core.maps:grad_cam', layer: NAME}"
        )
    return names[-1]


def _at_layer(
    objective: Objective, x: Tensor, draws: Draws, layer: str, combine: Combine
) -> Tensor:
    name, lead = layer or _last_convolution(objective), draws.index.dim()
    a, g = objective.at_layer(x, name)
    texts = any(type(module) is TextCNN for module in objective.maker.architecture.modules())
    places, sides = a.shape[lead + 1 :], x.shape[lead:]
    sides = sides[:1] if texts else sides[1:]
    if not places or len(places) != len(sides) or len(places) > 2:
        raise ValueError(
            f"layer {name!r} gives {tuple(a.shape[lead:])} for an input "
            f"{tuple(x.shape[lead:])}; needed: [channel, row, column] of pictures, or "
            "[channel, token] of texts"
        )
    coarse = combine(a, g).flatten(0, lead - 1)[:, None]
    mode = "bilinear" if len(places) == 2 else "linear"
    fine = functional.interpolate(coarse, tuple(sides), mode=mode, align_corners=False)
    fine = fine[:, 0].reshape(*x.shape[:lead], *sides)
    return fine.unsqueeze(-1 if texts else lead).expand_as(x)
