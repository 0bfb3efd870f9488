"""Chunk files: rows that are written once, and read only where every check agrees.

    results/runs/<chunk>.parquet        finished runs, one row a run
    results/frozen/<chunk>.parquet      frozen evaluations, many rows a run
    results/mechanism/<chunk>.parquet   measured on the way, one row a run and step
    results/<kind>/pack-<hash>.parquet  many of these in one (`packs`)

A file is read where its hash is in the manifest and its rows are what rows may be. Any other is
named and left alone; its runs count as missing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from analysis.store import files, index, rows
from analysis.store.files import ResultsError
from analysis.store.index import MovedOn, Problem

KINDS = ("runs", "frozen", "mechanism")
# What two computations of one run may differ in.
_OF_THE_OCCASION = frozenset(
    "study arm seconds finished_at hypotheses chunk commit toolkit torch python device "
    "_file".split()
)
# Readers start over where files are merged under their hands: each time there are fewer of them.
_ATTEMPTS = 100
_AT_ONCE = 256


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
    return files.publish(results, f"{kind}/{path.name}", as_file(table))


def as_file(table: pa.Table) -> bytes:
    """Rows as a Parquet file, with a checksum of every page."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def checked(path: Path, manifest: files.Manifest) -> pa.Table | Problem:
    """The rows of a file, which is hashed for it, or why they are not read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Problem(path, f"cannot be read: {error.strerror}")
    table, wrong = rows.examined(content, path.parent.name)
    # Damage first: a file that is no table at all is no foreign one.
    wrong = manifest.problem(f"{path.parent.name}/{path.name}", files.digest(content)) or wrong
    return Problem(path, wrong) if wrong or table is None else table


def keys_in(results: Path, kind: str, name: str) -> set[str]:
    """Keys of the runs in one file, which is hashed for it; none where it is not sound, or gone."""
    try:
        content = (Path(results) / kind / name).read_bytes()
    except FileNotFoundError:
        return set()
    table, wrong = rows.examined(content, kind)
    listed = files.is_listed(results, f"{kind}/{name}", files.digest(content))
    return set() if wrong or table is None or not listed else set(table["key"].to_pylist())


def check_listed(results: Path) -> None:
    """Raises ResultsError for a folder from before there were manifests: none of its runs counts,
    and nobody wants to repeat them all."""
    unlisted = [kind for kind in KINDS if files.names(Path(results) / kind, ".parquet")]
    if unlisted and not files.names(Path(results) / "manifest", ".sha256"):
        raise ResultsError(
            f"{results} has results and no manifest, as an older version wrote it; if they are "
            f"yours, take them in with: aba verify --adopt --results {results}"
        )


def read_rows(
    results: Path, kind: str, keys: Collection[str] | None = None
) -> tuple[pd.DataFrame, list[Path]]:
    """Rows of a kind ("runs", "frozen", "mechanism"), and the files passed over.

    keys: of the runs whose rows are wanted, by default all; only their files are read."""
    frame, problems = examine_rows(results, kind, keys)
    return frame, sorted({problem.path for problem in problems})


def examine_rows(
    results: Path, kind: str, keys: Collection[str] | None = None, *, anew: bool = False
) -> tuple[pd.DataFrame, list[Problem]]:
    """Rows of a kind, and the files passed over with the reasons. anew: hash every file again."""
    for _ in range(_ATTEMPTS):
        try:
            scan = index.scan(results, kind, anew=anew)
            listed, problems = _chosen(results, kind, scan)
            runs = listed.once if keys is None else listed.those(keys)
            return _rows_of(Path(results) / kind, scan, runs, problems), problems
        except MovedOn:
            continue
    raise ResultsError(f"{results} is being changed all the time; try again when it is not")


def runs_in_short(results: Path, kind: str) -> tuple[pd.DataFrame, list[Path]]:
    """key, chunk, seed, status and seconds of every run of a kind, and the files passed over; of
    files that are known, none is read."""
    for _ in range(_ATTEMPTS):
        try:
            listed, problems = _chosen(results, kind, index.scan(results, kind))
            return listed.once.drop(columns="file"), sorted({problem.path for problem in problems})
        except MovedOn:
            continue
    raise ResultsError(f"{results} is being changed all the time; try again when it is not")


def computed_twice(results: Path, kind: str) -> dict[str, set[str]]:
    """{key: files} of runs with different numbers in different chunks."""
    scan = index.scan(results, kind)
    runs = scan.listed.frame
    twice = runs[runs.duplicated("key", keep=False)]
    if twice.empty:
        return {}
    return differing(_rows_of(Path(results) / kind, scan, twice, [], with_files=True), ["key"])


def _chosen(results: Path, kind: str, scan: index.Scan) -> tuple[index.Listed, list[Problem]]:
    """The runs that are read, and the files passed over."""
    listed, problems = scan.listed, list(scan.problems)
    # A chunk has the same numbers wherever it is computed: one of its files is not what it says. In
    # different chunks the same run may differ in its last bits, and by and by in more.
    if len(listed.twice):
        folder = Path(results) / kind
        together = _rows_of(folder, scan, listed.twice, problems, with_files=True)
        shadowing = differing(together, ["key", "chunk"])
        for key, names in shadowing.items():
            reason = f"run {key} has other numbers in {' and '.join(sorted(names))}; move one away"
            problems += [Problem(folder / name, reason) for name in sorted(names)]
        listed = index.Listed(listed.frame[~listed.frame["key"].isin(list(shadowing))])
    return listed, problems


def _rows_of(
    folder: Path,
    scan: index.Scan,
    runs: pd.DataFrame,
    problems: list[Problem],
    with_files: bool = False,
) -> pd.DataFrame:
    """The rows of these runs, each of its file. Files that cannot be read are added to problems.

    Raises MovedOn where a file is no longer the one that was hashed."""
    tables = []
    for name, of_file in runs.groupby("file", sort=False):
        table = scan.tables.get(str(name))
        if table is None:
            try:
                table = _read(folder / str(name), scan.known[str(name)])
            except pa.ArrowException as error:
                reason = f"cannot be read: {' '.join(str(error).split())[:200]}"
                problems.append(Problem(folder / str(name), reason))
                continue
        keys = pa.array(of_file["key"].unique(), table["key"].type)
        table = table.filter(pc.is_in(table["key"], keys))
        if not with_files and pc.count_distinct(table["chunk"]).as_py() > 1:
            chunk_of = dict(zip(of_file["key"], of_file["chunk"], strict=True))
            wanted = [chunk_of[key] for key in table["key"].to_pylist()]
            table = table.filter(pc.equal(table["chunk"], pa.array(wanted, table["chunk"].type)))
        if with_files:
            table = table.append_column("_file", pa.array([name] * len(table), pa.string()))
        tables.append(table.replace_schema_metadata(None))
        if len(tables) == _AT_ONCE:  # many small tables take many times their rows' memory
            tables = [pa.concat_tables(tables, promote_options="permissive").combine_chunks()]
    if not tables:
        return pd.DataFrame({"key": pd.Series(dtype=str)})
    return pa.concat_tables(tables, promote_options="permissive").to_pandas()


def _read(path: Path, known: index.Known) -> pa.Table:
    """The rows of a file that was hashed before."""
    try:
        if files.stamp(path) == known.stamp:
            with pq.ParquetFile(path, page_checksum_verification=True) as source:
                return source.read(use_threads=False)
    except FileNotFoundError as error:
        raise MovedOn from error
    raise MovedOn


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
    table, wrong = rows.examined(path.read_bytes(), path.parent.name)
    return wrong if table is None or wrong else table.to_pandas().assign(_file=path.name)
