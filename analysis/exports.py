"""Exhibits that move to studies/hypotheses, variability and mechanism; then this file goes."""

from __future__ import annotations

from typing import Any

from analysis import figures
from analysis import hypotheses as hypothesis
from analysis import mechanism as measures
from analysis import variability as varied
from analysis.exhibits import Collector as _Collector
from analysis.exhibits import Exhibits, Look
from analysis.figures import figure_of as _figure
from analysis.results import StudyResult
from analysis.studies.frozen import measured_groups
from analysis.study import Slope
from analysis.tables import shown_counts as _shown_counts


def hypotheses(
    study: StudyResult, look: Look, frozen: StudyResult | None = None
) -> tuple[Exhibits, list[hypothesis.Verdict]]:
    """Figures verdicts and verdict-NAME, tables verdicts and comparisons; and the verdicts.

    frozen: the frozen study, for hypotheses about measured groups. Studies but the standard one
    have their name before each exhibit's. Where hypotheses are about properties of sets, also
    figure sets and table mixed-model.
    """
    made = _Collector(study, look)
    verdicts = hypothesis.test_all(
        study,
        look.rng(),
        metric=look.metric,
        confidence=look.confidence,
        measured=measured_groups(frozen) if frozen is not None else None,
    )
    name = study.declaration.study.name
    prefix = "" if name == "hypotheses" else f"{name}-"
    table = hypothesis.verdict_table(verdicts)
    tested = [judged for judged in verdicts if len(judged.table)]
    ways = (
        f"{look.confidence:.0%}, studentised bootstrap over runs or adjustments, Student's t over "
        "sets; families in which any may hold: together"
    )
    made.figure(
        f"{prefix}verdicts",
        "Verdict on each hypothesis, by the comparison that decided it",
        table,
        lambda width: _figure(
            figures.verdict_plot(table, figures.sized_axes(width, figures.verdict_height(table)))
        ),
        note=f"{look.label}.",
        interval=ways,
        width="double",
    )
    for judged in tested:
        own = hypothesis.comparison_table([judged])
        made.figure(
            f"{prefix}verdict-{judged.hypothesis.name}",
            judged.hypothesis.statement,
            own,
            lambda width, own=own: _figure(  # type: ignore[misc]
                figures.verdict_plot(
                    own,
                    figures.sized_axes(width, figures.verdict_height(own, "label")),
                    names="label",
                )
            ),
            note=f"{judged.sentence} {judged.declared.capitalize()}.",
            interval=ways,
            width="double",
        )
    made.table(
        f"{prefix}verdicts",
        "Verdicts",
        table,
        ["hypothesis", "verdict", "comparison", "estimate", "n", "smallest_detectable"],
        note=f"{look.label}, estimates in points; {verdicts[0].declared}; detectable: the smallest "
        "effect that would have been seen with 80 % power.",
        interval=ways,
    )
    if tested:
        made.table(
            f"{prefix}comparisons",
            "Every comparison of every hypothesis",
            hypothesis.comparison_table(tested),
            ["hypothesis", "label", "estimate", "n", "unit", "verdict", "smallest_detectable"],
            note=f"{look.label}, estimates in points.",
            interval=ways,
        )
    slopes = [
        comparison
        for judged in tested
        for comparison in judged.hypothesis.comparisons
        if isinstance(comparison, Slope)
    ]
    if slopes:
        sets = hypothesis.set_frame(slopes[0], study.frame, look.metric)
        sets = sets.rename(columns={look.metric: "accuracy"})
        made.figure(
            f"{prefix}sizes",
            "Accuracy of random sets against their size and opposition",
            sets,
            lambda width: _figure(
                figures.sets_plot(sets, figures.sized_axes(width, 66), label=look.label)
            ),
            note=f"{look.label}; small marks are sets, large ones their means.",
            interval="95 %, Student's t over sets",
        )
        made.table(
            f"{prefix}mixed-model",
            "Mixed model of the runs: properties of sets, with set and seed as random effects",
            hypothesis.mixed_table(slopes[0], study.frame, look.metric, look.confidence),
            note=f"{look.label}, points; size: for each doubling; opposition: from none to full.",
            interval=f"{look.confidence:.0%}, Student's t, degrees of freedom of the sets",
            digits=2,
        )
    return made.exhibits, verdicts


