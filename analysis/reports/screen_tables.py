"""Tables as pages show them: HTML that fits a window of 1280 pixels and a printed page.

A table that is too wide has its intervals below their numbers, its texts wrapped, and what its
first column repeats as a heading over the rows; one that is too wide even so is shown in parts,
each with the columns that name its rows. What repeats in these from row to row is shown once.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

# Characters that fit on A4 at the size of print, in a wide typeface; see page.css.
WIDTH = 120
_PADDING = 3
_MOST_KEYS = 2  # columns that name a row
_NUMBER = re.compile(r"[−<]?\d[\d.]*( \[.*\])?|–")
# A number with its interval, as in "1.2 [0.9, 1.5] points" or "supported 1.2 [0.9, 1.5] points".
_INTERVAL = re.compile(r"((?:\w+ )?[−<]?\d[\d.]*) (\[[^\]]*\])(.*)")
_PLAIN = re.compile(r"(?:[−<]?\d[\d.]*|–|)( [▲▼])?")


@dataclass(frozen=True)
class _Column:
    name: str
    cells: tuple[str, ...]
    key: bool  # it names rows

    @property
    def number(self) -> bool:
        return all(_NUMBER.fullmatch(cell) for cell in self.cells)

    @property
    def intervals(self) -> bool:
        """Whether cells are numbers, and some have intervals."""
        found = [bool(_INTERVAL.fullmatch(cell)) for cell in self.cells]
        return any(found) and all(
            one or _PLAIN.fullmatch(cell) for one, cell in zip(found, self.cells, strict=True)
        )

    def wraps(self, longest: int) -> bool:
        return not self.intervals and any(len(cell) > longest for cell in self.cells)

    def width(self, tight: bool) -> int:
        """In characters."""
        texts = list(self.cells)
        if self.wraps(_LONGEST[tight]):
            texts = ["m" * self.wrapped_to]
        elif tight and self.intervals:
            texts = [part for text in texts for part in _halves(text)]
        head = max(map(len, self.name.split()), default=0)
        return max(head, *map(len, texts), 0) + _PADDING

    @property
    def wrapped_to(self) -> int:
        """Characters of a line, so that most texts take two and none many."""
        most = 26 if self.key else 20
        return min(most, max(12, max(map(len, self.cells), default=0) // 3))

    def repeats(self, row: int) -> bool:
        return row > 0 and self.cells[row] == self.cells[row - 1]


_LONGEST = {False: 48, True: 20}  # of a text that is not wrapped


def _halves(text: str) -> tuple[str, str]:
    found = _INTERVAL.fullmatch(text)
    return (found[1] + found[3], found[2]) if found else (text, "")


def html_table(shown: pd.DataFrame) -> str:
    """Text cells as one HTML table or several: numbers to the right, groups in their colours."""
    columns: list[_Column] = []
    for place, name in enumerate(shown.columns):
        cells = tuple(map(str, shown[name]))
        named = place < _MOST_KEYS and all(one.key for one in columns)
        key = named and any(cells) and not any(map(_NUMBER.fullmatch, cells))
        columns.append(_Column(str(name), cells, key))
    if sum(column.width(False) for column in columns) <= WIDTH:
        return _one_table(columns, tight=False)
    columns = _named(columns)
    rows = range(len(shown))
    group = columns[0] if columns[0].key and any(map(columns[0].repeats, rows)) else None
    parts = _parts(columns[1:] if group else columns)
    return "\n".join(_one_table(part, tight=True, group=group) for part in parts)


def _named(columns: Sequence[_Column]) -> list[_Column]:
    """The columns, the one that names rows first where those in front do not."""
    keys = [column for column in columns if column.key]
    rows = list(zip(*(column.cells for column in keys), strict=True))
    if len(set(rows)) == len(columns[0].cells):
        return list(columns)
    for one in columns:
        if len(set(one.cells)) == len(one.cells) and not any(map(_NUMBER.fullmatch, one.cells)):
            rest = [replace(other, key=False) for other in columns if other is not one]
            return [replace(one, key=True), *rest]
    return list(columns)


def _parts(columns: Sequence[_Column]) -> list[list[_Column]]:
    """The columns of each table, so that each fits where that can be had; as even as may be."""
    keys = [column for column in columns if column.key]
    rest = [column for column in columns if not column.key]
    room = WIDTH - sum(column.width(True) for column in keys)
    whole = sum(column.width(True) for column in rest)
    even = whole / max(1, -(-whole // max(room, 1)))  # the width of each part
    parts: list[list[_Column]] = [[]]
    used = 0
    for column in rest:
        width = column.width(True)
        if parts[-1] and (used + width > room or used >= even):
            parts.append([])
            used = 0
        parts[-1].append(column)
        used += width
    return [[*keys, *part] for part in parts]


def _one_table(columns: Sequence[_Column], *, tight: bool, group: _Column | None = None) -> str:
    """group: what is a heading over the rows that it repeats in."""
    styles = [_style(column, tight) for column in columns]
    rows = []
    for row in range(len(columns[0].cells)):
        new = group is not None and not group.repeats(row)
        if group is not None and new:
            heading = html.escape(group.cells[row])
            span = f'colspan="{len(columns)}" scope="rowgroup"'
            rows.append(f'<tr class="group"><th {span}>{heading}</th></tr>')
        cells, repeats = [], not new
        for column, style in zip(columns, styles, strict=True):
            repeats = repeats and column.key and column.repeats(row)
            text = "" if repeats else _cell(column, column.cells[row], tight)
            cells.append(f"<td{style}>{text}</td>")
        again = columns[0].key and columns[0].repeats(row) and not new
        kind = ' class="again"' if again else ""
        rows.append(f"<tr{kind}>{''.join(cells)}</tr>")
    head = "".join(
        f"<th{style}>{html.escape(column.name)}</th>"
        for column, style in zip(columns, styles, strict=True)
    )
    body = "\n".join(rows)
    return (
        f'<table class="numbers"><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>'
    )


def _style(column: _Column, tight: bool) -> str:
    side = "right" if column.number else "left"
    least = f"; min-width: {column.wrapped_to / 2:g}rem"
    wrapped = f"{least}; white-space: normal; overflow-wrap: anywhere"
    return f' style="text-align: {side}{wrapped * column.wraps(_LONGEST[tight])}"'


def _cell(column: _Column, text: str, tight: bool) -> str:
    from analysis.figures import COLOURS
    from analysis.interactive import SYMBOLS

    safe = html.escape(text)
    if text in SYMBOLS:
        return f'<span style="color: {COLOURS[text]}">{SYMBOLS[text]}</span> {safe}'
    if tight and column.intervals and _INTERVAL.fullmatch(text):
        number, ends = map(html.escape, _halves(text))
        return f"{number}<br><small>{ends}</small>"
    return safe
