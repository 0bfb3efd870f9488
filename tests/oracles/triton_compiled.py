"""Run by test_triton where Triton brings ptxas: every kernel is compiled for GPUs as it is
launched, on a machine without one. A line each: kernel, architecture, stack, local and shared
memory in bytes, registers of a thread; then Adam's numbers in double precision in its code.

A pretended driver says that there is such a GPU, and launches end before anything runs. So what is
compiled has the signature, the constants and the number of warps of the launch itself.
"""

import re
import struct
import subprocess
import sys
import tempfile
from types import SimpleNamespace
from typing import Any

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from aba_core.kernels import on_gpu

compiled: list[Any] = []
run = JITFunction.run


def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
    compiled.append((kernel.fn.__name__, run(kernel, *args, grid=grid, warmup=True, **options)))


def resources(cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    found = dict(re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", said))
    return " ".join(f"{name.lower()} {found[name]}" for name in ("STACK", "LOCAL", "SHARED", "REG"))


def launches() -> None:
    """Everything that `on_gpu` launches, at sizes on both sides of what Triton tells apart."""
    for size in (1, 300, 4096):
        counters = torch.zeros(size, dtype=torch.int64)
        on_gpu.uniforms(counters, 3, counters)
    for features in (1, 17, 784, 3072, 12_288, on_gpu.MOST_FEATURES):
        x = torch.zeros(2, features)
        for cuts in (1, 2, 4):
            counts = [features * (cut + 1) // (cuts + 1) for cut in range(cuts)]
            ranks = torch.zeros(features, dtype=torch.int64)
            on_gpu.moved(x, x, ranks, torch.zeros(2, cuts + 1), counts)
    for dtype in (torch.float32, torch.float64):
        for width in (1, 5000, 9_231_114):  # the last: vgg11
            values = torch.empty(1, width, dtype=dtype)
            rates, correction = torch.ones(1, 1, dtype=dtype), torch.ones((), dtype=dtype)
            rest = (rates, correction, 0.01, (1 - 0.9, 1 - 0.999, 1e-8))
            on_gpu.adam(values, values, values, values, *rest)


JITFunction.run = compile_only
for number in map(int, sys.argv[1:]):
    driver.set_active(
        SimpleNamespace(
            get_current_target=lambda number=number: GPUTarget("cuda", number, 32),
            get_current_device=lambda number=number: number,  # kernels are kept by device
            get_current_stream=lambda device: 0,
        )
    )
    compiled.clear()
    launches()
    for name, kernel in compiled:
        print(f"{name} sm_{number} {resources(kernel.asm['cubin'])}")
    double = next(k.asm["ptx"] for n, k in compiled if n == "adam" and ".f64" in k.asm["ptx"])
    for constant in (1 - 0.9, 1 - 0.999, 0.01, 1e-8):
        print("double", constant, f"0d{struct.pack('>d', constant).hex().upper()}" in double)
