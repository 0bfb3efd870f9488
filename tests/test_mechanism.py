"""Mechanism metrics: each equals its slow twin, and measuring leaves the training alone."""

import math
from dataclasses import replace

import pytest
import torch
from oracles.probes import probe as probe_model
from oracles.slow_mechanism import probe_rows, slow_measure
from torch import Tensor, nn

from aba_core import mechanism
from aba_core.adjustments import AdjustmentSet
from aba_core.arms import Arm, TrainConfig
from aba_core.attribution import cross_entropy
from aba_core.datasets import Split, load_dataset
from aba_core.mechanism import Probe, measure, measured_steps
from aba_core.methods.aba import CHALLENGER, FASTABA, MENDABA, Augmentation
from aba_core.replicas import Replicas
from aba_core.selection import Percentiles
from aba_core.training import train

ALL = Augmentation(AdjustmentSet.parse("all"), strength=0.3, target="loss")
VANILLA = replace(ALL, strength=0.5)  # what an arm without augmentation is probed with
exact = TrainConfig(model="small_cnn", epochs=2, batch_size=5, dtype="float64", mechanism=3)


def stacked(
    name: str, augmentations: list[Augmentation | None], samples: int = 6
) -> tuple[list[nn.Module], Replicas, Probe]:
    """Models of different seeds, stacked, and a probe of all the data there are."""
    models = [probe_model(name, seed=seed)[0] for seed in range(len(augmentations))]
    _, x, y = probe_model(name, batch=samples)
    seeds = torch.arange(3, 3 + len(augmentations))[:, None]
    made = Probe.of(augmentations, seeds, Split(x, y), torch.float64, 0.5, samples=samples)
    return models, Replicas.stack(models), made


def close(found: Tensor | float, expected: float, tolerance: float = 1e-8) -> None:
    assert float(found) == pytest.approx(expected, rel=tolerance, abs=tolerance)


WAYS = {
    "vanilla": [None, None],
    "sets and strengths": [ALL, replace(ALL, strength=0.05, adjustments="epsilon")],
    "fixed magnitude": [replace(CHALLENGER, target="loss", strength=0.4)],
    "score of a random class": [replace(MENDABA, strength=0.2)],
    "signs": [replace(FASTABA, strength=0.2)],
    "smoothed": [replace(ALL, attribution="smoothgrad", attribution_samples=3)],
    "train mode": [replace(ALL, attribution_mode="train", update_statistics=True)],
}


@pytest.mark.parametrize("name", ["smooth_mlp", "kinked_mlp", "picture"])
@pytest.mark.parametrize("way", WAYS)
def test_every_metric_equals_its_slow_twin(name, way):
    models, replicas, probe = stacked(name, WAYS[way])
    parameters = replicas.parameters.shape[1]
    found = measure(replicas, replace(probe, lanczos_steps=parameters, trace_probes=2))
    rows = probe_rows(6, 6)
    _, x, y = probe_model(name, batch=6)
    for number, model in enumerate(models):
        aug = WAYS[way][number] or VANILLA
        expected = slow_measure(model, x[rows], y[rows], aug, 3 + number)
        more = {"trace_error_clean", "trace_error_augmented", "probe_samples"}
        assert set(found) == set(expected) | more
        for metric, value in expected.items():
            close(found[metric][number], value)
        # All of the trace lies on the Lanczos vectors: nothing is left to be estimated.
        close(found["trace_error_clean"][number], 0.0)


def test_few_probes_estimate_the_trace_without_bias_and_know_their_error():
    runs = 200
    model = probe_model("picture")[0]
    _, x, y = probe_model("picture", batch=6)
    replicas = Replicas.stack([model] * runs)
    seeds = torch.arange(runs)[:, None]
    probe = Probe.of([ALL] * runs, seeds, Split(x, y), torch.float64, 0.5, samples=6)
    found = measure(replicas, replace(probe, lanczos_steps=2, trace_probes=4))
    true = slow_measure(model, x, y, ALL, 0)["trace_clean"]
    estimates, errors = found["trace_clean"], found["trace_error_clean"]
    spread = float(estimates.std())
    assert spread > 0.01 * abs(true)  # a real estimate, not the exact number
    assert abs(float(estimates.mean()) - true) < 4 * spread / math.sqrt(runs)
    assert float(errors.square().mean().sqrt()) == pytest.approx(spread, rel=0.2)


def test_the_usual_number_of_lanczos_steps_finds_the_eigenvalue_of_a_trained_model():
    digits = load_dataset("digits")
    config = TrainConfig(epochs=20, batch_size=20, optimizer="adam", learning_rate=0.005)
    replicas = Replicas.stack([train(config, [Arm("a", ALL)], [0]).model("a", 0)])
    seeds = torch.zeros(1, 1, dtype=torch.int64)
    probe = Probe.of([ALL], seeds, digits.train, torch.float32, 0.5)
    few, many = (measure(replicas, replace(probe, lanczos_steps=k)) for k in (7, 30))
    for name in ("eigenvalue_clean", "eigenvalue_augmented"):
        assert float(few[name]) == pytest.approx(float(many[name]), rel=0.02)


def test_at_a_tiny_strength_losses_are_linear_and_opposed_gradients_equal():
    _, replicas, probe = stacked("smooth_mlp", [replace(ALL, strength=1e-6)])
    found = measure(replicas, probe)
    assert float(found["linearity_error"]) < 1e-3
    assert float(found["cosine_epsilon_delta"]) == pytest.approx(1.0, abs=1e-4)


def test_per_sample_gradients_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    _, replicas, probe = stacked("picture", [ALL, ALL])
    whole = measure(replicas, probe)
    monkeypatch.setattr(mechanism, "GRADIENTS_AT_ONCE", 2000)
    pieces = measure(replicas, probe)
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, rtol=1e-10, atol=1e-12)


