"""Measure the engine on Dask against the engine of processes, and rewrite its table in README.md.

    OMP_NUM_THREADS=1 python -m benchmarks.cluster            minutes
    OMP_NUM_THREADS=1 python -m benchmarks.cluster --quick    a minute, prints only

Both train the same chunks of digits in fresh workers of this machine, in turns, so that a busy
machine slows both. Throughput counts from the call to the last chunk, and once more from the first
chunk on, without the start of the workers. The overhead of a task is the difference of the two
engines over chunks of a single step, with one worker each.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import pickle
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import psutil
import torch
from distributed import LocalCluster

from aba_core.arms import Arm
from analysis import runner
from analysis.cluster.engine import choose
from analysis.cluster.schedulers import SETTINGS
from analysis.engines import Engine, processes, train_chunk
from analysis.plan import Chunk, resolve
from analysis.study import Study
from benchmarks.bench import _cpu_name, write_between_marks

ARMS = (Arm.of("vanilla"), *(Arm.of(n, method=n, strength=0.5) for n in ("mendaba", "fastaba")))


def chunks(count: int, epochs: float, arms: Sequence[Arm] = ARMS) -> list[Chunk]:
    """Chunks of one seed each; digits, the small CNN, batches of 20 of 100 pictures."""
    config = {"dataset": "digits", "model": "small_cnn", "epochs": epochs, "batch_size": 20}
    return list(resolve(study(count, config, arms)).chunks)


def study(count: int, config: dict[str, object], arms: Sequence[Arm] = ARMS) -> Study:
    return Study(name="b", dataset="digits", config=config, arms=tuple(arms), seeds=count)


def seconds(engine: Engine, work: Sequence[Chunk]) -> tuple[float, float]:
    """Seconds in all, and from the first chunk that came back to the last."""
    start = time.perf_counter()
    times = [time.perf_counter() for _ in engine(work, lambda done: None)]
    return time.perf_counter() - start, times[-1] - times[0]


def engines(workers: int) -> dict[str, Engine]:
    on_dask = choose("local", [f"workers={workers}"])
    assert callable(on_dask)
    return {"processes": partial(processes, workers=workers), "Dask": on_dask}


def in_turns(rounds: int, workers: int, work: Sequence[Chunk]) -> dict[str, list]:
    turns: dict[str, list] = {name: [] for name in engines(workers)}
    for _ in range(rounds):
        for name, engine in engines(workers).items():
            turns[name].append(seconds(engine, work))
    return turns


def overhead(rounds: int, count: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of a chunk of one step by either engine with one worker: by the clock, and of
    this process's processor time, which a busy machine does not lengthen."""
    work = chunks(count, 0.2, ARMS[:1])
    results = {}
    for name, engine in engines(1).items():
        turns = []
        for _ in range(rounds):
            came = engine(work, lambda done: None)
            next(iter(came))  # the start of the worker
            clock, processor = time.perf_counter(), time.process_time()
            rest = len(list(came))
            spent = time.perf_counter() - clock, time.process_time() - processor
            turns.append([1e3 * seconds / rest for seconds in spent])
        clocks, processors = zip(*turns, strict=True)
        results[name] = statistics.median(clocks), statistics.median(processors)
    return results


def sizes() -> tuple[int, int]:
    """Bytes of a pickled chunk of 28 runs, and of what comes back."""
    many = [Arm.of(f"{i}", adjustments=str(i), strength=0.5) for i in range(27)]
    (chunk,) = chunks(1, 0.2, [Arm.of("vanilla"), *many])
    return len(pickle.dumps(chunk)), len(pickle.dumps([(chunk.runs, train_chunk(chunk))]))


def lost_to_kills(kills: int, count: int) -> tuple[int, int, int]:
    """Chunks, trainings that came to an end, runs missing; a worker is killed as every few chunks
    have come back."""
    import dask

    config = {"dataset": "digits", "model": "mlp", "epochs": 40, "batch_size": 20}
    spec = study(count, config)
    dask.config.set(SETTINGS)
    dask.config.set({"distributed.admin.low-level-log-length": 10**6})
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0",
            memory_limit=0, silence_logs=50,
        ) as cluster,
    ):  # fmt: skip
        killed: list[int] = []

        def progress(label: str, done: int, total: int) -> None:
            if len(killed) < kills and done >= total * (len(killed) + 1) / (kills + 1):
                pids = [nanny.pid for nanny in cluster.workers.values() if nanny.pid]
                killed.append(pids[len(killed) % len(pids)])
                psutil.Process(killed[-1]).kill()

        engine = choose(cluster.scheduler_address)
        done = runner.run(spec, Path(folder), engine=engine, progress=progress)
        log = cluster.scheduler.transition_log
        trained = Counter(str(entry.key) for entry in log if entry.finish == "memory")
    assert len(killed) == kills
    return len(trained), sum(trained.values()), len(done.result.missing)


def overhead_sentence(each: dict[str, tuple[float, float]]) -> str:
    (by_processes, parent), (by_dask, client) = each["processes"], each["Dask"]
    return (
        f"A chunk of one step takes {by_processes:.1f} ms by processes and {by_dask:.1f} ms by "
        f"Dask with one worker each; the process that sends it off spends {parent:.1f} and "
        f"{client:.1f} ms of processor time on it, with Dask's scheduler in the second.\n"
    )


def report(rounds: int, count: int, epochs: int, workers: Sequence[int]) -> str:
    each = overhead(rounds, count)
    there, back = sizes()
    work = chunks(16, epochs)
    rows = []
    for number in workers:
        for name, turns in in_turns(rounds, number, work).items():
            whole, later = (statistics.median(times) for times in zip(*turns, strict=True))
            runs = sum(len(chunk.runs) for chunk in work)
            rest = runs - len(work[0].runs)
            rows.append(
                f"| {number} | {name} | {whole:.1f} | {runs / whole:.2f} | {rest / later:.2f} |"
            )
    all_chunks, trained, missing = lost_to_kills(3, 60)
    load = os.getloadavg()[0]
    versions = f"torch {torch.__version__}, distributed {importlib.metadata.version('distributed')}"
    return "\n".join(
        [
            f"Measured on {time.strftime('%Y-%m-%d')}: {_cpu_name()}, {os.cpu_count()} cores, load "
            f"{load:.0f} at the end by other work; {versions}; medians of {rounds} turns.\n",
            overhead_sentence(each),
            f"A chunk of 28 runs goes out with {there / 1e3:.1f} kB and comes back with "
            f"{back / 1e3:.1f} kB.\n",
            f"One of two workers killed three times within {all_chunks} chunks: "
            f"{trained - all_chunks} trained to the end a second time, {missing} runs missing.\n",
            f"16 chunks of 3 runs, {epochs} epochs of the small CNN on digits:\n",
            "| workers | engine | seconds in all | runs a second | from the first chunk on |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    text = report(1, 20, 2, (1,)) if quick else report(3, 60, 10, (1, 2, 4))
    print(text)
    if not quick:
        write_between_marks("cluster", text)


if __name__ == "__main__":
    main()
