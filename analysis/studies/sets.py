"""Sets: size and opposition of random sets, told apart. The set is the unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from aba_core.adjustments import ADJUSTMENTS, OPPOSITES, PAIRS
from aba_core.arms import Arm
from analysis import figures, mixed, slopes, statistics
from analysis.exhibits import Collector
from analysis.hypothesis import Hypothesis, Slope
from analysis.studies.isolation import arm_name
from analysis.study import FRESH_SEED, Settings, Study
from analysis.study import on_fresh_subsets as fresh

SETS_PER_CELL = 12
HELD = ("direction", "offset", "norm")  # in squares too: fully opposed sets have no direction
SET_SIZES = {2: (0, 1), 4: (0, 1, 2), 8: (0, 2, 4)}  # size: numbers of opposed pairs


def declare(settings: Settings) -> Study:
    """Random sets crossing size and opposition, each run on a fresh subset."""
    arms = [
        Arm.of(set_name(members), adjustments=",".join(map(str, members)), **settings.loss)
        for members in random_sets(SETS_PER_CELL)
    ]
    return settings.study(
        "sets",
        fresh(arms),
        hypotheses=hypotheses_of(SETS_PER_CELL, settings.planned["sets"]),
        seeds=tuple(range(FRESH_SEED, FRESH_SEED + settings.seeds["sets"])),
    )


# --- which sets ----------------------------------------------------------------------------------


def properties(members: Sequence[int]) -> dict[str, float]:
    """What may matter of a set besides its size.

    size: doublings, log2 of the number of members. opposition: share of members whose opposite is
    a member too. direction: mean of high − low. offset: mean of the middle. norm: root of the mean
    squared change of a feature, with a tenth of them low and a tenth high.
    """
    changes = np.array([tuple(ADJUSTMENTS[i]) for i in members], dtype=np.float64)
    opposed = [OPPOSITES[i] in members for i in members]
    return {
        "size": math.log2(len(members)),
        "opposition": float(np.mean(opposed)),
        "direction": float((changes[:, 2] - changes[:, 0]).mean()),
        "offset": float(changes[:, 1].mean()),
        "norm": float(np.sqrt((changes**2 @ (0.1, 0.8, 0.1)).mean())),
    }


def random_sets(per_cell: int) -> list[tuple[int, ...]]:
    """Random sets for size × opposition: all 26 single adjustments, then `per_cell` of each kind
    in `SET_SIZES`, without repeats. A list of sets; members in the published order.

    Adjustment 0 changes nothing and is left out, so that no set holds clean samples. Sets whose
    mean direction is beyond ±1/2 are drawn again: opposed pairs have none, and sets without them
    would differ by it too.
    """
    rng = np.random.default_rng(0)  # the sets are part of the study: always the same
    drawn: list[tuple[int, ...]] = [(i,) for i in range(1, 27)]
    for size, kinds in SET_SIZES.items():
        for pairs in kinds:
            cell: set[tuple[int, ...]] = set()
            while len(cell) < per_cell:
                order = rng.permutation(len(PAIRS))
                chosen = [i for p in order[:pairs] for i in PAIRS[p]]
                rest = order[pairs : pairs + size - 2 * pairs]
                chosen += [PAIRS[p][int(rng.integers(2))] for p in rest]
                members = tuple(sorted(chosen))
                if abs(properties(members)["direction"]) <= 0.5:
                    cell.add(members)
            drawn += sorted(cell)
    return drawn


def set_name(members: Sequence[int]) -> str:
    return arm_name(members[0]) if len(members) == 1 else "set " + " ".join(map(str, members))


def hypotheses_of(per_cell: int, n: int) -> tuple[Hypothesis, ...]:
    """Variety and tension apart, on the sets of `random_sets`, with n seeds an arm."""
    covariates = {set_name(members): properties(members) for members in random_sets(per_cell)}
    held = "at fixed {}, mean direction, offset and norm and their squares; the set is the unit"
    return (
        Hypothesis(
            name="variety",
            statement="Larger sets are better at fixed opposition.",
            estimand="points for each doubling of a set's size " + held.format("opposition"),
            comparisons=(
                Slope(label="a doubling of size", term="size", covariates=covariates, squares=HELD),
            ),
            margin=0.25,
            n=n,
        ),
        Hypothesis(
            name="tension",
            statement="Sets of opposed pairs are better at fixed size.",
            estimand="points from no member to every member having its opposite in the set "
            + held.format("size"),
            comparisons=(
                Slope(
                    label="full opposition", term="opposition", covariates=covariates, squares=HELD
                ),
            ),
            n=n,
        ),
    )


# --- what is shown -------------------------------------------------------------------------------


def show(collector: Collector, slope: Slope, prefix: str) -> None:
    """Add figures PREFIXsizes and PREFIXadjusted and table PREFIXmixed-model of a slope's arms."""
    look, runs = collector.look, collector.study.frame
    sets = slopes.set_frame(slope, runs, look.metric).rename(columns={look.metric: "accuracy"})
    collector.figure(
        f"{prefix}sizes",
        "Accuracy of random sets against their size and opposition",
        sets,
        partial(sets_plot, sets, confidence=look.confidence, label=look.label),
        height=66,
        note=f"{look.label}; small marks are sets, large ones their means.",
        interval=f"{collector.level}, Student's t over sets",
    )
    both = ("size", "opposition")
    others = (name for name in next(iter(slope.covariates.values())) if name not in both)
    held = ", ".join([*others, *(f"the square of {name}" for name in slope.squares)])
    adjusted = pd.concat(
        slopes.adjusted(slope.model_copy(update={"term": term}), runs, look.metric).assign(
            term=term, opposition=sets["opposition"].to_numpy()
        )
        for term in both
    )
    collector.figure(
        f"{prefix}adjusted",
        "Accuracy of random sets against size at fixed opposition, and against opposition at fixed "
        "size",
        adjusted,
        partial(adjusted_panels, adjusted, label=look.label),
        note=f"{look.label}; a mark is a set. What {held} and the other property explain is taken "
        "out of both axes, so that a line has the slope that the table of comparisons gives with "
        "its interval.",
        width="double",
    )
    collector.table(
        f"{prefix}mixed-model",
        "Mixed model of the runs: properties of sets, with set and seed as random effects",
        mixed_table(slope, runs, look.metric, look.confidence),
        note=f"{look.label}, points; size: for each doubling; opposition: from none to full.",
        interval=f"{100 * look.confidence:g} %, Student's t, degrees of freedom of the sets",
        digits=2,
    )


