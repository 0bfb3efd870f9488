"""Processes that train: how they begin, and when they end.

On Linux they are forked from a server that has imported PyTorch, pandas and scikit-learn, which
takes each of them 2 seconds otherwise. The server is a fresh process with one thread, so that
nothing of the caller's threads or locks is inherited; it starts with the first workers, ends with
the calling process, and is nobody else's. On macOS, where system libraries may not survive a fork,
and on Windows, workers begin afresh.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from multiprocessing.context import BaseContext
from typing import Any

# Others' modules alone: which copy of the toolkit is meant, a worker learns from its caller.
PRELOADED = ("torch", "pandas", "sklearn.datasets")
# Numerical libraries read these when they are loaded.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def context() -> BaseContext:
    """How to start processes that train. Call it with `ONE_THREAD` in the environment."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    from analysis import fork_server

    return fork_server.context(PRELOADED)


def begin(counter: Any, environment: Mapping[str, str]) -> None:
    """A worker's first act. counter: of model-steps, shared by all. environment: the caller's now,
    which may not be that in which a server started."""
    global _done
    _done = counter
    os.environ.clear()
    os.environ.update(environment)
    # Ctrl-C reaches the whole process group, SIGTERM of a job all of its processes; the parent
    # alone decides what to do about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


_done: Any = None


def count(model_steps: int) -> None:
    """Add to the model-steps done by all workers."""
    with _done.get_lock():
        _done.value += model_steps


def _end_with_parent() -> None:
    """A parent that was killed can stop nobody: its workers watch it and stop themselves."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
