"""What a compiled library must compute before it is trusted: small blocks of whole numbers, whose
sums are exact in any order, against loops in plain Python."""

from __future__ import annotations

import ctypes
import math
from itertools import product
from typing import Any

# channels, outputs, height, width: each way back that the C code has; vectors are not full
_SHAPES = (1, 3, 4, 6), (5, 17, 4, 4)
_KERNEL = 3


class Wrong(Exception):
    """What a library computes wrongly."""


def check(library: ctypes.CDLL) -> None:
    """Raises Wrong for a library whose numbers differ."""
    _check_uniforms(library)
    for name, number in (("float", ctypes.c_float), ("double", ctypes.c_double)):
        for shape in _SHAPES:
            _check_block(library, name, number, shape)
        _check_tokens(library, name, number)
        _check_patches(library, name, number)
        _check_losses(library, name, number)
        _check_adam(library, name, number)
        _check_adjust(library, name, number)
        _check_chain(library, name, number)
    _check_uniforms_along(library)


def _whole(count: int, start: int) -> list[int]:
    """Numbers from -3 to 3, in no order that a mistake would have too."""
    return [(7 * n * n + 3 * n + start) % 11 % 7 - 3 for n in range(count)]


def _check_block(library: ctypes.CDLL, name: str, number: Any, shape: tuple[int, ...]) -> None:
    channels, outputs, height, width = shape
    rows, columns, taps = height // 2, width // 2, _KERNEL * _KERNEL
    picture, seen = height * width, channels * taps
    x, weight = _whole(picture * channels, 1), _whole(outputs * seen, 2)
    bias, gradient = _whole(outputs, 3), _whole(rows * columns * outputs, 4)
    sizes = (ctypes.c_int64 * 28)(
        *(1, 1, *shape[:1], height, width, outputs, _KERNEL, 1, 1),
        *(0, 0, picture, width, 1), *(0, seen, taps, _KERNEL, 1), *(0, 1),
        *(0, 0, 1, columns * outputs, outputs), 0, 0,
    )  # fmt: skip

    def numbers(values: list[int]) -> ctypes.Array:
        return (number * len(values))(*values)

    y, winners = (number * len(gradient))(), (ctypes.c_int8 * len(gradient))()
    to_x, to_weight = (number * len(x))(), (number * len(weight))()
    to_bias = (number * outputs)()
    given = numbers(x), numbers(weight)
    failed = getattr(library, f"forward_{name}")(sizes, *given, numbers(bias), y, winners)
    ways = numbers(gradient), winners, to_x, to_weight, to_bias
    failed = failed or getattr(library, f"backward_{name}")(sizes, *given, *ways)
    made = [*y], [*to_x], [*to_weight], [*to_bias]
    expected = _block(shape, x, weight, bias, gradient)
    parts = "outputs", "gradient to inputs", "gradient to weights", "gradient to bias"
    for part, mine, other in zip(parts, made, expected, strict=True):
        if failed or mine != other:
            raise Wrong(f"the compiled block is wrong: {part} of {channels} channels, {name}")


