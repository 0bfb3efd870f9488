"""Own studies are first class: differences to a baseline with verdicts, and every command takes
them by name. Runs, splits and ABA say in a line what they are."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from oracles.made_results import make_study, standard
from scipy import stats
from sklearn.datasets import load_wine
from torch import nn
from torch.utils.data import Dataset

from aba_core import (
    ABA,
    FASTABA,
    Arm,
    TrainConfig,
    attribute,
    frozen,
    splits_from,
    train,
)
from analysis import by_name, rooms, runner
from analysis.exhibits import ExportError, Look
from analysis.results import ResultsError, load
from analysis.studies import arms, find_study, standard_study
from analysis.study import StudyError

ROOT = Path(__file__).parents[1]
STUDY = """
name: mine
dataset: digits
config: {model: linear, epochs: 1, subset: tiny}
seeds: 5
fresh_subsets: 1
BASELINE
arms:
  - {name: plain}
  - {name: all, adjustments: all, strength: 0.3, target: loss}
  - {name: mix, method: mixup}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study's file and its results, really trained."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.yaml").write_text(STUDY.replace("BASELINE", ""))
    study = find_study(str(folder / "mine.yaml"))
    runner.run(study, folder / "results", device="cpu", processes=1)
    return folder


def aba(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "analysis.cli", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


# --- studies -------------------------------------------------------------------------------------


def test_differences_are_taken_within_subsets_to_the_arm_without_a_method(folder: Path):
    study = load(folder / "results", "mine", "digits")
    table = arms.differences(study, Look()).set_index("arm")
    assert table.index.tolist() == ["all", "mix"]
    wide = study.frame.pivot_table(index="seed", columns="arm", values="validation_accuracy")
    for arm in table.index:
        apart = wide[arm] - wide["plain"]
        reach = stats.t.ppf(1 - 0.025 / 2, 4) * apart.std() / 5**0.5
        row = table.loc[arm]
        assert row["difference"] == pytest.approx(apart.mean())
        assert row["difference_high"] == pytest.approx(apart.mean() + reach)
        assert row["unit"] == "subset" and row["verdict"] in (
            "supported",
            "refuted",
            "inconclusive",
        )


def test_they_are_shown_with_the_arms_and_in_words(folder: Path):
    shown = rooms.of_study("mine", folder / "results", "digits")
    assert list(shown.figures) == ["arms-mine", "differences-mine"]
    assert list(shown.tables) == ["arms-mine", "differences-mine"]
    said = arms.sentences(load(folder / "results", "mine", "digits"), Look())
    assert said[0].startswith("plain has a mean of ") and "plain" in said[1]


def test_a_named_baseline_is_what_others_are_compared_with(tmp_path: Path, folder: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(STUDY.replace("BASELINE", "baseline: mix"))
    named, plain = find_study(str(path)), find_study(str(folder / "mine.yaml"))
    assert named.identity == plain.identity  # it decides no run
    study = load(folder / "results", "mine", "digits")
    by_name = arms.differences(study, Look(), "mix")
    assert by_name["arm"].tolist() == ["plain", "all"]
    path.write_text(STUDY.replace("BASELINE", "baseline: mx"))
    with pytest.raises(StudyError, match="baseline is 'mx' .did you mean 'mix'"):
        find_study(str(path))
    with pytest.raises(ExportError, match="has no arm 'mx' .did you mean 'mix'"):
        arms.differences(study, Look(), "mx")


def test_without_a_vanilla_arm_the_baseline_is_one_that_changes_nothing():
    alone = standard_study("isolation", "digits", "quick")
    assert arms.baseline_arm(alone) == "adjustment 0"
    assert arms.baseline_arm(alone.model_copy(update={"arms": alone.arms[1:]})) == ""
    with_control = alone.model_copy(update={"arms": (*alone.arms, Arm("plain"))})
    assert arms.baseline_arm(with_control) == "plain"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["compare", "mine"], "differences to plain"),
        (["compare", "mine.yaml", "--baseline", "mix"], "differences to mix"),
        (["plan", "mine"], "Pilot: 15 runs of 3 arms in results"),
    ],
)
def test_commands_take_an_own_study_by_name(folder: Path, words: list[str], expected: str):
    done = aba(folder, *words)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_a_study_that_is_not_there_is_told_with_what_is(folder: Path):
    with pytest.raises(ResultsError, match="no study 'mne' .*did you mean 'mine'"):
        by_name.datasets_of("mne", folder / "results")
    with pytest.raises(ResultsError, match="no results of mine on wine .* there: digits"):
        by_name.datasets_of("mine", folder / "results", ["wine"])
    assert by_name.own_studies(["mine.yaml", "02_isolation"], folder / "results") == ["mine"]


