"""Studies with data of their own: of other tasks than classes, and of two architectures."""

import numpy as np
import pytest
import torch
import typer
from oracles.made_results import make_study
from sklearn.datasets import load_diabetes
from sklearn.metrics import r2_score

from aba_core import Arm, TrainConfig, load_dataset, train
from aba_core.identity import short_hash
from analysis import claims, plan, rules
from analysis import results as store
from analysis.reference import published_table
from analysis.studies import (
    OF_OWN_DATA,
    STANDARD,
    architectures,
    find_study,
    large,
    standard_study,
    tasks,
)
from analysis.study import StudyError

OF_TASKS = ("diabetes", "ptb-xl-superclass-25hz")


# --- diabetes ------------------------------------------------------------------------------------


def test_diabetes_is_scikit_learns_in_units_of_the_training_pool():
    raw = load_diabetes(scaled=False)
    full = load_dataset("diabetes", "full")
    parts = [full.train, full.validation, full.test]
    assert [len(part) for part in parts] == [222, 110, 110]
    rows = torch.cat([part.index for part in parts])
    assert sorted(rows.tolist()) == list(range(442))
    for part in parts:
        back = part.x * full.std + full.mean
        np.testing.assert_allclose(back.numpy(), raw.data[part.index], rtol=1e-4)
    assert full.train.x.mean(0).abs().max() < 1e-5 and full.train.y.mean().abs() < 1e-5
    middle, spread = raw.target[full.train.index].mean(), raw.target[full.train.index].std()
    expected = (raw.target[full.test.index] - middle) / spread
    np.testing.assert_allclose(full.test.y.numpy(), expected, rtol=1e-4)
    assert full.task == "regression" and full.classes == 1


def test_subsets_of_diabetes_are_fresh_and_share_validation_and_test():
    one, same, other = (load_dataset("diabetes", subset_seed=seed) for seed in (3, 3, 4))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert len(one.train) == 60 and not torch.equal(one.train.index, other.train.index)
    assert torch.equal(one.test.x, other.test.x) and torch.equal(
        one.validation.y, other.validation.y
    )
    pool = set(load_dataset("diabetes", "full").train.index.tolist())
    assert set(one.train.index.tolist()) <= pool


def test_every_arm_of_the_tasks_trains_on_diabetes_and_is_judged_by_r2():
    study = find_study("tasks")
    arms = [arm if arm.vanilla or arm.name == tasks.MIXUP else arm.with_settings(strength=0.1)
            for arm in study.arms]  # fmt: skip
    config = TrainConfig(**{**study.config, "epochs": 4})
    plain = [Arm(arm.name, arm.method) for arm in arms if arm.name != tasks.TUNED]
    runs = train(config, plain, [0])
    frame = runs.frame().set_index("arm")
    assert (frame["status"] == "finished").all() and frame["validation_r2"].nunique() == len(plain)
    splits = load_dataset("diabetes")
    with torch.no_grad():
        predicted = runs.model("Vanilla", 0)(splits.validation.x)[:, 0]
    by_hand = r2_score(splits.validation.y.numpy(), predicted.numpy())
    assert frame.loc["Vanilla", "validation_r2"] == pytest.approx(by_hand, abs=1e-5)


# --- what is declared ----------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", OF_TASKS)
def test_every_class_is_tried_with_as_many_values_and_hypotheses_are_in_the_tasks_units(dataset):
    study = standard_study("tasks", dataset, "standard")
    numbers = {np.prod([len(v) for v in one.values.values()]) for one in study.tuning.classes}
    assert len(numbers) == 1
    tuned = {arm for one in study.tuning.classes for arm in one.arms}
    assert tuned == {arm.name for arm in study.arms} - {"Vanilla"}
    unit, margin = {"diabetes": ("R²", 0.01)}.get(dataset, ("points", 0.5))
    for one in study.hypotheses:
        assert (one.measure, one.margin, one.n) == (unit, margin, len(study.seeds))
    assert {arm.seeds_per_subset for arm in study.arms} == {2}


def test_studies_and_data_that_do_not_go_together_are_said_to():
    assert not set(OF_OWN_DATA) & set(STANDARD)
    for name, dataset, there in (
        ("isolation", "diabetes", "tasks"),
        ("tasks", "tiny-imagenet-20", "architectures"),
        ("tasks", "mnist", "isolation, "),
    ):
        with pytest.raises(StudyError, match=f"{name} is no study of {dataset}; there: {there}"):
            find_study(name, dataset)


def test_both_networks_have_the_same_arms_with_the_published_strengths():
    study = standard_study("architectures", "tiny-imagenet-20", "standard")
    of = {network: [a for a in study.arms if a.name.endswith(f", {network}")]
          for network in (architectures.RESNET, architectures.VIT)}  # fmt: skip
    names = [[arm.name.rpartition(", ")[0] for arm in arms] for arms in of.values()]
    assert names[0] == names[1] and len(study.arms) == 10
    table = published_table("benchmark_large")
    for network, model in architectures.PUBLISHED.items():
        rows = table[(table["model"] == model) & (table["randaugment"] == "No")]
        for title, kind in (("MendABA", "mendaba"), ("FastABA", "fastaba")):
            (arm,) = (arm for arm in of[network] if arm.name.startswith(title))
            assert arm.setting("strength") == rows.set_index("method").loc[kind, "strength"]
    for one in study.hypotheses:
        for comparison in one.comparisons:
            assert sum(comparison.weights.values()) == pytest.approx(0)


