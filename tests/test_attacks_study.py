"""The study of attacks: unseen subsets, what decides claim C29, what the alarm says."""

import numpy as np
import pandas as pd
import pytest
from oracles.in_this_process import here

from aba_core.quantities import CARD_QUANTITIES
from analysis import claims, plan, results, runner
from analysis.exhibits import Look
from analysis.rooms import of_study
from analysis.studies import STANDARD, attacks, standard_study
from analysis.study import TUNING_SEED, StudyError

DATA = ("digits", "mnist", "cifar10", "breast-cancer")
QUICK = {"attacked": 5, "alarm": 5, "long_steps": 20, "spsa_steps": 1}


def test_its_subsets_are_those_of_no_other_study_and_of_no_shipped_run():
    drawn = {d: set(standard_study("attacks", d, "standard").seeds) for d in DATA}
    for dataset, seeds in drawn.items():
        assert min(seeds) >= attacks.UNSEEN_SEED and max(seeds) < TUNING_SEED
        for name in set(STANDARD) - {"attacks"}:
            assert not seeds & set(standard_study(name, dataset, "standard").seeds), name
    for declaration in results.declarations(results.SHIPPED):
        study = declaration.study
        if study.name != "attacks":
            assert not drawn.get(study.dataset, set()) & set(study.seeds), study.name


def test_noise_has_the_norm_of_all_and_the_attacks_are_all_that_a_card_measures():
    for dataset in DATA:
        study = standard_study("attacks", dataset)
        arms = {arm.name: arm for arm in study.arms}
        aba, noise = dict(arms["All"].method), dict(arms[attacks.NOISE].method)
        assert noise.pop("placebo") == "gaussian" and noise == aba
        assert not {"All", attacks.NOISE} & {n for c in study.tuning.classes for n in c.arms}
        assert plan.core_config(study).card.aspects == ("attacks",)
        assert len(study.seeds) <= study.hypotheses[0].n


def test_hypotheses_are_of_accuracies_under_attack_and_decide_the_claim():
    study = standard_study("attacks")
    quantities = {one.name: one.quantity for one in study.hypotheses}
    assert all(name.removeprefix("test_") in CARD_QUANTITIES for name in quantities.values())
    (claim,) = (one for one in claims.claims() if one.id == "C29")
    assert set(claim.hypotheses) <= set(quantities)
    # PGD stands beside FGSM, and noise of the same norm beside both.
    decided = {quantities[name] for name in claim.hypotheses}
    assert decided == {"test_pgd20_accuracy", "test_fgsm_accuracy", "test_transfer_accuracy"}


def test_texts_are_refused_with_the_reason():
    with pytest.raises(StudyError, match="attacks does not go with news: a small change of word"):
        standard_study("attacks", "news")


def test_the_alarm_tells_masked_gradients_and_failed_checks():
    rng = np.random.default_rng(0)
    runs = pd.DataFrame(
        {
            "arm": arm, "status": "finished", "test_accuracy": 90.0,
            "test_alarm_pgd20_accuracy": 40 + rng.normal(), "test_alarm_long_accuracy": 39.0,
            "test_alarm_spsa_accuracy": spsa + rng.normal(),
            "test_attack_suspect": float(arm == "Masked") * (seed % 2) * 2,
        }
        for arm, spsa in (("Honest", 60.0), ("Masked", 10.0))
        for seed in range(8)
    )  # fmt: skip
    table = attacks.alarm_table(runs, ("Honest", "Masked"), rng).set_index("arm")
    assert table.loc["Honest", "gap_low"] > 0 > table.loc["Masked", "gap_high"]
    assert table.loc["Honest", ["failed", "suspect"]].eq(0).all()
    assert table.loc["Masked", "failed"] == 1.0 and table.loc["Masked", "suspect"] == 50.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three subsets of one epoch, with weaker attacks; tuned Vanilla by hand."""
    folder = tmp_path_factory.mktemp("attacks")
    study = standard_study("attacks")
    arms = tuple(
        arm.trained_with({"weight_decay": 0.005}) if arm.name == attacks.TUNED else arm
        for arm in study.arms
    )
    config = {**study.config, "epochs": 1, "card": {**study.config["card"], **QUICK}}
    changes = {"arms": arms, "config": config, "seeds": (300, 301, 302), "tuning": None}
    runner.run(study.model_copy(update=changes), folder, device="cpu", engine=here)
    return folder


def test_verdicts_card_and_alarm_are_shown_and_the_ledger_has_the_claim(folder):
    shown = of_study("attacks", folder, "digits", Look())
    assert {"attacks-verdicts", "attacks-card", "attacks-card-attacks"} <= set(shown.figures)
    assert {"attacks-verdicts", "attacks-alarm", "attacks-card-long"} <= set(shown.tables)
    verdicts = shown.tables["attacks-verdicts"].data
    assert len(verdicts) == 5 and (verdicts["n"] == 3).all()
    assert verdicts["declared"].str.contains("before the data").all()
    rows = claims.ledger(folder)
    of_claim = rows[(rows["claim"] == "C29") & (rows["dataset"] == "digits")]
    assert len(of_claim) == 4 and (of_claim["verdict"] != claims.OPEN).all()
