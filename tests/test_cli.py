"""The command line: what it prints, and its exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def aba(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "analysis.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_adjustments_prints_the_27_in_published_order():
    done = aba("adjustments", "--csv")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 28
    published = (ROOT / "data/reference/published_isolation.csv").read_text().splitlines()[1:28]
    for line, row in zip(lines[1:], published, strict=True):
        assert line.split(",")[:5] == row.split(",")[1:6]


def test_datasets_lists_the_four_and_what_is_bundled():
    done = aba("datasets")
    assert done.returncode == 0
    for name in ("digits", "mnist", "cifar10", "news"):
        assert name in done.stdout
    assert "bundled" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rn"], "No such command 'rn'"),
        (["run"], "Missing argument 'STUDY'"),
        (["run", "isolatoin"], "unknown study 'isolatoin'; known: isolation, tension"),
        (["run", "isolation", "--dataset", "minst"], "unknown dataset 'minst'; known: digits"),
        (["run", "isolation", "--seeds", "x"], "'--seeds'"),
        (["run", "isolation", "--set", "epoch=3"], "unknown config field 'epoch'; known:"),
        (["run", "isolation", "--device", "tpu"], "unknown device 'tpu'; known: auto, cpu, cuda"),
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


def test_status_of_an_empty_folder_says_how_to_start(tmp_path):
    done = aba("status", "--results", str(tmp_path))
    assert done.returncode == 0 and "aba run isolation" in done.stdout


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
