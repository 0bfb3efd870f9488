"""Studies: which arms are trained with which seeds, as plain data, declared before anything runs.

A study is one of the standard ones, built here from `settings.yaml`, or a YAML file of the user's
own. Nothing here trains: `plan` resolves a study, `engines` train it.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from aba_core.adjustments import Group
from aba_core.arms import Arm
from aba_core.identity import (
    Use,
    load,
    meant,
    plain,
    short_hash,
    trust,
)
from analysis.hypothesis import Hypothesis, PlainData, group_arm, hashed
from analysis.yaml_text import first_problem, read_value, read_yaml

SETTINGS_FILE = Path(__file__).with_name("settings.yaml")
PRESETS = ("quick", "standard", "med", "reduced", "published")
# Seeds of tuning runs start here, so that no choice is made on the runs that are reported.
TUNING_SEED = 1000
# Seeds of hypotheses start here and those of exploring studies at 0, so that nothing is confirmed
# on the runs that suggested it.
CONFIRMING_SEED = 100
# Seeds of studies whose every run has a fresh training subset; a subset is drawn by the seed, and
# one that several seeds share by the seed divided by their number.
FRESH_SEED = 200
# What a study may ask for at most: beyond these a number is a slip, and would take years.
MOST_SEEDS = 100_000
MOST_RUNS = 1_000_000
LAST_SEED = 2**62 - 1


class StudyError(ValueError):
    """A study that cannot be built; one line saying which value is wrong and what is allowed."""


GROUPS = tuple(str(group) for group in Group)
# What a study's file must say, each with an example.
_NEEDED = {
    "name": "name: mine",
    "dataset": "dataset: digits",
    "seeds": "seeds: 5",
    "arms": "arms: [{name: Vanilla}, {name: MendABA, method: mendaba}]",
}
# Fields of a study that decide none of its runs.
_NO_IDENTITY = {"seeds", "preset", "note", "room", "baseline"}


# An arm in a study: read from the plain data of a file, and dumped as such.
StudyArm = Annotated[Arm, PlainValidator(lambda given: _arm(given)), PlainSerializer(Arm.data)]


def _arm(given: Any) -> Arm:
    return given if isinstance(given, Arm) else Arm.read(given)


Strength = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Frozen(PlainData):
    """Frozen evaluation of every trained model: strengths, and which features are low or high."""

    strengths: tuple[Strength, ...] = Field(min_length=1, max_length=1000)
    target: str = "loss"


class TunedClass(PlainData):
    """Arms that are tuned together. values: what is tried, {field: values} of the method or of the
    training, all combinations; without any, the strengths of `Tuning`."""

    name: str
    arms: tuple[str, ...] = Field(min_length=1)
    values: dict[str, tuple[str | float | int, ...]] = {}


class Tuning(PlainData):
    """What is tried for each class of arms on validation, with seeds that are never reported.

    strengths: of all classes that name no values of their own. classes: by default every arm but
    vanilla is one.
    """

    strengths: tuple[Strength, ...] = Field(min_length=1, max_length=1000)
    seeds: int = Field(ge=1, le=MOST_SEEDS)
    classes: tuple[TunedClass, ...] = ()


def on_fresh_subsets(arms: Iterable[Arm], share: int = 1) -> tuple[Arm, ...]:
    """The same arms, each run on a fresh training subset that so many consecutive seeds share."""
    return tuple(replace(arm, subset_per_run=True, seeds_per_subset=share) for arm in arms)


def check_count(seeds: int) -> int:
    """How many seeds there are; ValueError where no study has so many."""
    if seeds > MOST_SEEDS:
        raise ValueError(f"{seeds} seeds; allowed: up to {MOST_SEEDS}")
    return seeds


class Study(PlainData):
    """One experiment: config (fields of `aba_core.TrainConfig`), arms, seeds.

    hypotheses: what the runs are to decide.
    frozen: evaluate each trained model under every adjustment in place of reporting runs.
    room: "module:function" that shows its results, in place of what shows any study's arms; it
    takes what it names of study, look and load (see `exhibits.of_study`).
    keep_logits: keep each run's logits on the validation samples, as half precision bytes, and the
    samples' labels.
    keep_correct: keep which validation and test samples each run classifies correctly, as packed
    bits. tuning: choose the strength of every arm but vanilla first.
    baseline: the arm that others are compared with; by default the one that trains without method.
    fresh_subsets: in a file, short for every arm's subset_per_run and seeds_per_subset: so many
    consecutive seeds share a fresh training subset; 0: all seeds share one.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")
    dataset: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}$")
    preset: str = "own"
    config: dict[str, Any] = {}
    arms: tuple[StudyArm, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    frozen: Frozen | None = None
    tuning: Tuning | None = None
    keep_logits: bool = False
    keep_correct: bool = False
    hypotheses: tuple[Hypothesis, ...] = ()
    baseline: str | None = None
    room: str = Field(default="", pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_]\w*)?$")
    note: str = ""

    @model_validator(mode="before")
    @classmethod
    def _on_fresh_subsets(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or "fresh_subsets" not in given:
            return given
        content = dict(given)
        share = content.pop("fresh_subsets")
        if type(share) is not int or share < 0:
            raise ValueError(f"fresh_subsets is {share!r}; allowed: whole numbers from 0")
        if share and isinstance(content.get("arms"), list | tuple):
            content["arms"] = on_fresh_subsets(map(_arm, content["arms"]), share)
        return content

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"seeds is {value}; needed: how many, or which")
        if isinstance(value, int):
            if value < 1:
                raise ValueError(f"seeds is {value}; needed: how many, from 1, or which")
            return tuple(range(check_count(value)))
        if isinstance(value, str | float | Mapping):
            raise ValueError(f"seeds is {value!r}; needed: how many, as 5, or which, as [0, 1, 2]")
        if hasattr(value, "__len__"):
            check_count(len(value))
        return value

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value) or min(value, default=0) < 0:
            raise ValueError("seeds must be distinct whole numbers from 0")
        if max(value, default=0) > LAST_SEED:
            raise ValueError(f"seed {max(value)}; allowed: whole numbers from 0 to {LAST_SEED}")
        return value

    @field_validator("arms")
    @classmethod
    def _named_once(cls, value: tuple[Arm, ...]) -> tuple[Arm, ...]:
        names = [arm.name for arm in value]
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise ValueError(f"arm name {repeated[0]!r} is repeated")
        return value

    @field_validator("tuning")
    @classmethod
    def _tunes_arms(cls, value: Tuning | None, info: ValidationInfo) -> Tuning | None:
        known = {arm.name for arm in info.data.get("arms", ())}
        if value is None or (info.context or {}).get("declared"):
            return value
        named = [arm for tuned in value.classes for arm in tuned.arms]
        for name in named:
            if name not in known or named.count(name) > 1:
                lacking = "is in two classes" if name in known else "is no arm of the study"
                raise ValueError(f"tuning names the arm {name!r}, which {lacking}")
        return value

    @field_validator("hypotheses")
    @classmethod
    def _about_arms(
        cls, value: tuple[Hypothesis, ...], info: ValidationInfo
    ) -> tuple[Hypothesis, ...]:
        known = {arm.name for arm in info.data.get("arms", ())}
        evaluated = info.data.get("frozen")
        if evaluated is not None:
            every = product(known, GROUPS, evaluated.strengths)
            known = {group_arm(*one) for one in every}
        for hypothesis in value:
            unknown = sorted(hypothesis.arms - known)
            if unknown:
                raise ValueError(
                    f"hypothesis {hypothesis.name!r} names the arm {unknown[0]!r}, which the "
                    "study does not have"
                )
        return value

    @field_validator("baseline")
    @classmethod
    def _baseline_is_an_arm(cls, value: str | None, info: ValidationInfo) -> str | None:
        known = [arm.name for arm in info.data.get("arms", ())]
        if value is not None and value not in known:
            raise ValueError(
                f"baseline is {value!r}{meant(value, known)}; allowed: {', '.join(known)}"
            )
        return value

    @field_validator("room")
    @classmethod
    def _named_here(cls, value: str, info: ValidationInfo) -> str:
        if value and not (info.context or {}).get("declared"):
            trust(value)
        return value

    @property
    def hypotheses_hash(self) -> str:
        """Short hash of what the runs are to decide, "" where nothing is declared."""
        return short_hash([one.identity for one in self.hypotheses]) if self.hypotheses else ""

    @property
    def identity(self) -> str:
        """Short hash of everything but the seeds: more seeds continue the same study."""
        content = self.model_dump(mode="json", exclude={*_NO_IDENTITY, "arms"})
        content["arms"] = [arm.data() for arm in self.arms]
        content["hypotheses"] = [hashed(one) for one in self.hypotheses]
        return short_hash(plain({n: v for n, v in content.items() if v not in (None, [], False)}))


