"""The trainer of one model: the replica engine's numbers; from disk, in parts, over ranks, after a
kill."""

import os
import pickle
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import one_run
from oracles.plain_loop import flat_parameters, plain_train
from oracles.tiny_data import make_splits
from torch import nn

from aba_core import CHALLENGER, FASTABA, MENDABA, Arm, TrainConfig, method_of, train
from aba_core.single import training, transforms
from aba_core.single.ranks import Ranks
from aba_core.single.step import check_ranks, differs_among_ranks
from aba_core.single.transforms import Transforms
from aba_core.streams import streams_from
from aba_core.trainers import Single

ROOT = Path(__file__).parents[1]
SPLITS = make_splits((1, 6, 6), sizes=(26, 9, 7))
EXACT = TrainConfig(
    epochs=2, batch_size=6, dtype="float64", batch_norm=True, weight_decay=1e-3,
    schedule="cosine", curve_every=1, trainer="single",
)  # fmt: skip


def trained(config=EXACT, method=None, splits=SPLITS, seed=3, **options):
    runs = train(config, [Arm("a", method)], [seed], splits=splits, **options)
    return runs, flat_parameters(runs.model("a", seed))


def single(config=EXACT, **options):
    return replace(config, trainer={"kind": "single", **options})


def replicas(config=EXACT):
    return replace(config, trainer="replicas")


@pytest.mark.parametrize("method", [None, CHALLENGER, MENDABA, FASTABA])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_step_is_that_of_a_plain_loop(method, optimizer):
    config = replace(EXACT, optimizer=optimizer, learning_rate=0.02)
    plain = plain_train(config, Arm("a", method), 3, SPLITS)
    for trainer in ("single", "replicas"):
        runs, parameters = trained(replace(config, trainer=trainer), method)
        torch.testing.assert_close(parameters, plain.parameters[-1], rtol=1e-9, atol=1e-12)
        curves = runs.curves()
        assert len(curves) == len(plain.metrics) == 9
        for step, metrics in enumerate(plain.metrics):
            for name, value in metrics.items():
                assert curves[name][step] == pytest.approx(value, rel=1e-9), (step, name)


@pytest.mark.parametrize(
    "method",
    [
        "mixup", "cutmix", "sam", "label-smoothing", "fgsm", "weight-decay", "dropout",
        {"kind": "early-stopping", "every": 2}, {"kind": "aba", "adjustments": "all", "site": "1"},
        {"kind": "mendaba", "placebo": "untrained"}, {"kind": "fastaba", "placebo": "permuted"},
        {"kind": "any-site", "method": "mendaba", "sites": ["input", "1"]},
        ["flip", "fastaba"], {"kind": "copies", "method": "fastaba"},
        {"kind": "mendaba", "attribution_mode": "train", "update_statistics": True},
        {"kind": "challenger", "attribution": "expected_gradients"},
    ],
    ids=str,
)  # fmt: skip
def test_any_method_trains_as_in_the_replica_engine(method):
    config = replace(EXACT, curve_every=0)
    runs, parameters = trained(config, method)
    others, expected = trained(replicas(config), method)
    torch.testing.assert_close(parameters, expected, rtol=1e-8, atol=1e-11)
    one, other = runs.rows[0], others.rows[0]
    assert one["validation_loss"] == pytest.approx(other["validation_loss"], rel=1e-8)
    assert one["status"] == other["status"] == "finished"


@pytest.mark.parametrize(
    ("method", "left_out", "parts"), [(CHALLENGER, 0.5, 1), (FASTABA, 0.25, 3), (MENDABA, 0, 1)]
)
def test_samples_that_need_no_map_are_left_out_of_the_attribution_pass(method, left_out, parts):
    """Each part of a batch once counted as a whole batch: `passes` fell below one a step."""
    config = single(
        replace(EXACT, epochs=40, curve_every=0, model="linear", batch_norm=False), accumulate=parts
    )
    runs, _ = trained(config, method)
    row = runs.rows[0]
    share = 2 - row["passes"] / row["step"]
    assert share == pytest.approx(left_out, abs=0.06)
    # Where samples meet in eval mode too, the map is that of the whole batch.
    meeting, _ = trained(config, method, build=_meeting)
    assert meeting.rows[0]["passes"] == 2 * row["step"]


