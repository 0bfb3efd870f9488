"""One optimiser step of one model: draws → method → gradient → optimiser, in parts and over ranks.

A method without a hook of its own for gradients, and that acts on inputs, costs what its hooks
cost: the backward pass goes straight into `.grad`. The others go through one flat vector of all
parameters, as in the replica engine.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from aba_core.arms import TrainConfig
from aba_core.attribution import Loss, undisturbed
from aba_core.dropout import SEED, STEP, Masks, counted, generator_seed
from aba_core.methods.base import Method, has_own
from aba_core.methods.loop import _fill, _pieces
from aba_core.randomness import Draws
from aba_core.single.ranks import Ranks
from aba_core.sites import INPUT, SingleSite
from aba_core.steps import products_in
from aba_core.trainers import Single


@dataclass
class Trained:
    """What is trained. seeds: one number a purpose. rate: the learning rate. samples: to train on;
    outputs: of the model."""

    config: TrainConfig
    model: nn.Module
    method: Method | None
    loss: Loss
    outputs: int
    samples: int
    seeds: dict[str, int]
    rate: float
    device: str
    ranks: Ranks = field(default_factory=Ranks)
    untrained: nn.Module | None = None


class SingleStep:
    """A step of one model, in place; call it with a step's number and this rank's samples.

    saved: passes of a batch through the model that this rank's samples without need of a map saved
    so far.
    """

    def __init__(self, what: Trained) -> None:
        self.what, self.model = what, what.model
        self.trainer = what.config.single or Single()
        self.method = what.method.fitted(self.model) if what.method else Method()
        self.parameters = [value for value in self.model.parameters() if value.requires_grad]
        self.steps = what.config.steps(what.samples)
        dropouts = any(counted(module) for module in self.model.modules())
        self.masks = Masks(self.model) if dropouts else None
        if self.masks is not None:
            self.model.get_buffer(SEED).fill_(what.seeds["dropout"] + what.ranks.rank)
        self.optimizer = _optimizer(what.config, self.parameters, what.rate)
        device = what.device
        self._seeds = {name: torch.tensor(seed, device=device) for name, seed in what.seeds.items()}
        self._dropout = torch.tensor(what.seeds["dropout"] + what.ranks.rank)
        self._sites: dict[str, SingleSite] = {}
        self._flat = has_own(self.method, "gradient") or self.method.places() != (INPUT,)
        self._gathers = what.ranks.count > 1 and mixes(self.method)
        self._forward = self._wrapped()
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        self.average = _Average(self.model, self.trainer.ema) if self.trainer.ema else None

    def _wrapped(self) -> Any:
        """The training pass: compiled where asked for, its gradients summed over ranks."""
        forward: Any = self.model
        if self.what.ranks.count > 1 and not self._flat:
            on = [torch.cuda.current_device()] if self.what.device.startswith("cuda") else None
            with warnings.catch_warnings():  # the option's new name is younger than our PyTorch
                warnings.simplefilter("ignore", FutureWarning)
                forward = nn.parallel.DistributedDataParallel(
                    self.model, device_ids=on, broadcast_buffers=False
                )
        return torch.compile(forward) if self.trainer.compile else forward

    def site(self, place: str) -> SingleSite:
        """The model cut at a place, made once."""
        if place not in self._sites:
            what = self.what
            self._sites[place] = SingleSite(
                self.model, place, what.loss, what.outputs, what.untrained
            )
        return self._sites[place]

    @property
    def saved(self) -> float:
        """See the class."""
        saved = sum(site.tail.saved for site in self._sites.values())
        return saved / self.what.config.batch_size

    def __call__(self, number: int, x: Tensor, y: Tensor, rows: Tensor) -> Float[Tensor, ""]:
        """The mean loss of the whole batch. x, y, rows: this rank's slice of it."""
        what, ranks = self.what, self.what.ranks
        # Here and not after the step: memory that is freed last is given back to the system, which
        # takes as long as to ask for it again.
        self.optimizer.zero_grad(set_to_none=True)
        method = self.method.acting(number, self.steps)
        batch = what.config.batch_size
        share = ranks.slice(batch)
        place = torch.arange(share.start, share.stop, device=x.device)
        draws = Draws(self._seeds, number, place, steps=self.steps, rows=rows)
        if self.masks is not None:
            self.model.get_buffer(STEP).fill_(number)
        x = x.to(self.parameters[0].dtype)
        for group in self.optimizer.param_groups:
            group["lr"] = what.rate * what.config.learning_rate_factor(number, self.steps)
        with products_in(what.config.precision, torch.device(what.device)):
            run = self._through_vector if self._flat else self._straight
            loss = run(method, number, x, y, draws)
        ranks.sum(loss)
        self.finite &= torch.isfinite(loss)
        for value in self.parameters:
            if value.grad is None:  # without influence is gradient 0: weight decay acts on it
                value.grad = torch.zeros_like(value)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(number)
        return loss

    def _begin(self, number: int) -> None:
        """The same masks and draws for each pass through the model in one step."""
        if self.masks is not None:
            self.masks.restart()
        step = torch.tensor(number)
        torch.default_generator.manual_seed(generator_seed(self._dropout, step))
        if self.what.device.startswith("cuda"):
            torch.cuda.manual_seed(generator_seed(self._dropout, step))

    def _parts(self, size: int) -> Iterator[tuple[slice, float]]:
        """Each part of this rank's samples, and its share of the whole batch."""
        parts = min(self.trainer.accumulate, size)
        for part in range(parts):
            rows = slice(size * part // parts, size * (part + 1) // parts)
            yield rows, (rows.stop - rows.start) / self.what.config.batch_size

    def _straight(
        self, method: Method, number: int, x: Tensor, y: Tensor, draws: Draws
    ) -> Float[Tensor, ""]:
        """Gradients by the backward pass into `.grad`."""
        total = x.new_zeros(())
        count = self.what.ranks.count
        parts = list(self._parts(len(x)))
        self._begin(number)
        for turn, (rows, share) in enumerate(parts):
            whole = len(parts) == 1
            inputs, labels = (x, y) if whole else (x[rows], y[rows])
            if self._gathers:
                inputs, labels = self._mixed(method, inputs, labels, draws)
            else:
                inputs, labels = method.batch(
                    self.site(INPUT).tail, inputs, labels, draws if whole else draws.subset(rows)
                )
            if self.trainer.channels_last and inputs.dim() == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            with self._unsynchronised(turn + 1 < len(parts)):
                output: Any = self._forward(inputs)
                if not isinstance(output, Tensor):
                    raise ValueError(
                        f"the model {type(self.model).__name__} returns a {type(output).__name__} "
                        "while it trains; needed: a tensor of logits [batch, classes]"
                    )
                logits = output.to(inputs.dtype)
                loss = method.loss(logits, labels, self.what.loss).mean() * share
                # Between ranks, gradients are averaged and not summed.
                (loss * count if count > 1 else loss).backward()
            total = total + loss.detach()
        return total

    def _mixed(self, method: Method, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """This rank's slice of the whole batch, once its samples are mixed: every rank mixes all,
        which takes no pass through the model."""
        batch, ranks = self.what.config.batch_size, self.what.ranks
        whole = Draws(
            self._seeds,
            draws.step,
            torch.arange(batch, device=x.device),
            steps=self.steps,
            rows=None if draws.rows is None else ranks.joined(draws.rows, batch),
        )
        x, y = ranks.joined(x, batch), ranks.joined(y, batch)
        x, y = method.batch(self.site(INPUT).tail, x, y, whole)
        share = ranks.slice(batch)
        return x[share], y[share]

    def _unsynchronised(self, more: bool) -> AbstractContextManager:
        """Ranks wait for one another in a step's last part alone."""
        ddp = self._forward
        synchronises = more and isinstance(ddp, nn.parallel.DistributedDataParallel)
        return ddp.no_sync() if synchronises else nullcontext()

    def _through_vector(
        self, method: Method, number: int, x: Tensor, y: Tensor, draws: Draws
    ) -> Float[Tensor, ""]:
        """Gradients as the method's own hook makes them of those at any parameters."""
        site = self.site(method.site)
        start = torch.cat([value.detach().flatten() for value in self.parameters])[None]
        parts = [
            (x[rows], y[rows], draws.subset(rows), share) for rows, share in self._parts(len(x))
        ]
        if method.site == INPUT:
            parts = [
                (*method.batch(site.tail, xs, ys, drawn), drawn, share)
                for xs, ys, drawn, share in parts
            ]

        def through() -> tuple[Tensor, Tensor]:
            self._begin(number)
            total, gradient = x.new_zeros(()), torch.zeros_like(start[0])
            for xs, ys, drawn, share in parts:
                h = site.activations(xs)
                if method.site != INPUT:
                    h, ys = method.batch(site.tail, h, ys, drawn)
                logits = site.logits(h).to(x.dtype)
                loss = method.loss(logits, ys, self.what.loss).mean() * share
                pieces = torch.autograd.grad(
                    loss, self.parameters, allow_unused=True, materialize_grads=True
                )
                gradient += torch.cat([piece.flatten() for piece in pieces])
                total = total + loss.detach()
            self.what.ranks.sum(gradient)
            return total[None], gradient[None]

        def at(point: Tensor) -> tuple[Tensor, Tensor]:
            if point is start:
                return through()
            # Only the pass at the model's own parameters moves batch norm's statistics.
            _fill(self.parameters, point)
            try:
                with undisturbed(self.model, "train"):
                    return through()
            finally:
                _fill(self.parameters, start)

        losses, gradient = method.gradient(at, start)
        for value, piece in zip(self.parameters, _pieces(self.parameters, gradient), strict=True):
            value.grad = piece.clone()
        return losses[0]

    # --- what continues a training ---------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.values if self.average else [],
            "finite": self.finite,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            for value, kept in zip(self.average.values, state["average"], strict=True):
                value.copy_(kept)
        self.finite.copy_(state["finite"])
        mine = state["saved"] / self.what.ranks.count
        self.site(INPUT).tail.saved = mine * self.what.config.batch_size


class _Average:
    """The running average of a model's floating-point parameters and buffers.

    Its decay begins small, (1 + step) / (10 + step), so that the first values weigh little.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.of = [v for v in (*model.parameters(), *model.buffers()) if v.is_floating_point()]
        self.values = [value.detach().clone() for value in self.of]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After a step."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = [value.detach() for value in self.of]
        torch._foreach_lerp_(self.values, now, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """The average into the model and the model's values out of it, or back."""
        for value, kept in zip(self.of, self.values, strict=True):
            before = value.detach().clone()
            value.copy_(kept)
            kept.copy_(before)


def _optimizer(
    config: TrainConfig, parameters: list[nn.Parameter], rate: float
) -> torch.optim.Optimizer:
    decay = config.weight_decay
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, rate, weight_decay=decay)
    return torch.optim.SGD(parameters, rate, config.momentum, weight_decay=decay)


def mixes(method: Method) -> bool:
    """Whether a sample's result depends on the others of its batch."""
    return any(part.mixes for part in method.parts())


def differs_among_ranks(model: nn.Module, device: str) -> list[str]:
    """What several ranks compute otherwise than one process does."""
    found = []
    if any(counted(module) for module in model.modules()):
        found.append("dropout masks")
    normed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    if normed and torch.device(device).type != "cuda":
        found.append("batch norm, which takes each process's slice")
    return found


def check_ranks(method: Method | None, trainer: Single, count: int) -> None:
    """Raises ValueError where ranks would mix the samples of their own slices alone, and so give
    other numbers than one process."""
    if count == 1 or method is None or not mixes(method):
        return
    alone = method.passes() == 1 and method.places() == (INPUT,) and trainer.accumulate == 1
    if not alone or method.enlarges or has_own(method, "gradient"):
        raise ValueError(
            f"method {method.kind!r} mixes the samples of a batch, which {count} ranks share; "
            "allowed: one process, or mixing of inputs without maps, gradients of its own or "
            "accumulate"
        )


def place_rows(rows: Int64[Tensor, "1 batch"], ranks: Ranks) -> tuple[list[int], int]:
    """This rank's rows of a batch, and the place of the first of them in it."""
    share = ranks.slice(rows.shape[1])
    return rows[0, share].tolist(), share.start
