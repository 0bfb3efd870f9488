"""A stranger's attribution map: the change of the objective when a feature is set to 0."""

import torch
from torch import Tensor

from aba_core import Attribution, Draws, Objective


def occlusion(objective: Objective, x: Tensor, attribution: Attribution, draws: Draws) -> Tensor:
    lead = draws.index.dim()
    flat = x.flatten(lead)
    with torch.no_grad():
        before = objective(x)
        columns = []
        for feature in range(flat.shape[-1]):
            without = flat.clone()
            without[..., feature] = 0
            columns.append(before - objective(without.reshape(x.shape)))
    return torch.stack(columns, -1).reshape(x.shape)


occlusion.version = 1
occlusion.passes = 2.0


def wrong_shape(objective: Objective, x: Tensor, attribution: Attribution, draws: Draws) -> Tensor:
    return objective.gradient(x).sum(-1)
