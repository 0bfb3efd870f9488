# ruff: noqa: E402  what needs Dask is imported where it is there
"""Chunks on a cluster of Dask: the same bits, trained once, and nothing lost when something dies.

Schedulers, workers and clients are real and listen on loopback. Where one must be killed it is a
process of its own; elsewhere they are threads of this one.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil
import pytest

dask = pytest.importorskip("dask", reason="the extra dask is not installed")
pytest.importorskip("distributed", reason="the extra dask is not installed")
pytest.importorskip("dask_jobqueue", reason="the extra dask is not installed")

from distributed import (
    Client,
    LocalCluster,
    Scheduler,
    Security,
    SpecCluster,
    Worker,
    get_worker,
)
from distributed.system import MEMORY_LIMIT

from aba_core.arms import Arm
from analysis import plan, runner
from analysis import results as store
from analysis.cluster import engine, schedulers, slurm, worker
from analysis.engines import EngineError
from analysis.study import Study, StudyError

ROOT = Path(__file__).parents[1]
ARMS = (
    Arm.of("vanilla"),
    Arm.of("both", adjustments="3,4", strength=0.3, target="loss"),
)
# A chunk of this takes a second or so, long enough to be killed in the middle.
LONG = {"epochs": 15}
LONGER = {"epochs": 100}  # in a process of its own, whose shapes nobody checks


def study(**changes):
    config = {"dataset": "digits", "model": "mlp", "epochs": 1, "batch_size": 20}
    fields = dict(name="s", dataset="digits", config=config, arms=ARMS, seeds=3)
    fields |= changes
    fields["config"] = config | changes.get("config", {})
    return Study(**fields)


USUAL = study(config={"mechanism": 1}, keep_logits=True, seeds=2)


def numbers(frame: pd.DataFrame, *within: str) -> pd.DataFrame:
    """What must not depend on where a study was run: everything but times."""
    kept = frame.drop(columns={"seconds", "finished_at"} & set(frame))
    order = [column for column in ("key", *within) if column in kept]
    return kept.sort_values(order).reset_index(drop=True)


def run(spec, folder, address, *options, device="auto"):
    chosen = engine.choose(address, options)
    return runner.run(spec, folder, device=device, engine=chosen)


def threads(**changes):
    """A scheduler and workers in this process, on loopback."""
    fields = dict(n_workers=2, threads_per_worker=1, processes=False, protocol="tcp")
    fields |= dict(host="127.0.0.1", dashboard_address="127.0.0.1:0", memory_limit=0)
    return LocalCluster(**{**fields, **changes})


@pytest.fixture(scope="module")
def address():
    with threads() as here:
        yield here.scheduler_address


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """Results of the study `USUAL` by a process of this machine."""
    folder = tmp_path_factory.mktemp("usual")
    runner.run(USUAL, folder, device="cpu", processes=1)
    return folder


@pytest.fixture
def trained(monkeypatch):
    """The names of the chunks that workers of this process train, as they train them."""
    names, real = [], worker.train_chunk

    def counted(chunk, count):
        names.append(chunk.name)
        return real(chunk, count)

    monkeypatch.setattr(worker, "train_chunk", counted)
    return names


# --- the same numbers ----------------------------------------------------------------------------


def test_a_cluster_gives_the_same_bits_as_processes_of_this_machine(tmp_path, address, usual):
    done = run(USUAL, tmp_path, address)
    assert done.computed == 4 and not done.result.missing
    for kind in ("runs", "mechanism"):
        there, here = (store.read_rows(folder, kind)[0] for folder in (tmp_path, usual))
        assert len(there)
        pd.testing.assert_frame_equal(
            numbers(there, "step"), numbers(here, "step"), check_exact=True
        )


def test_two_clients_that_want_the_same_chunks_have_them_trained_once(address, trained):
    chunks = plan.resolve(study(config=LONG)).chunks
    came: list[list] = [[], []]

    def client(place: list) -> None:
        place += engine.choose(address)(chunks, lambda done: None)

    clients = [threading.Thread(target=client, args=(place,)) for place in came]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    one, two = (sorted((chunk.name, rows["runs"]) for chunk, rows in place) for place in came)
    assert one == two and sorted(trained) == sorted(name for name, _ in one)
    assert len(one) == len(chunks)


def test_a_worker_looks_into_a_shared_folder_before_it_trains(tmp_path, address, usual, trained):
    shared = tmp_path / "shared"
    shutil.copytree(usual, shared)
    run(USUAL, tmp_path / "own", address, f"shared={shared}")
    assert not trained
    damaged = sorted((shared / "runs").iterdir())[0]
    damaged.write_bytes(b"not a table")
    run(USUAL, tmp_path / "again", address, f"shared={shared}")
    assert trained == [damaged.stem]
    for name in ("own", "again"):
        rows, expected = (store.read_rows(f, "runs")[0] for f in (tmp_path / name, usual))
        pd.testing.assert_frame_equal(numbers(rows), numbers(expected), check_exact=True)


def test_nothing_is_kept_on_workers_once_it_is_here(tmp_path, address):
    chunks = plan.resolve(study()).chunks
    with Client(address, set_as_default=False) as client:
        trained = engine.choose(address)(chunks, lambda done: None)
        for back, _ in enumerate(trained, 1):
            deadline = time.monotonic() + 30
            while held(client) > len(chunks) - back and time.monotonic() < deadline:
                time.sleep(0.02)
            assert held(client) <= len(chunks) - back


def held(client) -> int:
    """Chunks whose results lie on workers."""
    return len(client.run_on_scheduler(lambda dask_scheduler: [*dask_scheduler.tasks]))


# --- what cannot be is said before anything waits ------------------------------------------------


@pytest.mark.parametrize(
    ("scheduler", "options", "message"),
    [
        ("tpc://h:1", [], "unknown scheduler 'tpc://h:1'; known: local, slurm, tcp://HOST:PORT"),
        ("tcp://h", [], "unknown scheduler 'tcp://h'"),
        ("local", ["worker=2"], "option 'worker=2' with scheduler 'local'; allowed: workers=..."),
        ("local", ["workers=0"], "workers: Input should be greater than or equal to 1"),
        ("local", ["workers=two"], "workers: Input should be a valid integer"),
        ("local", ["memory=much"], "memory is 'much'; needed"),
        ("slurm", ["lifetime=long"], "lifetime is 'long'; needed"),
        ("tcp://h:1", ["timeout=-1"], "timeout: Input should be greater than 0"),
        ("tcp://h:1", ["timeout=nan"], "timeout: Input should be"),
        ("tcp://h:1", ["tls_ca=/nowhere.pem"], "option 'tls_ca=/nowhere.pem' with scheduler"),
        ("tls://h:1", ["tls_ca=/nowhere.pem"], "/nowhere.pem is no file; needed: a PEM file"),
        ("tls://127.0.0.1:1", [], "'tls://127.0.0.1:1' needs tls_ca, tls_cert, tls_key"),
        (None, ["workers=2"], "cluster option 'workers=2' without --scheduler"),
    ],
)
def test_a_wrong_option_is_named(tmp_path, scheduler, options, message):
    with pytest.raises(StudyError) as error:
        run(study(), tmp_path, scheduler, *options)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*"))


def test_engine_or_processes_beside_a_scheduler_are_refused():
    with pytest.raises(StudyError, match="--processes 2 with --scheduler local; give one"):
        engine.choose("local", (), engine="auto", processes=2)
    with pytest.raises(StudyError, match="--engine gpu with --scheduler local; give one"):
        engine.choose("local", (), engine="gpu", processes=None)
    assert engine.choose(None, (), engine="gpu", processes=None) == "gpu"


def test_a_missing_resource_is_said_at_once(tmp_path, address):
    with pytest.raises(EngineError, match="none of the 2 workers at .* has the resource GPU"):
        run(study(), tmp_path, address, device="cuda")


def test_chunks_for_a_gpu_go_to_workers_that_have_one(tmp_path, monkeypatch):
    """Without the device itself, which the worker with the resource then says."""
    where, real = [], worker.gpu_memory

    def measured(chunk):
        where.append((get_worker().name, len(chunk.seeds)))
        return real(chunk)

    monkeypatch.setattr(worker, "gpu_memory", measured)
    options = {"nthreads": 1, "host": "127.0.0.1", "dashboard": False, "memory_limit": 0}
    on_gpu = {"cls": Worker, "options": {**options, "resources": {"GPU": 1}}}
    workers = {"plain": {"cls": Worker, "options": options}, "one": on_gpu, "two": on_gpu}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False}}
    with SpecCluster(workers, scheduler) as here:
        with pytest.raises(EngineError, match="failed twice: .*CUDA.*, as 1 more did"):
            run(study(seeds=3), tmp_path, here.scheduler_address, device="cuda")
    # A part for each GPU, each tried twice.
    assert {name for name, _ in where} == {"one", "two"}
    assert sorted(seeds for _, seeds in where) == [1, 1, 2, 2]


def test_no_worker_is_said_and_waited_for_in_vain(tmp_path, capsys):
    with threads(n_workers=0) as here:
        with pytest.raises(EngineError, match="no worker at tcp://.* for 1.5 s; finished runs are"):
            run(study(), tmp_path, here.scheduler_address, "timeout=1.5")
        waiting = f"no worker at {here.scheduler_address} (dask worker {here.scheduler_address}"
        assert capsys.readouterr().err.count(waiting) == 1


def test_a_worker_that_comes_later_is_waited_for(tmp_path):
    with threads(n_workers=0) as here:
        later = threading.Timer(1.5, here.scale, (1,))
        later.start()
        assert not run(study(seeds=1), tmp_path, here.scheduler_address).result.missing


def test_a_scheduler_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(schedulers, "ANSWER_WITHIN", 1)
    with pytest.raises(EngineError, match="no scheduler answers at tcp://127.0.0.1:9 within 1 s"):
        run(study(), tmp_path, "tcp://127.0.0.1:9")


def test_a_worker_with_several_threads_is_refused(tmp_path):
    with threads(n_workers=1, threads_per_worker=2) as here:
        with pytest.raises(EngineError, match="worker tcp://.* has 2 threads; needed: --nthreads"):
            run(study(), tmp_path, here.scheduler_address)


def test_a_shared_folder_that_a_worker_does_not_see_is_refused(tmp_path, address):
    elsewhere = f"shared={tmp_path / 'elsewhere'}"
    with pytest.raises(EngineError, match="worker tcp://.* has no folder /.*elsewhere; give"):
        run(study(), tmp_path / "results", address, elsewhere)


def test_rows_of_other_data_than_here_are_refused(tmp_path, address, monkeypatch):
    real = worker.train_chunk

    def on_other_data(chunk, count):
        tables = real(chunk, count)
        for row in tables["runs"]:
            row["data"] = "0123456789ab"
        return tables

    monkeypatch.setattr(worker, "train_chunk", on_other_data)
    with pytest.raises(EngineError, match="other data digits: fingerprint 0123456789ab, here"):
        run(study(), tmp_path, address)
    assert not list(tmp_path.rglob("*.parquet"))


def test_several_workers_on_one_gpu_are_refused():
    with pytest.raises(StudyError, match="2 workers with scheduler 'local' and device 'cuda'"):
        engine.choose("local", ["workers=2"]).choose_device("cuda")
    assert engine.choose("local").choose_device("auto") == "cpu"


def test_other_versions_on_a_worker_are_refused(tmp_path, address, monkeypatch):
    other = worker.versions() | {"torch": "1.13.1", "numerics": "0"}
    monkeypatch.setattr(worker, "versions", lambda: other)
    with pytest.raises(EngineError) as error:
        run(study(), tmp_path, address)
    assert "has numerics 0 (here 1), torch 1.13.1 (here 2." in str(error.value)
    assert not list(tmp_path.rglob("*.parquet"))


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(StudyError) as error:
        engine.choose("local")
    assert str(error.value) == (
        "--scheduler needs Dask, which is not installed: pip install 'aba-toolkit[dask]'"
    )


# --- certificates and listeners ------------------------------------------------------------------


def pem_files(security, folder):
    """The options that name a certificate's files."""
    folder.mkdir()
    parts = {"ca": "ca_file", "cert": "client_cert", "key": "client_key"}
    for name, field in parts.items():
        (folder / f"{name}.pem").write_text(getattr(security, f"tls_{field}"))
    return [f"tls_{name}={folder / name}.pem" for name in parts]


