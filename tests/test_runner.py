"""The runner computes exactly what is missing, and an interruption changes no number."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from oracles import small_device

from aba_core.arms import Arm
from aba_core.demand import Demand
from analysis import engines, gpu, plan, runner, worker
from analysis import results as store
from analysis.store.leases import Leases
from analysis.studies import find_study
from analysis.study import TUNING_SEED, Frozen, Study, StudyError, Tuning

SHIPPED = store.SHIPPED
ARMS = (
    Arm.of("vanilla"),
    Arm.of("raise", adjustments="3", strength=0.3, target="loss"),
    Arm.of("both", adjustments="3,4", strength=0.3, target="loss"),
)


def study(**changes):
    config = {"dataset": "digits", "model": "mlp", "epochs": 1, "batch_size": 20}
    fields = dict(name="s", dataset="digits", config=config, arms=ARMS, seeds=2)
    return Study(**{**fields, **changes})


def numbers(frame: pd.DataFrame, *within: str) -> pd.DataFrame:
    """What must not depend on how a study was run: everything but times and names of chunks."""
    kept = frame.drop(columns={"seconds", "finished_at", "chunk"} & set(frame))
    order = [column for column in ("key", *within) if column in kept]
    return kept.sort_values(order).reset_index(drop=True)


def run(spec, folder, **options):
    return runner.run(spec, folder, device="cpu", processes=1, **options)


def test_a_second_call_computes_nothing_and_changes_no_file(tmp_path):
    first = run(study(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    second = run(study(), tmp_path)
    assert (first.computed, first.reused) == (6, 0)
    assert (second.computed, second.reused) == (0, 6)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == before
    assert not second.result.missing


def test_rows_carry_metrics_status_and_provenance(tmp_path):
    frame = run(study(), tmp_path).result.frame
    wanted = (
        "study arm seed dataset subset model step validation_accuracy validation_loss "
        "test_accuracy test_loss seconds status key toolkit commit torch python device data"
    ).split()
    assert set(wanted) <= set(frame.columns)
    assert set(frame["status"]) == {"finished"}
    assert frame["validation_accuracy"].between(0, 100).all()
    assert frame["arm"].unique().tolist() == ["vanilla", "raise", "both"]


def test_added_seeds_and_arms_compute_only_what_is_new(tmp_path):
    run(study(seeds=1), tmp_path)
    assert run(study(seeds=2), tmp_path).computed == 3
    more = (*ARMS, Arm.of("lower", adjustments="4", strength=0.3, target="loss"))
    assert run(study(arms=more), tmp_path).computed == 2


def test_the_same_arm_under_another_name_is_the_same_run(tmp_path):
    run(study(), tmp_path)
    renamed = (Arm.of("plain", method="vanilla"), *ARMS[1:])
    outcome = run(study(name="t", arms=renamed), tmp_path)
    assert outcome.computed == 0
    assert outcome.result.frame["arm"].unique().tolist() == ["plain", "raise", "both"]


def test_one_arm_under_two_names_in_a_study_is_refused(tmp_path):
    twice = (*ARMS, Arm.of("again", adjustments="4,3", strength=0.3, target="loss"))
    with pytest.raises(StudyError, match="arms 'both' and 'again' are the same runs"):
        run(study(arms=twice), tmp_path)
    assert not list(tmp_path.rglob("*.*"))


def test_other_settings_are_other_runs(tmp_path):
    run(study(), tmp_path)
    changed = dict(study().config, epochs=2)
    assert run(study(config=changed), tmp_path).computed == 6


def test_runs_of_each_seeds_own_subset_are_those_of_that_subset(tmp_path):
    own = run(study(arms=(Arm.of("own", subset_per_run=True), *ARMS)), tmp_path).result.frame
    own = own[own["arm"] == "own"]
    for seed in (0, 1):
        config = dict(study().config, subset_seed=seed)
        same = run(study(config=config, arms=ARMS[:1]), tmp_path / str(seed)).result.frame
        (row,) = own[own["seed"] == seed].to_dict("records")
        (other,) = same[same["seed"] == seed].to_dict("records")
        for name in ("validation_loss", "train_loss", "subset_seed", "data"):
            assert row[name] == other[name]
    assert own["data"].nunique() == 2


def test_kept_logits_are_those_of_the_metrics(tmp_path):
    spec = study(keep_logits=True)
    frame = run(spec, tmp_path).result.frame
    labels = plan.load_splits(plan.core_config(spec)).validation.y.numpy()
    for row in frame.to_dict("records"):
        logits = np.frombuffer(row["validation_logits"], "<f2").reshape(-1, row["logit_classes"])
        accuracy = 100 * (logits.argmax(1) == labels).mean()
        assert accuracy == pytest.approx(row["validation_accuracy"], abs=0.41)  # ties of halves
    assert run(study(), tmp_path).computed == 6  # runs without logits are other runs


def test_a_flipped_bit_and_a_placebo_make_other_runs(tmp_path):
    changed = (
        Arm.of("bit", flip_bit=True),
        Arm.of("sham", adjustments="3", strength=0.3, target="loss", placebo="permuted"),
    )
    frame = run(study(arms=(*ARMS, *changed)), tmp_path).result.frame
    assert frame["key"].nunique() == 10
    # A bit alone may not reach the loss within so few steps: of two seeds one must show it.
    assert frame.groupby("seed")["validation_loss"].nunique().max() == 5
    assert set(frame["placebo"]) == {"", "permuted"}


def test_chunks_hold_every_run_and_no_more_arms_than_asked():
    spec = study(
        arms=tuple(
            Arm.of(str(i), adjustments=str(i), strength=1.0, target="loss") for i in range(27)
        ),
        seeds=3,
    )
    resolved = plan.resolve(spec, arms_per_chunk=14)
    assert sum(len(chunk.runs) for chunk in resolved.chunks) == 81
    assert max(len(chunk.runs) for chunk in resolved.chunks) <= 14


def test_parallel_processes_give_the_same_numbers_as_one(tmp_path):
    alone = run(study(), tmp_path / "one").result.frame
    two = runner.run(study(), tmp_path / "two", device="cpu", processes=2).result.frame
    pd.testing.assert_frame_equal(numbers(alone), numbers(two))


def test_no_engine_is_called_where_nothing_is_missing_and_the_config_is_resolved_once(
    tmp_path, monkeypatch
):
    resolved, real = [], plan.core_config
    monkeypatch.setattr(plan, "core_config", lambda s: resolved.append(s.name) or real(s))
    run(study(), tmp_path)
    assert resolved == ["s"]

    def never(chunks, report):
        raise AssertionError("called")

    assert runner.run(study(), tmp_path, device="cpu", engine=never).computed == 0


def test_a_chunk_tells_no_place_and_is_named_by_its_keys(tmp_path):
    run(study(), tmp_path)
    chunks = plan.resolve(study()).chunks
    files = {path.stem for path in (tmp_path / "runs").iterdir()}
    assert files == {chunk.name for chunk in chunks} and len(files) == 2
    assert pickle.loads(pickle.dumps(chunks)) == chunks
    assert str(tmp_path) not in repr(chunks)


def test_of_several_keys_of_a_run_the_first_is_written_and_any_is_recognised(tmp_path, monkeypatch):
    older = run(study(), tmp_path).result.frame
    real = plan.run_keys

    def renewed(*arguments):
        keys = real(*arguments)
        return {f"new-{key}": value for key, value in keys.items()} | keys

    monkeypatch.setattr(plan, "run_keys", renewed)
    again = run(study(), tmp_path)
    assert (again.computed, again.reused) == (0, 6) and not again.result.missing
    pd.testing.assert_frame_equal(again.result.frame, older, check_exact=True)
    more = run(study(seeds=3), tmp_path)
    assert (more.computed, more.reused) == (3, 6)
    assert more.result.frame["key"].str.startswith("new-").tolist() == 3 * [False, False, True]
    assert "9 of 9 runs" in more.result.summary()


# --- engines -------------------------------------------------------------------------------------


@pytest.fixture
def outside(monkeypatch):
    """The folder of a stranger, with a file of their own."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(Path(__file__).parent / "outside")


