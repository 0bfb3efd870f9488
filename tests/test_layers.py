"""Imports go one way: the analysis needs no torch, and the core knows nothing of the analysis."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ANALYSIS = sorted((ROOT / "analysis").rglob("*.py"))
CORE = sorted((ROOT / "aba_core").rglob("*.py"))
BRIDGE = ROOT / "analysis" / "runner.py"  # the one module that may know aba_core

BLOCK_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "aba_core"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, NoTorch())
"""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, lazily and for type checking too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == "import_module":
            found |= {str(a.value).split(".")[0] for a in node.args if isinstance(a, ast.Constant)}
    return found


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("path", [p for p in ANALYSIS if p != BRIDGE], ids=lambda path: path.stem)
def test_the_analysis_never_imports_the_core_but_by_its_bridge(path):
    assert imported(path).isdisjoint({"aba_core", "torch"})


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_the_core_never_imports_the_analysis(path):
    assert "analysis" not in imported(path)


def test_the_analysis_works_without_torch():
    """The bridge as well: it imports the core only when something is to be trained."""
    modules = [module_name(path) for path in ANALYSIS]
    done = python(BLOCK_TORCH + "".join(f"import {name}\n" for name in modules))
    assert done.returncode == 0, done.stderr


def test_the_import_blocker_of_this_test_blocks():
    assert python(BLOCK_TORCH + "import torch").returncode != 0
    assert python(BLOCK_TORCH + "import aba_core").returncode != 0


@pytest.mark.parametrize(
    "statement", ["import aba_core", "import aba_core.adjustments", "from aba_core import Group"]
)
def test_looking_up_an_adjustment_does_not_load_torch(statement):
    done = python(f"{statement}\nimport sys\nassert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_every_public_name_can_be_imported_from_the_core():
    import aba_core

    assert set(dir(aba_core)) == set(aba_core.__all__)
    for name in aba_core.__all__:
        assert getattr(aba_core, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    import aba_core

    with pytest.raises(AttributeError, match="'aba_core' has no attribute 'nothing'"):
        _ = aba_core.nothing
