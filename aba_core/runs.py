"""What a training left: metrics, curves and models, as tables and in short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from jaxtyping import Bool, Float
from torch import Tensor, nn

from aba_core.quantities import TASKS

# Columns that a table of runs begins with, before what has been the same for all.
_FIRST = ("arm", "seed", "status")


@dataclass(repr=False)
class Runs:
    """What a training left: metrics, curves and the trained models.

    majority: the share of the most frequent class by split, in percent, where samples have one
    class: accuracies are to be read beside it.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    curve_rows: list[dict[str, Any]] = field(default_factory=list)
    mechanism_rows: list[dict[str, Any]] = field(default_factory=list)
    logits: dict[tuple[str, int], Float[Tensor, "sample class_"]] = field(default_factory=dict)
    # {run: {split: which samples it classifies correctly}}; empty where there is no one right class
    correct: dict[tuple[str, int], dict[str, Bool[Tensor, "sample"]]] = field(default_factory=dict)
    _models: dict[tuple[str, int], Callable[[], nn.Module]] = field(default_factory=dict)
    task: str = "multiclass"
    majority: dict[str, float] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """One row per (arm, seed) with the metrics of the final step; accuracies in percent.

        Arm, seed and the primary metric come first; columns that only some methods have last."""
        frame = pd.DataFrame(self.rows)
        common = [str(name) for name in frame if all(name in row for row in self.rows)]
        first = [name for name in (*_FIRST, *self._primary) if name in common]
        common = [*first, *(name for name in common if name not in first)]
        return frame[[*common, *sorted({str(name) for name in frame} - set(common))]]

    @property
    def _primary(self) -> tuple[str, str]:
        """The columns that runs are judged by, on validation and on test."""
        quantity = TASKS[self.task][0]
        return f"validation_{quantity}", f"test_{quantity}"

    def summary(self) -> pd.DataFrame:
        """One row an arm, in the declared order: runs, and mean and standard deviation over seeds
        of the primary metric on validation and test. Where runs diverged, also how many.

        As few columns as that, so that pandas prints all of them in 80 characters."""
        frame = pd.DataFrame(self.rows)
        by_arm = frame.groupby("arm", sort=False)
        table: dict[str, Any] = {"runs": by_arm.size()}
        diverged = by_arm["status"].agg(lambda s: sum(s != "finished"))
        if diverged.any():
            table["diverged"] = diverged
        for name, split in zip(self._primary, ("validation", "test"), strict=True):
            table |= {name: by_arm[name].mean(), f"{split}_sd": by_arm[name].std()}
        return pd.DataFrame(table).reset_index()

    def __repr__(self) -> str:
        if not self.rows:
            return "<Runs: none>"
        table = self.summary()
        seeds = len({row["seed"] for row in self.rows})
        of = f"{self.rows[0]['dataset']} ({self.rows[0]['subset']})"
        head = f"<Runs: {len(table)} arms, {seeds} seeds, {len(self.rows)} runs on {of}>"
        shown = table.head(20).to_string(index=False, float_format=lambda value: f"{value:.3g}")
        more = f"\n… and {len(table) - 20} arms more" * (len(table) > 20)
        return f"{head}\n{shown}{more}" + f"\n{self._beside}" * bool(self._beside)

    @property
    def _beside(self) -> str:
        """What accuracies are to be read beside, where classes are uneven."""
        shares = [f"{share:.0f} % on {split}" for split, share in self.majority.items()]
        return f"Always guessing the most frequent class: {', '.join(shares)}." if shares else ""

    def _repr_html_(self) -> str:
        if not self.rows:
            return "<p>Runs: none</p>"
        table = self.summary().to_html(index=False, border=0, float_format="{:.3g}".format)
        return table + f"<p>{self._beside}</p>" * bool(self._beside)

    def curves(self) -> pd.DataFrame:
        """One row per (arm, seed, step) at the steps chosen by `curve_every`."""
        return pd.DataFrame(self.curve_rows)

    def mechanism(self) -> pd.DataFrame:
        """One row per (arm, seed, step) at the steps chosen by `TrainConfig.mechanism`, with the
        metrics of `mechanism.measure`."""
        return pd.DataFrame(self.mechanism_rows)

    def model(self, arm: str, seed: int) -> nn.Module:
        """The trained model of one run, in eval mode."""
        if (arm, seed) not in self._models:
            arms, seeds = (sorted({run[part] for run in self._models}) for part in (0, 1))
            raise KeyError(
                f"no run of arm {arm!r} with seed {seed}; arms: {', '.join(map(str, arms))}; "
                f"seeds: {', '.join(map(str, seeds))}"
            )
        return self._models[arm, seed]()
