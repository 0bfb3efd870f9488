"""Cards of a study: what the command declares and refuses, verdicts by aspect, what is shown."""

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from oracles.in_this_process import here
from test_cli import aba

from aba_core.aspects import CardSettings
from aba_core.quantities import ASPECTS, JUDGED, metric_label
from analysis import figures, plan, reading_cards, rooms, runner, tuning
from analysis.exhibits import ExportError
from analysis.reading_cards import Asked, declared
from analysis.studies import card, standard_study
from analysis.study import StudyError, settings_of

ARMS = ("Better", "Worse", "Same")
QUICK = {"samples": 30, "attacked": 10, "alarm": 5, "probed": 5, "long_steps": 20, "spsa_steps": 1}


def made_runs(n=12):
    """Runs whose differences to Vanilla are known: in ECE (less is better), FGSM and NLL."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(n):
        subset = rng.normal()
        for arm, shift in {"Vanilla": 0.0, "Better": -4.0, "Worse": 4.0, "Same": 0.0}.items():
            spread = 0.02 if arm == "Same" else 0.5
            rows.append(
                {
                    "arm": arm, "seed": seed, "subset_seed": seed, "status": "finished",
                    "test_ece": 20 + subset + shift + spread * rng.normal(),
                    "test_nll": 1 + (subset + shift + spread * rng.normal()) / 10,
                    "test_fgsm_accuracy": 50 - subset - shift + spread * rng.normal(),
                    "test_fog_accuracy": 60.0, "seconds": 1.0, "seconds_calibration": 0.5,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def table():
    return card.card_table(made_runs(), ARMS, "Vanilla", np.random.default_rng(0))


def verdicts(table, quantity):
    return table[table["quantity"] == quantity].set_index("arm")["verdict"].to_dict()


def test_gains_and_harms_follow_the_direction_of_each_quantity(table):
    for quantity in ("ece", "nll", "fgsm_accuracy"):
        said = verdicts(table, quantity)
        assert (said["Better"], said["Worse"], said["Vanilla"]) == ("gain", "harm", "")
    assert verdicts(table, "ece")["Same"] in ("negligible", "open")
    assert verdicts(table, "nll")["Same"] == "open"  # no margin is declared for nats


def test_only_judged_quantities_have_verdicts_and_families_are_aspects(table):
    assert "fog_accuracy" not in set(table["quantity"])
    families = table.set_index("quantity")["family"]
    assert set(families["ece"]) == {2 * len(ARMS)} and set(families["fgsm_accuracy"]) == {3}
    assert set(table["aspect"]) == {"calibration", "attacks"}


def test_intervals_of_an_aspect_hold_together(table):
    """Twice as many quantities, half as much left out of each interval: Bonferroni by hand."""
    from scipy import stats

    runs = made_runs().pivot(index="seed", columns="arm", values="test_ece")
    difference = runs["Better"] - runs["Vanilla"]
    reach = stats.t.ppf(1 - 0.05 / 2 / (2 * 3), len(difference) - 1)
    half = reach * difference.std(ddof=1) / len(difference) ** 0.5
    row = table[(table["quantity"] == "ece") & (table["arm"] == "Better")].iloc[0]
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["difference_high"] - row["difference"] == pytest.approx(half, rel=1e-6)


def test_a_harm_is_told_as_clearly_as_a_gain(table):
    told = dict(zip(ARMS, card.sentences(table), strict=True))
    assert "(calibration" in told["Better"] and told["Better"].endswith("worse in none.")
    assert re.search(r"worse in [1-9]\d*: negative log-likelihood", told["Worse"])
    wide = card.wide(table)
    assert wide["Better"].str.endswith("▲").all() and wide["Worse"].str.endswith("▼").all()
    gain, harm = card.LOOKS["gain"], card.LOOKS["harm"]
    assert gain[:2] != harm[:2]


def test_what_too_few_subsets_leave_untested_is_no_absence_of_harm(table):
    untested = table.assign(verdict=table["verdict"].mask(table["verdict"] != "", "not tested"))
    for sentence in card.sentences(untested):
        assert "nothing is tested" in sentence and "worse" not in sentence
    ax = card.overview_plot(untested)
    named = [text.get_text() for text in ax.texts].count("not tested")
    assert named == (untested["verdict"] == "not tested").sum() > 0
    plt.close(figures.figure_of(ax))


def test_the_figures_mark_every_verdict_and_have_a_panel_a_quantity(table):
    ax = card.overview_plot(table)
    filled = [line for line in ax.lines if line.get_marker() in ("^", "v")]
    assert len(filled) == 6  # two arms by three quantities
    assert len({line.get_markersize() for line in filled}) == 1
    plt.close(figures.figure_of(ax))
    figure = card.aspect_plot(table[table["aspect"] == "calibration"])
    assert len(figure.axes) == 2
    assert "less is better" in " ".join(figure.axes[0].get_xlabel().split())
    plt.close(figure)


def test_every_quantity_of_a_card_has_a_label_and_a_direction():
    for aspect, names in ASPECTS.items():
        assert names[: len(JUDGED[aspect])] == JUDGED[aspect] and JUDGED[aspect]
        for name in names:
            assert metric_label(f"test_{name}").startswith("Test ")
    assert len(set(sum(ASPECTS.values(), ()))) == sum(map(len, ASPECTS.values()))


# --- what is declared ----------------------------------------------------------------------------


def test_the_card_is_no_part_of_the_tuning_and_of_no_other_run():
    study = standard_study("card")
    assert "card" in study.config and "card" not in tuning.trial(study).config
    assert all(arm.subset_per_run for arm in study.arms)
    config = plan.core_config(study)
    assert config.card == CardSettings()
    assert plan.core_config(standard_study("isolation")).card is None


def test_a_study_keeps_its_arms_and_gets_a_name_of_its_own():
    made = declared("benchmark", None, None, 3, (), Asked(arms="MendABA", aspects="ood"))
    assert made.name == "benchmark-card" and [arm.name for arm in made.arms] == [
        "Vanilla",
        "MendABA",
    ]
    assert made.config["card"]["aspects"] == ["ood"] and len(made.seeds) == 3
    assert not made.hypotheses and made.room == card.ROOM


@pytest.mark.parametrize(
    ("asked", "study", "message"),
    [
        (Asked(arms="mixpu"), None, "unknown arm 'mixpu' .did you mean 'mixup'"),
        (Asked(aspects="colour"), None, "unknown aspect 'colour'; known: calibration"),
        (Asked(arms="vanilla"), None, "card has one arm, 'Vanilla'; needed"),
        (Asked(arms="Nobody"), "benchmark", "benchmark has no arm 'Nobody'; there: Vanilla"),
        (Asked(), "frozen", "frozen is a frozen study; needed"),
        (Asked(), "isolatoin", "unknown study 'isolatoin'"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_a_line(asked, study, message):
    with pytest.raises(StudyError, match=message) as error:
        declared(study, None, None, None, (), asked)
    assert "\n" not in str(error.value)


def test_other_data_sets_that_do_not_fit_are_refused_before_anything_is_trained():
    made = declared(None, None, None, 3, (), Asked(arms="mixup", others="news", aspects="ood"))
    with pytest.raises(StudyError, match="others names 'news'; allowed: pictures"):
        plan.card_cost(made)


def test_the_command_refuses_in_one_line_and_with_code_2():
    done = aba("card", "--arms", "mixpu")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "mixpu" in done.stderr


# --- really trained ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three subsets of one epoch, with part of a card."""
    folder = tmp_path_factory.mktemp("cards")
    aspects = ("calibration", "selective", "attacks", "geometry")
    made = card.declare(settings_of(), ["mixup"], CardSettings(aspects, **QUICK))
    config = {**made.config, "epochs": 1}
    made = made.model_copy(update={"config": config, "seeds": (0, 1, 2), "tuning": None})
    runner.run(made, folder, device="cpu", engine=here)
    return folder