def test_a_certificate_is_needed_and_a_wrong_one_is_refused_in_one_line(tmp_path):
    own, other = Security.temporary(), Security.temporary()
    right, wrong = pem_files(own, tmp_path / "own"), pem_files(other, tmp_path / "other")
    mixed = [right[0], *wrong[1:]]  # it trusts the scheduler, which does not trust it
    with threads(n_workers=1, protocol="tls", security=own) as here:
        tls = here.scheduler_address
        for address, options, message in (
            (tls, wrong, "certificates do not go together: "),
            (tls, mixed, "certificates do not go together: "),
            (tls.replace("tls", "tcp"), [], "speaks no Dask, or wants certificates"),
        ):
            with pytest.raises(EngineError, match=message) as error:
                run(study(seeds=1), tmp_path / "results", address, *options)
            assert "\n" not in str(error.value)
        assert not run(study(seeds=1), tmp_path / "results", tls, *right).result.missing


def test_what_is_started_here_listens_on_loopback_alone_and_wants_a_certificate():
    me = psutil.Process()
    before = {connection.laddr for connection in listening(me)}
    with schedulers.connected(schedulers.place("local", ["workers=1"]), "cpu", 1) as client:
        client.wait_for_workers(1)
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        children = me.children(recursive=True)
        addresses = [c.laddr for process in (me, *children) for c in listening(process)]
        started = [address for address in addresses if address not in before]
        assert len(started) >= 3 and {address.ip for address in started} == {"127.0.0.1"}
        (one,) = client.scheduler_info(n_workers=-1)["workers"].values()
        assert one["nthreads"] == 1 and one["memory_limit"] == MEMORY_LIMIT
        memory = client.run(lambda: dask.config.get("distributed.worker.memory"))
        (limits,) = memory.values()
        assert not (limits["target"] or limits["spill"] or limits["pause"])
    assert not [c for child in me.children() for c in listening(child)]


