"""Hypotheses are declared before their runs, and judged by the rule that was declared."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis import hypotheses as hy
from analysis import results as store
from analysis import statistics, tables
from analysis.studies import standard_study
from analysis.study import (
    Contrast,
    Hypothesis,
    Slope,
    Study,
    StudyError,
    study_from_yaml,
)


def runs_of(means: dict[str, float], n: int = 10, sd: float = 1.0, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {"arm": arm, "seed": s, "validation_accuracy": mean + sd * rng.standard_normal()}
        for arm, mean in means.items()
        for s in range(n)
    )


def claim(*comparisons, **changes) -> Hypothesis:
    fields = dict(name="h", statement="A beats B.", estimand="A less B", n=10)
    return Hypothesis(**{**fields, "comparisons": comparisons, **changes})


A_B = Contrast(label="a − b", weights={"a": 1, "b": -1})
A_C = Contrast(label="a − c", weights={"a": 1, "c": -1})
RNG = np.random.default_rng


# --- the standard ones ----------------------------------------------------------------------------


def test_every_standard_hypothesis_is_about_arms_of_its_study():
    for name in ("hypotheses", "sets"):
        study = standard_study(name)
        known = {arm.name for arm in study.arms}
        assert study.hypotheses and len({one.name for one in study.hypotheses}) == len(
            study.hypotheses
        )
        for one in study.hypotheses:
            assert one.arms <= known
        named = set().union(*(one.arms for one in study.hypotheses))
        assert named | {"adjustment 0"} >= known - {"Del. & Neu."}, "an arm that nobody asks about"


def test_weights_of_every_standard_contrast_compare_and_do_not_average():
    for one in standard_study("hypotheses").hypotheses:
        for contrast in one.comparisons:
            total = sum(contrast.weights.values()) - bool(contrast.minus_best_of)
            assert total == pytest.approx(0, abs=1e-12), contrast.label


def test_confirming_seeds_are_not_those_that_explored():
    for name in ("hypotheses", "sets"):
        assert min(standard_study(name, preset="standard").seeds) >= hy.FIRST_SEED
    explored = max(
        max(standard_study(n, preset="standard").seeds) for n in ("isolation", "tension")
    )
    assert explored < hy.FIRST_SEED


def test_the_13_pairs_are_all_opposed_adjustments():
    adjustments = tables.adjustment_table()[["low", "middle", "high"]].to_numpy()
    assert len(hy.PAIRS) == 13 and len({i for pair in hy.PAIRS for i in pair}) == 26
    for first, second in hy.PAIRS:
        assert (adjustments[first] == -adjustments[second]).all()


def test_random_sets_cross_size_with_opposition_and_hold_the_rest():
    sets = hy.random_sets(12)
    assert sets == hy.random_sets(12) and len(set(sets)) == len(sets) == 26 + 8 * 12
    frame = pd.DataFrame([hy.properties(members) for members in sets])
    cells = frame.groupby(["size", "opposition"]).size()
    assert set(cells) == {26, 12} and len(cells) == 9
    assert not any(0 in members for members in sets)
    assert (frame.loc[frame["size"] > 0, "direction"].abs() <= 0.5).all()
    correlation = frame.corr().loc[["size", "opposition"], ["direction", "offset", "norm"]]
    assert (correlation.abs() < 0.2).all(axis=None)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ((3,), dict(size=0, opposition=0, direction=1, offset=0, norm=math.sqrt(0.1))),
        ((3, 4), dict(size=1, opposition=1, direction=0, offset=0, norm=math.sqrt(0.1))),
        ((1, 3, 4, 19), dict(size=2, opposition=0.5, offset=0.5, direction=0.25 * 0)),
    ],
)
def test_properties_of_sets_counted_by_hand(members, expected):
    found = hy.properties(members)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value)


# --- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gap", "verdict"), [(4.0, "supported"), (-4.0, "refuted"), (0.0, "inconclusive")]
)
def test_a_claim_is_judged_by_its_interval(gap, verdict):
    own = runs_of({"a": 90 + gap, "b": 90}, n=8, sd=1.5, seed=1)
    judged = hy.test(claim(A_B), own, RNG(0))
    assert judged.verdict == verdict
    assert judged.sentence.startswith(f"A beats B. {verdict.capitalize()}: a − b")
    row = judged.table.iloc[0]
    means = own.groupby("arm")["validation_accuracy"].mean()
    assert row["estimate"] == pytest.approx(means["a"] - means["b"])


def test_all_must_hold_or_any_may():
    runs = runs_of({"a": 93, "b": 90, "c": 93}, n=5)
    assert hy.test(claim(A_B, A_C), runs, RNG(0)).verdict == "inconclusive"
    assert hy.test(claim(A_B, A_C, rule="any"), runs, RNG(0)).verdict == "supported"
    lower = runs_of({"a": 90, "b": 93, "c": 93}, sd=0.5)
    assert hy.test(claim(A_B, A_C, rule="any"), lower, RNG(0)).verdict == "refuted"


def test_any_of_a_family_asks_for_intervals_that_hold_together():
    runs = runs_of({"a": 91, "b": 90, "c": 90}, sd=1)
    alone = hy.test(claim(A_B), runs, RNG(0)).table.iloc[0]
    family = hy.test(claim(A_B, A_C, rule="any"), runs, RNG(0)).table.iloc[0]
    assert (
        family["estimate_high"] - family["estimate_low"]
        > alone["estimate_high"] - alone["estimate_low"]
    )


def test_what_arms_that_differ_in_nothing_show_supports_no_claim():
    runs = runs_of({"a": 91, "b": 90}, sd=0.3)
    assert hy.test(claim(A_B), runs, RNG(0)).verdict == "supported"
    judged = hy.test(claim(A_B), runs, RNG(0), null_spread=1.5)
    assert judged.verdict == "inconclusive" and "differ in nothing" in judged.sentence


def test_the_null_spread_shrinks_for_averages_over_arms():
    many = Contrast(
        label="mean of ten − mean of ten",
        weights={f"a{i}": 0.1 for i in range(10)} | {f"b{i}": -0.1 for i in range(10)},
    )
    assert hy._scale(A_B) == 1 and hy._scale(many) == pytest.approx(math.sqrt(0.1))


def test_the_best_member_is_chosen_on_other_seeds():
    """A set as good as each of 20 equal members must not look worse than the luckiest of them."""
    members = tuple(f"m{i}" for i in range(20))
    best = Contrast(label="set − best", weights={"set": 1}, minus_best_of=(members,))
    effects = []
    for seed in range(60):
        runs = runs_of({"set": 90, **dict.fromkeys(members, 90)}, n=5, seed=1000 + seed)
        table = hy.test(claim(best), runs, RNG(seed)).table
        effects.append(float(table["estimate"].iloc[0]))
    assert abs(np.mean(effects)) < 3 * np.std(effects) / math.sqrt(60)
    means = runs.groupby("arm")["validation_accuracy"].mean()
    assert means["set"] - means.drop("set").max() < np.mean(effects)


def test_groups_take_the_adjustment_as_the_unit():
    contrast = Contrast(
        label="high − low",
        weights={f"a{i}": 1 / 9 for i in range(9)} | {f"b{i}": -1 / 9 for i in range(9)},
        unit="adjustment",
    )
    means = {f"a{i}": 91 + 0.1 * i for i in range(9)} | {f"b{i}": 90 for i in range(9)}
    row = hy.test(claim(contrast), runs_of(means, n=50, sd=1), RNG(0)).table.iloc[0]
    assert row["n"] == 18 and row["unit"] == "adjustment"
    measured = Contrast(label="m", weights={"Epsilon": 1, "Neutral": -1}, unit="measured")
    groups = {"Epsilon": [f"a{i}" for i in range(9)], "Neutral": [f"b{i}" for i in range(9)]}
    again = hy.test(claim(measured), runs_of(means, n=50, sd=1), RNG(0), measured=groups)
    assert again.table.iloc[0]["estimate"] == pytest.approx(row["estimate"])
    untested = hy.test(claim(measured), runs_of(means), RNG(0))
    assert untested.verdict == "not tested" and "frozen" in untested.sentence


def test_a_slope_is_found_with_the_others_held_and_only_then():
    rng = RNG(1)
    covariates, means = {}, {}
    for i in range(60):
        size, opposition = float(rng.integers(1, 4)), float(rng.integers(3)) / 2
        covariates[f"s{i}"] = {"size": size, "opposition": opposition}
        means[f"s{i}"] = 90 + 2 * opposition + 0.3 * rng.standard_normal()
    runs = runs_of(means, n=4, sd=0.5)
    tension = Slope(label="t", term="opposition", covariates=covariates)
    variety = Slope(label="v", term="size", covariates=covariates)
    found = hy.test(claim(tension), runs, RNG(0))
    assert found.verdict == "supported"
    row = found.table.iloc[0]
    assert row["estimate_low"] < 2 < row["estimate_high"] and row["n"] == 60
    assert hy.test(claim(variety), runs, RNG(0)).verdict == "refuted"


def test_the_slope_equals_a_mixed_model_on_the_runs():
    """Balanced runs: least squares on the sets' means is what a mixed model gives."""
    from analysis.mixed import mixed_model

    rng = RNG(2)
    covariates = {
        f"s{i}": {"size": float(i % 4), "opposition": float(rng.integers(2))} for i in range(24)
    }
    effects = {name: 90 + c["size"] + rng.standard_normal() for name, c in covariates.items()}
    runs = runs_of(effects, n=5, sd=0.7)
    slope = Slope(label="v", term="size", covariates=covariates)
    row = hy.test(claim(slope), runs, RNG(0)).table.iloc[0]
    frame = hy.set_frame(slope, runs, "validation_accuracy", by_run=True)
    fit = mixed_model(frame, "validation_accuracy ~ size + opposition", ["set", "seed"])
    fixed = fit.fixed.set_index("term").loc["size"]
    assert row["estimate"] == pytest.approx(fixed["estimate"], abs=1e-6)
    assert row["estimate_low"] == pytest.approx(fixed["estimate_low"], abs=1e-3)


