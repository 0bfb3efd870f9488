"""A stranger's data: two rings, drawn here, as classes, as numbers and as labels."""

import numpy as np
import torch

from aba_core import Splits, splits_from


def _points(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ring = rng.integers(0, 2, 200)
    angle = rng.uniform(0, 2 * np.pi, 200)
    radius = 1.0 + ring + 0.2 * rng.normal(size=200)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), ring


def classes(subset_seed: int, noise: int = 0) -> Splits:
    x, ring = _points(noise)
    return splits_from(x, ring, seed=subset_seed, name="rings")


def numbers(subset_seed: int) -> Splits:
    x, _ = _points(0)
    return splits_from(x, np.hypot(x[:, 0], x[:, 1]), task="regression", name="radii")


def labels(subset_seed: int) -> Splits:
    x, ring = _points(0)
    y = np.stack([ring, x[:, 0] > 0, x[:, 1] > 0], 1)
    return splits_from(x, y, task="multilabel", name="places")


def no_splits() -> torch.Tensor:
    return torch.zeros(3)
