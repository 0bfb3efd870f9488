"""`python -m analysis.reports FOLDER`: the process of one notebook, see `kernel`."""

import sys
from pathlib import Path

from analysis.reports.kernel import execute_task

if __name__ == "__main__":
    execute_task(Path(sys.argv[1]))
