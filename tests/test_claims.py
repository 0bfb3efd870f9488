"""The ledger of published claims: every claim has an entry, and says what the results say."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import pyplot as plt
from oracles.made_results import make_study

from analysis import claims, exhibits, rooms, rules
from analysis import results as store
from analysis.exhibits import Look
from analysis.results import ResultsError
from analysis.studies import OF_OWN_DATA, STANDARD, hypotheses, standard_study

ROOT = Path(__file__).parent.parent


def mean_of(arm: str) -> float:
    return 95.0 if arm == "All" else 90.0 if arm == "Vanilla" else 92.0


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    study = standard_study("hypotheses").model_copy(update={"seeds": tuple(range(6))})
    make_study(folder, study, mean=mean_of)
    return folder


@pytest.fixture(scope="module")
def ledger(results):
    return claims.ledger(results)


def test_every_published_claim_has_an_entry_that_says_what_decides_it():
    known = claims.claims()
    assert [claim.id for claim in known] == [f"C{n:02}" for n in range(1, 37)]
    for claim in known:
        ways = (claim.hypotheses, claim.ranks_of, claim.exact, claim.untested)
        assert sum(map(bool, ways)) == 1, claim.id
        assert not (claim.hypotheses or claim.ranks_of) or claim.run.startswith("aba run "), (
            claim.id
        )


def test_claims_name_hypotheses_that_a_standard_study_declares():
    studies = (*STANDARD, *OF_OWN_DATA)
    declared = {h.name for name in studies for h in standard_study(name).hypotheses}
    named = {n.removeprefix(claims.NOT) for claim in claims.claims() for n in claim.hypotheses}
    assert named <= declared


def test_claims_that_are_exact_name_tests_that_exist():
    for test in [test for claim in claims.claims() for test in claim.exact]:
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


def test_a_claim_has_the_verdict_of_its_hypotheses(results, ledger):
    study = store.load(results, "hypotheses", "digits")
    verdicts = {one.hypothesis.name: one for one in rules.test_all(study, Look().rng())}
    rows = ledger[ledger["dataset"] == "digits"].set_index(["claim", "hypothesis"])
    row = rows.loc["C01", "augmentation-helps"]
    assert row["verdict"] == "supported" == verdicts["augmentation-helps"].verdict
    assert row["estimate"] == pytest.approx(5.0, abs=1.0)
    assert row["estimate_low"] == verdicts["augmentation-helps"].decisive["estimate_low"]
    middle = rows.loc["C18", "middle-helps"]
    assert middle["verdict"] == verdicts["middle-helps"].verdict


def test_both_metrics_are_told(ledger):
    row = ledger[(ledger["claim"] == "C01") & (ledger["dataset"] == "digits")].iloc[0]
    assert row["test_verdict"] == "supported"
    assert row["test_estimate"] != row["estimate"]


def test_a_claim_without_results_says_why_and_with_which_command(ledger):
    row = ledger[ledger["claim"] == "C14"].iloc[0]
    assert (row["verdict"], row["dataset"]) == ("not tested", "")
    assert (
        row["reason"] == "No results here. Run: aba run sets --dataset DATASET --preset standard."
    )
    of_groups = ledger[ledger["hypothesis"] == "group-order-measured"].iloc[0]
    assert of_groups["reason"] == (
        "needs the frozen study. Run: aba run frozen --dataset digits --preset standard."
    )


def test_every_verdict_names_a_figure_that_its_study_has(results, ledger):
    study = store.load(results, "hypotheses", "digits")
    verdicts = rules.test_all(study, Look().rng())
    shown = hypotheses.exhibits(study, Look(), verdicts).figures
    here = ledger[(ledger["dataset"] == "digits") & (ledger["study"] == "hypotheses")]
    tested = here[here["verdict"] != "not tested"]
    assert len(tested) > 5
    assert {name.removesuffix("-digits") for name in tested["figure"]} <= set(shown)
    others = rooms.of_study("groups", store.SHIPPED, "mnist").figures  # by its own room
    assert f"{hypotheses.prefix_of('groups')}verdict-groups-are-a-tendency" in others


def test_sentences_count_what_stands_in_the_ledger(ledger):
    first, *others = claims.sentences(ledger)
    assert first.startswith(f"{claims.decided(ledger)} of 36 published claims")
    supported = int((ledger["verdict"] == "supported").sum())
    number = int((ledger[ledger["dataset"] == "digits"]["verdict"].isin(list(claims.LOOKS))).sum())
    assert others[0].startswith(f"Digits, {number} verdicts: {supported} supported")
    assert claims.decided(claims.ledger(Path("nowhere"))) == 0


def test_the_figure_has_a_mark_for_every_verdict(ledger):
    ax = claims.ledger_plot(ledger)
    drawn = sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() in "oXD*")
    with_verdict = ledger["verdict"].isin(list(claims.LOOKS))
    assert drawn == with_verdict.sum() + ledger["test_verdict"].isin(list(claims.LOOKS)).sum()
    plt.close("all")


def test_a_data_set_without_results_of_a_claim_has_a_dash_for_it(ledger):
    first = ledger[(ledger["claim"] == "C01") & (ledger["dataset"] == "digits")].head(1)
    table = pd.concat([first, first.assign(claim="C18", dataset="mnist")])
    ax = claims.ledger_plot(table)
    assert sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() == "_") == 2
    plt.close("all")


def test_a_claim_that_denies_a_hypothesis_is_supported_where_that_is_refuted(results, monkeypatch):
    claim = claims.claims()[0]
    for name, turned in (
        ("augmentation-helps", "supported"),
        ("not augmentation-helps", "refuted"),
    ):
        monkeypatch.setattr(claims, "claims", lambda n=name: (replace(claim, hypotheses=(n,)),))
        assert list(claims.ledger(results)["verdict"]) == [turned]


def test_the_ledger_is_written_with_its_caption(ledger, tmp_path):
    for exhibit in claims.shown(ledger, Look()):
        files = exhibits.write(exhibit, tmp_path, command=claims.command("results", Look()))
        assert all(file.is_file() for file in files)
    written = [
        pd.read_csv(tmp_path / "tables" / f"{name}-all.csv")["claim"]
        for name in ("claims", "claims-open")
    ]
    assert {text[:3] for part in written for text in part} == {c.id for c in claims.claims()}


def test_a_data_set_without_results_is_named(results):
    with pytest.raises(ResultsError, match="no studies on mnist.*there: digits"):
        claims.ledger(results, ["mnist"])


def test_ranks_that_carry_over_are_told_for_every_two_data_sets(tmp_path):
    turned = {"digits": 1.0, "mnist": 1.0, "cifar10": -1.0}
    for dataset, sign in turned.items():
        study = standard_study("hypotheses", dataset, "quick")
        seeds = tuple(range(200, 206))
        arms = tuple(arm for arm in study.arms if arm.name.startswith("adjustment "))
        own = study.model_copy(update={"seeds": seeds, "arms": arms, "hypotheses": ()})
        make_study(tmp_path, own, mean=lambda arm, s=sign: 60 + s * int(arm.split()[1]), sd=0.5)
    table = claims.ledger(tmp_path)
    rows = table[table["claim"] == "C12"].set_index(["dataset", "comparison"])
    verdicts = rows["verdict"].to_dict()
    assert verdicts == {
        ("mnist", "rank correlation with digits"): "supported",
        ("digits", "rank correlation with cifar10"): "refuted",
        ("mnist", "rank correlation with cifar10"): "refuted",
    }
    assert rows["estimate"].abs().min() > 0.95
    assert (rows["test_verdict"] == rows["verdict"]).all()


def test_a_claim_about_some_data_sets_is_not_decided_on_others(results, monkeypatch):
    claim = next(one for one in claims.claims() if "middle-helps" in one.hypotheses)
    for only, where in (((), "digits"), (("news",), "")):
        monkeypatch.setattr(claims, "claims", lambda o=only: (replace(claim, only=o),))
        assert set(claims.ledger(results)["dataset"]) == {where}
