"""The documentation says what is true: its Python runs, its commands parse, its links lead on.

Every fenced `python` block of docs/ runs, those of a page one after another as in one session. One
whose first line is `# NAME.py` is a file, which the page's other blocks and studies import. A block
that cannot be run is preceded by the line `<!-- not run: REASON -->`, and one that needs a library
beyond the lock by `<!-- needs: MODULE -->`.
"""

import contextlib
import dataclasses
import importlib.util
import inspect
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from PIL import Image

from analysis import design, reports, results, rules, statistics
from analysis import study as studies
from analysis.cli import app
from analysis.studies import OF_OWN_DATA, QUESTIONS, STANDARD, find_study

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md"]
MODULES = {
    package: sorted(
        ".".join(path.relative_to(ROOT / package).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / package).rglob("*.py")
        if path != ROOT / package / "__init__.py" and path.stem != "__main__"
    )
    for package in ("aba_core", "analysis")
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, why it is not run, and a module that it needs."""

    language: str
    text: str
    line: int
    not_run: str
    needs: str

    @property
    def file(self) -> str:
        """The name of the file that it is, "" for other blocks."""
        named = re.match(r"# (\w+\.py)\n", self.text)
        return named[1] if named else ""


def blocks(path: Path) -> Iterator[Block]:
    lines = path.read_text(encoding="utf-8").splitlines()
    place = 0
    while place < len(lines):
        fence = re.fullmatch(r"```(\w*)", lines[place].strip())
        if fence is None:
            place += 1
            continue
        end = next(n for n in range(place + 1, len(lines)) if lines[n].strip() == "```")
        before = lines[place - 1] if place else ""
        reason = re.fullmatch(r"<!-- not run: (.+) -->", before)
        needs = re.fullmatch(r"<!-- needs: (\w+) -->", before)
        text = "\n".join(lines[place + 1 : end])
        why, module = (found[1] if found else "" for found in (reason, needs))
        yield Block(fence[1], text, place + 2, why, module)
        place = end + 1


def prose(path: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def commands(path: Path) -> list[str]:
    """Every `aba ...` that a page shows, in shell blocks and in running text."""
    lines = [
        line.split("  #")[0].strip()
        for block in blocks(path)
        if block.language == "sh"
        for line in block.text.splitlines()
    ]
    spans = re.findall(r"`((?:\w+=\S+ )?aba [^`]*)`", prose(path))
    shown = [*lines, *(" ".join(span.split()) for span in spans)]
    return [re.sub(r"^(\w+=\S+ )+", "", c) for c in shown if re.match(r"(\w+=\S+ )*aba ", c)]


# --- python ---------------------------------------------------------------------------------------


@pytest.fixture
def reader(tmp_path, monkeypatch) -> Iterator[Path]:
    """The folder of somebody who does as a page says. What they import is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)
    yield tmp_path
    for module in set(sys.modules) - before:
        file = getattr(sys.modules[module], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path):
            del sys.modules[module]


def write_files(path: Path, folder: Path) -> None:
    for block in blocks(path):
        if block.file:
            (folder / block.file).write_text(block.text)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_the_python_of_a_page_runs(path, reader):
    session: dict[str, object] = {"__name__": "page"}
    missing = []
    write_files(path, reader)
    for block in blocks(path):
        if block.needs and importlib.util.find_spec(block.needs) is None:
            missing.append(block.needs)
        elif block.language == "python" and not block.not_run and not block.file:
            # Empty lines before it, so that an error names the line of the page.
            code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                if block.needs:  # others' warnings, of others' libraries
                    warnings.simplefilter("ignore")
                exec(code, session)
    if missing:
        pytest.skip(f"the other blocks ran; not installed: {', '.join(missing)}")


def test_most_python_is_run():
    python = [b for path in PAGES for b in blocks(path) if b.language == "python"]
    assert len(python) >= 10
    assert sum(bool(block.not_run) for block in python) <= len(python) // 5


