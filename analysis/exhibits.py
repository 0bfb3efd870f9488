"""Exhibits: the standard figures and tables of every study, for the notebooks, for `aba figures`
and for one line of Python.

    results of a study → exhibits (data, caption, drawing) → PDF, SVG, PNG; CSV, LaTeX, Markdown

    from analysis import rooms
    rooms.data("isolation", "results", "digits")  # the data of any figure, as a DataFrame

An exhibit is a figure or a table: the data frame behind it, its caption in plain words, and how it
is drawn. Which there are stands in each study's file, and `rooms` finds them. Everything written
for the same results is the same, byte for byte.
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
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from aba_core.identity import meant
from aba_core.quantities import metric_label, metrics_in
from analysis import figures, tables, toolkit_version, wording
from analysis.results import StudyResult

FORMATS = ("pdf", "svg", "png")


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
            f"Data: {wording.data_title(facts['dataset'])}, subset {facts['subset']}; "
            f"model: {wording.model_title(facts['model'])}{norm}, "
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
