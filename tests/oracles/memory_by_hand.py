"""What one replica of an MLP holds and does in a vanilla step, by hand, layer by layer."""

NUMBER = 4  # bytes


def widths(model) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in model.modules() if hasattr(m, "in_features")]


def parameters(model) -> int:
    return sum(wide * out + out for wide, out in widths(model))


def stays(model) -> int:
    """Parameters and Adam's two moments."""
    return 3 * NUMBER * parameters(model)


def activations(model, batch: int) -> int:
    """What the way back needs: the input of each layer, and the outputs."""
    layers = widths(model)
    return NUMBER * batch * (sum(wide for wide, _ in layers) + layers[-1][1])


def flops(model, batch: int) -> int:
    """Forward, to the weights, and to the inputs of all layers but the first."""
    products = [2 * batch * wide * out for wide, out in widths(model)]
    return 3 * sum(products) - products[0]
