"""How much memory a study takes whose data stay on disk."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from aba_core.sources import DatasetError
from aba_core.streams import streams_from

ROOT = Path(__file__).resolve().parents[1]


def peak_of(folder: Path, samples: int) -> tuple[float, int]:
    """MiB at most, and steps, of a study on so many samples of 64 KiB, in a process of its own."""
    folder.mkdir()
    found = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    done = subprocess.run(
        [sys.executable, "-m", "oracles.streamed", str(folder), str(samples)],
        env={**os.environ, "PYTHONPATH": found, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    peak, steps, accuracy = done.stdout.split()
    assert float(accuracy) > 90  # it learnt from what it read
    (folder / "samples.bin").unlink()
    return float(peak), int(steps)


@pytest.mark.slow
def test_a_gigabyte_on_disk_takes_no_more_memory_than_a_sixteenth_of_it(tmp_path):
    small, few = peak_of(tmp_path / "small", 1024)
    large, many = peak_of(tmp_path / "large", 16384)  # 1 GiB
    assert (few, many) == (16, 256)
    assert large < small + 64, f"{large} MiB with 1 GiB on disk, {small} with 64 MiB"


def test_labels_of_data_on_disk_are_of_one_type_that_holds_them_all():
    x = np.zeros((1, 2, 2), dtype=np.float32)

    def labels(*given: object) -> torch.Tensor:
        part = [(x + k, label) for k, label in enumerate(given)]
        return streams_from(part, part, part, classes=1, task="regression").train.y

    assert labels(1, 2.5).tolist() == [1.0, 2.5]
    assert labels([1, 0], [0, 1]).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    with pytest.raises(DatasetError, match=r"label 1 of train has shape \(1,\), not \(2,\)"):
        labels([1, 0], [0])
