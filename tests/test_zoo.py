"""Any architecture trains, together or one by one, as it does alone in ordinary PyTorch."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from oracles.plain_loop import PlainRun, plain_train
from oracles.tiny_data import make_splits
from oracles.zoo import CLASSES, ONE_BY_ONE, ORDINARY_DROPOUT, VANILLA_ONLY, ZOO

from aba_core import probing, training
from aba_core.adjustments import AdjustmentSet
from aba_core.arms import Arm, TrainConfig
from aba_core.datasets import Splits
from aba_core.methods.aba import Augmentation
from aba_core.training import train

BATCH, SIZES = 5, (12, 6, 5)
SEEDS = (3, 8, 11)
CONFIG = TrainConfig(
    epochs=3 * BATCH / SIZES[0], batch_size=BATCH, dtype="float64", learning_rate=0.05
)
ABA = Augmentation(AdjustmentSet.parse("1,2,3,4,5,6"), strength=0.3, target="loss")


def arm_of(name: str, mode: str) -> Arm:
    if name in VANILLA_ONLY:
        return Arm("vanilla")
    return Arm("aba", Augmentation(**{**vars(ABA), "attribution_mode": mode}))


@cache
def data(shape: tuple[int, ...]) -> Splits:
    return make_splits(shape, CLASSES, SIZES)


@cache
def alone(name: str, mode: str, seed: int) -> PlainRun:
    shape, build = ZOO[name]
    ordinary = name in ORDINARY_DROPOUT
    arm = arm_of(name, mode)
    return plain_train(CONFIG, arm, seed, data(shape), build=build, ordinary_dropout=ordinary)


@pytest.fixture
def ways(monkeypatch) -> list[bool | None]:
    """Whether each group's replicas may run together (False: they may not)."""
    probing._say.cache_clear()
    noted: list[bool | None] = []
    real = training.probe

    def probe(replicas, *arguments):
        result = real(replicas, *arguments)
        noted.append(replicas.together)
        return result

    monkeypatch.setattr(training, "probe", probe)
    return noted


def check(name: str, mode: str, count: int) -> None:
    shape, build = ZOO[name]
    arm, seeds = arm_of(name, mode), SEEDS[:count]
    runs = train(CONFIG, [arm], seeds, splits=data(shape), build=build)
    for row in runs.frame().to_dict("records"):
        plain = alone(name, mode, row["seed"])
        assert row["status"] == "finished"
        for metric, value in plain.metrics[-1].items():
            assert row[metric] == pytest.approx(value, rel=1e-9, abs=1e-9), metric
        model = runs.model(arm.name, row["seed"])
        assert model.state_dict().keys() == plain.model.state_dict().keys()
        for key, value in plain.model.state_dict().items():
            torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-8, atol=1e-9)
        for one, other in zip(model.modules(), plain.model.modules(), strict=True):
            assert type(one).__name__ == type(other).__name__


def test_the_zoo_is_large():
    assert len(ZOO) >= 35
    assert set(ONE_BY_ONE) | VANILLA_ONLY | ORDINARY_DROPOUT <= set(ZOO)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", ZOO)
def test_every_architecture_trains_as_it_does_alone(name, count, ways, caplog):
    check(name, "eval", count)
    # Two replicas never run together on a CPU, three do unless vmap cannot.
    refused = count == 3 and name in ONE_BY_ONE
    assert count == 2 or ways == [False if refused else None]
    said = [record.getMessage() for record in caplog.records if record.name == "aba_core"]
    assert len(said) == refused
    for line in said:
        assert "trains one replica after the other" in line and ONE_BY_ONE[name] in line


MEASURED = (
    *("lstm", "transformer", "transformer with dropout", "causal attention", "group norm"),
    *("dropout", "frozen backbone", "input changed in place", "nested, one never used"),
)


@pytest.mark.parametrize("name", MEASURED)
def test_mechanisms_are_measured_on_any_architecture(name):
    shape, build = ZOO[name]
    config = replace(CONFIG, mechanism=2)
    plain, measured = (
        train(c, [Arm("a", ABA)], SEEDS, splits=data(shape), build=build) for c in (CONFIG, config)
    )
    assert list(plain.frame().validation_loss) == list(measured.frame().validation_loss)
    numbers = measured.mechanism().filter(regex="^(loss|eigenvalue|coherence|first)_")
    assert len(numbers) == 6 and bool(numbers.notna().all(axis=None))


@pytest.mark.parametrize("name", [name for name in ZOO if "drop" in name or "batch norm" in name])
def test_every_dropout_is_the_same_in_maps_made_in_train_mode(name):
    check(name, "train", 3)
