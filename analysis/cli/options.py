"""What the commands share: the application itself, and the options that several take."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from analysis import terminal, toolkit_version

app = typer.Typer(
    name="aba",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Attribution-based augmentation: run studies, look at results, write reports.",
    epilog="""\b
Examples:
  aba doctor                           check what is installed
  aba demo                             train small studies, write reports
  aba run isolation --dataset digits   train one study
  aba report 02_isolation              write its report
  aba run --help                       show the help of one command
""",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"aba {toolkit_version()}")
        raise typer.Exit()


@app.callback()
def _aba(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Options of `aba` itself; its help stands above."""


class Usual(type(Path())):  # type: ignore[misc]
    """A folder that nobody named: the default of its option."""


def _whose(context: typer.Context, value: Path) -> Path:
    source = context.get_parameter_source("results")
    return Usual(value) if source is not None and source.name == "DEFAULT" else value


def _named(value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise typer.BadParameter("it is empty; `aba datasets` lists what there is")
    return value


# Every option of a command is an argument of its function: typer wants it so, whatever their count.
Results = Annotated[Path, typer.Option(callback=_whose, help="Folder of the results.")]
Device = Annotated[str, typer.Option(help="Device: auto, cpu or cuda.")]
Metric = Annotated[str, typer.Option(help="Metric, such as test_accuracy or train_loss.")]
Csv = Annotated[
    bool, typer.Option("--csv", help="Print comma-separated values, for other programs.")
]
Confidence = Annotated[float, typer.Option(help="Confidence of every interval.")]
Datasets = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Data set; repeatable.  [default: all]"),
]
OfDataset = Annotated[
    str | None,
    typer.Option(callback=_named, help="Data set; `aba datasets` lists them.  [default: digits]"),
]
Preset = Annotated[
    str | None,
    typer.Option(help="Preset: quick, standard, med, reduced or published.  [default: quick]"),
]
OfPreset = Annotated[
    str, typer.Option(help="Preset of the studies.  [default: the one with most runs]")
]
Seeds = Annotated[int | None, typer.Option(help="Runs for each arm.  [default: the preset's]")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Change a setting, such as epochs=20; repeatable."
    ),
]
CpuProcesses = Annotated[
    int | None,
    typer.Option(help="Processes on the CPU.  [default: one per usable core]", min=1),
]
Track = Annotated[
    str, typer.Option(metavar="NAME", help="Write runs to a tracker too: tensorboard or mlflow.")
]
Out = Annotated[Path, typer.Option(help="Folder to write reports to.")]
Trust = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODULE", callback=terminal.trust, help="Allow results to run code of this module."
    ),
]


class Format(StrEnum):
    html = "html"
    pdf = "pdf"
    notebook = "notebook"


START = "aba run isolation --dataset digits --results "


def or_shipped(results: Path, studies: Sequence[str] = (), datasets: Sequence[str] = ()) -> Path:
    """The folder to show: where nobody named one and the usual one has none of what is asked for,
    the shipped results, with a line on standard error that says so."""
    from analysis.by_name import study_name
    from analysis.results import SHIPPED, ResultsError
    from analysis.rooms import studies_by_dataset, unknown_study

    def has(folder: Path) -> bool:
        return any(
            (not datasets or dataset in datasets) and (not studies or {*studies} & {*names})
            for dataset, names in studies_by_dataset(folder).items()
        )

    lacking = isinstance(results, Usual) and not has(results)
    named = map(study_name, studies) if lacking else ()
    unknown = (unknown_study(name, results, SHIPPED) for name in named)
    if line := next(filter(None, unknown), ""):
        raise ResultsError(line)
    if not lacking or (studies_by_dataset(results) and not has(SHIPPED)):
        return results
    what = f"{' or '.join(studies)} study" if studies else "studies"
    where = f" on {' or '.join(datasets)}" if datasets else ""
    return shipped(f"no {what}{where} in {results}/")


def shipped(reason: str) -> Path:
    """The shipped results, and a line on standard error that says so."""
    from analysis.results import SHIPPED

    print(f"aba: {reason}: these are the shipped results", file=sys.stderr)
    return SHIPPED
