"""The explorer draws what it is told, and says in one line what cannot be shown."""

import re
import zlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from analysis import explorer, interactive, tables
from analysis.explorer import Choice, Panel, View
from analysis.reports import Page
from analysis.studies.isolation import arm_name

ADJUSTMENTS = tables.adjustment_table()


def view(
    shape: tuple[int, ...] = (1, 4, 5), classes: int = 3, index: int = 3, seed: int = 0, **more
) -> View:
    """A made-up look at one sample, with adjustment `index` applied."""
    rng = np.random.default_rng(seed)
    x, attribution = rng.normal(size=shape), rng.normal(size=shape)
    changes = tuple(float(c) for c in ADJUSTMENTS.loc[index, ["low", "middle", "high"]])
    scores = rng.normal(size=classes)
    given = {
        "x": x,
        "attribution": attribution,
        "categories": np.stack([attribution < -1, np.abs(attribution) <= 1, attribution > 1]),
        "changes": changes,
        "augmented": x + 0.5 * (attribution > 1),
        "scores_before": scores,
        "scores_after": scores - 0.3,
        "loss_before": 0.4,
        "loss_after": 0.9,
        "loss_changes": np.linspace(-1, 1, 27),
        "label": 1,
        "class_names": tuple(f"name of class {number}" for number in range(classes)),
    }
    return View(**{**given, **more})


def standing() -> pd.DataFrame:
    mean = np.linspace(80, 90, 27)
    return ADJUSTMENTS.assign(mean=mean, mean_low=mean - 1, mean_high=mean + 1)


def texts(figure: Figure) -> str:
    figure.canvas.draw()
    return "\n".join(
        text.get_text() for ax in figure.axes for text in [*ax.texts, ax.title, ax.xaxis.label]
    )


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 8, 8), (50, 40), (13,)], ids=str)
@pytest.mark.parametrize("results", [True, False], ids=["results", "no results"])
def test_every_kind_of_input_is_drawn(shape: tuple[int, ...], results: bool):
    display = (lambda x: x / 2) if shape[0] == 3 else None
    figure = explorer.draw(
        Choice(), view(shape, 20, display=display), standing() if results else None
    )
    assert len(figure.axes) == (7 if results else 6)
    said = texts(figure)
    assert "3 [0, 0, 1], Epsilon" in said
    assert "Loss 0.40" in said and "Loss 0.90" in said


def test_a_split_without_a_middle_is_drawn_with_what_it_lacks():
    changes = np.where(ADJUSTMENTS["middle"] == 0, 0.5, np.nan)
    two = view(categories=view().categories[[0, 2]], changes=(-1.0, 1.0), loss_changes=changes)
    assert two.applied == 17
    assert "× not with this split" in texts(explorer.draw(Choice(split="sign"), two))


def test_the_sentence_says_where_the_adjustment_stands():
    said = explorer.sentence(Choice(adjustments="3"), view(), standing())
    assert said == (
        "3 [0, 0, 1], Epsilon: loss 0.40 → 0.90 (+0.50), place 24 of 27 from the highest loss on "
        "this sample; trained alone 81.2 %, place 24 of 27."
    )
    assert "3 [0, 0, 1], Epsilon drawn from {3,4,0x2}" in explorer.sentence(
        Choice(adjustments="3,4,0x2"), view()
    )


# --- the panel, without a browser ----------------------------------------------------------------


@pytest.fixture
def panel() -> Panel:
    seen = panel_choices = []

    def look(choice: Choice) -> View:
        panel_choices.append(choice)
        index = int(choice.adjustments.split(",")[0])
        if choice.split == "sign" and ADJUSTMENTS["middle"][index]:
            raise ValueError(f"adjustment {index} changes the middle category")
        return view(index=index)

    made = Panel(
        Choice(model="a"), look, {"digits": 500, "mnist": 10_000}, ("a", "b"), lambda _: None
    )
    made.seen = seen  # type: ignore[attr-defined]
    return made


