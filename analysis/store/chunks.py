"""Chunk files: rows that are written once, and read only where every check agrees.

    results/runs/<chunk>.parquet        finished runs, one row a run
    results/frozen/<chunk>.parquet      frozen evaluations, many rows a run
    results/mechanism/<chunk>.parquet   measured on the way, one row a run and step

A file is read where its hash is in the manifest and its rows are what rows may be. Any other is
named and left alone; its runs count as missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.store import files, rows
from analysis.store.files import ResultsError

KINDS = ("runs", "frozen", "mechanism")
# What two computations of one run may differ in.
_OF_THE_OCCASION = frozenset(
    "study arm seconds finished_at hypotheses chunk commit toolkit torch python device "
    "_file".split()
)


@dataclass(frozen=True)
class Problem:
    """A file that is not read, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def write_chunk(results: Path, kind: str, name: str, content: Sequence[Mapping[str, Any]]) -> Path:
    """One finished chunk of rows as results/<kind>/<name>.parquet; a sound file is kept.

    The columns are those of all rows together; a row that lacks one has nothing there. Raises
    ResultsError for rows that could not be read again.
    """
    path = Path(results) / kind / f"{name}.parquet"
    if path.exists() and not isinstance(checked(path, files.read_manifest(results)), Problem):
        return path
    columns = dict.fromkeys(column for row in content for column in row)
    table = pa.table({column: [row.get(column) for row in content] for column in columns})
    table = table.replace_schema_metadata(rows.metadata())
    wrong = rows.problem(table, kind)
    if wrong:
        raise ResultsError(f"rows of chunk {name} cannot be kept: {wrong}")
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return files.publish(results, f"{kind}/{path.name}", sink.getvalue().to_pybytes())


# {file: (its stamp, its hash, what is wrong with its rows)}: hashed once by a process.
_known: dict[Path, tuple[tuple[int, int, int], str, str]] = {}


def checked(path: Path, manifest: files.Manifest) -> pa.Table | Problem:
    """The rows of a file, or why they are not read."""
    try:
        now = files.stamp(path)
        known = _known.get(path)
        if known and known[0] == now:
            table = None
        else:
            content = path.read_bytes()
            table, wrong = _table(pa.BufferReader(content), path.parent.name)
            _known[path] = known = now, files.digest(content), wrong
        _, sha, wrong = known
        # Damage first: a file that is no table at all is no foreign one.
        wrong = manifest.problem(f"{path.parent.name}/{path.name}", sha) or wrong
        if wrong:
            return Problem(path, wrong)
        return pq.read_table(path) if table is None else table
    except (pa.ArrowException, OSError, ValueError) as error:
        return Problem(path, f"cannot be read: {' '.join(str(error).split())[:200]}")


def _table(source: pa.BufferReader, kind: str) -> tuple[pa.Table | None, str]:
    """The rows of a file and what is wrong with them."""
    try:
        table = pq.read_table(source)
        table.validate(full=True)
        return table, rows.problem(table, kind)
    except (pa.ArrowException, OSError, ValueError) as error:
        return None, f"is no table of rows: {' '.join(str(error).split())[:200]}"


def check_listed(results: Path) -> None:
    """Raises ResultsError for a folder from before there were manifests: none of its runs counts,
    and nobody wants to repeat them all."""
    unlisted = [kind for kind in KINDS if files.names(Path(results) / kind, ".parquet")]
    if unlisted and not files.names(Path(results) / "manifest", ".sha256"):
        raise ResultsError(
            f"{results} has results and no manifest, as an older version wrote it; if they are "
            f"yours, take them in with: aba verify --adopt --results {results}"
        )


def read_rows(results: Path, kind: str) -> tuple[pd.DataFrame, list[Path]]:
    """All rows of a kind ("runs", "frozen", "mechanism"), and the files passed over."""
    frame, problems = examine_rows(results, kind)
    return frame, sorted({problem.path for problem in problems})


def examine_rows(results: Path, kind: str) -> tuple[pd.DataFrame, list[Problem]]:
    """All rows of a kind, and the files passed over with the reasons."""
    folder = Path(results) / kind
    manifest = files.read_manifest(results)
    frames, problems = [], []
    for name in files.names(folder, ".parquet"):
        table = checked(folder / name, manifest)
        if isinstance(table, Problem):
            problems.append(table)
        else:
            frames.append(table.to_pandas().assign(_file=name))
    if not frames:
        return pd.DataFrame({"key": pd.Series(dtype=str)}), problems
    together = pd.concat(frames, ignore_index=True)
    # A chunk has the same numbers wherever it is computed: one of its files is not what it says. In
    # different chunks the same run may differ in its last bits, and by and by in more.
    shadowing = differing(together, ["key", "chunk"])
    for key, names in shadowing.items():
        reason = f"run {key} has other numbers in {' and '.join(sorted(names))}; move one away"
        problems += [Problem(folder / name, reason) for name in sorted(names)]
    together = together[~together["key"].isin(list(shadowing))]
    # A run that two studies computed at the same time stands in two chunks: the first one counts.
    by_key = together.groupby("key", sort=False)
    first = (together["chunk"] == by_key["chunk"].transform("first")) & (
        together["_file"] == by_key["_file"].transform("first")
    )
    return together[first].drop(columns="_file").reset_index(drop=True), problems


def differing(together: pd.DataFrame, alike: list[str]) -> dict[str, set[str]]:
    """{key: files} of runs that have different numbers in several files, of those rows that agree
    in the columns `alike`. together: rows with the file of each as _file."""
    of_key = together[[*alike, "_file"]].drop_duplicates()
    repeated = of_key[of_key.duplicated(alike, keep=False)]
    compared = [name for name in together.columns if name not in _OF_THE_OCCASION]
    candidates = together[together["key"].isin(repeated["key"])]
    different: dict[str, set[str]] = {}
    for _, group in candidates.groupby(alike, sort=False):
        parts = [part[compared].reset_index(drop=True) for _, part in group.groupby("_file")]
        if not all(part.equals(parts[0]) for part in parts[1:]):
            different.setdefault(str(group["key"].iloc[0]), set()).update(group["_file"])
    return different


def sound_rows(path: Path) -> pd.DataFrame | str:
    """The rows of a file that no manifest lists, or what is wrong with them."""
    table, wrong = _table(pa.BufferReader(path.read_bytes()), path.parent.name)
    return wrong if table is None or wrong else table.to_pandas().assign(_file=path.name)
