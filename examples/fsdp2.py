"""FSDP2: a sharded model with 8-bit state, and a checkpoint from which any number of processes goes on.

    torchrun --nproc_per_node 2 examples/fsdp2.py checkpoints --updates 12
    torchrun --nproc_per_node 4 examples/fsdp2.py checkpoints

Each process has a part of every parameter and of its state, and takes its part of every batch. The first command stops
in the middle; the second loads the checkpoint with four processes and trains to the end.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from recipe import ACCUMULATE, BATCH, GPT, LR, MAX_GRAD_NORM, SCHEDULE, UPDATES, WEIGHT_DECAY, dataset
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

import gradstep


def train(folder: Path, updates: int) -> None:
    """Train up to so many updates, from the newest checkpoint in the folder if there is one, and write one there."""
    torch.manual_seed(0)
    model: Any = GPT(width=256, heads=4)  # 8-bit state of shards needs rows that are a multiple of 256 long
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    optimizer = gradstep.AdamW(gradstep.param_groups(model, weight_decay=WEIGHT_DECAY), lr=LR, state="8bit")
    scheduler = gradstep.Scheduler(optimizer, lr=SCHEDULE, planned_updates=UPDATES)
    done = max((int(path.name) for path in folder.glob("*")), default=0)
    if done:
        weights, state = get_state_dict(model, optimizer)
        saved: dict[str, Any] = {"model": weights, "optimizer": state, "scheduler": scheduler.state_dict()}
        state_dict_loader.load(saved, checkpoint_id=folder / str(done))
        set_state_dict(model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
    for update, batch in enumerate(DataLoader(dataset(), batch_size=ACCUMULATE * BATCH)):
        if done <= update < updates:
            own = {name: rows[dist.get_rank() :: dist.get_world_size()] for name, rows in batch.items()}
            loss = model(**own)["loss"]
            loss.backward()
            optimizer.step(max_grad_norm=MAX_GRAD_NORM)  # the norm of all processes' gradients
            scheduler.step()
            optimizer.zero_grad()
            dist.all_reduce(loss.detach_())
            if dist.get_rank() == 0:
                print(f"update {update:2}  loss {loss.item() / dist.get_world_size():.4f}", flush=True)
    if done < updates:
        weights, state = get_state_dict(model, optimizer)
        saved = {"model": weights, "optimizer": state, "scheduler": scheduler.state_dict()}
        state_dict_saver.save(saved, checkpoint_id=folder / str(updates))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", default=Path("checkpoints"))
    parser.add_argument("--updates", type=int, default=UPDATES)
    arguments = parser.parse_args()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # on one machine; leave it out on several
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as meeting:
        alone: dict[str, Any] = {"init_method": Path(meeting, "store").as_uri(), "rank": 0, "world_size": 1}
        dist.init_process_group("gloo", **({} if "RANK" in os.environ else alone))
    train(arguments.folder, arguments.updates)
    dist.destroy_process_group()
