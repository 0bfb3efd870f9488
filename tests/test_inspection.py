"""One sample taken apart agrees with the parts of the core that made it."""

import math

import pytest
import torch
from torch import nn

from aba_core import (
    ADJUSTMENTS,
    Augmentation,
    Inspection,
    Percentiles,
    SignSplit,
    Splits,
    attribute,
    build_model,
    categorize,
    frozen,
    inspect_sample,
)
from aba_core.datasets import Split
from aba_core.selection import Selection


@pytest.fixture
def model() -> nn.Module:
    return build_model("mlp", (1, 4, 5), 3, batch_norm=True)


def looked(
    model: nn.Module, splits: Splits, text: str, split: Selection, **more: float
) -> Inspection:
    augmentation = Augmentation(text, 0.5, split=split, target="loss")
    return inspect_sample(model, splits.test.x[2], splits.test.y[2], augmentation, **more)


@pytest.mark.parametrize("split", [Percentiles(0.2, 0.7), SignSplit()], ids=str)
def test_the_27_changes_are_those_of_the_frozen_evaluation(
    model: nn.Module, tiny_splits: Splits, split: Selection
):
    found = looked(model, tiny_splits, "3", split)
    assert len(found.loss_changes) == 27
    if isinstance(split, SignSplit):
        unknown = [a.index for a in ADJUSTMENTS if a.middle]
        assert [i for i, c in enumerate(found.loss_changes) if math.isnan(c)] == unknown
        return
    one = Split(tiny_splits.test.x[2:3], tiny_splits.test.y[2:3])
    rows = frozen(model, one, [0.5], split)
    wanted = [row["loss_change"] for row in rows]
    assert found.loss_changes == pytest.approx(wanted, abs=1e-5)


def test_before_and_after_belong_to_the_adjustment_shown(model: nn.Module, tiny_splits: Splits):
    found = looked(model, tiny_splits, "17", Percentiles(0.2, 0.7), magnitude=2.0)
    x, y = tiny_splits.test.x[2:3], tiny_splits.test.y[2:3]
    model.eval()
    low, middle, high = categorize(attribute(model, x, y, target="loss"), Percentiles(0.2, 0.7))
    augmented = x - 1.0 * low + 1.0 * high
    assert torch.allclose(found.augmented, augmented[0])
    assert torch.equal(found.categories, torch.stack([low, middle, high])[:, 0])
    assert torch.allclose(found.scores_after, model(augmented)[0], atol=1e-6)
    losses = nn.functional.cross_entropy(
        model(torch.cat([x, augmented])), y.expand(2), reduction="none"
    )
    assert [found.loss_before, found.loss_after] == pytest.approx(losses.tolist(), abs=1e-5)
    assert found.loss_after - found.loss_before == pytest.approx(found.loss_changes[17], abs=1e-6)


def test_draws_show_every_member_of_a_set(model: nn.Module, tiny_splits: Splits):
    seen = {
        looked(model, tiny_splits, "3,4,0x2", Percentiles(0.2, 0.7), draw=draw).changes
        for draw in range(30)
    }
    assert seen == {(0, 0, 0), (0, 0, 1), (0, 0, -1)}


def test_the_model_is_left_as_it_was(model: nn.Module, tiny_splits: Splits):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    looked(model, tiny_splits, "3", SignSplit())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("magnitude", [-1.0, math.inf, math.nan])
def test_a_magnitude_that_makes_no_sense_is_refused(
    model: nn.Module, tiny_splits: Splits, magnitude: float
):
    with pytest.raises(ValueError, match="allowed: finite and not below 0"):
        looked(model, tiny_splits, "3", SignSplit(), magnitude=magnitude)
