"""Mixed models and the permutation of sets: known truths, and rates of false positives."""

import numpy as np
import pandas as pd
import pytest

from analysis import mixed

FORMULA = "accuracy ~ size * opposition"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def made_runs(
    generator: np.random.Generator, sets: int = 24, seeds: int = 8, *, slope: float = 0.0
) -> pd.DataFrame:
    """Runs of sets of 2, 4 or 6 with or without opposition; `slope` is the interaction. The SD of
    sets is 1, of seeds 0.5, of runs 1."""
    of_seed = 0.5 * generator.normal(size=seeds)
    rows = []
    for number in range(sets):
        size, opposition = (2, 4, 6)[number % 3], number // 3 % 2
        mean = 90 + 0.3 * size + slope * size * opposition + generator.normal()
        for seed in range(seeds):
            accuracy = mean + of_seed[seed] + generator.normal()
            rows.append((f"set {number}", seed, size, opposition, accuracy))
    return pd.DataFrame(rows, columns=["set", "seed", "size", "opposition", "accuracy"])


def test_effects_and_spreads_are_found():
    fit = mixed.mixed_model(made_runs(rng(), 120, slope=0.5), FORMULA, ["set", "seed"])
    found = fit.fixed.set_index("term")
    assert found["estimate"]["size:opposition"] == pytest.approx(0.5, abs=0.25)
    assert found["p_value"]["size:opposition"] < 0.01
    assert (found["estimate_low"] < found["estimate"]).all()
    assert fit.random["set"] == pytest.approx(1, abs=0.25)
    assert fit.random["seed"] == pytest.approx(0.5, abs=0.35)
    assert fit.random["residual"] == pytest.approx(1, abs=0.1)
    assert (fit.n, fit.levels) == (960, {"set": 120, "seed": 8})
    assert set(found["freedom"]) == {116}


def test_balanced_sets_are_judged_as_their_means_would_be():
    """With as many runs of each set the mixed model is least squares on the sets' means."""
    from scipy import stats

    frame = made_runs(rng(3), 20, slope=0.3)
    fit = mixed.mixed_model(frame, "accuracy ~ size", ["set"]).fixed.set_index("term")
    means = frame.groupby("set")[["size", "accuracy"]].mean()
    line = stats.linregress(means["size"], means["accuracy"])
    assert fit["estimate"]["size"] == pytest.approx(line.slope)
    assert fit["error"]["size"] == pytest.approx(line.stderr, rel=1e-3)
    assert fit["p_value"]["size"] == pytest.approx(line.pvalue, rel=1e-2)


def test_runs_without_accuracy_are_left_out():
    frame = made_runs(rng())
    frame.loc[:4, "accuracy"] = np.nan
    assert mixed.mixed_model(frame, FORMULA, ["set", "seed"]).n == len(frame) - 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((FORMULA, ["sett"]), "unknown column 'sett'; known: set, seed"),
        (("acuracy ~ size", ["set"]), "unknown column 'acuracy'"),
        ((FORMULA, []), "unit '' is not a random effect"),
        (("accuracy ~ 1", ["one"]), "random effect 'one' has 1 values"),
        (("accuracy ~ C(set)", ["set"]), "24 fixed effects need more than 24 values of 'set'"),
    ],
)
def test_a_model_that_cannot_be_is_named(arguments, message):
    with pytest.raises(mixed.MixedError) as error:
        mixed.mixed_model(made_runs(rng()).assign(one=1), *arguments)
    assert message in str(error.value)


# --- permutation ---------------------------------------------------------------------------------


def permuted_p(frame, tested, nuisance, generator, **options) -> float:
    """p of a property on the means of sets; "both" is size × opposition."""
    means = frame.assign(both=frame["size"] * frame["opposition"])
    means = means.drop(columns="seed").groupby("set").mean()
    columns = (means[name].to_numpy() for name in ("accuracy", tested))
    return mixed.freedman_lane_p(*columns, means[nuisance].to_numpy(), generator, **options)


def test_permuted_residuals_agree_with_the_t_test():
    generator = rng(5)
    nuisance = generator.normal(size=(40, 2))
    tested = nuisance[:, 0] + generator.normal(size=40)
    response = 2 * nuisance[:, 1] + 0.3 * tested + generator.normal(size=40)
    got = mixed.freedman_lane_p(response, tested, nuisance, rng())
    design = np.column_stack([np.ones(40), tested, nuisance])
    beta, square, *_ = np.linalg.lstsq(design, response, rcond=None)
    error = np.sqrt(square[0] / 36 * np.linalg.inv(design.T @ design)[1, 1])
    from scipy import stats

    assert got == pytest.approx(2 * stats.t.sf(abs(beta[1]) / error, 36), abs=0.02)


def test_a_clear_effect_is_found_and_one_that_follows_from_others_is_not_asked():
    frame = made_runs(rng(), 60, slope=1.0)
    others = ["size", "opposition"]
    assert permuted_p(frame, "both", others, rng()) < 0.01
    copied = frame.assign(again=frame["size"])
    assert np.isnan(permuted_p(copied, "again", others, rng()))


@pytest.mark.slow
def test_false_positives_stay_below_5_percent_where_sets_differ_by_themselves():
    """12 sets of 5 runs. Counting runs as units would find an effect in a fifth."""
    from scipy import stats

    generator, trials = rng(7), 500
    found = np.zeros(3)
    for _ in range(trials):
        frame = made_runs(generator, 12, 5)
        fit = mixed.mixed_model(frame, FORMULA, ["set", "seed"]).fixed.set_index("term")
        permuted = permuted_p(frame, "both", ["size", "opposition"], generator, resamples=499)
        naive = stats.ttest_ind(*(frame[frame["opposition"] == o]["accuracy"] for o in (0, 1)))
        found += np.array([fit["p_value"]["size:opposition"], permuted, naive.pvalue]) < 0.05
    mixed_rate, permuted_rate, naive_rate = found / trials
    limit = 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / trials)
    assert mixed_rate <= limit and permuted_rate <= limit
    assert naive_rate > 0.15
