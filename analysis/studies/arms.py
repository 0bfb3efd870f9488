"""Arms: any study's arms beside one another, as the benchmark shows its methods."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from aba_core.adjustments import AdjustmentSet
from aba_core.arms import Arm
from aba_core.identity import in_short, meant
from aba_core.quantities import measured_as, quantity_of
from analysis import figures, rules, tables
from analysis.chance import control_arm
from analysis.exhibits import Collector, Exhibits, ExportError, Look
from analysis.hypothesis import Contrast, Hypothesis
from analysis.results import StudyResult
from analysis.statistics import CONFIDENCE
from analysis.studies import STANDARD
from analysis.studies.verdicts import verdict_height, verdict_plot
from analysis.study import Study


def arms_table(
    runs: pd.DataFrame,
    rng: np.random.Generator,
    *,
    confidence: float = CONFIDENCE,
    quantity: str = "accuracy",
) -> pd.DataFrame:
    """Each method (arm) at its strength, on validation and on test; methods in order of appearance.

    One row per (dataset, subset, model, batch_norm, arm, strength), as far as runs has these
    columns. Columns: those, n, n_diverged, n_missing, and for validation and test the median, sd
    and mean (with interval) of the accuracy. The median and sd are the published form. Seeds
    that share one of several training subsets count as one unit of the interval. quantity: another
    than accuracy, which the columns are then called by, as validation_r2_mean.
    """
    metrics = (f"validation_{quantity}", f"test_{quantity}")
    tables.require(runs, ("arm", "seed", "status", *metrics), "runs")
    known = ("dataset", "subset", "model", "batch_norm", "arm", "strength")
    keys = [name for name in known if name in runs.columns]
    if runs.duplicated([*keys, "seed"]).any():
        raise ValueError("runs have several rows for one arm and seed; keep the last step")
    groups = list(runs.groupby(keys, sort=False, dropna=False))
    rows = []
    for (key, part), stream in zip(groups, rng.spawn(len(groups)), strict=True):
        row: dict[str, object] = dict(zip(keys, key, strict=True))
        row |= tables.counts(part, metrics[0])
        for metric in metrics:
            values = part[metric].to_numpy(dtype=np.float64)
            values = values[np.isfinite(values)]
            sample = tables.units(part[metric], part.get("subset_seed"))
            name = metric.removesuffix("_accuracy")
            row[f"{name}_median"] = float(np.median(values)) if values.size else np.nan
            row[f"{name}_sd"] = values.std(ddof=1) if values.size > 1 else np.nan
            interval = tables.mean_interval(sample, metric, stream, confidence)
            row |= tables.with_interval(f"{name}_mean", interval)
        rows.append(row)
    return pd.DataFrame(rows)


def baseline_arm(study: Study) -> str:
    """The arm that others are compared with: the one declared, else the control, else one whose
    adjustments change nothing, as adjustment 0 in `isolation`; "" without."""
    unchanged = (arm.name for arm in study.arms if _changes_nothing(arm))
    return study.baseline or control_arm(study) or next(unchanged, "")


def _changes_nothing(arm: Arm) -> bool:
    """Whether the arm's method is one whose adjustments leave every input as it is."""
    chosen = arm.setting("adjustments")
    chosen = AdjustmentSet.parse(chosen) if isinstance(chosen, str) else chosen
    if not isinstance(chosen, AdjustmentSet):
        return False
    return not any(change for adjustment in chosen.adjustments for change in adjustment)


def difference_table(
    runs: pd.DataFrame,
    arms: Sequence[str],
    baseline: str,
    rng: np.random.Generator,
    *,
    metric: str = "validation_accuracy",
    confidence: float = CONFIDENCE,
    margin: float = 0.5,
) -> pd.DataFrame:
    """Each arm's difference to a baseline, with a verdict on whether the arm is better.

    One row an arm: arm, difference (points) with interval, n, unit, scope, margin, verdict and
    effect, see `rules`. All intervals hold together with the confidence (Bonferroni), and a verdict
    can be read off its interval. An arm without enough runs is "not tested". margin: the smallest
    difference worth having, for metrics in percent; others have none.
    """
    quantity = quantity_of(metric)
    sign, margin = (1 if quantity.more_is_better else -1), margin * (quantity.unit == "%")
    level = 1 - (1 - confidence) / max(1, len(arms))
    grid = rules.grids(runs)(metric)
    rows = []
    for arm, stream in zip(arms, rng.spawn(len(arms)), strict=True):
        better = Hypothesis(
            name="better",
            statement=f"{arm} is better than {baseline}.",
            estimand=f"mean {quantity.label} of the arm less that of the baseline",
            comparisons=(
                Contrast(label=f"{arm} − {baseline}", weights={arm: 1.0, baseline: -1.0}),
            ),
            direction="greater" if sign > 0 else "less",
            margin=margin,
            n=max(2, len(runs)),
        )
        verdict = rules.Judge(better, grid, stream, level).verdict()
        row: dict[str, object] = {"arm": arm, "margin": margin, "verdict": verdict.verdict}
        one = verdict.decisive if len(verdict.table) else pd.Series(dtype=object)
        for end in ("", "_low", "_high"):
            row[f"difference{end}"] = one.get(f"estimate{end}", np.nan)
        row |= {name: one.get(name, "") for name in ("effect", "unit", "scope")}
        rows.append({**row, "n": one.get("n", 0)})
    columns = ["arm", "difference", "difference_low", "difference_high", "n", "unit", "scope"]
    return pd.DataFrame(rows, columns=[*columns, "margin", "verdict", "effect"])


