"""Engines train chunks: an engine is a function (chunks, report) → iterator of (chunk, rows).

`processes` trains one chunk after another in a single-threaded process per core, `gpu` one after
another in one process, cut to the memory there is and to two minutes. An engine of your own is any
such function, named as "module:function"; `train_chunk` does the work, here or on another machine.
Engines write nothing and know nothing of where results are kept.

report is called with the model-steps done so far; an engine that cannot know need not call it. A
chunk may come back in parts, each with the runs that its rows are of.
"""

from __future__ import annotations

import math
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aba_core import kernels
from aba_core.identity import load, meant
from aba_core.installation import commit
from aba_core.threads import usable_cores
from analysis import toolkit_version, worker
from analysis.plan import Chunk, choose_device, load_splits
from analysis.study import StudyError

if TYPE_CHECKING:
    from aba_core.datasets import Splits
    from aba_core.single.ranks import Ranks
    from aba_core.training import Runs

# Rows by the table they belong to ("runs", "frozen", "mechanism"), in the order in which these are
# to be written.
ChunkRows = dict[str, list[dict[str, Any]]]
Engine = Callable[[Sequence[Chunk], Callable[[int], None]], Iterable[tuple[Chunk, ChunkRows]]]


class EngineError(ValueError):
    """An engine that gave back something else than the rows of its chunks."""


# --- one chunk -----------------------------------------------------------------------------------


def train_chunk(chunk: Chunk, count: Callable[[int], None] | None = None) -> ChunkRows:
    """Train a chunk; its rows. count: called with the number of model-steps just done.

    On a CPU with one thread, so that a chunk has the same bits wherever it is trained. Threads of
    one process wait for one another: models start from PyTorch's generator, which they share.
    """
    with _one_at_a_time:
        return _train_alone(chunk, count)


_one_at_a_time = threading.Lock()


def _train_alone(chunk: Chunk, count: Callable[[int], None] | None) -> ChunkRows:
    from aba_core import train

    splits = load_splits(chunk.config)
    keys = {(arm, seed): key for arm, seed, key in chunk.runs}
    # A block lacks some of its runs where arms were added to a study or memory was short.
    arms = [arm for arm in chunk.arms if any(arm.name == name for name, _ in keys)]
    seeds = [seed for seed in chunk.seeds if any(seed == other for _, other in keys)]
    with _one_thread(chunk.device), _watching(chunk, keys) as watch:
        runs = train(
            chunk.config,
            arms,
            seeds,
            chunk.device,
            splits=splits,
            study=chunk.study,
            keep_logits=chunk.keep_logits,
            graphs=chunk.graphs,
            progress=count,
            checkpoints=_checkpoints(chunk),
            watch=watch,
        )
        runs.rows = [row for row in runs.rows if (row["arm"], row["seed"]) in keys]
        rows = _frozen_rows(chunk, runs, splits) if chunk.frozen else _run_rows(chunk, runs, splits)
    stamp = {
        **provenance(),
        "device": device_name(chunk.device),
        "kernels": kernels.path_taken() if chunk.device == "cpu" else "torch",
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "chunk": chunk.name,
        "data": splits.fingerprint,
        "hypotheses": chunk.hypotheses,
    }
    # What was measured comes before the runs: a run that is there then has its measurements.
    return {
        kind: [
            {**row, "key": keys[row["arm"], row["seed"]], **stamp}
            for row in table
            if (row["arm"], row["seed"]) in keys
        ]
        for kind, table in (("mechanism", runs.mechanism_rows), (chunk.kind, rows))
    }


def _checkpoints(chunk: Chunk) -> dict[tuple[str, int], Path]:
    """Where each run keeps its checkpoint."""
    if not chunk.checkpoints:
        return {}
    return {(arm, seed): chunk.checkpoint(key) for arm, seed, key in chunk.runs}


@contextmanager
def _watching(
    chunk: Chunk, keys: dict[tuple[str, int], str]
) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """What live curves are written by, where they are asked for."""
    if not chunk.tracked:
        yield None
        return
    from aba_core.integrations import trackers

    with closing(trackers.again(chunk.tracked, keys)) as tracker:
        yield tracker


