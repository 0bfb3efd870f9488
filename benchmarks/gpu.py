"""The engine on a GPU: every way to run it against the plain loop in the same precision."""

from __future__ import annotations

import time

import torch

import aba_core.layers
from aba_core import TrainConfig
from aba_core.precision import products_in
from benchmarks.engine import SHAPES, config, engine_seconds, interleaved, synchronise
from benchmarks.peers import plain
from benchmarks.workloads import MENDABA, Workload, flops, made_up, made_up_work

BATCH = 50
# (data, model, replicas, steps, stacked convolutions, CUDA graphs, precision)
Case = tuple[str, str, int, int, str, bool, str]
GPU_CASES: list[Case] = [
    *(
        ("MNIST 28×28", "small_cnn", 135, 24, convolution, graphs, "full")
        for convolution in ("grouped", "auto")
        for graphs in (False, True)
    ),
    ("MNIST 28×28", "small_cnn", 135, 24, "auto", True, "tf32"),
    ("MNIST 28×28", "small_cnn", 135, 24, "auto", True, "bf16"),
    *(
        ("MNIST 28×28", "vgg11", 27, 12, convolution, True, precision)
        for convolution in ("grouped", "auto")
        for precision in ("full", "tf32", "bf16")
    ),
]
REHEARSED: Case = ("digits 8×8", "small_cnn", 2, 8, "grouped", False, "full")  # on a CPU


def measure_gpu(rounds: int) -> list[dict[str, object]]:
    """Every way to run the engine on a GPU, each against the plain loop in the same precision. A
    way that fails is a row that says how."""
    rows: list[dict[str, object]] = []
    for case in GPU_CASES:
        try:
            rows.append(measured(case, rounds, "cuda"))
        except (RuntimeError, torch.OutOfMemoryError) as error:
            rows.append(described(case) | {"error": str(error).split("\n")[0][:120]})
        print(rows[-1], flush=True)
    return rows


def described(case: Case) -> dict[str, object]:
    names = ("data", "model", "R", "steps", "convolution", "graphs", "precision")
    return {"batch": BATCH} | dict(zip(names, case, strict=True))


def measured(case: Case, rounds: int, device: str) -> dict[str, object]:
    """One way to run the engine against the plain loop, in turns."""
    data, model, replicas, steps, convolution, graphs, precision = case
    setting = config(steps, BATCH, model=model, precision=precision)
    splits = made_up(SHAPES[data])
    on_gpu = device == "cuda"
    aba_core.layers.STACKED_CONVOLUTION = convolution  # type: ignore[assignment]
    try:
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        plain, engine = interleaved(
            rounds,
            lambda: plain_seconds(setting, SHAPES[data], device),
            lambda: engine_seconds(setting, splits, MENDABA, replicas, device, graphs),
        )
    finally:
        aba_core.layers.STACKED_CONVOLUTION = "auto"
    work = flops(Workload("", model, SHAPES[data], BATCH, replicas))
    return described(case) | {
        "plain": plain[0] * 1e3, "engine": engine[0] * 1e3, "ratio": plain[0] / engine[0],
        "low": plain[1] / engine[2], "high": plain[2] / engine[1],
        "TFLOP/s": work / engine[0] / 1e12,
        "MB": torch.cuda.max_memory_allocated() / 2**20 / replicas if on_gpu else 0.0,
    }  # fmt: skip


def plain_seconds(setting: TrainConfig, shape: tuple[int, ...], device: str) -> float:
    """Seconds for a step of the plain loop, after a warm-up."""
    workload = Workload("", str(setting.model), shape, setting.batch_size, 1)
    ready, steps = plain(made_up_work(workload, 1, device=device)), setting.steps(100)

    with products_in(setting.precision, device):
        ready.run(0, max(2, steps // 4))
        synchronise(device)
        began = time.perf_counter()
        ready.run(0, steps)
        synchronise(device)
    return (time.perf_counter() - began) / steps


def table(rows: list[dict[str, object]]) -> str:
    text = (
        "| data | model | batch | R | convolutions | graphs | precision | plain loop, ms a step "
        "| engine, ms a model-step | TFLOP/s | MB a replica | ratio |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|\n"
    )
    for row in rows:
        text += (
            "| {data} | {model} | {batch} | {R} | {convolution} | {graphs} | {precision} "
        ).format(**row)
        text += (
            "| | | | | not measured: {error} |\n".format(**row)
            if "error" in row
            else "| {plain:.2f} | {engine:.3f} | {TFLOP/s:.1f} | {MB:.0f} | **{ratio:.0f}** "
            "[{low:.0f}, {high:.0f}] |\n".format(**row)
        )
    return text
