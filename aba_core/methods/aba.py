"""ABA: x + s · |N(0, 1)| · Σ_c 1[feature in category c] · a_c, its presets, and `ABA` for anybody's
own loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, ClassVar, Self, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from aba_core.adjustments import AdjustmentSet
from aba_core.architecture import check_module, check_tensor, mixes_samples
from aba_core.arms import OF_ANY_MODEL, WITH_NOISE, WITH_SAMPLES
from aba_core.attribution import (
    Attribution,
    Loss,
    Mode,
    Per,
    Target,
    check_inputs,
    cross_entropy,
    map_of,
)
from aba_core.checks import warn_of_units
from aba_core.identity import Use, check_fields, fields_by_name, meant
from aba_core.kernels import adjusting, on_gpu
from aba_core.methods.base import Method
from aba_core.methods.lagged import LaggedMaps
from aba_core.methods.members import MemberPer, Members, choosing, draw_changes, members_of
from aba_core.methods.placebos import Placebo, in_random_direction, selecting_map
from aba_core.randomness import Draws, check_seed
from aba_core.selection import Percentiles, Selection, SignSplit, categorize, order_of_ties
from aba_core.sites import INPUT, LastCategories, Tail

# On a GPU, `ABA` looks at values in every so manieth call: each look halts the stream of work.
LOOK_EVERY = 100


@fields_by_name
@dataclass(frozen=True)
class Augmentation(Method):
    """One kind of attribution-based augmentation.

    adjustments: the set each sample draws from. strength: s, in standardised input units.
    randomize: multiply by |N(0, 1)|, one draw a sample; otherwise by 1.
    split: how a map falls into categories. draw_per: whether adjustment and magnitude are drawn
    for each sample or once for the batch. placebo: what stands in for the model's own map, to see
    whether attribution matters (`placebos.selecting_map`). member_per: what keeps one member of the
    set (see `members.choosing`), to see where the members act on one another. signed: N(0, 1) in
    place of |N(0, 1)|, so that an adjustment stands for its opposite as well. site: "input", or a
    layer whose output is attributed and changed. lagged: the map is the loss's gradient from the
    step in which the sample was trained on last, which that step's own way back gives at almost no
    cost; in its first epoch a sample stays as it is. The other fields are those of `Attribution`.
    """

    kind: ClassVar[str] = "aba"
    purposes: ClassVar[tuple[str, ...]] = (
        *("adjustment", "magnitude", "target", "smoothing", "placebo"),
    )

    adjustments: AdjustmentSet
    strength: float = 1.0
    randomize: bool = True
    split: Selection = field(default_factory=lambda: Percentiles(0.1, 0.9))
    attribution: str | Use = "gradient"
    target: Target = "class_score"
    top_k: int | None = None
    draw_per: Per = "sample"
    target_per: Per = "sample"
    attribution_mode: Mode = "eval"
    update_statistics: bool = False
    attribution_samples: int = 16
    attribution_noise: float = 0.15
    placebo: Placebo = ""
    member_per: MemberPer = "draw"
    signed: bool = False
    lagged: bool = False

    @property
    def version(self) -> int:  # type: ignore[override]
        """2 where a map moves activations of a hidden layer: runs made before, with C kernels, let
        no gradient through to the layers before it."""
        return 1 if self.site == INPUT or self.placebo == "gaussian" else 2

    @property
    def mixes(self) -> bool:  # type: ignore[override]
        return self.placebo == "other_sample"

    def __post_init__(self) -> None:
        if isinstance(self.adjustments, str):
            object.__setattr__(self, "adjustments", AdjustmentSet.parse(self.adjustments))
        if not isinstance(self.adjustments, AdjustmentSet):
            raise ValueError(
                f"adjustments is {self.adjustments!r}; needed: an AdjustmentSet or its text"
            )
        object.__setattr__(self, "split", _split(self.split))
        object.__setattr__(self, "attribution", Use.read(self.attribution) or self.attribution)
        if not 0 <= self.strength < float("inf"):
            raise ValueError(f"strength is {self.strength!r}; allowed: finite and not below 0")
        if self.draw_per not in ("sample", "batch"):
            raise ValueError(f"unknown draw_per {self.draw_per!r}; known: sample, batch")
        if self.placebo not in get_args(Placebo):
            known = ", ".join(name for name in get_args(Placebo) if name)
            raise ValueError(f"unknown placebo {self.placebo!r}; known: {known}, or '' for none")
        if self.member_per not in get_args(MemberPer):
            known = ", ".join(get_args(MemberPer))
            raise ValueError(f"unknown member_per {self.member_per!r}; known: {known}")
        if self.draw_per == "batch" and self.member_per != "draw":
            raise ValueError(
                f"member_per is {self.member_per!r} and draw_per 'batch'; say one of them"
            )
        if self.member_per != "draw" and len(self.adjustments) == 1:
            raise ValueError(f"member_per is {self.member_per!r}, but the set has one member")
        if self.signed and not self.randomize:
            raise ValueError("signed is True, but magnitudes are fixed; needed: randomize: true")
        usual = {"target": "loss", "attribution": "gradient", "placebo": "", "site": INPUT}
        for name, needed in usual.items() if self.lagged else ():
            if getattr(self, name) != needed:
                raise ValueError(f"lagged with {name} {getattr(self, name)!r}; allowed: {needed!r}")
        self.adjustments.table(self.split.categories)  # refuses what the split cannot express
        _ = self.maps

    @property
    def irrelevant(self) -> frozenset[str]:
        """Fields that cannot matter beside the others: no part of the identity."""
        names = set()
        no_map = self.placebo in ("random", "gaussian")
        if no_map:
            names |= {"attribution", "target", "attribution_mode", "update_statistics"}
        if no_map or self.target != "class_score":
            names |= {"top_k", "target_per"}
        if self.top_k == 4:  # what None means, wherever 4 is allowed
            names |= {"top_k"}
        if self.lagged:  # a map by the training pass itself
            names |= {"attribution_mode"}
        if self.attribution_mode == "eval" or self.lagged:
            names |= {"update_statistics"}
        named = isinstance(self.attribution, str)  # another's function may use either
        if no_map or (named and self.attribution not in WITH_SAMPLES):
            names |= {"attribution_samples"}
        if no_map or (named and self.attribution not in WITH_NOISE):
            names |= {"attribution_noise"}
        return frozenset(names)

    @property
    def maps(self) -> Attribution:
        """How this augmentation's attribution maps are made."""
        return _maps(
            self.attribution,
            self.target,
            self.top_k,
            self.target_per,
            self.attribution_mode,
            self.update_statistics,
            self.attribution_samples,
            self.attribution_noise,
        )

    def passes(self) -> float:
        return (
            1.0
            if self.lagged or self.placebo in ("random", "gaussian")
            else 1.0 + self.maps.passes()
        )

    @property
    def needs_untrained(self) -> bool:
        return self.placebo == "untrained"

    @property
    def needs_last_gradient(self) -> bool:
        return self.lagged

    def columns(self) -> dict[str, Any]:
        drawn = self.target == "class_score"
        columns = super().columns()
        if not self.lagged:  # as rows were before there was such a field
            del columns["lagged"]
        return {
            **columns,
            "adjustments": self.adjustments.text,
            "top_k": (self.top_k or 4) if drawn else 0,
        }

    @classmethod
    def per_replica(cls) -> tuple[str, ...]:
        return ("adjustments", "strength")

    @classmethod
    def stack(cls, methods: Sequence[Self], device: Any, dtype: torch.dtype) -> Self:
        """One augmentation a replica. All must agree but for set and strength."""
        if len({method.structure for method in methods}) != 1:
            raise ValueError("stacked augmentations differ in more than their sets and strengths")
        stacked = Members.stacked([(m.adjustments, m.split) for m in methods], device, dtype)
        numbers = [[method.strength] for method in methods]
        strengths = torch.tensor(numbers, device=device, dtype=torch.float64)
        return methods[0].with_values(adjustments=stacked, strength=strengths)

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Changed activations and the same labels. A replica that diverged may hold NaN here: it
        stays in its own row."""
        if self.lagged:
            return self._by_last(_last(tail), h, draws), y
        stacked = draws.index.dim() > 1
        near = None if self.placebo else tail.near
        if near is not None:
            near.begin(h)
        changes = None if stacked else self.changes(draws, h)[0]
        maps = self._map(tail, h, y, draws, changes)
        if adjusting.applies(h, self.split, maps):
            at = (h, maps) if stacked else (h[None], maps[None])
            changed = adjusting.moved(*at, self.split, self._drawn(draws, h)).reshape(h.shape)
        else:
            changed = self._by_tensors(h, maps, draws)
        if near is not None and near.kept:
            changes, magnitude = self.changes(draws, h)
            most = changes[..., self.split.commonest(h[0, 0].numel())]
            near.lead(changed, self.strength * magnitude * most)
        if self.placebo == "gaussian":
            changed = in_random_direction(h, changed, draws)
        return changed, y

    def _by_tensors(self, h: Tensor, maps: Tensor, draws: Draws) -> Tensor:
        """What `adjusting.moved` does in C."""
        lead = draws.index.dim()
        changes, magnitude = self.changes(draws, h)
        return _adjusted(
            h.flatten(0, lead - 1),
            maps.flatten(0, lead - 1),
            changes.flatten(0, lead - 1),
            (self.strength * magnitude).flatten(),
            self.split,
        ).reshape(h.shape)

    def _by_last(self, last: LastCategories, h: Tensor, draws: Draws) -> Tensor:
        """Moved by the categories that were kept."""
        kept = last.by(self.split, h)
        last.in_c = adjusting.applies(h, self.split)
        if last.in_c:
            drawn, own = self._drawn(draws, h), h is last.own
            return adjusting.moved_by_categories(h, kept, last.rows, self.split, drawn, own)
        changes, magnitude = self.changes(draws, h)
        kinds = kept.index_select(0, last.rows.flatten())
        masks = torch.stack([kinds == kind + 1 for kind in range(self.split.categories)])
        factor = (self.strength * magnitude).flatten()
        return adjust(h.flatten(0, 1), masks, changes.flatten(0, 1), 1.0, factor).reshape(h.shape)

    def keep(self, tail: Tail, gradients: Tensor) -> None:
        if not self.lagged:
            return
        last = _last(tail)
        kept = last.by(self.split, gradients)
        if last.in_c or adjusting.applies(gradients, self.split):
            adjusting.categorise(gradients, self.split, last.rows, kept)
            return
        flat = gradients.flatten(0, 1)
        one = torch.ones(len(flat), dtype=torch.float64, device=flat.device)
        kinds = torch.arange(1.0, 1 + self.split.categories, device=flat.device).double()
        zeros, changes = torch.zeros_like(flat), kinds.expand(len(flat), -1)
        made = _adjusted(zeros, flat, changes, one, self.split)
        made.masked_fill_(made > self.split.categories, 0)  # with NaN, one may be in two
        kept.index_copy_(0, last.rows.flatten(), made.to(torch.uint8))

    def _map(
        self, tail: Tail, h: Tensor, y: Tensor, draws: Draws, changes: Tensor | None
    ) -> Tensor:
        """What the categories are made of. Of one model, samples whose features all change alike
        are left out of the attribution pass, where each sample's map is its own: theirs is 0."""

        def map_of(x: Tensor, labels: Tensor, drawn: Draws) -> Tensor:
            return selecting_map(
                self.placebo,
                lambda: tail.map(x, labels, self.maps, drawn),
                lambda: tail.map(x, labels, self.maps, drawn, untrained=True),
                drawn,
                x.shape,
            )

        own = self.attribution in OF_ANY_MODEL and not (tail.samples_meet or self.placebo)
        if changes is None or not own or self.attribution_mode == "train":
            return map_of(h, y, draws)
        alike = self.split.covers  # otherwise some features may belong to no category
        mapped = (changes != (changes[:, :1] if alike else 0)).any(1).nonzero()[:, 0]
        tail.saved += self.maps.passes() * (len(h) - len(mapped))
        if len(mapped) == len(h):
            return map_of(h, y, draws)
        attribution = torch.zeros_like(h)
        if len(mapped):
            attribution[mapped] = map_of(h[mapped], y[mapped], draws.subset(mapped))
        return attribution

    def changes(
        self, draws: Draws, like: Tensor
    ) -> tuple[Float[Tensor, "*lead category"], Float[Tensor, "*lead"]]:
        """Each sample's changes per category, drawn with the set's weights, and its magnitude.
        like: decides device and number type."""
        members = self._members(like)
        return draw_changes(self, members.table, members.weights, draws)

    def _drawn(self, draws: Draws, like: Tensor) -> adjusting.Drawn:
        """As `changes`, before it is worked out what was chosen."""
        members = self._members(like)
        draws = draws.shared(self.draw_per)
        return adjusting.Drawn(
            choosing(self, members.weights, draws),
            draws.magnitude(signed=True) if self.randomize else None,
            members.edges,
            members.table,
            self.strength,
            self.signed,
        )

    def _members(self, like: Tensor) -> Members:
        members: Any = self.adjustments  # a set; of stacked replicas, tensors
        if isinstance(members, AdjustmentSet):
            members = members_of(members, self.split, like.device, like.dtype)
        return members


