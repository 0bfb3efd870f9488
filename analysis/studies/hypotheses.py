"""Hypotheses: what the slides claim, the same against honest references, and what would explain it
away."""

from __future__ import annotations

from analysis import hypotheses
from analysis.study import Settings, Study


def declare(settings: Settings) -> Study:
    """All standard hypotheses and the arms that they need, on seeds that no other study has."""
    first = hypotheses.FIRST_SEED
    return settings.study(
        "hypotheses",
        hypotheses.arms(settings.strength["isolation"], settings.top_k),
        hypotheses=hypotheses.standard(settings.planned["hypotheses"]),
        seeds=tuple(range(first, first + settings.seeds["hypotheses"])),
    )