def test_missing_runs_are_said_and_nothing_is_claimed():
    judged = hy.test(claim(A_B), runs_of({"a": 90}), RNG(0))
    assert judged.verdict == "not tested" and "no runs of 'b'" in judged.sentence


def test_the_smallest_detectable_effect_is_that_of_the_power_formula():
    interval = statistics.Interval(0, -1, 1, 40, 0.95, "t")
    assert hy.smallest_detectable(interval) == pytest.approx((1.959964 + 0.841621) / 1.959964)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["all", "any"])
def test_false_claims_are_supported_in_at_most_five_of_a_hundred(rule):
    contrasts = [Contrast(label=f"{i}", weights={f"a{i}": 1, "b": -1}) for i in range(26)]
    one = claim(*(contrasts if rule == "any" else contrasts[:2]), rule=rule)
    trials = 300
    wrong = sum(
        hy.test(
            one,
            runs_of({**{f"a{i}": 90 for i in range(26)}, "b": 90}, n=5, seed=trial),
            RNG(trial),
        ).verdict
        == "supported"
        for trial in range(trials)
    )
    assert wrong / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


# --- declarations --------------------------------------------------------------------------------


def row_at(time: str, stamp: str, key: str) -> dict:
    return {
        "key": key,
        "chunk": "c",
        "arm": "a",
        "seed": 0,
        "finished_at": time,
        "hypotheses": stamp,
    }


