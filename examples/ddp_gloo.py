"""DistributedDataParallel: two processes on one machine, which exchange gradients once per update.

    python examples/ddp_gloo.py

Each process takes every second micro-batch. The Stepper keeps DistributedDataParallel from exchanging gradients
before the window's end, and divides by the weight that all processes had together. Every process makes the same
update, so each keeps the whole optimizer state, and any one of them can write the checkpoint.
"""

import os
import tempfile
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
from recipe import ACCUMULATE, LR, MAX_GRAD_NORM, SCHEDULE, WEIGHT_DECAY, gpt, loader
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

import gradstep

PROCESSES = 2


def train(rank: int, folder: str) -> None:
    """What one process does; the first one writes the losses and the weights into the folder."""
    torch.set_num_threads(1)
    meeting = Path(folder, "meeting").as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=PROCESSES)
    model = DistributedDataParallel(gpt())
    optimizer = gradstep.AdamW(gradstep.param_groups(model, weight_decay=WEIGHT_DECAY), lr=LR)
    stepper = gradstep.Stepper(
        model, optimizer, schedule=SCHEDULE, accumulate=ACCUMULATE // PROCESSES, max_grad_norm=MAX_GRAD_NORM
    )
    losses = []
    for batch in islice(loader(), rank, None, PROCESSES):
        with stepper.autocast():
            loss = model(**batch)["loss"]
        outcome = stepper.backward(loss, weight=batch["labels"][:, 1:].numel())
        if outcome is not None:
            losses.append(outcome.loss)  # the mean over all processes
    if rank == 0:
        torch.save({"losses": losses, "model": model.module.state_dict()}, Path(folder, "result.pt"))
    dist.destroy_process_group()


def run() -> dict[str, object]:
    """Start the processes, wait for them, and give what the first one wrote."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # on one machine; leave it out on several
    with tempfile.TemporaryDirectory() as folder:
        spawn(train, args=(folder,), nprocs=PROCESSES)
        result: dict[str, object] = torch.load(Path(folder, "result.pt"), weights_only=True)
    return result


if __name__ == "__main__":
    losses = run()["losses"]
    assert isinstance(losses, list)
    for update, loss in enumerate(losses):
        print(f"update {update:2}  loss {loss:.4f}")
