"""Full disks and folders that are not ours, for real: one line, and nothing half-written."""

import ctypes
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import results as store
from analysis.store.verify import verify

ROOT = Path(__file__).parents[1]

# Writes chunks of 20 kB as the runner does, a larger one last; errors end as the command's do.
WRITER = """
import random, sys
from pathlib import Path
from aba_core.arms import Arm
from analysis import results as store, terminal
from analysis.store.leases import Leases
from analysis.study import Study

folder, number, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

def write():
    store.sweep(folder)
    keys = {f"k{n}": ("a", n) for n in range(number)}
    study = Study(name="s", dataset="digits", arms=(Arm.of("a"),), seeds=number)
    store.declare(folder, study, keys)
    with Leases(folder) as leases:
        for n in range(number):
            leases.claim(f"c{n}")
            blob = random.Random(n).randbytes(20_000 if n < number - 1 else last)
            store.write_chunk(folder, "runs", f"c{n}", [{
                "key": f"k{n}", "chunk": f"c{n}", "arm": "a", "seed": n, "status": "finished",
                "validation_accuracy": 90.0, "validation_loss": 0.5, "validation_logits": blob,
            }])

sys.exit(terminal.exit_code(write))
"""


def wrote(folder: Path, number: int, last: int = 20_000, **options) -> tuple[int, str]:
    """Exit code of the writer, and what it says."""
    command = [sys.executable, "-c", WRITER, str(folder), str(number), str(last)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)
    return done.returncode, done.stderr


def whole(folder: Path, runs: int) -> None:
    """So many runs, all as they were written, and nothing else."""
    assert len(store.read_rows(folder, "runs")[0]) == runs
    findings = verify(folder)
    assert findings.problems == findings.notes == ()
    assert not [path for path in folder.rglob("*") if path.suffix in (".part", ".owner", ".aside")]
    assert not list((folder / "leases").iterdir())


def test_a_file_that_grows_too_large_ends_in_one_line_and_the_rest_is_kept(tmp_path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    code, said = wrote(tmp_path, 4, 60_000, preexec_fn=limit)
    assert code == 1 and said.count("\n") == 1
    assert said.startswith("aba: [Errno 27] File too large; raise the limit on the size of files")
    whole(tmp_path, 3)
    assert wrote(tmp_path, 4, 60_000) == (0, "")
    whole(tmp_path, 4)


def test_a_disk_that_is_full_ends_in_one_line_and_the_rest_is_kept(tmp_path):
    small, copied = tmp_path / "small", tmp_path / "copied"
    small.mkdir()
    mounted = f"mount -t tmpfs -o size=200k tmpfs {small}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mounted], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here: unshare -rm mount -t tmpfs")
    script = f'{mounted} && {{ "$@"; code=$?; cp -r {small} {copied}; exit $code; }}'
    writer = [sys.executable, "-c", WRITER, str(small), "12", "20000"]
    command = ["unshare", "-rm", "sh", "-c", script, "sh", *writer]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "No space left on device; free some space there; finished runs are kept" in done.stderr
    kept = len(store.read_rows(copied, "runs")[0])
    assert 3 < kept < 12
    shutil.rmtree(copied / "leases", ignore_errors=True)
    (copied / "leases").mkdir()
    whole(copied, kept)
    assert wrote(copied, 12) == (0, "")
    whole(copied, 12)


def as_somebody_else() -> None:
    """Root may write anywhere: this takes it from a process that is about to start another."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.fixture
def read_only(tmp_path) -> Path:
    folder = tmp_path / "results"
    assert wrote(folder, 70) == (0, "")
    (folder / "index").mkdir(exist_ok=True)
    shutil.rmtree(folder / "index")
    for path in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        path.chmod(0o500)
    tried = subprocess.run(
        ["touch", str(folder / "x")], preexec_fn=as_somebody_else, capture_output=True
    )
    if tried.returncode == 0:
        pytest.skip("this user may write to any folder, and cannot give that up")
    yield folder
    for path in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        path.chmod(0o700)


def test_a_folder_that_may_not_be_written_to_is_one_line_and_can_be_read(read_only):
    code, said = wrote(read_only, 71, preexec_fn=as_somebody_else)
    assert code == 1 and said.count("\n") == 1
    assert "Permission denied; choose a folder that you may write to" in said
    before = sorted(path for path in read_only.rglob("*"))
    status = subprocess.run(
        [sys.executable, "-m", "analysis.cli", "status", "--results", str(read_only)],
        cwd=ROOT, capture_output=True, text=True, preexec_fn=as_somebody_else,
    )  # fmt: skip
    assert (status.returncode, status.stderr) == (0, "") and "70/70" in status.stdout
    assert sorted(path for path in read_only.rglob("*")) == before
