"""Data that stay on disk: splits whose samples are read and decoded when a batch needs them.

Only labels and places are in memory. The trainer of one model (`single`) reads batches in worker
processes; `Stream.batch` reads them here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from aba_core.datasets import Splits
from aba_core.quantities import TASKS
from aba_core.sources import DatasetError

# Reads one sample by its place in the source, in the source's own units [*feature].
Read = Callable[[int], Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class Stream:
    """One split of data on disk; it takes the place of a `datasets.Split`.

    read: one sample by its place, in the source's units; it must be picklable, for worker
    processes. index: the samples' places in the source. mean, std: broadcast against one sample.
    """

    read: Read
    y: Shaped[Tensor, " n *target"]
    mean: Tensor
    std: Tensor
    shape: tuple[int, ...]
    index: Int[Tensor, " n"]
    embedding: None = None

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def x(self) -> Float[Tensor, "n *feature"]:
        """All inputs at once, in memory."""
        return self.batch(torch.arange(len(self)))

    def raw(self, index: Int[Tensor, " batch"]) -> list[Tensor]:
        """Samples at `index` in the source's units."""
        return [self.read(place) for place in self.index[index].tolist()]

    def standard(self, raw: Sequence[Tensor]) -> Float[Tensor, "batch *feature"]:
        """Samples in standard units."""
        return torch.stack(list(raw)).float().sub_(self.mean).div_(self.std)

    def batch(self, index: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes_and_feature"]:
        """Inputs at `index` (any shape [...]): [..., *feature], read now."""
        return self.standard(self.raw(index.flatten())).reshape(*index.shape, *self.shape)

    def first(self, count: int) -> Stream:
        """The first so many samples."""
        return self.at(torch.arange(min(count, len(self))))

    def at(self, rows: Int[Tensor, " k"]) -> Stream:
        """The samples at these places of the split."""
        return replace(self, y=self.y[rows], index=self.index[rows])

    def to(self, device: str | torch.device) -> Stream:
        """Itself on the CPU. ValueError for a device: batches move there, one at a time."""
        if torch.device(device).type != "cpu":
            raise DatasetError(f"data on disk cannot move to {device!r} whole; use trainer: single")
        return self

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"<Stream: {len(self)} samples of shape {self.shape}, on disk>"


def streamed(part: Any) -> bool:
    """Whether a split's samples are on disk."""
    return isinstance(part, Stream)


def _tensor(given: Any) -> Tensor:
    """A tensor of its own: an array mapped from a file may not be written to."""
    return given if isinstance(given, Tensor) else torch.from_numpy(np.array(given))


class _Inputs:
    """The inputs of a PyTorch Dataset of pairs (input, label)."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, place: int) -> Tensor:
        return _tensor(self.dataset[place][0])


def streams_from(
    train: Any,
    validation: Any,
    test: Any,
    *,
    classes: int | Sequence[str],
    task: str = "multiclass",
    units: tuple[Any, Any] | None = None,
    name: str = "own",
) -> Splits:
    """Splits of your own that stay on disk, from three PyTorch Datasets of pairs (input, label).

    Each Dataset has a length, gives the same sample whenever it is asked for a place, and can be
    pickled. classes: how many, or their names. units: (mean, std), which broadcast against one
    input; without them both are measured over the training samples, one for each channel of
    pictures, otherwise one for all. All samples are read once, for labels, units and fingerprint;
    none is kept. Raises DatasetError for shapes, labels or numbers that do not fit.
    """
    if task not in TASKS:
        raise DatasetError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    names = tuple(map(str, range(classes) if isinstance(classes, int) else classes))
    digest = hashlib.sha256(f"{name}/{task}/{names}".encode())
    parts = {}
    scanned = {}
    for part, data in (("train", train), ("validation", validation), ("test", test)):
        scanned[part] = _scan(data, part, task, len(names), digest)
    mean, std = scanned["train"].units() if units is None else map(torch.as_tensor, units)
    shape = scanned["train"].shape
    for part, scan in scanned.items():
        if scan.shape != shape:
            raise DatasetError(
                f"inputs of {part} have shape {scan.shape}, those to train on {shape}"
            )
        index = torch.arange(len(scan.labels))
        parts[part] = Stream(scan.read, scan.labels, mean, std, shape, index)
    digest.update(f"{mean.tolist()}/{std.tolist()}".encode())
    return stream_splits(
        parts,
        name=name,
        subset="own",
        subset_seed=0,
        class_names=names,
        task=task,
        fingerprint=digest.hexdigest(),
    )


def stream_splits(
    parts: dict[str, Stream], *, class_names: tuple[str, ...], **given: Any
) -> Splits:
    """Splits of three streams that share their units."""
    train = parts["train"]
    usual: dict[str, Any] = {"notes": (), "mean": train.mean, "std": train.std}
    return Splits(
        **parts,  # type: ignore[arg-type]
        classes=len(class_names),
        class_names=class_names,
        input_shape=train.shape,
        **{**usual, **given},
    )


@dataclass
class _Scan:
    """What one pass over a Dataset tells. sums: number, sum and sum of squares for each channel."""

    read: Read
    labels: Tensor
    shape: tuple[int, ...]
    sums: tuple[int, Tensor, Tensor]

    def units(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation; a constant has deviation 1."""
        number, total, squares = self.sums
        mean = total / number
        std = (squares / number - mean.square()).clamp(min=0).sqrt()
        std = torch.where(std > 1e-6 * (1 + mean.abs()), std, torch.ones_like(std))
        shape = (-1, 1, 1) if len(self.shape) == 3 else (1,) * len(self.shape)
        return mean.float().reshape(shape), std.float().reshape(shape)


def _with_label(labels: np.ndarray, place: int, label: np.ndarray, part: str) -> np.ndarray:
    """Labels with one more, in a type that holds them all."""
    if not place:
        labels = np.zeros((len(labels), *label.shape), label.dtype)
    if label.shape != labels.shape[1:]:
        raise DatasetError(
            f"label {place} of {part} has shape {label.shape}, not {labels.shape[1:]}"
        )
    labels = labels.astype(np.promote_types(labels.dtype, label.dtype), copy=False)
    labels[place] = label
    return labels


def _scan(data: Any, part: str, task: str, classes: int, digest: Any) -> _Scan:
    read, shape = _Inputs(data), None
    # Filled in place: a small piece of memory for each label would lie between those that samples
    # leave, which the next samples could then not take again.
    labels = np.zeros(len(data))
    number, total, squares = 0, torch.zeros(1).double(), torch.zeros(1).double()
    for place in range(len(data)):
        given, label = data[place]
        x = _tensor(given)
        shape = tuple(x.shape) if shape is None else shape
        if tuple(x.shape) != shape or not x.numel() or x.dim() < 1:
            raise DatasetError(f"input {place} of {part} has shape {tuple(x.shape)}, not {shape}")
        if not bool(torch.isfinite(x).all()):
            raise DatasetError(f"input {place} of {part} holds NaN or infinite values")
        digest.update(x.numpy().tobytes())
        values = x.double().flatten(1) if x.dim() == 3 else x.double().reshape(1, -1)
        number += values.shape[1]
        total, squares = total + values.sum(1), squares + values.square().sum(1)
        labels = _with_label(labels, place, np.asarray(label), part)
    if shape is None:
        raise DatasetError(f"{part} is empty; needed: samples")
    y = torch.from_numpy(labels)
    if task == "multiclass":
        if y.is_floating_point() or y.dim() != 1 or not 0 <= int(y.min()) <= int(y.max()) < classes:
            raise DatasetError(f"labels of {part} are no whole numbers from 0 to {classes - 1}")
        y = y.long()
    else:
        y = y.float()
        if task == "multilabel" and tuple(y.shape[1:]) != (classes,):
            raise DatasetError(
                f"labels of {part} have shape {tuple(y.shape[1:])}; needed: ({classes},), 0 or 1"
            )
    digest.update(f"{part}/{tuple(y.shape)}".encode() + y.numpy().tobytes())
    return _Scan(read, y, shape, (number, total, squares))