def _block(
    shape: tuple[int, ...], x: list[int], weight: list[int], bias: list[int], gradient: list[int]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Outputs [row, column, output]; gradients to inputs [row, column, channel], to weights and to
    bias. x: [channel, row, column]."""
    channels, outputs, height, width = shape
    places = list(product(range(channels), range(_KERNEL), range(_KERNEL)))
    y, to_x = [], [0] * len(x)
    to_weight, to_bias = [0] * len(weight), [0] * outputs
    for row, column, output in product(range(height // 2), range(width // 2), range(outputs)):
        best, where = None, []
        for place in product((2 * row, 2 * row + 1), (2 * column, 2 * column + 1)):
            inside = [
                (n, c, place[0] + i - 1, place[1] + j - 1)
                for n, (c, i, j) in enumerate(places, output * len(places))
                if 0 <= place[0] + i - 1 < height and 0 <= place[1] + j - 1 < width
            ]
            value = bias[output] + sum(
                weight[n] * x[(c * height + i) * width + j] for n, c, i, j in inside
            )
            if best is None or value > best:
                best, where = value, inside
        assert best is not None
        y.append(max(best, 0))
        g = gradient[len(y) - 1] if best > 0 else 0
        to_bias[output] += g
        for n, c, i, j in where:
            to_weight[n] += g * x[(c * height + i) * width + j]
            to_x[(i * width + j) * channels + c] += g * weight[n]
    return y, to_x, to_weight, to_bias


def _check_tokens(library: ctypes.CDLL, name: str, number: Any) -> None:
    """One text of nine tokens and two elements, whose last windows are all alike; and the same from
    what is kept at another text, which differs in four elements and by a shift."""
    tokens, elements, outputs, taps = 9, 2, 17, 2
    terms = taps * elements
    x, weight = _whole(tokens * elements, 1), _whole(outputs * terms, 2)
    x[elements * 5 :] = [0] * (elements * 4)
    bias, gradient = [6 * n for n in _whole(outputs, 3)], [6 * n for n in _whole(outputs, 4)]
    y, to_x, to_bias = [], [0.0] * len(x), [0.0] * outputs
    for output in range(outputs):
        own = [weight[output * terms + e * taps + k] for k in range(taps) for e in range(elements)]
        sums = [
            bias[output] + sum(a * b for a, b in zip(own, x[first:], strict=False))
            for first in range(0, (tokens - taps + 1) * elements, elements)
        ]
        y.append(max(0, *sums))
        where = [place for place, value in enumerate(sums) if value == y[-1] > 0]
        to_bias[output] = gradient[output] if where else 0
        for place in where:
            for n, value in enumerate(own, place * elements):
                to_x[n] += gradient[output] * value / len(where)

    def numbers(values: list[int]) -> Any:
        return (number * len(values))(*values)

    def pointers(*arrays: Any) -> Any:
        return (ctypes.c_void_p * len(arrays))(*map(ctypes.addressof, arrays))

    sizes = (ctypes.c_int64 * 6)(1, tokens, elements, 1, outputs, taps)
    made, winners, ties = numbers(y), *((ctypes.c_int32 * outputs)() for _ in "12")
    to = numbers([0] * len(x)), numbers([0] * len(weight)), numbers([0] * outputs)
    held = numbers(weight), numbers(bias)
    given = numbers(x), pointers(*held)
    forward = getattr(library, f"tokens_forward_{name}")
    failed = forward(sizes, *given, made, winners, ties, None)
    ways = numbers(gradient), winners, ties, to[0], pointers(*to[1:])
    failed = failed or getattr(library, f"tokens_backward_{name}")(sizes, *given, *ways)
    near = all(abs(a - b) < 1e-3 for a, b in zip(to[0], to_x, strict=True))  # of thirds
    if failed or [*made] != y or not near or [*to[2]] != to_bias:
        raise Wrong(f"the compiled convolution over tokens is wrong, {name}")
    base = numbers([value - 2 + (place % 5 == 1) for place, value in enumerate(x)])
    room = -(-outputs // 16) * 16 * (tokens - taps + 1)  # for the widest vectors
    sums, others = numbers([0] * room), [(ctypes.c_int32 * outputs)() for _ in "12"]
    failed = forward(sizes, base, given[1], numbers(y), *others, sums)
    known = base, numbers([2]), sums, given[1], made, *others
    failed = failed or getattr(library, f"tokens_near_{name}")(sizes, given[0], *known)
    same = [*others[0]] == [*winners] and [*others[1]] == [*ties]
    if failed or [*made] != y or not same:
        raise Wrong(f"the compiled convolution from another text's is wrong, {name}")


def _check_patches(library: ctypes.CDLL, name: str, number: Any) -> None:
    """Two pictures of two channels and 3×4 places, in a frame, and kernels of 3×3."""
    pictures, channels, height, width, side = 2, 2, 3, 4, 3
    x = _whole(pictures * channels * height * width, 1)
    strides = channels * height * width, height * width, width, 1
    sizes = (ctypes.c_int64 * 13)(
        *(1, pictures, channels, height, width, side, 1, 1), *(0, *strides)
    )
    seen: list[int | None] = []  # which number of x each one of the patches is; None: of the frame
    for i, row, column in product(range(pictures), range(height), range(width)):
        for c, a, b in product(range(channels), range(side), range(side)):
            at = row + a - 1, column + b - 1
            inside = 0 <= at[0] < height and 0 <= at[1] < width
            place = sum(n * s for n, s in zip((i, c, *at), strides, strict=True))
            seen.append(place if inside else None)
    patches, to_x = (number * len(seen))(), (number * len(x))()
    failed = getattr(library, f"patches_{name}")(sizes, (number * len(x))(*x), patches)
    failed = failed or getattr(library, f"unpatched_{name}")(sizes, patches, to_x)
    expected = [0 if place is None else x[place] for place in seen]
    counts = [seen.count(place) * value for place, value in enumerate(x)]
    back = [
        counts[((i * channels + c) * height + row) * width + column]
        for i, row, column, c in product(*map(range, (pictures, height, width, channels)))
    ]
    if failed or [*patches] != expected or [*to_x] != back:
        raise Wrong(f"the compiled patches are wrong, {name}")


def _check_losses(library: ctypes.CDLL, name: str, number: Any) -> None:
    """Three classes apart by the logarithms of 1, 2 and 5, whose shares are eighths."""
    logits = (number * 6)(*[math.log(n) + 3 for n in (1, 2, 5)], *[math.log(n) for n in (5, 1, 2)])
    losses, slopes = (number * 2)(), (number * 6)()
    sizes, classes = (ctypes.c_int64 * 2)(2, 3), (ctypes.c_int64 * 2)(1, 0)
    failed = getattr(library, f"cross_entropy_{name}")(sizes, logits, classes, losses, slopes)
    made = [*losses, *slopes]
    expected = [math.log(8 / 2), math.log(8 / 5), 1 / 8, -6 / 8, 5 / 8, -3 / 8, 1 / 8, 2 / 8]
    if failed or any(abs(a - b) > 1e-5 for a, b in zip(made, expected, strict=True)):
        raise Wrong(f"the compiled cross-entropy is wrong: {made}, {name}")


def _check_adam(library: ctypes.CDLL, name: str, number: Any) -> None:
    values, moments, rates = (number * 2)(3, 5), (number * 4)(), (number * 2)(1, 2)
    sizes, given = (ctypes.c_int64 * 2)(2, 1), (ctypes.c_double * 5)(0, 0.5, 0.25, 2, 0)
    second = ctypes.byref(moments, 2 * ctypes.sizeof(number))
    gradient = (number * 2)(2, -4)
    getattr(library, f"adam_{name}")(sizes, values, gradient, moments, second, rates, given)
    if [*values, *moments] != [2.5, 6, 1, -2, 1, 4]:
        raise Wrong(f"the compiled optimiser is wrong: {[*values, *moments]}, {name}")


def _check_adjust(library: ctypes.CDLL, name: str, number: Any) -> None:
    """Two replicas of two samples, whose maps have no ties, nothing but ties, and NaN on a cut. By
    cuts and by sign, at once and by categories that are kept."""
    nan, features = math.nan, 75
    maps: list[list[float]] = [[*range(-30, 45)], [3] * features, [5, *[nan] * (features - 1)]]
    maps.append([*range(features)])
    ties = [7 * n % features for n in range(features)]
    ranks = sorted(range(features), key=ties.__getitem__)
    x, chosen = _whole(4 * features, 1), (0.1, 0.7, 0.7, 0.1)
    for counts in ([4], [4, 6], [2, 4, 6], []):
        many = len(counts) + 1 if counts else 2
        table = [10 * 2**n for n in range(2 * many)]
        expected, codes = [], []
        for i, own in enumerate(maps):
            first, factor = many * (chosen[i] > 0.5), i // 2 + 1
            keys = [(v != v, v if v == v else 0, ranks[n]) for n, v in enumerate(own)]
            places = sorted(range(features), key=keys.__getitem__)
            for n in range(features):
                below = [
                    n in places[:count] and own[places[count - 1]] == own[places[count - 1]]
                    for count in counts
                ]
                inside = [a > b for a, b in zip([*below, True], [False, *below], strict=True)]
                inside = inside if counts else [own[n] < 0, own[n] > 0]
                moved = sum(factor * table[first + c] for c in range(many) if inside[c])
                expected.append(x[features * i + n] + moved)
                codes.append(inside.index(True) + 1 if sum(inside) == 1 else 0)
        values = (number * len(x))(*(value for own in maps for value in own))
        given = (
            (ctypes.c_double * 4)(*chosen), (ctypes.c_double * 4)(1, -1, 1, 1),
            (ctypes.c_double * 2)(0.5, 0.5), (number * (4 * many))(*table, *table),
            (ctypes.c_double * 2)(1, 2),
        )  # fmt: skip
        shared = (ctypes.c_int64 * (7 + len(counts)))(
            2, 2, features, 2, many, 1, len(counts), *counts
        )
        inputs, order = (number * len(x))(*x), (ctypes.c_int64 * features)(*ties)
        to, kinds = (number * len(x))(), (ctypes.c_uint8 * len(x))()
        rows = (ctypes.c_int64 * 4)(3, 2, 1, 0)
        adjust, categories, moved = (
            getattr(library, f"{call}_{name}") for call in ("adjust", "categories", "moved")
        )
        if adjust(shared, inputs, values, *given, order, to):
            raise Wrong(f"the compiled adjustment failed, {name}")
        if categories(shared, values, rows, order, kinds):
            raise Wrong(f"the compiled categories failed, {name}")
        if [*to] != expected or [*kinds] != [
            code for i in reversed(range(4)) for code in codes[features * i : features * (i + 1)]
        ]:
            raise Wrong(f"the compiled adjustment is wrong: {[*to]}, {name}")
        moved(shared, inputs, kinds, rows, *given, to)
        if any(
            value != wanted for value, wanted, code in zip(to, expected, codes, strict=True) if code
        ):
            raise Wrong(f"inputs are moved wrongly by kept categories: {[*to]}, {name}")
        moved(shared, inputs, kinds, rows, *given, inputs)
        if [*inputs] != [*to]:
            raise Wrong(f"inputs are moved wrongly in place: {[*inputs]}, {name}")


def _check_uniforms(library: ctypes.CDLL) -> None:
    """Against the first number that SplitMix64 makes of 0 and of 1234567, by its authors' code."""
    to = (ctypes.c_double * 2)()
    heads, places = (ctypes.c_uint64 * 2)(5, 1234567), (ctypes.c_uint64 * 2)(5, 0)
    library.uniforms((ctypes.c_int64 * 2)(2, 1), heads, places, to)
    bits = 0xE220A8397B1DCDAF, 6457827717110365317
    if [*to] != [((number >> 11) + 0.5) * 2.0**-53 for number in bits]:
        raise Wrong(f"the compiled draws are wrong: {[*to]}")


def _check_chain(library: ctypes.CDLL, name: str, number: Any) -> None:
    """Five samples of 19 numbers through 18 units and ReLU to 3 outputs, and back."""
    samples, widths = 5, (19, 18, 3)
    begins = 0, 19 * 18, 19 * 18 + 18, 19 * 18 + 18 + 18 * 3  # of weights and biases in a row
    x, row = _whole(samples * 19, 1), _whole(begins[3] + 3, 2)
    slopes = _whole(samples * 3, 3)
    to_row, to_x, logits = [0] * len(row), [0] * len(x), []
    for sample in range(samples):
        seen = x[19 * sample : 19 * (sample + 1)]
        hidden = [
            max(0, row[begins[1] + u] + sum(row[19 * u + n] * seen[n] for n in range(19)))
            for u in range(18)
        ]
        back = [0] * 18
        for o, slope in enumerate(slopes[3 * sample : 3 * sample + 3]):
            own = row[begins[2] + 18 * o : begins[2] + 18 * (o + 1)]
            logits.append(row[begins[3] + o] + sum(map(int.__mul__, own, hidden)))
            to_row[begins[3] + o] += slope
            for u in range(18):
                to_row[begins[2] + 18 * o + u] += slope * hidden[u]
                back[u] += slope * own[u] * (hidden[u] > 0)
        for u, n in product(range(18), range(19)):
            to_row[19 * u + n] += back[u] * seen[n]
            to_x[19 * sample + n] += back[u] * row[19 * u + n]
        for u in range(18):
            to_row[begins[1] + u] += back[u]
    steps = (
        *(1, widths[0], 0, 0, widths[1], 0, 0, 0, *begins[:2]),
        *(2, widths[1], *(0,) * 6, -1, -1),
        *(1, widths[1], 0, 0, widths[2], 0, 0, 0, *begins[2:]),
    )
    sizes = (ctypes.c_int64 * 36)(1, samples, 3, len(x), len(row), 1, *steps)

    def numbers(values: list[int]) -> Any:
        return (number * len(values))(*values)

    kept = (number * getattr(library, f"chain_keeps_{name}")(sizes))()
    made, back_to_row, back_to_x = ((number * len(v))() for v in (logits, row, x))
    given, run = (numbers(x), numbers(row), kept), getattr(library, f"chain_{name}")
    nothing = (None,) * 3
    failed = run(sizes, *given, made, *(None,) * 5, *nothing)
    ways = None, numbers(slopes), None, None, back_to_row, back_to_x, *nothing
    failed = failed or run(sizes, *given, *ways)
    if failed or [*made] != logits or [*back_to_row] != to_row or [*back_to_x] != to_x:
        raise Wrong(f"the compiled chain is wrong, {name}")


def _check_uniforms_along(library: ctypes.CDLL) -> None:
    """Two rows of 19 places, bit by bit."""
    keys, begins, places, stride = (3, -(2**62)), (5, 2**40), 19, 2
    made = (ctypes.c_double * (2 * places))()
    library.uniforms_along(
        (ctypes.c_int64 * 3)(2, places, stride),
        *((ctypes.c_int64 * 2)(*given) for given in (keys, begins)),
        made,
    )
    expected = []
    for key, begin in zip(keys, begins, strict=True):
        for place in range(places):
            bits = ((key ^ (begin + stride * place)) + 0x9E3779B97F4A7C15) % 2**64
            bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
            bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % 2**64
            expected.append(((bits ^ (bits >> 31)) // 2**11 + 0.5) * 2.0**-53)
    if [*made] != expected:
        raise Wrong("the compiled draws are wrong")
