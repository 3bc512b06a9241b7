"""Flat shards of FSDP1 and DeepSpeed: one-dimensional pieces of many parameters, whose shapes are lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

from gradstep.engines.base import Batch, Ranks
from gradstep.optimizers.state.storage import Storage
from gradstep.rules import Rule


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
