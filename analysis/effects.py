"""What an interval says of an effect, in a word, and what it could have shown."""

from __future__ import annotations

from scipy import special

from analysis.statistics import Interval

POWER = 0.8

EFFECTS = ("worth having", "exists", "negligible", "reversed", "open")


def effect_of(interval: Interval, margin: float, direction: str) -> str:
    """What an interval says of an effect, in a word or two.

    "worth having": beyond the margin; "exists": beyond 0; "negligible": within ±margin, also where
    it exists; "reversed": surely on the other side of 0 than claimed, a harm, also where it is
    negligible; "open": none of these.
    """
    low, high = (
        (-interval.high, -interval.low) if direction == "less" else (interval.low, interval.high)
    )
    one_sided = direction in ("greater", "less")
    if (one_sided and high < 0) or (direction == "not worse" and high < -margin):
        return "reversed"
    if -margin < low and high < margin:
        return "negligible"
    if low > margin or (not one_sided and high < -margin):
        return "worth having"
    return "exists" if low > 0 or (not one_sided and high < 0) else "open"


def smallest_detectable(interval: Interval, power: float = POWER) -> float:
    """The smallest effect (points) whose interval would exclude 0 with this power, as a normal
    error of the interval's width has it. NaN where there is no interval."""
    reach = special.ndtri((1 + interval.confidence) / 2)
    return float((interval.high - interval.low) / 2 * (reach + special.ndtri(power)) / reach)
