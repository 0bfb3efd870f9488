"""Captum's slow methods: as Captum gives them, turned round, for one model and for replicas."""

import copy
import importlib.util
import sys
from contextlib import contextmanager
from itertools import product

import numpy as np
import pytest
import torch
from oracles.architectures import batch_for
from torch import nn

from aba_core import Arm, TrainConfig, attribute, build_model, train
from aba_core import attribution_captum as slow

needs_captum = pytest.mark.skipif(
    importlib.util.find_spec("captum") is None, reason="needs the extra captum"
)
ON = ("linear", "mlp", "small_cnn", "small_cnn_norm", "larger_cnn", "text_cnn")
QUICK = {"lime": {"evaluations": 20}, "kernel_shap": {"evaluations": 20}}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model("small_cnn", (1, 6, 6), 3).eval()


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 1, 6, 6, generator=generator), torch.tensor([0, 2, 1])


def with_a_rule_for_flatten(model: nn.Module) -> nn.Module:
    from captum.attr._utils.lrp_rules import EpsilonRule

    for module in model.modules():
        if isinstance(module, nn.Flatten):
            module.rule = EpsilonRule()
    return model


@needs_captum
@pytest.mark.filterwarnings("ignore::UserWarning")  # Captum's own, of its hooks
@pytest.mark.parametrize(
    ("method", "name"),
    # Captum's LRP has no rule for one-dimensional convolutions.
    [pair for pair in product(slow.METHODS, ON) if pair != ("lrp", "text_cnn")],
)
def test_maps_are_captums_turned_round(method: str, name: str, monkeypatch):
    """In float64. Those with chance are Captum's from the same state of the generators; samples
    that are explained together are those that Captum explains one by one."""
    from captum import attr

    @contextmanager
    def seeded(draws, replica, sample):
        torch.manual_seed(sample)
        np.random.seed(sample)
        yield

    monkeypatch.setattr(slow, "_seeded", seeded)
    model, x, y = batch_for(name)
    made = slow.explain(model, x, y, method, "true_class", **QUICK.get(method, {}))

    def by_captum(at, label, spread):
        theirs = with_a_rule_for_flatten(copy.deepcopy(model))
        zero = torch.zeros_like(at)
        return {
            "lime": lambda: attr.Lime(theirs).attribute(at, target=label, n_samples=20),
            "kernel_shap": lambda: attr.KernelShap(theirs).attribute(
                at, target=label, n_samples=20
            ),
            "gradient_shap": lambda: attr.GradientShap(theirs).attribute(
                at, zero, 16, 0.15 * spread, label
            ),
            "deep_lift": lambda: attr.DeepLift(theirs).attribute(at, zero, label),
            "feature_ablation": lambda: attr.FeatureAblation(theirs).attribute(at, target=label),
            "lrp": lambda: attr.LRP(theirs).attribute(at, target=label),
        }[method]()

    for i, (one, label) in enumerate(zip(x, y.tolist(), strict=True)):
        with seeded(None, 0, i):
            expected = by_captum(one[None], label, float(one.max() - one.min()))[0]
        expected = expected.detach().double()
        # Captum fits its linear models, and sums what hiding changes, in float32.
        close = 1e-4 if method in ("lime", "kernel_shap", "feature_ablation") else 1e-8
        torch.testing.assert_close(made[i], -expected, rtol=close, atol=close)


@needs_captum
def test_captums_lrp_refuses_a_layer_that_it_has_no_rule_for():
    with pytest.raises(TypeError, match="Conv1d"):
        slow.explain(*batch_for("text_cnn"), "lrp", "true_class")


@needs_captum
def test_hiding_one_feature_at_a_time_is_what_a_loop_finds_for_the_loss_too(model: nn.Module):
    x, y = data()
    for target in ("loss", "true_class"):
        made = slow.explain(model, x, y, "feature_ablation", target)

        def number(at: torch.Tensor, label: torch.Tensor, target: str = target) -> float:
            with torch.no_grad():
                scores = model(at[None])[0]
            return float(
                nn.functional.cross_entropy(scores, label) if target == "loss" else -scores[label]
            )

        for sample in range(3):
            for place in ((0, 0, 0), (0, 3, 4)):
                hidden = x[sample].clone()
                hidden[place] = 0
                change = number(x[sample], y[sample]) - number(hidden, y[sample])
                assert float(made[sample][place]) == pytest.approx(change, abs=1e-5)


@needs_captum
@pytest.mark.parametrize("name", slow.METHODS)
def test_a_map_is_the_same_again_and_leaves_the_model_and_generators_alone(name, model):
    x, y = data()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    use = {"use": f"aba_core.attribution_captum:{name}", **QUICK.get(name, {})}
    first, again = (attribute(model, x, y, use, "class_score", top_k=2) for _ in range(2))
    assert torch.equal(first, again) and first.shape == x.shape and bool(first.abs().sum() > 0)
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@needs_captum
def test_linear_models_give_shapley_values_that_are_known():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    x, y = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    weights = linear[1].weight[y].reshape(2, 1, 2, 2).detach()
    for name in ("deep_lift", "feature_ablation", "kernel_shap"):
        options = {"evaluations": 500} if name == "kernel_shap" else {}
        made = slow.explain(linear, x, y, name, "true_class", **options)
        torch.testing.assert_close(made, -weights * x, rtol=0.05, atol=0.02)


@needs_captum
def test_replicas_are_explained_one_by_one_as_each_alone_and_gradients_stand_between(model):
    config = TrainConfig(epochs=0.05, batch_size=20, dtype="float64")
    use = {"use": "aba_core.attribution_captum:deep_lift", "every": 2}
    arm = Arm.of("a", adjustments="3", attribution=use, target="loss")
    both = train(config, [arm], [0, 1]).frame()
    alone = [train(config, [arm], [seed]).frame() for seed in (0, 1)]
    for seed in (0, 1):
        assert both["train_loss"][seed] == pytest.approx(alone[seed]["train_loss"][0], rel=1e-9)
    x, y = data()
    from aba_core.randomness import Draws

    at_step = [
        attribute(model, x, y, use, "true_class", draws=Draws.single(0, step, 3, "cpu"))
        for step in (0, 1)
    ]
    torch.testing.assert_close(at_step[1], attribute(model, x, y, "gradient", "true_class"))
    assert not torch.allclose(at_step[0], at_step[1])


@needs_captum
def test_what_a_batch_takes_is_said_before_the_rest_of_it(model, caplog):
    slow._told.clear()
    x, y = data()
    slow.explain(model, x, y, "feature_ablation", "loss")
    slow.explain(model, x, y, "feature_ablation", "loss")
    said = [record.getMessage() for record in caplog.records if record.name == "aba_core"]
    assert len(said) == 1 and said[0].startswith("feature_ablation: ") and "a sample" in said[0]


def test_without_captum_one_line_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ValueError, match=r"needs Captum, .* pip install 'aba-toolkit\[captum\]'"):
        slow.explain(model, *data(), "lime")


def test_what_is_unknown_is_refused(model):
    with pytest.raises(ValueError, match="unknown method 'shap'; known: lime"):
        slow.explain(model, *data(), "shap")
    for name, bad in (("every", 0), ("every", True), ("every", "2"), ("evaluations", 2.5)):
        with pytest.raises(ValueError, match=rf"{name} is {bad!r}; allowed: whole numbers from 1"):
            slow.explain(model, *data(), "lime", **{name: bad})
    with pytest.raises(ValueError, match="unknown option 'evaluations' of lrp; known: every"):
        slow.explain(model, *data(), "lrp", evaluations=3)
