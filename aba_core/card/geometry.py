"""Geometry: curvature and sharpness of the loss in weights, slope and margins in inputs.

Sources: Keskar et al. 2017 and Yao et al. 2020 (eigenvalue, trace); Kwon et al. 2021 and
Andriushchenko et al. 2023 (adaptive sharpness); Elsayed et al. 2018 (distance to the boundary, to
first order).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from aba_core import kernels
from aba_core.card.attacks import _margin
from aba_core.card.subject import BATCH, Measured, Subject, drawn
from aba_core.mechanism import _first_layer, curvature
from aba_core.replicas import plain_attention

LANCZOS_STEPS, TRACE_PROBES = 15, 5
RHO = 0.5  # of adaptive sharpness: radius in relative changes of weights
ASCENT_STEPS = 10


def adaptive_sharpness(
    subject: Subject, x: Tensor, y: Tensor, rho: float = RHO, steps: int = ASCENT_STEPS
) -> Float[Tensor, "replica"]:
    """The most that the mean loss rises within ‖δ / |w|‖₂ ≤ ρ, by normalised ascent, in nats.

    A step of ρ / 4 along the gradient with respect to δ / |w|, then back into the ball; the highest
    loss on the way counts.
    """
    replicas = subject.replicas
    start = replicas.parameters.detach()
    labels = y.expand(len(replicas), -1)

    def loss(point: Tensor) -> Tensor:
        return subject.loss(replicas.forward(point, shared_inputs=True)(x), labels).mean(1)

    with torch.no_grad():
        base = loss(start)
    highest, relative = base.clone(), torch.zeros_like(start)
    for _ in range(steps):
        at = relative.clone().requires_grad_()
        losses = loss(start + at * start.abs())
        highest = torch.maximum(highest, losses.detach())
        (gradient,) = torch.autograd.grad(losses.sum(), at)
        length = gradient.norm(dim=1, keepdim=True).clamp(min=1e-12)
        relative = relative + rho / 4 * gradient / length
        size = relative.norm(dim=1, keepdim=True).clamp(min=1e-12)
        relative = relative * (rho / size).clamp(max=1.0)
    with torch.no_grad():
        highest = torch.maximum(highest, loss(start + relative * start.abs()))
    return (highest - base).double()


def margins(subject: Subject) -> tuple[Tensor, Tensor]:
    """Of every test sample: the margin of the logits, and that margin divided by the norm of its
    gradient, the distance to the boundary to first order. Each [replica, sample]."""
    forward = subject.replicas.forward(subject.replicas.parameters.detach())
    logit, distance = [], []
    for part, labels in zip(subject.x.split(BATCH), subject.y.split(BATCH), strict=True):
        at = part.expand(len(subject.replicas), *part.shape).clone().requires_grad_()
        margin = _margin(forward(at), labels)
        (gradient,) = torch.autograd.grad(margin.sum(), at)
        logit.append(margin.detach().double())
        norm = gradient.flatten(2).norm(dim=2).double()
        distance.append(logit[-1] / norm.clamp(min=1e-12))
    return torch.cat(logit, 1), torch.cat(distance, 1)


def measure(subject: Subject) -> Measured:
    """Curvature on training samples, margins and input gradients on test samples."""
    replicas, settings = subject.replicas, subject.settings
    x, y = drawn(subject.splits.train, settings.probed, settings.seed, subject.x.dtype)
    # `curvature` asks a probe for its seeds and counts alone.
    probe: Any = SimpleNamespace(
        seeds=torch.full((1, 1), settings.seed, device=x.device),
        lanczos_steps=LANCZOS_STEPS,
        trace_probes=TRACE_PROBES,
    )
    with kernels.unfused(), plain_attention():
        own = x.expand(len(replicas), *x.shape), y.expand(len(replicas), -1)
        curved = curvature(replicas, *own, probe, subject.loss)
        sharp = adaptive_sharpness(subject, x, y)
        logit, distance = margins(subject)
        clean = subject.x.expand(len(replicas), *subject.x.shape)
        slopes = subject.gradient(clean, subject.y).flatten(2).norm(dim=2)
    subject.details["margins"] = distance
    subject.details["hessian_trace_error"] = curved["trace_error"]
    return {
        "hessian_top": curved["eigenvalue"].to(sharp),
        "adaptive_sharpness": sharp,
        "margin": distance.nanquantile(0.5, dim=1),
        "input_gradient": slopes.double().mean(1),
        "hessian_trace": curved["trace"].to(sharp),
        "margin_low": distance.nanquantile(0.1, dim=1),
        "logit_margin": logit.nanquantile(0.5, dim=1),
        "first_layer_gradient": curved["gradient"][:, _first_layer(replicas)].norm(dim=1).double(),
    }
