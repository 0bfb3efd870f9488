"""Hypotheses: what the slides claim, the same against honest references, and what would explain it
away: placebos, brightness, chance. Every run has a fresh training subset, on which all arms train.

`exhibits` shows the verdicts of any study that declares hypotheses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import pandas as pd

from aba_core.adjustments import (
    ADJUSTMENTS,
    GROUP_SETS,
    PAIRS,
    Adjustment,
    Group,
    group_set_text,
    members,
)
from aba_core.arms import PLACEBO_TITLES, Arm
from analysis import chance, rules, statistics, tables
from analysis.exhibits import Collector, Exhibits, Look
from analysis.hypothesis import Contrast, Hypothesis, Slope, minus, minus_best
from analysis.results import StudyResult
from analysis.rules import Verdict
from analysis.studies import frozen, sets
from analysis.studies.isolation import arm_name
from analysis.studies.verdicts import READING, verdict_height, verdict_plot
from analysis.study import FRESH_SEED, Settings, Study
from analysis.study import on_fresh_subsets as fresh

VANILLA, RESEEDED, ONE_BIT = "Vanilla", "Vanilla, reseeded", "Vanilla, one bit changed"
# Arms that differ from Vanilla in chance alone: what a difference of nothing looks like.
RESEEDED_ARMS = (RESEEDED, *(f"{RESEEDED} {number}" for number in (2, 3, 4)))
RESEED = 1_000_000
NO_MIDDLE = tuple(a.index for a in ADJUSTMENTS if not a.middle)
BRIGHTNESS = (Adjustment(1, 1, 1).index, Adjustment(-1, -1, -1).index)
# Arms that hide a tenth of the features in place of changing them.
HIDING: dict[str, dict[str, Any]] = {
    "Guided dropout, high": {"category": "high"},
    "Guided dropout, low": {"category": "low"},
    "Random dropout of a tenth": {"placebo": "random"},
}
GROUPS = tuple(group.value for group in Group)


def declare(settings: Settings) -> Study:
    """All standard hypotheses and the arms that they need, all on one strength, each run on a fresh
    subset."""
    return settings.study(
        "hypotheses",
        fresh(arms(settings.strength["isolation"], settings.top_k, settings.pictures)),
        hypotheses=standard(settings.planned["hypotheses"], settings.pictures),
        seeds=tuple(range(FRESH_SEED, FRESH_SEED + settings.seeds["hypotheses"])),
    )


# --- arms ----------------------------------------------------------------------------------------


def pair_name(pair: tuple[int, int]) -> str:
    return f"opposed pair {pair[0]}, {pair[1]}"


def placebo_name(arm: str, placebo: str) -> str:
    return f"{arm}, {PLACEBO_TITLES[placebo]}"


def arms(strength: float, top_k: int = 4, pictures: bool = True) -> tuple[Arm, ...]:
    """The arms that the standard hypotheses compare, all with one strength and target "loss".
    pictures: whether squares of the input can be hidden."""
    loss: dict[str, Any] = {"strength": strength, "target": "loss"}
    score = {**loss, "target": "class_score", "top_k": top_k}
    return (
        Arm.of(VANILLA, method="vanilla"),
        *(
            Arm.of(name, method="vanilla", seed_offset=RESEED * (1 + number))
            for number, name in enumerate(RESEEDED_ARMS)
        ),
        Arm.of(ONE_BIT, method="vanilla", flip_bit=True),
        *(Arm.of(arm_name(i), adjustments=str(i), **loss) for i in range(27)),
        *(Arm.of(name, adjustments=group_set_text(name), **loss) for name in GROUP_SETS),
        *(Arm.of(pair_name(pair), adjustments=f"{pair[0]},{pair[1]}", **loss) for pair in PAIRS),
        *(
            Arm.of(
                name=placebo_name(of, placebo),
                adjustments=group_set_text(of),
                placebo=placebo,
                **loss,
            )
            for of, placebo in product(("All", "Epsilon"), PLACEBO_TITLES)
        ),
        Arm.of("All, middle left alone", adjustments=",".join(map(str, NO_MIDDLE)), **loss),
        Arm.of("All, class score", adjustments="all", **score),
        Arm.of("All, fixed magnitude", adjustments="all", randomize=False, **loss),
        Arm.of("MendABA, loss", method="mendaba", **loss),
        Arm.of("MendABA, class score", method="mendaba", **score),
        *(Arm.of(name, method="guided-dropout", **given) for name, given in HIDING.items()),
        *([Arm.of("Cutout of a tenth", method="cutout", side=0.1**0.5)] if pictures else []),
    )


# --- what is claimed -----------------------------------------------------------------------------


def standard(n: int, pictures: bool = True) -> tuple[Hypothesis, ...]:
    """The standard hypotheses on the arms of `arms`, on n subsets."""
    parts = (_of_vanilla, _of_groups, _of_unions, _of_opposites, _of_placebos, _of_settings)
    declared = [said for part in parts for said in part()] + _of_hiding(pictures)
    return tuple(Hypothesis(n=n, **said) for said in declared)


def _group_arms(name: str) -> list[str]:
    return [arm_name(i) for i in members(name)]


def _against_members(name: str) -> dict[str, float]:
    names = _group_arms(name)
    return {name: 1.0, **dict.fromkeys(names, -1 / len(names))}


def _summed(*parts: tuple[float, Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for factor, weights in parts:
        for arm, weight in weights.items():
            total[arm] = total.get(arm, 0.0) + factor * weight
    return total


def _of_vanilla() -> list[dict[str, Any]]:
    return [
        dict(
            name="null-arms",
            statement="Reseeding, or one bit of one weight, changes no arm's mean.",
            estimand="mean accuracy of Vanilla less that of Vanilla changed in nothing of matter",
            comparisons=tuple(minus(VANILLA, arm) for arm in (*RESEEDED_ARMS, ONE_BIT)),
            direction="equivalent",
        ),
        dict(
            name="augmentation-helps",
            statement="Training with all adjustments beats training without.",
            estimand="mean accuracy of All less that of Vanilla",
            comparisons=(minus("All", VANILLA),),
        ),
        dict(
            name="one-adjustment-helps",
            statement="Some adjustment alone beats training without.",
            estimand="mean accuracy of each adjustment but 0 less that of Vanilla, a family of 26",
            comparisons=tuple(minus(arm_name(i), VANILLA) for i in range(1, 27)),
            rule="any",
        ),
    ]


def _of_groups() -> list[dict[str, Any]]:
    order = (("Epsilon", "Neutral"), ("Neutral", "Delta"))

    def nine(group: str) -> dict[str, float]:
        return dict.fromkeys(_group_arms(group), 1.0)

    return [
        dict(
            name="group-order",
            statement="Alone, Epsilon adjustments beat Neutral ones, and those beat Delta ones.",
            estimand="difference of the means of nine adjustments; the adjustment is the unit",
            comparisons=tuple(
                Contrast(
                    label=f"{a} − {b}",
                    weights=_summed((1 / 9, nine(a)), (-1 / 9, nine(b))),
                    unit="adjustment",
                )
                for a, b in order
            ),
        ),
        dict(
            name="group-order-measured",
            statement="The same with groups measured on a frozen model.",
            estimand="difference of the means of the adjustments that raise, keep or lower the "
            "loss of a trained Vanilla model; the adjustment is the unit",
            comparisons=tuple(
                Contrast(label=f"{a} − {b}", weights={a: 1.0, b: -1.0}, unit="measured")
                for a, b in order
            ),
        ),
    ]


def _of_unions() -> list[dict[str, Any]]:
    unions = {name: groups for name, groups in GROUP_SETS.items() if len(groups) > 1}
    within = [(-1 / 3, _against_members(name)) for name in GROUPS]
    return [
        dict(
            name="variety-published",
            statement="Variety as published: all adjustments of a group together beat the mean of "
            "its members.",
            estimand="mean accuracy of a group's set less the mean of its members' means",
            comparisons=tuple(
                Contrast(label=f"{name} − its members", weights=_against_members(name))
                for name in GROUPS
            ),
        ),
        dict(
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
        ),
        dict(
            name="variety-best-member",
            statement="Variety against an honest reference: a group's set beats its best member.",
            estimand="mean accuracy of a group's set less that of its best member, whichever "
            "that is",
            comparisons=tuple(
                minus_best(name, "its best member", _group_arms(name)) for name in GROUPS
            ),
        ),
        dict(
            name="tension-best-group",
            statement="Tension against an honest reference: a joined set beats its best group.",
            estimand="mean accuracy of a joined set less that of its best group's set, "
            "whichever that is",
            comparisons=tuple(
                minus_best(name, "its best group", [group.value for group in groups])
                for name, groups in unions.items()
            ),
        ),
        dict(
            name="opposed-groups",
            statement="Joining opposed groups beats joining a group with the neutral one, by "
            "itself and over the mean of the groups that are joined.",
            estimand="mean accuracy of Eps. & Del. less that of Eps. & Neu.; the same of their "
            "gains over the mean of their two groups' sets",
            comparisons=(
                minus("Eps. & Del.", "Eps. & Neu."),
                Contrast(
                    label="gain of Eps. & Del. − gain of Eps. & Neu.",
                    weights={
                        "Eps. & Del.": 1.0,
                        "Eps. & Neu.": -1.0,
                        "Delta": -0.5,
                        "Neutral": 0.5,
                    },
                ),
            ),
        ),
        dict(
            name="set-beats-best-member",
            statement="All adjustments together beat the best one alone.",
            estimand="mean accuracy of All less that of the best of 27, whichever that is",
            comparisons=(minus_best("All", "best of 27", [arm_name(i) for i in range(27)]),),
        ),
    ]


def _of_opposites() -> list[dict[str, Any]]:
    pairs = [((1 / 13), {pair_name(pair): 1.0}) for pair in PAIRS]
    singles = [(-1 / 26, {arm_name(i): 1.0}) for pair in PAIRS for i in pair]
    return [
        dict(
            name="tension-of-one",
            statement="An adjustment with its opposite beats the two alone, on average.",
            estimand="mean over the 13 pairs {a, −a} of their accuracy less the mean of {a} and "
            "{−a}; perturbations have equal norms",
            comparisons=(
                Contrast(label="13 pairs − their members", weights=_summed(*pairs, *singles)),
            ),
        ),
        dict(
            name="tension-of-one-best",
            statement="An adjustment with its opposite beats the better of the two alone.",
            estimand="mean over the 13 pairs of their accuracy less that of the better member, "
            "whichever that is",
            comparisons=(
                Contrast(
                    label="13 pairs − the better member",
                    weights=_summed(*pairs),
                    minus_best_of=tuple(tuple(arm_name(i) for i in pair) for pair in PAIRS),
                ),
            ),
        ),
    ]


def _of_placebos() -> list[dict[str, Any]]:
    def placebos(of: str) -> tuple[Contrast, ...]:
        return tuple(minus(of, placebo_name(of, placebo)) for placebo in PLACEBO_TITLES)

    return [
        dict(
            name="attribution-matters",
            statement="All adjustments on real maps beat all adjustments on every placebo.",
            estimand="mean accuracy with the model's own map less that with the placebo",
            comparisons=placebos("All"),
        ),
        dict(
            name="attribution-matters-epsilon",
            statement="Epsilon adjustments on real maps beat Epsilon adjustments on every placebo.",
            estimand="mean accuracy with the model's own map less that with the placebo",
            comparisons=placebos("Epsilon"),
        ),
        dict(
            name="noise-helps",
            statement="Gaussian noise of the same norm, without any map, beats training without.",
            estimand="mean accuracy of All as Gaussian noise less that of Vanilla",
            comparisons=(minus(placebo_name("All", "gaussian"), VANILLA),),
        ),
        dict(
            name="noise-is-as-good",
            statement="Gaussian noise of the same norm, without any map, is as good as all "
            "adjustments.",
            estimand="mean accuracy of All less that of All as Gaussian noise",
            comparisons=(minus("All", placebo_name("All", "gaussian")),),
            direction="equivalent",
        ),
    ]


def _of_settings() -> list[dict[str, Any]]:
    return [
        dict(
            name="brightness",
            statement="Shifting all features alike, which needs no map, beats training without.",
            estimand="mean accuracy of the pair (1,1,1), (−1,−1,−1) less that of Vanilla",
            comparisons=(minus(pair_name(BRIGHTNESS), VANILLA),),
        ),
        dict(
            name="contrast-beyond-brightness",
            statement="Changing attributed features only beats shifting all features alike.",
            estimand="mean accuracy of the adjustments that leave the middle alone less that of "
            "the brightness pair",
            comparisons=(minus("All, middle left alone", pair_name(BRIGHTNESS)),),
        ),
        dict(
            name="middle-helps",
            statement="Including changes of middle features helps (slides, additional findings).",
            estimand="mean accuracy of All less that of the adjustments without the middle",
            comparisons=(minus("All", "All, middle left alone"),),
        ),
        dict(
            name="class-score",
            statement="The class score is a better target than the loss (slides, additional "
            "findings).",
            estimand="mean accuracy with target class score less that with target loss",
            comparisons=(
                minus("All, class score", "All"),
                minus("MendABA, class score", "MendABA, loss"),
            ),
        ),
        dict(
            name="random-magnitude",
            statement="A random magnitude beats a fixed one (slides, additional findings).",
            estimand="mean accuracy with |N(0, 1)| less that with 1; mean squares are equal",
            comparisons=(minus("All", "All, fixed magnitude"),),
        ),
    ]


def _of_hiding(pictures: bool) -> list[dict[str, Any]]:
    guided = ("Guided dropout, high", "Guided dropout, low")
    others = ("Random dropout of a tenth", *["Cutout of a tenth"] * pictures)
    return [
        dict(
            name="guided-dropout",
            statement="Hiding features that the attribution names beats hiding as many at random.",
            estimand="mean accuracy with the tenth of highest or lowest attribution set to 0 less "
            "that with a random tenth, and with a square of as many",
            comparisons=tuple(minus(of, other) for of in guided for other in others),
            rule="any",
        ),
    ]


# --- what is shown -------------------------------------------------------------------------------


def counted(verdicts: Sequence[Verdict]) -> str:
    """How many hypotheses have which verdict, in one sentence."""
    kinds = Counter(one.verdict for one in verdicts)
    every = (*statistics.VERDICTS, "not tested")
    parts = [f"{n} {'is' if n == 1 else 'are'} {kind}" for kind in every if (n := kinds[kind])]
    return f"Of {len(verdicts)} declared hypotheses, {tables.listed(parts or ['none is judged'])}."


def judge(
    study: StudyResult,
    look: Look,
    frozen_study: StudyResult | None = None,
    number: int | None = None,
) -> list[Verdict]:
    """The verdict on every hypothesis of a study. frozen_study: for those about measured groups,
    which are not tested without it. number: of the declared look that this is."""
    return rules.test_all(
        study,
        look.rng(),
        metric=look.metric,
        confidence=look.confidence,
        measured=None if frozen_study is None else frozen.measured_groups(frozen_study),
        look=number,
    )


OVER = (
    "interval over: what was drawn anew for each unit; over seeds alone, and over images too: the "
    "two-sided intervals for the same subsets, and for other evaluation images as well"
)


def beside_of(table: pd.DataFrame) -> list[str]:
    """The columns that say what intervals are over, and the further ones that are known."""
    known = [name for name in ("over_seeds", "over_images") if (table[name] != "").any()]
    return ["over", *known]


def prefix_of(study: str) -> str:
    """What the names of a study's verdict figures and tables begin with."""
    return "" if study == "hypotheses" else f"{study}-"


