"""Batch norm: statistics of parts of a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from aba_core.methods.base import Method
from aba_core.randomness import Draws
from aba_core.sites import Tail

_BATCH_NORM = nn.modules.batchnorm._BatchNorm


class GhostNorm(nn.Module):
    """A batch norm that sees a training batch in pieces of at least `size` samples, one after the
    other."""

    def __init__(self, norm: nn.Module, size: int) -> None:
        super().__init__()
        self.norm, self.size = norm, size

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.norm(x)
        pieces = x.tensor_split(max(1, x.shape[0] // self.size))
        return torch.cat([self.norm(piece) for piece in pieces])


class SplitNorm(nn.Module):
    """Two batch norms: in training, `norm` for the first half of a batch and `changed` for the
    second; in evaluation `norm` alone."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.changed = norm, copy.deepcopy(norm)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.norm(x)
        first, second = x.tensor_split(2)
        return torch.cat([self.norm(first), self.changed(second)])


@dataclass(frozen=True)
class GhostBatchNorm(Method):
    """Each batch norm takes its statistics from parts of the batch, of `size` samples or some more.

    Source: Hoffer, Hubara and Soudry 2017, "Train longer, generalize better", algorithm 1.
    """

    kind: ClassVar[str] = "ghost-batch-norm"

    size: int = 16

    def __post_init__(self) -> None:
        if not 2 <= self.size <= 10**6:
            raise ValueError(f"size is {self.size!r}; allowed: 2 to 1000000")

    def architecture(self, model: nn.Module) -> nn.Module:
        return norms_replaced(model, partial(GhostNorm, size=self.size), self.kind)

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        samples = draws.index.shape[-1]
        if samples < 2 * self.size:
            raise ValueError(
                f"size is {self.size}; allowed: 2 to {samples // 2}, half the batch of {samples}"
            )
        return h, y

    def fitted(self, model: nn.Module) -> GhostBatchNorm:
        require(model, GhostNorm, self.kind)
        return self


def norms_replaced(
    model: nn.Module, replacement: Callable[[nn.Module], nn.Module], kind: str
) -> nn.Module:
    """The model, in place, with each batch norm inside another module. Raises ValueError where it
    has none."""
    places = [
        (module, name, child)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, _BATCH_NORM)
    ]
    if not places:
        raise ValueError(f"{kind!r} needs a model with batch norm, as with batch_norm: true")
    for module, name, child in places:
        setattr(module, name, replacement(child))
    return model


def require(model: nn.Module, kind_of_norm: type[nn.Module], kind: str) -> None:
    """Raises ValueError for a model that lacks what a method's `architecture` puts in."""
    if not any(isinstance(module, kind_of_norm) for module in model.modules()):
        raise ValueError(
            f"{kind!r} trains another architecture; take model = regularizer.architecture(model)"
        )
