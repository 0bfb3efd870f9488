"""Sentences that notebooks 02 and 03 answer with, from the tables of their studies."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from aba_core.adjustments import GROUP_SETS
from analysis import design, tables


def highest_mean(isolation: pd.DataFrame) -> str:
    """The best adjustment of an isolation table beside the baseline; "" where none has a mean."""
    if not isolation["mean"].notna().any():
        return ""
    best = isolation.iloc[int(isolation["mean"].argmax())]
    numbers = tables.interval_text(best["mean"], best["mean_low"], best["mean_high"])
    changes = ", ".join(str(best[name]).replace("-", "−") for name in ("low", "middle", "high"))
    return (
        f"Highest mean: adjustment {best['index']} [{changes}], {best['group']}, {numbers} %; "
        f"without augmentation {isolation['mean'][0]:.1f} %. The winner of 27 looks better than it "
        "is."
    )


def rank_correlations(published_order: pd.DataFrame) -> str:
    """How the order of this study's 27 means correlates with that of each published one."""
    rows = published_order[published_order["first"] == "this study"]
    parts = [
        f"{row['spearman']:.2f} with {row['second'].removeprefix('published ')}"
        for _, row in rows.iterrows()
    ]
    return f"Rank correlation with the published means: {', '.join(parts)}.".replace("-0", "−0")


def of_sets(hypothesis: pd.DataFrame) -> list[str]:
    """Three sentences from a hypothesis table: which sets are above what they are held against,
    which below, and for which it stays inconclusive."""
    single = [name for name, groups in GROUP_SETS.items() if len(groups) == 1]
    joined = [name for name, groups in GROUP_SETS.items() if len(groups) > 1]
    questions: tuple[tuple[str, Sequence[str], str], ...] = (
        (
            "The published measure, a set against the mean of its members",
            hypothesis["set"].tolist(),
            "difference",
        ),
        ("Variety, a group against its best member", single, "difference_to_best_member"),
        ("Tension, joined groups against the best of them", joined, "difference_to_best_group"),
    )
    sentences = []
    for question, sets, column in questions:
        rows = hypothesis[hypothesis["set"].isin(sets)]
        low, high = rows[f"{column}_low"], rows[f"{column}_high"]
        kinds = {"above": low > 0, "below": high < 0, "inconclusive": ~((low > 0) | (high < 0))}
        parts = [
            f"{kind} for {', '.join(rows['set'][of])}" for kind, of in kinds.items() if of.any()
        ]
        sentences.append(f"{question}: {'; '.join(parts).removesuffix('.')}.")
    return sentences


def detectable(runs: pd.DataFrame, metric: str, hypothesis: pd.DataFrame) -> str:
    """The difference of two arms that so many runs would mostly detect; "" for a single run or
    where runs do not differ."""
    spread = runs.groupby("arm")[metric].std().median()
    fewest = int(hypothesis.loc[hypothesis["n"] > 0, "n"].min())
    if not (fewest > 1 and spread > 0):
        return ""
    least = design.smallest_detectable_difference(spread, fewest)
    return (
        f"With {fewest} runs an arm and a median standard deviation of {spread:.1f} points, a true "
        f"difference of {least:.1f} points between two arms would be found in four of five such "
        "studies; smaller ones mostly stay inconclusive."
    )
