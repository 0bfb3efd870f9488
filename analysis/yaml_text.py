"""YAML that somebody gives: read under limits, so that no file is larger inside than outside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

MOST_BYTES = 2**20
MOST_VALUES = 100_000


class Loader(yaml.SafeLoader):
    """YAML with numbers as 1e-3, which YAML 1.1 takes for text unless it is written 1.0e-3."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read_value(text: str) -> Any:
    """One value, as an option gives it. Raises ValueError for what is no YAML."""
    try:
        return yaml.load(text, Loader)  # a SafeLoader with one more way to write a number
    except yaml.YAMLError as error:
        raise ValueError(f"is not valid YAML: {_reason(error)}") from error


def read_yaml(path: Path) -> Any:
    """What a YAML file says. Raises OSError, and ValueError with one line for what is no YAML or
    more than a study or a batch can be."""
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"is larger than {MOST_BYTES} bytes; nothing to read has so many")
    try:
        text = content.decode("utf-8")
        values = _values(yaml.compose(text, Loader), {})
        if values > MOST_VALUES:
            raise ValueError(f"stands for {values:.3g} values; allowed: up to {MOST_VALUES}")
        return yaml.load(text, Loader)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not text in UTF-8 (byte {error.start}); save it so") from error
    except yaml.YAMLError as error:
        raise ValueError(f"is not valid YAML: {_reason(error)}") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def _reason(error: yaml.YAMLError) -> str:
    """What PyYAML says in some five lines, in one: the place, what is wrong there, and in what."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark, begun = error.problem_mark, error.context_mark
    reason = f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    since = f" from line {begun.line + 1}" if begun is not None else ""
    return reason + (f" ({error.context}{since})" if error.context else "")


def _values(node: Any, known: dict[int, int | None]) -> int:
    """How many values a node stands for, those behind its aliases counted each time."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = None  # under way: met again before it is counted, it holds itself
        pairs = isinstance(node, yaml.MappingNode)
        children = [child for pair in node.value for child in pair] if pairs else node.value
        known[id(node)] = 1 + sum(_values(child, known) for child in children)
    count = known[id(node)]
    if count is None:
        raise ValueError("holds an alias of itself")
    return count


def first_problem(error: ValidationError) -> str:
    """The first thing wrong, in one line: field, reason, given value."""
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"])) or "study"
    reason = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{place} is missing"
    if problem["type"] == "extra_forbidden":
        return f"unknown field {place!r}"
    if problem["type"] == "value_error":  # our own checks name the value themselves
        return reason
    if problem["type"] == "too_short":
        return f"{place} is empty; needed: one or more"
    if problem["type"] == "tuple_type":
        return f"{place} is {problem['input']!r}; needed: a list, as [a, b]"
    if problem["type"] == "string_pattern_mismatch" and place.rpartition(".")[2] == "name":
        return f"{place} is {problem['input']!r}; allowed: letters, digits and -, without spaces"
    return f"{place}: {reason} (given: {problem['input']!r})"
