"""The comparators: what is declared, which may be the best, and what their figures say."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from oracles.made_results import make_study
from oracles.slow_comparisons import against_best as slow_against_best

from aba_core import Regularizer
from aba_core.arms import METHODS, PUBLISHED_METHODS
from aba_core.methods.base import method_of
from analysis import comparisons, statistics
from analysis.comparisons import ComparisonError
from analysis.exhibits import Look
from analysis.results import SHIPPED, load
from analysis.studies import comparators, costs, gains, standard_study, tried
from analysis.study import settings_of

DATA = ("digits", "mnist", "cifar10", "news", "breast-cancer")


# --- what is declared ----------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", DATA)
def test_every_method_is_compared_or_named_with_the_reason(dataset):
    study = standard_study("comparators", dataset)
    further = standard_study("comparators-more", dataset)
    used = {part["kind"] for arm in (*study.arms, *further.arms) for part in _parts(arm.method)}
    # These are another kind with its fields spelt out, or fields of ABA.
    same = {"mixed", "jitter"}
    for kind in set(METHODS) - used - same:
        assert METHODS[kind].title.lower() in f"{study.note} {further.note}".lower(), kind


def _parts(method):
    for part in method if isinstance(method, list) else [method] * (method is not None):
        yield part
        if "method" in part:
            yield from _parts(part["method"])


@pytest.mark.parametrize("dataset", DATA)
def test_at_equal_passes_every_arm_has_the_passes_of_vanilla(dataset):
    study = standard_study("comparators-equal-passes", dataset)
    epochs = study.config["epochs"]
    for arm in study.arms:
        method = method_of(arm.method)
        passes = 1.0 if method is None else method.passes()
        own = dict(arm.config).get("epochs", epochs)
        assert own * passes == pytest.approx(epochs), arm.name
    assert any(arm.config for arm in study.arms)
    # What has one pass is the same run as in the study of equal epochs.
    whole = {arm.name: arm for arm in standard_study("comparators", dataset).arms}
    assert all(arm == whole[arm.name] for arm in study.arms if not arm.config)


@pytest.mark.parametrize("dataset", DATA)
def test_at_equal_time_every_arm_has_the_measured_time_of_vanilla(dataset):
    study = standard_study("comparators-equal-time", dataset)
    epochs = study.config["epochs"]
    for arm in study.arms:
        if arm.name == "Vanilla":
            continue
        kind = "gaussian-noise" if arm.setting("placebo") else arm.method["kind"]
        own = dict(arm.config).get("epochs", epochs)
        assert own * max(costs.OF_METHODS[kind], 1.0) == pytest.approx(epochs), arm.name
    every = {"aba", *PUBLISHED_METHODS, *tried.ANYWHERE, *tried.OF_PICTURES, *tried.OF_TEXTS}
    assert set(costs.OF_METHODS) == every


@pytest.mark.parametrize(
    ("dataset", "shape"), [("news", (7, 4)), ("breast-cancer", (7,))], ids=["texts", "tables"]
)
def test_what_the_study_leaves_out_the_method_itself_refuses_with_the_reason(dataset, shape):
    there = tried.compared(settings_of(dataset, "quick"))
    x, y = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(x[0].numel(), 3))
    for kind in {**tried.ANYWHERE, **tried.OF_PICTURES, **tried.OF_TEXTS}:
        loop = Regularizer(kind, steps=1)
        if kind in there:
            loop.backward(model, x, y)
        else:
            with pytest.raises(ValueError, match="needs (pictures|texts) .* a sample") as refusal:
                loop.backward(model, x, y)
            assert "\n" not in str(refusal.value)


def test_every_class_is_tried_with_as_many_values_as_all_others():
    for dataset in DATA:
        for name in ("comparators", "comparators-more", "comparators-equal-time"):
            study = standard_study(name, dataset)
            few = len(tried._GROUPS)  # channels in a group: no more divide those of every layer
            for one in study.tuning.classes:
                (values,) = one.values.values() if one.values else [study.tuning.strengths]
                norm = one.name.startswith("Batch group norm")
                assert len(values) == (few if norm else len(study.tuning.strengths)), one.name


def test_a_field_of_a_held_method_is_tuned_by_its_place():
    study = standard_study("comparators-more")
    arm = next(arm for arm in study.arms if arm.name == "Early All")
    assert arm.with_settings(**{"method.strength": 0.3}).method["method"]["strength"] == 0.3
    with pytest.raises(ValueError, match=r"holds\.strength given, but the method has no 'holds'"):
        arm.with_settings(**{"holds.strength": 0.3})


# --- which may be the best -----------------------------------------------------------------------


def runs_of(values: np.ndarray) -> pd.DataFrame:
    """values: [subset, arm]."""
    rows = [
        {"arm": f"arm {arm}", "seed": seed, "subset_seed": seed, "validation_accuracy": value}
        for seed, row in enumerate(values)
        for arm, value in enumerate(row)
    ]
    return pd.DataFrame(rows)


def of(runs: pd.DataFrame, confidence: float = 0.95) -> comparisons.AgainstBest:
    grid = comparisons.grid_of(runs, "validation_accuracy")
    return comparisons.against_best(comparisons.means_of(grid, grid.arms), confidence)


@pytest.mark.parametrize("seed", range(4))
def test_comparisons_with_the_best_are_the_slow_ones(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal([0, 0.2, 0.4, 3.0 * (seed % 2)], 1.0, (9, 4)) + rng.normal(size=(9, 1))
    ours = of(runs_of(values), 0.9)
    for arm, (estimate, low, high) in enumerate(slow_against_best(values, 0.9)):
        assert ours.estimate[arm] == pytest.approx(estimate)
        assert ours.low[arm] == pytest.approx(low)
        assert ours.high[arm] == pytest.approx(high)
    assert ours.may_be_best[ours.estimate.argmax()]


def test_intervals_hold_for_all_arms_at_once_where_arms_tie_or_nearly_do():
    """Coverage of all intervals together, at least what is said but for chance of 200 repeats."""
    rng = np.random.default_rng(1)
    for means in (np.zeros(12), np.linspace(0, 1, 12)):
        best_other = np.array([means[i] - np.delete(means, i).max() for i in range(12)])
        held = 0
        for _ in range(200):
            block = rng.normal(size=(10, 1))
            ours = of(runs_of(means + block + rng.normal(size=(10, 12))), 0.9)
            held += bool(((ours.low <= best_other) & (best_other <= ours.high)).all())
        assert held / 200 > 0.9 - 3 * (0.09 / 200) ** 0.5


def test_one_arm_has_no_others():
    with pytest.raises(ComparisonError, match="1 arm; needed: two or more"):
        of(runs_of(np.arange(4.0)[:, None]))


# --- what is shown -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> pd.DataFrame:
    return load(SHIPPED, "comparators", "digits").frame


def test_gains_are_means_within_subsets_with_their_costs(shipped):
    table = gains.gain_table(shipped, np.random.default_rng(0)).set_index("arm")
    wide = shipped.pivot(index="seed", columns="arm", values="validation_accuracy")
    assert table.loc["Mixup", "gain"] == pytest.approx((wide["Mixup"] - wide["Vanilla"]).mean())
    both = (wide["Mixup, with All"] - wide["Vanilla"]).mean()
    assert table.loc["Mixup", "with_all"] == pytest.approx(both)
    assert table.loc["PGD training", "passes"] == pytest.approx(6.0)
    assert np.isnan(table.loc["Mixup", "gain_per_pass"])
    assert table.loc["All", "gain_per_pass"] == pytest.approx(table.loc["All", "gain"])
    assert "Vanilla" not in table.index
    assert not [name for name in table.index if name.endswith("with All")]


@pytest.mark.parametrize(("dataset", "preset"), [("digits", ""), ("mnist", "med"), ("cifar10", "")])
def test_no_name_covers_another_in_the_figure_of_costs(dataset, preset):
    runs = load(SHIPPED, "comparators", dataset, preset).frame
    ax = gains.cost_plot(gains.gain_table(runs, np.random.default_rng(0)))
    boxes = [name.get_window_extent() for name in ax.texts]
    assert len(boxes) == 5
    assert not [one for n, one in enumerate(boxes) for other in boxes[:n] if one.overlaps(other)]
    plt.close("all")


def test_gains_stand_beside_those_over_tuned_vanilla_of_the_same_subsets(shipped, tmp_path):
    study = load(SHIPPED, "comparators", "digits")
    tuned = gains.tuned_vanilla(study)
    assert set(tuned["arm"]) == {"Vanilla, tuned", "Vanilla, larger CNN, tuned"}
    assert set(tuned["seed"]) == set(shipped["seed"])  # of the hundred there
    plain = gains.gain_table(shipped, np.random.default_rng(0))
    table = gains.gain_table(shipped, np.random.default_rng(0), tuned=tuned)
    pd.testing.assert_frame_equal(table[plain.columns], plain)  # nothing else is moved by them
    wide = pd.concat([shipped, tuned]).pivot(
        index="seed", columns="arm", values="validation_accuracy"
    )
    by_arm = table.set_index("arm")
    for column, arm in (("over_tuned", "Vanilla, tuned"),
                        ("over_larger", "Vanilla, larger CNN, tuned")):  # fmt: skip
        expected = (wide["CutMix"] - wide[arm]).mean()
        assert by_arm.loc["CutMix", column] == pytest.approx(expected)
        assert by_arm.loc["CutMix", f"{column}_low"] < expected
    shown = gains.exhibits(study, Look()).tables["comparators"]
    assert {"gain", "over_tuned", "over_larger"} <= set(shown.columns)
    assert "study baselines" in shown.note

    # Subsets that another training of Vanilla was on are others.
    other = shipped.assign(key=shipped["key"].where(shipped["arm"] != "Vanilla", "other"))
    assert gains.tuned_vanilla(replace(study, frame=other)) is None
    alone = standard_study("comparators")
    make_study(tmp_path, alone)
    assert gains.tuned_vanilla(load(tmp_path, "comparators", "digits")) is None


def test_methods_that_a_map_leads_stand_beside_the_same_change_without_it(shipped):
    table = gains.guidance_table(shipped, np.random.default_rng(0)).set_index("arm")
    assert len(table) == len(gains.LED)
    wide = shipped.pivot(index="seed", columns="arm", values="validation_accuracy")
    for led, other in gains.LED.items():
        row = table.loc[METHODS[led].title]
        gap = wide[METHODS[led].title] - wide[METHODS[other].title]
        assert row["without_map"] == METHODS[other].title and row["n"] == len(gap)
        assert row["difference"] == pytest.approx(gap.mean())
        one = statistics.mean_interval(gap.to_numpy(), np.random.default_rng(0))
        assert row["difference_high"] - row["difference_low"] > one.high - one.low
    few = shipped[shipped["arm"].isin(["Vanilla", "SaliencyMix", "CutMix", "ICD"])]
    assert list(gains.guidance_table(few, np.random.default_rng(0))["arm"]) == ["SaliencyMix"]
    few = shipped[shipped["arm"] == "Vanilla"]
    assert gains.guidance_table(few, np.random.default_rng(0)).empty


def test_the_best_come_first_and_the_surely_worse_are_named(shipped):
    table = gains.best_table(shipped)
    assert table["mean"].is_monotonic_decreasing and "Vanilla" in set(table["arm"])
    assert table.loc[0, "may_be_best"] != "no" and table.loc[0, "behind"] > 0
    no = table["may_be_best"] == "no"
    assert (table.loc[no, "behind_high"] == 0).all() and (table.loc[~no, "behind_high"] > 0).all()


@pytest.mark.parametrize(
    ("name", "words"),
    [("comparators-equal-time", "in as much time"), ("attributions-equal-time", "trained as long")],
)
def test_studies_in_equal_time_say_so_and_show_the_epochs(name, words, tmp_path):
    study = standard_study(name)
    make_study(tmp_path, study)
    shown = comparators.exhibits(load(tmp_path, name, "digits"), Look())
    table, figure = shown.tables[name], shown.figures[name]
    assert table.description == f"Gain over Vanilla, {words}" and words in figure.description
    assert "epochs" in table.columns and "gain_per_pass" not in table.columns
    epochs = {arm.name: dict(arm.config).get("epochs", 100) for arm in study.arms}
    for row in table.data.to_dict("records"):
        assert row["epochs"] == pytest.approx(epochs[row["arm"]])
    assert len(shown.tables[f"{name}-verdicts"].data) == len(study.hypotheses)
    assert ("tuned" in figure.note) == (study.tuning is not None)
    figure.draw("double")
    plt.close("all")


def test_aba_in_every_form_is_ours():
    for name in ("All", "All at layer 2", "All, two copies", "Early All", "FastABA"):
        assert gains.ours(name)
    assert not gains.ours("Mixup") and not gains.ours("Gaussian noise")


# --- the table -----------------------------------------------------------------------------------


def test_the_study_plans_on_a_table_and_its_own_model_for_batch_norm():
    """Methods of batch norm are tried on the model of their own arm."""
    from analysis.plan import resolve

    for name in ("comparators", "comparators-more"):
        resolve(standard_study(name, "breast-cancer"))
