"""Imports go one way: the analysis needs no torch, and the core knows nothing of the analysis."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ANALYSIS = sorted((ROOT / "analysis").rglob("*.py"))
CORE = sorted((ROOT / "aba_core").rglob("*.py"))
# What a run is, in plain data: files of the core that need no torch, for everybody.
PLAIN = (
    "adjustments",
    "arms",
    "aspects",
    "identity",
    "installation",
    "kernels",
    "legacy",
    "quantities",
    "threads",
)
# The modules that train, and import the rest of the core when something is to be trained.
BRIDGE = {ROOT / "analysis" / f"{name}.py" for name in ("runner", "plan", "engines", "gpu")}

BLOCK_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, NoTorch())
"""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


# Imports that run against the others, inside a function, each with its reason.
AGAINST = {
    # A kind that is chosen by name, and extends what chooses it.
    ("analysis.cluster.schedulers", "analysis.cluster.slurm"),
    ("analysis.engines", "analysis.gpu"),
    ("aba_core.training", "aba_core.single.training"),
    # Measurements that train models of their own.
    ("aba_core.card", "aba_core.training"),
    # A check of kernels against the tensor code that calls them.
    ("aba_core.kernels.on_gpu", "aba_core.methods.aba"),
    ("aba_core.kernels.on_gpu", "aba_core.randomness"),
    ("aba_core.kernels.on_gpu", "aba_core.selection"),
}


def imported(path: Path) -> set[str]:
    """Modules that a file imports anywhere, lazily and for type checking too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module))
            if node.module in ("aba_core", "analysis"):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
                names.discard("aba_core")
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == "import_module":
            names |= {str(a.value) for a in node.args if isinstance(a, ast.Constant)}
    return names


def arrows(paths: list[Path]) -> dict[str, set[str]]:
    """{module: those that it imports, also inside functions}, without imports for types alone."""
    names = {module_name(path) for path in paths}
    found: dict[str, set[str]] = {}
    for path in paths:
        tree = ast.parse(path.read_text())
        of_types = [n for n in ast.walk(tree) if isinstance(n, ast.If) and is_for_types(n)]
        left_out = {id(part) for one in of_types for part in ast.walk(one)}
        parts = [n for n in ast.walk(tree) if id(n) not in left_out]
        own = found.setdefault(module_name(path), set())
        for node in parts:
            if isinstance(node, ast.Import):
                own |= {alias.name for alias in node.names} & names
            elif isinstance(node, ast.ImportFrom) and node.module:
                inside = {f"{node.module}.{alias.name}" for alias in node.names}
                own |= inside & names
                if not inside <= names:
                    own |= {node.module} & names
    return found


def is_for_types(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("path", [p for p in ANALYSIS if p not in BRIDGE], ids=module_name)
def test_the_analysis_imports_of_the_core_only_what_needs_no_torch(path):
    allowed = {f"aba_core.{name}" for name in PLAIN}
    beyond = {
        name
        for name in imported(path)
        if name.split(".")[0] in ("torch", "aba_core") and name not in allowed
    }
    assert not beyond


@pytest.mark.parametrize("paths", [ANALYSIS, CORE], ids=["analysis", "aba_core"])
def test_imports_run_in_no_circle(paths):
    """Also those inside functions. Modules named by a string, as the files of studies, are not
    seen: a registry knows their names alone."""
    found = arrows(paths)
    against = {(one, other) for one, other in AGAINST if one in found}
    assert against <= {(one, other) for one, others in found.items() for other in others}
    kept = {one: {o for o in others if (one, o) not in against} for one, others in found.items()}
    try:
        TopologicalSorter(kept).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("path", CORE, ids=module_name)
def test_the_core_never_imports_the_analysis(path):
    assert not any(name.split(".")[0] == "analysis" for name in imported(path))


def test_the_analysis_works_without_torch():
    """The bridge as well: it imports what needs torch only when something is to be trained."""
    modules = [module_name(path) for path in ANALYSIS]
    modules += [f"aba_core.{name}" for name in PLAIN if (ROOT / "aba_core" / f"{name}.py").exists()]
    done = python(BLOCK_TORCH + "".join(f"import {name}\n" for name in modules))
    assert done.returncode == 0, done.stderr


def test_the_import_blocker_of_this_test_blocks():
    assert python(BLOCK_TORCH + "import torch").returncode != 0
    assert python(BLOCK_TORCH + "from aba_core import attribute").returncode != 0


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
