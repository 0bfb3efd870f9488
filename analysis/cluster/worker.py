"""What a worker of Dask does with a chunk.

It looks into the results folder first, where it can read it, and stops in the middle where nobody
wants the chunk any more. It returns rows and writes nothing.
"""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable
from pathlib import Path

from aba_core.identity import NUMERICS
from analysis import toolkit_version
from analysis.engines import (
    ChunkRows,
    gpu_memory,
    provenance,
    sized_for_memory,
    train_chunk,
    train_within_memory,
)
from analysis.plan import Chunk


class Refused(Exception):
    """A worker that must not train: other versions, or several threads."""


class Unwanted(Exception):
    """Nobody waits for this chunk any more."""


def dask_setup(_: object) -> None:
    """Called in a worker of this machine when it starts: Ctrl-C and SIGTERM reach the whole process
    group, and the parent alone decides what to do about them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def versions() -> dict[str, str]:
    """What must be equal here and on the workers, for equal numbers."""
    return {
        "toolkit": toolkit_version(),
        "numerics": str(NUMERICS),
        # Builds for a GPU and for a CPU go together: rows tell which one it was.
        "torch": provenance()["torch"].partition("+")[0],
    }


def train_task(expected: dict[str, str], chunk: bytes, shared: Path | None) -> bytes:
    """A pickled chunk trained on a worker of Dask: pickled [(runs, rows)], its parts. Bytes, so
    that nothing of another version is unpickled before versions are compared.

    shared: a results folder to look into first. Raises Refused, Unwanted and whatever training
    raises.
    """
    from distributed import get_worker

    worker = get_worker()
    where = f"worker {worker.address}"
    if worker.state.nthreads != 1:
        raise Refused(f"{where} has {worker.state.nthreads} threads; needed: --nthreads 1")
    here = versions()
    differing = [name for name in expected if here[name] != expected[name]]
    if differing:
        told = ", ".join(f"{name} {here[name]} (here {expected[name]})" for name in differing)
        raise Refused(f"{where} has {told}; install the same there")
    if shared is not None and not shared.is_dir():
        raise Refused(f"{where} has no folder {shared}; give shared as workers see it, or not")
    key = worker.get_current_task()

    def count(model_steps: int) -> None:
        state = worker.state.tasks.get(key)
        if state is None or state.state == "cancelled" or worker.status.name.startswith("clos"):
            raise Unwanted(f"{key} is not wanted any more")

    return pickle.dumps(_parts(pickle.loads(chunk), shared, count))


def _parts(
    chunk: Chunk, shared: Path | None, count: Callable[[int], None]
) -> list[tuple[tuple[tuple[str, int, str], ...], ChunkRows]]:
    """(runs, rows) of a chunk, from the results folder or by training."""
    stored = None if shared is None else stored_rows(chunk, shared)
    if stored is not None:
        return [(chunk.runs, stored)]
    if chunk.device != "cuda":
        return [(chunk.runs, train_chunk(chunk, count))]
    return [
        (trained.runs, rows)
        for part in sized_for_memory(chunk, *gpu_memory(chunk))
        for trained, rows in train_within_memory(part, count)
    ]


def stored_rows(chunk: Chunk, results: Path) -> ChunkRows | None:
    """The rows of a chunk that is in a results folder already, sound and whole."""
    from analysis.store.chunks import Problem, checked
    from analysis.store.files import read_manifest

    manifest = read_manifest(results)
    rows: ChunkRows = {}
    for kind in (*["mechanism"] * bool(chunk.config.mechanism), chunk.kind):
        table = checked(results / kind / f"{chunk.name}.parquet", manifest)
        if isinstance(table, Problem):
            return None
        rows[kind] = table.to_pylist()
    there = {row["key"] for row in rows[chunk.kind]}
    return rows if there >= {key for _, _, key in chunk.runs} else None
