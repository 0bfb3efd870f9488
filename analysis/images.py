"""Evaluation images: how much a comparison owes to which samples its models are evaluated on.

Some studies keep what every run gets right, image by image (`Study.keep_correct`). A comparison of
the same arms on the same data, in whatever study, takes the share of the images from there, and
gets an interval beside its own that holds for other evaluation images too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
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

    @cache
    def kept() -> list[Kept]:
        return _kept(path.parent.parent, own)

    @cache
    def ours() -> dict[str, dict[str, Any]]:
        return _arms(own)

    def part(weights: Mapping[str, float]) -> ImagesPart | None:
        for one in kept():
            if all(name in one.arms and one.arms[name] == ours().get(name) for name in weights):
                values = one.differences(weights, split)
                if values is not None:
                    return images_part(values, one.result.declaration.study.name)
        return None

    return part


@dataclass(frozen=True)
class Kept:
    """A study that kept what its runs get right: read once, image by image, for all comparisons."""

    result: StudyResult

    @cached_property
    def arms(self) -> dict[str, dict[str, Any]]:
        """{name: plain data}, see `_arms`."""
        return _arms(self.result.declaration.study)

    def differences(self, weights: Mapping[str, float], split: str) -> Array | None:
        """[block, image]: 100 · Σ weight · right, averaged over a subset's seeds; None where the
        arms share fewer than three subsets."""
        if f"{split}_correct" not in self.result.frame:
            return None
        each = [self._right(name, split) for name in weights]
        shared = sorted(set.intersection(*(set(subsets) for subsets, _ in each)))
        if len(shared) < comparisons.LEAST_BLOCKS:
            return None
        total: Array | float = 0.0
        for weight, (subsets, right) in zip(weights.values(), each, strict=True):
            place = {subset: row for row, subset in enumerate(subsets)}
            total = total + weight * right[[place[subset] for subset in shared]]
        return np.asarray(total)

    @cached_property
    def _rows(self) -> dict[str, NDArray[np.int64]]:
        """The rows of each arm's finished runs."""
        frame = self.result.frame
        finished = (frame["status"] == "finished").to_numpy()
        found = frame.groupby("arm", sort=False).indices
        return {str(arm): np.asarray(rows)[finished[rows]] for arm, rows in found.items()}

    @cached_property
    def _means(self) -> dict[tuple[str, str], tuple[list[int], Array]]:
        return {}

    def _right(self, arm: str, split: str) -> tuple[list[int], Array]:
        """Subsets, and for each how often every image is right, in percent of its seeds. [subset,
        image]"""
        if (arm, split) not in self._means:
            rows = self.result.frame.iloc[self._rows.get(arm, [])]
            runs: dict[int, list[NDArray[np.uint8]]] = {}
            columns = ("subset_seed", f"{split}_correct", f"{split}_samples")
            for subset, bits, samples in zip(*(rows[name] for name in columns), strict=True):
                right = np.unpackbits(np.frombuffer(bits, np.uint8), count=int(samples))
                runs.setdefault(int(subset), []).append(right)
            means = [100.0 * np.sum(some, axis=0) / len(some) for some in runs.values()]
            self._means[arm, split] = list(runs), np.array(means)
        return self._means[arm, split]


def _kept(folder: Path, own: Study) -> list[Kept]:
    """Studies of the folder that kept what runs get right, trained as this one; with most runs
    first."""
    changed = (folder / name for name in ("studies", "runs", "manifest"))
    stamp = tuple(path.stat().st_mtime_ns for path in changed if path.is_dir())
    found = _kept_on(folder, own.dataset, stamp)
    return [one for one in found if _trained(one.result.declaration.study) == _trained(own)]


@lru_cache(maxsize=4)
def _kept_on(folder: Path, dataset: str, stamp: tuple[int, ...]) -> tuple[Kept, ...]:
    """The same of one data set. stamp: when the folder last changed, so that it is read again
    then."""
    found = []
    for declaration in store.declarations(folder, dataset=dataset):
        if declaration.study.keep_correct:
            rows, damaged = store.read_rows(folder, declaration.kind, list(declaration.keys))
            found.append(store.collect(declaration, rows, damaged))
    return tuple(map(Kept, sorted(found, key=lambda result: -len(result.frame))))


def _trained(study: Study) -> dict[str, Any]:
    return {name: value for name, value in study.config.items() if name not in _MEASURED}


def _arms(study: Study) -> dict[str, dict[str, Any]]:
    """{name: plain data} of a study's arms, but for how seeds share subsets."""
    return {
        arm.name: {name: value for name, value in arm.data().items() if name != "seeds_per_subset"}
        for arm in study.arms
    }
