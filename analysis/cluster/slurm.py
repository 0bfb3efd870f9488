"""Workers as jobs of SLURM: Dask's own configuration of them (`jobqueue.slurm`), and what is added.

Each worker ends before its job does, some sooner than others, so that it leaves in good order. A
chunk that it trains then is dropped and trained by another. Nodes must reach the scheduler, so it
listens on the network that the configuration names, and wants a certificate of everybody.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cluster.schedulers import SETTINGS, Place, security
from analysis.study import StudyError

if TYPE_CHECKING:
    from distributed import Security


def settings() -> dict[str, Any]:
    """Dask's configuration of SLURM, and the seconds that a job may take. Raises StudyError where
    something needed is not there."""
    if shutil.which("sbatch") is None:
        raise StudyError("scheduler 'slurm' needs sbatch, which is not here")
    try:
        import dask_jobqueue  # noqa: F401  it brings defaults
        from dask import config
    except ImportError as error:
        raise StudyError(
            "scheduler 'slurm' needs dask-jobqueue, which is not installed: "
            "pip install 'aba-toolkit[dask]'"
        ) from error
    given = dict(config.get("jobqueue.slurm"))
    reached = given["interface"] or {"host", "interface"} & set(given["scheduler-options"])
    needed = {"cores": given["cores"], "memory": given["memory"], "interface": reached}
    for name, value in needed.items():
        if not value:
            raise StudyError(
                f"scheduler 'slurm' needs jobqueue.slurm.{name} in ~/.config/dask/jobqueue.yaml, "
                f"or DASK_JOBQUEUE__SLURM__{name.upper()} in the environment"
            )
    return given | {"seconds": walltime_seconds(str(given["walltime"]))}


@contextmanager
def jobs(place: Place, device: str) -> Iterator[Any]:
    """A cluster of no jobs yet: a worker for each core of a job, or one for its GPU."""
    from dask_jobqueue import SLURMCluster

    given = settings()
    lifetime = place.lifetime or f"{0.9 * given['seconds']:.0f}s"
    stagger = place.stagger or f"{0.05 * given['seconds']:.0f}s"
    arguments = [*given["worker-extra-args"], "--lifetime", lifetime, "--lifetime-stagger", stagger]
    if device == "cuda":
        arguments += ["--resources", "GPU=1"]
    prologue = [
        f"export DASK_{name.upper().replace('.', '__')}={value}"
        for name, value in SETTINGS.items()
        if name.startswith("distributed.worker.")
    ]
    # Where nodes find the certificates of this call.
    shared = os.path.expandvars(given["shared-temp-directory"] or ".")
    with tempfile.TemporaryDirectory(prefix=".aba-tls-", dir=Path(shared).expanduser()) as folder:
        with SLURMCluster(
            cores=1 if device == "cuda" else given["cores"],
            processes=1 if device == "cuda" else given["cores"],
            job_cpu=given["job-cpu"] or given["cores"],
            worker_extra_args=[shlex.quote(argument) for argument in arguments],
            job_script_prologue=[*given["job-script-prologue"], *prologue],
            security=security(place) or _certificates(Path(folder).resolve()),
            scheduler_options={"dashboard_address": place.dashboard, **given["scheduler-options"]},
            silence_logs=logging.CRITICAL,
        ) as cluster:
            yield cluster


def _certificates(folder: Path) -> Security:
    """Certificates for one call, as files that only the user can read."""
    from distributed import Security

    made = Security.temporary()
    files = {}
    for name, content in made.get_tls_config_for_role("client").items():
        if content is not None and name in ("ca_file", "cert", "key"):
            files[name] = folder / f"{name}.pem"
            files[name].touch(mode=0o600)
            files[name].write_text(content)
    pairs = {
        f"tls_{role}_{name}": str(files[name])
        for role in ("client", "scheduler", "worker")
        for name in ("cert", "key")
    }
    return Security(tls_ca_file=str(files["ca_file"]), require_encryption=True, **pairs)


def walltime_seconds(text: str) -> float:
    """A time limit as SLURM writes it: "30", "30:00", "1:30:00", "2-12", "2-12:30:00"."""
    days, dash, rest = text.rpartition("-")
    try:
        parts = [int(part) for part in rest.split(":")]
        if dash:
            hours, minutes, seconds = [*parts, 0, 0][:3]
        else:
            hours, minutes, seconds = {1: [0, *parts, 0], 2: [0, *parts], 3: parts}[len(parts)]
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    except (ValueError, KeyError) as error:
        raise StudyError(
            f"jobqueue.slurm.walltime is {text!r}; needed: as 30, 1:30:00 or 2-12:00:00"
        ) from error
