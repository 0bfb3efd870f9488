"""Training: every replica equals one model trained alone by ordinary eager PyTorch."""

import copy
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations, product

import pandas as pd
import pytest
import torch
from oracles.covering import pairwise
from oracles.plain_loop import flat_parameters, plain_train
from oracles.tiny_data import as_splits, make_splits
from torch import nn

from aba_core import replicas, training
from aba_core.adjustments import AdjustmentSet
from aba_core.architecture import flip_bit, initial_model
from aba_core.arms import Arm, TrainConfig
from aba_core.datasets import Split, Splits
from aba_core.identity import plain
from aba_core.methods.aba import ABA, CHALLENGER, FASTABA, FASTABA_CE, MENDABA, Augmentation
from aba_core.methods.loop import Regularizer
from aba_core.models import MODELS, build_model
from aba_core.randomness import batch_order, epoch_order
from aba_core.selection import Percentiles, SignSplit
from aba_core.training import Runs, train

METRICS = [f"{s}_{m}" for s in ("validation", "test", "train") for m in ("accuracy", "loss")]
SAMPLES, BATCH = 14, 5  # of tiny_splits, and small enough that batches straddle epochs

exact = TrainConfig(
    model="mlp", epochs=BATCH * 5 / SAMPLES, batch_size=BATCH, dtype="float64", learning_rate=0.05
)


@pytest.fixture(autouse=True)
def few_are_stacked(monkeypatch):
    """The stacks here are small and stand for large ones."""
    monkeypatch.setattr(replicas, "STACKED_FROM", 1)


def steps(config: TrainConfig, count: int) -> TrainConfig:
    """The same config with so many steps."""
    return replace(config, epochs=count * config.batch_size / SAMPLES)


def splits_for(model: str) -> Splits:
    return make_splits((6, 4) if model == "text_cnn" else (1, 4, 5))


def close(result: float | torch.Tensor, expected: float | torch.Tensor, tolerance=1e-9) -> None:
    torch.testing.assert_close(
        torch.as_tensor(result, dtype=torch.float64),
        torch.as_tensor(expected, dtype=torch.float64),
        rtol=tolerance,
        atol=tolerance,
    )


def assert_equals_the_plain_loop(
    config: TrainConfig, arms: Sequence[Arm], seeds: Sequence[int], splits: Splits, **options
) -> Runs:
    """Metrics after every step, and parameters and running statistics after the last one."""
    runs = train(replace(config, curve_every=1), arms, seeds, splits=splits, **options)
    frame, curves = runs.frame(), runs.curves()
    for arm, seed in product(arms, seeds):
        plain = plain_train(config, arm, seed, splits, **options)
        curve = curves[(curves.arm == arm.name) & (curves.seed == seed)].sort_values("step")
        assert list(curve.step) == list(range(1, len(plain.metrics) + 1))
        expected = pd.DataFrame(plain.metrics)
        for name in METRICS:
            close(torch.tensor(curve[name].values), torch.tensor(expected[name].values))
        (row,) = frame[(frame.arm == arm.name) & (frame.seed == seed)].to_dict("records")
        assert row["status"] == "finished" and row["step"] == len(plain.metrics)
        for name in METRICS:
            close(row[name], plain.metrics[-1][name])
        trained = runs.model(arm.name, seed).state_dict()
        for name, value in plain.model.state_dict().items():
            close(trained[name], value)
    return runs


# --- against the plain loop ----------------------------------------------------------------------

CHOICES = {
    "model": tuple(MODELS),
    "batch_norm": (False, True),
    "optimizer": ("sgd", "adam"),
    "momentum": (0.0, 0.9),
    "weight_decay": (0.0, 0.02),
    "schedule": ("constant", "step", "cosine"),
    "split": (Percentiles(0.1, 0.9), SignSplit(), Percentiles(0.3, 0.7), Percentiles(0.2)),
    "attribution": ("gradient", "gradient_x_input", "smoothgrad", "integrated_gradients"),
    "target": ("loss", "class_score", "true_class", "predicted_class"),
    "randomize": (True, False),
    "draw_per": ("sample", "batch"),
    "target_per": ("sample", "batch"),
    "mode": (("eval", False), ("train", False), ("train", True)),
    "placebo": ("", "permuted", "other_sample", "untrained", "random", "gaussian"),
}
CONFIG_FIELDS = ("model", "batch_norm", "optimizer", "momentum", "weight_decay", "schedule")
FIRST_SETS = {2: "3,4,16,17,0", 3: "1,2,3,4,5,6"}
SECOND_SETS = {2: "6", 3: "all"}


def config_and_arms(case: dict) -> tuple[TrainConfig, list[Arm]]:
    """Two augmented arms of other sets, strengths and learning rates."""
    config = replace(exact, **{name: case[name] for name in CONFIG_FIELDS})
    rate = 0.002 if case["optimizer"] == "adam" else 0.02
    # Deep batch norm multiplies rounding errors a thousandfold a step: small steps keep them small.
    rate = rate / 100 if case["model"] in LARGE else rate
    config = replace(config, learning_rate=rate)
    mode, update_statistics = case["mode"]
    first = Augmentation(
        AdjustmentSet.parse(FIRST_SETS[case["split"].categories]),
        strength=0.3,
        randomize=case["randomize"],
        split=case["split"],
        attribution=case["attribution"],
        target=case["target"],
        top_k=2,
        draw_per=case["draw_per"],
        target_per=case["target_per"],
        attribution_mode=mode,
        update_statistics=update_statistics,
        attribution_samples=2,
        placebo=case["placebo"],
    )
    second = replace(
        first,
        adjustments=AdjustmentSet.parse(SECOND_SETS[case["split"].categories]),
        strength=1.0,
    )
    arms = [Arm("first", first), Arm("second", second, config.learning_rate / 2, flip_bit=True)]
    return config, arms


