"""What a user is told who typed something wrong: one line, the value, and what is allowed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.made_results import make_study, standard
from scipy.sparse import csr_matrix

from aba_core import (
    ABA,
    CHALLENGER,
    AdjustmentSet,  # noqa: F401 - a repr that is evaluated names it
    Arm,
    Augmentation,
    Regularizer,
    TrainConfig,
    build_model,
    inspect_sample,
    method_of,
    splits_from,
    train,
)
from aba_core.architecture import check_module
from aba_core.checks import check_split
from aba_core.identity import in_short
from analysis import terminal, yaml_text
from analysis.cli import app
from analysis.own import compare
from analysis.results import load
from analysis.studies import find_study


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """(exit code, standard error) of a command, run in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        code = terminal.exit_code(lambda: app(list(arguments), standalone_mode=False))
        told = capsys.readouterr()
        return code, told.err or told.out

    return run


def test_many_names_are_told_in_short():
    numbered = [f"adjustment {index}" for index in range(27)]
    assert in_short(numbered) == "adjustment 0 to adjustment 26"
    assert in_short(["a", "b 1", "b 2", "c"]) == "a, b 1, b 2, c"
    assert in_short(["b 9", "b 10", "b 11", "b 13"]) == "b 9 to b 11, b 13"
    assert in_short("abcdef", most=3) == "a, b, c, and 3 more"
    assert in_short("abcd", most=3) == "a, b, c, d"  # one more takes no more room
    assert in_short([]) == ""


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("run isolation --seeds abc", "aba: --seeds abc; allowed: whole numbers\n"),
        ("run isolation --processes 0", "aba: --processes 0; allowed: whole numbers from 1\n"),
        ("report --jobs 0", "aba: --jobs 0; allowed: whole numbers from 1\n"),
        ("try x.csv --seed -1", "aba: --seed -1; allowed: whole numbers from 0\n"),
        ("plan isolation --effect abc", "aba: --effect abc; allowed: numbers\n"),
        ("report --format doc", "aba: --format doc; allowed: html, pdf, notebook\n"),
        ("run isolation --dataset diigts", "unknown dataset 'diigts' (did you mean 'digits'?)"),
        ("run isolation --set strenth=0.5", "'strenth' (did you mean 'strength'?)"),
        ("run isolation --set strength=inf", "strength=inf; allowed: finite numbers not below 0"),
        ("run isolation --set strength=nan", "strength=nan; allowed: finite numbers not below 0"),
        ("run isolation --set strength={", "--set 'strength={' is not valid YAML"),
        ("run isolation --engine gpus", "unknown engine 'gpus' (did you mean 'gpu'?)"),
        ("run isolation --scheduler lcal", "unknown scheduler 'lcal' (did you mean 'local'?)"),
        ("plan larg-resnet50", "unknown study 'larg-resnet50' (did you mean 'large-resnet50'?)"),
        ("plan large-resnet51", "unknown study 'large-resnet51' (did you mean 'large-resnet50'?)"),
        ("figures --results none", "no studies in none; start one with: aba run isolation "
         "--dataset digits --results none\n"),
        ("claims --results none", "no studies in none; start one with: aba run isolation "
         "--dataset digits --results none\n"),
        ("compare --results none --dataset minst", "there: nothing (did you mean 'mnist'?)\n"),
        ("figures isolatoin", "no study 'isolatoin' in results or the shipped results (did"),
        ("figures nosuch", "no study 'nosuch' in results or the shipped results; the sh"),
        ("compare hypothesis", "(did you mean 'hypotheses'?)"),
        ("report mien", "or the name of a study of your own in the results folder\n"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_is_allowed(said, tmp_path, command, message):
    code, told = said(*command.split())
    assert code in (1, 2) and message in told
    assert told.count("\n") == 1 and told.startswith("aba: ")
    assert not [*tmp_path.iterdir()]


def test_without_a_command_the_help_is_shown_as_it_is(said):
    code, told = said()
    assert code == 2 and told.startswith("Usage: ") and "  run          Train the runs" in told


@pytest.mark.parametrize(
    ("name", "told"),
    [("isolaton", "(did you mean 'isolation'?)"), ("figurine", "; results have: isolation\n")],
)
def test_a_study_that_nobody_knows_is_not_to_be_run(said, tmp_path, name, told):
    """It once said "run: aba run isolaton", which cannot be."""
    make_study(tmp_path / "results", standard("isolation", seeds=2))
    code, message = said("figures", name)
    assert code == 1 and told in message and "aba run" not in message


def test_each_unknown_study_is_one_line_and_the_others_are_shown(said, tmp_path, capsys):
    """It once was a line for every data set of the folder."""
    for dataset in ("digits", "mnist"):
        make_study(tmp_path / "results", standard("isolation", dataset, seeds=2))
    code, told = said("figures", "isolation", "isolatoin", "--format", "svg")
    assert code == 1
    assert told == (
        "aba: no study 'isolatoin' in results (did you mean 'isolation'?); results have: "
        "isolation\n"
    )
    assert (tmp_path / "reports" / "figures" / "isolation-mnist.svg").is_file()


def test_a_study_without_its_suffix_is_the_file_that_was_meant(said, tmp_path):
    (tmp_path / "mine.yaml").write_text("")
    code, told = said("run", "mine")
    assert (
        code == 2 and "unknown study 'mine' (did you mean 'mine.yaml'?); known: isolation" in told
    )


def test_a_metric_is_guessed_from_those_that_a_study_has(said, tmp_path):
    make_study(tmp_path / "results", standard("isolation", seeds=2))
    code, told = said("figures", "isolation", "--metric", "test_acuracy")
    assert code == 2 and "no metric 'test_acuracy' (did you mean 'test_accuracy'?); known" in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{dataset: digits, arms: [{name: a}]}", "name and seeds are missing; as name: mine;"),
        ("{name: a, dataset: digits, seeds: 2, arm: []}", "field 'arm' (did you mean 'arms'?); kn"),
        ("{name: a, dataset: digits, seeds: two, arms: [{name: a}]}", "seeds is 'two'; needed:"),
        ("{name: a, dataset: digits, seeds: 2, arms: [a]}", "an arm is 'a'; needed: its fields"),
        ("{name: my a, dataset: digits, seeds: 2, arms: [{name: a}]}", "name is 'my a'; allowed"),
        ("{name: a, dataset: digits, seeds: 2, arms: 3}", "arms is 3; needed: a list"),
        (
            "{name: a, dataset: digits, seeds: 2, arms: [{name: a, metod: mendaba}]}",
            "arm 'a': metod given (did you mean 'method'?), but neither adjustments nor a method",
        ),
    ],
)  # fmt: skip
def test_a_study_file_is_told_what_it_lacks_with_an_example(said, tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    code, told = said("run", "mine.yaml")
    assert code == 2 and told.startswith("aba: mine.yaml: ") and message in told
    assert told.count("\n") == 1 and not (tmp_path / "results").exists()


def test_a_pilot_is_asked_for_by_the_file_that_was_named(said, tmp_path):
    (tmp_path / "my_file.yaml").write_text(
        "{name: other-name, dataset: digits, config: {epochs: 7}, arms: [{name: a}], seeds: 2}"
    )
    code, told = said("plan", "my_file.yaml")
    assert code == 2 and "a pilot: aba run my_file.yaml --seeds" in told


def test_a_large_plan_shows_the_shipped_cells_where_there_are_no_others(said, capsys):
    code, told = said("plan", "large-resnet50")
    assert code == 0
    assert told == "aba: no runs of large models in results/: these are the shipped results\n"


def test_one_seed_is_not_seeds(tmp_path):
    make_study(tmp_path, standard("isolation", seeds=1))
    assert ", 1 seed." in load(tmp_path, "isolation", "digits").summary()


# --- numbers in YAML -----------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "+1e-3", "1.e-3", ".1e-2", "10e-4", "1.0e-3"])
def test_powers_of_ten_are_numbers_in_every_spelling(tmp_path, text):
    """YAML 1.1 takes 1e-3 for text, and a study with `strength: 1e-1` was refused."""
    assert yaml_text.read_value(text) == pytest.approx(1e-3)
    path = tmp_path / "s.yaml"
    path.write_text(
        f"{{name: s, dataset: digits, arms: [{{name: M, method: {{kind: mendaba, strength: {text}"
        "}}], seeds: 1}"
    )
    assert find_study(str(path)).arms[0].setting("strength") == pytest.approx(1e-3)
    chosen = find_study("isolation", overrides=[f"strength={text}", f"learning_rate={text}"])
    assert chosen.arms[0].setting("strength") == pytest.approx(1e-3)
    assert chosen.config["learning_rate"] == pytest.approx(1e-3)


@pytest.mark.parametrize("text", ["e3", "1e", "v1e3", "1e3x", "1-3", "0x1e3g"])
def test_what_only_looks_like_a_power_of_ten_stays_text(text):
    assert yaml_text.read_value(text) == text


# --- the data of `aba try` -----------------------------------------------------------------------

ROWS = "a,b,label\n1,2,0\n3,4,1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,label\n", "d.csv has a header and no rows; needed: a row a sample"),
        ("a,b,label\n1,2,0\n3,x,1\n", "column 'b' of d.csv holds 'x' in row 2; needed: numbers"),
        ("a;b;label\n1;2,5;0\n3;4,5;1\n", "column 'b' of d.csv holds '2,5' in row 1; needed: num"),
    ],
)
def test_a_table_that_does_not_fit_is_named_by_its_cell(said, tmp_path, text, message):
    (tmp_path / "d.csv").write_text(text)
    code, told = said("try", "d.csv")
    assert code == 2 and message in told and told.count("\n") == 1


