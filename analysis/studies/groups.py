"""Groups: what the three groups of adjustments do to trained models, declared as hypotheses.

Models are trained on fresh training subsets, without augmentation and with MendABA, and then
evaluated under every adjustment. A model is the unit. Where the map is that of a class score, the
published text says that the groups change places. The toolkit turns such maps round, to the sense
of the loss (`aba_core.attribution`), so that groups which change places keep their names here.
"""

from __future__ import annotations

from typing import Any

from aba_core.arms import METHODS, VANILLA, Arm
from analysis.exhibits import Exhibits, Look
from analysis.hypothesis import Contrast, Hypothesis, group_arm
from analysis.results import AGAINST, StudyResult
from analysis.studies import frozen, hypotheses
from analysis.study import FRESH_SEED, Frozen, Settings, Study
from analysis.study import on_fresh_subsets as fresh

# The smallest change of the mean loss worth speaking of; the share of adjustments (percent) that
# may go against their group by chance or slip.
NATS, SHARE = 0.05, 5.0


def declare(settings: Settings) -> Study:
    """Vanilla and MendABA on fresh subsets, evaluated with maps of the loss."""
    return _study(settings, "groups", "loss", _of_loss(settings.strength["isolation"]))


def declare_with_true_class(settings: Settings) -> Study:
    """The same models, evaluated with maps of the score of the true class."""
    said = _of_class_score(settings.strength["isolation"], "of the true class", "")
    return _study(settings, "groups-true-class", "true_class", said)


def declare_with_drawn_class(settings: Settings) -> Study:
    """The same models, evaluated with maps of the score of a class drawn among those rated highest,
    as in training with target "class_score"."""
    said = _of_class_score(
        settings.strength["isolation"], "of one of the four classes rated highest", "-as-trained"
    )
    return _study(settings, "groups-drawn-class", "class_score", said)


def _study(settings: Settings, name: str, target: str, said: list[dict[str, Any]]) -> Study:
    arms = (
        Arm.of(VANILLA, method="vanilla"),
        Arm.of(METHODS["mendaba"].title, method="mendaba", **settings.loss),
    )
    n, strength = settings.seeds["groups"], settings.strength["isolation"]
    return settings.study(
        name,
        fresh(arms),
        frozen=Frozen(strengths=(0.0, strength), target=target),
        hypotheses=tuple(Hypothesis(n=settings.planned["groups"], **one) for one in said),
        seeds=tuple(range(FRESH_SEED, FRESH_SEED + n)),
        room="analysis.studies.groups:exhibits",
    )


# --- what is claimed -----------------------------------------------------------------------------


def _of_loss(strength: float) -> list[dict[str, Any]]:
    at = {group: group_arm(VANILLA, group, strength) for group in ("Epsilon", "Neutral", "Delta")}
    change: dict[str, Any] = {"quantity": "loss_change", "measure": "nats", "margin": NATS}
    of = "mean change of a trained Vanilla model's validation loss, over nine adjustments"
    return [
        dict(
            name="epsilon-raises-the-loss",
            statement="Epsilon adjustments raise the loss of a trained model.",
            estimand=of,
            comparisons=(Contrast(label="change under Epsilon", weights={at["Epsilon"]: 1.0}),),
            **change,
        ),
        dict(
            name="delta-lowers-the-loss",
            statement="Delta adjustments lower the loss of a trained model.",
            estimand=of,
            comparisons=(Contrast(label="change under Delta", weights={at["Delta"]: 1.0}),),
            direction="less",
            **change,
        ),
        dict(
            name="neutral-keeps-the-loss",
            statement="Neutral adjustments change the loss of a trained model by less than a "
            "quarter of what Epsilon adjustments do.",
            estimand=f"a quarter of the {of} of Epsilon, less and plus the same of Neutral",
            comparisons=tuple(
                Contrast(
                    label=f"Epsilon / 4 {sign} Neutral",
                    weights={at["Epsilon"]: 0.25, at["Neutral"]: weight},
                )
                for sign, weight in (("−", -1.0), ("+", 1.0))
            ),
            **{**change, "margin": 0.0},
        ),
        dict(
            name="groups-are-a-tendency",
            statement="Some adjustments go against their group: the group is a tendency only.",
            estimand="share of a trained model's Epsilon and Delta adjustments that change its "
            "loss the other way",
            comparisons=(
                Contrast(
                    label="adjustments against their group",
                    weights={at["Epsilon"]: 0.5, at["Delta"]: 0.5},
                ),
            ),
            quantity=AGAINST,
            measure="%",
            margin=SHARE,
        ),
    ]


def _of_class_score(strength: float, of: str, suffix: str) -> list[dict[str, Any]]:
    """of: whose score, in words. suffix: of the hypothesis' name."""
    at = {group: group_arm(VANILLA, group, strength) for group in ("Epsilon", "Delta")}
    return [
        dict(
            name=f"groups-change-places{suffix}",
            statement=f"With maps of the score {of} the groups change places: Delta adjustments "
            "raise the loss of a trained model, and Epsilon adjustments lower it.",
            estimand="mean change of a trained Vanilla model's validation loss, over nine "
            "adjustments, on maps turned round to the sense of the loss; so Epsilon here is Delta "
            "of the map as it is, and the other way round",
            comparisons=(
                Contrast(label="change under Delta of the score", weights={at["Epsilon"]: 1.0}),
                Contrast(label="− change under Epsilon of the score", weights={at["Delta"]: -1.0}),
            ),
            quantity="loss_change",
            measure="nats",
            margin=NATS,
        ),
    ]


# --- what is shown -------------------------------------------------------------------------------


def exhibits(study: StudyResult, look: Look) -> Exhibits:
    """The verdicts, and what the room of frozen models shows."""
    shown = hypotheses.exhibits(study, look, hypotheses.judge(study, look))
    curves = frozen.exhibits(study, look)
    return Exhibits({**curves.figures, **shown.figures}, {**curves.tables, **shown.tables})
