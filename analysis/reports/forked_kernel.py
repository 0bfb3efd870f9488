"""A kernel forked from the process of its notebook, which has imported what kernels import.

It is forked first, while there are no threads and no sockets, and waits to be told its command:
Jupyter's manager knows that only later.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from typing import Any, NoReturn

from ipykernel.kernelapp import IPKernelApp
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

NAME = "aba-forked"


class WaitingKernel:
    """A forked process that becomes a kernel once it is told how; otherwise like a `Popen`."""

    stdin = stdout = stderr = None

    def __init__(self) -> None:
        self.returncode: int | None = None
        told, self._tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._tell)
            _become_kernel(told)
        os.close(told)

    def start(self, command: list[str], cwd: str | None, env: dict[str, str]) -> None:
        message = {"command": command, "cwd": cwd, "env": env, "parent": os.getpid()}
        with os.fdopen(self._tell, "w", encoding="utf-8") as stream:
            json.dump(message, stream)

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int | None:
        if timeout is None:
            return self._wait(0)
        until = time.monotonic() + timeout
        while self.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        return self.returncode

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, options)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _become_kernel(told: int) -> None:
    """The rest of a forked process's life: a kernel, or nothing where nobody ever asks for one."""
    with os.fdopen(told, encoding="utf-8") as stream:
        text = stream.read()
    if not text:
        os._exit(0)
    message = json.loads(text)
    os.setsid()  # signals to the kernel and what it started are for them alone
    os.chdir(message["cwd"] or ".")
    os.environ.clear()
    os.environ.update(message["env"])
    sys.argv = ["ipykernel_launcher.py", *message["command"][3:]]
    with leaving():
        told_parent = f"--IPKernelApp.parent_handle={message['parent']}"
        IPKernelApp.launch_instance([*sys.argv[1:], told_parent])


@contextmanager
def leaving() -> Iterator[NoReturn]:
    """The last thing a forked process does; then it ends, with what libraries do at their end.

    `sys.exit` would go on to take every module apart, and with it copy each page of memory that
    the fork shares: a tenth of a second of a process, and three where PyTorch is loaded."""
    code = 1
    try:
        yield  # type: ignore[misc]
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            atexit._run_exitfuncs()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        finally:
            os._exit(code)


class ForkedProvisioner(LocalProvisioner):
    """Jupyter's provisioner of local kernels, with the `waiting` kernel of its manager."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        waiting: WaitingKernel = self.parent.waiting  # type: ignore[union-attr]
        waiting.start(cmd, kwargs.get("cwd"), kwargs["env"])
        self.process = waiting  # type: ignore[assignment]
        self.pid = self.pgid = waiting.pid  # type: ignore[assignment]
        return self.connection_info


def register() -> dict[str, Any]:
    """Make the provisioner known in this process; the metadata of a kernel that asks for it."""
    value = f"{__name__}:{ForkedProvisioner.__name__}"
    known = KernelProvisionerFactory.instance().provisioners
    known[NAME] = EntryPoint(NAME, value, KernelProvisionerFactory.GROUP_NAME)
    return {"kernel_provisioner": {"provisioner_name": NAME}}
