"""A training step never leaves the device that it runs on: no value is asked for, no tensor is
made on the CPU, nothing is drawn from PyTorch's generators. So a GPU can record it.

Tried without a GPU, on the meta device under a watcher (`oracles.watched_device`).
"""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from oracles.watched_device import ForbiddenOnDevice, Watcher

from aba_core import Arm, TrainConfig, steps
from aba_core import training as core
from aba_core.arms import METHODS
from aba_core.methods.base import stand_ins
from aba_core.replicas import Replicas

OF_TEXTS = ("word-dropout",)
OF_NORMS = ("advprop", "ghost-batch-norm", "norm-decay")
FITTING = {"ghost-batch-norm": {"size": 3}}  # half of the batch
CONFIG = TrainConfig(batch_size=6, epochs=2, optimizer="adam", schedule="cosine")


@pytest.fixture(autouse=True)
def without_autocast(monkeypatch):
    """Which the meta device does not have."""
    for module in (steps, core):
        monkeypatch.setattr(module, "products_in", lambda *_: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)


def on_meta(replicas: Replicas) -> Replicas:
    return Replicas(
        replicas.template.to("meta"),
        replicas.parameters.to("meta"),
        {name: buffer.to("meta") for name, buffer in replicas.buffers.items()},
        replicas.together,
        {name: mask.to("meta") for name, mask in replicas.masks.items()},
        replicas.habits,
    )


def meta_step(config, arms, splits, parts=False):
    """The step that `train` would take on another device; parts: and the setting it is of."""
    members = core._members(config, arms, [0, 1])
    task = core.task_of(splits.task)
    setting = core._Setting(
        config, splits, core.builder(config, splits), task, task.loss, "cpu", "", False, False, None
    )
    replicas, setting = core._started(setting, members)
    setting = replace(setting, device="meta", splits=splits.to("meta"))
    seeds = {
        name: torch.tensor([[member.seeds[name]] for member in members], device="meta")
        for name in members[0].seeds
    }
    step = core._step(setting, members, on_meta(replicas), seeds)
    step.set(0, torch.zeros(len(members), config.batch_size, dtype=torch.int64, device="meta"))
    step()  # what is kept from the first step on is made before a recording
    return (step, setting) if parts else step


@pytest.mark.parametrize("model", ["small_cnn", "mlp"])
@pytest.mark.parametrize("kind", ["vanilla", *(kind for kind in METHODS if kind not in OF_TEXTS)])
def test_a_step_with_each_method_stays_on_its_device(kind, model, tiny_splits):
    method = (
        "vanilla"
        if kind == "vanilla"
        else {"kind": kind, **stand_ins(kind), **FITTING.get(kind, {})}
    )
    config = replace(CONFIG, model=model, batch_norm=kind in OF_NORMS)
    step = meta_step(config, [Arm("arm", method)], tiny_splits)
    with Watcher() as watcher:
        step()
    assert watcher.operations > 20


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_norm": True},
        {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-3},
        {"dtype": "float64"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_step_in_each_configuration_stays_on_its_device(changes, tiny_splits):
    arm = Arm("all", {"kind": "aba", "adjustments": "all", "strength": 0.5, "target": "loss"})
    step = meta_step(replace(CONFIG, **changes), [arm], tiny_splits)
    with Watcher() as watcher:
        step()
    assert watcher.operations > 20


@pytest.mark.parametrize("soft", [False, True])
def test_metrics_stay_on_their_device(soft, tiny_splits):
    """Those of classes; others go through scikit-learn, on the CPU, when training is over."""
    step, setting = meta_step(CONFIG, [Arm("vanilla")], tiny_splits, parts=True)
    if soft:
        splits = setting.splits
        parts = {
            name: replace(
                getattr(splits, name), y=torch.zeros(len(getattr(splits, name)), 3, device="meta")
            )
            for name in ("train", "validation", "test")
        }
        setting = replace(setting, splits=replace(splits, **parts))
    with Watcher():
        metrics, logits, correct = core._metrics(step.replicas, setting)
    assert logits.device.type == "meta"
    assert {values.device.type for values in (*metrics.values(), *correct.values())} == {"meta"}


@pytest.mark.parametrize(
    ("forbidden", "told"),
    [
        (lambda x: x.sum().item(), "cannot be called on meta tensors"),
        (lambda x: x[x > 0], "nonzero"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x + torch.zeros(3), "zeros has a tensor on the cpu, of shape \\(3,\\)"),
        (lambda x: torch.tensor([1.0, 2.0, 3.0], device="meta") + x, "values of the host"),
        (lambda x: torch.rand_like(x), "rand_like draws from PyTorch's generator"),
    ],
    ids=["item", "mask", "nonzero", "host tensor", "upload", "draw"],
)
def test_the_watcher_fails_on_what_cannot_be_recorded(forbidden, told):
    with pytest.raises((ForbiddenOnDevice, RuntimeError), match=told), Watcher():
        forbidden(torch.zeros(3, device="meta"))