def test_layers_before_a_hidden_site_train_too():
    """C, which adjusts activations without a way back, once left them as they started."""
    config = replace(EXACT, batch_norm=False, curve_every=0, weight_decay=0)
    method = {"kind": "aba", "adjustments": "1,2,3", "site": "1"}
    start = flat_parameters(trained(replace(config, learning_rate=1e-300), method)[0].model("a", 3))
    for trainer in ("replicas", "single"):
        _, parameters = trained(replace(config, trainer=trainer), method)
        assert (parameters[:100] - start[:100]).abs().min() > 0, trainer


def _meeting() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36, track_running_stats=False),
                         nn.Linear(36, 3))  # fmt: skip


@pytest.mark.parametrize("method", [None, "fastaba", "sam", {"kind": "mendaba", "site": "1"}])
def test_a_batch_in_parts_makes_the_same_step(method):
    config = replace(EXACT, batch_norm=False, curve_every=0)
    _, whole = trained(config, method)
    _, parts = trained(single(config, accumulate=4), method)
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


def test_the_average_is_evaluated_and_kept():
    config = single(replace(EXACT, curve_every=0), ema=0.8)
    runs, average = trained(config)
    decayed, points = None, plain_train(EXACT, Arm("a"), 3, SPLITS).parameters
    start = flat_parameters(train_nothing().model("a", 3))
    decayed = start
    for step, point in enumerate(points):
        decay = min(0.8, (1 + step) / (10 + step))
        decayed = decay * decayed + (1 - decay) * point
    torch.testing.assert_close(average, decayed, rtol=1e-6, atol=1e-7)
    last, _ = trained(replace(EXACT, curve_every=0))
    assert runs.rows[0]["validation_loss"] != last.rows[0]["validation_loss"]


def train_nothing():
    """The model before its first step, whose learning rate is all but 0."""
    return trained(replace(EXACT, epochs=0.2, learning_rate=1e-300, weight_decay=0, curve_every=0))[
        0
    ]


