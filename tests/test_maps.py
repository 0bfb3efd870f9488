"""Maps beyond the gradient: equal to Captum, to slow twins, and alike for stacked replicas."""

import copy
import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from oracles import slow_maps
from oracles.architectures import ARCHITECTURES, DEEPER, batch_for, built
from torch import Tensor, nn
from torch.nn import functional

from aba_core import replicas as replicas_module
from aba_core.arms import OF_ANY_MODEL, WITH_NOISE, WITH_SAMPLES, Arm, TrainConfig
from aba_core.attribution import MAPS, Attribution, attribute, attribution_map, cross_entropy
from aba_core.identity import plain
from aba_core.making import ReplicasMaker
from aba_core.methods.aba import Augmentation
from aba_core.randomness import Draws
from aba_core.replicas import Replicas
from aba_core.rewriting import GuidedReLU
from aba_core.sites import SingleSite, StackedSite
from aba_core.training import train
from analysis.plan import resolve
from analysis.study import Study, StudyError

CAMS = ("grad_cam", "grad_cam_plus_plus", "smooth_grad_cam_plus_plus", "layer_cam", "norm_grad")
CONVOLUTIONAL = {"small_cnn": "3", "small_cnn_norm": "4", "text_cnn": "convolutions.2.0"}
RULES = ("zero", "epsilon", "gamma", "z_plus", "alpha_beta")

needs_captum = pytest.mark.skipif(
    importlib.util.find_spec("captum") is None, reason="needs the extra captum"
)


