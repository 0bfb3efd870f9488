"""Tables: what is counted, what is compared, and how it is printed."""

import numpy as np
import pandas as pd
import pytest

from analysis import statistics, tables

TRUTH = {"Neutral": 47.0, "Delta": 42.0, "Epsilon": 54.0}
SETS = {**TRUTH, "Eps. & Neu.": 56.0, "Eps. & Del.": 57.0, "Del. & Neu.": 45.0, "All": 59.0}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def make_runs(means: dict[str, float], seeds: int = 5, sd: float = 1.0) -> pd.DataFrame:
    """One finished run per (arm, seed), normal around the arm's mean."""
    noise = rng(1)
    rows = [
        {
            "dataset": "digits",
            "arm": arm,
            "seed": seed,
            "strength": np.nan if arm == "vanilla" else 0.1,
            "status": "finished",
            "validation_accuracy": mean + sd * noise.normal(),
            "test_accuracy": mean - 1 + sd * noise.normal(),
        }
        for arm, mean in means.items()
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def isolation_runs(seeds: int = 5, sd: float = 1.0) -> pd.DataFrame:
    groups = tables.adjustment_table()["group"]
    return make_runs({tables.arm_name(i): TRUTH[g] for i, g in enumerate(groups)}, seeds, sd)


def make_frozen(seeds: int = 4, arms: tuple[str, ...] = ("vanilla",)) -> pd.DataFrame:
    """A change of loss of (high − low) · strength, with noise between seeds."""
    noise, table = rng(2), tables.adjustment_table()
    return pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "adjustment": row["index"], "strength": strength}
            | {"loss_change": (row["high"] - row["low"]) * strength + 0.001 * noise.normal()}
            for arm in arms
            for seed in range(seeds)
            for row in table.to_dict("records")
            for strength in (0.1, 0.5)
        ]
    )


# --- reference -----------------------------------------------------------------------------------


def test_unknown_published_tables_are_named():
    with pytest.raises(ValueError, match="'isolatoin'; known: isolation, hypothesis"):
        tables.reference("isolatoin")
    with pytest.raises(ValueError, match="known: 20newsgroups-tiny"):
        tables.published_isolation_table("imagenet")


def test_a_missing_published_table_says_where_it_belongs(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "REFERENCE", tmp_path)
    with pytest.raises(FileNotFoundError, match="published_isolation.csv is missing from data"):
        tables.reference("isolation")


def test_offset_form_and_members():
    row = tables.adjustment_table().loc[13]
    assert row[["low", "middle", "high"]].tolist() == [-1, 1, 0]
    assert row[["offset", "low_offset", "high_offset"]].tolist() == [1, -2, -1]
    assert 0 in tables.members("Neutral") and len(tables.members("Eps. & Del.")) == 18
    assert tables.members(["Delta"]) == tables.members("Delta")


def test_ratings_are_undefined_where_nothing_beats_the_baseline():
    assert tables.rating(50, 40, 50) == "Top"
    assert tables.rating(43, 40, 50) == "Good"
    assert tables.rating(38, 40, 50) == "Medium"
    assert tables.rating(37, 40, 50) == "Bad"
    assert tables.rating(37, 40, 40) == "" and np.isnan(tables.gain(37, 40, 40))


# --- isolation -----------------------------------------------------------------------------------


def test_isolation_table_summarises_every_adjustment():
    runs = isolation_runs()
    table = tables.isolation_table(runs, rng())
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
    table = tables.isolation_table(runs, rng())
    assert len(table) == 27
    assert table.loc[3, "n"] == 0 and np.isnan(table.loc[3, "mean"])
    assert table.loc[3, "rating"] == ""
    assert table.loc[4, ["n", "n_diverged", "n_missing"]].tolist() == [4, 2, 1]
    assert table.loc[4, "mean"] < 40  # the diverged run with an accuracy counts


