"""Measure what each method costs: its training step over Vanilla's, for every kind there is.

    OMP_NUM_THREADS=1 python -m benchmarks.methods [--only KIND ...]
    OMP_NUM_THREADS=1 python -m benchmarks.methods --maps [--only MAP ...]    # ABA with every map
    OMP_NUM_THREADS=1 python -m benchmarks.methods --maps --data mnist        # as the study trains

Digits' shape, the small CNN with batch norm, seven replicas side by side, one thread; processor
time, in turns with Vanilla; medians, and the range of the turns' own ratios. Word dropout is
measured on texts of 64 tokens × 8 with the text CNN. Loading, initialisation and the first quarter
of the steps are left out. With --data, shape, model, batch and replicas are those of the study of
maps on that data. Rewrites the tables in benchmarks/README.md row by row, so that a run cut short
leaves what it measured; with --only, the rows named, and the others stay.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from aba_core import METHODS, Arm, TrainConfig, attribution_captum, train
from aba_core.attribution import MAPS
from aba_core.methods.base import method_of, stand_ins
from analysis.studies.attributions import SHARE
from analysis.study import settings_of
from benchmarks.workloads import Workload, made_up

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- cost of each method: begin -->", "<!-- cost of each method: end -->"
MAPS_BEGIN, MAPS_END = "<!-- cost of each map: begin -->", "<!-- cost of each map: end -->"
STUDIED_BEGIN, STUDIED_END = (
    f"<!-- cost of each map as studied: {end} -->" for end in ("begin", "end")
)
LAGGED = "gradient, lagged"
SAMPLES = 8  # of maps that average over them, as in the study of maps
# Captum explains one sample at a time: milliseconds each.
CAPTUM = {f"attribution_captum:{name}": name for name in attribution_captum.METHODS}
STEPS, CAPTUM_STEPS = 40, 4
PICTURES = Workload("digits", "small_cnn", (1, 8, 8), 32, 7)
TEXTS = Workload("texts", "text_cnn", (64, 8), 32, 7)
# Where the study of maps has run: the preset it ran with, a sample's shape, and steps a turn.
AS_STUDIED = {
    "digits": ("standard", (1, 8, 8), 60),
    "mnist": ("standard", (1, 28, 28), 40),
    "cifar10": ("standard", (3, 32, 32), 12),
    "news": ("reduced", (100, 100), 16),
}


def as_studied(data: str) -> Workload:
    """What a chunk of the study of maps trains: seeds of one subset with one map."""
    preset, shape, _ = AS_STUDIED[data]
    config = settings_of(data, preset).config
    assert not config.get("batch_norm") and config.get("tokens", shape[0]) == shape[0]
    return Workload(data, config["model"], shape, config["batch_size"], SHARE[preset])


def seconds(method: Any, work: Workload, steps: int = STEPS) -> float:
    """Processor seconds of a model-step."""
    splits = made_up(work.shape)
    config = TrainConfig(
        model=work.model,
        batch_norm=work in (PICTURES, TEXTS),
        batch_size=work.batch,
        epochs=steps * work.batch / len(splits.train),
    )
    times: list[float] = []
    train(
        config, [Arm("a", method)], range(work.replicas), "cpu",
        splits=splits, progress=lambda _: times.append(time.process_time()),
    )  # fmt: skip
    warm = len(times) // 4
    return (times[-1] - times[warm]) / (len(times) - 1 - warm) / work.replicas


def rows(turns: int, kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each kind with its row of the table."""
    seconds(None, PICTURES)
    for kind in kinds:
        given: dict[str, Any] = {"kind": kind, **stand_ins(kind)}
        work = TEXTS if kind == "word-dropout" else PICTURES
        yield kind, f"| {METHODS[kind].title} {row(kind, method_of(given), work, turns)}"


def with_map(name: str) -> Any:
    """ABA with a map of this name, or with lagged ones."""
    used = {"use": f"{attribution_captum.__name__}:{CAPTUM[name]}"} if name in CAPTUM else name
    own = {"lagged": True} if name == LAGGED else {"attribution": used}
    given = {"kind": "aba", "adjustments": "all", "target": "loss", **own}
    return method_of({**given, "attribution_samples": SAMPLES})


