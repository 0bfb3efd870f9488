"""Augmentation: x + s · |N(0, 1)| · Σ_c 1[feature in category c] · a_c, and its presets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from aba_core.adjustments import AdjustmentSet
from aba_core.architecture import mixes_samples
from aba_core.attribution import (
    Attribution,
    Loss,
    Method,
    Mode,
    Per,
    Target,
    attribute,
    attribution_map,
    check_inputs,
    cross_entropy,
)
from aba_core.randomness import Draws, check_seed, choice
from aba_core.replicas import Replicas
from aba_core.selection import Percentiles, SignSplit, Split, categorize

Placebo = Literal["", "permuted", "other_sample", "untrained", "random", "gaussian"]


@dataclass(frozen=True)
class Augmentation:
    """One kind of attribution-based augmentation.

    adjustments: the set each sample draws from. strength: s, in standardised input units.
    randomize: multiply by |N(0, 1)|, one draw a sample; otherwise by 1.
    split: how a map falls into categories. draw_per: whether adjustment and magnitude are drawn
    for each sample or once for the batch. placebo: what stands in for the model's own map, to see
    whether attribution matters (`selecting_map`). The other fields are those of `Attribution`.
    """

    adjustments: AdjustmentSet
    strength: float = 1.0
    randomize: bool = True
    split: Split = field(default_factory=lambda: Percentiles(0.1, 0.9))
    attribution: Method = "gradient"
    target: Target = "class_score"
    top_k: int = 4
    draw_per: Per = "sample"
    target_per: Per = "sample"
    attribution_mode: Mode = "eval"
    update_statistics: bool = False
    attribution_samples: int = 16
    attribution_noise: float = 0.15
    # Not in the repr: runs are known by it, and those without a placebo keep their names.
    placebo: Placebo = field(default="", repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.adjustments, str):
            object.__setattr__(self, "adjustments", AdjustmentSet.parse(self.adjustments))
        if not isinstance(self.adjustments, AdjustmentSet):
            raise ValueError(
                f"adjustments is {self.adjustments!r}; needed: an AdjustmentSet or its text"
            )
        if not isinstance(self.split, Percentiles | SignSplit):
            raise ValueError(f"split is {self.split!r}; allowed: Percentiles(...) or SignSplit()")
        if not 0 <= self.strength < float("inf"):
            raise ValueError(f"strength is {self.strength!r}; allowed: finite and not below 0")
        if self.draw_per not in ("sample", "batch"):
            raise ValueError(f"unknown draw_per {self.draw_per!r}; known: sample, batch")
        if self.placebo not in get_args(Placebo):
            known = ", ".join(name for name in get_args(Placebo) if name)
            raise ValueError(f"unknown placebo {self.placebo!r}; known: {known}, or '' for none")
        self.adjustments.table(self.split.categories)  # refuses what the split cannot express
        _ = self.maps

    @property
    def structure(self) -> Augmentation:
        """All but set and strength: what replicas trained side by side must share."""
        return replace(
            self, adjustments=AdjustmentSet(((0.0,) * self.split.categories,)), strength=0
        )

    @property
    def maps(self) -> Attribution:
        """How this augmentation's attribution maps are made."""
        return Attribution(
            self.attribution,
            self.target,
            self.top_k,
            self.target_per,
            self.attribution_mode,
            self.update_statistics,
            self.attribution_samples,
            self.attribution_noise,
        )


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

    adjustments: each sample's change per category, low category first.
    """
    if categories.shape != (adjustments.shape[1], *x.shape) or len(adjustments) != len(x):
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


def draw_changes(
    augmentation: Augmentation,
    table: Float[Tensor, "*replica member category"],
    weights: Float[Tensor, "*replica member"],
    draws: Draws,
) -> tuple[Float[Tensor, "*lead category"], Float[Tensor, "*lead"]]:
    """Each sample's changes per category, drawn with the set's weights, and its magnitude."""
    drawn = draws.shared(augmentation.draw_per)
    member = choice(weights.double()[..., None, :], drawn.uniform("adjustment"))
    changes = table.gather(-2, member[..., None].expand(*member.shape, table.shape[-1]))
    if augmentation.randomize:
        return changes, drawn.magnitude()
    return changes, torch.ones(member.shape, dtype=torch.float64, device=member.device)


def selecting_map(
    placebo: Placebo,
    own: Callable[[], Float[Tensor, "*lead_and_feature"]],
    untrained: Callable[[], Float[Tensor, "*lead_and_feature"]],
    draws: Draws,
    shape: torch.Size,
) -> Float[Tensor, "*lead_and_feature"]:
    """The map by which features are selected: the model's own, or a placebo of the same size.

    permuted: the own map, its features shuffled within each sample. other_sample: the map of the
    sample before in the batch, which is another one at each step. untrained: the map of the model
    as it was initialised. random and gaussian: noise, hence random categories of equal area.
    shape: [*lead, *feature]; draws: where the noise comes from.
    """
    lead = draws.index.dim()
    noise = (
        draws.noise("placebo", 0, shape[lead:].numel())
        if placebo in ("random", "gaussian", "permuted")
        else None
    )
    if noise is not None and placebo != "permuted":
        return noise.reshape(shape)
    attribution = untrained() if placebo == "untrained" else own()
    if noise is not None:
        return attribution.flatten(lead).gather(-1, noise.argsort(-1)).reshape(shape)
    if placebo == "other_sample":
        if shape[lead - 1] < 2:
            raise ValueError("placebo 'other_sample' needs batches of two samples or more, got 1")
        return attribution.roll(1, lead - 1)
    return attribution


def in_random_direction(
    x: Float[Tensor, "*lead_and_feature"],
    augmented: Float[Tensor, "*lead_and_feature"],
    draws: Draws,
) -> Float[Tensor, "*lead_and_feature"]:
    """Each sample moved as far (Euclidean norm) as it was, but along Gaussian noise."""
    lead = draws.index.dim()
    noise = draws.noise("placebo", 1, x.shape[lead:].numel()).to(x.dtype)
    distance = (augmented - x).flatten(lead).norm(dim=-1, keepdim=True)
    return x + (noise * (distance / noise.norm(dim=-1, keepdim=True))).reshape(x.shape)


class ABA:
    """Attribution-based augmentation for anybody's own training loop.

    >>> aba = ABA("mendaba", strength=0.5, seed=0)
    >>> x = aba(model, x, y)          # then train on x as usual

    augmentation: an `Augmentation` or a preset's name (challenger, mendaba, fastaba, fastaba-ce).
    untrained: the model that makes the maps of placebo "untrained", freshly initialised.
    Each call is one step; draws depend on (seed, step, place in the batch), so setting `step`
    continues a stopped training exactly. Works wherever x and the model are, CPU or CUDA.
    """

    def __init__(
        self,
        augmentation: Augmentation | str,
        strength: float | None = None,
        seed: int = 0,
        loss: Loss = cross_entropy,
        untrained: nn.Module | None = None,
    ) -> None:
        if isinstance(augmentation, str):
            name = augmentation.lower().replace("_", "-")
            if name not in PRESETS:
                raise ValueError(
                    f"unknown augmentation {augmentation!r}; known: {', '.join(PRESETS)}"
                )
            augmentation = PRESETS[name]
        if strength is not None:
            augmentation = replace(augmentation, strength=strength)
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

    def __call__(
        self, model: nn.Module, x: Float[Tensor, "batch *feature"], y: Tensor
    ) -> Float[Tensor, "batch *feature"]:
        """The augmented batch, detached, shaped and typed like x; the model is left as it was.

        y: true classes, or whatever the loss takes. Raises ValueError for NaN or infinite inputs
        or attributions.
        """
        check_inputs(x, y)
        aug = self.augmentation
        draws = Draws.single(self.seed, self.step, len(x), x.device)
        rows = aug.adjustments.table(aug.split.categories)
        table = torch.tensor(rows, device=x.device, dtype=x.dtype)
        weights = torch.tensor(aug.adjustments.weights, device=x.device, dtype=torch.float64)
        changes, magnitude = draw_changes(aug, table, weights, draws)
        self.step += 1

        # A sample whose categories all change alike needs no map, unless some of its features
        # may belong to no category. In train mode every sample shapes the batch's statistics, as it
        # does where batch norm has no running ones, and a placebo may need the map of any.
        mapped = changes.ne(changes[:, :1]).any(1) if aug.split.covers else changes.ne(0).any(1)
        if aug.attribution_mode == "train" or aug.placebo or mixes_samples(model):
            mapped = torch.ones_like(mapped)
        categories = torch.zeros(table.shape[1], *x.shape, dtype=torch.bool, device=x.device)
        categories[0] = True  # stands for "every feature" where all categories change alike
        if bool(mapped.any()):
            some = draws.subset(mapped)

            def made_by(maker: nn.Module) -> Tensor:
                return attribute(
                    maker, x[mapped], y[mapped], draws=some, loss=self.loss, **vars(aug.maps)
                )

            attribution = selecting_map(
                aug.placebo,
                lambda: made_by(model),
                lambda: made_by(self.untrained or model),
                some,
                x[mapped].shape,
            )
            categories[:, mapped] = categorize(attribution, aug.split)
        augmented = adjust(x.detach(), categories, changes, aug.strength, magnitude)
        return in_random_direction(x, augmented, draws) if aug.placebo == "gaussian" else augmented


@dataclass(frozen=True)
class StackedABA:
    """ABA for R replicas at once, each with its own set and strength: one method of `training`.

    All replicas share everything of `augmentation` but these. table: changes, padded to the
    largest set. weights: each member's probability, 0 for padding. untrained: the replicas as they
    were initialised, for the placebo of that name.
    """

    augmentation: Augmentation
    table: Float[Tensor, "replica member category"]
    weights: Float[Tensor, "replica member"]
    strength: Float[Tensor, "replica"]
    loss: Loss = cross_entropy
    untrained: Replicas | None = None

    @classmethod
    def of(
        cls,
        augmentations: Sequence[Augmentation],
        device: torch.device | str,
        dtype: torch.dtype,
        loss: Loss = cross_entropy,
        untrained: Replicas | None = None,
    ) -> StackedABA:
        """One augmentation a replica; all must agree but for set and strength."""
        shared = {augmentation.structure for augmentation in augmentations}
        if len(shared) != 1:
            raise ValueError("stacked augmentations differ in more than their sets and strengths")
        members = max(len(augmentation.adjustments) for augmentation in augmentations)
        tables, weights = [], []
        for augmentation in augmentations:
            rows = augmentation.adjustments.table(augmentation.split.categories)
            padding = members - len(rows)
            tables.append(rows + rows[-1:] * padding)
            weights.append(augmentation.adjustments.weights + (0.0,) * padding)
        return cls(
            augmentations[0],
            torch.tensor(tables, device=device, dtype=dtype),
            torch.tensor(weights, device=device, dtype=torch.float64),
            torch.tensor([a.strength for a in augmentations], device=device, dtype=torch.float64),
            loss,
            untrained,
        )

    def __call__(
        self, model: Replicas, x: Float[Tensor, "replica batch *feature"], y: Tensor, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """Augmented inputs and unchanged labels. A replica that diverged may hold NaN here: it
        stays in its own row."""
        aug = self.augmentation
        changes, magnitude = draw_changes(aug, self.table, self.weights, draws)
        maps, loss = aug.maps, self.loss

        def made_by(maker: Replicas) -> Tensor:
            with maker.undisturbed(maps.mode, maps.update_statistics) as still:
                found = [
                    attribution_map(forward, x[some], y[some], maps, draws.of(some), loss)
                    for some, _, forward in still.passes(x, differentiable=False)
                ]
            return found[0] if len(found) == 1 else torch.cat(found)

        attribution = selecting_map(
            aug.placebo,
            lambda: made_by(model),
            lambda: made_by(self.untrained or model),
            draws,
            x.shape,
        )
        masks = aug.split.masks(attribution.flatten(0, 1).flatten(1))
        augmented = adjust(
            x.flatten(0, 1),
            masks.unflatten(2, x.shape[2:]),
            changes.flatten(0, 1),
            1.0,
            (self.strength[:, None] * magnitude).flatten(),
        )
        augmented = augmented.unflatten(0, x.shape[:2])
        if aug.placebo == "gaussian":
            augmented = in_random_direction(x, augmented, draws)
        return augmented, y