def named(case: dict) -> str:
    return "-".join(str(value) for value in case.values()).replace(" ", "")


LARGE = ("vgg11", "vgg16")
WIDER = ("larger_cnn",)  # the small CNN's layers, only more of them
SMALL = tuple(name for name in MODELS if name not in (*LARGE, *WIDER))
COVERING = {models: pairwise(CHOICES | {"model": models}) for models in (SMALL, LARGE)}


def of_large_models() -> list:
    """Each large model with and without batch norm at once, its other cases among the slow ones."""
    cases, met = [], set()
    for case in COVERING[LARGE]:
        kind = (case["model"], case["batch_norm"])
        marks = [pytest.mark.slow] if kind in met else []
        cases.append(pytest.param(case, marks=marks, id=named(case)))
        met.add(kind)
    return cases


@pytest.mark.parametrize("models", [SMALL, LARGE], ids=["small", "large"])
def test_the_covering_product_covers_every_pair_of_choices(models):
    choices = CHOICES | {"model": models}
    for a, b in combinations(choices, 2):
        covered = {(case[a], case[b]) for case in COVERING[models]}
        assert covered == set(product(choices[a], choices[b]))


@pytest.mark.parametrize("case", COVERING[SMALL], ids=named)
def test_every_replica_equals_a_model_trained_alone(case):
    config, arms = config_and_arms(case)
    assert_equals_the_plain_loop(steps(config, 6), arms, [3, 8], splits_for(case["model"]))


@pytest.mark.parametrize("case", of_large_models())
def test_every_replica_of_a_large_model_equals_one_trained_alone(case):
    config, arms = config_and_arms(case)
    assert_equals_the_plain_loop(steps(config, 2), arms, [3], splits_for(case["model"]))


@pytest.mark.slow
@pytest.mark.parametrize("mode", CHOICES["mode"], ids=str)
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("model", ["mlp", "small_cnn", "text_cnn"])
def test_every_way_of_augmenting_equals_a_model_trained_alone(model, batch_norm, mode):
    for split, attribution, target, target_per in product(
        CHOICES["split"], CHOICES["attribution"], CHOICES["target"], CHOICES["target_per"]
    ):
        if target_per == "batch" and target != "class_score":
            continue
        case = {name: values[0] for name, values in CHOICES.items()} | {
            "model": model, "batch_norm": batch_norm, "mode": mode, "split": split,
            "attribution": attribution, "target": target, "target_per": target_per,
        }  # fmt: skip
        config, arms = config_and_arms(case)
        assert_equals_the_plain_loop(steps(config, 4), arms, [3], splits_for(model))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", CHOICES["schedule"])
@pytest.mark.parametrize("optimizer", CHOICES["optimizer"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_every_way_of_optimising_equals_a_model_trained_alone(
    model, batch_norm, optimizer, schedule
):
    for momentum, weight_decay in product(CHOICES["momentum"], CHOICES["weight_decay"]):
        case = {name: values[0] for name, values in CHOICES.items()} | {
            "model": model, "batch_norm": batch_norm, "optimizer": optimizer,
            "momentum": momentum, "weight_decay": weight_decay, "schedule": schedule,
        }  # fmt: skip
        config, arms = config_and_arms(case)
        count = 2 if model in LARGE else 8
        assert_equals_the_plain_loop(steps(config, count), arms, [3], splits_for(model))


@pytest.mark.parametrize("preset", [None, CHALLENGER, MENDABA, FASTABA, FASTABA_CE])
def test_presets_and_vanilla_equal_a_model_trained_alone(preset, tiny_splits):
    augmentation = preset and replace(preset, strength=0.5, top_k=3)
    arms = [Arm("only", augmentation)]
    assert_equals_the_plain_loop(steps(exact, 8), arms, [0, 1], tiny_splits)


@pytest.mark.parametrize("count", [1, 2, 5, 11])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("model", ["mlp", "text_cnn"])
def test_parameters_agree_after_so_many_steps(model, optimizer, count):
    splits = splits_for(model)
    config = replace(steps(exact, count), model=model, optimizer=optimizer)
    arms = [Arm("vanilla"), Arm("aba", replace(MENDABA, strength=0.5, top_k=3))]
    runs = train(config, arms, [4, 5], splits=splits)
    for arm, seed in product(arms, (4, 5)):
        plain = plain_train(steps(config, 11), arm, seed, splits)
        close(flat_parameters(runs.model(arm.name, seed)), plain.parameters[count - 1])


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("model", ["small_cnn", "mlp"])
def test_lagged_maps_equal_a_model_trained_alone(model, together, tiny_splits, monkeypatch):
    """Each sample's map is the gradient of its last training step; three epochs."""
    monkeypatch.setattr(replicas, "STACKED_FROM", 1 if together else 99)
    method = Augmentation(AdjustmentSet.parse("all"), strength=0.7, target="loss", lagged=True)
    arms = [Arm("lagged", method), Arm("less", replace(method, strength=0.1))]
    config = TrainConfig(
        model=model, batch_norm=model == "mlp", dtype="float64", batch_size=5, epochs=3,
        optimizer="adam", learning_rate=0.02,
    )  # fmt: skip
    runs = assert_equals_the_plain_loop(config, arms, [0, 3], tiny_splits)
    exact_maps = Arm("exact", replace(method, lagged=False))
    other = train(config, [exact_maps], [0], splits=tiny_splits).frame()
    frame = runs.frame().set_index(["arm", "seed"])
    assert frame.loc[("lagged", 0), "test_loss"] != other["test_loss"][0]
    assert frame.loc[("lagged", 0), "passes"] * 2 == other["passes"][0]
    assert frame.loc[("lagged", 0), "lagged"] and "lagged" not in other


def test_lagged_is_part_of_the_identity_only_where_it_is_asked_for():
    method = Augmentation(AdjustmentSet.parse("all"), target="loss")
    assert "lagged" not in str(plain(method))
    assert plain(replace(method, lagged=True)) == {**plain(method), "lagged": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "class_score"}, "lagged with target 'class_score'; allowed: 'loss'"),
        ({"attribution": "smoothgrad"}, "lagged with attribution 'smoothgrad'; allowed: 'grad"),
        ({"placebo": "random"}, "lagged with placebo 'random'; allowed: ''"),
        ({"site": "0"}, "lagged with site '0'; allowed: 'input'"),
    ],
)
def test_lagged_maps_of_another_kind_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(AdjustmentSet.parse("all"), **{"target": "loss", **change}, lagged=True)


