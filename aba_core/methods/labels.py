"""Labels and logits: targets that are less certain than the data's, and outputs kept small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from aba_core.attribution import Loss
from aba_core.methods.base import Method, column, soft
from aba_core.randomness import Draws
from aba_core.sites import Tail


@dataclass(frozen=True)
class LabelSmoothing(Method):
    """y' = (1 − ε) y + ε / classes: weight ε is spread over all classes, the true one included.

    With over "others", y' = (1 − ε) y + ε (1 − y) / (classes − 1), over all but the true one. The
    two are the same where ε of "others" is (classes − 1) / classes of the other. Source: Szegedy et
    al. 2016, "Rethinking the Inception architecture for computer vision", section 7, the convention
    of PyTorch's CrossEntropyLoss; "others": Summers and Dinneen 2019, "Improved adversarial
    robustness via logit regularization methods".
    """

    kind: ClassVar[str] = "label-smoothing"

    epsilon: float = 0.1
    over: str = "all"

    def __post_init__(self) -> None:
        self.check(epsilon=(0.0, 1.0))
        if self.over not in ("all", "others"):
            raise ValueError(f"unknown over {self.over!r}; known: all, others")

    def batch(self, tail: Tail, h: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        labels = soft(y, tail.outputs, h.dtype)
        epsilon = column(self.epsilon, labels)
        if self.over == "others":
            return h, (1 - epsilon) * labels + epsilon * (1 - labels) / (tail.outputs - 1)
        return h, (1 - epsilon) * labels + epsilon / tail.outputs


@dataclass(frozen=True)
class LogitSqueezing(Method):
    """The loss plus beta · ‖f(x)‖², the squared length of the logits.

    Source: Kannan, Kurakin and Goodfellow 2018, "Adversarial logit pairing", section 3.
    """

    kind: ClassVar[str] = "logit-squeezing"

    beta: float = 1e-3

    def __post_init__(self) -> None:
        self.check(beta=(0.0, 1e3))

    def loss(self, logits: Tensor, y: Tensor, loss: Loss) -> Tensor:
        each = loss(logits, y)
        return each + column(self.beta, each) * logits.square().sum(-1)


@dataclass(frozen=True)
class MaxSup(Method):
    """The loss plus alpha · (max z − mean z): the highest logit is held down, whichever class it is
    of; label smoothing holds down that of the true class.

    Source: Zhou et al. 2025, "MaxSup: Overcoming representation collapse in label smoothing".
    """

    kind: ClassVar[str] = "maxsup"
    tasks: ClassVar[tuple[str, ...]] = ("multiclass",)

    alpha: float = 0.1

    def __post_init__(self) -> None:
        self.check(alpha=(0.0, 1e3))

    def loss(self, logits: Tensor, y: Tensor, loss: Loss) -> Tensor:
        each = loss(logits, y)
        return each + column(self.alpha, each) * (logits.amax(-1) - logits.mean(-1))


@dataclass(frozen=True)
class ConfidencePenalty(Method):
    """The loss minus beta · the entropy of the predicted distribution, in nats.

    Source: Pereyra et al. 2017, "Regularizing neural networks by penalizing confident output
    distributions", equation 2.
    """

    kind: ClassVar[str] = "confidence-penalty"
    tasks: ClassVar[tuple[str, ...]] = ("multiclass",)

    beta: float = 0.1

    def __post_init__(self) -> None:
        self.check(beta=(0.0, 1e3))

    def loss(self, logits: Tensor, y: Tensor, loss: Loss) -> Tensor:
        each = loss(logits, y)
        log_p = functional.log_softmax(logits, dim=-1)
        return each + column(self.beta, each) * (log_p.exp() * log_p).sum(-1)
