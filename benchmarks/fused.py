"""Measure the engine with its kernels against the engine without, in turns in one process; and what
maps cost.

    OMP_NUM_THREADS=1 python -m benchmarks.fused

One thread; processor time, so that a busy machine disturbs little; medians of the turns, and the
range of the turns' own ratios. Data loading, initialisation and the first quarter of the steps are
left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import torch

from aba_core import Augmentation, kernels
from aba_core.training import train
from benchmarks.engine import ALL, config
from benchmarks.workloads import arms, made_up


class Row(NamedTuple):
    """model, a sample's shape, batch, replicas, steps a turn."""

    model: str
    shape: tuple[int, ...]
    batch: int
    replicas: int
    steps: int


ROWS = {
    "digits 8×8": Row("small_cnn", (1, 8, 8), 20, 28, 80),
    "MNIST 28×28": Row("small_cnn", (1, 28, 28), 20, 7, 24),
    "CIFAR-10 32×32": Row("small_cnn", (3, 32, 32), 50, 7, 8),
    "MLP 28×28": Row("mlp", (1, 28, 28), 20, 7, 60),
    "News, 200 tokens": Row("text_cnn", (200, 100), 20, 2, 8),
    "vgg11 32×32": Row("vgg11", (3, 32, 32), 20, 2, 5),
}
METHODS = {"vanilla": None, "MendABA": ALL, "lagged": replace(ALL, lagged=True)}


def seconds(data: str, augmentation: Augmentation | None, fused: bool, **changes: object) -> float:
    """Processor seconds of a model-step."""
    row = ROWS[data]
    times: list[float] = []
    with nullcontext() if fused else kernels.unfused():
        train(
            config(row.steps, row.batch, model=row.model, **changes),
            arms(row.replicas, augmentation), [0], "cpu",
            splits=made_up(row.shape), progress=lambda _: times.append(time.process_time()),
        )  # fmt: skip
    warm = len(times) // 4
    return (times[-1] - times[warm]) / (len(times) - 1 - warm) / row.replicas


def line(
    turns: int, one: Callable[[], float], other: Callable[[], float]
) -> tuple[float, float, str]:
    """Median milliseconds of both, taken in turns, and their ratio with its range."""
    pairs = [(one(), other()) for _ in range(turns)]
    first, second = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = [a / b for a, b in pairs]
    spread = f"[{min(ratios):.2f}, {max(ratios):.2f}]"
    return 1e3 * first, 1e3 * second, f"**{first / second:.2f}** {spread}"


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
        row = ROWS[data]
        for name in ("vanilla", "MendABA"):
            method = METHODS[name]
            without, fused, ratio = line(
                chosen.turns,
                lambda: seconds(data, method, False),  # noqa: B023  called at once
                lambda: seconds(data, method, True),  # noqa: B023
            )
            print(
                f"| {data} | {row.batch} | {row.replicas} | {name} | {without:.3f} | {fused:.3f} "
                f"| {ratio} |",
                flush=True,
            )
    print("\n| data | method | its step over a vanilla step, both fused |\n|---|---|---|")
    for data in chosen.data:
        for name in ("MendABA", "lagged"):
            method = METHODS[name]
            *_, ratio = line(
                chosen.turns,
                lambda: seconds(data, method, True),  # noqa: B023
                lambda: seconds(data, None, True),  # noqa: B023
            )
            print(f"| {data} | {name} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
