"""Tables, figures and sentences of what was measured on the way."""

import numpy as np
import pandas as pd
import pytest
from oracles.made_results import make_study, standard

from aba_core.arms import Arm
from analysis import figures, plan, rooms, runner, tables
from analysis import results as store
from analysis.exhibits import Look
from analysis.results import ResultsError
from analysis.studies import mechanism as room
from analysis.studies import standard_study
from analysis.studies.mechanism import curves
from analysis.studies.mechanism import measured as mechanism
from analysis.study import Study

ARMS = ("Vanilla", "Delta", "All")
pytestmark = pytest.mark.usefixtures("no_windows")


def rng():
    return np.random.default_rng(0)


def measured(seeds=6, arms=ARMS, steps=(0, 100)) -> pd.DataFrame:
    noise = rng()
    rows = [
        {"arm": arm, "seed": seed, "step": step, "status": "finished"}
        | {m: 1 + number + 0.1 * noise.normal() for m in tables.MEASURES}
        for number, arm in enumerate(arms)
        for seed in range(seeds)
        for step in steps
    ]
    return pd.DataFrame(rows)


def runs(seeds=6, arms=ARMS) -> pd.DataFrame:
    noise = rng()
    return pd.DataFrame(
        {"arm": arm, "seed": seed, "validation_accuracy": 90 + number + noise.normal()}
        for number, arm in enumerate(arms)
        for seed in range(seeds)
    )


def test_a_metric_table_has_a_mean_with_interval_for_every_metric_arm_and_step():
    table = mechanism.metric_table(measured(), rng())
    assert len(table) == len(tables.MEASURES) * 3 * 2
    assert (table["n"] == 6).all()
    free = table[table["metric"].str.startswith(("trace", "eigenvalue", "loss"))]
    assert (free["mean_low"] < free["mean"]).all() and (free["mean"] < free["mean_high"]).all()
    assert table["mean"].between(0.8, 3.2).all()


def test_intervals_end_where_the_metric_does():
    frame = measured(seeds=2)
    for metric in ("cosine_epsilon_delta", "violation_delta", "linearity_error"):
        frame[metric] = np.where(frame["seed"] == 0, 0.9, 0.1)
    table = mechanism.metric_table(frame, rng()).set_index("metric")
    assert table["mean_low"]["cosine_epsilon_delta"].min() == -1
    assert table["mean_high"]["violation_delta"].max() == 1
    assert table["mean_low"]["violation_delta"].min() == 0
    assert table["mean_high"]["linearity_error"].max() > 1


def test_runs_without_numbers_are_left_out_and_counted():
    frame = measured()
    frame.loc[(frame["arm"] == "All") & (frame["seed"] < 2), list(tables.MEASURES)] = np.nan
    table = mechanism.metric_table(frame, rng(), metrics=("trace_clean",))
    assert table.groupby("arm")["n"].first().to_dict() == {"Vanilla": 6, "Delta": 6, "All": 4}


def test_an_unknown_metric_is_named():
    with pytest.raises(ValueError, match="unknown metric 'sharpness'; known: cosine_epsilon_delta"):
        mechanism.metric_table(measured(), rng(), metrics=("sharpness",))


def test_the_last_table_has_a_row_an_arm():
    table = mechanism.metric_table(measured(), rng())
    last = mechanism.last_table(table, ("trace_clean", "coherence_all"))
    assert last["arm"].tolist() == list(ARMS)
    assert {"trace_clean", "trace_clean_low", "coherence_all_high"} <= set(last)


def test_differences_to_the_control_have_a_side():
    found = mechanism.difference_table(measured(), rng(), control="Vanilla")
    assert set(found["arm"]) == {"Delta", "All"}
    assert set(found["side"]) == {"above"}
    one = mechanism.difference_table(
        measured(seeds=1), rng(), control="Vanilla", metrics=("trace_clean",)
    )
    assert set(one["side"]) == {"inconclusive"}


def test_mediation_has_a_row_for_every_mediator_and_arm_and_holm_over_all():
    table = mechanism.mediation_table(runs(), measured(), rng(), control="Vanilla")
    assert len(table) == 2 * len(mechanism.MEDIATORS)
    assert (table["p_holm"] >= table["p"]).all()
    assert table["n"].eq(12).all()
    assert (table.groupby("arm")["total_low"].nunique() == 1).all()
    total = table[table["arm"] == "All"]["total"]
    expected = runs().groupby("arm")["validation_accuracy"].mean()
    assert total.to_numpy() == pytest.approx(expected["All"] - expected["Vanilla"])


