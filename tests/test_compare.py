"""Own results beside the published ones: agreement is counted, and said in words, by intervals."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from oracles.made_results import make_results, make_study, standard
from sklearn.metrics import cohen_kappa_score

from aba_core.adjustments import Group
from analysis import exhibits as shared
from analysis import figures, reference, results
from analysis.exhibits import Exhibits, ExportError
from analysis.results import ResultsError
from analysis.studies import published
from analysis.studies.published import agreement
from analysis.studies.published.sentences import order_sentences

ROOT = Path(__file__).parent.parent
NEWS = "20newsgroups-tiny"
PUBLISHED_MEANS = reference.published_isolation_table(NEWS)["mean"]
PUBLISHED_SETS = reference.published_hypothesis_table(NEWS).set_index("set")["all_of_group"]


def as_published(arm: str) -> float:
    """The published means of 20 Newsgroups: of the 27, of the sets, and of the methods."""
    if arm.startswith("adjustment "):
        return float(PUBLISHED_MEANS[int(arm.split()[1])])
    if arm in PUBLISHED_SETS:
        return float(PUBLISHED_SETS[arm])
    methods = {"Vanilla": 47.2, "Challenger": 58.4, "MendABA": 60.3, "FastABA": 59.1}
    return methods.get(arm, 58.6 if arm == "FastABA-CE" else 50.0)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """News as published but for noise, MNIST the other way round, digits, a set that fails."""
    folder = tmp_path_factory.mktemp("repeated")
    compared = ("isolation", "tension", "benchmark")
    make_results(folder, "news", names=compared, mean=as_published, sd=0.3)
    make_results(folder, "mnist", names=compared, mean=lambda arm: 100 - as_published(arm), sd=0.3)
    make_results(folder, "digits", 3, compared)
    return folder


@cache
def compared(folder: Path, dataset: str) -> tuple[Exhibits, str]:
    exhibits, sentences = published.compare(folder, dataset)
    return exhibits, "\n".join(sentences)


# --- a repetition agrees, its reverse does not ---------------------------------------------------


def test_a_repetition_of_the_published_results_agrees(repeated):
    exhibits, text = compared(repeated, "news")
    assert (
        "The groups stand in the same order here and in the published experiment: "
        "Epsilon above Neutral above Delta." in text
    )
    order = exhibits.tables["published-agreement"].data.iloc[0]
    assert order["spearman"] > 0.97 and order["n_ratings"] == 26
    assert order["rating_share"] > 0.85 and order["rating_kappa_low"] > 0.5
    assert "The 27 adjustments rank alike here and as published on 20 Newsgroups: " in text
    assert "are as published: κ 0." in text or "are as published: κ 1." in text
    assert "Challenger, MendABA, FastABA and FastABA-CE above Vanilla" in text
    assert "Sets above the mean of their members, as published on 20 Newsgroups: " in text
    assert "does not appear" not in text


def test_the_reverse_is_told_apart_everywhere(repeated):
    exhibits, text = compared(repeated, "mnist")
    assert exhibits.tables["published-agreement"].data["spearman"].iloc[0] < 0
    assert "Epsilon − Delta: opposite to that on MNIST (here " in text
    assert (
        "The advantage of MendABA against Vanilla published on MNIST (validation) does not" in text
    )
    assert "The advantage of the set All published on MNIST does not appear: " in text
    groups = exhibits.tables["published-groups"].data
    assert (groups["agreement"] != "same").all()


def test_a_published_difference_within_its_own_noise_counts_for_neither_side(repeated):
    """Neutral on 20 Newsgroups: −0.43 points, z = −0.4 in the statistical protocol."""
    exhibits, text = compared(repeated, "news")
    sets = exhibits.tables["published-sets"].data.set_index("set")
    row = sets.loc["Neutral"]
    assert row["there"] == -0.43 and row["there_low"] < 0 < row["there_high"]
    assert row["agreement"] == "inconclusive"
    assert (
        "The disadvantage of the set Neutral published on 20 Newsgroups is itself inconclu" in text
    )
    z = row["there"] / ((row["there_high"] - row["there_low"]) / 2 / 1.96)
    assert z == pytest.approx(-0.4, abs=0.05)
    assert sets.loc["All", "agreement"] == "same"


@pytest.mark.parametrize(
    ("name", "sd"), [("20newsgroups-tiny", 2.1), ("cifar10-tiny", 1.1), ("mnist-tiny", 2.7)]
)
def test_the_deviation_of_published_runs_is_the_protocols(name, sd):
    assert reference.published_sd(name) == pytest.approx(sd, abs=0.06)


# --- a data set without published tables ---------------------------------------------------------


def test_digits_are_held_against_all_three_by_orders_and_signs_alone(repeated):
    exhibits, text = compared(repeated, "digits")
    assert list(exhibits.figures) == [f"published-{name}" for name in reference.PUBLISHED.values()]
    assert len(exhibits.tables["published-agreement"].data) == 3
    for exhibit in exhibits.tables.values():
        columns = exhibit.columns or list(exhibit.data.columns)
        assert not {"there", "there_median", "rating_share", "rating_kappa"} & set(columns)
    assert "ratings" not in text
    assert "in all three published" in text or "published on MNIST and 20 Newsgroups" in text
    assert "-tiny" not in text


def test_the_same_order_everywhere_is_one_sentence():
    table = reference.published_isolation_table(NEWS)
    names = (NEWS, NEWS, NEWS)
    order = agreement.order_agreement_table(table, names[:1], rng())
    contrasts = agreement.contrast_agreement_table(table, [NEWS], rng())
    contrasts = pd.concat([contrasts.assign(published=name) for name in "abc"])
    assert order_sentences(order, contrasts, False)[0] == (
        "The groups stand in the same order here and in all three published experiments: "
        "Epsilon above Neutral above Delta."
    )


# --- numbers -------------------------------------------------------------------------------------


def test_a_table_agrees_with_itself():
    table = reference.published_isolation_table(NEWS)
    row = agreement.order_agreement_table(table, [NEWS], rng()).iloc[0]
    assert (row["spearman"], row["kendall"]) == (1, 1)
    assert row["rating_share"] == row["rating_kappa"] == 1  # 26 of 26 ratings are reproduced
    contrasts = agreement.contrast_agreement_table(table, [NEWS], rng())
    assert (contrasts["agreement"] == "same").all()
    assert (contrasts["here"] == contrasts["there"]).all()


def test_kappa_along_an_axis_is_that_of_scikit_learn():
    draws = np.random.default_rng(3).integers(0, 4, (2, 50, 26)).astype(float)
    expected = [cohen_kappa_score(a, b) for a, b in zip(*draws, strict=True)]
    assert agreement._kappa(*draws) == pytest.approx(expected)
    assert agreement._kappa(np.ones(5), np.ones(5)) == 1


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.1, 2, "above"),
        (-2, -0.1, "below"),
        (-1, 1, "inconclusive"),
        (np.nan,) * 2 + ("inconclusive",),
    ],
)
def test_a_verdict_needs_the_whole_interval(low, high, word):
    assert agreement.verdict(low, high) == word


def test_settings_that_differ_stand_beside_the_comparison(repeated):
    settings = compared(repeated, "news")[0].tables["published-settings"].data
    settings = settings.set_index("setting")
    assert settings.loc["epochs", "this study"] == "5"
    assert settings.loc["epochs", "Published 20 Newsgroups"] == "100"
    assert settings.loc["words of a text", "this study"] == "the first 1000"
    assert settings.loc["words of a text", "Published 20 Newsgroups"] == "the first 1000"
    assert settings.loc["word vectors", "this study"] == "not recorded"  # of made-up rows
    mnist = compared(repeated, "mnist")[0].tables["published-settings"].data
    assert "word vectors" not in set(mnist["setting"])
    assert mnist.set_index("setting").loc["model"].tolist() == ["small_cnn", "vgg11"]


def test_the_benchmark_takes_the_published_rows_of_its_own_kind(repeated):
    assert "published-benchmark-bn" not in compared(repeated, "mnist")[0].tables
    runs = results.load(repeated, "benchmark", "mnist").frame
    table = agreement.benchmark_agreement_table(runs, ["mnist-tiny"], rng())
    vanilla = table[(table["method"] == "Vanilla") & (table["split"] == "validation")].iloc[0]
    assert (vanilla["there_median"], vanilla["there_sd"]) == (63.19, 9.27)
    assert np.isnan(vanilla["here"]) and vanilla["agreement"] == ""
    normed = agreement.benchmark_agreement_table(
        runs.assign(batch_norm=True), ["mnist-tiny"], rng()
    )
    assert normed["there_median"].iloc[0] == 84.63
    assert normed["split"].iloc[0] == "validation with batch norm"
    test = table[(table["method"] == "FastABA") & (table["split"] == "test")].iloc[0]
    assert test["there"] == pytest.approx(84.65 - 63.09)


def test_one_run_an_arm_is_inconclusive_and_no_error(tmp_path):
    make_results(tmp_path, "mnist", seeds=1)
    exhibits, text = compared(tmp_path, "mnist")
    assert (exhibits.tables["published-sets"].data["agreement"] == "inconclusive").all()
    assert "is inconclusive here: " in text


def test_missing_arms_are_left_out_of_the_comparison(tmp_path):
    missing = [("adjustment 3", seed) for seed in range(3)] + [("MendABA", s) for s in range(3)]
    make_study(tmp_path, standard("isolation", "mnist", 3), missing=missing)
    make_study(tmp_path, standard("benchmark", "mnist", 3), missing=missing)
    exhibits, text = compared(tmp_path, "mnist")
    assert exhibits.tables["published-agreement"].data["n_adjustments"].iloc[0] == 26
    assert "published-sets" not in exhibits.tables and "MendABA" not in text


def test_the_figure_has_27_points_in_three_colours(repeated):
    plt.switch_backend("agg")
    exhibit = compared(repeated, "news")[0].figures[f"published-{NEWS}"]
    ax = shared.draw(exhibit).axes[0]
    points = {line.get_color(): len(line.get_xdata()) for line in ax.lines}
    assert points == {figures.COLOURS[group]: 9 for group in Group}
    assert "Published, 20 Newsgroups" in ax.get_xlabel() and "Here" in ax.get_ylabel()
    plt.close("all")


# --- the command ---------------------------------------------------------------------------------


def test_nothing_to_compare_is_an_error(tmp_path):
    with pytest.raises(ResultsError, match="no isolation study on mnist"):
        published.compare(tmp_path, "mnist")
    with pytest.raises(ExportError, match="nothing to compare"):
        published.exhibits(shared.Look())


def aba(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "analysis.cli", "compare", *arguments]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def test_the_command_prints_sentences_and_tables(repeated, tmp_path):
    done = aba("--results", str(repeated), "--dataset", "news", "--dataset", "cifar10")
    assert "== 20 Newsgroups beside the published table ==" in done.stdout
    assert "- The groups stand in the same order here" in done.stdout
    for title in ("Settings here and published", "Kendall", "κ of ratings", "Median published (%)"):
        assert title in done.stdout
    assert done.returncode == 1 and "no isolation study on cifar10" in done.stderr
    assert aba("--results", str(tmp_path)).returncode == 1
