"""Pictures: digits, MNIST and CIFAR-10 from their files to arrays of bytes, without torch.

A reader gives all pictures of a source, in its own order: `datasets` draws the splits.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aba_core.sources import (
    REPLACE,
    DatasetError,
    Places,
    SourceFile,
    check_hash,
    download,
    fetch,
    read_bytes,
    read_checked,
    tar_files,
    unzip,
)


@dataclass(frozen=True)
class Pictures:
    """All pictures of a source, in its own order."""

    images: np.ndarray  # uint8 [n, channel, height, width]
    labels: np.ndarray  # int64 [n]
    test: np.ndarray | None  # positions of the official test set
    index: np.ndarray  # place of each image in the complete source
    notes: tuple[str, ...] = ()


def read_digits(files: Sequence[SourceFile], subset: str, places: Places) -> Pictures:
    """The 1797 digits that come with scikit-learn: no file is looked for."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    labels = bundle.target.astype(np.int64)
    return Pictures(
        images=bundle.images.astype(np.uint8)[:, None],
        labels=labels,
        test=None,
        index=np.arange(len(labels)),
        notes=("scikit-learn's bundled digits, pixel values 0 to 16",),
    )


def read_mnist(files: Sequence[SourceFile], subset: str, places: Places) -> Pictures:
    """The 60000 pictures to train on, then the 10000 to test; four files in that order."""
    arrays = []
    for file in files:
        place, path = fetch(file, places)
        arrays.append(
            _parse_idx(unzip(read_checked(path, file.hashes), path, file.hashes[0]), path)
        )
    train_images, train_labels, test_images, test_labels = arrays
    for images, labels in ((train_images, train_labels), (test_images, test_labels)):
        if images.shape != (len(labels), 28, 28):
            raise DatasetError(f"MNIST: {len(labels)} labels but images of shape {images.shape}")
    labels = np.concatenate([train_labels, test_labels]).astype(np.int64)
    return Pictures(
        images=np.concatenate([train_images, test_images])[:, None],
        labels=labels,
        test=np.arange(len(train_labels), len(labels)),
        index=np.arange(len(labels)),
    )


