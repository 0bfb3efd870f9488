"""Identity: what a thing is, as plain data, and the hash of it.

A value is {kind, version, the fields that matter and are not at their default}, recursively: never
the text that Python happens to print of it. So classes can be renamed and fields be added without
losing a run. Two rules follow. A default is part of every result: whoever changes one raises the
version of what it belongs to. And a field that cannot matter (`top_k` with target "loss") is left
out: a class names such fields in its property `irrelevant`.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

# Raised when a change to the engine moves runs by more than rounding: older runs are then not taken
# for the same. A method that changes raises its own `version`.
NUMERICS = 1


def plain(value: Any) -> Any:
    """A value as JSON can hold it.

    Numbers, texts, lists and mappings are themselves, whole floats as whole numbers; a class may
    have a method `plain` of its own; a dataclass needs a `kind`. Raises TypeError for anything
    else.
    """
    if value is None or isinstance(value, bool | int | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "plain"):
        return value.plain()
    if not is_dataclass(value) or isinstance(value, type) or not hasattr(value, "kind"):
        raise TypeError(
            f"{type(value).__name__} has no identity; needed: plain data, or a dataclass with "
            "a kind"
        )
    irrelevant = getattr(value, "irrelevant", ())
    content = {"kind": value.kind, "version": getattr(value, "version", 1)}
    for name, default in _defaults(type(value)):
        given = plain(getattr(value, name))
        if name not in irrelevant and given != default:
            content[name] = given
    return content


@cache
def _defaults(kind: type) -> tuple[tuple[str, Any], ...]:
    """The fields of a dataclass with their defaults as plain data."""
    return tuple((entry.name, _default(entry)) for entry in fields(kind))


def _default(entry: Any) -> Any:
    """A field's default as plain data; where it has none, something that nothing equals."""
    if entry.default is not MISSING:
        return plain(entry.default)
    return plain(entry.default_factory()) if entry.default_factory is not MISSING else object()


def short_hash(value: Any) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# --- what strangers bring: "module:name" ---------------------------------------------------------


@dataclass(frozen=True)
class Use:
    """Something of your own, by name: "module:name", with options for it.

    In a study file: {use: "module:name", option: value}.
    """

    where: str
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def read(cls, given: Any) -> Use | None:
        """What {use: ...} or "module:name" says; None where it is neither."""
        if isinstance(given, Use):
            return given
        if isinstance(given, str):
            return cls(given) if ":" in given else None
        if isinstance(given, Mapping) and "use" in given:
            options = {str(name): value for name, value in given.items() if name != "use"}
            return cls(str(given["use"]), tuple(sorted(options.items())))
        return None

    def load(self) -> Any:
        """The object itself. Raises ValueError with the reason where it cannot be had."""
        return load(self.where)

    def function(self) -> Callable[..., Any]:
        """The object, called with its options beside what it is given."""
        return partial(self.load(), **dict(self.options))

    def plain(self) -> dict[str, Any]:
        """What it is: its place, its options, and its version or, without one, its source."""
        return {"use": self.where, **plain(dict(self.options)), "version": version_of(self.load())}

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.options)
        return f"{self.where}({options})" if options else self.where


def load(where: str) -> Any:
    """The object called "module:name", from the installed packages or the current folder.

    Raises ValueError naming what is wrong.
    """
    module, separator, name = where.partition(":")
    if not separator or not module or not name:
        raise ValueError(f"{where!r} is no place of code; needed: 'module:name'")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        value: Any = import_module(module)
    except Exception as error:  # whatever the module does when it is imported
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"cannot import {module!r} of {where!r}: {problem}") from error
    for part in name.split("."):
        if not hasattr(value, part):
            raise ValueError(f"{module!r} has no {name!r} (in {where!r})")
        value = getattr(value, part)
    return value


# Modules whose code somebody here has named: in a study file, in Python, or by --trust, which sets
# the variable for the processes of reports too.
TRUST = "ABA_TRUST"
_trusted: set[str] = set()


def trust(*where: str) -> None:
    """Let results import from these modules ("module" or "module:name")."""
    _trusted.update(place.partition(":")[0] for place in where)