@lru_cache(maxsize=64, typed=True)  # each step asks, and to check the fields takes a while
def _maps(*fields: Any) -> Attribution:
    return Attribution(*fields)


def _last(tail: Tail) -> LastCategories:
    """What lagged maps made of the samples."""
    if tail.last is None:
        raise ValueError(
            "lagged is True; needed: training by `train` or `aba run`, which keep each sample's "
            "last gradient, or ABA(..., lagged=True) in a loop of your own"
        )
    return tail.last


def _split(given: Any) -> Selection:
    """A split as study files have it: "sign", "percentiles", or the quantiles."""
    if isinstance(given, Percentiles | SignSplit):
        return given
    if given == "sign":
        return SignSplit()
    if given == "percentiles":
        return Percentiles(0.1, 0.9)
    if isinstance(given, Mapping) and given.get("kind") in ("percentiles", "sign"):
        return SignSplit() if given["kind"] == "sign" else Percentiles(*given["quantiles"])
    if isinstance(given, list | tuple) and all(isinstance(q, int | float) for q in given):
        return Percentiles(*given)
    raise ValueError(f"split is {given!r}; allowed: Percentiles(...) or SignSplit()")


# Published presets (slides, sections "Attribution Based Augmentation" and "Method Creation");
# strength 1.0 is a place-holder to be tuned on validation, as in the published benchmark.
CHALLENGER = Augmentation(AdjustmentSet.parse("0x4,3,4,5,6"), randomize=False)
MENDABA = Augmentation(AdjustmentSet.parse("1,2,3,4,5,6"))
FASTABA = Augmentation(AdjustmentSet.parse("0x2,3,4,5,6,16,17"), split=SignSplit())
FASTABA_CE = replace(FASTABA, target="loss")

