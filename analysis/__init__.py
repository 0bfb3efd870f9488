"""Tables, statistics, hypotheses and figures of finished runs. Works without torch; only
`analysis.runner` reaches down to `aba_core`, when it trains."""

import importlib.metadata


def toolkit_version() -> str:
    """The installed version of the toolkit, "unknown" where it is not installed."""
    try:
        return importlib.metadata.version("aba-toolkit")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
