"""Replicas: R models of one architecture, stacked and run at once.

The parameters of all replicas are the rows of one matrix [replica, parameter]; an optimiser step
is a few operations on it. The losses of replicas add up without touching one another, so the
gradient of their sum holds each replica's own gradient, and no per-replica loop is needed. On a CPU
one pays all the same where inputs are large: `Replicas.passes`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from aba_core.architecture import duplicate, frozen_parameters, trained_parameters
from aba_core.attribution import Loss, Mode, cross_entropy
from aba_core.chain import Chain
from aba_core.dropout import SEED, STEP, Masks, counted, generator_seed, generators
from aba_core.kernels.near import Near
from aba_core.layers import channels_last, for_single, for_stacked, fused
from aba_core.making import Differentiated

# Models whose batch holds more input elements than this run one after the other on a CPU: one
# operation for all replicas saves its overhead where inputs are small, and costs memory traffic
# where they are large (benchmarks/README.md has the measurement).
STACKED_UP_TO = 10_000
STACKED_FROM = 3  # so many replicas make good what vmap costs
# A chain of fused blocks goes through its inputs picture by picture: stacking costs it no traffic
# until activations leave the cache. Those of texts never do.
CHAINED_UP_TO = 200_000


def run_together(elements: int, replicas: int) -> bool:
    """Whether a CPU runs replicas in each operation together. elements: of each one's inputs."""
    return elements <= STACKED_UP_TO and replicas >= STACKED_FROM


@dataclass(frozen=True)
class Habits:
    """What a model does besides mapping inputs to outputs; `probing` finds out.

    draws: from PyTorch's generator. changes_inputs: in place. replaces_buffers: assigns new tensors
    in place of filling those there are. moves_in_eval: changes buffers in eval mode. attends: by
    attention, whose fused operations `vmap` has no rule for.
    recomputes: calls dropout again on the way back (checkpointing), so that its dropout stays
    PyTorch's.
    """

    draws: bool = False
    changes_inputs: bool = False
    replaces_buffers: bool = False
    moves_in_eval: bool = False
    attends: bool = False
    recomputes: bool = False


