"""Architectures of every everyday kind, small, for inputs of a few elements and three classes.

Each is (input shape, builder). Those that `vmap` cannot run together stand in ONE_BY_ONE; all
others train together.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

PICTURE, VOLUME, SERIES, SEQUENCE, POINT = (2, 6, 6), (1, 4, 4, 4), (2, 9), (5, 4), (7,)
CLASSES = 3


class Lambda(nn.Module):
    """A function of the user's own around other modules."""

    def __init__(self, function: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def head(features: int) -> nn.Module:
    return nn.Linear(features, CLASSES)


def convolutional(*middle: nn.Module, channels: int = 4) -> nn.Module:
    """A convolution, what stands in the middle, the mean over the picture."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), *middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        head(channels),
    )  # fmt: skip


def layers(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(7, 8), *middle, head(8))


def residual() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    return convolutional(Lambda(lambda m, x: x + m.block(x), block=block))


def dense() -> nn.Module:
    grow = Lambda(lambda m, x: torch.cat([x, m.c(x).relu()], 1), c=nn.Conv2d(4, 3, 3, padding=1))
    return convolutional(grow, nn.Conv2d(7, 4, 1))


def squeeze_and_excite() -> nn.Module:
    gate = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 4), nn.Sigmoid())
    return convolutional(
        Lambda(lambda m, x: x * m.gate(x.mean((2, 3)))[..., None, None], gate=gate)
    )


class Frozen(nn.BatchNorm2d):
    """Batch norm whose statistics are held, as in fine-tuning."""

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)


def recurrent(kind: type[nn.RNNBase], **options: object) -> nn.Module:
    return Lambda(
        lambda m, x: m.head(m.rnn(x)[0][:, -1]),
        rnn=kind(4, 6, batch_first=True, **options),
        head=head(6 * (2 if options.get("bidirectional") else 1)),
    )


def gated_by_hand() -> nn.Module:
    def run(m: nn.Module, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 6)
        for word in x.unbind(1):
            state = m.cell(word, state)
        return m.head(state)

    return Lambda(run, cell=nn.GRUCell(4, 6), head=head(6))


def transformer(dropout: float) -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return Lambda(lambda m, x: m.head(m.encoder(x).mean(1)), encoder=encoder, head=head(4))


class Vision(nn.Module):
    """Patches, a class token, positions, a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, 4, 3, stride=3)
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.positions = nn.Parameter(torch.randn(1, 5, 4))
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, 0.0, "gelu", batch_first=True)
        self.head = head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.layer(x)[:, 0])


def mixer() -> nn.Module:
    def run(m: nn.Module, x: Tensor) -> Tensor:
        x = x + m.tokens(x.transpose(1, 2)).transpose(1, 2)
        return m.head(m.norm(x + m.channels(x)).mean(1))

    def mlp(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, 6), nn.GELU(), nn.Linear(6, width))

    return Lambda(run, tokens=mlp(5), channels=mlp(4), norm=nn.LayerNorm(4), head=head(4))


def attention_by_hand() -> nn.Module:
    def run(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).chunk(3, -1)
        weights = (q @ k.transpose(1, 2) / math.sqrt(4)).softmax(-1)
        return m.head((weights @ v).mean(1))

    return Lambda(run, qkv=nn.Linear(4, 12), head=head(4))


def causal_attention() -> nn.Module:
    def run(m: nn.Module, x: Tensor) -> Tensor:
        heads = [part.unflatten(-1, (2, 2)).transpose(1, 2) for part in m.qkv(x).chunk(3, -1)]
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        return m.head(mixed.transpose(1, 2).flatten(2)[:, -1])

    return Lambda(run, qkv=nn.Linear(4, 12), head=head(4))


class SoftEmbedding(nn.Module):
    """Floats looked up between the rows of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.head = head(28)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.arange(5, device=x.device, dtype=x.dtype)
        weights = (-(x[..., None] - rows).square()).softmax(-1)
        return self.head((weights @ self.table.weight).flatten(1))


class Tied(nn.Module):
    """An encoder whose weight decodes as well."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(7, 5, bias=False)
        self.again = nn.Linear(7, 5, bias=False)
        self.again.weight = self.encoder.weight
        self.head = head(5)

    def forward(self, x: Tensor) -> Tensor:
        decoded = functional.linear(self.encoder(x).tanh(), self.encoder.weight.t())
        return self.head(self.again(decoded).tanh())


