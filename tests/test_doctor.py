"""aba doctor: what it finds in this environment, and what it says of a broken one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import doctor
from analysis.doctor import Finding

ROOT = Path(__file__).parent.parent


def about(findings: list[Finding], what: str) -> list[Finding]:
    return [finding for finding in findings if finding.what == what]


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> list[Finding]:
    folder = tmp_path_factory.mktemp("doctor")
    return doctor.examine(folder / "results", folder / "reports")


def test_nothing_that_the_demo_needs_is_missing_here(here):
    assert [finding for finding in here if finding.state == "missing"] == []
    assert about(here, "data digits") == [Finding("ok", "data digits", "bundled")]


def test_everything_asked_of_it_is_looked_at(here):
    looked = {finding.what for finding in here}
    assert looked >= {"python", "packages", "device", "data mirror", "results", "reports"}
    assert looked >= {"data cache", "kernel", "pdf", "fonts"}


def test_looking_leaves_no_trace(tmp_path):
    doctor.examine(tmp_path / "results", tmp_path / "reports")
    assert not list(tmp_path.iterdir())


def test_what_is_not_well_comes_with_what_to_do(here):
    notes = [finding for finding in here if finding.state == "note"]
    # Absent data sets share one line, under the last of them.
    alone = [finding for finding in notes if not finding.what.startswith("data ")]
    assert all(finding.todo for finding in alone)
    absent = [finding for finding in notes if "not here" in finding.detail]
    assert not absent or absent[-1].todo


def test_a_package_other_than_pinned_is_named_with_both_versions(monkeypatch, tmp_path):
    lock = tmp_path / "requirements.lock"
    hashes = f"    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{'1' * 64}\n"
    elsewhere = f"not-for-here==1 ; sys_platform == 'nowhere' \\\n{hashes}"
    here = f"no-such-package==3 ; python_full_version >= '3.11' \\\n{hashes}"
    lock.write_text(f"# pins\nnumpy==0.0.1 \\\n{hashes}{elsewhere}{here}")
    monkeypatch.setattr(doctor, "LOCK", lock)
    notes = list(doctor._packages())
    assert {note.state for note in notes} == {"note"}
    text = doctor.text(notes)
    assert "numpy" in text and "(pinned: 0.0.1)" in text and "no-such-package (3)" in text
    assert "not-for-here" not in text


def test_a_required_package_that_is_not_installed_is_missing(monkeypatch):
    installed = doctor._installed()
    installed.pop("pyarrow")
    monkeypatch.setattr(doctor, "_installed", lambda: installed)
    (missing,) = doctor._packages()
    assert missing.state == "missing" and "pyarrow" in missing.detail and missing.todo


def test_the_toolkit_itself_not_installed_is_missing(monkeypatch):
    installed = doctor._installed()
    installed.pop("aba-toolkit")
    monkeypatch.setattr(doctor, "_installed", lambda: installed)
    assert any("aba-toolkit" in finding.detail for finding in doctor._packages())


def test_torch_that_cannot_be_loaded_is_a_finding_and_the_rest_is_still_looked_at(
    monkeypatch, tmp_path
):
    from analysis import plan

    def broken(device: str) -> str:
        raise ImportError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr(plan, "choose_device", broken)
    findings = doctor.examine(tmp_path, tmp_path)
    (device,) = about(findings, "device")
    assert device.state == "missing" and "libtorch.so" in device.detail
    assert about(findings, "fonts")


def test_only_the_cores_that_may_be_used_are_counted(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    (device,) = doctor._device()
    if device.detail.startswith("cpu"):
        assert device.state == "ok"
        assert int(device.detail.split()[1]) <= 3  # or fewer, where a quota says so


@pytest.mark.parametrize("folder", ["here", "nowhere"])
def test_the_mirror_is_a_folder_or_is_said_to_be_none(monkeypatch, tmp_path, folder):
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("ABA_DATA_MIRROR", str(tmp_path / folder))
    (mirror,) = about(list(doctor._data()), "data mirror")
    assert mirror.state == ("ok" if folder == "here" else "note")


def test_a_folder_that_cannot_be_written_is_missing_but_for_the_cache(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")  # a file where a folder is needed: also root cannot write
    monkeypatch.setenv("ABA_DATA_CACHE", str(tmp_path / "file" / "cache"))
    findings = list(doctor._folders(tmp_path / "file" / "results", tmp_path / "reports"))
    assert [finding.state for finding in findings] == ["missing", "ok", "note"]


def test_lines_are_aligned_and_the_last_one_sums_up():
    text = doctor.text([Finding("ok", "python", "3.11"), Finding("missing", "x", "gone", "mend")])
    assert text.splitlines() == [
        "ok       python  3.11",
        "missing  x       gone",
        "                 → mend",
        "",
        "1 missing for 'make demo'; 0 notes.",
    ]


def test_the_exit_code_is_1_where_something_is_missing(tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "analysis.cli", "doctor", "--results"]
    done = subprocess.run(
        [*command, str(tmp_path / "file" / "results")], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 1 and not done.stderr
    assert "missing  results" in done.stdout
