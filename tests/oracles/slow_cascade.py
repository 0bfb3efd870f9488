"""Randomised layers, one sample, one window and one layer at a time."""

from __future__ import annotations

import copy

import numpy as np
import torch
from oracles import slow_quality
from torch import Tensor, nn


def with_layers_of(model: nn.Module, other: nn.Module, beginnings: tuple[str, ...]) -> nn.Module:
    """The model with all numbers of another one whose names begin so."""
    changed, numbers = copy.deepcopy(model), dict(model.state_dict())
    for name, value in other.state_dict().items():
        if name.startswith(beginnings):
            numbers[name] = value
    changed.load_state_dict(numbers)
    return changed


def similarity(one: Tensor, other: Tensor, window: int) -> float:
    """Structural similarity of the sizes of maps [sample, channel, row, column], by its formula."""
    every = []
    for maps in zip(one.double().numpy(), other.double().numpy(), strict=True):
        a, b = (np.abs(values).sum(0) / np.abs(values).sum(0).max() for values in maps)
        side = min(window, *a.shape)
        for row in range(a.shape[0] - side + 1):
            for column in range(a.shape[1] - side + 1):
                inside = slice(row, row + side), slice(column, column + side)
                p, q = a[inside].ravel(), b[inside].ravel()
                (var_p, both), (_, var_q) = np.cov(p, q)
                light = (2 * p.mean() * q.mean() + 1e-4) / (p.mean() ** 2 + q.mean() ** 2 + 1e-4)
                every.append(light * (2 * both + 9e-4) / (var_p + var_q + 9e-4))
    return 100 * float(np.mean(every))


def cascade(of, model, other, x, layers: list[tuple[str, ...]], window: int) -> dict[str, float]:
    """All that is measured. layers: how the names of each layer's numbers begin, the output's
    first."""
    classes = torch.stack([model(one[None])[0].argmax() for one in x])
    maps, found = of(model, x, classes), {}
    for number in range(1, len(layers) + 1):
        ways = {"to": sum(layers[:number], ()), "only": layers[number - 1]}
        for way, names in ways.items():
            again = of(with_layers_of(model, other, names), x, classes)
            place = f"{way}_{number}"
            found[place] = slow_quality.correlation(maps, again)
            found[f"{place}_size"] = slow_quality.correlation(maps.abs(), again.abs())
            found[f"{place}_ssim"] = similarity(maps, again, window)
    return found
