"""Probing: what an architecture can do, tried on throw-away copies before anything is trained.

One training step and one evaluation of two replicas on a few real samples, three times: by ordinary
modules, by replicas one after the other, and by replicas together (`vmap`). What `vmap` cannot do,
or does with other results, trains one after the other, and the log "aba_core" says why.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn

from aba_core.architecture import duplicate, first_line, trained_parameters
from aba_core.attribution import Loss
from aba_core.checks import check_logits, loss_per_sample, model_output
from aba_core.datasets import Split
from aba_core.dropout import SEED, STEP, Masks, counted, generator_seed, generators
from aba_core.models import TextCNN
from aba_core.replicas import Habits, Replicas, run_together
from aba_core.threads import threads_restored

SAMPLES = 4  # batch norm needs two; a few more tell a batch from a sample
# Results may differ by this share of their largest number. Different orders of summation stay far
# below it in float64, in which the copies are compared where the model lets them.
_CLOSE = {torch.float64: 1e-6, torch.float32: 1e-2}

_log = logging.getLogger("aba_core")
Observed = dict[str, Tensor]  # what a step and an evaluation came to, each [replica, ...]


@dataclass(frozen=True)
class Findings:
    """obstacle: why replicas cannot run together; "" where they can, or where nobody asked."""

    habits: Habits = Habits()
    obstacle: str = ""


# Layers that run together as they run alone, in any order: tests hold it for each.
_PROVEN = (
    *(nn.Sequential, nn.ModuleList, TextCNN, nn.Flatten, nn.Linear, nn.Conv1d, nn.Conv2d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.MaxPool2d, nn.ReLU),
)


def probe(replicas: Replicas, x: Tensor, y: Tensor, classes: int, loss: Loss) -> Loss:
    """Set the replicas' `habits`, and `together` where they cannot; gives the loss fit for them.

    x, y: training samples, as many as a batch has. Raises ValueError for a model or a loss that
    cannot be trained at all, with what is needed.
    """
    with threads_restored(use=1):  # the samples are few
        together = _may_run_together(replicas, x)
        return _probe(replicas, x[:SAMPLES], y[:SAMPLES], classes, loss, together)


def _probe(
    replicas: Replicas, x: Tensor, y: Tensor, classes: int, loss: Loss, together: bool
) -> Loss:
    x = x.to(replicas.parameters.dtype)
    with generators(None, x.device), torch.no_grad():
        logits = model_output(replicas.model(0), x.clone())
    check_logits(logits, classes, loss)
    loss = loss_per_sample(loss, logits, y)
    if _proven(replicas.template):
        return loss
    findings = _find_out(replicas, x, together)
    if findings.habits != replicas.habits:
        replicas.habits = findings.habits
        replicas.__post_init__()
    if findings.obstacle or not together:
        replicas.together = False
    if findings.obstacle:
        _say(f"{_name(replicas)} trains one replica after the other: {findings.obstacle}")
    return loss


def try_evaluation(
    replicas: Replicas, split: Split, measure: Callable[[Tensor, Tensor], object], batch: int
) -> None:
    """One batch evaluated as all will be at the end, when it would be too late to fail.

    measure: what is made of logits [replica, sample, output] and labels.
    """
    index = torch.arange(min(batch, len(split)), device=split.y.device)
    x = split.batch(index).to(replicas.parameters.dtype)
    try:
        with (
            threads_restored(use=1),
            replicas.undisturbed("eval") as evaluated,
            torch.no_grad(),
        ):
            logits = evaluated.forward(evaluated.parameters.detach(), shared_inputs=True)(x)
            measure(logits, split.y[index])
    except Exception as error:
        raise ValueError(
            f"the model {_name(replicas)} trains but cannot be evaluated on inputs of shape "
            f"{tuple(x.shape)}: {first_line(error)}"
        ) from error


def _name(replicas: Replicas) -> str:
    return type(replicas.template).__name__


@cache
def _say(line: str) -> None:
    _log.warning(line)


def _proven(model: nn.Module) -> bool:
    """Whether it is made of nothing but layers that are known to run together: the toolkit's own
    models are, and a probe of the large ones would take seconds."""
    return all(
        type(module) in _PROVEN
        and not getattr(module, "inplace", False)  # it might change its inputs
        and not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
        and (
            not isinstance(module, nn.modules.batchnorm._BatchNorm)
            or (module.track_running_stats and module.momentum is not None)
        )
        for module in model.modules()
    )


def _may_run_together(replicas: Replicas, x: Tensor) -> bool:
    """Whether training might. x: as many samples as a batch has."""
    if replicas.together is not None:
        return replicas.together
    return x.device.type != "cpu" or run_together(x.numel(), len(replicas))


def _find_out(replicas: Replicas, x: Tensor, together: bool) -> Findings:
    dtype = replicas.parameters.dtype
    try:
        return _compare(replicas, x, torch.float64, together)
    except Exception:
        if dtype is torch.float64:
            raise
    return _compare(replicas, x, dtype, together)  # the model insists on its type of numbers


def _compare(replicas: Replicas, x: Tensor, dtype: torch.dtype, together: bool) -> Findings:
    twins = _twins(replicas, dtype)
    inputs = torch.stack([x, x.flip(0)]).to(dtype)
    with generators(None, x.device):
        expected, habits = _by_modules(twins, inputs)
        if habits.recomputes:  # again, with PyTorch's dropout
            twins = replace(twins, habits=Habits(recomputes=True))
            expected, habits = _by_modules(twins, inputs)
        if habits != twins.habits:
            twins = replace(twins, habits=habits)
        twins.together = False
        if difference := _difference(_by_replicas(twins, inputs), expected):
            again, _ = _by_modules(twins, inputs)
            if not _difference(again, expected):
                raise ValueError(
                    f"the model {_name(replicas)} gives another {difference} with values put in "
                    "from outside; needed: a model that keeps all that it computes with in "
                    "parameters and buffers"
                )
            return Findings(habits, "it is random by something other than PyTorch's generator")
        if not together:
            return Findings(habits)
        if habits.draws:
            return Findings(habits, "it draws from PyTorch's generator")
        twins.together = True
        if not (obstacle := _obstacle(twins, inputs, expected)):
            return Findings(habits)
        twins.habits = replace(habits, attends=True)
        if not _obstacle(twins, inputs, expected):
            return Findings(twins.habits)
        return Findings(habits, obstacle)


def _obstacle(twins: Replicas, inputs: Tensor, expected: Observed) -> str:
    """Why vmap cannot run replicas together, "" where it can."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*performance drop.*")
            stacked = _by_replicas(twins, inputs)
    except Exception as error:
        missing = re.search(r"rule (?:not implemented )?for (aten::\w+)", str(error))
        why = f"no rule for {missing[1]}" if missing else first_line(error).split(". ")[0]
        return f"vmap cannot run it ({why})"
    difference = _difference(stacked, expected)
    return f"vmap gives another {difference}" if difference else ""


