"""Do the rules keep their promise? `make calibrate` measures how often verdicts are wrong.

Every case draws runs of arms whose true means lie at the edge of the claim, judges them as a study
would be (`rules.Judge`), and counts: *wrong support* where nothing is there, *wrong refutation*
where the effect is as large as the margin. Either may have .025. `python -m benchmarks.calibrate`
writes the table in docs/statistics.md; `short()` is the form that `make test` runs.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.comparisons import Grid
from analysis.hypothesis import Contrast, Hypothesis, Slope
from analysis.rules import Judge
from benchmarks import calibrate_crossed

Array = NDArray[np.float64]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "statistics.md"
ALLOWED = calibrate_crossed.ALLOWED
MARGIN = 0.5


# --- runs ----------------------------------------------------------------------------------------


def noise(rng: np.random.Generator, size: tuple[int, ...], shape: str) -> Array:
    """Noise of mean 0 and variance 1. "skewed": a reversed log-normal; "two modes": one run in five
    falls by four deviations."""
    normal = rng.standard_normal(size)
    if shape == "skewed":
        return np.asarray((math.exp(0.5) - np.exp(normal)) / math.sqrt((math.e - 1) * math.e))
    if shape == "two modes":
        fallen = rng.random(size) < 0.2
        return np.asarray((normal - 4 * fallen + 0.8) / math.sqrt(1 + 16 * 0.16))
    return normal


@dataclass(frozen=True)
class World:
    """How runs scatter: shape of the noise, of all arms or only the first; spreads of the arms (1);
    correlation of runs that share a seed; spread of the subsets' own levels, where each block is
    another subset; accuracies in steps."""

    n: int
    shape: str = "normal"
    first_only: bool = False
    spreads: tuple[float, ...] = ()
    together: float = 0.0
    subsets: float | None = None
    step: float = 0.0

    def draw(self, rng: np.random.Generator, arms: Sequence[str]) -> Grid:
        """Runs of arms with mean 0."""
        size = (self.n, len(arms))
        values = noise(rng, size, "normal" if self.first_only else self.shape)
        if self.first_only:
            values[:, 0] = noise(rng, (self.n,), self.shape)
        shared = rng.standard_normal((self.n, 1))
        values = math.sqrt(self.together) * shared + math.sqrt(1 - self.together) * values
        if self.spreads:
            spreads = np.ones(len(arms))
            spreads[: len(self.spreads)] = self.spreads
            values = values * spreads
        crossed = self.subsets is not None
        if crossed:
            values = values + self.subsets * rng.standard_normal((self.n, 1))
        blocks = np.arange(self.n)
        return Grid(tuple(arms), blocks if crossed else 0 * blocks, values)


@dataclass(frozen=True)
class Case:
    """One line of the table. nothing, enough: the arms' true means where nothing is there (or where
    too little is, for equivalence) and where the effect is worth having; None is not asked. truth:
    of the decisive comparison under `nothing`, for the coverage. known: why the promise is not kept
    here, where that is known and told."""

    method: str
    scenario: str
    world: World
    hypothesis: Hypothesis
    nothing: dict[str, float] | None
    enough: dict[str, float] | None
    truth: float | None = 0.0
    known: str = ""
    prepare: Callable[[np.random.Generator, Array], Array] | None = None


@dataclass(frozen=True)
class Result:
    """What a case came to: shares of the trials; NaN where not asked."""

    case: Case
    trials: int
    support: float
    refutation: float
    coverage: float
    width: float

    @property
    def worst(self) -> float:
        """The larger share of wrong verdicts."""
        return float(np.nanmax([self.support, self.refutation]))

    def fails(self, deviations: float = 1.645) -> bool:
        """Whether more verdicts are wrong than is allowed and chance gives so many trials."""
        return calibrate_crossed.beyond_chance(self.worst, self.trials, deviations)


def measure(case: Case, trials: int, seed: int = 0) -> Result:
    """Judge a case's hypothesis on so many draws."""
    rng = np.random.default_rng(seed)
    arms = sorted(case.hypothesis.arms)
    arms = [arm for arm in (case.nothing or case.enough or {}) if arm in arms]
    wrong = {"supported": 0, "refuted": 0}
    covered, widths = 0, 0.0
    for _ in range(trials):
        drawn = case.world.draw(rng, arms)
        if case.prepare is not None:
            drawn = replace(drawn, values=case.prepare(rng, drawn.values))
        for means, verdict in ((case.nothing, "supported"), (case.enough, "refuted")):
            if means is None:
                continue
            values = drawn.values + np.array([means[arm] for arm in arms])
            if case.world.step:
                values = (values / case.world.step).round() * case.world.step
            # Without what decides nothing and takes most of the time.
            judge = Judge(case.hypothesis, replace(drawn, values=values), rng, second_reading=False)
            wrong[verdict] += _judged(judge) == verdict
            if verdict == "supported" and case.truth is not None:
                interval = judge.bounds[0].interval()
                covered += interval.low <= case.truth <= interval.high
                widths += interval.high - interval.low
    asked = case.nothing is not None and case.truth is not None
    return Result(
        case,
        trials,
        wrong["supported"] / trials if case.nothing is not None else math.nan,
        wrong["refuted"] / trials if case.enough is not None else math.nan,
        covered / trials if asked else math.nan,
        widths / trials if asked else math.nan,
    )


