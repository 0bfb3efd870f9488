"""What strangers bring does nothing but be shown: results, names, numbers, files."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from oracles.made_results import make_study
from typer.testing import CliRunner

from aba_core.arms import Arm
from analysis import exhibits, reports
from analysis import results as store
from analysis.cli import app
from analysis.results import SHIPPED, ResultsError
from analysis.study import Contrast, Hypothesis, Study

ATTACKS = (
    "<script>alert('arm')</script>",
    "</style></title><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    "[link](javascript:alert(4))",
    "<svg/onload=alert(5)>",
    "![picture](http://example.org/seen.png)",
    "`<script>alert(6)</script>`",
    "[one]\n\n[one]: javascript:alert(8)",
    '"><iframe srcdoc="<script>alert(7)</script>">',
)


class Page(HTMLParser):
    """Tags and attributes of a page, and its content policies."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.policies: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        given = dict(attrs)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policies.append(given["content"])


def check_harmless(text: str) -> None:
    page = Page(text)
    assert not page.tags & {"script", "iframe", "object", "embed", "svg", "form", "link", "base"}
    for name, value in page.attributes:
        assert not name.startswith("on") and name != "srcdoc"
        assert not value.strip().lower().startswith("javascript:")
    (policy,) = page.policies
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert "script" not in policy
    assert text.index("Content-Security-Policy") < text.index("<title>")


def hostile(folder: Path) -> Study:
    """A study whose every text wants to be a script; two runs are missing, so arms are named."""
    arms = (Arm.of("vanilla"), *(Arm.of(text, adjustments="3", strength=0.3) for text in ATTACKS))
    study = Study(
        name="hostile",
        dataset="digits",
        config={"dataset": "digits", "epochs": 1, "model": ATTACKS[2]},
        arms=arms,
        seeds=3,
        note=" ".join(ATTACKS),
        preset=ATTACKS[0],
        hypotheses=(
            Hypothesis(
                name="h",
                statement=ATTACKS[0],
                estimand=ATTACKS[2],
                comparisons=(Contrast(label=ATTACKS[4], weights={arms[1].name: 1, "vanilla": -1}),),
                n=3,
            ),
        ),
    )
    made = folder / "made"
    make_study(made, study, missing=[(arms[1].name, 2), (arms[4].name, 1)])
    (declaration,) = store.declarations(made)
    texts = {"finished_at": "2999-01-01T00:00:00+00:00", "device": ATTACKS[0], "torch": ATTACKS[2]}
    rows = store.read_rows(made, "runs")[0].assign(**texts, hypotheses=study.hypotheses_hash)
    store.declare(folder, study, declaration.keys)
    store.write_chunk(folder, "runs", "c0", rows.to_dict("records"))
    return study


def test_a_strangers_results_run_no_script_in_reports(tmp_path):
    hostile(tmp_path / "results")
    out = tmp_path / "out"
    given = {"study": "hostile", "results": str(tmp_path / "results")}
    (outcome,) = reports.report(["13_any_study"], given, out)
    assert outcome.status == "finished", outcome.error
    text = next(out.glob("13_any_study*.html")).read_text(encoding="utf-8")
    check_harmless(text)
    assert text.count("&lt;script&gt;alert(") > 5  # shown, as text
    check_harmless((out / "index.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["02_isolation", "06_hypotheses"])
def test_reports_of_the_shipped_results_have_no_scripts_either(tmp_path, name):
    (outcome,) = reports.report([name], {"results": str(SHIPPED)}, tmp_path)
    assert outcome.status == "finished", outcome.error
    check_harmless(next(tmp_path.glob(f"{name}*.html")).read_text(encoding="utf-8"))


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["name", "dataset"])
@pytest.mark.parametrize(
    "value", ["../../../../escaped", "/tmp/escaped", "a/b", "..", "a\n", "", "-x", ".x", "x" * 200]
)
def test_a_declared_name_that_leads_elsewhere_is_refused(tmp_path, field, value):
    results, out = tmp_path / "a" / "b" / "results", tmp_path / "a" / "b" / "out"
    study = Study(name="s", dataset="digits", arms=(Arm.of("a"),), seeds=2)
    path = store.declare(results, study, {"k0": ("a", 0)}).path
    said = json.loads(path.read_text())
    said["study"][field] = value
    stranger = results / "studies" / "s-digits-0123456789ab.json"
    stranger.write_text(json.dumps(said))
    with pytest.raises(ResultsError, match=f"{stranger.name} is damaged .{field}"):
        store.declarations(results)
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, ["figures", "--results", str(results), "--out", str(out)])
    assert isinstance(done.exception, ResultsError)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/b", "..", "", "a\\b", "a\0b"])
def test_nothing_is_written_outside_the_folder_that_was_asked_for(tmp_path, name):
    out = tmp_path / "out"
    with pytest.raises(exhibits.ExportError, match="is no name of a file in"):
        with exhibits.whole_files(out, name) as stem:
            stem.write_text("escaped")
    assert not list(tmp_path.rglob("*"))
