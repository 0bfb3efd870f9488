"""Products in the precision that is asked for, and afterwards as before, whichever of PyTorch's two
ways it was set by. The settings are there without a GPU; what they do to its numbers is not."""

import warnings
from collections.abc import Iterator

import pytest
import torch

from aba_core.precision import products_in, tf32_convolutions

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
