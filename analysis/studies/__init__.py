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
    "benchmark": ("benchmark", "declare"),
    "benchmark-bn": ("benchmark", "declare_with_batch_norm"),
    "hypotheses": ("hypotheses", "declare"),
    "sets": ("sets", "declare"),
    "matched": ("matched", "declare"),
    "tuned": ("tuned", "declare"),
    "comparators": ("comparators", "declare"),
    "baselines": ("baselines", "declare"),
    "variance": ("variance", "declare"),
    "mechanism": ("mechanism", "declare"),
    "variability": ("variability", "declare"),
    "variability-linear": ("variability", "declare_linear"),
}
STANDARD = tuple(_DECLARED_IN)


def standard_study(name: str, dataset: str = "digits", preset: str = "quick") -> Study:
    """One of the standard studies with the settings of its data set and preset.

    Raises StudyError for unknown names.
    """
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
