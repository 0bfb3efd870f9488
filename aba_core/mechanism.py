"""Mechanism: what adjustments do to gradients and curvature while a model trains.

All measures are taken on one fixed probe batch of training samples with batch norm and dropout as
in evaluation, change nothing of the training, and give each replica numbers of its own. A probe
draws from the stream "probe" of the run's seed, and draws the same at every step: a curve over
steps then shows the model change, not the probe.

Sources: gradient cosines of opposed inputs, Rosenfeld and Risteski 2023 ("Outliers with Opposing
Signals"); coherence, Chatterjee and Zielinski 2020 ("On the Generalization Mystery").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, takewhile

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.func import functional_call, grad, vmap

from aba_core import kernels
from aba_core.adjustments import ADJUSTMENTS, AdjustmentSet, Group
from aba_core.attribution import Loss, attribution_map, cross_entropy
from aba_core.datasets import Split
from aba_core.making import ReplicasMaker
from aba_core.methods.aba import Augmentation, adjust
from aba_core.methods.base import Method
from aba_core.randomness import PURPOSES, Draws, choice, random_bits, uniform
from aba_core.replicas import Replicas, plain_attention
from aba_core.sites import INPUT

# Chosen so that five measurements of a small CNN on digits take less than a fifth of its 500 steps
# (measured .17 to .19; on MNIST, where Hessian-vector products weigh more, .41). Seven Lanczos
# steps are within 1 % of the largest eigenvalue of a trained model, and mostly within 10 % in its
# first epochs.
SAMPLES = 25
LANCZOS_STEPS = 7
TRACE_PROBES = 3
# Numbers in the per-sample gradients held at once: bounds memory for large models.
GRADIENTS_AT_ONCE = 20_000_000

_GROUPS = ("epsilon", "delta", "neutral")
Metrics = dict[str, Float[Tensor, "replica"]]


@dataclass(frozen=True)
class Probe:
    """What replicas trained side by side are measured on.

    x, y: the batch, shared by all. augmentation: each replica's set and strength. seeds: one a
    replica. groups: changes per category of the adjustments of each group, [member, category]; the
    k-th of Delta is the opposite of the k-th of Epsilon.
    """

    x: Float[Tensor, "batch *feature"]
    y: Tensor
    augmentation: Augmentation
    seeds: Int64[Tensor, "replica 1"]
    groups: dict[str, Float[Tensor, "member category"]]
    lanczos_steps: int = LANCZOS_STEPS
    trace_probes: int = TRACE_PROBES

    @classmethod
    def of(
        cls,
        methods: Sequence[Method | None],
        seeds: Int64[Tensor, "replica 1"],
        train: Split,
        dtype: torch.dtype,
        strength: float,
        loss: Loss = cross_entropy,
        samples: int = SAMPLES,
    ) -> Probe:
        """A probe of `samples` training samples, the same for every arm and seed.

        methods: one a replica; those that are no ABA at the input (vanilla, say) are probed with
        all 27 at `strength`. Raises ValueError for a split with more than three categories, where
        no groups are defined.
        """
        device = seeds.device
        vanilla = Augmentation(AdjustmentSet.of_groups("all"), strength=strength, target="loss")
        # A probe never moves running statistics, whatever the arm does.
        probed = [
            replace(m, update_statistics=False)
            if isinstance(m, Augmentation) and m.site == INPUT
            else vanilla
            for m in methods
        ]
        stacked = Augmentation.stack(probed, device, dtype)
        categories = stacked.split.categories
        if categories > 3:
            raise ValueError(
                f"the split {stacked.split} has {categories} categories; mechanism "
                "metrics need two or three, where Epsilon, Delta and Neutral have a meaning"
            )
        shown = [a for a in ADJUSTMENTS if categories == 3 or not a.middle]

        def table(group: Group) -> Tensor:
            rows = AdjustmentSet(tuple(a for a in shown if a.group is group)).table(categories)
            return torch.tensor(rows, device=device, dtype=dtype)

        epsilon = table(Group.EPSILON)
        groups = {"epsilon": epsilon, "delta": -epsilon, "neutral": table(Group.NEUTRAL)}
        everyone = torch.arange(len(train), device=device)
        rows = random_bits(torch.zeros_like(everyone), "probe", 0, everyone).argsort()[:samples]
        return cls(train.batch(rows).to(dtype), train.y[rows], stacked, seeds, groups)

    def draws(self) -> Draws:
        """Draws of the run's seed that no training step makes."""
        seeds = random_bits(self.seeds, "probe", 0, torch.zeros_like(self.seeds))
        place = torch.arange(len(self.x), device=self.x.device).expand(len(self.seeds), -1)
        return Draws(dict.fromkeys(PURPOSES, seeds), 0, place)