@pytest.mark.parametrize("separator", [";", "\t"])
def test_columns_may_be_separated_by_semicolons_and_tabs(tmp_path, separator):
    from analysis.own_data import read

    path = tmp_path / "d.csv"
    path.write_text(ROWS.replace(",", separator))
    x, y = read(str(path))
    assert x.tolist() == [[1, 2], [3, 4]] and y.tolist() == [0, 1]


def test_pictures_with_their_channels_last_are_refused(said, tmp_path):
    """They were once taken for pictures of 32 channels and 32 × 3 pixels."""
    np.savez(tmp_path / "d.npz", x=np.zeros((9, 32, 32, 3)), y=np.arange(9) % 2)
    code, told = said("try", "d.npz")
    assert code == 2 and "np.moveaxis(x, 3, 1) makes them" in told


def test_what_is_no_archive_is_said_to_be_damaged(said, tmp_path):
    (tmp_path / "d.npz").write_bytes(b"junk")
    code, told = said("try", "d.npz")
    assert code == 2 and told == "aba: d.npz is no NPZ file of numbers: it is damaged\n"


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_trained(said, tmp_path):
    (tmp_path / "d.csv").write_text(ROWS)
    Path("file").write_text("")
    code, told = said("try", "d.csv", "--out", "file/reports")
    assert code == 2 and told == "aba: cannot write to file/reports: Not a directory\n"


