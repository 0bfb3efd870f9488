"""The study of further maps: what it declares, what it leaves out, and what it says."""

import importlib.util
import sys

import pytest
from oracles.made_results import make_study

from aba_core.attribution import MAPS, Attribution
from analysis.exhibits import Look
from analysis.plan import core_config, core_methods, resolve, run_keys
from analysis.results import load
from analysis.studies import attributions, attributions_more, standard_study
from analysis.studies.attributions import placebo_of
from analysis.studies.attributions_more import BY_CAPTUM, NATIVE, TITLES
from analysis.study import StudyError

STUDY = standard_study("attributions-more", preset="standard")
ARMS = {arm.name: arm.data() for arm in STUDY.arms}


def test_together_with_attributions_every_map_is_in_a_study():
    assert {*attributions.MAPS, *NATIVE} == set(MAPS)
    from aba_core.attribution_captum import METHODS

    assert set(BY_CAPTUM) == set(METHODS)


def test_vanilla_and_gradient_are_the_runs_of_other_studies():
    """The arms are those of `attributions`; the runs are found in every study with subsets of one
    seed, as `hypotheses` has them."""

    def keys(study, names):
        arms = [arm for arm in study.arms if arm.name in names]
        chosen = study.model_copy(update={"arms": tuple(arms)})
        return set(run_keys(chosen, core_config(chosen), core_methods(chosen.arms), "data"))

    theirs = {arm.name: arm.data() for arm in standard_study("attributions").arms}
    for name in ("Vanilla", "Gradient"):
        assert theirs[name].get("method") == ARMS[name].get("method")
    hypotheses = standard_study("hypotheses", preset="standard")
    assert keys(STUDY, ("Vanilla", "Gradient")) <= keys(hypotheses, ("Vanilla", "All"))


def test_arms_differ_in_the_map_alone_and_each_has_its_placebo():
    def but_for_the_map(name):
        return {k: v for k, v in ARMS[name]["method"].items() if not k.startswith("attribution")}

    for title in TITLES.values():
        assert but_for_the_map(title) == but_for_the_map("Gradient")
        placebo = ARMS[placebo_of(title)]["method"]
        assert {**placebo, "placebo": ""} == {**ARMS[title]["method"], "placebo": ""}
        assert placebo["placebo"] == "other_sample"
    assert len(ARMS) == 2 + 2 * len(TITLES)
    named = set().union(*(one.arms for one in STUDY.hypotheses))
    assert named == set(ARMS)


@pytest.mark.parametrize(
    ("dataset", "absent", "words"),
    [
        ("digits", set(), "one step in 8, with the gradient between: LIME, Kernel SHAP."),
        ("mnist", set(), "one step in 20, with the gradient between: LIME, Kernel SHAP, Feature"),
        ("cifar10", {"LIME", "Kernel SHAP", "Feature ablation"}, "3,072 numbers of a sample"),
        (
            "news",
            {"LIME", "Kernel SHAP", "Feature ablation", "LRP by Captum"},
            "without rules for all layers of text_cnn: LRP by Captum.",
        ),
        ("breast-cancer", {"Smooth Grad-CAM++"}, "a convolution, which mlp does not have: Smooth"),
    ],
)
def test_what_is_left_out_and_what_is_made_at_some_steps_stands_in_the_note(dataset, absent, words):
    study = standard_study("attributions-more", dataset, "standard")
    names = {arm.name for arm in study.arms}
    assert set(TITLES.values()) - names == absent
    assert words in study.note and study.note.endswith("need the extra captum.")
    assert set().union(*(one.arms for one in study.hypotheses)) == names
    slow = {
        arm.name: dict(arm.data()["method"]["attribution"])["every"]
        for arm in study.arms
        if "every" in str(arm.data())
    }
    if dataset == "digits":
        assert {slow["LIME"], slow["Kernel SHAP"]} == {8} and slow["GradientSHAP"] == 2
        assert slow["LIME"] == slow[placebo_of("LIME")]


@pytest.mark.skipif(importlib.util.find_spec("captum") is None, reason="needs the extra captum")
@pytest.mark.parametrize("dataset", ["digits", "breast-cancer"])
def test_every_arm_is_tried_on_the_model_before_anything_runs(dataset):
    study = standard_study("attributions-more", dataset)
    assert len(set(resolve(study).keys.values())) == len(study.arms) * len(study.seeds)


def test_without_captum_the_study_is_refused_in_a_line_and_its_results_can_still_be_read(
    monkeypatch, tmp_path
):
    make_study(tmp_path, STUDY)
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(StudyError, match="LIME': .*needs Captum, .*captum") as told:
        resolve(standard_study("attributions-more"))
    assert "\n" not in str(told.value)
    shown = attributions_more.exhibits(load(tmp_path, STUDY.name, "digits"), Look())
    table = shown.tables["attributions-more"].data
    assert set(table["map"]) == {"Gradient", *TITLES.values()}
    assert "score" not in table and "equal_cost" not in table
    assert table["placebo"].notna().sum() == len(TITLES)
    assert len(shown.tables["attributions-more-verdicts"].data) == 3
    figure = shown.figures["attributions-more"]
    legend = figure.draw("double").axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [
        "the sample's own map",
        "another sample's map",
    ]


def test_passes_of_maps_by_captum_count_how_often_they_are_made():
    def passes(**options):
        return Attribution({"use": "aba_core.attribution_captum:lime", **options}).passes()

    assert passes(evaluations=30) == 11
    assert passes(evaluations=30, every=5) == pytest.approx((11 + 4) / 5)
    assert passes() == 1 + 50 / 3
