"""Executed notebooks as pages to hand on: HTML, PDF, and the front page of a folder.

A page is `page.html`, the front page `index.html`, both in the style of `page.css`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib import resources
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aba_core.installation import HOME
from analysis import toolkit_version
from analysis.reports.parameters import ReportError

ROOM = 600  # characters of answers that the front page gives to a report


def template(name: str) -> str:
    """The text of a template or style that lies beside this file."""
    return resources.files("analysis.reports").joinpath(name).read_text(encoding="utf-8")


def find_chromium() -> str:
    """The browser that prints PDF. Raises ReportError where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        path = shutil.which(name)
        if path is not None:
            return path
    raise ReportError(
        "format pdf needs Chromium or Google Chrome on the PATH: install one; "
        "format html needs none and prints well"
    )


def print_pdf(page: Path, pdf: Path) -> None:
    """The page as PDF. The browser itself prints it: it needs no driver for a page without scripts,
    and asks the network for nothing."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's sandbox refuses root
    with tempfile.TemporaryDirectory() as profile:
        printed = subprocess.run(
            [
                find_chromium(),
                *("--headless", "--disable-gpu", "--no-first-run", "--no-pdf-header-footer"),
                *("--disable-background-networking", "--disable-sync", "--disable-quic"),
                *(["--no-sandbox"] if root else []),
                f"--user-data-dir={profile}",
                f"--print-to-pdf={pdf.resolve()}",
                page.resolve().as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
    if not pdf.is_file():
        raise ReportError(f"Chromium printed no PDF: {printed.stderr.strip()[-200:]}")


def to_html(notebook: Any, name: str, parameters: Mapping[str, Any], error: str = "") -> str:
    """A page that needs nothing but itself: figures inside, code behind a switch, no scripts."""
    from jinja2 import DictLoader
    from nbconvert.exporters import HTMLExporter
    from pygments.formatters import HtmlFormatter

    exporter = HTMLExporter(
        template_name="basic",
        template_file="report",
        extra_loaders=[DictLoader({"report": template("page.html")})],
    )
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    exporter.exclude_anchor_links = True
    code, dark = HtmlFormatter(style="default"), HtmlFormatter(style="monokai")
    at_night = f"@media (prefers-color-scheme: dark) {{ {dark.get_style_defs('.highlight')} }}"
    page = {
        "title": _title(notebook) or name,
        "style": "\n".join((template("page.css"), code.get_style_defs(".highlight"), at_night)),
        "error": error,
        "facts": f"{name}; aba-toolkit {toolkit_version()}; {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "parameters": {k: shortened(v) for k, v in parameters.items() if k != "out" and v != ""},
    }
    text, _ = exporter.from_notebook_node(notebook, resources={"page": page})
    return text


def shortened(value: Any) -> Any:
    """A path inside the checkout or wheel without what lies above it."""
    return value.removeprefix(f"{HOME}{os.sep}") if isinstance(value, str) else value


def _title(notebook: Mapping[str, Any]) -> str:
    for cell in notebook["cells"]:
        heading = re.search(r"^# +(.+)$", "".join(cell["source"]), re.MULTILINE)
        if cell["cell_type"] == "markdown" and heading:
            return heading[1].strip()
    return ""


def _marked(notebook: Mapping[str, Any], kind: str) -> list[str]:
    """The texts that a notebook marked as "data" or "answer" when it showed them."""
    texts = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if kind in output.get("metadata", {}).get("aba", {}):
                texts.append(str(output["metadata"]["aba"][kind]))
    return texts


def write_index(out: str | Path) -> Path:
    """Write out/index.html, the front page of all reports in a folder, from the executed copies;
    and in every page the way to the front page and to the reports before and after it."""
    from jinja2 import Environment

    out = Path(out)
    entries = []
    for path in sorted(out.glob("*.ipynb")):
        try:
            notebook = json.loads(path.read_text(encoding="utf-8"))
            facts = notebook["metadata"]["aba"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a notebook of the user's own
        entries.append(_entry(path, notebook, facts))
    titles = Counter(entry["title"] for entry in entries)
    for entry in entries:  # the same question asked of several data sets
        if titles[entry["title"]] > 1 and entry["dataset"]:
            entry["title"] += f" ({entry['dataset']})"
    _link_pages(out, entries)
    files = {name: sum(1 for _ in (out / name).glob("*.*")) for name in ("figures", "tables")}
    environment = Environment(autoescape=True, trim_blocks=True, keep_trailing_newline=True)
    text = environment.from_string(template("index.html")).render(
        style=template("page.css"),
        entries=entries,
        exports={name: count for name, count in files.items() if count},
        version=toolkit_version(),
        at=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
    )
    target = out / "index.html"
    with whole_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return target


def _link_pages(out: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Renew what stands between the marks of navigation in the pages of a folder."""
    pages = [entry for entry in entries if entry["link"].endswith(".html")]
    for place, entry in enumerate(pages):
        around = {"←": pages[place - 1] if place else None, "→": (*pages[place + 1 :], None)[0]}
        links = ['<a href="index.html">All reports</a>'] + [
            f'<a href="{quote(other["link"])}">{arrow} {escape(other["title"])}</a>'
            for arrow, other in around.items()
            if other is not None
        ]
        path = out / entry["link"]
        before = path.read_text(encoding="utf-8")
        start, mark, rest = before.partition("<!-- nav -->")
        _, end, rest = rest.partition("<!-- /nav -->")
        after = f"{start}{mark}{' · '.join(links)}{end}{rest}"
        if mark and end and after != before:
            with whole_file(path) as temporary:
                temporary.write_text(after, encoding="utf-8")


_KINDS = {"html": "page", "pdf": "PDF", "ipynb": "notebook"}


def _entry(path: Path, notebook: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the front page says of one report."""
    files = {f"{path.stem}.{kind}": _KINDS[kind] for kind in _KINDS}
    links = {name: kind for name, kind in files.items() if (path.parent / name).is_file()}
    first = next(iter(links))
    named = {"study": facts["parameters"].get("study", ""), **facts.get("varied", {})}
    varied = [f"{name} {label}" for name, label in named.items() if label and name != "dataset"]
    if (path.parent / path.stem).is_dir():
        links[f"{path.stem}/"] = "figures and tables"
    dataset = facts["parameters"].get("dataset", "")
    return {
        "dataset": str(dataset),
        "status": facts["status"],
        "error": facts["error"],
        "link": first,
        "title": (_title(notebook) or path.stem) + (f" ({', '.join(varied)})" if varied else ""),
        "answers": _shortly(_marked(notebook, "answer")),
        "data": _marked(notebook, "data") or ([f"Data set: {dataset}"] if dataset else []),
        "seconds": f"{facts['seconds']:.0f}",
        "day": facts["at"][:10],
        "toolkit": facts["toolkit"],
        "links": links,
    }


def _shortly(answers: list[str]) -> list[str]:
    """The first answers, as many as a front page has room for; at least one."""
    lengths = accumulate(map(len, answers))
    kept = [text for text, so_far in zip(answers, lengths, strict=True) if so_far <= ROOM]
    return kept or answers[:1]


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place once it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)
