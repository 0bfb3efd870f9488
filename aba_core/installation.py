"""Where the toolkit's own files lie, in a checkout or an installed wheel, and its commit.

In analysis/shipped a wheel holds what a checkout has beside its modules (`PARTS`), and the commit
that it was built from. `setup.py` puts them there. This file imports nothing of the toolkit's, so
that `setup.py` can read it.
"""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

CODE = Path(__file__).resolve().parents[1]  # the folder that aba_core and analysis lie in
IN_WHEEL = Path("analysis", "shipped")
PARTS = (
    "notebooks",
    "data/reference",
    "data/results",
    "requirements.lock",
    "requirements-torch.lock",
)
STAMP = "COMMIT"  # file of a wheel or a source archive


def _checkout() -> Path | None:
    if (CODE / IN_WHEEL).is_dir():
        return None
    try:
        project = tomllib.loads((CODE / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return CODE if project.get("project", {}).get("name") == "aba-toolkit" else None


# The checkout or unpacked source archive that this code runs from; None where it is installed.
CHECKOUT = _checkout()
# The folder that holds the parts.
HOME = CHECKOUT or CODE / IN_WHEEL


def commit() -> str:
    """The toolkit's own commit, with "-dirty" after it where files have changed; else "unknown".

    From git in a checkout, from the stamp in a wheel or source archive. A repository that merely
    lies around the toolkit is not asked.
    """
    if CHECKOUT is not None:
        top = _git("rev-parse", "--show-toplevel")
        if top and Path(top).resolve() == CHECKOUT:
            return _git("describe", "--always", "--dirty", "--abbrev=12") or "unknown"
    try:
        return (HOME / STAMP).read_text(encoding="utf-8").strip() or "unknown"
    except OSError:
        return "unknown"


def _git(*arguments: str) -> str:
    """What git says of the checkout; "" where it fails."""
    # A hook's GIT_DIR is another repository's.
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    command = ["git", "-C", str(CHECKOUT), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=10, env=environment, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
