"""Any method in your own training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aba_core.arms import OF_ANY_MODEL
from aba_core.attribution import Loss, check_inputs, cross_entropy, undisturbed
from aba_core.methods.base import Method, has_own, method_of
from aba_core.methods.decay import Best
from aba_core.randomness import Draws, check_seed
from aba_core.sites import INPUT, SingleSite


class Regularizer:
    """A method for your own training loop; `ABA` is its shorter form for inputs alone.

    >>> regularizer = Regularizer("mixup", seed=0)
    >>> loss = regularizer.backward(model, x, y)    # fills .grad; then optimizer.step()

    method: a `Method`, or the plain data of one, as {"kind": "sam", "rho": 0.1}. loss: one number a
    sample. steps: of the whole training, for methods that ask how far it is. untrained: the model
    that makes the maps of placebo "untrained". rank: of this process among those that share every
    batch equally; its samples' places follow those of the ranks before it. Each call is one step;
    draws depend on (seed, step, place in the batch), so setting `step` continues a stopped training
    exactly.
    """

    def __init__(
        self,
        method: Any,
        seed: int = 0,
        loss: Loss = cross_entropy,
        steps: int = 0,
        untrained: nn.Module | None = None,
        rank: int = 0,
    ) -> None:
        self.method = method_of(method) or Method()
        self.seed = check_seed(seed)
        self.loss = loss
        self.steps = steps
        self.untrained = untrained
        self.rank = rank
        self.step = 0
        self._best: Best | None = None
        self._outputs: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
        if self.method.needs_untrained != (untrained is not None):
            raise ValueError("an untrained model goes with placebo 'untrained' and only with it")

    def __repr__(self) -> str:
        return f"<Regularizer: {self.method.kind}, seed {self.seed}; step {self.step}>"

    def __call__(
        self, model: nn.Module, x: Float[Tensor, "batch *feature"], y: Tensor
    ) -> tuple[Float[Tensor, "batch *feature"], Tensor]:
        """The changed inputs and labels; the model is left as it was. The inputs are detached,
        unless x requires gradients, as embeddings do.

        Raises ValueError for a method that changes more than those: take `backward`.
        """
        method = self.method.acting(self.step, self.steps)
        if self.beyond_inputs:
            raise ValueError(
                f"{self.method.kind!r} changes the {self.beyond_inputs}; use backward(model, x, y) "
                "or training_loss(model, x, y) in place of a call"
            )
        check_inputs(x, y)
        site, attached = self._site(model, x, method), x.requires_grad
        x, y = method.batch(site.tail, x, y, self._draws(x))
        self.step += 1
        return x if attached else x.detach(), y

    def backward(
        self, model: nn.Module, x: Float[Tensor, "batch *feature"], y: Tensor
    ) -> Float[Tensor, ""]:
        """The mean loss of the batch, in train mode; adds the method's gradient to each parameter's
        `.grad`, as `loss.backward()` does."""
        parameters = _trained(model)
        losses, gradient = self._gradient(model, parameters, *self._mean_loss(model, x, y))
        for value, piece in zip(parameters, _pieces(parameters, gradient), strict=True):
            value.grad = piece.clone() if value.grad is None else value.grad + piece
        self.step += 1
        return losses[0]

    def training_loss(
        self, model: nn.Module, x: Float[Tensor, "batch *feature"], y: Tensor
    ) -> Float[Tensor, ""]:
        """The mean loss of the batch, in train mode, for a trainer that calls `backward` itself:
        that adds the method's gradient to each parameter's `.grad`, times whatever the trainer
        multiplied the loss by. For Lightning, Hugging Face and `DistributedDataParallel`."""
        method, mean = self._mean_loss(model, x, y)
        if has_own(method, "gradient"):
            parameters = _trained(model)
            losses, gradient = self._gradient(model, parameters, method, mean)
            loss = _Known.apply(losses[0], gradient, *parameters)
        else:
            loss = mean()
        self.step += 1
        return loss

    def _mean_loss(
        self, model: nn.Module, x: Tensor, y: Tensor
    ) -> tuple[Method, Callable[[], Tensor]]:
        """What acts at this step, and what computes the mean loss, once the inputs are changed."""
        check_inputs(x, y)
        model.train()
        method, draws = self.method.fitted(model).acting(self.step, self.steps), self._draws(x)
        site = self._site(model, x, method)
        labels = y
        if method.site == INPUT:
            x, labels = method.batch(site.tail, x, y, draws)

        def mean() -> Tensor:
            h, targets = site.activations(x), labels
            if method.site != INPUT:
                h, targets = method.batch(site.tail, h, y, draws)
            return method.loss(site.logits(h), targets, self.loss).mean()

        return method, mean

    def _gradient(
        self,
        model: nn.Module,
        parameters: list[nn.Parameter],
        method: Method,
        mean: Callable[[], Tensor],
    ) -> tuple:
        """The mean loss [1] and the method's gradient of it [1, parameter]."""
        start = torch.cat([value.detach().flatten() for value in parameters])[None]

        def through() -> tuple[Tensor, Tensor]:
            loss = mean()
            pieces = torch.autograd.grad(loss, parameters, allow_unused=True)
            flat = [
                torch.zeros_like(value).flatten() if piece is None else piece.flatten()
                for piece, value in zip(pieces, parameters, strict=True)
            ]
            return loss.detach()[None], torch.cat(flat)[None]

        def at(point: Tensor) -> tuple[Tensor, Tensor]:
            if point is start:
                return through()
            # Only the pass at the model's own parameters moves batch norm's statistics.
            _fill(parameters, point)
            try:
                with undisturbed(model, "train"):
                    return through()
            finally:
                _fill(parameters, start)

        return method.gradient(at, start)

    @property
    def beyond_inputs(self) -> str:
        """What the method changes besides inputs and labels, "" for nothing."""
        if sites := {site for site in self.method.places() if site != INPUT}:
            return f"layer {min(sites)!r}"
        hooks = ("loss", "gradient", "architecture")
        beyond = [hook for hook in hooks if has_own(self.method, hook)]
        return beyond[0] if beyond else "end of training" * bool(self.method.looks_every)

    def look(self, model: nn.Module, x: Float[Tensor, "batch *feature"], y: Tensor) -> float:
        """The mean loss in eval mode, of validation data say; the model's values are kept where it
        is the lowest so far (one model a `Regularizer`)."""
        with torch.no_grad(), undisturbed(model, "eval"):
            loss = self.loss(model(x), y).mean()
        if self._best is None:
            self._best = Best([value.detach()[None] for value in model.state_dict().values()])
        self._best.look(loss[None])
        return float(loss)

    def restore(self) -> None:
        """Puts the values of the lowest loss that `look` saw back into the model."""
        if self._best is None:
            raise ValueError("nothing to restore; look(model, x, y) at validation data first")
        self._best.restore()

    def architecture(self, model: nn.Module) -> nn.Module:
        """The model to train in place of a freshly built one: itself, unless the method is about
        its architecture."""
        return self.method.architecture(model)

    def _site(self, model: nn.Module, x: Tensor, method: Method) -> SingleSite:
        if model not in self._outputs:
            with torch.no_grad(), undisturbed(model, "eval"):
                self._outputs[model] = int(model(x[:1]).shape[-1])
        outputs = self._outputs[model]
        return SingleSite(model, method.site, self.loss, outputs, self.untrained)

    def _draws(self, x: Tensor) -> Draws:
        purposes = self.method.names_of_purposes()
        draws = Draws.single(self.seed, self.step, len(x), x.device, purposes, self.steps)
        return replace(draws, index=draws.index + self.rank * len(x)) if self.rank else draws


