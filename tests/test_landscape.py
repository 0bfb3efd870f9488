"""Mediated parts of a contrast, and the study of what opposition does to the landscape."""

import math

import numpy as np
import pandas as pd
import pytest
from oracles import slow_comparisons as slow
from oracles.made_results import make_study

from analysis import claims, mediation, rooms, rules
from analysis import results as store
from analysis.comparisons import ComparisonError, Grid
from analysis.exhibits import Look
from analysis.hypothesis import Contrast, Hypothesis, Mediated
from analysis.studies import landscape, standard_study
from benchmarks import calibrate_crossed

RNG = np.random.default_rng
ARMS = tuple("abcdef")
WEIGHTS = dict(zip(ARMS, (0.5, 0.5, -0.25, -0.25, -0.25, -0.25), strict=True))
PART = Mediated(label="through m", weights=WEIGHTS, through="m")


def grids(subsets: int = 12, a: float = 1.0, b: float = 0.7, direct: float = 0.0, seed: int = 0):
    """Outcome and mediator of six arms on the same subsets."""
    rng = RNG(seed)
    side = np.array([1.0, 1, 0, 0, 0, 0])
    m = a * side + rng.standard_normal((subsets, 6)) + 3 * rng.standard_normal((subsets, 1))
    y = 90 + direct * side + b * m + 0.3 * rng.standard_normal((subsets, 6))
    return Grid(ARMS, np.arange(subsets), y), Grid(ARMS, np.arange(subsets), m)


def runs_of(outcome: Grid, mediator: Grid) -> pd.DataFrame:
    return pd.DataFrame(
        {"arm": arm, "seed": s, "subset_seed": s, "validation_accuracy": y, "m": m}
        for s, (ys, ms) in enumerate(zip(outcome.values, mediator.values, strict=True))
        for arm, y, m in zip(ARMS, ys, ms, strict=True)
    )


# --- mediated parts ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_mediated_part_is_that_of_least_squares_with_dummies(seed):
    outcome, mediator = grids(seed=seed, direct=0.4)
    found = mediation.mediated(PART, outcome, mediator, RNG(0))
    weights = np.array(list(WEIGHTS.values()))
    wanted = slow.mediated_part(mediator.values, outcome.values, weights)
    assert found.estimate == pytest.approx(wanted, rel=1e-9)
    assert found.low(0.025) < found.estimate < found.high(0.025)
    assert found.low(0.0025) < found.low(0.025)


def test_levels_of_subsets_and_arms_are_no_mediation():
    outcome, mediator = grids()
    shifted = Grid(ARMS, mediator.subset, mediator.values + 50 * RNG(1).standard_normal((12, 1)))
    raised = Grid(ARMS, outcome.subset, outcome.values + 5 * RNG(2).standard_normal((12, 1)))
    first = mediation.mediated(PART, outcome, mediator, RNG(0))
    second = mediation.mediated(PART, raised, mediator, RNG(0))
    assert second.estimate == pytest.approx(first.estimate)
    moved = mediation.mediated(PART, outcome, shifted, RNG(0))
    assert moved.estimate == pytest.approx(first.estimate)


def test_subsets_that_lack_a_run_are_left_out_and_few_are_refused():
    outcome, mediator = grids(10)
    outcome.values[3, 1] = math.nan
    assert mediation.mediated(PART, outcome, mediator, RNG(0)).left_out == 1
    with pytest.raises(ComparisonError, match="7 subsets have runs of all arms; needed: 8"):
        mediation.mediated(PART, *grids(7), RNG(0))
    same = Grid(ARMS, np.arange(12), np.ones((12, 6)))
    with pytest.raises(ComparisonError, match="runs of one arm do not differ in m"):
        mediation.mediated(PART, grids()[0], same, RNG(0))


@pytest.mark.parametrize(
    ("a", "b", "direct", "verdict", "said"),
    [
        (2.0, 0.7, 0.0, "supported", "% of the difference of"),
        (0.0, 0.7, 2.0, "refuted", "through m"),
        (0.0, 0.0, 0.0, "refuted", "no difference is shown that could be mediated"),
    ],
    ids=["all of it", "none of it", "no effect"],
)
def test_a_claim_of_mediation_needs_the_effect_and_its_part(a, b, direct, verdict, said):
    both = (Contrast(label="gain", weights=WEIGHTS), PART)
    one = Hypothesis(name="h", statement="It works by m.", estimand="e", comparisons=both, n=60)
    runs = runs_of(*grids(60, a, b, direct))
    judged = rules.test(one, runs, RNG(0))
    assert judged.verdict == verdict, judged.sentence
    assert said in judged.sentence + " ".join(judged.notes.values())
    untested = rules.test(one, runs.drop(columns="m"), RNG(0))
    assert untested.verdict == "not tested"


