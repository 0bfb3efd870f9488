"""What cannot be trained is refused before anything trains, in one line with what is needed."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from oracles.tiny_data import as_splits, make_splits
from torch import nn
from torch.nn import functional

from aba_core import ADJUSTMENTS, AdjustmentSet, adjust, attribute, build_model, categorize
from aba_core.arms import Arm, TrainConfig
from aba_core.datasets import Split, load_dataset
from aba_core.methods.aba import ABA, FASTABA_CE
from aba_core.own_data import splits_from
from aba_core.training import train

CONFIG = TrainConfig(model="mlp", epochs=1, batch_size=5, dtype="float64")
SHAPE = (7,)


class Returning(nn.Module):
    """A linear model and what is made of its logits."""

    def __init__(self, make, width: int = 7, classes: int = 3) -> None:
        super().__init__()
        self.make, self.linear = make, nn.Linear(width, classes)

    def forward(self, x):
        return self.make(self.linear(x))


def refused(message: str, **options) -> None:
    options = {"splits": make_splits(SHAPE), "arms": [Arm("a")], "seeds": [0]} | options
    with pytest.raises(ValueError, match=message) as error:
        train(CONFIG, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda z: {"logits": z}, r"returns a dict; needed: a tensor of logits \[batch, classes\]"),
        (lambda z: (z, z), r"returns a tuple; needed: a tensor of logits"),
        (lambda z: z[:, 0], r"of shape \(5,\) of 5 samples|of shape \(4,\) of 4 samples"),
        (lambda z: z.sum(0), r"of shape \(3,\)"),
        (lambda z: z.argmax(1, keepdim=True), "makes torch.int64"),
        (lambda z: z[:, :2], r"has shape \(4, 2\) for 4 samples; needed: .*\(4, 3\) here"),
        (lambda z: z[:, None], r"has shape \(4, 1, 3\) for 4 samples; needed: \[batch, classes\]"),
        (lambda z: z.detach(), "the model's output has no gradient"),
    ],
)
def test_an_output_that_is_no_logits_is_refused(make, message):
    refused(message, build=lambda: Returning(make))


def test_an_input_of_another_width_is_refused():
    refused(
        r"the model Returning refuses a batch of shape \(4, 7\) and type torch.float64: mat1",
        build=lambda: Returning(lambda z: z, width=9),
    )


def test_a_model_in_place_of_a_builder_is_refused():
    refused(r"build is a module \(Linear\); needed: a function", build=nn.Linear(7, 3))
    refused("build is 'mlp'; needed: a function", build="mlp")
    refused("build returned int; needed: an nn.Module", build=lambda: 3)


def test_a_model_with_nothing_to_train_is_refused():
    refused(
        "the model Linear has no parameter", build=lambda: nn.Linear(7, 3).requires_grad_(False)
    )


def test_a_number_in_place_of_seeds_is_refused():
    refused(r"seeds is 2; needed: a sequence, as \[2\] or range\(2\)", seeds=2)
    refused("arms is Arm.*; needed: a sequence", arms=Arm("a"))


@pytest.mark.parametrize("label", [-100, -1, 3])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_labels_that_are_no_class_are_refused(part, label):
    parts = [Split(torch.randn(6, 7), torch.arange(6) % 3) for _ in range(3)]
    parts[part].y[4] = label
    name = ("train", "validation", "test")[part]
    refused(
        f"the {name} split has label {label}; allowed: 0 to 2",
        splits=as_splits(*parts, 3, SHAPE),
    )


def test_a_loss_that_is_a_mean_is_refused():
    refused(
        "the loss gives one number for a batch of 4; needed: one loss a sample; pass "
        "reduction='none'",
        loss=functional.cross_entropy,
    )
    refused(r"the loss gives shape \(4, 3\)", loss=lambda logits, y: logits)
    refused("the loss refuses logits", loss=lambda logits, y: logits @ y)


def test_a_loss_of_pytorch_gives_what_our_own_gives():
    arms, splits = [Arm("a", FASTABA_CE)], make_splits(SHAPE)
    theirs = partial(functional.cross_entropy, reduction="none")
    ours, other = (
        train(CONFIG, arms, [0, 1, 2], splits=splits, **options).frame()
        for options in ({}, {"loss": theirs})
    )
    assert list(other.validation_loss) == pytest.approx(list(ours.validation_loss), rel=1e-12)


def test_a_model_that_cannot_be_evaluated_is_refused_before_it_trains():
    class OnlyTrains(nn.Linear):
        def forward(self, x):
            return super().forward(x if len(x) == 5 or len(x) == 4 else x[:, :2])

    done = []
    config = TrainConfig(model="mlp", epochs=5, batch_size=6)
    with pytest.raises(ValueError, match="trains but cannot be evaluated on inputs of shape"):
        train(
            config, [Arm("a")], [0], splits=make_splits(SHAPE), build=lambda: OnlyTrains(7, 3),
            progress=done.append,
        )  # fmt: skip
    assert not done


def test_a_model_that_cannot_be_copied_is_refused_with_a_way_out():
    with pytest.warns(FutureWarning):
        model = nn.utils.weight_norm(nn.Linear(7, 3))
    refused("cannot be copied .*parametrizations.weight_norm", build=lambda: model)


def test_values_outside_of_parameters_and_buffers_are_refused():
    class Hiding(nn.Module):
        """It computes with a list that nobody else can fill."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(7, 3)
            self.hidden = [self.linear.weight]

        def forward(self, x):
            return x @ self.hidden[0].t()

    refused("keeps all that it computes with in parameters and buffers", build=Hiding)


