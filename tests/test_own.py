"""Does ABA help on data of one's own: one call, one command, and what the pieces give by hand."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from torch import nn

from aba_core import Arm, TrainConfig, build_model, splits_from, train
from aba_core.datasets import DatasetError, Splits
from aba_core.own_data import drawn_subset
from aba_core.runs import Runs
from analysis import own, own_data
from analysis.own import ABA_ARMS, Answer, compare, declared, usual_training
from analysis.study import FRESH_SEED, TUNING_SEED, StudyError

ROOT = Path(__file__).parents[1]
QUICK = {"replicates": 5, "tuning_subsets": 1, "seed": 3}


def drawn(splits: Splits, size: int, seed: int) -> Splits:
    """The same splits with the training samples of `drawn_subset` alone."""
    pool, at = splits.train, drawn_subset(splits, size, seed)
    part = replace(pool, data=pool.data[at], y=pool.y[at], index=None)
    return replace(splits, train=part, subset=f"{size} of {len(pool)}", subset_seed=seed)


def quick(samples: int) -> TrainConfig:
    return replace(usual_training(samples), epochs=1)


@pytest.fixture(scope="module")
def cancer() -> Answer:
    """scikit-learn's breast cancer data, 569 rows of 30 columns, trained for one epoch."""
    x, y = load_breast_cancer(return_X_y=True)
    return compare(x, y, "linear", config=quick(60), train_samples=60, name="cancer", **QUICK)


# --- the answer is what the pieces give ----------------------------------------------------------


def test_runs_are_those_of_training_each_subset_by_hand(cancer: Answer):
    x, y = load_breast_cancer(return_X_y=True)
    splits = splits_from(x, y, seed=3, name="cancer")
    seed = FRESH_SEED + 2
    part = drawn(splits, 60, seed)
    for arm in cancer.study.arms[:3]:
        alone = train(
            replace(quick(60), subset_seed=seed),
            [Arm(arm.name, arm.method)],
            [seed],
            splits=part,
            build=lambda: build_model("linear", (30,), 2),
        ).rows[0]
        rows = cancer.runs[(cancer.runs["arm"] == arm.name) & (cancer.runs["seed"] == seed)]
        for metric in ("validation_accuracy", "test_accuracy"):
            assert rows[metric].item() == pytest.approx(alone[metric], abs=1e-9)


@pytest.mark.parametrize("member_per", ["draw", "sample"])
def test_runs_on_subsets_side_by_side_are_those_of_each_subset_alone(member_per):
    splits = splits_from(*load_wine(return_X_y=True))
    config = replace(quick(40), dtype="float64", curve_every=10)
    by_map = {"adjustments": "all", "strength": 0.5, "member_per": member_per}
    arms = [Arm("Vanilla"), Arm.of("All", **by_map), Arm.of("Mixup", method="mixup", alpha=0.4)]
    subsets = {seed: drawn_subset(splits, 40, seed) for seed in (4, 5, 6)}
    build = partial(build_model, "mlp", (13,), 3)
    together = train(config, arms, [4, 5, 6], splits=splits, subsets=subsets, build=build)
    named = ["subset", "subset_seed"]
    metrics = ["validation_loss", "test_loss", "train_loss", "train_accuracy", "test_accuracy"]
    for seed in subsets:
        part = drawn(splits, 40, seed)
        own = replace(config, subset_seed=seed)
        alone = train(own, arms, [seed], splits=part, build=build)
        for table in (Runs.frame, Runs.curves):
            one, several = table(alone), table(together)
            several = several[several["seed"] == seed].reset_index(drop=True)
            assert (several[named] == one[named]).to_numpy().all()
            pd.testing.assert_frame_equal(several[["arm", *metrics]], one[["arm", *metrics]])


