"""Quality of maps: measures agree with slow twins, and tell good maps from bad ones."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from oracles import slow_quality
from scipy import stats

from aba_core import Arm, TrainConfig, load_dataset, train
from aba_core import quality as of_maps
from aba_core.quality import Judged
from analysis import correlations, rules
from analysis.hypothesis import Correlation, Hypothesis
from analysis.studies import quality, standard_study

CONFIG = TrainConfig(epochs=12, batch_size=20, optimizer="adam", learning_rate=0.005)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def digits():
    splits = load_dataset("digits")
    few = {
        name: replace(part, data=part.data[:100], y=part.y[:100], index=None)
        for name in ("train", "validation", "test")
        for part in [getattr(splits, name)]
    }
    return replace(splits, **few)


# --- measures and their twins --------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_the_largest_features_are_those_that_sorting_names(share):
    maps = drawn(5, 1, 4, 4)
    assert torch.equal(of_maps.largest(maps, share), slow_quality.top(maps, share))
    ties = torch.zeros(3, 1, 4, 4)
    assert (of_maps.largest(ties, share).flatten(1).sum(1) == int(share * 16 + 0.5)).all()


def test_models_of_many_masks_train_side_by_side_as_each_does_alone_on_masked_data(digits):
    config = replace(CONFIG, epochs=2, dtype="float64")
    digits = replace(
        digits,
        **{
            name: replace(getattr(digits, name), data=getattr(digits, name).data.double())
            for name in ("train", "validation", "test")
        },
    )
    masks = {
        f"share {share}": {
            name: of_maps.largest(drawn(100, 1, 8, 8, seed=seed), share)
            for seed, name in enumerate(("train", "validation"))
        }
        for share in (0.2, 0.6, 0.9)
    }
    together = of_maps.retrained(
        config,
        digits,
        {name: both["train"] for name, both in masks.items()},
        {name: both["validation"] for name, both in masks.items()},
        seed=3,
    )
    for name, both in masks.items():
        alone = slow_quality.accuracy_of_masked(config, digits, 3, both)
        assert together[name] == pytest.approx(alone, abs=1e-9)
    assert len(set(together.values())) > 1


def test_insertion_and_deletion_are_the_areas_of_one_sample_at_a_time():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
    x, maps = drawn(4, 1, 4, 4), drawn(4, 1, 4, 4, seed=1)
    found = of_maps.curves(model, x, maps)
    with torch.no_grad():
        inserted, deleted = slow_quality.curves(model, x, maps, of_maps.STEPS)
    assert found == {
        "insertion": pytest.approx(inserted, abs=1e-4),
        "deletion": pytest.approx(deleted, abs=1e-4),
    }


def test_agreement_is_spearmans_and_counts_changed_categories():
    one, other = drawn(6, 1, 5, 4), drawn(6, 1, 5, 4, seed=1)
    other = one + other
    assert of_maps.correlation(one, other) == pytest.approx(slow_quality.correlation(one, other))
    assert of_maps.correlation(one, one) == pytest.approx(100)
    assert of_maps.correlation(one, -one) == pytest.approx(-100)
    ties = one.round()
    assert of_maps.correlation(ties, other) == pytest.approx(slow_quality.correlation(ties, other))
    assert of_maps.changed(one, other) == pytest.approx(
        slow_quality.category_changes(one, other, 0.1, 0.9)
    )
    assert of_maps.changed(one, one) == 0
    assert of_maps.correlation(one, torch.zeros_like(one)) == 0


def test_the_pointing_game_knows_the_block_with_the_signal(digits):
    with_blocks, signal = of_maps.blocks(digits)
    assert with_blocks.input_shape == (1, 16, 8)
    blank = digits.train.x.mean(0)
    for name in ("train", "validation"):
        for x, made, rows in zip(
            getattr(digits, name).x, getattr(with_blocks, name).x, signal[name], strict=True
        ):
            assert torch.equal(made[:, rows], x) and torch.equal(made[:, ~rows], blank)
    above = signal["validation"][:, 0].float().mean()
    assert 0.3 < above < 0.7
    inside = signal["validation"][:, None, :, None].expand(-1, 1, -1, 8).float()
    assert of_maps.pointing(inside, signal["validation"]) == {"pointing": 100.0, "mass": 100.0}
    assert of_maps.pointing(-(1 - inside), signal["validation"])["pointing"] == 0
    assert of_maps.pointing(torch.zeros_like(inside), signal["validation"])["mass"] == 50
    with pytest.raises(ValueError, match="needed: pictures"):
        of_maps.blocks(replace(digits, input_shape=(64,)))


# --- judged runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(digits):
    arms = [Arm.of(kind, method=Judged(kind)) for kind in ("gradient", "lrp_z_plus")]
    sampled = Judged("smoothgrad", attribution_samples=2)
    return train(CONFIG, [Arm("Vanilla"), *arms, Arm("sg", sampled)], [7], splits=digits).frame()


def test_a_judged_run_is_vanillas_with_the_quality_of_its_map_beside_it(judged):
    of = judged.set_index("arm")
    assert of["validation_accuracy"].nunique() == of["train_loss"].nunique() == 1
    assert np.isnan(of.loc["Vanilla", "map_diffroar"])
    named = {f"map_{n}" for n in (*quality.FINDING, *quality.AGREEING, *quality.CHANGING)}
    assert named == {name for name in of if name.startswith("map_")}
    always = sorted(name for name in named if "samples" not in name and "noise" not in name)
    assert of.loc[["gradient", "lrp_z_plus", "sg"], always].notna().all(axis=None)
    assert of.loc["sg", ["map_samples", "map_noise"]].between(30, 99.9).all()
    assert np.isnan(of.loc["gradient", "map_samples"])


def test_measures_tell_a_good_map_from_one_that_is_none_of_the_models(digits, judged):
    # z⁺ points at digits, whatever the weights: known of it (Sixt et al. 2020).
    of = judged.set_index("arm")
    assert of.loc["lrp_z_plus", "map_randomised"] > of.loc["gradient", "map_randomised"] + 30
    assert of.loc["lrp_z_plus", "map_pointing"] > 80
    runs = train(CONFIG, [Arm("Vanilla")], [7], splits=digits)
    model, (x, y) = runs.model("Vanilla", 7), (digits.validation.x, digits.validation.y)
    good = Judged("gradient_x_input").maps_with()(model, x, y)
    curves = {
        n: of_maps.curves(model, x, m) for n, m in (("good", good), ("noise", drawn(*x.shape)))
    }
    assert curves["good"]["insertion"] > curves["noise"]["insertion"] + 5
    assert curves["good"]["deletion"] < curves["noise"]["deletion"] - 5


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ValueError, match="unknown method 'grad'"):
        Judged("grad")
    with pytest.raises(ValueError, match="strength is -1"):
        Judged(strength=-1.0)


# --- does quality predict gain? ------------------------------------------------------------------


def test_the_rank_correlation_is_spearmans_with_an_interval_around_it():
    rng = np.random.default_rng(0)
    one = rng.normal(size=21)
    other = one + rng.normal(size=21)
    found = correlations.spearman(one, other)
    expected = stats.spearmanr(one, other)
    assert found.estimate == pytest.approx(100 * expected.statistic)
    interval = found.interval()
    assert -100 < interval.low < found.estimate < interval.high < 100
    p = correlations.permutation_p(one, other, rng)
    assert p == pytest.approx(expected.pvalue, abs=0.01)
    assert correlations.permutation_p(one, rng.normal(size=21), rng) > 0.01


@pytest.mark.parametrize("true", [0.0, 0.6])
def test_intervals_of_rank_correlations_hold_as_often_as_they_say(true):
    rng = np.random.default_rng(1)
    rank = 100 * 6 / math.pi * math.asin(true / 2)  # Spearman's of normal pairs
    inside = 0
    for _ in range(400):
        one = rng.normal(size=21)
        other = true * one + math.sqrt(1 - true**2) * rng.normal(size=21)
        interval = correlations.spearman(one, other).interval()
        inside += interval.low <= rank <= interval.high
    assert 0.92 <= inside / 400 <= 0.985


def made_runs(slope: float) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(6):
        for number in range(12):
            shared = {"seed": seed, "subset_seed": seed, "status": "finished"}
            quality_ = 3.0 * number + rng.normal()
            rows.append({"arm": f"m{number}, judged", "map_diffroar": quality_, **shared})
            rows[-1]["validation_accuracy"] = 70.0
            gain = 80 + slope * number + rng.normal()
            rows.append({"arm": f"m{number}", "validation_accuracy": gain, **shared})
    return pd.DataFrame(rows)


def verdict_on(runs: pd.DataFrame) -> rules.Verdict:
    pairs = {f"m{n}": (f"m{n}, judged", f"m{n}") for n in range(12)}
    hypothesis = Hypothesis(
        name="predicts",
        statement="Quality predicts gain.",
        estimand="rank correlation",
        comparisons=(Correlation(label="DiffROAR", pairs=pairs, of="map_diffroar"),),
        margin=30.0,
        n=6,
    )
    return rules.test(hypothesis, runs, np.random.default_rng(0))


def test_quality_that_predicts_is_supported_and_the_reverse_is_refuted():
    found = verdict_on(made_runs(1.0))
    assert found.verdict == "supported" and found.decisive["estimate"] > 80
    assert found.decisive["n"] == 12 and found.decisive["p_permutation"] < 0.01
    assert "12 maps" in found.sentence
    assert verdict_on(made_runs(-1.0)).verdict == "refuted"
    untold = verdict_on(made_runs(1.0).drop(columns="map_diffroar"))
    assert untold.verdict == "not tested" and "no runs of" in untold.sentence


def test_a_hypothesis_about_another_column_is_judged_by_it():
    runs = made_runs(1.0)
    said = dict(
        name="higher",
        statement="Higher.",
        estimand="DiffROAR",
        comparisons=({"label": "a − b", "weights": {"m9, judged": 1.0, "m1, judged": -1.0}},),
        n=6,
    )
    by_quality = Hypothesis(**said, quantity="map_diffroar")
    found = rules.test(by_quality, runs, np.random.default_rng(0))
    assert found.verdict == "supported" and found.decisive["estimate"] == pytest.approx(24, abs=2)
    assert rules.test(Hypothesis(**said), runs, np.random.default_rng(0)).verdict != "supported"
    # What was declared before there was such a field keeps its hash.
    assert "metric" not in Hypothesis(**said).model_dump()
    assert by_quality.identity != Hypothesis(**said).identity


# --- the study -----------------------------------------------------------------------------------


def test_the_study_judges_every_map_that_aba_trains_with_on_runs_of_the_other_study():
    study = standard_study("quality", preset="standard")
    attributions = standard_study("attributions", preset="standard")
    others = {arm.name: arm for arm in attributions.arms}
    judged = [arm for arm in study.arms if arm.name.endswith(", judged")]
    trained = [arm for arm in study.arms if arm not in judged]
    assert all(others[arm.name] == arm for arm in trained)
    assert {quality.judged(arm.name) for arm in trained} - {"Vanilla, judged"} == {
        arm.name for arm in judged
    }
    named = set().union(*(one.arms for one in study.hypotheses))
    assert {arm.name for arm in study.arms} - named == {"Vanilla"}


def test_the_table_has_a_row_a_map_and_the_gain_beside_its_quality(judged):
    parts = []
    for subset in range(4):
        part = judged[judged["arm"] != "Vanilla"].copy()
        part["arm"] = [quality.judged(n) for n in ("Gradient", "LRP-z⁺", "SmoothGrad")]
        aba = part.assign(arm=["Gradient", "LRP-z⁺", "SmoothGrad"])
        aba["validation_accuracy"] = [80.0 + subset, 82.0 + subset, 79.0 + subset]
        aba[[name for name in aba if name.startswith("map_")]] = np.nan
        plain = aba[:1].assign(arm="Vanilla", validation_accuracy=78.0 + subset)
        parts.append(pd.concat([part, aba, plain]).assign(subset_seed=subset, seed=subset))
    runs = pd.concat(parts, ignore_index=True)
    table = quality.quality_table(runs, np.random.default_rng(0)).set_index("map")
    assert dict(table["gain"]) == {"Gradient": 2.0, "LRP-z⁺": 4.0, "SmoothGrad": 1.0}
    assert table["diffroar"].is_monotonic_decreasing
    assert table.loc["Gradient", "pointing"] == pytest.approx(
        judged.set_index("arm").loc["gradient", "map_pointing"]
    )
    drawn_on = quality.quality_plot(table.reset_index())
    names, *numbers = [text.get_text() for text in drawn_on.texts]
    assert numbers == ["1", "2", "3"]
    assert names.splitlines() == [f"{n}  {name}" for n, name in enumerate(table.index, 1)]
