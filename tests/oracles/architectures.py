"""The models on which maps are compared with slow twins and with other libraries."""

import copy
from functools import cache

import torch
from torch import Tensor, nn

from aba_core.models import build_model

# name: (model, batch norm, shape of one input)
ARCHITECTURES = {
    "linear": ("linear", False, (1, 4, 5)),
    "mlp": ("mlp", False, (1, 4, 5)),
    "mlp_norm": ("mlp", True, (1, 4, 5)),
    "small_cnn": ("small_cnn", False, (2, 6, 6)),
    "small_cnn_norm": ("small_cnn", True, (2, 6, 6)),
    "text_cnn": ("text_cnn", False, (7, 4)),
}
# Deeper ones, on which Captum alone is asked.
DEEPER = {
    "larger_cnn": ("larger_cnn", False, (2, 6, 6)),
    "larger_cnn_norm": ("larger_cnn", True, (2, 6, 6)),
}


@cache
def built(name: str, seed: int = 0) -> nn.Module:
    """In float64, in evaluation, with batch norm that changes what it sees; made once."""
    model_name, batch_norm, shape = {**ARCHITECTURES, **DEEPER}[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(model_name, shape, 4, batch_norm).double()
        model(2 * torch.randn(9, *shape, dtype=torch.float64) + 1)  # moves running statistics
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return model.eval()


def batch_for(name: str, size: int = 3) -> tuple[nn.Module, Tensor, Tensor]:
    """A model in evaluation, inputs that are not below 0, labels."""
    x = torch.randn(size, *{**ARCHITECTURES, **DEEPER}[name][2], dtype=torch.float64).abs()
    return copy.deepcopy(built(name)), x, torch.arange(size) % 4
