"""The seam: what a method of training is, to the replica engine and to your own loop.

A step is h = head(x), then h', y' = method.batch(tail, h, y, draws), then the mean of
method.loss(tail(h'), y'), differentiated by method.gradient. A method is a frozen dataclass that
changes any of the three. It is written once, for activations [*lead, *feature], where lead is
[batch] in anybody's loop and [replica, batch] for stacked replicas; its numbers are floats in the
one and tensors [replica, 1] in the other, and broadcast against lead in both.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import lru_cache, partial
from typing import Any, ClassVar, Self, get_type_hints

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aba_core.arms import METHODS
from aba_core.attribution import Loss
from aba_core.identity import Use, check_fields, load, meant, plain
from aba_core.randomness import Draws
from aba_core.sites import INPUT, Tail

# Each replica's mean loss, and its gradient, at given parameters [replica, parameter].
At = Callable[[Tensor], tuple[Float[Tensor, "replica"], Float[Tensor, "replica parameter"]]]


@dataclass(frozen=True)
class Method:
    """What all methods share; by itself, training as usual.

    kind: its name in study files and in the identity of runs. version: raised when a change to it
    changes numbers. purposes: its own purposes of randomness, names of its choosing. site: "input",
    or the layer whose output it changes. Fields that hold a float may differ between replicas that
    train side by side; all others are shared. tasks: those that it is meant for; () for all.
    enlarges: whether `batch` returns more samples than it was given; its `loss` may then return
    fewer numbers, whose mean is what counts. mixes: whether a sample's result depends on the others
    of its batch.
    """

    kind: ClassVar[str] = "plain"
    version: ClassVar[int] = 1
    purposes: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ()
    enlarges: ClassVar[bool] = False
    mixes: ClassVar[bool] = False

    site: str = field(default=INPUT, kw_only=True)

    def passes(self) -> float:
        """Forward-and-backward passes through the model per training step."""
        return 1.0

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Changed activations [*lead, *feature] and labels. y: as the loss takes them; labels that
        are mixed become soft, [*lead, class]."""
        return h, y

    def loss(self, logits: Tensor, y: Tensor, loss: Loss) -> Float[Tensor, "*lead"]:
        """One number a sample, whose mean is minimised. loss: the task's own."""
        return loss(logits, y)

    def gradient(self, at: At, parameters: Float[Tensor, "replica parameter"]) -> tuple:
        """Each replica's mean loss [replica], and what the optimiser takes for its gradient
        [replica, parameter]."""
        return at(parameters)

    def architecture(self, model: nn.Module) -> nn.Module:
        """The model that is trained in place of a freshly built one: by default itself."""
        return model

    def fitted(self, model: nn.Module) -> Self:
        """The same for this architecture. Raises ValueError for one that it cannot train."""
        return self

    def acting(self, step: int, steps: int) -> Method:
        """What acts at a step out of so many (0: nobody knows): by default itself, at every one."""
        return self

    def measured(self, model: nn.Module, config: Any, splits: Any, seed: int) -> dict[str, float]:
        """Further columns of a run's row, measured of its trained model."""
        return {}

    def places(self) -> tuple[str, ...]:
        """All sites at which it may act."""
        return (self.site,)

    @property
    def varies(self) -> bool:
        """Whether `acting` gives something else from step to step."""
        return False

    @property
    def looks_every(self) -> int:
        """Every so many steps the validation loss is measured; the parameters that had the lowest
        are those that training ends with. 0: the last ones."""
        return 0

    def parts(self) -> tuple[Method, ...]:
        """Itself, or the methods that it holds."""
        return (self,)

    def names_of_purposes(self) -> tuple[str, ...]:
        """All purposes that it draws for."""
        return self.purposes

    @property
    def needs_untrained(self) -> bool:
        """Whether the tail must know the model as it was initialised."""
        return False

    @property
    def needs_last_gradient(self) -> bool:
        """Whether `keep` must see each step's gradient to the inputs, which replicas know."""
        return False

    def keep(self, tail: Tail, gradients: Float[Tensor, "replica batch *feature"]) -> None:
        """What is kept of the loss's gradient to the inputs that were trained on, for when the same
        samples come again."""

    def columns(self) -> dict[str, Any]:
        """What a table of runs says of it: each field, as a number, a truth value or text."""
        return {
            entry.name: value if isinstance(value, bool | int | float | str) else str(value)
            for entry in fields(self)
            if (value := getattr(self, entry.name)) is not None
        }

    @classmethod
    def per_replica(cls) -> tuple[str, ...]:
        """Fields that may differ between replicas trained side by side: those that hold a float."""
        hints = _hints(cls)  # type: ignore[arg-type]
        return tuple(name for name, hint in hints.items() if hint is float)

    @property
    def structure(self) -> str:
        """All that replicas trained side by side must share."""
        shared = {e.name: getattr(self, e.name) for e in fields(self)}
        for name in self.per_replica():
            shared.pop(name)
        return f"{type(self).__module__}.{type(self).__qualname__} {json.dumps(plain(shared))}"

    @classmethod
    def stack(cls, methods: Sequence[Self], device: Any, dtype: torch.dtype) -> Self:
        """One method for all replicas: their numbers as tensors [replica, 1], all else shared."""
        numbers = {
            name: torch.tensor(
                [[getattr(method, name)] for method in methods], device=device, dtype=torch.float64
            )
            for name in cls.per_replica()
        }
        return methods[0].with_values(**numbers)

    def with_values(self, **values: Any) -> Self:
        """The same with other values, which are not checked."""
        other = copy.copy(self)
        for name, value in values.items():
            object.__setattr__(other, name, value)
        return other

    def part(self, rows: slice) -> Self:
        """A stacked method for some of its replicas."""
        values = {e.name: getattr(self, e.name) for e in fields(self)}
        return self.with_values(
            **{
                name: value[rows] if isinstance(value, Tensor) else value.part(rows)
                for name, value in values.items()
                if isinstance(value, Tensor) or hasattr(value, "part")
            }
        )

    def check(self, **limits: tuple[float, float]) -> None:
        """Raises ValueError for a number beyond its limits, both included, or not finite."""
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not (low <= value <= high and math.isfinite(value)):
                allowed = f"{low:g} to {high:g}" if math.isfinite(high) else f"finite, from {low:g}"
                raise ValueError(f"{name} is {value!r}; allowed: {allowed}")


