"""The standard figures and tables of every study, defined once: for the notebooks, for
`aba figures` and for one line of Python.

    results of a study → exhibits (data, caption, drawing) → PDF, SVG, PNG; CSV, LaTeX, Markdown

    from analysis import exports
    exports.data("isolation", "results", "digits")  # the data of any figure, as a DataFrame

An exhibit is a figure or a table: the data frame behind it, its caption in plain words, and how it
is drawn. Everything written for the same results is the same, byte for byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from analysis import figures, tables, toolkit_version
from analysis import results as store
from analysis.results import ResultsError, StudyResult
from analysis.studies import STANDARD
from analysis.study import METRICS, short_hash

FORMATS = ("pdf", "svg", "png")
# Not a study of its own: isolation, tension and benchmark beside the published tables.
BESIDE = "published"
BENCHMARKS = ("benchmark", "benchmark-bn")


class ExportError(ValueError):
    """What cannot be exported as asked; one line naming the value and what is allowed."""


@dataclass(frozen=True)
class Look:
    """Which accuracy is shown, the confidence of intervals, and the seed of their bootstrap."""

    metric: str = "validation_accuracy"
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ExportError(f"unknown metric {self.metric!r}; known: {', '.join(METRICS)}")
        if not 0 < self.confidence < 1:
            raise ExportError(
                f"confidence is {self.confidence}; allowed: numbers between 0 and 1, as 0.95"
            )

    @property
    def label(self) -> str:
        return METRICS[self.metric]

    def rng(self) -> np.random.Generator:
        """New from the seed, so that one exhibit does not depend on another."""
        return np.random.default_rng(self.seed)


@dataclass(frozen=True)
class Exhibit:
    """A figure (with `draw`) or a table.

    data: what is drawn or printed. description: what it shows, a title. note: what a reader must
    know. caption: both, and on what data, model and runs, with which intervals. facts: the same for
    programs. draw: makes the figure for a width ("single", "double", "slide") in the style in
    force. width: how it is shown where nobody says. columns, digits: those of a printed table.
    """

    name: str
    description: str
    data: pd.DataFrame
    caption: str
    facts: Mapping[str, Any]
    note: str = ""
    draw: Callable[[str], Figure] | None = None
    width: str = "single"
    columns: Sequence[str] | None = None
    digits: int = 1

    @property
    def kind(self) -> str:
        return "table" if self.draw is None else "figure"

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.facts['dataset']}"


@dataclass
class Exhibits:
    """The figures and the tables of one study, by name, in their order."""

    figures: dict[str, Exhibit] = field(default_factory=dict)
    tables: dict[str, Exhibit] = field(default_factory=dict)

    def all(self) -> list[Exhibit]:
        return [*self.figures.values(), *self.tables.values()]


class _Collector:
    """Adds exhibits that share a study's facts, each with a full caption."""

    def __init__(self, study: StudyResult, look: Look, *others: StudyResult) -> None:
        self.exhibits = Exhibits()
        self.look = look
        self.study = study
        results = (study, *others)
        runs = [result.frame.drop_duplicates("key") for result in results]
        ran = study.frame.iloc[0]
        self.facts: dict[str, Any] = {
            "studies": [result.declaration.study.name for result in results],
            "dataset": study.declaration.study.dataset,
            "subset": str(ran["subset"]),
            "model": str(ran["model"]),
            "batch_norm": bool(ran["batch_norm"]),
            "epochs": float(ran["epochs"]),
            "runs": sum(len(frame) for frame in runs),
            "runs_missing": sum(len(result.missing) for result in results),
            "runs_diverged": sum(int((frame["status"] != "finished").sum()) for frame in runs),
        }
        per_arm = pd.concat([frame.groupby("arm").size() for frame in runs])
        low, high = int(per_arm.min()), int(per_arm.max())
        self.n = f"{low}" if low == high else f"{low} to {high}"

    def _caption(self, description: str, note: str, interval: str) -> str:
        facts = self.facts
        norm = " with batch norm" * facts["batch_norm"]
        parts = [
            f"{description.rstrip('.')}.",
            note,
            f"Data: {facts['dataset']} ({facts['subset']}); model: {facts['model']}{norm}, "
            f"{facts['epochs']:g} epochs; n = {self.n} runs (seeds) an arm, "
            f"{facts['runs']} in all.",
            f"Intervals: {interval}." if interval else "",
        ]
        for name, what in (("runs_missing", "missing"), ("runs_diverged", "diverged")):
            count = facts[name]
            parts.append(f"{count} {'run' if count == 1 else 'runs'} {what}." if count else "")
        parts.append(self.study.declaration.study.note)
        return " ".join(part for part in parts if part)

    def figure(
        self,
        name: str,
        description: str,
        data: pd.DataFrame,
        draw: Callable[[str], Figure],
        *,
        note: str = "",
        interval: str = "",
        width: str = "single",
    ) -> None:
        caption = self._caption(description, note, interval)
        facts = {**self.facts, "n": self.n, "interval": interval or "none"}
        self.exhibits.figures[name] = Exhibit(
            name, description, data, caption, facts, note, draw, width
        )

    def table(
        self,
        name: str,
        description: str,
        data: pd.DataFrame,
        columns: Sequence[str] | None = None,
        *,
        note: str = "",
        interval: str = "",
        digits: int = 1,
    ) -> None:
        caption = self._caption(description, note, interval)
        facts = {**self.facts, "n": self.n, "interval": interval or "none"}
        self.exhibits.tables[name] = Exhibit(
            name, description, data, caption, facts, note, columns=columns, digits=digits
        )

    # How each kind of interval is made, in words. Few runs give none: the text then says so.

    @property
    def _level(self) -> str:
        return f"{100 * self.look.confidence:g} %"

    @property
    def over_runs(self) -> str:
        return f"{self._level}, studentised bootstrap over runs" + self._one

    @property
    def over_adjustments(self) -> str:
        return f"{self._level}, studentised bootstrap over the adjustments of a group"

    @property
    def student(self) -> str:
        return f"{self._level}, Student's t over the adjustments of a group"

    @property
    def ranks(self) -> str:
        return f"{self._level}, BCa bootstrap over the 27 adjustments"

    @property
    def _one(self) -> str:
        return " (none where an arm has one run)" if self.n.split(" ")[0] == "1" else ""


