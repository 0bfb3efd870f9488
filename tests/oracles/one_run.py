"""A training of one model in a process of its own, that tests kill, or start as several ranks.

    python one_run.py OUT [--checkpoint FILE] [--stop-at STEP] [--method KIND] [--seed N]

Writes {rows, parameters} to OUT. stop-at: the process is killed by SIGKILL after that step.
"""

import argparse
import os
import signal
from pathlib import Path

import torch
from oracles.plain_loop import flat_parameters
from oracles.tiny_data import make_splits

from aba_core import Arm, TrainConfig, train
from aba_core.identity import load


def config(**changes) -> TrainConfig:
    trainer = {"kind": "single", "checkpoint_every": 3, "ema": 0.9, **changes.pop("trainer", {})}
    usual = {"epochs": 4, "batch_size": 6, "dtype": "float64", "curve_every": 4, "model": "mlp"}
    return TrainConfig(**{**usual, "optimizer": "adam", "trainer": trainer, **changes})


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--stop-at", type=int, default=0)
    parser.add_argument("--method", default="mendaba")
    parser.add_argument("--model", default="mlp")
    given = parser.parse_args()
    done = 0

    def count(steps: int) -> None:
        nonlocal done
        done += steps
        if done == given.stop_at:
            os.kill(os.getpid(), signal.SIGKILL)

    splits = make_splits((1, 6, 6), sizes=(26, 9, 7))
    dropout = load("oracles.one_run:with_dropout") if given.model == "dropout" else None
    runs = train(
        config(), [Arm("a", given.method)], [5], splits=splits, progress=count, build=dropout,
        checkpoints={("a", 5): given.checkpoint} if given.checkpoint else None,
    )  # fmt: skip
    if int(os.environ.get("RANK", "0")) == 0:
        rows = [{n: v for n, v in row.items() if n != "seconds"} for row in runs.rows]
        curves = [{n: v for n, v in row.items() if n != "seconds"} for row in runs.curve_rows]
        parameters = flat_parameters(runs.model("a", 5))
        torch.save({"rows": rows, "curves": curves, "parameters": parameters}, given.out)
    if torch.distributed.is_initialized():  # together: a rank that others still ask must not end
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def with_dropout() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(36, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)
    )


if __name__ == "__main__":
    main()
