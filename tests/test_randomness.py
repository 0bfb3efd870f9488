"""Every draw is a function of (seed, purpose, step, index), and a good random number."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import counter_hash
from scipy import stats

from aba_core.randomness import (
    PURPOSES,
    Draws,
    _unit_interval,
    batch_order,
    check_seed,
    choice,
    epoch_order,
    normal,
    purpose_seeds,
    random_bits,
    uniform,
)

seeds = st.integers(0, 2**63 - 1)
purposes = st.sampled_from(sorted(PURPOSES))
counters = st.integers(0, 2**50)


def tensor(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def many(purpose: str, count: int = 20_000, seed: int = 7, step: int = 3) -> torch.Tensor:
    return uniform(tensor(seed), purpose, step, torch.arange(count))


# --- the hash ------------------------------------------------------------------------------------


def test_the_oracle_is_splitmix64():
    # The generator's published test vector for seed 1234567: its state grows by GOLDEN a draw.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    states = [1234567 + place * counter_hash.GOLDEN for place in range(3)]
    assert [counter_hash.splitmix64(s & counter_hash.MASK) for s in states] == expected


def test_the_purposes_keep_their_numbers():
    assert PURPOSES == counter_hash.STREAM


@given(seeds, purposes, counters, counters)
def test_bits_equal_those_of_plain_integers(seed, purpose, step, index):
    (drawn,) = random_bits(tensor(seed), purpose, step, tensor(index)).tolist()
    assert drawn % 2**64 == counter_hash.bits(seed, purpose, step, index)


@given(seeds, purposes, counters, counters)
def test_uniforms_equal_those_of_plain_integers_exactly(seed, purpose, step, index):
    (drawn,) = uniform(tensor(seed), purpose, step, tensor(index)).tolist()
    assert drawn == counter_hash.uniform(seed, purpose, step, index)


@given(seeds, purposes, counters, st.integers(0, 2**40))
def test_normals_equal_those_of_plain_numbers(seed, purpose, step, index):
    (drawn,) = normal(tensor(seed), purpose, step, tensor(index)).tolist()
    assert drawn == pytest.approx(counter_hash.normal(seed, purpose, step, index), abs=1e-12)
    own = Draws(dict.fromkeys(PURPOSES, tensor(seed)), step, tensor(index))
    (folded,) = own.magnitude().tolist()
    wanted = abs(counter_hash.normal(seed, "magnitude", step, index))
    assert folded == pytest.approx(wanted, abs=1e-12)


def test_a_draw_does_not_depend_on_shape_or_neighbours():
    three, places = tensor(4, 9, 2**40)[:, None], torch.arange(6)
    together = uniform(three, "target", 11, places)
    assert together.shape == (3, 6)
    for row, place in itertools.product(range(3), range(6)):
        alone = uniform(three[row], "target", 11, tensor(place))
        assert torch.equal(together[row, place], alone[0])
    backwards = uniform(three, "target", 11, places.flip(0))
    assert torch.equal(backwards, together.flip(1))


def test_seed_purpose_step_and_index_each_change_the_draw():
    start = uniform(tensor(1), "target", 2, tensor(3))
    for other in (
        uniform(tensor(2), "target", 2, tensor(3)),
        uniform(tensor(1), "order", 2, tensor(3)),
        uniform(tensor(1), "target", 3, tensor(3)),
        uniform(tensor(1), "target", 2, tensor(4)),
        uniform(tensor(1), "target", 3, tensor(2)),
    ):
        assert not torch.equal(start, other)


def test_no_two_of_many_draws_are_equal():
    bits = random_bits(torch.arange(50)[:, None], "target", 0, torch.arange(1000))
    assert bits.unique().numel() == bits.numel()


# --- as random numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", sorted(PURPOSES))
def test_uniforms_are_uniform(purpose):
    assert stats.kstest(many(purpose).numpy(), "uniform").pvalue > 1e-3


def test_uniforms_over_seeds_and_over_steps_are_uniform():
    over_seeds = uniform(torch.arange(20_000), "target", 0, tensor(0))
    over_steps = uniform(tensor(0), "target", torch.arange(20_000), tensor(0))
    for drawn in (over_seeds, over_steps):
        assert stats.kstest(drawn.numpy(), "uniform").pvalue > 1e-3


def test_uniforms_lie_inside_the_open_unit_interval():
    drawn = many("magnitude", 200_000)
    assert 0 < float(drawn.min()) and float(drawn.max()) < 1


def test_not_even_the_extreme_bits_make_0_or_1():
    """The topmost numbers would round to 1; all others stay what they were."""
    top = [-1, -2048, -2049, -4096, -(2**12) - 1]  # as signed integers, from the topmost down
    bits = torch.tensor([0, 1, 2047, 2048, *top, 2**63 - 1, -(2**63)])
    values = _unit_interval(bits)
    assert bool((values > 0).all()) and bool((values < 1).all())
    assert values.max() == 1 - 2.0**-53
    unclamped = [((int(b) % 2**64 >> 11) + 0.5) / 2**53 for b in bits]
    assert unclamped[4] == 1.0
    for value, before in zip(values.tolist(), unclamped, strict=True):
        assert value == min(before, 1 - 2.0**-53)


def test_normals_are_normal_and_magnitudes_half_normal():
    place = torch.arange(20_000)
    assert stats.kstest(normal(tensor(5), "smoothing", 1, place).numpy(), "norm").pvalue > 1e-3
    drawn = Draws.single(5, 1, len(place), "cpu").magnitude()
    assert stats.kstest(drawn.numpy(), "halfnorm").pvalue > 1e-3


def test_purposes_are_independent():
    drawn = torch.stack([many(purpose) for purpose in PURPOSES])
    off_diagonal = torch.corrcoef(drawn) - torch.eye(len(PURPOSES))
    assert float(off_diagonal.abs().max()) < 0.03


def test_neighbouring_seeds_steps_and_places_are_independent():
    place = torch.arange(20_000)
    start = uniform(tensor(7), "magnitude", 3, place)
    others = (
        uniform(tensor(8), "magnitude", 3, place),
        uniform(tensor(7), "magnitude", 4, place),
        uniform(tensor(7), "magnitude", 3, place + 1),
    )
    for other in others:
        assert abs(float(torch.corrcoef(torch.stack([start, other]))[0, 1])) < 0.03


# --- choices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(4, 1, 1, 1, 1), (1,), (0.7, 0.3), (1, 2, 3, 4, 5, 6)])
def test_choices_honour_their_weights(weights):
    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    drawn = choice(shares, many("adjustment"))
    counts = torch.bincount(drawn, minlength=len(weights)).double()
    if len(weights) == 1:
        assert int(counts) == 20_000
    else:
        assert stats.chisquare(counts.numpy(), (20_000 * shares).numpy()).pvalue > 1e-3


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.floats(0, 1, exclude_min=True, exclude_max=True),
)
def test_a_choice_is_the_option_whose_share_holds_the_draw(weights, draw):
    total = sum(weights)
    shares = torch.tensor([weight / total for weight in weights], dtype=torch.float64)
    chosen = int(choice(shares, torch.tensor(draw, dtype=torch.float64)))
    below = sum(weights[:chosen]) / total
    assert below - 1e-12 <= draw <= below + weights[chosen] / total + 1e-12


def test_each_replica_chooses_with_its_own_weights():
    shares = torch.tensor([[[1.0, 0.0]], [[0.25, 0.75]]], dtype=torch.float64)
    drawn = torch.tensor([[0.1, 0.9], [0.2, 0.3]], dtype=torch.float64)
    assert choice(shares, drawn).tolist() == [[0, 0], [0, 1]]


# --- orders --------------------------------------------------------------------------------------


@given(seeds, st.integers(0, 100), st.integers(1, 40))
def test_an_epoch_is_a_permutation_of_all_samples(seed, epoch, samples):
    (order,) = epoch_order(tensor(seed), epoch, samples).tolist()
    assert sorted(order) == list(range(samples))
    assert order == counter_hash.shuffled(seed, epoch, samples)


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [tuple(row) for e in range(5) for row in epoch_order(torch.arange(4), e, 30).tolist()]
    assert len(set(orders)) == 20


def test_every_sample_comes_first_equally_often():
    first = epoch_order(torch.arange(5000), 0, 5)[:, 0]
    assert stats.chisquare(torch.bincount(first, minlength=5).numpy()).pvalue > 1e-3


@given(st.integers(1, 12), st.integers(1, 17), st.integers(1, 4))
def test_batches_are_full_and_cover_every_sample_equally(samples, batch, rounds):
    def orders(epoch: int) -> torch.Tensor:
        return epoch_order(tensor(3, 8), epoch, samples)

    steps = samples * rounds  # so many steps of any batch are whole epochs
    rows = [batch_order(orders, step, batch, samples) for step in range(steps)]
    assert {tuple(row.shape) for row in rows} == {(2, batch)}
    stream = torch.cat(rows, dim=1)
    for replica, seed in enumerate((3, 8)):
        counts = torch.bincount(stream[replica], minlength=samples)
        assert counts.tolist() == [batch * rounds] * samples
        expected = [
            sample
            for step in range(steps)
            for sample in counter_hash.batch(seed, step, batch, samples)
        ]
        assert stream[replica].tolist() == expected


# --- seeds ---------------------------------------------------------------------------------------


def test_purposes_follow_the_seed_unless_held():
    assert set(purpose_seeds(5).values()) == {5}
    held = purpose_seeds(5, {"order": 1, "initialisation": 2})
    assert held == dict.fromkeys(PURPOSES, 5) | {"order": 1, "initialisation": 2}


def test_holding_an_unknown_purpose_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown purpose 'luck'; known: .*order.*magnitude"):
        purpose_seeds(0, {"luck": 1})


@pytest.mark.parametrize("bad", [-1, 2**63, 1.5, True, "1", None])
def test_a_seed_must_be_a_whole_number(bad):
    with pytest.raises(ValueError, match=r"seed .*; allowed: whole numbers from 0"):
        check_seed(bad)
    with pytest.raises(ValueError, match=r"seed .*; allowed: whole numbers from 0"):
        purpose_seeds(0, {"order": bad})


def test_the_largest_seed_and_numpy_integers_are_fine():
    assert check_seed(2**63 - 1) == 2**63 - 1
    assert check_seed(np.int64(3)) == 3 and type(check_seed(np.int64(3))) is int


# --- the draws of a step -------------------------------------------------------------------------


def test_a_subset_of_a_batch_draws_what_it_draws_in_the_whole():
    whole = Draws.single(4, 9, 6, "cpu")
    chosen = torch.tensor([True, False, True, True, False, False])
    for draw in (
        lambda draws: draws.uniform("target"),
        lambda draws: draws.magnitude(),
        lambda draws: draws.noise("smoothing", 2, 5),
    ):
        assert torch.equal(draw(whole.subset(chosen)), draw(whole)[chosen])


def test_draws_per_batch_are_one_draw_for_all():
    draws = Draws.single(4, 9, 6, "cpu")
    assert draws.shared("batch").uniform("target").unique().numel() == 1
    assert draws.shared("sample").uniform("target").unique().numel() == 6


def test_a_stacked_run_draws_what_it_draws_alone():
    seeds_of = {name: tensor(4, 11)[:, None] for name in PURPOSES}
    stacked = Draws(seeds_of, 9, torch.arange(6).expand(2, 6))
    for replica, seed in enumerate((4, 11)):
        alone = Draws.single(seed, 9, 6, "cpu")
        assert torch.equal(stacked.uniform("target")[replica], alone.uniform("target"))
        noise = stacked.noise("smoothing", 1, 7)
        assert noise.shape == (2, 6, 7)
        assert torch.equal(noise[replica], alone.noise("smoothing", 1, 7))


def test_noise_of_every_feature_copy_and_step_is_its_own():
    noise = torch.cat(
        [
            Draws.single(0, step, 4, "cpu").noise("smoothing", copy, 9).flatten()
            for step in range(3)
            for copy in range(3)
        ]
    )
    assert noise.unique().numel() == 4 * 9 * 9
