"""Studies of your own by name: which there are in a results folder, and on which data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from aba_core.identity import meant
from analysis.results import ResultsError
from analysis.rooms import studies_by_dataset
from analysis.studies import STANDARD

ANY_STUDY = "13_any_study"  # the notebook that shows them


def study_name(given: str) -> str:
    """A study's name from itself or from its file, which is usually called so."""
    path = Path(given)
    return path.stem if path.suffix in (".yaml", ".yml", ".py") else given


def own_studies(names: Sequence[str], results: str | Path) -> list[str]:
    """The studies of your own in a results folder that the names, or files, are of."""
    known = {name for names in studies_by_dataset(results).values() for name in names}
    return [name for name in map(study_name, names) if name in known - {*STANDARD}]


def datasets_of(
    study: str, results: str | Path, datasets: Sequence[str] | None = None
) -> list[tuple[str, str]]:
    """(study, data set) for every data set that a study has results on, of those asked for.

    Raises ResultsError naming what there is.
    """
    study, declared = study_name(study), studies_by_dataset(results)
    having = [name for name, studies in declared.items() if study in studies]
    chosen = [name for name in having if not datasets or name in datasets]
    if not having:
        known = sorted({name for studies in declared.values() for name in studies})
        raise ResultsError(
            f"no study {study!r} in {results}{meant(study, known)}; there: "
            f"{', '.join(known) or 'nothing'}"
        )
    if not chosen:
        raise ResultsError(
            f"no results of {study} on {', '.join(datasets or ())} in {results}; there: "
            f"{', '.join(having)}"
        )
    return [(study, name) for name in chosen]


def as_notebook(
    names: Sequence[str], results: str | Path, given: Mapping[str, object]
) -> tuple[dict[str, object], dict[str, list[str]]]:
    """Parameters of the notebook that shows studies, and those that vary: ({}, {}) where none of
    the names is a study. given: parameters that somebody set.

    Raises ResultsError where some names are studies and some are not.
    """
    own = own_studies(names, results)
    if not own:
        return {}, {}
    if "study" in given:
        raise ResultsError(f"study is given twice: {own[0]!r} and -p study={given['study']}")
    if len(own) < len(names):
        raise ResultsError(
            f"{own[0]!r} is a study, and others of {', '.join(names)} are not; ask for the reports "
            "of studies by themselves"
        )
    found = sorted({dataset for name in own for _, dataset in datasets_of(name, results)})
    fixed: dict[str, object] = {}
    if "dataset" not in given and len(found) == 1:
        fixed["dataset"] = found[0]
    if len(own) > 1:
        return fixed, {"study": own}
    every = {} if "dataset" in given or len(found) == 1 else {"dataset": found}
    return {**fixed, "study": own[0]}, every
