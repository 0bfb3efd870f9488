"""The engine past one machine: chunks as tasks of Dask. `aba run STUDY --scheduler ADDRESS`.

A task is a chunk and its key the chunk's hash, so two clients of one scheduler that want the same
chunk have it trained once. A result is released as soon as it is here: what a worker keeps is lost
with it, and trained again. A chunk that fails is tried once more when all others are done, alone,
and then named.
"""

from __future__ import annotations

import math
import pickle
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from analysis.cluster.schedulers import Place, connected, place
from analysis.cluster.worker import Refused, train_task, versions
from analysis.engines import ChunkRows, Engine, EngineError
from analysis.plan import Chunk, load_splits
from analysis.study import StudyError

if TYPE_CHECKING:
    from distributed import Client, Future

# Seconds between two looks at the workers while nothing comes back.
LOOK_EVERY = 1.0
# Tasks sent off at a time are two for each worker, at least so many, so that more workers are asked
# for where they can be.
LEAST_ROOM = 8
_CONTINUES = "finished runs are kept, the same command continues"


def choose(scheduler: str | None, options: Sequence[str] = (), **others: Any) -> Engine | str:
    """The engine that a command line asks for; without a scheduler the one of its option --engine.

    others: its engine and processes, which a cluster does not go with. Raises StudyError.
    """
    if scheduler is None:
        if options:
            raise StudyError(f"cluster option {options[0]!r} without --scheduler")
        return str(others["engine"])
    for name, value in others.items():
        if value not in (None, "auto"):
            raise StudyError(f"--{name} {value} with --scheduler {scheduler}; give one of the two")
    return Cluster(place(scheduler, options))


@dataclass(frozen=True)
class Cluster:
    """An engine that trains on a cluster, which knows itself what devices there are."""

    place: Place

    def choose_device(self, device: str) -> str:
        """cpu, or cuda where it is asked for: workers then need the resource GPU."""
        if device not in ("auto", "cpu", "cuda"):
            raise StudyError(f"unknown device {device!r}; known: auto, cpu, cuda")
        if device == "cuda" and self.place.kind == "local" and (self.place.workers or 1) > 1:
            raise StudyError(
                f"{self.place.workers} workers with scheduler 'local' and device 'cuda'; allowed: "
                "1; start one for each GPU yourself, and give the address of their scheduler"
            )
        return "cpu" if device == "auto" else device

    def __call__(
        self, chunks: Sequence[Chunk], report: Callable[[int], None]
    ) -> Iterator[tuple[Chunk, ChunkRows]]:
        """Train chunks, in any order. Raises EngineError, for chunks that failed after all others
        came back."""
        device = chunks[0].device
        with connected(self.place, device, len(chunks)) as client:
            tasks = _Tasks(client, self.place, device, report)
            workers = tasks.look()
            if device == "cuda":  # a chunk is as large as a study
                chunks = [part for chunk in chunks for part in _for_gpus(chunk, workers)]
            failed = yield from tasks.trained(chunks)
            lost = []
            for chunk, _ in failed:
                lost += yield from tasks.trained([chunk], "-again")
        if lost:
            chunk, reason = lost[0]
            more = f", as {len(lost) - 1} more did, named above" * (len(lost) > 1)
            raise EngineError(f"{_named(chunk)} failed twice: {reason}{more}; {_CONTINUES}")


def _for_gpus(chunk: Chunk, workers: int) -> list[Chunk]:
    """A chunk in a part for each worker, by seeds."""
    count = max(1, min(workers, len(chunk.seeds)))
    parts = [chunk.seeds[start::count] for start in range(count)]
    cut = [
        replace(chunk, seeds=seeds, runs=tuple(run for run in chunk.runs if run[1] in seeds))
        for seeds in parts
    ]
    return [part for part in cut if part.runs]


def _named(chunk: Chunk) -> str:
    arms = list(dict.fromkeys(arm for arm, _, _ in chunk.runs))
    seeds = sorted({seed for _, seed, _ in chunk.runs})
    more = f" and {len(arms) - 1} more arms" if len(arms) > 1 else ""
    several = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    return f"chunk {chunk.name} ({arms[0]!r}{more}, {several})"


