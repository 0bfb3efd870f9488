"""Architectures: ABA and hand-crafted augmentation with a residual network and with a transformer.

A reduced form of the published comparison on Tiny ImageNet. Each block of runs has 20 classes of
its own, drawn by the seed, with their own pictures to train on, to validate and to test. Strengths
are the published ones; neither network's training was tuned with a method.
"""

from __future__ import annotations

from typing import Any

from aba_core.arms import METHODS, VANILLA, Arm
from analysis import reference
from analysis.hypothesis import Contrast, Hypothesis
from analysis.study import FRESH_SEED, Settings, Study
from analysis.study import on_fresh_subsets as fresh

MENDABA, FASTABA = METHODS["mendaba"].title, METHODS["fastaba"].title
HAND_CRAFTED = METHODS["randaugment"].title
BOTH = f"{HAND_CRAFTED} + {MENDABA}"
RESNET, VIT = "ResNet", "ViT"
PUBLISHED = {RESNET: "ResNet50", VIT: "ViT Base 16"}
MARGIN = 1.0  # point of accuracy


def name_of(method: str, network: str) -> str:
    """An arm's name."""
    return f"{method}, {network}"


def declare(settings: Settings) -> Study:
    """Vanilla, two methods, hand-crafted augmentation, and both, with either network."""
    arms = []
    for network, config in settings.networks.items():
        mendaba = {"kind": "mendaba", "strength": strength_of("mendaba", network)}
        fastaba = {"kind": "fastaba", "strength": strength_of("fastaba", network)}
        methods: dict[str, Any] = {
            VANILLA: None,
            MENDABA: mendaba,
            FASTABA: fastaba,
            HAND_CRAFTED: {"kind": "randaugment"},
            BOTH: [{"kind": "randaugment"}, mendaba],  # maps are of the changed pictures
        }
        arms += [
            Arm(name_of(title, network), method, config=tuple(config.items()))
            for title, method in methods.items()
        ]
    first = FRESH_SEED
    return settings.study(
        "architectures",
        fresh(arms),
        hypotheses=declared(settings.planned["architectures"]),
        seeds=tuple(range(first, first + settings.seeds["architectures"])),
        baseline=name_of(VANILLA, RESNET),
    )


def strength_of(method: str, network: str) -> float:
    """The published strength on Tiny ImageNet without RandAugment."""
    table = reference.published_table("benchmark_large")
    alone = (table["model"] == PUBLISHED[network]) & (table["randaugment"] == "No")
    (strength,) = table.loc[alone & (table["method"] == method), "strength"].to_numpy(float)
    return float(strength)


def declared(n: int) -> tuple[Hypothesis, ...]:
    """What the study is to decide, on n sets of classes."""
    every = (RESNET, VIT)

    def gain(network: str, weight: float = 1.0) -> dict[str, float]:
        """The mean gain of the two methods over Vanilla."""
        return {
            name_of(MENDABA, network): weight / 2,
            name_of(FASTABA, network): weight / 2,
            name_of(VANILLA, network): -weight,
        }

    def against(network: str) -> Contrast:
        weights = {name: -w for name, w in gain(network).items() if w > 0}
        label = f"{HAND_CRAFTED} − ABA, {network}"
        return Contrast(label=label, weights={name_of(HAND_CRAFTED, network): 1.0, **weights})

    def added(network: str) -> Contrast:
        return Contrast(
            label=f"{BOTH} − {HAND_CRAFTED}, {network}",
            weights={name_of(BOTH, network): 1.0, name_of(HAND_CRAFTED, network): -1.0},
        )

    said: tuple[dict[str, Any], ...] = (
        dict(
            name="helps-with-either-network",
            statement="ABA beats training without it, with a residual network and a transformer.",
            estimand="mean accuracy of MendABA and FastABA less that of Vanilla, each network",
            comparisons=tuple(
                Contrast(label=f"ABA − {VANILLA}, {network}", weights=gain(network))
                for network in every
            ),
        ),
        dict(
            name="randaugment-is-hard-to-beat",
            statement="RandAugment-like augmentation is at least as good as ABA.",
            estimand="mean accuracy of RandAugment-like augmentation less that of MendABA and "
            "FastABA, each network",
            comparisons=tuple(map(against, every)),
            direction="not worse",
        ),
        dict(
            name="adds-to-randaugment",
            statement="MendABA after RandAugment-like augmentation beats the latter alone.",
            estimand="mean accuracy of both less that of RandAugment-like augmentation, each "
            "network, a family",
            comparisons=tuple(map(added, every)),
            rule="any",
        ),
        dict(
            name="gain-is-larger-for-the-transformer",
            statement="The gain of ABA over Vanilla is larger for the transformer.",
            estimand="mean gain of MendABA and FastABA over Vanilla with the transformer, less "
            "that with the residual network",
            comparisons=(
                Contrast(
                    label=f"gain with {VIT} − gain with {RESNET}",
                    weights={**gain(VIT), **gain(RESNET, -1.0)},
                ),
            ),
        ),
    )
    return tuple(Hypothesis(n=n, margin=MARGIN, **one) for one in said)
