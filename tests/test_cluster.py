"""Chunks on a cluster of Dask: the same bits, trained once, and nothing lost when something dies.

Schedulers, workers and clients are real and listen on loopback. Where one must be killed it is a
process of its own; elsewhere they are threads of this one.
"""

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("distributed", reason="the extra dask is not installed")

from distributed import (
    Client,
    LocalCluster,
    Scheduler,
    SpecCluster,
    Worker,
    get_worker,
)  # noqa: E402

from aba_core.arms import Arm  # noqa: E402
from analysis import cluster, plan, runner, schedulers  # noqa: E402
from analysis import results as store  # noqa: E402
from analysis.engines import EngineError  # noqa: E402
from analysis.study import Study, StudyError  # noqa: E402

ROOT = Path(__file__).parents[1]
ARMS = (
    Arm.of("vanilla"),
    Arm.of("both", adjustments="3,4", strength=0.3, target="loss"),
)
# A chunk of this takes a second or so, long enough to be killed in the middle.
LONG = {"epochs": 40}


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
    engine = cluster.choose(address, options)
    return runner.run(spec, folder, device=device, engine=engine)


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
    names, real = [], cluster.train_chunk

    def counted(chunk, count):
        names.append(chunk.name)
        return real(chunk, count)

    monkeypatch.setattr(cluster, "train_chunk", counted)
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
        place += cluster.choose(address)(chunks, lambda done: None)

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
        engine = cluster.choose(address)
        for back, _ in enumerate(engine(chunks, lambda done: None), 1):
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
        cluster.choose("local", (), engine="auto", processes=2)
    with pytest.raises(StudyError, match="--engine gpu with --scheduler local; give one"):
        cluster.choose("local", (), engine="gpu", processes=None)
    assert cluster.choose(None, (), engine="gpu", processes=None) == "gpu"


def test_a_missing_resource_is_said_at_once(tmp_path, address):
    with pytest.raises(EngineError, match="none of the 2 workers at .* has the resource GPU"):
        run(study(), tmp_path, address, device="cuda")


def test_chunks_for_a_gpu_go_to_workers_that_have_one(tmp_path, monkeypatch):
    """Without the device itself, which the worker with the resource then says."""
    where, real = [], cluster.gpu_memory

    def measured(chunk):
        where.append((get_worker().name, len(chunk.seeds)))
        return real(chunk)

    monkeypatch.setattr(cluster, "gpu_memory", measured)
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


def test_other_versions_on_a_worker_are_refused(tmp_path, address, monkeypatch):
    real = cluster.versions

    def versions():
        try:
            get_worker()
        except ValueError:
            return real()
        return real() | {"torch": "1.13.1", "numerics": "0"}

    monkeypatch.setattr(cluster, "versions", versions)
    with pytest.raises(EngineError) as error:
        run(study(), tmp_path, address)
    assert "has numerics 0 (here 1), torch 1.13.1 (here 2." in str(error.value)
    assert not list(tmp_path.rglob("*.parquet"))


def test_without_the_extra_one_line_says_what_to_install(tmp_path):
    code = "import sys\nsys.modules['distributed'] = None\nfrom analysis.cli import main\nmain()"
    command = [sys.executable, "-c", code, "run", "tension", "--results", str(tmp_path)]
    done = subprocess.run([*command, "--scheduler", "local"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "aba: --scheduler needs Dask, which is not installed: pip install 'aba-toolkit[dask]'"
    ]
