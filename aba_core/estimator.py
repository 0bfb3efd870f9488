"""A scikit-learn classifier that trains with attribution-based augmentation or another method."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_random_state, validate_data

from aba_core.arms import Arm, TrainConfig
from aba_core.datasets import Split, assembled
from aba_core.methods.aba import PRESETS
from aba_core.models import build_model
from aba_core.training import train


class ABAClassifier(ClassifierMixin, BaseEstimator):
    """A small network on rows of numbers, for pipelines, cross-validation and grid search.

    >>> model = make_pipeline(StandardScaler(), ABAClassifier(strength=0.5, random_state=0))
    >>> cross_val_score(model, x, y)

    method: a method's kind (mendaba, mixup, ...), a mapping {kind, field: value}, or None for
    training without. strength: of ABA's presets, in units of the inputs, so put a StandardScaler
    before it; None for the preset's own. model: the name of a model (mlp, linear). random_state:
    seeds initialisation, order and all draws; two fits with the same number are equal. The inputs
    are trained on as they are. After `fit`: classes_, model_ (an nn.Module), n_features_in_.
    Raises ValueError as scikit-learn's own classifiers do.
    """

    def __init__(
        self,
        method: Any = "mendaba",
        *,
        strength: float | None = 0.5,
        model: str = "mlp",
        epochs: int = 100,
        batch_size: int = 20,
        learning_rate: float = 0.005,
        random_state: Any = None,
    ) -> None:
        self.method = method
        self.strength = strength
        self.model = model
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> ABAClassifier:
        """X: [sample, feature]; y: one label a sample, numbers or text."""
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("Classifier can't train when only one class is present.")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        split = Split(torch.from_numpy(X.copy()), torch.from_numpy(numbers.astype(np.int64)))
        splits = assembled(
            {"train": split, "validation": split, "test": split},
            "as they are", name="own", subset="own", subset_seed=0,
            class_names=tuple(str(name) for name in self.classes_),
            mean=torch.zeros(()), std=torch.ones(()), task="multiclass",
        )  # fmt: skip
        config = TrainConfig(
            dataset="own", epochs=self.epochs, batch_size=min(self.batch_size, len(X)),
            optimizer="adam", learning_rate=self.learning_rate, schedule="cosine",
        )  # fmt: skip
        shape, classes = splits.input_shape, len(self.classes_)
        runs = train(
            config, [self._arm()], [seed], splits=splits,
            build=lambda: build_model(self.model, shape, classes),
        )  # fmt: skip
        self.model_ = runs.model("classifier", seed)
        return self

    def _arm(self) -> Arm:
        if self.method is None:
            return Arm("classifier")
        given = {"kind": self.method} if isinstance(self.method, str) else dict(self.method)
        takes = self.strength is not None and str(given["kind"]) in PRESETS
        return Arm("classifier", {**({"strength": self.strength} if takes else {}), **given})

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities [sample, class], in the order of `classes_`."""
        check_is_fitted(self, "model_")
        X = validate_data(self, X, dtype=np.float32, reset=False)
        with torch.no_grad():
            return torch.softmax(self.model_(torch.from_numpy(X.copy())).double(), -1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each sample."""
        most = self.predict_proba(X).argmax(1)
        return self.classes_[most]
