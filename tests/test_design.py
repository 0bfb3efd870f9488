"""Planning: power in closed form and by simulation, searches, and plans of whole studies."""

import numpy as np
import pytest
from oracles.made_results import make_study, standard

from analysis import design as d
from analysis import results as store
from analysis import statistics
from analysis.studies import find_study, standard_study


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- the t test in closed form --------------------------------------------------------------------


@pytest.mark.parametrize(("n", "expected"), [(5, 2.02), (10, 1.32), (30, 0.74)])
def test_smallest_detectable_difference(n, expected):
    assert d.smallest_detectable_difference(1.0, n) == pytest.approx(expected, abs=0.006)
    assert d.smallest_detectable_difference(2.0, n) == pytest.approx(2 * expected, abs=0.012)


def test_26_comparisons_need_a_larger_difference():
    got = d.smallest_detectable_difference(1.0, 5, alpha=0.05 / 26)
    assert got == pytest.approx(3.57, abs=0.006)


@pytest.mark.parametrize(("sd", "expected"), [(1.3, 0.57), (2.0, 0.29)])
def test_power_of_two_points_at_five_runs(sd, expected):
    assert d.detection_power(2.0, sd, 5) == pytest.approx(expected, abs=0.006)


def test_unequal_arms_are_between_equal_ones():
    reach = d.smallest_detectable_difference
    assert reach(1.0, 20) < reach(1.0, 5, 20) < reach(1.0, 5)
    with pytest.raises(ValueError, match="two runs per arm"):
        d.detection_power(1.0, 1.0, 1)


@pytest.mark.parametrize("effect", [0.5, 1.0, 3.0])
def test_the_fewest_runs_are_enough_and_one_less_is_not(effect):
    n = d.runs_per_arm(effect, 1.0)
    assert d.detection_power(effect, 1.0, n) >= 0.8
    assert n == 2 or d.detection_power(effect, 1.0, n - 1) < 0.8
    assert d.runs_per_arm(effect, 1.0, alpha=0.05 / 26) > n


def test_a_hopeless_effect_is_refused():
    with pytest.raises(d.PlanError, match="more than 10000 runs"):
        d.runs_per_arm(0.001, 1.0)
    with pytest.raises(ValueError, match="power 0.01 is not between"):
        d.runs_per_arm(1.0, 1.0, power=0.01)


# --- simulation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("effect", "n"), [(0.0, 5), (2.0, 5), (1.0, 17)])
def test_simulated_power_is_that_of_the_formula(effect, n):
    got = d.simulated_power(1.0, effect, n, rng())
    expected = d.detection_power(effect, 1.0, n) if effect else 0.05
    assert got.estimate == pytest.approx(expected, abs=4 * got.error + 0.01)  # Welch against t
    assert 0 < got.error < 0.01 and "±" in str(got)


def test_pilot_runs_are_shifted_and_keep_their_spread():
    pilot = 90 + rng(0).exponential(size=8)
    one, other = d.simulated_arms([pilot], [2.0, 0.0], [40, 50], 2000, rng())
    assert one.shape == (2000, 40) and other.shape == (2000, 50)
    assert one.mean() == pytest.approx(2, abs=0.02) and other.mean() == pytest.approx(0, abs=0.02)
    assert one.std() == pytest.approx(pilot.std(ddof=1), rel=0.02)
    with pytest.raises(ValueError, match="one pilot sample, or one each"):
        d.simulated_arms([pilot] * 3, [1.0, 0.0], 5, 10, rng())
    with pytest.raises(ValueError, match="at least two runs"):
        d.simulated_arms([[90.0]], [1.0, 0.0], 5, 10, rng())
    with pytest.raises(ValueError, match="sd is 0"):
        d.simulated_arms(0, [1.0, 0.0], 5, 10, rng())


def test_any_decision_can_be_planned_for():
    def decision(arms, generator):
        found = statistics.difference_interval(*arms, generator, resamples=199)
        return statistics.decide(found, 0.0, "greater") == "supported"

    rule = d.one_by_one(decision)
    none, large = (
        d.simulated_power(1.0, effect, 5, rng(), rule=rule, trials=100) for effect in (0.0, 5.0)
    )
    assert none.estimate < 0.1 and large.estimate > 0.95