def without_biases(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.zeros_(module.running_mean)
    return model


def lrp(**options) -> dict:
    return {"use": "aba_core.maps:lrp", **options}


def close(fast: Tensor, slow: Tensor, rtol: float = 1e-8) -> None:
    torch.testing.assert_close(fast, slow.detach(), rtol=rtol, atol=rtol * 1e-2)


# --- Captum, in float64 --------------------------------------------------------------------------


def of_captum(method: str, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Captum's map of the true class's score."""
    from captum import attr

    # Patches of two pixels or tokens, one further each; of an axis that they span, one.
    whole = {3: (2,), 4: (1,)}.get(x.dim(), ())
    windows = tuple(x.shape[axis] if axis in whole else 2 for axis in range(1, x.dim()))
    strides = tuple(x.shape[axis] if axis in whole else 1 for axis in range(1, x.dim()))
    made = {
        "gradient": lambda: attr.Saliency(model).attribute(x, y, abs=False),
        "absolute_gradient": lambda: attr.Saliency(model).attribute(x, y),
        "gradient_x_input": lambda: attr.InputXGradient(model).attribute(x, y),
        "integrated_gradients": lambda: attr.IntegratedGradients(model).attribute(
            x, 0.0, y, n_steps=4, method="riemann_middle"
        ),
        "sample": lambda: attr.IntegratedGradients(model).attribute(
            x,
            x[[slow_maps.other_sample(i, len(x), 0) for i in range(len(x))]],
            y,
            n_steps=4,
            method="riemann_middle",
        ),
        "mean": lambda: attr.IntegratedGradients(model).attribute(
            x,
            x.flatten(1).mean(1).reshape(-1, *(1,) * (x.dim() - 1)).expand_as(x),
            y,
            n_steps=4,
            method="riemann_middle",
        ),
        "guided_backpropagation": lambda: attr.GuidedBackprop(model).attribute(x, y),
        "deconvnet": lambda: attr.Deconvolution(model).attribute(x, y),
        "occlusion": lambda: attr.Occlusion(model).attribute(x, windows, strides, target=y),
    }
    return made[method]()


SHARED = {
    "gradient": ("gradient", -1),
    "absolute_gradient": ("absolute_gradient", 1),
    "gradient_x_input": ("gradient_x_input", -1),
    "integrated_gradients": ("integrated_gradients", -1),
    "mean": ({"use": "aba_core.maps:integrated_gradients", "baseline": "mean"}, -1),
    "sample": ({"use": "aba_core.maps:integrated_gradients", "baseline": "sample"}, -1),
    "guided_backpropagation": ("guided_backpropagation", -1),
    "deconvnet": ("deconvnet", -1),
    "occlusion": ({"use": "aba_core.maps:occlusion", "size": 2, "stride": 1}, -1),
}


@needs_captum
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("method", SHARED)
def test_maps_are_those_of_captum_turned_round(method, name):
    model, x, y = batch_for(name)
    how, sign = SHARED[method]
    ours = attribute(model, x, y, how, "true_class", samples=4)  # Captum's shares of 1/4 are exact
    theirs = of_captum(method, copy.deepcopy(model), x, y).double()
    close(sign * ours, theirs, 1e-5 if method == "occlusion" else 1e-8)  # theirs sums in float32


@needs_captum
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.parametrize("name", (*ARCHITECTURES, *DEEPER))
def test_maps_of_chance_are_those_of_captum_by_the_same_draws(name, monkeypatch):
    """SmoothGrad and VarGrad are Captum's noise tunnel, expected gradients its GradientSHAP, where
    it has our noise, baselines and places on the way."""
    from captum import attr

    copies = 3

    class Tunnel(attr.NoiseTunnel):
        @staticmethod
        def _add_noise_to_input(input, stdev, nt_samples_partition):
            assert nt_samples_partition == copies
            noisy = [slow_maps.noisy_inputs(one, i, copies, stdev) for i, one in enumerate(input)]
            return torch.stack([one for of_sample in noisy for one in of_sample])

    model, x, y = batch_for(name)
    x = x - 0.5

    def made(method):
        return -attribute(model, x, y, method, "true_class", samples=copies, noise=0.2)

    tunnel = Tunnel(attr.Saliency(copy.deepcopy(model)))
    for method, sign in (("smoothgrad", 1), ("vargrad", -1)):
        theirs = tunnel.attribute(
            x, nt_type=method, nt_samples=copies, stdevs=0.2, target=y, abs=False
        )
        close(sign * made(method), theirs, 1e-6 if method == "vargrad" else 1e-8)

    places = [(i, number) for i in range(len(x)) for number in range(copies)]
    others = [slow_maps.other_sample(i, len(x), number) for i, number in places]
    shares = [slow_maps.share_of_way(i, number) for i, number in places]
    monkeypatch.setattr(np.random, "choice", lambda *_: np.array(others))
    monkeypatch.setattr(np.random, "uniform", lambda *_: np.array(shares))
    theirs = attr.GradientShap(copy.deepcopy(model)).attribute(x, x, copies, 0.0, y)
    close(made("expected_gradients"), theirs)


@needs_captum
@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.parametrize("name", ("linear", "mlp", "small_cnn", "small_cnn_norm", *DEEPER))
@pytest.mark.parametrize("rule", ("epsilon", "gamma", "z_plus"))
def test_relevance_is_that_of_captum(rule, name):
    """For γ and z⁺ without biases, which Captum leaves as they are and the definitions do not; for
    z⁺ batch norm, which Captum cannot do, is left out."""
    from captum.attr import LRP
    from captum.attr._utils import lrp_rules

    model, x, y = batch_for(name)
    if rule != "epsilon":
        model = without_biases(model)
    theirs = copy.deepcopy(model)
    for module in theirs.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.rule = {
                "epsilon": lambda: lrp_rules.EpsilonRule(1e-3),
                "gamma": lambda: lrp_rules.GammaRule(0.3),
                "z_plus": lambda: lrp_rules.Alpha1_Beta0_Rule(),
            }[rule]()
        elif isinstance(module, nn.BatchNorm2d):
            module.rule = lrp_rules.EpsilonRule(1e-3)
        elif isinstance(module, nn.Flatten):
            module.rule = lrp_rules.EpsilonRule(1e-12)
    expected = LRP(theirs).attribute(x, y)
    epsilon = 1e-3
    ours = attribute(model, x, y, lrp(rule=rule, epsilon=epsilon, gamma=0.3), "true_class")
    close(-ours, expected, 1e-5)


@pytest.fixture
def zennit(monkeypatch):
    """zennit alone: of torchvision it wants two classes, to find residual blocks, and torchvision
    cannot be imported beside every build of PyTorch."""
    if importlib.util.find_spec("zennit") is None:
        pytest.skip("needs zennit; run: python -m pip install --no-deps zennit")
    resnet = ModuleType("torchvision.models.resnet")
    for block in ("Bottleneck", "BasicBlock"):
        setattr(resnet, block, type(block, (nn.Module,), {}))
    for name in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, resnet.__name__, resnet)


@pytest.mark.usefixtures("zennit")
@pytest.mark.parametrize("name", ("linear", "mlp", "small_cnn", "larger_cnn", "overlapping"))
@pytest.mark.parametrize("rule", (*RULES, "composite"))
def test_relevance_is_that_of_zennit(rule, name):
    """With biases, which count as one more contribution in both. Of classes with a score above 0:
    where an output is below 0, zennit's γ favours what speaks against it."""
    from zennit import rules
    from zennit.composites import LayerMapComposite
    from zennit.types import Activation, Convolution

    if name == "overlapping":
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 4),
        ).double()  # fmt: skip
        x, y = torch.randn(3, 2, 6, 6, dtype=torch.float64).abs(), torch.arange(3)
    else:
        model, x, y = batch_for(name)
    if rule == "gamma":
        [m for m in model.modules() if isinstance(m, nn.Linear)][-1].bias.data += 3
        assert (model(x) > 0).all()
    of_rule = {
        "zero": rules.Epsilon(0.0),
        "epsilon": rules.Epsilon(1e-3),
        "gamma": rules.Gamma(0.3, stabilizer=1e-14),
        "z_plus": rules.ZPlus(stabilizer=1e-14),
        "alpha_beta": rules.AlphaBeta(2.0, 1.0, stabilizer=1e-14),
    }
    linear, convolution = ("epsilon", "z_plus") if rule == "composite" else (rule, rule)
    composite = LayerMapComposite(
        [
            (Activation, rules.Pass()),
            (nn.Linear, of_rule[linear]),
            (Convolution, of_rule[convolution]),
        ]
    )
    at = x.clone().requires_grad_()
    with composite.context(model) as explained:
        scores = explained(at)
        start = torch.eye(4, dtype=torch.float64)[y] * scores.detach()
        (expected,) = torch.autograd.grad(scores, at, start)
    how = lrp(rule=convolution, dense=linear, epsilon=1e-3, gamma=0.3)
    close(-attribute(model, x, y, how, "true_class"), expected)


