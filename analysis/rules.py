"""Verdicts: what the runs say of a hypothesis, by the rule that was declared with it.

    Hypothesis → comparisons, each with its interval → rule → Verdict

A rule is a function `rule(hypothesis, compare) -> Ruling`. `compare(share)` judges every comparison
with intervals that leave out 1 / share of what one interval may leave out; the rule chooses the
share that its claim needs, and makes one verdict of the comparisons' verdicts. "all" and "any" are
such functions; anybody's own is declared as "module:function".
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from aba_core.arms import Arm
from analysis import mixed, statistics, tables
from analysis.results import StudyResult
from analysis.statistics import Interval
from analysis.study import Contrast, Hypothesis, Slope, Study, rule_at

POWER = 0.8


class RuleError(ValueError):
    """A rule that gives no ruling; one line saying which and why."""


# --- rules ---------------------------------------------------------------------------------------

# share → one row a comparison: label, estimate (points) with interval, n, unit, p_permutation,
# verdict, smallest_detectable (points, 80 % power), and note: why it is not supported in spite of
# its interval. The same draws at every call.
Compare = Callable[[int], pd.DataFrame]


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

    Of m, intervals leave out 1 / (m − needed + 1) of what one may: nothing is corrected where all
    must hold, and any of m asks Bonferroni's level. Decisive is the comparison on whose strength
    the verdict turned. Source: Benjamini and Heller 2008, partial conjunction hypotheses.
    """
    m = len(hypothesis.comparisons)
    table = compare(m - needed + 1)
    count = {name: int((table["verdict"] == name).sum()) for name in statistics.VERDICTS}
    if count["supported"] >= needed:
        verdict, place = "supported", needed
    elif count["refuted"] > m - needed:
        verdict, place = "refuted", count["refuted"] - (m - needed)
    else:
        verdict, place = "inconclusive", needed - count["supported"]
    strength = table["estimate"].to_numpy(np.float64)
    if hypothesis.direction == "equivalent":
        strength = -np.abs(strength)  # the largest difference is the weakest case
    strength = np.where(np.isnan(strength), -np.inf, strength)
    with_verdict = np.flatnonzero(table["verdict"] == verdict)
    turned_at = np.sort(strength[with_verdict])[-place]
    decisive = next(row for row in with_verdict if strength[row] == turned_at)
    weakest, strongest = (
        ("largest", "smallest")
        if hypothesis.direction == "equivalent"
        else ("weakest", "strongest")
    )
    which = weakest if needed == m else strongest if needed == 1 else "deciding one"
    return Ruling(verdict, table, int(decisive), f"the {which} of {m}")


def all_hold(hypothesis: Hypothesis, compare: Compare) -> Ruling:
    """Every comparison must hold, each at the full confidence."""
    return at_least(len(hypothesis.comparisons), hypothesis, compare)


def any_holds(hypothesis: Hypothesis, compare: Compare) -> Ruling:
    """One comparison suffices, with intervals that hold together."""
    return at_least(1, hypothesis, compare)


RULES: dict[str, Rule] = {"all": all_hold, "any": any_holds}


def rule_of(hypothesis: Hypothesis) -> Rule:
    """The declared rule. Raises RuleError where it cannot be imported."""
    if hypothesis.rule in RULES:
        return RULES[hypothesis.rule]
    try:
        return rule_at(hypothesis.rule)
    except ValueError as error:
        raise RuleError(str(error)) from error


