"""The command line, `aba`. Every command imports what it needs when it runs, so that help and
errors come at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis import terminal, toolkit_version
from analysis.store.commands import pack

if TYPE_CHECKING:
    from analysis.study import Study

app = typer.Typer(
    name="aba",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Attribution-based augmentation: run studies, look at results, write reports.",
    epilog="""\b
Examples:
  aba doctor                           what is installed, and what is missing
  aba demo                             studies on digits and reports
  aba run isolation --dataset digits   one study
  aba report 02_isolation              its report
  aba run --help                       one command in full
""",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"aba {toolkit_version()}")
        raise typer.Exit()


@app.callback()
def _aba(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it and exit.")
    ] = False,
) -> None:
    """Options of `aba` itself; its help stands above."""


# Every option of a command is an argument of its function: typer wants it so, whatever their count.
Results = Annotated[Path, typer.Option(help="Folder that results are kept in.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Metric = Annotated[str, typer.Option(help="As validation_accuracy, test_macro_auc or train_loss.")]
OfDataset = Annotated[str | None, typer.Option(help="See `aba datasets`.  [default: digits]")]
Preset = Annotated[str | None, typer.Option(help="quick, standard or published.  [default: quick]")]
Out = Annotated[Path, typer.Option(help="Folder that reports are written to.")]


Trust = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODULE", callback=terminal.trust, help="Run its code where results name it."
    ),
]


class Format(StrEnum):
    html = "html"
    pdf = "pdf"
    notebook = "notebook"


@app.command("adjustments")
def adjustments_(
    csv: Annotated[
        bool, typer.Option("--csv", help="Comma-separated, for other programs.")
    ] = False,
) -> None:
    """The 27 adjustments: changes, group, offset form.

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
def datasets() -> None:
    """The data sets, their subsets, and whether they are here.

    One that is not here is downloaded, and checked, when a study first needs it.

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
    """The methods by name: passes a step, fields, defaults.

    A study file names one as method: mixup, or with fields as method: {kind: mixup, alpha: 0.2}.
    Of a preset, the fields are shown that it sets beside those of aba.

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


@app.command()
def run(
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY",
            help="isolation, tension, frozen, benchmark, benchmark-bn, hypotheses, sets, matched, "
            "tuned, baselines, variance, mechanism, variability, variability-linear, or a YAML or "
            "Python file.",
        ),
    ],
    dataset: OfDataset = None,
    preset: Preset = None,
    seeds: Annotated[
        int | None, typer.Option(help="Runs per arm.  [default: the preset's]")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="Change one setting, as epochs=20; repeatable."
        ),
    ] = None,
    results: Results = Path("results"),
    device: Device = "auto",
    processes: Annotated[
        int | None, typer.Option(help="Processes on CPU.  [default: one per usable core]", min=1)
    ] = None,
    engine: Annotated[
        str,
        typer.Option(metavar="NAME", help="auto, processes, gpu, or module:function of your own."),
    ] = "auto",
    scheduler: Annotated[
        str | None, typer.Option(help="Of Dask: local, slurm, tcp://HOST:PORT or tls://HOST:PORT.")
    ] = None,
    cluster: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION=VALUE", help="Of the scheduler, as workers=4; repeatable."),
    ] = None,
    graphs: Annotated[
        bool, typer.Option("--graphs", help="Record each step as a CUDA graph (GPU only).")
    ] = False,
    until: Annotated[
        str | None, typer.Option(help="decided: add subsets until every verdict is reached.")
    ] = None,
    max_seeds: Annotated[int | None, typer.Option(help="Subsets at most, with --until.")] = None,
) -> None:
    """Train what a study still lacks.

    Finished runs are kept and never repeated: after Ctrl-C the same command continues.

    \b
    Examples:
      aba run isolation --dataset digits
      aba run tension --dataset mnist --preset standard --device cuda
      aba run isolation --set strength=0.5 --seeds 10
      aba run my_study.yaml
      aba run my_study.py
      aba run hypotheses --until decided --max-seeds 100
      aba run tension --scheduler tcp://10.0.0.1:8786
    """
    from analysis.cluster.engine import choose
    from analysis.study import find_study

    declared = find_study(study, dataset, preset, seeds, set_ or ())
    trains = choose(scheduler, cluster or (), engine=engine, processes=processes)
    options: dict[str, Any] = dict(device=device, processes=processes, engine=trains, graphs=graphs)
    if until is not None or max_seeds is not None:
        from analysis import additions

        options["progress"] = terminal.bars()
        complete = additions.add(declared, results, until, max_seeds, **options)
    else:
        complete = _run(declared, results, **options)
    if not complete:
        raise typer.Exit(1)


def _run(study: Study, results: Path, **options: Any) -> bool:
    """Run a study and say what came of it; whether all of it is there."""
    from analysis import runner

    done = runner.run(study, results, progress=terminal.bars(), **options)
    print(done.result.summary())
    print(f"{done}, in {results}/")
    return not done.result.missing


