"""Mechanism: gradients and curvature, measured while sets of groups train."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from aba_core.adjustments import group_set_text
from aba_core.arms import Arm
from analysis import chance
from analysis.exhibits import Collector, Exhibits, Look
from analysis.results import StudyResult
from analysis.studies.mechanism import curves, measured
from analysis.study import Settings, Study

# The sets that are looked at, and at how many steps: five cost a fifth of the training on digits
# (see `aba_core.mechanism`).
SETS = ("Neutral", "Delta", "Epsilon", "Eps. & Del.", "All")
MEASUREMENTS = 5


def declare(settings: Settings) -> Study:
    """Vanilla and unions of groups, measured on the way."""
    arms = [Arm.of("Vanilla", method="vanilla")]
    arms += [Arm.of(title, adjustments=group_set_text(title), **settings.loss) for title in SETS]
    config = {"mechanism": MEASUREMENTS, "probe_strength": settings.strength["isolation"]}
    return settings.study("mechanism", arms, config=config)


# --- what is shown -------------------------------------------------------------------------------

# Figures: name, title, metrics, logarithmic, one scale for all panels.
_CURVES: tuple[tuple[str, str, tuple[str, ...], bool, bool], ...] = (
    (
        "mechanism-cosines",
        "Cosine between the mean gradients of two groups of adjustments, during training",
        ("cosine_epsilon_delta", "cosine_epsilon_neutral", "cosine_delta_neutral"),
        False,
        True,
    ),
    (
        "mechanism-coherence",
        "Coherence of the gradients of single samples, within groups and over all, during training",
        ("coherence_epsilon", "coherence_delta", "coherence_neutral", "coherence_all"),
        False,
        True,
    ),
    (
        "mechanism-violations",
        "Adjustments that do the opposite of their group, and the error of a linear prediction",
        ("violation_epsilon", "violation_delta", "linearity_error"),
        False,
        False,
    ),
    (
        "mechanism-curvature",
        "Curvature of the loss on clean and on augmented samples, during training",
        ("eigenvalue_clean", "eigenvalue_augmented", "trace_clean", "trace_augmented"),
        True,
        False,
    ),
    (
        "mechanism-first-layer",
        "Norm of the first layer's mean gradient, during training",
        ("first_layer_clean", "first_layer_epsilon", "first_layer_delta", "first_layer_neutral"),
        True,
        True,
    ),
)
# Tables after the last step: name, title, metrics, digits.
_TABLES: tuple[tuple[str, str, tuple[str, ...], int], ...] = (
    (
        "mechanism-gradients",
        "Gradients of the groups after the last step",
        (*_CURVES[0][2], "cosine_epsilon_clean", "cosine_delta_clean"),
        2,
    ),
    (
        "mechanism-violations",
        "Violations of the groups and linearity error after the last step",
        _CURVES[2][2],
        3,  # many are near 0
    ),
    ("mechanism-curvature", "Curvature after the last step", _CURVES[3][2], 2),
)


def exhibits(study: StudyResult, look: Look, measurements: StudyResult) -> Exhibits:
    """Figures mechanism-cosines, -coherence, -violations, -curvature, -first-layer, -mediation;
    tables mechanism-gradients, -violations, -curvature, -mediation.

    measurements: from `results.measured`. Studies but the standard one have their name before each.
    """
    collector = Collector(study, look)
    name = study.declaration.study.name
    prefix = "" if name == "mechanism" else f"{name}-"
    control = chance.control_arm(study.declaration.study)
    table = measured.metric_table(measurements.frame, look.rng(), confidence=look.confidence)
    samples = int(measurements.frame["probe_samples"].iloc[0])
    strength = float(measurements.frame["probe_strength"].iloc[0])
    probe = (
        f"Measured on a fixed probe batch of {samples} training samples, in eval mode; adjustments "
        "at the strength of the arm" + f", for {control} {strength:g}" * bool(control) + "."
    )
    # Coherence of orthogonal gradients: one over their number.
    orthogonal = {"mechanism-coherence": [1 / samples] * 3 + [1 / (3 * samples)]}
    for stem, title, metrics, log, share in _CURVES:
        options: dict[str, Any] = {"log": log, "share": share, "control": control}
        options["levels"] = orthogonal.get(stem, ())
        collector.figure(
            prefix + stem,
            title,
            table[table["metric"].isin(metrics)].reset_index(drop=True),
            partial(curves.metric_panels, table, metrics, **options),
            note=probe + " Dotted: where all gradients are orthogonal." * (stem in orthogonal),
            interval=collector.over_runs,
            width="double",
        )
    for stem, title, metrics, digits in _TABLES:
        collector.table(
            prefix + stem,
            title,
            measured.last_table(table, metrics),
            note=probe,
            interval=collector.over_runs,
            digits=digits,
        )
    mediated = _mediated(study, look, measurements)
    if len(mediated):
        _show_mediation(collector, f"{prefix}mechanism-mediation", mediated, control)
    return collector.exhibits


def _mediated(study: StudyResult, look: Look, measurements: StudyResult) -> pd.DataFrame:
    return measured.mediation_table(
        study.frame,
        measurements.frame,
        look.rng(),
        control=chance.control_arm(study.declaration.study),
        metric=look.metric,
        confidence=look.confidence,
    )


def _show_mediation(collector: Collector, name: str, mediated: pd.DataFrame, control: str) -> None:
    """Add the figure and the table of a `mediation_table`."""
    title = "Effect on accuracy that goes through each mediator"
    note = (
        f"{collector.look.label} against {control}; mediators after the last step, eigenvalue, "
        "trace and first layer on clean samples. Neither they nor the accuracy are randomised; "
        "p by Holm over the whole table."
    )
    interval = f"{collector.level}, smoothed bootstrap over runs within arms"
    collector.figure(
        name,
        title,
        mediated,
        partial(curves.mediation_plot, mediated),
        height=curves.mediation_height(mediated),
        note=note + " Filled marks: consistent with mediation.",
        interval=interval,
    )
    collector.table(
        name,
        title,
        mediated,
        ["mediator", "arm", "a", "b", "indirect", "total", "p_holm", "verdict"],
        note=note,
        interval=interval,
        digits=2,
    )


def sentences(study: StudyResult, look: Look, measurements: StudyResult) -> list[str]:
    """What the exhibits say, in words."""
    control, frame = chance.control_arm(study.declaration.study), measurements.frame
    options: dict[str, Any] = {"confidence": look.confidence}
    return measured.sentences(
        measured.metric_table(frame, look.rng(), **options),
        measured.difference_table(frame, look.rng(), control=control, **options),
        _mediated(study, look, measurements),
        control,
    )
