"""`python -m analysis.reports FOLDER`: the process of one notebook, see `kernel`.
`python -m analysis.reports --serve`: the process that forks those of several, see `processes`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        from analysis.reports.processes import serve

        serve(training="--training" in sys.argv)
    else:
        from analysis.reports.kernel import execute_task

        execute_task(Path(sys.argv[1]))
