"""What a run is, in plain data: the configuration that replicas share, and the arms.

Plain Python, no tensors: whoever reads results, declares studies or plans them needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from aba_core.aspects import CardSettings
from aba_core.identity import Use, fields_by_name, meant, plain
from aba_core.trainers import REPLICAS, Single, trainer_of

Optimizer = Literal["sgd", "adam"]
Schedule = Literal["constant", "step", "cosine", "cycles"]
Precision = Literal["full", "bf16", "tf32"]
# What an attribution map explains, how it may be made, and how it is split (see `attribution`).
Target = Literal["loss", "class_score", "true_class", "predicted_class"]
# fmt: off
MapKind = Literal[
    "gradient", "gradient_x_input", "smoothgrad", "integrated_gradients",
    "absolute_gradient", "absolute_gradient_x_input", "absolute_smoothgrad",
    "absolute_integrated_gradients", "smoothgrad_x_input", "vargrad", "expected_gradients",
    "occlusion", "guided_backpropagation", "deconvnet", "lrp_epsilon", "lrp_gamma", "lrp_z_plus",
    "lrp_alpha_beta", "lrp_composite", "grad_cam", "grad_cam_plus_plus",
    "smooth_grad_cam_plus_plus", "layer_cam", "norm_grad",
]
# fmt: on
# Maps that any model and batch have; the others ask for a convolution, known layers or two samples.
OF_ANY_MODEL = frozenset(
    {
        "gradient",
        "gradient_x_input",
        "smoothgrad",
        "integrated_gradients",
        "absolute_gradient",
        "absolute_gradient_x_input",
        "absolute_smoothgrad",
        "absolute_integrated_gradients",
        "smoothgrad_x_input",
        "vargrad",
        "occlusion",
    }
)
# Maps that add noise to their inputs, and those besides that average over `samples` of anything.
WITH_NOISE = frozenset(
    {
        "smoothgrad",
        "absolute_smoothgrad",
        "smoothgrad_x_input",
        "vargrad",
        "smooth_grad_cam_plus_plus",
    }
)
WITH_SAMPLES = WITH_NOISE | {
    "integrated_gradients",
    "absolute_integrated_gradients",
    "expected_gradients",
}
SplitKind = Literal["percentiles", "sign"]


# Counts above this are mistakes: nothing has so many steps, samples or words.
MOST = 10**9


@fields_by_name
@dataclass(frozen=True)
class TrainConfig:
    """What all replicas of a training share.

    epochs may be fractional; a run has round(epochs · samples / batch_size) steps, at least 1.
    schedule: "step" divides the learning rate by 10 at half and again at three quarters of the
    steps, "cosine" brings it to 0, "cycles" five times, each from the full rate (Huang et al.
    2017). curve_every: metrics also every so many steps (0: only final).
    subset: a name of the data set's, or a number of training samples.
    tokens: texts are cut to their first so many (0: all).
    mechanism: at how many evenly spaced steps gradients and curvature are measured, the first
    before the first step, the last after the last one (0: never; see `aba_core.mechanism`).
    probe_strength: of the adjustments that arms without augmentation are measured with.
    dataset, model: a name, or {"use": "module:function", option: value} for your own; see
    docs/guides. metrics: measured besides the loss and the task's primary quantity: names of
    `quantities.QUANTITIES`, or "module:function" of your own. card: the report card of every
    trained model: aspects (see `quantities.ASPECTS`), or fields of `aspects.CardSettings`.
    dtype: "float32", or "float64" for comparisons. precision of products and convolutions while
    training: "full", that of dtype; "bf16", 8 bits of fraction (autocast; parameters, optimiser and
    metrics stay in dtype); "tf32", 10 bits, on CUDA only. benchmarks/README.md has the effect.
    trainer: "replicas", many small models side by side; or "single", one model at a time, which may
    be large and read its data from disk, also as {kind: single, option: value} (`trainers.Single`).
    """

    kind: ClassVar[str] = "training"

    dataset: Any = "digits"
    subset: str | int = "tiny"
    model: Any = "small_cnn"
    batch_norm: bool = False
    epochs: float = 100
    batch_size: int = 50
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    subset_seed: int = 0
    tokens: int = 0
    curve_every: int = 0
    dtype: Literal["float32", "float64"] = "float32"
    precision: Precision = "full"
    mechanism: int = 0
    probe_strength: float = 0.5
    metrics: tuple[Any, ...] = ()
    card: Any = None
    trainer: Any = REPLICAS

    def __post_init__(self) -> None:
        object.__setattr__(self, "trainer", trainer_of(self.trainer))
        for name in ("dataset", "model"):
            value = getattr(self, name)
            object.__setattr__(self, name, Use.read(value) or value)
            if not isinstance(getattr(self, name), str | Use):
                raise ValueError(
                    f"{name} is {value!r}; needed: a name, or {{use: module:function}}"
                )
        if isinstance(self.subset, bool):
            raise ValueError(f"subset is {self.subset}; needed: a name or a number of samples")
        object.__setattr__(self, "subset", str(self.subset))
        given = (self.metrics,) if isinstance(self.metrics, str | Mapping) else self.metrics
        metrics = tuple(Use.read(metric) or metric for metric in given)
        object.__setattr__(self, "metrics", metrics)
        object.__setattr__(self, "card", CardSettings.read(self.card))
        for name, allowed in (
            ("optimizer", get_args(Optimizer)),
            ("schedule", get_args(Schedule)),
            ("dtype", ("float32", "float64")),
            ("precision", get_args(Precision)),
        ):
            if getattr(self, name) not in allowed:
                value = getattr(self, name)
                near = meant(value, allowed)
                raise ValueError(f"unknown {name} {value!r}{near}; known: {', '.join(allowed)}")
        for name, low, strict in (
            ("epochs", 0, True),
            ("learning_rate", 0, True),
            ("momentum", 0, False),
            ("weight_decay", 0, False),
            ("probe_strength", 0, False),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real):
                raise ValueError(f"{name} is {value!r}; needed: a number")
            if not math.isfinite(value) or value < low or (strict and value == low):
                raise ValueError(
                    f"{name} is {value!r}; allowed: finite numbers "
                    f"{'above' if strict else 'not below'} {low}"
                )
        for name, first, last in (
            ("batch_size", 1, MOST),
            ("curve_every", 0, MOST),
            ("mechanism", 0, MOST),
            ("tokens", 0, MOST),
            ("subset_seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if type(value) is not int or not first <= value <= last:
                which = "0 or more steps, up" if name == "curve_every" else "whole numbers from"
                which += f" {first} to" if name != "curve_every" else " to"
                raise ValueError(f"{name} is {value!r}; allowed: {which} {last}")
        if self.mechanism and self.single is not None:
            raise ValueError(
                f"mechanism is {self.mechanism} with trainer 'single'; allowed: 0, or trainer "
                "'replicas'"
            )

    @property
    def single(self) -> Single | None:
        """The trainer of one model at a time, where it is the one asked for."""
        return self.trainer if isinstance(self.trainer, Single) else None

    @property
    def irrelevant(self) -> frozenset[str]:
        """Fields that decide no number of a run's last step."""
        names = {"curve_every"}
        names |= {"momentum"} if self.optimizer != "sgd" else set()
        return frozenset(names if self.mechanism else names | {"probe_strength"})

    def row(self) -> dict[str, Any]:
        """The configuration's columns in a table of runs."""
        return {
            entry.name: value if isinstance(value, bool | int | float | str) else str(value)
            for entry in fields(self)
            if entry.name not in ("metrics", "card")
            and (value := getattr(self, entry.name)) is not None
        }

    def steps(self, samples: int) -> int:
        """Number of optimiser steps on a training set of so many samples."""
        return max(1, round(self.epochs * samples / self.batch_size))

    def learning_rate_factor(self, step: int, steps: int) -> float:
        """What the schedule multiplies the learning rate by at a step."""
        if self.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * step / steps))
        if self.schedule == "cycles":  # five times from the full rate
            cycle = -(-steps // 5)
            return 0.5 * (1.0 + math.cos(math.pi * (step % cycle) / cycle))
        if self.schedule == "step":
            return 0.1 ** ((step >= 0.5 * steps) + (step >= 0.75 * steps))
        return 1.0


class MethodInfo(NamedTuple):
    """A method by its kind: its title in tables, where its class or preset is, and the fields that
    the kind sets."""

    title: str
    where: str
    given: Mapping[str, Any] = {}


_BY_LRP = {"attribution": "lrp_composite"}  # ε-z⁺, the relevance that RelDrop was published with
METHODS: dict[str, MethodInfo] = {
    "aba": MethodInfo("ABA", "aba_core.methods.aba:Augmentation"),
    "challenger": MethodInfo("Challenger", "aba_core.methods.aba:CHALLENGER"),
    "mendaba": MethodInfo("MendABA", "aba_core.methods.aba:MENDABA"),
    "fastaba": MethodInfo("FastABA", "aba_core.methods.aba:FASTABA"),
    "fastaba-ce": MethodInfo("FastABA-CE", "aba_core.methods.aba:FASTABA_CE"),
    "mixup": MethodInfo("Mixup", "aba_core.methods.mixing:Mixup"),
    "cutmix": MethodInfo("CutMix", "aba_core.methods.mixing:CutMix"),
    "mixed": MethodInfo("Mixed examples", "aba_core.methods.mixing:Mixed"),
    **{
        title.lower().replace(" ", "-"): MethodInfo(
            title, "aba_core.methods.mixing:Mixed", {"how": title.lower().replace(" ", "-")}
        )
        for title in (
            *("BC+", "Vertical concat", "Horizontal concat", "Mixed concat", "Random 2x2"),
            *("VH-mixup", "VH-BC+", "Random square", "Row interval", "Column interval"),
            *("Rows", "Columns", "Pixels", "Elements", "Noisy mixup"),
        )
    },
    "cutout": MethodInfo("Cutout", "aba_core.methods.occlusion:Cutout"),
    "random-erasing": MethodInfo("Random erasing", "aba_core.methods.occlusion:RandomErasing"),
    "word-dropout": MethodInfo("Word dropout", "aba_core.methods.occlusion:WordDropout"),
    "gaussian-noise": MethodInfo("Gaussian noise", "aba_core.methods.noise:GaussianNoise"),
    "jitter": MethodInfo("Jitter", "aba_core.methods.noise:GaussianNoise", {"sd": 0.1}),
    "uniform-noise": MethodInfo("Uniform noise", "aba_core.methods.noise:UniformNoise"),
    "salt-and-pepper": MethodInfo("Salt and pepper", "aba_core.methods.noise:SaltAndPepper"),
    "label-smoothing": MethodInfo("Label smoothing", "aba_core.methods.labels:LabelSmoothing"),
    "label-smoothing-others": MethodInfo(
        "Label smoothing over others", "aba_core.methods.labels:LabelSmoothing", {"over": "others"}
    ),
    "logit-squeezing": MethodInfo("Logit squeezing", "aba_core.methods.labels:LogitSqueezing"),
    "maxsup": MethodInfo("MaxSup", "aba_core.methods.labels:MaxSup"),
    "confidence-penalty": MethodInfo(
        "Confidence penalty", "aba_core.methods.labels:ConfidencePenalty"
    ),
    "dropout": MethodInfo("Dropout", "aba_core.methods.dropout:Dropout"),
    "input-dropout": MethodInfo("Input dropout", "aba_core.methods.dropout:Dropout", {"p": 0.2}),
    "guided-dropout": MethodInfo("Guided dropout", "aba_core.methods.guided:GuidedDropout"),
    "guided-cutout": MethodInfo("Guided cutout", "aba_core.methods.guided:GuidedCutout"),
    "random-cutout": MethodInfo(
        "Cutout inside", "aba_core.methods.guided:GuidedCutout", {"placebo": "random"}
    ),
    "reldrop-block": MethodInfo("RelDrop, block", "aba_core.methods.guided:RelDropBlock"),
    "reldrop-pixel": MethodInfo("RelDrop, pixels", "aba_core.methods.guided:RelDropPixel"),
    "reldrop-block-lrp": MethodInfo(
        "RelDrop, block, LRP", "aba_core.methods.guided:RelDropBlock", _BY_LRP
    ),
    "reldrop-pixel-lrp": MethodInfo(
        "RelDrop, pixels, LRP", "aba_core.methods.guided:RelDropPixel", _BY_LRP
    ),
    "icd": MethodInfo("ICD", "aba_core.methods.guided:ICD"),
    "aicd": MethodInfo("AICD", "aba_core.methods.guided:ICD", {"region": "other"}),
    "saliencymix": MethodInfo("SaliencyMix", "aba_core.methods.guided:SaliencyMix"),
    "puzzlemix": MethodInfo("Puzzle-like mixing", "aba_core.methods.puzzle:PuzzleMix"),
    "keepaugment": MethodInfo("KeepAugment", "aba_core.methods.guided:KeepAugment"),
    "fgsm": MethodInfo("FGSM training", "aba_core.methods.adversarial:FGSM"),
    "pgd": MethodInfo("PGD training", "aba_core.methods.adversarial:PGD"),
    "alp": MethodInfo("Adversarial logit pairing", "aba_core.methods.adversarial:ALP"),
    "lrm": MethodInfo("Logit regularisation", "aba_core.methods.adversarial:LRM"),
    "advprop": MethodInfo("AdvProp", "aba_core.methods.adversarial:AdvProp"),
    "shift": MethodInfo("Shift", "aba_core.methods.transforms:Shift"),
    "crop": MethodInfo("Crop", "aba_core.methods.transforms:Crop"),
    "flip": MethodInfo("Flip", "aba_core.methods.transforms:Flip"),
    "rotation": MethodInfo("Rotation", "aba_core.methods.transforms:Rotation"),
    "randaugment": MethodInfo("RandAugment-like", "aba_core.methods.transforms:RandAugment"),
    "during": MethodInfo("Part of the training", "aba_core.methods.around:During"),
    "any-site": MethodInfo("A layer drawn at each step", "aba_core.methods.around:AnySite"),
    "copies": MethodInfo("Several copies", "aba_core.methods.around:Copies"),
    "sam": MethodInfo("SAM", "aba_core.methods.sharpness:SAM"),
    "asam": MethodInfo("ASAM", "aba_core.methods.sharpness:ASAM"),
    "weight-decay": MethodInfo("Weight decay", "aba_core.methods.decay:WeightDecay"),
    "norm-decay": MethodInfo(
        "Weight decay of γ and β", "aba_core.methods.decay:WeightDecay", {"which": "norms"}
    ),
    "early-stopping": MethodInfo("Early stopping", "aba_core.methods.decay:EarlyStopping"),
    "ghost-batch-norm": MethodInfo("Ghost batch norm", "aba_core.methods.norms:GhostBatchNorm"),
    "batch-group-norm": MethodInfo("Batch group norm", "aba_core.methods.norms:BatchGroupNorm"),
    "example-weighing": MethodInfo("Example weighing", "aba_core.methods.norms:ExampleWeighing"),
}
VANILLA = "Vanilla"
# What an arm may train with in place of the config's: of the data only how many training samples,
# and nothing of what is measured.
OWN_CONFIG = (
    *("model", "batch_norm", "epochs", "batch_size", "optimizer", "learning_rate", "momentum"),
    *("weight_decay", "schedule", "subset"),
)
# The published methods, in the published order.
PUBLISHED_METHODS = ("challenger", "mendaba", "fastaba", "fastaba-ce")
PLACEBO_TITLES = {
    "permuted": "permuted map",
    "other_sample": "another sample's map",
    "untrained": "untrained model's map",
    "random": "random features",
    "gaussian": "Gaussian noise",
}


@fields_by_name
@dataclass(frozen=True)
class Arm:
    """One training condition.

    method: None for training as usual; or a `Method`, as an `Augmentation`; or the same as plain
    data: a kind ("mendaba"), {kind: ..., field: value}, {use: "module:Class", field: value}, or a
    list of these. learning_rate: in place of the config's. held: purposes of randomness (see
    `randomness.PURPOSES`) held at a seed in all runs of the arm, as (("initialisation", 0),); the
    others follow the run's seed plus seed_offset. flip_bit: change the last bit of one weight,
    drawn by purpose "bit", before training: the smallest change there is. subset_per_run: the
    training samples are drawn by the run's seed and not by the config's subset_seed;
    seeds_per_subset: so many consecutive seeds share them. config: fields of the training that are
    the arm's own, as {"weight_decay": 0.001}: of those in `OWN_CONFIG`.
    """

    kind: ClassVar[str] = "arm"

    name: str
    method: Any = None
    learning_rate: float | None = None
    held: tuple[tuple[str, int], ...] = ()
    flip_bit: bool = False
    seed_offset: int = 0
    subset_per_run: bool = field(default=False, kw_only=True)
    seeds_per_subset: int = field(default=1, kw_only=True)
    config: tuple[tuple[str, Any], ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise ValueError(f"the name of an arm is {self.name!r}; needed: text, as 'MendABA'")
        rate = self.learning_rate
        if rate is not None and (
            isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf
        ):
            raise ValueError(f"learning_rate is {rate!r}; allowed: finite, above 0")
        for name in ("flip_bit", "subset_per_run"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: true or false")
        if isinstance(self.seed_offset, bool) or not 0 <= int(self.seed_offset) < 2**62:
            raise ValueError(f"seed_offset is {self.seed_offset!r}; allowed: whole numbers from 0")
        share = self.seeds_per_subset
        if type(share) is not int or not 1 <= share <= MOST:
            raise ValueError(f"seeds_per_subset is {share!r}; allowed: whole numbers from 1")
        if share > 1 and not self.subset_per_run:
            raise ValueError(
                f"seeds_per_subset is {share}, but the arm does not draw its training samples; "
                "needed: subset_per_run: true"
            )
        held = self.held.items() if isinstance(self.held, Mapping) else self.held
        object.__setattr__(self, "held", tuple(sorted((str(n), int(s)) for n, s in held)))
        own = self.config.items() if isinstance(self.config, Mapping) else self.config
        own = tuple(sorted((str(n), str(v) if n == "subset" else v) for n, v in own))
        object.__setattr__(self, "config", own)
        for name, _ in own:
            if name not in OWN_CONFIG:
                raise ValueError(
                    f"config of an arm names {name!r}; allowed: {', '.join(OWN_CONFIG)}"
                )
        if own:
            replace(TrainConfig(), **dict(own))  # refuses values that cannot be
        object.__setattr__(self, "method", _normal(self.method))

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Arm:
        """An arm as a study file has it: the fields above, and beside them those of its method.

        {name: pair, adjustments: "3,4", strength: 0.3} is {name: pair, method: {kind: aba,
        adjustments: "3,4", strength: 0.3}}. Raises ValueError for what cannot be meant.
        """
        if not isinstance(given, Mapping):
            raise ValueError(f"an arm is {given!r}; needed: its fields, as {{name: Vanilla}}")
        values = {str(name): value for name, value in given.items() if value is not None}
        known = {entry.name for entry in fields(cls)}
        beside = {name: values.pop(name) for name in list(values) if name not in known}
        if "name" not in values:
            there = ", ".join([*values, *beside])
            raise ValueError(f"an arm needs a name; its fields are: {there or 'none'}")
        try:
            if beside:
                values["method"] = _with_fields(values.get("method"), beside)
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"arm {values['name']!r}: {error}") from error
        except (TypeError, AttributeError, OverflowError) as error:  # other things than were meant
            raise ValueError(f"arm {values['name']!r} cannot be read: {error}") from error

    @classmethod
    def of(cls, name: str, **given: Any) -> Arm:
        """`read` of keyword arguments: Arm.of("pair", adjustments="3,4", strength=0.3)."""
        return cls.read({"name": name, **given})

    @property
    def vanilla(self) -> bool:
        """Whether it trains as usual, its learning rate, seeds and one bit aside."""
        return self.method is None

    def trained_by(self, config: TrainConfig) -> TrainConfig:
        """The configuration with the arm's own fields."""
        return replace(config, **dict(self.config))

    def subset_of(self, seed: int) -> int | None:
        """The subset_seed that the run with this seed trains on; None where the config says it."""
        return seed // self.seeds_per_subset if self.subset_per_run else None

    @property
    def reference(self) -> bool:
        """Whether it is training as usual with nothing changed at all: what gains are over."""
        return self == Arm(self.name)

    def setting(self, name: str, default: Any = None) -> Any:
        """A field that the method was given, by name; the default where it was not."""
        if isinstance(self.method, Mapping):
            return self.method.get(name, default)
        return getattr(self.method, name, default)

    def with_settings(self, **changes: Any) -> Arm:
        """The same arm, fields of its method changed; of a list of methods as "0.alpha", of the
        method that one holds as "method.alpha"."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return Arm(**{**values, "method": _with_fields(self.method, changes)})

    def trained_with(self, config: Mapping[str, Any]) -> Arm:
        """The same arm, fields of its training changed."""
        return replace(self, config=tuple({**dict(self.config), **config}.items()))

    def renamed(self, name: str) -> Arm:
        """The same arm under another name."""
        return Arm(**{**{e.name: getattr(self, e.name) for e in fields(self)}, "name": name})

    def data(self) -> dict[str, Any]:
        """The arm as plain data, its name included, without what is at its default."""
        content = plain(self)
        if not isinstance(self.method, Mapping | list | None) and self.method.kind not in METHODS:
            cls = type(self.method)  # of your own: known by its place, as in a study file
            given = {n: v for n, v in content["method"].items() if n not in ("kind", "version")}
            content["method"] = {"use": f"{cls.__module__}:{cls.__qualname__}", **given}
        return {name: content[name] for name in content if name not in ("kind", "version")}


def _normal(method: Any) -> Any:
    """A method's plain data in one form: None, a list, or a mapping with `kind` or `use` first."""
    if isinstance(method, str):
        if method == "vanilla":
            return None
        method = {"use" if ":" in method else "kind": method}
    if isinstance(method, list | tuple):
        parts = [part for entry in method if (part := _normal(entry)) is not None]
        return parts if len(parts) > 1 else parts[0] if parts else None
    if not isinstance(method, Mapping):
        if method is not None and not hasattr(method, "kind"):  # wherever in a list it stands
            raise ValueError(f"method is {method!r}; needed: a method, its name or its fields")
        return method
    given = {str(name): value for name, value in method.items() if value is not None}
    kind = given.pop("kind", None)
    if kind == "vanilla":
        if given:
            raise ValueError(f"method 'vanilla' takes no {next(iter(given))}")
        return None
    if "use" not in given:
        kind = "aba" if kind is None else kind
        if not isinstance(kind, str) or (kind not in METHODS and kind != "chain"):
            near = meant(kind, ["vanilla", *METHODS])
            raise ValueError(f"unknown method {kind!r}{near}; known: vanilla, {', '.join(METHODS)}")
        if kind == "aba" and "adjustments" not in given:
            names = ", ".join(given) or "kind: aba"
            near = next((m for name in given if (m := meant(name, ("method", "adjustments")))), "")
            raise ValueError(f"{names} given{near}, but neither adjustments nor a method")
        return {"kind": kind, **_spelt(given)}
    return {"use": given.pop("use"), **given}


def _with_fields(method: Any, changes: Mapping[str, Any]) -> Any:
    if method == "vanilla":
        raise ValueError(f"method 'vanilla' takes no {', '.join(changes)}")
    method = _normal(method)
    if isinstance(method, list):
        return _with_fields_of_parts(method, changes)
    if method is not None and not isinstance(method, Mapping):
        return replace(method, **changes)
    changed = {**(method or {}), **{n: v for n, v in changes.items() if "." not in n}}
    for name, value in changes.items():
        place, dot, inner = name.partition(".")
        if dot and place not in changed:
            raise ValueError(f"{name} given, but the method has no {place!r}")
        if dot:
            changed[place] = _with_fields(changed[place], {inner: value})
    return changed


def _with_fields_of_parts(methods: list[Any], changes: Mapping[str, Any]) -> list[Any]:
    """A list of methods with fields changed that are named by their place, as "0.alpha"."""
    changed = list(methods)
    for name, value in changes.items():
        place, dot, field_name = name.partition(".")
        if not (dot and place.isdecimal() and int(place) < len(methods)):
            raise ValueError(
                f"{name} beside a list of methods; say it in the list, or as 0.{name} for the first"
            )
        changed[int(place)] = _with_fields(changed[int(place)], {field_name: value})
    return changed


def _spelt(given: dict[str, Any]) -> dict[str, Any]:
    """Fields of ABA as they may be written: a lone index for a set, a split by its quantiles."""
    adjustments = given.get("adjustments")
    if isinstance(adjustments, int) and not isinstance(adjustments, bool):
        given["adjustments"] = str(adjustments)
    elif isinstance(adjustments, list | tuple):
        given["adjustments"] = ",".join(map(str, adjustments))
    quantiles = given.pop("quantiles", None)
    if quantiles is not None:
        if given.get("split") == "sign":
            raise ValueError("quantiles do not go with split 'sign'")
        given["split"] = [float(quantile) for quantile in quantiles]
    return given
