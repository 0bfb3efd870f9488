"""Families of methods on the seam: each equals its slow twin, alone, side by side and in anybody's
loop; each is refused in one line where it is not meant."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from oracles.small_runs import CLASSES, CONFIG, SPLITS, assert_same_model, chained, plain_run
from oracles.tiny_data import make_splits

from aba_core import METHODS, Arm, Augmentation, Regularizer, task_of, train
from aba_core.architecture import initial_model
from aba_core.attribution import cross_entropy
from aba_core.methods import (
    adversarial,
    around,
    decay,
    guided,
    labels,
    noise,
    norms,
    occlusion,
    puzzle,
    sharpness,
    transforms,
)
from aba_core.methods.base import Method, method_of, stand_ins
from aba_core.methods.loop import rehearse
from aba_core.methods.mixing import MIXES, Mixed
from aba_core.randomness import batch_order, epoch_order

SHORT = replace(CONFIG, epochs=1)
DROPOUT = {"kind": "dropout", "p": 0.3}
TRIED = {
    **{how: Mixed(how, alpha=0.7) for how in MIXES},
    "gaussian noise": noise.GaussianNoise(0.3),
    "uniform noise": noise.UniformNoise(0.4),
    "salt and pepper": noise.SaltAndPepper(0.4),
    "random erasing": occlusion.RandomErasing(p=0.8),
    "smoothing of others": labels.LabelSmoothing(0.2, over="others"),
    "logit squeezing": labels.LogitSqueezing(0.1),
    "maxsup": labels.MaxSup(0.3),
    "confidence penalty": labels.ConfidencePenalty(0.3),
    "fgsm": adversarial.FGSM(0.2),
    "pgd": adversarial.PGD(0.2, 0.07, 3),
    "alp": adversarial.ALP(0.2, 0.07, 2, weight=0.4),
    "lrm": adversarial.LRM(0.2, 0.07, 2, beta=0.02, ratio=0.3),
    "advprop": adversarial.AdvProp(0.2, 0.07, 2),
    "reldrop block": guided.RelDropBlock(p=0.8),
    "reldrop pixels": guided.RelDropPixel(p=0.8, beta=0.4),
    "reldrop block by lrp": guided.RelDropBlock("lrp_composite", p=0.8),
    "reldrop pixels by lrp": guided.RelDropPixel("lrp_composite", p=0.8, beta=0.4),
    "guided cutout": guided.GuidedCutout(side=0.6),
    "random cutout": guided.GuidedCutout(side=0.6, placebo="random"),
    "icd": guided.ICD(p=0.8),
    "aicd": guided.ICD(p=0.8, region="other", fill="mean"),
    "saliencymix": guided.SaliencyMix(alpha=0.7),
    "puzzle-like mixing": puzzle.PuzzleMix(alpha=0.7),
    "keepaugment": guided.KeepAugment({"kind": "cutout", "side": 0.8}, side=0.5),
    "guided dropout": guided.GuidedDropout(p=0.2),
    "guided dropout, low": guided.GuidedDropout(p=0.2, category="low"),
    "random dropout": guided.GuidedDropout(p=0.2, placebo="random"),
    "shift": transforms.Shift(0.3),
    "crop": transforms.Crop(0.3),
    "flip": transforms.Flip(axis="vertical"),
    "rotation": transforms.Rotation(40.0),
    "randaugment": transforms.RandAugment(operations=3, magnitude=20.0),
    "early dropout": around.During(DROPOUT, 0.0, 0.5),
    "late sam": around.During({"kind": "sam", "rho": 0.1}, 0.5, 1.0),
    "any layer": around.AnySite(DROPOUT, sites=("input", "0", "2.0"), order=3),
    "copies": around.Copies({"kind": "mixup", "alpha": 0.5}, copies=3),
    "copies at a layer": around.Copies({**DROPOUT, "site": "2.0"}, copies=2),
    "asam": sharpness.ASAM(0.4, 0.02),
    "weight decay": decay.WeightDecay(0.1),
    "weight decay of weights": decay.WeightDecay(0.1, "weights"),
    "weight decay of norms": decay.WeightDecay(0.1, "norms"),
    "ghost batch norm": norms.GhostBatchNorm(2),
    "batch group norm": norms.BatchGroupNorm(2),
    "example weighing": norms.ExampleWeighing(0.3),
}


def own_loop(method, seed: int, build=chained, splits=SPLITS) -> torch.nn.Module:
    """One model trained as somebody would with `Regularizer`."""
    samples = len(splits.train)
    steps = SHORT.steps(samples)
    regularizer = Regularizer(method, seed=seed, steps=steps)
    model = regularizer.architecture(initial_model(build, seed, torch.float64))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    seeds = torch.tensor([seed])
    for number in range(steps):
        rows = batch_order(lambda e: epoch_order(seeds, e, samples), number, 5, samples)[0]
        optimizer.zero_grad()
        regularizer.backward(model, splits.train.x[rows].double(), splits.train.y[rows])
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("name", TRIED)
def test_a_method_equals_its_slow_twin_alone_together_and_in_anybodys_loop(name):
    method = TRIED[name]
    expected = plain_run(chained, method, 4, SHORT)
    options = {"splits": SPLITS, "build": chained}
    alone = train(SHORT, [Arm("a", method)], [4], **options)
    assert_same_model(alone.model("a", 4), expected)
    together = train(SHORT, [Arm("a", method)], [0, 4, 7], **options)
    assert_same_model(together.model("a", 4), expected)
    assert_same_model(own_loop(method, 4), expected)


# --- mixed examples ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [how for how in MIXES if "bc+" not in how])
def test_labels_weigh_what_the_picture_shows(how):
    """Every sample a picture of its own number: the mean is the share."""
    x = torch.arange(4.0)[:, None, None, None].expand(4, 1, 8, 7).double()
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(56, 4)).double()
    for seed in range(3):
        mixed, labels = Regularizer(Mixed(how), seed=seed)(model, x, torch.arange(4))
        shown = (labels * torch.arange(4.0)).sum(1)
        torch.testing.assert_close(shown, mixed.mean((1, 2, 3)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(6, 3), (7,)], ids=["texts", "tables"])
@pytest.mark.parametrize("how", MIXES)
def test_texts_and_tables_are_mixed_where_that_has_a_sense(how, shape):
    splits = make_splits(shape, CLASSES)

    def build() -> torch.nn.Module:
        width = splits.train.x[0].numel()
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(width, CLASSES))

    def run() -> torch.nn.Module:
        arms = [Arm("a", Mixed(how))]
        return train(SHORT, arms, [0], splits=splits, build=build).model("a", 0)

    if len(shape) in MIXES[how].dimensions:
        assert_same_model(run(), plain_run(build, Mixed(how), 0, SHORT, splits))
    else:
        with pytest.raises(ValueError, match="needs pictures .* a sample: ") as refusal:
            run()
        assert "\n" not in str(refusal.value)


# --- a study, and what else methods promise ------------------------------------------------------


def study_of_all(folder: Path) -> Path:
    """Every kind as an arm of one YAML study on a small network with batch norm."""
    arms = [{"name": "Vanilla"}]
    for kind in METHODS:
        method = {"kind": kind, **stand_ins(kind)}
        method |= {"sites": ["input", "0"]} if kind == "any-site" else {}
        if kind not in SAME and kind != "word-dropout":
            arms.append({"name": kind, "method": method})
    study = {
        "name": "everything",
        "dataset": "digits",
        "config": {"model": "small_cnn", "batch_norm": True, "epochs": 1, "batch_size": 40},
        "seeds": 1,
        "arms": arms,
    }
    path = folder / "everything.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


# Kinds that are another one with its fields spelt out.
SAME = ("vh-mixup", "jitter", "aba")


def test_every_method_is_an_arm_of_a_yaml_study(tmp_path):
    from analysis.plan import core_config, resolve
    from analysis.study import study_from_yaml

    study = study_from_yaml(study_of_all(tmp_path))
    assert len(study.arms) == len(METHODS) - len(SAME)  # less one without texts, and Vanilla
    resolve(study)  # all fit the data and the model
    frame = train(core_config(study), study.arms, study.seeds).frame()
    assert set(frame["arm"]) == {arm.name for arm in study.arms}
    assert (frame["status"] == "finished").all()
    vanilla = frame[frame["arm"] == "Vanilla"]["validation_loss"].item()
    same = frame[(frame["validation_loss"] == vanilla) & (frame["arm"] != "Vanilla")]["arm"]
    assert set(same) <= {"early-stopping"}  # which ends where it would have ended


@pytest.mark.parametrize("seeds", [[4], [0, 4, 7]], ids=["one by one", "together"])
def test_aba_at_a_layer_drawn_at_each_step_is_the_same_in_anybodys_loop(seeds):
    aba = {"kind": "fastaba-ce", "strength": 0.3, "placebo": "gaussian"}
    method = around.AnySite(aba, sites=("0", "2.0"))
    engine = train(SHORT, [Arm("a", method)], seeds, splits=SPLITS, build=chained)
    assert_same_model(engine.model("a", 4), own_loop(method, 4))


LRM = ["vh-mixup", "label-smoothing", {"kind": "lrm", "iterations": 2}]


@pytest.mark.parametrize("seeds", [[4], [0, 4, 7]], ids=["one by one", "together"])
def test_a_chain_of_mixing_smoothing_and_attack_is_the_same_in_anybodys_loop(seeds):
    """Logit regularisation as published: the attack meets mixed examples and soft labels."""
    engine = train(SHORT, [Arm("a", LRM)], seeds, splits=SPLITS, build=chained)
    assert_same_model(engine.model("a", 4), own_loop(LRM, 4))


class NeedsClasses(Method):
    """A stranger's method that soft labels are nothing for."""

    kind = "needs-classes"

    def batch(self, tail, h, y, draws):
        if y.is_floating_point():
            raise ValueError("labels are soft here")
        return h, y