def own_loop_of_lagged_maps(aba: ABA, seed: int, splits: Splits) -> nn.Module:
    """One model trained as somebody would with `ABA(..., lagged=True)`; 3 epochs of SGD."""
    samples, seeds = len(splits.train), torch.tensor([seed])
    build = partial(build_model, "mlp", splits.input_shape, splits.classes, True)
    model = initial_model(build, seed, torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    for number in range(round(3 * samples / BATCH)):
        rows = batch_order(lambda e: epoch_order(seeds, e, samples), number, BATCH, samples)[0]
        x = aba(model, splits.train.x[rows].double(), splits.train.y[rows], rows)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(x), splits.train.y[rows]).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("split", [Percentiles(0.1, 0.9), SignSplit()], ids=["percentiles", "sign"])
def test_lagged_maps_in_anybodys_loop_are_those_of_the_engine(split, tiny_splits):
    members = "all" if split.categories == 3 else "0x2,3,4,5,6"
    method = Augmentation(members, strength=0.7, split=split, target="loss", lagged=True)
    config = TrainConfig(
        model="mlp", batch_norm=True, dtype="float64", batch_size=BATCH, epochs=3,
        optimizer="sgd", learning_rate=0.05,
    )  # fmt: skip
    expected = plain_train(config, Arm("lagged", method), 4, tiny_splits).model
    trained = own_loop_of_lagged_maps(ABA(method, seed=4), 4, tiny_splits)
    close(flat_parameters(trained), flat_parameters(expected))
    exact_maps = plain_train(config, Arm("a", replace(method, lagged=False)), 4, tiny_splits).model
    assert not torch.allclose(flat_parameters(exact_maps), flat_parameters(expected))


def test_a_loop_with_lagged_maps_is_told_what_it_lacks():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x, y, rows = torch.randn(3, 4), torch.tensor([0, 1, 1]), torch.tensor([4, 0, 7])
    aba = ABA("fastaba-ce", lagged=True)
    for wrong in (None, rows[:2], rows.float(), rows - 5):
        with pytest.raises(ValueError, match="rows is .*; needed with lagged maps: each sample's"):
            aba(model, x, y, wrong)
    with pytest.raises(ValueError, match="rows are given without lagged maps; needed: ABA"):
        ABA("fastaba-ce")(model, x, y, rows)
    with pytest.raises(ValueError, match="lagged with target 'class_score'; allowed: 'loss'"):
        ABA("mendaba", lagged=True)
    first = aba(model, x, y, rows)
    assert torch.equal(first, x) and aba.step == 1  # not trained on yet
    with pytest.raises(ValueError, match="the batch of the last call has no gradient; needed"):
        aba(model, x, y, rows)
    assert aba.step == 1
    aba(model, x, y, rows).mul(float("inf")).sum().backward()
    with pytest.raises(ValueError, match="held NaN or infinite values; allowed: finite"):
        aba(model, x, y, rows)
    aba = ABA("fastaba-ce", lagged=True)
    aba(model, x, y, rows).sum().backward()
    with pytest.raises(ValueError, match=r"x is \(2, 2\) of torch.float32; needed, as in"):
        aba(model, x.reshape(3, 2, 2), y, rows)


def test_loops_that_keep_no_gradients_refuse_lagged_maps():
    method = Augmentation(AdjustmentSet.parse("all"), target="loss", lagged=True)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="lagged is True; needed: training by `train`"):
        Regularizer(method)(model, torch.randn(3, 4), torch.tensor([0, 1, 1]))


def test_arms_of_different_structure_each_equal_a_model_trained_alone(tiny_splits):
    arms = [
        Arm("sign", replace(FASTABA, strength=0.4, top_k=3)),
        Arm("vanilla"),
        Arm("percentiles", replace(MENDABA, strength=0.4, top_k=3)),
        Arm("vanilla, slow", learning_rate=0.001),
        Arm("loss", replace(FASTABA_CE, strength=0.4)),
    ]
    assert_equals_the_plain_loop(exact, arms, [2, 9], tiny_splits)


def test_a_loss_of_the_users_own_equals_a_model_trained_alone(tiny_splits):
    def squared_error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return ((logits - nn.functional.one_hot(labels, 3)) ** 2).sum(-1)

    arms = [Arm("loss", replace(FASTABA_CE, strength=0.4))]
    assert_equals_the_plain_loop(exact, arms, [2, 9], tiny_splits, loss=squared_error)


