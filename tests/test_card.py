"""The report card: every aspect against a slow twin or another library, and whole cards."""

import importlib
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import slow_card
from oracles.tiny_data import make_splits
from torch import nn

from aba_core import ADJUSTMENTS, Arm, TrainConfig, build_model, splits_from, train
from aba_core.aspects import CardSettings
from aba_core.card import (
    SuspectAttackWarning,
    attacks,
    calibration,
    card,
    corruption,
    ensembles,
    geometry,
    memory,
    ood,
    others_of,
    selective,
)
from aba_core.card.picture_corruptions import PICTURES, jpeg_compression, quality_steps
from aba_core.card.subject import Subject, drawn
from aba_core.quantities import ASPECTS, CORRUPTIONS, JUDGED
from aba_core.replicas import Replicas

SHAPE = (2, 6, 5)
CHEAP = {"samples": 40, "attacked": 20, "alarm": 6, "probed": 8, "long_steps": 22, "spsa_steps": 1}


@pytest.fixture(scope="module")
def splits():
    return make_splits(SHAPE, 3, (30, 30, 40))


@pytest.fixture(scope="module")
def models(splits):
    """Three trained models in float64, in eval mode."""
    config = TrainConfig(epochs=6, batch_size=10, dtype="float64")
    runs = train(config, [Arm("a"), Arm.of("b", method="mixup")], [0, 1], splits=splits)
    return [runs.model(*run) for run in (("a", 0), ("a", 1), ("b", 0))]


@pytest.fixture(scope="module")
def subject(models, splits):
    with Replicas.stack(models).undisturbed("eval") as quiet:
        yield Subject.of(quiet, splits, CardSettings(**CHEAP))