# --- verdicts ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What the runs say of a hypothesis.

    verdict: supported, refuted, inconclusive, or "not tested" where runs are missing. table: one
    row a comparison with label, estimate (points) and its interval, n, verdict, smallest_detectable
    (points, 80 % power). sentence: all of it in words. declared: whether before its data. notes:
    why a comparison was not supported in spite of its interval, by label. row: of the table, which
    decided; reason: which one that is.
    """

    hypothesis: Hypothesis
    verdict: str
    table: pd.DataFrame
    sentence: str
    declared: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    row: int = 0
    reason: str = ""

    @property
    def decisive(self) -> pd.Series:
        """The comparison that decided."""
        return self.table.iloc[self.row]


@dataclass(frozen=True)
class _Evidence:
    """What comparisons are judged on; see `test`."""

    runs: pd.DataFrame
    metric: str
    measured: Mapping[str, Sequence[str]] | None
    null_spread: float


def test(
    hypothesis: Hypothesis,
    runs: pd.DataFrame,
    rng: np.random.Generator,
    *,
    metric: str = "validation_accuracy",
    confidence: float = statistics.CONFIDENCE,
    measured: Mapping[str, Sequence[str]] | None = None,
    null_spread: float = 0.0,
    declared: str = "",
) -> Verdict:
    """Judge a hypothesis on the runs of its arms.

    runs: one row a run with arm, seed and the metric (percent). measured: {group: arms} as a
    frozen model sorts them. null_spread: the difference that two arms differing in nothing may
    show (points): support of a comparison of runs asks for more, in proportion to its weights.
    Raises RuleError where the rule gives no ruling; one that cannot be imported leaves the
    hypothesis not tested.
    """
    missing = sorted(hypothesis.arms - set(runs.loc[runs[metric].notna(), "arm"]))
    needs_groups = any(getattr(c, "unit", "") == "measured" for c in hypothesis.comparisons)
    problem = f"no runs of {missing[0]!r}" if missing else ""
    if not problem and needs_groups and measured is None:
        problem = "needs the frozen study"
    try:
        rule = rule_of(hypothesis)
    except RuleError as error:
        problem = problem or str(error)
    if problem:
        sentence = f"{hypothesis.statement} Not tested: {problem}."
        return Verdict(hypothesis, "not tested", pd.DataFrame(), sentence, declared)
    evidence = _Evidence(runs, metric, measured, null_spread)
    streams = rng.spawn(len(hypothesis.comparisons))

    def compare(share: int) -> pd.DataFrame:
        level = 1 - (1 - confidence) / share
        return pd.DataFrame(
            _judged(comparison, hypothesis, evidence, copy.deepcopy(stream), level)
            for stream, comparison in zip(streams, hypothesis.comparisons, strict=True)
        )

    ruling = rule(hypothesis, compare)
    if not isinstance(ruling, Ruling) or ruling.verdict not in statistics.VERDICTS:
        known = ", ".join(statistics.VERDICTS)
        raise RuleError(
            f"rule {hypothesis.rule!r} gave {ruling!r:.80}; needed: a Ruling with verdict {known}"
        )
    notes = zip(ruling.table["label"], ruling.table["note"], strict=True)
    verdict = Verdict(
        hypothesis,
        ruling.verdict,
        ruling.table.drop(columns="note"),
        "",
        declared,
        {label: note for label, note in notes if note},
        ruling.decisive,
        ruling.reason,
    )
    return replace(verdict, sentence=_sentence(verdict))


def _judged(
    comparison: Contrast | Slope,
    hypothesis: Hypothesis,
    evidence: _Evidence,
    rng: np.random.Generator,
    level: float,
) -> dict[str, Any]:
    """One comparison on its own, as a row of a `Compare`."""
    p, note = math.nan, ""
    if isinstance(comparison, Slope):
        interval, p = _slope(comparison, evidence, rng, level)
        unit = "set"
    else:
        interval = _contrast(comparison, evidence, rng, level)
        unit = "run" if comparison.unit == "run" else "adjustment"
    verdict = statistics.decide(interval, hypothesis.margin, hypothesis.direction)
    if verdict == "supported" and hypothesis.direction != "equivalent":
        if isinstance(comparison, Slope):
            if not p <= 1 - level:
                note = f"exchanging sets gives p = {p:.3f}"
        elif unit == "run":
            nothing = evidence.null_spread * _scale(comparison)
            if abs(interval.estimate) <= nothing:
                note = f"no more than arms that differ in nothing may show (±{nothing:.1f})"
    return {
        "label": comparison.label,
        "estimate": interval.estimate,
        "estimate_low": interval.low,
        "estimate_high": interval.high,
        "n": interval.n,
        "unit": unit,
        "p_permutation": p,
        "verdict": "inconclusive" if note else verdict,
        "smallest_detectable": smallest_detectable(interval),
        "note": note,
    }


def smallest_detectable(interval: Interval, power: float = POWER) -> float:
    """The smallest effect (points) whose interval would exclude 0 with this power, as a normal
    error of the interval's width has it. NaN where there is no interval."""
    reach = stats.norm.ppf((1 + interval.confidence) / 2)
    return float((interval.high - interval.low) / 2 * (reach + stats.norm.ppf(power)) / reach)