# --- in training ---------------------------------------------------------------------------------


ARMS = [
    Arm("vanilla"),
    Arm("aba", ALL),
    Arm("moving", replace(ALL, attribution_mode="train", update_statistics=True)),
    Arm("signs", replace(FASTABA, strength=0.2, top_k=3)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_measuring_changes_no_bit_of_the_training(dtype, batch_norm, tiny_splits):
    config = replace(exact, dtype=dtype, batch_norm=batch_norm)
    state = torch.get_rng_state()
    off, on = (
        train(replace(config, mechanism=count), ARMS, [0, 1], splits=tiny_splits)
        for count in (0, 4)
    )
    assert torch.equal(torch.get_rng_state(), state)
    for arm in ARMS:
        for seed in (0, 1):
            values = off.model(arm.name, seed).state_dict()
            for name, value in on.model(arm.name, seed).state_dict().items():
                assert torch.equal(value, values[name]), (arm.name, name)
    assert off.mechanism().empty


def test_rows_are_measured_at_evenly_spaced_steps_and_in_the_declared_order(tiny_splits):
    runs = train(exact, ARMS, [4, 1], splits=tiny_splits)
    frame = runs.mechanism()
    assert sorted(set(frame.step)) == [0, 3, 6]
    assert list(frame.step) == sorted(frame.step)
    members = [(arm.name, seed) for arm in ARMS for seed in (4, 1)]
    assert list(zip(frame.arm, frame.seed, strict=True)) == members * 3
    assert {"dataset", "strength", "probe_strength", "cosine_epsilon_delta"} <= set(frame)
    # Before the first step arms differ in how they are probed, not in the model.
    first = frame[(frame.step == 0) & frame.arm.isin(["vanilla", "aba"]) & (frame.seed == 4)]
    assert first.eigenvalue_clean.nunique() == 1


@pytest.mark.parametrize(("count", "steps"), [(1, {9}), (2, {0, 9}), (4, {0, 3, 6, 9})])
def test_one_measurement_is_the_last_and_several_start_at_the_first_step(count, steps):
    assert measured_steps(count, 9) == steps


def test_more_measurements_than_steps_are_one_a_step():
    assert measured_steps(10, 2) == {0, 1, 2}


def test_the_last_row_is_that_of_the_trained_model(tiny_splits):
    runs = train(exact, ARMS[:2], [2], splits=tiny_splits)
    for arm in ARMS[:2]:
        row = runs.mechanism().query("step == 6 and arm == @arm.name").iloc[0]
        replicas = Replicas.stack([runs.model(arm.name, 2)])
        seeds = torch.tensor([[2]])
        probe = Probe.of([arm.method], seeds, tiny_splits.train, torch.float64, 0.5)
        for name, value in measure(replicas, probe).items():
            close(value, row[name], 1e-6)


def test_a_run_alone_is_measured_as_among_others(tiny_splits):
    more = [Arm(f"s{k}", replace(ALL, strength=0.1 * k)) for k in range(1, 6)]
    together = train(exact, [*ARMS, *more], [0, 1, 2], splits=tiny_splits).mechanism()
    alone = train(exact, [more[2]], [1], splits=tiny_splits).mechanism()
    among = together[(together.arm == "s3") & (together.seed == 1)]
    for name in alone.select_dtypes("number"):
        assert among[name].to_numpy() == pytest.approx(alone[name].to_numpy(), rel=1e-6, abs=1e-9)


def test_a_run_that_diverged_has_no_numbers_and_spares_its_neighbours(tiny_splits):
    bad = Arm("bad", ALL, learning_rate=1e160)
    with_bad = train(exact, [bad, Arm("aba", ALL)], [0], splits=tiny_splits)
    without = train(exact, [Arm("aba", ALL)], [0], splits=tiny_splits).mechanism()
    frame = with_bad.mechanism()
    last = frame[(frame.arm == "bad") & (frame.step == 6)].iloc[0]
    assert math.isnan(last.eigenvalue_clean) and math.isnan(last.cosine_epsilon_delta)
    assert set(with_bad.frame().status) == {"diverged", "finished"}
    good = frame[frame.arm == "aba"]
    for name in without.select_dtypes("number"):
        assert good[name].to_numpy() == pytest.approx(without[name].to_numpy(), rel=1e-6, abs=1e-9)


def test_soft_labels_are_measured_as_hard_ones(unchecked_shapes):
    _, x, y = probe_model("smooth_mlp", batch=6)
    soft = torch.eye(4, dtype=torch.float64)[y]
    model = probe_model("smooth_mlp")[0]
    seeds = torch.zeros(1, 1, dtype=torch.int64)
    hard_probe, soft_probe = (
        Probe.of([ALL], seeds, Split(x, labels), torch.float64, 0.5) for labels in (y, soft)
    )
    hard = measure(Replicas.stack([model]), hard_probe, cross_entropy)
    for name, value in measure(Replicas.stack([model]), soft_probe, cross_entropy).items():
        torch.testing.assert_close(value, hard[name])


def test_groups_need_two_or_three_categories(tiny_splits):
    changes = AdjustmentSet(((0.0, 1.0, 0.0, -1.0),))
    four = Augmentation(changes, split=Percentiles(0.1, 0.5, 0.9), target="loss")
    with pytest.raises(ValueError, match="has 4 categories; mechanism metrics need two or three"):
        train(exact, [Arm("four", four)], [0], splits=tiny_splits)


@pytest.mark.parametrize("bad", [-1, 2.5, "many"])
def test_a_number_of_measurements_is_a_whole_one(bad):
    with pytest.raises(ValueError, match="allowed: whole numbers from 0"):
        TrainConfig(mechanism=bad)
