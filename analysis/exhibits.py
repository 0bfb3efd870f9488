"""Exhibits: the standard figures and tables of every study, for the notebooks, for `aba figures`
and for one line of Python.

    results of a study → exhibits (data, caption, drawing) → PDF, SVG, PNG; CSV, LaTeX, Markdown

    from analysis import exhibits
    exhibits.data("isolation", "results", "digits")  # the data of any figure, as a DataFrame

An exhibit is a figure or a table: the data frame behind it, its caption in plain words, and how it
is drawn. Which there are stands in each study's file. Everything written for the same results is
the same, byte for byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from aba_core.identity import call_with, load_for_results, meant
from aba_core.quantities import metric_label, metrics_in
from analysis import figures, tables, toolkit_version
from analysis import results as store
from analysis.results import ResultsError, StudyResult
from analysis.studies import OF_OWN_DATA, STANDARD
from analysis.study import Study

FORMATS = ("pdf", "svg", "png")
# Not a study of its own: isolation, tension and benchmark beside the published tables.
BESIDE = "published"


class ExportError(ValueError):
    """What cannot be exported as asked; one line naming the value and what is allowed."""


@dataclass(frozen=True)
class Look:
    """Which metric is shown, the confidence of intervals, and the seed of their bootstrap."""

    metric: str = "validation_accuracy"
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            metric_label(self.metric)
        except ValueError as error:
            raise ExportError(str(error)) from error
        if not 0 < self.confidence < 1:
            raise ExportError(
                f"confidence is {self.confidence}; allowed: numbers between 0 and 1, as 0.95"
            )

    @property
    def label(self) -> str:
        return metric_label(self.metric)

    def check(self, study: StudyResult) -> None:
        """Raises ExportError where no run of the study has the metric, naming those that it has."""
        frame = study.frame
        if study.declaration.study.frozen:
            return
        present = [name for name in metrics_in(frame) if frame[name].notna().any()]
        if self.metric not in present and present:
            raise ExportError(
                f"{study.declaration.study.name} has no metric {self.metric!r}"
                f"{meant(self.metric, present, 0.8)}; known: {', '.join(present)}"
            )

    def rng(self) -> np.random.Generator:
        """New from the seed, so that one exhibit does not depend on another."""
        return np.random.default_rng(self.seed)


@dataclass(frozen=True)
class Exhibit:
    """A figure (with `draw`) or a table.

    data: what is drawn or printed. description: what it shows, a title. note: what a reader must
    know. caption: both, and on what data, model and runs, with which intervals. facts: the same for
    programs. draw: makes the figure for a width ("single", "double", "slide") in the style in
    force. width: how it is shown where nobody says. columns, digits: those of a printed table.
    """

    name: str
    description: str
    data: pd.DataFrame
    caption: str
    facts: Mapping[str, Any]
    note: str = ""
    draw: Callable[[str], Figure] | None = None
    width: str = "single"
    columns: Sequence[str] | None = None
    digits: int = 1

    @property
    def kind(self) -> str:
        return "table" if self.draw is None else "figure"

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.facts['dataset']}"


@dataclass
class Exhibits:
    """The figures and the tables of one study, by name, in their order."""

    figures: dict[str, Exhibit] = field(default_factory=dict)
    tables: dict[str, Exhibit] = field(default_factory=dict)

    def all(self) -> list[Exhibit]:
        return [*self.figures.values(), *self.tables.values()]


class Collector:
    """Adds exhibits that share a study's facts, each with a full caption.

    others: further studies whose runs are shown as well.
    """

    def __init__(self, study: StudyResult, look: Look, *others: StudyResult) -> None:
        self.exhibits = Exhibits()
        self.look = look
        self.study = study
        results = (study, *others)
        runs = [result.frame.drop_duplicates("key") for result in results]
        ran = study.frame.iloc[0]
        self.facts: dict[str, Any] = {
            "studies": [result.declaration.study.name for result in results],
            "dataset": study.declaration.study.dataset,
            "subset": str(ran["subset"]),
            "model": str(ran["model"]),
            "batch_norm": bool(ran["batch_norm"]),
            "epochs": float(ran["epochs"]),
            "runs": sum(len(frame) for frame in runs),
            "runs_missing": sum(len(result.missing) for result in results),
            "runs_diverged": sum(int((frame["status"] != "finished").sum()) for frame in runs),
        }
        per_arm = pd.concat([frame.groupby("arm").size() for frame in runs])
        low, high = int(per_arm.min()), int(per_arm.max())
        self.n = f"{low}" if low == high else f"{low} to {high}"

    def _words(self, description: str, note: str, interval: str) -> tuple[str, dict[str, Any], str]:
        """Caption, facts and note of an exhibit."""
        facts = {**self.facts, "n": self.n, "interval": interval or "none"}
        norm = " with batch norm" * facts["batch_norm"]
        parts = [
            f"{description.rstrip('.')}.",
            note,
            f"Data: {facts['dataset']} ({facts['subset']}); model: {facts['model']}{norm}, "
            f"{facts['epochs']:g} {'epoch' if facts['epochs'] == 1 else 'epochs'}; "
            f"n = {self.n} {'run (seed)' if self.n == '1' else 'runs (seeds)'} an arm, "
            f"{facts['runs']} in all.",
            f"Intervals: {interval}." if interval else "",
        ]
        for name, what in (("runs_missing", "missing"), ("runs_diverged", "diverged")):
            count = facts[name]
            parts.append(f"{count} {'run' if count == 1 else 'runs'} {what}." if count else "")
        parts.append(self.study.declaration.study.note)
        return " ".join(part for part in parts if part), facts, note

    def figure(
        self,
        name: str,
        description: str,
        data: pd.DataFrame,
        draw: Callable[[Any], Any],
        *,
        height: float = 0.0,
        note: str = "",
        interval: str = "",
        width: str = "single",
    ) -> None:
        """Add a figure. draw: draws into given axes, `height` mm high; without a height it makes
        the whole figure for the name of a width."""

        def sized(width: str) -> Figure:
            return figures.figure_of(draw(figures.sized_axes(width, height)))

        words = self._words(description, note, interval)
        self.exhibits.figures[name] = Exhibit(
            name, description, data, *words, draw=sized if height else draw, width=width
        )

    def table(
        self,
        name: str,
        description: str,
        data: pd.DataFrame,
        columns: Sequence[str] | None = None,
        *,
        note: str = "",
        interval: str = "",
        digits: int = 1,
    ) -> None:
        """Add a table. columns: the ones to print (all)."""
        words = self._words(description, note, interval)
        self.exhibits.tables[name] = Exhibit(
            name, description, data, *words, columns=columns, digits=digits
        )

    # How each kind of interval is made, in words. Few runs give none: the text then says so.

    @property
    def level(self) -> str:
        return f"{100 * self.look.confidence:g} %"

    @property
    def over_runs(self) -> str:
        return f"{self.level}, studentised bootstrap over runs" + self._one

    @property
    def over_adjustments(self) -> str:
        return f"{self.level}, studentised bootstrap over the adjustments of a group"

    @property
    def ranks(self) -> str:
        return f"{self.level}, BCa bootstrap over the 27 adjustments"

    @property
    def _one(self) -> str:
        return " (none where an arm has one run)" if self.n.split(" ")[0] == "1" else ""


# --- of which study ------------------------------------------------------------------------------

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
        from analysis.studies import published

        return published.compare(results, dataset, look, preset)[0]
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
    """A study's file, imported when it is needed: it imports this one."""
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


