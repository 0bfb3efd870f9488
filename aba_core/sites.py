"""Sites: a model cut in two at a named layer, and what follows the cut as a method sees it.

A method acts at a site: "input", or the output of a layer named as in `model.named_modules()`;
`cutting` has the two parts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from aba_core.architecture import mixes_samples
from aba_core.attribution import Attribution, Loss, attribution_map, undisturbed
from aba_core.cutting import INPUT, halves
from aba_core.kernels.near import Near
from aba_core.making import ModuleMaker, ReplicasMaker
from aba_core.randomness import Draws
from aba_core.replicas import Replicas
from aba_core.selection import Selection


@dataclass
class LastCategories:
    """In which category each feature of each training sample was, by the loss's gradient to it when
    it was trained on last.

    samples: of all replicas, whose rows follow one another. rows: where those of the present batch
    are. kept: by split; 1 is the lowest category, 0 none, as where a sample was never trained on.
    in_c: whether C moved the present batch, so that it keeps its categories too. own: a batch that
    nobody else needs, which may be moved in place: it is in the cache, and another place is not.
    """

    samples: int
    rows: Int64[Tensor, "replica batch"]
    kept: dict[Selection, UInt8[Tensor, "row *feature"]] = field(default_factory=dict)
    in_c: bool = False
    own: Float[Tensor, "replica batch *feature"] | None = None

    def by(self, split: Selection, like: Tensor) -> UInt8[Tensor, "row *feature"]:
        """Those of all samples. like: inputs [replica, batch, *feature]."""
        if split not in self.kept:
            shape = self.samples, *like.shape[2:]
            self.kept[split] = torch.zeros(shape, dtype=torch.uint8, device=like.device)
        return self.kept[split]


@dataclass
class Tail:
    """What follows a site, as a method sees it. h: activations [*lead, *feature].

    loss: the task's, one number a sample. outputs: how many the model has, the number of classes.
    """

    loss: Loss
    outputs: int
    maps: Callable[[Tensor, Tensor, Attribution, Draws, bool], Tensor]
    # Whether a sample's map may depend on the others of its batch. Passes of single samples through
    # the model that were saved so far, where a sample needs no map.
    samples_meet: bool = True
    saved: float = 0.0
    # Only for methods whose `needs_last_gradient` asks for it.
    last: LastCategories | None = None
    # What a map's pass leaves for the one that trains; none at a hidden layer.
    near: Near | None = None

    def map(
        self,
        h: Float[Tensor, "*lead_and_feature"],
        y: Tensor,
        attribution: Attribution,
        draws: Draws,
        untrained: bool = False,
    ) -> Float[Tensor, "*lead_and_feature"]:
        """The attribution map of each sample, shaped like h, in the sense of the loss. untrained:
        of the model as it was initialised. The model is left as it was."""
        return self.maps(h.detach(), y, attribution, draws, untrained)

    def gradient(
        self, h: Float[Tensor, "*lead_and_feature"], y: Tensor, draws: Draws
    ) -> Float[Tensor, "*lead_and_feature"]:
        """The gradient of each sample's loss with respect to h, batch norm as in evaluation."""
        return self.map(h, y, Attribution("gradient", "loss"), draws)


