"""Attribution maps again: one sample, one copy, one backward pass at a time.

In train mode samples meet in batch norm, and without running statistics in eval mode too; there the
whole batch goes through the model at once, and that is the only batching here.
"""

from collections.abc import Callable

import torch
from oracles import counter_hash
from torch import Tensor, nn
from torch.nn import functional

from aba_core.attribution import Attribution

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
Loss = Callable[[Tensor, Tensor], Tensor]


def torch_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


def chosen_class(scores: Tensor, label: int, how: Attribution, draw: float) -> int:
    """The attributed class of one sample, from its scores."""
    if how.target == "true_class":
        return label
    best_first = sorted(range(len(scores)), key=lambda number: -float(scores[number]))
    top_k = how.top_k or min(4, len(scores))
    return best_first[0 if how.target == "predicted_class" else int(draw * top_k)]


def slow_maps(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    how: Attribution,
    seed: int = 0,
    step: int = 0,
    loss: Loss = torch_cross_entropy,
) -> Tensor:
    """One map a sample, in the sense of the loss. The model must be in the mode wanted; the
    statistics that its batch norm gathers are put back here unless `how` lets them move."""
    kept = {name: value.clone() for name, value in model.named_buffers()}
    batched = how.mode == "train" or any(
        isinstance(module, BATCH_NORMS) and not module.track_running_stats
        for module in model.modules()
    )

    def gradient(at: Tensor, pick: list[int] | None) -> Tensor:
        at = at.clone().requires_grad_()
        pieces = [slice(None)] if batched else [slice(i, i + 1) for i in range(len(x))]
        total = torch.zeros((), dtype=x.dtype)
        for piece in pieces:
            logits = model(at[piece])
            if pick is None:
                total = total + loss(logits, y[piece]).sum()
            else:
                for row, number in zip(logits, pick[piece], strict=True):
                    total = total - row[number]
        return torch.autograd.grad(total, at)[0]

    def choose() -> list[int] | None:
        if how.target == "loss":
            return None
        with torch.no_grad():
            if batched:
                scores = model(x)
            else:
                scores = torch.cat([model(x[i : i + 1]) for i in range(len(x))])
        draws = [
            counter_hash.uniform(seed, "target", step, 0 if how.target_per == "batch" else i)
            for i in range(len(x))
        ]
        return [chosen_class(scores[i], int(y[i]), how, draws[i]) for i in range(len(x))]

    # One pass chooses the class and one makes the map only where the package needs two as well:
    # a pass that may move running statistics counts.
    single = how.method in ("gradient", "gradient_x_input")
    pick = choose()
    if single and how.update_statistics:
        for name, value in model.named_buffers():
            value.copy_(kept[name])
    elif how.target == "loss" and not single and how.mode == "train":
        with torch.no_grad():
            model(x)

    if how.method == "gradient":
        result = gradient(x, pick)
    elif how.method == "gradient_x_input":
        result = gradient(x, pick) * x
    elif how.method == "smoothgrad":
        copies = []
        for copy in range(how.samples):
            noisy = x.clone()
            for i in range(len(x)):
                reach = how.noise * float(x[i].max() - x[i].min())
                features = x[i].numel()
                drawn = [
                    counter_hash.normal(seed, "smoothing", step * 2**20 + copy, i * features + j)
                    for j in range(features)
                ]
                noisy[i] += reach * torch.tensor(drawn, dtype=x.dtype).reshape(x[i].shape)
            copies.append(gradient(noisy, pick))
        result = torch.stack(copies).mean(0)
    else:
        shares = [(number + 0.5) / how.samples for number in range(how.samples)]
        result = torch.stack([gradient(share * x, pick) for share in shares]).mean(0) * x

    if not how.update_statistics:
        for name, value in model.named_buffers():
            value.copy_(kept[name])
    return result
