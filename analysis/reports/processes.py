"""Processes of notebooks: each report's own, begun afresh or forked from a server that has imported
what notebooks import.

A notebook's imports and papermill's take longer than most notebooks. The server takes one line of
JSON a notebook on its standard input, forks a process for it, and writes one line when that ends.
It runs no notebook itself, so none sees what another did. It ends, with all that it forked, when
its input does: a caller that was killed leaves nothing behind.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from aba_core.installation import CHECKOUT

# Elsewhere system libraries may not survive a fork (macOS), or there is none (Windows).
FORKS = sys.platform == "linux"
# What reports and the notebooks shipped here import. Not torch: few notebooks train.
PRELOADED = (
    "papermill",
    "nbconvert.exporters",
    "ipykernel.debugger",
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "matplotlib.backends.backend_pdf",
    "matplotlib.backends.backend_svg",
    "pyarrow.parquet",
    "scipy.stats",
    "analysis.explorer",
    "analysis.reports.forked_kernel",
    "analysis.reports.kernel",
    "analysis.studies.hypotheses",
    "analysis.studies.published",
    "analysis.teaching",
)
# What those that train import besides: at least three of a call that runs them all.
TRAINING = ("aba_core.lessons", "torch._dynamo")  # optimisers import the last
# Collections of garbage are rarer than usual: most find nothing, in a tenth of a report's time.
COLLECTED_FROM = 20_000
# What a notebook's process is told of its own; everything else is the same for all.
OWN = ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR")


def environment(runtime: str) -> dict[str, str]:
    """One thread, inline figures, this `analysis`, code of your own in the current folder, and
    nothing of the user's IPython profile."""
    paths = (str(CHECKOUT or ""), os.environ.get("PYTHONPATH"), os.getcwd())
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {
        **os.environ,
        **dict.fromkeys(threads, "1"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        **dict.fromkeys(OWN, runtime),
    }


class Processes:
    """The running notebooks, so that an interrupt can end them; their kernels end with them.

    warm: fork notebooks from a server, where that is safe. Several notebooks make good its start.
    training: several of them train, so the server imports what that takes.
    """

    def __init__(self, warm: bool = False, training: bool = False) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._warm, self._training = warm and FORKS, training
        self._server: Server | None = None
        self.stopped = False

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, folder: str, runtime: str) -> tuple[int, str]:
        """Exit code of the process of one notebook (see `kernel.execute_task`) and what it printed.
        folder: with its task. runtime: a folder for what kernels keep while they run."""
        server = self.warm_up()
        if server is not None:
            return server.run(folder, runtime)
        command = [sys.executable, "-m", "analysis.reports", folder]
        return self._run_afresh(command, environment(runtime))

    def warm_up(self) -> Server | None:
        """Start the server, where there is to be one, before there is a notebook for it."""
        with self._lock:
            if self._warm and self._server is None and not self.stopped:
                self._server = Server(environment(os.devnull), self._training)
            return self._server

    def _run_afresh(self, command: Sequence[str], given: Mapping[str, str]) -> tuple[int, str]:
        with self._lock:
            if self.stopped:
                return 1, "interrupted"
            process = subprocess.Popen(
                command,
                env=given,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C reaches us alone
            )
            self._running.add(process)
        try:
            printed, _ = process.communicate()
        except BaseException:
            self.stop()
            process.communicate()
            raise
        finally:
            with self._lock:
                self._running.discard(process)
        return process.returncode, printed

    def stop(self) -> None:
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.terminate()
        self.close()

    def close(self) -> None:
        """End the server, and with it what still runs."""
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.close()


class Server:
    """This end of the process that forks notebooks."""

    def __init__(self, given: Mapping[str, str], training: bool) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "analysis.reports", "--serve", *["--training"] * training],
            env=given,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches us alone
        )
        self._lock = threading.Lock()
        self._waiting: dict[str, queue.SimpleQueue[int]] = {}
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def run(self, folder: str, runtime: str) -> tuple[int, str]:
        answer: queue.SimpleQueue[int] = queue.SimpleQueue()
        with self._lock:
            if self._ended:
                return 1, "the server of notebooks ended"
            self._waiting[folder] = answer
            try:
                _send(self._process.stdin, {"folder": folder, "runtime": runtime})
            except OSError:  # it has just ended; the reader says so to all that wait
                pass
        code = answer.get()
        printed = Path(folder) / "printed.txt"
        if not printed.is_file():
            return code, "the server of notebooks ended"
        return code, printed.read_text(encoding="utf-8", errors="replace")

    def _read(self) -> None:
        """Pass answers on; when there are no more, all who wait hear that it ended."""
        for line in self._process.stdout or ():
            answer = json.loads(line)
            with self._lock:
                waiting = self._waiting.pop(answer["folder"])
            waiting.put(answer["code"])
        with self._lock:
            self._ended = True
            for waiting in self._waiting.values():
                waiting.put(1)

    def close(self) -> None:
        """End the server and what it still runs, and wait for that."""
        with self._lock:
            if self._process.stdin is not None and not self._process.stdin.closed:
                try:
                    self._process.stdin.close()
                except OSError:  # it ended with something unread
                    pass
        self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()


def _send(stream: IO[str] | None, message: Mapping[str, Any]) -> None:
    assert stream is not None
    stream.write(json.dumps(message) + "\n")
    stream.flush()


# --- in the server's process ---------------------------------------------------------------------


def serve(training: bool = False) -> None:
    """Fork a process for each notebook that standard input names, until it ends."""
    for name in (*PRELOADED, *TRAINING * training):
        importlib.import_module(name)
    _rehearse()
    # Only Arrow's allocator has a thread by now, and looks after forks itself.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    gc.collect()
    gc.freeze()  # what is shared stays shared
    gc.set_threshold(COLLECTED_FROM)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, str] = {}
    asked = b""
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            for pid in list(running):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    code = os.waitstatus_to_exitcode(status)
                    _send(answers, {"folder": running.pop(pid), "code": code})
        if 0 in ready:
            read = os.read(0, 65536)
            if not read:
                break
            *lines, asked = (asked + read).split(b"\n")
            for line in lines:
                task = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    answers.close()
                    os.close(wake)
                    os.close(woken)
                    _become_notebook(Path(task["folder"]), task["runtime"])
                running[pid] = task["folder"]
    for pid in running:
        os.kill(pid, signal.SIGTERM)
    for pid in running:
        os.waitpid(pid, 0)


def _rehearse() -> None:
    """Write a page once: schemas, selectors and lexers are compiled at their first use."""
    from nbformat import v4

    from analysis.reports import pages

    cells = [v4.new_markdown_cell("# Title"), v4.new_code_cell("1 + 1")]
    pages.to_html(v4.new_notebook(cells=cells), "", {}, "")


def _become_notebook(folder: Path, runtime: str) -> None:
    """The rest of a forked process's life: one notebook. What it prints goes to printed.txt."""
    from analysis.reports.forked_kernel import leaving
    from analysis.reports.kernel import execute_task

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    printed = os.open(folder / "printed.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((nothing, 0), (printed, 1), (printed, 2)):
        os.dup2(source, target)
    os.environ.update(dict.fromkeys(OWN, runtime))
    with leaving():
        execute_task(folder, forked=True)
