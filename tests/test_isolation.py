"""Isolation: what is counted, what is compared, and that figures draw what the tables say."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from oracles.made_results import make_results
from oracles.made_runs import COMPLETE, isolation_runs, make_runs, make_tables, rng

from aba_core.adjustments import Group
from analysis import exhibits, figures, rooms, statistics
from analysis.studies.isolation import (
    association_table,
    group_table,
    isolation_plot,
    isolation_sentence,
    isolation_table,
)

pytestmark = pytest.mark.usefixtures("no_windows")


def test_isolation_table_summarises_every_adjustment():
    runs = isolation_runs()
    table = isolation_table(runs, rng())
    assert table["index"].tolist() == list(range(27))
    assert (table["n"] == 5).all() and table["rating"].iloc[0] == "Baseline"
    own = runs.loc[runs["arm"] == "adjustment 7", "validation_accuracy"]
    row = table.loc[7]
    assert (row["mean"], row["max"]) == pytest.approx((own.mean(), own.max()))
    assert row["sd"] == pytest.approx(own.std())
    assert ((table["mean_low"] < table["mean"]) & (table["mean"] < table["mean_high"])).all()


def test_missing_and_diverged_runs_are_counted():
    runs = isolation_runs()
    runs = runs[runs["arm"] != "adjustment 3"].copy()
    bad = (runs["arm"] == "adjustment 4") & (runs["seed"] < 2)
    runs.loc[bad, "status"] = "diverged"
    runs.loc[bad, "validation_accuracy"] = [5.0, np.nan]
    table = isolation_table(runs, rng())
    assert len(table) == 27
    assert table.loc[3, "n"] == 0 and np.isnan(table.loc[3, "mean"])
    assert table.loc[3, "rating"] == ""
    assert table.loc[4, ["n", "n_diverged", "n_missing"]].tolist() == [4, 2, 1]
    assert table.loc[4, "mean"] < 40  # the diverged run with an accuracy counts


def test_the_interval_of_an_accuracy_stays_within_bounds():
    runs = isolation_runs()
    runs["validation_accuracy"] = np.where(runs["seed"] == 0, 50.0, 99.9)
    table = isolation_table(runs, rng())
    assert (table["mean_high"] <= 100).all() and (table["mean_low"] >= 0).all()


def test_an_adjustments_interval_does_not_depend_on_other_adjustments():
    runs = isolation_runs()
    fewer = runs[~runs["arm"].isin(["adjustment 1", "adjustment 2"])]
    a, b = (isolation_table(frame, rng()).loc[9, "mean_low"] for frame in (runs, fewer))
    assert a == b


def test_one_seed_gives_means_without_intervals():
    table = isolation_table(isolation_runs(seeds=1), rng())
    assert table["mean"].notna().all()
    assert table[["mean_low", "mean_high", "sd"]].isna().all().all()


@pytest.mark.parametrize("name", ["Vanilla", "vanilla", "as they are"])
def test_runs_without_augmentation_stand_in_for_a_missing_adjustment_0(name):
    runs = pd.concat([isolation_runs(), make_runs({"Vanilla": 47.0}).replace("Vanilla", name)])
    table = isolation_table(runs[runs["arm"] != "adjustment 0"], rng())
    assert table["gain"].iloc[1:].notna().all()
    baseline = runs.loc[runs["arm"] == name, "validation_accuracy"].mean()
    gain = (table["mean"] - baseline) / (table["mean"].max() - baseline)
    assert table["gain"].iloc[1:].tolist() == pytest.approx(gain.iloc[1:].tolist())


def test_an_arm_that_is_only_called_vanilla_is_no_baseline():
    augmented = make_runs({"Vanilla": 47.0}).assign(adjustments="3,4", strength=0.1)
    runs = pd.concat([isolation_runs(), augmented])
    runs = runs[runs["arm"] != "adjustment 0"]
    assert isolation_table(runs, rng())["gain"].isna().all()
    unsaid = runs.drop(columns=["adjustments", "strength"])
    assert isolation_table(unsaid, rng())["gain"].isna().all()


def test_mixed_or_repeated_runs_are_refused():
    runs = isolation_runs()
    with pytest.raises(ValueError, match="several values of dataset .digits, mnist"):
        isolation_table(pd.concat([runs, runs.assign(dataset="mnist")]), rng())
    with pytest.raises(ValueError, match="several rows for arm 'adjustment 0', seed 0"):
        isolation_table(pd.concat([runs, runs]), rng())
    with pytest.raises(ValueError, match="lack the columns status"):
        isolation_table(runs.drop(columns="status"), rng())


def test_tables_repeat_with_the_same_generator():
    runs = isolation_runs()
    pd.testing.assert_frame_equal(isolation_table(runs, rng()), isolation_table(runs, rng()))
    shuffled = runs.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(isolation_table(runs, rng()), isolation_table(shuffled, rng()))


def test_intervals_are_the_statistics_modules():
    runs = isolation_runs()
    row = isolation_table(runs, rng()).loc[0]
    own = runs.loc[runs["arm"] == "adjustment 0", "validation_accuracy"]
    expected = statistics.mean_interval(own, rng().spawn(27)[0])
    assert (row["mean_low"], row["mean_high"]) == (expected.low, expected.high)


def test_groups_take_the_adjustment_as_unit():
    table = isolation_table(isolation_runs(), rng())
    groups = group_table(table, rng()).set_index("name")
    assert groups.loc["Neutral", "n_adjustments"] == 9
    row = groups.loc["Epsilon − Delta"]
    assert row["estimate_low"] < 12 < row["estimate_high"]
    assert row["hedges_g"] > 3 and row["p_holm"] < 0.001
    assert groups["n_adjustments"].tolist() == [9, 9, 9, 18, 18, 18]


def test_association_is_strong_where_the_group_is_all():
    table = isolation_table(isolation_runs(), rng())
    rows = association_table(table, rng()).set_index("name")
    assert rows.loc["η² of the group", "estimate"] > 0.95
    assert rows.loc["Pearson of high − low", "estimate_low"] > 0.7


def test_group_tables_of_few_adjustments_do_not_fail():
    runs = isolation_runs()
    for kept in ([], ["adjustment 1"], ["adjustment 1", "adjustment 3", "adjustment 6"]):
        table = isolation_table(runs[runs["arm"].isin(kept)], rng())
        groups = group_table(table, rng())
        assert len(groups) == 6 and len(association_table(table, rng())) == 3
        assert "no run with a number" in isolation_sentence(groups)


def test_the_isolation_plot_orders_by_mean_and_colours_by_group():
    table, _ = make_tables(COMPLETE)
    ax = isolation_plot(table)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    best = table.loc[table["mean"].idxmax()]
    assert labels[-1].startswith(f"{best['index']} [")
    assert "13 [−1, 1, 0]" in labels
    colours = {to_hex(line.get_color()).upper() for line in ax.lines}
    assert {figures.COLOURS[group] for group in Group} <= colours
    intervals = [
        line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linewidth() > 1
    ]
    assert len(intervals) == 27


def test_one_wild_interval_does_not_flatten_the_rest():
    table, _ = make_tables(COMPLETE)
    table.loc[5, ["mean_low", "mean_high"]] = [0.0, 100.0]
    low, high = isolation_plot(table).get_xlim()
    assert high - low < 40


# --- one interval for one quantity ---------------------------------------------------------------


def vertical_lines(ax: plt.Axes) -> list[tuple[float, float]]:
    """The ends of every upright line of two points."""
    drawn = [line.get_xydata() for line in ax.lines if len(line.get_xydata()) == 2]
    return [(float(a[1]), float(b[1])) for a, b in drawn if a[0] == b[0]]


def test_figures_draw_the_intervals_of_the_tables(tmp_path):
    shown = rooms.of_study("isolation", make_results(tmp_path, names=("isolation",)))
    groups = shown.tables["groups"].data.iloc[:3]
    ax = exhibits.draw(shown.figures["groups"]).axes[0]
    expected = list(zip(groups["estimate_low"], groups["estimate_high"], strict=True))
    assert np.array(vertical_lines(ax)) == pytest.approx(np.array(expected))
    assert shown.figures["groups"].facts["interval"] == shown.tables["groups"].facts["interval"]

    table = shown.tables["isolation"].data.sort_values("mean", kind="stable")
    ax = exhibits.draw(shown.figures["isolation"]).axes[0]
    lines = [line.get_xdata() for line in ax.lines if np.ptp(line.get_ydata()) == 0]
    drawn = [tuple(ends) for ends in lines if len(ends) == 2 and tuple(ends) != (0, 1)]
    assert np.array(drawn) == pytest.approx(table[["mean_low", "mean_high"]].to_numpy())

    ax = exhibits.draw(shown.figures["isolation-square"]).axes[0]
    halves = [text.get_text() for text in ax.texts if text.get_text().startswith("±")]
    table = shown.tables["isolation"].data
    assert halves == [f"±{half:.1f}" for half in (table["mean_high"] - table["mean_low"]) / 2]


def test_a_correlation_has_one_interval_on_the_isolation_and_the_published_page(tmp_path):
    results = make_results(tmp_path, names=("isolation",))
    order = rooms.of_study("isolation", results).tables["published-order"].data
    here = order[order["first"] == "this study"].set_index("second")
    agreement = rooms.of_study("published", results).tables["published-agreement"].data
    for row in agreement.to_dict("records"):
        for end in ("spearman", "spearman_low", "spearman_high"):
            assert row[end] == here.loc[f"published {row['published']}", end]
    assert len(agreement) == 3


def test_a_contrast_has_one_interval_on_the_isolation_and_the_published_page(tmp_path):
    results = make_results(tmp_path, names=("isolation",))
    groups = rooms.of_study("isolation", results).tables["groups"].data.set_index("name")
    compared = rooms.of_study("published", results).tables["published-groups"].data
    for row in compared.to_dict("records"):
        for end in ("", "_low", "_high"):
            assert row[f"here{end}"] == groups.loc[row["contrast"], f"estimate{end}"]
