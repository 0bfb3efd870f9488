"""Architecture: what an `nn.Module` must be to train here, and how one is started.

A model is built on the CPU from a seed of its own. Parameters with `requires_grad=False` are part
of the model and never trained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from aba_core.randomness import random_bits


def initial_model(build: Callable[[], nn.Module], seed: int, dtype: torch.dtype) -> nn.Module:
    """A model initialised from its seed alone, on the CPU: the same whatever trains it. The
    generators of all devices are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed CUDA's as well
        model = build()
    if not isinstance(model, nn.Module):
        raise ValueError(f"build returned {type(model).__name__}; needed: an nn.Module")
    return model.to(dtype)


def flip_bit(model: nn.Module, seed: int) -> None:
    """Change the last bit of one weight in place, drawn among those that are not 0.

    The smallest change that a model can suffer. Source: Summers and Dinneen, "Nondeterminism and
    instability in neural network optimization" (2021).
    """
    with torch.no_grad():
        weights = torch.cat([value.flatten() for value in model.parameters()])
        candidates = weights.nonzero()[:, 0]
        zero = torch.zeros((), dtype=torch.int64)
        place = int(candidates[random_bits(torch.tensor(seed), "bit", 0, zero) % len(candidates)])
        integers = {torch.float32: torch.int32, torch.float64: torch.int64}[weights.dtype]
        for value in model.parameters():
            if place < value.numel():
                value.view(integers).view(-1)[place] ^= 1
                return
            place -= value.numel()


def trained_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that training moves, by name; one that is shared counts once."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def frozen_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters with `requires_grad=False`, by name."""
    return {name: value for name, value in model.named_parameters() if not value.requires_grad}


def mixes_samples(model: nn.Module) -> bool:
    """Whether a sample's output depends on the batch it is in, even in eval mode: batch norm
    without running statistics, or a module that says so. The map of such a model is that of the
    whole batch."""
    return getattr(model, "mixes_samples", False) is True or any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None
        for module in model.modules()
    )


def duplicate(model: nn.Module) -> nn.Module:
    """A deep copy, or one clear error for a model that cannot be copied."""
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ValueError(
            f"the model {type(model).__name__} cannot be copied ({first_line(error)}); needed: one "
            "that copy.deepcopy takes, as with torch.nn.utils.parametrizations.weight_norm in "
            "place of torch.nn.utils.weight_norm"
        ) from error


def check_tensor(name: str, value: Any) -> None:
    """A tensor, and no array, list or number. Raises ValueError."""
    if not isinstance(value, Tensor):
        kind = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
        raise ValueError(f"{name} is a {kind}; needed: a tensor, as torch.as_tensor({name})")


def check_module(model: Any) -> None:
    """A module, and no function or batch. Raises ValueError."""
    if not isinstance(model, nn.Module):
        shown = type(model).__name__ if isinstance(model, Tensor) else repr(model)
        shown = shown.splitlines()[0][:60]
        raise ValueError(f"model is {shown}; needed: a torch.nn.Module, as the first argument")


def first_line(error: Exception) -> str:
    """An error's message cut to one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
