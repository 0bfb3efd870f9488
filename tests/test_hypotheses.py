"""What the standard hypotheses claim, and that the shipped runs were declared with the same."""

import json

import pytest

from aba_core.adjustments import ADJUSTMENTS, PAIRS
from analysis.results import SHIPPED, read_rows
from analysis.studies import standard_study
from analysis.study import CONFIRMING_SEED, FRESH_SEED, Study


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
    for name in ("hypotheses", "sets", "matched", "tuned"):
        study = standard_study(name, preset="standard")
        assert min(study.seeds) >= FRESH_SEED > CONFIRMING_SEED
        assert all(arm.subset_of(200) == 200 for arm in study.arms)
    explored = max(
        max(standard_study(n, preset="standard").seeds) for n in ("isolation", "tension")
    )
    assert explored < CONFIRMING_SEED


def test_the_13_pairs_are_all_opposed_adjustments():
    assert len(PAIRS) == 13 and len({i for pair in PAIRS for i in pair}) == 26
    for first, second in PAIRS:
        assert tuple(ADJUSTMENTS[first]) == tuple(-change for change in ADJUSTMENTS[second])


DECLARED = sorted(
    path.name for name in ("hypotheses", "sets") for path in (SHIPPED / "studies").glob(f"{name}-*")
)


@pytest.mark.parametrize("name", DECLARED)
def test_what_shipped_runs_were_declared_with_is_known_by_its_hash(name):
    content = json.loads((SHIPPED / "studies" / name).read_text())["study"]
    declared = Study.model_validate(content, context={"declared": True})
    stamps = read_rows(SHIPPED, "runs")[0]["hypotheses"]
    assert declared.hypotheses_hash in set(stamps)
    standard = standard_study(declared.name, declared.dataset, declared.preset)
    if not declared.arms[0].subset_per_run:  # of version 1: one training subset for all seeds
        assert {one.rules_version for one in declared.hypotheses} == {1}
        assert standard.identity != declared.identity
        kept = {one.name for one in declared.hypotheses}
        assert kept <= {one.name for one in standard.hypotheses}, (
            "a claim that nobody asks any more"
        )


def test_other_hypotheses_are_another_declaration_of_the_same_runs():
    study = standard_study("hypotheses")
    first, *others = study.hypotheses
    changed = study.model_copy(
        update={"hypotheses": (first.model_copy(update={"margin": 2.0}), *others)}
    )
    assert changed.identity != study.identity
    assert changed.hypotheses_hash != study.hypotheses_hash
