"""The one bridge to `aba_core`: turns a declared study into runs, in parallel and resumably.

On CPU one single-threaded process per core trains one chunk (a block of arms with one seed) after
another; on a GPU one process does. A chunk's file appears when it is finished, whole or not at
all. Chunks are cut from the declared study and not from what is missing, so an interrupted study
computes exactly the chunks that an uninterrupted one would have.
"""

from __future__ import annotations

import importlib.metadata
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from analysis import results as store
from analysis.study import (
    TUNING_SEED,
    ArmSpec,
    Study,
    StudyError,
    first_problem,
    short_hash,
    without_later,
)

if TYPE_CHECKING:
    from aba_core.adjustments import Adjustment
    from aba_core.arms import Arm, TrainConfig
    from aba_core.datasets import DatasetStatus, Splits

# Counted up when a change to `aba_core` moves runs by more than rounding: older runs are then not
# taken for the same.
ENGINE = 1
# Arms in one chunk on a CPU. Those that share operations go faster the more there are. Of those
# that train one after the other few are enough: little is lost when a chunk is, and no core idles
# at the end. On a GPU a chunk is as large as a study.
ARMS_TOGETHER, ARMS_ONE_BY_ONE = 28, 7


def adjustments() -> tuple[Adjustment, ...]:
    """The 27 adjustments, for those above who must not import the core themselves."""
    from aba_core.adjustments import ADJUSTMENTS

    return ADJUSTMENTS


def dataset_status() -> list[DatasetStatus]:
    """What each data set is and whether it is here."""
    from aba_core import datasets

    return datasets.dataset_status()


@dataclass(frozen=True)
class Chunk:
    """What one process trains at a time: some arms of a study with some seeds."""

    study: Study
    arms: tuple[ArmSpec, ...]
    seeds: tuple[int, ...]
    keys: tuple[tuple[str, int, str], ...]  # (arm, seed, key) of the runs that are missing
    results: Path
    device: str
    graphs: bool = False

    @property
    def name(self) -> str:
        return short_hash([key for _, _, key in self.keys])


def core_arm(spec: ArmSpec) -> Arm:
    """The arm of `aba_core` that a specification means. Raises StudyError naming the arm."""
    from aba_core import PRESETS, AdjustmentSet, Arm, Augmentation, Percentiles, SignSplit

    fields: dict[str, Any] = {
        name: value
        for name in (
            *("strength", "randomize", "attribution", "target", "top_k", "attribution_mode"),
            "placebo",
        )
        if (value := getattr(spec, name)) is not None
    }
    extra: dict[str, Any] = {
        "learning_rate": spec.learning_rate,
        "held": tuple(sorted(spec.held.items())),
        "flip_bit": spec.flip_bit,
        "seed_offset": spec.seed_offset,
    }
    try:
        if spec.quantiles is not None:
            if spec.split == "sign":
                raise ValueError("quantiles do not go with split 'sign'")
            fields["split"] = Percentiles(*spec.quantiles)
        elif spec.split is not None:
            fields["split"] = SignSplit() if spec.split == "sign" else Percentiles(0.1, 0.9)
        if spec.adjustments is not None:
            fields["adjustments"] = AdjustmentSet.parse(spec.adjustments)
        if spec.method in (None, "vanilla") and spec.adjustments is None:
            if fields:
                raise ValueError(f"{', '.join(fields)} given, but neither adjustments nor a method")
            return Arm(spec.name, None, **extra)
        if spec.method == "vanilla":
            raise ValueError("method 'vanilla' takes no adjustments")
        if spec.method is None:
            return Arm(spec.name, Augmentation(**fields), **extra)
        return Arm(spec.name, replace(PRESETS[spec.method], **fields), **extra)
    except ValueError as error:
        raise StudyError(f"arm {spec.name!r}: {error}") from error


def core_config(study: Study) -> TrainConfig:
    """The study's training configuration. Raises StudyError for unknown fields or values."""
    from dataclasses import fields

    from aba_core import TrainConfig

    known = {field.name for field in fields(TrainConfig)}
    unknown = sorted(set(study.config) - known)
    if unknown:
        raise StudyError(
            f"unknown config field {unknown[0]!r}; known: {', '.join(sorted(known))}, strength"
        )
    try:
        return TypeAdapter(TrainConfig).validate_python(study.config)
    except ValidationError as error:
        raise StudyError(first_problem(error)) from error


