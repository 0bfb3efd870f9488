"""Fused operations in C: what replicas spend most of their time on, in one call each.

The files in C are compiled when the package is built, for several kinds of processors, or for the
one at hand when they are first needed, into a cache (`ABA_KERNELS_CACHE`, otherwise
~/.cache/aba/kernels); both take a C compiler. A library is used once it has computed a few small
blocks rightly (`selfcheck`). With `ABA_KERNELS=off`, and without a library, PyTorch does the same.
Results differ in their last bits, and rows say which of the two made them. This file needs no
torch; `blocks`, `texts` and `optimizer` have what PyTorch sees.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import NamedTuple

from aba_core.kernels import compiling
from aba_core.kernels.compiling import SOURCES, NoKernels, compile_library
from aba_core.kernels.selfcheck import Wrong, check

DEFAULT = True  # where ABA_KERNELS says nothing

_unfused: ContextVar[bool] = ContextVar("unfused", default=False)


class Status(NamedTuple):
    """Whether the fused block is used, and why; path: of the compiled library, "" without one."""

    used: bool
    why: str
    path: str = ""


def asked_for() -> bool:
    """What `ABA_KERNELS` says ("on" or "off"; anything else raises ValueError), or the default."""
    value = os.environ.get("ABA_KERNELS")
    if not value:
        return DEFAULT
    value = value.strip().lower()
    if value not in ("", "on", "off"):
        raise ValueError(f"ABA_KERNELS is {value!r}; allowed: on, off")
    return value == "on" if value else DEFAULT


@contextmanager
def unfused() -> Iterator[None]:
    """PyTorch's own layers, inside the block."""
    token = _unfused.set(True)
    try:
        yield
    finally:
        _unfused.reset(token)


def status() -> Status:
    """Which path is used and why. Compiles, where that is still to be done."""
    if not asked_for():
        by = "ABA_KERNELS=off" if os.environ.get("ABA_KERNELS") else "off by default"
        return Status(False, by)
    return _found()[1]


def in_use() -> bool:
    """Whether blocks are to be fused here and now."""
    return not _unfused.get() and asked_for() and loaded() is not None


def path_taken() -> str:
    """What a row says of who computed it: "torch" or "fused". Bits of the fused path are the same
    on all processors that add products unrounded, as those with AVX2, AVX-512 or NEON do; others
    are told apart."""
    library = loaded() if in_use() else None
    if library is None:
        return "torch"
    return "fused" if library.fuses_products() else "fused without fma"


def loaded() -> ctypes.CDLL | None:
    """The compiled functions, if there are any."""
    return _found()[0]


@cache
def _found() -> tuple[ctypes.CDLL | None, Status]:
    """The library of this process and what came of looking for it, decided once."""
    made = compiling.prebuilt()
    with suppress(Wrong, OSError, AttributeError):  # then one is compiled
        if made is not None:
            loaded = _load(made[0])
            check(loaded)
            return loaded, Status(True, f"built with the package for {made[1]}", str(made[0]))
    try:
        with tempfile.TemporaryDirectory(prefix="aba-kernels-") as aside:
            path, how = _built(Path(aside))
            loaded = _load(path)
            check(loaded)
            return loaded, Status(True, how, str(path))
    except (NoKernels, Wrong, OSError, AttributeError, subprocess.SubprocessError) as error:
        return None, Status(False, " ".join(str(error).split()) or type(error).__name__)


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    for function, tensors in ((loaded.uniforms, 3), (loaded.uniforms_along, 3)):
        function.argtypes = [ctypes.POINTER(ctypes.c_int64), *[ctypes.c_void_p] * tensors]
        function.restype = None
    for number_type in ("float", "double"):
        forward = getattr(loaded, f"forward_{number_type}")
        backward = getattr(loaded, f"backward_{number_type}")
        forward.argtypes = [ctypes.POINTER(ctypes.c_int64), *[ctypes.c_void_p] * 5]
        backward.argtypes = [ctypes.POINTER(ctypes.c_int64), *[ctypes.c_void_p] * 7]
        for way, tensors in (("forward", 6), ("backward", 7), ("near", 8)):
            tokens = getattr(loaded, f"tokens_{way}_{number_type}")
            tokens.argtypes = [ctypes.POINTER(ctypes.c_int64), *[ctypes.c_void_p] * tensors]
        for name in ("patches", "unpatched"):
            function = getattr(loaded, f"{name}_{number_type}")
            function.argtypes = [ctypes.POINTER(ctypes.c_int64), *[ctypes.c_void_p] * 2]
        entropy = getattr(loaded, f"cross_entropy_{number_type}")
        entropy.argtypes = [ctypes.POINTER(ctypes.c_int64), *[ctypes.c_void_p] * 4]
        for name, tensors in (("adjust", 9), ("categories", 4), ("moved", 9)):
            function = getattr(loaded, f"{name}_{number_type}")
            function.argtypes = [ctypes.POINTER(ctypes.c_int64), *[ctypes.c_void_p] * tensors]
        adam = getattr(loaded, f"adam_{number_type}")
        adam.argtypes = [ctypes.POINTER(ctypes.c_int64), *[ctypes.c_void_p] * 6]
        adam.restype = None
        for name in ("chain_keeps", "chain_sums"):
            keeps = getattr(loaded, f"{name}_{number_type}")
            keeps.argtypes, keeps.restype = [ctypes.POINTER(ctypes.c_int64)], ctypes.c_int64
        chain = getattr(loaded, f"chain_{number_type}")
        chain.argtypes = [ctypes.POINTER(ctypes.c_int64), *[ctypes.c_void_p] * 12]
    return loaded


def cache_folder() -> Path:
    """Where compiled libraries are kept."""
    named = os.environ.get("ABA_KERNELS_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "aba" / "kernels"


def _built(aside: Path) -> tuple[Path, str]:
    """A compiled library and how it came to be. aside: used where the cache cannot be written."""
    compiler, flags, macros = compiling.compiler()
    text = b"\0".join(source.read_bytes() for source in SOURCES)
    words = " ".join([*compiler[1:], *flags, *compiling.FLAGS])
    parts = (text, macros, words.encode(), platform.platform().encode())
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]
    by = f"{Path(compiler[0]).name} {' '.join(flags)}".strip()
    folder = cache_folder()
    path = folder / f"fused-{key}.so"
    if _whole(path):
        return path, f"compiled by {by}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(folder / f"fused-{key}.lock"):
            if not _whole(path):
                compile_library([*compiler, *flags], path)
    except OSError:
        path = aside / path.name
        compile_library([*compiler, *flags], path)
        return path, f"compiled by {by}, for this process alone: {folder} cannot be written"
    return path, f"compiled by {by}"


def _whole(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process compiles and the others wait. Without locks several do, which is no harm."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("w") as file:
        with suppress(OSError):  # not every network folder can lock
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
