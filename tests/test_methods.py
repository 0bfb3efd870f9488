"""Methods on the seam: each equals its slow twin, under the replica engine and in anybody's
loop."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import slow_draws, slow_methods
from oracles.slow_attribution import torch_cross_entropy
from oracles.slow_augmentation import slow_aba
from oracles.small_runs import (
    CLASSES,
    CONFIG,
    SPLITS,
    Branched,
    assert_same_model,
    chained,
    plain_run,
)
from oracles.tiny_data import make_splits
from scipy import stats
from torch import nn

from aba_core import ABA, AdjustmentSet, Arm, Augmentation, Regularizer, train
from aba_core.arms import METHODS
from aba_core.attribution import MAPS
from aba_core.methods.base import Chain, Method, method_of, stand_ins
from aba_core.methods.dropout import Dropout
from aba_core.methods.labels import LabelSmoothing
from aba_core.methods.mixing import CutMix, Mixup
from aba_core.methods.occlusion import Cutout
from aba_core.methods.sharpness import SAM
from aba_core.randomness import Draws, batch_order, epoch_order
from aba_core.training import initial_model
from benchmarks import methods as costs

METHODS_TRIED = {
    "mixup": Mixup(alpha=0.4),
    "cutmix": CutMix(),
    "cutout": Cutout(side=0.6),
    "label-smoothing": LabelSmoothing(epsilon=0.2),
    "dropout": Dropout(p=0.3),
    "sam": SAM(rho=0.1),
}


@pytest.mark.parametrize("seeds", [(4,), (4, 0, 7)], ids=["one by one", "together"])
@pytest.mark.parametrize("name", METHODS_TRIED)
def test_every_method_equals_its_slow_twin(name, seeds):
    method = METHODS_TRIED[name]
    runs = train(CONFIG, [Arm("a", method)], seeds, splits=SPLITS, build=chained)
    for seed in seeds:
        assert_same_model(runs.model("a", seed), plain_run(chained, method, seed))
    assert runs.frame()["method"].tolist() == [name] * len(seeds)


@pytest.mark.parametrize("build", [chained, Branched], ids=["chain", "branched"])
@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)], ids=["one by one", "together"])
@pytest.mark.parametrize("method", [Mixup(), Dropout(p=0.4)], ids=["mixup", "dropout"])
def test_a_hidden_layer_is_a_site_as_the_input_is(method, seeds, build):
    site = "block.norm" if build is Branched else "2.0"
    method = replace(method, site=site)
    runs = train(CONFIG, [Arm("a", method)], seeds, splits=SPLITS, build=build)
    for seed in seeds:
        assert_same_model(runs.model("a", seed), plain_run(build, method, seed))


@pytest.mark.parametrize("build", [chained, Branched], ids=["chain", "branched"])
def test_aba_at_a_hidden_layer_equals_aba_on_the_rest_of_the_model(build):
    """The layers before the site are frozen and their output is the input of a smaller model."""
    site = "1" if build is chained else "block.norm"
    aug = Augmentation(AdjustmentSet.parse("3,4"), strength=0.5, target="loss", site=site)
    model = build().double().eval()
    x, y = SPLITS.train.x[:5].double(), SPLITS.train.y[:5]
    reached = {}
    handle = model.get_submodule(site).register_forward_hook(
        lambda module, inputs, output: reached.update(h=output)
    )
    model(x)
    handle.remove()

    class Rest(nn.Module):
        def forward(self, h: torch.Tensor) -> torch.Tensor:
            put = model.get_submodule(site).register_forward_hook(lambda m, i, o: h)
            try:
                return model(x[:1].expand(len(h), *x.shape[1:]) if len(h) != len(x) else x)
            finally:
                put.remove()

    h = reached["h"].detach()
    expected = ABA(replace(aug, site="input"), seed=3)(Rest(), h, y)
    from aba_core.sites import SingleSite

    cut = SingleSite(model, site, torch_cross_entropy, CLASSES)
    assert torch.equal(cut.activations(x), h)
    draws = Draws.single(3, 0, 5, "cpu")
    changed, _ = aug.batch(cut.tail, h, y, draws)
    torch.testing.assert_close(changed, expected, rtol=1e-12, atol=1e-12)
    assert not torch.equal(changed, h)


@pytest.mark.parametrize("name", METHODS_TRIED)
def test_anybodys_loop_takes_the_same_steps_as_the_engine(name):
    method = METHODS_TRIED[name]
    engine = train(CONFIG, [Arm("a", method)], [6], splits=SPLITS, build=chained).model("a", 6)
    model = initial_model(chained, 6, torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    regularizer = Regularizer(method, seed=6)
    samples = len(SPLITS.train)
    for number in range(CONFIG.steps(samples)):
        orders = lambda e: epoch_order(torch.tensor([6]), e, samples)  # noqa: E731
        rows = batch_order(orders, number, 5, samples)[0]
        optimizer.zero_grad()
        regularizer.backward(model, SPLITS.train.x[rows].double(), SPLITS.train.y[rows])
        optimizer.step()
    assert_same_model(model.eval(), engine)


def test_a_regularizer_of_inputs_is_called_like_aba():
    model = chained().eval()
    x, y = SPLITS.train.x[:6], SPLITS.train.y[:6]
    mendaba = {"kind": "mendaba", "strength": 0.3}
    inputs, labels = Regularizer(mendaba, seed=2)(model, x, y)
    assert torch.equal(inputs, ABA("mendaba", strength=0.3, seed=2)(model, x, y))
    assert torch.equal(labels, y)
    mixed, soft_labels = Regularizer("mixup", seed=2)(model, x, y)
    assert mixed.shape == x.shape and soft_labels.shape == (6, CLASSES)
    torch.testing.assert_close(soft_labels.sum(1), torch.ones(6))


@pytest.mark.parametrize(
    ("method", "what"), [(SAM(), "the gradient"), (Mixup(site="1"), "the layer '1'")]
)
def test_what_is_no_matter_of_inputs_says_how_it_is_used(method, what):
    with pytest.raises(ValueError, match=f"changes {what}; use backward"):
        Regularizer(method)(chained(), SPLITS.train.x[:4], SPLITS.train.y[:4])


@pytest.mark.parametrize("name", METHODS_TRIED)
def test_a_run_alone_equals_the_same_run_among_many(name):
    """Numbers may differ between replicas side by side; masks and partners are a run's own."""
    method = METHODS_TRIED[name]
    number = method.per_replica()[0]
    others = [replace(method, **{number: 0.15 + 0.02 * i}) for i in range(7)]
    arms = [Arm(f"other {i}", other) for i, other in enumerate(others)]
    options = {"splits": SPLITS, "build": chained}
    among = train(CONFIG, [*arms[:3], Arm("a", method), *arms[3:]], [1, 2], **options)
    alone = train(CONFIG, [Arm("a", method)], [2], **options)
    assert_same_model(among.model("a", 2), alone.model("a", 2))


