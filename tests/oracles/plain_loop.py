"""One model trained with ordinary eager PyTorch: what every replica of the engine must equal.

Shared with the package: the initial model, the data and the names of fields. Everything else, from
random numbers to learning-rate schedules, is done again in the plainest way.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from oracles import counter_hash
from oracles.slow_attribution import Loss, torch_cross_entropy
from oracles.slow_augmentation import slow_aba
from oracles.slow_dropout import SlowDropout
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from aba_core.architecture import initial_model
from aba_core.arms import Arm, TrainConfig
from aba_core.datasets import Split, Splits
from aba_core.models import build_model


@dataclass
class PlainRun:
    """The trained model, and metrics and parameters after each step."""

    model: nn.Module
    metrics: list[dict[str, float]] = field(default_factory=list)
    parameters: list[Tensor] = field(default_factory=list)


def flat_parameters(model: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in model.parameters()])


def evaluate(model: nn.Module, splits: Splits, loss: Loss, dtype: torch.dtype) -> dict[str, float]:
    metrics = {}
    model.eval()
    kept = [value.clone() for value in model.buffers()]
    with torch.no_grad():
        for name in ("validation", "test", "train"):
            split: Split = getattr(splits, name)
            logits = model(split.x.to(dtype))
            right = (logits.argmax(1) == split.y).sum()
            metrics[f"{name}_accuracy"] = 100 * float(right) / len(split)
            metrics[f"{name}_loss"] = float(loss(logits, split.y).mean())
        for value, before in zip(model.buffers(), kept, strict=True):
            value.copy_(before)
    return metrics


def flip_last_bit(model: nn.Module, seed: int) -> None:
    """One weight that is not 0, its last bit changed in the bytes that hold it."""
    draw = counter_hash.bits(seed, "bit", 0, 0)
    draw = draw - 2**64 if draw >= 2**63 else draw
    values = [value for parameter in model.parameters() for value in parameter.flatten().tolist()]
    nonzero = [place for place, value in enumerate(values) if value != 0]
    place = nonzero[draw % len(nonzero)]
    for parameter in model.parameters():
        if place < parameter.numel():
            array = parameter.detach().numpy().reshape(-1)
            raw = bytearray(array[place].tobytes())
            raw[0] ^= 1  # little-endian: the last bit of the fraction
            array[place] = np.frombuffer(bytes(raw), array.dtype)[0]
            return
        place -= parameter.numel()


def plain_train(
    config: TrainConfig,
    arm: Arm,
    seed: int,
    splits: Splits,
    loss: Loss = torch_cross_entropy,
    build: Callable[[], nn.Module] | None = None,
    ordinary_dropout: bool = False,
) -> PlainRun:
    """Train one arm with one seed. ordinary_dropout: see `SlowDropout`."""
    dtype = getattr(torch, config.dtype)
    purposes = dict.fromkeys(counter_hash.STREAM, seed) | dict(arm.held)
    if build is None:

        def build() -> nn.Module:
            return build_model(config.model, splits.input_shape, splits.classes, config.batch_norm)

    model = initial_model(build, purposes["initialisation"], dtype)
    if arm.flip_bit:
        flip_last_bit(model, purposes["bit"])
    untrained = copy.deepcopy(model)
    dropout = SlowDropout(model, purposes["dropout"], ordinary_dropout)
    rate = arm.learning_rate or config.learning_rate
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adam":
        optimizer = torch.optim.Adam(model.parameters(), rate, weight_decay=config.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            model.parameters(), rate, config.momentum, weight_decay=config.weight_decay
        )
    samples = len(splits.train)
    steps = max(1, round(config.epochs * samples / config.batch_size))
    schedule: LRScheduler | None = None
    if config.schedule == "cosine":
        schedule = CosineAnnealingLR(optimizer, steps)
    elif config.schedule == "step":
        milestones = [-(-steps // 2), -(-3 * steps // 4)]
        schedule = MultiStepLR(optimizer, milestones, gamma=0.1)

    run = PlainRun(model)
    inputs = splits.train.x.to(dtype)
    last: dict[int, Tensor] = {}  # of a lagged method: each sample's last gradient
    for step in range(steps):
        rows = counter_hash.batch(purposes["order"], step, config.batch_size, samples)
        x, y = inputs[rows], splits.train.y[rows]
        dropout.step = step
        lagged = arm.method is not None and arm.method.lagged
        if lagged:
            maps = torch.stack([last.get(row, torch.zeros_like(x[0])) for row in rows])
            changed = slow_aba(model, x, y, arm.method, purposes, step, loss, maps=maps)
            known = [row in last for row in rows]
            x = torch.stack([changed[i] if known[i] else x[i] for i in range(len(x))])
            x.requires_grad_()
        elif arm.method is not None:
            x = slow_aba(
                model, x, y, arm.method, purposes, step, loss, untrained, rows=rows, steps=steps
            )
        model.train()
        for value in model.parameters():  # without influence is gradient 0, and not none
            value.grad = torch.zeros_like(value) if value.requires_grad else None
        loss(model(x), y).mean().backward()
        if lagged:
            last |= dict(zip(rows, x.grad, strict=True))
        optimizer.step()
        if schedule is not None:
            schedule.step()
        run.parameters.append(flat_parameters(model))
        run.metrics.append(evaluate(model, splits, loss, dtype))
    model.eval()
    return run
