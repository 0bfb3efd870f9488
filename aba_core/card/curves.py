"""Curves behind a card's numbers, as tables: what one model's card is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd


def curves_of(details: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """The curves of one model, of the aspects that were measured, by name; percentages in all.

    reliability, and reliability_tempered after temperature: confidence, accuracy, samples; a row
    for each bin that has samples.
    risk_coverage: coverage, error among the surest.
    attacks: epsilon, accuracy under PGD-20; the first row has the unchanged samples.
    margins: distance to the boundary to first order (below 0: on the wrong side), and the share of
    test samples that are at most so far.
    corruption: kind, severity, accuracy.
    adjustments: adjustment, group, change of EL2N and of GraNd; not in percent.
    """
    return {name: make(details[of]) for name, (of, make) in _MADE.items() if of in details}


def _reliability(bins: Mapping[str, Any]) -> pd.DataFrame:
    samples, confidence, accuracy = (
        bins[name][0].double().cpu().numpy() for name in ("samples", "confidence", "accuracy")
    )
    table = pd.DataFrame({"confidence": 100 * confidence, "accuracy": 100 * accuracy})
    return table.assign(samples=samples.astype(int))[samples > 0].reset_index(drop=True)


def _risk_coverage(errors: Any) -> pd.DataFrame:
    error = errors[0].double().cpu().numpy()
    return pd.DataFrame({"coverage": _shares(error), "error": error})


def _attacks(curve: Mapping[str, Any]) -> pd.DataFrame:
    accuracy = curve["accuracy"][0].double().cpu().numpy()
    return pd.DataFrame({"epsilon": curve["epsilon"], "accuracy": accuracy})


def _margins(distances: Any) -> pd.DataFrame:
    distance = np.sort(distances[0].double().cpu().numpy())
    return pd.DataFrame({"distance": distance, "share": _shares(distance)})


def _shares(values: np.ndarray) -> np.ndarray:
    """Of the first value, the first two, and so on to all, in percent."""
    return 100 * np.arange(1, len(values) + 1) / len(values)


def _corruption(found: Mapping[str, Any]) -> pd.DataFrame:
    accuracy = found["accuracy"][..., 0].double().cpu().numpy()
    return pd.DataFrame(
        [
            {"kind": kind, "severity": place + 1, "accuracy": value}
            for kind, row in zip(found["kinds"], accuracy, strict=True)
            for place, value in enumerate(row)
        ]
    )


_MADE: dict[str, tuple[str, Callable[[Any], pd.DataFrame]]] = {
    "reliability": ("reliability", _reliability),
    "reliability_tempered": ("reliability_tempered", _reliability),
    "risk_coverage": ("risk_coverage", _risk_coverage),
    "attacks": ("attack_curve", _attacks),
    "margins": ("margins", _margins),
    "corruption": ("corruption", _corruption),
    "adjustments": ("adjustments", pd.DataFrame),
}
