"""The peer in JAX: all replicas under `vmap` in two jitted functions, convolutions by products of
patches, since XLA's grouped convolutions on a CPU are several times slower.

The cuts are NumPy's between the two: XLA sorts on one thread, several times slower.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import torch
from jax import numpy as jnp
from torch import nn

from aba_core.models import TextCNN
from benchmarks.peers import Ready, in_category
from benchmarks.workloads import Work

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def patches(x: Any, side: int) -> Any:
    """[batch, height, width, channel] to [..., side · side · channel], zeros around the edges."""
    edge = side // 2
    wide = jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    height, width = x.shape[1:3]
    parts = [wide[:, i : i + height, j : j + width] for i in range(side) for j in range(side)]
    return jnp.concatenate(parts, axis=-1)


def pooled(x: Any) -> Any:
    """Maximum of windows of 2 by 2, [batch, height, width, channel]."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    x = jnp.maximum(x[:, :, 0], x[:, :, 1])  # a seventh faster, there and back, than `max` on axes
    return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])


def chain(layers: list[nn.Module], parameters: list[Any], x: Any) -> Any:
    """A model that is a row of layers, on x [batch, *feature] with channels last."""
    values = iter(parameters)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            weight, bias = next(values), next(values)
            matrix = weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])
            x = patches(x, weight.shape[-1]) @ matrix + bias
        elif isinstance(layer, nn.MaxPool2d):
            x = pooled(x)
        elif isinstance(layer, nn.ReLU):
            x = jax.nn.relu(x)
        elif isinstance(layer, nn.Flatten):
            # Channels first, as the linear layer's weights expect.
            x = (x.transpose(0, 3, 1, 2) if x.ndim == 4 else x).reshape(len(x), -1)
        elif isinstance(layer, nn.Linear):
            weight, bias = next(values), next(values)
            x = x @ weight.T + bias
        else:
            raise TypeError(f"no rule for {type(layer).__name__}")
    return x


def text(_: list[nn.Module], parameters: list[Any], x: Any) -> Any:
    """The text CNN on x [batch, token, embedding]."""
    maxima = []
    for weight, bias in zip(parameters[0:-2:2], parameters[1:-2:2], strict=True):
        width = weight.shape[-1]
        tokens = x.shape[1] - width + 1
        windows = jnp.concatenate([x[:, i : i + tokens] for i in range(width)], axis=-1)
        matrix = weight.transpose(2, 1, 0).reshape(-1, weight.shape[0])
        maxima.append(jax.nn.relu(windows @ matrix + bias).max(axis=1))
    return jnp.concatenate(maxima, axis=1) @ parameters[-2].T + parameters[-1]


def jitted(work: Work) -> Ready:
    jax.config.update("jax_enable_x64", work.dtype == torch.float64)
    layers = [layer for layer in work.models[0].modules() if not list(layer.children())]
    forward = text if isinstance(work.models[0], TextCNN) else chain
    channels_last = work.x.dim() == 4
    x_all = (work.x.permute(0, 2, 3, 1) if channels_last else work.x).contiguous().numpy()
    each = [list(model.parameters()) for model in work.models]
    parameters = [
        jnp.asarray(torch.stack([v.detach().to(work.dtype) for v in same]).numpy())
        for same in zip(*each, strict=True)
    ]
    state = {
        "parameters": parameters,
        "first": [jnp.zeros_like(value) for value in parameters],
        "second": [jnp.zeros_like(value) for value in parameters],
        "steps": jnp.zeros((), parameters[0].dtype),
    }

    def summed(own: list[Any], x: Any, y: Any) -> Any:
        scores = jax.nn.log_softmax(forward(layers, own, x))
        return -jnp.take_along_axis(scores, y[:, None], axis=1).sum()

    slopes = jax.jit(jax.vmap(jax.grad(summed, argnums=1)))

    def trained(state: Any, x: Any, slope: Any, low: Any, high: Any, draws: Any, y: Any) -> Any:
        """A step from the map's cuts on."""
        change, magnitude = draws
        wide = (*change.shape[:2], *[1] * (x.ndim - 2))
        least, middle, most = (change[..., i].reshape(wide) for i in range(3))
        shift = jnp.where(slope <= low.reshape(wide), least, middle)
        shift = jnp.where(slope >= high.reshape(wide), most, shift)
        x = x + magnitude.reshape(wide) * shift
        found = jax.vmap(jax.grad(summed))(state["parameters"], x, y)
        steps = state["steps"] + 1
        bias_1, bias_2 = 1 - BETA_1**steps, 1 - BETA_2**steps
        new: dict[str, Any] = {"parameters": [], "first": [], "second": [], "steps": steps}
        moments = (state["parameters"], state["first"], state["second"], found)
        for value, first, second, gradient in zip(*moments, strict=True):
            gradient = gradient / x.shape[1]
            first = BETA_1 * first + (1 - BETA_1) * gradient
            second = BETA_2 * second + (1 - BETA_2) * gradient**2
            size = work.learning_rate * (first / bias_1) / (jnp.sqrt(second / bias_2) + EPSILON)
            new["parameters"].append(value - size)
            new["first"].append(first)
            new["second"].append(second)
        return new

    fast = jax.jit(trained, donate_argnums=0)
    y_all = work.y.numpy().astype(np.int32)
    rows, changes = work.rows.numpy(), work.changes.numpy()
    magnitudes = work.magnitudes.numpy()

    def run(first: int, last: int) -> None:
        nonlocal state
        for number in (number % len(rows) for number in range(first, last)):
            x, y = jnp.asarray(x_all[rows[number]]), y_all[rows[number]]
            slope = slopes(state["parameters"], x, y)
            flat = np.asarray(slope).reshape(*slope.shape[:2], -1)
            count = in_category(flat.shape[-1])
            ordered = np.partition(flat, (count - 1, flat.shape[-1] - count), axis=-1)
            low, high = ordered[..., count - 1], ordered[..., flat.shape[-1] - count]
            state = fast(state, x, slope, low, high, (changes[number], magnitudes[number]), y)
        jax.block_until_ready(state)

    def flat_parameters() -> torch.Tensor:
        values = [np.asarray(v).reshape(len(work.models), -1) for v in state["parameters"]]
        return torch.from_numpy(np.concatenate(values, axis=1))

    return Ready(run, flat_parameters)
