"""Whether a results folder is as it was written: every file, and the keys of every run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.store import chunks, files, packs
from analysis.store.chunks import KINDS, Problem
from analysis.store.declarations import Declaration, declarations, read_event
from analysis.store.files import ResultsError

ADOPT = "if it is yours, take it in with: aba verify --adopt --results"


@dataclass(frozen=True)
class Findings:
    """problems: what is wrong. notes: what is worth knowing. files, runs: how many are sound."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    files: int
    runs: int


def verify(results: Path) -> Findings:
    """Check every file of a results folder against its manifest, its rows against what rows may be,
    and the keys of runs against what was declared. Raises ResultsError where there is no folder."""
    results = Path(results)
    if not results.is_dir():
        raise ResultsError(f"{results} is {'no folder' if results.exists() else 'not there'}")
    manifest = files.read_manifest(results)
    problems = [Problem(path, "is damaged; what it lists is unknown") for path in manifest.damaged]
    problems += _of_listing(results, manifest)
    wrong, of_studies = _of_declarations(results, manifest)
    problems += wrong
    notes: list[str] = []
    rows: dict[str, pd.DataFrame] = {}
    for kind in KINDS:
        rows[kind], passed_over = chunks.examine_rows(results, kind, anew=True)
        problems += passed_over
        notes += [
            f"{results / kind}: run {key} has other numbers in {', '.join(sorted(names))}; "
            "computed twice, in different chunks; the first counts"
            for key, names in chunks.computed_twice(results, kind).items()
        ]
    if not problems:
        for declaration in of_studies:
            wrong_keys, note = _of_keys(declaration, rows[declaration.kind])
            problems += wrong_keys
            notes += note
    lines = [
        f"{p}; {ADOPT} {results}" if p.reason.endswith("in the manifest") else str(p)
        for p in problems
    ]
    runs = sum(rows[kind]["key"].nunique() for kind in ("runs", "frozen"))
    unsound = {problem.path for problem in problems}
    sound = sum(path not in unsound for path in _present(results))
    return Findings(tuple(dict.fromkeys(lines)), tuple(notes), sound, runs)


def _present(results: Path) -> Iterator[Path]:
    for folder, suffix in files.FOLDERS.items():
        for name in files.names(results / folder, suffix):
            yield results / folder / name


def _of_listing(results: Path, manifest: files.Manifest) -> Iterator[Problem]:
    """Files that are listed and not there, and those that are no results."""
    packed = _packed(results)
    for path in sorted(manifest.hashes):
        if path not in packed and not (results / path).exists():
            yield Problem(results / path, "is in the manifest but not there; run its study again")
    for folder, suffix in {**files.FOLDERS, "manifest": ".sha256"}.items():
        if not (results / folder).is_dir():
            continue
        for entry in sorted(os.scandir(results / folder), key=lambda entry: entry.name):
            expected = entry.name.endswith((suffix, ".aside")) or entry.name.startswith(".")
            if not expected or entry.is_symlink() or not entry.is_file():
                yield Problem(Path(entry.path), "is no file of results")


def _packed(results: Path) -> set[str]:
    """Files whose rows are in packs: they are gone, and their lines may be there still."""
    return {
        f"{kind}/{member}"
        for kind in KINDS
        for name in files.names(results / kind, ".parquet")
        if packs.is_pack(name)
        for member in packs.members_of(results / kind / name)
    }


def _of_declarations(
    results: Path, manifest: files.Manifest
) -> tuple[list[Problem], list[Declaration]]:
    problems = []
    for name in files.names(results / "studies", ".json"):
        path = results / "studies" / name
        try:
            read_event(path, manifest)
        except ResultsError as error:
            problems.append(Problem(path, str(error).removeprefix(f"{path} ")))
            continue
        sha = files.digest(path.read_bytes())
        if manifest.problem(f"studies/{name}", sha) == "is not in the manifest":
            problems.append(Problem(path, "is not in the manifest"))
    return problems, [] if problems else declarations(results)


def _with_files(results: Path, kind: str) -> pd.DataFrame:
    """The rows of all files that are as they were written, with the file of each."""
    manifest = files.read_manifest(results)
    frames = [
        table.to_pandas().assign(_file=name)
        for name in files.names(results / kind, ".parquet")
        if not isinstance(table := chunks.checked(results / kind / name, manifest), Problem)
    ]
    return (
        pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"key": [], "_file": []})
    )


def _of_keys(declaration: Declaration, rows: pd.DataFrame) -> tuple[list[Problem], list[str]]:
    """Keys computed anew from what is declared and the data that rows name.

    Runs on training samples of their own name these, while their keys name the study's: those that
    its other runs name, or, where all have their own, the data as they are here.
    """
    from analysis.plan import core_config, core_methods, dataset_status, load_splits, run_keys

    study = declaration.study
    path = declaration.path or Path(study.name)
    mine = rows[rows["key"].isin(list(declaration.keys))]
    if "data" not in mine or not len(mine):
        return [], []
    mine = mine[["key", "seed", "data"]].drop_duplicates().dropna()
    drawn = {arm.name for arm in study.arms if arm.subset_per_run}
    own = mine["key"].map(lambda key: declaration.keys[key][0] in drawn)
    try:
        config, methods = core_config(study), core_methods(study.arms)
        shared = list(mine.loc[~own, "data"].unique())
        if own.any() and not shared:
            absent = [one.name for one in dataset_status() if one.present.startswith("not here")]
            if config.dataset in absent:  # nothing is downloaded to look at results
                return [], [f"{path}: its keys need the data of {config.dataset}, not here"]
            shared = [load_splits(config).fingerprint]
        expected = {data: run_keys(study, config, methods, data) for data in shared}
    except (ValueError, OSError) as error:
        return [], [f"{path}: its keys cannot be computed here: {error}"]
    foreign = 0
    for key, seed, data in mine.itertuples(index=False):
        run = declaration.keys[key]
        possible = shared if run[0] in drawn else [data]
        foreign += seed != run[1] or not any(expected[one].get(key) == run for one in possible)
    reason = f"{foreign} of its runs have keys of other settings or data"
    return ([Problem(path, reason)] if foreign else []), []


def adopt(results: Path) -> list[str]:
    """Take sound files that no manifest lists into it; their paths.

    Nothing but a manifest file is written. Left out are files that are no results, and those with
    other numbers for a run that is known: `verify` names them.
    """
    results = Path(results)
    manifest = files.read_manifest(results)
    contents: dict[str, bytes] = {}
    for name in files.names(results / "studies", ".json"):
        path = f"studies/{name}"
        if path in manifest.hashes:
            continue
        try:
            read_event(results / path, manifest)
            contents[path] = (results / path).read_bytes()
        except ResultsError:
            continue
    for kind in KINDS:
        known = [_with_files(results, kind)]
        for name in files.names(results / kind, ".parquet"):
            path = f"{kind}/{name}"
            if path in manifest.hashes:
                continue
            sound = chunks.sound_rows(results / path)
            if isinstance(sound, str):
                continue
            other = chunks.differing(pd.concat([*known, sound], ignore_index=True), ["key"])
            if any(name in names for names in other.values()):
                continue
            known.append(sound)
            contents[path] = (results / path).read_bytes()
    if contents:
        files.enlist(results, contents)
    return sorted(contents)