# --- studies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_the_studies_of_a_page_can_be_built(path, reader):
    from analysis import plan

    write_files(path, reader)
    for block in blocks(path):
        if block.language == "yaml" and "arms:" in block.text:
            file = reader / "study.yaml"
            file.write_text(block.text)
            study = studies.study_from_yaml(file)
            plan.core_config(study)
            plan.core_methods(study.arms)
            if isinstance(study.config["dataset"], dict) or study.dataset == "digits":
                plan.resolve(study)  # tries a step of what is the page's own


# --- commands -------------------------------------------------------------------------------------


# Studies that the guides declare.
OWN_STUDIES = ("mine", "mixup-study", "my_study", "maps", "swaps", "sites")


def parse(command: str) -> None:
    """Parse a command line as `aba` would, and check names that are only looked up later."""
    words = [w for w in shlex.split(command)[1:] if w != "..."]
    if ">" in words:
        words = words[: words.index(">")]
    group = typer.main.get_command(app)
    if not words or words[0].startswith("-"):
        allowed = {"--help", "-h", "--install-completion", "--show-completion"}
        assert set(words) <= allowed, command
        return
    assert words[0] in group.commands, f"{command}: no command {words[0]}"
    subcommand = group.commands[words[0]]
    if words in (["run"], ["try"]):  # by its name, as in "aba run downloads what it needs"
        return
    try:
        context = subcommand.make_context(words[0], list(words[1:]))
    except typer.Exit:  # --help
        return
    given = context.params
    if words[0] == "run" and given["study"].isupper():
        return
    if words[0] in ("run", "plan") and given["study"].endswith((".yaml", ".py")):
        return
    if words[0] == "run":
        changes = (given["dataset"], given["preset"], given["seeds"], given["set_"] or ())
        find_study(given["study"], *changes)
    if words[0] == "plan" and not given["study"].isupper() and given["study"] not in OWN_STUDIES:
        find_study(given["study"], given["dataset"], given["preset"])
    if words[0] == "report":
        for notebook in given["notebooks"] or ():
            if notebook in OWN_STUDIES:
                continue
            pairs = dict(entry.split("=", 1) for entry in given["parameter"] or ())
            reports.check_parameters(notebook, pairs)


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_the_commands_of_a_page_parse(path):
    for command in commands(path):
        try:
            parse(command)
        except Exception as error:
            text = error.format_message() if hasattr(error, "format_message") else error
            pytest.fail(f"{name(path)}: {command}: {text}")


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_every_command_of_a_page_is_in_a_block_that_is_checked(path):
    """A block of another language, or of none, would be passed over."""
    for block in blocks(path):
        assert block.language in ("python", "sh", "yaml", "text", "")
        if block.language != "sh":
            shown = re.findall(r"^(?:aba|make|pip|torchrun) [\w-].*", block.text, flags=re.M)
            assert not shown, f"{name(path)}:{block.line}: {shown[0]}"


def test_the_page_of_concepts_and_the_command_list_every_study_with_its_question():
    listed = re.findall(
        r"^\| `([\w-]+)` \| (.+?) \| .+ \|$", (DOCS / "concepts.md").read_text(), re.M
    )
    table = [(study, asks) for study, asks in listed if asks.endswith("?") or "the same" in asks]
    assert dict(table) == QUESTIONS and len(table) == len(QUESTIONS)
    assert set(QUESTIONS) == {*STANDARD, *OF_OWN_DATA}


def test_a_made_up_flag_would_be_found():
    for command in ("aba run isolation --sedes 3", "aba rnu", "aba run isolatoin", "aba --hlep"):
        with pytest.raises((Exception, AssertionError)):
            parse(command)


def test_the_pages_show_commands_and_all_commands_are_shown():
    shown = {c.split()[1] for path in TEXTS for c in commands(path) if len(c.split()) > 1}
    assert {"run", "report", "status", "doctor", "datasets", "adjustments"} <= shown


# --- what makes pages ----------------------------------------------------------------------------