class Gated(nn.Module):
    """A model of the user's own, with a buffer that is no running statistic."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([0.5, 2.0]))
        self.gate = nn.Linear(20, 2)
        self.out = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.sigmoid(self.gate(x.flatten(1))) * self.scale)


def test_a_model_of_the_users_own_equals_one_trained_alone(tiny_splits):
    arms = [Arm("aba", replace(MENDABA, strength=0.4, top_k=3))]
    runs = assert_equals_the_plain_loop(exact, arms, [2, 9], tiny_splits, build=Gated)
    assert isinstance(runs.model("aba", 2), Gated)


# --- runs do not touch one another ---------------------------------------------------------------


def twenty_seven_arms(**choices) -> list[Arm]:
    """Each adjustment alone, as in the isolation study."""
    return [
        Arm(f"{i}", Augmentation(AdjustmentSet.from_indices([i]), 0.5, target="loss", **choices))
        for i in range(27)
    ]


def assert_same_rows(one: pd.DataFrame, other: pd.DataFrame, tolerance: float = 1e-9) -> None:
    """The same runs with the same metrics, in whatever order."""
    key = ["arm", "seed"]
    one, other = (f.sort_values(key).reset_index(drop=True) for f in (one, other))
    pd.testing.assert_frame_equal(
        one.drop(columns="seconds"), other.drop(columns="seconds"), rtol=tolerance, atol=tolerance
    )


def test_a_flipped_bit_is_one_weight_changed_by_one_unit_in_the_last_place(tiny_splits):
    model = build_model("small_cnn", tiny_splits.input_shape, tiny_splits.classes)
    changed = set()
    for seed in range(5):
        flipped = copy.deepcopy(model)
        flip_bit(flipped, seed)
        before, after = (
            torch.nn.utils.parameters_to_vector(m.parameters()) for m in (model, flipped)
        )
        (place,) = (before != after).nonzero()[:, 0].tolist()
        neighbours = [torch.nextafter(before[place], torch.tensor(s * math.inf)) for s in (-1, 1)]
        assert after[place] in neighbours
        changed.add(place)
    assert len(changed) > 1


@pytest.mark.filterwarnings("ignore:precision is .bf16., which this processor emulates")
def test_half_precision_moves_little_and_leaves_parameters_whole(tiny_splits):
    config = replace(exact, model="small_cnn", dtype="float32", learning_rate=0.01)
    arms = [Arm("vanilla"), Arm("aba", replace(MENDABA, strength=0.3, target="loss"))]
    full, half = (
        train(replace(config, precision=p), arms, [0, 1], splits=tiny_splits)
        for p in ("full", "bf16")
    )
    whole, rough = full.frame().validation_loss, half.frame().validation_loss
    assert not (whole == rough).any()
    assert (whole - rough).abs().max() < 0.05 * whole.abs().max()
    assert {p.dtype for p in half.model("aba", 0).parameters()} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


def test_a_precision_that_a_processor_emulates_is_warned_of(tiny_splits, monkeypatch):
    config = TrainConfig(model="mlp", epochs=0.1, batch_size=5, precision="bf16")
    for names, warned in (({"sse2"}, True), ({"sse2", "avx512_bf16"}, False), ((), False)):
        monkeypatch.setattr(training, "features", lambda names=names: frozenset(names))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(config, [Arm("a")], [0], splits=tiny_splits)
        told = [m for w in caught if (m := str(w.message)).startswith("precision is 'bf16'")]
        assert len(told) == warned


def test_a_precision_that_a_device_lacks_is_refused(tiny_splits):
    with pytest.raises(ValueError, match="precision is 'tf32', which 'cpu' does not have"):
        train(replace(exact, precision="tf32"), [Arm("a")], [0], splits=tiny_splits)
    with pytest.raises(ValueError, match="unknown precision 'fp8'; known: full, bf16, tf32"):
        replace(exact, precision="fp8")


def test_a_run_alone_equals_the_same_run_among_27_arms(tiny_splits):
    config = replace(exact, model="small_cnn", batch_norm=True)
    arms = twenty_seven_arms()
    together = train(config, arms, [1, 2], splits=tiny_splits)
    for arm, seed in ((arms[17], 2), (arms[0], 1), (arms[26], 1)):
        alone = train(config, [arm], [seed], splits=tiny_splits)
        frame = together.frame()
        among = frame[(frame.arm == arm.name) & (frame.seed == seed)]
        assert_same_rows(alone.frame(), among)
        trained = together.model(arm.name, seed).state_dict()
        for name, value in alone.model(arm.name, seed).state_dict().items():
            close(trained[name], value)


ONE_BY_ONE = {
    "vanilla": None,
    "score": replace(MENDABA, strength=0.4, top_k=3),
    "loss": replace(MENDABA, strength=0.4, target="loss", adjustments=AdjustmentSet.parse("all")),
    "per batch": replace(MENDABA, strength=0.4, top_k=3, target_per="batch", draw_per="batch"),
    "smoothgrad": replace(
        MENDABA, strength=0.4, top_k=3, attribution="smoothgrad", attribution_samples=2
    ),
    "maps in train mode": replace(
        MENDABA, strength=0.4, top_k=3, attribution_mode="train", update_statistics=True
    ),
    "other sample": replace(MENDABA, strength=0.4, top_k=3, placebo="other_sample"),
    "untrained": replace(MENDABA, strength=0.4, top_k=3, placebo="untrained"),
}


@pytest.mark.parametrize("model", ["mlp", "small_cnn"])
def test_replicas_one_by_one_equal_the_plain_loop(model, tiny_splits, monkeypatch):
    """Inputs too large to share an operation: here all are."""
    monkeypatch.setattr(replicas, "STACKED_UP_TO", 0)
    config = steps(replace(exact, model=model, batch_norm=True, optimizer="adam"), 4)
    arms = [Arm(name, augmentation) for name, augmentation in ONE_BY_ONE.items()]
    assert_equals_the_plain_loop(config, arms, [0, 3], tiny_splits)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_results_depend_on_neither_order_nor_chunking(optimizer, tiny_splits):
    config = replace(exact, optimizer=optimizer)
    mendaba = replace(MENDABA, strength=0.4, top_k=3)
    arms = [
        Arm("vanilla"),
        Arm("mendaba", mendaba),
        Arm("fastaba", replace(FASTABA, strength=0.4, top_k=3)),
        Arm("other set", replace(mendaba, strength=2.0, adjustments=AdjustmentSet.parse("all"))),
    ]
    whole = train(config, arms, [5, 1, 3], splits=tiny_splits).frame()
    reordered = train(config, arms[::-1], [3, 5, 1], splits=tiny_splits).frame()
    assert_same_rows(whole, reordered)
    by_seed = [train(config, arms, [seed], splits=tiny_splits).frame() for seed in (1, 3, 5)]
    assert_same_rows(whole, pd.concat(by_seed))
    by_arm = [train(config, [arm], [1, 3, 5], splits=tiny_splits).frame() for arm in arms]
    assert_same_rows(whole, pd.concat(by_arm))


def test_the_same_training_twice_is_bitwise_the_same(tiny_splits):
    config = replace(exact, dtype="float32", model="small_cnn", batch_norm=True)
    arms = [Arm("vanilla"), Arm("aba", replace(MENDABA, top_k=3))]
    first, second = (train(config, arms, [0, 1], splits=tiny_splits) for _ in range(2))
    assert_same_rows(first.frame(), second.frame(), tolerance=0)


def test_training_leaves_the_global_random_state_and_the_data_alone(tiny_splits):
    before, x = torch.get_rng_state(), tiny_splits.train.x.clone()
    train(exact, [Arm("aba", replace(MENDABA, top_k=3))], [0], splits=tiny_splits)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(tiny_splits.train.x, x)


def test_rows_come_in_the_order_of_arms_and_seeds(tiny_splits):
    arms = [Arm("z", replace(MENDABA, top_k=3)), Arm("a"), Arm("m", FASTABA_CE)]
    runs = train(replace(exact, curve_every=2), arms, [7, 2], splits=tiny_splits)
    expected = [(arm.name, seed) for arm in arms for seed in (7, 2)]
    frame, curves = runs.frame(), runs.curves()
    assert list(zip(frame.arm, frame.seed, strict=True)) == expected
    for _, at_step in curves.groupby("step"):
        assert list(zip(at_step.arm, at_step.seed, strict=True)) == expected


# --- what arms may vary --------------------------------------------------------------------------


def test_an_arms_learning_rate_takes_the_place_of_the_configs(tiny_splits):
    arms = [Arm("own", learning_rate=0.01), Arm("shared")]
    runs = train(exact, arms, [0], splits=tiny_splits)
    direct = train(replace(exact, learning_rate=0.01), [Arm("own")], [0], splits=tiny_splits)
    own, shared = runs.frame().to_dict("records")
    assert (own["learning_rate"], shared["learning_rate"]) == (0.01, exact.learning_rate)
    close(own["validation_loss"], direct.frame().validation_loss[0])
    assert own["validation_loss"] != shared["validation_loss"]


@pytest.mark.parametrize(
    "purpose", ["initialisation", "order", "adjustment", "magnitude", "target"]
)
def test_a_held_purpose_is_the_same_for_all_seeds_and_the_others_vary(purpose, tiny_splits):
    augmentation = replace(MENDABA, strength=0.7, top_k=3)
    others = [name for name in ("initialisation", "order", "adjustment", "magnitude", "target")
              if name != purpose]  # fmt: skip
    arms = [
        Arm("only this varies", augmentation, held=tuple((name, 0) for name in others)),
        Arm("nothing varies", augmentation, held=(*((name, 0) for name in others), (purpose, 0))),
    ]
    frame = train(steps(exact, 6), arms, [0, 1], splits=tiny_splits).frame()
    losses = frame.groupby("arm").validation_loss.nunique()
    assert losses["nothing varies"] == 1
    assert losses["only this varies"] == 2


def test_held_purposes_equal_a_model_trained_alone(tiny_splits):
    held = (("initialisation", 3), ("order", 1), ("adjustment", 9), ("magnitude", 2))
    arms = [Arm("held", replace(MENDABA, strength=0.7, top_k=3), held=held)]
    assert_equals_the_plain_loop(exact, arms, [0, 4], tiny_splits)


def test_a_held_initialisation_starts_every_seed_from_one_model(tiny_splits):
    build = partial(build_model, "mlp", (1, 4, 5), 3)
    start = flat_parameters(initial_model(build, 5, torch.float64))
    config = replace(steps(exact, 1), learning_rate=1e-300)
    runs = train(config, [Arm("a", held=(("initialisation", 5),))], [0, 1], splits=tiny_splits)
    for seed in (0, 1):
        assert torch.equal(flat_parameters(runs.model("a", seed)), start)


def test_the_initial_model_depends_on_its_seed_alone():
    build = partial(build_model, "mlp", (1, 4, 5), 3)
    first = flat_parameters(initial_model(build, 5, torch.float64))
    torch.manual_seed(123)
    assert torch.equal(flat_parameters(initial_model(build, 5, torch.float64)), first)
    assert not torch.equal(flat_parameters(initial_model(build, 6, torch.float64)), first)


# --- divergence ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_run_that_diverges_says_so_and_spares_its_neighbours(
    optimizer, augmented, batch_norm, dtype, tiny_splits
):
    config = replace(exact, optimizer=optimizer, dtype=dtype, batch_norm=batch_norm)
    augmentation = replace(MENDABA, top_k=3) if augmented else None
    wild = 1e30 if dtype == "float32" else 1e300
    good = [Arm("first", augmentation), Arm("last", augmentation)]
    arms = [good[0], Arm("wild", augmentation, learning_rate=wild), good[1]]
    # Two arms beside a diverging one, and beside a third that does not: the same computation.
    calm = [good[0], Arm("wild", augmentation), good[1]]
    frame = train(config, arms, [0, 1], splits=tiny_splits).frame()
    diverged = frame[frame.arm == "wild"]
    assert set(diverged.status) == {"diverged"}
    assert diverged[METRICS].isna().all(axis=None)
    expected = train(config, calm, [0, 1], splits=tiny_splits).frame()
    spared = frame[frame.arm != "wild"]
    assert set(spared.status) == {"finished"}
    assert_same_rows(spared, expected[expected.arm != "wild"], tolerance=0)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("rate", [1e4, 1e10, 1e20, 1e30, 1e37])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_run_is_finished_exactly_where_its_metrics_are_numbers(
    batch_norm, rate, count, tiny_splits
):
    """However far it blew up, and also where only its logits overflow at the very end."""
    config = replace(steps(exact, count), dtype="float32", batch_norm=batch_norm)
    (row,) = train(
        config, [Arm("wild", learning_rate=rate)], [0], splits=tiny_splits
    ).frame().to_dict("records")  # fmt: skip
    numbers = {math.isfinite(row[name]) for name in METRICS}
    assert numbers == {row["status"] == "finished"}


def test_a_diverged_run_still_has_its_row_and_columns(tiny_splits):
    arms = [Arm("wild", learning_rate=1e300), Arm("calm")]
    frame = train(exact, arms, [0], splits=tiny_splits).frame()
    assert list(frame.arm) == ["wild", "calm"]
    assert list(frame.step) == [5, 5]


# --- the table of runs ---------------------------------------------------------------------------


def test_a_frame_has_the_columns_a_study_needs(tiny_splits):
    arms = [Arm("vanilla"), Arm("aba", replace(MENDABA, strength=0.3, top_k=3))]
    frame = train(exact, arms, [0, 1], splits=tiny_splits, study="demo").frame()
    needed = {
        "study", "arm", "seed", "dataset", "subset", "model", "step", "validation_accuracy",
        "validation_loss", "test_accuracy", "test_loss", "seconds", "status",
    }  # fmt: skip
    assert needed <= set(frame.columns)
    assert len(frame) == 4 and not frame[list(needed)].isna().any(axis=None)
    assert set(frame.study) == {"demo"} and set(frame.status) == {"finished"}
    assert (frame.seconds > 0).all()
    aba = frame[frame.arm == "aba"].iloc[0]
    assert (aba.adjustments, aba.strength, aba.split) == ("1,2,3,4,5,6", 0.3, "percentiles 10/90")
    assert (aba.attribution, aba.target, aba.top_k) == ("gradient", "class_score", 3)


def test_every_field_of_the_config_is_a_column(tiny_splits):
    frame = train(exact, [Arm("vanilla")], [0], splits=tiny_splits).frame()
    for name, value in vars(exact).items():
        # The data and the columns say these.
        if name not in ("dataset", "subset", "metrics", "card", "trainer"):
            assert frame[name][0] == value, name


def test_a_row_names_the_data_it_was_trained_on(tiny_splits):
    frame = train(exact, [Arm("vanilla")], [0], splits=tiny_splits).frame()
    assert (frame.dataset[0], frame.subset[0]) == (tiny_splits.name, tiny_splits.subset)


def test_accuracies_are_in_percent():
    """A model that cannot but answer class 0, on splits with known shares of class 0."""

    class Zero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores = torch.zeros(len(x), 3, dtype=x.dtype) + 0 * self.unused
            return scores + torch.tensor([1.0, 0, 0], dtype=x.dtype)

    splits = make_splits((4,), sizes=(10, 9, 8))
    frame = train(replace(exact, epochs=1), [Arm("a")], [0], splits=splits, build=Zero).frame()
    assert frame.validation_accuracy[0] == pytest.approx(100 * 3 / 9)
    assert frame.test_accuracy[0] == pytest.approx(100 * 3 / 8)
    assert frame.train_accuracy[0] == pytest.approx(100 * 4 / 10)


def test_curves_hold_the_chosen_steps_and_end_with_the_frames_metrics(tiny_splits):
    config = replace(steps(exact, 7), curve_every=3)
    runs = train(config, [Arm("a"), Arm("b", learning_rate=0.01)], [0], splits=tiny_splits)
    curves, frame = runs.curves(), runs.frame()
    assert {arm: list(part.step) for arm, part in curves.groupby("arm")} == {
        "a": [3, 6, 7], "b": [3, 6, 7],
    }  # fmt: skip
    last = curves[curves.step == 7].reset_index(drop=True)
    assert last[METRICS].equals(frame[METRICS])


def test_no_curve_unless_asked(tiny_splits):
    runs = train(exact, [Arm("a")], [0], splits=tiny_splits)
    assert runs.curves().empty


def test_measuring_on_the_way_changes_nothing(tiny_splits):
    config = replace(exact, model="small_cnn", batch_norm=True)
    arms = [Arm("a", replace(MENDABA, top_k=3))]
    plain, measured = (
        train(replace(config, curve_every=every), arms, [0], splits=tiny_splits).model("a", 0)
        for every in (0, 1)
    )
    for name, value in plain.state_dict().items():
        assert torch.equal(measured.state_dict()[name], value)


def test_validation_logits_are_kept_where_asked(tiny_splits):
    runs = train(exact, [Arm("a"), Arm("b")], [0, 1], splits=tiny_splits, keep_logits=True)
    assert set(runs.logits) == set(product(("a", "b"), (0, 1)))
    for (arm, seed), logits in runs.logits.items():
        model = runs.model(arm, seed)
        close(logits, model(tiny_splits.validation.x.double()).detach())
    assert train(exact, [Arm("a")], [0], splits=tiny_splits).logits == {}


def test_progress_counts_every_step_of_every_run(tiny_splits):
    done: list[int] = []
    arms = [Arm("a"), Arm("b", FASTABA_CE), Arm("c", FASTABA_CE)]
    train(exact, arms, [0, 1], splits=tiny_splits, progress=done.append)
    assert sum(done) == 5 * 6


@pytest.mark.parametrize(
    ("augmentation", "passes"),
    [
        (None, 1),
        (MENDABA, 2),
        (replace(MENDABA, attribution="gradient_x_input"), 2),
        (replace(MENDABA, attribution="smoothgrad", attribution_samples=7), 9),
    ],
)
def test_passes_through_the_model_are_counted(augmentation, passes, tiny_splits):
    arm = Arm("a", augmentation and replace(augmentation, top_k=3))
    assert (arm.method.passes() if arm.method else 1) == passes
    assert train(exact, [arm], [0], splits=tiny_splits).frame().passes[0] == 5 * passes


def test_a_model_taken_from_runs_is_in_eval_mode_and_the_callers_own(tiny_splits):
    runs = train(replace(exact, batch_norm=True), [Arm("a")], [0], splits=tiny_splits)
    model = runs.model("a", 0)
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    assert any(bool((value != 0).any()) for value in runs.model("a", 0).parameters())


# --- steps and schedules -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "samples", "batch", "expected"),
    [(1, 100, 50, 2), (1, 101, 50, 2), (2.5, 10, 5, 5), (0.001, 10, 5, 1), (1000, 100, 50, 2000)],
)
def test_the_number_of_steps_is_rounded(epochs, samples, batch, expected):
    assert TrainConfig(epochs=epochs, batch_size=batch).steps(samples) == expected


def test_the_step_schedule_drops_at_half_and_three_quarters():
    config = TrainConfig(schedule="step")
    factors = [config.learning_rate_factor(step, 8) for step in range(8)]
    assert factors == pytest.approx([1] * 4 + [0.1] * 2 + [0.01] * 2)


def test_the_cosine_schedule_starts_at_one_and_falls_towards_zero():
    config = TrainConfig(schedule="cosine")
    factors = [config.learning_rate_factor(step, 8) for step in range(9)]
    assert factors[0] == 1 and factors[4] == pytest.approx(0.5) and factors[8] == pytest.approx(0)
    assert factors == sorted(factors, reverse=True)


# --- edges ---------------------------------------------------------------------------------------


def test_one_class_is_no_task_but_no_error():
    splits = make_splits((4,), classes=1)
    arms = [Arm("vanilla"), Arm("aba", replace(FASTABA, top_k=1))]
    frame = train(exact, arms, [0], splits=splits).frame()
    assert (frame[["validation_accuracy", "test_accuracy"]] == 100).all(axis=None)
    assert (frame.validation_loss.abs() < 1e-12).all()


def test_a_batch_as_large_as_the_data_is_fine_and_a_larger_one_refused(tiny_splits):
    whole = replace(exact, batch_size=14, epochs=2)
    assert train(whole, [Arm("a")], [0], splits=tiny_splits).frame().step[0] == 2
    with pytest.raises(ValueError, match="batch_size is 15; allowed: up to the 14 training"):
        train(replace(exact, batch_size=15), [Arm("a")], [0], splits=tiny_splits)


def test_soft_labels_train_with_a_loss_of_their_own(unchecked_shapes):
    """Several labels a sample: the loss is a parameter, and accuracy has no meaning."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        x = torch.randn(count, 6, generator=generator, dtype=torch.float64)
        return Split(x, (x[:, :3] > 0).double())

    def binary(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="none").sum(-1)

    splits = as_splits(split(14), split(9), split(7), 3, (6,))
    config = replace(steps(exact, 40), learning_rate=0.1, curve_every=20)
    arms = [Arm("vanilla"), Arm("aba", FASTABA_CE)]
    runs = train(config, arms, [0], splits=splits, loss=binary)
    assert set(runs.frame().status) == {"finished"}
    curves = runs.curves()
    vanilla = curves[curves.arm == "vanilla"].sort_values("step")
    assert vanilla.train_loss.iloc[-1] < vanilla.train_loss.iloc[0]
    assert vanilla.validation_loss.notna().all()


