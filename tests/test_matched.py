"""Matched sets: what opposed and unopposed ones have in common, exactly."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from aba_core.adjustments import ADJUSTMENTS, OPPOSITES, PAIRS
from analysis.studies import matched, standard_study
from analysis.studies.sets import properties

CHANGES = np.array([tuple(adjustment) for adjustment in ADJUSTMENTS])


def opposed_share(members) -> float:
    return properties(members)["opposition"]


def test_opposed_sets_hold_every_opposite_and_unopposed_sets_none():
    assert all(opposed_share(members) == 1 for members in matched.OPPOSED)
    assert all(opposed_share(members) == 0 for members in matched.UNOPPOSED)
    assert len(set(matched.OPPOSED)) == len(set(matched.UNOPPOSED)) == 24
    assert {len(members) for members in (*matched.OPPOSED, *matched.UNOPPOSED)} == {4}


def test_no_category_changes_on_average():
    for members in (*matched.OPPOSED, *matched.UNOPPOSED):
        assert not CHANGES[list(members)].sum(0).any()


@pytest.mark.parametrize(
    "counted",
    [
        lambda sets: Counter(i for members in sets for i in members),
        lambda sets: Counter(round(properties(members)["norm"], 9) for members in sets),
        lambda sets: Counter(
            tuple(sorted(str(ADJUSTMENTS[i].group) for i in members)) for members in sets
        ),
    ],
    ids=["members", "norms", "groups"],
)
def test_members_norms_and_groups_are_equally_many(counted):
    assert counted(matched.OPPOSED) == counted(matched.UNOPPOSED)


def test_the_unopposed_pairs_are_all_there_are_and_the_opposed_ones_have_their_members():
    def fits(pair) -> bool:
        found = properties(pair)
        return not (found["opposition"] or found["direction"] or found["offset"])

    assert {pair for pair in combinations(range(1, 27), 2) if fits(pair)} == set(
        matched.UNOPPOSED_PAIRS
    )
    opposed = Counter(matched.PAIRS_ALIKE)
    for pair in PAIRS:
        for member in pair:
            times = sum(member in other for other in matched.UNOPPOSED_PAIRS)
            assert opposed[matched.pair_name(pair)] == times


def test_the_balance_table_shows_no_difference_but_opposition():
    table = matched.balance_table().set_index("property")["difference"]
    assert table.pop("members with their opposite") == 4
    assert table.abs().max() < 1e-12


def test_every_arm_of_the_matched_study_is_asked_about():
    study = standard_study("matched")
    named = set().union(*(one.arms for one in study.hypotheses))
    assert {arm.name for arm in study.arms} - named == {"Vanilla"}
    assert all(arm.subset_per_run for arm in study.arms)
    for hypothesis in study.hypotheses:
        for contrast in hypothesis.comparisons:
            if hasattr(contrast, "weights"):
                assert sum(contrast.weights.values()) == pytest.approx(0, abs=1e-12)


def test_signed_arms_draw_what_the_pair_draws():
    study = standard_study("matched")
    signed = [arm for arm in study.arms if arm.setting("signed")]
    assert len(signed) == 13
    for arm in signed:
        assert OPPOSITES[int(arm.setting("adjustments"))] > int(arm.setting("adjustments"))