def test_the_searches_agree_with_the_formula_and_with_one_another():
    n, power = d.simulated_runs_per_arm(1.0, 1.0, rng(), trials=2000)
    assert n == pytest.approx(d.runs_per_arm(1.0, 1.0), abs=1)
    assert power.estimate >= 0.8
    effect = d.simulated_detectable_effect(1.0, n, rng(), trials=2000)
    assert effect == pytest.approx(1.0, abs=0.08)
    with pytest.raises(d.PlanError, match="more than 16 runs"):
        d.simulated_runs_per_arm(1.0, 0.1, rng(), trials=100, most=16)
    with pytest.raises(d.PlanError, match="never reach power"):
        d.simulated_detectable_effect(
            1.0, 5, rng(), rule=lambda arms, _: np.zeros(len(arms[0]), bool), trials=10
        )


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["normal", "skewed", "two modes"])
def test_fresh_experiments_find_the_effect_as_often_as_the_plan_said(shape):
    """A plan from 20 pilot runs gives somewhat less on average than the power it was asked for: a
    pilot that has seen too little spread loses more than one that has seen too much gains."""
    draw = {
        "normal": lambda g, size: g.normal(size=size),
        "skewed": lambda g, size: -g.lognormal(size=size) / 2,
        "two modes": lambda g, size: g.normal(size=size) - 4 * (g.random(size) < 0.2),
    }[shape]
    generator, rule, powers = rng(1), d.welch_rule(), []
    for _ in range(40):
        n, _ = d.simulated_runs_per_arm([draw(generator, 20)], 1.0, generator, trials=1000)
        arms = [1 + draw(generator, (500, n)), draw(generator, (500, n))]
        powers.append(rule(arms, generator).mean())
    expected = {"normal": 0.74, "skewed": 0.70, "two modes": 0.74}[shape]
    assert np.mean(powers) == pytest.approx(expected, abs=0.06)


# --- plans ---------------------------------------------------------------------------------------


def test_a_plan_rests_on_the_pilot_in_the_results(tmp_path):
    make_study(tmp_path, standard("tension", seeds=12), sd=0.8)
    got = d.plan(standard_study("tension"), tmp_path, 1.0, cores=2)
    assert (got.pilot, got.pilot_runs, got.pilot_arms) == (tmp_path, 84, 7)
    runs = store.load(tmp_path, "tension", "digits").frame
    spread = np.sqrt(runs.groupby("arm")["validation_accuracy"].var().mean())
    assert got.sd.estimate == pytest.approx(spread)
    assert got.sd.low < spread < got.sd.high
    assert got.sd_by_arm[0] < spread < got.sd_by_arm[1]
    assert [option.comparisons for option in got.options] == [1, 1, 6, 6]
    one, wide, family, _ = got.options
    assert one.runs_per_arm == d.runs_per_arm(1.0, spread) < wide.runs_per_arm
    assert family.runs_per_arm == d.runs_per_arm(1.0, spread, alpha=0.05 / 6)
    assert one.simulated.estimate == pytest.approx(0.8, abs=0.06)
    # A made run takes one second of a core; what is finished is not run again.
    assert one.runs == 7 * one.runs_per_arm and family.to_run == 7 * (family.runs_per_arm - 12)
    assert family.seconds == pytest.approx(family.to_run / 2)


def test_without_own_runs_the_shipped_ones_are_the_pilot(tmp_path):
    got = d.plan(standard_study("isolation"), tmp_path, 1.0)
    assert got.pilot == store.SHIPPED and got.pilot_runs == 540
    assert all(option.to_run == option.runs for option in got.options)


def test_another_study_of_the_same_config_is_a_pilot(tmp_path):
    got = d.plan(standard_study("tension"), tmp_path, 1.5)
    alike = d.plan(standard_study("isolation"), tmp_path, 1.5)
    assert got.pilot == store.SHIPPED
    assert got.sd.estimate == pytest.approx(alike.sd.estimate, rel=0.3)


def test_other_settings_are_no_pilot_and_the_error_says_how_to_run_one(tmp_path):
    make_study(tmp_path, standard("tension", seeds=5))
    changed = find_study("tension", overrides=["epochs=3"])
    for study, command in (
        (
            standard_study("isolation", "cifar10", "published"),
            "aba run isolation --dataset cifar10 --preset published --seeds 5",
        ),
        (changed, "no finished runs of tension on digits with these settings"),
    ):
        with pytest.raises(d.PlanError) as error:
            d.plan(study, tmp_path, 1.0)
        assert command in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("study", "changes", "message"),
    [
        ("tension", {"effect": 0}, "effect is 0; allowed: numbers above 0"),
        ("tension", {"power": 1.5}, "power is 1.5; allowed: numbers between 0.05 and 1"),
        ("tension", {"comparisons": 0}, "comparisons is 0; allowed: whole numbers from 1"),
        ("frozen", {}, "frozen evaluates trained models"),
    ],
)
def test_a_plan_that_cannot_be_is_named(study, changes, message, tmp_path):
    with pytest.raises(d.PlanError, match=message):
        d.plan(standard_study(study), tmp_path, **{"effect": 1.0, **changes})


def test_equal_runs_need_no_plan(tmp_path):
    make_study(tmp_path, standard("tension", seeds=3), sd=0.0)
    with pytest.raises(d.PlanError, match="all equal"):
        d.plan(standard_study("tension"), tmp_path, 1.0)
