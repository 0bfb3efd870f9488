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
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from aba_core.kernels import texts
from aba_core.kernels.blocks import Block, blocks
from aba_core.models import TextCNN
from aba_core.precision import cast_to

# Convolutions of up to so many input channels, as a rule the first layer's, are matrix products: up
# to four times faster than PyTorch's own, and slower from 8 channels on.
FEW_CHANNELS = 4

# How the other convolutions of stacked replicas are done: "grouped", one group a replica, which is
# vmap's way; or "matmul", as those of few channels. Grouped is faster on a CPU; on a GPU neither
# has been tried.
STACKED_CONVOLUTION: Literal["grouped", "matmul"] = "grouped"


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
        if _plain(module) and module.in_channels <= FEW_CHANNELS:
            module.forward = partial(_convolve_single, module)  # type: ignore[method-assign]
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
        module.forward = partial(_texts, module)  # type: ignore[method-assign]


def _texts(model: TextCNN, x: Tensor) -> Tensor:
    """As the model's own forward."""
    pooled = [
        texts.largest(x, convolution[0])  # type: ignore[arg-type, index]
        if texts.applies(list(convolution), x)  # type: ignore[call-overload]
        else convolution(x.transpose(1, 2)).amax(2)
        for convolution in model.convolutions
    ]
    return model.classifier(torch.cat(pooled, dim=1))


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


def _plain(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(module) is nn.Conv2d
        and (module.groups, module.dilation, module.padding_mode) == (1, (1, 1), "zeros")
        and not isinstance(module.padding, str)
    )


def _convolve_stacked(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    values = x, module.weight, module.bias
    dtype = cast_to(x.device.type)
    if dtype is not None:  # vmap hides convolutions from autocast
        values = tuple(value if value is None else value.to(dtype) for value in values)  # type: ignore[assignment]
    few = module.in_channels <= FEW_CHANNELS
    if _plain(module) and x.dim() == 4 and (few or STACKED_CONVOLUTION == "matmul"):
        return _StackedConv2d.apply(*values, module.stride, module.padding)
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


class _StackedConv2d(torch.autograd.Function):
    """conv2d whose batching over replicas is one batched matrix product of patches."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
        return functional.conv2d(x, weight, bias, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is saved: under vmap, the operations of the rule below are differentiated."""

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *options: tuple[int, int],
    ) -> tuple[Tensor, int]:
        stacked = (
            None if value is None
            else value.expand(info.batch_size, *value.shape) if axis is None
            else value.movedim(axis, 0)
            for value, axis in zip((x, weight, bias), in_dims[:3], strict=True)
        )  # fmt: skip
        return _ProductOfPatches.apply(*stacked, *options), 0


class _ProductOfPatches(torch.autograd.Function):
    """conv2d of every replica: x [replica, batch, channel, height, width], weight
    [replica, output, channel, height, width], bias [replica, output] or None."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.options = stride, padding
        rows, columns = (
            (side + 2 * border - kernel) // step + 1
            for side, kernel, step, border in zip(
                x.shape[3:], weight.shape[3:], stride, padding, strict=True
            )
        )
        patches = _patches(x, weight, stride, padding).transpose(1, 2)
        factors = weight.flatten(2).transpose(1, 2)
        product = (
            patches @ factors if bias is None else torch.baddbmm(bias[:, None], patches, factors)
        )
        return product.unflatten(1, (x.shape[1], rows, columns)).movedim(-1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = _input_gradient(gradient, weight, x.shape, *ctx.options)
        outputs = gradient.movedim(2, -1).flatten(1, 3)
        if ctx.needs_input_grad[1]:
            patches = _patches(x, weight, *ctx.options)
            to_weight = (patches @ outputs).transpose(1, 2).unflatten(2, weight.shape[2:])
        if ctx.needs_input_grad[2]:
            to_bias = outputs.sum(1)
        return to_x, to_weight, to_bias, None, None


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
        to_x = _input_gradient(gradient[None], weight[None], (1, *ctx.shape), *ctx.options)
        return to_x[0], None, None, None, None


def _patches(
    x: Float[Tensor, "replica batch channel height width"],
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Float[Tensor, "replica element place"]:
    """What each element of the kernel sees at each place of each picture. Elements come first, so
    that a row of the picture is copied as a whole: a quarter of the time of the other order."""
    padded = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    windows = padded.unfold(3, weight.shape[3], stride[0]).unfold(4, weight.shape[4], stride[1])
    return windows.permute(0, 2, 5, 6, 1, 3, 4).flatten(4).flatten(1, 3)


def _input_gradient(
    gradient: Float[Tensor, "replica batch output row column"],
    weight: Float[Tensor, "replica output channel kernel_height kernel_width"],
    shape: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Float[Tensor, "replica batch channel height width"]:
    """The gradient of patches, each element added where it was seen: first down, then across."""
    replicas, batch, channels, height, width = shape
    kernel = weight.shape[3:]
    rows, columns = gradient.shape[3:]
    outputs = gradient.movedim(2, -1).flatten(1, 3)
    elements = weight.flatten(2).transpose(1, 2).to(outputs.dtype) @ outputs.transpose(1, 2)
    elements = elements.view(replicas, channels, *kernel, batch, rows, columns)
    high, wide = height + 2 * padding[0], width + 2 * padding[1]
    sums = torch.promote_types(elements.dtype, torch.float32)
    down = elements.new_zeros(replicas, channels, kernel[1], batch, high, columns, dtype=sums)
    for row in range(kernel[0]):
        down[..., row : row + stride[0] * rows : stride[0], :].add_(elements[:, :, row])
    across = down.new_zeros(replicas, channels, batch, high, wide)
    for column in range(kernel[1]):
        across[..., column : column + stride[1] * columns : stride[1]].add_(down[:, :, column])
    inside = across[..., padding[0] : padding[0] + height, padding[1] : padding[1] + width]
    return inside.transpose(1, 2)
