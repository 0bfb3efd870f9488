"""The seam: what a method of training is, to the replica engine and to anybody's own loop.

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
from torch import Tensor

from aba_core.arms import METHODS
from aba_core.attribution import Loss
from aba_core.identity import Use, load, plain
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
    train side by side; all others are shared.
    """

    kind: ClassVar[str] = "plain"
    version: ClassVar[int] = 1
    purposes: ClassVar[tuple[str, ...]] = ()

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

    def names_of_purposes(self) -> tuple[str, ...]:
        """All purposes that it draws for."""
        return self.purposes

    @property
    def needs_untrained(self) -> bool:
        """Whether the tail must know the model as it was initialised."""
        return False

    @property
    def needs_last_gradient(self) -> bool:
        """Whether the tail must hold `last_gradient`, as training by replicas does."""
        return False

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

    def of(self, rows: slice) -> Self:
        """A stacked method for some of its replicas."""
        values = {e.name: getattr(self, e.name) for e in fields(self)}
        return self.with_values(
            **{
                name: value[rows] if isinstance(value, Tensor) else value.of(rows)
                for name, value in values.items()
                if isinstance(value, Tensor) or hasattr(value, "of")
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
    return torch.nn.functional.one_hot(y, classes).to(dtype)


@dataclass(frozen=True)
class Chain(Method):
    """Several methods, one after the other, at one site: each changes what the one before left.

    The gradient is that of the last method, taken around the ones before.
    """

    kind: ClassVar[str] = "chain"
    methods: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        sites = {method.site for method in self.methods}
        if len(self.methods) < 2 or len(sites) != 1:
            raise ValueError(
                f"a chain of {len(self.methods)} methods at the sites {', '.join(sorted(sites))}; "
                "needed: two methods or more at one site"
            )
        object.__setattr__(self, "site", self.methods[0].site)

    @property
    def irrelevant(self) -> frozenset[str]:
        return frozenset({"site"})  # its methods have it

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

    def of(self, rows: slice) -> Self:
        return self.with_values(methods=tuple(method.of(rows) for method in self.methods))

    def names_of_purposes(self) -> tuple[str, ...]:
        return tuple(name for method in self.methods for name in method.names_of_purposes())

    @property
    def needs_untrained(self) -> bool:
        return any(method.needs_untrained for method in self.methods)

    @property
    def needs_last_gradient(self) -> bool:
        return any(method.needs_last_gradient for method in self.methods)

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


def _loss_around(method: Method, loss: Loss, logits: Tensor, y: Tensor) -> Tensor:
    return method.loss(logits, y, loss)


# --- from plain data -----------------------------------------------------------------------------


def method_of(data: Any) -> Method | None:
    """The method that plain data say, as a study file has them; None for training as usual.

    data: None, a `Method`, a kind ("mixup"), {kind: ..., field: value, ...}, {use: "module:name",
    field: value, ...} for a class or a ready method of one's own, or a list of these, applied in
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
    if use is not None:
        given.pop("use")
        made = load(use.where)
    else:
        kind = str(data.get("kind", "aba"))
        if kind not in METHODS:
            raise ValueError(f"unknown method {kind!r}; known: {', '.join(METHODS)}")
        made = load(METHODS[kind].where)
    cls = made if isinstance(made, type) else type(made)
    if not issubclass(cls, Method):
        where = use.where if use else METHODS[kind].where
        raise ValueError(f"{where!r} is no Method; needed: a class or an instance of one")
    known = [entry.name for entry in fields(cls) if entry.init]
    for name in given:
        if name not in known:
            raise ValueError(f"unknown field {name!r} of {cls.kind!r}; known: {', '.join(known)}")
    values = {name: _typed(cls, name, value) for name, value in given.items()}
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
        preset = not isinstance(made, type)
        needed = {e.name: "all" for e in fields(made) if _required(e)}
        method = made if preset else made(**needed)
        usual = type(method)(**{e.name: "all" for e in fields(method) if _required(e)})
        shown = [
            name
            if name in needed and not preset
            else f"{name}={value if value != '' else repr('')}"
            for name, value in method.columns().items()
            if not preset or getattr(method, name) != getattr(usual, name)
        ]
        rows.append((kind, info.title, method.passes(), ", ".join(shown)))
    return rows


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
