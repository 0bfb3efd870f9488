"""Products in the precision that is asked for, and afterwards as before, whichever of PyTorch's two
ways it was set by. The settings are there without a GPU; what they do to its numbers is not."""

import warnings
from collections.abc import Iterator

import pytest
import torch
from oracles.tiny_data import make_splits
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from aba_core import Arm, TrainConfig, convolutions, demand, layers
from aba_core.convolutions import WAYS
from aba_core.precision import products_in, tf32_convolutions
from aba_core.replicas import Replicas

MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
newer = pytest.mark.skipif(
    not hasattr(MATMUL, "fp32_precision"), reason="this PyTorch has one way to set it"
)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*CUDA is not available.*")
        yield
    MATMUL.allow_tf32, CUDNN.allow_tf32 = False, True  # PyTorch's own


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("precision", ["full", "tf32", "bf16"])
def test_tf32_is_on_where_it_is_asked_for(precision, allowed):
    MATMUL.allow_tf32, CUDNN.allow_tf32, CUDNN.benchmark = allowed, not allowed, False
    with products_in(precision, "cuda", repeated=True):
        assert MATMUL.allow_tf32 is CUDNN.allow_tf32 is (precision == "tf32")
        assert tf32_convolutions() is (precision == "tf32") and CUDNN.benchmark
        with products_in("full", "cuda"):
            assert not MATMUL.allow_tf32 and not CUDNN.allow_tf32 and not CUDNN.benchmark
        assert MATMUL.allow_tf32 is (precision == "tf32") and CUDNN.benchmark
    assert (MATMUL.allow_tf32, CUDNN.allow_tf32, CUDNN.benchmark) == (allowed, not allowed, False)


@newer
@pytest.mark.parametrize("value", ["tf32", "ieee"])
def test_what_was_set_by_the_newer_names_is_neither_refused_nor_lost(value):
    """To read it by the older names raises."""
    CUDNN.conv.fp32_precision = value
    CUDNN.rnn.fp32_precision = "ieee" if value == "tf32" else "tf32"
    MATMUL.fp32_precision = "tf32"
    with pytest.raises(RuntimeError, match="TF32"):
        CUDNN.allow_tf32  # noqa: B018
    assert tf32_convolutions() is (value == "tf32")
    with products_in("full", "cuda"):
        assert CUDNN.conv.fp32_precision != "tf32" and MATMUL.fp32_precision != "tf32"
        assert not tf32_convolutions()
    assert (CUDNN.conv.fp32_precision, MATMUL.fp32_precision) == (value, "tf32")
    assert CUDNN.rnn.fp32_precision == ("ieee" if value == "tf32" else "tf32")


class Products(TorchDispatchMode):
    """The number types of the results of products, and the devices of all results."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("mm", "bmm", "addmm", "baddbmm", "convolution"):
            assert made.device.type == "cuda"
            self.dtypes.add(made.dtype)
        return made


@pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch is built without CUDA")
@pytest.mark.parametrize("precision", ["full", "bf16"])
@pytest.mark.parametrize("way", ["auto", *WAYS])
@pytest.mark.parametrize(
    ("model", "shape"), [("small_cnn", (1, 8, 8)), ("text_cnn", (9, 4)), ("mlp", (1, 8, 8))]
)
def test_all_products_of_a_forward_pass_on_cuda_have_the_precision(
    model, shape, way, precision, monkeypatch
):
    """On CUDA tensors that have shapes and no values: PyTorch's own rules for that device decide,
    and no GPU is needed. (Ways back need one.)"""
    monkeypatch.setattr(layers, "STACKED_CONVOLUTION", way)
    monkeypatch.setattr(convolutions, "chooser", convolutions.Chooser(lambda action: 0.0))
    in_a_row = lambda one, count, device: [one(number) for number in range(count)]  # noqa: E731
    monkeypatch.setattr(convolutions, "_on_streams", in_a_row)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    config = TrainConfig(model=model, batch_size=6, epochs=3)
    meta = demand.meta_step(config, Arm("vanilla"), make_splits(shape), 3).replicas
    with FakeTensorMode(allow_non_fake_inputs=True):

        def like(values: torch.Tensor) -> torch.Tensor:
            return torch.empty(values.shape, dtype=values.dtype, device="cuda")

        replicas = Replicas(
            meta.template, like(meta.parameters), {}, True,
            {name: like(mask) for name, mask in meta.masks.items()}, meta.habits,
        )  # fmt: skip
        torch.set_autocast_enabled("cuda", precision == "bf16")
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            with Products() as products, torch.no_grad():
                logits = replicas.forward(replicas.parameters)(
                    torch.empty(3, 6, *shape, device="cuda")
                )
        finally:
            torch.set_autocast_enabled("cuda", False)
    assert logits.device.type == "cuda" and logits.dtype == torch.float32
    assert products.dtypes == {torch.bfloat16 if precision == "bf16" else torch.float32}
