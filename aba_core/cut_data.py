"""Data sets cut to one subset with validation and test, for machines that a few megabytes reach and
whole data sets do not.

A cut is a file `cut/NAME-SUBSET-SEED.npz` in mirror or cache, found before the whole data set is
looked for. It holds samples as they were before standard units, so that the same splits are made of
it and their fingerprint says so. Colour pictures lie in it as lossless WebP: a fifth less.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from aba_core.sources import REPLACE, DatasetError, Places, content_hash, find_file

PARTS = ("train", "validation", "test")
SEAL = "sha256"
WEBP = ".webp"  # of an array's name
ACROSS = 40  # pictures beside one another in one WebP; what it holds at most is 16383 wide and high
DOWN = 250


def place_of(name: str, subset: str, seed: int) -> str:
    """Where a cut lies in mirror or cache."""
    return f"cut/{name}-{subset}-{seed}.npz"


def find_cut(name: str, subset: str, seed: int, places: Places) -> dict[str, np.ndarray] | None:
    """The arrays of a cut; None where there is none. Raises DatasetError for a damaged one."""
    place, path = find_file(place_of(name, subset, seed), places)
    if not place:
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            kept = {key: stored[key] for key in stored.files}
        if str(kept.pop(SEAL)) != content_hash(kept):
            raise ValueError("its hash is another")
        return {
            key.removesuffix(WEBP): _pictures(value, kept) if key.endswith(WEBP) else value
            for key, value in kept.items()
        }
    except (OSError, ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path} is damaged: {error}; {REPLACE}") from error


def write_cut(arrays: dict[str, Any], path: Path) -> int:
    """Write a cut; its bytes. Pictures of three channels of bytes are packed."""
    packed: dict[str, Any] = {}
    for key, value in arrays.items():
        array = np.asarray(value)
        if array.ndim == 4 and array.shape[1] == 3 and array.dtype == np.uint8:
            packed[key + WEBP], packed[key + ".shape"] = _webp(array), np.array(array.shape)
        else:
            packed[key] = array
    packed[SEAL] = np.array(content_hash(packed))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **packed)
    return path.stat().st_size


def _webp(pictures: UInt8[np.ndarray, "sample 3 height width"]) -> UInt8[np.ndarray, " byte"]:
    """All pictures as WebP sheets one after the other, each with its length before it."""
    from PIL import Image

    content = b""
    for start in range(0, len(pictures), ACROSS * DOWN):
        part = pictures[start : start + ACROSS * DOWN]
        rows = -(-len(part) // ACROSS)
        sheet = np.zeros((rows * ACROSS, *part.shape[1:]), dtype=np.uint8)
        sheet[: len(part)] = part
        _, channels, height, width = sheet.shape
        laid = sheet.reshape(rows, ACROSS, channels, height, width).transpose(0, 3, 1, 4, 2)
        image = Image.fromarray(
            np.ascontiguousarray(laid.reshape(rows * height, ACROSS * width, channels))
        )
        stream = io.BytesIO()
        image.save(stream, "WEBP", lossless=True, quality=100, method=4, exact=True)
        content += len(stream.getvalue()).to_bytes(8, "little") + stream.getvalue()
    return np.frombuffer(content, dtype=np.uint8)


def _pictures(content: np.ndarray, kept: dict[str, np.ndarray]) -> np.ndarray:
    from PIL import Image

    name = next(key for key, value in kept.items() if value is content)
    samples, channels, height, width = kept[name.removesuffix(WEBP) + ".shape"]
    sheets, rest = [], content.tobytes()
    while rest:
        size = int.from_bytes(rest[:8], "little")
        with Image.open(io.BytesIO(rest[8 : 8 + size])) as image:
            laid = np.asarray(image.convert("RGB"))
        rest = rest[8 + size :]
        rows = len(laid) // height
        sheet = laid.reshape(rows, height, ACROSS, width, channels).transpose(0, 2, 4, 1, 3)
        sheets.append(sheet.reshape(-1, channels, height, width))
    return np.ascontiguousarray(np.concatenate(sheets)[:samples])
