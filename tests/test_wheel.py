"""A wheel holds all that the commands need, and knows the commit that it was built from."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_wine

from aba_core import installation

ROOT = Path(__file__).parent.parent
PYTHON = sys.executable
STUDY = """
name: own
dataset: digits
config: {model: mlp, epochs: 1}
arms: [{name: vanilla}, {name: all, adjustments: epsilon+delta, strength: 0.3, target: loss}]
seeds: 3
"""
RUN = ["run", "own.yaml", "--device", "cpu", "--processes", "1"]


def call(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "ABA_DATA_CACHE")}
    return subprocess.run(
        command, cwd=folder, env={**inherited, **environment}, capture_output=True, text=True
    )


def git(folder: Path, *arguments: str) -> str:
    person = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    done = call(["git", *person, *arguments], folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source archive of the checkout, and a wheel built from it in another folder."""
    folder = tmp_path_factory.mktemp("build")
    # Of a copy: archives are laid out in the checkout, where other tests run meanwhile.
    left = {".venv", "results", "reports", "site", "build", ".pytest_cache", ".mypy_cache"}
    copied = shutil.copytree(
        ROOT,
        folder / "checkout",
        symlinks=True,
        ignore=lambda place, names: left & set(names) if Path(place) == ROOT else (),
    )
    made = [PYTHON, "setup.py", "-q", "egg_info", "--egg-base", str(folder)]
    done = call([*made, "sdist", "-d", str(folder)], copied)
    assert done.returncode == 0, done.stderr
    (source,) = folder.glob("*.tar.gz")
    with tarfile.open(source) as tar:
        tar.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    pip = [PYTHON, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = call([*pip, "-w", str(folder), "."], unpacked)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return source, wheel


@pytest.fixture(scope="module")
def place(archives: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder in somebody else's repository; the wheel is installed at its top."""
    top = tmp_path_factory.mktemp("somebody")
    git(top, "init", "-q")
    git(top, "commit", "-q", "--allow-empty", "-m", "theirs")
    pip = [PYTHON, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(top)]
    done = call([*pip, str(archives[1])], top)
    assert done.returncode == 0, done.stderr
    (top / "work").mkdir()
    (top / "work" / "own.yaml").write_text(STUDY)
    x, y = load_wine(return_X_y=True)
    np.savez(top / "work" / "tried.npz", x=x, y=y)
    aba(top / "work", *RUN)
    return top / "work"


def aba(place: Path, *arguments: str, code: int = 0) -> str:
    """What the installed command prints."""
    top = str(place.parent)
    # The command's own script says which Python; "-P" keeps the current folder out of the path.
    done = call([PYTHON, "-P", f"{top}/bin/aba", *arguments], place, PYTHONPATH=top)
    assert done.returncode == code, (arguments, done.stdout[-500:], done.stderr[-2000:])
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_archives_hold_every_part_of_the_checkout(archives):
    source, wheel = archives
    tracked = git(ROOT, "ls-files", "-z").split("\0")
    with tarfile.open(source) as tar:
        inside = {name.partition("/")[2] for name in tar.getnames()}
    assert not {name for name in tracked if name} - inside - {".gitignore", ".gitattributes"}
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        for name in tracked:
            part = name.startswith(installation.PARTS)
            if part or name.startswith(("aba_core/", "analysis/")):
                where = f"analysis/shipped/{name}" if part else name
                assert packed.read(where) == (ROOT / name).read_bytes(), where
    assert not [name for name in names if name.startswith(("tests/", "docs/", "setup"))]


def test_a_wheel_records_its_own_commit_and_never_somebody_elses(archives, place):
    with zipfile.ZipFile(archives[1]) as packed:
        stamp = packed.read("analysis/shipped/COMMIT").decode().strip()
    assert stamp == installation.commit()
    assert stamp.startswith(git(ROOT, "rev-parse", "--short=12", "HEAD"))
    (commit,) = {
        commit
        for file in (place / "results" / "runs").glob("*.parquet")
        for commit in pd.read_parquet(file)["commit"]
    }
    assert commit == stamp
    assert git(place, "rev-parse", "--short=12", "HEAD") not in commit


@pytest.mark.parametrize("stamped", [True, False])
def test_unpacked_in_somebody_elses_repository_it_says_its_stamp_or_nothing(
    archives, tmp_path, stamped
):
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "theirs")
    with tarfile.open(archives[0]) as tar:
        tar.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("aba_toolkit-*")
    if not stamped:
        (unpacked / "COMMIT").unlink()
    say = "import installation; print(installation.CHECKOUT, installation.commit())"
    done = call([PYTHON, "-c", say], unpacked, PYTHONPATH=str(unpacked / "aba_core"))
    expected = installation.commit() if stamped else "unknown"
    assert done.stdout.split() == [str(unpacked), expected]


@pytest.mark.slow
def test_every_command_works_from_a_wheel(place):
    text = aba(place, "--help")
    commands = [line.split()[0] for line in text.split("Commands:")[1].splitlines()[1:] if line]
    commands = commands[: commands.index("Examples:")]
    asked = {
        "adjustments": ["--csv"],
        "studies": [],
        "datasets": [],
        "methods": [],
        "axioms": [],
        "run": RUN[1:],
        "plan": ["isolation", "--effect", "1"],
        "card": [
            "--arms",
            "mixup",
            "--aspects",
            "calibration",
            "--seeds",
            "3",
            "--set",
            "epochs=1",
        ],
        "try": ["tried.npz", "--model", "linear", "--replicates", "5", "--steps", "5"],
        "status": [],
        "pack": [],
        "claims": ["--dataset", "digits"],
        "verify": ["--results", str(place.parent / "analysis/shipped/data/results")],
        "report": ["13_any_study", "-p", "study=own"],
        "figures": ["own", "--format", "svg"],
        "compare": [
            "--dataset",
            "digits",
            "--results",
            str(place.parent / "analysis/shipped/data/results"),
        ],
        "doctor": [],
    }
    # A command that is new must be tried here too.
    assert set(commands) == {*asked, "demo"}
    said = {command: aba(place, command, *given) for command, given in asked.items()}
    assert said["adjustments"].count("\n") == 28
    assert "6 found finished" in said["run"]
    assert "the shipped results" in said["plan"]
    assert "6/6" in said["status"]
    assert "This rests on 5 training subsets" in said["try"]
    assert "are as they were written" in said["verify"]
    assert "36 published claims" in said["claims"]
    assert "published tables" in said["compare"] or "published one" in said["compare"]
    assert f"wheel, commit {installation.commit()}" in said["doctor"]
    assert len(list((place / "reports").glob("13_any_study*.html"))) == 1
    assert list((place / "reports" / "figures").glob("*.svg"))
    assert aba(place, "verify").startswith("results: ")


LIGHT = """
import sys

class WithoutNotebooks:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jupyterlab", "papermill", "ipywidgets", "IPython", "ipykernel",
                                  "nbconvert", "nbformat", "jupyter_client"):
            raise ModuleNotFoundError(f"{name} is not here")

sys.meta_path.insert(0, WithoutNotebooks())
import torch
from aba_core import ABA
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
print(ABA("mendaba")(model, torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])).shape)
sys.argv = ["aba", *sys.argv[1:]]
from analysis.cli import main
main()
"""


def test_without_the_extra_for_notebooks_all_but_reports_works(place):
    top = str(place.parent)
    done = call([PYTHON, "-P", "-c", LIGHT, "report", "13_any_study"], place, PYTHONPATH=top)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "torch.Size([2, 1, 8, 8])" in done.stdout
    assert "run: python -m pip install 'aba-toolkit[notebooks]'" in done.stderr


@pytest.mark.slow
def test_the_demo_works_from_a_wheel(place):
    text = aba(place, "demo")
    assert "Open reports/index.html" in text
    made = {path.stem.partition("-")[0] for path in (place / "reports").glob("*.html")}
    notebooks = place.parent / "analysis/shipped/notebooks"
    assert {path.stem for path in notebooks.glob("[0-9]*.ipynb")} <= made
