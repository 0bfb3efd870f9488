"""Categories again: sort the features of one sample, then cut the list."""

import math

import numpy as np
import torch

from aba_core.selection import Percentiles, SignSplit


def tie_rank(features: int) -> np.ndarray:
    """Each feature's place in the documented fixed order that decides between equal values."""
    order = torch.randperm(features, generator=torch.Generator().manual_seed(features)).numpy()
    rank = np.empty(features, dtype=int)
    rank[order] = np.arange(features)
    return rank


def cut(quantile: float, features: int) -> int:
    """How many features lie below the cut: rounded half up seen from the nearer end."""
    if quantile <= 0.5:
        return math.floor(round(quantile * features, 6) + 0.5)
    return features - math.floor(round((1 - quantile) * features, 6) + 0.5)


def slow_categories(values: np.ndarray, split: Percentiles | SignSplit) -> np.ndarray:
    """Booleans [category, feature] for the features of one sample."""
    if isinstance(split, SignSplit):
        return np.stack([values < 0, values > 0])
    order = np.lexsort((tie_rank(len(values)), values))
    edges = [0, *(cut(q, len(values)) for q in split.quantiles), len(values)]
    masks = np.zeros((len(edges) - 1, len(values)), dtype=bool)
    for category, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
        masks[category, order[start:end]] = True
    return masks
