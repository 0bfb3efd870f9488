"""A data set of one's own that is read from one file, and a study on it: python streamed.py FOLDER
SAMPLES prints the peak of this process's memory in MiB, and what came of the study."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np

SHAPE = (1, 128, 128)
BYTES = 4 * 128 * 128  # of a sample, 64 KiB


class File:
    """Samples of float32 in one file, read one at a time. The lower half of one in two is 1."""

    def __init__(self, path: Path, first: int, count: int) -> None:
        self.path, self.first, self.count = path, first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> tuple[np.ndarray, int]:
        with self.path.open("rb") as file:
            file.seek((self.first + place) * BYTES)
            sample = np.frombuffer(file.read(BYTES), dtype=np.float32).reshape(SHAPE)
        return sample, int(sample[0, -1, 0] > 0.5)


def write(path: Path, samples: int) -> None:
    """Samples and 200 more, drawn one at a time."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for number in range(samples + 200):
            sample = rng.random(SHAPE, dtype=np.float32)
            sample[0, 64:] = number % 2
            file.write(sample.tobytes())


def load(path: str, samples: int, subset: str = "", subset_seed: int = 0):
    from aba_core.streams import streams_from

    parts = [(0, samples), (samples, 100), (samples + 100, 100)]
    return streams_from(*(File(Path(path), *part) for part in parts), classes=2, name="streamed")


def main() -> None:
    from oracles.in_this_process import here

    from analysis import runner
    from analysis.study import Study

    folder, samples = Path(sys.argv[1]), int(sys.argv[2])
    path = folder / "samples.bin"
    write(path, samples)
    use = {"use": "oracles.streamed:load", "path": str(path), "samples": samples}
    config = {"dataset": use, "model": "linear", "epochs": 1, "batch_size": 64,
              "learning_rate": 0.001, "trainer": {"kind": "single"}}  # fmt: skip
    arms = [{"name": "MendABA", "method": {"kind": "mendaba", "strength": 0.1, "top_k": 2}}]
    study = Study(name="streamed", dataset="streamed", config=config, arms=arms, seeds=1)
    done = runner.run(study, folder / "results", device="cpu", engine=here)
    row = done.result.frame.iloc[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{peak:.0f} {row['step']} {row['test_accuracy']:.1f}")


if __name__ == "__main__":
    main()
