"""Datasets: what each one is, where it comes from, how it is split and put in standard units.

`load_dataset("mnist", subset="tiny")` gives three `Split`s. Three rules hold for every dataset:

- The partition into training pool, validation and test is fixed: stratified by class and drawn
  from `SPLIT_SEED` (the official test set is kept where there is one). Only the draw of a subset
  from the training pool depends on `subset_seed`.
- Inputs are in standard units, (x - mean) / std, with mean and std of the whole training pool.
  Zero is therefore the mean input, and a strength of 1 is one standard deviation.
- Every file is checked against a known hash before it is parsed (`aba_core.sources`).

Sizes follow the dataset table of the published slides; data/README.md says where they cannot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from aba_core import measurements
from aba_core.cut_data import find_cut, place_of, write_cut
from aba_core.identity import meant
from aba_core.large_data import LARGE, read_large
from aba_core.measurements import Measurements, read_breast_cancer
from aba_core.pictures import (
    Pictures,
    find_cifar10,
    mean_and_std,
    read_cifar10,
    read_digits,
    read_mnist,
)
from aba_core.sources import DatasetError, Places, SourceFile, data_places, find_file
from aba_core.texts import EMBEDDINGS, Pool, Texts, read_news

SPLIT_SEED = 20220530  # the constant behind every partition and, with subset_seed, every subset


# --- The table of datasets -------------------------------------------------------------------


@dataclass(frozen=True)
class DatasetInfo:
    """What a dataset is: shapes, published sizes, source and terms."""

    name: str
    title: str
    input_shape: tuple[int, ...]
    classes: int
    class_names: tuple[str, ...]
    subsets: dict[str, int]  # name of the subset -> number of training samples
    validation: int
    test: int
    source: str
    licence: str
    files: tuple[SourceFile, ...] = ()


def _mnist_file(name: str, md5: str, megabytes: float) -> SourceFile:
    url = f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}"
    return SourceFile(f"mnist/{name}", (f"md5:{md5}",), url, megabytes)


_DIGIT_NAMES = tuple("0123456789")
_NEWS_GROUPS = (
    "alt.atheism",
    "comp.graphics",
    "comp.os.ms-windows.misc",
    "comp.sys.ibm.pc.hardware",
    "comp.sys.mac.hardware",
    "comp.windows.x",
    "misc.forsale",
    "rec.autos",
    "rec.motorcycles",
    "rec.sport.baseball",
    "rec.sport.hockey",
    "sci.crypt",
    "sci.electronics",
    "sci.med",
    "sci.space",
    "soc.religion.christian",
    "talk.politics.guns",
    "talk.politics.mideast",
    "talk.politics.misc",
    "talk.religion.misc",
)

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="digits",
            title="Digits (8x8)",
            input_shape=(1, 8, 8),
            classes=10,
            class_names=_DIGIT_NAMES,
            subsets={"tiny": 100, "full": 797},
            validation=500,
            test=500,
            source="scikit-learn's load_digits: test part of the UCI optical digits (1998)",
            licence="CC BY 4.0 (UCI)",
        ),
        DatasetInfo(
            name="mnist",
            title="MNIST",
            input_shape=(1, 28, 28),
            classes=10,
            class_names=_DIGIT_NAMES,
            subsets={"tiny": 100, "med": 1000, "full": 50000},
            validation=10000,
            test=10000,
            source="LeCun, Cortes, Burges (1998); files of the PyTorch project's mirror",
            licence="no formal licence; widely listed as CC BY-SA 3.0",
            files=(
                _mnist_file("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", 9.9),
                _mnist_file("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", 0.1),
                _mnist_file("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", 1.6),
                _mnist_file("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", 0.1),
            ),
        ),
        DatasetInfo(
            name="cifar10",
            title="CIFAR-10",
            input_shape=(3, 32, 32),
            classes=10,
            class_names=(
                *("airplane", "automobile", "bird", "cat", "deer"),
                *("dog", "frog", "horse", "ship", "truck"),
            ),
            subsets={"tiny": 1000, "full": 40000},
            validation=10000,
            test=10000,
            source="Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images",
            licence="free for research with citation; no formal licence",
            files=(
                SourceFile(
                    path="cifar10/cifar-10-python.tar.gz",
                    hashes=("md5:c58f30108f718f92721af3b95e74349a",),
                    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                    megabytes=170.5,
                ),
            ),
        ),
        DatasetInfo(
            name="news",
            title="20newsgroups",
            input_shape=(1000, 100),
            classes=20,
            class_names=_NEWS_GROUPS,
            subsets={"tiny": 2000, "full": 13846},
            validation=1000,
            test=4000,
            source="Lang (1995), by-date version of 18846 posts; file that scikit-learn uses",
            licence="no formal licence; Usenet posts of 1993 with names and addresses in them",
            files=(
                SourceFile(
                    path="20news/20news-bydate.tar.gz",
                    hashes=(
                        "sha256:8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610",
                        # the same posts, packed again (data/README.md)
                        "sha256:22f6833a6389474089d9c5e749f012943b58a2043b4ec1d20c0c77127c1f0d1e",
                    ),
                    url="https://ndownloader.figshare.com/files/5975967",
                    megabytes=14.5,
                ),
            ),
        ),
        DatasetInfo(
            name="breast-cancer",
            title="Breast cancer (30 measurements)",
            input_shape=(30,),
            classes=2,
            class_names=("malignant", "benign"),
            subsets={"tiny": 40, "full": 269},
            validation=150,
            test=150,
            source="scikit-learn's load_breast_cancer: Wisconsin diagnostic, UCI (1995)",
            licence="CC BY 4.0 (UCI)",
        ),
    )
}


# --- What a caller gets ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Samples of one split. Images lie in `data` as they are; text as token ids to be embedded."""

    data: Tensor  # Float "n *feature", or Int "n token" where there is an embedding
    y: Shaped[Tensor, " n *target"]  # classes; soft or several labels; numbers
    embedding: Float[Tensor, "word dim"] | None = None  # row 0 is padding, exactly zero
    index: Int[Tensor, " n"] | None = None  # place in the source's own order, training files first

    @property
    def x(self) -> Float[Tensor, "n *feature"]:
        """All inputs at once. For text this is 400 KB a sample: prefer `batch`."""
        return self.data if self.embedding is None else _embed(self.data, self.embedding)

    def batch(self, index: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes_and_feature"]:
        """Inputs at `index` (int64, any shape [...]): [..., *feature]. Embeds only these."""
        data = self.data.index_select(0, index.flatten()).reshape(index.shape + self.data.shape[1:])
        return data if self.embedding is None else _embed(data, self.embedding)

    def first(self, count: int) -> Split:
        """The first so many samples."""
        return replace(self, data=self.data[:count], y=self.y[:count], index=None)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        tail = () if self.embedding is None else self.embedding.shape[1:]
        return (*self.data.shape[1:], *tail)

    def to(self, device: str | torch.device) -> Split:
        moved = {
            field: None if value is None else value.to(device)
            for field, value in (("embedding", self.embedding), ("index", self.index))
        }
        return Split(self.data.to(device), self.y.to(device), **moved)

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"<Split: {len(self)} samples of shape {self.feature_shape}>"


def _embed(ids: Tensor, embedding: Tensor) -> Tensor:
    return torch.nn.functional.embedding(ids, embedding)


@dataclass(frozen=True, eq=False, repr=False)
class Splits:
    """The three splits of a dataset and what a run has to record of them.

    `mean` and `std` broadcast against one input: x * std + mean is in the source's units (pixel
    values; for text the embedding's own units, padding and words without a vector aside).
    `fingerprint` is a sha256 over the selected samples, labels and units: equal fingerprints mean
    equal data. For text it covers the token ids and the embedding: GloVe's vectors bit by bit, of
    those made here the recipe, since the last bits of a decomposition are the machine's.
    """

    train: Split
    validation: Split
    test: Split
    name: str
    subset: str
    subset_seed: int
    classes: int
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    mean: Tensor
    std: Tensor
    notes: tuple[str, ...]
    fingerprint: str
    embedding: str = ""  # which word vectors a text has: "glove" or "corpus"
    task: str = "multiclass"  # see `quantities.TASKS`

    def first_tokens(self, tokens: int) -> Splits:
        """Texts cut to their first so many tokens, for less than the published computation.

        Raises DatasetError where the inputs are no texts, or have fewer tokens.
        """
        if self.train.embedding is None:
            raise DatasetError(f"tokens is {tokens}, but {self.name} has no texts; allowed: 0")
        if not 0 < tokens <= self.input_shape[0]:
            raise DatasetError(
                f"tokens is {tokens}; allowed: 1 to {self.input_shape[0]}, 0 for all"
            )
        parts = {
            part: replace(
                getattr(self, part), data=getattr(self, part).data[:, :tokens].contiguous()
            )
            for part in _PARTS
        }
        return replace(
            self,
            **parts,
            input_shape=(tokens, *self.input_shape[1:]),
            notes=(*self.notes, f"the first {tokens} of {self.input_shape[0]} tokens"),
            fingerprint=f"{self.fingerprint}, first {tokens} tokens",
        )

    def majority(self, part: str = "test") -> float | None:
        """The share of the most frequent class in a part, in percent: what always guessing it
        reaches. None where a sample has no one class."""
        y = getattr(self, part).y
        if self.task != "multiclass" or y.dim() != 1 or y.is_floating_point() or not len(y):
            return None
        return 100 * int(torch.bincount(y.cpu()).max()) / len(y)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(getattr(self, part))} {part}" for part in _PARTS)
        kinds = f"{self.classes} classes" if self.task == "multiclass" else self.task
        share = self.majority("train")
        largest = "" if share is None else f", the largest {share:.0f} % of the training samples"
        return (
            f"<Splits {self.name} ({self.subset}): {sizes} samples of shape {self.input_shape}, "
            f"{kinds}{largest}>"
        )

    def to(self, device: str | torch.device) -> Splits:
        parts = {part: getattr(self, part).to(device) for part in _PARTS}
        return replace(self, mean=self.mean.to(device), std=self.std.to(device), **parts)


_PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class DatasetStatus:
    """One row of `aba datasets`."""

    name: str
    title: str
    shape: tuple[int, ...]
    classes: int
    subsets: dict[str, int]
    present: str  # "bundled", "mirror", "cache" or "not here (downloads N MB)"


def load_dataset(
    name: str,
    subset: str = "tiny",
    *,
    subset_seed: int = 0,
    embedding: str = "auto",
    tokens: int = 0,
    cache: str | Path | None = None,
    mirror: str | Path | None = None,
) -> Splits:
    """Load one dataset: training subset, validation and test, in standard units.

    `subset` is a name of the data set's, or a number of training samples as text ("400"); subsets
    by number, drawn by one seed, contain the smaller ones. `subset_seed` draws the training subset
    (the same for every model compared on it). `embedding` is for text: "glove", "corpus" (made from
    the training pool), or "auto", which is the full GloVe where its file is there and otherwise
    "corpus" (data/README.md has the comparison). `tokens` cuts texts to their first so many (0: all
    1000). `mirror` and `cache` default to ABA_DATA_MIRROR and ABA_DATA_CACHE.

    Raises DatasetError: unknown name, subset or embedding; a damaged file; no file and no network.
    """
    if name in LARGE:
        return read_large(name, subset, subset_seed, tokens, data_places(cache, mirror))
    if name not in DATASETS:
        known = (*DATASETS, *LARGE)
        raise DatasetError(
            f"unknown dataset {name!r}{meant(name, known)}; known: {', '.join(known)}; your "
            "own: splits=splits_from(x, y), or {use: module:function}"
        )
    info = DATASETS[name]
    _size_of(info, subset)
    if not isinstance(subset_seed, int | np.integer) or subset_seed < 0:
        raise DatasetError(f"subset_seed must be an integer of 0 or more, not {subset_seed!r}")
    if embedding not in EMBEDDINGS:
        raise DatasetError(f"unknown embedding {embedding!r}; known: {', '.join(EMBEDDINGS)}")
    if embedding != "auto" and name != "news":
        raise DatasetError(f"{name} takes no embedding, but {embedding!r} was asked for")

    if tokens and name != "news":
        raise DatasetError(f"tokens is {tokens}, but {name} has no texts; allowed: 0")
    places = data_places(cache, mirror)
    arrays = find_cut(name, subset, int(subset_seed), places)
    if arrays is None:
        arrays = _arrays(info, subset, subset_seed, embedding, places)
    splits = _splits(info, subset, subset_seed, arrays)
    return splits.first_tokens(tokens) if tokens else splits


