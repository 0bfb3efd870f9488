"""Measure what each method costs: its training step over Vanilla's, for every kind there is.

    OMP_NUM_THREADS=1 python -m benchmarks.methods [--only KIND ...]
    OMP_NUM_THREADS=1 python -m benchmarks.methods --maps    # ABA with every attribution map

Digits' shape, the small CNN with batch norm, seven replicas side by side, one thread; processor
time, in turns with Vanilla; medians, and the range of the turns' own ratios. Word dropout is
measured on texts of 64 tokens × 8 with the text CNN. Loading, initialisation and the first quarter
of the steps are left out. Rewrites the table in benchmarks/README.md; with --only, the rows of
those kinds, and the others stay.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from aba_core import METHODS, Arm, TrainConfig, train
from aba_core.attribution import MAPS
from aba_core.methods.base import method_of, stand_ins
from benchmarks.workloads import made_up

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- cost of each method: begin -->", "<!-- cost of each method: end -->"
MAPS_BEGIN, MAPS_END = "<!-- cost of each map: begin -->", "<!-- cost of each map: end -->"
SAMPLES = 8  # of maps that average over them, as in the study of maps
STEPS, BATCH, REPLICAS = 40, 32, 7
PICTURES, TEXTS = (1, 8, 8), (64, 8)


def seconds(method: Any, shape: tuple[int, ...]) -> float:
    """Processor seconds of a model-step."""
    splits = made_up(shape)
    config = TrainConfig(
        model="small_cnn" if len(shape) == 3 else "text_cnn",
        batch_norm=True,
        batch_size=BATCH,
        epochs=STEPS * BATCH / len(splits.train),
    )
    times: list[float] = []
    train(
        config, [Arm("a", method)], range(REPLICAS), "cpu",
        splits=splits, progress=lambda _: times.append(time.process_time()),
    )  # fmt: skip
    warm = len(times) // 4
    return (times[-1] - times[warm]) / (len(times) - 1 - warm) / REPLICAS


def rows(turns: int, only: Sequence[str]) -> dict[str, str]:
    """The table's rows, by kind."""
    lines = {}
    seconds(None, PICTURES)
    for kind in only:
        info = METHODS[kind]
        given: dict[str, Any] = {"kind": kind, **stand_ins(kind)}
        shape = TEXTS if kind == "word-dropout" else PICTURES
        method = method_of(given)
        assert method is not None
        pairs = [(seconds(None, shape), seconds(given, shape)) for _ in range(turns)]
        ratios = sorted(after / before for before, after in pairs)
        lines[kind] = (
            f"| {info.title} | `{kind}` | {method.passes():g} "
            f"| **{statistics.median(ratios):.2f}** [{ratios[0]:.2f}, {ratios[-1]:.2f}] |"
        )
        print(lines[kind], flush=True)
    return lines


def rows_of_maps(turns: int) -> list[str]:
    """The rows of ABA with every map, and with lagged ones."""
    lines = []
    seconds(None, PICTURES)
    arms: dict[str, dict[str, Any]] = {str(name): {"attribution": name} for name in MAPS}
    for name, given in {"gradient, lagged": {"lagged": True}, **arms}.items():
        method = method_of(
            {"kind": "aba", "adjustments": "all", "target": "loss", **given}
            | {"attribution_samples": SAMPLES}
        )
        assert method is not None
        pairs = [(seconds(None, PICTURES), seconds(method, PICTURES)) for _ in range(turns)]
        ratios = sorted(after / before for before, after in pairs)
        lines.append(
            f"| `{name}` | {method.passes():.3g} "
            f"| **{statistics.median(ratios):.2f}** [{ratios[0]:.2f}, {ratios[-1]:.2f}] |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--maps", action="store_true", help="of maps in place of methods")
    parser.add_argument("--only", nargs="+", choices=list(METHODS), metavar="KIND")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    begin, end = (MAPS_BEGIN, MAPS_END) if chosen.maps else (BEGIN, END)
    text = README.read_text(encoding="utf-8")
    present = text.partition(begin)[2].partition(end)[0].strip().splitlines()
    said = (
        f"Measured on {time.strftime('%Y-%m-%d')}, torch {torch.__version__}, one thread; medians "
        f"of {chosen.turns} turns, ranges in brackets."
    )
    if chosen.maps:
        head = ["| map | passes a step | step over Vanilla's |", "|---|---|---|"]
        lines = rows_of_maps(chosen.turns)
    else:
        head = ["| method | kind | passes a step | step over Vanilla's |", "|---|---|---|---|"]
        kept = {line.split("`")[1]: line for line in present if line.count("`") == 2}
        every = {**kept, **rows(chosen.turns, chosen.only or list(METHODS))}
        lines = [every[kind] for kind in METHODS if kind in every]
        if chosen.only:
            said = "\n".join(line for line in present if line and not line.startswith("|"))
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    table = "\n".join([said, "", *head, *lines])
    README.write_text(f"{before}{begin}\n{table}\n{end}{after}", "utf-8")


if __name__ == "__main__":
    main()
