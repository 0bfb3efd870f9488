"""Write every table of the shipped results anew: `python docs/make_tables.py`.

The page docs/tables.md is written whole; README.md and docs/results.md have what stands between
their markers. `tests/test_shipped.py` compares all three with what this makes.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from textwrap import fill

from analysis import claims
from analysis.exhibits import Look
from analysis.results import SHIPPED, ResultsError
from analysis.rooms import of_study, studies_by_dataset
from analysis.rules import Verdict, effect_text
from analysis.tables import markdown
from analysis.wording import data_title, in_order, over_text

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"readme": ROOT / "README.md", "results": ROOT / "docs" / "results.md"}
TABLES = ROOT / "docs" / "tables.md"
INTRODUCTION = (
    "Every verdict and the main tables of the shipped results (`data/results`), by data set. This "
    "page is written by `docs/make_tables.py`. [Results](results.md) says in words what "
    "they show, what was declared, and what was not as planned. Accuracies and their differences "
    "are in points, intervals at 95 %."
)
# What stands below each data set: the study, its title, and what a reader must know.
SHOWN = {
    "comparators": (
        "Comparators",
        "Gains are over Vanilla on test. Passes are forward and backward passes a step.",
    ),
    "guided": (
        "Other map-guided methods",
        "Gains over Vanilla on test, each tuned by itself. *Placebo* takes the map of another "
        "sample, and *random* random features.",
    ),
    "attributions": (
        "Attribution maps",
        "Gains of all adjustments led by each map over Vanilla, on test. *Placebo* takes the map "
        "of another sample, and *equal cost* trains for as many passes as the gradient does.",
    ),
    "regimes": (
        "Where gains hold",
        "The gain of all adjustments over Vanilla on test, with the strength tuned for each.",
    ),
    "card": (
        "The report card",
        "Vanilla, and what each method changes. ▲ is a gain and ▼ a harm: their intervals "
        "exclude 0 within their aspect. [The report card](report_card.md) defines the quantities.",
    ),
    "variance": (
        "Where the variance comes from",
        "Standard deviations by source, and standard errors of the mean over all runs.",
    ),
}
Entry = tuple[str, Verdict, Verdict | None]
Judged = dict[str, list[Entry]]

# What the README asks, and the hypothesis that answers it.
QUESTIONS = {
    "All 27 beat training without": "augmentation-helps",
    "Epsilon beats Neutral beats Delta": "group-order",
    "**Variety**: twice the size helps": "variety",
    "**Tension**: opposed sets beat matched unopposed": "matched-tension",
    "Opposites beat their better one": "tension-of-one-best",
    "Joined sets beat their best group": "tension-best-group",
    "All beat the best one alone": "set-beats-best-member",
    "The model's map beats placebos, noise included": "attribution-matters",
    "All beat the best cheap comparator": "beats-cheap-comparators",
}


def effect(verdict: Verdict) -> str:
    estimate, low, high = (verdict.decisive[f"estimate{end}"] for end in ("", "_low", "_high"))
    return effect_text(estimate, low, high, verdict.hypothesis.measure).removesuffix(" points")


def latest(judged: Judged, name: str) -> Entry | None:
    """The first of a hypothesis' verdicts that rests on runs."""
    return next((e for e in judged.get(name, ()) if e[1].verdict != claims.OPEN), None)


def cell(entry: Entry | None) -> str:
    if entry is None:
        return "–"
    _, verdict, tested = entry
    text = f"{verdict.verdict}, {effect(verdict)}"
    # Groups of adjustments have the adjustment as their unit, and no such scope.
    text += "†" * ("subsets" not in (verdict.decisive["scope"] or "subsets"))
    differs = tested is not None and tested.verdict != verdict.verdict
    return text + f"; on test {tested.verdict}, {effect(tested)}" * differs  # type: ignore[union-attr]


def questions(judged: dict[str, Judged]) -> str:
    """The README's table: a row a question, a column a data set."""
    shown = [name for name in ("digits", "mnist", "cifar10", "news") if name in judged]
    rows = [
        f"| | {' | '.join(data_title(name) for name in shown)} |",
        "|---" * (1 + len(shown)) + "|",
    ]
    for question, name in QUESTIONS.items():
        cells = [cell(latest(judged[dataset], name)) for dataset in shown]
        rows.append(f"| {question} | {' | '.join(cells)} |")
    return "\n".join(rows)


