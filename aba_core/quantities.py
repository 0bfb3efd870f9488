"""Quantities: what is measured of a run, with label, unit, range and which way is better."""

from __future__ import annotations

import math
from collections.abc import Iterable
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
# What a map may explain: a number has no class. Of several labels, a true one is drawn.
TARGETS: dict[str, tuple[str, ...]] = {
    "multiclass": ("loss", "class_score", "true_class", "predicted_class"),
    "multilabel": ("loss", "class_score", "true_class", "predicted_class"),
    "regression": ("loss",),
}


def quantity_of(column: str) -> Quantity:
    """What a column of runs measures: of "validation_accuracy", accuracy; a metric of one's own is
    called as its function.

    Raises ValueError for a column that is no quantity of a split.
    """
    split, _, name = column.partition("_")
    if split not in SPLITS or not name:
        raise ValueError(
            f"unknown metric {column!r}; known: "
            f"{', '.join(f'{split}_{next(iter(QUANTITIES))}' for split in SPLITS)}, and the same "
            f"with {', '.join([*QUANTITIES][1:])}, or a metric of your own"
        )
    return QUANTITIES.get(name, Quantity(name, name.replace("_", " ")))


def metric_label(column: str) -> str:
    """A column of runs in words: "validation_accuracy" is "Validation accuracy (%)"."""
    quantity = quantity_of(column)
    split = SPLITS[column.partition("_")[0]]
    return f"{split} {quantity.label}" + f" ({quantity.unit})" * bool(quantity.unit)


def measured_as(column: str) -> str:
    """What a column of runs measures, as the label of an axis: "Accuracy (%)"."""
    quantity = quantity_of(column)
    label = quantity.label[0].upper() + quantity.label[1:]
    return label + f" ({quantity.unit})" * bool(quantity.unit)


def metrics_in(columns: Iterable[object]) -> list[str]:
    """The columns of runs that are quantities of a split."""
    names = map(str, columns)
    return [name for name in names if name.partition("_")[0] in SPLITS and name not in _KEPT]


# Columns that begin like a metric's and hold what a study keeps of a run.
_KEPT = ("validation_logits", "validation_labels")
