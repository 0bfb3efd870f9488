"""A stranger's study: does half the batch size help? It declares and shows itself."""

import pandas as pd

from aba_core.arms import Arm
from analysis.exhibits import Exhibit, Exhibits, Look
from analysis.results import StudyResult
from analysis.study import Settings, Study


def declare(settings: Settings) -> Study:
    arms = [Arm("Vanilla"), Arm.of("Swap", method={"use": "swap:Swap", "share": 0.2})]
    config = {"epochs": 1, "model": "mlp"}
    return settings.study("half-data", arms, config=config, seeds=2)


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    means = study.frame.groupby("arm")[look.metric].mean().reset_index()
    frame = pd.DataFrame(means)
    table = Exhibit("half-data", "digits", "half-data", "Means of the arms.", frame, {})
    return Exhibits({}, {"half-data": table})
