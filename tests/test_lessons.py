"""The small models of notebooks 01 and 09, and what is shown of them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from aba_core import ADJUSTMENTS, Percentiles, SignSplit, adjust, frozen, lessons
from aba_core.adjustments import GROUP_SETS
from analysis import reports, tables, teaching
from analysis.explorer import Choice
from analysis.studies import isolation, tension

SETTINGS = {**teaching.settings("digits"), "model": "mlp"}


EFFECT = {"Epsilon": 1.0, "Delta": -1.0, "Neutral": 0.0}


class Shown(reports.Page):
    """A page that keeps what it is told to show."""

    def _show(self, text: str, kind: str = "") -> None:
        self.texts = [*getattr(self, "texts", []), (kind, text)]

    def figure(self, name: str, figure: Any, description: str, zoom: float = 1.4) -> None:
        self.figures = {**getattr(self, "figures", {}), name: figure}

    def table(self, name: str, table: pd.DataFrame, *_: Any, **__: Any) -> None:
        self.tables = {**getattr(self, "tables", {}), name: table}


@pytest.fixture
def page(tmp_path: Path) -> Shown:
    return Shown("digits", tmp_path)


@pytest.fixture(scope="module")
def small() -> lessons.SmallModels:
    return lessons.SmallModels("digits", lambda _: SETTINGS, steps=30, models=2)


@pytest.fixture
def choice(small: lessons.SmallModels) -> Choice:
    return Choice("digits", 6, small.names()[0], strength=0.4)


def test_each_adjustment_is_alone_in_its_arm() -> None:
    arms = lessons.each_alone(0.3, Percentiles(0.25, 0.75))
    assert [arm.name for arm in arms] == [isolation.arm_name(index) for index in range(27)]
    for arm, adjustment in zip(arms, ADJUSTMENTS, strict=True):
        assert arm.method is not None
        assert arm.method.adjustments.adjustments == (adjustment,)
        assert (arm.method.strength, arm.method.target) == (0.3, "loss")
        assert arm.method.split == Percentiles(0.25, 0.75)


def test_frozen_rows_are_of_every_model_of_the_arm(small: lessons.SmallModels) -> None:
    rows = pd.DataFrame(small.frozen_rows(0.4))
    assert len(rows) == 2 * 27 and set(rows["seed"]) == {0, 1}
    one = pd.DataFrame(frozen(small.runs.model("Vanilla", 1), small.judged_on, [0.4]))
    second = rows[rows["seed"] == 1].drop(columns="seed").reset_index(drop=True)
    pd.testing.assert_frame_equal(second, one)


def test_batches_are_whole_shuffled_epochs(small: lessons.SmallModels) -> None:
    split = small.splits("digits").train
    torch.manual_seed(1)
    drawn = list(lessons.batches(split, 30, steps=9))
    assert [len(y) for _, y in drawn] == [30, 30, 30, 10] * 2
    first = torch.cat([x for x, _ in drawn[:4]])
    assert not torch.equal(first, split.x)
    assert torch.equal(first.flatten(1).sum(1).sort()[0], split.x.flatten(1).sum(1).sort()[0])
    assert len(list(lessons.batches(split, 30, steps=1))) == 4


def test_a_view_is_of_the_model_that_is_named_and_models_are_trained_once(
    small: lessons.SmallModels, choice: Choice
) -> None:
    view = teaching.look(small, choice)
    assert view.x.shape == (1, 8, 8) and view.applied == 3
    assert small.model("digits", "small_cnn, Vanilla") is not None
    other = teaching.look(small, replace(choice, model="mlp, MendABA"))
    assert not np.array_equal(other.scores_before, view.scores_before)
    assert small.model("digits", "mlp, MendABA") is small.model("digits", "mlp, MendABA")


def test_the_27_versions_are_what_the_formula_makes(
    small: lessons.SmallModels, choice: Choice
) -> None:
    view = teaching.look(small, choice)
    categories = torch.as_tensor(view.categories)[:, None]
    for adjustment in ADJUSTMENTS:
        changes = torch.tensor([tuple(adjustment)], dtype=torch.float32)
        moved = adjust(torch.as_tensor(view.x)[None], categories, changes, 0.4, torch.ones(1))
        assert np.allclose(view.versions[adjustment.index], moved[0].numpy())
    by_sign = teaching.look(small, replace(choice, split="sign"))
    assert set(by_sign.versions) == {a.index for a in ADJUSTMENTS if not a.middle}
    assert by_sign.categories.shape[0] == SignSplit().categories


def test_a_sample_that_is_not_there_is_one_clear_error(
    small: lessons.SmallModels, choice: Choice
) -> None:
    last = small.samples()["digits"] - 1
    with pytest.raises(ValueError, match=f"sample is 9999; allowed for digits: 0 to {last}"):
        teaching.look(small, replace(choice, sample=9999))


def test_a_sample_is_shown_step_by_step(
    page: Shown, small: lessons.SmallModels, choice: Choice
) -> None:
    view = teaching.look(small, choice)
    teaching.show_sample(page, choice, view)
    titles = [ax.get_title() for ax in page.figures["one-sample"].axes]
    assert titles[0].startswith("Sample 6: ") and titles[2] == "Categories"
    teaching.show_all_adjustments(page, choice, view)
    axes = page.figures["all-adjustments"].axes
    assert len(axes) == 27
    assert {ax.get_title() for ax in axes} == {f"{a.index} {a}" for a in ADJUSTMENTS}
    raised = sum(view.loss_changes[a.index] > 0 for a in ADJUSTMENTS if a.group == "Epsilon")
    assert f"{raised} of the 9 Epsilon adjustments raise" in page.texts[0][1]


@pytest.mark.parametrize("shape", [(3, 8, 8), (50, 40)], ids=["colours", "text"])
def test_colours_and_texts_are_shown_too(
    page: Shown, small: lessons.SmallModels, choice: Choice, shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    attribution = rng.normal(size=shape)
    view = replace(
        teaching.look(small, choice),
        x=rng.normal(size=shape),
        attribution=attribution,
        categories=np.stack([attribution < -1, np.abs(attribution) <= 1, attribution > 1]),
        versions=dict.fromkeys(range(27), rng.normal(size=shape)),
        display=(lambda x: x / 2) if len(shape) == 3 else None,
    )
    teaching.show_sample(page, choice, view)
    teaching.show_all_adjustments(page, choice, view)
    assert set(page.figures) == {"one-sample", "all-adjustments"}


def test_groups_are_measured_at_the_nearest_strength_of_the_first_arm(page: Shown) -> None:
    rows = pd.DataFrame(
        {"arm": arm, "seed": seed, "adjustment": a.index, "strength": strength}
        | {"loss": 1 + change, "loss_change": change}
        for arm, sign in (("Vanilla", 1), ("other", -1))
        for seed in range(3)
        for strength in (0.1, 0.5)
        for a in ADJUSTMENTS
        for change in [sign * (EFFECT[a.group.value] + 0.01 * seed)]
    )
    table = teaching.measured_groups(page, rows, 0.45, 0.05, "A source")
    assert table["agrees"].all()
    kind, said = page.texts[0]
    assert kind == "answer" and "for 27 of 27 adjustments (κ = 1.00) at strength 0.5" in said
    assert page.texts[1][1].startswith("A source: unadjusted loss 1.00; a change within ±0.05")
    teaching.measured_groups(page, rows[rows["seed"] == 0], 0.5, 0.05)
    assert page.texts[2][1] == "No interval, so no measured group: one model is not enough."


# --- answers of the other notebooks --------------------------------------------------------------


def test_sets_are_above_below_or_inconclusive() -> None:
    names = list(GROUP_SETS)
    columns = ("difference", "difference_to_best_member", "difference_to_best_group")
    table = pd.DataFrame({"set": names})
    for column in columns:
        table[f"{column}_low"] = [0.1, -0.2, -0.1, 0.1, -0.2, math.nan, 0.1]
        table[f"{column}_high"] = [0.2, -0.1, 0.1, 0.2, -0.1, math.nan, 0.2]
    sentences = tension.set_sentences(table)
    assert sentences[1] == (
        "Variety, groups compared with their best member: Neutral is above; Delta is below; "
        "Epsilon is inconclusive."
    )
    assert sentences[2].startswith("Tension, joined groups compared with the best: ")
    assert all(name.removesuffix(".") in sentences[0] for name in names)


def test_the_highest_mean_is_told_beside_the_baseline() -> None:
    table = tables.adjustment_table().assign(mean=np.r_[80.0, np.linspace(70, 90, 26)])
    table = table.assign(mean_low=table["mean"] - 1, mean_high=table["mean"] + 1)
    said = isolation.highest_mean(table)
    assert said.startswith("Adjustment 26 [−1, −1, −1] of group Neutral has the highest mean, ")
    assert "mean, 90.0 % [89.0, 91.0]. Training without augmentation reaches 80.0 %." in said
    assert isolation.highest_mean(table.assign(mean=math.nan)) == ""


def test_one_run_detects_nothing() -> None:
    runs = pd.DataFrame({"arm": ["a", "a", "b", "b"], "accuracy": [80.0, 82.0, 81.0, 83.0]})
    table = pd.DataFrame({"n": [0, 2]})
    assert tension.detectable(runs, "accuracy", table).startswith("With 2 runs an arm and a median")
    assert tension.detectable(runs, "accuracy", pd.DataFrame({"n": [1, 1]})) == ""
    assert tension.detectable(runs.assign(accuracy=80.0), "accuracy", table) == ""
