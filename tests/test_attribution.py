"""Attribution maps: equal to a slow twin, in the sense of the loss, and without side effects."""

import copy
import itertools
from dataclasses import replace
from typing import get_args

import pytest
import torch
from oracles import counter_hash
from oracles.probes import PROBES, probe
from oracles.slow_attribution import chosen_class, slow_maps, torch_cross_entropy
from oracles.slow_augmentation import slow_aba
from torch import nn

from aba_core.adjustments import ADJUSTMENTS, Group
from aba_core.arms import MapKind, Target
from aba_core.attribution import (
    MAPS,
    Attribution,
    attribute,
    attributed_classes,
    cross_entropy,
)
from aba_core.methods.aba import ABA, CHALLENGER, adjust
from aba_core.randomness import Draws
from aba_core.selection import Percentiles, SignSplit, categorize

METHODS = ("gradient", "gradient_x_input", "smoothgrad", "integrated_gradients")
TARGETS = ("loss", "class_score", "true_class", "predicted_class")


def objective(model, x, y, target) -> torch.Tensor:
    """What an increase of is positive attribution, one number a sample."""
    logits = model(x)
    if target == "loss":
        return torch_cross_entropy(logits, y)
    classes = y if target == "true_class" else logits.argmax(1)
    return -logits[torch.arange(len(x)), classes]


# --- against the slow twin -----------------------------------------------------------------------


def test_the_words_for_maps_that_need_no_torch_are_those_of_the_table():
    assert get_args(MapKind) == tuple(MAPS) and get_args(Target) == TARGETS


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", METHODS)
def test_maps_equal_those_of_one_sample_at_a_time(method, target, name):
    model, x, y = probe(name)
    for per, mode, step in (("sample", "eval", 0), ("batch", "eval", 3), ("sample", "train", 1)):
        how = Attribution(method, target, 3, per, mode, samples=3, noise=0.2)
        draws = Draws.single(6, step, len(x), "cpu")
        fast = attribute(model, x, y, **vars(how), draws=draws)
        slow = slow_maps(model.train(mode == "train"), x, y, how, seed=6, step=step)
        torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("target", ("loss", "true_class"))
