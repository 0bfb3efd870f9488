"""Puts every notebook into a page, with its question, its first words and its thumbnail.

The line `<!-- gallery -->` becomes one section a notebook, made from its first cell.
"""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parent
NOTEBOOKS = DOCS.parent / "notebooks"
MARK = "<!-- gallery -->"


def thumbnail(name: str) -> Path:
    """The picture that `make_gallery.py` drew."""
    return DOCS / "images" / "gallery" / f"{name}.png"


def introduction(notebook: Path) -> tuple[str, str]:
    """A notebook's title, and its first paragraph in one line."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    title, paragraph, *_ = "".join(cells[0]["source"]).split("\n\n")
    return title.removeprefix("# ").strip(), " ".join(paragraph.split())


def reference() -> str:
    """The page's sections in Markdown."""
    parts = []
    for notebook in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        name, (title, paragraph) = notebook.stem, introduction(notebook)
        with Image.open(thumbnail(name)) as picture:
            alt = picture.text.get("Description", title)  # type: ignore[attr-defined]
        alt = " ".join(alt.replace("[", "(").replace("]", ")").split())
        shown = f"![{alt}](images/gallery/{name}.png){{ width=320 }}"
        parts.append(f"## {title}\n\n{shown}\n\n{paragraph}\n\n`aba report {name}`")
    return "\n\n".join(parts)


def expanded(markdown: str) -> str:
    """A page with its mark replaced."""
    return markdown.replace(MARK, reference()) if MARK in markdown else markdown
