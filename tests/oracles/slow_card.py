"""What a report card measures, sample by sample in plain Python, and one model at a time."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    raised = [math.exp(v - top) for v in row]
    return [v / sum(raised) for v in raised]


def expected_calibration_error(logits: Tensor, y: Tensor, bins: int = 15) -> float:
    """Percent; a confidence on an edge belongs to the bin below."""
    inside: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(logits.tolist(), y.tolist(), strict=True):
        p = softmax(row)
        place = next(k for k in range(bins) if max(p) <= (k + 1) / bins + 1e-15)
        inside.setdefault(place, []).append((max(p), p.index(max(p)) == label))
    total = 0.0
    for members in inside.values():
        confidence = sum(c for c, _ in members) / len(members)
        accuracy = sum(right for _, right in members) / len(members)
        total += len(members) / len(y) * abs(confidence - accuracy)
    return 100 * total


def area_under_risk_coverage(confidence: list[float], correct: list[bool]) -> float:
    """Percent; mean over all orders of samples that are equally confident."""
    n, area = len(confidence), 0.0
    for k in range(1, n + 1):
        order = sorted(confidence, reverse=True)
        last = order[k - 1]
        surely = [i for i in range(n) if confidence[i] > last]
        tied = [i for i in range(n) if confidence[i] == last]
        wrong = sum(not correct[i] for i in surely)
        wrong += (k - len(surely)) * sum(not correct[i] for i in tied) / len(tied)
        area += wrong / k
    return 100 * area / n


def pairs_in_order(known: list[float], strange: list[float]) -> float:
    """AUROC in percent, by looking at every pair."""
    won = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in known for b in strange)
    return 100 * won / len(known) / len(strange)


def pgd(
    model: nn.Module, x: Tensor, y: Tensor, start: Tensor, size: Tensor, step: Tensor, steps: int,
    low: Tensor, high: Tensor,
) -> Tensor:  # fmt: skip
    """L∞ PGD of one model, sample by sample."""

    def moved(at: Tensor, gradient: Tensor, one: Tensor) -> Tensor:
        return torch.max(torch.min(at + step * gradient.sign(), one + size), one - size)

    return _attacked(model, x, y, start, steps, low, high, moved)


def pgd_l2(
    model: nn.Module, x: Tensor, y: Tensor, start: Tensor, size: float, step: float, steps: int,
    low: Tensor, high: Tensor,
) -> Tensor:  # fmt: skip
    """L2 PGD of one model, sample by sample."""

    def moved(at: Tensor, gradient: Tensor, one: Tensor) -> Tensor:
        change = at + step * gradient / gradient.norm() - one
        if change.norm() > size:
            change = change * size / change.norm()
        return one + change

    return _attacked(model, x, y, start, steps, low, high, moved)


def _attacked(
    model: nn.Module, x: Tensor, y: Tensor, start: Tensor, steps: int, low: Tensor, high: Tensor,
    moved: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:  # fmt: skip
    """moved: from where a sample is, the gradient of its loss and the clean sample, to where it is
    after a step, which is then kept from low to high."""
    found = []
    for one, label, at in zip(x, y, start, strict=True):
        at = at.clone()
        for _ in range(steps):
            at.requires_grad_()
            loss = nn.functional.cross_entropy(model(at[None]), label[None])
            (gradient,) = torch.autograd.grad(loss, at)
            at = torch.max(torch.min(moved(at.detach(), gradient, one), high), low)
        found.append(at)
    return torch.stack(found)


def margin(model: nn.Module, x: Tensor, label: int) -> float:
    """The true class's logit less the largest other."""
    with torch.no_grad():
        logits = model(x[None])[0].tolist()
    return logits[label] - max(v for k, v in enumerate(logits) if k != label)


def spsa(
    model: nn.Module, x: Tensor, y: Tensor, ways: list[list[Tensor]], size: Tensor, step: Tensor,
    low: Tensor, high: Tensor,
) -> Tensor:  # fmt: skip
    """SPSA of one model, sample by sample. ways: of each step, directions of −1 and 1 for all
    samples."""
    found = []
    for place, (one, label) in enumerate(zip(x, y.tolist(), strict=True)):
        at = one.clone()
        for directions in ways:
            estimate = torch.zeros_like(one)
            for way in directions:
                reach = 0.1 * size * way[place]
                estimate += (
                    margin(model, at - reach, label) - margin(model, at + reach, label)
                ) * (way[place])
            at = at + step * estimate.sign()
            at = torch.max(torch.min(at, one + size), one - size)
            at = torch.max(torch.min(at, high), low)
        found.append(at)
    return torch.stack(found)


