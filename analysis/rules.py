"""Verdicts: what the runs say of a hypothesis, by the rule that was declared with it.

    Hypothesis → comparisons, each with its bounds → rule → Verdict

A rule is a function `rule(hypothesis, compare) -> Ruling`. `compare(share)` judges every comparison
with bounds that leave out 1 / share of what one may leave out, where they are to support, and the
share that goes with it where they are to refute; the rule chooses the share that its claim needs,
and makes one verdict of the comparisons' verdicts. "all", "any" and "at least K" are such
functions; your own is declared as "module:function".

These are version 2 of the rules (`study.RULES_VERSION`); docs/statistics.md tells what changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from analysis import (
    comparisons,
    correlations,
    images,
    mediation,
    scopes,
    sequential,
    slopes,
    statistics,
)
from analysis.comparisons import Bounds, ComparisonError, Grid
from analysis.effects import effect_of as effect_of
from analysis.effects import holds, practical, row_of
from analysis.effects import smallest_detectable as smallest_detectable
from analysis.hypothesis import (
    RULES_VERSION,
    Comparison,
    Contrast,
    Correlation,
    Hypothesis,
    Mediated,
    Slope,
    needed_of,
    rule_at,
)
from analysis.results import StudyResult, group_runs, with_measured
from analysis.statistics import Interval
from analysis.wording import effect_text as effect_text
from analysis.wording import sentence_of, with_ranges


class RuleError(ValueError):
    """A rule that gives no ruling; one line saying which and why."""


# --- rules ---------------------------------------------------------------------------------------

# compare(support, refute=None) → one row a comparison, see `effects.row_of`: bounds leave out
# 1 / support of what one may where they support, and 1 / refute where they refute. Without the
# latter it is m − support + 1 of m comparisons, which is right for every claim that at least so
# many hold.
Compare = Callable[..., pd.DataFrame]


@dataclass(frozen=True)
class Ruling:
    """What a rule makes of the comparisons.

    verdict: one of `statistics.VERDICTS`. table: from the `compare` that it rests on. decisive: the
    row that decided, by position. reason: which one that is, as "the weakest of 3".
    """

    verdict: str
    table: pd.DataFrame
    decisive: int
    reason: str


Rule = Callable[[Hypothesis, Compare], Ruling]


def at_least(needed: int, hypothesis: Hypothesis, compare: Compare) -> Ruling:
    """At least so many of the comparisons must hold; refuted where too few are left to hold.

    Of m, bounds that support leave out 1 / (m − needed + 1) of what one may: nothing is corrected
    where all must hold, and any of m asks Bonferroni's level. Refuted means that m − needed + 1 do
    not hold, so bounds that refute leave out 1 / needed: it is the reverse. Decisive is the
    comparison on whose strength the verdict turned. Source: Benjamini and Heller 2008, partial
    conjunction hypotheses.
    """
    m = len(hypothesis.comparisons)
    table = compare(m - needed + 1, needed)
    verdicts = table["verdict"].to_numpy(object)
    count = {name: int((verdicts == name).sum()) for name in statistics.VERDICTS}
    if count["supported"] >= needed:
        verdict, place = "supported", needed
    elif count["refuted"] > m - needed:
        verdict, place = "refuted", count["refuted"] - (m - needed)
    else:
        verdict, place = "inconclusive", needed - count["supported"]
    strength = table["estimate"].to_numpy(np.float64)
    if hypothesis.direction == "less":
        strength = -strength
    if hypothesis.direction == "equivalent":
        strength = -np.abs(strength)  # the largest difference is the weakest case
    # Rounded, so that of equal estimates the first one decides whatever the machine's last bits.
    strength = np.where(np.isnan(strength), -np.inf, strength.round(9))
    with_verdict = np.flatnonzero(verdicts == verdict)
    turned_at = np.sort(strength[with_verdict])[-place]
    decisive = next(row for row in with_verdict if strength[row] == turned_at)
    weakest, strongest = (
        ("largest", "smallest")
        if hypothesis.direction == "equivalent"
        else ("weakest", "strongest")
    )
    which = weakest if needed == m else strongest if needed == 1 else "deciding one"
    return Ruling(verdict, table, int(decisive), f"the {which} of {m}")


def rule_of(hypothesis: Hypothesis) -> Rule:
    """The declared rule. Raises RuleError where it cannot be imported."""
    needed = needed_of(hypothesis.rule, len(hypothesis.comparisons))
    if needed is not None:
        return partial(at_least, needed)
    try:
        return rule_at(hypothesis.rule)
    except ValueError as error:
        raise RuleError(str(error)) from error


# --- verdicts ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What the runs say of a hypothesis.

    verdict: supported, refuted, inconclusive, or "not tested" where runs are missing. table: one
    row a comparison, see `effects.row_of`, with the two-sided interval for the same training
    subsets in seeds_low and seeds_high (NaN where subsets have one seed each), and that for other
    evaluation images too in images_low and images_high (NaN where no study kept them). sentence:
    all of it in words. declared: whether before its data. notes: what a reader must know of a
    comparison, by label. row: of the table, which decided; reason: which one that is. holds:
    "supported" or "refuted" where that survives the correction over all hypotheses of the study
    (`test_all`), else "inconclusive".
    """

    hypothesis: Hypothesis
    verdict: str
    table: pd.DataFrame
    sentence: str
    declared: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    row: int = 0
    reason: str = ""
    holds: str = ""

    @cached_property
    def decisive(self) -> pd.Series:
        """The comparison that decided."""
        return self.table.iloc[self.row]

    @property
    def effect(self) -> str:
        """The decisive comparison's effect in one or two words; "" where not tested."""
        return str(self.decisive["effect"]) if len(self.table) else ""