@needs_captum
@pytest.mark.parametrize("name", (*CONVOLUTIONAL, *DEEPER))
def test_grad_cam_is_that_of_captum(name):
    from captum.attr import LayerGradCam

    model, x, y = batch_for(name)
    layer = [m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d)][-1]
    coarse = LayerGradCam(model, layer).attribute(x, y, relu_attributions=True)
    close(-attribute(model, x, y, "grad_cam", "true_class"), upsampled(coarse[:, 0], x))


def upsampled(coarse: Tensor, x: Tensor) -> Tensor:
    """Coarse maps [batch, *place] at the size of pictures or texts."""
    if x.dim() == 4:
        fine = functional.interpolate(coarse[:, None], x.shape[2:], mode="bilinear")
        return fine.expand_as(x)
    fine = functional.interpolate(coarse[:, None], x.shape[1:2], mode="linear")
    return fine[:, 0, :, None].expand_as(x)


# --- slow twins ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ("mlp", "small_cnn", "text_cnn"))
def test_variances_paths_and_baselines_are_those_of_one_sample_at_a_time(name):
    model, x, y = batch_for(name)
    x = x - 0.5

    def made(method, **options):
        how = {"use": f"aba_core.maps:{method}", **options}
        return -attribute(model, x, y, how, "true_class", samples=3, noise=0.2)

    def paths(starts):
        places = zip(x, starts, y, strict=True)
        return torch.stack([slow_maps.path(model, a, b, int(c), 3) for a, b, c in places])

    gradients = torch.stack(
        [
            torch.stack(
                [
                    slow_maps.score_gradient(model, at, int(y[i]))
                    for at in slow_maps.noisy_inputs(x[i], i, 3, 0.2)
                ]
            )
            for i in range(len(x))
        ]
    )
    close(-made("vargrad"), (gradients**2).mean(1) - gradients.mean(1) ** 2, 1e-7)
    close(made("smoothgrad_x_input"), gradients.mean(1) * x)
    close(-made("absolute_smoothgrad"), gradients.mean(1).abs())
    expected = [slow_maps.expected(model, x, y, i, 3) for i in range(len(x))]
    close(made("expected_gradients"), torch.stack(expected))
    others = [slow_maps.other_sample(i, len(x), 0) for i in range(len(x))]
    close(made("integrated_gradients", baseline="sample"), paths(x[others]))
    if name == "small_cnn":
        starts = torch.stack([slow_maps.blurred(each) for each in x])
        close(made("integrated_gradients", baseline="blurred"), paths(starts))