def _judged(judge: Judge) -> str:
    """The verdict without its words. Raises AssertionError where it cannot be tested."""
    assert not judge.problem, judge.problem
    return judge.ruling(partial(judge.compare, judge.confidence)).verdict


# --- cases ---------------------------------------------------------------------------------------


def _claim(comparisons: Sequence[Contrast | Slope], **fields: object) -> Hypothesis:
    return Hypothesis(
        name="h",
        statement="It helps.",
        estimand="a difference",
        comparisons=tuple(comparisons),
        n=100,
        **{"margin": MARGIN, **fields},
    )


def _pair(a: str, b: str, **fields: bool) -> Contrast:
    return Contrast(label=f"{a} − {b}", weights={a: 1.0, b: -1.0}, **fields)


ONE_SIDED = "one arm's noise is one-sided and the other's is not; a note says so where it is seen"


def single() -> Iterator[Case]:
    """One arm against another."""
    worlds = [
        ("normal", World(0), ""),
        ("unequal spreads, 1 and 5", World(0, spreads=(5.0,)), ""),
        ("both skewed", World(0, shape="skewed"), ""),
        ("both two modes", World(0, shape="two modes"), ""),
        ("one skewed", World(0, shape="skewed", first_only=True), ONE_SIDED),
        ("one with two modes", World(0, shape="two modes", first_only=True), ONE_SIDED),
        ("ties: steps of one deviation", World(0, step=1.0), ""),
        ("seeds correlated .8, paired", World(0, together=0.8), ""),
        ("seeds correlated .8, not paired", World(0, together=0.8), ""),
        ("subsets spread 3", World(0, subsets=3.0), ""),
    ]
    for name, world, known in worlds:
        one = _claim([_pair("a", "b", paired=name.endswith(", paired"))])
        for n in (3, 5, 10, 40):
            yield Case(
                "single contrast",
                name,
                replace(world, n=n),
                one,
                {"a": 0.0, "b": 0.0},
                {"a": MARGIN, "b": 0.0},
                known=known,
            )


def families() -> Iterator[Case]:
    """At least k of m arms against one baseline, at the least favourable means."""
    far = 50.0
    for m, needed in ((2, 2), (5, 1), (5, 3), (5, 5), (26, 1), (26, 13), (26, 26)):
        family = [_pair(f"a{i}", "b") for i in range(m)]
        one = _claim(family, rule=f"at least {needed}")
        # Support is wrong where one too few hold; refutation where just enough do.
        nothing = {f"a{i}": far if i < needed - 1 else 0.0 for i in range(m)} | {"b": 0.0}
        enough = {f"a{i}": MARGIN if i < needed else -far for i in range(m)} | {"b": 0.0}
        worlds = (World(5), World(20), World(20, subsets=3.0)) if m < 26 else (World(10),)
        for world in worlds:
            crossed = ", subsets spread 3" * (world.subsets is not None)
            yield Case("rule", f"{needed} of {m}{crossed}", world, one, nothing, enough, None)