@pytest.mark.parametrize("spec", [study(), study(frozen=Frozen(strengths=(0.5,)), arms=ARMS[:2])])
def test_an_engine_from_outside_gives_the_same_bits(tmp_path, outside, spec):
    usual = run(spec, tmp_path / "usual").result.frame
    engine = "threaded_engine:in_a_thread"
    done = runner.run(spec, tmp_path / "own", device="cpu", engine=engine)
    assert not done.result.missing
    pd.testing.assert_frame_equal(
        numbers(usual, "adjustment", "strength"),
        numbers(done.result.frame, "adjustment", "strength"),
        check_exact=True,
    )


def test_measurements_and_logits_come_back_from_an_engine_too(tmp_path, outside):
    spec = study(config={**study().config, "mechanism": 2}, keep_logits=True, seeds=1)
    run(spec, tmp_path / "usual")
    runner.run(spec, tmp_path / "own", device="cpu", engine="threaded_engine:in_a_thread")
    for kind in ("runs", "mechanism"):
        usual, other = (store.read_rows(tmp_path / name, kind)[0] for name in ("usual", "own"))
        pd.testing.assert_frame_equal(
            numbers(usual, "step"), numbers(other, "step"), check_exact=True
        )


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (
            "forgets_a_run",
            "no rows for 1 of the 3 runs of a chunk, the first of them 'vanilla' with seed 0",
        ),
        ("gives_rows_alone", "the engine gave back dict; needed: a chunk and its rows"),
    ],
)
def test_an_engine_that_gives_back_something_else_is_told_so(tmp_path, outside, engine, message):
    with pytest.raises(engines.EngineError, match=message):
        runner.run(study(), tmp_path, device="cpu", engine=f"threaded_engine:{engine}")
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("threds", "unknown engine 'threds'; known: auto, processes, gpu, or module:function"),
        ("threaded_engine:", "unknown engine 'threaded_engine:'; known"),
        (
            "nowhere:train",
            "cannot import 'nowhere' of 'nowhere:train': ModuleNotFoundError: No module",
        ),
        ("threaded_engine:train", "'threaded_engine' has no 'train'"),
        ("threaded_engine:NO_ENGINE", "is 3; needed: a function (chunks, report)"),
        ("gpu", "engine 'gpu' on device 'cpu'; allowed: cuda"),
    ],
)
def test_a_wrong_engine_is_named_before_anything_runs(tmp_path, outside, engine, message):
    with pytest.raises(StudyError) as error:
        runner.run(study(), tmp_path, device="cpu", engine=engine)
    assert message in str(error.value)
    assert not list(tmp_path.rglob("*"))