# --- what comes of results -----------------------------------------------------------------------


def test_a_larger_gain_of_the_transformer_is_seen_as_such(tmp_path):
    study = standard_study("architectures", "tiny-imagenet-20", "standard")
    gains = {"MendABA, ViT": 6.0, "FastABA, ViT": 4.0, "MendABA, ResNet": 1.0,
             "RandAugment-like, ResNet": 9.0, "RandAugment-like, ViT": 9.0}  # fmt: skip
    make_study(tmp_path, study, mean=lambda arm: 20.0 + gains.get(arm, 0.0), sd=0.2)
    result = store.load(tmp_path, "architectures", "tiny-imagenet-20")
    verdicts = {v.hypothesis.name: v for v in rules.test_all(result, np.random.default_rng(0))}
    larger = verdicts["gain-is-larger-for-the-transformer"]
    assert larger.verdict == "supported"
    assert larger.decisive["estimate"] == pytest.approx(5.0 - 0.5, abs=0.5)
    assert verdicts["randaugment-is-hard-to-beat"].verdict == "supported"
    assert verdicts["adds-to-randaugment"].verdict == "refuted"
    rows = claims.ledger(tmp_path).set_index(["claim", "hypothesis"])
    assert rows.loc[("C35", larger.hypothesis.name), "verdict"] == "supported"
    assert rows.loc[("C34", "adds-to-randaugment"), "verdict"] == "supported"  # denied there


def test_the_ledger_judges_what_names_its_own_quantity_on_test_too(tmp_path):
    study = standard_study("tasks", "diabetes", "quick").model_copy(update={"tuning": None})
    quantities = {"validation_r2": 0.0, "test_r2": -0.2}  # arms differ the other way on test
    rng, keys, rows = np.random.default_rng(0), {}, []
    for arm in study.arms:
        for seed in study.seeds:
            key = short_hash([arm.name, seed])
            keys[key] = (arm.name, seed)
            gain = 0.1 * (arm.name == "All")
            values = {name: 0.4 + gain + 2 * at * (arm.name == "All") + 0.002 * rng.normal()
                      for name, at in quantities.items()}  # fmt: skip
            rows.append({"key": key, "arm": arm.name, "seed": seed, "status": "finished",
                         "subset_seed": arm.subset_of(seed), "study": "tasks", "chunk": "made",
                         "finished_at": "2030-01-01T00:00:00+00:00", **values})  # fmt: skip
    store.declare(tmp_path, study, keys)
    store.write_chunk(tmp_path, "runs", "made", rows)
    table = claims.ledger(tmp_path)
    row = table[table["hypothesis"] == "helps-beyond-classes"].iloc[0]
    assert (row["claim"], row["dataset"], row["verdict"]) == ("C32", "diabetes", "supported")
    assert row["estimate"] == pytest.approx(0.1, abs=0.01) and row["measure"] == "R²"
    assert row["test_verdict"] == "refuted" and row["test_estimate"] < 0


def test_published_cells_without_runs_at_scale_show_the_reduced_ones(tmp_path):
    study = standard_study("architectures", "tiny-imagenet-20", "standard")
    make_study(tmp_path, study, mean=lambda arm: 40.0 if "RandAugment" in arm else 20.0, sd=0.1)
    table = large.table(tmp_path).set_index(["model", "randaugment", "method"])
    measured = table[table["scope"] != "not run"]
    assert sorted(measured.index) == sorted(
        [("ResNet50", "No", m) for m in ("vanilla", "mendaba", "fastaba")]
        + [("ResNet50", "Yes", m) for m in ("vanilla", "mendaba")]
        + [("ViT Base 16", "No", m) for m in ("vanilla", "mendaba", "fastaba")]
    )
    assert measured["runs"].tolist() == [5] * 8
    assert measured.loc[("ResNet50", "Yes", "vanilla"), "ours"] == pytest.approx(40, abs=1)
    assert measured["scope"].str.startswith("Tiny ImageNet, 20 classes (med)").all()


def test_maps_after_randaugment_are_of_the_changed_pictures():
    study = standard_study("architectures")
    for network in (architectures.RESNET, architectures.VIT):
        (arm,) = (a for a in study.arms if a.name == f"{architectures.BOTH}, {network}")
        (chain,) = plan.core_methods([arm])
        assert [type(method).__name__ for method in chain.methods] == [
            "RandAugment",
            "Augmentation",
        ]


def test_compare_passes_over_data_without_published_tables_and_shows_that_of_large_models(
    tmp_path, capsys
):
    from analysis.cli import showing

    study = standard_study("architectures", "tiny-imagenet-20", "standard")
    make_study(tmp_path, study, sd=0.1)
    of_tasks = standard_study("tasks").model_copy(update={"tuning": None})
    make_study(tmp_path, of_tasks, sd=0.1)
    showing.compare(studies=None, results=tmp_path, dataset=None, metric="validation_accuracy",
                    confidence=0.95, preset="", baseline="")  # fmt: skip
    said = capsys.readouterr()
    assert "Large models beside the published table" in said.out and not said.err
    assert said.out.count("5 runs: Tiny ImageNet, 20 classes (med)") == 8
    assert "aba run large-vit --preset published" in said.out
    with pytest.raises(typer.Exit):
        showing.compare(studies=None, results=tmp_path, dataset=["diabetes"], confidence=0.95,
                        metric="validation_accuracy", preset="", baseline="")  # fmt: skip
    assert "nothing is published on diabetes" in capsys.readouterr().err
