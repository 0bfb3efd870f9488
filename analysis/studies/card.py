"""Card: what each arm does besides accuracy, aspect by aspect, compared with Vanilla.

Every run carries the columns of its report card (`aba_core.card`). Arms are compared within fresh
training subsets. The comparisons of an aspect, arms times quantities, are one family, whose
intervals hold together. A gain and a harm are judged alike, and there is no single score.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from aba_core.arms import METHODS, PUBLISHED_METHODS, VANILLA, Arm
from aba_core.aspects import CardSettings
from aba_core.identity import in_short, meant
from aba_core.quantities import ASPECTS, CARD_QUANTITIES, JUDGED, quantity_of
from analysis import figures, tables
from analysis.comparisons import LEAST_BLOCKS
from analysis.exhibits import Collector, Exhibits, ExportError, Look
from analysis.results import StudyResult
from analysis.studies.arms import baseline_arm, difference_table
from analysis.studies.tried import BEST_ON_DIGITS, UNTUNED, compared
from analysis.study import FRESH_SEED, Settings, Study, StudyError, TunedClass, Tuning
from analysis.study import on_fresh_subsets as fresh

ROOM = "analysis.studies.card:exhibits"
NOISE = "Noise"
# Sets of adjustments by the words of --arms, and their arms' names.
SETS = {"all": "All", "epsilon": "Epsilon", "delta": "Delta", "neutral": "Neutral"}
STANDARD_ARMS = ("all", "epsilon", *PUBLISHED_METHODS, "noise", "fgsm", *BEST_ON_DIGITS)
SPLIT = "test"
# {verdict: (colour, marker, what it says)}
LOOKS = {
    "gain": ("#0072B2", "^", "gain"),
    "harm": ("#D55E00", "v", "harm"),
    "negligible": ("#7A7A7A", "s", "negligible"),
    "open": ("#7A7A7A", "o", "open"),
}
READING = (
    "Gain: the interval of the difference to {base} lies wholly on the better side of 0. Harm: "
    "wholly on the worse side. Negligible: within half a point. Open: none of these. The intervals "
    "of an aspect hold together (Bonferroni over its arms and quantities)."
)


# --- what is trained -----------------------------------------------------------------------------


def known_arms() -> tuple[str, ...]:
    """What --arms may name."""
    return ("vanilla", *SETS, "noise", *(kind for kind in METHODS if kind != "aba"))


def arm_of(name: str, settings: Settings) -> Arm:
    """An arm by its word, at the strength of the isolation study. Raises StudyError."""
    if name not in known_arms():
        raise StudyError(
            f"unknown arm {name!r}{meant(name, known_arms())}; known: {', '.join(known_arms())}"
        )
    if name == "vanilla":
        return Arm(VANILLA)
    if name in SETS:
        return Arm.of(SETS[name], adjustments=name, **settings.loss)
    if name == "noise":
        return Arm.of(NOISE, adjustments="all", placebo="gaussian", **settings.loss)
    return Arm.of(METHODS[name].title, method=name)


def declare(
    settings: Settings,
    arms: Sequence[str] = (),
    card: CardSettings | None = None,
) -> Study:
    """Vanilla and some arms, each tuned alike for accuracy on validation, with a whole card.

    arms: as `known_arms` has them; by default the standard ones, as far as they fit the data.
    """
    tried = compared(settings)
    standard = [a for a in STANDARD_ARMS if a not in BEST_ON_DIGITS or a in tried]
    names = [name for name in dict.fromkeys(arms or standard) if name != "vanilla"]
    made = {name: arm_of(name, settings) for name in ("vanilla", *names)}
    strengths = settings.strength["benchmark"]
    classes = []
    for name in names:
        values: dict[str, Any] = {}
        if name in UNTUNED:
            continue
        if name in tried:
            field, given = tried[name]
            values = {field: tuple(sorted(given[: len(strengths)]))}
        elif made[name].setting("kind") not in ("aba", *PUBLISHED_METHODS):
            continue  # nothing of it is tuned
        title = made[name].name
        classes.append(TunedClass(name=title, arms=(title,), values=values))
    tuning = Tuning(strengths=strengths, seeds=settings.seeds["tuning"], classes=tuple(classes))
    return settings.study(
        "card",
        fresh(made.values()),
        config={"card": as_data(card or CardSettings(**settings.card))},
        seeds=tuple(range(FRESH_SEED, FRESH_SEED + settings.seeds["card"])),
        tuning=tuning if classes else None,
        room=ROOM,
    )


def with_card(study: Study, card: CardSettings, arms: Sequence[str] = ()) -> Study:
    """Any study's arms, or those of them that are named, with a card: a study of its own."""
    names = [arm.name for arm in study.arms]
    for name in arms:
        if name not in names:
            raise StudyError(
                f"{study.name} has no arm {name!r}{meant(name, names)}; there: {in_short(names)}"
            )
    if study.frozen:
        raise StudyError(f"{study.name} is a frozen study; needed: one whose runs are reported")
    kept = [arm for arm in study.arms if not arms or arm.name in arms or arm.reference]
    tuning = study.tuning
    if tuning is not None and tuning.classes:
        here = {arm.name for arm in kept}
        classes = [
            one.model_copy(update={"arms": tuple(a for a in one.arms if a in here)})
            for one in tuning.classes
        ]
        tuning = tuning.model_copy(update={"classes": tuple(c for c in classes if c.arms)})
    changes = {
        "name": f"{study.name}-card",
        "arms": tuple(kept),
        "config": {**study.config, "card": as_data(card)},
        "hypotheses": (),
        "room": ROOM,
        "tuning": tuning,
        "preset": study.preset,
    }
    return study.model_copy(update=changes)