def hook(name: str):
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_text_in_docstrings_makes_no_accidental_links():
    pytest.importorskip("griffe", reason="the documentation's packages are not installed")
    preformatted = hook("api_docstrings").preformatted
    assert preformatted("rows[set][member], f[a](b)") == r"rows[set]\[member], f[a]\(b)"
    assert preformatted("`rows[set][member]`") == "`rows[set][member]`"


# --- links and names ------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The anchors that a page's headings get."""
    titles = re.findall(r"^#+ +(.+)$", prose(path), flags=re.M)
    plain = (re.sub(r"[^\w\s-]", "", title.replace("`", "")).strip().lower() for title in titles)
    return {re.sub(r"[\s-]+", "-", title) for title in plain}


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_the_links_of_a_page_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        assert page.exists(), f"{name(path)} links to {target}"
        if DOCS in path.parents:
            assert DOCS in page.parents, f"{name(path)} links to {target}, outside the site"
        if anchor:
            assert anchor in anchors(page), f"{name(path)} links to {target}"


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_the_files_that_a_page_names_exist(path):
    pattern = r"`((?:aba_core|analysis|data|docs|notebooks|tests|benchmarks)/[\w./-]*)`"
    for file in re.findall(pattern, prose(path)):
        if not file.startswith("data/cache"):
            assert (ROOT / file).exists(), f"{name(path)} names {file}"


