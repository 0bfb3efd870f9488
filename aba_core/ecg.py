"""PTB-XL: 12-lead electrocardiograms of 10 seconds at 100 Hz, with several labels each.

Label sets as in Strodthoff et al. 2021 ("Deep learning for ECG analysis: benchmarks and insights
from PTB-XL"): all 71 statements, 5 diagnostic superclasses, 23 subclasses, 19 of form, 12 of
rhythm. A record belongs to a set if it has one of its labels. Folds 1 to 8 train, 9 validates, 10
tests, as its makers recommend.

"ptb-xl-superclass-25hz" is the superclasses of the derived records at a quarter of the rate: means
of four neighbours, for models that train in seconds.

Two sources. The official folder (version 1.0.3, unpacked as `ptb-xl/` in mirror or cache), whose
records are read in their own format, 16-bit numbers, and checked against its SHA256SUMS.txt. And
the derived file that data/README.md describes: 1819 records, filtered, each lead scaled by itself;
results on it are not results on PTB-XL. Units are one mean and deviation of the training records.
"""

from __future__ import annotations

import ast
import csv
import gzip
import hashlib
import io
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aba_core.datasets import Split, Splits, assembled, stratified
from aba_core.sources import DatasetError, Places, data_places, find_file, read_bytes, read_checked
from aba_core.streams import Stream, stream_splits

NAMES = {
    "ptb-xl": "all",
    "ptb-xl-superclass": "super_class",
    "ptb-xl-superclass-25hz": "super_class",
    "ptb-xl-subclass": "sub_class",
    "ptb-xl-form": "form",
    "ptb-xl-rhythm": "rhythm",
}
LABELS = {"all": 71, "super_class": 5, "sub_class": 23, "form": 19, "rhythm": 12}
# Training records; of "derived-…" drawn from the derived file's 1442 by subset_seed.
SUBSETS = {"derived-400": 400, "derived-1000": 1000, "derived": 1442, "full": 17418}
SHAPE = (12, 1000)
TOGETHER = {"ptb-xl-superclass-25hz": 4}  # neighbours in time that are averaged
FOLDER = "ptb-xl"
DERIVED = "ptbxl_subset1819_filtered_100hz.npz"
_HASHES = {
    DERIVED: "e9db0e85cf79cfcb4ab622c4bdc2bbbaacd1709aadfc7a98b0f53dd0cc8d6d3f",
    "scp_statements.csv": "ad05b0b1fcae83bb1230755ad9cfc7c96f303feddc08a4a9ad5bdc9ca63bac8f",
    "ptbxl_form_test.csv.gz": "1c5663c818e7576dc0b433538a5dd099dc9c2d1b0e881790cdb1a138bd46287b",
    "ptbxl_form_train.csv.gz": "b5a98b7af0360ec78ab8f7713eb936a11ab5cdd3d32777ff41c5521d3e8e8fc4",
    "ptbxl_form_val.csv.gz": "4cc7df2ffc1d3c40d0d0f7e734b4252e42ebd0092815bebd4b2719ff9ae80953",
    "ptbxl_rhythm_test.csv.gz": "6375e5118d475f986e8347f23641e99e660645b110a3cdb2166abdbf4179b062",
    "ptbxl_rhythm_train.csv.gz": "65ccd836a530d64a8eda231cfedd20e551de4489caa97c18eebe15a4222256e8",
    "ptbxl_rhythm_val.csv.gz": "72a8c3de37f310ec728f1debcde2a081d740866df89aeb56c13033883aafbf48",
    "ptbxl_sub_class_test.csv.gz":
        "9c2b6c634c38664bbc177d06b5bc1088e31e956c777772cc557aac163a4a05c9",
    "ptbxl_sub_class_train.csv.gz":
        "d3a94a1760db2307f6f29773b6fa058e91a97b45ef447fc392d74aceaecd0ac9",
    "ptbxl_sub_class_val.csv.gz":
        "9b3491c8a283cf1a70874ef062f6e0583ee078a2194732d4f2588a618e1e45d1",
    "ptbxl_super_class_test.csv.gz":
        "2e0ac2aaa47512881dccbab002091ebb8a04ea800b8dd9c438960e9ea109564a",
    "ptbxl_super_class_train.csv.gz":
        "7fa38e1ef23943506a8d1efeb5394d4919a79fc7b618dbf6bcb82ce35dafd93a",
    "ptbxl_super_class_val.csv.gz":
        "12d34825e55fdfe18bf917c750667c487d281b9af9cf4ac7252098a9f7dd22b9",
}  # fmt: skip


