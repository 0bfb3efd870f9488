"""Matched sets: what opposition does where nothing else differs, and where it acts.

Opposed sets hold each member's opposite, unopposed ones no member's. Both change no category on
average, have equal norms and sizes, the same groups, and every adjustment is a member of as many
opposed as unopposed sets: whatever is additive in the members is equal, exactly and by design.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from aba_core.adjustments import ADJUSTMENTS, OPPOSITES, PAIRS, group_set_text
from aba_core.arms import VANILLA, Arm
from analysis.exhibits import Collector, Exhibits, Look
from analysis.hypothesis import Contrast, Hypothesis, Slope
from analysis.results import StudyResult
from analysis.studies import hypotheses
from analysis.studies.hypotheses import pair_name
from analysis.studies.isolation import arm_name
from analysis.studies.sets import properties, set_name
from analysis.study import FRESH_SEED, Settings, Study
from analysis.study import on_fresh_subsets as fresh

Set = tuple[int, ...]

# The quadruples {a, b, c, d} with a + b + c + d = 0 and no opposites come in couples S, −S; one of
# each is named. Chosen with the opposed sets by an integer programme: equal numbers of memberships
# of every adjustment, of each norm and of each composition of groups; `balance_table` shows it.
_UNOPPOSED_HALF: tuple[Set, ...] = (
    *((1, 3, 12, 18), (1, 5, 8, 18), (3, 10, 16, 23), (3, 10, 17, 21), (5, 13, 16, 24)),
    *((5, 14, 15, 25), (7, 9, 12, 14), (7, 9, 22, 24), (11, 13, 20, 26), (11, 13, 22, 24)),
    *((15, 17, 22, 25), (19, 22, 24, 25)),
)
OPPOSED: tuple[Set, ...] = (
    *((1, 2, 16, 17), (1, 2, 22, 23), (3, 4, 7, 10), (3, 4, 11, 14), (3, 4, 20, 25)),
    *((5, 6, 11, 14), (5, 6, 19, 26), (5, 6, 20, 25), (7, 10, 12, 13), (7, 10, 16, 17)),
    *((7, 10, 21, 24), (8, 9, 15, 18), (8, 9, 20, 25), (8, 9, 21, 24), (11, 14, 15, 18)),
    *((11, 14, 22, 23), (12, 13, 15, 18), (12, 13, 16, 17), (12, 13, 20, 25), (12, 13, 21, 24)),
    *((15, 18, 21, 24), (16, 17, 22, 23), (19, 22, 23, 26), (21, 22, 23, 24)),
)


def _opposite(members: Iterable[int]) -> Set:
    return tuple(sorted(OPPOSITES[i] for i in members))


UNOPPOSED: tuple[Set, ...] = tuple(
    sorted({*_UNOPPOSED_HALF, *(_opposite(members) for members in _UNOPPOSED_HALF)})
)
# All pairs without opposites whose mean direction and offset are 0. Only low and high together
# are changed on average: pairs are not matched as strictly as quadruples.
UNOPPOSED_PAIRS: tuple[Set, ...] = (
    *((1, 20), (1, 26), (2, 19), (2, 25), (3, 5), (4, 6)),
    *((7, 12), (8, 11), (9, 14), (10, 13), (19, 20), (25, 26)),
)
# What keeps one member of a set, as `Augmentation.member_per` has it, and its name in arms.
WAYS = {
    "sample": "each sample keeps its member",
    "turn": "batches take turns",
    "batch": "one member a batch",
    "progress": "one member after the other",
}
JOINED = ("Eps. & Del.", "All")


def declare(settings: Settings) -> Study:
    """Matched sets, their members alone, signed adjustments, and the ways of drawing members."""
    seeds = range(FRESH_SEED, FRESH_SEED + settings.seeds["matched"])
    return settings.study(
        "matched",
        fresh(arms(settings.loss)),
        hypotheses=declared(settings.planned["matched"]),
        seeds=tuple(seeds),
        room="analysis.studies.matched:exhibits",
    )


# --- arms ----------------------------------------------------------------------------------------


def signed_name(pair: Set) -> str:
    return f"{arm_name(pair[0])}, signed"


def way_name(name: str, way: str) -> str:
    return f"{name}, {WAYS[way]}"


def arms(loss: Mapping[str, Any]) -> tuple[Arm, ...]:
    """Every arm, all with one strength and target."""

    def of(name: str, members: Iterable[int], **further: Any) -> Arm:
        return Arm.of(name, adjustments=",".join(map(str, members)), **loss, **further)

    return (
        Arm.of(VANILLA, method="vanilla"),
        *(of(arm_name(i), (i,)) for i in range(1, 27)),
        *(of(pair_name(pair), pair) for pair in PAIRS),
        *(of(set_name(members), members) for members in (*UNOPPOSED_PAIRS, *OPPOSED, *UNOPPOSED)),
        *(of(signed_name(pair), pair[:1], signed=True) for pair in PAIRS),
        *(of(way_name(pair_name(p), way), p, member_per=way) for way in WAYS for p in PAIRS),
        *(Arm.of(name, adjustments=group_set_text(name), **loss) for name in JOINED),
        *(
            Arm.of(way_name(name, way), adjustments=group_set_text(name), member_per=way, **loss)
            for name in JOINED
            for way in WAYS
        ),
    )


# --- what is claimed -----------------------------------------------------------------------------


def _mean(names: Sequence[str], share: float = 1.0) -> dict[str, float]:
    """Weights of a mean; a name given twice has twice the weight."""
    return {name: share * times / len(names) for name, times in Counter(names).items()}


def mean_weights(more: Sequence[str], less: Sequence[str]) -> dict[str, float]:
    """Weights of the mean of some arms less that of others."""
    return _mean(more) | _mean(less, -1.0)


def _difference(label: str, more: Sequence[str], less: Sequence[str], **further: Any) -> Contrast:
    return Contrast(label=label, weights=mean_weights(more, less), **further)


PAIR_ARMS = [pair_name(pair) for pair in PAIRS]
MEMBERS = [arm_name(i) for pair in PAIRS for i in pair]
OPPOSED_ARMS = [set_name(members) for members in OPPOSED]
UNOPPOSED_ARMS = [set_name(members) for members in UNOPPOSED]
# Opposed pairs, each as often as its members occur in the unopposed ones.
PAIRS_ALIKE = [
    pair_name(pair)
    for pair in PAIRS
    for _ in range(sum(pair[0] in members for members in UNOPPOSED_PAIRS))
]


def by_way(way: str) -> list[str]:
    return [way_name(name, way) for name in PAIR_ARMS]


def declared(n: int) -> tuple[Hypothesis, ...]:
    """What the matched sets are to decide, on n subsets."""
    parts = (_of_matched_sets, _of_signs, _of_ways)
    return tuple(Hypothesis(n=n, **said) for part in parts for said in part())


def _of_matched_sets() -> list[dict[str, Any]]:
    pairs = "opposed − unopposed sets"
    covariates = {
        set_name(members): {name: properties(members)[name] for name in ("opposition", "norm")}
        for members in (*OPPOSED, *UNOPPOSED)
    }
    return [
        dict(
            name="matched-tension",
            statement="Opposed sets beat unopposed ones that equal them in size, norm, mean "
            "change, groups and members.",
            estimand="mean accuracy of 24 opposed quadruples less that of 24 matched unopposed "
            "ones, within training subsets; for these sets",
            comparisons=(_difference(pairs, OPPOSED_ARMS, UNOPPOSED_ARMS),),
        ),
        dict(
            name="matched-tension-of-sets",
            statement="Opposed sets beat matched unopposed ones, for other sets of their kind too.",
            estimand="the same difference with the set as the unit",
            comparisons=(_difference(pairs, OPPOSED_ARMS, UNOPPOSED_ARMS, unit="adjustment"),),
        ),
        dict(
            name="matched-tension-at-fixed-norm",
            statement="Opposed sets beat matched unopposed ones at fixed norm and its square.",
            estimand="points from no member to every member having its opposite in the set, norm "
            "and its square held; the set is the unit",
            comparisons=(
                Slope(
                    label="full opposition",
                    term="opposition",
                    covariates=covariates,
                    squares=("norm",),
                ),
            ),
        ),
        dict(
            name="matched-pairs",
            statement="Pairs of opposites beat other pairs of the same members, norm and mean "
            "direction and offset.",
            estimand="mean accuracy of the opposed pairs, each as often as its members occur in "
            "the 12 unopposed ones, less that of these, within training subsets",
            comparisons=(
                _difference(
                    "opposed − unopposed pairs",
                    PAIRS_ALIKE,
                    [set_name(members) for members in UNOPPOSED_PAIRS],
                ),
            ),
        ),
    ]


def _of_signs() -> list[dict[str, Any]]:
    signed = [signed_name(pair) for pair in PAIRS]
    return [
        dict(
            name="tension-of-signs",
            statement="An adjustment with a signed random magnitude beats it with an unsigned one: "
            "tension needs no second member.",
            estimand="mean over 13 adjustments of the accuracy with N(0, 1) less the mean of the "
            "adjustment and its opposite with |N(0, 1)|",
            comparisons=(_difference("signed − unsigned", signed, MEMBERS),),
        ),
        dict(
            name="signs-are-pairs",
            statement="A signed adjustment is worth as much as the pair of it and its opposite, "
            "which has the same distribution of changes.",
            estimand="mean over 13 adjustments of the accuracy with N(0, 1) less that of the pair",
            comparisons=(_difference("signed − pair", signed, PAIR_ARMS),),
            direction="equivalent",
        ),
    ]


def _of_ways() -> list[dict[str, Any]]:
    def hypothesis(name: str, statement: str, estimand: str, more: str, less: str) -> dict:
        """more, less: ways; "" for a draw of each sample's own."""

        def arm(of: str, way: str) -> str:
            return way_name(of, way) if way else of

        pairs = [[arm(name, way) for name in PAIR_ARMS] for way in (more, less)]
        titles = [WAYS.get(way, "each draw its own") for way in (more, less)]
        label = " − ".join(titles)
        comparisons = [_difference(f"13 pairs: {label}", *pairs)]
        comparisons += [
            _difference(f"{of}: {label}", [arm(of, more)], [arm(of, less)]) for of in JOINED
        ]
        return dict(
            name=name,
            statement=statement,
            estimand=f"mean accuracy where {estimand}; of the 13 opposed pairs and of joined sets",
            comparisons=tuple(comparisons),
        )

    return [
        hypothesis(
            "tension-within-samples",
            "Members act on one another within each sample.",
            "each draw has a member of its own less where each sample keeps its member",
            "",
            "sample",
        ),
        hypothesis(
            "tension-within-batches",
            "Members act on one another within each batch.",
            "each draw has a member of its own less where each batch has one, drawn",
            "",
            "batch",
        ),
        hypothesis(
            "tension-between-batches",
            "Members act on one another from batch to batch.",
            "batches take turns less where members follow one another through the training",
            "turn",
            "progress",
        ),
        hypothesis(
            "tension-across-halves",
            "Members that share a training beat members that have a half of it each.",
            "each draw has a member of its own less where members follow one another",
            "",
            "progress",
        ),
        dict(
            name="tension-of-halves",
            statement="A half of the training for each of two opposites beats either of them "
            "throughout.",
            estimand="mean over 13 pairs of the accuracy with one member after the other less the "
            "mean of the two alone",
            comparisons=(_difference("one after the other − alone", by_way("progress"), MEMBERS),),
        ),
    ]


