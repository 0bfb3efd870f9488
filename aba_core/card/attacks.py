"""Attacks: FGSM, PGD, SPSA and transfer, and the checks that tell whether they can be trusted.

Radii in L∞ are parts of the inputs' range for pictures, whose pixels stay within it; a [0, 1]
picture has range 1. Everything else is attacked in standardised units without bounds. Steps are
0.26 of the radius, the thesis' 0.0078 of 0.03. Start points are drawn once and shared by all
models. Sources: Madry et al. 2018; Uesato et al. 2018 (SPSA); Athalye, Carlini and Wagner 2018
(checks); Cubuk et al. 2017 (power law of adversarial error).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aba_core.card.subject import Measured, Subject, percent
from aba_core.replicas import Replicas

STEP = 0.26  # of the radius
STEPS = (5, 10, 20)
RESTARTS = 2
MULTIPLES = {"quarter": 0.25, "half": 0.5, "double": 2.0}
UNBOUNDED = 10.0  # standardised units: what stands for the whole range where there is none
SPSA_DIRECTIONS = 16
TOLERANCE = 2.0  # points; at least two samples
MASKED = 15.0  # points that a long or a blind attack may gain before gradients count as masked

Norm = Literal["linf", "l2"]


class SuspectAttackWarning(UserWarning):
    """An attack broke one of its own checks: its accuracies are upper bounds, not robustness."""


def radius(subject: Subject, epsilon: float, norm: Norm = "linf") -> Tensor:
    """The radius in the model's input units, a channel for pictures in L∞."""
    bounds = subject.bounds()
    scale = torch.ones((), dtype=subject.x.dtype, device=subject.x.device)
    if bounds is not None:
        scale = bounds[1] - bounds[0]
    if norm == "l2":
        return epsilon * scale.mean() * subject.x[0].numel() ** 0.5
    return epsilon * scale


def _lengths(x: Float[Tensor, "replica sample *feature"]) -> Tensor:
    """Each sample's L2 norm, with the axes to divide by it."""
    norm = x.flatten(2).norm(dim=2)
    return norm.reshape(*norm.shape, *[1] * (x.dim() - 2)).clamp(min=1e-12)


def _within(x: Tensor, clean: Tensor, size: Tensor, norm: Norm, bounds: tuple | None) -> Tensor:
    """The nearest allowed input: inside the ball around the clean one, and inside the range."""
    change = x - clean
    if norm == "linf":
        change = torch.minimum(torch.maximum(change, -size), size)
    else:
        change = change * (size / _lengths(change)).clamp(max=1.0)
    moved = clean + change
    return moved if bounds is None else torch.minimum(torch.maximum(moved, bounds[0]), bounds[1])


def fgsm(subject: Subject, x: Tensor, y: Tensor, size: Tensor) -> Tensor:
    """x + ε · sign(∇ loss), within the range. x: [sample, *feature]; returns [replica, ...]."""
    clean = x.expand(len(subject.replicas), *x.shape)
    moved = clean + size * subject.gradient(clean, y).sign()
    return _within(moved, clean, size, "linf", subject.bounds())


def pgd(
    subject: Subject,
    x: Tensor,
    y: Tensor,
    size: Tensor,
    steps: Sequence[int],
    *,
    norm: Norm = "linf",
    start: str = "pgd 0",
    replicas: Replicas | None = None,
) -> list[Float[Tensor, "replica sample *feature"]]:
    """The inputs after each of these numbers of steps, from one random start in the ball.

    replicas: the models that are attacked, by default the subject's own.
    """
    count = len(replicas if replicas is not None else subject.replicas)
    clean, bounds = x.expand(count, *x.shape), subject.bounds()
    if norm == "linf":
        shift = size * (2 * subject.uniform(x.shape, start) - 1)
    else:
        drawn = subject.normal(x.shape, start)[None]
        features = x[0].numel()
        length = subject.uniform((1, len(x)), f"{start} length") ** (1 / features)
        shift = (size * drawn / _lengths(drawn) * length.reshape(1, -1, *[1] * (x.dim() - 1)))[0]
    at, found = _within(clean + shift, clean, size, norm, bounds), []
    for step in range(1, max(steps) + 1):
        gradient = subject.gradient(at, y, replicas)
        way = gradient.sign() if norm == "linf" else gradient / _lengths(gradient)
        at = _within(at + STEP * size * way, clean, size, norm, bounds)
        if step in steps:
            found.append(at)
    return found


