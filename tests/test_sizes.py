"""A house that stays liveable: short files, short functions, few arguments."""

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    p for package in ("aba_core", "analysis") for p in sorted((ROOT / package).rglob("*.py"))
]
# Each has its reason in a comment beside it: what users may say, all by name.
MANY_ARGUMENTS = {
    ("training", "train"),
    ("own_data", "splits_from"),
    ("own", "compare"),
    ("running", "run"),
    ("running", "card"),
    ("showing", "report"),
    ("showing", "figures_"),
    ("batch", "report"),
    # What runs on a GPU takes a pointer or a number at a time.
    ("fused_triton", "moved"),
    ("fused_triton", "adam"),
}


def functions(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_functions_and_lists_of_arguments_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600
    for function in functions(path):
        assert function.end_lineno is not None
        assert function.end_lineno - function.lineno < 80, function.name
        given = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
        number = len([each for each in given if each.arg not in ("self", "cls")])
        assert number <= 8 or (path.stem, function.name) in MANY_ARGUMENTS, function.name


def test_the_median_module_of_the_analysis_is_short():
    lengths = [
        len(p.read_text(encoding="utf-8").splitlines()) for p in SOURCES if "analysis" in p.parts
    ]
    assert statistics.median(lengths) <= 300
