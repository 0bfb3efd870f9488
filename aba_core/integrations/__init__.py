"""Any method in others' trainers: Lightning, Hugging Face, skorch.

Nothing here is imported by the rest of the package, and each module needs its library when it is
imported.
"""


def missing(module: str, library: str, extra: str) -> ImportError:
    """The error of a module whose library is not installed."""
    return ImportError(f"{module} needs {library}; install: pip install 'aba-toolkit[{extra}]'")
