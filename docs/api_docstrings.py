"""An extension of griffe: docstrings stay as they are written.

Ours are plain text. Markdown would take `>>>` for quotations and a rule of = for a heading, so both
are fenced before the page is made; and table[row][column] for a link, so that it is escaped.
"""

import re
from typing import Any

import griffe

_RULE = re.compile(r"=+( +=+)+")


def escaped(line: str) -> str:
    """The line with brackets that follow brackets kept from being links; code stays as it is."""
    if line.startswith("    "):
        return line
    parts = line.split("`")
    parts[::2] = [re.sub(r"\](?=[\[(])", r"]\\", part) for part in parts[::2]]
    return "`".join(parts)


def preformatted(text: str) -> str:
    """The text with its examples and ruled tables in fences, and without accidental links."""
    out: list[str] = []
    lines = text.splitlines()
    place = 0
    while place < len(lines):
        line = lines[place].strip()
        if _RULE.fullmatch(line):
            last = max(n for n in range(place, len(lines)) if _RULE.fullmatch(lines[n].strip()))
            out += ["```text", *lines[place : last + 1], "```"]
            place = last + 1
        elif line.startswith(">>>"):
            end = next((n for n in range(place, len(lines)) if not lines[n].strip()), len(lines))
            out += ["```python", *lines[place:end], "```"]
            place = end
        else:
            out.append(escaped(lines[place]))
            place += 1
    return "\n".join(out)


class Preformatted(griffe.Extension):
    """Applies `preformatted` to every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = preformatted(obj.docstring.value)