@lru_cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {entry.name: hints[entry.name] for entry in fields(cls)}


def column(number: float | Tensor, like: Tensor) -> float | Tensor:
    """A method's number, or one for each sample [*lead], so that it broadcasts against activations
    [*lead, *feature]."""
    if not isinstance(number, Tensor):
        return number
    return number.to(like.dtype).reshape(*number.shape, *(1,) * (like.dim() - number.dim()))


def soft(y: Tensor, classes: int, dtype: torch.dtype) -> Float[Tensor, "*lead class_"]:
    """Labels as weights of classes: true classes become one-hot; soft ones stay."""
    if y.is_floating_point():
        return y.to(dtype)
    # PyTorch's one_hot asks the device for the labels' range.
    zeros = torch.zeros(*y.shape, classes, dtype=dtype, device=y.device)
    return zeros.scatter_(-1, y[..., None], 1.0)


@dataclass(frozen=True)
class Chain(Method):
    """Several methods, one after the other, at one site: each changes what the one before left.

    The gradient is that of the last method, taken around the ones before.
    """

    kind: ClassVar[str] = "chain"
    methods: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        # What changes no activations acts nowhere in particular.
        sites = {place for m in self.methods if has_own(m, "batch") for place in m.places()}
        if len(self.methods) < 2 or len(sites) > 1:
            raise ValueError(
                f"a chain of {len(self.methods)} methods at the sites {', '.join(sorted(sites))}; "
                "needed: two methods or more at one site"
            )
        for method in self.methods[:-1]:
            if method.enlarges:
                raise ValueError(f"{method.kind!r} enlarges the batch; it must be a chain's last")
        object.__setattr__(self, "site", next(iter(sites), INPUT))

    @property
    def irrelevant(self) -> frozenset[str]:
        return frozenset({"site"})  # its methods have it

    def parts(self) -> tuple[Method, ...]:
        return tuple(part for method in self.methods for part in method.parts())

    def passes(self) -> float:
        return 1.0 + sum(method.passes() - 1.0 for method in self.methods)

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        for method in self.methods:
            h, y = method.batch(tail, h, y, draws)
        return h, y

    def loss(self, logits: Tensor, y: Tensor, loss: Loss) -> Tensor:
        for method in self.methods:
            loss = partial(_loss_around, method, loss)
        return loss(logits, y)

    def gradient(self, at: At, parameters: Tensor) -> tuple:
        for method in self.methods:
            at = partial(method.gradient, at)
        return at(parameters)

    def architecture(self, model: nn.Module) -> nn.Module:
        for method in self.methods:
            model = method.architecture(model)
        return model

    def fitted(self, model: nn.Module) -> Self:
        return self.with_values(methods=tuple(m.fitted(model) for m in self.methods))

    def acting(self, step: int, steps: int) -> Method:
        if not self.varies:
            return self
        return self.with_values(methods=tuple(m.acting(step, steps) for m in self.methods))

    @property
    def varies(self) -> bool:
        return any(method.varies for method in self.methods)

    @property
    def looks_every(self) -> int:
        return max(method.looks_every for method in self.methods)

    @property
    def enlarges(self) -> bool:  # type: ignore[override]
        return self.methods[-1].enlarges

    def part(self, rows: slice) -> Self:
        return self.with_values(methods=tuple(method.part(rows) for method in self.methods))

    def names_of_purposes(self) -> tuple[str, ...]:
        return tuple(name for method in self.methods for name in method.names_of_purposes())

    @property
    def needs_untrained(self) -> bool:
        return any(method.needs_untrained for method in self.methods)

    @property
    def needs_last_gradient(self) -> bool:
        return any(method.needs_last_gradient for method in self.methods)

    def keep(self, tail: Tail, gradients: Float[Tensor, "replica batch *feature"]) -> None:
        for method in self.methods:
            method.keep(tail, gradients)

    def columns(self) -> dict[str, Any]:
        return {"methods": " + ".join(method.kind for method in self.methods), "site": self.site}

    @property
    def structure(self) -> str:
        return " + ".join(method.structure for method in self.methods)

    @classmethod
    def stack(cls, methods: Sequence[Self], device: Any, dtype: torch.dtype) -> Self:
        columns = zip(*(chain.methods for chain in methods), strict=True)
        return methods[0].with_values(
            methods=tuple(type(each[0]).stack(each, device, dtype) for each in columns)
        )


