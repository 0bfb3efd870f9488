"""`python -m analysis.cli` is `aba`."""

from analysis.cli import main

main()
