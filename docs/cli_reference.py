"""Puts what `aba --help` and every `aba COMMAND --help` print into a page.

The line `<!-- aba help -->` becomes one section a command and one a flag, made from the commands
themselves.
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


def flags() -> dict[str, list[tuple[str, str]]]:
    """Every flag, in alphabetical order, with the commands that take it and what it does there."""
    import typer

    from analysis.cli import app

    whole = typer.main.get_command(app)
    taken: dict[str, list[tuple[str, str]]] = {}
    for command in (whole, *whole.commands.values()):  # type: ignore[attr-defined]
        name = "aba" if command is whole else f"aba {command.name}"
        for option in command.get_params(command.make_context("aba", [], resilient_parsing=True)):
            flag = max(option.opts, key=len)
            if option.param_type_name == "option" and (flag != "--help" or command is whole):
                what = f"{option.help} Every command has it." if flag == "--help" else option.help
                taken.setdefault(flag, []).append((name, what or ""))
    return dict(sorted(taken.items()))


def options() -> str:
    """The flags as sections, so that a search for one leads to it."""
    parts = ["## All options"]
    for flag, commands_of in flags().items():
        lines = [f"- [`{name}`](#{name.replace(' ', '-')}): {what}" for name, what in commands_of]
        parts.append("\n".join([f"### Option {flag}", "", *lines]))
    return "\n\n".join(parts)


def reference() -> str:
    """The page's sections in Markdown."""
    parts = [("aba", help_of())] + [(f"aba {name}", help_of(name)) for name in commands()]
    sections = (f"## {title}\n\n```text\n{text}\n```" for title, text in parts)
    return "\n\n".join([*sections, options()])


def expanded(markdown: str) -> str:
    """A page with its mark replaced."""
    return markdown.replace(MARK, reference()) if MARK in markdown else markdown