@pytest.mark.parametrize("name", ("smooth_mlp", "text", "picture"))
def test_the_gradient_is_what_finite_differences_say(name, target):
    model, x, y = probe(name)
    model.eval()
    fast = attribute(model, x, y, target=target).flatten(1)
    step = 1e-5
    with torch.no_grad():
        for feature in range(fast.shape[1]):
            bump = torch.zeros_like(x).flatten(1)
            bump[:, feature] = step
            bump = bump.reshape(x.shape)
            rise = objective(model, x + bump, y, target) - objective(model, x - bump, y, target)
            torch.testing.assert_close(fast[:, feature], rise / (2 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("target", ("loss", "true_class"))
@pytest.mark.parametrize("name", ("smooth_mlp", "text", "picture"))
def test_integrated_gradients_sum_to_the_change_from_the_zero_input(name, target):
    model, x, y = probe(name)
    model.eval()
    result = attribute(model, x, y, "integrated_gradients", target, samples=400)
    with torch.no_grad():
        change = objective(model, x, y, target) - objective(model, torch.zeros_like(x), y, target)
    torch.testing.assert_close(result.flatten(1).sum(1), change, rtol=1e-4, atol=1e-5)


def test_smoothgrad_with_hardly_any_noise_is_the_gradient():
    model, x, y = probe("smooth_mlp")
    smooth = attribute(model, x, y, "smoothgrad", "loss", noise=1e-9, samples=2)
    plain = attribute(model, x, y, "gradient", "loss")
    torch.testing.assert_close(smooth, plain, rtol=1e-6, atol=1e-8)


def test_gradient_times_input_of_a_linear_score_is_the_score_turned_round():
    model = nn.Linear(6, 4, bias=False).double()
    x, y = torch.randn(5, 6, dtype=torch.float64), torch.arange(5) % 4
    result = attribute(model, x, y, "gradient_x_input", "true_class")
    torch.testing.assert_close(result.sum(1), -model(x)[torch.arange(5), y].detach())


def test_the_class_score_is_one_of_the_best_k_drawn_evenly():
    model = nn.Linear(6, 4, bias=False).double()
    x = torch.randn(600, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(600, dtype=torch.int64)
    maps = attribute(model, x, y, "gradient", "class_score", top_k=3)
    # The map of a linear score is the class's weights turned round: it tells the class.
    chosen = torch.cdist(maps, -model.weight.detach()).argmin(1)
    ranks = (model(x).argsort(1, descending=True) == chosen[:, None]).int().argmax(1)
    counts = torch.bincount(ranks, minlength=4).tolist()
    assert counts[3] == 0 and all(150 < count < 250 for count in counts[:3])


def test_with_the_target_per_batch_all_samples_share_one_rank():
    model = nn.Linear(6, 4, bias=False).double()
    x = torch.randn(40, 6, dtype=torch.float64)
    y = torch.zeros(40, dtype=torch.int64)
    found = set()
    for step in range(12):
        draws = Draws.single(0, step, 40, "cpu")
        maps = attribute(model, x, y, top_k=3, target_per="batch", draws=draws)
        chosen = torch.cdist(maps, -model.weight.detach()).argmin(1)
        ranks = (model(x).argsort(1, descending=True) == chosen[:, None]).int().argmax(1)
        assert ranks.unique().numel() == 1
        found.add(int(ranks[0]))
    assert found == {0, 1, 2}


# --- orientation ---------------------------------------------------------------------------------

SPLITS = (Percentiles(0.1, 0.9), Percentiles(0.25, 0.75), SignSplit())


def changes_of(model, x, y, split, target, measure, adjustment, strength=1e-5):
    """How much an adjustment of all samples changes what `measure` says of each."""
    categories = categorize(attribute(model, x, y, "gradient", target), split)
    parts = tuple(adjustment) if split.categories == 3 else (adjustment.low, adjustment.high)
    table = torch.tensor([parts] * len(x), dtype=x.dtype)
    moved = adjust(x, categories, table, strength, torch.ones(len(x)))
    with torch.no_grad():
        return (measure(moved) - measure(x)) / strength


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("target", TARGETS)
def test_epsilon_raises_and_delta_lowers_the_objective_of_every_target(name, split, target):
    """The loss with target "loss"; minus the attributed score with the others."""
    model, x, y = probe(name, batch=16)
    model.eval()
    with torch.no_grad():
        if target == "class_score":  # drawn as the package draws: seed 0, step 0, four classes
            how = Attribution()
            classes = torch.tensor(
                [
                    chosen_class(row, int(label), how, counter_hash.uniform(0, "target", 0, place))
                    for place, (row, label) in enumerate(zip(model(x), y, strict=True))
                ]
            )
        else:
            classes = y if target == "true_class" else model(x).argmax(1)

    def measure(at):
        logits = model(at)
        if target == "loss":
            return torch_cross_entropy(logits, y)
        return -logits[torch.arange(len(at)), classes]

    def change(adjustment):
        return changes_of(model, x, y, split, target, measure, adjustment)

    for index in (3, 6, 17):  # Epsilon without a change of the middle
        assert bool((change(ADJUSTMENTS[index]) > 0).all()), index
    for index in (4, 5, 16):  # Delta likewise
        assert bool((change(ADJUSTMENTS[index]) < 0).all()), index


@pytest.mark.parametrize("name", PROBES)
def test_each_epsilon_raises_the_loss_above_the_delta_with_low_and_high_swapped(name):
    model, x, y = probe(name, batch=16)
    model.eval()

    def loss(at):
        return torch_cross_entropy(model(at), y)

    for adjustment in ADJUSTMENTS:
        if adjustment.group is Group.EPSILON:
            mirror = type(adjustment)(adjustment.high, adjustment.middle, adjustment.low)
            assert mirror.group is Group.DELTA
            split = Percentiles(0.1, 0.9)
            raised = changes_of(model, x, y, split, "loss", loss, adjustment)
            lowered = changes_of(model, x, y, split, "loss", loss, mirror)
            assert bool((raised > lowered).all()), str(adjustment)


@pytest.mark.parametrize("method", METHODS)
def test_the_score_of_the_true_class_has_the_sense_of_the_loss(method):
    """For two classes and equal columns the two maps are proportional, with a positive factor."""
    model = nn.Linear(8, 2).double()
    with torch.no_grad():
        model.weight[1] = -model.weight[0]
    x, y = torch.randn(6, 8, dtype=torch.float64), torch.arange(6) % 2
    by_loss = attribute(model, x, y, method, "loss", samples=3)
    by_score = attribute(model, x, y, method, "true_class", samples=3)
    assert torch.equal(by_loss.sign(), by_score.sign())


# --- what stays as it was ------------------------------------------------------------------------


class Busy(nn.Module):
    """Everything that could be disturbed: batch norm, dropout, a frozen layer, mixed modes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(20, 12)
        self.norm = nn.BatchNorm1d(12)
        self.fixed_norm = nn.BatchNorm1d(12)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(12, 4)

    def forward(self, x):
        hidden = self.fixed_norm(self.norm(self.first(x)))
        return self.last(self.drop(torch.relu(hidden)))


def busy() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = Busy().double()
    model(torch.randn(9, 20, dtype=torch.float64)).sum().backward()  # leaves gradients
    model.first.bias.grad = None
    model.first.weight.requires_grad_(False)
    model.train()
    model.fixed_norm.eval()
    return model, torch.randn(5, 20, dtype=torch.float64), torch.arange(5) % 4


def state(model: nn.Module) -> dict:
    return {
        "modes": [module.training for module in model.modules()],
        "buffers": [buffer.clone() for buffer in model.buffers()],
        "parameters": [value.detach().clone() for value in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "flags": [value.requires_grad for value in model.parameters()],
    }


def assert_same_state(before: dict, after: dict) -> None:
    assert before["modes"] == after["modes"]
    assert before["flags"] == after["flags"]
    for name in ("buffers", "parameters", "gradients"):
        for one, other in zip(before[name], after[name], strict=True):
            assert one is other is None or torch.equal(one, other), name


@pytest.mark.parametrize("mode", ("eval", "train"))
@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was(method, mode):
    model, x, y = busy()
    before = state(model)
    x_before = x.clone()
    attribute(model, x, y, method, mode=mode, samples=2)
    assert_same_state(before, state(model))
    assert torch.equal(x, x_before) and x.grad is None and not x.requires_grad


@pytest.mark.parametrize("mode", ("eval", "train"))
@pytest.mark.parametrize("method", METHODS)
def test_the_global_random_state_is_left_as_it_was(method, mode):
    model, x, y = busy()
    before = torch.get_rng_state()
    attribute(model, x, y, method, mode=mode, samples=2)
    assert torch.equal(torch.get_rng_state(), before)


class Restless(nn.Module):
    """It counts its passes, replaces a buffer and draws, in eval mode as well."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(1))
        self.register_buffer("last", torch.zeros(1))
        self.linear = nn.Linear(20, 4)

    def forward(self, x):
        self.passes.add_(1)
        self.last = x.detach().mean(0)
        return self.linear(x + 0.01 * torch.randn_like(x))


@pytest.mark.parametrize("mode", ("eval", "train"))
def test_a_model_that_moves_in_eval_mode_is_left_as_it_was(mode):
    model, before = Restless(), torch.get_rng_state()
    last = model.last
    attribute(model, torch.randn(3, 20), torch.arange(3), mode=mode)
    assert float(model.passes) == 0 and model.last is last and float(last) == 0
    torch.set_rng_state(before)
    x = torch.randn(3, 20)  # drawn before as well
    after = torch.get_rng_state()
    attribute(model, x, torch.arange(3), mode=mode)
    assert torch.equal(torch.get_rng_state(), after)


def test_statistics_move_in_train_mode_where_they_are_asked_to():
    model = Restless()
    attribute(model, torch.randn(3, 20), torch.arange(3), mode="train", update_statistics=True)
    assert float(model.passes) == 1


def without_running_statistics() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    model = nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Tanh(), nn.Linear(6, 3)
    )
    return model.double(), torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 3


@pytest.mark.parametrize("method", METHODS)
def test_without_running_statistics_the_map_is_that_of_the_whole_batch(method):
    model, x, y = without_running_statistics()
    whole = attribute(model, x, y, method, "loss", samples=2)
    model.eval()
    slow = slow_maps(model, x, y, Attribution(method, "loss", samples=2))
    torch.testing.assert_close(whole, slow)
    assert not torch.allclose(attribute(model, x[:4], y[:4], method, "loss", samples=2), whole[:4])


def test_aba_maps_the_whole_batch_where_samples_meet():
    """Half of Challenger's samples need no map, but their neighbours' maps depend on them."""
    model, x, y = without_running_statistics()
    augmentation = replace(CHALLENGER, target="loss")
    aba = ABA(augmentation, seed=2)
    model.eval()
    seeds = dict.fromkeys(counter_hash.STREAM, 2)
    for step in range(4):
        torch.testing.assert_close(
            aba(model, x, y), slow_aba(model, x, y, augmentation, seeds, step)
        )


def test_the_model_is_left_as_it_was_even_where_it_fails():
    model, x, y = busy()
    before = state(model)
    with pytest.raises(ValueError, match="refuses a batch of shape"):
        attribute(model, x[:, :7], y, mode="train")
    assert_same_state(before, state(model))


def test_inputs_that_require_gradients_keep_theirs():
    model, x, y = busy()
    x.requires_grad_()
    result = attribute(model, x, y)
    assert x.requires_grad and x.grad is None and not result.requires_grad


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_the_same_under_no_grad(method):
    model, x, y = probe("picture")
    expected = attribute(model, x, y, method, samples=2)
    with torch.no_grad():
        result = attribute(model, x, y, method, samples=2)
        assert not torch.is_grad_enabled()
    assert torch.equal(result, expected)


def test_eval_mode_uses_running_statistics_and_train_mode_those_of_the_batch():
    model, x, y = probe("picture")
    by_mode = {mode: attribute(model, x, y, mode=mode) for mode in ("eval", "train")}
    assert not torch.allclose(by_mode["eval"], by_mode["train"])
    for mode, result in by_mode.items():
        again = attribute(model.eval(), x, y, mode=mode)
        assert torch.equal(again, result), "the model's own mode must not matter"


@pytest.mark.parametrize(("method", "passes"), [("gradient", 1), ("smoothgrad", 3)])
def test_running_statistics_move_only_where_asked(method, passes):
    model, x, y = probe("picture")
    untouched = copy.deepcopy(model[1].state_dict())
    attribute(model, x, y, method, "loss", mode="train", samples=2)
    assert all(torch.equal(v, untouched[k]) for k, v in model[1].state_dict().items())
    attribute(model, x, y, method, "loss", mode="train", samples=2, update_statistics=True)
    assert int(model[1].num_batches_tracked) == int(untouched["num_batches_tracked"]) + passes


def test_statistics_that_may_move_move_as_in_one_forward_pass():
    model, x, y = probe("picture")
    twin = copy.deepcopy(model).train()
    twin(x)
    attribute(model, x, y, mode="train", update_statistics=True)
    for name, value in twin.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


# --- losses of the user's own --------------------------------------------------------------------


def squared_error(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return ((logits.softmax(-1) - targets) ** 2).sum(-1)


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_of_soft_labels_can_be_the_target(method):
    model, x, _ = probe("picture")
    model.eval()
    soft = torch.rand(len(x), 4, dtype=torch.float64).softmax(1)
    how = Attribution(method, "loss", samples=2)
    fast = attribute(model, x, soft, method, "loss", samples=2, loss=squared_error)
    slow = slow_maps(model, x, soft, how, loss=squared_error)
    torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-13)


def test_soft_labels_serve_every_target():
    model, x, y = probe("picture")
    soft = torch.full((len(x), 4), 0.25, dtype=torch.float64)
    for target in TARGETS:
        assert attribute(model, x, soft, target=target).shape == x.shape
    with pytest.raises(ValueError, match="'true_class' needs one whole-number class a sample"):
        attribute(model, x, soft[:, :2], target="true_class")
    one = torch.nn.functional.one_hot(y, 4).double()
    by_weight = attribute(model, x, one, target="true_class")
    assert torch.equal(by_weight, attribute(model, x, y, target="true_class"))


def test_of_several_labels_one_is_drawn_by_its_weight():
    logits = torch.randn(4000, 5, dtype=torch.float64)
    labels = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5]).expand(4000, 5)
    draws = Draws.single(0, 0, 4000, "cpu")
    how = Attribution(target="true_class")
    counts = torch.bincount(attributed_classes(logits, labels, how, draws), minlength=5)
    assert counts[[0, 2]].sum() == 0
    torch.testing.assert_close(counts / 4000, labels[0] / 2.5, rtol=0, atol=0.03)
    none = attributed_classes(logits, torch.zeros(4000, 5), how, draws)
    assert torch.equal(none, logits.argmax(1))


