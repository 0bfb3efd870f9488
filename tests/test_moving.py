"""Draws, categories and moving in one call of C against the tensor code: the same bits."""

import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import counter_hash

from aba_core import kernels
from aba_core.adjustments import AdjustmentSet
from aba_core.attribution import cross_entropy
from aba_core.kernels import adjusting, compiling, draws
from aba_core.methods.aba import Augmentation
from aba_core.randomness import PURPOSES, Draws, uniform
from aba_core.selection import Percentiles, SignSplit
from aba_core.sites import LastCategories, Tail

COMPILER = any(map(shutil.which, compiling.COMPILERS))
pytestmark = [
    pytest.mark.skipif(not COMPILER, reason="no C compiler"),
    pytest.mark.usefixtures("kernels_on_one_thread"),
]
SPLITS = [
    *(Percentiles(0.1, 0.9), Percentiles(0.5), Percentiles(0.2, 0.4, 0.9)),
    *(Percentiles(0.01, 0.99), SignSplit()),
]
CHOICES = [
    {},
    {"randomize": False},
    {"signed": True},
    {"draw_per": "batch"},
    *({"member_per": per} for per in ("batch", "turn", "sample", "progress")),
]
SETS = {
    2: AdjustmentSet.parse("0x2,3,4,5"),
    3: AdjustmentSet.parse("all"),
    4: AdjustmentSet(((1, 0, -1, 1), (0, 1, 1, -1), (1, 1, 0, 0))),
}
INFINITE = float("inf")


@pytest.fixture(autouse=True)
def compiled(kernels_on_one_thread):
    """A library that is not trusted would compare tensors with tensors."""
    assert kernels.in_use(), kernels.status()


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def moved(monkeypatch):
    """Every call that moves inputs in C."""
    made = []
    call = adjusting.moved
    monkeypatch.setattr(adjusting, "moved", lambda *a: (made.append(1), call(*a))[1])
    return made


def maps_of(kind, shape, dtype):
    """Attribution maps of [replica, batch, *feature]: of a few values, which tie, and worse."""
    values = random(*shape, seed=1, dtype=dtype)
    match kind:
        case "few values":
            return values.round()
        case "zeros of both signs":
            return torch.where(values.abs() < 1, torch.zeros(()).copysign(values), values)
        case "all alike":
            return torch.full_like(values, 0.5)
        case "infinite":
            return torch.where(values.abs() > 1, values * INFINITE, values)
        case "nan":
            values[torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.2] = torch.nan
            values[:1, :1] = torch.nan
        case "not contiguous":
            return random(*shape[:2], *shape[:1:-1], dtype=dtype).permute(
                0, 1, *range(len(shape) - 1, 1, -1)
            )
    return values


def batch_of(augmentation, dtype, arms, h, tail, seed=3):
    """What stacked augmentations make of a batch, by C and by tensors."""
    members = augmentation.adjustments.adjustments
    other = AdjustmentSet((members[1], members[0], members[1]), (0.3, 0.5, 0.2))
    sets = [augmentation.adjustments, other, other][:arms]
    alike = [
        replace(augmentation, strength=0.1 + arm, adjustments=members)
        for arm, members in enumerate(sets)
    ]
    method = Augmentation.stack(alike, "cpu", dtype)
    places = torch.arange(h.shape[1]).expand(h.shape[:2])
    seeds = {name: torch.arange(seed, seed + arms)[:, None] for name in PURPOSES}
    made = []
    for unfused in (False, True):
        drawn = Draws(seeds, torch.tensor([5]), places, steps=9, rows=places + 1)
        with pytest.MonkeyPatch.context() as patch:
            if unfused:
                patch.setattr(adjusting, "applies", lambda *a: False)
            made.append(method.batch(tail, h, torch.zeros(h.shape[:2]), drawn)[0])
    return made


