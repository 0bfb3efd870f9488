"""Measure what a map needs whatever else is saved: its products, its categories and moving inputs.

    OMP_NUM_THREADS=1 python -m benchmarks.floors           about a minute, prints

A step with MendABA does one more pass, forward and back to the inputs; one with lagged maps asks
the pass that trains for the gradient to its inputs as well. Each is timed alone, as one call for
all replicas, beside a vanilla step of the engine. Their share of that step, and 1, is the least
that the ratio in the table of `benchmarks.fused` can be with these kernels: what is beyond it are
draws and small operations. A text CNN's training pass begins at the sums of the map's, and is
shorter than that of a vanilla step. Processor time, medians of turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from aba_core import build_model, kernels
from aba_core.attribution import cross_entropy
from aba_core.kernels import adjusting
from aba_core.replicas import Pass, Replicas
from aba_core.selection import Percentiles
from benchmarks.fused import ROWS, seconds
from benchmarks.workloads import CLASSES, MENDABA

HEAD = (
    "| data | vanilla step, µs | way back to inputs, beside that to weights | pass for a map alone "
    "| saved by beginning there | categories, moving | MendABA at least | lagged at least "
    "| products of lagged alone |\n" + "|---" * 9 + "|"
)
SPLIT = Percentiles(0.1, 0.9)


def parts(data: str) -> dict[str, Callable[[], object]]:
    """What is timed, each for all replicas of a row of `fused.ROWS`."""
    row = ROWS[data]
    torch.manual_seed(0)
    models = [build_model(row.model, row.shape, CLASSES) for _ in range(row.replicas)]
    replicas = Replicas.stack(models)
    x = torch.randn(row.replicas, row.batch, *row.shape)
    y = torch.arange(row.batch).expand(row.replicas, -1) % CLASSES

    def passed(weights: bool, inputs: bool, x: torch.Tensor = x) -> Callable[[], object]:
        flat = replicas.parameters.detach().requires_grad_(weights)
        at = x.detach().requires_grad_(inputs)
        forward = Pass(replicas, flat)
        asked = [value for value in (flat, at) if value.requires_grad]

        def run() -> object:
            with torch.no_grad():
                made = forward.slopes(at, y, cross_entropy, row.batch, (weights, inputs))
            if made is not None:
                return made
            total = cross_entropy(forward(at), y).sum() / row.batch
            return torch.autograd.grad(total, asked)

        return run

    shape = row.replicas, row.batch
    maps = torch.randn_like(x)
    rows = torch.randperm(row.replicas * row.batch).reshape(shape)
    kept = torch.zeros(row.replicas * row.batch, *row.shape, dtype=torch.uint8)
    drawn = adjusting.Drawn(
        torch.rand(shape, dtype=torch.float64),
        torch.randn(shape, dtype=torch.float64),
        torch.linspace(0, 1, 7, dtype=torch.float64)[1:-1].expand(row.replicas, -1).contiguous(),
        torch.tensor(MENDABA.adjustments.table(3)).float().repeat(row.replicas, 1, 1),
        torch.full((row.replicas,), 0.5, dtype=torch.float64),
    )

    moved = adjusting.moved(x, maps, SPLIT, drawn)
    assert drawn.magnitude is not None
    middle = drawn.table[0, :, 1][(6 * drawn.chosen).long()]
    replicas.near.begin(x)
    passed(False, True)()
    replicas.near.lead(moved, drawn.strength[:, None] * drawn.magnitude.abs() * middle)

    def lagged() -> object:
        adjusting.categorise(maps, SPLIT, rows, kept)
        return adjusting.moved_by_categories(x, kept, rows, SPLIT, drawn)

    return {
        "weights": passed(True, False, moved.clone()),
        "begun": passed(True, False, moved),
        "both": passed(True, True),
        "inputs": passed(False, True, x.clone()),
        "moving": lambda: adjusting.moved(x, maps, SPLIT, drawn),
        "lagged": lagged,
    }


def line(data: str, turns: int) -> str:
    row, found = ROWS[data], dict[str, list[float]]()
    timed = parts(data)
    for run in timed.values():
        run()
    for _ in range(turns):
        vanilla = seconds(data, {"vanilla": (None, True)})["vanilla"]
        found.setdefault("vanilla", []).append(1e6 * vanilla)
        for name, run in timed.items():
            started = time.process_time()
            for _ in range(row.steps):
                run()
            spent = (time.process_time() - started) / row.steps / row.replicas
            found.setdefault(name, []).append(1e6 * spent)
    us = {name: statistics.median(times) for name, times in found.items()}
    back, step = us["both"] - us["weights"], us["vanilla"]
    # Of other models both are one and the same pass.
    saved = us["weights"] - us["begun"] if ROWS[data].model == "text_cnn" else 0.0
    return (
        f"| {data} | {step:.0f} | {back:.0f} | {us['inputs']:.0f} | {saved:.0f} | "
        f"{us['moving']:.0f}, lagged {us['lagged']:.0f} | "
        f"{1 + (us['inputs'] - saved + us['moving']) / step:.2f} | "
        f"{1 + (back + us['lagged']) / step:.2f} | {1 + back / step:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--data", nargs="+", choices=list(ROWS), metavar="NAME", default=list(ROWS))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    status = kernels.status()
    if not status.used:
        parser.error(f"no kernels: {status.why}")
    print(HEAD)
    for data in chosen.data:
        print(line(data, chosen.turns), flush=True)


if __name__ == "__main__":
    main()
