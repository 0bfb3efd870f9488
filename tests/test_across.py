"""Ranks over data sets and the probability of improvement, against slow twins and known values."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from oracles.made_results import make_study
from scipy import stats

from analysis import across, exhibits
from analysis.exhibits import Look
from analysis.results import ResultsError
from analysis.studies import standard_study

RNG = np.random.default_rng


def scores(data_sets=6, methods=4, seed=0, ties=False) -> pd.DataFrame:
    values = RNG(seed).normal(90, 2, (data_sets, methods))
    if ties:
        values = values.round()
    names = [f"m{n}" for n in range(methods)]
    return pd.DataFrame(values, [f"d{n}" for n in range(data_sets)], names)


@pytest.mark.parametrize("ties", [False, True])
def test_ranks_are_those_counted_by_hand(ties):
    table = scores(ties=ties)
    ranked = across.ranking(table)
    for name in table:
        by_hand = []
        for _, row in table.iterrows():
            above = sum(other > row[name] for other in row)
            equal = sum(other == row[name] for other in row)
            by_hand.append(above + (equal + 1) / 2)
        assert ranked.ranks[name] == pytest.approx(np.mean(by_hand))
    assert list(ranked.ranks.values()) == sorted(ranked.ranks.values())


@pytest.mark.parametrize("ties", [False, True])
def test_friedman_is_scipys_in_iman_and_davenports_form(ties):
    table = scores(8, 5, 3, ties)
    chi2, _ = stats.friedmanchisquare(*table.to_numpy().T)
    n, k = table.shape
    f = (n - 1) * chi2 / (n * (k - 1) - chi2)
    expected = stats.f.sf(f, k - 1, (k - 1) * (n - 1))
    assert across.ranking(table).p == pytest.approx(expected)


@pytest.mark.parametrize(
    ("methods", "data_sets", "published"),
    # Demšar 2006: the example of section 3.2.2, and his table 5a for the others.
    [(4, 14, 1.25), (2, 10, 1.960 * math.sqrt(6 / 60)), (10, 30, 3.164 * math.sqrt(110 / 180))],
)
def test_the_critical_difference_is_the_published_one(methods, data_sets, published):
    ranked = across.ranking(scores(data_sets, methods))
    assert ranked.critical_difference == pytest.approx(published, abs=0.005)


def test_equal_methods_are_alike_and_a_constant_order_is_not():
    equal = pd.DataFrame(np.full((5, 3), 90.0), columns=list("abc"))
    ranked = across.ranking(equal)
    assert ranked.p == 1.0 and ranked.alike == (("a", "b", "c"),)
    order = pd.DataFrame(np.tile([93.0, 92.0, 91.0], (40, 1)), columns=list("abc"))
    ranked = across.ranking(order)
    assert ranked.p < 1e-6 and ranked.alike == ()
    assert list(ranked.ranks) == ["a", "b", "c"]


def test_no_group_of_alike_methods_is_inside_another():
    for seed in range(20):
        ranked = across.ranking(scores(5, 6, seed))
        for group in ranked.alike:
            ranks = [ranked.ranks[name] for name in group]
            assert max(ranks) - min(ranks) < ranked.critical_difference
            assert not any(set(group) < set(other) for other in ranked.alike)


def test_too_little_to_rank_is_refused():
    with pytest.raises(ValueError, match="1 data sets and 4 methods.*at least 2"):
        across.ranking(scores(1))


# --- probability of improvement ------------------------------------------------------------------


def test_the_probability_of_improvement_counts_pairs():
    a, b = RNG(0).integers(85, 95, 7), RNG(1).integers(85, 95, 5)
    c, d = RNG(2).integers(85, 95, 4), RNG(3).integers(85, 95, 6)

    def by_hand(x, y):
        return sum((i > j) + 0.5 * (i == j) for i in x for j in y) / (len(x) * len(y))

    interval = across.probability_of_improvement([(a, b), (c, d)], RNG(0))
    assert interval.estimate == pytest.approx((by_hand(a, b) + by_hand(c, d)) / 2)
    turned = across.probability_of_improvement([(b, a), (d, c)], RNG(0))
    assert turned.estimate == pytest.approx(1 - interval.estimate)
    assert interval.low < interval.estimate < interval.high


def test_its_interval_covers_what_it_estimates():
    """P(N(1, 1) > N(0, 1)) = Φ(1 / √2), for twelve runs a side."""
    truth = stats.norm.cdf(1 / math.sqrt(2))
    covered = 0
    for trial in range(300):
        rng = RNG(trial)
        pairs = [(rng.normal(1, 1, 12), rng.normal(0, 1, 12)) for _ in range(2)]
        interval = across.probability_of_improvement(pairs, rng, resamples=399)
        covered += interval.low <= truth <= interval.high
    assert 0.90 <= covered / 300 <= 0.99


def test_one_run_gives_no_interval():
    interval = across.probability_of_improvement(
        [(np.array([91.0]), np.array([90.0, 92.0]))], RNG(0)
    )
    assert interval.estimate == 0.5 and math.isnan(interval.low)


# --- a study -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for dataset in ("digits", "mnist", "news"):
        make_study(folder, standard_study("benchmark", dataset))
    make_study(folder, standard_study("tension", "digits"))
    return folder


def test_a_study_is_ranked_over_the_data_sets_that_have_it(results, tmp_path):
    figure, table = across.shown(results, "benchmark", "Vanilla", Look())
    assert set(table.data["arm"]) == {"Challenger", "MendABA", "FastABA", "FastABA-CE"}
    assert (table.data["data_sets"] == 3).all()
    ax = across.rank_plot(
        across.ranking(
            across.scores_of(across.runs_of(results, "benchmark"), "validation_accuracy")
        )
    )
    labels = {text.get_text() for text in ax.texts}
    for arm, rank in zip(table.data["arm"], table.data["mean_rank"], strict=True):
        assert f"{arm} ({rank:.1f})" in labels
    plt.close("all")
    for exhibit in (figure, table):
        assert exhibits.write(exhibit, tmp_path, command="aba claims")


def test_more_methods_than_a_diagram_can_name_are_listed_alone(results, monkeypatch):
    monkeypatch.setattr(across, "MOST_DRAWN", 5)
    assert len(across.shown(results, "benchmark", "Vanilla", Look())) == 2
    monkeypatch.setattr(across, "MOST_DRAWN", 4)
    (table,) = across.shown(results, "benchmark", "Vanilla", Look())
    assert table.kind == "table"


def test_ranks_need_two_data_sets(results):
    with pytest.raises(ResultsError, match="is there for digits; ranks need at least two"):
        across.runs_of(results, "tension")


def made_of(rng, rho, n, noise, arms=27):
    """(true rank correlation, runs on two data sets); blocks have levels of their own."""
    true = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], arms).T
    blocks = [
        mean + noise * rng.standard_normal((count, arms)) + 2 * rng.standard_normal((count, 1))
        for mean, count in zip(true, n, strict=True)
    ]
    return stats.spearmanr(*true).statistic, blocks


def test_rank_agreement_without_noise_is_spearmans():
    true, (first, second) = made_of(np.random.default_rng(0), 0.6, (6, 5), 1e-6)
    assert across.rank_agreement(first, second).estimate == pytest.approx(true, abs=1e-4)


@pytest.mark.parametrize(("rho", "n", "noise"), [(0.75, (40, 16), 2.0), (0.0, (20, 20), 2.0)])
def test_rank_agreement_undoes_attenuation_and_covers(rho, n, noise):
    rng, inside, off, raw = np.random.default_rng(1), 0, [], []
    for _ in range(100):
        true, (first, second) = made_of(rng, rho, n, noise)
        found = across.rank_agreement(first, second)
        inside += found.low <= true <= found.high
        off.append(found.estimate - true)
        raw.append(stats.spearmanr(first.mean(0), second.mean(0)).statistic - true)
    assert inside >= 90, inside  # Monte Carlo error of .95 in 100 is .022
    assert abs(np.mean(off)) < 0.03
    assert rho == 0 or np.mean(raw) < -0.03  # what it is for


def test_rank_agreement_has_no_interval_where_there_is_nothing_to_rank():
    same = np.ones((5, 27))
    assert math.isnan(across.rank_agreement(same, same).estimate)
    _, (first, second) = made_of(np.random.default_rng(2), 0.5, (3, 9), 1.0)
    assert math.isnan(across.rank_agreement(first, second).low)
    assert math.isnan(across.rank_agreement(first[:1], second).low)  # one training subset
