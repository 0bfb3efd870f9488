"""Convolutions of stacked replicas, in several ways that give the same numbers.

No way is the fastest for all shapes: one group a replica is vmap's own, and slow on a GPU's way
back; a batched product of patches takes memory; one replica after the other, on several streams of
work, is best where each fills the device. On a GPU they are timed for each shape when it comes
first, and the fastest is kept (`Chooser`). All of this is untried on a GPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from aba_core.precision import tf32_convolutions

TIMED = "timed"  # in place of a way: the fastest
# Patches that take more bytes are no way: memory is predicted without them (`demand`).
MOST_PATCHES = 2**30
STREAMS = 4
REPEATS = 3
SLOW = 0.1  # seconds of a call

Pair = tuple[int, int]
Convolves = Callable[[Tensor, Tensor, "Tensor | None", Pair, Pair], Tensor]


class StackedConvolution(torch.autograd.Function):
    """conv1d or conv2d whose batching over replicas is one of `WAYS`, or the fastest."""

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, way: str
    ) -> Tensor:
        return (functional.conv1d if weight.dim() == 3 else functional.conv2d)(
            x, weight, bias, stride, padding
        )

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
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        way: str,
    ) -> tuple[Tensor, int]:
        x, weight, bias = (  # type: ignore[assignment]
            None if value is None
            else value.expand(info.batch_size, *value.shape) if axis is None
            else value.movedim(axis, 0)
            for value, axis in zip((x, weight, bias), in_dims[:3], strict=True)
        )  # fmt: skip
        return stacked(x, weight, bias, stride, padding, way), 0


def stacked(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    way: str,
) -> Tensor:
    """Each replica's convolution of its own inputs. x: [replica, batch, channel, *place], with one
    axis of places or two; weight: [replica, output, channel, *kernel]. way: of `WAYS`, or TIMED."""
    if x.dim() == 4:  # one axis of places: a row
        x, weight = x[:, :, :, None], weight[:, :, :, None]
        return stacked(x, weight, bias, (1, *stride), (0, *padding), way).squeeze(3)
    pair, border = (stride[0], stride[1]), (padding[0], padding[1])
    if way == TIMED:
        way = chooser.way(x, weight, bias, pair, border)
    return WAYS[way](x, weight, bias, pair, border)


def grouped(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, last: bool = False
) -> Tensor:
    """One convolution with a group for each replica. last: channels last in memory."""
    replicas = len(x)
    inputs, kernels = x.movedim(0, 1).flatten(1, 2), weight.flatten(0, 1)
    if last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        kernels = kernels.contiguous(memory_format=torch.channels_last)
    flat = None if bias is None else bias.flatten()
    made = functional.conv2d(inputs, kernels, flat, stride, padding, groups=replicas)
    return made.unflatten(1, (replicas, -1)).movedim(1, 0)


def channels_last_grouped(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
) -> Tensor:
    return grouped(x, weight, bias, stride, padding, last=True)


def matmul(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
    """One batched matrix product of patches."""
    return _ProductOfPatches.apply(x, weight, bias, stride, padding)


def singly(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
    """One replica's convolution after the other; on a GPU on several streams."""
    return _OneByOne.apply(x, weight, bias, stride, padding)


WAYS: dict[str, Convolves] = {
    "grouped": grouped,
    "grouped, channels last": channels_last_grouped,
    "matmul": matmul,
    "singly": singly,
}


# --- the fastest ---------------------------------------------------------------------------------


