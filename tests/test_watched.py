"""A training step never leaves the device that it runs on: no value is asked for, no tensor is
made on the CPU, nothing is drawn from PyTorch's generators. So a GPU can record it.

Tried without a GPU, on the meta device under a watcher (`oracles.watched_device`).
"""

from dataclasses import replace

import pytest
import torch
from oracles.watched_device import ForbiddenOnDevice, Watcher

from aba_core import ABA, PRESETS, Arm, TrainConfig, evaluation, mechanism
from aba_core import training as core
from aba_core.arms import METHODS
from aba_core.datasets import Split
from aba_core.demand import on_meta
from aba_core.methods import aba as aba_method
from aba_core.methods.base import stand_ins

OF_TEXTS = ("word-dropout",)
OF_NORMS = (
    *("advprop", "ghost-batch-norm", "norm-decay"),
    *("batch-group-norm", "example-weighing"),
)
FITTING = {"ghost-batch-norm": {"size": 3}}  # half of the batch
CONFIG = TrainConfig(batch_size=6, epochs=2, optimizer="adam", schedule="cosine")


def meta_step(config, arms, splits, parts=False):
    """The step that `train` would take on another device; parts: and the setting it is of."""
    members = core._members(config, arms, [0, 1], None)
    task = core.task_of(splits.task)
    setting = core._Setting(
        config,
        splits,
        core.builder(config, splits),
        task,
        task.loss,
        "cpu",
        "",
        False,
        False,
        None,
        None,
    )
    replicas, setting = core._started(setting, members)
    setting = replace(setting, device="meta", splits=splits.to("meta"))
    seeds = {
        name: torch.tensor([[member.seeds[name]] for member in members], device="meta")
        for name in members[0].seeds
    }
    step = core._step(setting, members, on_meta(replicas, len(replicas)), seeds)
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
        metrics, logits, correct = core._metrics(step.replicas, setting, None)
    assert logits.device.type == "meta"
    assert {values.device.type for values in (*metrics.values(), *correct.values())} == {"meta"}


@pytest.mark.parametrize("preset", [*PRESETS, "permuted", "train"])
def test_aba_in_a_loop_of_ones_own_stays_on_its_device(preset, tiny_splits, monkeypatch):
    """After its first call, which looks at values: `asked` counts those looks."""
    changes = {"permuted": {"placebo": "permuted"}, "train": {"attribution_mode": "train"}}
    aba = ABA(*([preset] if preset in PRESETS else ["mendaba"]), seed=3, **changes.get(preset, {}))
    model = core.build_model("small_cnn", (1, 4, 5), 3, batch_norm=True).to("meta")
    x, y = (values.to("meta") for values in (tiny_splits.train.x, tiny_splits.train.y))
    aba._calls = 1  # the first looks, which the meta device has no values for
    aba(model, x, y)  # tables go to the device once
    with Watcher() as watcher:
        for _ in range(3):
            assert aba(model, x, y).shape == x.shape
    assert watcher.operations > 100


def test_aba_looks_at_values_once_in_so_many_calls(tiny_splits, monkeypatch):
    monkeypatch.setattr(aba_method, "LOOK_EVERY", 4)
    model = core.build_model("small_cnn", (1, 4, 5), 3).to("meta")
    aba = ABA("mendaba", seed=3)
    x, y = (values.to("meta") for values in (tiny_splits.train.x, tiny_splits.train.y))
    looked = []
    for call in range(8):
        aba._calls = call
        try:
            aba(model, x, y)
        except (RuntimeError, NotImplementedError):  # a value is asked for
            looked.append(call)
    assert looked == [0, 4]


def test_measurements_stay_on_their_device(tiny_splits, monkeypatch):
    """But for seven numbers a replica, of which the host takes the largest eigenvalue, at the
    end."""
    asked = []

    def largest(tridiagonal):
        asked.append(tridiagonal.shape)
        return tridiagonal[:, 0, 0]

    monkeypatch.setattr(mechanism, "_largest_eigenvalue", largest)
    arm = Arm("all", {"kind": "aba", "adjustments": "all", "strength": 0.5, "target": "loss"})
    step, setting = meta_step(CONFIG, [Arm("vanilla")], tiny_splits, parts=True)
    methods = [core._method_of(arm)] * 2
    seeds = step.seeds["probe"]
    with_tables = mechanism.Probe.of(
        methods, torch.zeros(2, 1, dtype=torch.int64), tiny_splits.train, torch.float32, 0.5
    )
    on_device = replace(
        with_tables,
        x=with_tables.x.to("meta"),
        y=with_tables.y.to("meta"),
        seeds=seeds,
        augmentation=type(methods[0]).stack(methods, "meta", torch.float32),
        groups={name: table.to("meta") for name, table in with_tables.groups.items()},
    )
    with Watcher() as watcher:
        metrics = mechanism.measure(step.replicas, on_device, setting.loss)
    assert {value.device.type for value in metrics.values()} == {"meta"}
    assert asked == [(4, 7, 7)] and watcher.operations > 500


def test_frozen_evaluation_asks_for_its_sums_once_at_the_end(tiny_splits, monkeypatch):
    class Summed(Exception):
        pass

    def rows(sums, strengths, samples):
        raise Summed(sums.shape, sums.device.type)

    monkeypatch.setattr(evaluation, "_rows", rows)
    model = core.build_model("small_cnn", (1, 4, 5), 3).to("meta")
    split = Split(tiny_splits.train.x.to("meta"), tiny_splits.train.y.to("meta"))
    asked = []
    values = {"tolist": [0, 2], "__int__": 0}
    for name, value in values.items():
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, n=name, v=value: asked.append((n, self.shape)) or v
        )
    with pytest.raises(Summed) as summed:
        # Not under the whole watcher: the table of the 27 goes to the device once.
        evaluation.frozen(model, split, (0.1, 0.2), batch=4)
    assert summed.value.args == ((1 + 27 * 2, 3), "meta")
    # The smallest and the largest label at the start; how many samples are strange at the end.
    assert asked == [("tolist", (2,)), ("__int__", ())]


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
