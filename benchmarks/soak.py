"""Kill runners at random moments and look what is lost; writes the table of docs/reliability.md.

    make soak                                   1,000 kills, rewrites the table
    python -m benchmarks.soak --kills 10        a try, prints only

Each victim is a fork that works on a results folder through the runner: it trains a tiny study,
alone or beside another, or packs. Half of the victims die by SIGKILL from outside at a random time;
half kill themselves at a random change of the file system, before or after it. Victims are forks of
a process that has loaded everything, so that a kill costs a tenth of a second. Nothing is fsynced
less than usual.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch._dynamo  # victims would each load it

from aba_core.arms import Arm
from analysis import engines, plan, runner
from analysis import results as store
from analysis.store import chunks, files, index, packs
from analysis.store.leases import Leases
from analysis.store.verify import verify
from analysis.study import Study
from benchmarks.store import write

KILLS, SEEDS = 1000, 12
# Small, so that a study of twelve chunks is packed.
packs.LOOSE, packs.MEMBERS = 3, 4
# How long a victim lives at most: about three chunks.
LIFE = 0.5
STEPS = ("open", "replace", "link", "unlink", "fsync", "mkdir")


def study() -> Study:
    config = {"dataset": "digits", "model": "linear", "epochs": 0.2, "batch_size": 20}
    config |= {"mechanism": 1}
    raised = Arm.of("raised", adjustments="3", strength=0.3, target="loss")
    arms = (Arm.of("vanilla"), raised)
    return Study(name="soak", dataset="digits", config=config, arms=arms, seeds=SEEDS)


# --- victims -------------------------------------------------------------------------------------


def fork(do: Callable[[], object]) -> int:
    """A process that does one thing and ends: 0, or 1 with the reason."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        do()
        code = 0
    except BaseException as error:  # whatever it is: the parent counts it
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(code)


