"""The kit for a machine with a GPU: one folder that is complete, and stages that go on where they
stopped. What the stages ask is tried with made-up cases."""

import json
import math
import os
import subprocess
import sys
import tarfile
import time
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement

from aba_core import load_dataset
from aba_core.installation import CHECKOUT
from benchmarks import gpu_kit, needs, on_gpu


def test_the_kit_holds_code_data_and_script(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "kit"
    monkeypatch.setattr(sys, "argv", ["gpu_kit", str(folder), "--missing", "--data", "digits"])
    assert gpu_kit.main() == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{folder}: ")
    for name in ("aba_core/training.py", "analysis/cli/running.py", "benchmarks/gpu.sh", "COMMIT"):
        assert (folder / name).is_file()
    assert os.access(folder / "benchmarks/gpu.sh", os.X_OK)
    assert not list(folder.rglob("__pycache__")) and not (folder / "data/results").exists()
    cut = load_dataset("digits", "tiny", mirror=folder / "data/mirror")
    assert cut.fingerprint == load_dataset("digits", "tiny").fingerprint
    with pytest.raises(SystemExit):
        gpu_kit.main()
    assert "is there and not empty" in capsys.readouterr().err


def test_a_kit_that_is_too_large_is_said_to_be(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_kit", str(tmp_path), "--missing", "--data"])
    monkeypatch.setattr(gpu_kit, "MOST", 1000)
    assert gpu_kit.main() == 1
    assert "more than 0 MiB; leave out a data set" in capsys.readouterr().err


def test_what_a_machine_lacks_is_named_before_a_stage(monkeypatch, capsys):
    assert needs.lacking(needs.declared()) == ([], [])
    asked = ["torch>=999", "no-such-thing>=2", "numpy", "other; extra == 'all'", "a; os_name=='z'"]
    missing, older = needs.lacking(asked)
    assert missing == ["no-such-thing>=2"]
    assert len(older) == 1 and older[0].startswith("torch ") and "asked for: >=999" in older[0]
    monkeypatch.setattr(needs, "declared", lambda wheels: asked)
    monkeypatch.setattr(sys, "argv", ["needs"])
    assert needs.main() == 2
    assert "missing here: no-such-thing>=2; name them to" in capsys.readouterr().err


def test_the_kit_brings_what_its_wheels_need():
    """pydantic's import once failed beside an older typing-extensions, which was left out."""
    there = {"requests", "packaging"}  # seen on the machine that the kit is made for
    asked = {line for name in gpu_kit.MISSING for line in metadata.requires(name) or []}
    needed = [Requirement(line) for line in asked if "extra ==" not in line]
    assert "typing-extensions" in {entry.name for entry in needed}
    assert {entry.name for entry in needed} <= {*gpu_kit.MISSING, *there}


def test_a_stage_goes_on_where_it_stopped(tmp_path, monkeypatch):
    calls = []

    def cases(device):
        for name in ("a", "b", "c"):
            yield name, lambda name=name: calls.append(name) or answer[name]()

    def fails():
        raise RuntimeError("CUDA error: made up\nand more")

    answer = {"a": lambda: {"good": True}, "b": fails, "c": lambda: {"good": False}}
    monkeypatch.setitem(on_gpu.CASES, "parity", cases)
    assert not on_gpu.run_cases("parity", "cpu", tmp_path, time.monotonic() - 1)
    assert calls == []
    ticks = iter(range(100))
    clock = SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr(on_gpu, "time", clock)
    assert not on_gpu.run_cases("parity", "cpu", tmp_path, 3.5)
    assert calls == ["a", "b"]
    assert on_gpu.run_cases("parity", "cpu", tmp_path, math.inf)
    assert calls == ["a", "b", "c"]
    found = json.loads((tmp_path / "parity.json").read_text())
    assert found["a"]["good"] and not found["c"]["good"]
    assert found["b"]["error"] == "RuntimeError: CUDA error: made up"
    # The next call tries once more what failed.
    answer["b"] = answer["c"] = lambda: {"good": True}
    assert on_gpu.run_cases("parity", "cpu", tmp_path, math.inf)
    assert len(calls) == 3
    assert on_gpu.run_cases("parity", "cpu", tmp_path, math.inf, again=True)
    assert calls[3:] == ["b", "c"]
    found = json.loads((tmp_path / "parity.json").read_text())
    assert all(case["good"] for case in found.values())


def test_a_case_that_breaks_the_device_is_left_behind_by_the_next_process(tmp_path, monkeypatch):
    """What a kernel breaks fails whatever comes after it in the same process."""
    broken, calls = [], []

    def breaks():
        broken.append(True)
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def check():
        if broken:
            raise on_gpu.DeviceLost("CUDA error: an illegal memory access was encountered")

    cases = {"a": breaks, "b": lambda: calls.append("b") or {"good": True}}
    monkeypatch.setitem(on_gpu.CASES, "parity", lambda device: iter(cases.items()))
    monkeypatch.setattr(on_gpu, "check_device", check)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    command = ["on_gpu", "parity", "--out", str(tmp_path), "--device", "cuda"]
    monkeypatch.setattr(sys, "argv", command)
    assert on_gpu.main() == 4 and not calls
    broken.clear()  # a fresh process
    assert on_gpu.main() == 0 and calls == ["b"] and not broken
    found = json.loads((tmp_path / "parity.json").read_text())
    assert "illegal memory access" in found["a"]["error"] and found["b"]["good"]


def test_a_case_that_ends_its_process_is_known_by_what_was_written_before_it(tmp_path, monkeypatch):
    seen = []

    def looks():
        seen.append(json.loads((tmp_path / "parity.json").read_text())["a"])
        return {"good": True}

    monkeypatch.setitem(on_gpu.CASES, "parity", lambda device: iter([("a", looks)]))
    assert on_gpu.run_cases("parity", "cpu", tmp_path, math.inf)
    assert on_gpu.bad(seen[0]) and "ended its process" in seen[0]["error"]


def test_references_of_other_processes_are_those_of_this_one():
    compared = {
        name: case for name, case in on_gpu._compared() if name in ("mlp, sgd", "mlp, adam")
    }
    expected = on_gpu.References(compared)
    try:
        found = {name: expected(name) for name in compared}
    finally:
        expected.close()
    for name, case in compared.items():
        assert on_gpu.apart(found[name], on_gpu.metrics(*case, "cpu")) < 1e-9


def test_every_model_and_method_is_compared():
    from aba_core.arms import METHODS
    from aba_core.models import MODELS

    names = [name for name, _ in on_gpu.parity("cpu")]
    assert len(names) == len(set(names))
    assert {f"method {kind}" for kind in METHODS} <= set(names)
    for model in MODELS:
        assert {f"{model}, sgd", f"{model}, adam"} <= set(names)


@pytest.mark.slow
def test_every_method_can_be_compared():
    """With the device for its own reference, only a method that cannot train differs."""
    found = {name: case() for name, case in on_gpu.parity("cpu") if name.startswith("method ")}
    assert len(found) > 50 and not any(map(on_gpu.bad, found.values())), found


def test_what_differs_is_seen():
    config = on_gpu.TrainConfig(model="mlp", optimizer="adam", **on_gpu.PRECISE)
    one = on_gpu.metrics(config, on_gpu.Arm("all", on_gpu.MENDABA), "cpu")
    assert on_gpu.apart(one, one) == 0
    assert on_gpu.apart(one, one * (1 + 1e-5)) == pytest.approx(1e-5, rel=1e-3)


def test_recorded_steps_are_used_where_they_agreed(tmp_path):
    assert not on_gpu._graphs_agree(tmp_path)
    path = tmp_path / "graphs.json"
    for last, agree in (
        ({"difference": 1.0}, True),
        ({"good": False}, False),
        ({"error": ""}, False),
    ):
        path.write_text(json.dumps({"x": {"good": True}, "y": last}))
        assert on_gpu._graphs_agree(tmp_path) is agree


def test_the_script_refuses_what_it_does_not_know(tmp_path):
    command = ["bash", str(CHECKOUT / "benchmarks/gpu.sh"), "everything", str(tmp_path / "out")]
    environment = os.environ | {"PYTHON": sys.executable, "WORK": str(tmp_path / "work")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "invalid choice: 'everything'" in done.stderr


@pytest.mark.parametrize(
    ("needs_say", "stage_says", "code"), [(0, 0, 0), (0, 3, 3), (2, 0, 2), (0, 1, 1), (0, 124, 3)]
)
def test_the_script_says_whether_there_is_more_to_do(tmp_path, needs_say, stage_says, code):
    """A stage that its limit stopped once ended with 0, as if it were done."""
    python, called = tmp_path / "python", tmp_path / "called"
    python.write_text(
        f'#!/bin/sh\n[ "$2" = benchmarks.needs ] && exit {needs_say}\n'
        f'echo "$2 $3" >> {called}\nexit {stage_says}\n'
    )
    python.chmod(0o755)
    command = ["bash", str(CHECKOUT / "benchmarks/gpu.sh"), "graphs", str(tmp_path / "out")]
    environment = os.environ | {"PYTHON": str(python), "WORK": str(tmp_path / "work")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert called.exists() == (needs_say == 0)
    if called.exists():
        assert called.read_text() == "benchmarks.on_gpu graphs\n"


def test_the_script_goes_on_in_a_fresh_process_and_from_an_earlier_call(tmp_path):
    """A stage that broke the device is begun again, without what failed; what lies in `previous`
    and what is made in time comes back."""
    python, called = tmp_path / "python", tmp_path / "called"
    python.write_text(
        '#!/bin/bash\n[ "$2" = benchmarks.needs ] && exit 0\n'
        f'echo "$@" >> {called}\n'
        'mkdir -p "$7"; echo run > "$7/run.parquet"; cat "$5/earlier.json"\n'
        f"case $(wc -l < {called}) in 1) exit 4;; 2) exit 139;; esac\n"
    )
    python.chmod(0o755)
    kit, out, work = tmp_path / "kit", tmp_path / "out", tmp_path / "work"
    (kit / "benchmarks").mkdir(parents=True)
    script = kit / "benchmarks/gpu.sh"
    script.write_text((CHECKOUT / "benchmarks/gpu.sh").read_text())
    (kit / "previous").mkdir()
    (kit / "previous/earlier.json").write_text('{"a": 1}')
    with tarfile.open(kit / "previous/results.tar.gz", "w:gz") as archive:
        archive.add(python, "results/before.parquet")
    environment = os.environ | {"PYTHON": str(python), "WORK": str(work)}
    done = subprocess.run(
        ["bash", str(script), "parity", str(out)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.count('{"a": 1}') == 3, done.stderr
    first, *rest = called.read_text().splitlines()
    assert first.endswith("--again") and len(rest) == 2 and not any("--again" in r for r in rest)
    assert json.loads((out / "earlier.json").read_text()) == {"a": 1}
    with tarfile.open(out / "results.tar.gz") as archive:
        assert {"results/before.parquet", "results/run.parquet"} <= set(archive.getnames())
    assert sorted(path.name for path in out.iterdir()) == ["earlier.json", "results.tar.gz"]