def test_cross_entropy_is_that_of_torch_for_classes_and_soft_labels():
    logits = torch.randn(3, 5, 4, dtype=torch.float64)
    classes, soft = torch.randint(4, (3, 5)), torch.rand(3, 5, 4, dtype=torch.float64).softmax(-1)
    for labels in (classes, soft):
        expected = torch.stack(
            [torch_cross_entropy(a, b) for a, b in zip(logits, labels, strict=True)]
        )
        torch.testing.assert_close(cross_entropy(logits, labels), expected)
    hard = nn.functional.one_hot(classes, 4).double()
    torch.testing.assert_close(cross_entropy(logits, hard), cross_entropy(logits, classes))


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_inputs_that_are_not_finite_are_refused(bad):
    model, x, y = probe("smooth_mlp")
    x[2, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        attribute(model, x, y)


@pytest.mark.parametrize("shape", [(0, 20), (5, 0), (5,)])
def test_empty_inputs_are_refused(shape):
    model, _, y = probe("smooth_mlp")
    with pytest.raises(ValueError, match=r"x of shape .*not empty"):
        attribute(model, torch.zeros(shape, dtype=torch.float64), y[: shape[0]])


def test_labels_must_be_as_many_as_samples():
    model, x, y = probe("smooth_mlp")
    with pytest.raises(ValueError, match=r"y of shape \(3,\); needed: one label a sample, 5 here"):
        attribute(model, x, y[:3])


def test_whole_number_inputs_are_refused(unchecked_shapes):
    model, x, y = probe("smooth_mlp")
    with pytest.raises(ValueError, match="needed: floating point"):
        attribute(model, x.long(), y)


@pytest.mark.parametrize(
    ("field", "allowed"),
    [
        ("method", "gradient, gradient_x_input, smoothgrad, integrated_gradients"),
        ("target", "loss, class_score, true_class, predicted_class"),
        ("mode", "eval, train"),
        ("target_per", "sample, batch"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(field, allowed):
    model, x, y = probe("smooth_mlp")
    with pytest.raises(ValueError, match=f"unknown {field} 'zzz'; known: {allowed}"):
        attribute(model, x, y, **{field: "zzz"})


@pytest.mark.parametrize(
    ("field", "bad"),
    [*itertools.product(("top_k", "samples"), (0, -1, 1.5, True)), ("noise", 0), ("noise", -1.0)],
)
def test_numbers_out_of_range_are_refused_by_name(field, bad):
    model, x, y = probe("smooth_mlp")
    with pytest.raises(ValueError, match=rf"{field} is {bad!r}; allowed: "):
        attribute(model, x, y, **{field: bad})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_noise_must_be_finite(bad):
    with pytest.raises(ValueError, match=rf"noise is {bad!r}; allowed: "):
        Attribution(noise=bad)


@pytest.mark.parametrize("method", METHODS)
def test_more_top_classes_than_there_are_is_refused(method):
    model, x, y = probe("smooth_mlp")
    with pytest.raises(ValueError, match="top_k is 5, but the model has 4 classes"):
        attribute(model, x, y, method, top_k=5)
