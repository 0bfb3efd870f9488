"""The notebooks in JupyterLab, as somebody sees them: every cell runs, every widget answers.

Needs Chromium and `pip install -e ".[browser]"`; run by `make test-browser`. JupyterLab serves
copies on the loopback interface, with results trained here; screenshots go to build/browser.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aba_core.installation import CHECKOUT
from analysis import reading_cards, reports, runner
from analysis.cli import OF_SHIPPED
from analysis.studies import standard_study

sync_api = pytest.importorskip(
    "playwright.sync_api", reason='playwright is not installed: pip install -e ".[browser]"'
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on the PATH"),
]

ROOT = CHECKOUT
SCREENSHOTS = ROOT / "build" / "browser"
FLAGS = (
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
# What makes notebooks quick here; everything else is as committed.
QUICK = {"steps": 60, "models": 2}
SECONDS = 1000  # in Playwright's milliseconds


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address with token, and the folder it serves."""

    address: str
    token: str
    folder: Path

    def url(self, name: str) -> str:
        return f"{self.address}/lab/tree/{name}.ipynb?token={self.token}&reset"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small real results of the studies that the notebooks read."""
    folder = tmp_path_factory.mktemp("results")
    for name in ("isolation", "tension", "frozen"):
        study = standard_study(name, "digits", "quick")
        changes: dict[str, Any] = {"config": {**study.config, "epochs": 4}, "seeds": (0, 1, 2)}
        if study.frozen:
            few = study.frozen.model_copy(update={"strengths": (0.0, 0.5, 1.0)})
            changes["frozen"] = few
        runner.run(study.model_copy(update=changes), folder, device="cpu", processes=1)
    asked = reading_cards.Asked(arms="mixup", aspects="calibration,attacks")
    made = reading_cards.declared(None, "digits", None, 3, ["epochs=4"], asked)
    runner.run(made.model_copy(update={"tuning": None}), folder, device="cpu", processes=1)
    return folder


def copied(name: str, folder: Path, results: Path) -> None:
    """A copy of a notebook with its parameters set for here."""
    notebook = json.loads(reports.find(name).read_text(encoding="utf-8"))
    (cell,) = (c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", ()))
    known = reports.parameters_of(name)
    # As committed, a notebook whose study takes long shows the shipped results.
    given = QUICK if name in OF_SHIPPED else {"results": str(results), **QUICK}
    changed = [f"\n{key} = {value!r}" for key, value in given.items() if key in known]
    cell["source"] = ["".join(cell["source"]), *changed]
    (folder / f"{name}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")


@pytest.fixture(scope="module")
def lab(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab on a free port of the loopback interface, with settings of its own."""
    home, folder = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("notebooks")
    for name in reports.notebooks():
        copied(name, folder, results)
    settings = home / "user-settings" / "@jupyterlab"
    for extension, choices in (
        # Cells outside the window are drawn too, or a screenshot would lack them.
        ("notebook-extension/tracker", {"windowingMode": "none"}),
        ("apputils-extension/notification", {"fetchNews": "false", "checkForUpdates": False}),
    ):
        path = settings / f"{extension}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(choices))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    settings_of_its_own = (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTER_RUNTIME_DIR",
        "IPYTHONDIR",
    )
    environment = {
        **os.environ,
        **{name: str(home / name.lower()) for name in settings_of_its_own},
        "JUPYTERLAB_SETTINGS_DIR": str(home / "user-settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_TOKEN": token,
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--expose-app-in-browser"),
        *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
        f"--ServerApp.root_dir={folder}",
        *(["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
    ]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            wait_for_port(port, server, home / "log")
            yield Lab(f"http://127.0.0.1:{port}", token, folder)
        finally:
            server.terminate()  # ends its kernels too
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def wait_for_port(port: int, server: subprocess.Popen, log: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if server.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        root = hasattr(os, "geteuid") and os.geteuid() == 0  # chromium's sandbox refuses root
        flags = [*FLAGS, *(["--no-sandbox"] if root else [])]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(60 * SECONDS)
    yield context.new_page()
    context.close()


def run_all(page: Any, lab: Lab, name: str) -> dict[str, Any]:
    """Open a notebook, run every cell, wait until the kernel is idle, save; the saved notebook."""
    page.goto(lab.url(name))
    page.wait_for_function(
        """() => {
            const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
            return context?.isReady && context.session?.kernel?.status === "idle";
        }"""
    )
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    # Every cell has its number, or one has failed and those after it never will.
    page.wait_for_function(
        """() => {
            const all = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")];
            const done = all.filter(prompt => /\\d/.test(prompt.textContent)).length;
            const failed = document.querySelector("[data-mime-type$='jupyter.error']");
            const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
            return (failed || done === all.length) && kernel.status === "idle";
        }""",
        timeout=150 * SECONDS,
    )
    page.set_default_timeout(20 * SECONDS)
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    return json.loads((lab.folder / f"{name}.ipynb").read_text(encoding="utf-8"))


def screenshot(page: Any, name: str, selector: str = ".jp-WindowedPanel-inner") -> None:
    """The whole notebook, or one part of it, as a picture in build/browser."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    height = page.evaluate(f"() => document.querySelector('{selector}').scrollHeight")
    page.set_viewport_size({"width": 1400, "height": min(15_000, max(1000, int(height) + 250))})
    page.wait_for_timeout(300)
    page.locator(selector).first.screenshot(path=SCREENSHOTS / f"{name}.png")


@pytest.mark.parametrize("name", reports.notebooks())
def test_every_cell_runs_in_jupyterlab(page: Any, lab: Lab, name: str) -> None:
    notebook = run_all(page, lab, name)
    screenshot(page, name)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    outputs = [out for cell in code for out in cell["outputs"]]
    said = [f"{out['ename']}: {out['evalue']}" for out in outputs if out["output_type"] == "error"]
    assert said == []
    assert [out["text"] for out in outputs if out["output_type"] == "stream"] == []
    assert all(cell["execution_count"] for cell in code)
    assert any("image/png" in out.get("data", {}) for out in outputs)
    assert page.locator(".jp-OutputArea-output img").count() > 0
    assert page.locator("text=Error displaying widget").count() == 0


# --- the explorer --------------------------------------------------------------------------------


class Explorer:
    """The explorer's widgets in the page. `turned` waits for the picture that a change brings;
    `seconds` are from the event in the page to the picture, without the steps of Playwright."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.box = page.locator(".aba-explorer")
        self.box.wait_for()
        self.seconds: dict[str, float] = {}

    def source(self) -> str:
        return self.box.locator("img").first.get_attribute("src")  # below it: all maps

    def message(self) -> str:
        return self.box.locator(".widget-html").last.inner_text()

    def row(self, label: str) -> Any:
        exact = self.page.locator(f".widget-label:text-is('{label}')")
        return self.box.locator(".widget-inline-hbox").filter(has=exact)

    def turned(self, what: str, action: Any) -> str:
        before = self.source()
        self.page.evaluate(
            """() => {
                window.turnedAt = undefined;
                for (const kind of ["mousedown", "keydown", "change"])
                    document.addEventListener(
                        kind, () => { window.turnedAt ??= performance.now(); },
                        { capture: true, once: true },
                    );
            }"""
        )
        action()
        taken = self.page.wait_for_function(
            """before => {
                const image = document.querySelector(".aba-explorer img");
                return image.src !== before && image.complete && performance.now() - turnedAt;
            }""",
            arg=before,
        )
        self.seconds[what] = taken.json_value() / 1000
        return self.message()

    def choose(self, label: str, option: str) -> str:
        return self.turned(
            f"{label}: {option}", lambda: self.row(label).locator("select").select_option(option)
        )

    def slide(self, label: str, key: str) -> str:
        handle = self.row(label).locator(".noUi-handle").last
        return self.turned(f"{label} by {key}", lambda: handle.press(key))


@pytest.fixture
def explorer(page: Any, lab: Lab) -> Explorer:
    name = "01_adjustments"
    run_all(page, lab, name)
    turning = Explorer(page)
    turning.box.scroll_into_view_if_needed()
    return turning


def test_everything_in_the_explorer_turns(page: Any, explorer: Explorer) -> None:
    screenshot(page, "explorer", ".aba-explorer")
    click = explorer.box.locator("button:has-text('17: − 0 +')").click
    assert explorer.turned("adjustment 17", click).startswith("17 [−1, 0, 1], Epsilon: loss")
    for label, option in (
        ("Method", "smoothgrad"),
        ("Method", "integrated gradients"),
        ("Target", "class score"),
        ("Target", "loss"),
    ):
        explorer.choose(label, option)
    for label in ("Sample", "Strength", "Magnitude", "Low below", "High above"):
        explorer.slide(label, "ArrowLeft" if label == "High above" else "ArrowRight")

    text = explorer.row("Set").locator("input")

    def write(entry: str) -> None:
        text.fill(entry)
        text.press("Enter")

    said = explorer.turned("a set", lambda: write("3,4,0"))
    assert "drawn from {3,4,0}" in said
    draw = explorer.row("Draw").locator(".noUi-handle").last
    # Draws 0 and 1 bring different members; where they are the same the picture stays.
    explorer.turned("another draw", lambda: draw.press("ArrowRight"))

    # The sign split has no middle: what changes it is greyed out, and refused where written.
    explorer.choose("Split", "sign")
    assert explorer.box.locator("button[disabled]").count() == 18
    assert explorer.row("Low below").locator("[disabled]").count() > 0
    screenshot(page, "explorer-sign", ".aba-explorer")
    write("1")
    page.wait_for_function(
        "() => document.querySelector('.aba-explorer').innerText.includes('Not possible')"
    )
    assert "changes the middle category" in explorer.message()
    screenshot(page, "explorer-refused", ".aba-explorer")
    explorer.turned("a possible one", lambda: write("17"))
    explorer.choose("Split", "percentiles")
    assert explorer.box.locator("button[disabled]").count() == 0

    explorer.choose("Model", "mlp, MendABA")  # trained now
    explorer.choose("Model", "small_cnn, Vanilla")
    screenshot(page, "explorer-mlp", ".aba-explorer")
    slowest = sorted(explorer.seconds.items(), key=lambda entry: -entry[1])
    lines = [f"{seconds:.3f} s  {what}" for what, seconds in slowest]
    (SCREENSHOTS / "latencies.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_table_of_the_27_is_sorted_filtered_and_opened(page: Any, lab: Lab) -> None:
    run_all(page, lab, "02_isolation")
    table = page.locator(".jp-OutputArea-output:has(.aba-rows)").first
    table.scroll_into_view_if_needed()
    first = table.locator("tbody tr").first
    assert table.locator("tbody tr").count() == 27
    assert first.locator("td").first.inner_text() == "0"

    before = table.locator(".aba-rows").inner_text()
    labels = table.locator("select").first.locator("option").all_inner_texts()
    mean = next(label for label in labels if label.startswith("Mean"))
    table.locator("select").first.select_option(mean)
    page.wait_for_function(
        "before => document.querySelector('.jp-OutputArea-output .aba-rows').innerText !== before",
        arg=before,
    )
    heads = [head.replace("\xa0", " ") for head in table.locator("th").all_inner_texts()]
    column = heads.index(mean.replace("\xa0", " "))
    cells = [row.locator("td").nth(column).inner_text() for row in table.locator("tbody tr").all()]
    numbers = [float(cell.split()[0]) for cell in cells]
    assert numbers == sorted(numbers, reverse=True)

    table.locator("button:has-text('Delta')").click()
    page.wait_for_function(
        "() => document.querySelectorAll('.jp-OutputArea-output .aba-rows tbody tr').length === 18"
    )
    first.locator("summary").click()
    assert "seed 0: " in first.locator("details div").inner_text()
    screenshot(page, "table", ".jp-OutputArea-output:has(.aba-rows)")