def spsa(subject: Subject, x: Tensor, y: Tensor, size: Tensor, steps: int) -> Tensor:
    """PGD with gradients estimated from outputs alone, by random simultaneous differences."""
    clean, bounds = x.expand(len(subject.replicas), *x.shape), subject.bounds()
    at = clean
    for step in range(steps):
        ways = 2.0 * (subject.uniform((SPSA_DIRECTIONS, *x.shape), f"spsa {step}") < 0.5) - 1.0
        estimate = torch.zeros_like(clean)
        for way in ways:
            reach = 0.1 * size * way
            rise = _margin(subject.own_logits(at - reach), y) - _margin(
                subject.own_logits(at + reach), y
            )
            estimate = estimate + rise.reshape(*rise.shape, *[1] * (x.dim() - 1)) * way
        at = _within(at + STEP * size * estimate.sign(), clean, size, "linf", bounds)
    return at


def _margin(logits: Tensor, y: Tensor) -> Float[Tensor, "replica sample"]:
    """The true class's logit less the largest other."""
    true = logits.gather(-1, y.expand(len(logits), -1)[..., None])[..., 0]
    rest = logits.scatter(-1, y.expand(len(logits), -1)[..., None], float("-inf"))
    return true - rest.amax(-1)


def _right(subject: Subject, x: Tensor, y: Tensor) -> Bool[Tensor, "replica sample"]:
    return subject.own_logits(x).argmax(-1) == y


def exponent(error: Float[Tensor, "replica point"], sizes: Sequence[float]) -> Tensor:
    """Slope of log error on log ε, over the points with an error between 0 and 0.9; NaN where fewer
    than two are left. Returns [replica]."""
    kept = ((error > 0) & (error < 0.9)).double()
    x = torch.tensor(sizes, dtype=torch.float64, device=error.device).log().expand_as(error)
    y = error.double().clamp(min=1e-12).log()
    n = kept.sum(-1)
    across = x - ((kept * x).sum(-1) / n.clamp(min=1))[:, None]
    slope = (kept * across * y).sum(-1) / (kept * across.square()).sum(-1).clamp(min=1e-12)
    return torch.where(n >= 2, slope, float("nan"))


def checks(measured: Measured, samples: int, alarm: int, chance: float) -> dict[str, Tensor]:
    """The checks of Athalye et al., by what must hold; true where it does, [replica].

    measured: accuracies in percent by the names of `quantities.ASPECTS`.
    """
    slack, few = max(TOLERANCE, 200.0 / samples), max(TOLERANCE, 200.0 / alarm)
    one = {name.removesuffix("_accuracy"): value for name, value in measured.items()}

    def never_helps(weaker: str, stronger: str, slack: float) -> Tensor:
        return ~(one[stronger] > one[weaker] + slack)

    held = {
        "more steps never help the model": never_helps("pgd5", "pgd10", slack)
        & never_helps("pgd10", "pgd20", slack)
        & never_helps("alarm_pgd20", "alarm_long", few),
        "a larger ε never helps the model": never_helps("pgd_at_quarter", "pgd_at_half", slack)
        & never_helps("pgd_at_half", "pgd20", slack)
        & never_helps("pgd20", "pgd_at_double", slack)
        & never_helps("pgd_at_double", "pgd_at_whole", slack),
        "steps beat one step": never_helps("fgsm", "pgd20", slack),
        "an unbounded attack wins": ~(one["pgd_at_whole"] > chance + slack),
        "1000 steps gain little over 20": ~(
            one["alarm_pgd20"] - one["alarm_long"] > max(MASKED, 200.0 / alarm)
        ),
        "outputs alone do not beat gradients": ~(
            one["alarm_pgd20"] - one["alarm_spsa"] > max(MASKED, 200.0 / alarm)
        ),
        "another model's gradients do not beat its own": ~(one["pgd20"] > one["transfer"] + slack),
    }
    return held


