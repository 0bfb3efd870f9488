"""Quality of attribution maps: whether the features that a map is largest at are those that matter.

Importance is the size of the attribution, whatever its sign. Maps are of the predicted class's
score, so that hiding features by a map tells nothing of the true class. Hidden features are 0, the
data set's mean. All measures are in percent.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from aba_core.architecture import initial_model
from aba_core.arms import WITH_NOISE, WITH_SAMPLES, Arm, Target, TrainConfig
from aba_core.attribution import Attribution, attribute, undisturbed
from aba_core.datasets import Split, Splits
from aba_core.identity import Use
from aba_core.methods.base import Method
from aba_core.randomness import Draws, random_bits
from aba_core.selection import Percentiles, categorize
from aba_core.sites import Tail

SHARES = (0.25, 0.5)  # of the features that are kept, or hidden, where models are trained anew
STEPS = 10  # of insertion and deletion
MOST = 500  # validation samples that are looked at
CUTS = Percentiles(0.1, 0.9)  # where features change category
# Seeds of the models that a map's own is compared with, far from those of any study. PyTorch's
# generator takes 32 bits of a seed, so that a model of OTHER_SEED + seed has the initial parameters
# of seed, though its order and draws are others; one of NEW_START + seed has others as well.
OTHER_SEED = 2**40
NEW_START = OTHER_SEED + 2**31

Map = Float[Tensor, "sample *feature"]
Logits = Callable[[Tensor], Tensor]


# --- hiding features -----------------------------------------------------------------------------


def largest(maps: Map, share: float) -> Bool[Tensor, "sample *feature"]:
    """The share of each sample's features whose attribution is largest in size; ties in a fixed
    pseudo-random order."""
    return categorize(maps.abs(), Percentiles(1 - share))[-1]


def random_like(maps: Map) -> Map:
    """A map of noise that depends on a sample's place alone."""
    draws = Draws.single(0, 0, len(maps), maps.device, ("hidden",))
    return draws.noise("hidden", 0, maps[0].numel()).reshape(maps.shape).to(maps.dtype)


def kept_by(maps: Map) -> dict[str, Bool[Tensor, "sample *feature"]]:
    """What is kept where models are trained anew: the most and least important features, all but
    the most important, and all but random ones."""
    kept = {}
    for share in SHARES:
        kept[f"top {share:g}"] = largest(maps, share)
        kept[f"bottom {share:g}"] = ~largest(maps, 1 - share)
        kept[f"without {share:g}"] = ~largest(maps, share)
        kept[f"without random {share:g}"] = ~largest(random_like(maps), share)
    return kept


@dataclass(frozen=True, eq=False)
class Kept(Method):
    """Each training sample keeps the features of a mask of its own; the others are 0.

    masks: [sample, *feature] by the sample's place in the training set; stacked, [replica, ...], so
    that models of many masks train side by side.
    """

    kind: ClassVar[str] = "kept"

    masks: Any = None

    @property
    def irrelevant(self) -> frozenset[str]:
        return frozenset({"masks"})  # never stored: the runs that judge a map are its own

    def plain(self) -> dict[str, Any]:
        return {"kind": self.kind, "version": self.version}

    @property
    def structure(self) -> str:
        return self.kind

    def columns(self) -> dict[str, Any]:
        return {}

    @classmethod
    def stack(cls, methods: Sequence[Self], device: Any, dtype: torch.dtype) -> Self:
        masks = torch.stack([method.masks for method in methods])
        return methods[0].with_values(masks=masks.to(device))

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        if draws.rows is None:
            raise ValueError("'kept' knows no places in the training set; needed: `train`")
        replica = torch.arange(len(h), device=h.device)[:, None]
        return h * self.masks[replica, draws.rows], y


