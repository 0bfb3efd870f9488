"""Tables: how numbers are said, printed and saved; the 27 as a table."""

import numpy as np
import pandas as pd
import pytest
from oracles.made_runs import SETS, isolation_runs, make_runs, rng

from aba_core.adjustments import members
from analysis import tables
from analysis.studies.isolation import group_table, isolation_sentence, isolation_table
from analysis.studies.tension import hypothesis_sentences, hypothesis_table


def test_offset_form_and_members():
    row = tables.adjustment_table().loc[13]
    assert row[["low", "middle", "high"]].tolist() == [-1, 1, 0]
    assert row[["offset", "low_offset", "high_offset"]].tolist() == [1, -2, -1]
    assert 0 in members("Neutral") and len(members("Eps. & Del.")) == 18
    assert members(["Delta"]) == members("Delta")


def test_sentences_say_above_below_or_inconclusive():
    say = tables.comparison_sentence
    assert say("Epsilon", "Neutral", 3.14, 2.0, 4.2) == (
        "Epsilon is above Neutral by 3.1 points [2.0, 4.2]"
    )
    assert say("A", "B", -3.14, -4.2, -2.0) == "A is below B by 3.1 points [2.0, 4.2]"
    assert say("A", "B", 0.5, -1.0, 2.0) == (
        "A is not shown to differ from B (inconclusive): 0.5 points [−1.0, 2.0]"
    )
    assert say("A", "B", 1.28, 0.02, 2.54) == "A is above B by 1.28 points [0.02, 2.54]"
    assert "(inconclusive without an interval): 0.5 points" in say("A", "B", 0.5, np.nan, np.nan)
    assert say("A", "B", np.nan, np.nan, np.nan) == (
        "A cannot be compared with B: one of them has no run with a number"
    )
    groups = group_table(isolation_table(isolation_runs(), rng()), rng())
    assert isolation_sentence(groups).startswith("Epsilon is above Neutral by ")
    assert isolation_sentence(groups).count(" is above ") == 3
    table = hypothesis_table(isolation_runs(), make_runs(SETS), rng())
    said = hypothesis_sentences(table)
    assert len(said) == 7 and said[-1].startswith("All is above the mean of its members by ")
    assert "its best group" in said[-1] and "its best group" not in said[0]


def test_intervals_are_printed_with_their_number():
    table = pd.DataFrame(
        {
            "name": ["a_b & c", "d"],
            "n": [5, 0],
            "estimate": [55.333, np.nan],
            "estimate_low": [53.06, np.nan],
            "estimate_high": [57.21, np.nan],
            "p_welch": [0.0001, 0.0423],
        }
    )
    shown = tables.present(table)
    assert shown.columns.tolist() == ["Name", "Runs", "Estimate", "p (Welch)"]
    assert shown["Estimate"].tolist() == ["55.3 [53.1, 57.2]", "–"]
    assert shown["p (Welch)"].tolist() == ["<0.001", "0.042"]
    assert tables.present(table, columns=["n", "name"]).columns.tolist() == ["Runs", "Name"]
    with pytest.raises(ValueError, match="lack the columns nothing"):
        tables.present(table, columns=["nothing"])


def test_small_negative_numbers_are_not_minus_zero():
    assert tables.interval_text(-0.01, -0.5, 0.04) == "0.0 [−0.5, 0.0]"


def test_latex_escapes_and_uses_booktabs():
    table = pd.DataFrame({"name": ["a_b & c"], "gain": [-0.5]})
    text = tables.latex(table)
    assert text.splitlines()[0] == r"\begin{tabular}{lr}"
    assert r"a\_b \& c & $-$0.50 \\" in text
    assert text.count("rule") == 3


def test_markdown_has_one_line_per_row():
    text = tables.markdown(isolation_table(isolation_runs(), rng()))
    assert len(text.splitlines()) == 29
    assert len({line.count("|") for line in text.splitlines()}) == 1


def test_saved_tables_keep_full_precision(tmp_path):
    table = isolation_table(isolation_runs(), rng())
    paths = tables.save_table(table, tmp_path / "new" / "isolation.v0.1", columns=["index", "mean"])
    assert [path.name for path in paths] == [f"isolation.v0.1.{e}" for e in ("csv", "tex", "md")]
    back = pd.read_csv(paths[0])
    assert back["mean"].tolist() == pytest.approx(table["mean"].tolist(), rel=1e-14)
    assert back.columns.tolist() == table.columns.tolist()
    assert "SD" not in paths[1].read_text(encoding="utf-8")
