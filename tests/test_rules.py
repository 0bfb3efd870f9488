"""Hypotheses are declared before their runs, and judged by the rule that was declared."""

import importlib
import json
import linecache
import math
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from oracles.made_results import make_study

from aba_core.arms import Arm
from analysis import chance, rules, slopes, statistics
from analysis import results as store
from analysis.hypothesis import Contrast, Hypothesis, Slope
from analysis.studies import hypotheses, standard_study
from analysis.study import Study, StudyError, study_from_yaml


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


# --- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gap", "verdict"), [(4.0, "supported"), (-4.0, "refuted"), (0.0, "inconclusive")]
)
def test_a_claim_is_judged_by_its_interval(gap, verdict):
    own = runs_of({"a": 90 + gap, "b": 90}, n=8, sd=1.5, seed=1)
    judged = rules.test(claim(A_B), own, RNG(0))
    assert judged.verdict == verdict
    assert judged.sentence.startswith(f"A beats B. {verdict.capitalize()}: a − b")
    row = judged.table.iloc[0]
    means = own.groupby("arm")["validation_accuracy"].mean()
    assert row["estimate"] == pytest.approx(means["a"] - means["b"])


def test_all_must_hold_or_any_may():
    runs = runs_of({"a": 93, "b": 90, "c": 93}, n=5)
    assert rules.test(claim(A_B, A_C), runs, RNG(0)).verdict == "inconclusive"
    assert rules.test(claim(A_B, A_C, rule="any"), runs, RNG(0)).verdict == "supported"
    lower = runs_of({"a": 90, "b": 93, "c": 93}, sd=0.5)
    assert rules.test(claim(A_B, A_C, rule="any"), lower, RNG(0)).verdict == "refuted"


def test_a_rule_of_ones_own_is_declared_by_name():
    runs = runs_of({"a": 93, "b": 90, "c": 90.2, "d": 93}, n=8)
    a_d = Contrast(label="a − d", weights={"a": 1, "d": -1})

    def verdict(rule: str) -> rules.Verdict:
        return rules.test(claim(A_B, A_C, a_d, rule=rule), runs, RNG(0))

    majority = verdict("outside.house_rules:majority")
    assert majority.verdict == "supported" and majority.table["verdict"].tolist() == [
        *("supported", "supported", "inconclusive")
    ]
    assert "a − c (the deciding one of 3)" in majority.sentence
    assert [verdict(rule).verdict for rule in ("all", "any")] == ["inconclusive", "supported"]
    first = verdict("outside.house_rules:first_decides")
    assert first.verdict == "supported" and first.decisive["label"] == "a − b"
    assert "(the first of several)" in first.sentence
    reversed_ = claim(a_d, A_B, rule="outside.house_rules:first_decides")
    assert rules.test(reversed_, runs, RNG(0)).verdict == "inconclusive"


