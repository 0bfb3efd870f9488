"""Figures accept incomplete tables, and are written alike each time."""

import re
import zlib
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from fontTools.subset import Options
from fontTools.ttLib import TTFont
from matplotlib import pyplot as plt
from oracles.made_runs import DIVERGED, KINDS, MISSING, PUBLISHED, make_tables, rng

from analysis import figures
from analysis.studies.isolation import group_plot, group_table, isolation_plot
from analysis.studies.tension import hypothesis_plot
from analysis.studies.verdicts import verdict_plot

pytestmark = pytest.mark.usefixtures("no_windows")


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_draws_every_table(kind):
    isolation, sets = make_tables(kind)
    for draw, table in (
        (isolation_plot, isolation),
        (partial(group_plot, isolation), group_table(isolation, rng())),
        (figures.adjustment_heatmap, isolation),
        (hypothesis_plot, sets),
    ):
        with figures.style():
            ax = draw(table)
            ax.figure.canvas.draw()
            assert ax.figure.get_figwidth() * 25.4 == pytest.approx(figures.ONE_COLUMN)
        given = plt.subplots()[1]
        assert draw(table, given) is given


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_leaves_the_figure(kind):
    isolation, sets = make_tables(kind)
    for draw, table in (
        (isolation_plot, isolation),
        (figures.adjustment_heatmap, isolation),
        (hypothesis_plot, sets),
    ):
        with figures.style():
            figure = draw(table).figure
        figure.canvas.draw()
        tight, size = figure.get_tightbbox(), figure.get_size_inches()
        assert tight.x0 >= -0.01 and tight.y0 >= -0.01
        assert tight.x1 <= size[0] + 0.01 and tight.y1 <= size[1] + 0.01


def test_missing_and_diverged_runs_are_written_on_the_figure():
    def texts(ax):
        return [text.get_text() for text in ax.texts]

    assert texts(isolation_plot(make_tables(MISSING)[0])).count("no runs") == 2
    assert texts(isolation_plot(make_tables(DIVERGED)[0])).count("1 diverged") == 2
    assert any("†" in text for text in texts(figures.adjustment_heatmap(make_tables(DIVERGED)[0])))
    sets = hypothesis_plot(make_tables(DIVERGED)[1])
    assert "All\n2 diverged" in [label.get_text() for label in sets.get_yticklabels()]
    assert " no runs" in texts(hypothesis_plot(make_tables(MISSING)[1]))


def test_the_heatmap_shows_27_numbers_and_checks_its_column():
    table, _ = make_tables(PUBLISHED)
    ax = figures.adjustment_heatmap(table)
    assert len(ax.texts) == 27 and "58.0" in [text.get_text() for text in ax.texts]
    figures.adjustment_heatmap(table, value="gain", digits=2, label="Gain")
    with pytest.raises(ValueError, match="unknown column 'means'"):
        figures.adjustment_heatmap(table, value="means")


def test_numbers_beside_marks_hide_neither_marks_nor_one_another():
    ax = figures.new_axes()
    points = np.array([[0.0, 0.0], [0.0, 0.0], [0.02, 0.02], [0.02, -0.02], [1.0, 1.0]])
    ax.plot(*points.T, "o")
    figures.numbers_beside(ax, points, 6.0)
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert [text.get_text() for text in ax.texts] == ["1", "2", "3", "4", "5"]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        for at in ax.transData.transform(points):
            assert not box.contains(*at)


def test_style_changes_nothing_outside_its_context():
    before = dict(mpl.rcParams)
    with figures.style("talk"):
        assert mpl.rcParams["font.size"] == 14
    assert dict(mpl.rcParams) == before
    with pytest.raises(ValueError, match="known: paper, talk"):
        figures.style("poster")


def test_drawing_does_not_change_the_table():
    isolation, sets = make_tables(DIVERGED)
    copies = isolation.copy(), sets.copy()
    isolation_plot(isolation)
    figures.adjustment_heatmap(isolation)
    hypothesis_plot(sets)
    pd.testing.assert_frame_equal(isolation, copies[0])
    pd.testing.assert_frame_equal(sets, copies[1])