@dataclass
class Replicas:
    """R stacked models.

    template: the architecture; its own values are never used.
    parameters: one row a replica, of what is trained. buffers: what is not, leading axis replica:
    buffers such as running statistics, and frozen parameters.
    together: run all replicas in each operation (vmap), one after the other, or as measured (None).
    masks: seed and step of each replica's dropout, [replica]. habits: of the architecture.
    """

    template: nn.Module
    parameters: Float[Tensor, "replica parameter"]
    buffers: dict[str, Tensor]
    together: bool | None = None
    masks: dict[str, Tensor] = field(default_factory=dict)
    habits: Habits = Habits()

    def __post_init__(self) -> None:
        self.template.train(self.template.training)  # every module alike
        self.trained = {name: v.shape for name, v in trained_parameters(self.template).items()}
        self._sizes = [shape.numel() for shape in self.trained.values()]
        self._stacked = for_stacked(self.template)
        self._single = for_single(self.template)  # holds one replica's values at a time
        self._whole = fused(self.template)  # for `functional_call`, one replica at a time
        self.frozen = frozenset(frozen_parameters(self.template))
        if not self.masks:
            zeros = torch.zeros(len(self), dtype=torch.int64, device=self.parameters.device)
            self.masks = {SEED: zeros, STEP: zeros.clone()}
        self._drops: list[Masks] = []
        if not self.habits.recomputes and any(map(counted, self.template.modules())):
            if self._whole is self.template:
                self._whole = copy.deepcopy(self.template)
            self._drops = [Masks(model) for model in (self._stacked, self._single, self._whole)]
        models = (self.template, self._stacked, self._single, self._whole)
        self._parts = [(model, _alike(model)) for model in models]
        self._plain = not self._drops and self.habits == Habits()
        self._chain = Chain(self.template) if self._plain else None
        self.near = Near()  # what one pass leaves for another; tells by itself whether it holds
        held = [*self.trained, *self.buffers, *(self.masks if self._drops else ())]
        self._slots = _slots(self._single, held)
        self._views: dict[int, list[Tensor]] = {}
        self._pieces: tuple[int, dict[str, Tensor]] | None = None
        self._remade: dict[Any, tuple[str, Replicas]] = {}

    @classmethod
    def stack(
        cls,
        models: Sequence[nn.Module],
        device: str | torch.device = "cpu",
        dropout_seeds: Sequence[int] | None = None,
    ) -> Replicas:
        """Stack separately initialised models of one architecture.

        dropout_seeds: one a replica (default: 0), see `dropout`. Raises ValueError for a model that
        cannot be copied or has nothing to train.
        """
        template = duplicate(models[0]).to(device)
        trained = trained_parameters(template)
        if not trained:
            raise ValueError(
                f"the model {type(template).__name__} has no parameter to train; needed: at least "
                "one with requires_grad"
            )
        parameters, buffers = stack_module_state(list(models))
        flat = torch.cat([parameters.pop(name).detach().flatten(1) for name in trained], dim=1)
        fixed = buffers | {name: value.detach() for name, value in parameters.items()}
        seeds = torch.tensor(list(dropout_seeds or [0] * len(models)), device=device)
        return cls(
            template,
            flat.to(device),
            {name: value.to(device) for name, value in fixed.items()},
            masks={SEED: seeds, STEP: torch.zeros_like(seeds)},
        )

    def __len__(self) -> int:
        return len(self.parameters)

    def begin(self, step: int | Tensor) -> None:
        """Which training step's masks the passes from now on draw. A tensor is never asked for its
        value, so that a GPU can record this."""
        if self._drops or self.habits.draws:
            self.masks[STEP].copy_(torch.as_tensor(step))

    def named_parameters(self, flat: Float[Tensor, "replica parameter"]) -> dict[str, Tensor]:
        """Rows cut into what the architecture trains, each with leading axis replica."""
        pieces = flat.split(self._sizes, dim=1)
        return {
            name: piece.reshape(-1, *shape)
            for (name, shape), piece in zip(self.trained.items(), pieces, strict=True)
        }

    def _cut(self, flat: Float[Tensor, "replica parameter"]) -> dict[str, Tensor]:
        """`named_parameters` where nothing is differentiated: the replicas' own are cut once."""
        own = self.parameters
        if torch.is_grad_enabled() or flat.data_ptr() != own.data_ptr() or flat.shape != own.shape:
            return self.named_parameters(flat)
        if self._pieces is None or self._pieces[0] != own.data_ptr():
            self._pieces = own.data_ptr(), self.named_parameters(own.detach())
        return self._pieces[1]

    def forward(
        self, flat: Float[Tensor, "replica parameter"], shared_inputs: bool = False
    ) -> Callable[[Tensor], Tensor]:
        """A function from inputs [replica, batch, *feature] to logits [replica, batch, class].

        shared_inputs: inputs are [batch, *feature], the same for all replicas. Batch norm in train
        mode updates the buffers in place.
        """

        def run(x: Tensor) -> Tensor:
            together = self._side_by_side(x, x.shape if shared_inputs else x.shape[1:])
            return (self._together if together else self._one_by_one)(flat, x, shared_inputs)

        return run

    def _side_by_side(self, x: Tensor, shape: torch.Size) -> bool:
        """Whether all replicas run in each operation. shape: of what each replica sees of x."""
        if self.together is not None:
            return self.together
        if x.device.type != "cpu" or run_together(shape.numel(), len(self)):
            return True
        return (
            self._chain is not None
            and (shape.numel() <= CHAINED_UP_TO or self._chain.reads)
            and self._chain.ready(self.parameters.dtype)
            and self._chain.takes((len(self), *shape))
        )

    def passes(
        self, x: Float[Tensor, "replica batch *feature"], differentiable: bool
    ) -> Iterator[tuple[slice, list[Tensor], Callable[[Tensor], Tensor]]]:
        """What to run forward and back at once: which replicas, the tensors that hold their
        parameters (fit for `autograd.grad` where `differentiable`), and their forward function.

        Replicas that run one after the other come singly, so that what one remembers for its way
        back is used while it is still in the cache. They come as a module with their values in it:
        `functional_call` takes as long as a small model's own operations.
        """
        if self._side_by_side(x, x.shape[1:]):
            flat = self.parameters.detach().requires_grad_(differentiable)
            yield slice(0, len(x)), [flat], Pass(self, flat)
            return
        for replica in range(len(x)):
            values = self._values(replica)
            for value, slots in zip(values, self._slots, strict=True):
                for module_values, name in slots:
                    module_values[name] = value
            parameters = values[: len(self.trained)]
            for value in parameters:
                value.requires_grad_(differentiable)
            yield slice(replica, replica + 1), parameters, partial(self._single_forward, replica)

    def _values(self, replica: int) -> list[Tensor]:
        """Views of one replica's parameters, buffers and masks, made once."""
        if replica not in self._views:
            row = self.parameters.detach()[replica : replica + 1]
            held = [*self.buffers.values(), *(self.masks.values() if self._drops else ())]
            self._views[replica] = [
                *(value[0] for value in self.named_parameters(row).values()),
                *(value[replica] for value in held),
            ]
        return self._views[replica]

    def _single_forward(self, replica: int, x: Float[Tensor, "1 batch *feature"]) -> Tensor:
        if self._plain:
            return self._single(channels_last(x[0]))[None]
        with self._as_habits_ask(replica):
            logits = self._single(self._input(channels_last(x[0])))[None]
        if self.habits.replaces_buffers:
            with torch.no_grad():
                for value, slots in zip(self._values(replica), self._slots, strict=True):
                    for module_values, name in slots:
                        if module_values[name] is not value:
                            value.copy_(module_values[name])
                            module_values[name] = value
        return logits

    def _input(self, x: Tensor) -> Tensor:
        return x.clone() if self.habits.changes_inputs else x

    @contextmanager
    def _as_habits_ask(self, replica: int) -> Iterator[None]:
        """One replica's pass: its masks from the first, and generators of its own where it draws
        from them."""
        for masks in self._drops:
            masks.restart()
        if not self.habits.draws:
            yield
            return
        seed = generator_seed(self.masks[SEED][replica], self.masks[STEP][replica])
        with generators(seed, self.parameters.device):
            yield

    def _together(self, flat: Tensor, x: Tensor, shared_inputs: bool) -> Tensor:
        def one(values: tuple[dict[str, Tensor], ...], x: Tensor) -> Tensor:
            return functional_call(self._stacked, values, (self._input(x),))

        if self._chain is not None:
            inputs = x.expand(len(self), *x.shape) if shared_inputs else x
            logits = self._chain(flat, inputs, self._cut, self.buffers, self.near)
            if logits is not None:
                return logits
        for masks in self._drops:
            masks.restart()
        if shared_inputs and self.habits.changes_inputs:
            x, shared_inputs = x.expand(len(self), *x.shape), False
        values = (self.named_parameters(flat), self.buffers, self.masks if self._drops else {})
        with plain_attention() if self.habits.attends else nullcontext():
            return vmap(one, in_dims=(0, None if shared_inputs else 0))(values, x)

    def _one_by_one(self, flat: Tensor, x: Tensor, shared_inputs: bool) -> Tensor:
        logits = []
        fixed = self.buffers | (self.masks if self._drops else {})
        for replica, row in enumerate(flat.split(1)):
            values = {
                name: channels_last(value[0]) for name, value in self.named_parameters(row).items()
            }
            values |= {name: value[replica] for name, value in fixed.items()}
            inputs = self._input(channels_last(x if shared_inputs else x[replica]))
            with self._as_habits_ask(replica):
                logits.append(functional_call(self._whole, values, (inputs,)))
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
        for module, parts in self._parts:
            if module.training == training:
                continue
            if parts is None:
                module.train(training)
            else:  # to walk through a model takes a while
                for part in parts:
                    part.__dict__["training"] = training

    @contextmanager
    def undisturbed(self, mode: Mode, update_statistics: bool = False) -> Iterator[Replicas]:
        """The replicas in eval or train mode, whose passes leave running statistics as they are
        unless asked otherwise."""
        quiet = self.habits.moves_in_eval or (mode == "train" and not update_statistics)
        with self.mode(mode == "train"):
            yield self.quieted() if quiet else self._alias()

    def _alias(self) -> Replicas:
        """As `copy.copy`, in a fifth of its time: each map asks for one."""
        alias = object.__new__(type(self))
        alias.__dict__.update(self.__dict__)
        return alias

    def quieted(self) -> Replicas:
        """The same replicas, whose passes leave running statistics as they are."""
        quiet = copy.copy(self)
        quiet.buffers = {
            name: buffer if name in self.frozen else buffer.clone()
            for name, buffer in self.buffers.items()
        }
        quiet._views = {}
        return quiet

    def moved(self, parameters: Float[Tensor, "replica parameter"]) -> Replicas:
        """The same replicas at other parameters; their passes move no running statistics."""
        moved = self.quieted()
        moved.parameters = parameters.detach()
        return moved

    def remade(
        self, how: Any, remake: Callable[[nn.Module, Any], nn.Module], rows: slice = slice(None)
    ) -> Replicas:
        """Some of the replicas by another architecture, remake(architecture, how), with the same
        parameters in the same order, in the present mode. It is made once for each `how`."""
        if how not in self._remade:
            model = remake(copy.deepcopy(self.template), how)
            same = next(iter(trained_parameters(model))) in self.trained
            prefix = "" if same else "model."  # a part holds the whole model under this name
            buffers = {prefix + name: buffer for name, buffer in self.buffers.items()}
            made = Replicas(model, self.parameters, buffers, self.together, self.masks, self.habits)
            self._remade[how] = prefix, made
        prefix, made = self._remade[how]
        made = copy.copy(made)
        made.parameters = self.parameters.detach()[rows]
        made.buffers = {prefix + name: buffer[rows] for name, buffer in self.buffers.items()}
        made.masks = {name: mask[rows] for name, mask in self.masks.items()}
        made._views = {}
        made._train(self.template.training)
        return made

    def copy(self) -> Replicas:
        """The same replicas with values of their own."""
        return Replicas(
            copy.deepcopy(self.template),
            self.parameters.detach().clone(),
            {name: buffer.clone() for name, buffer in self.buffers.items()},
            self.together,
            self.masks,  # the same step
            self.habits,
        )

    def model(self, replica: int) -> nn.Module:
        """One replica as an ordinary module with its own copy of the values, in eval mode."""
        module = copy.deepcopy(self.template)
        with torch.no_grad():
            row = self.named_parameters(self.parameters[replica : replica + 1])
            values = {name: value[0] for name, value in row.items()}
            values |= {name: value[replica] for name, value in self.buffers.items()}
            for name, value in (*module.named_parameters(), *module.named_buffers()):
                value.copy_(values[name])
        return module.eval()