def checkpointed(dropout: float) -> nn.Module:
    body = nn.Sequential(nn.Linear(7, 8), nn.Tanh(), nn.Dropout(dropout))
    return Lambda(
        lambda m, x: m.head(checkpoint(m.body, x, use_reentrant=False)), body=body, head=head(8)
    )


def frozen_backbone() -> nn.Module:
    model = nn.Sequential(nn.Linear(7, 8), nn.BatchNorm1d(8), nn.ReLU(), head(8))
    return nn.Sequential(model[:3].requires_grad_(False), model[3])


class Einsum(nn.Module):
    """Parameters of its own in lists and dicts, and sums over named axes."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.ParameterList(torch.randn(7, 3) / 3 for _ in range(2))
        self.core = nn.ParameterDict({"core": torch.randn(3, 3, CLASSES)})

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.factors
        return torch.einsum("bi,bj,ir,js,rsc->bc", x, x.tanh(), first, second, self.core["core"])


class Nested(nn.Module):
    """Modules in lists in dicts, one of them used twice, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(
            {"twice": nn.ModuleList([nn.Linear(7, 7), nn.Tanh()]), "once": nn.Sequential(head(7))}
        )
        self.never = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        for part in (*self.parts["twice"], *self.parts["twice"]):
            x = part(x)
        return self.parts["once"](x)


class Buffered(nn.Module):
    """A running mean of its own. filled: in place, or by a new tensor each time. always: in eval
    mode as well."""

    def __init__(self, filled: bool, always: bool = False) -> None:
        super().__init__()
        self.filled, self.always = filled, always
        self.register_buffer("centre", torch.zeros(7))
        self.head = head(7)

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.always:
            centre = 0.9 * self.centre + 0.1 * x.detach().mean(0)
            if self.filled:
                self.centre.copy_(centre)
            else:
                self.centre = centre
        return self.head((x - self.centre).tanh())


def changes_its_input(m: nn.Module, x: Tensor) -> Tensor:
    x.sub_(0.5)
    return m.body(x)


def drops_layers(m: nn.Module, x: Tensor) -> Tensor:
    if m.training and float(torch.rand(())) < 0.5:
        return m.head(x)
    return m.head(x + m.body(x).tanh())


def drops_twice(m: nn.Module, x: Tensor) -> Tensor:
    return m.head(m.drop(m.drop(m.body(x)).tanh()))


def of_experts(m: nn.Module, x: Tensor) -> Tensor:
    weights = m.gate(x).softmax(-1)
    return sum(weights[:, i, None] * m.get_submodule(f"expert{i}")(x) for i in range(2))


def skips_where_small(m: nn.Module, x: Tensor) -> Tensor:
    """Control flow by the data."""
    return m.head(x) if float(x.detach().abs().mean()) < 0.7 else m.head(m.body(x).tanh())


def complex_valued(m: nn.Module, x: Tensor) -> Tensor:
    return m.head(torch.fft.rfft(m.body(x)).abs())


def _upsampled() -> nn.Module:
    return convolutional(
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(4, 4, 2, stride=2),
        nn.Upsample(scale_factor=2),
        nn.ELU(),
    )


