"""What the commands share: the application itself, and the options that several take."""

from __future__ import annotations

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


# Every option of a command is an argument of its function: typer wants it so, whatever their count.
Results = Annotated[Path, typer.Option(help="Folder of the results.")]
Device = Annotated[str, typer.Option(help="Device: auto, cpu or cuda.")]
Metric = Annotated[str, typer.Option(help="Metric, such as test_accuracy or train_loss.")]
OfDataset = Annotated[
    str | None, typer.Option(help="Data set; `aba datasets` lists them.  [default: digits]")
]
Preset = Annotated[
    str | None, typer.Option(help="Preset: quick, standard, med or published.  [default: quick]")
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Change a setting, such as epochs=20; repeatable."
    ),
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
