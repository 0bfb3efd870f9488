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

# The maps of some samples: Captum's methods, the model with the objective behind it, the inputs
# [sample, *feature], and which samples of the batch they are [sample].
Some = Callable[[Any, nn.Module, Tensor, Tensor], Tensor]
# Changed copies of a sample that go through the model at once.
_AT_ONCE = 64


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


def _map(
    objective: Objective, x: Tensor, draws: Draws, every: int, name: str, some: Some,
    *, together: bool,
) -> Tensor:  # fmt: skip
    """Every replica's samples explained one after the other, or together where nothing is drawn
    for them; the gradient between."""
    _check_count("every", every)
    attr = captum_attr()
    objective.choose(x)
    step = int(torch.as_tensor(draws.step).flatten()[0])
    if step % every:
        return objective.gradient(x)
    models, lead = objective.maker.modules(x), draws.index.dim()
    stacked = x if lead == 2 else x[None]
    maps, samples = torch.zeros_like(stacked), stacked.shape[1]
    size = samples if together else 1
    all_of_them, timed = len(models) * samples, 0
    with tqdm(total=all_of_them, desc=name, leave=False, disable=not _shown) as bar:
        for replica, model in enumerate(models):
            part = objective.of_replica(replica if lead == 2 else None)
            wrapped = _Explained(model.eval(), part, part.labels)
            for rows in torch.arange(samples, device=x.device).split(size):
                inputs, started = stacked[replica, rows], time.perf_counter()
                with torch.enable_grad(), _seeded(draws, replica, int(rows[0])), _quiet():
                    found = some(attr, wrapped, inputs, rows)
                maps[replica, rows] = -found.detach().to(maps.dtype)  # LIME is in float32
                bar.update(size)
                timed += 1
                if timed == 2 or bar.n == all_of_them:  # the first also imports
                    each = (time.perf_counter() - started) / size
                    _say(name, each, each * all_of_them)
    return maps if lead == 2 else maps[0]


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; allowed: whole numbers from 1")


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
    known = ("every", "evaluations") if method in ("lime", "kernel_shap") else ("every",)
    for name in options:
        if name not in known:
            raise ValueError(f"unknown option {name!r} of {method}; known: {', '.join(known)}")
    _shown = True
    try:
        use = {"use": f"{__name__}:{method}", **options}
        return attribute(model, x, y, use, target)  # type: ignore[arg-type]
    finally:
        _shown = False


# --- methods -------------------------------------------------------------------------------------


def _fitted(kind: str, evaluations: int) -> Some:
    """By Captum's class of this name, which fits a linear model to so many changed samples."""
    _check_count("evaluations", evaluations)

    def one(attr: Any, model: nn.Module, at: Tensor, row: Tensor) -> Tensor:
        return getattr(attr, kind)(model).attribute(
            at, additional_forward_args=(row,), n_samples=evaluations,
            perturbations_per_eval=_AT_ONCE,
        )  # fmt: skip

    return one


def lime(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws,
    every: int = 1, evaluations: int = 50,
) -> Tensor:  # fmt: skip
    """LIME: a linear model of the score around the sample (Ribeiro et al. 2016)."""
    fitted = _fitted("Lime", evaluations)
    return _map(objective, x, draws, every, "lime", fitted, together=False)


def kernel_shap(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws,
    every: int = 1, evaluations: int = 50,
) -> Tensor:  # fmt: skip
    """Kernel SHAP: Shapley values by a weighted linear model (Lundberg and Lee 2017)."""
    fitted = _fitted("KernelShap", evaluations)
    return _map(objective, x, draws, every, "kernel_shap", fitted, together=False)


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

    return _map(objective, x, draws, every, "gradient_shap", one, together=False)


def deep_lift(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws, every: int = 1
) -> Tensor:
    """DeepLIFT by the rescale rule, against the zero input (Shrikumar et al. 2017)."""

    def all_of(attr: Any, model: nn.Module, at: Tensor, rows: Tensor) -> Tensor:
        return attr.DeepLift(model).attribute(
            at, torch.zeros_like(at), additional_forward_args=(rows,)
        )

    return _map(objective, x, draws, every, "deep_lift", all_of, together=True)


def feature_ablation(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws, every: int = 1
) -> Tensor:
    """What the score loses when one feature is 0."""

    def all_of(attr: Any, model: nn.Module, at: Tensor, rows: Tensor) -> Tensor:
        return attr.FeatureAblation(model).attribute(
            at, additional_forward_args=(rows,), perturbations_per_eval=_AT_ONCE
        )

    return _map(objective, x, draws, every, "feature_ablation", all_of, together=True)


def lrp(
    objective: Objective, x: Tensor, attribution: Attribution, draws: Draws, every: int = 1
) -> Tensor:
    """Captum's LRP by its rule ε, of the attributed class's score; of the true class for target
    "loss"."""

    def all_of(attr: Any, model: Any, at: Tensor, rows: Tensor) -> Tensor:
        from captum.attr._utils.lrp_rules import EpsilonRule

        for module in model.model.modules():
            if isinstance(module, nn.Flatten):  # Captum has no rule for it
                module.rule = EpsilonRule()
        return attr.LRP(model.model).attribute(at, target=model._objective.class_of(rows))

    return _map(objective, x, draws, every, "lrp", all_of, together=True)


METHODS = ("lime", "kernel_shap", "gradient_shap", "deep_lift", "feature_ablation", "lrp")


def _options(attribution: Attribution) -> dict[str, Any]:
    return dict(getattr(attribution.method, "options", ()))


def _passes(per_map: Callable[[Attribution], float]) -> Callable[[Attribution], float]:
    """The mean over steps: between those at which the map is made, one for the gradient."""

    def passes(attribution: Attribution) -> float:
        every = _options(attribution).get("every", 1)
        return (per_map(attribution) + every - 1) / every

    return passes


def _of_changed(attribution: Attribution) -> float:
    """One changed copy goes forward alone, which counts a third."""
    return 1 + _options(attribution).get("evaluations", 50) / 3


_PER_MAP: dict[Any, Callable[[Attribution], float]] = {
    lime: _of_changed,
    kernel_shap: _of_changed,
    gradient_shap: lambda attribution: 1.0 + attribution.samples,
    deep_lift: lambda attribution: 3.0,
    feature_ablation: lambda attribution: 22.0,  # of 64 features, which are digits'
    lrp: lambda attribution: 2.0,
}
for _function, _per_map in _PER_MAP.items():
    _function.passes = _passes(_per_map)
    _function.version = 1