def choose_device(device: str) -> str:
    """cpu or cuda from auto, cpu or cuda; StudyError where it is not to be had."""
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise StudyError(f"unknown device {device!r}; known: auto, cpu, cuda")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise StudyError("device 'cuda' is not available here; allowed here: auto, cpu")
    return device


def run_keys(study: Study, fingerprint: str) -> dict[str, tuple[str, int]]:
    """The key of every run of a study: a hash of all that decides its numbers.

    Raises StudyError for two arms that are one.
    """
    from dataclasses import asdict

    config = without_later(asdict(core_config(study)))
    shared = without_later(
        {
            "engine": ENGINE,
            "config": config,
            "data": fingerprint,
            "frozen": study.frozen.model_dump(mode="json") if study.frozen else None,
            "keep_logits": study.keep_logits,
        }
    )
    keys: dict[str, tuple[str, int]] = {}
    for spec in study.arms:
        arm = core_arm(spec)
        # The arm as the core understands it, so that two spellings of one arm are one run.
        definition = without_later(
            {
                "augmentation": repr(arm.augmentation),
                "learning_rate": arm.learning_rate or config["learning_rate"],
                "held": arm.held,
                "placebo": (arm.augmentation.placebo if arm.augmentation else "") or None,
                "subset_per_run": spec.subset_per_run,
                "flip_bit": arm.flip_bit,
                "seed_offset": arm.seed_offset,
            }
        )
        for seed in study.seeds:
            key = short_hash({**shared, "arm": definition, "seed": seed})
            if key in keys:
                raise StudyError(
                    f"arms {keys[key][0]!r} and {spec.name!r} are the same runs; keep one of them"
                )
            keys[key] = (spec.name, seed)
    return keys