@settings(max_examples=150, deadline=None)
@given(
    arms=st.integers(1, 3),
    samples=st.integers(0, 5),
    shape=st.sampled_from([(1,), (2,), (7,), (1, 3, 5), (40,), (2, 8, 8), (131,), (700,)]),
    split=st.sampled_from(SPLITS),
    choice=st.sampled_from(CHOICES),
    kind=st.sampled_from(
        ["numbers", "few values", "zeros of both signs", "all alike", "infinite", "nan"]
        + ["not contiguous"]
    ),
    sliced=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_inputs_are_moved_as_by_tensors(arms, samples, shape, split, choice, kind, sliced, dtype):
    h = random(samples, arms, *shape, dtype=dtype).transpose(0, 1)
    h = h if sliced else h.contiguous()
    made = maps_of(kind, (arms, samples, *shape), dtype)
    tail = Tail(cross_entropy, 2, lambda *given: made)
    augmentation = Augmentation(SETS[split.categories], split=split, target="loss", **choice)
    by_c, by_tensors = batch_of(augmentation, dtype, arms, h, tail)
    assert torch.equal(by_c, by_tensors) and by_c.dtype == dtype


@settings(max_examples=100, deadline=None)
@given(
    arms=st.integers(1, 3),
    samples=st.integers(1, 5),
    shape=st.sampled_from([(1,), (2, 5), (40,), (131,), (700,)]),
    kind=st.sampled_from(
        ["numbers", "few values", "zeros of both signs", "all alike", "infinite", "nan"]
        + ["not contiguous"]
    ),
    split=st.sampled_from(SPLITS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_lagged_categories_are_kept_and_move_inputs_as_by_tensors(
    arms, samples, shape, kind, split, dtype
):
    h, in_all = random(arms, samples, *shape, dtype=dtype), 9
    generator = torch.Generator().manual_seed(5)
    rows = torch.stack([torch.randperm(in_all, generator=generator)[:samples] for _ in range(arms)])
    rows += in_all * torch.arange(arms)[:, None]
    last, twin = LastCategories(arms * in_all, rows), LastCategories(arms * in_all, rows)
    tail = Tail(cross_entropy, 2, lambda *given: pytest.fail("a map was made"), last=last)
    augmentation = Augmentation(SETS[split.categories], split=split, target="loss", lagged=True)
    by_c, by_tensors = batch_of(augmentation, dtype, arms, h, tail)
    assert torch.equal(by_c, h) and torch.equal(by_tensors, h)  # no sample was trained on yet

    gradients = maps_of(kind, (arms, samples, *shape), dtype)
    augmentation.keep(tail, gradients)
    with kernels.unfused():
        augmentation.keep(replace(tail, last=twin), gradients)
    kept = last.by(split, h)
    assert torch.equal(kept, twin.by(split, h)) and kept.shape == (arms * in_all, *shape)
    others = torch.ones(arms * in_all, dtype=torch.bool).index_fill(0, rows.flatten(), False)
    assert not kept[others].any()
    made = batch_of(augmentation, dtype, arms, h, tail)
    assert torch.equal(*made)
    last.own = own = h.clone()  # moved where it lies
    in_place = batch_of(augmentation, dtype, arms, own, tail)[0]
    assert in_place.data_ptr() == own.data_ptr() and torch.equal(in_place, made[0])
    if kind == "nan":
        return
    # As maps that were made just now move them.
    now = replace(tail, maps=lambda *given: gradients)
    assert torch.equal(
        made[0], batch_of(replace(augmentation, lagged=False), dtype, arms, h, now)[1]
    )


@pytest.mark.parametrize("split", [Percentiles(0.1, 0.9), Percentiles(0.5)])
@pytest.mark.parametrize(
    "kind", ["sizes", "heavy tails", "subnormal", "wide", "far out", "ties", "few", "zeros"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_no_guess_parts_is_sought_bit_by_bit(kind, split, dtype):
    values = random(1, 40, 800, dtype=dtype)
    sizes = 10 ** random(1, 40, 1, seed=2, dtype=dtype)
    values = {
        "sizes": lambda: (values + 0.3) * sizes,
        "heavy tails": lambda: values / (0.1 + random(1, 40, 800, seed=3, dtype=dtype).abs()),
        "subnormal": lambda: values * torch.finfo(dtype).smallest_normal,
        "wide": lambda: values * values.abs() ** 9,
        "far out": lambda: torch.where(values > 2.5, values * 1e30, values),
        "ties": lambda: torch.where(values < -1, -1.5, values),  # on one cut of two
        "few": lambda: values.clamp(-1e-30, 1e-30),
        "zeros": lambda: values * (torch.arange(40)[:, None] % 8 == 0),
    }[kind]()
    tail = Tail(cross_entropy, 2, lambda *given: values)
    augmentation = Augmentation(SETS[split.categories], split=split, target="loss")
    assert torch.equal(*batch_of(augmentation, dtype, 1, random(1, 40, 800, dtype=dtype), tail))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_c_moves_what_it_can_and_nothing_else(dtype, moved):
    made = random(2, 4, 6, dtype=dtype)
    tail = Tail(cross_entropy, 2, lambda *given: made)
    augmentation = Augmentation("all", target="loss")

    def moves(h):
        del moved[:]
        batch_of(augmentation, h.dtype, 2, h, tail)
        return len(moved)

    h = random(2, 4, 6, seed=4, dtype=dtype)
    assert moves(h) == 1
    assert moves(h.requires_grad_()) == 0  # a hidden layer, whose layers before it need a gradient
    with torch.no_grad():
        assert moves(h) == 1
    h = h.detach()
    torch.set_num_threads(2)
    assert moves(h) == 0
    torch.set_num_threads(1)
    with kernels.unfused():
        assert moves(h) == 0


def test_layers_before_a_hidden_site_get_the_gradient_that_they_get_without_c():
    tail = Tail(cross_entropy, 2, lambda *given: random(2, 5, 9, seed=1))
    weight = random(6, 9, seed=4).requires_grad_()
    h = random(2, 5, 6) @ weight
    gradients = [
        torch.autograd.grad((moved**2).sum(), weight, retain_graph=True)[0]
        for moved in batch_of(Augmentation("all", target="loss"), h.dtype, 2, h, tail)
    ]
    assert gradients[0].abs().min() > 0 and torch.equal(*gradients)


def test_one_model_is_moved_as_a_stack_of_one(moved):
    h, made = random(4, 3, 5), random(4, 3, 5, seed=1)
    tail = Tail(cross_entropy, 2, lambda h, y, *rest: made[: len(h)], samples_meet=True)
    augmentation = Augmentation("all", target="loss", strength=0.7)
    drawn = Draws.single(3, 5, 4, "cpu")
    alone = augmentation.batch(tail, h, torch.zeros(4), drawn)[0]
    assert moved
    with kernels.unfused():
        assert torch.equal(alone, augmentation.batch(tail, h, torch.zeros(4), drawn)[0])
    stacked = augmentation.stack([augmentation], "cpu", h.dtype)
    tail = Tail(cross_entropy, 2, lambda *given: made[None])
    drawn = Draws(dict.fromkeys(PURPOSES, torch.tensor([[3]])), 5, torch.arange(4)[None])
    assert torch.equal(alone, stacked.batch(tail, h[None], torch.zeros(1, 4), drawn)[0][0])


# --- draws ---------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(-(2**63), 2**63 - 1),
    step=st.one_of(st.integers(0, 2**62), st.just(None)),
    shapes=st.sampled_from(
        [((), (4,)), ((3, 1), (3, 5)), ((3, 1), (5,)), ((2, 1, 1), (3, 4)), ((3, 4), (3, 4))]
        + [((), ()), ((1,), (0,)), ((2, 3, 1), (3, 1)), ((3, 4), (1,))]
    ),
    sliced=st.booleans(),
)
def test_uniforms_have_the_same_bits(seed, step, shapes, sliced):
    generator = torch.Generator().manual_seed(1)

    def whole(shape):
        values = torch.randint(-(2**63), 2**63 - 1, (*shape, 2), generator=generator)
        return values[..., 0] if sliced else values[..., 0].contiguous()

    stream, places = whole(shapes[0]) ^ seed, whole(shapes[1])
    steps = torch.arange(6).reshape(6, *(1,) * max(map(len, shapes))) if step is None else step
    mine = uniform(stream, "adjustment", steps, places)
    with kernels.unfused():
        expected = uniform(stream, "adjustment", steps, places)
    assert torch.equal(mine, expected) and mine.shape == expected.shape


def test_the_topmost_number_does_not_become_one():
    def unmixed(bits):
        """The number that the hash mixes to these bits: each of its steps backwards."""
        bits ^= bits >> 31 ^ bits >> 62
        bits = bits * pow(0x94D049BB133111EB, -1, 2**64) % 2**64
        bits ^= bits >> 27 ^ bits >> 54
        bits = bits * pow(0xBF58476D1CE4E5B9, -1, 2**64) % 2**64
        return (bits ^ bits >> 30 ^ bits >> 60) - 0x9E3779B97F4A7C15

    ends = [unmixed(bits) % 2**64 for bits in (2**64 - 1, 0)]
    assert [counter_hash.splitmix64(number) for number in ends] == [2**64 - 1, 0]
    places = torch.tensor([n - 2**64 if n >= 2**63 else n for n in ends])
    heads = torch.tensor([0])
    assert draws.applies(heads, places)
    assert draws.uniforms(heads, places).tolist() == [1 - 2.0**-53, 2.0**-54]
