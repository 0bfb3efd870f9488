"""A study resolved to a plan, once: its configuration, data, arms, keys and chunks.

Whatever needs more than a study's declaration asks the plan; nothing reads `Study.config` again.
Chunks are cut from the declared study and not from what is missing, so an interrupted study
computes exactly the chunks that an uninterrupted one would have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from aba_core.arms import OF_ANY_MODEL, VANILLA, Arm, TrainConfig
from aba_core.identity import NUMERICS, Use, meant, plain, short_hash
from aba_core.legacy import legacy_key
from aba_core.quantities import TASKS
from analysis.study import MOST_RUNS, Frozen, Study, StudyError
from analysis.yaml_text import first_problem

if TYPE_CHECKING:
    from aba_core.datasets import DatasetStatus, Splits
    from aba_core.methods.base import Method

# Arms in one chunk on a CPU. Those that share operations go faster the more there are. Of those
# that train one after the other few are enough: little is lost when a chunk is, and no core idles
# at the end. On a GPU a chunk is as large as a study.
ARMS_TOGETHER, ARMS_ONE_BY_ONE = 28, 7


# Of one run; the longest published training has a thousandth of these.
MOST_STEPS = 10**8


@dataclass(frozen=True)
class Chunk:
    """What one process trains at a time: some arms with some seeds.

    It holds all that training needs and nothing of where results are kept, and can be pickled.
    runs: (arm, seed, key) of those to be computed. hypotheses: the hash of what they are to decide.
    checkpoints: the folder of those that trainer "single" keeps, "" for none. tracked: where its
    live curves go, see `aba_core.integrations.trackers.place_of`.
    """

    study: str
    config: TrainConfig
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    runs: tuple[tuple[str, int, str], ...]
    device: str
    graphs: bool = False
    keep_logits: bool = False
    frozen: Frozen | None = None
    hypotheses: str = ""
    keep_correct: bool = False
    checkpoints: str = ""
    tracked: tuple[str, ...] = ()

    def checkpoint(self, key: str) -> Path:
        """Where the run with this key keeps its checkpoint."""
        return Path(self.checkpoints) / f"{key}.pt"

    @property
    def name(self) -> str:
        """The hash of its keys."""
        return short_hash([key for _, _, key in self.runs])

    @property
    def kind(self) -> str:
        """The table its runs go to."""
        return "frozen" if self.frozen else "runs"


@dataclass(frozen=True)
class Plan:
    """All that a study's declaration means.

    arms: in the declared order. fingerprint: of the data. primary: the column that runs are judged
    by, that of the task's primary quantity on validation. keys: {key: (arm, seed)}; of several keys
    of a run it is written under the first. samples: {subset: to train on}. chunks: of the whole
    study.
    """

    study: Study
    config: TrainConfig
    arms: tuple[Arm, ...]
    fingerprint: str
    primary: str
    keys: Mapping[str, tuple[str, int]]
    samples: Mapping[str, int]
    chunks: tuple[Chunk, ...]

    def steps(self, chunk: Chunk) -> int:
        """Of all the runs of a chunk."""
        return len(chunk.runs) * chunk.config.steps(self.samples[str(chunk.config.subset)])


def resolve(
    study: Study, device: str = "cpu", *, graphs: bool = False, arms_per_chunk: int | None = None
) -> Plan:
    """The plan of a study whose strengths are chosen, for a device ("cpu" or "cuda").

    graphs: record each step as a CUDA graph. arms_per_chunk: on a CPU, by default what the size of
    the inputs asks for. Raises StudyError and the data sets' own errors.
    """
    runs = len(study.arms) * len(study.seeds)
    if runs > MOST_RUNS:
        raise StudyError(f"{runs} runs, arms times seeds; allowed: up to {MOST_RUNS}")
    config = core_config(study)
    splits = load_splits(config)
    arms = study.arms
    methods = core_methods(arms)
    _check(config, splits, arms, methods)
    keys = run_keys(study, config, methods, splits.fingerprint)
    if config.single is not None:
        arms_per_chunk = 1
    elif device != "cpu":
        arms_per_chunk = len(arms)
    elif arms_per_chunk is None:
        arms_per_chunk = _arms_on_cpu(config, splits)
    whole = Chunk(
        study.name,
        config,
        arms,
        study.seeds,
        _runs(keys),
        device,
        graphs,
        study.keep_logits,
        study.frozen,
        study.hypotheses_hash,
        study.keep_correct,
    )
    chunks = _cut(whole, arms_per_chunk)
    primary = f"validation_{TASKS[splits.task][0]}"
    if study.keep_correct and (splits.task != "multiclass" or splits.validation.y.dim() != 1):
        raise StudyError(
            f"keep_correct is true, but {study.dataset} has no one right class a sample"
        )
    trained = {str(chunk.config.subset): chunk.config for chunk in chunks}
    samples = {
        subset: len((splits if subset == str(config.subset) else load_splits(own)).train)
        for subset, own in trained.items()
    }
    return Plan(study, config, arms, splits.fingerprint, primary, keys, samples, chunks)


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


def dataset_status() -> list[DatasetStatus]:
    """What each data set is and whether it is here, for those who must not import torch."""
    from aba_core import datasets

    return datasets.dataset_status()


def method_table() -> list[tuple[str, str, float, str]]:
    """What each kind of method is, for those who must not import torch."""
    from aba_core.methods.base import method_table

    return method_table()


def card_cost(study: Study) -> dict[str, float]:
    """Seconds that each aspect of a study's card takes for a run by itself, estimated on this
    machine with one thread; for those who must not import torch."""
    import torch

    from aba_core.card.cost import estimate

    config = core_config(study)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return estimate(config, load_splits(config))
    except ValueError as error:
        raise StudyError(str(error)) from error
    finally:
        torch.set_num_threads(threads)


def axiom_table() -> dict[str, dict[str, float]]:
    """How far each map breaks each axiom, for those who must not import torch."""
    from aba_core.axioms import table

    return table()


@lru_cache(maxsize=4)  # a study of subsets goes through many
def _cached_splits(dataset: str | Use, subset: str, subset_seed: int, tokens: int) -> Splits:
    from aba_core.training import load_splits as load

    return load(TrainConfig(dataset=dataset, subset=subset, subset_seed=subset_seed, tokens=tokens))


def load_splits(config: TrainConfig) -> Splits:
    """The data of a configuration, read once in each process. Raises StudyError where a function of
    your own gives none, and the data sets' own errors."""
    try:
        return _cached_splits(config.dataset, str(config.subset), config.subset_seed, config.tokens)
    except ValueError as error:
        if isinstance(config.dataset, str):
            raise
        raise StudyError(f"dataset: {' '.join(str(error).split())}") from error


