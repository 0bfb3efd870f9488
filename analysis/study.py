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
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

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
PLACEBO_TITLES = {
    "permuted": "permuted map",
    "other_sample": "another sample's map",
    "untrained": "untrained model's map",
    "random": "random features",
    "gaussian": "Gaussian noise",
}
PLACEBOS = tuple(PLACEBO_TITLES)
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
# What is left free in each arm of the variability study: purposes of randomness, a flipped bit, the
# training subset. All else is held at a seed that no run has. "all" is what differs between runs of
# every other study.
SOURCES: dict[str, tuple[str, ...]] = {
    "initialisation": ("initialisation",),
    "order": ("order",),
    "adjustment": ("adjustment",),
    "magnitude": ("magnitude",),
    "target": ("target",),
    "one bit": ("bit",),
    "all": ("initialisation", "order", "adjustment", "magnitude", "target"),
    "subset": ("subset",),
    "all and subset": ("initialisation", "order", "adjustment", "magnitude", "target", "subset"),
}
HELD_SEED = 2000


class StudyError(ValueError):
    """A study that cannot be built; one line saying which value is wrong and what is allowed."""


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArmSpec(_Plain):
    """One training condition. method: a preset's name, or "vanilla"; or adjustments: a set's text
    ("3,4,0x2", "epsilon+delta"). subset_per_run: the training samples are drawn by the run's seed
    and not by the config's subset_seed. flip_bit: the last bit of one weight is changed before
    training. seed_offset: added to the run's seed, for an arm that is another one reseeded. The
    other fields are those of `aba_core.Augmentation`."""

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
    placebo: Literal[PLACEBOS] | None = None  # type: ignore[valid-type]
    subset_per_run: bool = False
    flip_bit: bool = False
    seed_offset: int = Field(default=0, ge=0)

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


class Contrast(_Plain):
    """One comparison of arms: a weighted sum of their mean accuracies (points).

    weights: {arm: weight}. unit: what is repeated. "run": each arm's runs. "adjustment": the arms
    with positive weight against those with negative, each by its mean. "measured": the same, with
    groups of adjustments in place of arms, as a frozen model's change of loss sorts them.
    minus_best_of: lists of arms; the best of each, chosen on other seeds than it is judged on, is
    taken away (averaged over the lists).
    """

    label: str
    weights: dict[str, float]
    unit: Literal["run", "adjustment", "measured"] = "run"
    minus_best_of: tuple[tuple[str, ...], ...] = ()

    @property
    def arms(self) -> set[str]:
        """Arms that must have runs."""
        named = set() if self.unit == "measured" else set(self.weights)
        return named.union(*self.minus_best_of)


class Slope(_Plain):
    """How mean accuracy changes with one property of arms (points a unit), the others held.

    term: the property asked about. covariates: {arm: {property: value}}, the same properties for
    all. The arm is the unit: arms that differ in nothing but chance differ by themselves.
    """

    label: str
    term: str
    covariates: dict[str, dict[str, float]]

    @property
    def arms(self) -> set[str]:
        """Arms that must have runs."""
        return set(self.covariates)


class Hypothesis(_Plain):
    """A claim and how it is judged, declared before its runs.

    statement, estimand: in words. comparisons: the family. rule: "all" of them must hold, each at
    the full confidence (no correction is needed where all must hold), or "any" may, with
    intervals that hold together (Bonferroni). direction, margin: see `statistics.decide`; effects
    below the margin (points) are not worth having. n: seeds planned for each arm.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    statement: str
    estimand: str
    comparisons: tuple[Contrast | Slope, ...] = Field(min_length=1)
    rule: Literal["all", "any"] = "all"
    direction: Literal["greater", "less", "different", "equivalent"] = "greater"
    margin: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    n: int = Field(ge=2)

    @property
    def arms(self) -> set[str]:
        """Arms that must have runs."""
        return set().union(*(comparison.arms for comparison in self.comparisons))

    @property
    def identity(self) -> str:
        """Short hash of all that is declared."""
        return short_hash(self.model_dump(mode="json"))


class Study(_Plain):
    """One experiment: config (fields of `aba_core.TrainConfig`), arms, seeds.

    hypotheses: what the runs are to decide.
    frozen: evaluate each trained model under every adjustment in place of reporting runs.
    keep_logits: keep each run's logits on the validation samples, as half precision bytes, and the
    samples' labels.
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
    keep_logits: bool = False
    hypotheses: tuple[Hypothesis, ...] = ()
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

    @field_validator("hypotheses")
    @classmethod
    def _about_arms(
        cls, value: tuple[Hypothesis, ...], info: ValidationInfo
    ) -> tuple[Hypothesis, ...]:
        known = {arm.name for arm in info.data.get("arms", ())}
        for hypothesis in value:
            unknown = sorted(hypothesis.arms - known)
            if unknown:
                raise ValueError(
                    f"hypothesis {hypothesis.name!r} names the arm {unknown[0]!r}, which the "
                    "study does not have"
                )
        return value

    @property
    def hypotheses_hash(self) -> str:
        """Short hash of what the runs are to decide, "" where nothing is declared."""
        return short_hash([one.identity for one in self.hypotheses]) if self.hypotheses else ""

    @property
    def identity(self) -> str:
        """Short hash of everything but the seeds: more seeds continue the same study."""
        content = self.model_dump(mode="json", exclude={"seeds", "preset", "note"})
        content["arms"] = [without_later(arm) for arm in content["arms"]]
        return short_hash(without_later(content))


