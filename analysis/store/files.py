"""Files of a results folder: written once and whole, each with its SHA-256 in the manifest.

    results/manifest/<hash>.sha256     lines "<SHA-256>  <path>", as `sha256sum` writes them

A manifest file is never changed: every file that is written brings its own, whose name is the hash
of what it says. So writers cannot lose one another's lines, and a changed manifest shows. A path
may have several hashes, where two writers computed the same chunk at once.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from stat import S_ISREG

# The folders whose files are results, and what these are called.
FOLDERS = {
    "studies": ".json",
    "runs": ".parquet",
    "frozen": ".parquet",
    "mechanism": ".parquet",
}
_LINE = re.compile(rf"([0-9a-f]{{64}})  ((?:{'|'.join(FOLDERS)})/[^/\\\0]+)")
PART = ".part"
# Files that are known by their names, which hold the start of their hash: events, packs.
_NAMED = re.compile(r"studies/.+\.([0-9a-f]{16})\.json|[a-z]+/pack-([0-9a-f]{32})\.parquet")
# A writer needs seconds: what is older was left by one that was killed.
_LEFT_BEHIND = 3600.0


class ResultsError(ValueError):
    """Results that are not there or cannot be read; one line saying what to do."""


def names(folder: Path, suffix: str) -> list[str]:
    """Names of the finished files in a folder, sorted; none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            present = [entry.name for entry in entries]
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        file = folder if folder.exists() else folder.parent
        raise ResultsError(f"{file} is a file; needed: a folder of results") from error
    return sorted(name for name in present if name.endswith(suffix) and not name.startswith("."))


Stamp = tuple[int, int, int]


def stamp(path: Path | os.DirEntry[str]) -> Stamp:
    """What changes when a file does, so that it is read again: size, time, inode.

    Raises OSError for what is no file, as a device without end that a link leads to.
    """
    status = path.stat()
    if not S_ISREG(status.st_mode):
        raise OSError(f"{path.name} is no regular file")
    return status.st_size, status.st_mtime_ns, status.st_ino


def stamps(folder: Path, suffix: str) -> dict[str, Stamp]:
    """The finished files in a folder, by name, each with its stamp."""
    finished = set(names(folder, suffix))
    found = {}
    if finished:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in finished:
                    with suppress(FileNotFoundError):  # gone since
                        found[entry.name] = stamp(entry)
    return dict(sorted(found.items()))


def digest(content: bytes) -> str:
    """SHA-256 as hexadecimal digits."""
    return sha256(content).hexdigest()


def names_its_content(path: str, sha: str) -> bool:
    """Whether a file is known by its name: such a file is what it was, in the manifest or not."""
    named = _NAMED.fullmatch(path)
    return named is not None and sha.startswith(named[1] or named[2])


# --- writing -------------------------------------------------------------------------------------


def publish(results: Path, path: str, content: bytes, *, line_first: bool = True) -> Path:
    """Write a file of a results folder and its line in the manifest.

    path: relative, as "runs/3f.parquet". Both are on disk before either has its name. The line
    comes first, so that no reader meets a file that is not in the manifest, and a file that a
    killed writer did not come to is written by the next; or last, for a file that is known by its
    name and written once.
    """
    target = Path(results) / path
    staged = [_stage(target, content)]
    try:
        line = f"{digest(content)}  {path}\n".encode()
        entry = _manifest_file(Path(results), line)
        staged.append(_stage(entry, line))
        if line_first:
            move(staged[1], entry)
        _set_aside(target, content)
        move(staged[0], target)
        if not line_first:
            move(staged[1], entry)
    except BaseException:
        for part in staged:
            part.unlink(missing_ok=True)
        raise
    return target


def enlist(results: Path, contents: Mapping[str, bytes]) -> Path:
    """Take files that are there into the manifest, all in one manifest file."""
    lines = "".join(f"{digest(content)}  {path}\n" for path, content in sorted(contents.items()))
    entry = _manifest_file(Path(results), lines.encode())
    move(_stage(entry, lines.encode()), entry)
    return entry


