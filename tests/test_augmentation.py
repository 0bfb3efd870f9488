"""The augmentation and its presets: equal to a slow twin, and the gradient sign method inside."""

import copy
import math
from dataclasses import replace
from typing import get_args

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import counter_hash
from oracles.probes import PROBES, probe
from oracles.slow_augmentation import slow_aba, slow_adjust
from oracles.tiny_data import make_splits
from torch import nn
from torch.nn import functional

from aba_core.adjustments import ADJUSTMENTS, AdjustmentSet
from aba_core.attribution import attribute
from aba_core.methods.aba import (
    ABA,
    CHALLENGER,
    FASTABA,
    FASTABA_CE,
    MENDABA,
    PRESETS,
    Augmentation,
    adjust,
    draw_changes,
)
from aba_core.methods.placebos import Placebo, in_random_direction, selecting_map
from aba_core.models import build_model
from aba_core.randomness import Draws
from aba_core.selection import Percentiles, SignSplit, categorize


def seeds_of(seed: int) -> dict[str, int]:
    return dict.fromkeys(counter_hash.STREAM, seed)


# --- the formula ---------------------------------------------------------------------------------


@given(
    st.integers(1, 4),
    st.sampled_from([(3,), (2, 3), (2, 1, 3)]),
    st.integers(1, 4),
    st.integers(0, 10**6),
)
def test_adjust_is_the_formula(batch, shape, categories, seed):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, *shape, dtype=torch.float64, generator=random)
    # Any masks: features in several categories or in none as well.
    masks = torch.rand(categories, batch, *shape, generator=random) < 0.5
    table = torch.randn(batch, categories, dtype=torch.float64, generator=random)
    magnitude = torch.rand(batch, dtype=torch.float64, generator=random)
    fast = adjust(x, masks, table, 0.7, magnitude)
    torch.testing.assert_close(fast, slow_adjust(x, masks, table, 0.7, magnitude))


