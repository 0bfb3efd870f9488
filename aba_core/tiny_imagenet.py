"""Tiny ImageNet: 200 classes of 64×64 pictures, decoded when a batch needs them.

The pictures' files are copied, as they are, into one file in the cache; labels and places are in
memory. The official test set has no labels. By default the official validation set is therefore
split: half validates and half tests, drawn by class from `SPLIT_SEED`. With `official_test` all of
it tests, and 50 training pictures of each class validate, where the archive has all 500.

"tiny-imagenet-20" is a smaller task: 20 of the classes, drawn by `subset_seed`. Ten consecutive
seeds, from a multiple of ten, have ten disjoint sets of classes, hence of pictures in all splits.

Sources: Stanford CS231n's archive (MD5 as torchvision-style loaders list it), or the part of it
that data/README.md describes, with the first 50 training pictures of each class. Units are those of
these 50, in both.
"""

from __future__ import annotations

import hashlib
import io
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aba_core.datasets import SPLIT_SEED, Splits, stratified
from aba_core.pictures import mean_and_std
from aba_core.sources import (
    DatasetError,
    Places,
    SourceFile,
    cached,
    check_hash,
    data_places,
    fetch,
    find_file,
    read_bytes,
    tar_files,
)
from aba_core.streams import Stream, stream_splits

ARCHIVE = SourceFile(
    "tiny-imagenet/tiny-imagenet-200.zip",
    ("md5:90528d7ca1a48142e341f4ef8d21d0de",),
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    248.1,
)
PART = SourceFile(
    "tiny-imagenet/tiny-imagenet-200-val10000-train50perclass.tar.gz",
    ("sha256:6c2447b2f2383090377b6bffdc7c752c5e4215f84982626e43a71114acf0326e",),
    "",
    28.3,
)
SHAPE, FEW = (3, 64, 64), 50
FEWER = {"tiny-imagenet-20": 20}  # classes
# Name: training pictures of each class; the small ones are drawn from the first 50 of each.
SUBSETS = {"tiny": 10, "med": 25, "tenth": 50, "full": 500}


@dataclass(frozen=True)
class Decoded:
    """Pictures by their place in a file that holds the bytes of many, decoded one at a time."""

    path: str
    starts: tuple[int, ...] | np.ndarray

    def __call__(self, place: int) -> Tensor:
        from PIL import Image

        with open(self.path, "rb") as file:
            file.seek(int(self.starts[place]))
            content = file.read(int(self.starts[place + 1] - self.starts[place]))
        with Image.open(io.BytesIO(content)) as picture:
            pixels = np.array(picture.convert("RGB"))
        return torch.from_numpy(pixels).permute(2, 0, 1)


