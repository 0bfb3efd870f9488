"""Whether maps show what a model has learnt: its layers are randomised, and the maps compared.

Layers are randomised one after the other from the output back to the input (a cascade), and each
one alone (Adebayo et al. 2018, "Sanity checks for saliency maps"). All maps explain the score of
the class that the trained model predicts, of a trained and of a randomised model alike.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from aba_core.architecture import initial_model
from aba_core.arms import Target, TrainConfig
from aba_core.datasets import Splits
from aba_core.quality import MOST, NEW_START, Judged, Map, correlation, first_samples

# What belongs to the layer before it.
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
WINDOW = 7  # side of the windows of structural similarity


def layers(model: nn.Module) -> list[tuple[str, ...]]:
    """Names of the modules with parameters of their own, the output's first, in the order in which
    they were registered; a norm belongs to the layer before it."""
    found: list[tuple[str, ...]] = []
    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is None:
            continue
        if found and isinstance(module, _NORMS):
            found[-1] += (name,)
        else:
            found.append((name,))
    return found[::-1]


def randomised(model: nn.Module, other: nn.Module, names: Sequence[str]) -> nn.Module:
    """A copy of the model whose named modules have the parameters and buffers of another one."""
    changed = copy.deepcopy(model)
    for name in names:
        mine, new = changed.get_submodule(name), other.get_submodule(name)
        with torch.no_grad():
            for kind in ("named_parameters", "named_buffers"):
                values = dict(getattr(new, kind)(recurse=False))
                for part, value in getattr(mine, kind)(recurse=False):
                    value.copy_(values[part])
    return changed


def similarity(one: Map, other: Map) -> float:
    """Structural similarity (SSIM, Wang et al. 2004) of the sizes of pictures' maps, summed over
    channels, each map's largest being 1; the mean over windows and samples, times 100.

    Windows are squares of `WINDOW` pixels, or of the shorter side, and count all pixels alike.
    """
    a, b = (_pictures(maps) for maps in (one, other))
    side = min(WINDOW, *a.shape[1:])
    correction = side**2 / max(side**2 - 1, 1)

    def mean(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values[:, None], side, 1)[:, 0]

    over_a, over_b = mean(a), mean(b)
    variances = correction * (mean(a * a) - over_a**2 + mean(b * b) - over_b**2)
    covariance = correction * (mean(a * b) - over_a * over_b)
    alike = (2 * over_a * over_b + 0.01**2) / (over_a**2 + over_b**2 + 0.01**2)
    return 100 * float((alike * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean())


def _pictures(maps: Map) -> Tensor:
    """Sizes [sample, row, column] of maps [sample, channel, row, column], from 0 to 1."""
    size = maps.double().abs().sum(1)
    return size / size.amax((1, 2), keepdim=True).clamp(min=1e-300)


@dataclass(frozen=True)
class Cascaded(Judged):
    """Training as usual, after which the model's layers are randomised, as further columns map_...
    of the run; see `cascade`. The fields are those of `Judged`."""

    kind: ClassVar[str] = "cascaded"

    target: Target = "true_class"  # given the class that the trained model predicts

    @property
    def irrelevant(self) -> frozenset[str]:
        return super().irrelevant | {"strength", "new_start"}

    def measured(
        self, model: nn.Module, config: TrainConfig, splits: Splits, seed: int
    ) -> dict[str, float]:
        from aba_core.training import builder

        build, dtype = builder(config, splits), getattr(torch, config.dtype)
        other = initial_model(build, NEW_START + seed, dtype).eval()
        x, _ = first_samples(splits.validation, MOST)
        found = cascade(self.maps_with(), model.eval(), other, x)
        return {f"map_{name}": value for name, value in found.items()}


def cascade(
    of: Callable[[nn.Module, Tensor, Tensor], Map], model: nn.Module, other: nn.Module, x: Tensor
) -> dict[str, float]:
    """How much of a model's maps is left when layers are randomised, by name and number n.

    to_n: the n layers nearest the output are randomised; only_n: the n-th of them alone. Of each
    the mean over samples of the rank correlation with the trained model's map, times 100, then of
    the sizes of attributions (to_n_size), and for pictures their structural similarity
    (to_n_ssim). of: makes maps of a model, at inputs and classes. other: whose layers are taken.
    """
    with torch.no_grad():
        classes = model(x).argmax(1)
    maps, chain = of(model, x, classes), layers(model)
    found: dict[str, float] = {}
    for number, names in enumerate(chain, 1):
        before = tuple(name for group in chain[:number] for name in group)
        for way, changed in {"to": before, "only": names}.items():
            if way == "only" and number == 1:  # as many layers as the first of the cascade
                found |= {name.replace("to_", "only_"): value for name, value in found.items()}
                continue
            again = of(randomised(model, other, changed), x, classes)
            found[f"{way}_{number}"] = correlation(maps, again)
            found[f"{way}_{number}_size"] = correlation(maps.abs(), again.abs())
            if maps.dim() == 4:
                found[f"{way}_{number}_ssim"] = similarity(maps, again)
    return found
