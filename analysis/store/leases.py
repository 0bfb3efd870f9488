"""Leases: who trains a chunk, so that several runners on one folder share a study.

    results/leases/<chunk>.<n>.json     who holds the chunk; touched again and again while held

The lease of a chunk is its file with the highest number. Only one runner can make that file: by a
link that must not exist, or O_CREAT | O_EXCL where there are no links; both are atomic on local
disks and NFS. A lease whose owner is gone is taken
over by making the next number, so nobody ever removes a file that another may just have made.

A lease has run out when its owner was a process of this host that has ended, or when nobody has
touched it for EXPIRY seconds. Both times are the file system's: that of the last touch, and that
of a file touched now in the same folder. So hosts whose clocks disagree do not take one another's
chunks. A process that was stopped for longer (SIGSTOP, a suspended machine) may lose its chunk to
another and compute it all the same: both have the same numbers, and one file is kept.

Leases save work. What results are does not depend on them.
"""

from __future__ import annotations

import json
import os
import platform
import re
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from uuid import uuid4

HEARTBEAT, EXPIRY = 10.0, 120.0  # seconds; NFS may show a touch up to a minute late
_LEASE = re.compile(r"([A-Za-z0-9._-]+)\.([0-9]{1,9})\.json")


@dataclass(frozen=True)
class Owner:
    """A process: host tells machines and containers apart, start a process from a later one of the
    same number, token the leases of one runner."""

    host: str
    pid: int
    start: str
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.partition('/')[0]}"

    @property
    def gone(self) -> bool:
        """Whether it is known to have ended: only of this host."""
        return self.host == _this_host() and _start_of(self.pid) != self.start


def _this_host() -> str:
    """The host's name, the boot, and the namespace that process numbers are of."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()}/{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # no Linux
        return platform.node()


def _start_of(pid: int) -> str:
    """When a process of this host started, in its own units; empty where it has ended."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
    except ProcessLookupError:
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "running"


class Leases:
    """The leases that this runner holds in a results folder; released when the block is left.

    expiry: seconds after which a lease that nobody touches has run out. heartbeat: seconds between
    two touches of those held here.
    """

    def __init__(self, results: Path, expiry: float = EXPIRY, heartbeat: float = HEARTBEAT) -> None:
        self.folder = Path(results) / "leases"
        self.expiry, self.heartbeat = expiry, heartbeat
        self.owner = Owner(_this_host(), os.getpid(), _start_of(os.getpid()), uuid4().hex)
        self._held: dict[str, Path] = {}
        self._over = threading.Event()
        # What leases are links to; touched, it tells the time as well.
        self._card = self.folder / f".{self.owner.token}.owner"

    def __enter__(self) -> Leases:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._card.write_text(json.dumps(asdict(self.owner)), encoding="utf-8")
        self._sweep()
        threading.Thread(target=self._touch, daemon=True, name="leases").start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        for name in list(self._held):
            self.release(name)
        self._card.unlink(missing_ok=True)

    def claim(self, name: str) -> bool:
        """Take the lease of a chunk; False where another runner holds it."""
        if name in self._held:
            return True
        numbers = self._numbers(name)
        if numbers and self._alive(self._file(name, numbers[-1])):
            return False
        path = self._file(name, numbers[-1] + 1 if numbers else 0)
        try:
            self._make(path)
        except FileExistsError:
            return False
        self._held[name] = path
        return True

    def _make(self, path: Path) -> None:
        """A lease with its owner in it, at once: one that were empty for a moment would be nobody's
        if its maker were killed then. Raises FileExistsError where another was faster."""
        try:
            os.link(self._card, path)
        except FileExistsError:
            if _owner(path) != self.owner:  # as NFS says where only the answer was lost
                raise
        except OSError:  # a file system without links
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(self.owner), file)

    def release(self, name: str) -> None:
        """Give back a lease, and remove those before it that had run out."""
        path = self._held.pop(name, None)
        if path is None or _owner(path) != self.owner:  # taken over while we were stopped
            return
        number = int(path.name.split(".")[-2])
        for earlier in self._numbers(name):
            if earlier < number:
                self._file(name, earlier).unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def holder(self, name: str) -> Owner | None:
        """The other runner that holds a chunk; None where it is free or ours."""
        numbers = self._numbers(name)
        path = self._file(name, numbers[-1]) if numbers else None
        if path is None or name in self._held or not self._alive(path):
            return None
        return _owner(path)

    def _file(self, name: str, number: int) -> Path:
        return self.folder / f"{name}.{number}.json"

    def _numbers(self, name: str) -> list[int]:
        return sorted(number for other, number in self._listed() if other == name)

    def _listed(self) -> list[tuple[str, int]]:
        found = [_LEASE.fullmatch(name) for name in os.listdir(self.folder)]
        return [(match[1], int(match[2])) for match in found if match]

    def _alive(self, path: Path) -> bool:
        owner = _owner(path)
        if owner is not None and owner.gone:
            return False
        try:
            touched = path.stat().st_mtime
        except FileNotFoundError:
            return False
        return self._now() - touched <= self.expiry

    def _now(self) -> float:
        """The time by the clock of the file system."""
        self._card.touch()
        return self._card.stat().st_mtime

    def _touch(self) -> None:
        while not self._over.wait(self.heartbeat):
            for path in list(self._held.values()):
                try:
                    os.utime(path)
                except OSError:  # gone, or the server does not answer: the next turn tells
                    continue

    def _sweep(self) -> None:
        """Remove what runners that were killed left behind: by taking it over first, since only
        the holder of a lease may remove it."""
        for name in {name for name, _ in self._listed()}:
            if self.claim(name):
                self.release(name)
        for card in self.folder.glob(".*.owner"):
            if card != self._card and not self._alive(card):
                card.unlink(missing_ok=True)


def _owner(path: Path) -> Owner | None:
    """Who made a lease; None where that is not (or not yet) to be read."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return Owner(str(said["host"]), int(said["pid"]), str(said["start"]), str(said["token"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
