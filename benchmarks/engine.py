"""The engine alone: what ABA costs beside plain training, by data set and by preset."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from unittest.mock import patch

import torch

import aba_core.kernels.adjusting
import aba_core.methods.aba
from aba_core import ABA, PRESETS, AdjustmentSet, Augmentation, TrainConfig, build_model
from aba_core.attribution import cross_entropy
from aba_core.datasets import Splits
from aba_core.steps import Recorded
from aba_core.training import train
from analysis.plan import ARMS_ONE_BY_ONE, ARMS_TOGETHER
from benchmarks.workloads import MENDABA, arms, made_up

SHAPES = {"digits 8×8": (1, 8, 8), "MNIST 28×28": (1, 28, 28), "CIFAR-10 32×32": (3, 32, 32)}
ALL = Augmentation(AdjustmentSet.parse("all"), strength=0.5, target="loss")


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
    """Seconds for a model-step: the steps' time alone, first quarter of the steps not counted.

    The device is waited for twice, before the first step that counts and after the last, as in the
    plain loop: a wait at each step would hide what is saved by not having any."""
    steps = setting.steps(len(splits.train))
    # What is recorded begins with ordinary steps, and its recording is none that counts.
    warm = max(Recorded.ordinary + 2 if graphs else 2, steps // 4)
    done, times = 0, []

    def clock(_: int) -> None:
        nonlocal done
        done += 1
        if done in (warm, steps):
            synchronise(device)
            times.append(time.perf_counter())

    train(
        setting, arms(replicas, augmentation), [0], device,
        splits=splits, graphs=graphs, progress=clock,
    )  # fmt: skip
    began, ended = times
    return (ended - began) / (steps - warm) / replicas


def synchronise(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interleaved(rounds: int, *actions: Callable[[], float]) -> list[tuple[float, float, float]]:
    """Each action's (median, lowest, highest) over rounds in which all take their turn."""
    found = [[action() for action in actions] for _ in range(rounds)]
    return [(statistics.median(v), min(v), max(v)) for v in zip(*found, strict=True)]


def measure_cost(rounds: int) -> list[dict[str, object]]:
    """Step with ABA over step without, in one single-threaded process, and the share of the step
    that drawing, selecting and adjusting take: the rest is passes through the model."""
    rows: list[dict[str, object]] = []
    for data, batch, replicas, steps in (
        ("digits 8×8", 20, ARMS_TOGETHER, 60),
        ("MNIST 28×28", 20, ARMS_ONE_BY_ONE, 24),
        ("MNIST 28×28", 50, ARMS_ONE_BY_ONE, 16),
    ):
        setting, splits = config(steps, batch), made_up(SHAPES[data])
        (vanilla, *_), (aba, *_) = interleaved(
            3 * rounds,
            lambda s=setting, d=splits, r=replicas: engine_seconds(s, d, None, r),  # type: ignore[misc]
            lambda s=setting, d=splits, r=replicas: engine_seconds(s, d, MENDABA, r),  # type: ignore[misc]
        )
        share = selecting_seconds(setting, splits, MENDABA, replicas) / aba
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
        (aba_core.kernels.adjusting, "moved"),
        (type(augmentation.split), "masks"),
    )
    with ExitStack() as changed:
        for place, name in parts:
            changed.enter_context(patch.object(place, name, timed(getattr(place, name))))
        train(setting, arms(replicas, augmentation), [0], splits=splits)
    return spent[0] / setting.steps(len(splits.train)) / replicas


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

        return timed(once)

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
