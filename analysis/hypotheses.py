"""Hypotheses about attribution-based augmentation: declared before their runs, judged by a rule.

    declared (study.Hypothesis) → runs → test → Verdict: supported, refuted, inconclusive

`standard` declares what the slides claim, the same claims against honest references, and what
would explain them away: placebos, brightness, chance. `random_sets` draws the sets that tell size
from opposition. `test` judges any hypothesis, also one of a study of the user's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from aba_core.adjustments import GROUP_SETS, group_set_text
from aba_core.adjustments import members as set_members
from analysis import mixed, statistics, tables
from analysis.results import StudyResult
from analysis.statistics import Interval
from analysis.studies.isolation import arm_name
from analysis.study import (
    PLACEBO_TITLES,
    ArmSpec,
    Contrast,
    Hypothesis,
    Slope,
)

POWER = 0.8
VANILLA, RESEEDED, ONE_BIT = "Vanilla", "Vanilla, reseeded", "Vanilla, one bit changed"
NULL_ARMS = (RESEEDED, ONE_BIT)
# Seeds of hypotheses start here and those of exploring studies at 0, so that nothing is confirmed
# on the runs that suggested it.
FIRST_SEED = 100
RESEED = 500
SETS_PER_CELL = 12
SET_SIZES = {2: (0, 1), 4: (0, 1, 2), 8: (0, 2, 4)}  # size: numbers of opposed pairs

Change = tuple[int, int, int]
_CHANGES: tuple[Change, ...] = tuple(
    (int(row["low"]), int(row["middle"]), int(row["high"]))
    for row in tables.adjustment_table().to_dict("records")
)
_INDEX = {change: index for index, change in enumerate(_CHANGES)}
_OPPOSITE = tuple(_INDEX[(-low, -middle, -high)] for low, middle, high in _CHANGES)
# The 13 pairs of an adjustment and its opposite, each once.
PAIRS: tuple[tuple[int, int], ...] = tuple(
    (index, opposite) for index, opposite in enumerate(_OPPOSITE) if index < opposite
)
NO_MIDDLE = tuple(i for i, (_, middle, _) in enumerate(_CHANGES) if not middle)
BRIGHTNESS = (_INDEX[(1, 1, 1)], _INDEX[(-1, -1, -1)])


# --- arms ----------------------------------------------------------------------------------------


def pair_name(pair: tuple[int, int]) -> str:
    return f"opposed pair {pair[0]}, {pair[1]}"


def placebo_name(arm: str, placebo: str) -> str:
    return f"{arm}, {PLACEBO_TITLES[placebo]}"


def arms(strength: float, top_k: int = 4) -> tuple[ArmSpec, ...]:
    """The arms that the standard hypotheses compare, all with one strength and target "loss"."""
    loss: dict[str, Any] = {"strength": strength, "target": "loss"}
    made = [
        ArmSpec(name=VANILLA, method="vanilla"),
        ArmSpec(name=RESEEDED, method="vanilla", seed_offset=RESEED),
        ArmSpec(name=ONE_BIT, method="vanilla", flip_bit=True),
    ]
    made += [ArmSpec(name=arm_name(i), adjustments=str(i), **loss) for i in range(27)]
    made += [ArmSpec(name=name, adjustments=group_set_text(name), **loss) for name in GROUP_SETS]
    made += [
        ArmSpec(name=pair_name(pair), adjustments=f"{pair[0]},{pair[1]}", **loss) for pair in PAIRS
    ]
    made += [
        ArmSpec(
            name=placebo_name(of, placebo), adjustments=group_set_text(of), placebo=placebo, **loss
        )
        for of, placebo in product(("All", "Epsilon"), PLACEBO_TITLES)
    ]
    without_middle = ",".join(map(str, NO_MIDDLE))
    score = {**loss, "target": "class_score", "top_k": top_k}
    made += [
        ArmSpec(name="All, middle left alone", adjustments=without_middle, **loss),
        ArmSpec(name="All, class score", adjustments="all", **score),
        ArmSpec(name="All, fixed magnitude", adjustments="all", randomize=False, **loss),
        ArmSpec(name="MendABA, loss", method="mendaba", **loss),
        ArmSpec(name="MendABA, class score", method="mendaba", **score),
    ]
    return tuple(made)


def properties(members: Sequence[int]) -> dict[str, float]:
    """What may matter of a set besides its size.

    size: doublings, log2 of the number of members. opposition: share of members whose opposite is
    a member too. direction: mean of high − low. offset: mean of the middle. norm: root of the mean
    squared change of a feature, with a tenth of them low and a tenth high.
    """
    changes = np.array([_CHANGES[i] for i in members], dtype=np.float64)
    opposed = [_OPPOSITE[i] in members for i in members]
    return {
        "size": math.log2(len(members)),
        "opposition": float(np.mean(opposed)),
        "direction": float((changes[:, 2] - changes[:, 0]).mean()),
        "offset": float(changes[:, 1].mean()),
        "norm": float(np.sqrt((changes**2 @ (0.1, 0.8, 0.1)).mean())),
    }


def random_sets(per_cell: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Random sets for size × opposition: all 26 single adjustments, then `per_cell` of each kind
    in `SET_SIZES`, without repeats. [set][member], members in the published order.

    Adjustment 0 changes nothing and is left out, so that no set holds clean samples. Sets whose
    mean direction is beyond ±1/2 are drawn again: opposed pairs have none, and sets without them
    would differ by it too.
    """
    rng = np.random.default_rng(seed)
    made: list[tuple[int, ...]] = [(i,) for i in range(1, 27)]
    for size, kinds in SET_SIZES.items():
        for pairs in kinds:
            cell: set[tuple[int, ...]] = set()
            while len(cell) < per_cell:
                order = rng.permutation(len(PAIRS))
                chosen = [i for p in order[:pairs] for i in PAIRS[p]]
                rest = order[pairs : pairs + size - 2 * pairs]
                chosen += [PAIRS[p][int(rng.integers(2))] for p in rest]
                members = tuple(sorted(chosen))
                if abs(properties(members)["direction"]) <= 0.5:
                    cell.add(members)
            made += sorted(cell)
    return made


