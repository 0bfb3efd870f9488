"""The committed notebooks are clean, and run headlessly on small real results."""

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from aba_core.aspects import CardSettings
from analysis import reports, runner, toolkit_version
from analysis.reference import PUBLISHED
from analysis.reports import Outcome
from analysis.studies import card, standard_study
from analysis.study import settings_of

NAMES = reports.notebooks()
FIGURES = {
    "00_claims": {"claims"},
    "01_adjustments": {"one-sample", "all-adjustments", "measured-groups", "explorer", "all-maps"},
    "02_isolation": {"isolation", "groups", "isolation-square"},
    "03_variety_and_tension": {"hypothesis"},
    "04_frozen": {"frozen", "measured-groups-vanilla", "measured-groups-mendaba"},
    "05_published": {f"published-{name}" for name in PUBLISHED.values()},
    "06_hypotheses": {"verdicts", "sets-sizes", "sets-adjusted"}
    | {
        f"verdict-{one.name}"
        for one in standard_study("hypotheses").hypotheses
        # Groups as a model of one epoch sorts them are too small to be compared.
        if len(one.comparisons) > 1 and one.name != "group-order-measured"
    },
    "08_variability": {"variability", "variability-disagreement"},
    "07_mechanism": {
        f"mechanism-{name}"
        for name in "cosines coherence violations curvature first-layer mediation".split()
    },
    "09_your_own": {"own-forest", "own-isolation", "own-measured-groups"},
    "10_comparators": {"comparators", "comparators-best", "comparators-cost"},
    "11_attributions": {"attributions"},
    "12_report_card": {
        "card",
        "card-calibration",
        "card-attacks",
        "card-curves",
        "spectrum",
        "planes",
    },
    "13_any_study": {"hypothesis"},
}
TABLES = {
    "00_claims": {"claims", "claims-open"},
    "01_adjustments": {"adjustments", "measured-groups"},
    "02_isolation": {"isolation", "groups", "association", "published-order"},
    "03_variety_and_tension": {"hypothesis", "hypothesis-best", "published-differences"},
    "04_frozen": {"frozen-groups", "measured-groups-vanilla", "measured-groups-mendaba"},
    "05_published": {
        f"published-{name}" for name in ("settings", "agreement", "groups", "sets", "large")
    },
    "06_hypotheses": {"verdicts", "comparisons", "sets-mixed-model"},
    "08_variability": {f"variability{x}" for x in ("", "-pairs", "-reduction")}
    | {"variability-linear", "variability-linear-pairs"},
    "07_mechanism": {
        f"mechanism-{name}" for name in ("gradients", "violations", "curvature", "mediation")
    },
    "09_your_own": {"own-arms", "own-groups"},
    "10_comparators": {"comparators", "comparators-verdicts"},
    # The study of their quality is shown too where there is one; it takes longer to train.
    "11_attributions": {"attributions", "attributions-verdicts"},
    "12_report_card": {"card", "card-long", "card-all", "card-cost", "card-adjustments"},
    "13_any_study": {"hypothesis", "hypothesis-best", "published-differences"},
}
# The studies that notebooks read.
STUDIES = (
    *("isolation", "tension", "frozen", "hypotheses", "sets"),
    *("mechanism", "variability", "variability-linear", "attributions", "comparators"),
)
# Of the hundred arms of that study, and not tuned.
COMPARED = {
    *("Vanilla", "All", "Challenger", "MendABA", "FastABA", "FastABA-CE"),
    *("Mixup", "Mixup, with All", "SAM"),
}
# These take no data set by name: what they export is named for their own data, or for all.
NAMED = {"00_claims": "all", "09_your_own": "own"}


def stem(name: str) -> str:
    """What a notebook's report is called when all are run with the default data set."""
    return name if name in NAMED else f"{name}-digits"


