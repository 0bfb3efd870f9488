"""What is installed here and what is missing: `aba doctor`.

One finding a line: "ok", "note" (something optional, or other than pinned) or "missing" (what
`make demo` needs), and for all but "ok" what to do. Nothing is changed, nothing is downloaded. It
must speak where all else fails: packages are imported late, and their absence is a finding.
"""

from __future__ import annotations

import importlib.util
import math
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

from aba_core.installation import CHECKOUT, HOME, commit
from aba_core.threads import usable_cores

LOCK, TORCH = HOME / "requirements.lock", HOME / "requirements-torch.lock"
_PIN = re.compile(r"^([\w.-]+)==([^\s;\\]+)(?: *; *([^\\\n]+))?", re.MULTILINE)
PYTHON = (3, 11)
# Beyond letters and digits, what our figures and tables write.
GLYPHS = "−×±²η→·†"
_FOLDER = "" if CHECKOUT else f"{HOME}/"
INSTALL = f"python -m pip install -r {_FOLDER}requirements.lock"
INSTALL_TORCH = f"python -m pip install -r {_FOLDER}requirements-torch.lock"

State = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at. detail: what there is; todo: what to do, "" where all is well."""

    state: State
    what: str
    detail: str
    todo: str = ""


def examine(results: Path, out: Path) -> list[Finding]:
    """Everything that is looked at, in the order in which one would mend it."""
    with ThreadPoolExecutor(1) as pool:
        # It waits for a process of its own, while torch is loaded here.
        reports = pool.submit(_looked_at, "reports", _reports)
        findings = [
            *_looked_at("python", _python),
            *_looked_at("packages", _packages),
            *_looked_at("toolkit", _toolkit),
            *_looked_at("device", _device),
            *_looked_at("kernels", _kernels),
            *_looked_at("data", _data),
            *_looked_at("folders", lambda: _folders(results, out)),
        ]
        return [*findings, *reports.result(), *_looked_at("fonts", _fonts)]


def _looked_at(what: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a look finds; a package that is there but broken is a finding too."""
    try:
        return list(look())
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return [Finding("missing", what, reason, INSTALL)]


def text(findings: list[Finding]) -> str:
    """The findings in aligned lines, and a last line that sums them up."""
    width = max(len(finding.what) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:7}  {finding.what:{width}}  {finding.detail}".rstrip())
        if finding.todo:
            lines.append(f"{'':7}  {'':{width}}  → {finding.todo}")
    missing = sum(finding.state == "missing" for finding in findings)
    notes = sum(finding.state == "note" for finding in findings)
    demo = f"{missing} missing for 'make demo'" if missing else "All that 'make demo' needs is here"
    return "\n".join([*lines, "", f"{demo}; {notes} note{'s' * (notes != 1)}."])


def _python() -> Iterator[Finding]:
    detail = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info < PYTHON:
        oldest = ".".join(map(str, PYTHON))
        yield Finding("missing", "python", detail, f"make clean venv PYTHON=python{oldest}")
    else:
        yield Finding("ok", "python", detail)


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]).lower()


def _installed() -> dict[str, str]:
    """Version of every package that is here, without the local part (torch's +cpu)."""
    versions: dict[str, str] = {}
    for package in metadata.distributions():
        if package.metadata["Name"]:
            versions.setdefault(_name(package.metadata["Name"]), package.version.split("+")[0])
    return versions


def _pinned(lock: str) -> dict[str, str]:
    """{name: version} of what a lock pins for this machine."""
    pinned = {}
    for name, version, marker in _PIN.findall(lock):
        if marker:
            from packaging.markers import Marker  # here where anything is locked

            if not Marker(marker).evaluate():
                continue
        pinned[_name(name)] = version
    return pinned


def _packages() -> Iterator[Finding]:
    here = _installed()
    if "aba-toolkit" not in here:
        todo = "python -m pip install --no-deps -e ."
        yield Finding("missing", "packages", "aba-toolkit itself is not installed", todo)
        needed: set[str] = set()
    else:
        declared = metadata.requires("aba-toolkit") or []
        needed = {_name(line) for line in declared if "extra ==" not in line}
    if not LOCK.is_file():
        pinned = dict.fromkeys(needed, "")
        yield Finding("note", "packages", "no requirements.lock beside the code to compare with")
    else:
        pinned = _pinned(LOCK.read_text(encoding="utf-8"))
        if TORCH.is_file():
            pinned |= _pinned(TORCH.read_text(encoding="utf-8"))
    absent = sorted(needed - set(here))
    for name in absent:
        yield Finding("missing", "packages", f"{name} is not installed", INSTALL)
    others = [f"{n} ({v})" for n, v in pinned.items() if n not in here and n not in absent]
    if others:
        detail = f"pinned but not installed: {', '.join(others)}"
        yield Finding("note", "packages", detail, f"{INSTALL} (some are for tests alone)")
    differing = [
        f"{name} {here[name]} (pinned: {version})"
        for name, version in pinned.items()
        if version and name in here and here[name] != version
    ]
    if differing:
        detail = f"other versions than pinned: {', '.join(differing)}"
        yield Finding("note", "packages", detail, f"{INSTALL} gives the pinned ones")
    if not absent and not others and not differing and LOCK.is_file():
        yield Finding("ok", "packages", f"the {len(pinned)} of requirements.lock")


def _toolkit() -> Iterator[Finding]:
    parts = ("notebooks", "data/reference/published_isolation.csv")
    absent = [part for part in parts if not (HOME / part).exists()]
    if absent:
        detail = f"{', '.join(absent)} not in {HOME}"
        yield Finding("missing", "toolkit", detail, "install it anew, or restore them from git")
    else:
        where = "checkout" if CHECKOUT else "wheel"
        yield Finding("ok", "toolkit", f"{where}, commit {commit()}")
    if CHECKOUT and shutil.which("git") is None:
        todo = "install git, if results shall say which commit they come from"
        yield Finding("note", "toolkit", "no git", todo)