def has_own(method: Method, hook: str) -> bool:
    """Whether a method, or one that it holds, does something of its own in a hook."""
    parts = method.parts()
    return any(getattr(type(part), hook) is not getattr(Method, hook) for part in parts)


def _loss_around(method: Method, loss: Loss, logits: Tensor, y: Tensor) -> Tensor:
    return method.loss(logits, y, loss)


# --- from plain data -----------------------------------------------------------------------------


def method_of(data: Any) -> Method | None:
    """The method that plain data say, as a study file has them; None for training as usual.

    data: None, a `Method`, a kind ("mixup"), {kind: ..., field: value, ...}, {use: "module:name",
    field: value, ...} for a class or a ready method of your own, or a list of these, applied in
    turn. Raises ValueError naming the kind, field or value that is wrong.
    """
    if data is None or isinstance(data, Method):
        return data
    if isinstance(data, list | tuple):
        methods = tuple(method_of(entry) for entry in data)
        return Chain(tuple(method for method in methods if method is not None))
    if isinstance(data, str):
        data = {"use": data} if ":" in data else {"kind": data}
    if not isinstance(data, Mapping):
        raise ValueError(f"method is {data!r}; needed: a name, or {{kind: ..., field: value}}")
    given = {name: value for name, value in data.items() if name not in ("kind", "version")}
    use = Use.read(data)
    preset: Mapping[str, Any] = {}
    if use is not None:
        given.pop("use")
        made = load(use.where)
    else:
        kind = str(data.get("kind", "aba"))
        if kind not in METHODS:
            near = meant(kind, METHODS)
            raise ValueError(f"unknown method {kind!r}{near}; known: {', '.join(METHODS)}")
        made, preset = load(METHODS[kind].where), METHODS[kind].given
    cls = made if isinstance(made, type) else type(made)
    if not issubclass(cls, Method):
        where = use.where if use else METHODS[kind].where
        raise ValueError(f"{where!r} is no Method; needed: a class or an instance of one")
    known = [entry.name for entry in fields(cls) if entry.init]
    check_fields(given, known, f" of {cls.kind!r}")
    values = {**preset, **{name: _typed(cls, name, value) for name, value in given.items()}}
    if isinstance(made, type):
        needed = [e.name for e in fields(cls) if e.init and _required(e) and e.name not in values]
        if needed:
            raise ValueError(f"{cls.kind!r} needs {needed[0]!r}")
        return cls(**values)
    return type(made)(**{**{name: getattr(made, name) for name in known}, **values})