# --- files ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def whole_files(folder: Path, name: str) -> Iterator[Path]:
    """A stem to write files to, which then move to folder/name, each whole or not at all.

    Raises ExportError for a name that would lead out of the folder.
    """
    if not name or name.startswith(".") or set(name) & {"/", "\\", "\0"}:
        raise ExportError(f"{name!r} is no name of a file in {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as parts:
        yield Path(parts) / name
        for path in sorted(Path(parts).iterdir()):
            os.replace(path, folder / path.name)


@dataclass(frozen=True)
class Files:
    """How figures are written. width: "" for each figure's own. style: "paper" for printed columns
    or "talk" for slides; where none is given, what suits the width."""

    formats: Sequence[str] = FORMATS
    width: str = ""
    style: str = ""

    def __post_init__(self) -> None:
        if not self.style:
            object.__setattr__(self, "style", "talk" if self.width == "slide" else "paper")
        if self.width:
            _check("width", self.width, figures.WIDTHS)
        _check("style", self.style, figures.STYLES)
        for name in self.formats:
            _check("format", name, FORMATS)
        if not self.formats:
            raise ExportError(f"no format; known: {', '.join(FORMATS)}")
        if self.style == "talk" and self.width == "single":
            raise ExportError(
                "style talk does not fit width single; allowed with it: double, slide"
            )

    def width_of(self, exhibit: Exhibit) -> str:
        """The width that an exhibit is drawn at: what is given, or its own; text for slides does
        not fit a single column."""
        own = "double" if self.style == "talk" else exhibit.width
        return self.width or own


def _check(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ExportError(f"unknown {what} {value!r}; known: {', '.join(known)}")


def command(results: str | Path, dataset: str, look: Look, files: Files, preset: str = "") -> str:
    """The command line that makes an exhibit, whatever the folder it is written to."""
    usual = Look()
    words = ["aba", "figures", "--results", str(results), "--dataset", dataset]
    words += ["--format", ",".join(files.formats)]
    words += ["--width", files.width] * bool(files.width) + ["--style", files.style]
    for name in ("metric", "confidence", "seed"):
        if getattr(look, name) != getattr(usual, name):
            words += [f"--{name}", str(getattr(look, name))]
    return shlex.join([*words, *(["--preset", preset] if preset else [])])


def draw(exhibit: Exhibit, width: str = "", style: str = "paper") -> Figure:
    """The figure of an exhibit, to be closed by the caller."""
    if exhibit.draw is None:
        raise ExportError(f"{exhibit.name} is a table, not a figure")
    with figures.style(style):
        return exhibit.draw(width or exhibit.width)


def write(
    exhibit: Exhibit,
    out: str | Path,
    *,
    command: str,
    figure: Figure | None = None,
    files: Files | None = None,
) -> list[Path]:
    """Write a figure to out/figures or a table to out/tables; return the files.

    A figure: its formats and NAME.csv, the data behind it. A table: .csv with full precision, .tex
    (booktabs) and .md. Beside both NAME.json: caption, n, data, model, intervals, SHA-256 of the
    .csv, the command, the toolkit's version. figure: where it is drawn already. files: by default
    every format, at the exhibit's own width.
    """
    files = files or Files()
    folder = Path(out) / ("figures" if exhibit.draw else "tables")
    facts: dict[str, Any] = {
        "name": exhibit.name,
        "kind": exhibit.kind,
        "caption": exhibit.caption,
        **exhibit.facts,
        "data": f"{exhibit.stem}.csv",
        "sha256": hashlib.sha256(tables.csv_text(exhibit.data).encode()).hexdigest(),
        "command": command,
        "toolkit": toolkit_version(),
    }
    with whole_files(folder, exhibit.stem) as stem:
        if exhibit.draw is None:
            paths = tables.save_table(exhibit.data, stem, exhibit.digits, exhibit.columns)
        else:
            drawn = figure or draw(exhibit, files.width_of(exhibit), files.style)
            size = [
                round(float(x) * figures.MILLIMETRES_PER_INCH, 1) for x in drawn.get_size_inches()
            ]
            facts |= {"size_mm": size, "style": files.style}
            with figures.style(files.style):
                paths = figures.save_figure(drawn, stem, files.formats)
            if figure is None:
                plt.close(drawn)
            paths.append(stem.with_name(f"{stem.name}.csv"))
            paths[-1].write_text(tables.csv_text(exhibit.data), encoding="utf-8")
        paths.append(stem.with_name(f"{stem.name}.json"))
        text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
        paths[-1].write_text(text, encoding="utf-8")
        names = [path.name for path in paths]
    return [folder / name for name in names]


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