def test_a_mediator_that_carries_the_effect_is_found():
    frame, noise = measured(seeds=20), rng()
    last = frame["step"] == 100
    path = frame["arm"].map({"Vanilla": 0.0, "Delta": 0.0, "All": 2.0}) + noise.normal(
        size=len(frame)
    )
    frame.loc[last, "eigenvalue_clean"] = 10 ** path[last]
    accuracy = (
        runs(seeds=20)
        .drop(columns="validation_accuracy")
        .merge(pd.DataFrame({"arm": frame["arm"], "seed": frame["seed"], "path": path})[last])
    )
    accuracy["validation_accuracy"] = (
        90 + 2 * accuracy["path"] + 0.5 * noise.normal(size=len(accuracy))
    )
    table = mechanism.mediation_table(accuracy, frame, rng(), control="Vanilla")
    table = table.set_index(["mediator", "arm"])["verdict"]
    assert table["Eigenvalue (log)", "All"] == "consistent with mediation"
    assert table["Eigenvalue (log)", "Delta"] != "consistent with mediation"
    assert "consistent with mediation, " in " ".join(
        mechanism.mediation_sentences(
            mechanism.mediation_table(accuracy, frame, rng(), control="Vanilla")
        )
    )


def test_without_the_control_there_is_no_mediation_and_a_sentence_says_so():
    arms = ("Delta", "All")
    table = mechanism.mediation_table(runs(arms=arms), measured(arms=arms), rng(), control="")
    assert table.empty
    differences = mechanism.difference_table(measured(arms=arms), rng(), control="")
    said = mechanism.sentences(
        mechanism.metric_table(measured(arms=arms), rng()), differences, table, ""
    )
    assert differences.empty and "Against" not in " ".join(said)
    assert said[-1] == "Mediation is not tested: it needs an arm without augmentation and others."


@pytest.mark.parametrize("seeds", [1, 2, 6])
def test_sentences_say_what_the_tables_have(seeds):
    frame = measured(seeds=seeds)
    said = mechanism.sentences(
        mechanism.metric_table(frame, rng()),
        mechanism.difference_table(frame, rng(), control="Vanilla"),
        mechanism.mediation_table(runs(seeds=seeds), frame, rng(), control="Vanilla"),
        "Vanilla",
    )
    text = " ".join(said)
    assert "nan" not in text and "Against Vanilla" in text
    assert "not randomised" in said[-1]


# --- figures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [1, 2, 6])
@pytest.mark.parametrize("log", [False, True])
def test_curves_draw_every_arm_with_its_intervals(seeds, log):
    frame = measured(seeds=seeds, arms=("Vanilla", "Eps. & Del.", "mine", "another"))
    frame.loc[frame["step"] == 0, "trace_clean"] -= 2  # nothing that a logarithm knows
    table = mechanism.metric_table(frame, rng())
    ax = curves.metric_curves(table, metric="trace_clean", log=log, level=1.0)
    assert len(ax.get_legend_handles_labels()[1]) == 4
    assert ax.get_ylabel() == "Trace, clean"


def test_curves_refuse_what_is_not_there():
    with pytest.raises(ValueError, match="unknown metric 'nothing'; known: cosine_epsilon_delta"):
        curves.metric_curves(mechanism.metric_table(measured(), rng()), metric="nothing")


def test_all_numbers_may_be_missing():
    frame = measured()
    frame[list(tables.MEASURES)] = np.nan
    table = mechanism.metric_table(frame, rng())
    figure = curves.metric_panels(table, ("trace_clean", "trace_augmented"), log=True)
    assert len(figure.axes) == 2
    mediated = mechanism.mediation_table(runs(), frame, rng(), control="Vanilla")
    assert set(mediated["verdict"]) == {"inconclusive"}
    curves.mediation_plot(mediated)


# --- studies and results -------------------------------------------------------------------------


