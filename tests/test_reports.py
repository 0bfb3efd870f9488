"""Reports: parameters are checked before anything runs; a failing notebook harms nothing else."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from aba_core.installation import CHECKOUT
from analysis import reports
from analysis.reports import ReportError, jobs, pages
from analysis.results import SHIPPED, ResultsError


def write_notebook(folder: Path, name: str, parameters: str, *code: str) -> Path:
    """A notebook with a title, a parameters cell, and code cells."""
    cells = [new_markdown_cell(f"# Title of {name}"), new_code_cell(parameters)]
    cells[1].metadata["tags"] = ["parameters"]
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=[*cells, *map(new_code_cell, code)]), path)
    return path


def leftovers(folder: Path) -> list[str]:
    """Hidden names: what a half-finished write would leave."""
    return [path.name for path in folder.rglob(".*")]


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["02_isolation", "02", "2", "isolation", "notebooks"])
def test_a_notebook_is_found_by_name_number_title_and_path(name: str) -> None:
    path = reports.NOTEBOOKS / "02_isolation.ipynb"
    assert reports.find(path if name == "notebooks" else name) == path


def test_an_unknown_notebook_is_one_error_that_suggests_a_known_one() -> None:
    with pytest.raises(ReportError, match="unknown notebook '02_isolatoin' .*'02_isolation'"):
        reports.find("02_isolatoin")


def test_without_a_notebooks_folder_the_error_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("analysis.reports.parameters.NOTEBOOKS", tmp_path / "notebooks")
    with pytest.raises(ReportError, match="no notebooks in .*restore them from git"):
        reports.notebooks()


# --- parameters ----------------------------------------------------------------------------------


def test_parameters_have_defaults_types_and_help() -> None:
    known = reports.parameters_of("02_isolation")
    assert list(known)[:2] == ["results", "dataset"]
    assert known["confidence"].default == 0.95
    assert known["confidence"].type is float
    assert known["seed"].type is int
    assert "interval" in known["confidence"].help


def test_a_misspelt_parameter_is_an_error_before_anything_runs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ReportError) as caught:
        reports.execute("02", {"datset": "digits"}, out)
    assert str(caught.value).startswith(
        "unknown parameter 'datset' for 02_isolation (did you mean 'dataset'?); known: results, "
    )
    with pytest.raises(ReportError, match="unknown parameter 'datset' for 02_isolation, 03_"):
        reports.report(["02", "03"], {"datset": "digits"}, out)
    with pytest.raises(ReportError, match="unknown notebook '02_isolatoin' .did you mean '02_iso"):
        reports.report(["02_isolatoin"], {}, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("parameter", "value", "needed"),
    [
        ("seed", "five", "a whole number"),
        ("seed", 1.5, "a whole number"),
        ("seed", True, "a whole number"),
        ("confidence", "wide", "a number"),
        ("confidence", float("nan"), "a number"),
        ("confidence", 1.5, "between 0 and 1"),
        ("dataset", 5, "text"),
        ("dataset", "../digits", "data set's name"),
        ("metric", "accuracy", "validation_accuracy"),
        ("seed", -1, "whole numbers from 0"),
    ],
)
def test_an_ill_typed_value_is_one_clear_error(parameter: str, value: object, needed: str) -> None:
    said = rf"{parameter}.*( is .*| '{value}'; known: ){needed}"
    with pytest.raises(ReportError, match=said) as caught:
        reports.check_parameters("02_isolation", {parameter: value})
    assert "\n" not in str(caught.value)


def test_text_becomes_the_type_of_the_parameter(tmp_path: Path) -> None:
    path = write_notebook(tmp_path, "own", 'a = 1\nb = 0.5\nc = False\nd = "x"\n')
    given = {"a": "5", "b": "2", "c": "true", "d": "7"}
    assert reports.check_parameters(path, given) == {"a": 5, "b": 2.0, "c": True, "d": "7"}
    assert type(reports.check_parameters(path, {"b": 2})["b"]) is float


@pytest.mark.parametrize(
    "cell", ["a = [1]", "a = None", "a = 1 + b", "import os", "a, b = 1, 2", "a = = 1"]
)
def test_anything_but_plain_scalars_in_the_parameters_cell_is_refused(
    tmp_path: Path, cell: str
) -> None:
    with pytest.raises(ReportError, match="parameters cell of own.ipynb"):
        reports.parameters_of(write_notebook(tmp_path, "own", cell))


def test_one_parameters_cell_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "none.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("a = 1")]), path)
    with pytest.raises(ReportError, match="0 cells tagged 'parameters'"):
        reports.parameters_of(path)
    path.write_text("no notebook")
    with pytest.raises(ReportError, match="is not a notebook"):
        reports.parameters_of(path)


def test_wrong_formats_jobs_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="unknown format 'docx'; known: html, pdf, notebook"):
        reports.execute("02", {}, tmp_path, ["docx"])
    with pytest.raises(ReportError, match="jobs is 0"):
        reports.report(["02"], {}, tmp_path, jobs=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="cannot write reports to"):
        reports.execute("02", {}, tmp_path / "file")


def test_pdf_without_a_browser_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReportError, match="format pdf needs Chromium or Google Chrome"):
        reports.execute("02", {}, tmp_path, ["pdf"])


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium on the PATH")
def test_a_page_is_printed_as_pdf(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<h1>Printed</h1>", encoding="utf-8")
    pages.print_pdf(page, tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")


# --- execution -----------------------------------------------------------------------------------


def test_a_failing_notebook_keeps_its_copy_and_the_other_reports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, out = tmp_path / "notebooks", tmp_path / "out {0}"  # papermill reads braces in paths
    monkeypatch.setattr("analysis.reports.parameters.NOTEBOOKS", folder)
    parameters = 'dataset = "digits"\n'
    write_notebook(folder, "01_good", parameters + "times = 1\n", "print('good ' * times)")
    write_notebook(folder, "02_bad", parameters, "print('before')", "1 / 0", "print('after')")
    write_notebook(folder, "03_dead", parameters, "import os\nos._exit(3)")
    seen: list[str] = []
    given = {"times": 3, "dataset": "mine"}
    good, bad, dead = reports.report(
        [], given, out, jobs=3, progress=lambda outcome: seen.append(outcome.stem)
    )
    # What is not at its default is in the name; not so for a notebook that does not know it.
    assert sorted(seen) == ["01_good-mine-times=3", "02_bad-mine", "03_dead-mine"]

    assert (good.status, good.error) == ("finished", "")
    assert good.parameters == {"dataset": "mine", "times": 3}
    assert "good good good" in good.files[1].read_text()

    assert bad.status == "failed"
    assert bad.error == "cell In [4]: ZeroDivisionError: division by zero"
    copy = (out / "02_bad-mine.ipynb").read_text()
    assert "before" in copy and "ZeroDivisionError" in copy
    assert "not complete. cell In [4]: ZeroDivisionError" in (out / "02_bad-mine.html").read_text()

    assert dead.status == "failed"
    assert "DeadKernelError" in dead.error
    assert dead.files[0] == out / "03_dead-mine.ipynb"

    index = (out / "index.html").read_text()
    assert "Title of 01_good" in index
    assert "failed: cell In [4]: ZeroDivisionError: division by zero" in index

    # Each page has the way to the others; written again, they are not said twice.
    reports.write_index(out)
    way = '<a href="{}.html">{} Title of {}</a>'
    page = (out / "01_good-mine-times=3.html").read_text()
    assert f"All reports</a> · {way.format('02_bad-mine', '→', '02_bad')}<!-- /nav -->" in page
    page = (out / "02_bad-mine.html").read_text()
    assert page.count(way.format("01_good-mine-times%3D3", "←", "01_good (times 3)")) == 1
    assert page.count(way.format("03_dead-mine", "→", "03_dead")) == 1
    assert not leftovers(out)


def test_the_kernel_is_this_interpreter_whatever_kernels_are_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed = tmp_path / "jupyter" / "kernels" / "python3"
    installed.mkdir(parents=True)
    other = {"argv": ["/no/such/python", "{connection_file}"], "display_name": "", "language": "c"}
    (installed / "kernel.json").write_text(json.dumps(other))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("MPLBACKEND", "agg")
    names = ("OMP_NUM_THREADS", "MPLBACKEND")
    code = f"import os, sys\nprint(sys.executable, *(os.environ[n] for n in {names}))"
    path = write_notebook(tmp_path, "own", 'out = ""', code, "print('exports to', out)")
    outcome = reports.execute(path, {}, tmp_path / "reports", ["notebook"])
    assert outcome.error == ""
    copy = outcome.files[0].read_text()
    assert f"{sys.executable} 1 module://matplotlib_inline.backend_inline" in copy
    assert f"exports to {tmp_path / 'reports'}" in copy
    assert [path.name for path in outcome.files] == ["own.ipynb"]
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == ["own.ipynb"]


def test_an_earlier_page_does_not_survive_a_process_that_leaves_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write_notebook(tmp_path, "own", "a = 1")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "own.html").write_text("old")
    monkeypatch.setattr(reports.Processes, "run", lambda *_: (-9, "first\nKilled\n"))
    outcome = reports.execute(path, {}, tmp_path / "out", force=True)
    assert outcome.error == "the process of the notebook ended: Killed"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["own.ipynb"]
    assert not leftovers(tmp_path)


def test_an_interrupt_leaves_what_was_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stopped(processes: reports.Processes, *_: object) -> tuple[int, str]:
        processes.stop()
        return -15, ""

    path = write_notebook(tmp_path / "notebooks", "own", "a = 1")
    out = tmp_path / "out"
    out.mkdir()
    (out / "own.html").write_text("old")
    monkeypatch.setattr(reports.Processes, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        reports.report([path], {}, out, force=True)
    assert [file.name for file in out.rglob("*")] == ["own.html"]


# --- batches -------------------------------------------------------------------------------------

CELL = 'dataset = "digits"\nconfidence = 0.95\nseed = 0\nout = ""\n'


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two notebooks, the second without a seed; nothing is executed."""
    folder = tmp_path / "notebooks"
    monkeypatch.setattr("analysis.reports.parameters.NOTEBOOKS", folder)
    write_notebook(folder, "01_first", CELL)
    write_notebook(folder, "02_second", CELL.replace("seed = 0\n", ""))

    def run(_: reports.Processes, folder: str, runtime: str) -> tuple[int, str]:
        work = Path(folder)
        task = json.loads((work / "task.json").read_text())
        if task["values"]["confidence"] == 0.5:
            return 1, "broken"
        (work / "result.json").write_text('{"error": ""}')
        (work / "page.html").write_text("page")
        return 0, ""

    monkeypatch.setattr(reports.Processes, "run", run)
    return tmp_path / "out"


