"""What strangers bring does nothing but be shown: results, names, numbers, files."""

import errno
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures.process import BrokenProcessPool
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from oracles.made_results import make_study
from typer.testing import CliRunner

from aba_core import sources
from aba_core.arms import Arm
from aba_core.sources import DatasetError
from analysis import exhibits, reports, runner, terminal
from analysis import results as store
from analysis.cli import app
from analysis.hypothesis import Contrast, Hypothesis
from analysis.results import SHIPPED, ResultsError
from analysis.studies import find_study
from analysis.study import Study, StudyError, study_from_yaml

ATTACKS = (
    "<script>alert('arm')</script>",
    "</style></title><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    "[link](javascript:alert(4))",
    "<svg/onload=alert(5)>",
    "![picture](http://example.org/seen.png)",
    "`<script>alert(6)</script>`",
    "[one]\n\n[one]: javascript:alert(8)",
    '"><iframe srcdoc="<script>alert(7)</script>">',
)


class Page(HTMLParser):
    """Tags and attributes of a page, and its content policies."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.policies: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        given = dict(attrs)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policies.append(given["content"])


def check_harmless(text: str) -> None:
    page = Page(text)
    assert not page.tags & {"script", "iframe", "object", "embed", "svg", "form", "link", "base"}
    for name, value in page.attributes:
        assert not name.startswith("on") and name != "srcdoc"
        assert not value.strip().lower().startswith("javascript:")
    (policy,) = page.policies
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert "script" not in policy
    assert text.index("Content-Security-Policy") < text.index("<title>")


def hostile(folder: Path) -> Study:
    """A study whose every text wants to be a script; two runs are missing, so arms are named."""
    arms = (Arm.of("vanilla"), *(Arm.of(text, adjustments="3", strength=0.3) for text in ATTACKS))
    study = Study(
        name="hostile",
        dataset="digits",
        config={"dataset": "digits", "epochs": 1, "model": ATTACKS[2]},
        arms=arms,
        seeds=3,
        note=" ".join(ATTACKS),
        preset=ATTACKS[0],
        hypotheses=(
            Hypothesis(
                name="h",
                statement=ATTACKS[0],
                estimand=ATTACKS[2],
                comparisons=(Contrast(label=ATTACKS[4], weights={arms[1].name: 1, "vanilla": -1}),),
                n=3,
            ),
        ),
    )
    made = folder / "made"
    make_study(made, study, missing=[(arms[1].name, 2), (arms[4].name, 1)])
    (declaration,) = store.declarations(made)
    texts = {"finished_at": "2999-01-01T00:00:00+00:00", "device": ATTACKS[0], "torch": ATTACKS[2]}
    rows = store.read_rows(made, "runs")[0].assign(**texts, hypotheses=study.hypotheses_hash)
    store.declare(folder, study, declaration.keys)
    store.write_chunk(folder, "runs", "c0", rows.to_dict("records"))
    return study


def test_a_strangers_results_run_no_script_in_reports(tmp_path):
    hostile(tmp_path / "results")
    out = tmp_path / "out"
    given = {"study": "hostile", "results": str(tmp_path / "results")}
    (outcome,) = reports.report(["13_any_study"], given, out)
    assert outcome.status == "finished", outcome.error
    text = next(out.glob("13_any_study*.html")).read_text(encoding="utf-8")
    check_harmless(text)
    assert text.count("&lt;script&gt;alert(") > 5  # shown, as text
    check_harmless((out / "index.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["02_isolation", "06_hypotheses"])
def test_reports_of_the_shipped_results_have_no_scripts_either(tmp_path, name):
    (outcome,) = reports.report([name], {"results": str(SHIPPED)}, tmp_path)
    assert outcome.status == "finished", outcome.error
    check_harmless(next(tmp_path.glob(f"{name}*.html")).read_text(encoding="utf-8"))


# --- code ----------------------------------------------------------------------------------------

EVIL = "from pathlib import Path\nPath(__file__).with_name('ran').write_text('it ran')\n"
EVIL += "def run(*given, **named): pass\nclass Method: pass\n"


def results_that_name_code(folder: Path) -> Path:
    """Finished studies whose declarations name the module `evil` wherever one can be named; it lies
    beside them, where a command of that folder would find it."""
    (folder / "evil.py").write_text(EVIL)
    made, results = folder / "made", folder / "results"
    arms = (Arm.of("vanilla"), Arm.of("a", adjustments="3", strength=0.3))
    compared = Contrast(label="a", weights={"a": 1, "vanilla": -1})
    claim = dict(statement="s", estimand="e", comparisons=(compared,), n=3)
    plainly = Study(name="shown", dataset="digits", arms=arms, seeds=3)
    judged = plainly.model_copy(
        update={"name": "judged", "hypotheses": (Hypothesis(name="h", **claim),)}
    )
    for study in (plainly, judged):
        make_study(made, study)
    events = {d.study.name: json.loads(d.path.read_text()) for d in store.declarations(made)}
    events["shown"]["study"]["room"] = "evil:run"
    events["judged"]["study"]["hypotheses"][0]["rule"] = "evil:run"
    used = {"use": "evil:run"}
    events["used"] = json.loads(json.dumps(events["shown"]).replace("shown", "used"))
    events["used"]["study"] |= {
        "room": "",
        "config": {"dataset": used, "model": used, "metrics": ["evil:run"]},
        "arms": [
            {"name": "vanilla", "method": {"use": "evil:Method"}},
            {"name": "a", "method": {"kind": "aba", "adjustments": "3", "attribution": used}},
        ],
    }
    (results / "studies").mkdir(parents=True)
    for number, (name, event) in enumerate(events.items()):
        text = json.dumps(event)
        (results / "studies" / f"{name}-digits-{number:012x}.json").write_text(text)
    rows = store.read_rows(made, "runs")[0].assign(finished_at="2999-01-01T00:00:00+00:00")
    store.write_chunk(results, "runs", "c0", rows.to_dict("records"))
    return results


def test_code_that_results_name_does_not_run(tmp_path, monkeypatch, capsys):
    results_that_name_code(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    said = {}
    for command in ("status", "verify", "figures shown", "figures judged", "figures used",
                    "figures", "compare", "plan isolation", "report 13_any_study -p study=shown",
                    "report 13_any_study -p study=judged"):  # fmt: skip
        terminal.exit_code(lambda c=command: app(c.split(), standalone_mode=False))
        said[command] = "".join(capsys.readouterr())
        assert not (tmp_path / "ran").exists(), command
    assert "3/6" in said["status"] or "6/6" in said["status"]
    refused = "shown cannot be shown: its results name the code 'evil:run', which runs only where "
    assert refused in said["figures shown"] and "--trust evil" in said["figures shown"]
    assert "its results name the code 'evil:run'" in said["report 13_any_study -p study=shown"]
    (table,) = (tmp_path / "reports" / "tables").glob("*judged*.csv")
    assert "not tested" in table.read_text()


def test_code_that_results_name_runs_where_somebody_says_so(tmp_path):
    results_that_name_code(tmp_path)
    command = [sys.executable, "-m", "analysis.cli", "figures", "shown", "--trust", "evil"]
    subprocess.run(command, cwd=tmp_path, capture_output=True)
    assert (tmp_path / "ran").exists()


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["name", "dataset"])
@pytest.mark.parametrize(
    "value", ["../../../../escaped", "/tmp/escaped", "a/b", "..", "a\n", "", "-x", ".x", "x" * 200]
)
def test_a_declared_name_that_leads_elsewhere_is_refused(tmp_path, field, value):
    results, out = tmp_path / "a" / "b" / "results", tmp_path / "a" / "b" / "out"
    study = Study(name="s", dataset="digits", arms=(Arm.of("a"),), seeds=2)
    path = store.declare(results, study, {"k0": ("a", 0)}).path
    said = json.loads(path.read_text())
    said["study"][field] = value
    stranger = results / "studies" / "s-digits-0123456789ab.json"
    stranger.write_text(json.dumps(said))
    with pytest.raises(ResultsError, match=f"{stranger.name} is damaged .{field}"):
        store.declarations(results)
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, ["figures", "--results", str(results), "--out", str(out)])
    assert isinstance(done.exception, ResultsError)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/b", "..", "", "a\\b", "a\0b"])
def test_nothing_is_written_outside_the_folder_that_was_asked_for(tmp_path, name):
    out = tmp_path / "out"
    with pytest.raises(exhibits.ExportError, match="is no name of a file in"):
        with exhibits.whole_files(out, name) as stem:
            stem.write_text("escaped")
    assert not list(tmp_path.rglob("*"))


# --- numbers -------------------------------------------------------------------------------------

ARMS = (Arm.of("vanilla"), Arm.of("a", adjustments="3", strength=0.3))


def plain_study(**changes: object) -> Study:
    config = {"dataset": "digits", "model": "mlp", "epochs": 1, "batch_size": 20}
    config |= changes.pop("config", {})  # type: ignore[arg-type]
    fields = dict(name="s", dataset="digits", config=config, arms=ARMS, seeds=1)
    return Study(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (2**63,)}, f"seed {2**63}; allowed: whole numbers from 0 to"),
        ({"seeds": (2**200,)}, "allowed: whole numbers from 0"),
        ({"seeds": 10**6}, "1000000 seeds; allowed: up to 100000"),
        ({"seeds": 10**30}, "seeds; allowed: up to 100000"),
        ({"seeds": True}, "seeds is True"),
        ({"seeds": -2}, "seeds is -2; needed: how many, from 1, or which"),
        ({"arms": []}, "at least 1 item"),
        ({"arms": [{"nam": "a"}]}, "an arm needs a name; its fields are: nam"),
        ({"seeds": 10**5, "arms": [{"name": f"a{n}", "flip_bit": n > 0} for n in range(11)]},
         "1100000 runs, arms times seeds; allowed: up to 1000000"),
        ({"frozen": {"strengths": [float("nan")]}}, "finite number"),
        ({"frozen": {"strengths": [-0.5]}}, "greater than or equal to 0"),
        ({"frozen": {"strengths": []}}, "at least 1 item"),
        ({"tuning": {"strengths": [float("inf")], "seeds": 1}}, "finite number"),
        ({"config": {"mechanism": True}}, "mechanism is true; needed: no true or false"),
        ({"config": {"batch_size": True}}, "batch_size is true"),
        ({"config": {"epochs": 1e-9}}, "epochs is 1e-09, which is 5e-09 steps; allowed: from 1"),
        ({"config": {"epochs": 1e12}}, "which is 5e+12 steps; allowed: from 1 to 100000000 steps"),
        ({"config": {"epochs": float("inf")}}, "epochs is inf"),
        ({"config": {"curve_every": 2**64}}, "curve_every"),
        ({"config": {"curve_every": 2**40}}, "allowed: 0 or more steps, up to 1000000000"),
        ({"config": {"mechanism": 2**40}}, "allowed: whole numbers from 0 to 1000000000"),
        ({"config": {"subset_seed": -1}}, "subset_seed is -1"),
        ({"arms": [{"name": "a", "adjustments": "3", "target": "class_score", "top_k": 1000}]},
         "arm 'a': top_k is 1000; allowed: 1 to the 10 classes"),
    ],
)  # fmt: skip
def test_a_number_that_cannot_be_meant_is_named_before_anything_is_declared(
    tmp_path, changes, message
):
    begun = time.monotonic()
    with pytest.raises(ValueError) as error:
        runner.run(plain_study(**changes), tmp_path, device="cpu", processes=1)
    assert message in str(error.value) and not list(tmp_path.rglob("*"))
    assert time.monotonic() - begun < 20


def test_a_bad_number_on_the_command_line_is_one_line_and_exit_code_2(tmp_path, capsys):
    for given, message in (
        (["--seeds", "1000000"], "--seeds 1000000; allowed: up to 100000"),
        (["--set", "epochs=1e12"], "which is 5e+12 steps"),
        (["--set", "mechanism=true"], "mechanism is true"),
        (["--set", "curve_every=18446744073709551616"], "curve_every"),
    ):
        command = ["run", "isolation", "--results", str(tmp_path / "r"), "--device", "cpu", *given]
        code = terminal.exit_code(lambda c=command: app(c, standalone_mode=False))
        said = capsys.readouterr().err
        assert code == 2 and message in said and said.count("\n") == 1
    assert not (tmp_path / "r").exists()


# --- files ---------------------------------------------------------------------------------------


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(9), "values; allowed: up to 100000"),
        (bomb(60), "values; allowed: up to 100000"),
        ("a: &a [*a]", "holds an alias of itself"),
        ("[" * 5000, "nested too deeply"),
        ("# " + "x" * 2**20, "is larger than 1048576 bytes"),
        ("\xff\xfe", "is not text in UTF-8 .byte 0."),
        ("a: [", "is not valid YAML: line 1, column 5: expected the node content"),
    ],
)
def test_yaml_that_is_larger_inside_than_outside_is_refused(tmp_path, text, message):
    path = tmp_path / "study.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(StudyError, match=message):
        study_from_yaml(path)
    with pytest.raises(reports.ReportError, match=message):
        reports.read_parameters(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: tension\ndataset: digits\nseeds: 1\narms: [{name: a}]", "choose another, as my-"),
        ("", "is empty; needed: name, dataset, arms, seeds"),
        ("- a", "holds a list; needed: name"),
        ("name: s\ndataset: digits\nseeds: 1\narms: []", "arms is empty; needed: one or more"),
    ],
)
def test_a_file_that_is_no_study_of_your_own_is_refused(tmp_path, text, message):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(StudyError, match=message):
        find_study(str(path))


def test_a_file_without_end_is_not_read_to_its_end():
    with pytest.raises(StudyError, match="/dev/zero is larger than"):
        study_from_yaml(Path("/dev/zero"))


def test_an_archive_that_unpacks_to_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(sources, "MOST_UNPACKED", 10**6)
    packed = gzip.compress(bytes(10**6 + 1))
    assert len(packed) < 2000
    with pytest.raises(DatasetError, match="unpacks to more than 1000000 bytes"):
        sources.unzip(packed, Path("x.gz"), "md5:0")
    assert len(sources.unzip(gzip.compress(bytes(10**6)), Path("x.gz"), "md5:0")) == 10**6
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name in ("a", "b"):
            member = tarfile.TarInfo(name)
            member.size = 6 * 10**5
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(DatasetError, match="unpacks to more than 1000000 bytes"):
        list(sources.tar_files(archive.getvalue(), Path("x.tar.gz")))


# --- the machine ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "r/runs/x"),
         "aba: r/runs/x: No space left on device; free some space there; finished runs are kept"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "r"),
         "aba: r: Read-only file system; choose a folder that can be written to"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "r"),
         "aba: r: Permission denied; choose a folder that you may write to"),
        (BrokenProcessPool("a\nb"), "aba: a worker ended before its time"),
        (MemoryError(), "aba: memory is short"),
    ],
)  # fmt: skip
def test_what_the_machine_refuses_is_one_line_with_the_remedy(error, message, capsys):
    def command():
        raise error

    assert terminal.exit_code(command) == 1
    said = capsys.readouterr().err
    assert said.startswith(message) and said.count("\n") == 1


@pytest.mark.parametrize("command", ["run", "status", "verify", "figures", "compare"])
def test_results_that_are_a_file_are_one_line(tmp_path, command, capsys):
    file = tmp_path / "results"
    file.write_text("")
    given = [command, *(["tension", "--device", "cpu"] if command == "run" else [])]
    code = terminal.exit_code(lambda: app([*given, "--results", str(file)], standalone_mode=False))
    said = capsys.readouterr().err
    assert code == 1 and str(file) in said and said.count("\n") == 1


def training(folder: Path) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """`aba run` in a process group of its own, once it has a worker that trains."""
    command = [sys.executable, "-m", "analysis.cli", "run", "tension", "--results", str(folder)]
    command += ["--set", "epochs=2000", "--device", "cpu", "--processes", "1"]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    process = psutil.Process(started.pid)
    while started.poll() is None:
        # Forked from a server, or spawned where there is none.
        forked = [
            child for child in process.children(recursive=True) if child.ppid() != process.pid
        ]
        spawned = [child for child in process.children() if "spawn_main" in str(child.cmdline())]
        workers = forked or spawned
        if workers and workers[0].cpu_times().user > (2 if forked else 4):
            return started, workers
        time.sleep(0.1)
    raise AssertionError(started.communicate()[1])


def test_a_dead_worker_is_one_line(tmp_path):
    started, (worker, *_) = training(tmp_path)
    worker.kill()
    said = started.communicate(timeout=60)[1]
    assert started.returncode == 1
    assert said.splitlines()[-1].startswith("aba: a worker ended before its time")
    assert "Traceback" not in said


@pytest.mark.parametrize("to_all", [False, True])
def test_sigterm_is_as_ctrl_c(tmp_path, to_all):
    started, workers = training(tmp_path)
    (os.killpg if to_all else os.kill)(started.pid, signal.SIGTERM)
    said = started.communicate(timeout=60)[1]
    assert started.returncode == 130 and "Traceback" not in said
    assert said.splitlines()[-1].startswith("aba: stopped; finished runs are kept")
    assert not psutil.wait_procs(workers, timeout=30)[1]
    assert not [path for path in tmp_path.rglob(".*")]


NOTEBOOK = """
from pathlib import Path
import os, time
Path({said!r}).write_text(str(os.getpid()))
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_report_ends_with_its_kernel_however_its_command_ends(tmp_path, number):
    said, out = tmp_path / "pid", tmp_path / "out"
    cells = [new_code_cell("steps = 1"), new_code_cell(NOTEBOOK.format(said=str(said)))]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(new_notebook(cells=cells), tmp_path / "sleeps.ipynb")
    command = [sys.executable, "-m", "analysis.cli", "report", str(tmp_path / "sleeps.ipynb")]
    temporary = {**os.environ, "TMPDIR": str(tmp_path)}
    started = subprocess.Popen([*command, "--out", str(out)], env=temporary)
    while not (said.is_file() and said.read_text()):
        assert started.poll() is None
        time.sleep(0.1)
    below = psutil.Process(started.pid).children(recursive=True)
    assert int(said.read_text()) in {process.pid for process in below} and len(below) >= 2
    started.send_signal(number)
    assert started.wait(60) == (-number if number == signal.SIGKILL else 130)
    assert not psutil.wait_procs(below, timeout=30)[1]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out", "pid", "sleeps.ipynb"]
