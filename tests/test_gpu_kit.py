"""The kit for a machine with a GPU: one folder that is complete, and stages that go on where they
stopped. What the stages ask is tried with made-up cases."""

import json
import math
import os
import subprocess
import sys
import time
from importlib import metadata
from types import SimpleNamespace

import pytest
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
    cases = [(name, case) for name, case in on_gpu.parity("cpu") if name.startswith("method ")]
    assert len(cases) > 50
    assert {name: found for name, case in cases if not (found := case())["good"]} == {}


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


@pytest.mark.parametrize(("needs_say", "stage_says", "code"), [(0, 0, 0), (0, 3, 3), (2, 0, 2)])
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