def test_a_chain_applies_its_methods_in_turn():
    x, y = SPLITS.train.x[:6].double(), SPLITS.train.y[:6]
    chain = Chain((Cutout(side=0.5), Mixup()))
    inputs, labels = Regularizer(chain, seed=1)(chained().double(), x, y)
    cut, same = slow_methods.changed(chain.methods[0], x, y, 1, 0, CLASSES)
    mixed, soft_labels = slow_methods.changed(chain.methods[1], cut, same, 1, 0, CLASSES)
    torch.testing.assert_close(inputs, mixed)
    torch.testing.assert_close(labels, soft_labels)
    assert chain.passes() == 1 and Chain((SAM(), SAM())).passes() == 3


def test_a_chain_trains_side_by_side_as_alone():
    chains = [Chain((Mixup(alpha=a), SAM(rho=r))) for a, r in ((1.0, 0.1), (0.3, 0.05), (2.0, 0.2))]
    arms = [Arm(str(number), chain) for number, chain in enumerate(chains)]
    among = train(CONFIG, arms, [3], splits=SPLITS, build=chained)
    for arm in arms:
        alone = train(CONFIG, [arm], [3], splits=SPLITS, build=chained)
        assert_same_model(among.model(arm.name, 3), alone.model(arm.name, 3))


def test_aba_through_the_seam_is_the_slow_twins():
    aug = Augmentation(AdjustmentSet.parse("3,4,0"), strength=0.4, target="loss")
    model = chained().double()
    x, y = SPLITS.train.x[:6].double(), SPLITS.train.y[:6]
    purposes = dict.fromkeys(("adjustment", "magnitude", "target", "smoothing", "placebo"), 5)
    expected = slow_aba(model, x, y, aug, purposes, 0, torch_cross_entropy, model)
    inputs, _ = Regularizer(aug, seed=5)(model, x, y)
    torch.testing.assert_close(inputs, expected, rtol=1e-10, atol=1e-10)


# --- draws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_shares_have_the_beta_distribution(alpha):
    draws = Draws.single(11, 3, 20_000, "cpu", ("mix",))
    shares = draws.beta("mix", alpha).numpy()
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.001
    slow = [slow_draws.beta(11, "mix", 3, i, alpha) for i in range(50)]
    np.testing.assert_allclose(shares[:50], slow, rtol=1e-9)


def test_partners_are_an_order_of_the_batch():
    draws = Draws.single(0, 0, 9, "cpu", ("mix",))
    assert sorted(draws.partners("mix").tolist()) == list(range(9))
    assert draws.partners("mix").tolist() == slow_draws.partners(0, "mix", 0, 9)


