"""Flat shards of FSDP1 and DeepSpeed: one-dimensional pieces of many parameters, whose shapes are lost."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor

from gradstep.engines.base import Batch, Ranks
from gradstep.optimizers.state.storage import Storage
from gradstep.rules import Rule


def holds_flat_shards(groups: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether parameters are flat shards: those of FSDP1 or of DeepSpeed's ZeRO.

    FSDP1 gives an optimizer its ``FlatParameter``, or, with ``use_orig_params=True``, one-dimensional views into it.
    DeepSpeed puts one flat partition into each group.

    >>> import torch
    >>> holds_flat_shards([{"params": [torch.zeros(3)]}])
    False
    """
    params = [p for group in groups for p in group["params"]]
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # who has not imported it has no shards of it
    if fsdp is not None and _are_of_fsdp(params, fsdp.FlatParameter):
        return True
    flat = all(len(group["params"]) == 1 and group["params"][0].dim() == 1 for group in groups)
    return bool(params) and flat and "deepspeed" in sys.modules


def _are_of_fsdp(params: Sequence[Tensor], flat_class: type[Tensor]) -> bool:
    """Return whether one of the parameters is a ``FlatParameter``, or a part of one that exists."""
    if any(isinstance(p, flat_class) for p in params):
        return True
    parts = {
        p.untyped_storage().data_ptr()
        for p in params
        if type(p) is torch.nn.Parameter and p.dim() == 1 and p.untyped_storage().nbytes() > p.nbytes
    }
    if not parts:
        return False
    # Nothing leads from a part to its FlatParameter, and a part alone is a view like any other. Looking at all objects
    # takes some tens of milliseconds, once for a table. Their types are asked, since isinstance() asks the objects, and
    # some (proxies of dead objects, deprecated names) answer with an error or a warning.
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.nn.Parameter)]
    return any(isinstance(p, flat_class) and p.untyped_storage().data_ptr() in parts for p in tensors)


def check_flat_shards(storage: Storage, rules: Sequence[Rule], groups: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what goes by the shapes of parameters, for flat shards.

    Raises:
        ValueError: state with fewer bits than float32, or a rule that computes with rows and columns.
    """
    for rule, group in zip(rules, groups, strict=True):
        state = storage.state_of(group)
        if state != "float32" or not rule.elementwise:
            what = f"{type(rule).__name__} goes" if state == "float32" else f"state={state!r} goes"
            raise ValueError(
                f"{what} by the shapes of parameters, and these are flat shards, which have lost them (FSDP1, "
                "DeepSpeed): shard the model with torch.distributed.fsdp.fully_shard, which keeps them, or take "
                "state='float32' and an elementwise rule such as AdamW"
            )


@final
class FlatShards(Ranks):
    """The ranks of flat shards, which this process does not know: it cannot take a norm over all of them."""

    def fail(self, *, measured: bool) -> None:
        """Do nothing: no step of these ranks exchanges anything."""

    def agree(self, batches: Sequence[Batch]) -> None:
        """Do nothing, as above."""

    def combine(self, batches: Sequence[Batch], values: Sequence[float], how: Literal["sum", "max"]) -> float:
        if how == "sum":
            raise RuntimeError(
                "these parameters are flat shards (FSDP1, DeepSpeed), so that the norm would be that of this rank's "
                "shards only, and nothing was changed: call the model's clip_grad_norm_() before step(), without "
                "max_grad_norm= and grad_scale="
            )
        return max(values, default=0.0)

    def first_name(self, name: str | None) -> str:
        return str(name)

    def combine_statistics(self, batches: Sequence[Batch]) -> None:
        """Do nothing: the statistics are of this rank's shards."""
