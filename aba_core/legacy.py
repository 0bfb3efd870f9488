"""The keys that runs had before identity was plain data: a frozen template, never to be changed.

Results shipped and kept under these keys stay where they are; a run is looked up under its present
key and under this one.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aba_core.arms import Arm, TrainConfig
from aba_core.identity import short_hash

# Fields that came after the first results: at these values they were no part of a key.
_LATER: dict[str, Any] = {
    "placebo": None,
    "subset_per_run": False,
    "flip_bit": False,
    "seed_offset": 0,
    "hypotheses": [],
    "keep_logits": False,
    "tokens": 0,
    "mechanism": 0,
    "probe_strength": 0.5,
    "precision": "full",
    "trainer": "replicas",
}


def _without_later(content: dict[str, Any]) -> dict[str, Any]:
    return {n: v for n, v in content.items() if n not in _LATER or v != _LATER[n]}


def legacy_key(
    config: TrainConfig, arm: Arm, method: Any, seed: int, fingerprint: str, study: dict[str, Any]
) -> str | None:
    """The key that this run had; None where it could not have been asked for then.

    method: the arm's, resolved. study: what of the study decides rows: frozen, keep_logits.
    """
    if not isinstance(config.dataset, str) or not isinstance(config.model, str):
        return None
    if config.metrics or config.card is not None:
        return None
    if config.single is not None:
        return None
    if method is not None and (method.kind != "aba" or method.site != "input"):
        return None
    if arm.config or arm.seeds_per_subset != 1:
        return None
    if method is not None and (method.member_per != "draw" or method.signed):
        return None
    fields = asdict(config)
    del fields["metrics"], fields["card"]
    content = {"engine": 1, "config": _without_later(fields), "data": fingerprint}
    definition = {
        "augmentation": "None" if method is None else _augmentation_text(method),
        "learning_rate": arm.learning_rate or config.learning_rate,
        "held": arm.held,
        "placebo": (method.placebo if method is not None else "") or None,
        "subset_per_run": arm.subset_per_run,
        "flip_bit": arm.flip_bit,
        "seed_offset": arm.seed_offset,
    }
    return short_hash(
        _without_later({**content, **study, "arm": _without_later(definition), "seed": seed})
    )


def _augmentation_text(m: Any) -> str:
    members = ", ".join(_member_text(member) for member in m.adjustments.adjustments)
    weights = ", ".join(repr(weight) for weight in m.adjustments.weights)
    comma = "," if len(m.adjustments) == 1 else ""
    quantiles = getattr(m.split, "quantiles", None)
    return (
        f"Augmentation(adjustments=AdjustmentSet(adjustments=({members}{comma}), "
        f"weights=({weights}{comma})), strength={float(m.strength)!r}, randomize={m.randomize!r}, "
        f"split={'SignSplit()' if quantiles is None else f'Percentiles(quantiles={quantiles!r})'}, "
        f"attribution={m.attribution!r}, target={m.target!r}, top_k={m.top_k or 4!r}, "
        f"draw_per={m.draw_per!r}, target_per={m.target_per!r}, "
        f"attribution_mode={m.attribution_mode!r}, update_statistics={m.update_statistics!r}, "
        f"attribution_samples={m.attribution_samples!r}, "
        f"attribution_noise={m.attribution_noise!r})"
    )


def _member_text(member: Any) -> str:
    if isinstance(member, tuple):
        return repr(member)
    low, middle, high = member
    return f"Adjustment(low={low}, middle={middle}, high={high})"
