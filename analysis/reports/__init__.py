"""Reports: the notebooks of `notebooks/`, executed in batches and turned into pages to hand on.

    parameters → checked → papermill in a process of its own → executed copy → HTML, PDF → index

`aba report`, `make demo` and the tests all come through `execute` and `report`. The notebooks use
`page`, which checks the same values when somebody runs them by hand and writes what they show.
Imports neither torch nor a notebook library before there is something to execute.
"""

from analysis.reports.batch import Outcome, execute, report
from analysis.reports.jobs import FORMATS, make_folder
from analysis.reports.notebook import Page, page
from analysis.reports.pages import find_chromium, to_html, write_index
from analysis.reports.parameters import (
    NOTEBOOKS,
    Parameter,
    ReportError,
    Scalar,
    check_parameters,
    check_value,
    find,
    grid,
    notebooks,
    parameters_of,
    read_parameters,
)
from analysis.reports.processes import Processes

__all__ = [
    "FORMATS",
    "NOTEBOOKS",
    "Outcome",
    "Page",
    "Parameter",
    "Processes",
    "ReportError",
    "Scalar",
    "check_parameters",
    "check_value",
    "execute",
    "find",
    "find_chromium",
    "grid",
    "make_folder",
    "notebooks",
    "page",
    "parameters_of",
    "read_parameters",
    "report",
    "to_html",
    "write_index",
]
