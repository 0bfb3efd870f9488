"""Guided dropout against its slow twin, and what it refuses."""

import numpy as np
import pytest
import torch
from oracles import counter_hash
from oracles.slow_attribution import slow_maps, torch_cross_entropy
from oracles.slow_selection import slow_categories
from oracles.tiny_data import make_splits
from torch import nn

from aba_core import TrainConfig, train
from aba_core.arms import METHODS, Arm
from aba_core.methods.occlusion import GuidedDropout
from aba_core.randomness import Draws
from aba_core.selection import Percentiles
from aba_core.sites import SingleSite

SPLITS = make_splits((2, 6, 5), 3)
CONFIG = TrainConfig(epochs=1, batch_size=5, dtype="float64")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)).double()


@pytest.mark.parametrize("of", ["high", "low"])
@pytest.mark.parametrize("placebo", ["", "permuted", "other_sample", "random"])
def test_guided_dropout_equals_its_slow_twin(of, placebo):
    method, net = GuidedDropout(p=0.2, of=of, placebo=placebo), model()
    x, y = SPLITS.train.x[:6].double(), SPLITS.train.y[:6]
    cut = SingleSite(net, "input", torch_cross_entropy, 3)
    changed, labels = method.batch(cut.tail, x, y, Draws.single(4, 9, 6, "cpu"))
    maps = slow_maps(net, x, y, method.maps, 4, 9, torch_cross_entropy)
    for i in range(6):
        values = maps[i].reshape(-1).numpy()
        noise = [counter_hash.normal(4, "placebo", 9 * 2**20, i * 60 + k) for k in range(60)]
        if placebo == "other_sample":
            values = maps[i - 1].reshape(-1).numpy()
        elif placebo:
            values = values[np.argsort(noise)] if placebo == "permuted" else np.array(noise)
        low, _, high = slow_categories(values, Percentiles(0.2, 0.8))
        expected = x[i].reshape(-1).clone()
        expected[torch.as_tensor(high if of == "high" else low)] = 0.0
        assert torch.equal(changed[i].reshape(-1), expected)
        assert int((changed[i] == 0).sum()) == 12
    assert torch.equal(labels, y)


def test_replicas_train_side_by_side_as_alone():
    arm = Arm("a", GuidedDropout(p=0.1))
    together = train(CONFIG, [arm], [0, 1], splits=SPLITS).frame()
    for seed in (0, 1):
        alone = train(CONFIG, [arm], [seed], splits=SPLITS).frame()
        of_seed = together.loc[together["seed"] == seed, "validation_loss"].item()
        assert alone["validation_loss"].item() == pytest.approx(of_seed, rel=1e-9)


@pytest.mark.parametrize("kind", sorted(set(METHODS) - {"aba"}))
def test_every_method_trains_in_single_precision(kind):
    config = TrainConfig(epochs=1, batch_size=5)
    frame = train(config, [Arm.of("a", method=kind)], [0], splits=SPLITS).frame()
    assert frame["status"].tolist() == ["finished"]


def test_what_cannot_be_hidden_is_refused():
    with pytest.raises(ValueError, match="p is 0.6; allowed: 0 to 0.5"):
        GuidedDropout(p=0.6)
    with pytest.raises(ValueError, match="unknown of 'middle'; known: high, low"):
        GuidedDropout(of="middle")
    with pytest.raises(ValueError, match="placebo is 'gaussian', which changes features"):
        GuidedDropout(placebo="gaussian")
