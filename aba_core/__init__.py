"""Train many small models at once under attribution-based augmentation.

    attribution → selection → augmentation → training step → metrics

Everything public is imported from here. Names are loaded on first use, so that looking up an
adjustment does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

_PUBLIC = {
    "adjustments": ("ADJUSTMENTS", "Adjustment", "AdjustmentSet", "Group"),
    "attribution": ("Attribution", "MAPS", "Objective", "attribute"),
    "arms": ("Arm", "METHODS", "TrainConfig"),
    "methods.aba": (
        *("ABA", "Augmentation", "adjust", "PRESETS"),
        *("CHALLENGER", "MENDABA", "FASTABA", "FASTABA_CE"),
    ),
    "methods.base": ("Chain", "Method", "Tail", "column", "method_of", "soft"),
    "methods.loop": ("Regularizer",),
    "randomness": ("Draws",),
    "tasks": ("Task", "task_of"),
    "selection": ("Percentiles", "SignSplit", "categorize"),
    "training": ("Runs", "train"),
    "estimator": ("ABAClassifier",),
    "evaluation": ("frozen",),
    "inspection": ("Inspection", "inspect_sample"),
    "models": ("MODELS", "build_model"),
    "datasets": ("DATASETS", "Splits", "load_dataset"),
    "own_data": ("splits_from",),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(_MODULE_OF)

if TYPE_CHECKING:
    from aba_core.adjustments import ADJUSTMENTS, Adjustment, AdjustmentSet, Group
    from aba_core.arms import METHODS, Arm, TrainConfig
    from aba_core.attribution import MAPS, Attribution, Objective, attribute
    from aba_core.datasets import DATASETS, Splits, load_dataset
    from aba_core.estimator import ABAClassifier
    from aba_core.evaluation import frozen
    from aba_core.inspection import Inspection, inspect_sample
    from aba_core.methods.aba import (
        ABA,
        CHALLENGER,
        FASTABA,
        FASTABA_CE,
        MENDABA,
        PRESETS,
        Augmentation,
        adjust,
    )
    from aba_core.methods.base import Chain, Method, Tail, column, method_of, soft
    from aba_core.methods.loop import Regularizer
    from aba_core.models import MODELS, build_model
    from aba_core.own_data import splits_from
    from aba_core.randomness import Draws
    from aba_core.selection import Percentiles, SignSplit, categorize
    from aba_core.tasks import Task, task_of
    from aba_core.training import Runs, train


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'aba_core' has no attribute {name!r}")
    return getattr(import_module(f"aba_core.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
