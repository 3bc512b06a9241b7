"""Several processes that train one model: exchange gradients once per window, and average numbers over processes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, final, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@runtime_checkable
class DefersSync(Protocol):
    """A model that can postpone the exchange of gradients, as DistributedDataParallel does."""

    def no_sync(self) -> AbstractContextManager[Any]:
        """Return a context in which forward and backward exchange nothing."""


@final
class Peers:
    """The processes that train this model together; for a model without DistributedDataParallel, this process alone.

    Args:
        model: a DistributedDataParallel, a module that contains one (as ``torch.compile`` makes it), or another module.

    Raises:
        NotImplementedError: a sharded model (FSDP), whose window this class cannot exchange.
    """

    def __init__(self, model: nn.Module) -> None:
        _refuse_shards(model)
        modules: list[Any] = list(model.modules())
        self._ddp = next((m for m in modules if isinstance(m, DistributedDataParallel)), None)
        self._defers_sync = self._ddp or next((m for m in modules if isinstance(m, DefersSync)), None)

    def sync_context(self, *, last: bool) -> AbstractContextManager[Any]:
        """Return the context for a micro-batch's forward and backward: it exchanges gradients only in the last one."""
        return nullcontext() if self._defers_sync is None or last else self._defers_sync.no_sync()

    def mean(self, *numbers: float) -> list[float]:
        """Return the mean of each number over the processes."""
        if self._ddp is None:
            return list(numbers)
        summed = torch.tensor(numbers, dtype=torch.float64, device=next(self._ddp.parameters()).device)
        dist.all_reduce(summed, group=self._ddp.process_group)
        return [float(x) / dist.get_world_size(self._ddp.process_group) for x in summed]

    @torch.no_grad()
    def exchange_late(self) -> None:
        """Average the gradients of a window that was ended after its last backward pass.

        DistributedDataParallel averages during the last backward pass, but has to know beforehand that it is the last.
        A parameter without a gradient in all processes keeps none.
        """
        if self._ddp is None:
            return
        group, params = self._ddp.process_group, [p for p in self._ddp.parameters() if p.requires_grad]
        used = torch.tensor([p.grad is not None for p in params], dtype=torch.int32, device=params[0].device)
        dist.all_reduce(used, group=group)
        for p, count in zip(params, used.tolist(), strict=True):
            if count:
                gradient: Tensor = torch.zeros_like(p) if p.grad is None else p.grad
                dist.all_reduce(gradient, group=group)
                p.grad = gradient.div_(dist.get_world_size(group))


def _refuse_shards(model: nn.Module) -> None:
    """Raise NotImplementedError if the model is sharded (FSDP).

    The Stepper's own norm, for optimizers that are not gradstep's, adds up what this process holds; and a window whose
    end is known only later (``exchange_late``) needs more of FSDP than it promises.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel  # slow to import, and seldom needed

    if any(isinstance(module, (FSDPModule, FullyShardedDataParallel)) for module in model.modules()):
        raise NotImplementedError(
            "the Stepper does not know sharded models (FSDP): the gradient norm would be that of one process's shard. "
            "Use DistributedDataParallel, or torch's own sequence: with fully_shard, a gradstep optimizer's "
            "step(max_grad_norm=...) clips by the norm over all processes; with FullyShardedDataParallel, the model's "
            "sharded clip_grad_norm_ before step() does"
        )