@pytest.mark.parametrize(
    "subsets, given, message",
    [
        ({4: torch.arange(20)}, {}, "subsets has none for seed 5; needed: one for each seed"),
        (
            {4: torch.arange(20), 5: torch.arange(21)},
            {},
            "subsets have 20 to 21 samples; needed: equally many",
        ),
        (
            {4: torch.arange(20), 5: torch.arange(20)},
            {"mechanism": 2},
            "mechanism",
        ),
        ({4: torch.arange(5), 5: torch.arange(5)}, {}, "allowed: up to the 5 training samples"),
    ],
)
def test_subsets_that_do_not_fit_are_refused(subsets, given, message):
    splits = splits_from(*load_wine(return_X_y=True))
    with pytest.raises(ValueError, match=message):
        train(
            replace(quick(40), **given),
            [Arm("Vanilla")],
            [4, 5],
            splits=splits,
            subsets=subsets,
            build=partial(build_model, "linear", (13,), 3),
        )


def test_differences_are_paired_t_intervals_at_bonferronis_level(cancer: Answer):
    wide = cancer.runs.pivot_table(index="seed", columns="arm", values="test_accuracy")
    arms = [arm for arm in wide if arm != "Vanilla"]
    table = cancer.table.set_index("arm")
    assert len(wide) == 5 and len(arms) == 10
    for arm in arms:
        apart = wide[arm] - wide["Vanilla"]
        assert table.loc[arm, "difference"] == pytest.approx(apart.mean())
        if apart.std() > 0:
            reach = stats.t.ppf(1 - 0.025 / 10, 4) * apart.std() / 5**0.5
            low = table.loc[arm, "difference_low"]
            assert low == pytest.approx(apart.mean() - reach)
        assert table.loc[arm, "test"] == pytest.approx(wide[arm].mean())


def test_every_class_keeps_its_best_value_on_tuning_seeds_that_are_not_reported(cancer: Answer):
    assert set(cancer.runs["seed"]) == set(range(FRESH_SEED, FRESH_SEED + 5))
    assert TUNING_SEED not in set(cancer.runs["seed"])
    tried = cancer.tried
    assert set(tried.groupby("class").size()) == {3}  # as many values for each
    for name, of_class in tried.groupby("class", sort=False):
        best = of_class["mean"].max()
        assert of_class.loc[of_class["chosen"], "mean"].tolist() == [best]
        setting = cancer.table.set_index("arm").loc[name, "setting"]
        assert setting.endswith(f"= {of_class.loc[of_class['chosen'], 'values'].item()}")


def test_the_sentence_says_verdict_number_interval_n_and_scope(cancer: Answer):
    verdict = cancer.verdicts[0]
    start = {"supported": "Yes", "refuted": "No", "inconclusive": "These runs cannot tell"}
    assert cancer.sentence.startswith(start[cancer.verdict])
    assert f"({cancer.verdict})" in cancer.sentence
    number = f"{verdict.decisive['estimate']:.1f}".replace("-", "−")
    assert f"by {number} points [" in cancer.sentence
    scope = (
        "This rests on 5 training subsets of 60 of 341 samples, each with a new seed, and on the "
    )
    assert f"{scope}same 114 test samples." in cancer.sentence
    assert cancer.sentence in str(cancer) and cancer.sentence in repr(cancer)
    # The verdict on a claim comes before the claim, which would be read as a finding otherwise.
    for detail, verdict in zip(cancer.details(), cancer.verdicts[1:], strict=True):
        assert detail.startswith(
            f"{verdict.verdict.capitalize()}: {verdict.hypothesis.statement[0].lower()}"
        )
    columns = [line for line in str(cancer).splitlines() if line.startswith(("Arm ", "Vanilla "))]
    assert len(columns) == 2  # names to the left


def made_runs(gain: dict[str, float], noise: float, study) -> pd.DataFrame:
    """Runs in which each arm is so much better than Vanilla, but for noise."""
    rng = np.random.default_rng(0)
    subsets = {seed: rng.normal(80, 3) for seed in study.seeds}
    return pd.DataFrame(
        {
            "arm": arm.name,
            "seed": seed,
            "subset_seed": seed,
            "status": "finished",
            **dict.fromkeys(
                ("validation_accuracy", "test_accuracy"),
                base + gain.get(arm.name, 0.0) + rng.normal(0, noise),
            ),
        }
        for arm in study.arms
        for seed, base in subsets.items()
    )