def set_name(members: Sequence[int]) -> str:
    return arm_name(members[0]) if len(members) == 1 else "set " + " ".join(map(str, members))


def set_arms(strength: float, per_cell: int) -> tuple[ArmSpec, ...]:
    """The arms of `random_sets`."""
    return tuple(
        ArmSpec(
            name=set_name(members),
            adjustments=",".join(map(str, members)),
            strength=strength,
            target="loss",
        )
        for members in random_sets(per_cell)
    )


# --- what is claimed -----------------------------------------------------------------------------


def _group_arms(name: str) -> list[str]:
    return [arm_name(i) for i in set_members(name)]


def _against_members(name: str) -> dict[str, float]:
    arms = _group_arms(name)
    return {name: 1.0, **dict.fromkeys(arms, -1 / len(arms))}


def _summed(*parts: tuple[float, Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for factor, weights in parts:
        for arm, weight in weights.items():
            total[arm] = total.get(arm, 0.0) + factor * weight
    return total


def _minus(a: str, b: str) -> Contrast:
    return Contrast(label=f"{a} − {b}", weights={a: 1.0, b: -1.0})


def standard(n: int) -> tuple[Hypothesis, ...]:
    """The standard hypotheses on the arms of `arms`, with n seeds an arm."""
    single, joined = ("Neutral", "Delta", "Epsilon"), ("Eps. & Neu.", "Eps. & Del.", "Del. & Neu.")
    constituents = {
        "Eps. & Neu.": ("Epsilon", "Neutral"),
        "Eps. & Del.": ("Epsilon", "Delta"),
        "Del. & Neu.": ("Delta", "Neutral"),
        "All": single,
    }
    within = [(-1 / 3, _against_members(name)) for name in single]
    pairs = [((1 / 13), {pair_name(pair): 1.0}) for pair in PAIRS]
    singles = [(-1 / 26, {arm_name(i): 1.0}) for pair in PAIRS for i in pair]

    def placebos(of: str) -> tuple[Contrast, ...]:
        return tuple(_minus(of, placebo_name(of, placebo)) for placebo in PLACEBO_TITLES)

    return (
        Hypothesis(
            name="null-arms",
            statement="Reseeding, or one bit of one weight, changes no arm's mean: what is claimed "
            "of others must exceed this.",
            estimand="mean accuracy of Vanilla less that of Vanilla changed in nothing of matter",
            comparisons=tuple(_minus(VANILLA, arm) for arm in NULL_ARMS),
            direction="equivalent",
            margin=1.0,
            n=n,
        ),
        Hypothesis(
            name="augmentation-helps",
            statement="Training with all adjustments beats training without.",
            estimand="mean accuracy of All less that of Vanilla",
            comparisons=(_minus("All", VANILLA),),
            n=n,
        ),
        Hypothesis(
            name="one-adjustment-helps",
            statement="Some adjustment alone beats training without.",
            estimand="mean accuracy of each adjustment but 0 less that of Vanilla, a family of 26",
            comparisons=tuple(_minus(arm_name(i), VANILLA) for i in range(1, 27)),
            rule="any",
            n=n,
        ),
        Hypothesis(
            name="group-order",
            statement="Alone, Epsilon adjustments beat Neutral ones, and those beat Delta ones.",
            estimand="difference of the means of nine adjustments; the adjustment is the unit",
            comparisons=tuple(
                Contrast(
                    label=f"{a} − {b}",
                    weights=_summed(
                        (1 / 9, dict.fromkeys(_group_arms(a), 1.0)),
                        (-1 / 9, dict.fromkeys(_group_arms(b), 1.0)),
                    ),
                    unit="adjustment",
                )
                for a, b in (("Epsilon", "Neutral"), ("Neutral", "Delta"))
            ),
            n=n,
        ),
        Hypothesis(
            name="group-order-measured",
            statement="The same with groups measured on a frozen model.",
            estimand="difference of the means of the adjustments that raise, keep or lower the "
            "loss of a trained Vanilla model; the adjustment is the unit",
            comparisons=tuple(
                Contrast(label=f"{a} − {b}", weights={a: 1.0, b: -1.0}, unit="measured")
                for a, b in (("Epsilon", "Neutral"), ("Neutral", "Delta"))
            ),
            n=n,
        ),
        Hypothesis(
            name="variety-published",
            statement="Variety as published: all adjustments of a group together beat the mean of "
            "its members.",
            estimand="mean accuracy of a group's set less the mean of its members' means",
            comparisons=tuple(
                Contrast(label=f"{name} − its members", weights=_against_members(name))
                for name in single
            ),
            n=n,
        ),
        Hypothesis(
            name="tension-published",
            statement="Tension as published: sets of several groups gain more over the mean of "
            "their members than sets of one group.",
            estimand="a joined set's gain over its members' mean, less the mean gain of the three "
            "groups",
            comparisons=tuple(
                Contrast(
                    label=f"gain of {name} − gain of one group",
                    weights=_summed((1.0, _against_members(name)), *within),
                )
                for name in ("Eps. & Neu.", "Eps. & Del.", "All")
            ),
            n=n,
        ),
        Hypothesis(
            name="variety-best-member",
            statement="Variety against an honest reference: a group's set beats its best member.",
            estimand="mean accuracy of a group's set less that of its best member, chosen on other "
            "seeds",
            comparisons=tuple(
                Contrast(
                    label=f"{name} − its best member",
                    weights={name: 1.0},
                    minus_best_of=(tuple(_group_arms(name)),),
                )
                for name in single
            ),
            n=n,
        ),
        Hypothesis(
            name="tension-best-group",
            statement="Tension against an honest reference: a joined set beats its best group.",
            estimand="mean accuracy of a joined set less that of its best group's set, chosen on "
            "other seeds",
            comparisons=tuple(
                Contrast(
                    label=f"{name} − its best group",
                    weights={name: 1.0},
                    minus_best_of=(constituents[name],),
                )
                for name in (*joined, "All")
            ),
            n=n,
        ),
        Hypothesis(
            name="set-beats-best-member",
            statement="All adjustments together beat the best one alone.",
            estimand="mean accuracy of All less that of the best of 27, chosen on other seeds",
            comparisons=(
                Contrast(
                    label="All − best of 27",
                    weights={"All": 1.0},
                    minus_best_of=(tuple(arm_name(i) for i in range(27)),),
                ),
            ),
            n=n,
        ),
        Hypothesis(
            name="tension-of-one",
            statement="An adjustment with its opposite beats the two alone, on average.",
            estimand="mean over the 13 pairs {a, −a} of their accuracy less the mean of {a} and "
            "{−a}; perturbations have equal norms",
            comparisons=(
                Contrast(label="13 pairs − their members", weights=_summed(*pairs, *singles)),
            ),
            n=n,
        ),
        Hypothesis(
            name="tension-of-one-best",
            statement="An adjustment with its opposite beats the better of the two alone.",
            estimand="mean over the 13 pairs of their accuracy less that of the better member, "
            "chosen on other seeds",
            comparisons=(
                Contrast(
                    label="13 pairs − the better member",
                    weights=_summed(*pairs),
                    minus_best_of=tuple(tuple(arm_name(i) for i in pair) for pair in PAIRS),
                ),
            ),
            n=n,
        ),
        Hypothesis(
            name="attribution-matters",
            statement="All adjustments on real maps beat all adjustments on every placebo.",
            estimand="mean accuracy with the model's own map less that with the placebo",
            comparisons=placebos("All"),
            n=n,
        ),
        Hypothesis(
            name="attribution-matters-epsilon",
            statement="Epsilon adjustments on real maps beat Epsilon adjustments on every placebo.",
            estimand="mean accuracy with the model's own map less that with the placebo",
            comparisons=placebos("Epsilon"),
            n=n,
        ),
        Hypothesis(
            name="noise-helps",
            statement="Gaussian noise of the same norm, without any map, beats training without.",
            estimand="mean accuracy of All as Gaussian noise less that of Vanilla",
            comparisons=(_minus(placebo_name("All", "gaussian"), VANILLA),),
            n=n,
        ),
        Hypothesis(
            name="brightness",
            statement="Shifting all features alike, which needs no map, beats training without.",
            estimand="mean accuracy of the pair (1,1,1), (−1,−1,−1) less that of Vanilla",
            comparisons=(_minus(pair_name(BRIGHTNESS), VANILLA),),
            n=n,
        ),
        Hypothesis(
            name="contrast-beyond-brightness",
            statement="Changing attributed features only beats shifting all features alike.",
            estimand="mean accuracy of the adjustments that leave the middle alone less that of "
            "the brightness pair",
            comparisons=(_minus("All, middle left alone", pair_name(BRIGHTNESS)),),
            n=n,
        ),
        Hypothesis(
            name="middle-helps",
            statement="Including changes of middle features helps (slides, additional findings).",
            estimand="mean accuracy of All less that of the adjustments without the middle",
            comparisons=(_minus("All", "All, middle left alone"),),
            n=n,
        ),
        Hypothesis(
            name="class-score",
            statement="The class score is a better target than the loss (slides, additional "
            "findings).",
            estimand="mean accuracy with target class score less that with target loss",
            comparisons=(
                _minus("All, class score", "All"),
                _minus("MendABA, class score", "MendABA, loss"),
            ),
            n=n,
        ),
        Hypothesis(
            name="random-magnitude",
            statement="A random magnitude beats a fixed one (slides, additional findings).",
            estimand="mean accuracy with |N(0, 1)| less that with 1; mean squares are equal",
            comparisons=(_minus("All", "All, fixed magnitude"),),
            n=n,
        ),
    )


def of_sets(per_cell: int, n: int) -> tuple[Hypothesis, ...]:
    """Variety and tension apart, on the arms of `set_arms`."""
    covariates = {set_name(members): properties(members) for members in random_sets(per_cell)}
    held = "at fixed {}, mean direction, offset and norm; the set is the unit"
    return (
        Hypothesis(
            name="variety",
            statement="Larger sets are better at fixed opposition.",
            estimand="points for each doubling of a set's size " + held.format("opposition"),
            comparisons=(Slope(label="a doubling of size", term="size", covariates=covariates),),
            margin=0.25,
            n=n,
        ),
        Hypothesis(
            name="tension",
            statement="Sets of opposed pairs are better at fixed size.",
            estimand="points from no member to every member having its opposite in the set "
            + held.format("size"),
            comparisons=(Slope(label="full opposition", term="opposition", covariates=covariates),),
            n=n,
        ),
    )


# --- verdicts ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What the runs say of a hypothesis.

    verdict: supported, refuted, inconclusive, or "not tested" where runs are missing. table: one
    row a comparison with label, estimate (points) and its interval, n, verdict, smallest_detectable
    (points, 80 % power). sentence: all of it in words. declared: whether before its data. notes:
    why a comparison was not supported in spite of its interval, by label.
    """

    hypothesis: Hypothesis
    verdict: str
    table: pd.DataFrame
    sentence: str
    declared: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def decisive(self) -> pd.Series:
        """The comparison that decided: of those with the verdict, the weakest where all must hold,
        otherwise the strongest."""
        own = self.table[self.table["verdict"] == self.verdict]
        estimate = own["estimate"].to_numpy(np.float64)
        if self.hypothesis.direction == "equivalent":
            estimate = -np.abs(estimate)  # the largest difference is the weakest case
        weakest = self.hypothesis.rule == "all"
        return own.iloc[int(estimate.argmin() if weakest else estimate.argmax())]


def smallest_detectable(interval: Interval, power: float = POWER) -> float:
    """The smallest effect (points) whose interval would exclude 0 with this power, as a normal
    error of the interval's width has it. NaN where there is no interval."""
    reach = stats.norm.ppf((1 + interval.confidence) / 2)
    return float((interval.high - interval.low) / 2 * (reach + stats.norm.ppf(power)) / reach)


def test(
    hypothesis: Hypothesis,
    runs: pd.DataFrame,
    rng: np.random.Generator,
    *,
    metric: str = "validation_accuracy",
    confidence: float = 0.95,
    measured: Mapping[str, Sequence[str]] | None = None,
    null_spread: float = 0.0,
    declared: str = "",
) -> Verdict:
    """Judge a hypothesis on the runs of its arms.

    runs: one row a run with arm, seed and the metric (percent). measured: {group: arms} as a
    frozen model sorts them. null_spread: the difference that two arms differing in nothing may
    show (points): support of a comparison of runs asks for more, in proportion to its weights.
    """
    missing = sorted(hypothesis.arms - set(runs.loc[runs[metric].notna(), "arm"]))
    wants_groups = any(getattr(c, "unit", "") == "measured" for c in hypothesis.comparisons)
    if missing or (wants_groups and measured is None):
        what = f"no runs of {missing[0]!r}" if missing else "needs the frozen study"
        sentence = f"{hypothesis.statement} Not tested: {what}."
        return Verdict(hypothesis, "not tested", pd.DataFrame(), sentence, declared)
    family = len(hypothesis.comparisons) if hypothesis.rule == "any" else 1
    level = 1 - (1 - confidence) / family
    rows: list[dict[str, Any]] = []
    notes: dict[str, str] = {}
    for stream, comparison in zip(
        rng.spawn(len(hypothesis.comparisons)), hypothesis.comparisons, strict=True
    ):
        p = math.nan
        if isinstance(comparison, Slope):
            interval, p = _slope(comparison, runs, stream, metric, level)
        else:
            interval = _contrast(comparison, runs, stream, metric, level, measured)
        verdict = statistics.decide(interval, hypothesis.margin, hypothesis.direction)
        if verdict == "supported" and hypothesis.direction != "equivalent":
            if isinstance(comparison, Slope) and not p <= 1 - level:
                verdict = "inconclusive"
                notes[comparison.label] = f"exchanging sets gives p = {p:.3f}"
            if isinstance(comparison, Contrast) and comparison.unit == "run":
                nothing = null_spread * _scale(comparison)
                if abs(interval.estimate) <= nothing:
                    verdict = "inconclusive"
                    notes[comparison.label] = (
                        f"no more than arms that differ in nothing may show (±{nothing:.1f})"
                    )
        rows.append(
            {
                "label": comparison.label,
                "estimate": interval.estimate,
                "estimate_low": interval.low,
                "estimate_high": interval.high,
                "n": interval.n,
                "unit": "set" if isinstance(comparison, Slope) else _unit(comparison),
                "p_permutation": p,
                "verdict": verdict,
                "smallest_detectable": smallest_detectable(interval),
            }
        )
    table = pd.DataFrame(rows)
    found = set(table["verdict"])
    if hypothesis.rule == "all":
        verdict = (
            "supported"
            if found == {"supported"}
            else "refuted"
            if "refuted" in found
            else "inconclusive"
        )
    else:
        verdict = (
            "supported"
            if "supported" in found
            else "refuted"
            if found == {"refuted"}
            else "inconclusive"
        )
    judged = Verdict(hypothesis, verdict, table, "", declared, notes)
    return replace(judged, sentence=_sentence(judged))


def _unit(contrast: Contrast) -> str:
    return "run" if contrast.unit == "run" else "adjustment"


def _scale(contrast: Contrast) -> float:
    """How far the contrast's weights let equal spreads add up, 1 for one arm against another."""
    squares = sum(weight**2 for weight in contrast.weights.values())
    squares += 1 / len(contrast.minus_best_of) if contrast.minus_best_of else 0.0
    return math.sqrt(squares / 2)


def _values(runs: pd.DataFrame, arm: str, metric: str) -> np.ndarray:
    own = runs.loc[runs["arm"] == arm, metric].to_numpy(np.float64)
    return own[np.isfinite(own)]


def _contrast(
    contrast: Contrast,
    runs: pd.DataFrame,
    rng: np.random.Generator,
    metric: str,
    confidence: float,
    measured: Mapping[str, Sequence[str]] | None,
) -> Interval:
    if contrast.unit == "run":
        samples = [_values(runs, arm, metric) for arm in contrast.weights]
        weights = list(contrast.weights.values())
        for candidates in contrast.minus_best_of:
            samples.append(tables.crossfitted_best(runs, candidates, metric))
            weights.append(-1 / len(contrast.minus_best_of))
        return statistics.contrast_interval(samples, weights, rng, confidence=confidence)
    means = runs.groupby("arm")[metric].mean()
    sides: dict[bool, list[float]] = {True: [], False: []}
    for name, weight in contrast.weights.items():
        arms = [name] if contrast.unit == "adjustment" else (measured or {}).get(name, [])
        sides[weight > 0] += [float(means[arm]) for arm in arms if arm in means]
    return statistics.difference_interval(sides[True], sides[False], rng, confidence=confidence)


def _slope(
    slope: Slope, runs: pd.DataFrame, rng: np.random.Generator, metric: str, confidence: float
) -> tuple[Interval, float]:
    """Least squares on the arms' means, with Student's t, and p by exchanging arms."""
    frame = set_frame(slope, runs, metric)
    names = [name for name in frame.columns if name not in ("set", metric)]
    design = np.column_stack([np.ones(len(frame)), frame[names].to_numpy(np.float64)])
    response = frame[metric].to_numpy(np.float64)
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
    own = runs[runs["arm"].isin(list(slope.covariates)) & runs[metric].notna()]
    if not by_run:
        own = own.groupby("arm", sort=False)[[metric]].mean().reset_index()
    kept = own[["arm", *(["seed"] if by_run else []), metric]].rename(columns={"arm": "set"})
    covariates = pd.DataFrame(slope.covariates).T
    return kept.join(covariates, on="set").reset_index(drop=True)


def mixed_table(
    slope: Slope, runs: pd.DataFrame, metric: str, confidence: float = 0.95
) -> pd.DataFrame:
    """A mixed model of all runs as a check of the slopes: one row a property, with estimate
    (points), interval and p; then the spreads (SD, points) of sets, seeds and the rest."""
    frame = set_frame(slope, runs, metric, by_run=True).rename(columns={metric: "accuracy"})
    terms = [name for name in frame.columns if name not in ("set", "seed", "accuracy")]
    random = ["set", "seed"] if frame["seed"].nunique() > 1 else ["set"]
    fit = mixed.mixed_model(frame, f"accuracy ~ {' + '.join(terms)}", random, confidence=confidence)
    fixed = fit.fixed[fit.fixed["term"] != "Intercept"]
    spreads = [{"term": f"SD of {name}", "estimate": value} for name, value in fit.random.items()]
    return pd.concat([fixed, pd.DataFrame(spreads)], ignore_index=True)[
        ["term", "estimate", "estimate_low", "estimate_high", "p_value"]
    ]


def _sentence(judged: Verdict) -> str:
    hypothesis, row = judged.hypothesis, judged.decisive
    several = len(judged.table) > 1
    which = {"all": "the weakest of", "any": "the strongest of"}[hypothesis.rule]
    if hypothesis.direction == "equivalent":
        which = "the largest of"
    subject = f"{row['label']}" + f" ({which} {len(judged.table)})" * several
    unit = {"run": "runs in all", "adjustment": "adjustments", "set": "sets"}[row["unit"]]
    found = tables.interval_text(*(row[f"estimate{end}"] for end in ("", "_low", "_high")))
    parts = [
        f"{hypothesis.statement} {judged.verdict.capitalize()}: {subject} {found} points, "
        f"{row['n']} {unit}, {hypothesis.n} seeds an arm planned; "
        f"smallest effect seen with 80 % power {row['smallest_detectable']:.1f}."
    ]
    if row["label"] in judged.notes:
        parts.append(f"Not supported: {judged.notes[row['label']]}.")
    return " ".join(parts)


def null_spread(runs: pd.DataFrame, rng: np.random.Generator, metric: str) -> float:
    """The wider half interval of Vanilla against itself reseeded and with one bit changed (points):
    what arms that differ in nothing may show. 0 where those arms have no runs."""
    there = set(runs.loc[runs[metric].notna(), "arm"])
    halves = [0.0]
    if VANILLA in there:
        for arm in NULL_ARMS:
            if arm in there:
                interval = statistics.difference_interval(
                    _values(runs, VANILLA, metric), _values(runs, arm, metric), rng
                )
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
    own = int((stamps == study.declaration.study.hypotheses_hash).sum())
    text = (
        f"declared {at[:10]} before the data ({own} of {len(frame)} runs carry the hash)"
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
    confidence: float = 0.95,
    measured: Mapping[str, Sequence[str]] | None = None,
    spread: float | None = None,
) -> list[Verdict]:
    """Every hypothesis that a study declares, in its order. spread: see `test`; measured on the
    study's own null arms where not given."""
    runs = study.frame
    if spread is None:
        spread = null_spread(runs, rng, metric)
    declared = declared_when(study)
    return [
        test(
            hypothesis,
            runs,
            stream,
            metric=metric,
            confidence=confidence,
            measured=measured,
            null_spread=spread,
            declared=declared,
        )
        for hypothesis, stream in zip(
            study.declaration.study.hypotheses,
            rng.spawn(len(study.declaration.study.hypotheses)),
            strict=True,
        )
    ]


def verdict_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a hypothesis: name, statement, verdict, margin, the deciding comparison, its estimate
    (points) with interval, n, smallest_detectable, declared."""
    rows = []
    for judged in verdicts:
        row: dict[str, Any] = {
            "hypothesis": judged.hypothesis.name,
            "statement": judged.hypothesis.statement,
            "verdict": judged.verdict,
            "margin": judged.hypothesis.margin,
        }
        if len(judged.table):
            decisive = judged.decisive
            row |= {
                "comparison": decisive["label"],
                "estimate": decisive["estimate"],
                "estimate_low": decisive["estimate_low"],
                "estimate_high": decisive["estimate_high"],
                "n": decisive["n"],
                "smallest_detectable": decisive["smallest_detectable"],
            }
        rows.append({**row, "declared": judged.declared})
    return pd.DataFrame(rows)


def comparison_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a comparison of every hypothesis; see `Verdict.table`."""
    parts = [
        judged.table.assign(hypothesis=judged.hypothesis.name, margin=judged.hypothesis.margin)
        for judged in verdicts
    ]
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    return table[["hypothesis", *(name for name in table.columns if name != "hypothesis")]]
