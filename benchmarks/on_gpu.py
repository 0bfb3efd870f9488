"""What a machine with a GPU is asked, in stages that each end within their limit and go on where
they stopped: whether its numbers are right, what recording changes, which kernels are fast, how
fast it is, and the published studies.

    python -m benchmarks.on_gpu STAGE --out FOLDER [--device cuda] [--limit SECONDS]

Each stage writes FOLDER/STAGE.json after every case, and skips the cases that are in it. With
--device cpu everything is rehearsed at tiny sizes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from aba_core import METHODS, Arm, TrainConfig, convolutions, train
from aba_core.architecture import first_line
from aba_core.datasets import Splits
from aba_core.methods.base import stand_ins
from aba_core.models import MODELS
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
    """Every model with every optimiser, and every method, in float64 against this machine's CPU."""
    for model in MODELS:
        for optimizer in ("sgd", "adam"):
            for norm in (False, True) if model not in ("linear", "text_cnn") else (False,):
                config = TrainConfig(model=model, optimizer=optimizer, batch_norm=norm, **PRECISE)
                name = f"{model}, {optimizer}{', batch norm' * norm}"
                yield name, lambda c=config: agreement(c, Arm("all", MENDABA), device)
    for kind in METHODS:
        model = "text_cnn" if kind == "word-dropout" else "small_cnn"
        options = {"size": 5} if kind == "ghost-batch-norm" else {}
        arm = Arm("arm", {"kind": kind, **stand_ins(kind), **options})
        # Batch norm for all: some methods act on it alone.
        norm = model != "text_cnn"
        config = TrainConfig(model=model, optimizer="adam", batch_norm=norm, **PRECISE)
        yield f"method {kind}", lambda c=config, a=arm: agreement(c, a, device)


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


def agreement(config: TrainConfig, arm: Arm, device: str) -> dict[str, Any]:
    difference = apart(metrics(config, arm, device), metrics(config, arm, "cpu"))
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
    """The engine against the plain loop in the same precision."""
    cases = gpu.GPU_CASES if device == "cuda" else [gpu.REHEARSED]
    for case in cases:
        yield ", ".join(map(str, case)), lambda c=case: gpu.measured(c, rounds=1, device=device)


CASES: dict[str, Callable[[str], Iterator[Case]]] = {
    "parity": parity,
    "graphs": graphs,
    "kernels": kernels,
    "speed": speed,
}


# --- running them --------------------------------------------------------------------------------


def run_cases(stage: str, device: str, out: Path, until: float) -> bool:
    """Whether all cases of the stage are done. A case that fails is one that says how."""
    path = out / f"{stage}.json"
    done: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for name, case in CASES[stage](device):
        if name in done:
            continue
        if time.monotonic() > until:
            return False
        began = time.monotonic()
        try:
            found = case()
        except Exception as error:  # whatever an untried device says
            found = {"error": f"{type(error).__name__}: {first_line(error)[:200]}"}
        done[name] = {**found, "seconds_taken": round(time.monotonic() - began, 2)}
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(done, indent=1) + "\n")
        temporary.replace(path)
        print(f"{stage}: {name}: {found}", flush=True)
    bad = [name for name, found in done.items() if "error" in found or found.get("good") is False]
    print(f"{stage}: {len(done)} cases, {len(bad)} bad: {bad}", flush=True)
    return True


def run_studies(stage: str, device: str, out: Path, until: float) -> bool:
    """Whether all studies of the stage are finished. Results lie in out/results."""
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
            *("--results", str(out / "results"), *recorded, *chosen, *small),
        ]
        print(" ".join(command[2:]), flush=True)
        process = subprocess.Popen(command)
        try:
            code = process.wait(timeout=left)
        except subprocess.TimeoutExpired:
            process.send_signal(2)  # what is finished stays
            process.wait(timeout=30)
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
    parser.add_argument("--limit", type=float, default=520.0, help="seconds for this call")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU is visible to torch here; --device cpu rehearses")
    options.out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + options.limit
    run = run_cases if options.stage in CASES else run_studies
    whole = run(options.stage, options.device, options.out, until)
    print(f"{options.stage}: {'done' if whole else 'not done; the same command goes on'}")
    return 0 if whole else 3


if __name__ == "__main__":
    sys.exit(main())
