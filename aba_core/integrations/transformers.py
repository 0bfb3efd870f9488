"""Hugging Face's `Trainer` with any method, for models that classify pictures, sound or text."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from aba_core.attribution import Loss, cross_entropy
from aba_core.integrations import missing
from aba_core.methods.base import has_own
from aba_core.methods.loop import Regularizer

try:
    from transformers import Trainer, TrainerCallback
except ImportError as error:
    raise missing(__name__, "transformers", "transformers") from error

IDS, EMBEDDED, LABELS = "input_ids", "inputs_embeds", "labels"


class RegularizedTrainer(Trainer):
    """A `Trainer` whose training loss is that of a method; evaluation is untouched.

    >>> RegularizedTrainer(model, args, train_dataset=data, method="mendaba")

    method: a method's kind or plain data, as `Regularizer` takes them. inputs: what it changes, the
    name of an argument of the model, which returns logits [batch, class]. With "inputs_embeds", a
    batch may hold "input_ids" instead; the model's own embeddings of them are changed, and trained
    as usual. Draws follow the seed of the arguments, the process and the step, also where training
    continues from a checkpoint. loss: one number a sample, of which methods make maps.

    A method that changes inputs alone leaves the loss to the model. One that changes labels or more
    trains on the mean of `loss`.
    """

    def __init__(
        self,
        *args: Any,
        method: Any,
        inputs: str = "pixel_values",
        loss: Loss = cross_entropy,
        **given: Any,
    ) -> None:
        super().__init__(*args, **given)
        self.changes = inputs
        self.regularizer = Regularizer(method, self.args.seed, loss, rank=self.args.process_index)
        self._of_batch: _OfBatch | None = None
        self.add_callback(_Steps(self.regularizer))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a batch: the method's in training, the model's own otherwise."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        x, y, others = self._parts(model, inputs)
        if self._of_batch is None or self._of_batch.model is not model:
            self._of_batch = _OfBatch(model, self.changes)
        of_batch = self._of_batch.of(others, len(x))
        if self.regularizer.beyond_inputs:
            self._check_own_loss(x)
            return self._scaled(self.regularizer.training_loss(of_batch, x, y), num_items_in_batch)
        x, labels = self.regularizer(of_batch, x, y)
        if labels is y:
            changed = {**others, self.changes: x, LABELS: y}
            return super().compute_loss(model, changed, return_outputs, num_items_in_batch)
        self._check_own_loss(x)
        loss = self.regularizer.loss(of_batch(x), labels).mean()
        return self._scaled(loss, num_items_in_batch)

    def _parts(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Tensor, dict]:
        """What the method changes, the labels, and the model's other inputs."""
        others = dict(inputs)
        if self.changes == EMBEDDED and EMBEDDED not in others and IDS in others:
            embed = self.accelerator.unwrap_model(model).get_input_embeddings()
            others[EMBEDDED] = embed(others.pop(IDS))
        for name in (self.changes, LABELS):
            if others.get(name) is None:
                raise ValueError(f"the batch has no {name!r}; it has {', '.join(inputs)}")
        return others.pop(self.changes), others.pop(LABELS), others

    def _check_own_loss(self, x: Tensor) -> None:
        """Raises ValueError for what does not go with a loss that the method computes."""
        kind = self.regularizer.method.kind
        if self.label_smoother is not None or self.compute_loss_func is not None:
            given = "compute_loss_func" if self.compute_loss_func else "label_smoothing_factor"
            raise ValueError(
                f"{given} is given, and {kind!r} changes more than inputs; needed: loss=..., one "
                "number a sample"
            )
        if x.requires_grad and has_own(self.regularizer.method, "gradient"):
            raise ValueError(
                f"{kind!r} trains embeddings at other parameters too; needed: a batch with "
                f"{EMBEDDED!r} in place of {IDS!r}"
            )

    def _scaled(self, loss: Tensor, num_items_in_batch: Any) -> Tensor:
        """Where the Trainer takes the loss for one of all accumulated batches: its share of it."""
        taken = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        return loss / self.current_gradient_accumulation_steps if taken else loss


class _OfBatch(nn.Module):
    """A model as a function of one of its inputs, the others being those of the batch."""

    # Maps of some samples alone would meet the other inputs of all.
    mixes_samples = True

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name
        self._others: dict[str, Any] = {}
        self._size = 0

    def of(self, others: dict[str, Any], size: int) -> _OfBatch:
        """The same for another batch."""
        self._others, self._size = others, size
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, class]. A batch may be enlarged, whole, or cut to its first samples."""
        others = {
            name: self._fit(value, len(x))
            if isinstance(value, Tensor) and value.shape[:1] == (self._size,)
            else value
            for name, value in self._others.items()
        }
        logits = self.model(**others, **{self.name: x}).logits
        if logits.dim() != 2:
            raise ValueError(
                f"logits of shape {tuple(logits.shape)}; needed: [batch, class], as of a model for "
                "classification"
            )
        return logits

    def _fit(self, value: Tensor, size: int) -> Tensor:
        times = max(1, size // self._size)
        return value.repeat(times, *(1,) * (value.dim() - 1))[:size]


class _Steps(TrainerCallback):
    """Which step a training begins with, and how many it has."""

    def __init__(self, regularizer: Regularizer) -> None:
        self.regularizer = regularizer

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """A step of a method is a batch; one of the Trainer may be several."""
        parts, loader = args.gradient_accumulation_steps, given.get("train_dataloader")
        try:
            batches = len(loader)  # type: ignore[arg-type]
        except TypeError:  # a stream
            batches = 0
        if batches:
            epochs, within = divmod(state.global_step, math.ceil(batches / parts))
            self.regularizer.step = epochs * batches + within * parts
        else:
            self.regularizer.step = state.global_step * parts
        self.regularizer.steps = max(0, state.max_steps) * parts