def measure(subject: Subject) -> Measured:
    """Accuracies in percent under each attack, the power law's exponent, and failed checks."""
    settings = subject.settings
    x, y = subject.x[: settings.attacked], subject.y[: settings.attacked]
    size = radius(subject, settings.epsilon)
    clean = subject.logits(x).argmax(-1) == y
    right = [clean] * len(STEPS)
    for restart in range(RESTARTS):
        found = pgd(subject, x, y, size, STEPS, start=f"pgd {restart}")
        right = [before & _right(subject, at, y) for before, at in zip(right, found, strict=True)]
    measured = {"fgsm_accuracy": percent(_right(subject, fgsm(subject, x, y, size), y) & clean)}
    for steps, hits in zip(STEPS, right, strict=True):
        measured[f"pgd{steps}_accuracy"] = percent(hits)
    (moved,) = pgd(subject, x, y, radius(subject, settings.epsilon_l2, "l2"), (20,), norm="l2")
    measured["pgd_l2_accuracy"] = percent(_right(subject, moved, y) & clean)
    whole = 1.0 / settings.epsilon if subject.pictures else UNBOUNDED / settings.epsilon
    for name, multiple in {**MULTIPLES, "whole": whole}.items():
        (moved,) = pgd(subject, x, y, multiple * size, (20,))
        measured[f"pgd_at_{name}_accuracy"] = percent(_right(subject, moved, y) & clean)
    measured["transfer_accuracy"] = _transferred(subject, x, y, size, clean)
    measured |= _alarm(subject, size)
    points = [measured[f"pgd_at_{name}_accuracy"] for name in ("quarter", "half")]
    points += [measured["pgd20_accuracy"], measured["pgd_at_double_accuracy"]]
    fooled = 1 - torch.stack(points, 1) / percent(clean).clamp(min=1e-9)[:, None]
    sizes = [settings.epsilon * multiple for multiple in (0.25, 0.5, 1.0, 2.0)]
    subject.details["attack_curve"] = {
        "epsilon": [0.0, *sizes], "accuracy": torch.stack([percent(clean), *points], 1)
    }  # fmt: skip
    measured["attack_exponent"] = exponent(fooled, sizes)
    held = checks(measured, len(x), min(settings.alarm, len(x)), 100.0 / subject.splits.classes)
    subject.details["attack_checks"] = held
    subject.details["attack_radius"] = size.flatten().tolist()
    measured["attack_suspect"] = torch.stack([~one for one in held.values()]).double().sum(0)
    return measured


def _alarm(subject: Subject, size: Tensor) -> Measured:
    """Long PGD and SPSA on a few samples, which tell whether gradients are masked."""
    settings = subject.settings
    x, y = subject.x[: settings.alarm], subject.y[: settings.alarm]
    clean = subject.logits(x).argmax(-1) == y
    steps = sorted({20, max(20, settings.long_steps)})
    found = pgd(subject, x, y, size, steps)
    blind = spsa(subject, x, y, size, settings.spsa_steps)
    return {
        "alarm_pgd20_accuracy": percent(_right(subject, found[0], y) & clean),
        "alarm_long_accuracy": percent(_right(subject, found[-1], y) & clean),
        "alarm_spsa_accuracy": percent(_right(subject, blind, y) & clean),
    }


def _transferred(subject: Subject, x: Tensor, y: Tensor, size: Tensor, clean: Tensor) -> Tensor:
    """Accuracy under PGD-10 on a model trained as usual with other seeds; NaN without one."""
    source = subject.usual
    if source is None:
        return torch.full((len(clean),), float("nan"), dtype=torch.float64)
    (moved,) = pgd(subject, x, y, size, (10,), start="transfer", replicas=source)
    return percent(_right(subject, moved, y) & clean)