def listening(process):
    return [c for c in process.net_connections() if c.status == psutil.CONN_LISTEN]


@pytest.mark.slow
def test_workers_come_with_work_and_go_without():
    options = ["workers=2", "minimum=0"]
    with schedulers.connected(schedulers.place("local", options), "cpu", 9) as client:
        assert not client.nthreads()
        futures = client.map(time.sleep, [0.4] * 6, key=[f"chunk-{i}" for i in range(6)])
        most = 0
        while not all(future.done() for future in futures):
            most = max(most, len(client.nthreads()))
            time.sleep(0.05)
        client.cancel(futures)
        deadline = time.monotonic() + 30
        while client.nthreads() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert most == 2 and not client.nthreads()


# --- jobs of SLURM -------------------------------------------------------------------------------

SLURM = {
    "cores": 4,
    "memory": "8GiB",
    "interface": "lo",
    "queue": "short",
    "account": "maps",
    "walltime": "01:00:00",
    "worker-extra-args": ["--preload", "site file.py"],
    "job-script-prologue": ["module load python"],
    "job-extra-directives": ["--constraint=skylake"],
}

JOB = """\
#!/usr/bin/env bash

#SBATCH -J dask-worker
#SBATCH -p short
#SBATCH -A maps
#SBATCH -n 1
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH -t 01:00:00
#SBATCH --constraint=skylake
module load python
export DASK_DISTRIBUTED__WORKER__MEMORY__TARGET=False
export DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False
export DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE=False
export DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE=0.95
PYTHON -m distributed.cli.dask_worker tls://127.0.0.1:PORT --name dummy-name --nthreads 1 \
--memory-limit 2.00GiB --nworkers 4 --nanny --death-timeout 60 --preload 'site file.py' \
--lifetime 3240s --lifetime-stagger 180s --interface lo --protocol tls:// \
--tls-ca-file CA --tls-cert CERT --tls-key KEY
"""


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A queue that starts each job at once, as a process of this machine, in place of SLURM."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "sbatch").write_text(
        "#!/bin/sh\n"
        'cp "$1" "$1.job"\n'
        f'setsid sh "$1.job" > {tmp_path}/job.log 2>&1 &\n'
        "echo Submitted batch job $!\n"
    )
    (commands / "scancel").write_text("#!/bin/sh\nkill -TERM -- -$1\n")
    for command in commands.iterdir():
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_job_of_slurm_is_the_configured_one_with_lifetimes_and_tls(sbatch):
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in SLURM.items()}):
        place = schedulers.place("slurm")
        with slurm.jobs(place, "cpu") as here:
            script = here.job_script()
            assert here.scheduler_address.startswith("tls://127.0.0.1:")
            for name in ("CA-FILE", "CERT", "KEY"):
                (file,) = re.findall(rf"--tls-{name.lower()} (\S+)", script)
                assert Path(file).stat().st_mode & 0o077 == 0
                script = script.replace(file, name.removesuffix("-FILE"))
            script = script.replace(sys.executable, "PYTHON")
            assert re.sub(r"(tls://127.0.0.1:)\d+", r"\1PORT", script) == JOB
        place = schedulers.place("slurm", ["lifetime=20m", "stagger=1m"])
        with slurm.jobs(place, "cuda") as here:
            script = here.job_script()
    for part in (
        "#SBATCH --cpus-per-task=4",
        "--nthreads 1 --memory-limit 8.00GiB --nanny",
        "--lifetime 20m --lifetime-stagger 1m --resources GPU=1",
    ):
        assert part in script


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("cores", "needs jobqueue.slurm.cores in .*, or DASK_JOBQUEUE__SLURM__CORES"),
        ("interface", "needs jobqueue.slurm.interface"),
        ("walltime", "walltime is 'None'; needed: as 30, 1:30:00 or 2-12:00:00"),
    ],
)
def test_what_slurm_lacks_is_named(sbatch, missing, message):
    settings = {**SLURM, missing: None}
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in settings.items()}):
        with pytest.raises(StudyError, match=message):
            schedulers.place("slurm")


