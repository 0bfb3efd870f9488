"""skorch's classifier with any method."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from aba_core.attribution import Loss, cross_entropy, undisturbed
from aba_core.integrations import missing
from aba_core.methods.loop import Regularizer

try:
    from skorch import NeuralNetClassifier
    from skorch.dataset import unpack_data
    from skorch.utils import to_tensor
except ImportError as error:
    raise missing(__name__, "skorch", "skorch") from error


class RegularizedClassifier(NeuralNetClassifier):
    """A `NeuralNetClassifier` of a module that returns logits, trained with a method.

    >>> RegularizedClassifier(Net, method={"kind": "mendaba", "strength": 0.5}, seed=0)

    method: a method's kind or plain data, as `Regularizer` takes them, or None; grid searches may
    vary it. seed: of its draws. loss: one number a sample, of which methods make maps.
    `partial_fit` goes on with the draws of later steps.

    A method that changes inputs or labels alone trains on the criterion, by default
    `nn.CrossEntropyLoss`. One that changes more trains on the mean of `loss`.
    """

    def __init__(
        self,
        module: Any,
        *args: Any,
        method: Any = None,
        seed: int = 0,
        loss: Loss = cross_entropy,
        criterion: Any = nn.CrossEntropyLoss,
        **given: Any,
    ) -> None:
        self.method, self.seed, self.loss = method, seed, loss
        super().__init__(module, *args, criterion=criterion, **given)

    def initialize_module(self) -> Any:
        """A fresh module, whose method begins at its first step."""
        done = super().initialize_module()
        self.regularizer_ = Regularizer(self.method, self.seed, self.loss)
        return done

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        """Loss and logits of a batch, after its gradients were added."""
        self._set_training(True)
        x, y = (to_tensor(part, device=self.device) for part in unpack_data(batch))
        regularizer = self.regularizer_
        if regularizer.beyond_inputs:
            loss = regularizer.training_loss(self.module_, x, y)
            with torch.no_grad(), undisturbed(self.module_, "eval"):
                logits = self.infer(x)
        else:
            changed, labels = regularizer(self.module_, x, y)
            logits = self.infer(changed, **fit_params)
            loss = self.get_loss(logits, labels, X=changed, training=True)
        loss.backward()
        return {"loss": loss, "y_pred": logits}
