"""Evaluation: accuracy and loss of stacked replicas; what each adjustment does to a frozen model.

Accuracies are in percent, losses are means per sample in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aba_core.adjustments import ADJUSTMENTS
from aba_core.attribution import (
    Attribution,
    Loss,
    Target,
    check_inputs,
    cross_entropy,
    map_of,
    undisturbed,
)
from aba_core.checks import check_sequence, check_split, model_output
from aba_core.datasets import Split
from aba_core.methods.aba import adjust
from aba_core.precision import products_in
from aba_core.randomness import Draws
from aba_core.selection import Percentiles, Selection


def _batches(split: Split, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(split), batch):
        index = torch.arange(start, min(start + batch, len(split)), device=split.y.device)
        yield split.batch(index), split.y[index]


# Samples that all replicas of a GPU see at once: enough to fill it, and a bounded memory.
AT_ONCE = 50_000


def evaluation_batch(replicas: int, device: torch.device | str) -> int:
    """Samples in one batch of an evaluation."""
    if torch.device(device).type == "cpu":
        return 500
    return max(16, AT_ONCE // replicas)


@torch.no_grad()
def stacked_logits(
    forward: Callable[[Tensor], Tensor], split: Split, dtype: torch.dtype, batch: int = 500
) -> Float[Tensor, "replica sample class_"]:
    """Logits of every replica on every sample; forward takes shared inputs [batch, *feature]."""
    return torch.cat([forward(x.to(dtype)) for x, _ in _batches(split, batch)], dim=1)


@torch.no_grad()
def frozen(
    model: nn.Module,
    split: Split,
    strengths: Sequence[float],
    selection: Selection = Percentiles(0.1, 0.9),
    method: str = "gradient",
    target: Target = "loss",
    batch: int = 500,
    loss: Loss = cross_entropy,
) -> list[dict[str, float | int]]:
    """What each of the 27 adjustments does to a trained model that is left as it is.

    Every sample is changed at each strength with magnitude 1, along the model's own map of it.
    One row per (adjustment, strength): accuracy in percent, mean loss, mean score of the true
    class, and the change of each against the unchanged inputs. Source: slides, "Adjustments applied
    in evaluation" and "MNIST Frozen".
    """
    check_split(split)
    check_sequence("strengths", strengths, f"[{strengths}]")
    if selection.categories != 3:
        raise ValueError(f"selection is {selection}; needed: three categories, low middle high")
    device = split.y.device
    attribution = Attribution(method, target)
    one = torch.zeros(1, dtype=torch.int64, device=device)
    check_inputs(split.batch(one), split.y[:1], loss, look=False)
    first, last = 0, 0
    if loss is cross_entropy:
        first, last = (int(label) for label in torch.stack([split.y.min(), split.y.max()]).tolist())
    if first < 0:
        raise ValueError(f"y holds label {first}; allowed: classes from 0")
    table = torch.tensor([tuple(adjustment) for adjustment in ADJUSTMENTS], device=device)
    # Sums lie on the device until the end: to ask for one is to wait for it. The first row is of
    # the unchanged inputs.
    sums = torch.zeros(1 + len(ADJUSTMENTS) * len(strengths), 3, dtype=torch.float64, device=device)
    strange = torch.zeros((), dtype=torch.int64, device=device)

    def totals(x: Tensor, y: Tensor) -> Tensor:
        logits = model_output(model, x)
        if last >= logits.shape[1]:
            raise ValueError(
                f"y holds label {last}, but the model has {logits.shape[1]} outputs; "
                "needed: one a class"
            )
        score = logits.gather(1, y[:, None])
        correct = (logits.argmax(1) == y).double()
        correct = correct.masked_fill(~torch.isfinite(logits).all(1), float("nan"))
        parts = (100.0 * correct, loss(logits, y).double(), score.double())
        return torch.stack([part.sum() for part in parts])

    with products_in("full", device), undisturbed(model, "eval"):
        everyone = Draws.single(0, 0, len(split), device)
        done = 0
        for x, y in _batches(split, batch):
            sums[0] += totals(x, y)
            draws = everyone.subset(slice(done, done + len(x)))
            done += len(x)
            maps = map_of(model, x, y, attribution, draws, loss, asking=False)
            finite = (torch.isfinite(x) & torch.isfinite(maps)).flatten(1).all(1)
            strange += (~finite).sum()
            categories = selection.masks(maps.flatten(1)).unflatten(2, x.shape[1:])
            ones = torch.ones(len(x), device=device, dtype=torch.float64)
            place = 1
            for changes in table.to(x.dtype):
                for strength in strengths:
                    moved = adjust(x, categories, changes.expand(len(x), 3), strength, ones)
                    sums[place] += totals(moved, y)
                    place += 1
    if int(strange):
        raise ValueError(
            f"the input or the attribution map of {int(strange)} of {len(split)} samples holds NaN "
            "or infinite values; allowed: finite numbers"
        )
    return _rows(sums, strengths, len(split))


def _rows(
    sums: Float[Tensor, "row 3"], strengths: Sequence[float], samples: int
) -> list[dict[str, float | int]]:
    """What `frozen` tells of the sums over all samples."""
    clean, *changed = sums.tolist()
    rows: list[dict[str, float | int]] = []
    keys = ((a.index, float(strength)) for a in ADJUSTMENTS for strength in strengths)
    for (index, strength), total in zip(keys, changed, strict=True):
        row: dict[str, float | int] = {"adjustment": index, "strength": strength}
        names = ("accuracy", "loss", "class_score")
        for name, value, before in zip(names, total, clean, strict=True):
            row[name] = value / samples
            row[f"{name}_change"] = (value - before) / samples
        rows.append(row)
    return rows
