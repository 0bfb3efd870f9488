"""Measure the store at 100,000 runs in 10,000 chunks; writes the table of docs/reliability.md.

    python -m benchmarks.store                  ten minutes, rewrites the table
    python -m benchmarks.store --chunks 500     a try, prints only

The folder is made by the real writer, with rows as training writes them and made-up numbers. Each
figure is of a process of its own, as a user starts it: what it takes in all, and its peak memory.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from aba_core.arms import Arm
from aba_core.identity import short_hash
from analysis import results as store
from analysis.plan import core_config, core_methods, run_keys
from analysis.store import files
from analysis.study import Study

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
ARMS, CHUNKS = 10, 10_000

LOAD = "import sys; from analysis import results; r = results.load(sys.argv[1], 'large', 'digits')"
MEASURED = {
    "aba status": ("-m", "analysis.cli", "status", "--results"),
    "load of the study": ("-c", f"{LOAD}; assert len(r.frame) == int(sys.argv[2])"),
    "aba verify": ("-m", "analysis.cli", "verify", "--results"),
    "aba pack": ("-m", "analysis.cli", "pack", "--results"),
}


def make(folder: Path, chunks: int) -> None:
    """A study of ten arms with so many seeds, each seed a chunk."""
    arms = tuple(Arm.of(f"arm {n}", adjustments=str(n + 1), strength=0.5) for n in range(ARMS))
    study = Study(name="large", dataset="digits", arms=arms, seeds=chunks)
    noise = np.random.default_rng(0)
    template = store.read_rows(store.SHIPPED, "runs")[0]
    template = template[template["study"] == "isolation"].dropna(axis=1).iloc[0].to_dict()
    keys = run_keys(study, core_config(study), core_methods(arms), template["data"])
    store.declare(folder, study, keys)
    of_seed: dict[int, list[tuple[str, str]]] = {}
    for (arm, seed), key in {run: key for key, run in reversed(keys.items())}.items():
        of_seed.setdefault(seed, []).append((key, arm))
    # What the writer waits for is the disk, thousands of times: here nobody cuts the power.
    files.os.fsync = lambda descriptor: None
    for seed, runs in of_seed.items():
        name = short_hash([key for key, _ in runs])
        rows = [
            {
                **template, "key": key, "arm": arm, "seed": seed, "chunk": name, "study": "large",
                "validation_accuracy": 50 + 40 * noise.random(), "validation_loss": noise.random(),
            }
            for key, arm in runs
        ]  # fmt: skip
        store.write_chunk(folder, "runs", name, rows)


def timed(arguments: tuple[str, ...], folder: Path, runs: int) -> tuple[float, float, float]:
    """Of a Python process: seconds, those of a core, and peak memory in MB."""
    code = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], "
        "stdout=subprocess.DEVNULL); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(used.ru_maxrss / 1024, used.ru_utime + used.ru_stime, done.returncode)"
    )
    command = [sys.executable, *arguments, str(folder)]
    command += [str(runs)] if arguments[0] == "-c" else []
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    peak, of_cpu, returned = map(float, done.stdout.split())
    if returned:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr}")
    return seconds, of_cpu, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=CHUNKS)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="store-"))
    try:
        start = time.perf_counter()
        make(folder, given.chunks)
        made = time.perf_counter() - start
        runs = given.chunks * ARMS
        lines = [f"made {given.chunks} chunk files of {ARMS} runs in {made:.0f} s"]
        print(lines[0], flush=True)
        table = []
        steps = [
            ("chunk files, first look, no index", "aba status"),
            ("chunk files", "aba status"),
            ("chunk files", "load of the study"),
            ("chunk files", "aba verify"),
            ("chunk files", "aba pack"),
            ("packs, first look", "aba status"),
            ("packs", "aba status"),
            ("packs", "load of the study"),
            ("packs", "aba verify"),
        ]
        for state, what in steps:
            seconds, of_cpu, peak = timed(MEASURED[what], folder, runs)
            table.append(f"| {state} | {what} | {of_cpu:.1f} | {seconds:.1f} | {peak:.0f} |")
            print(table[-1], flush=True)
        number = len(files.names(folder / "runs", ".parquet"))
    finally:
        shutil.rmtree(folder)
    if given.chunks == CHUNKS:
        write("store", said(runs, number, table))


def said(runs: int, packs: int, table: list[str]) -> list[str]:
    return [
        f"`python -m benchmarks.store` on {datetime.now(UTC):%Y-%m-%d}: {runs} runs in {CHUNKS} "
        f"chunks, {packs} packs; Python {platform.python_version()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.0f}. Time of a core, time by the clock (which other work on the "
        "machine lengthens) and peak memory of a process, its start included.",
        "",
        "| files | what | core s | s | MB |",
        "|---|---|---|---|---|",
        *table,
    ]


def write(name: str, lines: list[str]) -> None:
    """Put lines between the markers of a name in docs/reliability.md."""
    start, end = f"<!-- {name}: written by a run -->", f"<!-- end of {name} -->"
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    PAGE.write_text("\n".join([before + start, "", *lines, "", end + after]), encoding="utf-8")


if __name__ == "__main__":
    main()