def test_a_purpose_that_was_not_declared_is_refused():
    with pytest.raises(
        ValueError, match="purpose 'mix' was not declared; declared: initialisation"
    ):
        Draws.single(0, 0, 9, "cpu").uniform("mix")


def test_progress_is_known_where_the_number_of_steps_is():
    assert Draws.single(0, 3, 2, "cpu", steps=6).progress == 0.5
    with pytest.raises(ValueError, match="no number of steps"):
        _ = Draws.single(0, 3, 2, "cpu").progress


# --- labels --------------------------------------------------------------------------------------


def test_label_weights_equal_the_share_of_pixels():
    x = torch.arange(4.0)[:, None, None, None].expand(4, 1, 8, 8)
    y = torch.tensor([0, 1, 2, 0])
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    mixed, labels = Regularizer(CutMix(), seed=8)(model, x, y)
    for sample in range(4):
        for label in range(CLASSES):
            share = sum(
                float((mixed[sample] == k).double().mean()) for k in range(4) if y[k] == label
            )
            assert abs(float(labels[sample, label]) - share) < 1e-6


# --- from plain data -----------------------------------------------------------------------------


def test_every_method_and_map_has_its_measured_cost():
    page = (Path(__file__).parents[1] / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for begin, end, names in (
        (costs.BEGIN, costs.END, {*METHODS}),
        (costs.MAPS_BEGIN, costs.MAPS_END, {costs.LAGGED, *MAPS, *costs.CAPTUM}),
    ):
        rows = re.findall(
            r"`(.+)` \| ([\d.]+) \| \*\*([\d.]+)\*\* \[", page.partition(begin)[2].partition(end)[0]
        )
        assert {name for name, _, _ in rows} == names
        # Drawing, changing and moving cost little beside passes; Captum's maps are no passes.
        for name, passes, ratio in rows:
            assert name in costs.CAPTUM or 0.5 < float(ratio) / float(passes) < 2.2, name


@pytest.mark.parametrize("kind", METHODS)
def test_every_kind_is_a_method_with_a_title(kind):
    method = method_of({"kind": kind, **stand_ins(kind)})
    assert isinstance(method, Method) and METHODS[kind].title
    assert method.passes() >= 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("mixip", r"unknown method 'mixip' \(did you mean 'mixup'\?\); known: aba, challenger"),
        (
            {"kind": "mixup", "alfa": 1.0},
            "'alfa' .did you mean 'alpha'.. of 'mixup'; known: site, al",
        ),
        ({"kind": "mixup", "alpha": "much"}, "alpha is 'much'; allowed: a finite number"),
        ({"kind": "mixup", "alpha": -1}, "alpha is -1.0; allowed: 0.001 to 1000"),
        ({"kind": "cutmix", "alpha": 0}, "alpha is 0.0; allowed"),
        ({"kind": "cutout", "side": 1.5}, "side is 1.5; allowed: 0 to 1"),
        ({"kind": "label-smoothing", "epsilon": 2}, "epsilon is 2.0; allowed: 0 to 1"),
        ({"kind": "dropout", "p": 1.0}, "p is 1.0; allowed: 0 to 0.999"),
        ({"kind": "sam", "rho": True}, "rho is True; allowed: a finite number"),
        ({"kind": "aba"}, "'aba' needs 'adjustments'"),
        ({"use": "nowhere:Method"}, "cannot import 'nowhere' of 'nowhere:Method'"),
        ({"use": "math:pi"}, "'math:pi' is no Method"),
        ({"use": "math:tau2"}, "'math' has no 'tau2'"),
        (7, "method is 7; needed: a name"),
        ([False], "method is False; needed: a"),
        ([[b"mixup"]], "method is b'mixup'; needed: a"),
        (["mixup", {"kind": "dropout", "site": "1"}], "a chain of 2 methods at the sites 1, input"),
    ],
)
def test_what_is_no_method_is_refused_in_one_line(data, message):
    with pytest.raises(ValueError, match=message) as refusal:
        method_of(data)
    assert "\n" not in str(refusal.value)


def test_pictures_are_needed_where_they_are():
    table = make_splits((7,), CLASSES)
    for method in (CutMix(), Cutout()):
        with pytest.raises(
            ValueError, match=r"needs pictures \[channel, height, width\], got \(7,\)"
        ):
            train(replace(CONFIG, model="mlp"), [Arm("a", method)], [0], splits=table)


def test_an_unknown_site_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="unknown site 'conv9'; known: input, 0, 1, 2, 2.0"):
        train(CONFIG, [Arm("a", Mixup(site="conv9"))], [0], splits=SPLITS, build=chained)
