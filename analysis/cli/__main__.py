"""`python -m analysis.cli` is `aba`."""

from analysis.cli import main

if __name__ == "__main__":
    main()