@pytest.mark.parametrize(
    ("gain", "noise", "expected", "start"),
    [
        (
            {"FastABA": 3.0},
            0.3,
            "supported",
            "Yes, ABA helps here (supported): FastABA changes test",
        ),
        (
            dict.fromkeys(ABA_ARMS, -2.0),
            0.3,
            "refuted",
            "No, ABA does not help here (refuted): no form",
        ),
        (
            {"All": 0.4},
            3.0,
            "inconclusive",
            "These runs cannot tell whether ABA helps (inconclusive)",
        ),
    ],
)
def test_yes_no_and_open_are_said_of_runs_made_so(gain, noise, expected, start):
    study = declared(30, "made", 12, 1, (0.2, 0.5, 1.0), 0.5)
    tried = pd.DataFrame({"class": [], "values": [], "chosen": pd.Series([], dtype=bool)})
    answer = own.judged(study, made_runs(gain, noise, study), tried, "subsets")
    assert answer.verdict == expected
    assert answer.sentence.startswith(start)


def test_arms_that_are_level_in_every_subset_are_noted():
    study = declared(30, "made", 12, 1, (0.2, 0.5, 1.0), 0.5)
    tried = pd.DataFrame({"class": [], "values": [], "chosen": pd.Series([], dtype=bool)})
    runs = made_runs({"MendABA": 1.0}, 0.3, study)
    level = runs.loc[runs["arm"] == "Vanilla", "test_accuracy"].to_numpy()
    assert own.judged(study, runs, tried, "subsets").notes == ()
    runs.loc[runs["arm"] == "Mixup", "test_accuracy"] = level
    (note,) = own.judged(study, runs, tried, "subsets").notes
    assert note.startswith("Mixup was right on as many test samples as Vanilla in every subset.")


# --- what there is to see ------------------------------------------------------------------------


def test_it_is_shown_saved_and_drawn(cancer: Answer, tmp_path: Path):
    page = cancer._repr_html_()
    assert "<svg" in page and "<table" in page and "MendABA" in page
    names = {path.name for path in cancer.save(tmp_path)}
    assert {"own-forest-cancer.pdf", "own-forest-cancer.svg", "own-arms-cancer.csv"} <= names
    kept = pd.read_csv(tmp_path / "tables" / "own-arms-cancer.csv")
    assert kept["arm"].tolist() == cancer.table["arm"].tolist()
    assert (
        set(kept["model"]) == set(cancer.runs["model"]) == {"linear"}
    )  # and not the default's name
    printed = (tmp_path / "tables" / "own-arms-cancer.md").read_text()
    assert printed.startswith(
        "| Arm | Setting | Runs | Validation | Test | Difference (points) | V"
    )
    assert "over training subsets and seeds" in page
    drawn = {text.get_text().replace("\n", " ") for text in cancer.plot().get_yticklabels()}
    assert drawn == {*cancer.table["arm"]} - {"Vanilla"}


def test_uneven_classes_and_a_ceiling_are_said():
    x, y = load_wine(return_X_y=True)
    kept = np.flatnonzero((y == 1) | (np.arange(len(y)) % 4 == 0))  # the second grower mostly
    answer = compare(x[kept], y[kept], "linear", config=quick(20), train_samples=20, **QUICK)
    share = 100 * np.mean(splits_from(x[kept], y[kept], seed=3).test.y.numpy() == 1)
    said = " ".join(answer.notes)
    assert f"always guessing '1' is right on {share:.0f} %" in said
    assert "One test sample is" in said
    perfect = pd.DataFrame({"arm": ["Vanilla"] * 2, "test_accuracy": [99.0, 100.0]})
    assert "all but 0.2 of 36 test samples" in own._notes_on_ceiling(perfect, 36)[0]
    assert own._notes_on_ceiling(perfect.assign(test_accuracy=90.0), 36) == []


