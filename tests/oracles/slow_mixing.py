"""Mixed examples again, pixel by pixel: twins of `aba_core.methods.mixing.Mixed`."""

import math

import numpy as np
from oracles.slow_draws import beta, normal, partners, uniform


def whole(drawn: float, options: int) -> int:
    return math.floor(drawn * options)


def mixed(method, h: np.ndarray, labels: np.ndarray, seed: int, step: int):
    """Inputs [batch, *feature] and labels [batch, class], mixed sample by sample."""
    order = partners(seed, "mixed", step, len(h))
    rows, soft = [], []
    for i, j in enumerate(order):
        x, share = mix(method, h[i], h[j], seed, step, i)
        rows.append(x)
        soft.append(share * labels[i] + (1 - share) * labels[j])
    return np.stack(rows), np.stack(soft)


def mix(method, one: np.ndarray, two: np.ndarray, seed: int, step: int, i: int):
    """One sample of two, and the share of the first."""
    how, shape = method.how, one.shape
    height, width = shape[-2:] if one.ndim == 3 else (shape[0], 1)

    def share(purpose: str = "mixed") -> float:
        return beta(seed, purpose, step, i, method.alpha)

    def draw(number: int, place: int = i) -> float:
        return uniform(seed, "mixed", step, number, place)

    def by(weight) -> tuple[np.ndarray, float]:
        """weight: of the first, at (row, column)."""
        x, total = np.empty_like(one), 0.0
        for row in range(height):
            for column in range(width):
                w = float(weight(row, column))
                at = (..., row, column) if one.ndim == 3 else (row,)
                x[at] = w * one[at] + (1 - w) * two[at]
                total += w
        return x, total / (height * width)

    def above(lam: float):
        return lambda row, column: row < math.floor(lam * height)

    def left(lam: float):
        return lambda row, column: column < math.floor(lam * width)

    if how == "vertical-concat":
        return by(above(share()))
    if how == "horizontal-concat":
        return by(left(share()))
    if how == "mixed-concat":
        a, b = above(share()), left(share("mixed-columns"))
        return by(lambda r, c: a(r, c) == b(r, c))
    if how == "vh-mixup":
        a, b, blend = above(share()), left(share("mixed-columns")), share("mixed-blend")
        return by(lambda r, c: blend * a(r, c) + (1 - blend) * b(r, c))
    if how == "random-2x2":
        lines = []
        for number, length in ((302, height), (303, width)):
            places = list(range(math.ceil(length / 4), math.floor(3 * length / 4) + 1))
            lines.append(places[whole(draw(number), len(places))])
        own = [draw(310, 4 * i + cell) < 0.5 for cell in range(4)]
        return by(lambda r, c: own[2 * (r >= lines[0]) + (c >= lines[1])])
    if how in ("row-interval", "column-interval"):
        length = height if how == "row-interval" else width
        a = whole(draw(300), length)
        b = a + whole(draw(301), length - a)
        if how == "row-interval":
            return by(lambda r, c: not a <= r <= b)
        return by(lambda r, c: not a <= c <= b)
    if how in ("rows", "columns", "pixels"):
        lam = share()
        if how == "rows":
            return by(lambda r, c: draw(310, i * height + r) < lam)
        if how == "columns":
            return by(lambda r, c: draw(310, i * width + c) < lam)
        return by(lambda r, c: draw(310, (i * height + r) * width + c) < lam)
    if how == "noisy-mixup":
        lam, pixels = share(), height * width

        def weight(r: int, c: int) -> float:
            noise = normal(seed, "mixed", step, 320, i * pixels + r * width + c)
            return min(1.0, max(0.0, lam + 0.158 * noise))

        return by(weight)
    if how == "elements":
        lam, size = share(), one.size
        own = np.array([draw(310, i * size + k) < lam for k in range(size)]).reshape(shape)
        return np.where(own, one, two), own.mean()
    if how == "random-square":
        x = one.copy()
        sides, starts, sources = [], [], []
        for number, length in ((304, height), (306, width)):
            side = max(1, length // 2)
            sides.append(side)
            starts.append(whole(draw(number), length - side + 1))
            sources.append(whole(draw(number + 1), length - side + 1))
        for r in range(sides[0]):
            for c in range(sides[1]):
                x[:, starts[0] + r, starts[1] + c] = two[:, sources[0] + r, sources[1] + c]
        return x, 1 - sides[0] * sides[1] / (height * width)

    one, two = one - one.mean(), two - two.mean()
    if how == "bc+":
        lam = share()
        return equalised(one, two, lam), lam
    assert how == "vh-bc+"
    a, b, blend = above(share()), left(share("mixed-columns")), share("mixed-blend")
    vertical, up = by(a)
    horizontal, across = by(b)
    return equalised(vertical, horizontal, blend), blend * up + (1 - blend) * across


def equalised(one: np.ndarray, two: np.ndarray, lam: float) -> np.ndarray:
    p = 1 / (1 + (one.std() + 1e-6) / (two.std() + 1e-6) * (1 - lam) / lam)
    return (p * one + (1 - p) * two) / math.sqrt(p**2 + (1 - p) ** 2)
