"""A stranger's study: does Swap help after one epoch? It declares and shows itself."""

from aba_core.arms import Arm
from analysis.exhibits import Collector, Exhibits, Look
from analysis.results import StudyResult
from analysis.study import Settings, Study


def declare(settings: Settings) -> Study:
    arms = [Arm("Vanilla"), Arm.of("Swap", method={"use": "swap:Swap", "share": 0.2})]
    config = {"epochs": 1, "model": "mlp"}
    return settings.study("half-data", arms, config=config, seeds=2)


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    collected = Collector(study, look)
    means = study.frame.groupby("arm", sort=False)[look.metric].mean().reset_index()
    collected.table("half-data", "Mean of each arm", means)
    return collected.exhibits
