"""The results that come with the toolkit are whole, and say what the README says of them."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from aba_core import kernels
from aba_core.adjustments import GROUP_SETS
from analysis import claims, results, rules
from analysis.exhibits import Look
from analysis.results import declarations, load, read_rows
from analysis.studies import STANDARD, tension
from analysis.studies.isolation import group_table, isolation_table
from analysis.studies.published.agreement import benchmark_agreement_table, order_agreement_table

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "data" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hypothesis_table():
    runs = [load(SHIPPED, study, "digits").frame for study in ("isolation", "tension")]
    return tension.hypothesis_table(*runs, np.random.default_rng(0)).set_index("set")


def test_every_declared_run_is_there_with_its_provenance():
    found = declarations(SHIPPED)
    assert {d.study.name for d in found if d.study.dataset == "digits"} >= set(STANDARD)
    stored = {kind: read_rows(SHIPPED, kind) for kind in {d.kind for d in found}}
    for declaration in found:
        rows, damaged = stored[declaration.kind]
        result = results.collect(declaration, rows, damaged)
        assert not damaged and not result.missing
        frame = result.frame
        assert frame[["toolkit", "commit", "torch", "python", "device", "data"]].notna().all().all()
        assert not frame["commit"].str.contains("dirty|unknown").any()


def test_the_results_state_the_group_contrasts_of_the_shipped_runs():
    isolation = isolation_table(
        load(SHIPPED, "isolation", "digits").frame, np.random.default_rng(0)
    )
    groups = group_table(isolation, np.random.default_rng(0)).set_index("name")
    stated = re.search(
        r"Epsilon is above Neutral by ([\d.]+) points .*?Neutral above\s+Delta by ([\d.]+)",
        RESULTS,
        re.DOTALL,
    )
    assert stated is not None
    for text, contrast in zip(
        stated.groups(), ("Epsilon − Neutral", "Neutral − Delta"), strict=True
    ):
        assert float(text) == pytest.approx(groups.loc[contrast, "estimate"], abs=0.051)


@pytest.mark.parametrize("name", list(GROUP_SETS))
def test_the_page_of_results_table_follows_from_the_shipped_runs(name, hypothesis_table):
    section = RESULTS.partition("## The published experiments on digits")[2]
    line = next(row for row in section.splitlines() if row.strip().startswith(f"| {name} |"))
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
def written():
    """What `docs/make_tables.py` writes from the shipped results."""
    place = ROOT / "docs" / "make_tables.py"
    spec = importlib.util.spec_from_file_location("make_tables", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.written(SHIPPED)


@pytest.mark.parametrize(("page", "text"), [("readme", README), ("results", RESULTS)])
def test_every_verdict_and_number_in_a_table_is_that_of_the_shipped_results(page, text, written):
    blocks, _ = written
    assert blocks[page]
    for marker, block in blocks[page].items():
        begin, end = f"<!-- {marker}: begin -->\n", f"\n<!-- {marker}: end -->"
        assert text.count(begin) == text.count(end) == 1, marker
        assert text.partition(begin)[2].partition(end)[0] == block, marker


def test_the_page_of_tables_is_that_of_the_shipped_results(written):
    assert (ROOT / "docs" / "tables.md").read_text(encoding="utf-8") == written[1]


def test_the_readme_answers_its_questions_on_digits_and_mnist(written):
    rows = written[0]["readme"]["verdicts"].splitlines()[2:]
    assert len(rows) >= 9
    answers = [row.strip("| ").split(" | ")[1:] for row in rows]
    assert all(re.match(r"(supported|refuted|inconclusive), −?\d", one[0]) for one in answers)


# Verdict words in prose: each claim that it makes, and the hypotheses that must say so.
SAID = {
    "digits": {
        "supported": (
            *("augmentation-helps", "noise-helps", "attribution-matters", "variety", "tension"),
            *("tension-within-samples", "signs-are-pairs", "variety-published"),
            *("published-methods-help", "comparators-help", "hand-crafted-is-better"),
            *("adds-to-comparators", "closes-the-same-gap"),
            *("epsilon-raises-the-loss", "delta-lowers-the-loss", "neutral-keeps-the-loss"),
            *("groups-change-places", "gain-shrinks-with-size", "batch-norm-shrinks-the-gain"),
            *("augmentation-helps-with-most-samples", "runs-lie-closer-together"),
            *("lagged-is-as-good", "lagged-is-better-at-equal-cost"),
            *("hand-crafted-is-better-at-equal-time", "hidden-layers-help", "tuning-helps"),
            *("augmentation-helps-where-both-are-tuned", "joining-opposites-changes-curvature"),
            *("aba-is-harder-to-attack", "aba-is-harder-to-attack-in-one-step"),
            *("aba-resists-transferred-attacks", "aba-resists-more-than-noise"),
            *("fgsm-training-resists-more", "some-map-keeps-more", "changed-ways-back-keep-more"),
            *("no-order-without-the-last-layer", "every-further-map-helps"),
            *("some-guided-method-gains-from-its-map", "aba-beats-guided-methods"),
            *("guided-methods-help", "hidden-layers-beat-noise"),
        ),
        "refuted": (
            *("noise-is-as-good", "matched-tension", "tension-within-batches"),
            *("tension-between-batches", "tension-across-halves", "variety-best-member"),
            *("tension-best-group", "middle-helps", "class-score", "random-magnitude"),
            *("beats-every-comparator", "beats-cheap-comparators-at-equal-time"),
            *("beats-cheap-comparators-at-equal-passes", "groups-change-places-as-trained"),
            *("beats-comparators", "joining-opposites-works-by-curvature"),
            *("some-map-beats-gradient", "some-map-beats-gradient-at-equal-cost"),
            *("gradient-x-input-is-best", "more-passes-help", "more-passes-help-at-equal-cost"),
            *("some-further-map-beats-gradient", "lagged-is-better-at-equal-time"),
            *("some-map-beats-gradient-at-equal-time", "more-passes-help-at-equal-time"),
            *("guided-methods-gain-from-their-map", "cutting-out-what-matters-is-better"),
        ),
        "inconclusive": (
            "beats-cheap-comparators",
            "quality-predicts-gain",
            "batch-norm-as-published",
        ),
    },
    "mnist": {
        "supported": (
            *("noise-helps", "attribution-matters", "set-beats-best-member"),
            *("published-methods-help", "hand-crafted-is-better", "beats-cheap-comparators"),
            *("adds-to-comparators", "closes-the-same-gap", "fastaba-ce-is-better"),
            *("hidden-layers-help", "hidden-layers-beat-noise", "signs-are-pairs"),
            *("aba-is-harder-to-attack", "lagged-is-better-at-equal-cost"),
            *("lagged-is-better-at-equal-time", "variety", "tuning-helps"),
            *("augmentation-helps-where-both-are-tuned", "noise-helps-where-both-are-tuned"),
        ),
        "refuted": (
            *("noise-is-as-good", "tension-best-group", "tension-of-one-best", "class-score"),
            *("matched-tension", "batch-norm-as-published"),
            *("some-map-beats-gradient-at-equal-time", "more-passes-help-at-equal-time"),
        ),
        "inconclusive": ("fgsm-training-resists-more", "some-map-beats-gradient", "tension"),
    },
    "cifar10": {
        "supported": (
            *("epsilon-raises-the-loss", "delta-lowers-the-loss", "neutral-keeps-the-loss"),
            *("augmentation-helps", "attribution-matters", "tension-of-one-best"),
            *("opposed-groups", "set-beats-best-member", "published-methods-help"),
            *("hand-crafted-is-better", "closes-the-same-gap", "fastaba-ce-is-better"),
            *("augmentation-helps-where-both-are-tuned", "augmentation-beats-tuned-vanilla"),
            *("augmentation-helps-with-most-samples", "batch-norm-as-published"),
        ),
        "refuted": (
            *("noise-helps", "tension-best-group", "group-order", "attribution-matters-epsilon"),
            "tuning-helps",
            *("groups-are-a-tendency", "some-map-beats-gradient-at-equal-time"),
            "hidden-layers-help",
        ),
        "inconclusive": (
            *("maps-beat-placebos", "lagged-is-as-good", "beats-cheap-comparators"),
            *("adds-to-comparators", "gain-shrinks-with-size"),
        ),
    },
    "news": {
        "supported": (
            *("epsilon-raises-the-loss", "delta-lowers-the-loss", "neutral-keeps-the-loss"),
            *("lagged-is-better-at-equal-cost", "lagged-is-better-at-equal-time"),
            *("tension-of-one-best", "tuning-helps", "closes-the-same-gap"),
        ),
        "refuted": (
            *("groups-are-a-tendency", "more-passes-help-at-equal-cost"),
            *("more-passes-help-at-equal-time", "published-methods-help"),
            *("mendaba-beats-challenger", "adds-to-comparators", "beats-every-comparator"),
        ),
        "inconclusive": ("every-map-helps", "augmentation-helps", "comparators-help"),
    },
    "breast-cancer": {
        "supported": ("noise-is-as-good", "groups-are-a-tendency"),
        "refuted": (
            *("published-methods-help", "augmentation-helps", "comparators-help", "noise-helps"),
            *("variety", "tension", "matched-tension", "augmentation-helps-where-both-are-tuned"),
        ),
    },
}


@pytest.mark.parametrize("dataset", SAID)
def test_the_prose_of_the_results_says_what_they_say(dataset):
    judged = claims.judged(SHIPPED, dataset, Look())
    for verdict, names in SAID[dataset].items():
        for name in names:
            assert judged[name][0][1].verdict == verdict, name


# The same with 1,000 MNIST pictures, whose runs have a preset of their own.
SAID_WITH_MORE_PICTURES = {
    "hypotheses": {
        "supported": ("augmentation-helps", "attribution-matters"),
        "refuted": ("noise-helps", "set-beats-best-member"),
    },
    "comparators": {
        "supported": ("published-methods-help", "hand-crafted-is-better", "closes-the-same-gap"),
        "refuted": ("beats-cheap-comparators", "beats-every-comparator"),
    },
}


@pytest.mark.parametrize("study", SAID_WITH_MORE_PICTURES)
def test_the_prose_on_more_pictures_says_what_they_say(study):
    tested = rules.test_all(load(SHIPPED, study, "mnist", "med"), Look().rng())
    found = {one.hypothesis.name: one for one in tested}
    for verdict, names in SAID_WITH_MORE_PICTURES[study].items():
        assert {found[name].verdict for name in names} == {verdict}
    if study == "comparators":
        row = found["beats-cheap-comparators"].decisive
        number = "{:.1f} [{:.1f}, {:.1f}]".format(
            *(row[f"estimate{end}"] for end in ("", "_low", "_high"))
        )
        for page in (README, RESULTS):
            assert number.replace("-", "−") in " ".join(page.split())


def test_the_results_name_the_verdicts_that_change_where_every_arm_is_tuned():
    judged = claims.judged(SHIPPED, "digits", Look())
    both = {
        name: {study: verdict.verdict for study, verdict, _ in entries}
        for name, entries in judged.items()
    }
    changed = {
        name: of_studies["tuned"]
        for name, of_studies in both.items()
        if len(set(map(of_studies.get, ("hypotheses", "tuned"))) - {None}) == 2
    }
    assert changed == {
        "set-beats-best-member": "refuted",
        "noise-is-as-good": "inconclusive",
        "group-order-measured": "supported",
    }


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (
            "cifar10",
            {
                "supported": ("augmentation-helps", "tension-of-one-best", "set-beats-best-member"),
                "inconclusive": ("tension-best-group", "attribution-matters-epsilon"),
            },
        ),
        ("news", {"refuted": ("tension-of-one-best",), "inconclusive": ("augmentation-helps",)}),
    ],
)
def test_the_prose_on_tuned_strengths_says_what_the_runs_say(dataset, said):
    tested = rules.test_all(load(SHIPPED, "tuned", dataset), Look().rng())
    found = {one.hypothesis.name: one for one in tested}
    for verdict, names in said.items():
        assert {found[name].verdict for name in names} == {verdict}
    row = found["tension-of-one-best"].decisive
    assert row["estimate"] == pytest.approx({"cifar10": 0.5, "news": 0.0}[dataset], abs=0.25)


def test_the_pages_state_how_much_wider_an_interval_over_images_is():
    study = load(SHIPPED, "hypotheses", "digits")
    rows = {one.hypothesis.name: one for one in rules.test_all(study, Look().rng())}
    row = rows["augmentation-helps"].decisive
    usual, wide = (
        (row[f"{name}_high"] - row[f"{name}_low"]) / 2 for name in ("estimate", "images")
    )
    page = " ".join((ROOT / "docs" / "statistics.md").read_text(encoding="utf-8").split())
    assert (
        f"is known to ±{usual:.1f} points for the 500 validation images, and to ±{wide:.1f}" in page
    )
    assert "about twice as wide for the gain of all adjustments" in " ".join(RESULTS.split())
    assert wide / usual == pytest.approx(2, abs=0.25)
    example = page.partition("> All adjustments on real maps")[2].partition("Read it from")[0]
    said = rows["attribution-matters"].sentence.partition("All adjustments on real maps")[2]
    assert example.replace("> ", "").strip() == said.strip()


def epsilon_less_neutral(runs):
    isolation = isolation_table(runs, np.random.default_rng(0))
    groups = group_table(isolation, np.random.default_rng(0)).set_index("name")
    row = groups.loc["Epsilon − Neutral"]
    return [row["estimate"], row["estimate_low"], row["estimate_high"]]


def stated_beside_the_published_tables(place):
    section = RESULTS[RESULTS.index("## Beside the published tables") :]
    number = r"(−?\d+\.\d)"
    stated = re.findall(rf"{number}\s*\[{number},\s*{number}\]", section)[place]
    return [float(n.replace("−", "-")) for n in stated]


@pytest.mark.parametrize(("dataset", "place"), [("cifar10", 0), ("news", 1)])
def test_the_results_state_what_the_shipped_runs_say_beside_the_published_ones(dataset, place):
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
def test_the_results_state_what_strength_and_length_change(dataset, epochs, strength, place):
    found = epsilon_less_neutral(shipped_with("isolation", dataset, epochs, strength))
    assert stated_beside_the_published_tables(place) == pytest.approx(found, abs=0.11)


def test_the_results_state_how_small_a_sets_margin_is_on_news_at_the_weaker_strength():
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
def test_the_results_state_how_the_27_rank_beside_the_published(dataset, epochs, strength, place):
    section = RESULTS[RESULTS.index("## Beside the published tables") :]
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
def test_the_results_state_what_methods_gain_with_and_without_batch_norm(dataset, study, stated):
    table = benchmark_agreement_table(
        load(SHIPPED, study, dataset).frame, ["mnist-tiny"], np.random.default_rng(0)
    )
    gains = table[table["split"].str.startswith("test")]["here"].dropna()
    assert len(gains) == 4
    assert stated.format(f"{gains.min():.1f} to {gains.max():.1f}") in " ".join(RESULTS.split())


def test_the_readme_states_the_speed_that_was_measured_against_the_fastest_peer():
    """The engine as it is by default over the fastest of the peers, where it leads by least and by
    most."""
    measured = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    table = measured.partition("### Engine and peers")[2].partition("###")[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    head, rows = lines[0], [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    peers = head[head.index("with fused blocks") + 1 : head.index("fastest peer")]
    said = README.partition("<!-- speed: begin -->")[2].partition("<!-- speed: end -->")[0]
    assert rows and len(peers) == 5 and f"over {len(rows)} workloads" in " ".join(said.split())
    column, leads = head.index("engine over it") + kernels.DEFAULT, []
    for row, line in zip(rows, lines[1:], strict=True):
        rates = {peer: float(row[peer]) for peer in peers if row[peer] != "–"}
        assert len(rates) >= 3
        assert rates[row["fastest peer"]] == max(rates.values())
        lead = re.findall(r"[*]{2}(.*?)[*]{2}", line[column])[0]
        name = row["data"].partition(",")[0]
        stated = f"{lead} times ({name}, batch {row['batch']}: {row['fastest peer']})"
        leads.append((float(lead), stated))
    ends = f"{min(leads)[1]} to {max(leads)[1]}"
    assert ends in " ".join(said.split())
