"""Reports: parameters are checked before anything runs; a failing notebook harms nothing else."""

import json
import os
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from analysis import reports
from analysis.reports import ReportError


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
    monkeypatch.setattr(reports, "NOTEBOOKS", tmp_path / "notebooks")
    with pytest.raises(ReportError, match="no notebooks in .*checkout"):
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
    assert not out.exists() or not list(out.iterdir())


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
    with pytest.raises(ReportError, match=rf"{parameter}.* is .*{needed}") as caught:
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
    monkeypatch.setattr(reports.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ReportError, match="format pdf needs playwright"):
        reports.execute("02", {}, tmp_path, ["pdf"])


# --- execution -----------------------------------------------------------------------------------


def test_a_failing_notebook_keeps_its_copy_and_the_other_reports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, out = tmp_path / "notebooks", tmp_path / "out {0}"  # papermill reads braces in paths
    monkeypatch.setattr(reports, "NOTEBOOKS", folder)
    parameters = 'dataset = "digits"\n'
    write_notebook(folder, "01_good", parameters + "times = 1\n", "print('good ' * times)")
    write_notebook(folder, "02_bad", parameters, "print('before')", "1 / 0", "print('after')")
    write_notebook(folder, "03_dead", parameters, "import os\nos._exit(3)")
    seen: list[str] = []
    given = {"times": 3, "dataset": "mine"}
    good, bad, dead = reports.report(
        [], given, out, jobs=3, progress=lambda outcome: seen.append(outcome.stem)
    )
    assert sorted(seen) == ["01_good-mine", "02_bad-mine", "03_dead-mine"]

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
    monkeypatch.setattr(reports._Processes, "run", lambda *_: (-9, "first\nKilled\n"))
    outcome = reports.execute(path, {}, tmp_path / "out")
    assert outcome.error == "the process of the notebook ended: Killed"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["own.ipynb"]
    assert not leftovers(tmp_path)


def test_an_interrupt_leaves_what_was_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stopped(processes: reports._Processes, *_: object) -> tuple[int, str]:
        processes.stop()
        return -15, ""

    path = write_notebook(tmp_path / "notebooks", "own", "a = 1")
    out = tmp_path / "out"
    out.mkdir()
    (out / "own.html").write_text("old")
    monkeypatch.setattr(reports._Processes, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        reports.report([path], {}, out)
    assert [file.name for file in out.rglob("*")] == ["own.html"]


# --- what notebooks use --------------------------------------------------------------------------


def test_a_page_checks_values_and_places_paths_in_the_repository() -> None:
    page = reports.page(results="data/results", dataset="digits", out="", seed=3, strength=0.5)
    assert page.results == reports.ROOT / "data" / "results"
    assert page.out is None
    assert page.rng().random() == page.rng().random() == np.random.default_rng(3).random()
    for name, value in (("strength", -1.0), ("confidence", "0.9"), ("steps", 0)):
        with pytest.raises(ReportError, match=f"{name} is"):
            reports.page(dataset="digits", **{name: value})


def test_results_given_are_relative_to_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    job = reports._job("02", {"results": "mine"}, tmp_path, ("html",))
    assert job.parameters["results"] == os.path.join(tmp_path, "mine")
