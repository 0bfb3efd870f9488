"""Measure the engine against the plain loop and rewrite the tables of benchmarks/README.md.

    make bench                                  everything this machine has, CPU and GPU
    python -m benchmarks.bench --quick          a minute, prints only

Every figure is a ratio of model-steps per second between the plain loop (`plain_loop.py`, all
threads, one model after another) and the engine (on CPU one single-threaded process per core),
measured in turns in one run, so that a busy machine slows both. Timing leaves out data loading,
initialisation and evaluation, and starts after a warm-up.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from aba_core import AdjustmentSet, Arm, Augmentation, TrainConfig
from aba_core.datasets import Split, Splits, load_dataset
from aba_core.training import train
from benchmarks.plain_loop import plain_loop

README = Path(__file__).with_name("README.md")
MARKS = ("<!-- measured: begin -->", "<!-- measured: end -->")
SHAPES = {"digits 8×8": (1, 8, 8), "MNIST 28×28": (1, 28, 28), "CIFAR-10 32×32": (3, 32, 32)}
ALL = Augmentation(AdjustmentSet.parse("all"), strength=0.5, target="loss")


def made_up(shape: tuple[int, ...], samples: int = 100) -> Splits:
    """Normal inputs of a data set's shape: speed does not depend on what the pictures show."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.arange(count) % 10
        return Split(torch.randn(count, *shape, generator=generator), labels)

    parts = {"train": split(samples), "validation": split(10), "test": split(10)}
    return replace(load_dataset("digits"), **parts, input_shape=shape, name="made up")


def arms(count: int, augmentation: Augmentation | None) -> list[Arm]:
    return [Arm(f"{number}", augmentation) for number in range(count)]


def config(steps: int, batch: int, **changes: object) -> TrainConfig:
    fields = {
        "optimizer": "adam",
        "learning_rate": 0.002,
        "batch_size": batch,
        "model": "small_cnn",
    }
    return TrainConfig(epochs=steps * batch / 100, **{**fields, **changes})  # type: ignore[arg-type]


def engine_seconds(
    setting: TrainConfig,
    splits: Splits,
    augmentation: Augmentation | None,
    replicas: int,
    device: str = "cpu",
) -> float:
    """Seconds for a model-step: the steps' time alone, first quarter of the steps not counted."""
    steps = setting.steps(len(splits.train))
    times: list[float] = []

    def clock(_: int) -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())

    train(setting, arms(replicas, augmentation), [0], device, splits=splits, progress=clock)
    warm = steps // 4
    return (times[-1] - times[warm]) / (len(times) - 1 - warm) / replicas


