"""Studies: which arms are trained with which seeds, as plain data, declared before anything runs.

A study is one of the standard ones, built here from `settings.yaml`, or a YAML file of the user's
own. Nothing here trains: `runner` turns a study into runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

SETTINGS_FILE = Path(__file__).with_name("settings.yaml")
PRESETS = ("quick", "standard", "published")
METHODS = ("vanilla", "challenger", "mendaba", "fastaba", "fastaba-ce")
METHOD_TITLES = {
    "vanilla": "Vanilla",
    "challenger": "Challenger",
    "mendaba": "MendABA",
    "fastaba": "FastABA",
    "fastaba-ce": "FastABA-CE",
}
METRICS = {
    "validation_accuracy": "Validation accuracy (%)",
    "test_accuracy": "Test accuracy (%)",
    "train_accuracy": "Training accuracy (%)",
}
# The published unions of groups, and the one missing there (Del. & Neu.).
GROUP_SETS = {
    "Neutral": "neutral",
    "Delta": "delta",
    "Epsilon": "epsilon",
    "Eps. & Neu.": "epsilon+neutral",
    "Eps. & Del.": "epsilon+delta",
    "Del. & Neu.": "delta+neutral",
    "All": "all",
}
# Of them, those whose mechanism is looked at, and at how many steps: five cost a fifth of the
# training on digits (see `aba_core.mechanism`).
MECHANISM_SETS = ("Neutral", "Delta", "Epsilon", "Eps. & Del.", "All")
MEASUREMENTS = 5
# Seeds of tuning runs start here, so that no choice is made on the runs that are reported.
TUNING_SEED = 1000


class StudyError(ValueError):
    """A study that cannot be built; one line saying which value is wrong and what is allowed."""


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArmSpec(_Plain):
    """One training condition. method: a preset's name, or "vanilla"; or adjustments: a set's text
    ("3,4,0x2", "epsilon+delta"). The other fields are those of `aba_core.Augmentation`."""

    name: str = Field(min_length=1)
    method: Literal[METHODS] | None = None  # type: ignore[valid-type]
    adjustments: str | None = None
    strength: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    randomize: bool | None = None
    split: Literal["percentiles", "sign"] | None = None
    quantiles: tuple[float, ...] | None = None
    attribution: str | None = None
    target: str | None = None
    top_k: int | None = Field(default=None, ge=1)
    attribution_mode: Literal["eval", "train"] | None = None
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    held: dict[str, int] = {}

    @field_validator("adjustments", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        # YAML reads a lone index as a number and [3, 4] as a list.
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return ",".join(map(str, value)) if isinstance(value, list) else value

    def definition(self) -> dict[str, Any]:
        """What decides the arm's numbers: everything given, but its name."""
        return self.model_dump(exclude={"name"}, exclude_none=True, exclude_defaults=True)


class Frozen(_Plain):
    """Frozen evaluation of every trained model: strengths, and which features are low or high."""

    strengths: tuple[float, ...]
    target: str = "loss"


class Tuning(_Plain):
    """Strengths tried for each method on validation, with seeds that are never reported."""

    strengths: tuple[float, ...]
    seeds: int = Field(ge=1)