def _shown_counts(table: pd.DataFrame, *names: str) -> list[str]:
    """The columns of counts that say something."""
    return [name for name in names if table[name].any()]


def _figure(ax: Any) -> Figure:
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


# --- the studies ---------------------------------------------------------------------------------


def isolation(study: StudyResult, look: Look) -> Exhibits:
    """Figures isolation, groups, isolation-square; tables isolation, groups, association,
    published-order."""
    made = _Collector(study, look)
    table = tables.isolation_table(
        study.frame, look.rng(), metric=look.metric, confidence=look.confidence
    )
    groups = tables.group_table(table, look.rng(), confidence=look.confidence)
    columns = ["index", "low", "middle", "high", "group", "n", "max", "mean", "rating"]
    columns += _shown_counts(table, "n_diverged", "n_missing")
    made.figure(
        "isolation",
        "Mean accuracy of each adjustment in order, coloured by group",
        table,
        lambda width: _figure(
            figures.isolation_plot(table, figures.sized_axes(width, 118), label=look.label)
        ),
        note=f"{look.label}; the dashed line is training without augmentation.",
        interval=made.over_runs,
    )
    made.figure(
        "groups",
        "Mean accuracy of the adjustments of each group",
        table,
        lambda width: _figure(
            figures.group_plot(
                table,
                figures.sized_axes(width, 60),
                confidence=look.confidence,
                label=look.label,
            )
        ),
        note=f"{look.label}; small marks are adjustments, diamonds the means of groups.",
        interval=made.student,
    )
    made.figure(
        "isolation-square",
        "Mean accuracy of each adjustment, arranged by low and high",
        table,
        lambda width: _figure(
            figures.adjustment_heatmap(table, figures.sized_axes(width, 78), label=look.label)
        ),
        note=f"{look.label}; above the diagonal Epsilon, on it Neutral, below it Delta.",
        interval=f"half of them after ±; {made.over_runs}",
    )
    made.table(
        "isolation",
        "Each adjustment trained alone, in the published form",
        table,
        columns,
        note=f"{look.label}; the maximum grows with the number of runs.",
        interval=made.over_runs,
    )
    made.table(
        "groups",
        "Means of the groups and their differences",
        groups,
        note=f"{look.label}; the unit is the adjustment, p by permutation and Holm's correction.",
        interval=made.over_adjustments,
    )
    made.table(
        "association",
        "How much of the spread of the 27 means the group explains",
        tables.association_table(table, look.rng(), confidence=look.confidence),
        note=f"{look.label}.",
        interval=made.ranks,
    )
    made.table(
        "published-order",
        "Rank correlation of the 27 means with the published ones, and of those with one another",
        tables.published_order_table(table, look.rng(), confidence=look.confidence),
        note=f"{look.label}; published: means of five runs, other data, models and epochs.",
        interval=made.ranks,
        digits=2,
    )
    return made.exhibits


