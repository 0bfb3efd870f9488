"""Landscape: does opposition work through the optimisation landscape?

Opposed sets, unopposed ones that equal them in all else, opposed pairs and their members alone:
each run's curvature, and how its gradients agree, are measured after the last step. Hypotheses say
that opposition changes these mediators, and that its gain in accuracy goes through them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from aba_core.adjustments import PAIRS
from aba_core.arms import VANILLA, Arm
from analysis.exhibits import Collector, Exhibits, Look
from analysis.hypothesis import Contrast, Hypothesis, Mediated
from analysis.results import StudyResult
from analysis.rules import Verdict
from analysis.studies import hypotheses
from analysis.studies.hypotheses import pair_name
from analysis.studies.isolation import arm_name
from analysis.studies.matched import (
    MEMBERS,
    OPPOSED,
    OPPOSED_ARMS,
    PAIR_ARMS,
    UNOPPOSED,
    UNOPPOSED_ARMS,
    mean_weights,
)
from analysis.studies.sets import set_name
from analysis.study import Settings, Study
from analysis.study import on_fresh_subsets as fresh

# Seeds, and with them subsets, that no other study has; a trial had those from 600 on.
FIRST_SEED = 700
MEASURED = 1  # once, after the last step


@dataclass(frozen=True)
class Mediator:
    """What is measured. column: see `results.with_measured`. title: in a sentence. measure and
    margin: its unit, and the smallest difference that would matter."""

    column: str
    title: str
    measure: str
    margin: float


# {the word in a hypothesis' name: mediator}
MEDIATORS = {
    "curvature": Mediator(
        "end_log_eigenvalue_clean", "the curvature of the loss (largest Hessian eigenvalue)",
        "log %", 10.0,
    ),
    "cosine": Mediator(
        "end_cosine_epsilon_delta", "the cosine of Epsilon's and Delta's gradients", "of 1",
        0.05,
    ),
    "coherence": Mediator(
        "end_log_coherence_all", "the coherence of the gradients of single samples", "log %", 10.0
    ),
}  # fmt: skip
# {the word: (more, less, what differs, label)}
KINDS: dict[str, tuple[Sequence[str], Sequence[str], str, str]] = {
    "opposition": (
        OPPOSED_ARMS,
        UNOPPOSED_ARMS,
        "Opposed sets and unopposed ones that equal them in all else",
        "opposed − unopposed sets",
    ),
    "joining-opposites": (
        PAIR_ARMS,
        MEMBERS,
        "Adjustments joined with their opposites and the same adjustments alone",
        "13 pairs − their members",
    ),
}


def declare(settings: Settings) -> Study:
    """The arms of both kinds of opposition, measured after the last step."""
    seeds = range(FIRST_SEED, FIRST_SEED + settings.seeds["landscape"])
    return settings.study(
        "landscape",
        fresh(arms(settings.loss)),
        config={"mechanism": MEASURED, "probe_strength": settings.strength["isolation"]},
        hypotheses=declared(settings.planned["landscape"]),
        seeds=tuple(seeds),
        keep_correct=True,
        room="analysis.studies.landscape:exhibits",
    )


def arms(loss: Mapping[str, Any]) -> tuple[Arm, ...]:
    """Vanilla, the 26 alone, the 13 pairs, and the matched quadruples."""
    sets: dict[str, tuple[int, ...]] = {arm_name(i): (i,) for pair in PAIRS for i in pair}
    sets |= {pair_name(pair): pair for pair in PAIRS}
    sets |= {set_name(members): members for members in (*OPPOSED, *UNOPPOSED)}
    return (
        Arm.of(VANILLA, method="vanilla"),
        *(
            Arm.of(name, adjustments=",".join(map(str, members)), **loss)
            for name, members in sets.items()
        ),
    )


# --- what is claimed -----------------------------------------------------------------------------


def declared(n: int) -> tuple[Hypothesis, ...]:
    """Of each kind of opposition and each mediator: that the mediator changes, and that half a
    point of accuracy goes through it."""
    return tuple(
        Hypothesis(n=n, **said)
        for kind in KINDS
        for mediator in MEDIATORS
        for said in (_changes(kind, mediator), _works_by(kind, mediator))
    )


def _changes(kind: str, word: str) -> dict[str, Any]:
    more, less, what, label = KINDS[kind]
    mediator = MEDIATORS[word]
    return dict(
        name=f"{kind}-changes-{word}",
        statement=f"{what} differ in {mediator.title} after training.",
        estimand=f"mean of {mediator.column} of the ones less that of the others, within subsets",
        comparisons=(Contrast(label=label, weights=mean_weights(more, less)),),
        direction="different",
        quantity=mediator.column,
        measure=mediator.measure,
        margin=mediator.margin,
    )


def _works_by(kind: str, word: str) -> dict[str, Any]:
    more, less, _, label = KINDS[kind]
    mediator, weights = MEDIATORS[word], mean_weights(more, less)
    gain = {
        "opposition": "Opposed sets are better than matched unopposed ones",
        "joining-opposites": "Adjustments joined with their opposites are better than alone",
    }[kind]
    return dict(
        name=f"{kind}-works-by-{word}",
        statement=f"{gain}, and that goes through {mediator.title}.",
        estimand="the difference of mean accuracy within subsets, without which nothing is to be "
        f"mediated; and the part of it that goes through {mediator.column}, by its slope among "
        "runs of one arm",
        comparisons=(
            Contrast(label=label, weights=weights),
            Mediated(label=f"{label}, through {word}", weights=weights, through=mediator.column),
        ),
    )


# --- what is shown -------------------------------------------------------------------------------


def mediation_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a hypothesis on a mediated part: kind, mediator, total and mediated effect (points)
    with intervals, share of the total (%, NaN where no total is shown), n, verdict."""
    rows = []
    for verdict in verdicts:
        kind, _, word = verdict.hypothesis.name.partition("-works-by-")
        if not word or not len(verdict.table):
            continue
        row: dict[str, Any] = {"kind": KINDS[kind][3], "mediator": MEDIATORS[word].title}
        for name, (_, found) in zip(("total", "mediated"), verdict.table.iterrows(), strict=True):
            for end in ("", "_low", "_high"):
                row[f"{name}{end}"] = found[f"estimate{end}"]
        shown = row["total_low"] > 0 or row["total_high"] < 0
        row["share"] = 100 * row["mediated"] / row["total"] if shown else float("nan")
        rows.append({**row, "n": found["n"], "verdict": verdict.verdict})
    return pd.DataFrame(rows)


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    """The verdicts, and the table landscape-mediation."""
    verdicts = hypotheses.judge(study, look)
    shown = hypotheses.exhibits(study, look, verdicts)
    table = mediation_table(verdicts)
    if table.empty:
        return shown
    collector = Collector(study, look)
    collector.table(
        "landscape-mediation",
        "What of the gain by opposition goes through the landscape",
        table,
        note=f"{look.label}; total: the gain in points; mediated: the part that goes through what "
        "is measured, as far as the slope among runs of one arm tells; share: of the total, in %.",
        interval=f"{collector.level}, Student's t and bootstrap, both over subsets; each end at "
        "the level of what it decides",
        digits=2,
    )
    return Exhibits(shown.figures, {**shown.tables, **collector.exhibits.tables})