def retrained(
    config: TrainConfig,
    splits: Splits,
    train_masks: dict[str, Tensor],
    validation_masks: dict[str, Tensor],
    seed: int,
) -> dict[str, float]:
    """Accuracy on validation (percent) of models that see, in training and after, what masks keep.

    masks: {name: [sample, *feature]}; those of validation are of its first samples. All models are
    trained at once.
    """
    from aba_core.training import train

    arms = [Arm(name, Kept(masks)) for name, masks in train_masks.items()]
    runs = train(config, arms, [seed], splits=splits)
    accuracy = {}
    for name, masks in validation_masks.items():
        x, y = first_samples(splits.validation, len(masks))
        with torch.no_grad():
            guessed = runs.model(name, seed)(x * masks).argmax(1)
        accuracy[name] = 100 * float((guessed == y).double().mean())
    return accuracy


def removal(accuracy: dict[str, float]) -> dict[str, float]:
    """DiffROAR, accuracy with the most important features alone less that with the least important
    ones (Shah et al. 2021), and ROAR, accuracy without random features less that without the most
    important ones (Hooker et al. 2019): the means over `SHARES`, in points. accuracy: from
    `retrained`. High is good."""

    def mean(more: str, less: str) -> float:
        gaps = [accuracy[f"{more} {share:g}"] - accuracy[f"{less} {share:g}"] for share in SHARES]
        return sum(gaps) / len(gaps)

    return {"diffroar": mean("top", "bottom"), "roar": mean("without random", "without")}


def curves(logits: Logits, x: Tensor, maps: Map) -> dict[str, float]:
    """Insertion and deletion: the mean probability of the predicted class while its most important
    features come, or go, in `STEPS` equal parts (Petsiuk et al. 2018). High insertion and low
    deletion are good."""
    with torch.no_grad():
        classes = logits(x).argmax(1, keepdim=True)
        inserted: list[float] = []
        deleted: list[float] = []
        for step in range(STEPS + 1):
            top = largest(maps, step / STEPS) if 0 < step < STEPS else torch.full_like(x, step > 0)
            for shown, kept in ((inserted, top.bool()), (deleted, ~top.bool())):
                probability = logits(x * kept).softmax(1).gather(1, classes)
                shown.append(100 * float(probability.double().mean()))
    return {"insertion": _area(inserted), "deletion": _area(deleted)}


def _area(values: Sequence[float]) -> float:
    """Under equally spaced values, by the trapezoid rule."""
    return (sum(values) - (values[0] + values[-1]) / 2) / (len(values) - 1)


# --- a known signal ------------------------------------------------------------------------------


def blocks(splits: Splits) -> tuple[Splits, dict[str, Bool[Tensor, "sample height"]]]:
    """Pictures above or below a block without any signal, the mean picture of the training set, and
    which rows of each hold the picture, by split. Source: BlockMNIST, Shah et al. 2021.

    Raises ValueError where inputs are no pictures.
    """
    if len(splits.input_shape) != 3:
        raise ValueError(
            f"inputs of shape {splits.input_shape}; needed: pictures, [channel, height, width]"
        )
    blank = splits.train.x.mean(0)
    height = splits.input_shape[1]
    made, signal = {}, {}
    for number, name in enumerate(("train", "validation", "test")):
        split = getattr(splits, name)
        place = torch.arange(len(split), device=split.y.device)
        above = random_bits(torch.tensor(number), "block", 0, place) % 2 == 0
        x = torch.cat([split.x, blank.expand_as(split.x)], 2)
        x[~above] = x[~above].roll(height, 2)
        made[name] = Split(x, split.y)
        rows = torch.arange(2 * height, device=split.y.device) < height
        signal[name] = rows == above[:, None]
    channels, _, width = splits.input_shape
    shape = (channels, 2 * height, width)
    fingerprint = f"blocks of {splits.fingerprint}"
    return replace(splits, **made, input_shape=shape, fingerprint=fingerprint), signal  # type: ignore[arg-type]


