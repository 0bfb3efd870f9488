"""Sets of adjustments as tensors, and which member each sample draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from aba_core.adjustments import AdjustmentSet
from aba_core.randomness import Draws, choice, edges_of
from aba_core.selection import Selection

if TYPE_CHECKING:
    from aba_core.methods.aba import Augmentation

# What keeps one member of the set; see `choosing`.
MemberPer = Literal["draw", "batch", "turn", "sample", "progress"]


@dataclass(frozen=True)
class Members:
    """Sets as tensors. table: changes, padded to the largest set. weights: each member's
    probability, 0 for padding."""

    table: Float[Tensor, "*replica member category"]
    weights: Float[Tensor, "*replica member"]

    @classmethod
    def stacked(
        cls, sets: Sequence[tuple[AdjustmentSet, Selection]], device: Any, dtype: torch.dtype
    ) -> Members:
        most = max(len(members) for members, _ in sets)
        tables, weights = [], []
        for members, split in sets:
            rows = members.table(split.categories)
            padding = most - len(rows)
            tables.append(rows + rows[-1:] * padding)
            weights.append(members.weights + (0.0,) * padding)
        return cls(
            torch.tensor(tables, device=device, dtype=dtype),
            torch.tensor(weights, device=device, dtype=torch.float64),
        )

    @cached_property
    def edges(self) -> Float[Tensor, "*replica edge"]:
        """Where members begin in the unit interval, but for the first."""
        return edges_of(self.weights)

    def single(self) -> Members:
        return Members(self.table[0], self.weights[0])

    def part(self, rows: slice) -> Members:
        return Members(self.table[rows], self.weights[rows])


@lru_cache(maxsize=64)  # an upload at each step would wait for the device
def members_of(
    members: AdjustmentSet, split: Selection, device: torch.device, dtype: torch.dtype
) -> Members:
    return Members.stacked([(members, split)], device, dtype).single()


def draw_changes(
    augmentation: Augmentation,
    table: Float[Tensor, "*replica member category"],
    weights: Float[Tensor, "*replica member"],
    draws: Draws,
) -> tuple[Float[Tensor, "*lead category"], Float[Tensor, "*lead"]]:
    """Each sample's changes per category, drawn with the set's weights, and its magnitude."""
    drawn = draws.shared(augmentation.draw_per)
    member = choice(weights.double()[..., None, :], choosing(augmentation, weights, drawn))
    changes = table.gather(-2, member[..., None].expand(*member.shape, table.shape[-1]))
    if augmentation.randomize:
        return changes, drawn.magnitude(augmentation.signed)
    return changes, torch.ones(member.shape, dtype=torch.float64, device=member.device)


def choosing(
    augmentation: Augmentation, weights: Float[Tensor, "*replica member"], draws: Draws
) -> Float[Tensor, "*lead"]:
    """The number in (0, 1) that chooses each sample's member: members share the unit interval by
    their weights, in the set's order.

    By member_per: "draw", a number of each draw's own. "batch": one for the batch. "turn": members
    take turns, batch by batch. "sample": each training sample keeps its number throughout.
    "progress": the first member starts the training and the last one ends it, or the other way
    round, as the run's seed has it.
    """
    match augmentation.member_per:
        case "batch":
            return draws.shared("batch").uniform("adjustment")
        case "turn":
            members = (weights > 0).sum(-1, keepdim=True)
            turn = (draws.step % members + 0.5) / members
            return turn.double().expand(draws.index.shape)
        case "sample":
            return draws.lasting("adjustment")
        case "progress":
            done = draws.progress + 0.5 / draws.steps
            backwards = draws.lasting("adjustment", of_run=True) < 0.5
            return torch.where(backwards, 1.0 - done, done + torch.zeros_like(draws.usual[0]))
    return draws.uniform("adjustment")
