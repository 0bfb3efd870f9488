"""How time and memory of a step grow with replicas, arms, batch and inputs."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from aba_core import AdjustmentSet, Arm, Augmentation
from aba_core.training import train
from benchmarks.engine import ALL, config
from benchmarks.workloads import made_up

# What grows, one thing at a time from a middle: (side of a picture, batch, replicas an arm, arms).
GROWTH = {
    "replicas": [(8, 20, r, 1) for r in (1, 2, 4, 8, 16, 32, 64, 128)],
    "arms": [(8, 20, 4, a) for a in (1, 2, 4, 8, 16, 27)],
    "batch": [(8, b, 16, 1) for b in (5, 10, 20, 40, 80, 160)],
    "image side": [(side, 20, 16, 1) for side in (8, 12, 16, 20, 24, 28, 32)],
}


def measure_growth() -> list[dict[str, object]]:
    """Time and memory of a step as one thing grows, each point in a process of its own."""
    rows: list[dict[str, object]] = []
    context = multiprocessing.get_context("spawn")
    for what, points in GROWTH.items():
        for point in points:
            with ProcessPoolExecutor(1, context) as alone:
                seconds, megabytes = alone.submit(_growth, point).result()
            side, batch, replicas, count = point
            rows.append(
                {
                    "grows": what, "side": side, "batch": batch, "R": replicas * count,
                    "arms": count, "ms": seconds * 1e3, "MB": megabytes,
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def _growth(point: tuple[int, int, int, int]) -> tuple[float, float]:
    """Seconds a model-step and megabytes a replica."""
    torch.set_num_threads(1)
    side, batch, replicas, count = point
    splits = made_up((1, side, side), max(100, batch))
    setting = config(24, batch)
    # Arms of several sets, so that their tables are padded to the largest.
    sets = [Augmentation(AdjustmentSet.parse(str(i)), 0.5, target="loss") for i in range(1, 27)]
    chosen = [Arm(f"{i}", a) for i, a in enumerate([ALL, *sets][:count])]
    seeds = list(range(replicas))
    train(config(4, batch), chosen[:1], [0], splits=splits)  # libraries are loaded
    before = _resident(reset=True)
    times: list[float] = []
    train(
        setting, chosen, seeds, splits=splits, progress=lambda _: times.append(time.perf_counter())
    )
    grown = _resident() - before
    seconds = statistics.median(b - a for a, b in zip(times[6:], times[7:], strict=False))
    members = replicas * count
    return seconds / members, grown / members


def _resident(reset: bool = False) -> float:
    """Peak resident memory of this process in MB since the last reset (Linux; NaN elsewhere)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def growth_plot(rows: list[dict[str, object]], path: Path) -> None:
    """Milliseconds and megabytes per replica against what grows."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    from analysis import figures

    keys = {"replicas": "R", "arms": "arms", "batch": "batch", "image side": "side"}
    with figures.style("paper"):
        figure, axes = plt.subplots(
            2, len(keys), figsize=(6.9, 3.2), layout="constrained", sharex="col", sharey="row"
        )
        for column, (what, key) in enumerate(keys.items()):
            own = [row for row in rows if row["grows"] == what]
            for ax, value in zip(axes[:, column], ("ms", "MB"), strict=True):
                ax.plot(
                    [r[key] for r in own], [r[value] for r in own], "o-", color="0.2", ms=3, lw=1
                )
                ax.set_xscale("log", base=2)
                ax.set_xticks([r[key] for r in own], [str(r[key]) for r in own], fontsize=6)
                ax.minorticks_off()
                ax.set_yscale("log")
                ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                ax.yaxis.set_major_formatter("{x:g}")
                ax.yaxis.set_minor_formatter(NullFormatter())
            axes[1, column].set_xlabel(
                {"R": "Replicas", "arms": "Arms of 4 runs", "batch": "Batch", "side": "Image side"}[
                    key
                ]
            )
        axes[0, 0].set_ylabel("ms a model-step")
        axes[1, 0].set_ylabel("MB a replica")
        figures.save_figure(figure, path, ("svg",))
        plt.close(figure)
