"""Attribution maps, always in the sense of the loss: a feature whose increase raises the loss has
a positive attribution.

A class score has the opposite sense: raising it lowers the loss. `objective` turns it round, and
nothing else in the package knows of orientation. Most methods are linear in the objective, so the
sense carries over to them. Those that are not explain minus the objective, as a score, and are
turned round (`maps.backward`, `maps.layerwise`), or have no sense at all (absolute forms, variances
and norms, which are high where the model is sensitive).

All functions work on [*lead, *feature] inputs with logits [*lead, class], where lead is [batch]
for one model and [replica, batch] for stacked ones.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from aba_core import maps
from aba_core.architecture import check_module, check_tensor, first_line, mixes_samples
from aba_core.arms import MapKind, Target
from aba_core.identity import Use, meant
from aba_core.kernels import losses
from aba_core.making import Differentiated, Forward, Maker, ModuleMaker
from aba_core.randomness import Draws, choice
from aba_core.rewriting import Transform

Mode = Literal["eval", "train"]
Per = Literal["sample", "batch"]

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Float[Tensor, "*lead class_"], labels: Tensor) -> Float[Tensor, "*lead"]:
    """Cross-entropy per sample; labels are classes [*lead] or soft labels [*lead, class]."""
    if labels.dim() < logits.dim() and (made := losses.cross_entropy(logits, labels)) is not None:
        return made
    log_probability = functional.log_softmax(logits, dim=-1)
    if labels.dim() == logits.dim():
        return -(labels * log_probability).sum(-1)
    return -log_probability.gather(-1, labels[..., None]).squeeze(-1)


@dataclass(frozen=True)
class Attribution:
    """How maps are made. Each field is a choice that published code makes silently.

    method: a name in `MAPS`, as gradient (docs/attributions.md has all); or "module:function" or
        {use: "module:function", option: value}, a function of your own with the arguments of
        `MapFunction`, and its options; those of the toolkit are in `aba_core.maps`.
    target: "loss", the loss of the true class; "class_score", the score of one of the `top_k`
        highest-scoring classes drawn at random; "true_class", of several labels one that is drawn;
        "predicted_class".
    top_k: None is 4, or all classes where there are fewer.
    target_per: whether that class is drawn for each sample or its rank once for the batch.
    mode: whether batch norm and dropout act as in training while the map is made.
    update_statistics: whether that pass may move batch norm's running statistics (mode "train").
    samples: noisy copies, steps of a path or baselines averaged over, of maps that have them.
    noise: that of noisy copies, as a share of the range of each input.
    """

    method: str | Use = "gradient"
    target: Target = "class_score"
    top_k: int | None = None
    target_per: Per = "sample"
    mode: Mode = "eval"
    update_statistics: bool = False
    samples: int = 16
    noise: float = 0.15

    def __post_init__(self) -> None:
        use = Use.read(self.method)
        if use is not None:
            use.load()
            object.__setattr__(self, "method", use)
        elif self.method not in MAPS:
            raise ValueError(
                f"unknown method {self.method!r}{meant(self.method, MAPS)}; "
                f"known: {', '.join(MAPS)}, or module:function"
            )
        for name, allowed in (
            ("target", get_args(Target)),
            ("target_per", get_args(Per)),
            ("mode", get_args(Mode)),
        ):
            value = getattr(self, name)
            if value not in allowed:
                near = meant(value, allowed)
                raise ValueError(f"unknown {name} {value!r}{near}; known: {', '.join(allowed)}")
        for name in ("top_k", "samples"):
            value = getattr(self, name)
            if name == "top_k" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; allowed: whole numbers from 1")
        if not 0 < self.noise < math.inf:
            raise ValueError(f"noise is {self.noise!r}; allowed: finite, above 0")

    def passes(self) -> float:
        """Forward-and-backward passes through the model that one map takes."""
        if not isinstance(self.method, Use):
            return MAPS[self.method].passes(self)
        passes = getattr(self.method.load(), "passes", 1.0)
        return float(passes(self) if callable(passes) else passes)


def objective(
    logits: Float[Tensor, "*lead class_"],
    labels: Tensor,
    classes: Int64[Tensor, "*lead"] | None,
    loss: Loss,
) -> Float[Tensor, "*lead"]:
    """What is differentiated, in the sense of the loss: the loss (`classes` None), or minus the
    score of the attributed class. The one place that decides orientation."""
    if classes is None:
        return loss(logits, labels)
    return -logits.gather(-1, classes[..., None]).squeeze(-1)


def attributed_classes(
    logits: Float[Tensor, "*lead class_"], labels: Tensor, attribution: Attribution, draws: Draws
) -> Int64[Tensor, "*lead"] | None:
    """The class whose score is attributed; None for target "loss"."""
    if attribution.target == "loss":
        return None
    if attribution.target == "true_class":
        return _true_classes(logits, labels, draws.shared(attribution.target_per))
    if attribution.target == "predicted_class":
        return logits.argmax(-1)
    classes = logits.shape[-1]
    top_k = min(4, classes) if attribution.top_k is None else attribution.top_k
    if top_k > classes:
        raise ValueError(
            f"top_k is {top_k}, but the model has {classes} classes; allowed: 1 to {classes}"
        )
    rank = (draws.shared(attribution.target_per).uniform("target") * top_k).long()
    return logits.topk(top_k, dim=-1).indices.gather(-1, rank[..., None]).squeeze(-1)


def _true_classes(
    logits: Float[Tensor, "*lead class_"], labels: Tensor, draws: Draws
) -> Int64[Tensor, "*lead"]:
    """The true class; of several labels, or of soft ones, one drawn by its weight. A sample without
    any has its highest score attributed."""
    if labels.shape == logits.shape and labels.is_floating_point():
        weights = labels.double().clamp(min=0)
        total = weights.sum(-1, keepdim=True)
        drawn = choice(weights / total.clamp(min=1e-300), draws.uniform("target"))
        return torch.where(total[..., 0] > 0, drawn, logits.argmax(-1))
    if labels.shape != logits.shape[:-1] or labels.is_floating_point():
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} and type {labels.dtype}; target 'true_class' "
            "needs one whole-number class a sample, or the weights of all classes"
        )
    return labels


class Objective:
    """What a map explains: one number a sample, in the sense of the loss, as a function of inputs.

    The attributed class is chosen once, from the logits of the first inputs that it meets, and
    held.
    """

    def __init__(
        self,
        forward: Forward,
        labels: Tensor,
        attribution: Attribution,
        draws: Draws,
        loss: Loss,
        maker: Maker | None = None,
    ) -> None:
        self._forward, self._labels, self._loss, self._maker = forward, labels, loss, maker
        self._attribution, self._draws = attribution, draws
        self._classes: Tensor | None = None
        self._chosen = False

    def choose(self, x: Tensor) -> None:
        """Choose the attributed class from the logits of these inputs."""
        with torch.no_grad():
            self(x)

    def __call__(self, x: Tensor) -> Float[Tensor, "*lead"]:
        """The number of each sample, differentiable in x."""
        logits = self._forward(x)
        if not self._chosen:
            self._classes = attributed_classes(
                logits.detach(), self._labels, self._attribution, self._draws
            )
            self._chosen = True
        return objective(logits, self._labels, self._classes, self._loss)

    def gradient(self, x: Tensor, of_score: bool = False) -> Tensor:
        """Its gradient with respect to the inputs, shaped like x. of_score: of minus the objective,
        which methods tell from the gradient turned round that are not linear."""
        if self._attribution.target == "loss" and isinstance(self._forward, Differentiated):
            made = self._forward.slopes(x.detach(), self._labels, self._loss)
            if made is not None and made[2] is not None:
                self._chosen = True
                return -made[2] if of_score else made[2]
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            total = self(at).sum()
            (result,) = torch.autograd.grad(-total if of_score else total, at)
        return result

    @property
    def maker(self) -> Maker:
        """The model, for maps that need more than its forward pass. ValueError without one."""
        if self._maker is None:
            name = self._attribution.method
            raise ValueError(f"the map {str(name)!r} needs the model, but has its function alone")
        return self._maker

    @property
    def samples_meet(self) -> bool:
        """Whether a sample's number depends on the batch it is in, or may."""
        if self._attribution.mode == "train" or self._maker is None:
            return True
        return mixes_samples(self._maker.architecture)

    def of_copies(self, inputs: Sequence[Tensor]) -> Float[Tensor, "copy *lead"]:
        """The numbers of several inputs shaped alike, in one pass."""
        lead = self._draws.index.dim()
        copies, batch = len(inputs), lead - 1
        if not self._chosen or copies == 1:
            return torch.stack([self(x) for x in inputs])
        repeated = [
            None if value is None else torch.cat([value] * copies, batch)
            for value in (self._labels, self._classes)
        ]
        logits = self._forward(torch.cat(list(inputs), batch))
        numbers = objective(logits, repeated[0], repeated[1], self._loss)  # type: ignore[arg-type]
        return torch.stack(numbers.chunk(copies, batch))

    @property
    def labels(self) -> Tensor:
        """True classes, or whatever the loss takes."""
        return self._labels

    def of_replica(self, replica: int | None) -> Objective:
        """The same objective for one replica of the stack, its classes chosen; None: as it is."""
        if replica is None:
            return self
        part = copy.copy(self)
        part._labels = self._labels[replica]
        part._classes = None if self._classes is None else self._classes[replica]
        return part

    def number(self, logits: Tensor, labels: Tensor, rows: Tensor) -> Float[Tensor, "copy"]:
        """What is explained, of logits [copy, class] of copies of samples. rows: which samples."""
        classes = None if self._classes is None else self._classes[rows]
        return objective(logits, labels, classes, self._loss)

    def class_of(self, row: Tensor) -> Tensor:
        """The attributed class of a sample; for target "loss" the true one."""
        return (self._labels if self._classes is None else self._classes)[row]

    def rewritten(self, transform: Transform) -> Objective:
        """The same objective of the model with its way back changed."""
        changed = copy.copy(self)
        changed._forward = self.maker.rewritten(transform)
        return changed

    def at_layer(self, x: Tensor, layer: str) -> tuple[Tensor, Tensor]:
        """The layer's activations, [*lead, *activation], and the gradient to them of minus the
        objective, which is the score."""
        head, rest = self.maker.halves(layer)
        with torch.no_grad():
            h = head(x)
        behind = copy.copy(self)
        behind._forward = lambda at: rest(x, at)
        gradient = behind.gradient(h, of_score=True)
        self._classes, self._chosen = behind._classes, True
        return h, gradient