def _check(
    config: TrainConfig, splits: Splits, arms: Sequence[Arm], methods: Sequence[Method | None]
) -> None:
    """What can be known to fail before an hour is spent: the model, the batch, the metrics and the
    targets fit the data, and what is not the toolkit's own works for a step."""
    from aba_core.tasks import task_of

    task = task_of(splits.task)
    try:
        task.check_metrics(config.metrics)
        for arm, method in zip(arms, methods, strict=True):
            task.check_targets(arm.name, method)
    except ValueError as error:
        raise StudyError(str(error)) from error
    for own in dict.fromkeys((config, *(arm.trained_by(config) for arm in arms))):
        _check_training(own, splits if own.subset == config.subset else load_splits(own))
    _check_trainer(config, splits)
    for arm, method in zip(arms, methods, strict=True):
        most = getattr(method, "top_k", None) or 0
        if getattr(method, "target", "") == "class_score" and most > splits.classes:
            raise StudyError(
                f"arm {arm.name!r}: top_k is {most}; allowed: 1 to the {splits.classes} classes"
            )
    _fits(config, splits, arms, methods)
    _rehearse(config, splits, arms, methods)


def _check_training(config: TrainConfig, splits: Splits) -> None:
    """Whether the model can be built, and the batch and the number of steps are possible."""
    from aba_core.training import builder

    try:
        builder(config, splits)()
    except ValueError as error:
        raise StudyError(str(error)) from error
    if config.batch_size > len(splits.train):
        raise StudyError(
            f"batch_size is {config.batch_size}; allowed: up to the {len(splits.train)} "
            "training samples"
        )
    steps = config.epochs * len(splits.train) / config.batch_size
    if not 0.5 <= steps <= MOST_STEPS:
        raise StudyError(
            f"epochs is {config.epochs:g}, which is {steps:.3g} steps; "
            f"allowed: from 1 to {MOST_STEPS} steps"
        )


def _check_trainer(config: TrainConfig, splits: Splits) -> None:
    """Whether the trainer can have these data and do what is asked of it."""
    from aba_core.streams import streamed

    if config.single is None:
        if streamed(splits.train):
            raise StudyError(
                f"trainer is 'replicas', which keeps data in memory, and {splits.name} is read "
                "from disk; allowed: trainer: single"
            )
        return
    from aba_core.single.transforms import check

    try:
        check(config.single.transforms, splits)
    except ValueError as error:
        raise StudyError(str(error)) from error


