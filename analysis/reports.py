"""Reports: the notebooks of `notebooks/`, executed in batches and turned into pages to hand on.

    parameters → checked → papermill in a process of its own → executed copy → HTML, PDF → index

`aba report`, `make demo` and the tests all come through `execute` and `report`. The notebooks use
`page`, which checks the same values when somebody runs them by hand and writes what they show.
Imports neither torch nor a notebook library before there is something to execute.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import html
import io
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import toolkit_version as _version
from analysis.study import METRICS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analysis.exhibits import Exhibit, Look
    from analysis.results import StudyResult

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
FORMATS = ("html", "pdf", "notebook")
Scalar = str | int | float | bool


class ReportError(ValueError):
    """A report that cannot be made as asked; one line saying which value is wrong and what is
    allowed."""


# --- notebooks and their parameters --------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: `name = default  # help`."""

    name: str
    default: Scalar
    help: str

    @property
    def type(self) -> type:
        return type(self.default)


def notebooks() -> tuple[str, ...]:
    """The names of the notebooks there are, in order. Raises ReportError where there are none."""
    names = tuple(sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb")))
    if not names:
        raise ReportError(
            f"no notebooks in {NOTEBOOKS}; reports need a checkout of the repository, installed "
            "with pip install -e ."
        )
    return names


def find(name: str | Path) -> Path:
    """A notebook by its name ("02_isolation"), number ("02"), title ("isolation") or path."""
    path = Path(name)
    if path.suffix == ".ipynb":
        if not path.is_file():
            raise ReportError(f"no notebook {path}; known: {', '.join(notebooks())}, or a path")
        return path
    known = notebooks()
    for candidate in known:
        number, _, title = candidate.partition("_")
        if str(name) in (candidate, number, number.lstrip("0"), title):
            return NOTEBOOKS / f"{candidate}.ipynb"
    raise ReportError(
        f"unknown notebook {str(name)!r}{_meant(str(name), known)}; known: {', '.join(known)}, "
        "or the path of a notebook"
    )


def parameters_of(name: str | Path) -> dict[str, Parameter]:
    """The parameters of a notebook in the order of its parameters cell.

    Raises ReportError unless exactly one cell is tagged "parameters" and holds nothing but plain
    str, int, float and bool values.
    """
    path = find(name)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReportError(f"{path} is not a notebook ({type(error).__name__})") from error
    tagged = [
        "".join(cell["source"])
        for cell in cells
        if "parameters" in cell.get("metadata", {}).get("tags", [])
    ]
    if len(tagged) != 1:
        raise ReportError(f"{path.name} has {len(tagged)} cells tagged 'parameters'; needed: one")
    try:
        statements = ast.parse(tagged[0]).body
    except SyntaxError as error:
        raise ReportError(f"the parameters cell of {path.name}: {error.msg}") from error
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(tagged[0]).readline)
        if token.type == tokenize.COMMENT
    }
    found: dict[str, Parameter] = {}
    for statement in statements:
        text = ast.unparse(statement)
        if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
            raise ReportError(
                f"the parameters cell of {path.name} holds {text!r}; allowed: lines name = value"
            )
        try:
            value = ast.literal_eval(statement.value)
        except ValueError:
            value = None
        if type(value) not in (str, int, float, bool):
            raise ReportError(
                f"the parameters cell of {path.name} holds {text!r}; allowed: plain str, int, "
                "float or bool"
            )
        parameter = statement.targets[0].id
        found[parameter] = Parameter(parameter, value, comments.get(statement.lineno, ""))
    return found


def check_parameters(name: str | Path, given: Mapping[str, Any]) -> dict[str, Scalar]:
    """Given values with the parameters' types; text, as from a command line, is converted.

    Raises ReportError for a name the notebook does not have, a value of the wrong type, and a
    value that `check_value` refuses.
    """
    known = parameters_of(name)
    title = find(name).stem
    checked: dict[str, Scalar] = {}
    for parameter, value in given.items():
        if parameter not in known:
            raise ReportError(_unknown(parameter, [title], known))
        checked[parameter] = _typed(known[parameter], value, title)
        check_value(parameter, checked[parameter])
    return checked


def _unknown(parameter: str, titles: Sequence[str], known: Iterable[str]) -> str:
    known = list(known)
    return (
        f"unknown parameter {parameter!r} for {', '.join(titles)}{_meant(parameter, known)}; "
        f"known: {', '.join(known)}"
    )


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


_NEEDED = {
    str: "text",
    int: "a whole number, as 5",
    float: "a number, as 0.95",
    bool: "true or false",
}
_TRUTH = {"true": True, "yes": True, "false": False, "no": False}


