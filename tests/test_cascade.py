"""Randomised layers: agree with a slow twin, and tell maps of the model from maps of the input."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from oracles import slow_cascade
from torch import nn

from aba_core import Arm, TrainConfig, attribute, build_model, load_dataset, train
from aba_core import cascade as of_layers
from aba_core.cascade import Cascaded
from aba_core.quality import NEW_START, OTHER_SEED
from analysis.studies import cascade, standard_study
from analysis.studies.attributions import MAPS

SHAPE = (2, 9, 10)


def gradient(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return attribute(model, x, y, "gradient", "true_class")


def filled(batch_norm: bool, seed: int) -> nn.Module:
    """A model in evaluation, no number of which is as it was made."""
    model = build_model("small_cnn", SHAPE, 4, batch_norm).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator, dtype=value.dtype) - 0.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.add_(1)
    return model


@pytest.mark.parametrize(
    ("batch_norm", "layers"),
    [
        (False, [("7",), ("3",), ("0",)]),
        (True, [("9.",), ("4.", "5."), ("0.", "1.")]),
    ],
)
def test_what_is_left_is_what_the_slow_twin_finds(batch_norm, layers):
    model, other = filled(batch_norm, 1), filled(batch_norm, 2)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, *SHAPE, generator=generator, dtype=torch.float64)
    found = of_layers.cascade(gradient, model, other, x)
    expected = slow_cascade.cascade(gradient, model, other, x, layers, of_layers.WINDOW)
    assert found == pytest.approx(expected, abs=1e-8)
    assert len(found) == 2 * 3 * 3 and min(found.values()) < 60
    # Where all layers are another model's, so is the map.
    classes = model(x).argmax(1)
    last = of_layers.correlation(gradient(model, x, classes), gradient(other, x, classes))
    assert found["to_3"] == pytest.approx(last)


def test_layers_of_the_same_model_leave_every_map_as_it_was():
    model = filled(True, 1)
    x = torch.randn(3, *SHAPE, dtype=torch.float64)
    found = of_layers.cascade(gradient, model, model, x)
    assert found == pytest.approx(dict.fromkeys(found, 100.0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    of_layers.cascade(gradient, model, filled(True, 2), x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_texts_have_no_structural_similarity_and_a_layer_for_each_width():
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        models.append(build_model("text_cnn", (9, 5), 3).eval())
    assert of_layers.layers(models[0])[0] == ("classifier",)
    found = of_layers.cascade(gradient, *models, torch.randn(4, 9, 5))
    assert set(found) == {f"{w}_{n}{s}" for w in ("to", "only") for n in range(1, 5)
                          for s in ("", "_size")}  # fmt: skip


@pytest.fixture(scope="module")
def runs():
    config = TrainConfig(epochs=12, batch_size=20, optimizer="adam", learning_rate=0.005)
    splits = load_dataset("digits")
    splits = replace(splits, train=splits.train.first(100), validation=splits.validation.first(60),
                     test=splits.test.first(10))  # fmt: skip
    kinds = ("gradient", "guided_backpropagation", "lrp_z_plus")
    arms = [Arm.of(cascade.cascaded(MAPS[kind]), method=Cascaded(kind)) for kind in kinds]
    frames = [
        train(config, [Arm("Vanilla"), *arms], [seed], splits=splits).frame() for seed in (7, 8, 9)
    ]
    return pd.concat(frames).assign(subset_seed=lambda frame: frame["seed"])


def test_maps_of_the_input_keep_more_than_the_gradient(runs):
    of = runs.groupby("arm").mean(numeric_only=True)
    names = [cascade.cascaded(MAPS[kind]) for kind in ("gradient", "lrp_z_plus")]
    gradients, z_plus = (of.loc[name] for name in names)
    assert abs(gradients["map_to_1"]) < 25 and abs(gradients["map_to_3"]) < 25
    assert z_plus["map_to_3_size"] > gradients["map_to_3_size"] + 20
    assert runs.groupby("seed")["validation_accuracy"].nunique().eq(1).all()  # Vanilla's


def test_the_other_model_has_initial_parameters_of_its_own():
    def parameters(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat(
            [p.flatten() for p in build_model("small_cnn", (1, 8, 8), 10).parameters()]
        )

    assert torch.equal(parameters(5), parameters(OTHER_SEED + 5))  # 32 bits of a seed count
    together = torch.stack([parameters(5), parameters(NEW_START + 5)])
    assert abs(torch.corrcoef(together)[0, 1]) < 0.1


def test_the_study_asks_every_map_and_its_table_says_what_is_left(runs):
    study = standard_study("cascade", preset="standard")
    assert [arm.name for arm in study.arms] == [cascade.cascaded(title) for title in MAPS.values()]
    assert set().union(*(one.arms for one in study.hypotheses)) == {a.name for a in study.arms}
    assert sorted(m for methods in cascade.FAMILIES.values() for m in methods) == sorted(MAPS)
    table = cascade.cascade_table(runs, np.random.default_rng(0))
    assert len(table) == 3 * 2 * 3 * 3
    one = table[(table["map"] == "Gradient") & (table["way"] == "to") & (table["layer"] == 2)]
    of_gradient = runs[runs["arm"] == cascade.cascaded("Gradient")]
    expected = {"rank": "map_to_2", "size": "map_to_2_size", "ssim": "map_to_2_ssim"}
    for row in one.to_dict("records"):
        assert row["left"] == pytest.approx(of_gradient[expected[row["measure"]]].mean())
        assert row["left_low"] < row["left"] < row["left_high"]
    summary = cascade.summary_table(table).set_index("map")
    assert list(summary.index) == ["Gradient", "Guided backpropagation", "LRP-z⁺"]
    figure = cascade.cascade_panels(table)
    drawn = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in drawn] == ["Gradients", "Changed ReLU", "LRP"]
    ((xs, ys), *_) = [line.get_data() for line in drawn[0].lines if len(line.get_xdata()) == 4]
    steps = [summary.loc["Gradient", name] for name in ("1 layer", "2 layers", "3 layers")]
    assert list(xs) == [0, 1, 2, 3] and list(ys) == pytest.approx([100, *steps])