def seconds(action: Callable[[], object]) -> float:
    """Of one call, after one that is not counted. One call is enough of what is slow."""

    def taken(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / calls

    taken(1)
    once = taken(1)
    return once if once > SLOW else taken(REPEATS)


@dataclass
class Chooser:
    """Which way is the fastest for each shape, timed forward and back when the shape comes first.

    timed: seconds of a call; chosen: {what is convolved: way}; times: {what: {way: seconds}}.
    """

    timed: Callable[[Callable[[], object]], float] = seconds
    chosen: dict[tuple, str] = field(default_factory=dict)
    times: dict[tuple, dict[str, float]] = field(default_factory=dict)

    def way(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
    ) -> str:
        """The fastest way; "grouped" for a shape that comes first while a step is recorded, where
        nothing can be timed."""
        back = torch.is_grad_enabled() and (x.requires_grad, weight.requires_grad)
        key = (
            *(x.device.type, x.dtype, tuple(x.shape), tuple(weight.shape), bias is None),
            *(stride, padding, back, tf32_convolutions()),
        )
        if key not in self.chosen:
            if x.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                return "grouped"
            given = x, weight, bias, stride, padding
            self.times[key] = self._time(given, possible(x, weight, stride, padding))
            self.chosen[key] = min(self.times[key], key=lambda way: self.times[key][way])
        return self.chosen[key]

    def _time(self, given: tuple[Any, ...], ways: Mapping[str, Convolves]) -> dict[str, float]:
        *tensors, stride, padding = given
        back = torch.is_grad_enabled()
        leaves = [
            None if v is None else v.detach().requires_grad_(back and v.requires_grad)
            for v in tensors
        ]
        wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]

        def once(convolves: Convolves) -> None:
            made = convolves(*leaves, stride, padding)  # type: ignore[call-arg, arg-type]
            if wanted:
                torch.autograd.grad(made, wanted, torch.ones_like(made))

        times = {}
        for name, convolves in ways.items():
            try:
                times[name] = self.timed(lambda c=convolves: once(c))  # type: ignore[misc]
            except RuntimeError:  # a library has no kernel for this, or no memory
                times[name] = math.inf
        return times


def possible(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> dict[str, Convolves]:
    """The ways that memory allows."""
    places = math.prod(
        (side + 2 * border - kernel) // step + 1
        for side, kernel, step, border in zip(
            x.shape[3:], weight.shape[3:], stride, padding, strict=True
        )
    )
    patches = len(x) * x.shape[1] * places * weight[0, 0].numel() * x.element_size()
    return {name: way for name, way in WAYS.items() if name != "matmul" or patches <= MOST_PATCHES}


chooser = Chooser()


# --- the ways ------------------------------------------------------------------------------------


class _OneByOne(torch.autograd.Function):
    """conv2d of every replica, each into its part of a result that was made before: so nothing is
    freed on one stream while another still reads it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.options, ctx.biased = (stride, padding), bias is not None
        rows, columns = (
            (side + 2 * border - kernel) // step + 1
            for side, kernel, step, border in zip(
                x.shape[3:], weight.shape[3:], stride, padding, strict=True
            )
        )
        made = x.new_empty(len(x), x.shape[1], weight.shape[1], rows, columns)

        def one(replica: int) -> None:
            own = None if bias is None else bias[replica]
            made[replica] = functional.conv2d(x[replica], weight[replica], own, stride, padding)

        _on_streams(one, len(x), x.device)
        return made

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.options
        wanted = list(ctx.needs_input_grad[:2]) + [ctx.biased and ctx.needs_input_grad[2]]
        shapes = (x.shape, weight.shape, weight.shape[:2])
        made = [
            gradient.new_empty(shape) if want else None
            for shape, want in zip(shapes, wanted, strict=True)
        ]

        def one(replica: int) -> None:
            pieces = torch.ops.aten.convolution_backward(
                gradient[replica], x[replica], weight[replica], [weight.shape[1]], stride, padding,
                (1, 1), False, (0, 0), 1, wanted,
            )  # fmt: skip
            for whole, piece in zip(made, pieces, strict=True):
                if whole is not None:
                    whole[replica] = piece

        _on_streams(one, len(x), x.device)
        return *made, None, None


_streams: dict[torch.device, list[Any]] = {}


def _on_streams(one: Callable[[int], None], count: int, device: torch.device) -> None:
    """one(0) to one(count − 1), on a GPU spread over a few streams that begin after what was
    started before and end before what comes after: a recording sees them as branches."""
    if device.type != "cuda":
        for number in range(count):
            one(number)
        return
    if device not in _streams:
        _streams[device] = [torch.cuda.Stream(device) for _ in range(STREAMS)]
    usual = torch.cuda.current_stream(device)
    used = _streams[device][: min(STREAMS, count)]
    for stream in used:
        stream.wait_stream(usual)
    for number in range(count):
        with torch.cuda.stream(used[number % len(used)]):
            one(number)
    for stream in used:
        usual.wait_stream(stream)


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
            to_x = input_gradient(gradient, weight, x.shape, *ctx.options)
        outputs = gradient.movedim(2, -1).flatten(1, 3)
        if ctx.needs_input_grad[1]:
            patches = _patches(x, weight, *ctx.options)
            to_weight = (patches @ outputs).transpose(1, 2).unflatten(2, weight.shape[2:])
        if ctx.needs_input_grad[2]:
            to_bias = outputs.sum(1)
        return to_x, to_weight, to_bias, None, None


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


def input_gradient(
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