def test_text_embedded_on_the_way_trains_as_text_embedded_before():
    embedding = torch.randn(11, 4)
    embedding[0] = 0

    def split(count: int) -> Split:
        return Split(torch.randint(11, (count, 6)), torch.arange(count) % 3, embedding)

    lazy = [split(count) for count in (14, 9, 7)]
    ready = [Split(part.x, part.y) for part in lazy]
    config = replace(exact, model="text_cnn")
    arms = [Arm("aba", replace(MENDABA, top_k=3))]
    frames = [
        train(config, arms, [0], splits=as_splits(*parts, 3, (6, 4))).frame()
        for parts in (lazy, ready)
    ]
    assert_same_rows(*frames, tolerance=0)


def test_the_default_config_trains_on_digits():
    config = TrainConfig(epochs=2)
    frame = train(config, [Arm("vanilla"), Arm("mendaba", MENDABA)], [0, 1]).frame()
    assert set(frame.status) == {"finished"} and set(frame.step) == {4}
    assert set(frame.dataset) == {"digits"} and set(frame.subset) == {"tiny"}


def test_training_learns_something():
    config = TrainConfig(model="mlp", epochs=30, learning_rate=0.05)
    arms = [Arm("vanilla"), Arm("mendaba", replace(MENDABA, strength=0.3))]
    frame = train(config, arms, [0, 1]).frame()
    assert (frame.validation_accuracy > 60).all() and (frame.train_accuracy > 90).all()


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arms", "seeds", "message"),
    [
        ([Arm("a"), Arm("a", MENDABA)], [0], "arm name 'a' is repeated"),
        ([Arm("a")], [0, 1, 0], "seed '0' is repeated"),
        ([], [0], "no arm"),
        ([Arm("a")], [], "no seed"),
        ([Arm("a")], [-1], "seed -1; allowed"),
        ([Arm("a")], [0.5], "seed 0.5; allowed"),
    ],
)
def test_arms_and_seeds_that_are_none_are_refused(arms, seeds, message, tiny_splits):
    with pytest.raises(ValueError, match=message):
        train(exact, arms, seeds, splits=tiny_splits)


