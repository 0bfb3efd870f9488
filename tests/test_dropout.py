"""Dropout by counters: PyTorch's in distribution, and a run's masks its own wherever it trains."""

from dataclasses import replace

import pytest
import torch
from oracles.slow_dropout import SlowDropout
from oracles.tiny_data import make_splits
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from aba_core.arms import Arm, TrainConfig
from aba_core.attribution import cross_entropy
from aba_core.dropout import SEED, STEP, Masks, dropped
from aba_core.methods.aba import MENDABA
from aba_core.randomness import PURPOSES
from aba_core.replicas import Replicas
from aba_core.steps import Step
from aba_core.training import train

KINDS = {
    nn.Dropout: (6, 5),
    nn.AlphaDropout: (6, 5),
    nn.Dropout1d: (4, 3, 5),
    nn.Dropout2d: (4, 3, 2, 2),
    nn.Dropout3d: (4, 3, 2, 2, 2),
    nn.FeatureAlphaDropout: (4, 3, 2, 2),
}


def network(kind: type[nn.Module] = nn.Dropout, p: float = 0.4) -> nn.Module:
    return nn.Sequential(nn.Linear(7, 8), kind(p), nn.Tanh(), kind(p), nn.Linear(8, 3))


def drawn(module: nn.Module, x: torch.Tensor, seed: int = 1, step: int = 0) -> torch.Tensor:
    return dropped(module, x, torch.tensor(seed), torch.tensor(step))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_equal_those_drawn_element_by_element(kind, p):
    x = torch.randn(KINDS[kind], dtype=torch.float64)
    fast, slow = (nn.Sequential(kind(p), kind(p)) for _ in range(2))
    masks = Masks(fast)
    oracle = SlowDropout(slow, seed=9)
    fast.get_buffer(SEED).fill_(9)
    for step in (0, 1, 2**30):
        fast.get_buffer(STEP).fill_(step)
        oracle.step = step
        masks.restart()
        torch.testing.assert_close(fast(x), slow(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("p", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_those_that_pytorchs_dropout_gives(kind, p):
    module = kind(p)
    x = torch.full((40, 50, *KINDS[kind][2:]), 2.0)
    theirs, ours = module(x), drawn(module, x)
    torch.testing.assert_close(ours.unique(), theirs.unique())
    assert float(ours.mean()) == pytest.approx(float(theirs.mean()), abs=0.15)
    if kind not in (nn.Dropout, nn.AlphaDropout):  # whole channels alike
        features = ours.flatten(2)
        assert torch.equal(features, features[..., :1].expand_as(features))


@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.Dropout1d, (50, 4)), (nn.Dropout3d, (50, 2, 2, 2))]
)
def test_an_input_without_a_batch_loses_channels(kind, shape):
    dropped_channels = drawn(kind(0.5), torch.ones(shape)).flatten(1)
    assert set(dropped_channels.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropped_channels, dropped_channels[:, :1].expand_as(dropped_channels))


def test_in_evaluation_nothing_is_dropped():
    model = network().eval()
    x = torch.randn(5, 7)
    expected = model(x)
    Masks(model)
    assert torch.equal(model(x), expected)


def test_a_module_called_twice_draws_two_masks():
    shared = nn.Dropout(0.5)
    model = nn.Sequential(shared, shared)
    masks = Masks(model)
    first, second = shared(torch.ones(100)), shared(torch.ones(100))
    assert not torch.equal(first, second)
    masks.restart()
    assert torch.equal(shared(torch.ones(100)), first)


def test_modules_seeds_and_steps_have_masks_of_their_own():
    x = torch.ones(200)
    masks = [drawn(nn.Dropout(0.5), x, seed, step) for seed in (0, 1) for step in (0, 1, 1024)]
    for number, mask in enumerate(masks):
        assert not any(torch.equal(mask, other) for other in masks[:number])


CONFIG = TrainConfig(epochs=2, batch_size=5, dtype="float64")


def parameters(runs, arm: str, seed: int) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in runs.model(arm, seed).parameters()])


@pytest.mark.parametrize("kind", [nn.Dropout, nn.RReLU], ids=["masks", "generator"])
def test_a_run_alone_equals_the_same_run_among_27_others(kind):
    """Together or one by one, whatever PyTorch's generator did before."""

    def build():
        middle = [nn.Dropout(0.4)] * 2 if kind is nn.Dropout else [kind()]
        return nn.Sequential(nn.Linear(7, 8), *middle, nn.Linear(8, 3))

    splits = make_splits((7,))
    arms = [Arm(f"{i}", replace(MENDABA, strength=0.02 * i, target="loss")) for i in range(28)]
    many = train(CONFIG, arms, [4], splits=splits, build=build)
    torch.manual_seed(123)
    alone = train(CONFIG, arms[20:21], [4], splits=splits, build=build)
    torch.testing.assert_close(
        parameters(many, "20", 4), parameters(alone, "20", 4), rtol=1e-11, atol=1e-12
    )


def test_dropout_follows_its_own_purpose():
    splits = make_splits((7,))

    def trained(**held) -> torch.Tensor:
        arm = Arm("a", held=tuple(held.items()))
        return parameters(train(CONFIG, [arm], [4], splits=splits, build=network), "a", 4)

    assert torch.equal(trained(), trained(dropout=4))
    assert not torch.equal(trained(), trained(dropout=5))


def test_pytorchs_generator_is_left_as_it_was():
    splits = make_splits((7,))
    for build in (network, lambda: nn.Sequential(nn.Linear(7, 3), nn.RReLU())):
        before = torch.get_rng_state()
        train(CONFIG, [Arm("a")], [0, 1, 2], splits=splits, build=build)
        assert torch.equal(torch.get_rng_state(), before)


def test_a_trained_model_has_its_ordinary_dropout():
    runs = train(CONFIG, [Arm("a")], [0, 1, 2], splits=make_splits((7,)), build=network)
    model = runs.model("a", 1)
    assert list(model.state_dict()) == list(network().state_dict())
    assert not list(model.buffers())
    model.train()
    x = torch.randn(5, 7, dtype=torch.float64)
    assert not torch.equal(model(x), model(x))  # draws from PyTorch's generator again


def test_a_recorded_step_draws_new_masks_at_each_replay():
    """The number of the step is a tensor, and not a value that a recording bakes in."""
    splits = make_splits((7,))
    config = replace(CONFIG, dtype="float32")

    def step() -> Step:
        torch.manual_seed(0)
        replicas = Replicas.stack([network() for _ in range(2)], dropout_seeds=[3, 4])
        replicas.together = True
        seeds = {name: torch.tensor([[3], [4]]) for name in PURPOSES}
        rate = torch.full((2, 1), 0.1)
        return Step(config, replicas, None, None, cross_entropy, splits.train, seeds, rate)

    called, recorded = step(), step()
    before = recorded.replicas.parameters.clone()
    rows = torch.arange(5).expand(2, 5)
    recorded.set(0, rows)
    replay = make_fx(lambda: recorded())()
    recorded.replicas.parameters.copy_(before)
    for moments in recorded._moments:
        moments.zero_()
    for number in range(4):
        for one in (called, recorded):
            one.set(number, rows)
        called()
        replay()
        # Called, the loss may come from C and differ in its last bits; other masks differ in all.
        torch.testing.assert_close(called.replicas.parameters, recorded.replicas.parameters)