def cut_dataset(
    name: str, folder: str | Path, subset: str = "tiny", subset_seed: int = 0
) -> tuple[Path, int]:
    """Write one subset with validation and test as a file that `load_dataset` finds in a mirror at
    this folder; the file and its bytes. Raises DatasetError as `load_dataset` does."""
    arrays = _arrays(DATASETS[name], subset, subset_seed, "auto", data_places(None, None))
    path = Path(folder) / place_of(name, subset, subset_seed)
    return path, write_cut(arrays, path)


def _arrays(
    info: DatasetInfo, subset: str, seed: int, embedding: str, places: Places
) -> dict[str, Any]:
    """What splits are made of, from whole files: each part's samples before standard units, labels
    and places in the source, and the units."""
    raw: Pictures | Texts | Measurements
    if info.name == "news":
        raw = read_news(info.files[0], info.class_names, _text_pool(info), embedding, places)
        positions, _ = _drawn_positions(info, subset, seed, raw.labels)
        arrays: dict[str, Any] = {"embedding": raw.embedding, "recipe": raw.recipe}
        arrays |= {"mean": raw.mean, "std": raw.std}
        samples, index = raw.ids, np.arange(len(raw.ids))
    elif info.name == "breast-cancer":
        raw = read_breast_cancer()
        positions, pool = _drawn_positions(info, subset, seed, raw.labels)
        mean, std = measurements.mean_and_std(raw.values[pool])
        arrays = {"mean": mean, "std": std}
        samples, index = raw.values, np.arange(len(raw.values))
    else:
        readers = {"digits": read_digits, "mnist": read_mnist, "cifar10": read_cifar10}
        raw = readers[info.name](info.files, subset, places)
        positions, pool = _drawn_positions(info, subset, seed, raw.labels, raw.test)
        mean, std = mean_and_std(raw.images[pool])
        arrays = {"mean": mean, "std": std}
        samples, index = raw.images, raw.index
    for part, at in positions.items():
        of_part = {"samples": samples[at], "labels": raw.labels[at], "index": index[at]}
        arrays |= {f"{part}_{what}": values for what, values in of_part.items()}
    return arrays | {"notes": np.array(raw.notes, dtype=str)}


