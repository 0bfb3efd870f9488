"""The models of the study: every one builds, takes any sensible input, refuses the rest."""

import pytest
import torch
from torch import nn

from aba_core.architecture import initial_model, mixes_samples, trained_parameters
from aba_core.models import MODELS, build_model

PICTURES = [(1, 1, 1), (1, 3, 5), (2, 7, 2), (1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 1, 9)]
TEXTS = [(1, 4), (2, 4), (3, 4), (4, 1), (5, 7), (40, 10)]


def shapes(name: str) -> list[tuple[int, ...]]:
    if name == "text_cnn":
        return TEXTS
    return [*PICTURES, *TEXTS, (1,), (30,)] if name == "mlp" else PICTURES


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("name", "shape"), [(n, s) for n in MODELS for s in shapes(n)])
def test_every_model_maps_every_input_size_to_logits(name, shape, batch_norm):
    model = build_model(name, shape, 7, batch_norm)
    logits = model(torch.randn(2, *shape))
    assert logits.shape == (2, 7)
    assert bool(torch.isfinite(logits).all())
    assert torch.autograd.grad(logits.sum(), list(model.parameters()))  # every one is used


@pytest.mark.parametrize("name", MODELS)
def test_batch_norm_is_there_only_where_asked(name):
    shape = (6, 4) if name == "text_cnn" else (1, 8, 8)
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    without, with_norm = (build_model(name, shape, 3, asked) for asked in (False, True))
    assert not any(isinstance(module, norms) for module in without.modules())
    layers = [m for m in with_norm.modules() if isinstance(m, nn.Conv1d | nn.Conv2d)]
    layers = layers or [m for m in with_norm.modules() if isinstance(m, nn.Linear)][:-1]
    on_input = name == "linear"  # it has no hidden layer
    found = sum(isinstance(module, norms) for module in with_norm.modules())
    assert found == len(layers) + on_input
    assert all(layer.bias is None for layer in layers), "batch norm has the bias"


@pytest.mark.parametrize(
    ("name", "convolutions", "parameters"),
    # Simonyan and Zisserman's features (torchvision counts 9,220,480 and 14,714,688), one linear
    # layer of 512·10 + 10 on top.
    [("vgg11", 8, 9_220_480 + 5_130), ("vgg16", 13, 14_714_688 + 5_130)],
)
def test_vgg_has_the_published_size(name, convolutions, parameters):
    model = build_model(name, (3, 32, 32), 10)
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == convolutions
    assert sum(value.numel() for value in model.parameters()) == parameters


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_model(name):
    shape = (6, 4) if name == "text_cnn" else (1, 4, 4)
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(torch.cat([p.flatten() for p in build_model(name, shape, 3).parameters()]))
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])


def test_the_text_model_reads_words_in_order():
    torch.manual_seed(0)
    model = build_model("text_cnn", (8, 4), 3)
    x = torch.randn(1, 8, 4)
    assert not torch.allclose(model(x), model(x.flip(1)))


def test_an_unknown_model_is_refused_with_the_known_ones():
    known = "linear, mlp, small_cnn, larger_cnn, vgg11, vgg16, text_cnn, resnet18, resnet18_thin"
    with pytest.raises(ValueError, match=f"unknown model 'gru'; known: {known}"):
        build_model("gru", (1, 8, 8), 10)


@pytest.mark.parametrize(
    ("name", "shape", "needed"),
    [
        ("small_cnn", (8, 8), "channels, height, width"),
        ("vgg16", (64,), "channels, height, width"),
        ("text_cnn", (1, 8, 8), "tokens, embedding"),
        ("small_cnn", (1, 0, 8), "channels, height, width"),
        ("mlp", (), "any shape"),
        ("mlp", (-1,), "any shape"),
    ],
)
def test_an_input_a_model_cannot_take_is_refused_with_what_it_needs(name, shape, needed):
    with pytest.raises(ValueError, match=rf"input shape .*'{name}'; needed: \({needed}\)"):
        build_model(name, shape, 10)


@pytest.mark.parametrize("classes", [0, -1])
def test_a_model_needs_classes(classes):
    with pytest.raises(ValueError, match=rf"classes is {classes}; allowed: whole numbers from 1"):
        build_model("mlp", (4,), classes)


def test_an_initial_model_is_that_of_torchs_seed_and_leaves_all_generators_alone(monkeypatch):
    """torch.manual_seed seeds the generators of every GPU as well, and nothing puts them back."""

    def build() -> nn.Module:
        return build_model("small_cnn", (1, 8, 8), 10, batch_norm=True)

    torch.manual_seed(7)
    expected, before = build().state_dict(), torch.get_rng_state()
    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, lambda seed: pytest.fail("a GPU was seeded"))
    model = initial_model(build, 7, torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_what_is_trained_is_what_requires_a_gradient_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    model[1].weight = model[0].weight
    model[2].bias.requires_grad_(False)
    assert list(trained_parameters(model)) == ["0.weight", "0.bias", "1.bias", "2.weight"]


@pytest.mark.parametrize(
    ("layer", "mixes"),
    [
        (nn.BatchNorm1d(3), False),
        (nn.BatchNorm1d(3, track_running_stats=False), True),
        (nn.InstanceNorm1d(3), False),
        (nn.LayerNorm(3), False),
    ],
)
def test_samples_meet_in_batch_norm_without_running_statistics(layer, mixes):
    assert mixes_samples(nn.Sequential(nn.Linear(3, 3), layer)) is mixes