def _typed(parameter: Parameter, value: Any, title: str) -> Scalar:
    kind: Any = parameter.type
    typed: Any = str(value) if isinstance(value, Path) else value
    if isinstance(typed, str) and kind is not str:
        text = typed.strip()
        with contextlib.suppress(ValueError):
            typed = _TRUTH.get(text.lower(), text) if kind is bool else kind(text)
    elif kind is float and type(typed) is int:
        typed = float(typed)
    if type(typed) is not kind or (kind is float and not math.isfinite(typed)):
        raise ReportError(
            f"parameter {parameter.name!r} of {title} is {value!r}; needed: {_NEEDED[kind]}"
        )
    return typed


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value >= least


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


# What the parameters of our notebooks may be; the same check by hand and headlessly.
_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "results": (lambda v: isinstance(v, str) and v != "", "the path of a results folder"),
    "dataset": (
        lambda v: isinstance(v, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*", v) is not None,
        "a data set's name, as digits",
    ),
    "preset": (lambda v: isinstance(v, str), "text, as quick, or nothing for any"),
    "metric": (lambda v: v in METRICS, ", ".join(METRICS)),
    "confidence": (lambda v: _number(v) and 0 < v < 1, "numbers between 0 and 1, as 0.95"),
    "seed": (_whole(0), "whole numbers from 0"),
    "out": (lambda v: isinstance(v, str), "the path of a folder, or nothing"),
    "sample": (_whole(0), "whole numbers from 0"),
    "strength": (lambda v: _number(v) and v >= 0, "numbers not below 0"),
    "steps": (_whole(1), "whole numbers from 1"),
    "models": (_whole(2), "whole numbers from 2"),
    "neutral": (lambda v: _number(v) and v >= 0, "numbers not below 0"),
}


def check_value(parameter: str, value: Any) -> None:
    """Raises ReportError where a parameter of our notebooks has a value that it may not have."""
    if parameter in _ALLOWED and not _ALLOWED[parameter][0](value):
        raise ReportError(f"{parameter} is {value!r}; allowed: {_ALLOWED[parameter][1]}")


# --- execution -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook. status: "finished" or "failed"; error: one line, or "".

    files: what was written for it, the executed notebook first. seconds: wall time. given: the
    parameters that somebody set, without folders.
    """

    notebook: str
    parameters: Mapping[str, Scalar]
    seconds: float
    status: str
    files: tuple[Path, ...]
    error: str = ""
    given: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        return self.files[0].stem


def execute(
    name: str | Path,
    parameters: Mapping[str, Any],
    out: str | Path,
    formats: Sequence[str] = ("html",),
    force: bool = False,
) -> Outcome:
    """Run one notebook and write out/<stem>.ipynb and, by `formats`, .html and .pdf.

    parameters: those that differ from the notebook's defaults; `results` is relative to the
    working directory, `out` is the out folder where not given. The notebook runs in a process and a
    kernel of its own, always with this interpreter, one thread. Where a cell fails, the executed
    copy and the page are written too, and the outcome says which cell. Files appear whole or not
    at all. Raises ReportError before anything runs for a wrong parameter, format or folder, and
    for a file that would be replaced (see `report`), unless `force`.
    """
    job = _job(name, parameters, _folder(out), _formats(formats))
    _refuse_others([] if force else [job])
    return _run(job, _Processes())


def report(
    names: Sequence[str | Path],
    parameters: Mapping[str, Any],
    out: str | Path,
    formats: Sequence[str] = ("html",),
    jobs: int = 2,
    progress: Callable[[Outcome], None] | None = None,
    *,
    variants: Sequence[Mapping[str, Any]] = ({},),
    usual: Mapping[str, Any] | None = None,
    force: bool = False,
    started: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """Run several notebooks (all for no names), `jobs` at a time, and write out/index.html.

    Each notebook gets those of the parameters that it knows; one that none knows is an error.
    A failing notebook does not stop the others. started: called with the number of reports.
    progress: called with each outcome as it comes. Outcomes are in the order of the names, then of
    the variants. The index lists every report in the folder.

    variants: sets of further parameters, as from `grid`; every notebook runs once with each set
    that makes a difference to it. Names of the files hold what varies, numbers padded so that they
    sort: 02_isolation-digits-confidence=0.90.html; figures and tables are then in a folder of that
    name.

    usual: parameters that nobody asked for, for the notebooks that know them.

    A file that an earlier call wrote for the same notebook and parameters is renewed. Any other
    file in the way is a ReportError before anything runs, unless `force`.
    """
    if jobs < 1:
        raise ReportError(f"jobs is {jobs}; allowed: whole numbers from 1")
    paths = list(dict.fromkeys(find(name) for name in names or notebooks()))
    known = {path: parameters_of(path) for path in paths}
    everything = list(dict.fromkeys(p for own in known.values() for p in own))
    varied = list(dict.fromkeys(name for variant in variants for name in variant))
    for parameter in (*parameters, *varied):
        if parameter not in everything:
            raise ReportError(_unknown(parameter, [path.stem for path in paths], everything))
    folder, wanted = _folder(out), _formats(formats)
    work = []
    for path in paths:
        own = {k: v for k, v in {**(usual or {}), **parameters}.items() if k in known[path]}
        sets = [
            check_parameters(path, {k: v for k, v in variant.items() if k in known[path]})
            for variant in variants
        ]
        texts = {
            name: _texts([one.get(name, known[path][name].default) for one in sets])
            for name in varied
            if name in known[path]
        }
        for one in sets:
            value = {name: one.get(name, known[path][name].default) for name in texts}
            labels = {name: texts[name][value[name]] for name in texts}
            work.append(_job(path, {**own, **one}, folder, wanted, labels))
    by_stem: dict[str, _Job] = {}
    for job in work:
        if by_stem.setdefault(job.stem, job).notebook != job.notebook:
            raise ReportError(f"two notebooks would write {job.stem}; report them into two folders")
    work = list(by_stem.values())
    _refuse_others([] if force else work)
    if started is not None:
        started(len(work))
    processes = _Processes()

    def run(job: _Job) -> Outcome:
        outcome = _run(job, processes)
        if progress is not None:
            progress(outcome)
        return outcome

    with ThreadPoolExecutor(jobs) as pool:
        try:
            outcomes = list(pool.map(run, work))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            raise
    write_index(folder)
    return outcomes


def grid(over: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values, the last name changing fastest: `variants` for `report`."""
    for name, values in over.items():
        if not values:
            raise ReportError(f"no values for {name}; needed: one or more")
    return [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]


