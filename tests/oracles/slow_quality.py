"""Measures of a map's quality again: one sample at a time, sorting, counting, training alone."""

from dataclasses import replace

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from aba_core import Arm, TrainConfig, train
from aba_core.datasets import Split, Splits


def top(maps: Tensor, share: float) -> Tensor:
    """The largest features of each sample, of maps without ties."""
    kept = torch.zeros(maps.shape, dtype=torch.bool)
    for sample, values in enumerate(maps.flatten(1).abs().tolist()):
        count = int(share * len(values) + 0.5)
        for place in sorted(range(len(values)), key=lambda i: -values[i])[:count]:
            kept[sample].view(-1)[place] = True
    return kept


def accuracy_of_masked(
    config: TrainConfig, splits: Splits, seed: int, masks: dict[str, Tensor]
) -> float:
    """Accuracy (percent) on masked validation data of one model trained on masked data.

    masks: of train and validation."""

    def hidden(name: str) -> Split:
        split = getattr(splits, name)
        return Split(split.x * masks[name], split.y)

    masked = replace(splits, train=hidden("train"), validation=hidden("validation"))
    return float(train(config, [Arm("a")], [seed], splits=masked).rows[0]["validation_accuracy"])


def curves(model: torch.nn.Module, x: Tensor, maps: Tensor, steps: int) -> tuple[float, float]:
    """Areas under insertion and deletion, in percent."""
    areas = []
    for inserting in (True, False):
        every = []
        for one, of in zip(x, maps, strict=True):
            order = of.flatten().abs().argsort(descending=True)
            label = int(model(one[None]).argmax())
            values = []
            for step in range(steps + 1):
                shown = order[: int(step / steps * len(order) + 0.5)]
                mask = torch.full((len(order),), 0.0 if inserting else 1.0)
                mask[shown] = 1.0 if inserting else 0.0
                scores = model((one.flatten() * mask).reshape(one.shape)[None])
                values.append(100 * float(scores.softmax(1)[0, label]))
            every.append(np.trapezoid(values) / steps)
        areas.append(float(np.mean(every)))
    return areas[0], areas[1]


def correlation(one: Tensor, other: Tensor) -> float:
    found = [
        stats.spearmanr(a.flatten().numpy(), b.flatten().numpy()).statistic
        for a, b in zip(one, other, strict=True)
    ]
    return 100 * float(np.mean(found))


def category_changes(one: Tensor, other: Tensor, low: float, high: float) -> float:
    """Share of features in another third of their sample, of maps without ties, in percent."""

    def categories(values: Tensor) -> np.ndarray:
        place = stats.rankdata(values.flatten().numpy())
        features = len(place)
        return np.digitize(
            place, [int(low * features + 0.5) + 0.5, int(high * features + 0.5) + 0.5]
        )

    pairs = zip(one, other, strict=True)
    return 100 * float(np.mean([(categories(a) != categories(b)).mean() for a, b in pairs]))
