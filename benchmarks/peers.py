"""What else trains R models with MendABA: each peer written as its best user would.

    ready = careful(work); ready.run(0, 10); ready.parameters()

All do the same work: a map by one pass forward and back to the inputs, percentile cuts, the change
of the inputs, a training pass, one step of Adam. `plain` uses all threads of one process; of the
others one single-threaded process runs on each core. tests/test_peers.py holds each against the
oracle of tests/oracles in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from aba_core.models import TextCNN
from benchmarks.workloads import SHARE, Work


class Ready(NamedTuple):
    """A peer set up. run(first, last): trains all replicas through these steps.
    parameters(): of all replicas now, [replica, parameter]."""

    run: Callable[[int, int], None]
    parameters: Callable[[], Tensor]


class Unavailable(Exception):
    """Why a peer cannot run here."""


Peer = Callable[[Work], Ready]


def in_category(features: int) -> int:
    """How many features the low and the high category have each."""
    return int(SHARE * features + 0.5)


def flat_parameters(models: list[nn.Module]) -> Tensor:
    return torch.stack(
        [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models]
    )


# --- one model after another ---------------------------------------------------------------------


def plain(work: Work) -> Ready:
    """The loop that a paper's repository has: eager PyTorch, Adam as it comes, argsort."""
    models = [model.to(work.x.device, work.dtype) for model in work.models]
    optimizers = [torch.optim.Adam(model.parameters(), work.learning_rate) for model in models]
    features = work.x[0].numel()
    low, high = in_category(features), features - in_category(features)

    def step(replica: int, number: int) -> None:
        model, optimizer = models[replica], optimizers[replica]
        rows = work.rows[number, replica]
        x, y = work.x[rows], work.y[rows]
        model.eval()
        inputs = x.clone().requires_grad_()
        loss = functional.cross_entropy(model(inputs), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, inputs)
        ranked = gradient.flatten(1).argsort(dim=1)
        change = work.changes[number, replica]
        shift = change[:, 1:2].repeat(1, features)
        shift.scatter_(1, ranked[:, :low], change[:, 0:1].expand(-1, low))
        shift.scatter_(1, ranked[:, high:], change[:, 2:3].expand(-1, features - high))
        x = x + (work.magnitudes[number, replica][:, None] * shift).view_as(x)
        model.train()
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return Ready(_one_by_one(work, step), lambda: flat_parameters(models))


def careful(work: Work) -> Ready:
    """The same loop by somebody who has profiled it: channels last, fused Adam, gradients set to
    None, cuts by NumPy's selection, tensors gathered and changed in place."""
    image = work.x.dim() == 4
    layout = torch.channels_last if image else torch.contiguous_format
    models = [model.to(memory_format=layout, dtype=work.dtype).train() for model in work.models]
    optimizers = [
        torch.optim.Adam(model.parameters(), work.learning_rate, fused=True) for model in models
    ]
    data = work.x.contiguous(memory_format=layout)
    magnitudes = work.magnitudes.view(*work.magnitudes.shape, *[1] * (work.x.dim() - 1))

    def step(replica: int, number: int) -> None:
        model, optimizer = models[replica], optimizers[replica]
        rows = work.rows[number, replica]
        x, y = data[rows].contiguous(memory_format=layout).requires_grad_(), work.y[rows]
        loss = functional.cross_entropy(model(x), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            moved = changed(
                x.detach(), gradient, work.changes[number, replica], magnitudes[number, replica]
            )
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(moved), y).backward()
        optimizer.step()

    return Ready(_one_by_one(work, step), lambda: flat_parameters(models))


def changed(x: Tensor, gradient: Tensor, change: Tensor, magnitude: Tensor) -> Tensor:
    """x plus the magnitude times the change of each feature's category. x, gradient: [..., sample,
    *feature]; change: [..., sample, 3]; magnitude: [..., sample, 1, ...], broadcast to x."""
    leading = change.dim() - 1
    low, high = cuts(gradient, leading)
    shape = (*change.shape[:-1], *[1] * (x.dim() - leading))
    least, middle, most = (part.view(shape) for part in change.unbind(-1))
    shift = torch.where(gradient <= low.view(shape), least, middle)
    shift = torch.where(gradient >= high.view(shape), most, shift)
    return torch.addcmul(x, magnitude, shift)


def cuts(gradient: Tensor, leading: int) -> tuple[Tensor, Tensor]:
    """The largest value of the low category and the least of the high one, of each sample."""
    flat = gradient.flatten(leading).numpy()
    count = in_category(flat.shape[-1])
    ordered = np.partition(flat, (count - 1, flat.shape[-1] - count), axis=-1)
    return (
        torch.from_numpy(ordered[..., count - 1].copy()),
        torch.from_numpy(ordered[..., flat.shape[-1] - count].copy()),
    )


