"""The loss around a model: its Hessian's spectrum and planes of weights, against whole matrices and
models that are moved one by one."""

import numpy as np
import pytest
import torch
from oracles import slow_card
from oracles.tiny_data import make_splits
from torch import nn

from aba_core.card import card, landscape
from aba_core.card.subject import drawn

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def splits():
    return make_splits((3,), 3, (12, 9, 9))


def made(seed: int, *further: nn.Module) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), *further, nn.Tanh(), nn.Linear(4, 3)).double()


@pytest.fixture(scope="module")
def hessian(splits):
    """All eigenvalues of the Hessian of the first model."""
    x, y = drawn(splits.train, 12, 0, torch.float64)
    return torch.linalg.eigvalsh(slow_card.hessian(made(0), x, y)).numpy()


def test_with_as_many_steps_as_weights_the_nodes_are_the_eigenvalues(splits, hessian):
    found = landscape.spectrum(made(0), splits, steps=1000, probes=3)
    for _, one in found.groupby("probe"):
        # Of equal eigenvalues, as the zeros of a softmax, Lanczos finds one.
        for value in one["eigenvalue"]:
            assert np.abs(hessian - value).min() < 1e-8
        for value in hessian[np.abs(hessian) > 1e-6]:
            assert np.abs(one["eigenvalue"] - value).min() < 1e-8
        assert one["weight"].sum() == pytest.approx(1) and (one["weight"] >= 0).all()


def test_few_steps_have_the_moments_of_the_whole_spectrum_on_average(splits, hessian):
    found = landscape.spectrum(made(0), splits, steps=6, probes=400)
    assert found.groupby("probe").size().max() == 6
    for power in range(1, 6):
        each = found["weight"] * found["eigenvalue"] ** power
        moments = each.groupby(found["probe"]).sum()
        error = moments.std(ddof=1) / len(moments) ** 0.5
        assert moments.mean() == pytest.approx(np.mean(hessian**power), abs=4 * error)
    assert found["eigenvalue"].max() == pytest.approx(hessian[-1], rel=0.01)


def test_the_density_has_the_shares_of_the_whole_spectrum(splits, hessian):
    curve = landscape.density(landscape.spectrum(made(0), splits, steps=1000, probes=400))
    step = np.diff(curve["eigenvalue"]).mean()
    assert curve["density"].sum() * step == pytest.approx(1, abs=1e-3)
    middle = (hessian[-1] + np.sort(hessian)[-2]) / 2
    above = curve.loc[curve["eigenvalue"] > middle, "density"].sum() * step
    assert above == pytest.approx(1 / len(hessian), abs=0.01)


def test_a_direction_has_the_norms_of_the_models_filters():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    whole = landscape.filter_normalised(model, 0)
    at = 0
    for value in model.parameters():
        piece = whole[at : at + value.numel()].reshape(value.shape)
        at += value.numel()
        if value.dim() < 2:
            assert not piece.any()
            continue
        own = value.detach().double().flatten(1).norm(dim=1)
        torch.testing.assert_close(piece.flatten(1).norm(dim=1), own)
    assert at == len(whole) and not torch.equal(whole, landscape.filter_normalised(model, 1))


def test_a_plane_is_the_loss_of_models_moved_one_by_one(splits):
    model = made(0)
    found = landscape.plane(model, splits, points=5)
    x, y = drawn(splits.train, 100, 0, torch.float64)
    at = nn.utils.parameters_to_vector(model.parameters()).detach()
    ways = [landscape.filter_normalised(model, seed) for seed in (0, 1)]
    assert len(found.loss) == 25
    for row in found.loss.itertuples():
        point = at + row.across * ways[0] + row.up * ways[1]
        assert row.loss == pytest.approx(slow_card.loss_at(model, point, x, y), rel=1e-9)


def test_the_plane_through_three_models_holds_them_at_their_places(splits):
    models = [made(seed) for seed in SEEDS]
    found = landscape.plane(models[0], splits, models[1:], points=3)
    x, y = drawn(splits.train, 100, 0, torch.float64)
    points = [nn.utils.parameters_to_vector(one.parameters()).detach() for one in models]
    first, second, places = landscape._through(models[0], points[0], models[1:])
    assert float(first @ second) == pytest.approx(0, abs=1e-9)
    assert float(first.norm()) == pytest.approx(float(second.norm()))
    for place, point in zip(places, points, strict=True):
        torch.testing.assert_close(points[0] + place[0] * first + place[1] * second, point)
    row = found.loss.iloc[4]  # the middle of nine
    middle = points[0] + row["across"] * first + row["up"] * second
    assert row["loss"] == pytest.approx(slow_card.loss_at(models[0], middle, x, y), rel=1e-9)
    assert found.places == places


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([made(1)], "1 other models; needed: none, or two"),
        ([made(1), made(1)], "three models on a line"),
        ([made(1), nn.Linear(3, 3)], "models of 31, 31, 12 parameters; needed: of one"),
    ],
)
def test_other_planes_are_refused(splits, others, message):
    with pytest.raises(ValueError, match=message):
        landscape.plane(made(0), splits, others)


def test_a_plane_through_models_with_batch_norm_is_refused(splits):
    models = [made(seed, nn.BatchNorm1d(4)) for seed in SEEDS]
    with pytest.raises(ValueError, match="with buffers, as of batch norm; allowed: one model"):
        landscape.plane(models[0], splits, models[1:])
    assert len(landscape.plane(models[0], splits, points=2).loss) == 4


def test_a_card_has_the_landscape_where_it_is_asked_for_and_leaves_the_model_alone(splits):
    model = made(0)
    before = [value.detach().clone() for value in model.parameters()]
    plain = card(model, splits, aspects=["selective"])
    found = card(model, splits, aspects=["selective"], landscape=True)
    assert set(found.details) - set(plain.details) == {"spectrum", "plane"}
    assert found.seconds["landscape"] > 0 and found.values == plain.values
    assert len(found.details["plane"].loss) == landscape.POINTS**2
    for value, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(value, old) and value.grad is None