# --- what is shown -------------------------------------------------------------------------------


def balance_table(runs: pd.DataFrame | None = None, metric: str = "validation_accuracy"):
    """What opposed and unopposed quadruples have in common: one row a property.

    Columns: property, opposed, unopposed, difference (means over the sets). runs: where given, the
    last row is the mean accuracy of the sets' members, each alone.
    """
    means = (
        {}
        if runs is None
        else runs[runs["status"] == "finished"].groupby("arm")[metric].mean().to_dict()
    )

    def described(members: Set) -> dict[str, float]:
        changes = np.array([tuple(ADJUSTMENTS[i]) for i in members], dtype=np.float64)
        groups = Counter(str(ADJUSTMENTS[i].group) for i in members)
        row = {
            "members": float(len(members)),
            "members with their opposite": 4 * properties(members)["opposition"],
            "mean change, low": changes[:, 0].mean(),
            "mean change, middle": changes[:, 1].mean(),
            "mean change, high": changes[:, 2].mean(),
            "norm": properties(members)["norm"],
            "changes that are not 0": float((changes != 0).sum()),
            **{f"members of {group}": float(groups[group]) for group in hypotheses.GROUPS},
        }
        if means:
            row["members' mean accuracy"] = float(
                np.mean([means.get(arm_name(i), np.nan) for i in members])
            )
        return row

    opposed, unopposed = (
        pd.DataFrame([described(members) for members in sets]).mean()
        for sets in (OPPOSED, UNOPPOSED)
    )
    table = pd.DataFrame({"opposed": opposed, "unopposed": unopposed})
    table["difference"] = (opposed - unopposed).round(12)
    return table.rename_axis("property").reset_index()


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    """The verdicts, and the table matched-balance."""
    shown = hypotheses.exhibits(study, look, hypotheses.judge(study, look))
    collector = Collector(study, look)
    collector.table(
        "matched-balance",
        "What opposed and unopposed sets have in common",
        balance_table(study.frame, look.metric),
        note="Means over 24 sets each; every adjustment is a member of as many of both kinds.",
        digits=2,
    )
    return Exhibits(
        {**shown.figures, **collector.exhibits.figures},
        {**shown.tables, **collector.exhibits.tables},
    )
