"""A text CNN's convolutions at one input, kept for a pass at inputs that differ from it in few
elements, as those that a map has moved.

A convolution is linear: what it makes of moved inputs is what it made of them before, plus what it
makes of the change. Of MendABA's six adjustments four move a tenth of a text's elements, and two
move all but a fifth alike. C multiplies only what differs from what most elements were moved by.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

Inputs = Float[Tensor, "replica batch *feature"]


class _Seen(NamedTuple):
    """A tensor as it was. Its memory cannot become another's while it is held, and whatever is
    written there counts its version up, Adam in C too."""

    value: Tensor
    version: int

    def is_still(self, other: Tensor) -> bool:
        return (
            other.data_ptr() == self.value.data_ptr()
            and other.shape == self.value.shape
            and other.stride() == self.value.stride()
            and other.dtype == self.value.dtype
            and other._version == self.version
        )


class Kept(NamedTuple):
    """What C is given: memory for sums and, where they are there, the inputs that they are of and
    the shift of each sample from those."""

    sums: Float[Tensor, "replica sum"]
    base: Inputs | None = None
    shifts: Float[Tensor, "replica batch"] | None = None


class Near:
    """What one pass leaves for another within a step. It holds for these inputs and parameters, as
    they were: any other pass is made in full."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None  # stays: fresh memory of its size costs as much as a map
        self.clear()

    def clear(self) -> None:
        """Nothing is kept, and nothing to be."""
        self._base: _Seen | None = None
        self._parameters: _Seen | None = None
        self._moved: _Seen | None = None
        self._shifts: Tensor | None = None

    def begin(self, base: Inputs) -> None:
        """Keep the sums of the next pass at these inputs."""
        self.clear()
        self._base = _Seen(base, base._version)

    def lead(self, moved: Inputs, shifts: Float[Tensor, "replica batch"]) -> None:
        """A pass at these inputs may begin there. shifts: what most elements of a sample were moved
        by, as near as is known: what differs from it is looked for."""
        self._moved = _Seen(moved, moved._version)
        self._shifts = shifts.to(moved.dtype).contiguous()

    @property
    def kept(self) -> bool:
        """Whether there are sums."""
        return self._parameters is not None

    def room(self, flat: Tensor, x: Inputs, sums: int) -> Kept | None:
        """Where a pass at these inputs writes its sums or begins; None where it does neither.
        sums: how many a replica has."""
        if self._base is None:
            return None
        if self._base.is_still(x):
            self._parameters = None  # until the pass has ended well
            held = self._sums
            if held is None or held.shape != (len(x), sums) or held.dtype != x.dtype:
                held = self._sums = x.new_empty(len(x), sums)
            return Kept(held)
        base, moved, parameters = self._base.value, self._moved, self._parameters
        if (
            moved is None
            or parameters is None
            or not (moved.is_still(x) and parameters.is_still(flat))
            or not self._base.is_still(base)
            or base.shape != x.shape
            or base.stride() != x.stride()
        ):
            return None
        assert self._sums is not None
        return Kept(self._sums, base, self._shifts)

    def keep(self, flat: Tensor) -> None:
        """The sums are there, by these parameters."""
        self._parameters = _Seen(flat, flat._version)