def test_the_rule_of_the_guide_is_the_one_it_says(tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "guides" / "own-rule.md").read_text()
    code, declared = re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S)
    (tmp_path / "house_rules.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    session: dict = {}
    exec(declared.replace("Hypothesis(\n", "one = Hypothesis(\n"), session)
    for seed in range(8):
        means = RNG(seed).normal(91, 1.5, 3)
        runs = runs_of({f"adjustment {i + 3}": m for i, m in enumerate(means)} | {"Vanilla": 90})
        guide = rules.test(session["one"], runs, RNG(0))
        counted = rules.test(
            Hypothesis(**session["one"].model_dump() | {"rule": "outside.house_rules:majority"}),
            runs,
            RNG(0),
        )
        assert guide.verdict == counted.verdict
        pd.testing.assert_frame_equal(guide.table, counted.table)
        if guide.verdict == "supported":
            assert guide.row == counted.row


def test_a_majority_is_corrected_less_than_any_and_more_than_all():
    """Of three, one for all, two for a majority, three for any: what an interval leaves out."""
    runs = runs_of({"a": 91, "b": 90, "c": 90, "d": 90})
    family = [Contrast(label=x, weights={"a": 1, x: -1}) for x in "bcd"]
    below, above = [], []
    for rule in ("all", "outside.house_rules:majority", "at least 2", "any"):
        row = rules.test(claim(*family, rule=rule), runs, RNG(0)).table.iloc[0]
        below.append(row["estimate"] - row["estimate_low"])
        above.append(row["estimate_high"] - row["estimate"])
    alone = rules.test(claim(family[0]), runs, RNG(0), confidence=1 - 0.05 / 2).table.iloc[0]
    # What supports is corrected the more, the fewer must hold; what refutes the other way round.
    assert below[0] < below[1] == below[2] < below[3]
    assert above[0] > above[1] == above[2] > above[3]
    assert below[1] == pytest.approx(alone["estimate"] - alone["estimate_low"])
    assert above[1] == pytest.approx(alone["estimate_high"] - alone["estimate"])


@pytest.mark.parametrize("needed", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_at_least_some_of_a_family_follows_from_counting(needed, seed):
    """A slow twin: count the verdicts, and turn comparisons one by one until the verdict turns."""
    means = {"z": 90.0} | {f"a{i}": 90 + float(RNG(seed).normal(0, 2, 4)[i]) for i in range(4)}
    family = [Contrast(label=f"{i}", weights={f"a{i}": 1, "z": -1}) for i in range(4)]
    runs, one = runs_of(means, n=6, seed=seed), claim(*family)

    def compare(support: int, refute: int) -> pd.DataFrame:
        assert (support, refute) == (4 - needed + 1, needed)
        return rules.test(one, runs, RNG(0)).table

    ruling = rules.at_least(needed, one, compare)
    verdicts = ruling.table["verdict"].tolist()
    possible = sum(verdict != "refuted" for verdict in verdicts)
    expected = (
        "supported"
        if verdicts.count("supported") >= needed
        else "refuted"
        if possible < needed
        else "inconclusive"
    )
    assert ruling.verdict == expected
    decisive = ruling.table.iloc[ruling.decisive]
    assert decisive["verdict"] == expected
    better = ruling.table["estimate"] > decisive["estimate"]
    if expected != "refuted":
        assert (better & (ruling.table["verdict"] != "refuted")).sum() == needed - 1


def test_of_equal_estimates_the_first_decides_whatever_their_last_bits():
    one = claim(A_B, A_C)
    for estimates in ([0.3, 0.1 + 0.2], [0.1 + 0.2, 0.3]):
        table = pd.DataFrame({"estimate": estimates, "verdict": "refuted"})
        assert rules.at_least(2, one, lambda *_, table=table: table).decisive == 0
        assert rules.at_least(1, one, lambda *_, table=table: table).decisive == 0


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            "most",
            "unknown rule 'most'; known: all, any, at least K, or your own ..most' is no place of",
        ),
        ("at least 2", "rule 'at least 2' of 1 comparisons; allowed: up to at least 1"),
        ("outside.nowhere:majority", "or your own .cannot import 'outside.nowhere' of"),
        ("outside.house_rules:minority", "'outside.house_rules' has no 'minority'"),
        ("outside.house_rules:NOT_A_RULE", "is no function but 3"),
    ],
)
def test_a_rule_that_is_not_there_is_one_line_when_it_is_declared(rule, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        claim(A_B, rule=rule)
    path = tmp_path / "own.yaml"
    path.write_text(OWN.replace("    n: 3\n", f"    n: 3\n    rule: {rule}\n"))
    with pytest.raises(StudyError, match=message) as error:
        study_from_yaml(path)
    assert "\n" not in str(error.value)


def test_a_rule_that_gives_no_ruling_is_named():
    one = claim(A_B, rule="outside.house_rules:forgetful")
    with pytest.raises(rules.RuleError, match="rule 'outside.house_rules:forgetful' gave 'supp"):
        rules.test(one, runs_of({"a": 91, "b": 90}), RNG(0))


def test_a_declaration_is_read_without_the_module_of_its_rule(tmp_path):
    arms = (Arm.of("a", method="vanilla"), Arm.of("b", adjustments="3"))
    one = claim(A_B, rule="outside.house_rules:majority")
    study = Study(name="s", dataset="digits", arms=arms, seeds=3, hypotheses=[one])
    make_study(tmp_path, study)
    (path,) = (tmp_path / "studies").iterdir()
    text = path.read_text().replace("outside.house_rules", "moved.away")
    path.unlink()  # an event is known by its content: the changed one is another, named as once
    path.with_name("s-digits-0123456789ab.json").write_text(text)
    result = store.load(tmp_path, "s", "digits")
    result.frame["finished_at"] = "2999-01-01"
    (verdict,) = rules.test_all(result, RNG(0))
    assert verdict.verdict == "not tested"
    assert "Not tested: unknown rule 'moved.away:majority'" in verdict.sentence


def test_a_changed_rule_is_another_declaration(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path, identities = tmp_path / "changing_rule.py", []
    for length in (1, 1, 2):
        path.write_text(f"def rule(hypothesis, compare):\n    return {'1' * length}\n")
        sys.modules.pop("changing_rule", None)
        importlib.invalidate_caches()
        linecache.clearcache()
        identities.append(claim(A_B, rule="changing_rule:rule").identity)
    assert identities[0] == identities[1] != identities[2]


@pytest.mark.parametrize("rule", ["all", "any"])
def test_the_declaration_of_a_built_in_rule_is_a_word(rule):
    """What is hashed, and written beside the shipped runs."""
    dumped = claim(A_B, rule=rule).model_dump(mode="json")
    assert dumped["rule"] == rule and list(dumped) == [
        *("name", "statement", "estimand", "comparisons", "rule", "direction", "margin", "n"),
        "rules_version",
    ]
    assert Hypothesis(**json.loads(json.dumps(dumped))).identity == claim(A_B, rule=rule).identity


# --- what the arms are ----------------------------------------------------------------------------


def test_the_control_is_known_by_what_it_does_and_not_by_its_name():
    arms = (
        Arm.of("Vanilla", adjustments="3"),
        Arm.of("again", method="vanilla", seed_offset=500),
        Arm.of("plain", method="vanilla"),
        Arm.of("bit", method="vanilla", flip_bit=True),
        Arm.of("slower", method="vanilla", flip_bit=True, learning_rate=0.001),
    )
    study = Study(name="s", dataset="digits", arms=arms, seeds=2)
    assert chance.control_arm(study) == "plain"
    assert chance.null_arms(study) == ["again", "bit"]
    without = study.model_copy(update={"arms": arms[:2]})
    assert (chance.control_arm(without), chance.null_arms(without)) == ("", [])
    standard = standard_study("hypotheses")
    assert chance.control_arm(standard) == hypotheses.VANILLA
    assert chance.null_arms(standard) == [*hypotheses.RESEEDED_ARMS, hypotheses.ONE_BIT]


def test_arms_that_differ_in_nothing_are_shown_and_decide_nothing(tmp_path):
    arms = (
        Arm.of("plain", method="vanilla"),
        Arm.of("again", method="vanilla", seed_offset=500),
        Arm.of("bit", method="vanilla", flip_bit=True),
    )
    study = Study(name="s", dataset="digits", arms=arms, seeds=6)
    make_study(tmp_path, study)
    result = store.load(tmp_path, "s", "digits")
    frame, metric = result.frame, "validation_accuracy"
    frame.loc[frame["arm"] == "bit", metric] = frame.loc[frame["arm"] == "plain", metric].to_numpy()
    table = chance.null_table(result, metric)
    # The bit changed nothing: it says nothing beside its control, and is another arm's equal.
    assert table[["first", "second"]].to_numpy().tolist() == [["plain", "again"], ["again", "bit"]]
    values = {name: part[metric] for name, part in frame.groupby("arm")}
    welch = statistics.difference_interval(values["plain"], values["again"], method="t")
    row = table.iloc[0]
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((welch.low, welch.high))


# --- intervals and units --------------------------------------------------------------------------


def test_any_of_a_family_asks_for_intervals_that_hold_together():
    runs = runs_of({"a": 91, "b": 90, "c": 90}, sd=1)
    alone = rules.test(claim(A_B), runs, RNG(0)).table.iloc[0]
    family = rules.test(claim(A_B, A_C, rule="any"), runs, RNG(0)).table.iloc[0]
    assert (
        family["estimate_high"] - family["estimate_low"]
        > alone["estimate_high"] - alone["estimate_low"]
    )


def test_a_set_is_compared_with_the_best_member_and_not_with_the_luckiest():
    """A set as good as each of 20 equal members must not look worse than the luckiest of them."""
    members = tuple(f"m{i}" for i in range(20))
    best = Contrast(label="set − best", weights={"set": 1}, minus_best_of=(members,))
    effects, lucky = [], []
    for seed in range(60):
        runs = runs_of({"set": 90, **dict.fromkeys(members, 90)}, n=5, seed=1000 + seed)
        table = rules.test(claim(best), runs, RNG(seed)).table
        effects.append(float(table["estimate"].iloc[0]))
        means = runs.groupby("arm")["validation_accuracy"].mean()
        lucky.append(means["set"] - means.drop("set").max())
    # In standard errors of a mean of five: what is left of 1.9 is what docs/statistics.md says.
    assert np.mean(lucky) * math.sqrt(5) < -1.5
    assert abs(np.mean(effects)) * math.sqrt(5) < 0.9


def test_groups_take_the_adjustment_as_the_unit():
    contrast = Contrast(
        label="high − low",
        weights={f"a{i}": 1 / 9 for i in range(9)} | {f"b{i}": -1 / 9 for i in range(9)},
        unit="adjustment",
    )
    means = {f"a{i}": 91 + 0.1 * i for i in range(9)} | {f"b{i}": 90 for i in range(9)}
    row = rules.test(claim(contrast), runs_of(means, n=50, sd=1), RNG(0)).table.iloc[0]
    assert row["n"] == 18 and row["unit"] == "adjustment"
    measured = Contrast(label="m", weights={"Epsilon": 1, "Neutral": -1}, unit="measured")
    groups = {"Epsilon": [f"a{i}" for i in range(9)], "Neutral": [f"b{i}" for i in range(9)]}
    again = rules.test(claim(measured), runs_of(means, n=50, sd=1), RNG(0), measured=groups)
    assert again.table.iloc[0]["estimate"] == pytest.approx(row["estimate"])
    few = {"Epsilon": groups["Epsilon"][:2], "Neutral": groups["Neutral"]}
    small = rules.test(claim(measured), runs_of(means), RNG(0), measured=few)
    assert small.verdict == "not tested" and "groups of 2 and 9 adjustments" in small.sentence
    untested = rules.test(claim(measured), runs_of(means), RNG(0))
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
    found = rules.test(claim(tension), runs, RNG(0))
    assert found.verdict == "supported"
    row = found.table.iloc[0]
    assert row["estimate_low"] < 2 < row["estimate_high"] and row["n"] == 60
    assert rules.test(claim(variety), runs, RNG(0)).verdict == "refuted"


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
    row = rules.test(claim(slope), runs, RNG(0)).table.iloc[0]
    frame = slopes.set_frame(slope, runs, "validation_accuracy", by_run=True)
    fit = mixed_model(frame, "validation_accuracy ~ size + opposition", ["set", "seed"])
    fixed = fit.fixed.set_index("term").loc["size"]
    assert row["estimate"] == pytest.approx(fixed["estimate"], abs=1e-6)
    assert row["estimate_low"] == pytest.approx(fixed["estimate_low"], abs=1e-3)


def test_missing_runs_are_said_and_nothing_is_claimed():
    judged = rules.test(claim(A_B), runs_of({"a": 90}), RNG(0))
    assert judged.verdict == "not tested" and "no runs of 'b'" in judged.sentence


def test_the_smallest_detectable_effect_is_that_of_the_power_formula():
    interval = statistics.Interval(0, -1, 1, 40, 0.95, "t")
    assert rules.smallest_detectable(interval) == pytest.approx((1.959964 + 0.841621) / 1.959964)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "direction", "effect"),
    [
        ("all", "greater", 0.0),
        ("any", "greater", 0.0),
        ("any", "different", 0.0),
        ("any", "equivalent", 1.0),
    ],
)
def test_false_claims_are_supported_in_at_most_five_of_a_hundred(rule, direction, effect):
    """At the edge of the claim: all arms alike, and for equivalence as far off as the margin."""
    contrasts = [Contrast(label=f"{i}", weights={f"a{i}": 1, "b": -1}) for i in range(26)]
    family = contrasts if rule == "any" else contrasts[:2]
    one = claim(*family, rule=rule, direction=direction, margin=effect or 0.5)
    means = {**{f"a{i}": 90 + effect for i in range(26)}, "b": 90}
    trials = 300
    wrong = sum(
        rules.test(one, runs_of(means, n=5, seed=trial), RNG(trial)).verdict == "supported"
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
        return rules.declared_when(store.collect(declaration, pd.DataFrame(rows)))

    after, before = row_at("2999-01-01", stamp, "k"), row_at("1999-01-01", "", "l")
    assert "before the data (1 of 1" in said(after)
    assert "when 1 of 2 runs were known" in said(after, before)


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


@pytest.mark.parametrize(
    ("interval", "measure", "text"),
    [
        ((1.234, 0.91, 1.56), "points", "1.2 [0.9, 1.6] points"),
        ((0.286, 0.02, 0.55), "points", "0.29 [0.02, 0.55] points"),
        ((-0.05, -0.08, -0.021), "points", "−0.05 [−0.08, −0.02] points"),
        ((0.02, 0.01, 0.03), "R²", "0.02 [0.01, 0.03] R²"),
        ((0.003, 0.0012, 0.005), "R²", "0.003 [0.001, 0.005] R²"),
        ((-17.7, -38.0, -2.3), "log %", "−17.7 [−38.0, −2.3] log %"),
        ((2.0, math.nan, math.nan), "points", "2.0 points"),
    ],
)
def test_an_interval_is_written_such_that_the_side_of_0_of_its_ends_is_seen(
    interval, measure, text
):
    assert rules.effect_text(*interval, measure) == text