def logits_and_labels(n=200, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    logits = 1.5 * torch.randn(3, n, classes, generator=generator, dtype=torch.float64)
    return logits + 2.0 * nn.functional.one_hot(y, classes), y


# --- calibration ---------------------------------------------------------------------------------


def test_nll_and_brier_are_those_of_scikit_learn():
    from sklearn import metrics

    logits, y = logits_and_labels()
    p = torch.softmax(logits, -1).numpy()
    for number in range(3):
        nll = metrics.log_loss(y, p[number], labels=range(5))
        assert float(calibration.nll(logits, y)[number]) == pytest.approx(nll, rel=1e-9)
        one_hot = np.eye(5)[y]
        each = [metrics.brier_score_loss(one_hot[:, c], p[number][:, c]) for c in range(5)]
        assert float(calibration.brier(logits, y)[number]) == pytest.approx(sum(each), rel=1e-9)


def test_the_calibration_error_equals_its_slow_twin():
    logits, y = logits_and_labels()
    confidence, predicted = torch.softmax(logits, -1).max(-1)
    fast = calibration.calibration_error(confidence, predicted == y)
    for number in range(3):
        slow = slow_card.expected_calibration_error(logits[number], y)
        assert float(fast[number]) == pytest.approx(slow, abs=1e-9)


def test_the_calibration_error_is_that_of_torchmetrics():
    torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    logits, y = logits_and_labels()
    p = torch.softmax(logits, -1)
    confidence, predicted = p.max(-1)
    ours = calibration.calibration_error(confidence, predicted == y)
    for number in range(3):
        theirs = torchmetrics.functional.classification.multiclass_calibration_error(
            p[number].float(), y, 5, n_bins=15
        )
        assert float(ours[number]) == pytest.approx(100 * float(theirs), abs=1e-3)


def test_bins_of_equal_mass_hold_as_many_samples_each():
    confidence = torch.rand(2, 100, dtype=torch.float64)
    count, _, _ = calibration._binned(confidence, confidence > 0.5, True, 10)
    assert (count == 10).all()


def test_the_debiased_error_of_a_calibrated_model_is_near_zero_and_the_plain_one_is_not():
    generator = torch.Generator().manual_seed(1)
    confidence = torch.rand(200, 500, generator=generator, dtype=torch.float64)
    correct = torch.rand(200, 500, generator=generator, dtype=torch.float64) < confidence
    debiased = calibration.debiased(confidence, correct)
    plain = calibration.calibration_error(confidence, correct, mass=True)
    assert float((debiased**2).mean()) ** 0.5 < 0.7 * float((plain**2).mean()) ** 0.5
    shifted = calibration.debiased(confidence, correct & (torch.rand(200, 500) < 0.5))
    assert float(shifted.mean()) > 20


def test_the_temperature_is_what_the_logits_were_multiplied_with():
    generator = torch.Generator().manual_seed(2)
    logits = 2 * torch.randn(1, 20_000, 4, generator=generator, dtype=torch.float64)
    y = torch.multinomial(torch.softmax(logits[0], -1), 1, generator=generator)[:, 0]
    assert float(calibration.temperature(3 * logits, y)[0]) == pytest.approx(3, rel=0.05)
    found = calibration.temperature(3 * logits, y)
    for other in (0.95, 1.05):
        at = calibration.nll(3 * logits / (found * other), y)
        assert at > calibration.nll(3 * logits / found, y)


def test_every_measure_of_calibration_is_there_before_and_after_temperature(models, splits):
    """After it they are those of logits divided by it; the order of classes stays."""
    values = card(models[0], splits, aspects="calibration", **CHEAP).values
    with torch.no_grad():
        logits = models[0](splits.test.x.double())[None]
    both = {"": logits, "_tempered": logits.double() / values["temperature"]}
    for after, given in both.items():
        for name, expected in calibration.errors(given, splits.test.y).items():
            assert values[name + after] == pytest.approx(float(expected), rel=1e-5), name
    assert set(values) == set(ASPECTS["calibration"])


# --- selective prediction, out of distribution ---------------------------------------------------


def test_the_area_under_risk_coverage_equals_its_slow_twin_also_with_ties():
    confidence = torch.tensor([0.9, 0.8, 0.8, 0.8, 0.3, 0.3, 0.99], dtype=torch.float64)
    correct = torch.tensor([True, False, True, True, False, True, True])
    fast = float(selective.risk_coverage(confidence, correct).mean())
    slow = slow_card.area_under_risk_coverage(confidence.tolist(), correct.tolist())
    assert fast == pytest.approx(slow, abs=1e-9)


def test_the_best_order_has_no_excess_area():
    correct = torch.tensor([True] * 7 + [False] * 3)
    confidence = torch.linspace(1, 0, 10, dtype=torch.float64)
    area = selective.risk_coverage(confidence, correct).mean()
    best = selective.best_area(torch.tensor(3), 10)
    assert float(area) == pytest.approx(float(best), abs=1e-9)
    worst = selective.risk_coverage(confidence.flip(0), correct).mean()
    assert worst > best + 20


def test_auroc_and_aupr_are_those_of_scikit_learn_and_of_all_pairs():
    from sklearn import metrics

    generator = torch.Generator().manual_seed(3)
    known = torch.randn(3, 60, generator=generator, dtype=torch.float64).round(decimals=1) + 0.5
    strange = torch.randn(3, 80, generator=generator, dtype=torch.float64).round(decimals=1)
    truth = np.r_[np.ones(60), np.zeros(80)]
    for number in range(3):
        scores = np.r_[known[number].numpy(), strange[number].numpy()]
        area = 100 * metrics.roc_auc_score(truth, scores)
        assert float(ood.auroc(known, strange)[number]) == pytest.approx(area, abs=1e-9)
        slow = slow_card.pairs_in_order(known[number].tolist(), strange[number].tolist())
        assert area == pytest.approx(slow, abs=1e-9)
        precision = 100 * metrics.average_precision_score(truth, scores)
        assert float(ood.aupr(known, strange)[number]) == pytest.approx(precision, abs=1e-9)


def test_the_false_positives_are_counted_where_95_percent_of_the_known_pass():
    known = torch.arange(100, dtype=torch.float64)
    strange = torch.tensor([-1.0, 4.0, 5.0, 50.0], dtype=torch.float64)
    assert float(ood.fpr95(known, strange)) == 50.0  # at 5 and above, 95 of 100 are known


def test_the_mahalanobis_score_is_that_of_the_inverse_covariance():
    generator = torch.Generator().manual_seed(4)
    y = torch.arange(60) % 3
    fitted = torch.randn(60, 4, generator=generator, dtype=torch.float64) + y[:, None]
    x = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    fast = ood.mahalanobis(x, fitted, y, 3)
    means = [fitted[y == label].mean(0) for label in range(3)]
    centred = torch.stack([one - means[int(label)] for one, label in zip(fitted, y, strict=True)])
    covariance = centred.T @ centred / 60
    covariance += 1e-3 * covariance.diagonal().mean() * torch.eye(4)
    inverse = covariance.inverse()
    slow = [-min(float((one - m) @ inverse @ (one - m)) for m in means) for one in x]
    assert fast.tolist() == pytest.approx(slow, rel=1e-9)


# --- corruption ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("side", [8, 28])
def test_a_picture_corruption_grows_with_severity_and_repeats_itself(kind, side):
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(12, 3, 4, 4, generator=generator, dtype=torch.float64)
    x = nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    away = []
    for severity in range(1, 6):
        made = [
            PICTURES[kind](x.clone(), severity, torch.Generator().manual_seed(6)) for _ in range(2)
        ]
        assert torch.equal(*made) and made[0].shape == x.shape
        assert torch.isfinite(made[0]).all()
        damaged = made[0].clamp(0, 1)
        away.append(float((damaged - x).square().mean()))
        if kind == "frost":  # darker by one part, lighter by the other: what it hides is left
            both = torch.stack([damaged.flatten(), x.flatten()])
            away[-1] = 1 - float(torch.corrcoef(both)[0, 1])
        if kind == "pixelate":  # where few pixels are left, it shifts more than it blurs
            away[-1] = -float(len(damaged[0, 0].unique()))
    assert away[0] != 0
    assert away[4] > away[0] and away[4] == max(away)


def test_every_picture_corruption_takes_grey_pictures_of_uneven_sides():
    x = torch.rand(2, 1, 9, 13, dtype=torch.float64)
    for kind, damage in PICTURES.items():
        made = damage(x.clone(), 3, torch.Generator().manual_seed(0))
        assert made.shape == x.shape and torch.isfinite(made).all(), kind


def test_jpeg_rounds_the_coefficients_as_a_jpeg_file_does():
    from io import BytesIO

    Image = pytest.importorskip("PIL.Image")
    assert quality_steps(50)[0, 0] == 16 and quality_steps(80)[0, 0] == 6
    coarse = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(7))
    x = nn.functional.interpolate(coarse.double(), (32, 32), mode="bicubic").clamp(0, 1)
    ours = jpeg_compression(x, 5, torch.Generator())
    file = BytesIO()
    pixels = (x[0, 0] * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=40)
    theirs = torch.tensor(np.asarray(Image.open(file)), dtype=torch.float64) / 255
    # A file's transform is of whole numbers: some coefficients are rounded the other way.
    assert float((ours[0, 0] - theirs).abs().mean()) < 0.3 / 255
    assert float((x[0, 0] - theirs).abs().mean()) > 1.5 / 255


