"""Sets: which random sets are drawn, and what is measured of them."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from analysis import slopes
from analysis.hypothesis import Slope
from analysis.studies import sets


def test_random_sets_cross_size_with_opposition_and_hold_the_rest():
    drawn = sets.random_sets(12)
    assert drawn == sets.random_sets(12) and len(set(drawn)) == len(drawn) == 26 + 8 * 12
    frame = pd.DataFrame([sets.properties(members) for members in drawn])
    cells = frame.groupby(["size", "opposition"]).size()
    assert set(cells) == {26, 12} and len(cells) == 9
    assert not any(0 in members for members in drawn)
    assert (frame.loc[frame["size"] > 0, "direction"].abs() <= 0.5).all()
    correlation = frame.corr().loc[["size", "opposition"], ["direction", "offset", "norm"]]
    assert (correlation.abs() < 0.2).all(axis=None)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ((3,), dict(size=0, opposition=0, direction=1, offset=0, norm=math.sqrt(0.1))),
        ((3, 4), dict(size=1, opposition=1, direction=0, offset=0, norm=math.sqrt(0.1))),
        ((1, 3, 4, 19), dict(size=2, opposition=0.5, offset=0.5, direction=0.25 * 0)),
    ],
)
def test_properties_of_sets_counted_by_hand(members, expected):
    counted = sets.properties(members)
    for name, value in expected.items():
        assert counted[name] == pytest.approx(value)


def test_the_figure_has_the_interval_of_the_confidence_asked_for():
    table = pd.DataFrame({"size": 1.0, "opposition": 0.0, "accuracy": [90.0, 91.0, 93.0]})
    heights = []
    for confidence in (0.8, 0.95):
        ax = sets.sets_plot(table, confidence=confidence)
        heights.append(max(np.ptp(line.get_ydata()) for line in ax.lines))
        plt.close(ax.figure)
    assert heights[0] < heights[1] == pytest.approx(2 * 4.3027 * 1.5275 / math.sqrt(3), rel=1e-3)


def test_partial_effects_have_the_slopes_of_the_model_with_all_properties():
    rng = np.random.default_rng(0)
    covariates = {
        sets.set_name(members): sets.properties(members) for members in sets.random_sets(12)
    }
    frame = pd.DataFrame(covariates).T
    true = 0.4 * frame["size"] + 0.2 * frame["opposition"] + 3 * frame["norm"] ** 2
    runs = pd.DataFrame(
        {"arm": frame.index, "validation_accuracy": 90 + true + rng.normal(size=len(frame))}
    )
    names = list(frame.columns)
    whole = [np.ones(len(frame)), *(frame[name] for name in names)]
    whole += [frame[name] ** 2 for name in sets.HELD]
    fitted = np.linalg.lstsq(np.column_stack(whole), runs["validation_accuracy"].to_numpy())[0]
    tables = []
    for term in ("size", "opposition"):
        slope = Slope(label=term, term=term, covariates=covariates, squares=sets.HELD)
        left = slopes.adjusted(slope, runs, "validation_accuracy")
        expected = fitted[1 + names.index(term)]
        assert np.polyfit(left["property"], left["accuracy"], 1)[0] == pytest.approx(expected)
        tables.append(left.assign(term=term, opposition=frame["opposition"].to_numpy()))
    figure = sets.adjusted_panels(pd.concat(tables))
    lines = [ax.lines[3] for ax in figure.axes]
    drawn = [np.ptp(line.get_ydata()) / np.ptp(line.get_xdata()) for line in lines]
    assert drawn == pytest.approx([abs(fitted[1 + names.index(n)]) for n in ("size", "opposition")])
    plt.close(figure)
