"""The project's own files install what it needs, and agree with one another."""

import re
import runpy
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
HASHES = r"((?:    --hash=sha256:[0-9a-f]{64}.*\n)*)"
PIN = re.compile(r"^([\w.-]+)==([^\s;\\]+)[^\n]*\n" + HASHES, re.MULTILINE)


def pins(file: str) -> dict[str, tuple[str, int]]:
    """{name: (version, how many hashes)}; every line is a pin, a hash or a comment."""
    text = (ROOT / file).read_text()
    assert not re.sub(r"(?m)^#.*\n", "", PIN.sub("", text)), "a line that is none of these"
    return {name: (number, hashes.count("--hash")) for name, number, hashes in PIN.findall(text)}


LOCK = pins("requirements.lock")
TORCH = pins("requirements-torch.lock")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_pins_every_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["test"], *extras["notebooks"]]
    locked = {normal(name) for name in [*LOCK, *TORCH]}
    for requirement in declared:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)[0]
        assert normal(name) in locked, f"{name} is not in requirements.lock"


def test_all_but_torch_is_pinned_with_the_hashes_of_its_files():
    docs = pins("requirements-docs.lock")
    assert len(LOCK) > 100 and len(docs) > 15
    assert all(hashes for _, hashes in [*LOCK.values(), *docs.values()])
    assert list(TORCH) == ["torch"] and "torch" not in LOCK
    # Where both locks have a package it is the same.
    assert not [name for name in set(LOCK) & set(docs) if LOCK[name] != docs[name]]
    makefile = (ROOT / "Makefile").read_text()
    for file in ("requirements.lock", "requirements-docs.lock"):
        assert f"--require-hashes -r {file}" in makefile


def test_what_is_compiled_has_hashes_for_every_platform():
    # Wheels for Linux on two processors and macOS, for three Pythons, and the source.
    for name in ("numpy", "scipy", "pandas", "pyarrow", "matplotlib", "pyzmq"):
        assert LOCK[name][1] >= 9, name
    assert "appnope" in LOCK  # what macOS alone needs is there too


def test_what_runs_is_what_is_locked():
    for name in ("numpy", "scipy", "pandas", "matplotlib", "papermill", "pytest"):
        assert version(name) == LOCK[name][0]
    assert version("torch").split("+")[0] == TORCH["torch"][0]


@pytest.mark.parametrize(
    ("driver", "offered", "uv", "said"),
    [
        ("580.1", True, ["auto"], "the build for the NVIDIA driver 580.1"),
        ("580.1", True, ["auto", None], "the package index's own build"),
        ("", True, [], "the CPU build that pip finds: there is no NVIDIA driver"),
        ("", False, ["cpu"], "the CPU build, by uv: there is no NVIDIA driver"),
        ("", False, ["cpu", None], "which may bring CUDA"),
    ],
)
def test_torch_comes_in_the_build_for_the_machine(monkeypatch, capsys, driver, offered, uv, said):
    """uv: the backend that it is asked for, and None where it fails."""
    module = runpy.run_path(str(ROOT / ".ci/install_torch.py"))
    asked: list[object] = []
    scope = module["main"].__globals__
    monkeypatch.setitem(scope, "driver", lambda: driver)
    monkeypatch.setitem(scope, "offered", lambda version: offered)
    monkeypatch.setitem(scope, "by_uv", lambda pin, kind: not asked.append(kind) and None not in uv)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    plain: list[list[str]] = []
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr("subprocess.run", lambda command: plain.append(command) or done)
    assert module["main"]() == 0
    assert said in capsys.readouterr().out
    assert asked == uv[:1]
    # The plain pin where uv is not asked or fails, and never else.
    assert bool(plain) == (not uv or None in uv)
    assert all(command[-1] == f"torch=={TORCH['torch'][0]}" for command in plain)


def test_conda_users_get_the_same_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["-r requirements.lock"]
    python = next(e for e in environment["dependencies"] if str(e).startswith("python="))
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert tuple(map(int, python.split("=")[1].split("."))) >= tuple(
        map(int, wanted.removeprefix(">=").split("."))
    )


def test_ci_runs_the_readme_test_command():
    assert "make test" in (ROOT / ".ci/run").read_text()
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme and "make test" in readme


def test_the_citation_names_this_version_and_licence():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
