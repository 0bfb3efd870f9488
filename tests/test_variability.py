"""Variability of runs: metrics against their slow twins, known values, and the study's arms."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from oracles import slow_variability as slow

from aba_core.arms import Arm
from analysis import runner
from analysis import variability as v
from analysis.exhibits import Look
from analysis.results import SHIPPED, load
from analysis.studies import standard_study
from analysis.studies import variability as room
from analysis.studies.variability import HELD_SEED, SOURCES
from analysis.study import Study


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def made_logits(seed: int, runs: int = 6, samples: int = 40, classes: int = 4) -> np.ndarray:
    """Runs that agree in part; rounded, so that some logits are tied."""
    shared = 2 * rng(seed).normal(size=(1, samples, classes))
    return np.round(shared + rng(seed + 1).normal(size=(runs, samples, classes)), 1)


# --- pairs ---------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.integers(2, 6), st.integers(5, 30), st.integers(2, 5))
def test_pairs_agree_with_the_slow_twins(seed, runs, samples, classes):
    logits = made_logits(seed, runs, samples, classes)
    labels = rng(seed).integers(classes, size=samples)
    off = ~np.eye(runs, dtype=bool)
    for fast, plain in (
        (v.disagreement(logits), slow.disagreement(logits)),
        (v.logit_correlation(logits), slow.logit_correlation(logits)),
        (v.ensemble_gain(logits, labels), slow.ensemble_gain(logits, labels)),
    ):
        assert fast[off] == pytest.approx(plain[off], abs=1e-9)
        assert fast == pytest.approx(fast.T)


def test_identical_models_have_0_1_0():
    logits = np.repeat(made_logits(0, 1), 4, axis=0)
    labels = rng().integers(4, size=40)
    for matrix, expected in (
        (v.disagreement(logits), 0),
        (v.logit_correlation(logits), 1),
        (v.ensemble_gain(logits, labels), 0),
    ):
        assert matrix == pytest.approx(np.full((4, 4), expected), abs=1e-9)
        got = v.over_pairs(matrix)
        assert got.estimate == pytest.approx(expected) and got.method == "constant"


def test_two_runs_that_err_on_different_samples_gain_by_averaging():
    sure, wrong = [9.0, 0.0], [0.0, 1.0]
    logits = np.array([[sure, sure, wrong, wrong], [wrong, wrong, sure, sure]])
    assert v.ensemble_gain(logits, np.zeros(4, int))[0, 1] == 50


@pytest.mark.parametrize(
    ("logits", "message"), [(np.zeros((3, 4)), "got shape"), (np.full((2, 3, 2), np.nan), "finite")]
)
def test_wrong_logits_are_named(logits, message):
    with pytest.raises(ValueError, match=message):
        v.disagreement(logits)


def test_labels_must_fit_the_samples():
    with pytest.raises(ValueError, match="40 samples need as many labels"):
        v.ensemble_gain(made_logits(0), np.zeros(39, int))


def test_the_interval_over_pairs_is_the_jackknife_of_the_mean():
    matrix = v.disagreement(made_logits(3))
    got = v.over_pairs(matrix)
    upper = np.triu_indices(6, 1)
    assert got.estimate == pytest.approx(matrix[upper].mean())
    without = []
    for left_out in range(6):
        rest = np.delete(np.delete(matrix, left_out, 0), left_out, 1)
        without.append(rest[np.triu_indices(5, 1)].mean())
    error = np.sqrt(5 / 6 * np.sum((without - np.mean(without)) ** 2))
    assert got.high - got.estimate == pytest.approx(2.5706 * error, rel=1e-4)
    assert np.isnan(v.over_pairs(matrix[:2, :2]).low)
    assert np.isnan(v.over_pairs(matrix[:1, :1]).estimate)


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "expected"), [(5, 0.923), (10, 0.948), (20, 0.942)])
def test_the_interval_over_pairs_covers(runs, expected):
    """Disagreement of runs, some of which are worse than others."""
    shared = rng(0).normal(size=(1, 200, 3))

    def drawn(generator, count):
        worse = generator.exponential(size=(count, 1, 1))
        return shared + worse * generator.normal(size=(count, 200, 3))

    truth = v.over_pairs(v.disagreement(drawn(rng(1), 1500))).estimate
    generator, inside = rng(runs), 0
    for _ in range(2000):
        got = v.over_pairs(v.disagreement(drawn(generator, runs)))
        inside += got.low <= truth <= got.high
    assert inside / 2000 == pytest.approx(expected, abs=0.02)


# --- reduction -----------------------------------------------------------------------------------


def test_reduction_is_the_mean_share_by_which_the_metrics_are_smaller():
    base = np.array([0.4, 0.02, 10.0, 0.8, 2.0])
    assert v.reduction(base, base) == pytest.approx(0)
    halved = np.array([0.2, 0.01, 5.0, 0.9, 1.0])
    assert v.reduction(halved, base) == pytest.approx(0.5)
    assert np.isnan(v.reduction(halved, np.array([0.0, 0.02, 10.0, 0.8, 2.0])))


# --- tables --------------------------------------------------------------------------------------


def made_frame(arms=("a", "b", "c"), runs: int = 6) -> pd.DataFrame:
    shared = 2 * rng(9).normal(size=(1, 200, 4))
    labels = shared[0].argmax(1)
    rows = []
    for number, arm in enumerate(arms):
        logits = shared + (1 + 0.2 * number) * rng(number).normal(size=(runs, 200, 4))
        rows += [
            {"arm": arm, "seed": seed, "status": "finished", "logit_classes": 4}
            | {"validation_accuracy": 100 * (logits[seed].argmax(1) == labels).mean()}
            | {"validation_loss": 0.4 + 0.01 * rng(seed).normal()}
            | {"validation_logits": logits[seed].astype("<f2").tobytes()}
            | {"validation_labels": labels.astype("<i2").tobytes()}
            for seed in range(runs)
        ]
    return pd.DataFrame(rows)


ARMS = {"a": ("Vanilla", "all"), "b": ("Vanilla", "order"), "c": ("ABA", "all")}


def table_of(frame: pd.DataFrame, arms=ARMS) -> pd.DataFrame:
    return room.variability_table(frame, arms, rng())


def test_the_table_has_a_row_an_arm_with_the_five_metrics():
    frame = made_frame()
    table = table_of(frame)
    assert list(table["method"]) == ["Vanilla", "Vanilla", "ABA"]
    assert list(table["source"]) == ["all", "order", "all"]
    spread = frame[frame["arm"] == "c"]["validation_accuracy"].std()
    assert table["accuracy_sd"][2] == pytest.approx(spread)
    for name in v.METRICS:
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()
    assert (table[["accuracy_sd_error", "loss_sd_error"]] > 0).all().all()
    ratio = table["accuracy_sd"][1] / table["accuracy_sd"][0]
    assert table["ratio"][1] == pytest.approx(ratio) and np.isnan(table["ratio"][0])
    assert table["ratio_low"][1] < ratio < table["ratio_high"][1]
    assert pd.testing.assert_frame_equal(table, table_of(frame)) is None


def test_a_run_that_diverged_is_left_out_and_counted():
    frame = made_frame()
    frame.loc[0, ["status", "validation_accuracy"]] = ["diverged", np.nan]
    table = table_of(frame)
    assert (table["n"][0], table["n_diverged"][0]) == (5, 1)
    every = table_of(frame.assign(status="diverged"))
    assert every["accuracy_sd"].isna().all() and room.sentences(every) == []


def test_the_reduction_table_holds_methods_against_vanilla():
    table = room.reduction_table(made_frame(), ARMS, base="Vanilla")
    assert table[["method", "source", "n"]].values.tolist() == [["ABA", "all", 6]]
    assert table["reduction_low"][0] < table["reduction"][0] < 0  # noisier logits, more variable
    assert table["reduction"][0] < table["reduction_high"][0]
    twice = made_frame(("a",)).pipe(lambda one: pd.concat([one, one.assign(arm="c")]))
    same = room.reduction_table(twice, ARMS, base="Vanilla")
    assert same["reduction"][0] == pytest.approx(0)


def test_runs_without_logits_or_on_other_samples_are_refused():
    with pytest.raises(room.VariabilityError, match="kept no logits"):
        table_of(made_frame().drop(columns="validation_logits"))
    frame = made_frame()
    frame.at[1, "validation_labels"] = np.zeros(200, "<i2").tobytes()
    with pytest.raises(room.VariabilityError, match="different samples"):
        table_of(frame)


def test_the_figure_has_every_source_and_interval_of_both_methods():
    pairs = [(m, s) for m in ("Vanilla", "ABA") for s in ("order", "all", "one bit")]
    arms = {str(number): pair for number, pair in enumerate(pairs)}
    table = table_of(made_frame(tuple(arms)), arms)
    table.loc[2, ["accuracy_sd", "accuracy_sd_low", "accuracy_sd_high"]] = np.nan
    ax = room.variability_plot(table)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Order", "One bit", "All"]
    assert ax.get_xlim()[0] <= 0 < ax.get_xlim()[1]
    marks = [line for line in ax.lines if line.get_marker() in ("o", "s")]
    assert len(marks) == 5  # one value is not known
    plt.close(ax.figure)


# --- the study -----------------------------------------------------------------------------------


def test_each_arm_leaves_its_own_source_free_and_holds_the_others():
    study = standard_study("variability")
    arms = {arm.name: arm for arm in study.arms}
    assert study.keep_logits and len(study.seeds) == 5
    assert [name for name in arms if name.startswith("MendABA")] == [
        f"MendABA: {source}" for source in SOURCES
    ]
    assert arms["MendABA: all"].held == ()
    assert arms["MendABA: all"].setting("target") == "class_score"
    order = arms["MendABA: order"]
    assert set(dict(order.held)) == {"initialisation", "adjustment", "magnitude", "target"}
    assert set(dict(order.held).values()) == {HELD_SEED} and HELD_SEED not in study.seeds
    bit = arms["Vanilla: one bit"]
    assert bit.flip_bit and set(dict(bit.held)) == {"initialisation", "order"}
    assert [arm.name for arm in study.arms if arm.subset_per_run] == [
        f"{method}: {source}"
        for method in ("Vanilla", "MendABA")
        for source in SOURCES
        if "subset" in source
    ]
    assert standard_study("variability", preset="standard").identity == study.identity
    assert len(standard_study("variability", preset="standard").seeds) == 30


@pytest.mark.parametrize("name", ["variability", "variability-linear"])
@pytest.mark.parametrize("preset", ["quick", "standard"])
def test_method_and_source_of_an_arm_follow_from_what_it_holds(name, preset):
    """The names of the standard arms say the same, and nothing reads them."""
    study = standard_study(name, preset=preset)
    sources = room.sources_of(study)
    assert sources == {arm.name: tuple(arm.name.split(": ")) for arm in study.arms}
    anonymous = [arm.renamed(str(number)) for number, arm in enumerate(study.arms)]
    again = room.sources_of(study.model_copy(update={"arms": tuple(anonymous)}))
    assert list(again.values()) == list(sources.values())


def test_a_source_that_has_no_name_is_told_by_what_is_left_free():
    held = {"initialisation": 1, "adjustment": 1}
    arms = (
        Arm.of("x", method="mendaba", held=held),
        Arm.of("y", adjustments="3,4", held={**held, "order": 1, "magnitude": 1}),
        Arm.of("z", method="vanilla", held={"initialisation": 1, "order": 1}),
    )
    assert room.sources_of(Study(name="s", dataset="digits", arms=arms, seeds=1)) == {
        "x": ("MendABA", "order and magnitude and target"),
        "y": ("3,4", "target"),
        "z": ("Vanilla", "nothing"),
    }


@pytest.mark.parametrize("name", ["variability", "variability-linear"])
def test_the_shipped_runs_are_told_apart_by_their_declaration(name):
    study = load(SHIPPED, name, "digits")
    sources = room.sources_of(study.declaration.study)
    table = room.exhibits(study, Look()).tables[name].data
    assert list(zip(table["method"], table["source"], strict=True)) == list(sources.values())
    assert set(table["source"]) <= set(SOURCES)


def test_runs_with_everything_held_are_identical_and_one_bit_is_the_smallest_change(tmp_path):
    def few(name: str, model: str, *extra: Arm) -> pd.DataFrame:
        study = standard_study(name)
        kept = [arm for arm in study.arms if arm.name.startswith("Vanilla: ")]
        kept = [arm for arm in kept if arm.name.endswith(("one bit", "initialisation"))]
        config = {**study.config, "epochs": 20, "model": model}
        small = study.model_copy(
            update={"arms": (*kept, *extra), "config": config, "seeds": (0, 1, 2)}
        )
        frame = runner.run(small, tmp_path, device="cpu", processes=1).result.frame
        return room.variability_table(frame, room.sources_of(small), rng()).set_index("source")

    held = Arm.of("Vanilla: nothing", method="vanilla", held={"initialisation": 1, "order": 1})
    table = few("variability", "mlp", held)
    nothing = table.loc["nothing"]
    assert (nothing["accuracy_sd"], nothing["loss_sd"], nothing["disagreement"]) == (0, 0, 0)
    assert nothing["logit_correlation"] == pytest.approx(1) and nothing["ensemble_gain"] == 0
    assert (
        table["accuracy_sd"]["initialisation"] > 0 and table["disagreement"]["initialisation"] > 0
    )

    linear = few("variability-linear", "linear")
    assert linear["accuracy_sd"]["one bit"] == 0 < linear["accuracy_sd"]["initialisation"]
    assert linear["loss_sd"]["one bit"] < 1e-6 and linear["disagreement"]["one bit"] == 0


def test_a_study_of_ones_own_can_keep_logits():
    study = Study(name="mine", dataset="digits", arms=(Arm.of("a"),), seeds=(0,))
    assert not study.keep_logits
    assert study.model_copy(update={"keep_logits": True}).identity != study.identity
