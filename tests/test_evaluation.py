"""Metrics of stacked models, and what adjustments do to a frozen one, against slow twins."""

import math

import pytest
import torch
from oracles.probes import probe
from oracles.slow_attribution import slow_maps, torch_cross_entropy
from oracles.slow_selection import slow_categories

from aba_core.adjustments import ADJUSTMENTS, Group
from aba_core.attribution import Attribution, cross_entropy
from aba_core.datasets import Split
from aba_core.evaluation import frozen, stacked_logits
from aba_core.models import build_model
from aba_core.replicas import Replicas
from aba_core.selection import Percentiles, SignSplit
from aba_core.tasks import task_of

STRENGTHS = (0.0, 0.1, 0.7)


def model_and_split(name: str = "picture", samples: int = 11) -> tuple[torch.nn.Module, Split]:
    model, x, y = probe(name, batch=samples)
    return model, Split(x, y)


def by_key(rows: list[dict]) -> dict[tuple[int, float], dict]:
    return {(row["adjustment"], row["strength"]): row for row in rows}


# --- accuracy and loss ---------------------------------------------------------------------------


def test_accuracy_is_in_percent_and_loss_a_mean_per_sample():
    logits = torch.randn(3, 8, 4, dtype=torch.float64)
    y = torch.arange(8) % 4
    measured = task_of("multiclass").measure(logits, y, cross_entropy)
    accuracy, loss = measured["accuracy"], measured["loss"]
    for replica in range(3):
        right = sum(int(row.argmax()) == int(c) for row, c in zip(logits[replica], y, strict=True))
        assert float(accuracy[replica]) == 100 * right / 8
        expected = torch_cross_entropy(logits[replica], y).mean()
        assert float(loss[replica]) == pytest.approx(float(expected))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_give_nan_and_spare_the_neighbours(bad):
    logits = torch.randn(3, 8, 4)
    y = torch.arange(8) % 4
    task = task_of("multiclass")
    clean = task.measure(logits, y, cross_entropy).values()
    logits = logits.clone()
    logits[1, 5, 2] = bad
    for values, before in zip(task.measure(logits, y, cross_entropy).values(), clean, strict=True):
        assert math.isnan(values[1])
        assert torch.equal(values[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize("batch", [1, 3, 11, 500])
def test_logits_do_not_depend_on_the_batches_they_are_made_in(batch):
    models = [build_model("mlp", (20,), 4).double() for _ in range(2)]
    stack = Replicas.stack(models)
    _, split = model_and_split("smooth_mlp")
    forward = stack.forward(stack.parameters, shared_inputs=True)
    logits = stacked_logits(forward, split, torch.float64, batch)
    for replica, model in enumerate(models):
        torch.testing.assert_close(logits[replica], model(split.x).detach())


# --- a frozen model ------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["loss", "true_class", "predicted_class"])
@pytest.mark.parametrize("method", ["gradient", "gradient_x_input"])
@pytest.mark.parametrize("name", ["picture", "text", "smooth_mlp"])
def test_frozen_equals_changing_one_sample_at_a_time(name, method, target):
    model, split = model_and_split(name)
    split_at = Percentiles(0.2, 0.7)
    rows = by_key(frozen(model, split, STRENGTHS, split_at, method, target, batch=4))
    assert len(rows) == 27 * len(STRENGTHS)
    model.eval()

    def measure(x: torch.Tensor) -> list[float]:
        right, losses, scores = 0, 0.0, 0.0
        with torch.no_grad():
            for one, label in zip(x, split.y, strict=True):
                logits = model(one[None])
                right += int(logits[0].argmax() == label)
                losses += float(torch_cross_entropy(logits, label[None]))
                scores += float(logits[0, label])
        return [100 * right / len(x), losses / len(x), scores / len(x)]

    how = Attribution(method, target)
    maps = slow_maps(model, split.x, split.y, how)
    clean = measure(split.x)
    for adjustment in ADJUSTMENTS:
        for strength in STRENGTHS:
            moved = split.x.clone()
            for sample in range(len(moved)):
                flat = moved[sample].reshape(-1)
                masks = slow_categories(maps[sample].reshape(-1).numpy(), split_at)
                for mask, change in zip(masks, adjustment, strict=True):
                    flat[torch.from_numpy(mask)] += strength * change
            row = rows[adjustment.index, strength]
            expected = measure(moved)
            names = ("accuracy", "loss", "class_score")
            assert [row[n] for n in names] == pytest.approx(expected, abs=1e-10)
            differences = [after - before for after, before in zip(expected, clean, strict=True)]
            changes = [row[f"{n}_change"] for n in names]
            assert changes == pytest.approx(differences, abs=1e-10)


def test_adjustment_0_and_strength_0_change_nothing():
    model, split = model_and_split()
    for (index, strength), row in by_key(frozen(model, split, STRENGTHS)).items():
        if index == 0 or strength == 0:
            for name in ("accuracy", "loss", "class_score"):
                assert row[f"{name}_change"] == pytest.approx(0, abs=1e-12)


def test_epsilon_raises_the_loss_of_a_frozen_model_and_delta_lowers_it():
    model, split = model_and_split("picture", samples=40)
    rows = by_key(frozen(model, split, [0.01]))

    def mean(group: Group) -> float:
        chosen = [rows[a.index, 0.01]["loss_change"] for a in ADJUSTMENTS if a.group is group]
        return sum(chosen) / len(chosen)

    assert mean(Group.DELTA) < mean(Group.NEUTRAL) < mean(Group.EPSILON)
    assert mean(Group.DELTA) < 0 < mean(Group.EPSILON)


def test_frozen_leaves_the_model_as_it_was():
    model, split = model_and_split()
    model.train()
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    frozen(model, split, [0.1])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("target", ["loss", "class_score"])
@pytest.mark.parametrize("method", ["gradient", "smoothgrad"])
def test_frozen_does_not_depend_on_the_batches_it_works_in(method, target):
    model, split = model_and_split(samples=10)
    whole = by_key(frozen(model, split, [0.5], method=method, target=target, batch=10))
    pieces = by_key(frozen(model, split, [0.5], method=method, target=target, batch=3))
    for key, row in whole.items():
        assert pieces[key] == pytest.approx(row, abs=1e-10)


def test_a_frozen_model_whose_logits_overflow_has_nan_metrics_and_no_accuracy():
    model = build_model("mlp", (20,), 4)
    _, split = model_and_split("smooth_mlp")
    split = Split(split.x.float(), split.y)
    rows = by_key(frozen(model, split, [0.1, 1e38, 3e38]))
    assert all(math.isfinite(value) for value in rows[3, 0.1].values())
    overflowing = [row for row in rows.values() if not math.isfinite(row["loss"])]
    assert overflowing
    for row in overflowing:
        assert math.isnan(row["accuracy"]) and math.isnan(row["loss"])


@pytest.mark.parametrize("split_at", [SignSplit(), Percentiles(0.5)], ids=str)
def test_a_split_into_other_than_three_is_refused_by_name(unchecked_shapes, split_at):
    model, split = model_and_split()
    with pytest.raises(ValueError, match=str(split_at)):
        frozen(model, split, [0.1], split_at)


def test_a_model_that_diverged_is_refused_as_such():
    model, split = model_and_split("smooth_mlp")
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="attribution map of .* NaN or infinite"):
        frozen(model, split, [0.1])
