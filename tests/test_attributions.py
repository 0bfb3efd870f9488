"""The study of attribution maps: what it declares, and what its table says of runs."""

import numpy as np
import pandas as pd
import pytest

from aba_core import Arm
from aba_core.arms import WITH_SAMPLES
from aba_core.attribution import Attribution
from analysis.studies import attributions, costs, standard_study
from analysis.studies.attributions import MAPS, SAMPLES, at_cost_of, placebo_of, scored

STUDY = standard_study("attributions", preset="standard")
SAMPLED = SAMPLES["standard"]


def arm(name: str) -> Arm:
    return next(one for one in STUDY.arms if one.name == name)


@pytest.mark.parametrize("method", MAPS)
def test_passes_are_those_that_the_map_itself_counts(method):
    assert attributions.passes(method, SAMPLED) == Attribution(method, samples=SAMPLED).passes()


def test_arms_of_one_target_differ_in_the_map_alone():
    def but_for_the_map(name: str) -> dict:
        given = dict(arm(name).data()["method"])
        return {k: v for k, v in given.items() if not k.startswith("attribution")}

    for title in MAPS.values():
        assert but_for_the_map(title) == but_for_the_map("Gradient")
        placebo = but_for_the_map(placebo_of(title))
        assert placebo.pop("placebo") == "other_sample"
        assert placebo == but_for_the_map("Gradient")
    assert but_for_the_map(scored("SmoothGrad")) == but_for_the_map(scored("Gradient"))


def test_arms_at_equal_cost_have_as_many_passes():
    epochs = STUDY.config["epochs"]
    for method, title in MAPS.items():
        each = 1 + attributions.passes(method, SAMPLED)
        name = attributions.at_equal_cost(MAPS, SAMPLED)[title]
        assert dict(arm(name).config).get("epochs", epochs) * each == pytest.approx(2 * epochs)
    longer = at_cost_of("Gradient", "SmoothGrad")
    step = 1 + attributions.passes("smoothgrad", SAMPLED)
    assert dict(arm(longer).config)["epochs"] * 2 == epochs * step
    lagged = at_cost_of("Lagged gradient", "Gradient")
    assert dict(arm(lagged).config)["epochs"] == 2 * epochs


@pytest.mark.parametrize(
    ("dataset", "preset", "sampled"),
    [
        ("digits", "quick", 4),
        ("digits", "standard", 8),
        ("mnist", "standard", 8),
        ("cifar10", "quick", 4),
        ("news", "reduced", 8),
    ],
)
def test_arms_at_equal_time_have_the_time_of_the_gradient_as_measured_there(
    dataset, preset, sampled
):
    study = standard_study("attributions-equal-time", dataset, preset)
    arms = {one.name: dict(one.config).get("epochs", study.config["epochs"]) for one in study.arms}
    maps = attributions.FEW if preset == "quick" else MAPS
    measured = costs.of_maps(dataset)
    step = {method: measured[method] for method in maps}
    if sampled != costs.SAMPLES:  # beyond a step of training, in proportion to the maps' passes
        for method in set(maps) & set(WITH_SAMPLES):
            beyond = (sampled + 1) / (costs.SAMPLES + 1)
            step[method] = 1 + beyond * (step[method] - 1)
    gradient, smooth = (arms[MAPS[m]] * step[m] for m in ("gradient", "smoothgrad"))
    for method in maps:
        if method != "gradient":
            name = attributions.as_long_as(MAPS[method], "Gradient")
            assert arms.pop(name) * step[method] == pytest.approx(gradient), name
    lagged = arms.pop(attributions.as_long_as("Lagged gradient", "Gradient"))
    assert lagged * measured["lagged"] == pytest.approx(gradient)
    for method in ("gradient", "gradient_x_input"):
        name = attributions.as_long_as(MAPS[method], "SmoothGrad")
        assert arms.pop(name) * step[method] == pytest.approx(smooth), name
    # What is left are runs of the study at equal steps.
    whole = {one.name: one for one in standard_study("attributions", dataset, preset).arms}
    assert all(whole[one.name] == one for one in study.arms if one.name in arms)
    assert set(arms) <= set(whole)
    assert "a step costs" not in study.note


def test_costs_are_there_for_every_map_and_a_note_says_where_they_are_those_of_digits():
    for dataset in costs.MODELS:
        measured = costs.of_maps(dataset)
        assert set(measured) == {*MAPS, "lagged"}
        assert 1 < measured["lagged"] < 1.5 < measured["gradient"] < 2.5
        assert all(measured["lagged"] < cost for name, cost in measured.items() if name in MAPS)
    assert costs.of_maps("breast-cancer") == costs.of_maps("digits") != costs.of_maps("mnist")
    elsewhere = standard_study("attributions-equal-time", "breast-cancer", "quick")
    assert elsewhere.note.endswith("was measured on digits, and not on breast-cancer.")
    larger = standard_study("attributions-equal-time", "mnist", "published")
    assert "measured with small_cnn, and not with vgg11" in larger.note


def test_the_measurement_of_costs_trains_what_the_study_trains():
    """Each data set's model, shape, batch and number of replicas are those of a chunk."""
    from benchmarks.methods import AS_STUDIED, as_studied

    assert set(AS_STUDIED) == set(costs.MODELS)
    for dataset, (preset, _, _) in AS_STUDIED.items():
        work = as_studied(dataset)
        study = standard_study("attributions-equal-time", dataset, preset)
        assert work.model == study.config["model"] == costs.MODELS[dataset]
        assert work.batch == study.config["batch_size"]
        assert work.replicas == study.arms[0].seeds_per_subset