def test_processes_are_asked_of_the_engine_that_has_them(tmp_path, outside):
    with pytest.raises(StudyError, match="3 processes are asked for; engine 'threaded_engine:in"):
        engines.choose_engine("threaded_engine:in_a_thread", "cpu", 3)


def training(process: psutil.Process) -> list[psutil.Process]:
    """Its workers: on Linux they are children of the fork server, which is its child."""
    found = process.children(recursive=True)
    spawned = [each for each in found if "spawn_main" in str(each.cmdline())]
    return spawned or [each for each in found if each.ppid() != process.pid]


@pytest.mark.parametrize("afresh", [False, True])
def test_closing_the_processes_ends_them(monkeypatch, afresh):
    if afresh:  # as where workers cannot be forked
        monkeypatch.setattr(worker, "context", lambda: multiprocessing.get_context("spawn"))
    chunks = plan.resolve(study(config={**study().config, "epochs": 300})).chunks
    trained = engines.processes(chunks, lambda done: None, workers=2)
    next(trained)
    workers = training(psutil.Process())
    trained.close()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert len(workers) == 2 and not alive


# --- stopping ------------------------------------------------------------------------------------

# A job that a shell starts in the background inherits a SIGINT that is ignored; Ctrl-C is what is
# tested here, so it is switched on.
ABA = (
    "import signal\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from analysis.cli import main\n"
    "main()\n"
)


def command(folder: Path) -> list[str]:
    return [
        *(sys.executable, "-c", ABA, "run", "tension", "--results", str(folder)),
        *("--seeds", "4", "--set", "epochs=10", "--device", "cpu", "--processes", "1"),
    ]


