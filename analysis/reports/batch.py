"""Reports in batches: several notebooks at a time, each whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from analysis import toolkit_version
from analysis.reports.jobs import (
    Job,
    check_formats,
    make_folder,
    make_job,
    make_jobs,
    refuse_others,
)
from analysis.reports.pages import write_index
from analysis.reports.parameters import ReportError, Scalar, notebooks
from analysis.reports.processes import Processes


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
    job = make_job(name, parameters, Path(out).absolute(), check_formats(formats))
    refuse_others([] if force else [job])
    make_folder(out)
    return _run(job, Processes())


# Its arguments are the options of `aba report`, hence more than eight.
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
    instead: Mapping[str, Mapping[str, Any]] | None = None,
    or_shipped: bool = False,
    force: bool = False,
    started: Callable[[int], None] | None = None,
    processes: Processes | None = None,
) -> list[Outcome]:
    """Run several notebooks (all for no names), `jobs` at a time, and write out/index.html.

    Each notebook gets those of the parameters that it knows; one that none knows is an error.
    A failing notebook does not stop the others. started: called with the number of reports.
    progress: called with each outcome as it comes. Outcomes are in the order of the names, then of
    the variants. The index lists every report in the folder.

    variants: sets of further parameters, as from `grid`; every notebook runs once with each set
    that makes a difference to it. usual: parameters that nobody asked for, for the notebooks that
    know them; instead: by notebook, what stands in their place. or_shipped: nobody asked for the
    usual results either, so that where they lack a study, pages show the shipped results and say
    so.

    Names of the files hold what varies and what is not as usual, numbers of a grid padded so that
    they sort: 02_isolation-digits-confidence=0.90.html; figures and tables are then in a folder of
    that name. So reports of different parameters stand side by side.

    A file that an earlier call wrote for the same notebook and parameters is renewed. Any other
    file in the way, as a report of another results folder, is a ReportError before anything runs,
    unless `force`.

    processes: that several batches share; a batch of several notebooks forks them from a server
    of its own otherwise.
    """
    if jobs < 1:
        raise ReportError(f"jobs is {jobs}; allowed: whole numbers from 1")
    folder, formats = Path(out).absolute(), check_formats(formats)
    work = make_jobs(
        names or notebooks(),
        parameters,
        variants,
        usual or {},
        folder,
        formats,
        instead,
        or_shipped,
    )
    refuse_others([] if force else work)
    make_folder(folder)  # once nothing is refused
    if started is not None:
        started(len(work))
    several, training = len(work) > 1, sum(job.trains for job in work) > 1
    shared, processes = processes, processes or Processes(several, training)

    def run(job: Job) -> Outcome:
        outcome = _run(job, processes)
        if progress is not None:
            progress(outcome)
        return outcome

    with nullcontext() if shared else processes, ThreadPoolExecutor(jobs) as pool:
        try:
            outcomes = list(pool.map(run, work))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            raise
    write_index(folder)
    return outcomes


def _run(job: Job, processes: Processes) -> Outcome:
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
            "or_shipped": job.or_shipped,
            "formats": job.formats,
            "runtime": runtime,
            "parent": os.getpid(),
        }
        (Path(work) / "task.json").write_text(json.dumps(task), encoding="utf-8")
        code, printed = processes.run(work, runtime)
        if processes.stopped:  # what is there from an earlier call stays
            raise KeyboardInterrupt
        result = Path(work) / "result.json"
        if code == 0 and result.is_file():
            error = json.loads(result.read_text(encoding="utf-8"))["error"]
        else:
            last = printed.strip().splitlines()[-1:] or [f"exit code {code}"]
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


def _stamp(executed: Path, job: Job, seconds: float, error: str) -> None:
    """Write into the executed copy what the index says of it."""
    notebook = json.loads(executed.read_text(encoding="utf-8"))
    notebook["metadata"]["aba"] = {
        "notebook": job.notebook.stem,
        "parameters": job.values,
        "varied": dict(job.labels),
        "seconds": round(seconds, 1),
        "status": "failed" if error else "finished",
        "error": error,
        "toolkit": toolkit_version(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    executed.write_text(json.dumps(notebook, indent=1, ensure_ascii=False), encoding="utf-8")