PRESETS: dict[str, Augmentation] = {
    "challenger": CHALLENGER,
    "mendaba": MENDABA,
    "fastaba": FASTABA,
    "fastaba-ce": FASTABA_CE,
}


def adjust(
    x: Float[Tensor, "batch *feature"],
    categories: Bool[Tensor, "category batch *feature"],
    adjustments: Float[Tensor, "batch category"],
    strength: float | Float[Tensor, "batch"],
    magnitude: Float[Tensor, "batch"],
) -> Float[Tensor, "batch *feature"]:
    """x + strength · magnitude · Σ_c [feature in category c] · adjustment_c: the formula, no more.

    adjustments: each sample's change per category, low category first. Raises ValueError where
    shapes do not fit or something is no tensor.
    """
    for name, value in (
        ("x", x),
        ("categories", categories),
        ("adjustments", adjustments),
        ("magnitude", magnitude),
    ):
        check_tensor(name, value)
    if (
        adjustments.dim() != 2
        or categories.shape != (adjustments.shape[1], *x.shape)
        or len(adjustments) != len(x)
    ):
        raise ValueError(
            f"x {tuple(x.shape)}, categories {tuple(categories.shape)} and adjustments "
            f"{tuple(adjustments.shape)} do not fit; needed: [batch, *feature], "
            "[category, batch, *feature], [batch, category]"
        )
    factors = (strength * magnitude)[:, None] * adjustments
    factors = factors.to(x.dtype).reshape(*factors.shape, *(1,) * (x.dim() - 1))
    augmented = x.clone()
    for category, selected in enumerate(categories):
        augmented.addcmul_(selected.to(x.dtype), factors[:, category])
    return augmented


