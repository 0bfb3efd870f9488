"""Attributions, more: ABA with the maps that `attributions` leaves out, and with those by Captum.

Two maps with their sign lost, one with noise at a layer, and Captum's six, each beside the same map
of another sample. Vanilla and the gradient are the arms of `attributions`. Every run has a subset
of its own, since Captum explains one replica after the other and nothing is saved by sharing.
"""

from __future__ import annotations

from typing import Any

from aba_core.arms import VANILLA, WITH_SAMPLES, Arm
from analysis.exhibits import Exhibits, Look
from analysis.hypothesis import Hypothesis, minus
from analysis.results import StudyResult
from analysis.studies import attributions
from analysis.studies.attributions import GRADIENT, WITHOUT_CONVOLUTION, placebo_of
from analysis.study import FRESH_SEED, Settings, Study
from analysis.study import on_fresh_subsets as fresh

NATIVE = {
    "absolute_smoothgrad": "Absolute SmoothGrad",
    "absolute_integrated_gradients": "Absolute integrated gradients",
    "smooth_grad_cam_plus_plus": "Smooth Grad-CAM++",
}
BY_CAPTUM = {
    "lime": "LIME",
    "kernel_shap": "Kernel SHAP",
    "gradient_shap": "GradientSHAP",
    "deep_lift": "DeepLIFT",
    "feature_ablation": "Feature ablation",
    "lrp": "LRP by Captum",
}
TITLES = {**NATIVE, **BY_CAPTUM}
# Made at every so many steps, with the gradient between: they explain one sample after another, so
# that a step takes tens to hundreds of steps of training. So chosen, 20 subsets of digits take some
# 40 minutes of one core.
EVERY = {"lime": 8, "kernel_shap": 8, "gradient_shap": 2}
EVERY_ELSEWHERE = {"lime": 20, "kernel_shap": 20, "gradient_shap": 5, "feature_ablation": 20}
SMALL = ("digits", "breast-cancer")
# With thousands of numbers a sample, of which no map can change one after another.
WIDE = {"cifar10": "3,072", "news": "10,000 and more"}
ONE_BY_ONE = ("lime", "kernel_shap", "feature_ablation")
# For whose layers Captum's LRP has no rule.
WITHOUT_RULE = ("text_cnn",)


def declare(settings: Settings) -> Study:
    """Each map and its placebo, beside Vanilla and the gradient, on fresh subsets."""
    titles = compared(settings)
    n = settings.planned["attributions-more"]
    return settings.study(
        "attributions-more",
        fresh(arms(settings, titles)),
        hypotheses=tuple(Hypothesis(n=n, **said) for said in _of_maps(list(titles.values()))),
        seeds=tuple(range(FRESH_SEED, FRESH_SEED + settings.seeds["attributions-more"])),
        room="analysis.studies.attributions_more:exhibits",
        note=note(settings),
    )


def compared(settings: Settings) -> dict[str, str]:
    """{method: title} of the maps that the data and the model allow."""
    return {method: title for method, title in TITLES.items() if not _why_not(settings, method)}


def _why_not(settings: Settings, method: str) -> str:
    """Why a map is left out; "" where it is not."""
    dataset, model = settings.dataset, settings.config["model"]
    if method == "smooth_grad_cam_plus_plus" and model in WITHOUT_CONVOLUTION:
        return f"made at a convolution, which {model} does not have"
    if method in ONE_BY_ONE and dataset in WIDE:
        return f"made by changing the {WIDE[dataset]} numbers of a sample one by one"
    if method == "lrp" and model in WITHOUT_RULE:
        return f"without rules for all layers of {model}"
    return ""


def note(settings: Settings) -> str:
    """Which maps are left out and why, and which are made at some steps only."""
    because: dict[str, list[str]] = {}
    for method, title in TITLES.items():
        if reason := _why_not(settings, method):
            because.setdefault(reason, []).append(title)
    said = [f"Not compared, since {why}: {', '.join(them)}." for why, them in because.items()]
    for number in sorted(set(every(settings).values())):
        them = ", ".join(TITLES[m] for m, other in every(settings).items() if other == number)
        said.append(f"Made at one step in {number}, with the gradient between: {them}.")
    return " ".join([*said, "Maps by Captum need the extra captum."])


def every(settings: Settings) -> dict[str, int]:
    """{method: at every how many steps it is made}, of those that are not made at each."""
    there = compared(settings)
    chosen = EVERY if settings.dataset in SMALL else EVERY_ELSEWHERE
    return {method: number for method, number in chosen.items() if method in there}


def arms(settings: Settings, titles: dict[str, str]) -> tuple[Arm, ...]:
    """titles: {method: title}. The set, strength and target are those of `attributions`."""
    preset, slow = settings.preset, every(settings)
    samples = attributions.SAMPLES.get(preset, attributions.SAMPLES["standard"])

    def of(name: str, method: str, **further: Any) -> Arm:
        used: Any = method
        if method in BY_CAPTUM:
            used = {"use": f"aba_core.attribution_captum:{method}"}
            if method in slow:
                used["every"] = slow[method]
        given = {"adjustments": "all", **settings.loss, "attribution": used, **further}
        if method in WITH_SAMPLES or method == "gradient_shap":
            given["attribution_samples"] = samples
        return Arm.of(name, **given)

    return (
        Arm.of(VANILLA, method="vanilla"),
        of(GRADIENT, "gradient"),
        *(of(title, method) for method, title in titles.items()),
        *(of(placebo_of(title), m, placebo="other_sample") for m, title in titles.items()),
    )


def _of_maps(titles: list[str]) -> list[dict[str, Any]]:
    return [
        dict(
            name="every-further-map-helps",
            statement="All adjustments beat training without, whichever further map, by Captum or "
            "not, they are led by.",
            estimand="mean accuracy of All with each further map less that of Vanilla",
            comparisons=tuple(minus(title, VANILLA) for title in titles),
        ),
        dict(
            name="further-maps-beat-placebos",
            statement="Some further map beats the same map of another sample.",
            estimand="mean accuracy of All with each further map less that with another sample's, "
            "a family",
            comparisons=tuple(minus(title, placebo_of(title)) for title in titles),
            rule="any",
        ),
        dict(
            name="some-further-map-beats-gradient",
            statement="Some further map beats the gradient, at as many steps.",
            estimand="mean accuracy of All with each further map less that with the gradient",
            comparisons=tuple(minus(title, GRADIENT) for title in titles),
            rule="any",
        ),
    ]


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    """The verdicts, and figure and table attributions-more."""
    maps = [GRADIENT, *TITLES.values()]
    return attributions.shown(study, look, "attributions-more", maps, ["gain", "placebo"])
