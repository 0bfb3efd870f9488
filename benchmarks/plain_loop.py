"""The loop a careful researcher would write: one model, eager PyTorch, nothing stacked.

It does the same work as one replica of the engine: the same model, optimiser, batches of the same
size, the same augmentation in two passes. What is measured against it is speed, so it draws with
torch's own generator and looks at no metric.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from aba_core import Arm, TrainConfig, build_model


def plain_loop(config: TrainConfig, arm: Arm, x: Tensor, y: Tensor, steps: int) -> nn.Module:
    """Train one model for so many steps on x [sample, *feature], y [sample], percentiles 10/90."""
    classes = int(y.max()) + 1
    model = build_model(config.model, tuple(x.shape[1:]), classes, config.batch_norm).to(x.device)
    if config.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(
            model.parameters(), config.learning_rate
        )
    else:
        optimizer = torch.optim.SGD(model.parameters(), config.learning_rate, config.momentum)
    augmentation = arm.method
    if augmentation is not None:
        table = torch.tensor(augmentation.adjustments.table(3), dtype=x.dtype, device=x.device)
        weights = torch.tensor(augmentation.adjustments.weights, device=x.device)
    features = x[0].numel()
    low, high = round(0.1 * features), features - round(0.1 * features)
    order = torch.randperm(len(x), device=x.device)
    for step in range(steps):
        start = step * config.batch_size % (len(x) - config.batch_size + 1)
        rows = order[start : start + config.batch_size]
        batch, labels = x[rows], y[rows]
        if augmentation is not None:
            model.eval()
            inputs = batch.clone().requires_grad_()
            loss = functional.cross_entropy(model(inputs), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, inputs)
            ranked = gradient.flatten(1).argsort(dim=1)
            change = table[torch.multinomial(weights, len(batch), replacement=True)]
            shift = change[:, 1:2].repeat(1, features)
            shift.scatter_(1, ranked[:, :low], change[:, 0:1].expand(-1, low))
            shift.scatter_(1, ranked[:, high:], change[:, 2:3].expand(-1, features - high))
            magnitude = torch.randn(len(batch), 1, device=x.device).abs()
            batch = batch + (augmentation.strength * magnitude * shift).view_as(batch)
        model.train()
        optimizer.zero_grad()
        functional.cross_entropy(model(batch), labels).backward()
        optimizer.step()
    return model
