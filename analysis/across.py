"""Methods over several data sets: mean ranks with their critical difference, and how often one
method's run beats another's.

    runs on each data set → mean score [data set, method] → ranks → Friedman, Nemenyi
                          → P(a run of A beats a run of B), with an interval over runs
                          → do the same arms rank alike on two data sets?

The unit of the ranks is the data set, so few data sets tell little: the critical difference says
how little. The probability of improvement generalises to further runs on the same data sets only.
Sources: Demšar 2006, "Statistical comparisons of classifiers over multiple data sets"; Agarwal et
al. 2021, "Deep reinforcement learning at the edge of the statistical precipice".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy import stats

from analysis import figures, rooms
from analysis import results as store
from analysis.exhibits import Exhibit, Look
from analysis.results import ResultsError
from analysis.statistics import CONFIDENCE, Interval
from analysis.tables import values_of

RESAMPLES = 1_999
LEAST_BLOCKS = 4  # of either data set, for an interval of rank agreement


@dataclass(frozen=True)
class Ranking:
    """Mean ranks of methods over data sets; rank 1 is the best, ties share their mean.

    ranks: {method: mean rank}, the best first. data_sets: how many. p: of Friedman's test that all
    methods are alike, in Iman and Davenport's form. critical_difference: mean ranks nearer than
    this are not told apart (Nemenyi, over all pairs together). alike: groups of methods, each as
    large as can be, in which no two are told apart.
    """

    ranks: Mapping[str, float]
    data_sets: int
    p: float
    critical_difference: float
    alike: tuple[tuple[str, ...], ...]


def scores_of(runs: Mapping[str, pd.DataFrame], metric: str) -> pd.DataFrame:
    """Mean of each method on each data set. runs: {data set: one row a run}. [data set, method]

    Only methods with runs on every data set stay, in the order of the first.
    """
    means = {
        name: frame[frame[metric].notna()].groupby("arm", sort=False)[metric].mean()
        for name, frame in runs.items()
    }
    return pd.DataFrame(means).T.dropna(axis=1)


def ranking(scores: pd.DataFrame, confidence: float = CONFIDENCE) -> Ranking:
    """Rank methods over data sets. scores: [data set, method], larger is better.

    Raises ValueError for fewer than two data sets or methods.
    """
    data_sets, methods = scores.shape
    if data_sets < 2 or methods < 2:
        raise ValueError(
            f"{data_sets} data sets and {methods} methods with runs on all of them; "
            "needed: at least 2 of both"
        )
    by_data_set = stats.rankdata(-scores.to_numpy(np.float64), axis=1)
    mean = pd.Series(by_data_set.mean(0), scores.columns).sort_values(kind="stable")
    quantile = stats.studentized_range.ppf(confidence, methods, math.inf) / math.sqrt(2)
    critical = float(quantile * math.sqrt(methods * (methods + 1) / (6 * data_sets)))
    return Ranking(
        {str(name): float(rank) for name, rank in mean.items()},
        data_sets,
        _friedman_p(by_data_set),
        critical,
        _alike(mean, critical),
    )


def _friedman_p(ranks: np.ndarray) -> float:
    """Iman and Davenport's F form of Friedman's test. ranks: [data set, method]. Ties share their
    mean rank, so the sums of squares are those of the ranks that there are."""
    data_sets, methods = ranks.shape
    between = data_sets * ((ranks.mean(0) - (methods + 1) / 2) ** 2).sum()
    total = ((ranks - (methods + 1) / 2) ** 2).sum()
    within = total - between
    if total <= 0:
        return 1.0
    if within <= 1e-12 * total:
        return 0.0
    return float(
        stats.f.sf((data_sets - 1) * between / within, methods - 1, (data_sets - 1) * (methods - 1))
    )


def _alike(mean: pd.Series, critical: float) -> tuple[tuple[str, ...], ...]:
    """Runs of neighbours, best first, that lie within the critical difference; none in another."""
    names, values = [str(name) for name in mean.index], mean.to_numpy()
    groups: list[tuple[int, int]] = []
    for first in range(len(names)):
        last = int(np.flatnonzero(values - values[first] < critical)[-1])
        if last > first and not (groups and groups[-1][1] >= last):
            groups.append((first, last))
    return tuple(tuple(names[first : last + 1]) for first, last in groups)


def probability_of_improvement(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    rng: np.random.Generator,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Interval:
    """How often a run of A is above a run of B, ties counted half, averaged over data sets.

    pairs: for each data set the runs of A, [run], and of B, [run]. The interval is a percentile
    bootstrap over runs within each data set: it says nothing of further data sets. Five runs on
    each side make it a little short. One run on a side gives no interval.
    """
    ordered = [tuple(np.sort(np.asarray(x, dtype=np.float64)) for x in pair) for pair in pairs]
    n = sum(a.size + b.size for a, b in ordered)
    if not ordered or any(a.size == 0 or b.size == 0 for a, b in ordered):
        return Interval(math.nan, math.nan, math.nan, n, confidence, "none")
    wins = [
        (a[:, None] > b[None]) + 0.5 * (a[:, None] == b[None]) for a, b in ordered
    ]  # [run of A, run of B]
    estimate = float(np.mean([won.mean() for won in wins]))
    if any(min(won.shape) < 2 for won in wins):
        return Interval(estimate, math.nan, math.nan, n, confidence, "none")
    drawn = np.zeros(resamples)
    for won in wins:
        of_a = rng.multinomial(won.shape[0], np.full(won.shape[0], 1 / won.shape[0]), resamples)
        of_b = rng.multinomial(won.shape[1], np.full(won.shape[1], 1 / won.shape[1]), resamples)
        drawn += np.einsum("ra,ab,rb->r", of_a, won, of_b) / won.size / len(wins)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(
        estimate, min(float(low), estimate), max(float(high), estimate), n, confidence, "percentile"
    )


# --- the same arms on two data sets --------------------------------------------------------------


def rank_agreement(
    first: np.ndarray, second: np.ndarray, confidence: float = CONFIDENCE
) -> Interval:
    """How far arms rank alike on two data sets: Spearman's correlation of their true means.

    first, second: what runs reached, [block, arm], the same arms in the same order. Means err, and
    so correlate less than what they estimate: the correlation is divided by the root of both
    reliabilities (attenuation). Delete-one-block jackknife of Fisher's z over the blocks of both,
    Student's t; it covers .95 to 1.00 where .95 is meant (tests/test_across.py). The arms are all
    that the claim is about, not a sample. NaN where means do not differ beyond their errors.
    """
    n = min(len(first), len(second))
    z = _fisher(first, second) if n >= LEAST_BLOCKS else math.nan
    if not math.isfinite(z):
        return Interval(math.nan, math.nan, math.nan, n, confidence, "none")
    variance = 0.0
    for kept, other, turn in ((first, second, 1), (second, first, -1)):
        without = [
            _fisher(*(np.delete(kept, block, axis=0), other)[::turn]) for block in range(len(kept))
        ]
        variance += (len(kept) - 1) * float(np.var(without))
    reach = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * math.sqrt(variance)
    low, high = math.tanh(z - reach), math.tanh(z + reach)
    return Interval(math.tanh(z), low, high, n, confidence, "jackknife")


def _fisher(first: np.ndarray, second: np.ndarray) -> float:
    """Fisher's z of the corrected rank correlation; below 4 in size, as a correlation of 1 has
    none."""
    reliable = _reliability(first) * _reliability(second)
    if not reliable > 0:
        return math.nan
    ranks = [stats.rankdata(values.mean(axis=0)) for values in (first, second)]
    return math.atanh(np.clip(np.corrcoef(*ranks)[0, 1] / math.sqrt(reliable), -0.999, 0.999))


def _reliability(values: np.ndarray) -> float:
    """The share of the variance of means that is not their error; blocks' own levels are taken out.
    values: [block, arm]"""
    blocks, arms = values.shape
    rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    error = float((rest**2).sum()) / ((blocks - 1) * (arms - 1) * blocks)
    spread = float(values.mean(axis=0).var(ddof=1))
    return 1 - error / spread if spread > 0 else 0.0


# --- a study on all the data sets that have it ---------------------------------------------------


def runs_of(
    results: Path | str,
    study: str,
    datasets: Sequence[str] = (),
    ranked: Callable[[str], bool] = lambda arm: True,
) -> dict[str, pd.DataFrame]:
    """{data set: runs} of one study, wherever it was run, of the arms that are ranked. Raises
    ResultsError below two."""
    present = [
        name
        for name, studies in rooms.studies_by_dataset(results).items()
        if study in studies and (not datasets or name in datasets)
    ]
    if len(present) < 2:
        known = ", ".join(present) or "none"
        raise ResultsError(
            f"{study} in {results} is there for {known}; ranks need at least two data sets"
        )
    frames = {name: store.load(results, study, name).frame for name in present}
    return {name: frame[frame["arm"].map(ranked)] for name, frame in frames.items()}


def improvement_table(runs: Mapping[str, pd.DataFrame], reference: str, look: Look) -> pd.DataFrame:
    """One row for each method but the reference: mean rank, probability of improvement on it.

    Columns: arm, mean_rank, improvement (0 to 1) with interval, data_sets, n.
    """
    ranks = ranking(scores_of(runs, look.metric), look.confidence).ranks
    rows = []
    others = [name for name in ranks if name != reference]
    for arm, stream in zip(others, look.rng().spawn(len(others)), strict=True):
        pairs = [
            (values_of(frame, arm, look.metric), values_of(frame, reference, look.metric))
            for frame in runs.values()
        ]
        interval = probability_of_improvement(pairs, stream, look.confidence)
        rows.append(
            {
                "arm": arm,
                "mean_rank": ranks[arm],
                "improvement": interval.estimate,
                "improvement_low": interval.low,
                "improvement_high": interval.high,
                "data_sets": len(runs),
                "n": interval.n,
            }
        )
    return pd.DataFrame(rows)


def rank_plot(ranked: Ranking, ax: Axes | None = None) -> Axes:
    """A critical-difference diagram: methods on an axis of mean ranks, the best to the left.

    Bars join methods that are not told apart; the bar on top is as long as the critical difference.
    """
    names = list(ranked.ranks)
    left = names[: (len(names) + 1) // 2]
    depth = max(len(left), 1) + 0.6 * len(ranked.alike)
    ax = figures.given_or_new(ax, figures.TWO_COLUMNS, rank_height(ranked))
    text, width, marker = figures.sizes(ax)
    first, last = 1.0, float(len(names))
    ax.hlines(0, first, last, color="black", lw=width)
    between = 1 if len(names) <= 20 else 5 if len(names) <= 60 else 10
    for rank in [1, *range(2 if between == 1 else between, len(names) + 1, between)]:
        ax.vlines(rank, 0, 0.15, color="black", lw=width)
        ax.text(rank, 0.25, str(rank), ha="center", va="bottom", size=0.875 * text)
    top = 1.3
    ax.hlines(top, first, first + ranked.critical_difference, color="black", lw=2 * width)
    words = f"critical difference {ranked.critical_difference:.1f}, {ranked.data_sets} data sets"
    ax.text(first, top + 0.15, words, va="bottom", size=0.875 * text)
    for place, group in enumerate(ranked.alike):
        ends = ranked.ranks[group[0]], ranked.ranks[group[-1]]
        y = -0.4 - 0.35 * place
        ax.hlines(y, ends[0] - 0.04, ends[1] + 0.04, color="0.45", lw=3 * width)
    below = 0.5 + 0.35 * len(ranked.alike)
    for place, name in enumerate(names):
        on_left = name in left
        level = place if on_left else len(names) - 1 - place
        y = -below - 0.6 * (level + 0.5)
        mean = ranked.ranks[name]
        edge = first - 0.25 if on_left else last + 0.25
        ax.plot([mean, mean, edge], [0, y, y], color="0.3", lw=0.7 * width)
        ax.plot(mean, 0, "o", color="black", ms=0.6 * marker)
        label = f"{name} ({mean:.1f})"
        at, side = (edge - 0.05, "right") if on_left else (edge + 0.05, "left")
        ax.text(at, y, label, va="center", ha=side, size=0.875 * text)
    room = 0.55 * (last - first) + 0.6
    ax.set_xlim(first - room, last + room)
    ax.set_ylim(-below - 0.6 * (depth + 0.2), top + 0.9)
    ax.set_axis_off()
    return ax


def rank_height(ranked: Ranking) -> float:
    """Height in mm at which `rank_plot` names every method."""
    return 24.0 + 4.0 * ((len(ranked.ranks) + 1) // 2) + 3.0 * len(ranked.alike)


MOST_DRAWN = 60  # more lines to names lie on one another


def shown(
    results: Path | str,
    study: str,
    reference: str,
    look: Look,
    ranked: Callable[[str], bool] = lambda arm: True,
) -> tuple[Exhibit, ...]:
    """The critical-difference diagram of a study's arms, where they are few enough, and their
    table. ranked: which arms, by name. Raises ResultsError."""
    runs = runs_of(results, study, ranked=ranked)
    order = ranking(scores_of(runs, look.metric), look.confidence)
    table = improvement_table(runs, reference, look)
    level = f"{100 * look.confidence:g} %"
    facts = {"dataset": "all", "datasets": list(runs), "interval": f"{level}, bootstrap over runs"}
    chance = "p < 0.001" if order.p < 0.001 else f"p = {order.p:.3f}"
    words = (
        f"{look.label} of the {study} study on {', '.join(runs)}; rank 1 is the best. Friedman's "
        f"test that all are alike: {chance}. Bars join methods that {order.data_sets} "
        "data sets cannot tell apart."
    )
    chances = (
        f"Improvement: how often a run is above one of {reference}, ties counted half, averaged "
        f"over the data sets; {level} intervals over runs, for these data sets alone."
    )

    def draw(width: str) -> object:
        return figures.figure_of(rank_plot(order, figures.sized_axes(width, rank_height(order))))

    name, title = f"ranks-{study}", f"Mean ranks of the {study} study over data sets"
    columns = ["arm", "mean_rank", "improvement", "data_sets", "n"]
    diagram = Exhibit(name, title, table, f"{title}. {words}", facts, words, draw, "double")  # type: ignore[arg-type]
    listed = Exhibit(
        name, title, table, f"{title}. {chances}", facts, chances, None, "single", columns, 2
    )
    return (diagram, listed) if len(order.ranks) <= MOST_DRAWN else (listed,)
