"""Results as studies see them: the runs that a declaration asks for, found by key.

A run is known by its key, a hash of everything that defines it; a study finds its runs by key, so
two studies that want the same run share it. A run may have several keys, the later ones from older
versions: its rows are those under the first that has any. The files are the store's: `chunks` has
the rows, `declarations` what was declared, `files` how both are written and known again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aba_core.adjustments import ADJUSTMENTS
from aba_core.identity import Use, meant
from aba_core.installation import HOME
from analysis.hypothesis import group_arm
from analysis.store.chunks import check_listed, keys_in, read_rows, runs_in_short, write_chunk
from analysis.store.declarations import Declaration, declarations, declare
from analysis.store.files import ResultsError, sweep

__all__ = [
    "AGAINST",
    "SHIPPED",
    "Declaration",
    "ResultsError",
    "StudyResult",
    "check_listed",
    "collect",
    "declarations",
    "declare",
    "given",
    "group_runs",
    "keys_in",
    "load",
    "measured",
    "overview",
    "read_rows",
    "runs_in_short",
    "sweep",
    "with_measured",
    "write_chunk",
]

# The results that come with the toolkit.
_NAMED = 6  # studies that an error names
SHIPPED = HOME / "data" / "results"
# The share (percent) of a group's adjustments that change a frozen model's loss the other way.
AGAINST = "against_group"


@dataclass(frozen=True)
class StudyResult:
    """The finished part of a declared study.

    frame: one row a run (frozen studies: one a run, adjustment and strength), with the declared
    arm names. missing: declared runs that have no row. damaged: files passed over.
    others: further declarations of the same study and data set that were not chosen.
    """

    frame: pd.DataFrame
    declaration: Declaration
    missing: tuple[tuple[str, int], ...]
    damaged: tuple[Path, ...]
    others: tuple[Declaration, ...] = field(default=())

    def summary(self) -> str:
        """One line: what this is and whether it is all there."""
        study = self.declaration.study
        config = study.config
        runs = self.frame["key"].nunique()
        diverged = 0
        if "status" in self.frame:
            diverged = self.frame.loc[self.frame["status"] != "finished", "key"].nunique()
        parts = [
            f"{study.name} on {study.dataset} ({config.get('subset', 'tiny')}, "
            f"{_model(config)}"
            f"{' with batch norm' * bool(config.get('batch_norm'))}, "
            f"{_counted(config.get('epochs', '?'), 'epoch')})",
            f"{runs} of {len(self.declaration.runs)} runs, {_counted(len(study.seeds), 'seed')}",
        ]
        parts += [f"{diverged} diverged"] * bool(diverged)
        parts += [f"{len(self.damaged)} damaged files passed over"] * bool(self.damaged)
        more = "other setting" if len(self.others) == 1 else "other settings"
        parts += [f"{len(self.others)} {more} of this study not shown"] * bool(self.others)
        return "; ".join(parts) + "."


def collect(
    declaration: Declaration, rows: pd.DataFrame, damaged: Iterable[Path] = ()
) -> StudyResult:
    """The rows a declaration asks for, under its own arm names."""
    keys = declaration.keys
    of_rows: list[str] = rows["key"].tolist()
    seeds = rows["seed"].tolist() if of_rows else []
    own = [  # a row of another seed is not the run that its key is of
        row
        for row, (key, seed) in enumerate(zip(of_rows, seeds, strict=True))
        if key in keys and keys[key][1] == seed
    ]
    present = {of_rows[row] for row in own}
    chosen: dict[tuple[str, int], str] = {}
    for key, run in keys.items():
        if key in present:
            chosen.setdefault(run, key)
    arm_place = {arm.name: number for number, arm in enumerate(declaration.study.arms)}
    wanted = set(chosen.values())
    runs = [(keys[of_rows[row]], row) for row in own if of_rows[row] in wanted]
    runs.sort(key=lambda run: (arm_place[run[0][0]], run[0][1]))
    frame = rows.iloc[[row for _, row in runs]].reset_index(drop=True)
    frame["arm"] = [arm for (arm, _), _ in runs]
    frame["study"] = declaration.study.name
    missing = tuple(run for run in declaration.runs if run not in chosen)
    return StudyResult(frame, declaration, missing, tuple(damaged))


def load(results: Path | str, study: str, dataset: str, preset: str = "") -> StudyResult:
    """The results of one study on one data set.

    Where it was run with several settings, the one with most finished runs is chosen, or the one
    declared under `preset`; `others` names the rest. Raises ResultsError where there is none.
    """
    results = Path(results)
    if not (study and dataset):  # an empty name would stand for any
        raise ResultsError(f"study {study!r} on data set {dataset!r}; needed: a name of each")
    ran = [
        (declaration, {entry["preset"] for entry in declaration.declared})
        for declaration in declarations(results, study, dataset)
    ]
    matching = [declaration for declaration, presets in ran if not preset or preset in presets]
    if ran and not matching:
        raise ResultsError(
            f"the {study} study on {dataset} in {results} was not run with preset {preset!r}; "
            f"there: {', '.join(sorted(set().union(*(presets for _, presets in ran))))}"
        )
    if not matching:
        there = {(d.study.name, d.study.dataset) for d in declarations(results)}
        near = sorted(there, key=lambda one: (one[0] != study, one[1] != dataset, one))
        names = [" on ".join(one) for one in near[:_NAMED]]
        names += [f"{len(near) - _NAMED} more (aba status)"] * (len(near) > _NAMED)
        raise ResultsError(
            f"no {study} study on {dataset}{f' with preset {preset}' * bool(preset)} in {results}; "
            f"there: {', '.join(names) or 'nothing'}{_remedy(study, dataset, preset, results)}"
        )
    wanted = {key for declaration in matching for key in declaration.keys}
    rows, damaged = read_rows(results, matching[0].kind, wanted)
    collected = [collect(declaration, rows, damaged) for declaration in matching]
    best = max(collected, key=lambda result: result.frame["key"].nunique())
    others = tuple(r.declaration for r in collected if r is not best)
    if not len(best.frame):
        raise ResultsError(
            f"{study} on {dataset} is declared in {results} but none of its runs is finished; "
            f"run: aba run {study} --dataset {dataset}{given(results)}"
            + f"; {len(best.damaged)} files are passed over, see: aba verify"
            * bool(best.damaged)
        )
    return StudyResult(best.frame, best.declaration, best.missing, best.damaged, others)


def _counted(number: object, what: str) -> str:
    return f"{number} {what}" if number in (1, "1") else f"{number} {what}s"


def _remedy(study: str, dataset: str, preset: str, results: Path) -> str:
    """What makes a study's results; or the name that was meant, where no study has this one."""
    from analysis.studies import OF_OWN_DATA, STANDARD
    from analysis.study import settings_by_dataset

    every = {*STANDARD, *OF_OWN_DATA, *(d.study.name for d in declarations(results))}
    if study not in every:
        return meant(study, every)
    if dataset not in settings_by_dataset():
        return meant(dataset, settings_by_dataset())
    preset = f" --preset {preset}" * bool(preset)
    return f"; run: aba run {study} --dataset {dataset}{preset}{given(results)}"