def test_what_a_chain_makes_is_tried_as_a_whole():
    few = SPLITS.train.x[:5], SPLITS.train.y[:5]
    rehearse(method_of(LRM), chained(), *few, cross_entropy)
    rehearse(method_of(["mixup", "reldrop-block"]), chained(), *few, cross_entropy)
    with pytest.raises(ValueError, match="labels are soft here"):
        rehearse(method_of(["mixup", NeedsClasses()]), chained(), *few, cross_entropy)


def test_early_stopping_ends_where_the_validation_loss_was_lowest():
    config = replace(CONFIG, epochs=30, learning_rate=0.4, momentum=0.0, curve_every=7)
    arms = [Arm("a", decay.EarlyStopping(every=7)), Arm("Vanilla")]
    wrong = replace(SPLITS.train, y=SPLITS.train.y.flip(0))  # learnt by heart, it does harm
    splits = replace(SPLITS, train=wrong)
    runs = train(config, arms, [3, 4, 5], splits=splits, build=chained)
    curves, ends = runs.curves(), runs.frame().set_index(["arm", "seed"])
    stopped_early = 0
    for seed in (3, 4, 5):
        usual = curves[(curves["arm"] == "Vanilla") & (curves["seed"] == seed)]
        best = usual.loc[usual["validation_loss"].idxmin()]
        for name in ("validation_loss", "test_loss"):
            assert ends.loc[("a", seed), name] == pytest.approx(best[name], rel=1e-12)
        stopped_early += int(best["step"] < usual["step"].max())
    assert stopped_early  # the test would see a training that never ends early

    # In anybody's loop.
    regularizer = Regularizer("early-stopping")
    model, values = chained(), iter((2.0, 1.0, float("nan"), 3.0))
    kept = {}
    for number in range(4):
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(float(number))
        regularizer.loss = lambda logits, y: torch.full((len(logits),), next(values))
        regularizer.look(model, SPLITS.validation.x, SPLITS.validation.y)
        kept = {name: v.clone() for name, v in model.state_dict().items()} if number == 1 else kept
    regularizer.restore()
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_a_run_alone_equals_the_same_run_among_others_of_other_numbers():
    """Fields that hold a float are each replica's own, in chains and inside other methods too."""
    pairs = [
        (Mixed("rows", alpha=0.3), Mixed("rows", alpha=2.0)),
        (adversarial.LRM(0.1, 0.05, 2), adversarial.LRM(0.3, 0.1, 2, beta=0.1, ratio=0.5)),
        (transforms.RandAugment(magnitude=3.0), transforms.RandAugment(magnitude=30.0)),
        (guided.ICD(p=0.9), guided.ICD(p=0.1)),
        (around.During({"kind": "sam", "rho": 0.1}), around.During({"kind": "sam", "rho": 0.4})),
        (around.Copies(noise.GaussianNoise(0.1)), around.Copies(noise.GaussianNoise(0.9))),
        (decay.WeightDecay(0.1), decay.WeightDecay(0.5)),
    ]
    for one, other in pairs:
        arms = [Arm("one", one), Arm("other", other)]
        among = train(SHORT, arms, [1, 2], splits=SPLITS, build=chained)
        alone = train(SHORT, [Arm("one", one)], [2], splits=SPLITS, build=chained)
        assert one.structure == other.structure
        assert_same_model(among.model("one", 2), alone.model("one", 2))


