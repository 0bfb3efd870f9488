"""What a step of `trainer: single` costs over a loop written by hand, on one core.

    python -m benchmarks.single [--model resnet18_thin] [--steps 30]

Both do the same work with the same numbers of samples; their steps alternate in one process, and
the CPU time of each is taken. "seam" is the whole step: draws, method, loss, gradient, optimiser,
schedule and the check for finite losses.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from aba_core import TrainConfig, build_model, method_of
from aba_core.attribution import cross_entropy
from aba_core.randomness import PURPOSES
from aba_core.single.step import SingleStep, Trained

STRENGTH, TOP_K = 0.1, 4


def mendaba_by_hand(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """MendABA as somebody would write it for one model."""
    model.eval()
    at = x.clone().requires_grad_()
    logits = model(at)
    rows = torch.arange(len(x))
    chosen = logits.topk(TOP_K).indices[rows, torch.randint(TOP_K, (len(x),))]
    (gradient,) = torch.autograd.grad(-logits[rows, chosen].sum(), at)
    model.train()
    flat = gradient.flatten(1)
    features = flat.shape[1]
    low, high = (
        flat.kthvalue(features // 10).values,
        flat.kthvalue(features - features // 10).values,
    )
    category = (flat > low[:, None]).long() + (flat > high[:, None]).long()
    table = torch.tensor(_TABLE, dtype=x.dtype)[torch.randint(len(_TABLE), (len(x),))]
    magnitude = STRENGTH * torch.randn(len(x), 1).abs()
    return x + (magnitude * table.gather(1, category)).reshape(x.shape)


# Low, middle and high of MendABA's six adjustments.
_TABLE = [tuple(each) for each in method_of("mendaba").adjustments.adjustments]  # type: ignore[union-attr]


def by_hand(model: nn.Module, with_method: bool) -> Callable[[int, Tensor, Tensor], None]:
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)

    def step(number: int, x: Tensor, y: Tensor) -> None:
        if with_method:
            x = mendaba_by_hand(model, x, y)
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def by_seam(model: nn.Module, with_method: bool, batch: int) -> Callable[..., None]:
    config = TrainConfig(
        batch_size=batch, epochs=100, optimizer="sgd", learning_rate=0.01, trainer="single"
    )
    method = method_of({"kind": "mendaba", "strength": STRENGTH}) if with_method else None
    seeds = dict.fromkeys(PURPOSES, 0)
    step = SingleStep(
        Trained(config, model, method, cross_entropy, 200, 100 * batch, seeds, 0.01, "cpu")
    )
    rows = torch.arange(batch)

    def run(number: int, x: Tensor, y: Tensor) -> None:
        step(number, x, y, rows)

    return run


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet18_thin")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=64)
    given = parser.parse_args()
    print(f"{given.model}, batch {given.batch}, medians of {given.steps} steps, CPU seconds")
    for name, with_method in (("Vanilla", False), ("MendABA", True)):
        seconds: dict[str, list[float]] = {"by hand": [], "seam": []}
        shape = (3, 64, 64)
        models = [build_model(given.model, shape, 200, "vit" not in given.model) for _ in range(2)]
        steps = {"by hand": by_hand(models[0], with_method),
                 "seam": by_seam(models[1], with_method, given.batch)}  # fmt: skip
        for number in range(given.steps + 3):
            x, y = torch.randn(given.batch, *shape), torch.randint(200, (given.batch,))
            order = list(steps) if number % 2 else list(steps)[::-1]
            for which in order:
                started = time.process_time()
                steps[which](number, x, y)
                if number >= 3:
                    seconds[which].append(time.process_time() - started)
        hand, seam = (statistics.median(seconds[which]) for which in ("by hand", "seam"))
        ratios = [s / h for s, h in zip(seconds["seam"], seconds["by hand"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{name:8} by hand {hand:.4f}, seam {seam:.4f}: {100 * (seam / hand - 1):+.1f} % "
            f"(quartiles of pairs {100 * (low - 1):+.1f} to {100 * (high - 1):+.1f} %)"
        )


if __name__ == "__main__":
    main()
