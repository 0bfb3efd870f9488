"""Train many small models at once under attribution-based augmentation.

    attribution → selection → augmentation → training step → metrics

Everything public is imported from here. Names are loaded on first use, so that looking up an
adjustment does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

_PUBLIC = {
    "adjustments": ("ADJUSTMENTS", "Adjustment", "AdjustmentSet", "Group"),
    "attribution": ("attribute",),
    "augmentation": (
        *("ABA", "Augmentation", "adjust", "PRESETS"),
        *("CHALLENGER", "MENDABA", "FASTABA", "FASTABA_CE"),
    ),
    "selection": ("Percentiles", "SignSplit", "categorize"),
    "training": ("Arm", "Runs", "TrainConfig", "train"),
    "evaluation": ("frozen",),
    "inspection": ("Inspection", "inspect_sample"),
    "models": ("MODELS", "build_model"),
    "datasets": ("DATASETS", "Splits", "load_dataset", "splits_from"),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(_MODULE_OF)

if TYPE_CHECKING:
    from aba_core.adjustments import ADJUSTMENTS, Adjustment, AdjustmentSet, Group
    from aba_core.attribution import attribute
    from aba_core.augmentation import (
        ABA,
        CHALLENGER,
        FASTABA,
        FASTABA_CE,
        MENDABA,
        PRESETS,
        Augmentation,
        adjust,
    )
    from aba_core.datasets import DATASETS, Splits, load_dataset, splits_from
    from aba_core.evaluation import frozen
    from aba_core.inspection import Inspection, inspect_sample
    from aba_core.models import MODELS, build_model
    from aba_core.selection import Percentiles, SignSplit, categorize
    from aba_core.training import Arm, Runs, TrainConfig, train


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'aba_core' has no attribute {name!r}")
    return getattr(import_module(f"aba_core.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