def pointing(maps: Map, signal: Bool[Tensor, "sample height"]) -> dict[str, float]:
    """How often the largest attribution lies in the signal block (the pointing game, Zhang et al.
    2018), and its share of all attribution, in percent: 50 by chance."""
    size = maps.abs().sum(1)  # over channels
    inside = signal[:, :, None].expand_as(size).flatten(1)
    size = size.flatten(1)
    hit = inside.gather(1, size.argmax(1, keepdim=True)).double()
    total = size.sum(1)
    share = torch.where(total > 0, (size * inside).sum(1) / total, 0.5)
    return {"pointing": 100 * float(hit.mean()), "mass": 100 * float(share.double().mean())}


# --- agreement -----------------------------------------------------------------------------------


def ranks(values: Float[Tensor, "sample feature"]) -> Float[Tensor, "sample feature"]:
    """Ranks within each sample, the mean of those that tie."""
    ordered, order = values.sort(1)
    place = torch.arange(values.shape[1], dtype=torch.float64).expand_as(ordered)
    start = torch.ones_like(ordered, dtype=torch.bool)
    start[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    tie = start.long().cumsum(1) - 1
    total = torch.zeros_like(place).scatter_add_(1, tie, place)
    count = torch.zeros_like(place).scatter_add_(1, tie, torch.ones_like(place))
    mean = (total / count.clamp(min=1)).gather(1, tie)
    return torch.zeros_like(place).scatter_(1, order, mean)


def correlation(one: Map, other: Map) -> float:
    """Spearman's rank correlation of two maps, the mean over samples, times 100. A map that is the
    same everywhere agrees with no other."""
    a, b = (ranks(maps.flatten(1)) for maps in (one, other))
    a, b = (values - values.mean(1, keepdim=True) for values in (a, b))
    norm = (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-300)
    return 100 * float(((a * b).sum(1) / norm).mean())


def changed(one: Map, other: Map, split: Percentiles = CUTS) -> float:
    """The share of features that are in another category by the other map, in percent."""
    a, b = (categorize(maps, split).int().argmax(0) for maps in (one, other))
    return 100 * float((a != b).double().mean())


# --- all of a map --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged(Method):
    """Training as usual, after which the quality of an attribution map of the model is measured, as
    further columns map_... of the run; see `judge`. strength: of the ABA whose model is compared
    with it. new_start: whether the models that it is compared with have initial parameters of their
    own, and not those of the run. The other fields are those of `Attribution`."""

    kind: ClassVar[str] = "judged"

    attribution: str | Use = "gradient"
    target: Target = "predicted_class"
    attribution_samples: int = 8
    attribution_noise: float = 0.15
    strength: float = 0.5
    new_start: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "attribution", Use.read(self.attribution) or self.attribution)
        self.check(strength=(0.0, 1e3))
        self.maps_with()

    @property
    def irrelevant(self) -> frozenset[str]:
        if not isinstance(self.attribution, str):
            return frozenset()
        names = {"attribution_samples"} if self.attribution not in WITH_SAMPLES else set()
        return frozenset(names | ({"attribution_noise"} - {self.attribution in WITH_NOISE}))

    def maps_with(self, **changes: Any) -> Callable[[nn.Module, Tensor, Tensor], Map]:
        """The map of a model, at inputs and labels. Raises ValueError for an unknown one."""
        given = {"samples": self.attribution_samples, "noise": self.attribution_noise, **changes}
        chosen = Attribution(self.attribution, self.target, **given)
        return lambda model, x, y: attribute(model, x, y, **vars(chosen))

    def measured(
        self, model: nn.Module, config: TrainConfig, splits: Splits, seed: int
    ) -> dict[str, float]:
        quality = judge(self, model, config, splits, seed)
        return {f"map_{name}": value for name, value in quality.items()}


