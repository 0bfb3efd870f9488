"""Intervals, tests and effect sizes: properties, known values and measured coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis import statistics as s

samples = st.lists(
    st.integers(min_value=0, max_value=10_000).map(lambda value: value / 100),
    min_size=2,
    max_size=12,
)
FEW = settings(max_examples=100, deadline=None)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- intervals -----------------------------------------------------------------------------------


@FEW
@given(samples, st.sampled_from(["bootstrap", "t"]), st.floats(0.05, 0.99))
def test_an_interval_brackets_its_estimate(values, method, confidence):
    got = s.mean_interval(values, rng(), method=method, confidence=confidence, resamples=199)
    assert got.low <= got.estimate <= got.high
    assert got.estimate == pytest.approx(np.mean(values))
    assert got.n == len(values)


@FEW
@given(samples, st.sampled_from(["bootstrap", "t"]))
def test_more_confidence_never_narrows_an_interval(values, method):
    ends = [
        s.mean_interval(values, rng(), method=method, confidence=c, resamples=199)
        for c in (0.5, 0.8, 0.9, 0.95, 0.99)
    ]
    assert all(a.low >= b.low and a.high <= b.high for a, b in zip(ends, ends[1:], strict=False))


@FEW
@given(samples, st.floats(-100, 100), st.floats(0.5, 20))
def test_an_interval_moves_and_scales_with_the_sample(values, shift, scale):
    plain = s.mean_interval(values, rng(), resamples=199)
    moved = s.mean_interval(scale * np.array(values) + shift, rng(), resamples=199)
    expected = [scale * end + shift for end in (plain.low, plain.high)]
    assert [moved.low, moved.high] == pytest.approx(expected, rel=1e-6, abs=1e-6)


@FEW
@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_runs_does_not_matter(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    assert s.mean_interval(values, rng(), resamples=99) == s.mean_interval(
        shuffled, rng(), resamples=99
    )
    assert s.bootstrap_interval(values, np.median, rng(), resamples=99) == s.bootstrap_interval(
        shuffled, np.median, rng(), resamples=99
    )


def test_the_t_interval_is_students():
    values = [83.1, 84.0, 82.2, 85.5, 83.3]
    got = s.mean_interval(values, method="t")
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high))


def test_the_t_difference_is_welchs():
    a, b = [83.1, 84.0, 82.2, 85.5], [80.0, 84.5, 79.0, 81.0, 80.5]
    got = s.difference_interval(a, b, method="t")
    expected = stats.ttest_ind(a, b, equal_var=False)
    ends = expected.confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((ends.low, ends.high))
    assert s.welch_p(a, b) == pytest.approx(expected.pvalue)
    assert s.welch_p([90.0, 90.0, 90.0], [91.0, 92.0, 93.0]) < 0.1  # and no warning


@pytest.mark.parametrize("method", ["bootstrap", "t"])
def test_one_run_gives_no_interval_and_none_gives_nothing(method):
    one = s.mean_interval([80.0], rng(), method=method)
    assert (one.estimate, one.n) == (80.0, 1)
    assert np.isnan([one.low, one.high]).all()
    assert not one.excludes(0)
    none = s.mean_interval([], rng(), method=method)
    assert np.isnan(none.estimate) and none.n == 0
    assert np.isnan(s.bootstrap_interval([80.0], np.median, rng()).low)


@pytest.mark.parametrize("method", ["bootstrap", "t"])
def test_equal_runs_give_a_degenerate_interval(method):
    got = s.mean_interval([0.1 + 0.2, 0.3, 0.3], rng(), method=method)
    assert got.low == got.high == got.estimate
    assert got.method == "constant"
    assert s.bootstrap_interval([5.0, 5.0], np.median, rng()).method == "constant"


def test_two_runs_and_ties_give_finite_intervals():
    for values in ([80.0, 81.0], [90, 90, 90, 90, 91], [90, 90, 91]):
        got = s.mean_interval(values, rng())
        assert np.isfinite([got.low, got.high]).all()


def test_pairing_uses_the_differences():
    a, b = np.array([80.0, 70.0, 60.0, 75.0]), np.array([79.0, 68.5, 59.0, 74.0])
    paired = s.difference_interval(a, b, rng(), paired=True)
    assert paired.low > 0 and paired.n == 4
    assert s.difference_interval(a, b, rng()).low < 0
    with pytest.raises(ValueError, match="equal shapes"):
        s.difference_interval(a, b[:3], rng(), paired=True)


def test_pairing_narrows_the_interval_as_far_as_the_pairs_are_correlated():
    shared = rng(0).normal(size=20)
    a, b = 1 + shared + 0.1 * rng(1).normal(size=20), shared + 0.1 * rng(2).normal(size=20)
    assert s.correlation(a, b, rng(), kind="pearson").low > 0.9
    paired, unpaired = (s.difference_interval(a, b, rng(), paired=p) for p in (True, False))
    assert paired.estimate == pytest.approx(unpaired.estimate)
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)
    assert not s.correlation(a, rng(3).normal(size=20), rng(), kind="pearson").excludes(0)


def test_a_contrast_weighs_the_means_of_arms():
    arms = [rng(i).normal(80 + i, 1, size=5) for i in range(4)]
    got = s.contrast_interval(arms, [1, -1 / 3, -1 / 3, -1 / 3], rng())
    assert got.estimate == pytest.approx(arms[0].mean() - np.mean([a.mean() for a in arms[1:]]))
    assert got.low < got.estimate < got.high
    assert got.n == 20
    assert np.isnan(s.contrast_interval([arms[0], [80.0]], [1, -1], rng()).low)


def test_a_statistic_of_two_samples_is_resampled_in_strata():
    a, b = rng(0).normal(5, 1, 30), rng(1).normal(0, 1, 40)

    def gap(x, y, axis=-1):
        return np.median(x, axis=axis) - np.median(y, axis=axis)

    got = s.bootstrap_interval([a, b], gap, rng(), resamples=999)
    assert got.low < 5 < got.high and got.n == 70


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="NaN"):
        s.mean_interval([80.0, np.nan], rng())
    with pytest.raises(ValueError, match="known: bootstrap, t"):
        s.mean_interval([80.0, 81.0], rng(), method="bca")
    with pytest.raises(ValueError, match="needs rng"):
        s.mean_interval([80.0, 81.0])
    with pytest.raises(ValueError, match="between 0 and 1"):
        s.mean_interval([80.0, 81.0], rng(), confidence=95)
    with pytest.raises(ValueError, match="one axis"):
        s.mean_interval([[80.0, 81.0]], rng())
    with pytest.raises(ValueError, match="as many weights"):
        s.contrast_interval([[80.0, 81.0]], [1, -1], rng())


def _draw(kind: str, n: int, generator: np.random.Generator) -> np.ndarray:
    """A sample with mean 0."""
    if kind == "normal":
        return generator.normal(size=n)
    if kind == "skewed":
        return np.exp(0.5) - generator.lognormal(size=n)
    return generator.normal(size=n) - 4 * (generator.random(n) < 0.2) + 0.8


def _coverage(kind: str, n: int, method: str, samples: int) -> float:
    generator = rng(n)
    inside = 0
    for _ in range(samples):
        got = s.mean_interval(_draw(kind, n, generator), generator, method=method, resamples=999)
        inside += got.low <= 0 <= got.high
    return inside / samples


def test_five_normal_runs_are_covered_as_stated():
    assert _coverage("normal", 5, "bootstrap", 600) == pytest.approx(0.951, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "n", "bootstrap", "student"),
    [
        ("normal", 5, 0.951, 0.952),
        ("normal", 10, 0.952, 0.956),
        ("normal", 20, 0.943, 0.948),
        ("skewed", 5, 0.875, 0.829),
        ("skewed", 10, 0.894, 0.838),
        ("skewed", 20, 0.917, 0.868),
        ("two modes", 5, 0.904, 0.893),
        ("two modes", 10, 0.928, 0.920),
        ("two modes", 20, 0.948, 0.934),
    ],
)
def test_coverage_is_as_the_docstring_states(kind, n, bootstrap, student):
    assert _coverage(kind, n, "bootstrap", 4000) == pytest.approx(bootstrap, abs=0.02)
    assert _coverage(kind, n, "t", 4000) == pytest.approx(student, abs=0.02)


# --- other intervals -----------------------------------------------------------------------------


def test_the_spread_of_five_runs_is_hardly_known():
    got = s.sd_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert got.low / got.estimate == pytest.approx(0.60, abs=0.005)
    assert got.high / got.estimate == pytest.approx(2.87, abs=0.005)


def test_the_bootstrap_of_a_spread_brackets_it_and_its_error_is_near_the_gaussian_one():
    values = rng().normal(80, 2, size=40)
    got = s.sd_interval(values, rng(), method="bootstrap")
    assert got.low < got.estimate < got.high and got.method == "bootstrap"
    assert got.estimate == pytest.approx(values.std(ddof=1))
    gaussian = values.std(ddof=1) / np.sqrt(2 * 39)
    assert s.sd_error(values, rng()) == pytest.approx(gaussian, rel=0.25)
    assert s.sd_interval(values[::-1], rng(), method="bootstrap") == got


def test_the_spread_of_equal_runs_is_0_and_that_of_one_run_unknown():
    for method in ("chi2", "bootstrap"):
        got = s.sd_interval([93.4, 93.4, 93.4], rng(), method=method)
        assert (got.estimate, got.low, got.high, got.method) == (0, 0, 0, "constant")
    assert s.sd_error([90.0, 90.0], rng()) == 0
    assert np.isnan(s.sd_error([90.0], rng())) and np.isnan(s.sd_interval([90.0], rng()).low)
    with pytest.raises(ValueError, match="known: chi2, bootstrap"):
        s.sd_interval([1.0, 2.0], method="BCa")


SD_COVERAGE = {
    ("normal", 5): (0.937, 0.952),
    ("normal", 10): (0.933, 0.953),
    ("normal", 20): (0.930, 0.935),
    ("skewed", 5): (0.673, 0.629),
    ("skewed", 10): (0.751, 0.545),
    ("skewed", 20): (0.808, 0.443),
    ("two modes", 5): (0.868, 0.911),
    ("two modes", 10): (0.900, 0.921),
    ("two modes", 20): (0.943, 0.935),
}
TRUE_SD = {"normal": 1.0, "skewed": np.sqrt((np.e - 1) * np.e), "two modes": np.sqrt(1 + 16 * 0.16)}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "n"), SD_COVERAGE)
def test_coverage_of_spreads_is_as_the_docstring_states(kind, n):
    generator, inside = rng(n), np.zeros(2)
    for _ in range(1000):
        values = _draw(kind, n, generator)
        for place, method in enumerate(("bootstrap", "chi2")):
            got = s.sd_interval(values, generator, method=method, resamples=999)
            inside[place] += got.low <= TRUE_SD[kind] <= got.high
    assert inside / 1000 == pytest.approx(np.array(SD_COVERAGE[kind, n]), abs=0.04)


@pytest.mark.parametrize(
    ("kind", "oracle"),
    [("spearman", stats.spearmanr), ("kendall", stats.kendalltau), ("pearson", stats.pearsonr)],
)
def test_correlations_agree_with_scipy(kind, oracle):
    x = np.round(rng(0).normal(size=27), 1)  # with ties
    y = np.round(x + rng(1).normal(size=27), 1)
    got = s.correlation(x, y, rng(), kind=kind, resamples=499)
    assert got.estimate == pytest.approx(oracle(x, y)[0])
    assert -1 <= got.low < got.estimate < got.high <= 1
    order = rng(2).permutation(27)
    assert s.correlation(x[order], y[order], rng(), kind=kind, resamples=499) == got


def test_correlations_of_few_or_constant_pairs_have_no_interval():
    assert np.isnan(s.correlation([1, 1, 1, 1, 1], [1, 2, 3, 4, 5], rng()).estimate)
    few = s.correlation([1, 2, 3], [1, 3, 2], rng())
    assert few.estimate == pytest.approx(0.5) and np.isnan(few.low)
    assert s.correlation(range(9), range(9), rng()).method == "constant"


# --- effect sizes and tests ----------------------------------------------------------------------


def test_effect_sizes_have_known_values():
    a, b = [2.0, 4.0, 6.0], [0.0, 2.0, 4.0]
    assert s.cohens_d(a, b) == pytest.approx(1.0)
    assert s.hedges_g(a, b) == pytest.approx(1 - 3 / (4 * 4 - 1), abs=0.01)
    assert np.isnan(s.cohens_d([1.0, 1.0], [2.0, 2.0]))
    assert np.isnan(s.hedges_g([1.0], [2.0]))


def test_eta_squared_is_the_share_between_groups():
    assert s.eta_squared([1, 1, 2, 2], ["a", "a", "b", "b"]) == pytest.approx(1)
    assert s.eta_squared([1, 2, 1, 2], ["a", "a", "b", "b"]) == pytest.approx(0)
    values, labels = rng().normal(size=27), np.repeat(["a", "b", "c"], 9)
    f = stats.f_oneway(*(values[labels == name] for name in "abc"))
    eta = s.eta_squared(values, labels)
    assert eta / (1 - eta) * 24 / 2 == pytest.approx(f.statistic)
    assert s.eta_squared_p(values, labels, rng()) == pytest.approx(f.pvalue, abs=0.03)
    assert s.eta_squared_p(np.arange(27.0), labels, rng()) < 0.001


def test_permutation_of_five_against_five_is_exact():
    assert s.permutation_p([5, 6, 7, 8, 9], [0, 1, 2, 3, 4], rng()) == pytest.approx(2 / 252)
    assert np.isnan(s.permutation_p([1.0], [2.0, 3.0], rng()))


def test_holm_follows_the_textbook():
    p = [0.01, 0.04, 0.03, np.nan, 0.005]
    assert s.holm(p) == pytest.approx([0.03, 0.06, 0.06, np.nan, 0.02], nan_ok=True)
    assert np.isnan(s.holm([np.nan])).all()


@FEW
@given(st.lists(st.floats(0, 1) | st.just(np.nan), min_size=1, max_size=30))
def test_holm_leaves_gaps_uncounted(p):
    """The definition, step by step: the k-th smallest of m times m − k + 1, never falling."""
    known = sorted(value for value in p if not np.isnan(value))
    highest, adjusted = 0.0, {}
    for place, value in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - place) * value))
        adjusted[value] = highest
    expected = [adjusted.get(value, np.nan) for value in p]
    np.testing.assert_allclose(s.holm(p), expected, rtol=0, atol=1e-12)


@FEW
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_adjusted_p_values_are_ordered(p):
    holm = s.holm(p)
    assert (np.array(p) <= holm + 1e-12).all()
    assert (np.diff(holm[np.argsort(p)]) >= 0).all() and holm.max() <= 1


# --- verdicts ------------------------------------------------------------------------------------


def interval(low: float, high: float) -> s.Interval:
    return s.Interval((low + high) / 2, low, high, 10, 0.95, "t")


@pytest.mark.parametrize(
    ("low", "high", "greater", "less", "different", "equivalent", "not_worse"),
    [
        (0.6, 2.0, "supported", "refuted", "supported", "refuted", "supported"),
        (0.2, 2.0, "supported", "refuted", "supported", "inconclusive", "supported"),
        (0.1, 0.4, "refuted", "refuted", "refuted", "supported", "supported"),
        (-0.4, 0.4, "refuted", "refuted", "refuted", "supported", "supported"),
        (-0.4, 0.6, "inconclusive", "refuted", "inconclusive", "inconclusive", "supported"),
        (-0.4, -0.1, "refuted", "refuted", "refuted", "supported", "supported"),
        (-0.6, 0.6, *["inconclusive"] * 5),
        (-2.0, -0.2, "refuted", "supported", "supported", "inconclusive", "inconclusive"),
        (-2.0, -0.6, "refuted", "supported", "supported", "refuted", "refuted"),
        (np.nan, np.nan, *["inconclusive"] * 5),
    ],
)
def test_decisions_follow_the_truth_table_with_a_margin_of_half_a_point(
    low, high, greater, less, different, equivalent, not_worse
):
    got = [s.decide(interval(low, high), 0.5, direction) for direction in s.DIRECTIONS]
    assert got == [greater, less, different, equivalent, not_worse]


@FEW
@given(st.floats(-5, 5), st.floats(0, 5), st.floats(0, 3), st.sampled_from(s.DIRECTIONS[:4]))
def test_decisions_mirror_and_never_contradict(low, width, margin, direction):
    there = interval(low, low + width)
    back = interval(-low - width, -low)
    mirrored = {"greater": "less", "less": "greater"}.get(direction, direction)
    verdict = s.decide(there, margin, direction)
    assert verdict in s.VERDICTS
    assert verdict == s.decide(back, margin, mirrored)
    both = [s.decide(there, margin, name) for name in ("different", "equivalent")]
    assert both != ["supported", "supported"]


def test_without_a_margin_only_the_sign_counts():
    assert s.decide(interval(0.1, 1), 0, "greater") == "supported"
    assert s.decide(interval(-1, -0.1), 0, "greater") == "refuted"
    assert s.decide(interval(-1, 1), 0, "greater") == "inconclusive"
    assert s.decide(interval(0.1, 1), (-0.5, 0.05), "greater") == "supported"


def test_a_wrong_region_or_direction_is_named():
    with pytest.raises(ValueError, match="does not hold 0"):
        s.decide(interval(0, 1), (0.5, 1.0))
    with pytest.raises(ValueError, match="does not hold 0"):
        s.decide(interval(0, 1), -0.5)
    with pytest.raises(ValueError, match="known: greater, less, different, equivalent"):
        s.decide(interval(0, 1), 0.5, "bigger")


@pytest.mark.slow
@pytest.mark.parametrize("runs", [5, 10, 20])
@pytest.mark.parametrize(
    ("direction", "effect", "wrong", "rate"),
    [
        ("greater", 0.0, "supported", 0.025),
        ("greater", 1.0, "refuted", 0.025),
        ("different", 0.0, "supported", 0.05),
        ("equivalent", 1.0, "supported", 0.025),
    ],
)
@pytest.mark.parametrize("method", ["bootstrap", "t"])
def test_single_verdicts_are_wrong_no_more_often_than_stated(
    runs, direction, effect, wrong, rate, method
):
    generator, errors, trials = rng(runs), 0, 2000
    for _ in range(trials):
        a, b = generator.normal(effect, 1, size=runs), generator.normal(size=runs)
        got = s.difference_interval(a, b, generator, method=method, resamples=999)
        errors += s.decide(got, 1.0, direction) == wrong
    assert errors / trials <= rate + 2.5 * np.sqrt(rate * (1 - rate) / trials)
