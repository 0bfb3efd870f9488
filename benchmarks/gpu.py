"""The engine on a GPU: every way to run it against the plain loop in the same precision."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

import aba_core.layers
from aba_core import TrainConfig
from aba_core.precision import products_in
from aba_core.steps import Recorded
from benchmarks.engine import SHAPES, config, engine_seconds, interleaved, synchronise
from benchmarks.peers import Ready, in_category
from benchmarks.peers import plain as plain_loop
from benchmarks.workloads import MENDABA, Work, Workload, flops, made_up, made_up_work

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
        plain, engine, vanilla = interleaved(
            rounds,
            lambda: peer_seconds(plain_loop, setting, SHAPES[data], device),
            lambda: engine_seconds(setting, splits, MENDABA, replicas, device, graphs),
            lambda: engine_seconds(setting, splits, None, replicas, device, graphs),
        )
    finally:
        aba_core.layers.STACKED_CONVOLUTION = "auto"
    work = flops(Workload("", model, SHAPES[data], BATCH, replicas))
    return described(case) | {
        "plain": plain[0] * 1e3, "engine": engine[0] * 1e3, "ratio": plain[0] / engine[0],
        "low": plain[1] / engine[2], "high": plain[2] / engine[1],
        "vanilla": vanilla[0] * 1e3, "of_vanilla": engine[0] / vanilla[0],
        "TFLOP/s": work / engine[0] / 1e12,
        "MB": torch.cuda.max_memory_allocated() / 2**20 / replicas if on_gpu else 0.0,
    }  # fmt: skip


def peer_seconds(
    peer: Callable[[Work], Ready], setting: TrainConfig, shape: tuple[int, ...], device: str
) -> float:
    """Seconds for a step of another way to train one model, after a warm-up."""
    workload = Workload("", str(setting.model), shape, setting.batch_size, 1)
    ready, steps = peer(made_up_work(workload, 1, device=device)), setting.steps(100)

    with products_in(setting.precision, device, repeated=True):
        ready.run(0, max(Recorded.ordinary + 2, steps // 4))
        synchronise(device)
        began = time.perf_counter()
        ready.run(0, steps)
        synchronise(device)
    return (time.perf_counter() - began) / steps


def measured_captured(model: str, data: str, steps: int, precision: str, device: str) -> dict:
    """One model by `compiled_and_captured`, milliseconds a step."""
    setting = config(steps, BATCH, model=model, precision=precision)
    seconds = peer_seconds(compiled_and_captured, setting, SHAPES[data], device)
    return {"model": model, "precision": precision, "ms": seconds * 1e3}


def compiled_and_captured(work: Work) -> Ready:
    """One model as somebody would have it who wants it fast on a GPU: torch.compile on its passes,
    the whole step recorded as a CUDA graph. On a CPU the step is called."""
    device = work.x.device
    template = work.template().to(device, work.dtype).train()
    names = [name for name, _ in template.named_parameters()]
    values = [
        value.detach().to(device, work.dtype).requires_grad_()
        for value in work.models[0].parameters()
    ]
    optimizer = torch.optim.Adam(values, work.learning_rate, capturable=device.type == "cuda")
    features = work.x[0].numel()
    low, high = in_category(features), features - in_category(features)
    rows, change, magnitude = (
        drawn[0, 0].clone() for drawn in (work.rows, work.changes, work.magnitudes)
    )

    def summed(parameters: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(template, dict(zip(names, parameters, strict=True)), (x,))
        return functional.cross_entropy(logits, y, reduction="sum")

    fast = torch.compile(summed, dynamic=False)

    def step() -> None:
        x, y = work.x[rows].requires_grad_(), work.y[rows]
        (gradient,) = torch.autograd.grad(fast([value.detach() for value in values], x, y), x)
        with torch.no_grad():
            ranked = gradient.flatten(1).argsort(dim=1)
            shift = change[:, 1:2].repeat(1, features)
            shift.scatter_(1, ranked[:, :low], change[:, 0:1].expand(-1, low))
            shift.scatter_(1, ranked[:, high:], change[:, 2:3].expand(-1, features - high))
            moved = x + (magnitude[:, None] * shift).view_as(x)
        optimizer.zero_grad(set_to_none=True)
        (fast(values, moved, y) / len(y)).backward()
        optimizer.step()

    take = Recorded(step) if device.type == "cuda" else step

    def run(first: int, last: int) -> None:
        for number in range(first, last):
            at = number % len(work.rows)
            for kept, drawn in (
                (rows, work.rows), (change, work.changes), (magnitude, work.magnitudes)
            ):  # fmt: skip
                kept.copy_(drawn[at, 0])
            take()

    return Ready(run, lambda: torch.cat([value.detach().flatten() for value in values])[None])


def peaks(device: str) -> dict[str, float]:
    """What the device reaches: bytes a second of a copy, read and written, and floating-point
    operations of a large product of random numbers in each precision."""
    side, count = (8192, 2**30) if device == "cuda" else (256, 2**16)
    found = {}
    for name, dtype in (("full", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        one, two = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        with products_in("tf32" if name == "tf32" else "full", device):
            seconds = repeated_seconds(lambda a=one, b=two: a @ b, device)  # type: ignore[misc]
        found[f"{name} TFLOP/s"] = 2 * side**3 / seconds / 1e12
    source = torch.ones(count, device=device)
    to = torch.empty_like(source)
    found["TB/s"] = 8 * count / repeated_seconds(lambda: to.copy_(source), device) / 1e12
    return found


def repeated_seconds(action: Callable[[], object], device: str, times: int = 10) -> float:
    for _ in range(3):
        action()
    synchronise(device)
    began = time.perf_counter()
    for _ in range(times):
        action()
    synchronise(device)
    return (time.perf_counter() - began) / times


def table(rows: list[dict[str, object]]) -> str:
    text = (
        "| data | model | batch | R | convolutions | graphs | precision | plain loop, ms a step "
        "| engine, ms a model-step | of vanilla's | TFLOP/s | MB a replica | ratio |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
    )
    for row in rows:
        text += (
            "| {data} | {model} | {batch} | {R} | {convolution} | {graphs} | {precision} "
        ).format(**row)
        text += (
            "| | | | | | not measured: {error} |\n".format(**row)
            if "error" in row
            else "| {plain:.2f} | {engine:.3f} | {of_vanilla:.2f} | {TFLOP/s:.1f} | {MB:.0f} "
            "| **{ratio:.0f}** [{low:.0f}, {high:.0f}] |\n".format(**row)
        )
    return text
