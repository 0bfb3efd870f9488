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


@needs_triton
def test_kernels_agree_with_the_tensor_code_in_the_interpreter():
    paths = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(HERE / "oracles" / "triton_interpreted.py")],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": paths},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["draws 4", "selection 18", "adam 6", "small example []"]


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