def best() -> Iterator[Case]:
    """A set against the best of k."""
    for k in (2, 9, 27):
        arms = [f"m{i}" for i in range(k)]
        one = _claim([Contrast(label="best", weights={"set": 1.0}, minus_best_of=(tuple(arms),))])
        apart = np.random.default_rng(0).standard_normal(k)
        kinds = {
            "ties": np.zeros(k),
            "one outlying": np.array([3.0] + [0.0] * (k - 1)),
            "one deviation apart": apart,
            "half a deviation from the best": np.array([0.5] + [0.0] * (k - 1)),
        }
        for name, means in kinds.items():
            level = {"set": float(means.max())} | dict(zip(arms, map(float, means), strict=True))
            more = level | {"set": level["set"] + MARGIN}
            for world in (World(5), World(20), World(20, subsets=3.0)):
                crossed = ", subsets spread 3" * (world.subsets is not None)
                yield Case("best of candidates", f"{k}, {name}{crossed}", world, one, level, more)
        spread = World(10, spreads=(1.0, 5.0, 5.0))
        level = {"set": 0.0} | dict.fromkeys(arms, 0.0)
        yield Case(
            "best of candidates", f"{k}, unequal spreads", spread, one, level, level | {"set": 0.5}
        )
        for shape in ("skewed", "two modes"):
            yield Case(
                "best of candidates",
                f"{k}, all {shape}",
                World(10, shape=shape),
                one,
                level,
                level | {"set": 0.5},
            )
    pairs = tuple((f"x{i}", f"y{i}") for i in range(13))
    mean = {f"p{i}": 1 / 13 for i in range(13)}
    one = _claim([Contrast(label="pairs", weights=mean, minus_best_of=pairs)], margin=0.25)
    for gap in (0.0, 0.3, 3.0):
        level = {f"{x}{i}": -gap if x == "y" else 0.0 for i in range(13) for x in "pxy"}
        more = {arm: v + 0.25 * (arm[0] == "p") for arm, v in level.items()}
        yield Case(
            "best of candidates", f"13 lists of 2, {gap:g} apart", World(10), one, level, more
        )


def equivalence() -> Iterator[Case]:
    """No difference worth speaking of."""
    for shape in ("normal", "two modes"):
        one = _claim([_pair("a", "b")], direction="equivalent", margin=1.0)
        for n in (3, 5, 20):
            edge = {"a": 1.0, "b": 0.0}
            yield Case("equivalence", shape, World(n, shape=shape), one, edge, edge, 1.0)
    two = _claim([_pair("a", "b"), _pair("a", "c")], direction="equivalent", margin=1.0)
    edge = {"a": 0.0, "b": -1.0, "c": 1.0}
    yield Case("equivalence", "both of 2", World(20), two, edge, edge, None)


def not_worse() -> Iterator[Case]:
    """A loss smaller than the margin."""
    one = _claim([_pair("a", "b")], direction="not worse")
    for n in (5, 20):
        edge = {"a": -MARGIN, "b": 0.0}
        yield Case("not worse", "normal", World(n), one, edge, edge, -MARGIN)


def spreads() -> Iterator[Case]:
    """Standard deviations of two arms that are the same, runs correlated within blocks."""
    smaller = Contrast(label="SDs", weights={"a": 1.0, "b": -1.0}, of="spread")
    one = _claim([smaller], direction="less", margin=10.0)
    for shape in ("normal", "skewed", "two modes"):
        for n in (10, 20, 40, 100):
            world = World(n, shape=shape, together=0.5, subsets=3.0)
            yield Case("spread", f"{shape}, in log %", world, one, {"a": 0.0, "b": 0.0}, None)


def by_groups() -> Iterator[Case]:
    """Groups of adjustments, the adjustment as the unit."""
    for sizes, spreads in (((4, 4), ()), ((4, 13), ()), ((9, 9), ()), ((4, 13), (3.0,) * 4)):
        arms = [f"a{i}" for i in range(sizes[0])] + [f"b{i}" for i in range(sizes[1])]
        weights = {arm: 1 / sizes[0] if arm[0] == "a" else -1 / sizes[1] for arm in arms}
        one = _claim([Contrast(label="groups", weights=weights, unit="adjustment")])
        level = dict.fromkeys(arms, 0.0)
        more = {arm: MARGIN * (arm[0] == "a") for arm in arms}
        wider = ", the smaller spread 3 times as wide" * bool(spreads)
        # One run an adjustment: the adjustments' own spread is what matters.
        name = f"{sizes[0]} against {sizes[1]}{wider}"
        yield Case("adjustments", name, World(1, spreads=spreads), one, level, more)


