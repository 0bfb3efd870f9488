"""Measure the engine with its kernels against the engine without, and what maps cost, and rewrite
the table of benchmarks/README.md.

    OMP_NUM_THREADS=1 python -m benchmarks.fused            about 8 minutes
    OMP_NUM_THREADS=1 python -m benchmarks.fused --quick    one turn of the small ones, prints only

Five trainings take turns in one process with one thread. Processor time is counted, so that a busy
machine disturbs little. Medians of the turns; of ratios, medians and ranges of the turns' own.
Data loading, initialisation and the first quarter of the steps, in which lagged maps are not there
yet, are left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import torch

from aba_core import Augmentation, kernels
from aba_core.training import train
from benchmarks import tables
from benchmarks.engine import config
from benchmarks.workloads import MENDABA, arms, made_up

MARK = "fused and not"


class Row(NamedTuple):
    """model, a sample's shape, batch, replicas, steps a turn: of 100 samples, so that the first
    epoch is at most a quarter of them."""

    model: str
    shape: tuple[int, ...]
    batch: int
    replicas: int
    steps: int


ROWS = {
    "digits 8×8": Row("small_cnn", (1, 8, 8), 20, 28, 80),
    "MNIST 28×28": Row("small_cnn", (1, 28, 28), 20, 7, 40),
    "CIFAR-10 32×32": Row("small_cnn", (3, 32, 32), 50, 7, 12),
    "MLP 28×28": Row("mlp", (1, 28, 28), 20, 7, 80),
    "News, 200 tokens": Row("text_cnn", (200, 100), 20, 2, 20),
    "vgg11 32×32": Row("vgg11", (3, 32, 32), 20, 2, 20),
}
SMALL = list(ROWS)[:4]
METHODS = {"vanilla": None, "MendABA": MENDABA, "lagged": replace(MENDABA, lagged=True)}
HEAD = (
    "| data | batch | R | vanilla without, ms | with | ratio | MendABA without, ms | with | ratio "
    "| MendABA over vanilla | lagged over vanilla |\n" + "|---" * 11 + "|"
)


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


def line(data: str, turns: int, without: bool) -> str:
    """A row of the table. without: whether the engine without kernels is measured too."""
    found: dict[tuple[str, bool], list[float]] = {}
    for _ in range(turns):
        for name, method in METHODS.items():
            for fused in (True, False) if without and name != "lagged" else (True,):
                found.setdefault((name, fused), []).append(seconds(data, method, fused))

    def ratio(one: Sequence[float], other: Sequence[float]) -> str:
        ratios = [a / b for a, b in zip(one, other, strict=True)]
        return f"**{statistics.median(ratios):.2f}** [{min(ratios):.2f}, {max(ratios):.2f}]"

    row = ROWS[data]
    cells = [data, str(row.batch), str(row.replicas)]
    for name in ("vanilla", "MendABA"):
        mine, plain = found[name, True], found.get((name, False), [])
        cells += [
            f"{1e3 * statistics.median(plain):.3f}" if plain else "",
            f"{1e3 * statistics.median(mine):.3f}",
            ratio(plain, mine) if plain else "",
        ]
    vanilla = found["vanilla", True]
    cells += [ratio(found[name, True], vanilla) for name in ("MendABA", "lagged")]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--data", nargs="+", choices=list(ROWS), metavar="NAME", default=list(ROWS))
    parser.add_argument("--maps", action="store_true", help="only with kernels, prints only")
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    if chosen.turns < 1:
        parser.error(f"turns is {chosen.turns}; allowed: whole numbers from 1")
    torch.set_num_threads(1)
    status = kernels.status()
    if not status.used:
        parser.error(f"no kernels: {status.why}")
    if chosen.quick:
        chosen.turns, chosen.data = 1, SMALL
    load = f"load {os.getloadavg()[0]:.0f}" if hasattr(os, "getloadavg") else "load unknown"
    lines = [HEAD]
    print(HEAD)
    for data in chosen.data:
        lines.append(line(data, chosen.turns, not chosen.maps))
        print(lines[-1], flush=True)
    if chosen.data == list(ROWS) and not (chosen.maps or chosen.quick):
        said = (
            f"Measured on {time.strftime('%Y-%m-%d')}: {tables.cpu_name()}, one thread, {load} "
            f"when it began; kernels {status.why}; torch {torch.__version__}; medians of "
            f"{chosen.turns} turns, ranges in brackets.\n"
        )
        tables.write_between_marks(tables.README, MARK, "\n".join([said, *lines]))


if __name__ == "__main__":
    main()
