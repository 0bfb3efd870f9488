"""Data of one's own: whatever it comes as, it becomes three stratified splits in standard units."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from aba_core import Arm, Splits, TrainConfig, frozen, splits_from, train
from aba_core.datasets import DatasetError

PARTS = ("train", "validation", "test")


def made_up(shape: tuple[int, ...] = (6,), count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Three classes, each half as large again as the last."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [count // 6, count // 3, count - count // 6 - count // 3])
    x = rng.normal(3.0 + y.reshape(-1, *(1,) * len(shape)), 2.0, (count, *shape))
    return x, y


class Pairs(Dataset):
    """A Dataset as people write them: one pair at a time, the label a plain number."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return torch.tensor(self.x[number]), int(self.y[number])


def same(first: Splits, second: Splits) -> bool:
    return all(
        torch.equal(getattr(first, part).x, getattr(second, part).x)
        and torch.equal(getattr(first, part).y, getattr(second, part).y)
        for part in PARTS
    )


# --- every kind of data --------------------------------------------------------------------------


def test_tensors_arrays_lists_and_datasets_give_the_same_splits():
    x, y = made_up()
    wanted = splits_from(x, y)
    others = (
        splits_from(torch.tensor(x), torch.tensor(y)),
        splits_from(x.tolist(), y.tolist()),
        splits_from(TensorDataset(torch.tensor(x), torch.tensor(y))),
        splits_from(Pairs(x, y)),
        splits_from(list(zip(x, y, strict=True))),
        splits_from(x, y[:, None]),
    )
    for other in others:
        assert same(wanted, other)
        assert other.fingerprint == wanted.fingerprint


def test_every_sample_is_in_one_split_and_classes_keep_their_share():
    x, y = made_up(count=600)
    splits = splits_from(x, y, validation=0.3, test=0.2)
    index = torch.cat([getattr(splits, part).index for part in PARTS])
    assert sorted(index.tolist()) == list(range(600))
    assert [len(getattr(splits, part)) for part in PARTS] == [300, 180, 120]
    for part in PARTS:
        split = getattr(splits, part)
        assert np.array_equal(split.y, y[split.index])
        shares = np.bincount(split.y) / len(split)
        assert np.allclose(shares, [1 / 6, 1 / 3, 1 / 2], atol=0.01)


def test_the_draw_follows_the_seed_alone():
    x, y = made_up()
    assert same(splits_from(x, y, seed=3), splits_from(x, y, seed=3))
    assert splits_from(x, y, seed=3).fingerprint != splits_from(x, y, seed=4).fingerprint


def test_splits_that_are_fixed_already_are_kept():
    x, y = made_up()
    official = made_up(count=12)
    splits = splits_from(x, y, test=official, validation=Pairs(*official), standardise=False)
    assert len(splits.train) == 60 and len(splits.test) == len(splits.validation) == 12
    assert torch.equal(splits.test.x, torch.tensor(official[0], dtype=torch.float32))
    half = splits_from(x, y, test=official, validation=0.25)
    assert (len(half.train), len(half.validation), len(half.test)) == (45, 15, 12)


# --- units ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "units"),
    [((6,), (6,)), ((3, 4, 5), (3, 1, 1)), ((7, 4), (1, 1))],
    ids=("table", "pictures", "sequences"),
)
def test_training_samples_are_in_standard_units(shape: tuple[int, ...], units: tuple[int, ...]):
    x, y = made_up(shape)
    splits = splits_from(x, y)
    assert splits.input_shape == splits.train.x.shape[1:] == shape
    assert splits.mean.shape == splits.std.shape == units
    over = tuple(i for i, n in enumerate((60, *shape)) if i == 0 or units[i - 1] == 1)
    assert torch.allclose(splits.train.x.mean(over), torch.zeros(()), atol=1e-5)
    assert torch.allclose(splits.train.x.std(over, correction=0), torch.ones(()), atol=1e-5)
    back = splits.test.x * splits.std + splits.mean
    assert torch.allclose(back, torch.tensor(x[splits.test.index], dtype=torch.float32), atol=1e-4)


def test_validation_and_test_have_no_say_in_the_units():
    x, y = made_up()
    far = (1000 + x[:9], y[:9])
    splits = splits_from(x, y, test=far, validation=far)
    assert splits.mean.max() < 100


