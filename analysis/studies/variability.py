"""Variability: runs that differ by one source of randomness alone."""

from __future__ import annotations

from typing import Any

from analysis.study import ArmSpec, Settings, Study

# What is left free in each arm: purposes of randomness, a flipped bit, the training subset. All
# else is held at a seed that no run has. "all" is what differs between runs of every other study.
SOURCES: dict[str, tuple[str, ...]] = {
    "initialisation": ("initialisation",),
    "order": ("order",),
    "adjustment": ("adjustment",),
    "magnitude": ("magnitude",),
    "target": ("target",),
    "one bit": ("bit",),
    "all": ("initialisation", "order", "adjustment", "magnitude", "target"),
    "subset": ("subset",),
    "all and subset": ("initialisation", "order", "adjustment", "magnitude", "target", "subset"),
}
HELD_SEED = 2000


def declare(settings: Settings) -> Study:
    """Every source for Vanilla and MendABA."""
    # The class score has a target to draw, the loss has none.
    mendaba = {
        "method": "mendaba",
        "strength": settings.strength["isolation"],
        "target": "class_score",
        "top_k": settings.top_k,
    }
    arms = [*_arms("Vanilla", {"method": "vanilla"}), *_arms("MendABA", mendaba)]
    return settings.study("variability", arms, keep_logits=True)


def declare_linear(settings: Settings) -> Study:
    """The same for Vanilla with a linear model, which has one minimum."""
    return settings.study(
        "variability-linear",
        _arms("Vanilla", {"method": "vanilla"}),
        config={"model": "linear"},
        seeds=settings.seeds["variability"],
        keep_logits=True,
    )


def _arms(title: str, definition: dict[str, Any]) -> list[ArmSpec]:
    """One arm a source, whose runs differ by it alone."""
    drawn = () if title == "Vanilla" else ("adjustment", "magnitude", "target")
    purposes = ("initialisation", "order", *drawn)
    return [
        ArmSpec(
            name=f"{title}: {source}",
            **definition,
            held={purpose: HELD_SEED for purpose in purposes if purpose not in free},
            flip_bit="bit" in free,
            subset_per_run="subset" in free,
        )
        for source, free in SOURCES.items()
        if drawn or source not in ("adjustment", "magnitude", "target")
    ]
