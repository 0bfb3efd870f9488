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
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import aba_core.layers
import aba_core.methods.aba
from aba_core import ABA, PRESETS, AdjustmentSet, Arm, Augmentation, TrainConfig, build_model
from aba_core.attribution import cross_entropy
from aba_core.datasets import Split, Splits, load_dataset
from aba_core.replicas import STACKED_UP_TO
from aba_core.steps import products_in
from aba_core.training import train
from analysis.plan import ARMS_ONE_BY_ONE, ARMS_TOGETHER
from benchmarks.plain_loop import plain_loop

README = Path(__file__).with_name("README.md")
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
    graphs: bool = False,
) -> float:
    """Seconds for a model-step: the steps' time alone, first quarter of the steps not counted."""
    steps = setting.steps(len(splits.train))
    times: list[float] = []

    def clock(_: int) -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())

    train(
        setting, arms(replicas, augmentation), [0], device,
        splits=splits, graphs=graphs, progress=clock,
    )  # fmt: skip
    warm = steps // 4
    return (times[-1] - times[warm]) / (len(times) - 1 - warm) / replicas


def plain_seconds(
    setting: TrainConfig, splits: Splits, augmentation: Augmentation | None, device: str = "cpu"
) -> float:
    """Seconds for a step of the plain loop."""
    x, y = splits.train.x.to(device), splits.train.y.to(device)
    steps = setting.steps(len(splits.train))
    with products_in(setting.precision, device):
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


def model_step_flops(setting: TrainConfig, shape: tuple[int, ...]) -> float:
    """Floating-point operations of products and convolutions in one step with ABA.

    A pass forward, one back to the inputs and one back to the weights take the same number F. So
    the map takes 2 F; training 3 F less the way back from the first layer to the inputs.
    """
    model = build_model(setting.model, shape, 10)
    layer = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    x = torch.randn(setting.batch_size, *shape)

    def forward(module: nn.Module) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(x)
        return counter.get_total_flops()

    return float(5 * forward(model) - forward(layer))


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interleaved(rounds: int, *actions: Callable[[], float]) -> list[tuple[float, float, float]]:
    """Each action's (median, lowest, highest) over rounds in which all take their turn."""
    found = [[action() for action in actions] for _ in range(rounds)]
    return [(statistics.median(v), min(v), max(v)) for v in zip(*found, strict=True)]


def measure_cpu(rounds: int, peak: float) -> list[dict[str, object]]:
    """The engine against the plain loop, with as many replicas as a study's chunks hold. peak: of
    sgemm, in GFLOP/s."""
    rows: list[dict[str, object]] = []
    cases = (
        ("digits 8×8", "small_cnn", 20, ARMS_TOGETHER, 60),
        ("MNIST 28×28", "small_cnn", 20, ARMS_ONE_BY_ONE, 48),
        ("MNIST 28×28", "small_cnn", 50, ARMS_ONE_BY_ONE, 32),
        ("CIFAR-10 32×32", "small_cnn", 50, ARMS_ONE_BY_ONE, 12),
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
                "peak": model_step_flops(setting, shape) / engine / 1e9 / peak,
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def measure_cost(rounds: int) -> list[dict[str, object]]:
    """Step with ABA over step without, in one single-threaded process, and the share of the step
    that drawing, selecting and adjusting take: the rest is passes through the model."""
    rows: list[dict[str, object]] = []
    mendaba = Augmentation(AdjustmentSet.parse("1,2,3,4,5,6"), strength=0.5)
    for data, batch, replicas, steps in (
        ("digits 8×8", 20, ARMS_TOGETHER, 60),
        ("MNIST 28×28", 20, ARMS_ONE_BY_ONE, 24),
        ("MNIST 28×28", 50, ARMS_ONE_BY_ONE, 16),
    ):
        setting, splits = config(steps, batch), made_up(SHAPES[data])
        (vanilla, *_), (aba, *_) = interleaved(
            3 * rounds,
            lambda s=setting, d=splits, r=replicas: engine_seconds(s, d, None, r),  # type: ignore[misc]
            lambda s=setting, d=splits, r=replicas: engine_seconds(s, d, mendaba, r),  # type: ignore[misc]
        )
        share = selecting_seconds(setting, splits, mendaba, replicas) / aba
        rows.append(
            {"data": data, "batch": batch, "R": replicas, "ratio": aba / vanilla, "share": share}
        )
        print(rows[-1], flush=True)
    return rows


def selecting_seconds(
    setting: TrainConfig, splits: Splits, augmentation: Augmentation, replicas: int
) -> float:
    """Seconds a model-step spends on drawing changes, selecting features and adjusting inputs."""
    spent = [0.0]

    def timed(action: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object) -> object:
            start = time.perf_counter()
            result = action(*arguments)
            spent[0] += time.perf_counter() - start
            return result

        return run

    parts = (
        (aba_core.methods.aba, "draw_changes"),
        (aba_core.methods.aba, "adjust"),
        (type(augmentation.split), "masks"),
    )
    with ExitStack() as changed:
        for place, name in parts:
            changed.enter_context(patch.object(place, name, timed(getattr(place, name))))
        train(setting, arms(replicas, augmentation), [0], splits=splits)
    return spent[0] / setting.steps(len(splits.train)) / replicas


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


def measure_presets(rounds: int) -> list[dict[str, object]]:
    """Step with a preset over vanilla step, one large model with `ABA` in a loop of one's own.

    Samples that need no map are skipped there: half of Challenger's, a quarter of FastABA's.
    """
    splits = made_up(SHAPES["CIFAR-10 32×32"], 20)
    x, y = splits.train.x, splits.train.y
    model = build_model("vgg11", splits.input_shape, 10)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)

    def step(aba: ABA | None) -> float:
        def once() -> None:
            inputs = x if aba is None else aba(model, x, y)
            optimizer.zero_grad()
            cross_entropy(model(inputs), y).mean().backward()
            optimizer.step()

        return _timed(once)

    # Single steps in turns, many of them: how many samples need a map varies from step to step, and
    # a number of samples that comes for the first time takes longer.
    presets = [None, *(ABA(name, strength=0.1) for name in PRESETS)]
    steps = [lambda aba=aba: step(aba) for aba in presets]  # type: ignore[misc]
    interleaved(15, *steps)
    (vanilla, *_), *rest = interleaved(20 * rounds, *steps)
    return [
        {"preset": name, "ratio": median / vanilla}
        for name, (median, *_) in zip(PRESETS, rest, strict=True)
    ]


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


