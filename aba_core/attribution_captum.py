"""Slow maps by Captum (extra `captum`), for one model and for replicas one by one.

A step with such a map costs tens to thousands of passes, so `every` lets it be made at some steps
only; the others have the gradient. The log "aba_core" says once what a map takes; `explain` shows
its progress. Options: `every`, and `evaluations` of methods that sample or hide.

    attribution: {use: "aba_core.attribution_captum:lime", every: 10, evaluations: 50}
"""

from __future__ import annotations

import importlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from aba_core.randomness import Draws, random_bits

if TYPE_CHECKING:
    from aba_core.attribution import Attribution, Objective

_log = logging.getLogger("aba_core")

# The map of one sample: Captum's methods, the model with the objective behind it, the input
# [1, *feature], and which sample of the batch it is [1].
One = Callable[[Any, nn.Module, Tensor, Tensor], Tensor]


def captum_attr() -> Any:
    """`captum.attr`. Raises ValueError where Captum is not installed."""
    try:
        return importlib.import_module("captum.attr")
    except ImportError as error:
        raise ValueError(
            "this map needs Captum, which is not installed; run: python -m pip install "
            "'aba-toolkit[captum]'"
        ) from error


class _Explained(nn.Module):
    """A model with the objective behind it, turned round: one number a sample, as a score."""

    def __init__(self, model: nn.Module, objective: Objective, labels: Tensor) -> None:
        super().__init__()
        self.model, self._objective, self._labels = model, objective, labels

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """rows: which sample of the batch each input is a copy of."""
        return -self._objective.number(self.model(x), self._labels[rows], rows)