def test_the_interval_of_an_accuracy_stays_within_bounds():
    runs = isolation_runs()
    runs["validation_accuracy"] = np.where(runs["seed"] == 0, 50.0, 99.9)
    table = tables.isolation_table(runs, rng())
    assert (table["mean_high"] <= 100).all() and (table["mean_low"] >= 0).all()


def test_an_adjustments_interval_does_not_depend_on_other_adjustments():
    runs = isolation_runs()
    fewer = runs[~runs["arm"].isin(["adjustment 1", "adjustment 2"])]
    a, b = (tables.isolation_table(frame, rng()).loc[9, "mean_low"] for frame in (runs, fewer))
    assert a == b


def test_one_seed_gives_means_without_intervals():
    table = tables.isolation_table(isolation_runs(seeds=1), rng())
    assert table["mean"].notna().all()
    assert table[["mean_low", "mean_high", "sd"]].isna().all().all()


def test_vanilla_stands_in_for_a_missing_adjustment_0():
    runs = pd.concat([isolation_runs(), make_runs({"vanilla": 47.0})])
    table = tables.isolation_table(runs[runs["arm"] != "adjustment 0"], rng())
    assert table["gain"].iloc[1:].notna().all()


def test_mixed_or_repeated_runs_are_refused():
    runs = isolation_runs()
    with pytest.raises(ValueError, match="several values of dataset .digits, mnist"):
        tables.isolation_table(pd.concat([runs, runs.assign(dataset="mnist")]), rng())
    with pytest.raises(ValueError, match="several rows for arm 'adjustment 0', seed 0"):
        tables.isolation_table(pd.concat([runs, runs]), rng())
    with pytest.raises(ValueError, match="lack the columns status"):
        tables.isolation_table(runs.drop(columns="status"), rng())


# --- groups --------------------------------------------------------------------------------------


def test_groups_take_the_adjustment_as_unit():
    table = tables.isolation_table(isolation_runs(), rng())
    groups = tables.group_table(table, rng()).set_index("name")
    assert groups.loc["Neutral", "n_adjustments"] == 9
    row = groups.loc["Epsilon − Delta"]
    assert row["estimate_low"] < 12 < row["estimate_high"]
    assert row["effect"] > 3 and row["p_holm"] < 0.001
    assert groups["n_adjustments"].tolist() == [9, 9, 9, 18, 18, 18]


def test_association_is_strong_where_the_group_is_all():
    table = tables.isolation_table(isolation_runs(), rng())
    rows = tables.association_table(table, rng()).set_index("name")
    assert rows.loc["η² of the group", "estimate"] > 0.95
    assert rows.loc["Pearson of high − low", "estimate_low"] > 0.7


def test_group_tables_of_few_adjustments_do_not_fail():
    runs = isolation_runs()
    for kept in ([], ["adjustment 1"], ["adjustment 1", "adjustment 3", "adjustment 6"]):
        table = tables.isolation_table(runs[runs["arm"].isin(kept)], rng())
        groups = tables.group_table(table, rng())
        assert len(groups) == 6 and len(tables.association_table(table, rng())) == 3
        assert "no runs" in tables.isolation_sentence(groups)


# --- sets ----------------------------------------------------------------------------------------


def test_hypothesis_table_compares_each_set():
    isolation, tension = isolation_runs(), make_runs(SETS)
    table = tables.hypothesis_table(isolation, tension, rng()).set_index("set")
    assert table.index.tolist() == list(tables.GROUP_SETS)
    row = table.loc["Eps. & Del."]
    members = [tables.arm_name(i) for i in tables.members("Eps. & Del.")]
    expected = isolation[isolation["arm"].isin(members)]["validation_accuracy"].mean()
    assert row["mean_of_members"] == pytest.approx(expected)
    assert row["difference"] == pytest.approx(row["all_of_group"] - expected)
    assert row["difference_low"] < 57 - 48 < row["difference_high"]
    assert row["best_group"] == "Epsilon" and table.loc["Delta", "best_group"] == ""
    assert row["difference_to_best_group_low"] < 3 < row["difference_to_best_group_high"]
    assert row["best_member"] in tables.members("Epsilon")
    assert row["difference_to_best_member"] < row["difference"]