@pytest.mark.slow
def test_pictures_have_a_convolutional_model_and_few_columns_are_split_at_quarters():
    x, y = load_digits(return_X_y=True)
    splits = splits_from(x[:300].reshape(-1, 1, 8, 8), y[:300])
    answer = compare(splits, config=quick(40), train_samples=40, replicates=5, tuning_subsets=1)
    assert len(answer.runs) == 5 * 11 and set(answer.runs["subset"]) == {"40 of 180"}
    few = {arm.name: arm for arm in declared(4, "few", 5, 1, (0.2, 0.5, 1.0), 0.5).arms}
    assert few["MendABA"].setting("split") == [0.25, 0.75]
    assert few["FastABA"].setting("split") is None  # by sign, whatever their number


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"replicates": 2}, "replicates is 2; allowed: whole numbers from 5 to 1000"),
        ({"strengths": (0.5,)}, "needed: 3 different numbers above 0"),
        ({"strengths": (0.5, 0.5, 1.0)}, "needed: 3 different numbers above 0"),
        ({"train_samples": 106}, "train_samples is 106; allowed: 6 .two a class. to 105"),
        ({"train_samples": 2}, "train_samples is 2; allowed: 6"),
        ({"replicate": 7}, "unknown argument 'replicate'; did you mean 'replicates'"),
        ({"build": "mpl"}, "unknown model 'mpl' .did you mean 'mlp'"),
        ({"build": lambda: nn.Linear(12, 3)}, "the model Linear refuses a batch of shape"),
        ({"build": lambda: nn.Linear(13, 2)}, r"needed: \[batch, classes\]"),
        ({"build": nn.Linear(13, 3)}, "build is a module"),
        ({"y": None}, "the data is a ndarray without labels"),
        ({"y": np.zeros(178, int)}, "two classes or more"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(given: dict, message: str):
    x, y = load_wine(return_X_y=True)
    with pytest.raises((StudyError, DatasetError, ValueError), match=message) as told:
        compare(**{"x": x, "y": y, **given})
    assert "\n" not in str(told.value)


# --- files ---------------------------------------------------------------------------------------


def test_a_csv_an_npz_and_a_function_hold_the_same_data(tmp_path: Path, monkeypatch):
    x, y = load_wine(return_X_y=True)
    table = pd.DataFrame(x).assign(grower=y)
    table[["grower", *range(13)]].to_csv(tmp_path / "first.csv", index=False)
    table.to_csv(tmp_path / "last.csv", index=False)
    np.savez(tmp_path / "wine.npz", x=x, y=y)
    module = "from sklearn.datasets import load_wine\ndef wine():\n    "
    (tmp_path / "wines_of_mine.py").write_text(module + "return load_wine(return_X_y=True)\n")
    monkeypatch.chdir(tmp_path)
    for where, label in (
        ("first.csv", "grower"),
        ("last.csv", ""),
        ("wine.npz", ""),
        ("wines_of_mine:wine", ""),
    ):
        read_x, read_y = own_data.read(where, label)
        assert np.allclose(read_x, x) and (read_y == y).all(), where


@pytest.mark.parametrize(
    ("where", "label", "message"),
    [
        ("absent.csv", "", "cannot read absent.csv: no such file"),
        ("data.txt", "", "'data.txt' is no data; needed: a file .csv or .npz, or module:function"),
        ("t.csv", "clas", "has no column 'clas' .did you mean 'class'"),
        ("t.csv", "a", "column 'b' of t.csv holds 'u' in row 1; needed: numbers"),
        ("lacking.csv", "", "column 'class' of lacking.csv lacks 1 labels"),
        ("one.csv", "", "has the column 'a' alone"),
        ("gap.csv", "", "column 'b' of gap.csv has no value in 1 of 2 rows .the first: row 2.; "),
        ("latin.csv", "", "latin.csv is not text in UTF-8 .byte 1.; save it as CSV in UTF-8"),
        ("bare.csv", "", "line 1 of bare.csv holds numbers alone; needed: the names"),
        ("index.csv", "", "first column of index.csv has no name and counts the rows; write"),
        ("comma.csv", "", "holds '1,5' in row 1; .*; write decimals with a point"),
        ("target.csv", "", "has 8 different numbers in 8 rows; needed: classes"),
        ("empty.csv", "", "empty.csv is no CSV table"),
        ("no_y.npz", "", "no_y.npz has no array 'y'; there: x"),
        ("torn.npz", "", "torn.npz is no NPZ file"),
        ("no_such_module:f", "", "cannot import 'no_such_module'"),
        ("t.npz", "class", "--label class goes with a CSV file"),
    ],
)
def test_files_that_hold_no_data_are_refused(where, label, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,b,class\n1,u,0\n2,v,1\n")
    Path("lacking.csv").write_text("a,class\n1,0\n2,\n")
    Path("one.csv").write_text("a\n1\n")
    Path("empty.csv").write_text("")
    Path("gap.csv").write_text("a,b,class\n1,2,0\n2,,1\n")
    Path("latin.csv").write_bytes("Müller,class\n1,0\n".encode("latin-1"))
    Path("bare.csv").write_text("0.5,0.5,1\n1,2,0\n")
    Path("index.csv").write_text(",a,class\n0,5,0\n1,7,1\n")
    Path("comma.csv").write_text("a;class\n1,5;0\n2,5;1\n")
    Path("target.csv").write_text("a,y\n" + "".join(f"{n},{n}\n" for n in range(8)))
    np.savez("no_y.npz", x=np.zeros(3))
    np.savez("t.npz", x=np.zeros(3), y=np.zeros(3))
    Path("torn.npz").write_bytes(b"PK\x03\x04torn")
    with pytest.raises(StudyError, match=message):
        own_data.read(where, label)


def test_labels_that_do_not_begin_at_0_are_names(tmp_path):
    table = pd.DataFrame({"a": np.arange(12.0), "grade": [5, 7, 700] * 4})
    table.to_csv(tmp_path / "grades.csv", index=False)
    x, y = own_data.read(str(tmp_path / "grades.csv"))
    assert splits_from(x, y).class_names == ("5", "7", "700")
    told = own_data.described(str(tmp_path / "grades.csv"))
    assert told.startswith(
        "12 samples, 1 input each; labels: column 'grade', 3 classes. Column 'a'"
    )


def test_a_model_that_only_guesses_is_told_so(cancer: Answer):
    x, y = np.zeros((60, 3)), np.array([0] * 40 + [1] * 20)
    answer = compare(x, y, "linear", config=quick(20), **QUICK)
    assert any("no more than always guessing" in note for note in answer.notes)
    assert not any("guessing the commonest" in note for note in cancer.notes)


def test_the_command_answers_and_leaves_a_plot_and_a_table(tmp_path: Path):
    x, y = load_wine(return_X_y=True)
    np.savez(tmp_path / "wine.npz", x=x[::2], y=y[::2])
    words = ["try", "wine.npz", "--model", "linear", "--replicates", "5", "--train-samples", "20"]
    words += ["--steps", "10"]
    done = subprocess.run(
        [sys.executable, "-m", "analysis.cli", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert (
        "This rests on 5 training subsets of 20 of" in done.stdout and "FastABA-CE" in done.stdout
    )
    assert (tmp_path / "reports" / "figures" / "own-forest-wine.pdf").stat().st_size > 1000
    assert len(pd.read_csv(tmp_path / "reports" / "tables" / "own-arms-wine.csv")) == 11


def test_subsets_are_stratified_distinct_and_follow_their_seed():
    splits = splits_from(*load_wine(return_X_y=True))
    one, two, again = (drawn(splits, 30, seed) for seed in (1, 2, 1))
    assert torch.equal(one.train.x, again.train.x) and not torch.equal(one.train.x, two.train.x)
    counts = torch.bincount(one.train.y).double() / 30
    assert torch.allclose(counts, torch.bincount(splits.train.y).double() / 106, atol=1 / 30)
    assert torch.equal(one.test.x, splits.test.x)