def load(
    name: str = "ptb-xl",
    subset: str = "full",
    subset_seed: int = 0,
    places: Places | None = None,
) -> Splits:
    """One label set: in memory of the derived file, on disk of the official records.

    Raises DatasetError for an unknown name or subset, and for files that are not there or not as
    they should be.
    """
    if name not in NAMES or subset not in SUBSETS:
        what, known = (name, NAMES) if name not in NAMES else (subset, SUBSETS)
        raise DatasetError(f"unknown name or subset {what!r} of PTB-XL; known: {', '.join(known)}")
    places = places or data_places(None, None)
    if subset == "full" and name in TOGETHER:
        raise DatasetError(f"subset 'full' of {name}; allowed: {', '.join(list(SUBSETS)[:-1])}")
    if subset == "full":
        return _official(name, subset_seed, places)
    return _derived(name, subset, subset_seed, places)


# --- the derived file ----------------------------------------------------------------------------


def _file(file: str, places: Places) -> bytes:
    place, path = find_file(f"{FOLDER}/{file}", places)
    if not place:
        raise DatasetError(
            f"{FOLDER}/{file} is not here; set ABA_DATA_MIRROR to a folder that holds it "
            "(data/README.md), or take subset 'full' with the official records"
        )
    return read_checked(path, (f"sha256:{_HASHES[file]}",))


def _derived(name: str, subset: str, subset_seed: int, places: Places) -> Splits:
    which = NAMES[name]
    if which == "all":
        raise DatasetError(
            f"the derived records of PTB-XL have no labels for the 71 statements of {name!r}; "
            f"allowed: subset 'full', or {', '.join(list(NAMES)[1:])}"
        )
    with np.load(io.BytesIO(_file(DERIVED, places)), allow_pickle=False) as stored:
        signals, scale = stored["signals"], float(stored["scale"])
        records, folds = stored["ecg_id"], stored["strat_fold"]
    if name in TOGETHER:
        signals = signals.reshape(*signals.shape[:2], -1, TOGETHER[name]).mean(3, dtype=np.float32)
    tables = [_file(f"ptbxl_{which}_{part}.csv.gz", places) for part in ("train", "val", "test")]
    labels, titles = _labels_of(tables)
    known = np.array([record in labels for record in records.tolist()])
    y = np.stack([labels.get(record, [0.0] * len(titles)) for record in records.tolist()])
    places_of = {
        part: np.flatnonzero(known & np.isin(folds, in_part))
        for part, in_part in (("train", range(1, 9)), ("validation", [9]), ("test", [10]))
    }
    pool = places_of["train"]
    mean, std = _units(signals[pool] * np.float32(scale))
    size = min(SUBSETS[subset], len(pool))
    drawn, _ = stratified(np.zeros(len(pool), dtype=np.int64), size, name, subset, subset_seed)
    places_of["train"] = pool[drawn] if subset != "derived" else pool
    parts = {
        part: Split(
            torch.from_numpy(signals[at] * np.float32(scale)).sub_(mean).div_(std),
            torch.from_numpy(y[at].astype(np.float32)),
            index=torch.from_numpy(at),
        )
        for part, at in places_of.items()
    }
    return assembled(
        parts,
        f"{mean.tolist()}/{std.tolist()}",
        lambda part: signals[places_of[part]],
        name=name,
        subset=subset,
        subset_seed=subset_seed,
        class_names=titles,
        mean=mean,
        std=std,
        task="multilabel",
        notes=("derived from PTB-XL: 0.5 to 40 Hz, each lead of each record scaled by itself",),
    )


def _labels_of(tables: Iterable[bytes]) -> tuple[dict[int, list[float]], tuple[str, ...]]:
    """{record: labels}, and the labels' names, in sorted order."""
    labels: dict[int, list[float]] = {}
    titles: tuple[str, ...] = ()
    for table in tables:
        lines = csv.reader(io.StringIO(gzip.decompress(table).decode()))
        names = next(lines)[6:]
        order = sorted(range(len(names)), key=lambda column: names[column])
        titles = tuple(names[column] for column in order)
        for line in lines:
            labels[int(line[0])] = [float(line[6 + column]) for column in order]
    return labels, titles


def _units(values: np.ndarray) -> tuple[Tensor, Tensor]:
    """One mean and deviation, which broadcast against one record."""
    mean, std = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    return torch.full((1, 1), float(mean)), torch.full((1, 1), float(std))


# --- the official records ------------------------------------------------------------------------


@dataclass(frozen=True)
class Records:
    """Records by their place in a file of 16-bit numbers [record, time, lead], in microvolts."""

    path: str

    def __call__(self, place: int) -> Tensor:
        values = np.load(self.path, mmap_mode="r")[place]
        return torch.from_numpy(values.T.astype(np.float32))


