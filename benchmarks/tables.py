"""Tables of what was measured, and their places in benchmarks/README.md and README.md."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.turns import ENGINE, FUSED
from benchmarks.workloads import Workload

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "benchmarks" / "README.md"
FRONT = ROOT / "README.md"
_LOAD = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # before anything is measured


@dataclass(frozen=True)
class Raced:
    """What came of one workload. rates: model-steps a second of each round. absent: why others took
    no part. flops, bytes: of a model-step."""

    workload: Workload
    rates: Mapping[str, Sequence[float]]
    absent: Mapping[str, str]
    flops: float
    bytes: float
    engines: tuple[str, ...] = field(default=(ENGINE, FUSED))

    def rate(self, name: str) -> float:
        return statistics.median(self.rates[name])

    def ratios(self, engine: str, peer: str) -> list[float]:
        """Engine over peer in each round."""
        return [a / b for a, b in zip(self.rates[engine], self.rates[peer], strict=True)]

    def hardest(self) -> str:
        """The fastest of the peers."""
        return max((name for name in self.rates if name not in self.engines), key=self.rate)

    def lead(self, engine: str) -> float:
        """How many times as fast as the fastest peer, the median of the rounds."""
        return statistics.median(self.ratios(engine, self.hardest()))


def race_table(raced: Sequence[Raced], peers: Sequence[str]) -> str:
    """A row a workload: model-steps a second, engine over each peer, engine over the fastest."""
    lines = [
        "| data | model | batch | R | engine, model-steps/s | with fused blocks "
        + "".join(f"| {peer} " for peer in peers)
        + "| fastest peer | engine over it | with fused blocks |",
        "|---" * (9 + len(peers)) + "|",
    ]
    for one in raced:
        cells = [_rate(one, name) for name in one.engines]
        for peer in peers:
            cells.append(_rate(one, peer))
        cells.append(one.hardest())
        for name in one.engines:
            if name in one.rates:
                ratios = one.ratios(name, one.hardest())
                cells.append(f"**{one.lead(name):.2f}** [{min(ratios):.2f}, {max(ratios):.2f}]")
            else:
                cells.append("–")
        work = one.workload
        lead = [work.name, work.model, str(work.batch), str(work.replicas)]
        lines.append("| " + " | ".join([*lead, *cells]) + " |")
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in raced:
        for name, reason in one.absent.items():
            place = f"{one.workload.name} {one.workload.batch}"
            reasons.setdefault((name, reason), []).append(place)
    lines += [""] + [
        f"- {name} took no part ({'; '.join(places)}): {reason}"
        for (name, reason), places in reasons.items()
    ]
    return "\n".join(lines) + "\n"


def _rate(one: Raced, name: str) -> str:
    """Three figures, without an exponent."""
    if name not in one.rates:
        return "–"
    rate = one.rate(name)
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def roofline_table(raced: Sequence[Raced], sgemm: float, bandwidth: float) -> str:
    """What a model-step consists of, and the shares of the machine's two limits that it uses."""
    lines = [
        "| data | model | batch | GFLOP | MB | share of sgemm | with fused blocks "
        "| share of copying | with fused blocks |",
        "|---" * 9 + "|",
    ]
    for one in raced:
        shares = [
            f"{amount * one.rate(name) / limit:.0%}" if name in one.rates else "–"
            for amount, limit in ((one.flops, sgemm), (one.bytes, bandwidth))
            for name in one.engines
        ]
        work = one.workload
        amounts = [f"{one.flops / 1e9:.3g}", f"{one.bytes / 1e6:.3g}"]
        lead = [work.name, work.model, str(work.batch)]
        lines.append("| " + " | ".join([*lead, *amounts, *shares]) + " |")
    return "\n".join(lines) + "\n"


def sentence(raced: Sequence[Raced], engine: str) -> str:
    """What the front page says: the engine as it is by default, over the fastest peer, where it
    leads by least and by most."""
    ends = [
        min(raced, key=lambda one: one.lead(engine)),
        max(raced, key=lambda one: one.lead(engine)),
    ]
    told = " to ".join(
        f"{one.lead(engine):.2f} times ({one.workload.name.split(',')[0]}, batch "
        f"{one.workload.batch}: {one.hardest()})"
        for one in ends
    )
    return (
        f"With MendABA on a CPU, the engine makes {told} as\nmany model-steps a second as the "
        "fastest of five other ways to train the same models, which is named.\n"
        f"That is over {len(raced)} workloads ([how it was measured](benchmarks/README.md)).\n"
    )


def cpu_name() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"without {package}"


def hardware(device: str, rounds: int) -> str:
    """On what, with what, how often, and how busy the machine was besides."""
    load = f"; load before {_LOAD:.1f}" if _LOAD is not None else ""
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {device}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, {installed('numpy')}, {installed('jax')}; medians of {rounds} "
        f"turns, ranges in brackets{load}.\n"
    )


def write_between_marks(path: Path, part: str, text: str) -> None:
    """Put a text into its place in a file; what was measured elsewhere stays."""
    begin, end = (f"<!-- {part}: {word} -->" for word in ("begin", "end"))
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    if not found or end not in rest:
        raise ValueError(f"{path} lacks the marks {begin} and {end}")
    after = rest.partition(end)[2]
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