def given(results: Path) -> str:
    """The option that names a folder, where it is not the usual one. New runs are not for the
    shipped results."""
    return "" if results in (Path("results"), SHIPPED) else f" --results {results}"


def overview(results: Path) -> tuple[tuple[str, ...], list[tuple], list[Path]]:
    """Titles and a row for every study declared in a folder, and the damaged files."""
    head = ("study", "dataset", "model", "epochs", "strength", "preset", "arms", "seeds", "runs")
    rows: list[tuple] = []
    damaged: set[Path] = set()
    known: dict[str, dict[str, tuple[int, str, float]]] = {}
    for kind in ("runs", "frozen"):
        short, passed_over = runs_in_short(results, kind)
        damaged |= set(passed_over)
        said = zip(short["seed"], short["status"], short["seconds"], strict=True)
        known[kind] = dict(zip(short["key"], said, strict=True))
    for declaration in declarations(results):
        runs: dict[tuple[str, int], tuple[int, str, float]] = {}
        for key, run in declaration.keys.items():
            row = known[declaration.kind].get(key)
            if row is not None and row[0] == run[1]:
                runs.setdefault(run, row)
        study, config = declaration.study, declaration.study.config
        settings = [arm.setting("strength") for arm in study.arms]
        strengths = sorted({s for s in settings if isinstance(s, int | float) and s})
        rows.append(
            (
                study.name,
                study.dataset,
                _model(config) + "+bn" * bool(config.get("batch_norm")),
                config.get("epochs", "?"),
                "–".join(f"{s:g}" for s in dict.fromkeys((*strengths[:1], *strengths[-1:]))),
                "+".join(sorted({entry["preset"] for entry in declaration.declared})),
                len(study.arms),
                len(study.seeds),
                f"{len(runs)}/{len(declaration.runs)}",
                sum(status != "finished" for _, status, _ in runs.values()),
                f"{sum(seconds for _, _, seconds in runs.values()):.0f}",
                declaration.declared[0]["at"][:10] if declaration.declared else "",
            )
        )
    return (*head, "diverged", "core s", "declared"), rows, sorted(damaged)


