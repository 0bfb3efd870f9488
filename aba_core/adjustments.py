"""The 27 adjustments, their groups, and weighted sets of them.

An adjustment says by how much each category of features (low, middle, high attribution in the
sense of the loss) is raised or lowered. Source: the published slides, section "Adjustment Groups"
(names, order, groups) and "Tiny MNIST, Adjustments in Isolation" (offset form).

Plain Python, no tensors: the command line lists the table without loading torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from aba_core.identity import meant


class Group(StrEnum):
    """Nominal effect on the loss: Epsilon raises it, Delta lowers it, Neutral keeps it."""

    NEUTRAL = "Neutral"
    DELTA = "Delta"
    EPSILON = "Epsilon"

    @classmethod
    def parse(cls, name: str) -> Group:
        """A group by its name or a prefix of at least three letters, in any case ("eps")."""
        prefix = name.strip().rstrip(".").lower()
        for group in cls:
            if len(prefix) >= 3 and group.value.lower().startswith(prefix):
                return group
        known = [str(group.value).lower() for group in cls] + ["all"]
        raise ValueError(f"unknown group {name!r}{meant(prefix, known)}; known: {', '.join(known)}")


@dataclass(frozen=True, order=True)
class Adjustment:
    """One change per category, each −1, 0 or 1."""

    low: int
    middle: int
    high: int

    def __post_init__(self) -> None:
        for name in ("low", "middle", "high"):
            if getattr(self, name) not in (-1, 0, 1):
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: -1, 0, 1")

    @property
    def index(self) -> int:
        """Place in the published order, 0 to 26."""
        return _INDEX[self.low, self.middle, self.high]

    @property
    def group(self) -> Group:
        """Nominal group, the sign of high − low."""
        return (Group.NEUTRAL, Group.EPSILON, Group.DELTA)[_sign(self.high - self.low)]

    @property
    def offset_form(self) -> tuple[int, int, int]:
        """(offset, low, high) = (middle, low − middle, high − middle): a brightness shift apart
        from what the attribution decides."""
        return (self.middle, self.low - self.middle, self.high - self.middle)

    def __iter__(self) -> Iterator[int]:
        return iter((self.low, self.middle, self.high))

    def __str__(self) -> str:
        return "[" + ", ".join(f"{change:d}".replace("-", "−") for change in self) + "]"


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


# Published order: nothing changed, one category changed, two, three.
_PUBLISHED_ORDER = (
    (0, 0, 0),
    (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1), (1, 0, 0), (-1, 0, 0),
    (0, 1, 1), (0, -1, 1), (0, 1, -1), (0, -1, -1),
    (1, 1, 0), (1, -1, 0), (-1, 1, 0), (-1, -1, 0),
    (1, 0, 1), (1, 0, -1), (-1, 0, 1), (-1, 0, -1),
    (1, 1, 1), (1, -1, 1), (1, 1, -1), (1, -1, -1),
    (-1, 1, 1), (-1, -1, 1), (-1, 1, -1), (-1, -1, -1),
)  # fmt: skip
_INDEX = {changes: index for index, changes in enumerate(_PUBLISHED_ORDER)}

ADJUSTMENTS: tuple[Adjustment, ...] = tuple(Adjustment(*changes) for changes in _PUBLISHED_ORDER)

# Each adjustment and its opposite, by index: 13 pairs, each once; 0 is its own.
OPPOSITES: tuple[int, ...] = tuple(
    _INDEX[-low, -middle, -high] for low, middle, high in _PUBLISHED_ORDER
)
PAIRS: tuple[tuple[int, int], ...] = tuple(
    (index, opposite) for index, opposite in enumerate(OPPOSITES) if index < opposite
)

# The published unions of groups, and the one missing there (Del. & Neu.), by title.
GROUP_SETS: dict[str, tuple[Group, ...]] = {
    "Neutral": (Group.NEUTRAL,),
    "Delta": (Group.DELTA,),
    "Epsilon": (Group.EPSILON,),
    "Eps. & Neu.": (Group.EPSILON, Group.NEUTRAL),
    "Eps. & Del.": (Group.EPSILON, Group.DELTA),
    "Del. & Neu.": (Group.DELTA, Group.NEUTRAL),
    "All": (Group.NEUTRAL, Group.DELTA, Group.EPSILON),
}


def members(groups: str | Iterable[Group | str]) -> tuple[int, ...]:
    """Indices of the adjustments of a union of groups: its title ("Eps. & Del."), or the groups.

    Raises ValueError for an unknown title or group.
    """
    if isinstance(groups, str):
        if groups not in GROUP_SETS:
            raise ValueError(f"unknown group set {groups!r}; known: {', '.join(GROUP_SETS)}")
        groups = GROUP_SETS[groups]
    chosen = {group if isinstance(group, Group) else Group.parse(group) for group in groups}
    return tuple(a.index for a in ADJUSTMENTS if a.group in chosen)


def group_set_text(title: str) -> str:
    """A union of groups as `AdjustmentSet.parse` reads it: "epsilon+delta", "all"."""
    groups = GROUP_SETS[title]
    return "all" if len(groups) == len(Group) else "+".join(group.lower() for group in groups)


Changes = Adjustment | tuple[float, ...]


MOST_REPEATS = 50  # of the rarest member in a set's text


def _place(item: tuple[Changes, float]) -> tuple:
    """Canonical order in a set: the published one, then other changes by their numbers."""
    member = item[0]
    named = isinstance(member, Adjustment)
    return (0, member.index) if named else (1, *member)


@dataclass(frozen=True)
class AdjustmentSet:
    """Adjustments with weights; each sample draws one of them at each step.

    Members are `Adjustment`s or, for a split into other than low/middle/high, tuples with one
    change per category, low category first. Members are distinct; repeating one adds weight.
    """

    adjustments: tuple[Changes, ...]
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        members = tuple(
            member if isinstance(member, Adjustment) else tuple(member)
            for member in self.adjustments
        )
        weights = tuple(self.weights) or (1.0,) * len(members)
        if not members:
            raise ValueError("an adjustment set needs at least one adjustment")
        if len(weights) != len(members):
            raise ValueError(f"{len(members)} adjustments but {len(weights)} weights")
        for weight in weights:
            if not (weight > 0 and math.isfinite(weight)):
                raise ValueError(f"weight {weight!r}; allowed: finite and above 0")
        for member in members:
            if not all(isinstance(c, int | float) and math.isfinite(c) for c in member):
                raise ValueError(f"adjustment {member!r}; allowed: finite numbers, one a category")
        merged: dict[Changes, float] = {}
        for member, weight in zip(members, weights, strict=True):
            merged[member] = merged.get(member, 0.0) + weight
        merged = dict(sorted(merged.items(), key=_place))  # a set has no order; draws need one
        total = sum(merged.values())
        object.__setattr__(self, "adjustments", tuple(merged))
        object.__setattr__(self, "weights", tuple(w / total for w in merged.values()))

    @classmethod
    def from_indices(cls, indices: Iterable[int], weights: Sequence[float] = ()) -> AdjustmentSet:
        """A set by published indices; an index named twice has twice the weight."""
        if isinstance(indices, int | str):
            raise ValueError(f"indices is {indices!r}; needed: several, as [3, 4, 0, 0]")
        members = []
        for index in indices:
            if isinstance(index, bool) or index not in range(len(ADJUSTMENTS)):
                raise ValueError(f"adjustment index {index!r}; allowed: 0 to 26")
            members.append(ADJUSTMENTS[int(index)])
        return cls(tuple(members), tuple(weights))

    @classmethod
    def parse(cls, text: str) -> AdjustmentSet:
        """A set from text: indices with optional repeats ("3,4,0x2") or groups joined by +
        ("epsilon+delta", "all")."""
        if re.search(r"[a-wyz]", text.lower()):
            names = [part for part in re.split(r"\s*\+\s*", text.strip()) if part]
            return cls.of_groups(*names)
        indices: list[int] = []
        for part in re.split(r"[,\s]+", text.strip(" \t{}[]")):
            match = re.fullmatch(r"(\d+)(?:x(\d+))?", part)
            if not match or match[2] == "0" * len(match[2] or "x"):
                raise ValueError(
                    f"cannot read {part!r} in adjustment set {text!r}; "
                    "allowed: indices 0 to 26 with optional repeats ('3,4,0x2') or groups joined "
                    "by + ('epsilon+delta', 'all')"
                )
            indices += [int(match[1])] * int(match[2] or 1)
        return cls.from_indices(indices)

    @classmethod
    def of_groups(cls, *groups: Group | str) -> AdjustmentSet:
        """The union of whole nominal groups, equal weights; "all" is all three."""
        if not groups:
            raise ValueError("of_groups needs at least one of: neutral, delta, epsilon, all")
        chosen: set[Group] = set()
        for group in groups:
            if str(group).strip().lower() == "all":
                chosen |= set(Group)
            else:
                chosen.add(group if isinstance(group, Group) else Group.parse(group))
        return cls(tuple(a for a in ADJUSTMENTS if a.group in chosen))

    def __repr__(self) -> str:
        named = all(isinstance(member, Adjustment) for member in self.adjustments)
        whole = named and "@" not in self.text
        return f"AdjustmentSet.parse({self.text!r})" if whole else f"<AdjustmentSet {self.text}>"

    @cached_property
    def text(self) -> str:
        """Canonical text: "3,4,0x2" where weights are in the ratio of small whole numbers, in
        published order; otherwise every member with its weight."""
        return self._named(MOST_REPEATS) or self._weighed()

    def _named(self, most: int) -> str:
        """The members by index, the rarest at most so many times; "" where that cannot be."""
        smallest = min(self.weights)
        if not all(isinstance(member, Adjustment) for member in self.adjustments):
            return ""
        for times in range(1, most + 1):
            repeats = [times * weight / smallest for weight in self.weights]
            if all(abs(r - round(r)) < 1e-9 * times for r in repeats):
                pairs = sorted(
                    (member.index, round(r))
                    for member, r in zip(self.adjustments, repeats, strict=True)
                    if isinstance(member, Adjustment)
                )
                return ",".join(f"{index}x{r}" if r > 1 else f"{index}" for index, r in pairs)
        return ""

    def _weighed(self) -> str:
        return ", ".join(
            f"{tuple(member)}@{weight:.6g}"
            for member, weight in zip(self.adjustments, self.weights, strict=True)
        )

    def plain(self) -> Any:
        """The set's identity: the text of whole multiples of the smallest weight, or every member
        with its weight."""
        if named := self._named(1):
            return named
        pairs = zip(self.adjustments, self.weights, strict=True)
        return [[list(member), weight] for member, weight in pairs]

    def table(self, categories: int) -> tuple[tuple[float, ...], ...]:
        """Changes per category, one row a member, for a split into `categories` categories.

        A low/middle/high adjustment loses its middle where there are two categories, and is
        refused there if it changes the middle: that change would silently do nothing.
        """
        rows = []
        for member in self.adjustments:
            changes = tuple(float(c) for c in member)
            if isinstance(member, Adjustment) and categories == 2:
                if member.middle:
                    raise ValueError(
                        f"adjustment {member.index} {member} changes the middle category, "
                        "but this split has only low and high"
                    )
                changes = (changes[0], changes[2])
            if len(changes) != categories:
                raise ValueError(
                    f"adjustment {member} has {len(changes)} categories, the split {categories}"
                )
            rows.append(changes)
        return tuple(rows)

    def __len__(self) -> int:
        return len(self.adjustments)

    def __str__(self) -> str:
        return "{" + self.text + "}"
