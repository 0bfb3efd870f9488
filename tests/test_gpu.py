"""A GPU's numbers are a CPU's numbers, recorded or not. Skipped where there is no GPU."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from oracles import small_device

from aba_core import AdjustmentSet, Arm, Augmentation, TrainConfig, layers, train
from aba_core.convolutions import WAYS
from analysis import engines, gpu, runner
from analysis.plan import resolve
from analysis.studies import standard_study

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible to torch")

ALL = Augmentation(AdjustmentSet.parse("all"), strength=0.5, target="loss")
ARMS = [Arm("vanilla"), Arm("all", ALL), Arm("score", replace(ALL, target="class_score", top_k=2))]
CONFIG = TrainConfig(
    batch_size=6, epochs=5, optimizer="adam", learning_rate=0.01, schedule="cosine", dtype="float64"
)
METRICS = ["validation_loss", "test_loss", "train_loss", "validation_accuracy"]


def metrics(config, splits, device, **options) -> pd.DataFrame:
    return train(config, ARMS, [0, 1], device, splits=splits, **options).frame()[METRICS]


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("convolution", ["auto", *WAYS])
@pytest.mark.parametrize("graphs", [False, True])
def test_a_gpu_gives_a_cpus_numbers(graphs, convolution, batch_norm, tiny_splits, monkeypatch):
    config = replace(CONFIG, batch_norm=batch_norm)
    expected = metrics(config, tiny_splits, "cpu")
    monkeypatch.setattr(layers, "STACKED_CONVOLUTION", convolution)
    found = metrics(config, tiny_splits, "cuda", graphs=graphs)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("precision", ["full", "tf32", "bf16"])
def test_graphs_give_the_numbers_of_ordinary_steps(precision, tiny_splits):
    config = replace(CONFIG, dtype="float32", precision=precision)
    expected = metrics(config, tiny_splits, "cuda")
    found = metrics(config, tiny_splits, "cuda", graphs=True)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-4)


def test_a_study_runs_within_the_memory_that_is_free(tmp_path):
    study = standard_study("tension", "digits", "quick")
    study = study.model_copy(
        update={"seeds": (0,), "config": {**study.config, "epochs": 2}, "arms": study.arms[:3]}
    )
    outcome = runner.run(study, tmp_path, "cuda")
    assert outcome.computed == 3 and not outcome.result.missing
    assert set(outcome.result.frame["device"]) == {torch.cuda.get_device_name()}


def test_a_chunk_that_does_not_fit_is_trained_in_halves(monkeypatch, capsys):
    study = standard_study("tension", "digits", "quick")
    study = study.model_copy(
        update={"seeds": tuple(range(8)), "config": {**study.config, "epochs": 1}}
    )
    (chunk,) = resolve(study, "cuda").chunks
    # Room for about half of the runs, which the engine is told nothing of.
    _, _, each = engines.gpu_memory(chunk)
    total = torch.cuda.get_device_properties(0).total_memory
    monkeypatch.setenv("ABA_TEST_SHARE", str(each * len(chunk.runs) / 2 / total))
    engine = gpu.Engine(small_device.train_on_a_share, small_device.named)
    parts = list(engine([chunk], lambda steps: None))
    assert [run for part, _ in parts for run in part.runs] == list(chunk.runs)
    assert "trying halves in a fresh process" in capsys.readouterr().err
