"""Replicas: R models of one architecture, stacked and run at once.

The parameters of all replicas are the rows of one matrix [replica, parameter]; an optimiser step
is a few operations on it. The losses of replicas add up without touching one another, so the
gradient of their sum holds each replica's own gradient, and no per-replica loop is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from aba_core.attribution import Mode


@dataclass
class Replicas:
    """R stacked models.

    template: the architecture; its own values are never used.
    parameters: one row a replica. buffers: batch norm's running statistics, leading axis replica.
    """

    template: nn.Module
    parameters: Float[Tensor, "replica parameter"]
    buffers: dict[str, Tensor]

    @classmethod
    def stack(cls, models: Sequence[nn.Module], device: str | torch.device = "cpu") -> Replicas:
        """Stack separately initialised models of one architecture."""
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
        self,
        flat: Float[Tensor, "replica parameter"],
        buffers: dict[str, Tensor] | None = None,
        shared_inputs: bool = False,
    ) -> Callable[[Tensor], Tensor]:
        """A function from inputs [replica, batch, *feature] to logits [replica, batch, class].

        shared_inputs: inputs are [batch, *feature], the same for all replicas. Batch norm in train
        mode updates `buffers` (default: the replicas' own) in place.
        """
        named = self.named_parameters(flat)
        state = self.buffers if buffers is None else buffers

        def one(parameters: dict[str, Tensor], buffer: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self.template, (parameters, buffer), (x,))

        stacked = vmap(one, in_dims=(0, 0, None if shared_inputs else 0))
        return lambda x: stacked(named, state, x)

    @contextmanager
    def mode(self, training: bool) -> Iterator[None]:
        """Batch norm and dropout as in training or as in evaluation, inside the block."""
        before = self.template.training
        self.template.train(training)
        try:
            yield
        finally:
            self.template.train(before)

    @contextmanager
    def undisturbed(
        self, mode: Mode, update_statistics: bool = False
    ) -> Iterator[Callable[[Tensor], Tensor]]:
        """A forward function in eval or train mode that leaves parameters without gradients and,
        unless asked otherwise, running statistics as they are."""
        kept = mode == "train" and not update_statistics
        buffers = {name: b.clone() for name, b in self.buffers.items()} if kept else None
        with self.mode(mode == "train"):
            yield self.forward(self.parameters.detach(), buffers)

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