def _run_rows(chunk: Chunk, runs: Runs, splits: Splits) -> list[dict[str, Any]]:
    """A row a run, with its logits and what it gets right where they are to be kept."""
    rows = []
    labels = splits.validation.y.numpy().astype("<i2").tobytes() if chunk.keep_logits else b""
    for row in runs.rows:
        kept: dict[str, Any] = {}
        if chunk.keep_logits:
            logits = runs.logits[row["arm"], row["seed"]].half().numpy()
            kept = {
                "validation_logits": logits.astype("<f2").tobytes(),
                "logit_classes": logits.shape[1],
                "validation_labels": labels,
            }
        if chunk.keep_correct:
            for split, hits in runs.correct[row["arm"], row["seed"]].items():
                kept[f"{split}_correct"] = np.packbits(hits.numpy()).tobytes()
                kept[f"{split}_samples"] = len(hits)
        rows.append({**row, **kept})
    return rows


def _frozen_rows(chunk: Chunk, runs: Runs, splits: Splits) -> list[dict[str, Any]]:
    """A row an adjustment and strength of every trained model."""
    from aba_core.evaluation import frozen

    assert chunk.frozen is not None
    rows = []
    validation = splits.validation.to(chunk.device)
    for row in runs.rows:
        kept = {k: row[k] for k in (*chunk.config.row(), "arm", "seed", "seconds", "status")}
        for result in frozen(
            runs.model(row["arm"], row["seed"]),
            validation,
            chunk.frozen.strengths,
            target=chunk.frozen.target,  # type: ignore[arg-type]
        ):
            rows.append({"study": chunk.study, **kept, **result})
    return rows