def test_slurm_without_sbatch_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StudyError, match="needs sbatch, which is not here"):
        schedulers.place("slurm")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 1800), ("30:05", 1805), ("1:30:00", 5400), ("2-12", 216000), ("1-00:30:01", 88201)],
)
def test_a_time_limit_is_read_as_slurm_reads_it(text, seconds):
    assert slurm.walltime_seconds(text) == seconds


@pytest.mark.slow
def test_jobs_come_with_work_and_end_with_it(sbatch):
    settings = SLURM | {"worker-extra-args": [], "job-script-prologue": [], "cores": 1}
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in settings.items()}):
        done = run(study(seeds=2), sbatch / "results", "slurm", "workers=2")
    assert done.computed == 4 and not done.result.missing
    log = (sbatch / "job.log").read_text()
    assert "Start worker at" in log, log
    deadline = time.monotonic() + 60
    while workers_of(sbatch) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not workers_of(sbatch)


def workers_of(folder):
    """Processes that were started in a folder."""
    found = []
    for process in psutil.process_iter(["cwd", "cmdline"]):
        if process.info["cwd"] == str(folder) and "dask_worker" in str(process.info["cmdline"]):
            found.append(process)
    return found


# --- a chunk that fails --------------------------------------------------------------------------


def test_a_chunk_that_fails_is_tried_once_more_alone_and_named(
    tmp_path, address, monkeypatch, capsys
):
    tried, under_way, real = [], [], worker.train_chunk
    bad = plan.resolve(study()).chunks[0].name

    def train_chunk(chunk, count):
        under_way.append(chunk.name)
        tried.append((chunk.name, len(under_way)))
        try:
            if chunk.name == bad:
                raise RuntimeError("the map\nis empty")
            return real(chunk, count)
        finally:
            under_way.remove(chunk.name)

    monkeypatch.setattr(worker, "train_chunk", train_chunk)
    with pytest.raises(EngineError) as error:
        run(study(), tmp_path, address)
    named = f"chunk {bad} ('vanilla' and 1 more arms, seed 0)"
    assert str(error.value).startswith(f"{named} failed twice: RuntimeError: the map is empty;")
    assert capsys.readouterr().err.count(named) == 2
    assert [name for name, _ in tried].count(bad) == 2 and len(tried) == 4
    assert tried[-1] == (bad, 1)
    assert len(store.read_rows(tmp_path, "runs")[0]) == 4
    monkeypatch.setattr(worker, "train_chunk", real)
    assert run(study(), tmp_path, address).computed == 2


