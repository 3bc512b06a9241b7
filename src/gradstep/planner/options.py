"""The options of a plan, from plain float32 on, and the combinations that are possible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from gradstep.planner.parameters import ITEMSIZES
from gradstep.planner.request import Request
from gradstep.planner.sharding import BY_ROWS, OTHER_NAMES, SHARDINGS, Ranks
from gradstep.storage.policy import STATES, Pages, check_choice, check_precision, describe_state

ROUNDINGS = ("master", "kahan", "stochastic", "nearest")

OPTIONS: Mapping[str, tuple[Any, ...]] = {
    "params": tuple(ITEMSIZES),
    "rounding": ROUNDINGS,
    "paged": (False, True),
    "state": tuple(STATES),
    "sharding": SHARDINGS,
}
"""The options, the most important first; the values of each from the least deviation from plain float32 on."""


@final
@dataclass(frozen=True)
class Choice:
    """One combination of options.

    Attributes:
        params: type of the weights; None keeps the model's types.
        rounding: how an update of half-precision weights is rounded.
        paged: whether state is outside the device: on disk, or for GPUs in the host's memory. A folder, or
            :class:`gradstep.Pages` with one, becomes its path as text.
        state: how state is stored.
        sharding: how data parallel ranks share the work; ``"zero3"`` becomes ``"fsdp2"``.
        gradients: type of the gradients; None takes that of the weights.
    """

    params: str | None = None
    rounding: str = "nearest"
    paged: bool | str | Path | Pages = False
    state: str = "float32"
    sharding: str = "ddp"
    gradients: str | None = None

    def __post_init__(self) -> None:
        for name, allowed in {**OPTIONS, "gradients": tuple(ITEMSIZES)}.items():
            value = vars(self)[name]
            if name == "paged":
                pages = Pages.of(value, None)
                value = pages is not None and (pages.folder is None or str(pages.folder))
            elif name == "rounding" or name == "sharding":
                value = OTHER_NAMES.get(value, value) if name == "sharding" else value
                check_choice(name, value, allowed)
            elif value is not None or name == "state":
                value = check_precision(name, value, allowed)
            object.__setattr__(self, name, value)

    def refuse(self, request: Request) -> str | None:
        """Return why this combination is impossible, or None."""
        model, rule, gpus, ranks = request.model, request.rule, request.gpus, request.ranks
        if self.rounding != "nearest" and not any(p.is_half for p in model.cast(self.params).trainable):
            return f"rounding={self.rounding!r} is for bfloat16 or float16 weights, and there are none"
        if self.sharding != "ddp" and ranks.data < 2:
            least = 2 * ranks.tensor
            return (
                f"sharding={self.sharding!r} needs two data parallel ranks: give ranks={least} or more, or gpus={least}"
            )
        if self.sharding == "hsdp" and not 1 < ranks.replicas < ranks.data:
            return (
                "sharding='hsdp' needs replicas=, the number of copies of the shards: 2 or more, "
                f"with two of the {ranks.data} data parallel ranks or more for each"
            )
        if self.sharding == "zero1" and ranks.tensor > 1:
            return "sharding='zero1' (ZeroRedundancyOptimizer) is not for tensor parallelism: take sharding='fsdp2'"
        if isinstance(self.paged, str) and gpus:
            return f"paged={self.paged!r} is for the CPU: with GPUs give paged=True, which pages to the host's memory"
        if self.sharding in BY_ROWS or ranks.tensor > 1:  # the parameters are DTensors
            how = f"sharding={self.sharding!r}" if ranks.tensor == 1 else f"tensor_parallel={ranks.tensor}"
            if self.paged:
                return f"paged state holds whole parameters, and {how} divides them: take paged=False, or zero1"
        stateless = not any(rule.slots(len(p.shape)) for p in model.trainable)
        if stateless and (self.paged or self.state != "float32"):
            return f"{type(rule).__name__} as set here keeps no state that could be stored otherwise"
        return None


def check_replicas(ranks: Ranks, sharding: str) -> None:
    """Raise ValueError for copies of shards with another sharding than ``"hsdp"``, which would ignore them."""
    if ranks.replicas > 1 and sharding != "hsdp":
        raise ValueError(f"replicas={ranks.replicas} is for sharding='hsdp', and not for {sharding!r}")


def describe_choice(choice: Choice) -> str:
    """Return a combination in words.

    >>> describe_choice(Choice("bfloat16", "kahan", state="8bit"))
    'bfloat16 weights with Kahan compensation, 8-bit state'
    """
    rounding = {
        "nearest": "" if choice.params in (None, "float32") else " rounded to nearest",
        "stochastic": " rounded stochastically",
        "kahan": " with Kahan compensation",
        "master": " with a float32 master copy",
    }[choice.rounding]
    weights = f"{choice.params} weights" if choice.params else "weights as they are"
    words = [weights + rounding, f"{describe_state(choice.state)} state"]
    if choice.paged:
        words.append("paged")
    if choice.sharding != "ddp":
        words.append(choice.sharding)
    return ", ".join(words)
