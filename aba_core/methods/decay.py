"""Parameters: weight decay of some of them, and training that ends with its best ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aba_core.architecture import trained_parameters
from aba_core.methods.base import At, Method, column

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class WeightDecay(Method):
    """The gradient plus rate · w, before momentum, as in torch.optim's SGD and Adam.

    which: "all" parameters; "weights", those of two dimensions or more; "norms", γ and β of
    normalising layers. It adds to the configuration's weight_decay, which is of all. Source: Krogh
    and Hertz 1991, "A simple weight decay can improve generalization"; of γ and β: Summers and
    Dinneen 2020, "Four things everyone should know to improve batch normalization".
    """

    kind: ClassVar[str] = "weight-decay"

    rate: float = 5e-4
    which: str = "all"

    def __post_init__(self) -> None:
        self.check(rate=(0.0, 1e3))
        if self.which not in ("all", "weights", "norms"):
            raise ValueError(f"unknown which {self.which!r}; known: all, weights, norms")

    def fitted(self, model: nn.Module) -> Self:
        trained = trained_parameters(model)
        norms = {
            id(value)
            for module in model.modules()
            if isinstance(module, _NORMS)
            for value in module.parameters(recurse=False)
        }
        decayed = {
            "all": lambda value: True,
            "weights": lambda value: value.dim() >= 2,
            "norms": lambda value: id(value) in norms,
        }[self.which]
        mask = [torch.full_like(v, decayed(v)).flatten().detach() for v in trained.values()]
        if not any(map(decayed, trained.values())):
            raise ValueError(f"the model has no {self.which} to decay")
        return self.with_values(mask=torch.cat(mask)[None])

    def gradient(self, at: At, parameters: Tensor) -> tuple:
        losses, gradient = at(parameters)
        rate = column(self.rate, gradient)
        return losses, gradient + rate * self.mask * parameters  # type: ignore[attr-defined]


@dataclass(frozen=True)
class EarlyStopping(Method):
    """Training ends with the parameters of the lowest validation loss, measured every `every` steps
    and after the last; it goes on to its last step, so that it costs what others cost.

    The validation set then chooses parameters as it chooses strengths; the test set does not. In a
    loop of your own, `Regularizer.look` and `Regularizer.restore`. Source: Prechelt 1998, "Early
    stopping, but when?".
    """

    kind: ClassVar[str] = "early-stopping"

    every: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.every <= 10**9:
            raise ValueError(f"every is {self.every!r}; allowed: whole numbers from 1")

    @property
    def looks_every(self) -> int:
        return self.every


class Best:
    """The values of each replica at its lowest loss so far.

    values: tensors with leading axis replica. They are read, and in the end filled, in place.
    """

    def __init__(self, values: Sequence[Tensor]) -> None:
        self._values = list(values)
        self._kept: list[Tensor] = []
        self._lowest = torch.empty(0)

    def look(self, losses: Float[Tensor, "replica"]) -> None:
        """Keep the values where the loss is lower than before; what is no number is never lower."""
        if not self._kept:
            self._kept = [value.detach().clone() for value in self._values]
            self._lowest = torch.where(losses.isnan(), torch.inf, losses)
            return
        lower = losses < self._lowest
        self._lowest = torch.where(lower, losses, self._lowest)
        for kept, value in zip(self._kept, self._values, strict=True):
            chosen = lower.reshape(-1, *(1,) * (value.dim() - 1))
            kept.copy_(torch.where(chosen, value.detach(), kept))

    def state(self) -> dict[str, list[Tensor] | Tensor]:
        """What is kept, for a checkpoint."""
        return {"kept": self._kept, "lowest": self._lowest}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self._kept = [
            kept.to(value.device) for kept, value in zip(state["kept"], self._values, strict=True)
        ]
        self._lowest = state["lowest"]

    def restore(self) -> None:
        """Put the kept values in place; nothing where nobody looked."""
        with torch.no_grad():
            for kept, value in zip(self._kept, self._values, strict=False):
                value.copy_(kept)
