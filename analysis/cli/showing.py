"""Show results: reports, figures, the published tables and claims."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from analysis import terminal
from analysis.cli.options import (
    START,
    Confidence,
    Csv,
    Datasets,
    Format,
    Metric,
    OfPreset,
    Out,
    Results,
    Trust,
    Usual,
    app,
    or_shipped,
    shipped,
)


@app.command()
def report(
    notebooks: Annotated[
        list[str] | None,
        typer.Argument(metavar="NOTEBOOK", help="Such as 02_isolation; or your own study."),
    ] = None,
    results: Results = Path("results"),
    out: Out = Path("reports"),
    dataset: Annotated[
        str | None, typer.Option(help="Data set to show.  [default: digits]")
    ] = None,
    format: Annotated[Format, typer.Option(help="Format of the reports.")] = Format.html,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            "-p",
            metavar="NAME=VALUE",
            help="Set a notebook's parameter; repeatable.",
        ),
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="Write a report for each value; if repeated, for all combinations.",
        ),
    ] = None,
    parameters: Annotated[
        Path | None,
        typer.Option(help="YAML file of parameters: name: value, or name: [values]."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Notebooks to run at a time.", min=1)] = 2,
    force: Annotated[
        bool, typer.Option("--force", help="Replace reports of other results.")
    ] = False,
    trust: Trust = None,
) -> None:
    """Run notebooks and write their reports, figures and tables.

    File names contain the parameters that differ from the defaults, and those that vary with --over
    or a file of parameters. A report of the same notebook and parameters is replaced. Replacing a
    report of other results needs --force. Exit code 1 if a report failed; the others are kept.

    \b
    Examples:
      aba report
      aba report 02_isolation --dataset digits -p confidence=0.9
      aba report 02_isolation --over dataset=digits,mnist --over confidence=0.9,0.95
      aba report --parameters batch.yaml --jobs 4 --out batch
      aba report my_study
    """
    from analysis import by_name, reports

    given: dict[str, object] = {} if dataset is None else {"dataset": dataset}
    origin = {} if dataset is None else {"dataset": "--dataset"}
    for entry in parameter or []:
        name, value = terminal.pair(entry, "NAME=VALUE, as confidence=0.9")
        terminal.once(origin, name, "--parameter")
        given[name] = value
    axes: dict[str, list[str]] = {}
    for entry in over or []:
        name, value = terminal.pair(entry, "NAME=VALUE,VALUE, as confidence=0.9,0.95")
        terminal.once(origin, name, "--over")
        axes[name] = [part.strip() for part in value.split(",") if part.strip()]
    # A file of parameters may name the data sets, as --over may.
    named = given if parameters is None else {"dataset": None, **given}
    fixed, varied = by_name.as_notebook(notebooks or [], results, named)
    if fixed or varied:
        notebooks, given, axes = [by_name.ANY_STUDY], {**given, **fixed}, {**varied, **axes}
    variants = reports.grid(axes)
    if parameters is not None:
        plain, sets = reports.read_parameters(parameters)
        for name in dict.fromkeys([*plain, *(name for one in sets for name in one)]):
            terminal.once(origin, name, str(parameters))
        given |= plain
        variants = [{**one, **two} for one in sets for two in variants]
    options = {"format": format, "variants": variants, "jobs": jobs, "force": force}
    unnamed = isinstance(results, Usual)
    if terminal.report(notebooks or [], results, out, given, or_shipped=unnamed, **options):
        raise typer.Exit(1)


@app.command("figures")
def figures_(
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="STUDY", help="Studies to show.  [default: all]"),
    ] = None,
    results: Results = Path("results"),
    out: Out = Path("reports"),
    dataset: Datasets = None,
    format: Annotated[str, typer.Option(help="Formats, separated by commas.")] = "pdf,svg,png",
    width: Annotated[
        str | None,
        typer.Option(
            help="Width: single (85 mm), double (175 mm) or slide (254 × 143 mm).  "
            "[default: each figure's own]"
        ),
    ] = None,
    style: Annotated[
        str | None, typer.Option(help="Style: paper or talk.  [default: talk for slides]")
    ] = None,
    metric: Metric = "validation_accuracy",
    confidence: Confidence = 0.95,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.", min=0)] = 0,
    preset: OfPreset = "",
    trust: Trust = None,
) -> None:
    """Write every standard figure and table, without a notebook.

    Figures have a size in millimetres, text as text, and their data as CSV. Tables are CSV, LaTeX
    and Markdown. A JSON file beside each has its caption, the checksum of its data and the command
    that made it. Exit code 1 if something that you ask for is not there.

    \b
    Examples:
      aba figures
      aba figures isolation --dataset digits --format pdf --width double
      aba figures --width slide --out slides
    """
    from analysis import exhibits, rooms

    def say(study: str, dataset: str, files: Sequence[Path]) -> None:
        counts = [
            f"{n} {kind if n > 1 else kind[:-1]}"
            for kind in ("figures", "tables")
            if (n := sum(file.suffix == ".json" and file.parent.name == kind for file in files))
        ]
        print(f"{study} on {dataset}: {', '.join(counts)} in {out}/", flush=True)

    look = exhibits.Look(metric, confidence, seed)
    formats = [name.strip() for name in format.split(",") if name.strip()]
    files = exhibits.Files(formats, width or "", style or "")  # refused before anything is said
    shown = ["isolation" if name == rooms.BESIDE else name for name in studies or ()]
    done = rooms.export(
        or_shipped(results, shown, dataset or ()),
        out,
        studies or (),
        dataset or (),
        files=files,
        look=look,
        preset=preset,
        progress=say,
    )
    terminal.print_exported(done)
    if done.refused or not done.files:
        raise typer.Exit(1)


@app.command()
def compare(
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="STUDY", help="Studies of your own, compared arm by arm."),
    ] = None,
    results: Results = Path("results"),
    dataset: Datasets = None,
    metric: Metric = "validation_accuracy",
    confidence: Confidence = 0.95,
    preset: OfPreset = "",
    baseline: Annotated[
        str, typer.Option(help="Arm that others are compared with.  [default: without method]")
    ] = "",
) -> None:
    """Compare results with published tables, or arms with one.

    Without a study: says which settings differ, then what agrees and what does not, in words and
    tables. A data set without published tables is compared with all of them, by orders and signs
    alone; large models are set beside their own table. With studies: the difference of each arm to
    the baseline, with interval and verdict. Exit code 1 if there is nothing to compare.

    \b
    Examples:
      aba compare
      aba compare --dataset mnist --confidence 0.9
      aba compare --dataset tiny-imagenet-20
      aba compare my_study
      aba compare my_study --baseline mixup --metric test_accuracy
    """
    from analysis import by_name, exhibits, rooms
    from analysis.reference import PUBLISHED
    from analysis.results import ResultsError
    from analysis.studies import large, only_studies_of, published
    from analysis.wording import data_title

    look = exhibits.Look(metric, confidence)
    lacking = False
    results = or_shipped(results, studies or ["isolation"], dataset or ())
    if studies:
        found = [one for name in studies for one in by_name.datasets_of(name, results, dataset)]
        for name, of_dataset in found:
            terminal.print_differences(results, name, of_dataset, look, preset, baseline)
        return
    if baseline:
        raise exhibits.ExportError(f"--baseline {baseline} goes with a study, as aba compare mine")
    declared = rooms.studies_by_dataset(results)
    compared_with = [
        name for name, of in declared.items() if "isolation" in of or name in large.DATASETS
    ]
    names = dataset or compared_with or ["digits"]
    for name in names:
        if name in large.DATASETS:
            continue
        if only := only_studies_of(name):
            if dataset:
                said = f"nothing is published on {name}; see: aba claims --dataset {name}"
                print(f"aba: {said}, which judges {', '.join(only)}", file=sys.stderr)
                lacking = True
            continue
        try:
            compared, sentences = published.compare(results, name, look, preset)
        except ResultsError as error:
            print(f"aba: {error}", file=sys.stderr)
            lacking = True
            continue
        tables = "table" if name in PUBLISHED else "tables, by orders and signs"
        print(f"\n== {data_title(name)} beside the published {tables} ==\n")
        terminal.print_exhibits(sentences, compared.tables.values())
    if large.DATASETS & set(names):
        print("\n== Large models beside the published table ==\n")
        table = large.table(results)
        terminal.print_large(table, large.side_by_side(table), large.note(table))
    if lacking:
        raise typer.Exit(1)


@app.command("claims")
def claims_(
    results: Results = Path("results"),
    dataset: Datasets = None,
    metric: Metric = "validation_accuracy",
    confidence: Confidence = 0.95,
    csv: Csv = False,
) -> None:
    """Show what the results say about the 36 published claims.

    A claim has a verdict for each data set that has its deciding comparisons, on validation and on
    test. For a claim without a verdict, the reason is shown, with a command that would decide it.

    \b
    Examples:
      aba claims
      aba claims --dataset digits --csv > claims.csv
    """
    from analysis import claims, exhibits, rooms, tables
    from analysis.results import ResultsError

    look = exhibits.Look(metric, confidence)
    if not isinstance(results, Usual) and not rooms.studies_by_dataset(results):
        raise ResultsError(f"no studies in {results}; start one with: {START}{results}")
    results = or_shipped(results, datasets=dataset or ())
    ledger = claims.ledger(results, dataset or (), look)
    if not claims.decided(ledger) and isinstance(results, Usual):
        results = shipped(f"no claim is decided in {results}/")
        ledger = claims.ledger(results, dataset or (), look)
    if csv:
        print(tables.csv_text(ledger), end="")
    else:
        terminal.print_ledger(
            claims.sentences(ledger), claims.printable(ledger), claims.undecided(ledger)
        )