# --- Python --------------------------------------------------------------------------------------


def in_inference_mode():
    with torch.inference_mode():
        ABA("mendaba")(build_model("mlp", (3,), 2), torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]))


def test_an_inspection_takes_a_preset_by_name():
    model, x, y = build_model("mlp", (20,), 3), torch.randn(20), torch.tensor(1)
    by_name, same = (inspect_sample(model, x, y, one) for one in ("challenger", CHALLENGER))
    assert torch.equal(by_name.augmented, same.augmented)
    with pytest.raises(ValueError, match="unknown augmentation 'chalenger' .did you mean 'challen"):
        inspect_sample(model, x, y, "chalenger")


def test_what_is_printed_says_what_was_chosen_and_no_more():
    assert repr(TrainConfig(epochs=3)) == "TrainConfig(epochs=3)"
    arm = Arm.of("m", method="mendaba", strength=0.5)
    assert repr(arm) == "Arm(name='m', method={'kind': 'mendaba', 'strength': 0.5})"
    assert repr(CHALLENGER) == (
        "Augmentation(adjustments=AdjustmentSet.parse('0x4,3,4,5,6'), randomize=False)"
    )
    assert eval(repr(CHALLENGER)) == CHALLENGER
    assert repr(Regularizer("mixup", seed=2)) == "<Regularizer: mixup, seed 2; step 0>"


