"""Does attribution-based augmentation help on data of your own? One call, and a plain answer.

    data, model → arms tuned alike on tuning subsets → fresh subsets and seeds → rules → Answer

    from analysis.own import compare
    answer = compare(x, y, build)
    print(answer)

Nothing is kept but what `Answer.save` writes. The model is chosen and tuned on validation; the
verdict is on test, which no choice has seen.
"""

from __future__ import annotations

import difflib
import html
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from aba_core.arms import METHODS, PLACEBO_TITLES, PUBLISHED_METHODS, VANILLA, Arm, TrainConfig
from analysis import exhibits, figures, rules, runner, tables, tuning
from analysis.comparisons import ComparisonError
from analysis.hypothesis import Contrast, Hypothesis, minus
from analysis.rules import Verdict
from analysis.studies.arms import arms_table, difference_table
from analysis.studies.verdicts import verdict_height, verdict_plot
from analysis.study import FRESH_SEED, Study, StudyError, TunedClass, Tuning, on_fresh_subsets

METRIC = "test_accuracy"
STRENGTHS = (0.2, 0.5, 1.0)
# As many values each as there are strengths, so that no class is tuned more than another.
COMPARATORS: dict[str, tuple[str, tuple[float, ...]]] = {
    "mixup": ("alpha", (0.2, 0.5, 1.0)),
    "label-smoothing": ("epsilon", (0.05, 0.1, 0.2)),
    "input-dropout": ("p", (0.1, 0.2, 0.3)),
}
PRESETS = tuple(METHODS[kind].title for kind in PUBLISHED_METHODS)
PLACEBOS = {name: f"All, {PLACEBO_TITLES[name]}" for name in ("other_sample", "gaussian")}
ABA_ARMS = (*PRESETS, "All")
STEPS = 150  # of each model, where no training is given
FEW_FEATURES = 10  # below, the lowest and highest tenth hold no feature: quarters are taken


@dataclass(frozen=True)
class Answer:
    """What `compare` found.

    sentence: the answer. table: one row an arm, with its setting, n, validation and test accuracy,
    and the difference to Vanilla on test, whose intervals hold together. verdicts: on the three
    declared hypotheses, whether ABA helps, whether the map matters, whether ABA beats other
    regularisers. runs: one row a run that is reported; tried: what each arm reached with each value
    on tuning subsets. study: what was declared, at the chosen strengths. notes: what a reader must
    know of the data.
    """

    sentence: str
    table: pd.DataFrame
    verdicts: tuple[Verdict, ...]
    runs: pd.DataFrame
    tried: pd.DataFrame
    study: Study
    scope: str
    confidence: float
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The columns that readers see, in order."""
        counted = tables.shown_counts(self.table, "n_diverged", "n_missing")
        return [
            *("arm", "setting", "n", *counted, "validation", "test"),
            *("difference", "verdict", "effect"),
        ]

    @property
    def intervals(self) -> str:
        """What the table's intervals are over and hold for."""
        level = f"{100 * self.confidence:g} %"
        return (
            f"Accuracy in percent. Intervals of means have {level} each, those of differences "
            f"{level} for all arms together. All are over training subsets and seeds, on the same "
            "test samples."
        )

    @property
    def verdict(self) -> str:
        """Whether ABA helps: supported, refuted or inconclusive."""
        return self.verdicts[0].verdict

    def presented(self) -> pd.DataFrame:
        """The table as text, for readers."""
        return tables.present(self.table, columns=self.columns)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Forest plot: each arm's difference to Vanilla on test, with its interval."""
        return verdict_plot(self._forest, ax, names="arm")

    @property
    def _forest(self) -> pd.DataFrame:
        rows = self.table[self.table["arm"] != VANILLA]
        named = {f"difference{end}": f"estimate{end}" for end in ("", "_low", "_high")}
        return rows.rename(columns=named).reset_index(drop=True)

    def save(self, out: str | Path, command: str = "") -> list[Path]:
        """Write the forest plot and the table with their data to out/figures and out/tables."""
        forest = self._forest
        facts = {
            "studies": [self.study.name],
            "dataset": self.study.dataset,
            "runs": len(self.runs),
            "n": str(self.table["n"].max()),
            "scope": self.scope,
        }
        caption = f"{self.sentence} {' '.join(self.notes)}".strip()
        made = [
            exhibits.Exhibit(
                "own-forest", "Differences to Vanilla on test (points)", forest, caption, facts,
                draw=lambda width: figures.figure_of(
                    self.plot(figures.sized_axes(width, verdict_height(forest, "arm")))
                ),
                width="double",
            ),
            exhibits.Exhibit(
                "own-arms", "Accuracy of each arm", self.table, f"{caption} {self.intervals}",
                facts, columns=self.columns,
            ),
        ]  # fmt: skip
        told = command or "analysis.own.compare"
        return [path for one in made for path in exhibits.write(one, out, command=told)]

    def __str__(self) -> str:
        lines = [self.sentence, *self.details(), *self.notes]
        shown = self.presented()
        for name in ("Arm", "Setting", "Verdict"):  # words to the left, numbers to the right
            width = max(map(len, [name, *shown[name]]))
            shown[name] = shown[name].str.ljust(width)
            shown = shown.rename(columns={name: name.ljust(width)})
        return "\n".join([*lines, "", shown.to_string(index=False), "", self.intervals])

    def __repr__(self) -> str:
        return f"<Answer: {self.sentence}>"

    def details(self) -> list[str]:
        """A sentence on the placebos and one on the other regularisers."""
        return [_detail(verdict) for verdict in self.verdicts[1:]]

    def _repr_html_(self) -> str:
        drawn = io.StringIO()
        with figures.style("paper"):
            figure = figures.figure_of(self.plot())
            figure.savefig(drawn, format="svg")
            plt.close(figure)
        said = "".join(f"<p>{html.escape(one)}</p>" for one in (*self.details(), *self.notes))
        picture = drawn.getvalue().partition("<svg")
        return (
            f"<p><b>{html.escape(self.sentence)}</b></p>{said}{picture[1]}{picture[2]}"
            + self.presented().to_html(index=False, border=0)
            + f"<p>{html.escape(self.intervals)}</p>"
        )


