"""Hypotheses as plain data: what is claimed of which arms, and by which rule it is judged.

They are part of a study, declared and hashed before its runs; `rules` judges them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from aba_core.identity import load_for_results, short_hash, trust, version_of

# Version of the rules in `rules` and `comparisons`: a part of what is declared. Declarations that
# say none were made under version 1.
RULES_VERSION = 2
MOST_LOOKS = 100
_AT_LEAST = re.compile(r"at least ([1-9]\d{0,3})")


class PlainData(BaseModel):
    """Data of a file: no unknown fields, and never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Declared(PlainData):
    """Plain data that is hashed. Fields added later are written only where they say something, so
    that what was declared before keeps its hash."""

    @model_serializer(mode="wrap")
    def _short(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        default = {
            "paired": False,
            "squares": (),
            "looks": 0,
            "of": "mean",
            "measure": "points",
            "quantity": "",
        }
        return {
            name: value
            for name, value in write(self).items()
            if name not in default or getattr(self, name) != default[name]
        }


class Contrast(_Declared):
    """One comparison of arms: a weighted sum of their mean accuracies (points), or of the
    logarithms of their spreads.

    weights: {arm: weight}. unit: what is repeated. "run": each arm's runs. "adjustment": the arms
    with positive weight against those with negative, each by its mean. "measured": the same, with
    groups of adjustments in place of arms, as a frozen model's change of loss sorts them.
    minus_best_of: lists of arms; the truly best of each is taken away (averaged over the lists),
    see `comparisons.best_of`. paired: runs of one seed are pairs also where all arms share one
    training subset; arms that ran on the same several subsets are always compared within them. of:
    "spread" for 100 times the logarithms of the standard deviations of runs (per cent, nearly).
    """

    label: str
    weights: dict[str, float]
    of: Literal["mean", "spread"] = "mean"
    unit: Literal["run", "adjustment", "measured"] = "run"
    minus_best_of: tuple[tuple[str, ...], ...] = ()
    paired: bool = False

    @model_validator(mode="after")
    def _of_runs(self) -> Contrast:
        if self.of == "spread" and (self.unit != "run" or self.minus_best_of):
            raise ValueError(f"{self.label!r} is of spreads; allowed: weights of arms, unit run")
        return self

    @property
    def arms(self) -> set[str]:
        """Arms that must have runs."""
        named = set() if self.unit == "measured" else set(self.weights)
        return named.union(*self.minus_best_of)


def minus(arm: str, other: str, label: str = "") -> Contrast:
    """The difference of two arms, labelled with their names unless something else is given."""
    return Contrast(label=label or f"{arm} − {other}", weights={arm: 1.0, other: -1.0})


def minus_best(arm: str, reference: str, others: Iterable[str]) -> Contrast:
    """An arm less the best of the others, whichever that is. reference: what they are called."""
    best = (tuple(others),)
    return Contrast(label=f"{arm} − {reference}", weights={arm: 1.0}, minus_best_of=best)


def mean_minus(label: str, pairs: Iterable[tuple[str, str]]) -> Contrast:
    """The mean difference of pairs, of an arm and the other one each."""
    first, other = zip(*pairs, strict=True)
    each = 1 / len(first)
    return Contrast(label=label, weights=dict.fromkeys(first, each) | dict.fromkeys(other, -each))


class Slope(_Declared):
    """How mean accuracy changes with one property of arms (points a unit), the others held.

    term: the property asked about. covariates: {arm: {property: value}}, the same properties for
    all. The arm is the unit: arms that differ in nothing but chance differ by themselves. squares:
    properties whose squares are held as well; the verdict is the declared model's, and where it has
    no squares the one with all of them is shown beside it.
    """

    label: str
    term: str
    covariates: dict[str, dict[str, float]]
    squares: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _about_properties(self) -> Slope:
        known = sorted(set().union(*self.covariates.values()))
        for what, names in (("term", (self.term,)), ("squares", self.squares)):
            for name in names:
                if name not in known or (what == "squares" and name == self.term):
                    others = [one for one in known if what == "term" or one != self.term]
                    raise ValueError(
                        f"{what} of {self.label!r} is {name!r}; known: {', '.join(others)}"
                    )
        return self

    @property
    def arms(self) -> set[str]:
        """Arms that must have runs."""
        return set(self.covariates)


class Correlation(_Declared):
    """Spearman's rank correlation of two quantities over units that each have two arms, times 100.

    pairs: {unit: (arm, other arm)}. of: the column that the first arms' runs are looked at by; the
    second's are by the column that results are judged by. The unit is the replicate: the interval
    holds for other units of their kind.
    """

    label: str
    pairs: dict[str, tuple[str, str]] = Field(min_length=5)
    of: str

    @property
    def arms(self) -> set[str]:
        """Arms that must have runs."""
        return {arm for pair in self.pairs.values() for arm in pair}


class Mediated(_Declared):
    """What of a contrast goes through a quantity measured on the same runs (points).

    weights: {arm: weight} of the contrast, its two sides by their signs. through: the column of the
    quantity, the mediator. The mediated part is the contrast of the mediator times the slope of
    the outcome over it, among runs that share arm and side, subsets' levels held; see
    `mediation.mediated`. Declare the contrast itself beside it: where there is no effect, there is
    nothing to be mediated.
    """

    label: str
    weights: dict[str, float]
    through: str

    @model_validator(mode="after")
    def _of_two_sides(self) -> Mediated:
        for sign, side in ((1, "positive"), (-1, "negative")):
            if sum(sign * weight > 0 for weight in self.weights.values()) < 2:
                raise ValueError(f"{self.label!r} needs two arms or more of {side} weight")
        return self

    @property
    def arms(self) -> set[str]:
        """Arms that must have runs."""
        return set(self.weights)


Comparison = Contrast | Slope | Correlation | Mediated


class Hypothesis(_Declared):
    """A claim and how it is judged, declared before its runs.

    statement, estimand: in words. comparisons: the family. rule: "all" of them must hold, "any"
    may, or "at least K"; the levels make a wrong verdict of the family as rare as of one (see
    `rules.at_least`). Or a function of your own as "module:function". direction, margin: see
    `statistics.decide`; effects below the margin (points) are not worth having. n: seeds planned
    for each arm. looks: how often it may be judged while runs are added, 0 where the number of runs
    is fixed; see `sequential`. quantity: the column of results that it is about, where it is not
    the accuracy that is looked at. measure: the unit of effects and margin. rules_version: of the
    rules that it is declared under.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    statement: str
    estimand: str
    comparisons: tuple[Comparison, ...] = Field(min_length=1)
    rule: str = "all"
    direction: Literal["greater", "less", "different", "equivalent", "not worse"] = "greater"
    margin: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    n: int = Field(ge=2)
    looks: int = Field(default=0, ge=0, le=MOST_LOOKS)
    quantity: str = ""
    measure: str = "points"
    rules_version: int = Field(default=RULES_VERSION, ge=1, le=RULES_VERSION)

    @model_validator(mode="before")
    @classmethod
    def _as_declared(cls, given: Any, info: ValidationInfo) -> Any:
        if isinstance(given, dict) and (info.context or {}).get("declared"):
            return {"rules_version": 1, **given}
        return given

    @field_validator("rule")
    @classmethod
    def _importable(cls, value: str, info: ValidationInfo) -> str:
        # A declaration is read wherever its results are, also without the module of its rule.
        needed = needed_of(value, m := len(info.data.get("comparisons", ())))
        if needed is None and not (info.context or {}).get("declared"):
            trust(value)
            rule_at(value)
        if needed is not None and m and needed > m:
            raise ValueError(f"rule {value!r} of {m} comparisons; allowed: up to at least {m}")
        return value

    @property
    def arms(self) -> set[str]:
        """Arms that must have runs."""
        return set().union(*(comparison.arms for comparison in self.comparisons))

    @property
    def identity(self) -> str:
        """Short hash of all that is declared, with the version of the rules and that of a rule of
        your own."""
        content = hashed(self)
        if needed_of(self.rule, len(self.comparisons)) is None:
            try:
                content["rule_version"] = version_of(rule_at(self.rule))
            except ValueError:
                content["rule_version"] = None  # its runs then carry another hash
        return short_hash(content)


def hashed(hypothesis: Hypothesis) -> dict[str, Any]:
    """Its plain data for a hash. Version 1 of the rules was not written down."""
    content = hypothesis.model_dump(mode="json")
    if hypothesis.rules_version == 1:
        del content["rules_version"]
    return content


def rule_at(where: str) -> Callable[..., Any]:
    """A rule of your own, "module:function". Raises ValueError, one line, where there is none."""
    try:
        rule = load_for_results(where)
    except ValueError as error:
        raise ValueError(
            f"unknown rule {where!r}; known: all, any, at least K, or your own ({error})"
        ) from error
    if not callable(rule):
        raise ValueError(f"rule {where!r} is no function but {rule!r:.60}")
    return rule


def needed_of(rule: str, m: int) -> int | None:
    """How many of m comparisons must hold by a rule of words; None for a rule of your own."""
    if rule in ("all", "any"):
        return m if rule == "all" else 1
    counted = _AT_LEAST.fullmatch(rule)
    return int(counted[1]) if counted else None


def group_arm(arm: str, group: str, strength: float) -> str:
    """The name that an arm's frozen models have under the adjustments of a group, in hypotheses on
    them; see `results.group_runs`."""
    return f"{arm} under {group} at {strength:g}"
