"""Data of your own for `aba try`: a CSV or NPZ file, or a function "module:function"."""

from __future__ import annotations

import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aba_core.identity import load, meant
from analysis.study import StudyError


def read(where: str, label: str = "") -> tuple[Any, Any]:
    """Inputs and labels; or `Splits` and None, where a function gives them.

    A CSV file has a header, a row a sample, numbers in all columns but that of the label: the
    column `label`, or the last. An NPZ file has the arrays x and y. A function takes nothing and
    gives (x, y), `Splits`, or a PyTorch Dataset. Raises StudyError, one line.
    """
    path = Path(where)
    kind = path.suffix.lower()
    if kind not in (".csv", ".npz") and ":" in where:
        if label:
            raise StudyError(f"--label {label} goes with a CSV file, not with {where}")
        return _from_function(where)
    if kind not in (".csv", ".npz"):
        raise StudyError(f"{where!r} is no data; needed: a file .csv or .npz, or module:function")
    if not path.is_file():
        raise StudyError(f"cannot read {where}: no such file")
    if kind == ".npz" and label:
        raise StudyError(f"--label {label} goes with a CSV file; {where} has its labels as y")
    return _from_csv(path, label) if kind == ".csv" else _from_npz(path)


def described(where: str, label: str = "") -> str:
    """What of a CSV file that `read` takes is the label, and which input may be an identifier."""
    path = Path(where)
    if path.suffix.lower() != ".csv":
        return ""
    table = pd.read_csv(path, sep=_separator(path))
    label = label or str(table.columns[-1])
    inputs = table.drop(columns=label)
    classes, width = table[label].nunique(), inputs.shape[1]
    line = (
        f"{len(table)} samples, {width} input{'s' * (width > 1)} each; labels: column {label!r}, "
    )
    line += f"{classes} classes"
    counting = [repr(name) for name in inputs if _counts_rows(inputs[name])]
    if counting:
        line += f". Column {counting[0]} counts the rows: leave it out if it is an identifier"
    return line


def check_folder(out: Path) -> None:
    """Makes the folder of what will be written. Raises StudyError where nothing can be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise StudyError(f"cannot write to {out}: {error.strerror}") from error


def _from_csv(path: Path, label: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        table = pd.read_csv(path, sep=_separator(path))
    except UnicodeDecodeError as error:
        raise StudyError(
            f"{path} is not text in UTF-8 (byte {error.start}); save it as CSV in UTF-8"
        ) from error
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise StudyError(f"{path} is no CSV table: {' '.join(str(error).split())}") from error
    names = list(map(str, table.columns))
    table.columns = pd.Index(names)
    if all(map(_is_number, names)):
        raise StudyError(f"line 1 of {path} holds numbers alone; needed: the names of the columns")
    if names[0].startswith("Unnamed: ") and _counts_rows(table.iloc[:, 0]):
        raise StudyError(
            f"the first column of {path} has no name and counts the rows; write the file without "
            "it, as table.to_csv(..., index=False) does"
        )
    label = label or (names[-1] if names else "")
    if label not in names:
        raise StudyError(
            f"{path} has no column {label!r}{meant(label, names)}; there: {', '.join(names)}"
            f"{'; its columns are to be separated by commas' * (len(names) == 1)}"
        )
    if len(names) < 2:
        raise StudyError(f"{path} has the column {label!r} alone; needed: inputs and a label")
    if not len(table):
        raise StudyError(f"{path} has a header and no rows; needed: a row a sample")
    inputs = table.drop(columns=label)
    for name in inputs:
        if inputs[name].isna().any():
            gaps = int(inputs[name].isna().sum())
            raise StudyError(
                f"column {name!r} of {path} has no value in {gaps} of {len(table)} rows (the "
                f"first: row {int(inputs[name].isna().to_numpy().argmax()) + 1}); fill them or "
                "drop those rows"
            )
        if not pd.api.types.is_numeric_dtype(inputs[name]):
            numbers = pd.to_numeric(inputs[name], errors="coerce")
            text = inputs[name][numbers.isna()]
            comma = "; write decimals with a point" * _is_number(
                str(text.iloc[0]).replace(",", ".")
            )
            raise StudyError(
                f"column {name!r} of {path} holds {text.iloc[0]!r} in row {text.index[0] + 1}; "
                f"needed: numbers in all columns but the label's, which is {label!r} (see --label)"
                f"{comma}"
            )
    lacking = int(table[label].isna().sum())
    if lacking:
        raise StudyError(f"column {label!r} of {path} lacks {lacking} labels; drop those rows")
    labels = table[label]
    if pd.api.types.is_numeric_dtype(labels) and labels.nunique() > max(2, len(table) / 4):
        raise StudyError(
            f"column {label!r} of {path} has {labels.nunique()} different numbers in {len(table)} "
            "rows; needed: classes; another column is named by --label, and for numbers as targets "
            "a study has data with task='regression' (docs/guides/own-data-and-model.md)"
        )
    if pd.api.types.is_float_dtype(labels) and (labels == labels.round()).all():
        labels = labels.astype(np.int64)
    if pd.api.types.is_integer_dtype(labels) and set(labels) != set(range(labels.nunique())):
        labels = labels.astype(str)  # names: 1, 2, 3 are three classes, not four from 0
    return inputs.to_numpy(np.float64), labels.to_numpy()


def _is_number(text: str) -> bool:
    """Whether this is a number; pandas writes a second 0.5 in a header as 0.5.1."""
    try:
        float(re.sub(r"^(-?\d+\.\d+)\.\d+$", r"\1", text))
    except ValueError:
        return False
    return True


def _counts_rows(column: pd.Series[Any]) -> bool:
    """Whether the values are 0, 1, 2, ... or 1, 2, 3, ..."""
    first = column.iloc[0] if len(column) else None
    return first in (0, 1) and bool((column == np.arange(len(column)) + first).all())


def _separator(path: Path) -> str:
    """Comma, or the semicolon or tab that stands in its place in the header."""
    with path.open(encoding="utf-8", errors="replace") as file:
        header = file.readline()
    return max(",;\t", key=header.count)


def _from_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            lacking = [name for name in ("x", "y") if name not in arrays]
            if lacking:
                raise StudyError(
                    f"{path} has no array {lacking[0]!r}; there: {', '.join(arrays.files)}; "
                    "needed: x and y, as np.savez writes them"
                )
            return _channels_first(arrays["x"], path), arrays["y"]
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        if isinstance(error, StudyError):
            raise
        reason = "it has arrays of objects" if "Object arrays" in str(error) else "it is damaged"
        raise StudyError(f"{path} is no NPZ file of numbers: {reason}") from error


def _channels_first(x: np.ndarray, path: Path) -> np.ndarray:
    """Pictures as they are. Raises StudyError where their channels are last."""
    if x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        raise StudyError(
            f"x of {path} has shape {x.shape}; needed: pictures [n, channel, height, width], as "
            "np.moveaxis(x, 3, 1) makes them"
        )
    return x


def _from_function(where: str) -> tuple[Any, Any]:
    try:
        given = load(where)()
    except Exception as error:  # whatever a stranger's function does
        raise StudyError(f"{where}: {' '.join(str(error).split())}") from error
    return given if isinstance(given, tuple) and len(given) == 2 else (given, None)
