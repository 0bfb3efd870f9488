"""The index: which runs stand in which file, so that a large folder need not be read to know.

    results/index/<kind>.index     the SHA-256 of what follows, then a Parquet table of runs

The files are the truth. The index is a cache: it can be deleted at any time, is never trusted where
its own hash is wrong, and what it says of a file holds as long as the file's size, time and inode
are those that were seen when the file was hashed. A file that is written anew has others; a disk
that loses bits under the same stamp is noticed by the checksum of each page when rows are read, and
by `aba verify`, which hashes every file again and asks no index.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from analysis.store import files, rows

# Below this an index saves nothing that is felt.
_FROM_FILES = 64
# A file may change within one tick of a clock and keep its stamp: what is younger is hashed again.
_SETTLED_NS = 2_000_000_000
# Of freshly read files, kept in memory so that they are not read twice.
_KEPT_BYTES = 32 << 20
RUN = pa.schema(
    [("key", pa.string()), ("chunk", pa.string()), ("seed", pa.int64())]
    + [("status", pa.string()), ("seconds", pa.float64())]
)
_STORED = pa.schema([("file", pa.int32()), *RUN])


@dataclass(frozen=True)
class Problem:
    """A file that is not read, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class MovedOn(Exception):
    """A file was merged into a pack, or replaced, while we looked: look again."""


@dataclass(frozen=True)
class Known:
    """A file as it was when it was hashed. wrong: what is wrong with its rows, or nothing."""

    stamp: files.Stamp
    sha: str
    wrong: str


@dataclass
class _Kind:
    """What is known of a folder of chunk files. runs: _STORED; numbers: the file of each row. A
    file that has changed gets a new number, and rows of the old one are nobody's."""

    files: dict[str, Known] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    runs: list[pa.Table] = field(default_factory=lambda: [_STORED.empty_table()])
    last: int = 0
    unsaved: int = 0
    listed: tuple[Mapping[int, str], Listed] | None = None  # of the files that were sound last


@dataclass(frozen=True)
class Listed:
    """The runs of sound files, and what is asked of them again and again.

    frame: key, chunk, seed, status, seconds and file of every run, in the order of files.
    """

    frame: pd.DataFrame

    @cached_property
    def twice(self) -> pd.DataFrame:
        """Runs of one chunk that stand in several files."""
        return self.frame[self.frame.duplicated(["key", "chunk"], keep=False)]

    @cached_property
    def once(self) -> pd.DataFrame:
        """Every run once. Where two studies computed it at the same time, it stands in two chunks:
        the first one counts."""
        ordered = self.frame.sort_values("chunk", kind="stable")
        return ordered.drop_duplicates("key").sort_index()

    def those(self, keys: Collection[str]) -> pd.DataFrame:
        """The runs of these keys, once each and in the order of files."""
        places = self._by_key.get_indexer(pd.Index(list(keys), dtype=object))
        return self.once.iloc[np.unique(places[places >= 0])]

    @cached_property
    def _by_key(self) -> pd.Index:
        return pd.Index(self.once["key"].to_numpy(object), dtype=object)


@dataclass(frozen=True)
class Scan:
    """What a folder has. listed: the runs of sound files. problems: the other files. tables: those
    just read."""

    listed: Listed
    problems: list[Problem]
    known: Mapping[str, Known]
    tables: Mapping[str, pa.Table]


_kinds: dict[Path, _Kind] = {}


def scan(results: Path, kind: str, *, anew: bool = False) -> Scan:
    """The runs of a kind ("runs", "frozen", "mechanism"). anew: hash every file again.

    Raises MovedOn where a file has gone since it was listed."""
    folder = Path(results) / kind
    state = _kinds.get(folder)
    if state is None or anew:
        state = _kinds[folder] = _Kind() if anew else _loaded(results, kind)
    present = files.stamps(folder, ".parquet")
    tables: dict[str, pa.Table] = {}
    room = _KEPT_BYTES
    for name, stamp in present.items():
        known = state.files.get(name)
        if known is None or known.stamp != stamp:
            table = _take_in(state, folder / name)
            if table is not None and table.nbytes < room:
                tables[name], room = table, room - table.nbytes
    manifest = files.read_manifest(results) if present else files.Manifest({})
    problems, sound = [], {}
    for name in present:
        known = state.files.get(name)
        if known is None:
            raise MovedOn
        wrong = manifest.problem(f"{kind}/{name}", known.sha) or known.wrong
        if wrong and not (folder / name).exists():
            raise MovedOn
        if wrong:
            problems.append(Problem(folder / name, wrong))
        else:
            sound[state.numbers[name]] = name
    _save(results, kind, state, present)
    return Scan(_listed(state, sound), problems, state.files, tables)


