"""Checkpoints: everything that a stopped training needs to continue to the bit, in one file.

Draws are functions of (seed, purpose, step, place), so no generator's state is part of it. A file
is written beside its place, flushed, and renamed: a kill at any moment leaves the old or the new.
"""

from __future__ import annotations

import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

_log = logging.getLogger("aba_core")


def write(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read(path: Path, of: str) -> dict[str, Any] | None:
    """A run's checkpoint; None where there is none. of: what it must be of.

    One that cannot be read, or is of another run, is said to be so and trained over.
    """
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        _log.warning("checkpoint %s cannot be read (%s); training from the start", path, reason)
        return None
    if not isinstance(state, dict) or state.get("of") != of:
        _log.warning("checkpoint %s is of another run; training from the start", path)
        return None
    return state
