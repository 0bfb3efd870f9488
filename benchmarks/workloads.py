"""What is timed: a model, the shape of its inputs, a batch and a number of replicas; and the work
of a step with MendABA, written down so that every peer does the same.

The work comes with its draws: which samples, which changes, what magnitudes. Peers get them free;
the engine makes its own within its time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from aba_core import AdjustmentSet, Arm, Augmentation, TrainConfig, build_model
from aba_core.datasets import Split, Splits, load_dataset

MENDABA = Augmentation(AdjustmentSet.parse("1,2,3,4,5,6"), strength=0.5, target="loss")
LEARNING_RATE = 0.002
CLASSES = 10
SAMPLES = 200
SHARE = 0.1  # of the features in the low and in the high category


@dataclass(frozen=True)
class Workload:
    """replicas: how many a chunk of a study holds."""

    name: str
    model: str
    shape: tuple[int, ...]
    batch: int
    replicas: int

    def config(self, steps: int) -> TrainConfig:
        return TrainConfig(
            epochs=steps * self.batch / SAMPLES,
            optimizer="adam",
            learning_rate=LEARNING_RATE,
            batch_size=self.batch,
            model=self.model,
        )


WORKLOADS = (
    Workload("digits, 8×8", "small_cnn", (1, 8, 8), 20, 28),
    Workload("MNIST, 28×28", "small_cnn", (1, 28, 28), 20, 7),
    Workload("MNIST, 28×28", "small_cnn", (1, 28, 28), 50, 7),
    Workload("CIFAR-10, 32×32", "small_cnn", (3, 32, 32), 50, 7),
    Workload("MLP, 28×28", "mlp", (1, 28, 28), 20, 7),
    Workload("News, 200 tokens", "text_cnn", (200, 100), 20, 7),
    Workload("vgg11, 32×32", "vgg11", (3, 32, 32), 20, 2),
)


@dataclass(frozen=True)
class Work:
    """What every peer gets: models to start from, data, and the draws of so many steps, which
    begin again after the last."""

    models: list[nn.Module]
    x: Float[Tensor, "sample *feature"]
    y: Int64[Tensor, "sample"]
    rows: Int64[Tensor, "step replica batch"]
    changes: Float[Tensor, "step replica batch 3"]  # of the low, middle and high category
    magnitudes: Float[Tensor, "step replica batch"]  # strength included
    learning_rate: float = LEARNING_RATE

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    def template(self) -> nn.Module:
        return copy.deepcopy(self.models[0])


def made_up(shape: tuple[int, ...], samples: int = 100) -> Splits:
    """Normal inputs of a data set's shape: speed does not depend on what the pictures show."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.arange(count) % CLASSES
        return Split(torch.randn(count, *shape, generator=generator), labels)

    parts = {"train": split(samples), "validation": split(10), "test": split(10)}
    return replace(load_dataset("digits"), **parts, input_shape=shape, name="made up")


def arms(count: int, augmentation: Augmentation | None) -> list[Arm]:
    return [Arm(f"{number}", augmentation) for number in range(count)]


def made_up_work(workload: Workload, replicas: int, steps: int = 64, device: str = "cpu") -> Work:
    """Work on made-up data with draws by torch's generator."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    models = [build_model(workload.model, workload.shape, CLASSES) for _ in range(replicas)]
    data = made_up(workload.shape, SAMPLES).train
    drawn = (steps, replicas, workload.batch)
    table = torch.tensor(MENDABA.adjustments.table(3), dtype=torch.float32)
    members = torch.randint(len(table), drawn, generator=generator)
    drawn_now = (
        torch.randint(SAMPLES, drawn, generator=generator),
        table[members],
        MENDABA.strength * torch.randn(drawn, generator=generator).abs(),
    )
    return Work(models, *(value.to(device) for value in (data.x, data.y, *drawn_now)))


# --- how much work it is -------------------------------------------------------------------------


def flops(workload: Workload) -> float:
    """Floating-point operations of products and convolutions in a model-step, counted while one is
    done: the map, forward and back to the inputs; training, forward and back to the weights."""
    model = build_model(workload.model, workload.shape, CLASSES)
    x, y = torch.randn(workload.batch, *workload.shape), torch.arange(workload.batch) % CLASSES
    with FlopCounterMode(display=False) as counter:
        inputs = x.clone().requires_grad_()
        functional.cross_entropy(model(inputs), y).backward(inputs=[inputs])
        functional.cross_entropy(model(x), y).backward()
    return float(counter.get_total_flops())


def bytes_touched(workload: Workload) -> float:
    """Bytes that a model-step reads and writes where each layer of each pass reads its inputs and
    weights once and writes its outputs once, and Adam goes through its four vectors once.

    Of a way back: the gradient of the outputs read, with inputs and weights, and those of inputs
    and weights written. What a kernel keeps in a cache between layers, it saves of this.
    """
    model = build_model(workload.model, workload.shape, CLASSES)
    counted = [0, 0]  # elements of inputs and outputs, and of weights

    def count(layer: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        counted[0] += given[0].numel() + result.numel()
        counted[1] += sum(value.numel() for value in layer.parameters(recurse=False))

    for layer in model.modules():
        if not list(layer.children()) and not isinstance(layer, nn.Flatten):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model(torch.randn(workload.batch, *workload.shape))
    values, weights = counted
    forward, to_inputs, to_weights = values + weights, values + weights, values + weights
    adam = 7 * weights  # reads weights, gradient and both moments, writes all but the gradient
    return 4.0 * (2 * forward + 2 * to_inputs + to_weights + adam)


def sgemm_peak(timed: Callable[[Callable[[], object]], float]) -> float:
    """Floating-point operations a second of a large matrix product, all threads."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    torch.mm(a, b)
    return 2 * 2048**3 / min(timed(lambda: torch.mm(a, b)) for _ in range(10))


def copy_bandwidth(timed: Callable[[Callable[[], object]], float]) -> float:
    """Bytes a second read and written by a copy that no cache holds, all threads."""
    a, b = torch.ones(2**26), torch.ones(2**26)
    b.copy_(a)
    return 8 * 2**26 / min(timed(lambda: b.copy_(a)) for _ in range(5))
