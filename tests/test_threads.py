"""How many threads a training gets: what may be used, what pays, and what is left behind."""

import math
from pathlib import Path

import pytest
import torch
from oracles.tiny_data import make_splits
from torch import nn

from aba_core import threads
from aba_core.arms import Arm, TrainConfig
from aba_core.threads import choose_threads, cpu_quota, faster, threads_restored, usable_cores
from aba_core.training import train


class Machine:
    """Steps that take so many seconds with so many threads."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.now, self.threads, self.steps = seconds, 0.0, 1, []

    def use(self, count: int) -> None:
        self.threads = count

    def step(self) -> None:
        self.steps.append(self.threads)
        self.now += self.seconds[self.threads]

    def chosen(self) -> int:
        return faster(self.step, 4, self.use, clock=lambda: self.now)


@pytest.mark.parametrize(
    ("alone", "together", "chosen"),
    [
        (0.010, 0.004, 4),
        (0.010, 0.0099, 1),  # as good as a tie
        (0.010, 0.200, 1),  # a busy machine
        (0.0005, 0.0001, 1),  # too little to share
        (3.0, 1.0, 4),
    ],
)
def test_threads_are_taken_where_they_clearly_pay(alone, together, chosen):
    assert Machine({1: alone, 4: together}).chosen() == chosen


def test_a_busy_machine_is_asked_once():
    machine = Machine({1: 0.01, 4: 5.0})
    assert machine.chosen() == 1
    assert machine.steps.count(4) == 1


def test_long_steps_are_compared_once():
    machine = Machine({1: 3.0, 4: 1.0})
    machine.chosen()
    assert len(machine.steps) == 5


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_one_thread_leaves_nothing_to_choose():
    def never():
        raise AssertionError

    assert torch.get_num_threads() == 1
    assert choose_threads(never, "cpu") == 1


def test_other_devices_are_left_alone(four_threads):
    assert choose_threads(lambda: None, "meta") == 4


def test_no_more_threads_than_cores_that_may_be_used(four_threads, monkeypatch):
    asked = []

    def noted(step, most, use, **options):
        asked.append(most)
        return most

    monkeypatch.setattr(threads, "faster", noted)
    for usable, chosen in ((1, 1), (2, 2), (3, 3), (64, 4)):
        torch.set_num_threads(4)
        monkeypatch.setattr(threads, "usable_cores", lambda usable=usable: usable)
        assert choose_threads(lambda: lambda: None, "cpu") == chosen
        assert torch.get_num_threads() == chosen
    assert set(asked) == {2, 3, 4}


def test_the_number_of_threads_is_restored_also_after_an_error(four_threads):
    with pytest.raises(RuntimeError), threads_restored(use=1):
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("chosen", [1, 2])
def test_training_uses_the_chosen_threads_and_restores(chosen, four_threads, monkeypatch):
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    monkeypatch.setattr(threads, "faster", lambda *arguments, **options: chosen)
    seen = []
    config = TrainConfig(model="mlp", epochs=1, batch_size=5)
    arms = [Arm("a")]
    train(
        config, arms, [0], splits=make_splits((7,)),
        progress=lambda _: seen.append(torch.get_num_threads()),
    )  # fmt: skip
    assert set(seen) == {chosen}
    assert torch.get_num_threads() == 4
    with pytest.raises(ValueError):
        train(config, arms, [0], splits=make_splits((7,)), build=lambda: nn.Linear(8, 3))
    assert torch.get_num_threads() == 4


def test_the_rehearsal_changes_no_number(four_threads, monkeypatch):
    config = TrainConfig(model="mlp", epochs=3, batch_size=5, batch_norm=True, dtype="float64")

    def trained():
        runs = train(config, [Arm("a")], [0, 1, 2], splits=make_splits((7,)))
        return runs.frame().drop(columns="seconds")

    def rehearsed(step, most, use, **options):
        for _ in range(5):
            step()
        return 1

    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    monkeypatch.setattr(threads, "faster", rehearsed)
    first = trained()
    torch.set_num_threads(1)
    assert trained().equals(first)


# --- what the process may use --------------------------------------------------------------------


def quota_of(folder: Path, group: str, files: dict[str, str]) -> float | None:
    (folder / "self").write_text(group)
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cpu_quota(folder / "cgroup", folder / "self")


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "100000 50000"}, 2.0),
        ("0::/a/b\n", {"cpu.max": "50000 100000"}, 0.5),  # seen from inside a container
        ("3:cpu,cpuacct:/x\n", {"cpu,cpuacct/x/cpu.cfs_quota_us": "300000",
                                "cpu,cpuacct/x/cpu.cfs_period_us": "100000"}, 3.0),
        ("3:cpu:/x\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("nonsense", {"cpu.max": "nonsense"}, None),
        ("", {}, None),
    ],
)  # fmt: skip
def test_a_control_groups_quota_is_read(group, files, quota, tmp_path):
    assert quota_of(tmp_path, group, files) == quota


def test_no_control_groups_no_quota(tmp_path):
    assert cpu_quota(tmp_path / "none", tmp_path / "nobody") is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 3), (2.5, 2), (0.5, 1), (99.0, 3)])
def test_usable_cores_are_bounded_by_affinity_and_quota(quota, cores, monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert usable_cores() == cores
    assert usable_cores(math.ceil) - cores in (0, 1)