@cache
def provenance() -> dict[str, str]:
    """Where numbers come from: versions and the commit of the toolkit's own checkout."""
    import torch

    root = Path(__file__).parent.parent
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return {
        "toolkit": importlib.metadata.version("aba-toolkit"),
        "commit": commit or "unknown",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _device_name(device: str) -> str:
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu ({platform.machine()})"


_done: Any = None  # model-steps done by all workers, shared with the parent


def _start_worker(counter: Any) -> None:
    import signal

    import torch

    global _done
    _done = counter
    # Ctrl-C reaches the whole process group; the parent alone decides what to do about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """A parent that was killed can stop nobody: its workers watch it and stop themselves."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _count(model_steps: int) -> None:
    if _done is not None:
        with _done.get_lock():
            _done.value += model_steps


def train_chunk(chunk: Chunk, count: Callable[[int], None] = _count) -> Path:
    """Train a chunk and write its file; returns the file's path."""
    from dataclasses import asdict

    from aba_core import train
    from aba_core.evaluation import frozen

    study = chunk.study
    if chunk.arms[0].subset_per_run:  # then all are, with one seed: see plan_chunks
        own = {**study.config, "subset_seed": chunk.seeds[0]}
        study = study.model_copy(update={"config": own})
    config = core_config(study)
    splits = load_splits(study)
    wanted = {(arm, seed): key for arm, seed, key in chunk.keys}
    # A block lacks some of its runs where arms were added to a study or memory was short.
    arms = [core_arm(arm) for arm in chunk.arms if any(arm.name == name for name, _ in wanted)]
    seeds = [seed for seed in chunk.seeds if any(seed == other for _, other in wanted)]
    runs = train(
        config,
        arms,
        seeds,
        chunk.device,
        splits=splits,
        study=study.name,
        keep_logits=study.keep_logits,
        graphs=chunk.graphs,
        progress=count,
    )
    stamp = {
        **provenance(),
        "device": _device_name(chunk.device),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "chunk": chunk.name,
        "data": splits.fingerprint,
        "hypotheses": study.hypotheses_hash,
    }
    measured = [
        {**row, "key": wanted[row["arm"], row["seed"]], **stamp}
        for row in runs.mechanism_rows
        if (row["arm"], row["seed"]) in wanted
    ]
    if measured:  # before the runs: a run that is there then has its measurements
        store.write_chunk(chunk.results, "mechanism", chunk.name, measured)
    rows = []
    for row in runs.rows:
        arm, seed = str(row["arm"]), int(row["seed"])  # type: ignore[call-overload]
        if (arm, seed) not in wanted:
            continue
        identity = {"key": wanted[arm, seed], **stamp}
        if study.frozen is None:
            logits = runs.logits[arm, seed].half().numpy() if study.keep_logits else None
            extra = (
                {}
                if logits is None
                else {
                    "validation_logits": logits.astype("<f2").tobytes(),
                    "logit_classes": logits.shape[1],
                    "validation_labels": splits.validation.y.numpy().astype("<i2").tobytes(),
                }
            )
            rows.append({**row, **extra, **identity})
            continue
        kept = {k: row[k] for k in (*asdict(config), "arm", "seed", "seconds", "status")}
        for result in frozen(
            runs.model(arm, seed),
            splits.validation,
            study.frozen.strengths,
            target=study.frozen.target,  # type: ignore[arg-type]
        ):
            rows.append({"study": study.name, **kept, **result, **identity})
    return store.write_chunk(chunk.results, "frozen" if study.frozen else "runs", chunk.name, rows)


def train_within_memory(chunk: Chunk, count: Callable[[int], None] = _count) -> list[Path]:
    """`train_chunk`, in halves where the device runs out of memory. Finished halves are kept.

    Raises torch.OutOfMemoryError where a single run does not fit.
    """
    import torch

    try:
        return [train_chunk(chunk, count)]
    except torch.OutOfMemoryError:
        if len(chunk.keys) == 1:
            raise
    # Outside the handler: the exception would keep the failed attempt's tensors alive.
    torch.cuda.empty_cache()
    print(f"{len(chunk.keys)} runs do not fit in memory; trying halves", file=sys.stderr)
    middle = len(chunk.keys) // 2
    return [
        path
        for keys in (chunk.keys[:middle], chunk.keys[middle:])
        for path in train_within_memory(replace(chunk, keys=keys), count)
    ]


def gpu_memory(chunk: Chunk) -> tuple[float, float, float]:
    """Bytes free on the GPU, those that a training needs once and those for each run.

    From one step of one run and of two: what they share cancels.
    """
    import torch

    from aba_core import train

    config, splits = core_config(chunk.study), load_splits(chunk.study)
    one_step = replace(config, epochs=config.batch_size / len(splits.train), mechanism=0)
    arms = [core_arm(arm) for arm in chunk.arms]
    arm = next((arm for arm in arms if arm.augmentation is not None), arms[0])
    torch.cuda.empty_cache()
    free = float(torch.cuda.mem_get_info()[0])
    before = torch.cuda.memory_allocated()
    peaks = []
    for runs in (1, 2):
        torch.cuda.reset_peak_memory_stats()
        train(one_step, [arm], list(range(runs)), chunk.device, splits=splits)
        peaks.append(float(torch.cuda.max_memory_allocated() - before))
    torch.cuda.empty_cache()
    each = max(1.0, peaks[1] - peaks[0])
    return free, max(0.0, peaks[0] - each), each


def sized_for_memory(chunk: Chunk, free: float, once: float, each: float) -> list[Chunk]:
    """The chunk in parts whose runs fit into four fifths of the free memory together, all seeds of
    an arm in one part where they do."""
    fitting = max(1, int((0.8 * free - once) / each))
    seeds = len(chunk.seeds)
    size = fitting - fitting % seeds if fitting >= seeds else fitting
    keys = chunk.keys
    return [replace(chunk, keys=keys[i : i + size]) for i in range(0, len(keys), size)]


@lru_cache(maxsize=4)  # a study of subsets goes through many
def _cached_splits(dataset: str, subset: str, subset_seed: int, tokens: int) -> Splits:
    from aba_core import load_dataset

    return load_dataset(dataset, subset, subset_seed=subset_seed, tokens=tokens)


def load_splits(study: Study) -> Splits:
    """The study's data, read once in each process."""
    config = core_config(study)
    return _cached_splits(config.dataset, config.subset, config.subset_seed, config.tokens)


def arms_per_chunk(study: Study, splits: Splits) -> int:
    """How many arms a chunk holds on a CPU."""
    from aba_core.replicas import run_together

    elements = core_config(study).batch_size * math.prod(splits.input_shape)
    return ARMS_TOGETHER if run_together(elements, ARMS_TOGETHER) else ARMS_ONE_BY_ONE


def plan_chunks(
    study: Study,
    keys: Mapping[str, tuple[str, int]],
    finished: set[str],
    results: Path,
    device: str,
    arms_per_chunk: int,
) -> list[Chunk]:
    """The chunks that still have something to compute, cut without regard to what is finished.

    arms_per_chunk: on a CPU; a GPU takes all at once.
    """
    by_run = {run: key for key, run in keys.items()}
    chunks = []
    for alike in (
        tuple(arm for arm in study.arms if not arm.subset_per_run),
        tuple(arm for arm in study.arms if arm.subset_per_run),  # each seed has data of its own
    ):
        if not alike:
            continue
        per_chunk = arms_per_chunk if device == "cpu" else len(alike)
        blocks = -(-len(alike) // per_chunk)
        size = -(-len(alike) // blocks)
        one_seed = device == "cpu" or alike[0].subset_per_run
        seed_blocks = [(seed,) for seed in study.seeds] if one_seed else [study.seeds]
        for seeds in seed_blocks:
            for start in range(0, len(alike), size):
                arms = alike[start : start + size]
                missing = tuple(
                    (arm.name, seed, by_run[arm.name, seed])
                    for arm in arms
                    for seed in seeds
                    if by_run[arm.name, seed] not in finished
                )
                if missing:
                    chunks.append(Chunk(study, arms, seeds, missing, results, device))
    return chunks


@dataclass(frozen=True)
class Outcome:
    """What a call of `run` did: runs computed now, runs found finished, the study's results."""

    computed: int
    found: int
    result: store.StudyResult


def run(
    study: Study,
    results: Path,
    device: str = "auto",
    processes: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    *,
    graphs: bool = False,
) -> Outcome:
    """Declare a study, compute what is missing of it, and return what there is.

    progress: called with (label, model-steps done, model-steps in all) a few times a second.
    graphs: record each step as a CUDA graph; StudyError on a CPU.
    KeyboardInterrupt stops the workers; finished chunks stay. Raises StudyError and the data
    sets' own errors before anything is computed.
    """
    device = choose_device(device)
    if graphs and device != "cuda":
        raise StudyError(f"graphs are asked for on {device!r}; allowed: on cuda only")
    if study.tuning is not None:
        study = _tuned(study, results, device, processes, progress, graphs)
    results = Path(results)
    splits = load_splits(study)
    keys = run_keys(study, splits.fingerprint)
    _check(study, splits)
    declaration = store.declare(results, study, keys)
    rows, _ = store.read_rows(results, declaration.kind)
    finished = set(rows["key"]) & set(keys)
    per_chunk = arms_per_chunk(study, splits)
    chunks = plan_chunks(study, keys, finished, results, device, per_chunk)
    steps = core_config(study).steps(len(splits.train))
    total = sum(len(chunk.keys) for chunk in chunks) * steps
    label = f"{study.name} on {study.dataset}"
    report = progress or (lambda label, done, total: None)
    if device == "cuda":
        done = 0

        def count(model_steps: int) -> None:
            nonlocal done
            done += model_steps
            report(label, done, total)

        for chunk in chunks:
            for part in sized_for_memory(replace(chunk, graphs=graphs), *gpu_memory(chunk)):
                train_within_memory(part, count)
    elif chunks:
        _run_processes(chunks, processes or os.cpu_count() or 1, lambda n: report(label, n, total))
    rows, damaged = store.read_rows(results, declaration.kind)
    result = store.collect(declaration, rows, damaged)
    return Outcome(sum(len(chunk.keys) for chunk in chunks), len(finished), result)


def _check(study: Study, splits: Splits) -> None:
    """What can be known to fail before an hour is spent: the model and the batch fit the data."""
    from aba_core import build_model

    config = core_config(study)
    try:
        build_model(config.model, splits.input_shape, splits.classes, config.batch_norm)
    except ValueError as error:
        raise StudyError(str(error)) from error
    if config.batch_size > len(splits.train):
        raise StudyError(
            f"batch_size is {config.batch_size}; allowed: up to the {len(splits.train)} "
            "training samples"
        )


def _run_processes(chunks: Sequence[Chunk], processes: int, report: Callable[[int], None]) -> None:
    """Train chunks in single-threaded processes, the parent only watching."""
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    # Workers read these when they load their numerical libraries.
    environment = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    pool = ProcessPoolExecutor(
        min(processes, len(chunks)), context, initializer=_start_worker, initargs=(counter,)
    )
    pending: set[Future[Path]] = set()
    try:
        pending = {pool.submit(train_chunk, chunk) for chunk in chunks}
        while pending:
            finished, pending = wait(pending, timeout=0.3, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
            report(counter.value)
    except BaseException:
        for future in pending:
            future.cancel()
        for process in list(pool._processes.values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _tuned(
    study: Study,
    results: Path,
    device: str,
    processes: int | None,
    progress: Callable[[str, int, int], None] | None,
    graphs: bool,
) -> Study:
    """The study with each arm's strength chosen on validation, all with the same budget.

    Every method is trained at every strength with tuning seeds; the strength with the highest mean
    validation accuracy wins, the smaller one in a tie. Runs that diverged count as 0.
    """
    assert study.tuning is not None
    tuned = [arm for arm in study.arms if arm.method != "vanilla"]
    candidates = {
        f"{arm.name} at {strength:g}": (arm.name, strength)
        for arm in tuned
        for strength in study.tuning.strengths
    }
    by_name = {arm.name: arm for arm in study.arms}
    trial = study.model_copy(
        update={
            "name": f"{study.name}-tuning",
            "tuning": None,
            "seeds": tuple(range(TUNING_SEED, TUNING_SEED + study.tuning.seeds)),
            "arms": tuple(
                by_name[arm].model_copy(update={"name": name, "strength": strength})
                for name, (arm, strength) in candidates.items()
            ),
        }
    )
    outcome = run(trial, results, device, processes, progress, graphs=graphs)
    if outcome.result.missing:
        raise StudyError(f"{len(outcome.result.missing)} tuning runs are missing; run again")
    scores = outcome.result.frame.fillna({"validation_accuracy": 0.0})
    means = scores.groupby("arm")["validation_accuracy"].mean()
    chosen: dict[str, float] = {}
    for name, (arm, strength) in candidates.items():
        best = chosen.get(arm)
        if best is None or means[name] > means[f"{arm} at {best:g}"]:
            chosen[arm] = strength
    arms = tuple(
        arm.model_copy(update={"strength": chosen[arm.name]}) if arm.name in chosen else arm
        for arm in study.arms
    )
    return study.model_copy(update={"arms": arms, "tuning": None})


def bars() -> Callable[[str, int, int], None]:
    """Progress: a bar on a terminal, a plain line now and then elsewhere."""
    from tqdm import tqdm

    if sys.stderr.isatty():
        bar: dict[str, Any] = {}

        def draw(label: str, done: int, total: int) -> None:
            if bar.get("label") != label:
                bar.update(
                    label=label, bar=tqdm(total=total, unit="step", unit_scale=True, desc=label)
                )
            bar["bar"].update(done - bar["bar"].n)
            if done >= total:
                bar["bar"].close()

        return draw
    last: dict[str, Any] = {"label": None}

    def line(label: str, done: int, total: int) -> None:
        now = time.monotonic()
        if last["label"] != label:
            last.update(label=label, start=now, said=now, finished=False)
        if last["finished"]:
            return
        if done >= total > 0:
            last["finished"] = True
            print(f"{label}: done in {now - last['start']:.0f} s", file=sys.stderr, flush=True)
        elif done and now - last["said"] >= 10:
            left = (now - last["start"]) * (total - done) / done
            last["said"] = now
            print(
                f"{label}: {100 * done / total:.0f} %, about {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    return line
