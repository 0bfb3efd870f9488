"""Sites: a model cut in two at a named layer, and what follows the cut as a method sees it.

A method acts at a site: "input", or the output of a layer named as in `model.named_modules()`. The
two parts hold the whole model each, so their parameters and buffers are the model's own. Where the
site lies on a chain of `nn.Sequential`s, each part runs its own layers alone. In any other model
the first part stops at the site, and the second runs from the input again and puts the changed
activations in place of the layer's output.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aba_core.attribution import Attribution, Loss, attribution_map, undisturbed
from aba_core.randomness import Draws
from aba_core.replicas import Replicas

INPUT = "input"


class _Reached(Exception):
    def __init__(self, output: Tensor) -> None:
        self.output = output


class _Layers(nn.Module):
    """Some of the layers of a chain, one after the other."""

    def __init__(self, model: nn.Module, path: tuple[str, ...], after: bool) -> None:
        super().__init__()
        self.model = model
        self._path, self._after = path, after

    def forward(self, x: Tensor) -> Tensor:
        return _run_chain(self.model, self._path, self._after, x)


def _run_chain(model: nn.Module, path: tuple[str, ...], after: bool, x: Tensor) -> Tensor:
    names = list(model._modules)
    place = names.index(path[0])
    if after:
        if len(path) > 1:
            x = _run_chain(model._modules[path[0]], path[1:], after, x)  # type: ignore[arg-type]
        for name in names[place + 1 :]:
            x = model._modules[name](x)  # type: ignore[misc]
        return x
    for name in names[:place]:
        x = model._modules[name](x)  # type: ignore[misc]
    layer = model._modules[path[0]]
    assert layer is not None
    return _run_chain(layer, path[1:], after, x) if len(path) > 1 else layer(x)


class _UpTo(nn.Module):
    """A model of any kind, stopped at the site."""

    def __init__(self, model: nn.Module, site: str) -> None:
        super().__init__()
        self.model = model
        self._site = site

    def forward(self, x: Tensor) -> Tensor:
        def stop(module: nn.Module, inputs: object, output: Tensor) -> None:
            raise _Reached(output)

        handle = self.model.get_submodule(self._site).register_forward_hook(stop)
        try:
            self.model(x)
        except _Reached as reached:
            return reached.output
        finally:
            handle.remove()
        raise ValueError(f"the model never runs its layer {self._site!r}")


class _From(nn.Module):
    """A model of any kind, from the site on. Input [batch, feature]: what `pack` makes of inputs
    and activations."""

    def __init__(self, model: nn.Module, site: str) -> None:
        super().__init__()
        self.model = model
        self._site = site
        self.shapes: tuple[torch.Size, torch.Size] | None = None

    def forward(self, packed: Tensor) -> Tensor:
        assert self.shapes is not None
        features, activations = self.shapes
        x, h = packed.split([features.numel(), activations.numel()], dim=1)

        def put(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            return h.reshape(-1, *activations)

        handle = self.model.get_submodule(self._site).register_forward_hook(put)
        try:
            return self.model(x.reshape(-1, *features))
        finally:
            handle.remove()


def check_site(model: nn.Module, site: str) -> None:
    """Raises ValueError for a site that the model does not have, naming those it has."""
    names = [name for name, _ in model.named_modules() if name]
    if site != INPUT and site not in names:
        raise ValueError(f"unknown site {site!r}; known: {', '.join((INPUT, *names))}")


def _chain(model: nn.Module, site: str) -> tuple[str, ...] | None:
    """The path of the site where it lies on a chain of `nn.Sequential`s, otherwise None."""
    path = tuple(site.split("."))
    for name in path:
        if type(model) is not nn.Sequential:
            return None
        model = model._modules[name]  # type: ignore[assignment]
    return path


def _halves(model: nn.Module, site: str) -> tuple[nn.Module, nn.Module, bool]:
    """Both parts of the model, and whether the second runs from the input again."""
    check_site(model, site)
    path = _chain(model, site)
    if path is not None:
        return _Layers(model, path, False), _Layers(model, path, True), False
    return _UpTo(model, site), _From(model, site), True


@dataclass
class Tail:
    """What follows a site, as a method sees it. h: activations [*lead, *feature].

    loss: the task's, one number a sample. outputs: how many the model has, the number of classes.
    """

    loss: Loss
    outputs: int
    maps: Callable[[Tensor, Tensor, Attribution, Draws, bool], Tensor]
    # The loss's gradient to each sample when it was trained on last, shaped like h, and whether it
    # ever was, [*lead]. Only for methods whose `needs_last_gradient` asks for it.
    last_gradient: tuple[Tensor, Tensor] | None = None

    def map(
        self,
        h: Float[Tensor, "*lead_and_feature"],
        y: Tensor,
        attribution: Attribution,
        draws: Draws,
        untrained: bool = False,
    ) -> Float[Tensor, "*lead_and_feature"]:
        """The attribution map of each sample, shaped like h, in the sense of the loss. untrained:
        of the model as it was initialised. The model is left as it was."""
        return self.maps(h.detach(), y, attribution, draws, untrained)

    def gradient(
        self, h: Float[Tensor, "*lead_and_feature"], y: Tensor, draws: Draws
    ) -> Float[Tensor, "*lead_and_feature"]:
        """The gradient of each sample's loss with respect to h, batch norm as in evaluation."""
        return self.map(h, y, Attribution("gradient", "loss"), draws)