def test_a_mediated_part_needs_two_sides():
    with pytest.raises(ValueError, match="'x' needs two arms or more of negative weight"):
        Mediated(label="x", weights={"a": 0.5, "b": 0.5, "c": -1.0}, through="m")
    read = Hypothesis.model_validate(
        {"name": "h", "statement": "s", "estimand": "e", "n": 9,
         "comparisons": [PART.model_dump(mode="json")]}
    )  # fmt: skip
    assert read.comparisons == (PART,)


def test_intervals_over_images_and_of_mediated_parts_cover():
    """The short form of their lines in `make calibrate`."""
    found = calibrate_crossed.lines(150, calibrate_crossed.SHORT)
    assert len(found) == len(calibrate_crossed.SHORT)
    for line in found:
        assert not line.fails(deviations=3.1), line
        assert line.coverage >= 0.88, line


# --- the study -----------------------------------------------------------------------------------


def test_the_study_asks_about_every_arm_on_subsets_of_its_own():
    study = standard_study("landscape", preset="standard")
    named = set().union(*(one.arms for one in study.hypotheses))
    assert {arm.name for arm in study.arms} - named == {"Vanilla"}
    assert all(arm.subset_of(seed) == seed for arm in study.arms for seed in study.seeds)
    others = {
        arm.subset_of(seed)
        for name in ("hypotheses", "sets", "matched", "tuned", "comparators", "regimes", "variance")
        for one in [standard_study(name, preset="standard")]
        for arm in one.arms
        for seed in one.seeds
    }
    assert not others & set(study.seeds)
    for one in study.hypotheses:
        for comparison in one.comparisons:
            assert sum(comparison.weights.values()) == pytest.approx(0, abs=1e-12)
        if "-works-by-" in one.name:  # the effect itself stands before what goes through a mediator
            gain, part = one.comparisons
            assert isinstance(gain, Contrast) and isinstance(part, Mediated)
            assert gain.weights == part.weights and one.rule == "all"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Pairs beat their members, by 3 points; opposed sets and unopposed ones are alike."""
    folder = tmp_path_factory.mktemp("landscape")
    study = standard_study("landscape", preset="quick")
    make_study(
        folder,
        study,
        mean=lambda arm: 93.0 if arm.startswith("opposed pair") else 90.0,
    )
    return folder


def test_what_was_measured_at_the_end_stands_beside_the_runs(results):
    study = store.load(results, "landscape", "digits")
    table = store.with_measured(study)
    assert len(table) == len(study.frame)
    wanted = store.measured(study).frame.set_index("key")["eigenvalue_clean"]
    beside = table.set_index("key")["end_log_eigenvalue_clean"]
    assert beside.notna().all()
    np.testing.assert_allclose(beside, 100 * np.log(wanted.loc[beside.index]))


def test_without_an_effect_nothing_is_mediated_and_the_ledger_says_so(results):
    table = claims.ledger(results)
    rows = table[table["claim"] == "C36"].set_index("hypothesis")
    assert len(rows) == 6 and set(rows["study"]) == {"landscape"}
    for word in landscape.MEDIATORS:
        row = rows.loc[f"opposition-works-by-{word}"]
        assert row["verdict"] == "refuted" and row["estimate_high"] < 0.5
        joined = rows.loc[f"joining-opposites-works-by-{word}"]
        assert joined["verdict"] in ("refuted", "inconclusive")
        assert joined["comparison"] == f"13 pairs − their members, through {word}"


def test_the_table_tells_total_and_mediated_effect(results):
    shown = rooms.of_study("landscape", results, "digits", Look())
    table = shown.tables["landscape-mediation"].data
    assert len(table) == 6
    joined = table[table["kind"] == "13 pairs − their members"]
    assert joined["total"].between(2.5, 3.5).all()
    np.testing.assert_allclose(joined["share"], 100 * joined["mediated"] / joined["total"])
    assert table.loc[table["kind"] != "13 pairs − their members", "share"].isna().all()