def every_verdict(judged: Judged) -> str:
    """All hypotheses of a data set, below their studies: the verdict on validation and on test; at
    the end those that come out differently where each class of arms has its own strength."""
    rows = [
        "| claim | verdict | effect (points) | on test | deciding comparison | n; interval over |",
        "|---|---|---|---|---|---|",
    ]
    last = ""
    for name in judged:
        entry = latest(judged, name)
        if entry is None:
            continue
        if entry[0] != last:
            rows.append(f"| *`{entry[0]}`* | | | | | |")
            last = entry[0]
        rows.append(verdict_row(entry))
    changed = [verdict_row(entry) for entry in changed_by_tuning(judged).values()]
    if changed:
        rows.append("| *`tuned`, where the verdict is another one* | | | | | |")
    return "\n".join(rows + changed)


def changed_by_tuning(judged: Judged) -> dict[str, Entry]:
    """{hypothesis: what `tuned` says of it} of those that another study decides otherwise."""
    found = {}
    for name, entries in judged.items():
        by_study = {entry[0]: entry for entry in reversed(entries)}
        first, tuned = latest(judged, name), by_study.get("tuned")
        if first and tuned and tuned[1].verdict not in (first[1].verdict, claims.OPEN):
            found[name] = tuned
    return found


def verdict_row(entry: Entry) -> str:
    _, verdict, tested = entry
    on_test = (
        "–" if tested is None or not len(tested.table) else (f"{tested.verdict}, {effect(tested)}")
    )
    row = verdict.decisive
    over = over_text({**row, "measure": verdict.hypothesis.measure})
    cells = (
        verdict.hypothesis.statement, f"**{verdict.verdict}**", effect(verdict), on_test,
        row["label"], f"{int(row['n'])} {over}",
    )  # fmt: skip
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"


def exhibit_table(study: str, dataset: str, name: str, results: Path) -> str:
    """A standard table as Markdown, "" where there are no results."""
    try:
        shown = of_study(study, results, dataset, Look("test_accuracy")).tables[name]
    except ResultsError:
        return ""
    return markdown(shown.data, shown.digits, shown.columns).strip()


def every_table(judged: dict[str, Judged], results: Path) -> str:
    """The page of tables: verdicts, then the tables of `SHOWN`, below each data set."""
    parts = [f"# Tables of results\n\n{fill(INTRODUCTION, 120)}\n"]
    for dataset in in_order(judged):
        of_dataset = judged[dataset]
        below = {study: exhibit_table(study, dataset, study, results) for study in SHOWN}
        decided = any(latest(of_dataset, one) for one in of_dataset)
        if not decided and not any(below.values()):
            continue
        parts.append(f"## {data_title(dataset)}\n")
        if decided:
            parts.append(f"### Verdicts on {data_title(dataset)}\n\n{every_verdict(of_dataset)}\n")
        for study, table in below.items():
            title, words = SHOWN[study]
            if table:
                parts.append(
                    f"### {title}, {data_title(dataset)}\n\n{fill(words, 120)}\n\n{table}\n"
                )
    return "\n".join(parts)


def written(results: Path = SHIPPED) -> tuple[dict[str, dict[str, str]], str]:
    """{page: {marker: text}} of what stands between markers, and the page of tables."""
    judged = {name: claims.judged(results, name, Look()) for name in studies_by_dataset(results)}
    ledger = claims.ledger(results, verdicts=judged)
    sentences = "\n".join(f"- {line}" for line in claims.sentences(ledger))
    blocks = {"readme": {"verdicts": questions(judged)}, "results": {"claims": sentences}}
    return blocks, every_table(judged, results)


def replaced(text: str, marker: str, block: str) -> str:
    """The page with a block renewed. Raises ValueError where the page lacks its markers."""
    begin, end = f"<!-- {marker}: begin -->", f"<!-- {marker}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the page has no block {marker!r}; needed: {begin} and {end}")
    return re.sub(
        re.escape(begin) + ".*?" + re.escape(end),
        lambda _: f"{begin}\n{block}\n{end}",
        text,
        flags=re.DOTALL,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=SHIPPED)
    results = parser.parse_args().results
    blocks, tables = written(results)
    TABLES.write_text(tables, encoding="utf-8")
    for page, of_page in blocks.items():
        text = PAGES[page].read_text(encoding="utf-8")
        for marker, block in of_page.items():
            text = replaced(text, marker, block)
        PAGES[page].write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