@pytest.mark.slow
def test_a_report_takes_an_own_study_by_name(folder: Path, tmp_path: Path):
    shutil.copytree(folder / "results", tmp_path / "results")
    done = aba(tmp_path, "report", "mine")
    assert done.returncode == 0, done.stderr
    (page,) = (tmp_path / "reports").glob("13_any_study*.html")
    assert "Difference of each arm to plain" in page.read_text()


def test_a_report_of_a_study_on_several_data_sets_shows_each(tmp_path: Path):
    for dataset in ("digits", "mnist"):
        study = standard("benchmark", dataset, 2)
        make_study(tmp_path, study.model_copy(update={"name": "mine"}))
    assert by_name.as_notebook(["mine"], tmp_path, {}) == (
        {"study": "mine"},
        {"dataset": ["digits", "mnist"]},
    )
    given = {"dataset": "mnist"}
    assert by_name.as_notebook(["mine"], tmp_path, given) == ({"study": "mine"}, {})


# --- what they are, in a line --------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs():
    x, y = load_wine(return_X_y=True)
    kept = np.flatnonzero((y == 1) | (np.arange(len(y)) % 6 == 0))
    splits = splits_from(x[kept], y[kept])
    config = TrainConfig("wine", epochs=1, batch_size=10)
    arms_ = [Arm("Vanilla"), Arm.of("Mend", method="mendaba", strength=0.5)]
    return train(config, arms_, range(3), splits=splits, build=lambda: nn.Linear(13, 3)), splits


def test_runs_are_summed_up_arm_by_arm(runs):
    made, splits = runs
    table, frame = made.summary().set_index("arm"), made.frame()
    assert frame.columns[:5].tolist() == [
        *("arm", "seed", "status", "validation_accuracy", "test_accuracy"),
    ]
    for arm, part in frame.groupby("arm"):
        assert table.loc[arm, "runs"] == 3
        assert table.loc[arm, "test_accuracy"] == pytest.approx(part["test_accuracy"].mean())
        assert table.loc[arm, "test_sd"] == pytest.approx(part["test_accuracy"].std())
    with pd.option_context("display.width", 80, "display.max_columns", 0):
        printed = str(made.summary())
    assert "..." not in printed and "test_accuracy" in printed  # no column is hidden
    assert "diverged" not in table
    made.rows[0]["status"] = "diverged"
    assert made.summary()["diverged"].tolist() == [1, 0]
    made.rows[0]["status"] = "finished"
    assert len(repr(made).splitlines()) == 5 and "<Runs: 2 arms, 3 seeds, 6 runs" in repr(made)
    share = 100 * torch.bincount(splits.test.y).max().item() / len(splits.test)
    assert f"{share:.0f} % on test" in repr(made)  # uneven classes: what guessing reaches
    assert "<table" in made._repr_html_() and f"{share:.0f} % on test" in made._repr_html_()


def test_splits_and_aba_have_short_reprs(runs):
    _, splits = runs
    assert repr(splits).startswith("<Splits own (own): ") and len(repr(splits)) < 200
    assert repr(splits.test) == f"<Split: {len(splits.test)} samples of shape (13,)>"
    aba = ABA("mendaba", strength=0.5, seed=3)
    assert repr(aba) == "ABA('mendaba', strength=0.5, target='class_score', seed=3; step 0)"
    assert "adjustments 0x2" in repr(ABA(FASTABA, top_k=2))