def slopes() -> Iterator[Case]:
    """Opposition's slope over sets, with the size held; set effects of half a deviation."""
    rng = np.random.default_rng(0)
    size, offset = rng.integers(1, 4, 40), rng.standard_normal(40)
    opposed = rng.integers(0, 3, 40) / 2 * (np.abs(offset) < 1)
    covariates = {
        f"s{i}": {"opposition": o, "size": float(s), "offset": x}
        for i, (s, o, x) in enumerate(zip(size, opposed.tolist(), offset.tolist(), strict=True))
    }
    curve = {f"s{i}": -0.5 * float(x) ** 2 for i, x in enumerate(offset)}

    def of_sets(rng: np.random.Generator, drawn: Array) -> Array:
        return drawn + 0.5 * rng.standard_normal(drawn.shape[1])

    def also_of_subsets(rng: np.random.Generator, drawn: Array) -> Array:
        steeper = rng.standard_normal((len(drawn), 1)) * opposed
        return of_sets(rng, drawn) + steeper

    flat = dict.fromkeys(covariates, 0.0)
    for name, world, squares, level, prepare, known in (
        ("4 seeds", World(4), (), flat, of_sets, ""),
        ("one with two modes", World(4, shape="two modes"), (), flat, of_sets, ""),
        ("10 subsets spread 3", World(10, subsets=3.0), (), flat, of_sets, ""),
        ("10 subsets, slopes spread 1", World(10, subsets=3.0), (), flat, also_of_subsets, ""),
        ("curved, squares declared", World(4), ("offset",), curve, of_sets, ""),
        (
            "curved, squares not declared",
            World(4),
            (),
            curve,
            of_sets,
            "the declared model is wrong; the lack of fit is told",
        ),
    ):
        slope = Slope(label="t", term="opposition", covariates=covariates, squares=squares)
        more = {arm: level[arm] + MARGIN * covariates[arm]["opposition"] for arm in level}
        yield Case(
            "slope over 40 sets",
            name,
            world,
            _claim([slope]),
            level,
            more,
            known=known,
            prepare=prepare,
        )


CASES = (single, families, best, equivalence, not_worse, spreads, by_groups, slopes)


# --- looks and many hypotheses -------------------------------------------------------------------


PLANS = ((5, True), (10, True), (5, False))  # looks, and whether they are declared


def looks(
    trials: int,
    seed: int = 0,
    total: int = 40,
    plans: Sequence[tuple[int, bool]] = PLANS,
) -> list[tuple[str, float, float, float]]:
    """Judged again and again while subsets are added, stopping at the first verdict: name, wrong
    support, wrong refutation, and the share of the planned blocks that was needed to tell an
    effect of 1.5 deviations."""
    rows = []
    for count, declared in plans:
        one = _claim([_pair("a", "b")], looks=count if declared else 0).model_copy(
            update={"n": total}
        )
        rng = np.random.default_rng(seed)
        wrong, used = {"supported": 0, "refuted": 0}, 0.0
        for _ in range(trials):
            drawn = World(total, subsets=3.0).draw(rng, ("a", "b"))
            for effect, verdict in ((0.0, "supported"), (MARGIN, "refuted"), (1.5, "")):
                values = drawn.values + np.array([effect, 0.0])
                for look in range(1, count + 1):
                    there = total * look // count
                    part = Grid(drawn.arms, drawn.subset[:there], values[:there])
                    found = _judged(Judge(one, part, rng, second_reading=False))
                    if found == verdict or (not verdict and found != "inconclusive"):
                        break
                else:
                    look, found = count, ""
                if verdict:
                    wrong[verdict] += found == verdict
                else:
                    used += look / count
        shares = (wrong["supported"] / trials, wrong["refuted"] / trials, used / trials)
        name = f"{count} looks, {'declared' if declared else 'each at the full level'}"
        rows.append((name, *shares))
    return rows


# --- the table -----------------------------------------------------------------------------------

