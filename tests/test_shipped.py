"""The results that come with the toolkit are whole, and say what the README says of them."""

import re
from pathlib import Path

import numpy as np
import pytest

from aba_core import kernels
from aba_core.adjustments import GROUP_SETS
from analysis import results
from analysis.exhibits import Look
from analysis.results import declarations, load, read_rows
from analysis.studies import STANDARD, hypotheses, tension
from analysis.studies.isolation import group_table, isolation_table
from analysis.studies.published.agreement import benchmark_agreement_table, order_agreement_table

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "data" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hypothesis_table():
    runs = [load(SHIPPED, study, "digits").frame for study in ("isolation", "tension")]
    return tension.hypothesis_table(*runs, np.random.default_rng(0)).set_index("set")


def test_every_declared_run_is_there_with_its_provenance():
    found = declarations(SHIPPED)
    # Declared, and shipped with the next record.
    to_come = {"baselines", "matched", "tuned", "variance"}
    assert {d.study.name for d in found if d.study.dataset == "digits"} >= set(STANDARD) - to_come
    for declaration in found:
        rows, damaged = read_rows(SHIPPED, declaration.kind)
        result = results.collect(declaration, rows, damaged)
        assert not damaged and not result.missing
        frame = result.frame
        assert frame[["toolkit", "commit", "torch", "python", "device", "data"]].notna().all().all()
        assert not frame["commit"].str.contains("dirty|unknown").any()


def test_the_readme_states_the_group_contrasts_of_the_shipped_runs():
    isolation = isolation_table(
        load(SHIPPED, "isolation", "digits").frame, np.random.default_rng(0)
    )
    groups = group_table(isolation, np.random.default_rng(0)).set_index("name")
    stated = re.search(
        r"Epsilon above\s+Neutral by ([\d.]+) points .*?Neutral above\s+Delta by ([\d.]+)",
        README,
        re.DOTALL,
    )
    assert stated is not None
    for text, contrast in zip(
        stated.groups(), ("Epsilon − Neutral", "Neutral − Delta"), strict=True
    ):
        assert float(text) == pytest.approx(groups.loc[contrast, "estimate"], abs=0.051)


@pytest.mark.parametrize("name", list(GROUP_SETS))
def test_the_readme_table_follows_from_the_shipped_runs(name, hypothesis_table):
    line = next(row for row in README.splitlines() if row.strip().startswith(f"| {name} |"))
    cells = [
        [float(number.replace("−", "-")) for number in re.findall(r"−?\d+\.\d+", cell)]
        for cell in line.strip(" |").split("|")[1:]
    ]
    row = hypothesis_table.loc[name]
    assert cells[0] == pytest.approx([row["all_of_group"]], abs=0.051)
    assert cells[1] == pytest.approx([row["mean_of_members"]], abs=0.051)
    # The ends of the intervals depend a little on the bootstrap's draws.
    for cell, column in ((cells[2], "difference"), (cells[3], "difference_to_best_group")):
        wanted = [row[column], row[f"{column}_low"], row[f"{column}_high"]]
        if np.isnan(wanted[0]):
            assert cell == []
        else:
            assert cell == pytest.approx(wanted, abs=0.11)


@pytest.fixture(scope="module")
def verdicts():
    frozen = load(SHIPPED, "frozen", "digits")
    studies = [load(SHIPPED, name, "digits") for name in ("hypotheses", "sets")]
    found = [v for s in studies for v in hypotheses.judge(s, Look(), frozen)]
    assert all("before the data" in v.declared for v in found[:-2])  # sets share runs of pairs
    return {verdict.hypothesis.name: verdict for verdict in found}


# What the README's table of verdicts calls them.
CLAIMS = {
    "All adjustments beat training without": "augmentation-helps",
    "Alone, Epsilon > Neutral > Delta": "group-order",
    "**Variety**": "variety",
    "**Tension**": "tension",
    "An adjustment with its opposite": "tension-of-one-best",
    "Every joined set": "tension-best-group",
    "All adjustments beat the best one": "set-beats-best-member",
    "Gaussian noise": "noise-helps",
    "All on real maps": "attribution-matters",
    "Epsilon on real maps": "attribution-matters-epsilon",
    "Class score": "class-score",
    "Random magnitudes": "random-magnitude",
}