def dataset_status(
    *, cache: str | Path | None = None, mirror: str | Path | None = None
) -> list[DatasetStatus]:
    """Where each dataset would come from now, by looking for files only: nothing is read."""
    places = data_places(cache, mirror)
    return [
        DatasetStatus(
            name=info.name,
            title=info.title,
            shape=info.input_shape,
            classes=info.classes,
            subsets=info.subsets,
            present=_present(info, places),
        )
        for info in DATASETS.values()
    ] + [
        DatasetStatus(
            name, info.title, info.input_shape, info.classes, info.subsets, info.present(places)
        )
        for name, info in LARGE.items()
    ]


def _present(info: DatasetInfo, places: Places) -> str:
    if not info.files:
        return "bundled"
    if info.name == "cifar10":
        source = find_cifar10(info.files[0], places)
        if source is not None:
            missing = len(source.missing)
            return source.place + (f" ({5 - missing} of 5 training batches)" if missing else "")
    places_of_files = {find_file(file.path, places)[0] for file in info.files}
    if "" not in places_of_files:
        return " and ".join(sorted(places_of_files, reverse=True))
    size = sum(file.megabytes for file in info.files if not find_file(file.path, places)[0])
    return f"not here (downloads {size:.0f} MB)"


# --- Partition and subset --------------------------------------------------------------------


def stratified(labels: np.ndarray, size: int, *purpose: str | int) -> tuple[np.ndarray, np.ndarray]:
    """Draw `size` of the positions, each class in its proportion: (drawn, rest), both sorted.

    The draw is a function of SPLIT_SEED and `purpose`. Raw generator words are sorted instead of
    calling `permutation`, because only the raw stream is promised to stay over NumPy versions.
    """
    key = hashlib.sha256("/".join(map(str, (SPLIT_SEED, *purpose))).encode()).digest()
    order = np.argsort(
        np.random.PCG64(int.from_bytes(key, "big")).random_raw(len(labels)), kind="stable"
    )
    counts = np.bincount(labels)
    quota = counts * size / len(labels)
    take = np.floor(quota).astype(int)
    largest_remainders = np.argsort(take - quota, kind="stable")
    take[largest_remainders[: size - take.sum()]] += 1
    drawn = np.zeros(len(labels), dtype=bool)
    for label, number in enumerate(take):
        drawn[order[labels[order] == label][:number]] = True
    return np.flatnonzero(drawn), np.flatnonzero(~drawn)


