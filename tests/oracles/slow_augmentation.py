"""The augmentation again: sample by sample, category by category, feature by feature."""

import numpy as np
import torch
from oracles import counter_hash
from oracles.slow_attribution import Loss, slow_maps, torch_cross_entropy
from oracles.slow_selection import slow_categories
from torch import Tensor, nn

from aba_core.adjustments import Adjustment
from aba_core.methods.aba import Augmentation


def slow_adjust(
    x: Tensor, categories: Tensor, adjustments: Tensor, strength: float, magnitude: Tensor
) -> Tensor:
    """x + strength · magnitude · Σ_c [feature in category c] · adjustment_c."""
    result = x.clone()
    for i in range(len(x)):
        flat = result[i].reshape(-1).clone()
        for c in range(len(categories)):
            for j in range(len(flat)):
                if categories[c, i].reshape(-1)[j]:
                    flat[j] += strength * float(magnitude[i]) * float(adjustments[i, c])
        result[i] = flat.reshape(x[i].shape)
    return result


def drawn_changes(aug: Augmentation, place: int, seeds: dict[str, int], step: int) -> list[float]:
    """The changes per category that the sample at this place of the batch draws."""
    place = 0 if aug.draw_per == "batch" else place
    member = aug.adjustments.adjustments[
        counter_hash.weighted_choice(
            list(aug.adjustments.weights),
            counter_hash.uniform(seeds["adjustment"], "adjustment", step, place),
        )
    ]
    if isinstance(member, Adjustment) and aug.split.categories == 2:
        return [member.low, member.high]
    return list(member)


def drawn_magnitude(aug: Augmentation, place: int, seeds: dict[str, int], step: int) -> float:
    place = 0 if aug.draw_per == "batch" else place
    if not aug.randomize:
        return 1.0
    return abs(counter_hash.normal(seeds["magnitude"], "magnitude", step, place))


def placebo_noise(seed: int, step: int, copy: int, place: int, features: int) -> np.ndarray:
    return np.array(
        [
            counter_hash.normal(seed, "placebo", step * 2**20 + copy, place * features + feature)
            for feature in range(features)
        ]
    )


def slow_aba(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    aug: Augmentation,
    seeds: dict[str, int],
    step: int,
    loss: Loss = torch_cross_entropy,
    untrained: nn.Module | None = None,
    maps: Tensor | None = None,
) -> Tensor:
    """The augmented batch; the model is put into the mode of the attribution and back. maps: in
    place of the model's own."""
    if seeds["target"] != seeds["smoothing"]:
        raise ValueError("this oracle draws classes and noise with one seed")
    if aug.placebo == "untrained":
        assert untrained is not None
        model = untrained
    before = model.training
    model.train(aug.attribution_mode == "train")
    if maps is not None:
        pass
    elif aug.placebo in ("random", "gaussian"):  # no pass through the model
        maps = torch.zeros_like(x)
    else:
        maps = slow_maps(model, x, y, aug.maps, seeds["target"], step, loss)
    model.train(before)
    augmented = []
    for i in range(len(x)):
        values = maps[i].reshape(-1).numpy()
        noise = (
            [placebo_noise(seeds["placebo"], step, copy, i, len(values)) for copy in (0, 1)]
            if aug.placebo
            else []
        )
        if aug.placebo == "other_sample":
            values = maps[i - 1].reshape(-1).numpy()  # for the first one: the last
        elif aug.placebo == "permuted":
            values = values[np.argsort(noise[0])]
        elif aug.placebo in ("random", "gaussian"):
            values = noise[0]
        masks = slow_categories(values, aug.split)
        factor = aug.strength * drawn_magnitude(aug, i, seeds, step)
        flat = x[i].reshape(-1).numpy().copy()
        change_of = np.zeros(len(flat))
        for mask, change in zip(masks, drawn_changes(aug, i, seeds, step), strict=True):
            change_of[mask] += factor * change
        if aug.placebo == "gaussian":
            length = np.sqrt((change_of**2).sum() / (noise[1] ** 2).sum())
            change_of = length * noise[1]
        flat += change_of
        augmented.append(torch.from_numpy(np.asarray(flat)).reshape(x[i].shape))
    return torch.stack(augmented).to(x.dtype)
