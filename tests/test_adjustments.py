"""The table of 27 adjustments and weighted sets of them, against the published tables."""

import math
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aba_core.adjustments import ADJUSTMENTS, Adjustment, AdjustmentSet, Group

REFERENCE = Path(__file__).parents[1] / "data" / "reference"
ISOLATION = pd.read_csv(REFERENCE / "published_isolation.csv")
OFFSET_FORM = pd.read_csv(REFERENCE / "published_offset_form.csv")

# Rows of the published offset table that differ from (middle, low − middle, high − middle).
OFFSET_MISPRINTS: dict[int, tuple[int, int, int]] = {}

index_lists = st.lists(st.integers(0, 26), min_size=1, max_size=12)


def members(adjustments: AdjustmentSet) -> dict[tuple, float]:
    return {
        tuple(member): weight
        for member, weight in zip(adjustments.adjustments, adjustments.weights, strict=True)
    }


# --- the table -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["mnist-tiny", "cifar10-tiny", "20newsgroups-tiny"])
def test_the_27_adjustments_are_those_published_in_that_order(dataset):
    published = ISOLATION[ISOLATION.dataset == dataset].sort_values("index")
    expected = list(zip(published.low, published.middle, published.high, strict=True))
    assert [tuple(adjustment) for adjustment in ADJUSTMENTS] == expected
    assert [adjustment.index for adjustment in ADJUSTMENTS] == list(published["index"])


@pytest.mark.parametrize("dataset", ["mnist-tiny", "cifar10-tiny", "20newsgroups-tiny"])
def test_groups_are_those_published(dataset):
    published = ISOLATION[ISOLATION.dataset == dataset].sort_values("index")
    assert [adjustment.group.value for adjustment in ADJUSTMENTS] == list(published.group)


def test_there_are_nine_adjustments_in_each_group():
    assert set(Counter(adjustment.group for adjustment in ADJUSTMENTS).values()) == {9}


def test_the_group_is_the_sign_of_high_minus_low():
    for adjustment in ADJUSTMENTS:
        difference = adjustment.high - adjustment.low
        if difference > 0:
            assert adjustment.group is Group.EPSILON
        elif difference < 0:
            assert adjustment.group is Group.DELTA
        else:
            assert adjustment.group is Group.NEUTRAL


def test_the_table_holds_every_combination_once():
    changes = (-1, 0, 1)
    every = {(low, mid, high) for low in changes for mid in changes for high in changes}
    assert {tuple(adjustment) for adjustment in ADJUSTMENTS} == every


def test_offset_forms_are_those_published():
    published = {row[0]: tuple(row[1:]) for row in OFFSET_FORM.itertuples(index=False)}
    differing = {
        adjustment.index: published[adjustment.index]
        for adjustment in ADJUSTMENTS
        if adjustment.offset_form != published[adjustment.index]
    }
    assert len(published) == 27
    assert differing == OFFSET_MISPRINTS


def test_offset_form_gives_the_adjustment_back():
    for adjustment in ADJUSTMENTS:
        offset, low, high = adjustment.offset_form
        assert (low + offset, offset, high + offset) == tuple(adjustment)


def test_opposite_adjustments_are_in_opposite_groups():
    opposite = {
        Group.EPSILON: Group.DELTA,
        Group.DELTA: Group.EPSILON,
        Group.NEUTRAL: Group.NEUTRAL,
    }
    for adjustment in ADJUSTMENTS:
        assert Adjustment(*(-change for change in adjustment)).group is opposite[adjustment.group]


def test_an_adjustment_equals_another_with_the_same_changes():
    assert Adjustment(0, 0, 1) == ADJUSTMENTS[3]
    assert {Adjustment(0, 0, 1), ADJUSTMENTS[3]} == {ADJUSTMENTS[3]}
    assert Adjustment(0, 0, 1) != ADJUSTMENTS[4]
    assert sorted(reversed(ADJUSTMENTS)) == sorted(ADJUSTMENTS)