def test_a_turned_widget_brings_another_picture(panel: Panel):
    first = bytes(panel.image.value)
    assert first.startswith(b"\x89PNG")
    panel.buttons[17].click()
    assert panel.controls["adjustments"].value == "17"
    assert panel.choice.adjustments == "17"
    assert bytes(panel.image.value) != first
    assert "17 [−1, 0, 1], Epsilon" in panel.message.value


def test_the_choice_is_what_the_widgets_say(panel: Panel):
    for name, value in (
        *(("sample", 20), ("method", "smoothgrad"), ("target", "class_score"), ("model", "b")),
        *(("low", 0.2), ("high", 0.7), ("strength", 1.5), ("magnitude", 2.0), ("draw", 3)),
    ):
        panel.controls[name].value = value
    assert panel.choice == Choice(
        sample=20,
        method="smoothgrad",
        target="class_score",
        model="b",
        quantiles=(0.2, 0.7),
        strength=1.5,
        magnitude=2.0,
        draw=3,
    )
    assert panel.seen[-1] == panel.choice  # type: ignore[attr-defined]


def test_the_sign_split_greys_out_what_changes_the_middle(panel: Panel):
    panel.controls["split"].value = "sign"
    greyed = [index for index, button in enumerate(panel.buttons) if button.disabled]
    assert greyed == ADJUSTMENTS.loc[ADJUSTMENTS["middle"] != 0, "index"].tolist()
    assert panel.controls["low"].disabled and panel.controls["high"].disabled
    panel.controls["adjustments"].value = "1"
    assert "Not possible: adjustment 1 changes the middle" in panel.message.value
    assert panel.image.layout.visibility == "hidden"
    panel.controls["split"].value = "percentiles"
    assert panel.image.layout.visibility == "visible"
    assert not any(button.disabled for button in panel.buttons)


def test_a_picture_does_not_depend_on_those_before():
    shapes = {"pictures": (1, 4, 5), "colours": (3, 6, 6), "without results": (1, 4, 5)}
    table = standing()

    def results(dataset: str) -> pd.DataFrame | None:
        return None if dataset == "without results" else table

    def look(choice: Choice) -> View:
        """Everything in it is drawn by lot, but the same for the same choice."""
        seed = zlib.crc32(repr(choice).encode())
        rng = np.random.default_rng(seed)
        every = rng.normal(size=27) * choice.strength
        known = (choice.split != "sign") | (ADJUSTMENTS["middle"] == 0)
        return view(
            *(shapes[choice.dataset], 20, rng.integers(27), seed),
            scores_after=rng.normal(size=20) * 10 ** rng.integers(4),
            loss_changes=np.where(known, every, np.nan),
            label=int(rng.integers(20)),
            display=(lambda x: x / 2) if choice.dataset == "colours" else None,
            **({"changes": (0.5, 0.0, 0.0)} if rng.random() < 0.3 else {}),
        )

    start = Choice("pictures", model="a")
    panel = Panel(start, look, dict.fromkeys(shapes, 100), ("a",), results)
    moves = {
        **{"dataset": tuple(shapes), "split": explorer.SPLITS, "target": explorer.TARGETS},
        **{"low": (0.1, 0.2, 0.3), "strength": (0.0, 0.5, 3.0), "sample": tuple(range(100))},
    }
    names = ["sample", "split", "dataset", "strength", "split", "dataset", "target", "low"]
    rng = np.random.default_rng(0)
    for name in names * 3:
        control = panel.controls[name]
        control.value = rng.choice([value for value in moves[name] if value != control.value])
        seen = look(panel.choice)
        fresh = explorer.Drawing(seen, results(panel.choice.dataset))
        fresh.show(panel.choice, seen)
        assert panel.image.value == fresh.png(), panel.choice


MAPS = {"gradient": np.ones((1, 4, 5)), "smoothgrad": -np.ones((1, 4, 5)), "layer_cam": "no layer"}