def _twins(replicas: Replicas, dtype: torch.dtype) -> Replicas:
    """Two of the replicas, or one twice, with values of their own."""

    def two(values: Tensor) -> Tensor:
        values = values.detach()[[0, -1]]
        return values.to(dtype) if values.is_floating_point() else values

    return Replicas(
        duplicate(replicas.template).to(dtype),
        two(replicas.parameters),
        {name: two(buffer) for name, buffer in replicas.buffers.items()},
        masks={name: two(values) for name, values in replicas.masks.items()},
        habits=replicas.habits,
    )


def _weights(logits: Tensor) -> Tensor:
    """What the probe's objective weighs logits by: anything but equally."""
    return torch.arange(1, logits[0].numel() + 1, device=logits.device).cos().view(logits.shape[1:])


def _by_modules(twins: Replicas, inputs: Tensor) -> tuple[Observed, Habits]:
    """By ordinary modules and PyTorch's own layers, and what they did besides."""
    rows: list[Observed] = []
    habits = Habits(recomputes=twins.habits.recomputes)
    for number, x in enumerate(inputs):
        model = twins.model(number)
        masks = None
        if not twins.habits.recomputes and any(map(counted, model.modules())):
            masks = Masks(model)
            for name, values in twins.masks.items():
                model.get_buffer(name).copy_(values[number])
        seed = generator_seed(twins.masks[SEED][number], twins.masks[STEP][number])
        row: Observed = {}
        for mode in ("train", "eval"):
            model.train(mode == "train")
            buffers = dict(model.named_buffers())
            before = {name: value.clone() for name, value in buffers.items()}
            at = x.clone().requires_grad_()
            given = at.clone()
            version = given._version
            if masks:
                masks.restart()
            with generators(seed, x.device):
                state = _generator_states(x.device)
                logits = model_output(model, given)
                drew = not all(map(torch.equal, state, _generator_states(x.device)))
            row |= _gradients(mode, logits, at, list(trained_parameters(model).values()))
            after = dict(model.named_buffers())
            habits = replace(
                habits,
                draws=habits.draws or drew,
                changes_inputs=habits.changes_inputs or given._version != version,
                replaces_buffers=habits.replaces_buffers
                or any(after.get(name) is not value for name, value in buffers.items()),
                moves_in_eval=habits.moves_in_eval
                or (mode == "eval" and any(not _same(after[n], before[n]) for n in before)),
                recomputes=habits.recomputes or bool(masks and masks.again),
            )
            if mode == "train":
                row |= {name: after[name].clone() for name in twins.buffers if name in after}
        rows.append(row)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}, habits


