"""Axioms of attribution, and how far each map breaks them on small networks in float64.

A violation of 0 means that the axiom holds there up to rounding; NaN, that it says nothing of the
map. Networks and inputs are drawn from fixed seeds; scores are those of the true class. Sources:
Sundararajan et al. 2017 (completeness, sensitivity, implementation invariance, linearity,
symmetry), Kindermans et al. 2019 (input shift).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from aba_core.attribution import MAPS, attribute

SAMPLES = 32  # noisy copies, steps and baselines
ROUNDING = 1e-9  # violations below are 0
_SIDE, _CLASSES, _BATCH = 4, 3, 6

How = str | dict[str, Any]


def _with(function: str, **options: Any) -> dict[str, Any]:
    return {"use": f"aba_core.maps:{function}", **options}


# What the table has a row of: every map, and variants by their options.
ROWS: dict[str, How] = {
    **{str(name): str(name) for name in MAPS},
    "integrated_gradients, baseline mean": _with("integrated_gradients", baseline="mean"),
    "integrated_gradients, baseline blurred": _with("integrated_gradients", baseline="blurred"),
    "integrated_gradients, baseline sample": _with("integrated_gradients", baseline="sample"),
    "occlusion, patches of two pixels": _with("occlusion", size=2),
    "lrp, rule zero": _with("lrp", rule="zero"),
}


def _map(model: nn.Module, x: Tensor, y: Tensor, how: How) -> Tensor:
    return attribute(model, x, y, how, "true_class", samples=SAMPLES)


def _objective(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """What maps explain: minus the true class's score, [batch]."""
    with torch.no_grad():
        return -model(x)[torch.arange(len(x)), y]


def _data(scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(_BATCH, 1, _SIDE, _SIDE, generator=generator, dtype=torch.float64)
    return scale * x, torch.arange(_BATCH) % _CLASSES


def _network(*layers: nn.Module, seed: int = 0, biases: bool = True) -> Any:
    """An `nn.Sequential` of layers with weights drawn from a seed, biases as well."""
    model, generator = nn.Sequential(*layers).double(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            drawn = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            wide = value.dim() > 1
            value.copy_(drawn / value[0].numel() ** 0.5 if wide else 0.5 * drawn * biases)
    return model.eval()


def _deep(biases: bool = True, *between: nn.Module) -> Any:
    """A convolution, then two linear layers, with ReLU between them."""
    side = _SIDE - 2
    return _network(
        *(nn.Conv2d(1, 6, 3), *between, nn.ReLU(), nn.Flatten()),
        *(nn.Linear(6 * side**2, 8), nn.ReLU(), nn.Linear(8, _CLASSES)),
        biases=biases,
    )


def _pixelwise(seed: int = 0) -> Any:
    """A convolution of single pixels, and one linear layer."""
    return _network(
        *(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * _SIDE**2, _CLASSES)),
        seed=seed,
    )


def _apart(one: Tensor, other: Tensor) -> float:
    """The distance of two maps by the length of the first, the mean over samples. A map that is 0
    throughout is no distance from another one, and otherwise as far as it gets."""
    distance, length = (one - other).flatten(1).norm(dim=1), one.flatten(1).norm(dim=1)
    return float(torch.where(length > 0, distance / length, (distance > 0).double()).mean())


def _incomplete(model: nn.Module, how: How) -> float:
    x, y = _data()
    maps = _map(model, x, y, how).flatten(1).sum(1)
    change = _objective(model, x, y) - _objective(model, _start(x, how), y)
    if how == "expected_gradients":
        others = [x[(torch.arange(len(x)) + step) % len(x)] for step in range(1, len(x))]
        before = torch.stack([_objective(model, other, y) for other in others]).mean(0)
        change = _objective(model, x, y) - before
    return float(((maps - change).abs() / change.abs().mean()).mean())


def _start(x: Tensor, how: How) -> Tensor:
    """The baseline of the map: zero, unless it says another."""
    from aba_core.maps.gradients import baseline_of
    from aba_core.randomness import Draws

    named = how.get("baseline", "zero") if isinstance(how, dict) else "zero"
    return baseline_of(x, named, Draws.single(0, 0, len(x), "cpu"))


def completeness(how: How) -> float:
    return _incomplete(_deep(), how)


def completeness_without_biases(how: How) -> float:
    return _incomplete(_deep(biases=False), how)


def sensitivity(how: How) -> float:
    """Of inputs that differ from zero in one pixel, and so do their scores: the share of pixels
    without attribution. The score is saturated: 1 − ReLU(1 − pixel), weighted. NaN for maps with
    another baseline."""
    if how == "expected_gradients" or (isinstance(how, dict) and "baseline" in how):
        return float("nan")
    model = _network(
        nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(_SIDE**2, _CLASSES), seed=2
    )
    with torch.no_grad():
        model[0].weight.fill_(-1.0)
        model[0].bias.fill_(1.0)
    x = 2 * torch.eye(_SIDE**2, dtype=torch.float64).reshape(-1, 1, _SIDE, _SIDE)
    y = torch.arange(len(x)) % _CLASSES
    changes = _objective(model, x, y) != _objective(model, torch.zeros_like(x), y)
    if not bool(changes.all()):
        raise RuntimeError("the network of the axiom of sensitivity does not depend on a pixel")
    maps = _map(model, x, y, how).flatten(1)
    return float((maps.diagonal().abs() < ROUNDING).double().mean())


def dummy(how: How) -> float:
    """Attribution of a pixel on which no score depends, by the largest of the map."""
    model, (x, y) = _pixelwise(), _data()
    with torch.no_grad():
        model[-1].weight.unflatten(1, (4, -1))[:, :, 5] = 0
    maps = _map(model, x, y, how).flatten(1).abs()
    largest = maps.amax(1)
    return float(torch.where(largest > 0, maps[:, 5] / largest, 0).mean())


def invariance_folded(how: How) -> float:
    """Batch norm after the convolution, and folded into it."""
    norm, (x, y) = nn.BatchNorm2d(6), _data()
    model = _deep(True, norm)
    generator = torch.Generator().manual_seed(3)
    for value, low in ((norm.running_mean, -0.5), (norm.running_var, 0.5), (norm.weight.data, 0.5)):
        assert value is not None
        value.copy_(low + torch.rand(6, generator=generator, dtype=torch.float64))
    model.eval()
    layers = [copy.deepcopy(layer) for layer in model]
    folded = nn.Sequential(fuse_conv_bn_eval(layers[0], layers[1]), *layers[2:]).eval()  # type: ignore[type-var]
    return _same_function(model, folded, x, y, how)


def invariance_split(how: How) -> float:
    """The first linear layer, and two whose product it is."""
    model, (x, y) = _deep(), _data()
    whole = model[3]
    first, second = nn.Linear(24, 8).double(), nn.Linear(8, 8).double()
    generator = torch.Generator().manual_seed(4)
    mixing = torch.randn(8, 8, generator=generator, dtype=torch.float64) + 3 * torch.eye(8)
    with torch.no_grad():
        first.weight.copy_(torch.linalg.solve(mixing, whole.weight))
        first.bias.zero_()
        second.weight.copy_(mixing)
        second.bias.copy_(whole.bias)
    split = nn.Sequential(*model[:3], first, second, *model[4:]).eval()
    return _same_function(model, split, x, y, how)


def _same_function(one: nn.Module, other: nn.Module, x: Tensor, y: Tensor, how: How) -> float:
    torch.testing.assert_close(one(x), other(x), rtol=1e-9, atol=1e-11)
    return _apart(_map(one, x, y, how), _map(other, x, y, how))


def linearity(how: How) -> float:
    """The map of f − g/2, and that of f less half that of g."""
    f, g, (x, y) = _pixelwise(5), _pixelwise(6), _data()
    both: Any = nn.Sequential(
        nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * _SIDE**2, _CLASSES)
    ).double()
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(both[0], name).copy_(torch.cat([getattr(f[0], name), getattr(g[0], name)]))
        both[3].weight.copy_(torch.cat([f[3].weight, -0.5 * g[3].weight], 1))
        both[3].bias.copy_(f[3].bias - 0.5 * g[3].bias)
    torch.testing.assert_close(both(x), f(x) - 0.5 * g(x))
    return _apart(_map(f, x, y, how) - 0.5 * _map(g, x, y, how), _map(both, x, y, how))