@app.command("plan")
def plan_(
    study: Annotated[
        str,
        typer.Argument(metavar="STUDY", help="A standard study, or a YAML or Python file."),
    ],
    effect: Annotated[
        float, typer.Option(help="True difference of two arms that is to be found, in points.")
    ] = 1.0,
    power: Annotated[float, typer.Option(help="How often it is to be found.")] = 0.8,
    comparisons: Annotated[
        int | None,
        typer.Option(help="Comparisons that are corrected for.  [default: arms less one]"),
    ] = None,
    dataset: OfDataset = None,
    preset: Preset = None,
    metric: Metric = "validation_accuracy",
    results: Results = Path("results"),
) -> None:
    """Seeds that an effect needs, and the time they take.

    From the spread of pilot runs: those in the results folder, else the shipped ones. Nothing is
    run. Exit code 2 where there is no pilot, with the command that makes one.

    \b
    Examples:
      aba plan tension --effect 1.0 --power 0.8
      aba plan isolation --dataset mnist --preset standard --effect 0.5
    """
    from analysis import design, exhibits
    from analysis.study import find_study

    label = exhibits.Look(metric).label
    plan = design.plan(
        find_study(study, dataset, preset),
        results,
        effect,
        power=power,
        comparisons=comparisons,
        metric=metric,
    )
    terminal.print_plan(plan, label)


@app.command()
def status(results: Results = Path("results")) -> None:
    """The studies in a results folder and how far they are.

    A line a study: runs finished of those declared, runs that diverged, time spent. Damaged files
    are named; their runs count as missing.

    \b
    Examples:
      aba status
      aba status --results other_results
    """
    from analysis import results as store

    head, rows, damaged = store.overview(results)
    if not rows:
        print(f"no studies in {results}; start one with: aba run isolation --dataset digits")
        return
    terminal.print_table(head, rows)
    for path in damaged:
        print(f"damaged, passed over: {path} (runs count as missing; aba verify)", file=sys.stderr)


@app.command()
def verify(
    results: Results = Path("results"),
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take sound files into the manifest that lacks them.")
    ] = False,
) -> None:
    """Whether results are as they were written: files, rows, keys.

    Names every file that is damaged, changed or unknown; such files are never read, and their
    runs count as missing. Exit code 1 where there is any. No file is changed.

    \b
    Examples:
      aba verify --results other_results
    """
    from analysis.store import verify as examination

    taken_in = examination.adopt(results) if adopt else ()
    findings = examination.verify(results)
    terminal.print_findings(results, findings, taken_in)
    if findings.problems:
        raise typer.Exit(1)


app.command()(pack)


@app.command()
def report(
    notebooks: Annotated[
        list[str] | None, typer.Argument(help="Notebooks, as 02_isolation.  [default: all]")
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
    """
    from analysis import reports

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
) -> None:
    """Own results against the published tables.

    What agrees and what does not, in words and tables, after the settings that differ. A data set
    without published tables is held against all of them, by orders and signs alone. Exit code 1
    where there is nothing to compare.

    \b
    Examples:
      aba compare
      aba compare --dataset mnist --confidence 0.9
    """
    from analysis import exhibits
    from analysis.reference import PUBLISHED
    from analysis.results import ResultsError
    from analysis.studies import published

    look = exhibits.Look(metric, confidence)
    lacking = False
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


# What these read takes far longer than the demo: their reports show the results that are shipped.
OF_SHIPPED = ("00_claims", "06_hypotheses", "07_mechanism", "08_variability")


@app.command()
def demo(results: Results = Path("results"), out: Out = Path("reports")) -> None:
    """Three studies on digits, then every report: minutes.

    Isolation, tension and frozen with preset quick; what is finished is not repeated. The reports
    on hypotheses, mechanism and variability, whose studies take longer, show the shipped results.

    \b
    Examples:
      aba demo
      aba demo --results /tmp/results --out /tmp/reports
    """
    from analysis import reports
    from analysis.results import SHIPPED
    from analysis.studies import standard_study

    names = [name for name in reports.notebooks() if name not in OF_SHIPPED]
    with reports.Processes(warm=True) as processes:
        processes.warm_up()  # while studies train
        for name in ("isolation", "tension", "frozen"):
            _run(standard_study(name, "digits", "quick"), results)
        options = {"force": True, "processes": processes}
        failed = terminal.report(names, results, out, {}, **options)
        failed += terminal.report(list(OF_SHIPPED), SHIPPED, out, {}, **options)
    if failed:
        raise typer.Exit(1)
    print(
        f"Open {out / 'index.html'}; figures are in {out / 'figures'}, tables in {out / 'tables'}."
    )


@app.command()
def doctor(results: Results = Path("results"), out: Out = Path("reports")) -> None:
    """What is installed here, what is missing, what to do.

    Looks at Python, packages, device, data sets, folders, notebooks, PDF and fonts; changes
    nothing. Exit code 1 where something is missing that `make demo` needs.

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


def main() -> None:
    """Entry point of the `aba` command."""
    terminal.stop_as_by_ctrl_c()
    sys.exit(terminal.exit_code(lambda: app(standalone_mode=False)))


if __name__ == "__main__":
    main()
