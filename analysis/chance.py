"""What chance alone does: arms that differ in nothing but the seed, or one bit of one weight."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from aba_core.arms import Arm
from analysis import comparisons, tables
from analysis.comparisons import ComparisonError
from analysis.results import StudyResult
from analysis.study import Study


def control_arm(study: Study) -> str:
    """The arm that trains without augmentation and is changed in nothing else; "" without one."""
    vanilla = (arm for arm in study.arms if arm.vanilla)
    return next((arm.name for arm in vanilla if not (arm.seed_offset or arm.flip_bit)), "")


def null_arms(study: Study) -> list[str]:
    """Arms that train as the control does, but reseeded or with one bit of one weight changed."""

    def in_all_else(arm: Arm) -> dict[str, Any]:
        changed = ("name", "seed_offset", "flip_bit")
        return {name: value for name, value in arm.data().items() if name not in changed}

    control = [in_all_else(arm) for arm in study.arms if arm.name == control_arm(study)]
    altered = (arm for arm in study.arms if arm.seed_offset or arm.flip_bit)
    return [arm.name for arm in altered if in_all_else(arm) in control]


def null_table(study: StudyResult, metric: str) -> pd.DataFrame:
    """What arms that differ in nothing show: a diagnostic that decides nothing.

    One row for each pair of the control and its null arms, with n, difference of the means (points)
    and its 95 % interval (Welch). Arms that equal the control in every run (a bit that changes
    nothing) are left out: they would show that chance does nothing. Over many pairs one interval
    in twenty excludes 0, and the differences' quantiles are what chance gives two arms of so many
    runs.
    """
    declared = study.declaration.study
    if metric not in study.frame:  # of frozen models
        return pd.DataFrame()
    names = [control_arm(declared), *null_arms(declared)]
    grid = comparisons.grid_of(study.frame, metric)
    rows = []
    for first, second in combinations([name for name in names if name in grid.place], 2):
        apart = np.diff(grid.values[:, grid.columns([first, second])], axis=1)
        if not (np.abs(apart[np.isfinite(apart)]) > 0).any():
            continue
        try:
            bounds = comparisons.contrast(grid, {first: 1.0, second: -1.0})
        except ComparisonError:
            continue
        row: dict[str, Any] = {"first": first, "second": second, "n": bounds.n}
        rows.append(row | tables.with_interval("difference", bounds.interval()))
    return pd.DataFrame(rows)