def tension(study: StudyResult, look: Look, alone: StudyResult) -> Exhibits:
    """Figure hypothesis; tables hypothesis, hypothesis-best, published-differences.

    alone: the isolation study, whose arms are the members of the sets.
    """
    made = _Collector(study, look, alone)
    table = tables.hypothesis_table(
        alone.frame, study.frame, look.rng(), metric=look.metric, confidence=look.confidence
    )
    made.figure(
        "hypothesis",
        "Each set against the mean of its members and its best member",
        table,
        lambda width: _figure(
            figures.hypothesis_plot(table, figures.sized_axes(width, 82), label=look.label)
        ),
        note=f"{look.label}; the best member is chosen on other runs than it is judged on.",
        interval=made.over_runs,
    )
    counts = _shown_counts(table, "n_diverged", "n_missing", "n_members_diverged")
    made.table(
        "hypothesis",
        "All of a set against the mean of its members, the published form",
        table,
        ["set", "n", "n_members", *counts, "all_of_group", "mean_of_members", "difference"],
        note=f"{look.label}; poor members raise the difference by themselves.",
        interval=made.over_runs,
    )
    made.table(
        "hypothesis-best",
        "All of a set against its best member and its best group",
        table,
        [
            "set",
            "best_member",
            "best_member_crossfitted",
            "difference_to_best_member",
            "best_group",
            "best_group_crossfitted",
            "difference_to_best_group",
        ],
        note=f"{look.label}; cross-fitted: chosen on all runs but one, judged on that one.",
        interval=made.over_runs,
    )
    made.table(
        "published-differences",
        "All of a set less the mean of its members, here and published",
        tables.published_difference_table(table),
        note=f"{look.label}, points; published: means of five runs, without intervals.",
        interval=made.over_runs,
        digits=2,
    )
    return made.exhibits


def frozen_strength(study: StudyResult, strength: float = 0.0) -> float:
    """The evaluated strength to judge groups at: the one given, or for 0 the one nearest to that
    which the models were trained with."""
    there = np.sort(_evaluated(study)["strength"].unique())
    trained = [arm.strength for arm in study.declaration.study.arms if arm.strength]
    wanted = strength or (trained or [float(np.median(there))])[0]
    at = float(there[np.abs(there - wanted).argmin()])
    if strength and not np.isclose(at, strength):
        known = ", ".join(f"{value:g}" for value in there)
        raise ExportError(f"strength is {strength:g}; allowed in this study: {known}, 0")
    return at


def _evaluated(study: StudyResult) -> pd.DataFrame:
    frame = study.frame[study.frame["status"] == "finished"]
    if frame.empty:
        raise ResultsError(f"every run of {study.declaration.study.name} diverged; nothing to show")
    return frame


def frozen_threshold(frame: pd.DataFrame, neutral: float) -> float:
    """The change of loss that counts as none: a share of the unadjusted loss."""
    return neutral * float((frame["loss"] - frame["loss_change"]).mean())


