"""Where the members of a set act on one another: by draw, batch, turn, sample and progress."""

from dataclasses import replace

import pytest
import torch
from oracles.plain_loop import flat_parameters, plain_train

from aba_core import ABA, AdjustmentSet, Augmentation, TrainConfig, train
from aba_core.arms import Arm
from aba_core.identity import plain
from aba_core.methods.aba import draw_changes
from aba_core.randomness import PURPOSES, Draws

PAIR = Augmentation(AdjustmentSet.parse("3,4"), strength=0.4, target="loss")
EXACT = TrainConfig(model="mlp", epochs=2, batch_size=5, dtype="float64")
WAYS = ("draw", "batch", "turn", "sample", "progress")


def members_drawn(way: str, steps: int = 12, samples: int = 10, batch: int = 5) -> torch.Tensor:
    """Which of two members each training sample has at each step it is trained at; else −1."""
    aug = replace(PAIR, member_per=way)
    table = torch.tensor([[0.0, 0, 1], [0, 0, -1]])
    drawn = torch.full((steps, samples), -1)
    for step in range(steps):
        rows = (torch.arange(batch) + batch * step) % samples
        seeds = dict.fromkeys(PURPOSES, torch.tensor(7))
        draws = Draws(seeds, step, torch.arange(batch), steps=steps, rows=rows)
        changes, _ = draw_changes(aug, table, torch.tensor([0.5, 0.5]), draws)
        drawn[step, rows] = (changes[:, 2] < 0).long()
    return drawn


def values(drawn: torch.Tensor) -> set[int]:
    return set(drawn[drawn >= 0].tolist())


def test_by_draw_members_mix_within_samples_and_within_batches():
    drawn = members_drawn("draw", steps=40)
    assert all(values(drawn[:, sample]) == {0, 1} for sample in range(10))
    assert any(values(drawn[step]) == {0, 1} for step in range(40))


@pytest.mark.parametrize("way", ["batch", "turn"])
def test_by_batch_and_by_turn_a_batch_has_one_member_and_a_training_both(way):
    drawn = members_drawn(way, steps=40)
    assert all(len(values(drawn[step])) == 1 for step in range(40))
    assert values(drawn) == {0, 1}
    if way == "turn":
        assert [min(values(drawn[step])) for step in range(6)] == [0, 1, 0, 1, 0, 1]


def test_by_sample_each_sample_keeps_its_member_and_a_batch_has_both():
    drawn = members_drawn("sample", steps=40)
    assert all(len(values(drawn[:, sample])) == 1 for sample in range(10))
    assert values(drawn) == {0, 1}


def test_by_progress_one_member_has_each_half_of_the_training():
    drawn = members_drawn("progress")
    first, second = values(drawn[:6]), values(drawn[6:])
    assert len(first) == len(second) == 1 and first != second


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("signed", [False, True])
def test_every_way_equals_a_model_trained_alone(way, signed, tiny_splits):
    arms = [
        Arm("pair", replace(PAIR, member_per=way, signed=signed)),
        Arm("three", replace(PAIR, adjustments=AdjustmentSet.parse("1,5,8x2"), member_per=way,
                             signed=signed)),
    ]  # fmt: skip
    runs = train(EXACT, arms, [4, 5], splits=tiny_splits)
    for arm in arms:
        for seed in (4, 5):
            alone = plain_train(EXACT, arm, seed, tiny_splits)
            ours = flat_parameters(runs.model(arm.name, seed))
            torch.testing.assert_close(ours, alone.parameters[-1], rtol=1e-9, atol=1e-11)


def test_signed_magnitudes_are_the_unsigned_ones_with_signs():
    draws = Draws.single(3, 0, 1000, "cpu")
    signed = draws.magnitude(signed=True)
    assert torch.equal(signed.abs(), draws.magnitude())
    assert abs(float((signed < 0).double().mean()) - 0.5) < 0.06


def test_ways_at_their_default_are_no_part_of_the_identity():
    assert {"member_per", "signed"}.isdisjoint(plain(PAIR))
    assert plain(replace(PAIR, member_per="turn"))["member_per"] == "turn"


def test_ways_that_cannot_be_meant_are_refused():
    with pytest.raises(ValueError, match="unknown member_per 'row'; known: draw, batch, turn"):
        replace(PAIR, member_per="row")
    with pytest.raises(ValueError, match="member_per is 'turn', but the set has one member"):
        replace(PAIR, adjustments=AdjustmentSet.parse("3"), member_per="turn")
    with pytest.raises(ValueError, match="signed is True, but magnitudes are fixed"):
        replace(PAIR, signed=True, randomize=False)
    with pytest.raises(ValueError, match="member_per is 'turn' and draw_per 'batch'"):
        replace(PAIR, member_per="turn", draw_per="batch")


def test_a_loop_of_ones_own_knows_neither_samples_nor_progress():
    model = torch.nn.Linear(4, 3)
    x, y = torch.randn(6, 4), torch.zeros(6, dtype=torch.long)
    for way, lacking in (("sample", "rows"), ("progress", "steps")):
        with pytest.raises(ValueError, match=f"give `{lacking}`"):
            ABA(PAIR, member_per=way)(model, x, y)