def read_parameters(path: str | Path) -> tuple[dict[str, Scalar], list[dict[str, Scalar]]]:
    """Parameters and variants from a YAML file.

    Either one mapping, whose plain values are for every report and whose lists are a grid, or a
    list of mappings, one a variant. Raises ReportError naming the file and what is wrong.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ReportError(f"cannot read parameters {path}: {reason}") from error
    except yaml.YAMLError as error:
        raise ReportError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error

    def plain(value: Any) -> bool:
        return type(value) in (str, int, float, bool)

    if isinstance(content, list) and content and all(isinstance(one, dict) for one in content):
        for number, one in enumerate(content, 1):
            for name, value in one.items():
                if not plain(value):
                    raise ReportError(
                        f"{path}: {name} of entry {number} is {value!r}; needed: text, a number, "
                        "true or false"
                    )
        return {}, content
    if not isinstance(content, dict):
        raise ReportError(
            f"{path} holds {type(content).__name__}; needed: lines name: value or name: [values], "
            "or a list of such sets"
        )
    for name, value in content.items():
        if not (plain(value) or isinstance(value, list) and value and all(map(plain, value))):
            raise ReportError(
                f"{path}: {name} is {value!r}; needed: text, a number, true, false, or a list"
            )
    lists = {name: value for name, value in content.items() if isinstance(value, list)}
    return {name: content[name] for name in content if name not in lists}, grid(lists)


def _texts(values: Sequence[Scalar]) -> dict[Scalar, str]:
    """Values as parts of file names: numbers padded so that names sort, no two alike."""
    distinct = list(dict.fromkeys(values))
    if all(type(value) in (int, float) for value in distinct):
        exact = [Decimal(str(value)) for value in distinct]
        places = max(max(0, -int(number.as_tuple().exponent)) for number in exact)
        texts = [f"{number:.{places}f}" for number in exact]
        width = max(len(text.lstrip("-")) for text in texts)
        return {
            value: "-" * text.startswith("-") + text.lstrip("-").zfill(width)
            for value, text in zip(distinct, texts, strict=True)
        }
    found: dict[Scalar, str] = {}
    for value in distinct:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        safe = text = re.sub(r"[^\w.-]+", "-", text).strip("-.") or "none"
        number = 1
        while text in found.values():
            number += 1
            text = f"{safe}-{number}"
        found[value] = text
    return found


@dataclass(frozen=True)
class _Job:
    notebook: Path
    parameters: dict[str, Scalar]  # what is set
    values: dict[str, Scalar]  # all of them
    out: Path
    formats: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)  # of what varies in the batch

    @property
    def stem(self) -> str:
        dataset = self.values.get("dataset")
        varied = [f"-{n}={label}" for n, label in self.labels.items() if n != "dataset"]
        return self.notebook.stem + (f"-{dataset}" if dataset else "") + "".join(varied)


def _refuse_others(work: Sequence[_Job]) -> None:
    """Raises ReportError where a file is in the way that is not an earlier copy of the same."""
    refused = []
    for job in work:
        kinds = ("ipynb", *(kind for kind in job.formats if kind != "notebook"))
        there = [p for kind in kinds if (p := job.out / f"{job.stem}.{kind}").exists()]
        difference = _difference(job) if there else ""
        if difference:
            refused.append(f"{there[0]} is there already, {difference}")
    if refused:
        more = f", and {len(refused) - 1} more like it" if len(refused) > 1 else ""
        raise ReportError(f"{refused[0]}{more}; --force replaces, another --out keeps")


def _difference(job: _Job) -> str:
    """In what the report in the way differs from the one to come, "" where in nothing."""
    try:
        text = (job.out / f"{job.stem}.ipynb").read_text(encoding="utf-8")
        facts = json.loads(text)["metadata"]["aba"]
        before = dict(facts["parameters"])
    except (OSError, ValueError, KeyError, TypeError):
        return "not made by aba report"
    if facts.get("notebook") != job.notebook.stem:
        return f"made from {facts.get('notebook')}"
    for name, value in job.values.items():
        if name != "out" and before.get(name, value) != value:
            return f"made with {name} = {before[name]}"
    return ""


def _job(
    name: str | Path,
    given: Mapping[str, Any],
    out: Path,
    formats: tuple[str, ...],
    labels: Mapping[str, str] | None = None,
) -> _Job:
    path = find(name)
    known = parameters_of(path)
    parameters = check_parameters(path, given)
    if "results" in parameters:
        parameters["results"] = str(Path(str(parameters["results"])).absolute())
    values = {key: parameters.get(key, known[key].default) for key in known}
    job = _Job(path.absolute(), parameters, values, out, formats, labels or {})
    if "out" in known and "out" not in parameters:
        # Reports that differ in more than the data set would overwrite one another's figures.
        own_folder = set(job.labels) - {"dataset"}
        parameters["out"] = values["out"] = str(out / job.stem if own_folder else out)
    return job


def _folder(out: str | Path) -> Path:
    folder = Path(out).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(f"cannot write reports to {out}: {error.strerror}") from error
    return folder


def _formats(formats: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        given = repr(unknown[0]) if unknown else "none"
        raise ReportError(f"unknown format {given}; known: {', '.join(FORMATS)}")
    if "pdf" in formats:
        find_chromium()
    return tuple(dict.fromkeys(formats))


def find_chromium() -> str:
    """The browser that prints PDF. Raises ReportError where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        path = shutil.which(name)
        if path is not None:
            return path
    raise ReportError(
        "format pdf needs Chromium or Google Chrome on the PATH: install one; "
        "format html needs none and prints well"
    )