def frozen(
    study: StudyResult, look: Look, *, strength: float = 0.0, neutral: float = 0.05
) -> Exhibits:
    """Figures frozen and measured-groups-ARM; tables frozen-groups and measured-groups-ARM.

    strength: see `frozen_strength`. neutral: see `frozen_threshold`.
    """
    made = _Collector(study, look)
    frame = _evaluated(study)
    at = frozen_strength(study, strength)
    arms = [str(arm) for arm in frame["arm"].unique()]
    name = study.declaration.study.name
    prefix = "" if name == "frozen" else f"{name}-"
    values = [
        f"{value}{change}"
        for value in ("accuracy", "loss", "class_score")
        for change in ("", "_change")
    ]
    curves = frame.groupby(["arm", "adjustment", "strength"], sort=False)[values].mean()
    curves = curves.reset_index()
    for number in range(0, len(arms), 2):  # a pair fits one printed column
        pair = arms[number : number + 2]
        made.figure(
            f"{prefix}frozen" + (f"-{number // 2 + 1}" if number else ""),
            "Accuracy, loss and class score of frozen models against strength",
            curves[curves["arm"].isin(pair)],
            lambda width, pair=pair: figures.frozen_panels(  # type: ignore[misc]
                curves, pair, width=width, confidence=look.confidence
            ),
            note="Thin lines are adjustments, thick lines the means of groups.",
            interval=made.student,
            width="double",
        )
    made.table(
        f"{prefix}frozen-groups",
        f"What the groups do to frozen models at strength {at:g}",
        tables.frozen_group_table(frame, look.rng(), strength=at, confidence=look.confidence),
        note="Accuracy in points, loss in nats, score in logits.",
        interval=made.over_runs,
        digits=2,
    )
    for arm in arms:
        own = frame[frame["arm"] == arm]
        threshold = frozen_threshold(own, neutral)
        measured = tables.measured_group_table(
            own, look.rng(), strength=at, threshold=threshold, confidence=look.confidence
        )
        note = f"Strength {at:g}; a change of loss within ±{threshold:.2g} counts as none."
        made.figure(
            prefix + measured_name(arm),
            f"Change of loss per adjustment, {arm}",
            measured,
            lambda width, arm=arm, measured=measured: _figure(  # type: ignore[misc]
                figures.adjustment_heatmap(
                    measured,
                    figures.sized_axes(width, 78),
                    value="change",
                    label=f"{arm}: change of loss (nats)",
                    digits=2,
                )
            ),
            note=note,
            interval=f"half of them after ±; {made.over_runs}",
        )
        made.table(
            prefix + measured_name(arm),
            f"Measured group of each adjustment, {arm}",
            measured,
            ["index", "low", "middle", "high", "group", "n", "change", "measured_group", "agrees"],
            note=note,
            interval=made.over_runs,
            digits=2,
        )
    return made.exhibits


def arms(study: StudyResult, look: Look) -> Exhibits:
    """Any study's arms beside one another, as the benchmark: a figure and a table of one name."""
    made = _Collector(study, look)
    name = study.declaration.study.name
    name = name if name in STANDARD else f"arms-{name}"
    table = tables.benchmark_table(study.frame, look.rng(), confidence=look.confidence)
    # Strengths are chosen on validation: the test accuracies of that search are not for reading.
    splits = ("validation",) if name.endswith("-tuning") else ("validation", "test")
    hidden = [f"test_{x}" for x in ("median", "sd", "mean", "mean_low", "mean_high")]
    table = table if "test" in splits else table.drop(columns=hidden)
    made.figure(
        name,
        f"Mean accuracy of each arm on {' and on '.join(splits)}",
        table,
        lambda width: _figure(
            figures.arms_plot(
                table, figures.sized_axes(width, figures.arms_height(table)), splits=splits
            )
        ),
        interval=made.over_runs,
    )
    columns = ["arm", "strength", "n", *_shown_counts(table, "n_diverged", "n_missing")]
    columns += [f"{split}_{x}" for split in splits for x in ("median", "sd", "mean")]
    made.table(
        name,
        f"Accuracy of each arm on {' and on '.join(splits)}",
        table,
        columns,
        note="Median and SD are the published form.",
        interval=f"of the means, {made.over_runs}",
    )
    return made.exhibits


