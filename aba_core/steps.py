"""One training step of all replicas, by tensors alone, and its recording on a GPU.

What changes from step to step, its number, its samples and its draws, lies in tensors that are
refilled in place. So nothing in a step depends on a Python value, and nothing asks the device for
one: a GPU can record it once as a CUDA graph and replay it, without the cost of starting thousands
of small operations from Python.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from aba_core.arms import TrainConfig
from aba_core.attribution import Loss
from aba_core.datasets import Split
from aba_core.kernels import on_gpu, optimizer
from aba_core.methods.base import Method
from aba_core.precision import products_in
from aba_core.randomness import Draws
from aba_core.replicas import Pass, Replicas
from aba_core.sites import INPUT, LastCategories, StackedSite

AHEAD = 32  # draws are made for so many steps at once: few numbers take as long as many
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Adam's, as in torch.optim


@dataclass
class Step:
    """Draw → augment → gradient → optimiser, for every replica, in place.

    method: stacked; None trains as usual. site: the replicas cut where the method acts; sites: by
    name, where it acts at one or another.
    train: the training split, on the replicas' device. seeds: one tensor [replica, 1] a purpose.
    learning_rate: one a replica. places: which samples of `train` a replica trains on, None for
    all of them. number: which step is next, from 0. rows: its samples, by their order in `places`.
    drawn: its `Draws.usual`. finite: which replicas' losses were finite in all steps so far.
    """

    config: TrainConfig
    replicas: Replicas
    method: Method | None
    site: StackedSite | None
    loss: Loss
    train: Split
    seeds: dict[str, Int64[Tensor, "replica 1"]]
    learning_rate: Float[Tensor, "replica 1"]
    sites: Mapping[str, StackedSite] = field(default_factory=dict)
    places: Int64[Tensor, "replica taken"] | None = None
    number: Int64[Tensor, "1"] = field(init=False)
    rows: Int64[Tensor, "replica batch"] = field(init=False)
    drawn: Float64[Tensor, "5 replica batch"] = field(init=False)
    finite: Bool[Tensor, "replica"] = field(init=False)

    def __post_init__(self) -> None:
        parameters, batch = self.replicas.parameters, self.config.batch_size
        device, replicas = parameters.device, len(parameters)
        self.number = torch.zeros(1, dtype=torch.int64, device=device)
        self.rows = torch.zeros(replicas, batch, dtype=torch.int64, device=device)
        self.drawn = torch.zeros(5, replicas, batch, dtype=torch.float64, device=device)
        self._ahead, self._ahead_from = self.drawn[:, None], -1
        self.finite = torch.ones(replicas, dtype=torch.bool, device=device)
        self._place = torch.arange(batch, device=device).expand(replicas, batch)
        moments = 1 if self.config.optimizer == "sgd" else 2
        self._moments = [torch.zeros_like(parameters) for _ in range(moments)]
        self.samples = len(self.train) if self.places is None else self.places.shape[1]
        self._steps = self.config.steps(self.samples)
        # One for all steps: what it holds is refilled.
        given = self.seeds, self.number, self._place, self.drawn, self._steps, self.rows
        self._draws = Draws(*given)
        # Of the samples of each replica, whose rows follow one another.
        self._last: LastCategories | None = None
        self._to_x: Tensor | None = None  # kept: fresh memory of this size costs as much as a map
        self._first_rows = self.samples * torch.arange(replicas, device=device)[:, None]
        rates = schedule(self.config, self._steps)
        self._schedule = torch.tensor(rates, dtype=torch.float64, device=device)
        self._acting = self.method

    def set(self, number: int, rows: Int64[Tensor, "replica batch"]) -> None:
        """What the next call is to do."""
        self.number.fill_(number)
        self.rows.copy_(rows)
        if self.method is None:
            return
        self._acting = self.method.acting(number, self._steps)
        if not 0 <= number - self._ahead_from < self._ahead.shape[1]:
            numbers = torch.arange(number, number + AHEAD, device=self.number.device)[:, None, None]
            places = self._place.expand(AHEAD, *self._place.shape)
            self._ahead, self._ahead_from = Draws(self.seeds, numbers, places).usual, number
        self.drawn.copy_(self._ahead[:, number - self._ahead_from])

    def __call__(self) -> None:
        parameters = self.replicas.parameters
        self.replicas.begin(self.number)
        taken = self.rows if self.places is None else self.places.gather(1, self.rows)
        x, labels = self.train.batch(taken).to(parameters.dtype), self.train.y[taken]
        with products_in(self.config.precision, parameters.device, repeated=True):
            if self.method is not None and self.method.needs_last_gradient:
                losses, gradient = self._remembering(x, labels)
            else:
                losses, gradient = self._losses_and_gradient(x, labels)
        with torch.no_grad():
            self.finite &= torch.isfinite(losses)
            now = self._schedule.index_select(0, self.number)[0]
            optimizer_step(
                self.config, parameters, gradient, self._moments, self.learning_rate, now
            )

    def release(self) -> None:
        """Between its calls a step holds no memory that it could give back, unless `Recorded`."""

    def _remembering(
        self, x: Tensor, labels: Tensor
    ) -> tuple[Float[Tensor, "replica"], Float[Tensor, "replica parameter"]]:
        """The step of a method that takes each sample's last gradient for its map: it is shown the
        loss's gradient to the inputs that were trained on."""
        assert self.site is not None and self.method is not None
        if self._last is None:
            self._last = LastCategories(len(x) * self.samples, self.rows)
        self._last.rows, self._last.own = self.rows + self._first_rows, x
        self.site.tail.last = self._last
        if self._to_x is None or self._to_x.shape != x.shape or self._to_x.dtype != x.dtype:
            self._to_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        results = self._losses_and_gradient(x, labels, self._to_x)
        self.method.keep(self.site.tail, self._to_x)
        return results

    def _losses_and_gradient(
        self, x: Tensor, labels: Tensor, to_x: Tensor | None = None
    ) -> tuple[Float[Tensor, "replica"], Float[Tensor, "replica parameter"]]:
        """What the method makes of a batch and of its gradient. to_x: filled with the gradient to
        the inputs that the method made, where it is asked for."""
        replicas, method, site = self.replicas, self._acting, self.site
        if method is None or site is None:
            return losses_and_gradient(replicas, x, labels, self.loss)
        site = self.sites.get(method.site, site)
        draws, hidden = self._draws, method.site != INPUT
        if not hidden:
            x, labels = method.batch(site.tail, x, labels, draws)

        def at(point: Tensor) -> tuple[Tensor, Tensor]:
            # Only the pass at the replicas' own parameters moves batch norm's statistics.
            moved = None if point is replicas.parameters else point
            if hidden:
                return _through_site(site, method, x, labels, draws, self.loss, moved)
            if moved is None:
                return losses_and_gradient(replicas, x, labels, self.loss, method, to_x)
            return losses_and_gradient(replicas.moved(moved), x, labels, self.loss, method)

        return method.gradient(at, replicas.parameters)


