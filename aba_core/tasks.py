"""Tasks: classes, several labels at once, numbers; each with its loss, outputs and metrics.

Metrics beside accuracy are scikit-learn's, one replica after the other on the CPU.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from aba_core.architecture import first_line
from aba_core.attribution import Loss, cross_entropy
from aba_core.identity import Use, call_with
from aba_core.quantities import QUANTITIES, TARGETS, TASKS

# One model's metric: logits [sample, output] and labels as the task has them, as arrays → a number.
Metric = Callable[[np.ndarray, np.ndarray], float]


def binary_cross_entropy(
    logits: Float[Tensor, "*lead label"], labels: Float[Tensor, "*lead label"]
) -> Float[Tensor, "*lead"]:
    """Binary cross-entropy per sample, the mean over its labels."""
    each = functional.binary_cross_entropy_with_logits(
        logits, labels.to(logits.dtype), reduction="none"
    )
    return each.mean(-1)


def squared_error(outputs: Float[Tensor, "*lead output"], labels: Tensor) -> Float[Tensor, "*lead"]:
    """Squared error per sample, the mean over its outputs; labels [*lead] or [*lead, output]."""
    labels = labels.to(outputs.dtype)
    labels = labels[..., None] if labels.dim() < outputs.dim() else labels
    return (outputs - labels).square().mean(-1)


@dataclass(frozen=True)
class Task:
    """What is learnt. loss: one number a sample. primary: the quantity that runs are judged by."""

    name: str
    loss: Loss

    @property
    def primary(self) -> str:
        return TASKS[self.name][0]

    def check_metrics(self, metrics: Sequence[str | Use]) -> None:
        """Raises ValueError for a quantity that this task does not have."""
        for name in metrics:
            if isinstance(name, Use):
                if not callable(name.load()):
                    raise ValueError(f"metric {name.where!r} is no function")
            elif name not in TASKS[self.name]:
                raise ValueError(
                    f"unknown metric {name!r} of a {self.name} task; known: "
                    f"{', '.join(TASKS[self.name])}, or module:function"
                )

    def check_targets(self, arm: str, method: Any) -> None:
        """Raises ValueError for an arm's method that this task does not have, or whose maps explain
        what it does not have."""
        for part in method.parts() if method is not None else ():
            if part.tasks and self.name not in part.tasks:
                raise ValueError(
                    f"arm {arm!r}: {part.kind!r} in a {self.name} task; allowed in: "
                    f"{', '.join(part.tasks)}"
                )
            target = getattr(part, "target", "loss")
            no_map = "target" in getattr(part, "irrelevant", ())
            if target not in TARGETS[self.name] and not no_map:
                raise ValueError(
                    f"arm {arm!r}: target is {target!r}; allowed for a {self.name} task: "
                    f"{', '.join(TARGETS[self.name])}"
                )

    def measure(
        self,
        logits: Float[Tensor, "replica sample output"],
        y: Tensor,
        loss: Loss,
        metrics: Sequence[str | Use] = (),
    ) -> dict[str, Float[Tensor, "replica"]]:
        """The primary quantity, the mean loss, and what else is asked for, of each replica; NaN
        where its logits are not finite. Accuracies and their like are in percent."""
        labels = y.expand(len(logits), *y.shape)
        finite = torch.isfinite(logits).flatten(1).all(1)
        soft = self.name == "multiclass" and labels.shape == logits.shape
        measured: dict[str, Tensor] = {}
        for name in dict.fromkeys((self.primary, *metrics)):
            if soft and not isinstance(name, Use):  # they have no accuracy, nor the like
                measured[name] = torch.full_like(finite, float("nan"), dtype=torch.float64)
            elif name == "accuracy" and self.name == "multiclass":
                measured[name] = 100.0 * (logits.argmax(-1) == labels).double().mean(1)
            else:
                measured[column_of(name)] = _one_by_one(self._metric(name), logits, y, finite)
        measured["loss"] = loss(logits, labels).double().mean(1)
        missing = torch.full_like(measured["loss"], float("nan"))
        return {name: torch.where(finite, value, missing) for name, value in measured.items()}

    def _metric(self, name: str | Use) -> Metric:
        if isinstance(name, Use):
            return name.function()
        metric = {"multiclass": _OF_CLASSES, "multilabel": _OF_LABELS, "regression": _OF_NUMBERS}
        percent = QUANTITIES[name].unit == "%"
        function = metric[self.name][name]
        return lambda outputs, y: function(outputs, y) * (100.0 if percent else 1.0)


def column_of(metric: str | Use) -> str:
    """A metric's name as a column: of your own, the function's."""
    return metric.where.rpartition(":")[2] if isinstance(metric, Use) else metric


def _one_by_one(metric: Metric, logits: Tensor, y: Tensor, finite: Tensor) -> Tensor:
    labels = y.cpu().numpy()
    values = [
        float(metric(outputs.double().cpu().numpy(), labels)) if good else float("nan")
        for outputs, good in zip(logits, finite.tolist(), strict=True)
    ]
    return torch.tensor(values, dtype=torch.float64, device=logits.device)


def _sklearn(name: str) -> Callable[..., float]:
    """A metric of scikit-learn by name; classes that a split lacks are passed over silently."""

    def run(*arrays: Any, **options: Any) -> float:
        from sklearn import metrics

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(getattr(metrics, name)(*arrays, **options))

    return run


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-logits))


def _mean_auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """The mean area under the ROC curve over labels that occur and do not always; NaN without
    any."""
    defined = [k for k in range(truth.shape[1]) if 0 < truth[:, k].sum() < len(truth)]
    areas = [_sklearn("roc_auc_score")(truth[:, k], scores[:, k]) for k in defined]
    return float(np.mean(areas)) if areas else float("nan")


def _one_hot(y: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes)[y]


_OF_CLASSES: dict[str, Metric] = {
    "balanced_accuracy": lambda z, y: _sklearn("balanced_accuracy_score")(y, z.argmax(1)),
    "macro_f1": lambda z, y: _sklearn("f1_score")(y, z.argmax(1), average="macro"),
    "macro_auc": lambda z, y: _mean_auc(_softmax(z), _one_hot(y, z.shape[1])),
    "log_loss": lambda z, y: _sklearn("log_loss")(y, _softmax(z), labels=range(z.shape[1])),
    "brier": lambda z, y: float(((_softmax(z) - _one_hot(y, z.shape[1])) ** 2).sum(1).mean()),
}
_OF_LABELS: dict[str, Metric] = {
    "macro_auc": lambda z, y: _mean_auc(z, y),
    "accuracy": lambda z, y: float(((z > 0) == (y > 0.5)).mean()),
    "macro_f1": lambda z, y: _sklearn("f1_score")(y > 0.5, z > 0, average="macro"),
    "log_loss": lambda z, y: float((np.logaddexp(0, z) - y * z).mean()),
    "brier": lambda z, y: float(((_sigmoid(z) - y) ** 2).mean()),
}
_OF_NUMBERS: dict[str, Metric] = {
    "r2": lambda z, y: _sklearn("r2_score")(y.reshape(len(z), -1), z),
    "mae": lambda z, y: _sklearn("mean_absolute_error")(y.reshape(len(z), -1), z),
}

_LOSSES: dict[str, Loss] = {
    "multiclass": cross_entropy,
    "multilabel": binary_cross_entropy,
    "regression": squared_error,
}


def task_of(name: str) -> Task:
    """A task by name: multiclass, multilabel or regression. Raises ValueError for another."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; known: {', '.join(TASKS)}")
    return Task(name, _LOSSES[name])


def used(use: Use, **given: Any) -> Any:
    """What a function of your own makes of those of the given arguments that it takes, and of its
    options. Raises ValueError for an option that it does not take, and where it fails."""
    function = use.load()
    if not callable(function):
        raise ValueError(f"{use.where!r} is no function")
    parameters = inspect.signature(function).parameters
    everything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name, _ in use.options:
        if name not in parameters and not everything:
            raise ValueError(
                f"unknown option {name!r} of {use.where}; known: {', '.join(parameters)}"
            )
    try:
        return call_with(function, {**given, **dict(use.options)}, use.where)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"{use.where} failed: {type(error).__name__}: {first_line(error)}"
        ) from error