def test_runs_are_found_with_the_columns_of_their_cards(folder):
    shown = rooms.of_study("card", folder, "digits", reading_cards.LOOK)
    assert {"card", "card-attacks", "card-geometry"} <= set(shown.figures)
    long = shown.tables["card-long"].data
    assert set(long["n"]) == {3} and long["mean"].notna().all()
    assert set(long["aspect"]) == {"calibration", "selective", "attacks", "geometry"}
    cost = shown.tables["card-cost"].data.set_index("aspect")["seconds"]
    assert (cost > 0).all() and "memory" not in cost.index


def test_the_estimate_names_every_aspect_and_is_of_the_right_size(folder):
    made = card.declare(settings_of(), ["mixup"], CardSettings(("ood", "attacks"), **QUICK))
    made = made.model_copy(update={"config": {**made.config, "epochs": 1}})
    cost = plan.card_cost(made)
    assert set(cost) == {"training", "ood", "attacks"} and all(v > 0 for v in cost.values())
    assert cost["attacks"] < 20


def test_runs_without_a_card_say_how_to_make_one(folder):
    plain = standard_study("benchmark")
    config = {**plain.config, "epochs": 1}
    changes = {"config": config, "seeds": (0,), "tuning": None, "room": card.ROOM}
    runner.run(plain.model_copy(update=changes), folder, device="cpu", engine=here)
    with pytest.raises(ExportError, match="no report card; make them: aba card benchmark"):
        rooms.of_study("benchmark", folder, "digits")