def _fits(
    config: TrainConfig, splits: Splits, arms: Sequence[Arm], methods: Sequence[Method | None]
) -> None:
    """The toolkit's own methods can change the data's batches and the model. Raises StudyError, one
    line that names the arm."""
    import torch

    from aba_core.methods.aba import Augmentation
    from aba_core.methods.loop import rehearse
    from aba_core.tasks import task_of
    from aba_core.training import builder

    seen = set()
    for arm, method in zip(arms, methods, strict=True):
        own = arm.trained_by(config)
        usual = method is None or (
            isinstance(method, Augmentation)
            and method.site == "input"
            and not isinstance(method.attribution, Use)
            and method.attribution in OF_ANY_MODEL
        )
        if usual or _strange(method):  # type: ignore[arg-type]
            continue
        what = method.structure, own.model, own.batch_norm, own.batch_size  # type: ignore[union-attr]
        if what in seen:
            continue
        seen.add(what)
        rows = torch.arange(own.batch_size)
        x, y = splits.train.batch(rows).float(), splits.train.y[rows]
        try:
            rehearse(method, builder(own, splits)(), x, y, task_of(splits.task).loss)  # type: ignore[arg-type]
        except ValueError as error:
            raise StudyError(f"arm {arm.name!r}: {error}") from error


def _rehearse(
    config: TrainConfig, splits: Splits, arms: Sequence[Arm], methods: Sequence[Method | None]
) -> None:
    """One step, on one batch, of whatever is not the toolkit's own: data, model, methods, maps.

    Raises StudyError, one line that names the arm.
    """
    from aba_core import train

    of_data = isinstance(config.dataset, Use) or isinstance(config.model, Use)
    distinct = {
        method.structure: arm
        for arm, method in zip(arms, methods, strict=True)
        if method is not None and (of_data or _strange(method))
    }
    size = config.batch_size
    parts = {name: getattr(splits, name) for name in ("train", "validation", "test")}
    few = replace(
        splits,
        **{n: part.first(size) for n, part in parts.items()},
    )
    measures_nothing: dict[str, Any] = {
        "mechanism": 0,
        "curve_every": 0,
        "metrics": (),
        "card": None,
        "precision": "full",
    }
    plainly = [Arm(VANILLA)] if of_data else []
    for arm in (*plainly, *distinct.values()):
        try:
            step = replace(arm.trained_by(config), epochs=1, **measures_nothing)
            one = arm.trained_with({"epochs": 1}) if arm.config else arm
            train(step, [one], [0], splits=few)
        except Exception as error:  # whatever a stranger's file does
            problem = " ".join(str(error).split()) or type(error).__name__
            where = "" if arm in plainly else f"arm {arm.name!r}: "
            raise StudyError(f"{where}{problem}") from error


def _strange(method: Method) -> bool:
    """Whether something of it is not the toolkit's own."""
    return any(
        not type(part).__module__.startswith("aba_core.")
        or any(isinstance(value, Use) for value in vars(part).values())
        for part in method.parts()
    )


def _arms_on_cpu(config: TrainConfig, splits: Splits) -> int:
    from aba_core.replicas import run_together

    elements = config.batch_size * math.prod(splits.input_shape)
    return ARMS_TOGETHER if run_together(elements, ARMS_TOGETHER) else ARMS_ONE_BY_ONE


def _runs(keys: Mapping[str, tuple[str, int]]) -> tuple[tuple[str, int, str], ...]:
    """(arm, seed, key) of every run, with the first of its keys."""
    first: dict[tuple[str, int], str] = {}
    for key, run in keys.items():
        first.setdefault(run, key)
    return tuple((arm, seed, key) for (arm, seed), key in first.items())