@pytest.mark.parametrize("at_once", (1, 5))
@pytest.mark.parametrize("stride", (1, 2, 3))
def test_occlusion_is_the_mean_fall_of_the_patches_that_hide_a_pixel(stride, at_once):
    model, x, y = batch_for("small_cnn")
    how = {"use": "aba_core.maps:occlusion", "size": 3, "stride": stride, "at_once": at_once}
    fast = attribute(model, x, y, how, "true_class")
    close(-fast, slow_maps.occlusion(model, x, y, 3, stride), 1e-10)


@pytest.mark.parametrize("name", ("linear", "mlp", "mlp_norm", "small_cnn", "small_cnn_norm"))
@pytest.mark.parametrize("rule", RULES)
def test_relevance_flows_as_matrices_say(rule, name):
    model, x, y = batch_for(name)
    x = x - 0.5
    for dense in (rule, "epsilon"):
        options = {"epsilon": 0.01, "gamma": 0.4, "alpha": 1.5}
        fast = attribute(model, x, y, lrp(rule=rule, dense=dense, **options), "true_class")
        slow = [
            slow_maps.relevance(model, each, int(label), rule, dense, **options)
            for each, label in zip(x, y, strict=True)
        ]
        close(-fast, torch.stack(slow), 1e-7)


def test_gradient_times_input_is_lrp_0_for_piecewise_linear_networks_without_biases():
    """Exactly: by arithmetic, and so up to rounding of float64, and by ε as it goes to 0. They sum
    to the score; with biases, which then take their share, they no longer do."""
    for name in ("linear", "mlp", "small_cnn"):
        with_biases, x, y = batch_for(name)
        x = x - 0.5
        model = without_biases(copy.deepcopy(with_biases))

        def relevance(of, each, label):
            return slow_maps.relevance(of, each, int(label), "zero", "zero")

        pairs = list(zip(x, y, strict=True))
        product = -attribute(model, x, y, "gradient_x_input", "true_class")
        matrices = torch.stack([relevance(model, each, label) for each, label in pairs])
        torch.testing.assert_close(product, matrices, rtol=1e-11, atol=1e-14)
        ours = -attribute(model, x, y, lrp(rule="zero"), "true_class")
        torch.testing.assert_close(product, ours, rtol=1e-11, atol=1e-14)
        scores = model(x)[torch.arange(len(x)), y].detach()
        torch.testing.assert_close(product.flatten(1).sum(1), scores)
        errors = [
            float((attribute(model, x, y, lrp(epsilon=e), "true_class") + product).abs().max())
            for e in (1e-2, 1e-4, 1e-6, 1e-8)
        ]
        assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-6 < errors[0]
        if name != "linear":
            matrices = torch.stack([relevance(with_biases, each, label) for each, label in pairs])
            product = -attribute(with_biases, x, y, "gradient_x_input", "true_class")
            torch.testing.assert_close(product, matrices, rtol=1e-9, atol=1e-12)
            scores = with_biases(x)[torch.arange(len(x)), y].detach()
            assert float((product.flatten(1).sum(1) - scores).abs().min()) > 1e-4


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("method", (*slow_maps.COARSE, "smooth_grad_cam_plus_plus"))
def test_maps_at_a_layer_are_those_of_hooks(method, name):
    model, x, y = batch_for(name)
    coarse = []
    for i in range(len(x)):
        a, g = slow_maps.at_layer(model, CONVOLUTIONAL[name], x[i], int(y[i]))
        if method in slow_maps.COARSE:
            coarse.append(slow_maps.COARSE[method](a, g))
            continue
        powers = []
        for at in slow_maps.noisy_inputs(x[i], i, 3, 0.2):
            _, g = slow_maps.at_layer(model, CONVOLUTIONAL[name], at, int(y[i]))
            powers.append((g, g**2, g**3))
        coarse.append(slow_maps.grad_cam_plus_plus(a, powers))
    sign = 1 if method == "norm_grad" else -1
    fast = attribute(model, x, y, method, "true_class", samples=3, noise=0.2)
    close(sign * fast, upsampled(torch.stack(coarse), x))