Builder = Callable[[], nn.Module]
ZOO: dict[str, tuple[tuple[int, ...], Builder]] = {
    # perceptrons and activations
    "linear": (POINT, lambda: head(7)),
    "mlp of a picture": (
        PICTURE,
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.ReLU(), head(5)),
    ),
    "relu in place": (POINT, lambda: layers(nn.ReLU(inplace=True))),
    "silu, gelu, mish": (POINT, lambda: layers(nn.SiLU(), nn.GELU(), nn.Mish())),
    "prelu": (POINT, lambda: layers(nn.PReLU(8))),
    "softplus, hardtanh": (POINT, lambda: layers(nn.Softplus(), nn.Hardtanh())),
    "bilinear": (POINT, lambda: Lambda(lambda m, x: m.pair(x, x), pair=nn.Bilinear(7, 7, CLASSES))),
    # convolutions
    "depthwise": (
        PICTURE,
        lambda: convolutional(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1), nn.ReLU()),
    ),
    "grouped": (
        PICTURE,
        lambda: convolutional(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), channels=6),
    ),
    "dilated, same padding": (
        PICTURE,
        lambda: convolutional(nn.Conv2d(4, 4, 3, dilation=2, padding="same"), nn.ReLU()),
    ),
    "reflected padding": (
        PICTURE,
        lambda: convolutional(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU()),
    ),
    "transposed, upsampled": (PICTURE, _upsampled),
    "strided, average pool": (
        PICTURE,
        lambda: convolutional(nn.Conv2d(4, 4, 3, stride=2), nn.ReLU(), nn.AvgPool2d(2)),
    ),
    "convolution of a series": (
        SERIES,
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), head(12)
        ),
    ),
    "convolution of a volume": (
        VOLUME,
        lambda: nn.Sequential(
            nn.Conv3d(1, 3, 2), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(), head(3)
        ),
    ),
    "pixel shuffle": (
        PICTURE,
        lambda: convolutional(nn.PixelUnshuffle(2), nn.Conv2d(16, 4, 1), nn.Tanh()),
    ),
    "residual": (PICTURE, residual),
    "dense": (PICTURE, dense),
    "squeeze and excite": (PICTURE, squeeze_and_excite),
    # normalisation
    "batch norm": (PICTURE, lambda: convolutional(nn.BatchNorm2d(4), nn.ReLU())),
    "batch norm, momentum None": (
        PICTURE,
        lambda: convolutional(nn.BatchNorm2d(4, momentum=None), nn.ReLU()),
    ),
    "batch norm, not affine": (
        PICTURE,
        lambda: convolutional(nn.BatchNorm2d(4, affine=False), nn.ReLU()),
    ),
    "batch norm, no running statistics": (
        PICTURE,
        lambda: convolutional(nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()),
    ),
    "batch norm, held statistics": (PICTURE, lambda: convolutional(Frozen(4), nn.ReLU())),
    "group norm": (PICTURE, lambda: convolutional(nn.GroupNorm(2, 4), nn.ReLU())),
    "layer norm": (POINT, lambda: layers(nn.LayerNorm(8), nn.Tanh())),
    "instance norm": (PICTURE, lambda: convolutional(nn.InstanceNorm2d(4, affine=True), nn.ReLU())),
    "instance norm, running statistics": (
        PICTURE,
        lambda: convolutional(nn.InstanceNorm2d(4, track_running_stats=True), nn.ReLU()),
    ),
    "local response norm": (PICTURE, lambda: convolutional(nn.LocalResponseNorm(2), nn.ReLU())),
    "rms norm": (POINT, lambda: layers(nn.RMSNorm(8), nn.Tanh())),
    # sequences
    "rnn": (SEQUENCE, lambda: recurrent(nn.RNN)),
    "lstm": (SEQUENCE, lambda: recurrent(nn.LSTM, bidirectional=True)),
    "gru": (SEQUENCE, lambda: recurrent(nn.GRU, num_layers=2)),
    "gru cell by hand": (SEQUENCE, gated_by_hand),
    "transformer": (SEQUENCE, lambda: transformer(0.0)),
    "transformer with dropout": (SEQUENCE, lambda: transformer(0.2)),
    "vision transformer": (PICTURE, Vision),
    "mixer": (SEQUENCE, mixer),
    "attention by hand": (SEQUENCE, attention_by_hand),
    "causal attention": (SEQUENCE, causal_attention),
    "embedding of floats": (POINT, SoftEmbedding),
    # parameters and buffers
    "tied weights": (POINT, Tied),
    "weight norm": (
        PICTURE,
        lambda: nn.Sequential(
            weight_norm(nn.Conv2d(2, 4, 3)), nn.ReLU(), nn.Flatten(), weight_norm(head(64))
        ),
    ),
    "spectral norm": (
        POINT,
        lambda: nn.Sequential(spectral_norm(nn.Linear(7, 8)), nn.Tanh(), head(8)),
    ),
    "orthogonal": (POINT, lambda: nn.Sequential(orthogonal(nn.Linear(7, 7)), nn.Tanh(), head(7))),
    "frozen backbone": (POINT, frozen_backbone),
    "einsum of listed parameters": (POINT, Einsum),
    "nested, one never used": (POINT, Nested),
    "buffer filled in place": (POINT, lambda: Buffered(True)),
    "buffer replaced": (POINT, lambda: Buffered(False)),
    "buffer moved in eval mode": (POINT, lambda: Buffered(True, always=True)),
    # dropout and other draws
    "dropout": (POINT, lambda: layers(nn.Dropout(0.3), nn.Tanh(), nn.Dropout(0.5))),
    "dropout used twice": (
        POINT,
        lambda: Lambda(drops_twice, body=nn.Linear(7, 7), drop=nn.Dropout(0.4), head=head(7)),
    ),
    "dropout of channels": (PICTURE, lambda: convolutional(nn.Dropout2d(0.4), nn.ReLU())),
    "dropout of a series": (
        SERIES,
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.Dropout1d(0.4), nn.Flatten(), head(28)),
    ),
    "dropout of a volume": (
        VOLUME,
        lambda: nn.Sequential(nn.Conv3d(1, 4, 2), nn.Dropout3d(0.4), nn.Flatten(), head(108)),
    ),
    "alpha dropout": (POINT, lambda: layers(nn.SELU(), nn.AlphaDropout(0.3))),
    "functional dropout": (
        POINT,
        lambda: Lambda(lambda m, x: m.head(functional.dropout(x, 0.3, m.training)), head=head(7)),
    ),
    "randomised relu": (POINT, lambda: layers(nn.RReLU())),
    "stochastic depth": (POINT, lambda: Lambda(drops_layers, body=nn.Linear(7, 7), head=head(7))),
    # ways of computing
    "checkpointing": (POINT, lambda: checkpointed(0.0)),
    "checkpointing with dropout": (POINT, lambda: checkpointed(0.3)),
    "input changed in place": (POINT, lambda: Lambda(changes_its_input, body=layers(nn.Tanh()))),
    "control flow by the data": (
        POINT,
        lambda: Lambda(skips_where_small, body=nn.Linear(7, 7), head=head(7)),
    ),
    "mixture of experts": (
        POINT,
        lambda: Lambda(of_experts, gate=nn.Linear(7, 2), expert0=head(7), expert1=head(7)),
    ),
    "complex numbers inside": (
        POINT,
        lambda: Lambda(complex_valued, body=nn.Linear(7, 8), head=head(5)),
    ),
}

# Those that vmap cannot run together, with a part of the reason that is given.
ONE_BY_ONE = {
    "bilinear": "no rule for aten::bilinear",
    "batch norm, momentum None": "calling .item()",
    "group norm": "is_contiguous",
    "rnn": "no rule for aten::rnn_tanh",
    "lstm": "no rule for aten::lstm",
    "gru": "no rule for aten::gru",
    "gru cell by hand": "no rule for aten::gru_cell",
    "transformer with dropout": "generator",  # attention draws its own
    "weight norm": "no rule for aten::_weight_norm",
    "spectral norm": "no rule for aten::div",
    "buffer replaced": "vmap gives another centre",
    "functional dropout": "generator",
    "randomised relu": "generator",
    "stochastic depth": "generator",
    "checkpointing": "vmap cannot run it",
    "checkpointing with dropout": "generator",
    "control flow by the data": "calling .item()",
}

# Their outputs depend on the batch, or on what was evaluated before, in ways that a map of one
# sample at a time does not see.
VANILLA_ONLY = {"buffer moved in eval mode", "control flow by the data"}
ORDINARY_DROPOUT = {"checkpointing with dropout"}
