"""Maps again, one sample at a time, by loops and explicit matrices, for target "true_class"."""

from collections.abc import Callable

import torch
from oracles import counter_hash
from torch import Tensor, nn

PAST_NOISE = 2**19


def score_gradient(model: nn.Module, x: Tensor, label: int) -> Tensor:
    """The gradient of one sample's score."""
    at = x.clone().requires_grad_()
    return torch.autograd.grad(model(at[None])[0, label], at)[0]


def noisy_inputs(x: Tensor, place: int, samples: int, noise: float) -> list[Tensor]:
    """The noisy copies of the sample at this place of its batch, seed 0 and step 0."""
    features, reach = x.numel(), noise * float(x.max() - x.min())
    return [
        x
        + reach
        * torch.tensor(
            [
                counter_hash.normal(0, "smoothing", copy, place * features + feature)
                for feature in range(features)
            ],
            dtype=x.dtype,
        ).reshape(x.shape)
        for copy in range(samples)
    ]


def other_sample(place: int, batch: int, copy: int) -> int:
    drawn = counter_hash.uniform(0, "smoothing", PAST_NOISE + 2 * copy, place)
    return (place + 1 + int(drawn * (batch - 1))) % batch


def share_of_way(place: int, copy: int) -> float:
    """Where between the baseline and the sample the gradient of a copy stands."""
    return counter_hash.uniform(0, "smoothing", PAST_NOISE + 2 * copy + 1, place)


def path(model: nn.Module, x: Tensor, start: Tensor, label: int, steps: int) -> Tensor:
    """Integrated gradients of one score, by the midpoint rule."""
    total = torch.zeros_like(x)
    for step in range(steps):
        total += score_gradient(model, start + (step + 0.5) / steps * (x - start), label)
    return (x - start) * total / steps


def expected(model: nn.Module, x: Tensor, y: Tensor, place: int, samples: int) -> Tensor:
    """Expected gradients of one sample's score."""
    total = torch.zeros_like(x[place])
    for copy in range(samples):
        start = x[other_sample(place, len(x), copy)]
        share = share_of_way(place, copy)
        at = start + share * (x[place] - start)
        total += (x[place] - start) * score_gradient(model, at, int(y[place]))
    return total / samples


def blurred(x: Tensor) -> Tensor:
    """A picture [channel, height, width] blurred, pixel by pixel."""
    result = torch.zeros_like(x)
    height, width = x.shape[1:]
    for row in range(height):
        for column in range(width):
            total = 0.0
            for other_row in range(height):
                for other_column in range(width):
                    far = ((row - other_row) / (height / 8)) ** 2
                    far += ((column - other_column) / (width / 8)) ** 2
                    weight = float(torch.exp(torch.tensor(-far / 2, dtype=torch.float64)))
                    total += weight
                    result[:, row, column] += weight * x[:, other_row, other_column]
            result[:, row, column] /= total
    return result


def occlusion(model: nn.Module, x: Tensor, y: Tensor, size: int, stride: int) -> Tensor:
    """How far the score of each picture falls, over the squares that hide a pixel; the last of a
    row ends with it."""
    height, width = x.shape[2:]
    total, hidden = torch.zeros_like(x), torch.zeros_like(x)
    rows = sorted({*range(0, height - size, stride), height - size})
    columns = sorted({*range(0, width - size, stride), width - size})
    for i in range(len(x)):
        before = model(x[i : i + 1])[0, y[i]].detach()
        for row in rows:
            for column in columns:
                without = x[i : i + 1].clone()
                without[0, :, row : row + size, column : column + size] = 0
                fall = before - model(without)[0, y[i]].detach()
                total[i, :, row : row + size, column : column + size] += fall
                hidden[i, :, row : row + size, column : column + size] += 1
    return total / hidden


# --- relevance -----------------------------------------------------------------------------------


def relevance(
    model: nn.Sequential,
    x: Tensor,
    label: int,
    rule: str,
    dense: str,
    epsilon: float = 1e-6,
    gamma: float = 0.25,
    alpha: float = 2.0,
) -> Tensor:
    """LRP of one sample's score, layer by layer from the last, each linear one as a matrix."""
    inputs, at = [], x
    for layer in model:
        inputs.append(at)
        at = layer(at[None])[0].detach()
    flowing = torch.zeros_like(at)
    flowing[label] = at[label]
    for layer, into in reversed(list(zip(model, inputs, strict=True))):
        if isinstance(layer, nn.ReLU | nn.Flatten):
            flowing = flowing.reshape(into.shape)
        elif isinstance(layer, nn.MaxPool2d):
            flowing = _to_the_winner(into, flowing)
        else:
            name = dense if isinstance(layer, nn.Linear) else rule
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                name = "zero" if rule == "zero" else "epsilon"
            weights, bias = _matrix(layer, into)
            share = _shares(name, weights, bias, into.flatten(), epsilon, gamma, alpha)
            flowing = (share @ flowing.flatten()).reshape(into.shape)
    return flowing