def test_adjust_takes_a_strength_for_each_sample():
    x = torch.zeros(3, 4, dtype=torch.float64)
    masks = torch.ones(1, 3, 4, dtype=torch.bool)
    strength = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    moved = adjust(x, masks, torch.ones(3, 1, dtype=torch.float64), strength, torch.ones(3))
    assert torch.equal(moved, strength[:, None].expand(3, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_adjust_keeps_the_type_of_x(dtype):
    x = torch.randn(2, 5).to(dtype)
    masks = categorize(torch.randn(2, 5))
    table = torch.ones(2, 3)
    moved = adjust(x, masks, table, 0.5, torch.ones(2, dtype=torch.float64))
    assert moved.dtype == dtype and moved.shape == x.shape


def test_adjust_leaves_its_inputs_alone():
    x, masks = torch.randn(2, 5), categorize(torch.randn(2, 5))
    before = x.clone()
    adjust(x, masks, torch.ones(2, 3), 1.0, torch.ones(2))
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("masks", "table"),
    [((3, 2, 4), (2, 3)), ((2, 2, 5), (2, 3)), ((3, 1, 5), (2, 3)), ((3, 2, 5), (1, 3))],
)
def test_what_does_not_fit_is_refused_with_shapes(unchecked_shapes, masks, table):
    with pytest.raises(ValueError, match=r"do not fit; needed: \[batch, \*feature\]"):
        adjust(
            torch.zeros(2, 5), torch.zeros(masks, dtype=torch.bool), torch.zeros(table), 1.0,
            torch.ones(2),
        )  # fmt: skip


def test_shapes_are_checked_in_this_test_run():
    with pytest.raises(jaxtyping.TypeCheckError):
        adjust(
            torch.zeros(2, 5), torch.zeros(3, 2, 4, dtype=torch.bool), torch.zeros(2, 3), 1.0,
            torch.ones(2),
        )  # fmt: skip


# --- presets, as in the slides -------------------------------------------------------------------


def test_challenger_is_the_published_one():
    assert CHALLENGER.adjustments == AdjustmentSet.from_indices([3, 4, 5, 6, 0, 0, 0, 0])
    weights = dict(
        zip(CHALLENGER.adjustments.adjustments, CHALLENGER.adjustments.weights, strict=True)
    )
    eighth = dict.fromkeys([ADJUSTMENTS[i] for i in (3, 4, 5, 6)], 1 / 8)
    assert weights == eighth | {ADJUSTMENTS[0]: 4 / 8}
    assert CHALLENGER.split == Percentiles(0.1, 0.9)
    assert not CHALLENGER.randomize


def test_mendaba_is_the_published_one():
    assert MENDABA.adjustments == AdjustmentSet.from_indices([1, 2, 3, 4, 5, 6])
    assert MENDABA.split == Percentiles(0.1, 0.9)
    assert MENDABA.randomize


def test_fastaba_is_the_published_one():
    assert FASTABA.adjustments == AdjustmentSet.from_indices([0, 0, 3, 4, 5, 6, 16, 17])
    assert FASTABA.split == SignSplit()
    assert FASTABA.randomize


def test_fastaba_ce_is_fastaba_with_the_loss_as_target():
    assert FASTABA_CE == replace(FASTABA, target="loss") != FASTABA


def test_all_presets_draw_per_sample_from_vanilla_gradients():
    for preset in PRESETS.values():
        assert preset.attribution == "gradient"
        assert preset.draw_per == preset.target_per == "sample"
        assert preset.attribution_mode == "eval" and not preset.update_statistics
    assert all(PRESETS[n].target == "class_score" for n in ("challenger", "mendaba", "fastaba"))


@pytest.mark.parametrize("preset", [MENDABA, FASTABA], ids=["mendaba", "fastaba"])
def test_presets_but_for_challenger_are_symmetric_in_sign(preset):
    weights = dict(zip(preset.adjustments.adjustments, preset.adjustments.weights, strict=True))
    for adjustment, weight in weights.items():
        assert weights[type(adjustment)(*(-change for change in adjustment))] == weight


# --- against the slow twin -----------------------------------------------------------------------

VARIANTS = {
    **PRESETS,
    "all, thirds": Augmentation(AdjustmentSet.parse("all"), 0.7, split=Percentiles(0.3, 0.6)),
    "per batch": replace(MENDABA, draw_per="batch", target_per="batch", strength=0.4),
    "train mode": replace(FASTABA_CE, attribution_mode="train"),
    "challenger in train mode": replace(CHALLENGER, attribution_mode="train"),
    "four categories": Augmentation(
        AdjustmentSet(((-1, 0.5, 0, 2), (0, 0, 0, 0)), (3, 1)), split=Percentiles(0.2, 0.5, 0.9)
    ),
    "smoothgrad": replace(MENDABA, attribution="smoothgrad", attribution_samples=2, top_k=2),
    "integrated gradients": replace(
        CHALLENGER, attribution="integrated_gradients", attribution_samples=3, target="loss"
    ),
    "gradient x input": replace(FASTABA, attribution="gradient_x_input", target="predicted_class"),
    "permuted map": replace(MENDABA, placebo="permuted"),
    "another sample's map": replace(CHALLENGER, placebo="other_sample"),
    "random categories": replace(FASTABA, placebo="random"),
    "gaussian noise": replace(MENDABA, placebo="gaussian"),
    "neutral twice": Augmentation(AdjustmentSet.parse("0,19,26"), split=Percentiles(0.1, 0.9)),
}


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_aba_equals_augmenting_sample_by_sample(variant, name):
    model, x, y = probe(name, batch=9)
    aug = VARIANTS[variant]
    aba = ABA(aug, seed=5)
    for step in range(3):
        fast = aba(model, x, y)
        slow = slow_aba(model, x, y, aug, seeds_of(5), step)
        torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("variant", VARIANTS)
def test_aba_equals_mapping_every_sample(variant):
    """A sample that needs no map is skipped: the result must not show it."""
    model, x, y = probe("picture", batch=12)
    aug = VARIANTS[variant]
    aba, rows = ABA(aug, seed=2), aug.adjustments.table(aug.split.categories)
    table = torch.tensor(rows, dtype=x.dtype)
    weights = torch.tensor(aug.adjustments.weights, dtype=torch.float64)
    for step in range(4):
        draws = Draws.single(2, step, len(x), "cpu")
        changes, magnitude = draw_changes(aug, table, weights, draws)
        maps = selecting_map(
            aug.placebo,
            lambda draws=draws: attribute(model, x, y, **vars(aug.maps), draws=draws),
            lambda: pytest.fail("no variant wants it"),
            draws,
            x.shape,
        )
        every = adjust(x, categorize(maps, aug.split), changes, aug.strength, magnitude)
        if aug.placebo == "gaussian":
            every = in_random_direction(x, every, draws)
        torch.testing.assert_close(aba(model, x, y), every, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_aba_without_asking_the_device_gives_the_same(variant):
    """On a GPU every sample has its map, and no value is looked at."""
    model, x, y = probe("picture", batch=12)
    asking, without = ABA(VARIANTS[variant], seed=2), ABA(VARIANTS[variant], seed=2)
    without._categories = lambda *given: without._all_categories(*given, looking=False)
    for _ in range(3):
        expected = asking(model, x, y)
        torch.testing.assert_close(without(model, x, y), expected, rtol=1e-12, atol=1e-12)


def test_values_that_are_not_finite_are_told_at_the_next_look():
    model, x, y = probe("picture", batch=12)
    aba = ABA("mendaba", seed=2)
    draws = Draws.single(2, 0, len(x), "cpu")
    mapped = torch.ones(len(x), dtype=torch.bool)
    aba._all_categories(model, x, y, draws, mapped, looking=True)
    strange = x.clone()
    strange[3, 0, 0, 0] = float("inf")
    aba._all_categories(model, strange, y, draws, mapped, looking=False)
    with pytest.raises(ValueError, match="NaN or infinite values in this call or since the last"):
        aba._all_categories(model, x, y, draws, mapped, looking=True)


def test_every_placebo_moves_a_sample_as_far_as_its_own_map_would():
    model, x, y = probe("picture", batch=12)
    untrained, _, _ = probe("picture", batch=12, seed=1)
    own = ABA(MENDABA, seed=3)(model, x, y) - x
    for placebo in get_args(Placebo)[1:]:
        aba = ABA(
            replace(MENDABA, placebo=placebo),
            seed=3,
            untrained=untrained if placebo == "untrained" else None,
        )
        moved = aba(model, x, y) - x
        torch.testing.assert_close(moved.flatten(1).norm(dim=1), own.flatten(1).norm(dim=1))
        assert not torch.allclose(moved, own), placebo


def test_the_untrained_placebo_selects_by_the_untrained_model():
    model, x, y = probe("picture", batch=6)
    untrained, _, _ = probe("picture", batch=6, seed=1)
    placebo = ABA(replace(MENDABA, placebo="untrained"), seed=4, untrained=untrained)
    torch.testing.assert_close(placebo(model, x, y), ABA(MENDABA, seed=4)(untrained, x, y))


@pytest.mark.parametrize(("placebo", "given"), [("untrained", False), ("", True), ("random", True)])
def test_an_untrained_model_goes_with_its_placebo_only(placebo, given):
    model, _, _ = probe("picture")
    with pytest.raises(ValueError, match="goes with 'untrained'"):
        ABA(replace(MENDABA, placebo=placebo), untrained=model if given else None)


def test_another_samples_map_needs_another_sample():
    model, x, y = probe("picture", batch=1)
    with pytest.raises(ValueError, match="two samples or more, got 1"):
        ABA(replace(MENDABA, placebo="other_sample"))(model, x, y)


def test_challenger_maps_only_the_samples_it_changes():
    seen = []

    class Counting(nn.Linear):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    x, y = torch.randn(400, 6), torch.zeros(400, dtype=torch.int64)
    moved = ABA("challenger")(Counting(6, 5), x, y)
    changed = int((moved != x).any(1).sum())
    assert sum(seen) == changed and 160 < changed < 240


def test_a_batch_that_changes_nowhere_never_meets_the_model():
    class Untouchable(nn.Module):
        def forward(self, x):
            raise AssertionError("no map was needed")

    x, y = torch.randn(5, 6), torch.zeros(5, dtype=torch.int64)
    aba = ABA(Augmentation(AdjustmentSet.parse("0")))
    assert torch.equal(aba(Untouchable(), x, y), x)
    shifted = ABA(Augmentation(AdjustmentSet.parse("19"), 0.5, randomize=False))
    assert torch.equal(shifted(Untouchable(), x, y), x + 0.5)


# --- the fast gradient sign method ---------------------------------------------------------------


@pytest.mark.parametrize("members", [AdjustmentSet(((-1, 1),)), AdjustmentSet.parse("17")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PROBES)
def test_the_fast_gradient_sign_method_is_a_special_case(name, dtype, members):
    model, x, y = probe(name)
    model, x = model.to(dtype).eval(), x.to(dtype)
    x[0] = 0  # with dead features as well
    inputs = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        functional.cross_entropy(model(inputs), y, reduction="sum"), inputs
    )
    aba = ABA(Augmentation(members, 0.3, randomize=False, split=SignSplit(), target="loss"))
    assert torch.equal(aba(model, x, y), x + 0.3 * gradient.sign())


@pytest.mark.parametrize("changes", [(-1, 1), (1, 1)])
def test_features_without_attribution_stay_as_they_are(changes):
    """Also where both categories change alike, so that no map seems to be needed."""
    model = nn.Linear(6, 4)
    with torch.no_grad():
        model.weight[:, 2:4] = 0
    x, y = torch.randn(5, 6), torch.arange(5) % 4
    aba = ABA(Augmentation(AdjustmentSet((changes,)), split=SignSplit(), target="loss"))
    unchanged = aba(model, x, y) == x
    assert unchanged[:, 2:4].all() and not unchanged[:, [0, 1, 4, 5]].any()


# --- draws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_setting_the_step_continues_a_stopped_training_exactly(preset):
    model, x, y = probe("picture")
    whole = ABA(preset, seed=3)
    uninterrupted = [whole(model, x, y) for _ in range(5)]
    resumed = ABA(preset, seed=3)
    resumed.step = 3
    assert torch.equal(resumed(model, x, y), uninterrupted[3])
    assert torch.equal(resumed(model, x, y), uninterrupted[4])
    assert resumed.step == whole.step == 5


def test_seeds_and_steps_draw_differently():
    model, x, y = probe("picture", batch=16)
    first, other = ABA("mendaba", seed=0), ABA("mendaba", seed=1)
    results = [first(model, x, y), first(model, x, y), other(model, x, y)]
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_a_draw_at_the_edge_of_a_share_falls_as_in_the_replica_engine():
    """Weights as near to a draw as float64 tells apart, and float32 does not."""
    draw = counter_hash.uniform(0, "adjustment", 0, 0)
    x, y, model = torch.zeros(1, 4, dtype=torch.float64), torch.zeros(1).long(), nn.Identity()
    for weight in (draw * (1 - 1e-12), draw * (1 + 1e-12)):
        members = AdjustmentSet.from_indices([0, 19], weights=[weight, 1 - weight])
        aug = Augmentation(members, randomize=False)
        expected = x if draw < weight else x + 1
        assert torch.equal(ABA(aug)(model.double(), x, y), expected)


def test_draws_per_batch_change_all_samples_alike():
    x, y = torch.zeros(6, 5), torch.zeros(6, dtype=torch.int64)
    members = AdjustmentSet.parse("0,19,26")
    per_batch = ABA(Augmentation(members, draw_per="batch"))
    per_sample = ABA(Augmentation(members))
    alike = [per_batch(nn.Identity(), x, y).unique().numel() for _ in range(8)]
    assert set(alike) == {1}
    assert max(per_sample(nn.Identity(), x, y).unique().numel() for _ in range(8)) > 1


def test_magnitudes_are_half_normal_and_one_per_sample():
    x, y = torch.zeros(4000, 3, dtype=torch.float64), torch.zeros(4000, dtype=torch.int64)
    aba = ABA(Augmentation(AdjustmentSet.parse("19"), 2.0))
    moved = aba(nn.Identity(), x, y)
    assert torch.equal(moved[:, 0], moved[:, 1]) and bool((moved > 0).all())
    assert float(moved[:, 0].mean()) == pytest.approx(2 * math.sqrt(2 / math.pi), rel=0.05)
    assert float((moved[:, 0] ** 2).mean()) == pytest.approx(4, rel=0.1)


# --- what is kept --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("preset", PRESETS)
def test_strength_0_is_the_identity(preset, name):
    model, x, y = probe(name)
    assert torch.equal(ABA(preset, strength=0)(model, x, y), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("preset", PRESETS)
def test_shape_and_type_are_kept_and_nothing_is_tracked(preset, dtype):
    model, x, y = probe("picture")
    model, x = model.to(dtype), x.to(dtype).requires_grad_()
    before = x.detach().clone()
    moved = ABA(preset)(model, x, y)
    assert moved.dtype == dtype and moved.shape == x.shape and not moved.requires_grad
    assert torch.equal(x, before) and x.grad is None


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_model_is_left_as_it_was(mode):
    model, x, y = probe("picture")
    model[1].eval()
    before = copy.deepcopy(model)
    ABA(replace(MENDABA, attribution_mode=mode))(model, x, y)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before.state_dict()[name]), name
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_loss_of_the_users_own_with_soft_labels():
    model, x, _ = probe("picture")
    soft = torch.rand(len(x), 4, dtype=torch.float64)

    def squared_error(logits, targets):
        return ((logits - targets) ** 2).sum(-1)

    fast = ABA("fastaba-ce", seed=1, loss=squared_error)(model, x, soft)
    slow = slow_aba(model, x, soft, FASTABA_CE, seeds_of(1), 0, squared_error)
    torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("preset", PRESETS)
def test_aba_serves_a_training_loop_of_the_users_own(preset):
    splits = make_splits((1, 8, 8), classes=4, sizes=(48, 12, 12))
    model = build_model("small_cnn", (1, 8, 8), 4, batch_norm=True)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    aba = ABA(preset, strength=0.3, seed=0)
    x, y = splits.train.x, splits.train.y
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(aba(model, x, y)), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert model.training


# --- stacked -------------------------------------------------------------------------------------


def test_only_set_and_strength_may_differ_between_replicas():
    others = [replace(MENDABA, strength=3), Augmentation(CHALLENGER.adjustments)]
    Augmentation.stack([MENDABA, *others], "cpu", torch.float64)
    for other in (
        replace(MENDABA, target="loss"),
        replace(MENDABA, randomize=False),
        replace(MENDABA, split=Percentiles(0.2, 0.8)),
        replace(MENDABA, attribution="smoothgrad"),
    ):
        with pytest.raises(ValueError, match="differ in more than their sets and strengths"):
            Augmentation.stack([MENDABA, other], "cpu", torch.float64)


# --- refusals ------------------------------------------------------------------------------------


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'abba'; known: challenger, mendaba, fastaba, fastaba-ce"):
        ABA("abba")


@pytest.mark.parametrize("name", ["FastABA-CE", "fastaba_ce", "FASTABA_CE"])
def test_presets_are_known_in_any_spelling(name):
    assert ABA(name).augmentation == FASTABA_CE


@pytest.mark.parametrize(
    ("field", "bad", "allowed"),
    [
        ("strength", -0.1, "finite and not below 0"),
        ("strength", float("nan"), "finite and not below 0"),
        ("strength", float("inf"), "finite and not below 0"),
        ("draw_per", "epoch", "sample, batch"),
        ("split", 0.1, r"Percentiles\(...\) or SignSplit\(\)"),
        ("adjustments", [3, 4], "an AdjustmentSet or its text"),
        ("adjustments", "3,27", "0 to 26"),
        ("attribution", "shap", "gradient, gradient_x_input"),
        ("target", "accuracy", "loss, class_score"),
        ("top_k", 0, "whole numbers from 1"),
        ("attribution_mode", "test", "eval, train"),
        ("target_per", "epoch", "sample, batch"),
        ("attribution_samples", 0, "whole numbers from 1"),
        ("attribution_noise", 0, "above 0"),
        ("placebo", "sham", "permuted, other_sample, untrained, random, gaussian"),
    ],
)
def test_a_bad_field_is_refused_with_its_value_and_what_is_allowed(field, bad, allowed):
    shown = "27" if bad == "3,27" else str(bad)
    with pytest.raises(ValueError, match=allowed) as refused:
        replace(MENDABA, **{field: bad})
    assert shown in str(refused.value)


def test_the_sign_split_refuses_a_change_of_the_middle():
    with pytest.raises(ValueError, match=r"adjustment 1 .*only low and high"):
        replace(MENDABA, split=SignSplit())


def test_a_text_is_as_good_as_a_set():
    assert Augmentation("3,4") == Augmentation(AdjustmentSet.parse("3,4"))


def test_augmentations_are_values():
    assert len({MENDABA, replace(MENDABA, strength=1.0), replace(MENDABA, strength=2.0)}) == 2
    assert MENDABA.structure == replace(MENDABA, adjustments=AdjustmentSet.parse("0")).structure


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("preset", PRESETS)
def test_inputs_that_are_not_finite_are_refused(preset, bad):
    model, x, y = probe("picture")
    x[1, 0, 0, 0] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        ABA(preset)(model, x, y)


def test_a_model_that_diverged_is_refused_as_such():
    model, x, y = probe("smooth_mlp")
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="the attribution map of 5 of 5 samples"):
        ABA("mendaba")(model, x, y)


def test_the_wrong_number_of_labels_is_refused():
    model, x, y = probe("smooth_mlp")
    with pytest.raises(ValueError, match="one label a sample, 5 here"):
        ABA("mendaba")(model, x, y[:2])


def test_a_bad_seed_is_refused():
    with pytest.raises(ValueError, match="seed -1; allowed"):
        ABA("mendaba", seed=-1)