def _device() -> Iterator[Finding]:
    from analysis import engines, plan

    try:
        device = plan.choose_device("auto")
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        yield Finding("missing", "device", f"torch cannot be loaded: {reason}", INSTALL_TORCH)
        return
    torch = metadata.version("torch")
    if device == "cuda":
        yield Finding("ok", "device", f"{engines.device_name(device)}, one process, torch {torch}")
        return
    cores = usable_cores(math.ceil)
    yield Finding("ok", "device", f"cpu, {cores} single-threaded processes, torch {torch}")


def _kernels() -> Iterator[Finding]:
    from aba_core import kernels

    status = kernels.status()
    if status.used:
        yield Finding("ok", "kernels", f"fused blocks, {status.why}")
    elif not kernels.asked_for():
        yield Finding("ok", "kernels", f"PyTorch's layers, {status.why}")
    else:
        todo = "a C compiler (gcc or clang) on the path halves the time of training"
        yield Finding("note", "kernels", f"PyTorch's layers: {status.why}", todo)


def _data() -> Iterator[Finding]:
    from analysis import plan

    mirror = os.environ.get("ABA_DATA_MIRROR", "")
    if not mirror:
        yield Finding("ok", "data mirror", "ABA_DATA_MIRROR is not set: official sources, cached")
    elif Path(mirror).expanduser().is_dir():
        yield Finding("ok", "data mirror", f"ABA_DATA_MIRROR={mirror}")
    else:
        todo = "set it to a folder laid out as data/README.md says, or unset it"
        detail = f"ABA_DATA_MIRROR={mirror} is no folder"
        yield Finding("note", "data mirror", detail, todo)
    absent = []
    by_hand: dict[str, list[str]] = {}
    for status in plan.dataset_status():
        what = f"data {status.name}"
        if status.present.startswith("not here (by hand"):
            by_hand.setdefault(status.present, []).append(status.name)
        elif status.present.startswith("not here"):
            absent.append(Finding("note", what, status.present))
        elif "of 5 training batches" in status.present:
            todo = "enough for subset tiny; full needs the other batches (data/README.md)"
            yield Finding("note", what, status.present, todo)
        else:
            yield Finding("ok", what, status.present)
    for present, (first, *others) in by_hand.items():  # several are made of the same files
        also = f", nor {', '.join(others)}" if others else ""
        todo = "aba run does not download it; docs/guides/offline.md says where it goes"
        yield Finding("note", f"data {first}", f"{present}{also}", todo)
    if absent:
        todo = "aba run downloads what it needs; without a network, data/README.md: mirror"
        yield from absent[:-1]
        yield replace(absent[-1], todo=todo)


def _folders(results: Path, out: Path) -> Iterator[Finding]:
    usual = CHECKOUT / "data" / "cache" if CHECKOUT else "~/.cache/aba"
    cache = Path(os.environ.get("ABA_DATA_CACHE") or usual).expanduser()
    for what, folder, option in (
        ("results", results, "--results"),
        ("reports", out, "--out"),
        ("data cache", cache, "ABA_DATA_CACHE"),
    ):
        trouble = _unwritable(folder)
        if trouble:
            # The demo's own data set comes with scikit-learn and needs no cache.
            state: State = "note" if what == "data cache" else "missing"
            yield Finding(state, what, trouble, f"name another folder by {option}")
            continue
        free = shutil.disk_usage(_existing(folder)).free
        detail = f"{_shown(folder)}, writable, {free / 2**30:.1f} GB free"
        if free < 200 * 2**20:
            yield Finding("note", what, detail, "make room: a demo writes 10 MB, data sets more")
        else:
            yield Finding("ok", what, detail)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def _shown(folder: Path) -> str:
    """The path from here, where it lies below."""
    inside = folder.is_absolute() and folder.is_relative_to(Path.cwd())
    return str(folder.relative_to(Path.cwd()) if inside else folder)


def _unwritable(folder: Path) -> str:
    """Why nothing can be written there, "" where it can. Leaves no trace."""
    place = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as error:
        return f"{_shown(folder)} cannot be written: {error.strerror}"


def _reports() -> Iterator[Finding]:
    from analysis import reports

    needed = ("ipykernel", "papermill", "nbconvert")
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        yield Finding("missing", "kernel", f"no {', '.join(absent)}", INSTALL)
    else:
        yield Finding("ok", "kernel", f"this Python, ipykernel {metadata.version('ipykernel')}")
        spec = Path(sys.prefix) / "share" / "jupyter" / "kernels" / "python3" / "kernel.json"
        if not spec.is_file():
            todo = "python -m ipykernel install --sys-prefix"
            yield Finding("note", "kernel", "none of this environment for 'make lab'", todo)
    try:
        yield Finding("ok", "pdf", f"printed by {reports.find_chromium()}")
    except reports.ReportError as error:
        needs, _, todo = str(error).partition(": ")
        yield Finding("note", "pdf", needs, todo.partition(";")[0])


def _fonts() -> Iterator[Finding]:
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    path = font_manager.findfont(font_manager.FontProperties(family=["sans-serif"]))
    font = FT2Font(path)
    absent = [glyph for glyph in GLYPHS if not font.get_char_index(ord(glyph))]
    if absent:
        todo = "python -m pip install --force-reinstall matplotlib brings DejaVu Sans"
        yield Finding("note", "fonts", f"{font.family_name} has no {' '.join(absent)}", todo)
    else:
        yield Finding("ok", "fonts", f"{font.family_name} for figures")
