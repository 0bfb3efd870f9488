"""Write the documentation's pages as ordinary Markdown: `python docs/make_pages.py [FOLDER]`.

The pages of docs/ with everything in them that scripts make: the commands' help, the notebooks,
the methods and the list of modules. `make docs` builds its site from the folder, by default
build/docs; any other builder of sites reads the same files.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
# Run as a script or loaded by a test: the toolkit, and the scripts beside this one, are found.
sys.path[:0] = [str(ROOT), str(DOCS)]

import cli_reference  # noqa: E402
import gallery_reference  # noqa: E402
import method_reference  # noqa: E402
import module_reference  # noqa: E402

# What search multiplies a page's score by. A flag should find its command, and a plain word the
# page that explains it before the function that computes it.
BOOST = {"reference/cli.md": 2, "reference/aba_core.md": 0.3, "reference/analysis.md": 0.3}


def pages() -> dict[str, str]:
    """The text of every page, by its path."""
    made = {}
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        for part in (cli_reference, gallery_reference, method_reference, module_reference):
            text = part.expanded(text)
        name = path.relative_to(DOCS).as_posix()
        if name in BOOST:
            text = f"---\nsearch:\n  boost: {BOOST[name]}\n---\n\n{text}"
        made[name] = text
    return made


def write(folder: Path) -> None:
    """All pages, pictures and scripts, in place of what the folder held."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS / "images", folder / "images")
    for name in ("search.js", "pages.css"):
        shutil.copy(DOCS / name, folder)
    for name, text in pages().items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "docs")
