"""Tables, statistics, hypotheses and figures of finished runs. Works without torch; only
`analysis.plan` and `analysis.engines` reach down to torch, when something is trained."""

import importlib.metadata


def toolkit_version() -> str:
    """The installed version of the toolkit, "unknown" where it is not installed."""
    try:
        return importlib.metadata.version("aba-toolkit")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