@pytest.mark.parametrize("method", [None, MENDABA])
def test_pictures_with_channels_last_make_the_same_steps(method):
    usual = trained(EXACT, method)[1]
    assert_close = torch.testing.assert_close
    assert_close(trained(single(channels_last=True), method)[1], usual, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, while it compiles
def test_a_compiled_pass_makes_the_same_steps():
    usual = trained(EXACT, MENDABA)[1]
    compiled = trained(single(compile=True), MENDABA)[1]
    torch.testing.assert_close(compiled, usual, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:precision is 'bf16', which this processor emulates")
@pytest.mark.parametrize("method", [None, MENDABA])
def test_bf16_is_a_plain_loop_under_autocast(method):
    config = replace(EXACT, dtype="float32", precision="bf16", batch_norm=False)
    mine = trained(config, method)[1]
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        plain = plain_train(config, Arm("a", method), 3, SPLITS).parameters[-1]
    torch.testing.assert_close(mine, plain, rtol=1e-6, atol=1e-7)
    full = trained(replace(config, precision="full"), method)[1]
    assert (mine - full).abs().max() > 1e-4  # products are less exact


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(caplog):
    config = replace(EXACT, learning_rate=1e200, curve_every=0, epochs=50)
    runs, _ = trained(config)
    row = runs.rows[0]
    assert row["status"] == "diverged" and np.isnan(row["test_accuracy"])
    assert row["step"] < 10
    assert "arm 'a', seed 3: the loss is not finite at step" in caplog.text


def test_what_watches_sees_the_metrics_on_the_way():
    seen = []
    config = replace(EXACT, curve_every=3)
    runs, _ = trained(config, watch=seen.append)
    assert [entry["step"] for entry in seen] == [3, 6]
    assert list(runs.curves()["step"]) == [3, 6, 9]
    assert seen[0]["validation_loss"] == runs.curves()["validation_loss"][0]


def test_a_report_card_is_that_of_the_replica_engine():
    card = {"aspects": ["calibration", "attacks", "memory", "ensembles"], "samples": 7,
            "attacked": 5, "alarm": 3, "probed": 4, "long_steps": 21, "spsa_steps": 1}  # fmt: skip
    config = replace(EXACT, card=card, curve_every=0)
    one, other = (trained(c, "mendaba")[0].rows[0] for c in (config, replicas(config)))
    names = [name for name in other if name.startswith("test_")]
    assert {"test_ece", "test_forgotten", "test_snapshot_gain", "test_onset_90"} <= set(names)
    for name in names:
        assert one[name] == pytest.approx(other[name], rel=1e-6, abs=1e-8, nan_ok=True), name
    assert one["seconds_memory"] > 0


def test_what_observes_sees_each_step_and_may_change_the_model():
    seen = []

    def halve(step, steps, rows):
        seen.append((step, steps))
        if step == steps:
            rows.parameters.mul_(0.5)

    config = replace(EXACT, curve_every=0)
    _, expected = trained(config)
    _, parameters = trained(config, observe=halve)
    assert seen == [(step, 9) for step in range(1, 10)]
    torch.testing.assert_close(parameters, 0.5 * expected)


def test_a_method_that_needs_last_gradients_is_refused():
    with pytest.raises(ValueError, match="which trainer 'single' does not keep; allowed: trainer"):
        trained(method={"kind": "mendaba", "lagged": True, "target": "loss"})


# --- processes of their own ----------------------------------------------------------------------


def process(*arguments: object, code: int = 0, **environment: str) -> None:
    found = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/oracles/one_run.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": found, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr


@pytest.mark.parametrize("model", ["mlp", "dropout"])
def test_a_run_that_was_killed_continues_to_the_bit(tmp_path, model):
    kept = tmp_path / "kept" / "run.pt"
    process(tmp_path / "a", "--checkpoint", kept, "--stop-at", 11, "--model", model,
            "--method", "fastaba", code=-signal.SIGKILL)  # fmt: skip
    state = torch.load(kept, weights_only=True)
    assert state["done"] == 9 and not (tmp_path / "a").exists()
    assert [path.name for path in kept.parent.iterdir()] == ["run.pt"]
    build = one_run.with_dropout if model == "dropout" else None
    options = {"splits": SPLITS, "build": build, "seed": 5}
    resumed, parameters = trained(
        one_run.config(), "fastaba", checkpoints={("a", 5): kept}, **options
    )
    through, expected = trained(one_run.config(), "fastaba", **options)
    assert torch.equal(parameters, expected)
    for table in ("rows", "curve_rows"):
        pairs = zip(getattr(resumed, table), getattr(through, table), strict=True)
        for one, other in pairs:
            for name in set(other) - {"seconds"}:
                assert one[name] == other[name], (table, name)


def test_a_checkpoint_that_is_damaged_or_of_another_run_is_said_to_be_so(tmp_path, caplog):
    kept = tmp_path / "run.pt"
    config = one_run.config()
    _, expected = trained(config, "mendaba", seed=5)
    trained(config, "mendaba", seed=6, checkpoints={("a", 6): kept})
    _, other = trained(config, "mendaba", seed=5, checkpoints={("a", 5): kept})
    assert "is of another run; training from the start" in caplog.text
    kept.write_bytes(kept.read_bytes()[:500])
    _, damaged = trained(config, "mendaba", seed=5, checkpoints={("a", 5): kept})
    assert "cannot be read" in caplog.text
    assert torch.equal(other, expected) and torch.equal(damaged, expected)


def two_ranks(*arguments: object) -> None:
    """Python with these arguments twice, as `torchrun --nproc-per-node 2` starts it."""
    found = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={
                **os.environ, "PYTHONPATH": found, "OMP_NUM_THREADS": "1", "RANK": str(rank),
                "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


@pytest.mark.parametrize("method", ["fastaba", "sam", "mixup"])
def test_two_ranks_are_one_process_up_to_summation(tmp_path, method):
    out = tmp_path / "ranks"
    two_ranks(str(ROOT / "tests/oracles/one_run.py"), out, "--method", method)
    both = torch.load(out, weights_only=True)
    runs, parameters = trained(one_run.config(), method, seed=5)
    torch.testing.assert_close(both["parameters"], parameters, rtol=1e-9, atol=1e-12)
    for name in ("validation_loss", "test_loss", "train_loss", "test_accuracy", "passes"):
        assert both["rows"][0][name] == pytest.approx(runs.rows[0][name], rel=1e-9), name


@pytest.mark.parametrize(
    ("method", "accumulate", "good"),
    [
        ("mixup", 1, True), ("mixup", 2, False), ("sam", 2, True), (["mixup", "sam"], 1, False),
        (["cutmix", "label-smoothing"], 1, True), (["mixup", "fastaba"], 1, False),
        ("saliencymix", 1, False), ({"kind": "mixup", "site": "1"}, 1, False),
        ({"kind": "mendaba", "placebo": "other_sample"}, 1, False),
        ({"kind": "guided-cutout", "placebo": "other_sample"}, 1, False),
        ({"kind": "guided-cutout"}, 1, True),
        ({"kind": "during", "method": "mixup", "end": 0.5}, 1, True),
    ],
    ids=str,
)  # fmt: skip
def test_ranks_refuse_to_mix_their_own_slices_alone(method, accumulate, good):
    """Mixed within the slices, a run had the key of one process and other numbers."""
    method, trainer = method_of(method), Single(accumulate=accumulate)
    check_ranks(method, trainer, 1)
    if good:
        check_ranks(method, trainer, 2)
    else:
        with pytest.raises(ValueError, match="mixes the samples of a batch, which 2 ranks share"):
            check_ranks(method, trainer, 2)


def test_what_ranks_compute_otherwise_is_said(monkeypatch, caplog):
    normed = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Dropout(0.1), nn.Linear(36, 3))
    assert differs_among_ranks(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0)), "cpu") == []
    assert differs_among_ranks(normed, "cuda") == ["dropout masks"]
    monkeypatch.setattr(training, "ranks", lambda device: Ranks(0, 2))
    # Alone in its group, the rank is told and then finds no other.
    with pytest.raises(Exception, match="process group"):
        trained(replace(EXACT, batch_norm=False), build=lambda: normed)
    assert "not as in one process are dropout masks and batch norm, which takes" in caplog.text


