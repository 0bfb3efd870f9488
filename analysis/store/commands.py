"""Commands on a results folder as a whole, of the command line (`cli`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pack(
    results: Annotated[Path, typer.Option(help="Folder that results are kept in.")] = Path(
        "results"
    ),
) -> None:
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