def _print_pdf(page: Path, pdf: Path) -> None:
    """The page as PDF. The browser itself prints it: it needs no driver for a page without scripts,
    and asks the network for nothing."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's sandbox refuses root
    with tempfile.TemporaryDirectory() as profile:
        printed = subprocess.run(
            [
                find_chromium(),
                *("--headless", "--disable-gpu", "--no-first-run", "--no-pdf-header-footer"),
                *("--disable-background-networking", "--disable-sync", "--disable-quic"),
                *(["--no-sandbox"] if root else []),
                f"--user-data-dir={profile}",
                f"--print-to-pdf={pdf.resolve()}",
                page.resolve().as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
    if not pdf.is_file():
        raise ReportError(f"Chromium printed no PDF: {printed.stderr.strip()[-200:]}")


class _Processes:
    """The running notebooks, so that an interrupt can end them; their kernels end with them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self.stopped = False

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
        """Exit code and what the process said."""
        with self._lock:
            if self.stopped:
                return 1, "interrupted"
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C reaches us alone
            )
            self._running.add(process)
        try:
            said, _ = process.communicate()
        except BaseException:
            self.stop()
            process.communicate()
            raise
        finally:
            with self._lock:
                self._running.discard(process)
        return process.returncode, said

    def stop(self) -> None:
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.terminate()