# --- warnings ------------------------------------------------------------------------------------


def test_inputs_in_other_units_are_warned_of_once():
    x, y = load_wine(return_X_y=True)
    aba, model = ABA("mendaba"), nn.Linear(13, 3)
    with pytest.warns(UserWarning, match="standard deviation 216; a strength is in standard units"):
        aba(model, torch.tensor(x).float(), torch.tensor(y))
    aba(model, torch.tensor(x).float(), torch.tensor(y))  # warnings are errors here
    splits = splits_from(x, y, standardise=False)
    config = TrainConfig("wine", epochs=1, batch_size=10)
    given = {"splits": splits, "build": lambda: nn.Linear(13, 3)}
    train(config, [Arm("Vanilla")], [0], **given)  # no strength
    with pytest.warns(UserWarning, match="as splits_from.x, y. does"):
        train(config, [Arm.of("M", method="mendaba", strength=0.5)], [0], **given)


class Jittered(Dataset):
    """Pictures with a random transform, as torchvision's."""

    def __init__(self, size: float) -> None:
        self.size = size

    def __len__(self) -> int:
        return 30

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return torch.arange(4.0) + number + self.size * torch.rand(4), number % 2


def test_random_transforms_that_would_be_frozen_are_warned_of():
    with pytest.warns(UserWarning, match="Jittered gives another input each time"):
        splits_from(Jittered(0.5))
    splits_from(Jittered(0.0))  # warnings are errors here


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, y: attribute(nn.Linear(12, 3), x, y),
            "Linear refuses a batch of shape .178, 13",
        ),
        (lambda x, y: attribute(nn.Linear(13, 2), x, y), "label 2, but the model has 2 outputs"),
        (lambda x, y: ABA("fastaba-ce")(nn.Linear(13, 2), x, y), "has 2 outputs; needed: one a"),
        (lambda x, y: ABA("mendaba")(nn.Linear(13, 3), x.double(), y), "give x.to.torch.float32"),
        (
            lambda x, y: ABA("mendaba")(nn.Linear(13, 3), x, y.float()),
            "whole-number classes, as y.",
        ),
        (lambda x, y: frozen(nn.Linear(13, 3), splits_from(x, y).test, 0.5), r"as \[0.5\]"),
        (lambda x, y: frozen(nn.Linear(12, 3), splits_from(x, y).test, [0.5]), "refuses a batch"),
        (lambda x, y: train(TrainConfig(), [Arm("V")], [0], splits=(x, y)), "splits is a tuple"),
        (lambda x, y: train(TrainConfig("digts"), [Arm("V")], [0]), "did you mean 'digits'"),
        (
            lambda x, y: train(TrainConfig(), ["mendaba"], [0]),
            "an arm is 'mendaba'; needed",
        ),
        (lambda x, y: ABA("mendba"), "unknown augmentation 'mendba' .did you mean 'mendaba'"),
        (lambda x, y: ABA("mendaba", strenght=1), "'strenght' .did you mean 'strength'"),
        (lambda x, y: ABA("mendaba", strength="big"), "strength is 'big'; needed: a number"),
        (lambda x, y: ABA("mendaba")("vgg11", x, y), "model is 'vgg11'; needed: a torch.nn.Module"),
        (lambda x, y: ABA("mendaba")(nn.LSTM(x.shape[1], 3), x, y), "LSTM returns a tuple; needed"),
        (lambda x, y: standard_study("isolatoin"), "'isolatoin' .did you mean 'isolation'"),
        (lambda x, y: standard_study("isolation", "digits", "quik"), "did you mean 'quick'"),
    ],
)
def test_what_does_not_fit_is_one_line(call, message):
    x, y = load_wine(return_X_y=True)
    x = torch.tensor((x - x.mean(0)) / x.std(0)).float()
    with pytest.raises(ValueError, match=message) as told:
        call(x, torch.tensor(y))
    assert "\n" not in str(told.value)