def test_a_grid_is_every_combination() -> None:
    assert reports.grid({}) == [{}]
    assert reports.grid({"a": [1, 2], "b": ["x"]}) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]
    with pytest.raises(ReportError, match="no values for a"):
        reports.grid({"a": []})


def test_names_of_a_batch_sort_and_hold_what_varies(two: Path) -> None:
    variants = reports.grid({"dataset": ["mnist", "digits"], "seed": ["9", "10", "100"]})
    counted: list[int] = []
    outcomes = reports.report(["01"], {}, two, variants=variants, started=counted.append)
    stems = [outcome.stem for outcome in outcomes]
    assert stems[0] == "01_first-mnist-seed=009" and len(set(stems)) == 6 == counted[0]
    digits = [stem for stem in stems if "digits" in stem]
    assert sorted(digits) == digits == [f"01_first-digits-seed={n}" for n in ("009", "010", "100")]
    own = json.loads((two / f"{stems[0]}.ipynb").read_text())["metadata"]["aba"]["parameters"]
    assert own["out"] == str(two / stems[0])  # or their figures would overwrite one another's
    index = (two / "index.html").read_text()
    assert "Title of 01_first (seed 009) (mnist)" in index  # of one title, each names its data set
    assert "Title of 01_first (seed 009) (digits)" in index


