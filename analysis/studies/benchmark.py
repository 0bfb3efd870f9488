"""Benchmark: Vanilla and the four published methods, at published strengths or at strengths chosen
on validation."""

from __future__ import annotations

from typing import Any

from aba_core.arms import METHODS, PUBLISHED_METHODS, VANILLA, Arm
from analysis.study import Settings, Study, Tuning


def declare(settings: Settings) -> Study:
    """The benchmark without batch norm."""
    return _declare("benchmark", settings, settings.methods, {})


def declare_with_batch_norm(settings: Settings) -> Study:
    """The same with batch norm, and what the slides change with it."""
    special = settings.batch_norm
    config = {**special.get("config", {}), "batch_norm": True}
    return _declare("benchmark-bn", settings, special.get("methods", settings.methods), config)


def _declare(
    name: str, settings: Settings, published: dict[str, float], config: dict[str, Any]
) -> Study:
    arms = [Arm.of(VANILLA)]
    arms += [
        Arm.of(
            name=METHODS[method].title,
            method=method,
            strength=published.get(method),
            top_k=settings.top_k,
        )
        for method in PUBLISHED_METHODS
    ]
    tuning = Tuning(strengths=settings.strength["benchmark"], seeds=settings.seeds["tuning"])
    return settings.study(
        name,
        arms,
        config=config,
        seeds=settings.seeds["benchmark"],
        tuning=None if published else tuning,
    )
