"""Quantities: what is measured of a run, with label, unit, range and which way is better."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """One measured number. unit: "%" is read as percent, "points" as their differences."""

    name: str
    label: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    more_is_better: bool = True


QUANTITIES: dict[str, Quantity] = {
    quantity.name: quantity
    for quantity in (
        Quantity("accuracy", "accuracy", "%", 0, 100),
        Quantity("balanced_accuracy", "balanced accuracy", "%", 0, 100),
        Quantity("macro_f1", "macro F1", "%", 0, 100),
        Quantity("macro_auc", "macro AUC", "%", 0, 100),
        Quantity("log_loss", "log loss", "nats", 0, more_is_better=False),
        Quantity("brier", "Brier score", "", 0, 2, more_is_better=False),
        Quantity("r2", "R²", "", high=1),
        Quantity("mae", "mean absolute error", "", 0, more_is_better=False),
        Quantity("loss", "loss", "", more_is_better=False),
    )
}


def _percent(name: str, label: str, more_is_better: bool = True) -> Quantity:
    return Quantity(name, label, "%", 0, 100, more_is_better)


CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
# The report card (`card`): its aspects, and what each measures, the quantities that verdicts are
# about first. Those after the None describe; more of them is neither better nor worse.
_CARD: dict[str, tuple[Quantity | None, ...]] = {
    "calibration": (
        Quantity("nll", "negative log-likelihood", "nats", 0, more_is_better=False),
        Quantity("brier", "Brier score", "", 0, 2, more_is_better=False),
        _percent("ece", "calibration error (ECE, equal width)", False),
        _percent("ece_tempered", "calibration error after temperature", False),
        None,
        _percent("ece_mass", "calibration error (ECE, equal mass)", False),
        _percent("rmsce_debiased", "debiased calibration error (RMS)", False),
        _percent("ece_classwise", "classwise calibration error", False),
        Quantity("nll_tempered", "negative log-likelihood after temperature", "nats", 0,
                 more_is_better=False),
        Quantity("brier_tempered", "Brier score after temperature", "", 0, 2, more_is_better=False),
        _percent("ece_mass_tempered", "calibration error (ECE, equal mass) after temperature",
                 False),
        _percent("rmsce_debiased_tempered", "debiased calibration error (RMS) after temperature",
                 False),
        _percent("ece_classwise_tempered", "classwise calibration error after temperature", False),
        Quantity("temperature", "temperature", "", 0),
    ),
    "selective": (
        _percent("aurc", "area under risk–coverage", False),
        _percent("e_aurc", "excess area under risk–coverage", False),
    ),
    "ood": (
        _percent("auroc_softmax", "out-of-distribution AUROC, maximum softmax"),
        _percent("auroc_energy", "out-of-distribution AUROC, energy"),
        _percent("auroc_mahalanobis", "out-of-distribution AUROC, Mahalanobis"),
        None,
        *(
            Quantity(f"{name}_{score}", f"out-of-distribution {title}, {words}", "%", 0, 100,
                     name == "aupr")
            for name, title in (("aupr", "AUPR"), ("fpr95", "FPR at 95 % TPR"))
            for score, words in (("softmax", "maximum softmax"), ("energy", "energy"),
                                 ("mahalanobis", "Mahalanobis"))
        ),
    ),
    "corruption": (
        _percent("corrupted_accuracy", "accuracy under corruption"),
        None,
        *(_percent(f"corrupted_{n}_accuracy", f"accuracy at severity {n}") for n in range(1, 6)),
        *(
            _percent(f"{kind}_accuracy", f"accuracy under {kind.replace('_', ' ')}")
            for kind in (*CORRUPTIONS, "dropped", "swapped", "synonyms", "jittered", "missing")
        ),
    ),
    "attacks": (
        _percent("fgsm_accuracy", "accuracy under FGSM"),
        _percent("pgd20_accuracy", "accuracy under PGD-20"),
        _percent("pgd_l2_accuracy", "accuracy under PGD-20 in L2"),
        _percent("transfer_accuracy", "accuracy under transferred PGD-10"),
        None,
        _percent("pgd5_accuracy", "accuracy under PGD-5"),
        _percent("pgd10_accuracy", "accuracy under PGD-10"),
        _percent("alarm_pgd20_accuracy", "accuracy under PGD-20, alarm's samples"),
        _percent("alarm_long_accuracy", "accuracy under long PGD, alarm's samples"),
        _percent("alarm_spsa_accuracy", "accuracy under SPSA, alarm's samples"),
        *(
            _percent(f"pgd_at_{n}_accuracy", f"accuracy under PGD-20 at {words} ε")
            for n, words in (("quarter", "¼"), ("half", "½"), ("double", "2"), ("whole", "range"))
        ),
        Quantity("attack_exponent", "exponent of adversarial error in ε"),
        Quantity("attack_suspect", "failed checks of the attacks", "", 0, more_is_better=False),
    ),
    "geometry": (
        Quantity("hessian_top", "largest Hessian eigenvalue", more_is_better=False),
        Quantity("adaptive_sharpness", "adaptive sharpness", "nats", more_is_better=False),
        Quantity("margin", "median distance to the boundary, first order"),
        Quantity("input_gradient", "norm of the input gradient", "", 0, more_is_better=False),
        None,
        Quantity("hessian_trace", "trace of the Hessian", more_is_better=False),
        Quantity("margin_low", "10th percentile of that distance"),
        Quantity("logit_margin", "median margin of the logits"),
        Quantity("first_layer_gradient", "norm of the first layer's gradient", "", 0,
                 more_is_better=False),
    ),
    "memory": (
        *(
            _percent(f"noisy_{n}_accuracy", f"accuracy after {n} % label noise")
            for n in (10, 20, 40)
        ),
        None,
        _percent("random_labels_accuracy", "training accuracy on random labels", False),
        _percent("mislabelled_auroc", "AUROC of mislabelled samples by AUM"),
        Quantity("el2n", "EL2N of training samples", "", 0, 2, more_is_better=False),
        Quantity("el2n_epsilon", "change of EL2N by Epsilon adjustments"),
        Quantity("el2n_delta", "change of EL2N by Delta adjustments"),
        Quantity("grand", "GraNd of training samples", "", 0, more_is_better=False),
        Quantity("aum", "area under the margin", ""),
        Quantity("forgotten", "forgetting events a training sample", "", 0, more_is_better=False),
    ),
    "ensembles": (
        Quantity("pair_gain", "gain of a pair of runs", "points", -100, 100),
        Quantity("snapshot_gain", "gain of five snapshots", "points", -100, 100),
        Quantity("flip_gain", "gain of averaging over flips", "points", -100, 100),
        None,
        _percent("disagreement", "disagreement with a second run", False),
        Quantity("cka", "linear CKA with a second run", "", 0, 1),
        *(
            _percent(f"onset_{n}", f"disagreement after one bit at {n} % of the training", False)
            for n in (0, 50, 90)
        ),
    ),
}  # fmt: skip
ASPECTS: dict[str, tuple[str, ...]] = {
    aspect: tuple(one.name for one in measured if one is not None)
    for aspect, measured in _CARD.items()
}
# What verdicts are about: whoever reads a card sees as many comparisons as these times the arms.
JUDGED: dict[str, tuple[str, ...]] = {
    aspect: tuple(one.name for one in measured[: [*measured, None].index(None)] if one is not None)
    for aspect, measured in _CARD.items()
}
CARD_QUANTITIES = {one.name: one for measured in _CARD.values() for one in measured if one}

SPLITS = {"validation": "Validation", "test": "Test", "train": "Training"}

# The tasks, and what is measured for each: the primary quantity first, then what may be asked for.
TASKS: dict[str, tuple[str, ...]] = {
    "multiclass": (
        *("accuracy", "balanced_accuracy", "macro_f1", "macro_auc", "log_loss", "brier"),
    ),
    "multilabel": ("macro_auc", "accuracy", "macro_f1", "log_loss", "brier"),
    "regression": ("r2", "mae"),
}
# What a map may explain: a number has no class. Of several labels, a true one is drawn.
TARGETS: dict[str, tuple[str, ...]] = {
    "multiclass": ("loss", "class_score", "true_class", "predicted_class"),
    "multilabel": ("loss", "class_score", "true_class", "predicted_class"),
    "regression": ("loss",),
}


def quantity_of(column: str) -> Quantity:
    """What a column of runs measures: of "validation_accuracy", accuracy; a metric of your own is
    called as its function.

    Raises ValueError for a column that is no quantity of a split.
    """
    split, _, name = column.partition("_")
    if split not in SPLITS or not name:
        raise ValueError(
            f"unknown metric {column!r}; known: "
            f"{', '.join(f'{split}_{next(iter(QUANTITIES))}' for split in SPLITS)}, and the same "
            f"with {', '.join([*QUANTITIES][1:])}, or a metric of your own"
        )
    known = QUANTITIES | CARD_QUANTITIES
    return known.get(name, Quantity(name, name.replace("_", " ")))


def metric_label(column: str) -> str:
    """A column of runs in words: "validation_accuracy" is "Validation accuracy (%)"."""
    quantity = quantity_of(column)
    split = SPLITS[column.partition("_")[0]]
    return f"{split} {quantity.label}" + f" ({quantity.unit})" * bool(quantity.unit)


def measured_as(column: str) -> str:
    """What a column of runs measures, as the label of an axis: "Accuracy (%)"."""
    quantity = quantity_of(column)
    label = quantity.label[0].upper() + quantity.label[1:]
    return label + f" ({quantity.unit})" * bool(quantity.unit)


def metrics_in(columns: Iterable[object]) -> list[str]:
    """The columns of runs that are quantities of a split."""
    names = map(str, columns)
    return [name for name in names if name.partition("_")[0] in SPLITS and name not in _KEPT]


# Columns that begin like a metric's and hold what a study keeps of a run.
_KEPT = ("validation_logits", "validation_labels")