def _through_site(
    site: StackedSite,
    method: Method,
    x: Tensor,
    labels: Tensor,
    draws: Draws,
    loss: Loss,
    point: Tensor | None,
) -> tuple[Float[Tensor, "replica"], Float[Tensor, "replica parameter"]]:
    """Losses and gradient where a method changes the activations of a hidden layer. point:
    parameters in place of the replicas' own."""
    flat = (site.replicas.parameters if point is None else point).detach().requires_grad_()
    quiet = point is not None
    h = site.activations(flat, x, quiet)
    h, labels = method.batch(site.tail, h, labels, draws)
    logits = site.logits(flat, h, quiet).to(flat.dtype)
    losses = method.loss(logits, labels, loss).mean(1)
    (gradient,) = torch.autograd.grad(losses.sum(), flat, allow_unused=True, materialize_grads=True)
    return losses.detach(), gradient


def losses_and_gradient(
    replicas: Replicas,
    x: Float[Tensor, "replica batch *feature"],
    labels: Tensor,
    loss: Loss,
    method: Method | None = None,
    to_x: Float[Tensor, "replica batch *feature"] | None = None,
) -> tuple[Float[Tensor, "replica"], Float[Tensor, "replica parameter"]]:
    """Each replica's mean loss on its batch, in train mode, and its gradient. method: whose own
    loss it is. to_x: filled with the gradient to the inputs, where it is asked for."""
    losses, gradients = [], []
    changed = method is not None and type(method).loss is not Method.loss
    with replicas.mode(training=True):
        for rows, parameters, forward in replicas.passes(x, differentiable=True):
            inputs = x[rows]
            if not changed and isinstance(forward, Pass):
                asked = True, to_x is not None
                into = None if to_x is None else to_x[rows]
                made = forward.slopes(inputs, labels[rows], loss, x.shape[1], asked, into)
                if made is not None and made[1] is not None:
                    losses.append(made[0].mean(1))
                    gradients.append(made[1])
                    continue
            if to_x is not None:
                inputs = inputs.detach().requires_grad_()
            logits = forward(inputs).to(parameters[0].dtype)
            objective = partial(method.part(rows).loss, loss=loss) if changed else loss  # type: ignore[union-attr]
            losses.append(objective(logits, labels[rows]).mean(1))
            # A parameter without influence has gradient 0.
            pieces = torch.autograd.grad(
                losses[-1].sum(), parameters if to_x is None else [*parameters, inputs],
                allow_unused=True, materialize_grads=True,
            )  # fmt: skip
            if to_x is not None:
                *pieces, to_x[rows] = pieces  # type: ignore[assignment]
            gradients.append(_joined([p.reshape(len(logits), -1) for p in pieces], 1))
    return _joined(losses, 0).detach(), _joined(gradients, 0)


