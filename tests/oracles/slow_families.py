"""Families of methods again, number by number: twins of what is in `aba_core.methods`.

Shared with the package: names of fields and of purposes. What asks for gradients gets `tail`, the
model in eval mode as a function of its inputs.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from oracles.slow_draws import beta, normal, partners, uniform
from torch import Tensor, nn

from aba_core import attribute
from aba_core.methods import (
    adversarial,
    guided,
    labels,
    noise,
    norms,
    occlusion,
    puzzle,
    transforms,
)

Tail = Callable[[Tensor], Tensor]
LossFunction = Callable[[Tensor, Tensor], Tensor]


def whole(drawn: float, options: int) -> int:
    return math.floor(drawn * options)


def half_up(number: float) -> int:
    return math.floor(number + 0.5)


# --- maps ----------------------------------------------------------------------------------------


def slow_map(method, h: Tensor, y: Tensor, seed: int, step: int, tail: Tail, loss) -> np.ndarray:
    """The map in the sense of the loss, by one sample's gradient after the other."""
    if method.placebo == "random":
        size = h[0].numel()
        drawn = [
            normal(seed, "placebo", step, 0, i * size + k)
            for i in range(len(h))
            for k in range(size)
        ]
        return np.array(drawn).reshape(h.shape)
    maps = []
    for i in range(len(h)):
        if method.attribution == "lrp_composite":  # test_maps compares it with Captum's
            one = h[i : i + 1].detach(), y[i : i + 1]
            maps.append(attribute(tail, *one, "lrp_composite", method.target)[0])
            continue
        at = h[i : i + 1].detach().clone().requires_grad_()
        logits = tail(at)
        value = loss(logits, y[i : i + 1])[0] if method.target == "loss" else -logits[0, y[i]]
        (gradient,) = torch.autograd.grad(value, at)
        maps.append((gradient * at if method.attribution == "gradient_x_input" else gradient)[0])
    return torch.stack(maps).detach().numpy()


def best_window(importance: np.ndarray, share: float) -> tuple[slice, slice]:
    """The window with the largest sum; of equal ones the first."""
    height, width = importance.shape
    high, wide = max(1, int(height * share)), max(1, int(width * share))
    best, place = -1.0, (0, 0)
    for row in range(height - high + 1):
        for column in range(width - wide + 1):
            total = importance[row : row + high, column : column + wide].sum()
            if total > best:
                best, place = total, (row, column)
    return slice(place[0], place[0] + high), slice(place[1], place[1] + wide)


def blurred(picture: np.ndarray) -> np.ndarray:
    channels, height, width = picture.shape
    kernel = max(3, int(max(height, width) * 0.15))
    kernel += kernel % 2 == 0
    sd, border = 0.3 * ((kernel - 1) / 2 - 1) + 0.8, kernel // 2
    weight = np.array([math.exp(-((k - border) ** 2) / (2 * sd**2)) for k in range(kernel)])
    weight /= weight.sum()
    mirror = np.pad(picture, ((0, 0), (border, border), (border, border)), mode="reflect")
    out = np.zeros_like(picture)
    for a in range(kernel):
        for b in range(kernel):
            out += weight[a] * weight[b] * mirror[:, a : a + height, b : b + width]
    return out


def rectangle(method, purpose: str, seed: int, step: int, i: int, shape) -> tuple[int, int]:
    """Height and width of what is hidden."""
    height, width = shape
    share = uniform(seed, purpose, step, 2, i)
    area = (method.smallest + (method.largest - method.smallest) * share) * height * width
    ratio = method.aspect ** (1 - 2 * uniform(seed, purpose, step, 3, i))
    high = min(height, max(1, half_up(math.sqrt(area * ratio))))
    wide = min(width, max(1, half_up(math.sqrt(area / ratio))))
    return high, wide


# --- one sample ----------------------------------------------------------------------------------


