"""Runners on one folder share a study: each run is trained once, whoever ends how."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from aba_core.arms import Arm
from analysis import plan, runner
from analysis import results as store
from analysis.sharing import Share
from analysis.store import leases as module
from analysis.store.leases import Leases
from analysis.store.verify import verify
from analysis.study import Study

ROOT = Path(__file__).parents[1]


def study(seeds: int = 3) -> Study:
    config = {"dataset": "digits", "model": "mlp", "epochs": 1, "batch_size": 20}
    return Study(name="s", dataset="digits", config=config, arms=(Arm.of("vanilla"),), seeds=seeds)


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "leases").glob("*.json"))


def python(code: str, *arguments: object) -> subprocess.Popen:
    """A process of its own: what it prints can be read line by line."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


HOLD = """
import sys, time
from pathlib import Path
from analysis.store.leases import Leases
with Leases(Path(sys.argv[1])) as leases:
    print(leases.claim("c"), flush=True)
    time.sleep(600)
"""


# --- one lease -----------------------------------------------------------------------------------


def test_one_runner_holds_a_chunk_until_it_gives_it_back(tmp_path):
    with Leases(tmp_path) as one, Leases(tmp_path) as other:
        assert one.claim("c") and one.claim("c") and not other.claim("c")
        assert other.holder("c") == one.owner and one.holder("c") is None
        assert other.claim("d")
        one.release("c")
        assert other.holder("c") is None and other.claim("c") and not one.claim("c")
    assert files_of(tmp_path) == []


def test_of_racing_claims_one_succeeds(tmp_path):
    code = """
import sys, time
from pathlib import Path
from analysis.store.leases import Leases
with Leases(Path(sys.argv[1])) as leases:
    print("ready", flush=True)
    sys.stdin.readline()
    print(" ".join(f"c{n}" for n in range(300) if leases.claim(f"c{n}")), flush=True)
    sys.stdin.readline()
"""
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    for process in racing:
        assert process.stdout.readline() == "ready\n"
    for process in racing:
        process.stdin.write("\n")
        process.stdin.flush()
    taken = [process.stdout.readline().split() for process in racing]
    for process in racing:
        process.communicate("\n")
    assert sorted(name for names in taken for name in names) == sorted(f"c{n}" for n in range(300))
    assert files_of(tmp_path) == []


def test_the_chunk_of_a_killed_runner_is_free_at_once_and_its_leases_are_swept(tmp_path):
    killed = python(HOLD, tmp_path)
    assert killed.stdout.readline() == "True\n"
    with Leases(tmp_path) as leases:
        assert not leases.claim("c") and leases.holder("c").pid == killed.pid
        killed.kill()  # and not waited for: a zombie is gone too
        while leases.holder("c"):
            time.sleep(0.01)
        assert leases.claim("c")
        assert files_of(tmp_path) == ["c.0.json", "c.1.json"]
    assert files_of(tmp_path) == []
    killed.communicate()
    again = python(HOLD, tmp_path)
    assert again.stdout.readline() == "True\n"
    again.kill()
    again.communicate()
    with Leases(tmp_path):
        assert files_of(tmp_path) == []
    assert list((tmp_path / "leases").iterdir()) == []


def test_a_process_of_the_same_number_is_another(tmp_path, monkeypatch):
    with Leases(tmp_path) as leases:
        leases.claim("c")
        monkeypatch.setattr(module, "_start_of", lambda pid: "later")
        assert leases.owner.gone
        with Leases(tmp_path) as other:
            assert other.holder("c") is None


@pytest.mark.parametrize(("age", "free"), [(100.0, False), (140.0, True), (-1e6, False)])
def test_of_another_host_a_lease_runs_out_when_nobody_touches_it(tmp_path, monkeypatch, age, free):
    """By the clock of the file system: that of this host is 10 years off."""
    with Leases(tmp_path) as far_away:
        far_away.claim("c")
        path = tmp_path / "leases" / "c.0.json"
        touched = path.stat().st_mtime
        monkeypatch.setattr(module, "_this_host", lambda: "another")
        monkeypatch.setattr(time, "time", lambda: touched + 3e8)
        os.utime(path, (touched - age, touched - age))
        with Leases(tmp_path) as here:
            assert here.claim("c") == free
    assert files_of(tmp_path) == []


def test_a_lease_that_is_held_is_touched(tmp_path):
    with Leases(tmp_path, heartbeat=0.01) as leases:
        leases.claim("c")
        path = tmp_path / "leases" / "c.0.json"
        os.utime(path, (1, 1))
        while path.stat().st_mtime == 1:
            time.sleep(0.01)


def test_whoever_was_stopped_too_long_does_not_take_the_lease_of_the_next(tmp_path, monkeypatch):
    slow = Leases(tmp_path)
    with slow:
        slow.claim("c")
        os.utime(tmp_path / "leases" / "c.0.json", (1, 1))
        monkeypatch.setattr(module, "_this_host", lambda: "another")
        with Leases(tmp_path) as second:
            assert not slow._held.keys() - {"c"} and second.claim("c")
            second.release("c")
            with Leases(tmp_path) as third:
                assert third.claim("c")
                slow.release("c")
                assert slow.holder("c") == third.owner


