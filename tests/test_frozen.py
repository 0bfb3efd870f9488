"""Frozen: measured groups, and curves that draw what their table says."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from oracles.made_results import make_study, standard
from oracles.made_runs import make_frozen, rng

from aba_core.adjustments import Group, members
from analysis import statistics
from analysis.results import load
from analysis.studies.frozen import (
    Agreement,
    agreement,
    agreement_sentence,
    curve_table,
    frozen_curves,
    measured_group_table,
    measured_groups,
    robustness_sentences,
)
from analysis.studies.isolation import arm_name

STRENGTHS = (0.05, 0.2, 1.0)


pytestmark = pytest.mark.usefixtures("no_windows")


def test_measured_groups_follow_the_change_of_loss():
    table = measured_group_table(make_frozen(), rng(), strength=0.1, threshold=0.01)
    assert table["agrees"].all()
    assert table.loc[table["group"] == "Neutral", "equivalent"].all()
    assert not table.loc[table["group"] != "Neutral", "equivalent"].any()
    assert agreement(table) == Agreement(1.0, 1.0, 27)


def test_a_wide_threshold_makes_everything_neutral():
    table = measured_group_table(make_frozen(), rng(), strength=0.1, threshold=5.0)
    assert (table["measured_group"] == "Neutral").all()
    assert agreement(table).share == pytest.approx(1 / 3)
    assert agreement(table).kappa == pytest.approx(0)


def test_kappa_of_one_label_is_undefined():
    labels = pd.DataFrame({"group": ["Delta"] * 3, "measured_group": ["Delta"] * 3})
    assert agreement(labels).share == 1 and np.isnan(agreement(labels).kappa)
    labels = pd.DataFrame({"group": list("ddnn"), "measured_group": list("dndn")})
    assert agreement(labels).kappa == pytest.approx(0)


def test_one_seed_decides_no_group():
    table = measured_group_table(make_frozen(seeds=1), rng(), strength=0.5)
    assert (table["measured_group"] == "").all()
    assert agreement(table).n == 0


def test_frozen_choices_are_checked():
    frozen = make_frozen(seeds=2, arms=("Vanilla", "MendABA"))
    with pytest.raises(ValueError, match="several arms .Vanilla, MendABA"):
        measured_group_table(frozen, rng(), strength=0.1)
    with pytest.raises(ValueError, match="no frozen results at strength 0.2; known: 0.1, 0.5"):
        measured_group_table(frozen, rng(), strength=0.2, arm="Vanilla")
    with pytest.raises(ValueError, match="unknown arm 'mend'"):
        measured_group_table(frozen, rng(), strength=0.1, arm="mend")
    with pytest.raises(ValueError, match="negative"):
        measured_group_table(frozen, rng(), strength=0.1, threshold=-1)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("value", ["loss_change", "accuracy", "class_score_change"])
def test_frozen_curves_draw_27_thin_lines_and_3_thick_ones(seeds, value):
    frozen = make_frozen(seeds, strengths=STRENGTHS)
    groups = curve_table(frozen, rng(), values=[value])
    ax = frozen_curves(frozen, groups, value=value)
    curves = [line for line in ax.lines if len(line.get_xdata()) == 3]
    assert len(curves) == 30
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "Epsilon",
        "Neutral",
        "Delta",
    ]
    ax.figure.canvas.draw()


def test_bands_are_the_intervals_of_the_table():
    frozen = make_frozen(3, strengths=STRENGTHS)
    groups = curve_table(frozen, rng(), values=["loss_change"])
    ax = frozen_curves(frozen, groups)
    bands = [band.get_paths()[0].vertices for band in ax.collections]
    for group, vertices in zip(Group, bands, strict=True):
        rows = groups[groups["group"] == group]
        assert rows["n_adjustments"].tolist() == [9, 9, 9]
        for row in rows.to_dict("records"):
            at = vertices[np.isclose(vertices[:, 0], row["strength"]), 1]
            assert at.min() == pytest.approx(row["loss_change_low"])
            assert at.max() == pytest.approx(row["loss_change_high"])
    means = frozen[frozen["strength"] == 0.2].groupby("adjustment")["loss_change"].mean()
    expected = statistics.mean_interval(means[list(members("Neutral"))], rng())
    row = groups[(groups["group"] == "Neutral") & (groups["strength"] == 0.2)].iloc[0]
    assert row["loss_change"] == pytest.approx(expected.estimate)
    width = row["loss_change_high"] - row["loss_change_low"]
    assert width == pytest.approx(expected.high - expected.low, rel=0.2)  # other resamples


def test_frozen_curves_check_their_choices():
    frozen = make_frozen(2)
    groups = curve_table(frozen, rng(), values=["loss_change"])
    with pytest.raises(ValueError, match="known: loss, accuracy"):
        frozen_curves(frozen, groups, value="losses")
    both = make_frozen(2, arms=("Vanilla", "MendABA"))
    groups = curve_table(both, rng(), values=["loss_change"])
    with pytest.raises(ValueError, match="several arms"):
        frozen_curves(both, groups)
    with pytest.raises(ValueError, match="unknown arm 'fast'"):
        frozen_curves(both, groups, arm="fast")
    frozen_curves(both, groups, arm="MendABA")


def test_measured_groups_are_those_of_the_models_trained_without_augmentation(tmp_path):
    """Whatever the arm is called."""
    study = standard("frozen", seeds=3)
    arms = [arm.renamed(f"number {i}") for i, arm in enumerate(study.arms)]
    make_study(tmp_path, study.model_copy(update={"arms": tuple(arms)}))
    result = load(tmp_path, "frozen", "digits")
    frame = result.frame.copy()  # of the other arm every change is turned round
    frame.loc[frame["arm"] == "number 1", "loss_change"] *= -1
    groups = measured_groups(replace(result, frame=frame))
    assert groups["Epsilon"] == [arm_name(i) for i in members("Epsilon")]


def test_sentences_tell_agreement_and_what_epsilon_does():
    table = measured_group_table(make_frozen(), rng(), strength=0.1, threshold=0.01)
    assert agreement_sentence("MendABA", table, 0.1) == (
        "MendABA: measured and nominal group agree for 27 of 27 adjustments (κ = 1.00) at "
        "strength 0.1."
    )
    one = measured_group_table(make_frozen(seeds=1), rng(), strength=0.1)
    assert agreement_sentence("A", one, 0.1).startswith("A: one run gives no interval")
    frozen = make_frozen(5, arms=("Vanilla", "MendABA", "other"))
    lost = np.where(frozen["arm"] == "Vanilla", 12.0, 10.0) + 0.1 * frozen["seed"]
    said = robustness_sentences(frozen.assign(accuracy_change=-lost), rng(), strength=0.1)
    assert said[0].startswith(
        "Change of accuracy under Epsilon at strength 0.1: MendABA is above Vanilla by 2.0 points ["
    )
    assert said[1].replace("other", "MendABA") == said[0]  # equal runs, equal interval
