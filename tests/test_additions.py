"""Adding subsets until every verdict is reached."""

import pytest
from oracles.in_this_process import here

from analysis import additions
from analysis import results as store
from analysis.studies import standard_study
from analysis.study import Study, StudyError

PAIR = {"name": "pair", "adjustments": "3,4", "strength": 0.5, "target": "loss"}


def study(margin: float = 0.5, **changes) -> Study:
    fields = {
        "name": "small", "dataset": "digits", "seeds": (200, 201), "fresh_subsets": 1,
        "config": {"epochs": 1, "batch_size": 20},
        "arms": ({"name": "Vanilla", "method": "vanilla"}, PAIR),
        "hypotheses": ({
            "name": "helps", "statement": "The pair helps.", "estimand": "pair less Vanilla",
            "comparisons": [{"label": "pair − Vanilla", "weights": {"pair": 1, "Vanilla": -1}}],
            "n": 4, "margin": margin,
        },),
    }  # fmt: skip
    return Study(**(fields | changes))


def test_subsets_are_added_until_every_verdict_is_reached(tmp_path):
    said: list[str] = []
    assert additions.add(
        study(margin=60.0), tmp_path, "decided", 10, say=said.append, engine=here, device="cpu"
    )
    looks = [line for line in said if line.startswith("look")]
    assert looks[-1].endswith("every verdict is reached") and 1 < len(looks) < 5
    (declaration,) = store.declarations(tmp_path)
    assert len(declaration.declared) == len(looks)  # every addition is an event
    assert [entry["seeds"] for entry in declaration.declared] == [
        2 * (1 + number) for number in range(len(looks))
    ]
    assert declaration.study.hypotheses[0].n == 10 and declaration.study.hypotheses[0].looks == 5
    times = {2: "once"}.get(len(looks), f"{len(looks) - 1} times")
    added = f"seeds were added {times} after first results, at declared looks"
    assert len(looks) == 1 or any(added in line for line in said)
    assert sum(line.startswith("  helps: ") for line in said) == len(looks)
    assert f"It is at the level of look {len(looks)} of 5." in " ".join(said)
    assert said[1].startswith("  helps: not tested, 2 subsets have runs of all arms; needed: 3")
    again: list[str] = []
    assert additions.add(
        study(margin=60.0), tmp_path, "decided", 10, say=again.append, engine=here, device="cpu"
    )
    assert again[: 2 * len(looks)] == said[: 2 * len(looks)]  # looks at its own subsets, as before


def test_there_are_never_more_subsets_than_allowed():
    runs: list[int] = []

    class Result:
        missing = ()

    class Open:
        verdict = "inconclusive"
        hypothesis = study().hypotheses[0]

    def run(part: Study) -> Result:
        runs.append(len(part.seeds))
        assert part.seeds[0] == 200
        return Result()

    looks = list(additions.until_decided(study(), 12, run, lambda result, number: [Open()]))
    assert runs == [3, 5, 8, 10, 12] and [look.number for look in looks] == [1, 2, 3, 4, 5]
    assert looks[-1].open == ["helps"]


def test_what_cannot_be_decided_is_refused():
    with pytest.raises(StudyError, match="declares no hypotheses"):
        additions.with_looks(standard_study("isolation"), 20)
    with pytest.raises(StudyError, match="no fresh training subset for each seed"):
        additions.with_looks(study(fresh_subsets=0), 20)
    with pytest.raises(StudyError, match="--max-seeds 9 for 5 looks; allowed: .* from 10"):
        additions.with_looks(study(), 9)
