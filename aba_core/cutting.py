"""A model cut in two at a named layer.

The two parts hold the whole model each, so their parameters and buffers are the model's own. Where
the layer lies on a chain of `nn.Sequential`s, each part runs its own layers alone. In any other
model the first part stops at the layer, and the second runs from the input again and puts the
changed activations in place of the layer's output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

INPUT = "input"


class Part(nn.Module):
    """One of the two parts of a model."""


class _Reached(Exception):
    def __init__(self, output: Tensor) -> None:
        self.output = output


class Layers(Part):
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


class UpTo(Part):
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


class From(Part):
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


def halves(model: nn.Module, site: str) -> tuple[nn.Module, nn.Module, bool]:
    """Both parts of the model, and whether the second runs from the input again."""
    check_site(model, site)
    path = _chain(model, site)
    if path is not None:
        return Layers(model, path, False), Layers(model, path, True), False
    return UpTo(model, site), From(model, site), True
