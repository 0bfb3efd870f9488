"""The ledger of published claims: what the results of a folder say of each, on each data set.

    data/reference/claims.csv (what was claimed) + claims.yaml (what decides it) + results → ledger

A claim is decided by hypotheses, found by name in whatever study declares them. Each is judged on
validation, by which it was planned, and again on test. A claim that results do not decide says why
and which command would; one that is exact arithmetic names the tests that show it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis import (
    across,
    comparisons,
    figures,
    rooms,
    rules,
    scopes,
    statistics,
    wording,
)
from analysis import results as store
from analysis.comparisons import ComparisonError
from analysis.exhibits import Exhibit, Look
from analysis.hypothesis import Hypothesis
from analysis.reference import REFERENCE
from analysis.reports.pages import shortened
from analysis.results import ResultsError, StudyResult
from analysis.rules import Verdict
from analysis.studies import hypotheses
from analysis.studies.isolation import arm_name

OPEN, EXACT = "not tested", "exact"
NOT = "not "  # before a hypothesis that the claim denies
METRICS = ("validation_accuracy", "test_accuracy")
FROZEN = "aba run frozen --dataset DATASET --preset standard"  # by which groups are measured
RANKS_ALIKE = 0.3  # a rank correlation below this is of no use


# {hypothesis: (study, verdict by the look's metric, verdict on test)}
Judged = Mapping[str, Sequence[tuple[str, Verdict, Verdict | None]]]


@dataclass(frozen=True)
class Claim:
    """One published claim and what decides it here.

    hypotheses: names of declared hypotheses, "not NAME" where the claim denies one. run: the
    command that makes their results. only: the data sets that it is about, all where it names none.
    ranks_of: the study whose 27 adjustments, alone, are to rank
    alike on every two data sets. exact: tests, as "tests/test_x.py::test_y", where it holds by
    arithmetic. untested: why nothing here decides it.
    """

    id: str
    section: str
    text: str
    note: str
    hypotheses: tuple[str, ...] = ()
    run: str = ""
    ranks_of: str = ""
    only: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    untested: str = ""


@lru_cache(maxsize=1)
def claims() -> tuple[Claim, ...]:
    """The published claims in their order. Source: the slides, by data/reference/claims.csv."""
    published = pd.read_csv(REFERENCE / "claims.csv", keep_default_na=False)
    text = resources.files("analysis").joinpath("claims.yaml").read_text(encoding="utf-8")
    decided: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return tuple(
        Claim(
            row["id"],
            row["slides_section"],
            row["claim"],
            row["note"],
            tuple(decided[row["id"]].get("hypotheses", ())),
            decided[row["id"]].get("run", ""),
            decided[row["id"]].get("ranks_of", ""),
            tuple(decided[row["id"]].get("only", ())),
            tuple(decided[row["id"]].get("exact", ())),
            decided[row["id"]].get("untested", ""),
        )
        for row in published.to_dict("records")
    )


def judged(
    results: Path | str, dataset: str, look: Look, studies: Sequence[str] = ()
) -> dict[str, list[tuple[str, Verdict, Verdict | None]]]:
    """{hypothesis: (study, verdict by the look's metric, verdict on test)} on one data set.

    studies: those on it that declare hypotheses, where they are known already.

    A hypothesis that several studies declare has one entry for each, the latest declared first.
    """
    from analysis.studies import frozen

    try:
        groups = frozen.measured_groups(store.load(results, "frozen", dataset))
    except ResultsError:
        groups = None
    entries: dict[str, list[tuple[str, Verdict, Verdict | None]]] = {}
    names = rooms.studies_by_dataset(results).get(dataset, [])
    for name in studies or _declaring(results, {dataset: names})[dataset]:
        study = store.load(results, name, dataset)
        if not study.declaration.study.hypotheses or study.frame.empty:
            continue
        frozen_models = bool(study.declaration.study.frozen)  # evaluated on validation samples only
        metrics = [METRICS[0]] if frozen_models else dict.fromkeys((look.metric, METRICS[1]))
        by_metric = {
            metric: rules.test_all(
                _on_test(study) if metric == METRICS[1] else study,
                look.rng(),
                metric=metric,
                confidence=look.confidence,
                measured=groups,
                second_reading=False,
            )
            for metric in metrics
            if frozen_models or _has(study, metric)
        }
        main = by_metric.get(METRICS[0] if frozen_models else look.metric, [])
        on_test = by_metric.get(METRICS[1], [None] * len(main))
        for verdict, tested in zip(main, on_test, strict=True):
            if verdict.hypothesis.quantity and not _of_split(verdict.hypothesis):
                tested = None  # it is about neither
            entries.setdefault(verdict.hypothesis.name, []).append((name, verdict, tested))
    return entries


def _declaring(results: Path | str, present: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Those of {data set: studies} with hypotheses: the others, half of all, need not be read."""
    declared = [one.study for one in store.declarations(Path(results))]
    declaring = {(study.dataset, study.name) for study in declared if study.hypotheses}
    return {
        dataset: [name for name in names if (dataset, name) in declaring]
        for dataset, names in present.items()
    }


VALIDATION, TEST = "validation_", "test_"


def _of_split(hypothesis: Hypothesis) -> bool:
    """Whether it names a quantity of validation, which is measured on test as well."""
    return hypothesis.quantity.startswith(VALIDATION)


def _has(study: StudyResult, metric: str) -> bool:
    """Whether the runs have the metric, or the hypotheses name what they are about themselves."""
    frame = study.frame
    named = all(map(_of_split, study.declaration.study.hypotheses))
    return named or (metric in frame and bool(frame[metric].notna().any()))


def _on_test(study: StudyResult) -> StudyResult:
    """The same study with hypotheses that name a quantity of validation asked of test."""
    declared = study.declaration.study
    asked = tuple(
        one.model_copy(update={"quantity": TEST + one.quantity.removeprefix(VALIDATION)})
        if _of_split(one)
        else one
        for one in declared.hypotheses
    )
    on_test = replace(study.declaration, study=declared.model_copy(update={"hypotheses": asked}))
    return replace(study, declaration=on_test)


def ledger(
    results: Path | str,
    datasets: Sequence[str] = (),
    look: Look | None = None,
    verdicts: Mapping[str, Judged] | None = None,
) -> pd.DataFrame:
    """One row for each claim, data set and hypothesis that decides it. verdicts: from `judged`, by
    data set, where they are known already.

    Columns: claim, section, text; dataset ("" for what no data decide); hypothesis, study; verdict,
    "not tested" or "exact"; comparison, estimate (in its measure) with interval, n, scope, over
    (what the interval is over), seeds and images (ends of those over less and more);
    test_verdict, test_estimate with interval; declared; figure: of the deciding comparison and its
    siblings, as `aba figures STUDY` names its files; reason: why it is not tested and with which
    command it would be, or the tests of what is exact. Raises ResultsError for a data set without
    results.
    """
    look = look or Look()
    present = rooms.studies_by_dataset(results)
    for name in datasets:
        if name not in present:
            known = ", ".join(present) or "none"
            raise ResultsError(f"no studies on {name} in {results}; there: {known}")
    if verdicts is None:
        declaring = _declaring(results, present)
        verdicts = {
            name: judged(results, name, look, declaring[name]) if declaring[name] else {}
            for name in datasets or present
        }
    rows: list[dict[str, Any]] = []
    for claim in claims():
        of_claim = {"claim": claim.id, "section": claim.section, "text": claim.text}
        found = [
            {**of_claim, **_row(claim, dataset, study, verdict, tested, NOT in name)}
            for dataset in wording.in_order(verdicts)
            if dataset in (claim.only or verdicts)
            for name in claim.hypotheses
            for study, verdict, tested in verdicts[dataset].get(name.removeprefix(NOT), [])
        ]
        if claim.ranks_of:
            found = [{**of_claim, **row} for row in _ranks(claim, results, list(verdicts), look)]
        rows += found or [{**of_claim, "dataset": "", **_open(claim)}]
    return pd.DataFrame(rows)


def _row(
    claim: Claim, dataset: str, study: str, verdict: Verdict, tested: Verdict | None, denied: bool
) -> dict[str, Any]:
    """denied: the claim is that the hypothesis is false."""
    turned = {"supported": "refuted", "refuted": "supported"} if denied else {}
    row: dict[str, Any] = {
        "dataset": dataset,
        "hypothesis": verdict.hypothesis.name,
        "statement": verdict.hypothesis.statement,
        "study": study,
        "verdict": turned.get(verdict.verdict, verdict.verdict),
        "margin": verdict.hypothesis.margin,
        "measure": verdict.hypothesis.measure,
        "declared": verdict.declared,
        "reason": "",
    }
    if verdict.verdict == OPEN:
        why = verdict.sentence.partition("Not tested: ")[2]
        makes = FROZEN if "frozen study" in why else claim.run
        return {**row, "reason": f"{why} Run: {makes.replace('DATASET', dataset)}."}
    row["figure"] = f"{hypotheses.prefix_of(study)}verdict-{verdict.hypothesis.name}-{dataset}"
    for prefix, one in (("", verdict), ("test_", tested)):
        if one is None or one.verdict == OPEN:
            continue
        row[f"{prefix}verdict"] = turned.get(one.verdict, one.verdict)
        for end in ("", "_low", "_high"):
            row[f"{prefix}estimate{end}"] = one.decisive[f"estimate{end}"]
    for name, column in (("comparison", "label"), ("n", "n"), ("scope", "scope"), ("over", "over")):
        row[name] = verdict.decisive.get(column, "")
    for name in ("seeds_low", "seeds_high", "images_low", "images_high"):
        row[name] = verdict.decisive.get(name, np.nan)
    return row


def _ranks(
    claim: Claim, results: Path | str, datasets: Sequence[str], look: Look
) -> list[dict[str, Any]]:
    """A row for every two data sets, at the later one, whether the adjustments rank alike."""
    blocks: dict[str, dict[str, Any]] = {}
    stated: dict[str, str] = {}
    for name in datasets:
        try:
            study = store.load(results, claim.ranks_of, name)
        except ResultsError:
            continue
        stated[name] = rules.declared_when(study)
        for metric in METRICS:
            grid = comparisons.grid_of(study.frame, metric)
            with suppress(ComparisonError):
                values = grid.by_subset[:, grid.columns([arm_name(i) for i in range(27)])]
                blocks.setdefault(name, {})[metric] = values[np.isfinite(values).all(axis=1)]
    rows = []
    for one, other in combinations(blocks, 2):
        row: dict[str, Any] = {
            "dataset": other,
            "hypothesis": "ranks-carry-over",
            "statement": "The ranking of the 27 adjustments, alone, carries over to other data.",
            "study": claim.ranks_of,
            "comparison": f"rank correlation with {one}",
            "margin": RANKS_ALIKE,
            "measure": "(of 1)",
            "scope": comparisons.SUBSETS_AND_SEEDS,
            "over": ", ".join(scopes.sources_of("subset", comparisons.SUBSETS_AND_SEEDS)),
            "declared": stated[other],
            "reason": "",
        }
        for prefix, metric in (("", METRICS[0]), ("test_", METRICS[1])):
            if metric not in blocks[one] or metric not in blocks[other]:
                continue
            pair = blocks[one][metric], blocks[other][metric]
            found = across.rank_agreement(*pair, look.confidence)
            row[f"{prefix}verdict"] = statistics.decide(found, RANKS_ALIKE, "greater")
            ends = (found.estimate, found.low, found.high)
            for end, value in zip(("", "_low", "_high"), ends, strict=True):
                row[f"{prefix}estimate{end}"] = value
            row["n"] = found.n
        rows.append(row)
    return rows


def _open(claim: Claim) -> dict[str, Any]:
    if claim.exact:
        return {"verdict": EXACT, "reason": f"Shown by {' and '.join(claim.exact)}."}
    reason = claim.untested or "No results here."
    return {"verdict": OPEN, "reason": f"{reason} Run: {claim.run}." if claim.run else reason}


# --- shown ---------------------------------------------------------------------------------------

LOOKS = {
    "supported": (figures.VERDICT_COLOURS["supported"], "o"),
    "refuted": (figures.VERDICT_COLOURS["refuted"], "X"),
    "inconclusive": (figures.VERDICT_COLOURS["inconclusive"], "D"),
    EXACT: ("#000000", "*"),
}
UNTESTED = ("0.7", "_")


def decided(table: pd.DataFrame) -> int:
    """How many claims have a verdict. 0 without results, though some claims need none."""
    with_verdict = table.loc[~table["verdict"].isin([OPEN]), ["claim", "verdict"]]
    return with_verdict["claim"].nunique() if (with_verdict["verdict"] != EXACT).any() else 0


def sentences(table: pd.DataFrame) -> list[str]:
    """How many claims are decided, and how they fall on each data set."""
    every = table["claim"].nunique()
    lines = [f"{decided(table)} of {every} published claims have a verdict here."]
    with_data = table[table["dataset"] != ""]
    by_dataset = {str(name): rows for name, rows in with_data.groupby("dataset")}
    for dataset in wording.in_order(by_dataset):
        rows = by_dataset[dataset]
        counts = rows["verdict"].value_counts()
        parts = [f"{counts[name]} {name}" for name in LOOKS if name in counts]
        harms = int(((rows["verdict"] == "refuted") & (rows["estimate_high"] < 0)).sum())
        if harms:
            at = parts.index(f"{counts['refuted']} refuted")
            parts[at] += f" ({harms} surely the other way)"
        number = int(sum(counts[name] for name in LOOKS if name in counts))
        said = f"{number} verdict{'s' * (number > 1)}"
        lines.append(f"{wording.data_title(dataset)}, {said}: {', '.join(parts)}.")
    return lines


def ledger_plot(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Claims down, data sets across: the verdict on each deciding hypothesis, one mark each.

    table: from `ledger`. Above: validation; below it, smaller: test. A dash: not tested. A data set
    is as wide as the most marks that one claim has on it.
    """
    names = list(dict.fromkeys(table["claim"]))
    datasets = wording.in_order(name for name in table["dataset"].unique() if name)
    ax = figures.given_or_new(ax, figures.TWO_COLUMNS, ledger_height(table))
    text, width, marker = figures.sizes(ax)
    most = table.groupby(["dataset", "claim"]).size().groupby("dataset").max()
    columns, end = {}, 0.0
    for name in datasets:
        marks_across = max(int(most[name]), 2)
        columns[name] = end + marks_across / 2
        end += marks_across + 1.5
    marks: dict[tuple[str, str, float], list[tuple[float, float]]] = {}
    for y, claim in enumerate(reversed(names)):
        rows = table[table["claim"] == claim]
        ax.axhline(y, color="0.92", lw=0.5 * width, zorder=-2)
        for dataset, x in columns.items():
            shown = rows[rows["dataset"] == dataset]
            if shown.empty:
                exact = (rows["verdict"] == EXACT).all()
                look = LOOKS[EXACT] if exact else UNTESTED
                marks.setdefault((*look, 0.8), []).append((x, y))
            for step, (_, row) in enumerate(shown.iterrows()):
                at = x + step - (len(shown) - 1) / 2
                for kind, size, down in (("verdict", 0.8, 0.12), ("test_verdict", 0.5, -0.25)):
                    look = LOOKS.get(str(row.get(kind)), UNTESTED)
                    marks.setdefault((*look, size), []).append((at, y + down))
    for (colour, symbol, size), places in marks.items():  # one artist a look, not one a mark
        mark: dict[str, Any] = {"color": colour, "ms": size * marker, "mew": 0.6 * width}
        ax.plot(*zip(*places, strict=True), symbol, ls="none", **mark)
    labels = dict(zip(table["claim"], table["text"], strict=True))
    across = 0.62 * figures.panel_size(ax)[0]
    size = 0.75 * text
    lines = [figures.wrapped(f"{name} {labels[name]}", across, size, 2) for name in names]
    ax.set_yticks(range(len(names) - 1, -1, -1), lines)
    ax.tick_params(axis="both", length=0)
    ax.tick_params(axis="y", labelsize=size)
    slanted: dict[str, Any] = {"rotation": 35, "ha": "left", "rotation_mode": "anchor"}
    titles = [wording.data_title(name) for name in columns]
    short = [title.partition(",")[0] for title in titles]
    titles = short if len(set(short)) == len(short) else titles
    ax.set_xticks(list(columns.values()), titles, size=size, **slanted)
    ax.xaxis.tick_top()
    ax.set_xlim(-0.75, max(end - 0.75, 0.75))
    ax.set_ylim(-0.7, len(names) - 0.3)
    for side in ax.spines.values():
        side.set_visible(False)
    handles: list[Any] = [
        Line2D([], [], ls="", color=colour, marker=symbol, ms=0.8 * marker, label=verdict)
        for verdict, (colour, symbol) in LOOKS.items()
    ]
    colour, symbol = UNTESTED
    handles.append(Line2D([], [], ls="", color=colour, marker=symbol, ms=marker, label=OPEN))
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.3, -0.005), ncols=5)
    return ax


def ledger_height(table: pd.DataFrame) -> float:
    """Height in mm at which `ledger_plot` can name every claim."""
    return 26.0 + 4.7 * table["claim"].nunique()


def shown(table: pd.DataFrame, look: Look) -> tuple[Exhibit, Exhibit, Exhibit]:
    """The ledger as a figure, the table of what is decided, and that of what is not."""
    level = f"{100 * look.confidence:g} %"
    facts = {"dataset": "all", "interval": level}
    note = (
        f"{look.label}; below each mark, smaller, the verdict on test. One mark for each "
        "hypothesis that decides the claim; a dash: not tested."
    )

    def draw(width: str) -> Any:
        axes = figures.sized_axes(width, ledger_height(table))
        return figures.figure_of(ledger_plot(table, axes))

    title = "The published claims and what the results say of them"
    words = (
        f"{look.label}, estimates with {level} intervals; test beside validation. Interval over: "
        "what was drawn anew for each unit; then the intervals over seeds alone and over "
        "evaluation images too, where they are known."
    )
    rest = "Claims that no results decide yet"
    why = "Why, and the command that would decide them."
    return (
        Exhibit("claims", title, table, f"{title}. {note}", facts, note, draw, "double"),
        Exhibit(
            "claims",
            title,
            printable(table).rename(columns={"effect": "Effect", "n": "Units"}),
            f"{title}. {words}",
            facts,
            words,
        ),
        Exhibit("claims-open", rest, undecided(table), f"{rest}. {why}", facts, why),
    )


def printable(table: pd.DataFrame) -> pd.DataFrame:
    """What is decided, as text: claim, data set, comparison, verdict, effect, n, interval over (in
    brackets what the interval is over images too, or over seeds alone, where known), test in the
    effect's unit. Comparisons of one name have that of their study beside it."""
    shown = table[~table["verdict"].isin([OPEN])]
    if "comparison" in shown:
        alike = shown.duplicated(["claim", "dataset", "comparison"], keep=False)
        named = shown["comparison"] + " (" + shown["study"] + ")"
        shown = shown.assign(comparison=shown["comparison"].mask(alike, named))
    rows = []
    for row in shown.to_dict("records"):
        exact = row["verdict"] == EXACT
        tested = row.get("test_verdict")
        rows.append(
            {
                "claim": f"{row['claim']} {row['text']}",
                "data set": "any" if exact else wording.data_title(row["dataset"]),
                "comparison": row["reason"] if exact else row["comparison"],
                "verdict": row["verdict"],
                "effect": _effect(row, ""),
                "n": "" if exact else f"{int(row['n'])}",
                "interval over": "" if exact else wording.over_text(row),
                "test": f"{tested} {_effect(row, 'test_', unit=False)}"
                if isinstance(tested, str)
                else "",
            }
        )
    return pd.DataFrame(
        rows,
        columns=[
            *("claim", "data set", "comparison", "verdict", "effect", "n", "interval over", "test"),
        ],
    )


def _effect(row: Mapping[Any, Any], prefix: str, unit: bool = True) -> str:
    estimate, low, high = (row.get(f"{prefix}estimate{e}", np.nan) for e in ("", "_low", "_high"))
    if not np.isfinite(estimate):
        return ""
    text = rules.effect_text(estimate, low, high, row["measure"])
    return text if unit else text.removesuffix(f" {row['measure']}")


def undecided(table: pd.DataFrame) -> pd.DataFrame:
    """What is not decided, as text: claim, data set where only one lacks it, why not."""
    rows = table[table["verdict"] == OPEN]
    return pd.DataFrame(
        {
            "claim": rows["claim"] + " " + rows["text"],
            "data set": rows["dataset"].map(wording.data_title),
            "why not": rows["reason"],
        }
    ).reset_index(drop=True)


def command(results: Path | str, look: Look) -> str:
    """The command line that prints the ledger."""
    words = ["aba", "claims", "--results", shortened(str(results))]
    usual = Look()
    for name in ("metric", "confidence"):
        if getattr(look, name) != getattr(usual, name):
            words += [f"--{name}", str(getattr(look, name))]
    return shlex.join(words)
