"""The description of the shipped results is that of the files, and is valid Croissant."""

import importlib.util
import itertools
import json
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest

from analysis.results import SHIPPED

ROOT = Path(__file__).parents[1]
NAMED = {"type": "object", "required": ["@id"], "properties": {"@id": {"type": "string"}}}
TYPES = ["sc:Text", "sc:Boolean", "sc:Integer", "sc:Float"]
# What version 1.0 of the specification requires of each part.
SCHEMA = {
    "type": "object",
    "required": [
        "@context", "@type", "conformsTo", "name", "description", "license", "url", "creator",
        "datePublished", "distribution", "recordSet",
    ],
    "properties": {
        "@type": {"const": "sc:Dataset"},
        "conformsTo": {"const": "http://mlcommons.org/croissant/1.0"},
        "name": {"type": "string", "pattern": r"^[\w-]+$"},
        "license": {"type": "string", "format": "uri"},
        "datePublished": {"type": "string", "format": "date"},
        "distribution": {
            "type": "array",
            "minItems": 1,
            "items": {
                **NAMED,
                "required": ["@type", "@id", "name", "encodingFormat", "includes"],
                "properties": {"@type": {"const": "cr:FileSet"}},
            },
        },
        "recordSet": {
            "type": "array",
            "minItems": 1,
            "items": {
                **NAMED,
                "required": ["@type", "@id", "name", "description", "field"],
                "properties": {
                    "@type": {"const": "cr:RecordSet"},
                    "field": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            **NAMED,
                            "required": ["@id", "name", "description", "dataType", "source"],
                            "properties": {
                                "@type": {"const": "cr:Field"},
                                "dataType": {"enum": TYPES},
                                "source": {
                                    "required": ["fileSet", "extract"],
                                    "properties": {"extract": {"required": ["column"]}},
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}  # fmt: skip


def maker():
    spec = importlib.util.spec_from_file_location("croissant", ROOT / "docs" / "make_croissant.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def description() -> dict:
    return json.loads((SHIPPED / "croissant.json").read_text(encoding="utf-8"))


def test_the_description_is_made_of_the_files(description):
    assert description == maker().described(), "run: python docs/make_croissant.py"


def test_the_description_has_what_the_specification_requires(description):
    jsonschema.validate(description, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**description, "conformsTo": "1.0"}, SCHEMA)
    sets = {one["@id"] for one in description["distribution"]}
    for records in description["recordSet"]:
        for field in records["field"]:
            assert field["source"]["fileSet"]["@id"] in sets
            assert field["@id"] == f"{records['@id']}/{field['name']}"
    known = description["@context"]
    for word in ("citeAs", "conformsTo", "recordSet", "field", "source", "extract", "includes"):
        assert word in known


def test_every_results_file_is_in_one_set_and_has_every_described_column(description):
    sets = {one["@id"]: one["includes"] for one in description["distribution"]}
    listed = [path for pattern in sets.values() for path in SHIPPED.glob(pattern)]
    files = [p for p in SHIPPED.rglob("*") if p.suffix in (".parquet", ".json")]
    assert sorted([*listed, SHIPPED / "croissant.json"]) == sorted(files)
    for records in description["recordSet"]:
        columns = {field["source"]["extract"]["column"] for field in records["field"]}
        for path in SHIPPED.glob(f"{records['@id']}/*.parquet"):
            assert columns <= set(pq.read_schema(path).names), path.name


def test_a_column_that_nobody_explains_is_refused():
    with pytest.raises(ValueError, match="column 'novel' has no meaning"):
        maker().meaning("novel")
    assert maker().meaning("test_accuracy") == "Test accuracy (%)"


@pytest.mark.filterwarnings("ignore")
def test_the_specifications_own_reader_reads_the_rows():
    reader = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    data = reader.Dataset(str(SHIPPED / "croissant.json"))
    assert not data.metadata.issues.errors and not data.metadata.issues.warnings
    rows = list(itertools.islice(data.records("mechanism"), 3))
    for row in rows:
        assert row["mechanism/key"] and 0 <= row["mechanism/violation_epsilon"] <= 1
