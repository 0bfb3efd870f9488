"""What a card costs, before it is measured: passes counted, a few of each kind and one training
timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from aba_core import kernels
from aba_core.architecture import initial_model
from aba_core.arms import Arm, TrainConfig
from aba_core.aspects import CardSettings
from aba_core.card import corruption, ensembles, geometry, memory, others_of
from aba_core.card.attacks import MULTIPLES, RESTARTS, SPSA_DIRECTIONS, STEPS
from aba_core.card.ood import FITTED, mahalanobis, penultimate, strangers
from aba_core.card.subject import BATCH, Subject, drawn
from aba_core.datasets import Splits
from aba_core.replicas import Replicas
from aba_core.training import builder, train

_HVP = 1.0  # a Hessian-vector product costs about as much as a step of the ascent


def estimate(config: TrainConfig, splits: Splits) -> dict[str, float]:
    """Seconds that each aspect of the config's card will take for one run by itself, on this
    machine, and "training" for the run's own training. Runs that share operations take less."""
    settings = config.card or CardSettings()
    replicas = Replicas.stack([initial_model(builder(config, splits), 0, torch.float32).eval()])
    subject = Subject.of(replicas, splits, settings, others=others_of(settings, splits))
    few = subject.x[:BATCH]
    forward = _seconds(lambda: subject.logits(few)) / len(few)
    own = few[: settings.attacked][None]
    gradient = _seconds(lambda: subject.gradient(own, subject.y[: own.shape[1]])) / own.shape[1]
    alone = few[: settings.alarm][None]
    slow = _seconds(lambda: subject.gradient(alone, subject.y[: alone.shape[1]]))
    blind = _seconds(lambda: subject.own_logits(alone))
    training = _training(config, splits)
    probed = drawn(splits.train, settings.probed, settings.seed, subject.x.dtype)
    with kernels.unfused():
        curved = _seconds(lambda: geometry.adaptive_sharpness(subject, *probed, steps=1), 1)
        sloped = _seconds(lambda: subject.gradient(own, subject.y[: own.shape[1]]), 1)
        sloped /= own.shape[1]
    damaged = sum(
        _once(lambda make=make: make(subject, 3))  # type: ignore[misc]
        for make in corruption.corruptions(subject).values()
    )
    strange = _once(lambda: strangers(subject)) + _once(lambda: _distances(subject))
    samples, attacked = len(subject.x), min(settings.attacked, len(subject.x))
    attacks = 2 + max(STEPS) * (RESTARTS + 2 + len(MULTIPLES)) + 10
    shown = min(len(splits.train), memory.TRAIN_SAMPLES)
    every = {
        "calibration": 2 * samples * forward,
        "selective": samples * forward,
        "ood": strange + 2 * samples * forward * (1 + len(strangers(subject))),
        "corruption": 5 * damaged + samples * forward * 5 * len(corruption.corruptions(subject)),
        "attacks": attacked * gradient * attacks
        + settings.long_steps * slow
        + settings.spsa_steps * 2 * SPSA_DIRECTIONS * blind
        + training,
        "geometry": curved
        * (_HVP * (geometry.LANCZOS_STEPS + geometry.TRACE_PROBES) + geometry.ASCENT_STEPS)
        + 3 * samples * sloped,
        "memory": (len(memory.NOISES) + 2) * training
        + shown * (19 * forward + 2 * memory.LOOKS * forward + 2 * gradient),
        "ensembles": (2 + len(ensembles.ONSETS)) * training + 8 * samples * forward,
    }  # fmt: skip
    return {"training": training} | {name: every[name] for name in settings.aspects}


def _once(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _distances(subject: Subject) -> Tensor:
    """What Mahalanobis' distances of all samples cost for one model, which lies in the fit."""
    model, classes = subject.models()[0], subject.splits.classes
    x, y = drawn(subject.splits.train, FITTED, subject.settings.seed, subject.x.dtype)
    return mahalanobis(penultimate(model, subject.x), penultimate(model, x), y, classes)


def _seconds(run: Callable[[], object], times: int = 3) -> float:
    """The least of a few times, after one to warm up."""
    run()
    spent = []
    for _ in range(times):
        spent.append(_once(run))
    return min(spent)


def _training(config: TrainConfig, splits: Splits) -> float:
    """A whole training, from one of a few steps and one of more."""
    steps = config.steps(len(splits.train))
    share = config.batch_size / len(splits.train)
    short = replace(config, card=None, mechanism=0, curve_every=0, metrics=())
    few, more = min(2, steps), min(30, steps)

    def spent(count: int) -> float:
        started = time.perf_counter()
        train(replace(short, epochs=count * share), [Arm("usual")], [0], splits=splits)
        return time.perf_counter() - started

    spent(few)
    first = spent(few)
    each = max(0.0, spent(more) - first) / max(1, more - few)
    return first + each * (steps - few)
