"""Comparisons within blocks, with the best of several, and what their intervals hold beyond."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from oracles import slow_comparisons as slow
from scipy import stats

from analysis import comparisons, effects, rules, scopes, sequential, slopes, statistics
from analysis.comparisons import ComparisonError, Grid
from analysis.hypothesis import Contrast, Hypothesis, Slope, minus
from benchmarks import calibrate

RNG = np.random.default_rng


def runs_on(subsets: int, seeds: int = 1, seed: int = 0, **means: float) -> pd.DataFrame:
    """Runs of arms on the same subsets, whose levels differ by 3."""
    rng = RNG(seed)
    level = 3 * rng.standard_normal(subsets)
    return pd.DataFrame(
        {"arm": arm, "seed": 100 * b + s, "subset_seed": b, "validation_accuracy": value}
        for arm, mean in means.items()
        for b in range(subsets)
        for s in range(seeds)
        for value in [90 + mean + level[b] + rng.standard_normal()]
    )


def claim(*comparisons_, **changes) -> Hypothesis:
    fields = dict(name="h", statement="A beats B.", estimand="A less B", n=10)
    return Hypothesis(**{**fields, "comparisons": comparisons_, **changes})


A_B = Contrast(label="a − b", weights={"a": 1, "b": -1})
WEIGHTS = {"a": 1.0, "b": -0.5, "c": -0.5}


# --- blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [1, 3])
def test_arms_on_the_same_subsets_are_compared_within_them(seeds):
    runs = runs_on(12, seeds, a=1.0, b=0.0, c=0.5)
    runs = runs[~((runs["arm"] == "b") & (runs["subset_seed"] == 4))]
    runs = runs.sample(frac=1, random_state=0)
    bounds = comparisons.contrast(comparisons.grid_of(runs, "validation_accuracy"), WEIGHTS)
    mean, low, high, n = slow.block_interval(runs, WEIGHTS, 0.01)
    assert (bounds.estimate, bounds.low(0.01), bounds.high(0.01)) == pytest.approx(
        (mean, low, high)
    )
    assert (bounds.n, bounds.left_out, bounds.unit) == (n, 1, "subset") and n == 11
    assert bounds.scope == comparisons.SUBSETS_AND_SEEDS
    assert bounds.correlation > 0.5


def test_one_subset_has_independent_arms_unless_seeds_are_declared_as_pairs():
    rng = RNG(0)
    shared = rng.standard_normal(10)
    values = np.column_stack([shared + 0.3 * rng.standard_normal(10) for _ in range(2)])
    grid = Grid(("a", "b"), np.zeros(10, int), values)
    apart = comparisons.contrast(grid, A_B.weights)
    samples = {"a": values[:, 0], "b": values[:, 1]}
    assert (apart.estimate, apart.low(0.025), apart.high(0.025)) == pytest.approx(
        slow.welch_bounds(samples, A_B.weights, 0.025)
    )
    paired = comparisons.contrast(grid, A_B.weights, paired=True)
    assert paired.scope == apart.scope == comparisons.SEEDS_ONLY
    assert (apart.n, apart.unit, paired.n, paired.unit) == (20, "run", 10, "seed")
    assert paired.correlation == apart.correlation > 0.8
    assert paired.high(0.025) - paired.low(0.025) < 0.6 * (apart.high(0.025) - apart.low(0.025))


def test_arms_that_share_no_subset_are_compared_only_where_each_has_several():
    runs = runs_on(8, a=0.0, b=0.0)
    grid = comparisons.grid_of(
        pd.concat([runs[runs["arm"] == "a"], runs[runs["arm"] == "b"].assign(subset_seed=9)]),
        "validation_accuracy",
    )
    with pytest.raises(ComparisonError, match="no training subset .* 'b' ran on 1 only"):
        comparisons.contrast(grid, A_B.weights)
    runs.loc[runs["arm"] == "b", "subset_seed"] += 50
    apart = comparisons.contrast(comparisons.grid_of(runs, "validation_accuracy"), A_B.weights)
    assert (apart.scope, apart.unit) == (comparisons.SUBSETS_AND_SEEDS, "run")


def test_two_blocks_are_too_few():
    judged = rules.test(claim(A_B), runs_on(2, a=5.0, b=0.0), RNG(0))
    assert judged.verdict == "not tested"
    assert "2 subsets have runs of all arms; needed: 3 or more" in judged.sentence


def test_few_equal_differences_tell_nothing_of_their_spread():
    values = np.array([[90.4, 90.0]] * 4)
    bounds = comparisons.contrast(Grid(("a", "b"), np.arange(4), values), A_B.weights)
    assert bounds.estimate == pytest.approx(0.4) and bounds.low(0.025) == -math.inf
    equal = comparisons.contrast(Grid(("a", "b"), np.arange(4), values * 0 + 90), A_B.weights)
    assert equal.low(0.025) == equal.high(0.025) == 0


def test_runs_skewed_to_one_side_are_told():
    values = np.column_stack([-np.exp(1.5 * RNG(1).standard_normal(40)), np.zeros(40)])
    judged = rules.Judge(claim(A_B), Grid(("a", "b"), np.arange(40), values), RNG(0)).verdict()
    assert "the runs are skewed, so that the lower bound is wrong in about" in judged.notes["a − b"]
    even = RNG(0).standard_normal((40, 2))
    assert (
        not rules.Judge(claim(A_B), Grid(("a", "b"), np.arange(40), even), RNG(0)).verdict().notes
    )


# --- the best of several -------------------------------------------------------------------------


def test_the_lower_bound_over_the_best_is_that_of_going_through_all_selections():
    rng = RNG(0)
    arms = ("s", "x", "y", "z", "u", "v")
    values = rng.standard_normal((7, 6)) * [1, 2, 1, 1, 3, 1]
    grid = Grid(arms, np.zeros(7, int), values)
    samples = {arm: values[:, i] for i, arm in enumerate(arms)}
    for lists in ([["x", "y", "z"]], [["x", "y"], ["z", "u", "v"]]):
        bounds = comparisons.contrast(grid, {"s": 1.0}, lists, rng=RNG(0))
        for tail in (0.025, 0.001):
            expected = slow.lower_bound_over_the_best(samples, {"s": 1.0}, lists, tail)
            assert bounds.low(tail) == pytest.approx(expected)
            assert bounds.low(tail) < bounds.estimate < bounds.high(tail)


def test_arms_that_are_surely_worse_cost_nothing_above():
    rng = RNG(0)
    values = rng.standard_normal((30, 12)) - np.array([0, 0] + [40] * 10)
    grid = Grid(tuple("sbcdefghijkl"), np.arange(30), values)
    many = comparisons.contrast(grid, {"s": 1.0}, [list("bcdefghijkl")])
    alone = comparisons.contrast(grid, {"s": 1.0, "b": -1.0})
    assert many.low(0.025) == pytest.approx(alone.low(0.025))
    assert many.high(0.025) == pytest.approx(alone.high(0.9 * 0.025))


def test_too_many_selections_are_refused():
    arms = tuple(f"m{i}" for i in range(40))
    lists = [arms[i : i + 2] for i in range(0, 40, 2)]
    grid = Grid(("s", *arms), np.arange(5), RNG(0).standard_normal((5, 41)))
    with pytest.raises(ComparisonError, match="20 lists of candidates have 1,048,576 selections"):
        comparisons.contrast(grid, {"s": 1.0}, lists)


# --- statements ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gap", "verdict", "effect", "words"),
    [
        (3.0, "supported", "worth having", "the effect exceeds the margin of 0.5 points"),
        (0.45, "supported", "exists", "whether it reaches the margin of 0.5 points is open"),
        (0.25, "refuted", "negligible", "it is negligible, within ±0.5 points"),
        (-0.2, "refuted", "reversed", "this is a harm, not a gain"),
        (-2.0, "refuted", "reversed", "this is a harm, not a gain"),
    ],
)
def test_three_statements_and_harm_are_told_in_words(gap, verdict, effect, words):
    spread = 0.2 if gap != 0.45 else 0.4
    values = RNG(0).standard_normal((20, 2)) * spread
    values = values - values.mean(axis=0) + [gap, 0.0]
    judged = rules.Judge(claim(A_B), Grid(("a", "b"), np.arange(20), values), RNG(0)).verdict()
    assert (judged.verdict, judged.effect) == (verdict, effect)
    assert words in judged.sentence
    mirrored = rules.Judge(
        claim(A_B, direction="less"), Grid(("a", "b"), np.arange(20), -values), RNG(0)
    ).verdict()
    assert (mirrored.verdict, mirrored.effect) == (verdict, effect)


def test_verdicts_can_be_read_off_the_interval_that_is_shown():
    for seed in range(30):
        runs = runs_on(6, seed=seed, a=0.8, b=0.0, c=-0.5)
        a_c = Contrast(label="a − c", weights={"a": 1, "c": -1})
        for rule in ("all", "any"):
            table = rules.test(claim(A_B, a_c, rule=rule), runs, RNG(0)).table
            for row in table.to_dict("records"):
                low, high = row["estimate_low"], row["estimate_high"]
                expected = "refuted" if high < 0.5 else "supported" if low > 0 else "inconclusive"
                assert row["verdict"] == expected


def test_what_survives_over_all_hypotheses_is_holms_choice():
    """Against Holm's steps on p-values, for claims of one comparison."""
    rng = RNG(3)
    values = rng.standard_normal((15, 9)) + np.append(np.linspace(0, 1.6, 8), 0.0)
    names = tuple("abcdefgh") + ("z",)
    grid = Grid(names, np.arange(15), values)
    judges, p = [], []
    for arm in names[:8]:
        one = claim(Contrast(label=arm, weights={arm: 1, "z": -1}))
        judges.append(rules.Judge(one, grid, RNG(0)))
        bounds = judges[-1].bounds[0]
        reach = (bounds.estimate - bounds.low(0.025)) / comparisons.t_quantile(0.025, 14.0)
        p.append(2 * float(1 - slow.stats.t.cdf(bounds.estimate / reach, 14)))
    adjusted = rules.statistics.holm(p)
    assert rules._holm(judges, "supported", 0.95) == set(np.flatnonzero(adjusted <= 0.05))
    assert 0 < (adjusted <= 0.05).sum() < sum(one <= 0.05 for one in p)