def _adjusted(
    x: Float[Tensor, "batch *feature"],
    attribution: Float[Tensor, "batch *feature"],
    adjustments: Float[Tensor, "batch category"],
    factor: Float[Tensor, "batch"],
    split: Selection,
) -> Float[Tensor, "batch *feature"]:
    """`adjust` by the categories of a map, without masks where Triton does without."""
    flat = attribution.flatten(1)
    if isinstance(split, Percentiles) and on_gpu.selects(x.flatten(1), flat):
        changes = (factor[:, None] * adjustments).to(x.dtype)
        ranks = order_of_ties(flat.shape[1], flat.device)[1]
        counts = split.boundaries(flat.shape[1])
        return on_gpu.moved(x.flatten(1), flat, ranks, changes, counts).reshape(x.shape)
    masks = split.masks(flat).unflatten(2, x.shape[1:])
    return adjust(x, masks, adjustments, 1.0, factor)


class ABA:
    """Attribution-based augmentation for your own training loop.

    >>> aba = ABA("mendaba", strength=0.5, seed=0)
    >>> x = aba(model, x, y)          # then train on x as usual

    augmentation: an `Augmentation` or a preset's name (challenger, mendaba, fastaba, fastaba-ce).
    changes: fields of `Augmentation` to change, such as strength=0.5 or top_k=2.
    untrained: the model that makes the maps of placebo "untrained", freshly initialised.
    Each call is one step; draws depend on (seed, step, place in the batch), so setting `step`
    continues a stopped training exactly. Works wherever x and the model are, CPU or CUDA.

    With lagged=True a step costs little more than one pass. Each call is told which samples it has,
    and the training step on its result leaves their maps for the next time. A sample without a map
    stays as it is, also after a stopped training continues.

    >>> aba = ABA("fastaba-ce", strength=0.5, lagged=True)
    >>> x = aba(model, x, y, rows)    # rows: places in the training set; then loss.backward()
    """

    def __init__(
        self,
        augmentation: Augmentation | str,
        strength: float | None = None,
        seed: int = 0,
        loss: Loss = cross_entropy,
        untrained: nn.Module | None = None,
        **changes: Any,
    ) -> None:
        if isinstance(augmentation, str):
            name = augmentation.lower().replace("_", "-")
            if name not in PRESETS:
                raise ValueError(
                    f"unknown augmentation {augmentation!r}{meant(name, PRESETS)}; "
                    f"known: {', '.join(PRESETS)}"
                )
            augmentation = PRESETS[name]
        if not isinstance(augmentation, Augmentation):
            raise ValueError(
                f"augmentation is {augmentation!r}; needed: an Augmentation, or one of: "
                f"{', '.join(PRESETS)}"
            )
        if strength is not None:
            if not isinstance(strength, int | float):
                raise ValueError(f"strength is {strength!r}; needed: a number, as 0.5")
            changes["strength"] = strength
        check_fields(changes, ["seed", "loss", *(entry.name for entry in fields(Augmentation))])
        augmentation = replace(augmentation, **changes)
        if augmentation.site != INPUT:
            raise ValueError(
                f"site is {augmentation.site!r}; ABA changes inputs: for hidden layers take "
                "Regularizer(...).backward(model, x, y)"
            )
        if (augmentation.placebo == "untrained") != (untrained is not None):
            raise ValueError(
                f"placebo is {augmentation.placebo!r}; an untrained model goes with 'untrained' "
                "and only with it"
            )
        self.augmentation = augmentation
        self.untrained = untrained
        self.seed = check_seed(seed)
        self.loss = loss
        self.step = 0
        self._lagged = LaggedMaps() if augmentation.lagged else None
        self._calls = 0
        self._strange: Tensor | None = None  # whether values were, on a device that waits

    def __repr__(self) -> str:
        aug = self.augmentation
        preset = {replace(one, strength=aug.strength): name for name, one in PRESETS.items()}
        name = preset.get(aug)
        what = repr(name) if name else f"adjustments {aug.adjustments.text}, {aug.split}"
        return (
            f"ABA({what}, strength={aug.strength:g}, target={aug.target!r}, seed={self.seed}; "
            f"step {self.step})"
        )

    def __call__(
        self,
        model: nn.Module,
        x: Float[Tensor, "batch *feature"],
        y: Tensor,
        rows: Tensor | None = None,
    ) -> Float[Tensor, "batch *feature"]:
        """The augmented batch, detached, shaped and typed like x; the model is left as it was.

        y: true classes, or whatever the loss takes. rows: with lagged maps alone, each
        sample's place in the training set, [batch]. Raises ValueError for NaN or infinite inputs
        or attributions: on a CPU at once; on another device, which a look would halt, values are
        looked at in the first call and in every hundredth, for all calls in between.
        """
        check_module(model)
        check_tensor("x", x)
        waits = x.device.type != "cpu"
        looking = not waits or self._calls % LOOK_EVERY == 0
        check_inputs(x, y, look=looking)
        aug = self.augmentation
        if rows is not None and self._lagged is None:
            raise ValueError("rows are given without lagged maps; needed: ABA(..., lagged=True)")
        if not self._calls:
            warn_of_units(x)
        draws = Draws.single(self.seed, self.step, len(x), x.device)
        changes, magnitude = aug.changes(draws, x)
        lagged = self._lagged.of(x, rows, looking) if self._lagged else None
        self.step += 1
        self._calls += 1
        if self._lagged and lagged:
            masks = aug.split.masks(lagged.maps.flatten(1)).unflatten(2, x.shape[1:])
            moved = adjust(x.detach(), masks, changes, aug.strength, magnitude * lagged.known)
            return self._lagged.hand_out(moved)

        # A sample whose categories all change alike needs no map, unless some of its features
        # may belong to no category. In train mode every sample shapes the batch's statistics, as it
        # does where batch norm has no running ones, and a placebo may need the map of any.
        mapped = changes.ne(changes[:, :1]).any(1) if aug.split.covers else changes.ne(0).any(1)
        if aug.attribution_mode == "train" or aug.placebo or mixes_samples(model):
            mapped = torch.ones_like(mapped)
        if waits:
            categories = self._all_categories(model, x, y, draws, mapped, looking)
        else:
            categories = self._categories(model, x, y, draws, mapped)
        augmented = adjust(x.detach(), categories, changes, aug.strength, magnitude)
        return in_random_direction(x, augmented, draws) if aug.placebo == "gaussian" else augmented

    def _categories(
        self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws, mapped: Tensor
    ) -> Bool[Tensor, "category batch *feature"]:
        """Categories by the maps of those samples alone that need one."""
        split = self.augmentation.split
        categories = torch.zeros(split.categories, *x.shape, dtype=torch.bool, device=x.device)
        categories[0] = True  # stands for "every feature" where all categories change alike
        if bool(mapped.any()):
            attribution = self._map(model, x[mapped], y[mapped], draws.subset(mapped))
            categories[:, mapped] = categorize(attribution, split)
        return categories

    def _all_categories(
        self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws, mapped: Tensor, looking: bool
    ) -> Bool[Tensor, "category batch *feature"]:
        """Categories by the maps of all samples: to choose samples is to ask which, and to wait for
        the device. What is wrong with values is remembered there until it is looked at."""
        attribution = self._map(model, x, y, draws, asking=looking)
        finite = (torch.isfinite(x) & torch.isfinite(attribution)).flatten(1).all(1)
        strange = (mapped & ~finite).any()
        self._strange = strange if self._strange is None else self._strange | strange
        if looking and bool(self._strange):
            raise ValueError(
                "x or the attribution map held NaN or infinite values in this call or since the "
                f"last look, at most {LOOK_EVERY} calls ago; allowed: finite numbers"
            )
        return self.augmentation.split.masks(attribution.flatten(1)).unflatten(2, x.shape[1:])

    def _map(
        self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws, asking: bool = True
    ) -> Float[Tensor, "batch *feature"]:
        aug = self.augmentation

        def of(maker: nn.Module) -> Tensor:
            if asking:
                check_inputs(x, y, self.loss)
            return map_of(maker, x, y, aug.maps, draws, self.loss, asking)

        return selecting_map(
            aug.placebo,
            lambda: of(model),
            lambda: of(self.untrained or model),
            draws,
            x.shape,
        )
