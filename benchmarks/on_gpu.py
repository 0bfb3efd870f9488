"""What a machine with a GPU is asked, in stages that each end within their limit and go on where
they stopped: whether its numbers are right, what recording changes, which kernels are fast, how
fast it is, and the published studies.

    python -m benchmarks.on_gpu STAGE --out FOLDER [--device cuda] [--limit SECONDS] [--again]

Each stage writes FOLDER/STAGE.json around every case, and skips the cases that are in it; --again
tries those that failed once more. With --device cpu everything is rehearsed at tiny sizes. It ends
with 0 when the stage is done, with 3 at its limit, and with 4 when a case broke the device for this
process: the next one goes on behind it.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from aba_core import METHODS, Arm, TrainConfig, convolutions, train
from aba_core.architecture import first_line
from aba_core.datasets import Splits
from aba_core.kernels import on_gpu
from aba_core.methods.aba import adjust
from aba_core.methods.base import stand_ins
from aba_core.models import MODELS
from aba_core.randomness import _bits, _unit_interval
from aba_core.selection import Percentiles, order_of_ties
from aba_core.threads import usable_cores
from benchmarks import gpu
from benchmarks.workloads import MENDABA, made_up

METRICS = ["validation_loss", "test_loss", "train_loss"]
PRECISE = dict(dtype="float64", batch_size=10, epochs=0.6, learning_rate=0.002)
Case = tuple[str, Callable[[], dict[str, Any]]]
# Studies in the order of what they teach: (study, data set, preset, precision).
MNIST = [("tension", "mnist", "published", "bf16"), ("isolation", "mnist", "published", "bf16")]
REST = [
    ("tension", "mnist", "published", "tf32"),
    ("benchmark", "mnist", "published", "bf16"),
    ("isolation", "news", "published", "tf32"),
    ("tension", "cifar10", "published", "bf16"),
    ("benchmark-bn", "mnist", "published", "bf16"),
    ("isolation", "cifar10", "published", "bf16"),
    ("benchmark", "news", "published", "tf32"),
    ("tension", "news", "published", "tf32"),
    ("benchmark", "cifar10", "published", "bf16"),
    ("benchmark-bn", "cifar10", "published", "bf16"),
]
TINY = ["--set", "epochs=1", "--seeds", "2"]


# --- cases ---------------------------------------------------------------------------------------


def parity(device: str) -> Iterator[Case]:
    """Triton's kernels at the sizes of the published data; then every model with every optimiser,
    and every method, in float64 against this machine's CPU. What takes that longest comes last."""
    if device == "cuda":
        yield "Triton: small examples", lambda: alike(on_gpu.disagreements(device))
        for features in (784, 3072, on_gpu.MOST_FEATURES):
            for rows in (7, 6750):
                name = f"Triton: {rows} samples of {features} features"
                yield name, lambda r=rows, f=features: alike(kernels_apart(r, f, device))
    compared = dict(_compared())
    expected = References(compared)
    try:
        for name, (config, arm) in compared.items():
            yield name, lambda n=name, c=config, a=arm: agreement(c, a, device, expected(n))
    finally:
        expected.close()


def _compared() -> Iterator[tuple[str, tuple[TrainConfig, Arm]]]:
    deep = [model for model in MODELS if model.startswith("vgg")]
    for model in MODELS:
        if model not in deep:
            yield from _with_each_optimizer(model)
    for kind in METHODS:
        model = "text_cnn" if kind == "word-dropout" else "small_cnn"
        options = {"size": 5} if kind == "ghost-batch-norm" else {}
        arm = Arm("arm", {"kind": kind, **stand_ins(kind), **options})
        # Batch norm for all: some methods act on it alone.
        norm = model != "text_cnn"
        config = TrainConfig(model=model, optimizer="adam", batch_norm=norm, **PRECISE)
        yield f"method {kind}", (config, arm)
    for model in deep:
        yield from _with_each_optimizer(model, epochs=0.2)


def _with_each_optimizer(
    model: str, **changes: Any
) -> Iterator[tuple[str, tuple[TrainConfig, Arm]]]:
    for optimizer in ("sgd", "adam"):
        for norm in (False, True) if model not in ("linear", "text_cnn") else (False,):
            fields = {"optimizer": optimizer, "batch_norm": norm, **PRECISE, **changes}
            name = f"{model}, {optimizer}{', batch norm' * norm}"
            yield name, (TrainConfig(model=model, **fields), Arm("all", MENDABA))


class References:
    """What the CPU gives for each case, made by its other cores while the device works. They begin
    with the first case that is asked for."""

    def __init__(self, compared: dict[str, tuple[TrainConfig, Arm]]) -> None:
        self.compared = compared
        self._made: dict[str, Future[pd.DataFrame]] = {}
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, name: str) -> pd.DataFrame:
        if self._pool is None:
            # Not forked: this process may hold the device already.
            count = max(1, usable_cores() - 1)
            self._pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))
            names = list(self.compared)
            for later in names[names.index(name) :]:
                self._made[later] = self._pool.submit(metrics, *self.compared[later], "cpu")
        return self._made[name].result()

    def close(self) -> None:
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()):
                process.kill()  # what is begun is not waited for
            self._pool.shutdown(wait=False, cancel_futures=True)


