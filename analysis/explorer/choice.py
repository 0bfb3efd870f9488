"""What the explorer looks at, what is seen, and both in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import get_args

import numpy as np
import pandas as pd

from aba_core.arms import MapKind, SplitKind, Target
from analysis.tables import adjustment_table

METHODS, TARGETS, SPLITS = get_args(MapKind), get_args(Target), get_args(SplitKind)
cached_adjustments = cache(adjustment_table)  # read from its file once, not at every turn


@dataclass(frozen=True)
class Choice:
    """What is looked at. quantiles: where a map is cut, with split "percentiles". adjustments: an
    index ("3"), a set ("3,4,0x2") or groups ("epsilon+delta"). draw: which draw of a set's member,
    and of the class of target "class_score". magnitude: what |N(0, 1)| is in training."""

    dataset: str = "digits"
    sample: int = 0
    model: str = ""
    method: str = "gradient"
    target: str = "loss"
    split: str = "percentiles"
    quantiles: tuple[float, float] = (0.1, 0.9)
    adjustments: str = "3"
    strength: float = 0.5
    magnitude: float = 1.0
    draw: int = 0


@dataclass(frozen=True, eq=False)
class View:
    """What is seen: arrays without a batch axis.

    x, augmented, attribution: shaped like the input. categories: boolean, low first, [category,
    *feature]. changes: those applied, low first. loss_changes: of the 27, NaN where the split
    cannot express one. display: from input units to what is shown (colour pictures need it).
    versions: the sample under each adjustment, by index, where they are to be seen.
    """

    x: np.ndarray
    attribution: np.ndarray
    categories: np.ndarray
    changes: tuple[float, ...]
    augmented: np.ndarray
    scores_before: np.ndarray
    scores_after: np.ndarray
    loss_before: float
    loss_after: float
    loss_changes: np.ndarray
    label: int
    class_names: tuple[str, ...]
    display: Callable[[np.ndarray], np.ndarray] | None = None
    versions: Mapping[int, np.ndarray] = field(default_factory=dict)

    @cached_property
    def applied(self) -> int | None:
        """Index of the adjustment applied, None where it is none of the 27."""
        low, *middle, high = self.changes
        applied = (low, middle[0] if middle else 0.0, high)
        rows = cached_adjustments()[["low", "middle", "high"]].to_numpy()
        matching = np.flatnonzero((rows == applied).all(1))
        return int(matching[0]) if len(matching) else None


def sentence(choice: Choice, view: View, standing: pd.DataFrame | None = None) -> str:
    """What the drawing shows, in words."""
    name = named(view)
    applied = f"{name} drawn from {{{choice.adjustments}}}" if is_set(choice) else name
    change = round(view.loss_after - view.loss_before, 2) + 0.0  # no −0.00
    text = f"{applied}: loss {view.loss_before:.2f} → {view.loss_after:.2f} ({change:+.2f})"
    index = view.applied
    if index is not None and np.isfinite(view.loss_changes[index]):
        known = view.loss_changes[np.isfinite(view.loss_changes)]
        rank = 1 + int((known > view.loss_changes[index]).sum())
        text += f", place {rank} of {len(known)} from the highest loss on this sample"
    if standing is not None and index is not None:
        row = standing.set_index("index").loc[index]
        if np.isfinite(row["mean"]):
            rank = 1 + int((standing["mean"] > row["mean"]).sum())
            text += f"; trained alone {row['mean']:.1f} %, place {rank} of 27"
    return (text + ".").replace("-", "−")


def is_set(choice: Choice) -> bool:
    """Whether a set is given, of which each draw is one member."""
    return not choice.adjustments.strip().isdigit()


def named(view: View) -> str:
    """The changes applied, with index and group where they are one of the 27."""
    changes = ", ".join(f"{value:g}" for value in view.changes).replace("-", "−")
    if view.applied is None:
        return f"[{changes}]"
    group = cached_adjustments()["group"][view.applied]
    return f"{view.applied} [{changes}], {group}"
