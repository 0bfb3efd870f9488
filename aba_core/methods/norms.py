"""Batch norm: statistics of parts of a batch, of groups of channels, and of the example itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

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


class GroupedNorm(nn.Module):
    """A batch norm whose statistics are those of `size` neighbouring channels together, over the
    batch and all places; γ and β are each channel's own."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: Any, size: int) -> None:
        super().__init__()
        check_whole(norm, "batch-group-norm")
        channels = norm.num_features
        if channels % size:
            raise ValueError(f"size is {size}; allowed: divisors of {channels} channels")
        self.weight, self.bias = norm.weight, norm.bias
        self.size, self.eps, self.momentum = size, norm.eps, norm.momentum
        start = norm.running_mean
        self.register_buffer("running_mean", start.new_zeros(channels // size))
        self.register_buffer("running_var", start.new_ones(channels // size))

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.reshape(x.shape[0], x.shape[1] // self.size, -1)
        statistics = self.running_mean, self.running_var
        out = functional.batch_norm(
            grouped, *statistics, training=self.training, momentum=self.momentum, eps=self.eps
        ).reshape(x.shape)
        over = (-1, *(1,) * (x.dim() - 2))
        return out * self.weight.reshape(over) + self.bias.reshape(over)


class WeighedNorm(nn.Module):
    """A batch norm that in evaluation takes a share `alpha` of the example's own statistics and the
    rest of the moving ones: μ = α E[x] + (1 − α) m, σ² = α E[x²] + (1 − α) m₂ − μ², with m₂ the
    moving mean of x²."""

    mean_square: Tensor

    def __init__(self, norm: Any, alpha: float) -> None:
        super().__init__()
        self.norm, self.alpha = norm, alpha
        check_whole(norm, "example-weighing")
        self.register_buffer("mean_square", torch.ones_like(norm.running_mean))

    def forward(self, x: Tensor) -> Tensor:
        norm: Any = self.norm
        places = tuple(range(2, x.dim()))
        if self.training:
            with torch.no_grad():
                now = (x * x).mean((0, *places))
                self.mean_square.mul_(1 - norm.momentum).add_(norm.momentum * now)
            return norm(x)
        over = (-1, *(1,) * len(places))
        first, second = x, x * x
        if places:
            first, second = first.mean(places, keepdim=True), second.mean(places, keepdim=True)
        moving = norm.running_mean.reshape(over), self.mean_square.reshape(over)
        mean = self.alpha * first + (1 - self.alpha) * moving[0]
        square = self.alpha * second + (1 - self.alpha) * moving[1]
        variance = (square - mean * mean).clamp(min=0)
        scaled = (x - mean) / torch.sqrt(variance + norm.eps)
        return scaled * norm.weight.reshape(over) + norm.bias.reshape(over)


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


@dataclass(frozen=True)
class BatchGroupNorm(Method):
    """Each batch norm takes its statistics over groups of `size` neighbouring channels, as group
    norm does, and over the batch; it keeps moving statistics for evaluation.

    Source: Summers and Dinneen 2020, "Four things everyone should know to improve batch
    normalization", section 3.4.
    """

    kind: ClassVar[str] = "batch-group-norm"

    size: int = 2

    def __post_init__(self) -> None:
        if not 2 <= self.size <= 10**6:
            raise ValueError(f"size is {self.size!r}; allowed: 2 to 1000000")

    def architecture(self, model: nn.Module) -> nn.Module:
        return norms_replaced(model, partial(GroupedNorm, size=self.size), self.kind)

    def fitted(self, model: nn.Module) -> BatchGroupNorm:
        require(model, GroupedNorm, self.kind)
        return self


@dataclass(frozen=True)
class ExampleWeighing(Method):
    """Inference example weighing: in evaluation each batch norm mixes the example's own statistics,
    a share `alpha`, with the moving ones. Training is as usual, and so are alpha 0's predictions
    but for the moving mean of x² in place of the variance.

    Maps in eval mode are made with it. Source: Summers and Dinneen 2020, "Four things everyone
    should know to improve batch normalization", section 3.1; they choose alpha on validation.
    """

    kind: ClassVar[str] = "example-weighing"

    alpha: float = 0.1

    def __post_init__(self) -> None:
        self.check(alpha=(0.0, 1.0))

    @classmethod
    def per_replica(cls) -> tuple[str, ...]:
        return ()  # it is a part of the architecture

    def architecture(self, model: nn.Module) -> nn.Module:
        return norms_replaced(model, partial(WeighedNorm, alpha=self.alpha), self.kind)

    def fitted(self, model: nn.Module) -> ExampleWeighing:
        require(model, WeighedNorm, self.kind)
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


def check_whole(norm: Any, kind: str) -> None:
    """Raises ValueError for a batch norm without moving statistics, momentum, or γ and β."""
    if norm.running_mean is None or norm.momentum is None or norm.weight is None:
        raise ValueError(
            f"{kind!r} got {norm}; needed: track_running_stats=True, affine=True and a momentum"
        )


def require(model: nn.Module, kind_of_norm: type[nn.Module], kind: str) -> None:
    """Raises ValueError for a model that lacks what a method's `architecture` puts in."""
    if not any(isinstance(module, kind_of_norm) for module in model.modules()):
        raise ValueError(
            f"{kind!r} trains another architecture; take model = regularizer.architecture(model)"
        )