def mixed_table(
    slope: Slope, runs: pd.DataFrame, metric: str, confidence: float = statistics.CONFIDENCE
) -> pd.DataFrame:
    """A mixed model of all runs as a check of the slopes: one row a property, with estimate
    (points), interval and p; then the spreads (SD, points) of sets, seeds and the rest."""
    frame = slopes.set_frame(slope, runs, metric, by_run=True).rename(columns={metric: "accuracy"})
    terms = [name for name in frame.columns if name not in ("set", "seed", "accuracy")]
    random = ["set", "seed"] if frame["seed"].nunique() > 1 else ["set"]
    fit = mixed.mixed_model(frame, f"accuracy ~ {' + '.join(terms)}", random, confidence=confidence)
    fixed = fit.fixed[fit.fixed["term"] != "Intercept"]
    spreads = [{"term": f"SD of {name}", "estimate": value} for name, value in fit.random.items()]
    return pd.concat([fixed, pd.DataFrame(spreads)], ignore_index=True)[
        ["term", "estimate", "estimate_low", "estimate_high", "p_value"]
    ]


# opposition: colour, marker, name
_OPPOSITION_LOOKS = {
    0.0: (figures.OTHER_COLOURS[1], "o", "none"),
    0.5: ("#7A7A7A", "s", "half"),
    1.0: (figures.OTHER_COLOURS[0], "^", "all"),
}


