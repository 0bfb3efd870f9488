"""Large: the published benchmark on Tiny ImageNet and PTB-XL, with full models and in reduced form,
and its table beside ours, each cell measured or with the command and cost that would fill it.

One study for each published row of four methods. The slides name models, epochs and strengths, and
neither optimiser, batch size nor learning rate, nor the model on PTB-XL: those here are usual ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from aba_core.arms import METHODS, VANILLA, Arm
from analysis import reference
from analysis.results import ResultsError, load
from analysis.studies import tasks
from analysis.studies.architectures import (
    BOTH,
    FASTABA,
    HAND_CRAFTED,
    MENDABA,
    RESNET,
    VIT,
    name_of,
)
from analysis.study import FRESH_SEED, Study, StudyError
from analysis.wording import data_title

RUNS = 5  # of each cell, as the slides' medians and deviations suggest
PASSES = {"vanilla": 1.0, "challenger": 1.5, "mendaba": 2.0, "fastaba": 1.75}
# Dense peak of bf16 products in 10¹² operations a second, from the makers' data sheets.
GPUS = {"L4": 121.0, "A100": 312.0, "H100": 989.0}


@dataclass(frozen=True)
class Row:
    """One published row. published: (data set, model, RandAugment) as the table has them. forward:
    multiplications and additions of one sample's forward pass, in 10⁹, on the data's own size.
    reached: the share of a GPU's peak that training is assumed to reach; small inputs reach little,
    depthwise convolutions least. quick: what the reduced form changes of the configuration.
    reduced: {method: the arm that has it} in the smaller study of the same data, `within`."""

    published: tuple[str, str, str]
    dataset: str
    model: Any
    epochs: int
    forward: float
    reached: float
    config: Mapping[str, Any]
    quick: Mapping[str, Any]
    transforms: tuple[str, ...] = ()
    samples: int = 100_000
    metric: str = "accuracy"
    arms: tuple[str, ...] = field(default=tuple(PASSES))
    reduced: Mapping[str, str] = field(default_factory=dict)
    within: tuple[str, str] = ("architectures", "tiny-imagenet-20")

    @property
    def hours(self) -> dict[str, float]:
        """Estimated GPU hours of one Vanilla run: a backward pass counts as two forward ones."""
        operations = 3 * self.forward * 1e9 * self.samples * self.epochs
        return {gpu: operations / (1e12 * peak * self.reached) / 3600 for gpu, peak in GPUS.items()}


def _library(name: str) -> dict[str, str]:
    return {"use": "aba_core.libraries:of_library", "library": "torchvision", "name": name}


def _reduced(network: str) -> dict[str, str]:
    titles = {"vanilla": VANILLA, "mendaba": MENDABA, "fastaba": FASTABA}
    return {method: name_of(title, network) for method, title in titles.items()}


_PICTURES = {"batch_size": 128, "optimizer": "sgd", "learning_rate": 0.05, "weight_decay": 5e-4}
_VIT = {"batch_size": 128, "optimizer": "adam", "learning_rate": 1e-4}
_ECG = {"batch_size": 128, "optimizer": "adam", "learning_rate": 0.003}
_SMALL = {"subset": "tiny", "epochs": 10, "batch_size": 64}
_THIN = {**_SMALL, "model": "resnet18_thin", "batch_norm": True, "learning_rate": 0.02}
ROWS = {
    "large-resnet50": Row(
        ("tiny-imagenet", "ResNet50", "No"), "tiny-imagenet", _library("resnet50"), 100, 0.68, 0.04,
        _PICTURES, _THIN, reduced=_reduced(RESNET),
    ),
    "large-resnet50-ra": Row(
        ("tiny-imagenet", "ResNet50", "Yes"), "tiny-imagenet", _library("resnet50"), 100, 0.68,
        0.04, _PICTURES, _THIN, ("randaugment",),
        reduced={"vanilla": name_of(HAND_CRAFTED, RESNET), "mendaba": name_of(BOTH, RESNET)},
    ),
    "large-efficientnet": Row(
        ("tiny-imagenet", "EfficientB3", "No"), "tiny-imagenet", _library("efficientnet_b3"), 300,
        0.16, 0.01, _PICTURES, _THIN,
    ),
    "large-efficientnet-ra": Row(
        ("tiny-imagenet", "EfficientB3", "Yes"), "tiny-imagenet", _library("efficientnet_b3"), 300,
        0.16, 0.01, _PICTURES, _THIN, ("randaugment",),
    ),
    "large-vit": Row(
        ("tiny-imagenet", "ViT Base 16", "No"), "tiny-imagenet", _library("vit_b_16"), 50, 2.9, 0.2,
        _VIT, {**_SMALL, "model": "tiny_vit", "learning_rate": 1e-3}, reduced=_reduced(VIT),
    ),
    "large-ecg": Row(
        ("ptb-xl", "not stated", "No"), "ptb-xl", "fcn", 50, 0.55, 0.1,
        {**_ECG, "batch_norm": True},
        {"dataset": "ptb-xl-superclass", "subset": "derived-400", "epochs": 8, "batch_size": 32},
        samples=17_418, metric="macro_auc",
        reduced={"vanilla": tasks.TUNED, "mendaba": METHODS["mendaba"].title},
        within=("tasks", "ptb-xl-superclass-25hz"),
    ),
}  # fmt: skip

# Smaller studies whose runs stand in cells that have none of their own.
WITHIN = {row.within[0] for row in ROWS.values() if row.reduced}
# Where runs of these rows, or of their reduced forms, are.
DATASETS = {
    *(row.within[1] for row in ROWS.values()),
    *(dict(row.quick).get("dataset", row.dataset) for row in ROWS.values()),
    *(row.dataset for row in ROWS.values()),
}


def declare(name: str, preset: str = "published") -> Study:
    """The study of one row: with preset "published" all data and the published epochs, with "quick"
    a reduced form that one core trains within an hour. Raises StudyError for other presets."""
    if preset not in ("published", "quick"):
        raise StudyError(f"preset {preset!r} does not exist for {name}; there: quick, published")
    row, strengths = ROWS[name], _published(name)["strength"].to_dict()
    reduced = preset == "quick"
    config: dict[str, Any] = {
        "dataset": row.dataset, "subset": "full", "model": row.model, "epochs": row.epochs,
        "schedule": "cosine", **row.config, "precision": "full" if reduced else "bf16",
    }  # fmt: skip
    config |= dict(row.quick) if reduced else {}
    trainer: dict[str, Any] = {"kind": "single", "checkpoint_every": 20 if reduced else 500}
    if row.transforms:
        trainer["transforms"] = list(row.transforms)
    if not reduced:
        trainer["workers"] = 8
    arms = [
        Arm.of(VANILLA)
        if method == "vanilla"
        else Arm.of(METHODS[method].title, method=method, strength=strengths[method])
        for method in row.arms
    ]
    fresh = {"fresh_subsets": 1} if reduced else {}
    first = FRESH_SEED if reduced else 0
    return Study.model_validate(
        {
            "name": name, "dataset": config["dataset"], "preset": preset, **fresh,
            "config": {**config, "trainer": trainer}, "arms": arms,
            "seeds": tuple(range(first, first + (3 if reduced else RUNS))),
            "note": "A reduced form of the published row." if reduced else "",
        }
    )  # fmt: skip


def table(results: Path | str) -> pd.DataFrame:
    """The published table and ours side by side, one row a cell.

    ours, ours_sd: median and deviation of the test metric, in percent, over `runs` runs; scope:
    what they were trained on. Where nothing was, scope is "not run", and command and hours (of all
    runs of the cell, for each type of GPU) say what it takes.
    """
    rows = []
    for name, row in ROWS.items():
        published = _published(name)
        found = _found(results, name, row)
        for method in row.arms:
            cell = published.loc[method]
            ours, scope = _measured(found, method, row)
            hours = {g: RUNS * PASSES[method] * h for g, h in row.hours.items()}
            rows.append(
                {
                    "dataset": row.published[0], "model": row.published[1],
                    "randaugment": row.published[2], "method": method,
                    "published": cell["median"], "published_sd": cell["std"], **ours,
                    "scope": scope, "command": f"aba run {name} --preset published",
                    **{f"hours_{gpu}": value for gpu, value in hours.items()},
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """The table as a reader has it: what was measured with its scope, or the command that does."""
    rows = []
    for cell in table.to_dict("records"):
        ours = f"{cell['ours']:.2f}" + f" ± {cell['ours_sd']:.2f}" * (cell["runs"] > 1)
        measured = f"{ours}, {cell['runs']} runs: {cell['scope']}"
        model = f"{cell['model']}{', RandAugment' * (cell['randaugment'] == 'Yes')}"
        unnamed = cell["model"] == "not stated"
        rows.append(
            {
                "model": f"{data_title(cell['dataset'])}, model not stated" if unnamed else model,
                "method": VANILLA if cell["method"] == "vanilla" else METHODS[cell["method"]].title,
                "published": f"{cell['published']:.2f} ± {cell['published_sd']:.2f}",
                "ours": measured if cell["runs"] else f"not run; {cell['command']}",
                **{f"{gpu} hours": f"{cell[f'hours_{gpu}']:.2g}" for gpu in GPUS},
            }
        )
    return pd.DataFrame(rows)


def note(table: pd.DataFrame) -> str:
    """What the numbers of the table are."""
    whole = ", ".join(f"{table[f'hours_{gpu}'].sum():.0f} on {gpu}" for gpu in GPUS)
    return (
        "Published and ours: median and SD over runs, on test, of accuracy in percent, on PTB-XL "
        "of macro AUC. Ours are of other data, networks and epochs, as each cell says. Hours: five "
        "runs at published scale, by counted operations and an assumed share of the GPU's bf16 "
        f"peak (not measured: expect a factor of three either way). The whole table takes {whole}."
    )


def _published(name: str) -> pd.DataFrame:
    dataset, model, randaugment = ROWS[name].published
    every = reference.published_table("benchmark_large")
    chosen = (every["dataset"] == dataset) & (every["model"] == model)
    return every[chosen & (every["randaugment"] == randaugment)].set_index("method")


def _found(results: Path | str, name: str, row: Row) -> list[tuple[pd.DataFrame, dict[str, str]]]:
    """The finished runs that there are of a row, and the arm of each method in them: at full scale,
    in its reduced form, in a smaller study."""
    titles = {m: VANILLA if m == "vanilla" else METHODS[m].title for m in row.arms}
    quick = dict(row.quick).get("dataset", row.dataset)
    places = [(name, row.dataset, "published", titles), (name, quick, "quick", titles)]
    if row.reduced:
        places.append((*row.within, "", dict(row.reduced)))
    found = []
    for study, dataset, preset, arms in places:
        with suppress(ResultsError):
            frame = load(results, study, dataset, preset).frame
            found.append((frame[frame["status"] == "finished"], arms))
    return found


def _measured(
    found: list[tuple[pd.DataFrame, dict[str, str]]], method: str, row: Row
) -> tuple[dict[str, Any], str]:
    """A cell by the first that has it."""
    for frame, arms in found:
        mine = frame[frame["arm"] == arms.get(method)]
        if len(mine):
            first, values = mine.iloc[0], mine[f"test_{row.metric}"]
            data = f"{data_title(first['dataset'])} ({first['subset']})"
            epochs = " or ".join(f"{n:g}" for n in sorted(mine["epochs"].unique()))
            scope = f"{data}, {first['model']}, {epochs} epochs"
            return {"ours": values.median(), "ours_sd": values.std(), "runs": len(values)}, scope
    return {"ours": float("nan"), "ours_sd": float("nan"), "runs": 0}, "not run"
