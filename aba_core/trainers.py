"""Which loop trains a model, in plain data: many replicas side by side, or one model at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from aba_core.identity import check_fields, meant

REPLICAS = "replicas"
# Random changes of pictures before a method sees them (`single.transforms`), and their options.
TRANSFORMS: dict[str, dict[str, int]] = {
    "crop": {"padding": 4},
    "flip": {},
    "randaugment": {"ops": 2, "magnitude": 9},
}
MOST = 10**9


@dataclass(frozen=True)
class Single:
    """One model at a time, with data from memory or from disk; see `aba_core.single`.

    accumulate: a batch goes through the model in so many parts, one optimiser step in all. Batch
    norm and methods that mix samples see one part. ema: decay of the average of parameters and
    batch-norm statistics that is evaluated in place of the last ones (0: none). transforms: random
    changes of pictures before the method: "crop", "flip", "randaugment", or {kind: ..., option:
    value}. The other fields decide no number beyond rounding. channels_last: memory format of
    pictures. compile: the training pass goes through `torch.compile`. workers: processes that read
    and decode (0: the training process). checkpoint_every: steps between checkpoints (0: none).
    """

    kind: ClassVar[str] = "single"
    version: ClassVar[int] = 1

    accumulate: int = 1
    ema: float = 0.0
    transforms: tuple[tuple[tuple[str, Any], ...], ...] = ()
    channels_last: bool = False
    compile: bool = False
    workers: int = 0
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        for name, first in (("accumulate", 1), ("workers", 0), ("checkpoint_every", 0)):
            value = getattr(self, name)
            if type(value) is not int or not first <= value <= MOST:
                raise ValueError(
                    f"{name} of trainer 'single' is {value!r}; allowed: whole numbers from {first}"
                )
        for name in ("channels_last", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: true or false")
        if isinstance(self.ema, bool) or not isinstance(self.ema, int | float):
            raise ValueError(f"ema is {self.ema!r}; allowed: numbers from 0 to below 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema!r}; allowed: from 0 to below 1")
        given: Any = self.transforms
        if isinstance(given, str | Mapping) or not hasattr(given, "__iter__"):
            given = (given,)
        object.__setattr__(self, "transforms", tuple(map(_transform, given)))

    @property
    def irrelevant(self) -> frozenset[str]:
        """Fields that decide no number of a run beyond rounding."""
        return frozenset({"channels_last", "compile", "workers", "checkpoint_every"})

    def __str__(self) -> str:
        changed = [e for e in fields(self) if getattr(self, e.name) != e.default]
        options = ", ".join(f"{entry.name}={getattr(self, entry.name)}" for entry in changed)
        return f"single({options})" if options else "single"


def _transform(given: Any) -> tuple[tuple[str, Any], ...]:
    """One transform with all of its options, as pairs."""
    try:
        options = {"kind": given} if isinstance(given, str) else dict(given)
    except (TypeError, ValueError):
        options = {"kind": given}
    kind = options.pop("kind", None)
    if not isinstance(kind, str) or kind not in TRANSFORMS:
        raise ValueError(
            f"unknown transform {kind!r}{meant(kind, TRANSFORMS)}; known: {', '.join(TRANSFORMS)}"
        )
    for name, value in options.items():
        if name not in TRANSFORMS[kind]:
            known = ", ".join(TRANSFORMS[kind]) or "none"
            raise ValueError(f"unknown option {name!r} of transform {kind!r}; known: {known}")
        if type(value) is not int or not 0 <= value <= 30:
            raise ValueError(
                f"{name} of transform {kind!r} is {value!r}; allowed: whole numbers from 0 to 30"
            )
    return tuple({"kind": kind, **TRANSFORMS[kind], **options}.items())


def trainer_of(given: Any) -> str | Single:
    """The trainer that plain data say: "replicas", "single", or {kind: single, option: value}.

    Raises ValueError naming the word that is wrong.
    """
    if isinstance(given, Single) or given == REPLICAS:
        return given
    if given == "single":
        return Single()
    if not isinstance(given, Mapping) or given.get("kind") != "single":
        kind = given.get("kind") if isinstance(given, Mapping) else given
        raise ValueError(f"unknown trainer {kind!r}; known: replicas, single")
    options = {str(name): value for name, value in given.items() if name not in ("kind", "version")}
    check_fields(options, [entry.name for entry in fields(Single)], " of trainer 'single'")
    return Single(**options)
