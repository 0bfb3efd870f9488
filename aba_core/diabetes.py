"""Diabetes: 442 patients with ten measurements each, and how far the disease went in a year.

The regression table that comes with scikit-learn (Efron et al. 2004, "Least angle regression").
Numbers to be predicted are in standard units of the training pool, as inputs are.
"""

from __future__ import annotations

import numpy as np
import torch

from aba_core.datasets import Split, Splits, assembled, stratified
from aba_core.measurements import mean_and_std, read_diabetes
from aba_core.sources import DatasetError, Places

SUBSETS = {"tiny": 60, "med": 120, "full": 222}  # training samples
HELD = 110  # of validation, and of test


def load(
    name: str = "diabetes",
    subset: str = "tiny",
    subset_seed: int = 0,
    places: Places | None = None,
) -> Splits:
    """The splits: validation and test are fixed, and subset_seed draws the training subset.

    places: of files; none is looked for. Raises DatasetError for an unknown subset.
    """
    if subset not in SUBSETS:
        raise DatasetError(f"unknown subset {subset!r} of {name}; known: {', '.join(SUBSETS)}")
    raw = read_diabetes()
    at = {"validation": np.arange(0), "test": np.arange(0), "train": np.arange(len(raw.values))}
    for part in ("test", "validation"):
        drawn, rest = _drawn(len(at["train"]), HELD, name, part)
        at[part], at["train"] = at["train"][drawn], at["train"][rest]
    pool = at["train"]
    mean, std = mean_and_std(raw.values[pool])
    middle, spread = mean_and_std(raw.labels[pool, None])
    if subset != "full":
        drawn, _ = _drawn(len(pool), SUBSETS[subset], name, "subset", subset, subset_seed)
        at["train"] = pool[drawn]
    parts = {
        part: Split(
            torch.from_numpy((raw.values[rows].astype(np.float32) - mean) / std),
            torch.from_numpy((raw.labels[rows].astype(np.float32) - middle) / spread),
            index=torch.from_numpy(rows),
        )
        for part, rows in at.items()
    }
    return assembled(
        parts,
        f"{mean.tolist()}/{std.tolist()}/{middle.tolist()}/{spread.tolist()}",
        lambda part: raw.values[at[part]],
        name=name,
        subset=subset,
        subset_seed=subset_seed,
        class_names=("progression",),
        mean=torch.from_numpy(mean),
        std=torch.from_numpy(std),
        task="regression",
        notes=raw.notes,
    )


def _drawn(of: int, size: int, *purpose: str | int) -> tuple[np.ndarray, np.ndarray]:
    """Places drawn without strata, and the rest."""
    return stratified(np.zeros(of, dtype=np.int64), size, *purpose)
