"""A whole training of one model: start or resume, steps, curves, checkpoints, metrics."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aba_core.architecture import duplicate, first_line, flip_bit, initial_model
from aba_core.attribution import undisturbed
from aba_core.checks import check_logits, loss_per_sample, model_output
from aba_core.identity import NUMERICS, plain, short_hash
from aba_core.methods.decay import Best
from aba_core.randomness import batch_order, epoch_order
from aba_core.replicas import Replicas, observed
from aba_core.single import checkpoints
from aba_core.single.loading import Samples, batches, in_order
from aba_core.single.ranks import Ranks, ranks
from aba_core.single.step import SingleStep, Trained, check_ranks, differs_among_ranks, place_rows
from aba_core.single.transforms import Transforms, check
from aba_core.steps import products_in
from aba_core.trainers import Single
from aba_core.training import Runs, _Member, _record, _Setting, _whole

_log = logging.getLogger("aba_core")
EVALUATED = 500  # samples evaluated at a time
ASKED_EVERY = 50  # steps after which a GPU is asked whether the loss is finite; a CPU at each


def train_members(
    setting: _Setting,
    members: Sequence[_Member],
    runs: Runs,
    kept: Mapping[tuple[str, int], Path] | None = None,
    watch: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Train one run after the other. kept: where each keeps its checkpoint. watch: called with
    {arm, seed, step, loss}, and the metrics at the steps of `curve_every`."""
    for member in members:
        path = (kept or {}).get((member.arm.name, member.seed))
        with torch.random.fork_rng():
            _Training(setting, member, runs, path, watch).run()