def test_a_notebook_runs_once_for_what_makes_no_difference_to_it(two: Path) -> None:
    outcomes = reports.report([], {}, two, variants=reports.grid({"seed": [1, 2]}))
    assert [outcome.stem for outcome in outcomes] == [
        "01_first-digits-seed=1",
        "01_first-digits-seed=2",
        "02_second-digits",
    ]
    assert outcomes[0].given == {"seed": 1}
    with pytest.raises(ReportError, match="unknown parameter 'sede' for 01_first, 02_second"):
        reports.report([], {}, two, variants=[{"sede": 1}])
    with pytest.raises(ReportError, match="confidence is 2.0; allowed"):
        reports.report([], {}, two, variants=[{"confidence": 0.9}, {"confidence": 2}])


def test_usual_parameters_are_for_the_notebooks_that_know_them(two: Path) -> None:
    outcomes = reports.report([], {}, two, usual={"seed": 5, "results": "r"})
    assert [outcome.parameters.get("seed") for outcome in outcomes] == [5, None]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.9, 0.95], ["0.90", "0.95"]),
        ([0.05, 2.0, 10.0], ["00.05", "02.00", "10.00"]),
        ([1e-05, 1.0], ["0.00001", "1.00000"]),
        ([5, 10], ["05", "10"]),
        ([True, False], ["true", "false"]),
        (["a/b", "a b", ""], ["a-b", "a-b-2", "none"]),
    ],
)
def test_values_become_parts_of_file_names(values: list, texts: list[str]) -> None:
    assert list(jobs.file_name_parts(values).values()) == texts