def test_progress_never_goes_back(tmp_path):
    """Also where an engine says nothing any more of a chunk that it said was under way."""
    seen = []

    def engine(chunks, report):
        for chunk in chunks:
            report(10)
            report(0)
            yield chunk, engines.train_chunk(chunk)

    done = runner.run(
        study(),
        tmp_path,
        "cpu",
        engine=engine,
        progress=lambda _, now, total: seen.append((now, total)),
    )
    steps = [now for now, _ in seen]
    assert done.computed and steps == sorted(steps) and steps[0] == 10
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_study_resumes_to_the_numbers_of_an_uninterrupted_one(tmp_path, stop):
    folder = tmp_path / "stopped"
    last = plan.resolve(find_study("tension", None, None, 4, ["epochs=10"])).chunks[-1]
    # However slowly we look, it is not over before we do: nobody else may train the last chunk.
    with Leases(folder) as leases:
        assert leases.claim(last.name)
        stopped = subprocess.Popen(
            command(folder), stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        while not list(folder.glob("runs/*.parquet")) and stopped.poll() is None:
            time.sleep(0.01)
        os.killpg(stopped.pid, stop)
        message = stopped.communicate()[1]
    assert stopped.returncode == (-signal.SIGKILL if stop == signal.SIGKILL else 130), message
    if stop == signal.SIGINT:
        assert message.strip().splitlines()[-1].startswith("aba: stopped; finished runs are kept")
    kept = store.read_rows(tmp_path / "stopped", "runs")[0]
    assert 0 < len(kept) < 28
    subprocess.run(command(tmp_path / "stopped"), check=True, capture_output=True)
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    resumed, damaged = store.read_rows(tmp_path / "stopped", "runs")
    whole, _ = store.read_rows(tmp_path / "whole", "runs")
    assert not damaged and len(resumed) == 28
    pd.testing.assert_frame_equal(numbers(resumed), numbers(whole))


def test_a_chunk_too_large_for_memory_is_trained_in_halves(tmp_path, monkeypatch, capsys):
    whole = run(study(), tmp_path / "whole").result.frame
    (chunk,) = plan.resolve(study(seeds=1)).chunks
    real = engines.train_chunk

    def small_memory(chunk, count):
        if len(chunk.runs) > 1:
            raise torch.OutOfMemoryError("made up")
        return real(chunk, count)

    monkeypatch.setattr(engines, "train_chunk", small_memory)
    parts = list(engines.train_within_memory(chunk))
    assert [part.runs for part, _ in parts] == [(run,) for run in chunk.runs]
    assert "3 runs do not fit in memory; trying halves" in capsys.readouterr().err
    for part, rows in parts:
        store.write_chunk(tmp_path / "halves", "runs", part.name, rows["runs"])
    halves, _ = store.read_rows(tmp_path / "halves", "runs")
    merged = halves.merge(whole, on="key", suffixes=("", "_whole"))
    assert len(merged) == 3
    assert merged["validation_loss"].to_numpy() == pytest.approx(merged["validation_loss_whole"])


@pytest.mark.parametrize(
    ("free", "sizes"), [(1e12, [6]), (60.0, [4, 2]), (25.0, [1] * 6), (1.0, [1] * 6)]
)
def test_a_chunk_is_cut_to_the_memory_that_is_free(free, sizes):
    (chunk,) = plan.resolve(study(), "cuda").chunks
    assert len(chunk.runs) == 6
    parts = engines.sized_for_memory(chunk, free, 8.0, 10.0)
    assert [len(part.runs) for part in parts] == sizes
    assert tuple(run for part in parts for run in part.runs) == chunk.runs


def test_the_gpu_engine_trains_parts_that_fit_and_tells_the_steps_done(monkeypatch):
    """On a CPU, with made-up memory for two runs."""
    resolved = plan.resolve(study())
    monkeypatch.setattr(Demand, "fitting", lambda demand, free: 2)
    reports: list[int] = []
    engine = gpu.Engine(engines.train_chunk, small_device.named)
    parts = list(engine(resolved.chunks, reports.append))
    assert [len(part.runs) for part, _ in parts] == [2, 1, 2, 1]
    for part, rows in parts:
        assert [(row["arm"], row["seed"], row["key"]) for row in rows["runs"]] == [*part.runs]
    assert reports == sorted(reports) and reports[-1] == sum(map(resolved.steps, resolved.chunks))


def test_a_single_run_that_does_not_fit_is_an_error(monkeypatch):
    def no_memory(chunk, count):
        raise torch.OutOfMemoryError("made up")

    monkeypatch.setattr(engines, "train_chunk", no_memory)
    (chunk,) = plan.resolve(study(arms=ARMS[:1], seeds=1)).chunks
    with pytest.raises(torch.OutOfMemoryError):
        list(engines.train_within_memory(chunk))


def test_workers_end_when_their_parent_is_killed(tmp_path):
    killed = subprocess.Popen(
        [*command(tmp_path), "--set", "epochs=1000"], stderr=subprocess.DEVNULL, text=True
    )
    process = psutil.Process(killed.pid)
    while not training(process) and killed.poll() is None:
        time.sleep(0.05)
    started = process.children(recursive=True)  # a fork server and a resource tracker too
    killed.kill()
    killed.wait()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert started and not alive


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_a_signal_to_the_group_leaves_the_workers_to_their_parent(tmp_path):
    """Its fork server as well: without it, the pool would break."""
    deaf = ABA.replace("main()\n", "from analysis import terminal\n")
    deaf += "terminal.stop_as_by_ctrl_c = lambda: None\n"
    deaf += "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nmain()\n"
    started = [*command(tmp_path), "--set", "epochs=30"]
    started[started.index(ABA)] = deaf
    running = subprocess.Popen(started, stderr=subprocess.PIPE, text=True, start_new_session=True)
    process = psutil.Process(running.pid)
    while not training(process) and running.poll() is None:
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGTERM)
    message = running.communicate()[1]
    assert running.returncode == 0, message
    assert len(store.read_rows(tmp_path, "runs")[0]) == 28