def test_a_layer_can_be_named():
    model, x, y = batch_for("small_cnn")
    a, g = slow_maps.at_layer(model, "0", x[0], int(y[0]))
    how = {"use": "aba_core.maps:layer_cam", "layer": "0"}
    fast = attribute(model, x, y, how, "true_class")
    close(-fast[:1], upsampled(slow_maps.layer_cam(a, g)[None], x[:1]))


# --- replicas ------------------------------------------------------------------------------------


def draws_for(replicas: int, batch: int) -> Draws:
    names = ("target", "smoothing", "adjustment", "magnitude")
    seeds = {name: torch.zeros(replicas, 1, dtype=torch.int64) for name in names}
    return Draws(seeds, 0, torch.arange(batch).expand(replicas, batch))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_stacked_replicas_have_the_maps_of_each_alone(name):
    models = [copy.deepcopy(built(name, seed)) for seed in range(2)]
    x = torch.randn(2, 3, *ARCHITECTURES[name][2], dtype=torch.float64)
    y = torch.arange(3)
    stacks = []
    for together in (True, False):
        replicas = Replicas.stack(models)
        replicas.together = together
        stacks.append(StackedSite(replicas, "input", cross_entropy, 4))
    for method in MAPS:
        if method in CAMS and name not in CONVOLUTIONAL:
            continue
        how = Attribution(method, samples=2)
        alone = [
            attribute(m, each, y, method, samples=2) for m, each in zip(models, x, strict=True)
        ]
        for stack in stacks:
            fast = stack.tail.map(x, y.expand(2, 3), how, draws_for(2, 3))
            torch.testing.assert_close(fast, torch.stack(alone), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "site"), [("small_cnn", "1"), ("text_cnn", "convolutions.0.0")])
def test_maps_at_a_hidden_layer_are_alike_for_a_module_and_for_replicas(name, site):
    models = [copy.deepcopy(built(name, seed)) for seed in range(2)]
    x = torch.randn(2, 3, *ARCHITECTURES[name][2], dtype=torch.float64)
    y = torch.arange(3)
    methods = ["lrp_gamma", "guided_backpropagation", "occlusion"]
    methods += ["grad_cam"] if name == "small_cnn" else []
    for together in (True, False):
        replicas = Replicas.stack(models)
        replicas.together = together
        stacked = StackedSite(replicas, site, cross_entropy, 4)
        h = stacked.activations(replicas.parameters, x)
        for method in methods:
            how = Attribution(method, "loss")
            alone = []
            for model, each in zip(models, x, strict=True):
                single = SingleSite(model, site, cross_entropy, 4)
                draws = Draws.single(0, 0, 3, "cpu")
                alone.append(single.tail.map(single.activations(each), y, how, draws))
            fast = stacked.tail.map(h, y.expand(2, 3), how, draws_for(2, 3))
            assert bool((fast != 0).any())
            torch.testing.assert_close(fast, torch.stack(alone), rtol=1e-9, atol=1e-12)


def test_a_rewritten_architecture_follows_replicas_to_other_parameters():
    replicas = Replicas.stack([copy.deepcopy(built("small_cnn", seed)) for seed in range(2)])
    x = torch.randn(2, 3, *ARCHITECTURES["small_cnn"][2], dtype=torch.float64)
    for at in (replicas, replicas.moved(2 * replicas.parameters)):
        logits = ReplicasMaker(at).rewritten(GuidedReLU(both=True))(x)
        torch.testing.assert_close(logits, at.forward(at.parameters)(x))
        head, rest = ReplicasMaker(at).halves("3")
        torch.testing.assert_close(rest(x, head(x)), logits)


TRAINED = ("lrp_composite", "guided_backpropagation", "grad_cam_plus_plus", "occlusion", "vargrad")