class Study(_Plain):
    """One experiment: config (fields of `aba_core.TrainConfig`), arms, seeds.

    frozen: evaluate each trained model under every adjustment in place of reporting runs.
    tuning: choose the strength of every arm but vanilla first.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    dataset: str
    preset: str = "own"
    config: dict[str, Any] = {}
    arms: tuple[ArmSpec, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    frozen: Frozen | None = None
    tuning: Tuning | None = None
    note: str = ""

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return tuple(range(value))
        return value

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value) or min(value, default=0) < 0:
            raise ValueError("seeds must be distinct whole numbers from 0")
        return value

    @field_validator("arms")
    @classmethod
    def _named_once(cls, value: tuple[ArmSpec, ...]) -> tuple[ArmSpec, ...]:
        names = [arm.name for arm in value]
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise ValueError(f"arm name {repeated[0]!r} is repeated")
        return value

    @property
    def identity(self) -> str:
        """Short hash of everything but the seeds: more seeds continue the same study."""
        return short_hash(self.model_dump(mode="json", exclude={"seeds", "preset", "note"}))


def short_hash(value: Any) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _settings(dataset: str) -> dict[str, Any]:
    settings = yaml.safe_load(SETTINGS_FILE.read_text(encoding="utf-8"))
    if dataset not in settings:
        raise StudyError(f"unknown dataset {dataset!r}; known: {', '.join(settings)}")
    return settings[dataset]


def standard_study(name: str, dataset: str = "digits", preset: str = "quick") -> Study:
    """One of the standard studies with the settings of its data set and preset.

    isolation: the 27 adjustments, one an arm. tension: the seven unions of groups. frozen: what
    each adjustment does to a trained model, before and after ABA training. benchmark: Vanilla and
    the four methods, strength chosen on validation or as published; benchmark-bn: the same with
    batch norm. mechanism: Vanilla and sets of groups, gradients and curvature measured on the way.
    Raises StudyError for unknown names.
    """
    if name not in STANDARD:
        raise StudyError(
            f"unknown study {name!r}; known: {', '.join(STANDARD)}, or the path of a YAML file"
        )
    settings = _settings(dataset)
    if preset not in PRESETS:
        raise StudyError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    if preset not in settings["presets"]:
        raise StudyError(
            f"preset {preset!r} does not exist for {dataset!r}; "
            f"there: {', '.join(settings['presets'])}"
        )
    chosen = settings["presets"][preset]
    normalised = name == "benchmark-bn"
    special = {"config": {"batch_norm": True}} if normalised else {}
    if normalised and "batch_norm" in chosen:
        special = {
            **chosen["batch_norm"],
            "config": {**chosen["batch_norm"]["config"], **special["config"]},
        }
    strengths = {**settings["strength"], **chosen.get("strength", {})}
    seeds = chosen["seeds"]
    config = {
        "dataset": dataset,
        **settings["config"],
        **chosen.get("config", {}),
        **special.get("config", {}),
    }
    common = {
        "name": name,
        "dataset": dataset,
        "preset": preset,
        "config": config,
        "seeds": seeds["benchmark" if normalised else name],
        "note": " ".join(chosen.get("note", "").split()),
    }
    # Groups have their meaning with target "loss" (see the README): all but the benchmark use it.
    loss = {"target": "loss", "strength": strengths["isolation"]}
    if name == "isolation":
        arms = [ArmSpec(name=f"adjustment {i}", adjustments=str(i), **loss) for i in range(27)]
        return Study(arms=tuple(arms), **common)
    if name == "tension":
        arms = [ArmSpec(name=n, adjustments=text, **loss) for n, text in GROUP_SETS.items()]
        return Study(arms=tuple(arms), **common)
    if name == "mechanism":
        config |= {"mechanism": MEASUREMENTS, "probe_strength": strengths["isolation"]}
        arms = [ArmSpec(name="Vanilla", method="vanilla")]
        arms += [ArmSpec(name=n, adjustments=GROUP_SETS[n], **loss) for n in MECHANISM_SETS]
        return Study(arms=tuple(arms), **common)
    if name == "frozen":
        arms = [ArmSpec(name="Vanilla", method="vanilla")]
        arms.append(ArmSpec(name="MendABA", method="mendaba", **loss))
        return Study(arms=tuple(arms), frozen=Frozen(strengths=strengths["frozen"]), **common)
    published = special.get("methods", chosen.get("methods", {}))
    arms = [ArmSpec(name=METHOD_TITLES["vanilla"], method="vanilla")]
    arms += [
        ArmSpec(
            name=METHOD_TITLES[method],
            method=method,
            strength=published.get(method),
            top_k=settings.get("top_k", 4),
        )
        for method in METHODS[1:]
    ]
    tuning = Tuning(strengths=strengths["benchmark"], seeds=seeds["tuning"])
    return Study(arms=tuple(arms), tuning=None if published else tuning, **common)


STANDARD = ("isolation", "tension", "frozen", "benchmark", "benchmark-bn", "mechanism")


def study_from_yaml(path: Path) -> Study:
    """A user's own study; see the README for the format. Raises StudyError naming the file, the
    field and what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StudyError(f"cannot read study {path}: {error.strerror}") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StudyError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise StudyError(
            f"{path} holds {type(content).__name__}; needed: name, dataset, arms, seeds"
        )
    if isinstance(content.get("dataset"), str) and isinstance(content.get("config", {}), dict):
        content["config"] = {"dataset": content["dataset"], **content.get("config", {})}
    try:
        return Study(**content)
    except ValidationError as error:
        raise StudyError(f"{path}: {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """The first thing wrong, in one line: field, reason, given value."""
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"])) or "study"
    reason = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{place} is missing"
    if problem["type"] == "extra_forbidden":
        return f"unknown field {place!r}"
    if problem["type"] == "value_error":  # our own checks name the value themselves
        return reason
    return f"{place}: {reason} (given: {problem['input']!r})"


def find_study(
    name: str,
    dataset: str | None = None,
    preset: str | None = None,
    seeds: int | None = None,
    overrides: Iterable[str] = (),
) -> Study:
    """A standard study or a YAML file's, with the command line's changes applied.

    overrides: "field=value" for fields of the config, or "strength=value" for every arm that is
    not vanilla. A standard study changed so has preset "own".
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        study = study_from_yaml(path)
        for what, value in (("--dataset", dataset), ("--preset", preset)):
            if value is not None:
                raise StudyError(f"{what} {value} does not go with a YAML study; say it in {path}")
    else:
        study = standard_study(name, dataset or "digits", preset or "quick")
    changes: dict[str, Any] = {}
    if seeds is not None:
        if seeds < 1:
            raise StudyError(f"--seeds {seeds}; allowed: whole numbers from 1")
        changes["seeds"] = tuple(range(seeds))
    config = dict(study.config)
    arms = list(study.arms)
    for override in overrides:
        field, separator, text = override.partition("=")
        if not separator or not field:
            raise StudyError(f"--set {override!r}; needed: field=value, as epochs=20")
        value = yaml.safe_load(text)
        changes["preset"] = "own"
        if field == "strength":
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise StudyError(f"--set strength={text}; allowed: numbers not below 0")
            arms = [
                arm if arm.method == "vanilla" else arm.model_copy(update={"strength": value})
                for arm in arms
            ]
            changes["tuning"] = None  # a strength given by hand is not tuned
        else:
            config[field] = value
    return study.model_copy(update={**changes, "config": config, "arms": tuple(arms)})
