"""Where a cluster is: a scheduler's address, processes of this machine, or jobs of SLURM.

Whatever is started here listens on loopback unless an option or Dask's own configuration says
otherwise, and speaks TLS with certificates of its own. Workers have one thread each. They neither
spill nor pause: a task holds no data that could be moved away, so both would only stop a training.
A worker that takes 95 % of its limit is ended and started again. The limit is the memory of the
machine, since a share of it would end chunks that fit; in a job of SLURM it is a share of the
job's, which SLURM would otherwise end as a whole.
"""

from __future__ import annotations

import logging
import math
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from aba_core.identity import meant
from aba_core.threads import usable_cores
from analysis.engines import EngineError
from analysis.study import StudyError
from analysis.yaml_text import first_problem

if TYPE_CHECKING:
    from distributed import Client, Security

# Seconds that a scheduler has to answer a new client.
ANSWER_WITHIN = 10
_ADDRESS = re.compile(r"(tcp|tls)://[^/\s:]+:\d{1,5}|(tcp|tls)://\[[0-9a-fA-F:.]+\]:\d{1,5}")
# The options that mean something with each kind of scheduler.
_TLS = ("tls_ca", "tls_cert", "tls_key")
_OPTIONS: dict[str, tuple[str, ...]] = {
    "local": ("workers", "minimum", "memory", "dashboard", "timeout", "shared"),
    "slurm": ("workers", "minimum", "lifetime", "stagger", "timeout", "shared", *_TLS),
    "tcp": ("timeout", "shared"),
    "tls": ("timeout", "shared", *_TLS),
}
# Nothing is spilled and nobody pauses; a chunk is a task that takes long, so each is worth a worker
# to those who scale, and none waits at a worker that is busy.
SETTINGS = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.default-task-durations": {"chunk": "60s"},
}