# --- data on disk --------------------------------------------------------------------------------


class OnDisk:
    """Arrays of a .npy file, opened when a sample is asked for."""

    def __init__(self, path: Path, labels: np.ndarray) -> None:
        self.path, self.labels = path, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int):
        return np.load(self.path, mmap_mode="r")[place], self.labels[place]


def on_disk(folder: Path, units=(0.0, 1.0)):
    parts = []
    for part in ("train", "validation", "test"):
        split = getattr(SPLITS, part)
        np.save(folder / f"{part}.npy", split.x.numpy())
        parts.append(OnDisk(folder / f"{part}.npy", split.y.numpy()))
    return streams_from(*parts, classes=3, units=units)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where there is one core
@pytest.mark.parametrize("workers", [0, 2])
def test_data_on_disk_train_like_data_in_memory(tmp_path, workers):
    config = single(replace(EXACT, curve_every=0), workers=workers)
    _, expected = trained(EXACT, "fastaba")
    streams = on_disk(tmp_path)
    _, parameters = trained(config, "fastaba", pickle.loads(pickle.dumps(streams)))
    assert torch.equal(parameters, expected)


def test_units_are_those_of_the_training_samples(tmp_path):
    streams = on_disk(tmp_path, units=None)
    x = streams.train.x
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(x.square().mean((0, 2, 3)), torch.ones(1), rtol=0, atol=1e-5)
    raw = SPLITS.validation.x
    torch.testing.assert_close(streams.validation.x * streams.std + streams.mean, raw)
    assert streams.fingerprint != on_disk(tmp_path).fingerprint


def test_data_on_disk_have_no_report_card(tmp_path):
    config = replace(EXACT, curve_every=0, card=["calibration"])
    with pytest.raises(ValueError, match="a report card of data on disk; needed: splits in memory"):
        trained(config, splits=on_disk(tmp_path))


def test_labels_and_shapes_that_do_not_fit_are_refused(tmp_path):
    good = [(torch.zeros(2, 3), 0), (torch.ones(2, 3), 1)]
    with pytest.raises(ValueError, match="labels of test are no whole numbers from 0 to 1"):
        streams_from(good, good, [(torch.zeros(2, 3), 2)], classes=2)
    with pytest.raises(ValueError, match=r"inputs of test have shape \(3,\)"):
        streams_from(good, good, [(torch.zeros(3), 1)], classes=2)
    with pytest.raises(ValueError, match="input 0 of train holds NaN"):
        streams_from([(torch.full((2, 3), torch.nan), 0)], good, good, classes=2)


# --- transforms ----------------------------------------------------------------------------------


def test_transforms_draw_by_seed_step_and_place_alone():
    both = Transforms(Single(transforms=("crop", "flip")).transforms, seed=4)
    picture = torch.arange(3 * 8 * 8).reshape(3, 8, 8).float()
    first = [both(picture, 1, place) for place in range(20)]
    again = [both(picture, 1, place) for place in reversed(range(20))][::-1]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert len({one.numpy().tobytes() for one in first}) > 10
    flips = Transforms(Single(transforms="flip").transforms, seed=4)
    turned = [torch.equal(flips(picture, step, 0), picture.flip(2)) for step in range(200)]
    assert 70 < sum(turned) < 130
    assert all(torch.equal(flips(picture, s, 0), picture) for s in range(200) if not turned[s])


