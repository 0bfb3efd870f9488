"""Where the files of data sets come from: mirror, cache or official source; and their hashes.

Files are looked for in the mirror (`ABA_DATA_MIRROR`), then in the cache (`ABA_DATA_CACHE`; by
default data/cache of the checkout, ~/.cache/aba without one), then downloaded from the official
source into the cache. Every file is checked against a known hash before it is parsed; nothing
unchecked is kept.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from aba_core.installation import CHECKOUT

REPLACE = "remove it or replace it by the official file"
# More than any file of the data sets holds (CIFAR-10: 186 MB): what unpacks to more is a bomb.
MOST_UNPACKED = 2**29


class DatasetError(ValueError):
    """A dataset cannot be had as asked: unknown name, missing or damaged file, no network."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a dataset: its path in mirror and cache, accepted hashes, official address."""

    path: str
    hashes: tuple[str, ...]  # "md5:..." or "sha256:..."; the first is the official file's
    url: str
    megabytes: float


@dataclass(frozen=True)
class Places:
    """Folders that hold dataset files, both laid out alike (data/README.md)."""

    cache: Path
    mirror: Path | None

    def roots(self) -> list[tuple[str, Path]]:
        return [*([("mirror", self.mirror)] if self.mirror else []), ("cache", self.cache)]


def data_places(cache: str | Path | None, mirror: str | Path | None) -> Places:
    """The folders given, or else those that the environment names."""
    cache = cache or os.environ.get("ABA_DATA_CACHE") or _default_cache()
    mirror = mirror or os.environ.get("ABA_DATA_MIRROR") or None
    return Places(Path(cache).expanduser(), Path(mirror).expanduser() if mirror else None)


def _default_cache() -> Path:
    return CHECKOUT / "data" / "cache" if CHECKOUT else Path("~/.cache/aba")


def find_file(path: str, places: Places) -> tuple[str, Path]:
    """(place, path) of the file in mirror or cache; place is "" where it is in neither."""
    for place, root in places.roots():
        if (root / path).is_file():
            return place, root / path
    return "", Path(path)


def fetch(file: SourceFile, places: Places) -> tuple[str, Path]:
    """(place, path) of the file, downloaded where it is in neither mirror nor cache."""
    place, path = find_file(file.path, places)
    return (place, path) if place else ("cache", download(file, places))


def download(file: SourceFile, places: Places) -> Path:
    """Download into the cache. pooch checks the hash before the file gets its name."""
    import pooch

    target = places.cache / file.path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(
            f"cannot write to the cache {places.cache}: {error}; set ABA_DATA_CACHE"
        ) from error
    elsewhere = f"set ABA_DATA_MIRROR to a folder that holds {file.path}"
    if places.mirror and not places.mirror.is_dir():
        elsewhere = f"ABA_DATA_MIRROR names {places.mirror}, which is no folder: correct it"
    try:
        pooch.retrieve(
            url=file.url,
            known_hash=file.hashes[0],
            fname=target.name,
            path=target.parent,
            downloader=pooch.HTTPDownloader(timeout=30),
        )
    except ValueError as error:  # pooch's word for a wrong hash; it has removed the file
        raise DatasetError(f"download of {file.url} is refused: {error} Or {elsewhere}") from error
    except OSError as error:  # requests' errors are OSErrors
        raise DatasetError(f"cannot download {file.url} ({error}); {elsewhere}") from error
    return target


def read_bytes(path: Path) -> bytes:
    """Content of a file that has still to be checked."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error}") from error


def read_checked(path: Path, hashes: tuple[str, ...]) -> bytes:
    """Content of a file that has one of the hashes."""
    content = read_bytes(path)
    check_hash(content, hashes, path)
    return content


def check_hash(content: bytes, hashes: tuple[str, ...], path: Path) -> None:
    """Raise DatasetError unless the content has one of the hashes."""
    kind = hashes[0].partition(":")[0]
    digest = f"{kind}:{hashlib.new(kind, content, usedforsecurity=False).hexdigest()}"
    if digest not in hashes:
        raise wrong_hash(path, hashes, digest)


def wrong_hash(path: Path, hashes: tuple[str, ...], digest: str) -> DatasetError:
    """The error to raise where a file has none of its hashes."""
    return DatasetError(f"{path} has {digest}, expected {' or '.join(hashes)}; {REPLACE}")


def unzip(content: bytes, path: Path, expected: str) -> bytes:
    """Unpack gzip; `path` and the hash `expected` are for the error. More than any file of the data
    sets holds is refused, and not unpacked."""
    try:
        with gzip.open(io.BytesIO(content)) as file:
            unpacked = file.read(MOST_UNPACKED + 1)
        if len(unpacked) > MOST_UNPACKED:
            raise OSError(f"it unpacks to more than {MOST_UNPACKED} bytes")
        return unpacked
    except (OSError, EOFError, zlib.error) as error:
        digest = f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}"
        raise DatasetError(
            f"{path} is damaged ({error}): it has {digest}, expected {expected}; {REPLACE}"
        ) from error


def tar_files(content: bytes, path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Names and contents of a gzipped tar's files, read in place; nothing is written out.

    Names that leave the archive's folder, links and devices are refused: none belongs there.
    """
    try:
        unpacked = 0
        with tarfile.open(fileobj=io.BytesIO(content), mode="r|gz") as tar:
            for member in tar:
                unpacked += max(0, member.size)
                if unpacked > MOST_UNPACKED:
                    raise OSError(f"it unpacks to more than {MOST_UNPACKED} bytes")
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or "\\" in member.name:
                    raise DatasetError(f"{path} is refused: its member {member.name!r} leaves it")
                if member.isdir():
                    continue
                plain = tar.extractfile(member) if member.isfile() else None
                if plain is None:
                    raise DatasetError(
                        f"{path} is refused: its member {member.name!r} is no plain file"
                    )
                yield name, plain.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DatasetError(f"{path} is damaged: {error}; {REPLACE}") from error


def short_hash(*parts: object) -> str:
    """80 bits of a hash over all parts, for the name of a cached file."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:20]


def cached(name: str, build: Callable[[], dict[str, Any]], places: Places) -> dict[str, np.ndarray]:
    """Arrays of `build()`, kept in the cache under a name that holds the hash of their making.

    A damaged file is made anew: it holds nothing that cannot be. Where the cache cannot be
    written, the arrays are made each time.
    """
    path = places.cache / f"{name}.npz"
    if path.is_file():
        with suppress(OSError, ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile):
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return {key: stored[key] for key in stored.files}
    arrays = build()
    temporary = path.with_name(f".{name}.{uuid.uuid4().hex}.tmp")
    with suppress(OSError):
        try:
            places.cache.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as stream:
                np.savez_compressed(stream, **arrays)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return arrays
