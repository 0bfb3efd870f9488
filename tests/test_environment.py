"""The project's own files install what it needs, and agree with one another."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
LOCK = dict(
    re.fullmatch(r"([A-Za-z0-9_.-]+)==(.+)", line).groups()
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line and not line.startswith("#")
)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_pins_every_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    locked = {normal(name) for name in LOCK}
    for requirement in declared:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)[0]
        assert normal(name) in locked, f"{name} is not in requirements.lock"


def test_what_runs_is_what_is_locked():
    for name in ("torch", "numpy", "scipy", "pandas", "matplotlib", "papermill", "pytest"):
        assert version(name).split("+")[0] == LOCK[name]


def test_conda_users_get_the_same_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert "-r requirements.lock" in pip
    python = next(e for e in environment["dependencies"] if str(e).startswith("python="))
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert tuple(map(int, python.split("=")[1].split("."))) >= tuple(
        map(int, wanted.removeprefix(">=").split("."))
    )
    # Nothing is pinned a second time beside the lock.
    assert not [e for e in pip if re.match(r"[A-Za-z0-9_.-]+(==|>=)", e)]


def test_ci_runs_the_readme_test_command():
    assert "make test" in (ROOT / ".ci/run").read_text()
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme and "make test" in readme