class StackedSite:
    """Replicas cut at a site."""

    def __init__(
        self,
        replicas: Replicas,
        site: str,
        loss: Loss,
        outputs: int,
        untrained: Replicas | None = None,
    ) -> None:
        self.replicas, self.loss = replicas, loss
        self._x = torch.empty(0)
        self._again = False
        self._head, self._rest = replicas, replicas
        self._untrained = untrained
        if site != INPUT:
            first, second, self._again = _halves(copy.deepcopy(replicas.template), site)
            self._head, self._rest = _as_part(replicas, first), _as_part(replicas, second)
            if untrained is not None:
                _, second, _ = _halves(copy.deepcopy(untrained.template), site)
                self._untrained = _as_part(untrained, second)
        self.tail = Tail(loss, outputs, self._map)

    def activations(
        self,
        flat: Float[Tensor, "replica parameter"],
        x: Float[Tensor, "replica batch *feature"],
        quiet: bool = False,
    ) -> Float[Tensor, "replica batch *activation"]:
        """h at the site, in train mode, differentiable in flat. quiet: no statistics move."""
        self._x = x
        # Where the second part runs the first one's layers again, statistics move there.
        head = self._head.quieted() if self._again or quiet else self._head
        with self._head.mode(training=True):
            return head.forward(flat)(x)

    def logits(
        self,
        flat: Float[Tensor, "replica parameter"],
        h: Float[Tensor, "replica batch *activation"],
        quiet: bool = False,
    ) -> Float[Tensor, "replica batch output"]:
        """Logits in train mode, differentiable in flat and h. quiet: no statistics move."""
        rest = self._rest.quieted() if quiet else self._rest
        with self._rest.mode(training=True):
            return rest.forward(flat)(self._packed(rest, h))

    def _packed(self, rest: Replicas, h: Tensor, rows: slice = slice(None)) -> Tensor:
        if not self._again:
            return h
        x = self._x[rows]
        x = x.repeat(1, h.shape[1] // x.shape[1], *(1,) * (x.dim() - 2))  # a batch made larger
        for module in (rest.template, rest._stacked, rest._single, rest._whole):
            module.shapes = x.shape[2:], h.shape[2:]  # type: ignore[assignment]
        return torch.cat([x.flatten(2), h.flatten(2)], dim=2)

    def _map(
        self, h: Tensor, y: Tensor, attribution: Attribution, draws: Draws, untrained: bool
    ) -> Tensor:
        maker = self._untrained if untrained else self._rest
        if maker is None:
            raise ValueError("no untrained replicas were kept for this method")

        def of(rows: slice, forward: Callable[[Tensor], Tensor]) -> Tensor:
            def from_site(at: Tensor) -> Tensor:
                return forward(self._packed(maker, at, rows))

            return attribution_map(
                from_site, h[rows], y[rows], attribution, draws.of(rows), self.loss
            )

        with maker.undisturbed(attribution.mode, attribution.update_statistics) as quiet:
            inputs = self._packed(maker, h)
            maps = [of(rows, run) for rows, _, run in quiet.passes(inputs, differentiable=False)]
        return maps[0] if len(maps) == 1 else torch.cat(maps)


def _as_part(replicas: Replicas, part: nn.Module) -> Replicas:
    """The same parameters and buffers, run by a part of the model."""
    buffers = {f"model.{name}": buffer for name, buffer in replicas.buffers.items()}
    return Replicas(
        part, replicas.parameters, buffers, replicas.together, replicas.masks, replicas.habits
    )


class SingleSite:
    """One ordinary module cut at a site."""

    def __init__(
        self,
        model: nn.Module,
        site: str,
        loss: Loss,
        outputs: int,
        untrained: nn.Module | None = None,
    ) -> None:
        self.model, self.loss = model, loss
        self._x = torch.empty(0)
        self._again = False
        self._head: nn.Module | None = None
        self._rest, self._untrained = model, untrained
        if site != INPUT:
            self._head, self._rest, self._again = _halves(model, site)
            if untrained is not None:
                self._untrained = _halves(untrained, site)[1]
        self.tail = Tail(loss, outputs, self._map)

    def activations(self, x: Float[Tensor, "batch *feature"]) -> Float[Tensor, "batch *activation"]:
        """h at the site, in the model's present mode, differentiable in its parameters."""
        self._x = x
        if self._head is None:
            return x
        if self._again and self.model.training:
            with undisturbed(self.model, "train"):
                return self._head(x)
        return self._head(x)

    def logits(self, h: Float[Tensor, "batch *activation"]) -> Float[Tensor, "batch output"]:
        """Logits in the model's present mode, differentiable in its parameters and h."""
        return self._rest(self._packed(self._rest, h))

    def _packed(self, rest: nn.Module, h: Tensor) -> Tensor:
        if not self._again:
            return h
        x = self._x.repeat(len(h) // len(self._x), *(1,) * (self._x.dim() - 1))
        rest.shapes = x.shape[1:], h.shape[1:]  # type: ignore[assignment]
        return torch.cat([x.flatten(1), h.flatten(1)], dim=1)

    def _map(
        self, h: Tensor, y: Tensor, attribution: Attribution, draws: Draws, untrained: bool
    ) -> Tensor:
        maker = self._untrained if untrained else self._rest
        if maker is None:
            raise ValueError("no untrained model was given for this method")
        with undisturbed(maker, attribution.mode, attribution.update_statistics):
            return attribution_map(
                lambda at: maker(self._packed(maker, at)), h, y, attribution, draws, self.loss
            )
