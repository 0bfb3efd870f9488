"""ABA in a training of two processes: each draws changes of its own, and the models stay equal."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from aba_core import ABA, Augmentation


def processes_of(rank: int, folder: str) -> None:
    """One of two processes: with seeds by rank, then with one seed for both."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    left = {"own": trained(rank, seed=7 + rank), "same": trained(rank, seed=7)}
    torch.save(left, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def trained(rank: int, seed: int) -> dict[str, torch.Tensor]:
    """Five steps on batches of its own half of the data."""
    torch.manual_seed(0)
    x, y = torch.randn(40, 6), torch.arange(40) % 3
    model = DistributedDataParallel(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # Both members move all features alike, so that the change shows the draws and nothing else.
    aba = ABA(Augmentation("19,26", 0.5, randomize=True), seed=seed)
    moved = []
    for step in range(5):
        rows = torch.arange(4) + 8 * step + 4 * rank
        changed = aba(model.module, x[rows], y[rows])
        moved.append((changed - x[rows])[:, 0])
        optimizer.zero_grad()
        cross_entropy(model(changed), y[rows]).backward()
        optimizer.step()
    weights = nn.utils.parameters_to_vector(model.parameters()).detach()
    return {"moved": torch.cat(moved), "weights": weights}


def test_ranks_draw_their_own_changes_by_their_seeds_and_keep_one_model(tmp_path: Path):
    processes.spawn(processes_of, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    own, same = ([rank[kind] for rank in ranks] for kind in ("own", "same"))
    assert torch.allclose(same[0]["moved"], same[1]["moved"], atol=1e-6)  # what must not happen
    assert (own[0]["moved"] - own[1]["moved"]).abs().min() > 1e-4
    for pair in (own, same):
        assert torch.equal(pair[0]["weights"], pair[1]["weights"])
    assert not torch.allclose(own[0]["weights"], same[0]["weights"])
