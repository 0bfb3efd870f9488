"""Intervals that rest on two tables of the same runs: over evaluation images, and of mediated
parts. `calibrate` puts their lines into the table of docs/statistics.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis import mediation, scopes
from analysis.comparisons import Grid
from analysis.hypothesis import Mediated
from analysis.statistics import Interval

Array = NDArray[np.float64]
# Draws an effect's interval, given its truth.
Draw = Callable[[np.random.Generator, float], Interval]


ALLOWED = 0.025


def beyond_chance(share: float, trials: int, deviations: float = 1.645) -> bool:
    """Whether more verdicts are wrong than is allowed and chance gives so many trials."""
    return share > ALLOWED + deviations * math.sqrt(ALLOWED * (1 - ALLOWED) / trials)


@dataclass(frozen=True)
class Line:
    """One line: shares of the trials that support where nothing is there, that refute where the
    effect is as large as the margin, and that cover; the mean width."""

    method: str
    scenario: str
    n: int
    trials: int
    support: float
    refutation: float
    coverage: float
    width: float

    def fails(self, deviations: float = 1.645) -> bool:
        """Whether more verdicts are wrong than is allowed and chance gives so many trials."""
        return beyond_chance(self.worst, self.trials, deviations)

    @property
    def worst(self) -> float:
        """The larger share of wrong verdicts."""
        return max(self.support, self.refutation)


def measure(
    method: str, scenario: str, n: int, draw: Draw, margin: float, trials: int, seed: int = 0
) -> Line:
    """How often 95 % intervals err on either side, where nothing is there and at the margin."""
    rng = np.random.default_rng(seed)
    support = refutation = covered = 0
    width = 0.0
    for _ in range(trials):
        nothing, enough = draw(rng, 0.0), draw(rng, margin)
        support += nothing.low > 0
        refutation += enough.high < margin
        covered += enough.low <= margin <= enough.high
        width += (enough.high - enough.low) / trials
    shares = support / trials, refutation / trials, covered / trials
    return Line(method, scenario, n, trials, *shares, width)


# --- over images ---------------------------------------------------------------------------------


def over_images(blocks: int, images: int, spread: tuple[float, float]) -> Draw:
    """A difference of two arms that are right or wrong on each image. spread: standard deviations
    of the blocks' own difference and of the images' (points)."""

    def draw(rng: np.random.Generator, truth: float) -> Interval:
        of_block = spread[0] * rng.standard_normal((blocks, 1))
        of_image = spread[1] * rng.standard_normal((1, images))
        # The mean of what is right in one arm alone, wrong in the other alone, or alike in both.
        chance = np.clip((truth + of_block + of_image) / 100, -0.1, 0.1)
        drawn = rng.random((blocks, images))
        lower, upper = 0.05 + chance / 2, 0.95 + chance / 2
        return scopes.over_images(100.0 * (drawn < lower) - 100.0 * (drawn > upper))

    return draw


# --- mediated parts ------------------------------------------------------------------------------


def mediated(subsets: int, arms: int, a: float, direct: float, skewed: bool = False) -> Draw:
    """Two sides of so many arms; the mediator of one side is higher by a, and the outcome's slope
    over it is truth / a. direct: what does not go through it. Subsets and arms have levels."""
    weights = {f"a{i}": 1 / arms for i in range(arms)} | {f"b{i}": -1 / arms for i in range(arms)}
    side = np.repeat([1.0, 0.0], arms)
    declared = Mediated(label="mediated", weights=weights, through="m")

    def draw(rng: np.random.Generator, truth: float) -> Interval:
        def noise(rows: int, columns: int, shape: bool = False) -> Array:
            drawn = rng.standard_normal((rows, columns))
            if not shape:
                return drawn
            return np.asarray((math.exp(0.5) - np.exp(drawn)) / math.sqrt((math.e - 1) * math.e))

        def levels() -> Array:
            """Of subsets and of arms, these with mean 0 on each side: they are no mediation."""
            of_arms = noise(1, 2 * arms)
            of_arms[:, :arms] -= of_arms[:, :arms].mean()
            of_arms[:, arms:] -= of_arms[:, arms:].mean()
            return noise(subsets, 1) + 0.5 * of_arms

        own = a * side + noise(subsets, 2 * arms, skewed)
        slope = truth / a if a else 0.5
        m = levels() + own
        y = levels() + direct * side + slope * own + noise(subsets, 2 * arms, skewed)
        of_subsets = np.arange(subsets)
        grids = [Grid(tuple(weights), of_subsets, values) for values in (y, m)]
        return mediation.mediated(declared, *grids, rng).interval()

    return draw


# blocks, images, spreads of blocks and of images
IMAGES = (
    (8, 500, (1.0, 3.0)),
    (20, 500, (1.0, 3.0)),
    (100, 500, (1.0, 3.0)),
    (20, 500, (0.0, 0.0)),
    (20, 100, (0.0, 8.0)),
    (100, 10_000, (1.0, 3.0)),
)
# subsets, arms a side, how far the mediator is apart, direct effect, skewed
MEDIATED = (
    (8, 6, 1.0, 0.0, False),
    (20, 6, 1.0, 0.0, False),
    (60, 6, 1.0, 0.0, False),
    (60, 24, 0.5, 1.0, False),
    (60, 24, 0.5, 1.0, True),
    (20, 6, 0.0, 1.0, False),
    (60, 24, 0.0, 1.0, False),
)
LINES: dict[str, Sequence[tuple]] = {"over images": IMAGES, "mediated part": MEDIATED}
# What `make test` measures.
SHORT = (IMAGES[0], IMAGES[4], MEDIATED[1], MEDIATED[5])


def lines(trials: int, which: Sequence[tuple] = (*IMAGES, *MEDIATED)) -> list[Line]:
    """Every line, or some."""
    found = []
    for one in which:
        if len(one) == 3:
            blocks, images, spread = one
            name = f"{images:,} images, SD {spread[1]:g}; blocks, SD {spread[0]:g}"
            draw = over_images(blocks, images, spread)
            found.append(measure("over images", name, blocks, draw, 1.0, trials))
            continue
        subsets, arms, a, direct, skewed = one
        apart = f"mediator {a:g} SD apart" if a else "mediator alike"
        name = f"{arms} arms a side, {apart}" + ", skewed" * skewed
        draw = mediated(subsets, arms, a, direct, skewed)
        found.append(measure("mediated part", name, subsets, draw, 0.5 * bool(a), trials))
    return found
