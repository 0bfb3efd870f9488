"""The engine of a GPU: chunks cut to its memory and to two minutes, trained in a process of their
own.

What a chunk demands is predicted on the CPU (`aba_core.demand`), so that a part fits before it is
tried, and is finished and kept before a time limit comes near. The prediction of time is corrected
by the parts that are done. A part that does not fit after all, or breaks the device's context while
its step is recorded, loses its process: halves of it begin in a fresh one, with all memory given
back. Untried on a GPU; tests let parts fail on purpose.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from analysis import worker
from analysis.engines import ChunkRows
from analysis.plan import Chunk, load_splits

if TYPE_CHECKING:
    from aba_core.demand import Demand, Rates

LONGEST = 120.0  # seconds of predicted work in one part
FIRST = 30.0  # and in the first, whose time corrects the prediction
SHARE = 0.8  # of the free memory; the rest is for what libraries take
# What a device says where it has no memory, or was left in a bad state for want of it.
LACKS_MEMORY = ("out of memory", "CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "capture")

Trains = Callable[[Chunk, Callable[[int], None]], ChunkRows]


@dataclass
class Pace:
    """How long parts take. over: what is predicted, None where no part is done; each: a run of the
    last part, None where it was of another chunk."""

    over: float | None = None
    each: float | None = None

    def learn(self, runs: int, predicted: float, taken: float) -> None:
        if predicted > 0 and taken > 0:
            self.over, self.each = taken / predicted, taken / runs

    def runs(self, demand: Demand, rates: Rates, graphs: bool) -> int:
        """How many runs to train next. Were time in proportion to runs, they would take what they
        may at most; where single runs take longer, see `Demand.within`."""
        if self.over is None:
            return demand.within(FIRST, rates, graphs)
        limit = LONGEST / self.over
        most = demand.within(limit, rates, graphs)
        if self.each is None or demand.seconds(1, rates, graphs) > limit:
            return most
        return min(most, max(1, int(LONGEST / self.each)))


class Process:
    """A process that holds the device."""

    def __init__(self) -> None:
        context = worker.context()
        self._counter = context.Value("q", 0)  # type: ignore[attr-defined]
        begin = (self._counter, dict(os.environ))
        self._pool = ProcessPoolExecutor(1, context, initializer=worker.begin, initargs=begin)

    def do(self, work: Callable[[], Any], report: Callable[[int], None] | None = None) -> Any:
        """What the work gives. report: called a few times a second with its model-steps done."""
        before = self._counter.value
        future = self._pool.submit(work)
        while not wait([future], timeout=0.3, return_when=FIRST_COMPLETED).done:
            if report is not None:
                report(self._counter.value - before)
        result = future.result()
        if report is not None:
            report(self._counter.value - before)
        return result

    def close(self) -> None:
        """End it at once: a context in a bad state may hang when it is taken down."""
        for process in list((self._pool._processes or {}).values()):
            process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class Engine:
    """An engine for one GPU. trains: what its process does with a part. device: what that process
    says of the device when it is fresh, its name and its free bytes."""

    trains: Trains
    device: Callable[[], tuple[str, float]]
    pace: Pace = field(default_factory=Pace)
    done: int = 0  # model-steps of finished parts

    def __call__(
        self, chunks: Sequence[Chunk], report: Callable[[int], None]
    ) -> Iterator[tuple[Chunk, ChunkRows]]:
        """The chunks one after another, in parts."""
        waiting = iter(chunks)  # each is claimed when it is taken
        rest: list[tuple[Chunk, int]] = []  # what is to be trained first, so many runs at a time
        finished = False
        while not finished:
            with closing(Process()) as process:
                for trained in self._train(process, waiting, rest, report):
                    if trained is None:
                        break
                    yield trained
                else:
                    finished = True

    def _train(
        self,
        process: Process,
        waiting: Iterator[Chunk],
        rest: list[tuple[Chunk, int]],
        report: Callable[[int], None],
    ) -> Iterator[tuple[Chunk, ChunkRows] | None]:
        """Parts that the process has trained; None where it is lost, with what is left in rest."""
        from aba_core.demand import rates_of

        name, free = process.do(self.device)
        rates = rates_of(name)
        while todo := rest.pop() if rest else next(((c, sys.maxsize) for c in waiting), None):
            chunk, most = todo
            # One large model is one run, which takes what it takes and is kept by its checkpoints.
            demand = demand_of(chunk) if chunk.config.single is None else None
            self.pace.each = None
            while chunk.runs:
                size = 1
                if demand is not None:
                    fitting = min(most, demand.fitting(SHARE * free))
                    fitting = min(fitting, self.pace.runs(demand, rates, chunk.graphs))
                    size = evenly(fitting, len(chunk.runs), len(chunk.seeds))
                part = replace(chunk, runs=chunk.runs[:size])
                rows = self._outcome(process, part, report)
                if isinstance(rows, str):
                    self._fewer(chunk, size, rows, rest, name)
                    yield None
                    return
                if demand is not None:
                    predicted = demand.seconds(size, rates, chunk.graphs)
                    self.pace.learn(size, predicted, _seconds(rows))
                chunk = replace(chunk, runs=chunk.runs[size:])
                yield part, rows

    def _outcome(
        self, process: Process, part: Chunk, report: Callable[[int], None]
    ) -> ChunkRows | str:
        """The rows of a part, or how the device failed."""
        before, steps = self.done, 0

        def counted(done: int) -> None:
            nonlocal steps
            steps = done
            report(before + done)

        try:
            rows = process.do(partial(outcome, self.trains, part), counted)
        except BrokenProcessPool:
            return "the process ended by itself"
        if not isinstance(rows, str):
            self.done = before + steps
        return rows

    def _fewer(
        self, chunk: Chunk, size: int, why: str, rest: list[tuple[Chunk, int]], name: str
    ) -> None:
        if size == 1:
            raise MemoryError(f"a single run does not fit on {name}: {why}")
        print(f"{size} runs: {why}; trying halves in a fresh process", file=sys.stderr)
        rest.append((chunk, -(-size // 2)))


def evenly(fitting: int, runs: int, seeds: int) -> int:
    """How many runs to train first of so many, `fitting` at most: parts of one size, and all seeds
    of an arm in one part where they fit."""
    parts = -(-runs // min(fitting, runs))
    even = -(-runs // parts)
    more, fewer = -(-even // seeds) * seeds, even // seeds * seeds
    return min(runs, more if more <= fitting else fewer or even)


def outcome(trains: Trains, part: Chunk) -> ChunkRows | str:
    """In the process: the rows of a part, or what the device said where it lacks memory."""
    import torch

    try:
        return trains(part, worker.count)
    except Exception as error:
        if not lacks_memory(error):
            raise
        return " ".join(str(error).split("\n")[0].split())
    finally:
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def lacks_memory(error: BaseException) -> bool:
    """Whether fewer runs in a fresh process may do. A recording that runs out of memory says that
    something happened while it was captured."""
    import torch

    told = isinstance(error, RuntimeError) and any(word in str(error) for word in LACKS_MEMORY)
    return told or isinstance(error, torch.OutOfMemoryError)


def free_memory() -> tuple[str, float]:
    """The name of the GPU and the bytes that are free on it."""
    import torch

    return torch.cuda.get_device_name(), float(torch.cuda.mem_get_info()[0])


def demand_of(chunk: Chunk) -> Demand:
    """What a training of a chunk's runs demands, by the arm that takes the most passes."""
    from aba_core import demand
    from aba_core.methods.base import method_of

    def passes(number: int) -> float:
        method = method_of(chunk.arms[number].method)
        return method.passes() if method else 1.0

    named = {arm for arm, _, _ in chunk.runs}
    asked = [n for n, arm in enumerate(chunk.arms) if arm.name in named]
    arm = replace(chunk.arms[max(asked, key=passes)], subset_per_run=False, seeds_per_subset=1)
    return demand.demand_of(chunk.config, arm, load_splits(chunk.config))


def _seconds(rows: ChunkRows) -> float:
    """What the training of the runs took together."""
    return sum(
        {row["key"]: float(row["seconds"]) for table in rows.values() for row in table
         if "seconds" in row}.values()
    )  # fmt: skip
