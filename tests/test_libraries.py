"""Models, transforms and pretrained weights of torchvision and timm, where these are installed."""

import copy
import hashlib
import importlib.util
import logging
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles.plain_loop import flat_parameters, plain_train
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from aba_core import ABA, MENDABA, Arm, TrainConfig, build_model, libraries, train
from aba_core.own_data import splits_from
from aba_core.single.transforms import Transforms
from aba_core.trainers import Single
from analysis.studies.large import ROWS

RNG = np.random.default_rng(0)


def needs(library: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(library) is None
    return pytest.mark.skipif(missing, reason=f"needs {library}, in the extra 'vision'")


def pictures(size: int = 32, samples: int = 24, channels: int = 3, scale: float = 255):
    x = (RNG.random((samples, channels, size, size)) * scale).astype(np.float32)
    return splits_from(x, np.arange(samples) % 3)


def use(library: str, name: str, **options: object) -> dict[str, object]:
    return {"use": "aba_core.libraries:of_library", "library": library, "name": name, **options}


def config(model: object, **options: object) -> TrainConfig:
    usual = {"epochs": 1, "batch_size": 6, "optimizer": "adam", "learning_rate": 1e-3}
    return TrainConfig(model=model, trainer="single", **(usual | options))


MODELS = [
    ("torchvision", "resnet18", 32), ("torchvision", "googlenet", 64), ("timm", "resnet10t", 32),
    ("timm", "test_vit", 64),
]  # fmt: skip
FULL_SIZE = [
    ("torchvision", "resnet50", 64), ("torchvision", "efficientnet_b3", 64),
    ("torchvision", "vit_b_16", 64), ("timm", "vit_tiny_patch16_224", 64),
]  # fmt: skip


@pytest.mark.parametrize(
    ("library", "name", "size"),
    [
        *(pytest.param(*case, marks=needs(case[0])) for case in MODELS),
        *(pytest.param(*case, marks=[needs(case[0]), pytest.mark.slow]) for case in FULL_SIZE),
    ],
)
def test_a_model_trains_with_every_kind_of_arm(library, name, size):
    arms = [Arm("Vanilla"), Arm("FastABA", {"kind": "fastaba", "strength": 0.1}),
            Arm("MendABA", {"kind": "mendaba", "strength": 0.1})]  # fmt: skip
    runs = train(config(use(library, name)), arms, [0], splits=pictures(size)).frame()
    assert list(runs["status"]) == ["finished"] * 3
    assert len(set(runs["test_loss"])) == 3  # every method changed what was learned
    assert list(runs["passes"])[0] == 2 and list(runs["passes"])[2] == 4


@needs("torchvision")
@pytest.mark.parametrize("method", [None, MENDABA], ids=["vanilla", "mendaba"])
def test_a_model_of_torchvision_takes_the_steps_of_a_plain_loop(method):
    from torchvision.models import resnet18

    splits = pictures()
    exact = config(
        use("torchvision", "resnet18"), dtype="float64", optimizer="sgd", learning_rate=0.01,
        batch_size=12, curve_every=1,
    )  # fmt: skip
    plain = plain_train(
        exact, Arm("a", method), 3, splits, build=lambda: resnet18(num_classes=3)
    )  # fmt: skip
    runs = train(exact, [Arm("a", method)], [3], splits=splits)
    torch.testing.assert_close(
        flat_parameters(runs.model("a", 3)), plain.parameters[-1], rtol=1e-8, atol=1e-11
    )
    assert runs.curves()["test_loss"][0] == pytest.approx(plain.metrics[0]["test_loss"], rel=1e-8)


@needs("torchvision")
def test_both_trainers_agree_on_a_model_of_torchvision():
    splits, exact = pictures(), config(use("torchvision", "resnet18"), dtype="float64")
    arms = [Arm("a", {"kind": "fastaba", "strength": 0.1})]
    one = train(exact, arms, [0], splits=splits).rows[0]
    other = train(replace(exact, trainer="replicas"), arms, [0], splits=splits).rows[0]
    assert one["test_loss"] == pytest.approx(other["test_loss"], rel=1e-6)


@needs("torchvision")
def test_aba_stands_in_a_plain_loop_behind_transforms_of_torchvision():
    from torchvision.models import resnet18
    from torchvision.transforms import v2

    torch.manual_seed(0)
    raw = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    y = torch.arange(16) % 4
    change = v2.Compose([
        v2.RandAugment(), v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.29] * 3),
    ])  # fmt: skip
    model = resnet18(num_classes=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    aba = ABA("mendaba", strength=0.5, seed=0)
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        x = torch.stack([change(picture) for picture in raw])
        statistics = model.bn1.running_mean.clone()
        augmented = aba(model, x, y)
        assert augmented.shape == x.shape and not torch.equal(augmented, x)
        assert torch.equal(model.bn1.running_mean, statistics) and model.training
        loss = nn.functional.cross_entropy(model(augmented), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.isfinite() and not torch.equal(before["fc.weight"], model.fc.weight)


@pytest.mark.parametrize(
    "name",
    [
        "large-ecg",
        *(pytest.param(n, marks=needs("torchvision")) for n in ROWS if n != "large-ecg"),
    ],
)
def test_the_published_rows_cost_what_their_networks_compute(name):
    """Hours of GPUs are estimated from these operations, which are written down by hand."""
    row = ROWS[name]
    if isinstance(row.model, str):
        shape, model = (12, 1000), build_model(row.model, (12, 1000), 71, True)
    else:
        shape = (3, 64, 64)
        named = {key: value for key, value in row.model.items() if key != "use"}
        model = libraries.of_library(shape, 200, **named)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.to("meta").eval()(torch.zeros(1, *shape, device="meta"))
    assert counter.get_total_flops() / 1e9 == pytest.approx(row.forward, rel=0.05)


# --- RandAugment ---------------------------------------------------------------------------------


@needs("torchvision")
@pytest.mark.parametrize("workers", [0, 2])
def test_randaugment_changes_a_run_and_draws_by_its_seed(workers):
    changed = {"kind": "single", "transforms": ["crop", "flip", "randaugment"]}
    splits, usual = pictures(16), config("resnet18_thin", batch_norm=True)
    arms = [Arm("a", {"kind": "mendaba", "strength": 0.1})]

    def loss(trainer: object) -> float:
        return train(replace(usual, trainer=trainer), arms, [0], splits=splits).rows[0]["test_loss"]

    with_it = loss({**changed, "workers": workers})
    assert with_it == loss(changed) != loss({**changed, "transforms": ["crop", "flip"]})


@needs("torchvision")
def test_randaugment_leaves_most_of_a_picture_in_its_range():
    picture = torch.linspace(0, 255, 3 * 16 * 16).reshape(3, 16, 16)
    both = Transforms(Single(transforms="randaugment").transforms, seed=0)
    changed = [both(picture, step, 0) for step in range(20)]
    assert len({one.numpy().tobytes() for one in changed}) > 15
    assert all(one.dtype == picture.dtype and 0 <= one.min() <= one.max() <= 255 for one in changed)
    one = Transforms(Single(transforms="randaugment").transforms, seed=1)(picture, 0, 0)
    assert not torch.equal(one, changed[0])


@needs("torchvision")
@pytest.mark.parametrize(
    ("scale", "said"), [(1, "from [0-9.e-]+ to 1 "), (16, "from [0-9.e-]+ to 16 ")]
)
def test_randaugment_refuses_pixels_that_are_no_bytes(scale, said):
    """Rounded to bytes, pixels from 0 to 1 are black or white, and standardised ones black."""
    trainer = {"kind": "single", "transforms": "randaugment"}
    with pytest.raises(ValueError, match=f"takes pixels from 0 to 255; those of own go {said}"):
        train(replace(config("resnet18_thin", batch_norm=True), trainer=trainer), [Arm("a")], [0],
              splits=pictures(16, scale=scale))  # fmt: skip


# --- pretrained weights --------------------------------------------------------------------------


def saved(path, state) -> dict[str, str]:
    torch.save(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"weights": str(path), "sha256": digest}


def started(model: str, file: dict[str, str], size: int = 32) -> nn.Module:
    return libraries.pretrained((3, size, size), 3, model=model, **file)


@needs("torchvision")
def test_weights_of_torchvision_start_all_but_the_classifier(tmp_path, caplog):
    from torchvision.models import resnet18

    theirs = resnet18().state_dict()
    libraries._tell.cache_clear()
    with caplog.at_level(logging.INFO, "aba_core"):
        model = started("torchvision:resnet18", saved(tmp_path / "w.pth", theirs))
    own = model.state_dict()
    assert [n for n in own if not torch.equal(own[n], theirs[n])] == ["fc.weight", "fc.bias"]
    assert "of 'torchvision:resnet18'; at random start: fc.weight, fc.bias; in" in caplog.text


@needs("torchvision")
def test_position_embeddings_of_torchvision_are_resized(tmp_path):
    from torchvision.models import VisionTransformer

    small = {"patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}
    theirs = VisionTransformer(image_size=96, **small)
    ours = VisionTransformer(image_size=64, **small)
    nn.init.constant_(theirs.encoder.pos_embedding, 0.25)
    resized = libraries._resized(ours, theirs.state_dict())["encoder.pos_embedding"]
    assert resized.shape == (1, 17, 8) == ours.encoder.pos_embedding.shape
    torch.testing.assert_close(resized, torch.full_like(resized, 0.25))


@needs("timm")
def test_weights_of_timm_come_as_safetensors_and_positions_are_resized(tmp_path):
    import timm
    from safetensors.torch import save_file

    theirs = timm.create_model("test_vit", img_size=96)
    nn.init.constant_(theirs.pos_embed, 0.25)
    path = tmp_path / "w.safetensors"
    save_file(theirs.state_dict(), path)
    file = {"weights": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    model = started("timm:test_vit", file, size=64)
    assert model.pos_embed.shape == (1, 17, model.embed_dim)
    torch.testing.assert_close(model.pos_embed, torch.full_like(model.pos_embed, 0.25))
    assert torch.equal(model.blocks[0].attn.qkv.weight, theirs.blocks[0].attn.qkv.weight)


def test_weights_of_another_model_are_refused(tmp_path):
    """Those that happened to fit were once loaded, and the rest left random without a word."""
    file = saved(tmp_path / "w.pt", nn.Linear(3 * 16 * 16, 3).state_dict())
    with pytest.raises(ValueError, match="fill 0% of the parameters of 'resnet18_thin'; need"):
        started("resnet18_thin", file, 16)


@pytest.mark.parametrize(
    ("content", "said"),
    [([1, 2], "hold no state dict"), ({"state_dict": {}}, "hold no state dict")],
)
def test_files_without_weights_are_refused(tmp_path, content, said):
    with pytest.raises(ValueError, match=said):
        started("resnet18_thin", saved(tmp_path / "w.pt", content), 16)


def test_files_that_are_no_weights_are_refused(tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(b"not weights")
    digest = hashlib.sha256(b"not weights").hexdigest()
    with pytest.raises(ValueError, match=r"w\.pt cannot be read: "):
        started("resnet18_thin", {"weights": str(path), "sha256": digest}, 16)
    with pytest.raises(ValueError, match="cannot read weights .*none.pt: No such file"):
        started("resnet18_thin", {"weights": str(tmp_path / "none.pt"), "sha256": digest}, 16)


# --- what may be asked ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "name", "shape", "said"),
    [
        pytest.param("torchvision", "resnet81", (3, 32, 32), "did you mean 'resnet18'",
                     marks=needs("torchvision")),
        pytest.param("torchvision", "fcn_resnet50", (3, 32, 32), "unknown model 'fcn_resnet50' of",
                     marks=needs("torchvision")),
        pytest.param("torchvision", "resnet18", (1, 32, 32), "takes pictures of 3 channels; the",
                     marks=needs("torchvision")),
        pytest.param("torchvision", "vit_b_16", (3, 60, 60), r"refuses inputs of shape \(3, 60, 60",
                     marks=needs("torchvision")),
        pytest.param("torchvision", "vit_b_16", (3, 64, 32), "takes square pictures; the inputs",
                     marks=needs("torchvision")),
        pytest.param("timm", "resnet181", (3, 32, 32), "unknown model 'resnet181' of timm .did you",
                     marks=needs("timm")),
        ("tim", "resnet18", (3, 32, 32), "unknown library 'tim' .did you mean 'timm'"),
        ("timm", "resnet18", (12, 1000), r"takes pictures .* the inputs have shape \(12, 1000\)"),
    ],
)  # fmt: skip
def test_names_and_inputs_that_do_not_fit_are_refused_in_one_line(library, name, shape, said):
    with pytest.raises(ValueError, match=said) as caught:
        libraries.of_library(shape, 3, library=library, name=name)
    assert "\n" not in str(caught.value)


@needs("timm")
def test_timm_takes_pictures_of_one_channel():
    model = libraries.of_library((1, 32, 32), 5, library="timm", name="resnet10t")
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 5)


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as if it were not
    with pytest.raises(ValueError, match=r"needs torchvision.*'aba-toolkit\[vision\]'"):
        train(config(use("torchvision", "resnet18")), [Arm("a")], [0], splits=pictures(16))


def test_a_torchvision_for_another_torch_is_told_apart_from_none(tmp_path, monkeypatch):
    """PyPI's wheel beside a CPU build of PyTorch fails at import, in words that name no cure."""
    fake = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "torchvision.py").write_text(fake)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(
        ValueError, match="does not load beside PyTorch.*nms does not exist.*from th"
    ):
        libraries.of_library((3, 16, 16), 3, library="torchvision", name="resnet18")


def test_a_model_that_returns_more_while_it_trains_is_refused():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3 * 16 * 16, 3)

        def forward(self, x: torch.Tensor):
            logits = self.layer(x.flatten(1))
            return (logits, logits) if self.training else logits

    with pytest.raises(
        ValueError, match="model Two returns a tuple while it trains; needed: a ten"
    ):
        train(config("own"), [Arm("a")], [0], splits=pictures(16), build=Two)