def _official(name: str, subset_seed: int, places: Places) -> Splits:
    place, path = find_file(f"{FOLDER}/ptbxl_database.csv", places)
    if not place:
        raise DatasetError(
            f"{FOLDER}/ptbxl_database.csv is not here; unpack PTB-XL 1.0.3 "
            "(https://physionet.org/content/ptb-xl/1.0.3/, 1.8 GB) as the folder ptb-xl in "
            "ABA_DATA_MIRROR or the cache"
        )
    folder = path.parent
    with path.open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    y, titles = _statements(table, folder, NAMES[name])
    having = y.any(1)
    folds = np.array([int(float(row["strat_fold"])) for row in table])
    records = _packed(table, folder, places)
    values = np.load(records, mmap_mode="r")
    parts_of = {
        part: np.flatnonzero(having & np.isin(folds, in_part))
        for part, in_part in (("train", range(1, 9)), ("validation", [9]), ("test", [10]))
    }
    mean, std = _units_of(values, parts_of["train"])
    all_records = Stream(
        Records(str(records)), torch.from_numpy(y), mean, std, SHAPE, torch.arange(len(y))
    )
    parts = {part: all_records.at(torch.from_numpy(at)) for part, at in parts_of.items()}
    digest = hashlib.sha256(f"{name}/{mean.tolist()}/{std.tolist()}/{records.name}".encode())
    for part, at in parts_of.items():
        digest.update(part.encode() + at.tobytes() + y[at].tobytes())
    return stream_splits(
        parts,
        name=name,
        subset="full",
        subset_seed=subset_seed,
        class_names=titles,
        task="multilabel",
        fingerprint=digest.hexdigest(),
    )


def _statements(
    table: list[dict[str, str]], folder: Path, which: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels [record, label] of 0 and 1, and their names. A statement counts however likely it is
    said to be, as in the published benchmark."""
    with (folder / "scp_statements.csv").open(encoding="utf-8", newline="") as file:
        known = {row[""]: row for row in csv.DictReader(file)}
    column = {"super_class": "diagnostic_class", "sub_class": "diagnostic_subclass"}.get(which)
    flag = {"form": "form", "rhythm": "rhythm"}.get(which, "diagnostic")

    def label(statement: str) -> str:
        row = known.get(statement, {})
        if which == "all":
            return statement
        return (row.get(column, "") if column else statement) if row.get(flag) == "1.0" else ""

    found = [{label(s) for s in ast.literal_eval(row["scp_codes"])} - {""} for row in table]
    titles = tuple(sorted(set().union(*found)))
    at = {title: place for place, title in enumerate(titles)}
    y = np.zeros((len(table), len(titles)), dtype=np.float32)
    for row, names in enumerate(found):
        y[row, [at[each] for each in names]] = 1.0
    return y, titles


def _packed(table: list[dict[str, str]], folder: Path, places: Places) -> Path:
    """All records in one file in the cache, made once; its name holds the hash of their hashes."""
    sums = {}
    for line in read_bytes(folder / "SHA256SUMS.txt").decode().splitlines():
        digest, _, file = line.partition(" ")
        sums[file.strip().lstrip("*")] = digest
    files = [f"{row['filename_lr']}.dat" for row in table]
    absent = [file for file in files if file not in sums]
    if absent:
        raise DatasetError(f"{folder / 'SHA256SUMS.txt'} does not name {absent[0]}")
    known = hashlib.sha256("".join(sums[file] for file in files).encode()).hexdigest()[:16]
    path = places.cache / f"ptb-xl-{known}.npy"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.npy")
    shape = (len(files), SHAPE[1], SHAPE[0])
    try:
        kept = np.lib.format.open_memmap(part, "w+", np.dtype("<i2"), shape)
        for place, file in enumerate(files):
            kept[place] = record(folder / file, sums[file])
        kept.flush()
        del kept
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def record(path: Path, sha256: str) -> np.ndarray:
    """One record in WFDB's format 16, int16 [time, lead]: little-endian, leads in turn, 1000 steps
    a millivolt, as PTB-XL has them all; its header is checked for that."""
    content = read_checked(path, (f"sha256:{sha256}",))
    lines = path.with_suffix(".hea").read_text(encoding="utf-8").splitlines()
    said = [line.split() for line in lines if line and not line.startswith("#")]
    leads, rate, times = int(said[0][1]), float(said[0][2]), int(said[0][3])
    plain = all(line[1] == "16" and line[2].startswith("1000") for line in said[1:])
    if (leads, rate, times) != (12, 100.0, 1000) or not plain or len(content) != 24000:
        raise DatasetError(
            f"{path} is no record of 12 leads in format 16, 100 Hz and 10 s, 1000 steps a millivolt"
        )
    return np.frombuffer(content, "<i2").reshape(times, leads)


def _units_of(values: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and deviation over records that do not fit into memory together."""
    total = squares = 0.0
    for start in range(0, len(rows), 500):
        some = values[rows[start : start + 500]].astype(np.float64)
        total, squares = total + some.sum(), squares + (some**2).sum()
    number = len(rows) * SHAPE[0] * SHAPE[1]
    mean = total / number
    deviation = (squares / number - mean**2) ** 0.5
    return torch.full((1, 1), mean), torch.full((1, 1), deviation)