def test_the_crossfitted_best_is_not_inflated():
    arms = [tables.arm_name(i) for i in range(27)]
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
    arms = [tables.arm_name(i) for i in range(27)]
    expected = []
    for seed in range(4):
        others = runs[runs["seed"] != seed].groupby("arm")["validation_accuracy"].mean()
        here = runs[runs["seed"] == seed].set_index("arm")["validation_accuracy"]
        expected.append(here[others[others.index.isin(here.index)].idxmax()])
    assert tables.crossfitted_best(runs, arms, "validation_accuracy") == pytest.approx(expected)


def test_hypothesis_table_without_runs_keeps_its_rows():
    isolation, tension = isolation_runs(seeds=1), make_runs(SETS, seeds=1)
    one = tables.hypothesis_table(isolation, tension, rng())
    assert one["all_of_group"].notna().all() and one["difference_low"].isna().all()
    assert one["best_member_crossfitted"].isna().all()
    tension = tension[tension["arm"] != "All"]
    partly = tables.hypothesis_table(isolation, tension, rng()).set_index("set")
    assert partly.loc["All", "n"] == 0 and np.isnan(partly.loc["All", "difference"])
    empty = tables.hypothesis_table(isolation.iloc[:0], tension.iloc[:0], rng())
    assert len(empty) == 7 and empty["best_member"].isna().all()
    assert "no runs" in tables.hypothesis_sentences(empty)[0]


def test_diverged_members_are_counted():
    isolation, tension = isolation_runs(), make_runs(SETS)
    isolation.loc[isolation["arm"] == "adjustment 4", "status"] = "diverged"
    tension.loc[(tension["arm"] == "All") & (tension["seed"] == 0), "status"] = "diverged"
    table = tables.hypothesis_table(isolation, tension, rng()).set_index("set")
    assert table.loc["Delta", "n_members_diverged"] == 5
    assert table.loc["Epsilon", "n_members_diverged"] == 0
    assert table.loc["All", "n_diverged"] == 1


# --- frozen models -------------------------------------------------------------------------------


def test_measured_groups_follow_the_change_of_loss():
    table = tables.measured_group_table(make_frozen(), rng(), strength=0.1, threshold=0.01)
    assert table["agrees"].all()
    assert table.loc[table["group"] == "Neutral", "equivalent"].all()
    assert not table.loc[table["group"] != "Neutral", "equivalent"].any()
    assert tables.agreement(table) == tables.Agreement(1.0, 1.0, 27)


def test_a_wide_threshold_makes_everything_neutral():
    table = tables.measured_group_table(make_frozen(), rng(), strength=0.1, threshold=5.0)
    assert (table["measured_group"] == "Neutral").all()
    assert tables.agreement(table).share == pytest.approx(1 / 3)
    assert tables.agreement(table).kappa == pytest.approx(0)


def test_one_seed_decides_no_group():
    table = tables.measured_group_table(make_frozen(seeds=1), rng(), strength=0.5)
    assert (table["measured_group"] == "").all()
    assert tables.agreement(table).n == 0


def test_frozen_choices_are_checked():
    frozen = make_frozen(seeds=2, arms=("vanilla", "MendABA"))
    with pytest.raises(ValueError, match="several arms .vanilla, MendABA"):
        tables.measured_group_table(frozen, rng(), strength=0.1)
    with pytest.raises(ValueError, match="no frozen results at strength 0.2; known: 0.1, 0.5"):
        tables.measured_group_table(frozen, rng(), strength=0.2, arm="vanilla")
    with pytest.raises(ValueError, match="unknown arm 'mend'"):
        tables.measured_group_table(frozen, rng(), strength=0.1, arm="mend")
    with pytest.raises(ValueError, match="negative"):
        tables.measured_group_table(frozen, rng(), strength=0.1, threshold=-1)