# --- slopes --------------------------------------------------------------------------------------


def test_a_slope_that_squares_explain_is_told_and_held_where_declared():
    rng = RNG(0)
    offset = rng.standard_normal(60)
    opposed = (np.abs(offset) < 0.8) * rng.integers(0, 2, 60)
    covariates = {
        f"s{i}": {"opposition": float(o), "offset": float(x)}
        for i, (o, x) in enumerate(zip(opposed, offset, strict=True))
    }
    values = -(offset**2) + 0.2 * rng.standard_normal((4, 60))
    grid = Grid(tuple(covariates), np.zeros(4, int), values)
    linear = Slope(label="t", term="opposition", covariates=covariates)
    found = rules.Judge(claim(linear), grid, RNG(0)).verdict()
    assert found.verdict == "supported"
    assert "Not robust to squares: lack of fit p = " in found.sentence
    squared = linear.model_copy(update={"squares": ("offset",)})
    assert rules.Judge(claim(squared), grid, RNG(0)).verdict().verdict != "supported"
    with pytest.raises(ValueError, match="squares of 't' is 'ofset'; known: offset"):
        Slope(label="t", term="opposition", covariates=covariates, squares=("ofset",))


def test_a_slope_that_differs_between_subsets_is_known_less_well():
    rng = RNG(0)
    covariates = {f"s{i}": {"x": i % 5.0, "y": float(rng.normal())} for i in range(30)}
    x = np.array([c["x"] for c in covariates.values()])
    noise = rng.standard_normal((8, 30))
    one = Slope(label="t", term="x", covariates=covariates)

    def error(values: np.ndarray, subsets: np.ndarray) -> float:
        bounds = slopes.bounds(one, Grid(tuple(covariates), subsets, values), RNG(0))
        return bounds.estimate - bounds.low(0.025)

    same, steeper = noise, noise + rng.standard_normal((8, 1)) * x
    assert error(same, np.arange(8)) == pytest.approx(error(same, np.zeros(8, int)), rel=0.5)
    assert error(steeper, np.arange(8)) > 3 * error(steeper, np.zeros(8, int))


