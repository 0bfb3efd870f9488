"""Measure the engine against its peers and rewrite the tables of benchmarks/README.md.

    make bench                                  everything this machine has, CPU and GPU
    python -m benchmarks.bench --quick          a few minutes, prints only

Every figure is of contestants measured in turns in one run (`turns`), so that a busy machine slows
all. Timing leaves out data loading, initialisation, compilation and evaluation, and starts after a
warm-up.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from aba_core import kernels
from aba_core.replicas import STACKED_UP_TO
from aba_core.threads import usable_cores
from benchmarks import gpu, tables
from benchmarks.engine import measure_cost, measure_presets, timed
from benchmarks.growth import GROWTH, growth_plot, measure_growth
from benchmarks.peers import PEERS
from benchmarks.tables import Raced
from benchmarks.turns import ENGINE, FUSED, compete
from benchmarks.workloads import WORKLOADS, bytes_touched, copy_bandwidth, flops, sgemm_peak

TURN = 0.8  # seconds
QUICK_TURN = 0.3
# What there is to measure, and the marks of its place in benchmarks/README.md.
MARKS = {"race": "engine and peers", "engine": "measured on a CPU", "gpu": "measured on a GPU"}


def race(rounds: int, seconds: float, chosen: list[str]) -> list[Raced]:
    """All contestants on every workload. chosen: workloads by the beginnings of their names; none
    for all."""
    contestants = {ENGINE: True, FUSED: True} | {name: each for name, (_, each) in PEERS.items()}
    raced = []
    for workload in WORKLOADS:
        if chosen and not workload.name.lower().startswith(tuple(chosen)):
            continue
        rates, absent = compete(workload, contestants, rounds, seconds)
        raced.append(Raced(workload, rates, absent, flops(workload), bytes_touched(workload)))
        print(workload, {name: f"{raced[-1].rate(name):.4g}" for name in rates}, absent, flush=True)
    return raced


def race_report(rounds: int, quick: bool, chosen: list[str]) -> tuple[str, dict[str, object], str]:
    """The tables of engine and peers on a CPU, their raw figures, and what the front page says."""
    torch.set_num_threads(usable_cores())
    peak, bandwidth = sgemm_peak(timed), copy_bandwidth(timed)
    raced = race(rounds, QUICK_TURN if quick else TURN, chosen)
    device = (
        f"{_cores()}, sgemm {peak / 1e9:.0f} GFLOP/s and copying {bandwidth / 1e9:.0f} GB/s on all "
        "of them"
    )
    text = [
        tables.hardware(device, rounds),
        "### Engine and peers: model-steps a second with MendABA, target loss\n",
        tables.race_table(raced, list(PEERS)),
        "### How near to the machine's limits\n",
        tables.roofline_table(raced, peak, bandwidth),
    ]
    rows = [
        {**vars(one.workload), "rates": dict(one.rates), "absent": dict(one.absent)}
        for one in raced
    ]
    said = tables.sentence(raced, FUSED if kernels.DEFAULT else ENGINE)
    return "\n".join(text), {"race": rows, "sgemm": peak, "copying": bandwidth}, said


def _cores() -> str:
    return f"{tables.cpu_name()}, {usable_cores()} cores"


def engine_report(rounds: int, quick: bool) -> tuple[str, dict[str, object]]:
    """The tables of the engine alone on a CPU, and their raw figures."""
    torch.set_num_threads(usable_cores())
    cost, presets = measure_cost(rounds), measure_presets(rounds)
    growth = [] if quick else measure_growth()
    if growth:
        growth_plot(growth, tables.README.with_name("growth"))
    from_side, from_batch = (
        min(point[what] for point in GROWTH[name] if point[0] ** 2 * point[1] > STACKED_UP_TO)
        for what, name in enumerate(("image side", "batch"))
    )
    text = [
        tables.hardware(_cores(), rounds),
        "### Cost of ABA: step with MendABA over vanilla step (floor of two passes: 5/3)\n",
        "| data | batch | R | ratio | of it drawing, selecting and adjusting |\n"
        "|---|---|---|---|---|\n"
        + "".join(
            "| {data} | {batch} | {R} | {ratio:.2f} | {share:.1%} |\n".format(**row) for row in cost
        ),
        "### Cost of each preset on one vgg11, batch 20 of 32×32 pictures, all threads\n",
        "| preset | step over vanilla step |\n|---|---|\n"
        + "".join("| {preset} | {ratio:.2f} |\n".format(**row) for row in presets),
        "### Growth of time and memory (one process, one thread, small_cnn, MB above the start)\n",
        "![Time and memory per replica against replicas, arms, batch and image side](growth.svg)\n",
        f"Above {STACKED_UP_TO} input elements a batch (batch {from_batch}, side {from_side}) "
        "replicas go one by one: memory falls.\n",
        "| what grows | image side | batch | arms | R | ms a model-step | MB a replica |\n"
        "|---|---|---|---|---|---|---|\n"
        + "".join(
            "| {grows} | {side} | {batch} | {arms} | {R} | {ms:.2f} | {MB:.2f} |\n".format(**row)
            for row in growth
        ),
    ]
    return "\n".join(text), {"cost": cost, "presets": presets, "growth": growth}


def gpu_report(rounds: int) -> tuple[str, dict[str, object]]:
    """The table of what a GPU does, and its raw figures."""
    rows = gpu.measure_gpu(rounds)
    head = "### Engine against plain loop in the same precision, MendABA, target loss\n"
    device = torch.cuda.get_device_name()
    return "\n".join((tables.hardware(device, rounds), head, gpu.table(rows))), {"gpu": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="one short round, prints only")
    parser.add_argument("--only", choices=tuple(MARKS), help="default: all this machine has")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each measurement")
    parser.add_argument(
        "--workloads",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"beginnings of names, prints only: {', '.join(one.name for one in WORKLOADS)}",
    )
    parser.add_argument("--json", type=Path, help="write the raw figures here too")
    options = parser.parse_args()
    chosen = [name.lower() for name in options.workloads]
    for name in chosen:
        if not any(one.name.lower().startswith(name) for one in WORKLOADS):
            known = ", ".join(one.name for one in WORKLOADS)
            parser.error(f"no workload begins with {name!r}; known: {known}")
    if options.rounds < 1:
        parser.error(f"rounds is {options.rounds}; allowed: whole numbers from 1")
    rounds = 1 if options.quick else options.rounds
    here = [part for part in MARKS if part != "gpu" or torch.cuda.is_available()]
    if options.only and options.only not in here:
        parser.error("no GPU is visible to torch here")
    if chosen and options.only not in (None, "race"):
        parser.error(f"--workloads are those of the race, not of --only {options.only}")
    only = "race" if chosen else options.only
    figures: dict[str, object] = {}
    for part in [only] if only else here:
        said = ""
        if part == "race":
            report, found, said = race_report(rounds, options.quick, chosen)
        elif part == "engine":
            report, found = engine_report(rounds, options.quick)
        else:
            report, found = gpu_report(rounds)
        print(f"{report}\n{said}", flush=True)
        figures |= found
        if not (options.quick or chosen):
            tables.write_between_marks(tables.README, MARKS[part], report)
            if said:
                tables.write_between_marks(tables.FRONT, "speed", said)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
