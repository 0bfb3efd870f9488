"""Rooms: what shows each study, and all that a results folder has to show.

`exhibits` says what a figure or table is and how it is written; a study's own file draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from aba_core.identity import call_with, load_for_results, meant
from analysis import results as store
from analysis.exhibits import Exhibits, ExportError, Files, Look, command, write
from analysis.results import ResultsError, StudyResult
from analysis.studies import OF_OWN_DATA, STANDARD
from analysis.study import Study

# Not a study of its own: isolation, tension and benchmark beside the published tables.
BESIDE = "published"

Load = Callable[[str], StudyResult]


def of_study(
    study: str,
    results: str | Path = "results",
    dataset: str = "digits",
    look: Look | None = None,
    preset: str = "",
) -> Exhibits:
    """The standard figures and tables of one study on one data set, or of "published".

    Raises ResultsError, which says what to run, where its results are not there, and ExportError
    where they lack the metric, or the code of its own that shows the study fails.
    """
    look = look or Look()
    load = partial(store.load, results, dataset=dataset, preset=preset)
    if study == BESIDE:
        return _room(BESIDE).compare(results, dataset, look, preset)[0]
    result = load(study)
    look.check(result)
    room = result.declaration.study.room
    if room:
        given = {"study": result, "look": look, "load": load}
        try:
            return call_with(load_for_results(room), given, room)
        except ValueError as error:
            raise ExportError(f"{study} cannot be shown: {error}") from error
    shown = [_ROOMS[room](result, look, load) for room in _rooms_of(result.declaration.study)]
    return Exhibits(
        {name: figure for one in shown for name, figure in one.figures.items()},
        {name: table for one in shown for name, table in one.tables.items()},
    )


def _rooms_of(study: Study) -> list[str]:
    """What shows a study: for some standard ones the room of their name, else what it declares."""
    if study.frozen:
        return ["frozen"]
    if study.name in ("isolation", "tension", "variability", "variability-linear"):
        return [study.name]
    if study.hypotheses:
        return ["hypotheses"]
    measured = ["mechanism"] * bool(study.config.get("mechanism"))
    return measured if measured and study.name == "mechanism" else ["arms", *measured]


def _room(name: str) -> Any:
    """A study's file, imported when it is needed: one is shown at a time."""
    return import_module(f"analysis.studies.{name}")


def _if_any(load: Load, study: str) -> StudyResult | None:
    try:
        return load(study)
    except ResultsError:
        return None


# Exhibits of each room: of a study's results, a look, and a way to load another study of the same
# folder, data set and preset. Hypotheses about measured groups wait where there is no frozen study.
_ROOMS: dict[str, Callable[[StudyResult, Look, Load], Exhibits]] = {
    "isolation": lambda study, look, load: _room("isolation").exhibits(study, look),
    "tension": lambda study, look, load: _room("tension").exhibits(study, look, load("isolation")),
    "frozen": lambda study, look, load: _room("frozen").exhibits(study, look),
    "arms": lambda study, look, load: _room("arms").exhibits(study, look),
    "variability": lambda study, look, load: _room("variability").exhibits(study, look),
    "variability-linear": lambda study, look, load: _room("variability").exhibits(study, look),
    "hypotheses": lambda study, look, load: _room("hypotheses").exhibits(
        study, look, _room("hypotheses").judge(study, look, _if_any(load, "frozen"))
    ),
    "mechanism": lambda study, look, load: _room("mechanism").exhibits(
        study, look, store.measured(study)
    ),
}


# --- of a folder ---------------------------------------------------------------------------------


def studies_by_dataset(results: str | Path) -> dict[str, list[str]]:
    """{data set: names of the studies declared for it}, the standard ones first."""
    names: dict[str, list[str]] = {}
    for declaration in store.declarations(Path(results)):
        of_dataset = names.setdefault(declaration.study.dataset, [])
        if declaration.study.name not in of_dataset:
            of_dataset.append(declaration.study.name)
    order = {name: place for place, name in enumerate(STANDARD)}
    return {
        dataset: sorted(studies, key=lambda name: (order.get(name, len(order)), name))
        for dataset, studies in sorted(names.items())
    }