def test(
    hypothesis: Hypothesis,
    runs: pd.DataFrame,
    rng: np.random.Generator,
    *,
    metric: str = "validation_accuracy",
    confidence: float = statistics.CONFIDENCE,
    measured: Mapping[str, Sequence[str]] | None = None,
    look: int | None = None,
    declared: str = "",
) -> Verdict:
    """Judge a hypothesis on the runs of its arms.

    runs: one row a run with arm, seed, the metric (percent) and subset_seed, which may lack where
    all share one training subset. measured: {group: arms} as a frozen model sorts them. look: which
    of the hypothesis' declared looks this is, from 1 (by the number of blocks where not given).
    Raises RuleError where the rule gives no ruling; one that cannot be imported leaves the
    hypothesis not tested.
    """
    grid_of = grids(runs)
    grid = grid_of(hypothesis.quantity or metric)
    return Judge(
        hypothesis, grid, rng, confidence, measured, look, declared, grid_of=grid_of
    ).verdict()


def grids(runs: pd.DataFrame) -> Callable[[str], Grid]:
    """Runs as a grid of any of their columns; an empty one where they lack it."""

    @cache
    def grid_of(metric: str) -> Grid:
        return comparisons.grid_of(
            runs if metric in runs else runs.assign(**{metric: np.nan}), metric
        )

    return grid_of


