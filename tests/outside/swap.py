"""A stranger's method, in a file of its own: nothing in the package names it."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from aba_core import Draws, Method, Tail, column


@dataclass(frozen=True)
class Swap(Method):
    """A share of the features is taken from the next sample of the batch, those of the smallest
    attribution first where `guided`."""

    kind: ClassVar[str] = "swap"
    version: ClassVar[int] = 1
    purposes: ClassVar[tuple[str, ...]] = ("swap",)
    mixes: ClassVar[bool] = True

    share: float = 0.1
    guided: bool = False

    def __post_init__(self) -> None:
        self.check(share=(0.0, 1.0))

    def passes(self) -> float:
        return 2.0 if self.guided else 1.0

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        lead = draws.index.dim()
        features = h.shape[lead:].numel()
        if self.guided:
            order = tail.gradient(h, y, draws).abs().flatten(lead).argsort(-1).argsort(-1)
            rank = (order + 0.5) / features
        else:
            rank = draws.uniforms("swap", features)
        taken = (rank < column(self.share, rank)).reshape(h.shape)
        return h.where(~taken, h.roll(1, lead - 1)), y