def _take_in(state: _Kind, path: Path) -> pa.Table | None:
    """Hash a file and check its rows; these, where nothing is wrong."""
    state.files.pop(path.name, None)
    try:
        stamp = files.stamp(path)
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        state.files[path.name] = Known((0, 0, 0), "", f"cannot be read: {error.strerror}")
        return None
    table, wrong = rows.examined(content, path.parent.name)
    state.files[path.name] = Known(stamp, files.digest(content), wrong)
    state.unsaved += 1
    if table is None or wrong:
        return None
    state.last += 1
    state.numbers[path.name] = state.last
    runs = _in_short(table)
    numbers = pa.array([state.last] * len(runs), pa.int32())
    state.runs.append(runs.add_column(0, _STORED.field(0), numbers))
    return table


def _in_short(table: pa.Table) -> pa.Table:
    """The runs of a file, each once: RUN."""
    columns = {}
    for column in RUN:
        if column.name in table.column_names:
            columns[column.name] = table[column.name].cast(column.type)
        else:
            columns[column.name] = pa.nulls(len(table), column.type)
    short = pa.table(columns, schema=RUN)
    if pc.count_distinct(short["key"]).as_py() == len(short):
        return short
    first = short.to_pandas().drop_duplicates(["key", "chunk"])
    return pa.Table.from_pandas(first, RUN, preserve_index=False)


def _listed(state: _Kind, sound: Mapping[int, str]) -> Listed:
    """The runs of these files, {number: name}: those of a number never change."""
    if state.listed is None or list(state.listed[0].items()) != list(sound.items()):
        state.listed = sound, Listed(_runs_of(state, sound))
    return state.listed[1]


def _runs_of(state: _Kind, sound: Mapping[int, str]) -> pd.DataFrame:
    """The runs of these files in the order of files."""
    together = pa.concat_tables(state.runs).combine_chunks()
    state.runs = [together]
    frame = together.to_pandas()
    frame = frame[frame["file"].isin(list(sound))]
    places = {number: place for place, number in enumerate(sound)}
    frame = frame.iloc[frame["file"].map(places).argsort(kind="stable")]
    return frame.assign(file=frame["file"].map(sound)).reset_index(drop=True)


# --- the file ------------------------------------------------------------------------------------


@cache
def _rules() -> str:
    """What rows may say is decided by this code: an index made by another one says nothing."""
    return files.digest(b"".join(Path(str(m)).read_bytes() for m in (rows.__file__, __file__)))


def _path(results: Path, kind: str) -> Path:
    return Path(results) / "index" / f"{kind}.index"


def _loaded(results: Path, kind: str) -> _Kind:
    """What an index says; nothing where there is none, or it is damaged or of other code."""
    try:
        content = _path(results, kind).read_bytes()
        if content[:64].decode() != files.digest(content[64:]):
            return _Kind()
        stored = pq.read_table(pa.BufferReader(content[64:]))
        said = json.loads(stored.schema.metadata[b"files"])
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return _Kind()
    if said["rules"] != _rules():
        return _Kind()
    state = _Kind(runs=[stored.replace_schema_metadata(None).cast(_STORED)])
    for number, (name, size, time_ns, inode, sha, wrong) in enumerate(said["files"]):
        state.files[name] = Known((size, time_ns, inode), sha, wrong)
        state.numbers[name] = number
    state.last = len(said["files"])
    return state


def _save(results: Path, kind: str, state: _Kind, present: Mapping[str, object]) -> None:
    """Write the index where it is worth it. A folder that cannot be written to goes without."""
    worth = len(present) >= _FROM_FILES and state.unsaved >= max(
        _FROM_FILES // 2, len(present) // 99
    )
    if not worth:
        return
    path = _path(results, kind)
    try:
        path.parent.mkdir(exist_ok=True)
        descriptor, staged = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=files.PART)
    except OSError:
        return
    try:
        with os.fdopen(descriptor, "wb") as file:
            now = os.fstat(descriptor).st_mtime_ns  # by the clock of the file system
            file.write(_content(state, present, now - _SETTLED_NS))
        os.replace(staged, path)
        state.unsaved = 0
    except OSError:
        Path(staged).unlink(missing_ok=True)
    except BaseException:
        Path(staged).unlink(missing_ok=True)
        raise


def _content(state: _Kind, present: Mapping[str, object], settled: int) -> bytes:
    """settled: files of a later time are left out."""
    kept = [
        (name, known)
        for name, known in state.files.items()
        if name in present and 0 < known.stamp[1] < settled
    ]
    places = {state.numbers[name]: n for n, (name, _) in enumerate(kept) if name in state.numbers}
    runs = pa.concat_tables(state.runs).combine_chunks()
    runs = runs.filter(pc.is_in(runs["file"], pa.array(list(places), pa.int32())))
    renumbered = pa.array([places[number] for number in runs["file"].to_pylist()], pa.int32())
    said = {
        "rules": _rules(),
        "files": [(name, *known.stamp, known.sha, known.wrong) for name, known in kept],
    }
    table = runs.set_column(0, _STORED.field(0), renumbered)
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({"files": json.dumps(said)}), sink)
    content = sink.getvalue().to_pybytes()
    return files.digest(content).encode() + content