def load_for_results(where: str) -> Any:
    """`load`, for code that results name. Somebody else may have written them, and importing a
    module runs it; so only modules are imported that somebody here has named.

    Raises ValueError, which says how to name one.
    """
    module = where.partition(":")[0]
    own = ("aba_core", "analysis")  # the toolkit's own: no results bring it
    named = {*own, *_trusted, *(name.strip() for name in os.environ.get(TRUST, "").split(","))}
    parents = module.split(".")
    if not named & {".".join(parents[:size]) for size in range(1, len(parents) + 1)}:
        raise ValueError(
            f"its results name the code {where!r}, which runs only where you say so: "
            f"--trust {module} (or {TRUST}={module})"
        )
    return load(where)


def version_of(value: Any) -> Any:
    """An object's own `version`; without one, a hash of its source, so that a changed function is
    another one."""
    declared = getattr(value, "version", None)
    if declared is not None and not callable(declared):
        return plain(declared)
    try:
        return short_hash(inspect.getsource(value if callable(value) else type(value)))
    except (OSError, TypeError):
        return 1


def call_with(function: Callable[..., Any], given: Mapping[str, Any], where: str) -> Any:
    """The function's value for those of the given arguments that it takes.

    Raises ValueError where it needs one that is not given.
    """
    parameters = inspect.signature(function).parameters
    everything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    taken = {n: v for n, v in given.items() if everything or n in parameters}
    for name, parameter in parameters.items():
        ordinary = parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if ordinary and parameter.default is parameter.empty and name not in taken:
            raise ValueError(f"{where} needs {name!r}; known: {', '.join(given)}")
    return function(**taken)


def meant(name: object, known: Iterable[str], close_from: float = 0.6) -> str:
    """ " (did you mean 'mnist'?)" where a known name is close to a misspelt one, else "".

    close_from: the least similarity (`difflib`) of a guess, higher for names that begin alike.
    """
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=close_from)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check_fields(given: Iterable[object], known: Sequence[str], of: str = "") -> None:
    """Raises ValueError for the first name that is no field. of: whose fields, as " of card"."""
    for name in given:
        if name not in known:
            raise ValueError(
                f"unknown field {name!r}{meant(name, known)}{of}; known: {', '.join(known)}"
            )


def in_short(names: Iterable[str], most: int = 12) -> str:
    """Names for a message: "a, b, c"; "arm 0 to arm 26" for a run of numbers; after `most` of them
    the number of others."""
    runs: list[list[str]] = []
    for name in names:
        last = re.fullmatch(r"(.*?)(\d+)", runs[-1][-1]) if runs else None
        if last and name == f"{last[1]}{int(last[2]) + 1}":
            runs[-1].append(name)
        else:
            runs.append([name])
    parts = [part for run in runs for part in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else run)]
    if len(parts) <= most + 1:
        return ", ".join(parts)
    return f"{', '.join(parts[:most])}, and {len(parts) - most} more"


def _at_default(entry: Any, value: Any) -> bool:
    """Whether a field is at its default; a tensor, as stacked methods have, never is."""
    made = entry.default if entry.default_factory is MISSING else entry.default_factory()
    return type(value) is type(made) and value == made


def fields_by_name(cls: type[T]) -> type[T]:
    """A dataclass that refuses an unknown field and names those that it has, and that is shown by
    its fields that are not at their default."""
    made = cls.__init__
    known = [entry.name for entry in fields(cls) if entry.init]  # type: ignore[arg-type]

    @functools.wraps(made)
    def __init__(self: T, *values: Any, **given: Any) -> None:
        for name in given:
            if name not in known:
                raise TypeError(
                    f"{cls.__name__} has no field {name!r}{meant(name, known)}; known: "
                    f"{', '.join(known)}"
                )
        made(self, *values, **given)

    def __repr__(self: T) -> str:
        shown = [
            f"{entry.name}={value!r}"
            for entry in fields(cls)  # type: ignore[arg-type]
            if not _at_default(entry, value := getattr(self, entry.name))
        ]
        return f"{cls.__name__}({', '.join(shown)})"

    cls.__init__ = __init__  # type: ignore[assignment]
    cls.__repr__ = __repr__  # type: ignore[assignment]
    return cls
