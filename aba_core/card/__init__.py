"""Report card: what a regulariser does besides accuracy. One file an aspect.

    from aba_core.card import card
    print(card(model, splits))

Runs have the same columns where their training has a card: `TrainConfig(card=["calibration"])`.
There is no single score: each aspect stands for itself.
"""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from aba_core.aspects import CardSettings
from aba_core.attribution import cross_entropy, undisturbed
from aba_core.card import memory
from aba_core.card.attacks import SuspectAttackWarning
from aba_core.card.curves import curves_of
from aba_core.card.subject import Measured, Subject, check_data
from aba_core.checks import check_logits, model_output
from aba_core.datasets import DATASETS, Splits, load_dataset
from aba_core.quantities import ASPECTS, CARD_QUANTITIES, JUDGED
from aba_core.replicas import Replicas, observed

if TYPE_CHECKING:
    from aba_core.training import _Member, _Setting

__all__ = ["Card", "CardSettings", "SuspectAttackWarning", "card", "columns", "others_of"]


@dataclass(frozen=True)
class Card:
    """What a report card says of one model.

    values: by quantity, see `quantities.ASPECTS`; NaN where it cannot be measured. seconds: by
    aspect. notes: what a reader must know. details: what the numbers are made from, as tensors;
    `curves` has it as tables.
    """

    values: dict[str, float]
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict, repr=False)

    def frame(self) -> pd.DataFrame:
        """One row a quantity: aspect, quantity, label, value, unit, better ("more", "less" or "")
        and whether verdicts are about it."""
        rows = [
            {
                "aspect": aspect,
                "quantity": name,
                "label": CARD_QUANTITIES[name].label,
                "value": self.values[name],
                "unit": CARD_QUANTITIES[name].unit,
                "better": ("more" if CARD_QUANTITIES[name].more_is_better else "less")
                if name in JUDGED[aspect]
                else "",
            }
            for aspect, names in ASPECTS.items()
            for name in names
            if name in self.values
        ]
        return pd.DataFrame(rows)

    def curves(self) -> dict[str, pd.DataFrame]:
        """Reliability, risk–coverage, accuracy by ε and by corruption, margins, and what each of
        the 27 adjustments does to EL2N and GraNd, as tables: see `card.curves.curves_of`."""
        return curves_of(self.details)

    def __str__(self) -> str:
        shown = self.frame().dropna(subset=["value"])[["aspect", "label", "value", "unit"]]
        shown["aspect"] = shown["aspect"].where(~shown["aspect"].duplicated(), "")
        text = shown.to_string(index=False, float_format=lambda v: f"{v:.4g}")
        spent = ", ".join(f"{name} {value:.1f} s" for name, value in self.seconds.items())
        return "\n".join([text, f"Cost: {spent}.", *self.notes])


def card(
    model: nn.Module,
    splits: Splits,
    retrain: Callable[..., nn.Module] | None = None,
    *,
    others: dict[str, Tensor] | None = None,
    landscape: bool = False,
    **settings: Any,
) -> Card:
    """The report card of any trained model.

    retrain: trains a model of the same kind, called with other splits and a seed; seed 0 is the
    model's own. Without it, what needs further models is NaN. What watches a training needs one
    with a parameter `observe`, which is given a function to call after each step with the steps
    done, of how many, and the model; it may change the model's parameters.
    others: {name: inputs} of other distributions, of the same shape. landscape: also the Hessian's
    spectrum and a plane of the loss, as details "spectrum" and "plane", see `card.landscape`.
    settings: fields of `CardSettings`, as aspects=["calibration"]. Raises ValueError for data that
    do not have one class a sample, for a model that does not fit them, and for unknown settings.
    """
    given = CardSettings.read(settings)
    assert given is not None
    check_data(splits)
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {model!r}; needed: a trained nn.Module")
    before = model.training
    model.eval()
    try:
        _tried(model, splits)
        replicas = Replicas.stack([model])
        with replicas.undisturbed("eval") as quiet:
            again, watches = _by_user(retrain)
            known = {**others_of(given, splits), **(others or {})}
            for name, x in known.items():
                if x.shape[1:] != splits.test.feature_shape:
                    raise ValueError(
                        f"samples of {name!r} have shape {tuple(x.shape[1:])}; needed: "
                        f"{tuple(splits.test.feature_shape)}"
                    )
            subject = Subject.of(quiet, splits, given, again, known)
            subject = replace(subject, watches=watches, schedules=False)
            measured, seconds = _measure(subject)
            if "memory" in given.aspects:
                started = time.perf_counter()
                subject.details["adjustments"] = memory.by_adjustment(subject)
                seconds["memory"] += time.perf_counter() - started
        if landscape:
            started = time.perf_counter()
            around = import_module("aba_core.card.landscape")
            subject.details["spectrum"] = around.spectrum(model, splits, seed=given.seed)
            subject.details["plane"] = around.plane(model, splits, seed=given.seed)
            seconds["landscape"] = time.perf_counter() - started
    finally:
        model.train(before)
    notes = _notes(subject)
    values = {name: float(value[0]) for name, value in measured.items()}
    return Card(values, seconds, notes, subject.details)


