"""Measure what each method costs: its training step over Vanilla's, for every kind there is.

    OMP_NUM_THREADS=1 python -m benchmarks.methods [--only KIND ...]
    OMP_NUM_THREADS=1 python -m benchmarks.methods --maps [--only MAP ...]    # ABA with every map

Digits' shape, the small CNN with batch norm, seven replicas side by side, one thread; processor
time, in turns with Vanilla; medians, and the range of the turns' own ratios. Word dropout is
measured on texts of 64 tokens × 8 with the text CNN. Loading, initialisation and the first quarter
of the steps are left out. Rewrites the table in benchmarks/README.md row by row, so that a run cut
short leaves what it measured; with --only, the rows named, and the others stay.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from aba_core import METHODS, Arm, TrainConfig, attribution_captum, train
from aba_core.attribution import MAPS
from aba_core.methods.base import method_of, stand_ins
from benchmarks.workloads import made_up

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- cost of each method: begin -->", "<!-- cost of each method: end -->"
MAPS_BEGIN, MAPS_END = "<!-- cost of each map: begin -->", "<!-- cost of each map: end -->"
LAGGED = "gradient, lagged"
SAMPLES = 8  # of maps that average over them, as in the study of maps
# Captum explains one sample at a time: milliseconds each.
CAPTUM = {f"attribution_captum:{name}": name for name in attribution_captum.METHODS}
STEPS, CAPTUM_STEPS, BATCH, REPLICAS = 40, 4, 32, 7
PICTURES, TEXTS = (1, 8, 8), (64, 8)


def seconds(method: Any, shape: tuple[int, ...], steps: int = STEPS) -> float:
    """Processor seconds of a model-step."""
    splits = made_up(shape)
    config = TrainConfig(
        model="small_cnn" if len(shape) == 3 else "text_cnn",
        batch_norm=True,
        batch_size=BATCH,
        epochs=steps * BATCH / len(splits.train),
    )
    times: list[float] = []
    train(
        config, [Arm("a", method)], range(REPLICAS), "cpu",
        splits=splits, progress=lambda _: times.append(time.process_time()),
    )  # fmt: skip
    warm = len(times) // 4
    return (times[-1] - times[warm]) / (len(times) - 1 - warm) / REPLICAS


def rows(turns: int, kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each kind with its row of the table."""
    seconds(None, PICTURES)
    for kind in kinds:
        given: dict[str, Any] = {"kind": kind, **stand_ins(kind)}
        shape = TEXTS if kind == "word-dropout" else PICTURES
        yield kind, f"| {METHODS[kind].title} {row(kind, method_of(given), shape, turns)}"


def rows_of_maps(turns: int, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each map, or lagged ones, with the row of ABA with it."""
    seconds(None, PICTURES)
    for name in names:
        used = {"use": f"{attribution_captum.__name__}:{CAPTUM[name]}"} if name in CAPTUM else name
        own = {"lagged": True} if name == LAGGED else {"attribution": used}
        given = {"kind": "aba", "adjustments": "all", "target": "loss", **own}
        method = method_of({**given, "attribution_samples": SAMPLES})
        yield name, row(name, method, PICTURES, turns, CAPTUM_STEPS if name in CAPTUM else STEPS)


def row(name: str, method: Any, shape: tuple[int, ...], turns: int, steps: int = STEPS) -> str:
    """What a method's step takes over Vanilla's, in turns: the end of a row of the table."""
    pairs = [(seconds(None, shape), seconds(method, shape, steps)) for _ in range(turns)]
    ratios = sorted(after / before for before, after in pairs)
    return (
        f"| `{name}` | {method.passes():.3g} "
        f"| **{statistics.median(ratios):.2f}** [{ratios[0]:.2f}, {ratios[-1]:.2f}] |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--maps", action="store_true", help="of maps in place of methods")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="kinds of methods, or maps")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    names = [LAGGED, *map(str, MAPS), *CAPTUM] if chosen.maps else list(METHODS)
    for name in chosen.only or ():
        if name not in names:
            parser.error(f"unknown name {name!r}; known: {', '.join(names)}")
    begin, end = (MAPS_BEGIN, MAPS_END) if chosen.maps else (BEGIN, END)
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    present, _, after = rest.partition(end)
    lines = {line.split("`")[1]: line for line in present.splitlines() if line.count("`") == 2}
    said = "\n".join(line for line in present.strip().splitlines() if not line.startswith("|"))
    if not chosen.only:
        lines = {}
        said = (
            f"Measured on {time.strftime('%Y-%m-%d')}, torch {torch.__version__}, one thread of a "
            f"machine busy with other work; medians of {chosen.turns} turns, ranges in brackets.\n"
        )
    head = ["| map | passes a step | step over Vanilla's |", "|---|---|---|"]
    if not chosen.maps:
        head = ["| method | kind | passes a step | step over Vanilla's |", "|---|---|---|---|"]
    measured = (rows_of_maps if chosen.maps else rows)(chosen.turns, chosen.only or names)
    for name, line in measured:
        print(line, flush=True)
        lines[name] = line
        table = "\n".join([said, *head, *(lines[one] for one in names if one in lines)])
        README.write_text(f"{before}{begin}\n{table}\n{end}{after}", "utf-8")


if __name__ == "__main__":
    main()
