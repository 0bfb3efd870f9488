"""The small models of the published study, written once as plain modules.

`replicas` stacks any of them, and any other `nn.Module` without data-dependent control flow.
Sizes: "small CNN" is not specified in the slides; ours is two 3×3 convolutions of 16 and 32
channels. VGG follows Simonyan and Zisserman 2014, configurations A and D, with one linear layer
as classifier, as is usual for 32×32 inputs; a pooling that would shrink a side below one element
is left out, so that any input size works.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aba_core.identity import meant
from aba_core.networks import NETWORKS

_VGG = {
    "vgg11": (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool"),
    "vgg16": (
        *(64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool"),
        *(512, 512, 512, "pool", 512, 512, 512, "pool"),
    ),
}
_SMALL_CNN = (16, "pool", 32, "pool")
_LARGER_CNN = (32, 32, "pool", 64, 64, "pool")


def _convolutional(
    plan: tuple[int | str, ...], input_shape: tuple[int, ...], classes: int, batch_norm: bool
) -> nn.Module:
    channels, height, width = input_shape
    layers: list[nn.Module] = []
    for entry, following in zip(plan, (*plan[1:], None), strict=True):
        if isinstance(entry, int):
            layers.append(nn.Conv2d(channels, entry, 3, padding=1, bias=not batch_norm))
            layers += [nn.BatchNorm2d(entry)] if batch_norm else []
            channels = entry
            # ReLU and maximum commute; pooling first leaves a quarter of the values to rectify.
            if following == "pool" and min(height, width) >= 2:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, classes))


def small_cnn(input_shape: tuple[int, ...], classes: int, batch_norm: bool) -> nn.Module:
    return _convolutional(_SMALL_CNN, input_shape, classes, batch_norm)


def larger_cnn(input_shape: tuple[int, ...], classes: int, batch_norm: bool) -> nn.Module:
    """Two blocks of two convolutions, of 32 and 64 channels: a stronger small model."""
    return _convolutional(_LARGER_CNN, input_shape, classes, batch_norm)


def vgg11(input_shape: tuple[int, ...], classes: int, batch_norm: bool) -> nn.Module:
    return _convolutional(_VGG["vgg11"], input_shape, classes, batch_norm)


def vgg16(input_shape: tuple[int, ...], classes: int, batch_norm: bool) -> nn.Module:
    return _convolutional(_VGG["vgg16"], input_shape, classes, batch_norm)


def mlp(input_shape: tuple[int, ...], classes: int, batch_norm: bool) -> nn.Module:
    """Two hidden layers of 64 units on the flattened input, any shape."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(input_shape)
    for hidden in (64, 64):
        layers.append(nn.Linear(width, hidden, bias=not batch_norm))
        layers += [nn.BatchNorm1d(hidden)] if batch_norm else []
        layers.append(nn.ReLU())
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, classes))


def linear(input_shape: tuple[int, ...], classes: int, batch_norm: bool) -> nn.Module:
    """Softmax regression on the flattened input: one minimum for every initialisation. Batch
    norm, where asked for, acts on the input."""
    width = math.prod(input_shape)
    normalised = [nn.BatchNorm1d(width)] if batch_norm else []
    return nn.Sequential(nn.Flatten(), *normalised, nn.Linear(width, classes))


class TextCNN(nn.Module):
    """Convolutions over 3, 4 and 5 tokens, the maximum over the text, one linear layer (Kim 2014).

    Input [batch, token, embedding]: the words are embedded already, so that attribution and
    augmentation act on the embedded input.
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int, batch_norm: bool) -> None:
        super().__init__()
        tokens, embedding = input_shape
        widths = [width for width in (3, 4, 5) if width <= tokens] or [1]
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(embedding, 64, width, bias=not batch_norm),
                *([nn.BatchNorm1d(64)] if batch_norm else []),
                nn.ReLU(),
            )
            for width in widths
        )
        self.classifier = nn.Linear(64 * len(widths), classes)

    def forward(self, x: Float[Tensor, "batch token embedding"]) -> Float[Tensor, "batch class_"]:
        channels_first = x.transpose(1, 2)
        pooled = [convolution(channels_first).amax(2) for convolution in self.convolutions]
        return self.classifier(torch.cat(pooled, dim=1))


_Builder = Callable[[tuple[int, ...], int, bool], nn.Module]

# name: (builder, input dimensions without the batch (None: any), what they are)
MODELS: dict[str, tuple[_Builder, int | None, str]] = {
    "linear": (linear, None, "any shape"),
    "mlp": (mlp, None, "any shape"),
    "small_cnn": (small_cnn, 3, "channels, height, width"),
    "larger_cnn": (larger_cnn, 3, "channels, height, width"),
    "vgg11": (vgg11, 3, "channels, height, width"),
    "vgg16": (vgg16, 3, "channels, height, width"),
    "text_cnn": (TextCNN, 2, "tokens, embedding"),
}


def build_model(
    name: str, input_shape: tuple[int, ...], classes: int, batch_norm: bool = False
) -> nn.Module:
    """A freshly initialised model from [batch, *input_shape] to logits [batch, classes].

    Raises ValueError for an unknown name, an input shape the model cannot take, or no classes.
    """
    known = {**MODELS, **NETWORKS}
    if name not in known:
        raise ValueError(f"unknown model {name!r}{meant(name, known)}; known: {', '.join(known)}")
    builder, dimensions, meaning = known[name]
    if isinstance(input_shape, str) or not isinstance(input_shape, Iterable):
        raise ValueError(f"input_shape is {input_shape!r}; needed: ({meaning})")
    shape = tuple(int(side) for side in input_shape)
    if not shape or min(shape) < 1 or dimensions not in (None, len(shape)):
        raise ValueError(f"input shape {shape} for model {name!r}; needed: ({meaning})")
    if not isinstance(classes, int) or classes < 1:
        raise ValueError(f"classes is {classes!r}; allowed: whole numbers from 1")
    return builder(shape, classes, batch_norm)
