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