def test_corrupted_pictures_stay_within_the_range_of_the_training_pictures(subject):
    low, high = subject.bounds()
    for kind in ("gaussian_noise", "snow", "contrast"):
        made = corruption.pictures(subject, kind, 5)
        assert (made >= low - 1e-9).all() and (made <= high + 1e-9).all()


def test_texts_lose_swap_and_blur_their_words():
    words = torch.arange(1, 13, dtype=torch.float64).reshape(1, 12, 1).expand(20, 12, 3).clone()
    words[:, 10:] = 0
    of_text = replace_x(words)
    assert ((corruption.dropped(of_text, 5) == 0).all(-1).double().mean()) > 0.4
    swapped = corruption.swapped(of_text, 5)
    assert torch.equal(swapped.sort(1).values, words.sort(1).values)
    assert not torch.equal(swapped, words)
    moved = (swapped[..., 0] - words[..., 0]).abs()
    assert set(moved[:, :10].flatten().tolist()) == {0.0, 1.0}  # neighbours alone
    blurred = corruption.synonyms(of_text, 5)
    assert (blurred[:, 10:] == 0).all() and ((blurred - words)[:, :10] != 0).all()


def test_tables_are_jittered_and_lose_values():
    table = torch.ones(50, 8, dtype=torch.float64)
    of_table = replace_x(table)
    lost = [float((corruption.missing(of_table, s) == 0).double().mean()) for s in (1, 5)]
    assert lost[0] == pytest.approx(0.05, abs=0.03) and lost[1] == pytest.approx(0.5, abs=0.08)
    assert float((corruption.jittered(of_table, 5) - table).std()) == pytest.approx(0.8, abs=0.1)


def replace_x(x):
    """A subject of made inputs; it has no models."""
    return Subject(None, None, CardSettings(), x, torch.zeros(len(x), dtype=torch.int64))


# --- attacks -------------------------------------------------------------------------------------


def test_pgd_of_stacked_models_equals_a_plain_loop_model_by_model(subject, models):
    x, y = subject.x[:6], subject.y[:6]
    size = attacks.radius(subject, 0.2)
    (fast,) = attacks.pgd(subject, x, y, size, (5,))
    low, high = subject.bounds()
    shift = size * (2 * subject.uniform(x.shape, "pgd 0") - 1)
    start = torch.max(torch.min(x + shift, high), low)
    for number, model in enumerate(models):
        slow = slow_card.pgd(model, x, y, start, size, attacks.STEP * size, 5, low, high)
        assert torch.allclose(fast[number], slow, atol=1e-9)


def of_the_whole_range():
    """A model, its data, and their samples, which go from 0 to 1 as torchattacks has it."""
    x = torch.rand(30, 1, 6, 6)
    x[0], x[1] = 0.0, 1.0
    y = torch.arange(30) % 3
    data = make_splits((1, 6, 6), 3)
    data = replace(
        data, train=replace(data.train, data=x, y=y), test=replace(data.test, data=x, y=y)
    )
    return build_model("small_cnn", (1, 6, 6), 3).eval(), data, x, y