def _cut(whole: Chunk, arms_per_chunk: int) -> tuple[Chunk, ...]:
    """Chunks of a study: as even in arms as can be, with one seed on a CPU, or those that share a
    subset, or all on a GPU.

    Arms that draw their own training samples stand apart, one subset at a time: each has other
    data. So do arms with a training of their own.
    """
    chunks = []
    for alike in _trainable_together(whole.arms):
        share = alike[0].seeds_per_subset if whole.device == "cpu" else 1
        blocks = -(
            -len(alike) // max(1, arms_per_chunk // share)
        )  # as many runs whatever they share
        size = -(-len(alike) // blocks)
        for subset, seeds in _seeds_together(whole, alike[0]):
            config = alike[0].trained_by(whole.config)
            config = config if subset is None else replace(config, subset_seed=subset)
            for start in range(0, len(alike), size):
                arms = tuple(alike[start : start + size])
                names = {arm.name for arm in arms}
                runs = tuple(run for run in whole.runs if run[0] in names and run[1] in seeds)
                chunks.append(replace(whole, config=config, arms=arms, seeds=seeds, runs=runs))
    return tuple(chunks)


def _trainable_together(arms: Sequence[Arm]) -> list[list[Arm]]:
    """The arms that have one training and one kind of training samples, those of the study's own
    first."""
    together: dict[tuple, list[Arm]] = {}
    for arm in arms:
        way = (arm.subset_per_run, arm.seeds_per_subset, str(arm.config))
        together.setdefault(way, []).append(arm)
    return [together[way] for way in sorted(together)]


def _seeds_together(whole: Chunk, arm: Arm) -> list[tuple[int | None, tuple[int, ...]]]:
    """(subset, seeds) that go into one chunk of arms like this one; no subset: the config's own."""
    apart = whole.device == "cpu" and arm.seeds_per_subset == 1
    if apart or whole.config.single is not None:
        return [(arm.subset_of(seed), (seed,)) for seed in whole.seeds]
    together: dict[int | None, list[int]] = {}
    for seed in whole.seeds:
        together.setdefault(arm.subset_of(seed), []).append(seed)
    return [(subset, tuple(seeds)) for subset, seeds in together.items()]


# --- identity: what a study's words mean to the core, and the keys of its runs -------------------


def core_config(study: Study) -> TrainConfig:
    """The study's training configuration. Raises StudyError for unknown fields or values."""
    known = {field.name for field in fields(TrainConfig)}
    unknown = sorted(set(study.config) - known)
    if unknown:
        raise StudyError(
            f"unknown config field {unknown[0]!r}{meant(unknown[0], {*known, 'strength'})}; known: "
            f"{', '.join(sorted(known))}, strength"
        )
    switches = {field.name for field in fields(TrainConfig) if isinstance(field.default, bool)}
    switches.add("card")
    for name, value in study.config.items():
        if isinstance(value, bool) and name not in switches:  # which Python counts as a number
            raise StudyError(f"{name} is {str(value).lower()}; needed: no true or false")
    try:
        return TypeAdapter(TrainConfig).validate_python(study.config)
    except ValidationError as error:
        raise StudyError(first_problem(error)) from error


def core_methods(arms: Sequence[Arm]) -> tuple[Method | None, ...]:
    """What the arms train with, resolved. Raises StudyError naming the arm."""
    from aba_core.methods.base import method_of
    from aba_core.randomness import purpose_seeds

    methods = []
    for arm in arms:
        try:
            method = method_of(arm.method)
            purposes = method.names_of_purposes() if method else ()
            purpose_seeds(arm.seed_offset, dict(arm.held), purposes)  # refuses unknown ones
        except ValueError as error:
            raise StudyError(f"arm {arm.name!r}: {error}") from error
        methods.append(method)
    return tuple(methods)


def run_keys(
    study: Study, config: TrainConfig, methods: Sequence[Method | None], fingerprint: str
) -> dict[str, tuple[str, int]]:
    """The keys of every run of a study: hashes of all that decides its numbers.

    methods: those of the study's arms, resolved, so that two spellings of one are one run. After
    the key that a run is written under comes the one it had in older results. Raises StudyError for
    two arms that are one.
    """
    frozen = study.frozen.model_dump(mode="json") if study.frozen else None
    shared = {"numerics": NUMERICS, "config": plain(config), "data": fingerprint}
    shared |= {"frozen": plain(frozen)} if frozen else {}
    shared |= {"keep_logits": True} if study.keep_logits else {}
    shared |= {"keep_correct": True} if study.keep_correct else {}
    before = {"frozen": frozen, "keep_logits": study.keep_logits}
    keys: dict[str, tuple[str, int]] = {}
    older: dict[str, tuple[str, int]] = {}
    for arm, method in zip(study.arms, methods, strict=True):
        definition = {name: value for name, value in plain(arm).items() if name != "name"}
        definition |= {"method": plain(method)}
        if arm.learning_rate == config.learning_rate:
            definition.pop("learning_rate")
        for seed in study.seeds:
            key = short_hash({**shared, "arm": definition, "seed": seed})
            if key in keys:
                raise StudyError(
                    f"arms {keys[key][0]!r} and {arm.name!r} are the same runs; keep one of them"
                )
            keys[key] = (arm.name, seed)
            known_as = (
                None
                if study.keep_correct
                else legacy_key(config, arm, method, seed, fingerprint, before)
            )
            if known_as is not None:
                older[known_as] = (arm.name, seed)
    return keys | older