def _measure(subject: Subject) -> tuple[Measured, dict[str, float]]:
    """Every aspect that is asked for, and the seconds that each took."""
    measured: Measured = {}
    seconds: dict[str, float] = {}
    for aspect in subject.settings.aspects:
        started = time.perf_counter()
        values = import_module(f"aba_core.card.{aspect}").measure(subject)
        measured |= {name: values[name].detach().double().cpu() for name in ASPECTS[aspect]}
        seconds[aspect] = time.perf_counter() - started
    return measured, seconds


def _tried(model: nn.Module, splits: Splits) -> None:
    """Raises ValueError for a model that makes no logits of the data's classes."""
    dtype = next((value.dtype for value in model.parameters()), torch.float32)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the model's parameters are {dtype}; needed: float32 or float64")
    few = torch.arange(min(2, len(splits.test)))
    with torch.no_grad(), undisturbed(model, "eval"):
        logits = model_output(model, splits.test.batch(few).to(dtype))
    check_logits(logits, splits.classes, cross_entropy)


def _notes(subject: Subject) -> tuple[str, ...]:
    """What a reader must know; a warning for attacks that broke their checks."""
    notes = []
    if "attacks" in subject.settings.aspects:
        size = ", ".join(f"{value:.3g}" for value in subject.details["attack_radius"])
        unit = "of the range [0, 1]" if subject.pictures else "standardised units"
        notes.append(
            f"Attacks in L∞ have ε = {subject.settings.epsilon:g} {unit}, which is {size} in the "
            "model's units."
        )
        broken = [name for name, held in subject.details["attack_checks"].items() if not held[0]]
        if broken:
            text = (
                f"Attacks are suspect, their accuracies too high: not so that {'; '.join(broken)}."
            )
            warnings.warn(text, SuspectAttackWarning, stacklevel=3)
            notes.append(text)
    lacking = [a for a in ("attacks", "memory", "ensembles") if a in subject.settings.aspects]
    if lacking and subject.retrain is None:
        notes.append(
            f"What needs further models is not measured ({', '.join(lacking)}); give retrain=."
        )
    elif lacking and not subject.watches:
        notes.append(
            "What watches a training is not measured; give a retrain= with a parameter observe."
        )
    return tuple(notes)


def _by_user(retrain: Callable[..., nn.Module] | None) -> tuple[Any, bool]:
    """A user's function as `subject.Retrain`, which has one schedule, and whether it can be
    watched: whether it takes `observe`."""
    if retrain is None:
        return None, False
    if not callable(retrain):
        raise ValueError(f"retrain is {retrain!r}; needed: a function of splits and a seed")
    watched = "observe" in inspect.signature(retrain).parameters

    def again(
        splits: Splits,
        offset: int = 0,
        observe: Any = None,
        schedule: str = "",
        usual: bool = False,
    ) -> Replicas:
        given: dict[str, Any] = {}
        seen: list[int] = []

        def look(step: int, steps: int, model: nn.Module) -> None:
            seen.append(step)
            if observe is not None:
                observed(model, observe, step, steps)

        if watched:
            given["observe"] = look
        model = retrain(splits, offset, **given)
        if watched and not seen:
            raise ValueError(
                "retrain has a parameter observe and did not call it; needed: "
                "observe(step, steps, model) after each step, or a retrain without the parameter"
            )
        if not isinstance(model, nn.Module):
            raise ValueError(f"retrain returned {type(model).__name__}; needed: an nn.Module")
        return Replicas.stack([model.eval()])

    return again, watched


