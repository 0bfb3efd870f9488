"""Notebooks and their parameters: read from the parameters cell, checked before anything runs."""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import json
import math
import re
import tokenize
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aba_core.identity import meant
from aba_core.installation import HOME
from aba_core.quantities import metric_label

NOTEBOOKS = HOME / "notebooks"
Scalar = str | int | float | bool


class ReportError(ValueError):
    """A report that cannot be made as asked; one line saying which value is wrong and what is
    allowed."""


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: `name = default  # help`."""

    name: str
    default: Scalar
    help: str

    @property
    def type(self) -> type:
        return type(self.default)


def notebooks() -> tuple[str, ...]:
    """The names of the notebooks there are, in order. Raises ReportError where there are none."""
    names = tuple(sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb")))
    if not names:
        raise ReportError(
            f"no notebooks in {NOTEBOOKS}; install the toolkit anew, or restore them from git"
        )
    return names


def find(name: str | Path) -> Path:
    """A notebook by its name ("02_isolation"), number ("02"), title ("isolation") or path."""
    path = Path(name)
    if path.suffix == ".ipynb":
        if not path.is_file():
            raise ReportError(f"no notebook {path}; known: {', '.join(notebooks())}, or a path")
        return path
    known = notebooks()
    for candidate in known:
        number, _, title = candidate.partition("_")
        if str(name) in (candidate, number, number.lstrip("0"), title):
            return NOTEBOOKS / f"{candidate}.ipynb"
    raise ReportError(
        f"unknown notebook {str(name)!r}{meant(str(name), known)}; known: {', '.join(known)}, "
        "the path of a notebook, or the name of a study of your own in the results folder"
    )


def parameters_of(notebook: str | Path) -> dict[str, Parameter]:
    """The parameters of a notebook in the order of its parameters cell.

    Raises ReportError unless exactly one cell is tagged "parameters" and holds nothing but plain
    str, int, float and bool values.
    """
    path = find(notebook)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReportError(f"{path} is not a notebook ({type(error).__name__})") from error
    tagged = [
        "".join(cell["source"])
        for cell in cells
        if "parameters" in cell.get("metadata", {}).get("tags", [])
    ]
    if len(tagged) != 1:
        raise ReportError(f"{path.name} has {len(tagged)} cells tagged 'parameters'; needed: one")
    try:
        statements = ast.parse(tagged[0]).body
    except SyntaxError as error:
        raise ReportError(f"the parameters cell of {path.name}: {error.msg}") from error
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(tagged[0]).readline)
        if token.type == tokenize.COMMENT
    }
    parameters: dict[str, Parameter] = {}
    for statement in statements:
        text = ast.unparse(statement)
        if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
            raise ReportError(
                f"the parameters cell of {path.name} holds {text!r}; allowed: lines name = value"
            )
        try:
            value = ast.literal_eval(statement.value)
        except ValueError:
            value = None
        if type(value) not in (str, int, float, bool):
            raise ReportError(
                f"the parameters cell of {path.name} holds {text!r}; allowed: plain str, int, "
                "float or bool"
            )
        name = statement.targets[0].id
        parameters[name] = Parameter(name, value, comments.get(statement.lineno, ""))
    return parameters


def check_parameters(name: str | Path, given: Mapping[str, Any]) -> dict[str, Scalar]:
    """Given values with the parameters' types; text, as from a command line, is converted.

    Raises ReportError for a name the notebook does not have, a value of the wrong type, and a
    value that `check_value` refuses.
    """
    known = parameters_of(name)
    title = find(name).stem
    checked: dict[str, Scalar] = {}
    for parameter, value in given.items():
        if parameter not in known:
            raise ReportError(unknown(parameter, [title], known))
        checked[parameter] = _typed(known[parameter], value, title)
        check_value(parameter, checked[parameter])
    return checked


def unknown(parameter: str, titles: Sequence[str], known: Iterable[str]) -> str:
    """What is said of a parameter that none of these notebooks has."""
    known = list(known)
    return (
        f"unknown parameter {parameter!r} for {', '.join(titles)}{meant(parameter, known)}; "
        f"known: {', '.join(known)}"
    )


_NEEDED = {
    str: "text",
    int: "a whole number, as 5",
    float: "a number, as 0.95",
    bool: "true or false",
}
_TRUTH = {"true": True, "yes": True, "false": False, "no": False}


def _typed(parameter: Parameter, value: Any, title: str) -> Scalar:
    kind: Any = parameter.type
    typed: Any = str(value) if isinstance(value, Path) else value
    if isinstance(typed, str) and kind is not str:
        text = typed.strip()
        with contextlib.suppress(ValueError):
            typed = _TRUTH.get(text.lower(), text) if kind is bool else kind(text)
    elif kind is float and type(typed) is int:
        typed = float(typed)
    if type(typed) is not kind or (kind is float and not math.isfinite(typed)):
        raise ReportError(
            f"parameter {parameter.name!r} of {title} is {value!r}; needed: {_NEEDED[kind]}"
        )
    return typed


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value >= least


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


# What the parameters of our notebooks may be; the same check by hand and headlessly.
_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "results": (lambda v: isinstance(v, str) and v != "", "the path of a results folder"),
    "dataset": (
        lambda v: isinstance(v, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*", v) is not None,
        "a data set's name, as digits",
    ),
    "study": (
        lambda v: isinstance(v, str) and re.fullmatch(r"[A-Za-z0-9][\w-]*", v) is not None,
        "a study's name, as isolation",
    ),
    "preset": (lambda v: isinstance(v, str), "text, as quick, or nothing for any"),
    "confidence": (lambda v: _number(v) and 0 < v < 1, "numbers between 0 and 1, as 0.95"),
    "seed": (_whole(0), "whole numbers from 0"),
    "out": (lambda v: isinstance(v, str), "the path of a folder, or nothing"),
    "sample": (_whole(0), "whole numbers from 0"),
    "strength": (lambda v: _number(v) and v >= 0, "numbers not below 0"),
    "steps": (_whole(1), "whole numbers from 1"),
    "models": (_whole(2), "whole numbers from 2"),
    "own_map": (
        lambda v: isinstance(v, str) and re.fullmatch(r"([\w.]+:[\w.]+)?", v) is not None,
        "module:function, as my_maps:occlusion, or nothing",
    ),
    "neutral": (lambda v: _number(v) and v >= 0, "numbers not below 0"),
}


def check_value(parameter: str, value: Any) -> None:
    """Raises ReportError where a parameter of our notebooks has a value that it may not have."""
    if parameter == "metric":
        try:
            metric_label(value)
        except (ValueError, AttributeError) as error:
            allowed = str(error).partition("known: ")[2] or "text, as validation_accuracy"
            raise ReportError(f"metric is {value!r}; allowed: {allowed}") from error
    if parameter in _ALLOWED and not _ALLOWED[parameter][0](value):
        raise ReportError(f"{parameter} is {value!r}; allowed: {_ALLOWED[parameter][1]}")


# --- many at once --------------------------------------------------------------------------------


def grid(over: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values, the last name changing fastest: `variants` for `report`."""
    for name, values in over.items():
        if not values:
            raise ReportError(f"no values for {name}; needed: one or more")
    return [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]


