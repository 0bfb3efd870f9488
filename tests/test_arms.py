"""Arms of any study beside one another."""

import pandas as pd
import pytest
from oracles.made_runs import make_runs, rng

from analysis.studies.arms import arms_table


def test_benchmark_keeps_the_order_of_methods_and_vanilla_without_strength():
    runs = make_runs({"Vanilla": 46.0, "Challenger": 57.0, "MendABA": 60.0})
    runs.loc[0, "status"] = "diverged"
    table = arms_table(runs, rng())
    assert table["arm"].tolist() == ["Vanilla", "Challenger", "MendABA"]
    assert table["n_diverged"].tolist() == [1, 0, 0]
    own = runs.loc[runs["arm"] == "MendABA", "test_accuracy"]
    assert table.loc[2, "test_median"] == pytest.approx(own.median())
    assert table.loc[2, "test_mean_low"] < own.mean() < table.loc[2, "test_mean_high"]
    two = pd.concat([runs, runs.assign(dataset="mnist")])
    assert len(arms_table(two, rng())) == 6


def test_the_interval_of_a_mean_rests_on_subsets_where_seeds_share_them():
    runs = make_runs({"Vanilla": 46.0})
    runs["subset_seed"] = runs["seed"] // 2
    runs["test_accuracy"] = 50.0 + 4.0 * (runs["subset_seed"] % 2)  # all spread is between subsets
    row = arms_table(runs, rng()).loc[0]
    means = runs.groupby("subset_seed")["test_accuracy"].mean()
    assert row["n"] == len(runs) > len(means)
    assert row["test_mean"] == pytest.approx(means.mean())
    of_subsets = arms_table(runs[~runs["subset_seed"].duplicated()], rng()).loc[0]
    assert row["test_mean_high"] == of_subsets["test_mean_high"]
    alone = arms_table(runs.drop(columns="subset_seed"), rng()).loc[0]
    assert alone["test_mean_high"] < row["test_mean_high"]