def as_data(card: CardSettings) -> dict[str, Any]:
    """Settings as a study's config holds them: what differs from the defaults, and the aspects."""
    usual = CardSettings()
    given = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(card).items()
        if value != getattr(usual, name)
    }
    return {**given, "aspects": list(card.aspects)}


# --- what it says --------------------------------------------------------------------------------


def aspects_in(frame: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """The judged quantities that runs have, by aspect."""
    found = {
        aspect: tuple(
            name
            for name in names
            if f"{SPLIT}_{name}" in frame and frame[f"{SPLIT}_{name}"].notna().any()
        )
        for aspect, names in JUDGED.items()
    }
    return {aspect: names for aspect, names in found.items() if names}


def card_table(
    runs: pd.DataFrame,
    arms: Sequence[str],
    baseline: str,
    rng: np.random.Generator,
    *,
    confidence: float = 0.95,
    margin: float = 0.5,
) -> pd.DataFrame:
    """Every arm's judged quantities and their differences to the baseline: one row each.

    Columns: aspect, quantity, label, unit, better, arm, mean, difference with interval, n, scope,
    family (how many comparisons its aspect has), verdict (gain, harm, negligible, open, "not
    tested"). margin: of negligible differences, for percentages, in points.
    """
    rows: list[dict[str, Any]] = []
    everything = aspects_in(runs)
    streams = iter(rng.spawn(sum(map(len, everything.values()))))
    for aspect, names in everything.items():
        level = 1 - (1 - confidence) / len(names)
        for name in names:
            metric = f"{SPLIT}_{name}"
            quantity = quantity_of(metric)
            compared = difference_table(
                runs, arms, baseline, next(streams), metric=metric, confidence=level, margin=margin
            ).set_index("arm")
            facts = {
                "aspect": aspect,
                "quantity": name,
                "label": quantity.label,
                "unit": quantity.unit,
                "better": "more" if quantity.more_is_better else "less",
                "family": len(names) * len(arms),
            }
            for arm in (baseline, *arms):
                values = tables.values_of(runs, arm, metric)
                row = {**facts, "arm": arm, "mean": values.mean() if values.size else np.nan}
                one: dict[Any, Any] = compared.loc[arm].to_dict() if arm in compared.index else {}
                for end in ("", "_low", "_high"):
                    row[f"difference{end}"] = one.get(f"difference{end}", np.nan)
                row |= {"n": one.get("n", len(values)), "scope": one.get("scope", "")}
                rows.append({**row, "verdict": _verdict(one.get("verdict"), one.get("effect"))})
    return pd.DataFrame(rows)


def _verdict(verdict: Any, effect: Any) -> str:
    """A difference's verdict in the card's words; "" of the baseline itself."""
    if verdict in (None, "not tested"):
        return str(verdict or "")
    if verdict == "supported":
        return "gain"
    return {"reversed": "harm", "negligible": "negligible"}.get(str(effect), "open")


_IN_WORDS = {"selective": "selective prediction", "ood": "unfamiliar inputs"}


def _in_words(aspect: str) -> str:
    return _IN_WORDS.get(aspect, aspect)


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """The table as a reader has it: a row a quantity, a column an arm; differences to the baseline
    with intervals, ▲ for a gain and ▼ for a harm."""
    arms = list(dict.fromkeys(table["arm"]))
    rows = []
    for (aspect, label, unit), part in table.groupby(["aspect", "label", "unit"], sort=False):
        row = {
            "aspect": _in_words(str(aspect)),
            "quantity": f"{label} ({unit})" if unit else label,
        }
        cells = part.set_index("arm")
        digits = 1 if unit in ("%", "points") else 3
        for arm in arms:
            one = cells.loc[arm]
            if one["verdict"] == "":
                row[arm] = tables.interval_text(one["mean"], np.nan, np.nan, digits)
                continue
            middle, low, high = (one[f"difference{end}"] for end in ("", "_low", "_high"))
            mark = {"gain": " ▲", "harm": " ▼"}.get(one["verdict"], "")
            row[arm] = tables.interval_text(middle, low, high, digits) + mark
        rows.append(row)
    return pd.DataFrame(rows)


def sentences(table: pd.DataFrame) -> list[str]:
    """Each arm's gains, by aspect, and its harms, by name, in a sentence; of what was tested."""
    lines = []
    for arm, every in table[table["verdict"] != ""].groupby("arm", sort=False):
        part = every[every["verdict"] != "not tested"]
        if part.empty:
            lines.append(
                f"{arm}: nothing is tested; an interval needs runs of {LEAST_BLOCKS} training "
                "subsets or more."
            )
            continue
        better, worse = (part[part["verdict"] == verdict] for verdict in ("gain", "harm"))
        aspects = [_in_words(name) for name in better["aspect"].unique()]
        where = f" ({tables.listed(aspects)})" if aspects else ""
        names = f"{len(worse)}: {tables.listed(worse['label'].tolist())}" if len(worse) else "none"
        lines.append(
            f"{arm} is better in {len(better)} of {len(part)} quantities{where} and worse in "
            f"{names}."
        )
    return lines


def cost_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Seconds a run that each aspect took, and those of the training itself."""
    names = {"training": "seconds"} | {aspect: f"seconds_{aspect}" for aspect in ASPECTS}
    rows = [
        {"aspect": aspect, "seconds": float(runs[name].mean())}
        for aspect, name in names.items()
        if name in runs
    ]
    return pd.DataFrame(rows)


# --- what is shown -------------------------------------------------------------------------------


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    """Figures card and card-ASPECT; tables card, card-long, card-all and card-cost; their names
    begin as `prefix_of` says.

    Raises ExportError for runs without a card.
    """
    runs, declared = study.frame, study.declaration.study
    name = f"{prefix_of(declared.name)}card"
    if not aspects_in(runs):
        raise ExportError(
            f"the runs of {declared.name} have no report card; make them: aba card {declared.name}"
        )
    base = baseline_arm(declared)
    others = [arm.name for arm in declared.arms if arm.name != base]
    if not base or not others:
        raise ExportError(f"{declared.name} has no arm to compare with Vanilla")
    collected = Collector(study, look)
    table = card_table(runs, others, base, look.rng(), confidence=look.confidence)
    interval = f"{collected.level} for an aspect together, Student's t (Bonferroni)"
    note = READING.format(base=base)
    collected.figure(
        name, f"Gains and harms of each arm compared with {base}", table,
        partial(overview_plot, table), height=overview_height(table), note=note,
        interval=interval, width="double",
    )  # fmt: skip
    for aspect in dict.fromkeys(table["aspect"]):
        part = table[table["aspect"] == aspect]
        collected.figure(
            f"{name}-{aspect}", f"Differences to {base}: {_in_words(aspect)}", part,
            partial(aspect_plot, part), note=note, interval=interval, width="double",
        )  # fmt: skip
    shown = wide(table)
    collected.table(name, f"The report card: {base}, and differences to it", shown,
                    note=f"▲: a gain, ▼: a harm. {note}", interval=interval)  # fmt: skip
    collected.table(
        f"{name}-long", "Every comparison of the report card", table,
        ["aspect", "label", "arm", "mean", "difference", "n", "family", "verdict"],
        note=note, interval=interval, digits=3,
    )  # fmt: skip
    collected.table(f"{name}-all", "Means of all quantities of the report card", all_means(runs),
                    digits=3)  # fmt: skip
    collected.table(
        f"{name}-cost", "Seconds that each aspect takes, a run", cost_table(runs), digits=2
    )
    return collected.exhibits


def prefix_of(study: str) -> str:
    """What the exhibits of a study's cards begin with: nothing in the study card; "benchmark-" in
    benchmark-card."""
    return "" if study == "card" else f"{study.removesuffix('-card')}-"


def all_means(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean over runs of every quantity of the card: a row a quantity, a column an arm."""
    names = [name for name in CARD_QUANTITIES if f"{SPLIT}_{name}" in runs]
    means = runs.groupby("arm", sort=False)[[f"{SPLIT}_{name}" for name in names]].mean().T
    means.insert(0, "quantity", [CARD_QUANTITIES[name].label for name in names])
    kept = means[means.drop(columns="quantity").notna().any(axis=1)]
    return kept.reset_index(drop=True)


def overview_plot(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """A dot for every arm and quantity, marked and coloured by its verdict. table: `card_table`."""
    ax = figures.given_or_new(ax, figures.TWO_COLUMNS, overview_height(table))
    text, width, marker = figures.sizes(ax)
    compared = table[table["verdict"] != ""]
    arms = list(dict.fromkeys(compared["arm"]))
    pairs = compared[["aspect", "label"]].drop_duplicates().reset_index(drop=True)
    place = {label: len(pairs) - 1 - y for y, label in enumerate(pairs["label"])}
    for _, row in compared.iterrows():
        x, y = arms.index(row["arm"]), place[row["label"]]
        if row["verdict"] not in LOOKS:
            ax.text(x, y, row["verdict"], size=0.7 * text, ha="center", va="center")
            continue
        colour, symbol, _ = LOOKS[row["verdict"]]
        told = row["verdict"] in ("gain", "harm")
        ax.plot(x, y, symbol, color=colour, mfc=colour if told else "white",
                ms=(1.6 if told else 0.8) * marker)  # fmt: skip
    for y in range(len(pairs)):
        ax.axhline(y, color="0.92", lw=0.5 * width, zorder=-2)
    changes = pairs.index[pairs["aspect"] != pairs["aspect"].shift()]
    for first in changes:
        ax.axhline(len(pairs) - 0.5 - first, color="0.6", lw=0.6 * width, zorder=-1)
        aspect = figures.wrapped(_in_words(pairs["aspect"][first]), 9 * text, 0.8 * text)
        ax.text(len(arms) - 0.4, len(pairs) - 1 - first, aspect, size=0.8 * text, va="center")
    across = 0.4 * figures.panel_size(ax)[0]
    names = [figures.wrapped(label, across, 0.8 * text, 1) for label in pairs["label"]]
    ax.set_yticks(range(len(pairs) - 1, -1, -1), names)
    ax.set_xticks(range(len(arms)), [figures.wrapped(a, 9 * text, 0.8 * text, 2) for a in arms])
    ax.tick_params(length=0, labelsize=0.8 * text)
    plt.setp(ax.get_xticklabels(), rotation=30, ha="right", rotation_mode="anchor")
    ax.set_xlim(-0.6, len(arms) - 0.4)
    ax.set_ylim(-0.6, len(pairs) - 0.4)
    ax.spines["left"].set_visible(False)
    figures.legend_above(ax, _keys(marker), ncols=4)
    return ax


def overview_height(table: pd.DataFrame) -> float:
    """Height in mm at which `overview_plot` can name every quantity, on paper."""
    return 34.0 + 4.6 * table["label"].nunique()


def aspect_plot(table: pd.DataFrame, width: str = "double") -> Figure:
    """A dot plot of one aspect: a panel a quantity, a row an arm, differences with intervals."""
    compared = table[table["verdict"] != ""]
    quantities = list(dict.fromkeys(compared["quantity"]))
    arms = list(dict.fromkeys(compared["arm"]))
    height = 26.0 + 5.0 * len(arms)
    figure, axes = figures.panels(width, height, 1, len(quantities), sharey=True)
    for ax, name in zip(axes[0], quantities, strict=True):
        _panel(ax, compared[compared["quantity"] == name], arms)
    marker = figures.sizes(axes[0, 0])[2]
    figure.legend(
        handles=_keys(marker), loc="outside upper left", ncols=4, frameon=False,
        fontsize=0.875 * figures.sizes(axes[0, 0])[0],
    )  # fmt: skip
    return figure


def _panel(ax: Axes, part: pd.DataFrame, arms: Sequence[str]) -> None:
    text, width, marker = figures.sizes(ax)
    limits = figures.limits_of(part.assign(zero=0.0), ["difference", "zero"]) or (-1.0, 1.0)
    for _, row in part.iterrows():
        y = len(arms) - 1 - arms.index(row["arm"])
        ax.axhline(y, color="0.92", lw=0.5 * width, zorder=-2)
        if row["verdict"] not in LOOKS:
            ax.text(limits[0], y, row["verdict"], size=0.7 * text, va="center")
            continue
        colour, symbol, _ = LOOKS[row["verdict"]]
        ends = row["difference_low"], row["difference_high"]
        figures.interval_line(ax, y, *ends, limits, color=colour, lw=1.2 * width)
        face = colour if row["verdict"] in ("gain", "harm") else "white"
        ax.plot(row["difference"], y, symbol, color=colour, mfc=face, ms=marker)
    ax.axvline(0, color="0.4", lw=0.6 * width, zorder=0)
    ax.set_xlim(limits)
    ax.set_ylim(-0.6, len(arms) - 0.4)
    ax.set_yticks(range(len(arms) - 1, -1, -1), arms)
    ax.tick_params(axis="y", length=0, labelsize=0.8 * text)
    ax.tick_params(axis="x", labelsize=0.7 * text)
    ax.locator_params(axis="x", nbins=4)
    ax.spines["left"].set_visible(False)
    one = part.iloc[0]
    unit = "points" if one["unit"] == "%" else one["unit"]
    label = f"{one['label']}{f' ({unit})' if unit else ''}, {one['better']} is better"
    across = 0.9 * figures.panel_size(ax)[0]
    ax.set_xlabel(figures.wrapped(label, across, 0.75 * text, 5), size=0.75 * text)


def _keys(marker: float) -> list[Any]:
    return [
        Line2D([], [], color=colour, marker=symbol, ls="none", ms=marker, label=words,
               mfc=colour if verdict in ("gain", "harm") else "white")
        for verdict, (colour, symbol, words) in LOOKS.items()
    ]  # fmt: skip