# A map's function: the objective, inputs [*lead, *feature], how maps are made, draws → the map.
MapFunction = Callable[[Objective, Tensor, Attribution, Draws], Tensor]


class MapInfo(NamedTuple):
    """A map's function, and how many forward-and-backward passes it takes."""

    function: MapFunction
    passes: Callable[[Attribution], float]


def _map(function: MapFunction) -> MapInfo:
    passes = getattr(function, "passes", 1.0)
    return MapInfo(function, passes if callable(passes) else lambda attribution: passes)


MAPS: dict[MapKind | str, MapInfo] = {
    "gradient": _map(maps.gradient),
    "gradient_x_input": _map(maps.gradient_x_input),
    "smoothgrad": _map(maps.smoothgrad),
    "integrated_gradients": _map(maps.integrated_gradients),
    "absolute_gradient": _map(maps.absolute_gradient),
    "absolute_gradient_x_input": _map(maps.absolute_gradient_x_input),
    "absolute_smoothgrad": _map(maps.absolute_smoothgrad),
    "absolute_integrated_gradients": _map(maps.absolute_integrated_gradients),
    "smoothgrad_x_input": _map(maps.smoothgrad_x_input),
    "vargrad": _map(maps.vargrad),
    "expected_gradients": _map(maps.expected_gradients),
    "occlusion": _map(maps.occlusion),
    "guided_backpropagation": _map(maps.guided_backpropagation),
    "deconvnet": _map(maps.deconvnet),
    "lrp_epsilon": _map(maps.lrp),
    "lrp_gamma": _map(maps.lrp_gamma),
    "lrp_z_plus": _map(maps.lrp_z_plus),
    "lrp_alpha_beta": _map(maps.lrp_alpha_beta),
    "lrp_composite": _map(maps.lrp_composite),
    "grad_cam": _map(maps.grad_cam),
    "grad_cam_plus_plus": _map(maps.grad_cam_plus_plus),
    "smooth_grad_cam_plus_plus": _map(maps.smooth_grad_cam_plus_plus),
    "layer_cam": _map(maps.layer_cam),
    "norm_grad": _map(maps.norm_grad),
}