def test_reports_of_different_parameters_stand_side_by_side(two: Path) -> None:
    reports.report([], {}, two)
    reports.report(["01"], {"confidence": 0.9}, two)
    reports.report(["01"], {"seed": 1, "confidence": 0.9}, two)
    (outcome,) = reports.report(["01"], {"confidence": 0.9, "seed": 1}, two)  # renewed
    assert outcome.stem == "01_first-digits-confidence=0.9-seed=1"
    assert sorted(path.stem for path in two.glob("0*.ipynb")) == [
        "01_first-digits",
        "01_first-digits-confidence=0.9",
        "01_first-digits-confidence=0.9-seed=1",
        "02_second-digits",
    ]
    assert outcome.parameters["out"] == str(two / outcome.stem)
    index = (two / "index.html").read_text()
    assert "Title of 01_first</a>" in index
    assert "Title of 01_first (confidence 0.9, seed 1)" in index
    # A batch of one value has its own name for it, and what is set for all of it comes first.
    (outcome,) = reports.report(
        ["01"], {"seed": 1}, two, variants=reports.grid({"confidence": [0.9]})
    )
    assert outcome.stem == "01_first-digits-seed=1-confidence=0.9"


def test_what_is_usual_or_the_default_is_not_in_the_name(two: Path) -> None:
    given = {"confidence": 0.95, "dataset": "mnist"}
    assert [one.stem for one in reports.report(["01"], given, two)] == ["01_first-mnist"]
    assert reports.execute("01", {"seed": 0}, two).stem == "01_first-digits"
    assert reports.execute("01", {"seed": 7}, two).stem == "01_first-digits-seed=7"
    usual = {"confidence": 0.9}
    (outcome,) = reports.report(["01"], {"seed": 7}, two, usual=usual, force=True)
    assert outcome.stem == "01_first-digits-seed=7"
    (outcome,) = reports.report(["01"], {"confidence": 0.95}, two, usual=usual)
    assert outcome.stem == "01_first-digits-confidence=0.95"


def test_the_front_page_has_the_first_answers_and_leaves_out_a_wall_of_them() -> None:
    assert pages._shortly(["a" * 300, "b" * 290, "c" * 140]) == ["a" * 300, "b" * 290]
    assert pages._shortly(["a" * 900, "b"]) == ["a" * 900]
    assert pages._shortly([]) == []


def test_the_same_report_is_renewed_and_another_one_is_not_replaced(
    two: Path, tmp_path: Path
) -> None:
    write_notebook(tmp_path / "notebooks", "01_first", CELL + 'results = "results"\n')
    first, second = tmp_path / "first", tmp_path / "second"
    reports.report(["01"], {"results": first}, two)
    reports.report(["01"], {"results": first}, two)
    with pytest.raises(ReportError) as caught:
        reports.report([], {"results": second}, two)
    assert str(caught.value) == (
        f"{two / '01_first-digits.ipynb'} is there already, made with results = {first}; "
        "--force replaces, another --out keeps"
    )
    assert not (two / "02_second-digits.ipynb").exists()  # nothing ran
    reports.report([], {"results": second}, two, force=True)
    (two / "02_second-digits.ipynb").write_text("{}")
    with pytest.raises(ReportError, match="02_second.*not made by aba report"):
        reports.report([], {"results": second}, two)


def test_a_report_of_the_shipped_results_gives_way_to_one_of_other_results(
    two: Path, tmp_path: Path
) -> None:
    """As the demo makes them of studies that it does not train."""
    write_notebook(tmp_path / "notebooks", "01_first", CELL + 'results = "results"\n')
    reports.report(["01"], {"results": SHIPPED}, two)
    reports.report(["01"], {"results": tmp_path / "own"}, two)
    with pytest.raises(ReportError, match="is there already, made with results = "):
        reports.report(["01"], {"results": SHIPPED}, two)


