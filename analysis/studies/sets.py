"""Sets: size and opposition of random sets, told apart."""

from __future__ import annotations

from analysis import hypotheses
from analysis.study import Settings, Study


def declare(settings: Settings) -> Study:
    """Random sets crossing size and opposition, on seeds that no other study but hypotheses has."""
    first, per_cell = hypotheses.FIRST_SEED, hypotheses.SETS_PER_CELL
    return settings.study(
        "sets",
        hypotheses.set_arms(settings.strength["isolation"], per_cell),
        hypotheses=hypotheses.of_sets(per_cell, settings.planned["sets"]),
        seeds=tuple(range(first, first + settings.seeds["sets"])),
    )
