"""Dropout by counters: every mask is a function of (seed, step, module, call, element).

PyTorch's dropout draws from a generator's state, so a run's masks would depend on the runs beside
it. Here they are hashes (`randomness`, purpose "dropout"): the same for a run alone, among 27
neighbours, stacked under `vmap` and one by one. All passes of one training step share their masks.

Sources: Srivastava et al. 2014 (dropout), Tompson et al. 2015 (of whole channels), Klambauer et
al. 2017 (alpha dropout, which keeps mean and variance of SELU networks).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from aba_core.randomness import random_bits, uniform

# Which of the leading dimensions have masks of their own: None, every element; otherwise samples
# and channels. The number is the input's dimensions with a batch; with fewer there is none.
_KINDS: dict[type[nn.Module], int | None] = {
    nn.Dropout: None,
    nn.AlphaDropout: None,
    nn.Dropout1d: 3,
    nn.Dropout2d: 0,  # PyTorch takes three dimensions for a batch too, and so do we
    nn.Dropout3d: 5,
    nn.FeatureAlphaDropout: 0,
}
_SELU = -1.7580993408473766  # what SELU tends to on the left

# Within a step, masks are numbered by module and by call of that module; the last number seeds the
# generator of models that draw in other ways.
_CALLS = 2**10
_NUMBERS = 2**20

SEED, STEP = "dropout_seed", "dropout_step"


def counted(module: nn.Module) -> bool:
    """Whether this is a dropout that counters replace."""
    return type(module) in _KINDS and _probability(module) > 0


def _probability(module: nn.Module) -> float:
    p: Any = module.p
    return float(p)


class Masks:
    """The dropouts of one model, drawing by counters from now on.

    The model's root gets two buffers, `dropout_seed` and `dropout_step`, which whoever runs it
    fills. `restart` before each pass: a module called twice draws two masks. again: whether a mask
    was asked for on a way back, as checkpointing does, which no counter of calls can serve.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.calls: Counter[int] = Counter()
        self.again = False
        dropouts = [module for module in model.modules() if counted(module)]
        for number, module in enumerate(dropouts):
            module.forward = partial(self._drop, module, number)  # type: ignore[method-assign, assignment]
        device = next((value.device for value in model.parameters()), None)
        for name in (SEED, STEP):
            model.register_buffer(name, torch.zeros((), dtype=torch.int64, device=device))

    def restart(self) -> None:
        self.calls.clear()

    def _drop(self, module: nn.Module, number: int, x: Tensor) -> Tensor:
        if not module.training:
            return x
        self.again |= torch._C._current_graph_task_id() != -1
        call = self.calls[number]
        self.calls[number] += 1
        step = self.model.get_buffer(STEP) * _NUMBERS + number % _CALLS * _CALLS + call % _CALLS
        return dropped(module, x, self.model.get_buffer(SEED), step)


def dropped(module: nn.Module, x: Tensor, seed: Tensor, step: Tensor) -> Tensor:
    """What a dropout in train mode makes of x. step: counts steps, modules and calls."""
    dimensions = _KINDS[type(module)]
    shape = x.shape
    if dimensions is not None:
        lead = 2 if x.dim() >= dimensions else 1
        shape = torch.Size((*x.shape[:lead], *(1,) * (x.dim() - lead)))
    place, p = torch.arange(shape.numel(), device=x.device), _probability(module)
    kept = (uniform(seed, "dropout", step, place) >= p).to(x.dtype).view(shape)
    if isinstance(module, nn.AlphaDropout | nn.FeatureAlphaDropout):
        scale = 0.0 if p == 1 else ((_SELU**2 * p + 1) * (1 - p)) ** -0.5
        return x * (kept * scale) + (1 - kept) * (scale * _SELU) - scale * _SELU * p
    return x * (kept * (0.0 if p == 1 else 1 / (1 - p)))


def generator_seed(seed: Tensor, step: Tensor) -> int:
    """What PyTorch's generator starts a pass from, in models that draw from it."""
    last = step * _NUMBERS + (_NUMBERS - 1)
    return int(random_bits(seed, "dropout", last, torch.zeros_like(seed)))


@contextmanager
def generators(seed: int | None, device: torch.device) -> Iterator[None]:
    """PyTorch's generators of the CPU and of the device, started from the seed (None: as they are)
    and afterwards as they were before."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            for one in cuda:
                with torch.cuda.device(one):
                    torch.cuda.manual_seed(seed)
        yield
