"""A stranger's model and metric."""

import numpy as np
from torch import nn


def wide(input_shape: tuple[int, ...], classes: int, width: int = 12) -> nn.Module:
    layers = nn.Sequential(nn.Flatten())
    layers.add_module("hidden", nn.Linear(int(np.prod(input_shape)), width))
    layers.add_module("relu", nn.ReLU())
    layers.add_module("out", nn.Linear(width, classes))
    return layers


def top_two(logits: np.ndarray, y: np.ndarray) -> float:
    """Percent of samples whose class is one of the two of the highest scores."""
    best = np.argsort(-logits, axis=1)[:, :2]
    return float(100 * (best == y[:, None]).any(1).mean())
