"""Small models in float64, smooth and with kinks, for inputs of one, two and three dimensions."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    """A text model: a recurrent cell unrolled by hand, on [batch, token, word]."""

    def __init__(self, words: int, classes: int) -> None:
        super().__init__()
        self.cell = nn.RNNCell(words, 6)
        self.out = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 6)
        for token in range(x.shape[1]):
            state = self.cell(x[:, token], state)
        return self.out(state)


def smooth_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 12), nn.Tanh(), nn.Linear(12, 4))


def kinked_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))


def text_model() -> nn.Module:
    return Recurrent(5, 4)


def picture_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.GELU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 4),
    )


# name: (model, shape of one input). All have four classes.
PROBES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "smooth_mlp": (smooth_mlp, (20,)),
    "kinked_mlp": (kinked_mlp, (1, 4, 5)),
    "text": (text_model, (4, 5)),
    "picture": (picture_model, (2, 4, 4)),
}


def probe(name: str, batch: int = 5, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """A model in train mode as built, with running statistics of its own, and a batch for it."""
    build, shape = PROBES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().double()
        x = torch.randn(batch, *shape, dtype=torch.float64)
        model(3 * torch.randn(8, *shape, dtype=torch.float64) + 1)  # moves running statistics
    return model, x, torch.arange(batch) % 4
