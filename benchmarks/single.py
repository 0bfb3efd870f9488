"""What a step of `trainer: single` costs over a loop written by hand, on one core.

    python -m benchmarks.single [--model resnet18_thin] [--steps 30]

Both do the same work with the same numbers of samples, with two models each; the four take their
steps in a drawn order in one process, and the CPU time of each is taken. "seam" is the whole step:
draws, method, loss, gradient, optimiser, schedule and the check for finite losses. What the two
loops by hand differ by is chance. On a small MLP nearly all of the difference is what the seam adds
to any step, in milliseconds.
"""

from __future__ import annotations

import argparse
import random
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


def measured(model: str, shape: tuple[int, ...], given: argparse.Namespace, method: bool) -> None:
    """Print what steps of this model take both ways. method: MendABA in place of Vanilla."""
    built = [build_model(model, shape, 200, "resnet" in model) for _ in range(4)]
    steps = {
        "by hand": by_hand(built[0], method),
        "by hand again": by_hand(built[1], method),
        "seam": by_seam(built[2], method, given.batch),
        "seam again": by_seam(built[3], method, given.batch),
    }
    seconds: dict[str, list[float]] = {which: [] for which in steps}
    order, draw = list(steps), random.Random(0)
    for number in range(given.steps + 3):
        x, y = torch.randn(given.batch, *shape), torch.randint(200, (given.batch,))
        draw.shuffle(order)
        for which in order:
            started = time.process_time()
            steps[which](number, x, y)
            if number >= 3:
                seconds[which].append(time.process_time() - started)
    hand, again, seam, seam_again = (1000 * statistics.median(seconds[name]) for name in steps)
    middle, of_seam = (hand + again) / 2, (seam + seam_again) / 2
    print(
        f"{model:14} {'MendABA' if method else 'Vanilla'}: by hand {middle:.2f} ms, seam "
        f"{of_seam:.2f} ms, {of_seam - middle:+.2f} ms or {100 * (of_seam / middle - 1):+.1f} %; "
        f"by hand twice {100 * abs(hand - again) / middle:.1f} % apart"
    )


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet18_thin")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()
    print(f"batches of {given.batch}, medians of {given.steps} steps, CPU time of one thread")
    for method in (False, True):
        measured(given.model, (3, 64, 64), given, method)
        measured("mlp", (1, 8, 8), given, method)


if __name__ == "__main__":
    main()
