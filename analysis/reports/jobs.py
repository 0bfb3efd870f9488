"""What a batch consists of: one job a report, with its parameters, its name and its files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from analysis.reports.pages import find_chromium
from analysis.reports.parameters import (
    ReportError,
    Scalar,
    check_parameters,
    find,
    parameters_of,
    unknown,
)

FORMATS = ("html", "pdf", "notebook")


@dataclass(frozen=True)
class Job:
    """One report to make."""

    notebook: Path
    parameters: dict[str, Scalar]  # what is set
    values: dict[str, Scalar]  # all of them
    out: Path
    formats: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)  # parts of the name
    or_shipped: bool = False  # see `report`

    @property
    def trains(self) -> bool:
        """Whether it may, as far as one can tell: it imports what trains."""
        return "aba_core" in self.notebook.read_text(encoding="utf-8")

    @property
    def stem(self) -> str:
        dataset = self.values.get("dataset")
        varied = [f"-{n}={label}" for n, label in self.labels.items() if n != "dataset"]
        return self.notebook.stem + (f"-{dataset}" if dataset else "") + "".join(varied)


def make_job(
    notebook: str | Path,
    given: Mapping[str, Any],
    out: Path,
    formats: tuple[str, ...],
    labels: Mapping[str, str] | None = None,
) -> Job:
    """The report of one notebook with parameters that are checked here. labels: parts of its
    name; without them, those of the parameters that are not at their default."""
    path = find(notebook)
    known = parameters_of(path)
    parameters = check_parameters(path, given)
    if "results" in parameters:
        parameters["results"] = str(Path(str(parameters["results"])).absolute())
    values = {name: parameters.get(name, known[name].default) for name in known}
    if labels is None:
        labels = _labels(path, parameters, {})
    job = Job(path.absolute(), parameters, values, out, formats, labels)
    if "out" in known and "out" not in parameters:
        # Reports that differ in more than the data set would overwrite one another's figures.
        apart = set(job.labels) - {"dataset"}
        parameters["out"] = values["out"] = str(out / job.stem if apart else out)
    return job


def _labels(path: Path, given: Mapping[str, Scalar], usual: Mapping[str, Scalar]) -> dict[str, str]:
    """Parameters that somebody set to something unusual, as parts of the file's name, in the order
    of the notebook. Without folders; the data set is in every name already."""
    return {
        name: file_name_parts([given[name]])[given[name]]
        for name, parameter in parameters_of(path).items()
        if name not in ("results", "out", "dataset")
        and given.get(name, parameter.default) != usual.get(name, parameter.default)
    }


def make_jobs(
    notebooks: Sequence[str | Path],
    parameters: Mapping[str, Any],
    variants: Sequence[Mapping[str, Any]],
    usual: Mapping[str, Any],
    out: Path,
    formats: tuple[str, ...],
    instead: Mapping[str, Mapping[str, Any]] | None = None,
    or_shipped: bool = False,
) -> list[Job]:
    """The reports of a batch, see `report`. Raises ReportError for a parameter that no notebook
    has, and for two notebooks of one name."""
    paths = list(dict.fromkeys(find(notebook) for notebook in notebooks))
    known = list(dict.fromkeys(name for path in paths for name in parameters_of(path)))
    for parameter in (*parameters, *(name for variant in variants for name in variant)):
        if parameter not in known:
            raise ReportError(unknown(parameter, [path.stem for path in paths], known))
    jobs: dict[str, Job] = {}
    for path in paths:
        own = {**usual, **(instead or {}).get(path.stem, {})}
        for job in _jobs_of_one(path, parameters, variants, own, out, formats):
            unnamed = or_shipped and job.values.get("results") == usual.get("results")
            job = replace(job, or_shipped=unnamed)
            if jobs.setdefault(job.stem, job).notebook != job.notebook:
                raise ReportError(
                    f"two notebooks would write {job.stem}; report them into two folders"
                )
    return list(jobs.values())


def _jobs_of_one(
    path: Path,
    parameters: Mapping[str, Any],
    variants: Sequence[Mapping[str, Any]],
    usual: Mapping[str, Any],
    out: Path,
    formats: tuple[str, ...],
) -> Iterator[Job]:
    known = parameters_of(path)

    def checked(values: Mapping[str, Any]) -> dict[str, Scalar]:
        return check_parameters(path, {name: values[name] for name in values if name in known})

    given, ordinary = checked(parameters), checked(usual)
    sets = [{**ordinary, **given, **checked(variant)} for variant in variants]
    varied = [name for name in dict.fromkeys(n for v in variants for n in v) if name in known]
    fixed = {
        n: t for n, t in _labels(path, {**ordinary, **given}, ordinary).items() if n not in varied
    }
    values = {name: [one.get(name, known[name].default) for one in sets] for name in varied}
    texts = {name: file_name_parts(values[name]) for name in varied}
    for place, one in enumerate(sets):
        labels = {name: texts[name][values[name][place]] for name in varied}
        yield make_job(path, one, out, formats, {**fixed, **labels})


def file_name_parts(values: Sequence[Scalar]) -> dict[Scalar, str]:
    """Values as parts of file names: numbers padded so that names sort, no two alike."""
    distinct = list(dict.fromkeys(values))
    if all(type(value) in (int, float) for value in distinct):
        exact = [Decimal(str(value)) for value in distinct]
        places = max(max(0, -int(number.as_tuple().exponent)) for number in exact)
        texts = [f"{number:.{places}f}" for number in exact]
        width = max(len(text.lstrip("-")) for text in texts)
        return {
            value: "-" * text.startswith("-") + text.lstrip("-").zfill(width)
            for value, text in zip(distinct, texts, strict=True)
        }
    parts: dict[Scalar, str] = {}
    for value in distinct:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        safe = text = re.sub(r"[^\w.-]+", "-", text).strip("-.")[:60] or "none"
        number = 1
        while text in parts.values():
            number += 1
            text = f"{safe}-{number}"
        parts[value] = text
    return parts


def refuse_others(jobs: Sequence[Job]) -> None:
    """Raises ReportError where a file is in the way that is not an earlier copy of the same."""
    refused = []
    for job in jobs:
        kinds = ("ipynb", *(kind for kind in job.formats if kind != "notebook"))
        files = [job.out / f"{job.stem}.{kind}" for kind in kinds]
        in_the_way = [path for path in files if path.exists()]
        difference = _difference(job) if in_the_way else ""
        if difference:
            refused.append(f"{in_the_way[0]} is there already, {difference}")
    if refused:
        more = f", and {len(refused) - 1} more like it" if len(refused) > 1 else ""
        raise ReportError(f"{refused[0]}{more}; --force replaces, another --out keeps")


def _difference(job: Job) -> str:
    """In what the report in the way differs from the one to come, "" where in nothing.

    One of the shipped results is a stand-in for results of your own, as the demo makes them.
    """
    from analysis.results import SHIPPED

    try:
        text = (job.out / f"{job.stem}.ipynb").read_text(encoding="utf-8")
        facts = json.loads(text)["metadata"]["aba"]
        before = dict(facts["parameters"])
    except (OSError, ValueError, KeyError, TypeError):
        return "not made by aba report"
    if facts.get("notebook") != job.notebook.stem:
        return f"made from {facts.get('notebook')}"
    if before.get("results") == str(SHIPPED):
        del before["results"]
    for name, value in job.values.items():
        if name != "out" and before.get(name, value) != value:
            return f"made with {name} = {before[name]}"
    return ""


def make_folder(out: str | Path) -> Path:
    """The folder that reports go to, made if need be."""
    folder = Path(out).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(f"cannot write reports to {out}: {error.strerror}") from error
    return folder


def _is_here(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def check_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """Formats that can be written here, each once."""
    others = [name for name in formats if name not in FORMATS]
    if others or not formats:
        given = repr(others[0]) if others else "none"
        raise ReportError(f"unknown format {given}; known: {', '.join(FORMATS)}")
    absent = [name for name in ("papermill", "ipykernel", "nbconvert") if not _is_here(name)]
    if absent:
        raise ReportError(
            f"reports need {', '.join(absent)}; run: python -m pip install 'aba-toolkit[notebooks]'"
        )
    if "pdf" in formats:
        find_chromium()
    return tuple(dict.fromkeys(formats))