def test_the_standard_study_measures_vanilla_and_whole_groups():
    study = standard_study("mechanism")
    assert [arm.name for arm in study.arms] == [
        *("Vanilla", "Neutral", "Delta", "Epsilon", "Eps. & Del.", "All")
    ]
    config = plan.core_config(study)
    assert config.mechanism == 5
    assert {arm.setting("strength") for arm in study.arms[1:]} == {config.probe_strength}
    assert {arm.setting("target") for arm in study.arms[1:]} == {"loss"}


def keys_of(study: Study) -> dict[str, tuple[str, int]]:
    methods = plan.core_methods(study.arms)
    return plan.run_keys(study, plan.core_config(study), methods, "data")


def test_fields_that_came_later_leave_older_keys_as_they_were():
    before = standard_study("isolation")
    named = before.model_copy(
        update={"config": {**before.config, "mechanism": 0, "probe_strength": 0.5}}
    )
    keys = keys_of(before)
    assert keys_of(named) == keys
    # Taken from the first results: no field that came later may change it.
    assert keys["ca18807ca675"] == ("adjustment 0", 0)
    measuring = before.model_copy(update={"config": {**before.config, "mechanism": 5}})
    assert not set(keys_of(measuring)) & set(keys)


def own(**changes) -> Study:
    config = {"dataset": "digits", "model": "mlp", "epochs": 1, "batch_size": 20, "mechanism": 2}
    arms = (
        Arm.of("Vanilla", method="vanilla"),
        Arm.of("raise", adjustments="3", strength=0.3, target="loss"),
    )
    fields = dict(name="own", dataset="digits", config=config, arms=arms, seeds=2)
    return Study(**{**fields, **changes})


def test_a_run_leaves_its_measurements_beside_it(tmp_path):
    outcome = runner.run(own(), tmp_path, device="cpu", processes=1)
    assert outcome.computed == 4
    names = [sorted(p.name for p in (tmp_path / k).iterdir()) for k in ("runs", "mechanism")]
    assert names[0] == names[1]
    found = store.measured(store.load(tmp_path, "own", "digits"))
    assert len(found.frame) == 4 * 2 and not found.missing
    assert sorted(found.frame["step"].unique()) == [0, 5]
    assert set(found.frame["key"]) == set(outcome.result.frame["key"])
    assert {"toolkit", "chunk", "probe_strength"} <= set(found.frame)
    assert runner.run(own(), tmp_path, device="cpu", processes=1).computed == 0


def test_measurements_that_are_not_there_are_one_clear_error(tmp_path):
    make_study(tmp_path, standard("isolation", seeds=2))
    with pytest.raises(ResultsError, match="measured nothing on the way; give its config"):
        store.measured(store.load(tmp_path, "isolation", "digits"))
    make_study(tmp_path, standard("mechanism", seeds=2))
    for path in (tmp_path / "mechanism").iterdir():
        path.unlink()
    with pytest.raises(ResultsError, match="has runs but no measurements"):
        store.measured(store.load(tmp_path, "mechanism", "digits"))


def test_an_own_study_that_measures_has_its_arms_and_its_mechanism(tmp_path):
    study = standard("mechanism", seeds=3).model_copy(update={"name": "mine"})
    make_study(tmp_path, study)
    made = rooms.of_study("mine", tmp_path)
    assert {"arms-mine", "mine-mechanism-cosines", "mine-mechanism-mediation"} <= set(made.figures)


def test_the_control_is_the_arm_without_augmentation_under_any_name(tmp_path):
    study = standard("mechanism", seeds=4)
    arms = tuple(arm.renamed("untouched") if arm.vanilla else arm for arm in study.arms)
    make_study(tmp_path, study.model_copy(update={"name": "mine", "arms": arms}))
    result = store.load(tmp_path, "mine", "digits")
    made = room.exhibits(result, Look(), store.measured(result))
    mediated = made.tables["mine-mechanism-mediation"]
    assert "against untouched" in mediated.caption and "untouched" not in set(mediated.data["arm"])
    assert "for untouched 0.5." in made.tables["mine-mechanism-curvature"].caption
    assert "Against untouched: " in " ".join(room.sentences(result, Look(), store.measured(result)))
    (line,) = [
        line
        for line in made.figures["mine-mechanism-cosines"].draw("double").axes[0].lines
        if line.get_label() == "untouched"
    ]
    assert line.get_color() == figures.COLOURS["vanilla"] and line.get_linestyle() == "--"
