"""What a notebook uses: its checked parameters, and how it shows and exports what it found."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aba_core.installation import CHECKOUT, HOME
from aba_core.quantities import metric_label
from analysis.reports.pages import shortened
from analysis.reports.parameters import check_value
from analysis.reports.screen_tables import html_table

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analysis.exhibits import Exhibit, Exhibits, Look
    from analysis.results import StudyResult

USUAL_RESULTS = "results"  # what the notebooks' own parameters cells say
# Set where `aba report` gives a notebook the usual folder, as a path, and nobody named it.
OR_SHIPPED = "ABA_OR_SHIPPED"


@dataclass
class Page:
    """The checked parameters of a notebook, and how it shows and exports what it found.

    out: the folder for figures and tables, None for no export. or_shipped: whether the shipped
    results may stand in for a study that is lacking; not so once a study is loaded.
    """

    results: Path
    dataset: str = ""  # "" for what is about all of them
    preset: str = ""
    metric: str = "validation_accuracy"
    confidence: float = 0.95
    seed: int = 0
    out: Path | None = None
    or_shipped: bool = False

    @property
    def metric_label(self) -> str:
        return metric_label(self.metric)

    @property
    def look(self) -> Look:
        """How the standard figures and tables of `exhibits` are computed."""
        from analysis.exhibits import Look

        return Look(self.metric, self.confidence, self.seed)

    def rng(self) -> np.random.Generator:
        """The random numbers of a bootstrap: new from the seed, whatever ran before."""
        import numpy as np

        return np.random.default_rng(self.seed)

    def load(self, study: str) -> StudyResult:
        """A study's results; shows in one line what they are and what is missing of them.

        Where the usual folder lacks the first study of a page, the page shows the shipped results
        and says so: that study and, lest two experiments mix, all that is loaded after it. A
        folder that somebody named is taken as it is. Raises `results.ResultsError`, which says the
        command to run, where there are none.
        """
        from analysis import results

        try:
            loaded = results.load(self.results, study, self.dataset, self.preset)
        except results.ResultsError as lacking:
            if not self.or_shipped:
                raise
            try:
                loaded = results.load(results.SHIPPED, study, self.dataset, self.preset)
            except results.ResultsError:
                raise lacking from None
            self.turn_to_shipped(f"No {study} study on {self.dataset} in {USUAL_RESULTS}/")
        self.or_shipped = False
        self.look.check(loaded)
        note = loaded.declaration.study.note
        summary = loaded.summary() + (f" {note}" if note else "")
        self._show(summary[0].upper() + summary[1:], "data")
        if loaded.missing:
            shown = ", ".join(f"{arm} (seed {seed})" for arm, seed in loaded.missing[:5])
            more = len(loaded.missing) - 5
            tail = f" and {more} more" if more > 0 else ""
            self._show(f"**{len(loaded.missing)} runs are missing:** {shown}{tail}.")
        return loaded

    def turn_to_shipped(self, reason: str) -> bool:
        """Show the shipped results from here on, and say so; not where somebody named a folder."""
        from analysis.results import SHIPPED

        if not self.or_shipped:
            return False
        self._show(f"{reason}: these are the shipped results.")
        self.results, self.or_shipped = SHIPPED, False
        return True

    def load_if_there(self, study: str, otherwise: str = "") -> StudyResult | None:
        """`load`, or None for a study that a notebook can do without; the shipped results do not
        stand in for it. otherwise: what is shown then, followed by the reason."""
        from analysis.results import ResultsError

        before, self.or_shipped = self.or_shipped, False
        try:
            return self.load(study)
        except ResultsError as problem:
            self.or_shipped = before
            if otherwise:  # without the list of all that is there
                parts = str(problem).replace(f"{HOME}{os.sep}", "").split("; ")
                lacking = "; ".join(part for part in parts if not part.startswith("there: "))
                self.note(f"{otherwise}: {lacking}.")
            return None

    def show_if_there(self, study: str, exhibits: Callable[[StudyResult, Look], Exhibits]) -> None:
        """A study's table of its name, its figure if it has one, and the table of its verdicts; or
        what is lacking for them."""
        if found := self.load_if_there(study, otherwise="Not there"):
            made = exhibits(found, self.look)
            if study in made.figures:
                self.show(made.figures[study])
            self.show(made.tables[study])
            self.show(made.tables[f"{study}-verdicts"])

    def answer(self, sentence: str) -> None:
        """Show a sentence of the answer; the front page of the reports repeats it."""
        self._show(sentence, "answer")

    def note(self, text: str) -> None:
        """Show text (Markdown); nothing for none."""
        if text:
            self._show(text)

    def show(
        self,
        exhibit: Exhibit,
        zoom: float = 1.4,
        seeds: pd.DataFrame | None = None,
        command: str = "",
    ) -> None:
        """Show a standard figure or table of `exhibits`; export it with its data and caption.

        seeds: as in `table`. command: the one that makes it, by default that of the data set.
        """
        from analysis import exhibits

        figure = exhibits.draw(exhibit) if exhibit.draw is not None else None
        exported: list[Path] = []
        if self.out is not None:
            command = command or exhibits.command(
                shortened(str(self.results)),
                self.dataset,
                self.look,
                exhibits.Files(width=exhibit.width),
                preset=self.preset,
            )
            exported = exhibits.write(exhibit, self.out, command=command, figure=figure)
        if figure is None:
            self._rows(exhibit.data, exhibit.columns, exhibit.digits, seeds)
        else:
            self._picture(figure, exhibit.description, zoom, exported, exhibit.caption)

    def table(
        self,
        name: str,
        table: pd.DataFrame,
        columns: Sequence[str] | None = None,
        digits: int = 1,
        seeds: pd.DataFrame | None = None,
    ) -> None:
        """Show a table by `tables.present`; export it as tables/<name>-<dataset>.csv, .tex, .md.

        Where somebody sits before it, a table of the 27 is one to sort and filter. seeds: the
        single runs behind it, from `interactive.by_seed`.
        """
        from analysis import exhibits, tables

        if self.out is not None:
            with exhibits.whole_files(self.out / "tables", f"{name}-{self.dataset}") as stem:
                tables.save_table(table, stem, digits, columns)
        self._rows(table, columns, digits, seeds)

    def _rows(
        self,
        table: pd.DataFrame,
        columns: Sequence[str] | None,
        digits: int,
        seeds: pd.DataFrame | None,
    ) -> None:
        from IPython.display import HTML, display

        from analysis import interactive, tables

        if "hypothesis" in table and "statement" in table:  # in words, where there is room
            table = table.assign(hypothesis=table["statement"])
        plain = html_table(tables.present(table, digits, columns))
        if "index" in table and interactive.attended():
            widget = interactive.table_widget(table, columns, digits, seeds)
            interactive.show_widget(widget, {"text/html": plain})
        else:
            display(HTML(plain))

    def figure(self, name: str, figure: Figure | Axes, description: str, zoom: float = 1.4) -> None:
        """Show a figure and export it as figures/<name>-<dataset>.pdf, .svg, .png.

        description: its caption, and what a reader who cannot see it is told. zoom: size on the
        screen over that on paper.
        """
        from matplotlib.figure import Figure

        from analysis import exhibits, figures

        whole = figure if isinstance(figure, Figure) else figure.get_figure(root=True)
        assert isinstance(whole, Figure)
        exported: list[Path] = []
        if self.out is not None:
            folder = self.out / "figures"
            with exhibits.whole_files(folder, f"{name}-{self.dataset}") as stem:
                exported = [folder / path.name for path in figures.save_figure(whole, stem)]
        self._picture(whole, description, zoom, exported)

    def _picture(
        self,
        whole: Figure,
        description: str,
        zoom: float,
        exported: Sequence[Path],
        caption: str = "",
    ) -> None:
        """exported: the figure's files, whose picture is shown; without any, it is drawn here."""
        from IPython.display import Image, display
        from matplotlib import pyplot as plt

        width = round(whole.get_size_inches()[0] * 96 * zoom)
        drawn = next((path.read_bytes() for path in exported if path.suffix == ".png"), b"")
        if not drawn:
            picture = io.BytesIO()
            whole.savefig(picture, format="png", dpi=96 * zoom * 2)
            drawn = picture.getvalue()
        plt.close(whole)  # or the notebook would show it a second time
        display(Image(drawn, width=width, alt=description))
        said = caption or description
        self._show(said if said.endswith(".") else f"{said}.", "caption")

    def _show(self, text: str, kind: str = "") -> None:
        from IPython.display import Markdown, display

        display(Markdown(_without_markup(text)), metadata={"aba": {kind: text}} if kind else {})


def _without_markup(text: str) -> str:
    """Markdown that holds no HTML and no link: the texts of results may be a stranger's."""
    for mark, shown in (("<", "&lt;"), ("](", "]&#40;"), ("]:", "]&#58;")):
        text = text.replace(mark, shown)
    return text


def page(**parameters: Any) -> Page:
    """The one check of a notebook's parameters, at its top, also when somebody runs it by hand.

    Paths are relative to the checkout, or to the current folder where there is none. Raises
    ReportError for a value that is not allowed. Parameters that are not fields of `Page` are
    checked too.
    """
    for name, value in parameters.items():
        check_value(name, value)
    fields = {name: parameters[name] for name in Page.__dataclass_fields__ if name in parameters}
    base = CHECKOUT or Path.cwd()
    fields["results"] = base / parameters.get("results", USUAL_RESULTS)
    usual = parameters.get("results", USUAL_RESULTS) == USUAL_RESULTS
    fields["or_shipped"] = usual or bool(os.environ.get(OR_SHIPPED))
    fields["out"] = base / parameters["out"] if parameters.get("out") else None
    return Page(**fields)