# On a GPU: (data, model, replicas, steps, stacked convolutions, CUDA graphs, precision).
GPU_CASES = [
    *(
        ("MNIST 28×28", "small_cnn", 135, 24, convolution, graphs, "full")
        for convolution in ("grouped", "matmul")
        for graphs in (False, True)
    ),
    ("MNIST 28×28", "small_cnn", 135, 24, "matmul", True, "tf32"),
    ("MNIST 28×28", "small_cnn", 135, 24, "matmul", True, "bf16"),
    *(
        ("MNIST 28×28", "vgg11", 27, 12, convolution, True, precision)
        for convolution in ("grouped", "matmul")
        for precision in ("full", "tf32", "bf16")
    ),
]


def measure_gpu(rounds: int) -> list[dict[str, object]]:
    """Every way to run the engine on a GPU, each against the plain loop in the same precision. A
    way that fails is a row that says how."""
    rows: list[dict[str, object]] = []
    batch = 50
    for data, model, replicas, steps, convolution, graphs, precision in GPU_CASES:
        setting = config(steps, batch, model=model, precision=precision)
        splits = made_up(SHAPES[data])
        row: dict[str, object] = {
            "data": data, "model": model, "batch": batch, "R": replicas,
            "convolution": convolution, "graphs": graphs, "precision": precision,
        }  # fmt: skip
        aba_core.layers.STACKED_CONVOLUTION = convolution  # type: ignore[assignment]
        try:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            plain, engine = interleaved(
                rounds,
                lambda s=setting, d=splits: plain_seconds(s, d, ALL, "cuda"),  # type: ignore[misc]
                lambda s=setting, d=splits, r=replicas, g=graphs: engine_seconds(  # type: ignore[misc]
                    s, d, ALL, r, "cuda", g
                ),
            )
            row |= {
                "plain": plain[0] * 1e3, "engine": engine[0] * 1e3, "ratio": plain[0] / engine[0],
                "low": plain[1] / engine[2], "high": plain[2] / engine[1],
                "MB": torch.cuda.max_memory_allocated() / 2**20 / replicas,
            }  # fmt: skip
        except (RuntimeError, torch.OutOfMemoryError) as error:
            row["error"] = str(error).split("\n")[0][:120]
        finally:
            aba_core.layers.STACKED_CONVOLUTION = "grouped"
        rows.append(row)
        print(row, flush=True)
    return rows


def _gpu_table(rows: list[dict[str, object]]) -> str:
    text = (
        "| data | model | batch | R | convolutions | graphs | precision | plain loop, ms a step "
        "| engine, ms a model-step | MB a replica | ratio |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|\n"
    )
    for row in rows:
        text += (
            "| {data} | {model} | {batch} | {R} | {convolution} | {graphs} | {precision} "
        ).format(**row)
        text += (
            "| | | | not measured: {error} |\n".format(**row)
            if "error" in row
            else "| {plain:.2f} | {engine:.3f} | {MB:.0f} | **{ratio:.0f}** "
            "[{low:.0f}, {high:.0f}] |\n".format(**row)
        )
    return text