X, Y = np.random.default_rng(0).normal(size=(40, 3)), [0, 1] * 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_module(torch.ones(3, 3)), "model is Tensor; needed: a torch.nn.Module, as"),
        (lambda: check_split(torch.ones(3)), "split is a Tensor; needed: a Split, as splits.val"),
        (lambda: in_inference_mode(), r"inference_mode\(\) is on, .*; allowed: torch.no_grad\(\)"),
        (lambda: ABA(None), "augmentation is None; needed: an Augmentation, or one of: chall"),
        (lambda: method_of("mixpu"), r"unknown method 'mixpu' \(did you mean 'mixup'\?\)"),
        (lambda: method_of({"kind": "mixup", "alhpa": 1}), r"'alhpa' \(did you mean 'alpha'\?\)"),
        (lambda: Arm(3), "the name of an arm is 3; needed: text, as 'MendABA'"),
        (lambda: build_model("mlp", (3,), "ten"), "classes is 'ten'; allowed: whole"),
        (lambda: build_model("mlp", (3,), 2.5), "classes is 2.5; allowed: whole numbers from 1"),
        (lambda: build_model("mlp", "1,8", 2), "input_shape is '1,8'; needed:"),
        (lambda: splits_from(X, [0, None] * 20), r"20 samples have no label \(first: 1\)"),
        (lambda: splits_from(X, Y, seed="a"), "seed is 'a'; allowed: whole numbers from 0"),
        (lambda: splits_from(1e300 * X, Y), "or numbers beyond 3e38 in 40 samples"),
        (lambda: splits_from(csr_matrix(X), Y), "is a sparse csr_matrix; needed: x.toarray"),
        (lambda: splits_from(X, X[:, 0]), "for numbers to be predicted, task='regression'"),
        (lambda: compare(X[:6], Y[:6]), "own has 4 training samples of 2 classes; needed: more"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TrainConfig(epoch=3), r"TrainConfig has no field 'epoch' \(did you mean 'epochs'"),
        (lambda: Arm("a", metod="mixup"), r"Arm has no field 'metod' \(did you mean 'method'\?\)"),
        (lambda: Augmentation("all", strenght=1), r"no field 'strenght' \(did you mean 'strength'"),
        (lambda: TrainConfig(**{"classes": 3}), "no field 'classes'; known: dataset, subset,"),
    ],
)  # fmt: skip
def test_a_misspelt_field_is_guessed(call, message):
    with pytest.raises(TypeError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_run_that_was_not_trained_is_told_with_those_that_were():
    config = TrainConfig(model="linear", epochs=0.1, batch_size=8)
    runs = train(config, [Arm("a")], [3], splits=splits_from(X, Y))
    with pytest.raises(KeyError, match="no run of arm 'a' with seed 0; arms: a; seeds: 3"):
        runs.model("a", 0)


@pytest.mark.filterwarnings("default")
def test_pictures_with_their_channels_last_are_noticed():
    x = np.random.default_rng(0).normal(size=(40, 16, 16, 3))
    with pytest.warns(UserWarning, match=r"np.moveaxis\(x, 3, 1\) puts them"):
        splits_from(x, Y)
    splits_from(np.moveaxis(x, 3, 1), Y)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("run", "aba: stopped; finished runs are kept, the same command continues\n"),
        ("try", "aba: stopped\n"),
    ],
)
def test_only_commands_that_keep_runs_say_that_they_continue(monkeypatch, capsys, command, told):
    """`aba try` keeps nothing, and once said that it did."""

    def stopped() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["aba", command])
    assert terminal.exit_code(stopped) == 130
    assert capsys.readouterr().err == told