def test_words_of_texts_are_dropped_whole():
    splits = make_splits((6, 3), CLASSES)
    method = occlusion.WordDropout(p=0.5)

    def build() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(18, CLASSES))

    run = train(SHORT, [Arm("a", method)], [0, 1, 2], splits=splits, build=build)
    assert_same_model(run.model("a", 1), plain_run(build, method, 1, SHORT, splits))
    assert_same_model(run.model("a", 1), own_loop(method, 1, build, splits))


def test_every_kind_is_trained_in_a_plain_loop():
    from test_methods import METHODS_TRIED

    looped = {type(method) for method in (*TRIED.values(), *METHODS_TRIED.values())}
    elsewhere = {occlusion.WordDropout, decay.EarlyStopping, Augmentation}  # in tests of their own
    kinds = {kind: type(method_of({"kind": kind, **stand_ins(kind)})) for kind in METHODS}
    assert not {kind: cls for kind, cls in kinds.items() if cls not in looped | elsewhere}


def test_single_precision_trains_what_double_does():
    """Numbers of replicas are held in double precision; they must not make all else double."""
    kinds = [k for k in METHODS if k not in SAME and k not in ("word-dropout", "any-site")]
    arms = [Arm(kind, {"kind": kind, **stand_ins(kind)}) for kind in kinds if kind in FLOATS]
    config = replace(SHORT, dtype="float32", batch_size=8)
    runs = train(config, arms, [0, 1, 2], splits=SPLITS, build=chained)
    assert (runs.frame()["status"] == "finished").all()
    assert runs.model("sam", 0)[0].weight.dtype == torch.float32


