"""Tension: sets against their members, their best member and their best group."""

import numpy as np
import pandas as pd
import pytest
from oracles.made_runs import SETS, isolation_runs, make_runs, rng

from aba_core.adjustments import GROUP_SETS, members
from analysis import tables
from analysis.studies.isolation import arm_name
from analysis.studies.tension import hypothesis_sentences, hypothesis_table


def test_hypothesis_table_compares_each_set():
    isolation, tension = isolation_runs(), make_runs(SETS)
    table = hypothesis_table(isolation, tension, rng()).set_index("set")
    assert table.index.tolist() == list(GROUP_SETS)
    row = table.loc["Eps. & Del."]
    arms = [arm_name(i) for i in members("Eps. & Del.")]
    expected = isolation[isolation["arm"].isin(arms)]["validation_accuracy"].mean()
    assert row["mean_of_members"] == pytest.approx(expected)
    assert row["difference"] == pytest.approx(row["all_of_group"] - expected)
    assert row["difference_low"] < 57 - 48 < row["difference_high"]
    assert row["best_group"] == "Epsilon" and table.loc["Delta", "best_group"] == ""
    assert row["difference_to_best_group_low"] < 3 < row["difference_to_best_group_high"]
    assert row["best_member"] in members("Epsilon")
    assert row["difference_to_best_member"] < row["difference"]


def test_the_crossfitted_best_is_not_inflated():
    arms = [arm_name(i) for i in range(27)]
    naive, fitted = [], []
    for seed in range(60):
        values = rng(seed).normal(50, 2, size=(27, 5))
        runs = pd.DataFrame(
            {
                "arm": np.repeat(arms, 5),
                "seed": np.tile(np.arange(5), 27),
                "accuracy": values.ravel(),
            }
        )
        naive.append(values.mean(axis=1).max())
        fitted.append(tables.crossfitted_best(runs, arms, "accuracy").mean())
    assert np.mean(naive) > 51.5
    assert np.mean(fitted) == pytest.approx(50, abs=0.4)


def test_the_crossfitted_best_follows_its_slow_twin():
    runs = isolation_runs(seeds=4, sd=6.0)
    runs = runs.drop(index=[3, 17, 40, 77])
    arms = [arm_name(i) for i in range(27)]
    expected = []
    for seed in range(4):
        others = runs[runs["seed"] != seed].groupby("arm")["validation_accuracy"].mean()
        here = runs[runs["seed"] == seed].set_index("arm")["validation_accuracy"]
        expected.append(here[others[others.index.isin(here.index)].idxmax()])
    assert tables.crossfitted_best(runs, arms, "validation_accuracy") == pytest.approx(expected)


def test_hypothesis_table_without_runs_keeps_its_rows():
    isolation, tension = isolation_runs(seeds=1), make_runs(SETS, seeds=1)
    one = hypothesis_table(isolation, tension, rng())
    assert one["all_of_group"].notna().all() and one["difference_low"].isna().all()
    assert one["best_member_crossfitted"].isna().all()
    tension = tension[tension["arm"] != "All"]
    partly = hypothesis_table(isolation, tension, rng()).set_index("set")
    assert partly.loc["All", "n"] == 0 and np.isnan(partly.loc["All", "difference"])
    empty = hypothesis_table(isolation.iloc[:0], tension.iloc[:0], rng())
    assert len(empty) == 7 and empty["best_member"].isna().all()
    assert "no runs" in hypothesis_sentences(empty)[0]


def test_diverged_members_are_counted():
    isolation, tension = isolation_runs(), make_runs(SETS)
    isolation.loc[isolation["arm"] == "adjustment 4", "status"] = "diverged"
    tension.loc[(tension["arm"] == "All") & (tension["seed"] == 0), "status"] = "diverged"
    table = hypothesis_table(isolation, tension, rng()).set_index("set")
    assert table.loc["Delta", "n_members_diverged"] == 5
    assert table.loc["Epsilon", "n_members_diverged"] == 0
    assert table.loc["All", "n_diverged"] == 1