# What `make test` measures: a few cases of each kind.
SHORT = {
    ("single contrast", "normal", 5),
    ("single contrast", "both two modes", 10),
    ("single contrast", "subsets spread 3", 10),
    ("rule", "1 of 5", 20),
    ("rule", "5 of 5", 20),
    ("rule", "3 of 5", 5),
    ("best of candidates", "9, ties", 5),
    ("best of candidates", "9, one deviation apart", 20),
    ("equivalence", "normal", 5),
    ("not worse", "normal", 5),
    ("spread", "normal, in log %", 20),
    ("slope over 40 sets", "10 subsets, slopes spread 1", 10),
    ("adjustments", "4 against 13", 1),
}


def cases() -> list[Case]:
    """Every case of the table."""
    return [case for kind in CASES for case in kind()]


def short(trials: int = 120) -> list[Result]:
    """The short form: few cases, few draws."""
    chosen = [c for c in cases() if (c.method, c.scenario, c.world.n) in SHORT]
    assert len(chosen) == len(SHORT), "a case of the short form is gone"
    return [measure(case, trials) for case in chosen]


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}".removeprefix("0")


def table(
    results: Sequence[Result],
    crossed: Sequence[calibrate_crossed.Line],
    looked: Sequence[tuple[str, float, float, float]],
) -> str:
    """The table in Markdown."""
    lines = [
        "| Method | Scenario | n | Wrong support | Wrong refutation | Coverage | Width |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        case = result.case
        mark = " **†**" if result.fails() else ""
        width = "–" if math.isnan(result.width) else f"{result.width:.2f}"
        lines.append(
            f"| {case.method} | {case.scenario}{mark} | {case.world.n} | {_share(result.support)} "
            f"| {_share(result.refutation)} | {_share(result.coverage)} | {width} |"
        )
    for line in crossed:
        mark = " **†**" if line.fails() else ""
        lines.append(
            f"| {line.method} | {line.scenario}{mark} | {line.n} | {_share(line.support)} "
            f"| {_share(line.refutation)} | {_share(line.coverage)} | {line.width:.2f} |"
        )
    for name, support, refutation, used in looked:
        mark = " **†**" if max(support, refutation) > 0.035 else ""
        needed = f"{100 * used:.0f} % of the blocks for an effect of 1.5"
        lines.append(
            f"| looks | {name}; {needed}{mark} | 40 | {_share(support)} | {_share(refutation)} "
            "| – | – |"
        )
    return "\n".join(lines)


BEGIN, END = "<!-- calibration: begin -->", "<!-- calibration: end -->"


def write(page: Path, text: str) -> None:
    """Put the table between its marks."""
    old = page.read_text(encoding="utf-8")
    place = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.S)
    if not place.search(old):
        raise SystemExit(f"{page} lacks the marks {BEGIN} and {END}")
    page.write_text(place.sub(lambda _: f"{BEGIN}\n{text}\n{END}", old), encoding="utf-8")


def main() -> None:
    """Measure every case and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--only", default="", help="measure the methods of this name and print")
    given = parser.parse_args()
    started = time.perf_counter()
    chosen = [case for case in cases() if given.only in case.method]
    with ProcessPoolExecutor(given.workers) as pool:
        looked = pool.submit(looks, given.trials) if not given.only else None
        crossed = [
            pool.submit(calibrate_crossed.lines, given.trials, (one,))
            for method, of_method in calibrate_crossed.LINES.items()
            if given.only in method
            for one in of_method
        ]
        numbers = range(len(chosen))
        results = list(
            pool.map(_numbered, numbers, [given.only] * len(chosen), [given.trials] * len(chosen))
        )
        own = [line for one in crossed for line in one.result()]
        rows = table(results, own, looked.result() if looked else [])
    failed = [
        (r.case.method, r.case.scenario, r.worst) for r in results if r.fails() and not r.case.known
    ]
    failed += [(line.method, line.scenario, line.worst) for line in own if line.fails()]
    seconds = time.perf_counter() - started
    said = f"{given.trials:,} draws a line, {seconds / 60:.0f} minutes."
    print(rows, said, sep="\n\n")
    if not given.only:
        write(given.page, f"{rows}\n\n{said}")
    for method, scenario, worst in failed:
        print(f"beyond chance: {method}, {scenario}, {worst:.3f}")


def _numbered(number: int, only: str, trials: int) -> Result:
    """One case by its number: cases hold functions, which do not travel between processes."""
    result = measure([case for case in cases() if only in case.method][number], trials)
    return replace(result, case=replace(result.case, prepare=None))


if __name__ == "__main__":
    main()