def symmetry(how: How) -> float:
    """Two pixels that no score tells apart, of equal value: how far their attributions differ, by
    the largest of the map."""
    model, (x, y) = _pixelwise(), _data()
    with torch.no_grad():
        weights = model[-1].weight.unflatten(1, (4, -1))
        weights[:, :, 10] = weights[:, :, 3]
    x.flatten(1)[:, 10] = x.flatten(1)[:, 3]
    maps = _map(model, x, y, how).flatten(1)
    largest, apart = maps.abs().amax(1), (maps[:, 3] - maps[:, 10]).abs()
    return float(torch.where(largest > 0, apart / largest, 0).mean())


def input_shift(how: How) -> float:
    """Inputs moved by 1.5, and a first layer that takes it back."""
    model, (x, y) = _deep(), _data()
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved[0].bias -= 1.5 * moved[0].weight.sum((1, 2, 3))
    torch.testing.assert_close(model(x), moved(x + 1.5))
    return _apart(_map(model, x, y, how), _map(moved, x + 1.5, y, how))


AXIOMS: dict[str, Callable[[How], float]] = {
    "completeness": completeness,
    "completeness, no biases": completeness_without_biases,
    "sensitivity": sensitivity,
    "dummy": dummy,
    "invariance, folded norm": invariance_folded,
    "invariance, split layer": invariance_split,
    "linearity": linearity,
    "symmetry": symmetry,
    "input shift": input_shift,
}


def table() -> dict[str, dict[str, float]]:
    """Every map's violation of every axiom, 0 where it is rounding."""
    measured = {
        name: {axiom: measure(how) for axiom, measure in AXIOMS.items()}
        for name, how in ROWS.items()
    }
    return {
        name: {axiom: 0.0 if value < ROUNDING else value for axiom, value in values.items()}
        for name, values in measured.items()
    }
