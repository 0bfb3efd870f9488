"""Looking more than once: the level at each look, so that all looks together err as rarely as one.

Whoever adds runs until an interval leaves 0 will find an effect that is not there. A hypothesis
that is to be judged while runs are added declares how often (`Hypothesis.looks`), and each look
leaves out only the share that `tail_at` gives it. One may then stop at any look, for any reason.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array = NDArray[np.float64]

_GRID = 160  # points of the integration


def tail_at(tail: float, look: int, looks: int) -> float:
    """The share that look number `look` of `looks` may leave out on one side, of `tail` in all.

    look: from 1; looks: 0 or 1 where there is one only. Looks come after equal additions of blocks.
    The spending is Lan and DeMets' (1983) of O'Brien and Fleming's form, 2 − 2Φ(z / √t) after the
    share t of the blocks, and the levels are solved for exactly for normal means (Armitage,
    McPherson and Rowe 1969): almost nothing is spent early, and the last look is nearly as sharp as
    a single one. Raises ValueError for a look that is not declared.
    """
    if looks <= 1 and look <= 1:
        return tail
    if not 1 <= look <= looks:
        raise ValueError(f"look {look} of {looks}; allowed: 1 to {max(looks, 1)}")
    # Levels of families and of Holm's steps come again and again.
    return _tails(round(math.log(tail), 9), looks)[look - 1]


@lru_cache(maxsize=4096)
def _tails(log_tail: float, looks: int) -> tuple[float, ...]:
    """Every look's share. The density of the sum of independent normal steps that has crossed no
    boundary so far is carried from look to look on a grid."""
    tail = math.exp(log_tail)
    share = np.arange(1, looks + 1) / looks
    spent = 2 * stats.norm.sf(stats.norm.isf(tail / 2) / np.sqrt(share))
    spend = np.diff(spent, prepend=0.0)
    # Sums: after look k a normal of variance k. The first look's density needs no integral.
    boundary = float(stats.norm.isf(spend[0]))
    tails = [float(spend[0])]
    points, mass = np.zeros(1), np.ones(1)
    nodes, node_weight = np.polynomial.legendre.leggauss(_GRID)
    for k in range(2, looks + 1):
        half = (boundary + 8.0 * math.sqrt(k - 1)) / 2
        reached = half * (nodes + 1) - 8.0 * math.sqrt(k - 1)
        density = np.exp(-((reached[:, None] - points) ** 2) / 2) @ mass / math.sqrt(2 * math.pi)
        points, mass = reached, density * half * node_weight
        boundary = _crossed(points, mass, float(spend[k - 1]), math.sqrt(k))
        tails.append(float(stats.norm.sf(boundary / math.sqrt(k))))
    return tuple(tails)


def _crossed(points: Array, mass: Array, wanted: float, scale: float) -> float:
    """The boundary that a share `wanted` of all crosses at this step and not before."""
    low, high = 0.0, 40.0 * scale
    for _ in range(60):
        middle = (low + high) / 2
        if float(mass @ special.ndtr(points - middle)) > wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2
