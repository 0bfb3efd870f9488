"""The crossed design: replicate = fresh training subset + seed, arms paired within."""

from dataclasses import replace

import numpy as np
import pytest
from oracles.in_this_process import here

from aba_core.arms import Arm
from aba_core.identity import plain
from analysis import plan, runner
from analysis.study import Study, StudyError

ARMS = (Arm.of("plain", method="vanilla"), Arm.of("pair", adjustments="3,4", strength=0.3,
                                                  target="loss"))  # fmt: skip


def run(study: Study, results):
    return runner.run(study, results, device="cpu", engine=here)


def study(**changes) -> Study:
    fields = {"name": "crossed", "dataset": "digits", "arms": ARMS, "seeds": (4, 5, 6, 7),
              "config": {"dataset": "digits", "epochs": 1, "batch_size": 20}}  # fmt: skip
    return Study(**(fields | changes))


def test_seeds_share_subsets_as_declared_and_rows_say_which(tmp_path):
    frame = run(study(fresh_subsets=2), tmp_path).result.frame
    assert (frame["subset_seed"] == frame["seed"] // 2).all()
    assert frame.groupby("subset_seed")["data"].nunique().eq(1).all()
    assert frame["data"].nunique() == 2 and len(frame) == 8


def test_a_run_on_a_shared_fresh_subset_is_that_of_the_subset(tmp_path):
    fresh = run(study(fresh_subsets=2, seeds=(5,)), tmp_path / "a").result.frame
    config = dict(study().config, subset_seed=2)
    same = run(study(config=config, seeds=(5,)), tmp_path / "b").result.frame
    assert fresh["validation_loss"].tolist() == same["validation_loss"].tolist()
    assert set(fresh["key"]).isdisjoint(same["key"])


def test_a_chunk_has_all_the_seeds_of_a_subset_and_on_a_cpu_no_more_runs_for_it():
    for device in ("cpu", "cuda"):
        chunks = plan.resolve(study(fresh_subsets=2), device).chunks
        assert [chunk.seeds for chunk in chunks] == [(4, 5), (6, 7)]
    assert [chunk.seeds for chunk in plan.resolve(study(fresh_subsets=1)).chunks] == [
        (seed,) for seed in (4, 5, 6, 7)
    ]
    few = plan.resolve(study(fresh_subsets=2), arms_per_chunk=2).chunks
    assert {len(chunk.runs) for chunk in few} == {2}
    assert sorted(run for chunk in few for run in chunk.runs) == sorted(
        run for chunk in chunks for run in chunk.runs
    )


def test_fresh_subsets_are_short_for_what_each_arm_says():
    said = tuple(replace(arm, subset_per_run=True, seeds_per_subset=3) for arm in ARMS)
    assert study(fresh_subsets=3) == study(arms=said)
    assert study(fresh_subsets=0) == study()
    with pytest.raises(ValueError, match="fresh_subsets is -1; allowed: whole numbers from 0"):
        study(fresh_subsets=-1)


def test_seeds_share_subsets_only_where_subsets_are_fresh():
    assert "seeds_per_subset" not in plain(Arm("a", subset_per_run=True))
    with pytest.raises(ValueError, match="seeds_per_subset is 2, but the arm does not draw"):
        Arm("a", seeds_per_subset=2)
    with pytest.raises(ValueError, match="seeds_per_subset is 0; allowed: whole numbers from 1"):
        Arm("a", subset_per_run=True, seeds_per_subset=0)


def test_what_each_run_gets_right_is_kept_and_gives_its_accuracies(tmp_path):
    frame = run(study(keep_correct=True, seeds=2), tmp_path).result.frame
    for row in frame.to_dict("records"):
        for split in ("validation", "test"):
            bits = np.unpackbits(np.frombuffer(row[f"{split}_correct"], np.uint8))
            samples = int(row[f"{split}_samples"])
            assert len(bits) - 7 <= samples <= len(bits)
            right = 100 * bits[:samples].mean()
            assert right == pytest.approx(row[f"{split}_accuracy"], abs=1e-9)
    again = run(study(seeds=2), tmp_path)
    assert again.computed == 4  # runs that did not keep it are other runs


def test_what_has_no_right_class_cannot_keep_it(tmp_path):
    (tmp_path / "soft_data.py").write_text(
        "import torch\nfrom aba_core import splits_from\n"
        "def data(subset, subset_seed, tokens):\n"
        "    x = torch.randn(40, 4); y = torch.randn(40)\n"
        "    return splits_from(x, y, validation=(x, y), test=(x, y), name='numbers', "
        "task='regression')\n"
    )
    import sys

    sys.path.insert(0, str(tmp_path))
    config = {"dataset": {"use": "soft_data:data"}, "model": "mlp", "epochs": 1, "batch_size": 20}
    try:
        with pytest.raises(StudyError, match="keep_correct is true"):
            plan.resolve(study(config=config, keep_correct=True, dataset="numbers"))
    finally:
        sys.path.remove(str(tmp_path))