def rows_of_maps(turns: int, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each map, or lagged ones, with the row of ABA with it."""
    seconds(None, PICTURES)
    for name in names:
        steps = CAPTUM_STEPS if name in CAPTUM else STEPS
        yield name, row(name, with_map(name), PICTURES, turns, steps)


def rows_as_studied(
    turns: int, names: Sequence[str], data: str, present: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Each map with its row of the table whose columns are data sets. present: the rows that there
    are; what they say of other data stays."""
    work, steps = as_studied(data), AS_STUDIED[data][2]
    seconds(None, work, steps)
    for name in names:
        cells = dict.fromkeys(AS_STUDIED, "")
        said = present.get(name, "").split("|")[2:-1]
        cells.update(zip(AS_STUDIED, map(str.strip, said), strict=False))
        cells[data] = ratio(with_map(name), work, turns, steps)
        yield name, f"| `{name}` | {' | '.join(cells.values())} |"


def row(name: str, method: Any, work: Workload, turns: int, steps: int = STEPS) -> str:
    """The end of a row of the table: counted passes, and what was measured."""
    return f"| `{name}` | {method.passes():.3g} | {ratio(method, work, turns, steps)} |"


def ratio(method: Any, work: Workload, turns: int, steps: int) -> str:
    """What a method's step takes over Vanilla's, in turns."""
    pairs = [(seconds(None, work, steps), seconds(method, work, steps)) for _ in range(turns)]
    ratios = sorted(after / before for before, after in pairs)
    return f"**{statistics.median(ratios):.2f}** [{ratios[0]:.2f}, {ratios[-1]:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--maps", action="store_true", help="of maps in place of methods")
    parser.add_argument("--data", choices=AS_STUDIED, help="with --maps: as the study trains there")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="kinds of methods, or maps")
    chosen = parser.parse_args()
    if chosen.data and not chosen.maps:
        parser.error("--data goes with --maps alone")
    torch.set_num_threads(1)
    names = [LAGGED, *map(str, MAPS), *CAPTUM] if chosen.maps else list(METHODS)
    names = names[: -len(CAPTUM)] if chosen.data else names
    for name in chosen.only or ():
        if name not in names:
            parser.error(f"unknown name {name!r}; known: {', '.join(names)}")
    begin, end = (MAPS_BEGIN, MAPS_END) if chosen.maps else (BEGIN, END)
    if chosen.data:
        begin, end = STUDIED_BEGIN, STUDIED_END
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    present, _, after = rest.partition(end)
    lines = {line.split("`")[1]: line for line in present.splitlines() if line.count("`") == 2}
    said = "\n".join(line for line in present.strip().splitlines() if not line.startswith("|"))
    turns, asked = chosen.turns, chosen.only or names
    if not chosen.only:
        said = (
            f"Measured on {time.strftime('%Y-%m-%d')}, torch {torch.__version__}, one thread of a "
            f"machine busy with other work; medians of {turns} turns, ranges in brackets.\n"
        )
        lines = lines if chosen.data else {}
    if chosen.data:
        head = ["| map |" + "".join(f" {data} |" for data in AS_STUDIED)]
        measured = rows_as_studied(turns, asked, chosen.data, dict(lines))
    elif chosen.maps:
        head = ["| map | passes a step | step over Vanilla's |"]
        measured = rows_of_maps(turns, asked)
    else:
        head = ["| method | kind | passes a step | step over Vanilla's |"]
        measured = rows(turns, asked)
    head.append("|---" * (head[0].count("|") - 1) + "|")
    for name, line in measured:
        print(line, flush=True)
        lines[name] = line
        table = "\n".join([said, *head, *(lines[one] for one in names if one in lines)])
        README.write_text(f"{before}{begin}\n{table}\n{end}{after}", "utf-8")


if __name__ == "__main__":
    main()
