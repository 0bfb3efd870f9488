"""Small made-up data sets: clouds of points, one per class, in any input shape."""

import torch
from torch import Tensor

from aba_core.datasets import Split, Splits


def make_split(count: int, shape: tuple[int, ...], classes: int, generator: torch.Generator):
    """`count` samples round class centres that are the same in every split."""
    centres = torch.randn(classes, *shape, generator=torch.Generator().manual_seed(99))
    y = torch.arange(count) % classes
    x = centres[y] + 0.7 * torch.randn(count, *shape, generator=generator)
    return Split(x, y)


def make_splits(
    shape: tuple[int, ...],
    classes: int = 3,
    sizes: tuple[int, int, int] = (14, 9, 7),
    seed: int = 1,
) -> Splits:
    """Training, validation and test split of those sizes."""
    generator = torch.Generator().manual_seed(seed)
    train, validation, test = (make_split(n, shape, classes, generator) for n in sizes)
    return as_splits(train, validation, test, classes, shape)


def as_splits(
    train: Split, validation: Split, test: Split, classes: int, shape: tuple[int, ...]
) -> Splits:
    unit: Tensor = torch.ones(1)
    return Splits(
        train=train,
        validation=validation,
        test=test,
        name="tiny-data",
        subset="tiny",
        subset_seed=0,
        classes=classes,
        class_names=tuple(str(number) for number in range(classes)),
        input_shape=shape,
        mean=torch.zeros(1),
        std=unit,
        notes=(),
        fingerprint="made up",
    )