FLOATS = ("sam", "asam", "weight-decay", "lrm", "pgd", "logit-squeezing", "randaugment", "crop")


# --- what is refused -----------------------------------------------------------------------------

BAD = [
    ({"kind": "mixed", "how": "diagonal"}, r"unknown how 'diagonal'; known: bc\+, vertical"),
    ({"kind": "rows", "alpha": 0}, "alpha is 0.0; allowed: 0.001 to 1000"),
    ({"kind": "rows", "how": 3}, "how is 3; allowed: text"),
    ({"kind": "random-erasing", "p": 2}, "p is 2.0; allowed: 0 to 1"),
    ({"kind": "random-erasing", "smallest": 0.5}, "smallest is 0.5; allowed: to largest, 0.4"),
    ({"kind": "word-dropout", "p": -1}, "p is -1.0; allowed: 0 to 1"),
    ({"kind": "gaussian-noise", "sd": -0.1}, "sd is -0.1; allowed: 0 to 1000"),
    ({"kind": "jitter", "sd": "big"}, "sd is 'big'; allowed: a finite number"),
    ({"kind": "uniform-noise", "width": -1}, "width is -1.0; allowed: 0 to 1000"),
    ({"kind": "salt-and-pepper", "p": 1.5}, "p is 1.5; allowed: 0 to 1"),
    ({"kind": "label-smoothing", "over": "most"}, "unknown over 'most'; known: all, others"),
    ({"kind": "label-smoothing-others", "epsilon": 2}, "epsilon is 2.0; allowed: 0 to 1"),
    ({"kind": "logit-squeezing", "beta": -1}, "beta is -1.0; allowed: 0 to 1000"),
    ({"kind": "maxsup", "alpha": -1}, "alpha is -1.0; allowed: 0 to 1000"),
    ({"kind": "confidence-penalty", "beta": -1}, "beta is -1.0; allowed: 0 to 1000"),
    ({"kind": "input-dropout", "p": 1}, "p is 1.0; allowed: 0 to 0.999"),
    ({"kind": "guided-dropout", "category": "middle"}, "unknown category 'middle'; known: high"),
    ({"kind": "guided-cutout", "side": 2}, "side is 2.0; allowed: 0 to 1"),
    ({"kind": "random-cutout", "placebo": "gaussian"}, "unknown placebo 'gaussian'; known: permut"),
    ({"kind": "reldrop-block", "aspect": 0}, "aspect is 0.0; allowed: 0.01 to 1"),
    ({"kind": "reldrop-pixel", "beta": 2}, "beta is 2.0; allowed: 0 to 1"),
    ({"kind": "icd", "fill": "red"}, "unknown fill 'red'; known: blur, mean"),
    ({"kind": "aicd", "tile": 0}, "tile is 0; allowed: whole numbers from 1"),
    (
        {"kind": "saliencymix", "target": "loss?"},
        r"unknown target 'loss\?' \(did you mean 'loss'\?\); known: loss",
    ),
    ({"kind": "keepaugment", "method": "alp"}, "'alp' enlarges the batch"),
    ({"kind": "fgsm", "epsilon": -1}, "epsilon is -1.0; allowed: 0 to 1000"),
    ({"kind": "pgd", "iterations": 0}, "iterations is 0; allowed: 1 to 1000"),
    ({"kind": "alp", "weight": -1}, "weight is -1.0; allowed: 0 to 1000"),
    ({"kind": "lrm", "ratio": 2}, "ratio is 2.0; allowed: 0 to 1"),
    ({"kind": "advprop", "step_size": -1}, "step_size is -1.0; allowed: 0 to 1000"),
    ({"kind": "shift", "most": 1}, "most is 1.0; allowed: 0 to 0.5"),
    ({"kind": "crop", "smallest": 0}, "smallest is 0.0; allowed: 0.01 to 1"),
    ({"kind": "flip", "axis": "z"}, "unknown axis 'z'; known: horizontal, vertical"),
    ({"kind": "rotation", "degrees": 200}, "degrees is 200.0; allowed: 0 to 180"),
    ({"kind": "randaugment", "operations": 0}, "operations is 0; allowed: 1 to 16"),
    (
        {"kind": "during", "method": "dropout", "start": 0.6},
        "start is 0.6; allowed: below end, 0.5",
    ),
    ({"kind": "during", "method": None}, "'during' holds no method"),
    ({"kind": "during", "method": "ghost-batch-norm"}, "changes the architecture, which holds"),
    ({"kind": "any-site", "method": "dropout", "sites": "0"}, r"sites is \['0'\]; needed: two"),
    ({"kind": "copies", "method": "dropout", "copies": 1}, "copies is 1; allowed: 2 to 64"),
    (
        {"kind": "copies", "method": {"kind": "dropout", "site": "0"}, "site": "1"},
        "site is '1' around a method at '0'; say it there",
    ),
    ({"kind": "asam", "eta": -1}, "eta is -1.0; allowed: 0 to 100"),
    ({"kind": "weight-decay", "which": "biases"}, "unknown which 'biases'; known: all, weights"),
    ({"kind": "norm-decay", "rate": -1}, "rate is -1.0; allowed: 0 to 1000"),
    ({"kind": "early-stopping", "every": 0}, "every is 0; allowed: whole numbers from 1"),
    ({"kind": "ghost-batch-norm", "size": 1}, "size is 1; allowed: 2 to 1000000"),
    ({"kind": "batch-group-norm", "size": 1}, "size is 1; allowed: 2 to 1000000"),
    ({"kind": "example-weighing", "alpha": 2}, "alpha is 2.0; allowed: 0 to 1"),
    ({"kind": "puzzlemix", "tile": 0}, "tile is 0; allowed: whole numbers from 1"),
    ({"kind": "reldrop-block-lrp", "smallest": 0.5}, "smallest is 0.5; allowed: to largest, 0.4"),
    ({"kind": "reldrop-pixel-lrp", "alpha": -1}, "alpha is -1.0; allowed: 0 to 1"),
    ([{"kind": "copies", "method": "mixup"}, "sam"], "'copies' enlarges the batch; it must be a"),
]