def test_fgsm_and_pgd_are_those_of_torchattacks():
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    model, data, x, y = of_the_whole_range()
    with Replicas.stack([model]).undisturbed("eval") as quiet:
        one = Subject.of(quiet, data, CardSettings())
        size = attacks.radius(one, 0.1)
        ours = attacks.fgsm(one, x, y, size)[0]
        theirs = torchattacks.FGSM(model, eps=0.1)(x, y)
        assert torch.allclose(ours, theirs, atol=1e-6)
        # Without a random start on either side.
        one = NoStart(one)
        ours = attacks.pgd(one, x, y, size, (7,))[0][0]
        step = 0.1 * attacks.STEP
        theirs = torchattacks.PGD(model, 0.1, step, 7, random_start=False)(x, y)
        # A float's last bit may turn the sign of a gradient that is almost 0.
        assert float(((ours - theirs).abs() > 1e-5).double().mean()) < 0.01


def test_pgd_in_l2_is_that_of_torchattacks():
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    torch.manual_seed(1)
    model, data, x, y = of_the_whole_range()
    with Replicas.stack([model]).undisturbed("eval") as quiet:
        one = Subject.of(quiet, data, CardSettings())
        size = attacks.radius(one, 0.1, "l2")
        started = attacks.pgd(FromClean(one), x, y, size, (7,), norm="l2")[0][0]
        step = float(size) * attacks.STEP
        theirs = torchattacks.PGDL2(model, float(size), step, 7, random_start=False)(x, y)
        assert torch.allclose(started, theirs, atol=1e-5)


class FromClean:
    """A subject whose random starts in L2 are the clean inputs: their length is 0."""

    def __init__(self, subject):
        self.subject = subject

    def uniform(self, shape, purpose):
        return torch.zeros(tuple(shape))

    def __getattr__(self, name):
        return getattr(self.subject, name)


def test_pgd_in_l2_of_stacked_models_equals_a_plain_loop_model_by_model(subject, models):
    x, y = subject.x[:6], subject.y[:6]
    size = attacks.radius(subject, 0.3, "l2")
    (fast,) = attacks.pgd(FromClean(subject), x, y, size, (5,), norm="l2")
    low, high = subject.bounds()
    for number, model in enumerate(models):
        start = torch.max(torch.min(x, high), low)
        step = attacks.STEP * float(size)
        slow = slow_card.pgd_l2(model, x, y, start, float(size), step, 5, low, high)
        assert torch.allclose(fast[number], slow, atol=1e-9)
        assert float((fast[number] - x).abs().max()) > 0.01


def test_spsa_of_stacked_models_equals_a_plain_loop_model_by_model(subject, models, monkeypatch):
    monkeypatch.setattr(attacks, "SPSA_DIRECTIONS", 3)
    x, y = subject.x[:4], subject.y[:4]
    size = attacks.radius(subject, 0.2)
    fast = attacks.spsa(subject, x, y, size, 2)
    low, high = subject.bounds()
    drawn_ways = [
        [*(2.0 * (subject.uniform((3, *x.shape), f"spsa {step}") < 0.5) - 1.0)] for step in range(2)
    ]
    for number, model in enumerate(models):
        slow = slow_card.spsa(model, x, y, drawn_ways, size, attacks.STEP * size, low, high)
        assert torch.allclose(fast[number], slow, atol=1e-9)
    assert not torch.allclose(fast[0], x)


class NoStart:
    """A subject whose random starts are the clean inputs."""

    def __init__(self, subject):
        self.subject = subject

    def uniform(self, shape, purpose):
        return torch.full(tuple(shape), 0.5)

    def __getattr__(self, name):
        return getattr(self.subject, name)


def test_attacks_stay_in_their_ball_and_within_the_range(subject):
    x, y = subject.x[:10], subject.y[:10]
    low, high = subject.bounds()
    size = attacks.radius(subject, 0.3)
    for moved in (
        attacks.fgsm(subject, x, y, size),
        *attacks.pgd(subject, x, y, size, (1, 4)),
        attacks.spsa(subject, x, y, size, 2),
    ):
        assert ((moved - x).abs() <= size + 1e-9).all()
        assert (moved >= low - 1e-9).all() and (moved <= high + 1e-9).all()
    far = attacks.radius(subject, 0.1, "l2")
    (moved,) = attacks.pgd(subject, x, y, far, (4,), norm="l2")
    assert ((moved - x).flatten(2).norm(dim=2) <= far + 1e-9).all()


def test_the_exponent_is_that_of_a_power_law():
    sizes = (0.01, 0.02, 0.04, 0.08)
    error = torch.tensor([[3 * s**1.5 for s in sizes], [0.0, 0.0, 0.0, 0.5]])
    found = attacks.exponent(error, sizes)
    assert float(found[0]) == pytest.approx(1.5, abs=1e-5)
    assert torch.isnan(found[1])


