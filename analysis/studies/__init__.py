"""The standard studies, one file each: which arms and seeds it declares, and what it shows."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from aba_core.identity import meant
from analysis.study import Settings, Study, StudyError, settings_of

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


def standard_study(name: str, dataset: str = "digits", preset: str = "quick") -> Study:
    """One of the standard studies with the settings of its data set and preset.

    Raises StudyError for unknown names, and for data that a study is not of.
    """
    if name.startswith("large-"):
        return _of_large(name, dataset, preset)
    known = (*STANDARD, *OF_OWN_DATA)
    if name not in known:
        from analysis.studies.large import ROWS

        files = (f"{name}{suffix}" for suffix in (".yaml", ".yml", ".py"))
        file = next((file for file in files if Path(file).is_file()), "")
        near = f" (did you mean {file!r}?)" if file else meant(name, (*known, *ROWS))
        raise StudyError(
            f"unknown study {name!r}{near}; known: {', '.join(known)}, or a YAML or Python file"
        )
    if name in OF_OWN_DATA and dataset == "digits":
        dataset = OF_OWN_DATA[name]
    module, function = _DECLARED_IN.get(name, (name, "declare"))
    declare: Callable[[Settings], Study] = getattr(
        import_module(f"analysis.studies.{module}"), function
    )
    settings = settings_of(dataset, preset)
    of_data = settings.studies or STANDARD
    if name not in of_data:
        raise StudyError(f"{name} is no study of {dataset}; there: {', '.join(of_data)}")
    return declare(settings)


def only_studies_of(dataset: str) -> tuple[str, ...]:
    """The studies of a data set that has no standard ones; () for all others."""
    try:
        return settings_of(dataset).studies
    except StudyError:  # without settings, as that of a study of one's own
        return ()


def _of_large(name: str, dataset: str, preset: str) -> Study:
    """A row of the published table of large models, which brings its own data set."""
    from analysis.studies import large

    if name not in large.ROWS:
        raise StudyError(
            f"unknown study {name!r}{meant(name, large.ROWS)}; known: {', '.join(large.ROWS)}"
        )
    study = large.declare(name, preset)
    if dataset not in ("digits", study.dataset):
        raise StudyError(f"--dataset {dataset} does not go with {name}; its own: {study.dataset}")
    return study