@dataclass
class _Training:
    """One run on its way."""

    setting: _Setting
    member: _Member
    runs: Runs
    path: Path | None
    watch: Callable[[dict[str, Any]], None] | None
    done: int = 0  # steps
    before: float = 0.0  # seconds before a checkpoint that this continues
    curves: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = self.setting.config
        self.trainer = self.config.single or Single()
        self.ranks: Ranks = ranks(self.setting.device)
        method = self.member.method
        if method is not None and method.needs_last_gradient:
            raise ValueError(
                f"arm {self.member.arm.name!r} asks for each sample's last gradient, which trainer "
                "'single' does not keep; allowed: trainer 'replicas'"
            )
        if self.config.card is not None:
            from aba_core.card.subject import check_data

            check_data(self.setting.splits)
        check_ranks(method, self.trainer, self.ranks.count)
        if self.ranks.count > 1 and (self.config.card is not None or self.setting.observe):
            what = "observe" if self.config.card is None else "card"
            raise ValueError(f"{what} is given with {self.ranks.count} ranks; allowed: one process")
        self.steps = self.config.steps(len(self.setting.splits.train))
        self.best: Best | None = None

    def run(self) -> None:
        """Train to the last step, or from where a checkpoint is, and record the run."""
        started = time.perf_counter()
        step = self._started()
        self._resume(step)
        every = self.member.method.looks_every if self.member.method else 0
        step.model.train()
        for batch in self._loading(self.done):
            device = self.setting.device
            x, y = (value.to(device, non_blocking=True) for value in (batch.x, batch.y))
            loss = step(batch.step, x, y, batch.rows.to(device, non_blocking=True))
            self.done = batch.step + 1
            last = self.done == self.steps
            if self.setting.progress is not None:
                self.setting.progress(1)
            if self._diverged(step, last):
                break
            if self.setting.observe is not None:
                plain_model = duplicate_free(copy.deepcopy(step.model))
                look = self.setting.observe
                observed(step.model, look, self.done, self.steps, plain_model)
                step.model.train()
            if every and (self.done % every == 0 or last):
                self._look(step)
            if self.config.curve_every and self.done % self.config.curve_every == 0 and not last:
                self._curve(step, loss)
            if self.trainer.checkpoint_every and self.done % self.trainer.checkpoint_every == 0:
                self._keep(step, self.before + time.perf_counter() - started)
        step.optimizer.zero_grad(set_to_none=True)
        if self.best is not None:
            self.best.restore()
        self._finish(step, self.before + time.perf_counter() - started)

    # --- before the first step -------------------------------------------------------------------

    def _started(self) -> SingleStep:
        """A freshly initialised model, tried on a batch; its step."""
        setting, member = self.setting, self.member
        model = initial_model(setting.build, member.seeds["initialisation"], setting.dtype)
        if member.method is not None:
            model = member.method.architecture(model)
        if member.arm.flip_bit:
            flip_bit(model, member.seeds["bit"])
        loss = self._tried(model)
        if self.trainer.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model = model.to(setting.device)
        differs = differs_among_ranks(model, setting.device) if self.ranks.count > 1 else []
        if differs and self.ranks.first:
            _log.warning(
                "arm %r, seed %d: not as in one process are %s",
                member.arm.name, member.seed, " and ".join(differs),
            )  # fmt: skip
        if self.ranks.count > 1 and torch.device(setting.device).type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        untrained = member.method is not None and member.method.needs_untrained
        splits = setting.splits
        return SingleStep(
            Trained(
                self.config, model, member.method, loss, splits.classes, len(splits.train),
                member.seeds, member.arm.learning_rate or self.config.learning_rate,
                setting.device, self.ranks, duplicate(model).eval() if untrained else None,
            )
        )  # fmt: skip

    def _tried(self, model: nn.Module) -> Any:
        """The loss, fit for this model. Raises ValueError where data, model and loss do not fit."""
        splits, setting = self.setting.splits, self.setting
        few = torch.arange(min(2, len(splits.train)))
        x, y = splits.train.batch(few).to(setting.dtype), splits.train.y[few]
        with torch.no_grad(), undisturbed(model, "eval"):
            logits = model_output(model, x)
            check_logits(logits, splits.classes, setting.loss)
            loss = loss_per_sample(setting.loss, logits, y)
            try:
                setting.measure(logits[None], y)
            except Exception as error:
                raise ValueError(f"the metrics cannot be computed: {first_line(error)}") from error
        return loss

    def _loading(self, first: int) -> Iterator[Any]:
        """Batches of the steps from the first one on, this rank's slice of each."""
        splits, config = self.setting.splits, self.config
        seed = torch.tensor([self.member.seeds["order"]])
        samples = len(splits.train)
        orders = lru_cache(maxsize=2)(lambda epoch: epoch_order(seed, epoch, samples))

        def keys() -> Iterator[tuple[int, list[int], int]]:
            for number in range(first, self.steps):
                rows = batch_order(orders, number, config.batch_size, samples)
                yield (number, *place_rows(rows, self.ranks))

        changes = None
        if self.trainer.transforms:
            check(self.trainer.transforms, splits)
            changes = Transforms(self.trainer.transforms, self.member.seeds["order"])
        read = Samples(splits.train, changes, (splits.mean, splits.std))
        cuda = torch.device(self.setting.device).type == "cuda"
        return batches(read, keys(), self.trainer.workers, cuda)

    # --- on the way ------------------------------------------------------------------------------

    def _diverged(self, step: SingleStep, last: bool) -> bool:
        """Whether the loss ceased to be finite, which is said once."""
        cpu = torch.device(self.setting.device).type == "cpu"
        if not (cpu or last or self.done % ASKED_EVERY == 0) or bool(step.finite):
            return False
        if self.ranks.first:
            _log.warning(
                "arm %r, seed %d: the loss is not finite at step %d of %d; the run stops as "
                "diverged", self.member.arm.name, self.member.seed, self.done, self.steps,
            )  # fmt: skip
        return True

    def _look(self, step: SingleStep) -> None:
        """Measure the validation loss, and keep the parameters where it is the lowest so far."""
        if self.best is None:
            values = [*step.model.parameters(), *step.model.buffers()]
            self.best = Best([value.detach()[None] for value in values])
        split = self.setting.splits.validation
        logits = self._logits(step, "validation")
        self.best.look(self.setting.loss(logits, split.y).double().mean()[None])
        step.model.train()

    def _curve(self, step: SingleStep, loss: Tensor) -> None:
        metrics, _, _ = self._metrics(step)
        step.model.train()
        _record(self.curves, [self.member], self.setting, self.done, metrics)
        if self.watch is not None and self.ranks.first:
            seen = {name: float(value) for name, value in metrics.items()}
            named = {"arm": self.member.arm.name, "seed": self.member.seed, "step": self.done}
            self.watch({**named, "loss": float(loss), **seen})

    # --- checkpoints -----------------------------------------------------------------------------

    def _identity(self) -> str:
        """What a checkpoint must be of."""
        arm = {name: value for name, value in plain(self.member.arm).items() if name != "name"}
        content = {"numerics": NUMERICS, "config": plain(self.config), "arm": arm}
        content |= {"method": plain(self.member.method), "seed": self.member.seed}
        return short_hash({**content, "data": self.setting.splits.fingerprint})

    def _keep(self, step: SingleStep, seconds: float) -> None:
        if self.path is None:
            return
        saved = self._saved(step)  # which all ranks sum
        if not self.ranks.first:
            return
        best = self.best.state() if self.best is not None else None
        state = {"of": self._identity(), "done": self.done, "seconds": seconds, "best": best}
        state["saved"] = saved
        checkpoints.write(self.path, {**state, "curves": self.curves, **step.state()})

    def _saved(self, step: SingleStep) -> float:
        """Passes of a batch that samples without need of a map saved so far, on all ranks."""
        saved = torch.tensor([step.saved], dtype=torch.float64, device=self.setting.device)
        return float(self.ranks.sum(saved))

    def _resume(self, step: SingleStep) -> None:
        if self.path is None:
            return
        of = self._identity()
        state = self.ranks.same(checkpoints.read(self.path, of) if self.ranks.first else None)
        if state is None:
            return
        step.resume(state)
        self.done, self.before, self.curves = state["done"], state["seconds"], state["curves"]
        if state["best"] is not None:
            values = [*step.model.parameters(), *step.model.buffers()]
            self.best = Best([value.detach()[None] for value in values])
            self.best.resume(state["best"])
        if self.setting.progress is not None:
            self.setting.progress(self.done)

    # --- metrics ---------------------------------------------------------------------------------

    def _logits(self, step: SingleStep, name: str) -> Float[Tensor, "sample output"]:
        """Logits of one split, in evaluation mode, on the CPU; each rank computes a share."""
        split, model = getattr(self.setting.splits, name), step.model
        self.ranks.everywhere(model.buffers())
        share = self.ranks.slice(len(split))
        keys = in_order(share.stop, EVALUATED, share.start)
        device = self.setting.device
        # Processes take a while to start: those few samples are read before they could.
        few = share.stop - share.start <= 4 * EVALUATED
        workers = 0 if few else self.trainer.workers
        found = []
        model.eval()
        full = products_in("full", torch.device(device))
        with torch.no_grad(), full, undisturbed(model, "eval"):
            for batch in batches(Samples(split), keys, workers, device != "cpu"):
                x = batch.x.to(device, self.setting.dtype, non_blocking=True)
                found.append(model(x).to(self.setting.dtype))
        outputs = self.setting.splits.classes
        rows = torch.cat(found) if found else torch.zeros(0, outputs, device=device)
        return self.ranks.joined(rows, len(split)).cpu()

    def _metrics(self, step: SingleStep) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
        """Metrics of every split as tensors [1], the validation logits, and which samples of
        validation and test are classified correctly."""
        average = step.average
        if average is not None:
            average.swap()
        metrics: dict[str, Tensor] = {}
        correct: dict[str, Tensor] = {}
        kept = torch.zeros(0)
        for name in ("validation", "test", "train"):
            logits, y = self._logits(step, name), getattr(self.setting.splits, name).y
            kept = logits if name == "validation" else kept
            values = self.setting.measure(logits[None], y)
            metrics |= {f"{name}_{quantity}": value for quantity, value in values.items()}
            if self.setting.task.name == "multiclass" and y.dim() == 1 and name != "train":
                correct[name] = logits.argmax(-1) == y
        if average is not None:
            average.swap()
        return metrics, kept, correct

    def _finish(self, step: SingleStep, seconds: float) -> None:
        """Metrics of the last step, and what is kept of the run."""
        finite = bool(step.finite) and all(bool(v.isfinite().all()) for v in step.parameters)
        metrics, logits, correct = self._metrics(step)
        finite &= all(
            bool(metrics[f"{n}_loss"].isfinite()) for n in ("validation", "test", "train")
        )
        if not finite:
            metrics = {name: torch.full_like(value, torch.nan) for name, value in metrics.items()}
        method, run = self.member.method, (self.member.arm.name, self.member.seed)
        # Rounded, since saved shares of several batches, parts and ranks are added.
        passes = round(self.done * (method.passes() if method else 1) - self._saved(step), 6)
        if self.config.curve_every:
            _record(self.curves, [self.member], self.setting, self.done, metrics)
        self.runs.curve_rows += self.curves
        extra: dict[str, list] = {
            "passes": [_whole(passes)],
            "seconds": [seconds],
            "status": ["finished" if finite else "diverged"],
        }
        if step.average is not None:
            step.average.swap()
        model = duplicate_free(step.model)
        if self.config.card is not None:
            from aba_core.card import columns  # which trains as well

            extra |= columns(
                self.setting, [self.member], Replicas.stack([model], self.setting.device)
            )
        _record(self.runs.rows, [self.member], self.setting, self.done, metrics, extra)
        self.runs._models[run] = lambda: model.eval()
        if self.setting.keep_logits:
            self.runs.logits[run] = logits
        self.runs.correct[run] = correct


def duplicate_free(model: nn.Module) -> nn.Module:
    """The model as its builder made it: dropouts draw from PyTorch's generator again."""
    from aba_core.dropout import SEED, STEP

    for module in model.modules():
        vars(module).pop("forward", None)
    for name in (SEED, STEP):
        model._buffers.pop(name, None)
    return model
