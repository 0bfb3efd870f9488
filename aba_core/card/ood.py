"""Out of distribution: whether scores tell unfamiliar inputs from test samples.

Unfamiliar are Gaussian and uniform noise, test samples with features permuted, and samples of other
data sets. Positive is the test sample, as in the sources: Hendrycks and Gimpel 2017 (maximum
softmax), Liu et al. 2020 (energy), Lee et al. 2018 (Mahalanobis).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aba_core.card.subject import BATCH, Measured, Subject, drawn

FITTED = 2000  # training samples whose features Mahalanobis' distances go by
SCORES = ("softmax", "energy", "mahalanobis")
_RIDGE = 1e-3  # of the mean variance, added to each: few samples leave directions without any


def auroc(
    known: Float[Tensor, "*lead sample"], strange: Float[Tensor, "*lead other"]
) -> Float[Tensor, "*lead"]:
    """Chance in percent that a known sample's score is above a strange one's; ties count half."""
    ranked = strange.sort(-1).values
    below = torch.searchsorted(ranked, known.contiguous(), side="left")
    upto = torch.searchsorted(ranked, known.contiguous(), side="right")
    return 100.0 * ((below + upto).double() / 2).mean(-1) / strange.shape[-1]


def aupr(
    known: Float[Tensor, "*lead sample"], strange: Float[Tensor, "*lead other"]
) -> Float[Tensor, "*lead"]:
    """Average precision in percent of finding known samples: Σ (recall step) · precision, over the
    distinct scores."""
    ours, theirs = known.sort(-1).values, strange.sort(-1).values
    at = ours.contiguous()
    n, m = known.shape[-1], strange.shape[-1]
    found = n - torch.searchsorted(ours, at, side="left")
    taken = m - torch.searchsorted(theirs, at, side="left")
    return 100.0 * (found.double() / (found + taken)).mean(-1)


def fpr95(
    known: Float[Tensor, "*lead sample"], strange: Float[Tensor, "*lead other"]
) -> Float[Tensor, "*lead"]:
    """Share in percent of strange samples at or above the score that 95 % of the known reach."""
    n = known.shape[-1]
    least = n - -(-95 * n // 100)  # so many may lie below
    threshold = known.sort(-1).values[..., least, None]
    return 100.0 * (strange >= threshold).double().mean(-1)


def penultimate(
    model: nn.Module, x: Float[Tensor, "sample *feature"]
) -> Float[Tensor, "sample unit"]:
    """What enters the last linear layer; the logits of a model without any."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    entered: list[Tensor] = []
    handle = (
        layers[-1].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
        if layers
        else None
    )
    outputs = []
    try:
        with torch.no_grad():
            for part in x.split(BATCH):
                outputs.append(model(part).flatten(1))
    finally:
        if handle is not None:
            handle.remove()
    return torch.cat([one.flatten(1) for one in entered or outputs])


def mahalanobis(
    features: Float[Tensor, "sample unit"],
    fitted: Float[Tensor, "train unit"],
    y: Tensor,
    classes: int,
) -> Float[Tensor, "sample"]:
    """Minus the squared distance to the nearest class mean, in the training features' common
    within-class covariance."""
    fitted, features = fitted.double(), features.double()
    present = [label for label in range(classes) if bool((y == label).any())]
    means = torch.stack([fitted[y == label].mean(0) for label in present])
    place = torch.zeros(classes, dtype=torch.int64, device=y.device)
    place[present] = torch.arange(len(present), device=y.device)
    centred = fitted - means[place[y]]
    covariance = centred.T @ centred / len(fitted)
    scale = covariance.diagonal().mean().clamp(min=1e-12)
    covariance += _RIDGE * scale * torch.eye(len(covariance), dtype=torch.float64, device=y.device)
    root = torch.linalg.cholesky(covariance)
    # Whitened once each, about the middle of the means, so that little is lost in the differences.
    both = torch.cat([features, means]) - means.mean(0)
    white = torch.linalg.solve_triangular(root, both.T, upper=False).T
    ours, centres = white.split([len(features), len(means)])
    return -torch.stack([(ours - one).square().sum(1) for one in centres]).amin(0)


def strangers(subject: Subject) -> dict[str, Float[Tensor, "sample *feature"]]:
    """Inputs of other distributions, as many as there are test samples where there are so many."""
    x = subject.x
    low, high = x.amin(), x.amax()
    flat = x.flatten(1)
    order = subject.uniform(flat.shape, "ood permuted").argsort(1)
    return {
        "Gaussian noise": x.mean() + x.std() * subject.normal(x.shape, "ood normal"),
        "uniform noise": low + (high - low) * subject.uniform(x.shape, "ood uniform"),
        "permuted": flat.gather(1, order).reshape(x.shape),
        **{name: other[: len(x)].to(x) for name, other in subject.others.items()},
    }


def measure(subject: Subject) -> Measured:
    """Each score's AUROC, AUPR and FPR at 95 % TPR in percent, mean over the strange data sets."""
    sets = {"known": subject.x, **strangers(subject)}
    sizes = [len(x) for x in sets.values()]
    together = torch.cat(list(sets.values()))
    logits = subject.logits(together).double()
    train, y = drawn(subject.splits.train, FITTED, subject.settings.seed, subject.x.dtype)
    distances = []
    for model, healthy in zip(subject.models(), _finite(subject), strict=True):
        if not healthy:
            distances.append(torch.full((len(together),), float("nan"), dtype=torch.float64))
            continue
        features = penultimate(model, torch.cat([together, train]))
        known, fitted = features.split([len(together), len(train)])
        distances.append(mahalanobis(known, fitted, y, subject.splits.classes).cpu())
    scores = {
        "softmax": torch.softmax(logits, -1).amax(-1),
        "energy": torch.logsumexp(logits, -1),
        "mahalanobis": torch.stack(distances).to(logits),
    }
    table: dict[str, dict[str, Tensor]] = {}
    for score, values in scores.items():
        known, *others = values.split(sizes, dim=1)
        for name, other in zip(list(sets)[1:], others, strict=True):
            row = table.setdefault(name, {})
            row[f"auroc_{score}"] = auroc(known, other)
            row[f"aupr_{score}"] = aupr(known, other)
            row[f"fpr95_{score}"] = fpr95(known, other)
    subject.details["ood"] = table
    return {
        f"{measure}_{score}": torch.stack(
            [row[f"{measure}_{score}"] for row in table.values()]
        ).mean(0)
        for measure in ("auroc", "aupr", "fpr95")
        for score in SCORES
    }


def _finite(subject: Subject) -> list[bool]:
    """Which replicas have finite parameters: the covariance of others has no root."""
    return torch.isfinite(subject.replicas.parameters).all(1).tolist()