def _speed_table(rows: list[dict[str, object]]) -> str:
    head = (
        "| data | model | batch | R | plain loop, ms a step | engine, ms a model-step | ratio "
        "| of sgemm's peak |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        "| {data} | {model} | {batch} | {R} | {plain:.2f} | {engine:.2f} "
        "| **{ratio:.1f}** [{low:.1f}, {high:.1f}] | {peak:.0%} |\n".format(**row)
        for row in rows
    )


def _cpu_name() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _hardware(device: str, rounds: int) -> str:
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {device}; Python {platform.python_version()}, "
        f"torch {torch.__version__}; medians of {rounds} turns, ranges in brackets.\n"
    )


def cpu_report(rounds: int, quick: bool) -> tuple[str, dict[str, object]]:
    """The tables of what a CPU does, and their raw figures."""
    torch.set_num_threads(os.cpu_count() or 1)
    peak = sgemm_peak()
    cpu, cost, presets = measure_cpu(rounds, peak), measure_cost(rounds), measure_presets(rounds)
    growth = [] if quick else measure_growth()
    from_side, from_batch = (
        min(point[what] for point in GROWTH[name] if point[0] ** 2 * point[1] > STACKED_UP_TO)
        for what, name in enumerate(("image side", "batch"))
    )
    if growth:
        growth_plot(growth, README.with_name("growth"))
    device = f"{_cpu_name()}, {os.cpu_count()} cores, sgemm {peak:.0f} GFLOP/s on all cores"
    text = [
        _hardware(device, rounds),
        "### Engine against plain loop, target loss, set of all 27\n",
        _speed_table(cpu),
        "### Cost of ABA: step with MendABA over vanilla step (floor of two passes: 5/3)\n",
        "| data | batch | R | ratio | of it drawing, selecting and adjusting |\n"
        "|---|---|---|---|---|\n"
        + "".join(
            "| {data} | {batch} | {R} | {ratio:.2f} | {share:.1%} |\n".format(**row) for row in cost
        ),
        "### Cost of each preset on one vgg11, batch 20 of 32×32 pictures, all threads\n",
        "| preset | step over vanilla step |\n|---|---|\n"
        + "".join("| {preset} | {ratio:.2f} |\n".format(**row) for row in presets),
        "### Growth of time and memory (one process, one thread, small_cnn, MB above the start)\n",
        "![Time and memory per replica against replicas, arms, batch and image side](growth.svg)\n",
        f"Above {STACKED_UP_TO} input elements a batch (batch {from_batch}, side {from_side}) "
        "replicas go one by one: memory falls.\n",
        "| what grows | image side | batch | arms | R | ms a model-step | MB a replica |\n"
        "|---|---|---|---|---|---|---|\n"
        + "".join(
            "| {grows} | {side} | {batch} | {arms} | {R} | {ms:.2f} | {MB:.2f} |\n".format(**row)
            for row in growth
        ),
    ]
    figures = {"cpu": cpu, "cost": cost, "presets": presets, "growth": growth, "sgemm": peak}
    return "\n".join(text), figures


def gpu_report(rounds: int) -> tuple[str, dict[str, object]]:
    """The table of what a GPU does, and its raw figures."""
    rows = measure_gpu(rounds)
    head = "### Engine against plain loop in the same precision, target loss, set of all 27\n"
    device = torch.cuda.get_device_name()
    return "\n".join((_hardware(device, rounds), head, _gpu_table(rows))), {"gpu": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="one round, prints only")
    parser.add_argument("--only", choices=("cpu", "gpu"), help="default: what this machine has")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each measurement")
    parser.add_argument("--json", type=Path, help="write the raw figures here too")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    here = ("cpu", "gpu") if torch.cuda.is_available() else ("cpu",)
    if options.only and options.only not in here:
        parser.error("no GPU is visible to torch here")
    figures: dict[str, object] = {}
    for part in (options.only,) if options.only else here:
        report, found = gpu_report(rounds) if part == "gpu" else cpu_report(rounds, options.quick)
        print(report)
        figures |= found
        if not options.quick:
            write_between_marks(part, report)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def write_between_marks(part: str, report: str) -> None:
    """Put a report into the README's place for it; what was measured elsewhere stays."""
    begin, end = (f"<!-- measured on a {part.upper()}: {word} -->" for word in ("begin", "end"))
    before, _, rest = README.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    README.write_text(f"{before}{begin}\n{report}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