def test_units_can_be_left_as_they_are():
    x, y = made_up()
    splits = splits_from(x, y, standardise=False)
    assert torch.equal(splits.train.x, torch.tensor(x[splits.train.index], dtype=torch.float32))
    assert (splits.mean, splits.std) == (0, 1)


def test_a_constant_feature_becomes_zero_and_not_nan():
    x, y = made_up()
    x[:, 2] = 1e6
    assert torch.equal(splits_from(x, y).train.x[:, 2], torch.zeros(36))


# --- classes -------------------------------------------------------------------------------------


def test_names_are_numbered_in_sorted_order():
    x, y = made_up()
    splits = splits_from(x, np.array(["pear", "apple", "fig"])[y])
    assert splits.class_names == ("apple", "fig", "pear")
    names = [splits.class_names[number] for number in splits.train.y]
    assert names == list(np.array(["pear", "apple", "fig"])[y[splits.train.index]])


def test_numbers_keep_their_meaning_for_a_trained_model():
    x, y = made_up()
    splits = splits_from(x, np.where(y == 2, 4, y))
    assert (splits.classes, splits.class_names) == (5, ("0", "1", "2", "3", "4"))
    assert set(splits.train.y.tolist()) == {0, 1, 4}
    named = splits_from(x, y, class_names=("a", "b", "c", "d"))
    assert (named.classes, named.class_names) == (4, ("a", "b", "c", "d"))
    signs = splits_from(x, np.where(y == 0, -1, 1))
    assert signs.class_names == ("-1", "1")


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(y=None), "is a ndarray without labels; needed: x and y, or a Dataset of pairs"),
        (dict(x=5, y=None), "is a int without labels"),
        (dict(x=["a", "b"], y=[0, 1]), "does not stack into one array of numbers"),
        (dict(x=[[1.0], [1.0, 2.0]], y=[0, 1]), "needed: inputs of one shape"),
        (dict(x=[1, 2, 3], y=None), "does not give pairs"),
        (dict(x=np.zeros(60)), r"has shape \(60,\); needed: \[n, \*feature\]"),
        (dict(y=np.zeros(59, int)), "one label a sample, 60 here"),
        (dict(y=np.zeros(60)), "of type float64; needed: whole numbers or names"),
        (dict(y=np.zeros(60, int)), "all labels are 0; needed: two classes or more"),
        (dict(y=1000 * np.arange(60)), "labels go up to 59000 for 60 samples"),
        (dict(class_names=("a", "b")), "label 2 is none of the 2 class_names: a, b"),
        (dict(test=0.6, validation=0.5), "60 samples are too few"),
        (dict(test=1.5), "test is 1.5; allowed: a share between 0 and 1, or the data itself"),
        (dict(test=made_up((5,))), r"inputs of test have shape \(5,\), those to train on \(6,\)"),
        (dict(y=np.repeat([0, 1], [59, 1]), test=0.9, validation=0.05), "no sample to train on"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(change: dict, message: str):
    x, y = made_up()
    given = {"x": x, "y": y, **change}
    with pytest.raises(DatasetError, match=message) as raised:
        splits_from(**given)
    assert "\n" not in str(raised.value)


def test_nan_is_refused_with_its_place():
    x, y = made_up()
    x[7, 3] = np.nan
    with pytest.raises(DatasetError, match=r"numbers beyond 3e38 in 1 samples \(first: 7\)"):
        splits_from(x, y)


# --- what it is for ------------------------------------------------------------------------------


def test_own_data_and_model_train_and_are_evaluated_frozen():
    x, y = made_up()
    splits = splits_from(x, y)

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, splits.classes))

    config = TrainConfig(dataset="mine", epochs=5, batch_size=12)
    runs = train(config, [Arm("vanilla")], [0, 1], splits=splits, build=build)
    assert set(runs.frame()["status"]) == {"finished"}
    rows = frozen(runs.model("vanilla", 0), splits.validation, [0.5])
    assert len(rows) == 27
    assert rows[0]["loss_change"] == 0
    assert replace(splits, name="other").fingerprint == splits.fingerprint