def arms_plot(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    splits: Sequence[str] = ("validation", "test"),
    quantity: str = "accuracy",
) -> Axes:
    """Mean accuracy of each arm with its interval, on validation and on test, in the table's order.

    table: from `arms_table`, of the same quantity. Diverged runs are counted beside their arm.
    """
    ax = figures.given_or_new(ax, figures.ONE_COLUMN, arms_height(table))
    text, width, marker = figures.sizes(ax)
    room = 0.75 * figures.panel_size(ax)[1] / max(len(table), 3)
    size = min(0.875 * text, 0.72 * room / _name_lines(table))
    across = max(14 * text, 0.3 * figures.panel_size(ax)[0])
    names = [figures.wrapped(str(name), across, size, _name_lines(table)) for name in table["arm"]]
    means = {
        split: f"{split}_{quantity}_mean".replace("_accuracy_mean", "_mean") for split in splits
    }
    limits = figures.limits_of(table, list(means.values())) or (0.0, 100.0)
    looks = {"validation": ("o", "black", 0.16), "test": ("s", "white", -0.16)}
    for y, (_, row) in enumerate(table.iterrows()):
        base = len(table) - 1 - y
        ax.axhline(base, color="0.92", lw=0.5 * width, zorder=-1)
        for split in splits:
            symbol, face, shift = looks[split]
            mean = row[means[split]]
            if not np.isfinite(mean):
                if split == splits[0]:
                    ax.text(limits[0], base, " no runs", va="center", size=0.75 * text)
                continue
            ends = row[f"{means[split]}_low"], row[f"{means[split]}_high"]
            figures.interval_line(ax, base + shift, *ends, limits, color="black", lw=0.9 * width)
            ax.plot(mean, base + shift, symbol, mfc=face, mec="black", ms=0.8 * marker)
        on_left = row[means[splits[0]]] > sum(limits) / 2
        size_of_note = min(0.75 * text, 0.8 * room)
        figures.note_diverged(ax, base, row["n_diverged"], on_left, size_of_note)
    ax.set_xlim(limits)
    ax.set_ylim(-0.6, len(table) - 0.4)
    ax.set_yticks(range(len(table) - 1, -1, -1), names)
    ax.tick_params(axis="y", length=0, labelsize=size)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(measured_as(f"{splits[0]}_{quantity}"))
    handles = [
        figures.legend_key(ax, split.capitalize(), symbol, "black", face)
        for split, (symbol, face, _) in looks.items()
        if split in splits
    ]
    figures.legend_above(ax, handles, ncols=2)
    return ax


def arms_height(table: pd.DataFrame) -> float:
    """Height in mm at which `arms_plot` can name every arm, on paper."""
    return 24.0 + (8.0 if _name_lines(table) == 2 else 5.4) * max(len(table), 3)


def _name_lines(table: pd.DataFrame) -> int:
    """Lines that a name in `arms_plot` may have: two for long ones, unless there are many."""
    return 2 if len(table) <= 14 and max(len(str(name)) for name in table["arm"]) > 24 else 1


def differences(study: StudyResult, look: Look, baseline: str = "") -> pd.DataFrame:
    """`difference_table` of every other arm of a study, to its baseline or the one that is named.

    Empty where the study has none. Raises ExportError for an arm that it does not have.
    """
    declared = study.declaration.study
    names = [arm.name for arm in declared.arms]
    if baseline and baseline not in names:
        raise ExportError(
            f"{declared.name} has no arm {baseline!r}{meant(baseline, names)}; there: "
            f"{in_short(names)}"
        )
    baseline = baseline or baseline_arm(declared)
    others = [name for name in names if name != baseline] if baseline else []
    return difference_table(
        study.frame,
        others,
        baseline,
        look.rng(),
        metric=look.metric,
        confidence=look.confidence,
    )