def test_all_maps_of_a_sample_are_shown_side_by_side_where_they_are_asked_for():
    asked: list[Choice] = []

    def maps(choice: Choice):
        asked.append(choice)
        return MAPS

    panel = Panel(Choice(model="a"), lambda _: view(), {"digits": 9}, ("a",), lambda _: None, maps)
    assert not asked and panel.side_by_side.layout.display == "none"
    panel.all_maps.value = True
    first = bytes(panel.side_by_side.value)
    assert first.startswith(b"\x89PNG") and panel.side_by_side.layout.display == ""
    panel.controls["method"].value = "smoothgrad"  # another frame
    assert bytes(panel.side_by_side.value) != first and asked[-1].method == "smoothgrad"
    panel.all_maps.value = False
    assert panel.side_by_side.layout.display == "none" and len(asked) == 2


def test_a_method_without_a_map_says_why_and_the_others_are_scaled_by_their_size():
    figure = explorer.draw_maps(Choice(), view(), MAPS)
    said = {ax.get_title(): ax for ax in figure.axes if ax.get_visible()}
    assert set(said) == {"input: name of class 1", "gradient", "smoothgrad", "layer cam"}
    assert [text.get_text() for text in said["layer cam"].texts] == ["no layer"]
    assert (said["smoothgrad"].images[0].get_array() == -1).all()


def test_every_map_of_a_lesson_is_that_of_the_method_on_the_sample_alone():
    from aba_core.lessons import SmallModels
    from analysis import teaching

    lesson = SmallModels("digits", teaching.settings, 5, models=1)
    chosen = Choice("digits", 6, model=lesson.names()[0])
    maps = lesson.maps(chosen)
    assert set(maps) == set(explorer.METHODS)
    for method in ("gradient", "smoothgrad", "lrp_composite", "grad_cam"):
        alone = teaching.look(lesson, replace(chosen, method=method)).attribution
        np.testing.assert_allclose(maps[method], alone, rtol=1e-3, atol=1e-6)
    without = lesson.maps(replace(chosen, model="mlp, Vanilla"))
    assert "no convolution" in without["grad_cam"]


def test_a_map_of_ones_own_is_in_the_explorer_and_beside_all_others():
    from aba_core.lessons import SmallModels
    from analysis import teaching

    own, broken = "outside.maps:occlusion", "outside.maps:wrong_shape"
    lesson = SmallModels("digits", teaching.settings, 5, models=1, own_map=own)
    chosen = Choice("digits", 6, model=lesson.names()[0], method=own)
    seen = teaching.look(lesson, chosen)
    zeroed = np.where(np.arange(64).reshape(seen.x.shape) == 20, 0, seen.x)
    model = lesson.model("digits", chosen.model)
    with torch.no_grad():
        losses = nn.functional.cross_entropy(
            model(torch.tensor(np.stack([seen.x, zeroed]))),
            torch.tensor([seen.label] * 2),
            reduction="none",
        )
    np.testing.assert_allclose(
        seen.attribution.flat[20], float(losses[0] - losses[1]), rtol=1e-3, atol=1e-5
    )
    maps = lesson.maps(chosen)
    assert list(maps) == [*explorer.METHODS, own]
    np.testing.assert_allclose(maps[own], seen.attribution, rtol=1e-3, atol=1e-6)
    panel = Panel(chosen, lambda c: teaching.look(lesson, c), {"digits": 9}, lesson.names(),
                  lambda _: None, lesson.maps)  # fmt: skip
    assert panel.choice.method == own and own in dict(panel.controls["method"].options).values()
    panel.controls["method"].value = "gradient"
    panel.controls["method"].value = own  # it stays there
    figure = explorer.draw_maps(chosen, seen, maps)
    assert own in {ax.get_title().replace("\n", "") for ax in figure.axes}

    # What is wrong with one is said in the panel.
    refused = Panel(replace(chosen, method=broken), lambda c: teaching.look(lesson, c),
                    {"digits": 9}, lesson.names(), lambda _: None, lesson.maps)  # fmt: skip
    assert "Not possible" in refused.message.value and "shape" in refused.message.value
    with pytest.raises(ValueError, match="cannot import 'nowhere' of 'nowhere:map'"):
        SmallModels("digits", teaching.settings, 5, own_map="nowhere:map")


