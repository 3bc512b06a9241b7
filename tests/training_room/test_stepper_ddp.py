"""Two processes with different amounts of data are one process with all of it."""

import os
import sys
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import gradstep
from tests.training import normal

SIZES = [((5, 1, 2), (1, 7, 3)), ((2, 2, 4), (6, 1, 1)), ((3, 1), (2, 5))]
"""Items per window, process and micro-batch; the last window is not full."""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()


class Wrapped(nn.Module):
    """Passes everything on to the module that it holds, as torch.compile's wrapper does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x)


def batch(window: int, rank: int, part: int) -> torch.Tensor:
    return normal(SIZES[window][rank][part], 3, seed=100 * window + 10 * rank + part, dtype=torch.float64)


def loss_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = (model(x) - x.sum(1, keepdim=True).sin()).square().mean()
    return loss


def train(rank: int, file: str, announced: bool) -> None:
    """One of the two processes; process 0 writes what came out."""
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    model: nn.Module = nn.parallel.DistributedDataParallel(network())
    if announced:
        model = Wrapped(model)
    optimizer: Any = gradstep.AdamW(model.parameters(), lr=0.1)
    stepper = gradstep.Stepper(model, optimizer, accumulate=3, max_grad_norm=0.5)
    told, local = [], []
    for window, sizes in enumerate(SIZES):
        outcome = None
        for part in range(len(sizes[rank])):
            x = batch(window, rank, part)
            with stepper.autocast(last=announced and part == len(sizes[rank]) - 1):
                loss = loss_of(model, x)
            outcome = stepper.backward(loss, weight=len(x))
            if part == 0:
                local.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        outcome = outcome or stepper.finish()
        assert outcome is not None
        told.append((outcome.loss, outcome.grad_norm, outcome.weight))
    torch.save((told, local, [p.detach() for p in model.parameters()]), f"{file}.{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("announced", [True, False], ids=["announced", "finished late"])
def test_two_processes_equal_one(announced, tmp_path):
    file = str(tmp_path / "meeting")
    code = f"from tests.training_room.test_stepper_ddp import train; train({{}}, {file!r}, {announced})"
    run: list[Any] = [sys.executable, "-c"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [Popen([*run, code.format(r)], cwd=Path(__file__).parents[2], env=environment) for r in (0, 1)]
    assert [process.wait(timeout=200) for process in both] == [0, 0]
    (told, local, first), (told_too, local_too, second) = (torch.load(f"{file}.{r}", weights_only=True) for r in (0, 1))

    model = network()
    optimizer: Any = gradstep.AdamW(model.parameters(), lr=0.1)
    for window in range(len(SIZES)):
        parts = range(len(SIZES[window][0]))
        x = torch.cat([batch(window, rank, part) for rank in (0, 1) for part in parts])
        loss = loss_of(model, x)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        expected = (loss.item(), norm.item(), len(x) / 2)
        assert told[window] == told_too[window] == pytest.approx(expected, rel=1e-12)
        # In the window's first micro-batch nothing was exchanged.
        assert not any(torch.equal(a, b) for a, b in zip(local[window], local_too[window], strict=True))
    for p, q, r in zip(model.parameters(), first, second, strict=True):
        torch.testing.assert_close(q, p.detach(), rtol=1e-12, atol=1e-12)
        assert torch.equal(q, r)
