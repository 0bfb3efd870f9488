"""Planning: how many runs an effect needs, and which effect a number of runs can find.

Power in closed form for the t test, and by simulation for any decision rule, with the spread given
as a number or taken from pilot runs. `plan` puts both together for a study, with the time it takes,
before anything is spent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from aba_core.identity import meant
from aba_core.quantities import metrics_in
from aba_core.threads import usable_cores
from analysis import results as store
from analysis.statistics import Interval
from analysis.study import Study

Array = NDArray[np.float64]
# Which of the simulated experiments find the effect, [trial]; one [trial, run] array an arm.
Rule = Callable[[Sequence[Array], np.random.Generator], NDArray[np.bool_]]

TRIALS = 4_000
PILOT_SEEDS = 5
MOST_RUNS = 10_000


class PlanError(ValueError):
    """A study that cannot be planned; one line saying why and what to do."""


# --- the t test, in closed form ------------------------------------------------------------------


def detection_power(
    difference: float, sd: float, n_a: int, n_b: int | None = None, *, alpha: float = 0.05
) -> float:
    """Power of the two-sided t test for a true difference (points) at equal run SD (points)."""
    second = n_a if n_b is None else n_b
    if min(n_a, second) < 2 or sd <= 0:
        raise ValueError(f"power needs two runs per arm and sd > 0, got {n_a}, {second}, sd {sd}")
    freedom = n_a + second - 2
    shift = abs(difference) / (sd * np.sqrt(1 / n_a + 1 / second))
    critical = stats.t.ppf(1 - alpha / 2, freedom)
    return float(stats.nct.sf(critical, freedom, shift) + stats.nct.sf(critical, freedom, -shift))


def smallest_detectable_difference(
    sd: float, n_a: int, n_b: int | None = None, *, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest true difference (points) that the two-sided t test detects with this power.

    sd: standard deviation of runs (points); n_a, n_b: runs per arm. By the noncentral t. For many
    comparisons give the corrected alpha, for example 0.05 / 26.
    """
    if not alpha < power < 1:
        raise ValueError(f"power {power} is not between alpha {alpha} and 1")
    unit = optimize.brentq(
        lambda d: detection_power(d, 1.0, n_a, n_b, alpha=alpha) - power, 0.0, 1e4
    )
    return float(unit) * sd