def test_more_top_classes_than_there_are_is_refused(tiny_splits):
    with pytest.raises(ValueError, match="top_k is 4, but the model has 3 classes"):
        train(exact, [Arm("a", replace(MENDABA, top_k=4))], [0], splits=tiny_splits)


def test_an_unknown_dataset_or_model_is_refused(tiny_splits):
    with pytest.raises(ValueError, match="unknown dataset 'minst' .*; known: digits"):
        train(replace(exact, dataset="minst"), [Arm("a")], [0])
    with pytest.raises(
        ValueError, match="unknown model 'resnet' .did you mean 'resnet18'.*known: lin"
    ):
        train(replace(exact, model="resnet"), [Arm("a")], [0], splits=tiny_splits)


@pytest.mark.parametrize(
    ("field", "bad", "allowed"),
    [
        ("optimizer", "rmsprop", "known: sgd, adam"),
        ("schedule", "linear", "known: constant, step, cosine"),
        ("dtype", "float16", "known: float32, float64"),
        ("epochs", 0, "above 0"),
        ("epochs", math.inf, "finite"),
        ("learning_rate", 0, "above 0"),
        ("learning_rate", math.nan, "finite"),
        ("momentum", -0.1, "not below 0"),
        ("weight_decay", -1, "not below 0"),
        ("batch_size", 0, "whole numbers from 1"),
        ("batch_size", 2.5, "whole numbers from 1"),
        ("batch_size", 2.0, "whole numbers from 1"),
        ("curve_every", -1, "0 or more steps"),
        ("curve_every", 0.5, "0 or more steps"),
    ],
)
def test_a_bad_field_is_refused_with_its_value_and_what_is_allowed(field, bad, allowed):
    with pytest.raises(ValueError, match=allowed) as refused:
        replace(exact, **{field: bad})
    assert str(bad) in str(refused.value)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_an_arms_learning_rate_must_be_finite_and_positive(bad):
    with pytest.raises(ValueError, match=rf"learning_rate is {bad}; allowed: finite, above 0"):
        Arm("a", learning_rate=bad)


