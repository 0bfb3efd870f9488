"""Runs what a study still lacks: plan, engine, results.

Only this process writes, a chunk's file as soon as its rows are back, whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from analysis import results as store
from analysis import tuning
from analysis.engines import Engine, EngineError, choose_engine
from analysis.plan import Chunk, Plan, resolve
from analysis.study import Study, StudyError

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Completion:
    """What a call of `run` did: runs computed now, runs that were finished before, and the study's
    results. primary: the column that runs are judged by."""

    computed: int
    reused: int
    result: store.StudyResult
    primary: str


def run(
    study: Study,
    results: Path,
    device: str = "auto",
    processes: int | None = None,
    progress: Progress | None = None,
    *,
    engine: str | Engine = "auto",
    graphs: bool = False,
) -> Completion:
    """Declare a study, compute what is missing of it, and return what there is.

    progress: called with (label, model-steps done, model-steps in all) a few times a second.
    engine: a function, or a name as `engines.choose_engine` takes it. graphs: record each step as
    a CUDA graph; StudyError on a CPU. KeyboardInterrupt stops the engine; finished chunks stay.
    Raises StudyError and the data sets' own errors before anything is computed.
    """
    train, device = choose_engine(engine, device, processes)
    if graphs and device != "cuda":
        raise StudyError(f"graphs are asked for on {device!r}; allowed: on cuda only")

    def complete(settled: Study) -> Completion:
        return _complete(resolve(settled, device, graphs=graphs), Path(results), train, progress)

    return complete(study if study.tuning is None else _tuned(study, complete))


def _complete(plan: Plan, results: Path, train: Engine, progress: Progress | None) -> Completion:
    store.check_listed(results)
    store.sweep(results)
    declaration = store.declare(results, plan.study, plan.keys)
    rows, _ = store.read_rows(results, declaration.kind)
    finished = {plan.keys[key] for key in set(rows["key"]) & set(plan.keys)}
    chunks = plan.unfinished(finished)
    computed = sum(len(chunk.runs) for chunk in chunks)
    total = sum(map(plan.steps, chunks))
    kept = 0

    def report(done: int) -> None:
        if progress is not None:
            label = f"{plan.study.name} on {plan.study.dataset}"
            progress(label, min(max(done, kept), total), total)

    with closing(_trained(train, chunks, report)) as trained:
        for part in trained:
            kept += plan.steps(_keep(results, part))
            report(0)
    rows, damaged = store.read_rows(results, declaration.kind)
    result = store.collect(declaration, rows, damaged)
    return Completion(computed, len(finished), result, plan.primary)


def _trained(
    train: Engine, chunks: Sequence[Chunk], report: Callable[[int], None]
) -> Generator[object, None, None]:
    """What an engine gives back. Closed where Ctrl-C comes while a file is written, it closes the
    engine too."""
    if chunks:
        yield from train(chunks, report)


def _keep(results: Path, part: object) -> Chunk:
    """Write what came back; the chunk that it is of. Raises EngineError where it is not what is
    needed, or lacks runs."""
    match part:
        case (Chunk() as chunk, dict() as tables):
            keys = {row["key"] for row in tables.get(chunk.kind, ())}
        case _:
            raise EngineError(
                f"the engine gave back {type(part).__name__}; needed: a chunk and its rows"
            )
    lacking = [(arm, seed) for arm, seed, key in chunk.runs if key not in keys]
    if lacking:
        arm, seed = lacking[0]
        raise EngineError(
            f"the engine gave back no rows for {len(lacking)} of the {len(chunk.runs)} runs of a "
            f"chunk, the first of them {arm!r} with seed {seed}"
        )
    for kind, rows in tables.items():
        if rows:
            store.write_chunk(results, kind, chunk.name, rows)
    return chunk


def _tuned(study: Study, complete: Callable[[Study], Completion]) -> Study:
    """The study with what each class of its arms keeps of what was tried; see `tuning`."""
    completion = complete(tuning.trial(study))
    if completion.result.missing:
        raise StudyError(f"{len(completion.result.missing)} tuning runs are missing; run again")
    return tuning.settled(study, completion.result.frame, completion.primary)