@dataclass(frozen=True)
class Pass(Differentiated):
    """All replicas' forward function at these parameters, [replica, batch, *feature] to logits. A
    chain knows its way back as well."""

    replicas: Replicas
    flat: Float[Tensor, "replica parameter"]

    def __call__(self, x: Float[Tensor, "replica batch *feature"]) -> Tensor:
        return self.replicas.forward(self.flat)(x)

    def slopes(
        self,
        x: Float[Tensor, "replica batch *feature"],
        labels: Tensor,
        loss: Loss,
        divisor: int = 1,
        asked: tuple[bool, bool] = (False, True),
        to_x: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None] | None:
        chain, near = self.replicas._chain, self.replicas.near
        if chain is None or loss is not cross_entropy:
            return None
        return chain.slopes(self.flat, x, labels, divisor, asked, to_x, near)


def observed(
    model: nn.Module,
    observe: Callable[[int, int, Replicas], None],
    step: int,
    steps: int,
    shown: nn.Module | None = None,
) -> None:
    """Show one model on its way as a replica; parameters that `observe` changes there, it changes
    too. shown: a copy of the model to show in its place."""
    replicas = Replicas.stack([shown or model], next(model.parameters()).device)
    before = replicas.parameters.clone()
    observe(step, steps, replicas)
    if torch.equal(before, replicas.parameters):
        return
    with torch.no_grad():
        for name, value in replicas.named_parameters(replicas.parameters).items():
            model.get_parameter(name).copy_(value[0])


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention by products and softmax, in place of fused operations: those neither run under
    vmap nor can be differentiated twice."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _alike(model: nn.Module) -> list[nn.Module] | None:
    """All modules of a model, if to change its mode is to change theirs and nothing else."""
    modules = list(model.modules())
    usual = all(type(m).train is nn.Module.train and "train" not in vars(m) for m in modules)
    return modules if usual else None


def _slots(model: nn.Module, names: Sequence[str]) -> list[list[tuple[dict[str, Any], str]]]:
    """Where a model keeps each of these parameters and buffers: one that is shared lies in several
    places."""
    places: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for module in model.modules():
        for values in (module._parameters, module._buffers):
            for name, value in values.items():
                if value is not None:
                    places.setdefault(id(value), []).append((values, name))
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return [places[id(tensors[name])] for name in names]
