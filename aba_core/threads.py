"""Threads: how many a training is worth, by measurement, within what the process may use.

Small operations wait for their slowest thread: on a busy machine a small model takes 20 times as
long on four threads as on one, and on a quiet machine as long. So threads must earn their place.

The number of threads can change the order of PyTorch's sums, hence the last bits of results.
`torch.set_num_threads(1)`, or OMP_NUM_THREADS=1, leaves nothing to choose; the workers of `aba run`
do so.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# A step shorter than this is mostly overhead, and threads have nothing to share.
WORTH_TRYING = 0.002  # seconds
GAIN = 1.25  # so much faster must more threads be: neighbours may yet come
TURNS = 3
LONG = 0.2  # seconds; so long a step is compared once


def usable_cores(whole: Callable[[float], int] = int) -> int:
    """How many cores this process may use: by its affinity and its control group's quota. whole:
    what is made of a part of a core; processes share one well (`math.ceil`), threads do not."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, whole(quota)))


def cpu_quota(
    root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")
) -> float | None:
    """Cores' worth of time that Linux's control groups grant, the tightest of all levels; None
    where there is no limit. root, process: where version 1 or 2 keeps its files."""
    quotas: list[float] = []
    try:
        lines = process.read_text().splitlines()
    except OSError:
        lines = []
    groups = {"cpu": "/", "": "/"} | {
        controller: path
        for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2)
        for controller in controllers.split(",")
    }
    for folder in _levels(root, groups[""]):
        quotas += _quota(folder / "cpu.max")
    for controllers in ("cpu", "cpu,cpuacct"):
        for folder in _levels(root / controllers, groups["cpu"]):
            quotas += _quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
    return min(quotas, default=None)


def _levels(root: Path, group: str) -> list[Path]:
    """The group's folder and all above it; inside a container the group may lie at the root."""
    folder = root / group.strip("/")
    return [level for level in (folder, *folder.parents) if level.is_relative_to(root)]


def _quota(*files: Path) -> list[float]:
    """One quota from files that hold microseconds granted and the period, or "max" for all."""
    try:
        granted, period = " ".join(file.read_text() for file in files).split()
        return [int(granted) / int(period)] if granted not in ("max", "-1") else []
    except (OSError, ValueError, ZeroDivisionError):
        return []


@contextmanager
def threads_restored(use: int | None = None) -> Iterator[None]:
    """PyTorch's number of threads after the block is that before it. use: how many inside it."""
    import torch

    before = torch.get_num_threads()
    try:
        if use is not None:
            torch.set_num_threads(use)
        yield
    finally:
        torch.set_num_threads(before)


def choose_threads(rehearsal: Callable[[], Callable[[], object]], device: str) -> int:
    """Set PyTorch to one thread, or to as many as it may use where that makes steps faster.

    rehearsal: makes a step of the training on copies, to be timed: on a CPU, and only where there
    is a choice. Gives the number of threads from now on.
    """
    import torch

    before = torch.get_num_threads()
    if before == 1 or torch.device(device).type != "cpu":
        return before
    most = min(before, usable_cores())
    values = torch.zeros(2**17)  # enough for PyTorch to share it out

    def small() -> None:
        for _ in range(10):
            values.add_(1)

    # Where threads slow even this down, the machine is busy, and a whole step would take long.
    quiet = most > 1 and faster(small, most, torch.set_num_threads, worth=0, gain=0.7) == most
    chosen = faster(rehearsal(), most, torch.set_num_threads) if quiet else 1
    torch.set_num_threads(chosen)
    return chosen


def faster(
    step: Callable[[], object],
    most: int,
    use: Callable[[int], None],
    worth: float = WORTH_TRYING,
    gain: float = GAIN,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """`most` threads where the step takes `worth` seconds or more with one of them, and so many
    times less with all; otherwise 1."""

    def seconds(threads: int) -> float:
        use(threads)
        started = clock()
        step()
        return clock() - started

    seconds(1)  # what is set up at first use
    alone = seconds(1)
    # On a busy machine the first try with more threads has said enough.
    if alone < worth or seconds(most) > 2 * alone:
        return 1
    turns = [(seconds(1), seconds(most)) for _ in range(1 if alone > LONG else TURNS)]
    one, many = (statistics.median(times) for times in zip(*turns, strict=True))
    return most if one > gain * many else 1
