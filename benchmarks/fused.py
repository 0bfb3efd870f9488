"""Measure the engine with its kernels against the engine without, and what maps cost, and rewrite
the table of benchmarks/README.md.

    OMP_NUM_THREADS=1 python -m benchmarks.fused            about 8 minutes
    OMP_NUM_THREADS=1 python -m benchmarks.fused --quick    one round of the small ones, prints only

Five trainings take turns of a few steps in one process, each in a thread of its own, and processor
time is counted: a busy machine disturbs all of them alike. Medians of several rounds; of ratios,
medians and ranges of the rounds' own. Data loading, initialisation and the first quarter of the
steps, in which lagged maps are not there yet, are left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
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
TURN = 4  # steps


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


def seconds(data: str, methods: Mapping[str, tuple[Augmentation | None, bool]]) -> dict[str, float]:
    """Processor seconds of a model-step of each. methods: an augmentation and whether with kernels,
    by name."""
    row = ROWS[data]
    times: dict[str, list[float]] = {name: [] for name in methods}
    failed: list[BaseException] = []
    waiting, change = deque(methods), threading.Condition()  # the first one's turn

    def take_turn(name: str) -> None:
        with change:
            change.wait_for(lambda: waiting[0] == name)

    def run(name: str, augmentation: Augmentation | None, fused: bool) -> None:
        def stepped(_: int) -> None:
            times[name].append(time.thread_time())
            if len(times[name]) % TURN == 0:
                with change:
                    waiting.rotate(-1)
                    change.notify_all()
                take_turn(name)

        take_turn(name)
        torch.set_num_threads(1)  # each thread has a number of its own
        try:
            with nullcontext() if fused else kernels.unfused():
                train(
                    config(row.steps, row.batch, model=row.model),
                    arms(row.replicas, augmentation), [0], "cpu",
                    splits=made_up(row.shape), progress=stepped,
                )  # fmt: skip
        except BaseException as error:
            failed.append(error)
        finally:
            with change:
                waiting.remove(name)
                change.notify_all()

    threads = [threading.Thread(target=run, args=(name, *how)) for name, how in methods.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    found = {}
    for name, ends in times.items():
        warm = len(ends) // 4
        found[name] = (ends[-1] - ends[warm]) / (len(ends) - 1 - warm) / row.replicas
    return found


def line(data: str, turns: int, without: bool) -> str:
    """A row of the table. without: whether the engine without kernels is measured too."""
    methods = {name: (method, True) for name, method in METHODS.items()}
    plain = {name: f"{name} without" for name in ("vanilla", "MendABA") if without}
    methods |= {other: (METHODS[name], False) for name, other in plain.items()}
    found: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(turns):
        for name, spent in seconds(data, methods).items():
            found[name].append(spent)

    def ratio(one: Sequence[float], other: Sequence[float]) -> str:
        ratios = [a / b for a, b in zip(one, other, strict=True)]
        return f"**{statistics.median(ratios):.2f}** [{min(ratios):.2f}, {max(ratios):.2f}]"

    row = ROWS[data]
    cells = [data, str(row.batch), str(row.replicas)]
    for name in ("vanilla", "MendABA"):
        mine, other = found[name], found.get(plain.get(name, ""), [])
        cells += [
            f"{1e3 * statistics.median(other):.3f}" if other else "",
            f"{1e3 * statistics.median(mine):.3f}",
            ratio(other, mine) if other else "",
        ]
    cells += [ratio(found[name], found["vanilla"]) for name in ("MendABA", "lagged")]
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
            f"{chosen.turns} rounds, ranges in brackets.\n"
        )
        tables.write_between_marks(tables.README, MARK, "\n".join([said, *lines]))


if __name__ == "__main__":
    main()
