"""Tension: unions of groups against their members."""

from __future__ import annotations

from aba_core.adjustments import GROUP_SETS, group_set_text
from analysis.study import ArmSpec, Settings, Study


def declare(settings: Settings) -> Study:
    """One arm a union of groups: the six published ones, and Delta with Neutral."""
    arms = [
        ArmSpec(name=title, adjustments=group_set_text(title), **settings.loss)
        for title in GROUP_SETS
    ]
    return settings.study("tension", arms)
