"""Adding subsets until every verdict is reached: as many at a time as was declared, and judged at
each look with the level that was declared for it (`sequential`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from analysis import results as store
from analysis.results import StudyResult
from analysis.rules import Verdict
from analysis.study import Study, StudyError
from analysis.wording import effect_text

LOOKS = 5  # times that verdicts are asked for, where a study does not say how often

NOT_TESTED = "not tested"

Run = Callable[[Study], StudyResult]
Judge = Callable[[StudyResult, int], Sequence[Verdict]]


@dataclass(frozen=True)
class Look:
    """What a look found: its number, how many there may be, the runs' seeds, the verdicts."""

    number: int
    looks: int
    seeds: int
    result: StudyResult
    verdicts: Sequence[Verdict]

    @property
    def open(self) -> list[str]:
        """Hypotheses that no verdict is reached on yet, also for want of subsets."""
        return [
            v.hypothesis.name
            for v in self.verdicts
            if v.verdict == "inconclusive" or (v.verdict == NOT_TESTED and not _lacks_study(v))
        ]

    def __str__(self) -> str:
        count = f"look {self.number} of {self.looks}, {self.seeds} subsets: "
        if not self.open:
            lacking = sum(v.verdict == NOT_TESTED for v in self.verdicts)
            return count + "every verdict is reached" + f", {lacking} not tested" * bool(lacking)
        return count + f"{len(self.open)} of {len(self.verdicts)} verdicts open ({self._names})"

    @property
    def _names(self) -> str:
        return ", ".join(self.open[:4]) + ", ..." * (len(self.open) > 4)


def _lacks_study(verdict: Verdict) -> bool:
    """Whether it waits for another study (of frozen models), not for subsets."""
    return any(getattr(c, "unit", "") == "measured" for c in verdict.hypothesis.comparisons)


def with_looks(study: Study, most: int) -> Study:
    """The study, its hypotheses declared for at most so many subsets, and judged as many times as
    they say, or `LOOKS`.

    Raises StudyError for a study without
    hypotheses, one whose runs share training subsets, and fewer subsets than two at a look.
    """
    if not study.hypotheses:
        raise StudyError(f"study {study.name!r} declares no hypotheses: nothing is to be decided")
    shared = [a.name for a in study.arms if not a.subset_per_run or a.seeds_per_subset > 1]
    if shared:
        raise StudyError(
            f"arm {shared[0]!r} has no fresh training subset for each seed; needed to add subsets: "
            "fresh_subsets: 1"
        )
    looks = max(one.looks for one in study.hypotheses) or LOOKS
    if most < 2 * looks:
        raise StudyError(
            f"--max-seeds {most} for {looks} looks; allowed: whole numbers from {2 * looks}"
        )
    declared = tuple(one.model_copy(update={"n": most, "looks": looks}) for one in study.hypotheses)
    return study.model_copy(update={"hypotheses": declared})


def until_decided(study: Study, most: int, run: Run, judge: Judge) -> Iterator[Look]:
    """Run and judge, look by look, until no verdict is open or `most` subsets are there.

    Each look's seeds are declared before they run, and every addition is an event of its own.
    """
    declared = with_looks(study, most)
    looks = declared.hypotheses[0].looks
    first = min(declared.seeds)
    for number in range(1, looks + 1):
        seeds = -(-most * number // looks)
        result = run(declared.model_copy(update={"seeds": tuple(range(first, first + seeds))}))
        look = Look(number, looks, seeds, result, judge(result, number))
        yield look
        if result.missing or not look.open:
            return


def _in_short(verdict: Verdict) -> str:
    """What a look found of a hypothesis: its verdict, and the comparison that decided it."""
    name, found = verdict.hypothesis.name, verdict.verdict
    if not len(verdict.table):
        return f"{name}: {found}, {verdict.sentence.partition('Not tested: ')[2]}"
    row = verdict.decisive
    ends = row["estimate"], row["estimate_low"], row["estimate_high"]
    return f"{name}: {found}, {row['label']} {effect_text(*ends, verdict.hypothesis.measure)}"


def add(
    study: Study,
    results: Path,
    until: str | None,
    most: int | None,
    *,
    say: Callable[[str], object] = print,
    **options: Any,
) -> bool:
    """`until_decided` in a results folder, saying what each look found; whether all runs are there.

    until: "decided". options: of `runner.run`. Raises StudyError for what cannot be meant.
    """
    from analysis import exhibits, runner
    from analysis.studies import hypotheses

    if until is None:
        raise StudyError(
            f"--max-seeds {most} needs --until decided; for so many runs: --seeds {most}"
        )
    if until != "decided":
        raise StudyError(f"--until {until}; allowed: decided, together with --max-seeds")
    if most is None:
        raise StudyError("--until decided needs --max-seeds: how many subsets there may be at most")

    def run(part: Study) -> StudyResult:
        result = runner.run(part, results, **options).result
        # A folder may have later seeds already: a look is at its own.
        now = result.frame["seed"].isin(part.seeds)
        return replace(result, frame=result.frame[now])

    def judge(result: StudyResult, number: int) -> Sequence[Verdict]:
        load = partial(store.load, results, dataset=study.dataset)
        try:
            frozen = load("frozen")
        except store.ResultsError:
            frozen = None
        return hypotheses.judge(result, exhibits.Look(), frozen, number)

    look = None
    for look in until_decided(study, most, run, judge):
        say(str(look))
        for verdict in look.verdicts:
            say(f"  {_in_short(verdict)}")
    assert look is not None
    for verdict in look.verdicts:
        say(f"{verdict.sentence} {verdict.declared[:1].upper()}{verdict.declared[1:]}.")
    say(look.result.summary())
    return not look.result.missing