def _environment(runtime: str) -> dict[str, str]:
    """One thread, inline figures, this `analysis`, and nothing of the user's IPython profile."""
    path = os.environ.get("PYTHONPATH")
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {
        **os.environ,
        **dict.fromkeys(threads, "1"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": str(ROOT) + (os.pathsep + path if path else ""),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "IPYTHONDIR": runtime,
        "JUPYTER_RUNTIME_DIR": runtime,
    }


def _run(job: _Job, processes: _Processes) -> Outcome:
    """Execute in a process of its own: a crash there, or its event loop, is not ours."""
    started = time.monotonic()
    # The runtime folder holds the kernel's sockets, whose paths must be short.
    with (
        tempfile.TemporaryDirectory(prefix=f".{job.stem}-", dir=job.out) as work,
        tempfile.TemporaryDirectory(prefix="aba-", ignore_cleanup_errors=True) as runtime,
    ):
        task = {
            "notebook": str(job.notebook),
            "parameters": job.parameters,
            "values": job.values,
            "formats": job.formats,
            "runtime": runtime,
        }
        (Path(work) / "task.json").write_text(json.dumps(task), encoding="utf-8")
        command = [sys.executable, "-m", "analysis.reports", work]
        code, said = processes.run(command, _environment(runtime))
        if processes.stopped:  # what is there from an earlier call stays
            raise KeyboardInterrupt
        result = Path(work) / "result.json"
        if code == 0 and result.is_file():
            error = json.loads(result.read_text(encoding="utf-8"))["error"]
        else:
            last = said.strip().splitlines()[-1:] or [f"exit code {code}"]
            error = f"the process of the notebook ended: {last[0]}"
        seconds = time.monotonic() - started
        executed = Path(work) / "executed.ipynb"
        if not executed.is_file():
            shutil.copyfile(job.notebook, executed)
        _stamp(executed, job, seconds, error)
        files = []
        for kind, name in (("ipynb", "executed.ipynb"), ("html", "page.html"), ("pdf", "page.pdf")):
            source, target = Path(work) / name, job.out / f"{job.stem}.{kind}"
            if source.is_file():
                os.replace(source, target)
                files.append(target)
            elif kind in job.formats:
                # What an earlier call left there would be taken for this one's.
                target.unlink(missing_ok=True)
    return Outcome(
        job.notebook.stem,
        job.values,
        seconds,
        "failed" if error else "finished",
        tuple(files),
        error,
        {k: v for k, v in job.parameters.items() if k not in ("results", "out")},
    )


def _stamp(executed: Path, job: _Job, seconds: float, error: str) -> None:
    """Write into the executed copy what the index says of it."""
    notebook = json.loads(executed.read_text(encoding="utf-8"))
    notebook["metadata"]["aba"] = {
        "notebook": job.notebook.stem,
        "parameters": job.values,
        "varied": dict(job.labels),
        "seconds": round(seconds, 1),
        "status": "failed" if error else "finished",
        "error": error,
        "toolkit": _version(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    executed.write_text(json.dumps(notebook, indent=1, ensure_ascii=False), encoding="utf-8")


# --- in the notebook's process -------------------------------------------------------------------


def _work(folder: Path) -> None:
    """Execute the task in a folder: executed.ipynb, page.html, page.pdf and result.json."""
    import logging

    import nbformat
    import papermill
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from papermill.exceptions import PapermillExecutionError

    class ThisInterpreter(AsyncKernelManager):
        """A kernel of this very Python, whatever kernels the user has installed."""

        @property
        def kernel_spec(self) -> KernelSpec:
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=command, display_name="Python 3", language="python")

        def __init__(self, **traits: Any) -> None:
            super().__init__(**traits)
            self.connection_file = str(Path(task["runtime"]) / "kernel.json")
            if os.name == "posix":  # sockets in a folder of our own: no race for free ports
                self.transport = "ipc"
                self.ip = str(Path(task["runtime"]) / "k")

    for name in ("papermill", "nbclient", "nbconvert", "traitlets"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    source = Path(task["notebook"])
    notebook = nbformat.read(source, as_version=4)
    os.chdir(folder)  # papermill takes braces in an absolute path for placeholders
    error = ""
    try:
        papermill.execute_notebook(
            notebook,
            "executed.ipynb",
            task["parameters"],
            kernel_name="python3",
            language="python",  # a notebook of the user's own may not say
            progress_bar=False,
            log_output=False,
            cwd=str(source.parent),
            kernel_manager_class=ThisInterpreter,
        )
    except PapermillExecutionError as problem:
        error = f"cell In [{problem.exec_count}]: {problem.ename}: {problem.evalue}"
    except Exception as problem:  # a kernel that died, a time-out
        error = f"{type(problem).__name__}: {problem}"
    error = " ".join(error.split())
    executed = Path("executed.ipynb")
    if executed.is_file() and {"html", "pdf"} & set(task["formats"]):
        text = to_html(nbformat.read(executed, as_version=4), source.stem, task["values"], error)
        page = Path("page.html")
        page.write_text(text, encoding="utf-8")
        if "pdf" in task["formats"]:
            _print_pdf(page, Path("page.pdf"))
        if "html" not in task["formats"]:
            page.unlink()
    Path("result.json").write_text(json.dumps({"error": error}), encoding="utf-8")


# --- pages ---------------------------------------------------------------------------------------


def to_html(notebook: Any, name: str, parameters: Mapping[str, Any], error: str = "") -> str:
    """A page that needs nothing but itself: figures inside, code behind a switch, no scripts."""
    from jinja2 import DictLoader
    from nbconvert.exporters import HTMLExporter
    from pygments.formatters import HtmlFormatter

    exporter = HTMLExporter(
        template_name="basic",
        template_file="report.html.j2",
        extra_loaders=[DictLoader({"report.html.j2": _TEMPLATE})],
    )
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    exporter.exclude_anchor_links = True
    page = {
        "title": _title(notebook) or name,
        "style": _STYLE + HtmlFormatter(style="default").get_style_defs(".highlight"),
        "error": error,
        "facts": f"{name}; aba-toolkit {_version()}; {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "parameters": {k: _short(v) for k, v in parameters.items() if k != "out" and v != ""},
    }
    text, _ = exporter.from_notebook_node(notebook, resources={"page": page})
    return text


def _short(value: Any) -> Any:
    """A path inside the repository without what lies above it."""
    return value.removeprefix(f"{ROOT}{os.sep}") if isinstance(value, str) else value


def _title(notebook: Mapping[str, Any]) -> str:
    for cell in notebook["cells"]:
        found = re.search(r"^# +(.+)$", "".join(cell["source"]), re.MULTILINE)
        if cell["cell_type"] == "markdown" and found:
            return found[1].strip()
    return ""


def _said(notebook: Mapping[str, Any], kind: str) -> list[str]:
    """The texts that a notebook marked as "data" or "answer" when it showed them."""
    texts = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if kind in output.get("metadata", {}).get("aba", {}):
                texts.append(str(output["metadata"]["aba"][kind]))
    return texts


def write_index(out: str | Path) -> Path:
    """Write out/index.html, the front page of all reports in a folder, from the executed copies."""
    out = Path(out)
    entries = []
    for path in sorted(out.glob("*.ipynb")):
        try:
            notebook = json.loads(path.read_text(encoding="utf-8"))
            facts = notebook["metadata"]["aba"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a notebook of the user's own
        entries.append(_entry(path, notebook, facts))
    exports = [
        f'<a href="{name}/">{name}/</a> ({count} files)'
        for name in ("figures", "tables")
        if (count := sum(1 for _ in (out / name).glob("*.*")))
    ]
    text = _INDEX.format(
        style=_STYLE,
        entries="\n".join(entries) or "<p>No reports here yet.</p>",
        exports=f"<p>Vector figures and tables to use elsewhere: {', '.join(exports)}.</p>"
        if exports
        else "",
        version=html.escape(_version()),
        at=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
    )
    target = out / "index.html"
    with _whole_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return target


def _entry(path: Path, notebook: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    kinds = {"html": "page", "pdf": "PDF", "ipynb": "notebook"}
    there = [kind for kind in kinds if path.with_suffix(f".{kind}").is_file()]
    link = [f'<a href="{html.escape(path.stem)}.{kind}">{kinds[kind]}</a>' for kind in there]
    title = html.escape(_title(notebook) or path.stem)
    varied = [f"{n} {label}" for n, label in facts.get("varied", {}).items() if n != "dataset"]
    title += html.escape(f" ({', '.join(varied)})") if varied else ""
    if (path.parent / path.stem).is_dir():
        link.append(f'<a href="{html.escape(path.stem)}/">figures and tables</a>')
    dataset = html.escape(str(facts["parameters"].get("dataset", "")))
    status = "finished" if facts["status"] == "finished" else f"failed: {facts['error']}"
    data = [f"<li>{html.escape(text)}</li>" for text in _said(notebook, "data")]
    if dataset and not data:
        data = [f"<li>Data set: {dataset}</li>"]
    answers = [f"<li>{html.escape(text)}</li>" for text in _said(notebook, "answer")]
    return f"""<section class="{html.escape(facts["status"])}">
<h2><a href="{html.escape(path.stem)}.{there[0]}">{title}</a></h2>
<p class="status">{html.escape(status)}</p>
<ul class="answers">{"".join(answers)}</ul>
<ul class="facts">{"".join(data)}
<li>{facts["seconds"]:.0f} s on {html.escape(facts["at"][:10])}, aba-toolkit \
{html.escape(facts["toolkit"])}: {", ".join(link)}</li></ul>
</section>"""


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place once it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)


# --- what the notebooks use ----------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """The checked parameters of a notebook, and how it shows and exports what it found.

    out: the folder for figures and tables, None for no export.
    """

    dataset: str
    results: Path
    preset: str = ""
    metric: str = "validation_accuracy"
    confidence: float = 0.95
    seed: int = 0
    out: Path | None = None

    @property
    def metric_label(self) -> str:
        return METRICS[self.metric]

    @property
    def look(self) -> Look:
        """How the standard figures and tables of `exhibits` are computed."""
        from analysis.exhibits import Look

        return Look(self.metric, self.confidence, self.seed)

    def rng(self) -> np.random.Generator:
        """The random numbers of a bootstrap: new from the seed, whatever ran before."""
        import numpy as np

        return np.random.default_rng(self.seed)

    def load(self, study: str) -> StudyResult:
        """A study's results; shows in one line what they are and what is missing of them.

        Raises `results.ResultsError`, which says the command to run, where there are none.
        """
        from analysis import results

        found = results.load(self.results, study, self.dataset, self.preset)
        note = found.declaration.study.note
        summary = found.summary() + (f" {note}" if note else "")
        self._show(summary[0].upper() + summary[1:], "data")
        if found.missing:
            shown = ", ".join(f"{arm} (seed {seed})" for arm, seed in found.missing[:5])
            more = len(found.missing) - 5
            tail = f" and {more} more" if more > 0 else ""
            self._show(f"**{len(found.missing)} runs are missing:** {shown}{tail}.")
        return found

    def load_if_there(self, study: str) -> StudyResult | None:
        """`load`, or None for a study that a notebook can do without."""
        from analysis.results import ResultsError

        try:
            return self.load(study)
        except ResultsError:
            return None

    def answer(self, sentence: str) -> None:
        """Show a sentence of the answer; the front page of the reports repeats it."""
        self._show(sentence, "answer")

    def note(self, text: str) -> None:
        """Show text (Markdown)."""
        self._show(text)

    def show(self, exhibit: Exhibit, zoom: float = 1.4, seeds: pd.DataFrame | None = None) -> None:
        """Show a standard figure or table of `exhibits`; export it with its data and caption.

        seeds: as in `table`.
        """
        from analysis import exhibits

        figure = exhibits.draw(exhibit) if exhibit.draw is not None else None
        if self.out is not None:
            command = exhibits.command(
                _short(str(self.results)),
                self.dataset,
                self.look,
                exhibits.Files(width=exhibit.width),
                preset=self.preset,
            )
            exhibits.write(exhibit, self.out, command=command, figure=figure)
        if figure is None:
            self._rows(exhibit.data, exhibit.columns, exhibit.digits, seeds)
        else:
            self._picture(figure, exhibit.description, zoom)

    def table(
        self,
        name: str,
        table: pd.DataFrame,
        columns: Sequence[str] | None = None,
        digits: int = 1,
        seeds: pd.DataFrame | None = None,
    ) -> None:
        """Show a table by `tables.present`; export it as tables/<name>-<dataset>.csv, .tex, .md.

        Where somebody sits before it, a table of the 27 is one to sort and filter. seeds: the
        single runs behind it, from `interactive.by_seed`.
        """
        from analysis import exhibits, tables

        if self.out is not None:
            target = self.out / "tables" / f"{name}-{self.dataset}"
            with exhibits.whole_files(target) as stem:
                tables.save_table(table, stem, digits, columns)
        self._rows(table, columns, digits, seeds)

    def _rows(
        self,
        table: pd.DataFrame,
        columns: Sequence[str] | None,
        digits: int,
        seeds: pd.DataFrame | None,
    ) -> None:
        from IPython.display import HTML, display

        from analysis import interactive, tables

        plain = _html_table(tables.present(table, digits, columns))
        if "index" in table and interactive.attended():
            widget = interactive.table_widget(table, columns, digits, seeds)
            interactive.show_widget(widget, {"text/html": plain})
        else:
            display(HTML(plain))

    def figure(self, name: str, figure: Figure | Axes, description: str, zoom: float = 1.4) -> None:
        """Show a figure and export it as figures/<name>-<dataset>.pdf, .svg, .png.

        description: what a reader who cannot see it is told. zoom: size on the screen over that
        on paper.
        """
        from matplotlib.figure import Figure

        from analysis import exhibits, figures

        whole = figure if isinstance(figure, Figure) else figure.get_figure(root=True)
        assert isinstance(whole, Figure)
        if self.out is not None:
            with exhibits.whole_files(self.out / "figures" / f"{name}-{self.dataset}") as stem:
                figures.save_figure(whole, stem)
        self._picture(whole, description, zoom)

    def _picture(self, whole: Figure, description: str, zoom: float) -> None:
        from IPython.display import Image, display
        from matplotlib import pyplot as plt

        picture = io.BytesIO()
        whole.savefig(picture, format="png", dpi=96 * zoom * 2)
        width = round(whole.get_size_inches()[0] * 96 * zoom)
        plt.close(whole)  # or the notebook would show it a second time
        display(Image(picture.getvalue(), width=width, alt=description))

    def _show(self, text: str, kind: str = "") -> None:
        from IPython.display import Markdown, display

        display(Markdown(text), metadata={"aba": {kind: text}} if kind else {})


def page(**parameters: Any) -> Page:
    """The one check of a notebook's parameters, at its top, also when somebody runs it by hand.

    Paths are relative to the repository. Raises ReportError for a value that is not allowed.
    Parameters that are not fields of `Page` are checked too.
    """
    for name, value in parameters.items():
        check_value(name, value)
    fields = {name: parameters[name] for name in Page.__dataclass_fields__ if name in parameters}
    fields["results"] = ROOT / parameters.get("results", "results")
    fields["out"] = ROOT / parameters["out"] if parameters.get("out") else None
    return Page(**fields)


_SYMBOLS = {"Neutral": "●", "Delta": "▼", "Epsilon": "▲"}
_NUMBER = re.compile(r"[−<]?\d[\d.]*( \[.*\])?|–")


def _html_table(shown: pd.DataFrame) -> str:
    """Text cells as an HTML table: numbers to the right, groups in their colours."""
    from analysis.figures import COLOURS

    right = [all(_NUMBER.fullmatch(cell) for cell in shown[name]) for name in shown.columns]
    align = [' style="text-align: right"' if r else ' style="text-align: left"' for r in right]

    def cell(text: str, style: str) -> str:
        safe = html.escape(text)
        if text in _SYMBOLS:
            mark = f'<span style="color: {COLOURS[text]}">{_SYMBOLS[text]}</span>'
            safe = f"{mark} {safe}"
        return f"<td{style}>{safe}</td>"

    head = "".join(f"<th{a}>{html.escape(str(n))}</th>" for n, a in zip(shown, align, strict=True))
    rows = [
        "".join(cell(text, style) for text, style in zip(row, align, strict=True))
        for row in shown.to_numpy()
    ]
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    return f'<table class="numbers"><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>'


# --- templates -----------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #1b1b1b;
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1.25rem 3rem; }
main > div > p, main p, main li { max-width: 46rem; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0.8rem 0 0.6rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 0.5rem; }
a { color: #0b5394; }
img { max-width: 100%; height: auto; display: block; margin: 0.8rem 0; }
table { border-collapse: collapse; margin: 0.8rem 0; font-size: 0.875rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.22rem 0.75rem; vertical-align: baseline; text-align: left; }
td { white-space: nowrap; }
thead th { border-top: 2px solid #1b1b1b; border-bottom: 1px solid #1b1b1b;
  vertical-align: bottom; }
tbody tr:last-child td { border-bottom: 2px solid #1b1b1b; }
tbody tr:nth-child(even) { background: #f5f5f5; }
.scroll { overflow-x: auto; }
pre { overflow-x: auto; padding: 0.6rem 0.8rem; background: #f6f6f6; font-size: 0.8125rem;
  line-height: 1.4; }
.error, .failed .status { color: #8a1c00; }
.error { border-left: 4px solid #8a1c00; padding: 0.4rem 0.9rem; background: #fdf1ee; }
.switch { float: right; font-size: 0.875rem; color: #555; margin: 0.9rem 1.25rem 0 0; }
label.switch { margin-right: 0.3rem; }
#show-code:not(:checked) ~ main .code { display: none; }
footer { margin-top: 3rem; border-top: 1px solid #ccc; padding-top: 0.6rem; font-size: 0.8125rem;
  color: #555; overflow-wrap: anywhere; }
section { border-top: 1px solid #ccc; }
section h2 { margin-top: 1.2rem; }
.answers li { font-weight: 600; }
.facts li { color: #555; font-size: 0.875rem; }
.finished .status { color: #2b6a2b; }
.status { margin: 0; font-size: 0.875rem; }
@page { margin: 15mm; }
@media print { .switch, .code { display: none; } html, body { font-size: 11.5px; }
  main { max-width: none; padding: 0; } .scroll { overflow: visible; }
  th, td { padding: 0.15rem 0.5rem; }
  img, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""

_TEMPLATE = """\
{%- extends 'basic/index.html.j2' -%}
{% block header %}<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ resources.page.title | e }}</title>
<style>{{ resources.page.style }}</style></head><body>
<input type="checkbox" id="show-code" class="switch"><label for="show-code" class="switch">\
Show code</label>
<main>
{% if resources.page.error %}<p class="error">This report is not complete. \
{{ resources.page.error | e }}</p>{% endif %}
{% endblock header %}
{% block input_group %}<div class="code">{{ cell.source | highlight_code(metadata=cell.metadata) }}\
</div>{% endblock input_group %}
{% block data_html %}<div class="scroll">{{ output.data['text/html'] }}</div>{% endblock %}
{% block data_png %}<img src="data:image/png;base64,{{ output.data['image/png'] | trim }}"\
{% set width = output | get_metadata('width', 'image/png') %}\
{% if width %} width="{{ width }}"{% endif %}\
 alt="{{ (output | get_metadata('alt', 'image/png') or 'Figure') | e }}">{% endblock %}
{% block footer %}<footer>{{ resources.page.facts | e }}.
{% for name, value in resources.page.parameters.items() %}{{ name | e }} = {{ value | e }}\
{{ '; ' if not loop.last }}{% endfor %}</footer></main></body></html>
{% endblock footer %}
"""

_INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Reports on attribution-based augmentation</title>
<style>{style}</style></head><body><main>
<h1>Reports on attribution-based augmentation</h1>
{entries}
{exports}
<footer>aba-toolkit {version}; {at} UTC</footer>
</main></body></html>
"""


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