def shown(stem: str) -> str:
    """The name that a figure or table was exported under, without the data set's."""
    bare = stem.removesuffix("-digits")
    return bare if bare != stem else stem.removesuffix("-own").removesuffix("-all")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def outputs(outcome: Outcome) -> list[dict[str, Any]]:
    return [out for cell in read(outcome.files[0])["cells"] for out in cell.get("outputs", [])]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The studies that notebooks read, of two seeds and one epoch, really trained."""
    folder = tmp_path_factory.mktemp("results")
    for name in STUDIES:
        study = standard_study(name, "digits", "quick")
        # What is judged within subsets needs three of them.
        seeds = (0, 1, 2) if study.hypotheses else (0, 1)
        changes: dict[str, Any] = {"config": {**study.config, "epochs": 1}, "seeds": seeds}
        # None has more but those that are to differ by it.
        changes["arms"] = tuple(
            replace(a, config={"epochs": 2} if a.config else ()) for a in study.arms
        )
        if name == "comparators":
            changes["arms"] = tuple(arm for arm in study.arms if arm.name in COMPARED)
            changes["hypotheses"] = tuple(h for h in study.hypotheses if h.arms <= COMPARED)
            changes["tuning"] = None
        if study.frozen:
            few = study.frozen.model_copy(update={"strengths": (0.0, 0.3, 1.0)})
            changes["frozen"] = few
        runner.run(study.model_copy(update=changes), folder, device="cpu", processes=1)
    few_aspects = CardSettings(("calibration", "attacks"), samples=20, attacked=10, long_steps=20)
    asked = card.declare(settings_of("digits", "quick"), ["mixup"], few_aspects)
    config = {**asked.config, "epochs": 1}
    asked = asked.model_copy(update={"config": config, "seeds": (0, 1, 2), "tuning": None})
    runner.run(asked, folder, device="cpu", processes=1)
    return folder


@pytest.fixture(scope="module")
def reported(
    results: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Outcome]]:
    """All notebooks, executed once: the out folder, and the outcomes by name."""
    out = tmp_path_factory.mktemp("reports")
    usual = {"results": str(results), "confidence": 0.9, "steps": 5}  # not in the files' names
    outcomes = reports.report([], {}, out, jobs=2, usual=usual)
    return out, {outcome.notebook: outcome for outcome in outcomes}


# --- as committed --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_notebook_is_clean(name: str) -> None:
    notebook = read(reports.find(name))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    identifiers = [cell["id"] for cell in notebook["cells"]]
    assert len(set(identifiers)) == len(identifiers)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for cell in code:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        source = "".join(cell["source"])
        assert not re.search(r"^\s*[%!]|get_ipython", source, re.MULTILINE)
    assert notebook["cells"][0]["source"][0].startswith("# ")
    assert notebook["cells"][0]["source"][0].strip().endswith("?")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_short(name: str) -> None:
    """What takes more code than this belongs in the package, where it is tested and typed."""
    lines = [
        line
        for cell in read(reports.find(name))["cells"]
        if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", ())
        for line in "".join(cell["source"]).splitlines()
        if line.strip() and not line.strip().startswith("#")
    ]
    assert len(lines) <= 40


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_one_parameters_cell_that_its_page_checks(name: str) -> None:
    parameters = reports.parameters_of(name)
    needed = set() if name in NAMED else {"results", "dataset", "preset"}
    assert needed | {"confidence", "seed", "out"} <= set(parameters)
    assert parameters["out"].default == ""
    assert all(parameter.help for parameter in parameters.values())
    defaults = {parameter.name: parameter.default for parameter in parameters.values()}
    reports.page(**{"dataset": "own", **defaults})
    setup = "".join(read(reports.find(name))["cells"][2]["source"])
    for parameter in parameters:
        assert f"{parameter}={parameter}" in setup


# --- executed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_without_errors_or_warnings(
    reported: tuple[Path, dict[str, Outcome]], name: str
) -> None:
    outcome = reported[1][name]
    assert outcome.error == ""
    assert outcome.status == "finished"
    assert [path.name for path in outcome.files] == [f"{stem(name)}.ipynb", f"{stem(name)}.html"]
    assert outcome.parameters["confidence"] == 0.9
    displayed = outputs(outcome)
    kinds = {out["output_type"] for out in displayed}
    assert kinds == {"display_data"}  # nothing printed, no warning
    pictures = [out for out in displayed if "image/png" in out["data"]]
    assert len(pictures) == len(FIGURES[name])
    assert all(out["metadata"]["image/png"]["alt"] for out in pictures)
    assert any("answer" in out["metadata"].get("aba", {}) for out in displayed)
    # Each picture has its caption below, in the notebook and in the page.
    below = [after for out, after in zip(displayed, displayed[1:], strict=False) if out in pictures]
    captions = [out["metadata"]["aba"]["caption"] for out in below]
    page = outcome.files[1].read_text()
    assert page.count('<p class="caption">') == len(captions) == len(pictures)
    assert all(f"{caption}</p>" in html.unescape(page) for caption in captions)


@pytest.mark.parametrize("name", NAMES)
def test_figures_and_tables_are_exported(
    reported: tuple[Path, dict[str, Outcome]], name: str
) -> None:
    out, _ = reported
    dataset = NAMED.get(name, "digits")
    for figure in FIGURES[name]:
        for ending in ("pdf", "svg", "png"):
            assert (out / "figures" / f"{figure}-{dataset}.{ending}").stat().st_size > 1000
    for table in TABLES[name]:
        for ending in ("csv", "tex"):
            assert (out / "tables" / f"{table}-{dataset}.{ending}").stat().st_size > 100


def test_nothing_else_is_left_in_the_folder(reported: tuple[Path, dict[str, Outcome]]) -> None:
    out, _ = reported
    stems = {name for names in FIGURES.values() for name in names}
    assert {shown(path.stem) for path in (out / "figures").iterdir()} == stems
    stems = {name for names in TABLES.values() for name in names}
    assert {shown(path.stem) for path in (out / "tables").iterdir()} == stems
    assert not list(out.rglob(".*"))


class References(HTMLParser):
    """What a browser would fetch to show a page, and where its links go."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.scripts += tag == "script"
        self.fetched += [given[name] for name in ("src", "srcset", "data") if name in given]
        if tag == "link":
            self.fetched.append(given.get("href", ""))
        elif "href" in given:
            self.links.append(given["href"])


