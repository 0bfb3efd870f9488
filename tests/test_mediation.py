"""Mediation: a known indirect effect is found, none is seldom claimed, and the words follow."""

import numpy as np
import pytest
from scipy import stats

from analysis.mediation import Mediation, mediation, verdict
from analysis.statistics import Interval


def made(rng, n, a, b, direct=0.5):
    """Mediator and outcome of an arm and its control: indirect effect a · b, unit deviations."""
    mediator = (a + rng.standard_normal(n), rng.standard_normal(n))
    outcome = tuple(b * m + rng.standard_normal(n) for m in mediator)
    return mediator, (outcome[0] + direct, outcome[1])


def shares(n, a, b, samples=150):
    """Share of intervals that contain a · b, and of p-values below .05."""
    rng = np.random.default_rng(1)
    covered = found = 0
    for _ in range(samples):
        result = mediation(*made(rng, n, a, b), rng, resamples=499)
        covered += result.indirect.low <= a * b <= result.indirect.high
        found += result.p < 0.05
    return covered / samples, found / samples


@pytest.mark.parametrize("n", [5, 20])
@pytest.mark.parametrize(("a", "b"), [(0.0, 0.0), (1.5, 0.0), (0.0, 1.0)])
def test_without_an_indirect_effect_none_is_claimed(n, a, b):
    covered, found = shares(n, a, b)
    assert covered > 0.91 and found < 0.09


def test_a_strong_indirect_effect_is_found_and_covered():
    covered, found = shares(20, 1.5, 0.8)
    assert covered > 0.9 and found > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 10, 20])
def test_the_documented_rates(n):
    covered, _ = shares(n, 1.5, 0.8, samples=1000)
    assert covered > 0.88
    for a, b in ((0.0, 0.0), (1.5, 0.0), (0.0, 1.0)):
        covered, found = shares(n, a, b, samples=1000)
        assert covered > 0.93 and found < 0.065


def test_the_effect_is_the_direct_and_the_indirect_one():
    """Estimates are those of the analysis of covariance, by ordinary least squares."""
    rng = np.random.default_rng(3)
    mediator, outcome = made(rng, 12, 1.0, 0.7)
    found = mediation(mediator, outcome, rng)
    arm = np.repeat([1.0, 0.0], 12)
    columns = np.stack([np.ones(24), arm, np.concatenate(mediator)], 1)
    (_, direct, slope), *_ = np.linalg.lstsq(columns, np.concatenate(outcome), rcond=None)
    assert found.total.estimate - found.indirect.estimate == pytest.approx(direct)
    assert found.indirect.estimate == pytest.approx(slope * np.subtract(*map(np.mean, mediator)))
    assert found.a * found.b == pytest.approx(found.indirect.estimate)
    assert found.p >= stats.ttest_ind(*mediator, equal_var=False).pvalue


def test_neither_the_mediators_scale_nor_the_order_of_runs_matters():
    mediator, outcome = made(np.random.default_rng(4), 8, 1.0, 0.5)
    plain = mediation(mediator, outcome, np.random.default_rng(0))
    scaled = tuple(1e4 * m for m in mediator)
    assert mediation(scaled, outcome, np.random.default_rng(0)).indirect.low == pytest.approx(
        plain.indirect.low, rel=1e-6
    )
    turned = mediation(
        tuple(m[::-1] for m in mediator),
        tuple(y[::-1] for y in outcome),
        np.random.default_rng(0),
    )
    assert turned.indirect.high == pytest.approx(plain.indirect.high)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_runs_give_no_interval(n):
    rng = np.random.default_rng(5)
    found = mediation(*made(rng, n, 1.0, 1.0), rng)
    assert np.isnan([found.p, found.indirect.low]).all()
    assert verdict(found, found.p) == "inconclusive"


def test_a_mediator_without_spread_mediates_nothing():
    ones, noise = np.ones(6), np.random.default_rng(0).standard_normal(6)
    found = mediation((ones, ones), (noise + 1, noise), np.random.default_rng(0))
    assert np.isnan(found.p) and found.total.estimate == pytest.approx(1.0)


def test_bad_samples_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="one a run"):
        mediation(([1.0, 2.0], [1.0]), ([1.0], [1.0]), rng)
    with pytest.raises(ValueError, match="leave those runs out"):
        mediation(([1.0, np.nan], [1.0]), ([1.0, 2.0], [1.0]), rng)


def case(indirect, total, p):
    low, high = indirect
    whole = Interval(total, total - 0.5, total + 0.5, 40, 0.95, "bootstrap")
    middle = Interval((low + high) / 2, low, high, 40, 0.95, "percentile")
    return verdict(Mediation(1.0, 1.0, middle, whole, p), p)


def test_verdicts():
    assert case((0.3, 1.2), 2.0, 0.01) == "consistent with mediation"
    assert case((-1.2, -0.3), -2.0, 0.01) == "consistent with mediation"
    assert case((-1.2, -0.3), 2.0, 0.01) == "opposed"
    assert case((0.3, 1.2), 2.0, 0.2) == "inconclusive"  # not after correction
    assert case((-0.3, 0.8), 2.0, 0.4) == "no evidence"
    assert case((-0.8, 0.3), -2.0, 0.4) == "no evidence"
    assert case((-0.3, 1.4), 2.0, 0.4) == "inconclusive"  # half of the effect is possible
    assert case((-0.1, 0.1), 0.2, 0.9) == "inconclusive"  # no effect that could be mediated
