"""A fork server of our own: `multiprocessing` has one for a whole program, with one list of modules
and one environment, which other code may rely on.

It is deaf to Ctrl-C and SIGTERM, as a resource tracker is: a signal to the process group must not
take it from workers whose parent decides to go on.
"""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Sequence
from functools import cache
from multiprocessing import forkserver, popen_forkserver, spawn, util
from multiprocessing.context import (  # type: ignore[attr-defined]
    ForkServerContext,
    ForkServerProcess,
    reduction,
    set_spawning_popen,
)
from typing import Any

_server = forkserver.ForkServer()


class _Popen(popen_forkserver.Popen):
    _fds: list[int]  # what its superclass passes on

    def _launch(self, process_obj: Any) -> None:
        """As in the standard library, with our server in place of the program's."""
        prepared = spawn.get_preparation_data(process_obj._name)
        message = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(prepared, message)
            reduction.dump(process_obj, message)
        finally:
            set_spawning_popen(None)
        # Signals that are blocked now stay so in a server that starts now, and in its workers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            self.sentinel, writer = _server.connect_to_new_process(self._fds)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # Open as long as this process lives: its end tells the worker.
        watched = os.dup(writer)
        self.finalizer = util.Finalize(self, _close, (watched, self.sentinel))
        with open(writer, "wb", closefd=True) as stream:
            stream.write(message.getbuffer())
        self.pid = forkserver.read_signed(self.sentinel)


def _close(*files: int) -> None:
    for file in files:
        os.close(file)


class _Process(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> _Popen:
        return _Popen(process_obj)


class _Context(ForkServerContext):
    Process = _Process


@cache
def context(modules: Sequence[str]) -> _Context:
    """Starts processes that are forked from one that has imported these modules."""
    _server.set_forkserver_preload(list(modules))
    return _Context()