def _scale(contrast: Contrast) -> float:
    """How far the contrast's weights let equal spreads add up, 1 for one arm against another."""
    squares = sum(weight**2 for weight in contrast.weights.values())
    squares += 1 / len(contrast.minus_best_of) if contrast.minus_best_of else 0.0
    return math.sqrt(squares / 2)


def _contrast(
    contrast: Contrast, evidence: _Evidence, rng: np.random.Generator, confidence: float
) -> Interval:
    runs, metric = evidence.runs, evidence.metric
    if contrast.unit == "run":
        samples = [tables.values_of(runs, arm, metric) for arm in contrast.weights]
        weights = list(contrast.weights.values())
        for candidates in contrast.minus_best_of:
            samples.append(tables.crossfitted_best(runs, candidates, metric))
            weights.append(-1 / len(contrast.minus_best_of))
        return statistics.contrast_interval(samples, weights, rng, confidence=confidence)
    means = runs.groupby("arm")[metric].mean()
    sides: dict[bool, list[float]] = {True: [], False: []}
    for name, weight in contrast.weights.items():
        arms = [name] if contrast.unit == "adjustment" else (evidence.measured or {}).get(name, [])
        sides[weight > 0] += [float(means[arm]) for arm in arms if arm in means]
    return statistics.difference_interval(sides[True], sides[False], rng, confidence=confidence)


def _slope(
    slope: Slope, evidence: _Evidence, rng: np.random.Generator, confidence: float
) -> tuple[Interval, float]:
    """Least squares on the arms' means, with Student's t, and p by exchanging arms."""
    frame = set_frame(slope, evidence.runs, evidence.metric)
    names = [name for name in frame.columns if name not in ("set", evidence.metric)]
    design = np.column_stack([np.ones(len(frame)), frame[names].to_numpy(np.float64)])
    response = frame[evidence.metric].to_numpy(np.float64)
    freedom = len(frame) - design.shape[1]
    solution, *_ = np.linalg.lstsq(design, response, rcond=None)
    residual = response - design @ solution
    covariance = np.linalg.pinv(design.T @ design) * (residual @ residual / max(1, freedom))
    place = 1 + names.index(slope.term)
    error = math.sqrt(covariance[place, place])
    reach = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error if freedom > 0 else math.nan
    estimate = float(solution[place])
    others = [name for name in names if name != slope.term]
    p = mixed.freedman_lane_p(response, frame[slope.term], frame[others].to_numpy(), rng)
    interval = Interval(estimate, estimate - reach, estimate + reach, len(frame), confidence, "t")
    return interval, p


def set_frame(slope: Slope, runs: pd.DataFrame, metric: str, by_run: bool = False) -> pd.DataFrame:
    """Properties and accuracy of a slope's arms: one row an arm (its mean) or, by_run, a run."""
    of_sets = runs[runs["arm"].isin(list(slope.covariates)) & runs[metric].notna()]
    if not by_run:
        of_sets = of_sets.groupby("arm", sort=False)[[metric]].mean().reset_index()
    columns = ["arm", *(["seed"] if by_run else []), metric]
    covariates = pd.DataFrame(slope.covariates).T
    return (
        of_sets[columns]
        .rename(columns={"arm": "set"})
        .join(covariates, on="set")
        .reset_index(drop=True)
    )


def _sentence(verdict: Verdict) -> str:
    hypothesis, row = verdict.hypothesis, verdict.decisive
    subject = f"{row['label']}" + f" ({verdict.reason})" * (len(verdict.table) > 1)
    unit = {"run": "runs in all", "adjustment": "adjustments", "set": "sets"}[row["unit"]]
    effect = tables.interval_text(*(row[f"estimate{end}"] for end in ("", "_low", "_high")))
    parts = [
        f"{hypothesis.statement} {verdict.verdict.capitalize()}: {subject} {effect} points, "
        f"{row['n']} {unit}, {hypothesis.n} seeds an arm planned; "
        f"smallest effect seen with 80 % power {row['smallest_detectable']:.1f}."
    ]
    if row["label"] in verdict.notes:
        parts.append(f"Not supported: {verdict.notes[row['label']]}.")
    return " ".join(parts)


# --- a study's hypotheses ------------------------------------------------------------------------