def attribution_map(
    forward: Forward,
    x: Float[Tensor, "*lead_and_feature"],
    labels: Tensor,
    attribution: Attribution,
    draws: Draws,
    loss: Loss = cross_entropy,
    maker: Maker | None = None,
) -> Float[Tensor, "*lead_and_feature"]:
    """The map of each sample, shaped like x, in the sense of the loss.

    forward: inputs to logits. maker: the model behind it, which some maps need. draws: where the
    class of target "class_score" and smoothgrad's noise come from.
    Raises ValueError where a function of your own gives another shape.
    """
    name = attribution.method
    function = name.function() if isinstance(name, Use) else MAPS[name].function
    x = x.detach()
    explained = Objective(forward, labels, attribution, draws, loss, maker)
    made = function(explained, x, attribution, draws)
    if not isinstance(made, Tensor) or made.shape != x.shape:
        shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise ValueError(f"the map of {str(name)!r} has shape {shape}; needed: {tuple(x.shape)}")
    return made.detach()


@contextmanager
def undisturbed(model: nn.Module, mode: Mode, update_statistics: bool = False) -> Iterator[None]:
    """The model in eval or train mode; each module's own mode, all buffers and PyTorch's generators
    restored after. Buffers are in eval mode too, where a model may move its own, unless statistics
    are to be updated in train mode."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not (mode == "train" and update_statistics)
    ]
    cuda = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    try:
        # Copies stand in for buffers: written back to, these would be others than those that a
        # forward pass before this one keeps for its way back.
        for module, name, buffer in buffers:
            module._buffers[name] = buffer.clone()
        model.train(mode == "train")
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        for module, training in modes:
            module.training = training
        for module, name, buffer in buffers:
            module._buffers[name] = buffer


def attribute(
    model: nn.Module,
    x: Float[Tensor, "batch *feature"],
    y: Tensor,
    method: str | Use | Mapping[str, Any] = "gradient",
    target: Target = "class_score",
    top_k: int | None = None,
    *,
    draws: Draws | None = None,
    loss: Loss = cross_entropy,
    **choices: Any,
) -> Float[Tensor, "batch *feature"]:
    """The attribution map of each sample, shaped like x, in the sense of the loss.

    model: any module from [batch, *feature] to logits [batch, class]; its mode, buffers, parameter
    gradients and requires_grad flags are as before afterwards.
    y: true classes, or whatever `loss(logits, y)` takes to give one loss a sample.
    draws: where the random class and smoothgrad's noise come from (default: seed 0, step 0).
    choices: further fields of `Attribution`.
    Where samples meet in eval mode too (batch norm without running statistics) the map is that of
    the whole batch, which must then be passed as a whole.
    Raises ValueError for unknown names and for inputs that are no tensors, empty, NaN or infinite.
    """
    attribution = Attribution(method, target, top_k, **choices)  # type: ignore[arg-type]
    check_module(model)
    check_inputs(x, y, loss)
    if draws is None:
        draws = Draws.single(0, 0, len(x), x.device)

    return map_of(model, x, y, attribution, draws, loss)


def map_of(
    model: nn.Module,
    x: Float[Tensor, "batch *feature"],
    y: Tensor,
    attribution: Attribution,
    draws: Draws,
    loss: Loss,
    asking: bool = True,
) -> Float[Tensor, "batch *feature"]:
    """`attribute` for inputs that have been checked. asking: whether labels are compared with the
    model's outputs, which on a GPU halts the stream of work."""

    def forward(at: Tensor) -> Tensor:
        return _logits(model, at, y, loss, asking)

    with undisturbed(model, attribution.mode, attribution.update_statistics):
        return attribution_map(forward, x, y, attribution, draws, loss, ModuleMaker(model))


