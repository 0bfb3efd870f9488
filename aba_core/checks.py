"""Checks of what comes from outside: one clear error each, before anything is trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aba_core.architecture import first_line
from aba_core.attribution import Loss, cross_entropy
from aba_core.datasets import Splits


def check_sequence(name: str, values: Any, example: str) -> None:
    """A sequence, and not one value of it. example: what would have been right."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{name} is {values!r}; needed: a sequence, as {example}")


def check_split(split: Any) -> None:
    """A split with its labels, and not a batch."""
    if not (hasattr(split, "batch") and hasattr(split, "y")):
        raise ValueError(
            f"split is a {type(split).__name__}; needed: a Split, as splits.validation or "
            "Split(x, y)"
        )


def check_build(build: Callable[[], nn.Module]) -> None:
    """A function that builds a model, and not a model: each run needs one of its own."""
    if isinstance(build, nn.Module):
        raise ValueError(
            f"build is a module ({type(build).__name__}); needed: a function that returns a "
            f"freshly initialised one, as lambda: {type(build).__name__}(...)"
        )
    if not callable(build):
        raise ValueError(f"build is {build!r}; needed: a function that returns an nn.Module")


def check_labels(splits: Splits, loss: Loss) -> None:
    """Whole-number labels of cross-entropy must be classes; other losses know their own."""
    if loss is not cross_entropy:
        return
    for name in ("train", "validation", "test"):
        y = getattr(splits, name).y
        if y.is_floating_point() or not len(y):
            continue
        for value in (int(y.min()), int(y.max())):
            if not 0 <= value < splits.classes:
                raise ValueError(
                    f"the {name} split has label {value}; allowed: 0 to {splits.classes - 1}"
                )


def warn_of_units(x: Tensor) -> None:
    """A warning where inputs are far from standard units, in which strengths are. Zeros do not
    count: padding and empty pixels are no unit."""
    values = x.detach()[x.detach() != 0]
    if len(values) < 64:
        return
    deviation, mean = float(values.double().std()), float(values.double().mean())
    if 0.4 <= deviation <= 3 and abs(mean) <= 3:
        return
    warnings.warn(
        f"inputs have mean {mean:.3g} and standard deviation {deviation:.3g}; a strength is in "
        "standard units, so standardise them, as splits_from(x, y) does, or choose the strength in "
        "the units of your inputs and silence this",
        stacklevel=3,
    )


def warn_of_emulation(features: frozenset[str]) -> None:
    """A warning for processors of the x86 family that have no products of bf16. features: as
    Linux names them; none where nobody tells."""
    if "sse2" in features and "avx512_bf16" not in features:
        warnings.warn(
            "precision is 'bf16', which this processor emulates (no AVX-512 BF16): steps can take "
            "200 times as long as with 'full'",
            stacklevel=4,
        )


def model_output(model: nn.Module, x: Tensor) -> Tensor:
    """What a model makes of a batch, which must be one tensor with a row a sample."""
    try:
        output: Any = model(x)
    except Exception as error:
        raise ValueError(
            f"the model {type(model).__name__} refuses a batch of shape {tuple(x.shape)} and type "
            f"{x.dtype}: {first_line(error)}"
        ) from error
    needed = "needed: a tensor of logits [batch, classes]"
    if not isinstance(output, Tensor):
        raise ValueError(
            f"the model {type(model).__name__} returns a {type(output).__name__}; {needed}"
        )
    if output.dim() < 2 or len(output) != len(x) or not output.is_floating_point():
        raise ValueError(
            f"the model {type(model).__name__} makes {output.dtype} of shape "
            f"{tuple(output.shape)} of {len(x)} samples; {needed}"
        )
    return output


def check_logits(logits: Tensor, classes: int, loss: Loss) -> None:
    """Cross-entropy needs one logit a class."""
    if loss is cross_entropy and logits.shape != (len(logits), classes):
        raise ValueError(
            f"the model's output has shape {tuple(logits.shape)} for {len(logits)} samples; "
            f"needed: [batch, classes], ({len(logits)}, {classes}) here"
        )


def loss_per_sample(loss: Loss, logits: Tensor, labels: Tensor) -> Loss:
    """The loss, fit for stacked logits [replica, batch, class].

    One that is written for [batch, class] alone, as PyTorch's with reduction="none", is given the
    samples of all replicas at once. Raises ValueError for one that does not give one number a
    sample.
    """
    shapes = f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)}"
    try:
        single = loss(logits, labels)
    except Exception as error:
        raise ValueError(f"the loss refuses {shapes}: {first_line(error)}") from error
    if not isinstance(single, Tensor) or single.shape != (len(logits),):
        shape = tuple(single.shape) if isinstance(single, Tensor) else type(single).__name__
        what = "one number" if shape == () else f"shape {shape}"
        raise ValueError(
            f"the loss gives {what} for a batch of {len(logits)}; needed: one loss a sample; "
            "pass reduction='none'"
        )
    try:
        stacked = loss(torch.stack([logits, logits]), torch.stack([labels, labels]))
        if stacked.shape == (2, len(logits)) and torch.allclose(
            stacked, torch.stack([single, single]), rtol=1e-4, equal_nan=True
        ):
            return loss
    except Exception:
        pass  # it takes no leading axis of replicas

    def flattened(logits: Tensor, labels: Tensor) -> Tensor:
        lead: Sequence[int] = logits.shape[:-1]
        rows = labels.reshape(-1, *labels.shape[len(lead) :])
        return loss(logits.reshape(-1, logits.shape[-1]), rows).reshape(lead)

    return flattened
