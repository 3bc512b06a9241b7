"""Checkpoints of several processes: one file with the random generators of each; shards are refused."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch.distributed as dist
from torch import nn

from gradstep.optimizers.memory import is_distributed
from gradstep.training.random_state import random_state, restore_random_state
from gradstep.warn import warn_user


def own_rank() -> int:
    """Return this process's rank among all; 0 without others."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def refuse_shards(parts: Mapping[str, Any], what: str) -> None:
    """Refuse to do ``what`` with a checkpoint's model or optimizer of which this process has only a part.

    Raises:
        ValueError: naming the part, and what saves it.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # before anybody has imported it nothing is sharded by it
    for name, part in parts.items():
        optimizers = part.optimizers if name == "stepper" else [part] if name == "optimizer" else []
        params = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        wrapped = False
        if isinstance(part, nn.Module):
            params = list(part.parameters())
            wrapped = fsdp is not None and any(isinstance(m, fsdp.FullyShardedDataParallel) for m in part.modules())
        if wrapped or any(map(is_distributed, params)):
            raise ValueError(
                f"the {name} is sharded, and cannot be {what} here: this process has its own shards only. Use "
                "torch.distributed.checkpoint with get_state_dict and set_state_dict, which know the other processes"
            )


def save_in_first(group: Any, content: dict[str, Any], save: Callable[[], None]) -> None:
    """Save in the first process of a group, after ``"ranks"``, the generators of each, were added to the content.

    Raises:
        RuntimeError: the first process could not save; it has the error itself.
    """
    states: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(states, (dist.get_rank(), random_state()), group=group)
    content["ranks"] = dict(states)
    first, errors = dist.get_rank(group) == 0, [""]
    failure: Exception | None = None
    if first:
        try:
            save()
        except Exception as error:
            failure, errors = error, [f"{type(error).__name__}: {error}"]
    dist.broadcast_object_list(errors, src=dist.get_global_rank(group, 0), group=group)
    if failure is not None:
        raise failure
    if errors[0]:
        raise RuntimeError(f"the first process of the group could not save the checkpoint: {errors[0]}")


def restore_of_rank(content: Mapping[str, Any]) -> None:
    """Set the random generators to those that a checkpoint has of this process; warn if it has none."""
    rank = own_rank()
    states = content.get("ranks") or {content.get("rank", rank): content["random"]}
    if rank in states:
        restore_random_state(states[rank])
        return
    warn_user(
        f"the checkpoint has the random generators of rank {', '.join(map(str, states))}, and this is rank {rank}: "
        "they stay as they are. Save in all processes with process_group=torch.distributed.group.WORLD to keep each's"
    )