def _logits(model: nn.Module, x: Tensor, y: Tensor, loss: Loss, asking: bool) -> Tensor:
    """What a model makes of inputs. Raises ValueError, one line, where it refuses them, or has no
    output for a label."""
    try:
        logits = model(x)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, AttributeError) as error:
        own = next((each for each in model.parameters()), None)
        cure = ""
        if own is not None and own.is_floating_point() and own.dtype != x.dtype:
            cure = f"; the model is of type {own.dtype}, so give x.to({own.dtype})"
        raise ValueError(
            f"the model {type(model).__name__} refuses a batch of shape {tuple(x.shape)} and type "
            f"{x.dtype}: {first_line(error)}{cure}"
        ) from error
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"the model {type(model).__name__} returns a {type(logits).__name__}; needed: a tensor "
            "of logits [batch, classes]"
        )
    if asking and loss is cross_entropy and y.dim() == 1 and logits.dim() == 2:
        outputs, last = logits.shape[1], int(y.max())
        if last >= outputs:
            raise ValueError(
                f"y holds label {last}, but the model has {outputs} outputs; needed: one a class"
            )
    return logits


def check_inputs(x: Tensor, y: Tensor, loss: Loss | None = None, look: bool = True) -> None:
    """One clear error for a batch that no map can be made of. loss: of which the map is, where
    that is known: cross-entropy has no class below 0. look: whether to look at values too, which
    on a GPU halts the stream of work."""
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "torch.inference_mode() is on, and a map needs gradients; allowed: torch.no_grad(), or "
            "neither"
        )
    for name, values in (("x", x), ("y", y)):
        check_tensor(name, values)
    if x.dim() < 2 or x.numel() == 0:
        raise ValueError(f"x of shape {tuple(x.shape)}; needed: [batch, *feature], not empty")
    if y.dim() == 0:
        raise ValueError("y is a single label; needed: a batch, as x.unsqueeze(0), y.unsqueeze(0)")
    if y.shape[:1] != x.shape[:1]:
        raise ValueError(f"y of shape {tuple(y.shape)}; needed: one label a sample, {len(x)} here")
    if not x.is_floating_point():
        raise ValueError(f"x of type {x.dtype}; needed: floating point, in standard units")
    if look and not bool(torch.isfinite(x).all()):
        raise ValueError("x holds NaN or infinite values; allowed: finite numbers")
    if loss is cross_entropy and y.dim() == 1 and y.is_floating_point():
        raise ValueError(f"y of type {y.dtype}; needed: whole-number classes, as y.long()")
    if look and loss is cross_entropy and not y.is_floating_point() and int(y.min()) < 0:
        raise ValueError(f"y holds label {int(y.min())}; allowed: classes from 0")
