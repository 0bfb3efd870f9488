"""What the toolkit and the kit's wheels need and this machine lacks, before a stage begins.

    python -m benchmarks.needs [WHEELS]     WHEELS: the kit's folder of wheels

Ends with 2 and one line where a package is missing. One that is older than asked for is a note, for
it may do.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
# Packages that are imported by another name than they are installed by.
MODULES = {"pyyaml": "yaml", "scikit-learn": "sklearn", "pillow": "PIL"}


def declared(wheels: Path | None = None) -> list[str]:
    """What the project asks for, and what each wheel asks for once it is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = list(project["dependencies"])
    for wheel in sorted(wheels.glob("*.whl")) if wheels is not None else ():
        asked += metadata.requires(wheel.name.split("-")[0]) or []
    return asked


def lacking(asked: Iterable[str]) -> tuple[list[str], list[str]]:
    """Of these requirements, what is missing and what is older than asked for."""
    missing, older = set(), set()
    for requirement in map(Requirement, asked):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = requirement.name
        if find_spec(MODULES.get(name, name.replace("-", "_"))) is None:
            missing.add(str(requirement))
            continue
        try:
            here = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # it can be imported, under whatever name it was installed
        if not requirement.specifier.contains(here, prereleases=True):
            older.add(f"{name} {here} (asked for: {requirement.specifier})")
    return sorted(missing), sorted(older)


def main() -> int:
    missing, older = lacking(declared(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
    if older:
        print(f"older here than asked for: {', '.join(older)}", file=sys.stderr)
    if missing:
        said = f"missing here: {', '.join(missing)}"
        print(f"{said}; name them to benchmarks.gpu_kit with --missing", file=sys.stderr)
    return 2 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
