"""Quantities: what is measured of a run, with label, unit, range and which way is better."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """One measured number. unit: "%" is read as percent, "points" as their differences."""

    name: str
    label: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    more_is_better: bool = True


QUANTITIES: dict[str, Quantity] = {
    quantity.name: quantity
    for quantity in (
        Quantity("accuracy", "accuracy", "%", 0, 100),
        Quantity("balanced_accuracy", "balanced accuracy", "%", 0, 100),
        Quantity("macro_f1", "macro F1", "%", 0, 100),
        Quantity("macro_auc", "macro AUC", "%", 0, 100),
        Quantity("log_loss", "log loss", "nats", 0, more_is_better=False),
        Quantity("brier", "Brier score", "", 0, 2, more_is_better=False),
        Quantity("r2", "R²", "", high=1),
        Quantity("mae", "mean absolute error", "", 0, more_is_better=False),
        Quantity("loss", "loss", "", more_is_better=False),
    )
}
SPLITS = {"validation": "Validation", "test": "Test", "train": "Training"}

# The tasks, and what is measured for each: the primary quantity first, then what may be asked for.
TASKS: dict[str, tuple[str, ...]] = {
    "multiclass": (
        *("accuracy", "balanced_accuracy", "macro_f1", "macro_auc", "log_loss", "brier"),
    ),
    "multilabel": ("macro_auc", "accuracy", "macro_f1", "log_loss", "brier"),
    "regression": ("r2", "mae"),
}


def metric_label(column: str) -> str:
    """A column of runs in words: "validation_accuracy" is "Validation accuracy (%)".

    Raises ValueError for a column that is no quantity of a split.
    """
    split, _, name = column.partition("_")
    if split not in SPLITS or not name:
        raise ValueError(
            f"unknown metric {column!r}; known: {', '.join(SPLITS)}, then _ and one of "
            f"{', '.join(QUANTITIES)}"
        )
    quantity = QUANTITIES.get(name, Quantity(name, name.replace("_", " ")))
    return f"{SPLITS[split]} {quantity.label}" + f" ({quantity.unit})" * bool(quantity.unit)


# Those that every study of classes has.
METRICS = {f"{split}_accuracy": metric_label(f"{split}_accuracy") for split in SPLITS}