class StackedSite:
    """Replicas cut at a site."""

    def __init__(
        self,
        replicas: Replicas,
        site: str,
        loss: Loss,
        outputs: int,
        untrained: Replicas | None = None,
    ) -> None:
        self.replicas, self.loss = replicas, loss
        self._x = torch.empty(0)
        self._again = False
        self._head, self._rest = replicas, replicas
        self._untrained = untrained
        if site != INPUT:
            first, second, self._again = halves(copy.deepcopy(replicas.template), site)
            self._head, self._rest = _as_part(replicas, first), _as_part(replicas, second)
            if untrained is not None:
                _, second, _ = halves(copy.deepcopy(untrained.template), site)
                self._untrained = _as_part(untrained, second)
        self.tail = Tail(loss, outputs, self._map, near=replicas.near if site == INPUT else None)

    def activations(
        self,
        flat: Float[Tensor, "replica parameter"],
        x: Float[Tensor, "replica batch *feature"],
        quiet: bool = False,
    ) -> Float[Tensor, "replica batch *activation"]:
        """h at the site, in train mode, differentiable in flat. quiet: no statistics move."""
        self._x = x
        # Where the second part runs the first one's layers again, statistics move there.
        head = self._head.quieted() if self._again or quiet else self._head
        with self._head.mode(training=True):
            return head.forward(flat)(x)

    def logits(
        self,
        flat: Float[Tensor, "replica parameter"],
        h: Float[Tensor, "replica batch *activation"],
        quiet: bool = False,
    ) -> Float[Tensor, "replica batch output"]:
        """Logits in train mode, differentiable in flat and h. quiet: no statistics move."""
        rest = self._rest.quieted() if quiet else self._rest
        with self._rest.mode(training=True):
            return rest.forward(flat)(self._packed(rest, h))

    def _packed(self, rest: Replicas, h: Tensor, rows: slice = slice(None)) -> Tensor:
        if not self._again:
            return h
        x = self._x[rows]
        x = x.repeat(1, h.shape[1] // x.shape[1], *(1,) * (x.dim() - 2))  # a batch made larger
        for module in (rest.template, rest._stacked, rest._single, rest._whole):
            module.shapes = x.shape[2:], h.shape[2:]  # type: ignore[assignment]
        return torch.cat([x.flatten(2), h.flatten(2)], dim=2)

    def _map(
        self, h: Tensor, y: Tensor, attribution: Attribution, draws: Draws, untrained: bool
    ) -> Tensor:
        maker = self._untrained if untrained else self._rest
        if maker is None:
            raise ValueError("no untrained replicas were kept for this method")

        def of(rows: slice, forward: Callable[[Tensor], Tensor]) -> Tensor:
            def packed(at: Tensor) -> Tensor:
                return forward(self._packed(maker, at, rows))

            from_site = packed if self._again else forward  # which may know its way back
            made_with = ReplicasMaker(quiet, rows, lambda at: self._packed(maker, at, rows))
            return attribution_map(
                from_site, h[rows], y[rows], attribution, draws.of(rows), self.loss, made_with
            )

        with maker.undisturbed(attribution.mode, attribution.update_statistics) as quiet:
            inputs = self._packed(maker, h)
            maps = [of(rows, run) for rows, _, run in quiet.passes(inputs, differentiable=False)]
        return maps[0] if len(maps) == 1 else torch.cat(maps)


def _as_part(replicas: Replicas, part: nn.Module) -> Replicas:
    """The same parameters and buffers, run by a part of the model."""
    buffers = {f"model.{name}": buffer for name, buffer in replicas.buffers.items()}
    return Replicas(
        part, replicas.parameters, buffers, replicas.together, replicas.masks, replicas.habits
    )


class SingleSite:
    """One ordinary module cut at a site."""

    def __init__(
        self,
        model: nn.Module,
        site: str,
        loss: Loss,
        outputs: int,
        untrained: nn.Module | None = None,
    ) -> None:
        self.model, self.loss = model, loss
        self._x = torch.empty(0)
        self._again = False
        self._head: nn.Module | None = None
        self._rest, self._untrained = model, untrained
        if site != INPUT:
            self._head, self._rest, self._again = halves(model, site)
            if untrained is not None:
                self._untrained = halves(untrained, site)[1]
        self.tail = Tail(loss, outputs, self._map, mixes_samples(model))

    def activations(self, x: Float[Tensor, "batch *feature"]) -> Float[Tensor, "batch *activation"]:
        """h at the site, in the model's present mode, differentiable in its parameters."""
        self._x = x
        if self._head is None:
            return x
        if self._again and self.model.training:
            with undisturbed(self.model, "train"):
                return self._head(x)
        return self._head(x)

    def logits(self, h: Float[Tensor, "batch *activation"]) -> Float[Tensor, "batch output"]:
        """Logits in the model's present mode, differentiable in its parameters and h."""
        return self._rest(self._packed(self._rest, h))

    def _packed(self, rest: nn.Module, h: Tensor) -> Tensor:
        if not self._again:
            return h
        x = self._x.repeat(len(h) // len(self._x), *(1,) * (self._x.dim() - 1))
        rest.shapes = x.shape[1:], h.shape[1:]  # type: ignore[assignment]
        return torch.cat([x.flatten(1), h.flatten(1)], dim=1)

    def _map(
        self, h: Tensor, y: Tensor, attribution: Attribution, draws: Draws, untrained: bool
    ) -> Tensor:
        maker = self._untrained if untrained else self._rest
        if maker is None:
            raise ValueError("no untrained model was given for this method")
        self._packed(maker, h)  # tells the model shapes, which copies of it need
        made_with = ModuleMaker(maker, lambda at: self._packed(maker, at))
        with undisturbed(maker, attribution.mode, attribution.update_statistics):
            return attribution_map(
                lambda at: maker(self._packed(maker, at)),
                h,
                y,
                attribution,
                draws,
                self.loss,
                made_with,
            )