@dataclass(frozen=True)
class Settings:
    """What `settings.yaml` says of one data set under one preset: a standard study starts from it.

    config: fields of `aba_core.TrainConfig`. strength: for each kind of study, in standardised
    input units. seeds: runs an arm for each study, and tuning runs. methods: the benchmark's
    strengths where the slides give them. batch_norm: what differs where models have it. planned:
    seeds that hypotheses are declared with. sizes: of training sets, the usual one first. top_k: of
    target "class_score". studies: the only ones there are, () for the standard ones. networks:
    {name: what it changes of the config}. quantity: what the task measures, where not accuracy.
    card: fields of `aba_core.aspects.CardSettings` that are not at their default.
    """

    dataset: str
    preset: str
    config: dict[str, Any]
    strength: dict[str, Any]
    seeds: dict[str, int]
    methods: dict[str, float]
    batch_norm: dict[str, Any]
    planned: dict[str, int]
    sizes: tuple[int, ...]
    top_k: int
    note: str
    inputs: str = "pictures"
    studies: tuple[str, ...] = ()
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    quantity: str = "accuracy"
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def loss(self) -> dict[str, Any]:
        """Fields that studies of groups give every arm: groups have their meaning with target
        "loss"."""
        return {"target": "loss", "strength": self.strength["isolation"]}

    @property
    def pictures(self) -> bool:
        """Whether inputs have height and width."""
        return self.inputs == "pictures"

    def study(self, name: str, arms: Iterable[Arm], **fields: Any) -> Study:
        """A standard study of these settings. fields: further fields of `Study`; config is added to
        the settings' own; seeds: a number or the seeds, by default as many as settings say."""
        config = {"dataset": self.dataset, **self.config, **fields.pop("config", {})}
        return Study(
            name=name,
            dataset=self.dataset,
            preset=self.preset,
            config=config,
            arms=tuple(arms),
            seeds=fields.pop("seeds", self.seeds.get(name)),  # type: ignore[arg-type]
            note=" ".join(filter(None, (self.note, fields.pop("note", "")))),
            **fields,
        )


