"""Results folders: show how far studies are, check files, merge small files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from analysis import terminal
from analysis.cli.options import Results, Usual, app


@app.command()
def status(results: Results = Path("results")) -> None:
    """Show the studies in a results folder and how far they are.

    Each study has a line: finished and declared runs, diverged runs, time spent. Damaged files are
    named, and their runs count as missing.

    \b
    Examples:
      aba status
      aba status --results other_results
    """
    from analysis import results as store

    head, rows, damaged = store.overview(results)
    if not rows:
        given = "" if isinstance(results, Usual) else f" --results {results}"
        print(f"no studies in {results}; start one with: aba run isolation --dataset digits{given}")
        if isinstance(results, Usual):
            here = store.SHIPPED.is_relative_to(Path.cwd())
            place = store.SHIPPED.relative_to(Path.cwd()) if here else store.SHIPPED
            print(f"the shipped studies are shown by: aba status --results {place}")
        return
    terminal.print_table(head, rows)
    for path in damaged:
        print(f"damaged, passed over: {path} (runs count as missing; aba verify)", file=sys.stderr)


@app.command()
def verify(
    results: Results = Path("results"),
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Add sound files that the manifest lacks to it.")
    ] = False,
) -> None:
    """Check that results are as they were written.

    Checks files, rows and keys, and names every file that is damaged, changed or unknown. Such
    files are never read, and their runs count as missing. Exit code 1 if there is any. No file is
    changed.

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


@app.command()
def pack(results: Results = Path("results")) -> None:
    """Merge small result files into a few large ones, for speed.

    `aba run` does this by itself when there are more than 256. Use this command for folders that
    were put together by copying. The results stay the same. Files that are damaged, unknown or
    already large are left as they are.

    \b
    Examples:
      aba pack --results results-all
    """
    from analysis.results import ResultsError
    from analysis.store import packs
    from analysis.store.leases import Leases

    if not results.is_dir():
        raise ResultsError(f"{results} is {'no folder' if results.exists() else 'not there'}")
    with Leases(results) as leases:
        packed = packs.pack(results, leases)
    print(f"{packed.files} files merged into {len(packed.packs)}, in {results}/")
