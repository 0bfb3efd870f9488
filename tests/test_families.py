"""Families of methods on the seam: each equals its slow twin, alone, side by side and in anybody's
loop; each is refused in one line where it is not meant."""

from dataclasses import replace

import pytest
import torch
from oracles.small_runs import CLASSES, CONFIG, SPLITS, assert_same_model, chained, plain_run
from oracles.tiny_data import make_splits

from aba_core import Arm, Regularizer, train
from aba_core.architecture import initial_model
from aba_core.methods import (
    adversarial,
    around,
    decay,
    guided,
    labels,
    noise,
    norms,
    occlusion,
    sharpness,
    transforms,
)
from aba_core.methods.base import method_of
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
    "guided cutout": guided.GuidedCutout(side=0.6),
    "random cutout": guided.GuidedCutout(side=0.6, placebo="random"),
    "icd": guided.ICD(p=0.8),
    "aicd": guided.ICD(p=0.8, region="other", fill="mean"),
    "saliencymix": guided.SaliencyMix(alpha=0.7),
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
}


def own_loop(method, seed: int) -> torch.nn.Module:
    """One model trained as somebody would with `Regularizer`."""
    samples = len(SPLITS.train)
    steps = SHORT.steps(samples)
    regularizer = Regularizer(method, seed=seed, steps=steps)
    model = regularizer.architecture(initial_model(chained, seed, torch.float64))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    seeds = torch.tensor([seed])
    for number in range(steps):
        rows = batch_order(lambda e: epoch_order(seeds, e, samples), number, 5, samples)[0]
        optimizer.zero_grad()
        regularizer.backward(model, SPLITS.train.x[rows].double(), SPLITS.train.y[rows])
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


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "mixed", "how": "diagonal"}, "unknown how 'diagonal'; known: bc\\+, vertical"),
        ({"kind": "rows", "alpha": 0}, "alpha is 0.0; allowed: 0.001 to 1000"),
        ({"kind": "rows", "how": 3}, "how is 3; allowed: text"),
    ],
)
def test_a_bad_value_is_named_in_one_line(data, message):
    with pytest.raises(ValueError, match=message) as refusal:
        method_of(data)
    assert "\n" not in str(refusal.value)