def method_table() -> list[tuple[str, str, float, str]]:
    """(kind, title, passes a step, fields with their defaults) of every method by name; of a
    preset, the fields that it sets."""
    rows = []
    for kind, info in METHODS.items():
        made = load(info.where)
        preset = not isinstance(made, type) or bool(info.given)
        cls = made if isinstance(made, type) else type(made)
        needed = {e.name: _STAND_INS[e.name] for e in fields(cls) if _required(e)}
        usual = cls(**needed)
        method = method_of({"kind": kind, **stand_ins(kind)}) or Method()
        own = [entry.name for entry in fields(cls) if entry.init]
        values = {name: value for name, value in method.columns().items() if name in own}
        if preset:
            values = {
                name: value
                for name, value in values.items()
                if name in info.given or getattr(method, name) != getattr(usual, name)
            }
        else:
            values = {**values, **dict.fromkeys(needed, None)}
        shown = [
            name if value is None else f"{name}={value if value != '' else repr('')}"
            for name, value in values.items()
        ]
        rows.append((kind, info.title, method.passes(), ", ".join(shown)))
    return rows


# What a required field may be, where any value will do.
_STAND_INS = {"adjustments": "all", "method": "dropout", "sites": ("input", "0")}


def stand_ins(kind: str) -> dict[str, Any]:
    """Values for the fields that a kind has no default for."""
    made = load(METHODS[kind].where)
    required = [e.name for e in fields(made) if _required(e)] if isinstance(made, type) else []
    return {name: _STAND_INS[name] for name in required if name not in METHODS[kind].given}


def _required(entry: Any) -> bool:
    return entry.default is MISSING and entry.default_factory is MISSING


def _typed(cls: type[Method], name: str, value: Any) -> Any:
    """A value from YAML as the field wants it. Raises ValueError where it cannot be meant."""
    hint = _hints(cls)[name]  # type: ignore[arg-type]
    truth = isinstance(value, bool)
    number = isinstance(value, int | float) and not truth
    allowed = {
        float: (number and math.isfinite(value), "a finite number"),
        int: (isinstance(value, int) and not truth, "a whole number"),
        bool: (truth, "true or false"),
        str: (isinstance(value, str), "text"),
    }
    if hint in allowed and not allowed[hint][0]:
        raise ValueError(f"{name} is {value!r}; allowed: {allowed[hint][1]}")
    return float(value) if hint is float else value
