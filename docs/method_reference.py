"""Puts every method of the toolkit into a page, family by family.

The line `<!-- methods -->` becomes what the table of methods and their docstrings say, so that a
new method is on the page without a change to it.
"""

import inspect
from dataclasses import fields
from typing import Any

MARK = "<!-- methods -->"


def families() -> dict[str, dict[type, list[str]]]:
    """The kinds of every class, by module, in the order of the table."""
    from aba_core.arms import METHODS
    from aba_core.identity import load

    found: dict[str, dict[type, list[str]]] = {}
    for kind, info in METHODS.items():
        made = load(info.where)
        cls = made if isinstance(made, type) else type(made)
        found.setdefault(cls.__module__, {}).setdefault(cls, []).append(kind)
    return found


def field_rows(cls: type) -> list[str]:
    """A table of a method's fields and their defaults."""
    from aba_core.methods.base import _required

    rows = ["| field | default |", "|---|---|"]
    for entry in fields(cls):  # type: ignore[arg-type]
        if not entry.init:
            continue
        made = entry.default_factory() if callable(entry.default_factory) else entry.default
        shown = "needed" if _required(entry) else f"`{made!r}`" if made != "" else "none"
        rows.append(f"| `{entry.name}` | {shown} |")
    return rows


def preset_rows(cls: type, kinds: list[str]) -> list[str]:
    """A table of the kinds that are a class with some of its fields set."""
    from aba_core.arms import METHODS
    from aba_core.methods.base import method_table
    from aba_core.methods.mixing import MIXES

    given = {kind: text for kind, _, _, text in method_table()}
    rows = ["| kind | name | sets |", "|---|---|---|"]
    for kind in kinds:
        if METHODS[kind].given or not isinstance(_made(kind), type):
            says = f"`{given[kind]}`"
            if kind in MIXES:
                says += f". {MIXES[kind].definition}"
            rows.append(f"| `{kind}` | {METHODS[kind].title} | {says} |")
    return rows


def _made(kind: str) -> Any:
    from aba_core.arms import METHODS
    from aba_core.identity import load

    return load(METHODS[kind].where)


def section(cls: type, kinds: list[str]) -> list[str]:
    """What the page says of one class."""
    from aba_core.arms import METHODS

    own = next((kind for kind in kinds if _made(kind) is cls and not METHODS[kind].given), "")
    title = METHODS[own].title if own else cls.__name__
    lines = [f"### {title}", ""]
    lines += [f"`method: {own}`" if own else f"`{cls.__module__}:{cls.__name__}`", ""]
    lines += [inspect.getdoc(cls) or "", "", *field_rows(cls), ""]
    presets = preset_rows(cls, kinds)
    return [*lines, *presets, ""] if len(presets) > 2 else lines


def reference() -> str:
    """The page's sections in Markdown."""
    lines = []
    for module, classes in families().items():
        whole = inspect.getdoc(inspect.getmodule(next(iter(classes)))) or ""
        first, _, rest = whole.partition("\n\n")
        title, _, after = " ".join(first.split()).partition(":")
        text = after.strip() or ""
        text = text[:1].upper() + text[1:]
        lines += [f"## {title if after else module.rpartition('.')[2].title()}", ""]
        lines += [text if after else " ".join(first.split()), "", rest, ""]
        for cls, kinds in classes.items():
            lines += section(cls, kinds)
    return "\n".join(lines)


def expanded(markdown: str) -> str:
    """A page with its mark replaced."""
    return markdown.replace(MARK, reference()) if MARK in markdown else markdown