def test_transforms_act_before_the_method_and_change_the_run():
    config = single(replace(EXACT, curve_every=0), transforms=("crop", "flip"))
    _, one = trained(config, "fastaba")
    _, again = trained(config, "fastaba")
    _, none = trained(replace(EXACT, curve_every=0), "fastaba")
    assert torch.equal(one, again) and not torch.equal(one, none)


def test_randaugment_without_torchvision_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as if it were not installed
    transforms._randaugment.cache_clear()
    with pytest.raises(ValueError, match=r"needs torchvision.*install 'aba-toolkit\[vision\]'"):
        trained(single(transforms="randaugment"))


# --- what may be said ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("both", "unknown trainer 'both'; known: replicas, single"),
        ({"kind": "single", "acumulate": 2}, r"unknown field 'acumulate' \(did you mean 'accum"),
        ({"kind": "single", "accumulate": 0}, "accumulate of trainer 'single' is 0; allowed: who"),
        ({"kind": "single", "ema": 1.0}, "ema is 1.0; allowed: from 0 to below 1"),
        ({"kind": "single", "transforms": ["flop"]}, r"unknown transform 'flop' \(did you mean"),
        ({"kind": "single", "transforms": [{"kind": "crop", "pad": 3}]}, "unknown option 'pad' of"),
        (
            {"kind": "single", "workers": True},
            "workers of trainer 'single' is True; allowed",
        ),
    ],
)
def test_what_no_trainer_is_gets_one_line(given, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(trainer=given)


def test_only_what_decides_numbers_is_in_the_identity():
    from aba_core.identity import plain

    assert "trainer" not in plain(TrainConfig()) and "trainer" not in plain(replicas())
    one = plain(TrainConfig(trainer="single"))
    assert one["trainer"] == {"kind": "single", "version": 1}
    fast = {"workers": 4, "checkpoint_every": 100, "compile": True, "channels_last": True}
    assert plain(TrainConfig(trainer={"kind": "single", **fast})) == one
    assert plain(TrainConfig(trainer={"kind": "single", "ema": 0.9})) != one


# --- studies -------------------------------------------------------------------------------------

STUDY = """
name: one-model
dataset: digits
config: {model: mlp, epochs: 1, batch_size: 20, trainer: {kind: single, checkpoint_every: 2}}
arms:
  - {name: Vanilla}
  - {name: FastABA, method: {kind: fastaba, strength: 0.3}}
seeds: 2
"""


def test_a_study_says_trainer_single_and_all_else_stays(tmp_path):
    from analysis import plan, runner
    from analysis.study import study_from_yaml

    path = tmp_path / "one.yaml"
    path.write_text(STUDY)
    study = study_from_yaml(path)
    done = runner.run(study, tmp_path / "results", device="cpu", processes=1)
    again = runner.run(study, tmp_path / "results", device="cpu", processes=1)
    assert (done.computed, again.computed, again.reused) == (4, 0, 4)
    frame = done.result.frame
    assert set(frame["status"]) == {"finished"}
    assert set(frame["trainer"]) == {"single(checkpoint_every=2)"}
    assert not list((tmp_path / "results" / "checkpoints").iterdir())
    config = {name: value for name, value in study.config.items() if name != "trainer"}
    usual = study.model_copy(update={"config": config})
    other = runner.run(usual, tmp_path / "results", device="cpu", processes=1).result.frame
    by = ["arm", "seed"]
    left, right = (f.sort_values(by)["validation_loss"].to_numpy() for f in (frame, other))
    np.testing.assert_allclose(left, right, rtol=1e-4)
    assert not set(plan.resolve(study).keys) & set(plan.resolve(usual).keys)
    assert all(len(chunk.runs) == 1 for chunk in plan.resolve(study).chunks)


@pytest.mark.slow
def test_the_ranks_of_torchrun_run_a_study_as_one_process_does(tmp_path):
    from analysis import runner
    from analysis.results import load
    from analysis.study import study_from_yaml

    path = tmp_path / "one.yaml"
    path.write_text(STUDY)
    together, alone = tmp_path / "together", tmp_path / "alone"
    run = ("-m", "analysis.cli", "run", path, "--results", together, "--device", "cpu")
    two_ranks(*run)
    runner.run(study_from_yaml(path), alone, device="cpu", processes=1)
    one, other = (
        load(folder, "one-model", "digits").frame.set_index("key") for folder in (together, alone)
    )
    assert len(one) == 4 and set(one.index) == set(other.index)
    np.testing.assert_allclose(one["test_loss"], other.loc[one.index, "test_loss"], rtol=1e-5)
    before = files_of(together)
    two_ranks(*run)  # nothing is left to do, and the second rank ends too
    assert files_of(together) == before


LEFT = """
import torch
from pathlib import Path
from aba_core.single.ranks import leave
from analysis.engines import among_ranks

def threads():
    tasks = Path("/proc/self/task").iterdir()
    names = [(task / "comm").read_text().strip() for task in tasks]
    return [name for name in names if "gloo" in name or "store" in name]

with among_ranks("auto", "cpu") as trains:
    assert bool(threads()) == (trains is not None)  # only the first is not done by now
assert not threads() and not torch.distributed.is_initialized(), threads()
leave()  # a second time there is nothing to do
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="names of threads, as Linux has")
def test_ranks_leave_their_group_before_the_interpreter_ends():
    two_ranks("-c", LEFT)


def files_of(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(p), p.stat().st_mtime_ns) for p in (folder / "runs").rglob("*.parquet"))


def test_ranks_share_one_model_and_no_other_engine(tmp_path, monkeypatch):
    from analysis import engines, plan
    from analysis.study import Study, StudyError, study_from_yaml

    path = tmp_path / "one.yaml"
    path.write_text(STUDY)
    study = study_from_yaml(path).model_copy(update={"seeds": (0,)})
    counted: list[int] = []
    trained = engines._by_all(Ranks(), plan.resolve(study).chunks[:1], counted.append)
    ((chunk, rows),) = trained
    assert counted[-1] == 5 and rows["runs"][0]["arm"] == chunk.runs[0][0]
    config = {name: value for name, value in study.config.items() if name != "trainer"}
    usual = Study(name="s", dataset="digits", config=config, arms=study.arms, seeds=(0,))
    with pytest.raises(StudyError, match="trainer 'replicas' trains in one; allowed: trainer: si"):
        next(engines._by_all(Ranks(), plan.resolve(usual).chunks, counted.append))
    with engines.among_ranks("processes", "cpu") as engine:
        assert engine == "processes"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(StudyError, match="engine 'processes' with torchrun; allowed: auto"),
        engines.among_ranks("processes", "cpu"),
    ):
        pass


def test_a_study_that_was_killed_continues_from_its_checkpoint(tmp_path):
    from analysis import engines, plan, runner
    from analysis.study import Study

    trainer = {"kind": "single", "checkpoint_every": 2}
    config = {"dataset": "digits", "model": "mlp", "epochs": 2, "batch_size": 20,
              "trainer": trainer}  # fmt: skip
    study = Study(name="s", dataset="digits", config=config, arms=[Arm("a")], seeds=1)
    chunk = replace(plan.resolve(study).chunks[0], checkpoints=str(tmp_path))
    counted = []

    def stop(steps: int) -> None:
        counted.append(steps)
        if sum(counted) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engines.train_chunk(chunk, stop)
    (kept,) = tmp_path.iterdir()
    assert torch.load(kept, weights_only=True)["done"] == 6
    counted.clear()
    rows = engines.train_chunk(chunk, counted.append)["runs"]
    assert counted == [6, 1, 1, 1, 1]
    whole = engines.train_chunk(replace(chunk, checkpoints=""))["runs"]
    assert rows[0]["test_loss"] == whole[0]["test_loss"]
    part = (chunk, {"runs": rows})
    runner._keep(tmp_path / "results", part)
    assert not kept.exists()


def test_data_on_disk_ask_for_trainer_single(tmp_path, monkeypatch):
    from analysis import plan
    from analysis.study import Study, StudyError

    monkeypatch.setattr(plan, "load_splits", lambda config: on_disk(tmp_path))
    config = {"batch_size": 6, "epochs": 1}
    study = Study(name="s", dataset="own", config=config, arms=[Arm("a", "fastaba")], seeds=1)
    with pytest.raises(StudyError, match="is read from disk; allowed: trainer: single"):
        plan.resolve(study)
    single = study.model_copy(update={"config": {**config, "trainer": "single"}})
    assert len(plan.resolve(single).chunks) == 1
