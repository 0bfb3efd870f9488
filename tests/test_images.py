"""What evaluation images add to an interval, from studies that kept what runs get right."""

import dataclasses

import numpy as np
import pytest

from aba_core.identity import short_hash
from analysis import images, rules, scopes, wording
from analysis import results as store
from analysis.comparisons import Grid
from analysis.exhibits import Look
from analysis.hypothesis import Contrast, Hypothesis
from analysis.study import Study

A_B = Contrast(label="pair − Vanilla", weights={"pair": 1.0, "Vanilla": -1.0})
CLAIM = Hypothesis(name="h", statement="It helps.", estimand="e", comparisons=(A_B,), n=5)


VANILLA = {"name": "Vanilla", "method": {"kind": "vanilla"}}
PAIR = {"name": "pair", "adjustments": "3,4", "strength": 0.5, "target": "loss"}


def made(folder, name: str, arms=(VANILLA, PAIR), first: int = 300, **changes):
    """A study whose runs are right on images by chance, some images being harder for one arm."""
    fields = {
        "name": name, "dataset": "digits", "config": {"dataset": "digits", "epochs": 2},
        "arms": arms, "seeds": tuple(range(first, first + 8)), "fresh_subsets": 1,
    }  # fmt: skip
    one = Study.model_validate(fields | changes)
    rng = np.random.default_rng(first)
    harder = np.random.default_rng(0).normal(0, 0.2, size=(2, 100))
    keys, rows = {}, []
    for place, arm in enumerate(one.arms):
        for seed in one.seeds:
            key = short_hash([name, arm.name, seed])
            keys[key] = (arm.name, seed)
            row = {
                "study": name, "dataset": "digits", "subset": "tiny", "subset_seed": seed,
                "model": "small_cnn", "batch_norm": False, "epochs": 2.0, "arm": arm.name,
                "seed": seed, "seconds": 1.0, "status": "finished", "key": key, "chunk": name,
                "finished_at": "2030-01-01T00:00:00+00:00", "train_accuracy": 100.0,
            }  # fmt: skip
            for split in ("validation", "test"):
                right = rng.random(100) < 0.7 + place * harder[int(split == "test")]
                row[f"{split}_accuracy"] = 100.0 * right.mean()
                if one.keep_correct:
                    row[f"{split}_correct"] = np.packbits(right).tobytes()
                    row[f"{split}_samples"] = len(right)
            rows.append(row)
    store.declare(folder, one, keys)
    store.write_chunk(folder, "runs", name, rows)
    return store.load(folder, name, "digits")


@pytest.fixture
def folder(tmp_path):
    """A study with a hypothesis, which kept nothing, and one of the same arms that did."""
    made(tmp_path, "asked", hypotheses=(CLAIM,))
    made(tmp_path, "kept", first=400, keep_correct=True)
    return tmp_path


@pytest.mark.parametrize("seed", range(3))
def test_with_a_studys_own_images_it_is_the_interval_of_crossed_blocks_and_images(seed):
    rng = np.random.default_rng(seed)
    of_block, of_image = 2 * rng.standard_normal((20, 1)), 15 * rng.standard_normal((1, 60))
    apart = 1 + of_block + of_image + 20 * rng.standard_normal((20, 60))
    values = np.stack([apart.mean(1), np.zeros(20)], axis=1)
    grid = Grid(("pair", "Vanilla"), np.arange(20), values)
    found = images.with_images(grid, A_B.weights, images.images_part(apart))
    slow = scopes.over_images(apart)
    assert found.estimate == pytest.approx(slow.estimate)
    # Only the degrees of freedom are counted in other parts.
    assert found.high - found.low == pytest.approx(slow.high - slow.low, rel=0.03)


def test_images_without_an_effect_of_their_own_add_little():
    rng = np.random.default_rng(0)
    noise = 10 * rng.standard_normal((200, 400))
    assert images.images_part(noise).variance < 0.01
    spread = noise + 20 * rng.standard_normal((1, 400))
    assert images.images_part(spread).variance == pytest.approx(20**2 / 400, rel=0.2)


def test_a_verdict_says_what_its_interval_is_over_and_has_the_wider_one_beside_it(folder):
    asked = store.load(folder, "asked", "digits")
    (verdict,) = rules.test_all(asked, Look().rng())
    row = verdict.decisive
    assert row["over"] == "training subsets, seeds"
    assert row["images_low"] < row["estimate_low"] < row["estimate_high"] < row["images_high"]
    wider = wording.range_text(row["images_low"], row["images_high"])
    assert "The interval is over training subsets and seeds. Over evaluation" in verdict.sentence
    assert f"images too it is {wider}." in verdict.sentence
    table = rules.verdict_table([verdict])
    assert table["over_images"].tolist() == [wider] and table["over_seeds"].tolist() == [""]
    (on_test,) = rules.test_all(asked, Look().rng(), metric="test_accuracy")
    assert on_test.decisive["images_low"] != row["images_low"]


def test_differences_are_those_of_each_subset_and_image_counted_by_hand(folder):
    seeds = {"fresh_subsets": 2, "first": 500, "keep_correct": True}
    kept = made(folder, "two-seeds", **seeds)
    rows = kept.frame
    rows["subset_seed"] = rows["seed"] // 2 * 2  # pairs of seeds share a subset
    rows = rows[(rows["arm"] != "pair") | (rows["subset_seed"] != 502)]  # which one arm lacks
    found = images.Kept(dataclasses.replace(kept, frame=rows)).differences(A_B.weights, "test")
    for block, subset in enumerate((500, 504, 506)):
        for image in (0, 50, 99):
            right = {
                arm: [
                    np.unpackbits(np.frombuffer(bits, np.uint8))[image]
                    for bits in rows["test_correct"][
                        (rows["arm"] == arm) & (rows["subset_seed"] == subset)
                    ]
                ]
                for arm in ("pair", "Vanilla")
            }
            slow = 100 * (np.mean(right["pair"]) - np.mean(right["Vanilla"]))
            assert found[block, image] == pytest.approx(slow)
    assert found.shape == (3, 100)


def test_nothing_is_taken_from_runs_of_another_kind(folder):
    asked = store.load(folder, "asked", "digits")
    part = images.of_study(asked, "validation_accuracy")
    assert part(A_B.weights) is not None and part(A_B.weights).study == "kept"
    assert part({"pair": 1.0, "another": -1.0}) is None
    assert images.of_study(asked, "validation_loss")(A_B.weights) is None
    other = made(folder, "other", config={"dataset": "digits", "epochs": 3})
    assert images.of_study(other, "validation_accuracy")(A_B.weights) is None
    alone = made(folder / "alone", "asked", hypotheses=(CLAIM,))
    (verdict,) = rules.test_all(alone, Look().rng())
    assert "seeds, not over evaluation images." in verdict.sentence
    assert np.isnan(verdict.decisive["images_low"])


def test_an_arm_of_the_same_name_and_another_strength_tells_nothing(folder):
    other = made(folder, "strong", (VANILLA, PAIR | {"strength": 0.9}))
    assert images.of_study(other, "validation_accuracy")(A_B.weights) is None


def test_every_scope_says_what_it_is_over():
    grid = Grid(("pair", "Vanilla"), np.zeros(6, int), np.random.default_rng(0).random((6, 2)))
    one = rules.Judge(CLAIM, grid, np.random.default_rng(0)).verdict()
    assert one.decisive["over"] == "seeds"
    assert scopes.sources_of("adjustment", "") == ("adjustments",)
    assert scopes.sources_of("set", "sets") == ("sets", "seeds")
