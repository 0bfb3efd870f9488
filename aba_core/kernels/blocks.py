"""The fused block as PyTorch sees it: where it applies, its derivatives, its rule for `vmap`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import vmap
from torch.nn import functional
from torch.nn.modules import module as torch_modules

from aba_core.kernels import in_use, loaded

KERNELS = (3, 5)  # sides of kernels that the C code has
NUMBERS = {torch.float32: "float", torch.float64: "double"}
MOST_CHANNELS = 32  # with more, PyTorch's dense products are as fast
_OUTCOMES = {1: "no memory", 2: "a picture has more than 2³¹ numbers"}


@dataclass(frozen=True)
class Block:
    """A convolution, a pooling and a ReLU that stand in a row, the last two in either order: ReLU
    and maximum commute, and so do their gradients."""

    layers: tuple[nn.Conv2d, nn.Module, nn.Module]

    def applies(self, x: Tensor, weight: Tensor, bias: Tensor | None, levels: int) -> bool:
        """Whether the fused block may do this call, for one model or, with a leading axis replica,
        for all. levels: how many of torch.func's transformations the caller knows of."""
        values = (x, weight) if bias is None else (x, weight, bias)
        return (
            x.dim() == weight.dim()
            and computable(values, levels)
            and not watched(self.layers)
            # What does not fit is PyTorch's to refuse.
            and x.shape[-3] == weight.shape[-3]
            and min(self.sides(x.shape[-2:])) >= 1
            and in_use()
        )

    def sides(self, shape: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of what it makes of pictures of this shape (below 1: nothing)."""
        side, borders = self.layers[0].kernel_size[0], self.padding
        rows, columns = (
            (size + 2 * border - side + 1) // 2 for size, border in zip(shape, borders, strict=True)
        )
        return rows, columns

    @property
    def padding(self) -> tuple[int, int]:
        return self.layers[0].padding  # type: ignore[return-value]

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Outputs of one model, or of all with a leading axis replica, or under vmap."""
        function = _Stacked if _levels() else _Fused
        return function.apply(x, weight, bias, self.padding)


def computable(values: Sequence[Tensor], levels: int) -> bool:
    """Whether C may compute with these. levels: how many of torch.func's transformations the caller
    knows of."""
    dtype = values[0].dtype
    for value in values:
        if not value.is_cpu or value.dtype != dtype or not _plain(value):
            return False
    return (
        dtype in NUMBERS
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch.get_num_threads() == 1  # which PyTorch shares out and C does not
        and forward_ad._current_level < 0
        and _levels() == levels
        and not torch._C._len_torch_dispatch_stack()  # nobody records or counts operations
    )


def blocks(layers: Sequence[nn.Module]) -> dict[int, Block]:
    """The blocks among layers that run one after the other, by the place where each begins."""
    by_place = {}
    for place, (first, *others) in enumerate(zip(layers, layers[1:], layers[2:], strict=False)):
        if any("forward" in vars(module) for module in (first, *others)):
            continue  # somebody has it do something else
        if _convolves(first) and {pools(m) - _rectifies(m) for m in others} == {1, -1}:
            by_place[place] = Block((first, *others))  # type: ignore[arg-type]
    return by_place


def _convolves(module: nn.Module) -> bool:
    return (
        plain(module)
        and module.in_channels <= MOST_CHANNELS
        and module.kernel_size in [(side, side) for side in KERNELS]
    )


def plain(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a layer is a convolution of square kernels with stride 1 in a frame of zeros."""
    return (
        type(module) is nn.Conv2d
        and module.kernel_size[0] == module.kernel_size[1]
        and (module.stride, module.dilation) == ((1, 1), (1, 1))
        and (module.groups, module.padding_mode) == (1, "zeros")
        and not isinstance(module.padding, str)
    )


def pools(module: nn.Module) -> bool:
    """Whether a layer takes the maximum of each 2×2 places."""
    return (
        type(module) is nn.MaxPool2d
        and module.kernel_size in (2, (2, 2))
        and module.stride in (2, (2, 2))
        and module.padding in (0, (0, 0))
        and module.dilation in (1, (1, 1))
        and not (module.ceil_mode or module.return_indices)
    )


def _rectifies(module: nn.Module) -> bool:
    return type(module) is nn.ReLU


def _plain(value: Tensor) -> bool:
    return type(value) in (Tensor, nn.Parameter) and value.layout is torch.strided


def _levels() -> int:
    """How many of torch.func's transformations are under way."""
    level = torch._C._functorch.maybe_current_level()
    return 0 if level is None else level


def watched(modules: Sequence[nn.Module]) -> bool:
    """Whether somebody looks at what one of them computes: then each must compute it."""
    everywhere = (
        *(torch_modules._global_forward_hooks, torch_modules._global_forward_pre_hooks),
        *(torch_modules._global_backward_hooks, torch_modules._global_backward_pre_hooks),
    )
    return any(everywhere) or any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
        for m in modules
    )


class _Stacked(torch.autograd.Function):
    """The block under the replicas' vmap: one call for all of them."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
        return _by_layers(x, weight, bias, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is saved: under vmap, the operation of the rule below is differentiated."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *values: Any
    ) -> tuple[Float[Tensor, "replica batch output row column"], int]:
        stacked = (
            None if value is None
            else value.expand(info.batch_size, *value.shape) if axis is None
            else value.movedim(axis, 0)
            for value, axis in zip(values[:3], in_dims[:3], strict=True)
        )  # fmt: skip
        return _Fused.apply(*stacked, values[3]), 0


class _Fused(torch.autograd.Function):
    """The block of every replica: x [replica, batch, channel, height, width], weight
    [replica, output, channel, height, width], bias [replica, output] or None. Or that of one model,
    all without the leading axis: to add it outside would cost as much as a small layer."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]
    ) -> Tensor:
        y, winners = forward(x, weight, bias, padding, any(ctx.needs_input_grad))
        ctx.save_for_backward(x, weight, bias, winners)
        ctx.padding = padding
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, winners = ctx.saved_tensors
        asked = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # to be differentiated once more, which C cannot be
            return *_by_autograd(asked, gradient, x, weight, bias, ctx.padding), None
        return *backward(asked, gradient, x, weight, bias, winners, ctx.padding), None


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int], returning: bool
) -> tuple[Tensor, Tensor | None]:
    """Outputs of the block, and its winners where there is to be a way back."""
    sides = (
        (side + 2 * border - kernel + 1) // 2
        for side, border, kernel in zip(x.shape[-2:], padding, weight.shape[-2:], strict=True)
    )
    y = x.new_empty(*x.shape[:-3], *sides, weight.shape[-4])
    winners = y.new_empty(y.shape, dtype=torch.int8) if returning else None
    sizes = _sizes(x, weight, bias, padding)
    _call("forward", x.dtype, sizes, x, weight, bias, y, winners)
    return _channels_first(y), winners


