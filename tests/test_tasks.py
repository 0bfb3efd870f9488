"""Tasks: every metric is scikit-learn's, computed again here from its definition or by its name."""

import math

import numpy as np
import pytest
import torch
from outside.parts import top_two
from sklearn import metrics as sk

from aba_core import Arm, TrainConfig, splits_from, train
from aba_core.identity import Use
from aba_core.quantities import QUANTITIES, TASKS, metric_label, metrics_in, quantity_of
from aba_core.tasks import task_of

RNG = np.random.default_rng(3)
REPLICAS, SAMPLES, CLASSES = 3, 40, 4
LOGITS = torch.from_numpy(RNG.normal(size=(REPLICAS, SAMPLES, CLASSES)))
Y = torch.from_numpy(RNG.integers(0, CLASSES, SAMPLES))
LABELS = torch.from_numpy((RNG.uniform(size=(SAMPLES, CLASSES)) < 0.4).astype(np.float32))
NUMBERS = torch.from_numpy(RNG.normal(size=(SAMPLES, CLASSES)).astype(np.float32))
TRUTH = {"multiclass": Y, "multilabel": LABELS, "regression": NUMBERS}


def probabilities(z: np.ndarray) -> np.ndarray:
    return torch.softmax(torch.from_numpy(z), 1).numpy()


def sigmoid(z: np.ndarray) -> np.ndarray:
    return torch.sigmoid(torch.from_numpy(z)).numpy()


def brier_of_classes(y: np.ndarray, z: np.ndarray) -> float:
    """The sum over classes of scikit-learn's two-class score."""
    p = probabilities(z)
    return sum(sk.brier_score_loss(y == k, p[:, k]) for k in range(CLASSES))


def over_labels(metric):
    return lambda y, z: np.mean([metric(y[:, k], z[:, k]) for k in range(y.shape[1])])


EXPECTED = {
    ("multiclass", "accuracy"): lambda y, z: 100 * sk.accuracy_score(y, z.argmax(1)),
    ("multiclass", "balanced_accuracy"): lambda y, z: (
        100 * sk.balanced_accuracy_score(y, z.argmax(1))
    ),
    ("multiclass", "macro_f1"): lambda y, z: 100 * sk.f1_score(y, z.argmax(1), average="macro"),
    ("multiclass", "macro_auc"): lambda y, z: (
        100 * sk.roc_auc_score(y, probabilities(z), multi_class="ovr", average="macro")
    ),
    ("multiclass", "log_loss"): lambda y, z: sk.log_loss(y, probabilities(z)),
    ("multiclass", "brier"): brier_of_classes,
    ("multilabel", "macro_auc"): lambda y, z: 100 * sk.roc_auc_score(y, z, average="macro"),
    ("multilabel", "accuracy"): over_labels(lambda y, z: 100 * sk.accuracy_score(y, z > 0)),
    ("multilabel", "macro_f1"): lambda y, z: 100 * sk.f1_score(y, z > 0, average="macro"),
    ("multilabel", "log_loss"): over_labels(lambda y, z: sk.log_loss(y, sigmoid(z))),
    ("multilabel", "brier"): over_labels(lambda y, z: sk.brier_score_loss(y, sigmoid(z))),
    ("regression", "r2"): sk.r2_score,
    ("regression", "mae"): sk.mean_absolute_error,
}
LOSSES = {
    "multiclass": torch.nn.functional.cross_entropy,
    "multilabel": torch.nn.functional.binary_cross_entropy_with_logits,
    "regression": torch.nn.functional.mse_loss,
}


def measured(task: str, logits: torch.Tensor, y: torch.Tensor, *names: str | Use) -> dict:
    one = task_of(task)
    return one.measure(logits, y, one.loss, names)


def test_every_metric_of_every_task_has_an_expectation():
    assert set(EXPECTED) == {(task, name) for task, names in TASKS.items() for name in names}


@pytest.mark.parametrize(("task", "name"), EXPECTED, ids="-".join)
def test_a_metric_is_that_of_scikit_learn(task, name):
    values = measured(task, LOGITS, TRUTH[task], name)[name]
    y = TRUTH[task].double().numpy() if task != "multiclass" else Y.numpy()
    expected = [EXPECTED[task, name](y, z) for z in LOGITS.numpy()]
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-6)
    quantity = QUANTITIES[name]
    assert all(quantity.low <= value <= quantity.high for value in values.tolist())


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_is_pytorchs_and_the_primary_quantity_comes_first(task):
    values = measured(task, LOGITS, TRUTH[task])
    assert list(values) == [TASKS[task][0], "loss"]
    expected = [
        LOSSES[task](z, TRUTH[task].to(z.dtype) if task != "multiclass" else Y) for z in LOGITS
    ]
    torch.testing.assert_close(values["loss"], torch.stack(expected).double())