@pytest.mark.parametrize("method", (*TRAINED, "expected_gradients"))
def test_training_with_a_map_is_alike_stacked_and_one_by_one(method, tiny_splits, monkeypatch):
    """From step to step: what is made once of an architecture must see the parameters move."""
    config = TrainConfig(batch_norm=True, batch_size=5, epochs=1.5, dtype="float64")
    given = {"adjustments": "epsilon", "strength": 0.5, "attribution_samples": 2}
    arms = [Arm("Vanilla"), Arm.of("mapped", attribution=method, **given)]
    arms.append(Arm.of("plain", attribution="gradient", **given))
    trained = []
    for stacked_from in (1, 99):
        monkeypatch.setattr(replicas_module, "STACKED_FROM", stacked_from)
        trained.append(train(config, arms, [0, 1], splits=tiny_splits))
    for seed in (0, 1):
        states = [runs.model("mapped", seed).state_dict() for runs in trained]
        other = trained[0].model("plain", seed).state_dict()
        for name, value in states[0].items():
            torch.testing.assert_close(value, states[1][name], rtol=1e-8, atol=1e-10)
        assert not torch.allclose(states[0]["0.weight"], other["0.weight"], rtol=1e-3)


def test_samples_and_noise_are_part_of_a_run_where_its_map_uses_them():
    def augmentation(attribution, **changed):
        return plain(Augmentation("epsilon", attribution=attribution, **changed))

    for name in MAPS:
        for field, users in (
            ("attribution_samples", WITH_SAMPLES),
            ("attribution_noise", WITH_NOISE),
        ):
            same = augmentation(name) == augmentation(name, **{field: 3})
            assert same == (name not in users), (name, field)
    own = "aba_core.maps:vargrad"
    assert augmentation(own) != augmentation(own, attribution_noise=3)


@pytest.mark.parametrize("name", MAPS)
def test_the_tables_of_samples_and_noise_say_what_a_map_uses(name):
    model, x, y = batch_for("small_cnn")

    def made(**fields):
        return attribute(model, x - 0.5, y, name, "true_class", **fields)

    usual = made(samples=4, noise=0.2)
    assert torch.equal(usual, made(samples=3, noise=0.2)) == (name not in WITH_SAMPLES)
    assert torch.equal(usual, made(samples=4, noise=0.4)) == (name not in WITH_NOISE)


@pytest.mark.parametrize("method", MAPS)
def test_a_map_keeps_the_type_and_does_not_depend_on_the_rest_of_the_batch(method):
    model, x, y = batch_for("small_cnn_norm")
    single = attribute(copy.deepcopy(model).float(), x.float(), y, method, samples=2)
    assert single.dtype == torch.float32 and single.shape == x.shape
    whole = attribute(model, x, y, method, samples=2)
    draws = Draws.single(0, 0, len(x), "cpu")
    if method == "expected_gradients":  # whose baselines are the rest of the batch
        return
    for sample in range(len(x)):
        only = torch.arange(len(x)) == sample
        alone = attribute(model, x[only], y[only], method, samples=2, draws=draws.subset(only))
        torch.testing.assert_close(alone, whole[only], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("method", MAPS)
def test_the_model_is_left_as_it_was(method):
    model, x, y = batch_for("small_cnn_norm")
    before, kinds = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    attribute(model, x, y, method, samples=2)
    assert kinds == [type(module) for module in model.modules()]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(value.grad is None and value.requires_grad for value in model.parameters())


# --- sense and refusals --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ("guided_backpropagation", "deconvnet", "grad_cam", "layer_cam"))
def test_maps_that_are_not_linear_explain_the_score_for_every_target(method):
    """Of two classes with opposed scores, those of the loss are those of the score, scaled."""
    model, x, _ = batch_for("small_cnn")
    with torch.no_grad():
        model[-1].weight[0] = -model[-1].weight[1]
        model[-1].bias[0] = -model[-1].bias[1]
    model[-1] = cut(model[-1])
    y = torch.tensor([0, 1, 0])
    by_score = attribute(model, x, y, method, "true_class").flatten(1)
    by_loss = attribute(model, x, y, method, "loss").flatten(1)
    assert bool((by_score != 0).any(1).all())
    ratio = by_loss.norm(dim=1, keepdim=True) / by_score.norm(dim=1, keepdim=True)
    torch.testing.assert_close(by_loss, by_score * ratio)
    if method.endswith("cam"):
        assert bool((by_score <= 0).all())


def cut(layer: nn.Linear) -> nn.Linear:
    """The layer's first two outputs."""
    two = nn.Linear(layer.in_features, 2).double()
    with torch.no_grad():
        two.weight.copy_(layer.weight[:2])
        two.bias.copy_(layer.bias[:2])
    return two


@pytest.mark.parametrize("method", ("lrp_epsilon", "guided_backpropagation", "deconvnet"))
def test_a_module_that_cannot_be_rewritten_is_refused_by_name(method):
    x, y = torch.randn(2, 5), torch.arange(2)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"cannot go through the module '1' \(Tanh\); needed: "):
        attribute(model, x, y, method)

    class Hidden(nn.Module):
        def forward(self, x):
            return x.relu()

    with pytest.raises(ValueError, match="cannot go through the module Hidden"):
        attribute(Hidden(), x, y, method)


