"""Metrics of pairs of runs, one pair and one sample after another."""

from itertools import combinations

import numpy as np
from scipy import special, stats


def each_pair(logits: np.ndarray, of_pair) -> np.ndarray:
    made = np.full((len(logits), len(logits)), np.nan)
    for i, j in combinations(range(len(logits)), 2):
        made[i, j] = made[j, i] = of_pair(logits[i], logits[j])
    return made


def disagreement(logits: np.ndarray) -> np.ndarray:
    def of_pair(a, b):
        return 100 * sum(x.argmax() != y.argmax() for x, y in zip(a, b, strict=True)) / len(a)

    return each_pair(logits, of_pair)


def logit_correlation(logits: np.ndarray) -> np.ndarray:
    return each_pair(logits, lambda a, b: stats.spearmanr(a.ravel(), b.ravel()).statistic)


def ensemble_gain(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    def accuracy(shares):
        right = [row.argmax() == label for row, label in zip(shares, labels, strict=True)]
        return 100 * sum(right) / len(labels)

    def of_pair(a, b):
        first, second = special.softmax(a, axis=1), special.softmax(b, axis=1)
        return accuracy((first + second) / 2) - (accuracy(first) + accuracy(second)) / 2

    return each_pair(logits, of_pair)
