"""Dropout by counters again: element by element, in plain Python, on one ordinary model."""

import itertools
import math

import torch
from oracles import counter_hash
from torch import Tensor, nn

BY_ELEMENT = (nn.Dropout, nn.AlphaDropout)
BY_CHANNEL = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout)


class SlowDropout:
    """The dropouts of a model, drawing their masks from (seed, step, module, call, element).

    ordinary: leave PyTorch's dropout, drawing from its generator as everything else does. That
    generator starts each pass from a number of its own.
    """

    def __init__(self, model: nn.Module, seed: int, ordinary: bool = False) -> None:
        self.seed, self.step = seed, 0
        self.calls: dict[int, int] = {}
        model.register_forward_pre_hook(self.start)
        number = 0
        for module in model.modules():
            if type(module) in BY_ELEMENT + BY_CHANNEL and not ordinary:
                module.forward = self.dropping(module, number)
                number += 1

    def start(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Before each pass. Inputs are copied, for a model that changes them in place."""
        self.calls = {}
        drawn = counter_hash.bits(self.seed, "dropout", self.step * 2**20 + 2**20 - 1, 0)
        torch.manual_seed(drawn - 2**64 if drawn >= 2**63 else drawn)
        return tuple(x.clone() for x in inputs)

    def dropping(self, module: nn.Module, number: int):
        def forward(x: Tensor) -> Tensor:
            if not module.training:
                return x
            call = self.calls.get(number, 0)
            self.calls[number] = call + 1
            step = self.step * 2**20 + number * 2**10 + call
            whole = x.shape if type(module) in BY_ELEMENT else x.shape[:2]
            factor, shift = torch.zeros_like(x), torch.zeros_like(x)
            for place, index in enumerate(itertools.product(*map(range, whole))):
                kept = counter_hash.uniform(self.seed, "dropout", step, place) >= module.p
                factor[index], shift[index] = what_becomes(module, kept)
            return x * factor + shift

        return forward


def what_becomes(module: nn.Module, kept: bool) -> tuple[float, float]:
    """What a number is multiplied by, and what is added to it."""
    p = module.p
    if not isinstance(module, nn.AlphaDropout | nn.FeatureAlphaDropout):
        return (1 / (1 - p) if kept else 0.0), 0.0
    # Klambauer et al. 2017: dropped ones are set to α', then mean and variance are put right.
    alpha = -1.6732632423543772 * 1.0507009873554805
    a = 1 / math.sqrt((1 - p) * (1 + p * alpha**2))
    b = -a * p * alpha
    return (a, b) if kept else (0.0, a * alpha + b)
