"""Convolution and pooling as replicas do them: the numbers of PyTorch's own, in less time.

Stacked replicas (`vmap`) pool with channels last, and convolve pictures of few channels by one
batched matrix product of patches. A single replica's gradient to its inputs, which attribution
needs and training does not, is such a product too. benchmarks/README.md has the measurements.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from aba_core import convolutions
from aba_core.convolutions import StackedConvolution, input_gradient
from aba_core.kernels import texts
from aba_core.kernels.blocks import Block, blocks
from aba_core.models import TextCNN
from aba_core.precision import cast_to

# Convolutions of up to so many input channels, as a rule the first layer's, are matrix products: up
# to four times faster than PyTorch's own, and slower from 8 channels on.
FEW_CHANNELS = 4

# How the other convolutions of stacked replicas are done: one of `convolutions.WAYS`; or "auto",
# which is "grouped" on a CPU, where it is faster, and timed for each shape on a GPU, untried.
STACKED_CONVOLUTION: Literal["auto", "grouped", "grouped, channels last", "matmul", "singly"] = (
    "auto"
)


def channels_last(values: Tensor) -> Tensor:
    """The same values, channels last in memory: the order in which CPU convolution and pooling
    work fastest. `to` and not `contiguous`, which leaves a single channel in the other layout."""
    return values.to(memory_format=torch.channels_last) if values.dim() == 4 else values


def for_stacked(architecture: nn.Module) -> nn.Module:
    """A copy of the architecture whose poolings and convolutions vmap does our way."""
    model = copy.deepcopy(architecture)
    for module in model.modules():
        if type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d):  # those derived may do as they like
            module.forward = partial(_convolve_stacked, module)  # type: ignore[method-assign, arg-type]
        if type(module) is nn.MaxPool2d and not module.return_indices:
            options = (
                module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode
            )  # fmt: skip
            module.forward = partial(_pool, options)  # type: ignore[method-assign]
        if type(module) is nn.AdaptiveAvgPool2d and module.output_size in (1, (1, 1)):
            module.forward = _mean_of_picture  # type: ignore[method-assign, assignment]
        _fuse(module, stacked=True)
    return model


def for_single(architecture: nn.Module) -> nn.Module:
    """A copy of the architecture whose first convolution goes back to its inputs our way."""
    model = copy.deepcopy(architecture)
    for module in model.modules():
        if type(module) is nn.Conv2d and _plain(module) and module.in_channels <= FEW_CHANNELS:
            module.forward = partial(_convolve_single, module)  # type: ignore[method-assign, arg-type]
        _fuse(module, stacked=False)
        _fuse_texts(module)
    return model


def fused(architecture: nn.Module) -> nn.Module:
    """A copy of the architecture whose blocks are fused, or itself where there are none."""
    if not any(
        type(m) is TextCNN or (type(m) is nn.Sequential and blocks(list(m)))
        for m in architecture.modules()
    ):
        return architecture
    model = copy.deepcopy(architecture)
    for module in model.modules():
        _fuse(module, stacked=False)
        _fuse_texts(module)
    return model


def _fuse(module: nn.Module, stacked: bool) -> None:
    """Have a plain `nn.Sequential` run its blocks of convolution, pooling and ReLU fused."""
    if type(module) is nn.Sequential and (places := blocks(list(module))):
        module.forward = partial(_in_a_row, module, places, stacked)  # type: ignore[method-assign]


def _fuse_texts(module: nn.Module) -> None:
    if type(module) is TextCNN and "forward" not in vars(module):
        reading = texts.branches(list(module.convolutions))
        if reading is not None:
            module.forward = partial(_texts, module, reading)  # type: ignore[method-assign]


def _texts(model: TextCNN, reading: texts.Branches, x: Tensor) -> Tensor:
    """As the model's own forward."""
    return model.classifier(reading(x)) if reading.applies(x) else TextCNN.forward(model, x)


def _in_a_row(chain: nn.Sequential, places: dict[int, Block], stacked: bool, x: Tensor) -> Tensor:
    layers = list(chain)
    place = 0
    while place < len(layers):
        block = places.get(place)
        if block is not None:
            values = x, layers[place].weight, layers[place].bias
            if block.applies(*values, levels=int(stacked)):  # type: ignore[arg-type]
                x, place = block(*values), place + len(block.layers)  # type: ignore[arg-type]
                continue
        x, place = layers[place](x), place + 1
    return x


def _plain(module: nn.Module) -> TypeGuard[nn.Conv1d | nn.Conv2d]:
    return (
        type(module) in (nn.Conv1d, nn.Conv2d)
        and (module.groups, set(module.dilation), module.padding_mode) == (1, {1}, "zeros")  # type: ignore[arg-type]
        and not isinstance(module.padding, str)
    )


def _convolve_stacked(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    values = x, module.weight, module.bias
    dtype = cast_to(x.device.type)
    if dtype is not None:  # vmap hides convolutions from autocast
        values = tuple(value if value is None else value.to(dtype) for value in values)  # type: ignore[assignment]
    way: str = STACKED_CONVOLUTION
    few = module.in_channels <= FEW_CHANNELS
    if way == "auto" and x.device.type == "cuda":
        way = convolutions.TIMED
    elif few and type(module) is nn.Conv2d and way in ("auto", "grouped"):
        way = "matmul"
    if _plain(module) and x.dim() == module.weight.dim() and way not in ("auto", "grouped"):
        return StackedConvolution.apply(*values, module.stride, module.padding, way)
    return module._conv_forward(*values)


def _convolve_single(module: nn.Conv2d, x: Tensor) -> Tensor:
    if x.requires_grad and x.dim() == 4 and not module.weight.requires_grad:
        return _InputGradient.apply(x, module.weight, module.bias, module.stride, module.padding)
    return module._conv_forward(x, module.weight, module.bias)


def _pool(options: tuple[Any, ...], x: Tensor) -> Tensor:
    return _StackedMaxPool2d.apply(x, *options)


def _mean_of_picture(x: Tensor) -> Tensor:
    """Average pooling to one place; PyTorch's own arranges memory in a way that vmap cannot."""
    return x.mean((-2, -1), keepdim=True)


class _StackedMaxPool2d(torch.autograd.Function):
    """max_pool2d whose batching over replicas puts channels last: several times faster on a CPU."""

    @staticmethod
    def forward(x: Tensor, *options: Any) -> Tensor:
        return functional.max_pool2d(x, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is saved: under vmap, the operations of the rule below are differentiated."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, *options: Any
    ) -> tuple[Tensor, int]:
        stacked = x.movedim(in_dims[0] or 0, 0)
        pooled = functional.max_pool2d(channels_last(stacked.flatten(0, 1)), *options)
        return pooled.unflatten(0, stacked.shape[:2]), 0


class _InputGradient(torch.autograd.Function):
    """conv2d of one model [batch, channel, height, width], differentiable by its inputs alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.options = x.shape, options
        return functional.conv2d(x, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        to_x = input_gradient(gradient[None], weight[None], (1, *ctx.shape), *ctx.options)
        return to_x[0], None, None, None, None
