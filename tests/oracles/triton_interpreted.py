"""Run by test_triton with TRITON_INTERPRET=1: every kernel against its twin, on the CPU."""

import torch

from aba_core.kernels import on_gpu
from aba_core.methods.aba import adjust
from aba_core.randomness import _bits, _unit_interval
from aba_core.selection import Percentiles, order_of_ties

generator = torch.Generator().manual_seed(3)
tried = 0
for shape, step in (((7,), 3), ((2, 5, 1), 2**40), ((1, 3000), torch.tensor([9])), ((0, 4), 1)):
    stream = torch.randint(-(2**62), 2**62, shape, generator=generator)
    index = torch.randint(0, 2**50, (shape[-1],), generator=generator)
    expected = _unit_interval(_bits(stream, step, index))
    assert torch.equal(on_gpu.uniforms(stream, step, index), expected)
    tried += 1
print("draws", tried)

tried = 0
for features in (2, 17, 64):
    for number in range(6):
        split = (Percentiles(0.1, 0.9), Percentiles(0.5), Percentiles(0.2, 0.4, 0.7))[number % 3]
        maps = torch.randn(6, features, generator=generator).round(decimals=number % 3)
        maps[torch.rand(maps.shape, generator=generator) < 0.2] = -0.0
        maps[0, 0] = torch.inf if number % 2 else -torch.inf
        x = torch.randn(6, features, generator=generator)
        changes = torch.randn(6, split.categories, generator=generator)
        ones = torch.ones(6)
        expected = adjust(x, split.masks(maps), changes, 1.0, ones)
        ranks = order_of_ties(features, x.device)[1]
        found = on_gpu.moved(x, maps, ranks, changes, split.boundaries(features))
        assert torch.equal(found, expected), (features, split)
        tried += 1
print("selection", tried)

tried = 0
for dtype in (torch.float32, torch.float64):
    for width in (1, 5, 1500):
        vectors = [torch.randn(3, width, generator=generator, dtype=dtype) for _ in range(4)]
        vectors[3] = vectors[3].abs()
        rates = torch.rand(3, 1, generator=generator, dtype=dtype)
        own, other = ([v.clone() for v in vectors] for _ in range(2))
        rest = (rates, torch.tensor(0.6, dtype=dtype), 0.01, (0.1, 0.001, 1e-8))
        on_gpu.adam(*own, *rest)
        on_gpu.plain_adam(*other, *rest)
        for one, two in zip(own, other, strict=True):
            torch.testing.assert_close(one, two)
        tried += 1
print("adam", tried)
print("small example", on_gpu.disagreements("cpu"))