def settings_by_dataset() -> dict[str, Any]:
    """What `settings.yaml` says of each data set."""
    return copy.deepcopy(_said(SETTINGS_FILE.read_text(encoding="utf-8")))


@lru_cache(maxsize=1)  # to read YAML takes a second's third, and every report asks several times
def _said(text: str) -> dict[str, Any]:
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def settings_of(dataset: str = "digits", preset: str = "quick") -> Settings:
    """The settings of a data set and preset. Raises StudyError for unknown names."""
    every = settings_by_dataset()
    if dataset not in every:
        near = meant(dataset, every)
        raise StudyError(f"unknown dataset {dataset!r}{near}; known: {', '.join(every)}")
    if preset not in PRESETS:
        near = meant(preset, PRESETS)
        raise StudyError(f"unknown preset {preset!r}{near}; known: {', '.join(PRESETS)}")
    settings = every[dataset]
    if preset not in settings["presets"]:
        raise StudyError(
            f"preset {preset!r} does not exist for {dataset!r}; "
            f"there: {', '.join(settings['presets'])}"
        )
    chosen = settings["presets"][preset]
    return Settings(
        dataset=dataset,
        preset=preset,
        config={**settings["config"], **chosen.get("config", {})},
        strength={**settings["strength"], **chosen.get("strength", {})},
        seeds=chosen["seeds"],
        methods=chosen.get("methods", {}),
        batch_norm=chosen.get("batch_norm", {}),
        planned=settings["planned"],
        sizes=tuple(chosen.get("sizes", settings.get("sizes", ()))),
        top_k=settings.get("top_k", 4),
        note=" ".join(chosen.get("note", "").split()),
        inputs=settings.get("inputs", "pictures"),
        studies=tuple(settings.get("studies", ())),
        networks=settings.get("networks", {}),
        quantity=settings.get("quantity", "accuracy"),
        card=settings.get("card", {}),
    )


def study_from_yaml(path: Path) -> Study:
    """A user's own study; see the README for the format. Raises StudyError naming the file, the
    field and what is wrong with it."""
    try:
        content = read_yaml(path)
    except OSError as error:
        raise StudyError(f"cannot read study {path}: {error.strerror}") from error
    except ValueError as error:
        raise StudyError(f"{path} {error}") from error
    if not isinstance(content, dict):
        holds = "holds a list" if isinstance(content, list) else f"holds {str(content)[:40]!r}"
        raise StudyError(
            f"{path} {'is empty' if content is None else holds}; needed: name, dataset, arms, "
            "seeds; for a table of data: aba try"
        )
    _check_fields(path, content)
    _find_code_in(path)
    dataset, config = content.get("dataset"), content.get("config", {})
    if isinstance(config, dict) and isinstance(dataset, str | dict):
        given = dict(dataset) if isinstance(dataset, dict) else dataset
        name = given.pop("name", None) if isinstance(given, dict) else None
        content["config"] = {"dataset": given, **config}
        use = Use.read(given)
        if use is not None:
            content["dataset"] = name or use.where.partition(":")[0].rpartition(".")[2]
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise StudyError(f"{path}: {first_problem(error)}") from error