def el2n(model: nn.Module, x: Tensor, label: int) -> float:
    with torch.no_grad():
        p = softmax(model(x[None])[0].tolist())
    return math.sqrt(sum((v - (k == label)) ** 2 for k, v in enumerate(p)))


def changes_by_adjustment(
    model: nn.Module, x: Tensor, y: Tensor, adjustment: tuple[int, int, int], strength: float
) -> tuple[float, float]:
    """Mean changes of EL2N and GraNd when an adjustment moves each sample by its own map."""
    errors, norms = [], []
    for one, label in zip(x, y, strict=True):
        at = one.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(at[None]), label[None])
        (gradient,) = torch.autograd.grad(loss, at)
        order = gradient.flatten().argsort().tolist()
        tenth = len(order) // 10
        moved = one.flatten().clone()
        for rank, feature in enumerate(order):
            category = 0 if rank < tenth else 2 if rank >= len(order) - tenth else 1
            moved[feature] += strength * adjustment[category]
        moved = moved.reshape(one.shape)
        errors.append(el2n(model, moved, int(label)) - el2n(model, one, int(label)))
        pair = torch.stack([moved, one])
        after, before = gradient_norms(model, pair, label.expand(2))
        norms.append(after - before)
    return sum(errors) / len(x), sum(norms) / len(x)


def hessian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The whole Hessian of the mean loss with respect to all parameters."""
    names = [name for name, _ in model.named_parameters()]
    shapes = [value.shape for _, value in model.named_parameters()]
    flat = torch.cat([value.detach().flatten() for _, value in model.named_parameters()])

    def loss(point: Tensor) -> Tensor:
        values, at = {}, 0
        for name, shape in zip(names, shapes, strict=True):
            values[name] = point[at : at + shape.numel()].reshape(shape)
            at += shape.numel()
        logits = torch.func.functional_call(model, values, (x,))
        return nn.functional.cross_entropy(logits, y)

    return torch.autograd.functional.hessian(loss, flat)


def adaptive_sharpness(model: nn.Module, x: Tensor, y: Tensor, rho: float, steps: int) -> float:
    """The highest rise of the loss on an ascent in relative changes of the weights."""
    parameters = list(model.parameters())
    start = [value.detach().clone() for value in parameters]
    relative = [torch.zeros_like(value) for value in start]

    def place() -> float:
        with torch.no_grad():
            for value, origin, change in zip(parameters, start, relative, strict=True):
                value.copy_(origin + change * origin.abs())
            return float(nn.functional.cross_entropy(model(x), y))

    def norm(pieces: list[Tensor]) -> float:
        return math.sqrt(sum(float(piece.square().sum()) for piece in pieces))

    base = place()
    highest = base
    for _ in range(steps):
        highest = max(highest, place())
        loss = nn.functional.cross_entropy(model(x), y)
        gradient = torch.autograd.grad(loss, parameters)
        scaled = [g * origin.abs() for g, origin in zip(gradient, start, strict=True)]
        length = norm(scaled)
        relative = [r + rho / 4 * s / length for r, s in zip(relative, scaled, strict=True)]
        size = norm(relative)
        if size > rho:
            relative = [r * rho / size for r in relative]
    highest = max(highest, place())
    for value, origin in zip(parameters, start, strict=True):
        value.data.copy_(origin)
    return highest - base


def gradient_norms(model: nn.Module, x: Tensor, y: Tensor) -> list[float]:
    """GraNd: the norm of the gradient of every sample."""
    norms = []
    for one, label in zip(x, y, strict=True):
        loss = nn.functional.cross_entropy(model(one[None]), label[None])
        pieces = torch.autograd.grad(loss, list(model.parameters()))
        norms.append(math.sqrt(sum(float(piece.square().sum()) for piece in pieces)))
    return norms


def cka(a: Tensor, b: Tensor) -> float:
    """Linear CKA by centred Gram matrices (HSIC)."""
    n = len(a)
    centre = torch.eye(n, dtype=torch.float64) - 1 / n

    def hsic(x: Tensor, z: Tensor) -> float:
        return float(torch.trace(centre @ (x @ x.T) @ centre @ (z @ z.T)))

    return hsic(a, b) / math.sqrt(hsic(a, a) * hsic(b, b))


def loss_at(model: nn.Module, point: Tensor, x: Tensor, y: Tensor) -> float:
    """The mean loss of a model whose parameters are these, in the order of `parameters()`."""
    other = copy.deepcopy(model).eval()
    nn.utils.vector_to_parameters(point.to(next(other.parameters())), other.parameters())
    with torch.no_grad():
        return float(nn.functional.cross_entropy(other(x), y))
