"""Evaluation images: how much a comparison owes to which samples its models are evaluated on.

Some studies keep what every run gets right, image by image (`Study.keep_correct`). A comparison of
the same arms on the same data, in whatever study, takes the share of the images from there, and
gets an interval beside its own that holds for other evaluation images too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import comparisons
from analysis import results as store
from analysis.comparisons import Grid
from analysis.results import StudyResult
from analysis.scopes import interval_of_parts
from analysis.statistics import CONFIDENCE, Interval
from analysis.study import Study

Array = NDArray[np.float64]

# Fields of a study's config that change nothing of what is trained.
_MEASURED = ("mechanism", "probe_strength", "card", "curve_every", "metrics")


@dataclass(frozen=True)
class ImagesPart:
    """What the choice of evaluation images adds to the variance of a contrast's mean (points²), its
    degrees of freedom, and the study that tells it."""

    variance: float
    freedom: int
    study: str


# From the weights of a contrast to what images add to it; None where nothing tells.
OfImages = Callable[[Mapping[str, float]], ImagesPart | None]


def images_part(differences: Array, study: str = "") -> ImagesPart:
    """differences: [block, image], see `scopes.over_images`; the variance component of the images
    over their number, by mean squares, and not below 0."""
    blocks, images = differences.shape
    grand = differences.mean()
    by_block = differences.mean(axis=1, keepdims=True) - grand
    by_image = differences.mean(axis=0, keepdims=True) - grand
    rest = differences - grand - by_block - by_image
    of_images = blocks * float((by_image**2).sum()) / (images - 1)
    of_rest = float((rest**2).sum()) / ((blocks - 1) * (images - 1))
    return ImagesPart(max(0.0, (of_images - of_rest) / differences.size), images - 1, study)


def with_images(
    grid: Grid, weights: Mapping[str, float], part: ImagesPart, confidence: float = CONFIDENCE
) -> Interval:
    """Interval of Σ weight · mean for other evaluation images as well as for all that the usual
    one holds for, and never narrower. Degrees of freedom are Satterthwaite's. Raises
    ComparisonError."""
    means = comparisons.means_of(grid, list(weights))
    values = np.array(list(weights.values()))
    error, freedom = (float(one[0]) for one in means.errors(values[None]))
    parts = np.array([error**2, part.variance])
    freedoms = np.array([min(freedom, 1e9), float(part.freedom)])
    estimate = float(means.mean @ values)

    def interval(count: int) -> Interval:
        total = float(parts[:count].sum())
        return interval_of_parts(
            estimate, total, parts[:count], freedoms[:count], means.n, confidence
        )

    wide, usual = interval(2), interval(1)
    return wide if wide.high > usual.high else usual


# --- what studies kept ---------------------------------------------------------------------------


def of_study(study: StudyResult, metric: str) -> OfImages:
    """What images add to contrasts of a study's arms, from any study of the same folder and data
    set that kept them. Nothing, where the metric is no accuracy or the study has no folder."""
    split, _, quantity = metric.partition("_")
    path = study.declaration.path
    if path is None or quantity != "accuracy" or study.declaration.study.frozen:
        return lambda weights: None
    own = study.declaration.study
    kept: list[StudyResult] | None = None

    def part(weights: Mapping[str, float]) -> ImagesPart | None:
        nonlocal kept
        if kept is None:
            kept = _kept(path.parent.parent, own)
        for one in kept:
            values = _right(one, own, weights, split)
            if values is not None:
                return images_part(values, one.declaration.study.name)
        return None

    return part


def _kept(folder: Path, own: Study) -> list[StudyResult]:
    """Studies of the folder that kept what runs get right, trained as this one; with most runs
    first."""
    changed = (folder / name for name in ("studies", "runs", "manifest"))
    stamp = tuple(path.stat().st_mtime_ns for path in changed if path.is_dir())
    found = _kept_on(folder, own.dataset, stamp)
    return [result for result in found if _trained(result.declaration.study) == _trained(own)]


@lru_cache(maxsize=4)
def _kept_on(folder: Path, dataset: str, stamp: tuple[int, ...]) -> tuple[StudyResult, ...]:
    """The same of one data set. stamp: when the folder last changed, so that it is read again
    then."""
    found = []
    for declaration in store.declarations(folder):
        other = declaration.study
        if other.keep_correct and other.dataset == dataset:
            rows, damaged = store.read_rows(folder, declaration.kind, list(declaration.keys))
            found.append(store.collect(declaration, rows, damaged))
    return tuple(sorted(found, key=lambda result: -len(result.frame)))


def _trained(study: Study) -> dict[str, Any]:
    return {name: value for name, value in study.config.items() if name not in _MEASURED}


def _right(kept: StudyResult, own: Study, weights: Mapping[str, float], split: str) -> Array | None:
    """[block, image]: 100 · Σ weight · right, averaged over a subset's seeds, where all arms are
    the same in both studies and share three subsets or more; else None."""
    column = f"{split}_correct"
    theirs = {arm.name: arm.data() for arm in kept.declaration.study.arms}
    ours = {arm.name: arm.data() for arm in own.arms}
    if column not in kept.frame or any(
        name not in theirs or _arm(theirs[name]) != _arm(ours.get(name, {})) for name in weights
    ):
        return None
    total: dict[int, Array] = {}
    shared: set[int] | None = None
    for name, weight in weights.items():
        by_subset = _by_subset(kept.frame, name, split)
        shared = set(by_subset) if shared is None else shared & set(by_subset)
        for subset, right in by_subset.items():
            total[subset] = total.get(subset, 0.0) + weight * right
    blocks = [total[subset] for subset in sorted(shared or ())]
    return np.array(blocks) if len(blocks) >= comparisons.LEAST_BLOCKS else None


def _arm(data: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's plain data but for how seeds share subsets."""
    return {name: value for name, value in data.items() if name != "seeds_per_subset"}


def _by_subset(frame: pd.DataFrame, arm: str, split: str) -> dict[int, Array]:
    """{subset: how often each image is right, in percent of the seeds}."""
    part = frame[(frame["arm"] == arm) & (frame["status"] == "finished")]
    found: dict[int, list[Array]] = {}
    kept = zip(part["subset_seed"], part[f"{split}_correct"], part[f"{split}_samples"], strict=True)
    for subset, bits, samples in kept:
        right = np.unpackbits(np.frombuffer(bits, np.uint8))[: int(samples)]
        found.setdefault(int(subset), []).append(100.0 * right.astype(np.float64))
    return {subset: np.mean(runs, axis=0) for subset, runs in found.items()}