def runs_per_arm(difference: float, sd: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Fewest runs in each of two arms with which the t test detects a difference (points).

    Raises PlanError where more than 10,000 would be needed.
    """
    if not alpha < power < 1:
        raise ValueError(f"power {power} is not between alpha {alpha} and 1")
    return _fewest(lambda n: detection_power(difference, sd, n, alpha=alpha) >= power)


def _fewest(enough: Callable[[int], bool], most: int = MOST_RUNS) -> int:
    """The smallest n from 2 that is enough, for a condition that stays true once it is."""
    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
        if low >= most:
            raise PlanError(
                f"more than {most} runs an arm would be needed; look for a larger effect (--effect)"
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


# --- any decision rule, by simulation ------------------------------------------------------------


@dataclass(frozen=True)
class Power:
    """Share of simulated experiments that find the effect, with its Monte-Carlo standard error."""

    estimate: float
    error: float
    trials: int

    def __str__(self) -> str:
        return f"{self.estimate:.3f} ± {self.error:.3f}"


def welch_rule(alpha: float = 0.05) -> Rule:
    """The first arm differs from the second by Welch's two-sided t test."""

    def rule(arms: Sequence[Array], rng: np.random.Generator) -> NDArray[np.bool_]:
        test = stats.ttest_ind(arms[0], arms[1], axis=1, equal_var=False)
        return np.asarray(test.pvalue < alpha)

    return rule


def one_by_one(decision: Callable[[Sequence[Array], np.random.Generator], bool]) -> Rule:
    """A rule of a decision on one experiment, which gets one [run] array an arm.

    Example: `one_by_one(lambda arms, rng: difference_interval(*arms, rng).excludes(0))`.
    """

    def rule(arms: Sequence[Array], rng: np.random.Generator) -> NDArray[np.bool_]:
        trials = zip(*arms, strict=True)
        return np.array([bool(decision(trial, rng)) for trial in trials])

    return rule


def simulated_arms(
    pilot: float | Sequence[ArrayLike],
    shifts: Sequence[float],
    n: int | Sequence[int],
    trials: int,
    rng: np.random.Generator,
) -> list[Array]:
    """Experiments as they might come out: one [trial, run] array an arm, with mean `shift`.

    pilot: the SD of normal runs; or pilot runs, one [run] an arm or one for all arms, which are
    centred and resampled with the noise of `statistics.mean_interval`, so that the variance of the
    resamples is the pilot's s². n: runs, the same in each arm or one number an arm.
    """
    sizes = [n] * len(shifts) if isinstance(n, int) else list(n)
    if isinstance(pilot, int | float):
        if not pilot > 0:
            raise ValueError(f"sd is {pilot}; allowed: numbers above 0")
        return [
            shift + pilot * rng.standard_normal((trials, size))
            for shift, size in zip(shifts, sizes, strict=True)
        ]
    samples = [np.sort(np.asarray(values, dtype=np.float64)) for values in pilot]
    samples = samples * len(shifts) if len(samples) == 1 else samples
    if len(samples) != len(shifts):
        raise ValueError(
            f"{len(shifts)} arms need one pilot sample, or one each: got {len(samples)}"
        )
    arms = []
    for sample, shift, size in zip(samples, shifts, sizes, strict=True):
        if sample.ndim != 1 or sample.size < 2 or not np.isfinite(sample).all():
            raise ValueError("pilot samples must be finite, with one axis and at least two runs")
        noise = sample.std(ddof=1) / math.sqrt(sample.size)
        drawn = (sample - sample.mean())[rng.integers(sample.size, size=(trials, size))]
        arms.append(shift + drawn + noise * rng.standard_normal((trials, size)))
    return arms


def simulated_power(
    pilot: float | Sequence[ArrayLike],
    effect: float | Sequence[float],
    n: int | Sequence[int],
    rng: np.random.Generator,
    *,
    rule: Rule | None = None,
    trials: int = TRIALS,
) -> Power:
    """How often a decision rule finds an effect (points) with n runs per arm.

    effect: the first of two arms above the second; or the mean of each arm. pilot: see
    `simulated_arms`. rule: `welch_rule()` where none is given. With effect 0 this is the rate of
    false positives.
    """
    shifts = [float(effect), 0.0] if isinstance(effect, int | float) else list(effect)
    detected = (rule or welch_rule())(simulated_arms(pilot, shifts, n, trials, rng), rng)
    share = float(np.mean(detected))
    # Agresti and Coull's shrunken share, so that 0 of 4000 does not claim to be exact.
    shrunk = (share * trials + 2) / (trials + 4)
    return Power(share, math.sqrt(shrunk * (1 - shrunk) / (trials + 4)), trials)


def simulated_runs_per_arm(
    pilot: float | Sequence[ArrayLike],
    effect: float | Sequence[float],
    rng: np.random.Generator,
    *,
    rule: Rule | None = None,
    power: float = 0.8,
    trials: int = TRIALS,
    most: int = 1_000,
) -> tuple[int, Power]:
    """Fewest runs per arm that give the power, and the power they give. See `simulated_power`.

    Doubling, then bisection; every n gets the same seed, so that noise does not upset the order.
    Raises PlanError where more than `most` would be needed.
    """
    seed = int(rng.integers(2**63))

    def at(n: int) -> Power:
        fresh = np.random.default_rng(seed)
        return simulated_power(pilot, effect, n, fresh, rule=rule, trials=trials)

    n = _fewest(lambda n: at(n).estimate >= power, most)
    return n, at(n)


def simulated_detectable_effect(
    pilot: float | Sequence[ArrayLike],
    n: int,
    rng: np.random.Generator,
    *,
    rule: Rule | None = None,
    power: float = 0.8,
    trials: int = TRIALS,
) -> float:
    """Smallest difference (points) of two arms that n runs per arm find with the power.

    By bisection to a thousandth of the spread, on the same simulated noise throughout.
    """
    seed = int(rng.integers(2**63))
    spread = (
        pilot
        if isinstance(pilot, int | float)
        else max(np.asarray(x, float).std(ddof=1) for x in pilot)
    )

    def at(effect: float) -> float:
        fresh = np.random.default_rng(seed)
        return simulated_power(pilot, effect, n, fresh, rule=rule, trials=trials).estimate

    low, high = 0.0, float(spread)
    while at(high) < power:
        low, high = high, 2 * high
        if high > 1e3 * spread:
            raise PlanError(f"{n} runs an arm never reach power {power:g} with this rule")
    while high - low > 1e-3 * spread:
        middle = (low + high) / 2
        low, high = (low, middle) if at(middle) >= power else (middle, high)
    return high


# --- a whole study -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """Runs per arm for one question. simulated: the power when the pilot's runs are resampled."""

    comparisons: int
    sd: float
    runs_per_arm: int
    runs: int
    to_run: int
    seconds: float
    simulated: Power


@dataclass(frozen=True)
class Plan:
    """What a study needs to find an effect, and what it is estimated from.

    sd: of the runs of one arm (points), pooled over the pilot's arms, chi-square interval;
    sd_by_arm: the smallest and largest. pilot: the folder that its runs are from; device: what they
    ran on. seconds: of one core (a GPU: of the device) for one seed of every arm. options: one
    comparison and the whole family, each at the SD and at the upper end of its interval.
    """

    study: Study
    effect: float
    power: float
    alpha: float
    sd: Interval
    sd_by_arm: tuple[float, float]
    pilot: Path
    pilot_runs: int
    pilot_arms: int
    device: str
    seconds: float
    cores: int
    options: tuple[Option, ...]


def plan(
    study: Study,
    results: str | Path,
    effect: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    comparisons: int | None = None,
    metric: str = "validation_accuracy",
    cores: int | None = None,
) -> Plan:
    """How many seeds a study needs to find a true difference (points) between two of its arms.

    The pilot is what `results` has of the study with the same settings, else the shipped results;
    else, there or here, any study of the same config, whose runs should spread alike.
    comparisons: the size of the family that Holm's method corrects for, one less than the arms by
    default; planned at Bonferroni's level, which its first step asks. The time is the pilot's
    seconds per run and arm, shared by the cores (not on a GPU). Raises PlanError where there is no
    pilot, saying how to run one.
    """
    _check_question(study, effect, power, alpha, comparisons)
    pilot, folder = _pilot(study, Path(results), metric)
    grouped = pilot.groupby("arm", sort=False)[metric]
    samples = [part.to_numpy(np.float64) for _, part in grouped if len(part) > 1]
    sd = _pooled_sd(samples, len(pilot))
    # What is left of every arm's mean, each arm at its own variance: heavy tails included.
    rest = np.concatenate([(v - v.mean()) * math.sqrt(v.size / (v.size - 1)) for v in samples])
    by_arm = [float(values.std(ddof=1)) for values in samples]
    seconds = float(pilot.groupby("arm")["seconds"].mean().mean()) * len(study.arms)
    device = str(pilot["device"].iloc[-1]) if "device" in pilot else "cpu"
    workers = (cores or usable_cores(math.ceil)) if device.startswith("cpu") else 1
    mine = pilot["arm"] if folder == Path(results) else pilot["arm"].iloc[:0]
    finished = [int((mine == arm.name).sum()) for arm in study.arms]

    def option(size: int, spread: float) -> Option:
        n = runs_per_arm(effect, spread, alpha=alpha / size, power=power)
        lacking = sum(max(0, n - count) for count in finished)
        return Option(
            size,
            spread,
            n,
            n * len(study.arms),
            lacking,
            lacking * seconds / len(study.arms) / workers,
            simulated_power(
                [rest * spread / sd.estimate],
                effect,
                n,
                np.random.default_rng(0),
                rule=welch_rule(alpha / size),
            ),
        )

    family = comparisons or max(1, len(study.arms) - 1)
    return Plan(
        study,
        effect,
        power,
        alpha,
        sd,
        (min(by_arm), max(by_arm)),
        folder,
        len(pilot),
        len(samples),
        device,
        seconds,
        workers,
        tuple(option(m, spread) for m in sorted({1, family}) for spread in (sd.estimate, sd.high)),
    )


def _check_question(
    study: Study, effect: float, power: float, alpha: float, comparisons: int | None
) -> None:
    if not effect > 0:
        raise PlanError(f"effect is {effect:g}; allowed: numbers above 0, in points")
    if not alpha < power < 1:
        raise PlanError(f"power is {power:g}; allowed: numbers between {alpha:g} and 1")
    if comparisons is not None and comparisons < 1:
        raise PlanError(f"comparisons is {comparisons}; allowed: whole numbers from 1")
    if study.frozen is not None:
        raise PlanError(f"{study.name} evaluates trained models; plan a study that compares arms")


def _pooled_sd(samples: Sequence[Array], n: int) -> Interval:
    """Standard deviation of the runs of one arm, pooled over arms, with its chi-square interval."""
    freedom = sum(values.size - 1 for values in samples)
    square = sum(((values - values.mean()) ** 2).sum() for values in samples)
    if square == 0:
        raise PlanError("the pilot's runs of each arm are all equal: any difference is one")
    sd = math.sqrt(square / freedom)
    low, high = sd * np.sqrt(freedom / stats.chi2.ppf([0.975, 0.025], freedom))
    return Interval(sd, float(low), float(high), n, 0.95, "chi2")


def _pilot(study: Study, results: Path, metric: str) -> tuple[pd.DataFrame, Path]:
    """Finished runs of a study with these settings, or where there are none of other studies with
    the same config; the most there are in the first folder that has two of an arm. Arms' strengths
    may differ: the benchmark tunes them."""
    folders = list(dict.fromkeys((results, store.SHIPPED)))
    for same_name, folder in ((same, folder) for same in (True, False) for folder in folders):
        alike = [
            declaration
            for declaration in store.declarations(folder)
            if declaration.study.config == study.config
            and declaration.kind == "runs"
            and (declaration.study.name == study.name or not same_name)
        ]
        if not alike:
            continue
        rows, _ = store.read_rows(folder, "runs")
        frames = [store.collect(declaration, rows).frame for declaration in alike]
        frames = [frame for frame in frames if len(frame)]
        lacking = [frame for frame in frames if metric not in frame or frame[metric].isna().all()]
        if frames and len(lacking) == len(frames):
            known = [name for name in metrics_in(frames[0]) if frames[0][name].notna().any()]
            raise PlanError(
                f"{study.name} has no metric {metric!r}{meant(metric, known, 0.8)}; known: "
                f"{', '.join(known)}"
            )
        frames = [frame[np.isfinite(frame[metric])] for frame in frames if metric in frame]
        frames = [frame for frame in frames if frame["arm"].duplicated().any()]
        if frames:
            return max(frames, key=len), folder
    preset = f" --preset {study.preset}" if study.preset not in ("own", "quick") else ""
    where = f" --dataset {study.dataset}{preset}" if study.preset != "own" else ""
    name = study.name if study.preset != "own" else f"{study.name}.yaml"
    raise PlanError(
        f"no finished runs of {study.name} on {study.dataset} with these settings in {results} or "
        f"the shipped results, so their spread is unknown; a pilot: aba run {name}{where} "
        f"--seeds {PILOT_SEEDS} --results {results}"
    )