# --- scopes --------------------------------------------------------------------------------------


def test_seeds_alone_give_a_narrower_interval_and_images_a_wider_one():
    rng = RNG(0)
    level = np.repeat(rng.standard_normal((10, 1)) * 2, 4, axis=0) * [1, 0]
    grid = Grid(("a", "b"), np.repeat(np.arange(10), 4), level + rng.standard_normal((40, 2)))
    seeds, wide = scopes.seeds_only(grid, A_B.weights), comparisons.contrast(grid, A_B.weights)
    assert seeds.estimate == pytest.approx(wide.estimate)
    assert seeds.high - seeds.low < 0.6 * (wide.high(0.025) - wide.low(0.025))
    parts = scopes.spreads(grid, A_B.weights)
    assert parts["subset"] == pytest.approx(2, rel=0.4) and parts["seed"] == pytest.approx(
        math.sqrt(2), rel=0.3
    )
    row = rules.Judge(claim(A_B), grid, RNG(0)).verdict().table.iloc[0]
    assert (row["seeds_low"], row["seeds_high"]) == (seeds.low, seeds.high)


def test_images_are_crossed_with_blocks():
    """The variance of the mean is that of its parts, as simulated."""
    rng, means, variances = RNG(0), [], []
    for _ in range(600):
        values = (
            rng.standard_normal((8, 1))
            + 4 * rng.standard_normal((1, 40))
            + 10 * rng.standard_normal((8, 40))
        )
        interval = scopes.over_images(values)
        means.append(interval.low <= 0 <= interval.high)
        variances.append((interval.high - interval.low) / 4)
    truth = math.sqrt(1 / 8 + 16 / 40 + 100 / 320)
    assert np.mean(variances) == pytest.approx(truth, rel=0.2)
    assert 0.93 <= np.mean(means)
    with pytest.raises(ValueError, match=r"\[block, image\] with two or more each, got \(1, 40\)"):
        scopes.over_images(values[:1])