def _map(objective: Objective, x: Tensor, draws: Draws, every: int, name: str, one: One) -> Tensor:
    """Every replica's samples explained one after the other; the gradient between."""
    if every < 1:
        raise ValueError(f"every is {every!r}; allowed: whole numbers from 1")
    attr = captum_attr()
    objective.choose(x)
    step = int(torch.as_tensor(draws.step).flatten()[0])
    if step % every:
        return objective.gradient(x)
    models, lead = objective.maker.modules(x), draws.index.dim()
    stacked = x if lead == 2 else x[None]
    maps, samples = torch.zeros_like(stacked), stacked.shape[1]
    done, started = 0, time.perf_counter()
    with tqdm(total=len(models) * samples, desc=name, leave=False, disable=not _shown) as bar:
        for replica, model in enumerate(models):
            part = objective.of_replica(replica if lead == 2 else None)
            wrapped = _Explained(model.eval(), part, part.labels)
            for sample in range(samples):
                row = torch.tensor([sample], device=x.device)
                inputs = stacked[replica, sample : sample + 1]
                with torch.enable_grad(), _seeded(draws, replica, sample), _quiet():
                    found = one(attr, wrapped, inputs, row)
                maps[replica, sample] = -found[0].detach()
                done += 1
                if done == 1:
                    each = time.perf_counter() - started
                    _say(name, each, each * len(models) * samples)
                bar.update()
    return maps if lead == 2 else maps[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Captum warns of its hooks and of gradients that it switches on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        yield


_told: set[str] = set()


def _say(name: str, each: float, whole: float) -> None:
    """What a map takes, once for each name."""
    if name not in _told:
        _told.add(name)
        _log.warning(f"{name}: {each:.2g} s a sample, about {whole:.2g} s for a batch like this")


@contextmanager
def _seeded(draws: Draws, replica: int, sample: int) -> Iterator[None]:
    """PyTorch's and NumPy's generators, which Captum draws from, as functions of the replica's
    seed, step and sample; restored."""
    seed = draws.seeds["smoothing"].flatten()
    own = seed[replica if len(seed) > 1 else 0]
    step = int(torch.as_tensor(draws.step).flatten()[0])
    place = torch.tensor(sample, device=own.device)
    with torch.random.fork_rng(devices=[]):
        drawn = int(random_bits(own, "captum", step, place))
        torch.default_generator.manual_seed(drawn % 2**62)
        state = np.random.get_state()
        np.random.seed(drawn % 2**32)
        try:
            yield
        finally:
            np.random.set_state(state)


_shown = False


def explain(
    model: nn.Module, x: Tensor, y: Tensor, method: str, target: str = "class_score", **options: Any
) -> Tensor:
    """The map of every sample by one of this file's methods, with a progress bar on a terminal.

    method: "lime", "kernel_shap", "gradient_shap", "deep_lift", "feature_ablation" or "lrp".
    options: its own. For the rest see `attribution.attribute`.
    """
    global _shown
    from aba_core.attribution import attribute

    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    _shown = True
    try:
        use = {"use": f"{__name__}:{method}", **options}
        return attribute(model, x, y, use, target)  # type: ignore[arg-type]
    finally:
        _shown = False


# --- methods -------------------------------------------------------------------------------------


def _fitted(kind: str, evaluations: int) -> One:
    """By Captum's class of this name, which fits a linear model to so many changed samples."""

    def one(attr: Any, model: nn.Module, at: Tensor, row: Tensor) -> Tensor:
        return getattr(attr, kind)(model).attribute(
            at, additional_forward_args=(row,), n_samples=evaluations, perturbations_per_eval=1
        )

    return one


def lime(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws,
    every: int = 1, evaluations: int = 50,
) -> Tensor:  # fmt: skip
    """LIME: a linear model of the score around the sample (Ribeiro et al. 2016)."""
    return _map(objective, x, draws, every, "lime", _fitted("Lime", evaluations))


def kernel_shap(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws,
    every: int = 1, evaluations: int = 50,
) -> Tensor:  # fmt: skip
    """Kernel SHAP: Shapley values by a weighted linear model (Lundberg and Lee 2017)."""
    return _map(objective, x, draws, every, "kernel_shap", _fitted("KernelShap", evaluations))


def gradient_shap(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws, every: int = 1
) -> Tensor:
    """GradientSHAP with the zero input as baseline, `samples` draws and `noise` (Lundberg and Lee
    2017, Captum's form)."""

    def one(attr: Any, model: nn.Module, at: Tensor, row: Tensor) -> Tensor:
        spread = float(at.max() - at.min())
        return attr.GradientShap(model).attribute(
            at, torch.zeros_like(at), n_samples=attribution.samples,
            stdevs=attribution.noise * spread, additional_forward_args=(row,),
        )  # fmt: skip

    return _map(objective, x, draws, every, "gradient_shap", one)


def deep_lift(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws, every: int = 1
) -> Tensor:
    """DeepLIFT by the rescale rule, against the zero input (Shrikumar et al. 2017)."""

    def one(attr: Any, model: nn.Module, at: Tensor, row: Tensor) -> Tensor:
        return attr.DeepLift(model).attribute(
            at, torch.zeros_like(at), additional_forward_args=(row,)
        )

    return _map(objective, x, draws, every, "deep_lift", one)


def feature_ablation(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws, every: int = 1
) -> Tensor:
    """What the score loses when one feature is 0."""

    def one(attr: Any, model: nn.Module, at: Tensor, row: Tensor) -> Tensor:
        return attr.FeatureAblation(model).attribute(at, additional_forward_args=(row,))

    return _map(objective, x, draws, every, "feature_ablation", one)


def lrp(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws, every: int = 1
) -> Tensor:
    """Captum's LRP by its rule ε, of the attributed class's score; of the true class for target
    "loss"."""

    def one(attr: Any, model: Any, at: Tensor, row: Tensor) -> Tensor:
        from captum.attr._utils.lrp_rules import EpsilonRule

        for module in model.model.modules():
            if isinstance(module, nn.Flatten):  # Captum has no rule for it
                module.rule = EpsilonRule()
        return attr.LRP(model.model).attribute(at, target=int(model._objective.class_of(row)))

    return _map(objective, x, draws, every, "lrp", one)


METHODS = ("lime", "kernel_shap", "gradient_shap", "deep_lift", "feature_ablation", "lrp")


def _passes(per_map: float) -> Callable[[Attribution], float]:
    return lambda attribution: per_map


for _function, _count in (
    *(
        (lime, 50 / 3),
        (kernel_shap, 50 / 3),
        (deep_lift, 2.0),
        (lrp, 1.0),
        (feature_ablation, 21.0),
    ),
):
    # With the default number of evaluations; hiding counts a third, and 64 features are digits'.
    _function.passes = _passes(1.0 + _count)  # type: ignore[attr-defined]
gradient_shap.passes = lambda attribution: 1.0 + attribution.samples  # type: ignore[attr-defined]
for _function in (lime, kernel_shap, gradient_shap, deep_lift, feature_ablation, lrp):
    _function.version = 1  # type: ignore[attr-defined]