def _parse_idx(content: bytes, path: Path) -> np.ndarray:
    """An array of bytes in the idx format: 0, 0, 8 (unsigned byte), number of axes, sizes, data."""
    axes = content[3] if len(content) >= 4 and content[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * axes
    if axes not in (1, 3) or len(content) < start:
        raise DatasetError(f"{path} is no idx file of bytes (it starts with {content[:4].hex()})")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", axes, offset=4))
    if len(content) - start != np.prod(shape, dtype=np.int64):
        raise DatasetError(f"{path} announces {shape} bytes but holds {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


# md5 of the files in the official archive
_CIFAR_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
_CIFAR_FOLDER = "cifar-10-batches-py"


@dataclass(frozen=True)
class _CifarSource:
    place: str
    batches: dict[str, Path]  # the batches as separate files; empty where it is the archive
    archive: Path | None = None

    @property
    def missing(self) -> list[str]:
        return [] if self.archive else [name for name in _CIFAR_MD5 if name not in self.batches]


def find_cifar10(file: SourceFile, places: Places) -> _CifarSource | None:
    """The first complete source, else the first with the test batch and two training batches."""
    partial = None
    for place, root in places.roots():
        batches = {}
        for name in _CIFAR_MD5:
            for path in (root / "cifar10" / _CIFAR_FOLDER / form for form in (name, f"{name}.gz")):
                if path.is_file():
                    batches[name] = path
        if len(batches) == len(_CIFAR_MD5):
            return _CifarSource(place, batches)
        archive = root / file.path
        if archive.is_file():
            return _CifarSource(place, {}, archive)
        if partial is None and "test_batch" in batches and len(batches) >= 3:
            partial = _CifarSource(place, batches)
    return partial


def read_cifar10(files: Sequence[SourceFile], subset: str, places: Places) -> Pictures:
    """The training batches that are here, then the test batch; subset "full" needs all of them."""
    (file,) = files
    source = find_cifar10(file, places)
    if source is None:
        source = _CifarSource("cache", {}, download(file, places))
    missing = source.missing
    if missing and subset == "full":
        raise DatasetError(
            f"cifar10 'full' needs all 5 training batches, but {source.place} lacks "
            f"{', '.join(missing)}; add them, or put {file.path} into "
            f"{places.cache}, or unset ABA_DATA_MIRROR to download it; 'tiny' works without them"
        )
    contents = _cifar_members(file, source.archive) if source.archive else None
    images, labels, index = [], [], []
    for number, name in enumerate(_CIFAR_MD5):
        if name in missing:
            continue
        md5 = f"md5:{_CIFAR_MD5[name]}"
        if contents is None:
            path = source.batches[name]
            stored = read_bytes(path)
            content = unzip(stored, path, md5) if path.suffix == ".gz" else stored
        else:
            path, content = Path(str(source.archive), _CIFAR_FOLDER, name), contents[name]
        check_hash(content, (md5,), path)
        batch_images, batch_labels = _parse_cifar_batch(content, path)
        images.append(batch_images)
        labels.append(batch_labels)
        index.append(10000 * number + np.arange(10000))
    total = 10000 * len(images)
    notes: tuple[str, ...] = ()
    if missing:
        notes = (
            f"train pool: {5 - len(missing)} of 5 official batches present, so it is "
            f"{total - 20000} images after validation instead of 40000",
        )
    return Pictures(
        images=np.concatenate(images),
        labels=np.concatenate(labels),
        test=np.arange(total - 10000, total),
        index=np.concatenate(index),
        notes=notes,
    )


def _cifar_members(file: SourceFile, archive: Path) -> dict[str, bytes]:
    content = read_checked(archive, file.hashes)
    contents = {
        name.name: member
        for name, member in tar_files(content, archive)
        if name.parts[0] == _CIFAR_FOLDER and name.name in _CIFAR_MD5
    }
    missing = set(_CIFAR_MD5) - set(contents)
    if missing:
        raise DatasetError(f"{archive} lacks {', '.join(sorted(missing))}; {REPLACE}")
    return contents


class _ArrayUnpickler(pickle.Unpickler):
    """Reads plain containers and NumPy arrays of bytes; any other global is refused.

    A pickle can call whatever it names, so only the three names by which NumPy rebuilds an array
    are let through (CIFAR-10's files, written by Python 2, name no others).
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return _byte_type
        if name == "_reconstruct" and module in (
            "numpy.core.multiarray",
            "numpy._core.multiarray",
        ):
            return _empty_array
        raise pickle.UnpicklingError(f"it names {module}.{name}, which data has no need of")


def _empty_array(kind: Any, shape: tuple[int, ...], code: Any) -> np.ndarray:
    """Stands for NumPy's `_reconstruct`: the empty array that the pickled state then fills."""
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError("it rebuilds something other than a plain array")
    return np.empty(0, np.uint8)


def _byte_type(code: bytes | str, *flags: int) -> np.dtype:
    """Stands for `np.dtype`: bytes are all that a batch holds, and an object type runs code."""
    if code not in (b"u1", "u1"):
        raise pickle.UnpicklingError(f"it holds an array of {code!r}, not of bytes")
    return np.dtype(np.uint8)


def _parse_cifar_batch(content: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a broken pickle may raise nearly anything
        raise DatasetError(f"{path} is refused: {error}; {REPLACE}") from error
    images = batch.get(b"data") if isinstance(batch, dict) else None
    labels = batch.get(b"labels") if isinstance(batch, dict) else None
    if not (
        isinstance(images, np.ndarray)
        and images.dtype == np.uint8
        and images.shape == (10000, 3072)
        and isinstance(labels, list)
        and len(labels) == 10000
        and all(isinstance(label, int) and 0 <= label < 10 for label in labels)
    ):
        raise DatasetError(f"{path} holds no batch of 10000 labelled 32x32 images; {REPLACE}")
    return images.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def mean_and_std(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation: one of each for grey images, one per channel for colour.

    In whole numbers from the counts of the 256 values: exact, so the same on every machine.
    """
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[:, channel].ravel(), minlength=256).tolist()
        number = sum(counts)
        total = sum(value * count for value, count in enumerate(counts))
        squares = sum(value * value * count for value, count in enumerate(counts))
        means.append(total / number)
        stds.append(math.sqrt((number * squares - total * total) / number**2))
    shape: tuple[int, ...] = () if images.shape[1] == 1 else (-1, 1, 1)
    return (
        np.array(means, dtype=np.float32).reshape(shape),
        np.array(stds, dtype=np.float32).reshape(shape),
    )