# --- benchmark -----------------------------------------------------------------------------------


def test_benchmark_keeps_the_order_of_methods_and_vanilla_without_strength():
    runs = make_runs({"vanilla": 46.0, "Challenger": 57.0, "MendABA": 60.0})
    runs.loc[0, "status"] = "diverged"
    table = tables.benchmark_table(runs, rng())
    assert table["arm"].tolist() == ["vanilla", "Challenger", "MendABA"]
    assert table["n_diverged"].tolist() == [1, 0, 0]
    own = runs.loc[runs["arm"] == "MendABA", "test_accuracy"]
    assert table.loc[2, "test_median"] == pytest.approx(own.median())
    assert table.loc[2, "test_mean_low"] < own.mean() < table.loc[2, "test_mean_high"]
    two = pd.concat([runs, runs.assign(dataset="mnist")])
    assert len(tables.benchmark_table(two, rng())) == 6


# --- words and files -----------------------------------------------------------------------------


def test_sentences_say_above_below_or_inconclusive():
    say = tables.comparison_sentence
    assert say("Epsilon", "Neutral", 3.14, 2.0, 4.2) == (
        "Epsilon above Neutral by 3.1 points [2.0, 4.2]"
    )
    assert say("A", "B", -3.14, -4.2, -2.0) == "A below B by 3.1 points [2.0, 4.2]"
    assert say("A", "B", 0.5, -1.0, 2.0) == "A against B inconclusive: 0.5 points [−1.0, 2.0]"
    assert say("A", "B", 0.5, np.nan, np.nan).startswith("A against B inconclusive without")
    assert say("A", "B", np.nan, np.nan, np.nan) == "A against B: no runs"
    groups = tables.group_table(tables.isolation_table(isolation_runs(), rng()), rng())
    assert tables.isolation_sentence(groups).startswith("Epsilon above Neutral by ")
    assert tables.isolation_sentence(groups).count(";") == 2
    table = tables.hypothesis_table(isolation_runs(), make_runs(SETS), rng())
    said = tables.hypothesis_sentences(table)
    assert len(said) == 7 and said[-1].startswith("All above the mean of its members by ")
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
    text = tables.markdown(tables.isolation_table(isolation_runs(), rng()))
    assert len(text.splitlines()) == 29
    assert len({line.count("|") for line in text.splitlines()}) == 1


def test_saved_tables_keep_full_precision(tmp_path):
    table = tables.isolation_table(isolation_runs(), rng())
    paths = tables.save_table(table, tmp_path / "new" / "isolation.v0.1", columns=["index", "mean"])
    assert [path.name for path in paths] == [f"isolation.v0.1.{e}" for e in ("csv", "tex", "md")]
    back = pd.read_csv(paths[0])
    assert back["mean"].tolist() == pytest.approx(table["mean"].tolist(), rel=1e-14)
    assert back.columns.tolist() == table.columns.tolist()
    assert "SD" not in paths[1].read_text(encoding="utf-8")


def test_tables_repeat_with_the_same_generator():
    runs = isolation_runs()
    pd.testing.assert_frame_equal(
        tables.isolation_table(runs, rng()), tables.isolation_table(runs, rng())
    )
    shuffled = runs.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(
        tables.isolation_table(runs, rng()), tables.isolation_table(shuffled, rng())
    )


def test_intervals_are_the_statistics_modules():
    runs = isolation_runs()
    row = tables.isolation_table(runs, rng()).loc[0]
    own = runs.loc[runs["arm"] == "adjustment 0", "validation_accuracy"]
    expected = statistics.mean_interval(own, rng().spawn(27)[0])
    assert (row["mean_low"], row["mean_high"]) == (expected.low, expected.high)
