"""Packs: chunk files merged into few, so that a folder of a hundred thousand runs reads at once.

    results/<kind>/pack-<hash>.parquet     the rows of up to MEMBERS chunk files of the same columns

The name holds the hash of the content, so a pack is known by its name. Its metadata list the files
that it holds, with their hashes. The steps, each of which may be the last:

1. every chunk file is hashed again and its rows are checked: damage is not packed;
2. the pack is made, read back from its bytes and compared with the rows that went in;
3. it gets its name, whole and on disk, and then its line in the manifest;
4. each chunk file goes, and then its line: never before the pack is there to be read.

A kill in between leaves rows twice at most, which readers count once and the next packing drops.
Only the holder of the lease "pack" packs; two at once would lose nothing either.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from analysis.store import files, rows
from analysis.store.chunks import KINDS, as_file, checked
from analysis.store.files import ResultsError
from analysis.store.index import Problem
from analysis.store.leases import Leases

# A run packs when it ends where there are more chunk files of a kind than this.
LOOSE = 256
MEMBERS, _BYTES = 1024, 64 << 20
_LEASE = "pack"


@dataclass(frozen=True)
class Packed:
    """files: chunk files that are merged now. packs: what they are merged into."""

    files: int
    packs: tuple[Path, ...]


@dataclass(frozen=True)
class _Loose:
    """A chunk file that is sound, as it was when it was hashed."""

    path: Path
    stamp: files.Stamp
    sha: str
    table: pa.Table


def pack(results: Path, leases: Leases, more_than: int = 0) -> Packed:
    """Merge the chunk files of every kind of which there are more than so many.

    Raises ResultsError where another process is packing.
    """
    kinds = [kind for kind in KINDS if len(_loose_names(Path(results) / kind)) > more_than]
    if not kinds:
        return Packed(0, ())
    if not leases.claim(_LEASE):
        raise ResultsError(f"{results} is being packed by {leases.holder(_LEASE) or 'another'}")
    number, packs = 0, []
    try:
        # Measurements first: a run that is there then has its own.
        for kind in sorted(kinds, key=lambda kind: kind != "mechanism"):
            for members in _alike(results, kind):
                packs.append(_pack(Path(results), kind, members))
                number += len(members)
    finally:
        leases.release(_LEASE)
    return Packed(number, tuple(packs))


def pack_when_many(results: Path, leases: Leases) -> None:
    """Pack at the end of a run, where there are many files and nobody else is packing."""
    try:
        pack(results, leases, LOOSE)
    except ResultsError as error:
        print(f"not packed: {error}", file=sys.stderr)


def is_pack(name: str) -> bool:
    """Whether a file is called as packs are."""
    return name.startswith("pack-")


def members_of(path: Path) -> dict[str, str]:
    """{name: SHA-256} of the files that a pack holds."""
    try:
        said = (pq.read_schema(path).metadata or {}).get(b"members", b"{}")
        return dict(json.loads(said))
    except (OSError, ValueError, TypeError, pa.ArrowException):
        return {}


def _loose_names(folder: Path) -> list[str]:
    return [name for name in files.names(folder, ".parquet") if not is_pack(name)]


def _alike(results: Path, kind: str) -> Iterator[list[_Loose]]:
    """Sound chunk files with the same columns, which lack the same values: what rows may say is
    then the same of all of them together. Tables of many chunks stay as they are."""
    groups: dict[object, list[_Loose]] = {}
    sizes: dict[object, int] = {}
    manifest = files.read_manifest(results)
    packed = _in_sound_packs(Path(results) / kind, manifest)
    for name in _loose_names(Path(results) / kind):
        one = _loose(Path(results) / kind / name, manifest)
        if one is None:
            continue
        if packed.get(name) == one.sha:  # a packing was killed, or the file copied back
            _drop(results, one)
            continue
        alike = (str(one.table.schema.remove_metadata()), _empty(one.table))
        group = groups.setdefault(alike, [])
        group.append(one)
        sizes[alike] = sizes.get(alike, 0) + one.stamp[0]
        if len(group) == MEMBERS or sizes[alike] > _BYTES:
            yield group[:]
            group.clear()
            sizes[alike] = 0
    yield from (members for members in groups.values() if len(members) > 1)


def _empty(table: pa.Table) -> tuple[bool, ...]:
    """Of each column, whether it has no value at all."""
    return tuple(
        column.null_count == len(column)
        or (pa.types.is_floating(column.type) and pc.all(pc.is_nan(column)).as_py() is True)
        for column in table.columns
    )


def _loose(path: Path, manifest: files.Manifest) -> _Loose | None:
    """A chunk file, hashed and checked; None for one that is not sound, or has several chunks."""
    try:
        stamp = files.stamp(path)
        content = path.read_bytes()
    except OSError:
        return None
    sha = files.digest(content)
    table, wrong = rows.examined(content, path.parent.name)
    if table is None or wrong or manifest.problem(f"{path.parent.name}/{path.name}", sha):
        return None
    if set(table["chunk"].to_pylist()) != {path.stem}:
        return None
    return _Loose(path, stamp, sha, table)


def _in_sound_packs(folder: Path, manifest: files.Manifest) -> dict[str, str]:
    """{name: SHA-256} of the files there that a pack already holds; the pack is hashed for it."""
    loose = set(_loose_names(folder))
    held: dict[str, str] = {}
    for name in files.names(folder, ".parquet"):
        members = members_of(folder / name) if is_pack(name) else {}
        if loose & set(members) and not isinstance(checked(folder / name, manifest), Problem):
            held |= members
    return held


def _pack(results: Path, kind: str, members: Sequence[_Loose]) -> Path:
    """Merge files into one, which replaces them."""
    together = pa.concat_tables([one.table.replace_schema_metadata(None) for one in members])
    wrong = rows.problem(together.replace_schema_metadata(rows.metadata()), kind)
    listed = json.dumps({one.path.name: one.sha for one in members})
    content = as_file(together.replace_schema_metadata({**rows.metadata(), "members": listed}))
    again = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    if wrong or not again.to_pandas().equals(together.to_pandas()):
        raise ResultsError(
            f"{len(members)} files of {results / kind} do not merge "
            f"({wrong or 'other rows came back'}); nothing was changed, they are read as they are"
        )
    name = f"{kind}/pack-{files.digest(content)[:32]}.parquet"
    path = files.publish(results, name, content, line_first=False)
    for one in members:
        _drop(results, one)
    return path


def _drop(results: Path, one: _Loose) -> None:
    """Remove a file that a pack holds, and its line; but one that was written anew since."""
    try:
        if files.stamp(one.path) != one.stamp:
            return
    except FileNotFoundError:
        pass
    one.path.unlink(missing_ok=True)
    files.strike(results, f"{one.path.parent.name}/{one.path.name}", one.sha)
