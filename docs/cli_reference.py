"""A hook of mkdocs: puts what `aba --help` and every `aba COMMAND --help` print into a page.

The line `<!-- aba help -->` becomes one section a command, made from the commands themselves.
"""

import contextlib
import io
import os

MARK = "<!-- aba help -->"


def commands() -> tuple[str, ...]:
    """The names of the commands, in the order of `aba --help`."""
    import typer

    from analysis.cli import app

    return tuple(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def help_of(command: str = "") -> str:
    """What `aba COMMAND --help` prints on a terminal of 80 columns."""
    from analysis.cli import app

    printed = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        with contextlib.redirect_stdout(printed):
            app([*command.split(), "--help"], prog_name="aba", standalone_mode=False)
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before
    return printed.getvalue().rstrip()


def reference() -> str:
    """The page's sections in Markdown."""
    parts = [("aba", help_of())] + [(f"aba {name}", help_of(name)) for name in commands()]
    return "\n\n".join(f"## {title}\n\n```text\n{text}\n```" for title, text in parts)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs for every page."""
    return markdown.replace(MARK, reference()) if MARK in markdown else markdown