def run_study(folder: Path, trace: Path) -> None:
    """The whole of `aba run`, with an engine in this process that notes which chunk it begins."""
    noted = os.open(trace, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def engine(todo, report):
        for chunk in todo:
            os.write(noted, f"{os.getpid()} {chunk.name}\n".encode())
            yield chunk, engines.train_chunk(chunk)

    runner.run(study(), folder, device="cpu", engine=engine)


def pack(folder: Path) -> None:
    with Leases(folder) as leases:
        packs.pack_when_many(folder, leases)


def die_at(step: int, before: bool) -> None:
    """Have this process kill itself at its n-th change of the file system."""
    count = 0

    def stepping(real):
        def do(*arguments, **options):
            nonlocal count
            count += 1
            if count == step and before:
                os.kill(os.getpid(), signal.SIGKILL)
            done = real(*arguments, **options)
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return do

    for name in STEPS:
        setattr(os, name, stepping(getattr(os, name)))


# --- the soak ------------------------------------------------------------------------------------


@dataclass
class Soak:
    """What happened. retrained: {chunks begun and not kept: number of kills}."""

    trace: Path
    reference: dict[str, int]
    chance: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    retrained: Counter[int] = field(default_factory=Counter)
    studies: int = 0
    packs: int = 0
    lost: int = 0
    differing: int = 0
    faults: list[str] = field(default_factory=list)

    def study(self, folder: Path, enough: int) -> None:
        """Kill until a study is complete, or there were enough kills; then look at it."""
        kept: set[str] = set()
        while kept != set(self.reference) or self.chance.random() < 0.5:
            if self.kills.total() >= enough:
                wait(fork(lambda: run_study(folder, self.trace)))
                break
            victims = list(self._victims(folder))
            for pid, dies, what in victims:
                code = self._end(pid, dies)
                if code == -signal.SIGKILL:
                    self.kills[what] += 1
                    self.retrained[len(self._begun(pid) - set(chunks_of(folder)))] += 1
                elif code:
                    self.faults.append(f"{what} ended with {code}")
            now = bits(folder)
            self.lost += len(kept - set(now))
            self.differing += sum(self.reference.get(key) != value for key, value in now.items())
            kept = set(now)
        wait(fork(lambda: run_study(folder, self.trace)))
        self._check(folder)

    def _victims(self, folder: Path) -> Iterator[tuple[int, bool, str]]:
        """Processes at work: (pid, whether it kills itself, what it does)."""
        works = {"a runner": 1, "one of two runners": 2, "a runner beside a packing": 1}
        what = self.chance.choices(list(works), (5, 2, 2))[0]
        for _ in range(works[what]):
            yield self._start(what, lambda: run_study(folder, self.trace), 120)
        if "packing" in what:
            yield self._start("a packing", lambda: pack(folder), 60)

    def _start(self, what: str, do: Callable[[], None], steps: int) -> tuple[int, bool, str]:
        dies = self.chance.random() < 0.5
        step, before = self.chance.randint(1, steps), self.chance.random() < 0.5

        def work() -> None:
            if dies:
                die_at(step, before)
            do()

        return fork(work), dies, what

    def _end(self, pid: int, dies: bool) -> int:
        """Let a process die, by its own hand or by ours; its exit code."""
        until = time.monotonic() + (30.0 if dies else self.chance.uniform(0.0, LIFE))
        while time.monotonic() < until:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        return wait(pid)

    def _begun(self, pid: int) -> set[str]:
        """Chunks that a process began to train."""
        lines = self.trace.read_text().splitlines() if self.trace.exists() else []
        return {line.split()[1] for line in lines if line.split()[0] == str(pid)}

    def _check(self, folder: Path) -> None:
        """A study that is complete: as nobody had interrupted it."""
        self.studies += 1
        index._kinds.clear()
        findings = verify(folder)
        self.faults += [*findings.problems, *findings.notes]
        if bits(folder) != self.reference:
            self.faults.append(f"{folder} has not the runs of an uninterrupted study")
        self.faults += [f"lease left: {p.name}" for p in (folder / "leases").glob("*.json")]
        names = files.names(folder / "runs", ".parquet")
        self.packs += sum(packs.is_pack(name) for name in names)


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def bits(folder: Path) -> dict[str, int]:
    """{key: a hash of all that a run's rows say but for the occasion}."""
    said: dict[str, list[int]] = {}
    for kind in ("runs", "mechanism"):
        frame, passed_over = store.read_rows(folder, kind)
        if passed_over:
            raise SystemExit(f"passed over: {passed_over}")
        columns = sorted(set(frame) - chunks._OF_THE_OCCASION)
        for row in frame[columns].astype(str).itertuples(index=False, name=None):
            said.setdefault(row[columns.index("key")], []).append(hash((kind, row)))
    runs = set(store.runs_in_short(folder, "runs")[0]["key"])
    return {key: hash(tuple(sorted(values))) for key, values in said.items() if key in runs}


def chunks_of(folder: Path) -> list[str]:
    return list(store.runs_in_short(folder, "runs")[0]["chunk"])


def soak(kills: int, minutes: float, seed: int) -> tuple[Soak, float]:
    """Kill so often, or so long. The reference is the same study, uninterrupted."""
    torch.set_num_threads(1)
    engines.provenance()
    resolved = plan.resolve(study())
    runner.resolve = lambda *_, **__: resolved  # what is tried is the writing
    place = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        if wait(fork(lambda: run_study(place / "whole", place / "trace"))):
            raise SystemExit("the uninterrupted study failed")
        done = Soak(place / "trace", bits(place / "whole"), random.Random(seed))
        assert len(done.reference) == 2 * SEEDS
        start = time.perf_counter()
        while done.kills.total() < kills and time.perf_counter() - start < 60 * minutes:
            folder = place / str(done.studies)
            done.study(folder, kills)
            shutil.rmtree(folder)
            done.trace.unlink()
            if sys.stderr.isatty() or kills >= 100:
                print(f"{done.kills.total()} kills", file=sys.stderr, flush=True)
        return done, time.perf_counter() - start
    finally:
        shutil.rmtree(place)


def said(done: Soak, seconds: float, seed: int) -> list[str]:
    """The figures, in words and a table."""
    return [
        f"`python -m benchmarks.soak --seed {seed}` on {datetime.now(UTC):%Y-%m-%d}: "
        f"{done.kills.total()} kills in {seconds / 60:.0f} minutes, {done.studies} studies of "
        f"{2 * SEEDS} runs in {SEEDS} chunks brought to their end.",
        "",
        "| what | number |",
        "|---|---|",
        *(f"| kills of {what} | {number} |" for what, number in sorted(done.kills.items())),
        f"| runs lost | {done.lost} |",
        f"| runs with other bits | {done.differing} |",
        *(
            f"| kills after which {number} chunks had to be trained again | {n} |"
            for number, n in sorted(done.retrained.items())
        ),
        f"| packs at the end of studies | {done.packs} |",
        f"| other faults: exit codes, `aba verify`, leases left | {len(done.faults)} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after, with fewer kills")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    done, seconds = soak(given.kills, given.minutes, given.seed)
    lines = said(done, seconds, given.seed)
    print("\n".join(lines))
    print("\n".join(done.faults), file=sys.stderr)
    if given.kills >= 100:
        write("soak", lines)
    if done.lost or done.differing or done.faults or max(done.retrained) > 1:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