def judge(
    method: Judged, model: nn.Module, config: TrainConfig, splits: Splits, seed: int
) -> dict[str, float]:
    """What there is to say of a model's maps, by name; NaN where a measure has no sense.

    diffroar, roar: `removal`. insertion, deletion: `curves`. pointing, mass: `pointing`, of another
    model trained on `blocks`. Correlation (`correlation`) and changed categories (`changed`) with
    the maps of a model of another seed (seeds, changed, and changed_20 with percentiles 20 and 80),
    of one trained with ABA (strength, changed_strength), with four times the samples (samples,
    changed_samples), with twice the noise (noise, changed_noise), and of a model that was never
    trained (randomised; Adebayo et al. 2018).
    """
    of = method.maps_with()
    model, config = model.eval(), replace(config, mechanism=0, curve_every=0, metrics=())
    x, y = first_samples(splits.validation, MOST)
    maps = of(model, x, y)
    train_maps = of(model, splits.train.x, splits.train.y)
    accuracy = retrained(config, splits, kept_by(train_maps), kept_by(maps), seed)
    found: dict[str, float] = {**removal(accuracy), **curves(_logits(model), x, maps)}

    others = _others(config, splits, seed, method.strength, method.new_start)
    again, aba = of(others["seed"], x, y), of(others["aba"], x, y)
    found |= {"seeds": correlation(maps, again), "changed": changed(maps, again)}
    found["changed_20"] = changed(maps, again, Percentiles(0.2, 0.8))
    found |= {"strength": correlation(maps, aba), "changed_strength": changed(maps, aba)}
    found["randomised"] = correlation(maps, of(others["untrained"], x, y))
    for name, kinds, more in (
        ("samples", WITH_SAMPLES, {"samples": 4 * method.attribution_samples}),
        ("noise", WITH_NOISE, {"noise": 2 * method.attribution_noise}),
    ):
        if str(method.attribution) in kinds:
            finer = method.maps_with(**more)(model, x, y)
            found |= {name: correlation(maps, finer), f"changed_{name}": changed(maps, finer)}
        else:
            found |= {name: math.nan, f"changed_{name}": math.nan}
    if "blocks" in others:
        with_blocks, signal = blocks(splits)
        bx, by = first_samples(with_blocks.validation, MOST)
        found |= pointing(of(others["blocks"], bx, by), signal["validation"][:MOST])
    return found


_known: OrderedDict[tuple[Any, ...], dict[str, nn.Module]] = OrderedDict()


def _others(
    config: TrainConfig, splits: Splits, seed: int, strength: float, new_start: bool
) -> dict[str, nn.Module]:
    """The models that a map is compared on, the same for all maps of a run's seed: of another seed,
    trained with ABA, never trained, and trained on blocks where inputs are pictures. new_start:
    whether their initial parameters differ from the run's."""
    from aba_core.training import builder, train

    place = (config, splits.fingerprint, seed, strength, new_start)
    if place not in _known:
        one = (NEW_START if new_start else OTHER_SEED) + seed
        aba = Arm.of("ABA", adjustments="all", target="loss", strength=strength)
        runs = train(config, [Arm("Vanilla"), aba], [one], splits=splits)
        untrained = initial_model(builder(config, splits), one, getattr(torch, config.dtype))
        made = {"seed": runs.model("Vanilla", one), "aba": runs.model("ABA", one)}
        made["untrained"] = untrained.eval()
        if len(splits.input_shape) == 3 and not isinstance(config.model, Use):
            on_blocks = train(config, [Arm("Vanilla")], [one], splits=blocks(splits)[0])
            made["blocks"] = on_blocks.model("Vanilla", one)
        _known[place] = made
        while len(_known) > 4:
            _known.popitem(last=False)
    return _known[place]


def first_samples(split: Split, most: int) -> tuple[Tensor, Tensor]:
    rows = torch.arange(min(most, len(split)), device=split.y.device)
    return split.batch(rows), split.y[rows]


def _logits(model: nn.Module) -> Logits:
    def logits(x: Tensor) -> Tensor:
        with undisturbed(model, "eval"):
            return model(x)

    return logits