def sentences(study: StudyResult, look: Look, baseline: str = "") -> list[str]:
    """Each arm against the study's baseline: its mean, and the difference (points) with its
    interval and verdict. Without a baseline, the means alone."""
    runs, metric = study.frame, look.metric
    unit = quantity_of(metric).unit
    digits, points = (1, " points") if unit == "%" else (3, f" {unit}".rstrip())
    compared = differences(study, look, baseline).set_index("arm")
    reference = baseline or baseline_arm(study.declaration.study)
    samples = {str(arm): part for arm, part in runs.groupby("arm", sort=False)}
    lines = []
    for (arm, part), stream in zip(samples.items(), look.rng().spawn(len(samples)), strict=True):
        values = tables.values_of(runs, arm, metric)
        if arm not in compared.index:
            sample = tables.units(part[metric], part.get("subset_seed"))
            mean = tables.mean_interval(sample, metric, stream, look.confidence)
            text = tables.interval_text(mean.estimate, mean.low, mean.high, digits)
            text = (
                text.replace(" [", f" {unit} [", 1) if unit and " [" in text else f"{text} {unit}"
            )
            lines.append(f"{arm} has a mean of {text.rstrip()}.")
            continue
        row = compared.loc[arm].to_dict()
        estimate, low, high = (row[f"difference{end}"] for end in ("", "_low", "_high"))
        if row["verdict"] == "not tested":
            estimate = np.mean(values) - np.mean(tables.values_of(runs, reference, metric))
        text = tables.comparison_sentence(arm, reference, estimate, low, high, digits, points)
        if row["effect"] == "negligible":
            text = text.replace("(inconclusive)", "(negligible)", 1)
        lines.append(f"{text}.")
    return lines


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    """Any study's arms beside one another, as the benchmark: a figure and a table of one name."""
    collected = Collector(study, look)
    study_name = study.declaration.study.name
    name = study_name if study_name in STANDARD else f"arms-{study_name}"
    quantity = look.metric.partition("_")[2]
    title = quantity_of(look.metric).label
    table = arms_table(study.frame, look.rng(), confidence=look.confidence, quantity=quantity)
    # Strengths are chosen on validation: the test accuracies of that search are not for reading.
    tuning = name.endswith("-tuning")
    splits = ("validation",) if tuning else ("validation", "test")
    if tuning:
        table = table.drop(columns=[name for name in map(str, table) if name.startswith("test_")])
    collected.figure(
        name,
        f"Mean {title} of each arm on {' and on '.join(splits)}",
        table,
        partial(arms_plot, table, splits=splits, quantity=quantity),
        height=arms_height(table),
        interval=collected.over_runs,
    )
    columns = ["arm", "strength", "n", *tables.shown_counts(table, "n_diverged", "n_missing")]
    columns += [
        name for name in map(str, table) if name.rpartition("_")[2] in ("median", "sd", "mean")
    ]
    collected.table(
        name,
        f"{title[0].upper()}{title[1:]} of each arm on {' and on '.join(splits)}",
        table,
        columns,
        note="Median and SD are the published form.",
        interval=f"of the means, {collected.over_runs}",
    )
    if study_name not in STANDARD and not tuning:
        _show_differences(collected, study, look)
    return collected.exhibits


def _show_differences(collected: Collector, study: StudyResult, look: Look) -> None:
    """Figure and table differences-NAME, where the study has a baseline and runs enough."""
    declared = study.declaration.study
    table, baseline = differences(study, look), baseline_arm(declared)
    if not len(table) or (table["verdict"] == "not tested").all():
        return
    name = f"differences-{declared.name}"
    title = f"Difference of each arm to {baseline}"
    interval = f"{collected.level} for all arms together, Student's t (Bonferroni)"
    note = f"{look.label}; the verdict is on whether the arm is better than {baseline}."
    if set(table["unit"]) == {"run"}:
        note = f"{note.rstrip('.')}; n counts the runs of both arms."
    named = {f"difference{end}": f"estimate{end}" for end in ("", "_low", "_high")}
    forest = table.rename(columns=named)
    collected.figure(
        name,
        title,
        forest,
        partial(verdict_plot, forest, names="arm"),
        height=verdict_height(forest, "arm"),
        note=note,
        interval=interval,
        width="double",
    )
    columns = ["arm", "difference", "n", "scope", "verdict", "effect"]
    collected.table(name, title, table, columns, note=note, interval=interval)