def backward(
    asked: Sequence[bool],
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    winners: Tensor,
    padding: tuple[int, int],
    to: tuple[Tensor | None, Tensor | None] = (None, None),
) -> list[Tensor | None]:
    """Gradients to x, weight and bias, each where it is asked for. gradient: of the outputs. to:
    where the last two are written, each replica's in one piece (default: new tensors)."""
    *lead, channels, height, width = x.shape
    to_x = x.new_empty(*lead, height, width, channels) if asked[0] else None
    to_weight, to_bias = to
    if to_weight is None and asked[1]:
        to_weight = weight.new_empty(weight.shape)
    if to_bias is None and asked[2]:
        to_bias = weight.new_empty(weight.shape[:-3])
    sizes = _sizes(x, weight, bias, padding, gradient, to_weight, to_bias)
    _call("backward", x.dtype, sizes, x, weight, gradient, winners, to_x, to_weight, to_bias)
    return [None if to_x is None else _channels_first(to_x), to_weight, to_bias]


def _channels_first(values: Tensor) -> Tensor:
    """[..., row, column, channel] as PyTorch's axes have it."""
    return values.movedim(-1, -3)


def _sizes(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: tuple[int, int],
    gradient: Tensor | None = None,
    to_weight: Tensor | None = None,
    to_bias: Tensor | None = None,
) -> ctypes.Array[ctypes.c_int64]:
    """As the enumeration in fused.c has them."""
    stacked = x.dim() == 5
    replicas, first = ((), ()) if stacked else ((1,), (0,))
    values = (
        *(*replicas, *x.shape), weight.shape[-4], weight.shape[-1], *padding,
        *(*first, *x.stride()), *(*first, *weight.stride()),
        *((0, 0) if bias is None else (*first, *bias.stride())),
        *((0,) * 5 if gradient is None else (*first, *gradient.stride())),
        *(to.stride(0) if stacked and to is not None else 0 for to in (to_weight, to_bias)),
    )  # fmt: skip
    return (ctypes.c_int64 * len(values))(*values)


def _call(
    way: str, dtype: torch.dtype, sizes: ctypes.Array[ctypes.c_int64], *tensors: Tensor | None
) -> None:
    functions = loaded()
    assert functions is not None
    outcome = getattr(functions, f"{way}_{NUMBERS[dtype]}")(
        sizes, *(None if tensor is None else tensor.data_ptr() for tensor in tensors)
    )
    if outcome:
        raise RuntimeError(
            f"the fused block went {way} in vain: {_OUTCOMES[outcome]}; needed: smaller batches or "
            "ABA_KERNELS=off"
        )


def _by_layers(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    """The same of one model by PyTorch."""
    return functional.max_pool2d(functional.conv2d(x, weight, bias, padding=padding), 2).relu()


def _by_autograd(
    asked: Sequence[bool],
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: tuple[int, int],
) -> list[Tensor | None]:
    """The way back by PyTorch's operations, which can be differentiated again."""
    if x.dim() == 4:
        y = _by_layers(x, weight, bias, padding)
    else:
        axes = 0, 0, None if bias is None else 0, None
        y = vmap(_by_layers, axes)(x, weight, bias, padding)
    inputs = zip((x, weight, bias), asked, strict=False)
    chosen = [value for value, wish in inputs if wish and value is not None]
    made = iter(torch.autograd.grad(y, chosen, gradient, create_graph=True))
    return [next(made) if wish else None for wish in asked[:3]]