class _Known(torch.autograd.Function):
    """A loss whose gradient is known already: that of a method with a `gradient` of its own."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradient: Tensor, *parameters: Tensor) -> Tensor:
        ctx.pieces = _pieces(list(parameters), gradient)  # type: ignore[arg-type]
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple:  # type: ignore[override]
        return None, None, *(factor * piece for piece in ctx.pieces)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [value for value in model.parameters() if value.requires_grad]


def _pieces(parameters: list[nn.Parameter], flat: Tensor) -> list[Tensor]:
    cut = flat[0].split([value.numel() for value in parameters])
    return [piece.reshape(value.shape) for piece, value in zip(cut, parameters, strict=True)]


def _fill(parameters: list[nn.Parameter], flat: Tensor) -> None:
    with torch.no_grad():
        for value, piece in zip(parameters, _pieces(parameters, flat), strict=True):
            value.copy_(piece)


def rehearse(
    method: Method, model: nn.Module, x: Float[Tensor, "batch *feature"], y: Tensor, loss: Loss
) -> None:
    """One batch changed by a method and by all that it holds, to see whether it can be done.

    model: freshly built; it may be changed. A step at the input asks for no gradient of the model:
    a linear one stands in, which takes no time, unless its map is made at a layer or by a changed
    way back. Raises ValueError with what is wrong.
    """
    model = method.architecture(model).eval()
    method.fitted(model)
    outputs = int(model(x[:2]).shape[-1])
    purposes = method.names_of_purposes()
    draws = Draws.single(0, 0, len(x), x.device, purposes, 1)
    for part in method.parts() if method.varies else (method,):
        for place in {*part.places(), *method.places()} if has_own(part, "batch") else ():
            stands = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), outputs)).to(x)
            of_any = getattr(part, "attribution", "gradient") in OF_ANY_MODEL
            run_by = stands if place == INPUT and of_any else model
            site = SingleSite(run_by, place, loss, outputs, run_by)
            part.batch(site.tail, site.activations(x).detach(), y, draws)
