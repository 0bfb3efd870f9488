"""Published: results of isolation, tension and benchmark beside the published tables."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import figures, reference
from analysis import results as store
from analysis.exhibits import Collector, Exhibits, ExportError, Look
from analysis.reference import PUBLISHED
from analysis.results import ResultsError, StudyResult
from analysis.studies.isolation import isolation_table
from analysis.studies.published.agreement import (
    benchmark_agreement_table,
    beside_published,
    contrast_agreement_table,
    order_agreement_table,
    set_agreement_table,
)
from analysis.studies.published.sentences import (
    benchmark_sentences,
    order_sentences,
    set_sentences,
)
from analysis.studies.tension import hypothesis_table
from analysis.wording import data_title, published_title

BENCHMARKS = ("benchmark", "benchmark-bn")
# What the slides say of the published runs; "not stated" is theirs too. Epochs are the benchmark's.
PUBLISHED_SETTINGS = {
    "mnist-tiny": {"data": "MNIST, 100 images", "model": "vgg11", "epochs": "1000"},
    "cifar10-tiny": {"data": "CIFAR-10, 1000 images", "model": "vgg16", "epochs": "500"},
    "20newsgroups-tiny": {
        "data": "20 Newsgroups, 2000 texts",
        "model": "small CNN",
        "epochs": "100",
        "words of a text": "the first 1000",
        "word vectors": "100 numbers a word, source not stated",
    },
}


def settings_table(runs: pd.DataFrame, published: Sequence[str]) -> pd.DataFrame:
    """What differs before any number does: one row a setting, here and in each experiment."""
    ran = runs.iloc[0]
    per_arm = runs.groupby("arm")["seed"].nunique()
    low, high = int(per_arm.min()), int(per_arm.max())
    strengths = ", ".join(f"{s:g}" for s in sorted(runs["strength"].dropna().unique()))
    targets = ", ".join(sorted({str(t) for t in runs.get("target", ()) if t and t == t}))
    here = {
        "data": f"{data_title(ran['dataset'])}, {ran.get('subset', 'subset not recorded')}",
        "model": f"{ran['model']}{' with batch norm' * bool(ran['batch_norm'])}",
        "epochs": f"{ran['epochs']:g}",
        "strength": strengths or "none",
        "target": targets or "not recorded",
        "runs an arm": f"{low}" if low == high else f"{low} to {high}",
    }
    if ran["dataset"] == "news":
        tokens = int(ran.get("tokens", 0) or 0)
        here["words of a text"] = f"the first {tokens}" if tokens else "the first 1000"
        known = {"corpus": "made from the training texts (PPMI and SVD)", "glove": "GloVe"}
        here["word vectors"] = known.get(str(ran.get("embedding", "")), "not recorded")
    rows = []
    for name in (*here, *(("word vectors",) if "word vectors" not in here else ())):
        row = {"setting": name, "this study": here.get(name, "no words")}
        for other in published:
            usual = {"runs an arm": "5", "word vectors": "no words"}.get(name, "not stated")
            row[f"Published {published_title(other)}"] = PUBLISHED_SETTINGS[other].get(name, usual)
        rows.append(row)
    words = any("word vectors" in PUBLISHED_SETTINGS[other] for other in published)
    return pd.DataFrame(rows if words or "word vectors" in here else rows[:-1])


def published_plot(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    published: str = "published",
    label: str = "Here: validation accuracy (%)",
) -> Axes:
    """The 27 adjustments, published mean across and own mean upwards, coloured by group.

    table: from `beside_published`. Bars are the intervals of the means here; the published
    means of five runs have none. Equal orders would rise from left to right throughout.
    """
    ax = figures.given_or_new(ax, figures.ONE_COLUMN, 72)
    _, width, marker = figures.sizes(ax)
    known = table[np.isfinite(table["mean"]) & np.isfinite(table["published_mean"])]
    for group in figures.LEGEND_ORDER:
        part = known[known["group"] == group]
        x = part["published_mean"].to_numpy(np.float64)
        ends = [part[f"mean_{end}"].to_numpy(np.float64) for end in ("low", "high")]
        colour = figures.COLOURS[group]
        ax.vlines(x, *ends, color=colour, lw=0.8 * width, alpha=0.7)
        ax.plot(x, part["mean"], figures.MARKERS[group], color=colour, ms=marker, mew=0)
    if known.empty:
        ax.text(0.5, 0.5, "no runs", transform=ax.transAxes, ha="center")
    ax.set_xlabel(f"{published}: accuracy (%)")
    ax.set_ylabel(label)
    figures.legend_above(ax, figures.group_handles(figures.LEGEND_ORDER, marker), ncols=3)
    return ax


def exhibits(
    look: Look,
    alone: StudyResult | None = None,
    sets: StudyResult | None = None,
    benchmarks: Sequence[StudyResult] = (),
) -> tuple[Exhibits, list[str]]:
    """Results beside the published ones, and agreement and disagreement in plain words.

    alone, sets, benchmarks: the isolation, tension and benchmark studies (without and with batch
    norm) on one data set, as far as they are there. Figures published-NAME; tables
    published-settings, -agreement, -groups, -sets, -benchmark, -benchmark-bn. On a data set without
    published tables orders and signs alone are compared.
    """
    first = next((study for study in (alone, *benchmarks) if study is not None), None)
    if first is None:
        raise ExportError("nothing to compare; needed: an isolation or a benchmark study")
    collected = Collector(first, look)
    collected.table(
        "published-settings",
        "Settings here and published",
        settings_table(first.frame, reference.published_for(first.declaration.study.dataset)),
        note="Published as far as the slides say; the epochs are those of the benchmark.",
    )
    result, sentences = collected.exhibits, []
    if alone is not None:
        sentences += _add_orders(collected, alone)
    if alone is not None and sets is not None:
        collected = Collector(sets, look, alone)
        sentences += _add_sets(collected, alone, sets)
        result.tables |= collected.exhibits.tables
    for benchmark in benchmarks:
        collected = Collector(benchmark, look)
        sentences += _add_benchmark(collected, benchmark)
        result.tables |= collected.exhibits.tables
    return result, sentences


def _published(study: StudyResult) -> tuple[tuple[str, ...], bool]:
    """The experiments to compare with, and whether they used the same data set."""
    dataset = study.declaration.study.dataset
    return reference.published_for(dataset), dataset in PUBLISHED


def _titled(table: pd.DataFrame) -> pd.DataFrame:
    """The same table, each experiment called by the title of its data set."""
    return table.assign(published=table["published"].map(published_title))


def _add_orders(collected: Collector, alone: StudyResult) -> list[str]:
    """Agreement of the 27 and of the groups: figures and tables to `collected`, and sentences."""
    look, (names, same_data) = collected.look, _published(alone)
    options: dict[str, Any] = {"confidence": look.confidence}
    table = isolation_table(alone.frame, look.rng(), metric=look.metric, **options)
    order = _titled(order_agreement_table(table, names, look.rng(), **options))
    contrasts = _titled(contrast_agreement_table(table, names, look.rng(), **options))
    columns = ["published", "n_adjustments", "spearman", "kendall"]
    columns += ["n_ratings", "rating_share", "rating_kappa"] if same_data else []
    collected.table(
        "published-agreement",
        "Do the 27 stand in the published order?",
        order[[c for c in order.columns if same_data or not c.startswith(("n_rat", "rat"))]],
        columns,
        note=f"{look.label}.",
        interval=collected.ranks,
        digits=2,
    )
    columns = ["contrast", "published", "here", *["there"][:same_data], "verdict_here"]
    collected.table(
        "published-groups",
        "The differences of the groups here and published",
        contrasts,
        [*columns, "verdict_there", "agreement"],
        note=f"{look.label}, points.",
        interval=collected.over_adjustments,
    )
    for name in names:
        beside = beside_published(table, name)
        collected.figure(
            f"published-{name}",
            f"Mean accuracy of each adjustment here and as published on {published_title(name)}",
            beside,
            partial(
                published_plot,
                beside,
                published=f"Published, {published_title(name)}",
                label=f"Here: {look.label[0].lower()}{look.label[1:]}",
            ),
            height=72,
            note="Published means of five runs have no intervals.",
            interval=collected.over_runs,
        )
    return order_sentences(order, contrasts, same_data)


def _add_sets(collected: Collector, alone: StudyResult, sets: StudyResult) -> list[str]:
    """Agreement of the sets: a table to `collected`, and sentences."""
    look, (names, same_data) = collected.look, _published(sets)
    options: dict[str, Any] = {"confidence": look.confidence}
    table = hypothesis_table(alone.frame, sets.frame, look.rng(), metric=look.metric, **options)
    compared = _titled(set_agreement_table(table, names, **options))
    collected.table(
        "published-sets",
        "All of a set less the mean of its members, here and published",
        compared,
        ["set", "published", "here", *["there"][:same_data]]
        + ["verdict_here", "verdict_there", "agreement"],
        note=f"{look.label}, points; published intervals are approximate, from five runs.",
        interval=collected.over_runs,
        digits=2,
    )
    return set_sentences(compared, same_data)


def _add_benchmark(collected: Collector, benchmark: StudyResult) -> list[str]:
    """Agreement of the methods: a table to `collected`, and sentences."""
    look, (names, same_data) = collected.look, _published(benchmark)
    compared = _titled(
        benchmark_agreement_table(benchmark.frame, names, look.rng(), confidence=look.confidence)
    )
    sizes = ["there_median", "there_sd", "there_strength"] if same_data else []
    collected.table(
        f"published-{benchmark.declaration.study.name}",
        "Methods here and published: medians, and differences to Vanilla",
        compared,
        ["published", "split", "method", "n", "here_median", "here_sd", *sizes, "here"]
        + [*["there"][:same_data], "agreement"],
        note="Here: mean less Vanilla's mean, points; published: median less Vanilla's median, "
        "with an approximate interval.",
        interval=collected.over_runs,
    )
    return benchmark_sentences(compared, same_data)


def compare(
    results: str | Path, dataset: str, look: Look | None = None, preset: str = ""
) -> tuple[Exhibits, list[str]]:
    """`exhibits` of what a results folder has. Raises ResultsError where that is nothing."""
    loaded: dict[str, StudyResult] = {}
    problems = []
    for study in ("isolation", "tension", *BENCHMARKS):
        try:
            loaded[study] = store.load(results, study, dataset, preset)
            (look or Look()).check(loaded[study])
        except ResultsError as error:
            problems.append(error)
    benchmarks = [loaded[name] for name in BENCHMARKS if name in loaded]
    if "isolation" not in loaded and not benchmarks:
        raise problems[0]
    return exhibits(look or Look(), loaded.get("isolation"), loaded.get("tension"), benchmarks)
