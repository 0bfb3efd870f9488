"""Studies are plain data: built from settings or a YAML file, checked before anything runs."""

import pytest
import yaml

from aba_core.adjustments import GROUP_SETS
from analysis.comparisons import LEAST_BLOCKS
from analysis.reference import published_table
from analysis.studies import STANDARD, find_study, standard_study
from analysis.study import Study, StudyError, study_from_yaml


def test_isolation_has_one_arm_for_each_adjustment_with_target_loss():
    study = standard_study("isolation")
    assert [arm.setting("adjustments") for arm in study.arms] == [str(i) for i in range(27)]
    assert {arm.setting("target") for arm in study.arms} == {"loss"}
    assert len({arm.setting("strength") for arm in study.arms}) == 1


def test_tension_has_the_six_published_unions_and_the_missing_one():
    study = standard_study("tension")
    assert [arm.name for arm in study.arms] == list(GROUP_SETS)
    assert len(study.arms) == 7


def test_every_standard_study_exists_for_every_dataset_and_its_presets_but_attacks_on_texts():
    for dataset, presets in {
        "digits": ("quick", "standard"),
        "breast-cancer": ("quick", "standard"),
        "mnist": ("quick", "standard", "med", "published"),
        **dict.fromkeys(("cifar10", "news"), ("quick", "standard", "published")),
    }.items():
        for preset in presets:
            for name in STANDARD:
                if (name, dataset) == ("attacks", "news"):
                    with pytest.raises(StudyError, match="is no text; allowed: pictures and tab"):
                        standard_study(name, dataset, preset)
                    continue
                study = standard_study(name, dataset, preset)
                assert study.dataset == study.config["dataset"] == dataset
                assert len(study.seeds) >= 1


@pytest.mark.parametrize("name", ["attributions", "quality", "cascade", "variance"])
def test_studies_whose_seeds_share_subsets_have_enough_subsets_for_a_verdict(name):
    for dataset, presets in {
        **dict.fromkeys(("digits", "breast-cancer"), ("standard",)),
        "mnist": ("standard", "med", "published"),
        "cifar10": ("standard", "published"),
        "news": ("standard", "reduced", "published"),
    }.items():
        for preset in presets:
            study = standard_study(name, dataset, preset)
            share = max(arm.seeds_per_subset for arm in study.arms)
            assert len(study.seeds) // share >= (1 if name == "variance" else LEAST_BLOCKS), preset


def test_published_preset_has_the_published_epochs_and_models():
    settings = {
        dataset: standard_study("isolation", dataset, "published").config
        for dataset in ("mnist", "cifar10", "news")
    }
    assert [settings[d]["epochs"] for d in settings] == [1000, 500, 100]
    assert [settings[d]["model"] for d in settings] == ["vgg11", "vgg16", "text_cnn"]
    assert all(len(standard_study("isolation", d, "published").seeds) == 5 for d in settings)


def test_benchmark_tunes_with_seeds_that_are_not_reported():
    study = standard_study("benchmark", "news", "standard")
    assert study.tuning is not None
    assert {arm.setting("strength") for arm in study.arms} == {None}
    assert {arm.setting("top_k") for arm in study.arms if not arm.vanilla} == {6}


@pytest.mark.parametrize("dataset", ["mnist", "cifar10", "news"])
@pytest.mark.parametrize("name", ["benchmark", "benchmark-bn"])
def test_the_published_benchmark_has_the_published_strengths_and_epochs(dataset, name):
    table = published_table("benchmark")
    rows = table[
        (table["dataset"] == dataset.removesuffix("10"))
        & (table["subset"] == "tiny")
        & (table["split"] == "val")
        & (table["batch_norm"] == ("yes" if name.endswith("bn") else "no"))
    ].set_index("method")
    study = standard_study(name, dataset, "published")
    assert study.tuning is None
    assert study.config["epochs"] == rows["epochs"].iloc[0]
    assert study.config.get("batch_norm", False) is name.endswith("bn")
    assert [arm.setting("kind", "vanilla") for arm in study.arms] == list(rows.index)
    for arm in study.arms[1:]:
        kind = arm.setting("kind")
        assert arm.setting("strength") == rows.loc[kind, "strength"]
        assert arm.setting("top_k") == rows.loc[kind, "top_k"]


def test_more_seeds_continue_the_same_study_and_other_settings_do_not():
    quick, standard = standard_study("isolation"), standard_study("isolation", preset="standard")
    assert quick.identity == standard.identity
    assert set(quick.seeds) < set(standard.seeds)
    assert find_study("isolation", overrides=["epochs=3"]).identity != quick.identity
    assert find_study("isolation", overrides=["strength=0.7"]).identity != quick.identity


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("isolatoin",), "unknown study 'isolatoin' (did you mean 'isolation'?); known"),
        (
            ("isolation", "minst"),
            "dataset 'minst' (did you mean 'mnist'?); known: digits, mnist",
        ),
        (("isolation", "digits", "huge"), "unknown preset 'huge'; known: quick, standard"),
        (("isolation", "digits", "published"), "preset 'published' does not exist for 'digits'"),
        (("isolation", None, None, 0), "--seeds 0; allowed: whole numbers from 1"),
        (("isolation", None, None, None, ["epochs"]), "--set 'epochs'; needed: field=value"),
        (("isolation", None, None, None, ["strength=much"]), "--set strength=much"),
        (("nowhere.yaml",), "cannot read study nowhere.yaml"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(arguments, message):
    with pytest.raises(StudyError) as error:
        find_study(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


OWN = """
name: mine
dataset: digits
config: {epochs: 2}
seeds: 3
arms:
  - {name: vanilla}
  - {name: opposed, adjustments: "3,4", strength: 0.2, target: loss}
  - {name: one, adjustments: 17, strength: 0.2, split: sign}
  - {name: MendABA, method: mendaba, strength: 0.3}
"""


def test_a_study_of_ones_own_comes_from_yaml(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(OWN)
    study = study_from_yaml(path)
    assert study.seeds == (0, 1, 2)
    assert study.config == {"dataset": "digits", "epochs": 2}
    assert [arm.setting("adjustments") for arm in study.arms] == [None, "3,4", "17", None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sedes": 3}, "unknown field 'sedes'"),
        ({"arms": []}, "arms"),
        ({"seeds": [1, 1]}, "seeds must be distinct"),
        ({"seeds": [-1]}, "whole numbers from 0"),
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "arm name 'a' is repeated"),
        (
            {"arms": [{"name": "a", "strenght": 1}]},
            "arm 'a': strenght given, but neither adjustments nor a method",
        ),
        (
            {"arms": [{"name": "a", "method": "menda"}]},
            "arm 'a': unknown method 'menda' (did you mean 'mendaba'?); known: vanilla, aba",
        ),
        ({"arms": [{"name": "a", "learning_rate": -1}]}, "arm 'a': learning_rate is -1; allowed"),
        ({"name": "../up"}, "name is '../up'; allowed: letters"),
    ],
)
def test_a_wrong_yaml_names_the_file_and_the_field(tmp_path, change, message):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(OWN), **change}))
    with pytest.raises(StudyError) as error:
        study_from_yaml(path)
    assert message in str(error.value) and "mine.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_yaml_that_is_not_a_study_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    for text in ("[1, 2]", "a: [", "name: x\n"):
        path.write_text(text)
        with pytest.raises(StudyError, match=r"mine\.yaml"):
            study_from_yaml(path)


def test_a_study_survives_its_json():
    for name in STANDARD:
        study = standard_study(name)
        again = Study(**study.model_dump(mode="json", exclude_none=True))
        assert again == study and again.identity == study.identity
