"""The mechanism metrics again, for one model: single samples, whole Hessians, NumPy."""

from dataclasses import replace

import numpy as np
import torch
from oracles import counter_hash
from oracles.slow_attribution import Loss, slow_maps, torch_cross_entropy
from oracles.slow_augmentation import drawn_changes, drawn_magnitude
from oracles.slow_selection import slow_categories
from torch import Tensor, nn
from torch.func import functional_call

from aba_core.adjustments import ADJUSTMENTS, Adjustment, Group
from aba_core.methods.aba import Augmentation


def probe_rows(samples: int, available: int) -> list[int]:
    """The training samples that are measured on."""

    def key(sample: int) -> int:
        number = counter_hash.bits(0, "probe", 0, sample)
        return number - 2**64 if number >= 2**63 else number

    return sorted(range(available), key=key)[:samples]


def hessian(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> np.ndarray:
    """All second derivatives of the mean loss."""
    named = {name: value.detach() for name, value in model.named_parameters()}
    sizes = [value.numel() for value in named.values()]

    def mean_loss(flat: Tensor) -> Tensor:
        pieces = flat.split(sizes)
        values = {n: p.reshape(v.shape) for p, (n, v) in zip(pieces, named.items(), strict=True)}
        return loss(functional_call(model, values, (x,)), y).mean()

    flat = torch.cat([value.flatten() for value in named.values()])
    return torch.autograd.functional.hessian(mean_loss, flat).numpy()


def gradient(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> np.ndarray:
    """The gradient of one sample's loss with respect to all parameters."""
    value = loss(model(x[None]), y[None])[0]
    pieces = torch.autograd.grad(value, list(model.parameters()))
    return np.concatenate([piece.numpy().ravel() for piece in pieces])


def opposite(adjustment: Adjustment) -> Adjustment:
    return Adjustment(*(-change for change in adjustment))


def slow_measure(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    aug: Augmentation,
    seed: int,
    loss: Loss = torch_cross_entropy,
) -> dict[str, float]:
    """Every metric of a model, which is put into eval mode."""
    own = counter_hash.bits(seed, "probe", 0, 0)
    seeds = dict.fromkeys(counter_hash.STREAM, own)
    model.train(aug.attribution_mode == "train")
    still = replace(aug.maps, update_statistics=False)  # a probe moves nothing
    maps = slow_maps(model, x, y, still, own, 0, loss)
    model.eval()
    masks = [slow_categories(m.reshape(-1).numpy(), aug.split) for m in maps]

    def changed(sample: int, changes: list[float], size: float) -> Tensor:
        flat = x[sample].reshape(-1).numpy().copy()
        for mask, change in zip(masks[sample], changes, strict=True):
            flat[mask] += size * change
        return torch.from_numpy(flat).reshape(x[sample].shape)

    def numbers(adjustment: Adjustment) -> list[float]:
        low, middle, high = adjustment
        return [low, middle, high] if aug.split.categories == 3 else [low, high]

    def loss_of(sample: int, at: Tensor) -> float:
        with torch.no_grad():
            return float(loss(model(at[None]), y[sample : sample + 1])[0])

    everyone = range(len(x))
    augmented = torch.stack(
        [
            changed(
                i,
                drawn_changes(aug, i, seeds, 0),
                aug.strength * drawn_magnitude(aug, i, seeds, 0),
            )
            for i in everyone
        ]
    )
    found: dict[str, float] = {}
    for name, inputs in (("clean", x), ("augmented", augmented)):
        found[f"loss_{name}"] = float(np.mean([loss_of(i, inputs[i]) for i in everyone]))
        matrix = hessian(model, inputs, y, loss)
        found[f"eigenvalue_{name}"] = float(np.linalg.eigvalsh(matrix).max())
        found[f"trace_{name}"] = float(np.trace(matrix))

    members = {
        group: [
            a
            for a in ADJUSTMENTS
            if a.group is group and (aug.split.categories == 3 or not a.middle)
        ]
        for group in Group
    }
    members[Group.DELTA] = [opposite(a) for a in members[Group.EPSILON]]
    fell, rose, errors = [], [], []
    for i in everyone:
        at = x[i : i + 1].clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(model(at), y[i : i + 1])[0], at)
        before = loss_of(i, x[i])
        for group, violated in ((Group.EPSILON, fell), (Group.DELTA, rose)):
            for adjustment in members[group]:
                moved = changed(i, numbers(adjustment), aug.strength)
                change = loss_of(i, moved) - before
                violated.append(change < 0 if group is Group.EPSILON else change > 0)
                linear = float((slope[0] * (moved - x[i])).sum())
                errors.append(abs(change - linear) / abs(linear))
    found["violation_epsilon"], found["violation_delta"] = np.mean(fell), np.mean(rose)
    found["linearity_error"] = float(np.median(errors))

    gradients: dict[str, list[np.ndarray]] = {
        "clean": [gradient(model, *s, loss) for s in zip(x, y, strict=True)]
    }
    for group in Group:
        gradients[group.value.lower()] = [
            gradient(
                model,
                changed(
                    i,
                    numbers(
                        members[group][
                            counter_hash.weighted_choice(
                                [1.0] * len(members[group]),
                                counter_hash.uniform(own, "adjustment", 0, i),
                            )
                        ]
                    ),
                    aug.strength,
                ),
                y[i],
                loss,
            )
            for i in everyone
        ]
    groups = ("epsilon", "delta", "neutral")
    gradients["all"] = [g for group in groups for g in gradients[group]]
    mean = {name: np.mean(list_, axis=0) for name, list_ in gradients.items()}
    for name in (*groups, "all"):
        squares = np.mean([g @ g for g in gradients[name]])
        found[f"coherence_{name}"] = float(mean[name] @ mean[name] / squares)
    for place, a in enumerate((*groups, "clean")):
        for b in (*groups, "clean")[place + 1 :]:
            norms = np.linalg.norm(mean[a]) * np.linalg.norm(mean[b])
            found[f"cosine_{a}_{b}"] = float(mean[a] @ mean[b] / norms)
    first = next(m for m in model.modules() if list(m.parameters(recurse=False)))
    count = sum(value.numel() for value in first.parameters(recurse=False))
    for name in (*groups, "clean"):
        found[f"first_layer_{name}"] = float(np.linalg.norm(mean[name][:count]))
    return found