def test_an_unreadable_lease_counts_until_it_runs_out(tmp_path):
    with Leases(tmp_path) as leases:
        path = tmp_path / "leases" / "c.0.json"
        path.write_text("")
        assert not leases.claim("c")
        os.utime(path, (1, 1))
        assert leases.claim("c")


def test_without_links_a_lease_is_made_exclusively_all_the_same(tmp_path, monkeypatch):
    def no_links(*paths):
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with Leases(tmp_path) as one, Leases(tmp_path) as other:
        assert one.claim("c") and not other.claim("c") and other.holder("c") == one.owner
    assert files_of(tmp_path) == []


# --- a study in several hands --------------------------------------------------------------------


def share_of(folder: Path, leases: Leases, spec: Study) -> Share:
    return Share(plan.resolve(spec), folder, leases, look=0.01)


def test_what_is_taken_is_passed_over_by_others_and_what_was_finished_is_left_out(tmp_path):
    spec = study()
    with Leases(tmp_path) as one, Leases(tmp_path) as other:
        mine, theirs = share_of(tmp_path, one, spec), share_of(tmp_path, other, spec)
        assert mine.wait() and theirs.wait() and len(mine) == len(theirs) == 3
        first = next(iter(mine))
        assert [chunk.seeds for chunk in theirs] == [(1,), (2,)]
        store.write_chunk(tmp_path, "runs", first.name, rows_of(first))
        mine.keep(first)
        assert [chunk.seeds for chunk in mine] == [] and theirs.elsewhere == 0
        for chunk in list(theirs):
            assert chunk.seeds in ((1,), (2,))
        assert (mine.lacking, theirs.elsewhere) == (2, 1)


def rows_of(chunk: plan.Chunk) -> list[dict[str, object]]:
    return [
        {
            "key": key, "chunk": chunk.name, "arm": arm, "seed": seed, "status": "finished",
            "validation_accuracy": 90.0, "validation_loss": 0.5, "seconds": 1.0,
        }
        for arm, seed, key in chunk.runs
    ]  # fmt: skip


def test_an_engine_that_gives_nothing_back_is_not_asked_for_ever(tmp_path):
    def forgetful(chunks, report):
        for _ in chunks:
            yield from ()

    def idle(chunks, report):
        return iter(())

    for engine in (forgetful, idle):
        done = runner.run(study(), tmp_path, device="cpu", engine=engine)
        assert done.computed == 0 and len(done.result.missing) == 3
    assert files_of(tmp_path) == []


def test_a_failure_gives_leases_back(tmp_path):
    def fails(chunks, report):
        next(iter(chunks))
        assert len(files_of(tmp_path)) == 1
        raise ValueError("made up")
        yield

    with pytest.raises(ValueError, match="made up"):
        runner.run(study(), tmp_path, device="cpu", engine=fails)
    assert files_of(tmp_path) == []


ABA = [sys.executable, "-m", "analysis.cli", "run", "tension", "--device", "cpu"]
ABA += ["--processes", "1", "--seeds", "3", "--set", "epochs=5"]


def started(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*ABA, "--results", str(folder)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def computed(said: str) -> tuple[int, int, int]:
    """Runs computed, by others, found finished."""
    words = said.splitlines()[-1].replace(",", "").split()
    other = int(words[words.index("by") - 1]) if "other" in words else 0
    return int(words[0]), other, int(words[words.index("found") - 1])


def test_two_runners_train_every_run_once(tmp_path):
    two = [started(tmp_path), started(tmp_path)]
    said = [process.communicate(timeout=300) for process in two]
    assert [process.returncode for process in two] == [0, 0], said
    counts = [computed(out) for out, _ in said]
    assert sum(own for own, _, _ in counts) == 21 and all(sum(each) == 21 for each in counts), said
    assert verify(tmp_path).problems == verify(tmp_path).notes == ()
    assert len(list((tmp_path / "runs").iterdir())) == 3 and files_of(tmp_path) == []


@pytest.mark.slow
def test_the_chunk_of_a_runner_that_is_killed_is_trained_by_the_one_that_waits(tmp_path):
    # The first holds a chunk and will never finish it; the second trains the others and waits.
    holding = python(HOLD.replace('"c"', "sys.argv[2]"), tmp_path, _last_chunk(tmp_path))
    assert holding.stdout.readline() == "True\n"
    second = started(tmp_path)
    waiting = next(line for line in second.stderr if line.startswith("waiting for"))
    assert waiting == f"waiting for 1 chunk of process {holding.pid} on {os.uname().nodename}\n"
    assert len(list((tmp_path / "runs").glob("*.parquet"))) == 2
    holding.send_signal(signal.SIGKILL)
    holding.communicate()
    said, errors = second.communicate(timeout=120)
    assert second.returncode == 0 and computed(said) == (21, 0, 0), errors
    frame = store.read_rows(tmp_path, "runs")[0]
    assert isinstance(frame, pd.DataFrame) and len(frame) == 21 and files_of(tmp_path) == []


def _last_chunk(folder: Path) -> str:
    from analysis.studies import find_study

    return plan.resolve(find_study("tension", None, None, 3, ["epochs=5"])).chunks[-1].name