TITLE = "Gains: Σ (√n), per step"


def streams(path):
    """What a PDF file holds, unpacked."""
    for packed in re.findall(rb"stream\r?\n(.*?)endstream", path.read_bytes(), re.DOTALL):
        with suppress(zlib.error):
            yield zlib.decompress(packed)


def test_fonts_are_embedded_without_tables_that_nobody_reads_and_with_every_glyph(
    tmp_path, monkeypatch
):
    def saved(name):
        ax = figures.new_axes()
        ax.plot([1, 2], [-3, 0.5])
        ax.set(title=TITLE, xlabel="$x_1$ → ∞")
        (path,) = figures.save_figure(ax.figure, tmp_path / name, ["pdf"])
        plt.close(ax.figure)
        drawn, outlines, tables = [], {}, []
        for content in streams(path):
            if content[:4] != b"\0\1\0\0":
                drawn += [content] if b" Tf" in content else []
                continue
            font = TTFont(BytesIO(content))
            face, glyphs = str(font["name"].getDebugName(4)), font["glyf"]
            for glyph in font.getGlyphOrder():
                outlines[face, glyph] = [*glyphs[glyph].getCoordinates(glyphs)[0]]
            tables.append({*font.keys()})
        return drawn, outlines, tables

    drawn, outlines, tables = saved("without")
    monkeypatch.setattr(figures, "_COMPOSING", ())
    as_usual, all_outlines, all_tables = saved("with")
    assert drawn and drawn == as_usual and len(tables) >= 2
    assert outlines.items() <= all_outlines.items()
    names = TTFont(Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf").getBestCmap()
    assert {names[ord(letter)] for letter in TITLE} <= {glyph for _, glyph in outlines}
    composing = {"GSUB", "GPOS"}
    assert not any(here & composing for here in tables) and composing <= all_tables[0]
    assert "GSUB" not in Options._drop_tables_default  # other programs' figures stay as they are


def test_saved_figures_are_equal_byte_for_byte(tmp_path):
    contents = []
    for name in ("first", "second"):
        with figures.style():
            table = make_tables(PUBLISHED)[0]
            ax = group_plot(table, group_table(table, rng()))
        paths = figures.save_figure(ax.figure, tmp_path / name / "groups.v1")
        assert [path.name for path in paths] == ["groups.v1.pdf", "groups.v1.svg", "groups.v1.png"]
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    svg = contents[0][1].decode("utf-8")
    assert ">Neutral</text>" in svg  # text stays text
    with pytest.raises(ValueError, match="unknown format 'jpg'; known: pdf, svg, png"):
        figures.save_figure(ax.figure, tmp_path / "x", formats=["jpg"])


def test_an_effect_beyond_the_axis_is_written_clear_of_its_arrow():
    """The arrow head would hide the minus sign of the number."""
    rows = [*((f"small {k}", 0.1 * k - 0.7) for k in range(18)), ("low", -5.0), ("high", 9.0)]
    table = pd.DataFrame(
        {
            "hypothesis": name, "estimate": at, "estimate_low": at - 0.3, "estimate_high": at + 0.3,
            "margin": 0.5, "n": 9, "effect": "open", "verdict": "supported",
        }
        for name, at in rows
    )  # fmt: skip
    with figures.style("paper"):
        ax = verdict_plot(table)
        ax.figure.draw_without_rendering()
        written = {text.get_text(): text.get_window_extent() for text in ax.texts}
        heads = [line for line in ax.lines if line.get_marker() in "<>"]
    assert {line.get_marker() for line in heads} == {"<", ">"}
    for line in heads:
        told = "−5.0 [−5.3, −4.7]" if line.get_marker() == "<" else "9.0 [8.7, 9.3]"
        centre = ax.transData.transform((line.get_xdata()[0], 0))[0]
        half = line.get_markersize() / 2 * ax.figure.dpi / 72
        box = written[told]
        assert box.x0 > centre + half if line.get_marker() == "<" else box.x1 < centre - half
    plt.close("all")