@pytest.mark.parametrize("place", ["low", "middle", "high"])
@pytest.mark.parametrize("value", [2, -2, 0.5])
def test_a_change_outside_minus_one_to_one_is_refused_by_name(place, value):
    with pytest.raises(ValueError, match=rf"{place} is {value}; allowed: -1, 0, 1"):
        Adjustment(**{"low": 0, "middle": 0, "high": 0, place: value})


def test_an_adjustment_cannot_be_changed():
    with pytest.raises(AttributeError):
        ADJUSTMENTS[0].low = 1


# --- sets ----------------------------------------------------------------------------------------


@given(index_lists)
def test_a_set_from_indices_weighs_each_by_how_often_it_is_named(indices):
    expected = {
        tuple(ADJUSTMENTS[index]): times / len(indices) for index, times in Counter(indices).items()
    }
    assert members(AdjustmentSet.from_indices(indices)) == pytest.approx(expected)


@given(index_lists)
def test_weights_sum_to_one(indices):
    assert math.fsum(AdjustmentSet.from_indices(indices).weights) == pytest.approx(1)


@given(index_lists)
def test_canonical_text_names_the_set_and_is_read_back(indices):
    adjustments = AdjustmentSet.from_indices(indices)
    again = AdjustmentSet.parse(adjustments.text)
    assert again.text == adjustments.text
    assert members(again) == pytest.approx(members(adjustments))


def test_weights_in_any_small_ratio_are_read_back():
    """Three to two was once written with weights that `parse` does not read. The identity stays."""
    three_to_two = AdjustmentSet.parse("0x3,1x2")
    assert three_to_two.text == "0x3,1x2" and eval(repr(three_to_two)) == three_to_two
    assert three_to_two.plain() == [[[0, 0, 0], 0.6], [[0, 1, 0], 0.4]]
    assert AdjustmentSet.parse("3x4,4x2").text == AdjustmentSet.parse("3x4,4x2").plain() == "3x2,4"
    uneven = AdjustmentSet(AdjustmentSet.parse("0,1").adjustments, (1.0, 2**0.5))
    assert "@" in uneven.text


@given(index_lists, st.randoms(use_true_random=False))
def test_a_set_does_not_depend_on_the_order_its_members_are_named_in(indices, random):
    shuffled = random.sample(indices, len(indices))
    first, second = AdjustmentSet.from_indices(indices), AdjustmentSet.from_indices(shuffled)
    assert first == second
    assert hash(first) == hash(second)
    assert first.table(3) == second.table(3)


def test_repeating_all_members_alike_changes_nothing():
    assert AdjustmentSet.parse("3,4") == AdjustmentSet.parse("3x2,4x2")


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("3,4,0x2", [3, 4, 0, 0]),
        ("{3, 4, 0, 0}", [0, 0, 3, 4]),
        (" 26 ", [26]),
        ("5 6", [5, 6]),
        ("1x3,1", [1]),
    ],
)
def test_text_names_indices_with_repeats(text, indices):
    assert members(AdjustmentSet.parse(text)) == members(AdjustmentSet.from_indices(indices))


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("epsilon", {Group.EPSILON}),
        ("Epsilon + Delta", {Group.EPSILON, Group.DELTA}),
        ("Eps. & Neu.".replace("&", "+"), {Group.EPSILON, Group.NEUTRAL}),
        ("all", set(Group)),
        ("neutral+all", set(Group)),
    ],
)
def test_text_names_groups(text, groups):
    adjustments = AdjustmentSet.parse(text)
    assert set(adjustments.adjustments) == {a for a in ADJUSTMENTS if a.group in groups}
    assert set(adjustments.weights) == {1 / (9 * len(groups))}
    assert adjustments == AdjustmentSet.of_groups(*groups)


