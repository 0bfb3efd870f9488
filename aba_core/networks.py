"""Deeper networks for pictures, signals and texts.

Residual networks normalise by batch norm, or, without it, by group norm: they do not train without
any. Sources: He et al. 2016 (ResNet) and 2019 ("Bag of tricks": the x of xresnet), Dosovitskiy et
al. 2021 (ViT), Wang et al. 2017 (FCN for time series), Strodthoff et al. 2021 (xresnet1d, FCN on
PTB-XL; kernel sizes as there, the head is one linear layer).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Shape = tuple[int, ...]


def _norm(channels: int, batch_norm: bool, dimensions: int) -> nn.Module:
    if batch_norm:
        return (nn.BatchNorm1d if dimensions == 1 else nn.BatchNorm2d)(channels)
    return nn.GroupNorm(min(8, channels), channels)


class Residual(nn.Module):
    """A block of convolutions, added to its input. bottleneck: 1, k and 1 wide, with four times the
    channels at the end; otherwise two k wide. pools: the short cut is averaged over neighbours
    before its convolution, as in xresnet; otherwise that convolution has the stride."""

    def __init__(
        self,
        before: int,
        channels: int,
        stride: int,
        *,
        kernel: int = 3,
        dimensions: int = 2,
        batch_norm: bool = True,
        bottleneck: bool = False,
        pools: bool = False,
    ) -> None:
        super().__init__()
        convolution = nn.Conv1d if dimensions == 1 else nn.Conv2d
        after = 4 * channels if bottleneck else channels
        plan = [(before, channels, 1, 1), (channels, channels, kernel, stride),
                (channels, after, 1, 1)] if bottleneck else [
                (before, channels, kernel, stride), (channels, after, kernel, 1)]  # fmt: skip
        layers: list[nn.Module] = []
        for start, end, width, step in plan:
            layers += [
                convolution(start, end, width, step, padding=width // 2, bias=False),
                _norm(end, batch_norm, dimensions),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers[:-1])
        short: list[nn.Module] = []
        if stride > 1 and pools:
            pool = nn.AvgPool1d if dimensions == 1 else nn.AvgPool2d
            short.append(pool(stride, ceil_mode=True))
        if stride > 1 or before != after:
            step = 1 if pools else stride
            short += [convolution(before, after, 1, step, bias=False),
                      _norm(after, batch_norm, dimensions)]  # fmt: skip
        self.short = nn.Sequential(*short)
        self.last = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x) + self.short(x))


class Pooled(nn.Module):
    """The mean over all places, and with `maximum` also the maximum."""

    def __init__(self, maximum: bool = False) -> None:
        super().__init__()
        self.maximum = maximum

    def forward(self, x: Float[Tensor, "batch channel *place"]) -> Float[Tensor, "batch value"]:
        flat = x.flatten(2)
        mean = flat.mean(2)
        return torch.cat([flat.amax(2), mean], dim=1) if self.maximum else mean


def _stages(
    depths: tuple[int, ...], channels: int, width: int, **block: Any
) -> tuple[list[nn.Module], int]:
    layers: list[nn.Module] = []
    for stage, depth in enumerate(depths):
        for number in range(depth):
            stride = 2 if stage and not number else 1
            layers.append(Residual(channels, width * 2**stage, stride, **block))
            channels = width * 2**stage * (4 if block.get("bottleneck") else 1)
    return layers, channels


def _resnet18(width: int, input_shape: Shape, classes: int, batch_norm: bool) -> nn.Module:
    """Without the stem that ImageNet's pictures need: one 3×3 convolution, and from 64 pixels on a
    maximum pooling by 2."""
    stem: list[nn.Module] = [
        nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False),
        _norm(width, batch_norm, 2),
        nn.ReLU(),
    ]
    if min(input_shape[1:]) >= 64:
        stem.append(nn.MaxPool2d(2))
    layers, channels = _stages((2, 2, 2, 2), width, width, batch_norm=batch_norm)
    return nn.Sequential(*stem, *layers, Pooled(), nn.Linear(channels, classes))


def resnet18(input_shape: Shape, classes: int, batch_norm: bool) -> nn.Module:
    """ResNet-18 for small pictures, 11 million parameters."""
    return _resnet18(64, input_shape, classes, batch_norm)


def resnet18_thin(input_shape: Shape, classes: int, batch_norm: bool) -> nn.Module:
    """ResNet-18 with a quarter of the channels, 0.7 million parameters."""
    return _resnet18(16, input_shape, classes, batch_norm)


def _xresnet1d(
    depths: tuple[int, ...], bottleneck: bool, input_shape: Shape, classes: int, batch_norm: bool
) -> nn.Module:
    stem: list[nn.Module] = []
    channels = input_shape[0]
    for number, width in enumerate((32, 32, 64)):
        stride = 2 if number == 0 else 1
        stem += [nn.Conv1d(channels, width, 5, stride, padding=2, bias=False),
                 _norm(width, batch_norm, 1), nn.ReLU()]  # fmt: skip
        channels = width
    layers, channels = _stages(
        depths, channels, 64, kernel=5, dimensions=1, batch_norm=batch_norm,
        bottleneck=bottleneck, pools=True,
    )  # fmt: skip
    head = [Pooled(maximum=True), nn.Linear(2 * channels, classes)]
    return nn.Sequential(*stem, nn.MaxPool1d(3, 2, 1), *layers, *head)


def xresnet1d18(input_shape: Shape, classes: int, batch_norm: bool) -> nn.Module:
    """An xresnet for signals, with kernels of 5 and two blocks a stage."""
    return _xresnet1d((2, 2, 2, 2), False, input_shape, classes, batch_norm)


def xresnet1d101(input_shape: Shape, classes: int, batch_norm: bool) -> nn.Module:
    """An xresnet for signals with bottlenecks, 3, 4, 23 and 3 blocks a stage."""
    return _xresnet1d((3, 4, 23, 3), True, input_shape, classes, batch_norm)


def _fcn(width: int, input_shape: Shape, classes: int, batch_norm: bool) -> nn.Module:
    layers: list[nn.Module] = []
    channels = input_shape[0]
    for after, kernel in ((width, 8), (2 * width, 5), (width, 3)):
        layers.append(nn.ConstantPad1d(((kernel - 1) // 2, kernel // 2), 0.0))  # as long as before
        layers.append(nn.Conv1d(channels, after, kernel, bias=not batch_norm))
        layers += [nn.BatchNorm1d(after)] if batch_norm else []
        layers.append(nn.ReLU())
        channels = after
    return nn.Sequential(*layers, Pooled(), nn.Linear(channels, classes))


def fcn(input_shape: Shape, classes: int, batch_norm: bool) -> nn.Module:
    """A fully convolutional network for signals: kernels of 8, 5 and 3, the mean over time."""
    return _fcn(128, input_shape, classes, batch_norm)


def fcn_thin(input_shape: Shape, classes: int, batch_norm: bool) -> nn.Module:
    """The same with an eighth of the channels."""
    return _fcn(16, input_shape, classes, batch_norm)


# --- transformers --------------------------------------------------------------------------------


class Attention(nn.Module):
    """Self-attention with several heads over [batch, token, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.all = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        split = self.all(x).unflatten(2, (3, self.heads, -1))
        query, key, value = (split[:, :, part].transpose(1, 2) for part in range(3))
        weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and two linear layers, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width, heads))
        self.linear = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.linear(x)


