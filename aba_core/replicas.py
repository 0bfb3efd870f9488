"""Replicas: R models of one architecture, stacked and run at once.

The parameters of all replicas are the rows of one matrix [replica, parameter]; an optimiser step
is a few operations on it. The losses of replicas add up without touching one another, so the
gradient of their sum holds each replica's own gradient, and no per-replica loop is needed. On a CPU
one pays all the same where inputs are large: `Replicas.passes`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from aba_core.attribution import Mode
from aba_core.layers import channels_last, for_single, for_stacked

# Models whose batch holds more input elements than this run one after the other on a CPU: one
# operation for all replicas saves its overhead where inputs are small, and costs memory traffic
# where they are large (benchmarks/README.md has the measurement).
STACKED_UP_TO = 10_000
STACKED_FROM = 3  # so many replicas make good what vmap costs


def run_together(elements: int, replicas: int) -> bool:
    """Whether a CPU runs replicas in each operation together. elements: of each one's inputs."""
    return elements <= STACKED_UP_TO and replicas >= STACKED_FROM


@dataclass
class Replicas:
    """R stacked models.

    template: the architecture; its own values are never used.
    parameters: one row a replica. buffers: batch norm's running statistics, leading axis replica.
    together: run all replicas in each operation (vmap), one after the other, or as measured (None).
    """

    template: nn.Module
    parameters: Float[Tensor, "replica parameter"]
    buffers: dict[str, Tensor]
    together: bool | None = None

    def __post_init__(self) -> None:
        self.template.train(self.template.training)  # every module alike
        self._stacked = for_stacked(self.template)
        self._single = for_single(self.template)  # holds one replica's values at a time
        self._slots = _slots(self._single)
        self._views: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    @classmethod
    def stack(cls, models: Sequence[nn.Module], device: str | torch.device = "cpu") -> Replicas:
        """Stack separately initialised models of one architecture.

        Raises ValueError for a model with dropout: its masks would come from a generator's state
        and depend on the replicas beside it.
        """
        for name, module in models[0].named_modules():
            if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
                raise ValueError(
                    f"module {name!r} is {module}; replicas cannot train dropout inside a model, "
                    "set its p to 0"
                )
        parameters, buffers = stack_module_state(list(models))
        flat = torch.cat([value.detach().flatten(1) for value in parameters.values()], dim=1)
        template = copy.deepcopy(models[0]).to(device)
        return cls(template, flat.to(device), {k: v.to(device) for k, v in buffers.items()})

    def __len__(self) -> int:
        return len(self.parameters)

    def named_parameters(self, flat: Float[Tensor, "replica parameter"]) -> dict[str, Tensor]:
        """Rows cut into the architecture's parameters, each with leading axis replica."""
        named = dict(self.template.named_parameters())
        pieces = flat.split([value.numel() for value in named.values()], dim=1)
        return {
            name: piece.reshape(-1, *value.shape)
            for (name, value), piece in zip(named.items(), pieces, strict=True)
        }

    def forward(
        self, flat: Float[Tensor, "replica parameter"], shared_inputs: bool = False
    ) -> Callable[[Tensor], Tensor]:
        """A function from inputs [replica, batch, *feature] to logits [replica, batch, class].

        shared_inputs: inputs are [batch, *feature], the same for all replicas. Batch norm in train
        mode updates the buffers in place.
        """

        def run(x: Tensor) -> Tensor:
            elements = x.numel() if shared_inputs else x.numel() // len(x)
            run = self._together if self._side_by_side(x, elements) else self._one_by_one
            return run(flat, x, shared_inputs)

        return run

    def _side_by_side(self, x: Tensor, elements: int) -> bool:
        """Whether all replicas run in each operation. elements: of x that each replica sees."""
        if self.together is not None:
            return self.together
        return x.device.type != "cpu" or run_together(elements, len(self))

    def passes(
        self, x: Float[Tensor, "replica batch *feature"], differentiable: bool
    ) -> Iterator[tuple[slice, list[Tensor], Callable[[Tensor], Tensor]]]:
        """What to run forward and back at once: which replicas, the tensors that hold their
        parameters (fit for `autograd.grad` where `differentiable`), and their forward function.

        Replicas that run one after the other come singly, so that what one remembers for its way
        back is used while it is still in the cache. They come as a module with their values in it:
        `functional_call` takes as long as a small model's own operations.
        """
        if self._side_by_side(x, x.numel() // len(x)):
            flat = self.parameters.detach().requires_grad_(differentiable)
            yield slice(0, len(x)), [flat], self.forward(flat)
            return
        for replica in range(len(x)):
            parameters, buffers = self._values(replica)
            for value, slots in zip(parameters + buffers, self._slots, strict=True):
                for module_values, name in slots:
                    module_values[name] = value
            for value in parameters:
                value.requires_grad_(differentiable)
            yield slice(replica, replica + 1), parameters, self._single_forward

    def _values(self, replica: int) -> tuple[list[Tensor], list[Tensor]]:
        """Views of one replica's parameters and buffers, made once."""
        if replica not in self._views:
            row = self.parameters.detach()[replica : replica + 1]
            self._views[replica] = (
                [value[0] for value in self.named_parameters(row).values()],
                [buffer[replica] for buffer in self.buffers.values()],
            )
        return self._views[replica]

    def _single_forward(self, x: Float[Tensor, "1 batch *feature"]) -> Tensor:
        return self._single(channels_last(x[0]))[None]

    def _together(self, flat: Tensor, x: Tensor, shared_inputs: bool) -> Tensor:
        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self._stacked, (parameters, buffers), (x,))

        stacked = vmap(one, in_dims=(0, 0, None if shared_inputs else 0))
        return stacked(self.named_parameters(flat), self.buffers, x)

    def _one_by_one(self, flat: Tensor, x: Tensor, shared_inputs: bool) -> Tensor:
        logits = []
        for replica, row in enumerate(flat.split(1)):
            values = {
                name: channels_last(value[0]) for name, value in self.named_parameters(row).items()
            }
            values |= {name: buffer[replica] for name, buffer in self.buffers.items()}
            inputs = channels_last(x if shared_inputs else x[replica])
            logits.append(functional_call(self.template, values, (inputs,)))
        return torch.stack(logits)

    @contextmanager
    def mode(self, training: bool) -> Iterator[None]:
        """Batch norm as in training or as in evaluation, inside the block."""
        before = self.template.training
        self._train(training)
        try:
            yield
        finally:
            self._train(before)

    def _train(self, training: bool) -> None:
        for module in (self.template, self._stacked, self._single):
            if module.training != training:  # to walk through a model takes a while
                module.train(training)

    @contextmanager
    def undisturbed(self, mode: Mode, update_statistics: bool = False) -> Iterator[Replicas]:
        """The replicas in eval or train mode, whose passes leave running statistics as they are
        unless asked otherwise."""
        quiet = mode == "train" and not update_statistics
        with self.mode(mode == "train"):
            yield self.still() if quiet else copy.copy(self)

    def still(self) -> Replicas:
        """The same replicas, whose passes leave running statistics as they are."""
        still = copy.copy(self)
        still.buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}
        still._views = {}
        return still

    def moved(self, parameters: Float[Tensor, "replica parameter"]) -> Replicas:
        """The same replicas at other parameters; their passes move no running statistics."""
        moved = self.still()
        moved.parameters = parameters.detach()
        return moved

    def copy(self) -> Replicas:
        """The same replicas with values of their own."""
        return Replicas(
            copy.deepcopy(self.template),
            self.parameters.detach().clone(),
            {name: buffer.clone() for name, buffer in self.buffers.items()},
            self.together,
        )

    def model(self, replica: int) -> nn.Module:
        """One replica as an ordinary module with its own copy of the values, in eval mode."""
        module = copy.deepcopy(self.template)
        with torch.no_grad():
            named = self.named_parameters(self.parameters[replica : replica + 1])
            for name, value in module.named_parameters():
                value.copy_(named[name][0])
            for name, buffer in module.named_buffers():
                buffer.copy_(self.buffers[name][replica])
        return module.eval()


def _slots(model: nn.Module) -> list[list[tuple[dict[str, Any], str]]]:
    """Where a model keeps each of its parameters, then each of its buffers: one that is shared
    lies in several places."""
    places: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for module in model.modules():
        for values in (module._parameters, module._buffers):
            for name, value in values.items():
                if value is not None:
                    places.setdefault(id(value), []).append((values, name))
    return [places[id(value)] for value in (*model.parameters(), *model.buffers())]
