"""Optimizers around an optimizer: a trainer's wrapper, or a ``ZeroRedundancyOptimizer`` with several ranks."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, NoReturn, Protocol, final, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from gradstep.engines.base import ANOTHER_FAILED, Batch, Ranks
from gradstep.optimizers.arguments import parameter_names


@runtime_checkable
class Wrapper(Protocol):
    """A trainer's wrapper around an optimizer, as Lightning and Accelerate have one."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer inside; only its step count is the number of updates that were made."""


def innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return the optimizer inside all wrappers of trainers.

    An object with hooks of its own was made as an optimizer and is returned itself: Lookahead moves weights too.

    Raises:
        TypeError: neither an optimizer nor a wrapper of one.
    """
    if not isinstance(optimizer, (torch.optim.Optimizer, Wrapper)):
        raise TypeError(f"an optimizer, or a trainer's wrapper of one, is needed here, not {optimizer!r}")
    while "_optimizer_step_pre_hooks" not in vars(optimizer) and isinstance(optimizer, Wrapper):
        optimizer = optimizer.optimizer
    return optimizer


@final
class ZeroRanks(Ranks):
    """The ranks among which a ``ZeroRedundancyOptimizer`` divides the parameters of the optimizer around this one.

    It gives each local optimizer some of the parameters of each group, sorted by size, but the group's ``param_names``
    and ``embeddings`` of all of them, and every setting of the optimizer as a setting of each group. Names, marks and
    positions are therefore read from the ``ZeroRedundancyOptimizer``.

    Args:
        outer: the ``ZeroRedundancyOptimizer``.
    """

    def __init__(self, outer: Any) -> None:
        self._outer = outer

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "the local optimizer of a ZeroRedundancyOptimizer cannot be copied or pickled: that one has the names of "
            "its parameters, and the ranks of its norm; call consolidate_state_dict(), and copy the state_dict()"
        )

    @property
    def groups(self) -> Sequence[Mapping[str, Any]]:
        """The groups with the parameters of all ranks."""
        groups: Sequence[Mapping[str, Any]] = self._outer.param_groups
        return groups

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The settings that it fills into every group."""
        defaults: Mapping[str, Any] = self._outer.defaults
        return defaults

    def describe(self, groups: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the groups of the local optimizer with the names and marks of their own parameters.

        A ``"state"`` that is the setting of all groups is left out: it is no choice for this group.
        """
        described = []
        for index, (group, every) in enumerate(zip(groups, self.groups, strict=False)):
            position = {id(p): k for k, p in enumerate(every["params"])}
            places = [position[id(p)] for p in group["params"]]
            names, marks = parameter_names(every, index), every.get("embeddings") or ()
            own = {key: value for key, value in group.items() if key != "embeddings"}
            own["param_names"] = [names[k] for k in places]
            if len(marks) == len(position):
                own["embeddings"] = [marks[k] for k in places]
            if "state" in self._outer.defaults and own.get("state") == self._outer.defaults["state"]:
                del own["state"]
            described.append(own)
        return described

    # -- the other ranks ----------------------------------------------------------------------------------------

    def fail(self, *, measured: bool) -> None:
        if measured:
            self._exchange(0.0, "sum", failed=True)

    def agree(self, batches: Sequence[Batch]) -> None:
        """Do nothing: without a norm, no step of these ranks exchanges anything."""

    def combine(
        self,
        batches: Sequence[Batch],
        values: Sequence[float],
        how: Literal["sum", "max"],
        settings: Sequence[float] | None = None,
    ) -> float:
        del batches, settings  # each rank has whole parameters, and no part of another's
        value = sum(values) if how == "sum" else max(values, default=-math.inf)
        total, failures = self._exchange(value, how, failed=False)
        if failures:
            raise RuntimeError(ANOTHER_FAILED)
        return total

    def first_name(self, name: str | None) -> str:
        names: list[Any] = [None] * dist.get_world_size(self._outer.process_group)
        dist.all_gather_object(names, name, group=self._outer.process_group)
        order = list(chain.from_iterable(map(parameter_names, self.groups, range(len(self.groups)))))
        return str(min((found for found in names if found is not None), key=order.index))

    def combine_statistics(self, batches: Sequence[Batch]) -> None:
        """Do nothing: each rank has the statistics of its own parameters, which no other rank updates."""

    def _exchange(self, value: float, how: Literal["sum", "max"], *, failed: bool) -> list[float]:
        device = next(p.device for group in self.groups for p in group["params"])
        numbers = torch.tensor([value, float(failed)], dtype=torch.float64, device=device)
        operation = dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX
        dist.all_reduce(numbers, operation, group=self._outer.process_group)
        result: list[float] = numbers.tolist()
        return result


def find_zero_ranks(params: Any) -> ZeroRanks | None:
    """Return the ranks of the ``ZeroRedundancyOptimizer`` that is making a local optimizer of these groups; else None.

    It gives its local optimizer no sign of itself. But it is a caller of the constructor, and has these parameters.

    Raises:
        ValueError: a setting that would be kept in its groups, and so in its checkpoints, and must not.
    """
    # Before anybody has imported the class there is no instance of it, and importing it takes time.
    module: Any = sys.modules.get("torch.distributed.optim")
    if module is None or not isinstance(params, list):
        return None
    frame = inspect.currentframe()
    while frame is not None:
        # Only torch's own frames are read: before Python 3.13, f_locals keeps all local values of a function alive
        # until it returns, also those that it has deleted.
        is_torch = frame.f_globals.get("__name__") == module.ZeroRedundancyOptimizer.__module__
        outer = frame.f_locals.get("self") if is_torch else None
        if isinstance(outer, module.ZeroRedundancyOptimizer) and _has_all(outer, params):
            if outer.defaults.get("model") is not None:
                raise ValueError(
                    "ZeroRedundancyOptimizer keeps every setting in its groups, and would save model= in checkpoints: "
                    "give groups of gradstep.param_groups(model), which know the embeddings, in place of model="
                )
            return ZeroRanks(outer)
        frame = frame.f_back
    return None


def _has_all(outer: Any, groups: Sequence[Any]) -> bool:
    own = {id(p) for group in outer.param_groups for p in group["params"]}
    return all(
        isinstance(group, dict) and all(isinstance(p, Tensor) and id(p) in own for p in group["params"])
        for group in groups
    )
