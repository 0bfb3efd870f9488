"""Where gains hold: training sizes, batch norm, spreads of runs; and frozen models as runs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from oracles.made_results import make_study

from aba_core.adjustments import ADJUSTMENTS
from aba_core.arms import Arm, TrainConfig
from analysis import comparisons, plan, rules
from analysis import results as store
from analysis.comparisons import ComparisonError
from analysis.exhibits import Look
from analysis.hypothesis import Contrast, Hypothesis, group_arm
from analysis.studies import groups, regimes, standard_study
from analysis.study import Study, StudyError

RNG = np.random.default_rng


def runs_of(values: dict[str, np.ndarray], per_subset: int = 1) -> pd.DataFrame:
    """values: {arm: [run]}."""
    return pd.DataFrame(
        {"arm": arm, "seed": seed, "subset_seed": seed // per_subset, "accuracy": value}
        for arm, column in values.items()
        for seed, value in enumerate(column)
    )


def jackknife_by_hand(values: np.ndarray, per_subset: int) -> tuple[float, float]:
    """100 ln(SD of the first / SD of the second) and its error. values: [run, 2]."""

    def log_ratio(kept: np.ndarray) -> float:
        if per_subset == 1:
            first, second = (np.std(kept[:, arm], ddof=1) for arm in (0, 1))
            return 100 * np.log(first / second)
        spreads = []
        for arm in (0, 1):
            within = [
                np.var(kept[start : start + per_subset, arm], ddof=1)
                for start in range(0, len(kept), per_subset)
            ]
            spreads.append(np.sqrt(np.mean(within)))
        return 100 * np.log(spreads[0] / spreads[1])

    n = len(values) // per_subset
    without = [
        log_ratio(np.delete(values, range(i * per_subset, (i + 1) * per_subset), axis=0))
        for i in range(n)
    ]
    return log_ratio(values), np.sqrt((n - 1) / n * np.sum((without - np.mean(without)) ** 2))


@pytest.mark.parametrize("per_subset", [1, 4])
def test_spread_is_the_jackknife_of_the_log_ratio_of_sds(per_subset):
    values = RNG(1).normal(80, [1.0, 2.0], (24, 2))
    runs = runs_of({"a": values[:, 0], "b": values[:, 1]}, per_subset)
    bounds = comparisons.spread(comparisons.grid_of(runs, "accuracy"), {"a": 1.0, "b": -1.0})
    estimate, error = jackknife_by_hand(values, per_subset)
    assert bounds.estimate == pytest.approx(estimate, abs=1e-9)
    n = 24 // per_subset
    reach = comparisons.t_quantile(0.025, n - 1.0) * error
    assert bounds.low(0.025) == pytest.approx(estimate - reach, abs=1e-9)
    assert (bounds.n, bounds.unit) == (n, "subset")


@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_spread_covers_the_true_ratio_and_seldom_finds_one_that_is_not_there(shape):
    """At 20 pairs whose errors correlate by .5; Monte Carlo error of .95 in 400 is .011."""
    rng, inside, found = RNG(3), 0, 0
    for _ in range(400):
        draws = rng.standard_normal((20, 3)) if shape == "normal" else rng.gamma(4.0, 0.5, (20, 3))
        values = 80 + draws[:, :2] + draws[:, 2:]
        grid = comparisons.grid_of(runs_of({"a": values[:, 0], "b": values[:, 1]}), "accuracy")
        bounds = comparisons.spread(grid, {"a": 1.0, "b": -1.0})
        inside += bounds.low(0.025) < 0 < bounds.high(0.025)
        found += bounds.high(0.025) < 0
    assert inside / 400 >= 0.92, inside / 400
    assert found / 400 <= 0.05, found / 400


def test_spread_needs_runs_that_differ_and_enough_of_them():
    alike = runs_of({"a": np.arange(5.0), "b": np.full(5, 7.0)})
    with pytest.raises(ComparisonError, match="the runs of 'b' are all alike"):
        comparisons.spread(comparisons.grid_of(alike, "accuracy"), {"a": 1.0, "b": -1.0})
    few = runs_of({"a": np.arange(3.0), "b": np.array([1.0, 5.0, 2.0])})
    with pytest.raises(ComparisonError, match="3 blocks have runs of all arms; needed: 4"):
        comparisons.spread(comparisons.grid_of(few, "accuracy"), {"a": 1.0, "b": -1.0})
    with pytest.raises(ValueError, match="is of spreads; allowed: weights of arms, unit run"):
        Contrast(label="x", weights={"a": 1.0}, of="spread", unit="adjustment")


def test_the_slope_of_the_gain_is_that_of_a_straight_line():
    sizes = (100, 200, 400, 1600)
    weights = regimes.slope_of_gain(sizes)
    for slope in (-2.0, 0.0, 0.7):
        total = 0.0
        for size in sizes:
            condition = "" if size == 100 else regimes.on(size)
            vanilla, gain = 70 + size**0.3, 5.0 + slope * np.log2(size)
            total += weights[regimes.under("Vanilla", condition)] * vanilla
            total += weights[regimes.under("All", condition)] * (vanilla + gain)
        assert total == pytest.approx(slope, abs=1e-9)


def test_not_worse_is_supported_where_a_loss_of_the_margin_is_excluded():
    def judged(gain: float, sd: float = 0.3) -> rules.Verdict:
        noise = RNG(0).normal(0, sd, (2, 20))
        runs = runs_of({"a": 80 + gain + noise[0], "b": 80 + noise[1]})
        contrast = Contrast(label="a − b", weights={"a": 1.0, "b": -1.0})
        claim = Hypothesis(
            name="fine", statement="a is fine.", estimand="x", comparisons=(contrast,),
            direction="not worse", n=20,
        )  # fmt: skip
        return rules.test(claim, runs, RNG(0), metric="accuracy")

    assert judged(0.0).verdict == "supported" and judged(3.0).verdict == "supported"
    assert judged(-2.0).verdict == "refuted" and judged(-2.0).effect == "reversed"
    unsure = judged(-0.5, sd=1.0)
    assert unsure.verdict == "inconclusive"
    assert "a loss of 0.5 points is neither shown nor excluded" in unsure.sentence


def test_hypotheses_declared_before_keep_their_hash_without_the_later_fields():
    contrast = Contrast(label="a − b", weights={"a": 1.0, "b": -1.0})
    claim = Hypothesis(name="x", statement="x", estimand="x", comparisons=(contrast,), n=5)
    written = claim.model_dump(mode="json")
    assert not {"measure", "quantity"} & set(written) and "of" not in written["comparisons"][0]
    other = claim.model_copy(update={"measure": "nats"})
    assert other.model_dump(mode="json")["measure"] == "nats" and other.identity != claim.identity


def test_an_arm_may_have_its_own_number_of_training_samples():
    arm = Arm.of("big", method="vanilla", config={"subset": 200})
    assert arm.data()["config"] == (("subset", "200"),) or dict(arm.config) == {"subset": "200"}
    assert arm.trained_by(TrainConfig()).subset == "200"
    config = {"dataset": "digits", "model": "mlp", "epochs": 1}
    arms = (Arm.of("Vanilla", method="vanilla"), arm)
    found = plan.resolve(Study(name="s", dataset="digits", config=config, arms=arms, seeds=(0,)))
    steps = {chunk.config.subset: found.steps(chunk) for chunk in found.chunks}
    assert steps == {"tiny": 2, "200": 4}  # batches of 50, one epoch: progress counts both right
    wrong = (arms[0], replace(arm, config=(("subset", "5000"),)))
    with pytest.raises(ValueError, match="subset 5000 of digits; allowed: 10 to 797 samples"):
        plan.resolve(Study(name="s", dataset="digits", config=config, arms=wrong, seeds=(0,)))


def test_regimes_on_made_results_gives_verdicts_and_a_figure(tmp_path):
    study = standard_study("regimes", "digits", "quick").model_copy(
        update={"seeds": tuple(range(200, 212))}
    )
    gains = {"All": 6.0, "All, 200 samples": 4.0, "All, 400 samples": 2.0, "All, batch norm": 0.0}
    make_study(tmp_path, study, mean=lambda arm: 80.0 + gains.get(arm, 0.0), sd=0.2)
    result = store.load(tmp_path, "regimes", "digits")
    verdicts = {v.hypothesis.name: v for v in rules.test_all(result, RNG(0))}
    assert verdicts["gain-shrinks-with-size"].verdict == "supported"
    assert verdicts["gain-shrinks-with-size"].decisive["estimate"] == pytest.approx(-2, abs=0.2)
    assert verdicts["batch-norm-shrinks-the-gain"].verdict == "supported"
    assert verdicts["batch-norm-as-published"].verdict == "supported"
    assert verdicts["mendaba-is-not-worse"].verdict == "supported"
    assert " log %" in verdicts["runs-lie-closer-together"].sentence
    shown = regimes.exhibits(result, Look())
    table = shown.tables["regimes"].data
    assert list(table["regime"]) == ["100 samples", "200 samples", "400 samples", "batch norm"]
    assert table["gain"].to_numpy() == pytest.approx([6, 4, 2, 0], abs=0.3)
    assert shown.figures["regimes"].draw("single") is not None


def test_frozen_models_become_runs_of_groups():
    rng, rows = RNG(5), []
    for seed in (0, 1):
        for one in ADJUSTMENTS:
            rows.append(
                {"arm": "Vanilla", "seed": seed, "subset_seed": seed, "status": "finished",
                 "adjustment": one.index, "strength": 0.5, "group": str(one.group),
                 **{name: rng.normal() for name in ("loss_change", "accuracy_change",
                                                    "class_score_change")}}
            )  # fmt: skip
    frame = pd.DataFrame(rows)
    runs = store.group_runs(frame.drop(columns="group")).set_index(["arm", "seed"])
    for seed in (0, 1):
        for group, sign in (("Epsilon", 1), ("Delta", -1), ("Neutral", 0)):
            part = frame[(frame["group"] == group) & (frame["seed"] == seed)]
            row = runs.loc[(group_arm("Vanilla", group, 0.5), seed)]
            assert row["loss_change"] == pytest.approx(part["loss_change"].mean())
            against = np.mean([100.0 * (change * sign < 0) for change in part["loss_change"]])
            assert np.isnan(row[store.AGAINST]) if not sign else row[store.AGAINST] == against


def test_hypotheses_on_frozen_models_name_their_groups():
    study = standard_study("groups")
    assert {h.quantity for h in study.hypotheses} == {"loss_change", store.AGAINST}
    wrong = study.hypotheses[0].model_copy(
        update={"comparisons": (Contrast(label="x", weights={"Vanilla": 1.0}),)}
    )
    with pytest.raises(ValueError, match="names the arm 'Vanilla', which the study does not have"):
        Study.model_validate({**study.model_dump(), "hypotheses": [wrong.model_dump()]})
    assert groups.NATS == study.hypotheses[0].margin
    assert issubclass(StudyError, ValueError)
