"""Mechanism: gradients and curvature, measured while sets of groups train."""

from __future__ import annotations

from aba_core.adjustments import group_set_text
from analysis.study import ArmSpec, Settings, Study

# The sets that are looked at, and at how many steps: five cost a fifth of the training on digits
# (see `aba_core.mechanism`).
SETS = ("Neutral", "Delta", "Epsilon", "Eps. & Del.", "All")
MEASUREMENTS = 5


def declare(settings: Settings) -> Study:
    """Vanilla and unions of groups, measured on the way."""
    arms = [ArmSpec(name="Vanilla", method="vanilla")]
    arms += [
        ArmSpec(name=title, adjustments=group_set_text(title), **settings.loss) for title in SETS
    ]
    config = {"mechanism": MEASUREMENTS, "probe_strength": settings.strength["isolation"]}
    return settings.study("mechanism", arms, config=config)