@pytest.mark.parametrize(("data", "message"), BAD)
def test_a_bad_value_is_named_in_one_line(data, message):
    with pytest.raises(ValueError, match=message) as refusal:
        method_of(data)
    assert "\n" not in str(refusal.value)


def test_every_kind_has_a_bad_value_that_is_refused():
    named = {data["kind"] for data, _ in BAD if isinstance(data, dict)}
    before = {"aba", "challenger", "mendaba", "fastaba", "fastaba-ce", "mixup", "cutmix", "cutout",
              "dropout", "sam"}  # in test_methods  # fmt: skip
    mixes = {*MIXES, "rows"}  # one class
    assert set(METHODS) == named | before | mixes | {"label-smoothing"}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("word-dropout", r"needs texts \[token, embedding\], got \(2, 6, 5\) a sample"),
        ({"kind": "icd", "tile": 7}, "tile is 7; allowed: up to the sides, 6 and 5"),
        ({"kind": "ghost-batch-norm", "size": 3}, "size is 3; allowed: 2 to 2, half the batch"),
        ({"kind": "batch-group-norm", "size": 3}, "size is 3; allowed: divisors of 4 channels"),
        ({"kind": "puzzlemix", "tile": 7}, "tile is 7; allowed: up to the sides, 6 and 5"),
    ],
)
def test_what_does_not_fit_the_data_is_refused_in_one_line(method, message):
    with pytest.raises(ValueError, match=message) as refusal:
        train(SHORT, [Arm("a", method)], [0], splits=SPLITS, build=chained)
    assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match=message):
        rehearse(
            method_of(method), chained(), SPLITS.train.x[:5], SPLITS.train.y[:5], cross_entropy
        )