@pytest.mark.slow
def test_a_chunk_that_kills_its_workers_ends_in_one_line_beside_good_ones(tmp_path, monkeypatch):
    (tmp_path / "poison.py").write_text(POISON)
    (tmp_path / "study.yaml").write_text(POISONED)
    command = [sys.executable, "-m", "analysis.cli", "run", "study.yaml", "--scheduler", "local"]
    done = subprocess.run(
        [*command, "--cluster", "workers=2"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert all(line.startswith(("aba: ", "mine on digits: ")) for line in lines), done.stderr
    assert "failed twice: 2 workers died of it, the last of them tls://127.0.0.1:" in lines[-1]
    kept = store.read_rows(tmp_path / "results", "runs")[0]
    assert sorted(kept["arm"]) == ["good", "good", "vanilla", "vanilla"]


POISON = """\
import multiprocessing
import os
from dataclasses import dataclass
from typing import ClassVar

from aba_core.methods.base import Method


@dataclass(frozen=True)
class Poison(Method):
    kind: ClassVar[str] = "poison"
    version: ClassVar[int] = 1

    def batch(self, tail, h, y, draws):
        if multiprocessing.parent_process() is not None:  # not where it is tried before the study
            os._exit(9)
        return h, y
"""

# An arm with samples of its own is a chunk of its own.
POISONED = """\
name: mine
dataset: digits
config: {epochs: 1, batch_size: 20, model: mlp}
seeds: 2
arms:
  - {name: vanilla}
  - {name: good, adjustments: "3,4", strength: 0.3, target: loss}
  - {name: bad, method: {use: "poison:Poison"}, subset_per_run: true}
"""


# --- something dies ------------------------------------------------------------------------------


@contextmanager
def running(folder, workers):
    """A scheduler and workers as processes of their own: (address, scheduler, workers)."""
    file = folder / "scheduler.json"
    base = [sys.executable, "-m"]
    here = ["--host", "127.0.0.1", "--scheduler-file", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    quiet = dict(env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started = []

    def start(*command):
        started.append(subprocess.Popen([*base, *command], cwd=folder, **quiet))
        return started[-1]

    try:
        scheduler = start("distributed.cli.dask_scheduler", *here, "--port", "0", "--no-dashboard")
        plainly = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0"]
        others = [start("distributed.cli.dask_worker", *here, *plainly) for _ in range(workers)]
        deadline = time.monotonic() + 60
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        yield json.loads(file.read_text())["address"], scheduler, others
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_killed_worker_costs_its_chunk_and_a_killed_scheduler_the_call(tmp_path, monkeypatch):
    monkeypatch.setattr(schedulers, "ANSWER_WITHIN", 5)  # so long it tries to come back, too
    spec, results, trained = study(config=LONGER, seeds=6), tmp_path / "results", []
    with running(tmp_path, workers=2) as (address, scheduler, workers):

        def progress(label, steps, total):
            saved = 6 * steps // total
            if saved == 1 and workers[0].poll() is None:
                workers[0].kill()
                workers[0].wait()
            if saved == 4 and scheduler.poll() is None:
                trained[:] = trained_chunks(address)
                scheduler.kill()
                scheduler.wait()

        with pytest.raises(EngineError) as error:
            runner.run(spec, results, engine=engine.choose(address), progress=progress)
        workers[1].wait(timeout=60)  # it does not outlive its scheduler for long
    assert f"scheduler at {address} is gone" in str(error.value) and "\n" not in str(error.value)
    assert 4 <= len(trained) <= 6 and len(set(trained)) >= len(trained) - 1
    kept = len(store.read_rows(results, "runs")[0])
    assert 8 <= kept < 12
    again = runner.run(spec, results, device="cpu", processes=1)
    assert (again.reused, again.computed) == (kept, 12 - kept) and not again.result.missing


def trained_chunks(address):
    """The keys of all chunks that came out of a training, as often as they did."""
    with Client(address, set_as_default=False) as client:
        return client.run_on_scheduler(
            lambda dask_scheduler: [
                entry.key for entry in dask_scheduler.transition_log if entry.finish == "memory"
            ]
        )


@pytest.mark.slow
def test_ctrl_c_on_processes_of_this_machine_is_one_line_and_leaves_nobody(tmp_path):
    code = (
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from analysis.cli import main\nmain()"
    )
    command = [sys.executable, "-c", code, "run", "tension", "--seeds", "6", "--scheduler", "local"]
    command += ["--set", "epochs=60", "--cluster", "workers=2", "--results", str(tmp_path)]
    stopped = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    while len(psutil.Process(stopped.pid).children()) < 3 and stopped.poll() is None:
        time.sleep(0.05)
    workers = psutil.Process(stopped.pid).children(recursive=True)
    time.sleep(3)  # they are importing, or training by now
    os.killpg(stopped.pid, signal.SIGINT)
    message = stopped.communicate(timeout=60)[1]
    assert stopped.returncode == 130
    assert message == "aba: stopped; finished runs are kept, the same command continues\n"
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert len(workers) >= 3 and not alive


@pytest.mark.slow
def test_workers_stop_when_their_client_is_killed(tmp_path):
    command = [sys.executable, "-m", "analysis.cli", "run", "tension", "--seeds", "6"]
    command += ["--set", "epochs=300", "--results", str(tmp_path)]
    with threads() as here:
        client = subprocess.Popen(
            [*command, "--scheduler", here.scheduler_address],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        workers = [one.state for one in here.workers.values()]
        while not any(state.executing for state in workers) and client.poll() is None:
            time.sleep(0.05)
        assert client.poll() is None
        client.kill()
        client.wait()
        deadline = time.monotonic() + 30
        while any(state.executing for state in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(state.executing for state in workers)
        assert not here.scheduler.tasks
