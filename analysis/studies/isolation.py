"""Isolation: the 27 adjustments, each trained alone."""

from __future__ import annotations

from aba_core.adjustments import ADJUSTMENTS
from analysis.study import ArmSpec, Settings, Study


def arm_name(index: int) -> str:
    """The arm that trains with one adjustment alone."""
    return f"adjustment {index}"


def declare(settings: Settings) -> Study:
    """One arm an adjustment."""
    arms = [
        ArmSpec(name=arm_name(a.index), adjustments=str(a.index), **settings.loss)
        for a in ADJUSTMENTS
    ]
    return settings.study("isolation", arms)