class Masked(nn.Module):
    """Right on everything, with gradients that round to nothing: 1e-6 of noise in their place."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        logits = self.model((20 * x).round().detach() / 20)
        return 50 * logits + 1e-6 * (x.flatten(1).sum(1, keepdim=True) * torch.arange(3))


def test_masked_gradients_are_found_and_honest_ones_pass(models, splits):
    cheap = {**CHEAP, "aspects": ["attacks"], "epsilon": 0.3, "spsa_steps": 10, "alarm": 20}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        honest = card(models[0], splits, **cheap)
    assert honest.values["attack_suspect"] == 0
    with pytest.warns(SuspectAttackWarning, match="outputs alone do not beat gradients"):
        masked = card(Masked(models[0]).double(), splits, **cheap)
    assert masked.values["attack_suspect"] >= 1
    assert any("suspect" in note for note in masked.notes)
    assert not masked.details["attack_checks"]["outputs alone do not beat gradients"][0]


def test_each_check_of_the_attacks_fails_on_what_it_is_about():
    names = [n for n in ASPECTS["attacks"] if n.endswith("_accuracy")]
    usual = {name: torch.tensor([50.0]) for name in names}
    usual["pgd_at_whole_accuracy"] = torch.tensor([0.0])
    usual["pgd_at_double_accuracy"] = torch.tensor([20.0])

    def broken(**changed):
        values = usual | {f"{n}_accuracy": torch.tensor([v]) for n, v in changed.items()}
        return [
            name for name, held in attacks.checks(values, 100, 100, 10.0).items() if not held[0]
        ]

    assert broken() == []
    assert broken(pgd10=60.0) == ["more steps never help the model"]
    assert broken(pgd_at_double=60.0) == ["a larger ε never helps the model"]
    assert broken(fgsm=40.0) == ["steps beat one step"]
    assert broken(pgd_at_whole=15.0) == ["an unbounded attack wins"]
    assert broken(alarm_long=20.0) == ["1000 steps gain little over 20"]
    assert broken(alarm_spsa=20.0) == ["outputs alone do not beat gradients"]
    assert broken(transfer=40.0) == ["another model's gradients do not beat its own"]
    assert broken(transfer=float("nan")) == []


# --- geometry ------------------------------------------------------------------------------------


def test_eigenvalue_and_trace_are_those_of_the_whole_hessian():
    data = make_splits((3,), 3, (12, 9, 9))
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double() for _ in range(2)]
    with Replicas.stack(models).undisturbed("eval") as quiet:
        one = Subject.of(quiet, data, CardSettings(probed=12))
        measured = geometry.measure(one)
        x, y = drawn(data.train, 12, 0, torch.float64)
    for number, model in enumerate(models):
        whole = slow_card.hessian(model, x, y)
        top = float(torch.linalg.eigvalsh(whole)[-1])
        assert float(measured["hessian_top"][number]) == pytest.approx(top, rel=0.02)
        error = float(one.details["hessian_trace_error"][number])
        trace = float(whole.trace())
        assert float(measured["hessian_trace"][number]) == pytest.approx(
            trace, abs=4 * error + 1e-6
        )


def test_adaptive_sharpness_equals_its_slow_twin(subject, models):
    x, y = subject.x[:9], subject.y[:9]
    fast = geometry.adaptive_sharpness(subject, x, y, rho=0.5, steps=6)
    for number, model in enumerate(models):
        slow = slow_card.adaptive_sharpness(model, x, y, 0.5, 6)
        assert float(fast[number]) == pytest.approx(slow, rel=1e-6)
        assert slow > 0


def test_the_distance_to_the_boundary_of_a_linear_model_is_exact():
    data = make_splits((4,), 2, (8, 8, 8))
    model = nn.Linear(4, 2).double()
    with Replicas.stack([model]).undisturbed("eval") as quiet:
        one = Subject.of(quiet, data, CardSettings())
        _, distance = geometry.margins(one)
    apart = model.weight[1] - model.weight[0]
    signed = (one.x @ apart + model.bias[1] - model.bias[0]) * (2 * one.y - 1)
    assert torch.allclose(distance[0], (signed / apart.norm()).detach(), atol=1e-9)


# --- memory and ensembles ------------------------------------------------------------------------


def test_grand_and_el2n_equal_their_slow_twins(subject, models):
    x, y = subject.x[:5], subject.y[:5]
    fast = memory.grand(subject, x, y)
    errors = memory.el2n(subject.logits(x), y)
    for number, model in enumerate(models):
        assert fast[number].tolist() == pytest.approx(slow_card.gradient_norms(model, x, y))
        for place in range(5):
            p = slow_card.softmax(model(x[place][None])[0].tolist())
            p[int(y[place])] -= 1
            slow = sum(v * v for v in p) ** 0.5
            assert float(errors[number, place]) == pytest.approx(slow, abs=1e-9)


def test_changes_by_each_adjustment_equal_their_slow_twins(models, splits):
    model = models[0]
    found = card(model, splits, aspects="memory", **{**CHEAP, "probed": 5}).curves()["adjustments"]
    assert list(found["adjustment"]) == [str(one) for one in ADJUSTMENTS]
    x, y = drawn(splits.train, 5, 0, torch.float64)
    for place in (0, 3, 17, 22, 26):
        one = ADJUSTMENTS[place]
        el2n, grand = slow_card.changes_by_adjustment(model, x, y, tuple(one), memory.STRENGTH)
        row = found.iloc[place]
        assert row["group"] == one.group.value
        assert row["el2n"] == pytest.approx(el2n, abs=1e-9), one
        assert row["grand"] == pytest.approx(grand, abs=1e-9), one
    assert found["el2n"][0] == found["grand"][0] == 0 and (found["el2n"][1:] != 0).all()


def test_label_noise_changes_the_share_that_it_says_and_nests(subject):
    y, before = subject.splits.train.y, None
    for share in (0.1, 0.2, 0.4):
        labels, chosen = memory.wrong_labels(subject, share)
        assert int(chosen.sum()) == round(share * len(y))
        assert torch.equal(labels != y, chosen)
        assert before is None or (chosen | ~before).all()
        before = chosen


def test_forgetting_counts_what_was_right_and_then_wrong(subject):
    watch = memory.Watch(subject, subject.x[:3], subject.y[:3])
    watch.margins = [torch.tensor([[m, 1.0, -1.0]]) for m in (1.0, -1.0, 2.0, -3.0)]
    assert watch.forgotten.tolist() == [[2, 0, 0]]
    assert watch.area.tolist() == [[-0.25, 1.0, -1.0]]


def test_cka_equals_its_slow_twin_and_is_one_after_a_rotation():
    a = torch.randn(12, 3, dtype=torch.float64)
    b = torch.randn(12, 5, dtype=torch.float64)
    assert float(ensembles.linear_cka(a, b)) == pytest.approx(slow_card.cka(a, b), rel=1e-9)
    turned = 2 * a @ torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    assert float(ensembles.linear_cka(a, turned)) == pytest.approx(1)


def test_a_pair_of_equal_models_gains_nothing():
    logits, y = logits_and_labels()
    assert ensembles.pair_gain(logits, logits, y).tolist() == [0, 0, 0]
    first = torch.tensor([[[5.0, 0.0], [0.0, 1.0]]])
    second = torch.tensor([[[0.0, 1.0], [5.0, 0.0]]])
    assert float(ensembles.pair_gain(first, second, torch.tensor([0, 0]))[0]) == 50.0


def test_one_bit_is_the_smallest_change_and_flips_back():
    replicas = Replicas.stack([nn.Linear(2, 2), nn.Linear(2, 2)])
    before = replicas.parameters.clone()
    ensembles.flip_bit_of_all(replicas, -1)
    changed = replicas.parameters != before
    assert changed.sum(1).tolist() == [1, 1]
    assert (replicas.parameters - before).abs().max() < 1e-6
    ensembles.flip_bit_of_all(replicas, -1)
    assert torch.equal(replicas.parameters, before)


# --- whole cards ---------------------------------------------------------------------------------


def test_stacked_models_have_the_cards_that_each_has_alone(subject, models, splits):
    aspects = [a for a in ASPECTS if a not in ("memory", "ensembles")]
    together = {}
    for aspect in aspects:
        together |= importlib.import_module(f"aba_core.card.{aspect}").measure(subject)
    for number, model in enumerate(models):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SuspectAttackWarning)
            alone = card(model, splits, aspects=aspects, **CHEAP)
        for name, value in alone.values.items():
            expected = float(together[name][number])
            assert value == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True), name


def test_the_curves_of_a_card_have_its_numbers(models, splits):
    aspects = ["calibration", "selective", "attacks", "geometry", "corruption"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspectAttackWarning)
        one = card(models[0], splits, aspects=aspects, **CHEAP)
    curves, values = one.curves(), one.values
    drawn = {"reliability", "risk_coverage", "attacks", "margins", "corruption"}
    assert set(curves) == {*drawn, "reliability_tempered"}
    for after in ("", "_tempered"):
        bins = curves[f"reliability{after}"]
        gap = (bins["accuracy"] - bins["confidence"]).abs()
        assert bins["samples"].sum() == 40
        assert (gap * bins["samples"]).sum() / 40 == pytest.approx(values[f"ece{after}"])
    assert curves["risk_coverage"]["error"].mean() == pytest.approx(values["aurc"])
    attacked = curves["attacks"].set_index("epsilon")["accuracy"]
    assert list(attacked.index) == pytest.approx([0, 0.025, 0.05, 0.1, 0.2])
    assert attacked.iloc[3] == values["pgd20_accuracy"]
    assert attacked.iloc[4] == values["pgd_at_double_accuracy"]
    with torch.no_grad():
        hit = models[0](splits.test.x[:20].double()).argmax(1) == splits.test.y[:20]
    assert attacked.iloc[0] == 100 * hit.double().mean()
    assert curves["margins"]["distance"].median() == pytest.approx(values["margin"])
    by_kind = curves["corruption"].groupby("kind")["accuracy"].mean()
    assert by_kind["fog"] == pytest.approx(values["fog_accuracy"]) and len(by_kind) == 15


def test_a_card_of_ones_own_model_says_what_it_lacks_and_leaves_the_model_alone(splits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    before = [value.clone() for value in model.state_dict().values()]
    given = card(model, splits, aspects="ensembles", **CHEAP)
    assert model.training
    assert all(map(torch.equal, before, model.state_dict().values()))
    assert np.isnan(given.values["pair_gain"]) and np.isfinite(given.values["flip_gain"])
    assert "give retrain=" in str(given)

    def retrain(data, seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(60, 3))

    again = card(model, splits, retrain, aspects="ensembles", **CHEAP)
    assert np.isfinite(again.values["pair_gain"]) and np.isfinite(again.values["cka"])


def test_a_watched_retraining_measures_what_a_run_has(splits):
    """A loop that calls `observe` after each step: its card has the engine's columns."""
    config = TrainConfig(
        epochs=3, batch_size=10, dtype="float64", card={**CHEAP, "aspects": ["memory", "ensembles"]}
    )
    run = train(config, [Arm("a")], [0], splits=splits).frame().iloc[0]
    plain = replace(config, card=None, trainer="single")

    def retrain(data, seed, observe):
        def look(step, steps, replicas):
            model = replicas.model(0)
            observe(step, steps, model)
            with torch.no_grad():
                for name, value in replicas.named_parameters(replicas.parameters).items():
                    value[0].copy_(model.get_parameter(name))

        arms = [Arm("a", seed_offset=seed)]
        return train(plain, arms, [0], splits=data, observe=look).model("a", 0)

    model = train(plain, [Arm("a")], [0], splits=splits).model("a", 0)
    given = card(model, splits, retrain, aspects=["memory", "ensembles"], **CHEAP)
    assert np.isnan(given.values.pop("snapshot_gain"))
    for name, value in given.values.items():
        assert value == pytest.approx(run[f"test_{name}"], rel=1e-6, abs=1e-9, nan_ok=True), name
    assert np.isfinite([given.values[n] for n in ("aum", "forgotten", "onset_0", "cka")]).all()
    assert not any("watches" in note for note in given.notes)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("small_cnn", "model is 'small_cnn'; needed: a trained nn.Module"),
        (nn.Sequential(nn.Flatten(), nn.Linear(60, 4)), "output has shape .2, 4. for 2 samples"),
        (nn.Linear(7, 3), "the model Linear refuses a batch of shape .2, 2, 6, 5."),
        (nn.Sequential(nn.Flatten(), nn.Linear(60, 3)).half(), "are torch.float16; needed: float3"),
    ],
    ids=["name", "classes", "shape", "half"],
)
def test_models_that_do_not_fit_are_refused_in_a_line(model, message, splits):
    with pytest.raises(ValueError, match=message) as error:
        card(model, splits)
    assert "\n" not in str(error.value)