class Place(BaseModel):
    """Where to train, and how. As options: "name=value".

    scheduler: "tcp://HOST:PORT", "tls://HOST:PORT", "local" or "slurm". workers: processes (local;
    by default one per usable core) or at most (slurm; by default 10). minimum: of workers kept
    without work; fewer than `workers` means that they are started when there is work. timeout:
    seconds to wait while there is no worker. memory: limit of a local worker. dashboard: HOST:PORT
    to listen on. shared: the results folder, where workers can read it under this path. lifetime,
    stagger: of a worker, in Dask's words ("55 minutes"). tls_ca, tls_cert, tls_key: files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheduler: str
    workers: Annotated[int, Field(ge=1)] | None = None
    minimum: Annotated[int, Field(ge=0)] | None = None
    timeout: Annotated[float, Field(gt=0)] | None = None
    memory: str = ""
    dashboard: Annotated[str, Field(pattern=r"^[^/\s]+:\d{1,5}$")] = "127.0.0.1:0"
    shared: Path | None = None
    lifetime: str = ""
    stagger: str = ""
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @field_validator(*_TLS)
    @classmethod
    def _is_a_file(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError(f"{path} is no file; needed: a PEM file")
        return path

    @property
    def kind(self) -> str:
        """ "tcp", "tls", "local" or "slurm"."""
        return self.scheduler.partition("://")[0]

    @property
    def hint(self) -> str:
        """Where workers are to come from."""
        if self.kind == "local":
            return "of this machine"
        if self.kind == "slurm":
            return "in a job of SLURM (squeue --me shows the queue)"
        return f"at {self.scheduler} (dask worker {self.scheduler} --nthreads 1)"

    @property
    def patience(self) -> float:
        """Seconds to wait for a worker. Jobs of SLURM stand in a queue for as long as it takes."""
        return self.timeout or (math.inf if self.kind == "slurm" else 300.0)


def place(scheduler: str, options: Sequence[str] = ()) -> Place:
    """The place that a command line names. Raises StudyError, naming the option."""
    if scheduler not in ("local", "slurm") and not _ADDRESS.fullmatch(scheduler):
        raise StudyError(
            f"unknown scheduler {scheduler!r}{meant(scheduler, ('local', 'slurm'))}; known: local, "
            "slurm, tcp://HOST:PORT, tls://HOST:PORT"
        )
    allowed = _OPTIONS[scheduler.partition("://")[0]]
    given: dict[str, str] = {}
    for option in options:
        name, separator, value = option.partition("=")
        if name not in allowed or not separator or not value:
            raise StudyError(
                f"cluster option {option!r} with scheduler {scheduler!r}; "
                f"allowed: {', '.join(f'{name}=...' for name in allowed)}"
            )
        given[name] = value
    try:
        chosen = Place(scheduler=scheduler, **given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise StudyError(f"cluster option {first_problem(error)}") from error
    _check(chosen)
    return chosen


def _check(place: Place) -> None:
    """What Dask needs to be here, and what it can read. Raises StudyError."""
    try:
        import distributed  # noqa: F401
        from dask.utils import parse_bytes, parse_timedelta
    except ImportError as error:
        raise StudyError(
            "--scheduler needs Dask, which is not installed: pip install 'aba-toolkit[dask]'"
        ) from error
    for name, parse in (
        ("memory", parse_bytes),
        ("lifetime", parse_timedelta),
        ("stagger", parse_timedelta),
    ):
        try:
            parse(getattr(place, name) or "1")
        except (ValueError, KeyError) as error:
            needed = "a size, as 4GiB" if name == "memory" else "a time, as 55m"
            raise StudyError(
                f"cluster option {name} is {getattr(place, name)!r}; needed: {needed}"
            ) from error
    if place.kind == "slurm":
        from analysis.cluster import slurm

        slurm.settings()
    security(place)


@contextmanager
def connected(place: Place, device: str, chunks: int) -> Iterator[Client]:
    """A client of the scheduler; what was started for it ends with it. device: of the chunks.

    Raises EngineError where no scheduler answers.
    """
    import dask
    from distributed import Client

    with ExitStack() as stack:
        stack.enter_context(_silence())
        if place.kind in ("local", "slurm"):
            stack.enter_context(dask.config.set(SETTINGS))
            cluster = stack.enter_context(_started(place, device, chunks))
            yield stack.enter_context(Client(cluster, set_as_default=False))
            return
        try:
            client = Client(
                place.scheduler,
                security=security(place),
                timeout=ANSWER_WITHIN,
                set_as_default=False,
            )
        except OSError as error:
            raise EngineError(_unreachable(place, error)) from error
        yield stack.enter_context(client)


@contextmanager
def _silence() -> Iterator[None]:
    """Dask logs nothing: what is lost is told in one line by those who wait for it."""
    loggers = [
        logging.getLogger(name)
        for name in [*logging.root.manager.loggerDict]
        if name.partition(".")[0] == "distributed"
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _unreachable(place: Place, error: OSError) -> str:
    """Why no connection came about, in one line."""
    reasons = []
    cause: BaseException | None = error
    while cause is not None:
        reasons.append(" ".join(str(cause).split()))
        cause = cause.__cause__ or cause.__context__
    said = next((reason for reason in reversed(reasons) if reason), "")[:160]
    host, _, port = place.scheduler.partition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return f"no scheduler answers at {place.scheduler} within {ANSWER_WITHIN} s: {said}"
    if place.kind == "tls":
        return f"{place.scheduler}: certificates do not go together: {said}"
    return f"{place.scheduler} speaks no Dask, or wants certificates (tls://): {said}"


def security(place: Place) -> Security | None:
    """Certificates from the options, else from Dask's configuration. Raises StudyError where TLS
    lacks one."""
    from distributed import Security

    if place.kind in ("tcp", "local"):
        return None
    files = {name: str(path) for name in _TLS if (path := getattr(place, name))}
    given = {"tls_ca_file": files.get("tls_ca")}
    for role in ("client", "scheduler", "worker"):
        given |= {f"tls_{role}_{part}": files.get(f"tls_{part}") for part in ("cert", "key")}
    chosen = Security(
        require_encryption=True, **{name: value for name, value in given.items() if value}
    )
    there = chosen.get_tls_config_for_role("client")
    lacking = [
        f"tls_{part}"
        for part in ("ca", "cert", "key")
        if not there.get("ca_file" if part == "ca" else part)
    ]
    if len(lacking) == 3 and place.kind == "slurm":
        return None
    if lacking:
        raise StudyError(
            f"scheduler {place.scheduler!r} needs {', '.join(lacking)}: --cluster "
            f"{lacking[0]}=FILE, or Dask's own configuration of TLS"
        )
    return chosen


@contextmanager
def _started(place: Place, device: str, chunks: int) -> Iterator[Any]:
    """A cluster for this call: no more workers than chunks."""
    if place.kind == "slurm":
        from analysis.cluster import slurm

        with slurm.jobs(place, device) as cluster:
            scale(cluster, place.minimum or 0, min(place.workers or 10, chunks))
            yield cluster
    else:
        with _local(place, device, chunks) as cluster:
            yield cluster


@contextmanager
def _local(place: Place, device: str, chunks: int) -> Iterator[Any]:
    """Processes of this machine, on loopback."""
    from distributed import LocalCluster
    from distributed.system import MEMORY_LIMIT

    most = place.workers or (1 if device == "cuda" else usable_cores(math.ceil))
    most = min(most, max(1, chunks))
    with LocalCluster(
        n_workers=0,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=place.dashboard,
        security=True,  # on loopback too: whoever else is on this machine cannot send it code
        memory_limit=place.memory or MEMORY_LIMIT,
        resources={"GPU": 1} if device == "cuda" else {},
        silence_logs=logging.CRITICAL,
        preload=["analysis.cluster.worker"],
        scheduler_kwargs={"allowed_failures": 1},  # no worker is lost here but by its chunk
    ) as cluster:
        scale(cluster, place.minimum, most)
        yield cluster


def scale(cluster: Any, minimum: int | None, most: int) -> None:
    """So many workers; with a lower minimum as many as there is work for."""
    if minimum is None or minimum >= most:
        cluster.scale(most)
    else:
        cluster.adapt(minimum=minimum, maximum=most, interval="500ms")