def plain_seconds(
    setting: TrainConfig, splits: Splits, augmentation: Augmentation | None, device: str = "cpu"
) -> float:
    """Seconds for a step of the plain loop."""
    x, y = splits.train.x.to(device), splits.train.y.to(device)
    steps = setting.steps(len(splits.train))
    plain_loop(setting, Arm("a", augmentation), x, y, max(2, steps // 4))
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    plain_loop(setting, Arm("a", augmentation), x, y, steps)
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def _worker(
    setting: TrainConfig,
    shape: tuple[int, ...],
    augmentation: Augmentation | None,
    replicas: int,
    barrier: object,
    answers: object,
) -> None:
    torch.set_num_threads(1)
    splits = made_up(shape)
    barrier.wait()  # type: ignore[attr-defined]
    answers.put(engine_seconds(setting, splits, augmentation, replicas))  # type: ignore[attr-defined]


def parallel_engine_seconds(
    setting: TrainConfig, shape: tuple[int, ...], augmentation: Augmentation | None, replicas: int
) -> float:
    """Seconds for a model-step with one single-threaded process on every core at once."""
    context = multiprocessing.get_context("spawn")
    cores = os.cpu_count() or 1
    barrier, answers = context.Barrier(cores), context.Queue()
    task = (setting, shape, augmentation, replicas, barrier, answers)
    processes = [context.Process(target=_worker, args=task) for _ in range(cores)]
    for process in processes:
        process.start()
    seconds = [answers.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    return 1.0 / sum(1.0 / second for second in seconds)


def sgemm_peak() -> float:
    """Billions of floating-point operations a second of a large matrix product, all threads."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    torch.mm(a, b)
    best = min(_timed(lambda: torch.mm(a, b)) for _ in range(10))
    return 2 * 2048**3 / best / 1e9


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interleaved(rounds: int, *actions: Callable[[], float]) -> list[tuple[float, float, float]]:
    """Each action's (median, lowest, highest) over rounds in which all take their turn."""
    found = [[action() for action in actions] for _ in range(rounds)]
    return [(statistics.median(v), min(v), max(v)) for v in zip(*found, strict=True)]


def measure_cpu(rounds: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    cases = (
        ("digits 8×8", "small_cnn", 20, 14, 80),
        ("MNIST 28×28", "small_cnn", 20, 14, 24),
        ("MNIST 28×28", "small_cnn", 50, 14, 16),
        ("CIFAR-10 32×32", "small_cnn", 50, 7, 12),
    )
    for data, model, batch, replicas, steps in cases:
        setting = config(steps, batch, model=model)
        shape = SHAPES[data]
        plain_setting = config(steps * 4, batch, model=model)
        splits = made_up(shape)
        (plain, *plain_range), (engine, *engine_range) = interleaved(
            rounds,
            lambda setting=plain_setting, splits=splits: plain_seconds(setting, splits, ALL),  # type: ignore[misc]
            lambda setting=setting, shape=shape, r=replicas: parallel_engine_seconds(  # type: ignore[misc]
                setting, shape, ALL, r
            ),
        )
        rows.append(
            {
                "data": data, "model": model, "batch": batch, "R": replicas,
                "plain": plain * 1e3, "engine": engine * 1e3, "ratio": plain / engine,
                "low": plain_range[0] / engine_range[1], "high": plain_range[1] / engine_range[0],
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def measure_cost(rounds: int) -> list[dict[str, object]]:
    """Step with ABA over step without, in one single-threaded process."""
    rows: list[dict[str, object]] = []
    mendaba = Augmentation(AdjustmentSet.parse("1,2,3,4,5,6"), strength=0.5)
    for data, batch, replicas, steps in (("digits 8×8", 20, 14, 80), ("MNIST 28×28", 50, 7, 16)):
        setting, splits = config(steps, batch), made_up(SHAPES[data])
        (vanilla, *_), (aba, *_) = interleaved(
            rounds,
            lambda s=setting, d=splits, r=replicas: engine_seconds(s, d, None, r),  # type: ignore[misc]
            lambda s=setting, d=splits, r=replicas: engine_seconds(s, d, mendaba, r),  # type: ignore[misc]
        )
        rows.append({"data": data, "batch": batch, "R": replicas, "ratio": aba / vanilla})
        print(rows[-1], flush=True)
    return rows


def measure_growth() -> list[dict[str, object]]:
    """Seconds and memory of a model-step as R grows, each in a process of its own."""
    rows: list[dict[str, object]] = []
    for data in ("digits 8×8", "MNIST 28×28"):
        for replicas in (1, 4, 14, 28, 56):
            context = multiprocessing.get_context("spawn")
            answers = context.Queue()
            process = context.Process(target=_growth, args=(data, replicas, answers))
            process.start()
            seconds, megabytes = answers.get(timeout=600)
            process.join()
            rows.append(
                {"data": data, "R": replicas, "ms": seconds * 1e3, "MB per replica": megabytes}
            )
            print(rows[-1], flush=True)
    return rows


def _growth(data: str, replicas: int, answers: object) -> None:
    torch.set_num_threads(1)
    splits = made_up(SHAPES[data])
    batch, steps = (20, 40) if data.startswith("digits") else (50, 8)
    engine_seconds(config(4, batch), splits, ALL, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = engine_seconds(config(steps, batch), splits, ALL, replicas)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # A peak below that of loading the libraries does not show.
    megabytes = f"{grown / 1024 / replicas:.1f}" if grown else "not above the start-up peak"
    answers.put((seconds, megabytes))  # type: ignore[attr-defined]


def measure_gpu(rounds: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for data, model, batch, replicas, steps in (
        ("MNIST 28×28", "small_cnn", 50, 135, 40),
        ("MNIST 28×28", "vgg11", 50, 27, 20),
    ):
        setting, splits = config(steps, batch, model=model), made_up(SHAPES[data])
        plain, engine = interleaved(
            rounds,
            lambda s=setting, d=splits: plain_seconds(s, d, ALL, "cuda"),  # type: ignore[misc]
            lambda s=setting, d=splits, r=replicas: engine_seconds(s, d, ALL, r, "cuda"),  # type: ignore[misc]
        )
        rows.append(
            {
                "data": data, "model": model, "batch": batch, "R": replicas,
                "plain": plain[0] * 1e3, "engine": engine[0] * 1e3, "ratio": plain[0] / engine[0],
                "low": plain[1] / engine[2], "high": plain[2] / engine[1],
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def _speed_table(rows: list[dict[str, object]]) -> str:
    head = (
        "| data | model | batch | R | plain loop, ms a step | engine, ms a model-step | ratio |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        "| {data} | {model} | {batch} | {R} | {plain:.2f} | {engine:.2f} "
        "| **{ratio:.1f}** [{low:.1f}, {high:.1f}] |\n".format(**row)
        for row in rows
    )


def _cpu_name() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="one round, prints only")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each measurement")
    parser.add_argument("--json", type=Path, help="write the raw figures here too")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    torch.set_num_threads(os.cpu_count() or 1)
    peak = sgemm_peak()
    cpu = measure_cpu(rounds)
    cost = measure_cost(rounds)
    growth = [] if options.quick else measure_growth()
    gpu = measure_gpu(rounds) if torch.cuda.is_available() else []
    text = [
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {_cpu_name()}, {os.cpu_count()} cores, "
        f"sgemm {peak:.0f} GFLOP/s on all cores; Python {platform.python_version()}, "
        f"torch {torch.__version__}; medians of {rounds} turns, ranges in brackets.\n",
        "### CPU: engine against plain loop, target loss, set of all 27\n",
        _speed_table(cpu),
        "### Cost of ABA: step with MendABA over vanilla step (floor of two passes: 5/3)\n",
        "| data | batch | R | ratio |\n|---|---|---|---|\n"
        + "".join("| {data} | {batch} | {R} | {ratio:.2f} |\n".format(**row) for row in cost),
        "### Growth with R (one process, one thread)\n",
        "| data | R | ms a model-step | MB a replica |\n|---|---|---|---|\n"
        + "".join("| {data} | {R} | {ms:.2f} | {MB per replica} |\n".format(**r) for r in growth),
        "### GPU\n",
        f"{torch.cuda.get_device_name()}\n\n" + _speed_table(gpu)
        if gpu
        else "Not measured: this machine has no GPU. `benchmarks/gpu.sh` measures it.\n",
    ]
    report = "\n".join(text)
    print(report)
    if options.json:
        figures = {"cpu": cpu, "cost": cost, "growth": growth, "gpu": gpu, "sgemm": peak}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if not options.quick:
        before, _, rest = README.read_text(encoding="utf-8").partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        README.write_text(f"{before}{MARKS[0]}\n{report}\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
