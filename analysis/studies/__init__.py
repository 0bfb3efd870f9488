"""The standard studies, one file each, which declares its arms and seeds and shows its results; and
how a study is found by what the command line says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from aba_core.identity import meant
from analysis.study import (
    MOST_SEEDS,
    Settings,
    Study,
    StudyError,
    settings_of,
    study_from_python,
    study_from_yaml,
)
from analysis.yaml_text import read_value

# study: (module, function that declares it)
_DECLARED_IN = {
    "isolation": ("isolation", "declare"),
    "tension": ("tension", "declare"),
    "frozen": ("frozen", "declare"),
    "groups": ("groups", "declare"),
    "groups-true-class": ("groups", "declare_with_true_class"),
    "groups-drawn-class": ("groups", "declare_with_drawn_class"),
    "benchmark": ("benchmark", "declare"),
    "benchmark-bn": ("benchmark", "declare_with_batch_norm"),
    "hypotheses": ("hypotheses", "declare"),
    "sets": ("sets", "declare"),
    "matched": ("matched", "declare"),
    "landscape": ("landscape", "declare"),
    "tuned": ("tuned", "declare"),
    "comparators": ("comparators", "declare"),
    "comparators-equal-passes": ("comparators", "declare_equal_passes"),
    "comparators-equal-time": ("comparators", "declare_equal_time"),
    "comparators-more": ("comparators", "declare_more"),
    "guided": ("guided", "declare"),
    "attributions": ("attributions", "declare"),
    "attributions-equal-time": ("attributions", "declare_equal_time"),
    "attributions-more": ("attributions_more", "declare"),
    "quality": ("quality", "declare"),
    "cascade": ("cascade", "declare"),
    "baselines": ("baselines", "declare"),
    "regimes": ("regimes", "declare"),
    "variance": ("variance", "declare"),
    "mechanism": ("mechanism", "declare"),
    "card": ("card", "declare"),
    "attacks": ("attacks", "declare"),
    "variability": ("variability", "declare"),
    "variability-linear": ("variability", "declare_linear"),
}
STANDARD = tuple(_DECLARED_IN)
# Studies of data sets of their own (`settings.yaml` says which), and the one where none is named.
OF_OWN_DATA = {"tasks": "diabetes", "architectures": "tiny-imagenet-20"}
# What each study asks, in the order that a reader wants.
QUESTIONS = {
    "isolation": "what does each adjustment do alone?",
    "tension": "what do whole groups and unions of groups do?",
    "frozen": "what does each adjustment do to a trained model?",
    "groups": "does each group change the loss of a trained model as its name says?",
    "groups-true-class": "the same, with maps of the score of the true class",
    "groups-drawn-class": "the same, with maps of the score of a class drawn among the highest",
    "hypotheses": "do the published claims hold, and what else would explain them?",
    "tuned": "the same claims, with each class of arms at its own best strength",
    "comparators": "does ABA beat other regularisers, and does it add to them?",
    "comparators-equal-passes": "does it still, if every method gets as many passes as Vanilla?",
    "comparators-equal-time": "does it still, if every method gets as much time as Vanilla?",
    "comparators-more": (
        "does ABA gain more in parts of the training, at layers, on copies or with batch norm?"
    ),
    "guided": "do other map-guided methods gain from their map?",
    "sets": "does size matter, or opposition?",
    "matched": "what does opposition do where nothing else differs, and where does it act?",
    "landscape": "does opposition work through curvature and gradients?",
    "attributions": "which attribution map, and does the map matter?",
    "attributions-equal-time": "which map is best, if each gets as much time as the gradient?",
    "attributions-more": "do slower maps, by Captum or not, gain more?",
    "quality": "do maps find what matters, and does that predict the gain?",
    "cascade": "do maps show what a model has learnt?",
    "baselines": "how much of the gain remains over a tuned Vanilla?",
    "regimes": (
        "where does the gain hold: with more samples, with batch norm, in the spread of runs?"
    ),
    "card": "what does each arm do besides accuracy?",
    "attacks": "does ABA make models harder to attack, and more than noise does?",
    "variance": "how much do subset, seed and evaluation images move a result?",
    "variability": "which source of randomness makes two runs differ?",
    "variability-linear": "the same for softmax regression, which has one minimum",
    "mechanism": "what happens to gradients and curvature during training?",
    "benchmark": "which method is best?",
    "benchmark-bn": "the same with batch norm",
    "tasks": "does ABA help where a number or several labels are predicted?",
    "architectures": "is hand-crafted augmentation hard to beat, and does a transformer gain most?",
}


def _study_file(name: str) -> Any:
    """A study's file, imported when it is asked for: it shows results, which know this registry."""
    return import_module(f"analysis.studies.{name}")


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
        study = study_from_python(path, settings_of(dataset or "digits", preset or "quick"))
    elif path.suffix in (".yaml", ".yml") or path.is_file():
        study = study_from_yaml(path)
        _check_name(path, study.name)
        for what, value in (("--dataset", dataset), ("--preset", preset)):
            if value is not None:
                raise StudyError(f"{what} {value} does not go with a YAML study; say it in {path}")
    else:
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


def _check_name(path: Path, name: str) -> None:
    """Raises StudyError for the name of a standard study: its report would show other arms."""
    if name in STANDARD:
        raise StudyError(
            f"{path}: name is {name!r}, as a standard study's is; choose another, as my-{name}, or "
            f"run the standard one: aba run {name}"
        )


def standard_study(name: str, dataset: str = "digits", preset: str = "quick") -> Study:
    """One of the standard studies with the settings of its data set and preset.

    Raises StudyError for unknown names, and for data that a study is not of.
    """
    if name.startswith("large-"):
        return _of_large(name, dataset, preset)
    known = (*STANDARD, *OF_OWN_DATA)
    if name not in known:
        files = (f"{name}{suffix}" for suffix in (".yaml", ".yml", ".py"))
        file = next((file for file in files if Path(file).is_file()), "")
        rows = _study_file("large").ROWS
        near = f" (did you mean {file!r}?)" if file else meant(name, (*known, *rows))
        raise StudyError(
            f"unknown study {name!r}{near}; known: {', '.join(known)}, or a YAML or Python file"
        )
    if name in OF_OWN_DATA and dataset == "digits":
        dataset = OF_OWN_DATA[name]
    module, function = _DECLARED_IN.get(name, (name, "declare"))
    declare: Callable[[Settings], Study] = getattr(_study_file(module), function)
    settings = settings_of(dataset, preset)
    of_data = settings.studies or STANDARD
    if name not in of_data:
        raise StudyError(f"{name} is no study of {dataset}; there: {', '.join(of_data)}")
    return declare(settings)


def only_studies_of(dataset: str) -> tuple[str, ...]:
    """The studies of a data set that has no standard ones; () for all others."""
    try:
        return settings_of(dataset).studies
    except StudyError:  # without settings, as that of a study of your own
        return ()


def _of_large(name: str, dataset: str, preset: str) -> Study:
    """A row of the published table of large models, which brings its own data set."""
    large = _study_file("large")
    if name not in large.ROWS:
        raise StudyError(
            f"unknown study {name!r}{meant(name, large.ROWS)}; known: {', '.join(large.ROWS)}"
        )
    study: Study = large.declare(name, preset)
    if dataset not in ("digits", study.dataset):
        raise StudyError(f"--dataset {dataset} does not go with {name}; its own: {study.dataset}")
    return study
