"""A data set cut to one subset gives the very splits that the whole one does."""

import numpy as np
import pytest
import torch

from aba_core import load_dataset
from aba_core.cut_data import find_cut, place_of, write_cut
from aba_core.datasets import cut_dataset
from aba_core.sources import DatasetError, data_places


def test_a_cut_gives_the_splits_of_the_whole_data_set(tmp_path):
    whole = load_dataset("digits", "tiny", subset_seed=3)
    path, size = cut_dataset("digits", tmp_path, "tiny", 3)
    assert path == tmp_path / "cut/digits-tiny-3.npz" and size == path.stat().st_size < 50_000
    cut = load_dataset("digits", "tiny", subset_seed=3, mirror=tmp_path, cache=tmp_path)
    assert (cut.fingerprint, cut.notes) == (whole.fingerprint, whole.notes)
    for part in ("train", "validation", "test"):
        for field in ("data", "y", "index"):
            own, other = (getattr(getattr(splits, part), field) for splits in (cut, whole))
            assert torch.equal(own, other) and own.dtype == other.dtype


@pytest.mark.parametrize("samples", [1, 40, 10_001])
def test_colour_pictures_are_packed_without_loss(samples, tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (samples, 3, 4, 5), dtype=np.uint8)
    write_cut({"train_samples": pictures, "mean": np.ones(3)}, tmp_path / place_of("x", "y", 0))
    found = find_cut("x", "y", 0, data_places(tmp_path, None))
    assert set(found) >= {"train_samples", "mean"}
    assert np.array_equal(found["train_samples"], pictures)


def test_a_cut_that_was_changed_is_refused(tmp_path):
    path, _ = cut_dataset("digits", tmp_path)
    with np.load(path) as stored:
        kept = dict(stored)
    kept["train_labels"][0] += 1
    np.savez_compressed(path, **kept)
    with pytest.raises(DatasetError, match="digits-tiny-0.npz is damaged: its hash is another"):
        load_dataset("digits", "tiny", mirror=tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DatasetError, match="is damaged"):
        load_dataset("digits", "tiny", mirror=tmp_path)
