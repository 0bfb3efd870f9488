"""What the notebooks 01 and 09 show: one sample step by step, measured groups, the explorer.

Models come from `aba_core.lessons`, handed in by the notebook, so that this file needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from aba_core.adjustments import Group
from analysis import explorer, figures, tables
from analysis.explorer import CATEGORY_COLOURS, Choice, View, picture
from analysis.results import ResultsError, load
from analysis.studies import standard_study
from analysis.studies.frozen import agreement, measured_group_table
from analysis.studies.isolation import (
    group_table,
    isolation_plot,
    isolation_sentence,
    isolation_table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.own import Answer
    from analysis.reports import Page

_WIDTH = figures.TWO_COLUMNS / figures.MILLIMETRES_PER_INCH


def settings(dataset: str) -> Mapping[str, Any]:
    """How the small models of a lesson are trained: as those of the frozen study."""
    return standard_study("frozen", dataset).config


def usual_strength(dataset: str) -> float:
    """The strength that the isolation study trains with."""
    return float(standard_study("isolation", dataset).arms[0].setting("strength"))


def look(models: Any, choice: Choice) -> View:
    """One sample as a model of `aba_core.lessons.SmallModels` sees it."""
    return View(**models.view(choice))


# --- one sample ----------------------------------------------------------------------------------


def show_sample(page: Page, choice: Choice, view: View) -> None:
    """A figure of the sample, its attribution map, and the categories made of the map."""
    with figures.style("paper"):
        figure, axes = plt.subplots(1, 3, figsize=(_WIDTH, 2.4), layout="constrained")
        _input(axes[0], view, view.x, choice.strength)
        truth = view.class_names[view.label]
        guess = view.class_names[int(view.scores_before.argmax())]
        axes[0].set_title(f"Sample {choice.sample}: {truth}\ntaken for {guess}")
        if view.x.ndim == 2:
            axes[0].set_ylabel("word (first 30)")
            axes[0].set_xlabel("dimension (first 30)")
        _map(figure, axes[1], view)
        _categories(axes[2], view)
    description = "The sample, its attribution map, and the categories made of the map"
    page.figure("one-sample", figure, description)


def _input(ax: Axes, view: View, values: np.ndarray, strength: float) -> None:
    """An input-shaped array as it looks: colours as they are, else grey on one scale for all that
    the strength can make of the sample."""
    if view.display is not None:
        ax.imshow(np.moveaxis(view.display(values).clip(0, 1), 0, -1))
    else:
        # Most of a text is padding, and a few of its numbers are far out.
        ends = np.quantile(picture(view.x), (0.02, 0.98) if view.x.ndim == 2 else (0, 1))
        _shades(ax, view, values, cmap="gray", vmin=ends[0] - strength, vmax=ends[1] + strength)
    ax.set_xticks([])
    ax.set_yticks([])


def _shades(ax: Axes, view: View, values: np.ndarray, **colours: Any) -> None:
    ax.imshow(picture(values), aspect="auto" if view.x.ndim == 2 else "equal", **colours)
    ax.set_xticks([])
    ax.set_yticks([])


def _map(figure: Figure, ax: Axes, view: View) -> None:
    """The map by its largest value; of the channels of a colour picture, the sum."""
    shown = view.attribution if view.display is None else view.attribution.sum(0, keepdims=True)
    _shades(ax, view, shown / np.abs(shown).max(), cmap=figures.MAP_COLOURS, vmin=-1, vmax=1)
    ax.set_title("Attribution (largest = 1)")
    bar = plt.cm.ScalarMappable(plt.Normalize(-1, 1), figures.MAP_COLOURS)
    figure.colorbar(bar, ax=ax, shrink=0.8)


def _categories(ax: Axes, view: View) -> None:
    signs = view.categories[2].astype(float) - view.categories[0]
    if view.display is not None:
        _shades(ax, view, signs, cmap=figures.MAP_COLOURS, vmin=-3, vmax=3)
        ax.set_title("Categories: high less low channels")
        return
    _shades(ax, view, signs, cmap=ListedColormap(CATEGORY_COLOURS), vmin=-1, vmax=1)
    ax.set_title("Categories")
    names = zip(("lowest", "middle", "highest"), CATEGORY_COLOURS, strict=True)
    handles = [Patch(color=colour, label=name) for name, colour in names]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1))


def show_all_adjustments(page: Page, choice: Choice, view: View) -> None:
    """The sample under each of the 27, a row a group, with the change of loss below each; a
    sentence before it says how many do what they are named for."""
    adjustments = tables.adjustment_table()
    rows = {group: adjustments[adjustments["group"] == group] for group in map(str, Group)}
    raised = int((view.loss_changes[rows["Epsilon"]["index"]] > 0).sum())
    lowered = int((view.loss_changes[rows["Delta"]["index"]] < 0).sum())
    page.note(
        f"On sample {choice.sample}, {raised} of the 9 Epsilon adjustments raise this model's loss "
        f"(before: {view.loss_before:.2g}) and {lowered} of the 9 Delta adjustments lower it, at "
        f"strength {choice.strength:g}."
    )
    with figures.style("paper"):
        figure, axes = plt.subplots(3, 9, figsize=(_WIDTH, 3.6), layout="constrained")
        for line, (group, members) in zip(axes, rows.items(), strict=True):
            for ax, row in zip(line, members.to_dict("records"), strict=True):
                index, colour = row["index"], figures.COLOURS[group]
                _input(ax, view, view.versions[index], choice.strength)
                name = f"{index} [{row['low']}, {row['middle']}, {row['high']}]"
                ax.set_title(name.replace("-", "−"), fontsize=6)
                change = view.loss_changes[index]
                text = f"{change:+.2g}" if abs(change) > 1e-5 else "0"
                ax.set_xlabel(text.replace("-", "−"), fontsize=6)
                for spine in ax.spines.values():
                    spine.set(visible=True, color=colour, linewidth=1.8)
            line[0].set_ylabel(group, color=figures.COLOURS[group])
    description = "The sample under each of the 27 adjustments, by group"
    page.figure("all-adjustments", figure, description)


# --- many samples --------------------------------------------------------------------------------


def measured_groups(
    page: Page,
    rows: pd.DataFrame | Sequence[Mapping[str, Any]],
    strength: float,
    neutral: float,
    source: str = "",
) -> pd.DataFrame:
    """What each adjustment is by its effect on models left as they are, and in a sentence how often
    that is what it is named for.

    rows: of `frozen`, one a (seed, adjustment, strength), of one arm or of the first of several;
    those at the strength nearest to `strength` count. neutral: the change of loss that counts as
    none, as a share of the unadjusted loss. source: whose numbers these are, for a note on it.
    """
    frozen = pd.DataFrame(rows)
    if "arm" in frozen:
        frozen = frozen[frozen["arm"] == frozen["arm"].iloc[0]]
    strengths = frozen["strength"].unique()
    nearest = float(strengths[np.abs(strengths - strength).argmin()])
    unadjusted = float((frozen["loss"] - frozen["loss_change"]).mean())
    table = measured_group_table(
        *(frozen, page.rng()),
        strength=nearest,
        threshold=neutral * unadjusted,
        confidence=page.confidence,
    )
    same = agreement(table)
    page.answer(
        f"Measured and nominal group agree for {round(same.share * same.n)} of {same.n} "
        f"adjustments (κ = {same.kappa:.2f}) at strength {nearest:g}; chance would give a third "
        "(κ = 0)."
        if same.n
        else "No interval, so no measured group: one model is not enough."
    )
    if source:
        page.note(
            f"{source}: unadjusted loss {unadjusted:.2f}; a change within ±"
            f"{neutral * unadjusted:.2g} counts as none."
        )
    return table


def show_loss_changes(page: Page, table: pd.DataFrame, name: str) -> None:
    """A figure of the change of loss under each adjustment, of `measured_groups`."""
    with figures.style("paper"):
        ax = figures.adjustment_heatmap(
            table, value="change", label="Change of loss (nats)", digits=2
        )
    page.figure(name, ax, "Change of loss under each adjustment")


def show_each_alone(
    page: Page, runs: pd.DataFrame, trained_on: int, judged_on: int, steps: int
) -> None:
    """What became of models trained with each adjustment alone: the groups in a sentence, a table
    and a figure.

    runs: one row per (arm, seed), arms as of `aba_core.lessons.each_alone`. trained_on, judged_on:
    numbers of samples. steps: training steps of each model.
    """
    isolation = isolation_table(runs, page.rng(), confidence=page.confidence)
    groups = group_table(isolation, page.rng(), confidence=page.confidence)
    page.answer(isolation_sentence(groups))
    page.note(
        f"Accuracy on the {judged_on} validation samples after {steps} steps on {trained_on}; "
        f"{runs['seconds'].sum():.1f} s for {len(runs)} models."
    )
    page.table("own-groups", groups)
    with figures.style("paper"):
        ax = isolation_plot(isolation)
    page.figure("own-isolation", ax, "Mean accuracy of each adjustment in order, coloured by group")


def show_answer(page: Page, answer: Answer) -> None:
    """What `own.compare` found: the sentence, what else is to be said, forest plot and table."""
    page.answer(answer.sentence)
    for sentence in (*answer.details(), *answer.notes):
        page.note(sentence)
    with figures.style("paper"):
        ax = answer.plot()
    caption = "Difference of each arm to Vanilla on test, with its interval over training subsets"
    page.figure("own-forest", ax, f"{caption} and seeds")
    page.table("own-arms", answer.table, answer.columns)
    page.note(answer.intervals)


# --- the explorer --------------------------------------------------------------------------------


def explore(page: Page, start: Choice, models: Any) -> None:
    """The explorer over `aba_core.lessons.SmallModels`, beside the isolation study's table where
    the results have one. It begins with the map of your own, where the models have it."""
    start = replace(start, method=models.own_map or start.method)

    @cache
    def standing(dataset: str) -> pd.DataFrame | None:
        try:
            study = load(page.results, "isolation", dataset, page.preset)
        except ResultsError:
            return None
        return isolation_table(study.frame, page.rng(), confidence=page.confidence)

    def seen(choice: Choice) -> View:
        return look(models, choice)

    explorer.show(page, start, seen, models.samples(), models.names(), standing, models.maps)
