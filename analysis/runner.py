"""Runs what a study still lacks: plan, engine, results.

Only this process writes, a chunk's file as soon as its rows are back, whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from aba_core.arms import TrainConfig
from analysis import results as store
from analysis import tuning
from analysis.engines import Engine, EngineError, choose_engine
from analysis.plan import Chunk, Plan, resolve
from analysis.sharing import Share
from analysis.store import packs
from analysis.store.leases import Leases
from analysis.study import Study, StudyError

if TYPE_CHECKING:
    from aba_core import Splits
    from aba_core.integrations.trackers import Tracker

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Completion:
    """What a call of `run` did: runs computed now, runs that were finished before, those that other
    runners finished meanwhile, and the study's results. primary: the column that runs are judged
    by."""

    computed: int
    reused: int
    elsewhere: int
    result: store.StudyResult
    primary: str

    def __str__(self) -> str:
        other = f"{self.elsewhere} by other runners meanwhile, " * bool(self.elsewhere)
        return f"{self.computed} runs computed now, {other}{self.reused} found finished"


def run(
    study: Study,
    results: Path,
    device: str = "auto",
    processes: int | None = None,
    progress: Progress | None = None,
    *,
    engine: str | Engine = "auto",
    graphs: bool = False,
    track: str = "",
) -> Completion:
    """Declare a study, compute what is missing of it, and return what there is.

    progress: called with (label, model-steps done, model-steps in all) a few times a second.
    engine: a function, or a name as `engines.choose_engine` takes it. graphs: record each step as
    a CUDA graph; StudyError on a CPU. track: "tensorboard" or "mlflow", where finished runs, and
    live curves of trainer "single", are written too. KeyboardInterrupt stops the engine; finished
    chunks stay. Raises StudyError and the data sets' own errors before anything is computed.
    """
    train, device = choose_engine(engine, device, processes)
    if graphs and device != "cuda":
        raise StudyError(f"graphs are asked for on {device!r}; allowed: on cuda only")

    def complete(settled: Study) -> Completion:
        plan = _with_checkpoints(resolve(settled, device, graphs=graphs), Path(results))
        with _tracker(track, plan.study, Path(results)) as tracker:
            plan = _with_curves(plan, tracker)
            return _complete(plan, Path(results), train, progress, tracker)

    return complete(study if study.tuning is None else _tuned(study, complete))


def _with_checkpoints(plan: Plan, results: Path) -> Plan:
    """The same plan; runs that keep checkpoints have them beside the results until they end."""
    if plan.config.single is None or not plan.config.single.checkpoint_every:
        return plan
    folder = str(results.absolute() / "checkpoints")
    return replace(plan, chunks=tuple(replace(c, checkpoints=folder) for c in plan.chunks))


@contextmanager
def _tracker(name: str, study: Study, results: Path) -> Iterator[Tracker | None]:
    """A tracker by its name, "" for none. Raises StudyError."""
    if not name:
        yield None
        return
    if study.frozen:
        raise StudyError(f"tracker {name!r} of frozen models; trackers take studies of training")
    from aba_core.integrations import trackers

    try:
        made = trackers.tracker(name, results, f"{study.name}-{study.dataset}")
    except ValueError as error:
        raise StudyError(str(error)) from error
    with closing(made):
        yield made


def _with_curves(plan: Plan, tracker: Tracker | None) -> Plan:
    """The same plan; runs of one large model write their curves while they train."""
    if tracker is None or plan.config.single is None:
        return plan
    from aba_core.integrations import trackers

    place = trackers.place_of(tracker)
    return replace(plan, chunks=tuple(replace(c, tracked=place) for c in plan.chunks))


def _complete(
    plan: Plan,
    results: Path,
    train: Engine,
    progress: Progress | None,
    tracker: Tracker | None,
) -> Completion:
    store.check_listed(results)
    store.sweep(results)
    declaration = store.declare(results, plan.study, plan.keys)
    with Leases(results) as leases:
        share = Share(plan, results, leases)
        computed = _train(plan, results, train, share, progress, tracker)
        if computed:
            packs.pack_when_many(results, leases)
    rows, damaged = store.read_rows(results, declaration.kind, list(declaration.keys))
    result = store.collect(declaration, rows, damaged)
    if tracker is not None:  # those that were there before, or came from other runners
        _track(tracker, result.frame.to_dict("records"))
    return Completion(computed, share.reused, share.elsewhere, result, plan.primary)


def _track(tracker: Tracker, rows: Iterable[Mapping[Any, Any]]) -> None:
    """Write finished runs to a tracker, which knows those that it has. Raises StudyError where it
    fails; what is in the results is not lost."""
    try:
        for row in rows:
            tracker.finished(row)
    except Exception as error:
        raise StudyError(
            f"the tracker failed ({' '.join(str(error).split())[:200]}); finished runs are kept, "
            "and the same command writes the rest"
        ) from error


def _train(
    plan: Plan,
    results: Path,
    train: Engine,
    share: Share,
    progress: Progress | None,
    tracker: Tracker | None,
) -> int:
    """Have an engine compute what is missing and no other runner computes; the number of runs."""
    lacking, total = share.lacking, sum(map(plan.steps, share[:]))
    computed = finished = shown = 0

    def done() -> int:
        """Model-steps of the runs that are there by now."""
        return round((computed + share.elsewhere) * total / lacking) if lacking else 0

    def report(steps: int) -> None:
        nonlocal shown  # chunks that come back whole report nothing of those under way
        shown = min(max(finished + steps, done(), shown), total)
        if progress is not None:
            progress(f"{plan.study.name} on {plan.study.dataset}", shown, total)

    while share.wait():
        with closing(_trained(train, share, report)) as trained:
            for part in trained:
                kept = _keep(results, part)
                if tracker is not None:
                    _track(tracker, part[1]["runs"])  # type: ignore[index]
                computed += len(kept.runs)
                share.keep(kept)
                report(0)
        finished = done()
    if total:
        report(0)
    return computed


def _trained(
    train: Engine, share: Share, report: Callable[[int], None]
) -> Generator[object, None, None]:
    """What an engine gives back. Closed where Ctrl-C comes while a file is written, it closes the
    engine too."""
    yield from train(share, report)


def _keep(results: Path, part: object) -> Chunk:
    """Write what came back; the chunk, or the part of one. Raises EngineError where it is
    something else, or lacks runs."""
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
    for _, _, key in chunk.runs if chunk.checkpoints else ():
        chunk.checkpoint(key).unlink(missing_ok=True)
    return chunk


# --- in memory -----------------------------------------------------------------------------------


def own_splits(x: Any, y: Any = None, **given: Any) -> Splits:
    """Data of your own as splits: as they are, or by `splits_from`. Raises DatasetError."""
    from aba_core import Splits, splits_from

    if isinstance(x, Splits):
        if y is not None or given:
            named = next(iter(given), "y")
            raise StudyError(f"{named} is given beside Splits, which hold everything already")
        return x
    return splits_from(x, y, **given)


def builder_of(model: str, splits: Splits) -> Callable[[], Any]:
    """What builds a model by name, or by "module:function", for the shapes of the data."""
    from aba_core.training import builder

    return builder(TrainConfig(model={"use": model} if ":" in model else model), splits)


PARAMETERS_AT_ONCE = 20_000_000  # of models that train side by side; Adam keeps four such numbers


def train_in_memory(
    study: Study,
    splits: Splits,
    build: Callable[[], Any],
    config: TrainConfig,
    train_samples: int,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Every arm of a study with every seed, each seed on a training subset of its own: one row a
    run. Nothing is written. progress: called with the number of model-steps just done.

    Raises StudyError for whatever the parts refuse.
    """
    from aba_core import train
    from aba_core.checks import check_build
    from aba_core.own_data import drawn_subset

    subsets = {seed: drawn_subset(splits, train_samples, seed) for seed in study.seeds}
    try:
        check_build(build)
        model = build()
        size = sum(p.numel() for p in model.parameters()) if hasattr(model, "parameters") else 0
        together = max(1, PARAMETERS_AT_ONCE // max(1, size * len(study.arms)))
        parts = [study.seeds[at : at + together] for at in range(0, len(study.seeds), together)]
        frames = [
            train(
                config, study.arms, seeds, splits=splits, subsets=subsets, build=build,
                progress=progress,
            ).frame()
            for seeds in parts
        ]  # fmt: skip
    except ValueError as error:
        raise StudyError(" ".join(str(error).split())) from error
    return pd.concat(frames, ignore_index=True)


def _tuned(study: Study, complete: Callable[[Study], Completion]) -> Study:
    """The study with what each class of its arms keeps of what was tried; see `tuning`."""
    completion = complete(tuning.trial(study))
    if completion.result.missing:
        raise StudyError(f"{len(completion.result.missing)} tuning runs are missing; run again")
    return tuning.settled(study, completion.result.frame, completion.primary)
