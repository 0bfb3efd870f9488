"""Trackers: live curves and finished runs in TensorBoard or MLflow, by their own libraries.

A tracker is called with points of a curve, as `train(..., watch=tracker)` does for trainer
"single", and takes the rows of finished runs. Every run is one run of the tracker's.
"""

from __future__ import annotations

import math
import numbers
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from aba_core.identity import meant, short_hash
from aba_core.integrations import missing

TRACKERS = ("tensorboard", "mlflow")
Keys = Mapping[tuple[str, int], str]
_MEASURED = ("validation_", "test_", "train_", "seconds", "passes")


class Tracker(Protocol):
    """What both trackers do."""

    def __call__(self, point: Mapping[str, Any]) -> None:
        """Keep a point of a curve: arm, seed, step, and numbers by name."""

    def finished(self, row: Mapping[str, Any]) -> None:
        """Keep a finished run, once: its metrics at its last step, and what it was trained with."""

    def close(self) -> None:
        """Everything is written."""


class TensorBoard:
    """Scalars in event files: folder/ARM/seed-SEED, for `tensorboard --logdir FOLDER`.

    >>> train(config, arms, seeds, watch=TensorBoard("logs"))

    keys: the key of each run by arm and seed, which keeps runs of equal names apart.
    """

    def __init__(self, folder: Path | str, keys: Keys | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing("TensorBoard", "tensorboard", "tensorboard") from error
        self._writer, self.folder, self.keys = SummaryWriter, Path(folder), keys or {}
        self._live: dict[Path, Any] = {}

    def __call__(self, point: Mapping[str, Any]) -> None:
        run = self._run(point)
        if run not in self._live:
            self._live[run] = self._writer(str(run))
        for name, value in _numbers(point).items():
            self._live[run].add_scalar(name, value, point["step"])
        self._live[run].flush()

    def finished(self, row: Mapping[str, Any]) -> None:
        run = self._run(row)
        if list(run.glob("*.finished")):
            return
        # TensorBoard reads a run's files in the order of their names, which have the second.
        if list(run.glob(f"events.out.tfevents.{int(time.time())}.*")):
            time.sleep(1)
        with self._writer(str(run), filename_suffix=".finished") as writer:
            for name, value in _metrics(row).items():
                writer.add_scalar(name, value, row["step"])
            lines = [f"| {name} | {value} |" for name, value in _settings(row).items()]
            writer.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *lines]))

    def close(self) -> None:
        for writer in self._live.values():
            writer.close()

    def _run(self, row: Mapping[str, Any]) -> Path:
        arm = re.sub(r"[^\w.+-]+", "_", str(row["arm"])).strip(".") or "_"
        key = _key(row, self.keys)
        return self.folder / arm / f"seed-{row['seed']}{f'-{key[:8]}' * bool(key)}"


class MLflow:
    """Runs of an MLflow experiment, where MLflow's own settings say (MLFLOW_TRACKING_URI).

    >>> train(config, arms, seeds, watch=MLflow("my experiment"))

    keys: the key of each run by arm and seed, which keeps runs of equal names apart. uri: in place
    of MLflow's settings.
    """

    def __init__(self, experiment: str, uri: str = "", keys: Keys | None = None) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise missing("MLflow", "mlflow", "mlflow") from error
        self.uri = uri or mlflow.get_tracking_uri()
        self._client, self._entities = mlflow.MlflowClient(self.uri), mlflow.entities
        self.experiment, self.keys = experiment, keys or {}
        known = self._client.get_experiment_by_name(experiment)
        self._experiment = (
            known.experiment_id if known else self._client.create_experiment(experiment)
        )
        self._runs: dict[str, str] = {}
        self._ended: set[str] = set()

    def __call__(self, point: Mapping[str, Any]) -> None:
        self._log(self._run(point), _numbers(point), point["step"])

    def finished(self, row: Mapping[str, Any]) -> None:
        run = self._run(row)
        if run in self._ended:
            return
        settings = [
            self._entities.Param(name, str(value)[:500]) for name, value in _settings(row).items()
        ]
        self._log(run, _metrics(row), row["step"], settings)
        self._client.set_terminated(run, "FAILED" if row["status"] == "diverged" else "FINISHED")
        self._ended.add(run)

    def close(self) -> None:
        """Each call has written what it was given."""

    def _run(self, row: Mapping[str, Any]) -> str:
        """The run's identifier in MLflow, where it is looked for by its key, or made."""
        key = _key(row, self.keys) or short_hash([row["arm"], row["seed"]])
        if key in self._runs:
            return self._runs[key]
        found = self._client.search_runs([self._experiment], f"tags.`aba.run` = '{key}'")
        if found:
            info = found[0].info
        else:
            tags = {"aba.run": key, "arm": str(row["arm"]), "seed": str(row["seed"])}
            name = f"{row['arm']}, seed {row['seed']}"
            info = self._client.create_run(self._experiment, tags=tags, run_name=name).info
        if info.status != "RUNNING":
            self._ended.add(info.run_id)
        self._runs[key] = info.run_id
        return info.run_id

    def _log(self, run: str, values: Mapping[str, float], step: int, params: Any = ()) -> None:
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(name, v, now, int(step)) for name, v in values.items()]
        self._client.log_batch(run, metrics=metrics, params=params)


def tracker(name: str, results: Path, study: str) -> Tracker:
    """A tracker by its name, of a study whose results are in a folder.

    Raises ValueError for an unknown name, and where its library is missing or refuses.
    """
    if name not in TRACKERS:
        near = meant(name, TRACKERS)
        raise ValueError(f"unknown tracker {name!r}{near}; known: {', '.join(TRACKERS)}")
    try:
        if name == "tensorboard":
            return TensorBoard(results.absolute() / "tensorboard" / study)
        return MLflow(study)
    except Exception as error:
        raise ValueError(f"tracker {name!r}: {' '.join(str(error).split())}") from error


def again(live: tuple[str, ...], keys: Keys) -> Tracker:
    """In a process that trains: the tracker that `place_of` described."""
    kind, place, *uri = live
    return TensorBoard(place, keys) if kind == "tensorboard" else MLflow(place, uri[0], keys)


def place_of(made: Tracker) -> tuple[str, ...]:
    """What another process needs to write where this tracker does, in plain data."""
    if isinstance(made, TensorBoard):
        return ("tensorboard", str(made.folder))
    assert isinstance(made, MLflow)
    return ("mlflow", made.experiment, made.uri)


def _key(row: Mapping[str, Any], keys: Keys) -> str:
    return str(row.get("key") or keys.get((row["arm"], row["seed"]), ""))


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a point or row, without what names it."""
    return {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and name not in ("seed", "step")
    }


def _metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """What was measured of a run."""
    return {
        name: value
        for name, value in _numbers(row).items()
        if name.startswith(_MEASURED) and not math.isnan(value)
    }


def _settings(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was trained with, and where its numbers come from."""
    return {
        name: value
        for name, value in row.items()
        if not name.startswith(_MEASURED)
        and isinstance(value, str | bool | numbers.Real)
        and not (isinstance(value, float) and math.isnan(value))
    }
