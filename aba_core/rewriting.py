"""Rewriting: an architecture whose layers go forward as before and back in another way.

A transform changes a copy of a model in place. Parameters keep their names, so that the copy runs
with the values of one model or of stacked replicas, under `vmap` too. What a layer does must be
seen to be changed, so that only layers known here are let through, in containers that do nothing
but run them.

Relevance is propagated by gradients: a layer with output z and rule ρ gives p · (z / p) with the
quotient held fixed, where p is the layer's output by changed weights. Forward this is z; and the
gradient times the input, at any layer, is the relevance. Sources: Bach et al. 2015 (LRP), Montavon
et al. 2019 (rules, and LRP by gradients).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from aba_core.cutting import Part
from aba_core.models import TextCNN

Rule = Literal["zero", "epsilon", "gamma", "z_plus", "alpha_beta"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, TextCNN)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Linear, or choosing among inputs: gradient × input is their relevance as they are. Dropout does
# nothing in evaluation and keeps or drops in training.
_AS_THEY_ARE = (
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
    *(nn.ZeroPad1d, nn.ZeroPad2d),
)
_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Transform(Protocol):
    """What changes a copy of a model in place. Equal ones do the same, so their work is kept."""

    def __call__(self, model: nn.Module) -> None: ...

    def __hash__(self) -> int: ...


def _layers(model: nn.Module, method: str) -> list[nn.Module]:
    """The layers that the method may change; ValueError for a module that it cannot know."""
    known = (*_AS_THEY_ARE, *_LINEAR, *_NORMS, nn.ReLU)
    for name, module in model.named_modules():
        if type(module) in (*known, *_CONTAINERS) or isinstance(module, Part):
            continue
        shown = f"{name!r} ({type(module).__name__})" if name else type(module).__name__
        raise ValueError(
            f"{method} cannot go through the module {shown}; needed: nn.Sequential of "
            "convolutions, linear layers, batch norm, pooling, dropout and nn.ReLU, or TextCNN"
        )
    return [module for module in model.modules() if type(module) in known]


# --- ReLU ----------------------------------------------------------------------------------------


class _Guided(torch.autograd.Function):
    """ReLU that lets positive signals back, from positive inputs alone where `both`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, both: bool) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: Tensor) -> None:
        x, ctx.both = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        positive = signal.clamp(min=0)
        return (positive * (x > 0) if ctx.both else positive), None


class _GuidedReLU(nn.ReLU):
    both: bool

    def forward(self, x: Tensor) -> Tensor:
        return _Guided.apply(x, self.both)


@dataclass(frozen=True)
class GuidedReLU:
    """Every ReLU lets only positive signals back: from everywhere (deconvnet, Zeiler and Fergus
    2014), or where its input was positive (guided backpropagation, Springenberg et al. 2015)."""

    both: bool

    def __call__(self, model: nn.Module) -> None:
        method = "guided backpropagation" if self.both else "deconvnet"
        for module in _layers(model, method):
            if type(module) is nn.ReLU:
                module.__class__ = _GuidedReLU
                module.both = self.both  # type: ignore[assignment]


# --- layer-wise relevance propagation ------------------------------------------------------------


@dataclass(frozen=True)
class Relevance:
    """Layers propagate relevance by a rule: `rule` for convolutions, `dense` for linear layers.

    With contributions x·w and the bias counted as one: "zero" gives each its share in the output
    z; "epsilon" its share in z + ε·sign(z); "gamma" its share with w + γ·w⁺ for w, meant for inputs
    not below 0; "alpha_beta" α times its share in the positive ones less β times that in the
    negative ones, α − β = 1; "z_plus" is α 1, β 0. A layer whose denominator is 0 passes nothing
    on. Batch norm in evaluation has one input an output, so it has rule "epsilon", or "zero".
    """

    names: ClassVar[tuple[str, ...]] = get_args(Rule)

    rule: Rule = "epsilon"
    dense: Rule | None = None
    epsilon: float = 1e-6
    gamma: float = 0.25
    alpha: float = 2.0

    def __post_init__(self) -> None:
        for name in (self.rule, self.dense):
            if name is not None and name not in self.names:
                raise ValueError(f"unknown rule {name!r}; known: {', '.join(self.names)}")
        for field, low in (("epsilon", 0.0), ("gamma", 0.0), ("alpha", 1.0)):
            value = getattr(self, field)
            if not low <= value < math.inf:
                raise ValueError(f"{field} is {value!r}; allowed: finite, not below {low:g}")

    def __call__(self, model: nn.Module) -> None:
        for module in _layers(model, "LRP"):
            if type(module) in _RULED:
                dense = type(module) is nn.Linear and self.dense is not None
                rule = self.dense if dense else self.rule
                if type(module) in _NORMS:
                    if module.running_mean is None:
                        raise ValueError("LRP takes batch norm with running statistics only")
                    rule = "zero" if self.rule == "zero" else "epsilon"
                module.__class__ = _RULED[type(module)]
                module.relevance, module.rule = self, rule  # type: ignore[assignment]


