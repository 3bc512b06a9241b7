"""Train an example on each process of torchrun, stop in the middle and go on, and write the weights into a folder.

Every process gets the same micro-batches, so that the mean of all gradients has the bits of one process's. A third
model is trained with other micro-batches on each.
"""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

import gradstep

EXAMPLES = Path(__file__).parents[2] / "examples"
HALF = 12
FEW = 4
RANKS, RANK = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
STATES = ("float32", "8bit")
Models = tuple[nn.Module, nn.Module, nn.Module]
"""Trained to the end; stopped in the middle and gone on with; trained on other data in each process."""


def repeated(recipe: Any, size: int) -> list[Any]:
    """The recipe's blocks, each run of ``size`` as often as there are processes, which take turns."""
    blocks = recipe.dataset()
    return [b for k in range(0, len(blocks), size) for _ in range(RANKS) for b in blocks[k : k + size]]


def trainer(recipe: Any, state: Any, folder: str) -> Models:
    client = importlib.import_module("huggingface_trainer")

    def make(model: Any, **arguments: Any) -> Any:
        made = client.trainer(model, folder, **arguments)
        made.optimizer_cls_and_kwargs[1]["state"] = state
        made.train_dataset = repeated(recipe, recipe.BATCH)
        return made

    whole, second, shared = client.gpt2(), client.gpt2(), client.gpt2()
    make(whole, save_strategy="steps", save_steps=HALF).train()
    make(second).train(resume_from_checkpoint=f"{folder}/checkpoint-{HALF}")
    own = make(shared, max_steps=FEW)
    own.train_dataset = recipe.dataset()
    own.train()
    return whole, second, shared


def accelerate(recipe: Any, state: Any, folder: str) -> Models:
    client = importlib.import_module("huggingface_accelerate")
    blocks: Any = repeated(recipe, recipe.BATCH)
    data = DataLoader(blocks, recipe.BATCH)
    whole, half, second, shared = (recipe.gpt() for _ in range(4))
    client.train(whole, data=data, state=state)
    client.train(half, HALF, data=data, save=folder, state=state)
    client.train(second, data=data, load=folder, state=state)
    client.train(shared, FEW, state=state)
    return whole, second, shared


def lightning(recipe: Any, state: Any, folder: str) -> Models:
    from lightning.pytorch.callbacks import ModelCheckpoint

    client = importlib.import_module("lightning_module")
    keep = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    whole, second, shared = (client.Lit(recipe.gpt(), state=state) for _ in range(3))
    data: Any = repeated(recipe, 1)[: HALF * recipe.ACCUMULATE * recipe.BATCH * RANKS]
    batches = DataLoader(data, recipe.BATCH, sampler=DistributedSampler(data, RANKS, RANK, shuffle=False))
    client.trainer(enable_checkpointing=True, callbacks=[keep], max_epochs=2).fit(whole, batches)
    client.trainer(max_epochs=2).fit(second, batches, ckpt_path=f"{folder}/epoch=0.ckpt")
    client.trainer(max_steps=FEW).fit(shared, recipe.loader())
    return whole, second, shared


def fsdp2_switch(recipe: Any, state: Any, folder: str) -> Models:
    """FSDP2 as Accelerate prepares it (on GPUs only): it shards the model, then replaces the optimizer's parameters."""
    import torch.distributed as dist
    from accelerate.utils.fsdp_utils import fsdp2_switch_optimizer_parameters
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    if RANKS > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")

    def train(batches: list[Any]) -> nn.Module:
        model = recipe.gpt()
        optimizer = gradstep.AdamW(gradstep.param_groups(model), lr=recipe.LR, state=state)
        if RANKS > 1:
            old = {name: p.data_ptr() for name, p in model.named_parameters()}
            for group in optimizer.param_groups:  # as Accelerator.prepare does
                for k, p in enumerate(group["params"]):
                    group["params"][k] = torch.empty(1)
                    group["params"][k].data_ptr = p.data_ptr()
            fully_shard(model)
            fsdp2_switch_optimizer_parameters(optimizer, {old[name]: p for name, p in model.named_parameters()})
        for batch in batches:
            model(**batch)["loss"].backward()
            optimizer.step(max_grad_norm=recipe.MAX_GRAD_NORM)
            optimizer.zero_grad()
        return nn.ParameterList(p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters())

    batches = list(recipe.loader())[:HALF]
    whole = train(batches)
    return whole, whole, train(batches[RANK::RANKS])


CLIENTS: dict[str, Callable[[Any, str, str], Models]] = {
    "transformers": trainer,
    "accelerate": accelerate,
    "lightning": lightning,
    "accelerate's FSDP2": fsdp2_switch,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.path.insert(0, str(EXAMPLES))
    recipe = importlib.import_module("recipe")
    client, folder = sys.argv[1:]
    weights = {}
    for state in STATES:
        models = CLIENTS[client](recipe, state, f"{folder}/{RANKS} {state}")
        weights[state] = [[p.detach().clone() for p in model.parameters()] for model in models]
    torch.save(weights, f"{folder}/{RANKS} {RANK}.pt")
