"""What a row of results may say: types, ranges, units. Anything else is no result."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

TEXTS = frozenset(
    "study dataset subset model optimizer schedule dtype precision arm attribution target placebo "
    "status embedding key toolkit commit torch python device finished_at chunk data "
    "hypotheses".split()
)
# Whole numbers; a table put together of older and newer rows has them as floats with gaps.
WHOLE = frozenset(
    "seed step batch_size subset_seed tokens curve_every mechanism top_k logit_classes "
    "adjustment".split()
)
FLAGS = frozenset("batch_norm randomize flip_bit subset_per_run".split())
NOT_NEGATIVE = frozenset("epochs learning_rate weight_decay momentum seconds passes".split())
REQUIRED = ("key", "chunk", "arm", "seed")
STATUS = ("finished", "diverged")
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
# Written into every new file, so that a number in other units is not taken for one in these.
UNITS = {"accuracy": "percent", "loss": "task", "seconds": "s"}


def metadata() -> dict[str, str]:
    """What a file says of its rows."""
    return {"aba": json.dumps({"units": UNITS}, sort_keys=True)}


def examined(content: bytes, kind: str) -> tuple[pa.Table | None, str]:
    """The rows of a file of a kind, and what is wrong with them."""
    try:
        source = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        table = source.read(use_threads=False)  # small files: threads take longer to start
        table.validate(full=True)
        return table, problem(table, kind)
    except (pa.ArrowException, OSError, ValueError) as error:
        return None, f"is no table of rows: {' '.join(str(error).split())[:200]}"


def problem(table: pa.Table, kind: str) -> str:
    """The first thing wrong with rows of a kind ("runs", "frozen", "mechanism"); empty where
    nothing is."""
    missing = [name for name in REQUIRED if name not in table.column_names]
    if missing or not len(table):
        return f"has no {missing[0] if missing else 'rows'}"
    if len(set(table.column_names)) != len(table.column_names):
        return "names a column twice"
    said = (table.schema.metadata or {}).get(b"aba")
    if said is not None and said.decode("utf-8", "replace") != metadata()["aba"]:
        return "is in other units"
    for name in table.column_names:
        wrong = _wrong_type(name, table.schema.field(name).type) or _wrong_value(name, table[name])
        if wrong:
            return f"{name} {wrong}"
    return _wrong_status(table) if kind == "runs" else ""


def _wrong_type(name: str, kind: pa.DataType) -> str:
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if pa.types.is_null(kind):
        return "is empty" if name in REQUIRED else ""
    if name in TEXTS:
        return "" if is_text else f"is {kind}; needed: text"
    if name in FLAGS:
        return "" if pa.types.is_boolean(kind) else f"is {kind}; needed: true or false"
    if name in WHOLE | NOT_NEGATIVE or _is_accuracy(name):
        return "" if is_number else f"is {kind}; needed: a number"
    plain = is_text or is_number or pa.types.is_boolean(kind) or pa.types.is_binary(kind)
    return "" if plain or pa.types.is_large_binary(kind) else f"is {kind}; needed: plain values"


def _is_accuracy(name: str) -> bool:
    return name == "accuracy" or name.endswith("_accuracy")


def _wrong_value(name: str, column: pa.ChunkedArray) -> str:
    if name in REQUIRED and column.null_count:
        return "is missing in a row"
    if name in ("key", "chunk"):
        return "" if _every(pc.match_substring_regex(column, NAME)) else "has another form"
    if name == "status":
        allowed = _every(pc.is_in(column, pa.array(STATUS, column.type)))
        return "" if allowed else f"is none of {', '.join(STATUS)}"
    test: Callable[[np.ndarray], np.ndarray]
    if _is_accuracy(name):
        test, needed = (lambda v: (v >= 0) & (v <= 100)), "0 to 100 percent"
    elif name in WHOLE:
        test = lambda v: (v >= 0) & (v < 2.0**63) & (v == np.floor(v))  # noqa: E731
        needed = "whole numbers from 0"
    elif name in NOT_NEGATIVE:
        test, needed = (lambda v: (v >= 0) & (v < np.inf)), "finite numbers not below 0"
    else:
        return ""
    values = column.drop_null().to_numpy().astype(float)
    values = values[~np.isnan(values)]
    wrong = values[~test(values)]
    return f"is {wrong[0]:g}; allowed: {needed}" if len(wrong) else ""


def _every(holds: pa.ChunkedArray) -> bool:
    return pc.all(holds, skip_nulls=False, min_count=0).as_py() is True


def _wrong_status(table: pa.Table) -> str:
    """A run that finished has numbers. An accuracy that none has is one that labels do not have."""
    if "status" not in table.column_names:
        return "has no status"
    finished = table.filter(pc.equal(table["status"], "finished"))
    for name in table.column_names:
        if _is_accuracy(name) or name.endswith("_loss"):
            values = finished[name].to_pandas()
            gaps = values.isna()
            if gaps.any() and (not gaps.all() or name.endswith("_loss")):
                return f"{name} is missing of a run that finished"
    return ""
