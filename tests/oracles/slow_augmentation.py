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


def choosing(
    aug: Augmentation, place: int, seeds: dict[str, int], step: int, row: int | None, steps: int
) -> float:
    """The number in (0, 1) that chooses the member of the sample at this place of the batch."""
    seed = seeds["adjustment"]
    if aug.draw_per == "batch" or aug.member_per == "batch":
        place = 0
    if aug.member_per == "turn":
        return (step % len(aug.adjustments) + 0.5) / len(aug.adjustments)
    if aug.member_per == "sample":
        assert row is not None
        return counter_hash.uniform(seed, "adjustment", 2**40, row)
    if aug.member_per == "progress":
        done = (step + 0.5) / steps
        backwards = counter_hash.uniform(seed, "adjustment", 2**40 + 1, 0) < 0.5
        return 1 - done if backwards else done
    return counter_hash.uniform(seed, "adjustment", step, place)


def drawn_changes(
    aug: Augmentation,
    place: int,
    seeds: dict[str, int],
    step: int,
    row: int | None = None,
    steps: int = 0,
) -> list[float]:
    """The changes per category that the sample at this place of the batch draws. row: its place in
    the training set; steps: of the whole training."""
    member = aug.adjustments.adjustments[
        counter_hash.weighted_choice(
            list(aug.adjustments.weights), choosing(aug, place, seeds, step, row, steps)
        )
    ]
    if isinstance(member, Adjustment) and aug.split.categories == 2:
        return [member.low, member.high]
    return list(member)


def drawn_magnitude(aug: Augmentation, place: int, seeds: dict[str, int], step: int) -> float:
    place = 0 if aug.draw_per == "batch" else place
    if not aug.randomize:
        return 1.0
    drawn = counter_hash.normal(seeds["magnitude"], "magnitude", step, place)
    return drawn if aug.signed else abs(drawn)


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
    *,
    rows: list[int] | None = None,
    steps: int = 0,
) -> Tensor:
    """The augmented batch; the model is put into the mode of the attribution and back. maps: in
    place of the model's own. rows: the samples' places in the training set; steps: of the whole
    training."""
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
        row = None if rows is None else rows[i]
        changes = drawn_changes(aug, i, seeds, step, row, steps)
        for mask, change in zip(masks, changes, strict=True):
            change_of[mask] += factor * change
        if aug.placebo == "gaussian":
            length = np.sqrt((change_of**2).sum() / (noise[1] ** 2).sum())
            change_of = length * noise[1]
        flat += change_of
        augmented.append(torch.from_numpy(np.asarray(flat)).reshape(x[i].shape))
    return torch.stack(augmented).to(x.dtype)