def test_weights_are_relative():
    halves = AdjustmentSet.from_indices([0, 3, 4], weights=[4, 2, 2])
    assert halves.weights == (0.5, 0.25, 0.25)
    assert halves == AdjustmentSet.parse("0x2,3,4")
    assert hash(halves) == hash(AdjustmentSet.parse("0x2,3,4"))


def test_sets_with_other_weights_differ():
    assert AdjustmentSet.parse("0x2,3") != AdjustmentSet.parse("0,3")
    assert AdjustmentSet.parse("0x2,3").text != AdjustmentSet.parse("0,3").text


def test_uneven_weights_are_told_apart_by_the_text():
    first = AdjustmentSet.from_indices([3, 4], weights=[0.3, 0.7])
    second = AdjustmentSet.from_indices([3, 4], weights=[0.7, 0.3])
    assert first.text != second.text


@pytest.mark.parametrize("bad", ["27", "3,,x", "3;4", "-1", "", "0x0", "3x", "1.5", "x2", "3 x 2"])
def test_unreadable_text_is_refused_with_what_is_allowed(bad):
    with pytest.raises(ValueError, match="allowed: .*0 to 26"):
        AdjustmentSet.parse(bad)


@pytest.mark.parametrize("bad", ["gamma", "ep", "epsilon-delta", "epsilon,delta"])
def test_unknown_groups_are_refused_with_the_known_ones(bad):
    with pytest.raises(ValueError, match="known: neutral, delta, epsilon, all"):
        AdjustmentSet.parse(bad)


@pytest.mark.parametrize("bad", [27, -1, 1.5, True, "a", "3", None, math.nan])
def test_an_index_that_is_none_is_refused_with_the_range(bad):
    with pytest.raises(ValueError, match=r"adjustment index .*; allowed: 0 to 26"):
        AdjustmentSet.from_indices([0, bad])


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf])
def test_a_weight_must_be_finite_and_positive(bad):
    with pytest.raises(ValueError, match=r"weight .*; allowed: finite and above 0"):
        AdjustmentSet.from_indices([3, 4], weights=[1, bad])


def test_every_adjustment_needs_its_weight():
    with pytest.raises(ValueError, match="2 adjustments but 1 weights"):
        AdjustmentSet.from_indices([3, 4], weights=[1])


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="at least one adjustment"):
        AdjustmentSet(())
    with pytest.raises(ValueError, match="at least one"):
        AdjustmentSet.of_groups()


def test_a_set_of_changes_that_are_not_finite_is_refused():
    with pytest.raises(ValueError, match="allowed: finite numbers"):
        AdjustmentSet(((math.nan, 1),))


# --- a set seen by a split -----------------------------------------------------------------------


def test_three_categories_show_low_middle_high():
    assert AdjustmentSet.parse("0,8").table(3) == ((0, 0, 0), (0, -1, 1))


def test_two_categories_show_low_and_high():
    assert AdjustmentSet.parse("3,16").table(2) == ((0, 1), (1, -1))


@pytest.mark.parametrize("adjustment", [a for a in ADJUSTMENTS if a.middle], ids=str)
def test_a_split_into_two_refuses_to_change_the_middle(adjustment):
    with pytest.raises(ValueError, match=rf"adjustment {adjustment.index} .*only low and high"):
        AdjustmentSet((ADJUSTMENTS[3], adjustment)).table(2)


@pytest.mark.parametrize(("member", "categories"), [((1, 2, 3), 2), ((1, 2), 3), ((1,), 2)])
def test_other_changes_need_one_number_a_category(member, categories):
    message = rf"has {len(member)} categories, the split {categories}"
    with pytest.raises(ValueError, match=message):
        AdjustmentSet((member,)).table(categories)


def test_other_changes_are_kept_as_they_are():
    assert AdjustmentSet(((-0.5, 0, 2, 3),)).table(4) == ((-0.5, 0, 2, 3),)