def measured_steps(count: int, steps: int) -> set[int]:
    """`count` evenly spaced steps from 0 to `steps`, which is after the last one; one: that."""
    return {round(steps * k / (count - 1)) for k in range(count)} if count > 1 else {steps}


def measure(replicas: Replicas, probe: Probe, loss: Loss = cross_entropy) -> Metrics:
    """Every metric of every replica, by name. Adjustments have magnitude 1 unless said otherwise.

    loss_*: mean loss on the probe batch, clean and augmented as the arm itself does (vanilla: by
        all 27 at the probe's strength), with its random magnitudes.
    eigenvalue_*: largest eigenvalue of the Hessian of that loss; trace_*: its trace, with the
        standard error trace_error_*. See `curvature`.
    cosine_A_B: between the mean parameter gradients over the samples, each under an adjustment
        drawn from group A and one from group B (clean: unchanged).
    coherence_*: ‖mean g‖² / mean ‖g‖² over the gradients of single samples, within a group, and
        over the gradients of all three groups together (all). 1 where all agree, 1 / number of
        gradients where they are orthogonal.
    first_layer_*: norm of the mean gradient with respect to the first layer's weights and bias.
    violation_epsilon, violation_delta: share of (sample, Epsilon adjustment) whose loss fell, of
        (sample, Delta adjustment) whose loss rose, over all adjustments of the group.
    linearity_error: median over samples and adjustments of Epsilon and Delta of
        |loss(x + d) − loss(x) − ∇loss · d| / |∇loss · d|; those with ∇loss · d = 0 are left out.
    probe_samples: how many samples the probe batch has.
    A replica that diverged has NaN or infinite numbers, in its own row only.
    """
    x = probe.x.expand(len(replicas), *probe.x.shape)
    y = probe.y.expand(len(replicas), *probe.y.shape)
    draws = probe.draws()
    # What is differentiated twice, and what goes sample by sample, has no fused block.
    with kernels.unfused(), plain_attention(), replicas.mode(training=False):
        at = x.detach().requires_grad_()
        losses = loss(replicas.forward(replicas.parameters.detach())(at), y)
        (gradient,) = torch.autograd.grad(losses.sum(), at)
        masks = _categories(replicas, probe, x, y, gradient, draws, loss)
        changes, magnitude = probe.augmentation.changes(draws, x)
        augmented = _adjusted(probe, x, masks, changes, magnitude)
        # Both batches at once, as if the replicas stood there twice.
        both = curvature(
            _twice(replicas), torch.cat([x, augmented]), torch.cat([y, y]), probe, loss
        )
        clean = both.pop("gradient")[: len(replicas)]
        metrics: Metrics = {}
        for name, values in both.items():
            metrics[f"{name}_clean"], metrics[f"{name}_augmented"] = values.chunk(2)
        metrics |= _loss_changes(replicas, probe, x, y, masks, losses.detach(), gradient, loss)
        metrics |= _gradients(replicas, probe, x, y, masks, draws, clean, loss)
    metrics["probe_samples"] = torch.full((len(replicas),), len(y[0]), device=x.device)
    return {name: value.double() for name, value in metrics.items()}


def _twice(replicas: Replicas) -> Replicas:
    parameters = replicas.parameters.detach().repeat(2, 1)
    buffers = {name: torch.cat([value, value]) for name, value in replicas.buffers.items()}
    return replace(replicas, parameters=parameters, buffers=buffers, masks={})