def test_an_arm_needs_a_name_and_known_purposes():
    with pytest.raises(ValueError, match="the name of an arm is ''; needed: text"):
        Arm("")
    with pytest.raises(ValueError, match="unknown purpose 'luck'; known: initialisation"):
        train(exact, [Arm("a", held=(("luck", 1),))], [0])
    with pytest.raises(ValueError, match="seed -1; allowed"):
        train(exact, [Arm("a", held=(("order", -1),))], [0])


def test_an_arm_with_a_subset_of_each_run_is_trained_one_seed_at_a_time(tiny_splits):
    arm = Arm("a", subset_per_run=True)
    with pytest.raises(ValueError, match="arm 'a' draws its training samples by the run's seed"):
        train(exact, [arm], [0, 1], splits=tiny_splits)
    train(replace(exact, subset_seed=1), [arm], [1], splits=tiny_splits)


def test_a_run_that_was_not_trained_is_refused_with_the_arms_there_are(tiny_splits):
    runs = train(exact, [Arm("a"), Arm("b")], [0], splits=tiny_splits)
    with pytest.raises(KeyError, match="no run of arm 'c' with seed 0; arms: a, b"):
        runs.model("c", 0)
    with pytest.raises(KeyError, match="no run of arm 'a' with seed 5"):
        runs.model("a", 5)


def test_arms_and_configs_are_values():
    assert Counter([Arm("a"), Arm("a"), Arm("b")])[Arm("a")] == 2
    assert hash(exact) == hash(replace(exact))