def test_a_report_says_whether_hypotheses_came_before_their_data(tmp_path):
    study = Study(
        name="s",
        dataset="digits",
        arms=[{"name": "a"}, {"name": "b", "adjustments": "3", "target": "loss"}],
        seeds=1,
        hypotheses=[claim(A_B)],
    )
    declaration = store.declare(tmp_path, study, {"k": ("a", 0), "l": ("b", 0)})
    stamp = study.hypotheses_hash

    def said(*rows: dict) -> str:
        return hy.declared_when(store.collect(declaration, pd.DataFrame(rows)))

    after, before = row_at("2999-01-01", stamp, "k"), row_at("1999-01-01", "", "l")
    assert "before the data (1 of 1" in said(after)
    assert "when 1 of 2 runs were known" in said(after, before)


def test_other_hypotheses_are_another_declaration_of_the_same_runs():
    study = standard_study("hypotheses")
    first, *others = study.hypotheses
    changed = study.model_copy(
        update={"hypotheses": (first.model_copy(update={"margin": 2.0}), *others)}
    )
    assert changed.identity != study.identity
    assert changed.hypotheses_hash != study.hypotheses_hash


def test_a_hypothesis_of_ones_own_comes_from_yaml(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(OWN)
    study = study_from_yaml(path)
    assert study.hypotheses[0].comparisons[0].weights == {"opposed": 1.0, "one": -1.0}
    path.write_text(OWN.replace("{opposed: 1,", "{oposed: 1,"))
    with pytest.raises(StudyError, match="names the arm 'oposed', which the study does not have"):
        study_from_yaml(path)


OWN = """
name: mine
dataset: digits
config: {epochs: 2}
seeds: 3
arms:
  - {name: opposed, adjustments: "3,4", strength: 0.2, target: loss}
  - {name: one, adjustments: 3, strength: 0.2, target: loss}
hypotheses:
  - name: opposed-helps
    statement: An adjustment with its opposite beats it alone.
    estimand: mean accuracy of the pair less that of one
    n: 3
    comparisons:
      - {label: opposed - one, weights: {opposed: 1, one: -1}}
"""
