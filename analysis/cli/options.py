"""What the commands share: the application that they belong to, and their usual options."""

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
