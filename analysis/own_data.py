"""Data of one's own for `aba try`: a CSV or NPZ file, or a function "module:function"."""

from __future__ import annotations

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


def _from_csv(path: Path, label: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        table = pd.read_csv(path)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' own errors are ValueErrors
        raise StudyError(f"{path} is no CSV table: {' '.join(str(error).split())}") from error
    names = list(map(str, table.columns))
    table.columns = pd.Index(names)
    label = label or (names[-1] if names else "")
    if label not in names:
        raise StudyError(
            f"{path} has no column {label!r}{meant(label, names)}; there: {', '.join(names)}"
            f"{'; its columns are to be separated by commas' * (len(names) == 1)}"
        )
    if len(names) < 2:
        raise StudyError(f"{path} has the column {label!r} alone; needed: inputs and a label")
    inputs = table.drop(columns=label)
    for name in inputs:
        if not pd.api.types.is_numeric_dtype(inputs[name]):
            raise StudyError(
                f"column {name!r} of {path} holds {inputs[name].iloc[0]!r}; needed: numbers in all "
                f"columns but the label's, which is {label!r} (see --label)"
            )
    lacking = int(table[label].isna().sum())
    if lacking:
        raise StudyError(f"column {label!r} of {path} lacks {lacking} labels; drop those rows")
    labels = table[label]
    if pd.api.types.is_float_dtype(labels) and (labels == labels.round()).all():
        labels = labels.astype(np.int64)
    return inputs.to_numpy(np.float64), labels.to_numpy()


def _from_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            lacking = [name for name in ("x", "y") if name not in arrays]
            if lacking:
                raise StudyError(
                    f"{path} has no array {lacking[0]!r}; there: {', '.join(arrays.files)}; "
                    "needed: x and y, as np.savez writes them"
                )
            return arrays["x"], arrays["y"]
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        if isinstance(error, StudyError):
            raise
        raise StudyError(f"{path} is no NPZ file of numbers: {error}") from error


def _from_function(where: str) -> tuple[Any, Any]:
    try:
        given = load(where)()
    except Exception as error:  # whatever a stranger's function does
        raise StudyError(f"{where}: {' '.join(str(error).split())}") from error
    return given if isinstance(given, tuple) and len(given) == 2 else (given, None)