@dataclass
class Judge:
    """One hypothesis and what is known of its comparisons, whose bounds are found once.

    grid: of the metric that it is about; grid_of: of any other, where a comparison needs one. For
    the rest see `test`. of_images: what evaluation images add, where they were kept.
    second_reading: whether `effects.practical` stands beside each comparison; no verdict needs
    it, and of the best of many arms it takes ten times as long as the rest. problem: why it cannot
    be tested.
    """

    hypothesis: Hypothesis
    grid: Grid
    rng: np.random.Generator
    confidence: float = statistics.CONFIDENCE
    measured: Mapping[str, Sequence[str]] | None = None
    look: int | None = None
    declared: str = ""
    problem: str = ""
    bounds: list[Bounds] = field(default_factory=list)
    grid_of: Callable[[str], Grid] | None = field(default=None, kw_only=True)
    of_images: images.OfImages | None = field(default=None, kw_only=True)
    second_reading: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        one = self.hypothesis
        needs_groups = any(getattr(c, "unit", "") == "measured" for c in one.comparisons)
        try:
            self.grid.columns(sorted(one.arms))
            if needs_groups and self.measured is None:
                raise ComparisonError("needs the frozen study")
            if one.looks and self.look is None:
                self.look = look_of(one, self.grid)
            self.rule = rule_of(one)
            for stream, comparison in zip(
                self.rng.spawn(len(one.comparisons)), one.comparisons, strict=True
            ):
                self.bounds.append(self._bounds(comparison, stream))
        except (ComparisonError, RuleError) as error:
            self.problem = str(error)

    def _bounds(self, comparison: Comparison, rng: np.random.Generator) -> Bounds:
        if isinstance(comparison, Slope):
            return slopes.bounds(comparison, self.grid, rng)
        if isinstance(comparison, Correlation):
            if self.grid_of is None:
                raise ComparisonError(f"needs runs with {comparison.of}")
            return correlations.bounds(comparison, self.grid_of(comparison.of), self.grid, rng)
        if isinstance(comparison, Mediated):
            if self.grid_of is None:
                raise ComparisonError(f"needs runs with {comparison.through}")
            through = self.grid_of(comparison.through)
            return mediation.mediated(comparison, self.grid, through, rng)
        if comparison.of == "spread":
            return comparisons.spread(self.grid, comparison.weights)
        if comparison.unit == "run":
            return comparisons.contrast(
                self.grid,
                comparison.weights,
                comparison.minus_best_of,
                paired=comparison.paired,
                rng=rng,
            )
        means = dict(zip(self.grid.arms, np.nanmean(self.grid.values, axis=0), strict=True))
        sides: dict[bool, list[float]] = {True: [], False: []}
        for name, weight in comparison.weights.items():
            alone = comparison.unit == "adjustment"
            arms = [name] if alone else (self.measured or {}).get(name, [])
            sides[weight > 0] += [float(means[arm]) for arm in arms if arm in means]
        return comparisons.groups(sides[True], sides[False])

    def _weights(self, comparison: Comparison) -> Mapping[str, float] | None:
        """Of a plain contrast of runs' means; None of anything else."""
        plain = (
            isinstance(comparison, Contrast)
            and (comparison.unit, comparison.of) == ("run", "mean")
            and not comparison.minus_best_of
        )
        return comparison.weights if plain else None  # type: ignore[union-attr]

    def _seeds_only(self, comparison: Comparison) -> Interval:
        """For the same training subsets, where that can be told; NaN else."""
        weights = self._weights(comparison)
        if weights and len(self.grid.values) > len(self.grid.by_subset) > 1:
            with suppress(ComparisonError):
                return scopes.seeds_only(self.grid, weights, self.confidence)
        return Interval(math.nan, math.nan, math.nan, 0, self.confidence, "none")

    def _over_images(self, comparison: Comparison) -> Interval:
        """For other evaluation images too, where what runs get right was kept; NaN else."""
        weights = self._weights(comparison)
        part = self.of_images(weights) if weights and self.of_images else None
        if weights and part:
            with suppress(ComparisonError):
                return images.with_images(self.grid, weights, part, self.confidence)
        return Interval(math.nan, math.nan, math.nan, 0, self.confidence, "none")

    def compare(self, confidence: float, support: int, refute: int | None = None) -> pd.DataFrame:
        """See `Compare`; the rows of `effects.row_of`, each with its chances."""
        refute = len(self.bounds) - support + 1 if refute is None else refute
        tails = self._tails(confidence, support, refute)
        return pd.DataFrame(
            row_of(comparison, bounds, self.hypothesis, tails[0], tails[1]) | chances
            for comparison, bounds, chances in zip(
                self.hypothesis.comparisons, self.bounds, self._chances, strict=True
            )
        )

    def _tails(self, confidence: float, support: int, refute: int) -> tuple[float, float]:
        """What bounds leave out on either side, where they are to support and to refute."""
        looks = self.hypothesis.looks
        of_support, of_refute = (
            sequential.tail_at((1 - confidence) / 2 / share, self.look or 1, looks)
            for share in (support, refute)
        )
        return of_support, of_refute

    @cached_property
    def _chances(self) -> list[dict[str, float]]:
        """`effects.practical` of every comparison: the same at every level."""
        if not self.second_reading:
            return [{} for _ in self.bounds]
        return [practical(bounds, self.hypothesis.margin) for bounds in self.bounds]

    def ruling(self, compare: Compare) -> Ruling:
        """What the declared rule makes of the comparisons. Raises RuleError."""
        ruling = self.rule(self.hypothesis, compare)
        if not isinstance(ruling, Ruling) or ruling.verdict not in statistics.VERDICTS:
            known = ", ".join(statistics.VERDICTS)
            raise RuleError(
                f"rule {self.hypothesis.rule!r} gave {ruling!r:.80}; "
                f"needed: a Ruling with verdict {known}"
            )
        return ruling

    def reaches(self, verdict: str, confidence: float) -> bool:
        """Whether the runs would support (or refute) the claim at another level, were the other
        verdict not to be had."""
        if self.problem:
            return False
        m = len(self.bounds)
        needed = needed_of(self.hypothesis.rule, m)
        if needed is None:
            return self.reaches_by_ruling(verdict, confidence)
        support, refute = self._tails(confidence, m - needed + 1, needed)
        supported = verdict == "supported"
        held = sum(
            holds(bounds, self.hypothesis, support, refute)[0 if supported else 1]
            for bounds in self.bounds
        )
        return held >= needed if supported else held > m - needed

    def reaches_by_ruling(self, verdict: str, confidence: float) -> bool:
        """The same for whatever rule: by what it makes of the table of comparisons."""

        def compare(support: int, refute: int | None = None) -> pd.DataFrame:
            table = self.compare(confidence, support, refute)
            held = table["supports" if verdict == "supported" else "refutes"]
            return table.assign(verdict=np.where(held, verdict, "inconclusive"))

        return self.ruling(compare).verdict == verdict

    def verdict(self) -> Verdict:
        """The verdict on the runs. Raises RuleError."""
        if self.problem:
            sentence = f"{self.hypothesis.statement} Not tested: {self.problem}."
            return Verdict(self.hypothesis, "not tested", pd.DataFrame(), sentence, self.declared)
        ruling = self.ruling(partial(self.compare, self.confidence))
        shown = [name for name in ruling.table if name not in ("supports", "refutes")]
        table = ruling.table[shown]
        if self.hypothesis.looks:
            table = table.assign(look=self.look)
        if len(table) == len(self.bounds):
            ends: dict[str, list[float]] = {}
            for name, wider in (("seeds", self._seeds_only), ("images", self._over_images)):
                found = [wider(one) for one in self.hypothesis.comparisons]
                ends[f"{name}_low"] = [interval.low for interval in found]
                ends[f"{name}_high"] = [interval.high for interval in found]
            table = pd.concat([table, pd.DataFrame(ends, table.index)], axis=1)
        notes = {
            comparison.label: "; ".join(bounds.notes)
            for comparison, bounds in zip(self.hypothesis.comparisons, self.bounds, strict=True)
            if bounds.notes
        }
        verdict = Verdict(
            self.hypothesis,
            ruling.verdict,
            table,
            "",
            self.declared,
            notes,
            ruling.decisive,
            ruling.reason,
        )
        return replace(verdict, sentence=sentence_of(verdict))


