"""Frozen: what each adjustment does to a trained model, before and after ABA training."""

from __future__ import annotations

from analysis.study import ArmSpec, Frozen, Settings, Study


def declare(settings: Settings) -> Study:
    """Vanilla and MendABA, each evaluated under every adjustment and strength."""
    arms = [
        ArmSpec(name="Vanilla", method="vanilla"),
        ArmSpec(name="MendABA", method="mendaba", **settings.loss),
    ]
    return settings.study("frozen", arms, frozen=Frozen(strengths=settings.strength["frozen"]))
