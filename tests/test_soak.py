"""Kills at random points lose nothing; `make soak` is the long form."""

import re
import subprocess
import sys
from pathlib import Path

from benchmarks import store

PAGE = store.PAGE.read_text(encoding="utf-8")


def test_ten_kills_lose_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--kills", "10"],
        cwd=Path(__file__).parents[1], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    said = dict(re.findall(r"\| (.+?) \| (\d+) \|", done.stdout))
    assert sum(int(n) for what, n in said.items() if what.startswith("kills of")) >= 10
    assert said["runs lost"] == said["runs with other bits"] == "0"


def test_figures_are_written_between_their_markers_and_nothing_else_changes(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    monkeypatch.setattr(store, "PAGE", page)
    store.write("soak", ["one", "two"])
    before, _, rest = PAGE.partition("<!-- soak: written by a run -->")
    after = rest.partition("<!-- end of soak -->")[2]
    new = page.read_text(encoding="utf-8")
    assert new.startswith(before) and new.endswith(after) and "\none\ntwo\n" in new
    store.write("soak", ["one", "two"])
    assert page.read_text(encoding="utf-8") == new


def test_the_page_has_the_figures_of_a_run():
    for name in ("store", "soak"):
        start = PAGE.index(f"<!-- {name}: written by a run -->")
        assert "`python -m benchmarks." in PAGE[start : PAGE.index(f"<!-- end of {name} -->")]