def test_a_smaller_data_set_brings_the_sample_into_its_range(panel: Panel):
    panel.controls["dataset"].value = "mnist"
    panel.controls["sample"].value = 9000
    panel.controls["dataset"].value = "digits"
    assert panel.choice.sample == 499
    assert {choice.sample for choice in panel.seen if choice.dataset == "digits"} == {0, 499}


def test_without_a_reader_the_same_drawing_is_a_figure_of_the_page(tmp_path, capsys):
    page = Page(tmp_path, "digits", out=tmp_path)
    assert not interactive.attended()
    explorer.show(page, Choice(), lambda _: view(), {"digits": 500}, ("a",))
    for ending in ("pdf", "svg", "png"):
        assert (tmp_path / "figures" / f"explorer-digits.{ending}").stat().st_size > 1000


# --- tables --------------------------------------------------------------------------------------


def runs() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = [
        {"arm": arm_name(i), "seed": s, "accuracy": 80 + i / 5 + rng.normal()}
        for i in range(27)
        for s in range(4)
    ]
    return pd.DataFrame([*rows, {"arm": "All", "seed": 0, "accuracy": 99.0}])


def test_single_runs_are_found_for_arms_and_for_frozen_results():
    single = interactive.by_seed(runs(), "accuracy")
    assert len(single) == 27 * 4 and single["value"].max() < 99
    frozen = runs().iloc[:8].assign(adjustment=[5] * 4 + [6] * 4)
    assert interactive.by_seed(frozen, "accuracy")["index"].tolist() == [5] * 4 + [6] * 4


def test_rows_are_sorted_and_filtered():
    table = standing().assign(mean=lambda t: t["mean"].where(t["index"] != 4))
    rows = interactive.sorted_and_filtered(table, "mean", True, ["Delta", "Epsilon"])
    assert set(rows["group"]) == {"Delta", "Epsilon"}
    assert rows["index"].iloc[-1] == 4  # without a mean
    assert rows["mean"].iloc[:-1].is_monotonic_decreasing
    assert interactive.sorted_and_filtered(table, "index", False, text="epsi")[
        "index"
    ].tolist() == (table.loc[table["group"] == "Epsilon", "index"].tolist())
    # A number is a whole cell, and may be written with a hyphen.
    by_number = interactive.sorted_and_filtered(table, "index", False, text="26")
    assert by_number["index"].tolist() == [26]
    lowest = interactive.sorted_and_filtered(table, "index", False, text="-2")
    assert set(lowest["low_offset"]) | set(lowest["high_offset"]) >= {-2}


def test_a_row_opens_to_its_runs_and_text_is_escaped():
    seeds = interactive.by_seed(runs(), "accuracy")
    table = standing().replace({"group": {"Neutral": "<b>&"}})
    text = interactive.rows_html(table, ["index", "group", "mean"], 1, seeds)
    assert text.count("<details>") == 27
    assert text.count("<circle") == 27 * 4
    assert len(re.findall(r"<title>seed \d: \d\d\.\d</title>", text)) == 27 * 4
    assert "&lt;b&gt;&amp;" in text and "<b>&" not in text
    assert "<script" not in text


def test_the_widget_answers_its_controls():
    box = interactive.table_widget(standing(), ["index", "group", "mean"])
    bar, shown = box.children
    by, descending, text, *groups = bar.children
    assert shown.value.count("<tr>") == 28
    by.value = "mean"
    assert descending.value
    assert shown.value.index('<td style="text-align:right">26</td>') < shown.value.index(
        '<td style="text-align:right">25</td>'
    )
    groups[0].value = False
    assert shown.value.count("<tr>") == 19
    text.value = "nothing like it"
    assert "0 of 27 rows" in shown.value


def test_an_unknown_adjustment_stands_nowhere():
    other = replace(view(), changes=(0.5, 0.0, 0.0))
    assert other.applied is None
    assert explorer.sentence(Choice(), other, standing()).startswith("[0.5, 0, 0]: loss")
