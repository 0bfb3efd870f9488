"""Triton's kernels give the tensor code's numbers, in Triton's interpreter on a CPU: in a process
of its own, since it is chosen when Triton is imported."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from aba_core.kernels import on_gpu

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": paths} | more


@needs_triton
def test_kernels_agree_with_the_tensor_code_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, str(HERE / "oracles" / "triton_interpreted.py")],
        env=environment(TRITON_INTERPRET="1"),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["draws 4", "selection 18", "adam 6", "small example []"]


def tools() -> bool:
    """Whether Triton is here with what makes machine code for a GPU, and what reads it."""
    if find_spec("triton") is None:
        return False
    from triton import knobs

    try:
        return all(
            Path(tool.path).is_file() for tool in (knobs.nvidia.ptxas, knobs.nvidia.cuobjdump)
        )
    except RuntimeError:  # it finds none
        return False


@pytest.mark.skipif(not tools(), reason="Triton is not installed, or without ptxas")
def test_kernels_compile_for_gpus_and_keep_a_sample_in_registers(tmp_path):
    """Without a GPU. One of them once did not compile, which the interpreter cannot tell, and one
    kept 336 bytes a thread in memory."""
    done = subprocess.run(
        [sys.executable, str(HERE / "oracles" / "triton_compiled.py"), "80", "90"],
        env=environment(TRITON_CACHE_DIR=str(tmp_path)),
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    kernels = [line for line in done.stdout.splitlines() if not line.startswith("double")]
    for name, launches in (("uniforms", 3), ("moved", 18), ("adam", 6)):
        assert sum(line.startswith(f"{name} sm_90") for line in kernels) == launches
    for line in kernels:
        stack, local, shared, _ = (int(number) for number in line.split()[3::2])
        assert stack <= 16 and local == 0 and shared <= 48 * 1024, line
    constants = [line for line in done.stdout.splitlines() if line.startswith("double")]
    assert len(constants) == 8 and all(line.endswith("True") for line in constants), constants


def test_what_has_a_way_back_is_left_to_the_tensor_code(monkeypatch):
    """Activations of a hidden layer once lost theirs."""
    monkeypatch.setattr(on_gpu, "applies", lambda *values: True)  # as on a GPU
    h, maps = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3)
    assert on_gpu.selects(h.detach(), maps) and not on_gpu.selects(h, maps)
    with torch.no_grad():
        assert on_gpu.selects(h, maps)


def test_a_cpu_never_uses_them():
    assert not on_gpu.applies(torch.zeros(3))
    assert not on_gpu.selects(torch.zeros(2, 3), torch.zeros(2, 3))


def test_the_tensor_code_of_adam_is_torchs():
    value = torch.randn(1, 5, dtype=torch.float64)
    slope, other = torch.randn(1, 5, dtype=torch.float64), value.clone().requires_grad_()
    first, second = torch.zeros_like(value), torch.zeros_like(value)
    optimizer = torch.optim.Adam([other], lr=0.1, weight_decay=0.02)
    for step in range(1, 4):
        other.grad = slope.clone()
        optimizer.step()
        rate = torch.tensor([[0.1 / (1 - 0.9**step)]], dtype=torch.float64)
        correction = torch.tensor((1 - 0.999**step) ** 0.5, dtype=torch.float64)
        on_gpu.plain_adam(
            value, slope, first, second, rate, correction, 0.02, (1 - 0.9, 1 - 0.999, 1e-8)
        )
        torch.testing.assert_close(value, other.detach())
