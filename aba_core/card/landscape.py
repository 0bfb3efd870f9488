"""Landscape: the loss around a model, as the spectrum of its Hessian and as a plane of weights.

Of single models, for `card(model, splits, landscape=True)` and for figures; a study does not have
it. Sources: Ghorbani, Krishnan and Xiao 2019 (stochastic Lanczos quadrature); Li et al. 2018
(filter-normalised directions); Garipov et al. 2018 (the plane through three models).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from aba_core import kernels
from aba_core.attribution import cross_entropy
from aba_core.card.subject import drawn
from aba_core.datasets import Splits
from aba_core.replicas import Replicas, plain_attention

SAMPLES, STEPS, PROBES = 100, 40, 4
POINTS = 21
MARGIN = 0.25  # around three models, in parts of the distance of the first two


# --- the Hessian's spectrum ----------------------------------------------------------------------


def spectrum(
    model: nn.Module,
    splits: Splits,
    *,
    samples: int = SAMPLES,
    steps: int = STEPS,
    probes: int = PROBES,
    seed: int = 0,
) -> pd.DataFrame:
    """Eigenvalues of the Hessian of the mean training loss, by stochastic Lanczos quadrature.

    Columns: probe, eigenvalue, weight. Weights of a probe sum to 1: each is the share of the
    spectrum that lies near its eigenvalue. samples: of the training split; steps: of Lanczos with
    full reorthogonalisation, at most as many as there are weights; probes: random start vectors.
    Everything is computed in float64. A probe's nodes give its first 2 · steps − 1 moments exactly,
    and probes give those of the Hessian on average.
    """
    whole = copy.deepcopy(model).double().eval()
    x, y = drawn(splits.train, samples, seed, torch.float64)
    with Replicas.stack([whole] * probes).undisturbed("eval") as replicas:
        with kernels.unfused(), plain_attention():
            found = _lanczos(replicas, x, y, steps, seed)
    rows = []
    for probe, tridiagonal in enumerate(found):
        values, vectors = np.linalg.eigh(tridiagonal)
        rows.append(pd.DataFrame({"probe": probe, "eigenvalue": values, "weight": vectors[0] ** 2}))
    return pd.concat(rows, ignore_index=True)


def _lanczos(replicas: Replicas, x: Tensor, y: Tensor, steps: int, seed: int) -> list[np.ndarray]:
    """The tridiagonal matrix of each replica, which all have the same weights, from a start vector
    of its own; smaller where its eigenvectors are all found."""
    parameters = replicas.parameters.detach().clone().requires_grad_()
    labels = y.expand(len(parameters), -1)
    losses = cross_entropy(replicas.forward(parameters, shared_inputs=True)(x), labels).mean(1)
    (gradient,) = torch.autograd.grad(losses.sum(), parameters, create_graph=True)
    size = parameters.shape[1]
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(tuple(parameters.shape), generator=generator, dtype=torch.float64)
    vector = (start / start.norm(dim=1, keepdim=True)).to(parameters)
    basis, along, beside = [vector], [], []
    for _ in range(min(steps, size)):
        (image,) = torch.autograd.grad(gradient, parameters, basis[-1], retain_graph=True)
        along.append((image * basis[-1]).sum(1))
        known = torch.stack(basis, 1)
        for _ in range(2):  # twice, for rounding
            image = image - torch.einsum(
                "rkp,rk->rp", known, torch.einsum("rkp,rp->rk", known, image)
            )
        beside.append(image.norm(dim=1))
        basis.append(image / beside[-1].clamp(min=1e-300)[:, None])
    diagonal, off = (torch.stack(each, 1).numpy(force=True) for each in (along, beside))
    matrices = []
    for values, next_to in zip(diagonal, off, strict=True):
        done = next_to <= 1e-10 * np.abs(values).max()
        count = 1 + int(done.argmax()) if done.any() else len(values)
        side = next_to[: count - 1]
        matrices.append(np.diag(values[:count]) + np.diag(side, 1) + np.diag(side, -1))
    return matrices


def density(found: pd.DataFrame, points: int = 400, width: float = 0.01) -> pd.DataFrame:
    """The spectrum as a curve: columns eigenvalue and density, which integrates to 1.

    found: from `spectrum`. width: of the Gaussian that every node becomes, in parts of the range.
    """
    values, weights = found["eigenvalue"].to_numpy(), found["weight"].to_numpy()
    reach = max(float(np.ptp(values)), 1e-12)
    at = np.linspace(values.min() - 5 * width * reach, values.max() + 5 * width * reach, points)
    each = np.exp(-0.5 * ((at[:, None] - values) / (width * reach)) ** 2)
    each /= width * reach * np.sqrt(2 * np.pi)
    return pd.DataFrame({"eigenvalue": at, "density": each @ weights / found["probe"].nunique()})


# --- a plane of the loss -------------------------------------------------------------------------


@dataclass(frozen=True)
class Plane:
    """The mean training loss on a plane of weights.

    loss: one row a point: across, up, loss (nats). places: where the models lie, (across, up).
    unit: what 1 along an axis is.
    """

    loss: pd.DataFrame
    places: tuple[tuple[float, float], ...]
    unit: str


def plane(
    model: nn.Module,
    splits: Splits,
    others: Sequence[nn.Module] = (),
    *,
    points: int = POINTS,
    reach: float = 1.0,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Plane:
    """The loss around a model along two random directions, or through it and two others.

    Random directions are normal, and each filter of them has the norm of the model's own filter;
    biases and scales keep their values. The plane then reaches from −reach to reach. Raises
    ValueError for one other model or more than two, for models of other shapes, and for models with
    batch norm, whose statistics belong to one set of weights, beside others.
    """
    at = nn.utils.parameters_to_vector(model.parameters()).detach().double()
    if others:
        first, second, places = _through(model, at, others)
        ends = [(min(axis) - MARGIN, max(axis) + MARGIN) for axis in zip(*places, strict=True)]
        unit = "distance of two models"
    else:
        first, second = filter_normalised(model, seed), filter_normalised(model, seed + 1)
        places, ends, unit = ((0.0, 0.0),), [(-reach, reach)] * 2, "filter norm"
    across, up = (np.linspace(low, high, points) for low, high in ends)
    x, y = drawn(splits.train, samples, seed, torch.float64)
    whole = copy.deepcopy(model).double().eval()
    rows = []
    with torch.no_grad(), Replicas.stack([whole] * points).undisturbed("eval") as replicas:
        steps = torch.from_numpy(across).to(at)[:, None] * first
        for height in up:
            moved = (at + steps + height * second).to(replicas.parameters)
            logits = replicas.forward(moved, shared_inputs=True)(x)
            losses = cross_entropy(logits, y.expand(points, -1)).mean(1).numpy(force=True)
            rows.append(pd.DataFrame({"across": across, "up": height, "loss": losses}))
    return Plane(pd.concat(rows, ignore_index=True), places, unit)


def filter_normalised(model: nn.Module, seed: int) -> Float[Tensor, "parameter"]:
    """A random direction whose filters, rows of a linear layer, have the norms of the model's own;
    0 for biases and scales. In the order of `model.parameters()`."""
    generator = torch.Generator().manual_seed(seed)
    pieces = []
    for value in model.parameters():
        values = value.detach().double().cpu()
        way = torch.randn(values.shape, generator=generator, dtype=torch.float64)
        if values.dim() < 2:
            pieces.append(torch.zeros_like(way).flatten())
            continue
        rows, own = way.flatten(1), values.flatten(1).norm(dim=1, keepdim=True)
        pieces.append((rows * own / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)).flatten())
    return torch.cat(pieces).to(next(model.parameters()).device)


def _through(
    model: nn.Module, at: Tensor, others: Sequence[nn.Module]
) -> tuple[Tensor, Tensor, tuple[tuple[float, float], ...]]:
    """Two directions of equal length at right angles, and the models' places along them."""
    if len(others) != 2:
        raise ValueError(f"{len(others)} other models; needed: none, or two for a plane")
    if any(True for _ in model.buffers()):
        raise ValueError(
            "a plane through models with buffers, as of batch norm; allowed: one model"
        )
    vectors = [nn.utils.parameters_to_vector(one.parameters()).detach().to(at) for one in others]
    if any(vector.shape != at.shape for vector in vectors):
        sizes = ", ".join(str(len(vector)) for vector in (at, *vectors))
        raise ValueError(f"models of {sizes} parameters; needed: of one architecture")
    first = vectors[0] - at
    length = first.norm()
    to_third = vectors[1] - at
    along = float(to_third @ first / length**2)
    aside = to_third - along * first
    height = float(aside.norm() / length)
    if not height > 1e-6:
        raise ValueError("three models on a line; needed: three that differ")
    return first, aside / height, ((0.0, 0.0), (1.0, 0.0), (along, height))
