"""One folder with all that a machine with a GPU needs and no network can bring it: `make gpu-kit`.

    python -m benchmarks.gpu_kit FOLDER [--python 3.12] [--missing NAME ...] [--data NAME ...]

It holds the checkout's code, data cut to the tiny subset with validation and test, and wheels for
packages that are missing there. PyTorch is expected there, and so is what it comes with. On that
machine: benchmarks/gpu.sh STAGE.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from aba_core.datasets import cut_dataset
from aba_core.installation import STAMP, commit

ROOT = Path(__file__).resolve().parents[1]
MOST = 60 * 2**20  # bytes
CODE = (
    "aba_core",
    "analysis",
    "benchmarks",
    "data/reference",
    # Those that ask a GPU, and what they share.
    "tests/conftest.py",
    "tests/oracles",
    "tests/test_gpu.py",
    "tests/test_triton.py",
    "pyproject.toml",
    "Makefile",
)
# What the toolkit and its tests need and machines for PyTorch often lack; what these need is named
# too. An older typing-extensions than pydantic's stops its import.
MISSING = (
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-inspection",
    "typing-extensions",
    "pooch",
    "platformdirs",
    "beartype",
)
DATA = ("mnist", "cifar10", "news")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def copy_code(folder: Path) -> None:
    """What git knows of the code, as it lies here."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *CODE], cwd=ROOT, check=True, capture_output=True
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / STAMP).write_text(commit() + "\n")


def download_wheels(folder: Path, names: list[str], python: str) -> None:
    """One wheel for each name, for that Python on Linux. Raises CalledProcessError."""
    folder.mkdir(parents=True, exist_ok=True)
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    pydantic = [name for name in names if name.startswith("pydantic")]
    pinned = _pydantic_pair(python, platforms) if len(pydantic) == 2 else pydantic
    for name in [*pinned, *(name for name in names if name not in pydantic)]:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--only-binary=:all:", "--implementation", "cp", "--python-version", python),
                *(*platforms, "-d", str(folder), name),
            ],
            check=True,
        )


def _pydantic_pair(python: str, platforms: list[str]) -> list[str]:
    """pydantic needs exactly one version of its core: the one that is installed here."""
    from importlib.metadata import version

    return [f"{name}=={version(name.replace('-', '_'))}" for name in ("pydantic", "pydantic-core")]


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="that machine's")
    parser.add_argument("--missing", nargs="*", default=list(MISSING), metavar="NAME")
    parser.add_argument("--data", nargs="*", default=list(DATA), metavar="NAME")
    options = parser.parse_args()
    folder = options.folder
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} is there and not empty; give another folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    copy_code(folder)
    for name in options.data:
        path, size = cut_dataset(name, folder / "data" / "mirror")
        print(f"{path.relative_to(folder)}: {size / 2**20:.1f} MiB", flush=True)
    if options.missing:
        download_wheels(folder / "wheels", options.missing, options.python)
    size = size_of(folder)
    print(f"{folder}: {size / 2**20:.1f} MiB")
    if size > MOST:
        print(f"that is more than {MOST / 2**20:.0f} MiB; leave out a data set", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