def unknown_study(name: str, *folders: str | Path) -> str:
    """One line where no folder has a study of this name and the toolkit has none; else "". It names
    those of the first folder that has any."""
    there = {folder: sorted({*chain(*studies_by_dataset(folder).values())}) for folder in folders}
    every = {*chain(*there.values()), *STANDARD, *OF_OWN_DATA, BESIDE}
    if name in every:
        return ""
    said = {f: "the shipped results" if f == store.SHIPPED else str(f) for f in folders}
    first = next((folder for folder in folders if there[folder]), folders[0])
    names = [n for n in there[first] if n.removesuffix("-tuning") not in {*there[first]} - {n}]
    return (
        f"no study {name!r} in {' or '.join(said.values())}{meant(name, every)}; {said[first]} "
        f"have: {', '.join(names) or 'none'}"
    )


def data(
    name: str,
    results: str | Path = "results",
    dataset: str = "digits",
    *,
    kind: str = "figure",
    look: Look | None = None,
) -> pd.DataFrame:
    """The data behind a figure (or, for kind "table" or where there is no such figure, a table).

    Raises ExportError naming what there is, ResultsError where the data set has no results.
    """
    if kind not in ("figure", "table"):
        raise ExportError(f"unknown kind {kind!r}; known: figure, table")
    known: list[str] = []
    second: pd.DataFrame | None = None
    problem: ResultsError | None = None
    for study in [*studies_by_dataset(results).get(dataset, []), BESIDE]:
        try:
            shown = of_study(study, results, dataset, look)
        except ResultsError as error:
            problem = error
            continue
        first, other = (shown.figures, shown.tables)[:: 1 if kind == "figure" else -1]
        if name in first:
            return first[name].data
        if name in other:
            second = other[name].data
        known += [n for n in (*shown.figures, *shown.tables) if n not in known]
    if second is not None:
        return second
    if not known:
        assert problem is not None  # of BESIDE at the latest
        raise problem
    raise ExportError(f"unknown figure {name!r} for {dataset}; known: {', '.join(known)}")


# --- all of a folder, as files -------------------------------------------------------------------


@dataclass
class Exported:
    """What `export` did. files: by study and data set. absent: standard studies that are not there.
    refused: what was asked for and could not be made, one line each. notes: of incomplete ones."""

    files: dict[tuple[str, str], list[Path]] = field(default_factory=dict)
    absent: dict[str, list[str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def export(
    results: str | Path,
    out: str | Path,
    studies: Sequence[str] = (),
    datasets: Sequence[str] = (),
    *,
    files: Files | None = None,
    look: Look | None = None,
    preset: str = "",
    progress: Callable[[str, str, Sequence[Path]], None] | None = None,
) -> Exported:
    """Write every standard figure and table of the studies there are, or of those asked for.

    progress: called with (study, data set, files). Raises ResultsError where there is nothing at
    all, ExportError where nothing can be shown as asked.
    """
    look, files = look or Look(), files or Files()
    declared = studies_by_dataset(results)
    if not declared:
        raise ResultsError(
            f"no studies in {results}; start one with: aba run isolation --dataset digits"
            f"{store.given(Path(results))}"
        )
    done = Exported()
    unknown = {name: line for name in studies if (line := unknown_study(name, results))}
    if unknown:
        done.refused += unknown.values()
        studies = [name for name in studies if name not in unknown]
        if not studies:
            return done
    unfit: list[ExportError] = []
    having = [d for d in declared if {*studies} & {*declared[d], BESIDE}]
    for dataset in dict.fromkeys(datasets or having or declared):
        names = declared.get(dataset, [])
        if not names:
            done.refused.append(
                f"no studies on {dataset} in {results}; there: {', '.join(declared)}"
            )
            continue
        lacking = [name for name in STANDARD if name not in names]
        if lacking and not studies and len(lacking) < len(STANDARD):
            done.absent[dataset] = lacking
        for study in dict.fromkeys(studies or (*names, BESIDE)):
            try:
                shown = of_study(study, results, dataset, look, preset)
            except ResultsError as error:
                if studies:
                    done.refused.append(str(error))
                elif study != BESIDE:
                    need = " (needs isolation)" if study == "tension" else ""
                    done.absent.setdefault(dataset, []).append(study + need)
                continue
            except ExportError as error:  # it has other metrics, or brings code that fails
                unfit.append(error)
                (done.refused if studies else done.notes).append(str(error))
                continue
            text = command(results, dataset, look, files, preset)
            paths = [
                path
                for exhibit in shown.all()
                for path in write(exhibit, out, command=text, files=files)
            ]
            done.files[study, dataset] = paths
            facts = next(iter(shown.all())).facts
            if facts["runs_missing"] and study != BESIDE:
                done.notes.append(
                    f"{study} on {dataset} is not complete: {facts['runs_missing']} runs missing"
                )
            if progress is not None:
                progress(study, dataset, paths)
    if unfit and not done.files:
        raise unfit[0]
    return done