@pytest.mark.parametrize("task", TASKS)
def test_a_replica_that_diverged_is_nan_and_touches_no_other(task):
    logits = LOGITS.clone()
    logits[1, 5, 2] = math.inf
    names = TASKS[task]
    whole, hurt = (measured(task, z, TRUTH[task], *names) for z in (LOGITS, logits))
    for name in (*names, "loss"):
        assert math.isnan(hurt[name][1])
        torch.testing.assert_close(hurt[name][[0, 2]], whole[name][[0, 2]])


def test_macro_auc_passes_over_classes_that_do_not_occur():
    y = Y.clone()
    y[y == 3] = 0
    value = measured("multiclass", LOGITS, y, "macro_auc")["macro_auc"]
    expected = [
        100 * np.mean([sk.roc_auc_score(y.numpy() == k, probabilities(z)[:, k]) for k in range(3)])
        for z in LOGITS.numpy()
    ]
    np.testing.assert_allclose(value.numpy(), expected)
    labels = LABELS.clone()
    labels[:, 0], labels[:, 1] = 0, 1  # never and always
    value = measured("multilabel", LOGITS, labels)["macro_auc"]
    expected = [100 * sk.roc_auc_score(labels[:, 2:].numpy(), z[:, 2:]) for z in LOGITS.numpy()]
    np.testing.assert_allclose(value.numpy(), expected)


def test_macro_auc_of_one_class_is_nan_and_the_other_metrics_are_not():
    y = torch.zeros(SAMPLES, dtype=torch.int64)
    names = TASKS["multiclass"]
    values = measured("multiclass", LOGITS, y, *names)
    assert values["macro_auc"].isnan().all()
    assert all(values[name].isfinite().all() for name in (*names, "loss") if name != "macro_auc")
    # The log loss knows all classes, also those that a split lacks.
    torch.testing.assert_close(values["log_loss"], values["loss"])


def test_soft_labels_have_a_loss_and_no_accuracy():
    soft = torch.softmax(torch.from_numpy(RNG.normal(size=(SAMPLES, CLASSES))), 1)
    values = measured("multiclass", LOGITS, soft, *TASKS["multiclass"])
    assert all(values[name].isnan().all() for name in TASKS["multiclass"])
    expected = [torch.nn.functional.cross_entropy(z, soft) for z in LOGITS]
    torch.testing.assert_close(values["loss"], torch.stack(expected))


def test_one_output_may_have_labels_with_or_without_an_axis_for_it():
    y = NUMBERS[:, 0]
    outputs = LOGITS[:, :, :1]
    flat, column = (measured("regression", outputs, y, "mae") for y in (y, y[:, None]))
    for name in flat:
        torch.testing.assert_close(flat[name], column[name])
    expected = [sk.r2_score(y.numpy(), z[:, 0]) for z in outputs.numpy()]
    np.testing.assert_allclose(flat["r2"].numpy(), expected, rtol=1e-6)


def test_a_metric_of_ones_own_is_a_column_by_its_functions_name():
    use = Use("outside.parts:top_two")
    values = measured("multiclass", LOGITS, Y, use)
    expected = [top_two(z, Y.numpy()) for z in LOGITS.numpy()]
    assert values["top_two"].tolist() == expected


def test_an_unknown_task_and_an_unknown_metric_are_named_with_the_known_ones():
    with pytest.raises(
        ValueError, match="unknown task 'ranking'; known: multiclass, multilabel, r"
    ):
        task_of("ranking")
    with pytest.raises(ValueError, match="unknown metric 'r2' of a multilabel task; known: macro_"):
        task_of("multilabel").check_metrics(["r2"])
    with pytest.raises(ValueError, match="'outside.parts' has no 'top_three'"):
        task_of("multiclass").check_metrics([Use("outside.parts:top_three")])


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_training_gets_better_at_its_task(task):
    x = RNG.normal(size=(300, 3))
    clean = x @ RNG.normal(size=(3, 2))
    y = (clean > 0).astype(int) if task == "multilabel" else clean
    splits = splits_from(x, y, task=task)
    config = TrainConfig(model="mlp", epochs=20, batch_size=20, learning_rate=0.02, curve_every=12)
    runs = train(
        config, [Arm("a"), Arm.of("b", adjustments="epsilon", target="loss")], [0, 1], splits=splits
    )
    primary = f"validation_{TASKS[task][0]}"
    frame, curves = runs.frame(), runs.curves()
    first = curves[curves["step"] == 12][primary]
    assert (frame[primary].to_numpy() > first.to_numpy()).all()
    assert (frame[primary] > (0.8 if task == "regression" else 95)).all()


def test_columns_are_said_in_words():
    assert metric_label("validation_accuracy") == "Validation accuracy (%)"
    assert metric_label("test_r2") == "Test R²"
    assert metric_label("train_top_two") == "Training top two"
    assert quantity_of("validation_log_loss").unit == "nats"
    for column in ("accuracy", "validation_", "validate_accuracy"):
        with pytest.raises(ValueError, match=f"unknown metric '{column}'; known: validation_acc"):
            metric_label(column)
    columns = ["arm", "seed", "test_r2", "validation_logits", "train_loss"]
    assert metrics_in(columns) == ["test_r2", "train_loss"]
