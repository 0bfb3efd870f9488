"""Verdicts in words: what was found of a hypothesis, as one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from analysis import scopes, tables
from analysis.reference import PUBLISHED

if TYPE_CHECKING:
    import pandas as pd

    from analysis.rules import Verdict

# {data set: how prose and figures call it}, in the order in which they name them
_DATA = {
    "digits": "Digits",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "tiny-imagenet": "Tiny ImageNet",
    "tiny-imagenet-20": "Tiny ImageNet, 20 classes",
    "news": "20 Newsgroups",
    "breast-cancer": "Breast cancer",
    "diabetes": "Diabetes",
    "ptb-xl": "PTB-XL",
    "ptb-xl-superclass": "PTB-XL, superclasses",
    "ptb-xl-superclass-25hz": "PTB-XL, superclasses at 25 Hz",
}

# {model: how captions call it}; others have the name that studies give them
_MODELS = {
    "linear": "linear model",
    "mlp": "MLP",
    "small_cnn": "small CNN",
    "larger_cnn": "larger CNN",
    "vgg11": "VGG-11",
    "vgg16": "VGG-16",
    "text_cnn": "text CNN",
}

# {unit: what is counted}
_UNITS = {
    "run": "runs in all",
    "seed": "pairs of runs by seed",
    "subset": "training subsets",
    "adjustment": "adjustments",
    "set": "sets",
    "map": "maps",
}


def data_title(dataset: str) -> str:
    """How prose and figures call a data set; one of a user's own has the name that it was given."""
    return _DATA.get(dataset, dataset)


def model_title(model: str) -> str:
    """How captions call a model."""
    return _MODELS.get(model, model)


def published_title(experiment: str) -> str:
    """How prose and figures call the data set of a published experiment, as "MNIST"."""
    of = {name: dataset for dataset, name in PUBLISHED.items()}
    return data_title(of.get(experiment, experiment))


def in_order(datasets: Iterable[str]) -> list[str]:
    """Data sets in the order in which prose and figures name them, a user's own ones last."""
    places = {name: place for place, name in enumerate(_DATA)}
    return sorted(datasets, key=lambda name: (places.get(name, len(places)), name))


def effect_text(estimate: float, low: float, high: float, measure: str) -> str:
    """Text such as 1.2 [0.9, 1.5] points; two digits for what is no share of a hundred, and one
    more where it takes that to see on which side of 0 an end is."""
    digits = 1 if measure == "points" or measure.endswith("%") else 2
    ends = [end for end in (low, high) if math.isfinite(end)]
    digits += any(round(end, digits) == 0 for end in ends)
    return f"{tables.interval_text(estimate, low, high, digits)} {measure}"


def sentence_of(verdict: Verdict) -> str:
    """Claim, verdict, deciding comparison with its effect, n, scope, and what could be seen."""
    hypothesis, row = verdict.hypothesis, verdict.decisive
    subject = f"{row['label']}" + f" ({verdict.reason})" * (len(verdict.table) > 1)
    ends = row["estimate_low"], row["estimate_high"]
    effect = effect_text(row["estimate"], *ends, hypothesis.measure)
    parts = [
        f"{hypothesis.statement} {verdict.verdict.capitalize()}: {subject} is {effect}: "
        f"{_effect_words(verdict)}. It rests on {row['n']} {_UNITS[row['unit']]}; "
        f"{hypothesis.n} seeds an arm were planned, and the smallest effect seen with 80 % power "
        f"is {effect_text(row['smallest_detectable'], math.nan, math.nan, hypothesis.measure)}."
    ]
    parts.append(_scope_words(row, hypothesis.measure))
    if "look" in row:
        parts.append(f"It is at the level of look {int(row['look'])} of {hypothesis.looks}.")
    if row["left_out"]:
        parts.append(f"{row['left_out']} blocks lack a run and are left out.")
    if row["label"] in verdict.notes:
        note = verdict.notes[row["label"]]
        parts.append(f"{note[0].upper()}{note[1:]}.")
    return " ".join(parts)


def _effect_words(verdict: Verdict) -> str:
    """What the decisive interval says, as a clause."""
    hypothesis, effect = verdict.hypothesis, verdict.effect
    margin = f"{hypothesis.margin:g} {hypothesis.measure}"
    if hypothesis.direction == "not worse" and effect in ("exists", "open"):
        if verdict.verdict == "supported":
            return f"a loss of {margin} is excluded"
        return f"a loss of {margin} is neither shown nor excluded"
    one_sided = hypothesis.direction in ("greater", "less")
    if effect == "reversed":
        if hypothesis.direction == "less":
            return "the effect goes the other way"
        return "this is a harm, not a gain"
    if effect == "worth having":
        return f"the {'effect' if one_sided else 'difference'} exceeds the margin of {margin}"
    if effect == "exists":
        return f"there is an effect, and whether it reaches the margin of {margin} is open"
    if effect == "negligible":
        return f"it is negligible, within ±{margin}"
    if verdict.verdict == "refuted":
        return f"an effect worth having, of {margin}, is excluded"
    return f"neither an effect nor its absence (less than {margin}) is shown"


def _scope_words(row: pd.Series, measure: str) -> str:
    """What the interval is over, and those over less and over more where they are known."""
    text = f"The interval is over {tables.listed(row['over'].split(', '))}"

    def ends(name: str) -> str:
        low, high = row.get(f"{name}_low", math.nan), row.get(f"{name}_high", math.nan)
        return range_text(low, high, measure)

    text += "." if ends("images") else f", not over {scopes.IMAGES}."
    beside = [
        f"over {what} it is {ends(name)}"
        for name, what in (("seeds", "seeds alone"), ("images", f"{scopes.IMAGES} too"))
        if ends(name)
    ]
    said = " and ".join(beside)
    return f"{text} {said[0].upper()}{said[1:]}." if said else text


def with_ranges(table: pd.DataFrame) -> pd.DataFrame:
    """A table of verdicts or comparisons with over_seeds and over_images as text beside the ends:
    the intervals over seeds alone, and over evaluation images too."""
    texts = {
        f"over_{name}": [
            range_text(row.get(f"{name}_low", math.nan), row.get(f"{name}_high", math.nan),
                       str(row.get("measure", "points")))
            for row in table.to_dict("records")
        ]
        for name in ("seeds", "images")
    }  # fmt: skip
    return table.assign(**texts)


def over_text(row: Mapping[Any, Any]) -> str:
    """What a row's interval is over, and those over seeds alone and over images too, such as
    "training subsets, seeds; images too: [1.7, 2.7]"."""
    measure = str(row.get("measure", "points"))
    parts = [str(row.get("over", ""))]
    for name, words in (("seeds", "seeds alone"), ("images", "images too")):
        low, high = row.get(f"{name}_low", math.nan), row.get(f"{name}_high", math.nan)
        text = range_text(low, high, measure)
        parts += [f"{words}: {text}"] * bool(text)
    return "; ".join(parts)


def range_text(low: float, high: float, measure: str = "points") -> str:
    """The ends of an interval, such as [0.9, 1.5]; "" where there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return effect_text(low, low, high, measure).partition(" ")[2].removesuffix(f" {measure}")
