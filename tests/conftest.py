"""What all tests share: shapes are checked while they run, one thread, small made-up data."""

from collections.abc import Iterator

import hypothesis
import jaxtyping
import oracles.shapes  # noqa: F401  the hook below names it
import pytest

# Before anything imports aba_core: its annotated functions check the shapes they are called with.
jaxtyping.install_import_hook("aba_core", "oracles.shapes.check_shapes")

import torch  # noqa: E402
from oracles.tiny_data import make_splits  # noqa: E402

from aba_core.datasets import Splits  # noqa: E402

torch.set_num_threads(1)
# The same examples on every machine, and no folder of remembered ones.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws without saying how does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture
def tiny_splits() -> Splits:
    """Three classes of 1×4×5 pictures: 14 to train on, 9 to validate, 7 to test."""
    return make_splits((1, 4, 5))


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """Shape checking off: to see what a user without it is told."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def no_windows() -> Iterator[None]:
    """Figures are drawn without a window, and closed."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    with mpl.rc_context({"backend": "agg"}):
        plt.switch_backend("agg")
        yield
        plt.close("all")


@pytest.fixture
def kernels_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels in C whatever the environment says, and one thread, as they are used."""
    monkeypatch.setenv("ABA_KERNELS", "on")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
