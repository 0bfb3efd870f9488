"""A callback of Lightning that changes each training batch by ABA, or another method of inputs."""

from __future__ import annotations

from typing import Any

from torch import nn

from aba_core.integrations import missing
from aba_core.methods.loop import Regularizer

try:
    from pytorch_lightning import Callback
except ImportError:
    try:
        from lightning.pytorch import Callback
    except ImportError as error:
        raise missing(__name__, "pytorch-lightning", "lightning") from error


class RegularizerCallback(Callback):
    """Changes inputs and labels of each training batch before `training_step` sees them.

    >>> Trainer(callbacks=[RegularizerCallback({"kind": "mendaba", "strength": 0.5}, seed=0)])

    method: a method's kind or plain data, as `Regularizer` takes them. model: the attribute of the
    LightningModule that maps inputs to logits, as "net" or "net.classifier"; "" for the
    LightningModule itself. inputs, labels: their places in a batch that is a list, or their keys in
    one that is a dict. Each process of several draws for its own share of the batch, and a
    checkpoint keeps the step. Raises ValueError for a method that changes more than inputs and
    labels: put `Regularizer.training_loss` into `training_step`.
    """

    def __init__(
        self,
        method: Any,
        seed: int = 0,
        *,
        model: str = "",
        inputs: int | str = 0,
        labels: int | str = 1,
    ) -> None:
        self.regularizer = Regularizer(method, seed)
        if self.regularizer.beyond_inputs:
            raise ValueError(
                f"{self.regularizer.method.kind!r} changes the {self.regularizer.beyond_inputs}, "
                "which a callback does not see; needed: Regularizer.training_loss(model, x, y) as "
                "the loss of training_step"
            )
        self.model, self.inputs, self.labels = model, inputs, labels

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Which process this is, and how many steps there will be where that is known."""
        self.regularizer.rank = trainer.global_rank
        batches, epochs = trainer.num_training_batches, trainer.max_epochs or -1
        known = epochs > 0 and isinstance(batches, int)
        self.regularizer.steps = epochs * batches if known else 0

    def on_train_batch_start(
        self, trainer: Any, pl_module: nn.Module, batch: Any, batch_idx: int
    ) -> None:
        """Puts changed inputs and labels into the batch."""
        if not isinstance(batch, list | dict):
            raise ValueError(
                f"the batch is a {type(batch).__name__}; needed: a list or a dict, as "
                "torch.utils.data.default_collate makes them"
            )
        try:
            x, y = batch[self.inputs], batch[self.labels]  # type: ignore[index, call-overload]
        except (LookupError, TypeError) as error:
            has = ", ".join(map(repr, batch)) if isinstance(batch, dict) else f"{len(batch)} parts"
            raise ValueError(
                f"inputs {self.inputs!r} and labels {self.labels!r} of a batch that has {has}"
            ) from error
        model = pl_module.get_submodule(self.model)
        x, y = self.regularizer(model, x, y)
        batch[self.inputs], batch[self.labels] = x, y  # type: ignore[index, call-overload]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"step": self.regularizer.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues where a checkpoint was written."""
        self.regularizer.step = state_dict["step"]