def _reason(error: BaseException) -> str:
    """Why a task failed, in one line."""
    if type(error).__name__ == "KilledWorker":
        return (
            f"{error.allowed_failures + 1} workers died of it, the last of them "  # type: ignore[attr-defined]
            f"{error.last_worker.address}; memory may be short"  # type: ignore[attr-defined]
        )
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@dataclass
class _Tasks:
    """The tasks of a client, and its eye on the workers."""

    client: Client
    place: Place
    device: str
    report: Callable[[int], None]
    without: float | None = None  # since when there is no worker
    told: bool = False  # whether that was said
    room: int = LEAST_ROOM  # tasks at a time
    expected: dict[str, str] = field(default_factory=versions)

    def look(self) -> int:
        """The number of workers that can train. Says once that there is none, and waits for one.

        Raises EngineError where none comes in time, none has what is needed, or nobody answers.
        """
        try:
            workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        except (OSError, TimeoutError, RuntimeError, AttributeError) as error:
            raise self._gone() from error
        usable = [w for w in workers if self.device != "cuda" or w["resources"].get("GPU")]
        if workers and not usable:
            raise EngineError(
                f"none of the {len(workers)} workers at {self.place.scheduler} has the resource "
                "GPU, which device 'cuda' needs; start them with: --resources GPU=1"
            )
        now = time.monotonic()
        if usable:
            self.without = None
        elif self.without is None:
            self.without, self.told = now, False
        elif now - self.without > self.place.patience:
            raise EngineError(
                f"no worker {self.place.hint} for {self.place.patience:g} s; {_CONTINUES}"
            )
        # Those of this machine are on their way.
        calm = 20.0 if self.place.kind == "local" else 0.0
        if self.without is not None and not self.told and now - self.without >= calm:
            self.told, waits = True, self.place.patience
            limit = f" up to {waits:g} s" * math.isfinite(waits)
            self._say(f"no worker {self.place.hint}; waiting{limit}")
        self.room = max(LEAST_ROOM, 2 * len(usable))
        return len(usable)

    def trained(
        self, chunks: Sequence[Chunk], again: str = ""
    ) -> Generator[tuple[Chunk, ChunkRows], None, list[tuple[Chunk, str]]]:
        """Each chunk with its rows as soon as they are back; in the end those that failed."""
        done: SimpleQueue[Future] = SimpleQueue()
        pending: dict[str, tuple[Chunk, Future]] = {}
        failed: list[tuple[Chunk, str]] = []
        waiting = iter(chunks)  # each is claimed when it is taken: other runners have the rest
        while True:
            for chunk in islice(waiting, max(0, self.room - len(pending))):
                future = self._sent(chunk, again)
                pending[str(future.key)] = chunk, future
                future.add_done_callback(done.put)
            if not pending:
                return failed
            try:
                future = done.get(timeout=LOOK_EVERY)
            except Empty:
                self.look()
                self.report(0)
                continue
            parts = self._result(future)
            if parts is None:  # a worker was lost with it: it will be trained again
                future.add_done_callback(done.put)
                continue
            chunk, _ = pending.pop(str(future.key))
            future.release()
            if isinstance(parts, str):
                failed.append((chunk, parts))
                self._say(f"{_named(chunk)}: {parts}" + "; tried again later" * (not again))
                continue
            for runs, rows in parts:
                self._check_data(chunk, rows)
                yield replace(chunk, runs=runs), rows

    def _sent(self, chunk: Chunk, again: str) -> Future:
        return self.client.submit(
            train_task,
            self.expected,
            pickle.dumps(chunk),
            self.place.shared,
            key=f"chunk-{chunk.name}{again}",
            resources={"GPU": 1} if self.device == "cuda" else None,
        )

    def _result(self, future: Future) -> Any:
        """What a task gave back; the reason where it failed, None where it is to come again.

        Raises EngineError where no task can succeed.
        """
        if future.status == "cancelled":
            raise self._gone()
        if future.status not in ("finished", "error"):
            return None
        try:
            if future.status == "error":
                error = future.exception(timeout=10)
                if isinstance(error, Refused | ModuleNotFoundError):
                    raise EngineError(f"{_reason(error).removeprefix('Refused: ')}; {_CONTINUES}")
                return _reason(error)
            return pickle.loads(future.result(timeout=10))
        except TimeoutError:
            return None

    def _check_data(self, chunk: Chunk, rows: ChunkRows) -> None:
        """Keys hold the data that were read here: workers must have read the same."""
        here = load_splits(chunk.config).fingerprint
        for row in rows[chunk.kind]:
            if row["data"] != here:
                raise EngineError(
                    f"a worker trained on other data {chunk.config.dataset}: fingerprint "
                    f"{row['data']}, here {here}; {_CONTINUES}"
                )

    def _gone(self) -> EngineError:
        return EngineError(
            f"the scheduler at {self.place.scheduler} is gone or dropped its tasks; {_CONTINUES}"
        )

    @staticmethod
    def _say(line: str) -> None:
        print(f"aba: {line}", file=sys.stderr, flush=True)
