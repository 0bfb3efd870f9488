"""What a training demands of a GPU: predicted from few replicas, it is what more are counted to
take, and by hand. Seconds are predicted of numbers that no GPU has confirmed."""

import pytest
import torch
from oracles import memory_by_hand
from oracles.tiny_data import make_splits

from aba_core import AdjustmentSet, Arm, Augmentation, TrainConfig, build_model, demand
from aba_core.demand import Counter, Rates, count, demand_of, meta_step

ALL = Augmentation(AdjustmentSet.parse("all"), strength=0.5, target="loss")
RATES = Rates(1e12, {"full": 1e13, "tf32": 2e13, "bf16": 4e13})


def config(**changes) -> TrainConfig:
    return TrainConfig(**{"batch_size": 6, "epochs": 3, "optimizer": "adam", **changes})


@pytest.mark.parametrize("arm", [Arm("vanilla"), Arm("all", ALL)], ids=lambda arm: arm.name)
@pytest.mark.parametrize(
    ("model", "shape"),
    [("mlp", (1, 4, 5)), ("small_cnn", (1, 8, 8)), ("vgg11", (3, 32, 32)), ("text_cnn", (9, 4))],
)
def test_what_is_predicted_is_counted_with_more_replicas(model, shape, arm):
    splits, setting = make_splits(shape), config(model=model)
    predicted = demand_of(setting, arm, splits)
    step, evaluation, stays = count(meta_step(setting, arm, splits, 17), splits)
    assert stays == pytest.approx(predicted.stays.of(17))
    for counted, work in ((step, predicted.step), (evaluation, predicted.evaluation)):
        # But for rounding of each tensor to the allocator's grain, and sizes that paths go by.
        assert counted.peak == pytest.approx(work.held.of(17), rel=0.03)
        assert counted.moved == pytest.approx(work.moved.of(17), rel=0.03)
        assert counted.flops == pytest.approx(work.flops.of(17), rel=1e-9)
        assert counted.operations == work.operations


def test_an_mlp_takes_what_is_reckoned_by_hand():
    shape, batch = (1, 28, 28), 50
    splits = make_splits(shape, sizes=(60, 9, 7))
    model = build_model("mlp", shape, 3)
    found = demand_of(config(model="mlp", batch_size=batch), Arm("vanilla"), splits)
    # The number of a step is one number more; a step also holds a gradient beside the parameters,
    # and a few vectors of their length while Adam goes through.
    assert found.stays.each == pytest.approx(memory_by_hand.stays(model), rel=0.01)
    assert found.step.flops.each == memory_by_hand.flops(model, batch)
    least = memory_by_hand.activations(model, batch) + 4 * memory_by_hand.parameters(model)
    assert least < found.step.held.each < 3 * least


def test_a_counter_sees_what_is_held_at_once_and_what_was_given_back():
    with Counter() as counter:
        a = torch.zeros(1024, device="meta")  # 4096 bytes
        b = a + a
        del a
        c = b + b
        view = c[:10]
    assert counter.peak == 2 * 4096 and counter.held == 2 * 4096
    del b, c
    assert counter.held == 4096  # the view holds it
    del view
    assert counter.held == 0
    assert counter.operations == 3


def test_products_count_their_operations():
    a, b = torch.zeros(3, 4, 5, device="meta"), torch.zeros(3, 5, 6, device="meta")
    x = torch.zeros(2, 4, 9, 9, device="meta", requires_grad=True)
    weight = torch.zeros(6, 2, 3, 3, device="meta", requires_grad=True)
    with Counter() as counter:
        a @ b
        assert counter.flops == 2 * 3 * 4 * 5 * 6
        made = torch.nn.functional.conv2d(x, weight, groups=2)
        forward = 2 * made.numel() * 2 * 3 * 3
        assert counter.flops == 720 + forward
        made.sum().backward()
    assert counter.flops == 720 + 3 * forward


def test_fitting_is_the_most_that_memory_holds():
    predicted = demand_of(config(model="mlp"), Arm("all", ALL), make_splits((1, 4, 5)))
    for free in (1e6, 1e7, 1e9):
        most = predicted.fitting(free)
        assert predicted.memory(most) <= free or most == 1
        assert predicted.memory(most + 1) > free
    assert predicted.fitting(10.0) == 1


def test_within_is_as_many_as_the_time_allows():
    predicted = demand_of(config(model="mlp"), Arm("all", ALL), make_splits((1, 4, 5)))
    limit = predicted.seconds(40, RATES, True)
    assert predicted.within(limit * 1.001, RATES, True) == 40
    # One run alone takes longer: then so many that they double its time.
    once, each = predicted.seconds_shared(RATES, False)
    assert predicted.within(once / 2, RATES, False) == int(once / each)


def test_a_recorded_step_starts_faster_and_bf16_multiplies_faster():
    splits = make_splits((3, 32, 32))
    full = demand_of(config(model="small_cnn"), Arm("all", ALL), splits)
    half = demand_of(config(model="small_cnn", precision="bf16"), Arm("all", ALL), splits)
    assert full.seconds(9, RATES, True) < full.seconds(9, RATES, False)
    slow = Rates(1e15, {"full": 1e9, "tf32": 2e9, "bf16": 4e9})  # products are all that counts
    assert half.seconds(9, slow, True) < full.seconds(9, slow, True)
    assert half.memory(9) == full.memory(9)


def test_a_batch_of_evaluation_shrinks_with_the_replicas_of_a_gpu():
    from aba_core.evaluation import evaluation_batch

    assert [evaluation_batch(r, "cuda") for r in (1, 135, 10**6)] == [50_000, 370, 16]
    assert evaluation_batch(135, "cpu") == 500
    assert demand.rates_of("NVIDIA H100 80GB HBM3") is demand.RATES["H100"]
    assert demand.rates_of("another") is demand.UNKNOWN