def test_a_frozen_study_has_a_row_for_every_adjustment_and_strength(tmp_path):
    spec = study(arms=ARMS[:2], seeds=1, frozen=Frozen(strengths=(0.0, 0.5)))
    outcome = run(spec, tmp_path)
    frame = outcome.result.frame
    assert len(frame) == 2 * 27 * 2
    unchanged = frame[(frame["strength"] == 0) | (frame["adjustment"] == 0)]
    assert (unchanged[["accuracy_change", "loss_change"]].abs() < 1e-9).all().all()
    assert run(spec, tmp_path).computed == 0


def test_benchmark_strengths_are_chosen_on_validation_with_seeds_of_their_own(tmp_path):
    arms = (Arm.of("Vanilla", method="vanilla"), Arm.of("MendABA", method="mendaba"))
    spec = study(name="benchmark", arms=arms, seeds=1, tuning=Tuning(strengths=(0.1, 0.5), seeds=2))
    outcome = run(spec, tmp_path)
    trial = store.load(tmp_path, "benchmark-tuning", "digits").frame
    assert sorted(trial["seed"].unique()) == [TUNING_SEED, TUNING_SEED + 1]
    best = trial.groupby("strength")["validation_accuracy"].mean().idxmax()
    reported = outcome.result.frame.set_index("arm")
    assert reported.loc["MendABA", "strength"] == best
    assert reported.loc["Vanilla", "strength"] == 0
    assert len(reported) == 2


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (dict(adjustments="27"), "adjustment index 27; allowed: 0 to 26"),
        (dict(adjustments="1", split="sign"), "changes the middle category"),
        (
            dict(adjustments="3", target="score"),
            "unknown target 'score' (did you mean 'class_score'?); known: loss",
        ),
        (dict(strength=1.0), "neither adjustments nor a method"),
        (dict(method="vanilla", adjustments="3"), "'vanilla' takes no adjustments"),
        (dict(adjustments="3", quantiles=(0.9, 0.1)), "increasing numbers"),
        (dict(held={"luck": 1}), "unknown purpose 'luck'"),
    ],
)
def test_a_wrong_arm_is_named_before_anything_runs(tmp_path, arm, message):
    with pytest.raises(ValueError) as error:
        run(study(arms=({"name": "a", **arm},)), tmp_path)
    assert message in str(error.value) and "arm 'a'" in str(error.value)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": 3}, "unknown config field 'epoch' (did you mean 'epochs'?); known: batch_norm"),
        ({"epochs": 0}, "epochs is 0.0; allowed"),
        ({"model": "resnet"}, "unknown model 'resnet' (did you mean 'resnet18'?); known: linear"),
        ({"model": "text_cnn"}, "input shape (1, 8, 8) for model 'text_cnn'"),
        ({"batch_size": 101}, "batch_size is 101; allowed: up to the 100"),
        ({"subset": "huge"}, "unknown subset 'huge'"),
        ({"learning_rate": "fast"}, "learning_rate: Input should be a valid number"),
    ],
)
def test_a_wrong_config_is_named_before_anything_runs(tmp_path, change, message):
    with pytest.raises(ValueError) as error:
        run(study(config={**study().config, **change}), tmp_path)
    assert message in str(error.value)
    assert not list(tmp_path.rglob("*"))


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(StudyError, match="unknown device 'tpu'; known: auto, cpu, cuda"):
        plan.choose_device("tpu")