@pytest.mark.parametrize(
    ("name", "method", "options", "says"),
    [
        ("mlp", "grad_cam", {}, "the model has no convolution"),
        ("mlp", "grad_cam", {"layer": "1"}, "layer '1' gives \\(64,\\) for an input"),
        ("small_cnn", "grad_cam", {"layer": "9"}, "unknown site '9'; known: "),
        ("small_cnn", "lrp", {"rule": "w2"}, "unknown rule 'w2'; known: zero, epsilon"),
        ("small_cnn", "lrp", {"beta": 1}, "unknown option 'beta' of LRP; known: rule, dense"),
        ("small_cnn", "lrp", {"alpha": 0.5}, "alpha is 0.5; allowed: finite, not below 1"),
        ("mlp", "integrated_gradients", {"baseline": "grey"}, "unknown baseline 'grey'; known: "),
        ("small_cnn", "occlusion", {"size": -1}, "size is -1; allowed: whole numbers from 0"),
        ("small_cnn", "occlusion", {"size": 1, "stride": 4}, "stride is 4; allowed: up to"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(name, method, options, says):
    model, x, y = batch_for(name)
    with pytest.raises(ValueError, match=says) as refused:
        attribute(model, x, y, {"use": f"aba_core.maps:{method}", **options})
    assert "\n" not in str(refused.value)


def test_a_map_that_needs_the_model_says_so_where_there_is_its_function_alone():
    model, x, y = batch_for("small_cnn")
    draws = Draws.single(0, 0, len(x), "cpu")
    for method in ("lrp_gamma", "grad_cam", "deconvnet"):
        with pytest.raises(ValueError, match=f"the map '{method}' needs the model"):
            attribution_map(model, x, y, Attribution(method), draws)


@pytest.mark.parametrize(
    ("method", "says"),
    [("grad_cam", "the model has no convolution"), ("expected_gradients", "a batch of 1 sample")],
)
def test_a_study_refuses_a_map_that_its_model_or_batch_cannot_have(method, says):
    arms = [{"name": "mapped", "adjustments": "epsilon", "attribution": method}]
    config = {"model": "mlp", "epochs": 1, "batch_size": 1}
    study = Study(name="maps", dataset="digits", config=config, seeds=1, arms=arms)
    with pytest.raises(StudyError, match=f"arm 'mapped': {says}"):
        resolve(study)


@pytest.mark.parametrize("name", ("linear", "text_cnn"))
def test_maps_of_any_model_are_those_that_need_nothing_of_it(name):
    model, x, y = batch_for(name, 1)
    model = nn.Sequential(Wrapped(model))
    for method in MAPS:
        if method in OF_ANY_MODEL:
            assert attribute(model, x, y, method, samples=2).shape == x.shape
        elif name == "linear":
            with pytest.raises(ValueError, match="no convolution|cannot go through|no other one"):
                attribute(model, x, y, method, samples=2)


class Wrapped(nn.Module):
    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x):
        return self.inside(x).tanh()


def test_one_sample_has_no_other_for_a_baseline():
    model, x, y = batch_for("mlp", 1)
    with pytest.raises(ValueError, match="a batch of 1 sample has no other one"):
        attribute(model, x, y, "expected_gradients")


def test_lrp_refuses_batch_norm_in_training():
    model, x, y = batch_for("small_cnn_norm")
    with pytest.raises(ValueError, match="LRP takes batch norm as in evaluation"):
        attribute(model, x, y, "lrp_epsilon", mode="train")
