"""What a report card measures and on how many samples, in plain data. `card` measures it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from aba_core.identity import check_fields, meant
from aba_core.quantities import ASPECTS


@dataclass(frozen=True)
class CardSettings:
    """Which aspects a report card has, and its choices; every one is part of a run's identity.

    aspects: names of `quantities.ASPECTS`. samples: of the test split, for all that is cheap;
    attacked: for attacks; alarm: for long attacks and SPSA; probed: training samples for curvature
    and GraNd. epsilon: radius of attacks in L∞, in parts of the inputs' range for pictures ([0, 1]
    pictures have range 1) and in standardised units for all else; epsilon_l2: in L2, in the same
    unit times the root of the number of features. long_steps: of the attack that is to detect
    masked gradients; spsa_steps: of SPSA. others: data sets of another distribution, by name,
    resized to the same shape. seed: of all the card's draws, the same for every model.
    """

    kind: ClassVar[str] = "card"
    version: ClassVar[int] = 1

    aspects: tuple[str, ...] = tuple(ASPECTS)
    samples: int = 300
    attacked: int = 100
    alarm: int = 20
    probed: int = 50
    epsilon: float = 0.1
    epsilon_l2: float = 0.05
    long_steps: int = 1000
    spsa_steps: int = 20
    others: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("aspects", "others"):
            given = getattr(self, name)
            names = (given,) if isinstance(given, str) else tuple(given)
            object.__setattr__(self, name, names)
        for aspect in self.aspects:
            if aspect not in ASPECTS:
                raise ValueError(
                    f"unknown aspect {aspect!r}{meant(aspect, ASPECTS)}; known: "
                    f"{', '.join(ASPECTS)}"
                )
        if not self.aspects:
            raise ValueError(f"no aspects; known: {', '.join(ASPECTS)}")
        # In one order, so that the same card has one identity.
        object.__setattr__(self, "aspects", tuple(a for a in ASPECTS if a in self.aspects))
        for name in ("samples", "attacked", "alarm", "probed", "long_steps", "spsa_steps"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 10**6:
                raise ValueError(f"{name} is {value!r}; allowed: whole numbers from 1 to 1000000")
        for name in ("epsilon", "epsilon_l2"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and 0 < value < math.inf):
                raise ValueError(f"{name} is {value!r}; allowed: finite numbers above 0")
        if type(self.seed) is not int or not 0 <= self.seed < 2**62:
            raise ValueError(f"seed is {self.seed!r}; allowed: whole numbers from 0")

    @classmethod
    def read(cls, given: Any) -> CardSettings | None:
        """Settings from plain data: None for no card, true for a whole one, aspects, or fields.

        Raises ValueError for a field or an aspect that there is not.
        """
        if given is None or isinstance(given, CardSettings):
            return given
        if isinstance(given, bool):
            return cls() if given else None
        if isinstance(given, Mapping):
            check_fields(given, [entry.name for entry in fields(cls)], " of card")
            return cls(**given)
        if isinstance(given, str | list | tuple) and all(isinstance(one, str) for one in given):
            return cls(aspects=(given,) if isinstance(given, str) else tuple(given))
        raise ValueError(f"card is {given!r}; needed: aspects, as [calibration, attacks], or true")