def exhibits(study: StudyResult, look: Look, verdicts: Sequence[Verdict]) -> Exhibits:
    """Figures verdicts and verdict-NAME, tables verdicts and comparisons; where hypotheses are
    about properties of sets, also those of `sets.show`.

    verdicts: from `judge`. Studies but the standard one have their name before each exhibit's.
    """
    collector = Collector(study, look)
    name = study.declaration.study.name
    prefix = prefix_of(name)
    tested = [verdict for verdict in verdicts if len(verdict.table)]
    table = rules.verdict_table(verdicts)
    columns = (
        ("comparison", "effect", "estimate", "n", *beside_of(table), "holds") if tested else ()
    )
    ways = (
        f"{100 * look.confidence:g} %, Student's t over blocks, runs, adjustments or sets; each "
        "end at the level of what it decides in its family"
    )
    collector.figure(
        f"{prefix}verdicts",
        "Verdict on each hypothesis, by the comparison that decided it",
        table,
        partial(verdict_plot, table, names="statement"),
        height=verdict_height(table, "statement"),
        note=f"{look.label}. {READING}{_scopes(table)}",
        interval=ways,
        width="double",
    )
    for verdict in tested:
        compared = rules.comparison_table([verdict])
        collector.figure(
            f"{prefix}verdict-{verdict.hypothesis.name}",
            verdict.hypothesis.statement,
            compared,
            partial(verdict_plot, compared, names="label"),
            height=verdict_height(compared, "label"),
            note=f"{_after_statement(verdict)} {verdict.declared.capitalize()}.",
            interval=ways,
            width="double",
        )
    collector.table(
        f"{prefix}verdicts",
        "Verdicts",
        table,
        ["hypothesis", "verdict", *columns],
        note=f"{look.label}, estimates in points; {verdicts[0].declared}; effect reversed: a harm; "
        f"{OVER}; over all: what survives Holm's correction over all hypotheses of the study.",
        interval=ways,
    )
    _tables(collector, study, tested, prefix, ways)
    slopes = [
        comparison
        for verdict in tested
        for comparison in verdict.hypothesis.comparisons
        if isinstance(comparison, Slope) and "size" in next(iter(comparison.covariates.values()))
    ]
    if slopes:
        sets.show(collector, slopes[0], prefix)
    return collector.exhibits