def test_two_notebooks_of_one_name_are_refused(two: Path, tmp_path: Path) -> None:
    paths = [write_notebook(tmp_path / folder, "own", CELL) for folder in ("a", "b")]
    with pytest.raises(ReportError, match="two notebooks would write own-digits"):
        reports.report(paths, {}, two)


def test_a_failure_keeps_the_others_of_a_batch(two: Path) -> None:
    outcomes = reports.report(["01"], {}, two, variants=reports.grid({"confidence": [0.5, 0.9]}))
    assert [outcome.status for outcome in outcomes] == ["failed", "finished"]
    assert (two / "01_first-digits-confidence=0.9.html").is_file()


def test_parameters_are_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "batch.yaml"
    path.write_text("dataset: [digits, mnist]\nconfidence: 0.9\n")
    assert reports.read_parameters(path) == (
        {"confidence": 0.9},
        [{"dataset": "digits"}, {"dataset": "mnist"}],
    )
    path.write_text("- {dataset: digits, seed: 1}\n- {dataset: mnist}\n")
    assert reports.read_parameters(path)[1] == [
        {"dataset": "digits", "seed": 1},
        {"dataset": "mnist"},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {b: 1}", "a is {'b': 1}; needed: text, a number"),
        ("a: []", r"a is \[\]; needed"),
        ("- {a: [1]}", r"a of entry 1 is \[1\]"),
        ("", "is empty; needed: lines name: value"),
        ("5", "holds '5'; needed: lines name: value"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_wrong_yaml_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "batch.yaml"
    path.write_text(text)
    with pytest.raises(ReportError, match=message) as caught:
        reports.read_parameters(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ReportError, match="cannot read parameters"):
        reports.read_parameters(tmp_path / "none.yaml")


# --- what notebooks use --------------------------------------------------------------------------


def test_a_page_checks_values_and_places_paths_in_the_repository() -> None:
    page = reports.page(results="data/results", dataset="digits", out="", seed=3, strength=0.5)
    assert page.results == CHECKOUT / "data" / "results"
    assert page.out is None
    assert page.rng().random() == page.rng().random() == np.random.default_rng(3).random()
    for name, value in (("strength", -1.0), ("confidence", "0.9"), ("steps", 0)):
        with pytest.raises(ReportError, match=f"{name} is"):
            reports.page(dataset="digits", **{name: value})


def test_results_given_are_relative_to_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    job = jobs.make_job("02", {"results": "mine"}, tmp_path, ("html",))
    assert job.parameters["results"] == os.path.join(tmp_path, "mine")


# --- results that are not there ------------------------------------------------------------------


@pytest.fixture
def usual_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The repository's results folder, without a study."""
    monkeypatch.setattr("analysis.reports.notebook.CHECKOUT", tmp_path)
    return tmp_path / "results"


def test_where_the_usual_folder_lacks_a_study_the_shipped_results_are_shown(
    usual_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = reports.page(results="results", dataset="digits", preset="")
    assert page.load_if_there("hypotheses") is None  # what a page can do without is not replaced
    study = page.load("hypotheses")
    assert len(study.frame) and page.results == SHIPPED
    shown: list[str] = []
    page = reports.page(results="results", dataset="digits", preset="")
    page._show = lambda text, kind="": shown.append(text)  # type: ignore[method-assign]
    page.load("hypotheses")
    assert shown[0] == ("No hypotheses study on digits in results/: these are the shipped results.")
    # What is loaded after it is of the same results.
    sets = page.load_if_there("sets")
    assert sets is not None and sets.declaration.path is not None
    assert SHIPPED in sets.declaration.path.parents


def test_results_that_somebody_named_are_not_replaced(usual_folder: Path, tmp_path: Path) -> None:
    for given in (str(usual_folder), "other", str(tmp_path / "mine")):
        page = reports.page(results=given, dataset="digits")
        with pytest.raises(ResultsError, match="no hypotheses study on digits in .*; run: aba run"):
            page.load("hypotheses")


def test_a_study_that_a_page_can_do_without_is_said_to_be_lacking(usual_folder: Path) -> None:
    page = reports.page(results="results", dataset="digits")
    shown: list[str] = []
    page._show = lambda text, kind="": shown.append(text)  # type: ignore[method-assign]
    assert page.load_if_there("frozen") is None and shown == []
    assert page.load_if_there("frozen", otherwise="Not compared") is None
    assert shown[0].startswith("Not compared: no frozen study on digits in ")


def test_what_is_not_shipped_either_is_told_of_the_usual_folder(usual_folder: Path) -> None:
    page = reports.page(results="results", dataset="nowhere")
    with pytest.raises(ResultsError, match=f"on nowhere in {usual_folder}; there: nothing"):
        page.load("hypotheses")


def test_a_page_with_a_study_takes_no_other_from_the_shipped_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("analysis.reports.notebook.CHECKOUT", tmp_path)
    shutil.copytree(SHIPPED, tmp_path / "results")
    for declared in (tmp_path / "results" / "studies").glob("sets*digits*"):
        declared.unlink()
    page = reports.page(results="results", dataset="digits")
    page.load("hypotheses")
    with pytest.raises(ResultsError, match="no sets study on digits"):
        page.load("sets")


# --- the server of a batch -----------------------------------------------------------------------

FORKS = pytest.mark.skipif(sys.platform != "linux", reason="notebooks are forked on Linux alone")


@FORKS
def test_notebooks_of_a_batch_share_imports_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, out = tmp_path / "notebooks", tmp_path / "out"
    monkeypatch.setattr("analysis.reports.parameters.NOTEBOOKS", folder)
    code = (
        "import os, sys, random, psutil\n"
        "there = {'papermill', 'scipy.stats', 'matplotlib.pyplot'} <= set(sys.modules)\n"
        "import matplotlib, scipy.stats\n"
        "print('imported before', there, 'marked', hasattr(scipy.stats, 'mark'))\n"
        "print('title size', matplotlib.rcParams['axes.titlesize'])\n"
        "print('folder', os.path.basename(os.environ['IPYTHONDIR']), 'draw', random.random())\n"
        "print('grandparent', psutil.Process().parent().ppid())\n"
        "scipy.stats.mark = 1; matplotlib.rcParams['axes.titlesize'] = 77"
    )
    for name in ("01_one", "02_two"):
        write_notebook(folder, name, "a = 1", code)
    texts = []
    for outcome in reports.report([], {}, out, ("notebook",), jobs=1):
        assert outcome.error == ""
        cells = json.loads(outcome.files[0].read_text())["cells"]
        texts.append(
            "".join(line for cell in cells for o in cell.get("outputs", ()) for line in o["text"])
        )
    one, two = ([line.split() for line in text.splitlines()] for text in texts)
    assert one[0] == two[0] == "imported before True marked False".split()
    assert one[1] == two[1] and "77" not in one[1]
    assert one[2][1] != two[2][1] and one[2][3] != two[2][3]
    assert one[3] == two[3]  # the server
    # A single notebook is not worth a server.
    outcome = reports.execute("01_one", {}, out, ("notebook",), force=True)
    assert "imported before False" in outcome.files[0].read_text()


@FORKS
def test_a_caller_that_is_killed_leaves_no_notebook_running(tmp_path: Path) -> None:
    for name in ("01_one", "02_two"):
        write_notebook(tmp_path, name, "a = 1", "import time\ntime.sleep(600)")
    names = [str(tmp_path / f"{name}.ipynb") for name in ("01_one", "02_two")]
    out = str(tmp_path / "out")
    command = f"from analysis import reports\nreports.report({names}, {{}}, {out!r})"
    process = subprocess.Popen([sys.executable, "-c", command], cwd=CHECKOUT)
    caller = psutil.Process(process.pid)
    # The server, and of each notebook its process and its kernel.
    while len(children := caller.children(recursive=True)) < 5 and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert len(children) == 5 and not alive


@FORKS
def test_a_server_that_dies_is_said_and_not_waited_for(tmp_path: Path) -> None:
    path = write_notebook(tmp_path, "own", "a = 1", "import os\nos.kill(os.getppid(), 9)")
    with reports.Processes(warm=True) as processes:
        server = processes.warm_up()
        assert server is not None
        server._process.kill()
        (outcome,) = reports.report([path], {}, tmp_path / "out", processes=processes)
    assert outcome.error == "the process of the notebook ended: the server of notebooks ended"
