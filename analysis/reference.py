"""The published tables in the form of ours, and the gain and rating that the slides give.

Accuracies are in percent. Source: the slides of the thesis, see data/reference.
"""

from __future__ import annotations

import math

import pandas as pd

from aba_core.adjustments import GROUP_SETS, members
from aba_core.installation import HOME

REFERENCE = HOME / "data" / "reference"
REFERENCES = ("isolation", "hypothesis", "benchmark", "benchmark_large", "offset_form")

# The published experiments on our data sets. Any other data set is compared with all of them, and
# then only orders and signs mean anything.
PUBLISHED = {"mnist": "mnist-tiny", "cifar10": "cifar10-tiny", "news": "20newsgroups-tiny"}
PUBLISHED_RUNS = 5
# Expectation of the largest of five normal values, in standard deviations.
_MAXIMUM_OF_FIVE = 1.163
# Lowest gain of each rating. Reproduces 80 of the 81 published ratings (not CIFAR-10, index 4).
RATINGS = (("Top", 0.70), ("Good", 0.25), ("Medium", -0.23))


def published_table(name: str) -> pd.DataFrame:
    """A published table: isolation, hypothesis, benchmark, benchmark_large or offset_form.

    Accuracies in percent. Raises ValueError for an unknown name, FileNotFoundError for a missing
    file. Source: the slides of the thesis, see data/reference.
    """
    if name not in REFERENCES:
        raise ValueError(f"unknown published table {name!r}; known: {', '.join(REFERENCES)}")
    path = REFERENCE / f"published_{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"published table {path.name} is missing from data/reference; restore it from git"
        )
    return pd.read_csv(path)


def published_for(dataset: str) -> tuple[str, ...]:
    """The published experiments that results on a data set are compared with."""
    return (PUBLISHED[dataset],) if dataset in PUBLISHED else tuple(PUBLISHED.values())


def gain(mean: float, baseline: float, best: float) -> float:
    """(mean − baseline) / (best − baseline), accuracies in percent.

    NaN where no adjustment beats the baseline, since the scale is then undefined.
    """
    return (mean - baseline) / (best - baseline) if best > baseline else math.nan


def rating(mean: float, baseline: float, best: float) -> str:
    """Top, Good, Medium or Bad by the gain; "" where the gain is undefined. See `RATINGS`."""
    value = gain(mean, baseline, best)
    if not math.isfinite(value):
        return ""
    return next((name for name, lowest in RATINGS if value >= lowest - 1e-9), "Bad")


def rate(table: pd.DataFrame, baseline: float) -> pd.DataFrame:
    """Give a table with the columns index and mean the columns gain and rating."""
    best = table["mean"].max()
    table["gain"] = [gain(mean, baseline, best) for mean in table["mean"]]
    table["rating"] = [rating(mean, baseline, best) for mean in table["mean"]]
    table.loc[table["index"] == 0, "rating"] = "Baseline"
    return table


def published_isolation_table(dataset: str) -> pd.DataFrame:
    """The published means and maxima of five runs in the form of `isolation.isolation_table`.

    Intervals and standard deviations were not published: NaN. The rating is computed, the printed
    one is in the column published_rating.
    """
    table = published_table("isolation")
    known = list(table["dataset"].unique())
    if dataset not in known:
        raise ValueError(f"unknown published dataset {dataset!r}; known: {', '.join(known)}")
    table = table[table["dataset"] == dataset].reset_index(drop=True)
    result = table[["index", "low", "middle", "high", "group"]].copy()
    result["n"], result["n_diverged"], result["n_missing"] = PUBLISHED_RUNS, 0, 0
    result["max"] = table["max_of_5"].astype(float)
    result["mean"] = table["mean_of_5"].astype(float)
    for name in ("mean_low", "mean_high", "sd"):
        result[name] = math.nan
    result = rate(result, float(result["mean"].iloc[0]))
    result["published_rating"] = table["rating"]
    return result


def published_hypothesis_table(dataset: str) -> pd.DataFrame:
    """The published hypothesis experiment in the form of `tension.hypothesis_table`.

    One row per published set. Best member and best group are taken from the published means and
    therefore not corrected for the choice: those columns, and all intervals, are NaN.
    """
    isolation = dict(enumerate(published_isolation_table(dataset)["mean"].tolist()))
    table = published_table("hypothesis")
    table = table[table["dataset"] == dataset].set_index("group")
    sets = dict(zip(table.index, table["all_of_group"].tolist(), strict=True))
    rows: list[dict[str, object]] = []
    for name in (name for name in GROUP_SETS if name in table.index):
        row: dict[str, object] = {"set": name, "n": PUBLISHED_RUNS, "n_diverged": 0, "n_missing": 0}
        row |= {"n_members": len(members(name)), "n_members_diverged": 0}
        for column in ("all_of_group", "mean_of_members", "difference"):
            number = float(table.loc[name, column])  # type: ignore[arg-type]
            row |= {column: number, f"{column}_low": math.nan, f"{column}_high": math.nan}
        best_index = max(members(name), key=lambda index: isolation[index])
        row |= {"best_member": best_index, "best_member_mean": float(isolation[best_index])}
        joined = GROUP_SETS[name] if len(GROUP_SETS[name]) > 1 else ()
        row["best_group"] = str(max(joined, key=lambda group: sets[group], default=""))
        for best in ("best_member", "best_group"):
            for column in (f"{best}_corrected", f"difference_to_{best}"):
                row |= {column: math.nan, f"{column}_low": math.nan, f"{column}_high": math.nan}
        rows.append(row)
    return pd.DataFrame(rows)


def published_sd(published: str) -> float:
    """Standard deviation between published runs of one adjustment, from their maxima and means.

    The median over the 27 of (maximum − mean) / 1.163, points; the slides print none.
    """
    table = published_isolation_table(published)
    return float((table["max"] - table["mean"]).median() / _MAXIMUM_OF_FIVE)