def alone(method, x: np.ndarray, i: int, seed: int, step: int, importance) -> np.ndarray:
    """One sample that is changed without the others. importance: its map."""
    kind, x = method.kind, x.copy()
    size, shape = x.size, x.shape

    def draw(copy: int, place: int = i) -> float:
        return uniform(seed, kind, step, copy, place)

    if isinstance(method, noise.GaussianNoise):
        drawn = [normal(seed, kind, step, 0, i * size + k) for k in range(size)]
        return x + method.sd * np.array(drawn).reshape(shape)
    if isinstance(method, noise.UniformNoise):
        drawn = [2 * draw(0, i * size + k) - 1 for k in range(size)]
        return x + method.width * np.array(drawn).reshape(shape)
    if isinstance(method, noise.SaltAndPepper):
        low, high = x.min(), x.max()
        for row in range(shape[1]):
            for column in range(shape[2]):
                u = draw(0, (i * shape[1] + row) * shape[2] + column)
                if u < method.p / 2:
                    x[:, row, column] = low
                elif u >= 1 - method.p / 2:
                    x[:, row, column] = high
        return x
    if isinstance(method, occlusion.WordDropout):
        for token in range(shape[0]):
            if draw(0, i * shape[0] + token) < method.p:
                x[token] = 0.0
        return x
    if isinstance(method, occlusion.RandomErasing):
        if draw(1) < method.p:
            high, wide = rectangle(method, kind, seed, step, i, shape[1:])
            top = whole(draw(4), shape[1] - high + 1)
            left = whole(draw(5), shape[2] - wide + 1)
            filling = np.array([normal(seed, kind, step, 6, i * size + k) for k in range(size)])
            inside = slice(None), slice(top, top + high), slice(left, left + wide)
            x[inside] = filling.reshape(shape)[inside]
        return x
    if isinstance(method, guided.RelDropBlock):
        if draw(1) < method.p:
            high, wide = rectangle(method, kind, seed, step, i, shape[1:])
            relevance = -importance.sum(0)
            row, column = np.unravel_index(relevance.argmax(), relevance.shape)
            top, left = half_up(row - high / 2), half_up(column - wide / 2)
            x[:, max(0, top) : max(0, top + high), max(0, left) : max(0, left + wide)] = 0.0
        return x
    if isinstance(method, guided.RelDropPixel):
        if draw(1) < method.p:
            relevance = -importance.sum(0)
            relevance = (relevance - relevance.min()) / (relevance.max() - relevance.min())
            for place, value in enumerate(relevance.flatten()):
                u = draw(2, i * relevance.size + place)
                if method.alpha * u + (1 - method.alpha) * value >= 1 - method.beta:
                    x[:, place // shape[2], place % shape[2]] = 0.0
        return x
    if isinstance(method, guided.GuidedCutout):
        x[(slice(None), *best_window(np.abs(importance).sum(0), method.side))] = 0.0
        return x
    if isinstance(method, guided.ICD):
        if draw(1) < method.p:
            tile, scores = method.tile, []
            for row in range(shape[1] // tile):
                for column in range(shape[2] // tile):
                    cut = (
                        slice(row * tile, (row + 1) * tile),
                        slice(column * tile, (column + 1) * tile),
                    )
                    scores.append((np.abs(importance).sum(0)[cut].mean(), cut))
            ranked = sorted(scores, key=lambda s: s[0], reverse=method.region == "salient")
            other = blurred(x) if method.fill == "blur" else np.zeros_like(x)
            for _, cut in ranked[: half_up(method.share * len(scores))]:
                x[(slice(None), *cut)] = other[(slice(None), *cut)]
        return x
    if isinstance(method, guided.GuidedDropout):
        order = np.argsort(importance.flatten())
        count = half_up(method.p * size)
        chosen = order[size - count :] if method.category == "high" else order[:count]
        flat = x.flatten()
        flat[chosen] = 0.0
        return flat.reshape(shape) / (1 - method.p)
    return moved(method, x, draw)


def moved(method, x: np.ndarray, draw) -> np.ndarray:
    """Hand-crafted augmentation of one picture."""
    channels, height, width = x.shape
    if isinstance(method, transforms.Shift):
        out, by = np.zeros_like(x), []
        for copy, length in enumerate((height, width)):
            most = half_up(method.most * length)
            by.append(whole(draw(copy), 2 * most + 1) - most)
        for row in range(height):
            for column in range(width):
                r, c = row - by[0], column - by[1]
                if 0 <= r < height and 0 <= c < width:
                    out[:, row, column] = x[:, r, c]
        return out
    if isinstance(method, transforms.Flip):
        if draw(0) >= method.p:
            return x
        return x[:, :, ::-1].copy() if method.axis == "horizontal" else x[:, ::-1].copy()
    if isinstance(method, transforms.Rotation):
        return sampled(x, turn((2 * draw(0) - 1) * math.radians(method.degrees)))
    if isinstance(method, transforms.Crop):
        side = math.sqrt(method.smallest + (1 - method.smallest) * draw(0))
        away = [(1 - side) * n * (draw(1 + k) - 0.5) for k, n in enumerate((height, width))]
        return sampled(x, np.array([[side, 0, away[0]], [0, side, away[1]], [0, 0, 1]]))
    assert isinstance(method, transforms.RandAugment)
    matrix, added, contrast = np.eye(3), 0.0, 1.0
    for number in range(method.operations):
        name = list(transforms.OPERATIONS)[whole(draw(2 * number), 8)]
        size = (-1 if draw(2 * number + 1) < 0.5 else 1) * method.magnitude / 30
        if name == "rotate":
            matrix = matrix @ turn(math.radians(30 * size))
        one = np.eye(3)
        one[1, 0] = 0.3 * size if name == "slant across" else 0
        one[0, 1] = 0.3 * size if name == "slant down" else 0
        one[1, 2] = 0.3 * size * width if name == "move across" else 0
        one[0, 2] = 0.3 * size * height if name == "move down" else 0
        matrix = matrix @ one
        added += 0.9 * size if name == "brightness" else 0
        contrast *= 1 + (0.9 * size if name == "contrast" else 0)
    out = sampled(x, matrix)
    return out.mean() + contrast * (out - out.mean()) + added


def turn(angle: float) -> np.ndarray:
    s, c = math.sin(angle), math.cos(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def sampled(x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Each pixel from where the matrix says, between the four around it."""
    _, height, width = x.shape
    out = np.zeros_like(x)
    for row in range(height):
        for column in range(width):
            r, c, _ = matrix @ (row - (height - 1) / 2, column - (width - 1) / 2, 1)
            r, c = r + (height - 1) / 2, c + (width - 1) / 2
            for a in (math.floor(r), math.floor(r) + 1):
                for b in (math.floor(c), math.floor(c) + 1):
                    if 0 <= a < height and 0 <= b < width:
                        out[:, row, column] += (1 - abs(r - a)) * (1 - abs(c - b)) * x[:, a, b]
    return out


# --- a batch -------------------------------------------------------------------------------------


def changed(
    method, h: Tensor, y: Tensor, seed: int, step: int, tail: Tail, loss: LossFunction, soft
) -> tuple[Tensor, Tensor]:
    """The batch as the method changes it. soft: true classes as rows of weights."""
    if isinstance(method, labels.LabelSmoothing):  # over others
        rows = soft(y)
        for row, label in zip(rows, y.tolist(), strict=True):
            row[:] = method.epsilon / (len(row) - 1)
            row[label] = 1 - method.epsilon
        return h, rows
    if isinstance(method, adversarial.FGSM | adversarial.PGD):
        attacked = attack(method, h, y, seed, step, tail, loss)
        if type(method) in (adversarial.FGSM, adversarial.PGD):
            return attacked, y
        return torch.cat([h, attacked]), torch.cat([y, y])
    if isinstance(method, guided.SaliencyMix):
        maps = np.abs(slow_map(method, h, y, seed, step, tail, loss)).sum(1)
        order, rows, mixed, one_hot = partners(seed, method.kind, step, len(h)), [], [], soft(y)
        height, width = h.shape[-2:]
        for i, j in enumerate(order):
            row, column = np.unravel_index(maps[j].argmax(), maps[j].shape)
            side = math.sqrt(1 - beta(seed, method.kind, step, i, method.alpha))
            high, wide = math.floor(height * side), math.floor(width * side)
            top, left = row - high // 2, column - wide // 2
            x, count = h[i].clone(), 0
            for r in range(max(0, top), min(height, top + high)):
                for c in range(max(0, left), min(width, left + wide)):
                    x[:, r, c] = h[j][:, r, c]
                    count += 1
            share = 1 - count / (height * width)
            rows.append(x)
            mixed.append(share * one_hot[i] + (1 - share) * one_hot[j])
        return torch.stack(rows), torch.stack(mixed)
    if isinstance(method, puzzle.PuzzleMix):
        maps = np.abs(slow_map(method, h, y, seed, step, tail, loss)).sum(1)
        maps = [m / m.sum() for m in maps]
        order, rows, mixed, one_hot = partners(seed, method.kind, step, len(h)), [], [], soft(y)
        height, width, tile = *h.shape[-2:], method.tile
        for i, j in enumerate(order):
            scores = []
            for row in range(height // tile):
                for column in range(width // tile):
                    down = slice(row * tile, (row + 1) * tile)
                    along = slice(column * tile, (column + 1) * tile)
                    gained = maps[j][down, along].sum() - maps[i][down, along].sum()
                    scores.append((gained, (slice(None), down, along)))
            share = 1 - beta(seed, method.kind, step, i, method.alpha)
            taken = sorted(scores, key=lambda s: -s[0])[: half_up(share * len(scores))]
            x = h[i].clone()
            for _, cut in taken:
                x[cut] = h[j][cut]
            kept = 1 - len(taken) * tile * tile / (height * width)
            rows.append(x)
            mixed.append(kept * one_hot[i] + (1 - kept) * one_hot[j])
        return torch.stack(rows), torch.stack(mixed)
    maps = [None] * len(h)
    if isinstance(method, guided.Guided):
        maps = slow_map(method, h, y, seed, step, tail, loss)
    x = h.detach().numpy()
    rows = [alone(method, x[i], i, seed, step, maps[i]) for i in range(len(h))]
    return torch.tensor(np.stack(rows)), y


def attack(method, h: Tensor, y: Tensor, seed: int, step: int, tail: Tail, loss) -> Tensor:
    def uphill(at: Tensor) -> Tensor:
        at = at.detach().clone().requires_grad_()
        return torch.autograd.grad(loss(tail(at), y).sum(), at)[0].sign()

    if isinstance(method, adversarial.FGSM):
        return h + method.epsilon * uphill(h)
    size = h[0].numel()
    drawn = [uniform(seed, "attack", step, 0, k) for k in range(len(h) * size)]
    x = h + method.epsilon * (2 * torch.tensor(drawn).double().reshape(h.shape) - 1)
    for _ in range(method.iterations):
        x = x + method.step_size * uphill(x)
        x = torch.clamp(x, h - method.epsilon, h + method.epsilon)
    return x


def losses(method, logits: Tensor, y: Tensor, loss: LossFunction) -> Tensor:
    """One number a sample, or a pair of samples, one after the other."""
    each = loss(logits, y)
    if isinstance(method, labels.LogitSqueezing):
        more = [method.beta * (row**2).sum() for row in logits]
        return each + torch.stack(more)
    if isinstance(method, labels.MaxSup):
        more = [method.alpha * (max(row) - sum(row) / len(row)) for row in logits]
        return each + torch.stack(more)
    if isinstance(method, labels.ConfidencePenalty):
        p = torch.softmax(logits, 1)
        entropy = [-sum(q * torch.log(q) for q in row) for row in p]
        return torch.stack([e - method.beta * h for e, h in zip(each, entropy, strict=True)])
    if isinstance(method, adversarial.ALP | adversarial.LRM):
        half, pairs = len(logits) // 2, []
        for i in range(half):
            one, two = logits[i], logits[i + half]
            both = (each[i] + each[i + half]) / 2
            if isinstance(method, adversarial.ALP):
                pairs.append(both + method.weight * ((one - two) ** 2).sum())
                continue
            cross = -(torch.softmax(one, 0) * torch.log(torch.softmax(two, 0))).sum()
            small = (one**2).sum() + (two**2).sum()
            pairs.append((1 - method.ratio) * both + method.ratio * cross + method.beta * small)
        return torch.stack(pairs)
    return each


# --- batch norm ----------------------------------------------------------------------------------


class SlowNorm(nn.Module):
    """Batch norm written out, with parts of the batch one after the other."""

    def __init__(self, norm: nn.BatchNorm2d, size: int = 0) -> None:
        super().__init__()
        self.norm, self.size = norm, size
        if not size:
            self.changed = nn.BatchNorm2d(norm.num_features).to(norm.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.norm(x)
        if not self.size:
            half = (len(x) + 1) // 2
            return torch.cat([self.by(self.norm, x[:half]), self.by(self.changed, x[half:])])
        count = max(1, len(x) // self.size)
        sizes = [len(x) // count + (k < len(x) % count) for k in range(count)]
        return torch.cat([self.by(self.norm, piece) for piece in x.split(sizes)])

    def by(self, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
        out, numbers = torch.zeros_like(x), x[:, 0].numel()
        means, variances = [], []
        for channel in range(x.shape[1]):
            values = x[:, channel]
            mean = values.sum() / numbers
            variance = ((values - mean) ** 2).sum() / numbers
            scaled = (values - mean) / torch.sqrt(variance + norm.eps)
            out[:, channel] = norm.weight[channel] * scaled + norm.bias[channel]
            means.append(mean.detach())
            variances.append(variance.detach() * numbers / (numbers - 1))
        with torch.no_grad():
            norm.running_mean += 0.1 * (torch.stack(means) - norm.running_mean)
            norm.running_var += 0.1 * (torch.stack(variances) - norm.running_var)
            norm.num_batches_tracked += 1
        return out


class SlowGroupedNorm(nn.Module):
    """Statistics of a few channels together, one sample and one group after the other."""

    def __init__(self, norm: nn.BatchNorm2d, size: int) -> None:
        super().__init__()
        self.size, self.eps = size, norm.eps
        self.weight, self.bias = norm.weight, norm.bias
        groups = norm.num_features // size
        self.register_buffer("running_mean", torch.zeros(groups).to(norm.weight.dtype))
        self.register_buffer("running_var", torch.ones(groups).to(norm.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for group in range(x.shape[1] // self.size):
            mean, variance = self.running_mean[group].clone(), self.running_var[group].clone()
            channels = range(group * self.size, (group + 1) * self.size)
            if self.training:
                values = torch.cat([x[:, channel].flatten() for channel in channels])
                mean = values.sum() / len(values)
                variance = ((values - mean) ** 2).sum() / len(values)
                with torch.no_grad():
                    unbiased = variance * len(values) / (len(values) - 1)
                    self.running_mean[group] += 0.1 * (mean - self.running_mean[group])
                    self.running_var[group] += 0.1 * (unbiased - self.running_var[group])
            for channel in channels:
                scaled = (x[:, channel] - mean) / torch.sqrt(variance + self.eps)
                out[:, channel] = self.weight[channel] * scaled + self.bias[channel]
        return out


class SlowWeighedNorm(nn.Module):
    """In evaluation a share of each example's own statistics, one example after the other."""

    def __init__(self, norm: nn.BatchNorm2d, alpha: float) -> None:
        super().__init__()
        self.norm, self.alpha = norm, alpha
        self.register_buffer("mean_square", torch.ones_like(norm.running_mean))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            for channel in range(x.shape[1]):
                values = x[:, channel].detach()
                now = (values**2).sum() / values.numel()
                self.mean_square[channel] += 0.1 * (now - self.mean_square[channel])
            return self.norm(x)
        out, own = torch.zeros_like(x), self.alpha
        for i in range(len(x)):
            for channel in range(x.shape[1]):
                values = x[i, channel]
                first = values.sum() / values.numel()
                second = (values**2).sum() / values.numel()
                mean = own * first + (1 - own) * self.norm.running_mean[channel]
                square = own * second + (1 - own) * self.mean_square[channel]
                scaled = (values - mean) / torch.sqrt(square - mean**2 + self.norm.eps)
                out[i, channel] = self.norm.weight[channel] * scaled + self.norm.bias[channel]
        return out


def architecture(method, model: nn.Sequential) -> nn.Sequential:
    """The model with its one batch norm, "1", replaced."""
    if isinstance(method, norms.GhostBatchNorm):
        model[1] = SlowNorm(model[1], method.size)
    if isinstance(method, norms.BatchGroupNorm):
        model[1] = SlowGroupedNorm(model[1], method.size)
    if isinstance(method, norms.ExampleWeighing):
        model[1] = SlowWeighedNorm(model[1], method.alpha)
    if isinstance(method, adversarial.AdvProp):
        model[1] = SlowNorm(model[1])
    return model