# --- looks ---------------------------------------------------------------------------------------


def test_levels_of_looks_are_the_published_ones():
    """Lan–DeMets' spending of O'Brien and Fleming's form, five looks, one-sided .025: the z of
    Jennison and Turnbull (2000), as R's gsDesign and ldbounds print them."""
    z = [slow.stats.norm.isf(sequential.tail_at(0.025, k, 5)) for k in range(1, 6)]
    assert z == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=0.001)
    assert sequential.tail_at(0.025, 1, 0) == sequential.tail_at(0.025, 1, 1) == 0.025
    with pytest.raises(ValueError, match="look 6 of 5; allowed: 1 to 5"):
        sequential.tail_at(0.025, 6, 5)


def test_a_look_is_known_by_its_blocks():
    one = claim(A_B, looks=4, n=20)
    runs = runs_on(20, a=2.0, b=0.0)

    def after(blocks: int) -> rules.Verdict:
        return rules.test(one, runs[runs["subset_seed"] < blocks], RNG(0))

    assert after(4).verdict == "not tested"
    assert "4 blocks are there, and the first look is at 5" in after(4).sentence
    halves = [after(n).table.iloc[0] for n in (10, 14)]
    grid = comparisons.grid_of(runs[runs["subset_seed"] < 14], "validation_accuracy")
    bounds = comparisons.contrast(grid, A_B.weights)
    assert halves[1]["estimate_low"] == bounds.low(sequential.tail_at(0.025, 2, 4))
    last = after(20).table.iloc[0]
    assert last["estimate_high"] - last["estimate_low"] < 0.7 * (
        halves[0]["estimate_high"] - halves[0]["estimate_low"]
    )


# --- calibration ---------------------------------------------------------------------------------