def _model(config: Mapping[str, Any]) -> str:
    model = config.get("model", "small_cnn")
    return str(Use.read(model) or model)


def measured(result: StudyResult) -> StudyResult:
    """What was measured while a study's runs trained: one row a run and step.

    result: as `load` returns it. Raises ResultsError where its config asks for no measurements or
    none is there.
    """
    study, path = result.declaration.study, result.declaration.path
    if not study.config.get("mechanism") or path is None:
        raise ResultsError(
            f"{study.name} on {study.dataset} measured nothing on the way; give its config "
            "mechanism: 5, or run: aba run mechanism"
        )
    rows, damaged = read_rows(path.parent.parent, "mechanism", list(result.declaration.keys))
    measurements = collect(result.declaration, rows, damaged)
    if not len(measurements.frame):
        raise ResultsError(f"{study.name} on {study.dataset} has runs but no measurements")
    return measurements


AT_END = "end_"  # before the column of what was measured after a run's last step
LOGARITHM = "end_log_"  # before that of its logarithm


def with_measured(result: StudyResult) -> pd.DataFrame:
    """A study's runs with what was measured after their last step, where it was.

    end_METRIC: as `aba_core.mechanism.measure` has it; end_log_METRIC: 100 times its natural
    logarithm, so that differences are per cent, nearly; NaN where it is not above 0.
    """
    runs = result.frame
    try:
        rows = measured(result).frame
    except ResultsError:
        return runs
    last = rows[rows["step"] == rows.groupby("key")["step"].transform("max")].set_index("key")
    metrics = last.drop(columns=[*runs.columns.intersection(last.columns), "step"])
    metrics = metrics.select_dtypes("number").astype(np.float64)
    logarithms = metrics.where(metrics > 0).apply(np.log) * 100
    beside = [metrics.add_prefix(AT_END), logarithms.add_prefix(LOGARITHM)]
    return runs.merge(pd.concat(beside, axis=1), left_on="key", right_index=True, how="left")


# --- frozen models as runs of groups -------------------------------------------------------------


def group_runs(frozen: pd.DataFrame) -> pd.DataFrame:
    """Frozen results as runs, the models under each group's adjustments being an arm.

    frozen: one row an arm, seed, adjustment and strength. One row an arm, group, strength and seed:
    arm, seed, subset_seed; loss_change (nats), accuracy_change (points), class_score_change
    (logits), means over the group's adjustments; `AGAINST`, of those that are neither Neutral nor
    the adjustment 0.
    """
    group = frozen["adjustment"].map({a.index: str(a.group) for a in ADJUSTMENTS})
    sign = group.map({"Epsilon": 1.0, "Delta": -1.0})
    against = 100.0 * (frozen["loss_change"] * sign < 0)
    rows = frozen.assign(**{AGAINST: against.where(sign.notna())}).assign(
        arm=[
            group_arm(*one)
            for one in zip(frozen["arm"], group, frozen["strength"].astype(float), strict=True)
        ]
    )
    values = ["loss_change", "accuracy_change", "class_score_change", AGAINST]
    by = ["arm", "seed", *(name for name in ("subset_seed",) if name in rows)]
    return rows[rows["status"] == "finished"].groupby(by, sort=False)[values].mean().reset_index()