def strike(results: Path, path: str, sha: str) -> None:
    """Remove the manifest file of a file that is no longer needed; a list of several stays."""
    line = f"{sha}  {path}\n".encode()
    _manifest_file(Path(results), line).unlink(missing_ok=True)


def _complete(results: Path) -> None:
    """Give their lines to files that are known by their names, where a writer was killed between
    the two."""
    unlisted = {}
    listed = read_manifest(results).hashes
    for folder, suffix in FOLDERS.items():
        for name in names(Path(results) / folder, suffix):
            path = f"{folder}/{name}"
            if path in listed or not _NAMED.fullmatch(path):
                continue
            content = (Path(results) / path).read_bytes()
            if names_its_content(path, digest(content)):
                unlisted[path] = content
    if unlisted:
        enlist(results, unlisted)


def _manifest_file(results: Path, lines: bytes) -> Path:
    return results / "manifest" / f"{digest(lines)[:32]}.sha256"


def _stage(path: Path, content: bytes) -> Path:
    """The content under a temporary name beside its place, safe from a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=PART)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def move(staged: Path, path: Path) -> None:
    """Give a staged file its name: the whole file at once, also across a power cut."""
    os.replace(staged, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _set_aside(path: Path, content: bytes) -> None:
    """Nothing is overwritten: another file of that name keeps its content under another name."""
    try:
        present = path.read_bytes()
    except FileNotFoundError:
        return
    if present != content:
        os.replace(path, path.with_name(f"{path.name}.{digest(present)[:12]}.aside"))


def sweep(results: Path) -> None:
    """Remove what writers that were killed left behind, and finish what they had all but done."""
    _complete(results)
    now = time.time()
    for folder in ("manifest", "index", *FOLDERS):
        for path in (Path(results) / folder).glob(f".*{PART}"):
            try:
                if now - path.stat().st_mtime > _LEFT_BEHIND:
                    path.unlink()
            except OSError:  # another runner was faster, or the folder is not ours to change
                continue


# --- the manifest --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Manifest:
    """hashes: {path: the SHA-256 it may have}. damaged: manifest files that are not as written."""

    hashes: Mapping[str, frozenset[str]]
    damaged: tuple[Path, ...] = ()

    def problem(self, path: str, sha: str) -> str:
        """What is wrong with a file of that hash at that path; empty where nothing is."""
        expected = self.hashes.get(path)
        if expected is None:
            return "" if names_its_content(path, sha) else "is not in the manifest"
        return "" if sha in expected else "has changed since it was written"


# {folder: {manifest file: (its stamp, its lines)}}: they are never rewritten.
_read: dict[Path, dict[str, tuple[Stamp, tuple[tuple[str, str], ...]]]] = {}


def read_manifest(results: Path) -> Manifest:
    """The lines of all manifest files of a results folder."""
    folder = Path(results) / "manifest"
    known = _read.setdefault(folder, {})
    hashes: dict[str, frozenset[str]] = {}
    damaged = []
    for name, now in stamps(folder, ".sha256").items():
        if name not in known or known[name][0] != now:
            known[name] = now, _lines(folder / name)
        lines = known[name][1]
        if not lines and (folder / name).exists():  # not struck while we looked
            damaged.append(folder / name)
        for sha, path in lines:
            hashes[path] = hashes.get(path, frozenset()) | {sha}
    return Manifest(hashes, tuple(damaged))


def is_listed(results: Path, path: str, sha: str) -> bool:
    """Whether a file of that hash is in the manifest, or known by its name; where its line has a
    file of its own, without reading the others."""
    alone = _manifest_file(Path(results), f"{sha}  {path}\n".encode())
    return alone.exists() or not read_manifest(results).problem(path, sha)


def _lines(path: Path) -> tuple[tuple[str, str], ...]:
    """(SHA-256, path) of every line; none where the file is not what its name says."""
    try:
        content = path.read_bytes()
    except OSError:
        return ()
    if digest(content)[:32] != path.stem:
        return ()
    matches = [_LINE.fullmatch(line) for line in content.decode().splitlines()]
    return tuple((match[1], match[2]) for match in matches if match)
