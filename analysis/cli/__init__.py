"""The command line, `aba`. Each command imports what it needs when it runs, so that help and errors
appear at once."""

import sys

from analysis import terminal

# In the order of the help.
from analysis.cli import running, showing  # isort: skip
from analysis.cli import keeping, looking_up  # isort: skip
from analysis.cli.options import app
from analysis.cli.running import OF_SHIPPED

__all__ = ["OF_SHIPPED", "app", "keeping", "looking_up", "main", "running", "showing"]


def main() -> None:
    """Entry point of the `aba` command."""
    terminal.stop_as_by_ctrl_c()
    sys.exit(terminal.exit_code(lambda: app(standalone_mode=False)))