def curvature(
    replicas: Replicas,
    x: Float[Tensor, "replica batch *feature"],
    y: Tensor,
    probe: Probe,
    loss: Loss,
) -> dict[str, Tensor]:
    """Mean loss, its gradient, and the largest eigenvalue and the trace of its Hessian.

    Lanczos iteration with full reorthogonalisation by Hessian-vector products gives the eigenvalue
    from below. The trace is that on the Lanczos vectors, exactly, plus Hutchinson's estimate on
    what is orthogonal to them, where little is left: unbiased, with a far smaller error than
    Hutchinson's alone (Meyer, Musco, Musco and Woodruff 2021, "Hutch++").
    """
    parameters = replicas.parameters.detach().requires_grad_()
    with kernels.unfused():
        losses = loss(replicas.forward(parameters)(x), y).mean(1)
    (gradient,) = torch.autograd.grad(losses.sum(), parameters, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        return torch.autograd.grad(gradient, parameters, vector, retain_graph=True)[0]

    place = torch.arange(parameters.shape[1], device=parameters.device)

    def signs(number: int) -> Tensor:
        drawn = torch.where(uniform(probe.seeds, "probe", number, place) < 0.5, -1.0, 1.0)
        return drawn.to(parameters.dtype).repeat(len(parameters) // len(drawn), 1)

    def outside(vector: Tensor, basis: Tensor) -> Tensor:
        """What of the vector is orthogonal to the basis; twice, for rounding."""
        for _ in range(2):
            shares = torch.einsum("rkp,rp->rk", basis, vector)
            vector = vector - torch.einsum("rkp,rk->rp", basis, shares)
        return vector

    steps = min(probe.lanczos_steps, parameters.shape[1])
    basis = parameters.new_zeros(len(parameters), 0, parameters.shape[1])
    device = parameters.device
    tridiagonal = torch.zeros(len(parameters), steps, steps, dtype=torch.float64, device=device)
    inside = torch.zeros(len(parameters), dtype=torch.float64, device=device)
    scale = parameters.new_zeros(len(parameters), 1)
    vector = signs(1)
    for step in range(steps):
        length = vector.norm(dim=1, keepdim=True)
        # Rounding noise where the start vector's eigenvectors are all found: that replica is done.
        done = length <= 100 * torch.finfo(length.dtype).eps * scale
        vector = torch.where(done, 0, vector / length)
        basis = torch.cat([basis, vector[:, None]], dim=1)
        image = product(vector)
        along = (image * vector).sum(1, keepdim=True)
        inside += along[:, 0].double()
        if step:
            beside = torch.where(done, 0, length)[:, 0].double()
            tridiagonal[:, step, step - 1] = tridiagonal[:, step - 1, step] = beside
        # Of one that is done the first quotient stands again: never the largest eigenvalue.
        again = torch.where(done[:, 0], tridiagonal[:, 0, 0], along[:, 0].double())
        tridiagonal[:, step, step] = again
        scale = torch.maximum(scale, torch.maximum(along.abs(), length * (step > 0)))
        vector = outside(image, basis)
    largest = _largest_eigenvalue(tridiagonal)
    rest = []
    for number in range(probe.trace_probes):
        vector = outside(signs(2 + number), basis)
        rest.append((vector * product(vector)).sum(1).double())
    estimates = torch.stack(rest)
    return {
        "loss": losses.detach(),
        "gradient": gradient.detach(),
        "eigenvalue": largest,
        "trace": inside + estimates.mean(0),
        "trace_error": estimates.std(0) / len(estimates) ** 0.5,
    }


def _largest_eigenvalue(
    tridiagonal: Float[Tensor, "replica step step"],
) -> Float[Tensor, "replica"]:
    """By the host: a library for such small matrices waits for a GPU too. The one place of a
    measurement that does."""
    finite = torch.isfinite(tridiagonal).flatten(1).all(1)
    small = tridiagonal.nan_to_num(0, 0, 0).cpu()
    largest = torch.linalg.eigvalsh(small)[:, -1].to(tridiagonal.device)
    return largest.masked_fill(~finite, float("nan"))


def _categories(
    replicas: Replicas,
    probe: Probe,
    x: Tensor,
    y: Tensor,
    gradient: Tensor,
    draws: Draws,
    loss: Loss,
) -> Tensor:
    """Each sample's features by the arm's own kind of map: [category, replica, batch, *feature]."""
    aug, attribution = probe.augmentation, gradient
    if (aug.attribution, aug.target, aug.attribution_mode) != ("gradient", "loss", "eval"):
        with replicas.undisturbed(aug.attribution_mode) as quiet:
            forward = quiet.forward(quiet.parameters.detach())
            made_with = ReplicasMaker(quiet)
            attribution = attribution_map(forward, x, y, aug.maps, draws, loss, made_with)
    masks = aug.split.masks(attribution.flatten(0, 1).flatten(1))
    return masks.unflatten(2, x.shape[2:]).unflatten(1, x.shape[:2])


def _adjusted(
    probe: Probe, x: Tensor, masks: Tensor, changes: Tensor, magnitude: Tensor | None = None
) -> Tensor:
    """x under one change a sample. changes: [replica, batch, category]; magnitude: default 1."""
    size = probe.augmentation.strength.expand(x.shape[:2])  # type: ignore[attr-defined]
    size = size if magnitude is None else size * magnitude
    moved = adjust(x.flatten(0, 1), masks.flatten(1, 2), changes.flatten(0, 1), 1.0, size.flatten())
    return moved.unflatten(0, x.shape[:2])


def _loss_changes(
    replicas: Replicas,
    probe: Probe,
    x: Tensor,
    y: Tensor,
    masks: Tensor,
    before: Tensor,
    gradient: Tensor,
    loss: Loss,
) -> Metrics:
    """Violation rates and the linearity error."""
    opposed = torch.cat([probe.groups["epsilon"], probe.groups["delta"]])
    with torch.no_grad():
        moved = torch.stack(
            [_adjusted(probe, x, masks, change.expand(*x.shape[:2], -1)) for change in opposed], 1
        )
        labels = torch.stack([y] * len(opposed), 1)
        logits = replicas.forward(replicas.parameters.detach())(moved.flatten(1, 2))
        after = loss(logits, labels.flatten(1, 2)).unflatten(1, labels.shape[1:3])
        change = after - before[:, None]
        first_order = (gradient[:, None] * (moved - x[:, None])).flatten(3).sum(3)
        error = (change - first_order).abs() / first_order.abs()
        error = error.masked_fill(first_order == 0, float("nan"))
    epsilon, delta = change.chunk(2, dim=1)
    return {
        "violation_epsilon": (epsilon < 0).double().mean((1, 2)),
        "violation_delta": (delta > 0).double().mean((1, 2)),
        "linearity_error": error.double().flatten(1).nanquantile(0.5, dim=1),
    }


def _gradients(
    replicas: Replicas,
    probe: Probe,
    x: Tensor,
    y: Tensor,
    masks: Tensor,
    draws: Draws,
    clean: Tensor,
    loss: Loss,
) -> Metrics:
    """Cosines, coherences and first-layer norms."""
    even = torch.ones(len(probe.groups["epsilon"]), dtype=torch.float64, device=x.device)
    member = choice(even / len(even), draws.uniform("adjustment"))
    inputs = [_adjusted(probe, x, masks, probe.groups[group][member]) for group in _GROUPS]
    sums, squares = _per_sample(replicas, torch.stack(inputs, 1), y, loss)
    means = {group: sums[:, number] / len(probe.y) for number, group in enumerate(_GROUPS)}
    norms = {group: squares[:, number] / len(probe.y) for number, group in enumerate(_GROUPS)}
    means["all"] = torch.stack(list(means.values())).mean(0)
    norms["all"] = torch.stack(list(norms.values())).mean(0)
    metrics = {f"coherence_{g}": means[g].square().sum(1) / norms[g] for g in means}
    del means["all"]
    means["clean"] = clean
    for a, b in combinations(means, 2):
        cosine = torch.cosine_similarity(means[a], means[b], dim=1, eps=0)
        metrics[f"cosine_{a}_{b}"] = cosine
    first = _first_layer(replicas)
    return metrics | {f"first_layer_{g}": mean[:, first].norm(dim=1) for g, mean in means.items()}


def _per_sample(
    replicas: Replicas, x: Float[Tensor, "replica group batch *feature"], y: Tensor, loss: Loss
) -> tuple[Float[Tensor, "replica group parameter"], Float[Tensor, "replica group"]]:
    """Sums over each group of the gradients of single samples, and of their squared norms.

    One replica after the other: faster on a CPU than all at once, and a bounded memory.
    """
    template, changes_inputs = replicas.template, replicas.habits.changes_inputs

    def single(values: dict, buffers: dict, x: Tensor, y: Tensor) -> Tensor:
        x = x[None].clone() if changes_inputs else x[None]
        return loss(functional_call(template, (values, buffers), (x,)), y[None])[0]

    def in_a_loop(values: dict, buffers: dict, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        rows = [
            torch.autograd.grad(
                single(leaves, buffers, one, label),
                list(leaves.values()),
                allow_unused=True,
                materialize_grads=True,
            )
            for one, label in zip(x, y, strict=True)
        ]
        return dict(zip(leaves, map(torch.stack, zip(*rows, strict=True)), strict=True))

    vmapped = replicas.together is not False  # what vmap cannot run, it cannot run here
    gradients = vmap(grad(single), (None, None, 0, 0)) if vmapped else in_a_loop
    total = replicas.parameters.new_zeros(*x.shape[:2], replicas.parameters.shape[1])
    squares = total.new_zeros(x.shape[:2])
    at_once = max(1, GRADIENTS_AT_ONCE // (x.shape[1] * total.shape[2]))
    for replica in range(len(replicas)):
        row = replicas.parameters.detach()[replica : replica + 1]
        values = {name: value[0] for name, value in replicas.named_parameters(row).items()}
        buffers = {name: value[replica] for name, value in replicas.buffers.items()}
        for start in range(0, x.shape[2], at_once):
            part = x[replica, :, start : start + at_once]
            labels = torch.stack([y[replica, start : start + at_once]] * len(part))
            pieces = gradients(values, buffers, part.flatten(0, 1), labels.flatten(0, 1))
            flat = torch.cat([pieces[name].flatten(1) for name in values], dim=1)
            flat = flat.unflatten(0, part.shape[:2])
            total[replica] += flat.sum(1)
            squares[replica] += flat.square().sum((1, 2))
    return total, squares


def _first_layer(replicas: Replicas) -> slice:
    """Which parameters belong to the first module that has any."""
    named = list(replicas.trained.items())
    layer = named[0][0].rpartition(".")[0]
    first = takewhile(lambda entry: entry[0].rpartition(".")[0] == layer, named)
    return slice(sum(shape.numel() for _, shape in first))