@pytest.mark.parametrize("name", [*NAMES, "index"])
def test_a_page_stands_alone(reported: tuple[Path, dict[str, Outcome]], name: str) -> None:
    out, _ = reported
    text = (out / (f"{stem(name)}.html" if name in NAMES else "index.html")).read_text()
    references = References(text)
    assert all(reference.startswith("data:image/png;base64,") for reference in references.fetched)
    assert references.scripts == 0
    assert not re.search(r"@import|url\(", text)
    if name in NAMES:
        assert len(references.fetched) == len(FIGURES[name])
        assert "index.html" in references.links  # the way back
        # The code is there, behind the switch.
        assert 'id="show-code"' in text and "reports" in text


def test_the_index_links_every_report_and_says_what_was_found(
    reported: tuple[Path, dict[str, Outcome]],
) -> None:
    out, outcomes = reported
    text = (out / "index.html").read_text()
    links = References(text).links
    assert all((out / link).exists() for link in links)
    assert {f"{outcome.stem}.html" for outcome in outcomes.values()} <= set(links)
    assert "54 of 54 runs, 2 seeds" in text
    assert "Epsilon" in text and "Variety" in text and 'class="failed"' not in text
    assert f"aba-toolkit {toolkit_version()}" in text


def test_missing_results_say_the_command_to_run(tmp_path: Path) -> None:
    outcome = reports.execute("02", {"results": tmp_path / "none"}, tmp_path, ["notebook"])
    assert outcome.status == "failed"
    assert outcome.error.startswith("no isolation study on digits")
    assert "run: aba run isolation --dataset digits" in outcome.error


def test_without_a_frozen_study_groups_are_measured_on_the_spot(tmp_path: Path) -> None:
    given = {"results": tmp_path / "none", "steps": 3, "models": 2}
    outcome = reports.execute("01", given, tmp_path)
    assert outcome.error == ""
    assert "2 models trained here" in outcome.files[1].read_text()


def test_run_by_hand_on_a_users_empty_folder_the_shipped_results_are_shown(
    tmp_path: Path,
) -> None:
    """As in JupyterLab: the parameters cell as committed, and no results in the usual folder."""
    notebook = read(reports.find("08"))
    setup = notebook["cells"][2]["source"]
    place = next(number for number, line in enumerate(setup) if line.startswith("page = "))
    aside = f"from pathlib import Path\nreports.notebook.CHECKOUT = Path({str(tmp_path)!r})\n"
    setup.insert(place, aside)
    own = tmp_path / "08_variability.ipynb"
    own.write_text(json.dumps(notebook))
    outcome = reports.execute(own, {}, tmp_path / "reports")
    assert outcome.error == ""
    page = outcome.files[1].read_text()
    assert "No variability study on digits in results/: these are the shipped results." in page
    assert page.count("these are the shipped results") == 1


@pytest.mark.parametrize(
    "name", ["11", *(pytest.param(one, marks=pytest.mark.slow) for one in ("10", "12"))]
)
def test_aba_report_on_a_users_empty_folder_shows_the_shipped_results(
    tmp_path: Path, name: str
) -> None:
    """As `aba report` does without --results."""
    usual = {"results": str(tmp_path / "results"), "dataset": "digits"}
    (outcome,) = reports.report([name], {}, tmp_path / "reports", usual=usual, or_shipped=True)
    assert outcome.error == ""
    page = outcome.files[1].read_text()
    assert page.count("study on digits in results/: these are the shipped results.") == 1
    (refused,) = reports.report([name], {}, tmp_path / "reports", usual=usual)
    assert refused.error.startswith("no ")


def test_results_that_somebody_named_must_have_the_study(tmp_path: Path) -> None:
    outcome = reports.execute("08", {"results": tmp_path / "none"}, tmp_path, ["notebook"])
    assert outcome.error.startswith("no variability study on digits")
