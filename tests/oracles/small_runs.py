"""Small models trained with any method by the plain loop of `slow_methods`."""

import copy
from collections.abc import Callable

import torch
from oracles import slow_families, slow_methods
from oracles.slow_attribution import torch_cross_entropy
from oracles.tiny_data import make_splits
from torch import nn

from aba_core.architecture import initial_model
from aba_core.arms import TrainConfig
from aba_core.datasets import Splits
from aba_core.methods.base import Method
from aba_core.methods.decay import EarlyStopping
from aba_core.randomness import batch_order, epoch_order

CLASSES = 3
SPLITS = make_splits((2, 6, 5), CLASSES)
CONFIG = TrainConfig(epochs=2, batch_size=5, optimizer="sgd", learning_rate=0.05, dtype="float64")


class Branched(nn.Module):
    """No chain: two paths that meet after the site "block.norm"."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential()
        self.block.add_module("conv", nn.Conv2d(2, 4, 3, padding=1))
        self.block.add_module("norm", nn.BatchNorm2d(4))
        self.skip = nn.Conv2d(2, 4, 1)
        self.out = nn.Linear(4 * 30, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.block(x) + self.skip(x)).flatten(1))


def chained() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.ReLU(), nn.Conv2d(4, 3, 3)),
        nn.Flatten(),
        nn.Linear(3 * 12, CLASSES),
    )


def plain_run(
    build: Callable[[], nn.Module],
    method: Method,
    seed: int,
    config: TrainConfig = CONFIG,
    splits: Splits = SPLITS,
) -> nn.Module:
    """One model trained by `slow_methods.step` and PyTorch's SGD."""
    model = initial_model(build, seed, torch.float64)
    model = slow_families.architecture(method, model)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    best, kept = float("inf"), {}
    samples = len(splits.train)
    seeds = torch.tensor([seed])
    for number in range(config.steps(samples)):
        rows = batch_order(lambda e: epoch_order(seeds, e, samples), number, 5, samples)[0]
        x, y = splits.train.x[rows].double(), splits.train.y[rows]
        slow_methods.step(
            *(method, model, x, y, seed, number, torch_cross_entropy, method.site, CLASSES),
            config.steps(samples),
        )
        optimizer.step()
        last = number + 1 == config.steps(samples)
        if isinstance(method, EarlyStopping) and (last or (number + 1) % method.every == 0):
            validation = splits.validation
            with torch.no_grad():
                logits = copy.deepcopy(model).eval()(validation.x.double())
            value = float(torch_cross_entropy(logits, validation.y).mean())
            if value < best:
                best, kept = value, copy.deepcopy(model.state_dict())
    if kept:
        model.load_state_dict(kept)
    return model.eval()


def assert_same_model(model: nn.Module, expected: nn.Module) -> None:
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-9, atol=1e-9)