def control_arm(study: Study) -> str:
    """The arm that trains without augmentation and is changed in nothing else; "" without one."""
    vanilla = (arm for arm in study.arms if arm.vanilla)
    return next((arm.name for arm in vanilla if not (arm.seed_offset or arm.flip_bit)), "")


def null_arms(study: Study) -> list[str]:
    """Arms that train as the control does, but reseeded or with one bit of one weight changed."""

    def in_all_else(arm: Arm) -> dict[str, Any]:
        changed = ("name", "seed_offset", "flip_bit")
        return {name: value for name, value in arm.data().items() if name not in changed}

    control = [in_all_else(arm) for arm in study.arms if arm.name == control_arm(study)]
    altered = (arm for arm in study.arms if arm.seed_offset or arm.flip_bit)
    return [arm.name for arm in altered if in_all_else(arm) in control]


def null_spread(study: StudyResult, rng: np.random.Generator, metric: str) -> float:
    """The wider half interval of the control against itself reseeded and with one bit changed
    (points): what arms that differ in nothing may show. 0 where those arms have no runs."""
    runs, declared = study.frame, study.declaration.study
    control = tables.values_of(runs, control_arm(declared), metric)
    halves = [0.0]
    for arm in null_arms(declared):
        reseeded = tables.values_of(runs, arm, metric)
        if control.size and reseeded.size:
            interval = statistics.difference_interval(control, reseeded, rng)
            halves.append((interval.high - interval.low) / 2)
    return float(np.nanmax(halves))


def declared_when(study: StudyResult) -> str:
    """Whether a study's hypotheses were declared before their data, from the times on record."""
    entries = study.declaration.declared
    if not entries:
        return "no time of declaration on record"
    first, *later = entries
    at = str(first["at"])
    frame = study.frame.drop_duplicates("key")
    known = int((frame["finished_at"] < at).sum())
    stamps = frame["hypotheses"] if "hypotheses" in frame else pd.Series("", index=frame.index)
    stamped = int((stamps == study.declaration.study.hypotheses_hash).sum())
    text = (
        f"declared {at[:10]} before the data ({stamped} of {len(frame)} runs carry the hash)"
        if not known
        else f"declared {at[:10]}, when {known} of {len(frame)} runs were known from other studies"
    )
    finished = frame["finished_at"].min() if len(frame) else ""
    grown = [entry for entry in later if str(entry["at"]) > finished]
    return text + f"; seeds were added {len(grown)} times after first results" * bool(grown)


def test_all(
    study: StudyResult,
    rng: np.random.Generator,
    *,
    metric: str = "validation_accuracy",
    confidence: float = statistics.CONFIDENCE,
    measured: Mapping[str, Sequence[str]] | None = None,
    spread: float | None = None,
) -> list[Verdict]:
    """Every hypothesis that a study declares, in its order. spread: see `test`; measured on the
    study's own null arms where not given."""
    if spread is None:
        spread = null_spread(study, rng, metric)
    declared = declared_when(study)
    hypotheses = study.declaration.study.hypotheses
    return [
        test(
            hypothesis,
            study.frame,
            stream,
            metric=metric,
            confidence=confidence,
            measured=measured,
            null_spread=spread,
            declared=declared,
        )
        for hypothesis, stream in zip(hypotheses, rng.spawn(len(hypotheses)), strict=True)
    ]


def verdict_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a hypothesis: name, statement, verdict, margin, the deciding comparison, its estimate
    (points) with interval, n, smallest_detectable, declared."""
    rows = []
    for verdict in verdicts:
        row: dict[str, Any] = {
            "hypothesis": verdict.hypothesis.name,
            "statement": verdict.hypothesis.statement,
            "verdict": verdict.verdict,
            "margin": verdict.hypothesis.margin,
        }
        if len(verdict.table):
            decisive = verdict.decisive
            row["comparison"] = decisive["label"]
            for name in ("estimate", "estimate_low", "estimate_high", "n", "smallest_detectable"):
                row[name] = decisive[name]
        rows.append({**row, "declared": verdict.declared})
    return pd.DataFrame(rows)


def comparison_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a comparison of every hypothesis; see `Verdict.table`."""
    parts = [
        verdict.table.assign(hypothesis=verdict.hypothesis.name, margin=verdict.hypothesis.margin)
        for verdict in verdicts
    ]
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    return table[["hypothesis", *(name for name in table.columns if name != "hypothesis")]]
