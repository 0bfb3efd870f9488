"""Figures show what the tables hold, accept incomplete ones, and are written alike each time."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from analysis import figures, tables

COMPLETE, ONE_SEED, MISSING, DIVERGED, PUBLISHED = (
    "complete",
    "one seed",
    "missing runs",
    "diverged runs",
    "published",
)
KINDS = (COMPLETE, ONE_SEED, MISSING, DIVERGED, PUBLISHED)


@pytest.fixture(autouse=True)
def _no_window_and_no_leftovers():
    with mpl.rc_context({"backend": "agg"}):
        plt.switch_backend("agg")
        yield
        plt.close("all")


def make_runs(means: dict[str, float], seeds: int) -> pd.DataFrame:
    noise = np.random.default_rng(1)
    rows = [
        {"arm": arm, "seed": seed, "status": "finished"}
        | {"validation_accuracy": mean + 2 * noise.normal()}
        for arm, mean in means.items()
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def make_tables(kind: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """An isolation table and a hypothesis table."""
    if kind == PUBLISHED:
        name = "20newsgroups-tiny"
        return tables.published_isolation_table(name), tables.published_hypothesis_table(name)
    published = tables.published_isolation_table("20newsgroups-tiny")["mean"]
    seeds = 1 if kind == ONE_SEED else 5
    isolation = make_runs({tables.arm_name(i): mean for i, mean in enumerate(published)}, seeds)
    sets = make_runs(dict.fromkeys(tables.GROUP_SETS, 50.0), seeds)
    if kind == MISSING:
        isolation = isolation[~isolation["arm"].isin(["adjustment 3", "adjustment 20"])]
        sets = sets[sets["arm"] != "All"]
    if kind == DIVERGED:
        for index, accuracy in ((0, 5.0), (20, np.nan)):
            isolation.loc[index, ["status", "validation_accuracy"]] = ["diverged", accuracy]
    rng = np.random.default_rng(0)
    return (
        tables.isolation_table(isolation, rng),
        tables.hypothesis_table(isolation, sets, rng),
    )


def make_frozen(seeds: int = 3, arms: tuple[str, ...] = ("vanilla",)) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "adjustment": row["index"], "strength": strength}
            | {"loss_change": (row["high"] - row["low"]) * strength + 0.01 * seed}
            | {"accuracy": 60.0 - strength, "class_score_change": 0.0}
            for arm in arms
            for seed in range(seeds)
            for row in tables.adjustment_table().to_dict("records")
            for strength in (0.05, 0.2, 1.0)
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_draws_every_table(kind):
    isolation, sets = make_tables(kind)
    for draw, table in (
        (figures.isolation_plot, isolation),
        (figures.group_plot, isolation),
        (figures.adjustment_heatmap, isolation),
        (figures.hypothesis_plot, sets),
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
        (figures.isolation_plot, isolation),
        (figures.adjustment_heatmap, isolation),
        (figures.hypothesis_plot, sets),
    ):
        with figures.style():
            figure = draw(table).figure
        figure.canvas.draw()
        tight, size = figure.get_tightbbox(), figure.get_size_inches()
        assert tight.x0 >= -0.01 and tight.y0 >= -0.01
        assert tight.x1 <= size[0] + 0.01 and tight.y1 <= size[1] + 0.01


def test_the_isolation_plot_orders_by_mean_and_colours_by_group():
    table, _ = make_tables(COMPLETE)
    ax = figures.isolation_plot(table)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    best = table.loc[table["mean"].idxmax()]
    assert labels[-1].startswith(f"{best['index']} [")
    assert "13 [−1, 1, 0]" in labels
    colours = {to_hex(line.get_color()).upper() for line in ax.lines}
    assert {figures.COLOURS[group] for group in tables.GROUPS} <= colours
    intervals = [
        line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linewidth() > 1
    ]
    assert len(intervals) == 27


def test_missing_and_diverged_runs_are_written_on_the_figure():
    def texts(ax):
        return [text.get_text() for text in ax.texts]

    assert texts(figures.isolation_plot(make_tables(MISSING)[0])).count("no runs") == 2
    assert texts(figures.isolation_plot(make_tables(DIVERGED)[0])).count("1 diverged") == 2
    assert any("†" in text for text in texts(figures.adjustment_heatmap(make_tables(DIVERGED)[0])))
    sets = figures.hypothesis_plot(make_tables(DIVERGED)[1])
    assert "All\n2 diverged" in [label.get_text() for label in sets.get_yticklabels()]
    assert " no runs" in texts(figures.hypothesis_plot(make_tables(MISSING)[1]))


def test_one_wild_interval_does_not_flatten_the_rest():
    table, _ = make_tables(COMPLETE)
    table.loc[5, ["mean_low", "mean_high"]] = [0.0, 100.0]
    low, high = figures.isolation_plot(table).get_xlim()
    assert high - low < 40


def test_the_heatmap_shows_27_numbers_and_checks_its_column():
    table, _ = make_tables(PUBLISHED)
    ax = figures.adjustment_heatmap(table)
    assert len(ax.texts) == 27 and "58.0" in [text.get_text() for text in ax.texts]
    figures.adjustment_heatmap(table, value="gain", digits=2, label="Gain")
    with pytest.raises(ValueError, match="unknown column 'means'"):
        figures.adjustment_heatmap(table, value="means")


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("value", ["loss_change", "accuracy", "class_score_change"])
def test_frozen_curves_draw_27_thin_lines_and_3_thick_ones(seeds, value):
    ax = figures.frozen_curves(make_frozen(seeds), value=value)
    curves = [line for line in ax.lines if len(line.get_xdata()) == 3]
    assert len(curves) == 30
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "Epsilon",
        "Neutral",
        "Delta",
    ]
    ax.figure.canvas.draw()


def test_frozen_curves_check_their_choices():
    with pytest.raises(ValueError, match="known: loss, accuracy"):
        figures.frozen_curves(make_frozen(), value="losses")
    both = make_frozen(arms=("vanilla", "MendABA"))
    with pytest.raises(ValueError, match="several arms"):
        figures.frozen_curves(both)
    with pytest.raises(ValueError, match="unknown arm 'fast'"):
        figures.frozen_curves(both, arm="fast")
    figures.frozen_curves(both, arm="MendABA")


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
    figures.isolation_plot(isolation)
    figures.adjustment_heatmap(isolation)
    figures.hypothesis_plot(sets)
    pd.testing.assert_frame_equal(isolation, copies[0])
    pd.testing.assert_frame_equal(sets, copies[1])


def test_saved_figures_are_equal_byte_for_byte(tmp_path):
    contents = []
    for name in ("first", "second"):
        with figures.style():
            ax = figures.group_plot(make_tables(PUBLISHED)[0])
        paths = figures.save_figure(ax.figure, tmp_path / name / "groups.v1")
        assert [path.name for path in paths] == ["groups.v1.pdf", "groups.v1.svg", "groups.v1.png"]
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    svg = contents[0][1].decode("utf-8")
    assert ">Neutral</text>" in svg  # text stays text
    with pytest.raises(ValueError, match="unknown format 'jpg'; known: pdf, svg, png"):
        figures.save_figure(ax.figure, tmp_path / "x", formats=["jpg"])