def look_of(hypothesis: Hypothesis, grid: Grid) -> int:
    """Which of its declared looks the runs have reached, from their blocks: look k of K comes when
    k / K of the n planned are there, and holds until the next. Raises ComparisonError before the
    first."""
    blocks = grid.blocks(sorted(hypothesis.arms) or grid.arms)
    look = min(hypothesis.looks, hypothesis.looks * blocks // hypothesis.n)
    if look < 1:
        first = -(-hypothesis.n // hypothesis.looks)
        raise ComparisonError(f"{blocks} blocks are there, and the first look is at {first}")
    return look


# --- a study's hypotheses ------------------------------------------------------------------------


def declared_when(study: StudyResult) -> str:
    """Whether a study's hypotheses were declared before their data, from the times on record."""
    entries = study.declaration.declared
    if not entries:
        return "declared at a time that is not on record"
    first, *later = entries
    at = str(first["at"])
    frame = study.frame.drop_duplicates("key")
    known = int((frame["finished_at"] < at).sum())
    stamps = frame["hypotheses"] if "hypotheses" in frame else pd.Series("", index=frame.index)
    stamped = int((stamps == study.declaration.study.hypotheses_hash).sum())
    text = (
        f"declared on {at[:10]}, before the data ({stamped} of {len(frame)} runs carry the hash)"
        if not known
        else f"declared on {at[:10]}, when {known} of {len(frame)} runs were known already"
    )
    finished = frame["finished_at"].min() if len(frame) else ""
    # Times are whole seconds: what was added within the second of a result may have been after it.
    grown = [entry for entry in later if finished and str(entry["at"]) >= finished]
    times = "once" if len(grown) == 1 else f"{len(grown)} times"
    looks = all(one.looks for one in study.declaration.study.hypotheses)
    planned = ", at declared looks" * looks
    return text + f"; seeds were added {times} after first results{planned}" * bool(grown)


def test_all(
    study: StudyResult,
    rng: np.random.Generator,
    *,
    metric: str = "validation_accuracy",
    confidence: float = statistics.CONFIDENCE,
    measured: Mapping[str, Sequence[str]] | None = None,
    look: int | None = None,
    second_reading: bool = True,
) -> list[Verdict]:
    """Every hypothesis that a study declares, in its order, and whether its verdict survives the
    correction over all of them. Arguments: see `test`; second_reading: see `Judge`."""
    declared = declared_when(study)
    hypotheses = study.declaration.study.hypotheses
    grid_of, of_images = _grids_of(study), images.of_study(study, metric)
    judges = []
    for hypothesis, stream in zip(hypotheses, rng.spawn(len(hypotheses)), strict=True):
        version = hypothesis.rules_version
        older = f", under version {version} of the rules" * (version < RULES_VERSION)
        grid = grid_of(hypothesis.quantity or metric)
        judges.append(
            Judge(
                hypothesis, grid, stream, confidence, measured, look, declared + older,
                grid_of=grid_of, of_images=None if hypothesis.quantity else of_images,
                second_reading=second_reading,
            )
        )  # fmt: skip
    kept = {verdict: _holm(judges, verdict, confidence) for verdict in ("refuted", "supported")}
    return [
        replace(
            judge.verdict(),
            holds=""
            if judge.problem
            else next((verdict for verdict in kept if number in kept[verdict]), "inconclusive"),
        )
        for number, judge in enumerate(judges)
    ]


def _grids_of(study: StudyResult) -> Callable[[str], Grid]:
    """A study's runs as a grid of any column; frozen models by group, see `results.group_runs`.
    What was measured while runs trained stands beside, see `results.with_measured`."""
    frozen = bool(study.declaration.study.frozen) and len(study.frame)
    return grids(group_runs(study.frame) if frozen else with_measured(study))


def _holm(judges: Sequence[Judge], verdict: str, confidence: float) -> set[int]:
    """Which hypotheses reach a verdict by Holm's steps: at the level shared among all, then among
    those that are left. What is wrongly supported anywhere, or wrongly refuted, has at most the
    share of one hypothesis."""
    kept: set[int] = set()
    tested = [number for number, judge in enumerate(judges) if not judge.problem]
    while len(kept) < len(tested):
        level = 1 - (1 - confidence) / (len(tested) - len(kept))
        more = {n for n in tested if n not in kept and judges[n].reaches(verdict, level)}
        if not more:
            break
        kept |= more
    return kept


_SHOWN = (
    *("estimate", "estimate_low", "estimate_high", "n", "unit", "scope", "over"),
    *("seeds_low", "seeds_high", "images_low", "images_high", "smallest_detectable"),
)


def verdict_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a hypothesis: name, statement, verdict, effect, margin, measure (its unit and the
    estimate's), the deciding comparison, its estimate with interval, n, scope, over (what the
    interval is over), those over seeds alone and over images too, smallest_detectable, holds,
    declared."""
    rows = []
    for verdict in verdicts:
        row: dict[str, Any] = {
            "hypothesis": verdict.hypothesis.name,
            "statement": verdict.hypothesis.statement,
            "verdict": verdict.verdict,
            "effect": verdict.effect,
            "margin": verdict.hypothesis.margin,
            "measure": verdict.hypothesis.measure,
            "holds": verdict.holds,
        }
        if len(verdict.table):
            decisive = verdict.decisive
            row["comparison"] = decisive["label"]
            for name in _SHOWN:
                row[name] = decisive.get(name, math.nan)
        rows.append({**row, "declared": verdict.declared})
    table = pd.DataFrame(rows)
    return with_ranges(table.astype({"n": "Int64"})) if "n" in table else table


def comparison_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a comparison of every hypothesis; see `Verdict.table`."""
    parts = [
        verdict.table.assign(
            hypothesis=verdict.hypothesis.name,
            statement=verdict.hypothesis.statement,
            margin=verdict.hypothesis.margin,
            measure=verdict.hypothesis.measure,
        )
        for verdict in verdicts
    ]
    table = with_ranges(pd.concat([part for part in parts if len(part)], ignore_index=True))
    return table[["hypothesis", *(name for name in table.columns if name != "hypothesis")]]
