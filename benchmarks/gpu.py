"""The engine on a GPU: every way to run it against the plain loop in the same precision."""

from __future__ import annotations

import time

import torch

import aba_core.layers
from aba_core import TrainConfig
from aba_core.precision import products_in
from benchmarks.engine import SHAPES, config, engine_seconds, interleaved, synchronise
from benchmarks.peers import plain
from benchmarks.workloads import MENDABA, Workload, made_up, made_up_work

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
                lambda s=setting, h=SHAPES[data]: plain_seconds(s, h, "cuda"),  # type: ignore[misc]
                lambda s=setting, d=splits, r=replicas, g=graphs: engine_seconds(  # type: ignore[misc]
                    s, d, MENDABA, r, "cuda", g
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
            aba_core.layers.STACKED_CONVOLUTION = "auto"
        rows.append(row)
        print(row, flush=True)
    return rows


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
