"""Look up adjustments, studies, data sets, methods, axioms of maps, and what is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analysis import terminal
from analysis.cli.options import Csv, Out, Results, app


@app.command("adjustments")
def adjustments_(
    csv: Csv = False,
) -> None:
    """List the 27 adjustments: changes, group, offset form.

    \b
    Examples:
      aba adjustments
      aba adjustments --csv > adjustments.csv
    """
    from aba_core.adjustments import ADJUSTMENTS

    head = ("index", "low", "middle", "high", "group", "offset", "low−offset", "high−offset")
    rows = [(a.index, *a, a.group.value, *a.offset_form) for a in ADJUSTMENTS]
    if csv:
        print(",".join(head).replace("−", "_minus_"))
        for row in rows:
            print(",".join(map(str, row)))
    else:
        terminal.print_table(head, rows)


@app.command()
def studies() -> None:
    """List the standard studies and what each asks.

    \b
    Examples:
      aba studies
      aba run isolation
    """
    from analysis.studies import QUESTIONS

    terminal.print_table(("study", "question"), list(QUESTIONS.items()))
    print(
        "\nand large-MODEL, a row of the published table of large models: aba plan large-resnet50"
    )


@app.command()
def datasets() -> None:
    """List the data sets, their subsets, and where their files are.

    A data set that is missing is downloaded and checked when a study first needs it.

    \b
    Examples:
      aba datasets
      ABA_DATA_MIRROR=/data/aba aba datasets
    """
    from analysis.plan import dataset_status

    rows = [
        (
            status.name,
            "×".join(map(str, status.shape)),
            status.classes,
            ", ".join(f"{name} {size}" for name, size in status.subsets.items()),
            status.present,
        )
        for status in dataset_status()
    ]
    terminal.print_table(("name", "input", "classes", "training subsets", "where"), rows)


@app.command()
def methods() -> None:
    """List the methods: name, passes a step, fields, defaults.

    A study file names one as method: mixup, or with fields as method: {kind: mixup, alpha: 0.2}.
    For a preset, only the fields that differ from those of aba are shown.

    \b
    Examples:
      aba methods
    """
    from textwrap import wrap

    from analysis.plan import method_table

    rows: list[tuple[str, ...]] = []
    for kind, title, passes, given in method_table():
        first, *rest = wrap(given, 60, break_on_hyphens=False) or [""]
        rows += [(kind, title, f"{passes:g}", first), *(("", "", "", line) for line in rest)]
    terminal.print_table(("kind", "title", "passes", "fields and defaults"), rows)


AXIOMS_FROM, AXIOMS_TO = "<!-- axioms: from here on written by the command -->", "<!-- /axioms -->"


@app.command()
def axioms(
    csv: Csv = False,
    page: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, writable=True, help="Write the table into this page."
        ),
    ] = None,
) -> None:
    """Measure how far each attribution map breaks each axiom.

    Uses small networks in float64 and takes seconds. 0 means that the axiom holds there, up to
    rounding. A dash means that it says nothing about the map.

    \b
    Examples:
      aba axioms
      aba axioms --csv > axioms.csv
    """
    from analysis.plan import axiom_table

    before, after = _around_the_table(page) if page is not None else ("", "")
    table = axiom_table()
    head = ("map", *next(iter(table.values())))
    rows = [
        (name, *("–" if value != value else f"{value:.2g}" for value in values.values()))
        for name, values in table.items()
    ]
    if page is not None:
        lines = [head, ("---", *["--:"] * (len(head) - 1)), *rows]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        written = page.with_name(f"{page.name}.new")
        written.write_text(
            f"{before}{AXIOMS_FROM}\n\n{text}\n\n{AXIOMS_TO}{after}", encoding="utf-8"
        )
        written.replace(page)
        print(f"{page}: {len(rows)} maps")
    elif csv:
        import csv as comma_separated
        import sys

        comma_separated.writer(sys.stdout, lineterminator="\n").writerows([head, *rows])
    else:
        terminal.print_table(head, rows)


def _around_the_table(page: Path) -> tuple[str, str]:
    """The page before the table of axioms and after it."""
    before, start, rest = page.read_text(encoding="utf-8").partition(AXIOMS_FROM)
    _, end, after = rest.partition(AXIOMS_TO)
    if not start or not end:
        raise typer.BadParameter(
            f"{page} has no place for the table; needed: the lines {AXIOMS_FROM!r} and "
            f"{AXIOMS_TO!r}"
        )
    return before, after


@app.command()
def doctor(results: Results = Path("results"), out: Out = Path("reports")) -> None:
    """Check what is installed and missing, and say what to do.

    Checks Python, packages, device, data sets, folders, notebooks, PDF and fonts. Changes nothing.
    Exit code 1 if something that `make demo` needs is missing.

    \b
    Examples:
      aba doctor
      aba doctor --results other_results --out other_reports
    """
    from analysis import doctor as examination

    findings = examination.examine(results, out)
    print(examination.text(findings))
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)