def read_parameters(path: str | Path) -> tuple[dict[str, Scalar], list[dict[str, Scalar]]]:
    """Parameters and variants from a YAML file.

    Either one mapping, whose plain values are for every report and whose lists are a grid, or a
    list of mappings, one a variant. Raises ReportError naming the file and what is wrong.
    """
    from analysis.yaml_text import read_yaml

    try:
        content = read_yaml(Path(path))
    except OSError as error:
        raise ReportError(f"cannot read parameters {path}: {error.strerror}") from error
    except ValueError as error:
        raise ReportError(f"{path} {error}") from error

    def plain(value: Any) -> bool:
        return type(value) in (str, int, float, bool)

    if isinstance(content, list) and content and all(isinstance(one, dict) for one in content):
        for number, one in enumerate(content, 1):
            for name, value in one.items():
                if not plain(value):
                    raise ReportError(
                        f"{path}: {name} of entry {number} is {value!r}; needed: text, a number, "
                        "true or false"
                    )
        return {}, content
    if not isinstance(content, dict):
        holds = "is empty" if content is None else f"holds {str(content)[:40]!r}"
        raise ReportError(
            f"{path} {holds}; needed: lines name: value or name: [values], or a list of such sets"
        )
    for name, value in content.items():
        if not (plain(value) or isinstance(value, list) and value and all(map(plain, value))):
            raise ReportError(
                f"{path}: {name} is {value!r}; needed: text, a number, true, false, or a list"
            )
    lists = {name: value for name, value in content.items() if isinstance(value, list)}
    return {name: content[name] for name in content if name not in lists}, grid(lists)