def test_wrong_verdicts_are_as_rare_as_promised():
    """The short form of `make calibrate`: every line, and all lines together."""
    results = calibrate.short()
    for result in results:
        case = result.case
        assert not result.fails(deviations=3.1), (case.method, case.scenario, result)
        if not math.isnan(result.coverage):
            assert result.coverage >= 0.88, (case.method, case.scenario, result)
    for name in ("support", "refutation"):
        asked = [result for result in results if not math.isnan(getattr(result, name))]
        trials = sum(result.trials for result in asked)
        wrong = sum(getattr(result, name) * result.trials for result in asked)
        allowed = 0.025 + 2.33 * math.sqrt(0.025 * 0.975 / trials)
        assert trials >= 1000 and wrong / trials <= allowed, name


def test_calibration_finds_a_method_that_errs():
    case = next(c for c in calibrate.cases() if c.scenario == "curved, squares not declared")
    assert calibrate.measure(case, 40).fails()
    normal = next(c for c in calibrate.cases() if c.scenario == "normal" and c.world.n == 5)
    wrong = replace(normal, nothing={"a": 1.5, "b": 0.0}, enough=None)
    assert calibrate.measure(wrong, 60).fails()


def test_looks_keep_the_level_that_repeated_looking_loses():
    (declared, support, refuted, _), (_, *loose, _) = calibrate.looks(
        100, plans=((5, True), (5, False))
    )
    assert declared == "5 looks, declared"
    assert max(support, refuted) <= 0.025 + 3.1 * math.sqrt(0.025 * 0.975 / 100)
    assert max(loose) > max(support, refuted)


@pytest.mark.parametrize("margin", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("estimate", [-1.0, 0.2, 3.0])
def test_the_chances_of_an_effect_are_those_of_students_t(estimate, margin):
    error, freedom = 0.7, 9
    chances = effects.practical(comparisons.student(estimate, error, freedom, 10, "block"), margin)
    posterior = stats.t(freedom, estimate, error)
    assert chances["chance_above"] == pytest.approx(posterior.sf(margin), abs=1e-9)
    assert chances["chance_below"] == pytest.approx(posterior.cdf(-margin), abs=1e-9)
    assert sum(chances.values()) == pytest.approx(1)


@pytest.mark.parametrize("error, n", [(0.7, 10), (0.0, 10), (0.0, 3), (math.nan, 10)])
@pytest.mark.parametrize("estimate", [-1.0, 0.0, 0.2, 3.0])
def test_the_formula_for_a_share_agrees_with_bisection(estimate, error, n):
    bounds = comparisons.student(estimate, error, 4.0, n, "block")
    assert bounds.share_below is not None
    for value in (-30.0, -0.5, 0.1, 0.5, 30.0):
        slow = effects.share_by_bisection(bounds, value)
        assert bounds.share_below(value) == pytest.approx(slow, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("freedom", [[4.0, 4.0, 4.0], [4.0, 2.5, 1e12], [math.inf, math.inf]])
def test_quantiles_for_equal_degrees_of_freedom_are_those_of_each(freedom):
    together = comparisons.t_quantile(0.01, np.array(freedom))
    assert together.tolist() == [float(comparisons.t_quantile(0.01, one)) for one in freedom]


@pytest.mark.parametrize("rule", ["all", "any", "at least 2"])
@pytest.mark.parametrize("direction", statistics.DIRECTIONS)
def test_what_is_reached_at_a_level_is_what_the_rule_makes_of_the_table(rule, direction):
    """For the correction over all hypotheses, which asks many levels and needs no table."""
    reached = set()
    for seed in range(12):
        common = (-1.5, 0.0, 0.4, 1.5)[seed % 4]
        effects = [*RNG(seed).normal(common, 0.3, 3), 0.0]
        values = RNG(seed).normal(0, 0.3, (12, 4)) + effects
        family = tuple(minus(arm, "d") for arm in "abc")
        one = claim(*family, rule=rule, direction=direction)
        judge = rules.Judge(one, Grid(tuple("abcd"), np.arange(12), values), RNG(0))
        for verdict in ("supported", "refuted"):
            for level in (0.5, 0.95, 0.9999, 1 - 1e-9):
                quick = judge.reaches(verdict, level)
                assert quick == judge.reaches_by_ruling(verdict, level)
                reached.add((verdict, quick))
    assert len(reached) == 4, "nothing was reached, or everything was"
