"""Write the Croissant description of the shipped results anew: `python docs/make_croissant.py`.

Croissant (MLCommons, version 1.0) describes data sets in JSON-LD, for search engines and loaders.
data/results/croissant.json says which files there are, and what the columns mean that all files of
a kind have. `tests/test_croissant.py` compares it with what this makes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from aba_core.quantities import SPLITS, metric_label
from analysis.results import SHIPPED
from analysis.tables import MEASURES

ROOT = Path(__file__).resolve().parent.parent
FILE = SHIPPED / "croissant.json"
KINDS = {
    "runs": "One row a training run: its condition, seed, metrics and provenance.",
    "frozen": "One row for each trained model, adjustment and strength: what the adjustment does "
    "to validation samples while the model stays as it is.",
    "mechanism": "One row a run and training step: gradients, violations and curvature, measured "
    "on a fixed batch.",
}
COLUMNS = {
    "study": "Study that asked for the run",
    "dataset": "Data set",
    "subset": "Training subset: its name, or the number of its samples",
    "subset_seed": "Seed that drew the training subset",
    "model": "Architecture",
    "batch_norm": "Whether the model has batch norm",
    "epochs": "Passes over the training subset",
    "batch_size": "Samples in a batch",
    "optimizer": "Optimiser",
    "learning_rate": "Learning rate at the start",
    "momentum": "Momentum of SGD",
    "weight_decay": "L2 penalty",
    "schedule": "Schedule of the learning rate",
    "dtype": "Number type of the parameters",
    "tokens": "Words of a text that the model reads",
    "curve_every": "Steps between the points of a learning curve, 0 for none",
    "mechanism": "Steps between measurements",
    "probe_strength": "Strength of the adjustments that are measured",
    "probe_samples": "Samples in the fixed batch",
    "arm": "Training condition, by its name in the study",
    "adjustments": "Set of adjustments, by indices from 0 to 26",
    "adjustment": "Adjustment, by its index from 0 to 26",
    "strength": "Strength of the augmentation, in standardised input units",
    "randomize": "Whether the magnitude is drawn for each sample",
    "split": "How an attribution map is split into categories",
    "attribution": "Attribution method",
    "target": "What the attribution map explains",
    "top_k": "Number of classes that the explained class is drawn from",
    "placebo": "What replaces the model's own map, empty for nothing",
    "flip_bit": "Whether one bit of the initial parameters was flipped",
    "embedding": "Where word vectors come from",
    "seed": "Seed of the run, from which all of its draws follow",
    "step": "Training steps done",
    "accuracy": "Validation accuracy after the adjustment (%)",
    "accuracy_change": "Change of validation accuracy (points)",
    "loss": "Validation loss after the adjustment",
    "loss_change": "Change of validation loss",
    "class_score": "Mean score of the true class after the adjustment",
    "class_score_change": "Change of the mean score of the true class",
    "passes": "Forward-and-backward passes of the whole training",
    "seconds": "Seconds of the run, an equal share of those of its chunk",
    "status": "finished, or diverged where the loss ceased to be finite",
    "key": "Hash of everything that decides the run's numbers",
    "chunk": "Hash of the keys of the runs that trained together",
    "data": "Fingerprint of the samples",
    "hypotheses": "Hash of the hypotheses declared before the run, empty for none",
    "toolkit": "Version of the toolkit",
    "commit": "Commit of the toolkit",
    "torch": "Version of PyTorch",
    "python": "Version of Python",
    "device": "Device that computed the run",
    "finished_at": "When the run was finished, in UTC",
    "trace_error_clean": "Standard error of the trace, clean",
    "trace_error_augmented": "Standard error of the trace, augmented",
    **MEASURES,
}
# The vocabulary of JSON-LD that the specification's examples have.
CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "citeAs": "cr:citeAs",
    "column": "cr:column", "conformsTo": "dct:conformsTo",
    "equivalentProperty": "cr:equivalentProperty", "samplingRate": "cr:samplingRate",
    "cr": "http://mlcommons.org/croissant/", "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"}, "extract": "cr:extract",
    "field": "cr:field", "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet", "format": "cr:format", "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath", "key": "cr:key",
    "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/", "recordSet": "cr:recordSet",
    "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated",
    "replace": "cr:replace", "sc": "https://schema.org/", "separator": "cr:separator",
    "source": "cr:source", "subField": "cr:subField", "transform": "cr:transform",
}  # fmt: skip


def shared_columns(files: list[Path]) -> dict[str, list[pa.DataType]]:
    """The columns that all files have, in the order of the first, with their type in each."""
    schemas = [pq.read_schema(path) for path in files]
    return {
        name: [schema.field(name).type for schema in schemas]
        for name in schemas[0].names
        if all(name in schema.names for schema in schemas)
    }


def meaning(column: str) -> str:
    """A column in words. Raises ValueError where nobody says."""
    if column in COLUMNS:
        return COLUMNS[column]
    if column.partition("_")[0] in SPLITS:
        return metric_label(column)
    raise ValueError(f"column {column!r} has no meaning in docs/make_croissant.py")


def data_type(types: list[pa.DataType]) -> str:
    """A column's type in Croissant's words. Whole numbers with gaps are floats in some files."""
    if all(map(pa.types.is_boolean, types)):
        return "sc:Boolean"
    if all(map(pa.types.is_integer, types)):
        return "sc:Integer"
    numbers = all(pa.types.is_integer(one) or pa.types.is_floating(one) for one in types)
    return "sc:Float" if numbers else "sc:Text"


def record_set(kind: str, folder: Path) -> dict[str, Any]:
    """The rows of one kind."""
    columns = shared_columns(sorted((folder / kind).glob("*.parquet")))
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"{kind}/{name}",
            "name": name,
            "description": meaning(name),
            "dataType": data_type(types),
            "source": {"fileSet": {"@id": f"{kind}-files"}, "extract": {"column": name}},
        }
        for name, types in columns.items()
    ]
    return {
        "@type": "cr:RecordSet", "@id": kind, "name": kind, "description": KINDS[kind],
        "field": fields,
    }  # fmt: skip


def last_day(folder: Path) -> str:
    """The day of the newest run."""
    files = sorted((folder / "runs").glob("*.parquet"))
    return max(
        max(pq.read_table(path, columns=["finished_at"])["finished_at"].to_pylist())
        for path in files
    )[:10]


def described(folder: Path = SHIPPED) -> dict[str, Any]:
    """The whole description."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    files = [
        {
            "@type": "cr:FileSet", "@id": f"{kind}-files", "name": f"{kind}-files",
            "description": f"Parquet files of {kind}; manifest/ has their SHA-256.",
            "encodingFormat": "application/x-parquet", "includes": f"{kind}/*.parquet",
        }
        for kind in KINDS
    ]  # fmt: skip
    studies = {
        "@type": "cr:FileSet", "@id": "studies-files", "name": "studies-files",
        "description": "What was declared before the runs: arms, seeds, hypotheses, rules.",
        "encodingFormat": "application/json", "includes": "studies/*.json",
    }  # fmt: skip
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": "aba-results",
        "description": "Runs of small neural networks trained with attribution-based augmentation "
        "and with other regularisers. Files may have further columns, those of their methods.",
        "license": f"https://spdx.org/licenses/{cited['license']}.html",
        "url": "README.md",  # beside this file, wherever it is
        "citeAs": f"{cited['title']}, version {cited['version']}, as CITATION.cff says",
        "creator": {"@type": "sc:Organization", "name": cited["authors"][0]["name"]},
        "datePublished": last_day(folder),
        "version": cited["version"],
        "keywords": cited["keywords"],
        "distribution": [*files, studies],
        "recordSet": [record_set(kind, folder) for kind in KINDS],
    }


def text(folder: Path = SHIPPED) -> str:
    """The description as the file has it."""
    return json.dumps(described(folder), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