# Fields that came after the first results: at these values they are left out of every identity, so
# that a new field never parts a study from the runs it had.
LATER_FIELDS: dict[str, Any] = {
    "placebo": None,
    "subset_per_run": False,
    "flip_bit": False,
    "seed_offset": 0,
    "hypotheses": [],
    "keep_logits": False,
    "tokens": 0,
    "mechanism": 0,
    "probe_strength": 0.5,
    "precision": "full",
}


def without_later(content: dict[str, Any]) -> dict[str, Any]:
    """A definition without the later fields that are as if they did not exist."""
    return {
        name: value
        for name, value in content.items()
        if name not in LATER_FIELDS or value != LATER_FIELDS[name]
    }


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
    batch norm. hypotheses: what the slides claim and what would explain it away, as `hypotheses`
    declares it; sets: size × opposition on random sets. variability: runs that differ by one source
    of randomness alone, for Vanilla and MendABA; variability-linear: the same for a linear model.
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
    special: dict[str, Any] = {"config": {"batch_norm": True}} if normalised else {}
    if normalised and "batch_norm" in chosen:
        special = {
            **chosen["batch_norm"],
            "config": {**chosen["batch_norm"]["config"], **special["config"]},
        }
    if name == "variability-linear":
        special = {"config": {"model": "linear"}}
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
        "seeds": seeds[name.removesuffix("-bn").removesuffix("-linear")],
        "note": " ".join(chosen.get("note", "").split()),
    }
    # Groups have their meaning with target "loss" (see the README): studies of groups use it.
    loss = {"target": "loss", "strength": strengths["isolation"]}
    if name == "isolation":
        arms = [ArmSpec(name=f"adjustment {i}", adjustments=str(i), **loss) for i in range(27)]
        return Study(arms=tuple(arms), **common)
    if name == "tension":
        arms = [ArmSpec(name=n, adjustments=text, **loss) for n, text in GROUP_SETS.items()]
        return Study(arms=tuple(arms), **common)
    if name in ("hypotheses", "sets"):
        return _hypothesis_study(strengths["isolation"], settings, common)
    if name == "mechanism":
        config |= {"mechanism": MEASUREMENTS, "probe_strength": strengths["isolation"]}
        arms = [ArmSpec(name="Vanilla", method="vanilla")]
        arms += [ArmSpec(name=n, adjustments=GROUP_SETS[n], **loss) for n in MECHANISM_SETS]
        return Study(arms=tuple(arms), **common)
    if name == "frozen":
        arms = [ArmSpec(name="Vanilla", method="vanilla")]
        arms.append(ArmSpec(name="MendABA", method="mendaba", **loss))
        return Study(arms=tuple(arms), frozen=Frozen(strengths=strengths["frozen"]), **common)
    if name.startswith("variability"):
        # The class score has a target to draw, the loss has none.
        aba: dict[str, Any] = {
            "method": "mendaba",
            "strength": strengths["isolation"],
            "target": "class_score",
        }
        methods: dict[str, dict[str, Any]] = {"Vanilla": {"method": "vanilla"}}
        if name == "variability":
            methods["MendABA"] = {**aba, "top_k": settings.get("top_k", 4)}
        arms = [
            _freed(f"{title}: {source}", definition, SOURCES[source])
            for title, definition in methods.items()
            for source in SOURCES
            if title != "Vanilla" or source not in ("adjustment", "magnitude", "target")
        ]
        return Study(arms=tuple(arms), keep_logits=True, **common)
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


def _freed(name: str, definition: dict[str, Any], free: tuple[str, ...]) -> ArmSpec:
    """An arm whose runs differ by the free sources alone."""
    purposes = ["initialisation", "order"]
    if definition["method"] != "vanilla":
        purposes += ["adjustment", "magnitude", "target"]
    return ArmSpec(
        name=name,
        **definition,
        held={purpose: HELD_SEED for purpose in purposes if purpose not in free},
        flip_bit="bit" in free,
        subset_per_run="subset" in free,
    )


def _hypothesis_study(strength: float, settings: dict[str, Any], common: dict[str, Any]) -> Study:
    from analysis import hypotheses

    first, n = hypotheses.FIRST_SEED, common["seeds"]
    common = {**common, "seeds": tuple(range(first, first + n))}
    if common["name"] == "sets":
        per_cell = hypotheses.SETS_PER_CELL
        return Study(
            arms=hypotheses.set_arms(strength, per_cell),
            hypotheses=hypotheses.of_sets(per_cell, settings["planned"]["sets"]),
            **common,
        )
    return Study(
        arms=hypotheses.arms(strength, settings.get("top_k", 4)),
        hypotheses=hypotheses.standard(settings["planned"]["hypotheses"]),
        **common,
    )


STANDARD = (
    *("isolation", "tension", "frozen", "benchmark", "benchmark-bn", "hypotheses", "sets"),
    *("mechanism", "variability", "variability-linear"),
)


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
        first = min(study.seeds)
        changes["seeds"] = tuple(range(first, first + seeds))
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
