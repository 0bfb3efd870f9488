"""Tables on pages: they fit, nothing is lost, and what repeats is shown once."""

import re

import pandas as pd
import pytest

from analysis.reports.screen_tables import WIDTH, html_table


def cells_of(table: str) -> list[list[str]]:
    """The text of every row's cells, a number and its interval joined again."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.S)
    found = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S) for row in rows]
    return [[re.sub(r"<[^>]+>", " ", cell).strip() for cell in row] for row in found]


def made(arms: int) -> pd.DataFrame:
    rows = [
        {"aspect": aspect, "quantity": f"accuracy under {aspect} {number} (%)"}
        | {f"Arm {arm}": f"{arm}.1 [−{number}.25, {arm + 9}.75] ▲" for arm in range(arms)}
        for aspect in ("attacks", "corruption")
        for number in range(3)
    ]
    return pd.DataFrame(rows)


def test_a_table_that_fits_is_one_table_with_its_intervals_in_line():
    table = html_table(made(2))
    assert table.count("<table") == 1 and "<br>" not in table
    assert "0.1 [−0.25, 9.75] ▲" in table


def test_a_table_that_is_too_wide_is_split_and_every_part_names_its_rows():
    shown = made(9)
    parts = html_table(shown).split("</table>")[:-1]
    assert len(parts) > 1
    arms: list[str] = []
    for part in parts:
        head, *rows = cells_of(part)
        assert [row[0] for row in rows if len(row) == 1] == ["attacks", "corruption"]
        rows = [row for row in rows if len(row) > 1]
        assert head[0] == "quantity" and len(rows) == len(shown)
        arms += head[1:]
        widths = [
            max([*map(len, head[column].split()), *(_widest(row[column]) for row in rows)])
            for column in range(1, len(head))
        ]
        assert sum(widths) < WIDTH - 30  # the rest is for the names of rows
        for row, (_, original) in zip(rows, shown.iterrows(), strict=True):
            assert row[0] == original["quantity"]
            for name, cell in zip(head[1:], row[1:], strict=True):
                number, ends = original[name].split(" ", 1)
                ends, mark = ends.rsplit(" ", 1)
                assert cell.split() == f"{number} {mark} {ends}".split()
    assert arms == [f"Arm {number}" for number in range(9)]


def test_the_parts_of_a_table_begin_with_what_tells_its_rows_apart():
    columns = {f"Quantity {number}": ["1.5 [1.2, 1.8]"] * 3 for number in range(12)}
    shown = pd.DataFrame({"data": "digits", "subset": "30", "arm": ["a", "b", "c"], **columns})
    parts = html_table(shown.astype(str)).split("</table>")[:-1]
    assert len(parts) > 1
    for part in parts:
        assert [row[0] for row in cells_of(part)] == ["arm", "a", "b", "c"]


def _widest(cell: str) -> int:
    return max(map(len, re.split(r"  | (?=\[)", cell)))


def test_what_names_rows_is_shown_once_and_numbers_every_time():
    _, *rows = cells_of(html_table(made(2)))
    assert [row[0] for row in rows] == ["attacks", "", "", "corruption", "", ""]
    again = pd.DataFrame({"n": ["1", "1"], "mean": ["2.0", "2.0"]})
    assert cells_of(html_table(again))[1:] == [["1", "2.0"], ["1", "2.0"]]
    other = pd.DataFrame({"claim": ["a", "b"], "data": ["digits", "digits"], "n": ["1", "1"]})
    assert [row[1] for row in cells_of(html_table(other))[1:]] == ["digits", "digits"]


@pytest.mark.parametrize("text", ["<b>", "a & b", '"quoted"'])
def test_a_strangers_text_is_no_markup(text):
    table = html_table(pd.DataFrame({text: [text], "n": ["1"]}))
    assert "<b>" not in table and table.count("&") >= 2


def test_an_empty_table_has_its_head():
    assert cells_of(html_table(pd.DataFrame({"a": [], "b": []}))) == [["a", "b"]]
