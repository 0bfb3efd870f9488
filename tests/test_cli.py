"""The command line: what it prints, and its exit codes."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from oracles.made_results import make_study, standard

ROOT = Path(__file__).parent.parent


def aba(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "analysis.cli", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)


def test_adjustments_prints_the_27_in_published_order():
    done = aba("adjustments", "--csv")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 28
    published = (ROOT / "data/reference/published_isolation.csv").read_text().splitlines()[1:28]
    for line, row in zip(lines[1:], published, strict=True):
        assert line.split(",")[:5] == row.split(",")[1:6]


def test_datasets_lists_all_and_what_is_bundled():
    done = aba("datasets")
    assert done.returncode == 0
    for name in ("digits", "mnist", "cifar10", "news", "breast-cancer"):
        assert name in done.stdout
    assert "bundled" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rn"], "No such command 'rn'"),
        (["run"], "Missing argument 'STUDY'; aba run --help lists what it takes"),
        (["nosuch"], "No such command 'nosuch'; aba --help lists the commands"),
        (
            ["run", "isolatoin"],
            "unknown study 'isolatoin' (did you mean 'isolation'?); known: isolation",
        ),
        (
            ["run", "isolation", "--dataset", "minst"],
            "unknown dataset 'minst' (did you mean 'mnist'?)",
        ),
        (["run", "isolation", "--seeds", "x"], "--seeds x; allowed: whole numbers"),
        (
            ["run", "isolation", "--set", "epoch=3"],
            "field 'epoch' (did you mean 'epochs'?); known:",
        ),
        (
            ["run", "isolation", "--device", "cpu", "--graphs"],
            "graphs are asked for on 'cpu'; allowed: on cuda only",
        ),
        (["run", "isolation", "--device", "tpu"], "unknown device 'tpu'; known: auto, cpu, cuda"),
        (["run", "isolation", "--engine", "dask"], "unknown engine 'dask'; known: auto, processes"),
        (["run", "isolation", "--engine", "my:engine"], "engine 'my:engine': cannot import 'my'"),
        (
            ["plan", "isolatoin"],
            "unknown study 'isolatoin' (did you mean 'isolation'?); known: isolation",
        ),
        (["plan", "isolation", "--effect", "0"], "effect is 0; allowed: numbers above 0"),
        (["plan", "isolation", "--metric", "loss"], "unknown metric 'loss'; known: validation"),
        (
            ["plan", "isolation", "--dataset", "cifar10", "--preset", "published"],
            "a pilot: aba run isolation --dataset cifar10",
        ),
    ],
)
def test_a_usage_error_is_one_line_that_names_the_value_and_exits_with_2(
    arguments, message, tmp_path
):
    extra = ["--results", str(tmp_path)] if len(arguments) > 1 else []
    done = aba(*arguments, *extra)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_demo_writes_every_report(tmp_path):
    done = aba("demo", "--results", str(tmp_path / "r"), "--out", str(tmp_path / "o"))
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {
        path.name.split("-")[0].removesuffix(".html") for path in (tmp_path / "o").glob("*.html")
    }
    assert pages == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} | {"index"}


def test_version_is_the_packages():
    done = aba("--version")
    assert done.returncode == 0 and done.stdout == f"aba {version('aba-toolkit')}\n"


def test_an_engine_of_ones_own_lies_in_the_current_folder(tmp_path):
    command = [sys.executable, "-m", "analysis.cli", "run", "tension", "--results", str(tmp_path)]
    done = subprocess.run(
        [*command, *"--seeds 1 --set epochs=1 --set model=mlp --device cpu".split(), "--engine"]
        + ["threaded_engine:in_a_thread"],
        capture_output=True,
        text=True,
        cwd=ROOT / "tests" / "outside",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "7 runs computed now" in done.stdout and "tension on digits: done" in done.stderr


def test_run_status_and_a_second_run(tmp_path):
    folder = ["--results", str(tmp_path / "r")]
    settings = ["--seeds", "1", "--set", "epochs=1", "--set", "model=mlp", "--device", "cpu"]
    first = aba("run", "tension", *settings, *folder)
    assert first.returncode == 0, first.stderr
    assert "7 runs computed now, 0 found finished" in first.stdout
    assert "tension on digits: done" in first.stderr  # plain lines, no bar, without a terminal
    second = aba("run", "tension", *settings, *folder)
    assert "0 runs computed now, 7 found finished" in second.stdout
    status = aba("status", *folder)
    assert status.returncode == 0 and "7/7" in status.stdout
    assert status.stdout.splitlines()[1].split()[:5] == ["tension", "digits", "mlp", "1", "0.5"]


def test_a_plan_is_printed_before_anything_is_run(tmp_path):
    done = aba("plan", "tension", "--effect", "1", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Pilot: 140 runs of 7 arms in the shipped results" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line[:3] in ("one", "6, ")]
    assert len(rows) == 4 and "seeds per arm" in done.stdout and "time here" in done.stdout
    assert not list(tmp_path.iterdir())


def test_status_of_an_empty_folder_says_how_to_start(tmp_path):
    done = aba("status", "--results", str(tmp_path))
    assert done.returncode == 0 and "aba run isolation" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "line", "shown"),
    [
        (
            ["claims", "--dataset", "breast-cancer", "--csv"],
            "aba: no studies on breast-cancer in results/: these are the shipped results",
            ",breast-cancer,",
        ),
        (
            ["compare", "--dataset", "cifar10"],
            "aba: no isolation study on cifar10 in results/: these are the shipped results",
            "== CIFAR-10 beside the published table ==",
        ),
        (
            ["figures", "frozen", "--dataset", "mnist", "--format", "svg"],
            "aba: no frozen study on mnist in results/: these are the shipped results",
            "frozen on mnist:",
        ),
    ],
)
def test_where_a_user_has_no_results_the_shipped_ones_are_shown(tmp_path, arguments, line, shown):
    done = aba(*arguments, cwd=tmp_path)
    assert done.returncode == 0 and shown in done.stdout
    assert done.stderr.splitlines() == [line]
    named = aba(*arguments, "--results", "results", cwd=tmp_path)
    assert line not in named.stderr and shown not in named.stdout


def test_status_of_a_user_without_results_names_the_shipped_ones(tmp_path):
    done = aba("status", cwd=tmp_path)
    assert f"aba status --results {ROOT / 'data/results'}" in done.stdout


def test_status_names_a_damaged_file(tmp_path):
    folder = ["--results", str(tmp_path)]
    aba("run", "tension", "--seeds", "1", "--set", "epochs=1", "--set", "model=mlp", *folder)
    (tmp_path / "runs" / "bad.parquet").write_bytes(b"rubbish")
    done = aba("status", *folder)
    assert "bad.parquet" in done.stderr and "damaged" in done.stderr


def test_help_comes_without_torch():
    code = (
        "import sys; sys.argv = ['aba', '--help']\n"
        "from analysis.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'scipy', 'pydantic_core'} & set(sys.modules)\n"
        "assert not heavy - {'pydantic_core'}, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout and "report" in done.stdout


# --- batches of reports, figures -----------------------------------------------------------------


@pytest.fixture
def own_notebook(tmp_path) -> Path:
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    parameters = new_code_cell('dataset = "digits"\nconfidence = 0.95\n')
    parameters.metadata["tags"] = ["parameters"]
    code = new_code_cell("assert confidence > 0.85\nprint(dataset, confidence)")
    path = tmp_path / "own.ipynb"
    nbformat.write(new_notebook(cells=[parameters, code]), path)
    return path


def test_a_batch_ends_with_a_table_and_keeps_what_worked(own_notebook, tmp_path):
    out = tmp_path / "out"
    command = ["report", str(own_notebook), "--out", str(out), "--format", "notebook"]
    done = aba(*command, "--over", "confidence=0.8,0.9", "--jobs", "2")
    assert done.returncode == 1
    assert "own-digits-confidence=0.8: cell In [3]: AssertionError" in done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[-3:]]
    assert rows[0] == ["notebook", "parameters", "time", "status"]
    assert [row[-1] for row in rows[1:]] == ["failed", "finished"]
    assert "confidence=0.9" in rows[2]
    assert (out / "own-digits-confidence=0.9.ipynb").is_file()
    assert "report/s" not in done.stderr  # no bar without a terminal

    batch = tmp_path / "batch.yaml"
    batch.write_text("confidence: 0.9\ndataset: [digits]\n")
    assert aba(*command, "--parameters", str(batch)).returncode == 0
    assert aba(*command, "-p", "confidence=0.95").returncode == 0  # stands beside the others
    assert (out / "own-digits.ipynb").is_file()
    (out / "own-digits.ipynb").write_text("{}")
    refused = aba(*command, "-p", "confidence=0.95")
    assert refused.returncode == 2
    assert "is there already, not made by aba report" in refused.stderr
    assert aba(*command, "-p", "confidence=0.95", "--force").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "02", "--over", "confidence"], "'confidence'; needed: NAME=VALUE,VALUE"),
        (["report", "02", "--over", "seed=1", "-p", "seed=2"], "by --parameter and by --over"),
        (["report", "02", "--over", "seed=1,x"], "parameter 'seed' of 02_isolation is 'x'"),
        (["report", "02", "--over", "sede=1"], "unknown parameter 'sede'"),
        (["report", "02", "--parameters", "none.yaml"], "cannot read parameters none.yaml"),
        (["figures", "--width", "wide"], "unknown width 'wide'; known: single, double, slide"),
        (["figures", "--format", "jpg"], "unknown format 'jpg'; known: pdf, svg, png"),
    ],
)
def test_a_wrong_batch_or_export_is_one_line(arguments, message, tmp_path):
    done = aba(*arguments, "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("*.*"))


def test_figures_says_what_it_made_and_what_is_not_there(tmp_path):
    results, out = tmp_path / "r", tmp_path / "o"
    make_study(results, standard("isolation", seeds=2))
    command = ["figures", "--results", str(results), "--out", str(out), "--format", "svg"]
    done = aba(*command)
    assert done.returncode == 0, done.stderr
    assert "isolation on digits: 3 figures, 4 tables in" in done.stdout
    assert "no results of tension, frozen, groups" in done.stdout
    asked = aba(*command, "benchmark")
    assert asked.returncode == 1 and "run: aba run benchmark" in asked.stderr
    assert aba("figures", "--results", str(tmp_path / "none")).returncode == 1


@pytest.mark.parametrize("command", [("plan", "isolation"), ("run", "isolation"), ("compare",)])
def test_a_data_set_without_a_name_is_refused_in_one_line(command):
    done = aba(*command, "--dataset", "", "--results", str(ROOT / "data" / "results"))
    assert done.returncode in (1, 2) and len(done.stderr.splitlines()) == 1
    assert "empty" in done.stderr or "needed: a name" in done.stderr