def test_the_readme_table_of_verdicts_has_no_claim_of_its_own():
    rows = re.findall(r"^\| (.*?) \| (?:supported|refuted|inconclusive) \|", README, re.MULTILINE)
    assert len(rows) == len(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_readme_states_the_verdicts_of_the_shipped_runs(claim, verdicts):
    line = next(row for row in README.splitlines() if row.startswith(f"| {claim}"))
    _, stated, numbers = line.strip(" |").split(" | ")
    judged = verdicts[CLAIMS[claim]]
    assert stated == judged.verdict
    row = judged.decisive
    wanted = [row["estimate"], row["estimate_low"], row["estimate_high"]]
    found = [float(n.replace("−", "-")) for n in re.findall(r"−?\d+\.\d+", numbers)]
    assert found == pytest.approx(wanted, abs=0.11)


@pytest.mark.parametrize(
    "name",
    (
        "attribution-matters-epsilon",
        "augmentation-helps",
        "noise-helps",
        "variety",
        "tension",
        "tension-of-one-best",
    ),
)
def test_the_readme_states_what_the_shipped_runs_say_of_mnist(name):
    found = {
        verdict.hypothesis.name: verdict
        for study in ("hypotheses", "sets")
        for verdict in hypotheses.judge(load(SHIPPED, study, "mnist"), Look())
    }
    row = found[name].decisive
    wanted = [row["estimate"], row["estimate_low"], row["estimate_high"]]
    section = README[README.index("**MNIST says otherwise**") :]
    number = r"(−?\d+\.\d)"
    stated = re.findall(rf"{number}\s*\[{number},\s*{number}\]", section)
    near = [[float(n.replace("−", "-")) for n in one] for one in stated]
    assert any(one == pytest.approx(wanted, abs=0.11) for one in near)


def epsilon_less_neutral(runs):
    isolation = isolation_table(runs, np.random.default_rng(0))
    groups = group_table(isolation, np.random.default_rng(0)).set_index("name")
    row = groups.loc["Epsilon − Neutral"]
    return [row["estimate"], row["estimate_low"], row["estimate_high"]]


def stated_beside_the_published_tables(place):
    section = README[README.index("**Beside the published tables**") :]
    number = r"(−?\d+\.\d)"
    stated = re.findall(rf"{number}\s*\[{number},\s*{number}\]", section)[place]
    return [float(n.replace("−", "-")) for n in stated]


@pytest.mark.parametrize(("dataset", "place"), [("cifar10", 0), ("news", 1)])
def test_the_readme_states_what_the_shipped_runs_say_beside_the_published_ones(dataset, place):
    found = epsilon_less_neutral(load(SHIPPED, "isolation", dataset).frame)
    assert stated_beside_the_published_tables(place) == pytest.approx(found, abs=0.11)


def shipped_with(study, dataset, epochs, strength):
    (declaration,) = (
        d
        for d in declarations(SHIPPED)
        if (d.study.name, d.study.dataset) == (study, dataset)
        and d.study.config["epochs"] == epochs
        and {arm.setting("strength") for arm in d.study.arms} == {strength}
    )
    return results.collect(declaration, *read_rows(SHIPPED, "runs")).frame


@pytest.mark.parametrize(
    ("dataset", "epochs", "strength", "place"),
    [("news", 5, 0.1, 2), ("cifar10", 20, 0.1, 4), ("cifar10", 60, 0.5, 5)],
)
def test_the_readme_states_what_strength_and_length_change(dataset, epochs, strength, place):
    found = epsilon_less_neutral(shipped_with("isolation", dataset, epochs, strength))
    assert stated_beside_the_published_tables(place) == pytest.approx(found, abs=0.11)


def test_the_readme_states_how_small_a_sets_margin_is_on_news_at_the_weaker_strength():
    runs = (shipped_with(study, "news", 5, 0.1) for study in ("isolation", "tension"))
    row = tension.hypothesis_table(*runs, np.random.default_rng(0)).set_index("set").loc["All"]
    found = [row["difference"], row["difference_low"], row["difference_high"]]
    assert stated_beside_the_published_tables(3) == pytest.approx(found, abs=0.11)


@pytest.mark.parametrize(
    ("dataset", "epochs", "strength", "place"),
    [
        ("mnist", 100, 1.0, 0),
        ("cifar10", 20, 0.5, 1),
        ("news", 5, 0.5, 2),
        ("news", 5, 0.1, 3),
        ("cifar10", 20, 0.1, 4),
    ],
)
def test_the_readme_states_how_the_27_rank_beside_the_published(dataset, epochs, strength, place):
    section = README[README.index("**Beside the published tables**") :]
    number = r"(−?\.\d\d)"
    stated = re.findall(rf"{number}\s*\[{number},\s*{number}\]", section)[place]
    isolation = isolation_table(
        shipped_with("isolation", dataset, epochs, strength), np.random.default_rng(0)
    )
    published = {"news": "20newsgroups"}.get(dataset, dataset) + "-tiny"
    (row,) = order_agreement_table(isolation, [published], np.random.default_rng(0)).to_dict(
        "records"
    )
    found = [row["spearman"], row["spearman_low"], row["spearman_high"]]
    assert [float(n.replace("−", "-")) for n in stated] == pytest.approx(found, abs=0.02)


@pytest.mark.parametrize(
    ("dataset", "study", "stated"),
    [
        ("digits", "benchmark", "gain {} points on digits"),
        ("digits", "benchmark-bn", "and {} with it"),
        ("mnist", "benchmark", "on MNIST {} and"),
        ("mnist", "benchmark-bn", "and {}. Strengths"),
    ],
)
def test_the_readme_states_what_methods_gain_with_and_without_batch_norm(dataset, study, stated):
    table = benchmark_agreement_table(
        load(SHIPPED, study, dataset).frame, ["mnist-tiny"], np.random.default_rng(0)
    )
    gains = table[table["split"].str.startswith("test")]["here"].dropna()
    assert len(gains) == 4
    assert stated.format(f"{gains.min():.1f} to {gains.max():.1f}") in " ".join(README.split())


def test_the_readme_states_the_speed_that_was_measured_against_the_fastest_peer():
    """The engine as it is by default over the fastest of the peers, for every workload."""
    measured = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    table = measured.partition("### Engine and peers")[2].partition("###")[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    head, rows = lines[0], [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    peers = head[head.index("with fused blocks") + 1 : head.index("fastest peer")]
    said = README.partition("<!-- speed: begin -->")[2].partition("<!-- speed: end -->")[0]
    assert rows and len(peers) == 5 and said.count("batch") == len(rows)
    column = head.index("engine over it") + kernels.DEFAULT
    for row, line in zip(rows, lines[1:], strict=True):
        rates = {peer: float(row[peer]) for peer in peers if row[peer] != "–"}
        assert len(rates) >= 3
        assert rates[row["fastest peer"]] == max(rates.values())
        lead = re.findall(r"[*]{2}(.*?)[*]{2}", line[column])[0]
        name = row["data"].partition(",")[0]
        stated = f"{lead} ({name}, batch {row['batch']}: {row['fastest peer']})"
        assert stated in " ".join(said.split())