# --- other data sets -----------------------------------------------------------------------------


def others_of(settings: CardSettings, splits: Splits) -> dict[str, Tensor]:
    """Test samples of the other data sets that the settings name, in the splits' units and shape.

    Pictures are scaled from range to range, resized (bilinear) and their channels averaged or
    repeated. Raises ValueError for data that are no pictures, and the data sets' own errors.
    """
    found: dict[str, Tensor] = {}
    for name in settings.others:
        shape = splits.input_shape
        fits = name not in DATASETS or len(DATASETS[name].input_shape) == 3
        other = load_dataset(name).test if len(shape) == 3 and fits else None
        if other is None:
            raise ValueError(
                f"others names {name!r}; allowed: pictures, where the data are pictures"
            )
        x = other.x[: settings.samples].double()
        x = (x - x.amin()) / (x.amax() - x.amin())
        x = functional.interpolate(x, shape[1:], mode="bilinear", antialias=True)
        if x.shape[1] != shape[0]:
            x = x.mean(1, keepdim=True).expand(-1, shape[0], -1, -1)
        train = splits.train.x.double()
        low, high = train.amin((0, 2, 3), keepdim=True), train.amax((0, 2, 3), keepdim=True)
        found[name] = (low + x * (high - low)).to(splits.train.x.dtype)
    return found


# --- of runs in training -------------------------------------------------------------------------


def columns(
    setting: _Setting, members: Sequence[_Member], replicas: Replicas
) -> dict[str, list[float]]:
    """The card's columns of runs that trained side by side: test_QUANTITY, NaN for replicas that
    are not finite, and seconds_ASPECT, each run's share."""
    settings = setting.config.card
    with replicas.undisturbed("eval") as quiet:
        splits = setting.splits.to(setting.device)  # trainer "single" leaves them on the CPU
        subject = Subject.of(
            quiet, splits, settings, _anew(setting, members), others_of(settings, splits)
        )
        measured, seconds = _measure(subject)
    finite = torch.isfinite(replicas.parameters).all(1).cpu()
    table = {
        f"test_{name}": torch.where(finite, value, float("nan")).tolist()
        for name, value in measured.items()
    }
    share = {
        f"seconds_{name}": [value / len(members)] * len(members) for name, value in seconds.items()
    }
    return table | share


def _anew(setting: _Setting, members: Sequence[_Member]) -> Any:
    """`subject.Retrain` of runs: by `train`, with the same configuration."""
    from aba_core.arms import Arm
    from aba_core.training import train

    def again(
        splits: Splits,
        offset: int = 0,
        observe: Any = None,
        schedule: str = "",
        usual: bool = False,
    ) -> Replicas:
        config = replace(setting.config, card=None, mechanism=0, curve_every=0, metrics=())
        config = replace(config, schedule="cycles") if schedule == "cycles" else config
        # One arm a run, all with seed 0: purposes have the seed plus the arm's offset.
        seeds = [member.seed + member.arm.seed_offset + offset for member in members]
        if usual:
            names = list(map(str, seeds))
            arms = [Arm(name, seed_offset=int(name)) for name in dict.fromkeys(names)]
        else:
            names = [str(number) for number in range(len(members))]
            arms = [
                replace(member.arm, name=name, config=(), subset_per_run=False,
                        seeds_per_subset=1, seed_offset=seed)
                for name, member, seed in zip(names, members, seeds, strict=True)
            ]  # fmt: skip
        home = splits if config.single is None else splits.to("cpu")
        runs = train(
            config, arms, [0], setting.device, splits=home, build=setting.build,
            loss=setting.loss, observe=observe,
        )  # fmt: skip
        return Replicas.stack([runs.model(name, 0) for name in names], setting.device)

    return again
