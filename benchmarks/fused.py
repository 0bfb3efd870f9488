"""Measure the engine with its fused block against the engine without, in turns in one process.

    OMP_NUM_THREADS=1 python -m benchmarks.fused

One thread; processor time, so that a busy machine disturbs little; medians of the turns, and the
range of the turns' own ratios. Data loading, initialisation and the first quarter of the steps are
left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext

import torch

from aba_core import Augmentation, kernels
from aba_core.training import train
from benchmarks.engine import ALL, SHAPES, config
from benchmarks.workloads import arms, made_up

# data set: batch, replicas, steps a turn
ROWS = {
    "digits 8×8": (20, 28, 80),
    "MNIST 28×28": (20, 7, 24),
    "CIFAR-10 32×32": (50, 7, 8),
}


def seconds(data: str, augmentation: Augmentation | None, fused: bool, **changes: object) -> float:
    """Processor seconds of a model-step."""
    batch, replicas, steps = ROWS[data]
    times: list[float] = []
    with nullcontext() if fused else kernels.unfused():
        train(
            config(steps, batch, **changes), arms(replicas, augmentation), [0], "cpu",
            splits=made_up(SHAPES[data]), progress=lambda _: times.append(time.process_time()),
        )  # fmt: skip
    warm = len(times) // 4
    return (times[-1] - times[warm]) / (len(times) - 1 - warm) / replicas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--data", nargs="*", default=list(ROWS))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(kernels.status())
    print("| data | batch | R | method | without, ms | fused, ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    for data in chosen.data:
        batch, replicas, _ = ROWS[data]
        for name, method in (("vanilla", None), ("MendABA", ALL)):
            pairs = [
                (seconds(data, method, False), seconds(data, method, True))
                for _ in range(chosen.turns)
            ]
            without, fused = (statistics.median(times) for times in zip(*pairs, strict=True))
            ratios = [a / b for a, b in pairs]
            spread = f"[{min(ratios):.2f}, {max(ratios):.2f}]"
            print(
                f"| {data} | {batch} | {replicas} | {name} | {1e3 * without:.3f} "
                f"| {1e3 * fused:.3f} | **{without / fused:.2f}** {spread} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
