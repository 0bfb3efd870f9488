"""Methods that hold another: for a part of the training, at a layer drawn anew at each step, or
with several changed copies of each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from aba_core.attribution import Loss
from aba_core.methods.base import At, Method, has_own, method_of
from aba_core.randomness import Draws, check_seed, random_bits
from aba_core.sites import INPUT, Tail


@dataclass(frozen=True)
class Around(Method):
    """A method that holds another and, by itself, does what that does. method: a `Method`, or the
    plain data of one. Its site is that of the method held."""

    kind: ClassVar[str] = "around"

    method: Any

    def __post_init__(self) -> None:
        held = method_of(self.method)
        if held is None:
            raise ValueError(f"{self.kind!r} holds no method; needed: method: name, or its fields")
        if self.site not in (INPUT, held.site):
            if held.site != INPUT or len(held.parts()) > 1:
                raise ValueError(
                    f"site is {self.site!r} around a method at {held.site!r}; say it there"
                )
            held = replace(held, site=self.site)
        object.__setattr__(self, "method", held)
        object.__setattr__(self, "site", held.site)

    @property
    def irrelevant(self) -> frozenset[str]:
        return frozenset({"site"})  # the method held has it

    def parts(self) -> tuple[Method, ...]:
        return self.method.parts()

    def passes(self) -> float:
        return self.method.passes()

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        return self.method.batch(tail, h, y, draws)

    def loss(self, logits: Tensor, y: Tensor, loss: Loss) -> Tensor:
        return self.method.loss(logits, y, loss)

    def gradient(self, at: At, parameters: Tensor) -> tuple:
        return self.method.gradient(at, parameters)

    def architecture(self, model: nn.Module) -> nn.Module:
        return self.method.architecture(model)

    def fitted(self, model: nn.Module) -> Self:
        return self.with_values(method=self.method.fitted(model))

    def acting(self, step: int, steps: int) -> Method:
        held = self.method.acting(step, steps)
        return self if held is self.method else self.with_values(method=held)

    def places(self) -> tuple[str, ...]:
        return self.method.places()

    @property
    def varies(self) -> bool:
        return self.method.varies

    @property
    def looks_every(self) -> int:
        return self.method.looks_every

    @property
    def enlarges(self) -> bool:  # type: ignore[override]
        return self.method.enlarges

    def names_of_purposes(self) -> tuple[str, ...]:
        return (*self.purposes, *self.method.names_of_purposes())

    @property
    def needs_untrained(self) -> bool:
        return self.method.needs_untrained

    def columns(self) -> dict[str, Any]:
        own = {e.name: getattr(self, e.name) for e in fields(self) if e.name != "method"}
        shown = {
            n: v if isinstance(v, bool | int | float | str) else str(v) for n, v in own.items()
        }
        return {**self.method.columns(), **shown, "held_method": self.method.kind}

    @property
    def structure(self) -> str:
        own = self.with_values(method=None)
        return f"{Method.structure.fget(own)} around {self.method.structure}"  # type: ignore[attr-defined]

    @classmethod
    def stack(cls, methods: Sequence[Self], device: Any, dtype: torch.dtype) -> Self:
        held = [each.method for each in methods]
        stacked = super().stack(methods, device, dtype)
        return stacked.with_values(method=type(held[0]).stack(held, device, dtype))


@dataclass(frozen=True)
class During(Around):
    """A method for a part of the training: from the share `start` of its steps to the share `end`;
    training as usual before and after.

    Early-only and late-only dropout are {start: 0, end: 0.5} and {start: 0.5, end: 1}. Source: Liu,
    Xu, Jin, Shen and Darrell 2023, "Dropout reduces underfitting".
    """

    kind: ClassVar[str] = "during"

    start: float = 0.0
    end: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(start=(0.0, 1.0), end=(0.0, 1.0))
        if self.start >= self.end:
            raise ValueError(f"start is {self.start!r}; allowed: below end, {self.end!r}")
        if has_own(self.method, "architecture"):
            raise ValueError(
                f"{self.method.kind!r} changes the architecture, which holds for the whole training"
            )

    @classmethod
    def per_replica(cls) -> tuple[str, ...]:
        return ()  # side by side, all are inside the window or none is

    def passes(self) -> float:
        return 1.0 + (self.end - self.start) * (self.method.passes() - 1.0)

    @property
    def varies(self) -> bool:
        return True

    def acting(self, step: int, steps: int) -> Method:
        if not steps:
            raise ValueError(f"{self.kind!r} needs the number of all steps; give `steps`")
        inside = self.start <= step / steps < self.end
        return self.method.acting(step, steps) if inside else Method()


@dataclass(frozen=True)
class AnySite(Around):
    """A method at a layer that is drawn anew at each step among `sites`, names of layers or
    "input", with equal chances.

    The order of the layers is that of the seed `order`, the same for all runs, so that runs train
    side by side. Source: the layers of Verma et al. 2019, "Manifold mixup", which draws them so.
    """

    kind: ClassVar[str] = "any-site"
    version: ClassVar[int] = 2  # see Augmentation.version

    sites: Any
    order: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        given = (self.sites,) if isinstance(self.sites, str) else tuple(self.sites)
        if len(given) < 2 or len(set(given)) < len(given):
            raise ValueError(f"sites is {list(given)!r}; needed: two layers or more, each once")
        object.__setattr__(self, "sites", given)
        check_seed(self.order)

    @property
    def varies(self) -> bool:
        return True

    def places(self) -> tuple[str, ...]:
        return self.sites

    def acting(self, step: int, steps: int) -> Method:
        bits = random_bits(torch.tensor(self.order), "any-site", step, torch.tensor(0))
        site = self.sites[int(bits % len(self.sites))]
        return self.method.acting(step, steps).with_values(site=site)


@dataclass(frozen=True)
class Copies(Around):
    """Several changed copies of each sample in one step: the loss is the mean over `copies` batches
    that the method makes of the same samples. Copy c of step t draws what step t · copies + c
    draws with one copy.

    Source: Hoffer et al. 2020, "Augment your batch: Improving generalization through instance
    repetition", and Fort et al. 2021, "Drawing multiple augmentation samples per image during
    training efficiently decreases test error".
    """

    kind: ClassVar[str] = "copies"

    copies: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.copies <= 64:
            raise ValueError(f"copies is {self.copies!r}; allowed: 2 to 64")
        if self.method.enlarges:
            raise ValueError(f"{self.method.kind!r} enlarges the batch itself")

    @property
    def enlarges(self) -> bool:  # type: ignore[override]
        return True

    def passes(self) -> float:
        return self.copies * self.method.passes()

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        lead = draws.index.dim()
        changed = [
            self.method.batch(
                tail,
                h,
                y,
                replace(
                    draws,
                    step=draws.step * self.copies + copy,
                    steps=draws.steps * self.copies,
                    made=None,
                ),
            )
            for copy in range(self.copies)
        ]
        inputs, labels = zip(*changed, strict=True)
        return torch.cat(inputs, dim=lead - 1), torch.cat(labels, dim=lead - 1)
