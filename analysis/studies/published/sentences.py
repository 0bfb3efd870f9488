"""What agreement with the published tables comes to, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from aba_core.adjustments import Group
from analysis.studies.isolation import CONTRASTS
from analysis.studies.published.agreement import verdict
from analysis.tables import interval_text, listed


def _everywhere(published: Sequence[str]) -> str:
    """Such as: in the published experiment, in all three published experiments."""
    if len(published) == 1:
        return "in the published experiment"
    return f"in all {'three' if len(published) == 3 else len(published)} published experiments"


def order_sentences(order: pd.DataFrame, contrasts: pd.DataFrame, same_data: bool) -> list[str]:
    """Agreement of the 27 and of the groups with the published, in words.

    order: from `order_agreement_table`; contrasts: from `contrast_agreement_table`. same_data:
    whether the published experiment used the same data set, so that ratings mean the same.
    """
    sentences = []
    published = list(dict.fromkeys(contrasts["published"]))
    if (contrasts["agreement"] == "same").all():
        first = contrasts[contrasts["published"] == published[0]]
        wins = [
            pair[row == "below"] for pair, row in zip(CONTRASTS, first["verdict_here"], strict=True)
        ]
        ranks = sorted(Group, key=wins.count, reverse=True)
        sentences.append(
            f"The groups stand in the same order here and {_everywhere(published)}: "
            f"{' above '.join(ranks)}."
        )
    else:
        for contrast, rows in contrasts.groupby("contrast", sort=False):
            by_kind = {
                kind: list(rows.loc[rows["agreement"] == kind, "published"])
                for kind in ("same", "opposite", "inconclusive")
            }
            words = {"same": "the sign is as published on", "opposite": "opposite to that on"}
            parts = [f"{words[k]} {listed(by_kind[k])}" for k in words if by_kind[k]]
            if by_kind["inconclusive"]:
                here = rows["verdict_here"].iloc[0] == "inconclusive"
                where = "here" if here else f"as published on {listed(by_kind['inconclusive'])}"
                parts.append(f"inconclusive {where}")
            numbers = interval_text(*rows.iloc[0][["here", "here_low", "here_high"]])
            sentences.append(f"{contrast}: {'; '.join(parts)} (here {numbers} points).")
    for row in order.to_dict("records"):
        numbers = interval_text(row["spearman"], row["spearman_low"], row["spearman_high"], 2)
        kind = {
            "above": "The 27 adjustments rank alike here and as published on",
            "below": "The 27 adjustments rank in opposite order here and as published on",
            "inconclusive": "It is inconclusive whether the 27 adjustments rank as published on",
        }[verdict(row["spearman_low"], row["spearman_high"])]
        sentences.append(f"{kind} {row['published']}: Spearman {numbers}.")
        if same_data and row["n_ratings"] and math.isfinite(row["rating_share"]):
            numbers = interval_text(
                row["rating_kappa"], row["rating_kappa_low"], row["rating_kappa_high"], 2
            )
            kind = verdict(row["rating_kappa_low"], row["rating_kappa_high"])
            than = {
                "above": "more than by chance",
                "below": "less than by chance",
                "inconclusive": "inconclusive against chance",
            }[kind]
            sentences.append(
                f"{round(row['rating_share'] * row['n_ratings'])} of {row['n_ratings']} ratings "
                f"are as published: κ {numbers}, {than}."
            )
    return sentences


def set_sentences(sets: pd.DataFrame, same_data: bool) -> list[str]:
    """Agreement of a `set_agreement_table` in words, one sentence an experiment and a dissent."""
    sentences = []
    for published, rows in sets.groupby("published", sort=False):
        for word in ("above", "below"):
            agree = (rows["agreement"] == "same") & (rows["verdict_here"] == word)
            same = list(rows.loc[agree, "set"])
            if same:
                sentences.append(
                    f"Sets {word} the mean of their members, as published on {published}: "
                    f"{listed(same)}."
                )
        for row in rows[rows["agreement"] != "same"].to_dict("records"):
            what = "advantage" if row["there"] > 0 else "disadvantage"
            what += f" of the set {row['set']}"
            sentences.append(_dissent(what, row, str(published), same_data))
    return sentences


def benchmark_sentences(benchmark: pd.DataFrame, same_data: bool) -> list[str]:
    """Agreement of a `benchmark_agreement_table` in words: each method against Vanilla."""
    sentences = []
    rated = benchmark[benchmark["agreement"] != ""]
    for (published, split), rows in rated.groupby(["published", "split"], sort=False):
        where = f"{published} ({split})"
        for sign, word in ((1, "above"), (-1, "below")):
            same = rows[(rows["agreement"] == "same") & (np.sign(rows["there"]) == sign)]
            if len(same):
                sentences.append(
                    f"{listed(list(same['method']))} {word} Vanilla, as published on {where}."
                )
        rest = rows[rows["agreement"] != "same"]
        unsure = rest[(rest["agreement"] != "opposite") & (rest["verdict_there"] == "inconclusive")]
        if len(unsure) > 1:
            sentences.append(
                f"On {where} the published differences of {listed(list(unsure['method']))} to "
                "Vanilla are themselves inconclusive."
            )
            rest = rest.drop(unsure.index)
        for row in rest.to_dict("records"):
            what = "advantage" if row["there"] > 0 else "disadvantage"
            sentences.append(
                _dissent(f"{what} of {row['method']} against Vanilla", row, where, same_data)
            )
    return sentences


def _dissent(what: str, row: dict, where: str, same_data: bool) -> str:
    """Such as: The advantage of X published on MNIST does not appear: −1.0 points [−2.0, −0.1]
    here."""

    def numbers(name: str) -> str:
        text = interval_text(row[name], row[f"{name}_low"], row[f"{name}_high"])
        return text.replace(" [", " points [") if "[" in text else f"{text} points"

    there = f", {numbers('there')} published" if same_data else ""
    found = f"{numbers('here')} here{there}"
    what = f"The {what} published on {where}"
    if row["agreement"] == "opposite":
        return f"{what} does not appear: {found}."
    if row["verdict_there"] == "inconclusive":
        return f"{what} is itself inconclusive: {found}."
    return f"{what} is inconclusive here: {numbers('here')}{there}."
