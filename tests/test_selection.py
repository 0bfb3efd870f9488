"""Categories: exact sizes, order respected, ties decided, nothing in two categories."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from oracles.slow_selection import cut, slow_categories

from aba_core import selection
from aba_core.selection import Percentiles, SignSplit, categorize

numbers = st.floats(-1e6, 1e6, allow_nan=False, width=64)
few_values = st.sampled_from([-1.0, 0.0, -0.0, 0.5, 2.0])


def maps(elements=numbers):
    shape = st.tuples(st.integers(1, 4), st.integers(1, 30))
    return shape.flatmap(lambda s: arrays.arrays(np.float64, s, elements=elements))


percentiles = st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True).map(
    lambda q: Percentiles(*(value / 100 for value in sorted(q)))
)


def sizes(masks: torch.Tensor) -> list[list[int]]:
    """[category][sample]: how many features."""
    return masks.flatten(2).sum(2).tolist()


# --- percentiles ---------------------------------------------------------------------------------


@given(maps(), percentiles)
def test_categories_equal_those_of_a_sorted_list(values, split):
    masks = categorize(torch.from_numpy(values), split)
    for sample, row in enumerate(values):
        assert np.array_equal(masks[:, sample].numpy(), slow_categories(row, split))


@given(maps(few_values), percentiles)
def test_equal_values_are_told_apart_by_the_fixed_order(values, split):
    masks = categorize(torch.from_numpy(values), split)
    for sample, row in enumerate(values):
        assert np.array_equal(masks[:, sample].numpy(), slow_categories(row, split))


@given(maps(few_values), percentiles)
def test_every_feature_is_in_exactly_one_category(values, split):
    masks = categorize(torch.from_numpy(values), split)
    assert masks.shape == (split.categories, *values.shape)
    assert bool((masks.sum(0) == 1).all())


@given(maps(few_values), percentiles)
def test_sizes_are_exact_whatever_the_values(values, split):
    features = values.shape[1]
    edges = [0, *(cut(q, features) for q in split.quantiles), features]
    expected = [[end - start] * len(values) for start, end in zip(edges, edges[1:], strict=False)]
    assert sizes(categorize(torch.from_numpy(values), split)) == expected


@given(maps(st.one_of(few_values, numbers)), percentiles)
def test_no_feature_of_a_lower_category_exceeds_one_of_a_higher(values, split):
    masks = categorize(torch.from_numpy(values), split).numpy()
    for sample, row in enumerate(values):
        parts = [row[mask] for mask in masks[:, sample] if mask.any()]
        for lower, higher in zip(parts, parts[1:], strict=False):
            assert lower.max() <= higher.min()


@given(maps(st.integers(-1000, 1000).map(float)), percentiles)
def test_only_the_order_of_the_values_counts(values, split):
    start = categorize(torch.from_numpy(values), split)
    for transformed in (3 * values + 7, values**3, np.arctan(values / 100)):
        assert torch.equal(categorize(torch.from_numpy(transformed), split), start)


@given(maps(), percentiles)
def test_a_sample_is_split_alike_alone_and_in_a_batch(values, split):
    together = categorize(torch.from_numpy(values), split)
    for sample in range(len(values)):
        alone = categorize(torch.from_numpy(values[sample : sample + 1]), split)
        assert torch.equal(alone[:, 0], together[:, sample])


@pytest.mark.parametrize(
    ("features", "low", "high"),
    [
        (1, 0, 0),
        (4, 0, 0),
        (5, 1, 1),
        (10, 1, 1),
        (14, 1, 1),
        (15, 2, 2),
        (64, 6, 6),
        (784, 78, 78),
    ],
)
def test_ten_and_ninety_percent_cut_off_tails_of_one_size(features, low, high):
    masks = categorize(torch.randn(3, features), Percentiles(0.1, 0.9))
    assert sizes(masks) == [[low] * 3, [features - low - high] * 3, [high] * 3]


@given(st.integers(1, 400), st.integers(1, 49))
def test_mirrored_percentiles_cut_off_tails_of_one_size(features, percent):
    masks = categorize(torch.zeros(1, features), Percentiles(percent / 100, 1 - percent / 100))
    (low,), (middle,), (high,) = sizes(masks)
    assert low == high
    assert low + middle + high == features


def test_a_constant_map_is_cut_as_any_other():
    masks = categorize(torch.full((2, 1, 8, 8), 3.0), Percentiles(0.1, 0.9))
    assert sizes(masks) == [[6, 6], [52, 52], [6, 6]]


def test_a_constant_map_selects_scattered_features_and_no_corner():
    low, _, high = categorize(torch.zeros(1, 1, 28, 28), Percentiles(0.1, 0.9))
    for selected in (low, high):
        rows, columns = selected[0, 0].any(1), selected[0, 0].any(0)
        assert int(rows.sum()) >= 20 and int(columns.sum()) >= 20


def test_minus_zero_and_zero_are_one_value():
    masks = categorize(torch.tensor([[0.0, -0.0, 0.0, -0.0]]), Percentiles(0.5))
    assert torch.equal(masks, categorize(torch.zeros(1, 4), Percentiles(0.5)))


def test_features_may_have_any_shape():
    values = torch.randn(3, 2, 4, 5)
    masks = categorize(values)
    assert masks.shape == (3, 3, 2, 4, 5) and masks.dtype == torch.bool
    assert torch.equal(masks.flatten(2), categorize(values.flatten(1)))


def test_the_default_is_ten_and_ninety_percent():
    values = torch.randn(3, 40)
    assert torch.equal(categorize(values), categorize(values, Percentiles(0.1, 0.9)))


@pytest.mark.parametrize("features", [1, 2, 3, 10])
def test_cuts_however_close_stay_in_order(features):
    split = Percentiles(0.5, 0.5 + 1e-13)
    masks = categorize(torch.randn(2, features), split)
    assert bool((masks.sum(0) == 1).all())


def test_a_map_of_nan_does_not_spoil_its_neighbours():
    # As in a stack of replicas of which one diverged: `masks` does not refuse NaN.
    tied = torch.zeros(1, 4)
    spoilt = torch.full((1, 4), float("nan"))
    masks = Percentiles(0.5).masks(torch.cat([spoilt, tied]))
    assert torch.equal(masks[:, 1], Percentiles(0.5).masks(tied)[:, 0])


@pytest.mark.parametrize(
    "bad", [(), (0.0,), (1.0,), (0.9, 0.1), (0.5, 0.5), (10, 90), (float("nan"),), (-0.1, 0.9)]
)
def test_percentiles_that_are_none_are_refused_with_what_is_allowed(bad):
    with pytest.raises(ValueError, match=r"allowed: increasing numbers between 0 and 1"):
        Percentiles(*bad)


def test_splits_are_values():
    assert Percentiles(0.1, 0.9) == Percentiles(0.1, 0.9) != Percentiles(0.2, 0.8)
    assert len({SignSplit(), SignSplit(), Percentiles(0.1, 0.9), Percentiles(0.1, 0.9)}) == 2


# --- sign ----------------------------------------------------------------------------------------


@given(maps(st.one_of(few_values, numbers)))
def test_the_sign_split_puts_zero_in_neither_category(values):
    low, high = categorize(torch.from_numpy(values), SignSplit())
    assert np.array_equal(low.numpy(), values < 0)
    assert np.array_equal(high.numpy(), values > 0)
    assert np.array_equal((low | high).numpy(), values != 0)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("split", [Percentiles(0.1, 0.9), SignSplit()], ids=str)
def test_a_map_that_is_not_finite_is_refused_by_sample(bad, split):
    values = torch.zeros(5, 3, 2)
    values[2, 1, 1] = values[4, 0, 0] = bad
    with pytest.raises(ValueError, match=r"2 of 5 samples \(first: sample 2\).*NaN or infinite"):
        categorize(values, split)


@pytest.mark.parametrize("shape", [(3,), (3, 0), (3, 2, 0)])
def test_a_map_without_features_is_refused(shape):
    with pytest.raises(ValueError, match="at least one feature"):
        categorize(torch.zeros(shape))


def test_an_empty_batch_gives_empty_categories():
    assert categorize(torch.zeros(0, 5)).shape == (3, 0, 5)


# --- on a GPU, where a sort is dear and nothing may be asked -------------------------------------


@settings(max_examples=60)
@given(
    st.integers(1, 40), st.integers(2, 60), st.integers(0, 10**6),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)  # fmt: skip
def test_whole_numbers_select_what_values_do(batch, features, seed, dtype):
    """Bit by bit, with ties, zeros of both signs and infinite values."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, features, generator=generator)
    values = torch.where(torch.rand(batch, features, generator=generator) < 0.4, 0.0, values)
    values = torch.where(torch.rand(batch, features, generator=generator) < 0.2, -0.0, values)
    values = torch.where(torch.rand(batch, features, generator=generator) < 0.1, torch.inf, values)
    values = values.round(decimals=seed % 3).to(dtype)
    values[::3] = -values[::3]
    counts = [0, 1, features // 3, features // 2, features]
    expected = selection._smallest(values, counts)
    found = selection._smallest_by_key(values, counts)
    for own, other in zip(found, expected, strict=True):
        assert torch.equal(own, other)


def test_keys_are_distinct_and_in_the_order_of_values():
    values = torch.tensor([[-torch.inf, -2.0, -1e-45, -0.0, 0.0, 1e-45, 2.0, 2.0, torch.inf]])
    (keys,) = selection._keys(values).tolist()
    assert len(set(keys)) == len(keys)
    ordered = [keys[place] for place in (0, 1, 2)] + sorted(keys[3:5]) + [keys[5]]
    assert ordered + sorted(keys[6:8]) + [keys[8]] == sorted(keys)
