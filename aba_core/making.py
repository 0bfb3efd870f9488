"""What makes a map beside the forward pass: the architecture itself, rewritten or cut in two.

One interface, for an ordinary module and for stacked replicas. `Objective` asks it.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from aba_core.cutting import From, halves
from aba_core.rewriting import Transform

if TYPE_CHECKING:
    from aba_core.replicas import Replicas

Forward = Callable[[Tensor], Tensor]
Pack = Callable[
    [Tensor], Tensor
]  # what a part of a model takes in, from the activations attributed


class Differentiated(ABC):
    """Inputs to logits by a function that may know its way back without autograd."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Logits of a batch, [*lead, class] from [*lead, *feature]."""

    @abstractmethod
    def slopes(
        self,
        x: Tensor,
        labels: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
        divisor: int = 1,
        asked: tuple[bool, bool] = (False, True),
        to_x: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None] | None:
        """Each sample's loss, and the gradients of their sum over `divisor` to parameters and
        inputs, each where it is asked for. to_x: where the last is written, in one piece (default:
        a new tensor). None where autograd must make them."""


class Maker(Protocol):
    """The model that a map is made with."""

    architecture: nn.Module

    def rewritten(self, transform: Transform) -> Forward:
        """Inputs to logits by the rewritten model."""
        ...

    def halves(self, layer: str) -> tuple[Forward, Callable[[Tensor, Tensor], Tensor]]:
        """Inputs to the layer's output; inputs and that output to logits."""
        ...

    def modules(self, x: Tensor) -> list[nn.Module]:
        """Each replica as an ordinary module with values of its own. x: what is attributed.
        ValueError at a layer whose rest needs the input as well."""
        ...


def _same(x: Tensor) -> Tensor:
    return x


def sharing(model: nn.Module) -> nn.Module:
    """A copy of the architecture with the model's own parameters and buffers."""
    tensors = [
        value
        for module in model.modules()
        for value in (*module._parameters.values(), *module._buffers.values())
        if value is not None
    ]
    return copy.deepcopy(model, {id(value): value for value in tensors})


def _check_whole(pack: Pack, x: Tensor) -> None:
    if pack(x).shape != x.shape:
        raise ValueError("this map is made of whole models; needed: site: input")


def _packed(x: Tensor, h: Tensor, lead: int) -> Tensor:
    return torch.cat([x.flatten(lead), h.flatten(lead)], dim=lead)


class ModuleMaker:
    """An ordinary module. pack: what it takes in, from what is attributed."""

    def __init__(self, model: nn.Module, pack: Pack = _same) -> None:
        self.architecture, self._pack = model, pack

    def rewritten(self, transform: Transform) -> Forward:
        model = sharing(self.architecture)
        transform(model)
        return lambda x: model(self._pack(x))

    def halves(self, layer: str) -> tuple[Forward, Callable[[Tensor, Tensor], Tensor]]:
        head, rest, again = halves(self.architecture, layer)

        def logits(x: Tensor, h: Tensor) -> Tensor:
            if not isinstance(rest, From):
                return rest(h)
            x = self._pack(x)
            rest.shapes = x.shape[1:], h.shape[1:]
            return rest(_packed(x, h, 1))

        return lambda x: head(self._pack(x)), logits

    def modules(self, x: Tensor) -> list[nn.Module]:
        _check_whole(self._pack, x)
        return [copy.deepcopy(self.architecture)]


class ReplicasMaker:
    """Some replicas of a stack. pack: what they take in, from what is attributed."""

    def __init__(self, replicas: Replicas, rows: slice = slice(None), pack: Pack = _same) -> None:
        self.architecture = replicas.template
        self._replicas, self._rows, self._pack = replicas, rows, pack

    def rewritten(self, transform: Transform) -> Forward:
        made = self._replicas.remade(transform, _transformed, self._rows)
        forward = made.forward(made.parameters)
        return lambda x: forward(self._pack(x))

    def halves(self, layer: str) -> tuple[Forward, Callable[[Tensor, Tensor], Tensor]]:
        first = self._replicas.remade((layer, False), _half, self._rows)
        second = self._replicas.remade((layer, True), _half, self._rows)
        head, rest = first.forward(first.parameters), second.forward(second.parameters)

        def logits(x: Tensor, h: Tensor) -> Tensor:
            if not isinstance(second.template, From):
                return rest(h)
            x = self._pack(x)
            for model in (second.template, second._stacked, second._single, second._whole):
                model.shapes = x.shape[2:], h.shape[2:]  # type: ignore[assignment]
            return rest(_packed(x, h, 2))

        return lambda x: head(self._pack(x)), logits

    def modules(self, x: Tensor) -> list[nn.Module]:
        _check_whole(self._pack, x)
        rows = range(len(self._replicas))[self._rows]
        return [self._replicas.model(row) for row in rows]


def _transformed(model: nn.Module, transform: Transform) -> nn.Module:
    transform(model)
    return model


def _half(model: nn.Module, which: tuple[str, bool]) -> nn.Module:
    layer, after = which
    head, rest, _ = halves(model, layer)
    return rest if after else head
