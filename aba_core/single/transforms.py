"""Random changes of pictures before any method: crops and flips, and torchvision's RandAugment.

They act on pictures in the source's units, in the processes that read them. What is drawn for a
sample depends on (seed, step, place in the batch) and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn import functional

from aba_core.datasets import Splits
from aba_core.libraries import imported
from aba_core.randomness import random_bits, uniform

PURPOSE = "transforms"
Pairs = Sequence[tuple[tuple[str, Any], ...]]
LOOKED_AT = 200  # training pictures, for their range
BYTES_REACH = 64  # bytes of so many pictures reach at least this; other units end at 1 or 16


class Transforms:
    """The transforms of a run. given: as `trainers.Single` has them. seed: the run's."""

    def __init__(self, given: Pairs, seed: int) -> None:
        self.given, self.seed = tuple(given), seed

    def __call__(
        self, picture: Shaped[Tensor, "channel height width"], step: int, place: int
    ) -> Shaped[Tensor, "channel height width"]:
        """The changed picture, shaped and typed like the one given."""
        for number, pairs in enumerate(self.given):
            options = dict(pairs)
            change = _CHANGES[options.pop("kind")]
            places = torch.tensor([place * 8, place * 8 + 1, place * 8 + 2])
            counter = step * 64 + number
            seed = torch.tensor(self.seed)
            drawn = uniform(seed, PURPOSE, counter, places).tolist()
            bits = int(random_bits(seed, PURPOSE, counter, torch.tensor(place * 8 + 3)))
            picture = change(picture, drawn, bits, **options)
        return picture


def check(given: Pairs, splits: Splits) -> None:
    """Raises ValueError where a transform needs a package that is not installed, or pictures, and
    the inputs are something else."""
    if not given:
        return
    shape = splits.input_shape
    if len(shape) != 3:
        raise ValueError(
            f"transforms change pictures [channel, height, width]; the inputs have shape "
            f"{tuple(shape)}"
        )
    if any(dict(pairs)["kind"] == "randaugment" for pairs in given):
        _randaugment(2, 9)
        _check_bytes(splits)


def _check_bytes(splits: Splits) -> None:
    """RandAugment rounds pixels to bytes: of pixels from 0 to 1 it would leave nothing."""
    few = torch.arange(min(LOOKED_AT, len(splits.train)))
    x = splits.train.batch(few) * splits.std + splits.mean
    low, high = float(x.min()), float(x.max())
    if not (-0.5 <= low and BYTES_REACH <= high <= 255.5):
        raise ValueError(
            f"transform 'randaugment' takes pixels from 0 to 255; those of {splits.name} go from "
            f"{low:.3g} to {high:.3g} in the source's units"
        )


def _crop(picture: Tensor, drawn: list[float], bits: int, padding: int) -> Tensor:
    """A crop of the picture's size out of the picture padded by zeros."""
    height, width = picture.shape[1:]
    top, left = (int(u * (2 * padding + 1)) for u in drawn[:2])
    padded = functional.pad(picture, (padding,) * 4)
    return padded[:, top : top + height, left : left + width]


def _flip(picture: Tensor, drawn: list[float], bits: int) -> Tensor:
    """Mirrored left to right, half of the time."""
    return picture.flip(2) if drawn[0] < 0.5 else picture


def _randaugmented(
    picture: Tensor, drawn: list[float], bits: int, ops: int, magnitude: int
) -> Tensor:
    """Torchvision's RandAugment, which draws from PyTorch's generator, here started from bits."""
    kept = picture.dtype
    bytes_ = picture if kept == torch.uint8 else picture.round().clamp(0, 255).to(torch.uint8)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(bits)
        return _randaugment(ops, magnitude)(bytes_).to(kept)


@lru_cache
def _randaugment(ops: int, magnitude: int) -> Callable[[Tensor], Tensor]:
    imported("torchvision", "transform 'randaugment' (the method 'randaugment' does not)")
    from torchvision.transforms import v2

    return v2.RandAugment(ops, magnitude)


_CHANGES: dict[str, Callable[..., Tensor]] = {
    "crop": _crop,
    "flip": _flip,
    "randaugment": _randaugmented,
}