def test_numpy_is_refused_where_a_tensor_is_needed(unchecked_shapes):
    model, x, y = nn.Linear(7, 3), torch.randn(4, 7), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"x is a numpy.ndarray; needed: .*torch.as_tensor\(x\)"):
        attribute(model, x.numpy(), y)
    with pytest.raises(ValueError, match="y is a numpy.ndarray; needed: a tensor"):
        ABA("mendaba")(model, x, np.zeros(4, int))
    with pytest.raises(ValueError, match="y holds label -100; allowed: classes from 0"):
        attribute(model, x, y - 100)


BATCH = torch.zeros(2, 1, 4, 4)
IN_CATEGORIES = torch.zeros(3, 2, 1, 4, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: categorize(BATCH.numpy()), "attribution is a numpy.ndarray; needed: a tensor"),
        (lambda: categorize(BATCH, (0.1, 0.9)), r"split is \(0.1, 0.9\); needed: Percentiles"),
        (
            lambda: adjust(BATCH, IN_CATEGORIES, ADJUSTMENTS[3], 0.5, torch.ones(2)),
            "adjustments is a aba_core.adjustments.Adjustment; needed: a tensor",
        ),
        (
            lambda: adjust(BATCH, IN_CATEGORIES, torch.zeros(2, 3), 0.5, 1.0),
            "magnitude is a float; needed: a tensor",
        ),
        (
            lambda: attribute(lambda x: x.flatten(1), BATCH, torch.zeros(2).long()),
            "model is <function .*; needed: a torch.nn.Module",
        ),
        (
            lambda: attribute(nn.Flatten(), BATCH[0], torch.tensor(1)),
            "y is a single label; needed: a batch",
        ),
        (
            lambda: attribute(nn.Flatten(), BATCH, torch.zeros(2).long(), method="gradeint"),
            r"unknown method 'gradeint' \(did you mean 'gradient'\?\)",
        ),
        (
            lambda: attribute(nn.Flatten(), BATCH, torch.zeros(2).long(), target="los"),
            r"unknown target 'los' \(did you mean 'loss'\?\)",
        ),
        (lambda: ABA("mendaba")(nn.Flatten(), BATCH.numpy(), [0, 1]), "x is a numpy.ndarray"),
        (lambda: ABA("mendaba")(BATCH, nn.Flatten(), [0, 1]), "model is Tensor.*torch.nn.Module"),
        (lambda: AdjustmentSet.from_indices(3), r"indices is 3; needed: several, as \[3, 4"),
        (
            lambda: AdjustmentSet.of_groups("epslon"),
            r"unknown group 'epslon' \(did you mean 'epsilon'\?\)",
        ),
        (
            lambda: load_dataset("digits", 50),
            "unknown subset 50 of digits; known: tiny .*, or a number: '400'",
        ),
        (lambda: build_model("small_cnn", 64, 3), r"input_shape is 64; needed: \(channels"),
        (lambda: TrainConfig("digits", epochs="3"), "epochs is '3'; needed: a number"),
        (
            lambda: TrainConfig("digits", optimizer="Adam"),
            r"unknown optimizer 'Adam' \(did you mean 'adam'\?\)",
        ),
        (lambda: Arm.of("a", method="mixupp"), r"unknown method 'mixupp' \(did you mean 'mixup'"),
        (lambda: train({"dataset": "digits"}, [Arm("a")], [0]), "needed: a TrainConfig"),
        (
            lambda: train(TrainConfig("digits"), [Arm("a")], [0], device="gpu"),
            "unknown device 'gpu'; known: cpu, cuda",
        ),
        (
            lambda: splits_from(pd.DataFrame({"a": [1.0, 2.0], "kind": ["x", "y"]}), [0, 1]),
            "columns of the data that hold no numbers: kind; drop them, or .*get_dummies",
        ),
        (
            lambda: splits_from(torch.rand(9, 2), torch.ones(9).long()),
            "all labels are 1; needed: two classes or more",
        ),
        (lambda: splits_from("wine.csv", [0]), "the data is the text 'wine.csv'; needed: inputs"),
    ],
)
def test_what_is_given_in_place_of_what_is_needed_is_named(call, message, unchecked_shapes):
    with pytest.raises(ValueError, match=message):
        call()
