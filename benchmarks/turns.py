"""Contestants take turns: one at a time, each on all cores, so that a busy machine slows all.

Each has its processes, set up and warmed up once a workload and asleep between its turns: one on
each core with one thread, bound to that core, or one with all threads.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from aba_core.threads import usable_cores
from benchmarks.workloads import MENDABA, SAMPLES, Workload, arms, made_up, made_up_work

ENGINE, FUSED = "engine", "engine, fused"
SETUP_LIMIT = 240.0  # seconds for imports, compilation and the first steps
TURN_LIMIT = 120.0

Turn = Callable[[float], float]  # seconds → model-steps a second, over about so long


@dataclass
class Contestant:
    """The processes of a peer or of the engine on one workload. reason: why it takes no part."""

    name: str
    workload: Workload
    processes: list[BaseProcess] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    reason: str = ""

    def turn(self, seconds: float) -> float | None:
        """Model-steps a second of all its processes together; None where it drops out."""
        for connection in self.connections:
            with suppress(ConnectionError):  # its end shows in its answer
                connection.send(seconds)
        answers = self._answers(TURN_LIMIT)
        rates = [answer for answer in answers if isinstance(answer, float)]
        if len(rates) < len(answers):
            self.reason = next(str(answer) for answer in answers if not isinstance(answer, float))
            self.end()
            return None
        return sum(rates)

    def set_up(self, limit: float) -> None:
        for answer in self._answers(limit):
            self.reason = self.reason or str(answer)
        if self.reason:
            self.end()

    def _answers(self, limit: float) -> list[object]:
        until = time.monotonic() + limit
        answers: list[object] = []
        for connection in self.connections:
            if not connection.poll(max(0.0, until - time.monotonic())):
                answers.append(f"took more than {limit:.0f} s")
                continue
            try:
                answers.append(connection.recv())
            except (EOFError, ConnectionError):
                answers.append("its process ended")
        return answers

    def end(self) -> None:
        for connection in self.connections:
            connection.close()  # which asks them to end
        for process in self.processes:
            process.join(10)
            process.kill()
            process.join()
        self.processes, self.connections = [], []


def start(name: str, workload: Workload, on_each_core: bool, limit: float) -> Contestant:
    """A contestant, set up."""
    context = multiprocessing.get_context("spawn")
    contestant = Contestant(name, workload)
    affinity = getattr(os, "sched_getaffinity", None)
    cores = (sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1)))[
        : usable_cores()
    ]
    before = dict(os.environ)
    try:
        for core in cores if on_each_core else cores[:1]:
            threads = 1 if on_each_core else len(cores)
            # Numerical libraries read these when they are loaded.
            os.environ.update(_environment(name, threads))
            ours, theirs = context.Pipe()
            arguments = (theirs, name, workload, threads, core if on_each_core else None)
            process = context.Process(target=_take_part, args=arguments, daemon=True)
            process.start()
            theirs.close()
            contestant.processes.append(process)
            contestant.connections.append(ours)
    finally:
        os.environ.clear()
        os.environ.update(before)
    contestant.set_up(limit)
    return contestant


def _environment(name: str, threads: int) -> dict[str, str]:
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "ABA_KERNELS": "on" if name == FUSED else "off",
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }


def _take_part(
    connection: Connection, name: str, workload: Workload, threads: int, core: int | None
) -> None:
    """The life of a contestant's process: set up, then a turn whenever it is asked."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    import torch

    torch.set_num_threads(threads)
    try:
        turn = engine(workload) if name in (ENGINE, FUSED) else peer(name, workload)
        turn(0.0)
    except Exception as error:
        connection.send(" ".join(f"{error}".split())[:160] or type(error).__name__)
        return
    connection.send("")
    while True:
        try:
            seconds = connection.recv()
        except EOFError:
            return
        connection.send(turn(seconds))


def peer(name: str, workload: Workload) -> Turn:
    """A turn of a peer, warmed up."""
    from benchmarks.peers import PEERS

    make, on_each_core = PEERS[name]
    replicas = workload.replicas if on_each_core else 1
    ready = make(made_up_work(workload, replicas))
    ready.run(0, 2)
    done = 2

    def timed(steps: int) -> float:
        nonlocal done
        began = time.perf_counter()
        ready.run(done, done + steps)
        done += steps
        return (time.perf_counter() - began) / steps

    return _turn(timed, replicas)


def engine(workload: Workload) -> Turn:
    """A turn of the engine; its draws are within its time, what comes before its steps is not."""
    import torch

    from aba_core import kernels
    from aba_core.training import train

    if kernels.asked_for() and not kernels.status().used:
        raise RuntimeError(f"no fused kernels: {kernels.status().why}")
    splits = made_up(workload.shape, SAMPLES)

    def timed(steps: int) -> float:
        torch.manual_seed(0)
        times: list[float] = []
        warm = 2
        train(
            workload.config(steps + warm),
            arms(workload.replicas, MENDABA),
            [0],
            splits=splits,
            progress=lambda _: times.append(time.perf_counter()),
        )
        return (times[-1] - times[warm - 1]) / (len(times) - warm)

    return _turn(timed, workload.replicas)


def _turn(timed: Callable[[int], float], replicas: int) -> Turn:
    """timed: seconds a step of all replicas, over so many steps."""
    step = timed(2)

    def turn(seconds: float) -> float:
        nonlocal step
        step = timed(max(2, round(seconds / step)))
        return replicas / step

    return turn


def compete(
    workload: Workload,
    names: dict[str, bool],
    rounds: int,
    seconds: float,
    limit: float = SETUP_LIMIT,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Model-steps a second of each contestant in each round, and why others took no part.

    names: whether a process on each core runs it.
    """
    field = [start(name, workload, each, limit) for name, each in names.items()]
    try:
        rates: dict[str, list[float]] = {one.name: [] for one in field if not one.reason}
        for _ in range(rounds):
            for one in field:
                rate = None if one.reason else one.turn(seconds)
                if rate is not None:
                    rates[one.name].append(rate)
        rates = {one.name: rates[one.name] for one in field if not one.reason}
    finally:
        for one in field:
            one.end()
    return rates, {one.name: one.reason for one in field if one.reason}