def variability(study: StudyResult, look: Look) -> Exhibits:
    """Figures variability and variability-disagreement; tables variability, variability-pairs and
    variability-reduction. Of the linear model: tables variability-linear and -linear-pairs."""
    made = _Collector(study, look)
    options: dict[str, Any] = {"metric": look.metric, "confidence": look.confidence}
    table = varied.variability_table(study.frame, look.rng(), **options)
    jackknife = f"{made._level}, jackknife over runs"
    what = f"{look.label[0].lower()}{look.label[1:]}".replace(" (%)", "")
    linear = study.declaration.study.name == "variability-linear"
    if not linear:
        for name, value, label, interval in (
            ("variability", "accuracy_sd", f"SD of {what} (points)", made.over_runs),
            ("variability-disagreement", "disagreement", "Samples disagreed on (%)", jackknife),
        ):
            made.figure(
                name,
                f"{label.split(' (')[0]} between runs that differ in one thing alone",
                table,
                lambda width, value=value, label=label: _figure(  # type: ignore[misc]
                    figures.variability_plot(
                        table,
                        figures.sized_axes(width, figures.variability_height(table)),
                        value=value,
                        label=label,
                    )
                ),
                note="Everything else is held at one seed; dashed: runs that differ in every draw.",
                interval=interval,
            )
    name = study.declaration.study.name
    counts = ["method", "source", "n", *_shown_counts(table, "n_diverged")]
    made.table(
        name,
        "Spread of accuracy and cross-entropy, by what differs between runs",
        table,
        [*counts, "accuracy_sd", "accuracy_sd_error", "loss_sd", "loss_sd_error", "ratio"],
        note=f"{look.label}; errors by bootstrap.",
        interval=f"{made.over_runs}; of the ratio by F",
        digits=2,
    )
    made.table(
        f"{name}-pairs",
        "How pairs of runs differ, by what differs between them",
        table,
        [*counts, *varied.PAIRS],
        note="Predictions of two runs on the validation samples; the gain is in accuracy, by "
        "averaging their probabilities.",
        interval=jackknife,
        digits=2,
    )
    reduced = varied.reduction_table(study.frame, **options)
    if len(reduced):
        made.table(
            "variability-reduction",
            "How much less runs with augmentation vary than runs without",
            reduced,
            note="Mean over the five metrics of 1 − v/v of Vanilla, for the correlation of 1 − ρ.",
            interval=f"{made._level}, jackknife over the runs of both",
        )
    return made.exhibits


# Figures of `mechanism`: name, title, metrics, logarithmic, one scale for all panels.
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


def mechanism(study: StudyResult, look: Look, measured: StudyResult) -> Exhibits:
    """Figures mechanism-cosines, -coherence, -violations, -curvature, -first-layer, -mediation;
    tables mechanism-gradients, -violations, -curvature, -mediation.

    measured: from `results.measured`.
    """
    made = _Collector(study, look)
    name = study.declaration.study.name
    prefix = "" if name == "mechanism" else f"{name}-"
    table = measures.metric_table(measured.frame, look.rng(), confidence=look.confidence)
    samples = int(measured.frame["probe_samples"].iloc[0])
    strength = float(measured.frame["probe_strength"].iloc[0])
    probe = (
        f"Measured on a fixed probe batch of {samples} training samples, in eval mode; adjustments "
        f"at the strength of the arm, for {measures.CONTROL} {strength:g}."
    )
    # Coherence of orthogonal gradients: one over their number.
    orthogonal = {"mechanism-coherence": [1 / samples] * 3 + [1 / (3 * samples)]}
    for stem, title, metrics, log, share in _CURVES:
        made.figure(
            prefix + stem,
            title,
            table[table["metric"].isin(metrics)].reset_index(drop=True),
            lambda width, stem=stem, metrics=metrics, log=log, share=share: (  # type: ignore[misc]
                figures.metric_panels(
                    table,
                    metrics,
                    width=width,
                    log=log,
                    share=share,
                    levels=orthogonal.get(stem, ()),
                )
            ),
            note=probe + " Dotted: where all gradients are orthogonal." * (stem in orthogonal),
            interval=made.over_runs,
            width="double",
        )
    for stem, title, metrics, digits in (
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
    ):
        made.table(
            prefix + stem,
            title,
            measures.last_table(table, metrics),
            note=probe,
            interval=made.over_runs,
            digits=digits,
        )
    mediated = measures.mediation_table(
        study.frame, measured.frame, look.rng(), metric=look.metric, confidence=look.confidence
    )
    if len(mediated):
        note = (
            f"{look.label} against {measures.CONTROL}; mediators after the last step, eigenvalue, "
            "trace and first layer on clean samples. Neither they nor the accuracy are randomised; "
            "p by Holm over the whole table."
        )
        interval = f"{100 * look.confidence:g} %, smoothed bootstrap over runs within arms"
        made.figure(
            f"{prefix}mechanism-mediation",
            "Effect on accuracy that goes through each mediator",
            mediated,
            lambda width: _figure(
                figures.mediation_plot(
                    mediated, figures.sized_axes(width, figures.mediation_height(mediated))
                )
            ),
            note=note + " Filled marks: consistent with mediation.",
            interval=interval,
        )
        made.table(
            f"{prefix}mechanism-mediation",
            "Effect on accuracy that goes through each mediator",
            mediated,
            ["mediator", "arm", "a", "b", "indirect", "total", "p_holm", "verdict"],
            note=note,
            interval=interval,
            digits=2,
        )
    return made.exhibits


def mechanism_sentences(study: StudyResult, look: Look, measured: StudyResult) -> list[str]:
    """What the exhibits of `mechanism` say, in words."""
    options: dict[str, Any] = {"confidence": look.confidence}
    return measures.sentences(
        measures.metric_table(measured.frame, look.rng(), **options),
        measures.difference_table(measured.frame, look.rng(), **options),
        measures.mediation_table(
            study.frame, measured.frame, look.rng(), metric=look.metric, **options
        ),
    )