def sets_plot(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    confidence: float = statistics.CONFIDENCE,
    label: str = "Validation accuracy (%)",
) -> Axes:
    """Accuracy of random sets against their size, by the share of members with their opposite.

    table: one row a set with size (doublings), opposition (0 to 1) and accuracy (percent), the mean
    over its runs. Small marks are sets, large ones the means of their kind with an interval over
    sets (Student's t).
    """
    ax = figures.given_or_new(ax, figures.ONE_COLUMN, 66)
    _, width, marker = figures.sizes(ax)
    sizes = sorted(table["size"].unique())
    handles = []
    for number, (opposition, (colour, symbol, name)) in enumerate(_OPPOSITION_LOOKS.items()):
        alike = table[np.isclose(table["opposition"], opposition)]
        means = []
        for size in sizes:
            values = alike.loc[alike["size"] == size, "accuracy"].to_numpy(np.float64)
            if not values.size:
                continue
            place = size + 0.24 * (number - 1)
            spread = 0.16 * (np.arange(values.size) / max(1, values.size - 1) - 0.5)
            ax.plot(
                place + spread, np.sort(values), symbol, color=colour, ms=0.35 * marker, alpha=0.45
            )
            mean = statistics.mean_interval(values, method="t", confidence=confidence)
            ax.plot([place] * 2, [mean.low, mean.high], color=colour, lw=1.4 * width)
            means.append((place, mean.estimate))
        if means:
            line = {"color": colour, "marker": symbol, "ms": 0.9 * marker, "lw": 0.8 * width}
            ax.plot(*zip(*means, strict=True), **line)  # type: ignore[arg-type]
            handles.append(Line2D([], [], **line, label=f"{name} opposed"))  # type: ignore[arg-type]
    ax.set_xticks(sizes, [f"{2**size:g}" for size in sizes])
    ax.set_xlabel("Adjustments in the set")
    ax.set_ylabel(label)
    figures.legend_above(ax, handles, ncols=3)
    return ax


_TERMS = {
    "size": "Size, adjusted for other properties (doublings)",
    "opposition": "Opposition, adjusted for other properties (share)",
}


def adjusted_panels(
    table: pd.DataFrame, width: str = "double", *, label: str = "Validation accuracy (%)"
) -> Figure:
    """Partial effects of size and opposition, a panel each.

    table: rows of `slopes.adjusted` with the columns term and opposition (0 to 1).
    """
    columns = 1 if width == "single" else 2
    height = 66.0 if columns == 2 else 120.0
    figure, axes = figures.panels(width, height, 2 // columns, columns, sharey=True)
    for ax, (term, words) in zip(axes.flat, _TERMS.items(), strict=True):
        _, line, marker = figures.sizes(ax)
        part = table[table["term"] == term]
        for opposition, (colour, symbol, name) in _OPPOSITION_LOOKS.items():
            alike = part[np.isclose(part["opposition"], opposition)]
            ax.plot(
                alike["property"], alike["accuracy"], symbol, color=colour, ms=0.5 * marker,
                alpha=0.6, label=f"{name} opposed",
            )  # fmt: skip
        x, y = (part[column].to_numpy(np.float64) for column in ("property", "accuracy"))
        slope = float(x @ y / (x @ x)) if x.any() else 0.0
        ends = np.array([x.min(), x.max()])
        ax.plot(ends, slope * ends, color="black", lw=line)
        ax.axhline(0, color="0.7", lw=0.6 * line, zorder=-1)
        ax.set_xlabel(words)
        step = "per doubling" if term == "size" else "from none to all"
        ax.set_title(f"{slope:.2f} points {step}".replace("-", "−"))
    for ax in axes[:, 0]:
        ax.set_ylabel(f"{label},\nadjusted for other properties")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False)
    return figure