def _joined(pieces: Sequence[Tensor], axis: int) -> Tensor:
    """As `torch.cat`, which copies where there is but one piece."""
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces), axis)


def schedule(config: TrainConfig, steps: int) -> list[list[float]]:
    """For each step: what the schedule multiplies the learning rate by, and the two corrections of
    Adam's moments for their start at 0."""
    return [
        [
            config.learning_rate_factor(step, steps),
            1.0 - BETA_1 ** (step + 1),
            math.sqrt(1.0 - BETA_2 ** (step + 1)),
        ]
        for step in range(steps)
    ]


def optimizer_step(
    config: TrainConfig,
    parameters: Float[Tensor, "replica parameter"],
    gradient: Float[Tensor, "replica parameter"],
    moments: Sequence[Float[Tensor, "replica parameter"]],
    learning_rate: Float[Tensor, "replica 1"],
    now: Float[Tensor, "3"],
) -> None:
    """One step of torch.optim's SGD (with momentum) or Adam on all replicas, in place.

    now: the step's row of `schedule`.
    """
    factor, first_correction, second_correction = now
    learning_rate = learning_rate * factor
    if config.optimizer == "adam" and optimizer.applies(parameters, gradient, *moments):
        optimizer.adam(
            parameters, gradient, moments[0], moments[1], learning_rate / first_correction,
            config.weight_decay, (1 - BETA_1, 1 - BETA_2), (1 / float(second_correction), EPSILON),
        )  # fmt: skip
        return
    if config.optimizer == "adam" and on_gpu.applies(parameters, gradient):
        on_gpu.adam(
            parameters, gradient, moments[0], moments[1], learning_rate / first_correction,
            second_correction, config.weight_decay, (1 - BETA_1, 1 - BETA_2, EPSILON),
        )  # fmt: skip
        return
    if config.weight_decay:
        gradient = gradient.add(parameters, alpha=config.weight_decay)
    if config.optimizer == "sgd":
        if config.momentum:
            gradient = moments[0].mul_(config.momentum).add_(gradient)
        parameters.sub_(learning_rate * gradient)
        return
    first = moments[0].lerp_(gradient, 1 - BETA_1)
    second = moments[1].mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
    scale = (second.sqrt() / second_correction).add_(EPSILON)
    parameters.sub_(learning_rate / first_correction * first / scale)


class Recorded:
    """A step that is recorded as a CUDA graph after a few ordinary calls, and then replayed.

    The ordinary calls count as steps: what libraries set up at first use must not be recorded. They
    run on the stream that is recorded. So the memory that they leave is of one stream, which is
    emptied before the recording: inside one, the allocator gives nothing of another's back.
    Source: PyTorch's notes on CUDA graphs ("whole-network capture").
    """

    ordinary = 3

    def __init__(self, step: Callable[[], None]) -> None:
        self.step = step
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        self.calls += 1
        if self.calls <= self.ordinary:
            aside, usual = _aside(torch.cuda.current_device()), torch.cuda.current_stream()
            aside.wait_stream(usual)
            with torch.cuda.stream(aside):
                self.step()
            usual.wait_stream(aside)
            return
        if self.graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=_aside(torch.cuda.current_device())):
                self.step()
            self.graph = graph
        self.graph.replay()

    def release(self) -> None:
        """Give back the recording's memory, which holds all that a step ever holds. A later call
        records anew."""
        if self.graph is not None:
            self.graph.reset()
            self.graph = None
            torch.cuda.empty_cache()


@cache
def _aside(device: int) -> torch.cuda.Stream:
    """One stream for all recordings: libraries keep a workspace for each stream that they see."""
    return torch.cuda.Stream(device)
