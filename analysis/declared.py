"""What hypotheses compare, as plain data: contrasts of arms, slopes and correlations over arms."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)


class Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Declared(Plain):
    """Plain data that is hashed. Fields added later are written only where they say something, so
    that what was declared before keeps its hash."""

    @model_serializer(mode="wrap")
    def _short(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        default = {"paired": False, "squares": (), "looks": 0, "metric": ""}
        return {
            name: value
            for name, value in write(self).items()
            if name not in default or getattr(self, name) != default[name]
        }


class Contrast(Declared):
    """One comparison of arms: a weighted sum of their mean accuracies (points).

    weights: {arm: weight}. unit: what is repeated. "run": each arm's runs. "adjustment": the arms
    with positive weight against those with negative, each by its mean. "measured": the same, with
    groups of adjustments in place of arms, as a frozen model's change of loss sorts them.
    minus_best_of: lists of arms; the truly best of each is taken away (averaged over the lists),
    see `comparisons.best_of`. paired: runs of one seed are pairs also where all arms share one
    training subset; arms that ran on the same several subsets are always compared within them.
    """

    label: str
    weights: dict[str, float]
    unit: Literal["run", "adjustment", "measured"] = "run"
    minus_best_of: tuple[tuple[str, ...], ...] = ()
    paired: bool = False

    @property
    def arms(self) -> set[str]:
        """Arms that must have runs."""
        named = set() if self.unit == "measured" else set(self.weights)
        return named.union(*self.minus_best_of)


class Slope(Declared):
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


class Correlation(Declared):
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


Comparison = Contrast | Slope | Correlation
