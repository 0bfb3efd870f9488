"""Every way to convolve for stacked replicas gives the numbers of one convolution a replica, and
the chooser keeps the one that takes the least time."""

import math

import pytest
import torch
from torch.nn import functional

from aba_core import convolutions, layers
from aba_core.convolutions import TIMED, WAYS, Chooser, stacked
from aba_core.kernels import blocks
from aba_core.models import build_model
from aba_core.replicas import Replicas

# x [replica, batch, channel, *place], weight [replica, output, channel, *kernel], stride, padding
SHAPES = {
    "3×3": ((3, 2, 4, 7, 6), (3, 5, 4, 3, 3), (1, 1), (1, 1)),
    "5×3, strides": ((2, 3, 1, 9, 8), (2, 4, 1, 5, 3), (2, 1), (0, 2)),
    "of a text": ((3, 2, 6, 11), (3, 4, 6, 3), (1,), (0,)),
    "of a text, strides": ((2, 2, 3, 10), (2, 4, 3, 4), (2,), (1,)),
}


def values(shapes, biased=True):
    x, weight, stride, padding = shapes
    made = [torch.randn(*shape, dtype=torch.float64) for shape in (x, weight, weight[:2])]
    made = [value.requires_grad_() for value in made]
    return (*made[:2], made[2] if biased else None, stride, padding)


def twin(x, weight, bias, stride, padding):
    convolve = functional.conv1d if weight.dim() == 4 else functional.conv2d
    rows = [
        convolve(x[r], weight[r], None if bias is None else bias[r], stride, padding)
        for r in range(len(x))
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("way", [*WAYS, TIMED])
def test_every_way_is_one_convolution_a_replica(way, shapes, biased):
    given = values(shapes, biased)
    leaves = [value for value in given[:3] if value is not None]
    expected = twin(*given)
    direction = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, leaves, direction)
    found = stacked(*given, way)
    torch.testing.assert_close(found, expected)
    for own, other in zip(torch.autograd.grad(found, leaves, direction), gradients, strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("way", [*WAYS, TIMED])
@pytest.mark.parametrize(("model", "shape"), [("small_cnn", (1, 8, 8)), ("text_cnn", (9, 4))])
def test_models_give_the_same_by_every_way(model, shape, way, monkeypatch):
    models = [build_model(model, shape, 3).double() for _ in range(3)]
    x = torch.randn(3, 5, *shape, dtype=torch.float64)
    expected = torch.stack([one(own) for one, own in zip(models, x, strict=True)])
    monkeypatch.setattr(layers, "STACKED_CONVOLUTION", way)
    used = []
    real = convolutions.stacked
    monkeypatch.setattr(convolutions, "stacked", lambda *g: used.append(g[-1]) or real(*g))
    monkeypatch.setattr(layers, "FEW_CHANNELS", 0)
    stack = Replicas.stack(models)
    stack.together, stack._chain = True, None
    monkeypatch.setattr(blocks.Block, "applies", lambda *given, **levels: False)
    found = stack.forward(stack.parameters)(x)
    torch.testing.assert_close(found, expected)
    assert set(used) == (set() if way == "grouped" else {way})


@pytest.mark.parametrize("fastest", WAYS)
def test_the_chooser_keeps_the_fastest_and_times_once(fastest):
    order, calls = list(WAYS), []

    def timed(action):
        action()
        calls.append(action)
        return 1.0 if order[len(calls) - 1] == fastest else 2.0 + len(calls)

    chooser, given = Chooser(timed), values(SHAPES["3×3"])
    assert chooser.way(*given) == fastest and len(calls) == len(WAYS)
    assert chooser.way(*given) == fastest and len(calls) == len(WAYS)
    (times,) = chooser.times.values()
    assert times[fastest] == 1.0 and min(times.values()) == 1.0
    # Another shape, and no way back, are timed on their own.
    calls.clear()
    with torch.no_grad():
        chooser.way(*given)
    assert len(calls) == len(WAYS) and len(chooser.chosen) == 2


def test_a_way_that_fails_or_takes_too_much_memory_is_not_chosen(monkeypatch):
    def fails(*given):
        raise RuntimeError("no kernel for this")

    monkeypatch.setitem(convolutions.WAYS, "grouped", fails)
    monkeypatch.setattr(convolutions, "MOST_PATCHES", 10)
    chooser = Chooser(lambda action: action() or 1.0)
    given = values(SHAPES["3×3"])
    assert chooser.way(*given) == "grouped, channels last"
    (times,) = chooser.times.values()
    assert times["grouped"] == math.inf and "matmul" not in times


def test_what_is_timed_is_what_is_differentiated():
    """A map goes back to the inputs alone, training to the weights alone."""
    asked = []
    x, weight, bias, stride, padding = values(SHAPES["3×3"])

    class Spy:
        def __call__(self, x, weight, bias, stride, padding):
            asked.append((x.requires_grad, weight.requires_grad, x is not given[0]))
            return twin(x, weight, bias, stride, padding)

    given = (x, weight.detach(), bias.detach())
    Chooser()._time((*given, stride, padding), {"spy": Spy()})
    assert set(asked) == {(True, False, True)}


def test_one_after_the_other_can_be_differentiated_twice():
    """Curvature needs the gradient's gradient."""
    x, weight, bias, stride, padding = values(((2, 2, 2, 4, 4), (2, 3, 2, 3, 3), (1, 1), (1, 1)))

    def singly(*leaves):
        return convolutions.singly(*leaves, stride, padding)

    assert torch.autograd.gradgradcheck(singly, (x, weight, bias))