@pytest.mark.parametrize("preset", ["quick", "standard"])
def test_every_arm_is_asked_about_and_seeds_share_fresh_subsets(preset):
    study = standard_study("attributions", preset=preset)
    named = set().union(*(one.arms for one in study.hypotheses))
    assert {one.name for one in study.arms} - named == {"Gaussian noise"}
    for one in study.hypotheses:
        for contrast in one.comparisons:
            total = sum(contrast.weights.values()) - bool(contrast.minus_best_of)
            assert total == pytest.approx(0, abs=1e-12), contrast.label
    share = attributions.SHARE[preset]
    assert len({study.arms[0].subset_of(seed) for seed in study.seeds}) * share == len(study.seeds)


@pytest.mark.parametrize("name", ["attributions", "quality"])
def test_a_model_without_convolutions_has_the_other_maps_and_the_note_says_why(name):
    # `resolve` tries every arm on the model itself.
    from analysis.plan import resolve

    study = standard_study(name, "breast-cancer", "quick")
    resolve(study)
    arms = {one.name for one in study.arms}
    assert "LRP composite" in arms and not {one for one in arms if "CAM" in one}
    assert "made at a convolution, which mlp does not have: Grad-CAM" in study.note
    assert set().union(*(one.arms for one in study.hypotheses)) <= arms
    assert "convolution" not in standard_study(name, "digits", "quick").note


def test_a_map_at_a_layer_is_tried_on_the_model_itself_before_anything_runs():
    # It has no convolution in the linear stand-in that other maps are tried with.
    from analysis.plan import resolve
    from analysis.study import Study, StudyError

    study = Study(
        name="own",
        dataset="digits",
        config={"epochs": 1},
        arms=(Arm.of("cam", adjustments="all", attribution="grad_cam"),),
        seeds=1,
    )
    assert len(resolve(study).keys) >= 1
    with pytest.raises(StudyError, match="no convolution"):
        resolve(study.model_copy(update={"config": {"epochs": 1, "model": "linear"}}))


def made_runs() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(8):
        level = rng.normal(80, 5)
        for name, gain in (
            ("Vanilla", 0.0),
            ("Gradient", 3.0),
            ("SmoothGrad", 1.0),
            (at_cost_of("SmoothGrad", "Gradient"), -2.0),
            (placebo_of("Gradient"), 0.5),
            (scored("Gradient"), 2.0),
        ):
            rows.append(
                {
                    **{
                        "arm": name,
                        "seed": seed,
                        "step": 10,
                        "passes": 20.0,
                        "seconds": 1.0 + gain,
                    },
                    "validation_accuracy": level + gain + rng.normal(0, 0.1),
                }
            )
    return pd.DataFrame(rows)


def test_intervals_rest_on_subsets_where_seeds_share_them():
    runs = made_runs()
    seeds = sorted(runs["seed"].unique())
    subset = {seed: place // 2 for place, seed in enumerate(seeds)}
    runs["subset_seed"] = runs["seed"].map(subset)
    helped = (runs["arm"] == "Gradient") & (runs["subset_seed"] % 2 == 1)
    runs.loc[helped, "validation_accuracy"] += 2.0  # what the map gains depends on the subset
    table = attributions.map_table(runs, np.random.default_rng(0)).set_index("map")
    row = table.loc["Gradient"]
    assert row["n_subsets"] == len(set(subset.values())) and row["n"] == len(seeds)
    values = runs.pivot(index="seed", columns="arm", values="validation_accuracy")
    gains = values["Gradient"] - values["Vanilla"]
    means = [gains[[s for s in seeds if subset[s] == one]].mean() for one in set(subset.values())]
    assert row["gain"] == pytest.approx(np.mean(means))
    error = np.std(means, ddof=1) / np.sqrt(len(means))
    assert row["gain_high"] - row["gain_low"] > 2 * 1.9 * error
    assert np.std(gains, ddof=1) / np.sqrt(len(gains)) < 0.7 * error


def test_the_table_gives_gains_within_subsets_and_costs_over_vanilla():
    table = attributions.map_table(made_runs(), np.random.default_rng(0)).set_index("map")
    assert list(table.index) == ["Gradient", "SmoothGrad"]
    assert table.loc["Gradient", "gain"] == pytest.approx(3, abs=0.2)
    assert table.loc["Gradient", "placebo"] == pytest.approx(0.5, abs=0.2)
    assert table.loc["Gradient", "score"] == pytest.approx(2, abs=0.2)
    assert table.loc["Gradient", "equal_cost"] == pytest.approx(3, abs=0.2)
    assert table.loc["SmoothGrad", "equal_cost"] == pytest.approx(-2, abs=0.2)
    assert np.isnan(table.loc["SmoothGrad", "placebo"])
    assert table.loc["Gradient", "seconds"] == 4.0 and table.loc["Gradient", "passes"] == 2.0
    # Subsets differ by 5 points, gains within them by a tenth.
    assert table.loc["Gradient", "gain_high"] - table.loc["Gradient", "gain_low"] < 0.5
    drawn = attributions.map_plot(table.reset_index())
    height = {label.get_text(): label.get_position()[1] for label in drawn.get_yticklabels()}
    assert height["Gradient"] > height["SmoothGrad"]