def test_a_task_without_classes_is_refused():
    with pytest.raises(ValueError, match="'maxsup' in a regression task; allowed in: multiclass"):
        task_of("regression").check_targets("a", method_of(["rows", "maxsup"]))


def test_a_plain_loop_is_told_what_else_a_method_needs():
    model, (x, y) = chained(), (SPLITS.train.x[:5], SPLITS.train.y[:5])
    with pytest.raises(ValueError, match=r"take model = regularizer.architecture\(model\)"):
        Regularizer(norms.GhostBatchNorm(2)).backward(model, x, y)
    with pytest.raises(ValueError, match="'during' needs the number of all steps; give `steps`"):
        Regularizer(around.During("dropout")).backward(model, x, y)
    for method in (decay.EarlyStopping(), norms.GhostBatchNorm(2), labels.MaxSup()):
        with pytest.raises(ValueError, match="use backward"):
            Regularizer(method)(model, x, y)
    with pytest.raises(ValueError, match="nothing to restore"):
        Regularizer("early-stopping").restore()


def test_weighing_is_refused_where_batch_norm_keeps_no_statistics():
    for norm in (torch.nn.BatchNorm1d(4, affine=False), torch.nn.BatchNorm1d(4, momentum=None)):
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), norm)
        for kind in ("example-weighing", "batch-group-norm"):
            with pytest.raises(ValueError, match="needed: track_running_stats=True, affine=True"):
                Regularizer(kind).architecture(model)


def test_what_changes_from_step_to_step_is_no_graph():
    with pytest.raises(ValueError, match="graphs is True on 'cpu'"):
        train(SHORT, [Arm("a", around.During("dropout"))], [0], splits=SPLITS, graphs=True)
    assert around.During("dropout").varies and not Mixed().varies
    assert method_of(["mixup", {"kind": "during", "method": "dropout"}]).varies