def _scopes(table: pd.DataFrame) -> str:
    """What the intervals of a verdict table are over, as a sentence after another."""
    if "over" not in table:
        return ""
    rows = table["over"].dropna().value_counts()
    of = f" of {len(table)}"
    counted = [f"{over} ({rows[over]}{of})" if len(rows) > 1 else str(over) for over in rows.index]
    return f" Intervals are over: {'; '.join(counted)}. None is over evaluation images."


def _after_statement(verdict: Verdict) -> str:
    """A verdict's sentence without the statement, which is the exhibit's description."""
    return verdict.sentence.removeprefix(verdict.hypothesis.statement).lstrip()


def _tables(
    collector: Collector, study: StudyResult, tested: Sequence[Verdict], prefix: str, ways: str
) -> None:
    """Every comparison, and the differences of arms that differ in nothing."""
    label = collector.look.label
    if tested:
        collector.table(
            f"{prefix}comparisons",
            "Every comparison of every hypothesis",
            compared := rules.comparison_table(tested),
            [
                *("hypothesis", "label", "estimate", "n", "unit", *beside_of(compared)),
                *("correlation", "verdict"),
                *("effect", "chance_above", "chance_within", "chance_below", "smallest_detectable"),
            ],
            note=f"{label}, estimates in points; {OVER}; correlation: of the two sides, within "
            "blocks or seeds; chances: the second reading, by the region of practical equivalence, "
            "above the margin, within it, or below it on the other side; detectable: the smallest "
            "effect that would have been seen with 80 % power.",
            interval=ways,
        )
    nothing = chance.null_table(study, collector.look.metric)
    if len(nothing):
        collector.table(
            f"{prefix}null-arms",
            "What arms that differ in nothing show",
            nothing,
            note=f"{label}; a diagnostic that decides nothing: arms reseeded, or with one bit "
            "changed. Arms equal in every run are left out.",
            interval="95 %, Welch's t",
        )