class Transformer(nn.Module):
    """Tokens [batch, token, value] or patches of pictures through blocks; the mean over tokens.

    patch: the side of a picture's patches, 0 where inputs are tokens already.
    """

    def __init__(
        self, input_shape: Shape, classes: int, width: int, depth: int, patch: int = 0
    ) -> None:
        super().__init__()
        self.patch = patch
        if patch:
            channels, height, across = input_shape
            tokens = (height // patch) * (across // patch)
            self.embed: nn.Module = nn.Conv2d(channels, width, patch, patch)
        else:
            tokens = input_shape[0]
            self.embed = nn.Linear(input_shape[1], width)
        self.place = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Float[Tensor, "batch class_"]:
        tokens = self.embed(x)
        if self.patch:
            tokens = tokens.flatten(2).transpose(1, 2)
        return self.classifier(self.norm(self.blocks(tokens + self.place)).mean(1))


def _without_batch_norm(name: str, batch_norm: bool) -> None:
    if batch_norm:
        raise ValueError(f"batch_norm is true, which model {name!r} has nowhere; allowed: false")


def tiny_vit(input_shape: Shape, classes: int, batch_norm: bool) -> nn.Module:
    """A vision transformer of four blocks, 128 wide, on 8×8 patches of the picture."""
    _without_batch_norm("tiny_vit", batch_norm)
    return Transformer(input_shape, classes, 128, 4, patch=max(1, min(input_shape[1:]) // 8))


def text_transformer(input_shape: Shape, classes: int, batch_norm: bool) -> nn.Module:
    """A transformer of two blocks, 64 wide, on embedded tokens."""
    _without_batch_norm("text_transformer", batch_norm)
    return Transformer(input_shape, classes, 64, 2)


Builder = Callable[[Shape, int, bool], nn.Module]

# name: (builder, input dimensions without the batch, what they are), as in `models.MODELS`
NETWORKS: dict[str, tuple[Builder, int | None, str]] = {
    "resnet18": (resnet18, 3, "channels, height, width"),
    "resnet18_thin": (resnet18_thin, 3, "channels, height, width"),
    "tiny_vit": (tiny_vit, 3, "channels, height, width"),
    "fcn": (fcn, 2, "channels, time"),
    "fcn_thin": (fcn_thin, 2, "channels, time"),
    "xresnet1d18": (xresnet1d18, 2, "channels, time"),
    "xresnet1d101": (xresnet1d101, 2, "channels, time"),
    "text_transformer": (text_transformer, 2, "tokens, embedding"),
}
