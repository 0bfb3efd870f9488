"""What the bounds of one comparison say of its effect: a verdict, a word, chances."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from scipy import special

from analysis import scopes, statistics
from analysis.comparisons import Bounds
from analysis.hypothesis import Comparison, Hypothesis
from analysis.statistics import Interval

POWER = 0.8


def effect_of(interval: Interval, margin: float, direction: str) -> str:
    """What an interval says of an effect, in one or two words.

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


def practical(bounds: Bounds, margin: float) -> dict[str, float]:
    """A second reading, by a region of practical equivalence: the chances that the effect is above
    the margin, within it on either side, and below it reversed.

    They are the shares at which the bounds reach the margin: for Student's t, the posterior under
    the usual flat prior. Nothing is decided by them, and families are not corrected. NaN where
    there are no bounds. Source: Benavoli, Corani, Demšar and Zaffalon 2017, "Time for a change".
    """
    share = bounds.share_below or partial(share_by_bisection, bounds)
    above, below = 1 - share(margin), share(-margin)
    return {"chance_above": above, "chance_within": 1 - above - below, "chance_below": below}


def share_by_bisection(bounds: Bounds, value: float) -> float:
    """The share that is left out below `value`, by bisection of its logarithm."""
    end, other = (bounds.low, False) if value <= bounds.estimate else (bounds.high, True)
    if not math.isfinite(end(0.25)):
        return math.nan
    few, many = -70.0, math.log(0.5)  # of the share: 4e-31 to a half
    for _ in range(60):
        middle = (few + many) / 2
        outside = end(math.exp(middle)) > value if other else end(math.exp(middle)) < value
        few, many = (middle, many) if outside else (few, middle)
    share = math.exp((few + many) / 2)
    return 1 - share if other else share


def row_of(
    comparison: Comparison,
    bounds: Bounds,
    hypothesis: Hypothesis,
    support: float,
    refute: float,
) -> dict[str, Any]:
    """One comparison on its own, as a row of a `Compare`.

    label, n, unit, scope, left_out, correlation, p_permutation: see `Bounds`. over: what the
    interval is over, see `scopes.sources_of`. estimate (points)
    with estimate_low and estimate_high: the bounds that decide, each at the level of what it
    decides, so that the verdict can be read off them. verdict: of this comparison. effect: see
    `effect_of`. smallest_detectable: points, 80 % power. supports, refutes: either, for itself.
    """
    margin, direction = hypothesis.margin, hypothesis.direction
    held, refutes = holds(bounds, hypothesis, support, refute)
    at_support, at_refute = ends_of(bounds, support, support), ends_of(bounds, refute, refute)
    if direction in ("greater", "not worse"):
        shown = ends_of(bounds, support, refute)
    elif direction == "less":
        shown = ends_of(bounds, refute, support)
    else:
        shown = at_refute if refutes else at_support
    verdict = "refuted" if refutes else "supported" if held else "inconclusive"
    return {
        "label": comparison.label,
        "estimate": bounds.estimate,
        "estimate_low": shown.low,
        "estimate_high": shown.high,
        "n": bounds.n,
        "unit": bounds.unit,
        "scope": bounds.scope,
        "over": ", ".join(scopes.sources_of(bounds.unit, bounds.scope)),
        "left_out": bounds.left_out,
        "correlation": bounds.correlation,
        "p_permutation": bounds.p_permutation,
        "verdict": verdict,
        "effect": effect_of(shown, margin, direction),
        "smallest_detectable": smallest_detectable(at_support),
        "supports": held,
        "refutes": refutes,
    }


def ends_of(bounds: Bounds, below: float, above: float) -> Interval:
    """The interval that leaves out these shares."""
    low, high = bounds.low(below), bounds.high(above)
    return Interval(bounds.estimate, low, high, bounds.n, 1 - below - above, bounds.method)


def holds(
    bounds: Bounds, hypothesis: Hypothesis, support: float, refute: float
) -> tuple[bool, bool]:
    """Whether one comparison, for itself, supports what is claimed, and whether it refutes it."""
    margin, direction = hypothesis.margin, hypothesis.direction
    region = margin if direction in ("equivalent", "not worse") else 0.0
    supports = statistics.decide(ends_of(bounds, support, support), region, direction)
    refutes = statistics.decide(ends_of(bounds, refute, refute), margin, direction)
    return supports == "supported", refutes == "refuted"
