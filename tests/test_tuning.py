"""Tuning: the same values for every class, the choice on seeds that are never reported."""

import pytest
from oracles.in_this_process import here

from analysis import runner, tuning
from analysis.studies import baselines, standard_study, tuned
from analysis.study import TUNING_SEED, Study, TunedClass, Tuning

LOSS = {"target": "loss", "strength": 0.5}
ARMS = (
    {"name": "Vanilla", "method": "vanilla"},
    {"name": "a", "adjustments": "3", **LOSS},
    {"name": "b", "adjustments": "4", **LOSS},
    {"name": "all", "adjustments": "all", **LOSS},
    {"name": "tuned", "method": "vanilla", "config": {"epochs": 1}},
)


def run(study: Study, results):
    return runner.run(study, results, device="cpu", engine=here)


def study(**changes) -> Study:
    fields = {
        "name": "own", "dataset": "digits", "arms": ARMS, "seeds": 2, "fresh_subsets": 1,
        "config": {"epochs": 2, "batch_size": 20},
        "tuning": Tuning(
            strengths=(0.1, 5.0),
            seeds=2,
            classes=(
                TunedClass(name="singles", arms=("a", "b")),
                TunedClass(name="joined", arms=("all",)),
                TunedClass(name="trainings", arms=("tuned",),
                           values={"learning_rate": (1e-6, 0.05), "weight_decay": (0.0, 0.001)}),
            ),
        ),
    }  # fmt: skip
    return Study(**(fields | changes))


def test_each_class_keeps_the_value_with_the_best_mean_over_its_arms(tmp_path):
    result = run(study(), tmp_path).result
    trial = tuning.trial(study())
    tried = run(trial.model_copy(update={"tuning": None}), tmp_path)
    means = tried.result.frame.groupby("arm")["validation_accuracy"].mean()
    chosen = {arm.name: arm for arm in result.declaration.study.arms}
    best = max((0.1, 5.0), key=lambda s: means[f"a at {s:g}"] + means[f"b at {s:g}"])
    assert chosen["a"].setting("strength") == chosen["b"].setting("strength") == best
    assert chosen["all"].setting("strength") == max(
        (0.1, 5.0), key=lambda s: means[f"all at {s:g}"]
    )
    own = dict(chosen["tuned"].config)
    assert own["epochs"] == 1 and own["learning_rate"] == 0.05
    assert dict(chosen["Vanilla"].config) == {}
    rows = result.frame[result.frame["arm"] == "tuned"]
    assert rows["learning_rate"].eq(0.05).all() and rows["epochs"].eq(1).all()
    assert result.declaration.study.tuning is None


def test_tuning_subsets_are_never_reported(tmp_path):
    trial = tuning.trial(study())
    assert min(trial.seeds) == TUNING_SEED
    assert all(arm.subset_per_run for arm in trial.arms)
    assert {arm.subset_of(seed) for arm in trial.arms for seed in trial.seeds} == {1000, 1001}
    for name in ("hypotheses", "tuned", "matched", "sets", "baselines"):
        for preset in ("quick", "standard"):
            assert max(standard_study(name, preset=preset).seeds) < TUNING_SEED


def test_the_response_of_every_class_is_shown(tmp_path):
    from matplotlib import pyplot as plt

    from analysis import rooms

    run(study(), tmp_path)
    shown = rooms.of_study("own-tuning", tmp_path)
    (figure,), (table,) = shown.figures.values(), shown.tables.values()
    assert table.data["class"].tolist() == ["singles"] * 2 + ["joined"] * 2 + ["trainings"] * 4
    assert table.data.groupby("class")["chosen"].sum().eq(1).all()
    assert table.data.loc[0, "n"] == 4 and table.data.loc[2, "n"] == 2
    assert "learning rate 1e-06, weight decay 0" in set(table.data["values"])
    drawn = tuned.response_plot(figure.data)
    assert [ax.get_title() for ax in drawn.axes if ax.get_title()] == [
        "singles",
        "joined",
        "trainings",
    ]
    plt.close(drawn)
    # One value that fails does not flatten the others: it is marked at the edge, with its mean.
    failing = figure.data.assign(mean=80.0, mean_low=79.0, mean_high=81.0)
    failing.loc[1, ["mean", "mean_low", "mean_high"]] = 12.0, 5.0, 20.0
    failing["chosen"] = [True, False, *failing["chosen"][2:]]
    drawn = tuned.response_plot(failing)
    assert drawn.axes[0].get_ylim()[0] > 60
    assert [text.get_text() for text in drawn.axes[0].texts] == ["12"]
    plt.close(drawn)


def test_every_class_of_the_standard_study_has_as_many_values():
    for dataset in ("digits", "mnist", "news"):
        declared = standard_study("tuned", dataset)
        counts = {
            one.name: len(list(tuning.candidates(declared.tuning, one)))
            for one in declared.tuning.classes
        }
        assert set(counts.values()) == {len(declared.tuning.strengths)}
        named = {arm for one in declared.tuning.classes for arm in one.arms}
        left = {arm.name for arm in declared.arms} - named
        assert {"adjustment 0", "Vanilla"} <= left
        assert all("Vanilla" in name for name in left - {"adjustment 0"})


def test_every_tuned_baseline_is_tried_with_the_same_trainings():
    declared = standard_study("baselines")
    assert {len(list(tuning.candidates(declared.tuning, one))) for one in declared.tuning.classes} \
        == {24}  # fmt: skip
    assert {dict(arm.config).get("model") for arm in declared.arms} == {None, "larger_cnn"}
    assert "larger_cnn" not in str(standard_study("baselines", "news").arms)
    assert baselines.grid_of({"learning_rate": 0.005, "epochs": 100})["learning_rate"] == (
        0.001, 0.0025, 0.005, 0.01,
    )  # fmt: skip


def test_a_class_of_unknown_or_repeated_arms_is_refused():
    for arms, what in ((("c",), "is no arm of the study"), (("a", "a"), "is in two classes")):
        tried = Tuning(strengths=(1.0,), seeds=1, classes=(TunedClass(name="x", arms=arms),))
        with pytest.raises(ValueError, match=f"tuning names the arm .*{what}"):
            study(tuning=tried)
