"""Axioms: each map keeps and breaks those that theory says, and the page shows what is measured."""

import csv
import io
import math
import re
from fractions import Fraction
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aba_core import axioms
from aba_core.attribution import MAPS, Attribution
from analysis.cli import app
from analysis.cli.looking_up import AXIOMS_FROM, AXIOMS_TO

PAGE = Path(__file__).parents[1] / "docs" / "attributions.md"
INVARIANT = ("invariance, folded norm", "invariance, split layer")


@pytest.fixture(scope="module")
def table():
    return axioms.table()


def breaking(table, axiom: str, least: float = 0.01) -> set[str]:
    """Maps that break the axiom by more than this."""
    return {name for name, values in table.items() if values[axiom] > least}


def test_axioms_hold_and_fail_as_is_known_of_each_map(table):
    gradients = {"gradient", "gradient_x_input", "smoothgrad", "smoothgrad_x_input"}
    paths = {name for name in table if name.startswith("integrated_gradients")}
    unsigned = {name for name in table if name.startswith("absolute") or name == "vargrad"}
    # Completeness: paths alone, up to the number of points; and products where biases are 0.
    complete = set(table) - breaking(table, "completeness", 0.1)
    assert complete == paths
    without = set(table) - breaking(table, "completeness, no biases", 0.1)
    assert without == paths | {"gradient_x_input", "lrp, rule zero", "lrp_epsilon", "lrp_gamma"} | {
        "lrp_composite"
    }
    # A saturated score: gradients are blind to it, paths and occlusion see it.
    blind = breaking(table, "sensitivity", 0.99)
    assert gradients | {"lrp_epsilon", "lrp, rule zero", "guided_backpropagation"} <= blind
    seeing = {"integrated_gradients", "occlusion", "absolute_integrated_gradients"}
    assert all(table[name]["sensitivity"] == 0 for name in seeing)
    # Whatever is made of the function alone does not know how it is computed.
    for axiom in INVARIANT:
        of_function = gradients | paths | unsigned | {"expected_gradients", "occlusion"}
        assert all(table[name][axiom] == 0 for name in of_function)
        assert {"lrp_gamma", "lrp_z_plus", "lrp_alpha_beta"} <= breaking(table, axiom)
    assert {"grad_cam", "norm_grad"} <= breaking(table, "invariance, folded norm")
    # Linear: gradients, paths, occlusion and LRP-0.
    linear = gradients | paths | {"expected_gradients", "occlusion", "lrp, rule zero"}
    assert all(table[name]["linearity"] == 0 for name in linear)
    nonlinear = unsigned | {"guided_backpropagation", "deconvnet", "lrp_z_plus", "grad_cam"}
    assert nonlinear <= breaking(table, "linearity")
    # Symmetry and dummies: noise and blurring tell pixels apart, CAMs spread to dummies.
    assert {"smoothgrad", "vargrad", "integrated_gradients, baseline blurred"} <= breaking(
        table, "symmetry"
    )
    pixelwise = gradients | paths | unsigned | {"lrp_epsilon", "lrp_gamma"}
    exact = pixelwise - {"integrated_gradients, baseline blurred"}
    assert all(table[name]["dummy"] == 0 for name in exact) and "grad_cam" in breaking(
        table, "dummy"
    )
    # An input that moves: gradients do not see it, nor do baselines that move with it.
    steady = {"gradient", "smoothgrad", "vargrad", "grad_cam", "expected_gradients"}
    steady |= paths - {"integrated_gradients"}
    assert all(table[name]["input shift"] == 0 for name in steady)
    moving = {"gradient_x_input", "integrated_gradients", "lrp, rule zero", "occlusion"}
    assert moving <= breaking(table, "input shift")


def test_every_map_has_a_row_and_every_axiom_is_broken_and_kept_by_some_map(table):
    assert set(MAPS) <= set(table)
    for axiom in axioms.AXIOMS:
        values = [row[axiom] for row in table.values()]
        assert min(v for v in values if not math.isnan(v)) < 0.01 < max(values)


def test_the_page_shows_what_is_measured(table):
    text = PAGE.read_text(encoding="utf-8")
    shown = text.partition(AXIOMS_FROM)[2].partition(AXIOMS_TO)[0].strip().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown]
    assert rows[0] == ["map", *axioms.AXIOMS]
    assert [row[0] for row in rows[2:]] == list(table)
    for name, *cells in rows[2:]:
        for cell, value in zip(cells, table[name].values(), strict=True):
            written = math.nan if cell == "–" else float(cell)
            # Violations near rounding differ from one processor to the next.
            assert written == pytest.approx(value, rel=0.06, abs=1e-5, nan_ok=True), name


def test_every_map_is_on_the_page_with_its_cost():
    text = PAGE.read_text(encoding="utf-8")
    for name, info in MAPS.items():
        row = re.search(rf"^\|[^|]*`{name}`[^|]*\|.*$", text, flags=re.M)
        assert row, name
        costs = re.findall(r"\| (?:.*: )?(n \+ \d|\d+(?:/\d)?|as that map) (?=\|)", row[0])
        assert len(costs) == 1, name
        if costs[0] != "as that map":
            cost = sum(7 if part == "n" else Fraction(part) for part in costs[0].split(" + "))
            assert float(cost) == pytest.approx(info.passes(Attribution(name, samples=7))), name


def test_the_command_prints_the_table(table, monkeypatch):
    monkeypatch.setattr(axioms, "table", lambda: table)
    done = CliRunner().invoke(app, ["axioms", "--csv"])
    rows = list(csv.reader(io.StringIO(done.output)))
    assert rows[0] == ["map", *axioms.AXIOMS] and [row[0] for row in rows[1:]] == list(table)
    shown = CliRunner().invoke(app, ["axioms"]).output
    assert all(name in shown for name in table)


def test_the_command_writes_a_page_and_leaves_the_rest_of_it(table, monkeypatch, tmp_path):
    monkeypatch.setattr(axioms, "table", lambda: table)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{AXIOMS_FROM}\nstale\n{AXIOMS_TO}\nafter\n", encoding="utf-8")
    assert CliRunner().invoke(app, ["axioms", "--page", str(page)]).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "stale" not in text
    assert "| vargrad |" in text and list(tmp_path.iterdir()) == [page]
    page.write_text("no place\n", encoding="utf-8")
    done = CliRunner().invoke(app, ["axioms", "--page", str(page)])
    assert done.exit_code == 2 and "has no place for the table" in done.output
    assert page.read_text(encoding="utf-8") == "no place\n"
