"""What results say: reports, figures, the published tables and claims."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from analysis import terminal
from analysis.cli.options import Format, Metric, Out, Results, Trust, app


@app.command()
def report(
    notebooks: Annotated[
        list[str] | None,
        typer.Argument(help="Notebooks, as 02_isolation, or your own studies.  [default: all]"),
    ] = None,
    results: Results = Path("results"),
    out: Out = Path("reports"),
    dataset: Annotated[
        str | None, typer.Option(help="Data set whose results are shown.  [default: digits]")
    ] = None,
    format: Annotated[
        Format, typer.Option(help="What is written for each notebook.")
    ] = Format.html,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter", "-p", metavar="NAME=VALUE", help="A notebook's parameter; repeatable."
        ),
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="A parameter and its values, one report each; repeatable: all combinations.",
        ),
    ] = None,
    parameters: Annotated[
        Path | None,
        typer.Option(help="YAML file of parameters: name: value, or name: [values]."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Notebooks at a time.", min=1)] = 2,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files in the way, as reports of other results.")
    ] = False,
    trust: Trust = None,
) -> None:
    """Execute notebooks; write reports, figures, tables.

    Names of the files hold the parameters that are not as usual, and what varies with --over or a
    file of parameters. A report of the same notebook and parameters is renewed; one of other
    results in the way needs --force. Exit code 1 where a report failed; the others are kept.

    \b
    Examples:
      aba report
      aba report 02_isolation --dataset digits -p confidence=0.9
      aba report 02_isolation --over dataset=digits,mnist --over confidence=0.9,0.95
      aba report --parameters batch.yaml --jobs 4 --out batch
      aba report my_study
    """
    from analysis import exhibits, reports

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
    own = exhibits.own_studies(notebooks or [], results)
    if own and len(own) < len(notebooks or []):
        raise reports.ReportError(
            f"{own[0]!r} is a study, and others of {', '.join(notebooks or [])} are notebooks; ask "
            "for the reports of studies by themselves"
        )
    if own:
        terminal.once(origin, "study", "STUDY")
        notebooks, axes = ["13_any_study"], {"study": own, **axes}
        found = {one for name in own for one in exhibits.datasets_of(name, results)}
        if dataset is None and len({of_dataset for _, of_dataset in found}) == 1:
            given["dataset"] = next(iter(found))[1]
    if len(own) == 1:
        given["study"] = axes.pop("study")[0]
    variants = reports.grid(axes)
    if parameters is not None:
        plain, sets = reports.read_parameters(parameters)
        for name in dict.fromkeys([*plain, *(name for one in sets for name in one)]):
            terminal.once(origin, name, str(parameters))
        given |= plain
        variants = [{**one, **two} for one in sets for two in variants]
    if terminal.report(
        notebooks or [],
        results,
        out,
        given,
        format=format,
        variants=variants,
        jobs=jobs,
        force=force,
    ):
        raise typer.Exit(1)


@app.command("figures")
def figures_(
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY]...", help="Studies.  [default: all there are]"),
    ] = None,
    results: Results = Path("results"),
    out: Out = Path("reports"),
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="Data set; repeatable.  [default: all there are]"),
    ] = None,
    format: Annotated[str, typer.Option(help="Of pdf, svg, png; with commas.")] = "pdf,svg,png",
    width: Annotated[
        str, typer.Option(help="single (85 mm), double (175 mm) or slide (254 × 143 mm).")
    ] = "single",
    style: Annotated[
        str | None, typer.Option(help="paper or talk.  [default: talk for slides]")
    ] = None,
    metric: Metric = "validation_accuracy",
    confidence: Annotated[float, typer.Option(help="Of every interval.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.", min=0)] = 0,
    preset: Annotated[
        str, typer.Option(help="Preset of the studies; empty: whichever has most runs.")
    ] = "",
    trust: Trust = None,
) -> None:
    """Every standard figure and table, without a notebook.

    Figures are sized in millimetres, with text as text and the data behind them as CSV; tables are
    CSV, LaTeX and Markdown. A JSON file beside each has its caption, the checksum of its data and
    the command that made it. Exit code 1 where something asked for is not there.

    \b
    Examples:
      aba figures
      aba figures isolation --dataset digits --format pdf --width double
      aba figures --width slide --out slides
    """
    from analysis import exhibits

    def say(study: str, dataset: str, files: Sequence[Path]) -> None:
        counts = [
            f"{n} {kind if n > 1 else kind[:-1]}"
            for kind in ("figures", "tables")
            if (n := sum(file.suffix == ".json" and file.parent.name == kind for file in files))
        ]
        print(f"{study} on {dataset}: {', '.join(counts)} in {out}/", flush=True)

    done = exhibits.export(
        results,
        out,
        studies or (),
        dataset or (),
        files=exhibits.Files(
            [name.strip() for name in format.split(",") if name.strip()], width, style or ""
        ),
        look=exhibits.Look(metric, confidence, seed),
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
        typer.Argument(metavar="[STUDY]...", help="Studies of your own, compared arm by arm."),
    ] = None,
    results: Results = Path("results"),
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="Data set; repeatable.  [default: all there are]"),
    ] = None,
    metric: Metric = "validation_accuracy",
    confidence: Annotated[float, typer.Option(help="Of every interval.")] = 0.95,
    preset: Annotated[
        str, typer.Option(help="Preset of the studies; empty: whichever has most runs.")
    ] = "",
    baseline: Annotated[
        str, typer.Option(help="Arm that others are compared with.  [default: without method]")
    ] = "",
) -> None:
    """Own results against the published tables, or arms against a baseline.

    Without a study: what agrees and what does not, in words and tables, after the settings that
    differ. A data set without published tables is held against all of them, by orders and signs
    alone. With studies: the difference of each arm to the baseline, with interval and verdict. Exit
    code 1 where there is nothing to compare.

    \b
    Examples:
      aba compare
      aba compare --dataset mnist --confidence 0.9
      aba compare my_study
      aba compare my_study --baseline mixup --metric test_accuracy
    """
    from analysis import exhibits
    from analysis.reference import PUBLISHED
    from analysis.results import ResultsError
    from analysis.studies import published

    look = exhibits.Look(metric, confidence)
    lacking = False
    if studies:
        found = [one for name in studies for one in exhibits.datasets_of(name, results, dataset)]
        for name, of_dataset in found:
            terminal.print_differences(results, name, of_dataset, look, preset, baseline)
        return
    if baseline:
        raise exhibits.ExportError(f"--baseline {baseline} goes with a study, as aba compare mine")
    for name in dataset or exhibits.studies_by_dataset(results) or ["digits"]:
        try:
            compared, sentences = published.compare(results, name, look, preset)
        except ResultsError as error:
            print(f"aba: {error}", file=sys.stderr)
            lacking = True
            continue
        same = name in PUBLISHED
        print(f"\n== {name} against the published {'one' if same else 'tables, orders only'} ==\n")
        terminal.print_exhibits(sentences, compared.tables.values())
    if lacking:
        raise typer.Exit(1)


@app.command("claims")
def claims_(
    results: Results = Path("results"),
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="Data set; repeatable.  [default: all there are]"),
    ] = None,
    metric: Metric = "validation_accuracy",
    confidence: Annotated[float, typer.Option(help="Of every interval.")] = 0.95,
    csv: Annotated[
        bool, typer.Option("--csv", help="Comma-separated, for other programs.")
    ] = False,
) -> None:
    """What the results say of each of the 36 published claims.

    A claim has a verdict on each data set that has its deciding comparisons, on validation and
    on test. One without says why, and which command would decide it.

    \b
    Examples:
      aba claims --results data/results
      aba claims --dataset digits --csv > claims.csv
    """
    from analysis import claims, exhibits, tables

    ledger = claims.ledger(results, dataset or (), exhibits.Look(metric, confidence))
    if csv:
        print(tables.csv_text(ledger), end="")
    else:
        terminal.print_ledger(
            claims.sentences(ledger), claims.printable(ledger), claims.undecided(ledger)
        )