def _matrix(layer: nn.Module, into: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [input, output] and bias [output] of a linear layer, whatever its kind."""
    with torch.no_grad():
        bias = layer(torch.zeros_like(into)[None])[0].flatten()
        basis = torch.eye(into.numel(), dtype=into.dtype).reshape(-1, *into.shape)
        return layer(basis).flatten(1) - bias, bias


def _shares(
    name: str,
    weights: Tensor,
    bias: Tensor,
    x: Tensor,
    epsilon: float,
    gamma: float,
    alpha: float,
) -> Tensor:
    """Which share of each output's relevance each input gets."""

    def divided(parts: Tensor, whole: Tensor) -> Tensor:
        shares = torch.zeros_like(parts)
        for output in range(len(whole)):
            if whole[output] != 0:
                shares[:, output] = parts[:, output] / whole[output]
        return shares

    parts = x[:, None] * weights
    if name == "gamma":
        parts = x[:, None] * (weights + gamma * weights.clamp(min=0))
        return divided(parts, parts.sum(0) + bias + gamma * bias.clamp(min=0))
    if name in ("z_plus", "alpha_beta"):
        alpha = 1.0 if name == "z_plus" else alpha
        positive = divided(parts.clamp(min=0), parts.clamp(min=0).sum(0) + bias.clamp(min=0))
        negative = divided(parts.clamp(max=0), parts.clamp(max=0).sum(0) + bias.clamp(max=0))
        return alpha * positive - (alpha - 1) * negative
    z = parts.sum(0) + bias
    sign = torch.ones_like(z)
    sign[z < 0] = -1
    return divided(parts, z + (epsilon if name == "epsilon" else 0.0) * sign)


def _to_the_winner(into: Tensor, flowing: Tensor) -> Tensor:
    """Maximum pooling by 2: all to the largest."""
    result = torch.zeros_like(into)
    channels, rows, columns = flowing.shape
    for channel in range(channels):
        for row in range(rows):
            for column in range(columns):
                window = into[channel, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                best = int(window.argmax())
                at = channel, 2 * row + best // 2, 2 * column + best % 2
                result[at] += flowing[channel, row, column]
    return result


# --- at a layer ----------------------------------------------------------------------------------


def at_layer(model: nn.Module, layer: str, x: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """One sample's activations at a layer and the gradient of its score to them, by a hook."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handle = model.get_submodule(layer).register_forward_hook(keep)
    model(x[None].requires_grad_())[0, label].backward()
    handle.remove()
    model.zero_grad()
    assert kept[0].grad is not None
    return kept[0].detach()[0], kept[0].grad[0]


Powers = list[tuple[Tensor, Tensor, Tensor]]


def grad_cam_plus_plus(a: Tensor, powers: Powers) -> Tensor:
    """A coarse map, channel by channel and place by place, from g, g² and g³ of several inputs."""
    first, second, third = (sum(part) / len(powers) for part in zip(*powers, strict=True))
    total = torch.zeros_like(a[0])
    for channel in range(len(a)):
        weight = 0.0
        below = float((a[channel] * third[channel]).sum())
        for place in range(a[channel].numel()):
            g, g2 = float(first[channel].flatten()[place]), float(second[channel].flatten()[place])
            if 2 * g2 + below != 0:
                weight += g2 / (2 * g2 + below) * max(g, 0.0)
        total += weight * a[channel]
    return total.clamp(min=0)


def layer_cam(a: Tensor, g: Tensor) -> Tensor:
    total = torch.zeros_like(a[0])
    for channel in range(len(a)):
        total += g[channel].clamp(min=0) * a[channel]
    return total.clamp(min=0)


def norm_grad(a: Tensor, g: Tensor) -> Tensor:
    return (a**2).sum(0).sqrt() * (g**2).sum(0).sqrt()


COARSE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "layer_cam": layer_cam,
    "norm_grad": norm_grad,
    "grad_cam_plus_plus": lambda a, g: grad_cam_plus_plus(a, [(g, g**2, g**3)]),
}