# Fifteen arguments: the data and the model, then what is usually left as it is, all by name.
def compare(
    x: Any,
    y: Any = None,
    build: Callable[[], Any] | str | None = None,
    *,
    config: TrainConfig | None = None,
    steps: int = STEPS,
    replicates: int = 12,
    train_samples: int | None = None,
    tuning_subsets: int = 3,
    strengths: Sequence[float] = STRENGTHS,
    margin: float = 0.5,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
    **data: Any,
) -> Answer:
    """Whether attribution-based augmentation helps on these data with this model.

    x, y: as `aba_core.splits_from` takes them, with its further arguments by name (validation,
    test, standardise, class_names, name); or `Splits`. build: a function that returns a freshly
    initialised model, a model's name or "module:function"; by default "small_cnn" for pictures and
    "mlp" for the rest. config: the training; by default so many steps of Adam.

    Every arm but Vanilla is tried with three values on `tuning_subsets` training subsets, and keeps
    the one with the best mean validation accuracy. `replicates` further subsets with new seeds are
    then trained on by all arms, and compared within. train_samples: the size of a subset, by
    default half of the training samples. margin: the smallest effect worth having, in points.
    Subsets overlap, and all are judged on the same validation and test samples: an interval says
    what other draws and seeds would give, not what other test samples would.
    Raises ValueError, one line that names the value and what is allowed.
    """
    _check(replicates, tuning_subsets, steps, strengths)
    _check_names(data)
    splits = runner.own_splits(x, y, **({"seed": seed, **data} if not is_splits(x) else data))
    if splits.task != "multiclass" or splits.train.y.dim() != 1:
        raise StudyError(f"the data are {splits.task}; allowed: multiclass, one class a sample")
    if build is None:
        build = "small_cnn" if len(splits.input_shape) == 3 else "mlp"
    make = runner.builder_of(build, splits) if isinstance(build, str) else build
    size = (
        max(2 * splits.classes, len(splits.train) // 2) if train_samples is None else train_samples
    )
    if len(splits.train) <= 2 * splits.classes:
        raise StudyError(
            f"{splits.name} has {len(splits.train)} training samples of {splits.classes} classes; "
            f"needed: more than {2 * splits.classes}, since subsets of them are drawn"
        )
    config = config or usual_training(size, steps)
    study = declared(
        math.prod(splits.input_shape), splits.name, replicates, tuning_subsets, strengths, margin
    )
    trial = tuning.trial(study)
    total = len(trial.arms) * len(trial.seeds) + len(study.arms) * len(study.seeds)
    total *= config.steps(size)
    done = 0

    def count(model_steps: int) -> None:
        nonlocal done
        done += model_steps
        if progress is not None:
            progress(f"own data: {splits.name}", done, total)

    tried = runner.train_in_memory(trial, splits, make, config, size, count)
    validated = tried.drop(columns=[name for name in tried if str(name).startswith("test_")])
    settled = tuning.settled(study, validated, "validation_accuracy")
    runs = runner.train_in_memory(settled, splits, make, config, size, count)
    runs["model"] = build if isinstance(build, str) else getattr(build, "__name__", "own")
    scope = (
        f"training subsets of {size} of {len(splits.train)} samples, each with a new seed, and on "
        f"the same {len(splits.test)} test samples"
    )
    responses = tuning.response_table(study, validated, "validation_accuracy")
    notes = [*_notes_on(splits, margin), *_notes_on_ceiling(runs, len(splits.test))]
    notes += _notes_on_guessing(splits, runs)
    return judged(settled, runs, responses, scope, confidence, seed, notes)


def usual_training(samples: int, steps: int = STEPS) -> TrainConfig:
    """Adam with a cosine schedule on batches of a tenth of the samples, 8 to 32."""
    batch = min(32, max(8, samples // 10), samples)
    return TrainConfig(
        dataset="own",
        epochs=steps * batch / samples,
        batch_size=batch,
        optimizer="adam",
        learning_rate=0.005,
        schedule="cosine",
    )


def declared(
    features: int,
    dataset: str,
    replicates: int,
    tuning_subsets: int,
    strengths: Sequence[float],
    margin: float,
) -> Study:
    """The study that is judged: arms, seeds and hypotheses, known before anything is trained."""
    split: dict[str, Any] = {"quantiles": (0.25, 0.75)} if features < FEW_FEATURES else {}
    by_map = {"adjustments": "all", "target": "loss", **split}
    arms = [
        Arm(VANILLA),
        *(
            Arm.of(METHODS[kind].title, method=kind, **({} if kind.startswith("fast") else split))
            for kind in PUBLISHED_METHODS
        ),
        Arm.of("All", **by_map),
        *(Arm.of(title, placebo=placebo, **by_map) for placebo, title in PLACEBOS.items()),
        *(Arm.of(METHODS[kind].title, method=kind) for kind in COMPARATORS),
    ]
    others = {METHODS[kind].title: given for kind, given in COMPARATORS.items()}
    classes = [
        TunedClass(
            name=arm.name,
            arms=(arm.name,),
            values={others[arm.name][0]: others[arm.name][1]} if arm.name in others else {},
        )
        for arm in arms
        if not arm.vanilla
    ]
    return Study(
        name="own",
        dataset=dataset,
        arms=on_fresh_subsets(arms),
        seeds=tuple(range(FRESH_SEED, FRESH_SEED + replicates)),
        hypotheses=_hypotheses(replicates, margin, tuple(others)),
        tuning=Tuning(strengths=tuple(strengths), seeds=tuning_subsets, classes=tuple(classes)),
    )


def _hypotheses(n: int, margin: float, others: Sequence[str]) -> tuple[Hypothesis, ...]:
    said: tuple[tuple[str, str, str, list[Contrast]], ...] = (
        (
            "aba-helps",
            "Some form of ABA beats training without.",
            "any",
            [minus(arm, VANILLA) for arm in ABA_ARMS],
        ),
        (
            "map-matters",
            "The sample's own map beats every placebo.",
            "all",
            [minus("All", placebo) for placebo in PLACEBOS.values()],
        ),
        (
            "beats-others",
            "All adjustments beat every other regulariser.",
            "all",
            [minus("All", other) for other in others],
        ),
    )
    estimand = "difference of mean test accuracies within training subsets"
    return tuple(
        Hypothesis(
            name=name, statement=statement, estimand=estimand, comparisons=tuple(contrasts),
            rule=rule, margin=margin, n=n,
        )
        for name, statement, rule, contrasts in said
    )  # fmt: skip


def judged(
    study: Study,
    runs: pd.DataFrame,
    tried: pd.DataFrame,
    scope: str,
    confidence: float = 0.95,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> Answer:
    """The answer that finished runs give. study: at its chosen strengths."""
    rng = np.random.default_rng(seed)
    verdicts = tuple(
        rules.test(one, runs, stream, metric=METRIC, confidence=confidence)
        for one, stream in zip(study.hypotheses, rng.spawn(len(study.hypotheses)), strict=True)
    )
    untested = [verdict for verdict in verdicts if not len(verdict.table)]
    if untested:
        raise ComparisonError(untested[0].sentence)
    chosen = {row["class"]: row["values"] for _, row in tried[tried["chosen"]].iterrows()}
    table = arms_table(runs, rng, confidence=confidence)
    said = {"batch_norm", "strength"}  # in the column of settings
    left = [n for n in table if n in said or str(n).endswith(("median", "_sd"))]
    table = table.drop(columns=left)
    table.columns = pd.Index([str(name).replace("_mean", "") for name in table])
    others = [arm.name for arm in study.arms if not arm.vanilla]
    margin = study.hypotheses[0].margin
    compared = difference_table(
        runs, others, VANILLA, rng, metric=METRIC, confidence=confidence, margin=margin
    )
    table = table.merge(compared.drop(columns=["n", "unit", "scope"]), on="arm", how="left")
    fields = {arm: "s" for arm in (*ABA_ARMS, *PLACEBOS.values())} | {
        METHODS[kind].title: field for kind, (field, _) in COMPARATORS.items()
    }
    setting = [f"{fields[a]} = {chosen[a]}" if a in chosen else "" for a in table["arm"]]
    table.insert(1, "setting", setting)
    sentence = _sentence(verdicts[0], scope, dict(zip(table["arm"], table["setting"], strict=True)))
    level = table.loc[table["difference_low"] == table["difference_high"], "arm"]
    if len(level):
        notes = [*notes, _note_on_level(list(level))]
    return Answer(
        sentence, table, verdicts, runs, tried, study, scope, confidence, tuple(notes)
    )  # fmt: skip


# --- words ---------------------------------------------------------------------------------------


def _numbers(verdict: Verdict) -> str:
    row = verdict.decisive
    estimate, low, high = (float(row[f"estimate{end}"]) for end in ("", "_low", "_high"))
    return tables.interval_text(estimate, low, high).replace(" [", " points [", 1)


def _sentence(verdict: Verdict, scope: str, settings: dict[str, str]) -> str:
    """The answer: yes, no or open, the number, its interval, n and scope."""
    row, margin = verdict.decisive, verdict.hypothesis.margin
    arm = str(row["label"]).partition(" − ")[0]
    named = f"{arm} ({settings[arm]})" if settings.get(arm) else arm
    change = f"changes test accuracy by {_numbers(verdict)} compared with Vanilla"
    of = f"{named} {change}"
    if verdict.verdict == "supported":
        start = f"Yes, ABA helps here (supported): {of}."
    elif verdict.verdict == "refuted":
        start = (
            f"No, ABA does not help here (refuted): no form of it gains {margin:g} points. The "
            f"best one is {named}, which {change}."
        )
    else:
        start = (
            f"These runs cannot tell whether ABA helps (inconclusive): {of}. Effects below "
            f"{row['smallest_detectable']:.1f} points would mostly be missed."
        )
    return f"{start} This rests on {row['n']} {scope}."


def _detail(verdict: Verdict) -> str:
    row = verdict.decisive
    first, _, second = str(row["label"]).partition(" − ")
    claim = verdict.hypothesis.statement.rstrip(".")
    return (  # the verdict first: a claim that is refuted must not be read as one that holds
        f"{verdict.verdict.capitalize()}: {claim[0].lower()}{claim[1:]}. The deciding comparison, "
        f"'{first}' with '{second}', is {_numbers(verdict)}."
    )


def _notes_on(splits: Any, margin: float) -> list[str]:
    """The majority's share on test where classes are far from even, since accuracy alone then
    misleads; and whether a test sample is more than the margin."""
    counts = np.bincount(splits.test.y.numpy(), minlength=splits.classes)
    share, one = 100 * counts.max() / counts.sum(), 100 / counts.sum()
    notes = []
    if share > 150 / splits.classes:
        name = splits.class_names[int(counts.argmax())]
        notes.append(
            f"Classes are uneven: always guessing {name!r} is right on {share:.0f} % of the test "
            "samples, so read accuracy beside that, or beside balanced_accuracy."
        )
    if one > margin > 0:
        notes.append(
            f"One test sample is {one:.1f} points, more than the {margin:g} points that count as "
            "worth having: more test samples would tell more."
        )
    return notes


def _notes_on_ceiling(runs: pd.DataFrame, samples: int) -> list[str]:
    """Whether Vanilla leaves hardly a test sample to be gained."""
    reached = float(runs.loc[runs["arm"] == VANILLA, METRIC].mean())
    wrong = (100 - reached) * samples / 100
    if not wrong < 2:
        return []
    right = f"all but {wrong:.1f} of" if wrong >= 0.05 else "all"
    return [
        f"Vanilla gets {right} {samples} test samples right on average: there is next to nothing "
        "to gain here, for any method."
    ]


def _notes_on_guessing(splits: Any, runs: pd.DataFrame) -> list[str]:
    """Whether Vanilla is no better than a guess of the commonest class."""
    share = 100 * np.bincount(splits.test.y.numpy()).max() / len(splits.test)
    reached = float(runs.loc[runs["arm"] == VANILLA, METRIC].mean())
    if not reached <= share + 1e-9:
        return []
    return [
        f"Vanilla reaches {reached:.1f} %, no more than always guessing the commonest class "
        f"({share:.1f} %): the model has not learnt from these inputs. Try more steps or another "
        "model before you judge any method."
    ]


# --- what may be asked ---------------------------------------------------------------------------

_OF_DATA = ("validation", "test", "standardise", "class_names", "name")


def _note_on_level(arms: Sequence[str]) -> str:
    """What an interval without a width means."""
    were = f"{tables.listed(arms)} {'was' if len(arms) == 1 else 'were'}"
    return (
        f"{were} right on as many test samples as Vanilla in every subset. An interval of no width "
        "says no more than that: other test samples could tell them apart."
    )


def is_splits(x: Any) -> bool:
    """Whether these are `Splits` already; told by name, since torch need not be here."""
    return type(x).__name__ == "Splits"


def _check(replicates: int, tuning_subsets: int, steps: int, strengths: Sequence[float]) -> None:
    for name, value, least, most in (
        ("replicates", replicates, 5, 1000),
        ("tuning_subsets", tuning_subsets, 1, 1000),
        ("steps", steps, 1, 10**6),
    ):
        if type(value) is not int or not least <= value <= most:
            raise StudyError(f"{name} is {value!r}; allowed: whole numbers from {least} to {most}")
    needed = len(STRENGTHS)
    given = [*strengths] if isinstance(strengths, Sequence) else []
    if len(set(given)) != needed or not all(
        isinstance(s, int | float) and 0 < s < math.inf for s in given
    ):
        raise StudyError(
            f"strengths is {strengths!r}; needed: {needed} different numbers above 0, as many as "
            "the other methods are tried with"
        )


def _check_names(data: dict[str, Any]) -> None:
    for name in data:
        if name not in _OF_DATA:
            known = [*_OF_DATA, "config", "steps", "replicates", "train_samples", "strengths"]
            known += ["tuning_subsets", "margin", "confidence", "seed", "progress"]
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise StudyError(f"unknown argument {name!r}{hint}")