def _check_fields(path: Path, content: dict[Any, Any]) -> None:
    """Raises StudyError for a field that no study has, and for those that this one lacks."""
    known = [*Study.model_fields, "fresh_subsets"]
    for name in content:
        if name not in known:
            raise StudyError(
                f"{path}: unknown field {name!r}{meant(name, known)}; known: {', '.join(known)}"
            )
    lacking = [name for name in _NEEDED if name not in content]
    if lacking:
        examples = "; ".join(_NEEDED[name] for name in lacking)
        verb = "is" if len(lacking) == 1 else "are"
        raise StudyError(f"{path}: {' and '.join(lacking)} {verb} missing; as {examples}")


def _study_from_python(path: Path, settings: Settings) -> Study:
    if not path.is_file():
        raise StudyError(f"cannot read study {path}: No such file or directory")
    _find_code_in(path)
    try:
        if Path(str(load(f"{path.stem}:__file__"))).resolve() != path.resolve():
            raise ValueError(f"another module is called {path.stem!r}; rename the file")
        study = load(f"{path.stem}:declare")(settings)
        if not isinstance(study, Study):
            raise ValueError(f"declare gave a {type(study).__name__}; needed: a Study")
    except ValidationError as error:
        raise StudyError(f"{path}: {first_problem(error)}") from error
    except ValueError as error:
        raise StudyError(f"{path}: {error}") from error
    shows = hasattr(sys.modules[path.stem], "exhibits") and not study.room
    trust(path.stem)
    return study.model_copy(update={"room": f"{path.stem}:exhibits"}) if shows else study


def _find_code_in(path: Path) -> None:
    """Code that a study names by {use: ...} may lie beside its file."""
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)


def _check_name(path: Path, name: str) -> None:
    """Raises StudyError for the name of a standard study: its report would show other arms."""
    from analysis.studies import STANDARD

    if name in STANDARD:
        raise StudyError(
            f"{path}: name is {name!r}, as a standard study's is; choose another, as my-{name}, or "
            f"run the standard one: aba run {name}"
        )


def find_study(
    name: str,
    dataset: str | None = None,
    preset: str | None = None,
    seeds: int | None = None,
    overrides: Iterable[str] = (),
) -> Study:
    """A standard study, a YAML file's or a Python file's, with the command line's changes applied.

    A Python file has `declare(settings) -> Study`, and `exhibits` where it shows its results
    itself. overrides: "field=value" for fields of the config, or "strength=value" for every arm
    that is not vanilla. A standard study changed so has preset "own".
    """
    path = Path(name)
    if path.suffix == ".py":
        study = _study_from_python(path, settings_of(dataset or "digits", preset or "quick"))
    elif path.suffix in (".yaml", ".yml") or path.is_file():
        study = study_from_yaml(path)
        _check_name(path, study.name)
        for what, value in (("--dataset", dataset), ("--preset", preset)):
            if value is not None:
                raise StudyError(f"{what} {value} does not go with a YAML study; say it in {path}")
    else:
        from analysis.studies import standard_study

        study = standard_study(name, dataset or "digits", preset or "quick")
    changes: dict[str, Any] = {}
    if seeds is not None:
        if seeds < 1:
            raise StudyError(f"--seeds {seeds}; allowed: whole numbers from 1")
        if seeds > MOST_SEEDS:
            raise StudyError(f"--seeds {seeds}; allowed: up to {MOST_SEEDS}")
        first = min(study.seeds)
        changes["seeds"] = tuple(range(first, first + seeds))
    config = dict(study.config)
    arms = list(study.arms)
    for override in overrides:
        field, separator, text = override.partition("=")
        if not separator or not field:
            raise StudyError(f"--set {override!r}; needed: field=value, as epochs=20")
        try:
            value = read_value(text)
        except ValueError as error:
            raise StudyError(f"--set {override!r} {error}") from error
        changes["preset"] = "own"
        if field == "strength":
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value < math.inf:
                raise StudyError(f"--set strength={text}; allowed: finite numbers not below 0")
            arms = [
                arm if arm.vanilla else arm.with_settings(strength=float(value)) for arm in arms
            ]
            changes["tuning"] = None  # a strength given by hand is not tuned
        else:
            config[field] = value
    return study.model_copy(update={**changes, "config": config, "arms": tuple(arms)})
