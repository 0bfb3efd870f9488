"""Every method again, one sample after the other in the plainest way: twins of `aba_core.methods`.

Shared with the package: names of fields and of purposes. Random numbers are those of
`counter_hash`.
"""

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from oracles import counter_hash, slow_families, slow_mixing
from oracles.slow_draws import beta, partners, uniform
from torch import Tensor, nn

from aba_core.methods.around import AnySite, Copies, During
from aba_core.methods.base import Method
from aba_core.methods.decay import WeightDecay
from aba_core.methods.dropout import Dropout
from aba_core.methods.guided import KeepAugment
from aba_core.methods.labels import LabelSmoothing
from aba_core.methods.mixing import CutMix, Mixed, Mixup
from aba_core.methods.norms import BatchGroupNorm, ExampleWeighing, GhostBatchNorm
from aba_core.methods.occlusion import Cutout
from aba_core.methods.sharpness import ASAM, SAM


def one_hot(y: Tensor, classes: int) -> Tensor:
    rows = torch.zeros(len(y), classes, dtype=torch.float64)
    for row, label in zip(rows, y.tolist(), strict=True):
        row[label] = 1.0
    return rows


def box(
    centre: tuple[float, float], sides: tuple[float, float], shape: tuple[int, int]
) -> np.ndarray:
    """Pixels inside a rectangle, one after the other."""
    inside = np.zeros(shape, dtype=bool)
    cuts = [math.floor(length * side) for length, side in zip(shape, sides, strict=True)]
    starts = [
        math.floor(middle * length) - cut // 2
        for middle, length, cut in zip(centre, shape, cuts, strict=True)
    ]
    for row in range(shape[0]):
        for column in range(shape[1]):
            inside[row, column] = all(
                start <= place < start + cut
                for place, start, cut in zip((row, column), starts, cuts, strict=True)
            )
    return inside


def changed(
    method: object,
    h: Tensor,
    y: Tensor,
    seed: int,
    step: int,
    classes: int,
    tail: Callable[[Tensor], Tensor] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The batch as the method changes it, sample by sample. h: [batch, *feature], float64."""
    batch = len(h)
    if isinstance(method, Mixup):
        order, labels = partners(seed, "mixup", step, batch), one_hot(y, classes)
        shares = [beta(seed, "mixup", step, i, method.alpha) for i in range(batch)]
        rows = [s * h[i] + (1 - s) * h[order[i]] for i, s in enumerate(shares)]
        mixed = [s * labels[i] + (1 - s) * labels[order[i]] for i, s in enumerate(shares)]
        return torch.stack(rows), torch.stack(mixed)
    if isinstance(method, Mixed):
        inputs, soft = slow_mixing.mixed(
            method, h.detach().numpy(), one_hot(y, classes).numpy(), seed, step
        )
        return torch.tensor(inputs), torch.tensor(soft)
    if isinstance(method, CutMix):
        order, labels = partners(seed, "cutmix", step, batch), one_hot(y, classes)
        rows, mixed = [], []
        for i in range(batch):
            side = math.sqrt(1 - beta(seed, "cutmix", step, i, method.alpha))
            centre = tuple(uniform(seed, "cutmix", step, n, i) for n in (300, 301))
            inside = box(centre, (side, side), tuple(h.shape[-2:]))
            row = h[i].clone()
            row[:, inside] = h[order[i]][:, inside]
            share = 1 - float(inside.mean())
            rows.append(row)
            mixed.append(share * labels[i] + (1 - share) * labels[order[i]])
        return torch.stack(rows), torch.stack(mixed)
    if isinstance(method, Cutout):
        rows = []
        for i in range(batch):
            centre = tuple(uniform(seed, "cutout", step, n, i) for n in (1, 2))
            row = h[i].clone()
            row[:, box(centre, (method.side, method.side), tuple(h.shape[-2:]))] = 0.0
            rows.append(row)
        return torch.stack(rows), y
    if isinstance(method, LabelSmoothing) and method.over == "all":
        return h, (1 - method.epsilon) * one_hot(y, classes) + method.epsilon / classes
    if isinstance(method, Dropout):
        flat = h.flatten(1)
        features = flat.shape[1]
        kept = [
            [
                uniform(seed, "dropout-method", step, 0, i * features + k) >= method.p
                for k in range(features)
            ]
            for i in range(batch)
        ]
        return (flat * torch.tensor(kept) / (1 - method.p)).reshape(h.shape), y
    if isinstance(method, Copies):
        parts = [
            changed(method.method, h, y, seed, step * method.copies + k, classes, tail, loss)
            for k in range(method.copies)
        ]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    if isinstance(method, KeepAugment):
        maps = slow_families.slow_map(method, h, y, seed, step, tail, loss)
        x, y = changed(method.method, h, y, seed, step, classes, tail, loss)
        for i in range(len(h)):
            window = slow_families.best_window(np.abs(maps[i]).sum(0), method.side)
            x[(i, slice(None), *window)] = h[(i, slice(None), *window)]
        return x, y
    if type(method).batch is Method.batch or isinstance(
        method, GhostBatchNorm | BatchGroupNorm | ExampleWeighing
    ):
        return h, y
    return slow_families.changed(
        method, h, y, seed, step, tail, loss, lambda y: one_hot(y, classes)
    )


def step(
    method: object,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    seed: int,
    number: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    site: str,
    classes: int,
    steps: int = 0,
) -> None:
    """One forward and backward pass in train mode, gradients left in `.grad`."""
    if isinstance(method, During):
        inside = method.start * steps <= number < method.end * steps
        held = method.method if inside else Method()
        return step(held, model, x, y, seed, number, loss, held.site, classes, steps)
    if isinstance(method, AnySite):
        place = counter_hash.bits(method.order, "any-site", number, 0)
        place = place - 2**64 if place >= 2**63 else place
        site = method.sites[place % len(method.sites)]
        return step(method.method, model, x, y, seed, number, loss, site, classes, steps)
    still = copy.deepcopy(model).eval()

    def change(h: Tensor) -> tuple[Tensor, Tensor]:
        return changed(method, h, y, seed, number, classes, still, loss)

    def through() -> Tensor:
        if site == "input":
            inputs, labels = change(x)
            return slow_families.losses(method, model(inputs), labels, loss).mean()
        holder = {}

        def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            h, holder["labels"] = change(output)
            return h

        handle = model.get_submodule(site).register_forward_hook(hook)
        logits = model(x)
        handle.remove()
        return loss(logits, holder["labels"]).mean()

    model.train()
    model.zero_grad()
    through().backward()
    for p in model.parameters():  # without influence is gradient 0, and not none
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    if isinstance(method, SAM | ASAM):
        adaptive = isinstance(method, ASAM)
        before = copy.deepcopy(model.state_dict())
        scales = [p.detach().abs() + method.eta if adaptive else 1.0 for p in model.parameters()]
        pairs = list(zip(model.parameters(), scales, strict=True))
        length = math.sqrt(sum(float(((t * p.grad) ** 2).sum()) for p, t in pairs))
        with torch.no_grad():
            for p, t in pairs:
                p += method.rho * t * t * p.grad / length
        model.zero_grad()
        through().backward()
        model.load_state_dict(before)  # batch norm's statistics too
    if isinstance(method, WeightDecay):
        for name, p in model.named_parameters():
            norm = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.BatchNorm2d)
            if {"all": True, "weights": p.dim() > 1, "norms": norm}[method.which]:
                p.grad += method.rate * p.detach()
    return None