def _shared(z: Tensor, *parts: tuple[float, Tensor]) -> Tensor:
    """z forward; back, the weighted sum of the parts, each by shares of what it adds up to."""
    out = torch.zeros_like(z)
    for weight, part in parts:
        share = torch.where(part == 0, 0, z / torch.where(part == 0, 1, part))
        out = out + weight * part * share.detach()
    return out + (z - out).detach()


class _Ruled:
    """A linear layer by a rule. `_linear(x, weight, bias)` is what it does."""

    relevance: Relevance
    rule: Rule

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, linear = self._weight(x), self._bias(x), self._linear  # type: ignore[attr-defined]
        z, how = linear(x, weight, bias), self.relevance
        if self.rule == "zero":
            return _shared(z, (1.0, z))
        if self.rule == "epsilon":
            return _shared(z, (1.0, z + how.epsilon * torch.where(z < 0, -1.0, 1.0).to(z.dtype)))
        up, down = weight.clamp(min=0), weight.clamp(max=0)
        bias_up = None if bias is None else bias.clamp(min=0)
        bias_down = None if bias is None else bias.clamp(max=0)
        if self.rule == "gamma":
            more = None if bias is None else bias + how.gamma * bias.clamp(min=0)
            return _shared(z, (1.0, linear(x, weight + how.gamma * up, more)))
        above, below = x.clamp(min=0), x.clamp(max=0)
        alpha = 1.0 if self.rule == "z_plus" else how.alpha
        parts = [(alpha, linear(above, up, bias_up) + linear(below, down, None))]
        if alpha != 1:
            parts.append((1 - alpha, linear(above, down, bias_down) + linear(below, up, None)))
        return _shared(z, *parts)

    def _weight(self, x: Tensor) -> Tensor:
        return self.weight  # type: ignore[attr-defined]

    def _bias(self, x: Tensor) -> Tensor | None:
        return self.bias  # type: ignore[attr-defined]


class _RuledLinear(_Ruled, nn.Linear):
    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(x, weight, bias)


class _RuledConv1d(_Ruled, nn.Conv1d):
    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)


class _RuledConv2d(_Ruled, nn.Conv2d):
    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)


class _RuledConv3d(_Ruled, nn.Conv3d):
    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)


class _RuledNorm(_Ruled):
    """Batch norm in evaluation: a factor and a number added, a channel."""

    def _weight(self, x: Tensor) -> Tensor:
        norm: Any = self
        if norm.training:
            raise ValueError("LRP takes batch norm as in evaluation; needed: mode 'eval'")
        factor = torch.rsqrt(norm.running_var + norm.eps)
        factor = factor if norm.weight is None else factor * norm.weight
        return factor.view(-1, *(1,) * (x.dim() - 2))

    def _bias(self, x: Tensor) -> Tensor:
        norm: Any = self
        shift = -norm.running_mean.view(-1, *(1,) * (x.dim() - 2)) * self._weight(x)
        return shift if norm.bias is None else shift + norm.bias.view_as(shift)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return x * weight + bias


class _RuledNorm1d(_RuledNorm, nn.BatchNorm1d):
    pass


class _RuledNorm2d(_RuledNorm, nn.BatchNorm2d):
    pass


class _RuledNorm3d(_RuledNorm, nn.BatchNorm3d):
    pass


_RULED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: _RuledLinear,
    nn.Conv1d: _RuledConv1d,
    nn.Conv2d: _RuledConv2d,
    nn.Conv3d: _RuledConv3d,
    nn.BatchNorm1d: _RuledNorm1d,
    nn.BatchNorm2d: _RuledNorm2d,
    nn.BatchNorm3d: _RuledNorm3d,
}
