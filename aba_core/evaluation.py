"""Evaluation: accuracy and loss of stacked replicas; what each adjustment does to a frozen model.

Accuracies are in percent, losses are means per sample in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aba_core.adjustments import ADJUSTMENTS
from aba_core.attribution import Loss, Target, attribute, cross_entropy, undisturbed
from aba_core.checks import check_sequence, model_output
from aba_core.datasets import Split
from aba_core.methods.aba import adjust
from aba_core.randomness import Draws
from aba_core.selection import Percentiles, Selection, categorize


def _batches(split: Split, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(split), batch):
        index = torch.arange(start, min(start + batch, len(split)), device=split.y.device)
        yield split.batch(index), split.y[index]


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
    check_sequence("strengths", strengths, f"[{strengths}]")
    if selection.categories != 3:
        raise ValueError(f"selection is {selection}; needed: three categories, low middle high")
    sums: dict[tuple[int, float], Tensor] = {}
    clean = torch.zeros(3, dtype=torch.float64, device=split.y.device)
    with undisturbed(model, "eval"):

        def totals(x: Tensor, y: Tensor) -> Tensor:
            logits = model_output(model, x)
            if loss is cross_entropy and int(y.max()) >= logits.shape[1]:
                raise ValueError(
                    f"y holds label {int(y.max())}, but the model has {logits.shape[1]} outputs; "
                    "needed: one a class"
                )
            score = logits.gather(1, y[:, None])
            correct = (logits.argmax(1) == y).double()
            correct[~torch.isfinite(logits).all(1)] = float("nan")
            parts = (100.0 * correct, loss(logits, y).double(), score.double())
            return torch.stack([part.sum() for part in parts])

        everyone = Draws.single(0, 0, len(split), split.y.device)
        done = 0
        for x, y in _batches(split, batch):
            clean += totals(x, y)
            draws = everyone.subset(slice(done, done + len(x)))
            done += len(x)
            maps = attribute(model, x, y, method, target, draws=draws)
            categories = categorize(maps, selection)
            ones = torch.ones(len(x), device=x.device, dtype=torch.float64)
            for adjustment in ADJUSTMENTS:
                changes = torch.tensor([tuple(adjustment)], device=x.device, dtype=x.dtype)
                changes = changes.expand(len(x), 3)
                for strength in strengths:
                    moved = adjust(x, categories, changes, strength, ones)
                    key = (adjustment.index, float(strength))
                    sums[key] = sums.get(key, 0) + totals(moved, y)
    rows: list[dict[str, float | int]] = []
    for (index, strength), total in sums.items():
        row: dict[str, float | int] = {"adjustment": index, "strength": strength}
        for name, value, before in zip(
            ("accuracy", "loss", "class_score"), total.tolist(), clean.tolist(), strict=True
        ):
            row[name] = value / len(split)
            row[f"{name}_change"] = (value - before) / len(split)
        rows.append(row)
    return rows
