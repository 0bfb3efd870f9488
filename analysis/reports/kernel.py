"""One notebook in a process of its own: a crash there, or its event loop, is not ours.

task.json → papermill in a kernel of this interpreter → executed.ipynb, page.html, result.json
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.reports import pages
from analysis.reports.notebook import OR_SHIPPED

# The toolkit's own refusals, which say by themselves what is wrong and what to do.
_TOLD_PLAINLY = (
    *("ComparisonError", "DatasetError", "ExportError", "ReportError", "ResultsError"),
    "StudyError",
)


def _end_with_parent(parent: int, kernels: Sequence[Any], folders: Sequence[str | Path]) -> None:
    """End this process, its kernels and what it wrote, on SIGTERM and when the parent is gone."""

    def end(*_: object) -> None:
        for kernel in kernels:
            pid = getattr(kernel.provisioner, "pid", None)
            if pid is not None:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.3)
        end()

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=watch, daemon=True).start()


def _said_by(problem: Any) -> str:
    """What a failed cell leaves to say, and of an error that nobody foresaw, where it was."""
    if problem.ename in _TOLD_PLAINLY:
        return str(problem.evalue)
    return f"cell In [{problem.exec_count}]: {problem.ename}: {problem.evalue}"


def execute_task(folder: Path, forked: bool = False) -> None:
    """In the process of the notebook: from a folder with task.json make executed.ipynb, page.html,
    page.pdf and result.json in it. forked: the kernel is forked from this process, which has
    imported what kernels import, and not begun afresh."""
    import logging

    # Before there are threads or sockets, which a fork would take with it.
    kernel, metadata = None, {}
    if forked:
        from analysis.reports import forked_kernel

        kernel, metadata = forked_kernel.WaitingKernel(), forked_kernel.register()

    import nbformat
    import papermill
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from papermill.exceptions import PapermillExecutionError

    started: list[ThisInterpreter] = []

    class ThisInterpreter(AsyncKernelManager):
        """A kernel of this same Python, whatever kernels the user has installed."""

        waiting = kernel

        @property
        def kernel_spec(self) -> KernelSpec:
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(
                argv=command, display_name="Python 3", language="python", metadata=metadata
            )

        def __init__(self, **traits: Any) -> None:
            super().__init__(**traits)
            started.append(self)
            self.connection_file = str(Path(task["runtime"]) / "kernel.json")
            if os.name == "posix":  # sockets in a folder of our own: no race for free ports
                self.transport = "ipc"
                self.ip = str(Path(task["runtime"]) / "k")

    for name in ("papermill", "nbclient", "nbconvert", "traitlets"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    parent = os.getppid() if forked else task["parent"]
    _end_with_parent(parent, started, (folder.absolute(), task["runtime"]))
    os.environ.update({OR_SHIPPED: "1"} if task["or_shipped"] else {})
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
        error = _said_by(problem)
    except Exception as problem:  # a kernel that died, a time-out
        error = f"{type(problem).__name__}: {problem}"
    error = " ".join(error.split())
    executed = Path("executed.ipynb")
    if executed.is_file() and {"html", "pdf"} & set(task["formats"]):
        text = pages.to_html(
            nbformat.read(executed, as_version=4), source.stem, task["values"], error
        )
        page = Path("page.html")
        page.write_text(text, encoding="utf-8")
        if "pdf" in task["formats"]:
            pages.print_pdf(page, Path("page.pdf"))
        if "html" not in task["formats"]:
            page.unlink()
    Path("result.json").write_text(json.dumps({"error": error}), encoding="utf-8")
