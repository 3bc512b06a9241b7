"""Ranks that are killed under torchrun: it starts all of them again, and training goes on bit for bit."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradstep
from gradstep.optimizers.step.table import Table
from tests.children import ROOT

STEPS = 8
PLACES = ["forward", "backward", "step", "save"]
"""Where a rank is killed, once each: in mid-step some of its state is new and some old."""

RESTARTS = 4 * len(PLACES)
"""At most. A start may fail, or wait in vain, since gloo at times finds the port of the start before."""


def kill(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def prepare_to_die(place: str, model: Any) -> None:
    """Make the next forward pass, backward pass, step or checkpoint kill this process."""
    if place == "forward":
        model.register_forward_hook(kill)
    elif place == "backward":
        model.module[0].weight.register_hook(kill)
    elif place == "step":
        update = Table.update
        mock.patch.object(Table, "update", lambda table, batch: kill(update(table, batch))).start()
    else:
        mock.patch("os.replace", kill).start()


def train(folder: Path, kills: bool) -> None:
    """One rank: each start resumes the last checkpoint; in its second step a rank may be killed."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=20))
    torch.set_num_threads(1)
    rank, start = dist.get_rank(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    torch.manual_seed(rank)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 128), nn.Dropout(0.3), nn.Linear(128, 64)))
    # Pages of a start that was killed in mid-step are refused, so each start has new ones.
    optimizer = gradstep.AdamW(model.parameters(), lr=1e-2, state="8bit", paged=folder / f"pages-{start}")
    file = folder / "run.pt"
    done = gradstep.load_checkpoint(file, model=model, optimizer=optimizer)["done"] if file.exists() else 0
    place = next((place for place in PLACES if kills and not (folder / place).exists()), "")
    victim = 0 if place == "save" else PLACES.index(place) % 2 if place else None  # the first rank saves
    for step in range(done, STEPS):
        if step == done + 1 and rank == victim:
            (folder / place).touch()
            prepare_to_die(place, model)
        optimizer.zero_grad()
        model(torch.randn(4, 64)).square().mean().backward()
        optimizer.step(max_grad_norm=0.5)
        everyone = dist.group.WORLD
        gradstep.save_checkpoint(file, model=model, optimizer=optimizer, process_group=everyone, done=step + 1)
    if rank == 0:
        torch.save((model.state_dict(), optimizer.state_dict(), start), folder / "result.pt")
    dist.barrier()
    dist.destroy_process_group()


def arrays(state: Any) -> Iterator[torch.Tensor]:
    """Every tensor of a state dictionary; 8-bit state has its codes and scales in dictionaries of their own."""
    for value in state.values():
        yield from arrays(value) if isinstance(value, dict) else [value]


def result(folder: Path, *, kills: bool) -> Any:
    folder.mkdir()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, f"--max-restarts={RESTARTS}", "-m", "tests.distributed.test_restarts", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    run = subprocess.run(
        [*command, str(int(kills))], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=500
    )
    assert run.returncode == 0, run.stderr[-5000:]
    return torch.load(folder / "result.pt", weights_only=True)


@pytest.mark.slow
def test_killed_ranks_go_on_bit_for_bit(tmp_path):
    model, optimizer, starts = result(tmp_path / "killed", kills=True)
    expected, other, once = result(tmp_path / "whole", kills=False)
    assert starts >= len(PLACES)
    assert {place.name for place in (tmp_path / "killed").iterdir()} >= set(PLACES)
    assert once == 0
    assert all(torch.equal(model[name], value) for name, value in expected.items())
    assert all(map(torch.equal, arrays(optimizer["state"]), arrays(other["state"])))
    assert len(list(arrays(optimizer["state"]))) == 2 * 5 + 2 * 3  # matrices have codes and scales


if __name__ == "__main__":
    train(Path(sys.argv[1]), kills=sys.argv[2] == "1")