def alike(differing: list[str]) -> dict[str, Any]:
    return {"differing": differing, "good": not differing}


def kernels_apart(rows: int, features: int, device: str) -> list[str]:
    """Which of Triton's kernels differ from the tensor code for so many samples."""
    generator = torch.Generator().manual_seed(features)
    x, maps = (torch.randn(rows, features, generator=generator).to(device) for _ in range(2))
    maps[:, ::7] = 0.0  # ties
    split, changes = Percentiles(0.1, 0.9), torch.randn(rows, 3, generator=generator).to(device)
    ones, numbers = torch.ones(rows, device=device), torch.arange(rows * 3, device=device)
    differing = []
    ranks, counts = order_of_ties(features, x.device)[1], split.boundaries(features)
    expected = adjust(x, split.masks(maps), changes, 1.0, ones)
    if not torch.equal(on_gpu.moved(x, maps, ranks, changes, counts), expected):
        differing.append("selection")
    drawn = on_gpu.uniforms(numbers * 2**40 - 5, 3, numbers).cpu()
    numbers = numbers.cpu()
    if not torch.equal(drawn, _unit_interval(_bits(numbers * 2**40 - 5, 3, numbers))):
        differing.append("draws, from the CPU's")
    return differing


def _splits(config: TrainConfig, device: str) -> Splits:
    if config.model == "text_cnn":
        return made_up((20, 8))
    side = 32 if str(config.model).startswith("vgg") else 8
    return made_up((1, side, side))


def metrics(config: TrainConfig, arm: Arm, device: str, **options: Any) -> pd.DataFrame:
    return train(config, [arm], [0, 1], device, splits=_splits(config, device), **options).frame()[
        METRICS
    ]


def apart(one: pd.DataFrame, other: pd.DataFrame) -> float:
    """The largest relative difference."""
    return float(((one - other).abs() / other.abs().clip(lower=1e-12)).to_numpy().max())


def agreement(config: TrainConfig, arm: Arm, device: str, expected: pd.DataFrame) -> dict[str, Any]:
    difference = apart(metrics(config, arm, device), expected)
    return {"difference": difference, "good": difference < 1e-6}


def graphs(device: str) -> Iterator[Case]:
    """Recorded steps against ordinary ones: in float64, and in each precision beside the spread of
    two ordinary runs."""
    recorded = device == "cuda"  # elsewhere there is nothing to record with
    for model in ("small_cnn", "vgg11", "text_cnn"):
        config = TrainConfig(model=model, optimizer="adam", **{**PRECISE, "epochs": 2.0})

        def precise(config: TrainConfig = config) -> dict[str, Any]:
            arm = Arm("all", MENDABA)
            usual = metrics(config, arm, device)
            difference = apart(metrics(config, arm, device, graphs=recorded), usual)
            return {"difference": difference, "good": difference < 1e-9}

        yield f"{model}, float64", precise
        for precision in ("full", "tf32", "bf16") if recorded else ("full",):

            def spread(
                config: TrainConfig = replace(config, dtype="float32", precision=precision),  # type: ignore[arg-type]  # noqa: B008
            ) -> dict[str, Any]:
                arm = Arm("all", MENDABA)
                one, two = (metrics(config, arm, device) for _ in range(2))
                found = apart(metrics(config, arm, device, graphs=recorded), one)
                return {"difference": found, "ordinary_runs_differ_by": apart(two, one)}

            yield f"{model}, {precision}", spread


# (replicas, batch, channels, side, outputs): layers of the small CNN, vgg11 and vgg16.
LAYERS = [
    *((135, 50, 1, 28, 16), (135, 50, 16, 14, 32)),
    *((27, 20, 64, 14, 128), (27, 20, 256, 7, 256), (27, 20, 512, 2, 512)),
    *((135, 50, 64, 32, 64), (135, 50, 256, 8, 256), (135, 50, 512, 2, 512)),
]


def kernels(device: str) -> Iterator[Case]:
    """Seconds of each way to convolve for stacked replicas, forward and back."""
    for sizes in LAYERS if device == "cuda" else [(3, 2, 4, 8, 5)]:
        for dtype in (torch.float32, torch.bfloat16):

            def times(sizes: tuple[int, ...] = sizes, dtype: torch.dtype = dtype) -> dict[str, Any]:
                replicas, batch, channels, side, outputs = sizes
                own = dict(device=device, dtype=dtype, requires_grad=True)
                x = torch.randn(replicas, batch, channels, side, side, **own)  # type: ignore[arg-type]
                weight = torch.randn(replicas, outputs, channels, 3, 3, **own)  # type: ignore[arg-type]
                chooser = convolutions.Chooser()
                way = chooser.way(x, weight, None, (1, 1), (1, 1))
                (found,) = chooser.times.values()
                return {"chosen": way, "seconds": found}

            yield f"{sizes} {dtype}".replace("torch.", ""), times