def published(
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
    dataset = first.declaration.study.dataset
    names, same_data = tables.published_for(dataset), dataset in tables.PUBLISHED
    options: dict[str, Any] = {"confidence": look.confidence}
    made = _Collector(first, look)
    exhibits, sentences = made.exhibits, []
    made.table(
        "published-settings",
        "Settings here and published",
        tables.settings_table(first.frame, names),
        note="Published as far as the slides say; the epochs are those of the benchmark.",
    )
    if alone is not None:
        table = tables.isolation_table(alone.frame, look.rng(), metric=look.metric, **options)
        order = tables.order_agreement_table(table, names, look.rng(), **options)
        contrasts = tables.contrast_agreement_table(table, names, look.rng(), **options)
        sentences += tables.order_sentences(order, contrasts, same_data)
        columns = ["published", "n_adjustments", "spearman", "kendall"]
        columns += ["n_ratings", "rating_share", "rating_kappa"] if same_data else []
        made.table(
            "published-agreement",
            "Do the 27 stand in the published order?",
            order[[c for c in order.columns if same_data or not c.startswith(("n_rat", "rat"))]],
            columns,
            note=f"{look.label}.",
            interval=made.ranks,
            digits=2,
        )
        columns = ["contrast", "published", "here", *["there"][:same_data], "verdict_here"]
        made.table(
            "published-groups",
            "The differences of the groups here and published",
            contrasts,
            [*columns, "verdict_there", "agreement"],
            note=f"{look.label}, points.",
            interval=made.over_adjustments,
        )
        for name in names:
            beside = tables.beside_published(table, name)
            made.figure(
                f"published-{name}",
                f"Mean accuracy of each adjustment here against {name}",
                beside,
                lambda width, beside=beside, name=name: _figure(  # type: ignore[misc]
                    figures.published_plot(
                        beside,
                        figures.sized_axes(width, 72),
                        published=f"Published, {name}",
                        label=f"Here: {look.label[0].lower()}{look.label[1:]}",
                    )
                ),
                note="Published means of five runs have no intervals.",
                interval=made.over_runs,
            )
    if alone is not None and sets is not None:
        made = _Collector(sets, look, alone)
        table = tables.hypothesis_table(
            alone.frame, sets.frame, look.rng(), metric=look.metric, **options
        )
        compared = tables.set_agreement_table(table, names, **options)
        sentences += tables.set_sentences(compared, same_data)
        made.table(
            "published-sets",
            "All of a set less the mean of its members, here and published",
            compared,
            ["set", "published", "here", *["there"][:same_data]]
            + ["verdict_here", "verdict_there", "agreement"],
            note=f"{look.label}, points; published intervals are approximate, from five runs.",
            interval=made.over_runs,
            digits=2,
        )
        exhibits.tables |= made.exhibits.tables
    for benchmark in benchmarks:
        made = _Collector(benchmark, look)
        compared = tables.benchmark_agreement_table(benchmark.frame, names, look.rng(), **options)
        sentences += tables.benchmark_sentences(compared, same_data)
        sizes = ["there_median", "there_sd", "there_strength"] if same_data else []
        made.table(
            f"published-{benchmark.declaration.study.name}",
            "Methods here and published: medians, and differences to Vanilla",
            compared,
            ["published", "split", "method", "n", "here_median", "here_sd", *sizes, "here"]
            + [*["there"][:same_data], "agreement"],
            note="Here: mean less Vanilla's mean, points; published: median less Vanilla's median, "
            "with an approximate interval.",
            interval=made.over_runs,
        )
        exhibits.tables |= made.exhibits.tables
    return exhibits, sentences


def compare(
    results: str | Path, dataset: str, look: Look | None = None, preset: str = ""
) -> tuple[Exhibits, list[str]]:
    """`published` for what a results folder has. Raises ResultsError where that is nothing."""
    found: dict[str, StudyResult] = {}
    problems = []
    for study in ("isolation", "tension", *BENCHMARKS):
        try:
            found[study] = store.load(results, study, dataset, preset)
        except ResultsError as error:
            problems.append(error)
    benchmarks = [found[name] for name in BENCHMARKS if name in found]
    if "isolation" not in found and not benchmarks:
        raise problems[0]
    return published(look or Look(), found.get("isolation"), found.get("tension"), benchmarks)


def measured_name(arm: str) -> str:
    """The name of the exhibits with an arm's measured groups."""
    slug = re.sub(r"[^\w.-]+", "-", arm.lower()).strip("-.") or "arm"
    if len(slug) > 60:  # file names have an end
        slug = f"{slug[:50]}-{short_hash(arm)[:6]}"
    return f"measured-groups-{slug}"


def of_study(
    study: str,
    results: str | Path = "results",
    dataset: str = "digits",
    look: Look | None = None,
    preset: str = "",
) -> Exhibits:
    """The standard figures and tables of one study on one data set, or of "published".

    Raises ResultsError, which says what to run, where its results are not there.
    """
    look = look or Look()
    if study == BESIDE:
        return compare(results, dataset, look, preset)[0]
    found = store.load(results, study, dataset, preset)
    if found.declaration.kind == "frozen":
        return frozen(found, look)
    if study in ("variability", "variability-linear"):
        return _room("variability").exhibits(found, look)
    if study == "isolation":
        return isolation(found, look)
    if study == "tension":
        return tension(found, look, store.load(results, "isolation", dataset, preset))
    if found.declaration.study.hypotheses:
        claims = _room("hypotheses")
        return claims.exhibits(
            found, look, claims.judge(found, look, _frozen(results, dataset, preset))
        )
    if found.declaration.study.config.get("mechanism"):
        measured = _room("mechanism").exhibits(found, look, store.measured(found))
        made = Exhibits() if study == "mechanism" else arms(found, look)
        return Exhibits({**made.figures, **measured.figures}, {**made.tables, **measured.tables})
    return arms(found, look)


def _room(name: str) -> Any:
    return importlib.import_module(f"analysis.studies.{name}")


def _frozen(results: str | Path, dataset: str, preset: str = "") -> StudyResult | None:
    """The frozen study, None where there is none: hypotheses about measured groups then wait."""
    try:
        return store.load(results, "frozen", dataset, preset)
    except ResultsError:
        return None


def studies_there(results: str | Path) -> dict[str, list[str]]:
    """{data set: names of the studies declared for it}, the standard ones first."""
    there: dict[str, list[str]] = {}
    for declaration in store.declarations(Path(results)):
        names = there.setdefault(declaration.study.dataset, [])
        if declaration.study.name not in names:
            names.append(declaration.study.name)
    order = {name: place for place, name in enumerate(STANDARD)}
    return {
        dataset: sorted(names, key=lambda name: (order.get(name, len(order)), name))
        for dataset, names in sorted(there.items())
    }


def data(
    name: str,
    results: str | Path = "results",
    dataset: str = "digits",
    *,
    kind: str = "figure",
    look: Look | None = None,
) -> pd.DataFrame:
    """The data behind a figure (or, for kind "table" or where there is no such figure, a table).

    Raises ExportError naming what there is, ResultsError where the data set has no results.
    """
    if kind not in ("figure", "table"):
        raise ExportError(f"unknown kind {kind!r}; known: figure, table")
    known: list[str] = []
    second: pd.DataFrame | None = None
    problem: ResultsError | None = None
    for study in [*studies_there(results).get(dataset, []), BESIDE]:
        try:
            made = of_study(study, results, dataset, look)
        except ResultsError as error:
            problem = error
            continue
        first, other = (made.figures, made.tables)[:: 1 if kind == "figure" else -1]
        if name in first:
            return first[name].data
        if name in other:
            second = other[name].data
        known += [n for n in (*made.figures, *made.tables) if n not in known]
    if second is not None:
        return second
    if not known:
        assert problem is not None  # of BESIDE at the latest
        raise problem
    raise ExportError(f"unknown figure {name!r} for {dataset}; known: {', '.join(known)}")


# --- files ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def whole_files(target: Path) -> Iterator[Path]:
    """A stem to write files to, which then move to `target`, each whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=target.parent) as folder:
        yield Path(folder) / target.name
        for path in sorted(Path(folder).iterdir()):
            os.replace(path, target.parent / path.name)


def command(
    results: str | Path,
    dataset: str,
    look: Look,
    width: str = "single",
    style: str = "paper",
    formats: Sequence[str] = FORMATS,
    preset: str = "",
) -> str:
    """The command line that makes an exhibit, whatever the folder it is written to."""
    usual = Look()
    words = ["aba", "figures", "--results", str(results), "--dataset", dataset]
    words += ["--format", ",".join(formats), "--width", width, "--style", style]
    for name in ("metric", "confidence", "seed"):
        if getattr(look, name) != getattr(usual, name):
            words += [f"--{name}", str(getattr(look, name))]
    return shlex.join([*words, *(["--preset", preset] if preset else [])])


def draw(exhibit: Exhibit, width: str = "", style: str = "paper") -> Figure:
    """The figure of an exhibit, to be closed by the caller."""
    if exhibit.draw is None:
        raise ExportError(f"{exhibit.name} is a table, not a figure")
    with figures.style(style):
        return exhibit.draw(width or exhibit.width)


def write(
    exhibit: Exhibit,
    out: str | Path,
    *,
    command: str,
    figure: Figure | None = None,
    formats: Sequence[str] = FORMATS,
    width: str = "",
    style: str = "paper",
) -> list[Path]:
    """Write a figure to out/figures or a table to out/tables; return the files.

    A figure: its formats and NAME.csv, the data behind it. A table: .csv with full precision, .tex
    (booktabs) and .md. Beside both NAME.json: caption, n, data, model, intervals, SHA-256 of the
    .csv, the command, the toolkit's version. figure: where it is drawn already.
    """
    folder = Path(out) / ("figures" if exhibit.draw else "tables")
    facts: dict[str, Any] = {
        "name": exhibit.name,
        "kind": exhibit.kind,
        "caption": exhibit.caption,
        **exhibit.facts,
        "data": f"{exhibit.stem}.csv",
        "sha256": hashlib.sha256(tables.csv_text(exhibit.data).encode()).hexdigest(),
        "command": command,
        "toolkit": toolkit_version(),
    }
    with whole_files(folder / exhibit.stem) as stem:
        if exhibit.draw is None:
            paths = tables.save_table(exhibit.data, stem, exhibit.digits, exhibit.columns)
        else:
            drawn = figure or draw(exhibit, width, style)
            size = [
                round(float(x) * figures.MILLIMETRES_PER_INCH, 1) for x in drawn.get_size_inches()
            ]
            facts |= {"size_mm": size, "style": style}
            with figures.style(style):
                paths = figures.save_figure(drawn, stem, formats)
            if figure is None:
                plt.close(drawn)
            paths.append(stem.with_name(f"{stem.name}.csv"))
            paths[-1].write_text(tables.csv_text(exhibit.data), encoding="utf-8")
        paths.append(stem.with_name(f"{stem.name}.json"))
        text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
        paths[-1].write_text(text, encoding="utf-8")
        names = [path.name for path in paths]
    return [folder / name for name in names]


@dataclass
class Exported:
    """What `export` did. files: by study and data set. absent: standard studies that are not there.
    refused: what was asked for and could not be made, one line each. notes: of incomplete ones."""

    files: dict[tuple[str, str], list[Path]] = field(default_factory=dict)
    absent: dict[str, list[str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def export(
    results: str | Path,
    out: str | Path,
    studies: Sequence[str] = (),
    datasets: Sequence[str] = (),
    *,
    formats: Sequence[str] = FORMATS,
    width: str = "single",
    style: str = "",
    look: Look | None = None,
    preset: str = "",
    progress: Callable[[str, str, Sequence[Path]], None] | None = None,
) -> Exported:
    """Write every standard figure and table of the studies there are, or of those asked for.

    style: "paper" for printed columns and "talk" for slides where none is given. progress: called
    with (study, data set, files). Raises ExportError before anything is written for a wrong value,
    ResultsError where there is nothing at all.
    """
    look = look or Look()
    style = style or ("talk" if width == "slide" else "paper")
    _check("width", width, figures.WIDTHS)
    _check("style", style, figures.STYLES)
    for name in formats:
        _check("format", name, FORMATS)
    if not formats:
        raise ExportError(f"no format; known: {', '.join(FORMATS)}")
    if style == "talk" and width == "single":
        raise ExportError("style talk does not fit width single; allowed with it: double, slide")
    there = studies_there(results)
    if not there:
        raise ResultsError(
            f"no studies in {results}; start one with: aba run isolation --dataset digits"
        )
    done = Exported()
    for dataset in dict.fromkeys(datasets or there):
        names = there.get(dataset, [])
        if not names:
            done.refused.append(f"no studies on {dataset} in {results}; there: {', '.join(there)}")
            continue
        if not studies:
            lacking = [name for name in STANDARD if name not in names]
            if lacking:
                done.absent[dataset] = lacking
        for study in dict.fromkeys(studies or (*names, BESIDE)):
            try:
                found = of_study(study, results, dataset, look, preset)
            except ResultsError as error:
                if studies:
                    done.refused.append(str(error))
                elif study != BESIDE:
                    need = " (needs isolation)" if study == "tension" else ""
                    done.absent.setdefault(dataset, []).append(study + need)
                continue
            text = command(results, dataset, look, width, style, formats, preset)
            files = [
                path
                for exhibit in found.all()
                for path in write(
                    exhibit, out, command=text, formats=formats, width=width, style=style
                )
            ]
            done.files[study, dataset] = files
            facts = next(iter(found.all())).facts
            if facts["runs_missing"] and study != BESIDE:
                done.notes.append(
                    f"{study} on {dataset} is not complete: {facts['runs_missing']} runs missing"
                )
            if progress is not None:
                progress(study, dataset, files)
    return done


def _check(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ExportError(f"unknown {what} {value!r}; known: {', '.join(known)}")
