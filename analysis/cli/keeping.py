"""Results folders: how far studies are, whether files are sound, fewer and larger files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from analysis import terminal
from analysis.cli.options import Results, app


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


@app.command()
def pack(results: Results = Path("results")) -> None:
    """Merge small files of results into few, for speed.

    `aba run` does it by itself where there are more than 256 of them; this is for folders that
    were put together by copying. What is read stays the same. Files that are damaged, unknown or
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