def speed(device: str) -> Iterator[Case]:
    """What the device reaches; the engine against the plain loop in the same precision; one model
    compiled and captured."""
    yield "peaks", lambda: gpu.peaks(device)
    real = device == "cuda"
    for case in gpu.GPU_CASES if real else [gpu.REHEARSED]:
        yield ", ".join(map(str, case)), lambda c=case: gpu.measured(c, rounds=1, device=device)
    for model, data, steps in (
        [("small_cnn", "MNIST 28×28", 100), ("vgg11", "MNIST 28×28", 50)]
        if real
        else [("small_cnn", "digits 8×8", 8)]
    ):
        for precision in ("full", "tf32", "bf16") if real else ("full",):
            case = model, data, steps, precision, device
            name = f"{model}, {precision}, compiled and captured"
            yield name, lambda c=case: gpu.measured_captured(*c)


CASES: dict[str, Callable[[str], Iterator[Case]]] = {
    "parity": parity,
    "graphs": graphs,
    "kernels": kernels,
    "speed": speed,
}


# --- running them --------------------------------------------------------------------------------


class DeviceLost(RuntimeError):
    """A process whose device answers nothing any more, as after an access to memory out of bounds:
    whatever it tries next fails as well."""


def run_cases(stage: str, device: str, out: Path, until: float, again: bool = False) -> bool:
    """Whether all cases of the stage are done. A case that fails is one that says how; again: such
    ones are tried once more. Raises DeviceLost."""
    path = out / f"{stage}.json"
    done: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if again:
        done = {name: found for name, found in done.items() if not bad(found)}

    def keep(name: str, found: dict[str, Any]) -> None:
        done[name] = found
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(done, indent=1) + "\n")
        temporary.replace(path)

    for name, case in CASES[stage](device):
        if name in done:
            continue
        if time.monotonic() > until:
            return False
        began = time.monotonic()
        keep(name, {"error": "it ended its process, or was ended with it"})
        try:
            found = case()
        except Exception as error:  # whatever an untried device says
            found = {"error": f"{type(error).__name__}: {first_line(error)[:200]}"}
        keep(name, {**found, "seconds_taken": round(time.monotonic() - began, 2)})
        print(f"{stage}: {name}: {found}", flush=True)
        if "error" in found and device == "cuda":
            gc.collect()  # after an error for want of memory
            check_device()
    failed = {name: found.get("error", found) for name, found in done.items() if bad(found)}
    print(f"{stage}: {len(done)} cases, {len(failed)} bad: {failed}", flush=True)
    return True


def bad(found: dict[str, Any]) -> bool:
    return "error" in found or found.get("good") is False


def check_device() -> None:
    """Raises DeviceLost where the device answers nothing any more."""
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.zeros(1, device="cuda").item()
    except RuntimeError as error:
        raise DeviceLost(first_line(error)) from error


def run_studies(stage: str, device: str, out: Path, until: float, results: Path) -> bool:
    """Whether all studies of the stage are finished."""
    wanted = MNIST if stage == "mnist" else REST
    recorded = ["--graphs"] * (device == "cuda" and _graphs_agree(out))
    for study, dataset, preset, precision in wanted if device == "cuda" else wanted[:1]:
        left = until - time.monotonic()
        if left < 10:
            return False
        chosen = ["--set", f"precision={precision}"] if device == "cuda" else []
        small = [] if device == "cuda" else TINY
        command = [
            *(sys.executable, "-m", "analysis.cli", "run", study),
            *("--dataset", dataset if device == "cuda" else "digits"),
            *("--preset", preset if device == "cuda" else "quick", "--device", device),
            *("--results", str(results), *recorded, *chosen, *small),
        ]
        print(" ".join(command[2:]), flush=True)
        process = subprocess.Popen(command)
        try:
            code = process.wait(timeout=left)
        except subprocess.TimeoutExpired:
            process.send_signal(2)  # what is finished stays
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
            return False
        if code:
            print(f"{study} on {dataset} ended with {code}", flush=True)
    return True


def _graphs_agree(out: Path) -> bool:
    """Whether recorded steps gave the numbers of ordinary ones, where they have been compared."""
    path = out / "graphs.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    return bool(found) and all(case.get("good", "error" not in case) for case in found.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("stage", choices=(*CASES, "mnist", "rest"))
    parser.add_argument("--out", type=Path, required=True, help="folder of all results")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument(
        "--results", type=Path, help="folder of studies' runs; default: OUT/results"
    )
    parser.add_argument("--limit", type=float, default=520.0, help="seconds for this call")
    parser.add_argument("--again", action="store_true", help="try what failed once more")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU is visible to torch here; --device cpu rehearses")
    options.out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + options.limit
    given = options.stage, options.device, options.out, until
    try:
        if options.stage in CASES:
            whole = run_cases(*given, options.again)
        else:
            whole = run_studies(*given, options.results or options.out / "results")
    except DeviceLost as lost:
        print(f"{options.stage}: the device is lost to this process: {lost}", flush=True)
        return 4
    print(f"{options.stage}: {'done' if whole else 'not done; the same command goes on'}")
    return 0 if whole else 3


if __name__ == "__main__":
    sys.exit(main())