def _gradients(mode: str, logits: Tensor, at: Tensor, parameters: list[Tensor]) -> Observed:
    """Of one model: its outputs, and the gradients to its inputs and, in training, parameters."""
    value = (logits * _weights(logits[None])).sum()
    if mode == "train" and not value.requires_grad:
        raise ValueError("the model's output has no gradient; needed: one made by autograd")
    towards = [at, *parameters] if mode == "train" else [at]
    try:
        to_inputs, *pieces = _towards(value, towards)
    except Exception as error:
        raise ValueError(
            f"the model has no gradient by torch.autograd.grad in {mode} mode: {first_line(error)}"
        ) from error
    outcome = {f"{mode} output": logits.detach(), f"{mode} gradient to inputs": to_inputs}
    if pieces:
        outcome["gradient"] = torch.cat([piece.flatten() for piece in pieces])
    return outcome


def _towards(value: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """Gradients; 0 towards what has no influence."""
    if not value.requires_grad:
        return [torch.zeros_like(tensor) for tensor in tensors]
    return list(torch.autograd.grad(value, tensors, allow_unused=True, materialize_grads=True))


def _by_replicas(twins: Replicas, inputs: Tensor) -> Observed:
    """By the way that training and evaluation take; buffers are left as they were."""
    kept = {name: buffer.clone() for name, buffer in twins.buffers.items()}
    outcome: Observed = {}
    for mode in ("train", "eval"):
        at = inputs.clone().requires_grad_()
        outputs, gradients = [], []
        to_inputs = torch.zeros_like(inputs)
        with twins.mode(mode == "train"):
            for rows, parameters, forward in twins.passes(at, differentiable=mode == "train"):
                logits = forward(at[rows])
                outputs.append(logits.detach())
                towards = [at, *parameters] if mode == "train" else [at]
                value = (logits * _weights(logits)).sum()
                share, *pieces = _towards(value, towards)
                to_inputs += share
                if pieces:
                    rows_of = [piece.reshape(len(logits), -1) for piece in pieces]
                    gradients.append(torch.cat(rows_of, dim=1))
            if mode == "eval":
                with torch.no_grad():
                    shared = twins.forward(twins.parameters.detach(), shared_inputs=True)
                    shared(inputs[0].clone())
        outcome[f"{mode} output"] = torch.cat(outputs)
        outcome[f"{mode} gradient to inputs"] = to_inputs
        if gradients:
            outcome["gradient"] = torch.cat(gradients)
            outcome |= {
                name: value.clone()
                for name, value in twins.buffers.items()
                if name not in twins.frozen
            }
    for name, buffer in twins.buffers.items():
        buffer.copy_(kept[name])
    return outcome


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def _difference(outcome: Observed, expected: Observed) -> str:
    """The first thing in which they differ by more than rounding, "" where in none."""
    for name, value in expected.items():
        other = outcome[name]
        if other.shape != value.shape:
            return name
        if not value.numel():
            continue
        reference = value.double().nan_to_num()
        error = (other.double().nan_to_num() - reference).abs().max()
        if error > _CLOSE.get(value.dtype, 0) * reference.abs().max() + 1e-12:
            return name
    return ""


def _generator_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return states + [torch.cuda.get_rng_state(device)] if device.type == "cuda" else states
