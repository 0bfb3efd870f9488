"""Draw the thumbnails of the notebooks anew: `python docs/make_gallery.py [NOTEBOOK ...]`.

Each notebook is executed with the shipped results, by default all (a few minutes on one core). Its
first figure becomes docs/images/gallery/NOTEBOOK.png, with the figure's alternative text inside.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from analysis import reports
from analysis.results import SHIPPED

IMAGES = Path(__file__).resolve().parent / "images" / "gallery"
WIDTH = 640  # pixels; pages show half of that


def first_figure(notebook: Path) -> tuple[bytes, str]:
    """The first picture of an executed notebook, and its alternative text. Raises ValueError."""
    cells: list[dict[str, Any]] = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    for output in (o for cell in cells for o in cell.get("outputs", ())):
        if "image/png" in output.get("data", {}):
            alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
            return base64.b64decode(output["data"]["image/png"]), alt
    raise ValueError(f"{notebook.name} shows no picture")


def thumbnail(picture: bytes, alt: str, path: Path) -> None:
    """A small PNG of 256 colours."""
    with Image.open(io.BytesIO(picture)) as whole:
        height = round(whole.height * WIDTH / whole.width)
        small = whole.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
    told = PngImagePlugin.PngInfo()
    told.add_itxt("Description", alt)
    path.parent.mkdir(parents=True, exist_ok=True)
    small.quantize(256, Image.Quantize.FASTOCTREE).save(path, optimize=True, pnginfo=told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK")
    names = parser.parse_args().notebooks or list(reports.notebooks())
    with tempfile.TemporaryDirectory() as folder:
        outcomes = reports.report(
            names, {"results": str(SHIPPED)}, out=Path(folder), formats=("notebook",), jobs=1
        )
        failed = [f"{one.notebook}: {one.error}" for one in outcomes if one.error]
        if failed:
            raise SystemExit("\n".join(failed))
        for one in outcomes:
            picture, alt = first_figure(one.files[0])
            thumbnail(picture, alt, IMAGES / f"{Path(one.notebook).stem}.png")


if __name__ == "__main__":
    main()