def _size_of(info: DatasetInfo, subset: str) -> int:
    """How many training samples a subset has. Raises DatasetError."""
    if subset in info.subsets:
        return info.subsets[subset]
    allowed = ", ".join(f"{key} ({size})" for key, size in info.subsets.items())
    if not (isinstance(subset, str) and subset.isascii() and subset.isdecimal()):
        near = meant(subset, info.subsets)
        raise DatasetError(
            f"unknown subset {subset!r} of {info.name}{near}; known: {allowed}, or a number: '400'"
        )
    largest = max(info.subsets.values())
    if len(subset) > 9 or not info.classes <= int(subset) <= largest:
        raise DatasetError(
            f"subset {subset} of {info.name}; allowed: {info.classes} to {largest} samples"
        )
    return int(subset)


def _partition(
    info: DatasetInfo, labels: np.ndarray, test: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of (training pool, validation, test). `test` is given where it is official."""
    if test is None:
        test, rest = stratified(labels, info.test, info.name, "test")
    else:
        rest = np.setdiff1d(np.arange(len(labels)), test)
    validation, pool = stratified(labels[rest], info.validation, info.name, "validation")
    return rest[pool], rest[validation], test


def _text_pool(info: DatasetInfo) -> Pool:
    """The training pool, for a reader of texts: its words decide which words are kept."""
    return Pool(
        draw=lambda labels: _partition(info, labels)[0],
        seed=SPLIT_SEED,
        sizes=(info.validation, info.test),
    )


# --- Splits from what a reader gives ---------------------------------------------------------


def _drawn_positions(
    info: DatasetInfo, subset: str, seed: int, labels: np.ndarray, test: np.ndarray | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Positions of each split, and of the whole training pool."""
    pool, validation, test = _partition(info, labels, test)
    size = _size_of(info, subset)
    if size > len(pool):
        raise DatasetError(f"subset {subset} of {info.name}; only {len(pool)} samples are here")
    # Of one order, so that a subset contains those of fewer samples.
    purpose = subset if subset in info.subsets else "by number"
    drawn, _ = stratified(labels[pool], size, info.name, "subset", purpose, seed)
    return {"train": pool[drawn], "validation": validation, "test": test}, pool


def _splits(info: DatasetInfo, subset: str, subset_seed: int, arrays: dict[str, Any]) -> Splits:
    """Splits of the arrays that `_arrays` made, or that were cut from them."""
    mean, std = torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["std"])
    parts, embedding, recipe = {}, None, ""
    if "embedding" in arrays:
        embedding, recipe = torch.from_numpy(arrays["embedding"]), str(arrays["recipe"])
    for part in _PARTS:
        samples = arrays[f"{part}_samples"]
        data = (
            torch.from_numpy(samples).to(torch.float32).sub_(mean).div_(std)
            if embedding is None
            else torch.from_numpy(samples.astype(np.int32))
        )
        parts[part] = Split(
            data=data,
            y=torch.from_numpy(arrays[f"{part}_labels"]),
            embedding=embedding,
            index=torch.from_numpy(arrays[f"{part}_index"]),
        )
    return assembled(
        parts,
        recipe or f"{mean.tolist()}/{std.tolist()}",
        None if recipe else lambda part: arrays[f"{part}_samples"],
        name=info.name,
        subset=subset,
        subset_seed=subset_seed,
        class_names=info.class_names,
        mean=mean,
        std=std,
        notes=tuple(map(str, arrays["notes"])),
        embedding=recipe.partition(" ")[0],
    )


def assembled(
    parts: dict[str, Any],
    units: str,
    samples: Callable[[str], np.ndarray] | None = None,
    *,
    name: str,
    class_names: tuple[str, ...],
    notes: tuple[str, ...] = (),
    **fields: Any,
) -> Splits:
    """Splits with their fingerprint: of name and units, then of each part's samples and labels.

    `samples` gives a part's samples as they were before standard units; otherwise its data count.
    """
    digest = hashlib.sha256(f"{name}/{units}".encode())
    for part in _PARTS:
        content = samples(part) if samples else parts[part].data.numpy()
        digest.update(f"{part}/{content.shape}".encode())
        digest.update(content.tobytes() + parts[part].y.numpy().tobytes())
    return Splits(
        **parts,
        name=name,
        classes=len(class_names),
        class_names=class_names,
        input_shape=parts["train"].feature_shape,
        notes=notes,
        fingerprint=digest.hexdigest(),
        **fields,
    )
