"""Puts the modules that there are into the pages of the reference.

The line `<!-- modules of PACKAGE -->` becomes one entry a module, so that a new file is in the
reference without a change to a page. The command line has a page of its own.
"""

import re
from pathlib import Path

MARK = re.compile(r"<!-- modules of (\w+) -->")
ROOT = Path(__file__).resolve().parent.parent


def modules(package: str) -> list[str]:
    """Dotted names of the modules of a package and of the packages in it, a package before its
    modules."""
    names = []
    for path in (ROOT / package).rglob("*.py"):
        if path.stem == "__init__":
            names.append(".".join(path.parent.relative_to(ROOT).parts))
        elif not path.stem.startswith("_"):
            names.append(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return sorted(name for name in set(names) - {package} if not name.startswith("analysis.cli"))


def entries(package: str) -> str:
    """The lines from which mkdocstrings makes the reference of a package's modules. Of a package
    inside it only the docstring: its names are those of its modules."""
    lines = []
    for name in modules(package):
        whole = (ROOT / Path(*name.split("."))).is_dir()
        lines.append(f"::: {name}" + "\n    options:\n      members: false" * whole)
    return "\n\n".join(lines)


def expanded(markdown: str) -> str:
    """A page with its marks replaced."""
    return MARK.sub(lambda mark: entries(mark[1]), markdown)
