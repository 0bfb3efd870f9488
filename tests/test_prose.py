"""The prose of the pages reads well by a few rules: no worn phrase, no endless sentence, no slip.

Prose is what a reader reads: fenced blocks, tables, headings and what a program writes between its
markers are left out, and code within a line counts as one word. General rules of good English are
proselint's, those of `.proselintrc.json`; what it has no rule for is here.
"""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from proselint.checks import __register__ as CHECKS
from proselint.config import Config
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

ROOT = Path(__file__).parent.parent
LONGEST = 45  # words in a sentence

# Phrases that a reader stumbles over, and what to say instead.
WORN = {
    r"held against": "compared with",
    r"\bthe own\b": "its own, the real",
    r"differ in nothing": "identical arms, null arms",
    r"is one of reference": "depends on the reference",
    r"\bis had by\b": "comes from",
    r"place to look": "name the file",
    r"stands again": "say what happens",
    r"of one's own": "your own",
    r"\band why so\b": "and why",
    r"tells? damage": "detects damage",
}
SLIPS = {
    r"(?<=\S)  +(?=\S)": "two spaces",
    r"(?<=\w) +[,.;:!?](?=\s|$)": "a space before a mark",
    r"(?<=\w) (?:--|-) (?=\w)": "a hyphen for a dash",
    r",,|\.\.(?!\.)(?<!\.\.\.)|;;": "a mark twice",
}
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("notebooks/*.ipynb")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(ROOT / "data" / name / "README.md" for name in ("", "results")),
]
MODULES = sorted(path for name in ("aba_core", "analysis") for path in (ROOT / name).rglob("*.py"))
# From a marker that a program wrote to the end of what it wrote there.
GENERATED = r"<!-- ([\w ]+): .*?-->.*?<!-- (?:\1: end|end of \1) -->"


def text_of(path: Path) -> str:
    """A page's Markdown; of a notebook, that of its cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def paragraphs(markdown: str) -> Iterator[str]:
    """Each paragraph and each item of a list on one line, without what is no prose."""
    text = re.sub(GENERATED, "", markdown, flags=re.S)
    text = re.sub(r"^```.*?^```$|<!--.*?-->", "", text, flags=re.M | re.S)
    text = re.sub(r"^ *(?:\||#).*$", "", text, flags=re.M)
    text = re.sub(r"^ *(?:[-*>]|\d+\.) +", "\n", text, flags=re.M)
    for part in re.split(r"\n\s*\n", text):
        line = re.sub(r"\n\s*", " ", part).strip()
        line = re.sub(r"!\[[^\]]*\]\([^)]*\)(?:\{[^}]*\})?", "", line)
        line = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", line)
        line = re.sub(r"`[^`]*`", "CODE", line)
        if line.strip():
            yield line


def sentences(paragraph: str) -> list[str]:
    return re.split(r"(?<=[.!?])[)*”\"]*\s+", paragraph)


def faults(markdown: str) -> list[str]:
    """What the rules find, a line each."""
    found = []
    for paragraph in paragraphs(markdown):
        for pattern, better in WORN.items():
            if match := re.search(pattern, paragraph, flags=re.I):
                found.append(f"'{match[0]}' (better: {better}) in: {paragraph[:80]}")
        for pattern, slip in SLIPS.items():
            if match := re.search(pattern, paragraph, flags=re.I):
                around = paragraph[max(0, match.start() - 30) : match.end() + 30]
                found.append(f"{slip} in: {around}")
        for sentence in sentences(paragraph):
            if (words := len(sentence.split())) > LONGEST:
                found.append(f"a sentence of {words} words: {sentence[:80]}")
    return found


@pytest.fixture(scope="module")
def proselint():
    """proselint by the rules of this repository alone, not by those of a user's folder."""
    CheckRegistry().register_many(CHECKS)
    settings = json.loads((ROOT / ".proselintrc.json").read_text())
    checks = sorted(settings["checks"].items(), key=lambda check: -check[0].count("."))
    rules = Config(max_errors=settings["max_errors"], checks=dict(checks))  # the narrower first

    def found(markdown: str) -> list[str]:
        text = "\n\n¶\n\n".join(paragraphs(markdown))
        results = [result.check_result for result in LintFile("page", text).lint(rules)]
        near = [text[max(0, r.span[0] - 30) : r.span[1] + 30] for r in results]
        return [
            f"{r.check_path}: {r.message} in: {part!r}"
            for r, part in zip(results, near, strict=True)
        ]

    return found


def docstrings_of(path: Path) -> str:
    """The docstrings of a module as Markdown, without examples and columns."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    found = [ast.get_docstring(node) for node in nodes if isinstance(node, kinds)]
    text = "\n\n".join(docstring for docstring in found if docstring)
    text = re.sub(r"^\x08$.*?(?:^$|\Z)", "", text, flags=re.M | re.S)  # typer keeps these lines
    return re.sub(r"^ {2,}.*$|^.*\S {3,}\S.*$", "", text, flags=re.M)  # nor columns


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_prose_of_a_page_keeps_the_rules(path, proselint):
    found = faults(text_of(path)) + proselint(text_of(path))
    assert not found, "\n".join(found)


def test_the_changelog_keeps_the_rules_of_proselint(proselint):
    assert not proselint(text_of(ROOT / "CHANGELOG.md"))


def test_docstrings_keep_the_rules_of_proselint(proselint):
    found = [f"{path.name}: {f}" for path in MODULES for f in proselint(docstrings_of(path))]
    assert not found, "\n".join(found)


def test_proselint_finds_worn_words_and_nothing_in_code(proselint):
    for text in (
        "The the word.",
        "It is very good.",
        "We utilize it.",
        "At this point in time, it runs.",
        "The end result is an added bonus.",
        "It is more unique.",
        "We analyse it. They analyze it.",
    ):
        assert len(proselint(text)) >= 1, text
    assert not proselint("```\nutilize the the\n```\n| very | very |\n\nUse `very very` here.")
    assert not proselint("- One set\n- Set two")


def test_the_help_of_the_commands_has_no_worn_phrase():
    for path in sorted((ROOT / "analysis" / "cli").glob("*.py")):
        text = " ".join(path.read_text(encoding="utf-8").split())
        assert not [pattern for pattern in WORN if re.search(pattern, text)], path.name


def test_each_rule_finds_its_fault_and_nothing_in_code():
    assert faults("It is held against\nothers.") and faults("As well as the own map.")
    assert faults("Two  spaces.") and faults("A comma , here.")
    assert faults("- An item - with a hyphen.") and faults("It ends..")
    words = " ".join(f"w{n}" for n in range(LONGEST))
    assert faults(f"{words} more.") and not faults(f"{words}. And more.")
    assert not faults("```\nheld against  two\n```\n| a table | held against |\n\nUse `a  b` here.")
    written = "<!-- soak: written by a run -->\n\nIt  is held against.\n\n<!-- end of soak -->"
    assert not faults(written) and faults(written + "\n\nTwo  spaces.")
    named = "<!-- verdicts on digits: begin -->\nIt  is.\n<!-- verdicts on digits: end -->"
    assert not faults(named)


def test_the_front_page_is_read_in_five_minutes():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 700
    assert text.index("](docs/images/concepts.svg)") < text.index("\n\n", 60)  # the picture first
    assert text.count("![") == 2