def test_every_page_is_in_the_navigation():
    def leaves(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for value in entry.values() if isinstance(entry, dict) else ():
            for item in value if isinstance(value, list) else [value]:
                yield from leaves(item)

    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = sorted(page for entry in navigation for page in leaves(entry))
    assert listed == sorted(path.relative_to(DOCS).as_posix() for path in PAGES)


@pytest.mark.parametrize("package", MODULES)
def test_every_module_is_in_the_reference_and_in_the_architecture(package):
    page = (DOCS / "reference" / f"{package}.md").read_text()
    page = hook("module_reference").expanded(page)
    listed = re.findall(rf"^::: {package}\.([\w.]+)$", page, flags=re.M)
    assert sorted(listed) == [m for m in MODULES[package] if m.partition(".")[0] != "cli"]
    architecture = (DOCS / "architecture.md").read_text()
    for module in MODULES[package]:
        name = module.rpartition(".")[2]
        assert f"`{name}`" in architecture, f"{package}.{module} is not in architecture.md"


def test_every_public_name_of_the_core_is_in_the_reference():
    import aba_core

    page = (DOCS / "reference" / "aba_core.md").read_text()
    for public in aba_core.__all__:
        assert f"`{public}`" in page


# --- numbers --------------------------------------------------------------------------------------


def test_the_coverage_on_the_page_is_the_one_of_the_docstring():
    page = (DOCS / "statistics.md").read_text()
    docstring = statistics.mean_interval.__doc__ or ""
    for method in ("bootstrap", "t", "percentile"):
        row = re.search(rf"^ *{method}  +([. \d]+)$", docstring, flags=re.M)
        shown = re.search(rf"^\| {method} \|([. \d|]+)\|$", page, flags=re.M)
        assert row and shown and row[1].split() == shown[1].replace("|", " ").split()


def test_the_smallest_detectable_differences_on_the_page_are_computed_so():
    page = (DOCS / "statistics.md").read_text()
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", page, flags=re.M)
    assert len(rows) == 4
    for runs, one, many in rows:
        smallest = design.smallest_detectable_difference
        assert f"{smallest(1.0, int(runs)):.2f}" == one
        assert f"{smallest(1.0, int(runs), alpha=0.05 / 26):.2f}" == many


def test_the_verdict_that_the_page_explains_is_that_of_the_shipped_results():
    page = (DOCS / "statistics.md").read_text()
    study = results.load(results.SHIPPED, "hypotheses", "digits")
    declared = {one.name: one for one in study.declaration.study.hypotheses}
    verdict = rules.test(declared["attribution-matters"], study.frame, np.random.default_rng(0))
    quoted = " ".join(re.findall(r"^> (.+)$", page, flags=re.M))
    assert verdict.sentence in quoted


# --- the command line's own help ------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", *hook("cli_reference").commands()])
def test_help_has_a_short_purpose_and_examples_on_lines_of_their_own(command):
    lines = hook("cli_reference").help_of(command).splitlines()
    assert lines[0].startswith(f"Usage: aba {command}".rstrip())
    assert len(lines[2].strip()) <= 78 and lines[2].strip().endswith(".")
    start = lines.index("  Examples:") + 1
    end = next((n for n in range(start, len(lines)) if not lines[n].strip()), len(lines))
    examples = lines[start:end]
    assert examples and max(map(len, lines)) <= 90
    for example in examples:
        text = re.split(r"  +(?=\S)", example.strip())[0]
        text = re.sub(r"^torchrun .* -m analysis\.cli ", "aba ", text)
        parse(re.sub(r"^(\w+=\S+ )+", "", text))


def test_the_list_of_commands_is_not_cut_short():
    assert "..." not in hook("cli_reference").help_of().replace("[ARGS]...", "")


def test_the_page_of_the_command_line_is_made_of_the_commands():
    module = hook("cli_reference")
    page = module.expanded((DOCS / "reference" / "cli.md").read_text())
    for command in module.commands():
        assert f"## aba {command}\n" in page and f"Usage: aba {command}" in page


def test_every_flag_that_help_names_is_a_heading_of_the_page():
    module = hook("cli_reference")
    page = hook("make_pages").pages()["reference/cli.md"]
    named = {
        flag
        for command in ("", *module.commands())
        for flag in re.findall(r"^  (?:-\w, )?(--[a-z-]+)", module.help_of(command), flags=re.M)
    } | {"--help"}
    assert len(named) > 30
    headings = re.findall(r"^### Option (--[\w-]+)$", page, flags=re.M)
    assert named == set(headings) and len(headings) == len(set(headings))
    for commands_of in module.flags().values():
        for command, what in commands_of:
            assert what and f"[`{command}`](#{command.replace(' ', '-')})" in page
            assert f"## {command}\n" in page


def test_a_search_for_a_flag_asks_for_its_section_alone():
    """What docs/search.js asks for is in titles of the command line page, and of no other."""
    pages = hook("make_pages").pages()
    titles = {
        name: re.findall(r"^#+ +(.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
        for name, text in pages.items()
    }
    for flag in hook("cli_reference").flags():
        asked = {"option", *flag.strip("-").split("-")}
        found = {
            name
            for name, given in titles.items()
            if any(asked <= set(re.split(r"[\s-]+", title.lower())) for title in given)
        }
        assert found == {"reference/cli.md"}, flag
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is absent: the script itself is not run")
    script = (
        "class Worker { postMessage(m) { console.log(m.data) } }; globalThis.Worker = Worker;"
        f"{(DOCS / 'search.js').read_text()}"
        "for (const asked of ['--max-seeds', '-v deep net', 'aba run --set', 'max-seeds'])"
        " new Worker().postMessage({ type: 2, data: asked });"
    )
    said = subprocess.run([node, "-e", script], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == [
        "+title:option +title:max +title:seeds",
        "v deep net",
        "aba run +title:option +title:set",
        "max-seeds",
    ]


def test_search_puts_commands_before_guides_and_functions_after_them():
    boost = {
        name: yaml.safe_load(text.split("---")[1])["search"]["boost"] if text[:4] == "---\n" else 1
        for name, text in hook("make_pages").pages().items()
    }
    reference = {name: boost.pop(name) for name in list(boost) if name.startswith("reference/")}
    assert set(boost.values()) == {1}
    assert reference.pop("reference/cli.md") > 1 > max(reference.values())


def test_the_pages_that_are_built_are_plain_and_whole(tmp_path):
    module = hook("make_pages")
    module.write(tmp_path)
    written = {p.relative_to(tmp_path).as_posix(): p.read_text() for p in tmp_path.rglob("*.md")}
    assert written.keys() == {path.relative_to(DOCS).as_posix() for path in PAGES}
    assert not re.search("<!-- (aba help|methods|modules of)", "".join(written.values()))
    for page, text in written.items():
        for target in re.findall(r"\]\((images/[^)\s]+)\)", text):
            assert (tmp_path / page).parent.joinpath(target).exists(), f"{page}: {target}"
    # Searching for a flag takes a script, which is built in.
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert all((tmp_path / name).exists() for name in config["extra_javascript"])
    assert config["docs_dir"] == "build/docs"


def test_the_gallery_has_every_notebook_with_its_picture():
    page = hook("make_pages").pages()["gallery.md"]
    notebooks = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    assert re.findall(r"^`aba report (\w+)`$", page, flags=re.M) == notebooks
    pictures = re.findall(r"!\[(.+)\]\(images/gallery/(\w+)\.png\)", page)
    assert [name for _, name in pictures] == notebooks
    assert all(len(alt) > 20 for alt, _ in pictures)
    files = sorted((DOCS / "images" / "gallery").iterdir())
    assert [file.stem for file in files] == notebooks
    for file in files:
        with Image.open(file) as picture:
            assert picture.width == 640 and len(picture.getcolors()) > 4  # not blank
        assert file.stat().st_size < 80_000, file.name


def test_the_page_of_the_methods_is_made_of_their_table():
    from aba_core.arms import METHODS
    from aba_core.methods.base import method_of, stand_ins
    from aba_core.methods.mixing import MIXES

    page = hook("method_reference").expanded((DOCS / "methods.md").read_text())
    for kind, info in METHODS.items():
        assert f"`method: {kind}`" in page or f"| `{kind}` | {info.title} |" in page, kind
        method = method_of({"kind": kind, **stand_ins(kind)})
        assert inspect.getdoc(type(method)) in page, f"{kind} has no definition"
        for entry in dataclasses.fields(method):
            assert f"| `{entry.name}` | " in page, f"{kind}: {entry.name}"
    assert all(mix.definition in page for mix in MIXES.values())
    assert "<!-- methods -->" not in page


def test_every_method_names_its_source_or_is_our_own():
    from aba_core.arms import METHODS
    from aba_core.methods.base import method_of, stand_ins

    ours = {"aba", "challenger", "mendaba", "fastaba", "fastaba-ce", "uniform-noise", "rotation",
            "guided-dropout", "guided-cutout", "random-cutout", "flip"}  # fmt: skip
    for kind in METHODS.keys() - ours:
        text = inspect.getdoc(type(method_of({"kind": kind, **stand_ins(kind)}))) or ""
        assert "ource" in text, kind


def test_bash_completes_commands():
    environment = {**os.environ, "_ABA_COMPLETE": "complete_bash", "COMP_WORDS": "aba doc"}
    code = "import sys; sys.argv[0] = 'aba'; from analysis.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, "COMP_CWORD": "1"},
    )
    assert done.stdout.split() == ["doctor"], done.stderr


def test_show_completion_prints_a_script_for_bash():
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    code = "import sys; sys.argv[0] = 'aba'; from analysis.cli import main; main()"
    command = [sys.executable, "-c", code, "--show-completion", "bash"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert "_aba_completion" in done.stdout and "complete " in done.stdout


# --- the documentation's packages -----------------------------------------------------------------


def test_what_builds_the_documentation_is_pinned_and_not_in_the_default_environment():
    def pins(file: str) -> set[str]:
        lines = (ROOT / file).read_text().splitlines()
        return {line.split("==")[0].lower() for line in lines if "==" in line and line[0] != "#"}

    # Each lock has all that its packages need, so some packages are in both.

    added = pins("requirements-docs.lock")
    assert {"mkdocs", "mkdocs-material", "mkdocstrings", "mkdocstrings-python"} <= added
    assert not {name for name in added if name.startswith("mkdocs")} & pins("requirements.lock")


def test_the_site_needs_no_network():
    theme = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["theme"]
    assert theme["font"] is False
