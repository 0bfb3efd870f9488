"""Compiling the files in C, and the libraries that were compiled when the package was built.

Standard library only, and no import of the package: `setup.py` loads this file by its path.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_COMPILED = (
    *("fused.c", "tokens.c", "patches.c", "losses.c", "adam.c", "adjusting.c", "chain.c"),
    "draws.c",
)
_FILES = *_COMPILED, "vectors.h", "lanes.h"
SOURCES = tuple(Path(__file__).with_name(name) for name in _FILES)
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-shared")
# How to ask for this machine's processor: x86 compilers know the first, those for ARM the second.
# Tuned for AMD's, GCC would add products rounded in some loops and not in others.
_PROCESSOR = (("-march=native", "-mtune=generic"), ("-mcpu=native",), ())
_PATIENCE = 300  # seconds for a compiler, many times what it takes


# Where a build puts libraries, beside the files in C.
PREBUILT = Path(__file__).with_name("prebuilt")


class Kind(NamedTuple):
    """Processors that one library is for: the compiler's flags, what the processor must have."""

    name: str
    flags: tuple[str, ...]
    features: frozenset[str]


_V3 = frozenset(("avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm"))
_V4 = _V3 | {f"avx512{part}" for part in ("f", "bw", "cd", "dq", "vl")}
# The best first. What has none of these compiles for itself.
KINDS = {
    "x86_64": (
        Kind("avx512", ("-march=x86-64-v4",), _V4),
        Kind("avx2", ("-march=x86-64-v3",), _V3),
    ),
    "aarch64": (Kind("neon", (), frozenset()),),
    "arm64": (Kind("neon", (), frozenset()),),
}


class NoKernels(Exception):
    """Why there is no compiled library."""


def sources_key() -> str:
    """A hash of the files in C."""
    text = b"\0".join(source.read_bytes() for source in SOURCES)
    return hashlib.sha256(text).hexdigest()[:16]


def features(told: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What this processor has, as Linux tells; nothing where nobody tells."""
    with suppress(OSError):
        for line in told.read_text(errors="replace").splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def prebuilt(folder: Path = PREBUILT) -> tuple[Path, str] | None:
    """The library of a build that fits this processor and these files in C, and its kind."""
    here = features()
    for kind in KINDS.get(platform.machine(), ()):
        path = folder / f"{kind.name}-{sources_key()}.so"
        if kind.features <= here and path.is_file():
            return path, kind.name
    return None


def build(folder: Path) -> list[Path]:
    """Libraries for all kinds of this machine's architecture, into a folder: those that can be
    compiled. Raises nothing: who has none compiles when first needed, or has PyTorch do it."""
    made = []
    for kind in KINDS.get(platform.machine(), ()):
        try:
            command = compiler()[0]
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{kind.name}-{sources_key()}.so"
            compile_library([*command, *kind.flags], path)
            made.append(path)
        except (NoKernels, OSError, subprocess.SubprocessError) as error:
            print(f"no library for {kind.name}: {error}")
    return made


def compiler() -> tuple[list[str], list[str], bytes]:
    """Command and flags for this processor, and the macros that tell versions and processors."""
    chosen = os.environ.get("CC", "")
    named = [shlex.split(chosen)] if chosen else [[name] for name in COMPILERS]
    reason = f"no C compiler ({chosen or ', '.join(COMPILERS)}) on the path"
    for command in named:
        program = shutil.which(command[0]) if command else None
        if program is None:
            continue
        command = [program, *command[1:]]
        for flags in _PROCESSOR:
            done = _run([*command, *flags, "-dM", "-E", "-x", "c", os.devnull])
            if done.returncode == 0:
                return command, [*flags], done.stdout
            reason = f"{program} does not work: {_last_line(done)}"
    raise NoKernels(reason)


def compile_library(command: list[str], path: Path) -> None:
    """Under another name first: whoever finds the library finds it whole."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}-", suffix=".part")
    os.close(handle)
    try:
        files = [str(source) for source in SOURCES if source.suffix == ".c"]
        done = _run([*command, *FLAGS, *files, "-o", name, "-lm"])
        if done.returncode:
            raise NoKernels(f"{command[0]} could not compile the kernels: {_last_line(done)}")
        os.replace(name, path)
    finally:
        with suppress(OSError):
            os.unlink(name)


def _run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=False
    )


def _last_line(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line]
    return (errors or lines or [f"exit status {done.returncode}"])[0].strip()
