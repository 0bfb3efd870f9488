"""Curves behind the cards of single models, as figures and as a table."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from analysis import card_curves, figures


def curves(shift: float = 0.0) -> dict[str, pd.DataFrame]:
    """Made curves of one model; a larger shift is a more confident one."""
    return {
        "reliability": pd.DataFrame(
            {"confidence": [60.0 + shift, 90.0], "accuracy": [50.0, 80.0], "samples": [10, 40]}
        ),
        "risk_coverage": pd.DataFrame({"coverage": [50.0, 100.0], "error": [0.0, 10.0 + shift]}),
        "attacks": pd.DataFrame({"epsilon": [0.0, 0.1], "accuracy": [90.0, 20.0 - shift]}),
        "margins": pd.DataFrame({"distance": [-1.0, 2.0], "share": [50.0, 100.0]}),
        "adjustments": pd.DataFrame(
            {"adjustment": ["[0, 0, 1]", "[1, 0, 0]"], "group": ["Epsilon", "Delta"],
             "el2n": [0.3 + shift, -0.1], "grand": [2.0, -1.0]}
        ),
    }  # fmt: skip


def test_every_curve_has_a_panel_and_every_model_a_line():
    figure = card_curves.curves_plot({"Vanilla": curves(), "MendABA": curves(5.0)})
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["Reliability", "Selective prediction", "PGD-20 in L∞",
                      "Distance to the boundary, first order"]  # fmt: skip
    reliability, risk, attacked, _ = figure.axes
    ends = [tuple(line.get_ydata()) for line in risk.lines]
    assert ends == [(0.0, 10.0), (0.0, 15.0)]
    assert [tuple(line.get_xdata()) for line in attacked.lines] == [(0.0, 0.1)] * 2
    marks = [line for line in reliability.lines if line.get_marker() in ("o", "s")]
    assert [tuple(line.get_xdata()) for line in marks] == [(60.0, 90.0), (65.0, 90.0)]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["Vanilla", "MendABA"]
    plt.close(figure)


def test_a_bins_interval_is_wilsons():
    figure = card_curves.curves_plot({"Vanilla": {"reliability": curves()["reliability"]}})
    (first, *_) = figure.axes[0].lines
    n, p, z = 10, 0.5, 1.959963984540054
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert first.get_ydata() == pytest.approx([100 * (middle - half), 100 * (middle + half)])
    plt.close(figure)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="no curves to draw; needed: any of reliability"):
        card_curves.curves_plot({"a": {}})
    with pytest.raises(ValueError, match="5 models; allowed: up to 4"):
        card_curves.curves_plot({str(n): curves() for n in range(5)})


@pytest.mark.parametrize("width", figures.WIDTHS)
def test_curves_that_a_card_lacks_leave_no_hole(width):
    with figures.style("paper"):
        only = {name: curves()[name] for name in ("attacks", "margins", "reliability")}
        figure = card_curves.curves_plot({"Vanilla": only}, width)
    assert sum(ax.axison for ax in figure.axes) == 3
    plt.close(figure)


def test_the_table_has_two_columns_a_model():
    table = card_curves.adjustments_table({"A": curves(), "B": curves(1.0), "C": {}})
    assert list(table.columns) == ["adjustment", "group", "EL2N, A", "GraNd, A", "EL2N, B",
                                   "GraNd, B"]  # fmt: skip
    assert table["EL2N, B"].tolist() == [1.3, -0.1]
    assert card_curves.adjustments_table({"C": {}}).empty
