"""Trackers have the numbers of the results, by their own libraries: curves and finished runs."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from aba_core import Arm, TrainConfig, train
from aba_core.integrations import trackers
from analysis import runner
from analysis.cli import main
from analysis.study import Study, StudyError

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
LIVE = TrainConfig(
    dataset="digits", model="linear", epochs=2, batch_size=20, trainer="single", curve_every=3
)
CURVE = (3, 6, 9)  # of 10 steps, the last of which is no point of a curve
ROW = {
    "arm": "a/b",
    "seed": 3,
    "step": 10,
    "test_accuracy": 50.0,
    "epochs": 2,
    "key": "0123456789",
    "status": "finished",
}


def study(trainer: str = "replicas", **changes) -> Study:
    config = {"model": "linear", "epochs": 2, "batch_size": 20, **changes}
    config |= {"trainer": trainer} if trainer != "replicas" else {}
    arms = [{"name": "Vanilla"}, {"name": "Mixup", "method": "mixup"}]
    return Study(name="small", dataset="digits", config=config, arms=arms, seeds=(0, 1))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads of one run: points by name."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    names = read.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in read.Scalars(name)] for name in names}


def texts(folder: Path) -> list[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    tensors = read.Tags()["tensors"]
    return [e.tensor_proto.string_val[0].decode() for name in tensors for e in read.Tensors(name)]


@pytest.fixture
def tensorboard() -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """MLflow with a data base of this test's."""
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    library = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return library


def test_tensorboard_has_the_live_curve_of_a_large_model(tensorboard, tmp_path):
    board = trackers.TensorBoard(tmp_path)
    runs = train(LIVE, [Arm("a b", "mixup")], [4], watch=board)
    seen = scalars(tmp_path / "a_b" / "seed-4")
    rows = [row for row in runs.curve_rows if row["step"] in CURVE]
    for name in ("validation_accuracy", "test_loss"):
        expected = [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]
        assert seen[name] == expected and len(expected) == len(CURVE)
    assert [step for step, _ in seen["loss"]] == list(CURVE)
    board.close()


def test_a_finished_run_is_in_tensorboard_once(tensorboard, tmp_path):
    for _ in range(2):
        trackers.TensorBoard(tmp_path).finished({**ROW, "train_loss": math.nan})
    run = tmp_path / "a_b" / "seed-3-01234567"
    assert scalars(run) == {"test_accuracy": [(10, 50.0)]}
    (settings,) = texts(run)
    assert "| epochs | 2 |" in settings and "test_accuracy" not in settings


@pytest.mark.parametrize("trainer", ["replicas", "single"])
def test_a_study_is_in_tensorboard_as_in_its_results(tensorboard, trainer, tmp_path):
    declared = study(trainer, **({"curve_every": 3} if trainer == "single" else {}))
    options = dict(processes=1, track="tensorboard")
    first = runner.run(declared, tmp_path, **options)
    assert runner.run(declared, tmp_path, **options).reused == 4
    for row in first.result.frame.to_dict("records"):
        run = tmp_path / "tensorboard" / "small-digits" / row["arm"]
        seen = scalars(run / f"seed-{row['seed']}-{row['key'][:8]}")
        last = seen["validation_accuracy"][-1]
        assert last == (row["step"], pytest.approx(row["validation_accuracy"], rel=1e-6))
        steps = [step for step, _ in seen["validation_accuracy"]]
        assert steps == ([*CURVE, 10] if trainer == "single" else [10])


def test_runs_that_were_there_before_are_tracked_too(tensorboard, tmp_path):
    runner.run(study(), tmp_path, processes=1)
    assert not (tmp_path / "tensorboard").exists()  # off by default
    assert runner.run(study(), tmp_path, track="tensorboard").computed == 0
    assert len(list((tmp_path / "tensorboard").rglob("*.finished"))) == 4


def test_mlflow_has_curves_and_finished_runs(mlflow, tmp_path):
    declared = study("single", curve_every=3)
    results = tmp_path / "results"
    first = runner.run(declared, results, processes=2, track="mlflow")
    runner.run(declared, results, processes=2, track="mlflow")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("small-digits")
    runs = {run.data.tags["aba.run"]: run for run in client.search_runs([experiment.experiment_id])}
    frame = first.result.frame
    assert runs.keys() == set(frame["key"]) and len(runs) == 4
    for row in frame.to_dict("records"):
        run = runs[row["key"]]
        assert run.info.status == "FINISHED"
        assert run.data.params["arm"] == row["arm"] and run.data.params["optimizer"]
        history = client.get_metric_history(run.info.run_id, "validation_accuracy")
        assert [point.step for point in history] == [*CURVE, 10]
        assert history[-1].value == pytest.approx(row["validation_accuracy"])


def test_a_diverged_run_has_failed_in_mlflow(mlflow):
    tracker = trackers.MLflow("x")
    tracker.finished({**ROW, "test_accuracy": math.nan, "status": "diverged"})
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("x").experiment_id])
    assert run.info.status == "FAILED" and not run.data.metrics


def test_what_cannot_be_tracked_is_said_at_once(tmp_path, capsys, monkeypatch):
    command = ["aba", "run", "isolation", "--results", str(tmp_path), "--track", "wandb"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "unknown tracker 'wandb'; known: tensorboard, mlflow" in capsys.readouterr().err
    frozen = study().model_copy(update={"frozen": {"strengths": [0.1]}})
    with (
        pytest.raises(StudyError, match="trackers take studies of training"),
        runner._tracker("mlflow", frozen, tmp_path),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_missing_tracker_names_its_extra():
    code = (
        "import sys; sys.modules['tensorboard'] = sys.modules['mlflow'] = None\n"
        "from pathlib import Path\nfrom aba_core.integrations import trackers\n"
        "for name in trackers.TRACKERS:\n"
        "    try:\n        trackers.tracker(name, Path('none'), 's')\n"
        "    except ValueError as error:\n        print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    for name, line in zip(trackers.TRACKERS, done.stdout.splitlines(), strict=True):
        assert line.startswith(f"tracker {name!r}: "), done.stderr
        assert line.endswith(f"install: pip install 'aba-toolkit[{name}]'")
