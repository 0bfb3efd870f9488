"""Measurements: tables of numbers that come with scikit-learn, without torch.

A reader gives all rows of a source, in its own order: `datasets` draws the splits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measurements:
    """All rows of a source, in its own order."""

    values: np.ndarray  # float64 [n, feature]
    labels: np.ndarray  # int64 [n]; of a regression float64
    notes: tuple[str, ...] = ()


def read_breast_cancer() -> Measurements:
    """The 569 tumours that come with scikit-learn: no file is looked for."""
    from sklearn.datasets import load_breast_cancer

    bundle = load_breast_cancer()
    return Measurements(
        values=bundle.data.astype(np.float64),
        labels=bundle.target.astype(np.int64),
        notes=("scikit-learn's bundled tumours, 30 measurements of cell nuclei each",),
    )


def read_diabetes() -> Measurements:
    """The 442 patients that come with scikit-learn, in the units that they were measured in."""
    from sklearn.datasets import load_diabetes

    bundle = load_diabetes(scaled=False)
    return Measurements(
        values=bundle.data.astype(np.float64),
        labels=bundle.target.astype(np.float64),
        notes=("scikit-learn's bundled patients, ten measurements each",),
    )


def mean_and_std(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column [feature], as float32.

    Sums are exact before they are rounded, so the same on every machine.
    """
    means, stds = [], []
    for column in values.T.tolist():
        mean = math.fsum(column) / len(column)
        means.append(mean)
        stds.append(math.sqrt(math.fsum((value - mean) ** 2 for value in column) / len(column)))
    return np.array(means, dtype=np.float32), np.array(stds, dtype=np.float32)
