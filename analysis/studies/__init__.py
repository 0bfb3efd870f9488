"""The standard studies, one file each: which arms and seeds it declares, and what it shows."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

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
    "tuned": ("tuned", "declare"),
    "comparators": ("comparators", "declare"),
    "comparators-equal-passes": ("comparators", "declare_equal_passes"),
    "comparators-equal-time": ("comparators", "declare_equal_time"),
    "comparators-more": ("comparators", "declare_more"),
    "attributions": ("attributions", "declare"),
    "attributions-equal-time": ("attributions", "declare_equal_time"),
    "quality": ("quality", "declare"),
    "baselines": ("baselines", "declare"),
    "regimes": ("regimes", "declare"),
    "variance": ("variance", "declare"),
    "mechanism": ("mechanism", "declare"),
    "card": ("card", "declare"),
    "variability": ("variability", "declare"),
    "variability-linear": ("variability", "declare_linear"),
}
STANDARD = tuple(_DECLARED_IN)


def standard_study(name: str, dataset: str = "digits", preset: str = "quick") -> Study:
    """One of the standard studies with the settings of its data set and preset.

    Raises StudyError for unknown names.
    """
    if name.startswith("large-"):
        return _of_large(name, dataset, preset)
    if name not in _DECLARED_IN:
        raise StudyError(
            f"unknown study {name!r}{meant(name, STANDARD)}; known: {', '.join(STANDARD)}, "
            "or a YAML or Python file"
        )
    module, function = _DECLARED_IN[name]
    declare: Callable[[Settings], Study] = getattr(
        import_module(f"analysis.studies.{module}"), function
    )
    return declare(settings_of(dataset, preset))


def _of_large(name: str, dataset: str, preset: str) -> Study:
    """A row of the published table of large models, which brings its own data set."""
    from analysis.studies import large

    if name not in large.ROWS:
        raise StudyError(f"unknown study {name!r}; known: {', '.join(large.ROWS)}")
    study = large.declare(name, preset)
    if dataset not in ("digits", study.dataset):
        raise StudyError(f"--dataset {dataset} does not go with {name}; its own: {study.dataset}")
    return study
