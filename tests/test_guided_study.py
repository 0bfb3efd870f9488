"""Study guided: what it declares, and that it finds a planted effect of the map, and no other."""

import pytest
from oracles.made_results import make_study

from aba_core.arms import METHODS
from analysis.exhibits import Look
from analysis.results import load
from analysis.studies import guided, hypotheses, standard_study
from analysis.studies.attributions import placebo_of, random_of

STUDY = standard_study("guided", preset="standard")


@pytest.mark.parametrize(
    ("dataset", "there"),
    [
        ("digits", [*guided.LED, "aicd"]),
        ("cifar10", [*guided.LED, "aicd"]),
        ("news", ["guided-dropout", "reldrop-pixel"]),
        ("breast-cancer", ["guided-dropout", "reldrop-pixel"]),
    ],
)
def test_placebos_differ_from_their_method_in_the_map_alone(dataset, there):
    study = standard_study("guided", dataset)
    arms = {arm.name: arm.data().get("method") for arm in study.arms}
    names = {"Vanilla", "All"}
    for kind in there:
        title = METHODS[kind].title
        names.add(title)
        if kind == "aicd":
            continue
        for placebo, of in (("other_sample", placebo_of), ("random", random_of)):
            names.add(of(title))
            led, placed = ({"kind": m} if isinstance(m, str) else m for m in
                           (arms[title], arms[of(title)]))  # fmt: skip
            assert placed == {**led, "placebo": placebo}
    assert set(arms) == names
    assert set().union(*(one.arms for one in study.hypotheses)) == names


def test_every_class_is_one_arm_tried_with_as_many_values():
    strengths = STUDY.tuning.strengths
    for one in STUDY.tuning.classes:
        (values,) = one.values.values() if one.values else [strengths]
        assert one.arms == (one.name,) and len(values) == len(strengths)
    assert {one.name for one in STUDY.tuning.classes} == {a.name for a in STUDY.arms} - {"Vanilla"}


def test_its_subsets_are_of_no_other_study():
    others = [
        standard_study(name, preset="standard")
        for name in (
            "comparators",
            "comparators-more",
            "hypotheses",
            "tuned",
            "attacks",
            "landscape",
        )
    ]
    assert not set(STUDY.seeds) & set().union(*(other.seeds for other in others))


@pytest.mark.parametrize(("gained", "verdict"), [(3.0, "supported"), (0.0, "refuted")])
def test_an_effect_of_the_map_is_found_where_it_is_planted_and_only_there(
    gained, verdict, tmp_path
):
    own = {METHODS[kind].title for kind in guided.LED}
    make_study(tmp_path, STUDY, mean=lambda arm: 62.0 + gained * (arm in own), sd=0.2)
    study = load(tmp_path, "guided", "digits")
    found = {one.hypothesis.name: one for one in hypotheses.judge(study, Look())}
    assert found["guided-methods-gain-from-their-map"].verdict == verdict
    assert found["some-guided-method-gains-from-its-map"].verdict == verdict
    assert found["cutting-out-what-matters-is-better"].verdict == verdict
    shown = guided.exhibits(study, Look())
    table = shown.tables["guided"].data.set_index("arm")
    assert table.loc["ICD", "gain"] - table.loc["ICD", "random"] == pytest.approx(gained, abs=0.2)
    assert len(table) == 8
    words = [
        t.get_text() for t in shown.figures["guided"].draw("double").axes[0].get_legend().texts
    ]
    assert words == ["the sample's own map", "another sample's map", "random features"]
