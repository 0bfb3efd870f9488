"""The variance budget: against its slow twin, and on made runs whose components are known."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from oracles import slow_variance
from oracles.in_this_process import here

from analysis import runner
from analysis.results import ResultsError, StudyResult
from analysis.studies import standard_study, variance
from analysis.study import Study


def run(study: Study, results):
    return runner.run(study, results, device="cpu", engine=here)


def made(rng, subsets=8, seeds=4, samples=200, *, subset=0.0, seed=0.0, image=0.0, noise=1.0):
    return (
        subset * rng.standard_normal((subsets, 1, 1))
        + seed * rng.standard_normal((subsets, seeds, 1))
        + image * rng.standard_normal((1, 1, samples))
        + noise * rng.standard_normal((subsets, seeds, samples))
    )


def test_components_equal_their_slow_twin():
    rng = np.random.default_rng(0)
    for _ in range(5):
        correct = 100.0 * (rng.random((3, 2, 7)) < 0.7)
        slow = slow_variance.components(correct.tolist())
        assert variance.variance_components(correct) == pytest.approx(slow, abs=1e-9)


@pytest.mark.parametrize("source", ["subset", "seed", "image"])
def test_what_moves_runs_is_found_where_it_is(source):
    rng = np.random.default_rng(1)
    size = 30.0 if source == "image" else 2.0
    found = [
        variance.variance_components(made(rng, **{source: size}, noise=10.0)) for _ in range(40)
    ]
    column = "images" if source == "image" else source
    true = size**2 / 200 if source == "image" else size**2
    assert np.mean([one[column] for one in found]) == pytest.approx(true, rel=0.2)
    assert np.mean([one["residual"] for one in found]) == pytest.approx(100 / 200, rel=0.05)
    for other in {"subset", "seed", "images"} - {column}:
        assert np.mean([one[other] for one in found]) < 0.12 * true


def test_intervals_of_the_jackknife_bracket_the_estimate():
    correct = made(np.random.default_rng(2), subset=2.0, seed=1.0, image=5.0)
    intervals = variance.component_intervals(correct)
    for interval in intervals.values():
        assert 0 <= interval.low <= interval.estimate <= interval.high
    few = variance.component_intervals(correct[:2])
    assert all(np.isnan(interval.low) for interval in few.values())


def test_what_is_estimated_below_0_is_not_known_to_be_0():
    rng = np.random.default_rng(3)
    held = zeros = 0
    for _ in range(200):
        intervals = variance.component_intervals(made(rng, subset=0.5, seed=1.5, noise=5.0))
        low, estimate, high = (getattr(intervals["subset"], n) for n in ("low", "estimate", "high"))
        zeros += estimate == 0
        assert high > 0
        held += low <= 0.5 <= high
    assert zeros > 20 and held / 200 > 0.9


def test_one_subset_or_one_seed_tells_nothing():
    with pytest.raises(ValueError, match="1 subsets of 4 seeds; needed: two of each"):
        variance.variance_components(np.zeros((1, 4, 9)))


def test_a_trained_study_is_shown(tmp_path):
    declared = standard_study("variance", "digits", "quick")
    assert declared.keep_correct and {arm.seeds_per_subset for arm in declared.arms} == {4}
    few = [arm for arm in declared.arms if arm.name in ("Vanilla", "All")]
    small = declared.model_copy(
        update={"arms": tuple(few), "config": {**declared.config, "epochs": 1}}
    )
    result: StudyResult = run(small, tmp_path).result
    table = variance.variance_table(result.frame, ["Vanilla", "All"])
    assert table["what"].tolist() == ["Vanilla", "All", "All − Vanilla"]
    assert table["n_subsets"].eq(2).all() and table["n_seeds"].eq(4).all()
    spread = result.frame[result.frame["arm"] == "Vanilla"].groupby("subset_seed")
    within = spread["validation_accuracy"].var().mean()
    row = table.iloc[0]
    assert row["seed"] ** 2 + row["residual"] ** 2 >= within - 1e-9
    assert (table["error_seeds"] <= table["error_subsets"]).all()
    assert len(variance.sentences(table)) == 1
    ax = variance.variance_plot(table)
    assert len(ax.get_yticks()) == 3
    plt.close(ax.figure)


def test_runs_that_did_not_keep_what_they_get_right_are_refused(tmp_path):
    plain = Study(name="a", dataset="digits", arms=({"name": "v", "method": "vanilla"},), seeds=2,
                  config={"epochs": 1})  # fmt: skip
    frame = run(plain, tmp_path).result.frame
    with pytest.raises(ResultsError, match="did not keep what they get right"):
        variance.variance_table(frame, ["v"])