def load(
    name: str = "tiny-imagenet",
    subset: str = "tenth",
    subset_seed: int = 0,
    official_test: bool = False,
    places: Places | None = None,
) -> Splits:
    """The splits, on disk. name: "tiny-imagenet-20" for the task of fewer classes.

    Raises DatasetError where files are not there or not as they should be, and for a subset that
    the archive at hand does not have.
    """
    if subset not in SUBSETS:
        raise DatasetError(f"unknown subset {subset!r} of {name}; known: {', '.join(SUBSETS)}")
    places = places or data_places(None, None)
    whole = bool(find_file(ARCHIVE.path, places)[0]) or not find_file(PART.path, places)[0]
    needs_all = subset == "full" or official_test
    if needs_all and not whole:
        raise DatasetError(
            f"subset {subset!r} of {name} needs {ARCHIVE.path} ({ARCHIVE.megabytes:.0f} MB from "
            f"{ARCHIVE.url}) in ABA_DATA_MIRROR or the cache; the part that is here has 50 "
            "training pictures of each class; known without it: tiny, med, tenth"
        )
    path, table = _packed(ARCHIVE if whole else PART, places)
    labels, turn, titles = table["labels"], table["turn"], table["names"]
    training, official = np.flatnonzero(turn >= 0), np.flatnonzero(turn < 0)
    notes = [f"tested on {'all' if official_test else 'half of the'} official validation pictures"]
    if name in FEWER:
        chosen = drawn_classes(len(titles), FEWER[name], subset_seed)
        training, official = (at[np.isin(labels[at], chosen)] for at in (training, official))
        labels = np.searchsorted(chosen, labels)  # of the other classes' pictures: never looked at
        titles = titles[chosen]
        notes.append(f"{len(chosen)} of the {len(table['names'])} classes, drawn by the seed")
    if official_test:
        test, held = official, training[turn[training] >= SUBSETS["full"] - FEW]
        training = np.setdiff1d(training, held)
    else:
        half, rest = stratified(labels[official], len(official) // 2, name, "test")
        test, held = official[half], official[rest]
    pool = training if subset == "full" else training[turn[training] < FEW]
    if subset in ("tiny", "med"):
        size = SUBSETS[subset] * len(titles)
        drawn, _ = stratified(labels[pool], size, name, "subset", subset, subset_seed)
        pool = pool[drawn]
    mean, std = torch.from_numpy(table["mean"]), torch.from_numpy(table["std"])
    read = Decoded(str(path), table["starts"])
    y = torch.from_numpy(labels)
    whole_stream = Stream(read, y, mean, std, SHAPE, torch.arange(len(y)))
    parts = {
        part: whole_stream.at(torch.from_numpy(at))
        for part, at in (("train", pool), ("validation", held), ("test", test))
    }
    digest = hashlib.sha256(f"{name}/{mean.tolist()}/{std.tolist()}".encode())
    for part, stream in parts.items():
        at = stream.index.numpy()
        digest.update(part.encode() + table["hashes"][at].tobytes() + labels[at].tobytes())
    return stream_splits(
        parts,
        name=name,
        subset=subset,
        subset_seed=subset_seed,
        class_names=tuple(map(str, titles)),
        notes=(*notes, "units of 50 pictures of each class"),
        fingerprint=digest.hexdigest(),
    )


def drawn_classes(classes: int, count: int, seed: int) -> np.ndarray:
    """The numbers of so many of the classes, sorted. Seeds share out one order of the classes until
    all are taken, then the next."""
    turn, place = divmod(seed, classes // count)
    key = hashlib.sha256(f"{SPLIT_SEED}/tiny-imagenet/classes/{turn}".encode()).digest()
    order = np.argsort(np.random.PCG64(int.from_bytes(key, "big")).random_raw(classes))
    return np.sort(order[place * count : (place + 1) * count])


def _packed(source: SourceFile, places: Places) -> tuple[Path, dict[str, np.ndarray]]:
    """The file with all pictures' bytes, and their labels, places and hashes. turn: a training
    picture's number in its class, -1 for the official validation set."""
    path = places.cache / f"tiny-imagenet-{source.hashes[0].partition(':')[2][:16]}.pack"
    seal = f"tiny-imagenet-{source.hashes[0].partition(':')[2][:16]}-2"
    if not path.is_file():
        (places.cache / f"{seal}.npz").unlink(missing_ok=True)
    table = cached(seal, lambda: _pack(source, places, path), places)
    if path.is_file() and path.stat().st_size == int(table["starts"][-1]):
        return path, table
    (places.cache / f"{seal}.npz").unlink(missing_ok=True)
    return path, cached(seal, lambda: _pack(source, places, path), places)


def _pack(source: SourceFile, places: Places, path: Path) -> dict[str, np.ndarray]:
    _, archive = fetch(source, places)
    content = read_bytes(archive)
    check_hash(content, source.hashes, archive)
    files = dict(_files(content, archive))
    classes = files["wnids.txt"].decode().split()
    number = {each: place for place, each in enumerate(classes)}
    said = [line.split("\t")[:2] for line in files["val/val_annotations.txt"].decode().splitlines()]
    entries = [(f"val/images/{file}", number[label], -1) for file, label in said]
    for file in files:
        if file.startswith("train/") and file.endswith(".JPEG"):
            label, _, place_in_class = Path(file).stem.rpartition("_")
            entries.append((file, number[label], int(place_in_class)))
    entries.sort(key=lambda entry: (entry[2] < 0, entry[1], entry[2], entry[0]))
    contents = [files[file] for file, _, _ in entries]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    part.write_bytes(b"".join(contents))
    part.replace(path)
    starts = np.cumsum([0, *map(len, contents)])
    labels = np.array([each for _, each, _ in entries], dtype=np.int64)
    turn = np.array([each for _, _, each in entries], dtype=np.int64)
    read = Decoded(str(path), starts)
    first = np.flatnonzero((turn >= 0) & (turn < FEW))
    pixels = torch.stack([read(int(place)) for place in first]).numpy()
    mean, std = mean_and_std(pixels)
    words = dict(line.split("\t")[:2] for line in files["words.txt"].decode().splitlines())
    return {
        "labels": labels,
        "turn": turn,
        "starts": starts,
        "hashes": np.array([_short(content) for content in contents], dtype="S16"),
        "mean": mean,
        "std": std,
        "names": np.array([words.get(each, each).split(",")[0] for each in classes]),
    }


def _short(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest()[:16].encode()


def _files(content: bytes, path: Path) -> Iterator[tuple[str, bytes]]:
    """Names below the archive's folder, and contents; what is needed of it alone."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist():
                name = entry.filename.partition("/")[2]
                if not entry.is_dir() and not name.startswith("test/"):
                    yield name, archive.read(entry)
        return
    for member, unpacked in tar_files(content, path):
        yield "/".join(member.parts[1:]), unpacked


def with_official_test(subset: str = "full", subset_seed: int = 0) -> Splits:
    """{use: "aba_core.tiny_imagenet:with_official_test"}: all official validation pictures test."""
    splits = load(subset=subset, subset_seed=subset_seed, official_test=True)
    return replace(splits, name="tiny-imagenet-official-test")