@contextmanager
def _one_thread(device: str) -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@cache
def provenance() -> dict[str, str]:
    """Where numbers come from: versions and the toolkit's own commit."""
    import torch

    return {
        "toolkit": toolkit_version(),
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def device_name(device: str) -> str:
    """What a row says of the device that it was computed on."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu ({platform.machine()})"


# --- processes -----------------------------------------------------------------------------------


def _train_counted(chunk: Chunk) -> ChunkRows:
    return train_chunk(chunk, worker.count)


def processes(
    chunks: Sequence[Chunk], report: Callable[[int], None], workers: int | None = None
) -> Iterator[tuple[Chunk, ChunkRows]]:
    """Train chunks in single-threaded processes, by default one per core, in any order.

    They end with this process, and when the iterator is closed before its end.
    """
    environment = {name: os.environ.get(name) for name in worker.ONE_THREAD}
    os.environ.update(worker.ONE_THREAD)
    context = worker.context()
    counter = context.Value("q", 0)
    workers = min(workers or usable_cores(math.ceil), len(chunks))
    begin = (counter, dict(os.environ))
    pool = ProcessPoolExecutor(workers, context, initializer=worker.begin, initargs=begin)
    pending: dict[Future[ChunkRows], Chunk] = {}
    try:
        waiting = iter(chunks)  # each is claimed when it is taken: no more than are trained at once
        done: set[Future[ChunkRows]] = set()
        while True:
            back = [(pending.pop(future), future) for future in done]
            for chunk in islice(waiting, workers - len(pending)):
                pending[pool.submit(_train_counted, chunk)] = chunk
            for chunk, future in back:
                yield chunk, future.result()
            if not pending:
                break
            done = wait(pending, timeout=0.3, return_when=FIRST_COMPLETED).done
            report(counter.value)
    except BaseException:
        for future in pending:
            future.cancel()
        for process in list(pool._processes.values()):
            process.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# --- a GPU ---------------------------------------------------------------------------------------


def gpu(
    chunks: Sequence[Chunk], report: Callable[[int], None]
) -> Iterator[tuple[Chunk, ChunkRows]]:
    """Train chunks one after another in one process, in parts of at most two minutes that fit into
    memory; see `analysis.gpu`."""
    from analysis.gpu import Engine as OfGPU
    from analysis.gpu import free_memory

    yield from OfGPU(train_chunk, free_memory)(chunks, report)


def train_within_memory(
    chunk: Chunk, count: Callable[[int], None] | None = None
) -> Iterator[tuple[Chunk, ChunkRows]]:
    """`train_chunk`, in halves where the device runs out of memory.

    Raises torch.OutOfMemoryError where a single run does not fit.
    """
    import torch

    rows = None
    try:
        rows = train_chunk(chunk, count)
    except torch.OutOfMemoryError:
        if len(chunk.runs) == 1:
            raise
    if rows is not None:
        yield chunk, rows
        return
    # Outside the handler: the exception would keep the failed attempt's tensors alive.
    torch.cuda.empty_cache()
    print(f"{len(chunk.runs)} runs do not fit in memory; trying halves", file=sys.stderr)
    middle = len(chunk.runs) // 2
    for runs in (chunk.runs[:middle], chunk.runs[middle:]):
        yield from train_within_memory(replace(chunk, runs=runs), count)


def gpu_memory(chunk: Chunk) -> tuple[float, float, float]:
    """Bytes free on the GPU, those that a training needs once and those for each run, as they are
    predicted."""
    import torch

    from analysis.gpu import SHARE, demand_of

    torch.cuda.empty_cache()
    free = float(torch.cuda.mem_get_info()[0])
    demand = demand_of(chunk)
    replicas = min(len(chunk.runs), demand.fitting(SHARE * free))
    return free, 0.0, demand.memory(replicas) / replicas


def sized_for_memory(chunk: Chunk, free: float, once: float, each: float) -> list[Chunk]:
    """The chunk in parts whose runs fit into four fifths of the free memory together, all seeds of
    an arm in one part where they do."""
    fitting = max(1, int((0.8 * free - once) / each))
    seeds = len(chunk.seeds)
    size = fitting - fitting % seeds if fitting >= seeds else fitting
    runs = chunk.runs
    return [replace(chunk, runs=runs[i : i + size]) for i in range(0, len(runs), size)]


# --- which engine --------------------------------------------------------------------------------

# The toolkit's own, and the only device that each works on.
ENGINES: dict[str, tuple[Engine, str]] = {"processes": (processes, "cpu"), "gpu": (gpu, "cuda")}


def choose_engine(
    name: str | Engine, device: str, workers: int | None = None
) -> tuple[Engine, str]:
    """An engine by its name, "module:function" or "auto", and the device it is for.

    "auto" goes by the device, device "auto" by the engine. workers: processes of engine
    "processes". Raises StudyError.
    """
    if not isinstance(name, str):
        # An engine that trains elsewhere knows itself what devices there are.
        return name, getattr(name, "choose_device", choose_device)(device)
    if name not in ("auto", "processes") and workers is not None:
        raise StudyError(f"{workers} processes are asked for; engine {name!r} does not take them")
    if name == "auto":
        device = choose_device(device)
        name = "gpu" if device == "cuda" else "processes"
    if name not in ENGINES:
        return _imported(name), choose_device(device)
    engine, works_on = ENGINES[name]
    if device not in ("auto", works_on):
        raise StudyError(f"engine {name!r} on device {device!r}; allowed: {works_on}")
    if name == "processes":
        engine = partial(processes, workers=workers)
    return engine, choose_device(works_on)


@contextmanager
def among_ranks(engine: str | Engine, device: str) -> Iterator[str | Engine | None]:
    """The engine of this process, where `torchrun` may have started several of them.

    Alone it is the one that is asked for. Otherwise all ranks train each chunk together: the first
    has an engine for that, and writes; the others train what it trains until it has no more, and
    are given None. Raises StudyError for another engine than "auto" beside `torchrun`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield engine
        return
    if engine != "auto":
        raise StudyError(f"engine {engine!r} with torchrun; allowed: auto, whose ranks train alike")
    from aba_core.single.ranks import leave, ranks

    ours = ranks(choose_device(device))
    if not ours.first:
        while (chunk := ours.same(None)) is not None:
            train_chunk(chunk)
        leave()
        yield None
        return
    try:
        yield partial(_by_all, ours)
    finally:
        ours.same(None)
        leave()


def _by_all(
    ours: Ranks, chunks: Sequence[Chunk], report: Callable[[int], None]
) -> Iterator[tuple[Chunk, ChunkRows]]:
    """Train chunks one after the other, every rank a slice of each batch."""
    done = 0

    def count(steps: int) -> None:
        nonlocal done
        done += steps
        report(done)

    for chunk in chunks:
        if chunk.config.single is None:
            raise StudyError(
                f"torchrun started {ours.count} processes, and trainer 'replicas' trains in one; "
                "allowed: trainer: single, or aba run without torchrun"
            )
        ours.same(chunk)
        yield chunk, train_chunk(chunk, count)


def _imported(name: str) -> Engine:
    """The function that "module:function" names; modules in the current folder are found too."""
    module, _, function = name.partition(":")
    if not (module and function):
        known = ", ".join(("auto", *ENGINES))
        near = meant(name, ENGINES)
        raise StudyError(f"unknown engine {name!r}{near}; known: {known}, or module:function")
    try:
        engine = load(name)
    except ValueError as error:
        raise StudyError(f"engine {name!r}: {error}") from error
    if not callable(engine):
        raise StudyError(f"engine {name!r} is {engine!r}; needed: a function (chunks, report)")
    return engine