def compiled(work: Work) -> Ready:
    """torch.compile on one model's two passes, compiled once for all: the parameters are inputs."""
    template = work.template().to(work.dtype).train()
    names = [name for name, _ in template.named_parameters()]
    values = [
        [value.detach().to(work.dtype).clone().requires_grad_() for value in model.parameters()]
        for model in work.models
    ]
    optimizers = [torch.optim.Adam(each, work.learning_rate, fused=True) for each in values]
    magnitudes = work.magnitudes.view(*work.magnitudes.shape, *[1] * (work.x.dim() - 1))

    def summed(parameters: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(template, dict(zip(names, parameters, strict=True)), (x,))
        return functional.cross_entropy(logits, y, reduction="sum")

    fast = torch.compile(summed, dynamic=False)

    def step(replica: int, number: int) -> None:
        own, rows = values[replica], work.rows[number, replica]
        x, y = work.x[rows].requires_grad_(), work.y[rows]
        (gradient,) = torch.autograd.grad(fast([value.detach() for value in own], x, y), x)
        with torch.no_grad():
            moved = changed(
                x.detach(), gradient, work.changes[number, replica], magnitudes[number, replica]
            )
        optimizers[replica].zero_grad(set_to_none=True)
        (fast(own, moved, y) / len(y)).backward()
        optimizers[replica].step()

    def parameters() -> Tensor:
        return torch.stack([torch.cat([v.detach().flatten() for v in own]) for own in values])

    return Ready(_one_by_one(work, step), parameters)


def _one_by_one(work: Work, step: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """Each model through all steps before the next: its values stay in the cache."""

    def run(first: int, last: int) -> None:
        for replica in range(len(work.models)):
            for number in range(first, last):
                step(replica, number % len(work.rows))

    return run


# --- all models in each operation ----------------------------------------------------------------


def grouped(work: Work) -> Ready:
    """All replicas in one grouped convolution, channels last, written by hand; all parameters in
    one vector, so that Adam is one call."""
    replicas = len(work.models)
    layers, leaves, flat, gradient = _stacked_parameters(work)
    optimizer = torch.optim.Adam([flat], work.learning_rate, fused=True)
    text = isinstance(work.models[0], TextCNN)
    passes = _grouped_text if text else _grouped_chain
    magnitudes = work.magnitudes.view(*work.magnitudes.shape, *[1] * (work.x.dim() - 1))

    def losses(x: Tensor, y: Tensor) -> Tensor:
        """The sum of all samples' losses of all replicas. x: [replica, batch, *feature]."""
        logits = passes(layers, leaves, x)
        return functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum")

    def step(number: int) -> None:
        rows = work.rows[number]
        x, y = work.x[rows].requires_grad_(), work.y[rows]
        (slopes,) = torch.autograd.grad(losses(x, y), x)
        with torch.no_grad():
            moved = changed(x.detach(), slopes, work.changes[number], magnitudes[number])
        found = torch.autograd.grad(losses(moved, y) / rows.shape[1], leaves)
        torch.cat([part.flatten() for part in found], out=gradient)
        flat.grad = gradient
        optimizer.step()

    def run(first: int, last: int) -> None:
        for number in range(first, last):
            step(number % len(work.rows))

    def parameters() -> Tensor:
        return torch.cat([leaf.detach().reshape(replicas, -1) for leaf in leaves], dim=1)

    return Ready(run, parameters)


def _stacked_parameters(work: Work) -> tuple[list[nn.Module], list[Tensor], Tensor, Tensor]:
    """The layers; a leaf for each parameter, [replica, *shape], all of them views of one vector;
    that vector, and one for its gradient."""
    layers = [layer for layer in work.models[0].modules() if not list(layer.children())]
    each = [list(model.parameters()) for model in work.models]
    stacked = [torch.stack([v.detach() for v in same]) for same in zip(*each, strict=True)]
    flat = torch.cat([values.flatten() for values in stacked]).to(work.dtype)
    leaves = [
        part.view(values.shape).requires_grad_()
        for part, values in zip(
            flat.detach().split([values.numel() for values in stacked]), stacked, strict=True
        )
    ]
    return layers, leaves, nn.Parameter(flat), torch.empty_like(flat)


def _grouped_chain(layers: list[nn.Module], leaves: list[Tensor], x: Tensor) -> Tensor:
    """A model that is a row of layers. x: [replica, batch, *feature]; gives [replica, batch,
    class]."""
    replicas, batch = x.shape[:2]
    values = iter(leaves)
    if x.dim() == 5 and isinstance(layers[0], nn.Conv2d):
        x = x.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            weight, bias = next(values), next(values)
            weight = weight.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            x = functional.conv2d(x, weight, bias.flatten(), padding=1, groups=replicas)
        elif isinstance(layer, nn.Flatten):
            if x.shape[0] == batch and x.dim() == 4:
                x = x.view(batch, replicas, -1, *x.shape[2:]).transpose(0, 1)
            x = x.flatten(2)
        elif isinstance(layer, nn.Linear):
            weight, bias = next(values), next(values)
            x = torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
        else:  # pooling and ReLU know no replicas
            x = layer(x)
    return x


def _grouped_text(layers: list[nn.Module], leaves: list[Tensor], x: Tensor) -> Tensor:
    """The text CNN's three widths side by side. x: [replica, batch, token, embedding]."""
    replicas, batch = x.shape[:2]
    channels = x.permute(1, 0, 3, 2).flatten(1, 2).contiguous()
    pooled = []
    for weight, bias in zip(leaves[0:-2:2], leaves[1:-2:2], strict=True):
        y = functional.conv1d(channels, weight.flatten(0, 1), bias.flatten(), groups=replicas)
        pooled.append(functional.relu(y).amax(2).view(batch, replicas, -1))
    together = torch.cat(pooled, dim=2).transpose(0, 1)
    return torch.baddbmm(leaves[-1][:, None], together, leaves[-2].transpose(1, 2))


def in_jax(work: Work) -> Ready:
    """JAX, where it is installed."""
    try:
        import jax  # noqa: F401
    except ImportError:
        raise Unavailable("JAX is not installed; pip install 'aba-toolkit[bench]'") from None
    from benchmarks.jax_peer import jitted

    return jitted(work)


# What it is called, and whether a process on each core runs it with one thread.
PEERS: dict[str, tuple[Peer, bool]] = {
    "plain loop": (plain, False),
    "careful loop": (careful, True),
    "torch.compile": (compiled, True),
    "grouped by hand": (grouped, True),
    "JAX": (in_jax, True),
}