def test_a_retraining_that_is_none_is_refused(splits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    with pytest.raises(ValueError, match="retrain is 3; needed: a function of splits and a seed"):
        card(model, splits, 3)
    with pytest.raises(ValueError, match="retrain returned int; needed: an nn.Module"):
        card(model, splits, lambda data, seed: 3, aspects="ensembles", **CHEAP)
    with pytest.raises(ValueError, match="has a parameter observe and did not call it; needed: ob"):
        card(model, splits, lambda data, seed, observe: model, aspects="memory", **CHEAP)


def test_a_training_with_a_card_has_its_columns_and_the_same_runs(splits):
    config = TrainConfig(epochs=4, batch_size=10)
    arms = [Arm.of("All", adjustments="all", strength=0.3, target="loss")]
    plain = train(config, arms, [0], splits=splits).frame()
    with_card = train(replace(config, card=CHEAP), arms, [0], splits=splits).frame()
    for name in ("test_accuracy", "validation_loss"):
        assert plain[name].tolist() == with_card[name].tolist()
    for aspect, names in ASPECTS.items():
        assert f"seconds_{aspect}" in with_card
        assert {f"test_{name}" for name in names} <= set(with_card)
        for name in JUDGED[aspect]:
            assert with_card[f"test_{name}"].notna().all(), name


def test_columns_do_not_depend_on_who_trains_beside(splits):
    config = TrainConfig(
        epochs=3, batch_size=10, dtype="float64", card={**CHEAP, "aspects": ["memory", "ensembles"]}
    )
    arms = [Arm("Vanilla"), Arm("Again", seed_offset=3)]
    both = train(config, arms, [0, 1], splits=splits).frame().set_index(["arm", "seed"])
    alone = train(config, arms[1:], [1], splits=splits).frame().iloc[0]
    for name in (*ASPECTS["memory"], *ASPECTS["ensembles"]):
        value = both.loc[("Again", 1), f"test_{name}"]
        assert value == pytest.approx(alone[f"test_{name}"], rel=1e-6, nan_ok=True), name


def test_the_label_noise_columns_are_those_of_a_training_on_those_labels(splits):
    config = TrainConfig(epochs=3, batch_size=10, card={**CHEAP, "aspects": ["memory"]})
    row = train(config, [Arm("Vanilla")], [0], splits=splits).frame().iloc[0]
    with Replicas.stack([build_model("linear", SHAPE, 3)]).undisturbed("eval") as quiet:
        one = Subject.of(quiet, splits, CardSettings(**CHEAP))
    labels, _ = memory.wrong_labels(one, 0.4)
    noisy = replace(splits, train=replace(splits.train, y=labels))
    again = train(replace(config, card=None), [Arm("Vanilla")], [0], splits=noisy).frame().iloc[0]
    assert row["test_noisy_40_accuracy"] == again["test_accuracy"]


def test_a_diverged_run_has_a_card_of_nan_beside_finite_ones(splits):
    config = TrainConfig(epochs=3, batch_size=10, card={**CHEAP, "aspects": ["calibration", "ood"]})
    arms = [Arm("Vanilla"), Arm("Wild", learning_rate=1e30)]
    frame = train(config, arms, [0], splits=splits).frame().set_index("arm")
    assert frame.loc["Wild", "status"] == "diverged"
    assert np.isnan(frame.loc["Wild", "test_nll"]) and np.isnan(
        frame.loc["Wild", "test_auroc_mahalanobis"]
    )
    assert np.isfinite(frame.loc["Vanilla", "test_nll"])


def test_a_table_has_a_card_without_what_pictures_alone_have():
    generator = torch.Generator().manual_seed(8)
    y = torch.arange(90) % 3
    x = torch.randn(90, 5, generator=generator) + y[:, None]
    splits = splits_from(x.numpy(), y.numpy())
    config = TrainConfig(model="mlp", epochs=3, batch_size=10, card=CHEAP)
    row = train(config, [Arm("Vanilla")], [0], splits=splits).frame().iloc[0]
    assert np.isfinite(row["test_missing_accuracy"]) and np.isnan(row["test_fog_accuracy"])
    assert np.isnan(row["test_flip_gain"]) and np.isfinite(row["test_pgd20_accuracy"])


# --- settings ------------------------------------------------------------------------------------


def test_settings_are_read_from_plain_data_in_one_order():
    assert CardSettings.read(None) is None and CardSettings.read(False) is None
    assert CardSettings.read(True) == CardSettings()
    assert CardSettings.read(["ood", "calibration"]) == CardSettings(aspects=("calibration", "ood"))
    assert CardSettings.read({"samples": 9, "aspects": "ood"}).samples == 9


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["calibraton"], "unknown aspect 'calibraton' .did you mean 'calibration'.*; known:"),
        ({"sample": 3}, "unknown field 'sample' .did you mean 'samples'.. of card; known: "),
        ({"samples": 0}, "samples is 0; allowed: whole numbers from 1"),
        ({"epsilon": -1.0}, "epsilon is -1.0; allowed: finite numbers above 0"),
        ([], "no aspects; known: calibration"),
        (7, "card is 7; needed: aspects"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_a_line(given, message):
    with pytest.raises(ValueError, match=message) as error:
        TrainConfig(card=given)
    assert "\n" not in str(error.value)


def test_data_without_one_class_a_sample_have_no_card(splits):
    soft = replace(splits, task="regression")
    with pytest.raises(ValueError, match="a report card of regression data; allowed: one class"):
        card(build_model("small_cnn", SHAPE, 3), soft)


def test_other_data_sets_come_in_the_shape_and_range_of_the_data(splits):
    made = others_of(CardSettings(others=("digits",), samples=7), splits)["digits"]
    assert made.shape == (7, *SHAPE)
    assert float(made.amax()) <= float(splits.train.x.amax()) + 1e-6
    with pytest.raises(ValueError, match="shape .3, 3.; needed: .2, 6, 5."):
        card(build_model("small_cnn", SHAPE, 3), splits, others={"odd": torch.zeros(2, 3, 3)})
